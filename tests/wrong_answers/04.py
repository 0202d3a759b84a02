"""Wrong answers to the exercises of lesson 04; every one must be refused with a reason."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import gelu, relu


def added(scale, product=lambda A, B: B @ A):
    """A sum of the adapters with another factor or another product."""

    def several_loras(weight, adapters):
        return weight + sum(scale(alpha, A, B) * product(A, B) for A, B, alpha in adapters)

    return several_loras


def of_the_first_rank(weight, adapters):
    return weight + sum(alpha / len(adapters[0][0]) * (B @ A) for A, B, alpha in adapters)


def colleague(weight, adapters):
    for A, B, alpha in adapters:
        weight += (alpha / len(B) * (B @ A)).detach()
    return weight


def added_in_place(weight, adapters):
    for A, B, alpha in adapters:
        weight += (alpha / len(A) * (B @ A)).detach()
    return weight


def factors_scaled_in_place(weight, adapters):
    with torch.no_grad():
        for A, B, alpha in adapters:
            B *= alpha / len(A)
    return weight + sum(B @ A for A, B, _ in adapters)


def the_last_alone(weight, adapters):
    merged = weight
    for A, B, alpha in adapters:
        merged = weight + alpha / len(A) * (B @ A)
    return merged


def averaged(weight, adapters):
    return weight + sum(alpha / len(A) * (B @ A) for A, B, alpha in adapters) / max(len(adapters), 1)


def never_trained(weight, adapters):
    return weight + sum(alpha / len(A) * (B.detach() @ A.detach()) for A, B, alpha in adapters)


class _Right(nn.Module):
    """A right adapter: each wrong one below differs from it in one thing."""

    def __init__(self, width, bottleneck):
        super().__init__()
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h):
        return h + self.up(gelu(self.down(h)))


class NoResidual(_Right):
    def forward(self, h):
        return self.up(gelu(self.down(h)))


class NoResidualRandomUp(NoResidual):
    def __init__(self, width, bottleneck):
        super().__init__(width, bottleneck)
        self.up.reset_parameters()


class ResidualTwice(_Right):
    def forward(self, h):
        return h + h + self.up(gelu(self.down(h)))


class Linear(_Right):
    def forward(self, h):
        return h + self.up(self.down(h))


class GeluBehindUp(_Right):
    def forward(self, h):
        return h + gelu(self.up(self.down(h)))


class GeluBeforeDown(_Right):
    def forward(self, h):
        return h + self.up(self.down(gelu(h)))


class GeluOverAll(_Right):
    def forward(self, h):
        return gelu(h + self.up(self.down(h)))


class Relu(_Right):
    def forward(self, h):
        return h + self.up(relu(self.down(h)))


class ByTanh(_Right):
    def forward(self, h):
        return h + self.up(gelu(self.down(h), approximate="tanh"))


class RandomUp(_Right):
    def __init__(self, width, bottleneck):
        super().__init__(width, bottleneck)
        self.up.reset_parameters()


class RandomBias(_Right):
    def __init__(self, width, bottleneck):
        super().__init__(width, bottleneck)
        nn.init.ones_(self.up.bias)


class AllZero(_Right):
    def __init__(self, width, bottleneck):
        super().__init__(width, bottleneck)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)


class NoBias(_Right):
    def __init__(self, width, bottleneck):
        super().__init__(width, bottleneck)
        self.down = nn.Linear(width, bottleneck, bias=False)


class SwappedShapes(_Right):
    def __init__(self, width, bottleneck):
        super().__init__(width, bottleneck)
        self.down, self.up = self.up, self.down


class DownFrozen(_Right):
    def __init__(self, width, bottleneck):
        super().__init__(width, bottleneck)
        self.down.requires_grad_(False)


class ExtraScale(_Right):
    def __init__(self, width, bottleneck):
        super().__init__(width, bottleneck)
        self.scale = nn.Parameter(torch.ones(1))


class InPlace(_Right):
    def forward(self, h):
        h += self.up(gelu(self.down(h)))
        return h


class InputDetached(_Right):
    def forward(self, h):
        return h + self.up(gelu(self.down(h.detach())))


class ResidualDetached(_Right):
    def forward(self, h):
        return h.detach() + self.up(gelu(self.down(h)))


class InsideDetached(_Right):
    def forward(self, h):
        return h + self.up(gelu(self.down(h)).detach())


class NoProjections(nn.Module):
    def forward(self, h):
        return h


def right_batch(prompt, embedded, mask, labels):
    """A right batch: each wrong one below differs from it in one thing."""
    rows, tokens = len(embedded), len(prompt)
    longer = torch.cat([mask.new_ones(rows, tokens), mask], dim=1)
    return {
        "inputs_embeds": torch.cat([prompt.expand(rows, -1, -1), embedded], dim=1),
        "attention_mask": longer,
        "position_ids": longer.cumsum(1) - 1,
        "labels": torch.cat([labels.new_full((rows, tokens), -100), labels], dim=1),
    }


def but(**parts):
    """The right batch with other parts; each part is a function of what was handed in."""

    def with_prompt(prompt, embedded, mask, labels):
        given = (prompt, embedded, mask, labels)
        return right_batch(*given) | {name: part(*given) for name, part in parts.items()}

    return with_prompt


def in_front(part, rows, tokens, value):
    return torch.cat([part.new_full((rows, tokens), value), part], dim=1)


def positions_of_the_row(prompt, embedded, mask, labels):
    row = (mask.cumsum(1) - 1).clamp(min=0)
    return torch.cat([torch.arange(len(prompt)).expand(len(mask), -1), row], dim=1)


def first_row_alone(prompt, embedded, mask, labels):
    others = torch.zeros(len(embedded) - 1, *prompt.shape)
    return torch.cat([torch.cat([prompt[None], others]), embedded], dim=1)


def one_row_trained(prompt, embedded, mask, labels):
    others = prompt.detach().expand(len(embedded) - 1, -1, -1)
    return torch.cat([torch.cat([prompt[None], others]), embedded], dim=1)


def padding_moved(prompt, embedded, mask, labels):
    rows = [torch.cat([row[m == 0], prompt, row[m == 1]]) for row, m in zip(embedded, mask, strict=True)]
    return torch.stack(rows)


def mask_in_place(prompt, embedded, mask, labels):
    made = right_batch(prompt, embedded, mask, labels)
    mask.fill_(1)
    return made


def prompt_in_place(prompt, embedded, mask, labels):
    prompt.data.mul_(0.5)
    return right_batch(prompt, embedded, mask, labels)


def labels_dropped(prompt, embedded, mask, labels):
    made = right_batch(prompt, embedded, mask, labels)
    del made["labels"]
    return made


def in_place(weight, factors, feedforward):
    weight *= factors if feedforward else factors[:, None]
    return weight


def factors_in_place(weight, factors, feedforward):
    return weight * (factors if feedforward else factors.unsqueeze_(1))


WRONG = {
    "several_loras": [
        ("the colleague's", colleague),
        ("no scale", added(lambda alpha, A, B: 1)),
        ("times r", added(lambda alpha, A, B: alpha * len(A))),
        ("alpha alone", added(lambda alpha, A, B: alpha)),
        ("the outputs for the rank", added(lambda alpha, A, B: alpha / len(B))),
        ("rounded down", added(lambda alpha, A, B: alpha // len(A))),
        ("the root of r", added(lambda alpha, A, B: alpha / len(A) ** 0.5)),
        ("A and B swapped", added(lambda alpha, A, B: alpha / len(A), lambda A, B: A @ B)),
        ("transposed", added(lambda alpha, A, B: alpha / len(A), lambda A, B: A.T @ B.T)),
        ("one rank for all", of_the_first_rank),
        ("the last alone", the_last_alone),
        ("averaged", averaged),
        ("without W", lambda weight, adapters: added(lambda alpha, A, B: alpha / len(A))(0 * weight, adapters)),
        ("W alone", lambda weight, adapters: weight.clone()),
        ("in place", added_in_place),
        ("factors in place", factors_scaled_in_place),
        ("no gradient", never_trained),
        ("a number", lambda weight, adapters: 1.0),
    ],
    "adapter_from_memory": [
        ("no residual", NoResidual),
        ("no residual, random up", NoResidualRandomUp),
        ("residual twice", ResidualTwice),
        ("no GELU", Linear),
        ("GELU behind up", GeluBehindUp),
        ("GELU before down", GeluBeforeDown),
        ("GELU over all", GeluOverAll),
        ("ReLU", Relu),
        ("GELU by tanh", ByTanh),
        ("random up", RandomUp),
        ("bias not zero", RandomBias),
        ("all zero", AllZero),
        ("no bias", NoBias),
        ("shapes swapped", SwappedShapes),
        ("down frozen", DownFrozen),
        ("one parameter more", ExtraScale),
        ("in place", InPlace),
        ("input detached", InputDetached),
        ("residual detached", ResidualDetached),
        ("inside detached", InsideDetached),
        ("no projections", NoProjections),
        ("an object", _Right(6, 4)),
        ("a function", lambda h: h),
    ],
    "with_prompt": [
        (
            "prompt behind the question",
            but(inputs_embeds=lambda p, e, m, y: torch.cat([e, p.expand(len(e), -1, -1)], dim=1)),
        ),
        ("no prompt", but(inputs_embeds=lambda p, e, m, y: e)),
        ("prompt not repeated", but(inputs_embeds=lambda p, e, m, y: torch.cat([p[None], e], dim=1))),
        ("prompt in the first row alone", but(inputs_embeds=first_row_alone)),
        ("prompt between the padding and the question", but(inputs_embeds=padding_moved)),
        (
            "prompt detached",
            but(inputs_embeds=lambda p, e, m, y: torch.cat([p.detach().expand(len(e), -1, -1), e], dim=1)),
        ),
        ("prompt trained by one row", but(inputs_embeds=one_row_trained)),
        ("mask not extended", but(attention_mask=lambda p, e, m, y: m)),
        ("mask zero over the prompt", but(attention_mask=lambda p, e, m, y: in_front(m, len(m), len(p), 0))),
        ("mask behind", but(attention_mask=lambda p, e, m, y: torch.cat([m, m.new_ones(len(m), len(p))], dim=1))),
        ("all is read", but(attention_mask=lambda p, e, m, y: m.new_ones(len(m), len(p) + m.shape[1]))),
        (
            "padding counted",
            but(position_ids=lambda p, e, m, y: torch.arange(len(p) + m.shape[1]).expand(len(m), -1)),
        ),
        ("padding counted, one row", but(position_ids=lambda p, e, m, y: torch.arange(len(p) + m.shape[1])[None])),
        ("prompt not counted", but(position_ids=positions_of_the_row)),
        ("from one", but(position_ids=lambda p, e, m, y: in_front(m, len(m), len(p), 1).cumsum(1))),
        ("positions not extended", but(position_ids=lambda p, e, m, y: m.cumsum(1) - 1)),
        ("positions not whole", but(position_ids=lambda p, e, m, y: in_front(m, len(m), len(p), 1).cumsum(1) - 1.0)),
        ("prompt labelled 0", but(labels=lambda p, e, m, y: in_front(y, len(y), len(p), 0))),
        ("labels not extended", but(labels=lambda p, e, m, y: y)),
        ("labels behind", but(labels=lambda p, e, m, y: torch.cat([y, y.new_full((len(y), len(p)), -100)], dim=1))),
        ("nothing to learn", but(labels=lambda p, e, m, y: y.new_full((len(y), len(p) + y.shape[1]), -100))),
        ("labels not whole", but(labels=lambda p, e, m, y: in_front(y.float(), len(y), len(p), -100))),
        ("mask changed in place", mask_in_place),
        ("prompt changed in place", prompt_in_place),
        ("no labels", labels_dropped),
        ("a tuple", lambda *given: tuple(right_batch(*given).values())),
    ],
    "prefix_parameters": [
        ("values forgotten", lambda tokens, layers, heads, head_dim: tokens * layers * heads * head_dim),
        ("one layer alone", lambda tokens, layers, heads, head_dim: tokens * 2 * heads * head_dim),
        ("queries, too", lambda tokens, layers, heads, head_dim: tokens * layers * 3 * heads * head_dim),
        ("heads forgotten", lambda tokens, layers, heads, head_dim: tokens * layers * 2 * head_dim),
        ("a text", lambda tokens, layers, heads, head_dim: str(2 * tokens * layers * heads * head_dim)),
    ],
    "better_place": [
        ("the other one", "attention"),
        ("the loss", 0.75),
        ("the name of a layer", "down_proj"),
        ("both", ["attention", "feedforward"]),
        ("an array", np.array(["feedforward", "attention"])),
    ],
    "merged_ia3": [
        ("always the input", lambda weight, factors, feedforward: weight * factors),
        ("always the output", lambda weight, factors, feedforward: weight * factors[:, None]),
        (
            "the wrong way round",
            lambda weight, factors, feedforward: weight * (factors[:, None] if feedforward else factors),
        ),
        ("added", lambda weight, factors, feedforward: weight + (factors if feedforward else factors[:, None])),
        ("in place", in_place),
        ("factors changed in place", factors_in_place),
        (
            "whole numbers",
            lambda weight, factors, feedforward: weight.mul(factors if feedforward else factors[:, None]).int(),
        ),
        ("the factors alone", lambda weight, factors, feedforward: factors),
    ],
}
