"""Figures: Chinese labels, alt text, one picture a figure, the same bytes every time."""

import base64
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest

import demo_course
from tunelab import figures, paths, start

HAS_FONT = any(paths.course_file("assets", "fonts").glob("*.[ot]tf"))


@pytest.fixture(autouse=True)
def course(tmp_path, monkeypatch, capsys):
    folder = demo_course.install(tmp_path, monkeypatch)
    start("01", "en")
    yield folder
    plt.close("all")


@pytest.fixture
def published(monkeypatch):
    """The MIME bundles that went out, with their metadata."""
    outputs = []
    monkeypatch.setattr(figures, "publish", lambda bundle, metadata=None: outputs.append((bundle, metadata)))
    return outputs


@pytest.mark.skipif(not HAS_FONT, reason="the Chinese font is not in assets/fonts")
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_chinese_labels_render_next_to_mathematics(lang):
    figures.use_course_style(lang)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "Glyph 25439 missing from font(s) ..." is a warning
        fig, ax = plt.subplots()
        ax.plot([-1, 1], [-1e-3, 1e-3], label="学习率 $\\eta = 10^{-3}$")
        ax.set(title="损失 $x^2$", xlabel="步数（步）", ylabel="ΔW = A·B — −1")
        ax.legend()
        figures.png_bytes(fig)


def test_a_missing_font_is_said_once_at_the_start(monkeypatch, tmp_path):
    monkeypatch.setitem(paths.ROOTS, "assets", tmp_path)
    monkeypatch.setattr(figures, "_course_fonts", figures._course_fonts.__wrapped__)
    with pytest.warns(UserWarning, match="Chinese labels will show as boxes"):
        figures.use_course_style("zh")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.use_course_style("en")


def test_show_gives_picture_and_alt_text_and_closes_the_figure(published):
    fig, _ = plt.subplots()
    figures.show(fig, alt="An empty plot.")
    ((bundle, metadata),) = published
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"] == "An empty plot." == metadata["image/png"]["alt"]
    assert plt.get_fignums() == []  # or the notebook would show it a second time
    with pytest.raises(ValueError, match="alt text is empty"):
        figures.show(plt.figure(), alt=" ")


def test_the_same_figure_gives_the_same_bytes():
    def draw() -> bytes:
        fig, ax = plt.subplots()
        figures.curve(ax, range(5), range(5), "line", low=np.zeros(5), high=np.ones(5))
        return figures.png_bytes(fig)

    assert draw() == draw()


def test_curves_differ_by_more_than_colour():
    _, ax = plt.subplots()
    lines = [figures.curve(ax, [0, 1], [k, k], f"run {k}") for k in range(4)]
    assert len({line.get_linestyle() for line in lines}) == len({line.get_color() for line in lines}) == 4


def test_bars_show_mean_and_interval_first_label_on_top():
    fig, ax = plt.subplots()
    figures.bars_with_intervals(ax, ["full", "LoRA"], [0.5, 0.4], [(0.4, 0.55), (0.3, 0.6)])
    fig.canvas.draw()
    assert [text.get_text() for text in ax.texts] == ["50%", "40%"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["full", "LoRA"]
    top, below = ax.patches
    assert (
        top.get_width() == 0.5
        and ax.transData.transform((0, top.get_y()))[1] > ax.transData.transform((0, below.get_y()))[1]
    )
    (segments,) = [collection.get_segments() for collection in ax.collections]
    assert np.allclose([segment[:, 0] for segment in segments], [(0.4, 0.55), (0.3, 0.6)])


def test_the_live_run_is_a_dot_on_the_band_of_the_stored_seeds():
    _, ax = plt.subplots()
    figures.dot_on_band(ax, ["loss"], [(1.0, 1.2)], [1.1], band_label="five seeds", dot_label="this run")
    assert ax.lines[0].get_xdata()[0] == 1.1
    assert ax.collections[0].get_segments()[0][:, 0].tolist() == [1.0, 1.2]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["five seeds", "this run"]


def test_a_diagram_comes_in_the_readers_language_with_alt_text(course, monkeypatch, published):
    folder = course / "assets" / "diagrams"
    folder.mkdir(parents=True)
    (folder / "flow.zh.png").write_bytes(b"\x89PNG zh")
    monkeypatch.setitem(paths.ROOTS, "assets", course / "assets")
    with pytest.raises(FileNotFoundError, match=r"flow\.en\.png does not exist.*flow\.zh\.png"):
        figures.diagram("flow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start("01", "zh")
    figures.diagram("flow")
    assert base64.b64decode(published[0][0]["image/png"]) == b"\x89PNG zh"
    assert published[0][0]["text/plain"] == "流程图。"
