# %% [markdown] lang="en" partner="aeee8e0d"
# # 07 · The mathematics of LoRA
#
# **After this lesson you can**
# - write LoRA from memory, and say what each of its pieces is there for: two factors, one of them zero, a scale;
# - translate between the two ways in which ΔW is written, and spot the bug that mixes them;
# - say what `alpha` does when the rank changes, and which pairs of learning rate and `alpha` are the same training;
# - judge with a singular value decomposition how much of an update a rank can hold, and what that says about LoRA;
# - check your own layer against `peft`, number by number.
#
# **Before you start**: matrix products, gradients, lesson 04 for what an adapter is. No GPU, no network.
# **Time**: about 60 minutes with the exercises; the cells themselves run for less than a minute on one CPU core.
# **Memory**: 1.5 GB.

# %% [markdown] lang="zh" partner="f8d4e0ed"
# # 07 · LoRA 的数学原理
#
# **学完这一课，你能够**
# - 不看资料写出 LoRA，并说清每个部件为什么存在：两个因子、其中一个从零开始、一个缩放系数；
# - 在 ΔW 的两种写法之间换算，并认出把两者弄混的错误；
# - 说清秩变化时 `alpha` 起什么作用，哪些（学习率，alpha）组合其实是同一次训练；
# - 用奇异值分解判断某个秩能装下更新量的多少，以及这对 LoRA 意味着什么；
# - 把自己写的层与 `peft` 逐个数字核对。
#
# **预备知识**：矩阵乘法、梯度；适配器是什么，见第 04 课。不需要 GPU，不需要联网。
# **时间**：连同练习约 60 分钟；代码本身在单核 CPU 上不到一分钟跑完。
# **内存**：1.5 GB。

# %%
from tunelab import T, check, claim, start

LANG = "en"
course = start("07", LANG)

# %% [markdown] lang="en" partner="d8410727"
# ## The question
#
# LoRA is usually explained in three sentences:
#
# 1. The weight $W$ stays as it is; what is trained is an update of low rank, $\Delta W = A \cdot B$.
# 2. This brings the number of trained parameters down "from hundreds of millions to millions".
# 3. For inference $\Delta W$ is merged into $W$.
#
# And with a picture: a turbo is bolted onto the engine, the engine itself is not rebuilt.
#
# Each sentence hides a why. Why a product of two matrices, and why should so little be enough? With what values do the
# two begin? What is `alpha`, which no formula above contains? Does merging change anything? We start with matrices that
# fit on a napkin, go on to an update that a real model made, and end with a layer of your own that equals the one of
# the library.

# %% [markdown] lang="zh" partner="8cebdb27"
# ## 问题
#
# 介绍 LoRA，通常是三句话：
#
# 1. 权重 $W$ 保持不动，训练的是一个低秩的更新量 $\Delta W = A \cdot B$；
# 2. 参数量由此“从亿级降到百万级”；
# 3. 推理时把 $\Delta W$ 合并到 $W$ 里。
#
# 再配一个比喻：给引擎加装涡轮，引擎本身不动。
#
# 每一句后面都藏着一个“为什么”。为什么是两个矩阵相乘？这么少的参数凭什么够用？两个矩阵从什么值开始？上面的公式里没有的
# `alpha` 又是什么？合并之后有没有变化？我们从草稿纸上写得下的矩阵开始，再看一个真实模型的更新量，最后亲手写一层 LoRA，
# 与官方库的结果一致。

# %% [markdown] lang="en" partner="643504cc"
# ## Step 1 · A matrix made of two thin ones
#
# A toy layer has `d` inputs and `k` outputs. Take one column and one row, and multiply. The result has the full shape,
# but look at its rows: each one is the same row, `B`, times a number from `A`. All rows point in one direction. The **rank**
# counts the independent directions, and here it is one.

# %% [markdown] lang="zh" partner="f49e6544"
# ## 第 1 步 · 由两个窄矩阵拼成的大矩阵
#
# 一个玩具层，`d` 个输入，`k` 个输出。取一列、一行，相乘。结果的形状是完整的，但看它的每一行：都是同一行 `B` 乘上 `A` 里的一个
# 数，所有的行指向同一个方向。**秩**数的就是有多少个独立的方向，这里只有一个。

# %%
import torch

d, k = 6, 4  # inputs and outputs of the layer y = x @ W, with x (1, d) and W (d, k)
A1 = torch.tensor([[1.0], [2], [0], [-1], [3], [1]])  # (d, 1)
B1 = torch.tensor([[2.0, 0, -1, 1]])  # (1, k)
print(A1 @ B1)  # (d, k)
claim("rank-1", torch.linalg.matrix_rank(A1 @ B1), equals=1)

# %% [markdown] lang="en" partner="88eb9971"
# A second column and a second row add a second direction. The product is then the sum of two matrices of rank one: that is
# all there is to "low rank".

# %% [markdown] lang="zh" partner="f6ba8cca"
# 再加一列、一行，就多一个方向。乘积等于两个秩一矩阵之和。所谓“低秩”，仅此而已。

# %%
A2 = torch.cat([A1, torch.tensor([[0.0], [1], [1], [2], [0], [-1]])], dim=1)  # (d, 2)
B2 = torch.cat([B1, torch.tensor([[1.0, 1, 0, -2]])])  # (2, k)
outer_products = [torch.outer(A2[:, i], B2[i]) for i in range(2)]  # each (d, k), each of rank 1
claim("rank-2", torch.linalg.matrix_rank(A2 @ B2), equals=2)
claim("sum-of-outer-products", torch.equal(A2 @ B2, sum(outer_products)), equals=True)


# %% [markdown] lang="en" partner="7370a377"
# What does it save? The full update has $d \cdot k$ numbers, the two factors have $r(d + k)$. On a matrix this small the
# saving is gone almost at once. The rank at which both cost the same is $dk/(d+k)$; on a square layer half its width.
# So the saving is large only where the layer is wide and the rank is not.

# %% [markdown] lang="zh" partner="4a26a458"
# 能省多少？完整的更新有 $d \cdot k$ 个数，两个因子共有 $r(d + k)$ 个。矩阵这么小，几乎立刻就不省了。两者持平的秩是
# $dk/(d+k)$，对方阵来说是宽度的一半。所以只有层很宽、秩很小的时候，才省得多。


# %%
def lora_params(d, k, r):
    """Numbers in the two factors of an update of rank r."""
    return r * (d + k)


for r in range(1, 5):
    print(f"r = {r} · {lora_params(d, k, r):2d} / {d * k} · {lora_params(d, k, r) / (d * k):.0%}")

# %%
claim("toy-parameters", [lora_params(d, k, 1), lora_params(d, k, 2)], equals=[10, 20])
claim("break-even", d * k / (d + k), close_to=(2.4, 1e-9))
claim("wide-layer", lora_params(4096, 4096, 8) / 4096**2, equals=1 / 256)

# %% [markdown] lang="en" partner="abf619f2"
# One more property. Put any invertible $r \times r$ matrix $G$ between the factors: $(AG)(G^{-1}B)$ is the same
# $\Delta W$. The product means something, the factors by themselves do not. Never compare two adapters by their `A`.

# %% [markdown] lang="zh" partner="4a652050"
# 还有一条性质：在两个因子之间塞进任意可逆的 $r \times r$ 矩阵 $G$，$(AG)(G^{-1}B)$ 还是同一个 $\Delta W$。有意义的是
# 乘积，单独的因子没有意义。不要拿两个适配器的 `A` 去比较。

# %%
G = torch.tensor([[2.0, 1], [1, 1]])  # (r, r)
other_A, other_B = A2 @ G, torch.linalg.inv(G) @ B2
claim("same-product", (other_A @ other_B - A2 @ B2).abs().max(), at_most=1e-4)
claim("other-factors", (other_A - A2).abs().max(), at_least=1.0)

# %% [markdown] lang="en" partner="266ae404"
# ## Step 2 · Two ways to write it
#
# Textbooks put the input on the left, $y = x(W + AB)$. PyTorch stores a weight as `(out, in)` and computes
# $y = Wx$ on columns, so there the same update reads `lora_B @ lora_A`. Nothing has changed but a transpose.

# %% [markdown] lang="zh" partner="88a31bde"
# ## 第 2 步 · 两种写法，同一个乘积
#
# 教科书把输入写在左边：$y = x(W + AB)$。PyTorch 的权重按 `(out, in)` 存放，相当于对列向量算 $y = Wx$，于是同一个更新写成
# `lora_B @ lora_A`。两者只差一个转置。

