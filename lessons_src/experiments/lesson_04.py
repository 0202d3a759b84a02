"""Lesson 04 over several seeds: a dozen ways to tune few parameters, on the same questions with the same number of rates.

Six parts. ``sweep``: four learning rates a method, three seeds, on the dev questions. ``methods``: five other seeds at the
best rate, as many steps, on the test questions. ``dialogue``: the bottleneck adapter on a Llama-shaped model. ``size``:
prompt tuning against LoRA on three siblings of different size (``lora@small``), after four rates and three seeds each on dev
(``size-sweep``), where rates are chosen by the loss on the answers, since the smallest sibling answers hardly anything right.
``museum``: the mistakes of the lesson's bug museum. ``example``: the recovery of the Llama and the BERT that answers.

The bottleneck adapter, the soft prompt, the conversion to Llama's shape and the mistakes are those of the lesson, read from
its source.
Each finished run is a line of build/lesson_04.jsonl: a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from experiments import base_model, run_all, store, taught
from tunelab import chat, corpus, data, metrics, models, training, world
from tunelab.paths import CHECKOUT, course_file

STEPS, DIALOGUE_STEPS, BATCH, TOKENS = 120, 80, 8, 20
EVERY = {"dev": 3, "test": 4}  # of the hand-written questions, one in so many is asked
SWEEP_SEEDS = (100, 101, 102)
MATRICES, VECTORS = (1.5e-3, 5e-3, 1e-2, 2e-2), (1e-2, 3e-2, 1e-1, 3e-1)
RATES = {
    "full": (5e-4, 1.5e-3, 3e-3, 6e-3),
    "lora": MATRICES,
    "dora": MATRICES,
    "adapter": MATRICES,
    "vera": VECTORS,
    "ia3": VECTORS,
    "norms": VECTORS,
    "prefix": VECTORS,
    "p-tuning": (3e-3, 1e-2, 3e-2, 1e-1),
    "prompt-random": (5e-3, 3e-2, 1e-1, 3e-1),
    "prompt": (5e-3, 3e-2, 1e-1, 3e-1),
    "prompt-examples": VECTORS,
    "llama-adapter": VECTORS,
}
SIZES = {name: f"travel-family/{name}" for name in ("small", "medium", "large")}  # which differ in nothing else
SIZE_RATES = {"lora": MATRICES, "prompt": (3e-2, 1e-1, 3e-1, 1.0), "prompt-examples": (3e-2, 1e-1, 3e-1, 1.0)}
CELLS = {
    "museum": {"pad-labels": world.LANGUAGES, "frozen-head": ("en",), "bad-adapter": world.LANGUAGES},
    "example": {"llama": world.LANGUAGES, "bert": ("en",)},
}
TAUGHT = ("with_adapters", "Adapter", "RandomUp", "NoResidual", "SoftPrompt", "as_llama", "loss_on", "with_pad_labels")
TAUGHT += ("TopicModel", "learn_topics", "topics_of", "looked_up")
NEEDED = ("SAME", "encoder")  # what as_llama and TopicModel read


@cache
def lesson() -> dict[str, Any]:
    """What the experiments take from the lesson's own source, by name."""
    return taught("04", TAUGHT, NEEDED)


@cache
def ordinary_text(lang: str, seed: int = 5) -> list[dict[str, Any]]:
    """Rows of the kind of text that the base was pre-trained on: 640 to read, 40 to measure on."""
    _, tokenizer = base_model()
    documents = corpus.documents(seed, (lang,))
    texts = [tokenizer(next(documents)[2])["input_ids"][:96] for _ in range(680)]
    return [{"input_ids": ids, "labels": ids} for ids in texts]


@cache
def llama_model(lang: str) -> Any:
    """The base in Llama's shape, after a short recovery on the pre-training corpus, as in the lesson."""
    return recovered(ordinary_text(lang)[:640], seed=0)


