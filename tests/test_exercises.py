"""Exercises: three states, honest messages, and checkers whose bugs are not blamed on the learner."""

import numpy as np
import pytest
import torch

import demo_course
from tunelab import check, hint, solution, start
from tunelab.display import Quiet
from tunelab.exercises import Wrong, checker, expect_close, is_untouched


@pytest.fixture(autouse=True)
def course(tmp_path, monkeypatch, capsys):
    folder = demo_course.install(tmp_path, monkeypatch)
    start("01", "en")
    capsys.readouterr()
    return folder


def stub(alpha, r):
    """The stub as the builder writes it, with a line before the solution."""
    ratio = alpha / r  # noqa: F841
    ...


def unfinished(alpha, r):
    raise NotImplementedError("your turn")


class StubLayer:
    def __init__(self, factor): ...

    def forward(self, x): ...


class Layer(StubLayer):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("scale", (...,)),
        ("scale", (None,)),
        ("scale", (stub,)),
        ("scale", (unfinished,)),
        ("scale", (lambda alpha, r: ...,)),
        ("pair", (0, ...)),  # half done is not done
        ("pair", (0, [1.0, ...])),
        ("layer", (StubLayer,)),
    ],
)
def test_an_untouched_exercise_gets_a_friendly_line(name, answers, capsys):
    assert check(name, *answers) == "untouched"
    line = capsys.readouterr().out
    assert line.startswith("○") and "not filled in yet" in line and line.count("\n") == 1


def test_a_function_that_returns_in_some_cases_only_is_wrong(capsys):
    assert check("scale", lambda alpha, r: alpha / r if alpha > r else None) == "wrong"
    assert "every path must end in a return" in capsys.readouterr().out


@pytest.mark.parametrize("first", [0, False])
@pytest.mark.parametrize("second", [[1.0, 2.0], np.array([1, 2]), torch.tensor([1.0, 2.0], requires_grad=True)])
def test_right_answers_that_look_like_nothing_are_not_taken_for_untouched(first, second, capsys):
    assert check("pair", first, second) == "right"
    assert capsys.readouterr().out == "✓ A <pair>: right!\n"


def test_untouched_is_a_matter_of_identity():
    answers = [
        0,
        0.0,
        False,
        "",
        (),
        [],
        {},
        np.zeros(3),
        np.array(None),
        torch.zeros(2, 2),
        torch.tensor(0),
        {"a": None},
    ]
    assert not any(map(is_untouched, answers))
    assert is_untouched({"r": ...}) and is_untouched((1, ...))


def test_a_right_function_and_a_right_class_pass():
    assert check("scale", lambda alpha, r: alpha / r) == "right"
    assert check("layer", Layer) == "right"


def test_a_wrong_answer_says_what_is_wrong_in_the_readers_language(capsys):
    assert check("scale", lambda alpha, r: r / alpha) == "wrong"
    assert capsys.readouterr().out == "✗ Scale: alpha divided by r (got 0.5)\n"
    start("01", "zh")
    capsys.readouterr()
    check("scale", lambda alpha, r: r / alpha)
    assert capsys.readouterr().out == "✗ 缩放：alpha 除以 r（得到 0.5）\n"


def test_an_exception_in_the_learners_code_is_one_line_not_a_traceback(capsys):
    assert check("scale", lambda alpha, r: alpha / 0) == "wrong"
    assert capsys.readouterr().out == "✗ Scale: your code raised ZeroDivisionError: division by zero\n"
    assert check("scale", lambda alpha, r: torch.ones(2, 3) @ torch.ones(2, 3)) == "wrong"
    assert capsys.readouterr().out.count("\n") == 1
    assert check("scale", lambda alpha: alpha) == "wrong"  # wrong signature
    assert check("layer", lambda: None) == "wrong"


def test_a_broken_checker_raises_and_is_not_the_learners_fault():
    with pytest.raises(NameError, match="undefined_name"):
        check("broken", 1)
    with pytest.raises(TypeError, match="must raise Wrong or return nothing"):
        check("forgetful", 2)  # returning False would otherwise pass silently


def test_unknown_exercises_name_the_known_ones():
    with pytest.raises(LookupError, match=r"01_demo\.py has no checker for 'scal'.*scale, pair"):
        check("scal", 1)
    with pytest.raises(LookupError, match=r"'scal'.*scale, pair"):
        solution("scal")
    with pytest.raises(ValueError, match="registered twice"):
        checker("twice")(checker("twice")(lambda answer: None))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (2.1, "not the expected value (got 2.1)"),
        (float("nan"), "not the expected value (got nan)"),
        ("two", "a number or array is needed, this is str"),
        ("2.0", "a number or array is needed, this is str"),
        (["2.0"], "a number or array is needed, this is list"),
        ([2.0, 2.0], "the shape is (2,), it should be ()"),
    ],
)
def test_expect_close_explains_without_giving_the_answer_away(value, reason):
    with pytest.raises(Wrong) as wrong:
        expect_close(value, 2.0)
    assert str(wrong.value) == reason


def test_expect_close_takes_tensors_of_any_kind():
    expect_close(torch.ones(2, dtype=torch.bfloat16, requires_grad=True), [1, 1])
    expect_close(torch.tensor(1000.0), np.float32(1000.001), tol=1e-5)


def test_hint_and_solution_print_what_the_lesson_holds(capsys):
    hint("scale")
    assert capsys.readouterr().out == "Divide.\n"
    solution("scale")
    assert capsys.readouterr().out == "def scale(alpha, r):\n    return alpha / r  # the ratio\n"
    solution("pair")
    assert capsys.readouterr().out == "first = 0\nsecond = [1.0, 2.0]\n"


def test_the_state_is_silent_at_the_end_of_a_cell():
    assert isinstance(check("scale", ...), Quiet)
