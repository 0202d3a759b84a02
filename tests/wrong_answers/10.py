"""Wrong answers to the exercises of lesson 10; every one must be refused with a reason."""

import math

import numpy as np


def chosen(real, invented, refusal, acceptance):
    values = np.linspace(0, 1, 201)
    costs = [refusal * np.mean(real < value) + acceptance * np.mean(invented >= value) for value in values]
    return float(values[int(np.argmin(costs))])


WRONG = {
    "chunk_count": [
        ("overlap ignored", lambda tokens, size, overlap: math.ceil(tokens / size)),
        ("rounded down", lambda tokens, size, overlap: 1 + max(0, (tokens - size) // (size - overlap))),
        ("one a step", lambda tokens, size, overlap: math.ceil(tokens / (size - overlap))),
        ("one too many", lambda tokens, size, overlap: 2 + max(0, (tokens - size) // (size - overlap))),
        ("a float", lambda tokens, size, overlap: 1 + max(0, tokens - size) / (size - overlap)),
    ],
    "dear_threshold": [
        ("both errors alike", lambda real, invented, dear: chosen(real, invented, 1, 1)),
        ("weights mixed up", lambda real, invented, dear: chosen(real, invented, dear, 1)),
        ("refuses everything", lambda real, invented, dear: 1.0),
        ("answers everything", lambda real, invented, dear: 0.0),
        ("a place in the list", lambda real, invented, dear: int(200 * chosen(real, invented, 1, dear))),
        ("the cost itself", lambda real, invented, dear: [chosen(real, invented, 1, dear)]),
    ],
    "cited": [
        ("all of them", lambda answer, passages: [passage["id"] for passage in passages]),
        ("the first", lambda answer, passages: [passages[0]["id"]]),
        ("capitals count", lambda answer, passages: [p["id"] for p in passages if answer and answer in p["text"]]),
        (
            "empty is everywhere",
            lambda answer, passages: [p["id"] for p in passages if answer.lower() in p["text"].lower()],
        ),
        ("only one", lambda a, ps: [p["id"] for p in ps if a.strip() and a.strip().lower() in p["text"].lower()][:1]),
        ("the texts", lambda a, ps: [p["text"] for p in ps if a.strip() and a.strip().lower() in p["text"].lower()]),
    ],
}
