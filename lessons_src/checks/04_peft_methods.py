"""The exercise checkers of lesson 04."""

import inspect
import numbers
from collections.abc import Mapping

import torch
from torch.nn.functional import gelu, linear, relu

from tunelab.exercises import Wrong, call, checker


def _same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found.to(expected.dtype), expected, atol=1e-5, rtol=1e-5)


def _tensor(found, shape: tuple[int, ...], what: str) -> None:
    """Raises unless `found` is a tensor of the shape."""
    if not isinstance(found, torch.Tensor) or tuple(found.shape) != shape:
        form = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise Wrong(
            en=f"{what} is to be a tensor of shape {shape}, this is {form}",
            zh=f"{what} 应是形状为 {shape} 的张量，得到的是 {form}",
        )


@checker("several_loras")
def _(several_loras):
    draw = torch.Generator().manual_seed(4)
    for outputs, inputs, ranks in ((6, 6, (2, 4)), (5, 7, (3, 2, 1)), (4, 6, (2,))):
        weight = torch.randn(outputs, inputs, generator=draw)
        adapters = [
            (
                torch.randn(r, inputs, generator=draw, requires_grad=True),
                torch.randn(outputs, r, generator=draw, requires_grad=True),
                alpha,
            )
            for r, alpha in zip(ranks, (5, 3, 4), strict=False)
        ]
        given, lent = weight.clone(), [(A.detach().clone(), B.detach().clone()) for A, B, _ in adapters]
        found = _summed(several_loras, given, list(adapters))
        kept = all(torch.equal(A, a) and torch.equal(B, b) for (A, B, _), (a, b) in zip(adapters, lent, strict=True))
        if not (torch.equal(given, weight) and kept):
            raise Wrong(
                en="the tensors that were handed in have changed: += and *= work in place, and the next call begins there",
                zh="传入的张量被改动了：`+=`、`*=` 是原地操作，下次调用就从改动过的数算起",
            )
        _tensor(found, (outputs, inputs), "several_loras(...)")
        _explain_sum(found, weight, adapters)
        _reaches(found, [factor for A, B, _ in adapters for factor in (A, B)], en="A and B", zh=" A 和 B")


def _summed(several_loras, weight: torch.Tensor, adapters: list) -> torch.Tensor:
    """The learner's sum; an error of shapes gets a reason of its own."""
    try:
        return several_loras(weight, adapters)
    except Wrong as wrong:
        raise Wrong(
            en=f"it fails with {len(adapters)} adapters on a weight of shape {tuple(weight.shape)}: is it B @ A, "
            f"(out, r) times (r, in)? ({wrong.en})",
            zh=f"权重形状为 {tuple(weight.shape)}、有 {len(adapters)} 个适配器时出错：是 B @ A，即 (out, r) 乘 (r, in) 吗？"
            f"（{wrong.zh}）",
        ) from None


