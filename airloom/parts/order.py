"""In which order clients are visited: a socket for methods that pass one model along, or that make sure that everybody has a turn.

order, self_state = self.order.next(names, self_state, node.rng("order", epoch))          # state: None at first, plain data, kept in State
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from airloom.parts import named

OrderState = dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Orderer(ABC):
    """Makes the order of the next epoch."""

    @abstractmethod
    def next(self, names: Sequence[str], state: OrderState, rng: np.random.Generator) -> tuple[list[str], OrderState]:
        """Return every one of `names` once, and the state to give to the next call.

        Arguments:
            names: clients that are present.
            state: None in the first epoch.
            rng: a stream of its own for this epoch, such as `node.rng("order", epoch)`.
        """


@dataclass(frozen=True, kw_only=True)
class FixedOrder(Orderer):
    """The order of the names as given, in every epoch (incremental gradient).

    >>> FixedOrder().next(["b", "a"], None, np.random.default_rng(0))
    (['b', 'a'], None)
    """

    def next(self, names: Sequence[str], state: OrderState, rng: np.random.Generator) -> tuple[list[str], OrderState]:
        """Return the names as they are."""
        return list(names), None


@dataclass(frozen=True, kw_only=True)
class RandomReshuffle(Orderer):
    """A new random order in every epoch."""

    def next(self, names: Sequence[str], state: OrderState, rng: np.random.Generator) -> tuple[list[str], OrderState]:
        """Return the names in a fresh random order."""
        places: list[int] = rng.permutation(len(names)).tolist()
        return [names[i] for i in places], None


@dataclass(frozen=True, kw_only=True)
class ShuffleOnce(Orderer):
    """One random order for ever; clients that appear later are put behind, in random order among themselves."""

    def next(self, names: Sequence[str], state: OrderState, rng: np.random.Generator) -> tuple[list[str], OrderState]:
        """Return the names in the order that was drawn once."""
        known: list[str] = state["order"] if state else []
        late = [name for name in names if name not in set(known)]
        places: list[int] = rng.permutation(len(late)).tolist()
        order = known + [late[i] for i in places]
        present = set(names)
        return [name for name in order if name in present], {"order": order}


@dataclass(frozen=True, kw_only=True)
class FlipFlop(Orderer):
    """A new random order in every second epoch, and in between the last one backwards.

    Paper: Rajput, Lee, Papailiopoulos, "Permutation-Based SGD: Is Random Optimal?", ICLR 2022, arXiv 2102.09718.
    """

    def next(self, names: Sequence[str], state: OrderState, rng: np.random.Generator) -> tuple[list[str], OrderState]:
        """Return a random order, then its reverse; newcomers in between come last."""
        if state is None:
            places: list[int] = rng.permutation(len(names)).tolist()
            order = [names[i] for i in places]
            return order, {"order": order}
        known, present = set(state["order"]), set(names)
        return [n for n in reversed(state["order"]) if n in present] + [n for n in names if n not in known], None


@dataclass(frozen=True, kw_only=True)
class WithReplacement(Orderer):
    """As many independent draws as there are names: plain stochastic gradient descent, not a permutation; some come twice, some not at all."""

    def next(self, names: Sequence[str], state: OrderState, rng: np.random.Generator) -> tuple[list[str], OrderState]:
        """Return the draws."""
        places: list[int] = rng.integers(len(names), size=len(names)).tolist() if names else []
        return [names[i] for i in places], None


ORDERERS: Mapping[str, type[Orderer]] = MappingProxyType(
    {"fixed": FixedOrder, "shuffle_once": ShuffleOnce, "random_reshuffle": RandomReshuffle, "flip_flop": FlipFlop}
)


def orderer(text: str) -> Orderer:
    """Make an orderer by name: `fixed`, `shuffle_once`, `random_reshuffle`, `flip_flop`.

    >>> orderer("shuffle_once")
    ShuffleOnce()
    """
    return named.make("order", ORDERERS, text)
