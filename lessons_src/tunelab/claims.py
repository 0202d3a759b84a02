"""Claims: every number in the prose is checked by the cell below it and collected in a ledger."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tunelab.display import Verdict, table
from tunelab.session import Session, T, current

KINDS = ("exact", "measured", "article")


class ClaimError(AssertionError):
    """A claim that does not hold, where that must stop the run (CI, or TUNELAB_STRICT=1)."""


@dataclass(frozen=True)
class Record:
    """One line of the ledger."""

    name: str
    kind: str  # "exact" | "measured" | "article"
    statement: str
    measured: str
    bound: str
    value: Any
    expected: bool  # False: a statement of the article that is shown false
    holds: bool | None  # came out as expected; None: this profile is not judged


def claim(
    name: str,
    value: Any,
    *,
    between: tuple[float, float] | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    equals: Any = None,
    close_to: tuple[float, float] | None = None,
    expected: bool = True,
) -> bool:
    """Check `value` against exactly one bound, print one line, keep it in the ledger; return whether it passed.

    The statement stands in the lesson .toml under [claims.NAME]. close_to=(target, tolerance). expected=False: the
    article says so and it is false; the claim passes when the bound does not hold (NaN proves nothing, never passes).
    Raises ClaimError in strict runs when the claim fails, LookupError for an unknown name, TypeError or ValueError for
    bounds that make no sense.
    """
    session = current()
    entry = session.lookup("claims", name)
    kind, profiles = session.lookup("claims", name, "kind"), entry.get("profiles")
    if kind not in KINDS:
        raise ValueError(
            f"{session.lesson}.toml: [claims.{name}] kind is {kind!r}; it must be one of {', '.join(KINDS)}."
        )
    value = _plain(value)
    test = _Test(
        name, {"between": between, "at_least": at_least, "at_most": at_most, "equals": equals, "close_to": close_to}
    )
    held = test.holds(value)
    passed = held == expected and not _is_nan(value)
    judged = profiles is None or session.profile in profiles
    digits = test.telling_digits(value)
    record = Record(
        name=name,
        kind=kind,
        statement=session.say("claims", name),
        measured=_number(value, entry.get("unit"), digits),
        bound=test.describe(lambda number: _number(number, entry.get("unit"), digits)),
        value=value,
        expected=expected,
        holds=passed if judged else None,
    )
    session.ledger[name] = record  # a cell that runs again replaces its line
    line = _line(record, session)
    if record.holds is False:
        if _strict():
            raise ClaimError(f"{name}: {line}")
        line += "\n  " + T(
            en="If you changed something above, this is your experiment speaking. To see the course's own result, "
            "undo the change, restart the kernel and run all cells.",
            zh="如果你改动了上面的内容，这就是你的实验给出的结果。想看课程原来的结果：撤销改动，重启内核并运行所有单元格。",
        )
    print(line)
    return Verdict(passed)


def ledger() -> list[Record]:
    """The claims checked so far in this lesson, in order of first appearance."""
    return list(current().ledger.values())


def print_ledger() -> None:
    """Show the ledger as a table in the session's language."""
    header = T(en="|claim|kind|statement|measured|bound", zh="|断言|类别|陈述|实测|范围").split("|")
    table(header, [[_sign(r), r.name, _kind(r.kind), _statement(r), r.measured, r.bound] for r in ledger()])


