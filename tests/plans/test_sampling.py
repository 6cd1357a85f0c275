"""Independent sampling: the closed form against brute force and a generic optimizer, its invariants, and constants that come back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from airloom.errors import ScenarioError
from airloom.plans import sampling
from airloom.plans.bandwidth import common_finish

CNN: dict[str, Any] = {"alpha": 28.474, "beta": 2.2043}  # of the authors' code


def instance(seed: int, n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the data and seconds, feasible for the CNN's constants."""
    rng = np.random.default_rng(seed)
    a = rng.dirichlet(np.full(n, 3.0))
    assert n * a.max() ** 2 < CNN["beta"]
    return a, rng.uniform(0.5, 10.0, n)


@st.composite
def instances(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float]:
    n = draw(st.integers(1, 12))
    a = np.array(draw(st.lists(st.floats(0.05, 1.0), min_size=n, max_size=n)))
    t = np.array(draw(st.lists(st.floats(0.01, 100.0), min_size=n, max_size=n)))
    a /= a.sum()
    return a, t, n * float(a.max()) ** 2 * draw(st.floats(1.01, 20.0))


@settings(max_examples=60, deadline=None)
@given(instances(), st.sampled_from([0.0, 0.1, 0.7]))
def test_no_value_of_s_beats_the_exact_plan(made: tuple[np.ndarray, np.ndarray, float], floor: float) -> None:
    # brute force: for every m the best probabilities are q(s) clipped to [floor, 1], so a fine sweep over s covers every plan that could be best
    a, t, beta = made
    best = sampling.independent(a, t, alpha=2.0, beta=beta, floor=floor)
    f, g = len(a) * a**2 / beta, (a / beta) / np.sqrt(t)
    tried = np.clip(f + np.geomspace(1e-4, 1e5, 1500)[:, None] * float(np.median((1 - f) / g)) * g, floor, 1.0)
    costs = tried @ t * (2.0 / (beta - len(a) * a**2 / tried)).mean(axis=1)
    assert best.seconds <= costs.min() * (1 + 1e-9)
    assert (best.probabilities >= floor).all() and (best.probabilities > f).all() and (best.probabilities <= 1).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_generic_optimizer_finds_the_same(seed: int) -> None:
    a, t = instance(seed)
    f = len(a) * a**2 / CNN["beta"]

    def seconds(u: np.ndarray) -> float:
        return float(np.log(sampling.cost(f + (1 - f) * u, a, t, **CNN).seconds))

    exact = sampling.independent(a, t, **CNN)
    found = [minimize(seconds, np.full(len(a), start), bounds=[(1e-6, 1.0)] * len(a), method="L-BFGS-B", options={"maxiter": 5000, "maxfun": 100_000})
             for start in (0.3, 0.9)]  # fmt: skip
    least = min(float(np.exp(r.fun)) for r in found)
    assert exact.seconds <= least * (1 + 1e-9)
    assert exact.seconds == pytest.approx(least, rel=1e-4)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.9, 1.0])
def test_given_the_round_a_generic_optimizer_finds_no_fewer_rounds(share: float) -> None:
    a, t = instance(3, n=6)
    f = 6 * a**2 / CNN["beta"]
    m = float(f @ t + share * (t.sum() - f @ t))
    plan = sampling.for_round(a, t, round_s=m, **CNN)
    assert plan.round_s == pytest.approx(m, rel=1e-9)
    other = minimize(
        lambda q: float(np.mean(CNN["alpha"] / (CNN["beta"] - 6 * a**2 / q))), f + (1 - f) * share, bounds=[(low + 1e-6, 1.0) for low in f],
        constraints={"type": "eq", "fun": lambda q: q @ t - m}, method="SLSQP", options={"maxiter": 1000, "ftol": 1e-12},
    )  # fmt: skip
    assert plan.rounds <= float(other.fun) * (1 + 1e-6)
    assert plan.rounds == pytest.approx(float(other.fun), rel=1e-4)


def test_larger_clients_join_more_often_and_slower_ones_less() -> None:
    t = [1.0, 1.0, 1.0, 4.0]
    q = sampling.independent([0.2, 0.3, 0.25, 0.25], t, **CNN).probabilities
    assert q[1] > q[2] > q[0] and q[3] < q[2]


