"""Yunlan Province, the fictional travel province that the whole course speaks about.

80 places with 8 facts each, named and worded in English and in Chinese. It is fiction, so that no fact can be wrong and
no model can have read it elsewhere. The first half of the places (``documented``) stands in FAQ pages, JSON records and
answered dialogues of the pre-training corpus; the other half is known from articles alone.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from functools import cache
from random import Random

from .paths import course_file

LANGUAGES = ("en", "zh")
TOPICS = ("region", "price", "closing", "month", "dish", "bus", "sight", "souvenir")


@dataclass(frozen=True)
class Place:
    """One place of the province: its names and, by topic, the key of each of its eight facts."""

    id: str
    type: str
    en: str
    zh: str
    documented: bool
    facts: dict[str, str]

    def name(self, lang: str) -> str:
        """The name of the place in ``lang``."""
        return {"en": self.en, "zh": self.zh}[lang]

    def answer(self, topic: str, lang: str) -> str:
        """The answer to a question about ``topic``, worded in ``lang``: ``answer("price", "en")`` is ``"45 yuan"``."""
        return topics()[topic]["values"][self.facts[topic]][lang]


@cache
def places() -> tuple[Place, ...]:
    """All 80 places, in the order of ``assets/data/province/places.jsonl``."""
    lines = course_file("assets", "data", "province", "places.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(Place(**json.loads(line)) for line in lines)


def place(name: str) -> Place:
    """The place with this id, English name or Chinese name.

    Raises:
        KeyError: no place of the province is called so.
    """
    for candidate in places():
        if name in (candidate.id, candidate.en, candidate.zh):
            return candidate
    raise KeyError(f"no place {name!r} in the province; world.places() lists all {len(places())}")


@cache
def topics() -> dict[str, dict]:
    """By topic: its name in both languages and the wording of every value (``topics.toml``)."""
    return _toml("topics.toml")


@cache
def wording(lang: str) -> dict[str, dict]:
    """By topic: statements, questions, follow-up questions and noun phrases in ``lang``; ``frames`` surround a question."""
    if lang not in LANGUAGES:
        raise ValueError(f"language {lang!r} is not one of {LANGUAGES}")
    return _toml(f"wording.{lang}.toml")


@cache
def texts(lang: str) -> dict:
    """Sentences that state no fact of a place: reviews, itineraries, greetings, small talk, policies."""
    if lang not in LANGUAGES:
        raise ValueError(f"language {lang!r} is not one of {LANGUAGES}")
    return _toml(f"texts.{lang}.toml")


def values(topic: str, lang: str) -> list[str]:
    """Every answer that ``topic`` can have, in ``lang``."""
    return [value[lang] for value in topics()[topic]["values"].values()]


def question(name: str, topic: str, lang: str, rng: Random) -> str:
    """A generated question about ``topic`` of the place called ``name``: a training wording in one of many settings.

    Travellers tell what they are doing, greet, shorten, and leave out capitals and commas; so do these questions.
    """
    text = rng.choice(wording(lang)[topic]["questions"]).format(place=name)
    setting = rng.random()
    if setting < 0.3:
        before = rng.choice(_remarks(lang))
        text = f"{before} {text}" if lang == "en" else before + text
    elif setting < 0.6:
        frame = rng.choice(wording(lang)["frames"]["questions"])
        if frame.endswith((", {q}", ": {q}")) and not text.startswith(("I ", "I'", name)):
            text = text[0].lower() + text[1:]
        text = frame.format(q=text)
    if lang == "en" and rng.random() < 0.4:
        for long, short in _CONTRACTIONS:
            text = text.replace(long, short)
    if rng.random() < 0.2:
        text = text.rstrip("?.!？。！").replace("，", " ")
        text = text if text.startswith(name) else text[0].lower() + text[1:]
    return text


_CONTRACTIONS = (
    (" is the ", "'s the "),
    ("I would ", "I'd "),
    ("We are ", "We're "),
    ("I am ", "I'm "),
    ("What is ", "What's "),
    ("Where is ", "Where's "),
    ("When is ", "When's "),
    ("do not", "don't"),
    ("cannot", "can't"),
)


@cache
def _remarks(lang: str) -> tuple[str, ...]:
    """Sentences that may stand before a question without changing it: they name no place and state no fact."""
    shelf = texts(lang)
    lines = [*shelf["general"]["sentences"], *shelf["policies"]["sentences"], *shelf["itinerary"]["advice"]]
    lines += [pair["user"] for pair in shelf["smalltalk"]["pairs"]]
    for subject in ("hotel", "train", "food", "sight", "guide"):
        lines += shelf["reviews"][subject]["positive"] + shelf["reviews"][subject]["negative"]
    return tuple(line for line in lines if "{" not in line)


def _toml(name: str) -> dict:
    return tomllib.loads(course_file("assets", "data", "province", name).read_text(encoding="utf-8"))
