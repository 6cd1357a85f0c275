"""How good an order of vectors is, and bounds on what a balancing rule makes of it.

    order error      H = max_k |sum_{i <= k} c_pi(i)|,   c_i = v_i - mean v                     what permutation-based SGD pays for
    signed prefixes  A = max_k |sum_{i <= k} s_i c_i|,   s_i the rule's signs
    GraB, exact mean             H' <= (H + A) / 2                         H' after putting + in order first, then - reversed
    GraB, mean off by e          H' <= (H + A) / 2 + (n / 2) e
    PairGraB                     H' <= (H + A' + max |c_i|) / 2            A' of the differences of pairs
    greedy signs, two-norm       |s_k|^2 <= sum_{i <= k} |v_i|^2

Paper: for Li, Lyu, Liu, "A Unified Analysis of Stochastic Gradient Descent with Arbitrary Data Permutations and Beyond", NeurIPS 2025. The bounds are
our derivation, checked against random instances; `epoch_noise` has the papers' orders of magnitude, with constants of 1 that are unverified.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airloom.errors import ScenarioError

Kind = Literal["fixed", "shuffle_once", "random_reshuffle", "flip_flop", "grab", "pair_grab"]


def _table(owner: str, vectors: ArrayLike, order: Sequence[int] | None) -> NDArray[np.float64]:
    v = np.asarray(vectors, dtype=np.float64)
    if v.ndim != 2 or not len(v) or not np.isfinite(v).all():
        raise ScenarioError(f"{owner}(vectors of shape {v.shape}): must be a table [vectors, values] of finite numbers")
    if order is None:
        return v
    if sorted(order) != list(range(len(v))):
        raise ScenarioError(f"{owner}(order={list(order)[:8]}...): must name each of the {len(v)} vectors once")
    return v[list(order)]


def order_error(vectors: ArrayLike, order: Sequence[int] | None = None) -> float:
    """H of vectors visited in an order (None: as they are).

    >>> order_error([[1.0], [1.0], [-1.0], [-1.0]]), order_error([[1.0], [1.0], [-1.0], [-1.0]], [0, 2, 1, 3])
    (2.0, 1.0)
    """
    v = _table("order_error", vectors, order)
    return float(np.linalg.norm(np.cumsum(v - v.mean(0), axis=0), axis=1).max())


def greedy_signs(vectors: ArrayLike) -> NDArray[np.int64]:
    """Signs that keep the signed sum short, one after another: + where that is no longer than -.

    >>> greedy_signs([[1.0], [1.0], [3.0]]).tolist()
    [1, -1, 1]
    """
    table = _table("greedy_signs", vectors, None)
    s, signs = np.zeros(table.shape[1]), list[int]()
    for v in table:
        signs.append(1 if np.linalg.norm(s + v) <= np.linalg.norm(s - v) else -1)
        s = s + signs[-1] * v
    return np.asarray(signs, dtype=np.int64)


def signed_error(vectors: ArrayLike, signs: ArrayLike) -> float:
    """A: the longest signed prefix sum; vectors are taken as they are.

    >>> signed_error([[1.0], [1.0], [3.0]], [1, -1, 1])
    3.0
    """
    v = _table("signed_error", vectors, None)
    return float(np.linalg.norm(np.cumsum(v * np.asarray(signs, dtype=np.float64)[:, None], axis=0), axis=1).max())


def grab_bound(vectors: ArrayLike, mean: ArrayLike | None = None) -> float:
    """What GraB's next order is guaranteed to reach when vectors are visited as they are and centered by `mean` (None: their own).

    >>> grab_bound([[1.0], [1.0], [-1.0], [-1.0]])
    1.5
    """
    v = _table("grab_bound", vectors, None)
    m = v.mean(0) if mean is None else np.asarray(mean, dtype=np.float64)
    signs = greedy_signs(v - m)
    exact = signed_error(v - m, signs)
    return (order_error(v) + exact) / 2 + len(v) / 2 * float(np.linalg.norm(v.mean(0) - m))


def pair_bound(vectors: ArrayLike) -> float:
    """What PairGraB's next order is guaranteed to reach; an odd last vector goes to the middle.

    >>> pair_bound([[1.0], [1.0], [-1.0], [-1.0]])
    1.5
    """
    v = _table("pair_bound", vectors, None)
    c, n = v - v.mean(0), len(v) // 2 * 2
    d = v[0:n:2] - v[1:n:2]
    signed = signed_error(d, greedy_signs(d)) if n else 0.0
    return (order_error(v) + signed + float(np.linalg.norm(c, axis=1).max())) / 2


def epoch_noise(kind: Kind, n: int, variance: float) -> float:
    """D_0, the part of the squared order error that the rate of an epoch hangs on; order of magnitude, constants unverified.

    n^2 s^2 for a fixed order, n s^2 for random ones, s^2 log(n)^2 for balanced ones.

    >>> [epoch_noise(kind, 100, 1.0) for kind in ("fixed", "random_reshuffle")]
    [10000.0, 100.0]
    """
    if n < 1 or not variance >= 0:
        raise ScenarioError(f"epoch_noise(n={n!r}, variance={variance!r}): must be n >= 1 and variance >= 0")
    factor = {"fixed": float(n) ** 2, "grab": log(n) ** 2, "pair_grab": log(n) ** 2}.get(kind, float(n))
    return factor * variance
