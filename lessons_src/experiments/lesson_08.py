"""Lesson 08 over several seeds: one setting of LoRA changed at a time, in short runs, and full fine-tuning beside it.

The longer runs of LoRA and of full fine-tuning are those of lesson 01.

Each finished run is a line of build/lesson_08.jsonl: a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from experiments import article_loss, run_all, score_questions, store
from tunelab import chat, data, models, training, world
from tunelab.paths import CHECKOUT, course_file

STEPS, BATCH = 200, 8
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
TARGETS = {"q, v": ["q_proj", "v_proj"], "attention": [*ATTENTION], "MLP": [*MLP], "all-linear": "all-linear"}
DEFAULT = {"lr": models.RATES["tiny"]["lora"], "r": 8, "alpha": 32, "targets": "all-linear"}
FACTORS: dict[str, tuple[Any, ...]] = {
    "lr": (2e-5, 1e-4, 5e-4, 1.5e-3, DEFAULT["lr"], 1e-2, 2e-2),
    "r": (1, 2, 4, 8, 16),
    "targets": tuple(TARGETS),
    "alpha": (8, 32, 128),
}
FIELDS = ("valid", "place", "topic", "answer", "record")


def settings(factor: str, value: Any) -> dict[str, Any]:
    """The default with one setting changed, and the steps; full fine-tuning has its own rate and no settings of LoRA."""
    if value == "full":
        return {"lr": models.RATES["tiny"]["full"], "r": None, "alpha": None, "targets": None, "steps": STEPS}
    return DEFAULT | ({factor: value} if factor in FACTORS else {}) | {"steps": STEPS}


def run(factor: str, value: Any, lang: str, seed: int, base: str, journal: str) -> dict[str, Any]:
    """One fine-tuning on generated questions, scored on hand-written ones; adds its line to ``journal``."""
    import torch
    from peft import LoraConfig, get_peft_model

    chosen = settings(factor, value)
    torch.manual_seed(seed)
    model, tokenizer = models.load_lm(base)
    before = article_loss(model, tokenizer, lang)
    if chosen["r"]:
        targets = TARGETS[chosen["targets"]]
        config = LoraConfig(r=chosen["r"], lora_alpha=chosen["alpha"], target_modules=targets, task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
    rows = chat.encode_pairs(tokenizer, data.load("questions", lang, "train", seed=seed))
    started = time.process_time()
    history = training.fit(
        model, rows, steps=chosen["steps"], lr=chosen["lr"], batch_size=BATCH, seed=seed, progress=False
    )
    result = {"factor": factor, "value": value, "lang": lang, "seed": seed, **chosen}
    result |= {"cpu_seconds": round(time.process_time() - started, 1)}
    result |= {"trained": sum(p.numel() for p in model.parameters() if p.requires_grad)}
    result |= {"loss": round(history.final, 4), "articles_before": before}
    result |= {"articles_after": article_loss(model, tokenizer, lang)}
    for half, scores in score_questions(model, tokenizer, lang, "test").items():
        result[half] = {name: scores[name] for name in (*FIELDS, "right")}
    with Path(journal).open("a", encoding="utf-8") as file:
        file.write(json.dumps(result | {"base_sha256": _base_hash()}) + "\n")
    return result


def _base_hash() -> str:
    return models.registry()["travel-base"]["sha256"]


def finished(journal: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The runs of the journal that were made with this base and these settings, by (factor, value, language, seed)."""
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else []
    runs = [json.loads(line) for line in lines]
    return {
        (run["factor"], run["value"], run["lang"], run["seed"]): {k: v for k, v in run.items() if k != "base_sha256"}
        for run in runs
        if run["base_sha256"] == _base_hash() and run.items() >= settings(run["factor"], run["value"]).items()
    }


def variants(factors: list[str]) -> list[tuple[str, Any]]:
    """Every (factor, value) to be run; the default stands once, as its own factor."""
    changed = [(name, value) for name in factors for value in FACTORS[name] if value != DEFAULT[name]]
    return [("default", None), ("default", "full"), *changed]


def summary(runs: list[dict[str, Any]], factors: list[str]) -> list[dict[str, Any]]:
    """Mean, least and most over the seeds by factor, value and language; the default stands in every factor."""
    rows = []
    wanted = [("default", "full"), *((name, value) for name in factors for value in FACTORS[name])]
    for (factor, value), lang in product(wanted, world.LANGUAGES):
        key = ("default", None) if value == DEFAULT.get(factor, ...) else (factor, value)
        chosen = [r for r in runs if (r["factor"], r["value"], r["lang"]) == (*key, lang)]
        if not chosen:
            continue
        row = {"factor": factor, "value": value, "lang": lang, "seeds": len(chosen), "trained": chosen[0]["trained"]}
        for half in ("seen", "unseen"):
            answers = [r[half]["answer"] for r in chosen]
            row[half] = {"mean": round(mean(answers), 4), "low": min(answers), "high": max(answers)}
            row[half]["sd"] = round(stdev(answers), 4) if len(answers) > 1 else 0.0
        row["record"] = round(mean(r[half]["record"] for r in chosen for half in ("seen", "unseen")), 4)
        row["valid"] = round(mean(r[half]["valid"] for r in chosen for half in ("seen", "unseen")), 4)
        row["loss"] = round(mean(r["loss"] for r in chosen), 4)
        row["forgotten"] = round(mean(r["articles_after"] - r["articles_before"] for r in chosen), 4)
        rows.append(row)
    return rows


def line(r: dict[str, Any]) -> str:
    """One run, for the screen."""
    halves = " · ".join(
        f"{half}: valid {r[half]['valid']:.3f} answer {r[half]['answer']:.3f}" for half in ("seen", "unseen")
    )
    forgotten = r["articles_after"] - r["articles_before"]
    return (
        f"{r['factor']:8} {r['value']!s:10} {r['lang']} seed {r['seed']} · {r['cpu_seconds']} s · loss {r['loss']:.3f} · "
        f"{halves} · articles {forgotten:+.3f}"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--factors", nargs="+", choices=FACTORS, default=list(FACTORS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--base", default="travel-base")
    parser.add_argument("--out", type=Path, default=course_file("assets", "results", "lesson_08.json"))
    args = parser.parse_args()
    journal = (CHECKOUT or Path()) / "build" / "lesson_08.jsonl"
    journal.parent.mkdir(exist_ok=True)
    wanted = [(*v, lang, seed) for seed, v, lang in product(range(args.seeds), variants(args.factors), world.LANGUAGES)]
    done = finished(journal)
    missing = [job for job in wanted if job not in done]
    print(f"{len(wanted)} runs, {len(wanted) - len(missing)} of them in {journal.name}", flush=True)
    run_all(run, [(*job, args.base, str(journal)) for job in missing], line, args.processes)
    done = finished(journal)
    runs = [done[job] for job in wanted]
    table = {"default": DEFAULT, "batch_size": BATCH, "summary": summary(runs, args.factors), "runs": runs}
    store(args.out, "experiments.lesson_08", table)


if __name__ == "__main__":
    main()
