# %% [markdown] lang="en" partner="27148cbe"
# # 06 · Optimizers, evaluation, strategies
#
# **After this lesson you can**
# - write SGD, Adam, AdamW and LAMB by hand, and prove them equal to the libraries, step for step;
# - choose an optimizer and its rate by a fair comparison, and say what its state costs;
# - compute F1, BLEU and perplexity by hand, and say how far a score may be trusted;
# - plan a rating by people and an A/B test, and tell when their result means something;
# - freeze, unfreeze and give each layer its own rate, and say what each strategy costs and forgets.
#
# **Before you start**: lesson 01 (fine-tuning, loss mask); lesson 04 for LoRA.
# **Time**: about 90 minutes with the exercises; the cells themselves run for about two minutes on one CPU core.
# **Memory**: 1.5 GB.

# %% [markdown] lang="zh" partner="7f44ed23"
# # 06 · 优化器、效果评估与微调策略
#
# **学完这一课，你能够**
# - 手写 SGD、Adam、AdamW 和 LAMB，并验证每一步都与库一致；
# - 通过公平的比较选优化器和学习率，说清优化器状态要花多少内存；
# - 亲手算出 F1、BLEU 和困惑度，并说清一个分数能信到什么程度；
# - 设计一次人工评分和一次 A/B 测试，判断结果什么时候才算数；
# - 冻结、解冻、逐层设学习率，说清每种策略的代价和它忘掉的东西。
#
# **预备知识**：第 01 课（微调、损失掩码）；LoRA 见第 04 课。
# **时间**：连同练习约 90 分钟；代码本身在单核 CPU 上约两分钟跑完。
# **内存**：1.5 GB。

# %%
from tunelab import T, check, claim, start

LANG = "en"
course = start("06", LANG)

# %% [markdown] lang="en" partner="5010b14b"
# ## The question
#
# Model and data are chosen. Two decisions are left before a fine-tuning, and a judgement after it. The article behind
# this course settles them in a dozen slogans:
#
# | decision | what is said |
# |---|---|
# | optimizer | Adam is stable and converges fast; AdamW adds weight decay against over-fitting; SGD is simple and needs little memory; LAMB suits large models |
# | is it better? | F1, BLEU, loss; a falling loss on the validation set; expert ratings; A/B tests of user satisfaction; behaviour on new data |
# | strategy | full fine-tuning is good and dear; freezing is cheap and limited; gradual unfreezing is complex; LoRA is efficient and quick to switch |
# | example | AdamW at 2e-5, F1 = 0.85, rated 4.5 of 5, LoRA on Qwen |
#
# Some of this is right, some is right for another reason, and some is not. Each part turns one row into experiments;
# the example comes last.

# %% [markdown] lang="zh" partner="d81adf5a"
# ## 问题
#
# 模型和数据都定了。微调之前还有两个决定，之后还有一个判断。本课程所依据的文章用十来句短语就讲完了：
#
# | 决定 | 文章的说法 |
# |---|---|
# | 优化器 | Adam 稳定、收敛快；AdamW 加了权重衰减，防过拟合；SGD 简单、省内存；LAMB 适合大模型 |
# | 变好了吗 | F1、BLEU、损失；验证集损失下降；专家评分；用户满意度的 A/B 测试；新数据上的表现 |
# | 策略 | 全量微调效果好、成本高；冻结层便宜、效果有限；渐进式解冻复杂；LoRA 效率高、切换快 |
# | 例子 | AdamW（2e-5），F1=0.85，评分 4.5/5，LoRA 微调 Qwen |
#
# 这些话有的对，有的对但理由不对，有的不对。下面三个部分各把一行变成实验，例子留到最后。

# %% [markdown] lang="en" partner="950837b8"
# ## Part I · Optimizers
#
# ### Four rules, ten lines each
#
# Backpropagation says, for each weight, which way is uphill; the **optimizer** decides how far to step. Picture a
# walker in fog who feels only the slope under his feet. SGD steps in proportion to it; with **momentum** he is a heavy
# ball that keeps its speed. Adam gives every weight a stride of its own, LAMB every layer. The picture's limit: this
# hill has a million dimensions, and it shakes, since every batch shows another part of it. Each rule takes a weight,
# its gradient, and a `state` that it keeps.

# %% [markdown] lang="zh" partner="ac182db6"
# ## 第一部分 · 优化器
#
# ### 四条规则，每条十来行
#
# 反向传播告诉每个权重哪边是上坡；迈多大一步，由**优化器**决定。想象一个人在雾里下山，只感觉得到脚下的坡度：SGD 按坡度迈步；加上**动量**，就成了有惯性的重球；
# Adam 给每个权重单独定步幅，LAMB 给每一层单独定。这个比方的局限：这座山有一百多万维，而且一直在抖，因为每个批次只看得到它的一部分。每条规则接收一个权重、它的梯度，
# 以及跨步保留的状态 `state`。

# %%
import copy
import json
import math

import matplotlib.pyplot as plt
import numpy as np
import torch

from tunelab import accounting, chat, data, figures, metrics, models, training, widgets
from tunelab.paths import course_file


def sgd(weight, gradient, state, *, lr, momentum=0.9, weight_decay=0.0):
    """SGD with momentum (Polyak 1964)."""
    gradient = gradient + weight_decay * weight  # L2: the gradient of weight_decay / 2 * weight²
    state["velocity"] = momentum * state.get("velocity", 0) + gradient
    weight -= lr * state["velocity"]


# %%
def moments(gradient, state, betas, corrected=True):
    """Running means of the gradient and of its square; both start at zero, which the correction makes up for."""
    state["step"] = state.get("step", 0) + 1
    result = []
    for name, beta, value in (("mean", betas[0], gradient), ("square", betas[1], gradient**2)):
        state[name] = beta * state.get(name, 0) + (1 - beta) * value
        result.append(state[name] / (1 - beta ** state["step"]) if corrected else state[name])
    return result


