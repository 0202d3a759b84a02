"""Wrong answers to the exercises of lesson 10; every one must be refused with a reason."""

import math
import re

import numpy as np


def chosen(real, invented, refusal, acceptance):
    values = np.linspace(0, 1, 201)
    costs = [refusal * np.mean(real < value) + acceptance * np.mean(invented >= value) for value in values]
    return float(values[int(np.argmin(costs))])


def ends_within(real, invented, dear):
    values = np.linspace(0, 1, 201)
    costs = [np.mean(real <= value) + dear * np.mean(invented >= value) for value in values]
    return float(values[int(np.argmin(costs))])


def found(answer, passages, holds):
    return [passage["id"] for passage in passages if answer.strip() and holds(answer.strip(), passage["text"])]


def lowered(answer, passages):
    for passage in passages:
        passage["text"] = passage["text"].lower()
    return found(answer.lower(), passages, lambda wanted, text: wanted in text)


def removed(answer, passages):
    for passage in list(passages):
        if not answer.strip() or answer.strip().lower() not in passage["text"].lower():
            passages.remove(passage)
    return [passage["id"] for passage in passages]


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
        ("a real question at the threshold is refused", ends_within),
        ("weighs by the square", lambda real, invented, dear: chosen(real, invented, 1, dear**2)),
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
        ("its own capitals count", lambda a, ps: found(a, ps, lambda wanted, text: wanted in text.lower())),
        (
            "all of its words",
            lambda a, ps: found(a, ps, lambda w, text: set(w.lower().split()) <= set(text.lower().split())),
        ),
        (
            "each word somewhere",
            lambda a, ps: found(a, ps, lambda w, t: all(x in t.lower() for x in w.lower().split())),
        ),
        ("a pattern", lambda a, ps: found(a, ps, lambda wanted, text: re.search(wanted, text, re.IGNORECASE))),
        ("spaces are an answer", lambda a, ps: [p["id"] for p in ps if a and a.strip().lower() in p["text"].lower()]),
        ("texts lowered in place", lowered),
        ("passages removed", removed),
        ("the texts", lambda a, ps: [p["text"] for p in ps if a.strip() and a.strip().lower() in p["text"].lower()]),
    ],
}
