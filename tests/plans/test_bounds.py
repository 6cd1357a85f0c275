from __future__ import annotations

from dataclasses import replace
from math import exp, isclose, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.plans.bounds import Constants, Convex, NonConvex, Problem, StronglyConvex, pfl_bound, rounds_to, sfl_bound, tuned

positive = st.floats(1e-2, 1e2)
starts = st.one_of(
    st.builds(Convex, distance=positive),
    st.builds(NonConvex, gap=positive),
    st.builds(StronglyConvex, distance=positive, strong_convexity=st.floats(1e-2, 1)),
)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    clients = draw(st.integers(1, 50))
    return Problem(
        start=draw(starts),
        clients=clients,
        participants=draw(st.integers(1, clients)),
        local_steps=draw(st.integers(1, 20)),
        smoothness=draw(positive),
        noise=draw(st.one_of(st.just(0.0), positive)),
        heterogeneity=draw(st.one_of(st.just(0.0), positive)),
    )


constants = st.builds(Constants, c0=positive, c1=positive, c2=positive, c3=positive)
rounds = st.integers(1, 10**6)

# M = 5, S = 2, K = 3, L = 2, sigma^2 = 12, zeta^2 = 20, step 1/4, R = 8:
#   sampling (M-S)/(S(M-1)) = 3/8; b = 12/(2*3) + 20*3/8 = 2 + 7.5
BASE = Problem(start=Convex(distance=3), clients=5, participants=2, local_steps=3, smoothness=2, noise=12**0.5, heterogeneity=20**0.5)


def test_terms_by_hand_convex() -> None:
    bound = sfl_bound(BASE, step=0.25, rounds=8)
    assert bound.start == pytest.approx(9 / (0.25 * 8))  # D^2 / (s R)
    assert bound.noise == pytest.approx(2 * 0.25)
    assert bound.sampling == pytest.approx(7.5 * 0.25)
    assert bound.noise_drift == pytest.approx(2 * 12 / (2 * 3) / 16)  # L sigma^2/(S K) s^2
    assert bound.heterogeneity_drift == pytest.approx(2 * 20 / 2 / 16)  # L zeta^2/S s^2
    assert bound.lr == pytest.approx(0.25 / (2 * 3))  # s = S K lr
    parallel = pfl_bound(BASE, step=0.25, rounds=8)
    assert parallel.noise_drift == pytest.approx(2 * 12 / 3 / 16)  # L sigma^2/K s^2
    assert parallel.heterogeneity_drift == pytest.approx(2 * 20 / 16)
    assert parallel.lr == pytest.approx(0.25 / 3)  # s = K lr
    assert (parallel.start, parallel.noise, parallel.sampling) == (bound.start, bound.noise, bound.sampling)


def test_terms_by_hand_non_convex_gain_one_power_of_smoothness() -> None:
    convex, other = (sfl_bound(replace(BASE, start=start), step=0.25, rounds=8) for start in (Convex(distance=3), NonConvex(gap=9)))
    assert other.start == convex.start  # A0 = 9 = D^2
    for name in ("noise", "sampling", "noise_drift", "heterogeneity_drift"):
        assert getattr(other, name) == pytest.approx(2 * getattr(convex, name))


def test_terms_by_hand_strongly_convex() -> None:
    bound = sfl_bound(replace(BASE, start=StronglyConvex(distance=3, strong_convexity=0.5)), step=0.25, rounds=8)
    assert bound.start == pytest.approx(0.5 * 9 * exp(-0.5 * 0.25 * 8 / 2))
    assert bound.total - bound.start == pytest.approx(sfl_bound(BASE, step=0.25, rounds=8).total - 9 / 2)


@given(problems(), rounds, st.floats(1e-6, 1), constants)
def test_sequential_is_never_worse_at_equal_constants_and_terms_add_up(p: Problem, r: int, part: float, k: Constants) -> None:
    step = part / (k.c3 * p.smoothness)
    sequential, parallel = (bound(p, step=step, rounds=r, constants=k) for bound in (sfl_bound, pfl_bound))
    assert sequential.total <= parallel.total * (1 + 1e-12)
    terms = [getattr(sequential, name) for name in ("start", "noise", "sampling", "noise_drift", "heterogeneity_drift")]
    assert min(terms) >= 0
    assert isclose(sum(terms), sequential.total)


@given(problems(), rounds, constants)
def test_one_participant_makes_them_equal(p: Problem, r: int, k: Constants) -> None:
    p = replace(p, participants=1)
    assert sfl_bound(p, step=0.5 / (k.c3 * p.smoothness), rounds=r, constants=k) == pfl_bound(
        p, step=0.5 / (k.c3 * p.smoothness), rounds=r, constants=k
    )
    assert tuned(p, rounds=r, is_sequential=True, constants=k) == tuned(p, rounds=r, is_sequential=False, constants=k)


