"""Choosing a model: two charts as data, a choice that is a leaf or a clear refusal, whatever it is asked."""

import itertools
import math
import re

import matplotlib
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

import tiny
from tunelab import accounting, choosing
from tunelab.choosing import (
    ARTICLE,
    CORRECTED,
    LANGUAGES,
    TASKS,
    USES,
    Chart,
    ChoiceError,
    Edge,
    Node,
    choose_model,
)

LEAVES = set(CORRECTED.leaves())
GROUPS = [set(some) for size in range(1, 4) for some in itertools.combinations(["en", "zh", "fr", "ar"], size)]
GROUPS.append(set(LANGUAGES))
CHARTS = pytest.mark.parametrize("chart", [ARTICLE, CORRECTED], ids=["article", "corrected"])


def thresholds(use):
    """Memories just below and just above what each leaf needs, and far beyond both ends."""
    needs = [choosing.memory_gb(name, use) / (1 - choosing.SPARE) for name in LEAVES]
    return sorted({1e-6, 1e6, *(need * factor for need in needs for factor in (0.999, 1.001))})


def every_request():
    for task, languages, use, free in itertools.product(TASKS, GROUPS, USES, (True, False)):
        for memory in thresholds(use):
            yield task, languages, memory, use, free


def walks(chart, name):
    """All ways from a box to an end."""
    return [[name, *rest] for edge in chart.out(name) for rest in walks(chart, edge.target)] or [[name]]


# ---- the charts ----


@CHARTS
def test_every_box_is_on_a_way_and_every_way_ends(chart):
    ways = walks(chart, chart.start)
    assert set(itertools.chain(*ways)) == set(chart.nodes)
    assert all({edge.source, edge.target} <= set(chart.nodes) for edge in chart.edges)


@CHARTS
def test_both_languages_stand_in_every_box_and_on_the_same_lines(chart):
    for node in chart.nodes.values():
        assert node.en and node.zh and node.kind in ("question", "model", "step")
        assert node.kind == "model" or re.search(r"[\u4e00-\u9fff]", node.zh)
    for edge in chart.edges:
        assert bool(edge.en) == bool(edge.zh) and bool(edge.why[0]) == bool(edge.why[1])


@CHARTS
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_no_boxes_overlap_and_no_text_leaves_its_box_or_the_picture(chart, lang):
    matplotlib.use("agg")
    from tunelab import figures

    figures.use_course_style(lang)
    figure = choosing.draw(chart, list(chart.nodes), lang)
    figure.canvas.draw()
    (ax,) = figure.axes
    frames = [patch.get_window_extent() for patch in ax.patches]
    assert len(frames) == len(chart.nodes)
    for one, other in itertools.combinations(frames, 2):
        assert not one.overlaps(other)
    labels = {(text.get_text(), text.get_position()): text.get_window_extent() for text in ax.texts}
    inside = [box for box in labels.values() if any(frame.contains(box.x0, box.y0) for frame in frames)]
    assert len(inside) == len(frames)
    for box in labels.values():
        assert figure.bbox.contains(box.x0, box.y0) and figure.bbox.contains(box.x1, box.y1)
        touched = [frame for frame in frames if frame.overlaps(box)]
        assert all(frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1) for frame in touched)
    for one, other in itertools.combinations([box for key, box in labels.items() if key[0]], 2):
        assert not one.overlaps(other)
    matplotlib.pyplot.close(figure)


def test_the_article_ends_in_two_models_and_never_in_its_own_answer():
    ways = walks(ARTICLE, ARTICLE.start)
    last = {[model for name in way for model in ARTICLE.nodes[name].models][-1] for way in ways}
    assert len(ways) == 8 and last == {"BERT-Base", "LLaMA-7B"}


def test_the_corrected_chart_ends_in_published_models_with_an_otherwise_at_every_question():
    for name, node in CORRECTED.nodes.items():
        edges = CORRECTED.out(name)
        assert bool(edges) == (node.kind == "question")
        assert [edge.when for edge in edges].count(None) == bool(edges) and (not edges or edges[-1].when is None)
    assert set(accounting.published()) >= LEAVES


def test_embedding_models_stand_in_a_branch_of_their_own():
    branches = zip(TASKS, CORRECTED.out("task"), strict=True)
    ends = {task: {way[-1] for way in walks(CORRECTED, edge.target)} for task, edge in branches}
    assert ends["search"] == {"all-MiniLM-L6-v2", "bge-small-zh-v1.5", "multilingual-e5-small"}
    assert not any(one & other for one, other in itertools.combinations(ends.values(), 2))
    assert all(accounting.published()[name]["class"].endswith("ForCausalLM") for name in ends["generation"])


