"""Lesson 09 beyond its notebook: its index against hnswlib, its script, and what it relies on in Chroma."""

import json
import os
import subprocess
import sys
import uuid
from random import Random

import chromadb
import numpy as np
import pytest

from experiments import lesson_09
from tunelab import data, paths

SCRIPT = paths.course_file("assets", "scripts", "chroma_travel.py")
# One thread: the cores of a test machine are shared, and threads that wait for each other cost more than they bring.
QUIET = os.environ | {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def lesson():
    """The functions and the class that the lesson's cells define."""
    return lesson_09.teaching_code()


@pytest.fixture(scope="module")
def cloud(lesson):
    """Vectors, queries, and the ten nearest of each."""
    vectors, queries = lesson.clustered(800)
    return vectors, queries, [lesson.exact(vectors, query, 10).tolist() for query in queries]


@pytest.fixture
def collection():
    """Makes collections in memory and deletes them: all such clients of a process share what they hold."""
    client, made = chromadb.EphemeralClient(), []

    def make(space=None, **hnsw):
        made.append(f"test-{uuid.uuid4().hex}")
        configuration = {"hnsw": ({"space": space} if space else {}) | hnsw}
        return client.create_collection(made[-1], configuration=configuration, embedding_function=None)

    yield make
    for name in made:
        client.delete_collection(name)


# ---- the index ----


def test_exact_search_is_exact(lesson, cloud):
    vectors, queries, truth = cloud
    assert truth == np.argsort(-queries @ vectors.T, axis=1)[:, :10].tolist()


def test_with_enough_patience_the_index_finds_everything_and_counts_every_distance(lesson, cloud):
    vectors, queries, truth = cloud
    index = lesson.build(vectors, ef_construction=50)
    recall, work = lesson.grade(index, queries, truth, ef=800)
    assert recall == 1.0 and 800 <= work < 900
    recall, work = lesson.grade(index, queries, truth, ef=10)
    assert recall > 0.85 and work < 250


def test_links_keep_to_their_limits_and_layers_to_their_order(lesson, cloud):
    vectors, _, _ = cloud
    index = lesson.build(vectors, M=6, M0=9, ef_construction=30)
    assert sorted(index.layers[0]) == list(range(800)) and index.entry in index.layers[-1]
    for layer, links in enumerate(index.layers):
        assert max(map(len, links.values())) <= (6 if layer else 9)
        assert all(node not in others and len(set(others)) == len(others) for node, others in links.items())
        assert layer == 0 or set(links) <= set(index.layers[layer - 1])


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_vectors_are_no_special_case(lesson, n):
    vectors, queries = lesson.clustered(n, dim=8, queries=3)
    index = lesson.build(vectors)
    for query in queries:
        nearest = np.argsort(((vectors - query) ** 2).sum(axis=1)).tolist()
        assert lesson.search(index, query, k=n, ef=10) == nearest


def test_recall_is_that_of_hnswlib_within_a_hundredth(lesson):
    hnswlib = pytest.importorskip("hnswlib")
    apart = {10: [], 20: [], 50: []}
    for seed in range(4):
        vectors, queries = lesson.clustered(1000, seed=seed)
        truth = [lesson.exact(vectors, query, 10).tolist() for query in queries]
        ours = lesson.build(vectors, rng=Random(seed))
        theirs = hnswlib.Index(space="l2", dim=vectors.shape[1])
        theirs.init_index(max_elements=1000, M=16, ef_construction=100, random_seed=seed)
        theirs.set_num_threads(1)
        theirs.add_items(vectors)
        for ef, differences in apart.items():
            theirs.set_ef(ef)
            recall = lesson.recall_of(theirs.knn_query(queries, 10)[0], truth)
            differences.append(lesson.grade(ours, queries, truth, ef)[0] - recall)
    assert {ef: abs(np.mean(differences)) <= 0.01 for ef, differences in apart.items()} == dict.fromkeys(apart, True)


def test_the_stored_table_has_every_row_that_the_lesson_shows():
    table = json.loads(paths.course_file("assets", "results", "lesson_09.json").read_text(encoding="utf-8"))
    rows = {(row["method"], row["n"], row["ef"], row["seed"]) for row in table["growth"]}
    assert rows == {
        (method, n, ef, seed)
        for method in ("exact", "own", "hnswlib", "chroma")
        for n in table["sizes"]
        for ef in table["efs"]
        for seed in lesson_09.SEEDS
    }
    assert {row["part"] for row in table["ablations"]} == set(lesson_09.PARTS)


# ---- the script ----


def ask(passages, folder, question):
    command = [sys.executable, SCRIPT, passages, folder, question, "travel-encoder"]
    done = subprocess.run(list(map(str, command)), env=QUIET, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return [line.split(" ", 2) for line in done.stdout.splitlines() if line]


def test_the_script_is_short_answers_and_updates(tmp_path):
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) <= 25
    rows = [{name: row[name] for name in ("id", "kind", "text")} for row in data.load("passages", "en", "test")]
    file, folder = tmp_path / "passages.jsonl", tmp_path / "chroma"

    def write():
        file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")

    write()
    answers = ask(file, folder, rows[7]["text"])
    assert len(answers) == 3 and answers[0][0] == rows[7]["id"] and float(answers[0][1]) > 0.99
    rows[3]["text"] = "Drones need a flight permit; the form is at counter 4."
    withdrawn = rows.pop(7)
    write()
    answers = ask(file, folder, "Do I need a permit to fly a drone?")
    assert answers[0][0] == rows[3]["id"] and answers[0][2] == rows[3]["text"]
    client = chromadb.PersistentClient(path=folder)
    held = client.get_collection("passages", embedding_function=None).get(include=[])["ids"]
    assert sorted(held) == sorted(row["id"] for row in rows) and withdrawn["id"] not in held
    client.close()


def test_the_script_refuses_a_folder_that_was_made_with_another_space(tmp_path):
    client = chromadb.PersistentClient(path=tmp_path / "chroma")
    client.create_collection("passages", embedding_function=None)  # the default space
    client.close()
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "a", "kind": "faq", "text": "b"}), encoding="utf-8")
    command = [sys.executable, SCRIPT, tmp_path / "rows.jsonl", tmp_path / "chroma", "b"]
    done = subprocess.run(list(map(str, command)), env=QUIET, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "made with another space: choose another folder" in done.stderr


# ---- Chroma as the lesson describes it ----


@pytest.mark.parametrize("space", ["cosine", "l2", "ip"])
def test_what_a_distance_is(collection, space):
    one, other = np.array([[0.6, 0.8]], np.float32), np.array([[1.0, 0.0]], np.float32)
    made = collection(space)
    made.add(ids=["a"], embeddings=one)
    expected = {"cosine": 1 - 0.6, "ip": 1 - 0.6, "l2": 2 - 2 * 0.6}[space]
    assert made.query(query_embeddings=other)["distances"][0][0] == pytest.approx(expected, abs=1e-5)


def test_the_default_space_is_l2_and_a_misspelt_key_is_ignored(collection):
    assert collection().configuration["hnsw"]["space"] == "l2"
    client = chromadb.EphemeralClient()
    name = f"test-{uuid.uuid4().hex}"
    wrong = client.create_collection(name, configuration={"hnsw_space": "cosine"}, embedding_function=None)
    assert wrong.configuration["hnsw"]["space"] == "l2"
    client.delete_collection(name)


def test_add_skips_what_exists_and_update_what_does_not(collection):
    made = collection("cosine")
    made.add(ids=["a"], embeddings=[[1.0, 0.0]], documents=["old"])
    made.add(ids=["a"], embeddings=[[0.0, 1.0]], documents=["new"])
    made.update(ids=["b"], embeddings=[[0.0, 1.0]], documents=["new"])
    assert made.get()["documents"] == ["old"]


class Named(chromadb.EmbeddingFunction):
    """An embedding function that goes by the name that it is given."""

    def __init__(self, name):
        self.name = lambda: name

    def __call__(self, input):
        return [np.ones(2, np.float32) for _ in input]

    def get_config(self):
        return {}

    @staticmethod
    def build_from_config(config):
        return Named("first")


def test_another_name_of_an_embedding_function_is_refused_and_the_same_name_is_not(tmp_path):
    client = chromadb.PersistentClient(path=tmp_path)
    client.create_collection("rows", embedding_function=Named("first"))
    client.get_collection("rows", embedding_function=Named("first"))
    with pytest.raises(ValueError, match="Embedding function conflict: new: second vs persisted: first"):
        client.get_collection("rows", embedding_function=Named("second"))
    client.close()


def test_more_neighbours_than_there_are(collection):
    made = collection("cosine")
    made.add(ids=["a", "b"], embeddings=[[1.0, 0.0], [0.0, 1.0]])
    assert len(made.query(query_embeddings=[[1.0, 0.0]], n_results=100)["ids"][0]) == 2
    hnswlib = pytest.importorskip("hnswlib")
    library = hnswlib.Index(space="cosine", dim=2)
    library.init_index(max_elements=2)
    library.add_items(np.eye(2, dtype=np.float32))
    with pytest.raises(RuntimeError):
        library.knn_query(np.ones((1, 2), np.float32), k=3)


def test_k_above_ef_search_widens_the_search(lesson, collection):
    vectors, queries = lesson.clustered(2000, queries=20)
    made = collection("cosine", ef_search=10)
    made.add(ids=[str(row) for row in range(2000)], embeddings=vectors)
    found = made.query(query_embeddings=queries, n_results=100, include=[])["ids"]
    assert {len(row) for row in found} == {100}
    truth = [lesson.exact(vectors, query, 100).tolist() for query in queries]
    assert lesson.recall_of([[int(name) for name in row] for row in found], truth) > 0.98


def test_nan_is_refused_when_stored_and_answered_when_asked(collection):
    made = collection("cosine")
    made.add(ids=["a", "zero"], embeddings=np.array([[1, 0], [0, 0]], np.float32))
    with pytest.raises(chromadb.errors.InvalidArgumentError, match="NaN"):
        made.add(ids=["b"], embeddings=np.array([[np.nan, 1]], np.float32))
    assert len(made.query(query_embeddings=np.array([[np.nan, 1]], np.float32), n_results=2)["ids"][0]) == 2


def test_vectors_without_a_direction_are_named(lesson):
    rows = np.array([[1, 0], [0, 0], [np.nan, 1]], np.float32)
    with pytest.raises(ValueError, match=r"rows \[1, 2\]: zero or not a number"):
        lesson.checked(rows)
    assert lesson.checked(rows[:1]) is not None
