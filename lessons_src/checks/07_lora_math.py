"""The exercise checkers of lesson 07."""

import inspect
import numbers

import torch

from tunelab.exercises import Wrong, call, checker, expect_close


@checker("largest_rank")
def _(largest_rank):
    for d, k, expected in ((6, 4, 2), (64, 64, 31), (4096, 4096, 2047), (128, 384, 95)):
        found = largest_rank(d, k)
        if isinstance(found, float) and not found.is_integer():
            raise Wrong(
                en=f"a rank is a whole number; for {d} × {k} this gives {found:g}",
                zh=f"秩是整数；对 {d} × {k} 得到的是 {found:g}",
            )
        if d == k and found == expected + 1:
            raise Wrong(
                en=f"for {d} × {k} the factors of rank {found:g} have just as many numbers, not fewer",
                zh=f"对 {d} × {k}，秩 {found:g} 的因子参数恰好一样多，并不更少",
            )
        expect_close(
            found,
            expected,
            tol=0,
            en=f"not the largest r with r (d + k) < d k for {d} × {k}",
            zh=f"对 {d} × {k}，这不是满足 r (d + k) < d k 的最大的 r",
        )


@checker("alpha_at_32")
def _(alpha_at_32):
    if not isinstance(alpha_at_32, dict) or set(alpha_at_32) != {"SGD", "Adam"}:
        raise Wrong(
            en='a dictionary with the keys "SGD" and "Adam" is needed', zh='需要一个以 "SGD" 和 "Adam" 为键的字典'
        )
    for value in alpha_at_32.values():
        if not isinstance(value, numbers.Real) and not (isinstance(value, torch.Tensor) and value.ndim == 0):
            raise Wrong(
                en=f"each alpha is one number, this is {type(value).__name__}",
                zh=f"每个 alpha 都是一个数，得到的是 {type(value).__name__}",
            )
    if (alpha_at_32["SGD"], alpha_at_32["Adam"]) == (1, 0.5):
        raise Wrong(
            en="these are the factors s; alpha is asked for, and alpha = s r", zh="这是 s；要的是 alpha，而 alpha = s r"
        )
    if alpha_at_32["Adam"] == 64 or alpha_at_32["SGD"] == 64:
        raise Wrong(
            en="64 keeps alpha / r, and the higher rank takes larger steps: look at the middle line of the figure",
            zh="64 保持了 alpha / r，而秩更高步子更大：看图中中间那条规矩",
        )
    if (alpha_at_32["SGD"], alpha_at_32["Adam"]) == (16, 32):
        raise Wrong(en="the two optimizers are mixed up", zh="两种优化器弄反了")
    expect_close(
        alpha_at_32["SGD"],
        32,
        en="SGD: the drop scales as s² r; with r four times as large, s must be halved",
        zh="SGD：降幅正比于 s² r；r 变成四倍，s 要减半",
    )
    expect_close(
        alpha_at_32["Adam"],
        16,
        en="Adam: the drop scales as s r; with r four times as large, s must be a quarter",
        zh="Adam：降幅正比于 s r；r 变成四倍，s 要变成四分之一",
    )


