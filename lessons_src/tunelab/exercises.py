"""The exercise engine: check -> hint -> solution, with three states: untouched, right, wrong.

A checker stands in `lessons_src/checks/NN_title.py`, takes the learner's answers and raises `Wrong` with the reason:

    @checker("scale")
    def _(scale):
        expect_close(scale(alpha=16, r=8), 2.0, en="alpha divided by r", zh="alpha 除以 r")

Functions among the answers arrive guarded: what they raise becomes a `Wrong`, and a result of None or `...` means
untouched (so an exercise function always returns its result). Anything else that escapes from a checker is a bug of the
checker, and is raised.
"""

import functools
import importlib.util
import inspect
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tunelab.display import Quiet, publish
from tunelab.paths import course_file
from tunelab.session import T, current

_registry: dict[str, dict[str, Callable[..., None]]] = {}  # module of the checks file -> exercise -> checker
_LOOKS = {"right": ("✓", "#009E73"), "wrong": ("✗", "#D55E00"), "untouched": ("○", "#888888")}


class Wrong(Exception):
    """The answer is not right, and why: `Wrong(en=..., zh=...)`, or one text for both languages."""

    def __init__(self, message: str = "", *, en: str = "", zh: str = ""):
        self.en, self.zh = en or message or zh, zh or message or en
        super().__init__(self.en)


class _Untouched(Exception):
    """The learner's code has not been filled in."""


class State(Quiet, str):
    """ "untouched", "right" or "wrong"; silent as the last value of a cell, where check() has displayed its line."""


def checker(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register the decorated function as the checker of exercise `name` of its lesson."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        checkers = _registry.setdefault(function.__module__, {})
        if name in checkers:
            raise ValueError(
                f"checker({name!r}) is registered twice in {function.__module__}; give each exercise one checker."
            )
        checkers[name] = function
        return function

    return register


def check(name: str, *answers: Any) -> State:
    """Check the answers to exercise `name`, display one line, return "untouched", "right" or "wrong".

    Never raises because of an answer; raises LookupError for an unknown exercise, and whatever a broken checker raises.
    """
    verify = _checker(name)
    try:
        if any(map(is_untouched, answers)):
            raise _Untouched
        if verify(*map(_guarded, answers)) is not None:
            raise TypeError(f"The checker of {name!r} returned a value; it must raise Wrong or return nothing.")
    except _Untouched:
        reason = T(
            en="not filled in yet. Put your answer in place of the ... and run the cell again "
            "(a function must return its result).",
            zh="还没有作答。请把 ... 换成你的答案，再运行一次（函数要用 return 返回结果）。",
        )
        return _report(name, State("untouched"), reason)
    except Wrong as wrong:
        return _report(name, State("wrong"), T(en=wrong.en, zh=wrong.zh))
    return _report(name, State("right"), T(en="right!", zh="正确！"))


def is_untouched(answer: Any) -> bool:
    """Whether an answer is still the stub: None or `...`, or a tuple, list or dict that holds a `...`.

    By identity only: 0, False, "", and arrays (which have no single truth value) are answers.
    """
    items = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, tuple | list) else ()
    return answer is None or answer is ... or any(item is ... for item in items)


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call the learner's code from a checker: an exception becomes `Wrong`, a result of None or `...` means untouched.

    Plain functions among the answers are guarded already; use this for classes, objects and their methods.
    """
    try:
        result = function(*args, **kwargs)
    except (Wrong, _Untouched):
        raise
    except NotImplementedError:
        raise _Untouched from None
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())  # torch writes several lines
        raise Wrong(en=f"your code raised {what}", zh=f"你的代码抛出了异常 {what}") from error
    if is_untouched(result):
        raise _Untouched
    return result


def expect_close(value: Any, expected: Any, tol: float = 1e-6, *, en: str = "", zh: str = "") -> None:
    """Raise `Wrong` unless `value` has the shape of `expected` and agrees within tol * (1 + |expected|).

    Takes numbers, arrays and tensors. en, zh: what is wrong, in words; the value found is added, the value expected is
    not given away.
    """
    if is_untouched(value):
        raise _Untouched
    target = _array(expected)
    try:
        found = _array(value)
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise Wrong(
            en=f"a number or array is needed, this is {kind}", zh=f"这里需要数字或数组，得到的是 {kind}"
        ) from None
    if found.shape != target.shape:
        raise Wrong(
            en=f"the shape is {found.shape}, it should be {target.shape}",
            zh=f"形状是 {found.shape}，应为 {target.shape}",
        )
    if not np.allclose(found, target, rtol=tol, atol=tol):
        got = f"{found:.6g}" if found.ndim == 0 else " ".join(np.array2string(found, precision=4, threshold=6).split())
        raise Wrong(en=f"{en or 'not the expected value'} (got {got})", zh=f"{zh or '与期望的值不同'}（得到 {got}）")


def hint(name: str) -> None:
    """Print the hint of exercise `name`."""
    print(current().say("exercises", name, "hint"))


def solution(name: str) -> None:
    """Print the solution of exercise `name`, from the lesson's source."""
    source = course_file("lessons", f"{current().lesson}.py")
    text = source.read_text(encoding="utf-8")
    cell = re.search(rf'^# %%.*\bexercise="{re.escape(name)}".*\n((?:(?!# %%).*\n?)*)', text, flags=re.MULTILINE)
    if cell is None:
        known = ", ".join(re.findall(r'^# %%.*\bexercise="([^"]+)"', text, flags=re.MULTILINE)) or "none"
        raise LookupError(f"{source.name} has no exercise {name!r}. Exercises: {known}.")
    markers = r"^[ \t]*# (solution[ \t]*|stub:.*)\n"  # the second kind is code of the stub alone
    print(re.sub(markers, "", cell[1], flags=re.MULTILINE).strip("\n"))


