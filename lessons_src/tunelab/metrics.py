"""Scores, and how far to trust them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FIELDS = ("place", "topic", "answer")


def score_json(replies: Sequence[str], references: Iterable[Mapping[str, Any]]) -> dict[str, list[bool]]:
    """Scores JSON answers one by one.

    Args:
        replies: what the model said.
        references: rows with place, topic and answer.

    Returns:
        a list of booleans, one an answer, for each of ``valid`` (a JSON object), ``place``, ``topic``, ``answer`` (that
        field is exactly right) and ``record`` (all three are).

    Raises:
        ValueError: not as many replies as references.
    """
    references = list(references)
    if len(replies) != len(references):
        raise ValueError(f"{len(replies)} replies and {len(references)} references: they must be as many")
    scores: dict[str, list[bool]] = {name: [] for name in ("valid", *FIELDS, "record")}
    for reply, reference in zip(replies, references, strict=True):
        parsed = parse_json(reply)
        scores["valid"].append(parsed is not None)
        right = [parsed is not None and parsed.get(name) == reference[name] for name in FIELDS]
        for name, value in zip(FIELDS, right, strict=True):
            scores[name].append(value)
        scores["record"].append(all(right))
    return scores


def parse_json(text: str) -> dict[str, Any] | None:
    """The JSON object that ``text`` is, or None."""
    try:
        parsed = json.loads(text)
    except json.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else None


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; of booleans, the share that is true."""
    if len(values) == 0:
        raise ValueError("the mean of no values is not defined: is a filter too strict?")
    return sum(values) / len(values)


def bootstrap(
    values: Sequence[float], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean and percentile bootstrap interval (Efron 1979): ``(mean, low, high)``.

    For a difference of two systems on the same items, give the differences item by item: the interval is then paired.
    """
    import numpy as np

    data = np.asarray(values, dtype=float)
    middle = mean(data)
    picks = np.random.default_rng(seed).integers(0, len(data), (resamples, len(data)))
    low, high = np.quantile(data[picks].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(middle), float(low), float(high)
