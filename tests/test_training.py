"""The training loop: it learns, it can be stopped, and it says what is wrong."""

import math

import pytest
import torch

import tiny
from tunelab import training
from tunelab.training import TrainingError, fit

ROWS = [{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8]}, {"input_ids": [9, 10, 11], "labels": [-100, 10, 11]}]
QUIET = {"steps": 30, "lr": 1e-2, "batch_size": 2, "progress": False}


def test_it_learns_and_the_same_seed_gives_the_same_losses():
    first, again, other = (fit(tiny.model(), ROWS, **QUIET, seed=seed).losses for seed in (0, 0, 1))
    assert first == again != other
    assert first[-1] < first[0] / 2


def test_a_rate_of_zero_changes_no_weight():
    model = tiny.model()
    before = [p.clone() for p in model.parameters()]
    fit(model, ROWS, **QUIET | {"lr": 0.0})
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_frozen_parameters_stay():
    model = tiny.model()
    model.model.embed_tokens.weight.requires_grad_(False)
    before = model.model.embed_tokens.weight.clone()
    fit(model, ROWS, **QUIET)
    assert torch.equal(before, model.model.embed_tokens.weight)


def test_an_interrupt_keeps_what_there_is_and_training_can_go_on():
    def stop(step):
        if step == 10:
            raise KeyboardInterrupt

    model = tiny.model()
    history = fit(model, ROWS, **QUIET, eval_every=10, on_eval=stop)
    assert history.interrupted and len(history.losses) == 10 and "interrupted" in repr(history)
    assert fit(model, ROWS, **QUIET).losses[0] < history.losses[0]


def test_evaluations_are_kept_with_their_step():
    history = fit(tiny.model(), ROWS, **QUIET, eval_every=15, on_eval=lambda step: step * 2)
    assert history.evaluations == [(0, 0), (15, 30), (30, 60)]
    assert history.tokens > 0 and history.final < history.losses[0]
    assert math.isnan(training.History().final)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the dataset is empty"),
        ([{"input_ids": [1, 2]}], "no column labels: the dataset has input_ids"),
        ([{"text": "x"}], "no column input_ids and labels"),
        ([{"input_ids": [1] * 1025, "labels": [1] * 1025}], "row 0 has 1025 tokens, the model takes 1024"),
        ([ROWS[0], {"input_ids": [1, 2, 3], "labels": [-100] * 3}], "row 1: all labels are -100"),
        ([{"input_ids": [1, 2, 3], "labels": [1, 2]}], "3 input_ids and 2 labels"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(rows, message):
    with pytest.raises(TrainingError, match=message):
        fit(tiny.model(), rows, **QUIET)


def test_a_loss_that_is_no_number_stops_with_advice():
    with pytest.raises(TrainingError, match=r"learning rate 1e\+30 is probably too high"):
        fit(tiny.model(), ROWS, **QUIET | {"lr": 1e30})


def test_a_frozen_model_and_nonsense_arguments_are_refused():
    with pytest.raises(TrainingError, match="everything is frozen"):
        fit(tiny.model().requires_grad_(False), ROWS, **QUIET)
    with pytest.raises(TrainingError, match="steps=0"):
        fit(tiny.model(), ROWS, **QUIET | {"steps": 0})


def test_padding_is_masked_and_never_a_label():
    batch = training.collate(ROWS, pad=3)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 10, 11, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7, 8], [-100, 10, 11, -100]]


def test_every_row_is_seen_in_each_round():
    batches = training._batches([3] * 10 + [30] * 6, size=2, seed=0)
    drawn = [row for _ in range(16) for row in next(batches)]  # two rounds of sixteen rows
    assert sorted(drawn) == sorted(list(range(16)) * 2)