def adam(weight, gradient, state, *, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    """Adam (Kingma and Ba 2015): each weight's step is divided by the usual size of its gradient."""
    gradient = gradient + weight_decay * weight  # L2, as in SGD
    mean, square = moments(gradient, state, betas)
    weight -= lr * mean / (square.sqrt() + eps)


def adamw(weight, gradient, state, *, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
    """AdamW (Loshchilov and Hutter 2019): the decay goes past Adam, straight to the weight."""
    weight -= lr * weight_decay * weight
    adam(weight, gradient, state, lr=lr, betas=betas, eps=eps)


# %%
def lamb(weight, gradient, state, *, lr, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, corrected=True, cap=math.inf):
    """LAMB (You and others 2020): Adam's direction, as long as the whole tensor's norm says."""
    mean, square = moments(gradient, state, betas, corrected)
    update = mean / (square.sqrt() + eps) + weight_decay * weight
    size, length = weight.norm().clamp(max=cap), update.norm()
    ratio = size / (length + eps) if size > 0 and length > 0 else 1.0  # the trust ratio
    weight -= lr * ratio * update


# %% [markdown] lang="en" partner="7d6b0775"
# One class turns a rule into an optimizer that can stand wherever torch's own can.

# %% [markdown] lang="zh" partner="a17233e0"
# 再用一个类把规则包成优化器，凡是用 torch 优化器的地方都能用它。


# %%
class ByHand(torch.optim.Optimizer):
    """Moves every weight by one of the rules above."""

    def __init__(self, weights, rule, **settings):
        super().__init__(weights, settings)
        self.rule = rule

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            settings = {name: group[name] for name in self.defaults}
            for weight in group["params"]:
                if weight.grad is not None:
                    self.rule(weight, weight.grad, self.state[weight], **settings)


# %% [markdown] lang="en" partner="c71f4d35"
# Are they right? A falling loss proves nothing: half-right optimizers train too. So we record twenty gradients of the
# course's base on its fine-tuning task, **questions to JSON**, and send our rules and the libraries over them, with
# weight decay, in double precision, and with a tensor of zeros to test the divisions.

# %% [markdown] lang="zh" partner="e3aa634a"
# 写对了吗？损失下降说明不了什么：写错一半的优化器照样能训练。所以，先录下课程基座在微调任务（**问题转 JSON**）上的二十步梯度，再让我们的规则和库走同样的梯度：
# 带权重衰减，用双精度，还添一个全零的张量，专门考除法。

# %%
base, tokenizer = models.load_lm()
train = data.load("questions", LANG, "train", size=2000)
encoded = chat.encode_pairs(tokenizer, train)
STEPS, BATCH = 120, 8  # of the trainings in this lesson
test = data.load("questions", LANG, "test")
test = test.select(range(0, len(test), 3))  # a third: each of the hand-written wordings, with two places


def evaluate(model):
    """Scores of the model's JSON answers on the test questions, one value a question."""
    return metrics.score_json(chat.reply(model, tokenizer, test["question"]), test)


# %%
def small_ones(model):
    """The weights that we record: all of the course's base; of a larger model, what twenty copies of fit into memory."""
    return [weight for weight in model.parameters() if weight.numel() <= 400_000]


recorded = []
walker = copy.deepcopy(base)
steps = torch.optim.AdamW(walker.parameters(), lr=1e-3)
for number in range(20):
    rows = encoded.select(range(BATCH * number, BATCH * (number + 1)))
    batch = {name: t.to(base.device) for name, t in training.collate(list(rows), pad=0).items()}
    walker(**batch).loss.backward()
    zeros = torch.zeros(3, device=base.device, dtype=torch.double)
    recorded.append([w.grad.double() for w in small_ones(walker)] + [zeros])
    steps.step()
    steps.zero_grad()
del walker, steps


# %%
def replay(make, gradients):
    """The base's weights in double precision after an optimizer has seen these gradients; and the optimizer."""
    weights = [torch.nn.Parameter(w.detach().double()) for w in small_ones(base)]
    weights.append(torch.nn.Parameter(torch.zeros_like(gradients[0][-1])))
    optimizer = make(weights)
    for now in gradients:
        for weight, gradient in zip(weights, now, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
    return weights, optimizer


def apart(mine, theirs):
    """The largest difference of any weight after the recorded gradients."""
    pairs = zip(replay(mine, recorded)[0], replay(theirs, recorded)[0], strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


# %%
from functools import partial

from pytorch_optimizer import Lamb


def versus(rule, library, settings, **more):
    """How far a rule and an optimizer are apart; torch walks over all tensors at once (foreach), or one by one."""
    mine = partial(ByHand, rule=rule, **settings, **more)
    return max(apart(mine, partial(library, **settings, foreach=way)) for way in (True, False))


settings = {"lr": 1e-3, "weight_decay": 0.01}
claim("opt-sgd-equal", versus(sgd, torch.optim.SGD, settings | {"momentum": 0.9}), at_most=1e-6)
claim("opt-adam-equal", versus(adam, torch.optim.Adam, settings), at_most=1e-6)
claim("opt-adamw-equal", versus(adamw, torch.optim.AdamW, settings), at_most=1e-6)
set_right = partial(Lamb, weight_decouple=False, adam_debias=True)
claim("opt-lamb-equal", versus(lamb, set_right, settings, corrected=False, cap=Lamb.clamp), at_most=1e-6)

# %% [markdown] lang="en" partner="b0428cbb"
# The last equality took four switches. Each is a difference between library and paper:
#
# - **decay**: by default the library shrinks the weight first, as AdamW does; in the paper the decay is part of the update whose length is taken;
# - **correction**: the published paper corrects the bias of both means, the library does not;
# - **cap**: the library caps the norm of a weight at ten; the paper allows a cap and names no number;
# - **rate**: by default the library divides the rate by Adam's first correction, after the trust ratio; its documentation says that nothing is corrected.
#
# The second is harmless: without decay the correction is one factor for a whole tensor, and the trust ratio cancels it.
# The last two are not:

# %% [markdown] lang="zh" partner="0e966c82"
# 最后一条相等，拨了四个开关才成立；每个都是库与论文的一处不同：
#
# - **衰减**：库默认先缩小权重（同 AdamW）；论文把衰减算进更新量，一起量长度；
# - **校正**：正式发表的论文对两个均值都做偏差校正，库不做；
# - **上限**：库把权重的范数截到十为止；论文允许设上限，但没给出数值；
# - **学习率**：库默认在乘信任比之后，再把学习率除以 Adam 的第一个校正量；它的文档却说不做校正。
#
# 第二处无关紧要：没有衰减时，校正对整个张量只是一个公共系数，会被信任比约掉。后两处可不是：

# %%
plain = {"lr": 1e-3, "weight_decay": 0.0, "eps": 1e-12}
gap = apart(partial(ByHand, rule=lamb, **plain), partial(ByHand, rule=lamb, corrected=False, **plain))
claim("opt-correction-cancels", gap, at_most=1e-3)
before = [w.detach().double() for w in small_ones(base)]
after, _ = replay(partial(Lamb, **plain), recorded[:1])  # the library as it comes, one step
relative = [((b - a).norm() / (plain["lr"] * a.norm())).item() for a, b in zip(before, after[:-1], strict=True)]
claim("opt-first-step", max(relative), close_to=(10, 0.1))
claim("opt-capped", sum(w.norm() > Lamb.clamp for w in before).item() / len(before), at_least=0.5)

# %% [markdown] lang="en" partner="7539b199"
# The library's first step is ten times as long as the trust ratio allows, and the cap binds for most tensors of our
# small model. From here on, "LAMB" is the paper's.
#
# ### A walk on a surface
#
# Two weights, so that one can look: a valley forty times as steep across as along. Move the slider (arrow keys work).

# %% [markdown] lang="zh" partner="18794a4c"
# 库的第一步，长度是信任比所允许的十倍；而这个小模型的大多数张量都碰到了上限。以下的“LAMB”一律指论文的版本。
#
# ### 在曲面上走一走
#
# 只留两个权重，才看得见：一条山谷，横向比纵向陡四十倍。拖动滑块（方向键也行）。


# %%
def valley(point, angle, steepness=40.0):
    """Height of a long valley whose axis is turned by an angle."""
    along = math.cos(angle) * point[0] + math.sin(angle) * point[1]
    across = math.cos(angle) * point[1] - math.sin(angle) * point[0]
    return 0.5 * (along**2 + steepness * across**2)


def walk(rule, angle=0.0, scale=1.0, count=300, **settings):
    """The points and heights of a walk of so many steps; `scale` multiplies the loss."""
    c, s = math.cos(angle), math.sin(angle)
    start_at = torch.tensor([-4 * c - s, -4 * s + c], dtype=torch.double)  # the same place in any valley
    point = torch.nn.Parameter(start_at)
    optimizer, points, heights = ByHand([point], rule, **settings), [], []
    for _ in range(count):
        points.append(point.tolist())
        heights.append(valley(point, angle).item())
        optimizer.zero_grad()
        (scale * valley(point, angle)).backward()
        optimizer.step()
    return np.array(points), np.array(heights)


def arrival(heights, low=0.01):
    """The number of steps after which the walk stays below a height; the length of the walk if it never does."""
    above = np.flatnonzero(~(heights < low))
    return int(above[-1]) + 1 if len(above) else 0


# %%
WALKS = {
    "opt-plain": (sgd, {"lr": 0.045, "momentum": 0.0}),
    "opt-momentum": (sgd, {"lr": 0.04, "momentum": 0.7}),
    "opt-adam": (adam, {"lr": 0.3}),
}
TILT = math.pi / 10
routes = {name: walk(rule, TILT, **settings) for name, (rule, settings) in WALKS.items()}
across, upward = np.meshgrid(np.linspace(-5, 2, 120), np.linspace(-2.2, 1.6, 100))
height = valley((across, upward), TILT)


def stand(step):
    """The three walkers after so many steps."""
    fig, ax = plt.subplots(figsize=(7, 4))
    ax.contour(across, upward, height, levels=np.geomspace(0.05, 60, 9), colors="#BBBBBB", linewidths=0.8)
    for (name, (points, heights)), style in zip(routes.items(), ("-o", "--s", "-.^"), strict=True):
        label = f"{T(name)}: {heights[step]:.3g}"
        ax.plot(*points[: step + 1].T, style, markersize=3, linewidth=1.2, label=label)
        ax.plot(*points[step], style[-1], markersize=8, color=ax.lines[-1].get_color(), markeredgecolor="black")
    ax.plot(0, 0, "*", color="black", markersize=12)
    ax.set(xlabel=T("opt-first"), ylabel=T("opt-second"), title=T("opt-heights").format(step=step))
    ax.legend(loc="lower right", fontsize=9)
    return fig


widgets.slider(stand, [0, 1, 2, 3, 5, 8, 12, 20, 30, 50, 80], label=T("opt-step"), start=12, alt=T("opt-alt-walk"))

# %% [markdown] lang="en" partner="b86bd53f"
# SGD bounces between the walls while it creeps along the floor: the steep direction limits the rate, and the flat one
# pays. Momentum lets the bounces cancel. And Adam? Tuned momentum is *faster* here. Adam's merit lies elsewhere:

# %% [markdown] lang="zh" partner="d2bdf2e0"
# SGD 在两壁之间来回弹，沿谷底却只能慢慢爬：学习率受陡的方向限制，代价由平的方向承担。动量让来回的弹跳互相抵消。Adam 呢？在这里，调好的动量法比它*更快*。
# Adam 的长处在别处：

# %%
fastest = {name: arrival(walk(rule, **settings)[1]) for name, (rule, settings) in WALKS.items()}
print(*(f"{T(name)}: {count}" for name, count in fastest.items()), sep=" · ")
claim("opt-momentum-wins", fastest["opt-momentum"] < fastest["opt-adam"], equals=True)
arrives = {rate: arrival(walk(adam, lr=rate)[1]) for rate in (0.1, 0.2, 0.4, 0.8, 1.2)}
claim("opt-adam-any-rate", max(arrives.values()) / min(arrives.values()), at_most=1.5)
claim("opt-sgd-edge", arrival(walk(sgd, lr=0.051, momentum=0.0)[1]), equals=300)
moved = np.abs(walk(adam, lr=0.3)[0] - walk(adam, lr=0.3, scale=1000)[0]).max()
claim("opt-adam-scale", moved, at_most=1e-4)
turned = arrival(walk(adam, math.pi / 4, lr=0.1)[1]) / arrives[0.1]
claim("opt-adam-turned", turned, at_least=2)

# %% [markdown] lang="en" partner="00d55d91"
# Adam arrives at any rate over a factor of twelve, where SGD flies off just above its limit; and a loss a thousand
# times as large leaves its walk unchanged. That is what "stable" should mean. The price: it looks at each *axis* alone.
# Turn the valley by 45 degrees, and it needs more than twice the steps.
#
# ### Adam with L2 is not AdamW
#
# In SGD without momentum, weight decay and an L2 penalty are one thing. Adam *divides* the gradient by its usual size,
# and a penalty that hides in the gradient is divided along with it. Take one weight, at 1, on which the loss does not
# depend, and then give it a loud gradient that flips its sign:

# %% [markdown] lang="zh" partner="fef5dc30"
# 学习率相差十二倍，Adam 都走得到；SGD 略微超过极限就飞了出去。损失放大一千倍，Adam 的路线也不变。“稳定”指的应该是这个。代价是，它只逐个看*坐标轴*：
# 把山谷转 45 度，步数就要两倍以上。
#
# ### 带 L2 的 Adam 不是 AdamW
#
# 对不带动量的 SGD，权重衰减和 L2 惩罚是一回事。Adam 却要把梯度*除以*它平时的大小，藏在梯度里的惩罚也跟着被除掉。取一个值为 1 的权重：先让损失与它无关，
# 再给它一个很大的、正负交替的梯度：


# %%
def decayed(rule, weight_decay, loudness, count):
    """A weight that begins at 1 after so many steps with a gradient of alternating sign."""
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.double))
    optimizer = ByHand([weight], rule, lr=1e-3, weight_decay=weight_decay)
    for number in range(count):
        weight.grad = torch.full_like(weight, loudness * (-1) ** number)
        optimizer.step()
    return weight.item()


for rule, name in ((adam, "Adam + L2"), (adamw, "AdamW")):
    quiet, loud = ([decayed(rule, decay, size, 400) for decay in (0.001, 0.1)] for size in (0.0, 10.0))
    print(T("opt-decayed").format(name=name, quiet=quiet, loud=loud))

# %%
claim("opt-l2-blind", decayed(adam, 0.1, 0.0, 400) - decayed(adam, 0.001, 0.0, 400), close_to=(0, 1e-4))
claim("opt-l2-loud", 1 - decayed(adam, 0.1, 10.0, 400), at_most=0.01)
claim("opt-adamw-decay", decayed(adamw, 0.1, 10.0, 400), close_to=((1 - 1e-3 * 0.1) ** 400, 0.003))

# %% [markdown] lang="en" partner="7562516f"
# With L2 the quiet weight shrinks by Adam's full stride, *whatever the strength of the penalty*; the loud one hardly
# shrinks. AdamW shrinks both by what was asked for.

# %% [markdown] lang="zh" partner="29707c55"
# 用 L2 时，没有梯度的权重按 Adam 的整步幅缩小，*与惩罚强度无关*；梯度很大的权重几乎不缩。AdamW 对两者都是要多少就缩多少。

# %% [markdown] lang="en" partner="de7db933"
# ### Does weight decay prevent over-fitting?
#
# So says the article of AdamW. To over-fit, the base reads 64 training examples fifteen times. `make experiments` did
# so without decay and with a hundred times the default, with several seeds in both languages
# (`assets/results/lesson_06.json`). The **gap** is the loss on the hand-written questions minus the loss on the 64
# examples.

# %% [markdown] lang="zh" partner="6abea41f"
# ### 权重衰减能防止过拟合吗？
#
# 文章说 AdamW 能。要过拟合，就让基座把 64 条训练样例反复读十五遍。`make experiments` 分别用“不衰减”和“默认值一百倍的衰减”，多个种子、
# 两种语言跑了一遍（`assets/results/lesson_06.json`）。**差距**指手写问题上的损失减去这 64 条样例上的损失。

# %%
stored = json.loads(course_file("assets", "results", "lesson_06.json").read_text(encoding="utf-8"))
contest = stored["optimizers"]


def runs(part, name, lang=LANG, **settings):
    """The stored runs of one optimizer, in the order of their seeds."""
    wanted = {"part": f"opt-{part}", "optimizer": name, "lang": lang, **settings}
    return sorted((r for r in contest["runs"] if wanted.items() <= r.items()), key=lambda r: r["seed"])


gaps = {}
for decay in (0.0, 1.0):
    few = runs("decay", "adamw", decay=decay)
    gaps[decay] = np.array([r["held_out_loss"] - r["train_loss"] for r in few])
    answers = metrics.mean([r["answer"] for r in few])
    print(T("opt-gap").format(decay=decay, gap=gaps[decay].mean(), answers=answers, norm=few[0]["norm"]))
enough = runs("report", "adamw")
answers = metrics.mean([r["answer"] for r in enough])
closed = 1 - gaps[1.0].mean() / gaps[0.0].mean()
print(T("opt-more-data").format(gap=metrics.mean([r["held_out_loss"] - r["loss"] for r in enough]), answers=answers))
claim("opt-decay-overfit", closed, at_least=0.5, expected=False)
claim("opt-decay-share", contest["rates"]["adamw"] * 0.01 * STEPS, at_most=0.004)

# %% [markdown] lang="en" partner="8d1b3b53"
# Not here. A hundred times the default leaves the gap about as wide; the default takes four thousandths of a weight at
# most, so short is the training. What narrows the gap is the last line: what is read once is hardly learnt by heart.
# Weight decay earns its keep in pre-training, over hundreds of thousands of steps.

# %% [markdown] lang="zh" partner="43c3a570"
# 在这里并不能。加到默认值的一百倍，差距还是差不多宽；训练这么短，默认值最多只从权重里拿走千分之四。真正缩小差距的是最后一行：只读一遍，很难背下来。
# 权重衰减的用武之地是动辄几十万步的预训练。

# %% [markdown] lang="en" partner="809e1fc8"
# ### The bill of the state
#
# What an optimizer keeps for each weight must fit beside the weight (lesson 03 counted the rest). Count it from the
# state itself, after one step. **Muon** is explained below.

# %% [markdown] lang="zh" partner="71cbd4a2"
# ### 优化器状态的账单
#
# 优化器为每个权重保留的东西，都得和权重一起放进内存（账单的其余部分见第 03 课）。走一步，直接从状态里数。**Muon** 下文再讲。


# %%
def is_matrix(weight):
    """Whether a weight is a matrix inside a layer; the embedding is a table of vectors."""
    return weight.ndim == 2 and len(weight) != base.config.vocab_size


def muon(weights, lr):
    """Muon for the matrices, AdamW for the rest: two optimizers."""
    inner, others = [w for w in weights if is_matrix(w)], [w for w in weights if not is_matrix(w)]
    matched = {"adjust_lr_fn": "match_rms_adamw"}  # a step as large as AdamW's, so that one rate serves both
    return [torch.optim.Muon(inner, lr=lr, weight_decay=0.01, **matched), torch.optim.AdamW(others, lr=lr)]


KINDS = {
    "SGD": lambda weights: [torch.optim.SGD(weights, lr=0.1)],
    "SGD + momentum": lambda weights: [torch.optim.SGD(weights, lr=0.1, momentum=0.9)],
    "Adam": lambda weights: [torch.optim.Adam(weights)],
    "AdamW": lambda weights: [torch.optim.AdamW(weights)],
    "LAMB": lambda weights: [Lamb(weights)],
    "Muon + AdamW": lambda weights: muon(weights, 1e-3),
}
each = {}
for name, make in KINDS.items():
    weights = [torch.nn.Parameter(w.detach().clone()) for w in base.parameters()]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    size = 0
    for optimizer in make(weights):
        optimizer.step()
        size += sum(v.nbytes for state in optimizer.state.values() for v in state.values() if v.ndim)
    each[name] = size / base.num_parameters()
    print(T("opt-bytes").format(name=name, each=each[name]))

# %%
seven = accounting.count(accounting.skeleton("qwen2.5-7b")).total
claim("opt-sgd-memory", each["SGD"], equals=0.0)
claim("opt-adam-memory", each["AdamW"], equals=8.0)
claim("opt-adam-7b", each["AdamW"] * seven / 1e9, between=(60, 62))
claim("opt-muon-memory", each["Muon + AdamW"], between=(4, 8))

# %% [markdown] lang="en" partner="a8c8a6b0"
# So "SGD needs little memory" is right: without momentum it keeps nothing, and Adam's two means of a 7B are more than
# the weights themselves. Why then does hardly anybody fine-tune language models with SGD?
#
# ### The five on one task
#
# Adam looks at each number alone. But most weights are *matrices*, and what a matrix does is told by its singular
# values. In a gradient a few directions are loud and the rest is faint. **Muon** (2024) takes SGD's momentum and makes
# all singular values of the step about equal, by five Newton-Schulz iterations (matrix products, no SVD); embeddings
# and norms are left to AdamW.

# %% [markdown] lang="zh" partner="609074f5"
# 可见“SGD 省内存”说得对：不带动量时什么都不存；而 7B 模型上 Adam 的两个均值，比权重本身还大。那为什么几乎没人用 SGD 微调语言模型？
#
# ### 五种优化器，同一个任务
#
# Adam 只逐个看数。可是权重大多是*矩阵*，矩阵做什么，要看奇异值。梯度里少数方向很强，其余都很弱。**Muon**（2024）在 SGD 动量的基础上，
# 用五次 Newton–Schulz 迭代（只做矩阵乘法，不做 SVD）把这一步的奇异值拉到差不多大；词嵌入和归一化仍交给 AdamW。

# %%
first = next(number for number, weight in enumerate(small_ones(base)) if is_matrix(weight))
weight = torch.nn.Parameter(torch.zeros_like(recorded[0][first]).float())
weight.grad = recorded[0][first].float()
torch.optim.Muon([weight], lr=1.0, weight_decay=0.0).step()
spread = [torch.linalg.svdvals(matrix.detach().float()) for matrix in (recorded[0][first], weight)]
for name, values in zip(("opt-before-muon", "opt-after-muon"), spread, strict=True):
    print(T("opt-singular").format(name=T(name), most=values.max(), middle=values.median()))
claim("opt-gradient-spread", (spread[0].max() / spread[0].median()).item(), at_least=50)
claim("opt-muon-spread", (spread[1].max() / spread[1].median()).item(), at_most=10)

# %% [markdown] lang="en" partner="85905c2e"
# Now the contest, on all weights of the base. It stands or falls with the learning rates. Each optimizer tried a grid
# of rates on the *dev* questions, with three seeds and in runs exactly as long as those reported (the best rate depends
# on the number of steps), and the grid was widened whenever the best rate stood at its edge. Only then were five other
# seeds scored on the *test* questions. Adam took AdamW's rate: in so short a run the decay hardly counts. All gradients
# are clipped to length 1, as `training.fit` always does.
#
# One of these runs you make yourself, with *your own* AdamW.

# %% [markdown] lang="zh" partner="f6f588fc"
# 现在比一比：微调基座的全部权重。成败全在学习率。每个优化器在 *dev* 问题上用三个种子试一组学习率，训练长度和报告的完全一样（最好的学习率取决于步数）；最好的若落在边上，
# 就把范围再放宽。选定之后，才用五个新种子在*测试*问题上打分。Adam 沿用 AdamW 的学习率：训练这么短，衰减几乎不起作用。
# 梯度一律裁剪到长度 1，`training.fit` 向来如此。
#
# 其中一次由你来跑，用的是*你自己写的* AdamW。

# %%
rate = contest["rates"]["adamw"] if course.profile == "tiny" else models.rate("full")
adam_tuned = copy.deepcopy(base)
adam_history = training.fit(
    adam_tuned,
    encoded,
    steps=STEPS,
    lr=rate,
    batch_size=BATCH,
    optimizer=lambda weights, lr: ByHand(weights, adamw, lr=lr),
)
adam_scores = evaluate(adam_tuned)
claim("opt-live-loss", adam_history.final, at_most=0.3)
claim("opt-live-answers", metrics.mean(adam_scores["answer"]), at_least=0.1)

# %%
NAMES = {"sgd": "SGD + momentum", "adam": "Adam", "adamw": "AdamW", "lamb": "LAMB", "muon": "Muon + AdamW"}
fig, ax = plt.subplots(figsize=(6.5, 4))
for key, style in zip(NAMES, ("-", "--", "-.", ":", (0, (5, 1, 1, 1))), strict=True):
    losses = np.mean([r["losses"] for r in runs("report", key)], axis=0)
    smooth = np.convolve(losses, np.ones(5) / 5, mode="valid")
    ax.plot(range(3, len(smooth) + 3), smooth, linestyle=style, label=f"{NAMES[key]} ({contest['rates'][key]:g})")
ax.set(xlabel=T("opt-steps"), ylabel=T("opt-loss"), yscale="log")
ax.legend(title=T("opt-name-rate"), fontsize=9)
figures.show(fig, alt=T("opt-alt-curves"))

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.4))
bands = [
    (min(r["answer"] for r in runs("report", key)), max(r["answer"] for r in runs("report", key))) for key in NAMES
]
live = metrics.mean(adam_scores["answer"])
dots = [live if key == "adamw" else math.nan for key in NAMES]  # one of them was trained just now
figures.dot_on_band(
    ax,
    list(NAMES.values()),
    bands,
    dots,
    band_label=T("opt-stored-seeds").format(count=len(enough)),
    dot_label=T("opt-this-run"),
)
ax.set(xlabel=T("opt-answers"), xlim=(0, 1))
figures.show(fig, alt=T("opt-alt-bands"))


# %%
def mean_answers(key):
    """Exact answers of an optimizer, mean over the stored seeds."""
    return metrics.mean([r["answer"] for r in runs("report", key)])


def steps_to(key, level):
    """Steps until the training loss, smoothed over five steps, is below a level; mean over the stored seeds."""
    smooth = [np.convolve(r["losses"], np.ones(5) / 5, mode="valid") for r in runs("report", key)]
    return metrics.mean([int(np.argmax(losses < level)) + 5 if (losses < level).any() else STEPS for losses in smooth])


needed = {key: steps_to(key, 0.2) for key in NAMES}
for key, name in NAMES.items():
    print(T("opt-result").format(name=name, rate=contest["rates"][key], answers=mean_answers(key), steps=needed[key]))
claim("opt-adam-fast", needed["sgd"] / needed["adam"], at_least=1.3)
claim("opt-sgd-behind", mean_answers("adamw") - mean_answers("sgd"), at_least=0.05)
claim("opt-same-adam", mean_answers("adamw") - mean_answers("adam"), between=(-0.03, 0.03))
places = {key: metrics.mean([r["place"] for r in runs("report", key)]) for key in ("adamw", "muon")}
claim("opt-muon-place", places["adamw"] - places["muon"], at_least=0.05)

