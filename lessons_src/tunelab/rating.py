"""A rating sheet: one item after the other is marked; a picture of the marks where no kernel runs."""

from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from tunelab.display import publish
from tunelab.figures import png_bundle, png_bytes
from tunelab.session import T
from tunelab.widgets import preformatted, view_of


def sheet(
    items: Sequence[str],
    choices: Sequence[int],
    render: Callable[[list[int]], Figure],
    *,
    note: str = "",
    alt: str,
) -> list[int]:
    """Display the items one by one with a button for each mark, and what `render(marks)` draws of the marks so far.

    Returns the list of marks, empty at first, which grows with each click: marks[i] is that of items[i]. The output also
    holds `render([])`, which is what a viewer without a kernel shows; `alt` describes it, `note` is the rubric above the
    items. Raises ValueError without an item or with fewer than two choices.
    """
    if not items or len(choices) < 2:
        raise ValueError(
            f"{len(items)} items and {len(choices)} choices: a sheet needs an item and two marks at least."
        )
    marks: list[int] = []
    picture = png_bytes(render(marks))
    bundle = png_bundle(picture, alt)
    publish(_live_view(items, choices, render, marks, note, picture) | bundle, {"image/png": {"alt": alt}})
    return marks


def _live_view(
    items: Sequence[str],
    choices: Sequence[int],
    render: Callable[[list[int]], Figure],
    marks: list[int],
    note: str,
    picture: bytes,
) -> dict[str, object]:
    """The widget's part of the bundle; empty without ipywidgets. Only what ipywidgets 7 has too (Colab)."""
    try:
        import ipywidgets
    except ImportError:
        return {}
    card = ipywidgets.HTML(value=_card(items, marks))
    view = ipywidgets.Image(value=picture, format="png", layout={"align_self": "flex-start"})
    buttons = [ipywidgets.Button(description=str(choice), layout={"width": "48px"}) for choice in choices]
    back = ipywidgets.Button(description="←", layout={"width": "48px"})

    def redraw() -> None:
        card.value, view.value = _card(items, marks), png_bytes(render(marks))
        for button in buttons:
            button.disabled = len(marks) == len(items)

    def mark(choice: int) -> None:
        if len(marks) < len(items):
            marks.append(choice)
            redraw()

    def undo(_: object) -> None:
        if marks:
            marks.pop()
            redraw()

    for button, choice in zip(buttons, choices, strict=True):
        button.on_click(lambda _, choice=choice: mark(choice))
    back.on_click(undo)
    box = ipywidgets.VBox([ipywidgets.HTML(value=preformatted(note)), card, ipywidgets.HBox([back, *buttons]), view])
    return view_of(box)


def _card(items: Sequence[str], marks: list[int]) -> str:
    """The next item with its number, or a word that all are marked."""
    if len(marks) == len(items):
        return preformatted(T(en="All items are marked.", zh="已全部评完。"))
    return preformatted(f"{len(marks) + 1}/{len(items)}\n{items[len(marks)]}")
