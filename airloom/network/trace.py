"""A rate that changes with time: piecewise constant, held after its end or repeated."""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from airloom.errors import ScenarioError
from airloom.network.check import need_non_negative, refuse


def whole_periods(at_s: float, period_s: float) -> int:
    """Return how many whole periods have passed, such that `whole_periods(k * period_s, period_s) == k` in floating point too."""
    laps = int(at_s // period_s)
    if laps * period_s > at_s:
        return laps - 1
    return laps + 1 if (laps + 1) * period_s <= at_s else laps


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """Rates over time: `rates_bps[i]` holds from `times_s[i]` to the next time.

    Arguments
    ---------
    times_s : increasing, starting at 0, seconds.
    rates_bps : one per time, bit/s; 0 is an outage.
    period_s : None holds the last rate for ever (it must then be > 0); a number repeats the trace with that period.

    >>> trace = Trace(times_s=(0.0, 10.0), rates_bps=(8e6, 2e6))
    >>> trace.finish_s(9.0, 10e6)            # 8 Mbit until 10 s, the other 2 Mbit at 2 Mbit/s
    11.0
    """

    times_s: Sequence[float]
    rates_bps: Sequence[float]
    period_s: float | None = None
    _sent: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        times, rates = tuple(map(float, self.times_s)), tuple(map(float, self.rates_bps))
        if not times or len(times) != len(rates):
            refuse("Trace", "times_s, rates_bps", (len(times), len(rates)), "equally many, at least one", "give one rate per time")
        if times[0] != 0.0:
            refuse("Trace", "times_s[0]", times[0], "0", "shift the trace so that it starts at 0 s")
        sent = [0.0]
        for i, rate in enumerate(rates):
            need_non_negative("Trace", f"rates_bps[{i}]", rate, "an outage is 0, a missing value must be filled")
            end = times[i + 1] if i + 1 < len(times) else self.period_s
            if end is None:
                break
            if not times[i] < end < inf:
                refuse("Trace", f"times_s[{i + 1}]", end, f"finite and above {times[i]}", "sort the times; the period lies after the last")
            sent.append(sent[-1] + rate * (end - times[i]))
        if self.period_s is None and rates[-1] <= 0.0:
            refuse(
                "Trace",
                "rates_bps[-1]",
                rates[-1],
                "> 0 where the last rate is held",
                "give period_s to repeat the trace, or model absence with churn",
            )
        if self.period_s is not None and sent[-1] <= 0.0:
            refuse("Trace", "rates_bps", "all zero", "above 0 somewhere", "model an absent link with churn")
        object.__setattr__(self, "times_s", times)
        object.__setattr__(self, "rates_bps", rates)
        object.__setattr__(self, "_sent", tuple(sent))

    @staticmethod
    def from_csv(path: Path | str, *, time_column: str = "t_s", rate_column: str = "rate_bps", scale: float = 1.0, period_s: float | None) -> Trace:
        """Read a trace from two columns of a CSV file; `scale` turns the rate column into bit/s (1e6 for Mbit/s)."""
        times: list[float] = []
        rates: list[float] = []
        with Path(path).open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            for column in (time_column, rate_column):
                if column not in (reader.fieldnames or ()):
                    raise ScenarioError(f"Trace.from_csv('{path}'): no column '{column}', only {list(reader.fieldnames or ())}; name the columns.")
            for row in reader:
                try:
                    times.append(float(row[time_column]))
                    rates.append(float(row[rate_column]) * scale)
                except ValueError:
                    raise ScenarioError(f"Trace.from_csv('{path}'), line {reader.line_num}: not two numbers; repair or drop the row.") from None
        start = times[0] if times else 0.0
        return Trace(times_s=[t - start for t in times], rates_bps=rates, period_s=period_s)

    def rate_bps(self, at_s: float) -> float:
        """Return the rate at a time."""
        _, local_s = self._split(at_s)
        return self.rates_bps[bisect_right(self.times_s, local_s) - 1]

    def bits(self, start_s: float, end_s: float) -> float:
        """Return the bits that the trace carries between two times."""
        first, first_s = self._split(start_s)
        last, last_s = self._split(end_s)
        return (last - first) * self._sent[-1] + self._sent_at(last_s) - self._sent_at(first_s)

    def finish_s(self, start_s: float, bits: float) -> float:
        """Return when `bits` that start at `start_s` have been sent."""
        need_non_negative("Trace.finish_s", "bits", bits, "a transfer cannot be negative")
        if bits == 0.0:
            return start_s
        laps, local_s = self._split(start_s)
        target = self._sent_at(local_s) + bits
        base_s = 0.0
        if self.period_s is not None:
            per_lap = self._sent[-1]
            more = int(target / per_lap)
            target -= more * per_lap
            if target <= 0.0:  # ends exactly with a lap, whose last segments may be silent: step back into it
                more, target = more - 1, target + per_lap
            base_s = (laps + more) * self.period_s
        i = max(self._first_reaching(target) - 1, 0)
        return max(start_s, base_s + self.times_s[i] + (target - self._sent[i]) / self.rates_bps[i])

    def _first_reaching(self, target: float) -> int:
        """First index into `_sent` whose value is at least `target` (> 0); the held last segment counts as reaching."""
        low, high = 1, len(self._sent)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._sent[middle] >= target else (middle + 1, high)
        return low

    def _split(self, at_s: float) -> tuple[int, float]:
        """Whole periods before a time, and the rest of it."""
        if not 0.0 <= at_s < inf:
            refuse("Trace", "at_s", at_s, "a finite time >= 0", "the clock starts at 0 s")
        if self.period_s is None:
            return 0, at_s
        laps = whole_periods(at_s, self.period_s)
        return laps, at_s - laps * self.period_s

    def _sent_at(self, local_s: float) -> float:
        """Bits from the start of the (current) lap to a time in it."""
        i = bisect_right(self.times_s, local_s) - 1
        return self._sent[i] + self.rates_bps[i] * (local_s - self.times_s[i])
