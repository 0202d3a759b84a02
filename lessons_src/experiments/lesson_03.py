"""Lesson 03: what a training step takes, predicted and measured, from the course's base up to Qwen2.5-0.5B.

Every case runs in a process of its own, with random weights of the published shapes: memory, time and work do not depend on
the weights' values. Peaks are measured twice, from the log of torch's allocator and from the operating system (resident
memory), and the time of a step several times. The largest case needs 12 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from experiments import store
from tunelab import accounting
from tunelab.paths import course_file

BATCH, LENGTH, RANK, LABELS = 8, 64, 8, 8
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MODELS = {"travel-base": 10, "all-MiniLM-L6-v2": 10, "bert-base-uncased": 5, "qwen2.5-0.5b": 5}  # and timed steps
METHODS = ("full", "lora", "head")


def settings(name: str) -> Any:
    """The configuration of a model: the shipped base's own, or the published dimensions, without dropout."""
    import transformers

    if name == "travel-base":
        return transformers.AutoConfig.from_pretrained(course_file("assets", "models", name))
    entry = accounting.published()[name]
    return getattr(transformers, entry["class"]).config_class(**entry["config"])


def prepared(name: str, method: str) -> tuple[Any, bool]:
    """The model that ``method`` trains, and whether it is a language model; ``head`` trains a new classifier alone."""
    import transformers
    from peft import LoraConfig, get_peft_model

    config = settings(name)
    language_model = hasattr(config, "num_key_value_heads") and method != "head"
    if not language_model:
        config.update({"num_labels": LABELS, "pad_token_id": 0})
    if not hasattr(config, "num_key_value_heads"):
        config.update(NO_DROPOUT)
    kind = transformers.AutoModelForCausalLM if language_model else transformers.AutoModelForSequenceClassification
    model = kind.from_config(config)
    if method == "head":
        for part, weight in model.named_parameters():
            weight.requires_grad = part.startswith(("score", "classifier"))
    if method == "lora":
        task, head = ("CAUSAL_LM", None) if language_model else ("SEQ_CLS", ["classifier"])
        model = get_peft_model(
            model, LoraConfig(r=RANK, target_modules="all-linear", exclude_modules=head, task_type=task)
        )
    return model.train(), language_model


def run(name: str, method: str) -> dict[str, Any]:
    """One case, measured in this process, which must not have done anything else."""
    import torch
    from torch.profiler import ProfilerActivity, profile
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(1)
    warm_up()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model, language_model = prepared(name, method)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    ids = torch.randint(5, 500, (BATCH, LENGTH))
    labels = ids if language_model else torch.arange(BATCH) % LABELS

    def step() -> None:
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # the optimizer makes its state in the first step
    seconds = []
    for _ in range(MODELS[name]):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    states = [value for state in optimizer.state.values() for value in state.values()]
    resting = sum(tensor.nbytes for tensor in [*model.parameters(), *states])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        step()
    with FlopCounterMode(display=False) as work:
        step()
    predicted = accounting.training_memory(model, batch=BATCH, length=LENGTH)
    parts = {
        part: round(getattr(predicted, part)) for part in ("weights", "gradients", "optimizer", "activations", "peak")
    }
    return {
        "model": name,
        "method": method,
        "parameters": accounting.count(model).total,
        "trained": accounting.count(model).trained,
        "predicted": parts,
        "allocator": resting + most_above_start(log),
        "resident": (after - before) * (1 if sys.platform == "darwin" else 1024),
        "cpu_seconds": [round(value, 4) for value in seconds],
        "flops": work.get_total_flops(),
    }


def warm_up() -> None:
    """One training step of a very small model: what the libraries load and keep for themselves is not the model's memory."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for kind in ("BertForSequenceClassification", "Qwen2ForCausalLM"):
        model_class = getattr(transformers, kind)
        small = model_class(model_class.config_class(vocab_size=16, num_key_value_heads=2, **shape))
        small = get_peft_model(small, LoraConfig(target_modules="all-linear", exclude_modules=["classifier"]))
        labels = torch.zeros((1, 4) if "Causal" in kind else 1, dtype=torch.long)
        small(input_ids=torch.zeros((1, 4), dtype=torch.long), labels=labels).loss.backward()
        torch.optim.AdamW([weight for weight in small.parameters() if weight.requires_grad]).step()


def most_above_start(log: Any) -> int:
    """The highest sum of bytes that the allocator had given out, above what it had at the start of the log."""
    events = [event for event in log.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def line(case: dict[str, Any]) -> str:
    """One case, for the screen."""
    predicted, allocator = case["predicted"]["peak"], case["allocator"]
    return (
        f"{case['model']:18} {case['method']:5} predicted {predicted / 1e6:8.1f} MB ({predicted / allocator - 1:+.1%}) · "
        f"allocator {allocator / 1e6:8.1f} · resident {case['resident'] / 1e6:8.1f} ({case['resident'] / allocator - 1:+.1%}) · "
        f"{median(case['cpu_seconds']):.3f} s a step · {case['flops'] / 1e9:.1f} GFLOP"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "METHOD"), help="one case, in this process, as JSON")
    parser.add_argument("--out", type=Path, default=course_file("assets", "results", "lesson_03.json"))
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run(*args.one)))
        return
    cases = []
    for name in args.models:
        for method in METHODS:
            command = [sys.executable, "-m", "experiments.lesson_03", "--one", name, method]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ})
            cases.append(json.loads(done.stdout.splitlines()[-1]))
            print(line(cases[-1]), flush=True)
    shape = {"batch": BATCH, "length": LENGTH, "rank": RANK, "targets": "all-linear", "dtype": "fp32"}
    store(args.out, "experiments.lesson_03", shape | {"cases": cases})


if __name__ == "__main__":
    main()
