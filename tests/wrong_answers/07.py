"""Wrong answers to the exercises of lesson 07; every one must be refused with a reason."""

import numpy as np
import torch
from torch import nn


def _in_place(weight, lora_A, lora_B, r, alpha):
    weight += alpha / r * (lora_B @ lora_A)
    return weight


def _colleague(weight, lora_A, lora_B, r, alpha):
    weight += lora_A.T @ lora_B.T
    return weight


class _Right(nn.Module):
    """A right layer: each wrong one below differs from it in one thing."""

    def __init__(self, base, r, alpha):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(r, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r))
        self.scale = alpha / r

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.lora_A.T @ self.lora_B.T)


class AlphaIgnored(_Right):
    def forward(self, x):
        return self.base(x) + x @ self.lora_A.T @ self.lora_B.T


class ScaledTwice(_Right):
    def forward(self, x):
        return self.base(x) + self.scale * (self.scale * x @ self.lora_A.T) @ self.lora_B.T


class Swapped(_Right):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        self.lora_A = nn.Parameter(torch.randn(base.in_features, r))
        self.lora_B = nn.Parameter(torch.zeros(r, base.out_features))

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.lora_A @ self.lora_B)


class BaseNotFrozen(_Right):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        self.base.requires_grad_(True)

    def forward(self, x):
        return super().forward(x)


class BiasNotFrozen(_Right):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        self.base.bias.requires_grad_(True)

    def forward(self, x):
        return super().forward(x)


class BothZero(_Right):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        nn.init.zeros_(self.lora_A)

    def forward(self, x):
        return super().forward(x)


class BothRandom(_Right):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        nn.init.normal_(self.lora_B)

    def forward(self, x):
        return super().forward(x)


class WithoutBase(_Right):
    def forward(self, x):
        return self.scale * (x @ self.lora_A.T @ self.lora_B.T)


class WithoutGradient(_Right):
    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.lora_A.detach().T @ self.lora_B.T)


class MergedByItself(_Right):
    def forward(self, x):
        with torch.no_grad():
            self.base.weight += self.scale * self.lora_B @ self.lora_A
        return self.base(x)


class RoundedDown(_Right):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        self.scale = alpha // r

    def forward(self, x):
        return super().forward(x)


class NeedsABias(_Right):
    def forward(self, x):
        return x @ self.base.weight.T + self.base.bias + self.scale * (x @ self.lora_A.T @ self.lora_B.T)


class BaseWithoutGradient(_Right):
    def forward(self, x):
        with torch.no_grad():
            plain = self.base(x)
        return plain + self.scale * (x @ self.lora_A.T @ self.lora_B.T)


class InputDetached(_Right):
    def forward(self, x):
        return self.base(x) + self.scale * (x.detach() @ self.lora_A.T @ self.lora_B.T)


class RowsAlone(_Right):
    def forward(self, x):
        return self.base(x) + self.scale * (self.lora_B @ (self.lora_A @ x.T)).T


class NoFactors(_Right):
    def __init__(self, base, r, alpha):
        super().__init__(base, r, alpha)
        del self.lora_B

    def forward(self, x):
        return self.base(x)


WRONG = {
    "largest_rank": [
        ("equal counts as fewer", lambda d, k: d * k // (d + k)),
        ("not a whole number", lambda d, k: d * k / (d + k)),
        ("the largest rank there is", lambda d, k: min(d, k)),
        ("half the sum", lambda d, k: (d + k) // 2),
        ("half the smaller side", lambda d, k: min(d, k) // 2),
        ("rounded", lambda d, k: round(d * k / (d + k))),
    ],
    "alpha_at_32": [
        ("alpha / r kept", {"SGD": 64, "Adam": 64}),
        ("alpha kept for both", {"SGD": 16, "Adam": 16}),
        ("the optimizers mixed up", {"SGD": 16, "Adam": 32}),
        ("a quarter of alpha", {"SGD": 32, "Adam": 4}),
        ("one number", 16),
        ("one optimizer", {"SGD": 32}),
        ("the factors s", {"SGD": 1, "Adam": 0.5}),
        ("texts", {"SGD": "32", "Adam": "16"}),
        ("arrays", {"SGD": np.array([32, 32]), "Adam": np.array([16, 16])}),
    ],
    "merged_weight": [
        ("the colleague's version", _colleague),
        ("transposed and alpha ignored", lambda W, A, B, r, alpha: W + A.T @ B.T),
        ("alpha ignored", lambda W, A, B, r, alpha: W + B @ A),
        ("A and B swapped", lambda W, A, B, r, alpha: W + alpha / r * (A.T @ B.T)),
        ("scale applied twice", lambda W, A, B, r, alpha: W + (alpha / r) ** 2 * (B @ A)),
        ("in place", _in_place),
        ("the update alone", lambda W, A, B, r, alpha: alpha / r * (B @ A)),
        ("alpha times r", lambda W, A, B, r, alpha: W + alpha * r * (B @ A)),
        ("alpha // r", lambda W, A, B, r, alpha: W + alpha // r * (B @ A)),
        ("in half precision", lambda W, A, B, r, alpha: (W + alpha / r * (B @ A)).bfloat16()),
        ("not merged", lambda W, A, B, r, alpha: W.clone()),
    ],
    "lora_from_memory": [
        ("alpha ignored", AlphaIgnored),
        ("A and B swapped", Swapped),
        ("scale applied twice", ScaledTwice),
        ("base not frozen", BaseNotFrozen),
        ("bias not frozen", BiasNotFrozen),
        ("both factors zero", BothZero),
        ("both factors random", BothRandom),
        ("the base left out", WithoutBase),
        ("A cut off from the gradient", WithoutGradient),
        ("merges at every call", MergedByItself),
        ("no lora_B", NoFactors),
        ("alpha // r", RoundedDown),
        ("needs a bias", NeedsABias),
        ("no gradient through the base", BaseWithoutGradient),
        ("no gradient through A and B to the input", InputDetached),
        ("rows alone, no batches", RowsAlone),
        ("an object instead of the class", _Right(nn.Linear(2, 2), 1, 1)),
    ],
}
