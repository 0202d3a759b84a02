"""The exercise checkers of lesson 06."""

import math
import numbers

import numpy as np
import torch

from tunelab.exercises import Wrong, checker, expect_close


@checker("lion")
def _(lion):
    torch.manual_seed(0)
    weight, gradient, mean = torch.randn(3, 4, 5).double()
    kept = [tensor.clone() for tensor in (weight, gradient, mean)]

    def step(**settings):
        result = lion(weight, gradient, mean, **settings)
        if (
            not isinstance(result, tuple | list)
            or len(result) != 2
            or not all(isinstance(one, torch.Tensor) and one.shape == weight.shape for one in result)
        ):
            raise Wrong(
                en="two tensors of the weight's shape are needed: the new weight, the new mean",
                zh="需要返回两个与权重同形的张量：新权重、新均值",
            )
        if not all(torch.equal(a, b) for a, b in zip(kept, (weight, gradient, mean), strict=True)):
            raise Wrong(
                en="an argument was changed in place: return new tensors, without += and without methods that end in _",
                zh="有参数被就地修改了：请返回新的张量，不要用 +=，也不要用以 _ 结尾的方法",
            )
        return result

    moved, _ = step(lr=0.1, betas=(0.5, 0.5))
    expect_close(
        abs(moved - weight),
        torch.full((4, 5), 0.1).double(),
        en="without decay every weight moves by exactly the rate: take the sign",
        zh="没有衰减时，每个权重恰好移动一个学习率：取符号",
    )
    expect_close(
        moved,
        weight - 0.1 * torch.sign(mean + gradient),
        en="the step goes downhill, by the sign of the mixture",
        zh="应按混合量的符号往下坡走",
    )
    moved, fresh = step(lr=0.1, betas=(0.9, 0.2))
    expect_close(
        fresh,
        0.2 * mean + 0.8 * gradient,
        en="the new mean is made with betas[1], of the gradient itself",
        zh="新均值用 betas[1]，由梯度本身算出",
    )
    expect_close(
        moved,
        weight - 0.1 * torch.sign(0.9 * mean + 0.1 * gradient),
        en="the step uses the old mean and betas[0]",
        zh="迈步用旧的均值和 betas[0]",
    )
    moved, _ = step(lr=0.3, betas=(0.9, 0.99), weight_decay=0.5)
    expect_close(
        moved,
        weight - 0.3 * (torch.sign(0.9 * mean + 0.1 * gradient) + 0.5 * weight),
        en="the decay stands beside the sign, and the rate multiplies both",
        zh="衰减与符号并列，两者都乘学习率",
    )


@checker("largest_rates")
def _(largest_rates):
    if not isinstance(largest_rates, dict) or set(largest_rates) != {0.0, 0.9}:
        raise Wrong(en="a dictionary is needed: {0.0: rate, 0.9: rate}", zh="需要一个字典：{0.0: 学习率, 0.9: 学习率}")
    for momentum, rate in largest_rates.items():
        if not isinstance(rate, int | float) or isinstance(rate, bool) or not math.isfinite(rate):
            raise Wrong(
                en=f"the rates are numbers of RATES, this is {rate!r}", zh=f"学习率应是 RATES 中的数，得到的是 {rate!r}"
            )
        if abs(rate / 0.005 - round(rate / 0.005)) > 1e-6 or not 0.02 <= rate <= 0.115:
            raise Wrong(en=f"{rate} is not one of RATES", zh=f"{rate} 不在 RATES 之中")
        if not _arrives(rate, momentum):
            raise Wrong(
                en=f"with momentum {momentum}, {rate} does not arrive", zh=f"动量为 {momentum} 时，{rate} 走不到"
            )
        if _arrives(rate + 0.005, momentum):
            raise Wrong(
                en=f"with momentum {momentum}, a larger one still arrives",
                zh=f"动量为 {momentum} 时，还有更大的也能走到",
            )


def _arrives(rate: float, momentum: float) -> bool:
    """Whether SGD ends below 0.01 in the valley of steepness 1 along and 40 across, from (-4, 1), within 300 steps."""
    point, velocity, steepness = torch.tensor([-4.0, 1.0]).double(), torch.zeros(2).double(), torch.tensor([1.0, 40.0])
    for _ in range(300):
        velocity = momentum * velocity + steepness * point
        point = point - rate * velocity
    return bool((steepness * point**2).sum() / 2 < 0.01)


