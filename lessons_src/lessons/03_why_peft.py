# %% [markdown] lang="en" partner="2c5a3fc9"
# # 03 · Why PEFT: the bill of fine-tuning
#
# **After this lesson you can**
# - answer "how much memory does fine-tuning take?" for any model on a sheet of paper, and prove the answer on a laptop;
# - measure the peak of a training step to the byte, without a GPU, and weigh a 7B model without loading it;
# - say what parameter-efficient fine-tuning (PEFT) saves, and what it does not: activations, the base, two thirds of the arithmetic;
# - serve many tasks from one base, and count what each further task costs on disk, in memory and in switching;
# - show that one method is *as good as* another, and not merely "not significantly worse";
# - store a weight in four bits by hand, and tell what fits into a phone.
#
# **Before you start**: lesson 01 (what fine-tuning is). Gradients and an optimizer should not be new to you.
# **Time**: about 75 minutes with the exercises; the cells themselves run for less than a minute on one CPU core.
# **Memory**: 1.5 GB.

# %% [markdown] lang="zh" partner="af9add09"
# # 03 · 为什么需要 PEFT：微调的账单
#
# **学完这一课，你能够**
# - 对任何模型，在一张纸上算出“微调要多少显存”，并在笔记本电脑上验证；
# - 不用 GPU，把一步训练的内存峰值测到字节；不加载权重，给 7B 模型“称重”；
# - 说清参数高效微调（PEFT）省了什么，又有什么没省：激活值、基座本身，以及三分之二的计算量；
# - 用一个基座服务许多任务，算出每多一个任务，磁盘、内存和切换各要付出多少；
# - 证明两种方法*一样好*，而不是只说一句“差异不显著”；
# - 亲手把权重存成四比特，并判断一部手机里放得下什么。
#
# **预备知识**：第 01 课（什么是微调）；知道梯度和优化器是什么。
# **时间**：连同练习约 75 分钟；代码本身在单核 CPU 上不到一分钟跑完。
# **内存**：1.5 GB。

# %%
from tunelab import T, check, claim, start

LANG = "en"
course = start("03", LANG)

# %% [markdown] lang="en" partner="81d901e0"
# ## The question
#
# The information desk of Yunlan Province wants a model for each of its tasks, and your manager has seen a slide:
#
# | | full fine-tuning | PEFT |
# |---|---|---|
# | parameters | all | few: 0.1 % to 1 % |
# | cost | high: 48 hours, or days | low: 2 hours |
# | storage | large: 14 GB | small: 50 MB |
# | quality | best | close, slightly worse |
# | switching tasks | a whole model each | small adapters, fast |
#
# Four reasons stand behind it: PEFT is cheaper to compute and to store, it serves many tasks, it suits small devices, and it
# lets you try things quickly. People say: full fine-tuning rebuilds the house, PEFT changes the furniture. The picture is a
# good one for *storage*: furniture goes into a small van. We shall see that for *memory* it misleads, because the furniture
# is tried out inside the whole house, with the lights on.
#
# Every cell of this table gets a number of our own below. Three of its figures do not survive as they stand; a fourth, the
# 14 GB, is right for the disk, and often quoted for the training.

# %% [markdown] lang="zh" partner="2ef3603d"
# ## 问题
#
# 云澜省旅游咨询台想给每个任务配一个模型，而你的经理看到过这样一页幻灯片：
#
# | | 全量微调 | PEFT |
# |---|---|---|
# | 参数 | 全部 | 少量：0.1%～1% |
# | 成本 | 高：48 小时，甚至数天 | 低：2 小时 |
# | 存储 | 大：14 GB | 小：50 MB |
# | 性能 | 最佳 | 接近，略逊 |
# | 任务切换 | 每个任务一个完整模型 | 小适配器，切换快 |
#
# 背后是四条理由：PEFT 省计算、省存储，支持多任务，适合边缘设备，能快速迭代。有人打比方：全量微调是重建房子，PEFT 是换家具。
# 说到*存储*，这个比方很贴切：家具一辆小货车就拉走了。说到*训练内存*，它却会误导人：家具得搬进整栋房子里试，全屋的灯都亮着。
#
# 下面这张表的每一格都会换成我们自己测的数。其中三个数照原样站不住脚；第四个，14 GB，说的是磁盘就对，却常被拿来说训练。

# %% [markdown] lang="en" partner="3ee454f3"
# ## Step 1 · Four lines on the bill
#
# A training step holds four kinds of tensors: the **weights**; a **gradient** for each weight that is trained; the
# **optimizer state**, for AdamW two running means a trained weight; and the **activations**, the intermediate results of the
# forward pass that the backward pass needs again. Make one step, and weigh the first three.

# %% [markdown] lang="zh" partner="08261a3b"
# ## 第 1 步 · 账单上的四行
#
# 一步训练要存四类张量：**权重**；每个参与训练的权重的**梯度**；**优化器状态**，对 AdamW 来说是每个训练参数两个滑动平均；
# 还有**激活值**，也就是前向传播的中间结果，反向传播时还要用。先走一步，称称前三样。

# %%
import copy

import torch

from tunelab import accounting, models

base, tokenizer = models.load_lm()
ROWS, TOKENS = 8, 64
batch = torch.randint(5, 500, (ROWS, TOKENS), device=base.device)  # which tokens does not matter for memory


def nbytes(tensors):
    """Bytes of some tensors together."""
    return sum(tensor.nbytes for tensor in tensors)


# %%
model = copy.deepcopy(base)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
model(input_ids=batch, labels=batch).loss.backward()
optimizer.step()
states = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
bill = {"weights": nbytes(model.parameters()), "gradients": nbytes(weight.grad for weight in model.parameters())}
bill["optimizer"] = nbytes(states)
for name, size in bill.items():
    print(T("bytes-each").format(name=T(name), size=size, each=size / base.num_parameters()))
claim("sixteen-bytes", sum(bill.values()) / base.num_parameters(), equals=16.0)

# %% [markdown] lang="en" partner="9446ac16"
# Sixteen bytes a parameter. Large models are trained in **mixed precision**: weights and gradients in bf16, two bytes each,
# and beside them an fp32 copy of the weights that the optimizer moves. That makes the arithmetic faster, and saves nothing
# on these three lines:

# %% [markdown] lang="zh" partner="42a40f81"
# 每个参数十六字节。大模型用**混合精度**训练：权重和梯度用 bf16，各两个字节，另存一份 fp32 的权重副本供优化器更新。
# 这样算得更快，但这三行一个字节也没省：

# %%
mixed = accounting.training_memory(base, trained="mixed")
claim("mixed-is-sixteen", mixed.total / base.num_parameters(), equals=16.0)

# %% [markdown] lang="en" partner="c40989e8"
# Now the slide's 14 GB, on a model of 7B. `skeleton` builds it on the **meta device**: tensors with a shape and a
# type, and no memory behind them.

# %% [markdown] lang="zh" partner="f2e1d38a"
# 现在看幻灯片上的 14 GB，对象是 7B 模型。`skeleton` 在 **meta 设备**上把它搭出来：张量有形状、有类型，背后却没有内存。

# %%
seven = accounting.skeleton("qwen2.5-7b")
parameters = accounting.count(seven).total
claim("article-14-gb", accounting.training_memory(seven, trained="mixed").total / 1e9, at_most=14, expected=False)
claim("weights-alone", accounting.bytes_on_disk(parameters, "bf16") / 2**30, close_to=(14.2, 0.1))

# %% [markdown] lang="en" partner="aebee7c2"
# So 14 GB is a real number for a 7B model: its bf16 *weights on disk*, in units of 2³⁰ bytes. As the memory of a full
# fine-tuning it is far too small, and we have not yet counted the fourth line.
#
# ## Step 2 · Weigh a training step
#
# Activations come and go within milliseconds. What counts is the **peak**: the moment when most is held at once decides
# whether you see "out of memory". On a GPU one asks `torch.cuda.max_memory_allocated()`. On a CPU there is no such counter, and the usual
# substitutes are bad scales: the process's resident memory holds Python, the libraries and whatever the allocator has not
# given back; `tracemalloc` does not see torch's tensors at all.
#
# So we build a scale. Every operation of torch passes through a *dispatcher*, and a `TorchDispatchMode` may look on. It notes
# the storage of each new tensor, and a `weakref` tells it when that storage is gone.

# %% [markdown] lang="zh" partner="dbd25d8f"
# 可见 14 GB 确有其数：它是 7B 模型的 bf16 *权重文件*，以 2³⁰ 字节为单位。但把它当成全量微调的显存，就差得远了，何况第四行还没算。
#
# ## 第 2 步 · 给一步训练称重
#
# 激活值在几毫秒之内生灭，要紧的是**峰值**：同时占用最多的那一刻，决定了会不会“显存不足”。在 GPU 上，问一句
# `torch.cuda.max_memory_allocated()` 就行；CPU 上没有这样的计数器，常见的替代品都是坏秤：进程的常驻内存里混着 Python、各种库，
# 还有分配器没归还的部分；`tracemalloc` 则根本看不到 torch 的张量。
#
# 那就自己造一台秤。torch 的每个运算都要经过*分发器*，`TorchDispatchMode` 可以在旁边看着：记下每个新张量的存储，
# 再用 `weakref` 得知它何时消失。

