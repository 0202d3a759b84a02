"""What lesson 05's experiments train: encoders and decoders under a classification head, and an encoder that writes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any

import torch

from tunelab import chat, metrics, models, training

LENGTH = 36  # tokens of an answer that an encoder fills in: the longest one, its stop token, and a little more
TOKENS = 256  # of a text that are read


@cache
def body(name: str) -> tuple[Any, Any]:
    """A transformer without a head, which gives token vectors, and its tokenizer. Copy it before training."""
    return models.load_encoder(name)


def pooled(model: torch.nn.Module, tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """One vector a text, the mean of its token vectors: (texts, hidden)."""
    batch = tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True, max_length=TOKENS)
    mask = batch["attention_mask"]
    states = model(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state  # (texts, tokens, hidden)
    weights = mask.unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1)


@cache
@torch.no_grad()
def features(name: str, texts: tuple[str, ...]) -> Any:
    """Vectors of a model that is not trained: an array (texts, hidden)."""
    model, tokenizer = body(name)
    order, parts = sorted(range(len(texts)), key=lambda i: len(texts[i])), {}
    for start in range(0, len(order), 32):
        rows = order[start : start + 32]
        parts |= zip(rows, pooled(model.eval(), tokenizer, [texts[i] for i in rows]), strict=True)
    return torch.stack([parts[i] for i in range(len(texts))]).numpy()


class Classifier(torch.nn.Module):
    """A transformer with a linear head on its pooled token vectors."""

    def __init__(self, model: torch.nn.Module, tokenizer: Any, classes: Sequence[str]) -> None:
        super().__init__()
        self.model, self.tokenizer, self.classes = model, tokenizer, list(classes)
        self.head = torch.nn.Linear(model.config.hidden_size, len(classes))

    def forward(self, texts: Sequence[str]) -> torch.Tensor:
        """Logits: (texts, classes)."""
        return self.head(pooled(self.model, self.tokenizer, texts))

    @torch.no_grad()
    def right(self, texts: Sequence[str], labels: Sequence[str]) -> str:
        """A 1 for each text whose class is found, else a 0."""
        self.eval()
        found = torch.cat([self(texts[i : i + 32]).argmax(1) for i in range(0, len(texts), 32)]).tolist()
        return "".join("01"[self.classes[i] == label] for i, label in zip(found, labels, strict=True))


def train_classifier(
    model: Classifier, texts: Sequence[str], labels: Sequence[str], *, steps: int, lr: float, head_lr: float, seed: int
) -> dict[str, Any]:
    """Trains what requires a gradient, the head at a rate of its own, with batches of 16; the final loss and the seconds."""
    inside = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("head.")]
    groups = [{"params": inside, "lr": lr}, {"params": list(model.head.parameters()), "lr": head_lr}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [lr, head_lr], total_steps=steps, pct_start=0.1)
    rng, losses, began = Random(seed), [], time.process_time()
    model.train()
    for _ in range(steps):
        rows = rng.choices(range(len(texts)), k=16)
        wanted = torch.tensor([model.classes.index(labels[i]) for i in rows])
        loss = torch.nn.functional.cross_entropy(model([texts[i] for i in rows]), wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    tail = losses[-10:]
    return {
        "trained": sum(p.numel() for group in groups for p in group["params"]),
        "cpu_seconds": round(time.process_time() - began, 2),
        "loss": round(sum(tail) / len(tail), 4),
    }


class MaskedAnswers(torch.nn.Module):
    """An encoder that learns to write: of each answer a random share is masked, between a little and all of it.

    So it meets every state in which an answer can be while it is filled in (as in LLaDA, Nie et al. 2025). It takes what
    `training.fit` gives: labels are -100 outside the answer.
    """

    def __init__(self, model: Any, mask: int) -> None:
        super().__init__()
        self.model, self.mask, self.config = model, mask, model.config

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> Any:
        """An object with ``.loss``: of the masked tokens."""
        share = torch.rand(len(input_ids), 1).clamp(min=0.1)
        chosen = (labels != chat.IGNORED) & (torch.rand(input_ids.shape) < share)
        return self.model(
            input_ids=input_ids.masked_fill(chosen, self.mask),
            attention_mask=attention_mask,
            labels=labels.masked_fill(~chosen, chat.IGNORED),
        )


def answer_rows(tokenizer: Any, dataset: Any) -> list[dict[str, list[int]]]:
    """Questions with answers of one length for :class:`MaskedAnswers`: what is left after the stop token is padding."""
    rows = []
    for row in chat.encode_pairs(tokenizer, dataset):
        answer = [label for label in row["labels"] if label != chat.IGNORED]
        asked = row["input_ids"][: row["labels"].index(answer[0])]
        answer += [tokenizer.pad_token_id] * (LENGTH - len(answer))
        rows.append({"input_ids": asked + answer, "labels": [chat.IGNORED] * len(asked) + answer})
    return rows


@torch.no_grad()
def fill_in(model: Any, tokenizer: Any, questions: Sequence[str], passes: int) -> list[str]:
    """Answers of a masked language model: all tokens begin as ``[MASK]``, the surest ones are written in each pass.

    Args:
        passes: a divisor of ``LENGTH``. 1 writes all tokens at once, each without a view of the others; ``LENGTH`` writes
            one after the other.
    """
    form = {"tokenize": False, "add_generation_prompt": True}
    asked = [tokenizer.apply_chat_template(chat.prompt(question), **form) for question in questions]
    order, answers = sorted(range(len(asked)), key=lambda i: len(asked[i])), [""] * len(asked)
    model.eval()
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        texts = tokenizer([asked[i] for i in rows], add_special_tokens=False)["input_ids"]
        batch = training.collate(
            [{"input_ids": ids + [tokenizer.mask_token_id] * LENGTH, "labels": ids + [0] * LENGTH} for ids in texts],
            pad=tokenizer.pad_token_id,
        )
        ids, seen = batch["input_ids"], batch["attention_mask"]  # (rows, tokens)
        places = torch.tensor([[len(tokens)] for tokens in texts]) + torch.arange(
            LENGTH
        )  # of the answers: (rows, LENGTH)
        for _ in range(passes):
            states = model.model(input_ids=ids, attention_mask=seen).last_hidden_state  # (rows, tokens, hidden)
            states = states.gather(1, places.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
            logits = model.decoder(model.head(states))  # (rows, LENGTH, vocabulary)
            logits[..., tokenizer.mask_token_id] = -math.inf
            best, token = logits.max(-1)  # (rows, LENGTH) each
            written = ids.gather(1, places)
            sure = (best - logits.logsumexp(-1)).masked_fill(written != tokenizer.mask_token_id, -math.inf)
            chosen = sure.topk(LENGTH // passes, dim=1).indices
            ids.scatter_(1, places, written.scatter(1, chosen, token.gather(1, chosen)))
        for i, row, text in zip(rows, ids, texts, strict=True):
            written = tokenizer.decode(row[len(text) : len(text) + LENGTH])
            answers[i] = written.split(chat.IM_END)[0].strip()
    return answers


def json_scores(replies: Sequence[str], asked: Any) -> dict[str, Any]:
    """Shares of valid JSON, right topics, answers and records; the answers also one by one, and by half of the places."""
    scores = metrics.score_json(replies, asked)
    result = {name: round(metrics.mean(scores[name]), 4) for name in ("valid", "topic", "answer", "record")}
    for name, half in (("seen", True), ("unseen", False)):
        kept = [right for right, known in zip(scores["answer"], asked["documented"], strict=True) if known == half]
        result[name] = round(metrics.mean(kept), 4)
    return result | {"right": "".join("01"[value] for value in scores["answer"])}