def recovered(rows: list[dict[str, Any]], seed: int) -> Any:
    """The base in Llama's shape after 40 steps on ``rows``."""
    base, _ = base_model()
    llama = lesson()["as_llama"](base, training.collate(rows[:16], pad=0))
    training.fit(llama, rows, steps=40, lr=1e-3, seed=seed, progress=False)
    return llama


def configuration(method: str) -> Any:
    """peft's configuration of a method."""
    import peft

    tokens, task = {"num_virtual_tokens": TOKENS}, {"task_type": "CAUSAL_LM"}
    lora = {"r": 8, "lora_alpha": 32, "target_modules": "all-linear"} | task
    norms = ["input_layernorm", "post_attention_layernorm", "norm"]
    return {
        "lora": lambda: peft.LoraConfig(**lora),
        "dora": lambda: peft.LoraConfig(**lora, use_dora=True),
        "vera": lambda: peft.VeraConfig(r=64, target_modules="all-linear", **task),
        "ia3": lambda: peft.IA3Config(**task),
        "norms": lambda: peft.LNTuningConfig(target_modules=norms, **task),
        "prefix": lambda: peft.PrefixTuningConfig(**tokens, **task),
        "p-tuning": lambda: peft.PromptEncoderConfig(encoder_hidden_size=128, **tokens, **task),
        "llama-adapter": lambda: peft.AdaptionPromptConfig(adapter_len=10, adapter_layers=4, **task),
    }[method]()


def prepared(method: str, lang: str, seed: int, base: Any = None) -> Any:
    """A model that is ready to be trained by ``method``; ``base``: if it is another than the course's."""
    import torch
    from peft import get_peft_model

    torch.manual_seed(seed)
    base = base or base_model()[0]
    if method == "untouched":
        return copy.deepcopy(base)
    if method == "full":
        return copy.deepcopy(base).requires_grad_(True)
    if method == "adapter":
        return lesson()["with_adapters"](base, 32)
    if method.startswith("prompt"):
        vocabulary = base.get_input_embeddings().weight
        some = torch.randperm(len(vocabulary))[:TOKENS]
        if method == "prompt-examples":  # two questions with their answers, from the training set
            shown = chat.encode_pairs(base_model()[1], data.load("questions", lang, "train", size=2, seed=seed))
            some = torch.tensor(shown[0]["input_ids"] + shown[1]["input_ids"])
        start = torch.randn(TOKENS, base.config.hidden_size) if method == "prompt-random" else vocabulary[some]
        return lesson()["SoftPrompt"](base, start)
    start = llama_model(lang) if "llama" in method else base
    return get_peft_model(copy.deepcopy(start), configuration(method))


def answers(method: str, model: Any, questions: list[str]) -> list[str]:
    """The replies; with virtual tokens of peft, questions of one length at a time, since padding would disturb them."""
    base, tokenizer = base_model()
    if method == "p-tuning":  # its network has done its work: what is left is a soft prompt
        model = lesson()["SoftPrompt"](base, model.get_prompt(batch_size=1)[0])
    if method != "prefix":
        return chat.reply(model, tokenizer, questions)
    replies, lengths = [""] * len(questions), [len(tokenizer(question)["input_ids"]) for question in questions]
    for length in sorted(set(lengths)):
        rows = [i for i, other in enumerate(lengths) if other == length]
        for i, reply in zip(rows, chat.reply(model, tokenizer, [questions[i] for i in rows]), strict=True):
            replies[i] = reply
    return replies


def run(part: str, method: str, lang: str, seed: int, lr: float, journal: str) -> dict[str, Any]:
    """One training, scored; adds its line to ``journal``."""
    what = {
        "dialogue": run_dialogue,
        "size": run_size,
        "size-sweep": run_size,
        "museum": run_cell,
        "example": run_cell,
    }
    what = what.get(part, run_questions)
    result = {"part": part, "method": method, "lang": lang, "seed": seed, "lr": lr}
    result |= what(part, method, lang, seed, lr)
    with Path(journal).open("a", encoding="utf-8") as file:
        file.write(json.dumps(result | {"base_sha256": _base_hash()}) + "\n")
    return result


