"""Lesson 07 over several seeds: the spectrum of the update that full fine-tuning makes, what a cut costs, and LoRA beside it."""

from __future__ import annotations

import argparse
import copy
import time
from itertools import product
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from experiments import run_all, store
from tunelab import chat, data, metrics, models, training, world
from tunelab.paths import course_file

if TYPE_CHECKING:
    import torch

STEPS, BATCH = 120, 8
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANKS = (1, 2, 4, 8, 16, 32)
EVERY = 3  # of the hand-written dev questions, one in so many is asked


def energy(matrix: torch.Tensor, rank: int) -> float:
    """Share of the squared Frobenius norm that the best approximation of this rank keeps (Eckart and Young 1936)."""
    import torch

    squares = torch.linalg.svdvals(matrix).square()
    return (squares[:rank].sum() / squares.sum()).item()


def answer_loss(model: Any, rows: list[dict[str, list[int]]]) -> float:
    """Mean loss a token of the answers, in nats."""
    import torch

    with torch.no_grad():
        return model(**training.collate(rows, pad=0)).loss.item()


def answer_scores(model: Any, tokenizer: Any, questions: Any) -> dict[str, float]:
    """Share of the answers that are valid JSON, and that are right in every field."""
    scores = metrics.score_json(chat.reply(model, tokenizer, questions["question"]), questions)
    return {field: round(metrics.mean(scores[field]), 4) for field in ("valid", "record")}


def with_update(base: Any, updates: dict[str, torch.Tensor], rank: int, scale: float = 1.0) -> Any:
    """A copy of the base plus ``scale`` times the best approximation of each linear layer's update; the rest as it was."""
    import torch

    model = copy.deepcopy(base)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, update in updates.items():
            left, values, right = torch.linalg.svd(update, full_matrices=False)
            weights[name] += scale * (left[:, :rank] * values[:rank]) @ right[:rank]
    return model


def run(lang: str, seed: int, base_name: str) -> dict[str, Any]:
    """One full fine-tuning on generated questions, and the spectra of its updates."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    base, tokenizer = models.load_lm(base_name)
    rows = chat.encode_pairs(tokenizer, data.load("questions", lang, "train", size=1200, seed=seed))
    questions = data.load("questions", lang, "dev")
    questions = questions.select(range(0, len(questions), EVERY))
    asked = list(chat.encode_pairs(tokenizer, questions))
    tuned, started = copy.deepcopy(base), time.process_time()
    rate = models.RATES["tiny"]["full"]
    history = training.fit(tuned, rows, steps=STEPS, lr=rate, batch_size=BATCH, seed=seed, progress=False)
    seconds = time.process_time() - started
    before = dict(base.named_parameters())
    updates = {
        name: (weight - before[name]).detach()
        for name, weight in tuned.named_parameters()
        if name.split(".")[-2] in KINDS
    }
    kept = {"update": {}, "random": {}, "base": {}}
    for kind in KINDS:
        names = [name for name in updates if name.split(".")[-2] == kind]
        matrices = {
            "update": [updates[name] for name in names],
            "random": [torch.randn_like(updates[name]) for name in names],
            "base": [before[name].detach() for name in names],
        }
        for what, several in matrices.items():
            kept[what][kind] = {rank: round(mean(energy(m, rank) for m in several), 4) for rank in RANKS}
    judged = {"base": base, "tuned": tuned}
    judged |= {str(rank): with_update(base, updates, rank) for rank in RANKS}
    judged["8, half of it"] = with_update(base, updates, 8, scale=0.5)  # alpha / r = 2 was forgotten
    torch.manual_seed(seed)
    adapter = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    judged["lora"] = get_peft_model(copy.deepcopy(base), adapter)
    lora = {"steps": STEPS, "lr": models.RATES["tiny"]["lora"], "batch_size": BATCH}
    training.fit(judged["lora"], rows, **lora, seed=seed, progress=False)
    return {
        "lang": lang,
        "seed": seed,
        "cpu_seconds": round(seconds, 1),
        "final_loss": round(history.final, 4),
        "kept": kept,
        "dev_loss": {name: round(answer_loss(model, asked), 4) for name, model in judged.items()},
        "dev_scores": {name: answer_scores(model, tokenizer, questions) for name, model in judged.items()},
    }


def line(result: dict[str, Any]) -> str:
    """One run, for the screen."""
    kept = " ".join(f"{kind} {share[8]:.2f}" for kind, share in result["kept"]["update"].items())
    judged = " · ".join(
        f"{name}: {loss:.3f} {score['valid']:.2f} {score['record']:.2f}"
        for (name, loss), score in zip(result["dev_loss"].items(), result["dev_scores"].values(), strict=True)
    )
    return f"{result['lang']} seed {result['seed']} · {result['cpu_seconds']} s · rank 8 keeps: {kept} · loss, valid, right: {judged}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--base", default="travel-base")
    parser.add_argument("--out", type=Path, default=course_file("assets", "results", "lesson_07.json"))
    args = parser.parse_args()
    jobs = [(lang, seed, args.base) for seed, lang in product(range(args.seeds), world.LANGUAGES)]
    settings = {"steps": STEPS, "batch_size": BATCH, "rates": models.RATES["tiny"], "dev_questions": f"one in {EVERY}"}
    store(args.out, "experiments.lesson_07", settings | {"runs": run_all(run, jobs, line, args.processes)})


if __name__ == "__main__":
    main()
