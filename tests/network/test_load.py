"""Load: pure functions of seed, device and time, and what they do to a call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airloom.engines.simnode import SimNode
from airloom.errors import ScenarioError
from airloom.network.load import Idle, MarkovLoad, TraceLoad
from airloom.program.here import Here
from tests.worlds import play, work, world

STAR = {("a", "hub"): 1e6, ("b", "hub"): 1e6}


def one_second(here: Here) -> None:
    here.cost(seconds=1.0)


def test_markov_factors_are_one_or_the_devices_own() -> None:
    load = MarkovLoad(free_s=30.0, busy_s=10.0)
    times = [0.5 * k for k in range(4000)]
    seen = {name: [load.factor(name, t, 3) for t in times] for name in ("a", "b")}
    for name, factors in seen.items():
        assert len(set(factors)) == 2 and min(factors) == 1.0 and 2.0 <= max(factors) <= 4.0
        assert [MarkovLoad(free_s=30.0, busy_s=10.0).factor(name, t, 3) for t in reversed(times)] == factors[::-1]
        # stationary: busy 10 / 40 of the time; 50 cycles of 40 s in 2000 s, standard error about 0.04
        assert sum(f > 1.0 for f in factors) / len(factors) == pytest.approx(0.25, abs=0.12)
    assert max(seen["a"]) != max(seen["b"])
    assert seen["a"] != [load.factor("a", t, 4) for t in times]


def test_the_factor_at_the_start_stretches_a_call_but_not_its_joules() -> None:
    # a does 1 s of work at once; from 1 s on it is three times slower: 1 + 3 = 4 s. The hub itself is never slower. 2 W while computing.
    network = replace(world(STAR), load=TraceLoad(changes={"a": [(1.0, 3.0)], "hub": [(0.0, 9.0)]}))

    def text(node: SimNode) -> Any:
        node.fetch(node.call(work, "a", 1.0))
        first = node.now_s
        node.fetch(node.call(work, "a", 1.0))
        second = node.now_s
        node.fetch(node.call(work, "hub", 1.0))
        return first, second, node.now_s, node.sim.sites["a"].meter.compute_j

    first, second, third, joules = play(network, text).value
    # each call carries its argument, 8 bytes at 1 MB/s
    assert (first, second, third) == pytest.approx((1.000008, 4.000016, 5.000016), abs=1e-9)
    assert joules == pytest.approx(4.0)


def test_planners_do_not_know_the_load() -> None:
    network = replace(world(STAR), load=TraceLoad(changes={"a": [(0.0, 3.0)]}))
    assert play(network, lambda node: node.estimate(one_second, "a").seconds).value == 1.0


def test_idle_is_the_default_and_said_in_records() -> None:
    assert isinstance(world(STAR).load, Idle) and world(STAR).load.is_idle
    assert replace(world(STAR), load=MarkovLoad(free_s=1.0, busy_s=1.0)).describe()["load"] == "MarkovLoad"


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: MarkovLoad(free_s=1.0, busy_s=1.0, low=0.5), "1 <= low <= high"),
        (lambda: MarkovLoad(free_s=1.0, busy_s=1.0, low=3.0, high=2.0), "1 <= low <= high"),
        (lambda: MarkovLoad(free_s=0.0, busy_s=1.0), "on_s"),
        (lambda: TraceLoad(changes={"a": [(0.0, 0.5)]}), "factors >= 1"),
        (lambda: TraceLoad(changes={"a": [(2.0, 2.0), (1.0, 2.0)]}), "increasing"),
    ],
)
def test_bad_loads_are_refused(make: Any, what: str) -> None:
    with pytest.raises(ScenarioError, match=what):
        make()
