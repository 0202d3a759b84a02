"""A learner's own CSV or JSONL file, read with errors that name the row."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from . import world

#: By task: the columns that a file must have. Text, but for those in STRUCTURED.
SCHEMAS = {
    "questions": ("question", "place", "topic", "answer"),
    "reviews": ("text", "label"),
    "entities": ("text", "spans"),
    "passages": ("id", "title", "text"),
    "passage_questions": ("question", "passages"),
    "dialogues": ("messages",),
    "instructions": ("task", "instruction"),
    "itineraries": ("request", "plan"),
    "tickets": ("ticket", "policy", "outcome", "reply"),
    "profiles": ("profile", "liked", "relevant"),
}
PAIR = ("question", "response")  # what a file of questions may have instead: the text that is to be said, as it stands
INPUTS = {"questions": "question", "reviews": "text", "entities": "text", "passage_questions": "question"}
STRUCTURED = ("spans", "passages", "messages", "policy", "liked", "relevant")  # lists; in a CSV file, written as JSON
SENTIMENTS = ("positive", "negative")
ENTITIES = ("PLACE", "FOOD", "TRANSPORT", "TIME", "PRICE")
OUTCOMES = ("grant", "refuse", "answer", "handover")


def read_task(path: str | Path, task: str, instead: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The rows of a file with the columns of ``task``, or with ``instead`` where its first row has these alone; each checked.

    Warns of rows that are the same, and of inputs (``INPUTS``) that have different answers.

    Raises:
        ValueError: names the file, the row, what was found and what was expected.
    """
    path = Path(path)
    numbered = _read(path, SCHEMAS[task], instead)
    for number, row in numbered:
        try:
            _CHECKS.get(task, lambda row: None)(row)
        except ValueError as error:
            raise ValueError(f"{path.name}, row {number}: {error}") from None
    rows = [row for _, row in numbered]
    if task == "reviews" and len(classes := {row["label"] for row in rows}) == 1:
        raise ValueError(
            f"{path.name}: all {len(rows)} rows have the label {classes.pop()!r}; a classifier needs examples of "
            f"{' and of '.join(SENTIMENTS)}"
        )
    if task == "passages":
        _distinct(path, numbered)
    _warn_of_repeats(path, numbered, INPUTS.get(task))
    return rows


