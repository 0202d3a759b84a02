"""The multi-seed tables behind the lessons: `make experiments` (LESSON=01) writes assets/results/.

A lesson trains once, for about fifteen seconds; what it claims must hold for other seeds too. Here every training is run
with several seeds and in both languages, and every score is kept with the command that made it.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", GOMP_SPINCOUNT="0", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

from tunelab import chat, corpus, data, metrics, models, world
from tunelab.paths import course_file


def run_all(
    function: Callable[..., dict[str, Any]],
    jobs: Iterable[tuple[Any, ...]],
    describe: Callable[[dict[str, Any]], str],
    processes: int,
) -> list[dict[str, Any]]:
    """The results of ``function(*job)`` for each job, in order, one process a core; prints a line for each.

    When a job fails, those that have not begun are dropped, so that the error shows at once.
    """
    with ProcessPoolExecutor(processes, initializer=_one_thread) as pool:
        waiting, results = [pool.submit(function, *job) for job in jobs], []
        try:
            for job in waiting:
                results.append(job.result())
                print(describe(results[-1]), flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def store(path: Path, module: str, table: dict[str, Any]) -> None:
    """Writes a table with the command that makes it and the base that it was made with."""
    options = " ".join(sys.argv[1:])
    table = {
        "command": f"python -m {module} {options}".strip(),
        "base_sha256": models.registry()["travel-base"]["sha256"],
        **table,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def taught(number: str, names: Collection[str], needed: Collection[str] = ()) -> dict[str, Any]:
    """Classes and functions of a lesson's own source by name, so that a table cannot drift away from what is taught.

    ``needed`` are variables of the lesson that they read. Imports come along.
    """
    (source,) = course_file("lessons").glob(f"{number}_*.py")
    nodes = [
        node
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        or getattr(node, "name", None) in names
        or any(isinstance(n, ast.Name) and n.id in needed and isinstance(n.ctx, ast.Store) for n in ast.walk(node))
    ]
    scope: dict[str, Any] = {}
    exec(compile(ast.Module(nodes, []), source.name, "exec"), scope)
    return {name: scope[name] for name in names}


@cache
def base_model() -> tuple[Any, Any]:
    """The course's base and its tokenizer; never trained in place."""
    return models.load_lm()


def score_questions(model: Any, tokenizer: Any, lang: str, split: str) -> dict[str, dict[str, Any]]:
    """Scores on the hand-written questions, by half of the places: ``seen`` in fine-tuning, ``unseen``.

    Each half has the means of :func:`tunelab.metrics.score_json`, every single answer as a string of 0 and 1 (``right``),
    and the share of right answers by topic.
    """
    test = data.load("questions", lang, split)
    replies = chat.reply(model, tokenizer, test["question"])
    result = {}
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


def article_loss(model: Any, tokenizer: Any, lang: str) -> float:
    """Mean loss a token, in nats, on 60 articles that the pre-training did not draw."""
    import torch

    model.eval()
    rng, total, tokens = Random("articles for measuring"), 0.0, 0
    with torch.no_grad():
        for _ in range(60):
            ids = tokenizer(corpus.article(rng, lang), return_tensors="pt")["input_ids"]
            total += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
            tokens += ids.shape[1] - 1
    return round(total / tokens, 4)
