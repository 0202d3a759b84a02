"""Loading models: what ships is what was published, and a damaged file is refused."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from tunelab import models, paths


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of models of one's own, with a registered tiny model in it."""
    monkeypatch.setitem(paths.ROOTS, "assets", tmp_path)
    folder = tmp_path / "models" / "small"
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    models.register("small", {"path": "small", "sha256": digest})
    return folder


def test_the_shipped_base_is_the_published_one_and_loads():
    model, tokenizer = models.load_lm()
    assert 1_000_000 <= model.num_parameters() <= 2_000_000
    assert tokenizer.eos_token == "<|im_end|>" and len(tokenizer) == model.config.vocab_size
    folder = paths.course_file("assets", "models", "travel-base")
    card, facts = (folder / "README.md").read_text(encoding="utf-8"), json.loads((folder / "training.json").read_text())
    digest = models.registry()["travel-base"]["sha256"]
    assert digest == facts["sha256"] and digest in card


def test_a_registered_model_loads_and_so_does_a_folder(shelf):
    for name in ("small", str(shelf)):
        model, _ = models.load_lm(name)
        assert model.num_parameters() == tiny.model().num_parameters()


def test_a_damaged_or_missing_file_is_refused(shelf):
    weights = shelf / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(models.DamagedModelError, match="damaged: SHA-256 .*git checkout"):
        models.load_lm("small")
    weights.unlink()
    with pytest.raises(models.DamagedModelError, match="missing"):
        models.load_lm("small")


def test_an_unknown_name_is_refused_with_those_that_exist(shelf):
    with pytest.raises(ValueError, match=r"'large' is not in the registry \(small\)"):
        models.load_lm("large")


def test_models_on_the_hub_are_pinned():
    entries = [entry for entry in models.registry().values() if "hub" in entry]
    assert entries and all(re.fullmatch("[0-9a-f]{40}", entry["revision"]) for entry in entries)


def test_the_module_is_light():
    code = "import sys, tunelab.models, tunelab.data, tunelab.chat, tunelab.training; print('torch' in sys.modules)"
    folder = Path(models.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
