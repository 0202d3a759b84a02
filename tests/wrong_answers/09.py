"""Wrong answers to the exercises of lesson 09; every one must be refused with a reason."""


def add_alone(collection, rows):
    collection.add(ids=list(rows), documents=list(rows.values()))
    return collection.count()


def update_alone(collection, rows):
    collection.update(ids=list(rows), documents=list(rows.values()))
    return collection.count()


def nothing_withdrawn(collection, rows):
    collection.upsert(ids=list(rows), documents=list(rows.values()))
    return collection.count()


def old_texts_kept(collection, rows):
    if gone := set(collection.get()["ids"]) - set(rows):
        collection.delete(ids=sorted(gone))
    return add_alone(collection, rows)


def old_vectors_kept(collection, rows):
    old = collection.get(include=["embeddings"])
    vectors = dict(zip(old["ids"], old["embeddings"], strict=True))
    if gone := set(vectors) - set(rows):
        collection.delete(ids=sorted(gone))
    collection.add(ids=list(rows), documents=list(rows.values()))
    if kept := [name for name in rows if name in vectors]:
        collection.update(
            ids=kept, documents=[rows[name] for name in kept], embeddings=[vectors[name] for name in kept]
        )
    return collection.count()


def emptied(collection, rows):
    if ids := collection.get()["ids"]:
        collection.delete(ids=ids)
    return len(rows)


def counted_wrong(collection, rows):
    nothing_withdrawn(collection, rows)
    if gone := set(collection.get()["ids"]) - set(rows):
        collection.delete(ids=sorted(gone))
    return len(gone)


def rows_emptied(collection, rows):
    held = collection.get(include=[])["ids"]
    if gone := [name for name in held if name not in rows]:
        collection.delete(ids=gone)
    for name in held:
        if name in rows:
            collection.update(ids=[name], documents=[rows.pop(name)])
    if rows:
        collection.add(ids=list(rows), documents=list(rows.values()))
    return collection.count()


WRONG = {
    "similarity": [
        ("the same for all spaces", lambda distance, space: 1 - distance),
        ("l2 taken as not squared", lambda distance, space: 1 - distance**2 / 2 if space == "l2" else 1 - distance),
        ("a score that only falls", lambda distance, space: 1 / (1 + distance)),
        ("the distance itself", lambda distance, space: distance),
        ("halved everywhere", lambda distance, space: 1 - distance / 2),
        ("ip taken as the product", lambda d, space: d if space == "ip" else 1 - d / 2 if space == "l2" else 1 - d),
    ],
    "smallest_ef": [
        ("too small", 10),
        ("enough, not the smallest", 50),
        ("the largest", 200),
        ("not among the values", 30),
        ("the recall", 0.96),
        ("text", "20"),
    ],
    "sync": [
        ("add alone", add_alone),
        ("update alone", update_alone),
        ("nothing is withdrawn", nothing_withdrawn),
        ("corrections are skipped", old_texts_kept),
        ("old vectors", old_vectors_kept),
        ("only emptied", emptied),
        ("returns something else", counted_wrong),
        ("the given rows emptied", rows_emptied),
    ],
}
