"""A claim about training must fail where nothing is trained: every lesson is run with a learning rate of zero."""

import jupytext
import matplotlib
import pytest

from tunelab import training
from tunelab.claims import ledger
from tunelab.paths import course_file

# By lesson: claims that cannot hold when no weight moves.
CANNOT_HOLD = {
    "01": {"beats-unigram", "tuned-valid", "tuned-new-places", "scratch-valid", "forgetting", "all-moved"},
    "02": {
        "reviews-generated",
        "entities-generated",
        "entities-hand",
        "plans-generated",
        "instructions-known",
        "methods-learn",
        "two-instructions",
    },
    "04": {
        "lora-answers",
        "adapter-answers",
        "llama-recovers",
        "adapter-helps-dialogue",
        "learns-to-pad",
        "never-recovers",
    },
    "05": {"decoder-learns", "size-valid", "size-place", "size-loss"},
    "06": {
        "opt-live-loss",
        "opt-live-answers",
        "ev-heart-recall",
        "ev-heart-learnt",
        "st-learns",
        "st-far",
        "st-f1-names",
    },
    "07": {
        "above-random",
        "above-base",
        "has-a-tail",
        "loss-at-4",
        "answers-at-4",
        "json-at-8",
        "alpha-forgotten-loss",
    },
    "10": {"both-new", "read"},
}


@pytest.mark.parametrize("number", CANNOT_HOLD)
def test_claims_fail_when_the_learning_rate_is_zero(number, monkeypatch):
    fit = training.fit

    def without_learning(model, dataset, **settings):
        return fit(model, dataset, **settings | {"steps": 1, "lr": 0.0, "eval_every": 1, "progress": False})

    monkeypatch.setattr(training, "fit", without_learning)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("TUNELAB_STRICT", raising=False)
    matplotlib.use("agg")
    (source,) = course_file("lessons").glob(f"{number}_*.py")
    notebook = jupytext.read(source, fmt={"extension": ".py", "format_name": "percent", "comment_magics": False})
    scope = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "exercise" not in cell.metadata:
            exec(cell.source, scope)
    failed = {record.name for record in ledger() if not record.holds}
    assert CANNOT_HOLD[number] <= failed
