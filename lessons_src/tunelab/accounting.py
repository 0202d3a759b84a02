"""The bill of a model and of its training: parameters, bytes on disk, and the memory that a training will take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from .paths import course_file

if TYPE_CHECKING:
    from torch import nn

# Bytes a number. nf4 is the 4-bit format of QLoRA with double quantisation (Dettmers and others 2023, arXiv 2305.14314):
# 4 bits, an 8-bit constant for each block of 64 weights, and a 32-bit one for each 256 of those.
BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "nf4": (4 + 8 / 64 + 32 / (64 * 256)) / 8}

# Numbers that an optimizer keeps for each trained parameter, and their bytes.
OPTIMIZER_STATES = {"adamw": (2, 4), "adamw-8bit": (2, 1), "momentum": (1, 4), "sgd": (0, 4)}


@dataclass(frozen=True)
class Count:
    """How many parameters a model has; a tied weight counts once."""

    total: int
    trained: int

    @property
    def share(self) -> float:
        """Trained parameters as a share of all."""
        return self.trained / self.total


@dataclass(frozen=True)
class Memory:
    """Bytes on each device while training, without activations and without what the framework itself takes."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """Weights, gradients and optimizer state together, in bytes."""
        return self.weights + self.gradients + self.optimizer


@cache
def published() -> dict[str, dict[str, Any]]:
    """By name: the published dimensions, parameter count and licence of the models that the course compares."""
    text = course_file("assets", "models", "model_configs.json").read_text(encoding="utf-8")
    return {name: entry for name, entry in json.loads(text).items() if not name.startswith("_")}


def skeleton(name: str) -> nn.Module:
    """The model of that name on the meta device: every shape, no numbers, in a tenth of a second.

    Raises:
        ValueError: the name is not among :func:`published`.
    """
    if name not in published():
        raise ValueError(f"no dimensions for the model {name!r}; choose one of {', '.join(published())}")
    import torch
    import transformers

    entry = published()[name]
    model_class = getattr(transformers, entry["class"])
    with torch.device("meta"):
        return model_class(model_class.config_class(**entry["config"]))


def count(model: nn.Module) -> Count:
    """The parameters of a model, and those among them that require a gradient."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return Count(sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained))


def lora_parameters(shapes: Sequence[tuple[int, int]], rank: int) -> int:
    """What LoRA trains on weights of these shapes: r (d + k) for each weight d x k (Hu and others 2021, arXiv 2106.09685).

    Raises:
        ValueError: a rank below 1, or above min(d, k) of one of the weights.
    """
    if rank < 1:
        raise ValueError(f"rank {rank}: a product of rank 0 is zero and trains nothing; give 1 or more")
    for d, k in shapes:
        if rank > min(d, k):
            raise ValueError(f"rank {rank} on a {d} x {k} weight: its update has rank {min(d, k)} at most; give less")
    return rank * sum(d + k for d, k in shapes)


def bytes_on_disk(parameters: int, dtype: str = "fp32") -> float:
    """Size of a weights file, in bytes; its header adds about a hundred bytes a tensor.

    Raises:
        ValueError: an unknown dtype.
    """
    return parameters * _bytes_of(dtype)


def training_memory(
    model: nn.Module, *, frozen: str = "fp32", trained: str = "fp32", optimizer: str = "adamw", devices: int = 1
) -> Memory:
    """Predicted memory of a training of the parameters that require a gradient, in bytes on each device.

    Activations are not in it: they grow with batch, length and depth, and are measured, not predicted.

    Args:
        model: may live on the meta device.
        frozen: dtype of what is not trained. With ``"nf4"`` only the weights of linear layers other than the output
            head are quantised, as bitsandbytes does; the rest is bf16.
        trained: ``"fp32"``, or ``"mixed"``: bf16 weights and gradients beside an fp32 copy that the optimizer moves.
        optimizer: a key of ``OPTIMIZER_STATES``.
        devices: over so many, everything is sharded evenly (FSDP full shard, ZeRO-3).

    Raises:
        ValueError: an unknown dtype, optimizer or way of training, or less than one device.
    """
    if optimizer not in OPTIMIZER_STATES:
        raise ValueError(f"optimizer {optimizer!r} is not known; choose one of {', '.join(OPTIMIZER_STATES)}")
    if trained not in ("fp32", "mixed"):
        raise ValueError(f"trained={trained!r} is not known; choose 'fp32' or 'mixed'")
    if devices < 1:
        raise ValueError(f"devices={devices}: at least one is needed")
    numbers = count(model)
    moving = numbers.trained
    states, size = OPTIMIZER_STATES[optimizer]
    weight, gradient = (4.0, 4.0) if trained == "fp32" else (2.0 + 4.0, 2.0)
    return Memory(
        weights=(_frozen_bytes(model, numbers, frozen) + weight * moving) / devices,
        gradients=gradient * moving / devices,
        optimizer=states * size * moving / devices,
    )


def _frozen_bytes(model: nn.Module, numbers: Count, dtype: str) -> float:
    """Bytes of the parameters that are not trained."""
    still = numbers.total - numbers.trained
    if dtype != "nf4":
        return still * _bytes_of(dtype)
    quantised = sum(weight.numel() for weight in _linear_weights(model) if not weight.requires_grad)
    return quantised * BYTES["nf4"] + (still - quantised) * BYTES["bf16"]


def _linear_weights(model: nn.Module) -> list[nn.Parameter]:
    """Weights of the linear layers, without the output head and without a weight that is tied to an embedding."""
    from torch import nn

    outside = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    outside |= {id(head.weight)} if head is not None else set()
    found = {
        id(module.weight): module.weight
        for module in model.modules()
        if isinstance(module, nn.Linear) and id(module.weight) not in outside
    }
    return list(found.values())


def _bytes_of(dtype: str) -> float:
    if dtype not in BYTES:
        raise ValueError(f"dtype {dtype!r} is not known; choose one of {', '.join(BYTES)}")
    return BYTES[dtype]
