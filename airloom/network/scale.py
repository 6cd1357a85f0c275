"""The same network with other physics: rates, gains, latencies and speeds changed everywhere at once, for sweeps and for checks of stability."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from types import MappingProxyType

from airloom.errors import ScenarioError
from airloom.network.cell import Cell
from airloom.network.device import Device
from airloom.network.link import Link
from airloom.network.network import Network, Place
from airloom.network.trace import Trace

_DB_PER_DOUBLING = 3.0  # taken as exact: a factor of two is 3.01 dB


@dataclass(frozen=True, kw_only=True)
class Physics:
    """What to change; the defaults change nothing.

    Arguments
    ---------
    rate_bps : rate of every access link (up and down) that has a fixed rate; a network whose access links have none refuses it.
    rate_factor : factor on fixed rates and traces of access links, and on the bandwidth of cells.
    gain_db : added to the gain of every link with a channel; access links with a given rate or spectral efficiency get a factor of two per 3 dB,
        what a power-limited link would gain.
    latency_s : of every access link.
    speed_factor : factor on the speed of every client's device: arithmetic, measured tables, memory and overhead per step.

    >>> Physics.of({"link.gain_db": "3"})
    Physics(rate_bps=None, rate_factor=1.0, gain_db=3.0, latency_s=None, speed_factor=1.0)
    """

    rate_bps: float | None = None
    rate_factor: float = 1.0
    gain_db: float = 0.0
    latency_s: float | None = None
    speed_factor: float = 1.0

    def __post_init__(self) -> None:
        for name, low in (("rate_bps", 0.0), ("rate_factor", 0.0), ("gain_db", -inf), ("latency_s", None), ("speed_factor", 0.0)):
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and (value >= 0.0 if low is None else value > low)):
                allowed = "a number >= 0" if low is None else "a number" if low == -inf else "a number > 0"
                raise ScenarioError(f"{_NAMES[name]}={value!r}: allowed is {allowed}")

    @staticmethod
    def of(given: Mapping[str, object]) -> Physics:
        """Read fields such as `link.rate_bps` and `device.speed_factor`; values or their text."""
        own = {full: name for name, full in _NAMES.items()}
        values: dict[str, float] = {}
        for name, value in given.items():
            if name not in own:
                raise ScenarioError(f"set {name}={value!r}: there is no such field; allowed are {', '.join(own)}")
            try:
                values[own[name]] = float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError):
                raise ScenarioError(f"set {name}={value!r}: allowed is a number") from None
        return Physics(**values)

    def apply(self, network: Network) -> Network:
        """Return the network with these changes."""
        if self == Physics():
            return network
        if self.rate_bps is not None and not any(_is_access(link) and link.rate_bps is not None for link in network.links.values()):
            raise ScenarioError("link.rate_bps: no access link of this network has a fixed rate; change link.rate_factor or link.gain_db instead")
        cells: dict[int, Cell] = {}
        devices: dict[int, Device] = {}
        places = {name: self._place(place, devices) for name, place in network.places.items()}
        links = {pair: self._link(link, cells) for pair, link in network.links.items()}
        origin = {**network.origin, "changed": {full: getattr(self, name) for name, full in _NAMES.items() if getattr(self, name) not in (None,)}}
        return dataclasses.replace(network, places=places, links=links, origin=origin)

    def _place(self, place: Place, devices: dict[int, Device]) -> Place:
        if place.role != "client" or self.speed_factor == 1.0:
            return place
        device = devices.get(id(place.device))
        if device is None:
            old, k = place.device, self.speed_factor
            table = old.seconds_per_sample
            device = devices[id(old)] = dataclasses.replace(
                old,
                speed_flops_per_s=old.speed_flops_per_s * k,
                formats=MappingProxyType({name: speed * k for name, speed in old.formats.items()}),
                memory_bytes_per_s=None if old.memory_bytes_per_s is None else old.memory_bytes_per_s * k,
                step_overhead_s=old.step_overhead_s / k,
                seconds_per_sample=None if table is None else {width: seconds / k for width, seconds in table.items()},
            )
        return dataclasses.replace(place, device=device)

    def _link(self, link: Link, cells: dict[int, Cell]) -> Link:
        changes: dict[str, object] = {}
        doubling = 2.0 ** (self.gain_db / _DB_PER_DOUBLING)
        if _is_access(link):
            factor = self.rate_factor * doubling
            if link.rate_bps is not None:
                changes["rate_bps"] = (link.rate_bps if self.rate_bps is None else self.rate_bps) * factor
            if link.trace is not None:
                old = link.trace
                changes["trace"] = Trace(times_s=old.times_s, rates_bps=[rate * factor for rate in old.rates_bps], period_s=old.period_s)
            if self.latency_s is not None:
                changes["latency_s"] = self.latency_s
        if link.gain_db is not None:
            changes["gain_db"] = link.gain_db + self.gain_db
        elif link.bps_per_hz is not None:
            changes["bps_per_hz"] = link.bps_per_hz * doubling
        if link.cell is not None and self.rate_factor != 1.0:
            cell = cells.get(id(link.cell))
            if cell is None:
                cell = cells[id(link.cell)] = dataclasses.replace(link.cell, bandwidth_hz=link.cell.bandwidth_hz * self.rate_factor)
            changes["cell"] = cell
        return dataclasses.replace(link, **changes)  # type: ignore[arg-type]


_NAMES = {
    "rate_bps": "link.rate_bps",
    "rate_factor": "link.rate_factor",
    "gain_db": "link.gain_db",
    "latency_s": "link.latency_s",
    "speed_factor": "device.speed_factor",
}
FIELDS = tuple(_NAMES.values())


def _is_access(link: Link) -> bool:
    return link.direction in ("up", "down")
