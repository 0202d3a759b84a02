"""Passages: found by what they say, and none that was acknowledged is ever lost."""

import contextlib
import errno
import json
import multiprocessing
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import chromadb
import pytest

import bootstrap
from serving import Letters, document, write_until_killed
from tunelab import store as stores
from tunelab.store import DamagedLogError, PassageStore, StoreClosedError, StoreError, StoreLockedError, open_collection

REFUND = document("en-1", "A day ticket is refunded until the evening before.", lang="en", kind="policy", price=20)
PASS = document("en-2", "The annual pass can be handed back within a month.", lang="en", kind="policy", price=90)
LAKE = document("zh-1", "白鹭湖在春天最美，坐12路公交车可以到。", lang="zh", kind="guide", price=30)


@pytest.fixture
def store(tmp_path):
    with PassageStore(tmp_path / "store", Letters()) as opened:
        opened.upsert([REFUND, PASS, LAKE])
        yield opened


def reopened(store: PassageStore) -> PassageStore:
    return PassageStore(store.folder, Letters())


def contents(store: PassageStore) -> dict[str, dict]:
    return {name: store.get(name) for name in store.ids()}


def found(store: PassageStore, text: str, **options) -> list[str]:
    return [hit.id for hit in store.search(text, **options)]


# ---- searching and writing ----


def test_a_search_gives_the_nearest_passages_with_their_similarity(store):
    best, second = store.search("refund of a day ticket", k=2)
    assert (best.id, best.text, best.metadata) == ("en-1", REFUND["text"], REFUND["metadata"])
    assert 1 > best.score > second.score > 0
    [same] = store.search(PASS["text"], k=1)
    assert same.id == "en-2" and same.score == pytest.approx(1, abs=1e-5)
    assert len(store.search("ticket", k=50)) == 3  # more than there are is no mistake


def test_language_and_filter_narrow_a_search(store):
    assert found(store, "ticket", lang="zh") == ["zh-1"]
    assert set(found(store, "ticket", where={"kind": "policy"})) == {"en-1", "en-2"}
    assert found(store, "ticket", lang="en", where={"price": {"$lte": 40}}) == ["en-1"]
    assert found(store, "ticket", lang="zh", where={"kind": "policy"}) == []


def test_a_search_that_makes_no_sense_says_why(store):
    with pytest.raises(ValueError, match=r"k=0: a search gives 1 to 100 hits"):
        store.search("ticket", k=0)
    with pytest.raises(ValueError, match="empty"):
        store.search("  ")
    with pytest.raises(ValueError, match=r"does not take the filter \{'\$nonsense': 1\}"):
        store.search("ticket", where={"$nonsense": 1})
    assert store.search("nothing") == []  # it has no vector, so nothing is near


def test_upsert_replaces_a_document_whole(store):
    assert store.upsert([document("en-1", "The museum opens at nine.", lang="en")]) == 1
    assert store.get("en-1") == document("en-1", "The museum opens at nine.", lang="en")  # kind and price are gone
    assert found(store, "museum opens", k=1) == ["en-1"] and len(store) == 3
    assert "en-1" not in found(store, "ticket", where={"kind": "policy"})


def test_delete_says_what_was_there(store):
    assert store.delete(["zh-1", "nobody", "zh-1"]) == ["zh-1"]
    assert (
        "zh-1" not in store and len(store) == 2 and found(store, LAKE["text"]) == found(store, LAKE["text"], lang="en")
    )
    with pytest.raises(KeyError, match="no document 'zh-1' among 2"):
        store.get("zh-1")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"id": "../etc", "text": "a text"}, r"id '\.\./etc': expected 1 to 128 letters"),
        ({"id": "", "text": "a text"}, r"id ''"),
        ({"id": 3, "text": "a text"}, r"id 3"),
        ({"id": "a" * 129, "text": "a text"}, "id 'aaa"),
        ({"id": "a", "text": " \n"}, "a text that is not empty"),
        ({"id": "a", "text": "nul \0"}, "no NUL"),
        ({"id": "a", "text": "half \ud800 a pair"}, "surrogate"),
        ({"id": "a", "text": "a text", "lang": "en"}, "'lang': a document has id, text and metadata"),
        ({"id": "a", "text": "a text", "metadata": {"_digest": "x"}}, "metadata key '_digest'"),
        ({"id": "a", "text": "a text", "metadata": {"price": float("nan")}}, "price=nan"),
        ({"id": "a", "text": "a text", "metadata": {"tags": ["x"]}}, r"tags=\['x'\]"),
        ({"id": "a", "text": "nothing"}, "has no vector"),
    ],
)
def test_a_bad_document_stores_nothing_of_its_call(store, bad, words):
    before = (store.folder / "documents.jsonl").read_bytes()
    with pytest.raises(ValueError, match=words):
        store.upsert([document("good", "a good text"), bad])
    assert "good" not in store and (store.folder / "documents.jsonl").read_bytes() == before


