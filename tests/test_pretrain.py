"""`make pretrain`: it resumes where it stopped, refuses a run of another recipe, and writes what can be loaded."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch

import pretrain
import tiny
from tunelab import models, session


class SmallRecipe:
    """Stands in for `pretrain.Recipe` in `main`: the tiny recipe, with the number of steps that was asked for."""

    steps = tiny.RECIPE.steps

    def __new__(cls, steps):
        return replace(tiny.RECIPE, steps=steps)


@pytest.fixture
def make_pretrain(tmp_path, monkeypatch):
    """The command, in this process, with a ready tokenizer. Returns the folder that it writes."""
    monkeypatch.setattr(pretrain, "Recipe", SmallRecipe)
    tokenizer = tiny.tokenizer()  # made before its maker is replaced
    monkeypatch.setattr(pretrain, "make_tokenizer", lambda recipe: tokenizer)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # the same arithmetic on every machine

    def run(name, *arguments):
        folders = ["--work", str(tmp_path / f"{name}-work"), "--target", str(tmp_path / name)]
        monkeypatch.setattr("sys.argv", ["pretrain.py", "--processes", "1", *folders, *arguments])
        pretrain.main()
        return tmp_path / name

    return run


def test_a_run_in_two_parts_ends_where_an_unbroken_one_does(make_pretrain, monkeypatch, capsys):
    monkeypatch.setattr(pretrain, "loss_by_kind", lambda *_, **__: {})  # tested below
    whole = make_pretrain("whole")
    capsys.readouterr()
    windows, calls = pretrain.windows, []

    def stop_in_the_second_block(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return windows(*arguments)

    monkeypatch.setattr(pretrain, "windows", stop_in_the_second_block)
    with pytest.raises(KeyboardInterrupt):
        make_pretrain("parts")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" · ")[0].split() for line in lines] == [["step", "2/6"]]
    parts = make_pretrain("parts")
    resumed = [line.split(" · ")[0].split() for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert resumed == [["step", "4/6"], ["step", "6/6"]]
    assert [call[3] for call in calls] == [32, 32, 32, 64]  # the last block has long windows
    facts = [json.loads((folder / "training.json").read_text(encoding="utf-8")) for folder in (whole, parts)]
    assert facts[0]["loss_by_block"] == facts[1]["loss_by_block"]
    assert facts[0]["sha256"] == facts[1]["sha256"]  # to the last bit
    again = make_pretrain("parts")  # nothing is left to do; it is published again
    assert json.loads((again / "training.json").read_text(encoding="utf-8"))["sha256"] == facts[0]["sha256"]


def test_a_run_of_another_recipe_is_not_continued(make_pretrain, tmp_path, monkeypatch, capsys):
    def reached(*_):
        raise AssertionError("the run went on")

    monkeypatch.setattr(pretrain, "train", reached)
    work = tmp_path / "model-work"
    work.mkdir()
    (work / "recipe.json").write_text('{"recipe": "another"}')
    with pytest.raises(SystemExit) as stopped:
        make_pretrain("model")
    assert stopped.value.code == 2
    assert (
        "model-work holds a run of another recipe or corpus: delete it, or name another folder"
        in capsys.readouterr().err
    )
    assert [file.name for file in work.iterdir()] == ["recipe.json"]
    (work / "recipe.json").unlink()
    with pytest.raises(AssertionError, match="the run went on"):
        make_pretrain("model")
    with pytest.raises(SystemExit):
        make_pretrain("model", "--steps", "8")  # the folder now belongs to a run of six


def test_processes_that_cannot_share_a_batch_are_refused(make_pretrain, capsys):
    with pytest.raises(SystemExit):
        make_pretrain("model", "--processes", "3")
    assert "--processes 3 does not divide half the batch of 4 windows" in capsys.readouterr().err


def test_what_is_published_can_be_loaded(make_pretrain, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "_current", None)
    before = models.registry()
    target = make_pretrain("model")
    names = {file.name for file in target.iterdir()}
    wanted = {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
        "training.json",
    }
    assert wanted <= names
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []
    digest = hashlib.sha256((target / "model.safetensors").read_bytes()).hexdigest()
    facts = json.loads((target / "training.json").read_text(encoding="utf-8"))
    card = (target / "README.md").read_text(encoding="utf-8")
    assert facts["sha256"] == digest and digest in card
    assert facts["tokens_seen"] == 6 * 4 * 32 and len(facts["loss_by_block"]) == 3
    assert {"article (en)", "article (zh)", "reading (en)"} <= set(facts["loss_by_kind"])
    assert all(0 < loss < 20 for loss in facts["loss_by_kind"].values())
    assert "| hidden | 32 |" in card and f"{facts['parameters']:,} parameters" in card
    model, tokenizer = models.load_lm(str(target))
    assert model.num_parameters() == facts["parameters"]
    checkpoint = torch.load(tmp_path / "model-work" / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(value, checkpoint[name]) for name, value in model.state_dict().items())
    assert tokenizer.chat_template == tiny.tokenizer().chat_template
    assert models.registry() == before  # a trial run elsewhere is no shipped model


def test_the_rate_rises_stays_and_falls_to_nothing():
    recipe = replace(tiny.RECIPE, steps=1000, warmup=10)
    rates = [pretrain.rate(step, recipe) for step in range(1000)]
    assert rates[0] == 0.1 and rates[10] == rates[500] == 1.0 and 0 < rates[999] < 0.01
    assert all(0 < rate <= 1 for rate in rates)


def test_the_tokenizer_reads_back_what_it_cuts_and_keeps_han_and_digits_apart():
    tokenizer = tiny.tokenizer()
    text = '# Heron Lake\n{"answer": "120元"} 白鹭湖，don\'t 😀<|im_end|>\n'
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert [tokenizer.decode([i]) for i in tokenizer("120元")["input_ids"]][:3] == ["1", "2", "0"]
    # The same pieces for a name wherever it stands, or a fact learnt in one sentence would not be known in the next.
    name, sentence = (tokenizer(text)["input_ids"] for text in ("白鹭湖", "我想去白鹭湖玩"))
    assert any(sentence[i : i + len(name)] == name for i in range(len(sentence)))
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