# ---- the choice ----


def test_every_request_gets_a_leaf_that_fits_or_a_refusal_and_every_leaf_is_reached():
    reached, refused = set(), 0
    for task, languages, memory, use, free in every_request():
        try:
            choice = choose_model(task, languages, memory, use=use, open_licence=free)
        except ChoiceError as error:
            refused += 1
            assert f"memory_gb={memory:g}" in str(error) and "take a larger device" in str(error)
            continue
        assert choice == choose_model(task, sorted(languages), memory, use=use, open_licence=free)
        assert choice.model in LEAVES and choice.gb <= memory * (1 - choosing.SPARE)
        assert not free or choice.licence in choosing.OPEN_LICENCES
        path = [edge.source for edge in choice.path]
        assert path[0] == CORRECTED.start and choice.path[-1].target == choice.model
        assert all(one.target == other.source for one, other in itertools.pairwise(choice.path))
        for lang in ("en", "zh"):
            lines = choice.explain(lang).splitlines()
            assert len(lines) == len(choice.path) + 1 and choice.model in lines[-1]
            assert all(len(line) > 20 for line in lines[:-1])
        reached.add(choice.model)
    assert reached == LEAVES and refused > 0


@given(memory=st.floats(1e-3, 1e4), task=st.sampled_from(TASKS), use=st.sampled_from(USES), free=st.booleans())
def test_more_memory_never_gives_a_smaller_model(memory, task, use, free):
    def size(gb):
        try:
            return choosing.memory_gb(choose_model(task, ["zh"], gb, use=use, open_licence=free).model, use)
        except ChoiceError:
            return 0.0

    assert size(memory) <= size(2 * memory)


@given(
    task=st.one_of(st.sampled_from(TASKS), st.text(), st.none(), st.integers()),
    languages=st.one_of(st.lists(st.sampled_from(LANGUAGES)), st.text(), st.none(), st.lists(st.integers())),
    memory=st.one_of(st.floats(), st.none(), st.booleans(), st.text()),
    use=st.one_of(st.sampled_from(USES), st.text(), st.none()),
    free=st.one_of(st.booleans(), st.none(), st.integers()),
)
def test_nonsense_is_refused_and_raises_nothing_else(task, languages, memory, use, free):
    try:
        assert choose_model(task, languages, memory, use=use, open_licence=free).model in LEAVES
    except ChoiceError as error:
        assert len(error.en) > 30 and re.search(r"[\u4e00-\u9fff]", error.zh)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"task": "translate"},
            "task='translate' is not known; choose one of 'classification', 'generation', 'search'",
        ),
        ({"use": "train"}, "use='train' is not known; choose one of 'inference', 'lora', 'full'"),
        ({"languages": []}, r"languages=\[\]: a list of one code or more is expected"),
        ({"languages": "zh"}, r'such as \["zh"\]'),
        ({"languages": ["zh", "tlh"]}, "'tlh' is not in this chart, which knows en, zh"),
        ({"memory_gb": 0}, "a number of GB above 0 is expected"),
        ({"memory_gb": -1}, "memory_gb=-1"),
        ({"memory_gb": math.nan}, "memory_gb=nan"),
        ({"memory_gb": math.inf}, "memory_gb=inf"),
        ({"memory_gb": "16"}, "memory_gb='16'"),
        ({"memory_gb": True}, "memory_gb=True"),
        ({"open_licence": "yes"}, "open_licence='yes' is not known"),
        (
            {"memory_gb": 0.5},
            "the smallest model here is qwen2.5-0.5b, and lora of it needs a device of 5.41 GB; take.*use='inference', or",
        ),
    ],
)
def test_a_refusal_says_what_was_wrong_what_is_expected_and_what_to_do(change, words):
    request = {"task": "generation", "languages": ["zh"], "memory_gb": 24} | change
    with pytest.raises(ChoiceError, match=words):
        choose_model(**request)


def test_a_refusal_speaks_the_language_of_the_session(monkeypatch):
    from tunelab import session, start

    monkeypatch.setattr(session, "_current", None)
    start("00", "zh")
    with pytest.raises(ChoiceError, match="应是大于 0 的 GB 数"):
        choose_model("generation", ["zh"], 0)