# %%
torch.manual_seed(course.seed)
x = torch.randn(5, d)  # five inputs, one a row
layer = torch.nn.Linear(d, k, bias=False)  # its weight is (k, d): (out, in)
lora_A, lora_B = A2.T, B2.T  # (r, d) and (k, r)
on_rows = x @ (layer.weight.T + A2 @ B2)  # the textbook
on_columns = torch.nn.functional.linear(x, layer.weight + lora_B @ lora_A)  # PyTorch and peft
claim("transposed", torch.equal(A2 @ B2, (lora_B @ lora_A).T), equals=True)
claim("conventions", (on_rows - on_columns).abs().max(), at_most=1e-5)

# %%
import matplotlib.pyplot as plt

from tunelab import figures


def draw(ax, pieces, left=0.0):
    """Matrices as rectangles in proportion, and the signs between them, from left to right."""
    for piece in pieces:
        if isinstance(piece, str):
            ax.text(left + 0.6, 0, piece, ha="center", va="center", fontsize=13)
            left += 1.2
            continue
        name, rows, columns, colour = piece
        ax.add_patch(plt.Rectangle((left, -rows / 2), columns, rows, color=figures.PALETTE[colour], alpha=0.75))
        ax.text(left + columns / 2, -3.3, f"{name}\n{rows}×{columns}", ha="center", va="top", fontsize=9)
        left += columns


fig, (top, bottom) = plt.subplots(2, figsize=(7, 4.2))
one_input = ("x", 1, d, "green")
update = [("A", d, 2, "vermillion"), "·", ("B", 2, k, "orange")]
draw(top, [one_input, "·", "(", ("W", d, k, "sky"), "+", *update, ")"])
update = [("lora_B", k, 2, "orange"), "·", ("lora_A", 2, d, "vermillion")]
draw(bottom, ["(", ("W", k, d, "sky"), "+", *update, ")", "·", ("x", d, 1, "green")])
for ax, title in ((top, T("on-rows")), (bottom, T("on-columns"))):
    ax.set(xlim=(-0.5, 25.5), ylim=(-5.2, 3.2), aspect="equal", title=title)
    ax.axis("off")
figures.show(fig, alt=T("alt-shapes"))

# %% [markdown] lang="en" partner="b6720ad0"
# In both, `A` is the factor that touches the input: $x$ is first squeezed into $r$ numbers, and `B` spreads these over the
# outputs. Remember it by that and not by the order of the letters. From here on we write as PyTorch does.
#
# ## Step 3 · Where the two begin
#
# The update should be zero at first, so that training starts from the model as it is. A product is zero as soon as
# *one* factor is. That leaves four ways to begin. We try them on a small regression: `y` is what the update ought to add
# to the outputs; the frozen part is already subtracted.

# %% [markdown] lang="zh" partner="4a1e154c"
# 两种写法里，`A` 都是先碰到输入的那个因子：$x$ 先被压成 $r$ 个数，再由 `B` 铺到各个输出上。按这一点来记，不要按字母的先后来记。
# 以下一律采用 PyTorch 的写法。
#
# ## 第 3 步 · 从哪里出发
#
# 更新量一开始应当是零，这样训练才从原来的模型起步。乘积要为零，*一个*因子为零就够了。于是起点有四种。我们用一个小回归来试：`y` 是
# 更新量应该给输出加上的东西，冻结的那部分已经减掉了。

# %%
inputs, outputs, rank = 16, 12, 4
torch.manual_seed(course.seed)
x = torch.randn(64, inputs)  # 64 examples
y = x @ torch.randn(outputs, inputs).T  # (64, outputs)
bound = inputs**-0.5  # peft draws A from this interval, too
random_A = torch.empty(rank, inputs).uniform_(-bound, bound)
random_B = torch.empty(outputs, rank).uniform_(-bound, bound)
zero_A, zero_B = torch.zeros(rank, inputs), torch.zeros(outputs, rank)
STARTS = {
    "start-a": (random_A, zero_B),
    "start-b": (zero_A, random_B),
    "start-none": (zero_A, zero_B),
    "start-both": (random_A, random_B),
}


# %%
def train(x, y, A, B, scale=2.0, lr=2e-2, steps=400, optimizer=torch.optim.Adam):
    """Fit scale · x Aᵀ Bᵀ to y; returns ΔW (out, in), the losses, and the norms of the first gradients of A and B."""
    factors = [torch.nn.Parameter(factor.clone()) for factor in (A, B)]
    stepper, losses = optimizer(factors, lr=lr), []
    for step in range(steps):
        loss = (scale * x @ factors[0].T @ factors[1].T - y).square().sum() / len(x)
        stepper.zero_grad()
        loss.backward()
        if step == 0:
            first = [factor.grad.norm().item() for factor in factors]
        stepper.step()
        losses.append(loss.item())
    return scale * (factors[1] @ factors[0]).detach(), losses, first


# %%
runs = {name: train(x, y, *start) for name, start in STARTS.items()}
for name, (_, losses, (of_A, of_B)) in runs.items():
    print(f"{T(name)}: |∇A| = {of_A:.2f} · |∇B| = {of_B:.2f} · {losses[0]:.1f} → {losses[-1]:.1f}")

# %%
fig, ax = plt.subplots()
for name, (_, losses, _) in runs.items():
    figures.curve(ax, range(1, 121), losses[:120], T(name))
ax.set(xlabel=T("step"), ylabel=T("squared-error"), ylim=(0, None))
ax.legend()
figures.show(fig, alt=T("alt-starts"))

# %% [markdown] lang="en" partner="92792f16"
# The gradients are $\nabla_A = s\,B^\top G$ and $\nabla_B = s\,G A^\top$, where $G$ is the gradient of the full
# matrix. So a factor can move only if the *other* one is not zero. With `B` zero the first gradient of `A` is exactly
# zero: in the first step only `B` moves, and from the second on both do.

# %% [markdown] lang="zh" partner="fbf514c8"
# 两个梯度是 $\nabla_A = s\,B^\top G$ 和 $\nabla_B = s\,G A^\top$，其中 $G$ 是完整矩阵的梯度。所以一个因子能不能动，取决于*另一个*
# 是不是零。`B` 为零时，`A` 的第一个梯度恰好为零：第一步只有 `B` 在动，从第二步起两个才一起动。

# %%
final = {name: losses[-1] for name, (_, losses, _) in runs.items()}
claim("first-gradient", runs["start-a"][2][0], equals=0.0)
claim("dead", final["start-none"] - runs["start-none"][1][0], equals=0.0)
claim("either-learns", final["start-b"] / final["start-a"], close_to=(1.0, 0.02))
claim("both-move-base", abs(runs["start-both"][1][0] / runs["start-a"][1][0] - 1), at_least=1e-3)

# %% [markdown] lang="en" partner="fb72add4"
# So "a zero matrix cannot learn" is not quite the rule. One zero factor learns, whichever it is. Two are dead for ever: each
# waits for the other. And two random ones move the model before it has seen an example. The convention is random `A`,
# zero `B`. In large networks it also tolerates a higher learning rate than the reverse (Hayou and others, see below); the
# toy cannot show that.
#
# All that learn end at the same error, and it is not zero. Step 5 tells what it is.

# %% [markdown] lang="zh" partner="92c14373"
# 所以“全零的矩阵学不动”并不准确。一个因子为零，无论是哪一个，都能学。两个都为零，才永远不动：彼此都在等对方。两个都随机，则
# 还没见到一个样例，模型就已经被挪动了。惯例是 `A` 随机、`B` 为零；在大网络里，它还比反过来更经得住高学习率（Hayou 等，见文末），
# 这一点玩具例子显示不出来。
#
# 凡是能学的，最后都停在同一个误差上，而且不是零。它是什么，第 5 步揭晓。

# %% [markdown] lang="en" partner="d0e0ebb1"
# ## Step 4 · What alpha is for
#
# The layer computes $Wx + s\,BAx$, with $s = \alpha / r$. `alpha` is a number that you choose; it is not trained.
# Why divide by the rank? Because a higher rank takes larger steps by itself. By how much the *first* step lowers the loss
# can be said in a line each, as only `B` moves:
#
# - SGD moves `B` by its gradient, so the step of $\Delta W$ is $-\eta\,s^2\,G A^\top A$, and $A^\top A$ grows with $r$: the drop
#   scales as $s^2 r$.
# - Adam moves each number of `B` by the same $\eta$, however small its gradient: the drop scales as $s\,r$.
#
# Now double the rank under three rules: keep `alpha`, keep `alpha/r`, or take $s = \alpha/\sqrt{r}$ (**rsLoRA**).

