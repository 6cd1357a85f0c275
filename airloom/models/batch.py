"""Samples with their labels, and the stacked batches that a training call goes through.

Shapes: B samples of a batch, S steps, N samples of a data set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from airloom.errors import ScenarioError

Inputs: TypeAlias = Tensor | dict[str, Tensor]

_GATHER_LIMIT_BYTES = 64 * 2**20  # ours: above this the batches are gathered step by step, not all at once


def map_inputs(f: Callable[[Tensor], Tensor], x: Inputs) -> Inputs:
    """Apply `f` to a tensor, or to each tensor of a dict."""
    return {k: f(v) for k, v in x.items()} if isinstance(x, dict) else f(x)


def first_tensor(x: Inputs) -> Tensor:
    """Return the tensor, or the first one of a dict: the one that tells how many samples there are."""
    return next(iter(x.values())) if isinstance(x, dict) else x


@final
@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some samples: inputs, labels, their ids in the data set, and optional weights.

    Arguments
    ---------
    x: tensor [B, ...], or a dict of such tensors (several modalities or parties).
    y: tensor [B, ...] of labels or targets.
    ids: tensor [B], int64, row numbers in the data set; None for samples that are rows of none.
    weight: tensor [B], or None for equal weights.
    classes: number of classes, if the labels are classes; fixes the length of `counts`.

    >>> b = Batch(torch.zeros(3, 2), torch.tensor([0, 2, 2]), classes=4)
    >>> len(b), b.counts.tolist()
    (3, [1, 0, 2, 0])
    """

    x: Inputs
    y: Tensor
    ids: Tensor | None = None
    weight: Tensor | None = None
    classes: int = 0

    def __len__(self) -> int:
        return first_tensor(self.x).shape[0]

    @property
    def counts(self) -> np.ndarray:
        """Samples per class, int64 [classes]; as long as the largest label asks for where `classes` was not given."""
        if self.y.is_floating_point():
            raise ScenarioError(f"Batch.counts: the labels are {self.y.dtype}, not classes; allowed: integer labels")
        return np.bincount(self.y.reshape(-1).cpu().numpy(), minlength=self.classes)

    @property
    def histogram(self) -> Tensor:
        """Samples per class as a value that a device may send, int32 [classes]; [1], how many samples, where labels are no classes.

        >>> Batch(torch.zeros(3, 2), torch.tensor([0, 2, 2]), classes=4).histogram.tolist()
        [1, 0, 2, 0]
        """
        if self.classes == 0 or self.y.is_floating_point():
            return torch.full((1,), len(self), dtype=torch.int32, device=self.y.device)
        y = self.y.reshape(-1)
        sums = torch.zeros(self.classes + 1, dtype=torch.int32, device=y.device)  # the last entry takes labels that do not count (negative ones)
        return sums.index_add(0, torch.where(y < 0, self.classes, y), torch.ones_like(y, dtype=torch.int32))[:-1]

    def rows(self, rows: Tensor) -> Batch:
        """Return the samples at these positions of the batch."""
        return Batch(
            map_inputs(lambda t: t.index_select(0, rows), self.x),
            self.y.index_select(0, rows),
            None if self.ids is None else self.ids.index_select(0, rows),
            None if self.weight is None else self.weight.index_select(0, rows),
            self.classes,
        )

    def to(self, device: torch.device | str) -> Batch:
        """Return the same batch on another torch device (`"meta"`: shapes only)."""
        return Batch(
            map_inputs(lambda t: t.to(device), self.x),
            self.y.to(device),
            None if self.ids is None else self.ids.to(device),
            None if self.weight is None else self.weight.to(device),
            self.classes,
        )

    @property
    def is_meta(self) -> bool:
        """Whether the batch has shapes only."""
        return first_tensor(self.x).is_meta