def read(path: str | Path, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of a CSV (with a header) or JSONL file that must have ``columns``: text, or lists for those in STRUCTURED.

    A byte-order mark and Windows line endings are accepted.

    Raises:
        ValueError: names the file, the row and what was expected.
    """
    return [row for _, row in _read(Path(path), columns)]


def _read(path: Path, columns: tuple[str, ...], instead: tuple[str, ...] = ()) -> list[tuple[int, dict[str, Any]]]:
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"{path.name}: the file type {path.suffix!r} is not known; save it as .csv or .jsonl")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a path from {Path.cwd()}, or an absolute one")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path.name}, line {line}: not UTF-8 text; save the file again with the encoding UTF-8"
        ) from error
    numbered = list(_csv_rows(text) if path.suffix.lower() == ".csv" else _json_rows(text, path.name))
    if not numbered:
        raise ValueError(f"{path.name} has no rows; expected the columns {', '.join(columns)}")
    first, other = numbered[0][1], f", or {', '.join(instead)}" if instead else ""
    if instead and isinstance(first, dict) and not set(instead) - set(first) and set(columns) - set(first):
        columns, other = instead, ""
    kept = []
    for number, row in numbered:
        if not isinstance(row, dict):
            raise ValueError(f"{path.name}, row {number}: expected an object with {', '.join(columns)}, found {row!r}")
        if any(map(str.strip, row.get(None, []))):  # where csv puts what is left of a line
            raise ValueError(
                f"{path.name}, row {number}: more fields than columns, left over {row[None]!r}; put a field with a comma "
                "in double quotes"
            )
        for column in (c for c in columns if c not in STRUCTURED):
            if row.get(column) is not None and not isinstance(row[column], str):
                raise ValueError(
                    f"{path.name}, row {number}: {column} is {row[column]!r}, expected text; write it in double quotes"
                )
        missing = [c for c in columns if c not in STRUCTURED and not (row.get(c) or "").strip()]
        missing += [c for c in columns if c in STRUCTURED and row.get(c) is None]
        if missing:
            raise ValueError(
                f"{path.name}, row {number}: no {'text' if set(missing) - set(STRUCTURED) else 'list'} in "
                f"{', '.join(missing)}; its columns are {', '.join(map(str, row))}, expected {', '.join(columns)}{other}"
            )
        # Offsets count from the first character of the text as it stands: where there are spans, nothing is stripped.
        bare = "spans" in columns
        kept.append(
            (
                number,
                {
                    c: _structure(row[c], c, path.name, number)
                    if c in STRUCTURED
                    else row[c]
                    if bare
                    else row[c].strip()
                    for c in columns
                },
            )
        )
    return kept


def _csv_rows(text: str) -> Iterable[tuple[int, dict[str, Any]]]:
    # Row 1 is the header; the row of a record counts records, not the lines inside quoted fields.
    return enumerate(csv.DictReader(io.StringIO(text)), start=2)


def _json_rows(text: str, name: str) -> Iterable[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{name}, row {number}: not a JSON object ({error.msg}); one object a line") from error


def _structure(value: Any, column: str, name: str, number: int) -> list[Any]:
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        parsed = value
    if not isinstance(parsed, list):
        raise ValueError(f"{name}, row {number}: {column} must be a list (in a CSV file, as JSON), found {value!r}")
    return parsed


def _known(what: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"the {what} {value!r} is not known; use one of {', '.join(allowed)}")


def _check_review(row: dict[str, Any]) -> None:
    _known("label", row["label"], SENTIMENTS)


def _check_entities(row: dict[str, Any]) -> None:
    text, before = row["text"], 0
    for span in row["spans"]:
        if not isinstance(span, dict) or not {"start", "end", "label"} <= set(span):
            raise ValueError(f"a span needs start, end and label, found {span!r}")
        start, end = span["start"], span["end"]
        _known("label", span["label"], ENTITIES)
        if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= len(text)):
            raise ValueError(
                f"the span {start!r}-{end!r} is outside its text of {len(text)} characters, or empty; start counts from 0, "
                "end is the position after the last character"
            )
        if start < before:
            raise ValueError(f"the span {start}-{end} begins before the one in front of it ends (at {before})")
        if text[start:end] != text[start:end].strip():
            raise ValueError(f"the span {start}-{end} begins or ends with a space: {text[start:end]!r}")
        before = end


def _check_dialogue(row: dict[str, Any]) -> None:
    messages = row["messages"]
    for number, message in enumerate(messages):
        role = ("user", "assistant")[number % 2]
        if not isinstance(message, dict) or message.get("role") != role:
            raise ValueError(
                f"message {number + 1} must have the role {role!r}: user and assistant take turns, found {message!r}"
            )
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            raise ValueError(f"message {number + 1} has no text in content")
    if not messages or len(messages) % 2:
        raise ValueError(f"{len(messages)} messages; a dialogue ends with an answer of the assistant")


def _check_instruction(row: dict[str, Any]) -> None:
    if row["instruction"].count("{input}") != 1:
        raise ValueError(f"an instruction has {{input}} in it once, found {row['instruction']!r}")


def _check_ticket(row: dict[str, Any]) -> None:
    _known("outcome", row["outcome"], OUTCOMES)


def _check_profile(row: dict[str, Any]) -> None:
    for name in (*row["liked"], *row["relevant"]):
        try:
            world.place(name)
        except KeyError as error:
            raise ValueError(error.args[0]) from None


def _distinct(path: Path, numbered: list[tuple[int, dict[str, Any]]]) -> None:
    first: dict[str, int] = {}
    for number, row in numbered:
        if (other := first.setdefault(row["id"], number)) != number:
            raise ValueError(f"{path.name}, row {number}: the id {row['id']!r} stands in row {other} too")


def _warn_of_repeats(path: Path, numbered: list[tuple[int, dict[str, Any]]], asked: str | None) -> None:
    first: dict[str, tuple[int, dict[str, Any]]] = {}
    same, different = [], []
    for number, row in numbered:
        earlier, other = first.setdefault(row[asked] if asked else repr(row), (number, row))
        if number != earlier:
            (same if row == other else different).append(f"{earlier} and {number}")
    for found, what in (
        (same, "are the same: each counts as often as it stands there; leave one, unless that is meant"),
        (different, f"have the same {asked} and different answers: a model cannot learn both; keep the right one"),
    ):
        if found:
            more = f" and {len(found) - 5} more pairs" if len(found) > 5 else ""
            warnings.warn(f"{path.name}: rows {'; '.join(found[:5])}{more} {what}", stacklevel=4)


_CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "reviews": _check_review,
    "entities": _check_entities,
    "dialogues": _check_dialogue,
    "instructions": _check_instruction,
    "tickets": _check_ticket,
    "profiles": _check_profile,
}
