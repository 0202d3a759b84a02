"""Lesson 02 over several seeds: the lesson itself, run from its source, and the real MiniLM on 200 English reviews.

The lesson's own cells are what is run (those tagged "stored" show this table and are left out), so that the table cannot
drift away from the lesson. Each finished run is a line of build/lesson_02.jsonl: what was interrupted goes on. Delete
that file when the code of the lesson has changed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

from experiments import run_all, store
from tunelab import data, metrics, models, world
from tunelab.paths import CHECKOUT, course_file

#: MiniLM with LoRA on reviews: chosen on the dev reviews (``--sweep``).
MINILM = {"lr": 1e-3, "head_lr": 1e-2, "steps": 120, "r": 8, "batch_size": 16, "rows": 200}
SWEEP: tuple[dict[str, Any], ...] = ({}, {"lr": 2e-3}, {"steps": 60})


def lesson(lang: str, seed: int, split: str, journal: str) -> dict[str, Any]:
    """One run of the lesson's cells: its scores, and the measured claims as they came out."""
    import jupytext
    import matplotlib

    matplotlib.use("agg")
    from tunelab.claims import ledger

    (source,) = course_file("lessons").glob("02_*.py")
    notebook = jupytext.read(source, fmt={"extension": ".py", "format_name": "percent", "comment_magics": False})
    changes = {
        'LANG = "en"': f'LANG = "{lang}"',
        'start("02", LANG)': f'start("02", LANG, seed={seed})',
        'SPLIT = "test"': f'SPLIT = "{split}"',
    }
    scope: dict[str, Any] = {}
    began = time.process_time()
    for cell in notebook.cells:
        skipped = "exercise" in cell.metadata or "stored" in cell.metadata.get("tags", [])
        if cell.cell_type == "code" and not skipped:
            code = cell.source
            for old, new in changes.items():
                code = code.replace(old, new)
            exec(code, scope)
    result = {
        "part": "lesson",
        "lang": lang,
        "seed": seed,
        "split": split,
        "scores": scope["scores"],
        "losses": scope["losses"],
    }
    result |= {"methods": {name: scope["bill"][name] | scope["results"][name] for name in scope["bill"]}}
    result |= {name: scope[name] for name in ("kept", "known", "unseen", "bare", "cross")}
    result["cpu_seconds"] = round(time.process_time() - began)
    result["claims"] = {r.name: r.value for r in ledger() if r.kind != "exact" and isinstance(r.value, int | float)}
    return _written(result | {"base_sha256": models.registry()["travel-base"]["sha256"]}, journal)


