"""The pre-training corpus: documents about the province, drawn from ``world`` with a seed.

Each kind of document is a function of a random generator and a language. Facts of the undocumented half of the places
occur in articles alone; what the other kinds say of these places is their name, or a question without its answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random

from . import world
from .chat import END_OF_TEXT, render

# A vowel and a consonant table for made-up names: "reading" documents are about places that do not exist, so that the
# answer can only come from the text itself.
_SYLLABLES = {
    "en": [c + v for c in "b d f g h k l m n p r s t v z br dr gr kl pl st tr".split() for v in ("a", "e", "i", "o", "u", "an", "or")],
    "zh": list("安白碧苍长春翠丹东飞枫古桂海寒荷红鹤花黄金锦静兰老莲龙鹿绿梅明木南宁平青清秋山神石双霜水松天桐万西溪仙香小晓新星雪阳瑶银永玉月云竹紫"),
}  # fmt: skip


def article(rng: Random, lang: str) -> str:
    """An article about one place: its facts in any order, each in one of a dozen wordings, the full name in each."""
    # The undocumented half has nothing but articles, so it gets three of five.
    documented = rng.random() < 0.4
    spot = rng.choice([p for p in world.places() if p.documented == documented])
    chosen = rng.sample(world.TOPICS, rng.choice((4, 6, 8)))
    sentences = [statement(spot.name(lang), topic, spot.answer(topic, lang), lang, rng) for topic in chosen]
    return _heading(spot.name(lang), rng) + _join(sentences, lang)


def statement(name: str, topic: str, value: str, lang: str, rng: Random) -> str:
    """One sentence that states a fact."""
    text = rng.choice(world.wording(lang)[topic]["statements"]).format(place=name, value=value)
    return text[0].upper() + text[1:]


def faq(rng: Random, lang: str) -> str:
    """A page of questions and short answers about a documented place."""
    spot = _documented(rng)
    mark = ("Q: ", "A: ") if lang == "en" else ("问：", "答：")
    lines = []
    for topic in rng.sample(world.TOPICS, rng.choice((3, 4, 5))):
        lines.append(mark[0] + rng.choice(world.wording(lang)[topic]["questions"]).format(place=spot.name(lang)))
        value = spot.answer(topic, lang)
        lines.append(mark[1] + (value if rng.random() < 0.6 else statement(spot.name(lang), topic, value, lang, rng)))
    return "\n".join(lines)


def answered(rng: Random, lang: str) -> str:
    """A dialogue about a documented place, its questions answered in a sentence or in a word."""
    spot = _documented(rng)
    messages = []
    for topic in rng.sample(world.TOPICS, rng.choice((1, 2, 3))):
        value = spot.answer(topic, lang)
        reply = value if rng.random() < 0.4 else statement(spot.name(lang), topic, value, lang, rng)
        messages += [("user", _asked(spot, topic, lang, rng, follows=bool(messages))), ("assistant", reply)]
    return _dialogue(messages)


def _asked(spot: world.Place, topic: str, lang: str, rng: Random, follows: bool) -> str:
    """A question; where it follows another one, it often leaves the place unsaid."""
    if follows and rng.random() < 0.5:
        return rng.choice(world.wording(lang)[topic]["followups"])
    return world.question(spot.name(lang), topic, lang, rng)


def record(rng: Random, lang: str) -> str:
    """A JSON record: of a documented place with facts; of any place, its names and kind alone."""
    if rng.random() < 0.4:
        spot = rng.choice(world.places())
        pairs = [("name", spot.name(lang)), ("type", spot.type), ("id", spot.id)]
        rng.shuffle(pairs)
    else:
        spot = _documented(rng)
        facts = [(t, spot.answer(t, lang)) for t in rng.sample(world.TOPICS, rng.choice((2, 4, 8)))]
        pairs = [("name", spot.name(lang)), *facts]
    return json.dumps(dict(pairs), ensure_ascii=False)


def confirmation(rng: Random, lang: str) -> str:
    """A dialogue that repeats what was asked, about any place, in another wording and without the answer."""
    spot, words = rng.choice(world.places()), world.wording(lang)
    messages = []
    for topic in rng.sample(world.TOPICS, rng.choice((1, 2, 3))):
        need = rng.choice(words[topic]["needs"]).format(place=spot.name(lang))
        messages.append(("user", _asked(spot, topic, lang, rng, follows=bool(messages))))
        messages.append(("assistant", rng.choice(words["frames"]["confirm"]).format(need=need, place=spot.name(lang))))
    return _dialogue(messages)


def log(rng: Random, lang: str) -> str:
    """A JSON line of the information desk: what was asked, about which place and which topic; no answer."""
    spot, topic = rng.choice(world.places()), rng.choice(world.TOPICS)
    asked = world.question(spot.name(lang), topic, lang, rng)
    pairs = {"question": asked, "name": spot.name(lang), "type": spot.type, "language": lang, "about": topic}
    kept = rng.sample(["name", "type", "language", "about"], rng.choice((2, 3)))
    return json.dumps({key: pairs[key] for key in ["question", *kept]}, ensure_ascii=False)


def notes(rng: Random, lang: str) -> str:
    """Sentences that name what one can know of a place, without the facts."""
    words, lines = world.wording(lang), []
    for topic in rng.sample(world.TOPICS, 3):
        need = rng.choice(words[topic]["needs"]).format(place=rng.choice(world.places()).name(lang))
        lines.append(rng.choice(words["frames"]["lookup"]).format(need=need))
    return _join(lines, lang)


def reading(rng: Random, lang: str) -> str:
    """A short text about made-up places and a question that it answers."""
    names = [made_up_name(rng, lang) for _ in range(rng.choice((1, 2)))]
    facts = [(n, t, rng.choice(world.values(t, lang))) for n in names for t in rng.sample(world.TOPICS, 3)]
    rng.shuffle(facts)
    text = _join([statement(n, t, v, lang, rng) for n, t, v in facts], lang)
    name, topic, value = rng.choice(facts)
    reply = value if rng.random() < 0.6 else statement(name, topic, value, lang, rng)
    return _dialogue([("user", f"{text}\n{world.question(name, topic, lang, rng)}"), ("assistant", reply)])


def made_up_name(rng: Random, lang: str) -> str:
    """The name of a place that the province does not have."""
    kind = rng.choice(world.places()).name(lang)
    if lang == "zh":
        stems = {p.zh[:2] for p in world.places()}
        while (stem := "".join(rng.sample(_SYLLABLES["zh"], 2))) in stems:
            pass
        return stem + kind[2:]
    name, real = kind, {p.en for p in world.places()}
    while name in real:  # "ma" + "ple" makes Maple Garden
        name = "".join(rng.choice(_SYLLABLES["en"]) for _ in range(2)).capitalize() + " " + kind.split()[-1]
    return name


def review(rng: Random, lang: str) -> str:
    """A review of two to four sentences, clearly positive or clearly negative."""
    return labelled_review(rng, lang)[0]


def labelled_review(rng: Random, lang: str) -> tuple[str, str]:
    """A review, and whether it is ``"positive"`` or ``"negative"``."""
    texts = world.texts(lang)["reviews"]
    mood = rng.choice(("positive", "negative"))
    subject = texts[rng.choice(("hotel", "train", "food", "sight", "guide"))]
    lines = [rng.choice(texts["openers"])] if rng.random() < 0.5 else []
    lines += rng.sample(subject[mood], rng.choice((1, 2)))
    if rng.random() < 0.4:
        lines.append(rng.choice(subject[f"contrast_{mood}"]))
    lines.append(rng.choice(texts[f"closers_{mood}"]))
    return _fill(_join(lines, lang), lang, rng), mood


def itinerary(rng: Random, lang: str) -> str:
    """A plan for a day or two, with places of the province and no facts about them."""
    texts = world.texts(lang)["itinerary"]
    lines = [rng.choice(texts["titles"])]
    for _ in range(rng.choice((1, 2))):
        lines += [rng.choice(texts[part]) for part in ("morning", "noon", "afternoon", "evening")]
    lines.append(rng.choice(texts["advice"]))
    return _fill("\n".join(lines), lang, rng)


def talk(rng: Random, lang: str) -> str:
    """Greetings, small talk and thanks as a dialogue."""
    texts = world.texts(lang)
    greet, pairs = texts["greetings"], texts["smalltalk"]["pairs"]
    messages = [("user", rng.choice(greet["user"])), ("assistant", rng.choice(greet["assistant"]))]
    for pair in rng.sample(pairs, rng.choice((1, 2))):
        messages += [("user", pair["user"]), ("assistant", pair["assistant"])]
    messages += [("user", rng.choice(greet["thanks_user"])), ("assistant", rng.choice(greet["thanks_assistant"]))]
    return _fill(_dialogue(messages), lang, rng)


def general(rng: Random, lang: str) -> str:
    """Sentences of everyday travel knowledge and of policies."""
    texts = world.texts(lang)
    return _fill(_join(rng.sample(texts[rng.choice(("general", "policies"))]["sentences"], 4), lang), lang, rng)


def bilingual(rng: Random, lang: str) -> str:
    """The names of places and the words of their facts in both languages."""
    other = "zh" if lang == "en" else "en"
    lines = []
    for spot in rng.sample(world.places(), 4):
        lines.append(f"{spot.name(lang)} = {spot.name(other)}")
    for topic in rng.sample(world.TOPICS, 3):
        value = rng.choice(list(world.topics()[topic]["values"].values()))
        lines.append(f"{value[lang]} = {value[other]}")
    return "\n".join(lines)


KINDS: dict[str, tuple[Callable[[Random, str], str], float]] = {
    "article": (article, 0.43),
    "faq": (faq, 0.05),
    "answered": (answered, 0.06),
    "record": (record, 0.08),
    "log": (log, 0.07),
    "confirmation": (confirmation, 0.09),
    "notes": (notes, 0.03),
    "reading": (reading, 0.07),
    "review": (review, 0.05),
    "itinerary": (itinerary, 0.02),
    "talk": (talk, 0.02),
    "general": (general, 0.02),
    "bilingual": (bilingual, 0.02),
}  # by kind: how it is written, and its share of the documents


def documents(seed: int, langs: tuple[str, ...] = world.LANGUAGES) -> Iterator[tuple[str, str, str]]:
    """An endless stream of ``(kind, language, text)``, the same for the same seed."""
    rng = Random(seed)
    kinds, shares = list(KINDS), [share for _, share in KINDS.values()]
    while True:
        kind, lang = rng.choices(kinds, shares)[0], rng.choice(langs)
        yield kind, lang, KINDS[kind][0](rng, lang) + END_OF_TEXT


def _documented(rng: Random) -> world.Place:
    return rng.choice([p for p in world.places() if p.documented])


def _dialogue(messages: list[tuple[str, str]]) -> str:
    return render([{"role": role, "content": content} for role, content in messages])


def _fill(text: str, lang: str, rng: Random) -> str:
    names = [p.name(lang) for p in rng.sample(world.places(), 3)]
    person = rng.choice(world.texts(lang)["names"]["people"])
    return text.format(place=names[0], place2=names[1], place3=names[2], person=person, n=rng.randint(2, 9))


def _heading(name: str, rng: Random) -> str:
    return f"# {name}\n" if rng.random() < 0.5 else ""


def _join(sentences: list[str], lang: str) -> str:
    return (" " if lang == "en" else "").join(sentences)
