"""The first line of every lesson: `start(lesson, lang)` sets threads, seeds, fonts and the offline switch."""

import ctypes
import gc
import os
import random
import sys
import tomllib
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunelab.paths import course_file

LANGUAGES = {"en": "English", "zh": "中文"}
PROFILES = ("tiny", "gpu")

# Read once, when OpenMP loads with torch. One thread is the fast choice here: two threads that share a busy core wait
# for each other in libgomp's spinning barriers; GOMP_SPINCOUNT=0 repairs most of that for whoever asks for more.
_THREAD_SWITCHES = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
_HUB_SWITCHES = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
_OFFLINE_SWITCHES = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
_HUB_LIBRARIES = ("transformers", "peft", "datasets", "huggingface_hub")
_LEARNERS_OFFLINE = os.environ.get("HF_HUB_OFFLINE", "")  # profile gpu goes back to what the learner had

# Every warning hidden by this course, with the reason. All others stay: many of them teach.
HARMLESS_WARNINGS = (
    # peft asks transformers through a name that transformers 6 will drop; nothing in a lesson depends on it.
    (r"`is_gradient_checkpointing` is deprecated", FutureWarning),
    # Trainer asks for pinned memory; without an accelerator there is nothing to pin, and nothing is lost.
    (r"'pin_memory' argument is set as true but no accelerator is found", UserWarning),
    # peft knows other models' norms by name, but not Qwen3's; it tunes and merges them all the same (lesson 04 checks it).
    (r"Unsupported layer type '.*RMSNorm'", UserWarning),
    # tqdm without ipywidgets: the progress bar is drawn as text instead.
    (r"IProgress not found", Warning),
)


@dataclass(frozen=True)
class Session:
    """What `start()` decided, and the lesson's texts in the reader's language."""

    lesson: str  # the file's stem, "01_pretraining_vs_finetuning"
    lang: str
    profile: str
    device: str  # "cpu" or "cuda"
    seed: int
    text: Mapping[str, Any]  # the parsed lesson .toml
    ledger: dict[str, Any] = field(default_factory=dict, repr=False)  # claims by name, kept by tunelab.claims

    def lookup(self, *keys: str) -> Any:
        """The entry of the lesson .toml under `keys`; LookupError names the file, the key and what exists there."""
        node: Any = self.text
        for depth, key in enumerate(keys):
            if not isinstance(node, Mapping) or key not in node:
                missing, where = ".".join(keys[: depth + 1]), f"[{'.'.join(keys[:depth])}]" if depth else "the file"
                there = ", ".join(node) if isinstance(node, Mapping) and node else "nothing"
                raise LookupError(f"{self.lesson}.toml has no [{missing}]; {where} holds {there}. Add the entry.")
            node = node[key]
        return node

    def say(self, *keys: str) -> str:
        """The text under `keys` in the session's language."""
        return self.lookup(*keys, self.lang)


_current: Session | None = None


def current() -> Session:
    """The running session; RuntimeError before `start()`."""
    if _current is None:
        raise RuntimeError(
            "No lesson is running. Run the notebook's first cell, or call start(lesson, lang): start('01', 'en')."
        )
    return _current


def has_begun() -> bool:
    """Whether `start()` has run."""
    return _current is not None


def language() -> str:
    """The session's language; English before there is one."""
    return _current.lang if _current else "en"


