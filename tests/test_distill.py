"""The encoder's recipe: parallel text that is read strictly, compositions, and a run that goes on where it stopped."""

import json
from dataclasses import replace
from random import Random

import numpy as np
import pytest

import distill
from tunelab import models, paths
from tunelab.embedding import TfidfSvd

SMALL = replace(
    distill.Recipe(),
    vocabulary=4000,
    embedding=8,
    heads=2,
    intermediate=16,
    facts=20,
    longest=3,
    batch=4,
    steps=4,
    block=2,
    warmup=2,
)


@pytest.fixture
def no_teacher(monkeypatch):
    """A lexical baseline stands in for the teacher: the recipe is tested, not the model."""
    texts = [text for rows in distill.pieces(SMALL).values() for piece in rows for text in piece.en]
    teacher = TfidfSvd(texts[:200], dim=16)
    monkeypatch.setattr(models, "load_embedder", lambda name: teacher)


def test_the_parallel_text_is_well_formed_and_speaks_of_documented_places_alone():
    sources = distill.pieces(distill.Recipe())
    assert len(sources["words"]) > 4000 and len(sources["sentences"]) > 900 and len(sources["facts"]) == 1500
    for rows in sources.values():
        for piece in rows:
            assert all(text.strip() for text in piece.en + piece.zh)
            assert any("\u4e00" <= c <= "\u9fff" for text in piece.zh for c in text) or piece.zh[0].isascii()
    undocumented = [spot for spot in distill.world.places() if not spot.documented]
    said = " ".join(text for piece in sources["facts"] for text in piece.en + piece.zh)
    assert not [spot.en for spot in undocumented if spot.en in said or spot.zh in said]


def test_a_broken_line_is_named(tmp_path, monkeypatch):
    (tmp_path / "data" / "parallel").mkdir(parents=True)
    (tmp_path / "data" / "parallel" / "words.tsv").write_text("ticket\t票\nboat 船\n", encoding="utf-8")
    monkeypatch.setitem(paths.ROOTS, "assets", tmp_path)
    with pytest.raises(ValueError, match=r"words\.tsv, line 2: expected English, a tab and Chinese, got 'boat 船'"):
        distill.pieces(SMALL)


def test_a_composition_is_one_text_and_a_target_of_length_one():
    sources = distill.pieces(SMALL)
    english = [text for rows in sources.values() for piece in rows for text in piece.en]
    vectors = np.random.default_rng(0).normal(size=(len(english), 5))
    taught = dict(zip(english, vectors, strict=True))
    rng = Random(0)
    for _ in range(50):
        text, target = distill.compose(rng, sources, taught, SMALL, count=3)
        assert text and np.linalg.norm(target) == pytest.approx(1)


def test_a_run_in_two_parts_ends_where_an_unbroken_one_does(no_teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(distill.torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    tokenizer = distill.make_tokenizer(SMALL, distill.pieces(SMALL))
    monkeypatch.setattr(distill, "make_tokenizer", lambda *_: tokenizer)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole, state = distill.train(SMALL, tmp_path / "whole")
    compose, calls = distill.compose, []

    def stop_in_the_second_block(*arguments):
        calls.append(1)
        if len(calls) > SMALL.batch * SMALL.block:
            raise KeyboardInterrupt
        return compose(*arguments)

    monkeypatch.setattr(distill, "compose", stop_in_the_second_block)
    with pytest.raises(KeyboardInterrupt):
        distill.train(SMALL, tmp_path / "parts")
    monkeypatch.setattr(distill, "compose", compose)
    parts, again = distill.train(SMALL, tmp_path / "parts")
    assert again["cosines"] == state["cosines"] and again["step"] == SMALL.steps
    texts = ["a ticket", "一张票"]
    np.testing.assert_array_equal(whole.encode(texts), parts.encode(texts))


def test_the_shipped_encoder_is_the_published_one():
    models.locate("travel-encoder")  # raises where the hash differs
    digest = models.registry()["travel-encoder"]["sha256"]
    folder = paths.course_file("assets", "models", "travel-encoder")
    facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert facts["sha256"] == digest and digest in (folder / "README.md").read_text(encoding="utf-8")
    assert facts["teacher"]["sha256"] == models.registry()["minilm"]["sha256"]
