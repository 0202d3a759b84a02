"""Lesson 10 beyond its notebook: its own functions on other input, and the table that it shows."""

import ast
import json
import re
from itertools import pairwise
from random import Random

import jupytext
import numpy as np
import pytest

from tunelab import corpus, data, models, paths, world

(SOURCE,) = paths.course_file("lessons").glob("10_*.py")
STORED = paths.course_file("assets", "results", "lesson_10.json")


@pytest.fixture(scope="module", params=["en", "zh"])
def lesson(request):
    """The functions and constants of the lesson's source in one language, without running its cells."""
    notebook = jupytext.read(SOURCE, fmt={"extension": ".py", "format_name": "percent", "comment_magics": False})
    body = [
        node
        for cell in notebook.cells
        if cell.cell_type == "code" and "exercise" not in cell.metadata
        for node in ast.parse(cell.source).body
        if isinstance(node, ast.FunctionDef) or (isinstance(node, ast.Assign) and ast.unparse(node).startswith("SIZE"))
    ]
    scope = {
        "LANG": request.param,
        "T": lambda **texts: texts[request.param],
        "tokenizer": models.load_lm()[1],
        "re": re,
        "corpus": corpus,
        "world": world,
        "data": data,
        "pairwise": pairwise,
        "np": np,
    }
    exec(compile(ast.Module(body, []), SOURCE.name, "exec"), scope)
    return scope


@pytest.mark.parametrize(("size", "overlap"), [(48, 16), (16, 4), (160, 0), (7, 6)])
def test_chunks_cover_the_text_and_overlap_in_tokens(lesson, size, overlap):
    for text in list(data.load("passages", lesson["LANG"], "dev")["text"])[:5]:
        pieces, place = lesson["chunks"](text, size, overlap), 0
        for piece in pieces:
            assert len(lesson["tokenizer"](piece)["input_ids"]) <= size + 6  # a character at either end stays whole
            start = text.index(piece, max(0, place - len(piece)))
            assert start <= place
            place = start + len(piece)
        assert place == len(text)
        assert len(pieces) == 1 or len(pieces[-1]) > 0


def test_a_short_text_is_one_chunk_and_an_empty_one_none(lesson):
    assert lesson["chunks"]("45 yuan", 48, 16) == ["45 yuan"]
    assert lesson["chunks"]("", 48, 16) == []


def test_a_mistake_costs_what_the_lesson_says(lesson):
    costs = {
        ("handover", "answer"): 10,
        ("handover", "refuse"): 10,
        ("grant", "handover"): 1,
        ("refuse", "handover"): 1,
        ("refuse", "grant"): 3,
        ("answer", "refuse"): 3,
        ("grant", "answer"): 0,
        ("handover", "handover"): 0,
        ("refuse", "refuse"): 0,
    }
    assert {pair: lesson["mistake"](*pair) for pair in costs} == costs


def test_the_stored_load_is_of_sixteen_clients_without_an_error():
    stored = json.loads(paths.course_file("assets", "results", "bench.json").read_text(encoding="utf-8"))
    rows = {(row["path"], row["clients"]): row for row in stored["ratios_to_one_client"]}
    assert stored["requests"] >= 200 and rows.keys() >= {("/search", 16), ("/answer", 16)}
    assert all(row["errors"] == 0 for row in rows.values())


def test_reading_is_answered_by_its_text_alone(lesson):
    rng, differs = Random(1), 0
    for _ in range(200):
        turns = lesson["reading"](rng)
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        text = turns[0]["content"].lower()
        assert all(turn["content"].lower() in text for turn in turns[1::2])
        real = [spot for spot in world.places() if spot.name(lesson["LANG"]).lower() in text]
        # Memory would be wrong about most of the real places.
        differs += sum(
            turns[1]["content"] not in {spot.answer(t, lesson["LANG"]) for t in world.TOPICS} for spot in real
        )
    assert differs > 20


def test_a_number_is_found_in_a_word_or_a_sentence(lesson):
    assert [lesson["number"](text) for text in ("45 yuan", "门票120元。", "no idea")] == ["45", "120", ""]


def test_filters_hold_for_what_they_let_through(lesson):
    def passes(rule, facts):
        if "$and" in rule:
            return all(passes(part, facts) for part in rule["$and"])
        ((key, wanted),) = rule.items()
        if not isinstance(wanted, dict):
            return facts[key] == wanted
        ((sign, bound),) = wanted.items()
        return {"$lte": lambda v: v <= bound, "$gt": lambda v: v > bound, "$in": lambda v: v in bound}[sign](facts[key])

    for row in data.load("profiles", lesson["LANG"], "test"):
        rule = lesson["where"](row["filter"])
        for name in row["relevant"]:
            assert rule is None or passes(rule, lesson["facts_of"](world.place(name)))


def test_index_bytes_are_those_of_hnswlib(lesson, tmp_path):
    hnswlib = pytest.importorskip("hnswlib")
    vectors = np.random.default_rng(0).standard_normal((3000, 64), dtype=np.float32)
    index = hnswlib.Index(space="cosine", dim=64)
    index.init_index(max_elements=3000, M=8, ef_construction=20)
    index.add_items(vectors, num_threads=1)
    index.save_index(str(tmp_path / "index"))
    assert lesson["index_bytes"](3000, 64, 8) == pytest.approx((tmp_path / "index").stat().st_size, rel=0.02)


def test_the_stored_table_is_of_this_base_and_whole():
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    assert stored["base_sha256"] == models.registry()["travel-base"]["sha256"]
    assert stored["command"].startswith("python -m experiments.lesson_10")
    assert sorted((run["lang"], run["seed"]) for run in stored["runs"]) == [
        (lang, n) for lang in ("en", "zh") for n in range(5)
    ]
    for run in stored["runs"]:
        assert run["both"]["new"] > run["text"]["new"] and run["weights"]["old"] > run["both"]["old"]