class _Test:
    """The one bound that a claim gives."""

    def __init__(self, name: str, bounds: dict[str, Any]):
        given = {key: bound for key, bound in bounds.items() if bound is not None}
        if len(given) != 1:
            got = ", ".join(given) or "none"
            raise TypeError(f"claim({name!r}) needs exactly one of {', '.join(bounds)}; it has {got}.")
        ((self.kind, bound),) = given.items()
        self.name, self.bound = name, tuple(map(_plain, bound)) if isinstance(bound, tuple) else _plain(bound)
        if self.kind in ("between", "close_to") and not (isinstance(bound, tuple) and len(bound) == 2):
            raise TypeError(
                f"claim({name!r}): {self.kind} takes two numbers, such as {self.kind}=(0.1, 0.2); it has {bound!r}."
            )
        if self.kind == "between" and not bound[0] <= bound[1]:
            raise ValueError(
                f"claim({name!r}): between=({bound[0]}, {bound[1]}) is empty; give the smaller number first."
            )
        if self.kind == "close_to" and not bound[1] >= 0:
            raise ValueError(
                f"claim({name!r}): the tolerance in close_to=(target, tolerance) is {bound[1]}; it cannot be negative."
            )

    def holds(self, value: Any, convert: Callable[[Any], Any] = lambda number: number) -> bool:
        """Whether the bound holds, with every number passed through `convert` first."""
        if self.kind != "equals" and not isinstance(value, int | float):
            raise TypeError(
                f"claim({self.name!r}): {self.kind} compares one number; the value is {type(value).__name__} {value!r}."
            )
        value = convert(value)
        bound = tuple(map(convert, self.bound)) if self.kind in ("between", "close_to") else convert(self.bound)
        match self.kind:
            case "between":
                return bound[0] <= value <= bound[1]
            case "at_least":
                return value >= bound
            case "at_most":
                return value <= bound
            case "close_to":
                return abs(value - bound[0]) <= bound[1]
        return value == bound

    def telling_digits(self, value: Any) -> int:
        """As few digits, from 4, as show the same verdict: "measured 90%, at least 90%" must not read as a failure."""
        truth = self.holds(value)
        for digits in (4, 6, 9):
            if self.holds(value, lambda number, digits=digits: _rounded(number, digits)) == truth:
                return digits
        return 17

    def describe(self, show: Callable[[Any], str]) -> str:
        match self.kind:
            case "between":
                return T(en="{} to {}", zh="{} 至 {}").format(show(self.bound[0]), show(self.bound[1]))
            case "at_least":
                return T(en="at least {}", zh="至少 {}").format(show(self.bound))
            case "at_most":
                return T(en="at most {}", zh="至多 {}").format(show(self.bound))
            case "close_to":
                return f"{show(self.bound[0])} ± {show(self.bound[1])}"
        return T(en="exactly {}", zh="恰为 {}").format(show(self.bound))


def _plain(value: Any) -> Any:
    """Numpy and torch values as Python numbers and lists, so that comparisons have one truth value."""
    return value.tolist() if hasattr(value, "tolist") else value


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _rounded(number: Any, digits: int) -> Any:
    return float(f"{number:.{digits}g}") if isinstance(number, float) else number


def _number(value: Any, unit: str | None, digits: int) -> str:
    """Integers in full, floats with `digits` significant digits; unit "%" multiplies by 100, "x" marks a ratio."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if unit == "%":
        return f"{_float(100 * value, digits)}%"
    text = f"{value:,}" if isinstance(value, int) else _float(value, digits)
    return text + (unit if unit == "x" else f" {unit}" if unit else "")


def _float(value: float, digits: int) -> str:
    shown = float(f"{value:.{digits}g}")
    if 10**digits <= abs(shown) < 1e15:
        return f"{shown:,.0f}"  # 123,500 rather than 1.235e+05
    return f"{shown:.{digits}g}"


def _strict() -> bool:
    setting = os.environ.get("TUNELAB_STRICT") or os.environ.get("CI", "")
    return setting.lower() in ("1", "true")


def _sign(record: Record) -> str:
    return {True: "✓", False: "✗", None: "○"}[record.holds]


def _kind(kind: str) -> str:
    return T(en=kind, zh={"exact": "精确", "measured": "测量", "article": "文章"}[kind])


def _statement(record: Record) -> str:
    if record.expected:
        return record.statement
    refuted = record.holds is True
    return T(
        en=f'the article says "{record.statement}"' + " — not so" * refuted,
        zh=f"文章说“{record.statement}”" + "——并非如此" * refuted,
    )


def _line(record: Record, session: Session) -> str:
    word = T(en="computed", zh="计算值") if record.kind == "exact" else T(en="measured", zh="实测")
    measured = f"{_sign(record)} {_statement(record)} · {word} {record.measured}"
    if record.holds is None:
        return f"{measured} · " + T(en="not judged here", zh="此处不作判断") + f" ({session.profile})"
    return f"{measured} · " + T(en="bound", zh="范围") + f" {record.bound}"
