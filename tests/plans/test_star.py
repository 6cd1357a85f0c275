from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.clock.rng import generator
from airloom.errors import ScenarioError
from airloom.plans.star import processor_sharing, star_round

OWN: dict[str, Any] = {"downlink": "unicast", "is_down_shared": False, "is_up_shared": False}


def by_events(start: list[float], work: list[float]) -> list[float]:
    """Brute force: from event to event, every active flow gets 1/n of the time."""
    left, ends, now = list(work), [0.0] * len(work), 0.0
    waiting = set(range(len(work)))
    while waiting:
        active = [i for i in waiting if start[i] <= now]
        ahead = [start[i] for i in waiting if start[i] > now]
        step = min([left[i] * len(active) for i in active] + [t - now for t in ahead])
        for i in active:
            left[i] -= step / len(active)
            if left[i] <= 1e-12:
                ends[i] = now + step
                waiting.discard(i)
        now = min(ahead) if ahead and step == min(ahead) - now else now + step
    return ends


def test_sharing_by_hand() -> None:
    # 8 Mbit/s; A 1 MB at 0, B 1 MB and C 0.25 MB at 0.5 s. At 0.5 A has 0.5 left; three share: C (0.25) ends after 0.75, at 1.25;
    # A has 0.25 left, two share: 1.75; B has 0.5 left then, alone 2.25 - 1.75
    assert processor_sharing([0, 0.5, 0.5], [1, 1, 0.25]).tolist() == [1.75, 2.25, 1.25]
    assert processor_sharing([0] * 4, [1] * 4).tolist() == [4.0] * 4
    assert processor_sharing([3, 0], [0, 5]).tolist() == [3.0, 5.0]  # nothing to send: ends when it starts
    assert processor_sharing([], []).tolist() == []


def test_sharing_agrees_with_brute_force_on_random_cases() -> None:
    for case in range(200):
        rng = generator("sharing", case)
        n = int(rng.integers(1, 12))
        start, work = rng.random(n) * 3, rng.random(n) + 0.01
        np.testing.assert_allclose(processor_sharing(start, work), by_events(start.tolist(), work.tolist()), rtol=1e-9, atol=1e-9)


flows = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50)), min_size=1, max_size=20)


@given(flows)
def test_sharing_is_work_conserving_and_fair(given_flows: list[tuple[float, float]]) -> None:
    start, work = np.array(given_flows).T
    ends = processor_sharing(start, work)
    assert (ends >= start + work - 1e-9).all()  # nobody is faster than alone
    # the resource is busy whenever somebody is there: the same last end as in any order that does not idle
    last = 0.0
    for s, w in sorted(zip(start.tolist(), work.tolist())):
        last = max(last, s) + w
    assert ends.max() == pytest.approx(last, rel=1e-9, abs=1e-9)
    # of two that start together, the shorter one ends first
    for i in range(len(start)):
        for j in range(len(start)):
            if start[i] == start[j] and work[i] < work[j]:
                assert ends[i] <= ends[j] + 1e-9


def test_own_links_by_hand() -> None:
    # device 0: 8 Mbit down at 8 Mbit/s + 0.1, computes 2, 4 Mbit up at 2 Mbit/s + 0.2: 1.1, 3.1, 5.3; device 1: 2.1, 2.6, 3.8
    r = star_round(
        down_bits=8e6, down_bps=[8e6, 4e6], down_latency_s=0.1, compute_s=[2, 0.5], up_bits=4e6, up_bps=[2e6, 4e6], up_latency_s=0.2, **OWN
    )
    assert r.received_s.tolist() == pytest.approx([1.1, 2.1])
    assert r.computed_s.tolist() == pytest.approx([3.1, 2.6])
    assert r.arrived_s.tolist() == pytest.approx([5.3, 3.8])
    assert r.round_s == pytest.approx(5.3)


def test_shared_cells_by_hand() -> None:
    # down: two flows of 1 s share: both 2 s. Compute 0 and 0.5 s. Up: A starts at 2, B at 2.5, 1 s each: A has 0.5 left at 2.5,
    # two share until 3.5 (A ends), B has 0.5 left: 4.0
    r = star_round(
        down_bits=8e6,
        down_bps=8e6,
        down_latency_s=0,
        compute_s=[0, 0.5],
        up_bits=8e6,
        up_bps=8e6,
        up_latency_s=0,
        downlink="unicast",
        is_down_shared=True,
        is_up_shared=True,
    )
    assert r.received_s.tolist() == [2.0, 2.0]
    assert r.arrived_s.tolist() == [3.5, 4.0]


@pytest.mark.parametrize(
    ("downlink", "is_down_shared", "received"),
    [
        ("unicast", False, [1.1, 4.1]),
        ("unicast", True, [2.1, 5.1]),  # alone 1 s and 4 s: both get half until 2 s, then 3 s of the longer one are left
        ("broadcast", False, [1.1, 4.1]),
        ("broadcast", True, [4.1, 4.1]),
        ("free", False, [0.0, 0.0]),
        ("free", True, [0.0, 0.0]),
    ],
)
def test_downlinks_by_hand(downlink: str, is_down_shared: bool, received: list[float]) -> None:
    given_round: Any = OWN | {"downlink": downlink, "is_down_shared": is_down_shared}
    r = star_round(down_bits=8e6, down_bps=[8e6, 2e6], down_latency_s=0.1, compute_s=0, up_bits=0, up_bps=1, up_latency_s=0, **given_round)
    assert r.received_s.tolist() == pytest.approx(received)
    assert r.arrived_s.tolist() == pytest.approx(received)


def test_one_device_does_not_notice_that_its_cell_is_shared() -> None:
    args: dict[str, Any] = {
        "down_bits": 3e6,
        "down_bps": 7e6,
        "down_latency_s": 0.01,
        "compute_s": 1.7,
        "up_bits": 5e6,
        "up_bps": 2e6,
        "up_latency_s": 0,
    }
    own, shared = (star_round(**args, downlink="unicast", is_down_shared=s, is_up_shared=s) for s in (False, True))
    assert own.round_s == pytest.approx(shared.round_s, rel=1e-14)


def test_no_devices() -> None:
    assert star_round(down_bits=1, down_bps=1, down_latency_s=0, compute_s=[], up_bits=1, up_bps=1, up_latency_s=0, **OWN).round_s == 0
    broadcast: Any = OWN | {"downlink": "broadcast", "is_down_shared": True}
    assert star_round(down_bits=1, down_bps=[], down_latency_s=0, compute_s=[], up_bits=1, up_bps=1, up_latency_s=0, **broadcast).round_s == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"up_bps": 0}, r"up_bps=0\).*> 0"),
        ({"compute_s": -1}, r"compute_s=-1\).*>= 0"),
        ({"compute_s": [1, 2], "up_bps": [1, 2, 3]}, "different lengths"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    args: dict[str, Any] = {"down_bits": 1, "down_bps": 1, "down_latency_s": 0, "compute_s": 0, "up_bits": 1, "up_bps": 1, "up_latency_s": 0, **OWN}
    args |= change
    with pytest.raises(ScenarioError, match=message):
        star_round(**args)


def test_sharing_refuses_what_is_not_a_number() -> None:
    with pytest.raises(ScenarioError, match="processor_sharing"):
        processor_sharing([0.0], [float("nan")])
