"""The hand-written sets: as many as the card says, without leaks between splits, true to the province, hard to guess."""

import json
from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

import baselines
import data_report
from tunelab import _files, data, world
from tunelab.paths import course_file

both_languages = pytest.mark.parametrize("lang", world.LANGUAGES)
HANDWRITTEN = [
    (task, split)
    for task, splits in data.SPLITS.items()
    for split in splits
    if (task, split) not in data.GENERATORS and split != "all" and task != "questions"
]
SIZES = {
    "reviews": {"train": 250, "dev": 50, "test": 200, "mixed": 60},
    "entities": {"dev": 100, "test": 100},
    "passages": {"dev": 20, "test": 40},
    "passage_questions": {"dev": 60, "test": 120},
    "dialogues": {"dev": 10, "test": 40},
    "instructions": {"train": 30, "test": 10},
    "itineraries": {"dev": 20, "test": 40},
    "tickets": {"dev": 10, "test": 30},
    "profiles": {"dev": 15, "test": 45},
}
TOTALS = {"passage_questions": 200, "dialogues": 60}
PARALLEL = {
    "passages": ("id", "split", "kind", "places", "facts"),
    "passage_questions": ("id", "split", "kind", "passages"),
    "tickets": ("id", "split", "policy", "outcome"),
    "profiles": ("id", "split", "liked", "relevant", "filter"),
}
MOST_ALIKE = 0.4  # Jaccard on five-character pieces; texts written apart share less than 0.2


def rows_of(task: str, lang: str) -> list[dict]:
    return [row for t, split in HANDWRITTEN if t == task for row in data.load(task, lang, split)]


# ---- counts, ids, parallel editions ----


@both_languages
@pytest.mark.parametrize(("task", "split"), HANDWRITTEN)
def test_there_are_enough_rows(task, split, lang):
    assert len(data.load(task, lang, split)) >= SIZES[task][split]


@both_languages
@pytest.mark.parametrize("task", SIZES)
def test_ids_are_unique_and_totals_hold(task, lang):
    rows = rows_of(task, lang)
    assert len({row["id"] for row in rows}) == len(rows)
    assert len(rows) >= TOTALS.get(task, sum(SIZES[task].values()))


@pytest.mark.parametrize(("task", "columns"), PARALLEL.items())
def test_parallel_sets_agree(task, columns):
    english, chinese = (rows_of(task, lang) for lang in world.LANGUAGES)
    for a, b in zip(english, chinese, strict=True):
        assert {c: a[c] for c in columns} == {c: b[c] for c in columns}


# ---- no leaks, no templates ----


@both_languages
@pytest.mark.parametrize("task", SIZES)
def test_no_two_texts_are_alike(task, lang):
    rows = rows_of(task, lang)
    texts = [data_report.text_of(row, task) for row in rows]
    drawn = [data_report.text_of(row, task) for t, split in data.GENERATORS if t == task for row in data.load(task, lang, split)]  # fmt: skip
    pieces = CountVectorizer(analyzer="char", ngram_range=(5, 5), binary=True).fit_transform(texts + drawn)
    mine, sizes = pieces[: len(texts)], np.asarray(pieces.sum(axis=1)).ravel().tolist()
    common = (mine @ pieces.T).tocoo()
    alike = []
    for i, j, shared in zip(common.row, common.col, common.data, strict=True):
        if i < j and shared / (sizes[i] + sizes[j] - shared) > MOST_ALIKE:
            alike.append((rows[i]["id"], rows[j]["id"] if j < len(rows) else f"generated: {drawn[j - len(rows)]}"))
    assert alike == []


@both_languages
@pytest.mark.parametrize("task", sorted({task for task, _ in data.GENERATORS}))
def test_handwritten_texts_are_more_varied_than_generated_ones(task, lang):
    by_hand = [data_report.text_of(row, task) for row in data.load(task, lang, "test")]
    generated = next(split for t, split in data.GENERATORS if t == task)
    drawn = [data_report.text_of(row, task) for row in data.load(task, lang, generated, size=len(by_hand))]
    floor = 0.75 if task == "itineraries" else 0.9  # plans share their line labels
    assert data_report.distinct_ngrams(by_hand) > max(floor, data_report.distinct_ngrams(drawn))


# ---- reviews ----


