"""Who trains next and how many steps are done ahead, while updates are on the air.

    before overlap    U_n = sqrt(|D_n| F_n)^a min(1, T / (u_n + K c_n))^b
    with overlap      U_n = sqrt(|D_n| F_n)^a (1 / (u_n + r_n c_n))^b,                         r_n = max(K - S_n, 0) steps that are left
    a client that was not chosen for more than `forced_age` rounds, or never answered: U_n = inf;  the m largest take part
    T_r = max_n (u_n + r_n c_n),   S_n' = min(S_max, floor((T_r - r_n c_n) / c_n))

Paper: Geng, Li, Qin et al., "FedEx: Expediting Federated Learning over Heterogeneous Mobile Devices by Overlapping and Participant Selection", 2024,
arXiv 2407.00943, as in the authors' code, with max(., 0) where it has none.
Symbols: D_n `samples`, F_n `loss`, S_n `done`, c_n `step_s`, u_n `upload_s`, K `steps`, T `preferred_s`, T_r `finish_s`.
Left out: the download; no planner sees it, and what is computed meanwhile comes on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, inf, sqrt

from airloom.errors import ScenarioError


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What a planner knows of a client.

    Fields:
        samples: rows of its own.
        loss: mean loss of its last training, or None.
        age: rounds since it was last chosen, 1 right after.
        done: steps of its next participation that it has done already.
        step_s, upload_s: seconds of a local step and of an upload.
    """

    samples: int
    loss: float | None
    age: int
    done: int
    step_s: float
    upload_s: float

    def __post_init__(self) -> None:
        if not (0 < self.step_s < inf and 0 < self.upload_s < inf and self.done >= 0 and self.age >= 1):
            raise ScenarioError(f"{self}: allowed are finite step_s and upload_s > 0, done >= 0 and age >= 1")

    def busy_s(self, steps: int) -> float:
        """Seconds of computing that are left of a round of so many steps."""
        return self.step_s * max(steps - self.done, 0)


@dataclass(frozen=True, kw_only=True)
class OverlapPlan:
    """Fields: `finish_s`, seconds until the last update is in, 0 without participants; `ahead`, S_n', steps to do ahead by participant."""

    finish_s: float
    ahead: Mapping[str, int]


def utility(c: Candidate, steps: int, *, preferred_s: float | None, forced_age: int, loss_power: float, time_power: float) -> float:
    """U_n of the coming round; `preferred_s` is T before overlap, None with it.

    >>> c = Candidate(samples=50, loss=2.0, age=1, done=4, step_s=1.0, upload_s=4.0)
    >>> [utility(c, 10, preferred_s=T, forced_age=20, loss_power=1.0, time_power=1.0) for T in (7.0, None)]
    [5.0, 1.0]
    """
    if c.loss is None or c.age > forced_age:
        return inf
    seconds = c.upload_s + (c.busy_s(steps) if preferred_s is None else steps * c.step_s)
    speed = 1 / seconds if preferred_s is None else min(1.0, preferred_s / seconds)
    return sqrt(c.samples * max(c.loss, 0.0)) ** loss_power * speed**time_power


def ahead(chosen: Mapping[str, Candidate], steps: int, ceiling: int) -> OverlapPlan:
    """How many steps each participant does ahead while updates fly.

    Arguments:
        chosen: participants of the round, by name.
        steps: K, local steps of a participation.
        ceiling: S_max, 0 for no overlap.

    >>> devices = {n: Candidate(samples=1, loss=1.0, age=1, done=0, step_s=c, upload_s=u) for n, c, u in (("a", 0.5, 3), ("b", 1, 2), ("c", 2, 4))}
    >>> ahead(devices, 10, 5)
    OverlapPlan(finish_s=24, ahead={'a': 5, 'b': 5, 'c': 2})
    """
    finish_s = max([c.upload_s + c.busy_s(steps) for c in chosen.values()], default=0.0)
    free = {n: (finish_s - c.busy_s(steps)) / c.step_s for n, c in chosen.items()}
    # a whole number of steps may miss itself by rounding
    return OverlapPlan(finish_s=finish_s, ahead={n: min(ceiling, floor(f * (1 + 1e-12))) for n, f in free.items()})
