"""What engines on real machines share: a clock of wall seconds, meters of what was really sent and computed, and how a runner sees a run there.

Seconds are wall seconds since the run began, without the pauses in which the driver evaluates or writes a checkpoint. Bytes are those that the
simulated engine counts (encoded values and the network's framing), of every message that was really sent. Joules are the declared watts of a device
times its measured busy seconds, and its declared radio model over what it sent and received.

Left out: measured power; relays' copies (places talk directly, so a backhaul is charged once per message).
"""

# Trees (states, arguments, results) are of any shape, so what is taken out of them has no static type.
# pyright: strict, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from airloom.clock.meter import DIRECTIONS
from airloom.engines.executors import Spent
from airloom.network.network import Network
from airloom.program.codec import Code
from airloom.program.node import Node
from airloom.program.tree import body_bytes, leaves


class WallClock:
    """Seconds of a run. `offset_s` turns this machine's monotonic clock into the driver's; `paused_s` is time that does not count."""

    def __init__(self) -> None:
        self.origin_s = 0.0
        self.offset_s = 0.0
        self.paused_s = 0.0
        self._since_s: float | None = None

    def raw_s(self) -> float:
        """The driver's monotonic clock, as far as this machine knows it."""
        return time.monotonic() + self.offset_s

    def now_s(self) -> float:
        """The run's clock."""
        return (self.raw_s() if self._since_s is None else self._since_s) - self.origin_s - self.paused_s

    def hear(self, paused_s: float) -> None:
        """Another place knows of pauses."""
        self.paused_s = max(self.paused_s, paused_s)

    def start(self, at_s: float = 0.0) -> None:
        """Let the run's clock show `at_s` now."""
        self.origin_s, self.paused_s, self._since_s = self.raw_s() - at_s, 0.0, None

    def stop(self) -> None:
        """Stand still until `go_on`."""
        if self._since_s is None:
            self._since_s = self.raw_s()

    def go_on(self) -> None:
        """Run again."""
        if self._since_s is not None:
            self.paused_s += self.raw_s() - self._since_s
            self._since_s = None


class Tally:
    """Bytes by direction and place, busy seconds, FLOPs and joules that one process has seen; tallies of all processes add up."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.bytes_by: dict[str, float] = dict.fromkeys(DIRECTIONS, 0.0)
        self.places: dict[str, dict[str, Any]] = {}

    def place(self, name: str) -> dict[str, Any]:
        """What is known of one place."""
        return self.places.setdefault(
            name, {"bytes_up": 0.0, "bytes_down": 0.0, "joules_compute": 0.0, "joules_radio": 0.0, "busy_s": {}, "flops": 0.0}
        )

    def message(self, source: str, target: str, size: int, seconds: float) -> None:
        """A message of `size` bytes without framing went from place to place in `seconds`; charge every hop of its route in the network."""
        network = self.network
        if not size:
            return
        nbytes = size + network.framing_bytes
        for link in network.route(source, target):
            if network.downlink == "free" and link.direction == "down":
                continue
            self.bytes_by[link.direction] += nbytes
            if link.direction == "up":
                self.place(link.source)["bytes_up"] += nbytes
            elif link.direction == "down":
                self.place(link.target)["bytes_down"] += nbytes
            if link.direction == "backhaul":
                continue
            sender, receiver = network.places[link.source].device.radio, network.places[link.target].device.radio
            if sender is not None and link.direction != "down":
                joules = sender.transmit_j(transmit_power_w=link.transmit_power_w, air_s=seconds, elapsed_s=seconds, bits=8 * nbytes)
                self.place(link.source)["joules_radio"] += joules
            if receiver is not None and link.direction != "up":
                self.place(link.target)["joules_radio"] += receiver.receive_j(air_s=seconds, elapsed_s=seconds, bits=8 * nbytes)

    def work(self, name: str, on: str | None, seconds: float, spent: Spent | None) -> None:
        """A call took `seconds` at a place."""
        known, device = self.place(name), self.network.places[name].device
        resource = on or "handler"
        known["busy_s"][resource] = known["busy_s"].get(resource, 0.0) + seconds
        if spent is not None:
            known["joules_compute"] += device.joules(seconds, spent.work)
            known["flops"] += spent.work.flops

    def released(self, name: str, values: Sequence[Any]) -> None:
        """Protected values have left a place: each model or tensor in them is a release."""
        count = sum([isinstance(leaf, Code) or body_bytes(leaf) >= 0 for value in values for _, leaf in leaves(value)])
        if count:
            known = self.place(name)
            known["releases"] = known.get("releases", 0) + count

    def as_json(self) -> dict[str, Any]:
        """Everything, for another process."""
        return {"bytes_by": dict(self.bytes_by), "places": self.places}

    def add(self, other: Mapping[str, Any]) -> None:
        """Add another tally's `as_json`."""
        for direction, nbytes in other["bytes_by"].items():
            self.bytes_by[direction] += nbytes
        for name, spent in other["places"].items():
            known = self.place(name)
            for what, amount in spent.items():
                if what == "busy_s":
                    for on, seconds in amount.items():
                        known["busy_s"][on] = known["busy_s"].get(on, 0.0) + seconds
                else:
                    known[what] = known.get(what, 0) + amount

    def stamp(self, now_s: float) -> dict[str, float]:
        """Seconds, bytes and joules, as a point of the curve has them."""
        network = self.network
        active = {False: 0.0, True: 0.0}
        for name, spent in self.places.items():
            active[network.places[name].role != "client"] += spent["joules_compute"] + spent["joules_radio"]
        idle_w = sum([place.device.idle_power_w for place in network.places.values() if place.role == "client"])
        return {
            "seconds": now_s,
            **{f"bytes_{direction}": nbytes for direction, nbytes in self.bytes_by.items()},
            "joules": active[False],
            "joules_idle": idle_w * now_s,
            "joules_server": active[True],
        }


class MeasuredWorld(ABC):
    """A run on real machines as its runner drives it: the root's node, the clock, and what can be asked between rounds."""

    clock: WallClock
    round: int = 0
    on_report: Callable[[Node, Any, Any, dict[str, Any]], None]  # set by the runner; called by `node.report` while the clock stands still
    last_stamp: Mapping[str, float] = {}  # the latest `stamp`
    error: BaseException | None = None  # set by the runner before `close`: why the run failed

    @property
    @abstractmethod
    def root(self) -> Node:
        """The handle of the root's program."""

    @abstractmethod
    def take_lines(self) -> list[dict[str, Any]]:
        """What was measured since the last time, for `measured.jsonl`: messages, calls, arrivals, pings, who came and went."""

    @abstractmethod
    def stamp(self) -> dict[str, float]:
        """Seconds, bytes and joules up to now."""

    @abstractmethod
    def value_of(self, leaf: Any) -> Any:
        """The value that a Ref names, brought here off the clock and uncharged; other leaves as they are."""

    @abstractmethod
    def end_round(self, state: Any) -> None:
        """A round ends with this state: drop values that it does not name."""

    @abstractmethod
    def freeze(self, kept: Any) -> dict[str, bytes]:
        """Everything that a later process needs to go on from this round boundary."""

    @abstractmethod
    def thaw(self, frozen: Mapping[str, bytes]) -> Any:
        """Go on from what `freeze` returned; return what it was given."""

    @abstractmethod
    def device_totals(self) -> dict[str, Any]:
        """What each place has spent, by name."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; harmless when repeated."""
