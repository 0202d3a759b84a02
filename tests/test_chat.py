"""The chat format: the assistant's tokens alone are labels, and a batch answers as one question at a time does."""

import copy

import pytest
import torch
from datasets import Dataset

import tiny
from tunelab import chat, data

ONE = [{"role": "user", "content": "Where is Heron Lake?"}, {"role": "assistant", "content": "In the north. 在北方。"}]
TWO = [*ONE, {"role": "user", "content": "票价多少？"}, {"role": "assistant", "content": "20元"}]


@pytest.fixture
def tokenizer():
    return tiny.tokenizer()


def trained_text(tokenizer, example):
    return tokenizer.decode([label for label in example["labels"] if label != chat.IGNORED])


def runs(labels):
    """How many stretches of trained tokens there are."""
    return sum(b != chat.IGNORED and a == chat.IGNORED for a, b in zip([chat.IGNORED, *labels], labels, strict=False))


# ---- encode ----


@pytest.mark.parametrize(("messages", "answers"), [(ONE, 1), (TWO, 2)])
def test_labels_are_exactly_the_assistants_tokens_with_the_stop_token(tokenizer, messages, answers):
    example = chat.encode(tokenizer, messages)
    ids, labels = example["input_ids"], example["labels"]
    assert tokenizer.decode(ids) == chat.render(messages)
    assert all(label in (token, chat.IGNORED) for token, label in zip(ids, labels, strict=True))
    spoken = [m["content"] + chat.IM_END for m in messages if m["role"] == "assistant"]
    assert trained_text(tokenizer, example) == "".join(spoken)
    assert runs(labels) == answers == labels.count(tokenizer.convert_tokens_to_ids(chat.IM_END))


def test_a_system_message_and_a_last_question_are_not_trained_on(tokenizer):
    messages = [{"role": "system", "content": "Be short."}, *ONE, {"role": "user", "content": "And now?"}]
    assert trained_text(tokenizer, chat.encode(tokenizer, messages)) == ONE[1]["content"] + chat.IM_END


@pytest.mark.parametrize(
    "template",
    [
        None,
        "",
        # Qwen's own way: no generation marks, and a system message that nobody asked for.
        "<|im_start|>system\nBe nice.<|im_end|>\n{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ],
)
def test_a_template_without_generation_marks_is_replaced_in_training_and_in_asking(tokenizer, template, monkeypatch):
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    assert chat.encode(other, TWO) == chat.encode(tokenizer, TWO)
    asked = []
    monkeypatch.setattr(chat, "complete", lambda model, tokenizer, texts, **settings: asked.extend(texts) or ["?"])
    chat.reply(None, other, [ONE[0]["content"]])
    # A model that was trained on one format and asked in another has learnt half of it in vain.
    assert chat.render(ONE).startswith(asked[0])


def test_a_template_with_marks_of_its_own_is_kept(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = chat.TEMPLATE.replace("<|im_start|>", "<|im_start|>the ")
    assert tokenizer.decode(chat.encode(other, ONE)["input_ids"]).startswith("<|im_start|>the user")


def test_nothing_is_cut_off_silently(tokenizer):
    length = len(chat.encode(tokenizer, ONE)["input_ids"])
    assert len(chat.encode(tokenizer, ONE, max_length=length)["labels"]) == length
    with pytest.raises(ValueError, match=rf"has {length} tokens, the limit is {length - 1}: shorten .*Where is Heron"):
        chat.encode(tokenizer, ONE, max_length=length - 1)


@pytest.mark.parametrize("messages", [[], ONE[:1]])
def test_a_conversation_without_an_answer_is_an_error(tokenizer, messages):
    with pytest.raises(ValueError, match="no message with role 'assistant'"):
        chat.encode(tokenizer, messages)


def test_render_is_what_the_template_gives(tokenizer):
    for messages in (ONE, TWO):
        assert chat.render(messages) == tokenizer.apply_chat_template(messages, tokenize=False)
    asked = tokenizer.apply_chat_template(ONE[:1], tokenize=False, add_generation_prompt=True)
    assert chat.render(ONE).startswith(asked) and asked.endswith("assistant\n")


def test_encode_pairs_makes_a_dataset_to_train_on(tokenizer):
    questions = Dataset.from_dict({"question": ["a?", "b?"], "response": ["A", "B"], "place": ["x", "y"]})
    encoded = chat.encode_pairs(tokenizer, questions)
    assert encoded.column_names == ["input_ids", "labels"] and len(encoded) == 2
    assert trained_text(tokenizer, encoded[1]) == "B" + chat.IM_END
    swapped = chat.encode_pairs(tokenizer, questions, prompt="place", response="question")
    assert trained_text(tokenizer, swapped[0]) == "a?" + chat.IM_END
    with pytest.raises(KeyError, match=r"no column \['reply'\].*'question', 'response', 'place'"):
        chat.encode_pairs(tokenizer, questions, response="reply")


def test_the_courses_questions_are_encoded_row_by_row(tokenizer):
    rows = data.load("questions", "zh", size=5)
    encoded = chat.encode_pairs(tokenizer, rows)
    assert [trained_text(tokenizer, row) for row in encoded] == [
        response + chat.IM_END for response in rows["response"]
    ]


# ---- writing ----

QUESTIONS = ["Where?", "What does a ticket for Heron Lake cost, and when does it close?", "白鹭湖几点关门？", "票价"]


@pytest.fixture(scope="module")
def model():
    # Weights this large make the next token depend on all the tokens before it; a common random model repeats itself.
    return tiny.model(seed=3, spread=35.0)


def test_a_batch_answers_as_one_question_at_a_time(model, tokenizer):
    settings = {"max_new_tokens": 12, "keep_special": True}
    alone = [chat.reply(model, tokenizer, [question], **settings)[0] for question in QUESTIONS]
    assert len(set(alone)) == len(QUESTIONS)  # else the comparison would not see a mixed-up order
    for size in (128, 3):
        assert chat.reply(model, tokenizer, QUESTIONS, batch_size=size, **settings) == alone
    assert chat.reply(model, tokenizer, []) == []


def test_padding_on_the_right_would_be_noticed(model, tokenizer):
    """The test above has teeth: on this model the wrong side changes answers."""
    ask = [chat.render(chat.prompt(q)) + "<|im_start|>assistant\n" for q in QUESTIONS]
    batch = tokenizer(ask, return_tensors="pt", padding=True, padding_side="right")
    with torch.no_grad():
        written = model.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], do_sample=False, max_new_tokens=12
        )[:, batch["input_ids"].shape[1] :]
    right = chat.reply(model, tokenizer, QUESTIONS, max_new_tokens=12, keep_special=True)
    assert tokenizer.batch_decode(written) != right


