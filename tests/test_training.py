"""`fit`: it learns, repeats itself, survives the stop button, and says what is wrong instead of training nonsense."""

import math

import pytest
import torch
from datasets import Dataset

import tiny
from tunelab import chat, session, training
from tunelab.training import TrainingError, fit

ROWS = [{"input_ids": [5 + i, 6, 7, 8 + i, 2], "labels": [-100, -100, 7, 8 + i, 2]} for i in range(4)]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def quiet(model, rows=ROWS, **settings):
    return fit(model, rows, **{"steps": 4, "lr": 1e-3, "batch_size": 2, "progress": False} | settings)


def test_the_loss_falls_on_a_few_rows():
    model = tiny.model().eval()
    history = quiet(model, steps=60, lr=2e-2, batch_size=4)
    assert history.losses[0] == pytest.approx(math.log(tiny.RECIPE.vocabulary), abs=0.3)
    assert history.final < 0.1 and len(history.losses) == 60
    assert history.tokens == 60 * 4 * 5 and history.seconds > 0 and not history.interrupted
    assert model.training is False  # as it was before
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ROWS[3]["input_ids"]])).logits
    assert logits[0, 1:4].argmax(-1).tolist() == ROWS[3]["labels"][2:]


def test_the_same_seed_gives_the_same_losses():
    first, again = (quiet(tiny.model(), seed=1).losses for _ in range(2))
    assert first == again
    assert first != quiet(tiny.model(), seed=2).losses


def test_a_rate_of_zero_moves_nothing():
    model = tiny.model()
    before = weights(model)
    quiet(model, lr=0)
    assert torch.equal(weights(model), before)


def test_frozen_parameters_stay_and_the_others_move():
    model = tiny.model()
    model.requires_grad_(False)
    model.model.norm.requires_grad_(True)
    before = weights(model)
    quiet(model)
    moved = (weights(model) != before).sum().item()
    assert 0 < moved <= model.model.norm.weight.numel()


def test_the_stop_button_returns_what_there_is_and_fit_can_be_called_again():
    model = tiny.model()

    def stop(step):
        if step == 3:
            raise KeyboardInterrupt
        return step

    model.train()
    history = quiet(model, steps=10, eval_every=1, on_eval=stop)
    assert history.interrupted and len(history.losses) == 3 and "interrupted" in repr(history)
    assert history.evaluations == [(0, 0), (1, 1), (2, 2)]
    assert model.training is True
    assert all(p.grad is None for p in model.parameters())
    again = quiet(model, steps=2)
    assert len(again.losses) == 2 and not again.interrupted


def test_an_interrupt_between_gradient_and_step_leaves_no_gradient_behind():
    class Stops(torch.optim.SGD):
        def step(self, *args, **kwargs):
            raise KeyboardInterrupt

    model = tiny.model()
    history = quiet(model, optimizer=Stops)
    assert history.interrupted and history.losses == []
    assert all(p.grad is None for p in model.parameters())
    assert math.isnan(history.final) and repr(history).startswith("0 steps")


@pytest.mark.parametrize(("steps", "at"), [(4, [0, 2, 4]), (5, [0, 2, 4, 5])])
def test_evaluation_before_during_and_after(steps, at):
    model, modes = tiny.model(), []

    def look(step):
        modes.append(model.training)
        model.eval()  # what an evaluation does to the model must not reach the training
        return step * 10

    history = quiet(model, steps=steps, eval_every=2, on_eval=look)
    assert history.evaluations == [(step, step * 10) for step in at]
    assert quiet(model, on_eval=look).evaluations == []


def test_an_optimizer_of_ones_own_gets_parameters_and_rate():
    seen = []

    def make(parameters, rate):
        seen.append((len(list(parameters)), rate))
        return torch.optim.SGD(parameters, lr=rate)

    model = tiny.model()
    quiet(model, optimizer=make, lr=0.5)
    assert seen == [(len(list(model.parameters())), 0.5)]


def test_every_row_is_seen_in_each_round():
    batches = training._batches([3] * 10 + [30] * 6, size=2, seed=0)
    drawn = [row for _ in range(16) for row in next(batches)]  # two rounds of sixteen rows
    assert sorted(drawn) == sorted(list(range(16)) * 2)


def test_a_batch_holds_rows_of_like_length():
    lengths = [3, 30] * 64
    batches = training._batches(lengths, size=4, seed=0)
    mixed = [batch for batch in (next(batches) for _ in range(32)) if len({lengths[row] for row in batch}) > 1]
    assert len(mixed) <= 2  # one in each draw of sixteen batches, where the short rows end


def test_the_rate_rises_and_falls():
    rates = [training._rate(step, 100, 0.05) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True) and 0.01 <= rates[-1] < 0.02
    assert training._rate(0, 1, 0.05) == 1.0  # a single step is a full one