@checker("users_needed")
def _(users_needed):
    for p, q, power, right in (
        (0.70, 0.75, 0.8, 1251),
        (0.75, 0.70, 0.8, 1251),
        (0.5, 0.6, 0.9, 519),
        (0.1, 0.2, 0.8, 199),
    ):
        found = users_needed(p, q, power)
        if isinstance(found, bool) or not isinstance(found, int | np.integer):
            raise Wrong(
                en=f"a number of users is a whole number, this is {type(found).__name__} {found!r}: round up, and make it an int",
                zh=f"用户数应是整数，得到的是 {type(found).__name__} {found!r}：向上取整，再转成 int",
            )
        if found == right + 1:
            raise Wrong(
                en=f"for {p} and {q} at power {power} {found} is one user more than needed: round up, and add nothing",
                zh=f"{p} 对 {q}、功效 {power} 时，{found} 比需要的多一位：向上取整即可，不要再加",
            )
        if abs(found - right) > 1:
            more = found > right
            raise Wrong(
                en=f"for {p} and {q} at power {power} your {found} users are too {'many' if more else 'few'}: both quantiles and both "
                "spreads belong under the square, and users are counted a side",
                zh=f"{p} 对 {q}、功效 {power} 时，{found} 位用户太{'多' if more else '少'}了：两个分位数、两个标准差都在平方之内，而且按每边计",
            )
        if found < right:
            raise Wrong(
                en=f"{found} users fall just short of the power: round up", zh=f"{found} 位用户差一点不够：要向上取整"
            )


@checker("paired_interval")
def _(paired_interval):
    rng = np.random.default_rng(7)
    first = (rng.random(400) < 0.5).astype(float)  # a question is hard for both systems, or for neither
    second = first.copy()
    second[np.flatnonzero(first)[:30]], second[np.flatnonzero(first == 0)[:6]] = 0, 1  # but for a few
    before = first.sum(), second.sum()
    gaps = first - second
    spread, gap = gaps.std() / np.sqrt(len(gaps)), gaps.mean()
    rng = np.random.default_rng(1)
    unused = rng.bit_generator.state
    low, high = _ends(paired_interval(first, second, rng))
    if high < gap < low:
        raise Wrong(en="the order is (low, high)", zh="次序应为 (low, high)")
    if not low < gap < high:
        raise Wrong(
            en="the interval does not hold the mean difference of first - second: look at the sign, and at what is averaged",
            zh="区间不包含 first - second 的平均差：检查正负号，以及对什么求平均",
        )
    ratio = (high - low) / (2 * 1.96 * spread)
    if ratio > 1.12:
        raise Wrong(
            en="too wide: the same drawn rows must serve both systems, so that what makes a question hard cancels; "
            "draw as many rows as there are questions, and end at the quantiles 0.025 and 0.975",
            zh="太宽：两个系统要用同样的抽样行，题目难度才会抵消；抽取的行数要与题数相同，两端取 0.025 和 0.975 分位数",
        )
    if ratio < 0.9:
        raise Wrong(
            en="too narrow: draw as many rows as there are questions, with replacement, and take the quantiles "
            "0.025 and 0.975 of the means",
            zh="太窄：要有放回地抽取与题数相同的行，再取均值的 0.025 和 0.975 分位数",
        )
    if (first.sum(), second.sum()) != before:
        raise Wrong(
            en="the scores that were given are changed in place: first - second makes a new array, -= does not",
            zh="传入的得分被就地修改了：first - second 得到新数组，-= 则不会",
        )
    if rng.bit_generator.state == unused:
        raise Wrong(
            en="nothing was drawn with rng: a bootstrap draws rows, and with the generator that was given",
            zh="没有用 rng 抽样：自助法要抽取行，而且要用传入的随机数生成器",
        )
    low, high = _ends(paired_interval(first, second, rng, resamples=1))
    if low != high:
        raise Wrong(
            en="with resamples=1 there is one mean, so both ends are equal: draw `resamples` times",
            zh="resamples=1 时只有一个均值，两端应相等：要抽 resamples 次",
        )
    ends = _ends(paired_interval(np.array([0.0, 1.0]), np.zeros(2), rng))
    if not np.allclose(ends, (0, 1)):
        raise Wrong(
            en=f"for the gaps 0 and 1 the interval is (0, 1), yours is ({ends[0]:g}, {ends[1]:g}): every question may be "
            "drawn, the last one too, for rng.integers(0, n) ends at n - 1",
            zh=f"差为 0 和 1 时区间应是 (0, 1)，你的是 ({ends[0]:g}, {ends[1]:g})：每道题都可能抽到，最后一题也不例外，"
            "rng.integers(0, n) 取到 n - 1 为止",
        )


def _ends(found) -> tuple[float, float]:
    """Both ends of the learner's interval as numbers."""
    try:
        low, high = (float(found[place]) for place in range(len(found)))
    except (TypeError, ValueError, LookupError):
        raise Wrong(
            en=f"two numbers are needed, (low, high), this is {type(found).__name__}",
            zh=f"需要两个数 (low, high)，得到的是 {type(found).__name__}",
        ) from None
    return low, high


