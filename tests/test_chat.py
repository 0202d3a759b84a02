"""The chat format: what is trained on, and what comes back."""

import copy

import pytest

import tiny
from tunelab import chat, data

TALK = [
    {"role": "user", "content": "Which bus goes to Heron Lake?"},
    {"role": "assistant", "content": "bus 9"},
    {"role": "user", "content": "Thanks!"},
    {"role": "assistant", "content": "You are welcome."},
]


def trained_text(tokenizer, example):
    return tokenizer.decode([label for label in example["labels"] if label != chat.IGNORED])


def test_labels_are_the_answers_and_their_stop_tokens():
    tokenizer = tiny.tokenizer()
    example = chat.encode(tokenizer, TALK)
    assert len(example["input_ids"]) == len(example["labels"])
    assert trained_text(tokenizer, example) == "bus 9<|im_end|>You are welcome.<|im_end|>"
    assert tokenizer.decode(example["input_ids"]) == chat.render(TALK)
    assert all(
        label in (chat.IGNORED, token) for token, label in zip(example["input_ids"], example["labels"], strict=True)
    )


def test_a_template_without_marks_is_replaced_by_the_courses():
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}{% endif %}"
    )
    assert trained_text(tokenizer, chat.encode(tokenizer, TALK[:2])) == "bus 9<|im_end|>"


def test_nothing_is_cut_off_silently():
    with pytest.raises(ValueError, match="the limit is 5"):
        chat.encode(tiny.tokenizer(), TALK, max_length=5)
    with pytest.raises(ValueError, match="nothing to train on"):
        chat.encode(tiny.tokenizer(), TALK[:1])


def test_datasets_are_encoded_row_by_row_and_a_missing_column_is_named():
    rows = data.load("questions", "zh", size=5)
    encoded = chat.encode_pairs(tiny.tokenizer(), rows)
    assert encoded.column_names == ["input_ids", "labels"]
    assert trained_text(tiny.tokenizer(), encoded[0]) == rows[0]["response"] + chat.IM_END
    with pytest.raises(KeyError, match="response"):
        chat.encode_pairs(tiny.tokenizer(), rows.remove_columns("response"))


def test_the_mask_view_frames_what_is_trained_on():
    view = chat.show_mask(tiny.tokenizer(), chat.encode(tiny.tokenizer(), TALK[:2]))
    assert "[<|im_end|>]" in repr(view) and repr(view).count("<|im_end|>") == 2
    assert "font-weight:bold" in view._repr_html_()


def test_a_batch_answers_as_its_questions_do_alone():
    model, tokenizer = tiny.model(), tiny.tokenizer()
    questions = [
        "Which bus goes to Heron Lake?",
        "When?",
        "What should I eat at Amber Lake when it rains and I am tired?",
    ]
    together = chat.reply(model, tokenizer, questions, max_new_tokens=8)
    assert together == [chat.reply(model, tokenizer, [q], max_new_tokens=8)[0] for q in questions]
    assert model.training is False or model.train() is model