def test_a_line_at_the_end_unless_it_is_not_wanted(capsys):
    quiet(tiny.model())
    assert capsys.readouterr().out == ""
    quiet(tiny.model(), progress=True)
    assert "4 steps, 40 tokens, final loss 6." in capsys.readouterr().out


def test_what_was_done_is_told_in_the_language_of_the_session(monkeypatch):
    done = training.History(losses=[2.0] * 50, tokens=1234)
    stopped = training.History(losses=[2.0], tokens=7, interrupted=True)
    assert repr(done) == "50 steps, 1,234 tokens, final loss 2.000"
    assert repr(stopped) == "1 steps, 7 tokens, final loss 2.000, interrupted"
    monkeypatch.setattr(session, "_current", session.Session("", "zh", "tiny", "cpu", 0, {}))
    assert repr(done) == "50 步，1,234 个词元，最终损失 2.000"
    assert repr(stopped) == "1 步，7 个词元，最终损失 2.000，中途停止"


# ---- errors ----


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([], {}, "the dataset is empty: check the filter or the split"),
        ([{"question": "?", "labels": [1]}], {}, r"no column input_ids: the dataset has question, labels\. Encode text first"),
        (Dataset.from_dict({"text": ["a"]}), {}, "no column input_ids and labels: the dataset has text"),
        ([ROWS[0], {"input_ids": [5] * 1025, "labels": [5] * 1025}], {}, "row 1 has 1025 tokens, the model takes 1024 at most"),
        ([ROWS[0], {"input_ids": [5, 6], "labels": [-100, -100]}], {}, "row 1: all labels are -100.*chat.show_mask"),
        ([{"input_ids": [5, 6], "labels": [5, -100]}], {}, "row 0: all labels are -100"),  # no token predicts the first
        ([{"input_ids": [5, 6], "labels": [5, 6, 7]}], {}, "row 0: 2 input_ids and 3 labels; they must be as many"),
        (ROWS, {"steps": 0}, "steps=0, .*steps and batch_size start at 1"),
        (ROWS, {"batch_size": 0}, "batch_size=0"),
        (ROWS, {"lr": -1.0}, r"lr=-1\.0"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_says_why(rows, settings, message):
    model = tiny.model()
    before = weights(model)
    with pytest.raises(TrainingError, match=message):
        quiet(model, rows, **settings)
    assert torch.equal(weights(model), before)


def test_a_frozen_model_is_an_error():
    model = tiny.model()
    model.requires_grad_(False)
    with pytest.raises(TrainingError, match="everything is frozen, nothing would be trained"):
        quiet(model)


def test_an_absurd_rate_is_an_error_and_not_a_row_of_nan():
    with pytest.raises(
        TrainingError, match=r"the loss is (nan|inf) at step \d+: the learning rate 1e\+30 is probably too"
    ):
        quiet(tiny.model(), lr=1e30, steps=20)


def test_a_dataset_of_questions_is_trained_on_as_it_comes_from_encode_pairs():
    questions = Dataset.from_dict({"question": ["Where?", "票价多少？"], "response": ["North", "20元"]})
    encoded = chat.encode_pairs(tiny.tokenizer(), questions)
    history = quiet(tiny.model(), encoded, steps=3)
    assert len(history.losses) == 3
    with pytest.raises(TrainingError, match="no column input_ids and labels: the dataset has question, response"):
        quiet(tiny.model(), questions)


def test_collate_pads_on_the_right_and_never_trains_on_padding():
    batch = training.collate(
        [{"input_ids": [4, 5, 6], "labels": [-100, 5, 6]}, {"input_ids": [7], "labels": [7]}], pad=9
    )
    assert batch["input_ids"].tolist() == [[4, 5, 6], [7, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 5, 6], [7, -100, -100]]
    assert {t.dtype for t in batch.values()} == {torch.int64}


def test_several_optimizers_go_as_one():
    matrix, vector = torch.nn.Parameter(torch.eye(2)), torch.nn.Parameter(torch.ones(2))
    both = training.together(torch.optim.Muon([matrix], lr=0.1), torch.optim.SGD([vector], lr=0.2))
    schedule = torch.optim.lr_scheduler.LambdaLR(both, lambda step: 0.5**step)
    (matrix.sum() + vector.sum()).backward()
    both.step()
    schedule.step()
    assert torch.allclose(vector, torch.full((2,), 0.8)) and not torch.equal(matrix, torch.eye(2))
    assert [group["lr"] for group in both.param_groups] == pytest.approx([0.05, 0.1])
    both.zero_grad()
    assert matrix.grad is None and vector.grad is None