@checker("step_work")
def _(step_work):
    for layers, frozen in ((4, 2), (12, 0), (12, 12), (24, 6), (5, 4)):
        right, given = (3 * layers - 2 * frozen) / (3 * layers), step_work(layers, frozen)
        if isinstance(given, bool) or not isinstance(given, numbers.Real):
            raise Wrong(
                en=f"the work is a number, this is {type(given).__name__}",
                zh=f"应返回一个数，得到的是 {type(given).__name__}",
            )
        if abs(given - right) <= 1e-9:
            continue
        where = f"layers={layers}, frozen={frozen}"
        if abs(given - (layers - frozen) / layers) <= 1e-9:
            raise Wrong(
                en=f"{where}: the forward pass still runs through the frozen layers",
                zh=f"{where}：前向传播仍然要经过冻结的层",
            )
        if abs(given - (3 * layers - frozen) / (3 * layers)) <= 1e-9:
            raise Wrong(
                en=f"{where}: below the border no gradient has to be passed down either; that is LoRA's bill, not this one",
                zh=f"{where}：边界以下连往下传的梯度也不需要；你算的是 LoRA 的账",
            )
        if (
            abs(given - 3 * right) <= 1e-9
            or abs(given - layers * right) <= 1e-9
            or abs(given - 3 * layers * right) <= 1e-9
        ):
            raise Wrong(
                en=f"{where}: relative to the step that trains all layers, which is 1.0",
                zh=f"{where}：要除以训练全部层的那一步，它是 1.0",
            )
        raise Wrong(
            en=f"for {where} it is not {float(given):g}: every layer goes forward, the trained ones alone do the "
            "other two thirds; a share of 1, not rounded",
            zh=f"{where} 时不是 {float(given):g}：每层都做前向，另外两份只有训练的层才做；以 1 为全部，不要四舍五入",
        )


@checker("unfreeze")
def _(unfreeze):
    torch.manual_seed(6)
    low, top = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)
    low.requires_grad_(False)
    optimizer = torch.optim.AdamW(top.parameters(), lr=0.1, weight_decay=0.0)

    def step():
        top(torch.tanh(low(torch.ones(2, 3)))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def weights():
        return [weight.detach().clone() for weight in (low.weight, top.weight)]

    step()
    returned = unfreeze(optimizer, list(low.parameters()), 0.01)
    if returned is not optimizer:
        raise Wrong(
            en="return the optimizer that was given: a new one has forgotten the state of the top layer",
            zh="要返回传入的优化器：新建一个，顶层的状态就丢了",
        )
    if not low.weight.requires_grad:
        raise Wrong(
            en="the layer still requires no gradient: autograd has to be told as well",
            zh="这一层仍然不需要梯度：autograd 那边也要放开",
        )
    before = weights()
    try:
        step()
    except Exception as error:  # a group that was put together by hand lacks the optimizer's settings
        raise Wrong(
            en=f"the optimizer's next step fails ({type(error).__name__}: {error}): "
            "let optimizer.add_param_group add the group",
            zh=f"优化器的下一步出错了（{type(error).__name__}: {error}）：请用 optimizer.add_param_group 来加参数组",
        ) from None
    moved = [(now - old).abs().max().item() for now, old in zip(weights(), before, strict=True)]
    if moved[0] == 0:
        raise Wrong(
            en="the layer does not move: the optimizer has never heard of its weights",
            zh="这一层没有动：优化器根本不知道有这些权重",
        )
    if not 0.005 <= moved[0] <= 0.015:
        raise Wrong(
            en=f"asked to join at rate 0.01, its first step was {moved[0]:.3g}; the group needs a rate of its own",
            zh=f"要求以学习率 0.01 加入，第一步却走了 {moved[0]:.3g}；参数组要有自己的学习率",
        )
    if optimizer.param_groups[0]["lr"] != 0.1 or len(optimizer.param_groups[0]["params"]) != 2:
        raise Wrong(
            en="the top layer's own group has changed; leave it as it was",
            zh="顶层自己的参数组被改动了；应保持原样",
        )
    if int(optimizer.state[top.weight]["step"]) != 2:
        raise Wrong(
            en="the top layer's state was thrown away: its step counter began anew",
            zh="顶层的状态被丢掉了：步数计数器重新开始了",
        )
    try:
        unfreeze(optimizer, list(low.parameters()), 0.01)
    except Wrong as error:
        raise Wrong(
            en=f"a layer that has joined before must not break it ({error.en})",
            zh=f"已经加入过的层再来一次，不应出错（{error.zh}）",
        ) from None
    if sum(len(group["params"]) for group in optimizer.param_groups) != 4:
        raise Wrong(
            en="each weight belongs in the optimizer once: four weights here, two of each layer",
            zh="每个权重在优化器里只应出现一次：这里共四个，每层两个",
        )
    if not all(weight.requires_grad for weight in top.parameters()):
        raise Wrong(
            en="the top layer no longer requires a gradient: leave the others as they were",
            zh="顶层不再需要梯度了：其他层要保持原样",
        )
    fresh = torch.nn.Linear(3, 3)  # was never frozen, and the optimizer has never heard of it
    unfreeze(optimizer, list(fresh.parameters()), 0.01)
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    if not held >= {id(weight) for weight in fresh.parameters()}:
        raise Wrong(
            en="a layer that required a gradient already, and that the optimizer does not have, must join as well: ask "
            "optimizer.param_groups",
            zh="有一层本来就需要梯度，而优化器里没有它，也应当加入：要查 optimizer.param_groups",
        )
