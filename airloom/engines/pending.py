"""Calls, values and deliveries of a simulated run: plain records with slots, so that a checkpoint can write them down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airloom.clock.kernel import Program
from airloom.engines.rootref import RootRef
from airloom.program.tree import Path

if TYPE_CHECKING:
    from airloom.engines.sites import Resource, Site


class Issue:
    """What all calls of one `map` share: function, issuer, order. Values keep it too, so it holds no arguments."""

    __slots__ = ("codec", "fn", "is_program", "issuer", "label", "made_at", "owner", "priority", "signature")

    def __init__(
        self, fn: Any, label: str, issuer: str, owner: int, *, priority: int = 0, is_program: bool = False, codec: Any = None, made_at: str = ""
    ) -> None:
        self.fn = fn  # the function as issued
        self.label = label  # of the function, for messages and logs
        self.issuer = issuer  # place of the program that issued it
        self.owner = owner  # number of that program: names the order rule's queue
        self.priority = priority
        self.is_program = is_program
        self.codec = codec  # by which the results are encoded against what came down with the calls
        self.made_at = made_at  # file:line of the verb, for messages
        self.signature: Any = None  # of the function and its arguments, where these are the same for all


class Value:
    """A value that a call, a program or `put` makes at a place.

    Most values go to one place, whole: that delivery is `first`. Only when parts are asked for, or several places ask, does `carried` say which
    leaves have gone (or are going) where. A value knows its call only until it has its contents: without cycles, what a round leaves is freed at
    once.
    """

    __slots__ = (
        "call", "carried", "epoch", "first", "has_value", "hz", "is_lost", "is_made", "issue", "job", "leaves", "lost_device", "lost_s", "made_s",
        "number", "others", "place", "sent", "started_s", "value",
    )  # fmt: skip

    def __init__(self, number: int, place: str, issue: Issue) -> None:
        self.number = number
        self.place = place
        self.issue = issue
        self.call: Call | None = None
        self.hz: float | None = None  # spectrum planned for the way back to the issuer
        self.epoch = 0
        self.is_made = False
        self.has_value = False
        self.is_lost = False
        self.lost_device = ""
        self.lost_s = 0.0
        self.value: Any = None
        self.job: Any = None  # what computes it again, while its large leaves are let go (see `Numerics.release`)
        self.sent: Mapping[Path, Any] | None = None  # what other places get instead of some of its leaves
        self.started_s: float | None = None
        self.made_s: float | None = None
        self.leaves: tuple[tuple[Path, int, int], ...] = ()  # path, body bytes (-1: none), control bytes
        self.first: Delivery | None = None
        self.others: dict[tuple[str, Path], Delivery] | None = None
        self.carried: dict[str, dict[int, Any]] | None = None  # place -> leaf -> its transfer, or None once there

    def deliveries(self) -> list[Delivery]:
        """All deliveries, in the order in which they were asked for."""
        found = [] if self.first is None else [self.first]
        return found if self.others is None else [*found, *self.others.values()]

    def delivery(self, place: str, path: Path) -> Delivery | None:
        """The delivery of a part to a place, if anybody has asked."""
        first = self.first
        if first is not None and first.place == place and first.path == path:
            return first
        return None if self.others is None else self.others.get((place, path))

    def add(self, delivery: Delivery) -> None:
        """Keep a new delivery, instead of an older one of the same part to the same place."""
        first = self.first
        if first is None or (first.place == delivery.place and first.path == delivery.path):
            self.first = delivery
        elif self.others is None:
            self.others = {(delivery.place, delivery.path): delivery}
        else:
            self.others[delivery.place, delivery.path] = delivery

    def forget(self, place: str, epoch: int) -> None:
        """A place was wiped: what came to it before is gone."""
        old = [d for d in self.deliveries() if d.place == place and d.epoch != epoch]
        for delivery in old:
            if delivery is self.first:
                self.first = None
            elif self.others is not None:
                del self.others[delivery.place, delivery.path]
        if old and self.carried is not None:
            self.carried.pop(place, None)


class SimRef(RootRef[Value]):
    """Names a part of a `Value`."""

    __slots__ = ()

    @property
    def arrived_s(self) -> float | None:
        times = [d.arrived_s for d in self.root.deliveries() if d.path == self.path and d.arrived_s is not None]
        return min(times, default=None)


class Delivery:
    """A part of a value on its way to one place, and who waits for it there.

    While a message carries a whole value to this place alone, that message is `carrier`, and `root` the value.
    """

    __slots__ = ("arrived_s", "carrier", "epoch", "is_asked", "is_lost", "lost_device", "lost_s", "missing", "path", "place", "root", "waiters")

    def __init__(self, path: Path, place: str, epoch: int) -> None:
        self.path = path
        self.place = place
        self.epoch = epoch  # how often the place had left when it asked
        self.root: Value | None = None
        self.carrier: Any = None
        self.arrived_s: float | None = None
        self.is_asked = False
        self.is_lost = False
        self.lost_device = ""
        self.lost_s = 0.0
        self.missing = 0
        self.waiters: tuple[Any, ...] = ()  # who, index, who, index, ...: calls, and waits with the place of this delivery among theirs


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
        "args", "changes", "drawn", "end_s", "has_refs", "has_run", "hz", "is_lost", "issue", "joules", "missing", "number", "price", "resource",
        "root", "signature", "site", "start_number", "started_s", "state", "versions",
    )  # fmt: skip

    def __init__(self, number: int, issue: Issue, site: Site, args: tuple[Any, ...], resource: Resource | None, root: Value) -> None:
        self.number = number
        self.issue = issue
        self.site = site
        self.args = args  # may hold Refs
        self.resource = resource  # None: it needs none
        self.root = root
        self.hz: float | None = None
        self.missing = 0
        self.has_refs = False
        self.is_lost = False
        self.has_run = False
        self.started_s: float | None = None
        self.start_number = 0
        self.end_s = 0.0
        self.joules = 0.0
        self.price: Any = None
        self.state: dict[str, Any] | None = None
        self.drawn = 0
        self.changes: dict[str, Any] | None = None
        self.versions: tuple[list[tuple[Any, int]], ...] = ()
        self.signature: Any = None  # of the function and its arguments; None: they hold Refs

    @property
    def place(self) -> str:
        return self.site.name


class Later:
    """A device's state value whose call has ended on the clock but whose numerics are still to run."""

    __slots__ = ("call", "key")

    def __init__(self, call: Call, key: str) -> None:
        self.call = call
        self.key = key

    def of(self) -> Any:
        """The value, once the numerics have run."""
        assert self.call.changes is not None
        return self.call.changes[self.key]
