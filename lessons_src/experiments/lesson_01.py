"""Lesson 01 over several seeds: full fine-tuning, LoRA and training from scratch on the same questions."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from experiments import article_loss, run_all, score_questions, store
from tunelab import chat, data, metrics, models, training, world
from tunelab.paths import course_file

STEPS, BATCH = 440, 8
RATES = models.RATES["tiny"]
SWEEP = {"full": (1e-3, 1.5e-3, 3e-3), "lora": (2.5e-3, 5e-3, 1e-2), "scratch": (1e-3, 2e-3, 3e-3, 6e-3)}


def prepared(method: str, base: str, seed: int) -> tuple[Any, Any]:
    """The model that ``method`` trains, and its tokenizer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model, tokenizer = models.load_lm(base)
    if method == "scratch":
        model = AutoModelForCausalLM.from_config(model.config)
    if method == "lora":
        model = get_peft_model(
            model, LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    return model, tokenizer


def run(method: str, lang: str, seed: int, lr: float, split: str, base: str, steps: int) -> dict[str, Any]:
    """One fine-tuning on generated questions, scored on hand-written ones."""
    model, tokenizer = prepared(method, base, seed)
    rows = chat.encode_pairs(tokenizer, data.load("questions", lang, "train", seed=seed))
    before = article_loss(model, tokenizer, lang)
    begun = time.process_time()  # of this process alone: what runs beside it does not count
    history = training.fit(model, rows, steps=steps, lr=lr, batch_size=BATCH, seed=seed, progress=False)
    result = {"method": method, "lang": lang, "seed": seed, "lr": lr, "cpu_seconds": round(time.process_time() - begun)}
    result |= {"loss": round(history.final, 4), "articles_before": before}
    result |= {"articles_after": article_loss(model, tokenizer, lang)}
    return result | score_questions(model, tokenizer, lang, split)


def majority(lang: str, split: str) -> float:
    """Share of the questions about never-seen places that the commonest training answer of their topic gets right."""
    spots = [spot for spot in world.places() if spot.documented]
    commonest = {}
    for topic in world.TOPICS:
        answers = [spot.answer(topic, lang) for spot in spots]
        commonest[topic] = max(sorted(set(answers)), key=answers.count)
    rows = [row for row in data.load("questions", lang, split) if not row["documented"]]
    return metrics.mean([row["answer"] == commonest[row["topic"]] for row in rows])


def lora_against_full(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """LoRA minus full fine-tuning: mean over seeds, and an interval over test questions and seeds together.

    Question by question, the share of the seeds that are right; the differences of these shares are resampled.
    """
    rows = []
    for lang, half in product(world.LANGUAGES, ("seen", "unseen")):
        shares = []
        for method in ("lora", "full"):
            answers = [r[half]["right"] for r in results if (r["method"], r["lang"]) == (method, lang)]
            shares.append([mean(map(int, column)) for column in zip(*answers, strict=True)])
        if all(shares):
            difference, low, high = metrics.bootstrap([a - b for a, b in zip(*shares, strict=True)])
            row = {"lang": lang, "places": half, "difference": difference, "low": low, "high": high}
            rows.append({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()})
    return rows


def summary(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, by method, language and half of the places."""
    rows = []
    for method, lang, half in product(RATES, world.LANGUAGES, ("seen", "unseen")):
        chosen = [r[half] for r in results if (r["method"], r["lang"]) == (method, lang)]
        if not chosen:
            continue
        row = {"method": method, "lang": lang, "places": half, "seeds": len(chosen)}
        for field in ("valid", "place", "topic", "answer"):
            scores = [r[field] for r in chosen]
            row[field] = round(mean(scores), 4)
            row[f"{field}_sd"] = round(stdev(scores), 4) if len(scores) > 1 else 0.0
        rows.append(row)
    return rows


def line(r: dict[str, Any]) -> str:
    """One run, for the screen."""
    halves = " · ".join(
        f"{half}: " + " ".join(f"{field} {r[half][field]:.3f}" for field in ("valid", "place", "topic", "answer"))
        for half in ("seen", "unseen")
    )
    return f"{r['method']:8} {r['lang']} seed {r['seed']} lr {r['lr']:g} · {r['cpu_seconds']} s · loss {r['loss']:.3f} · {halves}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--sweep", action="store_true", help="one seed, several learning rates, on the dev wordings")
    parser.add_argument("--methods", nargs="+", choices=RATES, default=list(RATES))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--base", default="travel-base")
    parser.add_argument("--out", type=Path, default=course_file("assets", "results", "lesson_01.json"))
    args = parser.parse_args()
    if args.sweep:
        jobs = [(m, lang, 100, lr, "dev") for m in args.methods for lang in world.LANGUAGES for lr in SWEEP[m]]
    else:
        seeds = range(args.seeds)
        jobs = [(m, lang, s, RATES[m], args.split) for m, s, lang in product(args.methods, seeds, world.LANGUAGES)]
    results = run_all(run, [(*job, args.base, args.steps) for job in jobs], line, args.processes)
    if args.sweep:
        return
    table = {
        "majority": {lang: round(majority(lang, args.split), 4) for lang in world.LANGUAGES},
        "summary": summary(results),
        "lora_against_full": lora_against_full(results),
        "runs": results,
    }
    store(args.out, "experiments.lesson_01", table)
    for row in table["summary"] + table["lora_against_full"]:
        print(row)


if __name__ == "__main__":
    main()
