"""Scores, and how far to trust them."""

from __future__ import annotations

import json
import re
from collections import Counter
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


def span_f1(tags: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> float:
    """F1 of whole mentions, boundaries and label both right, over all sentences (Tjong Kim Sang and De Meulder 2003).

    Args:
        tags: the predicted tags of each sentence in the scheme BIO: ``"B-PLACE"``, ``"I-PLACE"``, ``"O"``.
        references: the right tags, as many.

    Raises:
        ValueError: not as many sentences, or tags in a sentence, as references.
    """
    if [len(row) for row in tags] != [len(row) for row in references]:
        raise ValueError(
            f"{len(tags)} tagged sentences and {len(references)} references do not fit: every token needs one tag in both"
        )
    from seqeval.metrics import f1_score

    # seqeval warns, and calls the score 0, where neither side has a mention; so do we, without the warning.
    return float(f1_score(list(map(list, references)), list(map(list, tags)), zero_division=0))


def bleu(texts: Sequence[str], references: Sequence[str], lang: str) -> float:
    """Corpus BLEU from 0 to 100 (Papineni and others 2002) by sacrebleu; Chinese is split into characters.

    Raises:
        ValueError: not as many texts as references, or none.
    """
    if len(texts) != len(references) or not texts:
        raise ValueError(f"{len(texts)} texts and {len(references)} references: they must be as many, and one at least")
    import sacrebleu

    return sacrebleu.corpus_bleu(list(texts), [list(references)], tokenize="zh" if lang == "zh" else "13a").score


def exact_match(answer: str, reference: str) -> bool:
    """Whether two answers are the same but for case, spaces and the punctuation around them."""
    return _plain(answer) == _plain(reference)


def token_f1(answer: str, reference: str) -> float:
    """F1 of the words of two answers, of the characters in Chinese (Rajpurkar and others 2016, arXiv 1606.05250)."""
    mine, theirs = (
        Counter(re.findall(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+", _plain(text))) for text in (answer, reference)
    )
    shared = (mine & theirs).total()
    return 2 * shared / (mine.total() + theirs.total()) if shared else 0.0


def _plain(text: str) -> str:
    """Lower case, single spaces, no punctuation at the ends."""
    return " ".join(re.sub(r"^\W+|\W+$", "", text.lower()).split())


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


def bootstrap_seeds(
    scores: Any, others: Any = None, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean and percentile interval of a score that must hold for other seeds and other items: ``(mean, low, high)``.

    Seeds and items are both drawn anew. Questions that share a wording are no independent items: give means by wording.

    Args:
        scores: of one system, (seeds, items).
        others: of another, (seeds, items): the interval is then that of ``scores`` minus ``others``, for which the same items
            are drawn (paired), and seeds for each by themselves. The numbers of seeds may differ.

    Raises:
        ValueError: not two axes, nothing in them, or other items.
    """
    import numpy as np

    tables = [np.asarray(table, dtype=float) for table in (scores, others) if table is not None]
    shapes = [table.shape for table in tables]
    if any(len(shape) != 2 or 0 in shape or shape[1] != shapes[0][-1] for shape in shapes):
        raise ValueError(
            f"scores are (seeds, items), with the same items for both systems: got {' and '.join(map(str, shapes))}"
        )
    rng, means = np.random.default_rng(seed), []
    for _ in range(resamples):
        items = rng.integers(0, shapes[0][1], shapes[0][1])
        drawn = [table[rng.integers(0, len(table), len(table))].mean(axis=0)[items].mean() for table in tables]
        means.append(drawn[0] - sum(drawn[1:]))
    middle = tables[0].mean() - sum(table.mean() for table in tables[1:])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(middle), float(low), float(high)