@pytest.mark.parametrize(("use", "does"), [("lora", "做 LoRA 微调"), ("inference", "回答"), ("full", "做全量微调")])
def test_chinese_reasons_are_set_in_chinese(use, does):
    lines = choose_model("generation", ["zh"], 200, use=use).explain("zh").splitlines()
    assert lines[0].startswith("1. 要输出什么？文本：")
    assert lines[1].startswith(f"2. 放得下哪个？7B：用 qwen2.5-7b {does}需要 ")
    with pytest.raises(ChoiceError) as caught:
        choose_model("generation", ["zh"], 0.5, use=use)
    assert f"用它{does}需要" in caught.value.zh


@pytest.mark.parametrize("use", ["lora", "inference"])
def test_the_example_of_the_article_comes_out_as_a_qwen_of_7b(use):
    assert choose_model("generation", ["zh"], 24, use=use, open_licence=True).model == "qwen2.5-7b"


@pytest.mark.parametrize(("free", "model"), [(True, "qwen2.5-1.5b"), (False, "qwen2.5-3b")])
def test_the_licence_decides_where_the_3b_is_the_largest_that_fits(free, model):
    assert choose_model("generation", ["zh", "en"], 16, open_licence=free).model == model


# ---- a chart of one's own ----


def chart_of(*edges):
    """A chart with these lines, from the box "task"."""
    boxes = {name for edge in edges for name in (edge.source, edge.target)}
    nodes = {name: Node("question", (1.0, 1.0), name, name) for name in boxes}
    return Chart("task", nodes, edges, (4.0, 4.0), (1.0, 0.5))


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        (
            [Edge("task", "size"), Edge("size", "qwen2.5-7b", when=("fits", "qwen2.5-7b"))],
            "chart: at the box 'size' no line's condition holds.*a last line without a condition",
        ),
        ([Edge("task", "size"), Edge("size", "task")], "comes back to the box 'task' and would never end"),
        ([Edge("task", "task")], "comes back to the box 'task'"),
        ([Edge("task", "qwen-900b")], "ends in 'qwen-900b', which is no published model; .*qwen2.5-7b"),
        (
            [Edge("task", "qwen2.5-7b", when=("fits", "qwen-900b"))],
            r"the line 'task' → 'qwen2.5-7b' has the condition \('fits', 'qwen-900b'\); it must be None or one of",
        ),
        ([Edge("task", "qwen2.5-7b", when=("mood", "good"))], r"has the condition \('mood', 'good'\)"),
        ([Edge("task", "qwen2.5-7b", when=("task",))], r"has the condition \('task',\)"),
    ],
)
def test_a_chart_that_leads_nowhere_is_refused_with_the_place(edges, words):
    with pytest.raises(ChoiceError, match=words) as caught:
        choose_model("generation", ["zh"], 8, chart=chart_of(*edges))
    assert re.search(r"[\u4e00-\u9fff]", caught.value.zh)


def test_a_line_to_a_box_that_is_not_there_is_refused():
    chart = chart_of(Edge("task", "qwen2.5-7b"))
    del chart.nodes["qwen2.5-7b"]
    with pytest.raises(ChoiceError, match=r"needs a box 'qwen2.5-7b' in nodes"):
        choose_model("generation", ["zh"], 24, chart=chart)


def test_the_chart_that_circulates_ends_in_no_published_model():
    with pytest.raises(ChoiceError, match="ends in 'choice', which is no published model"):
        choose_model("generation", ["zh"], 24, chart=ARTICLE)


def test_conditions_of_several_kinds_may_stand_at_one_box():
    why = ("it is Chinese", "是中文")
    lines = [Edge("task", "bge-small-zh-v1.5", when=("only", "zh"), why=why), Edge("task", "qwen2.5-0.5b")]
    lines.insert(0, Edge("task", "qwen2.5-7b", when=("fits", "qwen2.5-7b")))
    choice = choose_model("search", ["zh"], 1, chart=chart_of(*lines))
    assert choice.model == "bge-small-zh-v1.5" and choice.reasons == (why,)


# ---- the memory ----


def test_more_is_trained_more_is_needed():
    for name in accounting.published():
        inference, lora, full = (choosing.memory_gb(name, use) for use in USES)
        assert inference < lora < full


def test_an_unknown_use_is_refused():
    with pytest.raises(ValueError, match="use='train' is not known; choose one of 'inference', 'lora', 'full'"):
        choosing.memory_gb("qwen2.5-7b", "train")


def test_cached_numbers_are_those_of_a_real_cache(monkeypatch):
    model = tiny.model()
    monkeypatch.setattr(accounting, "skeleton", lambda name: model)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.arange(6)[None], past_key_values=cache)
    kept = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert choosing.cached_numbers("tiny") * 6 == kept


def test_an_encoder_keeps_no_cache():
    assert choosing.cached_numbers("bert-base-uncased") == 0
