"""The bill of a model and of its training: parameters, bytes on disk, and the memory that a training will take."""

from __future__ import annotations

import json
import re
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
    """Bytes on each device while training, without what the framework itself takes (a CUDA context, the allocator's gaps)."""

    weights: float
    gradients: float
    optimizer: float
    activations: float = 0.0  # at the start of the backward pass, the loss's own tensors included
    workspace: float = 0.0  # temporaries of the optimizer's step

    @property
    def total(self) -> float:
        """Weights, gradients, optimizer state and activations together, in bytes."""
        return self.weights + self.gradients + self.optimizer + self.activations

    @property
    def peak(self) -> float:
        """The most that is held at one time, in bytes: activations are freed while gradients are made.

        Where gradients of several batches are summed up, the two add up: take the total.
        """
        return self.weights + self.optimizer + max(self.activations, self.gradients + self.workspace)


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
    model: nn.Module,
    *,
    frozen: str = "fp32",
    trained: str = "fp32",
    optimizer: str = "adamw",
    devices: int = 1,
    batch: int = 0,
    length: int = 0,
    eager: bool = False,
    checkpointing: bool = False,
) -> Memory:
    """Predicted memory of a training of the parameters that require a gradient, in bytes on each device.

    Args:
        model: may live on the meta device.
        frozen: dtype of what is not trained. With ``"nf4"`` only the weights of linear layers other than the output
            head are quantised, as bitsandbytes does; the rest is bf16.
        trained: ``"fp32"``, or ``"mixed"``: bf16 weights and gradients beside an fp32 copy that the optimizer moves.
        optimizer: a key of ``OPTIMIZER_STATES``.
        devices: over so many, weights, gradients and states are sharded evenly (FSDP full shard, ZeRO-3).
        batch, length: rows on each device and tokens a row; without them activations are left out.
        eager, checkpointing: see :func:`activation_memory`. Activations are bf16 unless everything is fp32.

    Raises:
        ValueError: an unknown dtype, optimizer or way of training, or less than one device.
    """
    if optimizer not in OPTIMIZER_STATES:
        raise ValueError(f"optimizer {optimizer!r} is not known; choose one of {', '.join(OPTIMIZER_STATES)}")
    if trained not in ("fp32", "mixed"):
        raise ValueError(f"trained={trained!r} is not known; choose 'fp32' or 'mixed'")
    if devices < 1:
        raise ValueError(f"devices={devices}: at least one is needed")
    numbers, kept = count(model), 0.0
    moving = numbers.trained
    states, size = OPTIMIZER_STATES[optimizer]
    weight, gradient = (4.0, 4.0) if trained == "fp32" else (2.0 + 4.0, 2.0)
    if batch and length:
        dtype = "fp32" if trained == "fp32" and (frozen == "fp32" or moving == numbers.total) else "bf16"
        kept = activation_memory(model, batch, length, dtype=dtype, eager=eager, checkpointing=checkpointing)
    largest = max((p.numel() for p in model.parameters() if p.requires_grad), default=0)
    return Memory(
        weights=(_frozen_bytes(model, numbers, frozen) + weight * moving) / devices,
        gradients=gradient * moving / devices,
        optimizer=states * size * moving / devices,
        activations=kept,
        workspace=(2 * 4.0 * largest if states else 0.0) / devices,
    )


def activation_memory(
    model: nn.Module, batch: int, length: int, *, dtype: str = "fp32", eager: bool = False, checkpointing: bool = False
) -> float:
    """Predicted bytes of activations at the start of the backward pass, with the tensors of the loss itself.

    Counts what torch keeps in the blocks of transformers' Llama, Qwen2, Qwen3 and BERT without dropout; a block keeps
    nothing where no gradient passes. With ``eager`` attention a length x length matrix a head is kept, too; fused
    (flash) attention keeps none. With ``checkpointing`` each block keeps its input alone, and one at a time is redone.
    """
    config, size = model.config, _bytes_of(dtype)
    hidden, mlp, decoder = config.hidden_size, config.intermediate_size, hasattr(config, "num_key_value_heads")
    matrices = config.num_attention_heads * length * size if eager else 0
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    flowing, kept, largest = any("embed" in name for name in trained), 0.0, 0.0
    for number in range(config.num_hidden_layers):
        inside = {n.split(f".{number}.", 1)[1]: p for n, p in trained.items() if re.search(rf"layers?\.{number}\.", n)}
        flowing = flowing or bool(inside)
        if flowing:
            block = _block_bytes(config, inside, size) + matrices
            kept, largest = kept + (hidden * size if checkpointing else block), max(largest, block)
    kept += hidden * 4 if flowing and decoder else 0  # the last norm
    passing = 2 * mlp * size if flowing else (4 * mlp + 5 * hidden if decoder else 2 * mlp + 3 * hidden) * size
    passing += largest if checkpointing else 0
    head = getattr(model, "get_output_embeddings", lambda: None)()
    loss = 0 if head is None else 3 * 4 * config.vocab_size  # log-softmax, two gradients; gone at the blocks' turn
    return batch * length * (kept + max(passing, loss))


# Linear layers of a block by the tensor that they read: its width, and whether something else keeps it anyway.
_READERS = {
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"): ("hidden", False),
    ("self_attn.o_proj",): ("queries", True),
    ("mlp.gate_proj", "mlp.up_proj", "intermediate.dense"): ("hidden", False),
    ("mlp.down_proj", "output.dense"): ("mlp", False),
    ("attention.self.query", "attention.self.key", "attention.self.value"): ("hidden", False),
    ("attention.output.dense",): ("hidden", True),
}


def _block_bytes(config: Any, trained: dict[str, nn.Parameter], size: float) -> float:
    """Bytes a token that one block keeps; ``trained`` are its trained parameters by their name inside the block."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    widths = {"hidden": hidden, "queries": hidden, "mlp": mlp}
    if hasattr(config, "num_key_value_heads"):  # RMSNorm in fp32, SwiGLU
        head = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
        queries, keys = head * config.num_attention_heads, head * config.num_key_value_heads
        widths["queries"] = queries
        norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
        norms |= {"self_attn.q_norm": queries, "self_attn.k_norm": keys} if config.model_type == "qwen3" else {}
        kept = 4 * sum(norms.values()) + size * (3 * mlp + 2 * queries + 2 * keys)
        kept += size * sum(width for norm, width in norms.items() if f"{norm}.weight" in trained)
    else:  # LayerNorm, GELU
        kept = size * (6 * hidden + mlp)
    for layers, (tensor, anyway) in _READERS.items():
        reading = [name for name in trained if name.startswith(layers) and name.endswith(".weight")]
        adapters = [name for name in reading if "lora_A" in name]
        # Below fp32 each adapter keeps a cast copy of its own; else one tensor serves all.
        copies = len(adapters) if adapters and size < 4 else bool(reading) and not anyway
        kept += size * (copies * widths[tensor] + sum(trained[name].shape[0] for name in adapters))
    return kept


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

    modules, head = list(model.modules()), getattr(model, "get_output_embeddings", lambda: None)()
    outside = {id(module.weight) for module in modules if isinstance(module, nn.Embedding) or module is head}
    linear = {id(module.weight): module.weight for module in modules if isinstance(module, nn.Linear)}
    return [weight for key, weight in linear.items() if key not in outside]


def _bytes_of(dtype: str) -> float:
    if dtype not in BYTES:
        raise ValueError(f"dtype {dtype!r} is not known; choose one of {', '.join(BYTES)}")
    return BYTES[dtype]
