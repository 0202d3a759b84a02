"""Lesson 06 over several seeds: optimizers (optimizers_06.py) and strategies (strategies_06.py) on questions -> JSON.

Each finished run is a line of build/lesson_06.jsonl: a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from experiments import run_all, store
from tunelab import models
from tunelab.paths import CHECKOUT, course_file

HELPERS = ("optimizers", "strategies")


def run(helper: str, job: tuple[Any, ...], journal: str) -> dict[str, Any]:
    """One run of a helper; adds its line to ``journal``."""
    result = _module(helper).run(*job)
    with Path(journal).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"job": job, "base_sha256": _base_hash(), "result": result}) + "\n")
    return {"job": job, **result}


def _module(helper: str) -> Any:
    return importlib.import_module(f"experiments.{helper}_06")


def _base_hash() -> str:
    return models.registry()["travel-base"]["sha256"]


def finished(journal: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The results of the journal that were made with this base, by job."""
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else []
    rows = [json.loads(line) for line in lines]
    return {tuple(row["job"]): row["result"] for row in rows if row["base_sha256"] == _base_hash()}


def line(r: dict[str, Any]) -> str:
    """One run, for the screen."""
    shown = {name: value for name, value in r.items() if isinstance(value, int | float)}
    return " ".join(map(str, r["job"])) + " · " + " · ".join(f"{name} {value:g}" for name, value in shown.items())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", choices=HELPERS, help="the runs of one part of the lesson")
    parser.add_argument("--limit", type=int, default=None, help="at most so many new runs, then stop")
    parser.add_argument("--out", type=Path, default=course_file("assets", "results", "lesson_06.json"))
    args = parser.parse_args()
    journal = (CHECKOUT or Path()) / "build" / "lesson_06.jsonl"
    journal.parent.mkdir(exist_ok=True)
    for helper in [args.only] if args.only else HELPERS:
        wanted: dict[tuple[Any, ...], None] = {}
        for stage in _module(helper).stages(args.seeds):
            jobs = stage(finished(journal))
            done = finished(journal)
            missing = [job for job in jobs if job not in done]
            now = missing if args.limit is None else missing[: args.limit]
            args.limit = None if args.limit is None else args.limit - len(now)
            run_all(run, [(helper, job, str(journal)) for job in now], line, args.processes)
            print(f"{helper}: {len(jobs)} runs of {jobs[0][0]}, {len(missing) - len(now)} still to do", flush=True)
            if len(now) < len(missing):
                return
            wanted |= dict.fromkeys(jobs)
        done = finished(journal)
        tables = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
        tables[helper] = _module(helper).table({job: done[job] for job in wanted})
        store(args.out, "experiments.lesson_06", {name: tables[name] for name in HELPERS if name in tables})


if __name__ == "__main__":
    main()