def start(lesson: str, lang: str, profile: str | None = None, seed: int = 0) -> Session:
    """Begin a lesson and print one line about it; calling it again is harmless.

    lesson: its number ("01") or its full name. lang: "en" or "zh". profile: "tiny" (CPU, offline) or "gpu" (Qwen from
    the hub); None takes gpu on Colab with CUDA and tiny everywhere else. Raises ValueError for an unknown lesson,
    language or profile, RuntimeError for "gpu" without CUDA.
    """
    global _current
    source = _lesson_file(lesson)
    if lang not in LANGUAGES:
        raise ValueError(
            f"lang={lang!r} is not a language of this course. Choose one of {', '.join(map(repr, LANGUAGES))}."
        )
    if profile not in (None, *PROFILES):
        raise ValueError(
            f"profile={profile!r} does not exist. Choose one of {', '.join(map(repr, PROFILES))}, or leave it out."
        )

    late = _export({name: os.environ.get(name, value) for name, value in _THREAD_SWITCHES.items()}, readers=("torch",))
    import torch  # not before: it reads the thread switches

    profile = profile or ("gpu" if _on_colab() and torch.cuda.is_available() else "tiny")
    if profile == "gpu" and not torch.cuda.is_available():
        raise RuntimeError(
            "profile='gpu' needs a CUDA device, and torch finds none. Leave profile out to go on with the tiny models "
            "on the CPU; on Colab choose Runtime > Change runtime type > GPU and run this cell again."
        )
    offline = _OFFLINE_SWITCHES if profile == "tiny" else {"HF_HUB_OFFLINE": _LEARNERS_OFFLINE}
    late += _export(_HUB_SWITCHES | offline, readers=_HUB_LIBRARIES)

    torch.set_num_threads(_threads())
    _seed_everything(seed)
    for message, category in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)

    device = "cuda" if profile == "gpu" else "cpu"
    begun = Session(source.stem, lang, profile, device, seed, tomllib.loads(source.read_text(encoding="utf-8")))
    if _current is not None and (_current.lesson, lang, profile) == (begun.lesson, _current.lang, _current.profile):
        begun.ledger.update(_current.ledger)  # the first cell was run again: its claims still stand
    greeting = _greeting(begun)  # may raise: a session with broken texts must not begin
    _current = begun

    from tunelab import figures  # not at the top: figures needs this module

    figures.use_course_style(lang)
    print(greeting)
    if late:
        print(_too_late(late))
    return begun


def T(key: str | None = None, /, *, en: str | None = None, zh: str | None = None) -> str:
    """A text in the session's language: `T("loss")` from the lesson .toml's [labels], or `T(en="loss", zh="损失")`."""
    if key is not None and en is None and zh is None:
        return current().say("labels", key)
    if key is None and en is not None and zh is not None:
        return {"en": en, "zh": zh}[current().lang]
    raise TypeError('T takes a label, T("loss"), or both texts, T(en="loss", zh="损失").')


def _lesson_file(lesson: str) -> Path:
    files = sorted(course_file("lessons").glob("[0-9][0-9]_*.toml"))
    matches = [file for file in files if lesson in (file.stem, file.stem[:2])]
    if not matches:
        known = ", ".join(file.stem for file in files) or f"none in {course_file('lessons')}"
        raise ValueError(
            f"lesson={lesson!r} does not exist. Give a number such as '01' or a full name. Lessons: {known}."
        )
    return matches[0]


def _export(switches: Mapping[str, str], readers: tuple[str, ...]) -> list[str]:
    """Set environment variables; return those `readers` that are already imported and may have missed a change."""
    changed = {name: value for name, value in switches.items() if os.environ.get(name, "") != value}
    os.environ.update(changed)
    return [name for name in readers if changed and name in sys.modules]


def _on_colab() -> bool:
    return "COLAB_RELEASE_TAG" in os.environ or "google.colab" in sys.modules


def _threads() -> int:
    """OMP_NUM_THREADS may be a list ("4,2": one number a nesting level); the first counts, anything else means one."""
    first = os.environ["OMP_NUM_THREADS"].split(",")[0].strip()
    return max(1, int(first)) if first.isdecimal() else 1


def _seed_everything(seed: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _greeting(session: Session) -> str:
    number, title, language = session.lesson[:2], session.say("title"), LANGUAGES[session.lang]
    threads, offline = _threads(), session.profile == "tiny"
    if session.lang == "zh":
        where = f"{session.device}，{threads} 线程" + "，离线" * offline
        return f"第 {number} 课 · {title} · {language} · 配置 {session.profile}（{where}）"
    where = f"{session.device}, {threads} thread" + "s" * (threads > 1) + ", offline" * offline
    return f"Lesson {number} · {title} · {language} · profile {session.profile} ({where})"


def _too_late(libraries: list[str]) -> str:
    names = ", ".join(libraries)
    return T(
        en=f"Note: {names} was imported before start(), so the thread limit or the offline switch may come too late. "
        "Restart the kernel and run start() first.",
        zh=f"注意：{names} 在 start() 之前已被导入，线程数或离线开关可能来不及生效。请重启内核，先运行 start()。",
    )


def trim_memory() -> None:
    """Gives freed memory back to the system. glibc keeps it, in pieces too small for the next training; others need no call."""
    gc.collect()
    with suppress(OSError, AttributeError):  # no glibc here
        ctypes.CDLL("libc.so.6").malloc_trim(0)
