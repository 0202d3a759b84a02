"""The slider: live, stored, and without ipywidgets; and all displays together in a real kernel."""

import base64
import sys

import ipywidgets
import matplotlib.pyplot as plt
import nbformat
import pytest
from nbclient import NotebookClient

import demo_course
from tunelab import start, widgets

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(autouse=True)
def course(tmp_path, monkeypatch):
    folder = demo_course.install(tmp_path, monkeypatch)
    start("01", "en")
    return folder


@pytest.fixture
def published(monkeypatch):
    bundles = []
    monkeypatch.setattr(widgets, "publish", bundles.append)
    return bundles


@pytest.fixture
def live(monkeypatch):
    """The [slider, view] pairs that were built, as a browser would get them."""
    pairs = []

    class Box(ipywidgets.VBox):
        def __init__(self, children):
            pairs.append(children)
            super().__init__(children)

    monkeypatch.setattr(ipywidgets, "VBox", Box)
    return pairs


def draw(value):
    fig, ax = plt.subplots(figsize=(1, 1))
    ax.plot([0, value])
    return fig


def test_one_bundle_holds_slider_picture_and_text(published, live):
    widgets.slider(draw, [1, 2, 4], label="rank", start=2)
    (bundle,), ((slider, view),) = published, live
    assert slider.label == "2" and slider.description == "rank"
    assert base64.b64decode(bundle["image/png"]) == view.value
    assert bundle["text/plain"] == "rank: 2"
    slider.index = 2
    assert bytes(view.value).startswith(b"\x89PNG") and base64.b64decode(bundle["image/png"]) != view.value
    assert plt.get_fignums() == []


def test_each_value_is_rendered_once_and_coming_back_shows_the_same(published, live):
    asked = []

    def sample(value):
        asked.append(value)
        return f"<{value}> sample {len(asked)}"

    widgets.slider(sample, [0.1, 1.0], label="temperature", start=0.1)
    ((slider, view),) = live
    first = view.value
    slider.index = 1
    slider.index = 0
    assert view.value == first and asked == [0.1, 1.0]
    assert "&lt;0.1&gt; sample 1" in first and published[0]["text/plain"] == "temperature: 0.1\n<0.1> sample 1"


def test_without_ipywidgets_the_stored_picture_is_shown(published, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    widgets.slider(draw, [1, 2], label="rank", start=1, alt="A rising line.")
    assert set(published[0]) == {"image/png", "text/plain"}
    assert published[0]["text/plain"] == "A rising line."


def test_a_start_outside_the_values_is_named():
    with pytest.raises(ValueError, match=r"start=3.*\[1, 2\]"):
        widgets.slider(draw, [1, 2], label="rank", start=3)


def test_in_a_kernel_each_cell_leaves_exactly_the_outputs_a_reader_needs(course):
    cells = [
        "from pathlib import Path\nfrom tunelab import paths, start, claim, check, T\n"
        f"paths.ROOTS.update(lessons=Path({str(course / 'lessons')!r}), checks=Path({str(course / 'checks')!r}))\n"
        "session = start('01', 'en')",
        "import matplotlib.pyplot as plt\nfrom tunelab import figures, widgets\n"
        "fig, ax = plt.subplots()\nfigures.show(fig, alt='An empty plot.')",
        "widgets.slider(lambda k: plt.figure(figsize=(k, 1)), [1, 2], label='width', start=1)",
        "check('scale', lambda alpha, r: alpha / r)",
        "claim('share', 0.5, at_most=1)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, kernel_name="python3", coalesce_streams=True).execute()
    outputs = [cell.outputs for cell in notebook.cells]
    assert [len(output) for output in outputs] == [1] * 5, outputs
    greeting, figure, slider, exercise, stated = (output[0] for output in outputs)
    assert greeting.text.startswith("Lesson 01 · Demo lesson")
    assert figure.data["text/plain"] == "An empty plot."
    png = base64.b64decode(figure.data["image/png"])
    assert (int.from_bytes(png[16:20]), int.from_bytes(png[20:24])) == (
        480,
        320,
    )  # 6 x 4 in at 80 dpi, whatever the backend
    assert {VIEW, "image/png", "text/plain"} == set(slider.data)
    assert "✓ <b>Scale</b>" in exercise.data["text/html"] and exercise.data["text/plain"].startswith("✓ Scale")
    assert stated.text == "✓ LoRA trains a small share · computed 50% · bound at most 100%\n"
