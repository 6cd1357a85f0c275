"""Places at run time: who is there, what its device computes now, what it keeps."""

from __future__ import annotations

from typing import Any

from airloom.clock.kernel import Program
from airloom.clock.meter import SiteMeter
from airloom.clock.wires import Endpoint
from airloom.engines.pending import Call
from airloom.network.network import Place


class Resource:
    """A resource of a device (cpu, gpu, disk): free slots, the order rule's queues, and calls that are ready."""

    __slots__ = ("fillers", "free", "name", "queues", "ready")

    def __init__(self, name: str, slots: int) -> None:
        self.name = name
        self.free = slots
        self.queues: dict[int, list[Call]] = {}  # program -> its unstarted calls here, in issue order
        self.ready: list[tuple[float, int, Call]] = []
        self.fillers: list[tuple[int, float, int, Call]] = []


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