# %% [markdown] lang="zh" partner="4b73c699"
# ## 第 4 步 · alpha 有什么用
#
# 这一层算的是 $Wx + s\,BAx$，其中 $s = \alpha / r$。`alpha` 是你选的一个数，不参与训练。为什么要除以秩？因为秩越高，每一步本来
# 就迈得越大。*第一步*能让损失降多少，一行就能写清，因为只有 `B` 在动：
#
# - SGD 按梯度移动 `B`，$\Delta W$ 的一步是 $-\eta\,s^2\,G A^\top A$，而 $A^\top A$ 随 $r$ 增长：降幅正比于 $s^2 r$；
# - Adam 不管梯度多小，都把 `B` 的每个数移动同样的 $\eta$：降幅正比于 $s\,r$。
#
# 现在让秩翻倍，有三种取法：保持 `alpha` 不变；保持 `alpha/r` 不变；或取 $s = \alpha/\sqrt{r}$（**rsLoRA**）。


# %%
def first_drop(r, scale, optimizer, width=256):
    """How much the first step lowers the mean squared error of a wide layer."""
    draw = torch.Generator().manual_seed(course.seed)
    x = torch.randn(width, width, generator=draw, dtype=torch.float64)
    y = x @ torch.randn(width, width, generator=draw, dtype=torch.float64).T
    A = (2 * torch.rand(r, width, generator=draw, dtype=torch.float64) - 1) / width**0.5
    A, B = torch.nn.Parameter(A), torch.nn.Parameter(torch.zeros(width, r, dtype=torch.float64))
    stepper = optimizer([A, B])
    before = (scale * x @ A.T @ B.T - y).square().mean()
    before.backward()
    stepper.step()
    return (before - (scale * x @ A.T @ B.T - y).square().mean()).item()


# %%
OPTIMIZERS = {"SGD": lambda p: torch.optim.SGD(p, lr=1e-2), "Adam": lambda p: torch.optim.Adam(p, lr=1e-5)}
SCALES = {"keep-alpha": lambda r: 16 / r, "keep-ratio": lambda r: 2.0, "rslora": lambda r: 16 / r**0.5}
ranks = [4, 8, 16, 32, 64]
drops = {
    (name, rule): [first_drop(r, scale(r), optimizer) for r in ranks]
    for name, optimizer in OPTIMIZERS.items()
    for rule, scale in SCALES.items()
}

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 3.8), sharey=True)
for ax, name in zip(axes, OPTIMIZERS, strict=True):
    for rule, marker in zip(SCALES, "osD", strict=True):
        drop = [value / drops[name, rule][0] for value in drops[name, rule]]
        figures.curve(ax, ranks, drop, T(rule), marker=marker)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xticks(ranks, ranks)
    ax.set(xlabel=T("rank"), title=name)
axes[0].set_ylabel(T("drop"))
axes[0].legend(loc="upper left", fontsize=9)
figures.show(fig, alt=T("alt-alpha"))

# %%
from math import log

EXPONENTS = {"SGD": (-1.0, 1.0, 0.0), "Adam": (0.0, 1.0, 0.5)}
for name, exponents in EXPONENTS.items():
    for rule, exponent in zip(SCALES, exponents, strict=True):
        first, *_, last = drops[name, rule]
        claim(f"{name.lower()}-{rule}", log(last / first) / log(ranks[-1] / ranks[0]), close_to=(exponent, 0.1))

# %% [markdown] lang="en" partner="c5015ec6"
# Read the flat lines. With Adam, the optimizer that everybody uses, a fixed `alpha` is neutral: the $1/r$ pays exactly
# for the larger step. Keep `alpha/r` instead, as the advice "alpha is twice the rank" does, and a higher rank trains at a higher
# rate in disguise. For SGD the neutral rule is rsLoRA. Its author argues from the gradients of large ranks over a whole
# training, not from one step, so this is not the last word on which is best. It is the first word on what you changed:
# **`alpha` alone says nothing; it needs the rank, the optimizer and the learning rate beside it.**
#
# How far does "alpha is a learning rate in disguise" go? Double `alpha` and halve the rate (Adam):

# %% [markdown] lang="zh" partner="e51e3c69"
# 请看那些水平的线。对大家都在用的 Adam 来说，`alpha` 固定是中性的：$1/r$ 正好抵消变大的步子。如果照“alpha 取秩的两倍”的说法保持
# `alpha/r` 不变，那么秩越高，等于暗中调高了学习率。对 SGD 来说，中性的取法是 rsLoRA。它的作者是从大秩下整个训练过程的梯度来论证的，
# 不只看一步，所以这里并没有判定哪个最好；但它先讲清了你到底改动了什么：**单说一个 `alpha` 没有意义，必须连同秩、优化器和学习率
# 一起说。**
#
# “alpha 是变相的学习率”，这话到哪里为止？把 `alpha` 翻倍、学习率减半（Adam）：


# %%
def update(lr, alpha, steps, shrink=1.0):
    """ΔW after so many steps of Adam from a random A (divided by `shrink`) and a zero B."""
    return train(x, y, random_A / shrink, zero_B, scale=alpha / rank, lr=lr, steps=steps)[0]


def difference(a, b):
    """Relative distance of two matrices."""
    return ((a - b).norm() / b.norm()).item()


claim("pair-first-step", difference(update(5e-3, 16, steps=1), update(1e-2, 8, steps=1)), at_most=1e-4)
claim("pair-later", difference(update(5e-3, 16, steps=20), update(1e-2, 8, steps=20)), at_least=0.1)
claim("pair-exact", difference(update(5e-3, 32, 200, shrink=2), update(1e-2, 8, 200)), at_most=1e-3)

# %% [markdown] lang="en" partner="15ca0487"
# After one step the two trainings are the same. Then they part: `alpha` also scales what `A` does, and `A` moves at the
# halved rate from a start that was not halved. The third line has the exact pair: with $\sqrt s A$ and $\sqrt s B$ as the
# real unknowns, Adam sees the same problem when `alpha` is four times as large, the rate half, *and the start of `A` half*.
# In practice: fix `alpha` and the initialisation, and search the learning rate.

# %% [markdown] lang="zh" partner="34d1ebec"
# 第一步之后，两次训练完全一样；随后就分道扬镳：`alpha` 也会放大 `A` 的作用，而 `A` 的学习率减半了，起点却没有减半。第三行才是
# 严格等价的组合：把 $\sqrt s A$ 和 $\sqrt s B$ 看作真正的未知量，那么 `alpha` 乘四、学习率减半，*并且 `A` 的初值也减半*时，Adam
# 面对的是同一个问题。实践中：固定 `alpha` 和初始化，只搜索学习率。

# %% [markdown] lang="en" partner="6df6e4ee"
# ## Step 5 · The best that a rank can do
#
# Suppose you knew the update that is wanted, $M$. What is the best matrix of rank $r$ in its place? The **singular value
# decomposition** writes $M = \sum_i \sigma_i u_i v_i^\top$ with $\sigma_1 \ge \sigma_2 \ge \dots$: a sum of matrices of rank one, the
# weightiest first. Keep the first $r$. Eckart and Young showed in 1936 that nothing of rank $r$ is nearer, and that the
# squared error is the sum of the $\sigma_i^2$ that were dropped.

# %% [markdown] lang="zh" partner="1d8c148b"
# ## 第 5 步 · 给定的秩，最好能做到什么
#
# 假如你知道理想的更新量 $M$，用秩为 $r$ 的矩阵代替它，最好的是哪一个？**奇异值分解**（SVD）把它写成
# $M = \sum_i \sigma_i u_i v_i^\top$，$\sigma_1 \ge \sigma_2 \ge \dots$：一串秩一矩阵之和，分量最重的排在前面。保留前 $r$ 项即可。
# Eckart 与 Young 在 1936 年证明：秩为 $r$ 的矩阵里没有更近的了，而误差的平方正是丢掉的那些 $\sigma_i^2$ 之和。


# %%
def best(matrix, r):
    """The nearest matrix of rank r (Eckart and Young 1936)."""
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return (U[:, :r] * S[:r]) @ Vh[:r]


torch.manual_seed(course.seed)
M = torch.randn(outputs, inputs) @ torch.diag(0.8 ** torch.arange(inputs))  # (out, in)
dropped = torch.linalg.svdvals(M)[rank:].square().sum()
optimum = (best(M, rank) - M).square().sum()
claim("eckart-young", (optimum / dropped).item(), close_to=(1.0, 1e-4))

# %%
bases = torch.linalg.qr(torch.randn(2000, inputs, rank))[0]  # 2,000 random choices of `rank` directions
rivals = M @ bases @ bases.mT - M  # the best that each choice allows: project the rows of M onto it
claim("no-rival", (rivals.square().sum(dim=(1, 2)) / optimum).min(), at_least=1.0)

