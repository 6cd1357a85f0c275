from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from airloom.clock.rng import generator
from airloom.errors import ScenarioError
from airloom.plans.bandwidth import common_finish, equal_shares, finish_bounds, fixed_shares

BAND_HZ = 20e6
devices = st.lists(st.tuples(st.floats(0, 100), st.floats(1e-3, 100)), min_size=1, max_size=20)


def test_two_devices_by_hand() -> None:
    # tau 0 and 1, c 1 and 1: 1/T + 1/(T-1) = 1, so T^2 - 3T + 1 = 0 and T = (3 + sqrt 5)/2; b_1 = B/T
    plan = common_finish([0, 1], [1, 1], BAND_HZ)
    t = (3 + 5**0.5) / 2
    assert plan.finish_s == pytest.approx(t, rel=1e-12)
    assert plan.share_hz.tolist() == pytest.approx([BAND_HZ / t, BAND_HZ / (t - 1)], rel=1e-12)


def test_one_device_takes_the_band_and_none_takes_nothing() -> None:
    plan = common_finish([2.0], [3.0], BAND_HZ)
    assert plan.share_hz.tolist() == [BAND_HZ]
    assert plan.finish_s == 5.0
    for empty in (common_finish([], [], BAND_HZ), equal_shares([], [], BAND_HZ)):
        assert len(empty.share_hz) == 0
        assert empty.finish_s == 0
    assert finish_bounds([], []).serial_s == 0


def test_equal_compute_shares_by_upload() -> None:
    plan = common_finish([1, 1, 1], [1, 2, 5], BAND_HZ)  # T = 1 + 8, b = B c/8
    assert plan.finish_s == 9
    assert (plan.share_hz / BAND_HZ).tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])


@given(devices)
def test_shares_fill_the_band_and_all_finish_together_inside_the_bounds(pairs: list[tuple[float, float]]) -> None:
    tau, c = np.array(pairs).T
    plan = common_finish(tau, c, BAND_HZ)
    assert plan.share_hz.sum() == pytest.approx(BAND_HZ, rel=1e-9)
    carried_out = fixed_shares(plan.share_hz, tau, c, BAND_HZ)
    np.testing.assert_allclose(carried_out.arrived_s, plan.finish_s, rtol=1e-9)
    bounds = finish_bounds(tau, c)
    slack = 1 + 1e-12
    assert bounds.low_s <= plan.finish_s * slack
    assert plan.finish_s <= bounds.high_s * slack
    assert bounds.high_s <= bounds.serial_s * slack


@given(devices, st.floats(0, 100), st.floats(1e-3, 100))
def test_one_more_device_finishes_later(pairs: list[tuple[float, float]], tau: float, c: float) -> None:
    taus, cs = np.array(pairs).T
    fewer, more = common_finish(taus, cs, BAND_HZ), common_finish([*taus, tau], [*cs, c], BAND_HZ)
    assert more.finish_s >= fewer.finish_s * (1 - 1e-12)


@given(devices)
def test_no_fixed_division_finishes_earlier(pairs: list[tuple[float, float]]) -> None:
    tau, c = np.array(pairs).T
    best = common_finish(tau, c, BAND_HZ).finish_s
    assert equal_shares(tau, c, BAND_HZ).finish_s >= best * (1 - 1e-9)
    for case in range(20):
        shares = generator("division", case).dirichlet(np.ones(len(tau))) * BAND_HZ
        assume((shares > 0).all())
        assert fixed_shares(shares, tau, c, BAND_HZ).finish_s >= best * (1 - 1e-9)


def test_grid_search_agrees() -> None:
    tau, c = np.array([0.5, 2.0]), np.array([1.5, 0.7])
    grid = np.linspace(1e-4, 1 - 1e-4, 20_001)
    best = min(fixed_shares([part * BAND_HZ, (1 - part) * BAND_HZ], tau, c, BAND_HZ).finish_s for part in grid)
    assert common_finish(tau, c, BAND_HZ).finish_s == pytest.approx(best, rel=1e-3)


def test_a_short_last_upload_keeps_its_digits() -> None:
    # the slowest device needs 1 ns of the band after 1e6 s: T - tau must not be lost in T
    plan = common_finish([0.0, 1e6], [1.0, 1e-9], BAND_HZ)
    assert plan.share_hz.sum() == pytest.approx(BAND_HZ, rel=1e-12)
    assert plan.share_hz[0] == pytest.approx(BAND_HZ * 1e-6, rel=1e-6)  # c/(T - 0) = 1e-6 of the band


def test_bad_input_is_named() -> None:
    with pytest.raises(ScenarioError, match="two lists of one length"):
        common_finish([1.0], [1.0, 2.0], BAND_HZ)
    with pytest.raises(ScenarioError, match=r"whole_band_s=\[0.0\].*> 0"):
        common_finish([1.0], [0.0], BAND_HZ)
    with pytest.raises(ScenarioError, match=r"compute_s=\[-1.0\]"):
        finish_bounds([-1.0], [1.0])
    with pytest.raises(ScenarioError, match=r"band_hz=0"):
        equal_shares([1.0], [1.0], 0)
    with pytest.raises(ScenarioError, match="add up to at most"):
        fixed_shares([15e6, 6e6], [0, 0], [1, 1], BAND_HZ)
