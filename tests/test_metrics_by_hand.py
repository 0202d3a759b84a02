"""Lesson 06's metrics by hand are the libraries', on a thousand random cases each and at the edges."""

import ast
import math
import warnings
from types import SimpleNamespace

import jupytext
import pytest
import sacrebleu
from hypothesis import example, given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support as seqeval_scores
from sklearn.metrics import cohen_kappa_score, precision_recall_fscore_support

from tunelab import metrics
from tunelab.paths import course_file

BY_HAND = ("counts", "precision_recall_f1", "f1", "ngrams", "bleu", "kappa")
SOURCE = course_file("lessons", "06_optimizers_evaluation_strategies.py")


def teaching_code(text):
    """The lesson's functions of BY_HAND, with its imports; no other line of the lesson is run."""
    notebook = jupytext.reads(text, fmt={"extension": ".py", "format_name": "percent", "comment_magics": False})
    scope = {"metrics": metrics}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "exercise" not in cell.metadata:
            kept = [
                node
                for node in ast.parse(cell.source).body
                if (isinstance(node, ast.ImportFrom) and node.module in ("collections", "math"))
                or (isinstance(node, ast.FunctionDef) and node.name in BY_HAND)
            ]
            exec(compile(ast.Module(kept, []), "lesson 06", "exec"), scope)
    return SimpleNamespace(**{name: scope[name] for name in BY_HAND})


lesson = teaching_code(SOURCE.read_text(encoding="utf-8"))
thousand = settings(max_examples=1000, deadline=None, derandomize=True, database=None)  # the same cases on every run


def pairs_of(values, smallest=1, largest=25):
    """Two lists of equal length, as a strategy."""
    return st.lists(st.tuples(values, values), min_size=smallest, max_size=largest).map(
        lambda rows: tuple(map(list, zip(*rows, strict=True)))
    )


# ---- precision, recall, F1 ----


@thousand
@given(pairs_of(st.sampled_from(["price", "time", "food", "bus"])))
@example((["a"], ["a"]))  # one row, one label, identical
@example((["a"], ["b"]))  # no overlap
@example((["a", "a", "a"], ["a", "a", "a"]))  # one class alone
@example((["a", "a", "a"], ["a", "b", "b"]))  # a class that is never predicted
@example((["a", "b"], ["a", "a"]))  # a class that never occurs
def test_f1_is_scikit_learns(case):
    predicted, truth = case
    labels = sorted({*predicted, *truth})
    theirs = precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0)
    for position, label in enumerate(labels):
        ours = lesson.precision_recall_f1(*lesson.counts(predicted, truth, label))
        assert ours == pytest.approx([theirs[score][position] for score in range(3)], abs=1e-12)
    for average in ("macro", "micro"):
        theirs = precision_recall_fscore_support(truth, predicted, average=average, zero_division=0)[2]
        assert lesson.f1(predicted, truth, average) == pytest.approx(theirs, abs=1e-12)


def test_f1_where_nothing_is_to_be_counted():
    assert lesson.precision_recall_f1(0, 0, 0) == (0, 0, 0)  # neither side has any: 0, not nan
    assert lesson.precision_recall_f1(0, 0, 3) == (0, 0, 0)  # nothing was predicted
    assert lesson.precision_recall_f1(0, 3, 0) == (0, 0, 0)  # there was nothing to find
    with pytest.raises(ValueError, match="F1 of no rows is not defined"):
        lesson.f1([], [], "macro")
    with pytest.raises(ValueError):
        lesson.counts(["a"], ["a", "b"], "a")


TAGS = st.sampled_from(["O", "B-PLACE", "I-PLACE", "B-FOOD", "I-FOOD"])


