"""Wrong answers to the exercises of lesson 08; every one must be refused with a reason."""

from peft import get_peft_model


def in_place(weight, lora_A, lora_B, alpha, rank):
    weight += alpha / rank * (lora_B @ lora_A)
    return weight


def everything_trained(base, config):
    model = get_peft_model(base, config)
    for parameter in model.parameters():
        parameter.requires_grad = True
    return model


def everything_frozen(base, config):
    return get_peft_model(base, config).requires_grad_(False)


def only_b(base, config):
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "lora_B" in name
    return model


def norms_too(base, config):
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.requires_grad = True
    return model


WRONG = {
    "merged_weight": [
        ("alpha ignored", lambda W, A, B, alpha, rank: W + B @ A),
        ("A and B swapped", lambda W, A, B, alpha, rank: W + alpha / rank * (A.T @ B.T)),
        ("scale applied twice", lambda W, A, B, alpha, rank: W + (alpha / rank) ** 2 * (B @ A)),
        ("alpha without the rank", lambda W, A, B, alpha, rank: W + alpha * (B @ A)),
        ("subtracted", lambda W, A, B, alpha, rank: W - alpha / rank * (B @ A)),
        ("the update alone", lambda W, A, B, alpha, rank: alpha / rank * (B @ A)),
        ("in place", in_place),
    ],
    "equal_rank": [
        ("the same rank", 2),
        ("one too many", 11),
        ("one too few", 9),
        ("a float", 10.0),
        ("the budget instead of the rank", 19456),
    ],
    "add_adapter": [
        ("base not frozen", everything_trained),
        ("nothing trained", everything_frozen),
        ("A frozen, too", only_b),
        ("norms of the base trained", norms_too),
        ("no adapter", lambda base, config: base),
        ("the configuration alone", lambda base, config: config),
    ],
}
