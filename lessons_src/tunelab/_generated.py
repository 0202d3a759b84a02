"""Training sets that are drawn with a seed: one row a call. Test sets are written by hand, and are never made here.

Rows speak of the documented half of the places, and of made-up ones, so that a test about the other half is about places
that fine-tuning never showed.
"""

from __future__ import annotations

import tomllib
from functools import cache
from random import Random
from typing import Any

from . import corpus, world
from .paths import course_file


@cache
def templates(lang: str) -> dict[str, Any]:
    """The texts that the rows are filled from (assets/data/templates)."""
    return tomllib.loads(course_file("assets", "data", "templates", f"{lang}.toml").read_text(encoding="utf-8"))


def review(rng: Random, lang: str) -> dict[str, Any]:
    """``{"text", "label"}``: a review as the pre-training corpus writes them."""
    text, label = corpus.labelled_review(rng, lang)
    return {"text": text, "label": label}


def entities(rng: Random, lang: str) -> dict[str, Any]:
    """``{"text", "spans"}``: a sentence with its mentions, as flat character spans ``{"start", "end", "label"}``."""
    shelf = templates(lang)["entities"]
    fillers = {
        "place": lambda: _place(rng).name(lang) if rng.random() < 0.5 else corpus.made_up_name(rng, lang),
        "food": lambda: rng.choice([*world.values("dish", lang), *shelf["foods"]]),
        "transport": lambda: rng.choice([*world.values("bus", lang), *shelf["transports"]]),
        "time": lambda: rng.choice([*world.values("closing", lang), *world.values("month", lang), *shelf["times"]]),
        "price": lambda: rng.choice([*world.values("price", lang), *shelf["prices"]]),
    }
    text, spans, values = "", [], {}
    for piece in rng.choice(shelf["sentences"]).replace("}", "{").split("{"):
        kind = piece.rstrip("2")
        if kind not in fillers:
            text += piece
            continue
        # The same slot twice is the same mention twice.
        value = values.setdefault(piece, fillers[kind]())
        if text.endswith(("The ", "the ")) and value.startswith("the "):
            value = value.removeprefix("the ")
        start = len(text) + (4 if value.startswith("the ") else 0)  # an article is no part of a mention
        text += value if text else value[0].upper() + value[1:]
        spans.append({"start": start, "end": len(text), "label": kind.upper()})
    return {"text": text, "spans": spans}


def passage_question(rng: Random, lang: str) -> dict[str, Any]:
    """``{"question", "context", "passages", "kind", "answer"}``: a text about made-up places and a question about it.

    ``answer`` is ``{"passage": "", "start", "end", "text"}``, a span of ``context``.
    """
    names = [corpus.made_up_name(rng, lang) for _ in range(rng.choice((1, 2)))]
    facts = [(n, t, rng.choice(world.values(t, lang))) for n in names for t in rng.sample(world.TOPICS, 3)]
    rng.shuffle(facts)
    chosen, text, answer = rng.randrange(len(facts)), "", {}
    for number, (name, topic, value) in enumerate(facts):
        if text and lang == "en":
            text += " "
        sentence = corpus.statement(name, topic, value, lang, rng)
        if number == chosen:
            # A value that opens a sentence has a capital there.
            start = len(text) + sentence.lower().index(value.lower())
            answer = {"passage": "", "start": start, "end": start + len(value)}
        text += sentence
    answer["text"] = text[answer["start"] : answer["end"]]
    question = world.question(*facts[chosen][:2], lang, rng)
    return {"question": question, "context": text, "passages": [], "kind": "generated", "answer": answer}


def dialogue(rng: Random, lang: str) -> dict[str, Any]:
    """``{"messages", "expect"}``: two to four turns at the information desk, follow-ups and refusals among them."""
    shelf, spot, turns = templates(lang)["dialogues"], _place(rng), []
    for number, topic in enumerate(rng.sample(world.TOPICS, rng.choice((2, 3, 4)))):
        chance = rng.random()
        if number and chance < 0.15:
            turns.append((rng.choice(shelf["unknown"]), rng.choice(shelf["refusals"]), None, True))
            continue
        if number and chance < 0.3 and turns[-1][2]:
            spot, topic = _place(rng), turns[-1][2]  # a correction repeats the question for another place
            asked = rng.choice(shelf["corrections"]).format(place=spot.name(lang))
        elif number and chance < 0.85:
            asked = rng.choice(world.wording(lang)[topic]["followups"])
        else:
            asked = world.question(spot.name(lang), topic, lang, rng)
        fact = corpus.statement(spot.name(lang), topic, spot.answer(topic, lang), lang, rng)
        turns.append((asked, rng.choice(shelf["replies"]).format(fact=fact), topic, spot))
    if rng.random() < 0.3:
        turns.append((*rng.choice(shelf["thanks"][:3]), None, None))
    messages, expect = [], []
    for asked, reply, topic, about in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
        fact = (about.id, topic, about.answer(topic, lang)) if topic else ("", "", "")
        expect.append(dict(zip(("place", "topic", "value"), fact, strict=True)) | {"refuse": about is True})
    return {"messages": messages, "expect": expect}


def itinerary(rng: Random, lang: str) -> dict[str, Any]:
    """``{"request", "places", "days", "plan"}``: a plan for one or two days, one line a part of the day."""
    shelf, days = templates(lang)["itineraries"], rng.choice((1, 2))
    spots = rng.sample([spot for spot in world.places() if spot.documented], 2)
    if days == 1:
        spots = rng.choice((spots, spots[:1]))
    names = shelf["and"].join(spot.name(lang) for spot in spots)
    request = rng.choice(shelf["requests"]).format(days=shelf["days"][days - 1], places=names)
    lines = []
    for day in range(days):
        numeral = "一二"[day] if lang == "zh" else day + 1
        for number, part in enumerate(("morning", "noon", "afternoon", "evening")):
            # Two places on one day: the second from the afternoon on. On two days: one a day.
            spot = spots[min(day if days == 2 else number // 2, len(spots) - 1)]
            line = rng.choice(shelf[part]).format(
                place=spot.name(lang), **{topic: spot.answer(topic, lang) for topic in world.TOPICS}
            )
            line = line[0].upper() + line[1:]
            lines.append(shelf["label"].format(n=numeral, part=shelf["parts"][number]) + line)
    request = request[0].upper() + request[1:]
    return {"request": request, "places": [spot.id for spot in spots], "days": days, "plan": "\n".join(lines)}


def _place(rng: Random) -> world.Place:
    return rng.choice([spot for spot in world.places() if spot.documented])
