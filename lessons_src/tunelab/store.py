"""Passages that can be searched and that are never lost: a log on the disk, and a Chroma index made from it.

The log (``documents.jsonl``) is the truth: a write is on the disk before it is acknowledged. The index is derived, and one that
a killed process left is not trusted but built anew. (A collection of Chroma can be lost when its process is killed while it
persists the HNSW graph.)
"""

from __future__ import annotations

import copy
import shutil
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ._index import Index, open_client, open_collection, self_queries
from ._journal import DamagedLogError, Journal
from ._passages import Hit, NoVectorError, StoreClosedError, StoreError, StoreLockedError, checked

if TYPE_CHECKING:
    from chromadb import EmbeddingFunction

__all__ = [
    "DamagedLogError",
    "Hit",
    "PassageStore",
    "StoreClosedError",
    "StoreError",
    "StoreLockedError",
    "open_client",
    "open_collection",
]

MOST_HITS = 100  # the index's ef_search, which a search for more would have to widen

_open: dict[Path, PassageStore] = {}  # by folder, this process's handle
_opening = threading.Lock()


class PassageStore:
    """Documents ``{"id", "text", "metadata"}`` in a folder, found by the meaning of their text.

    One process a folder. Within a process a new handle takes the folder over and the older one is closed, so that a
    notebook cell can be run again. Threads may share a handle: their calls come one after the other.
    """

    def __init__(self, folder: str | Path, embedding: EmbeddingFunction | None = None) -> None:
        """Opens or creates the store, and recovers what a killed writer left.

        Args:
            folder: holds ``documents.jsonl``, the index and the lock.
            embedding: a registered Chroma embedding function, by default the course's. When it is another one than last
                time, the index is built anew.

        Raises:
            StoreLockedError: another process has it open.
            DamagedLogError: an acknowledged line of the log cannot be read.
        """
        self.folder = Path(folder).resolve()
        self._lock, self._closed, self._stale = threading.RLock(), False, False
        self._documents: dict[str, dict[str, Any]] = {}
        self._in_use = self.folder / "in-use"  # stays when the process is killed
        self.folder.mkdir(parents=True, exist_ok=True)
        with _opening:
            if older := _open.pop(self.folder, None):
                older.close()
            self._held = FileLock(self.folder / "store.lock", thread_local=False)
            try:
                self._held.acquire(timeout=0)
            except Timeout:
                busy = f"another process has the store {self.folder.name!r} open: stop it, or ask it over HTTP"
                raise StoreLockedError(busy) from None
            try:  # only now, since a process that is refused need not load anything
                if embedding is None:
                    from .embedding import CourseEmbedding

                    embedding = CourseEmbedding()
                self.embedding = embedding
                self._recover()
            except BaseException:
                self._held.release()
                raise
            _open[self.folder] = self

    def _recover(self) -> None:
        self._journal = Journal(self.folder / "documents.jsonl")
        for record in self._journal.read():
            self._remember(record)
        trusted = not self._in_use.exists()
        self._in_use.touch()
        index = Index.newest(self.folder, self.embedding, self._documents) if trusted else None
        self._use(index or Index.build(self.folder, self.embedding, self._documents.values()))

    def _remember(self, record: dict[str, Any]) -> None:
        self._documents |= {document["id"]: document for document in record.get("upsert", ())}
        for name in record.get("delete", ()):
            self._documents.pop(name, None)

    def _use(self, index: Index) -> None:
        self._index, self._stale = index, False
        for folder in (*self.folder.glob("index-*"), self.folder / "building"):
            if folder != index.folder:
                shutil.rmtree(folder, ignore_errors=True)

    # ---- writing ----

    def upsert(self, documents: Iterable[Mapping[str, Any]]) -> int:
        """Adds documents, or replaces those of the same id whole, metadata too: all of them or, after an error, none.

        Returns how many. Raises ValueError for a document that cannot be stored.
        """
        new = [checked(document) for document in documents]
        name, times = Counter(document["id"] for document in new).most_common(1)[0] if new else ("", 0)
        if times > 1:
            raise ValueError(f"the id {name!r} occurs {times} times in one call; give each document its own")
        with self._ready():
            vectors = self._index.vectors([document["text"] for document in new])
            replaced = [document["id"] for document in new if document["id"] in self._documents]
            if new:
                with self._written({"upsert": new}):
                    self._index.remove(replaced)
                    self._index.add(new, vectors)
        return len(new)

    def delete(self, ids: Iterable[str]) -> list[str]:
        """Removes documents; returns the ids that were there."""
        with self._ready():
            there = [name for name in dict.fromkeys(ids) if name in self._documents]
            if there:
                with self._written({"delete": there}):
                    self._index.remove(there)
        return there

    @contextmanager
    def _written(self, record: dict[str, Any]) -> Iterator[None]:
        """Puts a record on the disk; the block then does the same to the index."""
        self._journal.append(record)
        self._remember(record)
        self._stale = True  # until the block is through, whatever interrupts it
        try:
            yield
        except Exception as error:
            raise StoreError(f"the write is safe in the log, but the index failed ({error}): call rebuild()") from error
        self._stale = False

    def rebuild(self) -> None:
        """Makes the index anew from the log: in a staging folder, renamed when it is complete."""
        with self._ready(stale=True):
            index = Index.build(self.folder, self.embedding, self._documents.values())
            self._index.close()
            self._use(index)

    def compact(self) -> None:
        """Shortens the log to one line a document; replaced and deleted ones are gone from the disk then."""
        with self._ready(stale=True):
            self._journal.rewrite({"upsert": [document]} for document in self._documents.values())

    # ---- reading ----

    def search(self, text: str, k: int = 5, where: dict[str, Any] | None = None, lang: str | None = None) -> list[Hit]:
        """The ``k`` passages nearest to ``text``, best first; fewer where there are no more.

        Args:
            where: a Chroma filter on metadata, such as ``{"kind": "policy"}`` or ``{"price": {"$lte": 40}}``.
            lang: keeps passages with this ``lang`` in their metadata.

        Raises:
            ValueError: k outside 1 to 100, an empty text, or a filter that Chroma does not understand.
        """
        if not 1 <= k <= MOST_HITS:
            raise ValueError(f"k={k}: a search gives 1 to {MOST_HITS} hits")
        if not text.strip():
            raise ValueError("the text to search for is empty")
        filters = [{"lang": lang}] * (lang is not None) + [where] * bool(where)
        both = {"$and": filters} if len(filters) > 1 else filters[0] if filters else None
        with self._ready():
            try:
                pairs = self._index.query(text, min(k, len(self)), both) if self._documents else []
            except NoVectorError:
                return []
            except StoreError:
                self._stale = True
                raise
            kept = [(self._documents[name], score) for name, score in pairs]
        return [Hit(document["id"], document["text"], dict(document["metadata"]), score) for document, score in kept]

    def get(self, name: str) -> dict[str, Any]:
        """The document with this id; KeyError where there is none."""
        with self._ready(stale=True):
            if name not in self._documents:
                raise KeyError(f"no document {name!r} among {len(self._documents)}")
            return copy.deepcopy(self._documents[name])

    def ids(self) -> list[str]:
        """The ids of all documents, in the order in which they came."""
        return list(self._documents)

    def __len__(self) -> int:
        return len(self._documents)

    def __contains__(self, name: object) -> bool:
        return name in self._documents

    def health(self, sample: int = 50) -> dict[str, Any]:
        """Whether the index finds what it holds: a count proves nothing. Asked on a copy, by another process.

        Returns ``ok``, ``documents`` (of the log), ``indexed``, ``checked``, ``found``, and ``problem`` (None, or what to do).
        """
        with self._ready(stale=True):
            report = {"ok": False, "documents": len(self._documents), **self_queries(self._index.folder, sample)}
        if not report["problem"]:
            report["ok"] = report["indexed"] == report["documents"] and report["found"] == report["checked"]
            report["problem"] = None if report["ok"] else "the index misses documents: call rebuild()"
        return report

    # ---- opening and closing ----

    @contextmanager
    def _ready(self, stale: bool = False) -> Iterator[None]:
        """One call at a time, on an open store whose index is as new as its log."""
        with self._lock:
            if self._closed:
                raise StoreClosedError(f"the store {self.folder.name!r} was closed, or opened anew elsewhere: open it")
            if self._stale and not stale:
                self.rebuild()
            yield

    def close(self) -> None:
        """Lets go of the folder; harmless when called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._journal.close()
                self._index.close()
                if not self._stale:
                    self._in_use.unlink(missing_ok=True)
                if _open.get(self.folder) is self:
                    del _open[self.folder]
                self._held.release()

    def __enter__(self) -> PassageStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