def asked_questions(lang: str, split: str) -> Any:
    """Hand-written questions, one in so many."""
    asked = data.load("questions", lang, split)
    return asked.select(range(0, len(asked), EVERY[split]))


def run_questions(part: str, method: str, lang: str, seed: int, lr: float, base: Any = None) -> dict[str, Any]:
    """A fine-tuning on generated questions, scored on hand-written ones; ``untouched``: only the scores."""
    import torch

    _, tokenizer = base_model()
    asked = asked_questions(lang, "dev" if part.endswith("sweep") else "test")
    rows = chat.encode_pairs(tokenizer, data.load("questions", lang, "train", size=STEPS * BATCH, seed=seed))
    model = prepared(method, lang, seed, base)
    result = {"trained": sum(p.numel() for p in model.parameters() if p.requires_grad)}
    started = time.process_time()
    if method != "untouched":
        try:
            history = training.fit(model, rows, steps=STEPS, lr=lr, batch_size=BATCH, seed=seed, progress=False)
        except training.TrainingError:  # the rate is so high that the loss is no number
            return result | {"loss": None, "valid": 0.0, "answer": 0.0, "record": 0.0, "test_loss": 99.0}
        result |= {"cpu_seconds": round(time.process_time() - started, 1), "loss": round(history.final, 4)}
    model.eval()
    batch = training.collate(list(chat.encode_pairs(tokenizer, asked)), pad=0)
    with torch.no_grad():
        result["test_loss"] = round(model(**batch).loss.item(), 4)
    scores = metrics.score_json(answers(method, model, list(asked["question"])), asked)
    result |= {name: round(metrics.mean(scores[name]), 4) for name in ("valid", "answer", "record")}
    return result | {"right": "".join("01"[value] for value in scores["answer"])}


def run_size(part: str, method: str, lang: str, seed: int, lr: float) -> dict[str, Any]:
    """The same on a sibling (``lora@small``)."""
    kind, size = method.split("@")
    base, _ = models.load_lm(SIZES[size])
    result = {"parameters": base.num_parameters(), "model_sha256": models.registry()[SIZES[size]]["sha256"]}
    return result | run_questions(part, kind, lang, seed, lr, base)


def turns(tokenizer: Any, lang: str) -> list[tuple[str, str]]:
    """For each answer of the hand-written dialogues that must state a fact: the dialogue so far, and the fact."""
    found = []
    for row in data.load("dialogues", lang, "test"):
        spoken = [i for i, message in enumerate(row["messages"]) if message["role"] == "assistant"]
        for i, fact in zip(spoken, row["expect"], strict=True):
            if fact["value"]:
                form = {"tokenize": False, "add_generation_prompt": True}
                found.append((tokenizer.apply_chat_template(row["messages"][:i], **form), fact["value"]))
    return found


def run_dialogue(part: str, method: str, lang: str, seed: int, lr: float) -> dict[str, Any]:
    """The bottleneck adapter on the Llama-shaped model, trained on generated dialogues; ``untouched`` without training."""
    import torch

    _, tokenizer = base_model()
    torch.manual_seed(seed)
    model = lesson()["with_adapters"](llama_model(lang), 32)
    started, result = time.process_time(), {"loss": None}
    if method == "adapter":
        rows = [chat.encode(tokenizer, row["messages"]) for row in data.load("dialogues", lang, "train", seed=seed)]
        history = training.fit(model, rows, steps=DIALOGUE_STEPS, lr=lr, batch_size=BATCH, seed=seed, progress=False)
        result = {"loss": round(history.final, 4)}
    result["cpu_seconds"] = round(time.process_time() - started, 1)
    asked, wanted = zip(*turns(tokenizer, lang), strict=True)
    said = chat.complete(model, tokenizer, list(asked), max_new_tokens=32, batch_size=32)
    right = [fact in reply for reply, fact in zip(said, wanted, strict=True)]
    return result | {"answer": round(metrics.mean(right), 4), "right": "".join("01"[value] for value in right)}


