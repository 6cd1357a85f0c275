"""Memory of data that are gone, as features: which to keep, and how to carry them over to another feature extractor.

Features z [n, ...] with labels c [n] of C classes; all functions work on shapes without contents too.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Absent = Literal["zero", "mean"]


def class_means(z: Tensor, c: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mean of each class [C, ...] (zeros for those without features), and how many features each has [C].

    >>> means, counts = class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 2]), 3)
    >>> means.flatten().tolist(), counts.tolist()
    ([2.0, 0.0, 5.0], [2.0, 0.0, 1.0])
    """
    counts = torch.zeros(classes, dtype=z.dtype, device=z.device).index_add(0, c, torch.ones_like(c, dtype=z.dtype))
    sums = torch.zeros((classes, *z.shape[1:]), dtype=z.dtype, device=z.device).index_add(0, c, z)
    return sums / counts.clamp(min=1).reshape(-1, *[1] * (z.dim() - 1)), counts


def nearest_to_means(z: Tensor, c: Tensor, classes: int, most: int, *, per_class: bool = True) -> Tensor:
    """Positions of the `most` features that lie nearest to the mean of their own class, nearest first.

    Arguments:
        per_class: take the nearest of every class in turn, so that a class with few features keeps them; else whoever is nearest.

    >>> z, c = torch.tensor([[0.0], [1.0], [2.0], [9.0], [5.0], [11.0]]), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> nearest_to_means(z, c, 2, 3, per_class=False).tolist(), nearest_to_means(z, c, 2, 4).tolist()     # means 1 and 25/3
    ([1, 3, 0], [1, 3, 0, 5])
    """
    means, _ = class_means(z, c, classes)
    order = torch.argsort((z - means[c]).flatten(1).square().sum(1), stable=True)
    if per_class:
        ranks = (c[order, None] == torch.arange(classes, device=c.device)).cumsum(0).gather(1, c[order, None]).flatten()
        order = order[torch.argsort(ranks, stable=True)]
    return order[:most]


def drift(old: Tensor, new: Tensor, c: Tensor, classes: int, *, absent: Absent = "zero") -> Tensor:
    """How far each class's mean has moved from one extractor's features to another's of the same samples, [C, ...].

    Arguments:
        old, new: features of the same samples.
        absent: what classes without samples get: "zero", or the "mean" drift of the others.

    >>> drift(torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [5.0]]), torch.tensor([0, 1]), 3, absent="mean").flatten().tolist()
    [1.0, 3.0, 2.0]
    """
    before, counts = class_means(old, c, classes)
    moved = class_means(new, c, classes)[0] - before
    if absent == "zero":
        return moved
    there = (counts > 0).reshape(-1, *[1] * (old.dim() - 1))
    return torch.where(there, moved, moved.sum(0, keepdim=True) / there.sum().clamp(min=1))