# %% [markdown] lang="en" partner="9434f436"
# LoRA knows nothing of singular vectors. It has a loss and a gradient. Does it find that optimum? If the inputs are
# **whitened** (uncorrelated, of equal size), the loss *is* the squared distance to $M$, and the question is fair. Five
# draws of $M$ and of the start:

# %% [markdown] lang="zh" partner="35377c95"
# LoRA 不知道什么奇异向量，它只有损失和梯度。它找得到这个最优解吗？如果输入是**白化**过的（互不相关、大小相同），损失*就是*到 $M$ 的
# 距离的平方，这样比才公平。$M$ 和起点各重新抽取五次：

# %%
ratios, whitened = [], torch.linalg.qr(torch.randn(64, inputs))[0] * 64**0.5  # xᵀx / 64 is the identity
for seed in range(5):
    torch.manual_seed(seed)
    wanted = torch.randn(outputs, inputs) @ torch.diag(0.8 ** torch.arange(inputs))
    A = torch.empty(rank, inputs).uniform_(-bound, bound)
    _, losses, _ = train(whitened, whitened @ wanted.T, A, zero_B)
    ratios.append(losses[-1] / (best(wanted, rank) - wanted).square().sum().item())
print([f"{ratio:.5f}" for ratio in ratios])
claim("lora-finds-optimum", max(ratios), at_most=1.01)

# %% [markdown] lang="en" partner="a9ddd11c"
# It does. Now give some inputs a larger size than others, as in any real network. The loss no longer asks "how near is
# $\Delta W$ to $M$" but "how near on the inputs that occur". What counts is the *outputs* $xM^\top$, and the SVD of these says
# how far a rank can get. The same holds for the random inputs of Step 3: there is the error at which all curves came to rest.

# %% [markdown] lang="zh" partner="63fb6c0b"
# 找得到。现在让有些输入比别的大，真实网络里总是如此。损失问的不再是“$\Delta W$ 离 $M$ 有多近”，而是“在实际出现的输入上有多近”。要紧的是
# *输出* $xM^\top$，对输出做 SVD，才知道给定的秩能走多远。第 3 步的随机输入也是一样：所有曲线停下来的那个误差，就是这么来的。


# %%
def floor(targets, r):
    """The least loss of any update of rank r: the squared singular values of the targets after the r-th, for each example."""
    return torch.linalg.svdvals(targets)[r:].square().sum().item() / len(targets)


uneven = whitened * torch.linspace(1 / 3, 3, inputs)  # (64, inputs), the last input nine times the size of the first
targets = uneven @ M.T  # (64, outputs)
found, losses, _ = train(uneven, targets, random_A, zero_B)
cut_loss = (uneven @ best(M, rank).T - targets).square().sum().item() / len(targets)
claim("lora-finds-floor", losses[-1] / floor(targets, rank), at_most=1.01)
claim("step-3-explained", final["start-a"] / floor(y, rank), at_most=1.01)
claim("cut-is-worse", cut_loss / losses[-1], at_least=1.05)
claim("not-the-nearest", ((found - M).norm() / optimum.sqrt()).item(), at_least=1.05)

# %% [markdown] lang="en" partner="526f19a4"
# Keep this for the next step: **LoRA does not look for the best approximation of a matrix, but of what the matrix does to
# its inputs.** A spectrum of $\Delta W$ therefore tells less than it seems to.
#
# ## Step 6 · The update of a real model
#
# Is the update that a model *wants* of low rank? Fine-tune all weights of the course's base on travel questions (lesson
# 01), subtract, and look.

# %% [markdown] lang="zh" partner="8ec9da66"
# 记住这一点，下一步要用：**LoRA 找的不是矩阵的最佳近似，而是矩阵对输入的作用的最佳近似**。所以 $\Delta W$ 的谱说明的东西，比看上去
# 要少。
#
# ## 第 6 步 · 真实模型的更新量
#
# 模型*想要*的更新，真的是低秩的吗？把课程基座的全部权重在旅游问题上微调一遍（同第 01 课），相减，看一看。

# %%
import copy

from tunelab import chat, data, metrics, models, training

base, tokenizer = models.load_lm()
rows = chat.encode_pairs(tokenizer, data.load("questions", LANG, "train", size=1200))
tuned = copy.deepcopy(base)
training.fit(tuned, rows, steps=120, batch_size=8, lr=models.rate("full"))

# %%
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
before = dict(base.named_parameters())
updates = {
    name: (weight - before[name]).detach()
    for name, weight in tuned.named_parameters()
    if name.endswith("_proj.weight")  # seven matrices a layer
}
factors = {name: torch.linalg.svd(change, full_matrices=False) for name, change in updates.items()}


def energy(singular_values, r):
    """Share of the squared norm that the best approximation of rank r keeps."""
    squares = singular_values.square()
    return (squares[:r].sum() / squares.sum()).item()


# %% [markdown] lang="en" partner="7cd4dbaf"
# How much do the first $r$ singular values hold? For comparison, two more matrices of each shape: random numbers, and the
# base's weight itself. (The share does not depend on a matrix's norm, so all three can stand side by side.)

# %% [markdown] lang="zh" partner="262dd707"
# 前 $r$ 个奇异值占多少？每种形状再拿两个矩阵来对照：一个是随机数，一个是基座的权重本身。（这个比例与矩阵的范数无关，所以三者可以并排
# 比较。）

# %%
RANKS = [1, 2, 4, 8, 16, 32]
torch.manual_seed(course.seed)
spectra = {"update": {}, "random": {}, "base": {}}
for kind in KINDS:
    names = [name for name in updates if kind in name]
    spectra["update"][kind] = [factors[name].S for name in names]
    spectra["random"][kind] = [torch.linalg.svdvals(torch.randn_like(updates[name])) for name in names]
    spectra["base"][kind] = [torch.linalg.svdvals(before[name].detach()) for name in names]
kept = {
    what: {kind: [metrics.mean([energy(S, r) for S in several]) for r in RANKS] for kind, several in kinds.items()}
    for what, kinds in spectra.items()
}
at_8 = {what: {kind: shares[RANKS.index(8)] for kind, shares in kinds.items()} for what, kinds in kept.items()}
for kind in KINDS:
    print(f"{kind:<10}" + " · ".join(f"{T(what)} {at_8[what][kind]:.0%}" for what in kept))

# %% [markdown] lang="en" partner="43db8c30"
# The update is far from random, and unlike the weight that it updates. It is not of rank eight either: a tail remains.
# Does the tail matter? Give the base only the first $r$ terms of each update, and judge it three ways on hand-written
# questions: the loss, the share of answers that are valid JSON, and the share that is right in every field.

# %% [markdown] lang="zh" partner="3802a91e"
# 更新量远非随机，也不像被它更新的那个权重。但它的秩也不是八：后面还拖着一条尾巴。这条尾巴要紧吗？只把每个更新量的前 $r$ 项加到
# 基座上，用手写的问题从三方面来评判：损失、合法 JSON 的比例、每个字段都答对的比例。

# %%
questions = data.load("questions", LANG, "dev")
questions = questions.select(range(0, len(questions), 3))  # a third of them, all topics
asked = list(chat.encode_pairs(tokenizer, questions))


@torch.no_grad()
def judge(model):
    """Loss of the answers (nats a token), share of valid JSON, share of answers right in every field."""
    batch = training.collate(asked, pad=tokenizer.pad_token_id)
    loss = model(**{name: t.to(model.device) for name, t in batch.items()}).loss.item()
    scores = metrics.score_json(chat.reply(model, tokenizer, questions["question"]), questions)
    return torch.tensor([loss, metrics.mean(scores["valid"]), metrics.mean(scores["record"])])


@torch.no_grad()
def with_update(r):
    """The base with the first r terms of each update; embeddings and norms stay the base's."""
    model = copy.deepcopy(base)
    weights = dict(model.named_parameters())
    for name, (U, S, Vh) in factors.items():
        weights[name] += (U[:, :r] * S[:r]) @ Vh[:r]
    return model


# %%
untouched, whole = judge(base), judge(tuned)
judged = torch.stack([judge(with_update(r)) for r in RANKS])  # (ranks, 3)
improvement = (untouched[0] - judged[:, 0]) / (untouched[0] - whole[0])  # (ranks,), of the loss
for r, share, (loss, valid, right) in zip(RANKS, improvement, judged, strict=True):
    print(T("cut-line").format(r=r, share=share, loss=loss, valid=valid, right=right))
