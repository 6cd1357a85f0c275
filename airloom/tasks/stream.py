"""Streams: what a device holds changes with time, and no method advances it.

A stream cuts time into windows of `window_s` seconds; what a device holds in window k = floor(time / window_s) is a function of (seed, device, k)
alone. Old rows are gone (forgotten) unless they are still inside the window or have come round again. With `is_once` none comes round again, and a
stream runs dry. `here.peek(n)` shows the batch that `here.batch(n)` (or a step of `here.train`) takes next, `.histogram` its label counts; a batch
that a device has taken is its own, however late it trains on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airloom.clock.rng import generator
from airloom.errors import ScenarioError

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """How the rows of a device arrive.

    1. The device's rows stand in a cyclic random order (of each class apart, if classes change with time); `fresh` new ones arrive per window and the
       last `samples` are held. A window never holds a row twice.
    2. With `classes` only so many of the device's own classes are present; the set moves on by one class per window, so classes disappear and come
       back.
    3. With `drift_s` the class mixture moves on a straight line from one Dirichlet(alpha) draw over the device's own classes to the next, one per
       `drift_s` seconds; a class that has too few rows is made up by the others.

    Parameters
    ----------
    window_s : length of a window, seconds, > 0.
    samples : rows held in a window, >= 1 (fewer where the device has fewer).
    fresh : rows that arrive per window, 1..samples; None means all of them.
    classes : classes present per window, >= 1, or None. Excludes `drift_s`.
    drift_s : seconds between two mixtures, > 0, or None.
    alpha : concentration of the mixtures, > 0.
    is_common : whether all devices share the order of classes or the mixtures (each restricted to its own classes).
    is_once : whether each row arrives once and never again; asking for data after the last row is an error. Excludes `classes` and `drift_s`.

    Examples
    --------
    >>> stream = Stream(window_s=10.0, samples=3, fresh=1)
    >>> first, second = (stream.rows(np.arange(6), np.zeros(6, int), "phone1", at_s, seed=0) for at_s in (0.0, 10.0))
    >>> len(set(first) & set(second))
    2
    """

    window_s: float
    samples: int
    fresh: int | None = None
    classes: int | None = None
    drift_s: float | None = None
    alpha: float = 0.5
    is_common: bool = False
    is_once: bool = False

    def __post_init__(self) -> None:
        if not self.window_s > 0 or not math.isfinite(self.window_s):
            raise ScenarioError(f"Stream(window_s={self.window_s}): must be a finite number of seconds > 0")
        if self.samples < 1:
            raise ScenarioError(f"Stream(samples={self.samples}): must be >= 1")
        if self.fresh is not None and not 1 <= self.fresh <= self.samples:
            raise ScenarioError(f"Stream(fresh={self.fresh}): must be 1..samples={self.samples}, or None for all")
        if self.classes is not None and self.classes < 1:
            raise ScenarioError(f"Stream(classes={self.classes}): must be >= 1 or None")
        if self.drift_s is not None and not self.drift_s > 0:
            raise ScenarioError(f"Stream(drift_s={self.drift_s}): must be > 0 or None")
        if self.classes is not None and self.drift_s is not None:
            raise ScenarioError(f"Stream(classes={self.classes}, drift_s={self.drift_s}): give one of them, moving classes or a drifting mixture")
        if not self.alpha > 0:
            raise ScenarioError(f"Stream(alpha={self.alpha}): must be > 0")
        if self.is_once and (self.classes is not None or self.drift_s is not None):
            raise ScenarioError(
                f"Stream(is_once=True, classes={self.classes}, drift_s={self.drift_s}): classes come back, so rows must too; give neither of them"
            )

    def window(self, at_s: float) -> int:
        """Return the index of the window at a time.

        >>> Stream(window_s=10.0, samples=3).window(25.0)
        2
        """
        return math.floor(at_s / self.window_s)

    def lasts_s(self, rows: int) -> float:
        """Return the seconds until a device with so many rows runs dry; infinite unless `is_once`.

        >>> Stream(window_s=10.0, samples=3, is_once=True).lasts_s(7)
        30.0
        """
        return math.ceil(rows / (self.fresh or self.samples)) * self.window_s if self.is_once else math.inf

    def held(self, rows: int, device: str, at_s: float) -> int:
        """Return how many of its `rows` a device holds at a time, if it has enough of the classes present.

        Raises
        ------
        ScenarioError : the stream has run dry.

        >>> [Stream(window_s=10.0, samples=3, is_once=True).held(7, "phone1", at_s) for at_s in (0.0, 20.0)]
        [3, 1]
        """
        if at_s >= self.lasts_s(rows):
            raise ScenarioError(
                f"stream of '{device}' ran dry: got a request at {at_s:g} s, its {rows} rows last {self.lasts_s(rows):g} s; end the run before that "
                "(a budget of seconds), give it more rows, or let them come round again (is_once=False)"
            )
        gone = self.window(at_s) * (self.fresh or self.samples) if self.is_once else 0
        return min(self.samples, rows - gone)

    def rows(self, shard: Rows, labels: NDArray[np.int64], device: str, at_s: float, seed: int) -> Rows:
        """Return the rows a device holds at a time, ascending.

        Parameters
        ----------
        shard : (n,) all rows the device will ever see.
        labels : (n,) their labels; only read with `classes` or `drift_s`.
        device, seed : name the stream.
        at_s : simulated time, seconds.

        Raises
        ------
        ScenarioError : the stream has run dry.
        """
        k = self.window(at_s)
        fresh = self.fresh or self.samples
        held = self.held(len(shard), device, at_s)
        if self.classes is None and self.drift_s is None:
            return np.sort(_turn(generator(seed, "stream", device).permutation(shard), k * fresh, held))
        own, sizes = np.unique(labels, return_counts=True)
        who = "all" if self.is_common else device
        if self.classes is not None:
            order = generator(seed, "stream", who, "classes").permutation(int(own.max()) + 1)
            order = order[np.isin(order, own)]
            present = np.isin(own, _turn(order, k, min(self.classes, len(order))))
            mix = present * sizes / sizes[present].sum()
        else:
            mix = self._mixture(own, who, at_s, seed)
        count = _counts(mix, sizes, held)
        order_of = {c: generator(seed, "stream", device, int(c)).permutation(shard[labels == c]) for c in own[count > 0]}
        # Each class turns at its own pace: about `fresh` rows arrive per window over all classes.
        parts = [_turn(order_of[c], k * max(1, n * fresh // self.samples), n) for c, n in zip(own, count, strict=True) if n]
        return np.sort(np.concatenate(parts))

    def _mixture(self, own: Rows, who: str, at_s: float, seed: int) -> NDArray[np.float64]:
        """Return the class mixture at the start of the window, over the classes the device has."""
        at = self.window(at_s) * self.window_s / (self.drift_s or 1.0)
        low, part = math.floor(at), at - math.floor(at)
        ends = [generator(seed, "stream", who, "mixture", low + i).standard_gamma(self.alpha, int(own.max()) + 1)[own] + 1e-12 for i in (0, 1)]
        return (1 - part) * ends[0] / ends[0].sum() + part * ends[1] / ends[1].sum()


def _turn(order: Rows, start: int, count: int) -> Rows:
    """Return `count` entries of a cyclic order from `start` on."""
    return order[(start + np.arange(count)) % len(order)]


def _counts(mix: NDArray[np.float64], available: Rows, total: int) -> Rows:
    """Round `total * mix` to whole numbers within what is available; what is short is made up where most is left, among classes with mix > 0."""
    exact = mix * total
    count = np.minimum(np.floor(exact).astype(np.int64), available)
    usable = np.where(mix > 0, available, 0)
    for c in np.argsort(count - exact, kind="stable"):
        if count.sum() >= min(total, usable.sum()):
            break
        count[c] += int(count[c] < usable[c])
    while (short := min(total, int(usable.sum())) - int(count.sum())) > 0:
        c = int(np.argmax(usable - count))
        count[c] += min(short, int(usable[c] - count[c]))
    return count