def test_one_id_twice_in_a_call_is_refused(store):
    with pytest.raises(ValueError, match="'a' occurs 2 times"):
        store.upsert([document("a", "one text"), document("b", "a text"), document("a", "another text")])


def test_threads_read_while_one_writes_and_rebuilds(store):
    stop, failures = threading.Event(), []

    def read():
        try:
            while not stop.is_set():
                assert found(store, REFUND["text"], k=1) == ["en-1"]
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(6)]
    for reader in readers:
        reader.start()
    for number in range(10):
        store.upsert([document(f"n{number}", f"{number} more words about lakes")])
    store.rebuild()
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == [] and len(store) == 13


# ---- opening again ----


def test_another_handle_finds_what_was_written(store):
    before = contents(store)
    again = reopened(store)
    assert contents(again) == before and found(again, "refund of a day ticket", k=1) == ["en-1"]
    with pytest.raises(StoreClosedError, match="opened anew elsewhere"):
        store.search("ticket")
    again.close()
    again.close()


def test_one_process_at_a_time(store):
    code = f"from serving import *; PassageStore({str(store.folder)!r}, Letters())"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
    assert "StoreLockedError: another process has the store 'store' open" in done.stderr
    assert issubclass(StoreLockedError, StoreError) and len(store) == 3


def test_a_refused_process_has_loaded_nothing(store):
    code = f"""
import sys
from tunelab.store import PassageStore, StoreLockedError
try:
    PassageStore({str(store.folder)!r})  # with the course's embedding
except StoreLockedError:
    print(sorted({{"torch", "transformers", "chromadb"}} & set(sys.modules)))
"""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
    assert done.stdout == "[]\n", done.stderr


