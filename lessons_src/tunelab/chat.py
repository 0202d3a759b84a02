"""The chat format: how a conversation becomes tokens, and which of them are trained on."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# Qwen's format. `{% generation %}` marks what the assistant says, its stop token included: without these marks
# transformers returns a mask of zeros, with no more than a warning. A line break right after a block tag is dropped, hence
# the one that is written as an expression.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

IGNORED = -100  # the label that torch's cross-entropy leaves out


def render(messages: list[dict[str, str]]) -> str:
    """The conversation as text: what ``TEMPLATE`` gives, without a tokenizer at hand."""
    return "".join(f"{IM_START}{m['role']}\n{m['content']}{IM_END}\n" for m in messages)


def encode(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], max_length: int | None = None
) -> dict[str, list[int]]:
    """Token ids of a conversation, and labels that keep the assistant's tokens alone.

    Args:
        tokenizer: with a chat template; one without ``{% generation %}`` marks is given the course's.
        messages: ``[{"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...]``.
        max_length: the most tokens allowed; nothing is cut off silently.

    Returns:
        ``{"input_ids": [...], "labels": [...]}`` of equal length; a label is the token's id, or -100 where it is not
        trained on. The stop token ``<|im_end|>`` of each answer is trained on.

    Raises:
        ValueError: no assistant message, or more tokens than ``max_length``.
    """
    if not any(m["role"] == "assistant" for m in messages):
        raise ValueError(
            "no message with role 'assistant': there is nothing to train on; add the answer as the last one"
        )
    encoded = tokenizer.apply_chat_template(
        messages, chat_template=_template(tokenizer), return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = encoded["input_ids"], encoded["assistant_masks"]
    if max_length is not None and len(ids) > max_length:
        raise ValueError(
            f"the conversation has {len(ids)} tokens, the limit is {max_length}: shorten it or raise max_length "
            f"(it begins {messages[0]['content'][:40]!r})"
        )
    return {"input_ids": ids, "labels": [i if m else IGNORED for i, m in zip(ids, mask, strict=True)]}


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's template if it marks what the assistant says, else the course's: the same for training and use."""
    own = tokenizer.chat_template
    return own if own and "{% generation %}" in own else TEMPLATE


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase,
    dataset: Any,
    prompt: str = "question",
    response: str = "response",
    *,
    max_length: int | None = None,
) -> Any:
    """A ``datasets.Dataset`` of questions and answers, encoded by :func:`encode`: columns ``input_ids``, ``labels``."""
    missing = {prompt, response} - set(dataset.column_names)
    if missing:
        raise KeyError(f"no column {sorted(missing)} in the dataset; it has {dataset.column_names}")

    def one(row: dict[str, str]) -> dict[str, list[int]]:
        turn = [{"role": "user", "content": row[prompt]}, {"role": "assistant", "content": row[response]}]
        return encode(tokenizer, turn, max_length)

    return dataset.map(one, remove_columns=dataset.column_names, load_from_cache_file=False)


def prompt(question: str) -> list[dict[str, str]]:
    """The conversation that asks one question."""
    return [{"role": "user", "content": question}]


def reply(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[str], **settings: Any
) -> list[str]:
    """The model's answers to ``questions``, one conversation each; ``settings`` as for :func:`complete`."""
    form = {"chat_template": _template(tokenizer), "tokenize": False, "add_generation_prompt": True}
    ask = [tokenizer.apply_chat_template(prompt(question), **form) for question in questions]
    return complete(model, tokenizer, ask, **settings)


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    *,
    max_new_tokens: int = 48,
    batch_size: int = 128,
    keep_special: bool = False,
    **generation: Any,
) -> list[str]:
    """What the model writes after each of ``texts``, in their order; greedy unless ``generation`` says otherwise.

    Writing stops at ``<|im_end|>`` or ``<|endoftext|>``, which ``keep_special`` leaves in the text. Batches are sorted
    by length and padded on the left, where a decoder needs its padding. A model's own penalty on repetition, as Qwen's
    chat models have it, is left out: it punishes copying a name from the question.
    """
    import torch

    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    answers, was_training = [""] * len(texts), model.training
    settings = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": max_new_tokens}
    settings |= {"pad_token_id": tokenizer.pad_token_id}
    settings |= {"eos_token_id": tokenizer.convert_tokens_to_ids([IM_END, END_OF_TEXT])} | generation
    model.eval()
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = tokenizer([texts[i] for i in rows], return_tensors="pt", padding=True, padding_side="left")
            batch = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
            written = model.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :]
            for i, text in zip(
                rows, tokenizer.batch_decode(written, skip_special_tokens=not keep_special), strict=True
            ):
                answers[i] = text if keep_special else text.strip()
    model.train(was_training)
    return answers


def mask_table(tokenizer: PreTrainedTokenizerBase, example: dict[str, list[int]]) -> list[tuple[str, int, bool]]:
    """One row a token of an encoded example: its text, its label, and whether it is trained on.

    A token that holds only a part of a character shows its bytes, ``<E5><A4>``.
    """
    pieces = _pieces(tokenizer, example["input_ids"])
    return [(_shown(p), label, label != IGNORED) for p, label in zip(pieces, example["labels"], strict=True)]


def _pieces(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """The text of each token; a byte of a divided character is a lone surrogate, so that pieces can be joined again."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    texts, spelled = [tokenizer.decode([i]) for i in ids], {char: byte for byte, char in bytes_to_unicode().items()}
    for n, token in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        if "\ufffd" in texts[n] and all(char in spelled for char in token):  # a byte-level vocabulary
            texts[n] = bytes(spelled[char] for char in token).decode("utf-8", "surrogateescape")
    return texts


def _joined(text: str) -> str:
    """The text with its lone bytes made characters wherever they are whole again."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def _divided(text: str) -> bool:
    return any("\udc80" <= char <= "\udcff" for char in text)


def _shown(text: str) -> str:
    return "".join(f"<{ord(c) - 0xDC00:02X}>" if _divided(c) else c for c in text)


class MaskView:
    """Shows an encoded example token by token: trained tokens are boxed and bold, the others grey."""

    def __init__(self, rows: list[tuple[str, int, bool]]) -> None:
        self.rows = rows

    def _repr_html_(self) -> str:
        spans = []
        for piece, _, trained in self.rows:
            text = html.escape(piece).replace("\n", "⏎")
            style = "border:1px solid #0072B2;font-weight:bold" if trained else "color:#767676"
            spans.append(f'<span style="{style};padding:1px 3px;margin:1px;display:inline-block">{text}</span>')
        return f'<div style="font-family:monospace;line-height:2">{"".join(spans)}</div>'

    def __repr__(self) -> str:
        return "".join(f"[{p}]" if trained else p for p, _, trained in self.rows).replace("\n", "⏎")


def show_mask(tokenizer: PreTrainedTokenizerBase, example: dict[str, list[int]]) -> MaskView:
    """The example of :func:`encode` made visible: in brackets what the model is trained to say.

    The tokens of one character are shown together where all or none of them are trained on. Otherwise its last token
    shows the character, and those before show bytes.
    """
    rows: list[tuple[str, int, bool]] = []
    unread = ""  # the bytes of a character that has begun
    for piece, label in zip(_pieces(tokenizer, example["input_ids"]), example["labels"], strict=True):
        unread, together = _joined(unread + piece), bool(unread) and rows[-1][2] == (label != IGNORED)
        if together:
            rows.pop()
        rows.append((_shown(unread), label, label != IGNORED))
        unread = unread if _divided(unread) else ""
    return MaskView(rows)
