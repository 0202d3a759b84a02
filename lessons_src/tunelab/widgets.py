"""A slider over stored results: live in a running notebook, a picture on GitHub, in print and without ipywidgets."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

from tunelab.display import publish
from tunelab.figures import png_bundle, png_bytes


def slider(
    render: Callable[[Any], Figure | str], values: Sequence[Any], *, label: str, start: Any, alt: str = ""
) -> None:
    """Display what `render(value)` returns, with a slider over `values` (mouse or arrow keys).

    Each value is rendered once, when it is first chosen, and kept: coming back shows the same picture. The output also
    holds the rendering of `start`, which is what a viewer without a kernel shows; `alt` describes it. Raises ValueError
    when `start` is not among `values`.
    """
    values = list(values)
    if start not in values:
        raise ValueError(f"start={start!r} is not among the values of the slider: {values!r}.")
    stored: dict[int, bytes | str] = {}

    def rendering(index: int) -> bytes | str:
        if index not in stored:
            result = render(values[index])
            stored[index] = result if isinstance(result, str) else png_bytes(result)
        return stored[index]

    index = values.index(start)
    picture = rendering(index)
    if isinstance(picture, str):
        bundle = {"text/html": preformatted(picture), "text/plain": f"{label}: {start}\n{picture}"}
    else:
        bundle = png_bundle(picture, alt or f"{label}: {start}")
    publish(_live_view(rendering, values, label, index) | bundle)


def _live_view(rendering: Callable[[int], bytes | str], values: list[Any], label: str, index: int) -> dict[str, object]:
    """The widget's part of the bundle; empty without ipywidgets. Only what ipywidgets 7 has too (Colab)."""
    try:
        import ipywidgets
    except ImportError:
        return {}
    is_text = isinstance(rendering(index), str)
    if is_text:
        view = ipywidgets.HTML(value=preformatted(rendering(index)))
    else:  # without align_self a VBox stretches the picture to the page's width
        view = ipywidgets.Image(value=rendering(index), format="png", layout={"align_self": "flex-start"})
    control = ipywidgets.SelectionSlider(
        options=[(str(value), position) for position, value in enumerate(values)],
        value=index,
        description=label,
        style={"description_width": "initial"},
        layout={"width": "480px"},
    )

    def move(change: dict[str, Any]) -> None:
        view.value = preformatted(rendering(change["new"])) if is_text else rendering(change["new"])

    control.observe(move, names="value")
    box = ipywidgets.VBox([control, view])
    return view_of(box)


def view_of(box: Any) -> dict[str, object]:
    """A widget as a part of an output's bundle, which notebooks show in place of the picture beside it."""
    return {
        "application/vnd.jupyter.widget-view+json": {"model_id": box.model_id, "version_major": 2, "version_minor": 0}
    }


def preformatted(text: str) -> str:
    """HTML that keeps the lines of a text."""
    return f'<pre style="white-space: pre-wrap">{escape(text)}</pre>'
