"""What a planner may know now, looked up when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from math import inf
from typing import Any, TypeVar

from airloom.errors import ScenarioError
from airloom.network.link import Hop, Link
from airloom.network.network import Network
from airloom.program.node import Snapshot
from airloom.tasks.task import Task

T = TypeVar("T")


class Lookup(Mapping[str, T]):
    """A mapping whose values, and whose names, are computed when asked for: most planners look at a few of many devices.

    >>> squares = Lookup({"a": 2}.__getitem__, lambda: {"a": None})
    >>> squares["a"], list(squares), "b" in squares
    (2, ['a'], False)
    """

    def __init__(self, look: Callable[[str], T], names: Callable[[], Mapping[str, None]]) -> None:
        self._look = look
        self._names = names

    def __getitem__(self, name: str) -> T:
        return self._look(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())


def snapshot(network: Network, task: Task, seed: int, place: str, now: float, is_present: Callable[[str], bool]) -> Snapshot:
    """A snapshot of the network below a place (and of the place itself)."""

    @cache
    def names() -> dict[str, None]:
        return {name: None for name in (*network.clients(place), *network.children(place), place) if is_present(name)}

    sharers: dict[str, int] = {}

    def access(name: str, direction: str) -> Link:
        route = network.route(name, place) if direction == "up" else network.route(place, name)
        if not route:
            raise ScenarioError(f"network.{direction}_bps['{name}']: that is this place itself; it has no access hop")
        return route[0] if direction == "up" else route[-1]

    def rate(link: Link, is_shared: bool) -> float:
        if link.rate_bps is not None:
            return link.rate_bps
        if link.trace is not None:
            return link.trace.rate_bps(now)
        cell = link.cell
        assert cell is not None
        whole = cell.estimated_rate_bps(link, cell.bandwidth_hz, at_s=now, seed=seed)
        if not is_shared:
            return whole
        if not sharers:
            for other in network.clients(network.root):
                if is_present(other):
                    parent = network.places[other].parent
                    up = network.links.get((other, parent)) if parent is not None else None
                    if up is not None and up.cell is not None:
                        sharers[up.cell.name] = sharers.get(up.cell.name, 0) + 1
                    down = network.links.get((parent, other)) if parent is not None else None
                    if down is not None and down.cell is not None:
                        sharers[down.cell.name] = sharers.get(down.cell.name, 0) + 1
        n = max(sharers.get(cell.name, 1), 1)
        return whole / n if cell.sharing == "tdma" else cell.estimated_rate_bps(link, cell.bandwidth_hz / n, at_s=now, seed=seed)

    def hops(source: str, target: str) -> tuple[Hop, ...]:
        is_free = network.downlink == "free"
        return tuple([
            Hop(link.source, link.target, inf, 0.0, 0) if is_free and link.direction == "down"
            else Hop(link.source, link.target, rate(link, True), link.latency_s, network.framing_bytes)
            for link in network.route(source, target)
        ])  # fmt: skip

    def cell_hz(name: str) -> float:
        cell = access(name, "up").cell
        return 0.0 if cell is None else cell.bandwidth_hz

    def cell_of(name: str) -> str:
        cell = access(name, "up").cell
        return "" if cell is None else cell.name

    def samples(name: str) -> int:
        below = network.clients(name)
        if not below or below == (name,):
            return task.samples(name, now)
        return sum([task.samples(client, now) for client in below if is_present(client)])

    def facts(name: str) -> Mapping[str, Any]:
        return network.places[name].facts

    def speed(name: str) -> float:
        device = network.places[name].device
        return device.speed_flops_per_s * device.efficiency

    def memory(name: str) -> float:
        return network.places[name].device.available_bytes

    return Snapshot(
        up_bps=Lookup(lambda name: rate(access(name, "up"), True), names),
        down_bps=Lookup(lambda name: rate(access(name, "down"), True), names),
        whole_band_bps=Lookup(lambda name: rate(access(name, "up"), False), names),
        cell_hz=Lookup(cell_hz, names),
        speed_flops_per_s=Lookup(speed, names),
        memory_bytes=Lookup(memory, names),
        samples=Lookup(samples, names),
        facts=Lookup(facts, names),
        hops=hops,
        cell=Lookup(cell_of, names),
        parent=Lookup(lambda name: network.places[name].parent or "", names),
    )
