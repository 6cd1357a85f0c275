"""Builders of networks: star, tree of any depth, ring, chain, mesh, and the 20 measured clients of `lab` (radio cells: `access.cells`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from airloom.network.check import refuse
from airloom.network.churn import Churn
from airloom.network.device import Device
from airloom.network.link import Direction, Link
from airloom.network.network import Network, Place
from airloom.network.profiles import LAB_RATES_BPS, WHALE_FL
from airloom.network.trace import Trace

Rate = float | Trace


@dataclass(frozen=True, kw_only=True)
class Level:
    """One level of a tree below the root.

    Arguments
    ---------
    name : the places are called name0, name1, ... over the whole level. count : places under each parent.
    devices : one profile for all, or a sequence that is dealt out in turn.
    up_bps, down_bps : to and from the parent: a number or Trace for all, or a sequence dealt out in turn. latency_s : one way.
    wired : True makes the links a backhaul, else they are "up" and "down". transmit_power_w : see `Link`; required by some radio models.
    """

    name: str
    count: int
    devices: Device | Sequence[Device]
    up_bps: Rate | Sequence[Rate]
    down_bps: Rate | Sequence[Rate]
    latency_s: float
    wired: bool = False
    transmit_power_w: float | None = None


def star(
    devices: Sequence[Device] | Mapping[str, Device],
    *,
    root: Device,
    up_bps: Rate | Sequence[Rate],
    down_bps: Rate | Sequence[Rate],
    latency_s: float,
    transmit_power_w: float | None = None,
    root_name: str = "cloud",
    client_name: str = "client",
    churn: Churn | None = None,
    downlink: Literal["unicast", "broadcast", "free"] = "unicast",
    framing_bytes: int = 0,
    detect_s: float = 0.0,
    on_leave: Literal["keep", "wipe"] = "keep",
) -> Network:
    """Return a star: clients around one root, each with links of its own.

    Arguments
    ---------
    devices : profiles (then named client0, client1, ...) or profiles by name.
    up_bps, down_bps : one rate or `Trace` for all, or one per device (dealt out in turn).

    >>> from airloom.network.profiles import WHALE_FL
    >>> net = star({"a": WHALE_FL["nano"]}, root=WHALE_FL["xavier"], up_bps=1e6, down_bps=2e6, latency_s=0.0)
    >>> net.route("a", "cloud")[0].rate_bps
    1000000.0
    """
    named = devices if isinstance(devices, Mapping) else {f"{client_name}{i}": device for i, device in enumerate(devices)}
    places = [Place(name=root_name, device=root, role="cloud")]
    links: list[Link] = []
    for i, (name, device) in enumerate(named.items()):
        places.append(Place(name=name, device=device, parent=root_name))
        links.append(_wire(name, root_name, "up", latency_s, _dealt(up_bps, i), transmit_power_w))
        links.append(_wire(root_name, name, "down", latency_s, _dealt(down_bps, i), None))
    return Network.of(
        places,
        links,
        churn=churn,
        downlink=downlink,
        framing_bytes=framing_bytes,
        detect_s=detect_s,
        on_leave=on_leave,
        origin={"builder": "star", "clients": len(named)},
    )


def tree(
    levels: Sequence[Level],
    *,
    root: Device,
    root_name: str = "cloud",
    churn: Churn | None = None,
    downlink: Literal["unicast", "broadcast", "free"] = "unicast",
    framing_bytes: int = 0,
    detect_s: float = 0.0,
    on_leave: Literal["keep", "wipe"] = "keep",
) -> Network:
    """Return a tree of any depth; the last level holds the clients, the others are edge servers.

    >>> from airloom.network.profiles import WHALE_FL
    >>> nano = WHALE_FL["nano"]
    >>> edge = Level(name="edge", count=2, devices=nano, up_bps=1e9, down_bps=1e9, latency_s=0.01, wired=True)
    >>> net = tree([edge, Level(name="phone", count=3, devices=nano, up_bps=1e6, down_bps=8e6, latency_s=0.02)], root=nano)
    >>> net.children("edge1"), len(net.clients("cloud")), len(net.route("phone0", "cloud"))
    (('phone3', 'phone4', 'phone5'), 6, 2)
    """
    if not levels:
        refuse("tree", "levels", [], "at least one Level", "list the levels below the root")
    places = [Place(name=root_name, device=root, role="cloud")]
    links: list[Link] = []
    parents = [root_name]
    for depth, level in enumerate(levels):
        if level.count < 1:
            refuse(f"Level '{level.name}'", "count", level.count, ">= 1", "every parent needs a child")
        role = "client" if depth == len(levels) - 1 else "edge"
        up: Direction = "backhaul" if level.wired else "up"
        down: Direction = "backhaul" if level.wired else "down"
        names: list[str] = []
        for parent in parents:
            for _ in range(level.count):
                i = len(names)
                names.append(f"{level.name}{i}")
                device = level.devices if isinstance(level.devices, Device) else level.devices[i % len(level.devices)]
                places.append(Place(name=names[-1], device=device, parent=parent, role=role))
                links.append(_wire(names[-1], parent, up, level.latency_s, _dealt(level.up_bps, i), level.transmit_power_w))
                links.append(_wire(parent, names[-1], down, level.latency_s, _dealt(level.down_bps, i), None))
        parents = names
    return Network.of(
        places,
        links,
        churn=churn,
        downlink=downlink,
        framing_bytes=framing_bytes,
        detect_s=detect_s,
        on_leave=on_leave,
        origin={"builder": "tree", "levels": {level.name: level.count for level in levels}},
    )


def ring(devices: Sequence[Device], *, rate_bps: Rate, latency_s: float, name: str = "node", churn: Churn | None = None) -> Network:
    """Return peers in a ring, linked both ways with their two neighbors; the first one is the root.

    >>> from airloom.network.profiles import WHALE_FL
    >>> net = ring([WHALE_FL["nano"]] * 4, rate_bps=1e8, latency_s=0.001)
    >>> net.neighbors("node0"), len(net.route("node0", "node2"))
    (('node1', 'node3'), 2)
    """
    n = len(devices)
    return _peers(devices, [(i, (i + 1) % n) for i in range(n if n > 2 else n - 1)], rate_bps, latency_s, name, churn)


def chain(devices: Sequence[Device], *, rate_bps: Rate, latency_s: float, name: str = "node", churn: Churn | None = None) -> Network:
    """Return peers in a line, linked both ways; the first one is the root."""
    return _peers(devices, [(i, i + 1) for i in range(len(devices) - 1)], rate_bps, latency_s, name, churn)


def mesh(devices: Sequence[Device], *, rate_bps: Rate, latency_s: float, name: str = "node", churn: Churn | None = None) -> Network:
    """Return peers that are all linked with each other; the first one is the root."""
    n = len(devices)
    return _peers(devices, [(i, j) for i in range(n) for j in range(i + 1, n)], rate_bps, latency_s, name, churn)


def lab(
    *, root: Device, latency_s: float = 0.01, churn: Churn | None = None, downlink: Literal["unicast", "broadcast", "free"] = "unicast"
) -> Network:
    """Return the 20 clients of WHALE-FL: five measured boards times up-link rates of 80, 40, 20 and 15 Mbit/s.

    The same rates serve the down-link, and 10 ms of latency are ours; the published figures ignore the down-link (`downlink="free"`).

    >>> from airloom.network.profiles import WHALE_FL
    >>> net = lab(root=WHALE_FL["macbook_pro_2018"])
    >>> len(net.clients("cloud")), net.route("nano_15", "cloud")[0].rate_bps
    (20, 15000000.0)
    """
    pairs = [(name, device, rate) for name, device in WHALE_FL.items() for rate in LAB_RATES_BPS]
    rates = [rate for _, _, rate in pairs]
    devices = {f"{name}_{rate / 1e6:.0f}": device for name, device, rate in pairs}
    return star(devices, root=root, up_bps=rates, down_bps=rates, latency_s=latency_s, churn=churn, downlink=downlink)


def with_peers(
    network: Network, pairs: Iterable[tuple[str, str]], *, rate_bps: Rate, latency_s: float, transmit_power_w: float | None = None
) -> Network:
    """Return the network with links both ways between pairs of its places (device to device, or between edge servers).

    >>> from airloom.network.profiles import WHALE_FL
    >>> net = star([WHALE_FL["nano"]] * 3, root=WHALE_FL["xavier"], up_bps=1e6, down_bps=2e6, latency_s=0.0)
    >>> with_peers(net, [("client0", "client1")], rate_bps=5e7, latency_s=0.002).neighbors("client1")
    ('client0',)
    """
    links = list(network.links.values())
    for a, b in pairs:
        links += [_wire(a, b, "peer", latency_s, rate_bps, transmit_power_w), _wire(b, a, "peer", latency_s, rate_bps, transmit_power_w)]
    return replace(network, links=Network.of(network.places.values(), links, capacities=network.capacities).links)


def _peers(devices: Sequence[Device], pairs: Iterable[tuple[int, int]], rate_bps: Rate, latency_s: float, name: str, churn: Churn | None) -> Network:
    """Places without parents, linked both ways."""
    if not devices:
        refuse("peers", "devices", [], "at least one Device", "list the devices")
    places = [Place(name=f"{name}{i}", device=device) for i, device in enumerate(devices)]
    links: list[Link] = []
    for i, j in pairs:
        for a, b in ((i, j), (j, i)):
            links.append(_wire(places[a].name, places[b].name, "peer", latency_s, rate_bps, None))
    return Network.of(places, links, churn=churn, origin={"builder": "peers", "places": len(places)})


def _dealt(value: Rate | Sequence[Rate], i: int) -> Rate:
    """One rate for all, or the next of a sequence."""
    return value if isinstance(value, float | int | Trace) else value[i % len(value)]


def _wire(source: str, target: str, direction: Direction, latency_s: float, rate: Rate, transmit_power_w: float | None) -> Link:
    """A link with a fixed rate or a trace."""
    return Link(
        source=source,
        target=target,
        latency_s=latency_s,
        direction=direction,
        rate_bps=None if isinstance(rate, Trace) else rate,
        trace=rate if isinstance(rate, Trace) else None,
        transmit_power_w=transmit_power_w,
    )