def _factors(r: int, inputs: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight, lora_A and lora_B with random numbers, the same every time."""
    draw = torch.Generator().manual_seed(7)
    return (
        torch.randn(outputs, inputs, generator=draw),
        torch.randn(r, inputs, generator=draw),
        torch.randn(outputs, r, generator=draw),
    )


def _same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found.to(expected.dtype), expected, atol=1e-4, rtol=1e-4)


def _explain(found: torch.Tensor, base: torch.Tensor, product: torch.Tensor, scale: float) -> None:
    """Raises the reason why `found` is not base + scale · product, where it is one of the usual mistakes."""
    if _same(found, base + scale * product):
        return
    if scale % 1 and _same(found, base + scale // 1 * product):
        raise Wrong(
            en="alpha / r is rounded down: write /, not //, for alpha may be smaller than r",
            zh="alpha / r 被取整了：要用 / 而不是 //，因为 alpha 可能比 r 还小",
        )
    if _same(found, base + product):
        raise Wrong(en="alpha / r is missing before the product", zh="乘积前面缺了 alpha / r")
    if _same(found, base + scale**2 * product):
        raise Wrong(en="alpha / r is applied twice", zh="alpha / r 乘了两次")
    if _same(found, base):
        raise Wrong(en="the update is not added", zh="更新量没有加上去")
    if _same(found, scale * product):
        raise Wrong(en="the base itself is missing", zh="缺了基座本身")


@checker("merged_weight")
def _(merged_weight):
    for inputs, outputs in ((5, 5), (6, 4)):
        weight, lora_A, lora_B = _factors(2, inputs, outputs)
        given = [weight.clone(), lora_A.clone(), lora_B.clone()]
        found = _merge(merged_weight, given, inputs == outputs)
        if not all(torch.equal(one, other) for one, other in zip(given, (weight, lora_A, lora_B), strict=True)):
            raise Wrong(
                en="the tensors that were handed in have changed: += works in place, and a second merge would add twice",
                zh="传入的张量被改动了：`+=` 是原地操作，再合并一次就会加两遍",
            )
        product = lora_B @ lora_A
        if inputs == outputs and any(_same(found, weight + scale * product.T) for scale in (1, 2.5, 6.25)):
            raise Wrong(
                en="this is the transposed update: the order is lora_B @ lora_A",
                zh="加的是转置：次序应为 lora_B @ lora_A",
            )
        _explain(found, weight, product, scale=2.5)
        if not _same(found, weight + 2.5 * product):
            raise Wrong(
                en=f"not W + alpha / r · B A (shape {tuple(found.shape)})",
                zh=f"不等于 W + alpha / r · B A（形状 {tuple(found.shape)}）",
            )


def _merge(merged_weight, given: list[torch.Tensor], square: bool) -> torch.Tensor:
    """The learner's merge; an error on a layer that is not square gets a reason of its own."""
    try:
        found = merged_weight(*given, 2, 5)
    except Wrong as wrong:
        if square:
            raise
        raise Wrong(
            en=f"it fails on a layer that is not square: the order is lora_B @ lora_A ({wrong.en})",
            zh=f"在非方阵的层上出错：次序应为 lora_B @ lora_A（{wrong.zh}）",
        ) from None
    if not isinstance(found, torch.Tensor):
        raise Wrong(
            en=f"a tensor is needed, this is {type(found).__name__}",
            zh=f"需要一个张量，得到的是 {type(found).__name__}",
        )
    return found


@checker("lora_from_memory")
def _(LoRA):
    if not (inspect.isclass(LoRA) and issubclass(LoRA, torch.nn.Module)):
        raise Wrong(
            en=f"a subclass of torch.nn.Module is needed, this is {type(LoRA).__name__}",
            zh=f"需要 torch.nn.Module 的子类，得到的是 {type(LoRA).__name__}",
        )
    if "forward" not in vars(LoRA):
        call(lambda: None)  # not written yet
    r, alpha, inputs, outputs = 3, 8, 8, 5
    torch.manual_seed(0)
    base = torch.nn.Linear(inputs, outputs)
    weight, bias = base.weight.detach().clone(), base.bias.detach().clone()
    x = torch.randn(6, inputs)
    plain = x @ weight.T + bias
    layer = call(LoRA, base, r, alpha)
    _has_factors(layer, r, inputs, outputs)
    _starts_at_the_base(layer, x, plain)

    _, lora_A, lora_B = _factors(r, inputs, outputs)
    with torch.no_grad():
        layer.lora_A.copy_(lora_A)
        layer.lora_B.copy_(lora_B)
    found = call(layer, x)
    _explain(found, plain, x @ lora_A.T @ lora_B.T, scale=alpha / r)
    if not _same(found, plain + alpha / r * (x @ lora_A.T @ lora_B.T)):
        raise Wrong(en="not W x + alpha / r · B A x", zh="不等于 W x + alpha / r · B A x")

    trained = {name for name, p in layer.named_parameters() if p.requires_grad}
    if trained != {"lora_A", "lora_B"}:
        extra = ", ".join(sorted(trained - {"lora_A", "lora_B"})) or "-"
        raise Wrong(
            en=f"lora_A and lora_B alone are to be trained; also trained here: {extra}",
            zh=f"只有 lora_A 和 lora_B 应当参与训练；这里还训练了：{extra}",
        )
    if not (torch.equal(base.weight, weight) and torch.equal(base.bias, bias)):
        raise Wrong(en="the base's own numbers have changed", zh="基座自己的数被改动了")
    again = call(layer, x).square().sum()
    if again.requires_grad:
        again.backward()
    if layer.lora_A.grad is None or layer.lora_B.grad is None:
        raise Wrong(en="no gradient reaches lora_A and lora_B", zh="梯度到不了 lora_A 和 lora_B")
    _fits_into_a_model(LoRA, layer, weight + alpha / r * lora_B @ lora_A, bias)


def _fits_into_a_model(LoRA, layer, merged: torch.Tensor, bias: torch.Tensor) -> None:
    """Raises unless the layer does for a model what its base did: take batches, pass gradients down, need no bias."""
    rows = torch.randn(2, 4, merged.shape[1], requires_grad=True)  # (batch, tokens, in)
    wanted = rows @ merged.T + bias
    try:
        found = call(layer, rows)
    except Wrong as wrong:
        raise Wrong(
            en=f"it fails on a batch of shape (batch, tokens, in), which nn.Linear takes: {wrong.en}",
            zh=f"输入形状为 (batch, tokens, in) 时出错，而 nn.Linear 可以处理：{wrong.zh}",
        ) from None
    if not _same(found, wanted):
        raise Wrong(
            en="on a batch of shape (batch, tokens, in) it differs: the last axis is the one that is multiplied, and "
            ".T turns all of them",
            zh="输入形状为 (batch, tokens, in) 时结果不对：相乘的是最后一维，而 .T 会翻转所有的维",
        )
    (expected,) = torch.autograd.grad(wanted.square().sum(), rows)
    (passed,) = torch.autograd.grad(found.square().sum(), rows, allow_unused=True)
    if passed is None or not torch.allclose(passed, expected, atol=1e-3, rtol=1e-3):
        raise Wrong(
            en="the gradient does not reach the layers below: freeze the base with requires_grad_(False), not with "
            "no_grad or detach in the forward",
            zh="梯度传不到下面的层：冻结基座要用 requires_grad_(False)，而不是在 forward 里用 no_grad 或 detach",
        )
    try:
        plain = call(LoRA, torch.nn.Linear(4, 3, bias=False), 2, 4)
        call(plain, torch.randn(2, 4))
    except Wrong as wrong:
        raise Wrong(
            en=f"it fails on a base without a bias, and Qwen's layers mostly have none: {wrong.en}",
            zh=f"基座没有偏置时出错，而 Qwen 的层大多没有偏置：{wrong.zh}",
        ) from None


def _has_factors(layer, r: int, inputs: int, outputs: int) -> None:
    """Raises unless the layer has both factors as parameters of the right shapes."""
    shapes = {"lora_A": (r, inputs), "lora_B": (outputs, r)}
    for name, shape in shapes.items():
        factor = getattr(layer, name, None)
        if not isinstance(factor, torch.nn.Parameter):
            raise Wrong(en=f"{name} must be an nn.Parameter of the layer", zh=f"{name} 应是这一层的 nn.Parameter")
        if tuple(factor.shape) != shape:
            other = "lora_B" if name == "lora_A" else "lora_A"
            swapped = " (A and B are swapped)" if tuple(factor.shape) in (shapes[other], shape[::-1]) else ""
            raise Wrong(
                en=f"{name} has the shape {tuple(factor.shape)}, it should be {shape}{swapped}",
                zh=f"{name} 的形状是 {tuple(factor.shape)}，应为 {shape}" + ("（A 和 B 弄反了）" if swapped else ""),
            )


def _starts_at_the_base(layer, x: torch.Tensor, plain: torch.Tensor) -> None:
    """Raises unless the untrained layer equals its base and can learn."""
    zero_A, zero_B = (not factor.any() for factor in (layer.lora_A, layer.lora_B))
    if zero_A and zero_B:
        raise Wrong(en="both factors are zero: neither can ever move", zh="两个因子都为零：谁也动不了")
    if not (zero_A or zero_B):
        raise Wrong(
            en="before training the layer must equal its base: one factor begins at zero",
            zh="训练之前，这一层必须等于基座：要有一个因子从零开始",
        )
    found = call(layer, x)
    if not isinstance(found, torch.Tensor) or not _same(found, plain):
        raise Wrong(
            en="before training the output differs from the base's: is base(x) in the forward, bias and all?",
            zh="训练之前的输出与基座不同：forward 里有完整的 base(x)（包括偏置）吗？",
        )
