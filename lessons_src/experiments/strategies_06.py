"""The strategies of lesson 06 over several seeds: which layers are trained, and when. Run by experiments.lesson_06.

Four parts. ``st-sweep``: three learning rates a strategy, or four, on a third of the dev questions, one seed, in runs as long
as those reported. ``st-test``: five seeds at the best rate, on the test questions. ``st-rate``: full fine-tuning and LoRA at
half that rate. ``st-article``: LoRA with AdamW at 2e-5, its weight decay included.

The strategies and the F1 scores are those of the lesson, read from its source.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import product
from statistics import mean, stdev
from typing import Any

from experiments import article_loss, base_model, taught
from tunelab import chat, data, metrics, training, world

Job = tuple[Any, ...]
Results = dict[Job, dict[str, Any]]

STEPS, BATCH, ROWS = 120, 8, 2000
EVERY = {"dev": 3, "test": 3}  # of the hand-written questions, one in so many is asked
SWEEP_SEED = 100
RATES = {
    "full": (7.5e-4, 1.5e-3, 3e-3),
    "half": (1.5e-3, 3e-3, 6e-3),
    "head": (5e-3, 1e-2, 2e-2),
    "gradual": (1.5e-3, 3e-3, 6e-3),
    "layerwise": (1.5e-3, 3e-3, 6e-3),
    "lora": (2.5e-3, 5e-3, 1e-2),
}
HALVED = ("full", "lora")  # run at half the tuned rate, too: how much of the forgetting is the rate's?
ARTICLE_RATE = 2e-5
TAUGHT = ("layers_of", "train_only", "untie", "gradually", "layer_groups", "prepare", "four_f1")


@cache
def lesson() -> dict[str, Any]:
    """What the experiments take from the lesson's own source, by name."""
    return taught("06", TAUGHT)


@lru_cache(maxsize=2)
def training_rows(lang: str, seed: int) -> Any:
    """The generated questions, encoded; the same for every strategy."""
    return chat.encode_pairs(base_model()[1], data.load("questions", lang, "train", size=ROWS, seed=seed))


@cache
def articles_before(lang: str) -> float:
    """The base's loss on articles that the pre-training did not draw."""
    return article_loss(*base_model(), lang)


def run(part: str, strategy: str, lang: str, seed: int, lr: float) -> dict[str, Any]:
    """One fine-tuning on generated questions, scored on hand-written ones."""
    import torch

    base, tokenizer = base_model()
    split = "dev" if part == "st-sweep" else "test"
    asked = data.load("questions", lang, split)
    asked = asked.select(range(0, len(asked), EVERY[split]))
    rows = training_rows(lang, seed)
    torch.manual_seed(seed)
    model, extra = lesson()["prepare"](strategy, base, STEPS)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if part == "st-article":
        extra = {"optimizer": lambda parameters, rate: torch.optim.AdamW(parameters, lr=rate)}  # decay: torch's default
    started = time.process_time()
    history = training.fit(model, rows, steps=STEPS, lr=lr, batch_size=BATCH, seed=seed, progress=False, **extra)
    result = {"cpu_seconds": round(time.process_time() - started, 2), "trained": trained}
    result["loss"] = round(history.final, 4)
    model.eval()
    batch = training.collate(list(chat.encode_pairs(tokenizer, asked)), pad=0)
    with torch.no_grad():
        result["test_loss"] = round(model(**batch).loss.item(), 4)
    replies = chat.reply(model, tokenizer, list(asked["question"]))
    scores = metrics.score_json(replies, asked)
    result |= {name: round(metrics.mean(scores[name]), 4) for name in ("valid", "answer", "record")}
    for name, documented in (("seen", True), ("unseen", False)):
        right = [s for s, seen in zip(scores["answer"], asked["documented"], strict=True) if seen == documented]
        result[name] = round(metrics.mean(right), 4)
    result["right"] = "".join("01"[value] for value in scores["answer"])
    result |= {name: round(value, 4) for name, value in lesson()["four_f1"](replies, asked).items()}
    if split == "test":
        result["articles_before"] = articles_before(lang)
        result["articles_after"] = article_loss(model, tokenizer, lang)
    return result


def sweep_jobs(done: Results) -> list[Job]:
    """Three rates of each strategy in both languages, one seed; one more where the best stands at the edge."""
    return [
        ("st-sweep", strategy, lang, SWEEP_SEED, lr)
        for strategy in RATES
        for lang, lr in product(world.LANGUAGES, _widened(done, strategy))
    ]


