"""start(), T() and the doctor, as a learner meets them."""

import hashlib
import importlib
import json
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import demo_course
import tunelab
from tunelab import T, current, doctor, paths, session, start

PACKAGE_ROOT = str(Path(tunelab.__file__).parents[1])


@pytest.fixture(autouse=True)
def course(tmp_path, monkeypatch):
    return demo_course.install(tmp_path, monkeypatch)


def run_python(code: str, **environment: str) -> str:
    """Run code in a fresh interpreter that has none of our switches set; return what it printed."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "OMP_", "GOMP_", "TOKENIZERS_"))
    }
    clean |= {"PYTHONPATH": PACKAGE_ROOT, "PYTHONIOENCODING": "utf-8", "MPLBACKEND": "agg"} | environment
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def begin_in(course: Path) -> str:
    lessons = str(course / "lessons")
    return f"from pathlib import Path; from tunelab import paths, start; paths.ROOTS['lessons'] = Path({lessons!r}); "


def test_importing_the_package_loads_nothing_heavy():
    heavy = ["torch", "transformers", "datasets", "matplotlib", "numpy", "IPython"]
    printed = run_python(f"import sys, tunelab; dir(tunelab); print([name for name in {heavy} if name in sys.modules])")
    assert printed.strip() == "[]"


def test_every_exported_name_is_the_function_even_after_its_module_was_imported():
    importlib.import_module("tunelab._doctor")
    assert all(callable(getattr(tunelab, name)) for name in tunelab.__all__)
    with pytest.raises(AttributeError, match="claim"):
        _ = tunelab.clam


def test_start_sets_every_switch_before_the_libraries_read_them(course):
    printed = run_python(
        begin_in(course)
        + "import os; start('01', 'en'); import torch, huggingface_hub.constants as hub, datasets.config as data;"
        "start('01', 'en');"
        "print(torch.get_num_threads(), hub.HF_HUB_OFFLINE, data.HF_HUB_OFFLINE, os.environ['GOMP_SPINCOUNT'])"
    ).splitlines()
    line = "Lesson 01 · Demo lesson · English · profile tiny (cpu, 1 thread, offline)"
    assert printed == [line, line, "1 True True 0"]  # and no note: running the cell again is harmless


def test_start_says_so_when_it_comes_too_late_and_keeps_the_learners_threads(course):
    imports = "import huggingface_hub, torch, os; "
    printed = run_python(
        imports + begin_in(course) + "start('01', 'en'); print(torch.get_num_threads(), os.environ['OMP_NUM_THREADS'])",
        OMP_NUM_THREADS="2,1",
    ).splitlines()
    assert "2 threads" in printed[0]
    assert printed[1].startswith("Note: torch, huggingface_hub was imported before start()")
    assert printed[2] == "2 2,1"


def test_wrong_arguments_name_what_exists():
    with pytest.raises(ValueError, match=r"'07'.*01_demo, 02_other"):
        start("07", "en")
    with pytest.raises(ValueError, match=r"'fr'.*'en', 'zh'"):
        start("01", "fr")
    with pytest.raises(ValueError, match=r"'huge'.*'tiny', 'gpu'"):
        start("01", "en", profile="huge")
    with pytest.raises(RuntimeError, match=r"start\('01', 'en'\)"):
        current()


def test_profile_gpu_needs_cuda_and_is_chosen_by_itself_only_on_colab(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"tiny models on the CPU.*Runtime > Change runtime type"):
        start("01", "en", profile="gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    assert (start("01", "en").profile, current().device) == ("tiny", "cpu")
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    assert (start("01", "en").profile, current().device) == ("gpu", "cuda")
    assert (
        os.environ["HF_HUB_OFFLINE"] == session._LEARNERS_OFFLINE
    )  # the hub is open again, if the learner had it open
    assert start("01", "en", profile="tiny").profile == "tiny"


def test_the_seed_makes_python_numpy_and_torch_repeat():
    def draw(seed: int) -> tuple[float, float, float]:
        start("01", "en", seed=seed)
        return random.random(), np.random.rand(), torch.rand(1).item()

    first = draw(3)
    assert draw(3) == first
    assert all(a != b for a, b in zip(draw(4), first, strict=True))


def test_named_harmless_warnings_are_hidden_and_all_others_stay():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        start("01", "en")
        seen.clear()
        warnings.warn("`is_gradient_checkpointing` is deprecated and will be removed", FutureWarning, stacklevel=1)
        warnings.warn("the loss is nan", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["the loss is nan"]


def test_texts_come_in_the_readers_language_and_a_missing_one_is_named():
    start("01", "zh")
    assert T("loss") == T(en="loss", zh="损失") == "损失"
    with pytest.raises(LookupError, match=r"01_demo\.toml has no \[labels\.los\]; \[labels\] holds loss, half"):
        T("los")
    with pytest.raises(LookupError, match=r"\[labels\.half\.zh\]"):
        T("half")
    with pytest.raises(TypeError, match="both texts"):
        T(en="only one")


def test_a_lesson_without_its_texts_does_not_begin(course):
    (course / "lessons" / "03_empty.toml").write_text("[labels]\n", encoding="utf-8")
    running = start("01", "en")
    with pytest.raises(LookupError, match=r"03_empty\.toml has no \[title\]"):
        start("03", "en")
    assert current() is running


def test_the_doctor_finds_a_damaged_file_and_says_what_to_do(course, monkeypatch, capsys):
    assets = course / "assets"
    model = assets / "models" / "base"
    model.mkdir(parents=True)
    (assets / "data").mkdir()
    (assets / "data" / "places.jsonl").touch()
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "training.json").write_text(json.dumps({"sha256": hashlib.sha256(b"weights").hexdigest()}))
    monkeypatch.setitem(paths.ROOTS, "assets", assets)
    doctor()
    assert "✓  data and models" in capsys.readouterr().out
    (model / "model.safetensors").write_bytes(b"damaged")
    assert doctor("zh") == False  # noqa: E712 - a silent bool, see tunelab.display
    row = next(line for line in capsys.readouterr().out.splitlines() if "模型" in line)
    assert row.startswith("✗") and "0/1 个模型: base" in row and "git checkout assets" in row


def test_course_files_are_found_in_a_wheel_too(tmp_path):
    (tmp_path / "tunelab" / "_course").mkdir(parents=True)
    copy = tmp_path / "tunelab" / "paths.py"
    copy.write_text(Path(paths.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    code = f"import runpy; found = runpy.run_path({str(copy)!r}); "
    code += "print(found['CHECKOUT'], found['course_file']('assets', 'a'))"
    assert run_python(code).split() == ["None", str(tmp_path / "tunelab" / "_course" / "assets" / "a")]
    with pytest.raises(ValueError, match="assets, lessons, checks"):
        paths.course_file("data", "a.jsonl")


def test_freed_memory_goes_back_to_the_system_where_glibc_would_keep_it():
    kept = 'import ctypes, sys; sys.exit(0 if hasattr(ctypes.CDLL(None), "malloc_trim") else 3)'
    if not sys.platform.startswith("linux") or subprocess.run([sys.executable, "-c", kept]).returncode:
        pytest.skip("no glibc")
    code = (
        "import psutil; from tunelab import session\n"
        "used = lambda: psutil.Process().memory_info().rss / 1e6\n"
        "blocks = [bytes(50_000) for _ in range(6000)]; pin = bytes(50_000); high = used(); del blocks; kept = used()\n"
        "session.trim_memory(); print(high, kept, used())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    high, kept, left = map(float, done.stdout.split())
    assert high - kept < 150, "glibc returns it unasked: the call is not needed any more"
    assert high - left > 200


def test_without_glibc_nothing_happens(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(session.ctypes, "CDLL", missing)
    session.trim_memory()
