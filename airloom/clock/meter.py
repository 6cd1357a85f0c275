"""Meters: bytes per link and direction, busy seconds per resource, joules per device. Only the engine's clock writes them."""

from __future__ import annotations

from typing import Any, Protocol

DIRECTIONS = ("up", "down", "backhaul", "peer")


class Carrier(Protocol):
    """A link that knows how many bytes it has carried."""

    bytes: float


class SiteMeter:
    """What one place has spent: bytes by direction, active joules by part, busy seconds by resource, FLOPs.

    `bytes_up` and `bytes_down` are those of the device's own access hop: what its links `up` and `down` have carried. Joules are active ones; idle
    joules follow from presence and busy time.
    """

    __slots__ = (
        "absent_since_s", "busy_s", "compute_j", "down", "flops", "idle_power_w", "is_server", "present_s", "price", "radio_j",
        "releases", "up",
    )  # fmt: skip

    def __init__(self, idle_power_w: float, is_server: bool) -> None:
        self.idle_power_w = idle_power_w
        self.is_server = is_server
        self.up: list[Carrier] = []
        self.down: list[Carrier] = []
        self.compute_j = 0.0
        self.radio_j = 0.0
        self.flops = 0.0
        self.price = 0.0
        self.releases = 0  # protected models and tensors that have left the place
        self.busy_s: dict[str, float] = {}
        self.present_s = 0.0  # seconds of presence before `absent_since_s` turned None the last time
        self.absent_since_s: float | None = None

    @property
    def bytes_up(self) -> float:
        """Bytes that the place has sent up."""
        return sum([link.bytes for link in self.up], 0.0)

    @property
    def bytes_down(self) -> float:
        """Bytes that have come down to the place."""
        return sum([link.bytes for link in self.down], 0.0)

    def as_dict(self, idle_j: float) -> dict[str, Any]:
        """The record's summary line of this place."""
        return {
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "joules": self.compute_j + self.radio_j,
            "joules_compute": self.compute_j,
            "joules_radio": self.radio_j,
            "joules_idle": idle_j,
            "busy_s": dict(self.busy_s),
            "flops": self.flops,
            **({"price": self.price} if self.price else {}),
            **({"releases": self.releases} if self.releases else {}),
        }


class Totals:
    """Running sums over all places, so that a point of the curve costs no loop over devices.

    Idle joules are `idle power x seconds present`, summed over clients; active power comes on top of it.
    """

    __slots__ = ("bytes_by", "idle_power_w", "idle_present_j", "joules", "joules_server", "price", "since_s")

    def __init__(self) -> None:
        self.bytes_by: dict[str, float] = dict.fromkeys(DIRECTIONS, 0.0)
        self.joules = 0.0
        self.joules_server = 0.0
        self.price = 0.0  # what calls were billed
        self.idle_power_w = 0.0  # of all clients now present
        self.idle_present_j = 0.0  # idle power x presence up to since_s
        self.since_s = 0.0

    def presence(self, now: float, change_w: float) -> None:
        """A device with idle power |change_w| comes (positive) or goes (negative) at `now`."""
        self.idle_present_j += self.idle_power_w * (now - self.since_s)
        self.since_s = now
        self.idle_power_w += change_w

    def spend(self, meter: SiteMeter, joules: float) -> None:
        """Add active joules to the sum that the place belongs to."""
        if meter.is_server:
            self.joules_server += joules
        else:
            self.joules += joules

    def idle_j(self, now: float) -> float:
        """Idle joules of all clients up to `now`."""
        return self.idle_present_j + self.idle_power_w * (now - self.since_s)