@thousand
@given(st.lists(pairs_of(TAGS, largest=10), min_size=1, max_size=4))
@example([(["O"], ["O"])])  # no mention on either side
@example([(["O"], ["B-FOOD"])])  # an empty prediction
@example([(["B-FOOD"], ["B-FOOD"])])  # one token, identical
@example([(["B-FOOD"], ["B-PLACE"])])  # the label alone is wrong
def test_mentions_counted_by_hand_are_seqevals(sentences):
    predicted, truth = (list(side) for side in zip(*sentences, strict=True))
    mine, theirs = (
        {(row, *mention) for row, tags in enumerate(side) for mention in get_entities(tags)}
        for side in (predicted, truth)
    )
    ours = lesson.precision_recall_f1(len(mine & theirs), len(mine - theirs), len(theirs - mine))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scores that are 0 because nothing was there
        library = seqeval_scores(truth, predicted, average="micro", zero_division=0)[:3] if mine | theirs else (0, 0, 0)
    assert ours == pytest.approx([float(score) for score in library], abs=1e-12)
    assert metrics.span_f1(predicted, truth) == pytest.approx(ours[2], abs=1e-12)


# ---- BLEU ----

WORDS = st.lists(st.sampled_from(["bus", "seven", "goes", "to", "the", "lake", "。"]), max_size=14)


@thousand
@given(pairs_of(WORDS, largest=5))
@example(([[]], [["a", "b", "c", "d"]]))  # an empty prediction
@example(([["a", "b", "c", "d"]], [[]]))  # an empty reference
@example(([["a"]], [["a"]]))  # one token
@example(([list("abcd")], [list("abcd")]))  # identical
@example(([list("abcd")], [list("efgh")]))  # no overlap
@example(([list("abab")], [list("ab")]))  # clipping
def test_bleu_is_sacrebleus(case):
    texts, references = case
    joined = [" ".join(text) for text in texts], [[" ".join(reference) for reference in references]]
    theirs = sacrebleu.corpus_bleu(*joined, tokenize="none", force=True).score
    assert lesson.bleu(texts, references) == pytest.approx(theirs, abs=1e-9)


@thousand
@given(pairs_of(st.text("坐七路车去白鹭湖看花海，20元。", max_size=16), largest=4))
def test_chinese_bleu_is_sacrebleus_over_its_characters(case):
    texts, references = case
    cut = sacrebleu.metrics.BLEU(tokenize="zh").tokenizer
    tokens = [[cut(text).split() for text in side] for side in (texts, references)]
    assert lesson.bleu(*tokens) == pytest.approx(metrics.bleu(texts, references, "zh"), abs=1e-9)


@pytest.mark.parametrize(("texts", "references"), [([], []), ([["a"]], []), ([["a"]], [["a"], ["b"]])])
def test_bleu_of_unequal_lists_is_an_error(texts, references):
    with pytest.raises(ValueError, match="they must be as many, and one at least"):
        lesson.bleu(texts, references)


# ---- kappa ----


@thousand
@given(pairs_of(st.integers(1, 5)))
@example(([3], [3]))  # one mark: chance agreement is complete, and kappa undefined
@example(([5, 5, 5], [5, 5, 5]))  # one class alone: undefined, too
@example(([5, 5, 5], [5, 5, 4]))  # one rater without any variance
@example(([1, 5], [5, 1]))  # worse than chance
@example(([1, 2, 3], [1, 2, 3]))  # identical
def test_kappa_is_scikit_learns(case):
    first, second = case
    rules = {None: None, "linear": lambda a, b: abs(a - b), "quadratic": lambda a, b: (a - b) ** 2}
    for weights, weight in rules.items():
        ours = lesson.kappa(first, second, weight) if weight else lesson.kappa(first, second)
        if len({*first, *second}) == 1:
            assert math.isnan(ours)  # 0 / 0: neither agreement nor chance can be told
            continue
        # scikit-learn weighs by position among the labels that occur; all five are named, so that marks count.
        theirs = cohen_kappa_score(first, second, weights=weights, labels=[1, 2, 3, 4, 5])
        assert ours == pytest.approx(theirs, abs=1e-12)


def test_kappa_of_unequal_lists_is_an_error():
    for first, second in (([], []), ([1], [1, 2])):
        with pytest.raises(ValueError, match="both raters mark the same items, and one at least"):
            lesson.kappa(first, second)
