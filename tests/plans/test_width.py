"""Widths: thresholds, the window against its definition and the published loop, monotone utilities, equal groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.plans.width import BEFORE_WINDOW, at_random, by_capacity, rate, utility, window


def test_thresholds_of_five_levels() -> None:
    below = np.nextafter([0.2, 0.4, 0.6, 0.8], 0.0)
    assert [rate(u) for u in (0.0, *below)] == [1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2]
    assert [rate(u) for u in (0.2, 0.4, 0.6, 0.8, 1.0, 50.0)] == [1 / 8, 1 / 4, 1 / 2, 1.0, 1.0, 1.0]
    assert rate(0.0, levels=1) == 1.0


@given(st.lists(st.floats(0.0, 2.0), min_size=2, max_size=9), st.integers(1, 8))
def test_the_quantizer_is_monotone(us: list[float], levels: int) -> None:
    found = [rate(u, levels) for u in sorted(us)]
    assert found == sorted(found)
    assert set(found) <= {0.5**k for k in range(levels)}


@given(st.lists(st.floats(0.0, 10.0), max_size=30), st.integers(0, 8), st.integers(0, 9))
def test_the_window_is_the_mean_of_its_rounds(F: list[float], delay: int, onepoint: int) -> None:
    onepoint = min(onepoint, delay + 1)
    r = len(F)  # rounds 0 .. r - 1 are known
    rounds = range(r - 2 - delay - onepoint, r - 2 - delay + onepoint + 1)
    found = window([{"a": f} for f in F], delay=delay, onepoint=onepoint)
    if rounds[0] < 0:
        assert found == {}
    else:
        assert found["a"] == pytest.approx(np.mean([F[k] for k in rounds]))


@pytest.mark.parametrize(("delay", "onepoint"), [(10, 0), (10, 2), (5, 5), (0, 1)])
def test_a_constant_stays_itself_once_the_window_exists(delay: int, onepoint: int) -> None:
    need = 2 + delay + onepoint
    assert window([{"a": 3.0}] * (need - 1), delay=delay, onepoint=onepoint) == {}
    assert window([{"a": 3.0}] * need, delay=delay, onepoint=onepoint) == {"a": pytest.approx(3.0)}


def test_the_published_window_divides_inside_its_loop_and_sees_the_latest_only() -> None:
    history = [{"a": float(k)} for k in range(1, 10)]
    F = 0.0
    for _ in range(5):  # the loop as published, over entries that are all the latest array
        F = (F + 9.0) / 5
    assert window(history, delay=1, onepoint=2, mode="paper")["a"] == pytest.approx(F)
    assert window(history, delay=1, onepoint=2)["a"] == 7.0  # rounds 4 .. 8 hold 5 .. 9


def test_a_device_that_is_not_in_all_of_the_window_has_no_mean() -> None:
    assert window([{"a": 1.0}, {"a": 2.0, "b": 5.0}, {"a": 3.0, "b": 5.0}], delay=0, onepoint=1) == {"a": 2.0}


@given(st.integers(1, 1000), st.floats(1e-6, 10.0), st.floats(0.1, 100.0), st.floats(0.1, 3.0))
def test_utility_rises_with_data_and_gradient_and_falls_with_time(D: int, F: float, T: float, power: float) -> None:
    W = utility(D, F, T, scale_s=20.0, power=power)
    assert utility(D + 1, F, T, scale_s=20.0, power=power) > W
    assert utility(D, 1.5 * F, T, scale_s=20.0, power=power) > W
    assert utility(D, F, 1.5 * T, scale_s=20.0, power=power) < W
    # by hand: D sqrt(F) (20 / T)^power; the constant 1e-5 stands for sqrt(F)
    assert utility(D, BEFORE_WINDOW**2, T, scale_s=20.0, power=power) == pytest.approx(utility(D, None, T, scale_s=20.0, power=power))


@given(st.lists(st.floats(0.1, 100.0), min_size=1, max_size=23), st.integers(1, 6))
def test_groups_are_equal_and_the_fastest_train_the_most(seconds: list[float], levels: int) -> None:
    found = by_capacity({f"d{i}": s for i, s in enumerate(seconds)}, levels)
    sizes = [list(found.values()).count(0.5**k) for k in range(levels)]
    assert sum(sizes) == len(seconds) and max(sizes) - min(sizes) <= 1
    by_speed = [found[f"d{i}"] for i in np.argsort(seconds, kind="stable")]
    assert by_speed == sorted(by_speed, reverse=True)


def test_random_widths_use_all_levels_alike() -> None:
    drawn = [at_random([f"d{i}" for i in range(20)], 5, np.random.default_rng(seed)) for seed in range(50)]
    counts = [sum(list(d.values()).count(0.5**k) for d in drawn) for k in range(5)]
    assert sum(counts) == 1000 and all(abs(c - 200) < 3 * np.sqrt(1000 * 0.2 * 0.8) for c in counts)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: rate(-0.1), "utility >= 0"),
        (lambda: rate(float("nan")), "utility >= 0"),
        (lambda: rate(0.5, levels=0), "at least one level"),
        (lambda: window([], delay=2, onepoint=4), "onepoint <= delay"),
        (lambda: window([], delay=-1, onepoint=0), "onepoint <= delay"),
        (lambda: utility(1, 1.0, 0.0, scale_s=1.0, power=1.0), "seconds > 0"),
        (lambda: utility(1, -1.0, 1.0, scale_s=1.0, power=1.0), "mean square >= 0"),
        (lambda: by_capacity({"a": 0.0}), "seconds > 0"),
    ],
)
def test_bad_input(make: Any, what: str) -> None:
    with pytest.raises(ScenarioError, match=what):
        make()
