"""Each exercise of each lesson: silent when untouched, content with the solution, not to be had with a wrong answer."""

import ast
import importlib.util
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

import build_cells
from tunelab import check, hint, paths, session, solution, start

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(paths.course_file("lessons").glob("[0-9][0-9]_*.py"))
# What a solution computes from the state of the notebook, for a test that asks the checker alone; in that state
# `python lessons_src/build.py --solutions DIR` runs them in it.
TRAINED = {("01", "best_rate"): 1e-3, ("00", "easiest_topic"): "region"}


@cache
def lesson(source: Path) -> build_cells.Lesson:
    # Not read_lesson: prose that is out of step is another test's business.
    texts = tomllib.loads(source.with_suffix(".toml").read_text(encoding="utf-8"))
    cells = build_cells.parse(source.read_text(encoding="utf-8"), source.name)
    return build_cells.Lesson(source.stem, source.name, cells, texts)


@cache
def wrong_answers(number: str) -> dict[str, list[tuple[str, object]]]:
    spec = importlib.util.spec_from_file_location(f"wrong_{number}", ROOT / "tests" / "wrong_answers" / f"{number}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG


def parts(source: Path, name: str) -> build_cells.Exercise:
    (cell,) = [cell for cell in lesson(source).cells if cell.keys.get("exercise") == name]
    return build_cells.split_exercise(lesson(source), cell)


def answers(source: Path, code: str, args: list[str]) -> list[object]:
    """What `code` gives to be checked, run with the imports of the lesson and nothing else of it."""
    scope: dict[str, object] = {}
    for cell in lesson(source).cells:
        if cell.kind == "code":
            wanted = [node for node in ast.parse(cell.text).body if isinstance(node, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(wanted, []), source.name, "exec"), scope)
    exec(code, scope)
    return [scope[arg] for arg in args]


def judged(capsys, name: str, *given: object) -> tuple[str, str]:
    """The state and the line that was shown."""
    capsys.readouterr()
    state = check(name, *given)
    return str(state), capsys.readouterr().out


@pytest.fixture(autouse=True)
def no_session(monkeypatch):
    monkeypatch.setattr(session, "_current", None)


EXERCISES = [
    pytest.param(source, name, id=f"{source.stem[:2]}-{name}")
    for source in SOURCES
    for name in lesson(source).texts.get("exercises", {})
]
each_exercise = pytest.mark.parametrize(("source", "name"), EXERCISES)
each_language = pytest.mark.parametrize("lang", ["en", "zh"])


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem[:2])
def test_every_exercise_has_planted_wrong_answers_and_every_lesson_has_exercises(source):
    names = list(lesson(source).texts.get("exercises", {}))
    assert len(names) >= 3
    planted = wrong_answers(source.stem[:2])
    assert set(planted) == set(names)
    assert {name: len(planted[name]) for name in names if len(planted[name]) < 3} == {}


@each_language
@each_exercise
def test_the_untouched_stub_gets_a_friendly_line(source, name, lang, capsys):
    start(source.stem, lang)
    stub, _, args = parts(source, name)
    state, line = judged(capsys, name, *answers(source, stub, args))
    assert state == "untouched" and line.startswith("○") and line.count("\n") == 1
    assert judged(capsys, name, *[...] * len(args))[0] == "untouched"


@each_exercise
def test_the_solution_is_right(source, name, capsys):
    start(source.stem, "en")
    _, code, args = parts(source, name)
    trained = TRAINED.get((source.stem[:2], name))
    given = answers(source, code, args) if trained is None else [trained]
    assert judged(capsys, name, *given)[0] == "right"


@each_language
@each_exercise
def test_every_planted_wrong_answer_is_refused_with_a_reason(source, name, lang, capsys):
    start(source.stem, lang)
    for why, answer in wrong_answers(source.stem[:2])[name]:
        given = answer if len(parts(source, name).args) > 1 else (answer,)
        state, line = judged(capsys, name, *given)
        assert state == "wrong", f"accepted: {why}"
        title = lesson(source).text(lang, "exercises", name, "title")
        reason = line.removeprefix(f"✗ {title}{'：' if lang == 'zh' else ': '}").strip()
        assert len(reason) > 5 and reason != line.strip(), f"refused without a reason: {why}"
        assert bool(re.search(r"[\u4e00-\u9fff]", reason)) == (lang == "zh"), f"not in {lang}: {reason}"


@each_language
@each_exercise
def test_every_exercise_has_a_hint_and_shows_its_solution(source, name, lang, capsys):
    start(source.stem, lang)
    capsys.readouterr()
    hint(name)
    assert capsys.readouterr().out.strip() == lesson(source).text(lang, "exercises", name, "hint")
    solution(name)
    assert capsys.readouterr().out.strip() == parts(source, name).solution.strip()
