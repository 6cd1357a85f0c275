"""Groups of clients that change with the rounds: a socket for methods that chain the clients of a group and average the groups.

    groups = self.group.form(node.clients, counts, t, node.rng("groups", t))          # lists of names

How many: G(t) = min(K, g), with g = start * floor(rate r + 1) ("linear"), start * floor(rate ln r + 1) ("log"), start * floor(rate^r) ("exp") or
start * floor((1 + rate)^(r - 1)) ("power"), r = t + 1 from 1 on; "none" keeps `start`.

Paper: S. Zeng, Z. Li, H. Yu et al., "Heterogeneous Federated Learning via Grouped Sequential-to-Parallel Training", 2022, arXiv 2201.12976; the
rules are those of the authors' code but "power", which is what the paper's text probably has, and "none", their ablations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, log
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from airloom.errors import ScenarioError
from airloom.parts import named
from airloom.plans.grouping import CLUSTER_ROUNDS, Ids, icg, random_groups
from airloom.program.method import check_fields, ranged

_MOST = 1_000_000_000  # groups: beyond any fleet, and no overflow of a growing power


@dataclass(frozen=True, kw_only=True)
class Grouper(ABC):
    """Makes groups of equal size.

    Arguments:
        start: beta, groups in the first round (10, authors' code).
        growth: "linear" (authors' default), "log", "exp", "power" or "none".
        rate: a of the growth (0.072, authors' code).
    """

    start: int = ranged(1, 1_000_000, default=10)
    growth: Literal["linear", "log", "exp", "power", "none"] = "linear"
    rate: float = ranged(0, 1_000, default=0.072)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.growth == "exp" and self.rate < 1:
            raise ScenarioError(f"{type(self).__name__}(growth='exp', rate={self.rate}): must be >= 1, else the groups become fewer; or growth=power")

    def groups(self, t: int, clients: int) -> int:
        """G of round t (from 0), at most one per client.

        >>> [RandomGroups(start=2, rate=0.5).groups(t, 100) for t in (0, 1, 3)]
        [2, 4, 6]
        """
        r = t + 1
        if self.growth in ("exp", "power"):  # by logarithms, so that nothing overflows
            exponent = r * log(self.rate) if self.growth == "exp" else t * log(1 + self.rate)
            factor = floor(float(np.exp(min(exponent, log(_MOST)))) + 1e-9)
        else:
            factor = floor({"linear": self.rate * r, "log": self.rate * log(r), "none": 0.0}[self.growth] + 1)
        return min(clients, self.start * factor)

    def form(self, names: list[str], counts: Mapping[str, Any], t: int, rng: np.random.Generator) -> list[list[str]]:
        """The groups of round t, each in the order of `names`; some may sit out.

        Arguments:
            names: clients that are present; none gives no groups.
            counts: label counts, of all of them where the grouper `needs_counts`.
        """
        if not names:
            return []
        found = self._formed([np.asarray(counts[n]) for n in names] if self.needs_counts else [], len(names), self.groups(t, len(names)), rng)
        return [[names[i] for i in group] for group in found]

    @property
    @abstractmethod
    def needs_counts(self) -> bool:
        """Whether it looks at label counts."""

    @abstractmethod
    def flops(self, clients: int, groups: int, classes: int) -> float:
        """Work of forming them, at most."""

    @abstractmethod
    def _formed(self, counts: Sequence[np.ndarray], clients: int, groups: int, rng: np.random.Generator) -> list[Ids]:
        """Positions of the members of each group."""


@dataclass(frozen=True, kw_only=True)
class ICG(Grouper):
    """Inter-cluster grouping: every group takes one client from each cluster of similar ones (`airloom.plans.grouping.icg`).

    Arguments:
        normalize: cluster class mixes instead of counts (ours), so that clients with many samples do not stand apart.
    """

    normalize: bool = False

    @property
    def needs_counts(self) -> bool:
        """It clusters them."""
        return True

    def flops(self, clients: int, groups: int, classes: int) -> float:
        """Distances to the centroids, 3 n k F, and an assignment, n^3, in each round of the clustering."""
        k = clients // groups
        n = k * groups
        return CLUSTER_ROUNDS * (3.0 * n * k * classes + float(n) ** 3)

    def _formed(self, counts: Sequence[np.ndarray], clients: int, groups: int, rng: np.random.Generator) -> list[Ids]:
        return icg(np.stack(counts), groups, rng, normalize=self.normalize)


@dataclass(frozen=True, kw_only=True)
class RandomGroups(Grouper):
    """Groups at random."""

    @property
    def needs_counts(self) -> bool:
        """It does not."""
        return False

    def flops(self, clients: int, groups: int, classes: int) -> float:
        """None to speak of."""
        return 0.0

    def _formed(self, counts: Sequence[np.ndarray], clients: int, groups: int, rng: np.random.Generator) -> list[Ids]:
        return random_groups(clients, groups, rng)


GROUPERS: Mapping[str, type[Grouper]] = MappingProxyType({"icg": ICG, "random": RandomGroups})


def grouper(text: str) -> Grouper:
    """Make a grouper by name: `icg`, `random`, with fields in parentheses if wanted.

    >>> grouper("icg(start=4, rate=0.3)").groups(3, 60)
    8
    """
    return named.make("group", GROUPERS, text)
