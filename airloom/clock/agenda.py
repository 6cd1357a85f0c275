"""The events of a clock, in order: a sorted chunk of what comes next, a small heap for what cuts in, and an unsorted rest.

A round over many devices makes thousands of events far ahead of now. One heap over all of them touches cold memory at every step; sorting them once,
when their time has come, costs a quarter of that. Order is by (time, number), exactly as a heap of the same tuples would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from typing import Any

Event = tuple[float, int, Callable[[Any], None], Any]  # time in seconds, number, handler, subject

_CHUNK = 256  # events sorted at least at once; a quarter of the rest where that is more


class Agenda:
    """A queue of events.

    >>> agenda = Agenda()
    >>> for time_s, number in ((2.0, 1), (1.0, 2), (1.0, 3)):
    ...     agenda.push((time_s, number, print, None))
    >>> agenda.next_s(), [agenda.pop(1.0)[1], agenda.pop(1.0)[1], agenda.pop(1.0)], len(agenda)
    (1.0, [2, 3, None], 1)
    """

    __slots__ = ("chunk", "front", "horizon_s", "rest")

    def __init__(self) -> None:
        self.chunk: list[Event] = []  # sorted, the next one last
        self.front: list[Event] = []  # a heap of events before the horizon
        self.rest: list[Event] = []  # events at or after the horizon, in any order
        self.horizon_s = float("-inf")

    def __len__(self) -> int:
        return len(self.chunk) + len(self.front) + len(self.rest)

    def __iter__(self) -> Iterator[Event]:
        yield from self.chunk
        yield from self.front
        yield from self.rest

    def load(self, events: Iterable[Event]) -> None:
        """Hold these events and no others."""
        self.chunk.clear()
        self.front.clear()
        self.rest[:] = events
        self.horizon_s = float("-inf")

    def push(self, event: Event) -> None:
        """Add an event."""
        if event[0] < self.horizon_s:
            heappush(self.front, event)
        else:
            self.rest.append(event)

    def pop(self, now: float) -> Event | None:
        """Take the next event if it is due at `now` (seconds)."""
        next_s = self.next_s()
        if next_s is None or next_s > now:
            return None
        chunk, front = self.chunk, self.front
        return heappop(front) if front and (not chunk or front[0] < chunk[-1]) else chunk.pop()

    def next_s(self) -> float | None:
        """Time of the next event in seconds, or None."""
        chunk, front = self.chunk, self.front
        if not chunk:
            self.sort()
        if chunk:
            return min(chunk[-1][0], front[0][0]) if front else chunk[-1][0]
        return front[0][0] if front else None

    def sort(self) -> None:
        """Bring the earliest part of the rest into order; the lists stay the same objects."""
        rest = self.rest
        if rest:
            rest.sort(reverse=True)
            take = max(_CHUNK, len(rest) // 4)
            self.chunk[:] = rest[-take:]
            del rest[-take:]
            self.horizon_s = self.chunk[0][0]
