"""Which model to begin with: flowcharts as data, a choice that explains its steps, and a drawing of both.

The chart of lesson 05 and the one that it corrects are lists of nodes and edges in `_charts.py`; `choose_model` walks the
corrected one, and `draw` draws either.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from . import accounting
from ._charts import ARTICLE, CORRECTED, Chart, Edge, Node, draw
from .session import language

__all__ = [
    "ARTICLE",
    "CORRECTED",
    "Chart",
    "Choice",
    "ChoiceError",
    "Edge",
    "Node",
    "choose_model",
    "draw",
    "memory_gb",
]

TASKS = ("classification", "generation", "search")
USES = ("inference", "lora", "full")
# Known to each of XLM-R, mBERT, multilingual-e5 and Qwen2.5.
LANGUAGES = ("en", "zh", "fr", "es", "pt", "de", "it", "ru", "ja", "ko", "vi", "th", "ar")
OPEN_LICENCES = ("Apache-2.0", "MIT")  # commercial use and changed copies are allowed
_EN = dict(zip(USES, ("answering with", "LoRA on", "full fine-tuning of"), strict=True))  # a use in a sentence
_ZH = dict(zip(USES, ("回答", "做 LoRA 微调", "做全量微调"), strict=True))
SPARE = 0.1  # share of a device that is left free: a CUDA context, gaps of the allocator, a longer row than planned
ROWS, TOKENS, RANK = 4, 512, 8  # of the training, or of the answering, that the memory is reckoned for


class ChoiceError(ValueError):
    """No model can be chosen: what was wrong, what was expected, what to do; in the language of the session."""

    def __init__(self, en: str, zh: str) -> None:
        super().__init__(en)
        self.en, self.zh = en, zh

    def __str__(self) -> str:
        return self.zh if language() == "zh" else self.en


@dataclass(frozen=True)
class Choice:
    """A model, and each step of the chart that led to it."""

    model: str
    path: tuple[Edge, ...]
    reasons: tuple[tuple[str, str], ...]  # one an edge: English, Chinese
    gb: float  # what the use takes
    licence: str
    chart: Chart = CORRECTED

    def explain(self, lang: str | None = None) -> str:
        """The steps, one a line, and what was chosen; in the session's language by default."""
        zh, lines = (lang or language()) == "zh", []
        for number, (edge, reason) in enumerate(zip(self.path, self.reasons, strict=True), start=1):
            question, (gap, colon) = self.chart.nodes[edge.source].text(zh), ("", "：") if zh else (" ", ": ")
            lines.append(f"{number}. {question}{gap}{edge.text(zh)}{colon}{reason[zh]}")
        return "\n".join([*lines, f"→ {self.model} · {self.gb:.1f} GB · {self.licence}"])


@cache
def memory_gb(name: str, use: str) -> float:
    """GB (1e9 bytes) that a published model takes for a use, on one device; `ROWS` rows of `TOKENS` tokens.

    ``"inference"``: bf16 weights and, for a decoder, the keys and values of all tokens. ``"lora"``: rank 8 on all linear
    layers of a bf16 base, with gradient checkpointing. ``"full"``: mixed precision, AdamW, with gradient checkpointing.

    Raises:
        ValueError: an unknown model or use.
    """
    if use not in USES:
        raise ValueError(f"use={use!r} is not known; choose one of {', '.join(map(repr, USES))}")
    model = accounting.skeleton(name)
    if use == "inference":
        return (2 * accounting.count(model).total + 2 * ROWS * TOKENS * cached_numbers(name)) / 1e9
    if use == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear"))
    trained = "mixed" if use == "full" else "fp32"
    settings = {"frozen": "bf16", "trained": trained, "batch": ROWS, "length": TOKENS, "checkpointing": True}
    return accounting.training_memory(model, **settings).peak / 1e9


def cached_numbers(name: str) -> int:
    """Keys and values that a decoder keeps for each token while it writes; 0 for an encoder, which reads once."""
    config = accounting.skeleton(name).config
    if not hasattr(config, "num_key_value_heads"):
        return 0
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head