def run_cell(part: str, method: str, lang: str, seed: int, lr: float) -> dict[str, Any]:
    """What the claims of one cell of the lesson read, at the cell's own settings (``lr``: the rate of its adapters)."""
    cells = {
        "pad-labels": _pad_labels,
        "frozen-head": _frozen_head,
        "bad-adapter": _bad_adapter,
        "llama": _llama,
        "bert": _bert,
    }
    return cells[method](lang, seed, lr)


def _llama(lang: str, seed: int, lr: float) -> dict[str, Any]:
    rows, loss_on = ordinary_text(lang, 5 + seed), lesson()["loss_on"]
    lost = loss_on(recovered(rows[:640], seed), rows[640:]) - loss_on(base_model()[0], rows[640:])
    return {"lost": round(lost, 4)}


def _bert(lang: str, seed: int, lr: float) -> dict[str, Any]:
    take, exam, answered = lesson(), wordings(lang), {}
    for method in ("lora", "head"):
        student = topic_student(seed)
        if method == "head":
            student.encoder.requires_grad_(False)
        take["learn_topics"](student, data.load("questions", lang, "train", size=400, seed=seed))
        said = take["looked_up"](student, exam["question"])
        answered[method] = mean(fact == true for fact, true in zip(said, exam["answer"], strict=True))
    return {"answered": round(answered["lora"], 4), "over_head": round(answered["lora"] - answered["head"], 4)}


def topic_student(seed: int, layers: int = 6) -> Any:
    """The lesson's TopicModel: the first layers of MiniLM with LoRA, and a new head."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    encoder, _ = models.load_encoder("minilm")
    encoder.encoder.layer = encoder.encoder.layer[:layers]
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"])
    return lesson()["TopicModel"](get_peft_model(encoder, config))


def wordings(lang: str) -> Any:
    """Each of the 128 hand-written wordings once."""
    exam = data.load("questions", lang, "test")
    return exam.select(range(0, len(exam), 6))


def _pad_labels(lang: str, seed: int, lr: float) -> dict[str, Any]:
    import torch

    base, tokenizer = base_model()
    pad, take = tokenizer.pad_token_id, lesson()
    few = list(chat.encode_pairs(tokenizer, data.load("questions", lang, "train", size=320, seed=seed)))
    padded = [take["with_pad_labels"](row, pad) for row in few]
    reported, on_answers, students = {}, {}, {}
    for name, rows in (("yours", few), ("colleague", padded)):
        torch.manual_seed(seed)
        students[name] = take["with_adapters"](base, 32)
        history = training.fit(students[name], rows, steps=30, lr=lr, batch_size=BATCH, seed=seed, progress=False)
        reported[name], on_answers[name] = history.final, take["loss_on"](students[name], few[:32])
    with torch.no_grad():
        chances = students["colleague"](training.collate(padded[:8], pad)["input_ids"]).logits.softmax(-1)[..., pad]
    return {
        "hides": round(on_answers["colleague"] / reported["colleague"], 4),
        "costs": round(on_answers["colleague"] - on_answers["yours"], 4),
        "pads": round(mean(chances[i, len(row["input_ids"])].item() for i, row in enumerate(few[:8])), 4),
    }


def _frozen_head(lang: str, seed: int, lr: float) -> dict[str, Any]:
    take, exam, accuracy = lesson(), wordings(lang), {}
    train = data.load("questions", lang, "train", size=400, seed=seed)
    for frozen in (False, True):
        student = topic_student(seed, layers=1)
        student.head.requires_grad_(not frozen)
        take["learn_topics"](student, train)
        found = take["topics_of"](student, exam["question"])
        accuracy[frozen] = mean(a == b for a, b in zip(found, exam["topic"], strict=True))
    return {"lost": round(accuracy[False] - accuracy[True], 4)}


def _bad_adapter(lang: str, seed: int, lr: float) -> dict[str, Any]:
    import torch

    base, tokenizer = base_model()
    take, held_out, asked = lesson(), ordinary_text(lang)[640:], asked_questions(lang, "test")
    rows = chat.encode_pairs(tokenizer, data.load("questions", lang, "train", size=STEPS * BATCH, seed=seed))
    start, answer = {}, {}
    for kind in ("Adapter", "RandomUp", "NoResidual"):
        torch.manual_seed(seed)
        model = take["with_adapters"](base, 32, kind=take[kind])
        start[kind] = take["loss_on"](model, held_out)
        training.fit(model, rows, steps=60, lr=lr, batch_size=BATCH, seed=seed, progress=False)
        answer[kind] = mean(metrics.score_json(chat.reply(model, tokenizer, asked["question"]), asked)["answer"])
    return {
        "random_up": round(start["RandomUp"] - start["Adapter"], 4),
        "no_residual": round(start["NoResidual"] - start["Adapter"], 4),
        "lead": round(answer["Adapter"] - answer["NoResidual"], 4),
    }


def _base_hash() -> str:
    return models.registry()["travel-base"]["sha256"]


def finished(journal: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The runs of the journal that were made with these weights, by (part, method, language, seed, rate)."""
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else []
    runs, known = [json.loads(line) for line in lines], {entry.get("sha256") for entry in models.registry().values()}
    return {
        (run["part"], run["method"], run["lang"], run["seed"], run["lr"]): {
            key: value for key, value in run.items() if key != "base_sha256"
        }
        for run in runs
        if run["base_sha256"] == _base_hash() and run.get("model_sha256", _base_hash()) in known
    }


