"""What a passage store holds, what it finds, and what it raises."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ID = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}"
KEY = r"[A-Za-z][A-Za-z0-9_]{0,63}"


class StoreError(RuntimeError):
    """The store cannot do what was asked; the message says why, and what to do."""


class StoreLockedError(StoreError):
    """Another process has the folder open."""


class StoreClosedError(StoreError):
    """The handle was closed, or a newer one took its folder over."""


class NoVectorError(ValueError):
    """A text that the embedding makes nothing of: no document can have it, and no search finds anything by it."""


@dataclass(frozen=True)
class Hit:
    """A passage that a search found; ``score`` is the cosine similarity, 1 at best."""

    id: str
    text: str
    metadata: dict[str, Any]
    score: float


def checked(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document of its own, once nothing is wrong with it."""
    extra = sorted(set(document) - {"id", "text", "metadata"})
    name, text, metadata = document.get("id"), document.get("text"), document.get("metadata") or {}
    if extra:
        raise ValueError(
            f"{', '.join(map(repr, extra))}: a document has id, text and metadata; put the rest into metadata"
        )
    if not isinstance(name, str) or not re.fullmatch(ID, name):
        raise ValueError(
            f"id {name!r}: expected 1 to 128 letters, digits and . _ : -, beginning with a letter or digit"
        )
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ValueError(f"{name}: text is {str(text)[:40]!r}, expected a text that is not empty and has no NUL")
    for key, value in metadata.items():
        if not re.fullmatch(KEY, str(key)):
            raise ValueError(f"{name}: metadata key {key!r}: expected letters, digits and _, beginning with a letter")
        if not isinstance(value, str | int | float | bool) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{name}: metadata {key}={value!r}: expected a text, a finite number, true or false")
    try:
        return json.loads(
            json.dumps({"id": name, "text": text, "metadata": dict(metadata)}, ensure_ascii=False).encode()
        )
    except UnicodeEncodeError:
        raise ValueError(
            f"{name}: half of a character pair (a surrogate) stands alone; decode the text again"
        ) from None