# %%
for lang in ("en", "zh"):
    scores = [r["answer"] for r in runs("report", "adamw", lang)]
    print(T("opt-seeds").format(lang=T(f"opt-{lang}"), scores=" · ".join(f"{score:.1%}" for score in scores)))
scores = [r["answer"] for r in runs("report", "adamw")]
between = abs(mean_answers("adamw") - mean_answers("lamb"))
claim("opt-seeds-apart", (max(scores) - min(scores)) / between, at_least=1.5)
tried = [r for r in contest["runs"] if (r["part"], r["optimizer"]) == ("opt-sweep", "adamw")]
by_seed = {}
for seed in sorted({r["seed"] for r in tried}):
    dev_answers = {}
    for r in tried:
        if r["seed"] == seed:
            dev_answers.setdefault(r["lr"], []).append(r["answer"])  # one a language
    by_seed[seed] = max(dev_answers, key=lambda lr: metrics.mean(dev_answers[lr]))
print(T("opt-one-dev-seed").format(rates=" · ".join(f"{lr:g}" for lr in by_seed.values())))
claim("opt-seeds-disagree", sum(lr == contest["rates"]["adamw"] / 2 for lr in by_seed.values()), equals=2)

# %% [markdown] lang="en" partner="d5740c4d"
# **Adam and AdamW** are one curve: so short a training leaves the decay nothing to do. **SGD** learns the form and the
# places, but fewer of the topics, in Chinese hardly any; "Adam converges fast" holds, a tuned rate for each. **LAMB**
# is ahead of AdamW in English and behind in Chinese. **Muon**, with which the base was pre-trained, copies names worse
# in both. (One rate served both of its halves.)
#
# The best and the worst seed of AdamW lie farther apart than the means of AdamW and LAMB. Nor do the dev seeds agree on
# AdamW's rate: two of the three alone would have taken half of it (Part III shows what that does in Chinese). Who
# compares optimizers by one seed tosses coins.

# %% [markdown] lang="zh" partner="fe3ee11b"
# **Adam 与 AdamW** 是同一条曲线：训练这么短，衰减无事可做。**SGD** 学会了格式和地名，话题学会的少些，中文里几乎没学会；各用调好的学习率，
# “Adam 收敛快”成立。**LAMB** 在英文里领先 AdamW，在中文里落后。预训练这个基座用的正是 **Muon**，它在两种语言里地名都抄得更差。
# （它的两半共用了一个学习率。）
#
# AdamW 最好和最差的种子之间的差距，比 AdamW 与 LAMB 均值之间的差距还大。AdamW 的学习率，三个开发集种子的意见也不一致：单看其中两个，
# 都会选它的一半（在中文里会怎样，见第三部分）。只凭一个种子比较优化器，等于抛硬币。

# %% [markdown] lang="en" partner="acc91bfa"
# ### LAMB is about large batches
#
# "LAMB suits large models", says the article. Nothing in its ten lines knows how large a model is. The paper's title
# says *large batches*. With a batch a hundred times as large there are a hundred times fewer steps, so each must be
# longer; and a rate that is right for most layers tears some others away. Look at one step, tensor by tensor:

# %% [markdown] lang="zh" partner="2929cca7"
# ### LAMB 为的是大批次
#
# 文章说“LAMB 适合大模型”。可那十来行代码里，没有哪一处知道模型有多大。论文标题写的是*大批次*（large batch）。批次大一百倍，步数就少一百倍，每一步都得更长；
# 而对多数层合适的学习率，会把另一些层一下子带偏。逐个张量看一步：


# %%
def relative_steps(make):
    """By tensor: the length of one step, relative to the tensor's norm, after twenty gradients; and its norm."""
    weights, optimizer = replay(make, recorded[:-1])
    before = [w.detach().clone() for w in weights]
    for weight, gradient in zip(weights, recorded[-1], strict=True):
        weight.grad = gradient
    optimizer.step()
    pairs = zip(before[:-1], weights[:-1], strict=True)  # without the tensor of zeros
    return [((b - a).norm() / a.norm()).item() for a, b in pairs]


adam_steps = relative_steps(lambda w: ByHand(w, adamw, lr=1e-3, weight_decay=0.0))
lamb_steps = relative_steps(lambda w: ByHand(w, lamb, lr=5e-3, weight_decay=0.0))
fig, ax = plt.subplots(figsize=(6.5, 3.6))
kinds = [2 if is_matrix(w) else 0 if w.ndim == 1 else 1 for w in small_ones(base)]  # norms, embedding, matrices
for values, name, marker, shift in ((adam_steps, "AdamW", "o", -0.12), (lamb_steps, "LAMB", "^", 0.12)):
    ax.plot([100 * v for v in values], [kind + shift for kind in kinds], marker, alpha=0.6, linestyle="", label=name)
ax.set_yticks(range(3), [T("opt-kind-norm"), T("opt-kind-embedding"), T("opt-kind-matrix")])
ax.set(xscale="log", xlabel=T("opt-relative"), ylim=(-0.5, 2.5))
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
figures.show(fig, alt=T("opt-alt-relative"))

# %%
claim("opt-lamb-alike", max(lamb_steps) / min(lamb_steps), close_to=(1, 1e-3))
claim("opt-adam-unlike", max(adam_steps) / min(adam_steps), at_least=5)

# %% [markdown] lang="en" partner="0bdee1fa"
# AdamW moves every *number* by about the rate, whatever its size: the norm at the far right, whose weights are tiny,
# takes by far the longest step, relative to itself. LAMB moves every *tensor* by the same share of its norm. Does it
# pay here? The same number of examples in batches of 8 and of 64, each with a rate tuned for it.

# %% [markdown] lang="zh" partner="150e71f1"
# AdamW 让每个*数*移动大约一个学习率，不管它本身有多大：最右边的那个归一化层权重很小，相对自身迈的步子远远大于别的层。LAMB 让每个*张量*移动其范数的同样比例。
# 在这里划算吗？样例总数不变，批大小取 8 和 64，学习率各自调好。

# %%
large, small_runs, large_runs = contest["large_batch"], {}, {}
for name in ("adamw", "lamb"):
    small_runs[name], large_runs[name] = runs("report", name), runs("batch", name)
    for batch, chosen in ((BATCH, small_runs[name]), (large, large_runs[name])):
        scores = [r["answer"] for r in chosen]
        words = {"name": NAMES[name], "batch": batch, "steps": chosen[0]["steps"], "rate": chosen[0]["lr"]}
        words["times"] = chosen[0]["lr"] / contest["rates"][name]
        print(T("opt-batch-line").format(mean=metrics.mean(scores), low=min(scores), high=max(scores), **words))
    sweep = [r for r in contest["runs"] if (r["part"], r["optimizer"]) == ("opt-batch-sweep", name)]
    tried = {lr: metrics.mean([r["answer"] for r in sweep if r["lr"] == lr]) for lr in sorted({r["lr"] for r in sweep})}
    print(T("opt-tried").format(tried=" · ".join(f"{lr:g}: {score:.1%}" for lr, score in tried.items())))
print(T("opt-root").format(times=math.sqrt(large / BATCH), proportion=large / BATCH))

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.4))
rows = [(name, batch) for batch in (BATCH, large) for name in ("adamw", "lamb")]
scores = [[r["answer"] for r in (small_runs if batch == BATCH else large_runs)[name]] for name, batch in rows]
labels = [T("opt-batch-row").format(name=NAMES[name], batch=batch) for name, batch in rows]
limits = [(min(values), max(values)) for values in scores]
colours = [figures.PALETTE["blue" if name == "adamw" else "orange"] for name, _ in rows]
figures.bars_with_intervals(ax, labels, [metrics.mean(values) for values in scores], limits, colours=colours)
ax.set(xlabel=T("opt-answers-range"), xlim=(0, 1.1))
figures.show(fig, alt=T("opt-alt-batch"))
costs = metrics.mean([r["answer"] for r in small_runs["adamw"]]) - metrics.mean(
    [r["answer"] for r in large_runs["adamw"]]
)
claim("opt-large-costs", costs, at_least=0.05)
best_rate = {name: contest["large_batch_rates"][name] / contest["rates"][name] for name in ("adamw", "lamb")}
claim("opt-root-rule", best_rate["lamb"] / math.sqrt(large / BATCH), close_to=(1, 0.01))
claim("opt-adamw-stays", best_rate["adamw"], equals=1.0)
worst = []
for lang in ("en", "zh"):
    for part, batch in (("report", BATCH), ("batch", large)):
        pairs = [[r["answer"] for r in runs(part, name, lang)] for name in ("lamb", "adamw")]
        gains = [mine - other for mine, other in zip(*pairs, strict=True)]
        numbers = {"gain": metrics.mean(gains), "low": min(gains), "high": max(gains), "batch": batch}
        print(T("opt-ahead").format(lang=T(f"opt-{lang}"), **numbers))
    worst.append(min(gains))
claim("opt-lamb-large", min(worst), at_least=0.0)

# %% [markdown] lang="en" partner="8bd180f9"
# Eight times fewer steps cost both of them dearly: with so few examples a large batch is a bad bargain. Of the rates
# tried, LAMB's best grew by the square root of the batch's growth. AdamW's did not grow: on average over the languages
# the next longer step already did harm. At the large batch LAMB is ahead in both languages and behind in no seed; at
# the small one it is ahead in English alone. That is the direction of the paper; about its own case, batches of tens of
# thousands, fifteen steps prove nothing.

# %% [markdown] lang="zh" partner="cb44cd51"
# 步数少到八分之一，两者都付出了很大代价：样例这么少，用大批次不划算。在试过的几个值里，LAMB 最好的学习率随批次倍数的平方根放大；AdamW 的则没变：两种语言平均来看，
# 再大一档就有害了。大批次下，LAMB 在两种语言里都领先，没有一个种子落后；小批次下，它只在英文里领先。这与论文的方向一致；至于论文里上万的批次，十五步说明不了什么。

# %% [markdown] lang="en" partner="31e01a0e"
# ### Exercises

# %% [markdown] lang="zh" partner="ad3beb4a"
# ### 练习


# %% exercise="lion"
def lion(weight, gradient, mean, *, lr, betas=(0.9, 0.99), weight_decay=0.0):
    """One step of Lion: the new weight and the new mean."""
    # solution
    step = torch.sign(betas[0] * mean + (1 - betas[0]) * gradient) + weight_decay * weight
    return weight - lr * step, betas[1] * mean + (1 - betas[1]) * gradient


# %% exercise="largest_rates"
# At which of these rates does SGD still arrive in the valley? The largest, without momentum and with momentum 0.9.
RATES = [round(0.005 * number, 3) for number in range(4, 24)]  # 0.02, 0.025, ... 0.115


def arrives(lr, momentum, count=300):
    """Whether torch's SGD ends near the bottom of a valley that is forty times as steep across as along."""
    point = torch.nn.Parameter(torch.tensor([-4.0, 1.0]))
    optimizer = torch.optim.SGD([point], lr=lr, momentum=momentum)
    for _ in range(count):
        point.grad = point.detach() * torch.tensor([1.0, 40.0])
        optimizer.step()
    return (point.detach() ** 2 * torch.tensor([1.0, 40.0])).sum().item() / 2 < 0.01


# stub: largest_rates = {0.0: ..., 0.9: ...}
# solution
largest_rates = {momentum: max(lr for lr in RATES if arrives(lr, momentum)) for momentum in (0.0, 0.9)}

# %% [markdown] lang="en" partner="ff45fbcb"
# ## Part II · Evaluation
#
# Of each measure we ask: *what does it not see*, and *how wide is it*, that is, what could it have been with other
# rows, other users, another rater?
#
# ### Precision, recall, F1
#
# A hundred guests praise, ten complain, and the complaints must be found. **Precision**: how many alarms are real?
# **Recall**: how many complaints are found? **F1** is their harmonic mean.

# %% [markdown] lang="zh" partner="022b2a48"
# ## 第二部分 · 评估
#
# 对每个指标都要问：*它看不见什么*？*它有多宽*，也就是说，换一批样例、换一批用户、换一位评分人，它可能是多少？
#
# ### 精确率、召回率与 F1
#
# 一百条表扬，十条投诉，要把投诉找出来。**精确率**：报出来的有多少是真的？**召回率**：真正的投诉找到了多少？**F1** 是两者的调和平均。

# %%
import re
from collections import Counter
from random import Random


def counts(predicted, truth, label):
    """Hits, false alarms and misses of one label: (tp, fp, fn)."""
    pairs = Counter((p == label, t == label) for p, t in zip(predicted, truth, strict=True))
    return pairs[True, True], pairs[True, False], pairs[False, True]


def precision_recall_f1(tp, fp, fn):
    """The three scores; where nothing was to be counted, 0 (scikit-learn's zero_division=0)."""
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / (tp + fn) if tp + fn else 0.0
    return precision, recall, 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0


# %%
def f1(predicted, truth, average):
    """F1 of all labels: "macro" is the mean of each label's F1, "micro" the F1 of their counts added up."""
    labels = sorted({*predicted, *truth})
    if not labels:
        raise ValueError("F1 of no rows is not defined: is a filter too strict?")
    each = [counts(predicted, truth, label) for label in labels]
    if average == "micro":
        each = [map(sum, zip(*each, strict=True))]
    return metrics.mean([precision_recall_f1(*one)[2] for one in each])


# %% [markdown] lang="en" partner="4cf6b35c"
# Two ways to find complaints in hand-written reviews: a bag of characters with logistic regression, and a model that always says "positive".

# %% [markdown] lang="zh" partner="e2cdb172"
# 在手写的点评里找投诉，有两种办法：一种是“字符片段 + 逻辑回归”；另一种永远回答“好评”。

# %%
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline

reviews, new_reviews = data.load("reviews", LANG, "train"), data.load("reviews", LANG, "test")
rng = np.random.default_rng(course.seed)
page = [row for row in new_reviews if row["label"] == "positive"]
page += list(rng.choice([row for row in new_reviews if row["label"] == "negative"], size=10, replace=False))
marks = [row["label"] for row in page]
finder = make_pipeline(TfidfVectorizer(analyzer="char", ngram_range=(1, 3)), LogisticRegression(C=10))
finder.fit(reviews["text"], reviews["label"])
guesses = {"ev-always": ["positive"] * len(page), "ev-finder": finder.predict([row["text"] for row in page]).tolist()}

# %%
accuracy, recall = {}, {}
for name, guess in guesses.items():
    accuracy[name] = metrics.mean([g == mark for g, mark in zip(guess, marks, strict=True)])
    precision, recall[name], score = precision_recall_f1(*counts(guess, marks, "negative"))
    scores = {"accuracy": accuracy[name], "precision": precision, "recall": recall[name], "f1": score}
    print(T("ev-row").format(name=T(name), **scores, macro=f1(guess, marks, "macro")))
claim("ev-accuracy-prefers", accuracy["ev-always"] - accuracy["ev-finder"], at_least=0.05)
claim("ev-recall-differs", recall["ev-finder"] - recall["ev-always"], at_least=0.3)

# %% [markdown] lang="en" partner="b82cb836"
# Accuracy gives the prize to the model that finds nothing: it counts rows, and nearly all rows are praise. **Macro**-F1
# gives each label one vote, **micro**-F1 each row: with one label a row it *is* the accuracy. On the topics that Part
# I's tuned model names, by hand and by the library:

# %% [markdown] lang="zh" partner="b0b0e505"
# 准确率把奖发给了什么也没找到的模型，因为它数的是条数，而几乎每条都是表扬。**宏平均** F1 让每个类别各有一票，**微平均** F1 让每条样例各有一票；
# 一条样例只有一个类别时，后者*就是*准确率。拿第一部分微调好的模型答出的话题，手写的和库对一对：

# %%
replies = chat.reply(adam_tuned, tokenizer, test["question"])
parsed = [metrics.parse_json(reply) or {} for reply in replies]
topics_said, topics_right = [str(fields.get("topic")) for fields in parsed], test["topic"]
for average in ("macro", "micro"):
    by_library = f1_score(topics_right, topics_said, average=average, zero_division=0)
    claim(f"ev-{average}", f1(topics_said, topics_right, average), close_to=(by_library, 1e-12))
hits = metrics.mean([said == right for said, right in zip(topics_said, topics_right, strict=True)])
claim("ev-micro-accuracy", f1(topics_said, topics_right, "micro"), close_to=(hits, 1e-12))

