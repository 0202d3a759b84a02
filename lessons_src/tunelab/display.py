"""One output in several forms: HTML or a picture in a notebook, plain text everywhere else."""

import sys
import time
import unicodedata
from collections.abc import Mapping, Sequence
from html import escape


class Quiet:
    """Mixin for results whose line is already on the screen: as the last value of a cell they print nothing more."""

    def _ipython_display_(self) -> None:
        """Show nothing; IPython calls this in place of printing the value."""


class Verdict(Quiet, int):
    """True or False, equal to the bool."""

    def __repr__(self) -> str:
        return repr(bool(self))


def publish(bundle: Mapping[str, object], metadata: Mapping[str, object] | None = None) -> None:
    """Display one MIME bundle; it must hold "text/plain", which is all that a plain Python session prints."""
    ipython = sys.modules.get("IPython")  # a notebook has loaded it; nobody else should pay for the import
    if ipython is None or ipython.get_ipython() is None:
        print(bundle["text/plain"])
        return
    from IPython.display import display

    display(dict(bundle), metadata=dict(metadata or {}), raw=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Display a table of strings; the plain form counts a Chinese character as two columns."""
    widths = [max(_columns(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(_pad(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    head = "".join(f'<th style="text-align:left">{escape(cell)}</th>' for cell in header)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in row) + "</tr>" for row in rows
    )
    publish({"text/html": f"<table><tr>{head}</tr>{body}</table>", "text/plain": "\n".join(lines)})


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _columns(text))


class Progress:
    """One line that a notebook updates in place while something runs; in a terminal, the last line alone."""

    def __init__(self, steps: int, shown: bool = True):
        self.steps, self.shown, self.started, self.last, self.handle = steps, shown, time.perf_counter(), 0.0, None
        if shown and _in_notebook():
            from IPython.display import display

            self.handle = display(_Line(f"0/{steps}"), display_id=True)

    def update(self, step: int, text: str) -> None:
        """Show that `step` of the steps are done; at most twice a second."""
        now = time.perf_counter()
        if self.handle and now - self.last > 0.5:
            self.last, done = now, round(24 * step / self.steps)
            left = (now - self.started) / step * (self.steps - step)
            bar = "█" * done + "·" * (24 - done)
            self.handle.update(_Line(f"[{bar}] {step}/{self.steps} · {text} · {left:.0f} s"))

    def close(self, text: str) -> None:
        """Leave `text` in place of the bar."""
        if self.handle:
            self.handle.update(_Line(text))
        elif self.shown:
            print(text)


class _Line(str):
    """A string that is displayed without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None
