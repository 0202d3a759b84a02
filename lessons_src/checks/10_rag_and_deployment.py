"""The exercise checkers of lesson 10."""

import numbers

import numpy as np

from tunelab.exercises import Wrong, call, checker


@checker("chunk_count")
def _(chunk_count):
    for tokens, size, overlap in ((1, 48, 16), (48, 48, 16), (49, 48, 16), (80, 48, 16), (81, 48, 16), (300, 64, 0)):
        # Counted, not computed: chunks begin every size - overlap tokens until one of them reaches the end.
        expected = next(n for n in range(1, tokens + 2) if size + (n - 1) * (size - overlap) >= tokens)
        found = chunk_count(tokens, size, overlap)
        if isinstance(found, bool) or not isinstance(found, numbers.Integral):
            raise Wrong(
                en=f"a number of chunks is a whole number, an int, this is {found!r}",
                zh=f"块数应是整数（int），得到的是 {found!r}",
            )
        if found < expected:
            raise Wrong(
                en=f"{found} chunks of {size} tokens with an overlap of {overlap} do not reach the end of {tokens} tokens",
                zh=f"块长 {size}、重叠 {overlap}，{found} 块盖不住 {tokens} 个词元",
            )
        if found > expected:
            raise Wrong(
                en=f"for {tokens} tokens (size {size}, overlap {overlap}) {found} is too many: the last chunk would hold "
                "nothing new",
                zh=f"{tokens} 个词元（块长 {size}，重叠 {overlap}）切成 {found} 块太多了：最后一块没有新内容",
            )


@checker("dear_threshold")
def _(dear_threshold):
    overlapping = (
        np.array([0.55, 0.6, 0.62, 0.66, 0.7, 0.72, 0.75, 0.8, 0.85, 0.9]),
        np.array([0.3, 0.35, 0.4, 0.45, 0.5, 0.58, 0.61, 0.64, 0.68, 0.71]),
    )
    # Each further step costs more of the real questions: the threshold climbs with `dear`, and at 1.5 stops halfway.
    steps = (
        np.array([0.352, 0.452, 0.462, 0.602, 0.612, 0.622, 0.632, 0.802, 0.812, 0.822]),
        np.array([0.102, 0.112, 0.122, 0.132, 0.302, 0.312, 0.322, 0.402, 0.412, 0.502]),
    )
    values = np.linspace(0, 1, 201)

    for dear, (real, invented) in ((1, overlapping), (5, overlapping), (1.5, steps), (0.4, steps), (3, steps)):
        refused = np.array([np.mean(real < value) for value in values])
        accepted = np.array([np.mean(invented >= value) for value in values])
        alike, mixed_up, expected = (
            float(values[int(np.argmin(costs))])
            for costs in (refused + accepted, dear * refused + accepted, refused + dear * accepted)
        )
        found = dear_threshold(real.copy(), invented.copy(), dear)
        if isinstance(found, bool) or not isinstance(found, int | float | np.floating):
            raise Wrong(
                en=f"a threshold is one number, this is {type(found).__name__}",
                zh=f"阈值是一个数，得到的是 {type(found).__name__}",
            )
        if abs(found - expected) < 1e-9:
            continue
        if dear != 1 and abs(found - alike) < 1e-9:
            raise Wrong(
                en=f"with dear = {dear} this is still the threshold that weighs both errors alike",
                zh=f"dear = {dear} 时，得到的仍是两种错误权重相同的阈值",
            )
        if dear != 1 and abs(found - mixed_up) < 1e-9:
            raise Wrong(
                en="the weights are mixed up: the false acceptance is the dear one", zh="权重放反了：代价高的是误答"
            )
        raise Wrong(
            en=f"with dear = {dear} another value costs less, or as much and is lower (yours is {found:.3f})",
            zh=f"dear = {dear} 时，还有代价更低、或代价相同而更小的值（你的是 {found:.3f}）",
        )
    found = dear_threshold(np.array([0.5]), np.array([0.4975]), 1)
    if abs(found - 0.5) > 1e-9:
        raise Wrong(
            en="a similarity that equals the threshold is answered: refused are real < value, accepted are "
            "invented >= value",
            zh="相似度等于阈值的要回答：拒掉的是 real < value，放行的是 invented >= value",
        )


@checker("cited")
def _(cited):
    passages = [
        {"id": "a", "text": "Adults pay 45 yuan at the gate. Crab buns are sold inside."},
        {"id": "b", "text": "The gate closes at 18:00."},
        {"id": "c", "text": "In winter a ticket is 45 yuan, too."},
    ]
    for answer, expected in (
        ("45 yuan", ["a", "c"]),
        ("18:00", ["b"]),
        ("crab buns", ["a"]),
        ("Crab Buns", ["a"]),
        (" 45 yuan\n", ["a", "c"]),
        ("18.00", []),
        ("18:00 gate", []),
        ("60 yuan", []),
        ("", []),
        ("  ", []),
    ):
        given = [dict(passage) for passage in passages]
        found = call(cited, answer, given)
        if not isinstance(found, list):
            raise Wrong(
                en=f"a list of ids is needed, this is {type(found).__name__}",
                zh=f"应返回编号的列表，得到的是 {type(found).__name__}",
            )
        if given != passages:
            raise Wrong(
                en="the passages themselves were changed: the reader would see other texts; lower a copy of the text",
                zh="片段本身被改动了，读者看到的就是别的文字：请只对副本转小写",
            )
        if found == expected:
            continue
        if extra := [one for one in found if one not in expected]:
            raise Wrong(
                en=f"the answer {answer!r} is cited from {extra}, where it does not stand",
                zh=f"答案 {answer!r} 引用了 {extra}，可里面没有这个答案",
            )
        raise Wrong(
            en=f"the answer {answer!r} stands in {expected}, cited is {found}: mind capitals, spaces and the order",
            zh=f"答案 {answer!r} 在 {expected} 里，引用的却是 {found}：注意大小写、空白和次序",
        )
