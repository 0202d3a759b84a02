"""Two flowcharts for the choice of a model, as data: the one that circulates, and the one of lesson 05; and their drawing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .session import language

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Node:
    """A box of a chart."""

    kind: str  # "question", "model" or "step"
    at: tuple[float, float]  # centre, in inches from the upper left corner
    en: str
    zh: str
    models: tuple[str, ...] = ()  # that the box says to take

    def text(self, zh: bool) -> str:
        """What stands in the box."""
        return self.zh if zh else self.en


@dataclass(frozen=True)
class Edge:
    """A line from one box to another; the first edge of a box whose condition holds is taken."""

    source: str
    target: str
    en: str = ""
    zh: str = ""
    when: tuple[str, str] | None = (
        None  # ("task", t), ("only", language), ("fits", model), ("licence", "any"); None: else
    )
    why: tuple[str, str] = ("", "")  # in English, in Chinese

    def text(self, zh: bool) -> str:
        """What stands on the line."""
        return self.zh if zh else self.en


@dataclass(frozen=True)
class Chart:
    """Boxes by name, and lines; size of the drawing and of a box in inches."""

    start: str
    nodes: dict[str, Node]
    edges: tuple[Edge, ...]
    size: tuple[float, float]
    box: tuple[float, float]

    def out(self, name: str) -> list[Edge]:
        """The lines that leave a box, in their order."""
        return [edge for edge in self.edges if edge.source == name]

    def leaves(self) -> list[str]:
        """The boxes where a walk ends."""
        return [name for name in self.nodes if not self.out(name)]


def _article() -> Chart:
    """The flowchart of the article: twelve boxes, eight ways through."""
    nodes = {
        "task": Node("question", (0.5, 0.9), "The task", "任务类型"),
        "output": Node("question", (1.66, 0.9), "Labels\nor text?", "分类还是\n生成？"),
        "reader": Node("model", (3.2, 0.4), "BERT,\nRoBERTa", "BERT、\nRoBERTa", ("BERT", "RoBERTa")),
        "writer": Node("model", (3.2, 1.4), "LLaMA,\nQwen", "LLaMA、\nQwen", ("LLaMA", "Qwen")),
        "language": Node("question", (4.36, 0.9), "Which\nlanguage?", "什么语种？"),
        "chinese": Node("model", (5.9, 0.4), "Qwen,\nBGE", "Qwen、\nBGE", ("Qwen", "BGE")),
        "many": Node("model", (5.9, 1.4), "mBERT,\nXLM-R", "mBERT、\nXLM-R", ("mBERT", "XLM-R")),
        "resources": Node("question", (7.06, 0.9), "What\nresources?", "多少资源？"),
        "small": Node("model", (8.6, 0.4), "BERT-Base", "BERT-Base", ("BERT-Base",)),
        "large": Node("model", (8.6, 1.4), "LLaMA-7B", "LLaMA-7B", ("LLaMA-7B",)),
        "community": Node("step", (9.76, 0.9), "Look at the\ncommunity", "看社区支持"),
        "choice": Node("step", (10.92, 0.9), "The choice", "最终选择"),
    }
    edges = (
        Edge("task", "output"),
        Edge("output", "reader", "labels", "分类"),
        Edge("output", "writer", "text", "生成"),
        Edge("reader", "language"),
        Edge("writer", "language"),
        Edge("language", "chinese", "Chinese", "中文"),
        Edge("language", "many", "several", "多语言"),
        Edge("chinese", "resources"),
        Edge("many", "resources"),
        Edge("resources", "small", "small", "小型"),
        Edge("resources", "large", "large", "大型"),
        Edge("small", "community"),
        Edge("large", "community"),
        Edge("community", "choice"),
    )
    return Chart("task", nodes, edges, size=(11.42, 1.8), box=(0.92, 0.5))


# Leaves of the corrected chart from top to bottom, and what their boxes say where it is not the name itself.
_LEAVES = {
    "roberta-base": "",
    "bert-small-uncased": "",
    "chinese-roberta-wwm-ext": "chinese-roberta-\nwwm-ext",
    "rbt3": "",
    "xlm-roberta-base": "",
    "bert-base-multilingual-cased": "mBERT",
    "qwen2.5-7b": "",
    "qwen2.5-3b": "",
    "qwen2.5-1.5b": "",
    "qwen2.5-0.5b": "",
    "all-MiniLM-L6-v2": "",
    "bge-small-zh-v1.5": "",
    "multilingual-e5-small": "",
}
_ROW = 0.45  # inches from one leaf to the next


def _corrected() -> Chart:
    """The chart of lesson 05: the output decides the kind of model, then language, memory and licence its name."""
    nodes = {
        "task": Node("question", (0.7, 7.5 * _ROW), "What comes out?", "要输出什么？"),
        "reads": Node("question", (2.65, 3 * _ROW), "Which language?", "什么语言？"),
        "finds": Node("question", (2.65, 11.5 * _ROW), "Which language?", "什么语言？"),
        "english": Node("question", (4.85, 1 * _ROW), "Does it fit?", "放得下吗？"),
        "chinese": Node("question", (4.85, 3 * _ROW), "Does it fit?", "放得下吗？"),
        "several": Node("question", (4.85, 5 * _ROW), "Does it fit?", "放得下吗？"),
        "size": Node("question", (4.85, 7.5 * _ROW), "Which one fits?", "放得下哪个？"),
        "licence": Node("question", (6.75, 7.5 * _ROW), "Which licence?", "什么许可证？"),
    }
    for row, (name, label) in enumerate(_LEAVES.items()):
        nodes[name] = Node("model", (8.6, (row + 0.5) * _ROW), label or name, label or name, (name,))
    edges = [
        Edge("task", "reads", "labels", "标签", ("task", "classification"), _WHY["reads"]),
        Edge("task", "size", "text", "文本", ("task", "generation"), _WHY["writes"]),
        Edge("task", "finds", "vectors", "向量", None, _WHY["finds"]),
        Edge("reads", "english", "English", "英文", ("only", "en"), _WHY["en"]),
        Edge("reads", "chinese", "Chinese", "中文", ("only", "zh"), _WHY["zh"]),
        Edge("reads", "several", "other, several", "其他或多种", None, _WHY["several"]),
        *_pair("english", "roberta-base", "bert-small-uncased"),
        *_pair("chinese", "chinese-roberta-wwm-ext", "rbt3"),
        *_pair("several", "xlm-roberta-base", "bert-base-multilingual-cased"),
        Edge("size", "qwen2.5-7b", "7B", "7B", ("fits", "qwen2.5-7b")),
        Edge("size", "licence", "3B", "3B", ("fits", "qwen2.5-3b")),
        Edge("size", "qwen2.5-1.5b", "1.5B", "1.5B", ("fits", "qwen2.5-1.5b")),
        Edge("size", "qwen2.5-0.5b", "none of these", "都放不下"),
        Edge("licence", "qwen2.5-3b", "any", "不限", ("licence", "any"), _WHY["any"]),
        Edge("licence", "qwen2.5-1.5b", "open", "开放", None, _WHY["open"]),
        Edge("finds", "all-MiniLM-L6-v2", "English", "英文", ("only", "en"), _WHY["en"]),
        Edge("finds", "bge-small-zh-v1.5", "Chinese", "中文", ("only", "zh"), _WHY["zh"]),
        Edge("finds", "multilingual-e5-small", "other, several", "其他或多种", None, _WHY["several"]),
    ]
    return Chart("task", nodes, tuple(edges), size=(9.35, 13 * _ROW), box=(1.3, 0.37))


def _pair(question: str, large: str, small: str) -> tuple[Edge, Edge]:
    """The two lines that leave a question of memory."""
    return Edge(question, large, "yes", "是", ("fits", large)), Edge(question, small, "no", "否")


_WHY = {
    "reads": (
        "nothing has to be written; an encoder reads the whole text at once",
        "不需要写出文字；编码器一次就读完全文",
    ),
    "writes": (
        "only a decoder writes; Qwen2.5 writes each of these languages",
        "只有解码器会写；这些语言 Qwen2.5 都能写",
    ),
    "finds": (
        "an embedding model was trained to put texts of like meaning near to each other",
        "嵌入模型的训练目标，就是把意思相近的文本放得近",
    ),
    "en": ("one language, and a vocabulary made for it", "只有一种语言，用专门为它造的词表"),
    "zh": ("one language, and a vocabulary made for it", "只有一种语言，用专门为它造的词表"),
    "several": ("one vocabulary has to serve them all", "要用一个词表照顾所有语言"),
    "any": ("research use alone is allowed, and that is enough here", "只许研究使用，而这里够用"),
    "open": (
        "the 3B is for research alone, the 1.5B is not",
        "3B 只许研究使用，1.5B 没有这个限制",
    ),
}

ARTICLE = _article()
CORRECTED = _corrected()


def draw(chart: Chart, path: Sequence[str] = (), lang: str | None = None) -> Figure:
    """The chart from left to right, the nodes of `path` lit; in the session's language by default."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    from .figures import PALETTE

    zh, (width, height), taken = (lang or language()) == "zh", chart.box, set(itertools.pairwise(path))
    fig, ax = plt.subplots(figsize=chart.size)
    for edge in chart.edges:
        (x1, y1), (x2, y2) = chart.nodes[edge.source].at, chart.nodes[edge.target].at
        lit = (edge.source, edge.target) in taken
        begin, end = x1 + width / 2, x2 - width / 2
        bend = begin + 0.12  # all lines of a box bend at the same place, and their labels stand behind it
        style = {"color": PALETTE["vermillion"] if lit else "#888888", "linewidth": 2 if lit else 1}
        ax.plot([begin, bend, bend, end], [y1, y1, y2, y2], linestyle="-", zorder=2 if lit else 1, **style)
        ax.annotate(edge.text(zh), (bend, y2), xytext=(4, 2), textcoords="offset points", fontsize=8)
    looks = {"question": ("#FFFFFF", "round"), "model": ("#DCEBF7", "square"), "step": ("#EEEEEE", "round")}
    for name, node in chart.nodes.items():
        (x, y), (colour, shape) = node.at, looks[node.kind]
        colour, edge_colour = (PALETTE["yellow"], PALETTE["vermillion"]) if name in path else (colour, "#444444")
        corner, pad = (x - width / 2, y - height / 2), "pad=0" + (",rounding_size=0.1" if shape == "round" else "")
        ax.add_patch(
            FancyBboxPatch(corner, width, height, f"{shape},{pad}", facecolor=colour, edgecolor=edge_colour, zorder=3)
        )
        ax.text(x, y, node.text(zh), ha="center", va="center", fontsize=8, zorder=4)
    ax.set(xlim=(0, chart.size[0]), ylim=(chart.size[1], 0))
    ax.axis("off")
    return fig
