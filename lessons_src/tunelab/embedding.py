"""Texts to vectors: sentence encoders, the lexical baseline, and the embedding function that Chroma finds again."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from chromadb import Documents, EmbeddingFunction, Embeddings
from chromadb.utils.embedding_functions import register_embedding_function

from . import models

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHARACTERS_A_TOKEN = 20  # more than the longest words have: text beyond what the encoder reads is not even tokenized


class Embedder:
    """A sentence encoder: a transformer whose token vectors are pooled into one vector a text.

    Sentence-BERT (Reimers & Gurevych 2019) pools by the mean over all tokens that are not padding; BGE takes the first.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: str = "mean",
        max_tokens: int = 256,
    ) -> None:
        if pooling not in ("mean", "cls"):
            raise ValueError(f"pooling={pooling!r} is not known; choose 'mean' or 'cls'")
        self.name, self.pooling, self.max_tokens = name, pooling, max_tokens
        self.model, self.tokenizer = model.eval(), tokenizer

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return self.model.config.hidden_size

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Vectors of length 1, (texts, dim) float32, in the order of ``texts``; what is beyond ``max_tokens`` is not read.

        A text without a token, such as ``""``, has the vector zero, which is near nothing: do not store it.

        Raises:
            TypeError: a single string, or something in ``texts`` that is no string.
        """
        import torch

        texts = checked(texts)
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        # Texts of like length share a batch, so that little of it is padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            with torch.inference_mode():
                vectors[rows] = self.pooled([texts[i] for i in rows]).float().cpu().numpy()
        return vectors

    def pooled(self, texts: list[str]) -> Any:
        """A tensor (texts, dim) of vectors of length 1 (zero for a text without a token), with gradients where they are on."""
        import torch

        cut = [text[: CHARACTERS_A_TOKEN * self.max_tokens] for text in texts]
        batch = self.tokenizer(cut, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
        if batch["input_ids"].shape[1] == 0:  # not one of the texts has a token
            return torch.zeros(len(texts), self.dim)
        batch = batch.to(self.model.device)
        hidden = self.model(**batch).last_hidden_state  # (texts, tokens, dim)
        if self.pooling == "cls":
            return torch.nn.functional.normalize(hidden[:, 0], dim=-1)
        mask = batch["attention_mask"].unsqueeze(-1)  # (texts, tokens, 1)
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1), dim=-1)


class TfidfSvd:
    """The lexical baseline: TF-IDF of character n-grams, reduced by a truncated SVD (latent semantic analysis).

    It knows the n-grams of the texts that it was made from, and nothing else.
    """

    name = "tfidf-svd"

    def __init__(self, texts: Sequence[str], dim: int = 128, seed: int = 0) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts = checked(texts)
        if len(texts) < 2:
            raise ValueError(f"TfidfSvd needs at least two texts to compare, got {len(texts)}")
        self._tfidf = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
        counts = self._tfidf.fit_transform(texts)
        self.dim = min(dim, min(counts.shape) - 1)
        self._svd = TruncatedSVD(self.dim, random_state=seed).fit(counts)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of length 1, (texts, dim) float32; of length 0 for a text without a known n-gram."""
        vectors = self._svd.transform(self._tfidf.transform(checked(texts)))
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


@register_embedding_function
class CourseEmbedding(EmbeddingFunction[Documents]):
    """A model of the registry as Chroma's embedding function.

    Chroma stores its name and configuration with the collection, so a collection opened by another process embeds its
    queries with the same model; for that, this module must have been imported there.
    """

    def __init__(self, model: str = "travel-encoder") -> None:
        models.locate(model)  # an unknown or damaged model is refused here, not when the first text comes
        self.model = model

    @cached_property
    def _embedder(self) -> Embedder:
        # Loaded by the first text: Chroma makes a new function whenever it reads a collection's settings, and asks it nothing.
        return models.load_embedder(self.model)

    def __call__(self, input: Documents) -> Embeddings:
        return list(self._embedder.encode(input))

    @staticmethod
    def name() -> str:
        """Under which Chroma finds this class again."""
        return "tunelab"

    def default_space(self) -> str:
        """Vectors of length 1 are compared by their angle."""
        return "cosine"

    def supported_spaces(self) -> list[str]:
        """All three rank vectors of length 1 alike."""
        return ["cosine", "l2", "ip"]

    def get_config(self) -> dict[str, Any]:
        """What `build_from_config` needs."""
        return {"model": self.model}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> CourseEmbedding:
        """The function that a stored collection was made with."""
        return CourseEmbedding(config["model"])


@register_embedding_function
class HashedBigrams(EmbeddingFunction[Documents]):
    """Counts of a text's pairs of characters, hashed into ``dim`` numbers (feature hashing, Weinberger et al. 2009).

    No model, and nothing to load: for tests and drills, where it does not matter how good the vectors are.
    """

    def __init__(self, dim: int = 64) -> None:
        self.dim = dim

    def __call__(self, input: Documents) -> Embeddings:
        return [self.vector(text) for text in input]

    def vector(self, text: str) -> np.ndarray:
        """(dim,) float32; the same in every process."""
        vector, padded = np.zeros(self.dim, dtype=np.float32), f" {text.lower()} "
        for start in range(len(padded) - 1):
            vector[zlib.crc32(padded[start : start + 2].encode()) % self.dim] += 1
        return vector

    @staticmethod
    def name() -> str:
        """Under which Chroma finds this class again."""
        return "tunelab-hashed-bigrams"

    def default_space(self) -> str:
        """Texts of different lengths are compared by their angle."""
        return "cosine"

    def get_config(self) -> dict[str, Any]:
        """What `build_from_config` needs."""
        return {"dim": self.dim}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> HashedBigrams:
        """The function that a stored collection was made with."""
        return HashedBigrams(**config)


def checked(texts: Iterable[str]) -> list[str]:
    """``texts`` as a list; a TypeError where one string was given for a list, or something else than a string."""
    if isinstance(texts, str):
        raise TypeError(f"encode takes a list of texts, got one string: encode([{texts[:30]!r}])")
    texts = list(texts)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {row} is {type(text).__name__}, not a string: {text!r}"[:200])
    return texts
