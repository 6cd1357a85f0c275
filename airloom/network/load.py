"""How much slower devices compute while something else runs on them: pure functions of the seed, the device and the time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

from airloom.clock.rng import seed_of
from airloom.network.check import refuse
from airloom.network.churn import Markov


class Load(ABC):
    """The factor on the seconds of a call that starts at a time; clients only, and not known to planners."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing else ever runs, so that an engine need not ask."""
        return False

    @abstractmethod
    def factor(self, name: str, at_s: float, seed: int) -> float:
        """Return the factor, >= 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Idle(Load):
    """Nothing else runs.

    >>> Idle().factor("phone0", 5.0, 0)
    1.0
    """

    @property
    def is_idle(self) -> bool:
        """True."""
        return True

    def factor(self, name: str, at_s: float, seed: int) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkovLoad(Load):
    """Free and busy for exponential times with means `free_s` and `busy_s`; a busy device is slower by a factor of its own in [low, high].

    Reconstructed: the paper on WHALE-FL (arXiv 2405.00885) says that computing varies with time, not how; factors of 2 to 4 are ours.

    >>> load = MarkovLoad(free_s=60.0, busy_s=20.0)
    >>> sorted({load.factor("phone0", 10.0 * k, seed=1) == 1.0 for k in range(50)})
    [False, True]
    """

    free_s: float
    busy_s: float
    low: float = 2.0
    high: float = 4.0
    _times: Markov = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1.0 <= self.low <= self.high < inf:
            refuse("MarkovLoad", "low, high", (self.low, self.high), "1 <= low <= high", "a busy device is not faster than a free one")
        object.__setattr__(self, "_times", Markov(on_s=self.free_s, off_s=self.busy_s))

    def factor(self, name: str, at_s: float, seed: int) -> float:
        """Return 1 while the device is free, else its own factor."""
        if self._times.present(f"load of {name}", at_s, seed):
            return 1.0
        return self.low + (self.high - self.low) * (seed_of(seed, "load", name) >> 11) * 2.0**-53


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceLoad(Load):
    """Factors read from a list: per device, (time, factor from then on), times increasing; 1 before the first.

    >>> TraceLoad(changes={"phone0": [(10.0, 2.0)]}).factor("phone0", 12.0, 0)
    2.0
    """

    changes: Mapping[str, Sequence[tuple[float, float]]]

    def __post_init__(self) -> None:
        for name, rows in self.changes.items():
            if any(not 0.0 <= t < inf or not 1.0 <= f < inf for t, f in rows) or any(not a < b for (a, _), (b, _) in pairwise(rows)):
                refuse(f"TraceLoad('{name}')", "changes", list(rows[:4]), "increasing times >= 0 with factors >= 1", "repair the list")

    def factor(self, name: str, at_s: float, seed: int) -> float:
        """Return the factor of the last entry up to a time."""
        rows = self.changes.get(name, ())
        i = bisect_right(rows, at_s, key=lambda row: row[0]) - 1
        return rows[i][1] if i >= 0 else 1.0
