"""Shared spectrum against brute force: small time steps are not needed, every change is simulated anew."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.clock.media import Airtime, Rerated, max_min


@dataclass(eq=False)
class Flow:
    bits: float
    rate_bps: float
    number: int = 0
    mark: float = 0.0
    resources: tuple[str, ...] = ()


def brute_force(starts: list[float], full_s: list[float]) -> list[float]:
    """Ends under egalitarian sharing, by walking from change to change."""
    left = dict(enumerate(full_s))
    ends = [math.nan] * len(starts)
    waiting = sorted(range(len(starts)), key=lambda i: starts[i])
    active: list[int] = []
    now = 0.0
    while waiting or active:
        next_start = starts[waiting[0]] if waiting else math.inf
        next_end = now + min([left[i] for i in active], default=math.inf) * len(active) if active else math.inf
        until = min(next_start, next_end)
        for i in active:
            left[i] -= (until - now) / len(active)
        if next_end <= next_start:
            done = min(active, key=lambda i: left[i])
            ends[done] = until
            active.remove(done)
        else:
            active.append(waiting.pop(0))
        now = until
    return ends


def play(medium: Airtime | Rerated, starts: list[float], flows: list[Flow]) -> list[float]:
    """Drive a medium as the wires do."""
    waiting = sorted(range(len(starts)), key=lambda i: starts[i])
    ends = {}
    while waiting or len(ends) < len(flows):
        end = medium.next_end_s()
        start = starts[waiting[0]] if waiting else math.inf
        if end is not None and end <= start:
            for flow in medium.finish(end):
                ends[flow.number] = end
        else:
            medium.add(flows[waiting.pop(0)], start)
    return [ends[flow.number] for flow in flows]


cases = st.lists(st.tuples(st.floats(0, 10), st.floats(0.01, 5)), min_size=1, max_size=12)


@given(cases)
def test_airtime_equals_brute_force(case: list[tuple[float, float]]) -> None:
    starts, full_s = [c[0] for c in case], [c[1] for c in case]
    flows = [Flow(8e6 * s, 8e6, i) for i, s in enumerate(full_s)]
    assert play(Airtime(), starts, flows) == pytest.approx(brute_force(starts, full_s), abs=1e-9)


@given(cases)
def test_bands_at_proportional_rates_equal_airtime(case: list[tuple[float, float]]) -> None:
    # where the rate is proportional to the band, sharing the band and sharing the time end every flow at the same time
    starts, full_s = [c[0] for c in case], [c[1] for c in case]
    flows = [Flow(8e6 * s, 8e6, i) for i, s in enumerate(full_s)]
    bands = Rerated(lambda active: np.array([f.rate_bps / len(active) for f in active]))
    assert play(bands, starts, flows) == pytest.approx(brute_force(starts, full_s), abs=1e-9)


def test_removal_gives_the_rest_its_share_back() -> None:
    # two of 2 s each from 0; one is removed at 1 s (half done): the other has 1.5 s of service left and ends at 2.5 s
    air, stays, goes = Airtime(), Flow(16e6, 8e6, 1), Flow(16e6, 8e6, 2)
    air.add(stays, 0.0)
    air.add(goes, 0.0)
    assert air.sent(goes, 1.0) == pytest.approx(0.25)
    air.remove(goes, 1.0)
    assert air.next_end_s() == pytest.approx(2.5)
    assert air.finish(2.5) == [stays]
    assert air.next_end_s() is None


def test_max_min_fills_progressively() -> None:
    # capacities: a 10, b 4. f0 uses a; f1 uses a and b; f2 uses b. b is full first at 2 each; then f0 takes the rest of a: 8
    flows = [Flow(1, math.inf, 0, resources=("a",)), Flow(1, math.inf, 1, resources=("a", "b")), Flow(1, math.inf, 2, resources=("b",))]
    assert max_min(flows, {"a": 10.0, "b": 4.0}).tolist() == [8.0, 2.0, 2.0]
    # a flow's own limit frees its share: f2 at most 1, so f1 gets 3, f0 7
    flows[2].rate_bps = 1.0
    assert max_min(flows, {"a": 10.0, "b": 4.0}).tolist() == [7.0, 3.0, 1.0]


@given(st.lists(st.sets(st.sampled_from("abc"), min_size=1), min_size=1, max_size=6), st.lists(st.floats(1, 10), min_size=3, max_size=3))
def test_max_min_is_feasible_and_no_flow_can_gain_alone(needs: list[set[str]], limits: list[float]) -> None:
    capacities = dict(zip("abc", limits, strict=True))
    flows = [Flow(1, math.inf, i, resources=tuple(sorted(need))) for i, need in enumerate(needs)]
    rates = max_min(flows, capacities)
    used = {name: sum(r for r, f in zip(rates, flows, strict=True) if name in f.resources) for name in capacities}
    assert all(used[name] <= capacities[name] * (1 + 1e-9) for name in capacities)
    for i, flow in enumerate(flows):
        # max-min: every flow meets a full resource on which nobody has more
        assert any(
            used[name] >= capacities[name] * (1 - 1e-9) and all(rates[j] <= rates[i] * (1 + 1e-9) for j, f in enumerate(flows) if name in f.resources)
            for name in flow.resources
        )
