"""What a place on real machines knows of values and calls, and the form of its messages."""

# Trees (states, arguments, results) are of any shape, so what is taken out of them has no static type.
# pyright: strict, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from airloom.errors import DeviceLost, ScenarioError
from airloom.program.codec import Code
from airloom.program.ref import Ref
from airloom.program.tree import Path, body_bytes, control_bytes, leaves

if TYPE_CHECKING:
    from airloom.engines.places import Peer


class Unreachable(Exception):
    """A place that a message cannot be brought to."""


def pack(header: Mapping[str, Any], *blobs: bytes) -> bytes:
    """One message: a JSON header and blobs.

    >>> unpack(pack({"a": 1}, b"x", b"yz"))
    ({'a': 1}, [b'x', b'yz'])
    """
    text = json.dumps([header, [len(blob) for blob in blobs]]).encode()
    return b"".join((len(text).to_bytes(4, "little"), text, *blobs))


def unpack(message: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Header and blobs of a message."""
    start = 4 + int.from_bytes(message[:4], "little")
    header, sizes = json.loads(message[4:start])
    blobs: list[bytes] = []
    for size in sizes:
        blobs.append(message[start : start + size])
        start += size
    return header, blobs


class PlaceRef(Ref):
    """Names a part of a value by the value's number, the place where it is and a path."""

    __slots__ = ("id", "path", "peer", "where")

    def __init__(self, peer: Peer, id: str, where: str, path: Path = ()) -> None:
        self.peer = peer
        self.id = id
        self.where = where
        self.path = path

    def __getitem__(self, key: Any) -> PlaceRef:
        return PlaceRef(self.peer, self.id, self.where, (*self.path, key))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlaceRef) and other.id == self.id and other.path == self.path

    def __hash__(self) -> int:
        return hash((self.id, self.path))

    def __repr__(self) -> str:
        return f"Ref({self.id} at '{self.where}'{''.join(f'[{key!r}]' for key in self.path)})"

    @property
    def place(self) -> str:
        return self.where

    @property
    def started_s(self) -> float | None:
        return self.peer.item(self.id, self.where).started_s

    @property
    def made_s(self) -> float | None:
        return self.peer.item(self.id, self.where).made_s

    @property
    def arrived_s(self) -> float | None:
        item = self.peer.item(self.id, self.where)
        held = item.find(self.path)
        return None if held is None else item.arrived_s[held]


class Item:
    """A value as one process knows it: whole where it was made, the parts that have come elsewhere."""

    __slots__ = (
        "age", "arrived_s", "codes", "error", "given", "id", "label", "leaves", "lost", "made", "made_s", "parts", "place", "started_s", "trees",
    )  # fmt: skip

    def __init__(self, id: str, place: str) -> None:
        self.id = id
        self.place = place
        self.label = "put"
        self.age = 0
        self.lost: str | None = None
        self.error: str | None = None
        self.started_s: float | None = None
        self.made_s: float | None = None
        self.made: asyncio.Future[None] | None = None  # where it is made
        self.parts: dict[Path, asyncio.Future[None]] = {}  # asked for, where it is not made
        self.trees: dict[Path, Any] = {}  # parts that are here
        self.leaves: dict[Path, Any] = {}  # leaves that have come from elsewhere
        self.arrived_s: dict[Path, float] = {}
        self.codes: Mapping[Path, Code] = {}  # what other places get for parts of it
        self.given: tuple[Any, ...] | None = None  # where it was issued: arguments of its call, if a codec may send a difference to one of them

    def find(self, path: Path) -> Path | None:
        """The shortest part here that holds a path."""
        for depth in range(len(path) + 1):
            if path[:depth] in self.trees:
                return path[:depth]
        return None


class Called:
    """A call at its place, from arrival to end."""

    __slots__ = ("args", "drawn", "fn", "header", "is_ready", "message", "needs", "started", "started_s", "state")

    def __init__(self, header: dict[str, Any], message: bytes, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.header = header
        self.message = message
        self.fn = fn
        self.args = args
        self.needs = {leaf.id: None for _, leaf in leaves(args) if isinstance(leaf, PlaceRef)}  # it is run again from these after a resume
        self.is_ready = False
        self.drawn: int | None = None  # samples that it draws, if that is known before its end
        self.started = 0
        self.started_s = 0.0
        self.state: dict[str, Any] = {}


class Queue:
    """A program's calls at one resource, in the order of issue; None marks one that will never run."""

    __slots__ = ("calls", "next")

    def __init__(self, next: int = 0) -> None:
        self.next = next
        self.calls: dict[int, Called | None] = {}


class Lane:
    """A resource of the place's device: free slots, the programs' queues, and calls that are ready."""

    __slots__ = ("fillers", "free", "queues", "ready")

    def __init__(self, slots: int) -> None:
        self.free = slots
        self.queues: dict[str, Queue] = {}
        self.ready: list[tuple[int, Called]] = []
        self.fillers: list[tuple[int, int, Called]] = []


def write_ref(ref: Ref) -> Any:
    if not isinstance(ref, PlaceRef):
        raise ScenarioError(f"argument {ref!r}: got a Ref of another engine; allowed are Refs of this run")
    return [ref.id, ref.where, list(ref.path)]


def seen(future: asyncio.Future[None]) -> None:
    """A loss that nobody waits for is no error."""
    if not future.cancelled():
        future.exception()


def fail(future: asyncio.Future[None], error: Exception) -> None:
    future.set_exception(error)
    future.add_done_callback(seen)


def take(item: Item, path: Path, tree: Any, opened: Callable[[Any], Any]) -> int:
    """Put a part that has come beside those that are here; return the bytes of what is new."""
    size = 0

    def merge(part: Any, at_path: Path) -> Any:
        nonlocal size
        kind = type(part)
        if kind is dict:
            return {key: merge(value, (*at_path, key)) for key, value in part.items()}
        if kind is list or kind is tuple:
            return kind([merge(value, (*at_path, i)) for i, value in enumerate(part)])
        if at_path not in item.leaves:
            item.leaves[at_path] = opened(part)
            body = part.size_bytes if isinstance(part, Code) else body_bytes(part)
            size += body if body >= 0 else control_bytes(part)
        return item.leaves[at_path]

    item.trees[path] = merge(tree, path)
    return size


def without(tree: Any, path: Path, known: set[Path]) -> Any:
    """A part without the leaves that the other side has; `known` grows by the rest."""
    kind = type(tree)
    if kind is dict:
        return {key: without(value, (*path, key), known) for key, value in tree.items()}
    if kind is list or kind is tuple:
        return kind([without(value, (*path, i), known) for i, value in enumerate(tree)])
    if path in known:
        return None
    known.add(path)
    return tree


async def reached(answer: Awaitable[bytes], place: str) -> bytes:
    """An answer, or DeviceLost."""
    try:
        return await answer
    except Unreachable:
        raise DeviceLost(place) from None