@given(problems(), st.booleans(), rounds, st.integers(1, 10**6), constants)
def test_bounds_never_grow_with_rounds(p: Problem, is_sequential: bool, r: int, more: int, k: Constants) -> None:
    step = 0.5 / (k.c3 * p.smoothness)
    bound = sfl_bound if is_sequential else pfl_bound
    assert bound(p, step=step, rounds=r + more, constants=k).total <= bound(p, step=step, rounds=r, constants=k).total
    first, later = (tuned(p, rounds=n, is_sequential=is_sequential, constants=k) for n in (r, r + more))
    assert later.guarantee <= first.guarantee * (1 + 1e-9)
    assert later.bound.total <= first.bound.total * (1 + 1e-9)


@given(problems(), st.booleans(), rounds, constants)
def test_tuned_guarantee_holds_at_its_step(p: Problem, is_sequential: bool, r: int, k: Constants) -> None:
    best = tuned(p, rounds=r, is_sequential=is_sequential, constants=k)
    assert 0 <= best.step <= 1 / (k.c3 * p.smoothness) * (1 + 1e-12)
    assert best.guarantee >= best.bound.total * (1 - 1e-12)
    if best.step > 0:
        assert best.bound == (sfl_bound if is_sequential else pfl_bound)(p, step=best.step, rounds=r, constants=k)


@given(problems(), st.booleans(), rounds)
def test_strongly_convex_step_is_the_best_on_a_grid(p: Problem, is_sequential: bool, r: int) -> None:
    p = replace(p, start=StronglyConvex(distance=2, strong_convexity=0.3))
    best = tuned(p, rounds=r, is_sequential=is_sequential)
    bound = sfl_bound if is_sequential else pfl_bound
    grid = [bound(p, step=step, rounds=r).total for step in np.geomspace(1e-9, 1 / p.smoothness, 60)]
    assert best.bound.total <= min(grid) * (1 + 1e-9)


def test_tuned_by_hand() -> None:
    # M = S = 8, K = 1, L = 1, sigma = 0, zeta = 1, D = 1: beta = 0, c = 1/8 (sequential), d = 1; R = 1000
    # step = min(1, (1/(1000/8))^(1/3)) = 0.2; bound 1/(0.2*1000) + 0.04/8 = 0.01; guarantee 0.001 + 2 * 0.5 * 0.01 = 0.011
    p = Problem(start=Convex(distance=1), clients=8, participants=8, local_steps=1, smoothness=1, noise=0, heterogeneity=1)
    best = tuned(p, rounds=1000, is_sequential=True)
    assert best.step == pytest.approx(0.2)
    assert best.bound.total == pytest.approx(0.01)
    assert best.guarantee == pytest.approx(0.011)
    # parallel: c = 1, guarantee 0.001 + 2 * 0.01
    assert tuned(p, rounds=1000, is_sequential=False).guarantee == pytest.approx(0.021)


def test_noise_free_tuning_takes_the_largest_step() -> None:
    p = replace(BASE, noise=0, heterogeneity=0)
    best = tuned(p, rounds=10, is_sequential=True)
    assert best.step == 0.5  # 1/(c3 L)
    assert best.guarantee == pytest.approx(9 / (0.5 * 10))


@given(problems(), st.booleans(), st.floats(0.05, 10))
def test_rounds_to_is_the_fewest(p: Problem, is_sequential: bool, eps: float) -> None:
    needed = rounds_to(eps, p, is_sequential=is_sequential)
    assert tuned(p, rounds=needed, is_sequential=is_sequential).guarantee <= eps
    assert needed == 1 or tuned(p, rounds=needed - 1, is_sequential=is_sequential).guarantee > eps


def test_rounds_to_by_hand() -> None:
    # noise free and strongly convex: mu D^2 exp(-mu R/(2 L)) <= eps at the largest step, so R = 2 L/mu log(mu D^2/eps) = 20 log(90)
    p = replace(BASE, start=StronglyConvex(distance=3, strong_convexity=0.2), noise=0, heterogeneity=0)
    assert rounds_to(0.02, p, is_sequential=True) == int(20 * log(90)) + 1


def test_full_participation_has_no_sampling_term() -> None:
    for clients in (1, 7):
        p = replace(BASE, clients=clients, participants=clients)
        assert sfl_bound(p, step=0.1, rounds=3).sampling == 0


@pytest.mark.parametrize("field", ["smoothness", "local_steps", "participants", "clients"])
def test_problem_refuses_zero(field: str) -> None:
    with pytest.raises(ScenarioError, match=rf"Problem\({field}=0.*must be"):
        replace(BASE, **{field: 0})


def test_bad_input_is_named() -> None:
    with pytest.raises(ScenarioError, match=r"participants=6, clients=5.*between 1 and clients"):
        replace(BASE, participants=6)
    with pytest.raises(ScenarioError, match=r"step=0.6.*\(0, 0.5\]"):
        sfl_bound(BASE, step=0.6, rounds=1)
    with pytest.raises(ScenarioError, match="rounds=0"):
        tuned(BASE, rounds=0, is_sequential=True)
    with pytest.raises(ScenarioError, match=r"eps=0.0"):
        rounds_to(0.0, BASE, is_sequential=True)
    with pytest.raises(ScenarioError, match="reachable within 1e\\+15 rounds"):
        rounds_to(1e-12, BASE, is_sequential=True)
    with pytest.raises(ScenarioError, match=r"Constants\(c2=-1"):
        Constants(c2=-1)
