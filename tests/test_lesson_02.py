"""Lesson 02: the stored table belongs to the shipped base, and holds for every seed what the lesson says of it."""

import json
from types import SimpleNamespace

import pytest

from experiments import lesson_02, taught
from tunelab import data, metrics, models, paths, world

STORED = json.loads(paths.course_file("assets", "results", "lesson_02.json").read_text(encoding="utf-8"))
LEAD = 0.05  # over the baseline; stated before the runs
LEAD_OF_PLANS = 0.02  # ahead in all ten runs, but not always by what was stated


def test_the_table_belongs_to_the_shipped_base():
    assert STORED["base_sha256"] == models.registry()["travel-base"]["sha256"]
    assert {run["split"] for run in STORED["runs"] + STORED["minilm_runs"]} == {"test"}


@pytest.mark.parametrize("lang", world.LANGUAGES)
def test_there_are_five_seeds_of_each_language_and_of_minilm(lang):
    assert sorted(run["seed"] for run in STORED["runs"] if run["lang"] == lang) == list(range(5))
    assert sorted(run["seed"] for run in STORED["minilm_runs"]) == list(range(5))


@pytest.mark.parametrize("run", STORED["runs"], ids=lambda run: f"{run['lang']}-{run['seed']}")
def test_every_task_beats_its_baseline_on_generated_rows_and_two_on_rows_by_hand(run):
    for task, score in run["scores"].items():
        lead = LEAD_OF_PLANS if task == "generation" else LEAD
        assert score["generated"] - score["generated_baseline"] >= lead
    for task in ("entities", "dialogue"):
        assert run["scores"][task]["model"] - run["scores"][task]["baseline"] >= LEAD


@pytest.mark.parametrize("run", STORED["runs"], ids=lambda run: f"{run['lang']}-{run['seed']}")
def test_an_instruction_is_read_in_wordings_of_training_and_the_marks_do_not_show_it(run):
    known, bare = (metrics.mean(list(run[name].values())) for name in ("known", "bare"))
    assert known - bare <= 0.1
    trained, unseen = (metrics.mean(list(run["cross"][split].values())) for split in ("train", "test"))
    assert trained >= 0.65 and trained - unseen >= 0.1  # whoever looks at the text alone has one half at most
    assert run["kept"]["model"] <= 0.5


def test_the_summaries_are_those_of_the_runs():
    assert STORED["summary"] == lesson_02.summary(STORED["runs"])
    assert STORED["methods"] == lesson_02.methods(STORED["runs"])
    assert STORED["minilm"] == lesson_02.compared(STORED["minilm_runs"])


def test_minilm_is_ahead_of_bags_of_words_and_far_ahead_of_the_base():
    table = STORED["minilm"]
    ours = [run["scores"]["classification"]["model"] for run in STORED["runs"] if run["lang"] == "en"]
    assert table["lora_minus_bag_of_words"]["mean"] >= 0.02
    assert table["lora"]["mean"] - sum(ours) / len(ours) >= 0.1


def test_a_journal_keeps_runs_of_this_base_alone(tmp_path):
    journal = tmp_path / "runs.jsonl"
    assert lesson_02.finished(journal, "test") == {}
    mine = {"part": "lesson", "lang": "en", "seed": 0, "split": "test", "base_sha256": STORED["base_sha256"]}
    rows = [mine, mine | {"seed": 1, "base_sha256": "another"}, mine | {"seed": 2, "split": "dev"}]
    rows += [{"part": "minilm", "seed": 0, "split": "test", **lesson_02.MINILM}]
    rows += [{"part": "minilm", "seed": 1, "split": "test", **lesson_02.MINILM, "steps": 1}]
    journal.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert set(lesson_02.finished(journal, "test")) == {("en", 0), ("minilm", 0)}


@pytest.mark.parametrize("lang", world.LANGUAGES)
@pytest.mark.parametrize("task, inputs", [("entities", ["text"]), ("itineraries", ["request"])])
def test_held_out_rows_share_no_input_with_the_training_rows(task, inputs, lang):
    fresh = taught("02", ("input_of", "fresh"))["fresh"]
    fresh.__globals__.update(LANG=lang, course=SimpleNamespace(seed=0))
    trained_on = {tuple(row[name] for name in inputs) for row in data.load(task, lang, "train", seed=0)}
    drawn = data.load(task, lang, "train", size=60, seed=1000)
    held_out = fresh(task, 60)
    assert any(tuple(row[name] for name in inputs) in trained_on for row in drawn)  # the generator repeats itself
    assert 30 <= len(held_out) < 60
    assert not any(tuple(row[name] for name in inputs) in trained_on for row in held_out)
