"""Wrong answers to the exercises of lesson 01; every one must be refused with a reason."""

import math


def in_place(ids, start):
    for place in range(start):
        ids[place] = -100
    return ids


WRONG = {
    "perplexity": [
        ("to the base 2, as if the loss were in bits", lambda loss: 2**loss),
        ("the loss itself", lambda loss: loss),
        ("the probability instead of its inverse", lambda loss: math.exp(-loss)),
        ("the logarithm again", lambda loss: math.log(loss + 1)),
        ("rounded", lambda loss: round(math.exp(loss))),
    ],
    "best_rate": [
        ("too small to learn", 1e-6),
        ("too large", 3e-1),
        ("the loss instead of the rate", 0.42),
        ("the position in the list", 1),
        ("text", "1e-3"),
    ],
    "answer_labels": [
        ("the colleague's version", lambda ids, start: ids[:start] + [-100] * (len(ids) - start)),
        ("one token too late", lambda ids, start: [-100] * (start + 1) + ids[start + 1 :]),
        ("stop token masked", lambda ids, start: [-100] * start + ids[start:-1] + [-100]),
        ("shifted by hand", lambda ids, start: [-100] * start + ids[start + 1 :] + [0]),
        ("the answer alone", lambda ids, start: ids[start:]),
        ("nothing masked", lambda ids, start: ids),
        ("in place", in_place),
    ],
}
