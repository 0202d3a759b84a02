"""The multi-seed tables behind the lessons: `make experiments` writes assets/results/.

A lesson trains once, for about fifteen seconds; what it claims must hold for other seeds too. Here every training is run
with several seeds and in both languages, and every score is kept with the command that made it.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from statistics import mean, stdev

os.environ.update(OMP_NUM_THREADS="1", GOMP_SPINCOUNT="0", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

from tunelab import chat, corpus, data, metrics, models, training, world
from tunelab.paths import course_file

STEPS, BATCH = 440, 8
RATES = models.RATES["tiny"]
SWEEP = {"full": (1e-3, 1.5e-3, 3e-3), "lora": (1e-3, 2.5e-3, 5e-3), "scratch": (1e-3, 3e-3, 6e-3)}


def prepared(method: str, base: str, seed: int):
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
            model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    return model, tokenizer


def run(method: str, lang: str, seed: int, lr: float, split: str, base: str, steps: int) -> dict:
    """One fine-tuning on generated questions, scored on hand-written ones."""
    import torch

    torch.set_num_threads(1)
    model, tokenizer = prepared(method, base, seed)
    rows = chat.encode_pairs(tokenizer, data.load("questions", lang, "train", seed=seed))
    before = article_loss(model, tokenizer, lang)
    history = training.fit(model, rows, steps=steps, lr=lr, batch_size=BATCH, seed=seed, progress=False)
    test = data.load("questions", lang, split)
    replies = chat.reply(model, tokenizer, test["question"])
    result = {"method": method, "lang": lang, "seed": seed, "lr": lr, "seconds": round(history.seconds, 1)}
    result |= {
        "loss": round(history.final, 4),
        "articles_before": before,
        "articles_after": article_loss(model, tokenizer, lang),
    }
    for name, documented in (("seen", True), ("unseen", False)):
        kept = [i for i, flag in enumerate(test["documented"]) if flag == documented]
        scores = metrics.score_json([replies[i] for i in kept], [test[i] for i in kept])
        result[name] = {field: round(metrics.mean(values), 4) for field, values in scores.items()}
        result[name]["right"] = "".join("01"[value] for value in scores["answer"])
        topics = [test[i]["topic"] for i in kept]
        result[name]["by_topic"] = {
            topic: round(metrics.mean([v for v, t in zip(scores["answer"], topics, strict=True) if t == topic]), 3)
            for topic in world.TOPICS
        }
    return result


def article_loss(model, tokenizer, lang: str) -> float:
    """Mean loss a token, in nats, on 60 articles that the pre-training did not draw."""
    import random

    import torch

    model.eval()
    rng, total, tokens = random.Random("articles for measuring"), 0.0, 0
    with torch.no_grad():
        for _ in range(60):
            ids = tokenizer(corpus.article(rng, lang), return_tensors="pt")["input_ids"]
            total += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
            tokens += ids.shape[1] - 1
    return round(total / tokens, 4)


def majority(lang: str, split: str) -> float:
    """Share of the questions about never-seen places that the commonest training answer of their topic gets right."""
    spots = [spot for spot in world.places() if spot.documented]
    commonest = {}
    for topic in world.TOPICS:
        answers = [spot.answer(topic, lang) for spot in spots]
        commonest[topic] = max(sorted(set(answers)), key=answers.count)
    rows = [row for row in data.load("questions", lang, split) if not row["documented"]]
    return metrics.mean([row["answer"] == commonest[row["topic"]] for row in rows])


def summary(results: list[dict]) -> list[dict]:
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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        jobs = [
            (m, lang, s, RATES[m], args.split)
            for m in args.methods
            for s in range(args.seeds)
            for lang in world.LANGUAGES
        ]
    with ProcessPoolExecutor(args.processes) as pool:
        waiting = [pool.submit(run, *job, args.base, args.steps) for job in jobs]
        results = []
        for job in waiting:
            results.append(job.result())
            r = results[-1]
            print(
                f"{r['method']:8} {r['lang']} seed {r['seed']} lr {r['lr']:g} · {r['seconds']:.0f} s · loss {r['loss']:.3f} · "
                + " · ".join(
                    f"{half}: valid {r[half]['valid']:.3f} place {r[half]['place']:.3f} topic {r[half]['topic']:.3f} "
                    f"answer {r[half]['answer']:.3f}"
                    for half in ("seen", "unseen")
                ),
                flush=True,
            )
    if args.sweep:
        return
    table = {
        "command": f"python lessons_src/experiments.py --seeds {args.seeds} --split {args.split} --steps {args.steps}",
        "majority": {lang: round(majority(lang, args.split), 4) for lang in world.LANGUAGES},
        "summary": summary(results),
        "runs": results,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(table, ensure_ascii=False, indent=1), encoding="utf-8")
    for row in table["summary"]:
        print(row)


if __name__ == "__main__":
    main()