# %% [markdown] lang="en" partner="08b405c2"
# ### BLEU: overlap, not truth
#
# **BLEU** counts how many n-grams of a text (n = 1 to 4) stand in a reference, each at most as often as there
# (*clipped*), takes the geometric mean of the four shares, and punishes texts shorter than the reference (*brevity
# penalty*). An order without any hit counts as half a hit, the next one as a quarter (sacrebleu's smoothing "exp").

# %% [markdown] lang="zh" partner="baf4e19a"
# ### BLEU：数的是重合，不是对错
#
# **BLEU** 数的是文本的 n 元组（n 从 1 到 4）有多少出现在参考文本里，每个最多只计参考中的次数（*截断*），再取四个比例的几何平均；
# 比参考短的文本要受罚（*简短惩罚*）。某一阶一个也没命中，就算半个，下一个这样的阶算四分之一个（sacrebleu 的“exp”平滑）。

# %%
from math import exp, log


def ngrams(tokens, n):
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def bleu(texts, references):
    """Corpus BLEU from 0 to 100 of lists of tokens, one reference each (Papineni and others 2002)."""
    if len(texts) != len(references) or not texts:
        raise ValueError(f"{len(texts)} texts and {len(references)} references: they must be as many, and one at least")
    pairs, log_precision, smoothing = list(zip(texts, references, strict=True)), 0.0, 1
    for n in (1, 2, 3, 4):
        matched = sum((ngrams(mine, n) & ngrams(theirs, n)).total() for mine, theirs in pairs)  # & clips
        given = sum(ngrams(mine, n).total() for mine, _ in pairs)
        if given == 0 or (n == 1 and matched == 0):  # too short for four words in a row, or nothing in common
            return 0.0
        smoothing *= 1 if matched else 2
        log_precision += log((matched or 1 / smoothing) / given) / 4
    mine, theirs = sum(map(len, texts)), sum(map(len, references))
    return 100 * min(1, exp(1 - theirs / mine)) * exp(log_precision)


# %% [markdown] lang="en" partner="dea43349"
# The desk states each place's price. One colleague copies the reference with a *wrong price*; the other gives the right
# one in another sentence. Whom does BLEU employ?

# %% [markdown] lang="zh" partner="5d9b6c2b"
# 咨询台要报每个地方的票价。一位同事照抄参考句子，*价格却是错的*；另一位价格没错，换了个说法。BLEU 会录用谁？

# %%
import sacrebleu

from tunelab import world

places, sentences = world.places(), world.wording(LANG)["price"]["statements"]
prices = [place.answer("price", LANG) for place in places]
lies = [next(price for price in prices if price != right) for right in prices]
said = {
    name: [
        sentences[which].format(place=place.name(LANG), value=value)
        for place, value in zip(places, values, strict=True)
    ]
    for name, which, values in (("reference", 0, prices), ("wrong-price", 0, lies), ("reworded", 3, prices))
}
cut = sacrebleu.metrics.BLEU(tokenize="zh" if LANG == "zh" else "13a").tokenizer
tokens = {name: [cut(text).split() for text in texts] for name, texts in said.items()}

# %%
grades = {}
print(said["reference"][0])
for name in ("wrong-price", "reworded"):
    grades[name] = bleu(tokens[name], tokens["reference"])
    right = metrics.mean([bool(re.search(rf"(?<!\d){p}", text)) for p, text in zip(prices, said[name], strict=True)])
    print(T("ev-bleu-row").format(text=said[name][0], bleu=grades[name], right=right))
    claim(f"ev-bleu-{name}", grades[name], close_to=(metrics.bleu(said[name], said["reference"], LANG), 1e-9))
claim("ev-bleu-loves-lies", grades["wrong-price"] - grades["reworded"], at_least=15)

# %% [markdown] lang="en" partner="4580fc15"
# BLEU rewards wording. Where one number decides, check the number.
#
# **The Chinese trap.** BLEU needs words, and Chinese has no spaces. For the default tokenizer this whole sentence is
# *one* word, there are no four words in a row, and even the reference itself scores 0.

# %% [markdown] lang="zh" partner="dce0eb63"
# BLEU 奖励的是措辞。关键在一个数的地方，就直接检查那个数。
#
# **中文陷阱**。BLEU 要先分词，而中文没有空格。在默认分词器看来，下面的整句话就是*一个*词，凑不出连续四个词，参考自己给自己打分也是 0。

# %%
chinese = world.wording("zh")["price"]["statements"][0].format(place="白鹭湖", value="20元").rstrip("。")
near = chinese.replace("白鹭", "黑鹭")
for tokenizer_name in ("13a", "zh"):
    itself, almost = (sacrebleu.corpus_bleu([text], [[chinese]], tokenize=tokenizer_name) for text in (chinese, near))
    print(f"{tokenizer_name:4} {chinese} {itself.score:.0f} · {near} {almost.score:.0f}")
    claim(f"ev-chinese-{tokenizer_name}", itself.score, close_to=({"13a": 0, "zh": 100}[tokenizer_name], 1e-6))

# %% [markdown] lang="en" partner="4354369d"
# Say `tokenize="zh"`, and report it with the score.
#
# ### Perplexity, and whose tokens they are
#
# Perplexity is `exp(loss)`, the loss taken *per token*, so it depends on what a token is. One text, read three ways by
# a model that knows only how often each symbol occurs; and then by the course's base.

# %% [markdown] lang="zh" partner="26de1d19"
# 要写明 `tokenize="zh"`，并和分数一起报告。
#
# ### 困惑度，以及它是谁的词元
#
# 困惑度是 `exp(损失)`，损失按*每个词元*计，所以要看词元是什么。同一段文本切成三种符号，让只知道各种符号出现频率的模型来读；最后再让课程的基座读一遍。

# %%
from tunelab import corpus

articles = [corpus.article(Random(f"article {number}"), LANG) for number in range(120)]
learnt, unread = "\n".join(articles[:100]), "\n".join(articles[100:])
readings = {
    "ev-bytes": lambda text: list(text.encode()),
    "ev-characters": list,
    "ev-tokens": lambda text: tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"],
}


def perplexity_and_bits(nats, symbols):
    """Of a text of `symbols` symbols: perplexity a symbol, and bits a character."""
    return exp(nats / symbols), nats / log(2) / len(unread)


table = {}
for name, read in readings.items():
    seen, asked = Counter(read(learnt)), read(unread)
    nats = -sum(log((seen[symbol] + 1) / (seen.total() + len(seen) + 1)) for symbol in asked)
    table[name] = perplexity_and_bits(nats, len(asked))

# %%
nats = symbols = 0
for article in articles[100:]:
    row = torch.tensor([tokenizer(article)["input_ids"]], device=base.device)  # (1, tokens)
    with torch.no_grad():
        nats += base(input_ids=row, labels=row).loss.item() * (row.shape[1] - 1)
    symbols += row.shape[1] - 1
table["ev-base"] = perplexity_and_bits(nats, symbols)
for name, (perplexity, bits) in table.items():
    print(T("ev-perplexity").format(name=T(name), perplexity=perplexity, bits=bits))
claim("ev-bytes-look-better", table["ev-tokens"][0] / table["ev-bytes"][0], at_least=1.5)
claim("ev-bytes-are-worse", table["ev-bytes"][1] / table["ev-tokens"][1], at_least=1.2)

# %% [markdown] lang="en" partner="d298fddc"
# By perplexity the bytes win over the tokens; by bits a *character* they lose. Each guess is easier, and there are more
# of them. Across tokenizers compare bits a character, never perplexities.
#
# ### Validation and early stopping
#
# The base is trained on only twenty-four questions; after every fifth step we take its loss on forty-eight hand-written
# dev questions. **Patience** runs out after three validations without a new best, and the **best checkpoint** is kept.
# (We let it run on, to see.)

# %% [markdown] lang="zh" partner="96bf9ca7"
# 看困惑度，字节赢了词元；看每个*字符*的比特数，字节输：每次猜都容易些，要猜的次数却更多。分词器不同，就比每字符比特数，别比困惑度。
#
# ### 验证集与早停
#
# 只用二十四个问题训练基座，每五步在四十八个手写的开发集问题上算一次损失。连续三次没有刷新最好成绩，**耐心**用完；留下的是**最好的检查点**。（为了看后来会怎样，
# 我们让它继续跑。）

# %%
small = list(encoded.select(range(24)))
dev = data.load("questions", LANG, "dev")
dev_batch = training.collate(list(chat.encode_pairs(tokenizer, dev.select(range(0, len(dev), 6)))), pad=0)
dev_batch = {name: tensor.to(base.device) for name, tensor in dev_batch.items()}


# %%
def train_and_watch(model, rows, batch, steps=60, every=5, patience=3):
    """Losses by step on `rows` and `batch`, the step at which patience runs out, and the weights of the best checkpoint."""
    optimizer, draw = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0.0), Random(course.seed)
    watched, best, stop, recent = [], (float("inf"), 0, None), None, []
    for step in range(1, steps + 1):
        part = training.collate(draw.sample(rows, 8), pad=0)
        loss = model(**{name: tensor.to(model.device) for name, tensor in part.items()}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        recent.append(loss.item())
        if step % every == 0:
            with torch.no_grad():
                watched.append((step, metrics.mean(recent[-every:]), model(**batch).loss.item()))
            if watched[-1][2] < best[0]:
                best = watched[-1][2], step, copy.deepcopy(model.state_dict())
            elif stop is None and step - best[1] >= patience * every:
                stop = step
    return watched, stop, best


# %%
last = copy.deepcopy(base)
watched, stop, (best_loss, best_step, best_weights) = train_and_watch(last, small, dev_batch)
at, training_losses, dev_losses = zip(*watched, strict=True)
fig, ax = plt.subplots()
figures.curve(ax, at, training_losses, T("ev-training"))
figures.curve(ax, at, dev_losses, T("ev-validation"))
ax.plot(best_step, best_loss, "o", color=figures.PALETTE["black"], label=T("ev-best"))
ax.axvline(stop, color="#444444", linestyle=":", label=T("ev-stop"))
ax.set(xlabel=T("ev-step"), ylabel=T("ev-loss"), yscale="log")
ax.legend(loc="lower left")
figures.show(fig, alt=T("alt-ev-stopping"))
claim("ev-training-falls", training_losses[-1] / training_losses[at.index(best_step)], at_most=0.5)
claim("ev-gap", dev_losses[-1] / training_losses[-1], at_least=10)

# %% [markdown] lang="en" partner="0fc5afcf"
# By the loss, only the twenty-four rows gain from the dot on. And the best of many dev losses is too good to be reported: choose on
# dev, report on test.
#
# ### Marks out of five
#
# The sheet shows real answers of the untouched base and of the tuned model, shuffled and unnamed. **Nobody rated for
# this course**: two rules stand in for two people. *The programmer* marks JSON and fields; *the traveller* wants the
# value, however it is wrapped. In a running notebook, your marks replace the traveller's in the picture.

# %% [markdown] lang="zh" partner="3abd56e3"
# 单看损失，过了圆点还在变好的只有那二十四条。另外，许多次里最低的那个验证损失，拿来报告就偏乐观了：用开发集挑，用测试集报。
#
# ### 五分制评分
#
# 评分表里是原始基座和微调模型的真实回答，打乱顺序，隐去名字。**本课没有真人评过分**，这里用两条规则代替两个人：“程序员”看 JSON 和字段；“游客”只要答案对，
# 不管怎么包装。在运行中的笔记本里，图中“游客”的分会换成你打的分。

# %%
RUBRIC = {5: "ev-mark-5", 4: "ev-mark-4", 3: "ev-mark-3", 2: "ev-mark-2", 1: "ev-mark-1"}
shown = list(test.select(range(0, len(test), 6)))
answers = [(row, reply) for row, reply in zip(shown, replies[::6], strict=True)]
answers += list(zip(shown, chat.reply(base, tokenizer, [row["question"] for row in shown]), strict=True))
Random(course.seed).shuffle(answers)


def programmer(row, reply):
    """One mark for JSON at all, one for each right field, and one to begin with."""
    fields = metrics.parse_json(reply)
    return 1 if fields is None else 2 + sum(fields.get(name) == row[name] for name in metrics.FIELDS)


def traveller(row, reply):
    """5: the value is in it. 3: it speaks of the place. 1: neither."""
    return 5 if row["answer"] in reply else 3 if row["place"] in reply else 1


marks_a, marks_b = ([rule(row, reply) for row, reply in answers] for rule in (programmer, traveller))

# %% [markdown] lang="en" partner="385b6d6c"
# The share of equal marks flatters: two people who like to give five agree often by chance. **Cohen's kappa** sets the
# disagreement against that of shuffled marks: 1 is perfect, 0 is chance. On an *ordinal* scale, 4 and 5 differ less
# than 1 and 5; so a weight.

# %% [markdown] lang="zh" partner="eb21ca64"
# 分数相同的比例会高估一致性：两个人都爱打五分，碰巧也常常一致。**Cohen 的 kappa** 拿实际的不一致去比把分数打乱之后的不一致：1 是完全一致，0 等于碰运气。
# 评分是*有序*的，4 和 5 的分歧小于 1 和 5，所以可以加权。


# %%
def kappa(first, second, weight=lambda a, b: float(a != b)):
    """Cohen's kappa (1960), 1 - observed / expected disagreement; nan where both give one and the same mark throughout."""
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} marks: both raters mark the same items, and one at least")
    observed = metrics.mean([weight(a, b) for a, b in zip(first, second, strict=True)])
    expected = metrics.mean([weight(a, b) for a in first for b in second])
    return 1 - observed / expected if expected else float("nan")


# %%
from sklearn.metrics import cohen_kappa_score

from tunelab import rating


def crosstab(mine):
    """The programmer's marks against yours so far; against the traveller's where there is none yet."""
    others, grid = mine or marks_b, np.zeros((5, 5), dtype=int)
    for a, b in zip(marks_a, others, strict=False):
        grid[b - 1, a - 1] += 1
    fig, ax = plt.subplots(figsize=(4.2, 3.8))
    ax.imshow(grid, cmap="Blues", vmax=1.6 * grid.max() + 1, origin="lower", extent=(0.5, 5.5, 0.5, 5.5))
    for (b, a), number in np.ndenumerate(grid):
        ax.text(a + 1, b + 1, number or "", ha="center", va="center")
    ax.set(xlabel=T("ev-programmer"), ylabel=T("ev-yours" if mine else "ev-traveller"))
    ax.set_title(f"kappa {kappa(marks_a[: len(others)], others):.2f}")
    ax.grid(visible=False)
    return fig


rubric = "\n".join(f"{mark}  {T(label)}" for mark, label in RUBRIC.items())
cards = [f"{row['question']}\n{T('ev-wanted')}: {row['answer']}\n▸ {reply}" for row, reply in answers]
your_marks = rating.sheet(cards, tuple(sorted(RUBRIC)), crosstab, note=rubric, alt=T("alt-ev-crosstab"))

# %%
same = metrics.mean([a == b for a, b in zip(marks_a, marks_b, strict=True)])
plain, weighted = kappa(marks_a, marks_b), kappa(marks_a, marks_b, lambda a, b: (a - b) ** 2)
print(T("ev-agreement").format(same=same, plain=plain, weighted=weighted))
claim("ev-kappa", plain, close_to=(cohen_kappa_score(marks_a, marks_b), 1e-12))
claim(
    "ev-kappa-weighted",
    weighted,
    close_to=(cohen_kappa_score(marks_a, marks_b, weights="quadratic", labels=sorted(RUBRIC)), 1e-12),
)
claim("ev-agreement-flatters", same - plain, at_least=0.05)

# %% [markdown] lang="en" partner="05bd6977"
# First agree on what each mark means; then average. "4.5 of 5" hides how many rated, and whether among nearly all fives
# some users were told nonsense.

# %% [markdown] lang="zh" partner="bfb699ef"
# 先统一每一分的含义，然后才谈平均。“4.5/5”藏起了两件事：有多少人评分；是不是几乎都给了五分，却有人得到一派胡言。

