"""The exercise checkers of lesson 08."""

import torch
from peft import LoraConfig
from transformers import Qwen3Config, Qwen3ForCausalLM

from tunelab.exercises import Wrong, call, checker, expect_close


@checker("merged_weight")
def _(merged_weight):
    torch.manual_seed(3)
    weight, lora_A, lora_B = torch.randn(5, 7), torch.randn(2, 7), torch.randn(5, 2)  # out 5, in 7, rank 2
    x = torch.randn(4, 7)
    for alpha, rank in ((2, 2), (16, 2)):
        expected = x @ weight.T + alpha / rank * (x @ lora_A.T) @ lora_B.T
        given = [tensor.clone() for tensor in (weight, lora_A, lora_B)]
        merged = merged_weight(*given, alpha, rank)
        if not isinstance(merged, torch.Tensor) or merged.shape != weight.shape:
            raise Wrong(
                en="the merged weight is a tensor of the shape of the weight, (out, in): look at the order of the factors",
                zh="合并后的权重应是与原权重同形的张量 (out, in)：检查两个因子的次序",
            )
        expect_close(
            x @ merged.T,
            expected,
            tol=1e-4,
            en="the merged layer differs from base layer plus adapter"
            + (" when alpha and rank differ" * (alpha != rank)),
            zh="合并后的层与“基座层加适配器”不一致" + ("（当 alpha 与 rank 不同时）" * (alpha != rank)),
        )
        if not torch.equal(given[0], weight):
            raise Wrong(
                en="the weight that was given is changed in place: a second merge would add the adapter twice",
                zh="传入的权重被就地修改了：再合并一次，适配器就会加上两遍",
            )


@checker("equal_rank")
def _(equal_rank):
    if isinstance(equal_rank, bool) or not isinstance(equal_rank, int):
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
