"""One plain training loop for every lesson: `fit(model, dataset, ...)`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .chat import IGNORED
from .display import Progress
from .session import language, trim_memory

if TYPE_CHECKING:
    import torch


class TrainingError(ValueError):
    """Training cannot go on; the message says why, and what to do."""


@dataclass
class History:
    """What a call of :func:`fit` did."""

    losses: list[float] = field(default_factory=list)  # one a step, nats a token
    evaluations: list[tuple[int, Any]] = field(default_factory=list)  # (step, what on_eval returned)
    seconds: float = 0.0
    tokens: int = 0  # padding left out
    interrupted: bool = False

    @property
    def final(self) -> float:
        """Mean loss of the last twentieth of the steps, at least ten of them; nan without a step."""
        tail = self.losses[-max(10, len(self.losses) // 20) :]
        return sum(tail) / len(tail) if tail else math.nan

    def __repr__(self) -> str:
        if language() == "zh":
            stopped = "，中途停止" if self.interrupted else ""
            return f"{len(self.losses)} 步，{self.tokens:,} 个词元，最终损失 {self.final:.3f}{stopped}"
        stopped = ", interrupted" if self.interrupted else ""
        return f"{len(self.losses)} steps, {self.tokens:,} tokens, final loss {self.final:.3f}{stopped}"


def fit(
    model: torch.nn.Module,
    dataset: Sequence[dict[str, list[int]]],
    *,
    steps: int,
    lr: float,
    batch_size: int = 16,
    optimizer: Callable[[Iterable[Any], float], Any] | None = None,
    warmup: float = 0.05,
    seed: int = 0,
    eval_every: int = 0,
    on_eval: Callable[[int], Any] | None = None,
    progress: bool = True,
) -> History:
    """Trains the parameters of ``model`` that require a gradient, with AdamW and a cosine schedule.

    Args:
        model: takes ``input_ids``, ``attention_mask``, ``labels`` and returns an object with ``.loss``.
        dataset: rows with ``input_ids`` and ``labels`` of equal length; -100 is not trained on.
        steps: optimizer steps; the data are shuffled anew on each round.
        lr: the highest learning rate.
        batch_size: rows a step.
        optimizer: ``(parameters, lr) -> torch optimizer``; AdamW without weight decay if None.
        warmup: share of the steps in which the rate rises from zero.
        seed: of the order of the data.
        eval_every: calls ``on_eval(step)`` before the first step, every so many steps, and after the last.
        progress: shows a bar.

    Returns:
        a History. An interrupt (the stop button) returns what there is; the model keeps what it has learnt, and
        ``fit`` can be called again.

    Raises:
        TrainingError: an empty dataset, missing columns, rows longer than the model allows, nothing to train, labels
            all masked, or a loss that is no longer a number.
    """
    import torch

    rows = _checked(model, dataset, steps, lr, batch_size)
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise TrainingError(
            "no parameter of the model requires a gradient: everything is frozen, nothing would be trained"
        )
    trim_memory()  # what earlier cells have freed would come on top of what this training needs
    make = optimizer or (lambda parameters, rate: torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0))
    stepper = make(trained, lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(stepper, lambda step: _rate(step, steps, warmup))
    device = trained[0].device
    autocast, scaler = _precision(device)
    pad = getattr(getattr(model, "config", None), "pad_token_id", None) or 0
    batches = _batches([len(row["input_ids"]) for row in rows], batch_size, seed)
    history, bar, started = History(), Progress(steps, progress), time.perf_counter()
    was_training = model.training
    try:
        for step in range(steps):
            if on_eval and eval_every and step % eval_every == 0:
                history.evaluations.append((step, on_eval(step)))
            model.train()
            batch = {name: t.to(device) for name, t in collate([rows[i] for i in next(batches)], pad).items()}
            with autocast():
                loss = model(**batch).loss
            value = loss.item()
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} at step {step + 1}: the learning rate {lr:g} is probably too high; load the model "
                    "again (its weights may be damaged) and try a third of it"
                )
            scaler.scale(loss).backward()
            scaler.unscale_(stepper)
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            scaler.step(stepper)
            scaler.update()
            schedule.step()
            stepper.zero_grad()
            history.losses.append(value)
            history.tokens += int(batch["attention_mask"].sum())
            bar.update(step + 1, f"{'损失' if language() == 'zh' else 'loss'} {value:.3f}")
        if on_eval and eval_every:
            history.evaluations.append((steps, on_eval(steps)))
    except KeyboardInterrupt:
        history.interrupted = True
        stepper.zero_grad()
    finally:
        model.train(was_training)
        history.seconds = time.perf_counter() - started
        bar.close(f"{history!r} · {history.seconds:.0f} s")
    return history


def together(*optimizers: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Several optimizers as one, for ``fit(optimizer=...)``: each steps its own parameters, one schedule moves all rates."""
    import torch

    class Together(torch.optim.Optimizer):
        def step(self, closure: Any = None) -> None:
            for one in optimizers:
                one.step()

    groups = [group for one in optimizers for group in one.param_groups]
    made = Together([p for group in groups for p in group["params"]], {})
    made.param_groups = groups  # the very same dictionaries: a schedule that sets a rate sets it in the optimizer
    return made


