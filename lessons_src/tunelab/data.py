"""Datasets of the course: `load(task, lang, split)`, or the learner's own file with the same columns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from . import _generated, world
from ._files import PAIR, read_task
from .paths import course_file

if TYPE_CHECKING:
    from datasets import Dataset

#: By task: the file of the hand-written rows (``{lang}`` in its name), relative to assets/data.
FILES = {
    "questions": "questions/wordings.{lang}.jsonl",
    "reviews": "reviews/reviews.{lang}.jsonl",
    "entities": "entities/entities.{lang}.jsonl",
    "passages": "passages/passages.{lang}.jsonl",
    "passage_questions": "passages/questions.{lang}.jsonl",
    "dialogues": "dialogues/dialogues.{lang}.jsonl",
    "instructions": "instructions/instructions.{lang}.jsonl",
    "itineraries": "itineraries/itineraries.{lang}.jsonl",
    "tickets": "service/tickets.{lang}.jsonl",
    "profiles": "recommendation/profiles.{lang}.jsonl",
}
SPLITS = {
    "questions": ("train", "dev", "test"),
    "reviews": ("train", "dev", "test", "mixed", "generated"),
    "entities": ("train", "dev", "test"),
    "passages": ("dev", "test", "all"),
    "passage_questions": ("train", "dev", "test"),
    "dialogues": ("train", "dev", "test"),
    "instructions": ("train", "test"),
    "itineraries": ("train", "dev", "test"),
    "tickets": ("dev", "test"),
    "profiles": ("dev", "test"),
}
PLACES_PER_WORDING = 6  # of each hand-written wording: three places seen in fine-tuning, three never seen

#: The splits that are drawn with a seed; every other one is written by hand.
GENERATORS: dict[tuple[str, str], Callable[[Random, str], dict[str, Any]]] = {
    ("reviews", "generated"): _generated.review,
    ("entities", "train"): _generated.entities,
    ("passage_questions", "train"): _generated.passage_question,
    ("dialogues", "train"): _generated.dialogue,
    ("itineraries", "train"): _generated.itinerary,
}


def load(
    task: str,
    lang: str,
    split: str | None = None,
    *,
    path: str | Path | None = None,
    size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """One set of the course, or the learner's own with the same columns.

    Args:
        task: ``"questions"`` (to be answered in JSON), ``"reviews"`` (positive or negative), ``"entities"``, ``"passages"``
            and ``"passage_questions"`` (retrieval and extractive answers), ``"dialogues"``, ``"instructions"``,
            ``"itineraries"``, ``"tickets"`` (customer service), ``"profiles"`` (recommendation). The columns and how each
            part was made stand in assets/data/README.md.
        lang: ``"en"`` or ``"zh"``.
        split: one of ``SPLITS[task]``; by default the first. ``"test"`` and ``"dev"`` are written by hand.
        path: a CSV or JSONL file, read instead; its columns are those of ``tunelab._files.SCHEMAS[task]``. For questions
            ``question`` and ``response`` will do, the answer as it stands; then these are the only columns of the set.
        size: rows of a generated split (6,000 questions, else 1,000); of a hand-written one, the first so many.
        seed: of a generated split.

    Raises:
        ValueError: an unknown task, language or split; a file that cannot be used, with its row.
    """
    one_of("task", task, SPLITS)
    one_of("lang", lang, world.LANGUAGES)
    split = split or SPLITS[task][0]
    one_of("split", split, SPLITS[task])
    from datasets import Dataset

    if path is not None:
        rows = read_task(path, task, PAIR if task == "questions" else ())
        if task == "questions" and "response" not in rows[0]:
            rows = [{**row, "response": response(row["place"], row["topic"], row["answer"])} for row in rows]
    elif task == "questions":
        rows = _questions(lang, split, size or 6000, Random(f"{lang} {seed}"))
    elif (task, split) in GENERATORS:
        rng = Random(f"{task} {lang} {seed}")
        rows = [GENERATORS[task, split](rng, lang) for _ in range(size or 1000)]
    else:
        rows = _handwritten(task, lang, split)
    return Dataset.from_list(rows[:size])


def response(place: str, topic: str, answer: str) -> str:
    """The JSON text that the assistant is to answer with; keys and topics are the same in both languages."""
    return json.dumps({"place": place, "topic": topic, "answer": answer}, ensure_ascii=False)


def wordings(lang: str, split: str) -> list[dict[str, str]]:
    """The hand-written wordings of ``split``: ``{"id", "topic", "split", "wording"}`` with ``{place}`` as the slot."""
    return [row for row in _rows("questions", lang) if row["split"] == split]


def one_of(what: str, value: str, allowed: Any) -> None:
    """Raises a ValueError that lists what is allowed, where ``value`` is not."""
    if value not in allowed:
        raise ValueError(f"{what}={value!r} is not known; choose one of {', '.join(map(repr, allowed))}")


def _rows(task: str, lang: str) -> list[dict[str, Any]]:
    text = course_file("assets", "data", FILES[task].format(lang=lang)).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _handwritten(task: str, lang: str, split: str) -> list[dict[str, Any]]:
    rows = [row for row in _rows(task, lang) if split in (row["split"], "all")]
    if task == "passage_questions":
        texts = {row["id"]: row["text"] for row in _rows("passages", lang)}
        for row in rows:
            # An answer is looked for in one passage: that of the span, else the first that is relevant.
            source = row["answer"]["passage"] if row["answer"] else next(iter(row["passages"]), None)
            row["context"] = texts.get(source, "")
    elif task == "dialogues":
        for row in rows:
            row["expect"] = [_expected(item, lang) for item in row["expect"]]
    elif task == "profiles":
        # Every key in every row: a column of a Dataset has one type.
        keys = ("max_price", "month", "closes_after", "type", "region")
        for row in rows:
            row["filter"] = {key: row["filter"].get(key) for key in keys}
    return rows


def _expected(item: dict[str, str] | str | None, lang: str) -> dict[str, Any]:
    """What an answer of a dialogue must hold: the value of a fact, a refusal, or nothing in particular."""
    fact = item if isinstance(item, dict) else {}
    value = world.place(fact["place"]).answer(fact["topic"], lang) if fact else ""
    return {
        "place": fact.get("place", ""),
        "topic": fact.get("topic", ""),
        "value": value,
        "refuse": item == "refuse",
    }


def _questions(lang: str, split: str, size: int, rng: Random) -> list[dict[str, Any]]:
    halves = [[spot for spot in world.places() if spot.documented == seen] for seen in (True, False)]
    rows = []
    if split == "train":
        for _ in range(size):
            spot, topic = rng.choice(halves[0]), rng.choice(world.TOPICS)
            text = world.question(spot.name(lang), topic, lang, rng)
            rows.append(_question(spot, topic, text, lang, "generated"))
        return rows
    count = dict.fromkeys(world.TOPICS, 0)  # wordings so far; each topic walks through all places of a half in turn
    for item in wordings(lang, split):
        for half in halves:
            for _ in range(PLACES_PER_WORDING // 2):
                spot = half[(count[item["topic"]] + _) % len(half)]
                text = item["wording"].replace("{place}", spot.name(lang))
                rows.append(_question(spot, item["topic"], text, lang, item["id"]))
        count[item["topic"]] += PLACES_PER_WORDING // 2
    return rows


def _question(spot: world.Place, topic: str, question: str, lang: str, wording: str) -> dict[str, Any]:
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
