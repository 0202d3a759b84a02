"""Training and test questions: nothing of the test stands in training, and a learner's own file gets clear errors."""

import json
import re
import unicodedata
from collections import Counter

import pytest

from tunelab import _files, data, metrics, world

both_languages = pytest.mark.parametrize("lang", world.LANGUAGES)

# Above these shares two wordings count as copies of each other, once the place, capitals, punctuation and English
# contractions are gone. Between a question of training and a hand-written one, the largest shares measured where nothing
# was copied: pairs of characters 0.70 (English), 0.60 (Chinese); words 0.71 (English).
MOST_SHARED_PAIRS = 0.72
MOST_SHARED_WORDS = 0.75

COLUMNS = ("question", "place", "topic", "answer")
ROW = {"question": "How much is it?", "place": "Heron Lake", "topic": "price", "answer": "20 yuan"}


def words(wording: str) -> list[str]:
    text = unicodedata.normalize("NFKC", wording.replace("{place}", " ")).lower().replace("’", "'")
    for short, long in (
        ("can't", "cannot"),
        ("n't", " not"),
        ("'s", " is"),
        ("'re", " are"),
        ("'m", " am"),
        ("'d", " would"),
    ):
        text = text.replace(short, long)
    return re.sub(r"[^\w\s]", " ", text).split()


def pairs(wording: str) -> set[str]:
    text = "".join(words(wording))
    return {text[i : i + 2] for i in range(len(text) - 1)} or {text}


