"""Statistics of a comparison over seeds: means, paired ratios, runs that never reach a target, several methods at once."""

# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

Bound = Literal["exact", "at least", "at most"]

SEEDS_WITHOUT_INTERVAL = 3  # with so few, an interval from t is wider than anything it could tell; ten are for publishing


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean with its confidence interval.

    Parameters
    ----------
    mean : float or None
        None where there is nothing to average, or a value is missing or not finite.
    low, high : float or None
        None with three seeds or fewer, and where a seed is censored.
    bound : {"exact", "at least", "at most"}
        What censored seeds leave known: `"at least"` says that the true mean is `mean` or more.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None
    bound: Bound = "exact"

    def as_dict(self) -> dict[str, float | str | None]:
        """The fields, for JSON."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "bound": self.bound}


class Spent(NamedTuple):
    """What one seed spent: until it reached the target, or (censored) until its run ended without reaching it."""

    cost: float
    is_reached: bool = True


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Return the mean with Student's t-interval, mean ± t s / sqrt(n).

    Parameters
    ----------
    values : sequence of float
        One per seed; three or fewer give no interval. One that is not finite gives no mean: leaving it out would average survivors.
    confidence : float
        Of the interval (default 0.95, the field's convention).

    >>> mean_interval([1.0, 2.0, 3.0])
    Interval(mean=2.0, low=None, high=None, bound='exact')
    >>> interval = mean_interval([1.0, 2.0, 3.0, 4.0])
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.446, 4.554)
    """
    if not values or not all(map(math.isfinite, values)):
        return Interval(mean=None)
    mean, error = _mean_and_error(values)
    if len(values) <= SEEDS_WITHOUT_INTERVAL:
        return Interval(mean=mean)
    half = _t_quantile(len(values) - 1, 0.5 + confidence / 2) * error
    return Interval(mean=mean, low=mean - half, high=mean + half)


def restricted_mean(spent: Sequence[Spent], *, confidence: float = 0.95) -> Interval:
    """Return the mean cost, each censored seed counted with what it had spent when its budget ended.

    With one budget `tau` for all seeds this is the restricted mean, the average of min(T, tau); it is a lower bound of the mean of T and says so.

    Symbols: T cost until the target is reached; tau budget.

    >>> restricted_mean([Spent(10.0), Spent(20.0), Spent(60.0, is_reached=False)])
    Interval(mean=30.0, low=None, high=None, bound='at least')
    """
    interval = mean_interval([seed.cost for seed in spent], confidence=confidence)
    if all(seed.is_reached for seed in spent):
        return interval
    return Interval(mean=interval.mean, bound="at least")


def paired_ratio(spent: Sequence[Spent], base: Sequence[Spent], *, confidence: float = 0.95) -> Interval:
    """Return the geometric mean of the ratios spent/base over seeds, with a t-interval on their logarithms.

    Censored seeds of one side leave a bound and no interval; where both sides have some, nothing is known and the mean is None. So it is
    where a cost is zero.

    Parameters
    ----------
    spent, base : sequences of Spent
        The same seeds in the same order.
    confidence : float
        Of the interval.

    >>> paired_ratio([Spent(2.0), Spent(8.0)], [Spent(1.0), Spent(1.0)])
    Interval(mean=4.0, low=None, high=None, bound='exact')
    """
    logs = _log_ratios(spent, base)
    is_above = not all(seed.is_reached for seed in spent)
    is_below = not all(seed.is_reached for seed in base)
    if logs is None or (is_above and is_below):
        return Interval(mean=None)
    interval = mean_interval(logs, confidence=confidence)
    if is_above or is_below:
        return Interval(mean=_exp(interval.mean), bound="at least" if is_above else "at most")
    return Interval(mean=_exp(interval.mean), low=_exp(interval.low), high=_exp(interval.high))


def paired_p(spent: Sequence[Spent], base: Sequence[Spent]) -> float | None:
    """Return the two-sided p-value of the paired t-test that the ratio is 1; None where `paired_ratio` has no interval.

    >>> paired_p([Spent(2.0), Spent(2.0), Spent(0.5), Spent(0.5)], [Spent(1.0)] * 4)
    1.0
    """
    logs = _log_ratios(spent, base)
    if logs is None or len(logs) <= SEEDS_WITHOUT_INTERVAL or not all(seed.is_reached for seed in (*spent, *base)):
        return None
    mean, error = _mean_and_error(logs)
    if error == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    from scipy.special import stdtr

    return 2.0 * float(stdtr(len(logs) - 1, -abs(mean / error)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for looking at all of them at once (Holm, step down); None stays None and does not count.

    The i-th smallest of m becomes the largest of (m - j + 1) p_(j) over j <= i, at most 1.

    Paper: S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.

    >>> holm([0.04, 0.01, None])
    [0.04, 0.02, None]
    """
    adjusted: list[float | None] = [None] * len(p_values)
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[i] = largest
    return adjusted


def _log_ratios(spent: Sequence[Spent], base: Sequence[Spent]) -> list[float] | None:
    """Return log(spent/base) per seed, or None where it does not exist."""
    pairs = list(zip(spent, base, strict=True))
    if not pairs or not all(math.isfinite(cost) and cost > 0.0 for pair in pairs for cost, _ in pair):
        return None
    return [math.log(mine.cost / other.cost) for mine, other in pairs]


def _exp(value: float | None) -> float | None:
    """Return exp, passing None on."""
    return None if value is None else math.exp(value)


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error."""
    n = len(values)
    mean = math.fsum(values) / n
    square = math.fsum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(square / (n - 1) / n) if n > 1 else 0.0


@lru_cache(maxsize=256)
def _t_quantile(degrees: int, probability: float) -> float:
    """Return the quantile of Student's t (scipy.special, because scipy.stats takes a second to import)."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
