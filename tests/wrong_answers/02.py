"""Wrong answers to the exercises of lesson 02; every one must be refused with a reason."""


def in_place(ids, speakers):
    for place, speaker in enumerate(speakers):
        if speaker != "assistant":
            ids[place] = -100
    return ids


def emptied(ids, speakers):
    labels = []
    while speakers:
        number = ids.pop(0)
        labels.append(number if speakers.pop(0) == "assistant" else -100)
    return labels


WRONG = {
    "prompt_like_lora": [
        ("the product of the sides", lambda r, shapes, hidden: r * sum(d * k for d, k in shapes) // hidden),
        ("without the rank", lambda r, shapes, hidden: sum(d + k for d, k in shapes) // hidden),
        ("the first weight alone", lambda r, shapes, hidden: r * sum(shapes[0]) // hidden),
        ("not rounded", lambda r, shapes, hidden: r * sum(d + k for d, k in shapes) / hidden),
        ("rounded up", lambda r, shapes, hidden: -(-r * sum(d + k for d, k in shapes) // hidden)),
        ("rounded for each weight", lambda r, shapes, hidden: sum(r * (d + k) // hidden for d, k in shapes)),
        ("rounded before the rank", lambda r, shapes, hidden: r * (sum(d + k for d, k in shapes) // hidden)),
        ("at least one", lambda r, shapes, hidden: max(1, r * sum(d + k for d, k in shapes) // hidden)),
    ],
    "blocks_to_move": [
        ("half of the blocks", 2),
        ("all of them", 4),
        ("head only", 0),
        ("the parameters", 590_848),
        ("the share", 0.53),
    ],
    "dialogue_labels": [
        (
            "the colleague's version",
            lambda ids, who: [-100] * who.index("assistant") + ids[who.index("assistant") :],
        ),
        (
            "the last answer alone",
            lambda ids, who: [-100] * (len(who) - who[::-1].index("user")) + ids[len(who) - who[::-1].index("user") :],
        ),
        ("the guest instead", lambda ids, who: [i if w == "user" else -100 for i, w in zip(ids, who, strict=True)]),
        ("everything", lambda ids, who: ids),
        (
            "the last token masked",
            lambda ids, who: [*(i if w == "assistant" else -100 for i, w in zip(ids[:-1], who, strict=False)), -100],
        ),
        ("answers without places", lambda ids, who: [i for i, w in zip(ids, who, strict=True) if w == "assistant"]),
        ("ones for ids", lambda ids, who: [1 if w == "assistant" else -100 for w in who]),
        ("in place", in_place),
        ("both lists emptied", emptied),
        (
            "whatever is not the guest",
            lambda ids, who: [-100 if w == "user" else i for i, w in zip(ids, who, strict=True)],
        ),
        ("places of one dialogue", lambda ids, who: [-100, -100, *ids[2:4], -100, *ids[5:]]),
    ],
}
