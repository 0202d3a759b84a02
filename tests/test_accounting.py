"""The bill: parameter counts against the published ones, and memory against tensors that really exist."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch.profiler import ProfilerActivity, profile
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

import tiny
from tunelab import accounting
from tunelab.paths import course_file


@pytest.mark.parametrize("name", accounting.published())
def test_every_published_model_can_be_built_and_has_its_published_size(name):
    model = accounting.skeleton(name)
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    expected = accounting.published()[name].get("params")
    if expected is not None:
        assert accounting.count(model).total == expected


def test_an_unknown_model_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no dimensions for the model 'qwen-99b'; choose one of bert-base-uncased, "):
        accounting.skeleton("qwen-99b")


def test_notes_in_the_file_are_no_models():
    file = json.loads(course_file("assets", "models", "model_configs.json").read_text(encoding="utf-8"))
    assert set(accounting.published()) == {name for name in file if name[0] != "_"}


def test_lora_is_counted_as_peft_counts_it():
    model = tiny.model()
    shapes = [module.weight.shape for module in model.model.modules() if isinstance(module, torch.nn.Linear)]
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    count = accounting.count(tuned)
    assert count.trained == accounting.lora_parameters(shapes, 4) == tuned.get_nb_trainable_parameters()[0]
    assert count.share == pytest.approx(count.trained / count.total)


@pytest.mark.parametrize(
    ("rank", "words"), [(0, "trains nothing"), (-1, "trains nothing"), (5, "6 x 4 weight.*rank 4")]
)
def test_a_rank_that_makes_no_sense_is_refused(rank, words):
    with pytest.raises(ValueError, match=words):
        accounting.lora_parameters([(8, 8), (6, 4)], rank)


def test_bytes_on_disk_are_those_of_a_real_file(tmp_path):
    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        file = tmp_path / f"{name}.safetensors"
        save_file({f"w{i}": torch.zeros(100, 100, dtype=dtype) for i in range(5)}, file)
        assert 0 < file.stat().st_size - accounting.bytes_on_disk(50_000, name) < 5 * 100


def real_bytes(model):
    """Weights, gradients and AdamW's states after one step."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    ids = torch.arange(8)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    return [sum(t.nbytes for t in tensors) for tensors in (model.parameters(), [p.grad for p in trained], states)]


@pytest.mark.parametrize("lora", [False, True])
def test_the_prediction_is_what_torch_allocates(lora):
    model = tiny.model()
    if lora:
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    predicted = accounting.training_memory(model)
    assert [predicted.weights, predicted.gradients, predicted.optimizer] == real_bytes(model)
    assert predicted.total == sum(real_bytes(model))


def test_mixed_precision_adamw_takes_sixteen_bytes_a_parameter():
    model = accounting.skeleton("qwen2.5-7b")
    for trained in ("mixed", "fp32"):
        memory = accounting.training_memory(model, trained=trained)
        assert memory.total == 16 * accounting.count(model).total
    assert accounting.training_memory(model, trained="mixed", devices=8).total == memory.total / 8
    assert accounting.training_memory(model, trained="mixed", optimizer="sgd").optimizer == 0


def test_four_bits_are_for_linear_layers_alone():
    model = accounting.skeleton("qwen2.5-7b").requires_grad_(False)
    outside = 2 * 152064 * 3584  # embedding and head are not tied
    small = sum(
        p.numel() for n, p in model.named_parameters() if n.endswith(("bias", "norm.weight")) or "layernorm" in n
    )
    linear = accounting.count(model).total - outside - small
    expected = linear * accounting.BYTES["nf4"] + 2 * (outside + small)
    assert accounting.training_memory(model, frozen="nf4").total == pytest.approx(expected)
    assert accounting.BYTES["nf4"] * 8 == pytest.approx(4.127, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"frozen": "fp8"}, "dtype 'fp8' is not known; choose one of fp32"),
        ({"optimizer": "lion"}, "optimizer 'lion' is not known"),
        ({"trained": "bf16"}, "choose 'fp32' or 'mixed'"),
        ({"devices": 0}, "at least one"),
    ],
)
def test_unknown_settings_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        accounting.training_memory(tiny.model(), **settings)


