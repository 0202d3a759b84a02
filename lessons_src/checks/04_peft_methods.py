"""The exercise checkers of lesson 04."""

import torch

from tunelab.exercises import Wrong, checker


@checker("prefix_parameters")
def _(prefix_parameters):
    for tokens, layers, heads, head_dim in ((20, 4, 2, 32), (1, 1, 1, 1), (10, 24, 2, 64), (7, 3, 5, 11)):
        right, given = 2 * tokens * layers * heads * head_dim, prefix_parameters(tokens, layers, heads, head_dim)
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise Wrong(
                en=f"the count is a number, this is {type(given).__name__}",
                zh=f"应返回一个数，得到的是 {type(given).__name__}",
            )
        if given == right:
            continue
        if 2 * given == right:
            raise Wrong(en="keys and values: each token has both", zh="key 和 value 各有一份，每个词元两样都要")
        if given * layers == right:
            raise Wrong(en="a prefix stands in front of every layer", zh="每一层前面都有前缀")
        where = f"tokens={tokens}, layers={layers}, key_value_heads={heads}, head_dim={head_dim}"
        raise Wrong(en=f"for {where} it is not {given}", zh=f"{where} 时不是 {given}")


@checker("better_place")
def _(better_place):
    if better_place not in ("attention", "feedforward"):
        raise Wrong(
            en=f'better_place is "attention" or "feedforward", this is {better_place!r}',
            zh=f'better_place 应为 "attention" 或 "feedforward"，得到的是 {better_place!r}',
        )
    if better_place == "attention":
        raise Wrong(
            en="the losses say otherwise: compare the last losses, each from a fresh copy of the base at the same rate",
            zh="损失不是这样说的：都从新的基座副本出发，用同样的学习率，比较最后的损失",
        )


@checker("merged_ia3")
def _(merged_ia3):
    torch.manual_seed(5)
    for outputs, inputs, feedforward in ((6, 6, False), (6, 6, True), (3, 6, False), (4, 9, True)):
        weight, x = torch.randn(outputs, inputs), torch.randn(5, inputs)
        factors = torch.randn(inputs if feedforward else outputs)
        wanted = (x * factors) @ weight.T if feedforward else (x @ weight.T) * factors
        kept = weight.clone()
        merged = merged_ia3(weight, factors, feedforward)
        kind = ("down_proj", "input", "输入") if feedforward else ("k_proj", "output", "输出")
        if not isinstance(merged, torch.Tensor) or merged.shape != (outputs, inputs):
            raise Wrong(
                en="the merged weight is a tensor of the weight's shape, (out, in)",
                zh="合并后的权重应是与原权重同形的张量 (out, in)",
            )
        if not torch.allclose(x @ merged.T, wanted, atol=1e-5):
            raise Wrong(
                en=f"{kind[0]}: the merged layer differs; its factors multiply the {kind[1]}",
                zh=f"{kind[0]}：合并后的层与原来不一致；它的系数乘在{kind[2]}上",
            )
        if not torch.equal(weight, kept):
            raise Wrong(
                en="the weight that was given is changed in place: a second merge would multiply twice",
                zh="传入的权重被就地修改了：再合并一次就会乘上两遍",
            )
