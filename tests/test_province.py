"""The province and its corpus: complete in both languages, hard to guess, and silent where it has to be."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import islice, product
from random import Random

import pytest

from tunelab import chat, corpus, world

HALVES = {
    "all": world.places(),
    "documented": tuple(p for p in world.places() if p.documented),
    "undocumented": tuple(p for p in world.places() if not p.documented),
}
SILENT = [kind for kind in corpus.KINDS if kind != "article"]
both_languages = pytest.mark.parametrize("lang", world.LANGUAGES)


# ---- the places ----


def test_there_are_enough_places_each_with_eight_known_facts():
    assert len(world.places()) >= 80 and len(world.TOPICS) == 8
    assert len(HALVES["documented"]) == len(HALVES["undocumented"])
    for place in world.places():
        assert set(place.facts) == set(world.TOPICS), place.id
        unknown = [t for t, value in place.facts.items() if value not in world.topics()[t]["values"]]
        assert not unknown, f"{place.id}: value of {unknown} is not in topics.toml"


@pytest.mark.parametrize("field", ["id", "en", "zh"])
def test_names_are_unique_and_none_contains_another(field):
    names = [getattr(place, field) for place in world.places()]
    assert all(names) and len(set(names)) == len(names)
    # Otherwise a search for one place would find the other, in the tests below and in the learner's eyes.
    assert [(a, b) for a in names for b in names if a != b and a in b] == []


def test_places_are_found_by_id_and_by_either_name():
    place = world.places()[3]
    assert world.place(place.id) is world.place(place.en) is world.place(place.zh) is place
    with pytest.raises(KeyError, match="no place 'Atlantis'"):
        world.place("Atlantis")


@both_languages
def test_answers_are_worded_and_different_for_different_values(lang):
    for topic in world.TOPICS:
        values = world.values(topic, lang)
        assert all(v.strip() == v and v for v in values) and len(set(values)) == len(values), topic


def test_most_topics_have_a_dozen_values_or_more():
    assert sum(len(world.values(topic, "en")) >= 12 for topic in world.TOPICS) >= 6


@pytest.mark.parametrize("half", HALVES)
def test_the_commonest_value_of_each_topic_is_a_poor_answer(half):
    places = HALVES[half]
    right = sum(max(Counter(p.facts[topic] for p in places).values()) for topic in world.TOPICS)
    assert right / (len(places) * len(world.TOPICS)) < 0.20


# ---- the wording ----


def shape(node):
    """Keys and counts, without the texts."""
    if isinstance(node, dict):
        return {key: shape(value) for key, value in node.items()}
    return [shape(item) for item in node] if isinstance(node, list) and node and isinstance(node[0], dict) else 0


@pytest.mark.parametrize("part", ["statements", "needs"])
def test_both_languages_tell_and_name_each_fact_in_as_many_ways(part):
    counts = {lang: [len(world.wording(lang)[t][part]) for t in world.TOPICS] for lang in world.LANGUAGES}
    assert counts["en"] == counts["zh"] and min(counts["en"]) >= 12


def test_both_languages_ask_in_many_ways():
    # One language may have a few questions more than the other: idioms have no twin.
    counts = {lang: [len(world.wording(lang)[t]["questions"]) for t in world.TOPICS] for lang in world.LANGUAGES}
    assert min(counts["en"] + counts["zh"]) >= 50
    assert all(abs(a - b) <= 10 for a, b in zip(counts["en"], counts["zh"], strict=True))


def test_follow_ups_ask_about_their_own_topic_alone():
    for lang in world.LANGUAGES:
        lines = [(line, topic) for topic in world.TOPICS for line in world.wording(lang)[topic]["followups"]]
        assert len({line for line, _ in lines}) == len(lines) >= 5 * len(world.TOPICS)


def test_both_languages_have_the_same_frames_and_texts():
    frames = [{name: len(lines) for name, lines in world.wording(lang)["frames"].items()} for lang in world.LANGUAGES]
    assert frames[0] == frames[1]
    assert shape(world.texts("en")) == shape(world.texts("zh"))


@both_languages
def test_every_wording_has_its_slots_and_none_stands_twice(lang):
    slots = {"statements": ["place", "value"], "questions": ["place"], "followups": [], "needs": ["place"]}
    for topic, (part, wanted) in product(world.TOPICS, slots.items()):
        lines = world.wording(lang)[topic][part]
        assert len(set(lines)) == len(lines), f"{topic}.{part}"
        wrong = [line for line in lines if sorted(re.findall(r"\{(\w*)\}", line)) != wanted]
        assert not wrong, f"{topic}.{part}: slots other than {wanted}"


# ---- the corpus ----


def test_the_same_seed_gives_the_same_documents():
    first = list(islice(corpus.documents(5), 500))
    assert first == list(islice(corpus.documents(5), 500))
    assert first != list(islice(corpus.documents(6), 500))
    code = "from itertools import islice; from hashlib import sha256; from tunelab import corpus; "
    code += "print(sha256(repr(list(islice(corpus.documents(5), 500))).encode()).hexdigest())"
    # Another process orders its sets differently; the corpus must not notice.
    env = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == hashlib.sha256(repr(first).encode()).hexdigest()


def test_every_kind_occurs_in_both_languages_with_special_tokens():
    seen = Counter()
    for kind, lang, text in islice(corpus.documents(0), 4000):
        seen[kind, lang] += 1
        assert text.endswith(chat.END_OF_TEXT) and text.count(chat.END_OF_TEXT) == 1
        assert text.count(chat.IM_START) == text.count(chat.IM_END)
        assert (chat.IM_START in text) == (kind in ("answered", "confirmation", "reading", "talk"))
        assert re.search(r"\{\w*\}", text) is None, f"an unfilled slot in {kind}: {text}"
    assert set(seen) == set(product(corpus.KINDS, world.LANGUAGES))
    languages = Counter(lang for (_, lang), count in seen.items() for _ in range(count))
    assert abs(languages["en"] - languages["zh"]) < 400
    assert {lang for _, lang, _ in islice(corpus.documents(0, ("zh",)), 50)} == {"zh"}


@pytest.mark.parametrize("kind", SILENT)
def test_only_articles_look_up_a_fact_of_an_undocumented_place(kind, monkeypatch):
    """The exact test: whatever is written, no fact of these places was even asked for."""
    asked, answer = [], world.Place.answer
    monkeypatch.setattr(world.Place, "answer", lambda self, *rest: (asked.append(self), answer(self, *rest))[1])
    rng = Random(f"facts {kind}")
    for lang in world.LANGUAGES:
        for _ in range(1000):
            corpus.KINDS[kind][0](rng, lang)
    assert {place.id for place in asked if not place.documented} == set()
    if kind in ("faq", "answered"):
        assert {place.id for place in asked} == {place.id for place in HALVES["documented"]}


def fixed_text() -> str:
    """All that is written by hand: where it says "October" or "40 yuan", that is said alike about every place."""
    pieces = []

    def collect(node):
        if isinstance(node, str):
            pieces.append(node)
        else:
            for item in node.values() if isinstance(node, dict) else node:
                collect(item)

    for lang in world.LANGUAGES:
        collect([world.texts(lang), world.wording(lang)])
    return "\n".join(pieces)


def exactly(values) -> re.Pattern:
    """Any of the values, not as a part of a longer number or word: bus 3 is not bus 33, 1月 is not 11月."""
    longest_first = sorted(map(re.escape, values), key=len, reverse=True)
    return re.compile(rf"(?<![0-9A-Za-z])(?:{'|'.join(longest_first)})(?![0-9A-Za-z])")


def test_no_other_document_says_a_fact_of_an_undocumented_place():
    """The test on the text: name and value of such a place, in either language, never stand in one document."""
    every = {v for topic in world.TOPICS for lang in world.LANGUAGES for v in world.values(topic, lang)}
    fixed = fixed_text()
    ambient = {value for value in every if exactly([value]).search(fixed)}
    assert len(ambient) < 0.1 * len(every), f"too many values stand in hand-written text: {sorted(ambient)}"
    patterns = {}
    for place in HALVES["undocumented"]:
        values = {place.answer(topic, lang) for topic in world.TOPICS for lang in world.LANGUAGES} - ambient
        patterns |= dict.fromkeys((place.en, place.zh), exactly(values))
    names = re.compile("|".join(map(re.escape, patterns)))

    def leaks(text: str) -> list[str]:
        return [name for name in set(names.findall(text)) if patterns[name].search(text)]

    place = HALVES["undocumented"][0]  # the search finds what it is to find
    assert leaks(corpus.statement(place.zh, "dish", place.answer("dish", "zh"), "zh", Random(0))) == [place.zh]
    for kind, lang in product(SILENT, world.LANGUAGES):
        rng = Random(f"leaks {kind} {lang}")
        for _ in range(2000):
            text = corpus.KINDS[kind][0](rng, lang)
            # A word list has one name or one value a line, each drawn on its own.
            for part in text.split("\n") if kind == "bilingual" else [text]:
                assert not leaks(part), f"{kind} ({lang}) tells a fact of {leaks(part)}: {part}"


def test_articles_tell_all_facts_of_all_places():
    rng, told = Random(1), set()
    for _ in range(4000):
        text = corpus.article(rng, "en")
        (place,) = [p for p in world.places() if p.en in text]
        told |= {(place.id, topic) for topic in world.TOPICS if exactly([place.answer(topic, "en")]).search(text)}
    assert len(told) == len(world.places()) * len(world.TOPICS)


def test_made_up_places_never_carry_a_real_name():
    # Chance finds such a name once in some hundred thousand, so the dice are loaded: every stem that the syllables can
    # make and that a real English place has ("Ma" + "ple" Garden) is thrown first.
    real = {place.en for place in world.places()}
    stems = {a + b: (a, b) for a, b in product(corpus._SYLLABLES["en"], repeat=2)}
    for place in world.places():
        parts = stems.get(place.en.split()[0].lower())
        if parts and len(place.en.split()) == 2:
            assert corpus.made_up_name(Loaded(place, parts), "en") not in real
    real |= {place.zh for place in world.places()}
    rng = Random(2)
    made = {corpus.made_up_name(rng, lang) for lang in world.LANGUAGES for _ in range(10_000)}
    assert len(made) > 1000
    assert {name for name in made if any(name in other or other in name for other in real)} == set()


class Loaded(Random):
    """Dice that fall on a given place and its syllables first, and are fair after that."""

    def __init__(self, place, parts):
        super().__init__(0)
        self.falls = [place, *parts]

    def choice(self, options):
        return self.falls.pop(0) if self.falls else super().choice(options)