def collate(rows: Sequence[dict[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """Rows of unequal length as one batch, padded on the right; padding is masked and never a label.

    Returns input_ids, attention_mask, labels: int64, (rows, longest).
    """
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED)
    for i, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[i, :length] = torch.tensor(row["input_ids"])
        mask[i, :length] = 1
        labels[i, :length] = torch.tensor(row["labels"])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _checked(
    model: torch.nn.Module, dataset: Sequence[dict[str, list[int]]], steps: int, lr: float, batch_size: int
) -> list[dict[str, list[int]]]:
    """The rows of ``dataset`` as a list (a Dataset is slow to index), once nothing is wrong with them."""
    if steps < 1 or batch_size < 1 or lr < 0:
        raise TrainingError(
            f"steps={steps}, batch_size={batch_size}, lr={lr}: steps and batch_size start at 1, lr at 0"
        )
    if len(dataset) == 0:
        raise TrainingError("the dataset is empty: check the filter or the split that made it")
    names = getattr(dataset, "column_names", None) or list(dataset[0])
    missing = [name for name in ("input_ids", "labels") if name not in names]
    if missing:
        raise TrainingError(
            f"no column {' and '.join(missing)}: the dataset has {', '.join(names)}. Encode text first, "
            "with chat.encode_pairs(tokenizer, dataset) for questions and answers"
        )
    rows = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in dataset]
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    for number, row in enumerate(rows):
        length = len(row["input_ids"])
        if length != len(row["labels"]):
            raise TrainingError(
                f"row {number}: {length} input_ids and {len(row['labels'])} labels; they must be as many"
            )
        if limit and length > limit:
            raise TrainingError(
                f"row {number} has {length} tokens, the model takes {limit} at most: shorten or split it"
            )
        # The first label has no token before it that could predict it.
        if all(label == IGNORED for label in row["labels"][1:]):
            raise TrainingError(
                f"row {number}: all labels are -100, so nothing is trained on. Look at it with chat.show_mask; the usual "
                "cause is a chat template without {% generation %} marks, or an answer that was cut off"
            )
    return rows


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate: a straight rise, then half a cosine down to a hundredth."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _batches(lengths: list[int], size: int, seed: int) -> Iterator[list[int]]:
    """Row numbers of one batch after the other, without end, in a new order on each round.

    Rows are drawn sixteen batches at a time and dealt out by length: a batch of like lengths wastes little on padding.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    pool: list[int] = []
    while True:
        while len(pool) < 16 * size:
            pool += torch.randperm(len(lengths), generator=generator).tolist()
        drawn, pool = sorted(pool[: 16 * size], key=lengths.__getitem__), pool[16 * size :]
        for start in torch.randperm(16, generator=generator).tolist():
            yield drawn[start * size : (start + 1) * size]


def _precision(device: torch.device) -> tuple[Callable[[], Any], Any]:
    """Autocast and gradient scaler: bf16 on a GPU that has it, fp16 on an older one (a T4), fp32 on the CPU."""
    import torch

    if device.type != "cuda":
        return nullcontext, torch.amp.GradScaler(device.type, enabled=False)
    bf16 = torch.cuda.get_device_capability(device)[0] >= 8
    dtype = torch.bfloat16 if bf16 else torch.float16
    return lambda: torch.autocast("cuda", dtype=dtype), torch.amp.GradScaler("cuda", enabled=not bf16)
