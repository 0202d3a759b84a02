"""Lesson 10 over several seeds: the day the ticket prices change, answered from weights, from text, and by both.

Each finished run is a line of build/lesson_10.jsonl: a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from itertools import product
from pathlib import Path
from random import Random
from statistics import mean, stdev
from typing import Any

import numpy as np

from experiments import run_all, store
from tunelab import chat, corpus, data, metrics, models, training, world
from tunelab.paths import CHECKOUT, course_file

SETTINGS = {
    "desk_steps": 200,
    "reader_steps": 320,
    "retune_steps": 120,
    "batch": 8,
    "lr": models.RATES["tiny"]["lora"],
    "facts": [1, 1, 2, 3, 4],
    "chunk": [48, 16],
}
SYSTEMS = ("weights", "text", "both", "given", "retuned")
MEMORY = {"vectors": 50_000, "dim": 384, "neighbours": 16}


def prices(lang: str) -> tuple[dict[str, str], dict[str, str]]:
    """By place, the price before and after the day on which that of every second place changes."""
    rng = Random("the day the prices change")
    before = {spot.id: spot.answer("price", lang) for spot in world.places()}
    changes = {
        name: rng.choice([price for price in world.values("price", lang) if price != before[name]])
        for name in sorted(before)[::2]
    }
    return before, before | changes


def article(name: str, facts: dict[str, str], lang: str, rng: Random) -> str:
    """The facts of a place, each in one of a dozen wordings."""
    sentences = [corpus.statement(name, topic, value, lang, rng) for topic, value in facts.items()]
    return (" " if lang == "en" else "").join(sentences)


def articles(lang: str, price: dict[str, str], seed: int) -> dict[str, str]:
    """An article a place, with the price of the day."""
    rng, texts = Random(f"articles {seed}"), {}
    for spot in world.places():
        facts = {topic: spot.answer(topic, lang) for topic in rng.sample(world.TOPICS, len(world.TOPICS))}
        texts[spot.id] = article(spot.name(lang), facts | {"price": price[spot.id]}, lang, rng)
    return texts


def reading(lang: str, rng: Random) -> list[dict[str, str]]:
    """A conversation about a short text with random values, so that nothing but the text can be right."""
    topics = rng.sample(world.TOPICS, rng.choice(SETTINGS["facts"]))
    facts = {topic: rng.choice(world.values(topic, lang)) for topic in topics}
    documented = [spot.name(lang) for spot in world.places() if spot.documented]
    name = rng.choice(documented) if rng.random() < 0.5 else corpus.made_up_name(rng, lang)
    turns = []
    for topic in rng.sample(topics, min(3, len(topics))):
        turns.append({"role": "user", "content": world.question(name, topic, lang, rng)})
        turns.append({"role": "assistant", "content": facts[topic]})
    turns[0]["content"] = article(name, facts, lang, rng) + "\n" + turns[0]["content"]
    return turns


def chunks(text: str, tokenizer: Any, size: int, overlap: int) -> list[str]:
    """Pieces of ``size`` tokens that overlap by ``overlap`` tokens."""
    spans = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    starts = range(0, max(1, len(spans) - overlap), size - overlap)
    return [text[spans[start][0] : spans[min(start + size, len(spans)) - 1][1]] for start in starts]


def run(lang: str, seed: int, journal: str) -> dict[str, Any]:
    """Both adapters trained and asked before and after the change; adds its line to ``journal``."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    base, tokenizer = models.load_lm()
    before, after = prices(lang)
    asked = [row for row in data.load("questions", lang, "test") if row["topic"] == "price"]
    others = [row for row in data.load("questions", lang, "test") if row["topic"] != "price"][::7]
    ids = [world.place(row["place"]).id for row in asked]
    result: dict[str, Any] = {"lang": lang, "seed": seed, "settings": SETTINGS, "base_sha256": _base_hash()}

    def config() -> LoraConfig:
        return LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")

    def fit(rows: Any, steps: int) -> tuple[float, float]:
        started = time.process_time()
        history = training.fit(
            model, rows, steps=steps, lr=SETTINGS["lr"], batch_size=SETTINGS["batch"], seed=seed, progress=False
        )
        return round(history.final, 4), round(time.process_time() - started, 1)

    def ask(prompts: list[str]) -> list[str]:
        return chat.reply(model, tokenizer, prompts, max_new_tokens=16)

    def score(replies: list[str]) -> dict[str, float]:
        found = [re.search(r"\d+", reply) for reply in replies]
        said = [number[0] if number else "" for number in found]
        old, new = ([re.search(r"\d+", price[name])[0] for name in ids] for price in (before, after))
        changed = [a != b for a, b in zip(old, new, strict=True)]
        kept = [s == n for s, n, moved in zip(said, new, changed, strict=True) if not moved]
        fresh = [s == n for s, n, moved in zip(said, new, changed, strict=True) if moved]
        stale = [s == o for s, o, moved in zip(said, old, changed, strict=True) if moved]
        return {"unchanged": metrics.mean(kept), "new": metrics.mean(fresh), "old": metrics.mean(stale)}

    def right_elsewhere() -> float:
        replies = chat.reply(model, tokenizer, [row["question"] for row in others], max_new_tokens=16)
        return metrics.mean([reply == row["answer"] for reply, row in zip(replies, others, strict=True)])

    model = get_peft_model(base, config(), adapter_name="desk")
    rows = chat.encode_pairs(tokenizer, data.load("questions", lang, "train", seed=seed), response="answer")
    result["desk_loss"], result["desk_seconds"] = fit(rows, SETTINGS["desk_steps"])
    result["weights"] = score(ask([row["question"] for row in asked]))
    result["elsewhere"] = right_elsewhere()

    texts = articles(lang, after, seed)
    pieces = [(name, piece) for name in texts for piece in chunks(texts[name], tokenizer, *SETTINGS["chunk"])]
    embedder = models.load_embedder("travel-encoder")
    vectors = embedder.encode([piece for _, piece in pieces])
    best = (embedder.encode([row["question"] for row in asked]) @ vectors.T).argmax(axis=1)
    found = [pieces[i] for i in best]
    result["hit"] = metrics.mean([n == m and after[n] in text for n, (m, text) in zip(ids, found, strict=True)])
    # The right piece, as if retrieval never failed: the first of the place that states the price.
    gold = [next(text for name, text in pieces if name == wanted and after[wanted] in text) for wanted in ids]
    read = [text + "\n" + row["question"] for (_, text), row in zip(found, asked, strict=True)]
    with model.disable_adapter():
        result["text"] = score(ask(read))

    model.add_adapter("reader", config())
    model.set_adapter("reader")
    rng = Random(f"reading {lang} {seed}")
    rows = [chat.encode(tokenizer, reading(lang, rng)) for _ in range(SETTINGS["reader_steps"] * SETTINGS["batch"])]
    result["reader_loss"], result["reader_seconds"] = fit(rows, SETTINGS["reader_steps"])
    result["both"] = score(ask(read))
    result["given"] = score(ask([text + "\n" + row["question"] for text, row in zip(gold, asked, strict=True)]))

    model.set_adapter("desk")
    rng = Random(f"retune {lang} {seed}")
    table = [rng.choice(world.places()) for _ in range(SETTINGS["retune_steps"] * SETTINGS["batch"])]
    table = [(world.question(spot.name(lang), "price", lang, rng), after[spot.id]) for spot in table]
    rows = [chat.encode(tokenizer, [*chat.prompt(q), {"role": "assistant", "content": a}]) for q, a in table]
    result["retune_loss"], result["retune_seconds"] = fit(rows, SETTINGS["retune_steps"])
    result["retuned"] = score(ask([row["question"] for row in asked]))
    result["elsewhere_after"] = right_elsewhere()
    for system in SYSTEMS:
        result[system] = {name: round(value, 4) for name, value in result[system].items()}
    result |= {name: round(result[name], 4) for name in ("hit", "elsewhere", "elsewhere_after")}
    with Path(journal).open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    return result