def sweep_jobs() -> list[tuple[Any, ...]]:
    """Four rates of each method in both languages, three seeds."""
    return [
        ("sweep", method, lang, seed, lr)
        for seed in SWEEP_SEEDS
        for method, rates in RATES.items()
        for lang, lr in product(world.LANGUAGES, rates)
    ]


def best_rates(done: dict[tuple[Any, ...], dict[str, Any]]) -> dict[str, float]:
    """By method, the rate with the most exact answers on dev over languages and seeds; of equal ones, the least loss."""

    def merit(method: str, lr: float) -> tuple[float, float]:
        runs = [done["sweep", method, lang, seed, lr] for lang, seed in product(world.LANGUAGES, SWEEP_SEEDS)]
        return mean(run["answer"] for run in runs), -mean(run["test_loss"] for run in runs)

    return {method: max(rates, key=lambda lr: merit(method, lr)) for method, rates in RATES.items()}


def method_jobs(best: dict[str, float], seeds: int) -> list[tuple[Any, ...]]:
    """Each method at its best rate; and a careless prompt: random, at a rate that would suit LoRA."""
    chosen = [*best.items(), ("prompt-random", RATES["prompt-random"][0])]
    return [
        ("methods", method, lang, s, lr) for s, (method, lr), lang in product(range(seeds), chosen, world.LANGUAGES)
    ]


def size_sweep_jobs() -> list[tuple[Any, ...]]:
    """LoRA and two starts of prompt tuning on each size: four rates, three seeds."""
    return [
        ("size-sweep", f"{kind}@{size}", lang, seed, lr)
        for seed, size, (kind, rates) in product(SWEEP_SEEDS, SIZES, SIZE_RATES.items())
        for lang, lr in product(world.LANGUAGES, rates)
    ]


def size_jobs(done: dict[tuple[Any, ...], dict[str, Any]], seeds: int) -> list[tuple[Any, ...]]:
    """Each at the rate with the least loss on dev over languages and seeds; and the sizes untouched, on test."""

    def best(method: str) -> float:
        def loss(lr: float) -> float:
            pairs = product(world.LANGUAGES, SWEEP_SEEDS)
            return mean(done["size-sweep", method, lang, seed, lr]["test_loss"] for lang, seed in pairs)

        return min(SIZE_RATES[method.split("@")[0]], key=loss)

    chosen = {f"{kind}@{size}": best(f"{kind}@{size}") for kind, size in product(SIZE_RATES, SIZES)}
    untouched = [("size", f"untouched@{size}", lang, 0, 0.0) for size, lang in product(SIZES, world.LANGUAGES)]
    return untouched + [
        ("size", method, lang, seed, lr)
        for seed, (method, lr), lang in product(range(seeds), chosen.items(), world.LANGUAGES)
    ]


