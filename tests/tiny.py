"""A tokenizer and models small enough for a test: made in a second or two, and never saved."""

from collections.abc import Sequence
from functools import cache
from itertools import chain, islice, repeat
from unittest import mock

import pretrain
import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tunelab import corpus

VOCABULARY = 600


def few_documents(seed: int, langs: Sequence[str] = ()):
    """The first 300 documents of the corpus, then empty ones: `make_tokenizer` asks for 60,000."""
    return chain(islice(corpus_documents(seed), 300), repeat(("empty", "en", "")))


corpus_documents = corpus.documents  # few_documents stands in for it


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """The course's own kind of tokenizer. Shared: a test that changes it works on a copy."""
    with mock.patch.object(corpus, "documents", few_documents):
        return pretrain.make_tokenizer(pretrain.Recipe(vocabulary=VOCABULARY))


def model(seed: int = 0, positions: int = 256, spread: float = 0.02) -> Qwen3ForCausalLM:
    """One layer, 32 wide, random weights with a standard deviation of `spread`."""
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            intermediate_size=48,
            max_position_embeddings=positions,
            initializer_range=spread,
            eos_token_id=2,
            pad_token_id=0,
            bos_token_id=None,
        )
    )
