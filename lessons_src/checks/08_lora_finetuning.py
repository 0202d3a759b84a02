"""The exercise checkers of lesson 08."""

import numbers

import torch
from peft import LoraConfig
from transformers import Qwen3Config, Qwen3ForCausalLM

from tunelab.exercises import Wrong, call, checker, expect_close


@checker("optimizer_steps")
def _(optimizer_steps):
    cases = (  # rows, epochs, batch, accumulation, processes; steps; what a wrong answer overlooks
        (1600, 3, 8, 1, 1, 600, "each epoch goes through all rows", "每一轮都要走完全部样例"),
        (1001, 2, 8, 1, 1, 252, "the rest of each epoch makes a step of its own", "每一轮末尾的零头也各算一步"),
        (1000, 2, 8, 4, 1, 64, "four batches in a row make one step", "四个批次合成一步"),
        (1000, 2, 8, 1, 2, 126, "two processes share the rows of a step", "一步的样例由两个进程分担"),
        (
            1001,
            2,
            8,
            4,
            2,
            32,
            "each of two processes takes four batches for one step",
            "两个进程各取四个批次，合成一步",
        ),
        (5, 3, 8, 4, 2, 3, "an epoch with few rows still takes a step", "样例再少，一轮也有一步"),
    )
    for *given, expected, en, zh in cases:
        rows, epochs, batch, accumulation, processes = given
        steps = optimizer_steps(*given)
        if isinstance(steps, float) and not steps.is_integer():
            raise Wrong(en=f"a number of steps is whole, this is {steps:g}", zh=f"步数是整数，得到的是 {steps:g}")
        words = (
            f"{rows} rows, {epochs} epochs, batches of {batch}, accumulation {accumulation}, processes {processes}",
            f"样例 {rows} 条，{epochs} 轮，每批 {batch} 条，累积 {accumulation}，进程 {processes}",
        )
        expect_close(steps, expected, tol=0, en=f"{words[0]}: {en}", zh=f"{words[1]}：{zh}")


@checker("equal_rank")
def _(equal_rank):
    if isinstance(equal_rank, bool) or not isinstance(equal_rank, numbers.Integral):
        raise Wrong(
            en=f"equal_rank is a whole number, this is {type(equal_rank).__name__}",
            zh=f"equal_rank 应是整数，得到的是 {type(equal_rank).__name__}",
        )
    # Sums of d + k over one layer of the course's base: q and v, and all seven linear layers.
    few, every = (128 + 128) + (128 + 64), 2 * (128 + 128) + 2 * (128 + 64) + 3 * (128 + 384)
    right = 2 * every // few
    if equal_rank > right:
        raise Wrong(
            en=f"with rank {equal_rank} q_proj and v_proj train more than all linear layers at rank 2",
            zh=f"秩取 {equal_rank} 时，q_proj 和 v_proj 训练的参数比“全部线性层、秩 2”还多",
        )
    if equal_rank < right:
        raise Wrong(
            en=f"rank {equal_rank} leaves parameters unspent: a higher one still keeps to the budget",
            zh=f"秩取 {equal_rank} 时参数还有富余：更高的秩也不会超出预算",
        )


@checker("add_adapter")
def _(add_adapter):
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = Qwen3Config(vocab_size=20, num_key_value_heads=1, head_dim=8, **shape)
    torch.manual_seed(0)
    model = call(add_adapter, Qwen3ForCausalLM(settings), LoraConfig(r=2, lora_alpha=4, target_modules="all-linear"))
    if not isinstance(model, torch.nn.Module):
        raise Wrong(
            en=f"add_adapter is to return the model, this is {type(model).__name__}",
            zh=f"add_adapter 应返回模型，得到的是 {type(model).__name__}",
        )
    weights = dict(model.named_parameters())
    if not any("lora_" in name for name in weights):
        raise Wrong(en="the model that is returned has no adapter", zh="返回的模型没有适配器")
    moving = {name for name, weight in weights.items() if weight.requires_grad}
    if base := [name for name in moving if "lora_" not in name]:
        raise Wrong(
            en=f"weights of the base would be trained, too: {len(base)} of them require a gradient",
            zh=f"基座的权重也会被训练：其中 {len(base)} 个需要梯度",
        )
    if still := [name for name in weights if "lora_" in name and name not in moving]:
        raise Wrong(
            en=f"a part of the adapter is frozen: {len(still)} of its matrices require no gradient",
            zh=f"适配器有一部分被冻结了：{len(still)} 个矩阵不需要梯度",
        )
    ranks = {weight.shape[0] for name, weight in weights.items() if "lora_A" in name}
    if ranks != {2} or len(moving) != 14:
        raise Wrong(
            en=f"config asks for rank 2 on all seven linear layers, here are {len(moving) // 2} with the ranks "
            f"{sorted(ranks)}: hand the given config on as it is",
            zh=f"config 要求七个线性层都加秩 2，这里是 {len(moving) // 2} 个，秩为 {sorted(ranks)}：把传入的 config 原样传下去",
        )
