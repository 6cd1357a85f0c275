"""Which clients train together: a set whose next batches look like the whole, and groups of equal size that look alike.

GBP-CS picks `size` of the candidates so that their label counts add up to a target:

    min f(x) = 1/2 |A x - y|^2,   x in {0,1}^K, sum(x) = size,   A = [a_k], a column of label counts per candidate
    1. x = 1 at the `size` largest entries of pinv(A) y
    2. g = A'(A x - y);  i = argmin of g where x = 0,  j = argmax of g where x = 1
    3. swap i and j if that lowers f, by g_i - g_j + 1/2 |a_i - a_j|^2, and go to 2; else stop

ICG makes G groups of k = floor(K / G):  k clusters of G clients with similar counts;  group g takes the g-th member of each shuffled cluster.

How many groups there are in round r = 1, 2, ... of sequential-to-parallel training: G = min(K, g), g = beta floor(a r + 1) ("linear"),
beta floor(a ln r + 1) ("log"), beta floor(a^r) ("exp"), beta floor((1 + a)^(r - 1)) ("power"), or beta ("none").

Papers: Z. Li, Y. He, H. Yu et al., "Data Heterogeneity-Robust Federated Learning via Group Client Selection in Industrial IoT", 2022,
doi 10.1109/JIOT.2022.3161943 (GBP-CS, from the authors' code); S. Zeng, Z. Li, H. Yu et al., "Heterogeneous Federated Learning via Grouped
Sequential-to-Parallel Training", 2022, arXiv 2201.12976 (ICG and G, from the authors' code but
"power", which the text probably has, and "none", their ablations).
Symbols: A' `counts` (one row per candidate), y `target`, K clients, F classes, G `groups`, beta `start`, a `rate`.
Left out: the authors' Bayesian and genetic searches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, exp, floor, log
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airloom.errors import ScenarioError

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Start = Literal["pinv", "greedy"]
Growth = Literal["linear", "log", "exp", "power", "none"]

_LEAST = 1e-9  # what a swap must gain, counts being whole numbers: else rounding could swap for ever
_MOST_SETS = 2_000_000
_MOST_EXACT = 1000  # clients above which clusters are filled greedily: the assignment costs the cube
_ROUNDS = 20  # of the clustering, at most


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A set of candidates.

    Fields:
        chosen: positions of the candidates, ascending.
        distance: |A x - y|.
        swaps: accepted swaps of GBP-CS.
        flops: work of the search: F K^2 for the start, 2 F K per swap tried (exact: all pairs), 2 F size per set tried.
    """

    chosen: Ids
    distance: float
    swaps: int
    flops: float