def _widened(done: Results, strategy: str) -> list[float]:
    """The strategy's rates; once all are tried, one more beyond the edge at which the best one stands."""
    rates = list(RATES[strategy])
    if all(("st-sweep", strategy, lang, SWEEP_SEED, lr) in done for lang, lr in product(world.LANGUAGES, rates)):
        best = _best(done, strategy, rates)
        if best == rates[-1]:
            rates.append(2 * best)
        elif best == rates[0]:
            rates.insert(0, best / 2)
    return rates


def _best(done: Results, strategy: str, rates: list[float]) -> float:
    """The rate with the most exact answers on dev over both languages; of equal ones, that of the least loss."""

    def merit(lr: float) -> tuple[float, float]:
        runs = [done["st-sweep", strategy, lang, SWEEP_SEED, lr] for lang in world.LANGUAGES]
        return mean(run["answer"] for run in runs), -mean(run["test_loss"] for run in runs)

    return max(rates, key=merit)


def best_rates(done: Results) -> dict[str, float]:
    """The tuned rate of each strategy."""
    return {strategy: _best(done, strategy, _widened(done, strategy)) for strategy in RATES}


def stages(seeds: int) -> list[Callable[[Results], list[Job]]]:
    """The jobs of each stage, given what is finished."""

    def test_jobs(done: Results) -> list[Job]:
        chosen = best_rates(done).items()
        return [
            ("st-test", s, lang, seed, lr) for seed, lang, (s, lr) in product(range(seeds), world.LANGUAGES, chosen)
        ]

    def rate_jobs(done: Results) -> list[Job]:
        halved = {s: best_rates(done)[s] / 2 for s in HALVED}
        return [
            ("st-rate", s, lang, seed, lr)
            for seed, lang, (s, lr) in product(range(seeds), world.LANGUAGES, halved.items())
        ]

    def article_jobs(_: Results) -> list[Job]:
        return [("st-article", "lora", lang, s, ARTICLE_RATE) for s, lang in product(range(seeds), world.LANGUAGES)]

    return [sweep_jobs, sweep_jobs, test_jobs, rate_jobs, article_jobs]


def table(done: Results) -> dict[str, Any]:
    """What the lesson reads: the settings, the best rates, every run, and their means with intervals."""
    names = ("part", "strategy", "lang", "seed", "lr")
    runs = [dict(zip(names, job, strict=True)) | result for job, result in done.items() if job[0].startswith("st-")]
    runs.sort(key=lambda r: (r["part"], list(RATES).index(r["strategy"]), r["lang"], r["seed"], r["lr"]))
    settings = {"steps": STEPS, "batch_size": BATCH, "questions_every": EVERY}
    return {**settings, "best": best_rates(done), "summary": summary(runs), "runs": runs}


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds by part, strategy and language, and the lead over full fine-tuning, paired by question."""
    rows = []
    for part, strategy, lang in product(("st-test", "st-rate", "st-article"), RATES, world.LANGUAGES):
        chosen = [r for r in runs if (r["part"], r["strategy"], r["lang"]) == (part, strategy, lang)]
        if not chosen:
            continue
        row = {"part": part, "strategy": strategy, "lang": lang, "seeds": len(chosen)}
        for name in ("seen", "unseen", "answer", "loss", "cpu_seconds"):
            values = [r[name] for r in chosen]
            row[name] = {"mean": round(mean(values), 4), "low": min(values), "high": max(values)}
            row[name]["sd"] = round(stdev(values), 4) if len(values) > 1 else 0.0
        row["forgotten"] = round(mean(r["articles_after"] - r["articles_before"] for r in chosen), 4)
        full = [r for r in runs if (r["part"], r["strategy"], r["lang"]) == ("st-test", "full", lang)]
        lead = [a - b for a, b in zip(_shares(chosen), _shares(full), strict=True)]
        row["lead"] = dict(
            zip(("mean", "low", "high"), map(lambda v: round(v, 4), metrics.bootstrap(lead)), strict=True)
        )
        rows.append(row)
    return rows


def _shares(runs: list[dict[str, Any]]) -> list[float]:
    """For each question, the share of the seeds that answered it right."""
    return [mean(map(int, column)) for column in zip(*(r["right"] for r in runs), strict=True)]
