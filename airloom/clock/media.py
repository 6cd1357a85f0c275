"""Spectrum that several flows share: who gets how much of it, and when the next flow ends.

A medium holds the flows that are on the air. The wires (see `wires.py`) add and remove flows; once per instant they ask for the time of the next
end. Three rules of sharing:

- `Airtime` (tdma): n flows each get 1/n of the time at their own full-band rate. Kept by *virtual service*: V grows at 1/n, a flow ends when V
  has grown by bits / full-band rate, so that a change costs O(log n).
- `Bands` (fdma): n flows each get 1/n of the band; a narrow band is power-limited, so that rates are not proportional to it and every change
  re-rates all flows (O(n), vectorized).
- `MaxMin`: flows that need several shared capacities at once, by progressive filling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Protocol

import numpy as np


class Sharer(Protocol):
    """What a medium needs to know of a flow."""

    bits: float
    rate_bps: float  # full-band rate, read when the flow is added
    number: int
    mark: float  # the medium's own bookkeeping

    @property
    def resources(self) -> tuple[str, ...]: ...


class Airtime:
    """Fair airtime: each of n flows is served 1/n of the time (virtual service, exact).

    >>> class F:
    ...     bits, rate_bps, number, mark, resources = 8e6, 8e6, 1, 0.0, ()
    >>> air = Airtime(); air.add(F(), 0.0); air.next_end_s()
    1.0
    """

    __slots__ = ("heap", "n", "service_s", "since_s")

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Sharer]] = []
        self.n = 0
        self.service_s = 0.0
        self.since_s = 0.0

    def _advance(self, now: float) -> None:
        if self.n:
            self.service_s += (now - self.since_s) / self.n
        self.since_s = now

    def add(self, flow: Sharer, now: float) -> None:
        """Begin to serve `flow`."""
        self._advance(now)
        self.n += 1
        flow.mark = self.service_s + flow.bits / flow.rate_bps
        heappush(self.heap, (flow.mark, flow.number, flow))

    def remove(self, flow: Sharer, now: float) -> None:
        """Stop serving `flow` before its end."""
        self._advance(now)
        self.n -= 1
        flow.mark = -1.0  # its heap entry is stale from now on
        if not self.n:
            self._reset()

    def _reset(self) -> None:
        self.heap.clear()
        self.service_s = 0.0  # keep V small: differences of large numbers lose digits

    def _drop_stale(self) -> None:
        heap = self.heap
        while heap and heap[0][2].mark != heap[0][0]:
            heappop(heap)

    def next_end_s(self) -> float | None:
        """Time of the next end if nothing changes, or None."""
        self._drop_stale()
        return self.since_s + (self.heap[0][0] - self.service_s) * self.n if self.heap else None

    def finish(self, now: float) -> list[Sharer]:
        """Remove and return the flows that end at `now`, the time that `next_end_s` gave."""
        self._drop_stale()
        top = self.heap[0][0]
        self.service_s, self.since_s = top, now  # the event was made for this end: set V exactly, rounding included
        ended: list[Sharer] = []
        while self.heap and self.heap[0][0] <= top:
            mark, _, flow = heappop(self.heap)
            if flow.mark == mark:
                ended.append(flow)
        self.n -= len(ended)
        if not self.n:
            self._reset()
        return ended

    def sent(self, flow: Sharer, now: float) -> float:
        """Share of `flow`'s bits that are through at `now`, in [0, 1]."""
        service_s = self.service_s + ((now - self.since_s) / self.n if self.n else 0.0)
        full_s = flow.bits / flow.rate_bps
        return min(max(1.0 - (flow.mark - service_s) / full_s, 0.0), 1.0) if full_s > 0 else 1.0


class Rerated:
    """Sharing in which a change can alter every flow's rate: `rates(flows)` gives them anew (bit/s, in order)."""

    __slots__ = ("flows", "left", "rates", "since_s", "speed")

    def __init__(self, rates: Callable[[Sequence[Sharer]], np.ndarray]) -> None:
        self.rates = rates
        self.flows: list[Sharer] = []
        self.left = np.zeros(0)
        self.speed = np.zeros(0)
        self.since_s = 0.0

    def _advance(self, now: float) -> None:
        if self.flows and now > self.since_s:
            self.left = np.maximum(self.left - self.speed * (now - self.since_s), 0.0)
        self.since_s = now

    def add(self, flow: Sharer, now: float) -> None:
        """Begin to serve `flow`."""
        self._advance(now)
        self.flows.append(flow)
        self.left = np.append(self.left, flow.bits)
        self.speed = np.zeros(0)

    def _take(self, keep: list[int]) -> None:
        self.flows = [self.flows[i] for i in keep]
        self.left = self.left[keep]
        self.speed = np.zeros(0)

    def remove(self, flow: Sharer, now: float) -> None:
        """Stop serving `flow` before its end."""
        self._advance(now)
        self._take([i for i, other in enumerate(self.flows) if other is not flow])

    def _rate(self) -> None:
        if len(self.speed) != len(self.flows):
            self.speed = np.asarray(self.rates(self.flows), dtype=float)

    def next_end_s(self) -> float | None:
        """Time of the next end if nothing changes, or None."""
        if not self.flows:
            return None
        self._rate()
        return self.since_s + float(np.min(self.left / self.speed))

    def finish(self, now: float) -> list[Sharer]:
        """Remove and return the flows that end at `now`, the time that `next_end_s` gave."""
        self._rate()
        ends_s = self.left / self.speed
        first = ends_s.min() * (1 + 1e-12)
        ended = [i for i in range(len(self.flows)) if ends_s[i] <= first]
        flows = [self.flows[i] for i in ended]
        self._advance(now)
        gone = set(ended)
        self._take([i for i in range(len(self.flows)) if i not in gone])
        return flows

    def sent(self, flow: Sharer, now: float) -> float:
        """Share of `flow`'s bits that are through at `now`, in [0, 1]."""
        i = next(i for i, other in enumerate(self.flows) if other is flow)
        self._rate()
        left = self.left[i] - self.speed[i] * (now - self.since_s)
        return float(min(max(1.0 - left / flow.bits, 0.0), 1.0)) if flow.bits > 0 else 1.0


def max_min(flows: Sequence[Sharer], capacities_bps: Mapping[str, float]) -> np.ndarray:
    """Max-min fair rates by progressive filling: raise all rates together, freeze those whose capacity is full, go on.

    Arguments:
        flows: each names the capacities it needs in `resources`; `rate_bps` is its own upper limit.
        capacities_bps: capacity of each name, in bit/s.

    Returns:
        rates in bit/s, in the order of `flows`.
    """
    left = {name: capacities_bps[name] for flow in flows for name in flow.resources}
    rates = np.zeros(len(flows))
    active = set(range(len(flows)))
    level = 0.0
    while active:
        users: dict[str, int] = {}
        for i in active:
            for name in flows[i].resources:
                users[name] = users.get(name, 0) + 1
        room = min((left[name] / n for name, n in users.items()), default=float("inf"))
        own = min(flows[i].rate_bps - level for i in active)
        step = min(room, own)
        level += step
        for name, n in users.items():
            left[name] -= step * n
        full = {name for name in users if left[name] <= 1e-9 * capacities_bps[name]}
        done = {i for i in active if flows[i].rate_bps <= level * (1 + 1e-12) or full.intersection(flows[i].resources)}
        for i in done:
            rates[i] = level
        active -= done
    return rates