def _checked(owner: str, counts: ArrayLike, target: ArrayLike, size: int) -> tuple[Floats, Floats]:
    a, y = np.asarray(counts, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if a.ndim != 2 or not (np.isfinite(a).all() and (a >= 0).all()):
        raise ScenarioError(f"{owner}(counts of shape {a.shape}): must be one row of label counts >= 0 per candidate")
    if not a.sum(1).all():
        raise ScenarioError(f"{owner}(counts): candidate {int((a.sum(1) == 0).argmax())} has no label in any class; leave it out")
    if y.shape != a.shape[1:] or not np.isfinite(y).all():
        raise ScenarioError(f"{owner}(target of shape {y.shape}): must be {a.shape[1]} finite numbers, one per class of the counts")
    if not 0 <= size <= len(a):
        raise ScenarioError(f"{owner}(size={size}): must be 0..{len(a)}, the candidates there are")
    return a, y


def _pick(a: Floats, y: Floats, chosen: Sequence[int] | Ids, *, swaps: int = 0, flops: float = 0.0) -> Pick:
    ids = np.sort(np.asarray(chosen, dtype=np.int64))
    return Pick(chosen=ids, distance=float(np.linalg.norm(a[ids].sum(0) - y)), swaps=swaps, flops=flops)


def gbp_cs(counts: ArrayLike, target: ArrayLike, size: int, *, start: Start = "pinv", exact_swap: bool = False) -> Pick:
    """Gradient-based binary permutation client selection.

    Arguments:
        counts: (K, F), label counts of each candidate's next batch.
        target: y, (F,), what the chosen ones should add up to.
        size: how many to choose, 0..K.
        start: "pinv" (authors' default), or "greedy": one after another, each time the smallest gradient (authors' zero start).
        exact_swap: try all pairs and take the best, to a true optimum of swaps (ours), instead of the pair that the gradient names.

    Raises:
        ScenarioError: counts that are negative or empty, a target of another length, a size outside 0..K.

    >>> gbp_cs([[3, 0], [0, 3], [2, 1], [3, 0]], [3.0, 3.0], 2, exact_swap=True).chosen.tolist()     # [3, 0] and [0, 3] add up to it
    [0, 1]
    """
    a, y = _checked("gbp_cs", counts, target, size)
    K, F = a.shape
    x, flops, swaps = np.zeros(K, dtype=bool), float(F * K * K if start == "pinv" else 2 * F * K * size), 0
    if start == "pinv":
        x[np.argsort(-(np.linalg.pinv(a.T) @ y), kind="stable")[:size]] = True
    else:
        for _ in range(size):
            x[np.argmin(np.where(x, np.inf, a @ (a[x].sum(0) - y)))] = True
    if not 0 < size < K:
        return _pick(a, y, np.flatnonzero(x), flops=flops)
    while True:
        g = a @ (a[x].sum(0) - y)
        out, into = np.flatnonzero(x), np.flatnonzero(~x)
        if not exact_swap:
            out, into = out[[g[out].argmax()]], into[[g[into].argmin()]]
        change = g[into] - g[out][:, None] + ((a[into] - a[out][:, None]) ** 2).sum(2) / 2
        j, i = divmod(int(change.argmin()), len(into))
        flops += 2 * F * K + (3 * F * change.size if exact_swap else 0)
        if change[j, i] >= -_LEAST:
            return _pick(a, y, np.flatnonzero(x), swaps=swaps, flops=flops)
        x[out[j]], x[into[i]] = False, True
        swaps += 1


def brute_force(counts: ArrayLike, target: ArrayLike, size: int) -> Pick:
    """The best of all sets; the oracle of GBP-CS.

    Raises:
        ScenarioError: more than two million sets, or an argument as in `gbp_cs`.
    """
    a, y = _checked("brute_force", counts, target, size)
    sets = comb(len(a), size)
    if sets > _MOST_SETS:
        raise ScenarioError(f"brute_force({len(a)} candidates, size={size}): {sets} sets; allowed are {_MOST_SETS}; use gbp_cs")
    best = min(combinations(range(len(a)), size), key=lambda ids: float(((a[list(ids)].sum(0) - y) ** 2).sum()))
    return _pick(a, y, best, flops=2.0 * a.shape[1] * max(1, size) * sets)


def best_of(counts: ArrayLike, target: ArrayLike, size: int, rng: np.random.Generator, *, draws: int = 100) -> Pick:
    """The best of so many random sets (100, authors' code); with one draw, random selection.

    Raises:
        ScenarioError: fewer than one draw, or an argument as in `gbp_cs`.
    """
    a, y = _checked("best_of", counts, target, size)
    if draws < 1:
        raise ScenarioError(f"best_of(draws={draws}): must be >= 1")
    sets = [rng.permutation(len(a))[:size] for _ in range(draws)]
    best = min(sets, key=lambda ids: float(((a[ids].sum(0) - y) ** 2).sum()))
    return _pick(a, y, best, flops=2.0 * a.shape[1] * size * (draws if draws > 1 else 0))


def equal_clusters(points: ArrayLike, size: int, rng: np.random.Generator) -> list[Ids]:
    """K-means whose clusters all have `size` members: assign all points to centroids with `size` places each, move the centroids, repeat.

    The assignment has the least sum of squared distances. Above 1,000 points it is greedy: the nearest pair of a point and a centroid with a free
    place first.

    Arguments:
        points: (n, d).
        size: members of each cluster; n must be a multiple of it.
        rng: draws the first centroids among the points.

    Raises:
        ScenarioError: clusters that cannot be equal.
    """
    p = np.asarray(points, dtype=np.float64)
    if p.ndim != 2 or not np.isfinite(p).all():
        raise ScenarioError(f"equal_clusters(points of shape {p.shape}): must be one row of finite numbers per point")
    if size < 1 or len(p) % size:
        raise ScenarioError(f"equal_clusters({len(p)} points, size={size}): clusters cannot be equal; the points must be a multiple of the size")
    centers, label = p[rng.permutation(len(p))[: len(p) // size]], None
    for _ in range(_ROUNDS):
        squares = ((p[:, None] - centers[None]) ** 2).sum(2)
        new = _assigned(squares, size)
        if label is not None and (new == label).all():
            break
        label = new
        centers = np.stack([p[label == c].mean(0) for c in range(len(centers))])
    return [np.flatnonzero(label == c) for c in range(len(centers))]


def _assigned(squares: Floats, size: int) -> Ids:
    """The cluster of each point, `size` points to each."""
    n, k = squares.shape
    if n <= _MOST_EXACT:
        from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]  # takes long to import

        places: Ids = np.asarray(linear_sum_assignment(np.repeat(squares, size, axis=1))[1], dtype=np.int64)  # of the points in order
        return places // size
    label, room = np.full(n, -1, dtype=np.int64), np.full(k, size)
    for point, c in (divmod(pair, k) for pair in np.argsort(squares, axis=None, kind="stable").tolist()):
        if label[point] < 0 and room[c]:
            label[point] = c
            room[c] -= 1
    return label


def icg(counts: ArrayLike, groups: int, rng: np.random.Generator, *, normalize: bool = False) -> list[Ids]:
    """Inter-cluster grouping: groups of floor(K / G) clients, one from each cluster of similar ones; the K - k G others sit out.

    Arguments:
        counts: (K, F), label counts of each client.
        groups: G, 1..K.
        rng: draws who sits out, the first centroids, and the order in each cluster.
        normalize: cluster distributions instead of counts (ours), so that clients with many samples do not stand apart.

    Raises:
        ScenarioError: counts that are negative or empty, or groups that cannot be equal.

    >>> groups = icg([[9, 0], [9, 0], [0, 9], [0, 9]], 2, np.random.default_rng(0))
    >>> [sorted([[9, 0], [9, 0], [0, 9], [0, 9]][i] for i in g) for g in groups]
    [[[0, 9], [9, 0]], [[0, 9], [9, 0]]]
    """
    a, _ = _checked("icg", counts, np.zeros(np.shape(counts)[-1] if np.ndim(counts) else 0), 0)
    drawn = np.sort(np.concatenate(random_groups(len(a), groups, rng)))
    points = a[drawn] / a[drawn].sum(1, keepdims=True) if normalize else a[drawn]
    clusters = [drawn[rng.permutation(members)] for members in equal_clusters(points, groups, rng)]
    return [np.sort(group) for group in np.stack(clusters, axis=1)]


def random_groups(clients: int, groups: int, rng: np.random.Generator) -> list[Ids]:
    """Groups of floor(K / G) clients at random; the K - k G others sit out.

    Raises:
        ScenarioError: groups that cannot be equal.
    """
    if not 1 <= groups <= clients:
        raise ScenarioError(f"groups={groups} of {clients} clients: they cannot be equal; allowed are 1..{clients} groups")
    order = rng.permutation(clients)[: clients // groups * groups]
    return [np.sort(group) for group in order.reshape(-1, groups).T]


def icg_flops(clients: int, groups: int, classes: int) -> float:
    """Work of `icg`, at most: distances to the centroids, 3 n k F, and an assignment, n^3, in each of 20 rounds of the clustering, n = k G.

    >>> icg_flops(6, 3, 1)     # n = 6, k = 2
    5040.0
    """
    k = clients // groups
    n = k * groups
    return _ROUNDS * (3.0 * n * k * classes + float(n) ** 3)


def group_count(t: int, clients: int, *, start: int, growth: Growth, rate: float) -> int:
    """Groups in round t = r - 1 of sequential-to-parallel training, at most one per client.

    Raises:
        ScenarioError: "exp" with a rate below 1, with which groups become fewer.

    >>> [group_count(t, 100, start=2, growth="linear", rate=0.5) for t in (0, 1, 3)]
    [2, 4, 6]
    """
    if growth == "exp" and rate < 1:
        raise ScenarioError(f"group_count(growth='exp', rate={rate}): must be >= 1, or groups become fewer; growth='power' takes smaller ones")
    r, most = t + 1, log(1 + clients)
    if growth in ("exp", "power"):  # cut before it overflows; 1e-9 for powers that are whole numbers
        factor = floor(exp(min(r * log(rate) if growth == "exp" else t * log(1 + rate), most)) + 1e-9)
    else:
        factor = floor({"linear": rate * r, "log": rate * log(r), "none": 0.0}[growth] + 1)
    return min(clients, start * factor)
