"""Models: what is shipped is checked before it is used, and a damaged file never becomes a strange result."""

import hashlib
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import tiny
from tunelab import models, paths, session
from tunelab.models import DamagedModelError


@pytest.fixture(autouse=True)
def no_session(monkeypatch):
    monkeypatch.setattr(session, "_current", None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model in the hub's layout."""
    folder = tmp_path_factory.mktemp("saved") / "small-base"
    tiny.model(seed=5).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def assets(tmp_path, monkeypatch, saved):
    """A course with one shipped model, registered as the scripts that make models do it."""
    (tmp_path / "models").mkdir()
    monkeypatch.setitem(paths.ROOTS, "assets", tmp_path)
    shipped = tmp_path / "models" / "small-base"
    shipped.mkdir()
    for file in saved.iterdir():
        (shipped / file.name).write_bytes(file.read_bytes())
    digest = hashlib.sha256((shipped / "model.safetensors").read_bytes()).hexdigest()
    models.register("small-base", {"path": "small-base", "sha256": digest})
    return tmp_path


def test_a_shipped_model_loads_with_its_tokenizer(assets):
    model, tokenizer = models.load_lm("small-base")
    expected = tiny.model(seed=5).state_dict()
    assert all(torch.equal(expected[name], value) for name, value in model.state_dict().items())
    assert model.dtype == torch.float32 and model.device.type == "cpu"
    text = "# Heron Lake\n白鹭湖的门票是20元。<|im_end|>"
    assert tokenizer(text)["input_ids"] == tiny.tokenizer()(text)["input_ids"]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.chat_template == tiny.tokenizer().chat_template
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (model.config.eos_token_id, model.config.pad_token_id)


def test_a_damaged_file_is_refused(assets):
    file = assets / "models" / "small-base" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # one bit
    file.write_bytes(content)
    with pytest.raises(DamagedModelError, match=r"small-base/model\.safetensors is damaged: SHA-256 .*git checkout"):
        models.load_lm("small-base")


def test_a_missing_file_is_refused(assets):
    (assets / "models" / "small-base" / "model.safetensors").unlink()
    with pytest.raises(DamagedModelError, match=r"small-base/model\.safetensors is missing; get it back with"):
        models.load_lm("small-base")


def test_an_unknown_name_lists_the_known_ones(assets, tmp_path):
    for name in ("big-base", str(tmp_path)):  # a folder without a model is no better
        with pytest.raises(ValueError, match=re.escape(f"model {name!r} is not in the registry (small-base), and no")):
            models.load_lm(name)


def test_a_folder_in_the_hubs_layout_loads(assets, saved):
    model, tokenizer = models.load_lm(str(saved))
    assert model.config.hidden_size == 32 and len(tokenizer) == len(tiny.tokenizer())


def test_register_keeps_the_other_entries(assets):
    before = models.registry()["small-base"]
    models.register("other", {"hub": "someone/other", "revision": "0" * 40})
    models.register("other", {"hub": "someone/else", "revision": "1" * 40})
    assert models.registry() == {"small-base": before, "other": {"hub": "someone/else", "revision": "1" * 40}}
    assert models.locate("other") == ("someone/else", {"revision": "1" * 40})


# ---- the real registry ----


def test_every_entry_is_shipped_with_a_hash_or_pinned_to_a_revision():
    known = models.registry()
    embedders = [name for by_language in models.DEFAULT_EMBEDDER.values() for name in by_language.values()]
    assert {*models.DEFAULT_LM.values(), *embedders} <= set(known)
    for name, entry in known.items():
        assert set(entry) <= {"hub", "revision", "path", "package", "folder", "sha256", "pooling", "settings"}, name
        if "hub" in entry:
            assert re.fullmatch(r"[0-9a-f]{40}", entry["revision"]), f"{name}: a branch or tag may move"
        if "path" in entry or "package" in entry:
            assert re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]), name


def test_the_shipped_base_is_the_published_one():
    models.locate("travel-base")  # raises where the hash differs
    digest = models.registry()["travel-base"]["sha256"]
    card = (paths.course_file("assets", "models", "travel-base") / "README.md").read_text(encoding="utf-8")
    facts = json.loads((paths.course_file("assets", "models", "travel-base") / "training.json").read_text("utf-8"))
    assert digest in card and facts["sha256"] == digest
    model, tokenizer = models.load_lm()
    assert 1_000_000 <= model.num_parameters() == facts["parameters"] <= 2_000_000
    assert model.config.vocab_size == facts["recipe"]["vocabulary"] == len(tokenizer)
    assert tokenizer.eos_token == "<|im_end|>"


@pytest.mark.parametrize(
    ("profile", "lang", "name"),
    [
        ("tiny", "en", "travel-encoder"),
        ("tiny", "zh", "travel-encoder"),
        ("gpu", "en", "minilm"),
        ("gpu", "zh", "bge-small-zh"),
    ],
)
def test_the_default_embedder_reads_the_sessions_language(monkeypatch, profile, lang, name):
    monkeypatch.setattr(session, "_current", SimpleNamespace(profile=profile, device="cpu", lang=lang))
    assert models.default_embedder() == name


def test_importing_the_module_loads_no_torch():
    code = "import sys, tunelab.models, tunelab.data, tunelab.chat, tunelab.training; print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"
