"""The one root that planners look for: where a rising function crosses zero."""

from __future__ import annotations

from collections.abc import Callable


def rising_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a non-decreasing `function` becomes non-negative between `low` and `high`, to the last bit (bisection).

    A root outside the interval gives the nearer end.

    >>> rising_root(lambda x: x * x - 2, 0.0, 2.0) == 2**0.5
    True
    """
    if function(low) >= 0:
        return low
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if function(middle) >= 0 else (middle, high)
    return high
