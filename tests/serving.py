"""An embedding without a model, and a store's writer that a test can kill."""

import random
from multiprocessing.connection import Connection

import numpy as np
from chromadb.utils.embedding_functions import register_embedding_function

from tunelab.embedding import HashedBigrams
from tunelab.store import PassageStore


@register_embedding_function
class Letters(HashedBigrams):
    """Deterministic, in any process, and cheap. "nothing" has no vector."""

    def vector(self, text: str) -> np.ndarray:
        return np.zeros(self.dim, dtype=np.float32) if text == "nothing" else super().vector(text)

    @staticmethod
    def name() -> str:
        return "letters"

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