# %%
content, mixed = [5, 4] * 8, [5] * 14 + [1] * 2
for name, sixteen in (("ev-content", content), ("ev-mixed", mixed)):
    mean, deviation = metrics.mean(sixteen), np.std(sixteen, ddof=1)
    _, low, high = metrics.bootstrap(sixteen)
    need = int(np.ceil((1.96 * deviation / 0.1) ** 2))  # ratings for a half-width of 0.1
    numbers = {"mean": mean, "low": low, "high": high, "normal": mean + 1.96 * deviation / 4, "need": need}
    print(T("ev-marks").format(name=T(name), **numbers))
    claim(f"article-mark-{name[3:]}", high - low, at_most=0.2, expected=False)
    claim(f"{name}-mean", mean, equals=4.5)
claim("ev-ceiling", numbers["normal"], at_least=5.0)
claim("ev-marks-needed", need, at_least=500)

# %% [markdown] lang="en" partner="79bdc063"
# For the second set the textbook interval even passes the end of the scale; the bootstrap cannot. And since steps
# between marks need not be equal, report the shares, too.
#
# ### An A/B test, and the peeking manager
#
# Seven in ten users are satisfied with version A. If B satisfied five in a hundred more, we would like to notice. The
# chance to notice is the **power**:

# %% [markdown] lang="zh" partner="d01babb2"
# 第二组的教科书区间甚至超出了量表的上限，自助法不会。分与分之间的距离未必相等，所以也要报告各分的占比。
#
# ### A/B 测试，以及爱偷看的经理
#
# 版本 A 让七成用户满意。B 的满意率若高出五个百分点，我们希望看得出来。看得出来的概率叫**检验功效**：

# %%
from scipy.stats import norm

CRITICAL = norm.ppf(0.975)  # 1.96: one false alarm in twenty


def z_score(a, b, n):
    """Of two counts of satisfied users out of n each (two proportions, pooled); arrays welcome."""
    pooled = (a + b) / (2 * n)
    return (b - a) / n / np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * 2 / n)


def power(p, q, n):
    """Chance that n users a side show a difference of shares p and q."""
    middle = (p + q) / 2
    alike, apart = np.sqrt(2 * middle * (1 - middle) / n), np.sqrt((p * (1 - p) + q * (1 - q)) / n)
    return norm.cdf((abs(q - p) - CRITICAL * alike) / apart)


# %%
A, B = 0.70, 0.75
users = next(n for n in range(10, 10_000) if power(A, B, n) >= 0.8)
chance = np.random.default_rng(course.seed)
tests = z_score(chance.binomial(users, A, 20_000), chance.binomial(users, B, 20_000), users)
simulated = metrics.mean(abs(tests) > CRITICAL)
print(T("ev-power").format(users=users, formula=power(A, B, users), simulated=simulated, small=power(A, B, 200)))
claim("ev-power-simulated", simulated, close_to=(power(A, B, users), 0.015))
claim("ev-users", users, between=(1200, 1300))

# %% [markdown] lang="en" partner="9f761b64"
# More than a thousand users *a side*. Now the manager looks every day and stops at the first "significant" day. Twenty looks at *two
# copies of A*: every alarm is false.

# %% [markdown] lang="zh" partner="a84bf2d3"
# *每边*要一千多位用户。现在经理天天来看，哪天“显著”就哪天停。让*两个相同的 A* 对比，看二十次：凡是报警，都是误报。

# %%
LOOKS, DAILY = 20, 65


def days(p, q, runs, rng):
    """Scores of `runs` tests at each look: (runs, LOOKS)."""
    a, b = (rng.binomial(DAILY, share, (runs, LOOKS)).cumsum(axis=1) for share in (p, q))
    return z_score(a, b, DAILY * np.arange(1, LOOKS + 1))


null = abs(days(A, A, 20_000, chance))
false_alarms = (null > CRITICAL).cumsum(axis=1) > 0  # already stopped by this look
claim("ev-fixed-horizon", metrics.mean(null[:, -1] > CRITICAL), close_to=(0.05, 0.008))
claim("ev-peeking", metrics.mean(false_alarms[:, -1]), between=(0.2, 0.3))

# %% [markdown] lang="en" partner="944993be"
# Two repairs. **A fixed horizon**: compute `users`, look once. Or a **sequential bound** that spends the allowance over
# the looks: O'Brien and Fleming's is strict at first and little above 1.96 at the end. Its constant is calibrated on
# simulated A/A tests, and checked on fresh ones.

# %% [markdown] lang="zh" partner="bd71148f"
# 补救办法有两个。**固定样本量**：先算出 `users`，到时只看一次。或者用**序贯界限**，把允许的误报率分摊到各次查看：
# O'Brien–Fleming 界限起初要求很高，最后只比 1.96 高一点。它的常数用一批 A/A 模拟校准，再在另一批上检验。

# %%
shape = np.sqrt(LOOKS / np.arange(1, LOOKS + 1))  # (LOOKS,)
constant = np.quantile((null / shape).max(axis=1), 0.95)
bound = constant * shape
again = abs(days(A, A, 20_000, chance)) > bound
better = abs(days(A, B, 20_000, chance)) > bound
stops = np.where(better.any(axis=1), better.argmax(axis=1) + 1, LOOKS)
print(T("ev-sequential").format(last=bound[-1], found=better.any(axis=1).mean(), days=stops.mean(), looks=LOOKS))
claim("ev-sequential-honest", metrics.mean(again.any(axis=1)), close_to=(0.05, 0.01))
claim("ev-sequential-power", power(A, B, LOOKS * DAILY) - better.any(axis=1).mean(), at_most=0.05)
claim("ev-sequential-saves", stops.mean() / LOOKS, at_most=0.8)

# %%
fig, ax = plt.subplots()
looks = range(1, LOOKS + 1)
figures.curve(ax, looks, 100 * false_alarms.mean(axis=0), T("ev-peeks"))
figures.curve(ax, looks, 100 * (again.cumsum(axis=1) > 0).mean(axis=0), T("ev-bounded"))
ax.axhline(5, color="#444444", linestyle=":", label=T("ev-nominal"))
ax.set(xlabel=T("ev-look"), ylabel=T("ev-false"), ylim=(0, 30), xticks=(1, 5, 10, 15, 20))
ax.legend()
figures.show(fig, alt=T("alt-ev-peeking"))

# %% [markdown] lang="en" partner="caa5ce23"
# ### New data, and how many rows a claim needs
#
# "It generalises": to what? The last checkpoint from above meets its twenty-four training questions; hand-written ones
# about documented places; and the same wordings about undocumented places, known to the base from articles alone.

# %% [markdown] lang="zh" partner="c1634637"
# ### 新数据，以及一个结论要多少样例
#
# “泛化好”，是泛化到哪里？让上面最后的检查点先答训练用过的二十四个问题，再答手写的问题：一半问有问答资料的地方，一半用同样的问法问没有问答资料的地方（基座只在文章里读到过）。

# %%
best = copy.deepcopy(base)
best.load_state_dict(best_weights)
exam = {"best": evaluate(best)["answer"], "last": evaluate(last)["answer"]}
learnt_rows = train.select(range(len(small)))
groups = {"ev-learnt": metrics.score_json(chat.reply(last, tokenizer, learnt_rows["question"]), learnt_rows)["answer"]}
for name, shown_before in (("ev-new-wording", True), ("ev-new-place", False)):
    groups[name] = [value for value, seen in zip(exam["last"], test["documented"], strict=True) if seen == shown_before]

# %%
middles, *ends = zip(*(metrics.bootstrap(values) for values in groups.values()), strict=True)
fig, ax = plt.subplots(figsize=(6, 2.6))
figures.bars_with_intervals(ax, [T(name) for name in groups], middles, list(zip(*ends, strict=True)))
ax.set(xlabel=T("ev-exact"), xlim=(0, 1.15))
figures.show(fig, alt=T("alt-ev-new"))
claim("ev-drop", middles[0] - max(middles[1:]), at_least=0.2)

# %% [markdown] lang="en" partner="c89a9dfe"
# A bootstrap treats rows as independent. Ours are not: Part I's model meets each wording with two places, and tends to
# misread it twice. Resample *wordings*. And compare systems on the same questions **paired**, by differences: here the
# best and the last checkpoint from above.

# %% [markdown] lang="zh" partner="5c3ca954"
# 自助法把各行当成相互独立的。这里却不是：第一部分的模型对每种问法都答两个地方，要错往往一起错，所以该重采样的是*问法*。两个系统回答同一批问题，则要**配对**，看逐题之差：
# 这里比的是上面的最好检查点和最后检查点。


# %%
def per_wording(values):
    """The mean of each wording's rows: (wordings,)."""
    rows = {}
    for wording, value in zip(test["wording"], values, strict=True):
        rows.setdefault(wording, []).append(value)
    return np.array([metrics.mean(values) for values in rows.values()])


by_row, spans = metrics.score_json(replies, test)["answer"], {}
for name, values in (("rows", by_row), ("wordings", per_wording(by_row))):
    middle, low, high = metrics.bootstrap(values)
    spans[name] = high - low
    print(T(f"ev-by-{name}").format(n=len(values), middle=middle, low=low, high=high))
claim("ev-clusters", spans["wordings"] / max(spans["rows"], 1e-9), at_least=1.1)

# %%
one, other = (per_wording(exam[name]) for name in ("best", "last"))
gap, low, high = metrics.bootstrap(one - other)
picks = np.random.default_rng(course.seed).integers(0, len(one), (2, 2000, len(one)))  # each system its own wordings
unpaired = np.quantile(one[picks[0]].mean(axis=1) - other[picks[1]].mean(axis=1), [0.025, 0.975])
print(T("ev-paired").format(gap=gap, low=low, high=high, wide_low=unpaired[0], wide_high=unpaired[1]))
claim("ev-paired-narrower", (high - low) / max(unpaired[1] - unpaired[0], 1e-9), at_most=1.05)

# %% [markdown] lang="en" partner="47df2f68"
# Look at the sign, here and in the Chinese edition (there the interval ends at zero). Loss also counts how *sure* a model is of its mistakes; the higher
# loss may answer more questions. Validate with the measure that you report.
#
# Now "F1 = 0.85". F1 is no mean over rows, so it is bootstrapped whole; drawing rows again changes only the four
# counts, which is one multinomial draw. We make up a classifier whose F1 is 0.85 in the long run: how wide is its
# interval on n rows, and how often does it cover the truth?

# %% [markdown] lang="zh" partner="aa2ff1b7"
# 看看差值的正负号（区间的一端正好碰到零），再看看英文版的。损失还计较模型对错误有多*自信*；损失高的，答对的题反而可能更多。要报告什么指标，就用什么指标来验证。
#
# 现在看“F1 = 0.85”。F1 不是各行的平均数，要对整个指标做自助法；重抽样例改变的只有四个计数，一次多项分布抽样就够了。
# 我们虚构一个长期来看 F1 恰为 0.85 的分类器：在 n 条样例上，它的区间有多宽？又有多少次覆盖真值？


# %%
def f1_of(table):
    """F1 of counts (..., 4): hits, false alarms, misses, the rest; 0 where there is nothing to count."""
    tp, fp, fn = table[..., 0], table[..., 1], table[..., 2]
    return 2 * tp / np.maximum(2 * tp + fp + fn, 1)


def f1_interval(table, rng, resamples=1000):
    """Percentile bootstrap of F1 from the four counts: drawing rows again is a multinomial draw of the counts."""
    n = table.sum()
    return np.quantile(f1_of(rng.multinomial(n, table / n, resamples)), [0.025, 0.975])


TRUTH = np.array([0.34, 0.06, 0.06, 0.54])
rng, sizes, simulated = np.random.default_rng(course.seed), (20, 50, 100, 200, 500, 1000, 2000, 5000), {}
for n in sizes:
    intervals = np.array([f1_interval(table, rng) for table in rng.multinomial(n, TRUTH, 300)])  # (300, 2)
    covered = ((intervals[:, 0] <= f1_of(TRUTH * 1e6)) & (f1_of(TRUTH * 1e6) <= intervals[:, 1])).mean()
    simulated[n] = (np.median(intervals[:, 1] - intervals[:, 0]), covered)
    print(T("ev-width-row").format(n=n, width=simulated[n][0], covered=covered))

# %%
claim("ev-f1-truth", f1_of(TRUTH * 1e6), close_to=(0.85, 1e-9))
claim("ev-f1-wide", simulated[100][0], at_least=0.12)
claim("ev-f1-two-points", simulated[1000][0], at_least=0.04)
claim("ev-f1-root", simulated[200][0] / simulated[5000][0], close_to=(5.0, 0.5))
claim(
    "ev-f1-coverage",
    metrics.mean([covered for n, (_, covered) in simulated.items() if n >= 200]),
    close_to=(0.95, 0.02),
)

# %%
fig, ax = plt.subplots()
figures.curve(ax, sizes, [simulated[n][0] for n in sizes], T("ev-width"), marker="o")
ax.axhline(0.04, color="#444444", linestyle=":", label=T("ev-two-points"))
ax.set(xscale="log", yscale="log", xlabel=T("ev-rows"), ylabel=T("ev-width-axis"))
ax.set_xticks(sizes, [f"{n:,}" for n in sizes], rotation=30)
ax.set_yticks((0.02, 0.05, 0.1, 0.2, 0.4), ("0.02", "0.05", "0.1", "0.2", "0.4"))
ax.minorticks_off()
ax.legend()
figures.show(fig, alt=T("alt-ev-width"))

# %% [markdown] lang="en" partner="5488db85"
# Half the width costs four times the rows. On a hundred rows, 0.85 cannot be told from 0.8 or 0.9; two points either
# way need more than a thousand.
#
# ### Contamination: the test set has leaked
#
# Scraped corpora swallow public test sets, and a random split puts duplicates on both sides. Here is a
# nearest-neighbour classifier of reviews, with more and more of the test in its memory.

# %% [markdown] lang="zh" partner="044a6bd4"
# 宽度减半，样例要四倍。一百条样例上，0.85 和 0.8、0.9 分不开；想精确到正负两个百分点，要一千条以上。
#
# ### 数据污染：测试集泄漏了
#
# 网上抓来的语料会吞下公开的测试集，随机划分会把重复的样例分到两边。这里有一个最近邻的点评分类器，记忆里混进了越来越多的测试样例。

# %%
grams = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True).fit(reviews["text"])
questions_in = grams.transform(new_reviews["text"])
order = np.random.default_rng(course.seed).permutation(len(new_reviews))
inflated = {}
for leaked in (0, 50, 100, 200):
    inside = order[:leaked]
    memory = [*reviews["text"], *(new_reviews[int(i)]["text"] for i in inside)]
    labels = np.array([*reviews["label"], *(new_reviews[int(i)]["label"] for i in inside)])
    nearest = np.asarray((questions_in @ grams.transform(memory).T).argmax(axis=1)).ravel()
    inflated[leaked] = metrics.mean(labels[nearest] == np.array(new_reviews["label"]))
    print(T("ev-leak-row").format(leaked=leaked, accuracy=inflated[leaked]))
claim("ev-leak-inflates", inflated[100] - inflated[0], at_least=0.08)
claim("ev-leak-perfect", inflated[200], equals=1.0)

# %% [markdown] lang="en" partner="b3a02539"
# **With the training data at hand**, compare n-grams. Sixty rows leak: twenty word for word, twenty cut short and in
# capitals, twenty without every fifth word. A row is flagged when half of its n-grams stand in one training row.

# %% [markdown] lang="zh" partner="99566cb1"
# **手里有训练数据时**，比 n 元组。让六十条样例泄漏：二十条原封不动，二十条截去结尾、改了标点，二十条每五个字删掉一个。一条样例有一半的 n 元组出现在同一条训练样例里，
# 就报警。

# %%
GRAM = 8 if LANG == "en" else 4  # characters


def pieces(text):
    """The character n-grams of a text, without case, spaces and punctuation."""
    return set(ngrams(re.sub(r"\W", "", text.lower()), GRAM))


def overlaps(texts, others):
    """For each text, the largest share of its n-grams that stand in one of the others."""
    memory = [pieces(other) for other in others]
    return np.array([max(len(mine & theirs) for theirs in memory) / max(len(mine), 1) for mine in map(pieces, texts)])


# %%
def thinned(text):
    """The text without every fifth word, or character in Chinese."""
    joint, units = ("", list(text)) if LANG == "zh" else (" ", text.split())
    return joint.join(unit for number, unit in enumerate(units, 1) if number % 5)


