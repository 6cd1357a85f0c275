"""Orders that learn: what was visited is observed, and the next order keeps the sum of what has been seen so far near its mean path.

    order, state = self.order.next(names, state, node.rng("order", epoch))      # as every Orderer; the first epochs are random
    state = observe(self.order, state, name, vector)                            # in the order of the visits

    GraB      v = g - m  (m: mean of the last epoch);  + if |s + v| <= |s - v| else -;  s <- s +- v
              next: those with + in order of visit, then those with - in reversed order
    PairGraB  of two in a row d = g_i - g_j, signed alike;  +: i to the front, j to the back;  -: the other way round;  s <- s +- d
              next: the front in order, an odd last one, then the back reversed

Paper: Lu, Guo, De Sa, "GraB: Finding Provably Better Data Permutations than Random Reshuffling", NeurIPS 2022, arXiv 2205.10733; Cooper, Guo, Pham et
al., "Coordinating Distributed Example Orders for Provably Accelerated Training", NeurIPS 2023, arXiv 2302.00845; rules and memory as in the code of
Li, Lyu, Liu, NeurIPS 2025.
Left out: variants that take all vectors at the epoch's first point.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from airloom.models.params import Params
from airloom.parts import named
from airloom.parts.order import ORDERERS, Orderer, OrderState, RandomReshuffle, WithReplacement

FLOPS_PER_VALUE = 8.0  # of observing one vector: two norms, an addition, centering


@dataclass(frozen=True, kw_only=True)
class Balancer(Orderer):
    """An orderer that observes vectors.

    Arguments:
        norm: of the sign rule: "two" (the bounds hold for it) or "max" (the authors' quadratic scripts).
    """

    norm: Literal["two", "max"] = "two"

    @abstractmethod
    def observe(self, state: OrderState, name: str, vector: Params) -> OrderState:
        """Return the state after a visit."""

    def is_plus(self, s: Params | None, v: Params) -> bool:
        """The sign rule: whether adding v leaves the sum no longer than taking it away."""
        if s is None:
            return True
        return s.dot(v) <= 0 if self.norm == "two" else (s + v).abs_max() <= (s - v).abs_max()

    def placed(self, names: Sequence[str], front: list[str], back: list[str], rng: np.random.Generator) -> list[str]:
        """Front, then those that were not seen in random order, then back reversed; without those that are gone."""
        known, present = {*front, *back}, set(names)
        new, _ = RandomReshuffle().next([n for n in names if n not in known], None, rng)
        return [n for n in [*front, *new, *reversed(back)] if n in present]


@dataclass(frozen=True, kw_only=True)
class GraB(Balancer):
    """Gradient balancing with the mean of the epoch before; three vectors of memory.

    The first epoch, which knows no mean, and the second are random.
    """

    def next(self, names: Sequence[str], state: OrderState, rng: np.random.Generator) -> tuple[list[str], OrderState]:
        """Return the balanced order, and the state of a new epoch."""
        if state is None or not state["count"]:
            return RandomReshuffle().next(names, None, rng)[0], {"mean": None, "s": None, "sum": None, "count": 0, "front": [], "back": []}
        new = {"mean": state["sum"] / state["count"], "s": None, "sum": None, "count": 0, "front": [], "back": []}
        if state["mean"] is None:
            return RandomReshuffle().next(names, None, rng)[0], new
        return self.placed(names, state["front"], state["back"], rng), new

    def observe(self, state: OrderState, name: str, vector: Params) -> OrderState:
        """Sign the vector and put the name to the front or to the back."""
        assert state is not None
        total = vector if state["sum"] is None else state["sum"] + vector
        state = state | {"sum": total, "count": state["count"] + 1}
        if state["mean"] is None:
            return state
        v, s = vector - state["mean"], state["s"]
        if self.is_plus(s, v):
            return state | {"s": v if s is None else s + v, "front": [*state["front"], name]}
        return state | {"s": s - v, "back": [*state["back"], name]}


@dataclass(frozen=True, kw_only=True)
class PairGraB(Balancer):
    """Balancing of differences between neighbors in the order; needs no mean. Two vectors of memory. The first epoch is random."""

    def next(self, names: Sequence[str], state: OrderState, rng: np.random.Generator) -> tuple[list[str], OrderState]:
        """Return the balanced order, and the state of a new epoch."""
        new = {"s": None, "waits": None, "vector": None, "front": [], "back": []}
        if state is None:
            return RandomReshuffle().next(names, None, rng)[0], new
        middle = [state["waits"]] if state["waits"] is not None else []
        return self.placed(names, [*state["front"], *middle], state["back"], rng), new

    def observe(self, state: OrderState, name: str, vector: Params) -> OrderState:
        """Keep the first of two; sign their difference with the second."""
        assert state is not None
        first, s = state["waits"], state["s"]
        if first is None:
            return state | {"waits": name, "vector": vector}
        d = state["vector"] - vector
        is_plus = self.is_plus(s, d)
        ends = (first, name) if is_plus else (name, first)
        s = d if s is None else s + d if is_plus else s - d
        return state | {"s": s, "waits": None, "vector": None, "front": [*state["front"], ends[0]], "back": [*state["back"], ends[1]]}


LEARNING: Mapping[str, type[Orderer]] = MappingProxyType({**ORDERERS, "with_replacement": WithReplacement, "grab": GraB, "pair_grab": PairGraB})


def any_orderer(text: str) -> Orderer:
    """Make an orderer by name: those of `airloom.parts.order`, `with_replacement`, `grab`, `pair_grab(norm='max')`.

    >>> any_orderer("grab").norm
    'two'
    """
    return named.make("order", LEARNING, text)


def observe(order: Orderer, state: OrderState, name: str, vector: Any) -> OrderState:
    """Let an orderer that learns see a vector; others have no use for it."""
    return order.observe(state, name, vector) if isinstance(order, Balancer) else state
