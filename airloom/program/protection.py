"""Protection: what is done to what clients send, so that it says less about their data. A socket of every method (`protect=...`).

local:  what leaves a device is changed there, value by value: any method takes it without a line of its own (see `guarded`)
sums:   the server learns a sum and no part of it: the method's text folds through `seal` and `reduce`

x_n = self.protect.given(server, x)                                             # what the clients start from, sent once
out = self.protect.seal(server, server.map(self.client, P, x_n), w, about=x_n)  # at the clients, before anything leaves them
mean = self.protect.reduce(server, out, w, like=x)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from airloom.errors import ScenarioError
from airloom.models.estimator import Fitted
from airloom.models.params import Params
from airloom.program.node import Node
from airloom.program.reducer import MEAN
from airloom.program.ref import Ref
from airloom.program.tree import Path, body_bytes, leaves

if TYPE_CHECKING:
    from airloom.program.here import Here


class Protection(ABC):
    """What happens to values before they leave the clients, and how they are folded."""

    @property
    @abstractmethod
    def is_local(self) -> bool:
        """Whether each value is protected by itself, so that any method takes it; else the method's text has to fold through it."""

    @abstractmethod
    def guard(self, here: Here, name: str, value: Any, reference: Callable[[], Any]) -> Mapping[Path, Any]:
        """At a client: what others get for leaves of a function's value, by path.

        Arguments:
            name: of the function.
            reference: gives what the function returns where nothing is learned (see `reference_of`); not in a dry run.
        """

    @abstractmethod
    def given(self, node: Node, x: Any) -> Any:
        """`x` in a form that reaches each client once, although it may be used twice there: to start from, and to seal about."""

    @abstractmethod
    def seal(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, about: Any = None, over: Any = None) -> list[Ref]:
        """Refs, at the same places, of what may leave them.

        Arguments:
            weights, over: as later given to `reduce`.
            about: what the clients started from where their values are models; None where values are updates.
        """

    @abstractmethod
    def reduce(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, like: Any, over: Any = None) -> Any:
        """The values of sealed Refs that arrive, folded by `over` (None: their weighted mean); zeros of `like` if nothing arrives."""

    @abstractmethod
    def spent(self, releases: int) -> dict[str, Any]:
        """What the record says of the privacy of a place that so many models and tensors have left."""


@dataclass(frozen=True, kw_only=True)
class Unprotected(Protection):
    """Nothing: what clients make is what leaves them."""

    @property
    def is_local(self) -> bool:
        return True

    def guard(self, here: Here, name: str, value: Any, reference: Callable[[], Any]) -> Mapping[Path, Any]:
        return {}

    def given(self, node: Node, x: Any) -> Any:
        return x

    def seal(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, about: Any = None, over: Any = None) -> list[Ref]:
        return list(refs)

    def reduce(self, node: Node, refs: Sequence[Ref], weights: Sequence[float] | None, like: Any, over: Any = None) -> Any:
        return node.reduce(refs, weights, over=over, like=like)

    def spent(self, releases: int) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, kw_only=True)
class OfSums(Protection):
    """A protection by which the server learns a sum alone: what does not go into one leaves no client under it."""

    def __post_init__(self) -> None:
        from airloom.program.method import check_fields

        check_fields(self)

    @property
    def is_local(self) -> bool:
        return False

    def check_mean(self, over: Any) -> None:
        """Raise ScenarioError unless a fold is a mean of whole models."""
        if over is not None and over != MEAN:
            raise ScenarioError(f"{self}: got over={over!r}; allowed is a mean of whole models; use protect=masked(), or gaussian(...)")

    def guard(self, here: Here, name: str, value: Any, reference: Callable[[], Any]) -> Mapping[Path, Any]:
        return {}

    def given(self, node: Node, x: Any) -> Any:
        return node.put(x)

    def spent(self, releases: int) -> dict[str, Any]:
        return {}


def is_protected(owner: Any) -> bool:
    """Whether a method (or a service) has a protection."""
    from airloom.program.method import Method

    return isinstance(owner, Method) and not isinstance(owner.protect, Unprotected)


def has_releases(owner: Any) -> bool:
    """Whether what a method's clients send is counted, for an account of its privacy."""
    from airloom.program.method import Method

    return isinstance(owner, Method) and bool(owner.protect.spent(1))


def guarded(here: Here, fn: Callable[..., Any], args: tuple[Any, ...], value: Any) -> Mapping[Path, Any]:
    """What others get for leaves of a call's value under the protection of the method that the function belongs to, by path."""
    owner: Any = getattr(fn, "__self__", None)
    if not is_protected(owner) or not here.holds_data:
        return {}
    return owner.protect.guard(here, fn.__name__, value, lambda: reference_of(here, fn, args))


def reference_of(here: Here, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """What the call would have returned had the device learned nothing: without state, on rows of zeros, with training that moves nothing.

    It is the same whatever the device's data are (their number and label counts apart, which shapes may depend on), so an update about it is about
    what everybody may know: x where a function returns a model that it trained from x, zero where it returns the difference.
    """
    try:
        return fn(here.blank(), *args)
    except Exception as error:
        raise ScenarioError(
            f"{fn.__qualname__}: what it returns where nothing is learned cannot be found ({type(error).__name__}: {error}); allowed with this "
            f"protection are functions that run on rows of zeros without state; use protect=none"
        ) from error


def vector_of(leaf: Any) -> torch.Tensor | None:
    """The floating-point values of a model, tensor or array as one vector; None for other leaves."""
    if isinstance(leaf, Params):
        return leaf.flat
    if isinstance(leaf, np.ndarray) and leaf.ndim and np.issubdtype(leaf.dtype, np.floating):
        return torch.from_numpy(leaf).reshape(-1)
    if isinstance(leaf, torch.Tensor) and leaf.dim() and leaf.is_floating_point():
        return leaf.reshape(-1)
    return None


def with_vector(leaf: Any, flat: torch.Tensor) -> Any:
    """The leaf with other floating-point values."""
    if isinstance(leaf, Params):
        return Params(leaf.spec, flat)
    if isinstance(leaf, np.ndarray):
        return flat.numpy().reshape(leaf.shape)
    return flat.reshape(leaf.shape)


def vectors(name: str, value: Any) -> list[tuple[Path, torch.Tensor]]:
    """The leaves of a function's value that noise can protect; ScenarioError for large leaves that it cannot."""
    found: list[tuple[Path, torch.Tensor]] = []
    for path, leaf in leaves(value):
        flat = vector_of(leaf)
        if flat is not None and len(flat):
            found.append((path, flat))
        elif flat is None and body_bytes(leaf) >= 0:
            kind = type(leaf).__name__ if isinstance(leaf, Fitted) else leaf.dtype
            raise ScenarioError(
                f"{name}: its value has {kind} at {list(path)!r}; allowed with this protection are models, floating-point tensors and numbers, to "
                f"which noise can be added; use protect=none"
            )
    return found
