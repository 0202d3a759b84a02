"""`make pretrain-family`: siblings that differ in nothing but what they say, with the base's tokenizer, all loadable."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForMaskedLM, AutoTokenizer

import pretrain
from tunelab import corpus, models, paths, session

TEXTS = ('# Heron Lake\n{"answer": "120元"} don\'t 😀<|im_end|>\n', "白鹭湖的门票多少钱？", "The ferry leaves at 9:30.")
# What each may differ in from ``large``.
SAID = {
    "small": {"hidden", "layers", "intermediate"},
    "medium": {"hidden", "layers", "intermediate"},
    "large": set(),
    "no-reviews": {"without"},
    "encoder": {"masked", "intermediate"},
}


@pytest.fixture(autouse=True)
def no_session(monkeypatch):
    monkeypatch.setattr(session, "_current", None)


def folder(name):
    return paths.course_file("assets", "models", "travel-family", name)


def facts_of(name):
    return json.loads((folder(name) / "training.json").read_text(encoding="utf-8"))


def test_the_recipes_differ_in_nothing_but_what_they_say():
    assert set(pretrain.FAMILY) == set(SAID)
    large = asdict(pretrain.FAMILY["large"])
    for name, recipe in pretrain.FAMILY.items():
        assert {key for key, value in asdict(recipe).items() if value != large[key]} == SAID[name], name
    base = pretrain.Recipe()
    same = ("vocabulary", "window", "batch", "long_share", "muon_rate", "adamw_rate", "warmup", "seed", "heads")
    assert all(large[key] == getattr(base, key) for key in same)
    # The base's own recipe, and with it the check of its checkpoints, knows nothing of what siblings may do.
    assert not {"without", "masked", "stored"} & set(asdict(base))
    assert (base.without, base.masked, base.stored) == ((), 0.0, "float32")


def test_the_makefile_names_all_members():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^FAMILY = (.*)$", makefile, re.M)[1].split() == list(pretrain.FAMILY)


@pytest.mark.parametrize("name", SAID)
def test_a_shipped_member_is_the_published_one(name):
    entry, facts, recipe = models.registry()[f"travel-family/{name}"], facts_of(name), pretrain.FAMILY[name]
    assert facts["sha256"] == entry["sha256"]
    assert facts["recipe"] == json.loads(json.dumps(asdict(recipe)))
    assert facts["tokens_seen"] == recipe.steps * recipe.batch * recipe.window == facts_of("large")["tokens_seen"]
    model, tokenizer = (models.load_encoder if recipe.masked else models.load_lm)(f"travel-family/{name}")
    assert model.dtype == torch.float32 and model.config.hidden_size == recipe.hidden
    if not recipe.masked:
        assert model.num_parameters() == facts["parameters"]
    with safe_open(folder(name) / "model.safetensors", "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}
    base = AutoTokenizer.from_pretrained(paths.course_file("assets", "models", "travel-base"))
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == base(text)["input_ids"] and base.decode(base(text)["input_ids"]) == text
    assert tokenizer.chat_template == base.chat_template
    assert len(tokenizer) - len(base) == bool(recipe.masked)
    if recipe.masked:
        assert tokenizer.mask_token_id == len(base)  # behind all others


def test_the_family_is_small_and_has_a_card():
    files = [file for file in folder("").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 6_000_000
    card = (folder("") / "README.md").read_text(encoding="utf-8")
    for name in SAID:
        assert name in card and facts_of(name)["sha256"][:12] in card and f"{facts_of(name)['parameters']:,}" in card
    encoder, decoder = facts_of("encoder")["parameters"], facts_of("large")["parameters"]
    assert abs(encoder - decoder) < 0.03 * decoder


def test_a_decoder_looks_back_and_an_encoder_both_ways():
    ids = torch.arange(10, 22).view(1, -1)
    other = ids.clone()
    other[0, -1] = 99  # the last token is another one
    for name in ("large", "encoder"):
        model = pretrain.make_model(pretrain.FAMILY[name]).eval()
        with torch.no_grad():
            moved = (model(input_ids=ids).logits - model(input_ids=other).logits)[0, :-1].abs().max()
        assert (moved > 1e-4) == (name == "encoder")


def test_the_shipped_encoder_uses_what_stands_behind_a_mask():
    model = AutoModelForMaskedLM.from_pretrained(models.locate("travel-family/encoder")[0], dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(models.locate("travel-family/encoder")[0])
    stream, losses = corpus.documents(-2), {"both": [], "left": []}
    with torch.no_grad():
        for _ in range(60):
            ids = tokenizer(next(stream)[2], return_tensors="pt")["input_ids"][:, :120]
            place = ids.shape[1] // 2
            hidden = ids.clone()
            hidden[0, place] = tokenizer.mask_token_id
            for name, seen in (("both", hidden), ("left", hidden[:, : place + 1])):
                logits = model(input_ids=seen).logits[0, place]
                losses[name].append(torch.nn.functional.cross_entropy(logits, ids[0, place]).item())
    assert sum(losses["both"]) < sum(losses["left"])


def test_documents_that_are_left_out_make_room_for_others():
    tokenizer = pretrain.sibling_tokenizer(pretrain.FAMILY["large"])
    texts = {}
    for kind, _, text in (next(stream) for stream in [corpus.documents(7)] for _ in range(1200)):
        texts.setdefault(kind == "review", []).append(text)
    rows = {without: pretrain.windows(tokenizer, 7, 400, 64, without) for without in ((), ("review",))}
    assert rows[()].shape == rows["review",].shape == (400, 64)
    read = {without: tokenizer.decode(ids.flatten()) for without, ids in rows.items()}
    assert [t for t in texts[True] if t in read[()]] and not [t for t in texts[True] if t in read["review",]]
    assert [t for t in texts[False] if t in read["review",]][:10] == [t for t in texts[False] if t in read[()]][:10]


def test_masked_tokens_are_the_labels_and_the_others_are_seen():
    ids = torch.randint(0, 2560, (64, 128), generator=torch.Generator().manual_seed(0))
    given = pretrain.masked(ids, 0.3, 2560, seed=5)
    hidden = given["input_ids"] == 2560
    assert 0.28 < hidden.float().mean() < 0.32
    assert torch.equal(given["labels"][hidden], ids[hidden]) and (given["labels"][~hidden] == -100).all()
    assert torch.equal(given["input_ids"][~hidden], ids[~hidden])
    assert torch.equal(pretrain.masked(ids, 0.3, 2560, seed=5)["input_ids"], given["input_ids"])


@pytest.mark.parametrize("name", ["small", "encoder"])
def test_a_trial_run_elsewhere_can_be_loaded_and_is_no_shipped_model(name, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "loss_by_kind", lambda *_, **__: {"article (en)": 7.0})
    recipe = replace(pretrain.FAMILY[name], hidden=16, layers=1, intermediate=16, window=32, batch=4)
    monkeypatch.setitem(pretrain.FAMILY, name, recipe)
    target, before = tmp_path / "family" / name, models.registry()
    target.parent.mkdir()
    arguments = ["--sibling", name, "--steps", "2", "--work", str(tmp_path / "work"), "--target", str(target)]
    monkeypatch.setattr("sys.argv", ["pretrain.py", *arguments])
    pretrain.main()
    model, tokenizer = (models.load_encoder if recipe.masked else models.load_lm)(str(target))
    assert model.config.hidden_size == 16 and (tokenizer.mask_token == "[MASK]") == bool(recipe.masked)
    assert f"| hidden | {16} |" in (target.parent / "README.md").read_text(encoding="utf-8")
    assert models.registry() == before