# ---- the peak of a step, against the log of torch's allocator ----

SHAPE = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
GROUPED = SHAPE | {"vocab_size": 700, "num_key_value_heads": 2, "pad_token_id": 0}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MAKE = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=32, tie_word_embeddings=True)),
    "qwen3-classifier": lambda: Qwen3ForSequenceClassification(Qwen3Config(**GROUPED, head_dim=32)),
    "bert": lambda: BertForSequenceClassification(BertConfig(vocab_size=700, **SHAPE, **NO_DROPOUT)),
}


def trainable(model, method):
    """The model with what `method` trains."""
    if method == "head":
        for name, weight in model.named_parameters():
            weight.requires_grad = name.startswith(("score", "classifier"))
    elif method == "last block":
        for name, weight in model.named_parameters():
            weight.requires_grad = ".2." in name
    elif method != "full":
        few = ["q_proj", "v_proj"] if hasattr(model.config, "num_key_value_heads") else ["query", "value"]
        targets = few if method == "lora q, v" else "all-linear"
        exclude = ["score", "classifier"] if model.get_output_embeddings() is None else None
        model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, exclude_modules=exclude))
    return model.train()


def real_peak(model, rows, tokens, autocast=False):
    """The most that torch's allocator has given out in a second training step, with what was there before it."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    ids = torch.randint(5, 500, (rows, tokens))
    labels = ids if model.get_output_embeddings() is not None else torch.zeros(rows, dtype=torch.long)

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        step()
    events = [event for event in log.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most + sum(tensor.nbytes for tensor in [*model.parameters(), *states])


METHODS = ("full", "lora", "lora q, v", "last block")
CASES = [(name, method, 8, 64) for name in ("qwen2", "qwen3", "bert") for method in METHODS]
CASES += [(name, "head", 8, 64) for name in ("qwen3-classifier", "bert")]
CASES += [(name, "full", *shape) for name in ("llama", "bert") for shape in ((1, 16), (2, 256))]


@pytest.mark.parametrize(("name", "method", "rows", "tokens"), CASES)
def test_the_peak_is_predicted_within_a_tenth(name, method, rows, tokens):
    model = trainable(MAKE[name](), method)
    predicted = accounting.training_memory(model, batch=rows, length=tokens).peak
    assert predicted == pytest.approx(real_peak(model, rows, tokens), rel=0.1)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_adapters_on_a_bf16_base_are_predicted_too(name):
    model = trainable(MAKE[name]().to(torch.bfloat16), "lora")  # peft keeps the adapters in fp32
    predicted = accounting.training_memory(model, frozen="bf16", batch=8, length=64).peak
    assert predicted == pytest.approx(real_peak(model, 8, 64, autocast=True), rel=0.1)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("method", ["full", "lora"])
def test_checkpointing_is_predicted_too(method):
    model = MAKE["qwen3"]()
    model.config.use_cache = False
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = trainable(model, method)
    predicted = accounting.training_memory(model, batch=8, length=64, checkpointing=True).peak
    assert predicted == pytest.approx(real_peak(model, 8, 64), rel=0.1)


def test_eager_attention_keeps_a_matrix_a_head():
    model = accounting.skeleton("qwen2.5-7b")
    fused, eager = (accounting.activation_memory(model, 2, 1024, eager=eager) for eager in (False, True))
    assert eager - fused == 2 * 28 * 28 * 1024**2 * 4  # rows, blocks, heads, length x length, fp32


def test_activations_are_counted_only_with_a_batch():
    model = tiny.model()
    without, with_batch = (accounting.training_memory(model, **shape) for shape in ({}, {"batch": 2, "length": 8}))
    assert without.activations == 0 < with_batch.activations
    assert with_batch.total == without.total + with_batch.activations
    assert with_batch.activations == accounting.activation_memory(model, 2, 8)