def choose_model(
    task: str,
    languages: Collection[str],
    memory_gb: float,
    *,
    use: str = "lora",
    open_licence: bool = True,
    chart: Chart = CORRECTED,
) -> Choice:
    """Walk a chart of conditions: the first edge of each node whose condition holds.

    Args:
        task: what is to come out: ``"classification"`` (labels of a text or of its tokens), ``"generation"`` (text:
            answers, dialogue, JSON), ``"search"`` (vectors to be compared).
        languages: codes of `LANGUAGES`, one or more.
        memory_gb: of the one device that there is, in GB; a tenth of it is left free.
        use: ``"inference"``, ``"lora"`` or ``"full"``: what has to fit.
        open_licence: whether the licence must be one of `OPEN_LICENCES`.
        chart: `CORRECTED`, or your own; its leaves are names of `accounting.published`.

    Raises:
        ChoiceError: an argument that makes no sense, a chart that leads nowhere, or nothing that fits.
    """
    _check(task, languages, memory_gb, use, open_licence)
    asked = frozenset(languages)
    usable = memory_gb * (1 - SPARE)

    def holds(edge: Edge) -> bool:
        match edge.when:
            case ("task", wanted):
                return task == wanted
            case ("only", code):
                return asked == {code}
            case ("fits", name):
                return _needed(name, use) <= usable
            case ("licence", "any"):
                return not open_licence
        return True  # otherwise

    _check_chart(chart)
    at, path, reasons = chart.start, [], []
    while chart.out(at):
        if at in (edge.source for edge in path):
            raise ChoiceError(
                f"chart: the walk comes back to the box {at!r} and would never end; let each line lead onwards",
                f"chart：走着走着又回到了方框 {at!r}，永远走不完；请让每条线都通向后面的方框",
            )
        edge = next(filter(holds, chart.out(at)), None)
        if edge is None:
            raise ChoiceError(
                f"chart: at the box {at!r} no line's condition holds for this request; give it a last line without a "
                "condition (when=None)",
                f"chart：在方框 {at!r}，没有一条线的条件成立；请在最后给它加一条不带条件的线（when=None）",
            )
        path.append(edge)
        reasons.append(_reason(chart, edge, use, usable))
        at = edge.target
    if at not in accounting.published():
        raise ChoiceError(
            f"chart: the walk ends in {at!r}, which is no published model; name the box as in accounting.published(): "
            f"{', '.join(accounting.published())}",
            f"chart：走到了 {at!r}，它不是公开模型；请用 accounting.published() 里的名字给方框命名："
            f"{', '.join(accounting.published())}",
        )
    gb, licence = _needed(at, use), accounting.published()[at]["licence"]
    if gb > usable:
        least = gb / (1 - SPARE)
        cheaper = {"full": "use='lora'", "lora": "use='inference'"}.get(use)
        raise ChoiceError(
            f"memory_gb={memory_gb:g}: the smallest model here is {at}, and {use} of it needs a device of {least:.3g} GB; "
            f"take a larger device{f', {cheaper}' if cheaper else ''}, or four bits (lesson 03)",
            f"memory_gb={memory_gb:g}：这里最小的模型是 {at}，用它{_ZH[use]}需要 {least:.3g} GB 的设备；"
            f"请换更大的设备{f'，改用 {cheaper}' if cheaper else ''}，或者用四比特（第 03 课）",
        )
    return Choice(at, tuple(path), tuple(reasons), gb, licence, chart)


_needed = memory_gb  # choose_model has an argument of that name


def _check(task: object, languages: object, memory: object, use: object, open_licence: object) -> None:
    """Raises a ChoiceError for the first argument that makes no sense."""
    words = [("task", task, TASKS), ("use", use, USES), ("open_licence", open_licence, (True, False))]
    for name, value, allowed in words:
        if not any(value is one or (isinstance(one, str) and value == one) for one in allowed):
            given = f"{name}={value!r}"
            choices = ", ".join(map(repr, allowed))
            raise ChoiceError(f"{given} is not known; choose one of {choices}", f"{given} 不认识；请从 {choices} 中选")
    if isinstance(languages, str) or not isinstance(languages, Collection) or not languages:
        raise ChoiceError(
            f'languages={languages!r}: a list of one code or more is expected, such as ["zh"] or ["en", "zh"]',
            f'languages={languages!r}：应是至少含一个代码的列表，例如 ["zh"] 或 ["en", "zh"]',
        )
    if unknown := [code for code in languages if code not in LANGUAGES]:
        known = ", ".join(LANGUAGES)
        raise ChoiceError(
            f"languages: {unknown[0]!r} is not in this chart, which knows {known}; for another language look at the model "
            "cards of the multilingual models",
            f"languages：这张图里没有 {unknown[0]!r}，只有 {known}；其他语言请查多语言模型的模型卡",
        )
    number = isinstance(memory, int | float) and not isinstance(memory, bool)
    if not number or not math.isfinite(memory) or memory <= 0:
        raise ChoiceError(
            f"memory_gb={memory!r}: a number of GB above 0 is expected, such as 16 for a T4",
            f"memory_gb={memory!r}：应是大于 0 的 GB 数，例如 T4 填 16",
        )


def _check_chart(chart: Chart) -> None:
    """Raises a ChoiceError for the first line whose ends are no boxes or whose condition cannot be judged."""
    known = {"task": TASKS, "only": LANGUAGES, "fits": tuple(accounting.published()), "licence": ("any",)}
    for edge in chart.edges:
        line = f"{edge.source!r} → {edge.target!r}"
        if missing := [name for name in (edge.source, edge.target) if name not in chart.nodes]:
            raise ChoiceError(
                f"chart: the line {line} needs a box {missing[0]!r} in nodes; add the box or correct its name",
                f"chart：连线 {line} 要用的方框 {missing[0]!r} 不在 nodes 里；请加上这个方框，或改正名字",
            )
        if edge.when is not None and (len(edge.when) != 2 or edge.when[1] not in known.get(edge.when[0], ())):
            forms = "; ".join(f"({kind!r}, {' | '.join(values)})" for kind, values in known.items())
            raise ChoiceError(
                f"chart: the line {line} has the condition {edge.when!r}; it must be None or one of {forms}",
                f"chart：连线 {line} 的条件是 {edge.when!r}；应是 None，或下列之一：{forms}",
            )


def _reason(chart: Chart, edge: Edge, use: str, usable: float) -> tuple[str, str]:
    """Why this edge was taken, in English and Chinese."""
    named = [other.when[1] for other in chart.out(edge.source) if other.when and other.when[0] == "fits"]
    if not named or (edge.when and edge.when[0] != "fits"):
        return edge.why
    name = edge.when[1] if edge.when else named[-1]
    need = _needed(name, use)
    if edge.when:
        return (
            f"{_EN[use]} {name} takes {need:.1f} of {usable:.1f} GB",
            f"用 {name} {_ZH[use]}需要 {need:.1f} GB，可用 {usable:.1f} GB",
        )
    return (
        f"{_EN[use]} {name} would take {need:.1f}, there are {usable:.1f} GB",
        f"用 {name} {_ZH[use]}要 {need:.1f} GB，只有 {usable:.1f} GB",
    )