@pytest.mark.parametrize("seed", range(5))
def test_schemes_cost_no_less_than_the_proposed_one(seed: int) -> None:
    a, t = instance(seed)
    best = sampling.scheme("proposed", a, t, q=0.2, **CNN)
    constant = sampling.scheme("constant", a, t, q=0.2, **CNN)
    others = [sampling.scheme(name, a, t, q=0.2, **CNN) for name in ("full", "uniform", "weight", "fix")]  # type: ignore[arg-type]
    assert best.seconds < constant.seconds <= others[0].seconds
    assert all(best.seconds < other.seconds for other in others)
    # the best constant, by brute force
    costs = [sampling.cost(np.full(len(a), q), a, t, **CNN).seconds for q in np.linspace(0.01, 1.0, 500)]
    assert constant.seconds <= min(costs)
    assert constant.seconds == pytest.approx(min(costs), rel=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_published_surrogate_costs_more(seed: int) -> None:
    a, t = instance(seed)
    paper, exact = sampling.independent(a, t, mode="paper", **CNN), sampling.independent(a, t, **CNN)
    assert exact.seconds < paper.seconds < np.inf
    # it is the surrogate's own optimum: for its m, a generic optimizer finds no lower value of it
    m, f = paper.round_s, len(a) * a**2 / CNN["beta"]

    def surrogate(q: np.ndarray) -> float:
        z = CNN["alpha"] * q * m
        return float((z * np.log(z) - np.log(len(a) * CNN["beta"] * (q - f))).sum())

    other = minimize(surrogate, np.minimum(f * m / (f @ t), 1.0), bounds=[(low * (1 + 1e-6), 1.0) for low in f],
                     constraints={"type": "eq", "fun": lambda q: q @ t - m}, method="SLSQP", options={"maxiter": 2000, "ftol": 1e-10})  # fmt: skip
    assert surrogate(paper.probabilities) <= other.fun + 1e-4 * abs(other.fun)


def test_expected_round_is_below_the_bound() -> None:
    # all 2^6 sets, each with the common finish time of its clients; m = sum q_n (tau_n + c_n)
    rng = np.random.default_rng(0)
    tau, c, q = rng.uniform(0.5, 3.0, 6), rng.uniform(0.1, 1.0, 6), rng.uniform(0.1, 1.0, 6)
    expected = 0.0
    for mask in range(64):
        S = np.array([mask >> n & 1 for n in range(6)], dtype=bool)
        expected += float(np.prod(np.where(S, q, 1 - q))) * common_finish(tau[S], c[S], 1.0).finish_s
    plan = sampling.cost(q, np.full(6, 1 / 6), tau + c, **CNN)
    assert expected < plan.round_s


@settings(max_examples=60, deadline=None)
@given(instances(), st.floats(0.05, 0.8), st.floats(0.5, 100.0))
def test_noise_free_pilots_give_the_constants_back(made: tuple[np.ndarray, np.ndarray, float], low: float, alpha: float) -> None:
    a, t, least = made
    beta = least / low * 1.05  # both pilots converge
    rounds = [sampling.cost(np.full(len(a), q), a, t, alpha=alpha, beta=beta).rounds for q in (low, 1.0)]
    found = sampling.estimate(a, low=low, high=1.0, rounds_low=rounds[0], rounds_high=rounds[1])
    assert found.beta == pytest.approx(beta, rel=1e-6)
    assert found.alpha == pytest.approx(alpha, rel=1e-6)


def test_losses_of_two_pilots_give_the_constants() -> None:
    # N a^2 = 1/2, beta = 2: h(1/2) = 1 / (2 - 1) = 1 and h(1) = 1 / (2 - 1/2) = 2/3; the losses fall from 9 by 3 in so many rounds, times alpha = 3
    a, slow, fast = [0.5, 0.5], [9.0 - r for r in range(9)], [9.0 - 1.5 * r for r in range(6)]
    found = sampling.fit(a, low=0.5, high=1.0, losses_low=slow, losses_high=fast, levels=4)
    assert found is not None and found.levels == 4
    assert found.beta == pytest.approx(2.0)
    # rounds_low at the levels 9 - 7.5 k / 4 are 7.5 k / 4; alpha is their geometric mean over h(1/2) = 1
    assert found.alpha == pytest.approx(7.5 / 4 * 24**0.25)
    assert sampling.fit(a, low=0.5, high=1.0, losses_low=fast, losses_high=slow) is None
    assert sampling.fit(a, low=0.5, high=1.0, losses_low=[1.0], losses_high=[1.0, 0.5]) is None


FINE: dict[str, Any] = {"alpha": 1.0, "beta": 2.0}


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: sampling.independent([0.9, 0.1], [1.0, 1.0], alpha=1.0, beta=1.5), r"client 0 has the share 0.9 .* below sqrt\(beta / N\) = 0.866"),
        (lambda: sampling.independent([0.5, 0.4], [1.0, 1.0], **FINE), "add up to 1"),
        (lambda: sampling.independent([1.0, 0.0], [1.0, 1.0], **FINE), "leave out clients without data"),
        (lambda: sampling.independent([0.5, 0.5], [1.0, 0.0], **FINE), "times_s"),
        (lambda: sampling.independent([0.5, 0.5], [1.0, 1.0], alpha=0.0, beta=2.0), "alpha=0.0"),
        (lambda: sampling.independent([0.5, 0.5], [1.0, 1.0], floor=1.5, **FINE), "floor=1.5"),
        (lambda: sampling.independent([0.5, 0.5], [1.0, 1.0], mode="paper", grid=1, **FINE), "grid=1"),
        (lambda: sampling.cost([0.5, 1.5], [0.5, 0.5], [1.0, 1.0], **FINE), r"numbers in \(0, 1\]"),
        (lambda: sampling.cost([0.0, 0.5], [0.5, 0.5], [1.0, 1.0], **FINE), r"numbers in \(0, 1\]"),
        (lambda: sampling.for_round([0.5, 0.5], [1.0, 1.0], round_s=2.5, **FINE), "at most 2 s, where all join"),
        (lambda: sampling.for_round([0.5, 0.5], [1.0, 1.0], round_s=0.5, **FINE), "above 0.5 s"),
        (lambda: sampling.estimate([0.5, 0.5], low=0.5, high=1.0, rounds_low=5.0, rounds_high=5.0), "must take more rounds"),
        (lambda: sampling.estimate([0.5, 0.5], low=0.5, high=1.5, rounds_low=6.0, rounds_high=5.0), "low < high <= 1"),
        (lambda: sampling.scheme("best", [0.5, 0.5], [1.0, 1.0], q=0.2, **FINE), "must be one of proposed"),  # type: ignore[arg-type]
    ],
)
def test_bad_input(make: Any, what: str) -> None:
    with pytest.raises(ScenarioError, match=what):
        make()
