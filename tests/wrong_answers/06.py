"""Wrong answers to the exercises of lesson 06; every one must be refused with a reason."""

import math

import numpy as np
import torch
from scipy.stats import norm


def lion_no_sign(weight, gradient, mean, *, lr, betas=(0.9, 0.99), weight_decay=0.0):
    step = betas[0] * mean + (1 - betas[0]) * gradient
    return weight - lr * (step + weight_decay * weight), betas[1] * mean + (1 - betas[1]) * gradient


def lion_uphill(weight, gradient, mean, *, lr, betas=(0.9, 0.99), weight_decay=0.0):
    step = torch.sign(betas[0] * mean + (1 - betas[0]) * gradient)
    return weight + lr * step - lr * weight_decay * weight, betas[1] * mean + (1 - betas[1]) * gradient


def lion_new_mean(weight, gradient, mean, *, lr, betas=(0.9, 0.99), weight_decay=0.0):
    mean = betas[1] * mean + (1 - betas[1]) * gradient
    return weight - lr * (torch.sign(mean) + weight_decay * weight), mean


def lion_betas_swapped(weight, gradient, mean, *, lr, betas=(0.9, 0.99), weight_decay=0.0):
    step = torch.sign(betas[1] * mean + (1 - betas[1]) * gradient)
    return weight - lr * (step + weight_decay * weight), betas[0] * mean + (1 - betas[0]) * gradient


def lion_no_decay(weight, gradient, mean, *, lr, betas=(0.9, 0.99), weight_decay=0.0):
    step = torch.sign(betas[0] * mean + (1 - betas[0]) * gradient)
    return weight - lr * step, betas[1] * mean + (1 - betas[1]) * gradient


def lion_l2(weight, gradient, mean, *, lr, betas=(0.9, 0.99), weight_decay=0.0):
    gradient = gradient + weight_decay * weight
    step = torch.sign(betas[0] * mean + (1 - betas[0]) * gradient)
    return weight - lr * step, betas[1] * mean + (1 - betas[1]) * gradient


def lion_in_place(weight, gradient, mean, *, lr, betas=(0.9, 0.99), weight_decay=0.0):
    step = torch.sign(betas[0] * mean + (1 - betas[0]) * gradient) + weight_decay * weight
    mean.mul_(betas[1]).add_(gradient, alpha=1 - betas[1])
    return weight - lr * step, mean


def lion_decay_in_place(weight, gradient, mean, *, lr, betas=(0.9, 0.99), weight_decay=0.0):
    if weight_decay:
        weight.mul_(1 - lr * weight_decay)
    step = torch.sign(betas[0] * mean + (1 - betas[0]) * gradient)
    return weight - lr * step, betas[1] * mean + (1 - betas[1]) * gradient


def lion_rate_of_its_own(weight, gradient, mean, *, lr, betas=(0.9, 0.99), weight_decay=0.0):
    step = torch.sign(betas[0] * mean + (1 - betas[0]) * gradient) + weight_decay * weight
    return weight - 0.1 * step, betas[1] * mean + (1 - betas[1]) * gradient


def lion_no_weight(weight, gradient, mean, *, lr, betas=(0.9, 0.99), weight_decay=0.0):
    return [], betas[1] * mean + (1 - betas[1]) * gradient


def lion_lists(weight, gradient, mean, *, lr, betas=(0.9, 0.99), weight_decay=0.0):
    step = torch.sign(betas[0] * mean + (1 - betas[0]) * gradient) + weight_decay * weight
    return (weight - lr * step).tolist(), (betas[1] * mean + (1 - betas[1]) * gradient).tolist()


def lion_flat(weight, gradient, mean, *, lr, betas=(0.9, 0.99), weight_decay=0.0):
    step = torch.sign(betas[0] * mean + (1 - betas[0]) * gradient) + weight_decay * weight
    return (weight - lr * step).flatten(), (betas[1] * mean + (1 - betas[1]) * gradient).flatten()


def lion_one(weight, gradient, mean, *, lr, betas=(0.9, 0.99), weight_decay=0.0):
    return weight - lr * (torch.sign(betas[0] * mean + (1 - betas[0]) * gradient) + weight_decay * weight)


