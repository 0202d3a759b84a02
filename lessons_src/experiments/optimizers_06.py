"""Optimizers for lesson 06: each one's rate tuned on dev in runs as long as those reported, then five seeds in both languages.

All runs see the same number of examples. So a larger batch means fewer steps, and a smaller training set more epochs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from statistics import mean
from typing import Any

from tunelab import chat, data, metrics, models, training, world

Job = tuple[Any, ...]  # (part, optimizer, language, seed, rate, batch, weight decay, rows of the training set)
Result = dict[str, Any]

STEPS, BATCH, ROWS, DECAY = 120, 8, 2000, 0.01
EXAMPLES = STEPS * BATCH  # of every run
SWEEP_SEEDS = (100, 101, 102)  # draw other training questions than the reported runs; one seed would choose by luck
RATES = {
    "sgd": (0.05, 0.1, 0.2),
    "adamw": (7.5e-4, 1.5e-3, 3e-3),
    "lamb": (2.5e-3, 5e-3, 1e-2),
    "muon": (7.5e-4, 1.5e-3, 3e-3),
}
LIKE = {
    "adam": "adamw"
}  # takes that one's rate: they differ by the decay alone, a few thousandths of a weight in such a run
LARGE, GROWTH = (
    64,
    (1, 8**0.5, 8),
)  # a batch, and multiples of the rate tuned at 8: none, the square root, in proportion
DECAYS, FEW = (0.0, 1.0), 64  # weight decays, and the rows of a training set that is read many times


def make(name: str, weights: Iterable[Any], lr: float, decay: float, vocabulary: int) -> Any:
    """The optimizer called ``name`` over ``weights``; ``vocabulary`` tells Muon which matrix is the embedding."""
    import torch

    weights = list(weights)
    match name:
        case "sgd":
            return torch.optim.SGD(weights, lr=lr, momentum=0.9)
        case "adam":
            return torch.optim.Adam(weights, lr=lr)
        case "adamw":
            return torch.optim.AdamW(weights, lr=lr, weight_decay=decay)
        case "lamb":
            from pytorch_optimizer import Lamb

            # The library's defaults shrink before they step, divide the rate by Adam's bias correction, and cap the norm of
            # a weight at 10, which nearly every matrix of this model exceeds. This is the paper's LAMB.
            made = Lamb(weights, lr=lr, weight_decay=decay, weight_decouple=False, adam_debias=True)
            made.clamp = math.inf
            return made
        case "muon":
            matrices = [w for w in weights if w.ndim == 2 and len(w) != vocabulary]
            others = [w for w in weights if w.ndim != 2 or len(w) == vocabulary]
            return training.together(
                torch.optim.Muon(matrices, lr=lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
                torch.optim.AdamW(others, lr=lr, weight_decay=decay),
            )
    raise ValueError(f"optimizer {name!r} is not known; choose one of {', '.join([*RATES, *LIKE])}")


def mean_loss(model: Any, tokenizer: Any, rows: Any) -> float:
    """Mean loss a token of the answers, in nats, without training."""
    import torch

    encoded, total, count = list(chat.encode_pairs(tokenizer, rows)), 0.0, 0
    model.eval()
    with torch.no_grad():
        for start in range(0, len(encoded), 64):
            batch = training.collate(encoded[start : start + 64], pad=0)
            labels = int((batch["labels"][:, 1:] != chat.IGNORED).sum())
            total += model(**batch).loss.item() * labels
            count += labels
    return total / count


def run(part: str, name: str, lang: str, seed: int, lr: float, batch: int, decay: float, rows: int) -> Result:
    """One full fine-tuning on generated questions, scored on hand-written ones: on dev in a sweep, else on a third of test."""
    import torch

    torch.manual_seed(seed)
    model, tokenizer = models.load_lm()
    train = data.load("questions", lang, "train", size=rows, seed=seed)
    made: list[Any] = []

    def optimizer(weights: Iterable[Any], rate: float) -> Any:
        made.append(make(name, weights, rate, decay, model.config.vocab_size))
        return made[0]

    steps = EXAMPLES // batch
    started = time.process_time()
    try:
        history = training.fit(
            model,
            chat.encode_pairs(tokenizer, train),
            steps=steps,
            lr=lr,
            batch_size=batch,
            optimizer=optimizer,
            seed=seed,
            progress=False,
        )
    except training.TrainingError:  # the loss is no longer a number: the rate is far too high
        return {"steps": steps, "diverged": True, "answer": 0.0, "held_out_loss": 1e9}
    result: Result = {"steps": steps, "cpu_seconds": round(time.process_time() - started, 1)}
    sweep = part.endswith("sweep")
    asked = data.load("questions", lang, "dev" if sweep else "test")
    if not sweep:
        asked = asked.select(range(0, len(asked), 3))
    scores = metrics.score_json(chat.reply(model, tokenizer, list(asked["question"])), asked)
    result |= {field: round(metrics.mean(scores[field]), 4) for field in ("valid", "place", "topic", "answer")}
    result |= {"held_out_loss": round(mean_loss(model, tokenizer, asked), 4), "loss": round(history.final, 4)}
    if not sweep:
        result |= {"losses": [round(value, 3) for value in history.losses]}
        result |= {"right": "".join("01"[value] for value in scores["answer"])}
    if rows < EXAMPLES:
        result |= {"train_loss": round(mean_loss(model, tokenizer, train), 4)}
        result |= {"norm": round(sum(w.square().sum().item() for w in model.parameters()) ** 0.5, 3)}
    return result


def tuned(done: dict[Job, Result], part: str, name: str, batch: int) -> float:
    """The rate with the most exact answers on dev over seeds and languages; of equal ones, that of the least loss."""
    found: dict[float, list[Result]] = {}
    for job, result in done.items():
        if job[:2] == (part, name) and job[5] == batch:
            found.setdefault(job[4], []).append(result)
    whole = {lr: runs for lr, runs in found.items() if len(runs) == len(SWEEP_SEEDS) * len(world.LANGUAGES)}
    return max(
        whole, key=lambda lr: (mean(r["answer"] for r in whole[lr]), -mean(r["held_out_loss"] for r in whole[lr]))
    )


def best_rates(done: dict[Job, Result]) -> dict[str, float]:
    """The tuned rate of each optimizer at a batch of 8."""
    own = {name: tuned(done, "opt-sweep", name, BATCH) for name in RATES}
    return own | {name: own[other] for name, other in LIKE.items()}


def _job(part: str, name: str, lang: str, seed: int, lr: float, batch: int = BATCH) -> Job:
    return (part, name, lang, seed, lr, batch, DECAY if name in ("adamw", "lamb", "muon") else 0.0, ROWS)


def sweep_jobs(done: dict[Job, Result]) -> list[Job]:
    """The grid of rates, widened where the best one stands at its edge."""
    return [
        _job("opt-sweep", name, lang, seed, lr)
        for name, rates in RATES.items()
        for lr, lang, seed in product(_widened(done, "opt-sweep", name, BATCH, rates), world.LANGUAGES, SWEEP_SEEDS)
    ]


def _widened(done: dict[Job, Result], part: str, name: str, batch: int, rates: Iterable[float]) -> list[float]:
    """These rates and those tried; once all are, one more beyond the edge at which the best one stands."""
    tried = {job[4] for job in done if job[:2] == (part, name) and job[5] == batch and job[3] == SWEEP_SEEDS[-1]}
    rates = sorted({*rates, *tried})
    if tried == set(rates):
        best = tuned(done, part, name, batch)
        if best == rates[-1]:
            rates.append(float(f"{best * 2:.3g}"))
        elif best == rates[0]:
            rates.insert(0, float(f"{best / 2:.3g}"))
    return rates


def batch_sweep_jobs(done: dict[Job, Result]) -> list[Job]:
    """AdamW and LAMB at the large batch: multiples of the rate tuned at 8, widened where the best stands at the edge."""
    best, jobs = best_rates(done), []
    for name in ("adamw", "lamb"):
        rates = _widened(done, "opt-batch-sweep", name, LARGE, [float(f"{best[name] * t:.3g}") for t in GROWTH])
        jobs += [
            _job("opt-batch-sweep", name, lang, seed, lr, LARGE)
            for lr, lang, seed in product(rates, world.LANGUAGES, SWEEP_SEEDS)
        ]
    return jobs


def seed_jobs(done: dict[Job, Result], seed: int) -> list[Job]:
    """What is reported, for one seed: each optimizer at its tuned rate, the large batch, and few rows with weight decay."""
    jobs = []
    for lang in world.LANGUAGES:
        jobs += [_job("opt-report", name, lang, seed, lr) for name, lr in best_rates(done).items()]
        for name in ("adamw", "lamb"):
            jobs.append(_job("opt-batch", name, lang, seed, tuned(done, "opt-batch-sweep", name, LARGE), LARGE))
        lr = best_rates(done)["adamw"]
        jobs += [("opt-decay", "adamw", lang, seed, lr, BATCH, decay, FEW) for decay in DECAYS]
    return jobs


def stages(seeds: int) -> list[Callable[[dict[Job, Result]], list[Job]]]:
    """The jobs of each stage, given what is finished; a sweep may widen its grid twice."""
    return [
        *[sweep_jobs] * 3,
        *[batch_sweep_jobs] * 3,
        *[partial(seed_jobs, seed=seed) for seed in range(seeds)],
    ]


FIELDS = ("part", "optimizer", "lang", "seed", "lr", "batch", "decay", "rows")


def table(done: dict[Job, Result]) -> dict[str, Any]:
    """Settings, tuned rates, and every run."""
    best = best_rates(done)
    settings = {"steps": STEPS, "batch_size": BATCH, "examples": EXAMPLES, "few_rows": FEW, "rates": best}
    settings["large_batch"] = LARGE
    settings["large_batch_rates"] = {name: tuned(done, "opt-batch-sweep", name, LARGE) for name in ("adamw", "lamb")}
    runs = [dict(zip(FIELDS, job, strict=True)) | result for job, result in done.items()]
    return settings | {"summary": summary(runs), "runs": runs}


def summary(runs: list[Result]) -> list[Result]:
    """Mean, least and most exact answers, and the mean losses, over the seeds of each setting."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for one in runs:
        groups.setdefault(tuple(one[key] for key in FIELDS if key != "seed"), []).append(one)
    rows = []
    for key, chosen in groups.items():
        scores = [one["answer"] for one in chosen]
        row = dict(zip((name for name in FIELDS if name != "seed"), key, strict=True)) | {"seeds": len(chosen)}
        row |= {"mean": round(mean(scores), 4), "low": min(scores), "high": max(scores)}
        for name in ("held_out_loss", "train_loss"):
            if name in chosen[0]:
                row[name] = round(mean(one[name] for one in chosen), 4)
        rows.append(row)
    return rows
