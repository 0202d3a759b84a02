"""The Chroma index of a passage store: derived from the log, numbered, replaced as a whole."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._journal import sync_folder
from ._passages import NoVectorError, StoreError

if TYPE_CHECKING:
    import numpy as np
    from chromadb import ClientAPI, Collection, EmbeddingFunction

NAME, BATCH = "passages", 500
DIGEST = "_digest"  # kept with each vector: what it was made from


def open_client(folder: Path) -> ClientAPI:
    """Chroma's embedded client on a folder, without telemetry."""
    import chromadb

    return chromadb.PersistentClient(str(folder), settings=chromadb.Settings(anonymized_telemetry=False))


def open_collection(client: ClientAPI, name: str, embedding: EmbeddingFunction) -> Collection:
    """A collection with cosine distances, from an embedded client or one of ``chroma run`` alike; created if need be.

    Raises:
        ValueError: it exists with another space, or was made with another model. (Chroma ignores a configuration key that it
            does not know, and compares the names of embedding functions only, not their settings.)
    """
    wanted = {"hnsw": {"space": "cosine", "ef_construction": 100, "max_neighbors": 16, "ef_search": 100}}
    collection = client.get_or_create_collection(name, embedding_function=embedding, configuration=wanted)
    stored = collection.configuration_json
    if (space := stored["hnsw"]["space"]) != "cosine":
        raise ValueError(f"the collection {name!r} measures {space!r}, expected 'cosine': delete it and fill it again")
    if (made := (stored.get("embedding_function") or {}).get("config")) != (asked := embedding.get_config()):
        raise ValueError(
            f"the collection {name!r} was made with {made}, and {asked} would search it: open it with the model that made "
            "it, or delete it and fill it again"
        )
    return collection


def digest(document: dict[str, Any]) -> str:
    """A short fingerprint of a document: equal for equal ones."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


class Index:
    """One complete index, in a folder ``index-NNNNNN``."""

    def __init__(self, folder: Path, embedding: EmbeddingFunction) -> None:
        self.folder, self.embedding = folder, embedding
        self._client = open_client(folder)
        self._collection = open_collection(self._client, NAME, embedding)

    @classmethod
    def build(cls, home: Path, embedding: EmbeddingFunction, documents: Iterable[dict[str, Any]]) -> Index:
        """Makes an index in a staging folder and renames it when it is complete; older ones in ``home`` stay."""
        number = max([int(folder.name[6:]) for folder in home.glob("index-*")], default=0) + 1
        staging, final = home / "building", home / f"index-{number:06d}"
        shutil.rmtree(staging, ignore_errors=True)
        made = cls(staging, embedding)
        try:
            made.add(list(documents))
            (staging / "embedding.json").write_text(json.dumps(_identity(embedding)), encoding="utf-8")
        finally:
            made.close()
        staging.rename(final)
        sync_folder(home)
        return cls(final, embedding)

    @classmethod
    def newest(cls, home: Path, embedding: EmbeddingFunction, documents: dict[str, dict[str, Any]]) -> Index | None:
        """The newest index in ``home``, brought to ``documents``; None where it is missing, damaged, or another model's."""
        for folder in sorted(home.glob("index-*"))[-1:]:
            try:
                if not _same(json.loads((folder / "embedding.json").read_text(encoding="utf-8")), _identity(embedding)):
                    return None
                index = cls(folder, embedding)
                index.reconcile(documents)
                return index
            except Exception as error:
                logging.getLogger(__name__).warning("%s cannot be used (%s) and is built anew", folder.name, error)
        return None

    def vectors(self, texts: list[str]) -> list[np.ndarray]:
        """One vector a text; a NoVectorError names a text that has none (zero, or not finite): it could not be found."""
        import numpy as np

        made = [
            np.asarray(v, dtype=np.float32)
            for s in range(0, len(texts), BATCH)
            for v in self.embedding(texts[s : s + BATCH])
        ]
        for text, vector in zip(texts, made, strict=True):
            if not (np.isfinite(vector).all() and vector.any()):
                raise NoVectorError(
                    f"the text {text[:40]!r} has no vector (zero, or not finite): nothing could find it"
                )
        return made

    def add(self, documents: list[dict[str, Any]], vectors: list[np.ndarray] | None = None) -> None:
        """Adds documents whose ids are not there yet. (Chroma ignores an ``add`` of an id that is.)"""
        vectors = self.vectors([document["text"] for document in documents]) if vectors is None else vectors
        for start in range(0, len(documents), BATCH):
            rows = documents[start : start + BATCH]
            self._collection.add(
                ids=[row["id"] for row in rows],
                embeddings=vectors[start : start + BATCH],
                documents=[row["text"] for row in rows],
                metadatas=[{**row["metadata"], DIGEST: digest(row)} for row in rows],
            )

    def remove(self, ids: list[str]) -> None:
        """Removes ids that are there."""
        for start in range(0, len(ids), BATCH):
            self._collection.delete(ids=ids[start : start + BATCH])

    def reconcile(self, documents: dict[str, dict[str, Any]]) -> None:
        """Makes the index hold exactly these documents; embeds only those that differ."""
        there = self._collection.get(include=["metadatas"])
        found = {name: (data or {}).get(DIGEST) for name, data in zip(there["ids"], there["metadatas"], strict=True)}
        wanted = {name: digest(document) for name, document in documents.items()}
        self.remove([name for name, value in found.items() if wanted.get(name) != value])
        self.add([documents[name] for name, value in wanted.items() if found.get(name) != value])

    def query(self, text: str, k: int, where: dict[str, Any] | None) -> list[tuple[str, float]]:
        """Ids and cosine similarities of the nearest documents, best first; equals in the order of their ids."""
        from chromadb.errors import ChromaError, InvalidArgumentError

        asked = {"query_embeddings": self.vectors([text]), "n_results": k, "where": where, "include": ["distances"]}
        try:
            found = self._collection.query(**asked)
        except (InvalidArgumentError, ValueError) as error:
            raise ValueError(f"Chroma does not take the filter {where!r}: {error}") from None
        except ChromaError as error:
            raise StoreError(f"the index cannot be read ({error}): the next call builds it anew") from error
        pairs = zip(found["ids"][0], found["distances"][0], strict=True)
        scored = [(name, min(1.0, 1.0 - distance)) for name, distance in pairs]  # rounding makes distances below 0
        return sorted(scored, key=lambda pair: (-pair[1], pair[0]))

    def close(self) -> None:
        """Lets go of the files; harmless when called twice."""
        if self._client is not None:
            self._client.close()
            self._client = None