def _checker(name: str) -> Callable[..., None]:
    file = course_file("checks", f"{current().lesson}.py")
    checkers = _load(file)
    if name not in checkers:
        raise LookupError(f"{file.name} has no checker for {name!r}. Checkers: {', '.join(checkers) or 'none'}.")
    return checkers[name]


@functools.cache
def _load(file: Path) -> dict[str, Callable[..., None]]:
    module_name = f"tunelab_checks.{file}"
    _registry.pop(module_name, None)  # what an earlier, failed load left behind
    spec = importlib.util.spec_from_file_location(module_name, file)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return _registry.get(module_name, {})


def _guarded(answer: Any) -> Any:
    """A plain function that goes through `call`; every other answer as it is.

    A function that has returned something once has been filled in: None is then a wrong result.
    """
    if not inspect.isfunction(answer):
        return answer
    filled_in = False

    @functools.wraps(answer)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        nonlocal filled_in
        try:
            result = call(answer, *args, **kwargs)
        except _Untouched:
            if not filled_in:
                raise
            raise Wrong(
                en="your function returns nothing in one of the cases: every path must end in a return",
                zh="有一种情形下，你的函数什么也没有返回：每条路径都要用 return 返回结果",
            ) from None
        filled_in = True
        return result

    return guarded


def _array(value: Any) -> np.ndarray:
    """As float64; a tensor may need a gradient, live on a GPU or be bfloat16, which numpy does not know.

    Raises TypeError for text, which numpy would read as numbers.
    """
    array = np.asarray(value.detach().cpu().double() if hasattr(value, "detach") else value)
    if array.dtype.kind in "US":
        raise TypeError(f"text: {value!r}")
    return array.astype(float)


def _report(name: str, state: State, reason: str) -> State:
    sign, colour = _LOOKS[state]
    title = current().say("exercises", name, "title")
    style = f"border-left: 4px solid {colour}; padding: 4px 10px"
    colon = T(en=": ", zh="：")
    html = f'<div style="{style}">{sign} <b>{escape(title)}</b>{colon}{escape(reason)}</div>'
    publish({"text/html": html, "text/plain": f"{sign} {title}{colon}{reason}"})
    return state