def _explain_sum(found: torch.Tensor, weight: torch.Tensor, adapters: list) -> None:
    """Raises the reason why `found` is not W + alpha / r · B A of each adapter."""

    def total(scale):
        return sum(scale(alpha, A, B) * (B @ A) for A, B, alpha in adapters)

    right = total(lambda alpha, A, B: alpha / len(A))
    if _same(found, weight + right):
        return
    usual = [
        (weight + total(lambda alpha, A, B: 1), "alpha / r is missing before the products", "乘积前面缺了 alpha / r"),
        (
            weight + total(lambda alpha, A, B: alpha * len(A)),
            "alpha is divided by r, not multiplied",
            "alpha 应除以 r，而不是乘以 r",
        ),
        (weight + total(lambda alpha, A, B: alpha), "alpha is not divided by r", "alpha 没有除以 r"),
        (
            weight + total(lambda alpha, A, B: alpha / len(B)),
            "alpha is divided by the number of outputs: B is (out, r), and r is its second length",
            "alpha 除以了输出的个数：B 的形状是 (out, r)，第二维才是 r",
        ),
        (
            weight + total(lambda alpha, A, B: alpha // len(A)),
            "alpha / r is rounded down: write /, not //",
            "alpha / r 被取整了：要用 / 而不是 //",
        ),
        (right, "the weight itself is missing", "缺了权重 W 本身"),
        (weight, "no adapter has been added", "一个适配器也没有加上去"),
    ]
    A, B, alpha = adapters[-1]
    rank = len(adapters[0][0])
    usual += [
        (weight + alpha / len(A) * (B @ A), "only the last adapter is there", "只有最后一个适配器"),
        (
            weight + total(lambda alpha, A, B: alpha / rank),
            "each adapter has a rank of its own; here all are divided by the first one's",
            "每个适配器的秩各不相同，这里却都除以了第一个的秩",
        ),
        (weight + right / len(adapters), "the updates are added, not averaged", "更新量应当相加，而不是取平均"),
    ]
    if weight.shape[0] == weight.shape[1]:
        usual.append(
            (weight + right.T, "this is the transposed update: the order is B @ A", "加的是转置：次序应为 B @ A")
        )
    for mistaken, en, zh in usual:
        if _same(found, mistaken):
            raise Wrong(en=en, zh=zh)
    raise Wrong(
        en=f"for {len(adapters)} adapters this is not W + alpha / r · B A of each",
        zh=f"有 {len(adapters)} 个适配器时，结果不等于 W 加上各自的 alpha / r · B A",
    )


def _reaches(found: torch.Tensor, trained: list[torch.Tensor], *, en: str, zh: str) -> None:
    """Raises unless a gradient reaches each of the trained tensors."""
    grads = [None]
    if found.requires_grad:
        grads = torch.autograd.grad(found.square().sum(), trained, allow_unused=True)
    if any(grad is None for grad in grads):
        raise Wrong(
            en=f"no gradient reaches {en}: do without .detach(), .data and no_grad",
            zh=f"梯度到不了{zh}：不要用 .detach()、.data 或 no_grad",
        )


@checker("adapter_from_memory")
def _(Bottleneck):
    if not (inspect.isclass(Bottleneck) and issubclass(Bottleneck, torch.nn.Module)):
        raise Wrong(
            en=f"a subclass of torch.nn.Module is needed, this is {type(Bottleneck).__name__}",
            zh=f"需要 torch.nn.Module 的子类，得到的是 {type(Bottleneck).__name__}",
        )
    if Bottleneck.forward is torch.nn.Module.forward:
        call(lambda: None)  # not written yet
    width, bottleneck = 6, 4
    torch.manual_seed(0)
    layer = call(Bottleneck, width, bottleneck)
    _has_projections(layer, width, bottleneck)
    h = torch.randn(2, 3, width)
    _hands_on(layer, h)

    with torch.no_grad():
        for weight in layer.parameters():
            weight.normal_()
    given = h.clone()
    found = call(layer, given)
    if not torch.equal(given, h):
        raise Wrong(
            en="the input has changed: += works in place, and others still read h",
            zh="输入被改动了：`+=` 是原地操作，而别处还要用 h",
        )
    _tensor(found, tuple(h.shape), "forward(h)")
    _explain_adapter(found, h, layer)
    below = h.clone().requires_grad_()
    _reaches(
        call(layer, below), [below, *layer.parameters()], en="some of h, down and up", zh=" h、down、up 中的某一个"
    )
    wanted, passed = (
        torch.autograd.grad(out.square().sum(), below)[0] for out in (_adapter(below, layer), call(layer, below))
    )
    if not torch.allclose(passed, wanted, atol=1e-3, rtol=1e-4):
        raise Wrong(
            en="a part of the gradient is lost on its way to the layers below: nothing is to be detached",
            zh="传往下面各层的梯度少了一部分：哪里都不要 detach",
        )


def _has_projections(layer, width: int, bottleneck: int) -> None:
    """Raises unless the layer has down and up as nn.Linear of the right shapes, both trained, and nothing else."""
    shapes = {"down": (bottleneck, width), "up": (width, bottleneck)}
    for name, shape in shapes.items():
        part = getattr(layer, name, None)
        if not isinstance(part, torch.nn.Linear):
            raise Wrong(en=f"{name} must be an nn.Linear of the adapter", zh=f"{name} 应是适配器的一个 nn.Linear")
        if tuple(part.weight.shape) != shape:
            raise Wrong(
                en=f"the weight of {name} has the shape {tuple(part.weight.shape)}, it should be {shape}: down goes from "
                "width to bottleneck, up goes back",
                zh=f"{name} 的权重形状是 {tuple(part.weight.shape)}，应为 {shape}：down 从 width 到 bottleneck，up 再升回去",
            )
    numbers_trained = sum(weight.numel() for weight in layer.parameters() if weight.requires_grad)
    if numbers_trained != 2 * width * bottleneck + width + bottleneck:
        raise Wrong(
            en=f"2dm + m + d numbers are to be trained, two weights and two biases; here it is {numbers_trained} for "
            f"d = {width}, m = {bottleneck}",
            zh=f"应训练 2dm + m + d 个数，即两个权重加两个偏置；d = {width}、m = {bottleneck} 时这里是 {numbers_trained} 个",
        )


def _hands_on(layer, h: torch.Tensor) -> None:
    """Raises unless the untrained adapter gives back its input and can learn."""
    found = call(layer, h.clone())
    _tensor(found, tuple(h.shape), "forward(h)")
    if not found.any() or _same(found, _adapter(h, layer) - h):
        raise Wrong(
            en="what came in is lost: the residual is missing, forward is to give h + ...",
            zh="输入的内容丢了：缺少残差，forward 应返回 h + ……",
        )
    if layer.up.weight.any() or layer.up.bias.any():
        raise Wrong(
            en="untrained it does not hand on what it gets: weight and bias of up must begin at zero",
            zh="没有训练时输出就不等于输入：up 的权重和偏置必须从零开始",
        )
    if not (layer.down.weight.any() or layer.down.bias.any()):
        raise Wrong(
            en="down and up are both zero: neither weight could ever move",
            zh="down 和 up 全为零：两个权重谁也动不了",
        )
    if not torch.equal(found, h):
        raise Wrong(en="untrained it does not hand on what it gets", zh="没有训练时，输出与输入不同")


def _adapter(h: torch.Tensor, layer, bend=gelu) -> torch.Tensor:
    """The reference, with the numbers of the learner's layer."""
    return h + linear(bend(linear(h, layer.down.weight, layer.down.bias)), layer.up.weight, layer.up.bias)


def _explain_adapter(found: torch.Tensor, h: torch.Tensor, layer) -> None:
    """Raises the reason why `found` is not h + up(gelu(down(h)))."""
    right, straight = _adapter(h, layer), _adapter(h, layer, bend=lambda x: x)
    if _same(found, right):
        return
    usual = [
        (
            straight,
            "down and up alone are linear: the GELU between them is missing",
            "只有 down 和 up 就还是线性的：中间缺了 GELU",
        ),
        (
            h + gelu(straight - h),
            "the GELU stands behind up; it belongs between down and up",
            "GELU 放到了 up 后面；应放在 down 和 up 之间",
        ),
        (
            _adapter(gelu(h), layer, bend=lambda x: x) - gelu(h) + h,
            "the GELU stands before down; it belongs behind it",
            "GELU 放到了 down 前面；应放在它后面",
        ),
        (_adapter(h, layer, bend=relu), "this is a ReLU; a GELU is asked for", "这里用的是 ReLU；要求的是 GELU"),
        (
            _adapter(h, layer, bend=lambda x: gelu(x, approximate="tanh")),
            'this is the approximation by tanh; the GELU itself is asked for (approximate="none")',
            '这里用的是 tanh 近似；要求的是 GELU 本身（approximate="none"）',
        ),
    ]
    for mistaken, en, zh in usual:
        if _same(found, mistaken):
            raise Wrong(en=en, zh=zh)
    raise Wrong(en="not h + up(gelu(down(h)))", zh="不等于 h + up(gelu(down(h)))")


@checker("with_prompt")
def _(with_prompt):
    draw = torch.Generator().manual_seed(4)
    tokens, length, width = 2, 6, 4
    for padding in ((0,), (0, 1, 3)):
        rows = len(padding)
        prompt = torch.randn(tokens, width, generator=draw).requires_grad_()
        embedded = torch.randn(rows, length, width, generator=draw)
        mask = (torch.arange(length) >= torch.tensor(padding)[:, None]).long()
        labels = torch.full((rows, length), -100)
        labels[:, -2:] = torch.randint(5, 90, (rows, 2), generator=draw)
        given = [prompt, embedded, mask, labels]
        before = [tensor.detach().clone() for tensor in given]
        found = _made(with_prompt, given, rows)
        if not all(torch.equal(tensor, old) for tensor, old in zip(given, before, strict=True)):
            raise Wrong(en="the tensors that were handed in have changed", zh="传入的张量被改动了")
        _expects(found, prompt, embedded, mask, labels)


def _made(with_prompt, given: list[torch.Tensor], rows: int) -> Mapping:
    """The learner's batch; an error on several rows alone gets a reason of its own."""
    try:
        found = with_prompt(*given)
    except Wrong as wrong:
        if rows == 1:
            raise
        raise Wrong(
            en=f"it fails on a batch of {rows} rows: each needs the prompt in front of it ({wrong.en})",
            zh=f"一批有 {rows} 行时出错：每一行前面都要有提示（{wrong.zh}）",
        ) from None
    names = ("inputs_embeds", "attention_mask", "position_ids", "labels")
    if not isinstance(found, Mapping) or set(found) != set(names):
        has = ", ".join(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
        raise Wrong(
            en=f"a dictionary with the keys {', '.join(names)} is needed, this has: {has}",
            zh=f"需要一个以 {', '.join(names)} 为键的字典，得到的是：{has}",
        )
    return found


def _expects(found: Mapping, prompt, embedded, mask, labels) -> None:
    """Raises unless the four parts are those of [prompt; row], with positions that do not count the padding."""
    (rows, length, width), tokens = embedded.shape, len(prompt)
    total, in_front = (rows, tokens + length), prompt.detach().expand(rows, -1, -1)
    inputs, longer = found["inputs_embeds"], torch.cat([mask.new_ones(rows, tokens), mask], dim=1)
    _tensor(inputs, (*total, width), "inputs_embeds")
    if _same(inputs, torch.cat([embedded, in_front], dim=1)):
        raise Wrong(
            en="the prompt stands behind the question; it belongs in front", zh="提示放到了问题后面；应放在前面"
        )
    if not _same(inputs, torch.cat([in_front, embedded], dim=1)):
        raise Wrong(
            en="inputs_embeds is not, in each row, the prompt and then the row as it came",
            zh="inputs_embeds 的每一行，都应先是提示，再是原来的内容",
        )
    _reaches(inputs, [prompt], en="the prompt", zh="提示")
    grad = torch.autograd.grad(inputs.sum(), prompt)[0]
    if not torch.allclose(grad, torch.full_like(grad, rows)):
        raise Wrong(
            en="the prompt does not get the gradient of every row: it is to be the same tensor in each",
            zh="提示没有收到每一行的梯度：各行用的应是同一个张量",
        )
    _expects_mask(found["attention_mask"], longer, tokens)
    _expects_positions(found["position_ids"], longer, tokens)
    _expects_labels(found["labels"], labels, tokens)


def _expects_mask(found, longer: torch.Tensor, tokens: int) -> None:
    _tensor(found, tuple(longer.shape), "attention_mask")
    if not found[:, :tokens].all():
        raise Wrong(
            en="the mask hides the prompt or a part of it: nobody could read it",
            zh="掩码把提示（或它的一部分）遮住了：谁也读不到它",
        )
    if not _same(found, longer):
        raise Wrong(
            en="behind the prompt the mask is to be the one that was given: the padding stays hidden, the rest is read",
            zh="提示之后的掩码应与传入的相同：填充仍要遮住，其余都要读到",
        )


def _expects_positions(found, longer: torch.Tensor, tokens: int) -> None:
    real, expected = longer.bool(), longer.cumsum(1) - 1
    counted = torch.arange(longer.shape[1]).expand_as(longer)
    if isinstance(found, torch.Tensor) and found.shape[-1:] == counted.shape[-1:] and not longer.all():
        if found.ndim <= 2 and torch.equal(found.expand_as(counted), counted):
            raise Wrong(
                en="the positions count the padding: in a batch the question is further from the prompt than alone",
                zh="位置编号把填充数了进去：同一个问题放在批次里，就比单独问时离提示更远",
            )
    _tensor(found, tuple(longer.shape), "position_ids")
    if found.is_floating_point():
        raise Wrong(en="positions are whole numbers", zh="位置编号应是整数")
    if torch.equal(found[real], expected[real]):
        return
    if torch.equal(found[real], expected[real] + 1):
        raise Wrong(en="positions begin at 0, not at 1", zh="位置编号从 0 开始，不是从 1 开始")
    behind = real[:, tokens:]
    if torch.equal(found[:, tokens:][behind], (expected[:, tokens:] - tokens)[behind]):
        raise Wrong(
            en="the question begins at 0, as if there were no prompt: count over the longer mask",
            zh="问题的编号又从 0 开始，好像前面没有提示：应按加长后的掩码来数",
        )
    raise Wrong(
        en="the positions are not 0, 1, 2, ... over the prompt and the tokens of the row that the mask shows",
        zh="提示和掩码没有遮住的词元，位置编号应依次是 0、1、2……",
    )


def _expects_labels(found, labels: torch.Tensor, tokens: int) -> None:
    _tensor(found, (len(labels), tokens + labels.shape[1]), "labels")
    if found.is_floating_point():
        raise Wrong(en="labels are whole numbers, the ids of tokens", zh="标签应是整数，即词元的编号")
    if not (found[:, :tokens] == -100).all():
        raise Wrong(
            en="the prompt has a label: the loss ignores -100 and nothing else",
            zh="提示有了标签：损失只忽略 -100，不认别的",
        )
    if not torch.equal(found[:, tokens:], labels):
        raise Wrong(
            en="behind the prompt the labels are to be those that were given",
            zh="提示之后的标签应与传入的相同",
        )


@checker("prefix_parameters")
def _(prefix_parameters):
    for tokens, layers, heads, head_dim in ((20, 4, 2, 32), (1, 1, 1, 1), (10, 24, 2, 64), (7, 3, 5, 11)):
        right, given = 2 * tokens * layers * heads * head_dim, prefix_parameters(tokens, layers, heads, head_dim)
        if isinstance(given, bool) or not isinstance(given, numbers.Real):
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
        raise Wrong(
            en=f"for {where} it is not {given}: each virtual token has, in each layer, a key and a value of head_dim "
            "numbers for each key-value head",
            zh=f"{where} 时不是 {given}：每个虚拟词元在每一层、每个 key-value 头上，各有 head_dim 个数的 key 和 value",
        )


@checker("better_place")
def _(better_place):
    if not isinstance(better_place, str) or better_place not in ("attention", "feedforward"):
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
        kept = weight.clone(), factors.clone()
        merged = merged_ia3(weight, factors, feedforward)
        kind = ("down_proj", "input", "输入") if feedforward else ("k_proj", "output", "输出")
        if not isinstance(merged, torch.Tensor) or merged.shape != (outputs, inputs):
            raise Wrong(
                en="the merged weight is a tensor of the weight's shape, (out, in)",
                zh="合并后的权重应是与原权重同形的张量 (out, in)",
            )
        if not torch.allclose(x @ merged.to(x.dtype).T, wanted, atol=1e-5):
            raise Wrong(
                en=f"{kind[0]}: the merged layer differs; its factors multiply the {kind[1]}",
                zh=f"{kind[0]}：合并后的层与原来不一致；它的系数乘在{kind[2]}上",
            )
        if not (torch.equal(weight, kept[0]) and torch.equal(factors, kept[1])):
            raise Wrong(
                en="the weight or the factors that were given are changed in place: a second merge would go wrong",
                zh="传入的权重或系数被就地修改了：再合并一次就会出错",
            )