print(T("whole-line").format(loss=whole[0], valid=whole[1], right=whole[2]))

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
low, high = (pick(kept["random"].values(), key=lambda shares: shares[3]) for pick in (min, max))
left.fill_between(RANKS, low, high, color="#BBBBBB", label=T("random-matrix"))
for kind in KINDS:
    figures.curve(left, RANKS, kept["update"][kind], kind)
mean_energy = [metrics.mean(shares) for shares in zip(*kept["update"].values(), strict=True)]
curves = {"improvement": improvement, "energy": mean_energy, "valid": judged[:, 1], "right": judged[:, 2]}
for (name, shares), marker in zip(curves.items(), "osD^", strict=True):
    figures.curve(right, RANKS, shares, T(f"line-{name}"), marker=marker)
right.axhline(whole[2], color="#444444", linewidth=1, label=T("line-whole"))
for ax in (left, right):
    ax.set_xscale("log", base=2)
    ax.set_xticks(RANKS, RANKS)
    ax.set(xlabel=T("rank"), ylim=(-0.03, 1.03))
    ax.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
left.set_ylabel(T("energy"))
right.set_ylabel(T("share"))
figures.show(fig, alt=T("alt-spectrum"))

# %%
claim("above-random", min(at_8["update"][kind] - at_8["random"][kind] for kind in KINDS), at_least=0.25)
claim("above-base", min(at_8["update"][kind] - at_8["base"][kind] for kind in KINDS), at_least=0.1)
claim("has-a-tail", max(at_8["update"].values()), at_most=0.95)
claim("loss-at-4", improvement[RANKS.index(4)].item(), at_least=0.85)
claim("answers-at-4", (judged[RANKS.index(4), 2] / whole[2]).item(), at_most=0.5)
claim("json-at-8", judged[RANKS.index(8), 1].item(), at_least=0.8)

# %% [markdown] lang="en" partner="6cd67c2f"
# Go through the curves. The *loss* says that all is there after a handful of terms. It is a mean over tokens, and most tokens of an
# answer are form: braces, keys, a name copied from the question. The *form* comes next: with eight terms the JSON is valid. The
# *right answers* come last; they hang on a few tokens, and on the tail. (The line of full fine-tuning also has new embeddings
# and norms, which no cut has: the last gap is not the tail's alone.)
#
# So "the update has low rank" is half true. It is far more concentrated than chance, and what it teaches first, the form, is
# indeed of low rank. But cut it, and you lose what matters while the loss hardly moves.
#
# Does LoRA of rank 8 then lose the answers, too? Not as the cut does: it is trained at that rank and looks for an
# update of its own, not for this cut (Step 5). In every one of the stored seeds, after as few steps as here, it answers
# more questions right than the cut of the same rank. After so few steps it does not always reach full fine-tuning
# (compare the last two ranges below); lesson 08 compares both after a longer training, over stored seeds. Below, the range of five seeds
# (`make experiments`) for the spectra, then for the right answers.

# %% [markdown] lang="zh" partner="e4265803"
# 逐条来看。*损失*说：有几项就全齐了。可它是对词元取的平均，而答案里的词元大多是格式：花括号、键名、从问题里抄来的地名。接着到位的是
# *格式*：八项时 JSON 就合法了。*答对*来得最晚：它取决于少数几个词元，取决于那条尾巴。
# （全量微调那条线还包含新的词嵌入和归一化层，截断里没有，所以最后那段差距不全来自尾巴。）
#
# 所以“更新量是低秩的”只对了一半。它远比随机情形集中，它最先教会的东西，也就是格式，的确是低秩的。但若把它截断，丢掉的恰恰是要紧的，
# 而损失几乎不动。
#
# 那么秩 8 的 LoRA 也会这样丢掉答案吗？不像截断丢得那么多：它就在这个秩上训练，找的是自己的更新量，不是这个截断（第 5 步）。
# 训练步数和这里一样少时，在存储的每一个种子里，它答对的题都比同秩的截断多。不过步数这么少，它不一定赶得上全量微调（比较下面
# 最后两行的范围）；第 08 课用存储的种子，比较两者训练更久之后的结果。下面是五个种子（`make experiments`）的范围，先是谱，再是正确率。

# %%
import json

from tunelab.paths import course_file

stored = json.loads(course_file("assets", "results", "lesson_07.json").read_text(encoding="utf-8"))
stored_runs = [run for run in stored["runs"] if run["lang"] == LANG]
of_kind = [[run["kept"]["update"][kind]["8"] for run in stored_runs] for kind in KINDS]
fig, ax = plt.subplots()
bands, dots = [(min(shares), max(shares)) for shares in of_kind], [at_8["update"][kind] for kind in KINDS]
figures.dot_on_band(ax, KINDS, bands, dots, band_label=T("five-seeds"), dot_label=T("this-run"))
ax.set(xlabel=T("energy-8"), xlim=(0, 1))
figures.show(fig, alt=T("alt-seeds"))

# %%
for name in ("1", "4", "8", "32", "lora", "tuned"):
    shares = [run["dev_scores"][name]["record"] for run in stored_runs]
    print(f"{T('loss-' + name)}: {min(shares):.0%} – {max(shares):.0%}")
leads = [run["dev_scores"]["lora"]["record"] - run["dev_scores"]["8"]["record"] for run in stored_runs]
claim("lora-beats-cut", min(leads), at_least=0.03)

# %% [markdown] lang="en" partner="5b3ae4dc"
# ## Step 7 · LoRA, written by hand
#
# You now know every piece. The engine is `base`: it keeps its place and its numbers. The turbo is the scaled product beside it.

# %% [markdown] lang="zh" partner="ee0ae063"
# ## 第 7 步 · 亲手写 LoRA
#
# 每个部件你都认识了。引擎是 `base`：位置不变，数值不变；涡轮是旁边那个乘了缩放系数的乘积。

# %%
from torch import nn


class LoRALinear(nn.Module):
    """A frozen linear layer with a trained update of low rank (Hu et al. 2021): y = W x + alpha / r · B A x."""

    def __init__(self, base, r, alpha):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)  # uniform within ±1 / sqrt(in), as in peft
        self.scale = alpha / r

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.lora_A.T @ self.lora_B.T)  # never forms the full B A

    @torch.no_grad()
    def merged(self):
        """An ordinary linear layer that computes the same."""
        layer = copy.deepcopy(self.base)
        layer.weight += self.scale * (self.lora_B @ self.lora_A)
        return layer


# %% [markdown] lang="en" partner="f282502e"
# Put it in place of every linear layer of the base's blocks, beside the same done by `peft`.

# %% [markdown] lang="zh" partner="6cce79e5"
# 用它替换基座各个块里的每一个线性层；再让 `peft` 做同样的事，放在旁边。

# %%
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict


def swap(model, old, new):
    """A copy of the model with each layer of type `old` in its blocks replaced by new(layer)."""
    model = copy.deepcopy(model).requires_grad_(False)
    for name, layer in list(model.model.layers.named_modules()):
        if isinstance(layer, old):
            model.model.layers.set_submodule(name, new(layer))
    return model


config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
theirs = get_peft_model(copy.deepcopy(base), config)
mine = swap(base, nn.Linear, lambda layer: LoRALinear(layer, r=8, alpha=16))
for model in (theirs, mine):
    for parameter in model.parameters():
        if parameter.requires_grad:  # lora_A and lora_B alone
            nn.init.normal_(parameter, std=0.05)  # B as well: with B = 0 every LoRA is equal

# %% [markdown] lang="en" partner="2c97b1db"
# Now copy the weights over, both ways. The names differ only by a prefix and a suffix.

# %% [markdown] lang="zh" partner="70e34e90"
# 现在两个方向互拷权重。名字只差一个前缀和一个后缀。


# %%
def trained(model):
    """The parameters that require a gradient, by the names that they have in `mine`."""
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {name.removeprefix("base_model.model.").removesuffix(".default.weight"): p for name, p in found.items()}


def to_peft(weights):
    """The same tensors under the names of a peft checkpoint."""
    return {f"base_model.model.{name}.weight": weight.detach().clone() for name, weight in weights.items()}


def from_peft(weights):
    """A peft checkpoint under the names of `mine`."""
    return {name.removeprefix("base_model.model.").removesuffix(".weight"): w for name, w in weights.items()}


batch = training.collate(list(rows.select(range(8))), pad=tokenizer.pad_token_id)
batch = {name: t.to(base.device) for name, t in batch.items()}


@torch.no_grad()
def gap(one, other):
    """Largest difference of two models' logits, relative to the largest logit."""
    a, b = (model(**batch).logits.float() for model in (one, other))
    return ((a - b).abs().max() / b.abs().max()).item()


