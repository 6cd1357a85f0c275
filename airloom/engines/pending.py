"""Calls, values and deliveries of a simulated run: plain records with slots, so that a checkpoint can write them down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airloom.clock.kernel import Program
from airloom.engines.rootref import RootRef
from airloom.program.tree import Path

if TYPE_CHECKING:
    from airloom.engines.sites import Resource, Site


class Value:
    """A value that a call, a program or `put` makes at a place. `carried` says which leaves have gone (or are going) to which place.

    It knows its call only until it has its contents, and a delivery does not know its value: without cycles, what a round leaves is freed at once.
    """

    __slots__ = (
        "call",
        "carried",
        "codec",
        "deliveries",
        "epoch",
        "has_value",
        "hz",
        "is_lost",
        "is_made",
        "issuer",
        "label",
        "leaves",
        "lost_device",
        "lost_s",
        "made_s",
        "number",
        "place",
        "sent",
        "started_s",
        "value",
    )

    def __init__(self, number: int, place: str, call: Call | None) -> None:
        self.number = number
        self.place = place
        self.call = call
        self.label = "put"  # of the function that makes it, for messages and logs
        self.codec: Any = None  # by which it is encoded against what came down with its call
        self.issuer = ""  # place that issued the call
        self.hz: float | None = None  # spectrum planned for the way back to the issuer
        self.epoch = 0
        self.is_made = False
        self.has_value = False
        self.is_lost = False
        self.lost_device = ""
        self.lost_s = 0.0
        self.value: Any = None
        self.sent: Mapping[Path, Any] = {}  # what other places get instead of some of its leaves
        self.started_s: float | None = None
        self.made_s: float | None = None
        self.leaves: tuple[tuple[Path, int, int], ...] = ()  # path, body bytes (-1: none), control bytes
        self.deliveries: dict[tuple[str, Path], Delivery] = {}
        self.carried: dict[str, dict[int, Any]] = {}  # place -> leaf -> its transfer, or None once there


class SimRef(RootRef[Value]):
    """Names a part of a `Value`."""

    __slots__ = ()

    @property
    def arrived_s(self) -> float | None:
        times = [d.arrived_s for (_, path), d in self.root.deliveries.items() if path == self.path and d.arrived_s is not None]
        return min(times, default=None)


class Delivery:
    """A part of a value on its way to one place, and who waits for it there."""

    __slots__ = ("arrived_s", "epoch", "is_asked", "is_lost", "lost_device", "lost_s", "missing", "path", "place", "waiters")

    def __init__(self, path: Path, place: str, epoch: int) -> None:
        self.path = path
        self.place = place
        self.epoch = epoch  # how often the place had left when it asked
        self.arrived_s: float | None = None
        self.is_asked = False
        self.is_lost = False
        self.lost_device = ""
        self.lost_s = 0.0
        self.missing = 0
        self.waiters: list[Any] = []  # calls, or (wait, index) pairs


class Wait:
    """A program that waits for some of several deliveries."""

    __slots__ = ("arrived", "is_over", "lost", "need", "program", "total")

    def __init__(self, program: Program, total: int, need: int) -> None:
        self.program = program
        self.total = total
        self.need = need
        self.arrived: list[int] = []
        self.lost: list[int] = []
        self.is_over = False


class Call:
    """A device function or program text at a place, from issue to end."""

    __slots__ = (
        "args", "changes", "drawn", "end_s", "fn", "has_refs", "has_run", "hz", "is_lost", "is_program", "joules", "label", "made_at", "missing",
        "number", "owner", "price", "priority", "resource", "root", "site", "start_number", "started_s", "state", "trees", "versions",
    )  # fmt: skip

    def __init__(
        self, number: int, fn: Any, site: Site, args: tuple[Any, ...], owner: int, resource: Resource | None, priority: int, root: Value, label: str
    ) -> None:
        self.number = number
        self.fn = fn  # the function as issued
        self.site = site
        self.args = args  # may hold Refs
        self.owner = owner  # number of the program that issued it: names the order rule's queue
        self.resource = resource  # None: it needs none
        self.priority = priority
        self.root = root
        self.label = label  # of the function, for messages and logs
        self.hz: float | None = None
        self.missing = 0
        self.is_program = False
        self.has_refs = False
        self.is_lost = False
        self.has_run = False
        self.started_s: float | None = None
        self.start_number = 0
        self.end_s = 0.0
        self.joules = 0.0
        self.price: Any = None
        self.state: dict[str, Any] = {}
        self.drawn = 0
        self.changes: dict[str, Any] = {}
        self.versions: Any = ()
        self.trees: Any = None  # signature of the arguments, shared by a map
        self.made_at = ""  # file:line of the verb, for messages

    @property
    def place(self) -> str:
        return self.site.name


class Later:
    """A device's state value whose call has ended on the clock but whose numerics are still to run."""

    __slots__ = ("call", "key")

    def __init__(self, call: Call, key: str) -> None:
        self.call = call
        self.key = key