@both_languages
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_reviews_are_balanced(lang, split):
    rows = list(data.load("reviews", lang, split))
    labels = Counter(row["label"] for row in rows)
    assert labels["positive"] == labels["negative"]
    for subject in ("hotel", "train", "food", "sight", "guide"):
        share = [row["label"] == "positive" for row in rows if row["subject"] == subject]
        assert len(share) >= len(rows) // 8 and 0.3 < sum(share) / len(share) < 0.7, subject


@both_languages
def test_words_alone_do_not_give_the_label_away(lang):
    scores = baselines.reviews(lang)
    assert scores["bag_of_words_200"]["most"] < 0.85
    assert scores["majority"] == 0.5


# ---- entities ----


@both_languages
def test_entity_spans_are_sound(lang):
    labels, features = Counter(), Counter()
    for row in rows_of("entities", lang):
        _files._check_entities(row)
        for inner in row["nested"]:
            assert any(s["start"] <= inner["start"] and inner["end"] <= s["end"] for s in row["spans"]), row["id"]
        labels.update(span["label"] for span in row["spans"])
        features.update(row["features"])
    assert set(labels) == set(_files.ENTITIES) and min(labels.values()) >= 80
    assert min(features[name] for name in ("nested", "repeated", "broken", "invented", "decoy", "typo")) >= 12


@both_languages
def test_every_name_of_a_place_is_annotated_wherever_it_stands(lang):
    for row in rows_of("entities", lang):
        # Inside another kind of mention ("the Stork Island ferry") it is a nested one.
        inside = [(s["start"], s["end"]) for s in [*row["spans"], *row["nested"]] if s["label"] == "PLACE"]
        for place in world.places():
            at = row["text"].find(place.name(lang))
            while at >= 0:
                end = at + len(place.name(lang))
                assert any(a <= at and end <= b for a, b in inside), (row["id"], place.name(lang))
                at = row["text"].find(place.name(lang), end)


# ---- passages and questions ----


@both_languages
def test_passages_agree_with_the_province(lang):
    for row in rows_of("passages", lang):
        whole = row["title"] + " " + row["text"]
        named = {place.id for place in world.places() if place.name(lang) in whole}
        assert named == set(row["places"]), row["id"]
        for place, topic in row["facts"]:
            answer = world.place(place).answer(topic, lang)
            assert answer.lower() in row["text"].lower(), (row["id"], place, topic, answer)
        length = len(data_report.words(row["text"]))
        assert 40 <= length <= (120 if lang == "en" else 230), (row["id"], length)


@both_languages
def test_questions_point_to_passages_and_their_spans(lang):
    passages = {row["id"]: row for row in rows_of("passages", lang)}
    kinds, spans = Counter(), 0
    for row in rows_of("passage_questions", lang):
        kinds[row["kind"]] += 1
        assert all(passages[name]["split"] == row["split"] for name in row["passages"]), row["id"]
        assert bool(row["passages"]) == (row["kind"] != "unanswerable"), row["id"]
        if row["answer"]:
            spans += 1
            text = passages[row["answer"]["passage"]]["text"]
            assert row["answer"]["passage"] in row["passages"]
            assert text[row["answer"]["start"] : row["answer"]["end"]] == row["answer"]["text"], row["id"]
            assert row["context"] == text
    assert kinds["paraphrase"] >= 140 and kinds["unanswerable"] >= 20 and spans >= 120


@both_languages
def test_paraphrases_share_no_content_word_with_their_passage(lang):
    passages = {row["id"]: row for row in rows_of("passages", lang)}
    for row in rows_of("passage_questions", lang):
        if row["kind"] == "paraphrase":
            asked = data_report.content_words(row["question"], lang)
            for name in row["passages"]:
                text = passages[name]["title"] + " " + passages[name]["text"]
                assert not asked & data_report.content_words(text, lang), row["id"]


@both_languages
def test_keyword_search_does_not_find_paraphrases(lang):
    scores = baselines.retrieval(lang)
    assert scores["bm25_hit_at_1_paraphrase"] < 0.5 < scores["bm25_hit_at_1_keyword"]


# ---- dialogues, instructions, itineraries ----