# %%
mine.load_state_dict(from_peft(get_peft_model_state_dict(theirs)), strict=False)
claim("peft-to-mine", gap(mine, theirs), at_most=1e-5)
claim("not-the-base", gap(mine, base), at_least=0.01)

for parameter in trained(mine).values():
    nn.init.normal_(parameter, std=0.05)  # other numbers, and back
set_peft_model_state_dict(theirs, to_peft(trained(mine)))
claim("mine-to-peft", gap(theirs, mine), at_most=1e-5)

# %% [markdown] lang="en" partner="122cc570"
# Same output. Same gradients, and the same weights after a step of AdamW? And is the base untouched, to the last bit?

# %% [markdown] lang="zh" partner="3ccf6c45"
# 输出一样。梯度呢？AdamW 走一步之后的权重呢？基座是不是一位都没有动？


# %%
def distance(one, other):
    """Largest difference between two sets of tensors of the same names."""
    return max((one[name] - other[name]).abs().max().item() for name in one)


for model in (mine, theirs):
    model.zero_grad()
    model(**batch).loss.backward()
gradients = [{name: p.grad.clone() for name, p in trained(model).items()} for model in (mine, theirs)]
claim("peft-gradients", distance(*gradients), at_most=1e-5)

for model in (mine, theirs):
    torch.optim.AdamW(trained(model).values(), lr=models.rate("lora")).step()
claim("peft-step", distance(trained(mine), trained(theirs)), at_most=1e-5)

frozen = {name.replace(".base.", "."): p for name, p in mine.named_parameters() if not p.requires_grad}
claim("base-frozen", sum((p != before[name]).sum().item() for name, p in frozen.items()), equals=0)

# %% [markdown] lang="en" partner="a82cf16a"
# Files last. `peft` saves an adapter; your layer reads it. Your layer writes a file; `peft` loads it.

# %% [markdown] lang="zh" partner="41794705"
# 最后是文件。`peft` 保存的适配器，你的层读得进来；你的层写的文件，`peft` 加载得了。

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file, save_file

with TemporaryDirectory() as folder:
    theirs.save_pretrained(folder)
    read = from_peft(load_file(Path(folder, "adapter_model.safetensors"), device=str(base.device)))
    with torch.no_grad():
        for weight in trained(mine).values():
            weight.zero_()  # forgotten; what is read must bring it all back
    mine.load_state_dict(read, strict=False)
    claim("mine-reads-peft", gap(mine, theirs), at_most=1e-5)

    save_file(to_peft(trained(mine)), Path(folder, "adapter_model.safetensors"))
    reloaded = PeftModel.from_pretrained(copy.deepcopy(base), folder)
claim("peft-reads-mine", gap(reloaded, mine), at_most=1e-5)

# %% [markdown] lang="en" partner="a42190d4"
# ## Step 8 · Merging
#
# The third sentence. $Wx + s\,BAx = (W + s\,BA)\,x$: the update can be added to the weight once and for all, and then
# nothing of LoRA is left. The turbo is melted into the engine, which no real turbo can be.

# %% [markdown] lang="zh" partner="e331ba33"
# ## 第 8 步 · 合并
#
# 第三句话。$Wx + s\,BAx = (W + s\,BA)\,x$：更新量可以一次性加进权重，之后 LoRA 就不留任何痕迹。涡轮被熔进了引擎，真的涡轮可做不到。

# %%
merged = swap(mine, LoRALinear, LoRALinear.merged)
peft_merged = copy.deepcopy(theirs).merge_and_unload()
claim("merged", gap(merged, mine), at_most=1e-5)
claim("merged-as-peft", gap(merged, peft_merged), at_most=1e-5)
claim("merged-size", merged.num_parameters() - base.num_parameters(), equals=0)

# %% [markdown] lang="en" partner="0d7f4cd9"
# In 32 bits. Models are served in **bf16**, which keeps eight binary digits of a number. Compared in like precision, your
# layer still equals peft's. But merged and unmerged differ now, in about the second digit: adding the update rounds
# every weight anew. And subtracting it again does not bring the base back. Keep the base, or the adapter, apart.

# %% [markdown] lang="zh" partner="7839a6eb"
# 以上是 32 位。部署时通常用 **bf16**，每个数只有八位二进制有效数字。在同样的精度下，你的层仍与 peft 一致；但合并与不合并之间有了差别，
# 大约在第二位有效数字上：加上更新量时，每个权重都要重新舍入一次。而且再减回去，也回不到原来的基座。所以基座或适配器要单独留一份。

# %%
half = copy.deepcopy(base).to(torch.bfloat16)
mine_16 = swap(half, nn.Linear, lambda layer: LoRALinear(layer, r=8, alpha=16))
mine_16.load_state_dict({name: p.detach() for name, p in trained(mine).items()}, strict=False)
theirs_16 = get_peft_model(copy.deepcopy(half), config, autocast_adapter_dtype=False)  # else peft keeps A and B in fp32
set_peft_model_state_dict(theirs_16, to_peft(trained(mine_16)))
merged_16 = swap(mine_16, LoRALinear, LoRALinear.merged)
claim("bf16-digits", round(1 - log(torch.finfo(torch.bfloat16).eps, 2)), equals=8)
claim("bf16-as-peft", gap(mine_16, theirs_16), at_most=0.01)
claim("bf16-merged", gap(merged_16, mine_16), between=(0.001, 0.05))

# %%
layer, plain = mine_16.model.layers[0].mlp.up_proj, half.model.layers[0].mlp.up_proj.weight
back = layer.merged().weight - layer.scale * (layer.lora_B @ layer.lora_A)
claim("bf16-no-way-back", (back != plain).float().mean().item(), at_least=0.01)

# %% [markdown] lang="en" partner="449456ff"
# What does merging buy? Time for each answer: an unmerged layer does two small products more. Processor time against the base's,
# as the median of interleaved runs; the first line is the base against itself, and shows the noise of the measurement (in brackets the quartiles).

# %% [markdown] lang="zh" partner="1a50d477"
# 合并换来什么？每次回答的时间：不合并的层要多做两个小乘法。下面是相对基座的处理器时间，交替运行取中位数；第一行是基座与它自己相比，
# 显示测量本身的噪声（括号里是四分位数）。

# %%
from statistics import quantiles
from time import thread_time  # of this thread alone: other programs do not count


@torch.no_grad()
def seconds(model):
    """Processor time of one forward pass."""
    started = thread_time()
    model(**batch)
    return thread_time() - started


rounds = [[seconds(model) for model in (base, base, merged, mine)] for _ in range(25)]
ratio = {name: quantiles([r[i] / r[0] for r in rounds]) for i, name in ((1, "noise"), (2, "merged"), (3, "unmerged"))}
for name, (low, middle, high) in ratio.items():
    print(f"{T('time-' + name)}: {middle:.2f} ({low:.2f} – {high:.2f})")


def products(model):
    """Matrices that the input meets on its way through the blocks: one product each."""
    return sum(weight.ndim == 2 for weight in model.model.layers.parameters())


claim("merged-products", products(merged) / products(base), equals=1)
claim("unmerged-products", products(mine) / products(base), equals=3)

# %% [markdown] lang="en" partner="6ed3c5f8"
# ## Step 9 · The numbers people quote
#
# The second sentence: "from hundreds of millions to millions". And others heard together with it: rank 8 on a 7B model
# trains 0.5 %; the adapter has 50 MB; PEFT trains 0.1 % to 1 %. None of this needs a GPU. On the **meta** device tensors
# have shapes and no numbers, so a model of seven billion parameters takes no memory, and `peft` can be asked.

# %% [markdown] lang="zh" partner="40ea3ea4"
# ## 第 9 步 · 人们引用的数字
#
# 第二句话：“从亿级降到百万级”。常一起听到的还有：7B 模型上秩 8 只训练 0.5%；适配器 50 MB；PEFT 训练 0.1%～1% 的参数。验证这些
# 用不着 GPU。**meta** 设备上的张量只有形状、没有数值，七十亿参数的模型不占内存，照样可以交给 `peft` 去数。

# %%
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, LlamaConfig, Qwen2Config

qwen_7b = Qwen2Config(
    vocab_size=152_064,
    hidden_size=3584,
    num_hidden_layers=28,
    intermediate_size=18_944,
    num_attention_heads=28,
    num_key_value_heads=4,
)
SHAPES = {  # the defaults of these two classes are BERT-base and LLaMA-7B
    "BERT-base": (AutoModel, BertConfig(), ["query", "value"]),
    "LLaMA-7B": (AutoModelForCausalLM, LlamaConfig(), ["q_proj", "v_proj"]),
    "Qwen2.5-7B": (AutoModelForCausalLM, qwen_7b, ["q_proj", "v_proj"]),
}


