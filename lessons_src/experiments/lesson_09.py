"""Lesson 09 over several seeds: HNSW with a part taken away, and four ways to search as the collection grows.

The index is the lesson's own: its functions are read from the lesson's source, so what is measured is what is taught.
Each finished run is a line of build/lesson_09.jsonl: a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import jupytext

from experiments import run_all, store
from tunelab.paths import CHECKOUT, course_file

SEEDS, SIZES = range(5), (1000, 2000, 5000, 10_000, 20_000, 50_000)  # a run of the largest takes minutes
EFS = (10, 20, 50, 100)
PARTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "nearest": {"heuristic": False},
    "no back-links": {"back_links": False},
    "M0 = M": {"M0": 16},
    "flat": {"hierarchy": False},
}
ABLATED_AT, ABLATED_EFS = 2000, (10, 50)
QUERIES = 1000  # as they grow: with a hundred, two graphs differ by a hundredth through chance
COUNTED, TIMED = 100, 50  # queries whose distances are counted, and whose time is taken


def source() -> str:
    """The lesson's text."""
    return course_file("lessons", "09_vector_databases.py").read_text(encoding="utf-8")


def teaching_code() -> SimpleNamespace:
    """The functions and the class that the lesson's cells define, with the imports of the lesson; nothing is run."""
    notebook = jupytext.reads(source(), fmt={"extension": ".py", "format_name": "percent", "comment_magics": False})
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    scope: dict[str, Any] = {"hnswlib": None, "__name__": __name__}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "exercise" not in cell.metadata:
            nodes: list[ast.stmt] = [node for node in ast.parse(cell.source).body if isinstance(node, kept)]
            exec(compile(ast.Module(nodes, []), "lesson 09", "exec"), scope)
    return SimpleNamespace(**scope)


