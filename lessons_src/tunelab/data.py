"""Datasets of the course: `load(task, lang, split)`, or the learner's own file with the same columns."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from . import world
from .paths import course_file

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = {"questions": ("question", "place", "topic", "answer", "response")}
SPLITS = {"questions": ("train", "dev", "test")}
PLACES_PER_WORDING = 6  # of each hand-written wording: three places seen in fine-tuning, three never seen


def load(
    task: str, lang: str, split: str = "train", *, path: str | Path | None = None, size: int = 6000, seed: int = 0
) -> Dataset:
    """One set of the course, or the learner's own with the same columns.

    Args:
        task: ``"questions"``: questions of travellers, to be answered in JSON.
        lang: ``"en"`` or ``"zh"``.
        split: ``"train"`` is generated, about the documented places alone; ``"dev"`` and ``"test"`` are hand-written
            wordings, each asked about three documented and three undocumented places.
        path: a CSV or JSONL file with the same columns, read instead.
        size: rows of a generated split.
        seed: of a generated split.

    Returns:
        columns question, place, topic, answer, response (the JSON to learn); from the course's own sets also wording
        (its id) and documented (bool).

    Raises:
        ValueError: an unknown task, language or split; a file that cannot be used, with its row.
    """
    _one_of("task", task, COLUMNS)
    _one_of("lang", lang, world.LANGUAGES)
    _one_of("split", split, SPLITS[task])
    from datasets import Dataset

    if path is not None:
        rows = read(path, COLUMNS[task][:-1])
        rows = [{**row, "response": response(row["place"], row["topic"], row["answer"])} for row in rows]
    elif split == "train":
        rows = _generated(lang, size, Random(f"{lang} {seed}"))
    else:
        rows = _handwritten(lang, split)
    return Dataset.from_list(rows)


def response(place: str, topic: str, answer: str) -> str:
    """The JSON text that the assistant is to answer with; keys and topics are the same in both languages."""
    return json.dumps({"place": place, "topic": topic, "answer": answer}, ensure_ascii=False)


def wordings(lang: str, split: str) -> list[dict[str, str]]:
    """The hand-written wordings of ``split``: ``{"id", "topic", "split", "wording"}`` with ``{place}`` as the slot."""
    path = course_file("assets", "data", "questions", f"wordings.{lang}.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["split"] == split]


def read(path: str | Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV (with a header) or JSONL file that must have ``columns``, all of them text.

    A byte-order mark and Windows line endings are accepted.

    Raises:
        ValueError: names the file, the row and what was expected.
    """
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"{path.name}: the file type {path.suffix!r} is not known; save it as .csv or .jsonl")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path.name}, line {line}: not UTF-8 text; save the file again with the encoding UTF-8"
        ) from error
    if path.suffix.lower() == ".csv":
        # Row 1 is the header; the row of a record counts records, not the lines inside quoted fields.
        numbered = list(enumerate(csv.DictReader(io.StringIO(text)), start=2))
    else:
        numbered = []
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    numbered.append((number, json.loads(line)))
                except json.JSONDecodeError as error:
                    raise ValueError(
                        f"{path.name}, row {number}: not a JSON object ({error.msg}); one object a line"
                    ) from error
    if not numbered:
        raise ValueError(f"{path.name} has no rows; expected the columns {', '.join(columns)}")
    for number, row in numbered:
        if not isinstance(row, dict):
            raise ValueError(f"{path.name}, row {number}: expected an object with {', '.join(columns)}, found {row!r}")
        missing = [c for c in columns if not isinstance(row.get(c), str) or not row[c].strip()]
        if missing:
            raise ValueError(
                f"{path.name}, row {number}: no text in {', '.join(missing)}; its columns are {', '.join(map(str, row))}, "
                f"expected {', '.join(columns)}"
            )
    return [{c: row[c].strip() for c in columns} for _, row in numbered]


def _generated(lang: str, size: int, rng: Random) -> list[dict[str, Any]]:
    spots = [spot for spot in world.places() if spot.documented]
    rows = []
    for _ in range(size):
        spot, topic = rng.choice(spots), rng.choice(world.TOPICS)
        rows.append(_row(spot, topic, world.question(spot.name(lang), topic, lang, rng), lang, "generated"))
    return rows


def _handwritten(lang: str, split: str) -> list[dict[str, Any]]:
    halves = [[spot for spot in world.places() if spot.documented == seen] for seen in (True, False)]
    count = dict.fromkeys(world.TOPICS, 0)  # wordings so far; each topic walks through all places of a half in turn
    rows = []
    for item in wordings(lang, split):
        for half in halves:
            for _ in range(PLACES_PER_WORDING // 2):
                spot = half[(count[item["topic"]] + _) % len(half)]
                text = item["wording"].replace("{place}", spot.name(lang))
                rows.append(_row(spot, item["topic"], text, lang, item["id"]))
        count[item["topic"]] += PLACES_PER_WORDING // 2
    return rows


def _row(spot: world.Place, topic: str, question: str, lang: str, wording: str) -> dict[str, Any]:
    name, answer = spot.name(lang), spot.answer(topic, lang)
    return {
        "question": question,
        "place": name,
        "topic": topic,
        "answer": answer,
        "response": response(name, topic, answer),
        "wording": wording,
        "documented": spot.documented,
    }


def _one_of(what: str, value: str, allowed: Any) -> None:
    if value not in allowed:
        raise ValueError(f"{what}={value!r} is not known; choose one of {', '.join(map(repr, allowed))}")