def count(name, targets, r):
    """Parameters of the model and of LoRA on its `targets`, counted on the meta device."""
    auto, shape, _ = SHAPES[name]
    with torch.device("meta"):
        model = get_peft_model(auto.from_config(shape), LoraConfig(r=r, target_modules=targets))
    lora, everything = model.get_nb_trainable_parameters()
    return everything - lora, lora


# %%
from IPython.display import Markdown

counts = {(name, "qv"): count(name, targets, 8) for name, (_, _, targets) in SHAPES.items()}
counts |= {(name, "all"): count(name, "all-linear", 8) for name in SHAPES}
lines = [
    f"| {name} | {T('targets-' + where)} | {size:,} | {lora:,} | {lora / size:.3%} | {4 * lora / 1e6:.1f} | {2 * lora / 1e6:.1f} |"
    for (name, where), (size, lora) in sorted(counts.items())
]
Markdown("\n".join([T("table-header"), "|---|---|---|---|---|---|---|", *lines]))

# %%
size, lora = counts["Qwen2.5-7B", "all"]
claim("share-half-percent", lora / size, between=(0.0045, 0.0055), expected=False)
claim("share-all-linear", lora / size, between=(0.001, 0.01))
claim("share-qv", counts["Qwen2.5-7B", "qv"][1] / size, between=(0.001, 0.01), expected=False)
claim("fifty-megabytes", 2 * lora / 1e6, close_to=(50, 5), expected=False)
claim("bert-to-millions", counts["BERT-base", "all"][1], between=(1_000_000, 9_999_999))
claim("seven-billion-to-millions", lora, between=(1_000_000, 9_999_999), expected=False)

# %% [markdown] lang="en" partner="d0bdf110"
# Which rank would make them true? The parameters grow in proportion to the rank, so one division answers.

# %% [markdown] lang="zh" partner="ce4382b7"
# 秩取多少，这些说法才成立？参数量与秩成正比，做一次除法就知道。

# %%
per_rank = lora / 8
claim("rank-for-half-percent", round(0.005 * size / per_rank), equals=15)
claim("rank-for-50-megabytes", round(50e6 / (2 * per_rank)), equals=10)
claim("rank-for-millions", int(9_999_999 // per_rank), equals=3)

# %% [markdown] lang="en" partner="9c805859"
# So: at rank 8, the quoted share is off by nearly a factor of two. The quoted size fits a slightly higher rank, stored in 16 bits; as `peft` saves it
# by default, in 32, rank 8 is already well above. On the 7B models the quoted range holds when all linear layers are
# adapted, and fails for the classical choice of queries and values; on BERT it is the other way round. "From hundreds of
# millions to millions" is true of BERT with all linear layers. A 7B model goes from billions to tens of millions, or to
# millions at a very low rank or on queries and values alone. The share depends on the
# model's shape, the rank and the targets; a percentage without these three says little.

# %% [markdown] lang="zh" partner="917e18ca"
# 结论：秩 8 时，常说的占比差了约一倍。常说的大小对应稍高一点的秩，并且按 16 位存储；按 `peft` 默认的 32 位保存，秩 8 就已经明显超过了。
# 在两个 7B 模型上，常说的范围在适配全部线性层时成立，只适配 q、v 这个经典选择时不成立；在 BERT 上正好相反。“从亿级降到百万级”对
# 适配全部线性层的 BERT 是对的；7B 模型则是从几十亿降到千万级，只有秩很低或只适配 q、v 时才到百万级。占比取决于模型形状、秩和目标层，离开这三样谈百分比，意义不大。

# %% [markdown] lang="en" partner="5d678917"
# ## What should my loss be?
#
# The one training of a model in this lesson is the full fine-tuning of Step 6. The ranges of the stored seeds: the mean loss of
# the last steps, and the loss on hand-written questions: of the base, with the first terms of the update, with LoRA, with all of it.

# %% [markdown] lang="zh" partner="211d92ad"
# ## 我的损失应该是多少？
#
# 本课只有第 6 步训练了模型（全量微调）。下面是存储的各个种子的范围：最后若干步的平均损失；以及手写问题上的损失，依次是基座、只加
# 更新量的前几项、LoRA、全量微调。

# %%
ends = [run["final_loss"] for run in stored_runs]
print(f"{T('training-loss')}: {min(ends):.3f} – {max(ends):.3f}")
for name in ("base", "1", "4", "8", "32", "lora", "tuned"):
    losses = [run["dev_loss"][name] for run in stored_runs]
    print(f"{T('loss-' + name)}: {min(losses):.3f} – {max(losses):.3f}")

# %% [markdown] lang="en" partner="01ff43f9"
# ## Bug museum
#
# For both exhibits we need a good adapter. The SVD gives one without training: `B` and `A` are the first terms of the
# real update, split evenly.
#
# **Exhibit 1.** A model is trained with one program and served with another. Where it was trained it answers in JSON; where it
# is served, hardly an answer is valid JSON any more. Nothing crashes, every shape fits, the files are the same.

# %% [markdown] lang="zh" partner="40339eae"
# ## 错误博物馆
#
# 两件展品都需要一个好的适配器。SVD 不用训练就能给出：把真实更新量的前几项平分给 `B` 和 `A`。
#
# **展品一**。模型用一个程序训练，用另一个程序部署。在训练的地方，它用 JSON 回答；部署之后，几乎没有一条回答是合法的 JSON。程序不报错，形状
# 都对得上，文件也是同一份。

# %%
good = swap(base, nn.Linear, lambda layer: LoRALinear(layer, r=8, alpha=16))
with torch.no_grad():
    for name, (U, S, Vh) in factors.items():
        wrapped = good.get_submodule(name.removesuffix(".weight"))
        wrapped.lora_B.copy_(U[:, :8] * S[:8].sqrt() / wrapped.scale)
        wrapped.lora_A.copy_(S[:8, None].sqrt() * Vh[:8])


@torch.no_grad()
def served(wrapped):
    """The other program's merge."""
    layer = copy.deepcopy(wrapped.base)
    layer.weight += wrapped.lora_B @ wrapped.lora_A
    return layer


in_training, in_service = judge(swap(good, LoRALinear, LoRALinear.merged)), judge(swap(good, LoRALinear, served))
for name, (loss, valid, _) in (("trained", in_training), ("served", in_service)):
    print(T(f"exhibit-1-{name}").format(loss=loss, valid=valid))
claim("alpha-forgotten", in_service[1].item(), at_most=0.1)
claim("alpha-forgotten-loss", ((untouched[0] - in_service[0]) / (untouched[0] - whole[0])).item(), at_least=0.8)

# %% [markdown] lang="en" partner="c7845127"
# The second program forgot `alpha / r`, so half of the update is missing. Most of the improvement in loss is there, and hardly a
# valid answer: again the loss looks at the wrong tokens. With `alpha` equal to the rank the bug would not show at all.
# *The repair*: one function that merges, and a test that compares merged with unmerged.
#
# **Exhibit 2.** Someone multiplies the factors in the textbook's order, on tensors in PyTorch's layout. Most layers raise an
# error of shapes. He concludes that LoRA "only works on square layers", and adapts these alone: no more errors.

# %% [markdown] lang="zh" partner="64c3a28c"
# 第二个程序忘了 `alpha / r`，更新量少了一半。损失上的改进大半还在，合法的回答却几乎一条也没有：损失看的又不是要紧的词元。要是 `alpha`
# 恰好等于秩，这个错误根本显不出来。
# *修理方法*：合并只写一个函数，并写一个测试来比较合并前后的输出。
#
# **展品二**。有人按教科书的次序去乘因子，而张量是 PyTorch 的布局。大多数层报形状错误。他得出结论：LoRA“只能用在方阵上”，于是只适配
# 方阵层，果然不再报错。

# %%
square = good.model.layers[0].self_attn.o_proj
right_way, wrong_way = square.lora_B @ square.lora_A, square.lora_A.T @ square.lora_B.T
print(tuple(square.base.weight.shape), tuple(right_way.shape), tuple(wrong_way.shape))
claim("same-shape", wrong_way.shape == right_way.shape, equals=True)
claim("transposed-update", difference(wrong_way, right_way), at_least=1.0)

# %% [markdown] lang="en" partner="875cd44a"
# On a square layer the transposed update has the right shape and is worse than none: its distance from the right one is
# larger than the right one itself. *The repair*: never let "it no longer raises" count as a test. An update that moves the output
# by what you expect does.

# %% [markdown] lang="zh" partner="5d104ff7"
# 在方阵上，转置后的更新量形状正确，却比不加还糟：它与正确更新量的距离，比正确更新量本身还大。*修理方法*：不要把“不再报错”当成测试；
# 输出的变化符合预期，才算通过。

# %% [markdown] lang="en" partner="acfecda2"
# ## Play · The rank slider
#
# Above, a picture as a matrix; below, the real update of one layer. Move the rank. At rank one nearly all of the picture's
# energy is there and nothing can be recognised: energy is not meaning. The update looks like noise to the eye, and has its
# few strong directions all the same. From which rank on do the factors need *more* numbers than the matrix?

# %% [markdown] lang="zh" partner="648ffe13"
# ## 动手玩 · 秩的滑块
#
# 上面是一张当作矩阵的图片，下面是某一层真实的更新量。拖动秩。秩为一时，图片的能量几乎都在，却什么也认不出来：能量不等于意义。更新量
# 在眼睛看来像噪声，却同样有几个很强的方向。从哪个秩开始，两个因子需要的数反而*多于*原来的矩阵？

# %%
from tunelab import widgets

height, across = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 128), indexing="ij")
ridge = 0.42 + 0.16 * torch.sin(6 * across) + 0.06 * torch.sin(23 * across)  # a skyline of mountains
picture = torch.where(height > ridge, 0.25 + 0.3 * height, 0.95 - 0.4 * height)
picture = torch.where((height - 0.16) ** 2 + 4 * (across - 0.22) ** 2 < 0.012, 1.2, picture)  # the sun
picture = torch.where(height > 0.74, 0.6 + 0.12 * torch.sin(90 * height + 3 * across), picture)  # a lake
real = updates["model.layers.1.self_attn.k_proj.weight"].cpu()
claim("picture-at-1", energy(torch.linalg.svdvals(picture), 1), at_least=0.95)


