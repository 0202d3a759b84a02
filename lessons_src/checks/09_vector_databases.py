"""The exercise checkers of lesson 09."""

import numbers
import uuid

import chromadb
import numpy as np

from tunelab.exercises import Wrong, checker, expect_close


@checker("similarity")
def _(similarity):
    rng = np.random.default_rng(4)
    one, other = (x / np.linalg.norm(x) for x in rng.normal(size=(2, 8)))
    for x, y in ((one, other), (one, -other), (one, one)):
        cosine = float(x @ y)
        reported = {"cosine": 1 - cosine, "l2": float(((x - y) ** 2).sum()), "ip": 1 - float(x @ y)}
        for space, distance in reported.items():
            expect_close(
                similarity(distance, space),
                cosine,
                tol=1e-6,
                en=f'in space "{space}" the cosine is another number' + (": l2 is squared" * (space == "l2")),
                zh=f"空间为 “{space}” 时，余弦不是这个数" + ("：l2 给出的是平方" * (space == "l2")),
            )


@checker("smallest_ef")
def _(smallest_ef):
    whole = isinstance(smallest_ef, numbers.Integral) and not isinstance(smallest_ef, bool)
    if not whole or smallest_ef not in (10, 20, 50, 100, 200):
        raise Wrong(
            en=f"smallest_ef is one of VALUES, an int, this is {smallest_ef!r}",
            zh=f"smallest_ef 应是 VALUES 中的一个整数，得到的是 {smallest_ef!r}",
        )
    if smallest_ef < 20:
        raise Wrong(
            en=f"with ef_search = {smallest_ef} more than four in a hundred neighbours are missing",
            zh=f"ef_search = {smallest_ef} 时，每一百个近邻漏掉的超过四个",
        )
    if smallest_ef > 20:
        raise Wrong(
            en=f"{smallest_ef} is enough, but a smaller value is enough, too",
            zh=f"{smallest_ef} 够用，但更小的值也够用",
        )


class _Letters(chromadb.EmbeddingFunction):
    """Counts of letters: no model is needed to check what a collection holds."""

    def __init__(self):
        pass

    def __call__(self, input):
        return [np.array([text.count(letter) + 0.1 for letter in "abcdefgh"], dtype=np.float32) for text in input]

    @staticmethod
    def name():
        return "letters"

    def get_config(self):
        return {}

    @staticmethod
    def build_from_config(config):
        return _Letters()


@checker("sync")
def _(sync):
    client = chromadb.EphemeralClient()
    name = f"sync-{uuid.uuid4().hex}"  # all in-memory clients of a process share their collections
    collection = client.create_collection(name, embedding_function=_Letters())
    try:
        _check_sync(sync, collection)
    finally:
        client.delete_collection(name)


def _check_sync(sync, collection):
    for rows in (
        {"a": "bad", "b": "cab"},
        {"a": "bad", "b": "cab"},
        {"a": "fade", "c": "head"},
        {"d": "deaf", "c": "head", "a": "fade"},
    ):
        given = dict(rows)
        count = sync(collection, given)
        if given != rows:
            raise Wrong(
                en="rows itself was changed, and whoever called loses documents: work on a copy",
                zh="rows 本身被改动了，调用者会丢失文档：请在副本上操作",
            )
        held = collection.get(include=["documents", "embeddings"])
        documents = dict(zip(held["ids"], held["documents"], strict=True))
        if missing := sorted(set(rows) - set(documents)):
            raise Wrong(en=f"records are missing: {missing}", zh=f"缺了这些记录：{missing}")
        if left := sorted(set(documents) - set(rows)):
            raise Wrong(
                en=f"records that are no longer in rows can still be found: {left}",
                zh=f"rows 里已经没有的记录仍然查得到：{left}",
            )
        if old := sorted(name for name in rows if documents[name] != rows[name]):
            raise Wrong(en=f"these documents have still their old text: {old}", zh=f"这些记录还是旧的原文：{old}")
        expected = np.array(_Letters()([documents[name] for name in held["ids"]]))
        if not np.allclose(held["embeddings"], expected, atol=1e-5):
            raise Wrong(
                en="a document is new and its vector is old: let the collection embed it again",
                zh="原文是新的，向量却是旧的：要让集合重新嵌入",
            )
        if count != len(rows):
            raise Wrong(
                en=f"the collection holds {len(rows)} records, {count!r} was returned",
                zh=f"集合里有 {len(rows)} 条记录，返回的却是 {count!r}",
            )
