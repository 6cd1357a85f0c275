"""The ledger of a service: what the answers so far were worth, how long users waited, and what an answer cost."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence
from typing import Any

COSTS = ("bytes_up", "bytes_down", "joules", "price")  # also given per answer, since the service opened


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return the smallest value that at least a share q of the ordered values does not exceed.

    >>> quantile([1.0, 2.0, 3.0, 4.0], 0.5), quantile([1.0, 2.0, 3.0, 4.0], 0.95)
    (2.0, 4.0)
    """
    return ordered[max(0, -int(-q * len(ordered) // 1) - 1)]


class Ledger:
    """Running totals over the points of a service.

    >>> ledger = Ledger()
    >>> ledger.add({"answered": 0, "joules": 5.0})
    {}
    >>> point = {"correct": 1, "latency_s": 2.0, "first_s": 0.5, "is_remote": 1, "is_fallback": 0, "joules": 9.0}
    >>> ledger.add(point) == {"answered": 1, "accuracy": 1.0, "p50_s": 2.0, "p95_s": 2.0, "first_p50_s": 0.5, "first_p95_s": 0.5,
    ...     "remote_rate": 1.0, "fallback_rate": 0.0, "joules_each": 4.0}
    True
    """

    def __init__(self) -> None:
        self.opened: Mapping[str, Any] = {}
        self.latencies: list[float] = []
        self.firsts: list[float] = []
        self.right = self.remote = self.fallbacks = self.private = self.leaked = 0

    def add(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Take in a point; return what the ledger says now. A point with `answered` = 0 opens the service, one without a wait changes nothing."""
        if point.get("answered") == 0:
            self.opened = point
        if "latency_s" not in point:
            return {}
        insort(self.latencies, float(point["latency_s"]))
        insort(self.firsts, float(point["first_s"]))
        self.right += int(point.get("correct", 0))
        self.remote += int(point["is_remote"])
        self.fallbacks += int(point["is_fallback"])
        self.private += int(point.get("private", 0))
        self.leaked += int(point.get("leaked", 0))
        n = len(self.latencies)
        return {
            "answered": n,
            **({"accuracy": self.right / n} if "correct" in point else {}),  # nobody grades real requests
            "p50_s": quantile(self.latencies, 0.5),
            "p95_s": quantile(self.latencies, 0.95),
            "first_p50_s": quantile(self.firsts, 0.5),
            "first_p95_s": quantile(self.firsts, 0.95),
            "remote_rate": self.remote / n,
            "fallback_rate": self.fallbacks / n,
            **({"leakage": self.leaked / max(1, self.private)} if "private" in point else {}),  # of private values that came up
            **{f"{cost}_each": (point[cost] - self.opened.get(cost, 0.0)) / n for cost in COSTS if cost in point},
        }
