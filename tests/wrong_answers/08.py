"""Wrong answers to the exercises of lesson 08; every one must be refused with a reason."""

from math import ceil

from peft import LoraConfig, get_peft_model


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


def own_settings(base, config):
    return get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))


def attention_alone(base, config):
    return get_peft_model(base, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]))


WRONG = {
    "optimizer_steps": [
        ("the rest dropped", lambda n, e, b, a=1, p=1: e * (n // (b * a * p))),
        ("the rest of the last epoch alone", lambda n, e, b, a=1, p=1: ceil(e * n / (b * a * p))),
        ("accumulation overlooked", lambda n, e, b, a=1, p=1: e * ceil(n / (b * p))),
        ("accumulation that multiplies", lambda n, e, b, a=1, p=1: e * ceil(n / (b * p)) * a),
        ("a rest that is never trained on", lambda n, e, b, a=1, p=1: e * (ceil(n / (b * p)) // a)),
        ("processes overlooked", lambda n, e, b, a=1, p=1: e * ceil(n / (b * a))),
        ("processes that multiply", lambda n, e, b, a=1, p=1: e * p * ceil(n / (b * a))),
        ("not rounded", lambda n, e, b, a=1, p=1: e * n / (b * a * p)),
        ("one epoch", lambda n, e, b, a=1, p=1: ceil(n / (b * a * p))),
        ("either of the two", lambda n, e, b, a=1, p=1: e * ceil(n / (b * max(a, p)))),
        ("one step too many", lambda n, e, b, a=1, p=1: e * (n // (b * a * p) + 1)),
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
        ("settings of its own", own_settings),
        ("attention alone", attention_alone),
        ("the configuration alone", lambda base, config: config),
    ],
}
