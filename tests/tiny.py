"""A recipe, a tokenizer and models small enough for a test: made in a second or two."""

from dataclasses import replace
from functools import cache

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

import pretrain

RECIPE = pretrain.Recipe(
    vocabulary=600,
    hidden=32,
    layers=1,
    heads=2,
    key_value_heads=1,
    intermediate=48,
    window=32,
    batch=4,
    steps=6,
    block=2,
    warmup=2,
    long_share=0.34,  # the last of three blocks
)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """The course's own kind of tokenizer. Shared: a test that changes it works on a copy."""
    return pretrain.make_tokenizer(RECIPE, documents=300)


def model(seed: int = 0, spread: float = 1.0) -> Qwen3ForCausalLM:
    """One layer, 32 wide, random weights; their usual size times `spread`."""
    made = pretrain.make_model(replace(RECIPE, seed=seed))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(spread)
    return made