def minilm(seed: int, split: str, changed: dict[str, Any], journal: str) -> dict[str, Any]:
    """MiniLM on one draw of English reviews: LoRA, frozen embeddings with logistic regression, bags of words."""
    import torch
    from peft import LoraConfig, get_peft_model
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from baselines import bag_of_words

    settings = MINILM | changed
    train = Random(seed).sample(list(data.load("reviews", "en", "train")), settings["rows"])
    test = data.load("reviews", "en", split)
    torch.manual_seed(seed)
    encoder, tokenizer = models.load_encoder("minilm")

    def pooled(texts: Sequence[str]) -> torch.Tensor:
        """Means of the token vectors: (texts, 384). The pooler of this model was hardly trained and is not used."""
        batch = tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True, max_length=256)
        states, mask = encoder(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
        return (states * mask).sum(1) / mask.sum(1)

    def labels(rows: Any) -> list[int]:
        return [int(row["label"] == "positive") for row in rows]

    def right(guesses: Any) -> str:
        return "".join("01"[int(guess) == label] for guess, label in zip(guesses, labels(test), strict=True))

    result = {"part": "minilm", "seed": seed, "split": split, **settings}
    words = make_pipeline(bag_of_words("en"), LogisticRegression(max_iter=2000))
    words.fit([row["text"] for row in train], labels(train))
    result["bag_of_words"] = right(words.predict(test["text"]))
    with torch.no_grad():
        before, asked = (pooled([row["text"] for row in rows]).numpy() for rows in (train, test))
    frozen = LogisticRegression(max_iter=2000, C=10.0).fit(before, labels(train))
    result["frozen"] = right(frozen.predict(asked))

    config = LoraConfig(r=settings["r"], lora_alpha=16, target_modules="all-linear", exclude_modules=["pooler.dense"])
    encoder = get_peft_model(encoder, config)
    head = torch.nn.Linear(384, 2)
    weights = [weight for weight in encoder.parameters() if weight.requires_grad]
    groups = [{"params": weights, "lr": settings["lr"]}, {"params": list(head.parameters()), "lr": settings["head_lr"]}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    steps, rng, began = settings["steps"], Random(seed), time.process_time()
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [g["lr"] for g in groups], total_steps=steps, pct_start=0.1
    )
    encoder.train()
    for _ in range(steps):
        rows = rng.sample(train, settings["batch_size"])
        loss = torch.nn.functional.cross_entropy(head(pooled([r["text"] for r in rows])), torch.tensor(labels(rows)))
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    result["cpu_seconds"] = round(time.process_time() - began, 1)
    result["trained"] = sum(weight.numel() for group in groups for weight in group["params"])
    encoder.eval()
    with torch.no_grad():
        result["lora"] = right(head(pooled(test["text"])).argmax(1))
    return _written(result, journal)


def _written(result: dict[str, Any], journal: str) -> dict[str, Any]:
    with Path(journal).open("a", encoding="utf-8") as file:
        file.write(json.dumps(result, ensure_ascii=False) + "\n")
    return result


def finished(journal: Path, split: str) -> dict[tuple[str, int], dict[str, Any]]:
    """The runs of the journal on this split, with these settings and this base: by language or ``"minilm"``, and seed."""
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else []
    known, base = {}, models.registry()["travel-base"]["sha256"]
    for run in map(json.loads, lines):
        if run["split"] == split and run["part"] == "minilm" and run.items() >= MINILM.items():
            known["minilm", run["seed"]] = run
        elif run["split"] == split and run["part"] == "lesson" and run["base_sha256"] == base:
            known[run["lang"], run["seed"]] = run
    return known


def shares(runs: Sequence[dict[str, Any]], name: str) -> list[float]:
    """For each test review, the share of the seeds that judged it right."""
    return [metrics.mean([int(digit) for digit in column]) for column in zip(*(run[name] for run in runs), strict=True)]


def compared(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """MiniLM with LoRA against what needs less: accuracies, and paired intervals of the differences over the reviews."""
    table: dict[str, Any] = {}
    for name in ("bag_of_words", "frozen", "lora"):
        middle, low, high = metrics.bootstrap(shares(runs, name))
        table[name] = {"mean": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}
    for name in ("bag_of_words", "frozen"):
        pairs = zip(shares(runs, "lora"), shares(runs, name), strict=True)
        middle, low, high = metrics.bootstrap([a - b for a, b in pairs])
        table[f"lora_minus_{name}"] = {"mean": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}
    return table


def line(run: dict[str, Any]) -> str:
    """One run, for the screen."""
    if run["part"] == "minilm":
        numbers = " · ".join(
            f"{n} {metrics.mean([int(d) for d in run[n]]):.3f}" for n in ("bag_of_words", "frozen", "lora")
        )
        return f"minilm seed {run['seed']} lr {run['lr']:g} steps {run['steps']} · {numbers} · {run['cpu_seconds']} s"
    numbers = " · ".join(
        f"{name} {score['model']:.3f}/{score['baseline']:.3f}" for name, score in run["scores"].items()
    )
    return f"lesson {run['lang']} seed {run['seed']} · {run['cpu_seconds']} s · {numbers}"


def summary(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, least and most over the seeds of each score of each task, by language."""
    rows = []
    for lang in world.LANGUAGES:
        chosen = [run for run in runs if run["lang"] == lang]
        for task, name in product(chosen[0]["scores"], ("model", "baseline", "generated", "generated_baseline")):
            values = [run["scores"][task][name] for run in chosen]
            rows.append({"lang": lang, "task": task, "score": name, "seeds": len(values), **spread(values)})
    return rows


def methods(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, least and most over the seeds of what each method reaches and costs, by language."""
    rows = []
    for lang in world.LANGUAGES:
        chosen = [run for run in runs if run["lang"] == lang]
        for method, name in product(chosen[0]["methods"], chosen[0]["methods"]["full"]):
            values = [run["methods"][method][name] for run in chosen]
            rows.append({"lang": lang, "method": method, "measure": name, **spread(values)})
    return rows


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, least and most."""
    return {"mean": round(metrics.mean(values), 4), "low": round(min(values), 4), "high": round(max(values), 4)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--parts", nargs="+", choices=("lesson", "minilm"), default=["lesson", "minilm"])
    parser.add_argument("--sweep", action="store_true", help="MiniLM with other settings, on the dev reviews")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=course_file("assets", "results", "lesson_02.json"))
    args = parser.parse_args()
    journal = (CHECKOUT or Path()) / "build" / "lesson_02.jsonl"
    journal.parent.mkdir(exist_ok=True)
    if args.sweep:
        jobs = [(100, "dev", changed, str(journal)) for changed in SWEEP]
        run_all(minilm, jobs, line, args.processes)
        return
    seeds = range(args.seeds)
    if "minilm" in args.parts:
        missing = [seed for seed in seeds if ("minilm", seed) not in finished(journal, args.split)]
        run_all(minilm, [(seed, args.split, {}, str(journal)) for seed in missing], line, args.processes)
    if "lesson" in args.parts:
        wanted = [(lang, seed) for seed, lang in product(seeds, world.LANGUAGES)]
        missing = [job for job in wanted if job not in finished(journal, args.split)]
        run_all(lesson, [(*job, args.split, str(journal)) for job in missing], line, args.processes)
    done = finished(journal, args.split)
    runs = [done[lang, seed] for lang, seed in product(world.LANGUAGES, seeds) if (lang, seed) in done]
    encoder = [done["minilm", seed] for seed in seeds if ("minilm", seed) in done]
    if len(runs) < len(world.LANGUAGES) * args.seeds or len(encoder) < args.seeds:
        print("not all runs are there yet: run the other part, too")
        return
    table = {"summary": summary(runs), "methods": methods(runs), "minilm_settings": MINILM}
    table |= {"minilm": compared(encoder), "runs": runs, "minilm_runs": encoder}
    store(args.out, "experiments.lesson_02", table)


if __name__ == "__main__":
    main()