@both_languages
def test_dialogues_state_the_facts_they_should(lang):
    facts, features = 0, Counter()
    values = [value for topic in world.TOPICS for value in world.values(topic, lang)]
    for row in rows_of("dialogues", lang):
        _files._check_dialogue(row)
        replies = [message["content"] for message in row["messages"][1::2]]
        assert 3 <= len(replies) <= 6, row["id"]
        for reply, expected in zip(replies, row["expect"], strict=True):
            if expected["value"]:
                facts += 1
                assert expected["value"].lower() in reply.lower(), (row["id"], expected)
            if expected["refuse"]:
                assert [value for value in values if value.lower() in reply.lower()] == [], (row["id"], reply)
        features.update(row["features"])
    assert facts >= 160 and features["pronoun"] >= 40 and features["correction"] >= 15 and features["refusal"] >= 18


@both_languages
def test_instructions_cover_five_tasks(lang):
    rows = rows_of("instructions", lang)
    assert Counter((row["task"], row["split"]) for row in rows) == Counter(
        {(task, split): count for task in ("classification", "qa", "generation", "entities", "dialogue") for split, count in (("train", 6), ("test", 2))}
    )  # fmt: skip
    for row in rows:
        _files._check_instruction(row)


@both_languages
def test_plans_name_their_places_and_no_wrong_bus(lang):
    for row in rows_of("itineraries", lang):
        named = {place.id for place in world.places() if place.name(lang) in row["plan"]}
        assert set(row["places"]) <= named, row["id"]
        spots = [world.place(name) for name in named]
        for topic in ("bus", "closing", "dish", "sight", "souvenir"):
            true = {spot.answer(topic, lang) for spot in spots}
            said = {value for value in world.values(topic, lang) if _stands_alone(value, row["plan"])}
            if topic != "closing":  # a plan has other clock times too
                assert said <= true, (row["id"], said - true)


def _stands_alone(value: str, text: str) -> bool:
    at = text.find(value)
    while at >= 0:
        before, after = text[at - 1 : at], text[at + len(value) : at + len(value) + 1]
        if not (before.isdigit() and value[0].isdigit()) and not (after.isdigit() and value[-1].isdigit()):
            return True
        at = text.find(value, at + 1)
    return False


# ---- service and recommendation ----


@both_languages
def test_tickets_rest_on_policies(lang):
    passages = {row["id"] for row in rows_of("passages", lang)}
    outcomes = Counter()
    for row in rows_of("tickets", lang):
        _files._check_ticket(row)
        assert set(row["policy"]) <= passages and (row["policy"] or row["outcome"] == "handover"), row["id"]
        outcomes[row["outcome"]] += 1
    assert set(outcomes) == set(_files.OUTCOMES) and min(outcomes.values()) >= 8


def test_profiles_are_served_within_their_filters():
    times = Counter()
    for row in rows_of("profiles", "en"):
        assert not set(row["liked"]) & set(row["relevant"]), row["id"]
        times.update(row["relevant"])
        for name in row["relevant"]:
            place, want = world.place(name), {key: value for key, value in row["filter"].items() if value is not None}
            assert want.get("month") in (None, place.facts["month"]), (row["id"], name)
            assert want.get("region") in (None, place.facts["region"]), (row["id"], name)
            assert place.type in want.get("type", [place.type]), (row["id"], name)
            assert int(place.facts["price"]) <= want.get("max_price", 999), (row["id"], name)
            assert place.facts["closing"] > want.get("closes_after", ""), (row["id"], name)
    assert set(times) == {place.id for place in world.places()}


# ---- what is stored and what the card says ----


def test_stored_baselines_are_those_of_the_data():
    stored = json.loads(course_file("assets", "results", "baselines.json").read_text(encoding="utf-8"))
    for lang in world.LANGUAGES:
        assert stored[lang]["retrieval"] == pytest.approx(baselines.retrieval(lang), abs=0.02)
        assert stored[lang]["entities"] == pytest.approx(baselines.entities(lang), abs=0.02)
        assert stored[lang]["answers"] == pytest.approx(baselines.answers(lang), abs=0.02)


@both_languages
@pytest.mark.parametrize("task", data_report.JUDGED)
def test_the_card_gives_the_agreement_of_the_second_reading(task, lang):
    card = course_file("assets", "data", "README.md").read_text(encoding="utf-8")
    read, differ, kappa = data_report.agreement(task, lang)
    assert f"| {task} ({lang}) | {read} | {differ} | {kappa:.3f} |" in card
    # Where the two differed, the row says how it was settled.
    assert all(row["first"] == row["second"] or row["settled"] for row in data_report.second_labels(task, lang))
