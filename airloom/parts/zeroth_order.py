"""Gradients from losses alone: how much the loss changes along random directions.

    g = (k / q) sum_l c_l v_l,   c_l = (F(x + mu v_l; xi) - F(x; xi)) / mu          (one mini-batch xi for all q + 1 evaluations)

`sphere`: v_l uniform on the unit sphere, k = d; unbiased for the gradient of F smoothed over a ball of radius mu. `gaussian`: v_l ~ N(0, I), k = 1;
unbiased for the gradient of F smoothed by N(0, mu^2 I). `authors`: Gaussian directions with k = d, as the authors' code has it: d times too long.

For a linear loss E||g||^2 = (1 + (d - 1)/q) ||grad F||^2 on the sphere, so that a good step shrinks with d/q.

Paper: Fang, Yu, Jiang et al., "Communication-Efficient Stochastic Zeroth-Order Optimization for Federated Learning", IEEE TSP 2022,
arXiv 2201.09531.
Symbols: x `x`, d trainable values, mu `mu`, q `directions`, v_l rows of `v`, c_l `slopes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from airloom.clock.rng import generator
from airloom.models.params import Params, zeros_like
from airloom.program.here import Here
from airloom.program.method import check_fields, ranged

Law = Literal["sphere", "gaussian", "authors"]


@dataclass(frozen=True, kw_only=True)
class LossDifference:
    """The estimator above.

    Arguments:
        mu: length of a probe (1e-3, authors' scripts). In float32 differences of less than about 1e-7 of the loss are lost.
        directions: q, probes per estimate (20, authors' scripts).
        law: of the directions.

    >>> from airloom.models import zoo
    >>> x = zoo.softmax_regression(inputs=4, classes=2).initial(seed=0)
    >>> estimate = LossDifference(mu=1e-3, directions=3, law="sphere")
    >>> v = estimate.draw(x, np.array([7]), step=0)
    >>> tuple(v.shape), round(float(v[0].norm()), 6), len(estimate.slopes(lambda y: y.norm(), x, v))
    ((3, 10), 1.0, 3)
    """

    mu: float = ranged(0, 1e3, default=1e-3, open_low=True)
    directions: int = ranged(1, 100_000, default=20)
    law: Law = "sphere"

    def __post_init__(self) -> None:
        check_fields(self)

    def draw(self, x: Params, seed: np.ndarray, step: int) -> Tensor:
        """Directions [q, d] of a local step, a function of (seed, step): whoever knows the seed has them too."""
        q, d = self.directions, x.spec.trainable_size
        if x.is_meta:
            return torch.empty((q, d), dtype=x.flat.dtype, device="meta")
        v = torch.from_numpy(generator(int(seed[0]), "directions", step).standard_normal((q, d), dtype=np.float32)).to(x.flat.dtype)
        return v / v.norm(dim=1, keepdim=True) if self.law == "sphere" else v

    def slopes(self, loss: Callable[[Params], Any], x: Params, v: Tensor) -> Tensor:
        """(k / q) c_l for every direction, [q], in the number format of `x`; `loss` is asked q + 1 times."""
        k = 1 if self.law == "gaussian" else x.spec.trainable_size
        at = [loss(x), *(loss(moved(x, self.mu * v_l)) for v_l in v)]
        f = torch.stack([torch.as_tensor(value, dtype=torch.float64) for value in at])
        return ((f[1:] - f[0]) * (k / (self.mu * self.directions))).to(x.flat.dtype)


def moved(x: Params, step: Tensor) -> Params:
    """x with its trainable values moved by `step` [d]; running statistics stay."""
    n = x.spec.trainable_size
    return Params(x.spec, x.flat + step if n == x.spec.size else torch.cat([x.flat[:n] + step, x.flat[n:]]))


def mean_estimate(here: Here, estimate: LossDifference, x: Params, seed: np.ndarray, count: int, batch_size: int) -> Params:
    """Mean of so many estimates of the gradient at x, each with a mini-batch and directions of its own."""
    g = x.flat.new_zeros(x.spec.trainable_size)
    for h in range(count):
        xi, v = here.batch(batch_size), estimate.draw(x, seed, h)
        g = g + estimate.slopes(lambda z, xi=xi: here.loss(z, xi), x, v) @ v
    return moved(zeros_like(x), g / count)
