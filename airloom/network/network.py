"""A network: places, links, who is whose parent, and who is there."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, cast

from airloom.network.check import need_non_negative, need_positive, refuse
from airloom.network.churn import AlwaysOn, Churn
from airloom.network.device import Device
from airloom.network.link import Link
from airloom.network.load import Idle, Load

_NO_FACTS: Mapping[str, Any] = {}
_SHOWN = 8  # entries of a list that a description shows


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Somewhere programs run: a device with a name and a position in the tree.

    Arguments: role ("cloud", "edge", "server", "client" or a word of your own; only clients churn unless a churn names a place),
    facts (declared values that planners and device functions may read), position_m.

    Two places are equal when all their fields are.
    """

    name: str
    device: Device
    parent: str | None = None
    role: str = "client"
    facts: Mapping[str, Any] = field(default_factory=lambda: _NO_FACTS)
    position_m: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Network:
    """What exists and how it is connected; checked when it is made.

    Arguments
    ---------
    places, links : in a fixed order; the first place without a parent is the root.
    churn : who is there when; only clients, and places that it names, come and go.
    downlink : "unicast", "broadcast" (one transmission at the worst scheduled receiver's rate) or "free".
    framing_bytes : added to each message. detect_s : from a loss to its discovery. on_leave : whether a device's state is kept or wiped.
    capacities : bit/s of the shared resources that links name (max-min sharing).
    load : how much slower clients compute while something else runs on them.
    unreachable : places that no band reaches; never present.
    origin : how a builder made it (JSON-able), for records.

    >>> from airloom.network.topology import star
    >>> from airloom.network.profiles import WHALE_FL
    >>> net = star([WHALE_FL["nano"]] * 2, root=WHALE_FL["macbook_pro_2018"], up_bps=8e6, down_bps=8e6, latency_s=0.01)
    >>> net.root, net.clients("cloud"), [link.target for link in net.route("client0", "client1")]
    ('cloud', ('client0', 'client1'), ['cloud', 'client1'])
    """

    places: Mapping[str, Place]
    links: Mapping[tuple[str, str], Link]
    churn: Churn = field(default_factory=AlwaysOn)
    downlink: Literal["unicast", "broadcast", "free"] = "unicast"
    framing_bytes: int = 0
    detect_s: float = 0.0
    on_leave: Literal["keep", "wipe"] = "keep"
    capacities: Mapping[str, float] = field(default_factory=dict[str, float])
    unreachable: frozenset[str] = frozenset()
    load: Load = field(default_factory=Idle)
    origin: Mapping[str, Any] = field(default_factory=dict[str, Any])
    _root: str = field(init=False, repr=False)
    _children: dict[str, list[str]] = field(init=False, repr=False)
    _is_tree: bool = field(init=False, repr=False)
    _out: dict[str, list[str]] = field(init=False, repr=False)
    _into: dict[str, list[str]] = field(init=False, repr=False)
    _routes: dict[tuple[str, str], tuple[Link, ...]] = field(init=False, repr=False)
    _leaves: dict[str, tuple[str, ...]] = field(init=False, repr=False)
    _towards: dict[str, dict[str, str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("_out", "_into", "_routes", "_leaves", "_towards"):
            object.__setattr__(self, name, {})
        children: dict[str, list[str]] = {}
        root = None
        for name, place in self.places.items():
            if place.parent is not None:
                children.setdefault(place.parent, []).append(name)
            elif root is None:
                root = name
        if root is None:
            refuse("Network", "places", f"{len(self.places)} places", "at least one without a parent", "name a root; parents must not form a cycle")
        object.__setattr__(self, "_root", root)
        object.__setattr__(self, "_children", children)
        object.__setattr__(self, "_is_tree", False)
        self.validate()

    @staticmethod
    def of(
        places: Iterable[Place],
        links: Iterable[Link],
        *,
        churn: Churn | None = None,
        downlink: Literal["unicast", "broadcast", "free"] = "unicast",
        framing_bytes: int = 0,
        detect_s: float = 0.0,
        on_leave: Literal["keep", "wipe"] = "keep",
        capacities: Mapping[str, float] | None = None,
        unreachable: frozenset[str] = frozenset(),
        load: Load | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> Network:
        """Make a network from lists; a name or a pair of places that comes twice is an error."""
        by_name: dict[str, Place] = {}
        by_pair: dict[tuple[str, str], Link] = {}
        for place in places:
            if by_name.setdefault(place.name, place) is not place:
                refuse("Network", "places", place.name, "there only once", "rename one of the two places")
        for link in links:
            if by_pair.setdefault((link.source, link.target), link) is not link:
                refuse("Network", "links", link.label, "there only once", "one directed link joins two places; add their rates")
        return Network(
            places=by_name,
            links=by_pair,
            churn=AlwaysOn() if churn is None else churn,
            downlink=downlink,
            framing_bytes=framing_bytes,
            detect_s=detect_s,
            on_leave=on_leave,
            capacities={} if capacities is None else capacities,
            unreachable=unreachable,
            load=Idle() if load is None else load,
            origin={} if origin is None else origin,
        )

    # ---- structure

    @property
    def root(self) -> str:
        """The first place without a parent."""
        return self._root

    def children(self, name: str) -> tuple[str, ...]:
        """Return the places whose parent this is, in order."""
        return tuple(self._children.get(name, ()))

    def clients(self, name: str) -> tuple[str, ...]:
        """Return all leaves below a place, in order; none for a leaf."""
        if name not in self._leaves:
            found: list[str] = []
            stack = self._children.get(name, [])[::-1]
            while stack:
                top = stack.pop()
                below = self._children.get(top)
                if below:
                    stack.extend(below[::-1])
                else:
                    found.append(top)
            self._leaves[name] = tuple(found)
        return self._leaves[name]

    def neighbors(self, name: str) -> tuple[str, ...]:
        """Return the places that this one has a link to and that are neither its parent nor its children."""
        if self._is_tree:
            return ()
        parent = self.places[name].parent
        return tuple(n for n in self._outgoing().get(name, ()) if n != parent and self.places[n].parent != name)

    # ---- presence

    def present(self, name: str, at_s: float, seed: int) -> bool:
        """Return whether a place is there: servers always (unless the churn names them), unreachable clients never."""
        if name in self.unreachable:
            return False
        return not self._churns(name) or self.churn.present(name, at_s, seed)

    def next_change(self, name: str, after_s: float, seed: int) -> float | None:
        """Return when a place next comes or goes; None: never."""
        return self.churn.next_change(name, after_s, seed) if self._churns(name) and name not in self.unreachable else None

    def slowdown(self, name: str, at_s: float, seed: int) -> float:
        """Return the factor on the seconds of a call that starts at a time: 1 but for clients that are busy with something else."""
        return self.load.factor(name, at_s, seed) if self.places[name].role == "client" else 1.0

    def _churns(self, name: str) -> bool:
        """Whether the churn is asked about a place."""
        return not self.churn.always_on and (self.places[name].role == "client" or name in self.churn.named)

    # ---- routes

    def route(self, source: str, target: str) -> tuple[Link, ...]:
        """Return the links of a shortest route (fewest hops; among equals the one whose links were added first).

        Raises
        ------
        ScenarioError
            If a place does not exist or no route leads there.
        """
        known = self._routes.get((source, target))
        if known is None:
            known = self._routes[(source, target)] = self._find(source, target)
        return known

    def _find(self, source: str, target: str) -> tuple[Link, ...]:
        """Find a route: the direct link, the path through the common ancestor of a tree, or a breadth-first search."""
        for name in (source, target):
            if name not in self.places:
                refuse("Network.route", "place", name, "one of the network's", "look at network.places")
        if source == target:
            return ()
        direct = self.links.get((source, target))
        if direct is not None:
            return (direct,)
        path = self._tree_path(source, target) if self._is_tree else self._searched_path(source, target)
        if path is None:
            refuse("Network.route", "source, target", (source, target), "connected", "add the missing links")
        return tuple(self.links[pair] for pair in pairwise(path))

    def _ancestors(self, name: str) -> list[str]:
        """A place, its parent, and so on up to a place without one."""
        line = [name]
        while (parent := self.places[line[-1]].parent) is not None:
            line.append(parent)
        return line

    def _tree_path(self, source: str, target: str) -> list[str]:
        """Up to the common ancestor and down again."""
        up, down = self._ancestors(source), self._ancestors(target)
        while len(up) > 1 and len(down) > 1 and up[-2] == down[-2]:
            up.pop()
            down.pop()
        return up + down[-2::-1]

    def _searched_path(self, source: str, target: str) -> list[str] | None:
        """Follow the search tree of whichever end has children (it is kept); between two leaves search once."""
        if target in self._children:
            if target not in self._towards:
                self._towards[target] = _search(target, self._incoming(), None)
            return _follow(source, target, self._towards[target])
        if source in self._children:
            key = f"\x00{source}"  # a tree away from a place, beside those towards places
            if key not in self._towards:
                self._towards[key] = _search(source, self._outgoing(), None)
            back = _follow(target, source, self._towards[key])
        else:
            back = _follow(target, source, _search(source, self._outgoing(), target))
        return None if back is None else back[::-1]

    def _outgoing(self) -> dict[str, list[str]]:
        """Targets by source, in the order of links."""
        if not self._out:
            for source, target in self.links:
                self._out.setdefault(source, []).append(target)
        return self._out

    def _incoming(self) -> dict[str, list[str]]:
        """Sources by target, in the order of links."""
        if not self._into:
            for source, target in self.links:
                self._into.setdefault(target, []).append(source)
        return self._into

    # ---- checks

    def validate(self) -> None:
        """Check everything that can be checked before a run.

        Raises
        ------
        ScenarioError
            Naming the place or link, what it has, and what is allowed.
        """
        if self.downlink not in ("unicast", "broadcast", "free"):
            refuse("Network", "downlink", self.downlink, "'unicast', 'broadcast' or 'free'", "choose one")
        if self.on_leave not in ("keep", "wipe"):
            refuse("Network", "on_leave", self.on_leave, "'keep' or 'wipe'", "say what happens to the state of a device that leaves")
        need_non_negative("Network", "framing_bytes", self.framing_bytes, "give bytes per message, or 0")
        need_non_negative("Network", "detect_s", self.detect_s, "give seconds, or 0")
        for name, capacity in self.capacities.items():
            need_positive("Network", f"capacities['{name}']", capacity, "give bit/s")
        self._check_places()
        self._check_links()
        self._check_connected()

    def _check_places(self) -> None:
        """Names, profiles and parents."""
        places = self.places
        for name, place in places.items():
            if name != place.name:
                refuse(f"Place '{place.name}'", "name", name, "the name it is listed under", "use the same name in both")
            if place.parent is not None and place.parent not in places:
                refuse(f"Place '{name}'", "parent", place.parent, "one of the network's places", "add the parent or correct its name")
            if not isinstance(cast(object, place.device), Device):
                refuse(f"Place '{name}'", "device", cast(object, place.device), "a Device", "choose a profile; there is no default")
        below_a_root = {name for name, place in places.items() if place.parent is None}
        for name in places:
            line: list[str] = []
            at: str | None = name
            while at is not None and at not in below_a_root:
                if len(line) > len(places):
                    refuse(f"Place '{name}'", "parent", places[name].parent, "above it in a tree", "its parents form a cycle; cut it")
                line.append(at)
                at = places[at].parent
            below_a_root.update(line)

    def _check_links(self) -> None:
        """Ends, resources, and what a device's radio model needs."""
        places, is_tree = self.places, True
        for (source, target), link in self.links.items():
            sender, receiver = places.get(source), places.get(target)
            if sender is None or receiver is None or link.source != source or link.target != target or source == target:
                refuse(link.label, "source, target", (source, target), "two of the network's places, listed under both names", "correct the names")
            is_tree = is_tree and (sender.parent == target or receiver.parent == source)
            for resource in link.resources:
                if resource not in self.capacities:
                    refuse(link.label, "resources", resource, "one of Network.capacities", "give its bit/s there")
            radio = sender.device.radio
            if radio is not None and radio.transmit_w_per_w and link.transmit_power_w is None and link.direction in ("up", "peer"):
                refuse(
                    link.label,
                    "transmit_power_w",
                    None,
                    f"given, because {source}'s radio model is '{radio.name}'",
                    "give the sender's power in watts",
                )
        object.__setattr__(self, "_is_tree", is_tree)

    def _check_connected(self) -> None:
        """Every place can be reached from the root, and back."""
        links, root = self.links, self._root
        odd = [n for n, p in self.places.items() if n != root and ((p.parent, n) not in links or (n, p.parent) not in links)]
        if not odd:
            return
        for direction, search in (("from", self._outgoing()), ("to", self._incoming())):
            found = _search(root, search, None)
            for name in odd:
                if name not in found:
                    refuse(f"Place '{name}'", "links", "no route", f"a route {direction} the root '{root}'", "add links, or remove the place")

    # ---- description

    def describe(self) -> dict[str, Any]:
        """Return a compact, JSON-able description for a record's header."""
        devices = [p.device for p in self.places.values()]
        cells = {id(link.cell): link.cell for link in self.links.values() if link.cell is not None}
        clients = [self.places[n].device for n in self.clients(self._root)] or devices
        speeds = sorted(d.speed_flops_per_s for d in clients)
        memory = sorted(d.available_bytes for d in clients)
        constants: list[dict[str, Any]] = []
        for cell in cells.values():
            if (constant := cell.describe()) not in constants:
                constants.append(constant)
        return {
            "origin": dict(self.origin),
            "places": len(devices),
            "roles": dict(Counter(p.role for p in self.places.values())),
            "profiles": dict(Counter(d.profile for d in devices)),
            "client_speed_flops_per_s": _five(speeds),
            "client_available_bytes": _five(memory),
            "compute_time": dict(Counter("table" if d.seconds_per_sample else "roofline" for d in devices)),
            "compute_energy": dict(Counter("power_w" if d.capacitance is None else "capacitance" for d in devices)),
            "radio_energy": sorted({d.radio.name for d in devices if d.radio is not None}),
            "links": dict(Counter(link.direction for link in self.links.values())),
            "rates": dict(Counter(_kind(link) for link in self.links.values())),
            "cells": len(cells),
            "cell_constants": constants[:_SHOWN],
            "churn": type(self.churn).__name__,
            "load": type(self.load).__name__,
            "downlink": self.downlink,
            "framing_bytes": self.framing_bytes,
            "detect_s": self.detect_s,
            "on_leave": self.on_leave,
            "capacities": len(self.capacities),
            "unreachable": len(self.unreachable),
            "unreachable_first": sorted(self.unreachable)[:_SHOWN],
        }


def _search(start: str, edges: Mapping[str, list[str]], stop: str | None) -> dict[str, str]:
    """Breadth first: for each place found, the place it was found from."""
    found = {start: start}
    queue = deque([start])
    while queue:
        here = queue.popleft()
        for there in edges.get(here, ()):
            if there not in found:
                found[there] = here
                if there == stop:
                    return found
                queue.append(there)
    return found


def _follow(start: str, end: str, steps: Mapping[str, str]) -> list[str] | None:
    """The path from `start` to the root `end` of a search tree."""
    if start not in steps:
        return None
    path = [start]
    while path[-1] != end:
        path.append(steps[path[-1]])
    return path


def _five(ordered: list[float]) -> list[float]:
    """Minimum, quartiles and maximum of sorted values."""
    return [ordered[round(q * (len(ordered) - 1))] for q in (0.0, 0.25, 0.5, 0.75, 1.0)]


def _kind(link: Link) -> str:
    """How a link gets its rate."""
    if link.rate_bps is not None:
        return "fixed"
    return "trace" if link.trace is not None else "cell"
