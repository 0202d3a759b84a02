"""`make pretrain`: it resumes where it stopped, and what it writes can be loaded."""

import json
from dataclasses import replace

import pytest
import torch

import pretrain
import tiny
from tunelab import models


def trained(work, recipe):
    work.mkdir(exist_ok=True)
    tiny.tokenizer().save_pretrained(work / "tokenizer")
    pretrain.train(0, 1, recipe, work, amp=False)
    return torch.load(work / "checkpoint.pt", weights_only=True)


def test_a_run_in_two_parts_ends_where_an_unbroken_one_does(tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole", tiny.RECIPE)
    save, saves = torch.save, []

    def stop_after_the_first(*arguments):
        if saves:
            raise KeyboardInterrupt
        saves.append(save(*arguments))

    monkeypatch.setattr(torch, "save", stop_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", tiny.RECIPE)
    monkeypatch.setattr(torch, "save", save)
    parts = trained(tmp_path / "parts", tiny.RECIPE)
    assert whole["state"]["losses"] == pytest.approx(parts["state"]["losses"])
    assert all(torch.allclose(whole["model"][name], parts["model"][name]) for name in whole["model"])


def test_the_rate_rises_stays_and_falls_to_nothing():
    recipe = replace(tiny.RECIPE, steps=1000, warmup=10)
    rates = [pretrain.rate(step, recipe) for step in range(1000)]
    assert rates[0] == 0.1 and rates[10] == rates[500] == 1.0 and 0 < rates[999] < 0.01
    assert all(0 < rate <= 1 for rate in rates)


def test_what_is_published_can_be_loaded(tmp_path):
    work, target = tmp_path / "work", tmp_path / "model"
    trained(work, tiny.RECIPE)
    pretrain.publish(tiny.RECIPE, work, target, processes=1, amp=False)
    facts = json.loads((target / "training.json").read_text())
    assert facts["sha256"] in (target / "README.md").read_text()
    assert {"article (en)", "article (zh)"} <= set(facts["loss_by_kind"])
    model, tokenizer = models.load_lm(str(target))
    assert model.num_parameters() == facts["parameters"] and tokenizer.chat_template


def test_a_run_of_another_recipe_is_not_continued(tmp_path, monkeypatch, capsys):
    (tmp_path / "recipe.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["pretrain.py", "--work", str(tmp_path), "--processes", "1"])
    with pytest.raises(SystemExit):
        pretrain.main()
    assert "another recipe" in capsys.readouterr().err
