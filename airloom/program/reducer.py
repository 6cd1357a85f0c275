"""Reducers: how many values become one. A reducer is text in verbs; MEAN and SUM are folded by the engine itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan
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


@dataclass(frozen=True)
class CountedMean(Reducer):
    """Per coordinate, the weighted mean over the slices that hold it; coordinates that nobody holds keep the value of `into`.

    x_k = sum over slices i that hold k of w_i x_{i,k} / sum of their w_i

    Serves widths, disjoint parts (write-back) and components.

    Arguments:
        into: the whole model.
    """

    into: Params

    def __call__(self, node: Any, refs: Sequence[Ref], weights: Sequence[float] | None, *prepared: Any) -> Params:
        spec, flat = self.into.spec, self.into.flat
        sums, counts = torch.zeros(flat.shape, dtype=torch.float64), torch.zeros(flat.shape, dtype=torch.float64)
        for part, w in _parts(node, refs, weights, "counted_mean"):
            places = spec.places(part.spec)
            places.add(sums, part.flat, w)
            places.add(counts, torch.ones_like(part.flat), w)
        return Params(spec, torch.where(counts > 0, sums / counts.clamp(min=1e-300), flat.to(torch.float64)).to(flat.dtype))


@dataclass(frozen=True)
class ScatterSum(Reducer):
    """`into` plus the weighted sum of slices at their own coordinates (rank rows).

    Arguments:
        into: the whole model, or its zeros.
    """

    into: Params

    def __call__(self, node: Any, refs: Sequence[Ref], weights: Sequence[float] | None, *prepared: Any) -> Params:
        sums = self.into.flat.to(torch.float64, copy=True)
        for part, w in _parts(node, refs, weights, "scatter_sum"):
            self.into.spec.places(part.spec).add(sums, part.flat, w)
        return Params(self.into.spec, sums.to(self.into.flat.dtype))


def counted_mean(into: Params) -> CountedMean:
    """A reducer for slices: see `CountedMean`."""
    return CountedMean(into)


def scatter_sum(into: Params) -> ScatterSum:
    """A reducer for slices: see `ScatterSum`."""
    return ScatterSum(into)


def _parts(node: Any, refs: Sequence[Ref], weights: Sequence[float] | None, name: str) -> list[tuple[Params, float]]:
    """The slices that arrived, in issue order, with their weights; lost ones are left out."""
    given = [1.0] * len(refs) if weights is None else [float(w) for w in weights]
    _, _, lost = node.first(refs, len(refs))
    kept = [(ref, w) for ref, w in zip(refs, given, strict=True) if ref not in lost]
    values = node.fetch([ref for ref, _ in kept])
    for value in values:
        if not isinstance(value, Params):
            raise ScenarioError(f"{name}: got a {type(value).__name__}; allowed are slices of the model")
    return [(value, w) for value, (_, w) in zip(values, kept, strict=True)]


@dataclass(frozen=True, kw_only=True)
class AirSum(Reducer):
    """Mean of what all scheduled devices send at once, added up by the channel itself, with its noise.

    mean over i in S of Delta_i + n,  n ~ N(0, s^2 I),  s = (1/m) sqrt(max_i ||Delta_i||^2 / (SNR h_min^2 d)),  S = {i: |h_i| >= threshold}

    Truncated channel inversion: device i sends (alpha / h_i) Delta_i under the power limit of its link; a common alpha follows from the weakest.
    One use of the channel serves any number of devices: t = d / (rho W) seconds for d values on W Hz. Channels are drawn when all values are
    made; where nobody qualifies they are drawn again.

    Paper: the model of Fang, Yu, Jiang et al., "Communication-Efficient Stochastic Zeroth-Order Optimization for Federated Learning", IEEE TSP
    2022, arXiv 2201.09531; the noise is derived from the power limit (h_min squared; the authors' code has h_min, `is_authors_noise`).

    Arguments:
        snr_db: power limit over noise power, in dB; infinite is noise-free.
        threshold: least |h| that sends (0.8, authors' code: 27.8 % of Rayleigh channels with E|h|^2 = 0.5).
        values_per_symbol: rho, 1 or 2.
        is_authors_noise: noise of the authors' code.

    Left out: synchronization errors, weights (all scheduled devices count the same), values of unlike magnitude in several messages.
    """

    snr_db: float
    threshold: float = 0.8
    values_per_symbol: int = 1
    is_authors_noise: bool = False

    def __post_init__(self) -> None:
        if isnan(self.snr_db) or not (self.threshold >= 0 and isfinite(self.threshold)) or self.values_per_symbol not in (1, 2):
            raise ScenarioError(f"{self}: allowed are snr_db a number or inf, threshold finite and >= 0, values_per_symbol 1 or 2")

    def __call__(self, node: Any, refs: Sequence[Ref], weights: Sequence[float] | None, *prepared: Any) -> Any:
        return node.over_the_air(self, refs)


def air_sum(snr_db: float, *, threshold: float = 0.8, values_per_symbol: int = 1, is_authors_noise: bool = False) -> AirSum:
    """A reducer over the air: see `AirSum`."""
    return AirSum(snr_db=snr_db, threshold=threshold, values_per_symbol=values_per_symbol, is_authors_noise=is_authors_noise)
