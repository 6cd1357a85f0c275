"""Places at run time: who is there, what its device computes now, what it keeps."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

from airloom.clock.kernel import Program
from airloom.clock.meter import SiteMeter
from airloom.clock.wires import Endpoint
from airloom.engines.pending import Call
from airloom.network.network import Place


class Resource:
    """A resource of a device (cpu, gpu, disk): free slots, the order rule's queues, and calls that are ready.

    `queues` holds the unstarted calls of each program here, in issue order: one call by itself, several as a list.
    """

    __slots__ = ("fillers", "free", "name", "queues", "ready")

    def __init__(self, name: str, slots: int) -> None:
        self.name = name
        self.free = slots
        self.queues: dict[int, Call | list[Call]] = {}  # by program
        self.ready: list[tuple[float, int, Call]] | None = None  # a heap; None until somebody had to wait
        self.fillers: list[tuple[int, float, int, Call]] | None = None

    def enqueue(self, call: Call) -> None:
        """A call is issued."""
        owner = call.issue.owner
        queue = self.queues.setdefault(owner, call)
        if queue is not call:
            if isinstance(queue, list):
                queue.append(call)
            else:
                self.queues[owner] = [queue, call]

    def oldest(self, owner: int) -> Call | None:
        """The oldest unstarted call of a program."""
        queue = self.queues.get(owner)
        return queue[0] if isinstance(queue, list) else queue

    def dequeue(self, call: Call, now: float) -> None:
        """A call starts or is lost; the next one of its program is ready if it has become the oldest and its arguments are there."""
        owner = call.issue.owner
        queue = self.queues.get(owner)
        if queue is call:
            del self.queues[owner]
        elif isinstance(queue, list) and call in queue:
            was_oldest = queue[0] is call
            queue.remove(call)
            if not queue:
                del self.queues[owner]
            elif was_oldest and queue[0].missing == -1:
                self.make_ready(queue[0], now)

    def make_ready(self, call: Call, now: float) -> None:
        """A call waits for nothing but a slot."""
        if self.ready is None:
            self.ready = []
        heappush(self.ready, (now, call.number, call))

    def fill(self, call: Call, now: float) -> None:
        """A filler waits for an idle slot."""
        if self.fillers is None:
            self.fillers = []
        heappush(self.fillers, (-call.issue.priority, now, call.number, call))

    def take(self) -> Call | None:
        """The call that starts next: the oldest ready one, then fillers."""
        while self.ready:
            call = heappop(self.ready)[2]
            if not call.is_lost:
                return call
        while self.fillers:
            call = heappop(self.fillers)[3]
            if not call.is_lost:
                return call
        return None

    def clear(self) -> None:
        """The device left."""
        self.queues.clear()
        self.ready = self.fillers = None


class Site(Endpoint):
    """A place at run time: presence, device state (real and shadow), resources, what runs there."""

    __slots__ = (
        "calls",
        "drawn",
        "epoch",
        "held_bytes",
        "is_empty",
        "is_present",
        "place",
        "programs",
        "resources",
        "room_bytes",
        "shadow",
        "state",
        "stored_bytes",
        "written",
    )

    def __init__(self, place: Place, meter: SiteMeter) -> None:
        super().__init__(place.name, place.device, meter)
        self.place = place
        self.is_present = True
        self.is_empty = False  # the battery is
        self.epoch = 0  # how often it has left
        self.drawn = 0  # samples drawn
        self.state: dict[str, Any] = {}  # values, or Later
        self.shadow: dict[str, tuple[Any, Any, int]] = {}  # signature, meta tree, bytes
        self.written: dict[str, int] = {}  # key -> kernel number at the end of the call that wrote it last
        self.resources: dict[str, Resource] = {}
        self.calls: dict[Call, None] = {}  # unfinished ones; kept only where places can leave
        self.programs: dict[Program, None] = {}
        self.held_bytes = 0
        self.stored_bytes = 0  # of the state
        self.room_bytes = place.device.available_bytes
