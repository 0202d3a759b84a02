"""An embedding without a model, and a store's writer that a test can kill."""

import random
import zlib
from multiprocessing.connection import Connection

import numpy as np
from chromadb import Documents, EmbeddingFunction, Embeddings
from chromadb.utils.embedding_functions import register_embedding_function

from tunelab.store import PassageStore


@register_embedding_function
class Letters(EmbeddingFunction[Documents]):
    """Counts the hashed pairs of characters of a text: deterministic, in any process, and cheap. "nothing" has no vector."""

    def __init__(self, dim: int = 64) -> None:
        self.dim = dim

    def __call__(self, input: Documents) -> Embeddings:
        return [self._vector(text.lower()) for text in input]

    def _vector(self, text: str) -> np.ndarray:
        vector = np.zeros(self.dim, dtype=np.float32)
        padded = f" {text} "
        for i in range(len(padded) - 1 if text != "nothing" else 0):
            vector[zlib.crc32(padded[i : i + 2].encode()) % self.dim] += 1
        return vector

    @staticmethod
    def name() -> str:
        return "letters"

    def default_space(self) -> str:
        return "cosine"

    def get_config(self) -> dict[str, int]:
        return {"dim": self.dim}

    @staticmethod
    def build_from_config(config: dict[str, int]) -> "Letters":
        return Letters(**config)


def document(name: str, text: str, **metadata: object) -> dict[str, object]:
    return {"id": name, "text": text, "metadata": metadata}


def write_until_killed(folder: str, pipe: Connection, seed: int) -> None:
    """Writes, replaces, deletes, compacts and rebuilds; says on a pipe what it is about to write, and then "done"."""
    rng = random.Random(seed)
    pipe.send("opening")
    store = PassageStore(folder, Letters())
    for number in range(100_000):
        there, action = (
            store.ids(),
            rng.choices(("add", "replace", "delete", "compact", "rebuild"), (70, 15, 10, 3, 2))[0],
        )
        if action == "compact":
            store.compact()
        elif action == "rebuild":
            store.rebuild()
        elif action == "delete" and there:
            name = rng.choice(there)
            pipe.send({"delete": [name]})
            store.delete([name])
            pipe.send("done")
        else:
            names = (
                [rng.choice(there)]
                if action == "replace" and there
                else [f"d{number}-{i}" for i in range(rng.randint(1, 4))]
            )
            batch = [document(name, f"{name} says {rng.random()}", lang=rng.choice(("en", "zh"))) for name in names]
            pipe.send({"upsert": batch})
            store.upsert(batch)
            pipe.send("done")
