"""Scores: what counts as a right answer, and how wide the interval is."""

import numpy as np
import pytest

from tunelab import metrics

ROW = {"place": "白鹭湖", "topic": "price", "answer": "20元"}
RIGHT = '{"place": "白鹭湖", "topic": "price", "answer": "20元"}'


@pytest.mark.parametrize(
    ("reply", "true"),
    [
        (RIGHT, {"valid", "place", "topic", "answer", "record"}),
        ('{"answer":"20元","topic":"price","place":"白鹭湖"}', {"valid", "place", "topic", "answer", "record"}),
        (RIGHT.replace("20", "30"), {"valid", "place", "topic"}),
        ('{"place": "白鹭湖", "answer": "20元"}', {"valid", "place", "answer"}),  # a field is missing
        ('{"place": "白鹭湖", "topic": "price", "answer": 20}', {"valid", "place", "topic"}),
        ("{}", {"valid"}),
        ("[]", set()),  # JSON, but no object
        ("null", set()),
        ('"20元"', set()),
        ("20元", set()),
        ("", set()),
        (RIGHT[:-1], set()),
        (RIGHT + " 谢谢", set()),
    ],
)
def test_score_json_scores_each_field(reply, true):
    scores = metrics.score_json([reply], [ROW])
    assert {name for name, (value,) in scores.items() if value} == true
    assert list(scores) == ["valid", "place", "topic", "answer", "record"]


def test_score_json_keeps_the_order_and_takes_any_iterable():
    scores = metrics.score_json([RIGHT, "?", RIGHT], (dict(ROW, answer=a) for a in ("20元", "20元", "30元")))
    assert scores["valid"] == [True, False, True] and scores["record"] == [True, False, False]


def test_score_json_refuses_unequal_lengths():
    with pytest.raises(ValueError, match="1 replies and 2 references: they must be as many"):
        metrics.score_json([RIGHT], [ROW, ROW])


def test_the_mean_of_nothing_is_an_error():
    assert metrics.mean([True, False]) == 0.5
    for function in (metrics.mean, metrics.bootstrap):
        with pytest.raises(ValueError, match="the mean of no values is not defined"):
            function([])


def test_the_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        mean, low, high = metrics.bootstrap(rng.random(60) < 0.6, resamples=400, seed=trial)
        assert low <= mean <= high
        covered += low <= 0.6 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_the_bootstrap_is_repeatable_and_narrower_at_a_lower_level():
    values = [True] * 30 + [False] * 20
    mean, low, high = metrics.bootstrap(values)
    assert (mean, low, high) == metrics.bootstrap(values) and mean == 0.6
    _, inner_low, inner_high = metrics.bootstrap(values, level=0.5)
    assert low < inner_low < inner_high < high
    assert metrics.bootstrap([1.0, 1.0, 1.0]) == (1.0, 1.0, 1.0)


def test_a_paired_interval_sees_a_difference_that_two_intervals_cannot():
    rng = np.random.default_rng(1)
    hard = rng.random(300)  # questions of very different difficulty
    first, second = hard + 0.05 + 0.02 * rng.standard_normal(300), hard
    (_, low, _), (_, _, high) = metrics.bootstrap(first), metrics.bootstrap(second)
    assert low < high  # the two overlap
    mean, low, high = metrics.bootstrap(first - second)
    assert 0.04 < low < mean < high < 0.06
