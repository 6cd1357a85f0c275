"""Sets against brute force, swaps against their formula, groups that are equal."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.plans import grouping
from airloom.plans.grouping import best_of, brute_force, equal_clusters, gbp_cs, group_count, icg, random_groups


def instance(seed: int, *, candidates: int = 9, classes: int = 4, batch: int = 6) -> tuple[np.ndarray, np.ndarray, int]:
    """Batches drawn from skewed mixtures, the target of a uniform whole, and how many to choose."""
    rng = np.random.default_rng(seed)
    counts = np.stack([rng.multinomial(batch, rng.dirichlet(np.full(classes, 0.3))) for _ in range(candidates)])
    size = int(rng.integers(1, candidates))
    return counts, np.full(classes, batch * size / classes), size


def loss(counts: np.ndarray, target: np.ndarray, chosen: Any) -> float:
    return float(((counts[list(chosen)].sum(0) - target) ** 2).sum() / 2)


@pytest.mark.parametrize("start", ["pinv", "greedy"])
@pytest.mark.parametrize("exact", [False, True])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_between_brute_force_and_the_start(start: Any, exact: bool, seed: int) -> None:
    counts, target, size = instance(seed)
    found = gbp_cs(counts, target, size, start=start, exact_swap=exact)
    assert len(found.chosen) == len(set(found.chosen.tolist())) == size
    assert found.distance == pytest.approx((2 * loss(counts, target, found.chosen)) ** 0.5, abs=1e-9)
    first = np.argsort(-(np.linalg.pinv(counts.T.astype(float)) @ target), kind="stable")[:size]
    if start == "pinv":
        assert found.distance <= (2 * loss(counts, target, first)) ** 0.5 + 1e-9
    assert found.distance >= brute_force(counts, target, size).distance - 1e-9


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_where_it_stops_no_such_swap_helps(seed: int) -> None:
    counts, target, size = instance(seed)
    for exact in (False, True):
        found = gbp_cs(counts, target, size, exact_swap=exact)
        chosen = set(found.chosen.tolist())
        others = [i for i in range(len(counts)) if i not in chosen]
        g = counts @ (counts[list(chosen)].sum(0) - target)
        pairs = [(i, j) for i in others for j in chosen]
        if not exact:  # the pair that the gradient names
            pairs = [(min(others, key=lambda i: g[i]), max(chosen, key=lambda j: g[j]))]
        before = loss(counts, target, chosen)
        for i, j in pairs:
            after = loss(counts, target, (chosen - {j}) | {i})
            # the change of f by a swap, derived: g_i - g_j + |a_i - a_j|^2 / 2
            assert after - before == pytest.approx(g[i] - g[j] + ((counts[i] - counts[j]) ** 2).sum() / 2, abs=1e-9)
            if exact:
                assert after >= before - 1e-8
        if not exact and g[pairs[0][0]] < g[pairs[0][1]] - 1e-6:
            assert loss(counts, target, (chosen - {pairs[0][1]}) | {pairs[0][0]}) >= before - 1e-8


def test_by_hand() -> None:
    # target (3, 3), two of four: pinv scores 2/3 for (2, 1) .. the published rule starts at {1, 2}, distance |(2, 4) - (3, 3)| = sqrt 2. The gradient
    # there is A'(-1, 1) = (-3, 3, -1, -3): out 1 (3), in 0 (-3): f changes by -6 + |(3, -3)|^2 / 2 = 3 > 0, so it stops. The exact rule finds
    # out 2, in 0: -2 + |(1, -1)|^2 / 2 = -1, and is at distance 0.
    counts = np.array([[3, 0], [0, 3], [2, 1], [3, 0]])
    plain, exact = (gbp_cs(counts, [3.0, 3.0], 2, exact_swap=e) for e in (False, True))
    assert (plain.chosen.tolist(), plain.swaps, plain.distance) == ([1, 2], 0, pytest.approx(2**0.5))
    assert (exact.chosen.tolist(), exact.swaps, exact.distance) == ([0, 1], 1, 0.0)
    assert brute_force(counts, [3.0, 3.0], 2).chosen.tolist() == [0, 1]
    # F K^2 = 2 * 16 for the start, 2 F K = 16 for the swap that is tried
    assert plain.flops == 32 + 16


def test_order_of_the_candidates_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 50, size=(12, 5)) + np.eye(12, 5, dtype=int)  # no two alike, so that there are no ties
    order = rng.permutation(12)
    mine, other = gbp_cs(counts, counts.mean(0) * 4, 4), gbp_cs(counts[order], counts.mean(0) * 4, 4)
    assert sorted(order[other.chosen].tolist()) == mine.chosen.tolist()


def test_none_and_all() -> None:
    counts = np.eye(3, dtype=int)
    assert gbp_cs(counts, np.ones(3), 0).chosen.tolist() == []
    assert gbp_cs(counts, np.ones(3), 3).chosen.tolist() == [0, 1, 2]


def test_it_beats_random_sets_and_is_near_the_best() -> None:
    # the published sizes: 62 classes, 35 candidates, sets of 10; and a small one; two of each set are random. Means of 20 draws.
    def means(classes: int, candidates: int, size: int) -> dict[str, float]:
        found: dict[str, list[float]] = {"random": [], "best of 100": [], "gbp-cs": [], "exact": [], "brute": []}
        for seed in range(20):
            rng = np.random.default_rng(seed)
            counts = np.stack([rng.multinomial(32, rng.dirichlet(np.full(classes, 0.3))) for _ in range(candidates)])
            target, counts = counts.mean(0) * size - counts[:2].sum(0), counts[2:]
            found["random"].append(best_of(counts, target, size - 2, rng, draws=1).distance)
            found["best of 100"].append(best_of(counts, target, size - 2, rng).distance)
            found["gbp-cs"].append(gbp_cs(counts, target, size - 2).distance)
            found["exact"].append(gbp_cs(counts, target, size - 2, exact_swap=True).distance)
            if candidates < 20:
                found["brute"].append(brute_force(counts, target, size - 2).distance)
        return {name: float(np.mean(values)) for name, values in found.items() if values}

    large, small = means(62, 35, 10), means(10, 14, 6)
    assert large["exact"] < large["gbp-cs"] <= 0.75 * large["random"]
    assert large["gbp-cs"] < large["best of 100"] < large["random"]
    assert small["brute"] <= small["exact"] <= small["gbp-cs"] <= 1.5 * small["brute"]


# --- groups ------------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), clients=st.integers(1, 30), groups=st.integers(1, 30), normalize=st.booleans())
def test_groups_are_equal_and_have_one_of_each_cluster(seed: int, clients: int, groups: int, normalize: bool) -> None:
    groups = min(groups, clients)
    rng = np.random.default_rng(seed)
    counts = 1 + rng.integers(0, 20, size=(clients, 3))
    found = icg(counts, groups, np.random.default_rng(seed), normalize=normalize)
    members = np.concatenate(found)
    assert len(found) == groups
    assert {len(g) for g in found} == {clients // groups}
    assert len(set(members.tolist())) == len(members) == clients // groups * groups
    again = icg(counts, groups, np.random.default_rng(seed), normalize=normalize)
    assert all((a == b).all() for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize("greedy", [False, True])
def test_clusters_find_what_is_there(greedy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # three far heaps of four points each: whatever the first centroids, a good clustering is at hand from most of them
    monkeypatch.setattr(grouping, "_MOST_EXACT", 0 if greedy else 1000)
    rng = np.random.default_rng(0)
    heaps = np.repeat(np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]]), 4, axis=0) + rng.normal(size=(12, 2))
    wanted = [{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}]
    hits = 0
    for seed in range(10):
        found = equal_clusters(heaps, 4, np.random.default_rng(seed))
        assert sorted(np.concatenate(found).tolist()) == list(range(12))
        assert {len(c) for c in found} == {4}
        hits += sorted(map(set, (c.tolist() for c in found)), key=min) == wanted
    assert hits >= 5


def test_groups_are_more_alike_than_random_ones() -> None:
    # 60 clients, 5 groups of 12: mean L1 distance of a group's distribution to the whole, over seeds
    def distance(counts: np.ndarray, found: list[np.ndarray]) -> float:
        whole = counts.sum(0) / counts.sum()
        return float(np.mean([np.abs(counts[g].sum(0) / counts[g].sum() - whole).sum() for g in found]))

    mine, random = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        counts = np.stack([1 + rng.multinomial(20, rng.dirichlet(np.full(10, 0.1))) for _ in range(60)])
        mine.append(distance(counts, icg(counts, 5, rng)))
        random.append(distance(counts, random_groups(60, 5, rng)))
    assert np.mean(mine) <= 0.9 * np.mean(random)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # beta floor(a r + 1), r = 1..6: 0.5 r + 1 = 1.5, 2, 2.5, 3, 3.5, 4
        ({"growth": "linear", "rate": 0.5}, [2, 4, 4, 6, 6, 8]),
        # ln r = 0, 0.69, 1.10, 1.39, 1.61, 1.79; times 2 plus 1: 1, 2.39, 3.20, 3.77, 4.22, 4.58
        ({"growth": "log", "rate": 2.0}, [2, 4, 6, 6, 8, 8]),
        # 2^r
        ({"growth": "exp", "rate": 2.0}, [4, 8, 16, 32, 50, 50]),
        # 2^(r - 1)
        ({"growth": "power", "rate": 1.0}, [2, 4, 8, 16, 32, 50]),
        ({"growth": "none", "rate": 9.0}, [2] * 6),
    ],
)
def test_growth(fields: dict[str, Any], expected: list[int]) -> None:
    assert [group_count(t, 50, start=2, **fields) for t in range(6)] == expected


@pytest.mark.parametrize("growth", ["linear", "log", "exp", "power", "none"])
def test_groups_never_become_fewer_nor_more_than_clients(growth: Any) -> None:
    numbers = [group_count(t, 40, start=3, growth=growth, rate=1.1) for t in range(2000)]
    assert all(a <= b for a, b in pairwise(numbers))
    assert numbers[-1] == (3 if growth == "none" else 40 if growth != "log" else min(40, 3 * int(1.1 * np.log(2000) + 1)))


def test_the_authors_defaults_are_a_slow_ramp() -> None:
    numbers = [group_count(t, 368, start=10, growth="linear", rate=0.072) for t in range(501)]
    assert numbers[0] == 10
    assert numbers.index(368) == 499  # round 500: 10 floor(0.072 * 500 + 1) = 370


# --- bad input ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gbp_cs([[1, 0], [0, 0]], [1.0, 0.0], 1), "candidate 1 has no label in any class"),
        (lambda: gbp_cs([[1, -1]], [1.0, 0.0], 1), "label counts >= 0"),
        (lambda: gbp_cs([[1, 0]], [1.0], 1), "2 finite numbers"),
        (lambda: gbp_cs([[1, 0]], [1.0, 0.0], 2), r"size=2\): must be 0..1"),
        (lambda: brute_force(np.ones((40, 2)), [1.0, 1.0], 20), "allowed are 2000000"),
        (lambda: best_of([[1, 0]], [1.0, 0.0], 1, np.random.default_rng(0), draws=0), "draws=0"),
        (lambda: equal_clusters(np.ones((5, 2)), 2, np.random.default_rng(0)), "cannot be equal"),
        (lambda: icg(np.ones((5, 2)), 6, np.random.default_rng(0)), "cannot be equal; allowed are 1..5"),
        (lambda: icg([[1, 0], [0, 0]], 2, np.random.default_rng(0)), "no label in any class"),
        (lambda: group_count(0, 9, start=2, growth="exp", rate=0.5), "must be >= 1"),
        (lambda: random_groups(3, 0, np.random.default_rng(0)), "allowed are 1..3"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        call()
