"""Wrong answers to the exercises of lesson 03; every one must be refused with a reason."""

import numpy as np
import torch


def left_out(model):
    return torch.optim.AdamW(model.model.layers[-1].parameters(), lr=1e-3)


def frozen_whole(model):
    model.requires_grad_(False)
    return torch.optim.AdamW(model.model.layers[-1].parameters(), lr=1e-3)


def all_in_the_optimizer(model):
    model.requires_grad_(False)
    model.model.layers[-1].requires_grad_(True)
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def head_too(model):
    model.requires_grad_(False)
    model.model.layers[-1].requires_grad_(True)
    model.lm_head.requires_grad_(True)
    return torch.optim.AdamW(model.model.layers[-1].parameters(), lr=1e-3)


def attention_alone(model):
    model.requires_grad_(False)
    part = model.model.layers[-1].self_attn.requires_grad_(True)
    return torch.optim.AdamW(part.parameters(), lr=1e-3)


def first_block(model):
    model.requires_grad_(False)
    return torch.optim.AdamW(model.model.layers[0].requires_grad_(True).parameters(), lr=1e-3)


def another_optimizer(model):
    model.requires_grad_(False)
    return torch.optim.SGD(model.model.layers[-1].requires_grad_(True).parameters(), lr=1e-3)


WRONG = {
    "lora_bytes": [
        ("everything trained", lambda frozen, trained: 16 * (frozen + trained)),
        ("one state", lambda frozen, trained: 2 * frozen + 12 * trained),
        ("no gradient", lambda frozen, trained: 2 * frozen + 4 * trained + 8 * trained),
        ("base in fp32", lambda frozen, trained: 4 * frozen + 16 * trained),
        ("adapters alone", lambda frozen, trained: 16 * trained),
        ("states for the base", lambda frozen, trained: 10 * frozen + 16 * trained),
    ],
    "largest_batch": [
        ("one number", 4),
        ("the wrong way round", (6, 1)),
        ("checkpointing ignored", (1, 1)),
        ("a row too many", (1, 7)),
        ("a row too few", (1, 5)),
        ("floats", (1.0, 6.0)),
        ("nothing fits", (0, 0)),
    ],
    "prepare": [
        ("the colleague's version", left_out),
        ("frozen whole", frozen_whole),
        ("everything in the optimizer", all_in_the_optimizer),
        ("tied head trained", head_too),
        ("attention alone", attention_alone),
        ("first block", first_block),
        ("the model", lambda model: model),
        ("another optimizer", another_optimizer),
    ],
    "equivalent": [
        ("zero inside", lambda low, high, margin: low <= 0 <= high),
        ("not worse", lambda low, high, margin: low > -margin),
        ("the middle alone", lambda low, high, margin: abs(low + high) / 2 < margin),
        ("one end is enough", lambda low, high, margin: low > -margin or high < margin),
        ("the other way round", lambda low, high, margin: not (low > -margin and high < margin)),
        ("narrow enough", lambda low, high, margin: high - low < margin),
        ("a margin of its own", lambda low, high, margin: low > -0.05 and high < 0.05),
        ("each end for itself", lambda low, high, margin: np.abs([low, high]) < margin),
        ("each end for itself, a tensor", lambda low, high, margin: torch.tensor([low, high]).abs() < margin),
        ("a text", lambda low, high, margin: "equivalent" if low > -margin and high < margin else ""),
        ("zero inside and within", lambda low, high, margin: -margin < low <= 0 <= high < margin),
    ],
}
