"""Joint choice of probabilities and ranks: brute force over ranks, the rule for linear times, limits, bad input."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.plans import sampling
from airloom.plans.lora_sampling import joint, linear_times, scaled

GRID = [1, 2, 4, 8]


def brute(a: np.ndarray, t: np.ndarray, alpha: float, beta: float, nu: float, q: np.ndarray | None = None) -> float:
    """The least m h over every choice of ranks, each with the closed form for q, or with q as given."""
    found = np.inf
    for at in product(range(len(GRID)), repeat=len(a)):
        omega = np.array([8 / GRID[j] for j in at]) ** nu
        t_k = t[np.arange(len(a)), list(at)]
        if not np.isfinite(t_k).all() or (len(a) * a**2 * omega / beta >= 1).any():
            continue
        if q is None:
            share, Z = scaled(a, [GRID[j] for j in at], rank=8, nu=nu)
            found = min(found, sampling.independent(share, t_k, alpha=alpha / Z**2, beta=beta / Z**2).seconds)
        else:
            slack = beta - len(a) * a**2 * omega / q
            found = min(found, float(np.mean(alpha / slack) * (q @ t_k)) if (slack > 0).all() else np.inf)
    return found


positive = st.floats(0.05, 5.0)
clients = st.lists(st.tuples(positive, positive, positive, st.integers(0, 3)), min_size=1, max_size=3)


@settings(max_examples=60)
@given(clients, st.floats(1.2, 20.0), st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.5]))
def test_it_finds_the_best_of_all_ranks(drawn: list[tuple[float, float, float, int]], slack: float, nu: float) -> None:
    sizes, base, upload, most = map(np.array, zip(*drawn, strict=True))
    a = sizes / sizes.sum()
    t = linear_times(base, 0.1 * base, upload, grid=GRID, rank=8)
    t[np.arange(4) > most[:, None]] = np.inf  # memory
    beta = slack * len(a) * float((a**2 * (8 / 2.0**most) ** nu).max())
    plan = joint(a, t, grid=GRID, rank=8, alpha=3.0, beta=beta, nu=nu)
    assert plan.seconds == pytest.approx(brute(a, t, 3.0, beta, nu), rel=2e-3)
    assert all(k <= 2**j for k, j in zip(plan.ranks, most, strict=True))
    # what it predicts is what its own parts cost
    q, omega = plan.probabilities, 8 / np.array(plan.ranks)
    assert ((q > 0) & (q <= 1)).all()
    assert plan.rounds == pytest.approx(float(np.mean(3.0 / (beta - len(a) * a**2 * omega**nu / q))), rel=1e-6)
    assert plan.round_s == pytest.approx(float(q @ t[np.arange(len(a)), [GRID.index(k) for k in plan.ranks]]), rel=1e-9)


@given(clients, st.sampled_from([0.3, 1.0]))
def test_with_fixed_probabilities_it_finds_the_best_ranks(drawn: list[tuple[float, float, float, int]], nu: float) -> None:
    sizes, base, upload, _ = map(np.array, zip(*drawn, strict=True))
    a, q = sizes / sizes.sum(), np.full(len(drawn), 0.5)
    t = linear_times(base, 0.1 * base, upload, grid=GRID, rank=8)
    beta = 3.0 * len(a) * float(a.max()) ** 2 / 0.5
    plan = joint(a, t, grid=GRID, rank=8, alpha=3.0, beta=beta, nu=nu, probabilities=q)
    assert plan.seconds == pytest.approx(brute(a, t, 3.0, beta, nu, q), rel=2e-3)
    assert plan.probabilities.tolist() == q.tolist()


def test_the_best_rank_for_linear_times() -> None:
    # fixed variance N a^2 (r/k)^nu / q = v, q t(k) = (N a^2 / v) (kappa^-nu tau0 + s kappa^(1-nu)), least at kappa = (nu / (1 - nu)) tau0 / s:
    # nu = 1/2 and s = 1, 2, 4, 8, 16 times tau0 give k / r = 1, 1/2, 1/4, 1/8, 1/16; nu = 1 gives the whole rank for all
    a, grid = np.full(5, 0.2), [1, 2, 4, 8, 16]
    t = linear_times(np.ones(5), np.zeros(5), [1.0, 2.0, 4.0, 8.0, 16.0], grid=grid, rank=16)
    assert joint(a, t, grid=grid, rank=16, alpha=1.0, beta=20.0, nu=0.5).ranks == (16, 8, 4, 2, 1)
    assert joint(a, t, grid=grid, rank=16, alpha=1.0, beta=20.0, nu=1.0).ranks == (16,) * 5
    # q at its limit of 1: there fewer rows save time, and nothing else can
    assert joint([1.0], [[1.0, 50.0]], grid=[8, 16], rank=16, alpha=1.0, beta=2.2, nu=0.1).ranks == (8,)


def test_the_whole_rank_alone_is_plain_sampling() -> None:
    a, t = np.array([0.2, 0.3, 0.5]), np.array([1.0, 4.0, 2.0])
    plan, plain = joint(a, t[:, None], grid=[16], rank=16, alpha=2.0, beta=3.0), sampling.independent(a, t, alpha=2.0, beta=3.0)
    np.testing.assert_allclose(plan.probabilities, plain.probabilities, rtol=1e-12)
    assert (plan.seconds, plan.rounds) == (pytest.approx(plain.seconds, rel=1e-12), pytest.approx(plain.rounds, rel=1e-12))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"grid": [2, 1]}, r"grid=\[2, 1\], rank=4"),
        ({"grid": [1, 8]}, "must be integers from 1 to the rank"),
        ({"weights": [0.5, 0.6]}, "add up to 1"),
        ({"times_s": [[1.0, 2.0]]}, r"times_s of shape \(1, 2\)"),
        ({"times_s": [[1.0, 0.0], [1.0, 1.0]]}, "numbers > 0"),
        ({"times_s": [[1.0, 1.0], [np.inf, np.inf]]}, "client 1 can train no rank"),
        ({"beta": 0.0}, "beta=0.0"),
        ({"nu": -1.0}, "nu=-1.0"),
        ({"beta": 0.4}, r"client 0 has the share 0\.5 of the data and can train 2 of 4 rank rows.* = 1 must be below beta = 0\.4"),
        ({"probabilities": [0.5, 0.1], "beta": 4.0}, r"client 1 .* = 10 must be below beta = 4"),
    ],
)
def test_bad_input(changes: dict[str, Any], what: str) -> None:
    good: dict[str, Any] = {"weights": [0.5, 0.5], "times_s": [[1.0, 2.0]] * 2, "grid": [1, 2], "rank": 4, "alpha": 1.0, "beta": 4.0, **changes}
    with pytest.raises(ScenarioError, match=what):
        joint(**good)
