"""Radio formulas against numbers worked by hand, closed forms and Monte Carlo."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import exp1

from airloom.clock.rng import generator
from airloom.errors import ScenarioError
from airloom.network.channel import (
    DOWN_RATE,
    SHANNON,
    UP_RATE,
    Environment,
    RateCurve,
    coherence_s,
    correlated_normals,
    draw_power_gain,
    fading_table,
    line_of_sight_probability,
    linear,
    path_loss_db,
    shadowing_db,
    watts,
)


def one_loss(environment: Environment, distance_m: float, sees: bool, height_m: float) -> float:
    loss = path_loss_db(environment, np.array([distance_m]), np.array([sees]), carrier_hz=3.5e9, base_height_m=height_m)
    return float(loss[0])


def test_path_loss_by_hand() -> None:
    # all at 3.5 GHz, 20 log10(3.5) = 10.8814; device at 1.5 m
    # UMi 100 m: d3 = sqrt(100^2 + 8.5^2) = 100.3606, log10 = 2.0015633
    #   LOS  32.4 + 21 * 2.0015633 + 10.8814 = 85.3142;  NLOS 22.4 + 35.3 * 2.0015633 + 21.3 * 0.544068 = 104.6438
    assert one_loss("umi", 100.0, True, 10.0) == pytest.approx(85.3142, abs=1e-3)
    assert one_loss("umi", 100.0, False, 10.0) == pytest.approx(104.6438, abs=1e-3)
    # UMi 500 m LOS, beyond the breakpoint 4 * 9 * 0.5 * 3.5e9 / c = 210.146 m: d3 = 500.0722, log10 = 2.6990328
    #   32.4 + 40 * 2.6990328 + 10.8814 - 9.5 log10(210.146^2 + 8.5^2) = 32.4 + 107.9613 + 10.8814 - 44.1346 = 107.1080
    assert one_loss("umi", 500.0, True, 10.0) == pytest.approx(107.1080, abs=1e-3)
    # UMa 200 m NLOS: d3 = sqrt(200^2 + 23.5^2) = 201.3759, log10 = 2.3040075;  13.54 + 39.08 * 2.3040075 + 10.8814 = 114.4620
    assert one_loss("uma", 200.0, False, 25.0) == pytest.approx(114.4620, abs=1e-3)
    # indoor 20 m, ceiling 3 m: d3 = 20.05617, log10 = 1.3022480
    #   LOS 32.4 + 17.3 * 1.302248 + 10.8814 = 65.8103;  NLOS 17.3 + 38.3 * 1.302248 + 24.9 * 0.544068 = 80.7234
    assert one_loss("indoor_mixed", 20.0, True, 3.0) == pytest.approx(65.8103, abs=1e-3)
    assert one_loss("indoor_open", 20.0, False, 3.0) == pytest.approx(80.7234, abs=1e-3)


@pytest.mark.parametrize("environment", ["umi", "uma"])
def test_path_loss_has_no_jump_at_the_breakpoint_and_blocked_is_never_below_direct(environment: Environment) -> None:
    height = 10.0 if environment == "umi" else 25.0
    breakpoint_m = 4.0 * (height - 1.0) * 0.5 * 3.5e9 / 299_792_458.0
    below, above = (one_loss(environment, breakpoint_m * s, True, height) for s in (1 - 1e-9, 1 + 1e-9))
    # the tables round their coefficients: a step of a few hundredths of a decibel stays
    assert above == pytest.approx(below, abs=0.2)
    d = np.geomspace(10.0, 5000.0, 200)
    direct = path_loss_db(environment, d, np.full(200, True), carrier_hz=3.5e9, base_height_m=height)
    blocked = path_loss_db(environment, d, np.full(200, False), carrier_hz=3.5e9, base_height_m=height)
    assert (blocked >= direct).all()


def test_line_of_sight_probability_by_hand() -> None:
    def p(environment: Environment, d: float, height_m: float = 1.5) -> float:
        return float(line_of_sight_probability(environment, np.array([d]), device_height_m=height_m)[0])

    assert p("umi", 18.0) == p("uma", 5.0) == p("indoor_mixed", 1.0) == p("indoor_open", 5.0) == 1.0
    assert p("umi", 72.0) == pytest.approx(0.25 + math.exp(-2.0) * 0.75)  # 18/72, 72/36
    assert p("uma", 126.0) == pytest.approx(1 / 7 + math.exp(-2.0) * 6 / 7)  # 18/126, 126/63
    # UMa at 23 m height: C' = 1, times 1 + 1.25 * (150/100)^3 * exp(-1)
    assert p("uma", 150.0, 23.0) == pytest.approx((0.12 + math.exp(-150 / 63) * 0.88) * (1 + 1.25 * 3.375 * math.exp(-1.0)))
    assert p("indoor_mixed", 5.9) == pytest.approx(math.exp(-1.0))
    assert p("indoor_mixed", 39.1) == pytest.approx(0.32 * math.exp(-1.0))
    assert p("indoor_open", 40.4) == pytest.approx(math.exp(-0.5))
    assert p("indoor_open", 260.7) == pytest.approx(0.54 * math.exp(-1.0))


def test_rate_curve_by_hand() -> None:
    # 10 dB: log2(11) = 3.459432; 0.4 and 0.6 of it
    assert UP_RATE.bps_per_hz(10.0) == pytest.approx(1.383773, abs=1e-6)
    assert DOWN_RATE.bps_per_hz(10.0) == pytest.approx(2.075659, abs=1e-6)
    # -10 dB: log2(1.1) = 0.137504; just below it nothing
    assert UP_RATE.bps_per_hz(0.1) == pytest.approx(0.055001, abs=1e-6)
    assert UP_RATE.bps_per_hz(0.0999) == 0.0
    # caps: 30 dB
    assert UP_RATE.bps_per_hz(1000.0) == 2.0
    assert DOWN_RATE.bps_per_hz(1000.0) == 4.4
    assert SHANNON.bps_per_hz(1.0) == 1.0


@pytest.mark.parametrize(
    ("attenuation", "min_sinr_db", "cap"),
    [(0.0, -10.0, 2.0), (1.5, -10.0, 2.0), (0.4, math.nan, 2.0), (0.4, -10.0, 0.0), (0.4, 20.0, 1.0)],
)
def test_rate_curve_refuses(attenuation: float, min_sinr_db: float, cap: float) -> None:
    with pytest.raises(ScenarioError, match="RateCurve"):
        RateCurve(attenuation=attenuation, min_sinr_db=min_sinr_db, max_bps_per_hz=cap)


def test_units() -> None:
    assert watts(30.0) == pytest.approx(1.0)
    assert linear(3.0) == pytest.approx(1.995262)
    assert linear(-math.inf) == 0.0
    # 0.423 * 299792458 / (0.8333 * 3.5e9) = 43.48 ms
    assert coherence_s(speed_m_per_s=3 / 3.6, carrier_hz=3.5e9) == pytest.approx(0.04348, abs=1e-5)
    assert coherence_s(speed_m_per_s=0.0, carrier_hz=3.5e9) == math.inf


@pytest.mark.parametrize("rice", [0.0, linear(9.0)])
def test_fading_draws_have_mean_one_and_the_variance_of_their_law(rice: float) -> None:
    x = np.array([draw_power_gain(rice, 0, "test", i) for i in range(40_000)])
    variance = (2.0 * rice + 1.0) / (rice + 1.0) ** 2  # of |h|^2; Rayleigh: 1
    assert x.mean() == pytest.approx(1.0, abs=4.0 * math.sqrt(variance / len(x)))
    assert x.var() == pytest.approx(variance, rel=0.08)
    assert (x >= 0.0).all()


def test_ergodic_rate_of_shannon_over_rayleigh_is_the_closed_form() -> None:
    # E[log2(1 + s X)] = exp(1/s) E1(1/s) / ln 2 for X exponential
    table = fading_table(SHANNON, 0.0)
    for db in (-20.0, -3.0, 0.0, 10.0, 30.0):
        s = linear(db)
        assert table.bps_per_hz(s) == pytest.approx(math.exp(1 / s) * float(exp1(1 / s)) / math.log(2.0), rel=2e-4)


@pytest.mark.parametrize("rice", [0.0, linear(7.0)])
@pytest.mark.parametrize("curve", [UP_RATE, DOWN_RATE])
@pytest.mark.parametrize("db", [-15.0, -9.0, 0.0, 12.0, 40.0])
def test_ergodic_rate_agrees_with_monte_carlo(curve: RateCurve, rice: float, db: float) -> None:
    rng = generator("ergodic", rice, db)
    normal = rng.standard_normal((2, 200_000))
    x = (math.sqrt(rice) + normal[0] * math.sqrt(0.5)) ** 2 + 0.5 * normal[1] ** 2
    f = curve.bps_per_hz_narrowing(linear(db) * x / (rice + 1.0))
    assert fading_table(curve, rice).bps_per_hz(linear(db)) == pytest.approx(f.mean(), abs=4.0 * f.std() / math.sqrt(len(x)) + 1e-4)


def test_ergodic_rate_grows_with_sinr_and_continues_beyond_its_grid() -> None:
    for curve in (UP_RATE, SHANNON):
        table = fading_table(curve, 0.0)
        values = [table.bps_per_hz(linear(db)) for db in np.arange(-90.0, 110.0, 0.5)]
        assert all(b >= a for a, b in pairwise(values))
        assert all(v <= curve.max_bps_per_hz for v in values)
    # far below: all of it proportional to the SINR; for Shannon E[log2(1 + s X)] -> s / ln 2
    assert fading_table(SHANNON, 0.0).bps_per_hz(1e-9) == pytest.approx(1e-9 / math.log(2.0), rel=1e-3)


def test_mean_below_by_closed_form_and_by_draws() -> None:
    # Rayleigh: integral of x exp(-x) from 0 to u is 1 - (1 + u) exp(-u)
    assert fading_table(UP_RATE, 0.0).mean_below(1.0) == pytest.approx(1.0 - 2.0 / math.e)
    rice = linear(7.0)
    table = fading_table(UP_RATE, rice)
    normal = generator("below").standard_normal((2, 400_000))
    x = ((math.sqrt(rice) + normal[0] * math.sqrt(0.5)) ** 2 + 0.5 * normal[1] ** 2) / (rice + 1.0)
    for u in (0.3, 1.0, 1.7):
        assert table.mean_below(u) == pytest.approx((x * (x < u)).mean(), abs=5e-3)
    assert table.mean_below(0.0) == 0.0
    assert table.mean_below(1e9) == 1.0


@pytest.mark.parametrize("lines", [100, 120])
def test_shadowing_has_the_kernels_correlation_exactly_and_by_waves(lines: int) -> None:
    # lines of five places at 0, 5, 10, 20 and 40 m, 1 km apart from each other; correlation distance 10 m: exp(-d/10).
    # 100 lines are 500 places, drawn exactly; 120 lines are 600, drawn by waves
    along = np.array([0.0, 5.0, 10.0, 20.0, 40.0])
    positions = np.array([[1e3 * (k % 11) + x, 1e3 * (k // 11)] for k in range(lines) for x in along])
    draws = np.concatenate([correlated_normals(positions, 10.0, generator("shadow", k)).reshape(lines, 5) for k in range(40)])
    sample = draws.T @ draws / len(draws)
    # a sample covariance of 4,000 standard normals has a standard deviation of at most sqrt(2/4000) = 0.022
    assert np.abs(sample - np.exp(-np.abs(along[:, None] - along[None, :]) / 10.0)).max() < 4 * 0.022
    assert np.abs(draws.mean(axis=0)).max() < 4 / math.sqrt(len(draws))


def test_shadowing_spread_follows_line_of_sight() -> None:
    rng = generator("spread")
    positions = rng.uniform(-1e5, 1e5, (400, 2))  # so far apart that all are independent
    sees = np.arange(400) % 2 == 0
    draws = np.array([shadowing_db("umi", positions, sees, generator("spread", k)) for k in range(20)])
    # 4,000 draws each: the sample deviation is within 4 * sigma / sqrt(2 * 4000) = 4.5 %
    assert draws[:, sees].std() == pytest.approx(4.0, rel=0.045)
    assert draws[:, ~sees].std() == pytest.approx(7.82, rel=0.045)