def shared(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


# ---- the hand-written wordings ----


@both_languages
@pytest.mark.parametrize(("split", "least"), [("test", 120), ("dev", 40)])
def test_there_are_enough_wordings_of_every_topic(lang, split, least):
    rows = data.wordings(lang, split)
    assert len(rows) >= least
    counts = Counter(row["topic"] for row in rows)
    assert set(counts) == set(world.TOPICS) and max(counts.values()) - min(counts.values()) <= 2


@both_languages
def test_every_wording_has_one_slot_and_an_id_of_its_own(lang):
    rows = [row for split in ("dev", "test") for row in data.wordings(lang, split)]
    for row in rows:
        assert re.findall(r"\{.*?\}", row["wording"]) == ["{place}"], row
    assert len({row["id"] for row in rows}) == len(rows)


@both_languages
@pytest.mark.parametrize("split", ["dev", "test"])
def test_no_wording_is_a_copy_of_a_training_question(lang, split):
    shelves = [world.wording(lang)[topic] for topic in world.TOPICS]
    training = [q for shelf in shelves for q in shelf["questions"] + shelf["followups"]]
    prepared = [(q, pairs(q), set(words(q))) for q in training]
    copies = []
    for row in data.wordings(lang, split):
        mine, my_words = pairs(row["wording"]), set(words(row["wording"]))
        for question, theirs, their_words in prepared:
            close = shared(mine, theirs) > MOST_SHARED_PAIRS
            # Chinese text has no spaces between words: there the pairs of characters say it all.
            close |= lang == "en" and shared(my_words, their_words) > MOST_SHARED_WORDS
            if close:
                copies.append(f"{row['id']} {row['wording']!r} <- training {question!r}")
    # The hand-written wording stays, whatever happens; it is the training question that has to go.
    assert not copies, "\n".join(copies)


@both_languages
def test_dev_and_test_share_no_wording(lang):
    dev, test = ([row["wording"] for row in data.wordings(lang, split)] for split in ("dev", "test"))
    assert max(shared(pairs(a), pairs(b)) for a in dev for b in test) < 0.5


# ---- the sets ----


@both_languages
@pytest.mark.parametrize(("split", "least"), [("test", 600), ("dev", 200)])
def test_the_handwritten_sets(lang, split, least):
    rows = list(data.load("questions", lang, split))
    assert len(rows) >= least and len({row["question"] for row in rows}) == len(rows)
    seen = Counter(row["documented"] for row in rows)
    assert seen[True] == seen[False]
    if split == "test":
        assert {row["place"] for row in rows} == {place.name(lang) for place in world.places()}
    for row in rows:
        place = world.place(row["place"])
        assert row["documented"] == place.documented and row["place"] in row["question"]
        assert row["answer"] == place.answer(row["topic"], lang)
        assert "{" not in row["question"]
    assert all(metrics.score_json([row["response"] for row in rows], rows)["record"])


@both_languages
def test_training_is_about_documented_places_alone(lang):
    rows = list(data.load("questions", lang, "train", size=3000))
    assert len(rows) == 3000 and all(row["documented"] for row in rows)
    documented = {place.name(lang) for place in world.places() if place.documented}
    others = {place.name(lang) for place in world.places()} - documented
    assert {row["place"] for row in rows} == documented
    text = "\n".join(row["question"] + row["response"] for row in rows)
    assert [name for name in others if name in text] == []
    assert {row["topic"] for row in rows} == set(world.TOPICS)
    assert all(row["place"] in row["question"] for row in rows)
    assert all(row["answer"] == world.place(row["place"]).answer(row["topic"], lang) for row in rows)


@both_languages
def test_no_test_question_occurs_in_training(lang):
    def plain(row):
        return "".join(words(row["question"]))

    training = {plain(row) for row in data.load("questions", lang, "train")}
    for split in ("dev", "test"):
        assert training & {plain(row) for row in data.load("questions", lang, split)} == set()


def test_the_seed_decides_the_training_set():
    first = data.load("questions", "zh", size=50)
    assert first[:] == data.load("questions", "zh", size=50)[:]
    assert first[:] != data.load("questions", "zh", size=50, seed=1)[:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("question", "en"), "task='question' is not known; choose one of 'questions'"),
        (("questions", "fr"), "lang='fr' is not known; choose one of 'en', 'zh'"),
        (("questions", "en", "valid"), "split='valid' is not known; choose one of 'train', 'dev', 'test'"),
    ],
)
def test_unknown_names_list_the_known_ones(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(*arguments)


# ---- the learner's own file ----


def csv_text(*columns: str) -> str:
    return ",".join(columns) + "\n" + ",".join(ROW[c] for c in columns) + "\n"


def test_a_learners_csv_is_read(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text(csv_text(*COLUMNS) + '"Two lines,\nand a comma?",白鹭湖,price,20元\n', encoding="utf-8")
    mine = data.load("questions", "en", path=file)
    assert mine["question"] == ["How much is it?", "Two lines,\nand a comma?"]
    assert json.loads(mine["response"][1]) == {"place": "白鹭湖", "topic": "price", "answer": "20元"}


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_files_of_windows_are_read(tmp_path, kind, mark, ending):
    text = csv_text(*COLUMNS) if kind == "csv" else json.dumps(ROW) + "\n\n" + json.dumps(ROW) + "\n"
    file = tmp_path / f"mine.{kind.upper()}"  # and their suffixes
    file.write_bytes((mark + text.replace("\n", ending)).encode("utf-8"))
    assert _files.read(file, COLUMNS)[0] == ROW


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_line_separators_that_are_no_line_ends_stay_text(tmp_path, kind):
    # str.splitlines would cut at these; web pages and PDF files are full of them.
    row = ROW | {"question": "one\u2028two\u0085three"}
    text = (
        ",".join(COLUMNS) + "\n" + ",".join(row.values()) + "\n"
        if kind == "csv"
        else json.dumps(row, ensure_ascii=False)
    )
    file = tmp_path / f"mine.{kind}"
    file.write_text(text, encoding="utf-8")
    assert _files.read(file, COLUMNS) == [row]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", csv_text("question", "place", "topic"), r"a\.csv, row 2: no text in answer; its columns are question, place, topic"),
        ("a.csv", "", r"a\.csv has no rows; expected the columns question, place"),
        ("a.csv", ",".join(COLUMNS) + "\n", r"a\.csv has no rows"),
        ("a.csv", csv_text(*COLUMNS) + "why,,price,1\n", r"a\.csv, row 3: no text in place"),
        ("a.csv", csv_text(*COLUMNS).encode() + "多少钱,白鹭湖,price,20元\n".encode("gb18030"), r"a\.csv, line 3: not UTF-8 .*UTF-8"),
        ("a.jsonl", "", r"a\.jsonl has no rows"),
        ("a.jsonl", "\n\n", r"a\.jsonl has no rows"),
        ("a.jsonl", json.dumps(ROW) + '\n{"question": "x",\n', r"a\.jsonl, row 2: not a JSON object .*one object a line"),
        ("a.jsonl", json.dumps([ROW]), r"a\.jsonl, row 1: expected an object with question, place"),
        ("a.jsonl", json.dumps(ROW) + "\n\n" + json.dumps(ROW | {"answer": 20}), r"row 3: answer is 20, expected text; write"),
        ("a.jsonl", json.dumps(ROW | {"answer": None}), r"a\.jsonl, row 1: no text in answer"),
        ("a.csv", csv_text(*COLUMNS) + "why,a lake,price,5, or 6\n", r"row 3: more fields than columns, left over \[' or 6'\]"),
        ("a.jsonl", json.dumps({"question": "x"}), r"row 1: no text in place, topic, answer; its columns are question,"),
        ("a.jsonl", json.dumps({"question": "x"}), r"expected question, place, topic, answer, or question, response$"),
        ("a.csv", "question,response\nwhy,because\nwho,\n", r"row 3: no text in response; .* expected question, response$"),
        ("a.xlsx", "", r"a\.xlsx: the file type '\.xlsx' is not known; save it as \.csv or \.jsonl"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_says_where_and_why(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        data.load("questions", "en", path=file)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.jsonl", '{"question": "Any wifi?", "response": "Yes.", "note": "x"}\n{"question": "Where?", "response": "Here"}'),
        ("mine.csv", "response,question\nYes.,Any wifi?\nHere, Where?\n"),
    ],
)  # fmt: skip
def test_questions_may_have_their_response_as_it_stands(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    mine = data.load("questions", "en", path=tmp_path / name)
    assert mine.to_list() == [
        {"question": "Any wifi?", "response": "Yes."},
        {"question": "Where?", "response": "Here"},
    ]


def test_of_all_columns_the_response_is_made(tmp_path):
    (tmp_path / "mine.jsonl").write_text(json.dumps(ROW | {"response": "No."}), encoding="utf-8")
    (row,) = data.load("questions", "en", path=tmp_path / "mine.jsonl")
    assert row == ROW | {"response": data.response(ROW["place"], ROW["topic"], ROW["answer"])}


def test_repeated_rows_and_questions_with_two_answers_are_warned_of(tmp_path, recwarn):
    file = tmp_path / "mine.jsonl"
    rows = [ROW, ROW | {"question": "And that?"}, ROW, ROW | {"answer": "free"}, ROW | {"question": "And this?"}]
    file.write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")  # rows 1, 3, 5, 7, 9
    assert len(data.load("questions", "en", path=file)) == 5
    assert [str(warning.message).split(":")[:2] for warning in recwarn] == [
        ["mine.jsonl", " rows 1 and 5 are the same"],
        ["mine.jsonl", " rows 1 and 7 have the same question and different answers"],
    ]
    assert recwarn[0].filename == __file__
    recwarn.clear()
    pair = {"question": "Any wifi?", "response": "Yes."}
    file.write_text("\n".join(map(json.dumps, [pair, *[pair | {"response": f"No {i}."} for i in range(9)]])))
    data.load("questions", "en", path=file)
    assert [str(one.message).split(" have")[0] for one in recwarn] == [
        "mine.jsonl: rows 1 and 2; 1 and 3; 1 and 4; 1 and 5; 1 and 6 and 4 more pairs"
    ]
    recwarn.clear()
    file.write_text("\n".join(map(json.dumps, [{"messages": TALK["messages"]}] * 2)))
    data.load("dialogues", "en", path=file)
    assert [str(one.message).split(":")[1] for one in recwarn] == [" rows 1 and 2 are the same"]


REVIEWS = [{"text": "Clean and quiet.", "label": "positive"}, {"text": "Cold soup.", "label": "negative"}]
SENTENCE = {"text": "Bus 12 to Heron Lake", "spans": [{"start": 0, "end": 6, "label": "TRANSPORT"}]}
TALK = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello!"}]}


def jsonl(*rows: dict) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def span(start: object, end: object, label: str = "PLACE") -> dict:
    return SENTENCE | {"spans": [{"start": start, "end": end, "label": label}]}


@pytest.mark.parametrize(
    ("task", "rows"),
    [
        ("reviews", REVIEWS),
        ("entities", [SENTENCE]),
        ("passages", [{"id": "a", "title": "Refunds", "text": "Within two days."}]),
        ("passage_questions", [{"question": "How long?", "passages": ["a"]}]),
        ("dialogues", [TALK]),
        ("instructions", [{"task": "qa", "instruction": "Answer: {input}"}]),
        ("itineraries", [{"request": "One day", "plan": "Day 1 morning: walk."}]),
        ("tickets", [{"ticket": "Refund?", "policy": ["a"], "outcome": "grant", "reply": "Yes."}]),
        ("profiles", [{"profile": "A walker", "liked": ["amber-lake"], "relevant": ["heron-lake"]}]),
    ],
)
def test_a_learners_file_of_every_task_is_read(tmp_path, task, rows):
    (tmp_path / "mine.jsonl").write_bytes(b"\xef\xbb\xbf" + jsonl(*rows).replace("\n", "\r\n").encode())
    lines = [",".join(rows[0])]
    for row in rows:
        cells = [value if isinstance(value, str) else json.dumps(value) for value in row.values()]
        lines.append(",".join('"' + cell.replace('"', '""') + '"' for cell in cells))
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("mine.jsonl", "mine.csv"):
        assert data.load(task, "en", path=tmp_path / name).to_list() == rows


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("reviews", jsonl(REVIEWS[0], {"text": "x"}), r"row 2: no text in label; its columns are text, expected text, label"),
        ("reviews", jsonl(*REVIEWS, {"text": "x", "label": "great"}), r"row 3: the label 'great' is not known; use one of positive, negative"),
        ("reviews", jsonl(REVIEWS[0], REVIEWS[0]), r"all 2 rows have the label 'positive'; a classifier needs examples of positive and of negative"),
        ("reviews", jsonl(REVIEWS[0]).encode() + "{\"text\": \"差\"".encode("gb18030"), r"line 2: not UTF-8 text"),
        ("reviews", "", r"has no rows; expected the columns text, label"),
        ("entities", jsonl(SENTENCE, span(7, 99)), r"row 2: the span 7-99 is outside its text of 20 characters"),
        ("entities", jsonl(span(-1, 3)), r"row 1: the span -1-3 is outside its text"),
        ("entities", jsonl(span(5, 5)), r"row 1: the span 5-5 is outside its text of 20 characters, or empty"),
        ("entities", jsonl(span("0", 3)), r"row 1: the span '0'-3 is outside its text"),
        ("entities", jsonl(span(6, 9)), r"row 1: the span 6-9 begins or ends with a space"),
        ("entities", jsonl(span(0, 6, "CITY")), r"row 1: the label 'CITY' is not known; use one of PLACE, FOOD"),
        ("entities", jsonl(SENTENCE | {"spans": [*SENTENCE["spans"], *span(3, 6)["spans"]]}), r"row 1: the span 3-6 begins before the one in front"),
        ("entities", jsonl(SENTENCE | {"spans": "PLACE"}), r"row 1: spans must be a list \(in a CSV file, as JSON\), found 'PLACE'"),
        ("entities", jsonl(SENTENCE | {"spans": [[0, 6]]}), r"row 1: a span needs start, end and label, found \[0, 6\]"),
        ("entities", jsonl({"text": "x"}), r"row 1: no list in spans"),
        ("passages", jsonl({"id": "a", "title": "t", "text": "x"}, {"id": "a", "title": "t", "text": "y"}), r"row 2: the id 'a' stands in row 1 too"),
        ("dialogues", jsonl({"messages": TALK["messages"][:1]}), r"row 1: 1 messages; a dialogue ends with an answer"),
        ("dialogues", jsonl({"messages": TALK["messages"][::-1]}), r"row 1: message 1 must have the role 'user'"),
        ("dialogues", jsonl({"messages": [TALK["messages"][0], {"role": "assistant", "content": " "}]}), r"row 1: message 2 has no text"),
        ("instructions", jsonl({"task": "qa", "instruction": "Answer."}), r"row 1: an instruction has {input} in it once"),
        ("tickets", jsonl({"ticket": "x", "policy": [], "outcome": "maybe", "reply": "y"}), r"the outcome 'maybe' is not known; use one of grant"),
        ("profiles", jsonl({"profile": "x", "liked": ["atlantis"], "relevant": []}), r"row 1: no place 'atlantis' in the province"),
    ],
)  # fmt: skip
def test_a_file_with_an_unusable_row_names_the_row(tmp_path, task, content, message):
    file = tmp_path / "mine.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        data.load(task, "en", path=file)


# ---- generated training sets ----


@both_languages
@pytest.mark.parametrize(("task", "split"), data.GENERATORS)
def test_generated_rows_are_sound_and_about_documented_places(lang, task, split):
    rows = data.load(task, lang, split, size=400)
    assert len(rows) == 400 and rows[:] == data.load(task, lang, split, size=400)[:]
    text = json.dumps(rows.to_list(), ensure_ascii=False)
    if task != "reviews":  # which state no fact, and may name any place
        assert [place.id for place in world.places() if not place.documented and place.name(lang) in text] == []
    for row in rows:
        if task == "entities":
            _files._check_entities(row)
        elif task == "passage_questions":
            answer = row["answer"]
            assert row["context"][answer["start"] : answer["end"]] == answer["text"]
            assert row["context"].count(row["question"]) == 0
        elif task == "dialogues":
            _files._check_dialogue(row)
            for reply, expected in zip(row["messages"][1::2], row["expect"], strict=True):
                assert expected["value"].lower() in reply["content"].lower()
                assert not (expected["refuse"] and expected["value"])
        elif task == "itineraries":
            assert all(world.place(name).name(lang) in row["plan"] for name in row["places"])
            assert len(row["plan"].split("\n")) == 4 * row["days"]
