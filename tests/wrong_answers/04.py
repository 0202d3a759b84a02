"""Wrong answers to the exercises of lesson 04; every one must be refused with a reason."""


def in_place(weight, factors, feedforward):
    weight *= factors if feedforward else factors[:, None]
    return weight


WRONG = {
    "prefix_parameters": [
        ("values forgotten", lambda tokens, layers, heads, head_dim: tokens * layers * heads * head_dim),
        ("one layer alone", lambda tokens, layers, heads, head_dim: tokens * 2 * heads * head_dim),
        ("queries, too", lambda tokens, layers, heads, head_dim: tokens * layers * 3 * heads * head_dim),
        ("heads forgotten", lambda tokens, layers, heads, head_dim: tokens * layers * 2 * head_dim),
        ("a text", lambda tokens, layers, heads, head_dim: str(2 * tokens * layers * heads * head_dim)),
    ],
    "better_place": [
        ("the other one", "attention"),
        ("the loss", 0.75),
        ("the name of a layer", "down_proj"),
        ("both", ["attention", "feedforward"]),
    ],
    "merged_ia3": [
        ("always the input", lambda weight, factors, feedforward: weight * factors),
        ("always the output", lambda weight, factors, feedforward: weight * factors[:, None]),
        (
            "the wrong way round",
            lambda weight, factors, feedforward: weight * (factors[:, None] if feedforward else factors),
        ),
        ("added", lambda weight, factors, feedforward: weight + (factors if feedforward else factors[:, None])),
        ("in place", in_place),
        ("the factors alone", lambda weight, factors, feedforward: factors),
    ],
}
