"""A small course in a temporary folder: the tests of the package must not depend on the text of a real lesson."""

from pathlib import Path

import pytest

from tunelab import paths, session

LESSON_TOML = """
title = { en = "Demo lesson", zh = "示例课" }

[labels]
loss = { en = "loss", zh = "损失" }
half = { en = "only English" }
diagram-flow = { en = "A flow chart.", zh = "流程图。" }

[claims.share]
kind = "exact"
unit = "%"
en = "LoRA trains a small share"
zh = "LoRA 只训练一小部分"
[claims.margin]
kind = "measured"
profiles = ["tiny"]
en = "pre-training helps"
zh = "预训练有帮助"
[claims.speed]
kind = "article"
unit = "x"
en = "a step is 24 times as fast"
zh = "每步快 24 倍"
[claims.plain]
kind = "exact"
en = "it is so"
zh = "确实如此"
[claims.odd]
kind = "guess"
en = "it is so"
zh = "确实如此"

[exercises.scale]
minutes = 5
difficulty = 1
title = { en = "Scale", zh = "缩放" }
task = { en = "Return alpha / r.", zh = "返回 alpha / r。" }
hint = { en = "Divide.", zh = "做除法。" }
[exercises.pair]
minutes = 5
difficulty = 1
title = { en = "A <pair>", zh = "一对" }
[exercises.broken]
title = { en = "Broken", zh = "坏的" }
[exercises.forgetful]
title = { en = "Forgetful", zh = "健忘的" }
[exercises.layer]
title = { en = "Layer", zh = "层" }
"""

CHECKS = """
from tunelab.exercises import Wrong, call, checker, expect_close

@checker("scale")
def _(scale):
    expect_close(scale(16, 8), 2.0, en="alpha divided by r", zh="alpha 除以 r")
    expect_close(scale(8, 16), 0.5, en="alpha divided by r", zh="alpha 除以 r")

@checker("pair")
def _(first, second):
    if first is not False and first != 0:
        raise Wrong(en="first must be falsy", zh="第一个应为假值")
    expect_close(second, [1.0, 2.0])

@checker("layer")
def _(layer_class):
    layer = call(layer_class, 2)
    expect_close(call(layer.forward, 3.0), 6.0)

@checker("broken")
def _(answer):
    return undefined_name

@checker("forgetful")
def _(answer):
    return answer == 1
"""

LESSON_SOURCE = """# %%
from tunelab import start
# %% exercise="scale"
def scale(alpha, r):
    # stub: return r / alpha
    # solution
    return alpha / r  # the ratio

# %% [markdown] lang="en"
# Prose.
# %% exercise="pair" args="first,second"
first = 0
# solution
second = [1.0, 2.0]
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the course, point the package at it and forget any running session; return the folder."""
    for name in ("lessons", "checks"):
        (folder / name).mkdir()
        monkeypatch.setitem(paths.ROOTS, name, folder / name)
    (folder / "lessons" / "01_demo.toml").write_text(LESSON_TOML, encoding="utf-8")
    (folder / "lessons" / "02_other.toml").write_text(LESSON_TOML, encoding="utf-8")
    (folder / "lessons" / "01_demo.py").write_text(LESSON_SOURCE, encoding="utf-8")
    (folder / "checks" / "01_demo.py").write_text(CHECKS, encoding="utf-8")
    monkeypatch.setattr(session, "_current", None)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("TUNELAB_STRICT", raising=False)
    return folder