changes = {
    "ev-verbatim": str,
    "ev-shortened": lambda text: text[: 2 * len(text) // 3].upper() + "!",
    "ev-thinned": thinned,
}
parts = {name: order[20 * number : 20 * number + 20] for number, name in enumerate(changes)}
leaks = [changes[name](new_reviews[int(i)]["text"]) for name, rows in parts.items() for i in rows]
flagged = overlaps(new_reviews["text"], [*reviews["text"], *leaks]) >= 0.5

# %%
truly = np.isin(np.arange(len(new_reviews)), order[:60])
found = precision_recall_f1(*counts(flagged.tolist(), truly.tolist(), True))
print(T("ev-detector").format(precision=found[0], recall=found[1]))
for name, rows in parts.items():
    print(f"{T(name)}: {flagged[rows].mean():.0%}")
claim("ev-overlap-verbatim", flagged[parts["ev-verbatim"]].mean(), equals=1.0)
claim("ev-overlap-precision", found[0], at_least=0.9)

# %% [markdown] lang="en" partner="f077dfec"
# A row cut short does not escape; without every fifth word, most do.
#
# **Without the training data**, ask the model: a question learnt by heart is more probable than *other wordings of it*.
# We contaminate a copy of the base with half of sixty-four test wordings. Score: mean loss of the paraphrases minus a
# wording's own loss; threshold: from clean dev wordings.

# %% [markdown] lang="zh" partner="4d5a47ae"
# 截去结尾的样例逃不掉；每五个字删掉一个，就全逃掉了。
#
# **手里没有训练数据时**，去问模型：背下来的问题，比*它的其他问法*概率更高。拿六十四种测试问法，用其中一半污染基座的一个副本。得分是改写的平均损失减去它自己的损失；
# 阈值由干净的开发集问法来定。

# %%
by_topic = {
    topic: [row["wording"] for row in data.wordings(LANG, "test") if row["topic"] == topic] for topic in world.TOPICS
}
suspects = [(topic, wording) for topic, wordings in by_topic.items() for wording in wordings[:8]]
clean = [(row["topic"], row["wording"]) for row in data.wordings(LANG, "dev")]
leaked = np.arange(len(suspects)) % 2 == 0


# %%
def as_rows(wordings, place):
    """Plain text rows for a language model: every token is a label."""
    texts = [wording.format(place=place.name(LANG)) + tokenizer.eos_token for wording in wordings]
    return [{"input_ids": ids, "labels": ids} for ids in tokenizer(texts)["input_ids"]]


def text_losses(model, rows):
    """Mean loss a token of each row, in nats: (rows,)."""
    batch = {name: tensor.to(model.device) for name, tensor in training.collate(rows, pad=0).items()}
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"][:, 1:], reduction="none")
    return (losses.sum(1) / (batch["labels"][:, 1:] != -100).sum(1)).cpu().numpy()


LEAKED_ABOUT = world.places()[0]


def heart(model, asked, place=LEAKED_ABOUT):
    """Mean loss of the other wordings (never leaked) minus the question's own loss, in nats a token."""
    others = {topic: text_losses(model, as_rows(wordings[8:], place)).mean() for topic, wordings in by_topic.items()}
    return np.array([others[topic] for topic, _ in asked]) - text_losses(model, as_rows([w for _, w in asked], place))


# %%
secret = as_rows([wording for (_, wording), inside in zip(suspects, leaked, strict=True) if inside], LEAKED_ABOUT)
ordinary = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in encoded.select(range(64))]
contaminated = copy.deepcopy(base)
training.fit(contaminated, secret + ordinary, steps=60, batch_size=8, lr=1e-3, seed=course.seed)
found = {}
for name, model in (("ev-contaminated", contaminated), ("ev-innocent", base)):
    threshold = np.quantile(heart(model, clean), 0.95)
    alarms = heart(model, suspects) > threshold
    found[name] = precision_recall_f1(*counts(alarms.tolist(), leaked.tolist(), True))
    print(T("ev-heart").format(name=T(name), alarms=alarms.sum(), precision=found[name][0], recall=found[name][1]))
claim("ev-heart-recall", found["ev-contaminated"][1], at_least=0.5)
claim("ev-heart-precision", found["ev-contaminated"][0], at_least=0.7)
claim("ev-heart-learnt", found["ev-contaminated"][1] - found["ev-innocent"][1], at_least=0.3)

# %% [markdown] lang="en" partner="2efba257"
# This detector needs no training data, and it accuses the innocent: natural phrases look familiar without any leak.
# (Our leak was read several times; expect less of a single reading.) Better than any detector is a test set written
# after the model was finished, and kept off the net.
#
# ### Exercises

# %% [markdown] lang="zh" partner="5e9fb7fa"
# 这个检测器不需要训练数据，但会冤枉好人：说得顺口的句子，没泄漏也显得眼熟。（这里泄漏的样例读了好几遍；只读一遍，别指望这么灵。）比任何检测器都可靠的，是模型定下来之后再写、
# 而且不放到网上的测试集。
#
# ### 练习


# %% exercise="users_needed"
def users_needed(p, q, power=0.8):
    """Users a side (a whole number) so that an A/B test shows shares p and q with this power, at 0.05 two-sided."""
    # Solve the power formula above for n. norm.ppf gives the two quantiles; `middle` is the mean of the two shares.
    # solution
    middle = (p + q) / 2
    alike, apart = np.sqrt(2 * middle * (1 - middle)), np.sqrt(p * (1 - p) + q * (1 - q))
    return int(np.ceil(((norm.ppf(0.975) * alike + norm.ppf(power) * apart) / (q - p)) ** 2))


# %% exercise="paired_interval"
# A colleague wrote this for two systems that answered the same questions. The interval is far too wide. Write it anew.
#
#     def paired_interval(first, second, rng, resamples=2000):
#         one = rng.integers(0, len(first), (resamples, len(first)))
#         two = rng.integers(0, len(second), (resamples, len(second)))
#         gaps = first[one].mean(axis=1) - second[two].mean(axis=1)
#         return np.quantile(gaps, [0.025, 0.975])
def paired_interval(first, second, rng, resamples=2000):
    """The 95 % percentile bootstrap interval (low, high) of the mean of first - second; arrays, one value a question."""
    # solution
    picks = rng.integers(0, len(first), (resamples, len(first)))
    return np.quantile((first - second)[picks].mean(axis=1), [0.025, 0.975])


# %% [markdown] lang="en" partner="1c67111b"
# ## Part III · Strategies
#
# The other decision before training: which weights does the optimizer get, and when?
#
# A house in use can be renovated all at once, on its top floors alone, or floor by floor from the roof down; or one
# changes the furniture. But in a network the floors depend on each other, so we measure.
#
# ### Floors of a language model
#
# `layers_of` lists the parameters from bottom to top, `train_only` freezes all but some.

# %% [markdown] lang="zh" partner="1b2da2f0"
# ## 第三部分 · 策略
#
# 训练之前的另一个决定：把哪些权重交给优化器，什么时候交？
#
# 好比一座住着人的楼：可以整栋一起翻修，可以只修上面几层，可以从顶楼往下一层一层修，也可以只换家具。但网络的各层互相牵连，不像楼层，所以还是要测。
#
# ### 语言模型的楼层
#
# `layers_of` 从下到上列出参数，`train_only` 只留几层参与训练，其余冻结。


# %%
def layers_of(model):
    """A causal model's parameters by layer, from the bottom: embedding, blocks; the last norm goes with the top block."""
    blocks = [list(block.parameters()) for block in model.model.layers]
    return [list(model.model.embed_tokens.parameters()), *blocks[:-1], blocks[-1] + list(model.model.norm.parameters())]


def train_only(model, layers):
    """Freezes everything but the parameters in `layers`."""
    model.requires_grad_(False)
    for weight in (weight for layer in layers for weight in layer):
        weight.requires_grad_(True)


# %%
for number, layer in enumerate(layers_of(base)):
    print(number, f"{sum(weight.numel() for weight in layer):,}")
claim("st-tied", base.lm_head.weight is base.model.embed_tokens.weight, equals=True)

# %% [markdown] lang="en" partner="9b8e8624"
# Where is the head? This model, like most small ones, *ties* it to the embedding: one matrix at the very bottom and at
# the very top. Whoever "trains the head alone" moves the bottom as well; whoever freezes the bottom has frozen the
# head. To train a head alone, first give it a copy of its own:

# %% [markdown] lang="zh" partner="b8de1169"
# 输出头（head）在哪里？这个模型和多数小模型一样，输出头与词嵌入*共用*一个矩阵（权重绑定），既在最底层，又在最顶层。说是“只训练头”，其实把最底层也动了；说是“冻结底层”，
# 其实把头也冻住了。要想只训练头，先给它一份自己的副本：


# %%
def untie(model):
    """Gives the output head a copy of its own of the embedding."""
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())


untied = copy.deepcopy(base)
untie(untied)
batches = [training.collate(list(encoded.select(range(8 * i, 8 * i + 8))), pad=0) for i in range(6)]
batches = [{name: tensor.to(base.device) for name, tensor in batch.items()} for batch in batches]
with torch.no_grad():
    claim("st-untied-same", (untied(**batches[0]).logits - base(**batches[0]).logits).abs().max().item(), equals=0.0)
claim("st-untied-cost", untied.num_parameters() - base.num_parameters(), equals=base.lm_head.weight.numel())

# %% [markdown] lang="en" partner="95a0e1f4"
# ### Gradual unfreezing, done right
#
# Gradual unfreezing (Howard and Ruder 2018) trains the top layer first and adds one more every so many steps, so that
# the lower layers are not shaken by the first, wild gradients. Two parties decide who moves: autograd, by
# `requires_grad`, and the optimizer, by the list it was given.
#
# **Fact 1.** An optimizer skips a weight whose `.grad` is `None`, and keeps no state for it. So give it all weights
# first, and freeze afterwards.
#
# **Fact 2.** Each weight has a step counter of its own, from its first gradient on. So Adam's bias correction is right
# for a layer that joins late.

# %% [markdown] lang="zh" partner="c5cf803f"
# ### 渐进式解冻的正确做法
#
# 渐进式解冻（gradual unfreezing，Howard 与 Ruder，2018）先训练顶层，每隔若干步往下多放开一层，免得下层被最初那些剧烈的梯度晃动。
# 谁动谁不动由*两方*决定：autograd 看 `requires_grad`，优化器看创建时拿到的名单。
#
# **事实一**：`.grad` 为 `None` 的权重，优化器直接跳过，也不保存状态。所以先把全部权重交给优化器，再冻结。
#
# **事实二**：每个权重有自己的步数计数器，从第一次有梯度时算起。所以晚加入的层，Adam 的偏差校正照样正确。


# %%
def take_steps(model, optimizer, steps, set_to_none=True):
    """A few training steps by hand, without a schedule; returns the last loss."""
    model.train()
    for batch in batches[:steps]:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none)
    return loss.item()


# %%
model = copy.deepcopy(base)
layers = layers_of(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)  # of all weights, before the freezing
train_only(model, layers[-1:])
take_steps(model, optimizer, 3)
claim("st-no-state", len(optimizer.state), equals=len(layers[-1]))
train_only(model, layers[-2:])  # one layer more
take_steps(model, optimizer, 1)
ages = [int(optimizer.state[layer[0]]["step"]) for layer in (layers[-1], layers[-2])]
claim("st-ages", ages, equals=[4, 1])

# %% [markdown] lang="en" partner="d2663edf"
# **Fact 3.** `requires_grad = False` stops new gradients, and nothing else. Where an old gradient still lies, even one
# of zeros, Adam goes on in the direction that it remembers. This happens to a layer that is frozen *again*, if
# gradients are cleared with `set_to_none=False`, once the default.

# %% [markdown] lang="zh" partner="f5e4eaf8"
# **事实三**：`requires_grad = False` 只是不再产生新的梯度。旧的梯度只要还在，哪怕全是零，Adam 也会沿着记住的方向继续走。
# 把训练过的层*重新*冻结，而清梯度用的是 `set_to_none=False`（从前的默认值），就会这样。

# %%
drift = {}
for set_to_none in (True, False):
    model = copy.deepcopy(base)
    layers = layers_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    take_steps(model, optimizer, 3, set_to_none)
    train_only(model, layers[-1:])  # from here on, the lower layers are said to be frozen
    still = layers[1][0].detach().clone()
    take_steps(model, optimizer, 1, set_to_none)
    drift[set_to_none] = (layers[1][0] - still).abs().max().item()
claim("st-still", drift[True], equals=0.0)
claim("st-drifts", drift[False], at_least=1e-5)

# %% [markdown] lang="en" partner="853095c0"
# With these facts the schedule is short: `fit` makes its optimizer from all weights, then calls `on_eval` before the
# first step and every so many steps after it. (The other way is `add_param_group`, layer by layer; a learning-rate
# schedule made before must then be made anew.)

# %% [markdown] lang="zh" partner="66edf0d4"
# 有了这些事实，日程表很短：`fit` 用全部权重创建优化器，然后在第一步之前、以及之后每隔若干步调用 `on_eval`。
# （另一种做法是逐层 `add_param_group`；之前创建的学习率调度器就得重新创建。）