# %%
def compare(r):
    """Both matrices beside their best approximations of rank r."""
    fig, axes = plt.subplots(2, 2, figsize=(7.6, 4.2))
    for (whole, cut), name, matrix, colours in zip(
        axes, ("picture", "real"), (picture, real), ("gray", "RdBu"), strict=True
    ):
        near, limit = best(matrix, r), matrix.abs().max().item()
        style = {"cmap": colours, "vmin": -limit if name == "real" else 0, "vmax": limit, "aspect": "auto"}
        style["interpolation"] = "nearest"
        error = difference(near, matrix)
        whole.imshow(matrix, **style)
        whole.set_title(T(f"matrix-{name}").format(numbers=matrix.numel()), fontsize=9)
        cut.imshow(near, **style)
        words = {"r": r, "energy": 1 - error**2, "error": error, "numbers": lora_params(*matrix.shape, r)}
        cut.set_title(T("cut").format(**words), fontsize=9)
        for ax in (whole, cut):
            ax.grid(visible=False)
            ax.set(xticks=[], yticks=[])
    return fig


widgets.slider(compare, [1, 2, 4, 8, 16, 32, 64], label=T("rank"), start=4, alt=T("alt-slider"))

# %% [markdown] lang="en" partner="e1a49485"
# ## Exercises
#
# Each one checks itself. A wrong answer gets a reason, and you can try as often as you like.

# %% [markdown] lang="zh" partner="bbc3306a"
# ## 练习
#
# 每道题都会自己检查。答错了会告诉你原因，想试多少次都行。


# %% exercise="largest_rank"
def largest_rank(d, k):
    """The largest rank at which LoRA has fewer parameters than the d × k matrix that it updates (a whole number)."""
    # solution
    return (d * k - 1) // (d + k)


# %% exercise="alpha_at_32"
# At r = 8 you train with alpha = 16, so s = alpha / r = 2. Now r becomes 32. Which alpha keeps the first step as large?
# Try values in `first_drop(32, alpha / 32, OPTIMIZERS["SGD"])` and compare with `first_drop(8, 2, OPTIMIZERS["SGD"])`;
# then the same for "Adam". Give a whole number for each: {"SGD": ..., "Adam": ...}
# solution
alpha_at_32 = {
    "SGD": 32,  # s² r stays: s is halved when r is four times as large
    "Adam": 16,  # s r stays: alpha stays
}


# %% exercise="merged_weight"
# A colleague wrote this. On the square layers it runs, and the model is useless afterwards. Write it anew.
#
#     def merged_weight(weight, lora_A, lora_B, r, alpha):
#         weight += lora_A.T @ lora_B.T
#         return weight
def merged_weight(weight, lora_A, lora_B, r, alpha):
    """The merged weight (out, in) from weight (out, in), lora_A (r, in), lora_B (out, r); changes none of them."""
    # solution
    return weight + alpha / r * (lora_B @ lora_A)


# %% exercise="lora_from_memory" args="LoRA"
class LoRA(torch.nn.Module):
    """LoRA over `base`, an nn.Linear: frozen base, parameters lora_A (r, in) and lora_B (out, r), and a forward."""

    def __init__(self, base, r, alpha):
        # solution
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = torch.nn.Parameter(torch.randn(r, base.in_features) * base.in_features**-0.5)
        self.lora_B = torch.nn.Parameter(torch.zeros(base.out_features, r))
        self.scale = alpha / r

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.lora_A.T @ self.lora_B.T)


# %% [markdown] lang="en" partner="aa58cd5c"
# ## Recap
#
# - A product of two thin matrices is a sum of few matrices of rank one. It saves only where the rank is far below
#   $dk/(d+k)$.
# - `A` touches the input, `B` the output. One of them begins at zero; both at zero never move.
# - With a fixed `alpha`, Adam's first step does not depend on the rank. `alpha` means nothing without rank, optimizer and rate.
# - With whitened inputs LoRA finds the Eckart-Young optimum; in general it finds the best approximation *on the inputs*.
# - A real update has a tail. The first terms bring the form, right answers need the tail as well, and the loss hardly tells.
#   LoRA of the same rank does better than the cut: it looks for another update.
# - Your layer and `peft` are the same to rounding. Merged, LoRA costs nothing; in bf16 the merge rounds, and there is no
#   way back.
# - A share of parameters is a statement about shape, rank and targets. Count it.

# %% [markdown] lang="zh" partner="0adb3a68"
# ## 小结
#
# - 两个窄矩阵的乘积，就是少数几个秩一矩阵之和。只有当秩远小于 $dk/(d+k)$ 时才省参数。
# - `A` 接输入，`B` 接输出。其中一个从零开始；两个都为零，就永远不动。
# - `alpha` 固定时，Adam 的第一步与秩无关。离开秩、优化器和学习率，`alpha` 没有意义。
# - 输入白化时，LoRA 能找到 Eckart-Young 最优解；一般情况下，它找到的是*在实际输入上*的最佳近似。
# - 真实的更新量有一条尾巴。前几项带来格式，答对还要靠尾巴，而损失几乎看不出来。同秩的 LoRA 胜过截断：它找的是另一个更新量。
# - 你写的层与 `peft` 在舍入误差内一致。合并之后，LoRA 不增加任何开销；但 bf16 下合并会有舍入，而且回不去。
# - 参数占比说的是形状、秩和目标层。要自己数。

# %% [markdown] insert="quiz"

# %% [markdown] insert="glossary"

# %% [markdown] lang="en" partner="a9de3924"
# ## Read next
#
# - Hu and others, *LoRA* (arXiv 2106.09685): the paper; look at its section on the rank of the update.
# - Kalajdzievski, *rsLoRA* (arXiv 2312.03732): why $\alpha/\sqrt r$.
# - Hayou and others (arXiv 2406.08447): why it matters which factor begins at zero.
# - Schulman and others, *LoRA Without Regret* (Thinking Machines, 2025): learning rates, ranks, and which layers.
# - Next in this course: the same layer, from the library, on a whole task.
#
# Below is the ledger: each claim of this lesson, as measured in this run.

# %% [markdown] lang="zh" partner="0564c1ab"
# ## 延伸阅读
#
# - Hu 等，《LoRA》（arXiv 2106.09685）：原论文，可以看其中讨论更新量的秩的一节。
# - Kalajdzievski，《rsLoRA》（arXiv 2312.03732）：为什么是 $\alpha/\sqrt r$。
# - Hayou 等（arXiv 2406.08447）：哪个因子从零开始，为什么有讲究。
# - Schulman 等，《LoRA Without Regret》（Thinking Machines，2025）：学习率、秩和目标层。
# - 本课程的下一课：用库里的同一个层，完成一个完整的任务。
#
# 最后是账本：本课的每一条说法，以及这次运行测得的结果。

# %%
from tunelab.claims import print_ledger

print_ledger()
