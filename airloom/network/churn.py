"""Who is present when: pure functions of the seed and of the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, log1p

from airloom.clock.rng import seed_of
from airloom.network.check import need_positive, refuse
from airloom.network.trace import whole_periods


class Churn(ABC):
    """Answers two questions about a device; devices that it does not know are always on."""

    @property
    def always_on(self) -> bool:
        """Whether nobody ever leaves, so that a kernel need not ask."""
        return False

    @property
    def named(self) -> frozenset[str]:
        """Places named one by one; servers churn only when they are named."""
        return frozenset()

    @abstractmethod
    def present(self, name: str, at_s: float, seed: int) -> bool:
        """Return whether a device is there at a time (from the instant of a change on)."""

    @abstractmethod
    def next_change(self, name: str, after_s: float, seed: int) -> float | None:
        """Return the first time above `after_s` at which a device comes or goes; None: never again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AlwaysOn(Churn):
    """Nobody leaves.

    >>> AlwaysOn().present("phone0", 5.0, 0), AlwaysOn().next_change("phone0", 5.0, 0)
    (True, None)
    """

    @property
    def always_on(self) -> bool:
        """True."""
        return True

    def present(self, name: str, at_s: float, seed: int) -> bool:
        """Return True."""
        return True

    def next_change(self, name: str, after_s: float, seed: int) -> float | None:
        """Return None."""
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Markov(Churn):
    """On and off for exponential times with means `on_s` and `off_s`, starting in the stationary state.

    P(on) = on_s / (on_s + off_s)

    The k-th time of a device is drawn from (seed, device, k) alone; the times found so far are kept, so that asking again or a little
    later costs a bisection and nothing is replayed.

    >>> churn = Markov(on_s=600.0, off_s=60.0)
    >>> change = churn.next_change("phone0", 0.0, seed=1)
    >>> churn.present("phone0", 0.0, seed=1) == churn.present("phone0", change, seed=1)
    False
    """

    on_s: float
    off_s: float
    _memo: dict[tuple[int, str], tuple[bool, list[float]]] = field(
        default_factory=dict[tuple[int, str], tuple[bool, list[float]]], init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        need_positive("Markov", "on_s", self.on_s, "a device that is never there does not belong to the network")
        need_positive("Markov", "off_s", self.off_s, "use AlwaysOn for devices that never leave")

    def present(self, name: str, at_s: float, seed: int) -> bool:
        """Return whether a device is there at a time."""
        first, index, _ = self._locate(name, at_s, seed)
        return first == (index % 2 == 0)

    def next_change(self, name: str, after_s: float, seed: int) -> float | None:
        """Return the first change above `after_s`."""
        _, index, times = self._locate(name, after_s, seed)
        return times[index]

    def _locate(self, name: str, at_s: float, seed: int) -> tuple[bool, int, list[float]]:
        """State at 0 s, number of changes up to `at_s`, and the times of changes (reaching beyond `at_s`)."""
        known = self._memo.get((seed, name))
        if known is None:
            share = self.on_s / (self.on_s + self.off_s)
            known = self._memo[(seed, name)] = (_uniform(seed, name, -1) < share, [])
        first, times = known
        while not times or times[-1] <= at_s:
            k = len(times)
            mean_s = self.on_s if first == (k % 2 == 0) else self.off_s
            times.append((times[-1] if times else 0.0) - mean_s * log1p(-_uniform(seed, name, k)))
        return first, bisect_right(times, at_s), times


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceChurn(Churn):
    """Changes read from a list: per device, (time, whether it is on from then on).

    Arguments: changes by device name, times increasing; a device is on before its first entry; period_s repeats all lists.

    >>> churn = TraceChurn(changes={"phone0": [(10.0, False), (15.0, True)]})
    >>> churn.present("phone0", 12.0, 0), churn.next_change("phone0", 12.0, 0), churn.next_change("phone0", 15.0, 0)
    (False, 15.0, None)
    """

    changes: Mapping[str, Sequence[tuple[float, bool]]]
    period_s: float | None = None

    def __post_init__(self) -> None:
        for name, rows in self.changes.items():
            times = [t for t, _ in rows]
            if any(not 0.0 <= t < (self.period_s or inf) for t in times) or any(not a < b for a, b in pairwise(times)):
                refuse(f"TraceChurn('{name}')", "times", times[:4], "increasing, >= 0, finite and below period_s", "sort the list of changes")

    @property
    def named(self) -> frozenset[str]:
        """The devices that have a list."""
        return frozenset(self.changes)

    def present(self, name: str, at_s: float, seed: int) -> bool:
        """Return whether a device is there at a time."""
        rows = self.changes.get(name, ())
        start_s = self._lap_start_s(at_s)
        i = bisect_right(rows, at_s, key=lambda row: start_s + row[0]) - 1
        if i >= 0:
            return rows[i][1]
        return rows[-1][1] if rows and start_s > 0.0 else True

    def next_change(self, name: str, after_s: float, seed: int) -> float | None:
        """Return the first entry above `after_s` that changes the state."""
        rows = self.changes.get(name, ())
        now = self.present(name, after_s, seed)
        start_s = self._lap_start_s(after_s)
        laps = 1 if self.period_s is None else 3
        for _ in range(laps):
            for time_s, on in rows:
                if on != now and start_s + time_s > after_s:
                    return start_s + time_s
            start_s = self._lap_start_s(start_s + 1.5 * (self.period_s or 0.0))
        return None

    def _lap_start_s(self, at_s: float) -> float:
        """When the repetition that holds a time began."""
        return 0.0 if self.period_s is None else whole_periods(at_s, self.period_s) * self.period_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Without(Churn):
    """Another churn without some places that are never there, such as phones that no band reaches.

    >>> Without(absent=frozenset({"phone7"}), rest=AlwaysOn()).present("phone7", 0.0, 0)
    False
    """

    absent: frozenset[str]
    rest: Churn

    @property
    def named(self) -> frozenset[str]:
        """Those left out and those that the other churn names."""
        return self.absent | self.rest.named

    def present(self, name: str, at_s: float, seed: int) -> bool:
        """Return whether a device is there at a time."""
        return name not in self.absent and self.rest.present(name, at_s, seed)

    def next_change(self, name: str, after_s: float, seed: int) -> float | None:
        """Return the first change above `after_s`."""
        return None if name in self.absent else self.rest.next_change(name, after_s, seed)


def _uniform(seed: int, name: str, index: int) -> float:
    """A draw in [0, 1) for the k-th time of a device; -1 draws its first state."""
    return (seed_of(seed, "churn", name, index) >> 11) * 2.0**-53
