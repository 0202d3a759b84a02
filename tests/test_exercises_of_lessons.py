"""Each exercise of each lesson: silent when untouched, content with the solution, and not to be had with wrong answers."""

import importlib.util
import inspect
from pathlib import Path

import pytest

from tunelab import check, hint, solution, start
from tunelab.paths import course_file

LESSONS = sorted(file.stem for file in course_file("lessons").glob("[0-9][0-9]_*.py"))
# What a solution computes by training, for the test that only asks the checker; `make solutions` runs the training.
TRAINED = {("01", "best_rate"): 1e-3}


def wrong_answers(number):
    file = Path(__file__).parent / "wrong_answers" / f"{number}.py"
    spec = importlib.util.spec_from_file_location(f"wrong_answers_{number}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG


def exercises():
    for stem in LESSONS:
        for name in start(stem, "en").text["exercises"]:
            yield pytest.param(stem, name, id=f"{stem[:2]}-{name}")


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize(("stem", "name"), exercises())
def test_three_states(stem, name, lang, capsys):
    start(stem, lang)
    assert check(name, ...) == "untouched"
    assert check(name, lambda *_, **__: ...) in ("untouched", "wrong")

    capsys.readouterr()
    hint(name)
    solution(name)
    shown = capsys.readouterr().out
    assert shown.strip() and name in shown
    if (answer := TRAINED.get((stem[:2], name))) is None:
        scope = {"exp": __import__("math").exp}
        exec(inspect.cleandoc(shown[shown.index("def ") :]), scope)  # what follows the hint and a cell's comments
        answer = scope[name]
    assert check(name, answer) == "right"

    planted = wrong_answers(stem[:2])[name]
    assert len(planted) >= 3
    for why, wrong in planted:
        capsys.readouterr()
        assert check(name, wrong) == "wrong", f"{name} accepts: {why}"
        line = capsys.readouterr().out
        assert len(line.split(":", 1)[-1].strip()) > 10, f"{name} refuses {why!r} without a reason: {line}"


@pytest.mark.parametrize("stem", LESSONS)
def test_every_exercise_has_planted_wrong_answers(stem):
    assert set(wrong_answers(stem[:2])) == set(start(stem, "en").text["exercises"])


@pytest.mark.parametrize("stem", LESSONS)
def test_there_are_enough_exercises_and_questions(stem):
    text = start(stem, "zh").text
    assert len(text["exercises"]) >= 3 and 4 <= len(text["quiz"]) <= 6
