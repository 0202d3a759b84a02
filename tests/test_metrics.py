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


def test_span_f1_counts_whole_mentions_with_their_label():
    truth = [["B-PLACE", "I-PLACE", "O", "B-TIME"], ["O", "B-FOOD"]]
    assert metrics.span_f1(truth, truth) == 1.0
    assert metrics.span_f1([["B-PLACE", "O", "O", "B-TIME"], ["O", "B-FOOD"]], truth) == pytest.approx(
        2 / 3
    )  # cut short
    assert metrics.span_f1([["B-FOOD", "I-FOOD", "O", "O"], ["O", "O"]], truth) == 0.0  # the label is wrong
    assert metrics.span_f1([["B-PLACE", "B-PLACE", "O", "O"], ["O", "O"]], truth) == 0.0  # two mentions for one
    assert metrics.span_f1([["O", "O"]], [["O", "O"]]) == 0.0


@pytest.mark.parametrize("tags", [[["O"], ["O"]], [["O", "O"]], []])
def test_span_f1_refuses_what_does_not_fit(tags):
    with pytest.raises(ValueError, match="every token needs one tag in both"):
        metrics.span_f1(tags, [["O"]])


def test_bleu_of_sentences():
    text = "Take bus 7 to the lake and buy a honey soap."
    assert metrics.bleu([text], [text], "en") == pytest.approx(100)
    assert metrics.bleu(["nothing of it"], [text], "en") < 5
    assert 20 < metrics.bleu([text.replace("honey", "lemon")], [text], "en") < 80


def test_bleu_splits_chinese_into_characters():
    near, reference = ["坐7路车去白鹭湖看石狮"], ["坐7路车去白鹭湖看花海"]
    assert metrics.bleu(near, reference, "zh") > 60
    assert metrics.bleu(near, reference, "en") < 10  # without spaces the whole sentence would be one word
    for texts in ([], ["a", "b"]):
        with pytest.raises(ValueError, match="as many"):
            metrics.bleu(texts, ["a"], "en")


@pytest.mark.parametrize(
    ("answer", "same", "f1"),
    [
        ("20 yuan", True, 1.0),
        (" 20  Yuan.", True, 1.0),
        ("about 20 yuan", False, 0.8),
        ("20", False, 2 / 3),
        ("nothing", False, 0.0),
        ("", False, 0.0),
    ],
)
def test_answers_are_compared_as_words(answer, same, f1):
    assert metrics.exact_match(answer, "20 yuan") == same
    assert metrics.token_f1(answer, "20 yuan") == pytest.approx(f1)


def test_chinese_answers_are_compared_as_characters():
    assert metrics.exact_match("两号柜台。", "两号柜台")
    assert metrics.token_f1("柜台", "2号柜台") == pytest.approx(2 * 2 / (2 + 4))
    assert metrics.token_f1("20:00之前", "游览前一天20:00之前") == pytest.approx(2 * 4 / (4 + 9))


def test_the_interval_over_seeds_covers_new_seeds_and_new_items():
    rng, covered, narrow = np.random.default_rng(2), 0, 0
    for trial in range(150):
        seeds, items = 0.1 * rng.standard_normal((2, 12, 1)), 0.2 * rng.standard_normal(60)
        first, second = 0.5 + seeds + items + 0.05 * rng.standard_normal((2, 12, 60))
        mean, low, high = metrics.bootstrap_seeds(first, second, resamples=300, seed=trial)
        assert low <= mean <= high
        covered += low <= 0 <= high  # both systems are equal
        _, low, high = metrics.bootstrap((first - second).mean(0), resamples=300, seed=trial)
        narrow += low <= 0 <= high
    assert 0.85 <= covered / 150 <= 0.99
    assert narrow / 150 < 0.5  # drawing items alone takes chance among the seeds for a difference


def test_the_interval_over_seeds_pairs_the_items():
    rng = np.random.default_rng(3)
    hard = rng.random(200)
    first, second = np.stack([hard + 0.05] * 3), np.stack([hard] * 5)  # seeds need not be as many
    mean, low, high = metrics.bootstrap_seeds(first, second)
    assert (mean, low, high) == pytest.approx((0.05, 0.05, 0.05))
    mean, low, high = metrics.bootstrap_seeds(first)
    assert low < mean < high and (mean, low, high) == metrics.bootstrap_seeds(first)


@pytest.mark.parametrize("wrong", [[0.5, 0.6], [[]], [], np.ones((2, 3, 4))])
def test_the_interval_over_seeds_refuses_what_is_no_table(wrong):
    with pytest.raises(ValueError, match="scores are"):
        metrics.bootstrap_seeds(wrong)
    with pytest.raises(ValueError, match=r"the same items for both systems: got \(2, 3\) and \(2, 4\)"):
        metrics.bootstrap_seeds(np.ones((2, 3)), np.ones((2, 4)))