@final
class Batches:
    """The batches of one training call, step by step.

    Either stacked tensors `x [S, B, ...], y [S, B, ...], ids [S, B]`, or a data set with the row numbers of each step: `Batches.of(x, y, rows)`.

    >>> data = torch.arange(6.0).reshape(6, 1)
    >>> b = Batches.of(data, torch.arange(6), torch.tensor([[0, 1], [4, 5], [2, 0]]))
    >>> b.steps, b.batch_size, b[1].x.flatten().tolist(), b[1].ids.tolist()
    (3, 2, [4.0, 5.0], [4, 5])
    """

    __slots__ = ("_lazy", "classes", "ids", "weight", "x", "y")

    def __init__(self, x: Inputs, y: Tensor, ids: Tensor | None = None, *, weight: Tensor | None = None, classes: int = 0) -> None:
        first = first_tensor(x)
        if first.dim() < 2 or first.shape[:2] != y.shape[:2]:
            got = f"x {tuple(first.shape)}, y {tuple(y.shape)}"
            raise ScenarioError(f"Batches: got {got}; allowed: both begin with [steps, batch]; stack the batches, or use Batches.of with row numbers")
        self.x, self.y, self.ids, self.weight, self.classes = x, y, ids, weight, classes
        self._lazy: tuple[Inputs, Tensor, Tensor] | None = None

    @staticmethod
    def of(x: Inputs, y: Tensor, rows: Tensor, *, ids: Tensor | None = None, weight: Tensor | None = None, classes: int = 0) -> Batches:
        """Take rows [S, B] of a data set `x [N, ...], y [N, ...]`; `ids` [N] name the samples, else their row numbers do."""
        if rows.dim() != 2:
            raise ScenarioError(f"Batches.of(rows): got shape {tuple(rows.shape)}; allowed: [steps, batch]")
        S, B = rows.shape
        flat = rows.reshape(-1)
        first = first_tensor(x)
        bytes_needed = S * B * first.element_size() * int(np.prod(first.shape[1:]))
        names = rows if ids is None else ids.index_select(0, flat).reshape(S, B)
        out = object.__new__(Batches)
        out.ids, out.classes, out._lazy = names, classes, None
        if bytes_needed > _GATHER_LIMIT_BYTES and not first.is_meta:
            out.x, out.y, out.weight, out._lazy = x, y, weight, (x, y, rows)
            return out

        def take(t: Tensor) -> Tensor:
            return t.index_select(0, flat).reshape(S, B, *t.shape[1:])

        out.x, out.y, out.weight = map_inputs(take, x), take(y), None if weight is None else take(weight)
        return out

    @staticmethod
    def stacked(batch: Batch, steps: int, batch_size: int) -> Batches:
        """Cut one batch of `steps * batch_size` samples into steps, in order; views, no copy."""

        def cut(t: Tensor) -> Tensor:
            return t.reshape(steps, batch_size, *t.shape[1:])

        if len(batch) != steps * batch_size:
            raise ScenarioError(f"Batches.stacked: got {len(batch)} samples; allowed: steps x batch_size = {steps} x {batch_size}")
        ids, weight = (None if t is None else cut(t) for t in (batch.ids, batch.weight))
        return Batches(map_inputs(cut, batch.x), cut(batch.y), ids, weight=weight, classes=batch.classes)

    @property
    def steps(self) -> int:
        """How many batches there are."""
        return self.y.shape[0] if self._lazy is None else self._lazy[2].shape[0]

    @property
    def batch_size(self) -> int:
        """Samples per batch."""
        return self.y.shape[1] if self._lazy is None else self._lazy[2].shape[1]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, k: int) -> Batch:
        ids = None if self.ids is None else self.ids[k]
        if self._lazy is not None:
            x, y, rows = self._lazy
            r = rows[k]
            weight = None if self.weight is None else self.weight.index_select(0, r)
            return Batch(map_inputs(lambda t: t.index_select(0, r), x), y.index_select(0, r), ids, weight, self.classes)
        x_k = {name: t[k] for name, t in self.x.items()} if isinstance(self.x, dict) else self.x[k]
        return Batch(x_k, self.y[k], ids, None if self.weight is None else self.weight[k], self.classes)

    def __iter__(self) -> Iterator[Batch]:
        if self._lazy is not None or isinstance(self.x, dict):
            return (self[k] for k in range(self.steps))
        nothing = [None] * self.steps  # unbinding once is cheaper than selecting per step
        ids, weights = (nothing if t is None else t.unbind(0) for t in (self.ids, self.weight))
        return (Batch(x, y, i, w, self.classes) for x, y, i, w in zip(self.x.unbind(0), self.y.unbind(0), ids, weights, strict=True))

    @property
    def is_meta(self) -> bool:
        """Whether the batches have shapes only."""
        return first_tensor(self.x).is_meta