# %%
import weakref

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryWatch(TorchDispatchMode):
    """Bytes of all tensors that are alive, after each operation of torch (`history`); begins with those given."""

    def __init__(self, tensors):
        super().__init__()
        self.now, self.alive, self.history = 0, {}, []
        for tensor in tensors:
            self.note(tensor)

    def note(self, tensor):
        storage = tensor.untyped_storage()  # views share one storage: it counts once
        if storage._cdata not in self.alive:
            self.alive[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self.gone, storage._cdata)

    def gone(self, key):
        self.now -= self.alive.pop(key)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.note(leaf)
        self.history.append(self.now)
        return result

    @property
    def peak(self):
        return max(self.history)


# %% [markdown] lang="en" partner="22281999"
# What is weighed is a *second* step: in the first, the optimizer has no state yet.

# %% [markdown] lang="zh" partner="d9e6db64"
# 称的是*第二*步：第一步时优化器还没有状态。


# %%
def watch_step(model, labels, ids=batch):
    """A MemoryWatch of one training step with AdamW, when the optimizer already has its state."""
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)

    def step():
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    with MemoryWatch([*model.parameters(), *states]) as watch:
        step()
    return watch


# %% [markdown] lang="en" partner="8877dc92"
# The candidates: two models, the course's base and the architecture of MiniLM, a small BERT (with random weights, which weigh as much
# as trained ones), and three methods: all weights; LoRA of rank 8 on every linear layer; a new classification **head** on a frozen
# model.

# %% [markdown] lang="zh" partner="43af2d8d"
# 参加称重的有两个模型：课程的基座，以及 MiniLM 的结构（一个小 BERT；权重是随机的，但和训练好的一样重）。方法有三种：
# 训练全部权重；在每个线性层上加秩 8 的 LoRA；冻结模型，只训练新的分类**头**。

# %%
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, BertConfig

