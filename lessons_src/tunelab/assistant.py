"""Retrieval and a language model as one assistant: find passages, put them before the question, let the model answer."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .adapters import ADAPTER_NAME, BASE, LanguageModel
from .session import LANGUAGES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .store import Hit, PassageStore

__all__ = ["BASE", "LanguageModel", "Settings", "SettingsError", "answer", "prompt", "retrieve"]

UNKNOWN = {"en": "I don't know.", "zh": "我不知道。"}
MAX_PROMPT_TOKENS = 512


class SettingsError(ValueError):
    """Settings that cannot be used; the message says which, and what to do."""


@dataclass(frozen=True)
class Settings:
    """How an assistant answers where nobody says otherwise: from which similarity on it knows, by language; by which adapter."""

    threshold: Mapping[str, float]
    adapter: str = BASE

    @classmethod
    def of(cls, threshold: Any = -1.0, adapter: Any = BASE) -> Settings:
        """Checked; ``threshold`` is one number from -1 to 1, or one for each language. Raises SettingsError."""
        each = threshold if isinstance(threshold, Mapping) else dict.fromkeys(LANGUAGES, threshold)
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and -1 <= v <= 1 for v in each.values())
        if set(each) != set(LANGUAGES) or not numbers:
            wanted = f"a number from -1 to 1, or one for each of {', '.join(LANGUAGES)}"
            raise SettingsError(f"threshold is {str(threshold)[:60]}, expected {wanted}")
        if not isinstance(adapter, str) or not re.fullmatch(ADAPTER_NAME, adapter):
            raise SettingsError(f"adapter is {str(adapter)[:60]!r}, expected 1 to 32 of a-z, 0-9, _ and -")
        return cls({lang: float(each[lang]) for lang in LANGUAGES}, adapter)

    @classmethod
    def load(cls, file: Path, **given: Any) -> Settings:
        """What is given (not None), else what stands in the JSON file, else the defaults. Raises SettingsError."""
        try:
            read = json.loads(file.read_text(encoding="utf-8-sig")) if file.exists() else {}
            if not isinstance(read, dict) or (extra := sorted(set(read) - {"threshold", "adapter"})):
                found = f"there is no {extra[0][:60]!r}" if isinstance(read, dict) else "it is no JSON object"
                raise SettingsError(f"{found}, expected threshold and adapter")
            kept = cls.of(**read)
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"{file.name} cannot be used: {error}. Correct the file, or delete it") from None
        return cls.of(**{**vars(kept), **{name: value for name, value in given.items() if value is not None}})

    def save(self, file: Path) -> None:
        """Writes them aside and renames: a reader finds the old settings or the new ones."""
        new = file.with_suffix(".new")
        new.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        os.replace(new, file)


def retrieve(
    store: PassageStore, question: str, lang: str | None = None, k: int = 1, threshold: float = -1.0
) -> list[Hit]:
    """The ``k`` passages nearest to the question, without those less similar than ``threshold``; best first."""
    return [hit for hit in store.search(question, k, lang=lang) if hit.score >= threshold]


def prompt(
    tokenizer: PreTrainedTokenizerBase, question: str, hits: Sequence[Hit], max_tokens: int = MAX_PROMPT_TOKENS
) -> tuple[str, list[Hit]]:
    """The user's turn: passages, then the question, a line each; and the hits whose text is in it.

    Passages and question are data: a special token inside them, such as ``<|im_end|>``, loses its meaning. The first
    passage is cut where it is too long; the others are left out where they do not fit.

    Raises:
        ValueError: the question alone has more than ``max_tokens`` tokens.
    """
    lines, used = [_defused(tokenizer, question)], []
    room = max_tokens - len(tokenizer(lines[0], verbose=False)["input_ids"])
    if room < 0:
        raise ValueError(f"the question has {max_tokens - room} tokens, the limit is {max_tokens}: shorten it")
    for hit in hits:
        text = _defused(tokenizer, hit.text) + "\n"
        ends = [end for _, end in tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]]
        if len(ends) > room and (used or room < 2):
            continue
        if len(ends) > room:
            text, ends = text[: ends[room - 2]].rstrip() + "\n", ends[:room]
        lines.insert(-1, text)
        used.append(hit)
        room -= len(ends)
    return "".join(lines), used


def answer(
    store: PassageStore,
    lm: LanguageModel,
    question: str,
    lang: str = "en",
    adapter: str = BASE,
    k: int = 1,
    threshold: float = -1.0,
) -> dict[str, Any]:
    """What the assistant says, and from which passages.

    With ``k=0`` the model answers alone. Else it answers from passages of the question's language, and where none is at
    least ``threshold`` similar it says that it does not know, without asking the model.

    Raises:
        UnknownAdapterError, ValueError: as :meth:`LanguageModel.generate` and :func:`prompt`.
    """
    lm.check(adapter)
    found = retrieve(store, question, lang, k) if k else []
    hits = [hit for hit in found if hit.score >= threshold]
    text, used = prompt(lm.tokenizer, question, hits)
    known = bool(hits) or k == 0
    said = lm.generate(text, adapter) if known else UNKNOWN[lang]
    sources = [{"id": h.id, "title": str(h.metadata.get("title", "")), "score": h.score, "text": h.text} for h in used]
    return {
        "answer": said,
        "known": known,
        "data": _json_object(said),
        "sources": sources,
        "score": found[0].score if found else None,
        "adapter": adapter,
        "language": lang,
    }


def _defused(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    for token in tokenizer.get_added_vocab():
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)  # NaN and 1e999 are no JSON
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