def test_writing_stops_at_the_stop_token_and_leaves_the_model_as_it_was(tokenizer):
    model, stop = tiny.model(), tokenizer.convert_tokens_to_ids(chat.IM_END)
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
    model.lm_head.bias = torch.nn.Parameter(
        torch.zeros(tiny.RECIPE.vocabulary).index_fill(0, torch.tensor([stop]), 9.0)
    )
    for training in (True, False):
        model.train(training)
        assert chat.reply(model, tokenizer, ["Where?"]) == [""]
        assert model.training is training
    assert chat.reply(model, tokenizer, ["Where?"], keep_special=True) == [chat.IM_END]


def test_a_models_own_penalty_on_repetition_does_not_change_a_greedy_answer(tokenizer):
    model = tiny.model(spread=4.0)
    plain = chat.complete(model, tokenizer, ["Where is Heron Lake?"], max_new_tokens=12)
    model.generation_config.repetition_penalty = 100.0  # Qwen2.5-0.5B-Instruct has 1.1
    assert chat.complete(model, tokenizer, ["Where is Heron Lake?"], max_new_tokens=12) == plain
    harsh = chat.complete(model, tokenizer, ["Where is Heron Lake?"], max_new_tokens=12, repetition_penalty=100.0)
    assert harsh != plain  # it would have mattered


def test_settings_go_through_to_generate(model, tokenizer, monkeypatch):
    torch.manual_seed(0)
    settings = {"max_new_tokens": 8, "do_sample": True, "temperature": 2.0}
    assert len({chat.complete(model, tokenizer, ["# "], **settings)[0] for _ in range(4)}) > 1
    seen = {}
    monkeypatch.setattr(model, "generate", lambda **given: seen.update(given) or given["input_ids"])
    chat.complete(model, tokenizer, ["# "], max_new_tokens=3, top_k=5)
    assert (seen["max_new_tokens"], seen["top_k"], seen["do_sample"]) == (3, 5, False)


def test_pairs_that_are_too_long_are_refused(tokenizer):
    rows = Dataset.from_list(
        [{"question": "Where?", "response": "Here."}, {"question": "Why? " * 60, "response": "So."}]
    )
    with pytest.raises(ValueError, match=r"tokens, the limit is 64: shorten it .*begins 'Why\? "):
        chat.encode_pairs(tokenizer, rows, max_length=64)
    assert len(chat.encode_pairs(tokenizer, rows, max_length=1000)) == 2


# ---- the mask made visible ----


def test_the_mask_view_frames_what_is_trained_on(tokenizer):
    example = chat.encode(tokenizer, [{"role": "user", "content": "<b>?"}, {"role": "assistant", "content": "7"}])
    view = chat.show_mask(tokenizer, example)
    assert repr(view).replace("[", "").replace("]", "") == tokenizer.decode(example["input_ids"]).replace("\n", "⏎")
    assert repr(view).endswith("[7][<|im_end|>]⏎") and repr(view).count("[") == 2
    html = view._repr_html_()
    assert "<b>" not in html and "&lt;" in html and html.count("font-weight:bold") == 2
    rows = chat.mask_table(tokenizer, example)
    assert len(rows) == len(example["input_ids"])
    assert [trained for _, _, trained in rows] == [label != chat.IGNORED for label in example["labels"]]


@pytest.mark.parametrize("text", ["很失望，鲈鱼不好吃", "a 鲈 b", "ok 😀!", "\ufffd"])
def test_a_character_of_several_tokens_is_shown_as_a_character(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    for labels in ([chat.IGNORED] * len(ids), ids):
        view = chat.show_mask(tokenizer, {"input_ids": ids, "labels": labels})
        assert repr(view).replace("[", "").replace("]", "") == text
        assert "".join(piece for piece, *_ in view.rows) == text
    rows = chat.mask_table(tokenizer, {"input_ids": ids, "labels": ids})
    assert len(rows) == len(ids) and [label for _, label, _ in rows] == ids
    assert any(piece.startswith("<") for piece, *_ in rows)  # else nothing was divided here
    assert all("\ufffd" not in piece for piece, *_ in rows)


def test_a_part_of_a_character_shows_its_bytes(tokenizer):
    ids = tokenizer("失")["input_ids"]
    pieces = [piece for piece, *_ in chat.mask_table(tokenizer, {"input_ids": ids, "labels": ids})]
    assert len(pieces) > 1 and "".join(pieces) == "<E5><A4><B1>"


def test_a_character_whose_last_token_alone_is_trained_on_stands_there(tokenizer):
    ids = tokenizer("失")["input_ids"]
    labels = [chat.IGNORED] * (len(ids) - 1) + ids[-1:]
    assert repr(chat.show_mask(tokenizer, {"input_ids": ids, "labels": labels})) == "<E5><A4>[失]"