small = BertConfig(**accounting.published()["all-MiniLM-L6-v2"]["config"])
small.update({"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
topics = torch.arange(ROWS, device=base.device) % 8  # labels of a classifier of eight topics


def classifier(config, head_only=False):
    """A model of this shape with a new head for eight topics."""
    config = copy.deepcopy(config)
    config.update({"num_labels": 8, "pad_token_id": 0})
    model = AutoModelForSequenceClassification.from_config(config).to(base.device)
    for name, weight in model.named_parameters():
        weight.requires_grad = not head_only or name.startswith(("score", "classifier"))
    return model


# %%
lm, cls = ({"r": 8, "target_modules": "all-linear", "task_type": task} for task in ("CAUSAL_LM", "SEQ_CLS"))
candidates = {
    ("travel-base", "full"): lambda: (copy.deepcopy(base), batch),
    ("travel-base", "lora"): lambda: (get_peft_model(copy.deepcopy(base), LoraConfig(**lm)), batch),
    ("travel-base", "head"): lambda: (classifier(base.config, head_only=True), topics),
    ("all-MiniLM-L6-v2", "full"): lambda: (classifier(small), topics),
    ("all-MiniLM-L6-v2", "lora"): lambda: (
        get_peft_model(classifier(small), LoraConfig(**cls, exclude_modules=["classifier"])),
        topics,
    ),
    ("all-MiniLM-L6-v2", "head"): lambda: (classifier(small, head_only=True), topics),
}

# %%
weighed, predicted = {}, {}
for case, make in candidates.items():
    model, labels = make()
    weighed[case] = watch_step(model, labels)
    predicted[case] = accounting.training_memory(model, batch=ROWS, length=TOKENS)  # from shapes alone: Step 3
    print(f"{case[0]:16} {T(case[1]):24} {weighed[case].peak / 1e6:7.1f} MB")

# %%
import matplotlib.pyplot as plt

from tunelab import figures

fig, ax = plt.subplots(figsize=(7, 4))
for method, style in (("full", "-"), ("lora", "--"), ("head", ":")):
    history = weighed["travel-base", method].history
    progress = [100 * number / len(history) for number in range(len(history))]
    (line,) = ax.plot(progress, [now / 1e6 for now in history], style, label=T(method))
    ax.axhline(history[-1] / 1e6, color=line.get_color(), linewidth=0.7, alpha=0.5)
ax.set(xlabel=T("progress"), ylabel=T("mb-alive"), ylim=(0, None), xlim=(0, 100))
ax.legend(loc="upper right")
figures.show(fig, alt=T("alt-mountain"))

# %% [markdown] lang="en" partner="182d047e"
# A mountain. The foot (thin lines) is what stays from step to step: weights and optimizer state. The forward pass climbs, and
# each block leaves its activations behind. The spike at the top is the loss. Then the backward pass comes down on the other side:
# it frees the activations of a block and puts the gradients of its weights in their place. **Activations and gradients take
# turns**; the four lines of the bill are not all due at one time.
#
# Is the scale right? `make experiments` has made the same steps with the log of torch's own allocator, in other processes
# (`assets/results/lesson_03.json`).

# %% [markdown] lang="zh" partner="479047ac"
# 像一座山。山脚（细线）是每一步之间都留着的：权重和优化器状态。前向传播往上爬，每个块都留下自己的激活值；山顶的尖峰是损失。
# 反向传播从另一侧下山：释放一个块的激活值，换上它的梯度。**激活值和梯度是轮流占地方的**，账单上的四行并不同时到期。
#
# 这台秤准不准？`make experiments` 在别的进程里用 torch 分配器自己的日志测过同样的步骤（`assets/results/lesson_03.json`）。

# %%
import json

from tunelab.paths import course_file


def stored_table(name):
    """A table that `make experiments` wrote."""
    return json.loads(course_file("assets", "results", name).read_text(encoding="utf-8"))


stored = {(case["model"], case["method"]): case for case in stored_table("lesson_03.json")["cases"]}
off = [abs(watch.peak / stored[case]["allocator"] - 1) for case, watch in weighed.items()]
claim("scale-is-right", max(off), at_most=0.02)

# %%
peaks = {method: weighed["travel-base", method].peak for method in ("full", "lora", "head")}
share = accounting.count(get_peft_model(copy.deepcopy(base), LoraConfig(**lm))).share
print(f"{T('lora')}: {share:.1%}")
claim("lora-peak", peaks["lora"] / peaks["full"], at_least=0.6)
claim("head-is-cheap", peaks["head"] / peaks["full"], at_most=0.25)

# %% [markdown] lang="en" partner="b17c8ca0"
# LoRA trains a small share of the parameters, and on this small model it still needs most of the memory. Only the head is
# cheap. What has LoRA not saved?
#
# ## Step 3 · The line that everyone forgets
#
# PyTorch can tell what the forward pass keeps: `saved_tensors_hooks` is called with each tensor that a later gradient needs.

# %% [markdown] lang="zh" partner="0f14bb2b"
# LoRA 只训练一小部分参数，在这个小模型上却仍然需要大部分内存；真正便宜的只有分类头。LoRA 没省下的是什么？
#
# ## 第 3 步 · 人人都忘的那一行
#
# 前向传播留下了什么，PyTorch 能告诉我们：凡是以后算梯度要用的张量，都会经过 `saved_tensors_hooks`。


# %%
def kept_for_backward(model, labels):
    """Bytes that the forward pass keeps for the backward pass, without the weights themselves."""
    weights = {weight.data_ptr() for weight in model.parameters()}
    saved = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model(
            input_ids=batch, labels=labels
        ).loss  # the graph, and with it what is saved, lives as long as the loss
    del loss
    return sum(saved.values())


kept = {method: kept_for_backward(*candidates["travel-base", method]()) for method in ("full", "lora", "head")}
for method, size in kept.items():
    print(f"{T(method):24} {size / 1e6:6.2f} MB")

# %%
claim("lora-keeps-too", kept["lora"] / kept["full"], at_least=0.75)
claim("head-keeps-nothing", kept["head"] / kept["full"], at_most=0.02)

# %% [markdown] lang="en" partner="bd7486f0"
# That is the heart of the matter. A frozen weight needs no gradient of its own, but the gradient must still travel *through* it
# to the adapters below, and on its way it needs nearly all that a full fine-tuning keeps. Only where no gradient passes, below
# the head, is nothing kept.
#
# What does a block keep? Go through it with a pencil. For each token, with hidden width `h`, MLP width `m`, and `q` and `k`
# numbers of queries and keys:

# %% [markdown] lang="zh" partner="82f4c48c"
# 要害就在这里。被冻结的权重自己不需要梯度，可是梯度要*穿过*它，才能到达下面的适配器；这一路上用到的东西，几乎和全量微调留下的一样多。
# 只有梯度根本不经过的地方，也就是分类头以下，才什么都不用留。
#
# 一个块到底留了什么？拿支笔走一遍。对每个词元，设隐层宽度为 `h`，MLP 宽度为 `m`，查询和键的宽度为 `q` 和 `k`：

# %%
block = base.model.layers[0]
h, m = base.config.hidden_size, base.config.intermediate_size
q, k = block.self_attn.q_proj.out_features, block.self_attn.k_proj.out_features
keeps = {
    "norms": 2 * 2 * h
    + 2 * (q + k) * hasattr(block.self_attn, "q_norm"),  # the input; what the norm's weight multiplies
    "linear": h
    + q
    + h
    + m,  # what the linear layers read: q, k, v together, then o, then gate and up together, then down
    "attention": q + 2 * k,  # query, key, value; fused attention keeps no matrix of tokens x tokens
    "swiglu": 3 * m,  # gate, silu(gate), up
}
for part, numbers in keeps.items():
    print(f"{T(part):28} {numbers:5,}")

# %% [markdown] lang="en" partner="84e971cc"
# Times the blocks; then the last norm, what the head reads, and one log-probability for each token of the vocabulary.

# %% [markdown] lang="zh" partner="6410dfbf"
# 再乘以块数；加上最后一个归一化、输出头的输入，以及词表中每个词元一个对数概率。

# %%
a_token = base.config.num_hidden_layers * sum(keeps.values()) + 2 * h + h + base.config.vocab_size
by_hand = 4 * ROWS * TOKENS * a_token
claim("kept-by-hand", by_hand / kept["full"], between=(0.98, 1.02))

# %% [markdown] lang="en" partner="d0772a3d"
# Rules of thumb fall out of it. Activations grow with batch, length, depth and width, and not with the number of *trained*
# parameters. And look at the vocabulary: the loss holds three tensors of `tokens x vocabulary` in fp32 at its peak. For a
# half-billion model with the large vocabulary of Qwen that is a good part of all activations:

# %% [markdown] lang="zh" partner="e2ae8d03"
# 由此得到几条经验：激活值随批大小、长度、层数和宽度增长，与*训练的*参数量无关。再看词表：损失在峰值时同时握着三个
# `词元数 × 词表` 的 fp32 张量。Qwen 词表很大，对一个五亿参数的 Qwen，这占了全部激活值的一大块：

# %%
half = accounting.skeleton("qwen2.5-0.5b")
of_loss = 3 * 4 * ROWS * TOKENS * half.config.vocab_size
claim("vocabulary", of_loss / accounting.activation_memory(half, ROWS, TOKENS), at_least=0.3)

# %% [markdown] lang="en" partner="d4cd7ab7"
# `accounting.training_memory` does the same pencil work for Llama, Qwen and BERT shapes, for LoRA, for half precision. Its
# rule for the peak: weights and optimizer state, *plus the larger of* activations and gradients (with the optimizer's two
# temporaries). Predicted against measured, six cases in this run:

# %% [markdown] lang="zh" partner="0bc09c3a"
# `accounting.training_memory` 对 Llama、Qwen、BERT 的结构，对 LoRA 和半精度，做的就是这样的笔算。峰值的算法是：权重加优化器状态，
# *再加上激活值与梯度中较大的一个*（梯度还要加上优化器的两个临时张量）。六种情形，预测对实测：

# %%
print(T("prediction-head"))
for case, watch in weighed.items():
    guess = predicted[case].peak
    print(f"{case[0]:16} {T(case[1]):24} {guess / 1e6:7.1f} {watch.peak / 1e6:7.1f} MB {guess / watch.peak - 1:+7.1%}")
claim("predicted", max(abs(predicted[case].peak / watch.peak - 1) for case, watch in weighed.items()), at_most=0.1)

# %% [markdown] lang="en" partner="f3e84cd2"
# And on models of real size, measured by `make experiments` on a CPU, in fp32: by torch's allocator, and by the operating
# system's resident memory, the bad scale of Step 2.

# %% [markdown] lang="zh" partner="31d2499a"
# 再看真实大小的模型，由 `make experiments` 在 CPU 上以 fp32 实测：一栏是 torch 的分配器，一栏是操作系统的常驻内存，也就是第 2 步说的那台坏秤。

# %%
print(T("stored-head"))
for (name, method), case in stored.items():
    numbers = [case["predicted"]["peak"], case["allocator"], case["resident"]]
    print(f"{name:18} {T(method):24}" + "".join(f"{number / 1e6:10,.0f}" for number in numbers))
claim("predicted-stored", max(abs(c["predicted"]["peak"] / c["allocator"] - 1) for c in stored.values()), at_most=0.1)
claim("bad-scale", max(c["resident"] / c["allocator"] for c in stored.values()), at_least=1.3)

# %% [markdown] lang="en" partner="7a2d4c74"
# ### Gradient checkpointing
#
# The remedy for activations is not LoRA but **gradient checkpointing**: each block keeps its input alone, and the backward
# pass computes the rest again when it gets there. One more forward pass, and a far lower mountain.

# %% [markdown] lang="zh" partner="acaa628c"
# ### 梯度检查点
#
# 治激活值的药不是 LoRA，而是**梯度检查点**：每个块只留输入，反向传播走到那里时把其余的重算一遍。多一次前向传播，换来一座矮得多的山。

# %%
import warnings

sparing = copy.deepcopy(base).train()
sparing.config.use_cache = False
with warnings.catch_warnings(action="ignore", category=FutureWarning):  # this name goes with every transformers 5
    sparing.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
low = watch_step(sparing, batch).peak
print(f"{low / 1e6:.1f} MB, {low / peaks['full']:.0%}")
guess = accounting.training_memory(sparing, batch=ROWS, length=TOKENS, checkpointing=True)
claim("checkpointing", low / peaks["full"], at_most=0.75)
claim("checkpointing-predicted", abs(guess.peak / low - 1), at_most=0.1)

# %% [markdown] lang="en" partner="08ab8c07"
# ## Step 4 · How much memory does fine-tuning take?
#
# Now the sheet of paper. `with_method` makes a published model on the meta device and marks what a method trains;
# `bill_of` adds it up. LoRA keeps its frozen base in bf16 and its adapters in fp32, which is what `peft` does.

# %% [markdown] lang="zh" partner="e43781ff"
# ## 第 4 步 · 微调到底要多少显存？
#
# 现在轮到那张纸。`with_method` 在 meta 设备上搭出一个公开模型，标出某种方法要训练的部分；`bill_of` 把账加起来。
# LoRA 的冻结基座用 bf16，适配器用 fp32，这也是 `peft` 的做法。

# %%
from functools import cache


@cache
def with_method(name, method, rank=8):
    """The published model on the meta device; what the method trains requires a gradient."""
    model = accounting.skeleton(name)
    if method == "lora":
        return get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear"))
    if method == "head":  # a small new head on the frozen body; no vocabulary at the end
        model = model.base_model.requires_grad_(False)
        model.topics = torch.nn.Linear(model.config.hidden_size, 8, device="meta")
    return model


def bill_of(name, method, rank=8, precision="bf16", rows=4, tokens=512, **options):
    """Predicted memory; full fine-tuning below fp32 means bf16 with an fp32 copy (mixed precision)."""
    trained = "mixed" if method == "full" and precision != "fp32" else "fp32"
    settings = {"frozen": precision, "trained": trained, "batch": rows, "length": tokens, **options}
    return accounting.training_memory(with_method(name, method, rank), **settings)


# %%
from IPython.display import Markdown

LINES = ("weights", "gradients", "optimizer", "activations", "peak")
table = ["| | " + " | ".join(T(line) for line in LINES) + " |", "|---|" + "---:|" * len(LINES)]
for name in ("bert-base-uncased", "qwen2.5-0.5b", "qwen2.5-7b"):
    for method in ("full", "lora", "head"):
        bill = bill_of(name, method)
        cells = " | ".join(f"{getattr(bill, line) / 1e9:.2f}" for line in LINES)
        table.append(f"| {name}, {T(method)} | {cells} |")
Markdown("\n".join(table))

# %%
left = {name: bill_of(name, "lora").peak / bill_of(name, "full").peak for name in ("qwen2.5-0.5b", "qwen2.5-7b")}
claim("lora-of-7b", left["qwen2.5-7b"], at_most=1 / 3)
claim("lora-of-half", left["qwen2.5-0.5b"], at_least=0.5)
one_row = {name: bill_of(name, "lora", rows=1).peak / bill_of(name, "full", rows=1).peak for name in left}
claim("small-batch", max(one_row[name] / left[name] for name in left), at_most=0.7)

# %% [markdown] lang="en" partner="626cefe5"
# In GB, for four rows of 512 tokens. Read it by rows: LoRA all but wipes out two items, gradients and optimizer state, and of the weights the fp32 copy. The activations
# stay, and even grow a little, since in half precision each adapter keeps a cast copy of its input. So the 7B, where the parameters
# outweigh the activations, gains most; the half-billion model, with its large vocabulary, gains least. **The more the parameters
# outweigh the activations (a large model, a small batch, short rows), the more PEFT saves.**
#
# Do we believe a prediction for a model that nobody here can load? The scale works on the meta device, too: we can let a 7B make
# a whole training step with LoRA, in seconds, and weigh tensors that do not exist. (There, attention is not fused and keeps its
# matrices, so the prediction is made for `eager` attention.)

# %% [markdown] lang="zh" partner="8420cb1c"
# 单位是 GB，批次为 4 行、每行 512 个词元。逐行来读：梯度和优化器状态这两项，LoRA 几乎全省了，权重一项也省掉了 fp32 副本。激活值却还在，甚至略有增加，
# 因为半精度下每个适配器都要为自己的输入留一份类型转换后的副本。所以参数压倒激活值的 7B 省得最多，词表很大的五亿模型省得最少。
# **参数越是压倒激活值（模型大、批次小、句子短），PEFT 省得越多**。
#
# 一个这里谁也加载不了的模型，它的预测可信吗？我们的秤在 meta 设备上照样能用：让 7B 模型带着 LoRA 走完整整一步训练，几秒钟就够，
# 称的是并不存在的张量。（在那里注意力不是融合实现，会留下注意力矩阵，所以预测也按 `eager` 注意力来算。）

# %%
adapted = get_peft_model(accounting.skeleton("qwen2.5-7b"), LoraConfig(**lm)).train()
weightless = batch.to("meta")
dry_run = watch_step(adapted, weightless, ids=weightless)
guess = accounting.training_memory(adapted, batch=ROWS, length=TOKENS, eager=True)
print(f"{dry_run.peak / 1e9:.2f} GB · {guess.peak / 1e9:.2f} GB · {len(dry_run.history):,}")
claim("dry-run", guess.peak / dry_run.peak, between=(0.9, 1.1))

# %% [markdown] lang="en" partner="27a4d23e"
# Which card does a 7B need? The parts stand side by side; the peak is somewhat less than their sum. (That is why checkpointing does
# not help the full fine-tuning at this batch: where the activations were, the gradients come.)

# %% [markdown] lang="zh" partner="3b31cd32"
# 7B 需要什么样的卡？各部分并排画出；峰值比它们的总和略小。（所以在这个批大小下，梯度检查点帮不了全量微调：激活值腾出的地方，梯度又占上了。）

# %%
CARDS = {16: "T4", 24: "RTX 4090", 80: "H100"}  # GB
ways = {
    "full": bill_of("qwen2.5-7b", "full"),
    "full-checkpointing": bill_of("qwen2.5-7b", "full", checkpointing=True),
    "lora": bill_of("qwen2.5-7b", "lora"),
    "lora-checkpointing": bill_of("qwen2.5-7b", "lora", checkpointing=True),
    "qlora": bill_of("qwen2.5-7b", "lora", precision="nf4", checkpointing=True),
}


# %%
COLOURS = dict(zip(LINES, ("blue", "sky", "green", "orange"), strict=False))


def draw_bills(ax, bills, labels):
    """Stacked bars of the four lines in GB, and the cards as vertical lines."""
    left = torch.zeros(len(bills))
    for part in LINES[:-1]:
        sizes = torch.tensor([getattr(bill, part) / 1e9 for bill in bills])
        ax.barh(labels, sizes, left=left, color=figures.PALETTE[COLOURS[part]], label=T(part), edgecolor="white")
        left += sizes
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(T("gb"))


# %%
fig, ax = plt.subplots(figsize=(8, 3.6))
draw_bills(ax, list(ways.values()), [T(f"way-{way}") for way in ways])
for size, card in CARDS.items():
    ax.axvline(size, color="#444444", linestyle="--", linewidth=1)
    ax.annotate(card, (size, 4.45), xytext=(3, 0), textcoords="offset points", fontsize=8, va="bottom")
ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=4, fontsize=9)
figures.show(fig, alt=T("alt-cards"))

# %%
claim("full-needs-two", ways["full"].peak / 80e9, at_least=1)
claim("checkpointing-full", ways["full-checkpointing"].peak / ways["full"].peak, equals=1.0)
claim("lora-on-24", ways["lora-checkpointing"].peak / 24e9, at_most=0.9)
claim("qlora-on-16", ways["qlora"].peak / 16e9, at_most=0.9)

# %% [markdown] lang="en" partner="debde920"
# Not in the bill: what a CUDA context takes, the gaps of the allocator, and a validation that generates text with a cache. Leave
# a tenth free. (A T4 cannot compute in bf16; there it is fp16, which takes as many bytes.)
#
# ## Step 5 · Storage for many tasks
#
# Six tasks, real files. Each adapter starts with random factors here, as if it had been trained.

# %% [markdown] lang="zh" partner="e07df10e"
# 账单里没有的：CUDA 上下文、分配器的空隙，还有验证时带缓存生成文本的开销。请留出一成余量。
# （T4 不支持 bf16 运算，要换成 fp16，字节数一样。）
#
# ## 第 5 步 · 许多任务的存储
#
# 六个任务，真实的文件。这里的适配器用随机数初始化，就当已经训练过。

# %%
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
tasks = ["reviews", "policies", "itineraries", "places", "dialogue", "json"]
desk = get_peft_model(copy.deepcopy(base), LoraConfig(**lm, init_lora_weights=False), adapter_name=tasks[0])
for task in tasks[1:]:
    desk.add_adapter(task, LoraConfig(**lm, init_lora_weights=False))
desk.save_pretrained(folder / "adapters")  # a folder for each
for task in tasks:
    base.save_pretrained(folder / "copies" / task)


def on_disk(path):
    """Bytes of the weight files below a folder."""
    return sum(file.stat().st_size for file in path.rglob("*.safetensors"))


# %%
copies, one_base = on_disk(folder / "copies"), on_disk(folder / "copies" / tasks[0])
adapters = on_disk(folder / "adapters")
print(T("files").format(copies=copies / 1e6, together=(one_base + adapters) / 1e6, each=adapters / len(tasks) / 1e6))
claim("six-tasks", (one_base + adapters) / copies, at_most=0.4)

# %% [markdown] lang="en" partner="9a43c311"
# The same for a 7B by arithmetic: the base once, in bf16, and an adapter of rank 8 on every linear layer for each task, as `peft`
# saves it, in fp32.

# %% [markdown] lang="zh" partner="ef63969b"
# 7B 的账用算术来做：基座一份，bf16；每个任务一个适配器，秩 8，加在全部线性层上，按 `peft` 的习惯存成 fp32。

# %%
numbers = accounting.count(with_method("qwen2.5-7b", "lora"))
whole, adapter = accounting.bytes_on_disk(parameters, "bf16"), accounting.bytes_on_disk(numbers.trained)
for count in (1, 10, 100):
    print(T("tasks-7b").format(count=count, copies=count * whole / 1e9, together=(whole + count * adapter) / 1e9))
claim("hundred-tasks", (whole + 100 * adapter) / (100 * whole), at_most=0.02)
claim("article-50-mb", adapter / 1e6, close_to=(50, 5), expected=False)
claim("article-share", numbers.share, between=(0.001, 0.01))

# %% [markdown] lang="en" partner="a01a2491"
# The slide's 50 MB is of the right order and belongs to no usual setting: at rank 8 it is 40 MB in bf16 and twice that as saved. Its
# share of "0.1 % to 1 %" holds for adapters on all linear layers of a 7B. With other layers, or on a small model, it need not:

# %% [markdown] lang="zh" partner="066dd9eb"
# 幻灯片上的 50 MB，数量级对，却不属于任何常用设置：秩 8 时 bf16 是 40 MB，实际保存的是它的两倍。“0.1%～1%”对 7B 的全部线性层成立，
# 换了层，或者换成小模型，就未必了：

# %%
narrow = get_peft_model(accounting.skeleton("qwen2.5-7b"), LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
for name, part in (
    ("7B, q v", accounting.count(narrow).share),
    ("7B, all-linear", numbers.share),
    ("travel-base", share),
):
    print(f"{name:16} {part:.3%}")
claim("article-share-qv", accounting.count(narrow).share, between=(0.001, 0.01), expected=False)
claim("article-share-small", share, between=(0.001, 0.01), expected=False)
claim("adapter-in-bf16", accounting.bytes_on_disk(numbers.trained, "bf16") / 1e6, close_to=(40, 1))

# %% [markdown] lang="en" partner="b4cab672"
# ## Step 6 · Many tasks on one base
#
# Switching: tell the model in memory to use another adapter, or read a whole model from disk. Timings are printed, and vary
# from machine to machine; only a wide ratio within this run is claimed.

# %% [markdown] lang="zh" partner="7c71be7a"
# ## 第 6 步 · 一个基座，许多任务
#
# 切换任务有两种办法：让内存里的模型换一个适配器，或者从磁盘读入另一个完整模型。耗时会打印出来，各台机器不同；断言的只是本次运行中一个
# 留足余量的比值。

# %%
import itertools
import time

from transformers import AutoModelForCausalLM


def fastest(function, times=8):
    """Least seconds of several calls: the others were disturbed."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        function()
        taken.append(time.perf_counter() - started)
    return min(taken)


# %%
turn = itertools.cycle(tasks)
switching = fastest(lambda: desk.set_adapter(next(turn)))
reading = fastest(lambda: AutoModelForCausalLM.from_pretrained(folder / "copies" / next(turn)))
print(f"set_adapter {1000 * switching:.1f} ms · from_pretrained {1000 * reading:.1f} ms")
claim("switching", reading / switching, at_least=2)

# %% [markdown] lang="en" partner="2c8ad98a"
# Even on a toy, switching is several times as fast as loading. On a 7B the left number grows with the count of layers alone, not with their size, and
# the right one becomes the time to read the whole file of weights. It gets better: the rows of *one batch* may each
# use another adapter. The base computes once for all of them.

# %% [markdown] lang="zh" partner="43f015d0"
# 就算是玩具模型，切换也比重新加载快好几倍。换成 7B，左边的数只随层数增加，与每层多大无关；右边就成了读完整个权重文件的时间。还有更妙的：
# *同一个批次*里，每一行可以用不同的适配器，基座只为大家算一次。

# %%
desk.eval()
requests = batch[: len(tasks)]
with torch.no_grad():
    together = desk(input_ids=requests, adapter_names=tasks).logits  # row by row another adapter
    alone = []
    for row, task in zip(requests, tasks, strict=True):
        desk.set_adapter(task)
        alone.append(desk(input_ids=row[None]).logits)
claim("mixed-is-alone", (together - torch.cat(alone)).abs().max().item(), at_most=1e-4)


# %%
@torch.no_grad()
def one_by_one():
    for row, task in zip(requests, tasks, strict=True):
        desk.set_adapter(task)
        desk(input_ids=row[None])


@torch.no_grad()
def mixed_batch():
    desk(input_ids=requests, adapter_names=tasks)


saving = fastest(one_by_one) / fastest(mixed_batch)
print(f"{saving:.1f}x")
claim("mixed-is-faster", saving, at_least=1.1)

# %% [markdown] lang="en" partner="3c26c155"
# ## Step 7 · Iteration speed
#
# "48 hours become 2": a factor of 24. LoRA trains a few thousandths of the weights of a 7B, so perhaps a factor of
# hundreds? Count the work instead. For each weight and token, a multiplication and an addition in the forward pass; as many in the backward pass to
# pass the gradient *on*; as many again to make the weight's *own* gradient. LoRA saves the last third, and nothing of the rest.

# %% [markdown] lang="zh" partner="71ca59f1"
# ## 第 7 步 · 迭代速度
#
# “48 小时变成 2 小时”，快 24 倍。LoRA 只训练 7B 的千分之几，那是不是该快几百倍？不如数一数计算量。对每个权重、每个词元：
# 前向传播一次乘加；反向传播把梯度*往下传*，又一次；算这个权重*自己的*梯度，再一次。LoRA 省掉的是最后这三分之一，其余一点没省。

# %%
from statistics import median

from torch.utils.flop_counter import FlopCounterMode

work, seconds = {}, {}
for method in ("full", "lora", "head"):
    model, labels = candidates["all-MiniLM-L6-v2", method]()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)
    taken = []
    for _ in range(5):
        started = time.process_time()
        model(input_ids=batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        taken.append(time.process_time() - started)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=batch, labels=labels).loss.backward()
    work[method], seconds[method] = counter.get_total_flops(), median(taken)
    print(f"{T(method):24} {work[method] / 1e9:5.1f} GFLOP · {seconds[method]:.2f} s")

# %%
claim("two-thirds", work["lora"] / work["full"], between=(0.6, 0.75))
claim("head-a-third", work["head"] / work["full"], between=(0.3, 0.4))
claim("step-time", seconds["lora"] / seconds["full"], between=(0.15, 1.1))
claim("article-24-times", seconds["full"] / seconds["lora"], at_least=24, expected=False)

# %% [markdown] lang="en" partner="6d77133f"
# The stored table has other sizes: the ratio of a LoRA step to a full one, median of several.

# %% [markdown] lang="zh" partner="fa6f1386"
# 存储的表里还有其他大小的模型：LoRA 一步与全量一步的时间之比，取多次的中位数。

# %%
for name in dict.fromkeys(name for name, _ in stored):
    step = {method: median(stored[name, method]["cpu_seconds"]) for method in ("full", "lora", "head")}
    print(T("step-ratios").format(name=name, lora=step["lora"] / step["full"], head=step["head"] / step["full"]))
claim("step-of-half", step["lora"] / step["full"], between=(0.45, 0.85))

# %% [markdown] lang="en" partner="104be816"
# Two thirds, or somewhat less where the optimizer's work counts; on the smallest model hardly anything, since there the many small calls
# cost more than the arithmetic. A factor of 24 cannot come from the step. Where it does occur, it comes from *around* it: a model that
# no longer has to be spread over several cards or swapped out; a larger batch in the freed memory; fewer experiments
# that end in "out of memory"; a checkpoint written in a moment. Those are good reasons. They are reasons of memory.
#
# ## Step 8 · "Close, slightly worse"?
#
# Lesson 01 has stored five seeds of full fine-tuning and of LoRA on the same hand-written test questions. "The difference
# is not significant" would prove nothing: with few questions no difference ever is. What we want is an **equivalence test**: name a
# margin first, here five points, and see whether the *whole* interval of the difference lies inside it. (Two one-sided
# tests, TOST: each of them has the level that the cell below names, so the interval leaves that much out at either end.)
#
# How the interval is made matters more than one thinks. The questions are paired, but they are not independent: one wording is
# asked about six places. And another seed would give other models.

# %% [markdown] lang="zh" partner="92f3618a"
# 大约三分之二，优化器的开销占比大时还要再低一些；最小的模型上则几乎没有优势，因为那里的开销不在计算，而在一大堆小算子的调用。24 倍不可能来自单步。
# 真有这样的提速，也来自*单步之外*：模型不必再拆到几张卡上，也不必来回换入换出；腾出的显存能放更大的批次；
# 少了许多以“显存不足”收场的实验；检查点一眨眼就写完。这些都是好理由，但归根到底是显存的理由。
#
# ## 第 8 步 · “接近，略逊”？
#
# 第 01 课存下了全量微调和 LoRA 各五个种子、在同一批手写测试题上的成绩。“差异不显著”证明不了什么：题目少了，什么差异都不显著。
# 我们要的是**等效检验**：先定好允许的差距，这里是五个百分点，再看差值的区间是否*整个*落在里面。
# （这相当于两个单侧检验，即 TOST；每个检验的水平写在下面的单元格里，区间两头各去掉这么多。）
#
# 区间怎么算，比想象的更要紧。题目是配对的，却不独立：同一种问法会问六个地方。换个种子，模型也会不同。

# %%
import numpy as np

from tunelab import data

runs = stored_table("lesson_01.json")["runs"]


def by_wording(method, lang):
    """Share of right answers: (seeds, wordings). The stored answers are in the order of the test set, by half."""
    test = data.load("questions", lang, "test")
    rows = []
    for run in runs:
        if (run["method"], run["lang"]) == (method, lang):
            halves = {True: iter(run["seen"]["right"]), False: iter(run["unseen"]["right"])}
            rows.append([int(next(halves[shown])) for shown in test["documented"]])
    wordings = np.array(test["wording"])
    return np.stack([np.array(rows)[:, wordings == one].mean(1) for one in dict.fromkeys(wordings)], axis=1)


# %%
LEVEL = 0.05  # of each one-sided test


def interval(lora, full, resample_seeds, draws=2000):
    """Bootstrap interval of LoRA minus full: wordings are drawn together for both methods, seeds for each."""
    rng, (seeds, wordings) = np.random.default_rng(0), lora.shape
    means = []
    for _ in range(draws):
        asked = rng.integers(0, wordings, wordings)
        mine, its = rng.integers(0, seeds, (2, seeds)) if resample_seeds else (slice(None), slice(None))
        means.append(lora[mine][:, asked].mean() - full[its][:, asked].mean())
    return np.quantile(means, [LEVEL, 1 - LEVEL])


# %%
MARGIN = 0.05  # named before: five points
from tunelab import metrics

intervals = {}
for lang in ("en", "zh"):
    lora, full = by_wording("lora", lang), by_wording("full", lang)
    intervals[lang, "wordings"] = interval(lora, full, resample_seeds=False)
    intervals[lang, "seeds"] = interval(lora, full, resample_seeds=True)
    for kind in ("wordings", "seeds"):
        low, high = intervals[lang, kind]
        print(T("interval").format(lang=T(f"lang-{lang}"), kind=T(kind), gap=(lora - full).mean(), low=low, high=high))

# %%
fig, ax = plt.subplots(figsize=(7, 2.8))
for row, ((_, kind), (low, high)) in enumerate(intervals.items()):
    ax.hlines(
        row, 100 * low, 100 * high, linewidth=6, color=figures.PALETTE["blue" if kind == "wordings" else "orange"]
    )
for edge in (-100 * MARGIN, 100 * MARGIN):
    ax.axvline(edge, color=figures.PALETTE["vermillion"], linestyle="--")
ax.axvline(0, color="#444444", linewidth=1)
ax.set_yticks(range(len(intervals)), [f"{T(f'lang-{lang}')}, {T(kind)}" for lang, kind in intervals])
ax.set(xlabel=T("points"), xlim=(-7, 7), ylim=(3.6, -0.6))
figures.show(fig, alt=T("alt-tost"))

# %%
claim("equivalent", max(abs(end) for pair in intervals.values() for end in pair), at_most=MARGIN)
claim("not-within-three", max(abs(end) for pair in intervals.values() for end in pair), at_least=0.03)
claim("zero-inside", max(low for low, _ in intervals.values()), at_most=0)
claim("article-slightly-worse", min(high for _, high in intervals.values()), at_most=0, expected=False)

# %% [markdown] lang="en" partner="0db57256"
# Equivalent within five points, in both languages, even when seeds are drawn, too. "Slightly worse" is *not* shown: zero lies inside, and
# in one language the middle lies above it. Within three points we could not say; for that there are too few seeds. And remember what
# it is a statement about: this task, this base, this many steps, each method at its own tuned rate.
#
# ## Step 9 · Small devices
#
# The fourth reason: PEFT "suits edge devices". What a phone needs memory for is not training but *answering*: the weights.

# %% [markdown] lang="zh" partner="9bca8eed"
# 在五个百分点之内等效，两种语言都成立，连种子也重抽时依然成立。“略逊”则*没有*得到证明：零就在区间里，其中一种语言的中点还在零以上。
# 换成三个百分点，就说不准了：种子太少。也别忘了这句话的范围：这个任务、这个基座、这么多步，两种方法各用各自调好的学习率。
#
# ## 第 9 步 · 边缘设备
#
# 第四条理由：PEFT“适合边缘设备”。可手机要内存，不是为了训练，而是为了*回答*，也就是放权重。

# %%
answering = {"base": nbytes(base.parameters()), "adapter": nbytes(candidates["travel-base", "lora"]()[0].parameters())}
claim("article-edge", answering["adapter"] / answering["base"], at_most=0.5, expected=False)

# %% [markdown] lang="en" partner="f8e8321d"
# An adapter makes no model smaller: base plus adapter is *more* than the base. What makes it smaller is **quantisation**, fewer
# bits a weight. Take one matrix of the real base. Store each weight as a whole number; a block of weights shares one scale, so
# that its largest lands on the largest number. In `int8` there are 255 levels, in four bits 16 at most, and two share a byte.

# %% [markdown] lang="zh" partner="63c9817c"
# 适配器不会让任何模型变小：基座加适配器，只会*更大*。让模型变小的是**量化**：每个权重少用几个比特。拿真实基座的一个矩阵来试。
# 每个权重存成一个整数；一块权重共用一个缩放因子，使块内最大的权重正好落在最大的整数上。`int8` 有 255 级，四比特最多 16 级，
# 两个数合用一个字节。

# %%
weight = base.model.layers[2].mlp.down_proj.weight.detach()  # (hidden, mlp)
LEVELS = {"int8": torch.arange(-127, 128) / 127, "uniform-4": torch.arange(-7, 8) / 7}


def quantise(weight, levels, block=64):
    """The codes (uint8) and the scale of each block of weights: each weight becomes its nearest level."""
    blocks = weight.reshape(-1, block)
    scales = blocks.abs().amax(1, keepdim=True)  # (blocks, 1)
    borders = ((levels[1:] + levels[:-1]) / 2).to(weight.device)
    return torch.bucketize(blocks / scales, borders).to(torch.uint8), scales


def restore(codes, scales, levels, shape):
    return (levels.to(scales.device)[codes.long()] * scales).reshape(shape)


# %% [markdown] lang="en" partner="08ef5f5e"
# Evenly spaced levels waste some: weights are roughly normally distributed, and few lie far out. **NF4**, the format of
# QLoRA, puts the levels where the weights are: at evenly spaced *quantiles* of the normal distribution, with zero among them.

# %% [markdown] lang="zh" partner="1b0db1c3"
# 等距的级别有些浪费：权重大致服从正态分布，离得远的很少。QLoRA 用的格式 **NF4** 把级别放在权重多的地方：取正态分布的等距*分位数*，
# 并保证零在其中。

# %%
outermost = 1 - (1 / 30 + 1 / 32) / 2  # the probability of the last level; that of 1 would be infinitely far out
above = torch.special.ndtri(torch.linspace(0.5, outermost, 9))[1:]  # eight positive levels
below = torch.special.ndtri(torch.linspace(1 - outermost, 0.5, 8))[:-1]  # seven negative ones
LEVELS["nf4"] = torch.cat([below, torch.zeros(1), above]) / above.max()
print([f"{level:.2f}" for level in LEVELS["nf4"]])
published = [-1.0, -0.69619280, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0]
published += [0.07958030, 0.16093020, 0.24611230, 0.33791524, 0.44070983, 0.56261700, 0.72295684, 1.0]
claim("nf4-as-published", (LEVELS["nf4"] - torch.tensor(published)).abs().max().item(), at_most=1e-5)

# %%
errors, sizes = {}, {"fp32": weight.nbytes}
for name, levels in LEVELS.items():
    codes, scales = quantise(weight, levels)
    errors[name] = ((restore(codes, scales, levels, weight.shape) - weight).norm() / weight.norm()).item()
    packed = codes if name == "int8" else codes[:, ::2] * 16 + codes[:, 1::2]  # two codes of four bits in a byte
    sizes[name] = packed.nbytes + scales.to(torch.float16).nbytes
    print(T("quantised").format(name=name, size=sizes[name], part=sizes[name] / weight.nbytes, error=errors[name]))
claim("int8-error", errors["int8"], at_most=0.01)
claim("nf4-beats-uniform", errors["nf4"] / errors["uniform-4"], at_most=0.9)

# %% [markdown] lang="en" partner="e72a3211"
# Does a relative error of nearly a tenth hurt? Quantise every linear layer of the base, and let it read articles. Once more
# with a single scale for a whole matrix, to see what the blocks are for.

# %% [markdown] lang="zh" partner="33fb7b4e"
# 将近一成的相对误差，要不要紧？把基座的每个线性层都量化，让它读文章。再试一次整个矩阵只用一个缩放因子，看看分块有什么用。

# %%
from random import Random

from tunelab import corpus

rng = Random("articles for quantised models")
articles = [tokenizer(corpus.article(rng, LANG), return_tensors="pt")["input_ids"].to(base.device) for _ in range(60)]


@torch.no_grad()
def article_loss(levels=None, block=64):
    """Mean loss a token, in nats, with the linear layers stored in these levels."""
    model = copy.deepcopy(base)
    for name, weight in model.named_parameters():
        if levels is not None and name.endswith("_proj.weight"):
            weight.copy_(restore(*quantise(weight, levels, block or weight.numel()), levels, weight.shape))
    losses = [model(input_ids=ids, labels=ids).loss.item() for ids in articles]
    return metrics.mean(losses)


# %%
before = article_loss()
rise = {name: article_loss(levels) - before for name, levels in LEVELS.items()}
rise["no-blocks"] = article_loss(LEVELS["nf4"], block=None) - before
for name, more in rise.items():
    print(f"{T(f'levels-{name}'):32} {before:.3f} {more:+.4f}")
claim("int8-free", rise["int8"], at_most=0.005)
claim("nf4-loss", rise["nf4"] / rise["uniform-4"], at_most=0.9)
claim("blocks-matter", rise["no-blocks"] / rise["nf4"], at_least=2)

# %% [markdown] lang="en" partner="39bf5f34"
# That is the idea of **QLoRA**: the frozen base stays in NF4, each matrix is unpacked for the moment of its product,
# and the adapter beside it is trained in 16 or 32 bits. The base need not be exact, since it never moves; in the
# experiments of its authors the trained adapter even made up for its errors.
#
# And the phone? Of 8 GB, say half is free for a model. Embeddings and the output head stay in bf16, as they do in `bitsandbytes`.

# %% [markdown] lang="zh" partner="32d4351d"
# **QLoRA** 的思路就在这里：冻结的基座以 NF4 存放，每个矩阵只在做乘法的那一刻解开，旁边的适配器用 16 位或 32 位训练。基座反正不动，不必分毫不差；
# 在论文作者的实验里，训练好的适配器还弥补了它的误差。
#
# 手机呢？8 GB 里，假设有一半能给模型。词嵌入和输出头仍是 bf16，和 `bitsandbytes` 的做法一样。

# %%
PHONE = 4e9
on_phone = {}
for name in ("qwen2.5-7b", "qwen2.5-0.5b"):
    frozen = accounting.skeleton(name).requires_grad_(False)
    for precision in ("bf16", "nf4"):
        on_phone[name, precision] = accounting.training_memory(frozen, frozen=precision).weights
        print(f"{name:14} {precision:5} {on_phone[name, precision] / 1e9:6.2f} GB")
claim("phone-7b", on_phone["qwen2.5-7b", "nf4"] / PHONE, at_least=1)
claim("phone-half", on_phone["qwen2.5-0.5b", "nf4"] / PHONE, at_most=0.25)
small_task = accounting.bytes_on_disk(accounting.count(with_method("qwen2.5-0.5b", "lora")).trained)
claim("phone-task", small_task / on_phone["qwen2.5-0.5b", "nf4"], at_most=0.1)

# %% [markdown] lang="en" partner="88c27fbb"
# So the reason is half right, for another cause: quantisation makes the base fit, and then PEFT lets the one base that fits serve many
# tasks, each a small download.
#
# ## The table, recomputed

# %% [markdown] lang="zh" partner="c6aa6398"
# 所以这条理由对了一半，只是原因不同：让基座放得下的是量化；放下之后，PEFT 让这唯一的基座服务许多任务，每个任务只需一次小小的下载。
#
# ## 用自己的数字重填那张表

# %%
step = {method: median(stored["bert-base-uncased", method]["cpu_seconds"]) for method in ("full", "lora")}
worst = [
    f"{100 * end:+.1f}" for end in (min(low for low, _ in intervals.values()), max(h for _, h in intervals.values()))
]
filled = {
    "parameters": (f"{parameters:,}", f"{numbers.trained:,} ({numbers.share:.2%})"),
    "memory": (f"{ways['full'].peak / 1e9:.0f} GB", f"{ways['lora'].peak / 1e9:.0f} GB"),
    "memory-checkpointing": tuple(f"{ways[f'{way}-checkpointing'].peak / 1e9:.0f} GB" for way in ("full", "lora")),
    "step": ("1", f"{step['lora'] / step['full']:.2f}"),
    "storage": (f"{whole / 1e9:.1f} GB", f"{adapter / 1e6:.0f} MB"),
    "quality": ("0", T("quality-cell").format(low=worst[0], high=worst[1])),
    "switch": (f"{1000 * reading:.0f} ms", f"{1000 * switching:.1f} ms"),
}
header = f"| | {T('full')} | {T('lora')} |\n|---|---:|---:|\n"
Markdown(header + "\n".join(f"| {T('row-' + name)} | {a} | {b} |" for name, (a, b) in filled.items()))

# %% [markdown] lang="en" partner="daa222ea"
# Row by row: *parameters*, true for this setting. *Storage*, right in kind: a small file a task. *Cost*: memory falls
# to a fraction, to a smaller one with checkpointing; a step falls to about two thirds; 48 hours to 2 it is not. *Quality*: equivalent here, within
# the margin. *Switching*: true, and a mixed batch does not even switch.
#
# ## Play · The memory calculator
#
# Any model of the list, any method. Live, the menus redraw the bill; on GitHub you see the picture that was stored.

# %% [markdown] lang="zh" partner="35718d4c"
# 逐行来看。*参数*：在这个设置下成立。*存储*：方向对，每个任务只是一个小文件。*成本*：显存降到几分之一，加上梯度检查点降得更多；
# 单步时间降到三分之二左右；但没有从 48 小时降到 2 小时这回事。*性能*：在允许的差距内等效。*切换*：成立，混合批次甚至不用切换。
#
# ## 动手玩 · 显存计算器
#
# 模型、方法随便选。在运行中的笔记本里，菜单一变，账单就重画；在 GitHub 上看到的是存下来的图。

# %%
CHOICES = {
    "model": [name for name in accounting.published() if "bge" not in name],
    "method": ["full", "lora", "head"],
    "rank": [4, 8, 16, 64],
    "precision": ["fp32", "bf16", "nf4"],
    "batch": [1, 2, 4, 8, 16, 32],
    "length": [128, 512, 2048, 8192],
    "checkpointing": [False, True],
}
CHOSEN = {"model": "qwen2.5-7b", "method": "lora", "rank": 8, "precision": "bf16", "batch": 4, "length": 512}


# %%
def calculator(model, method, rank, precision, batch, length, checkpointing=False):
    """The bill as a picture."""
    bill = bill_of(model, method, rank, precision, batch, length, checkpointing=checkpointing)
    fig, ax = plt.subplots(figsize=(7.5, 2.2))
    draw_bills(ax, [bill], [""])
    trained = accounting.count(with_method(model, method, rank)).trained
    ax.set_title(T("calculator").format(model=model, trained=trained, total=bill.total / 1e9, peak=bill.peak / 1e9))
    ax.axvline(bill.peak / 1e9, color="#444444", linestyle="--")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=4, fontsize=9)
    return fig


# %%
from tunelab.display import publish


def live_view(render, choices, chosen):
    """Menus that redraw the picture; nothing where ipywidgets is missing."""
    try:
        import ipywidgets
    except ImportError:
        return {}
    picture = ipywidgets.Image(value=figures.png_bytes(render(**chosen)), layout={"align_self": "flex-start"})
    menus = {
        name: ipywidgets.Dropdown(options=options, value=chosen.get(name, options[0]), description=T(f"menu-{name}"))
        for name, options in choices.items()
    }
    for menu in menus.values():
        menu.observe(
            lambda _: setattr(picture, "value", figures.png_bytes(render(**{n: m.value for n, m in menus.items()}))),
            "value",
        )
    box = ipywidgets.VBox([*menus.values(), picture])
    view = {"model_id": box.model_id, "version_major": 2, "version_minor": 0}
    return {"application/vnd.jupyter.widget-view+json": view}


stored_picture = figures.png_bundle(figures.png_bytes(calculator(**CHOSEN)), T("alt-calculator"))
publish(live_view(calculator, CHOICES, CHOSEN) | stored_picture, {"image/png": {"alt": T("alt-calculator")}})

# %% [markdown] lang="en" partner="a9319b43"
# The calculator is only as good as its arithmetic. Here is the chosen bill once more, by hand: two bytes for each frozen
# weight, and for each trained one four of weight, four of gradient and eight of state.

# %% [markdown] lang="zh" partner="c1784759"
# 计算器可不可信，取决于它的算术。把选中的账单再手算一遍：每个冻结的权重两字节；每个训练的参数，权重四字节、梯度四字节、状态八字节。

# %%
bill = bill_of("qwen2.5-7b", "lora")
claim("calculator-fixed", bill.total - bill.activations, equals=2.0 * parameters + 16.0 * numbers.trained)
h, m, q, k = 3584, 18944, 3584, 512  # Qwen2.5-7B
norms = 4 * 2 * h  # inputs of both norms, fp32
inner = 2 * (3 * m + 2 * q + 2 * k)  # SwiGLU; queries, attention's result, keys and values
copies = 2 * (3 * h + q + 2 * h + m + 7 * 8)  # a copy of its input for each of seven adapters, and what A makes of it
of_blocks = 28 * (norms + inner + copies) + 4 * h
claim("calculator-moving", bill.activations, equals=4.0 * 512 * (of_blocks + 12 * 152_064))

# %% [markdown] lang="en" partner="60414c02"
# ## What should my memory be?
#
# The question of this lesson in place of "what should my loss be?". If `torch.cuda.max_memory_allocated()` is more than a tenth above the
# prediction, something is alive that should not be. The museum has the usual suspects.
#
# ## Bug museum
#
# Nothing crashes on your machine, and the loss is fine. Symptom first.
#
# **Exhibit 1.** A colleague tried a single step to see whether the job fits. It fitted. The job died in step two.

# %% [markdown] lang="zh" partner="a2110ff2"
# ## 我的显存应该是多少？
#
# 这一课用它代替“我的损失应该是多少”。如果 `torch.cuda.max_memory_allocated()` 比预测高出一成以上，就有不该活着的东西还活着。
# 常见的几种都在博物馆里。
#
# ## 错误博物馆
#
# 在你的机器上都不报错，损失也正常。先看症状。
#
# **展品一**。同事先试跑了一步，看放不放得下。放得下。正式任务却死在了第二步。

# %%
model = copy.deepcopy(base)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
tops = []
watch = MemoryWatch(model.parameters())
for _ in range(2):
    watch.history.clear()
    with watch:
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    tops.append(watch.peak)
print(" → ".join(f"{top / 1e6:.1f} MB" for top in tops))
claim("second-step", tops[1] / tops[0], at_least=1.1)

# %% [markdown] lang="en" partner="2896ab96"
# AdamW makes its state at the end of the first step. At the first summit it is not there; at the second it is. *The repair*: try two
# steps, with the longest rows.
#
# **Exhibit 2.** "I froze the base: only the adapter is in the optimizer." Yet in memory there is a gradient for every weight
# of the base.

# %% [markdown] lang="zh" partner="6da4b499"
# AdamW 在第一步结束时才建立状态：第一次登顶时它还不在，第二次就在了。*修理方法*：试跑两步，用最长的样例。
#
# **展品二**。“基座我冻结了：优化器里只有适配器。”可是内存里还躺着基座每个权重的梯度。

# %%
leaky, _ = candidates["travel-base", "lora"]()
leaky.requires_grad_(True)  # nobody froze anything
optimizer = torch.optim.AdamW([weight for name, weight in leaky.named_parameters() if "lora_" in name], lr=1e-4)
for _ in range(2):
    leaky(input_ids=batch, labels=batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
left = nbytes(weight.grad for weight in leaky.parameters() if weight.grad is not None)
print(f"{left / 1e6:.1f} MB")
claim("gradients-left", left / nbytes(base.parameters()), close_to=(1, 0.01))

# %% [markdown] lang="en" partner="76d58ea2"
# The optimizer clears the gradients of *its* parameters. Those of the base are computed, never used, never cleared, and summed up for
# ever. *The repair*: `requires_grad_(False)`, and look at what requires a gradient, not at what is in the optimizer.
#
# **Exhibit 3.** Training is fine. Memory grows in *validation*, batch by batch.

# %% [markdown] lang="zh" partner="b52921db"
# 优化器只清*自己那些*参数的梯度。基座的梯度照算不误，从来不用，从来不清，还一直累加。*修理方法*：`requires_grad_(False)`；
# 要看的是哪些参数需要梯度，而不是优化器里有什么。
#
# **展品三**。训练正常，内存却在*验证*时一批一批地涨。


# %%
def growth(collect):
    """Bytes alive after each of three validation batches whose losses are collected."""
    model, losses, alive = copy.deepcopy(base), [], []
    with MemoryWatch(model.parameters()) as watch:
        for _ in range(3):
            losses.append(collect(model(input_ids=batch, labels=batch).loss))
            alive.append(watch.now)
    return alive


tensors, floats = growth(lambda loss: loss), growth(lambda loss: loss.item())
print(*(" → ".join(f"{now / 1e6:.1f}" for now in alive) + " MB" for alive in (tensors, floats)), sep="\n")
claim("graphs-kept", (tensors[2] - tensors[0]) / kept["full"], between=(1.8, 2.2))
claim("floats-kept", floats[2] - floats[0], equals=0)

# %% [markdown] lang="en" partner="87f912e9"
# A loss is the end of a graph, and whoever keeps the loss keeps the graph with all its activations. *The repair*: `torch.no_grad()`
# around validation, and `.item()` before you collect.
#
# ## Exercises
#
# Each one checks itself. A wrong answer gets a reason, and you can try as often as you like.

# %% [markdown] lang="zh" partner="178ff929"
# 损失是计算图的末端，留住损失，就留住了整张图和它的全部激活值。*修理方法*：验证时套上 `torch.no_grad()`，收集之前先 `.item()`。
#
# ## 练习
#
# 每道题都会自己检查。答错了会告诉你原因，想试多少次都行。


# %% exercise="lora_bytes"
def lora_bytes(frozen, trained):
    """Bytes of weights, gradients and AdamW's state: `frozen` parameters in bf16, `trained` ones in fp32."""
    # solution
    return 2 * frozen + (4 + 4 + 8) * trained


# %% exercise="largest_batch"
# A card of 24 GB, of which 22 may be used. Qwen2.5-7B with LoRA of rank 8, base in bf16, rows of 512 tokens.
# What is the largest batch that fits, without and with gradient checkpointing? Give both: (without, with).
# solution
on_meta = get_peft_model(accounting.skeleton("qwen2.5-7b"), LoraConfig(r=8, target_modules="all-linear"))


def fits(rows, checkpointing):
    """Whether the predicted peak keeps to 22 GB."""
    bill = accounting.training_memory(on_meta, frozen="bf16", batch=rows, length=512, checkpointing=checkpointing)
    return bill.peak <= 22e9


largest_batch = tuple(max((rows for rows in range(1, 33) if fits(rows, saving)), default=0) for saving in (False, True))


# %% exercise="prepare"
# A colleague wrote this. The loss falls, and every weight of the model still gets a gradient. Write it anew: the last block alone
# is to be trained, and nothing else may cost a gradient.
#
#     def prepare(model):
#         last = model.model.layers[-1]
#         return torch.optim.AdamW(last.parameters(), lr=1e-3)
def prepare(model):
    """An AdamW for the last block of a causal language model, everything else frozen."""
    # solution
    model.requires_grad_(False)
    last = model.model.layers[-1].requires_grad_(True)
    return torch.optim.AdamW(last.parameters(), lr=1e-3)


# %% exercise="equivalent"
def equivalent(low, high, margin):
    """Whether the interval (low, high) of a difference shows that two methods are equivalent within the margin."""
    # solution
    return -margin < low and high < margin


# %% [markdown] lang="en" partner="78fd93e4"
# ## Recap
#
# - Full fine-tuning with AdamW takes sixteen bytes a parameter, in fp32 and in mixed precision, and activations on top.
# - The peak is weights and optimizer state plus the larger of activations and gradients: they take turns.
# - PEFT saves gradients, optimizer state and files. It saves few activations, a third of the arithmetic, and nothing of the base.
# - Activations are cured by checkpointing, the base by quantisation. With PEFT, these three make a 7B fit one small card.
# - Each further task costs a small file; one base serves all, even within a batch.
# - Equivalence is shown with a margin named before and an interval that respects how the questions were made.
# - Measure two steps, not one; and predict before you rent.

# %% [markdown] lang="zh" partner="50262df7"
# ## 小结
#
# - 用 AdamW 做全量微调，每个参数十六字节，fp32 和混合精度都一样，激活值另算。
# - 峰值等于权重加优化器状态，再加上激活值与梯度中较大的一个：两者轮流占地方。
# - PEFT 省下梯度、优化器状态和文件；激活值省得不多，计算量省三分之一，基座一点不省。
# - 激活值靠梯度检查点，基座靠量化；再加上 PEFT，三样合起来，7B 就放得进一张小卡。
# - 每多一个任务，只多一个小文件；一个基座服务所有任务，同一批次里也行。
# - 证明等效，要先定好允许的差距，区间还要尊重题目是怎么出的。
# - 试跑要跑两步，别只跑一步；租卡之前，先算一算。

# %% [markdown] insert="quiz"

# %% [markdown] insert="glossary"

# %% [markdown] lang="en" partner="72f32891"
# ## Read next
#
# - Rajbhandari and others, *ZeRO* (arXiv 1910.02054): where the sixteen bytes are counted, and spread over devices.
# - Korthikanti and others, *Reducing Activation Recomputation* (arXiv 2205.05198): the pencil work of Step 3 for large models.
# - Dettmers and others, *QLoRA* (arXiv 2305.14314): NF4, double quantisation, and what they are worth.
# - Biderman and others, *LoRA Learns Less and Forgets Less* (arXiv 2405.09673): tasks on which the two are *not* equivalent.
# - Next in this course: the methods of PEFT, each built by hand.
#
# Below is the ledger: each claim of this lesson, as measured in this run.

# %% [markdown] lang="zh" partner="d3afeeb5"
# ## 延伸阅读
#
# - Rajbhandari 等，《ZeRO》（arXiv 1910.02054）：每参数十六字节是怎么数的，又怎样分摊到多个设备。
# - Korthikanti 等，《Reducing Activation Recomputation》（arXiv 2205.05198）：第 3 步的笔算，用在大模型上。
# - Dettmers 等，《QLoRA》（arXiv 2305.14314）：NF4、双重量化，以及它们值多少。
# - Biderman 等，《LoRA Learns Less and Forgets Less》（arXiv 2405.09673）：在哪些任务上两者*并不*等效。
# - 本课程的下一课：亲手实现各种 PEFT 方法。
#
# 最后是账本：本课的每一条断言，以及这次运行测得的结果。

# %%
from tunelab.claims import print_ledger

print_ledger()
