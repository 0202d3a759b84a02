"""The machinery of lesson 05's experiments: an encoder that writes, pooled vectors, verdicts from intervals."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import pretrain
from experiments import heads_05 as heads
from experiments import lesson_05
from tunelab import chat, data
from tunelab.paths import course_file


@pytest.fixture(scope="module")
def encoder():
    recipe = replace(pretrain.FAMILY["encoder"], hidden=16, layers=1, intermediate=16)
    return pretrain.make_model(recipe).eval(), pretrain.sibling_tokenizer(recipe)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_answers_have_one_length_and_no_place_is_too_short(encoder, lang):
    _, tokenizer = encoder
    rows = heads.answer_rows(tokenizer, data.load("questions", lang, "test", size=60))
    for row in rows:
        answer = [label for label in row["labels"] if label != chat.IGNORED]
        assert len(answer) == heads.LENGTH and row["input_ids"][-heads.LENGTH :] == answer
        assert tokenizer.decode(answer).split(chat.IM_END)[0].endswith('"}')


def test_only_the_answer_is_masked():
    given = []
    model = SimpleNamespace(config=None)
    learner = heads.MaskedAnswers.__new__(heads.MaskedAnswers)
    torch.nn.Module.__init__(learner)
    learner.mask, learner.config = 2560, model.config
    learner.model = lambda **batch: given.append(batch)
    ids = torch.arange(20).repeat(50, 1)
    labels = ids.masked_fill(ids < 8, chat.IGNORED)
    learner(ids, torch.ones_like(ids), labels)
    hidden = given[0]["input_ids"] == 2560
    assert not hidden[:, :8].any() and 0.3 < hidden[:, 8:].float().mean() < 0.8
    assert ((given[0]["labels"] != chat.IGNORED) == hidden).all()


@pytest.mark.parametrize("passes", [1, 6, heads.LENGTH])
def test_all_masks_are_filled(encoder, passes):
    model, tokenizer = encoder
    questions = ["Where is Heron Lake?", "白鹭湖在哪个县？", "How much is it to get in, please?"]
    with torch.no_grad():
        replies = heads.fill_in(model, tokenizer, questions, passes)
        alone = heads.fill_in(model, tokenizer, questions[:1], passes)
    assert len(replies) == 3 and not any("[MASK]" in reply for reply in replies)
    assert replies[0] == alone[0]  # padding changes nothing


def test_padding_does_not_change_a_pooled_vector(encoder):
    model, tokenizer = encoder
    with torch.no_grad():
        both = heads.pooled(model.model, tokenizer, ["Heron Lake", "白鹭湖的门票多少钱？谢谢！"])
        one = heads.pooled(model.model, tokenizer, ["Heron Lake"])
    assert torch.allclose(both[0], one[0], atol=1e-5)


@pytest.mark.parametrize(
    ("ours", "verdict"), [([1.0] * 90 + [0.0] * 10, "better"), ([0.0] * 100, "worse"), ([0.0, 1.0] * 50, "same")]
)
def test_a_verdict_comes_from_the_interval(ours, verdict):
    assert lesson_05.difference(ours, [0.0, 1.0] * 50)["verdict"] == verdict
    few = lesson_05.difference([1.0, 0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0, 0.0])
    assert few["verdict"] == "undecided"


def test_as_many_rows_of_each_label_are_drawn():
    labels = ["a", "b"] * 50
    picked = lesson_05.drawn(labels, 16, seed=3)
    assert len(set(picked)) == 16 and sum(labels[i] == "a" for i in picked) == 8
    assert picked == lesson_05.drawn(labels, 16, seed=3) != lesson_05.drawn(labels, 16, seed=4)


def test_every_job_has_a_key_of_its_own():
    jobs = [
        *lesson_05.sweep_jobs(),
        *lesson_05.json_jobs(5),
        *(job for part in lesson_05.cheap_jobs().values() for job in part),
    ]
    assert len(set(jobs)) == len(jobs) and all(len(job) == len(lesson_05.KEYS) for job in jobs)


def test_the_best_rate_is_that_of_the_best_mean_over_languages_and_models():
    def done(scores):
        return {
            ("classify-dev", "reviews", model, lang, lesson_05.SEED, lr, lesson_05.ROWS["reviews"]): {
                "score": scores[model].get(lr, 0.5),
                "loss": lr,
            }
            for model in scores
            for lang in ("en", "zh")
            for lr in lesson_05.RATES
        }

    low, *_, high = lesson_05.RATES
    runs = done({"large": {high: 0.6}, "no-reviews": {low: 0.8}})
    assert lesson_05.best(runs, "reviews", "large") == high
    assert lesson_05.best(runs, "reviews", "no-reviews") == low == lesson_05.best(runs, "reviews", *lesson_05.SIBLINGS)
    assert lesson_05.best(done({"large": {}}), "reviews", "large") == low  # of equal ones, that of the least loss


def test_the_stored_rates_are_those_of_the_grid_and_no_encoder_stands_at_its_upper_end():
    stored = json.loads(course_file("assets", "results", "lesson_05.json").read_text(encoding="utf-8"))
    assert tuple(stored["rates"]) == lesson_05.RATES and stored["missing_runs"] == 0
    assert all(stored["chosen"][task]["encoder"] < max(lesson_05.RATES) for task in ("topic", "reviews"))
    assert len(set(stored["chosen"]["domain"].values())) == 1
