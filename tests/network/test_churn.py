"""Churn: pure functions of seed and device, with the stated statistics."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.network.churn import AlwaysOn, Churn, Markov, TraceChurn, Without


def changes(churn: Churn, name: str, until_s: float, seed: int = 0) -> list[float]:
    found: list[float] = []
    at: float | None = 0.0
    while (at := churn.next_change(name, at or 0.0, seed)) is not None and at < until_s:
        found.append(at)
    return found


def test_always_on() -> None:
    churn = AlwaysOn()
    assert churn.always_on
    assert churn.present("a", 1e9, 0)
    assert churn.next_change("a", 0.0, 0) is None
    assert not Markov(on_s=1.0, off_s=1.0).always_on


def test_markov_does_not_depend_on_the_order_of_questions() -> None:
    forward, backward = Markov(on_s=10.0, off_s=3.0), Markov(on_s=10.0, off_s=3.0)
    times = [0.7 * k for k in range(500)]
    states = [forward.present("a", t, 5) for t in times]
    assert [backward.present("a", t, 5) for t in reversed(times)] == states[::-1]
    assert [backward.next_change("a", t, 5) for t in times] == [forward.next_change("a", t, 5) for t in times]
    assert changes(forward, "a", 100.0, seed=5) != changes(forward, "b", 100.0, seed=5)
    assert changes(forward, "a", 100.0, seed=5) != changes(forward, "a", 100.0, seed=6)


def test_markov_state_turns_exactly_at_its_changes() -> None:
    churn = Markov(on_s=10.0, off_s=3.0)
    for at in changes(churn, "a", 300.0):
        before, after = churn.present("a", math.nextafter(at, 0.0), 0), churn.present("a", at, 0)
        assert before != after
        assert (churn.next_change("a", at, 0) or 0.0) > at


def test_markov_means_and_share_of_time() -> None:
    churn = Markov(on_s=20.0, off_s=5.0)
    present = [churn.present(f"d{i}", t, 0) for i in range(3000) for t in (0.0, 40.0)]
    # stationary: 20 / 25 of the devices at any time; 6,000 draws, standard deviation 0.0052
    assert sum(present) / len(present) == pytest.approx(0.8, abs=0.021)
    spans = {True: [0.0], False: [0.0]}
    for i in range(200):
        at = changes(churn, f"d{i}", 1000.0)
        for a, b in pairwise(at):
            spans[churn.present(f"d{i}", a, 0)].append(b - a)
    # about 8,000 exponential times each: standard error 1.1 %
    assert sum(spans[True]) / len(spans[True]) == pytest.approx(20.0, rel=0.05)
    assert sum(spans[False]) / len(spans[False]) == pytest.approx(5.0, rel=0.05)


def test_trace_churn_by_hand() -> None:
    churn = TraceChurn(changes={"a": [(10.0, False), (15.0, True), (20.0, True), (30.0, False)]})
    assert [churn.present("a", t, 0) for t in (0.0, 10.0, 14.9, 15.0, 30.0, 1e6)] == [True, False, False, True, False, False]
    assert changes(churn, "a", 1e9) == [10.0, 15.0, 30.0]  # the entry at 20 s changes nothing
    assert churn.present("stranger", 12.0, 0)
    assert churn.next_change("stranger", 12.0, 0) is None
    assert churn.named == {"a"}


def test_repeated_trace_churn_by_hand() -> None:
    churn = TraceChurn(changes={"a": [(2.0, False), (3.0, True)], "night": [(4.0, False)]}, period_s=5.0)
    assert changes(churn, "a", 14.0) == [2.0, 3.0, 7.0, 8.0, 12.0, 13.0]
    # off at 4 s, and nothing ever turns it on again
    assert changes(churn, "night", 50.0) == [4.0]
    assert not churn.present("night", 6.0, 0)


@given(st.floats(0.1, 7.0), st.integers(0, 2000))
def test_repeated_trace_churn_never_stands_still(period_s: float, k: int) -> None:
    churn = TraceChurn(changes={"a": [(0.0, True), (period_s / 3, False)]}, period_s=period_s)
    at = churn.next_change("a", k * period_s, 0)
    for _ in range(4):
        assert at is not None
        following = churn.next_change("a", at, 0)
        assert following is not None
        assert following > at
        assert churn.present("a", at, 0) != churn.present("a", following, 0)
        at = following


def test_without() -> None:
    churn = Without(absent=frozenset({"a"}), rest=Markov(on_s=1.0, off_s=1.0))
    assert not churn.present("a", 0.0, 0)
    assert churn.next_change("a", 0.0, 0) is None
    assert churn.next_change("b", 0.0, 0) == churn.rest.next_change("b", 0.0, 0)
    assert churn.named == {"a"}
    assert not churn.always_on


@pytest.mark.parametrize("rows", [[(2.0, True), (1.0, False)], [(-1.0, True)], [(math.nan, True)], [(1.0, True), (1.0, False)], [(5.0, True)]])
def test_trace_churn_refuses(rows: list[tuple[float, bool]]) -> None:
    with pytest.raises(ScenarioError, match="TraceChurn"):
        TraceChurn(changes={"a": rows}, period_s=5.0)


def test_markov_refuses() -> None:
    for on_s, off_s in ((0.0, 1.0), (1.0, math.nan), (math.inf, 1.0)):
        with pytest.raises(ScenarioError, match="Markov"):
            Markov(on_s=on_s, off_s=off_s)
