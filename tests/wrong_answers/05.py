"""Wrong answers to the exercises of lesson 05; every one must be refused with a reason."""

import math
from dataclasses import replace

from tunelab import choosing

OLD, NAME = choosing.CORRECTED, "qwen3-0.6b"
BOX = choosing.Node("model", (6.75, 4.28), NAME, NAME, (NAME,))
LINE = choosing.Edge("size", NAME, "0.6B", "0.6B", ("fits", NAME))


def with_line(line, place):
    """The chart with the box, and the line at this place among those of "size"."""
    edges = [edge for edge in OLD.edges if edge.source != "size"]
    of_size = OLD.out("size")
    return replace(OLD, nodes=OLD.nodes | {NAME: BOX}, edges=(*edges, *of_size[:place], line, *of_size[place:]))


def with_box(box):
    """The right line, and this box at its end."""
    chart = with_line(LINE, 3)
    return replace(chart, nodes=chart.nodes | {NAME: box})


def share(ids, tokenizer):
    return sum(row.count(tokenizer.unk_token_id) for row in ids) / sum(map(len, ids))


def mean_of_texts(tokenizer, texts):
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return sum(row.count(tokenizer.unk_token_id) / len(row) for row in rows) / len(rows)


def emptied(tokenizer, texts):
    ids = []
    while texts:
        ids += tokenizer(texts.pop(), add_special_tokens=False)["input_ids"]
    return ids.count(tokenizer.unk_token_id) / len(ids)


WRONG = {
    "cache_bytes": [
        ("keys alone", lambda blocks, heads, width, tokens: blocks * heads * width * 2 * tokens),
        ("numbers, not bytes", lambda blocks, heads, width, tokens: 2 * blocks * heads * width * tokens),
        ("fp32", lambda blocks, heads, width, tokens: 2 * blocks * heads * width * 4 * tokens),
        ("one block", lambda blocks, heads, width, tokens: 2 * heads * width * 2 * tokens),
        ("one token", lambda blocks, heads, width, tokens: 2 * blocks * heads * width * 2),
        ("attention scores", lambda blocks, heads, width, tokens: 4 * blocks * heads * tokens * tokens),
    ],
    "bits_per_byte": [
        ("nats", lambda loss, tokens, text: loss * tokens / len(text.encode())),
        ("a token", lambda loss, tokens, text: loss / math.log(2)),
        ("a character", lambda loss, tokens, text: loss * tokens / math.log(2) / len(text)),
        ("bytes a token the wrong way", lambda loss, tokens, text: loss * len(text.encode()) / tokens / math.log(2)),
        ("rounded", lambda loss, tokens, text: round(loss * tokens / math.log(2) / len(text.encode()), 2)),
        (
            "three bytes for every character",
            lambda loss, tokens, text: loss * tokens / math.log(2) / (len(text) * (1 if text.isascii() else 3)),
        ),
        ("times ln 2", lambda loss, tokens, text: loss * tokens * math.log(2) / len(text.encode())),
    ],
    "my_chart": [
        ("the old chart", OLD),
        ("a box without a line", replace(OLD, nodes=OLD.nodes | {NAME: BOX})),
        ("the line comes last", with_line(LINE, 4)),
        ("the line comes first", with_line(LINE, 0)),
        ("before the 1.5B", with_line(LINE, 2)),
        ("the condition of another model", with_line(replace(LINE, when=("fits", "qwen2.5-0.5b")), 3)),
        ("no condition", with_line(replace(LINE, when=None), 3)),
        ("a model's name", NAME),
        ("the box says another model", with_box(replace(BOX, models=("qwen2.5-0.5b",)))),
        ("the box says no model", with_box(replace(BOX, models=()))),
        ("the box is a question", with_box(replace(BOX, kind="question"))),
        ("a text instead of a tuple", with_box(replace(BOX, models=NAME))),
    ],
    "unknown_share": [
        (
            "the colleague's version",
            lambda t, texts: share(t(texts, padding="max_length", max_length=128)["input_ids"], t),
        ),
        ("special tokens counted", lambda t, texts: share(t(texts)["input_ids"], t)),
        (
            "padded to the longest",
            lambda t, texts: share(t(texts, padding=True, add_special_tokens=False)["input_ids"], t),
        ),
        ("mean of the texts", mean_of_texts),
        ("the texts emptied", emptied),
        ("texts with one", lambda t, texts: sum(t.unk_token in t.tokenize(text) for text in texts) / len(texts)),
    ],
}