def memory() -> dict[str, Any]:
    """Bytes that an HNSW index takes, by its file: predicted from M and d, and measured at 50,000 vectors."""
    import tempfile

    import hnswlib

    count, dim, neighbours = MEMORY["vectors"], MEMORY["dim"], MEMORY["neighbours"]
    vectors = np.random.default_rng(0).standard_normal((count, dim), dtype=np.float32)
    index = hnswlib.Index(space="cosine", dim=dim)
    # A graph of little care: how well it searches does not change how much it weighs.
    index.init_index(max_elements=count, M=neighbours, ef_construction=20)
    index.add_items(vectors, num_threads=1)
    with tempfile.TemporaryDirectory() as folder:
        index.save_index(f"{folder}/index")
        measured = Path(f"{folder}/index").stat().st_size
    return MEMORY | {"bytes": measured}


def _base_hash() -> str:
    return models.registry()["travel-base"]["sha256"]


def finished(journal: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The runs of the journal that were made with this base and these settings, by (language, seed)."""
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else []
    runs = [json.loads(line) for line in lines]
    return {(r["lang"], r["seed"]): r for r in runs if r["base_sha256"] == _base_hash() and r["settings"] == SETTINGS}


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, least, most and standard deviation over the seeds, by language, system and measure."""
    rows = []
    for lang, system, measure in product(world.LANGUAGES, SYSTEMS, ("unchanged", "new", "old")):
        values = [r[system][measure] for r in runs if r["lang"] == lang]
        if values:
            row = {"lang": lang, "system": system, "measure": measure, "mean": round(mean(values), 4)}
            spread = round(stdev(values), 4) if len(values) > 1 else 0.0
            rows.append(row | {"low": min(values), "high": max(values), "sd": spread})
    return rows


def line(r: dict[str, Any]) -> str:
    """One run, for the screen."""
    scores = " · ".join(f"{s} {r[s]['unchanged']:.2f}/{r[s]['new']:.2f}/{r[s]['old']:.2f}" for s in SYSTEMS)
    seconds = sum(r[name] for name in ("desk_seconds", "reader_seconds", "retune_seconds"))
    return f"{r['lang']} seed {r['seed']} · {seconds:.0f} s · hit {r['hit']:.2f} · unchanged/new/old: {scores}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=course_file("assets", "results", "lesson_10.json"))
    args = parser.parse_args()
    journal = (CHECKOUT or Path()) / "build" / "lesson_10.jsonl"
    journal.parent.mkdir(exist_ok=True)
    wanted = [(lang, seed) for seed, lang in product(range(args.seeds), world.LANGUAGES)]
    done = finished(journal)
    missing = [job for job in wanted if job not in done]
    print(f"{len(wanted)} runs, {len(wanted) - len(missing)} of them in {journal.name}", flush=True)
    run_all(run, [(*job, str(journal)) for job in missing], line, args.processes)
    done = finished(journal)
    runs = [{k: v for k, v in done[job].items() if k not in ("settings", "base_sha256")} for job in wanted]
    table = {"settings": SETTINGS, "memory": memory(), "summary": summary(runs), "runs": runs}
    store(args.out, "experiments.lesson_10", table)


if __name__ == "__main__":
    main()