def dialogue_jobs(seeds: int) -> list[tuple[Any, ...]]:
    """The adapter on the Llama-shaped model, and that model untouched."""
    trained = [("dialogue", "adapter", lang, seed, 5e-3) for seed, lang in product(range(seeds), world.LANGUAGES)]
    return trained + [("dialogue", "untouched", lang, 0, 0.0) for lang in world.LANGUAGES]


def cell_jobs(seeds: int) -> list[tuple[Any, ...]]:
    """The exhibits of the museum and the two examples, with every seed."""
    return [
        (part, name, lang, seed, 5e-3)
        for part, cells in CELLS.items()
        for seed, (name, languages) in product(range(seeds), cells.items())
        for lang in languages
    ]


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, least and most of the right answers over the seeds by part, method, rate and language."""
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in (run for run in runs if "answer" in run):
        rows.setdefault((one["part"], one["method"], one["lr"], one["lang"]), []).append(one)
    table = []
    for (part, method, lr, lang), chosen in rows.items():
        scores = [one["answer"] for one in chosen]
        row = {"part": part, "method": method, "lr": lr, "lang": lang, "seeds": len(chosen)}
        row |= {"mean": round(mean(scores), 4), "low": min(scores), "high": max(scores)}
        for name in ("valid", "test_loss"):
            if name in chosen[0]:
                row[name] = round(mean(one[name] for one in chosen), 4)
        table.append(row)
    return table


def line(r: dict[str, Any]) -> str:
    """One run, for the screen."""
    scores = "".join(f" · {name} {value:.3f}" for name, value in r.items() if isinstance(value, float) and name != "lr")
    return f"{r['part']:10} {r['method']:22} {r['lang']} seed {r['seed']} lr {r['lr']:g}{scores}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit", type=int, default=None, help="at most so many new runs, then stop")
    parser.add_argument("--out", type=Path, default=course_file("assets", "results", "lesson_04.json"))
    args = parser.parse_args()
    journal = (CHECKOUT or Path()) / "build" / "lesson_04.jsonl"
    journal.parent.mkdir(exist_ok=True)
    left = args.limit

    def complete(jobs: list[tuple[Any, ...]]) -> bool:
        """Runs what is missing, as far as the limit allows; whether all are done."""
        nonlocal left
        missing = [job for job in jobs if job not in finished(journal)]
        now = missing if left is None else missing[:left]
        left = None if left is None else left - len(now)
        run_all(run, [(*job, str(journal)) for job in now], line, args.processes)
        print(f"{len(jobs)} runs of {jobs[0][0]}, {len(missing) - len(now)} still to do", flush=True)
        return len(now) == len(missing)

    stages: list[Callable[[], list[tuple[Any, ...]]]] = [
        sweep_jobs,
        lambda: method_jobs(best_rates(finished(journal)), args.seeds),
        lambda: dialogue_jobs(args.seeds),
        size_sweep_jobs,
        lambda: size_jobs(finished(journal), args.seeds),
        lambda: cell_jobs(args.seeds),
    ]
    wanted: list[tuple[Any, ...]] = []
    for stage in stages:
        jobs = stage()
        if not complete(jobs):
            return
        wanted += jobs
    done = finished(journal)
    runs = [done[job] for job in wanted]
    settings = {"steps": STEPS, "dialogue_steps": DIALOGUE_STEPS, "batch_size": BATCH, "virtual_tokens": TOKENS}
    table = {**settings, "best": best_rates(done), "summary": summary(runs), "runs": runs}
    store(args.out, "experiments.lesson_04", table)


if __name__ == "__main__":
    main()