def needed(p, q, power, *, tail=0.975, round_up=True, times=1, square=True, spread_power=True):
    middle = (p + q) / 2
    alike = math.sqrt(2 * middle * (1 - middle))
    apart = math.sqrt(p * (1 - p) + q * (1 - q))
    root = (norm.ppf(tail) * alike + (norm.ppf(power) * apart if spread_power else 0)) / (q - p)
    n = times * (root**2 if square else abs(root))
    return math.ceil(n) if round_up else n


def unpaired(first, second, rng, resamples=2000):
    one = rng.integers(0, len(first), (resamples, len(first)))
    two = rng.integers(0, len(second), (resamples, len(second)))
    return np.quantile(first[one].mean(axis=1) - second[two].mean(axis=1), [0.025, 0.975])


def swapped(first, second, rng, resamples=2000):
    picks = rng.integers(0, len(first), (resamples, len(first)))
    return np.quantile((second - first)[picks].mean(axis=1), [0.025, 0.975])


def without_replacement(first, second, rng, resamples=2000):
    gaps = first - second
    return np.quantile([rng.permutation(gaps).mean() for _ in range(200)], [0.025, 0.975])


def half_level(first, second, rng, resamples=2000):
    picks = rng.integers(0, len(first), (resamples, len(first)))
    return np.quantile((first - second)[picks].mean(axis=1), [0.25, 0.75])


def of_values(first, second, rng, resamples=2000):
    return np.quantile(first - second, [0.025, 0.975])


def normal(first, second, rng, resamples=2000):
    gaps = first - second
    spread = 1.96 * gaps.std(ddof=1) / math.sqrt(len(gaps))
    return gaps.mean() - spread, gaps.mean() + spread


def drawn_elsewhere(first, second, rng, resamples=2000):
    return percentiles(first, second, np.random.default_rng(0), resamples)


def percentiles(first, second, rng, resamples=2000, ends=(0.025, 0.975), count=None):
    picks = rng.integers(0, count or len(first), (resamples, len(first)))
    return np.quantile((first - second)[picks].mean(axis=1), ends)


def one_system(first, second, rng, resamples=2000):
    picks = rng.integers(0, len(first), (resamples, len(first)))
    return np.quantile(first[picks].mean(axis=1), [0.025, 0.975])


def new_optimizer(optimizer, layer, lr):
    for weight in layer:
        weight.requires_grad_(True)
    return type(optimizer)([*optimizer.param_groups[0]["params"], *layer], lr=lr)


def no_gradient(optimizer, layer, lr):
    optimizer.add_param_group({"params": layer, "lr": lr})
    return optimizer


def gradient_alone(optimizer, layer, lr):
    for weight in layer:
        weight.requires_grad_(True)
    return optimizer


def default_rate(optimizer, layer, lr):
    gradient_alone(optimizer, layer, lr)
    optimizer.add_param_group({"params": layer})
    return optimizer


def joined_twice(optimizer, layer, lr):
    gradient_alone(optimizer, layer, lr)
    optimizer.add_param_group({"params": layer, "lr": lr})
    return optimizer


def into_the_first_group(optimizer, layer, lr):
    gradient_alone(optimizer, layer, lr)
    optimizer.param_groups[0]["params"] += layer
    optimizer.param_groups[0]["lr"] = lr
    return optimizer


def gradient_as_memory(optimizer, layer, lr):
    if new := [weight for weight in layer if not weight.requires_grad]:
        joined_twice(optimizer, new, lr)
    return optimizer


def group_by_hand(optimizer, layer, lr):
    gradient_alone(optimizer, layer, lr)
    optimizer.param_groups.append({"params": layer, "lr": lr})
    return optimizer


def others_frozen(optimizer, layer, lr):
    for weight in optimizer.param_groups[0]["params"]:
        weight.requires_grad_(False)
    return joined_twice(optimizer, layer, lr)


def state_cleared(optimizer, layer, lr):
    joined_twice(optimizer, layer, lr)
    optimizer.state.clear()
    return optimizer