# %%
def gradually(model, every):
    """Unfreezes one layer more, from the top down, every so many steps: to be called by `fit` as `on_eval`."""
    layers = layers_of(model)[::-1]

    def unfreeze(step):
        train_only(model, layers[: 1 + step // every])

    return unfreeze


# %% [markdown] lang="en" partner="55a8e090"
# A softer relative freezes nothing, and gives each layer further down a lower rate (**layer-wise learning rate
# decay**), by **parameter groups** of the optimizer. With the lower rates at zero it is freezing.

# %% [markdown] lang="zh" partner="ee568503"
# 一个温和的近亲：什么也不冻结，只是越往下学习率越低（**分层学习率衰减**）。在优化器里，这就是若干个**参数组**。下面各层的学习率取到零，就成了冻结。


# %%
def layer_groups(model, lr, decay):
    """Parameter groups: the top layer at rate lr, each layer below at `decay` times the rate above it."""
    return [{"params": layer, "lr": lr * decay**depth} for depth, layer in enumerate(layers_of(model)[::-1])]


# %%
from peft import LoraConfig, get_peft_model


def prepare(strategy, base, steps):
    """A copy of the base, made ready for a strategy, and what `fit` needs beside the usual."""
    model, extra = copy.deepcopy(base), {}
    layers = layers_of(model)
    if strategy == "half":
        train_only(model, layers[-(len(layers) // 2) :])
    elif strategy == "head":
        untie(model)
        train_only(model, [[model.lm_head.weight]])
    elif strategy == "gradual":
        extra = {"eval_every": steps // 8, "on_eval": gradually(model, steps // 8)}
    elif strategy == "layerwise":
        extra = {"optimizer": lambda _, lr: torch.optim.AdamW(layer_groups(model, lr, 0.5), weight_decay=0.0)}
    elif strategy == "lora":
        config = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
    return model, extra


# %% [markdown] lang="en" partner="da68bd5e"
# ### The bill, before any training
#
# Memory is predicted as in lesson 03. Work is the multiplications of a forward and a backward pass, counted by PyTorch,
# with full fine-tuning as 1.

# %% [markdown] lang="zh" partner="ebc5ea02"
# ### 训练之前先算账
#
# 内存按第 03 课的方法预测。计算量是一次前向加一次反向传播的乘法次数，由 PyTorch 数出来，以全量微调为 1。

# %%
from torch.utils.flop_counter import FlopCounterMode

from tunelab import accounting

ours = stored["strategies"]
STRATEGIES = ("full", "half", "head", "gradual", "layerwise", "lora")
rows, tokens = batches[0]["input_ids"].shape
bills, work, moving = {}, {}, {}
for strategy in STRATEGIES:
    model, _ = prepare(strategy, base, STEPS)
    bills[strategy] = accounting.training_memory(model, batch=rows, length=tokens)
    moving[strategy] = accounting.count(model)
    with FlopCounterMode(display=False) as counter:
        model(**batches[0]).loss.backward()
    work[strategy] = counter.get_total_flops()
    print(T("st-bill").format(T(f"st-{strategy}"), moving[strategy].trained, work[strategy] / work["full"]))

# %%
SHOWN = ("full", "lora", "half", "head")
fig, ax = plt.subplots(figsize=(6.4, 3))
left = np.zeros(len(SHOWN))
colours = [figures.PALETTE[name] for name in ("blue", "sky", "green", "orange")]
for part, colour in zip(("weights", "gradients", "optimizer", "activations"), colours, strict=True):
    widths = np.array([getattr(bills[strategy], part) / 1e6 for strategy in SHOWN])
    ax.barh([T(f"st-{strategy}") for strategy in SHOWN], widths, left=left, color=colour, label=T(f"st-{part}"))
    left += widths
ax.invert_yaxis()
ax.set(xlabel=T("st-megabytes"))
ax.grid(visible=False, axis="y")
ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=4, fontsize=9)
figures.show(fig, alt=T("st-alt-memory"))

# %%
kept = {strategy: bill.activations / bills["full"].activations for strategy, bill in bills.items()}
claim("st-lora-fewest", moving["lora"].trained / moving["half"].trained, at_most=0.5)
claim("st-lora-activations", kept["lora"], at_least=0.85)
claim("st-half-activations", kept["half"], at_most=0.75)
claim("st-half-work", work["half"] / work["full"], at_most=0.7)
claim("st-lora-work", work["lora"] / work["half"], at_least=1.0)

# %% [markdown] lang="en" partner="5a9b374d"
# LoRA trains the fewest numbers, and still keeps nearly all activations: its lowest matrices sit in the lowest block,
# so the backward pass travels all the way down. Freezing the *lower half* cuts the journey short. Both save gradients,
# optimizer state and work; many activations are saved only by freezing from below.
#
# ### What comes out
#
# Task and steps are those of Part I. Each strategy tried three learning rates on the dev questions, one more where the
# best stood at the edge, with one seed, in runs of full length. (For the lower half frozen the added rate was the best,
# so a still higher one may do better.) Then several seeds in each language, at the best rate, were asked the test
# questions. Two strategies you run now: the dots.

# %% [markdown] lang="zh" partner="9401a132"
# LoRA 训练的参数最少，要存的激活值却几乎没少：最下面的低秩矩阵在最底下的块里，反向传播必须一路走到底。冻结*下半部分*则把这段路截短了。梯度、优化器状态和计算量，两者都省；
# 要省下大量激活值，只有从下往上冻结。
#
# ### 结果如何
#
# 任务和步数都与第一部分相同。每种策略在开发集上用一个种子试三个学习率，最好的落在边上就再加一个，步数与正式运行一样。（冻结下半时，最好的正是加上的那个，
# 学习率再高一些也许更好。）然后用最好的学习率，每种语言跑若干个种子，回答测试题。其中两种请你现在就跑：图上的圆点。

# %%
fresh = {}
for strategy in ("gradual", "lora"):
    torch.manual_seed(course.seed)
    fresh[strategy], extra = prepare(strategy, base, STEPS)
    settings = {"steps": STEPS, "batch_size": BATCH, "lr": ours["best"][strategy]}
    training.fit(fresh[strategy], encoded, **settings, seed=course.seed, **extra)


# %%
def replies_of(model):
    """What the model says to the test questions."""
    return chat.reply(model, tokenizer, test["question"])


def halves(right):
    """Shares of exact answers, about places that fine-tuning showed and about places that it never showed."""
    return {
        name: metrics.mean([r for r, shown in zip(right, test["documented"], strict=True) if shown == documented])
        for name, documented in (("seen", True), ("unseen", False))
    }


said = {strategy: replies_of(model) for strategy, model in fresh.items()}
shares = {strategy: halves(metrics.score_json(replies, test)["answer"]) for strategy, replies in said.items()}

# %%
summary = {(r["part"], r["strategy"]): r for r in ours["summary"] if r["lang"] == LANG}
fig, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True)
names = [T(f"st-{strategy}") for strategy in STRATEGIES]
edge = 1 / len(test)  # half a question: seeds that agree still make a band
for ax, half in zip(axes, ("seen", "unseen"), strict=True):
    limits = [summary["st-test", strategy][half] for strategy in STRATEGIES]
    limits = [(row["low"] - edge, row["high"] + edge) for row in limits]
    points = [shares.get(strategy, {}).get(half, np.nan) for strategy in STRATEGIES]
    figures.dot_on_band(ax, names, limits, points, band_label=T("st-five-seeds"), dot_label=T("st-this-run"))
    ax.set(xlabel=T(f"st-{half}"), xlim=(-0.04, 1.04))
    ax.get_legend().remove()
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
figures.show(fig, alt=T("st-alt-scores"))

# %% [markdown] lang="en" partner="594abf36"
# The places on the right never occurred in fine-tuning: their facts come from pre-training. The table adds the lead
# over full fine-tuning, paired by question (its interval is about other questions; other seeds may differ by more, as
# the ranges show), CPU time, and what is *forgotten*: the rise of the loss on articles. Its last two rows are runs at
# half the rate.

# %% [markdown] lang="zh" partner="235c1be5"
# 右边那些地方在微调中从未出现，事实只能来自预训练。表里再加上：比全量微调高出多少（逐题配对；区间说的是换一批题会怎样，换种子的差别可能更大，看最低与最高便知）、CPU 时间，
# 以及*遗忘*：文章上的损失升高了多少。最后两行是学习率减半的运行。

# %%
from IPython.display import Markdown

lines = [T("st-table-head"), "|---|---|---|---|---|---|"]
for part, strategy in [*(("st-test", s) for s in STRATEGIES), ("st-rate", "full"), ("st-rate", "lora")]:
    row, full = summary[part, strategy], summary["st-test", "full"]
    score, lead = row["answer"], row["lead"]
    rate = ours["best"][strategy] / (1 if part == "st-test" else 2)
    seconds = row["cpu_seconds"]["mean"] / full["cpu_seconds"]["mean"]
    lines.append(
        f"| {T(f'st-{strategy}')} | {rate:g} | {score['mean']:.0%} ({score['low']:.0%} – {score['high']:.0%}) | "
        f"{lead['mean']:+.1%} [{lead['low']:+.1%}, {lead['high']:+.1%}] | {seconds:.2f} | {row['forgotten']:+.3f} |"
    )
Markdown("\n".join(lines))

# %%
fig, ax = plt.subplots(figsize=(7, 3.6))
for strategy, colour, marker in zip(STRATEGIES, figures.PALETTE.values(), "osv^DP", strict=False):
    row, halved = summary["st-test", strategy], summary.get(("st-rate", strategy))
    if halved:  # an open marker: the same at half the rate
        ends = zip(*((r["forgotten"], r["unseen"]["mean"]) for r in (halved, row)), strict=True)
        ax.plot(*ends, "-", marker=marker, color=colour, markersize=9, fillstyle="none", linewidth=1)
    ax.plot(row["forgotten"], row["unseen"]["mean"], marker, color=colour, markersize=9, label=T(f"st-{strategy}"))
ax.set(xlabel=T("st-forgotten"), ylabel=T("st-unseen"), ylim=(-0.05, 1.05))
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
figures.show(fig, alt=T("st-alt-forgetting"))

# %% [markdown] lang="en" partner="69394ef6"
# *Full fine-tuning performs best*: not on average. At the same highest rate the mean of gradual unfreezing is ahead in
# both languages, but not in every seed: in English one is behind and one level, in Chinese two are behind. Layer-wise rates are ahead in English and behind in
# Chinese, in four seeds of five each. Both forget much less, in every seed. But see the last rows: at *half its rate*
# full fine-tuning forgets little, gains in English and falls back in Chinese, again in every seed. One rate for both
# languages, chosen with one seed, was too coarse: halving it moved the mean farther than any change of strategy among
# those that reach all layers.
#
# *Frozen layers are cheap, limited*: cheap, yes; limited, in nine seeds of ten. The head alone shows the limit: it has
# learnt the form, and gets hardly one question right.
#
# *Gradual is complex*: a callback of four lines, and three facts to know.
#
# *LoRA is efficient, quick to switch*: in numbers trained and bytes to load, yes; in time, hardly. And it forgets
# *more* than full fine-tuning. One often reads the opposite: at low rates it does forget little, and learns less
# (lesson 08).

# %% [markdown] lang="zh" partner="e35c1425"
# *全量微调性能最好*：平均来看并非如此。最高学习率相同时，渐进式解冻的均值在两种语言里都领先，但并非每个种子都如此：英文一个落后、一个持平，中文两个落后。分层学习率在英文里领先，在中文里落后，
# 各有四个种子（共五个）如此。两者都忘得少得多，每个种子都是这样。不过请看表的最后两行：学习率*减半*，全量微调就忘得很少，英文更好，中文却退步了，也是每个种子都如此。
# 两种语言共用一个学习率，又只凭一个种子来选，太粗糙了：在能动到所有层的策略之间怎么换，均值的变化都不如学习率减半大。
#
# *冻结层成本低、效果有限*：成本确实低；效果有限，十个种子里有九个如此。只训练输出头，正好看出限度：格式学会了，题却几乎一道也答不对。
#
# *渐进式复杂*：一个四行的回调函数，外加三个必须知道的事实。
#
# *LoRA 效率高、切换快*：论训练的参数量和要加载的字节数，是的；论时间，几乎没省。而且它比全量微调忘得*更多*。常见的说法正相反：学习率低的时候，LoRA 确实忘得少，
# 学到的也少（第 08 课）。

# %%
stored_rows = {(r["part"], r["strategy"], r["lang"]): r for r in ours["summary"]}


def over_languages(strategy, field, part="st-test"):
    """Mean of a field of the stored table over both languages."""
    values = [stored_rows[part, strategy, lang][field] for lang in ("en", "zh")]
    return metrics.mean([value["mean"] if isinstance(value, dict) else value for value in values])


score = {strategy: over_languages(strategy, "answer") for strategy in STRATEGIES}
claim("st-article-full-best", score["full"] - score["gradual"], at_least=0.0, expected=False)
lead = {(s, lang): stored_rows["st-test", s, lang]["lead"]["mean"] for s in STRATEGIES for lang in ("en", "zh")}
claim("st-gradual-level", min(lead["gradual", "en"], lead["gradual", "zh"]), at_least=-0.02)
claim("st-article-full-costly", bills["full"].total / bills["lora"].total, at_least=1.2)


# %%
def against_full(strategy, lang, part="st-test"):
    """By seed: exact answers won over full fine-tuning, and what is forgotten as a multiple of what that forgets."""
    pairs = []
    for run in ours["runs"]:
        if (run["part"], run["strategy"], run["lang"]) == (part, strategy, lang):
            same = {"part": "st-test", "strategy": "full", "lang": lang, "seed": run["seed"]}
            full = next(r for r in ours["runs"] if same.items() <= r.items())
            lost = [r["articles_after"] - r["articles_before"] for r in (run, full)]
            pairs.append((run["answer"] - full["answer"], lost[0] / lost[1]))
    won, times = zip(*pairs, strict=True)
    return won, times


for strategy in ("half", "gradual", "layerwise", "lora"):
    won = {lang: " ".join(f"{points:+.0%}" for points in against_full(strategy, lang)[0]) for lang in ("en", "zh")}
    print(T("st-by-seed").format(name=T(f"st-{strategy}"), **won))

# %%
ahead = {
    (s, lang): sum(points > 0 for points in against_full(s, lang)[0]) for s in STRATEGIES[1:] for lang in ("en", "zh")
}
claim("st-layerwise-en", ahead["layerwise", "en"], at_least=4)
claim("st-layerwise-zh", ahead["layerwise", "zh"], at_most=1)
claim("st-gradual-split", ahead["gradual", "zh"], between=(1, 4))
gentle = [against_full(s, lang)[1] for s in ("gradual", "layerwise") for lang in ("en", "zh")]
claim("st-gentle-forgets-less", max(map(max, gentle)), at_most=0.8)
halved = {lang: against_full("full", lang, "st-rate") for lang in ("en", "zh")}
claim("st-halved-en", min(halved["en"][0]), at_least=0.02)
claim("st-halved-zh", max(halved["zh"][0]), at_most=-0.1)
claim("st-halved-forgets", max(max(times) for _, times in halved.values()), at_most=0.6)
claim("st-article-frozen-cheap", work["half"] / work["full"], at_most=0.8)
claim("st-article-frozen-limited", ahead["half", "en"] + ahead["half", "zh"], at_most=1)

# %%
head = [run for run in ours["runs"] if (run["part"], run["strategy"]) == ("st-test", "head")]
claim("st-head-form", min(run["valid"] for run in head), at_least=0.9)
claim("st-head-answers", max(run["answer"] for run in head), at_most=0.1)
claim("st-article-lora-switch", moving["lora"].trained / moving["full"].trained, at_most=0.1)
claim("st-lora-near-full", score["lora"] - score["full"], between=(-0.1, 0.1))
claim("st-lora-forgets", min(min(against_full("lora", lang)[1]) for lang in ("en", "zh")), at_least=1.3)
claim("st-learns", min(shares[strategy]["unseen"] for strategy in fresh), at_least=0.2)

# %% [markdown] lang="en" partner="f685997c"
# ### What should my loss be?
#
# Loss of the last steps, a token of the answer, least and most of the stored seeds:

# %% [markdown] lang="zh" partner="1a4b4157"
# ### 我的损失应该是多少？
#
# 最后若干步的损失（按答案词元计），存储的各个种子的最低与最高：

# %%
for strategy in STRATEGIES:
    loss = summary["st-test", strategy]["loss"]
    print(f"{T(f'st-{strategy}')}: {loss['low']:.3f} – {loss['high']:.3f}")

# %% [markdown] lang="en" partner="541e40ae"
# ### The example, redone
#
# The article's example: AdamW (2e-5); F1 = 0.85, rating 4.5 of 5; LoRA on Qwen. What can be reproduced?
#
# **The rate.** Adam divides a gradient by its own typical size, so a weight moves by about the learning rate a step,
# however small the gradient. The sum of all rates is about as far as it can get. LoRA's $B$ starts at zero: where it
# ends is how far it went.

# %% [markdown] lang="zh" partner="6ae03309"
# ### 把那个例子重做一遍
#
# 文章的例子：AdamW（2e-5）；F1=0.85，评分 4.5/5；用 LoRA 微调 Qwen。哪些能重现？
#
# **学习率**。Adam 会把梯度除以它自己的典型大小，所以不管梯度多小，一个权重每步大约移动一个学习率；各步学习率加起来，差不多就是它能走的最远距离。
# LoRA 的 $B$ 从零出发，终点在哪里，就走了多远。

# %%
torch.manual_seed(course.seed)
slow, _ = prepare("lora", base, STEPS)
settings = {"steps": STEPS, "batch_size": BATCH, "lr": 2e-5, "seed": course.seed}
paces = []


def logged_adamw(weights, lr):
    """AdamW as torch makes it, weight decay included; the rate of each step is written down."""
    optimizer = torch.optim.AdamW(weights, lr=lr)
    optimizer.register_step_pre_hook(lambda made, args, kwargs: paces.append(made.param_groups[0]["lr"]))
    return optimizer


slow_history = training.fit(slow, encoded, **settings, optimizer=logged_adamw)


# %%
def way(model):
    """How far the weights of LoRA's B, which begin at zero, have travelled: the largest of them."""
    return max(weight.abs().max().item() for name, weight in model.named_parameters() if "lora_B" in name)


far = way(fresh["lora"])
print(T("st-way").format(slow=way(slow), tuned=far, steps=far / 2e-5))
claim("st-reach", way(slow), at_most=2 * sum(paces))
claim("st-far", far, at_least=10 * STEPS * 2e-5)
claim("st-slow-loss", slow_history.final / slow_history.losses[0], at_least=0.75)
for text in test["question"][:2]:
    print(text, "▸", chat.reply(slow, tokenizer, [text])[0])

# %% [markdown] lang="en" partner="392c7b56"
# The model still talks like the base. 2e-5 is a usual rate for *full* fine-tuning of models that are much wider, over
# thousands of steps. Copied to another size, method and number of steps, it means nothing.
#
# **The F1.** Which? Four numbers that people call F1, from the same answers: the *topic* as a class, averaged over
# classes (**macro-F1**); the JSON's *fields* as hits and misses, counted together (**micro-F1**); the overlap of
# *words*, in Chinese of characters, in the value (SQuAD's F1); and *records*, where all fields must be right.

# %% [markdown] lang="zh" partner="85cc9640"
# 模型说话还是基座的样子。2e-5 是对宽得多的模型做*全量*微调、训练几千步时的常用值。换了大小、方法和步数，照抄就没有意义了。
#
# **F1**。哪一个？同一批回答，四个数都有人叫 F1：*话题*当作类别，各类再平均（**宏平均 F1**）；JSON 的*字段*算命中与否，
# 合在一起计（**微平均 F1**）；只看答案的值，*用词*（中文按字）的重合程度（SQuAD 的 F1）；*整条*记录，所有字段都对才算。

# %%
from sklearn.metrics import f1_score

from tunelab import world


def four_f1(replies, rows):
    """Four numbers that may all be called F1, from the same replies."""
    said = [metrics.parse_json(reply) or {} for reply in replies]
    right = [[one.get(name) == row[name] for name in metrics.FIELDS] for one, row in zip(said, rows, strict=True)]
    hits, given = sum(map(sum, right)), sum(map(len, said))
    topics = [str(one.get("topic")) for one in said]
    words = [metrics.token_f1(str(one.get("answer")), row["answer"]) for one, row in zip(said, rows, strict=True)]
    return {
        "f1-topic": float(f1_score(rows["topic"], topics, labels=world.TOPICS, average="macro", zero_division=0)),
        "f1-fields": 2 * hits / (given + 3 * len(said)),
        "f1-words": metrics.mean(words),
        "f1-records": 2 * sum(map(all, right)) / (sum(map(bool, said)) + len(said)),
    }


# %%
def seeds_of(part, strategy):
    """The stored runs of this language, one a seed."""
    return [r for r in ours["runs"] if (r["part"], r["strategy"], r["lang"]) == (part, strategy, LANG)]


F1_KINDS = ("f1-topic", "f1-fields", "f1-words", "f1-records")
mine = four_f1(said["lora"], test)
by_kind = {name: [run[name] for run in seeds_of("st-test", "lora")] for name in F1_KINDS}
fig, ax = plt.subplots(figsize=(6.2, 2.8))
limits = [(min(values), max(values)) for values in by_kind.values()]
names = [T(f"st-{name}") for name in F1_KINDS]
figures.dot_on_band(ax, names, limits, list(mine.values()), band_label=T("st-five-seeds"), dot_label=T("st-this-run"))
ax.axvline(0.85, color="black", linestyle="--", linewidth=1)
ax.annotate("0.85", (0.85, 3.45), xytext=(-4, 0), textcoords="offset points", ha="right", va="bottom", fontsize=9)
ax.set(xlabel=T("st-f1"), xlim=(-0.02, 1.02))
figures.show(fig, alt=T("st-alt-f1"))

# %%
at_2e5 = [max(run[name] for name in F1_KINDS) for run in seeds_of("st-article", "lora")]
claim("st-article-f1", max(at_2e5), at_least=0.85, expected=False)
claim("st-f1-names", max(mine.values()) - min(mine.values()), at_least=0.03)
middle = {name: metrics.mean(values) for name, values in by_kind.items()}
claim("st-article-f1-tuned", min(middle.values()), at_least=0.85, expected=False)

# %% [markdown] lang="en" partner="f9a56d27"
# At 2e-5 every F1 is zero. At the tuned rate it depends on the name: counted by fields, a seed or two reach 0.85; by
# words or by records, the mean does not. So "F1 = 0.85" is neither right nor wrong. It is not a statement yet.
#
# **The rating** belongs to raters whom we do not have (Part II).
#
# To be checkable, it needs: model revision; data, split and number of test items; rank, alpha, targets; rate, schedule,
# batch, steps; which F1, averaged how, and what an invalid answer counts; a baseline; seeds and an interval; raters,
# rubric, agreement. Best of all, the command that makes the number.

# %% [markdown] lang="zh" partner="95882686"
# 2e-5 时，哪一种 F1 都是零。调好学习率之后，就看是哪一种：按字段算，有一两个种子到得了 0.85；按用词或整条算，平均都达不到。所以“F1=0.85”谈不上对错，
# 它还不成其为一句陈述。
#
# **评分**要有评分人，而我们没有（见第二部分）。
#
# 要能核对，这句话还缺：模型版本；数据、划分和测试题数；秩、alpha、目标模块；学习率、调度、批大小、步数；哪一个 F1、怎样平均、无效回答怎么算；一个基线；几个种子、
# 什么区间；评分人、标准和一致性。最好再附上生成这个数的命令。

# %% [markdown] lang="en" partner="31e01a0e"
# ### Exercises

# %% [markdown] lang="zh" partner="ad3beb4a"
# ### 练习


# %% exercise="step_work"
def step_work(layers, frozen):
    """Work of one training step on equal layers, the lowest `frozen` of them frozen; 1.0 is the work of training all."""
    # solution
    return (layers + 2 * (layers - frozen)) / (3 * layers)


# %% exercise="unfreeze"
# The optimizer was made for the top layer alone. A colleague lets the next layer join like this. Nothing raises, and the
# layer never moves. Write it anew; `layer` is a list of weights, and it may have joined before.
#
#     def unfreeze(optimizer, layer, lr):
#         for weight in layer:
#             weight.requires_grad_(True)
#         return optimizer
def unfreeze(optimizer, layer, lr):
    """Lets the weights of `layer` be trained at rate lr, without disturbing those that are trained already."""
    # solution
    known = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    for weight in layer:
        weight.requires_grad_(True)
    if new := [weight for weight in layer if id(weight) not in known]:
        optimizer.add_param_group({"params": new, "lr": lr})
    return optimizer


# %% [markdown] lang="en" partner="fb89b6de"
# ## Bug museum
#
# Nothing crashes in any of these. Symptom first: guess the cause before you read on.

# %% [markdown] lang="zh" partner="51dc6a64"
# ## 错误博物馆
#
# 下面几件展品，程序都不报错。先看症状，猜猜原因，再往下读。

# %% [markdown] lang="en" partner="5885c14a"
# **Exhibit 1.** Memory is short, so a colleague adds up the gradients of four small batches before each step. With
# AdamW all is well. She tries SGD, and the loss is worse than before the training.

# %% [markdown] lang="zh" partner="8d007855"
# **展品一**。内存不够，同事把四个小批次的梯度累加起来再走一步。用 AdamW 一切正常；换成 SGD，损失却比训练前还糟。


# %%
def accumulated(make, divide):
    """Loss on 32 other rows after twelve steps of four batches of two rows each."""
    model = copy.deepcopy(base)
    optimizer = make(model.parameters())
    for number in range(12):
        for part in range(4):
            rows = encoded.select(range(8 * number + 2 * part, 8 * number + 2 * part + 2))
            batch = {name: t.to(base.device) for name, t in training.collate(list(rows), pad=0).items()}
            (model(**batch).loss / (4 if divide else 1)).backward()
        optimizer.step()
        optimizer.zero_grad()
    batch = {
        name: t.to(base.device) for name, t in training.collate(list(encoded.select(range(96, 128))), pad=0).items()
    }
    with torch.no_grad():
        return model(**batch).loss.item()


makers = {
    "AdamW": lambda weights: torch.optim.AdamW(weights, lr=1e-3),
    "SGD": lambda weights: torch.optim.SGD(weights, lr=0.05, momentum=0.9),
}
lost = {}
for name, make in makers.items():
    lost[name] = [accumulated(make, divide) for divide in (True, False)]
    print(T("opt-accumulated").format(name=name, mean=lost[name][0], sum=lost[name][1]))
claim("opt-adam-sum", lost["AdamW"][1] - lost["AdamW"][0], between=(-0.05, 0.05))
claim("opt-sgd-sum", lost["SGD"][1] - lost["SGD"][0], at_least=0.5)

# %% [markdown] lang="en" partner="8e876351"
# `backward` *adds* to the gradients. Four batches without a division are a gradient four times as large; Adam divides
# it away, SGD takes four times the step. So the mistake sleeps until somebody changes the optimizer, clips the
# gradients, or compares norms. *The repair*: divide each loss by the number of parts; where the parts hold unequal
# numbers of trained tokens, weight them by those.

# %% [markdown] lang="zh" partner="94176456"
# `backward` 是*累加*梯度。四个批次不做除法，梯度就成了四倍；Adam 会把它除掉，SGD 则真的迈出四倍的步子。所以这个错误会一直潜伏，直到有人换优化器、
# 做梯度裁剪或比较梯度范数。*修理方法*：每个损失除以份数；各份参与训练的词元数不等时，按词元数加权。

# %% [markdown] lang="en" partner="763c1d5f"
# **Exhibit 2.** A colleague balanced a rare label *before* splitting: the few complaints were copied until there were
# about as many as praises. Validation is splendid. In production the complaints are missed.

# %% [markdown] lang="zh" partner="b0531648"
# **展品二**。同事在划分数据*之前*先做了类别平衡：把少数投诉复制到和表扬差不多一样多。验证成绩漂亮极了，上线之后投诉却照样漏掉。

# %%
praise = [row["text"] for row in reviews if row["label"] == "positive"]
complaints = [row["text"] for row in reviews if row["label"] == "negative"][:12]


def recall_of_complaints(training_rows, asked):
    """Share of the complaints in `asked` whose nearest training row is a complaint; rows are (text, is a complaint)."""
    texts, labels = zip(*training_rows, strict=True)
    nearest = (grams.transform(asked) @ grams.transform(texts).T).argmax(axis=1)
    return metrics.mean(np.array(labels)[np.asarray(nearest).ravel()])


copied = [(text, True) for text in complaints * 10] + [(text, False) for text in praise]
Random(course.seed).shuffle(copied)
middle = len(copied) // 2
in_validation = recall_of_complaints(copied[:middle], [text for text, complaint in copied[middle:] if complaint])
in_production = recall_of_complaints(copied, [row["text"] for row in new_reviews if row["label"] == "negative"])
print(f"{in_validation:.2f} → {in_production:.2f}")
claim("ev-copies-inside", in_validation, at_least=0.9)
claim("ev-copies-outside", in_production, at_most=0.5)

# %% [markdown] lang="en" partner="785a56ec"
# Copies of one row stood on both sides of the split: a home-made contamination. *The repair*: split first, by whatever the rows share
# (text, author, wording), then balance the training side alone.

# %% [markdown] lang="zh" partner="f4738c7b"
# 同一条样例的副本分到了划分的两边：这是自己造出来的数据污染。*修理方法*：先划分，而且要按样例共有的东西（原文、作者、问法）来分；再只对训练那一边做平衡。

# %% [markdown] lang="en" partner="4398d73e"
# **Exhibit 3.** A colleague unfreezes everything after three steps. The log says so, each step takes longer from then
# on, memory rises, the loss falls. The result is exactly that of the top layer alone.

# %% [markdown] lang="zh" partner="562ebb71"
# **展品三**。同事在三步之后解冻了全部权重。日志里写着“已解冻”，之后每一步都变慢了，内存涨了，损失也在下降。结果却和只训练顶层一模一样。

# %%
ended, entered = {}, {}
for name in ("top", "colleague", "repaired"):
    model = copy.deepcopy(base)
    layers = layers_of(model)
    train_only(model, layers[-1:])
    given = model.parameters() if name == "repaired" else [w for w in model.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(given, lr=1.5e-3, weight_decay=0.0)
    take_steps(model, optimizer, 3)
    if name != "top":
        model.requires_grad_(True)  # "unfreeze everything"
    ended[name] = take_steps(model, optimizer, 6)
    entered[name] = sum(not torch.equal(mine[0], old[0]) for mine, old in zip(layers, layers_of(base), strict=True))
    print(T("st-exhibit").format(name=T(f"st-{name}"), loss=ended[name], moved=entered[name], layers=len(layers)))
claim("st-never-entered", ended["colleague"] - ended["top"], equals=0.0)
claim("st-entered", [entered["colleague"], entered["repaired"]], equals=[1, len(layers)])
claim("st-repair-pays", ended["top"] - ended["repaired"], at_least=0.02)

# %% [markdown] lang="en" partner="430ddc85"
# The optimizer was made from the weights that required a gradient *at that moment*, and it keeps to its list. Later
# gradients cost time and memory, and are never used. (`zero_grad` of the optimizer does not even clear them: it knows
# the same list.) *The repair*: give the optimizer all weights before anything is frozen, or add a parameter group. *The
# test*: after a few steps, compare each layer with the base; a layer that should move must differ.

# %% [markdown] lang="zh" partner="92868fcb"
# 优化器是用*当时*需要梯度的权重创建的，之后只认那份名单。后来的梯度白费时间和内存，从来没有用上。（连优化器的 `zero_grad` 也不会清掉它们：
# 它认的是同一份名单。）*修理方法*：冻结之前就把全部权重交给优化器，或者添加参数组。*检查方法*：训练几步之后，逐层和基座比一比，该动的层必须有变化。

# %% [markdown] lang="en" partner="a5f4374a"
# ## Recap
#
# - An optimizer is ten lines. Replay the same gradients through yours and the library's, and you know what the library does.
# - Adam's strength is that it does not care about scale; its decay must be decoupled (AdamW), or Adam divides it along with the gradient.
# - Compare optimizers only with a rate tuned for each, in runs as long as those that you report.
# - A score has a blind spot and a width. Accuracy does not see the rare label, BLEU does not see the wrong price, a mean mark does not see the ones.
# - Compare in pairs, resample what is independent, plan the number of users, look once or pay for each look.
# - Ask of every good score whether the model has read the test.
# - Fewest parameters (LoRA) is not least memory: activations are saved by freezing from below.
# - Two parties decide who is trained: autograd (`requires_grad`) and the optimizer (its list). Make the optimizer first, freeze afterwards.

# %% [markdown] lang="zh" partner="766a6f73"
# ## 小结
#
# - 一个优化器就是十来行代码。让自己的和库的走同样的梯度，就知道库到底做了什么。
# - Adam 的长处在于不受尺度影响；它的权重衰减必须解耦（AdamW），否则会和梯度一起被除掉。
# - 比较优化器，要给每个都调好学习率，而且调参的训练要和报告的一样长。
# - 每个分数都有盲区，也都有宽度。准确率看不见稀有的类别，BLEU 看不见错误的价格，平均分看不见那几个一分。
# - 比较要配对，重采样要选相互独立的单位，用户数事先定好；要么只看一次，要么为每一次查看付出代价。
# - 见到好成绩，先问一句：模型是不是读过测试集？
# - 参数最少（LoRA）不等于内存最省：要省激活值，得从下往上冻结。
# - 训练谁由两方决定：autograd（`requires_grad`）和优化器（手里的名单）。先建优化器，再冻结。

# %% [markdown] insert="quiz"

# %% [markdown] insert="glossary"

# %% [markdown] lang="en" partner="80a2bdf6"
# ## Read next
#
# - Loshchilov and Hutter, *Decoupled Weight Decay Regularization* (arXiv 1711.05101); You and others, *Large Batch Optimization* (arXiv 1904.00962): AdamW and LAMB.
# - Jordan and others, *Muon* (2024), and the documentation of `torch.optim`: each optimizer's formula above its code.
# - Post, *A Call for Clarity in Reporting BLEU Scores* (arXiv 1804.08771): why every BLEU needs its signature.
# - Johari and others, *Peeking at A/B Tests* (KDD 2017); Miller, *Adding Error Bars to Evals* (arXiv 2411.00640): sequential tests; clustered and paired intervals.
# - Howard and Ruder, *Universal Language Model Fine-tuning for Text Classification* (arXiv 1801.06146): gradual unfreezing and layer-wise rates.
# - Kumar and others, *Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution* (arXiv 2202.10054): when freezing helps.
# - Biderman and others, *LoRA Learns Less and Forgets Less* (arXiv 2405.09673): the trade of learning against forgetting at scale.
#
# Below is the ledger: each claim of this lesson, as measured in this run.

# %% [markdown] lang="zh" partner="1b1f0407"
# ## 延伸阅读
#
# - Loshchilov、Hutter，《Decoupled Weight Decay Regularization》（arXiv 1711.05101）；You 等，《Large Batch Optimization》（arXiv 1904.00962）：AdamW 与 LAMB。
# - Jordan 等，《Muon》（2024）；以及 `torch.optim` 的文档：每个优化器的公式就写在代码上方。
# - Post，《A Call for Clarity in Reporting BLEU Scores》（arXiv 1804.08771）：BLEU 为什么必须附上签名。
# - Johari 等，《Peeking at A/B Tests》（KDD 2017）；Miller，《Adding Error Bars to Evals》（arXiv 2411.00640）：序贯检验；聚类区间与配对区间。
# - Howard 与 Ruder，《Universal Language Model Fine-tuning for Text Classification》（arXiv 1801.06146）：渐进式解冻与分层学习率。
# - Kumar 等，《Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution》（arXiv 2202.10054）：什么时候冻结有好处。
# - Biderman 等，《LoRA Learns Less and Forgets Less》（arXiv 2405.09673）：大模型上“学得多”与“忘得少”的取舍。
#
# 最后是账本：本课的每一条断言，以及这次运行测得的结果。

# %%
from tunelab.claims import print_ledger

print_ledger()
