"""Figures that read the same in both languages: style, fonts, a colour-blind-safe palette, a few plots, alt text."""

import base64
import functools
import io
import warnings
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tunelab.display import publish
from tunelab.paths import course_file
from tunelab.session import T, current

# Okabe and Ito (2008), the strong colours first: yellow is hard to see on white.
PALETTE = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "orange": "#E69F00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "black": "#000000",
    "yellow": "#F0E442",
}
_LINESTYLES = ["-", "--", "-.", ":"] * 2  # a second cue, for print and for eyes that see no hue


def use_course_style(lang: str = "en") -> None:
    """Set matplotlib's style and register the course's Chinese font; warn when lang is "zh" and there is none."""
    fonts = _course_fonts()
    if lang == "zh" and not fonts:
        warnings.warn(
            f"No font file in {course_file('assets', 'fonts')}: Chinese labels will show as boxes.", stacklevel=2
        )
    plt.rcParams.update(
        {
            "font.family": [*fonts, "DejaVu Sans"],  # this order: the reverse draws boxes in strings that hold $...$
            "figure.figsize": (6, 4),
            "figure.dpi": 80,  # a 6 x 4 in figure costs a notebook about 60 kB
            "figure.facecolor": "white",  # also on JupyterLab's dark theme
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": plt.cycler(color=list(PALETTE.values())) + plt.cycler(linestyle=_LINESTYLES),
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": "#DDDDDD",
            "grid.linewidth": 0.6,
            "legend.frameon": False,
        }
    )


def curve(ax: Axes, xs: Sequence[float], ys: Sequence[float], label: str, *, low=None, high=None, **style) -> Line2D:
    """Plot one curve, with a shaded band from `low` to `high` where both are given; return the line."""
    (line,) = ax.plot(xs, ys, label=label, **style)
    if low is not None and high is not None:
        ax.fill_between(xs, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    return line


def bars_with_intervals(
    ax: Axes,
    labels: Sequence[str],
    means: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    *,
    colours: Sequence[str] | None = None,
    number: str = "{:.0%}",
) -> None:
    """Horizontal bars, first label on top, each with its (low, high) interval and its mean written behind it."""
    rows, low, high = np.arange(len(labels)), *np.array(intervals, dtype=float).T
    errors = np.maximum([np.subtract(means, low), np.subtract(high, means)], 0)
    ax.barh(
        rows,
        means,
        xerr=errors,
        color=colours or PALETTE["blue"],
        height=0.6,
        capsize=4,
        error_kw={"ecolor": "#333333"},
    )
    for row, mean, end in zip(rows, means, np.maximum(means, high), strict=True):
        ax.annotate(number.format(mean), (end, row), xytext=(5, 0), textcoords="offset points", va="center")
    _label_rows(ax, labels)
    ax.margins(x=0.15)  # room for the numbers


def dot_on_band(
    ax: Axes,
    labels: Sequence[str],
    bands: Sequence[tuple[float, float]],
    dots: Sequence[float],
    *,
    band_label: str,
    dot_label: str,
) -> None:
    """One row a label: the (low, high) band of the stored seeds, and the value of this run as a dot on it."""
    rows, low, high = np.arange(len(labels)), *np.array(bands, dtype=float).T
    ax.hlines(rows, low, high, color=PALETTE["sky"], linewidth=12, label=band_label)
    ax.plot(dots, rows, "o", color=PALETTE["vermillion"], markeredgecolor="black", label=dot_label)
    _label_rows(ax, labels)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)  # above: it can hide no dot there


def show(fig: Figure, *, alt: str) -> None:
    """Display the figure as PNG with `alt` as its text form, and close it.

    A plain image output is what JupyterLab, GitHub and Colab all render; readers of the text form get `alt`.
    """
    _publish_png(png_bytes(fig), alt)


def diagram(name: str, *, alt: str | None = None) -> None:
    """Display assets/diagrams/NAME.LANG.png; alt text: `alt`, or the lesson .toml's [labels.diagram-NAME]."""
    file = course_file("assets", "diagrams", f"{name}.{current().lang}.png")
    if not file.is_file():
        known = ", ".join(sorted(other.name for other in file.parent.glob("*.png"))) or "none"
        raise FileNotFoundError(f"Diagram {file} does not exist. Diagrams there: {known}.")
    _publish_png(file.read_bytes(), alt or T(f"diagram-{name}"))


def png_bytes(fig: Figure) -> bytes:
    """The figure as PNG, the same bytes on every run; closes the figure, so that no cell shows it twice."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(fig)
    return buffer.getvalue()


def _publish_png(png: bytes, alt: str) -> None:
    if not alt.strip():
        raise ValueError(
            "The alt text is empty; say in a sentence what the picture shows, in both languages: alt=T(en=..., zh=...)."
        )
    publish(png_bundle(png, alt), metadata={"image/png": {"alt": alt}})


def png_bundle(png: bytes, alt: str) -> dict[str, object]:
    """MIME bundle of a picture and its text form."""
    return {"image/png": base64.b64encode(png).decode(), "text/plain": alt}


def _label_rows(ax: Axes, labels: Sequence[str]) -> None:
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)  # first label on top
    ax.grid(visible=False, axis="y")


@functools.cache  # addfont twice would list the font twice
def _course_fonts() -> tuple[str, ...]:
    """Names of the font files in assets/fonts, registered with matplotlib."""
    files = sorted(file for file in course_file("assets", "fonts").glob("*") if file.suffix in (".otf", ".ttf"))
    for file in files:
        font_manager.fontManager.addfont(file)
    return tuple(font_manager.FontProperties(fname=file).get_name() for file in files)