def test_an_embedding_that_cannot_be_made_leaves_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("tunelab.embedding.CourseEmbedding", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        PassageStore(tmp_path)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = f"from serving import *; print(len(PassageStore({str(tmp_path)!r}, Letters())))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
    assert done.stdout == "0\n", done.stderr


def test_an_index_that_lags_behind_the_log_is_brought_up_to_date(store):
    store.close()
    with (store.folder / "documents.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps({"upsert": [document("en-1", "Boats leave the lake at ten.", lang="en")]}) + "\n")
        log.write(json.dumps({"delete": ["en-2"]}) + "\n")
    with reopened(store) as again:
        assert set(contents(again)) == {"en-1", "zh-1"}
        assert found(again, "boats leave the lake") == ["en-1", "zh-1"]


def test_another_embedding_makes_another_index(store):
    store.close()
    with PassageStore(store.folder, Letters(dim=32)) as again:
        assert found(again, "refund of a day ticket", k=1) == ["en-1"]

    class Retrained(Letters):
        def vector(self, text):
            return super().vector(text[::-1])

    with PassageStore(store.folder, Retrained(dim=32)) as again:  # the same name and settings, other weights
        assert again.search(REFUND["text"], k=1)[0].score == pytest.approx(1, abs=1e-5)


def test_compacting_keeps_the_documents_and_shortens_the_log(store):
    for price in range(20):
        store.upsert([document("en-1", REFUND["text"], price=price)])
    store.delete(["en-2"])
    before, log = contents(store), store.folder / "documents.jsonl"
    store.compact()
    assert len(log.read_bytes().splitlines()) == 2
    store.upsert([PASS])
    with reopened(store) as again:
        assert contents(again) == before | {"en-2": PASS}


# ---- damage ----


def test_a_torn_last_line_is_dropped(store):
    store.close()
    log = store.folder / "documents.jsonl"
    whole = log.read_bytes()
    for cut in (1, 20, 200):
        log.write_bytes(whole + json.dumps({"upsert": [document("lost", "x" * 300)]}).encode()[:cut])
        with reopened(store) as again:
            assert set(contents(again)) == {"en-1", "en-2", "zh-1"} and log.read_bytes() == whole


def test_a_damaged_line_is_named(store):
    store.close()
    log = store.folder / "documents.jsonl"
    log.write_bytes(log.read_bytes() + b"{damage}\n" + b'{"delete": ["en-1"]}\n')
    with pytest.raises(DamagedLogError, match=r"documents\.jsonl, line 2: no JSON object\. Restore the file"):
        reopened(store)
    log.write_bytes(log.read_bytes().replace(b"{damage}\n", b""))
    with reopened(store) as again:  # the failed opening let go of the lock
        assert "en-1" not in again


def test_a_full_disk_acknowledges_nothing_and_breaks_nothing(store, monkeypatch):
    log, real = store.folder / "documents.jsonl", os.fsync
    before = log.read_bytes()

    def full(handle):
        if log.read_bytes() != before:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.upsert([document("lost", "a text for a full disk")])
    assert log.read_bytes() == before and "lost" not in store
    monkeypatch.undo()
    store.upsert([document("kept", "a text for an empty disk")])
    with reopened(store) as again:
        assert "kept" in again and "lost" not in again


def test_an_index_that_fails_is_built_anew(store, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(type(store._index), "add", lambda *_: 1 / 0)
        with pytest.raises(StoreError, match=r"safe in the log, but the index failed \(division by zero\)"):
            store.upsert([document("late", "boats on the lake")])
    assert found(store, "boats on the lake", k=1) == ["late"]


def test_health_asks_for_what_is_there(store):
    assert store.health() == {"ok": True, "documents": 3, "indexed": 3, "checked": 3, "found": 3, "problem": None}
    store._index.remove(["en-1"])
    report = store.health()
    assert (
        not report["ok"]
        and report["indexed"] == 2
        and report["problem"] == "the index misses documents: call rebuild()"
    )
    store.rebuild()
    for file in store._index.folder.glob("*.sqlite3"):
        file.write_bytes(b"damage" * 1000)
    report = store.health()
    assert not report["ok"] and "the index cannot be read" in report["problem"]
    store.close()
    with reopened(store) as again:  # a damaged index is no reason not to open
        assert found(again, "refund of a day ticket", k=1) == ["en-1"]


def test_a_damaged_graph_takes_the_probe_down_and_not_the_store(tmp_path):
    with PassageStore(tmp_path, Letters()) as store:
        store.upsert(
            [document(f"d{i}", f"passage {i} of {i * 7}") for i in range(1500)]
        )  # past 1,000 Chroma writes the graph
        [vectors] = store._index.folder.glob("*/data_level0.bin")
        whole = vectors.read_bytes()
        vectors.write_bytes(b"\xff" * len(whole))
        report = store.health()
        assert not report["ok"] and report["problem"].endswith("call rebuild()")
        store.rebuild()
        assert store.health()["ok"]


def test_a_search_that_meets_damage_has_the_index_built_anew(store, monkeypatch):
    class Unreadable:
        def query(self, **_):
            raise chromadb.errors.InternalError("Error loading hnsw index")

    monkeypatch.setattr(store._index, "_collection", Unreadable())
    with pytest.raises(StoreError, match=r"cannot be read \(Error loading hnsw index\): the next call"):
        store.search("ticket")
    assert found(store, "refund of a day ticket", k=1) == ["en-1"]


# ---- killed writers ----


class Witness:
    """What a writer acknowledged before it was killed, and the write that it was in."""

    def __init__(self) -> None:
        self.documents, self.begun, self.writes = {}, None, 0

    def hear(self, said):
        if said == "done":
            self.documents, self.begun, self.writes = self.after(self.begun), None, self.writes + 1
        elif said != "opening":
            self.begun = said

    def after(self, record):
        """The documents once a write is through."""
        state = self.documents | {item["id"]: item for item in record.get("upsert", ())}
        return {name: item for name, item in state.items() if name not in record.get("delete", ())}


def test_twenty_killed_writers_lose_nothing_that_was_acknowledged(tmp_path):
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["chromadb.utils.embedding_functions", "tunelab.store"]
    )  # imported once, not twenty times
    rng, writes = random.Random(0), 0
    for run in range(20):
        folder, witness, (here, there) = tmp_path / str(run), Witness(), processes.Pipe(duplex=False)
        writer = processes.Process(target=write_until_killed, args=(str(folder), there, run))
        writer.start()
        there.close()
        # Killed at any moment up to its twelfth write or so; every fifth one while it opens the store.
        for _ in range(2 * rng.randrange(12) + 2 if run % 5 else 1):
            witness.hear(here.recv())
        time.sleep(rng.uniform(0.0, 0.05))
        writer.kill()
        writer.join()
        with contextlib.suppress(EOFError):
            while True:
                witness.hear(here.recv())
        with PassageStore(folder, Letters()) as store:
            # The write that was on its way may be there, whole, or not.
            possible = [witness.documents] + ([witness.after(witness.begun)] if witness.begun else [])
            assert contents(store) in possible
            for name in rng.sample(store.ids(), min(3, len(store))):
                assert store.search(store.get(name)["text"], k=1)[0].score == pytest.approx(1, abs=1e-5)
            assert len(store.search("says", k=100)) == len(store)
            store.upsert([document("after", "and it goes on")])
        assert not (folder / "in-use").exists() and len(list(folder.glob("index-*"))) == 1
        writes += witness.writes
    assert writes >= 60


# ---- the same collection behind `chroma run` ----


def test_the_same_code_works_against_chroma_run(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("chroma")
    command = [str(program), "run", "--path", str(tmp_path), "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=bootstrap.run_environ()
    )
    try:
        settings = chromadb.Settings(anonymized_telemetry=False)
        for _ in range(200):
            try:
                client = chromadb.HttpClient("127.0.0.1", port, settings=settings)
                break
            except Exception:  # not up yet
                assert server.poll() is None, "chroma run ended"
                time.sleep(0.05)
        collection = open_collection(client, "passages", Letters())
        collection.add(ids=[d["id"] for d in (REFUND, PASS, LAKE)], documents=[d["text"] for d in (REFUND, PASS, LAKE)])
        others = [
            chromadb.HttpClient("127.0.0.1", port, settings=settings) for _ in range(4)
        ]  # as other processes would
        answers = []
        readers = [
            threading.Thread(
                target=lambda c=c: answers.append(
                    open_collection(c, "passages", Letters()).query(
                        query_texts=["refund of a day ticket"], n_results=1
                    )["ids"]
                )
            )
            for c in others
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert answers == [[["en-1"]]] * 4
    finally:
        server.terminate()
        assert server.wait(20) is not None
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0  # nothing listens any more


def test_another_space_is_refused(tmp_path):
    client = stores.open_client(tmp_path)
    client.create_collection("passages", embedding_function=Letters(), configuration={"hnsw": {"space": "l2"}})
    with pytest.raises(ValueError, match=re.escape("measures 'l2', expected 'cosine'")):
        open_collection(client, "passages", Letters())
    client.close()


# ---- the real encoder ----


def test_the_courses_embedding_finds_a_paraphrase_and_reopens(tmp_path):
    from tunelab.embedding import CourseEmbedding

    with PassageStore(tmp_path, CourseEmbedding("minilm")) as store:
        store.upsert([REFUND, PASS])
        assert found(store, "Can I have my money back if I cancel?", k=1) == ["en-1"]
    with PassageStore(tmp_path, CourseEmbedding("minilm")) as store:
        assert found(store, "I no longer want my yearly membership", k=1) == ["en-2"]
