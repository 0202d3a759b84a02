"""The exercise checkers of lesson 03."""

import numbers

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tunelab import accounting
from tunelab.exercises import Wrong, call, checker, expect_close


@checker("lora_bytes")
def _(lora_bytes):
    expect_close(
        lora_bytes(100, 0),
        200,
        en="a frozen parameter is two bytes of bf16 and nothing else",
        zh="冻结的参数只有两个字节的 bf16，别的都没有",
    )
    expect_close(
        lora_bytes(0, 10),
        160,
        en="a trained parameter has a weight, a gradient and two states, each in fp32",
        zh="训练的参数有一个权重、一个梯度和两个状态，都是 fp32",
    )
    expect_close(lora_bytes(1000, 10), 2160, en="both kinds add up", zh="两类相加")


@checker("largest_batch")
def _(largest_batch):
    if not isinstance(largest_batch, tuple | list) or len(largest_batch) != 2:
        raise Wrong(
            en="a pair is needed: (without checkpointing, with checkpointing)",
            zh="需要一对数：（不用检查点，用检查点）",
        )
    if any(isinstance(rows, bool) or not isinstance(rows, numbers.Integral) for rows in largest_batch):
        raise Wrong(en="both are whole numbers of rows", zh="两个都应是整数行数")
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(accounting.skeleton("qwen2.5-7b"), LoraConfig(r=8, target_modules="all-linear"))
    for rows, checkpointing in zip(largest_batch, (False, True), strict=True):
        which = ("with" if checkpointing else "without", "用" if checkpointing else "不用")
        settings = {"frozen": "bf16", "length": 512, "checkpointing": checkpointing}
        here, more = (accounting.training_memory(model, batch=n, **settings).peak / 1e9 for n in (rows, rows + 1))
        if rows < 1 or here > 22:
            raise Wrong(
                en=f"{which[0]} checkpointing, {rows} rows would take {here:.1f} GB",
                zh=f"{which[1]}检查点时，{rows} 行要 {here:.1f} GB",
            )
        if more <= 22:
            raise Wrong(
                en=f"{which[0]} checkpointing, one row more would still fit ({more:.1f} GB)",
                zh=f"{which[1]}检查点时，再加一行也放得下（{more:.1f} GB）",
            )


@checker("prepare")
def _(prepare):
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=20, num_key_value_heads=1, head_dim=8, **shape))
    optimizer = call(prepare, model)
    if not isinstance(optimizer, torch.optim.AdamW):
        raise Wrong(
            en=f"prepare is to return an AdamW, this is {type(optimizer).__name__}",
            zh=f"prepare 应返回 AdamW 优化器，得到的是 {type(optimizer).__name__}",
        )
    ids = torch.arange(8)[None] % 20
    loss = model(input_ids=ids, labels=ids).loss
    if not loss.requires_grad:
        raise Wrong(en="everything is frozen: nothing would be learnt", zh="全都冻结了：什么也学不到")
    loss.backward()
    last = {id(weight) for weight in model.model.layers[-1].parameters()}
    got = {id(weight): name for name, weight in model.named_parameters() if weight.grad is not None}
    if others := [name for key, name in got.items() if key not in last]:
        raise Wrong(
            en=f"{len(others)} weights outside the last block still get a gradient, {others[0]} for one",
            zh=f"最后一个块以外还有 {len(others)} 个权重得到了梯度，例如 {others[0]}",
        )
    if last - set(got):
        raise Wrong(
            en=f"{len(last - set(got))} weights of the last block get no gradient",
            zh=f"最后一个块有 {len(last - set(got))} 个权重没有梯度",
        )
    moved = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    if moved != last:
        raise Wrong(
            en="the optimizer is to hold the weights of the last block, all of them and no others",
            zh="优化器里应当正好是最后一个块的全部权重",
        )


@checker("equivalent")
def _(equivalent):
    cases = [
        ((-0.01, 0.02, 0.05), True, "keeps to the margin on both sides", "两端都在允许的差距之内"),
        (
            (0.01, 0.03, 0.05),
            True,
            "is significant and still within the margin: equivalent",
            "差异显著，但仍在允许的差距之内：等效",
        ),
        (
            (-0.20, 0.20, 0.05),
            False,
            "contains zero and much else: it shows nothing",
            "包含零，也包含许多别的：什么都证明不了",
        ),
        ((-0.08, 0.01, 0.05), False, "reaches below the margin", "下端超出了允许的差距"),
        ((-0.01, 0.08, 0.05), False, "reaches above the margin", "上端超出了允许的差距"),
        ((0.06, 0.07, 0.05), False, "is narrow and lies above the margin", "虽然很窄，却整个在允许的差距之上"),
        ((-0.07, -0.06, 0.05), False, "is narrow and lies below the margin", "虽然很窄，却整个在允许的差距之下"),
        ((-0.03, 0.03, 0.02), False, "is too wide: the margin is an argument", "太宽了：允许的差距是一个参数"),
        ((-0.08, 0.07, 0.10), True, "keeps to the margin: it is an argument", "在允许的差距之内：差距是一个参数"),
    ]
    for (low, high, margin), right, en, zh in cases:
        found = equivalent(low, high, margin)
        if isinstance(found, torch.Tensor):
            found = found.tolist()
        if not isinstance(found, bool | np.bool_):
            raise Wrong(
                en=f"one True or False is needed, for both ends together, this is {type(found).__name__}",
                zh=f"需要一个 True 或 False，两端合在一起判断，得到的是 {type(found).__name__}",
            )
        if found != right:
            raise Wrong(
                en=f"({low:+.2f}, {high:+.2f}) with a margin of {margin} {en}",
                zh=f"区间 ({low:+.2f}, {high:+.2f})、允许差距 {margin}：{zh}",
            )