def self_queries(folder: Path, sample: int) -> dict[str, Any]:
    """What :func:`probe` finds in a copy of an index, and ``problem``: why the index cannot be read, or None.

    In a process of its own, since a damaged graph can take its reader down.
    """
    with tempfile.TemporaryDirectory() as room:
        shutil.copytree(folder, Path(room) / "copy")
        ask = [sys.executable, "-m", "tunelab._index", str(Path(room) / "copy"), str(sample)]
        done = subprocess.run(ask, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {"indexed": 0, "checked": 0, "found": 0, "problem": f"the index cannot be read ({last}): call rebuild()"}
    return {**json.loads(done.stdout.splitlines()[-1]), "problem": None}


def probe(folder: Path, sample: int) -> dict[str, int]:
    """Asks an index for vectors that it holds: how many it has, how many were tried, how many found themselves."""
    client = open_client(folder)
    collection = client.get_collection(NAME, embedding_function=None)
    ids = sorted(collection.get(include=[])["ids"])
    asked = ids[:: max(1, len(ids) // sample)][:sample]
    found = 0
    if asked:
        kept = collection.get(ids=asked, include=["embeddings"])
        answers = collection.query(
            query_embeddings=kept["embeddings"], n_results=min(10, len(ids)), include=["distances"]
        )
        for name, near, distances in zip(kept["ids"], answers["ids"], answers["distances"], strict=True):
            # Where more than ten documents have one text, another one of them may stand in its place.
            found += name in near or (bool(distances) and distances[-1] < 1e-5)
    client.close()
    return {"indexed": len(ids), "checked": len(asked), "found": found}


def _identity(embedding: EmbeddingFunction) -> dict[str, Any]:
    """Says which model embeds: its name, its settings and, since weights change under a name, a vector that it makes."""
    [vector] = embedding(["Which model made this index? 这个索引是哪个模型建的？"])
    return {"name": embedding.name(), "config": embedding.get_config(), "vector": [float(x) for x in vector]}


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    near = len(one["vector"]) == len(other["vector"]) and all(
        abs(a - b) < 1e-3 for a, b in zip(one["vector"], other["vector"], strict=True)
    )
    return near and all(one[key] == other[key] for key in ("name", "config"))


if __name__ == "__main__":
    print(json.dumps(probe(Path(sys.argv[1]), int(sys.argv[2]))))
