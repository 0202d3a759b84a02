"""Where the course's models come from: the repository offline, the hub at a pinned revision in the GPU profile."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .paths import course_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_LM = {"tiny": "travel-base", "gpu": "qwen2.5-0.5b-instruct"}

# AdamW's learning rate by profile and method. Those of tiny were chosen on the dev wordings (`python -m experiments.lesson_01 --sweep`),
# those of gpu are usual for a model of that size and unmeasured here.
RATES = {
    "tiny": {"full": 1.5e-3, "lora": 5e-3, "scratch": 3e-3},
    "gpu": {"full": 1e-5, "lora": 2e-4, "scratch": 3e-4},
}


class DamagedModelError(OSError):
    """A shipped file is not what was published."""


def registry() -> dict[str, dict[str, Any]]:
    """By name: ``path`` and ``sha256`` of a shipped model, or ``hub`` and ``revision`` of one on the hub."""
    return json.loads(course_file("assets", "models", "registry.json").read_text(encoding="utf-8"))


def load_lm(name: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, on the session's device, ready to be trained (fp32).

    Args:
        name: of the registry; by default ``travel-base``, and Qwen2.5-0.5B-Instruct in the GPU profile. A folder with
            a model in the hub's layout works too.

    Raises:
        ValueError: the name is neither in the registry nor a folder.
        DamagedModelError: the shipped weights do not have the published SHA-256.
    """
    from . import session

    profile, device = (session.current().profile, session.current().device) if session.has_begun() else ("tiny", "cpu")
    source, options = locate(name or DEFAULT_LM[profile])
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    model = AutoModelForCausalLM.from_pretrained(source, dtype="float32", **options)
    return model.to(device), tokenizer


def rate(method: str) -> float:
    """The tuned learning rate of ``"full"``, ``"lora"`` or ``"scratch"`` for the session's language model."""
    from . import session

    return RATES[session.current().profile][method]


def locate(name: str) -> tuple[str, dict[str, str]]:
    """What ``from_pretrained`` is to be called with for ``name``: a checked folder, or a hub id and its revision."""
    known = registry()
    if name not in known:
        if (Path(name) / "config.json").is_file():
            return name, {}
        raise ValueError(
            f"model {name!r} is not in the registry ({', '.join(known)}), and no folder with a config.json"
        )
    entry = known[name]
    if "hub" in entry:
        return entry["hub"], {"revision": entry["revision"]}
    folder = course_file("assets", "models", entry["path"])
    verify(folder / "model.safetensors", entry["sha256"])
    return str(folder), {}


def verify(path: Path, expected: str) -> None:
    """Compares the SHA-256 of a file with the published one.

    Raises:
        DamagedModelError: the file is missing or differs; the message says how to get it back.
    """
    again = (
        f"get it back with `git checkout -- {path.parent.name}` in assets/models, or make it anew with `make pretrain`"
    )
    if not path.is_file():
        raise DamagedModelError(f"{path.parent.name}/{path.name} is missing; {again}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise DamagedModelError(
            f"{path.parent.name}/{path.name} is damaged: SHA-256 {found[:12]}…, expected {expected[:12]}…; {again}"
        )


def register(name: str, entry: dict[str, Any]) -> None:
    """Adds or replaces one entry of the registry; called by the scripts that make models."""
    path = course_file("assets", "models", "registry.json")
    known = {**(registry() if path.is_file() else {}), name: entry}
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
