"""The agenda hands events out exactly as one heap would."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from airloom.clock.agenda import Agenda


def event(time_s: float, number: int) -> tuple[float, int, Any, Any]:
    return (time_s, number, print, None)


# Each entry: how many events to take first, then one to add so many (coarse) steps ahead. Coarse times make ties; many entries cross chunks.
plans = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=1500)


@settings(max_examples=30, deadline=None)
@given(plans, st.integers(0, 800))
def test_order_is_that_of_a_heap(plan: list[tuple[int, int]], before: int) -> None:
    agenda, heap, now, number = Agenda(), [], 0.0, 0
    for i in range(before):
        number += 1
        agenda.push(event(float(i % 37), number))
        heappush(heap, event(float(i % 37), number))
    for takes, ahead in plan:
        for _ in range(takes):
            if not heap:
                assert agenda.next_s() is None
                break
            now = max(now, heap[0][0])
            assert agenda.next_s() == heap[0][0]
            assert agenda.pop(now) == heappop(heap)
        number += 1
        agenda.push(event(now + ahead, number))
        heappush(heap, event(now + ahead, number))
        assert len(agenda) == len(heap)
    while heap:
        assert agenda.pop(float("inf")) == heappop(heap)
    assert agenda.pop(float("inf")) is None


def test_events_of_the_future_stay() -> None:
    agenda = Agenda()
    agenda.push(event(2.0, 1))
    agenda.push(event(1.0, 2))
    assert agenda.pop(0.5) is None
    assert agenda.pop(1.0) == event(1.0, 2)
    assert agenda.pop(1.0) is None
    agenda.push(event(1.5, 3))  # cuts in before what was sorted already
    assert agenda.next_s() == 1.5
    assert sorted(e[1] for e in agenda) == [1, 3]


def test_loading_replaces_what_was_there() -> None:
    agenda = Agenda()
    agenda.push(event(1.0, 1))
    agenda.load([event(3.0, 2), event(2.0, 3)])
    assert len(agenda) == 2
    assert agenda.pop(9.0) == event(2.0, 3)
