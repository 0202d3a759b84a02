# The builder's tests build this lesson in a folder of their own; it is no part of the course.
# ruff: noqa: F401 (`check` is called in the cells that the builder adds)

# %% [markdown] lang="en" partner="f5aa7807"
# # 90 · A sample
#
# It shows **everything** that a lesson may hold.

# %% [markdown] lang="zh" partner="eefab077"
# # 90 · 示例
#
# 课程中**所有**的单元格类型都在这里。

# %%
from tunelab import check, start

LANG = "en"
session = start("90", LANG)

# %%
# ls the files: an ordinary comment, not a command
rank = 8
print(rank)

# %% [markdown] insert="glossary"

# %% [markdown] lang="en" partner="53a20290"
# Now it is your turn.

# %% [markdown] lang="zh" partner="94f39157"
# 现在轮到你了。


# %% exercise="lora_share"
def lora_share(rank, width):
    """Trainable share of a square layer of `width`."""
    # solution
    return 2 * rank / width


# %% exercise="best_rate"
# Which rate gave the lower loss: 5e-3 or 5e-5?
# solution
best_rate = 5e-3


# %% exercise="stop_bug" args="labels, PAD"
PAD = 0


def labels(ids):
    # stub: for one in ids:
    # stub:     assert one >= 0
    # stub: return ids
    # solution
    return [one if one != PAD else -100 for one in ids]


# %% tags=["raises-exception"]
raise RuntimeError("a failure that the lesson shows on purpose")

# %%
rank = 8
print(rank)

# %%
rank = 8
print(rank)

# %% [markdown] insert="quiz"
