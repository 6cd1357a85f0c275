"""Codecs: what a client sends in place of the values that a device function returns. A socket of every method (`codec=...`).

    client:  u = v - x  or  u = v, the shorter one (x: the first model of v's kind among the call's arguments, which the sender of the call has too)
             sends  C(u + e),   e <- u + e - D(C(u + e))                              (e: only with error feedback; it stays at the client)
    server:  takes  x + D(C(u + e)),  or D(C(u + e)), for v

The engine does this for all `Params` that a method's device functions return at places that hold data: there the value is exact, elsewhere it is what
came out of the wire, and messages cost what C weighs. Where a value is of no model (numbers, tensors, arrays), it travels as it is.

Left out: codes on the way down and between servers; the time to encode; entropy coding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from airloom.errors import ScenarioError
from airloom.models.module import ModelSpec
from airloom.models.params import Params
from airloom.program.protection import guarded
from airloom.program.ref import Ref
from airloom.program.tree import Path, leaves, replaced

if TYPE_CHECKING:
    from airloom.program.here import Here

Payload = Mapping[str, torch.Tensor]
FLAG_BYTES = 1  # says whether a difference was sent


@dataclass(frozen=True, kw_only=True)
class Codec(ABC):
    """C and D above, for vectors.

    Class facts a codec states: `is_random` (C draws), `has_memory` (what C drops is sent later).
    """

    @property
    def is_random(self) -> bool:
        """Whether `encode` draws from its stream."""
        return False

    @property
    def has_memory(self) -> bool:
        """Whether the client keeps what was dropped, and adds it to what it sends next."""
        return False

    @abstractmethod
    def size_bytes(self, n: int, item_bytes: int) -> int:
        """Bytes of the code of n values of `item_bytes` each: the sum over the payload's tensors."""

    @abstractmethod
    def encode(self, u: torch.Tensor, rng: np.random.Generator) -> Payload:
        """Return what is sent for the vector u."""

    @abstractmethod
    def decode(self, payload: Payload, n: int, dtype: torch.dtype) -> torch.Tensor:
        """Return the vector of n values that the payload stands for."""


@dataclass(frozen=True, eq=False)
class Code:
    """What crosses a real link for a value: its payload, and where among the arguments of the call x is (None: nothing was subtracted)."""

    spec: ModelSpec
    payload: Payload
    reference: Path | None
    size_bytes: int

    def opened(self, codec: Codec, argument: Callable[[Path], Any]) -> Params:
        """The value that the receiver takes.

        Arguments:
            codec: of the method.
            argument: the call's argument (or the part of one) at a path, as the receiver has it.
        """
        decoded = codec.decode(self.payload, self.spec.size, self.spec.dtype)
        if not bool(torch.isfinite(decoded).all()):
            raise ScenarioError(f"code of {self.spec}: it stands for values that are not finite")
        if self.reference is None:
            return Params.checked(self.spec, decoded)
        x = argument(self.reference)
        if not isinstance(x, Params) or x.spec.key != self.spec.key:
            raise ScenarioError(f"code of {self.spec}: it is a difference to argument {self.reference!r}, which is no such model")
        return Params.checked(self.spec, x.flat + decoded)


def part_of(args: Any, path: Path, value: Callable[[Ref, Path], Any]) -> Any:
    """The part of a call's arguments at a path; `value(ref, rest)` has the values that Refs among them name."""
    for i, key in enumerate(path):
        if isinstance(args, Ref):
            return value(args, path[i:])
        args = args[key]
    return value(args, ()) if isinstance(args, Ref) else args


def codec_of(fn: Callable[..., Any]) -> tuple[Codec | None, bool]:
    """The codec of the method that a device function belongs to, and whether that method passes values from client to client."""
    from airloom.program.method import Method

    owner = getattr(fn, "__self__", None)
    return (owner.codec, type(owner).shape == "chain") if isinstance(owner, Method) else (None, False)


def coded(
    here: Here, fn: Callable[..., Any], args: tuple[Any, ...], value: Any, codes: dict[Path, Any] | None = None
) -> tuple[dict[Path, Any], dict[Path, int]]:
    """What others get for leaves of a call's value, protected and encoded, and the bytes of encoded ones, by path; in a dry run the bytes alone.

    `codes` takes what is sent for them.
    """
    codec, is_chain = codec_of(fn)
    got = dict(guarded(here, fn, args, value))
    if codes is not None:
        codes.update(got)
    if codec is None or not here.holds_data:
        return got, {}
    known = [] if is_chain else [(path, leaf) for path, leaf in leaves(args) if isinstance(leaf, Params)]
    name = fn.__name__
    count = here.state.get(f"codec/{name}", 0.0) if codec.is_random and not here.is_dry else 0.0
    sizes: dict[Path, int] = {}
    for path, v in leaves(replaced(value, got)):
        if not isinstance(v, Params) or not len(v):
            continue
        sizes[path] = codec.size_bytes(len(v), v.flat.element_size()) + v.spec.index_bytes + FLAG_BYTES
        key = "/".join(["codec", name, *map(str, path), "memory"])
        if v.is_meta:
            if codec.has_memory:
                here.state[key] = v
            continue
        place, x = next(((place, leaf) for place, leaf in known if leaf.spec.key == v.spec.key), (None, None))
        is_difference = x is not None and (v - x).square_norm() < v.square_norm()
        u = v.flat - x.flat if x is not None and is_difference else v.flat
        if codec.has_memory and here.state.get(key) is not None:
            u = u + here.state[key].flat
        payload = codec.encode(u, here.rng("codec", name, *path, count))
        decoded = codec.decode(payload, len(v), v.flat.dtype)
        if codec.has_memory:
            here.state[key] = Params(v.spec, u - decoded)
        got[path] = Params(v.spec, x.flat + decoded if x is not None and is_difference else decoded)
        if codes is not None:
            codes[path] = Code(v.spec, dict(payload), place if is_difference else None, sizes[path])
    if codec.is_random and sizes:
        here.state[f"codec/{name}"] = count + 1.0
    return got, sizes
