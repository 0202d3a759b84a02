"""The rating sheet: marked by clicks, with a picture where no kernel runs."""

import base64
import sys

import ipywidgets
import matplotlib.pyplot as plt
import pytest

import demo_course
from tunelab import rating, start

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(autouse=True)
def course(tmp_path, monkeypatch):
    demo_course.install(tmp_path, monkeypatch)
    start("01", "en")


@pytest.fixture
def published(monkeypatch):
    bundles = []
    monkeypatch.setattr(rating, "publish", lambda bundle, metadata: bundles.append(bundle))
    return bundles


@pytest.fixture
def boxes(monkeypatch):
    """What each box was built of, as a browser would get it."""
    built = []

    class Box(ipywidgets.VBox):
        def __init__(self, children):
            built.append(children)
            super().__init__(children)

    monkeypatch.setattr(ipywidgets, "VBox", Box)
    return built


def draw(marks):
    fig, ax = plt.subplots(figsize=(1, 1))
    ax.plot([0, *marks])
    return fig


def test_clicks_mark_one_item_after_the_other(published, boxes):
    marks = rating.sheet(["first & best", "second"], (1, 2, 3), draw, note="3 is best", alt="nothing marked")
    (bundle,), ((note, card, row, view),) = published, boxes
    back, *buttons = row.children
    assert marks == [] and "3 is best" in note.value
    assert "1/2" in card.value and "first &amp; best" in card.value
    assert [button.description for button in buttons] == ["1", "2", "3"]
    assert base64.b64decode(bundle["image/png"]) == bytes(view.value) and bundle["text/plain"] == "nothing marked"
    before = bytes(view.value)
    buttons[2].click()
    assert marks == [3] and "2/2" in card.value and bytes(view.value) != before
    buttons[0].click()
    assert marks == [3, 1] and "All items are marked" in card.value and all(button.disabled for button in buttons)
    back.click()
    assert marks == [3] and "2/2" in card.value and not any(button.disabled for button in buttons)
    back.click()
    back.click()  # once too often
    assert marks == [] and plt.get_fignums() == []


def test_without_ipywidgets_the_picture_is_left(published, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert rating.sheet(["one"], (1, 2), draw, alt="nothing marked") == []
    assert VIEW not in published[0] and {"image/png", "text/plain"} == set(published[0])


@pytest.mark.parametrize(("items", "choices"), [([], (1, 2)), (["one"], (1,))])
def test_a_sheet_needs_an_item_and_two_marks(items, choices):
    with pytest.raises(ValueError, match="an item and two marks at least"):
        rating.sheet(items, choices, draw, alt="none")
