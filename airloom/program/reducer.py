"""Reducers: how many values become one. A reducer is text in verbs; MEAN and SUM are folded by the engine itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from airloom.errors import ScenarioError
from airloom.models.params import Params
from airloom.program.ref import Ref


class Reducer(ABC):
    """Folds the values of Refs. `prepare` runs once, on the clock (keys, codecs); its result is passed to every later call."""

    def prepare(self, node: Any, x: Any, clients: Sequence[str]) -> tuple[Any, ...]:
        """Return what later calls need; nothing by default."""
        return ()

    @abstractmethod
    def __call__(self, node: Any, refs: Sequence[Ref], weights: Sequence[float] | None, *prepared: Any) -> Any:
        """Return the folded tree at `node`."""


@dataclass(frozen=True)
class Fold(Reducer):
    """Weighted sum (`is_mean`: divided by the sum of weights), accumulated in float64 in issue order."""

    is_mean: bool

    def __call__(self, node: Any, refs: Sequence[Ref], weights: Sequence[float] | None, *prepared: Any) -> Any:
        return node.reduce(refs, weights, over=self)


MEAN = Fold(is_mean=True)
SUM = Fold(is_mean=False)


class Accumulator:
    """Folds trees one by one: floating leaves are added in float64 and cast back at the end.

    >>> total = Accumulator(); total.add({"a": 1.0}, 0.25); total.add({"a": 3.0}, 0.75); total.value()
    {'a': 2.5}
    """

    def __init__(self) -> None:
        self.sums: Any = None
        self.like: Any = None

    def add(self, tree: Any, weight: float) -> None:
        """Add `weight` times a tree."""
        if self.like is None:
            self.like = tree
            self.sums = _started(tree, weight)
        else:
            self.sums = _added(self.sums, tree, weight)

    def value(self) -> Any:
        """The folded tree, with the leaves' own number formats."""
        return _finished(self.sums, self.like)


def _started(tree: Any, weight: float) -> Any:
    kind = type(tree)
    if kind is dict:
        return {key: _started(value, weight) for key, value in tree.items()}
    if kind is list or kind is tuple:
        return [_started(value, weight) for value in tree]
    if isinstance(tree, Params):
        return tree.flat.to(torch.float64, copy=True).mul_(weight)
    if isinstance(tree, torch.Tensor):
        return tree.to(torch.float64, copy=True).mul_(weight)
    if isinstance(tree, np.ndarray):
        return tree.astype(np.float64) * weight
    if isinstance(tree, int | float | np.number):
        return float(tree) * weight
    if tree is None:
        return None
    raise ScenarioError(f"reduce: got a leaf of type {type(tree).__name__}; allowed are Params, tensors, arrays, numbers and None")


def _added(sums: Any, tree: Any, weight: float) -> Any:
    kind = type(tree)
    if kind is dict:
        return {key: _added(sums[key], value, weight) for key, value in tree.items()}
    if kind is list or kind is tuple:
        return [_added(s, value, weight) for s, value in zip(sums, tree, strict=True)]
    if isinstance(tree, Params):
        return sums.add_(tree.flat, alpha=weight)
    if isinstance(tree, torch.Tensor):
        return sums.add_(tree, alpha=weight)
    if isinstance(tree, np.ndarray):
        return sums + tree * weight
    if tree is None:
        return None
    return sums + float(tree) * weight


def _finished(sums: Any, like: Any) -> Any:
    kind = type(like)
    if kind is dict:
        return {key: _finished(sums[key], value) for key, value in like.items()}
    if kind is list or kind is tuple:
        return kind([_finished(s, value) for s, value in zip(sums, like, strict=True)])
    if isinstance(like, Params):
        return Params(like.spec, sums.to(like.flat.dtype))
    if isinstance(like, torch.Tensor):
        return sums.to(like.dtype) if like.is_floating_point() else sums
    if isinstance(like, np.ndarray):
        return sums.astype(like.dtype) if np.issubdtype(like.dtype, np.floating) else sums
    return sums