WRONG = {
    "lion": [
        ("no sign", lion_no_sign),
        ("uphill", lion_uphill),
        ("the new mean", lion_new_mean),
        ("betas swapped", lion_betas_swapped),
        ("no decay", lion_no_decay),
        ("L2 instead of decay", lion_l2),
        ("in place", lion_in_place),
        ("the weight alone", lion_one),
        ("decay in place", lion_decay_in_place),
        ("a rate of its own", lion_rate_of_its_own),
        ("no weight", lion_no_weight),
        ("lists", lion_lists),
        ("flat", lion_flat),
    ],
    "largest_rates": [
        ("one number", 0.045),
        ("the limit itself", {0.0: 0.05, 0.9: 0.095}),
        ("the wrong way round", {0.0: 0.09, 0.9: 0.045}),
        ("the same for both", {0.0: 0.045, 0.9: 0.045}),
        ("too careful", {0.0: 0.04, 0.9: 0.085}),
        ("not of the list", {0.0: 0.0499, 0.9: 0.0949}),
        ("no limit", {0.0: math.inf, 0.9: math.inf}),
        ("not a number", {0.0: math.nan, 0.9: 0.09}),
    ],
    "users_needed": [
        ("power forgotten", lambda p, q, power=0.8: needed(p, q, power, spread_power=False)),
        ("one-sided", lambda p, q, power=0.8: needed(p, q, power, tail=0.95)),
        ("both sides together", lambda p, q, power=0.8: needed(p, q, power, times=2)),
        ("not squared", lambda p, q, power=0.8: needed(p, q, power, square=False)),
        ("not rounded", lambda p, q, power=0.8: needed(p, q, power, round_up=False)),
        ("rounded down", lambda p, q, power=0.8: int(needed(p, q, power, round_up=False))),
        ("one too many", lambda p, q, power=0.8: needed(p, q, power) + 1),
        ("the power ignored", lambda p, q, power=0.8: needed(p, q, 0.8)),
    ],
    "paired_interval": [
        ("two draws", unpaired),
        ("second minus first", swapped),
        ("without replacement", without_replacement),
        ("half of the means", half_level),
        ("quantiles of the values", of_values),
        ("one system alone", one_system),
        ("nothing drawn", normal),
        ("a generator of its own", drawn_elsewhere),
        ("a number of draws of its own", lambda first, second, rng, resamples=2000: percentiles(first, second, rng)),
        (
            "98 per cent",
            lambda first, second, rng, resamples=2000: percentiles(first, second, rng, resamples, (0.01, 0.99)),
        ),
        (
            "the last question is never drawn",
            lambda first, second, rng, resamples=2000: percentiles(first, second, rng, resamples, count=len(first) - 1),
        ),
        ("high first", lambda *given, **settings: percentiles(*given, **settings)[::-1]),
        ("the mean alone", lambda first, second, rng, resamples=2000: (first - second).mean()),
        ("two texts", lambda first, second, rng, resamples=2000: ("low", "high")),
        ("a list within", lambda first, second, rng, resamples=2000: (0.0, [0.1, 0.2])),
    ],
    "step_work": [
        ("forward forgotten", lambda layers, frozen: (layers - frozen) / layers),
        ("LoRA's bill", lambda layers, frozen: (3 * layers - frozen) / (3 * layers)),
        ("not relative", lambda layers, frozen: 3 * layers - 2 * frozen),
        ("per layer", lambda layers, frozen: (3 * layers - 2 * frozen) / layers),
        ("the frozen share", lambda layers, frozen: 1 - 2 * frozen / layers),
        ("a text", lambda layers, frozen: f"{1 - 2 * frozen / (3 * layers):.0%}"),
    ],
    "unfreeze": [
        ("requires_grad alone", gradient_alone),
        ("optimizer alone", no_gradient),
        ("a new optimizer", new_optimizer),
        ("the default rate", default_rate),
        ("breaks when called again", joined_twice),
        ("into the first group", into_the_first_group),
        ("state cleared", state_cleared),
        ("requires_grad taken for joined", gradient_as_memory),
        ("a group put together by hand", group_by_hand),
        ("the others frozen", others_frozen),
    ],
}
