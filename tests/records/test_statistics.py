from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from airloom.clock.rng import generator
from airloom.records.statistics import Interval, Spent, holm, mean_interval, paired_p, paired_ratio, restricted_mean


def spent(*costs: float | None, end: float = 100.0) -> list[Spent]:
    return [Spent(end, is_reached=False) if cost is None else Spent(cost) for cost in costs]


def test_mean_interval_by_hand() -> None:
    # 1, 2, 3, 4: mean 5/2; s^2 = (9 + 1 + 1 + 9)/4/3 = 5/3; error sqrt(5/12); t(0.975, 3) = 3.18245 (printed tables)
    interval = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert interval.mean == 2.5
    assert interval.low == pytest.approx(2.5 - 3.18245 * math.sqrt(5 / 12), abs=1e-5)
    assert interval.high == pytest.approx(2.5 + 3.18245 * math.sqrt(5 / 12), abs=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_seeds_have_no_interval(n: int) -> None:
    assert mean_interval([2.0] * n) == Interval(mean=2.0)
    assert paired_ratio(spent(*[2.0] * n), spent(*[1.0] * n)).low is None
    assert paired_p(spent(*[2.0] * n), spent(*[1.0] * n)) is None


@pytest.mark.parametrize("values", [[], [1.0, math.nan, 2.0], [math.inf, 1.0]])
def test_a_missing_value_leaves_no_mean(values: list[float]) -> None:
    assert mean_interval(values) == Interval(mean=None)


def test_restricted_mean_counts_all_seeds() -> None:
    assert restricted_mean(spent(10.0, 30.0, None, end=80.0)) == Interval(mean=40.0, bound="at least")  # (10 + 30 + 80)/3, and not 20
    assert restricted_mean(spent(None, None, end=80.0)) == Interval(mean=80.0, bound="at least")
    assert restricted_mean(spent(10.0, 30.0)) == Interval(mean=20.0)
    assert restricted_mean([]).mean is None


def test_paired_ratio_by_hand() -> None:
    # ratios 2, 8, 2, 8: geometric mean 4; logs are log 4 -+ log 2, s = log 2 * sqrt(4/3), error log 2 / sqrt 3, t(0.975, 3) = 3.18245
    ratio = paired_ratio(spent(2.0, 8.0, 20.0, 80.0), spent(1.0, 1.0, 10.0, 10.0))
    factor = 2 ** (3.18245 / math.sqrt(3))
    assert ratio.mean == pytest.approx(4.0)
    assert ratio.low == pytest.approx(4.0 / factor, rel=1e-5)
    assert ratio.high == pytest.approx(4.0 * factor, rel=1e-5)


def test_the_ratio_turned_around() -> None:
    a, b = spent(3.0, 5.0, 2.0, 9.0, 4.0), spent(1.0, 7.0, 2.5, 3.0, 4.0)
    one, other = paired_ratio(a, b), paired_ratio(b, a)
    assert one.mean is not None and one.low is not None and other.mean is not None and other.high is not None
    assert one.mean * other.mean == pytest.approx(1.0)
    assert one.low * other.high == pytest.approx(1.0)


def test_censored_seeds_leave_bounds() -> None:
    full, some = spent(10.0, 10.0), spent(20.0, None, end=80.0)
    above, below = paired_ratio(some, full), paired_ratio(full, some)
    assert (above.mean, above.low, above.high, above.bound) == (pytest.approx(4.0), None, None, "at least")  # sqrt(2 * 8)
    assert (below.mean, below.low, below.high, below.bound) == (pytest.approx(0.25), None, None, "at most")
    assert paired_ratio(some, some).mean is None
    assert paired_p(spent(None, 1.0, 1.0, 1.0), spent(1.0, 1.0, 1.0, 1.0)) is None


def test_costs_of_zero_have_no_ratio() -> None:
    assert paired_ratio(spent(0.0, 0.0), spent(0.0, 0.0)).mean is None
    assert paired_ratio([], []).mean is None


def test_paired_p_is_the_paired_t_test_on_logs() -> None:
    a, b = [3.0, 5.0, 2.0, 9.0, 4.0], [1.0, 7.0, 2.5, 3.0, 4.0]
    expected = stats.ttest_rel(np.log(a), np.log(b)).pvalue
    assert paired_p(spent(*a), spent(*b)) == pytest.approx(expected, rel=1e-12)
    assert paired_p(spent(*a), spent(*a)) == 1.0
    assert paired_p(spent(2.0, 2.0, 2.0, 2.0), spent(1.0, 1.0, 1.0, 1.0)) == 0.0


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.015, 0.03, 0.2 times 4, 3, 2, 1: 0.04, 0.045, 0.06, 0.2, which already increase
    assert holm([0.2, 0.01, None, 0.03, 0.015]) == pytest.approx([0.2, 0.04, None, 0.06, 0.045])
    # 0.02 * 3 = 0.06, 0.025 * 2 = 0.05 -> 0.06, 0.9 -> 0.9: never below the one before
    assert holm([0.02, 0.025, 0.9]) == pytest.approx([0.06, 0.06, 0.9])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == [] and holm([None]) == [None]


@pytest.mark.parametrize("n", [5, 10])
def test_intervals_cover_the_truth_as_often_as_they_say(n: int) -> None:
    # 2000 comparisons with a true ratio of 2: coverage 0.95 with a standard error of 0.005
    rng, hits, runs = generator("coverage", n), 0, 2000
    for _ in range(runs):
        world = rng.lognormal(3.0, 1.0, n)  # how hard a seed's world is, shared by both methods
        ratio = paired_ratio(spent(*(2.0 * world * rng.lognormal(0.0, 0.2, n)).tolist()), spent(*(world * rng.lognormal(0.0, 0.2, n)).tolist()))
        assert ratio.low is not None and ratio.high is not None
        hits += ratio.low <= 2.0 <= ratio.high
    assert hits / runs == pytest.approx(0.95, abs=0.02)


def test_restricted_mean_is_unbiased_where_survivors_are_not() -> None:
    # exponential times of mean 100, budget 100: E min(T, 100) = 100 (1 - 1/e) = 63.2; survivors average 100 - 100/(e - 1) = 41.8
    times = generator("restricted").exponential(100.0, 20_000)
    values = [Spent(float(t)) if t <= 100.0 else Spent(100.0, is_reached=False) for t in times]
    assert restricted_mean(values).mean == pytest.approx(100.0 * (1.0 - math.exp(-1.0)), abs=1.0)
    survivors = [value.cost for value in values if value.is_reached]
    assert sum(survivors) / len(survivors) < 45.0