def version() -> str:
    """Hash of the code that is measured: what of the lesson is used here, and this file."""
    used = {"clustered", "exact", "milliseconds", "Index", "distances", "search_layer", "select_neighbours"}
    used |= {"insert", "search", "build", "grade", "recall_of"}
    defined = [node for node in ast.parse(source()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    measured = [ast.dump(node) for node in defined if node.name in used]
    text = Path(__file__).read_text(encoding="utf-8") + "".join(measured)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run(table: str, what: int | str, seed: int, journal: str) -> dict[str, Any]:
    """One job: a size of ``growth`` by all methods, or a part of ``ablations``; adds its line to ``journal``."""
    rows = growth(int(what), seed) if table == "growth" else ablation(str(what), seed)
    result = {"table": table, "what": what, "seed": seed, "version": version(), "rows": rows}
    with Path(journal).open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    return result


def ablation(part: str, seed: int) -> list[dict[str, Any]]:
    """Recall@10 and distances a query of the own index without ``part``, by ef."""
    lesson = teaching_code()
    vectors, queries = lesson.clustered(ABLATED_AT, seed=seed)
    truth = [lesson.exact(vectors, query, 10).tolist() for query in queries]
    index = lesson.build(vectors, rng=Random(seed), **PARTS[part])
    rows = []
    for ef in ABLATED_EFS:
        recall, work = lesson.grade(index, queries, truth, ef)
        rows.append({"part": part, "seed": seed, "ef": ef, "recall": round(recall, 4), "work": round(work, 1)})
    return rows


def growth(n: int, seed: int) -> list[dict[str, Any]]:
    """Recall@10, distances and milliseconds a query for n vectors, by method and ef; seconds of the building."""
    lesson = teaching_code()
    vectors, queries = lesson.clustered(n, seed=seed, queries=QUERIES)
    truth = [lesson.exact(vectors, query, 10).tolist() for query in queries]
    rows = []

    def add(method: str, ef: int, seconds: float, search: Callable[[Any], Any], work: float | None = None) -> None:
        recall = lesson.recall_of([search(query) for query in queries], truth)
        ms = lesson.milliseconds(search, queries[:TIMED])
        row = {"method": method, "n": n, "seed": seed, "ef": ef, "recall": round(recall, 4), "ms": round(ms, 4)}
        rows.append(row | {"build_seconds": round(seconds, 2)} | ({} if work is None else {"work": round(work, 1)}))

    for ef in EFS:  # the same for each, so that every method has the same rows
        add("exact", ef, 0.0, lambda query: lesson.exact(vectors, query, 10), float(n))
    begun = time.perf_counter()
    own = lesson.build(vectors, rng=Random(seed))
    seconds = time.perf_counter() - begun
    for ef in EFS:
        work = lesson.grade(own, queries[:COUNTED], truth[:COUNTED], ef)[1]
        add("own", ef, seconds, lambda query, ef=ef: lesson.search(own, query, 10, ef), work)
    _libraries(vectors, seed, add)
    return rows


def _libraries(vectors: Any, seed: int, add: Callable[..., None]) -> None:
    import chromadb
    import hnswlib

    n = len(vectors)
    library = hnswlib.Index(space="l2", dim=vectors.shape[1])
    library.init_index(max_elements=n, M=16, ef_construction=100, random_seed=seed)
    library.set_num_threads(1)
    begun = time.perf_counter()
    library.add_items(vectors)
    seconds = time.perf_counter() - begun
    for ef in EFS:
        library.set_ef(ef)
        add("hnswlib", ef, seconds, lambda query: library.knn_query(query, 10)[0][0].tolist())
    with TemporaryDirectory() as folder:
        client = chromadb.PersistentClient(path=folder)
        hnsw = {"space": "cosine", "max_neighbors": 16, "ef_construction": 100}
        collection = client.create_collection("growth", configuration={"hnsw": hnsw}, embedding_function=None)
        begun = time.perf_counter()
        for start in range(0, n, 5000):
            ids = [str(row) for row in range(start, min(n, start + 5000))]
            collection.add(ids=ids, embeddings=vectors[start : start + 5000])
        seconds = time.perf_counter() - begun
        for ef in EFS:
            collection.modify(configuration={"hnsw": {"ef_search": ef}})
            client.close()  # the new ef_search counts once the collection is opened again
            client = chromadb.PersistentClient(path=folder)
            collection = client.get_collection("growth", embedding_function=None)

            def ask(query: Any, collection: Any = collection) -> list[int]:
                found = collection.query(query_embeddings=[query], n_results=10, include=["distances"])
                return [int(name) for name in found["ids"][0]]

            add("chroma", ef, seconds, ask)
        client.close()


def finished(journal: Path) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """The rows of the journal that this code made, by (table, what, seed)."""
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else []
    done = [json.loads(line) for line in lines]
    return {(r["table"], r["what"], r["seed"]): r["rows"] for r in done if r["version"] == version()}


def line(result: dict[str, Any]) -> str:
    """One line for the terminal."""
    row = result["rows"][-1]
    return (
        f"{result['table']} {result['what']} seed {result['seed']}: {row.get('method', '')} recall {row['recall']:.3f}"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=max(SIZES), help="leave out sizes above this")
    parser.add_argument(
        "--processes", type=int, default=1, help="one: times are taken, and two would disturb each other"
    )
    parser.add_argument("--out", type=Path, default=course_file("assets", "results", "lesson_09.json"))
    args = parser.parse_args()
    journal = (CHECKOUT or Path()) / "build" / "lesson_09.jsonl"
    journal.parent.mkdir(exist_ok=True)
    sizes = [n for n in SIZES if n <= args.largest]
    wanted: list[tuple[str, int | str, int]] = [("ablations", part, seed) for part in PARTS for seed in SEEDS]
    wanted += [("growth", n, seed) for n in sizes for seed in SEEDS]
    done = finished(journal)
    missing = [job for job in wanted if job not in done]
    print(f"{len(wanted)} runs, {len(wanted) - len(missing)} of them in {journal.name}", flush=True)
    run_all(run, [(*job, str(journal)) for job in missing], line, args.processes)
    done = finished(journal)
    tables = {name: [row for job in wanted if job[0] == name for row in done[job]] for name in ("ablations", "growth")}
    store(args.out, "experiments.lesson_09", {"sizes": sizes, "efs": EFS, **tables})


if __name__ == "__main__":
    main()
