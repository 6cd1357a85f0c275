"""Freezing a run at a round boundary: the graph of plain records that it consists of, written as JSON and tensors, and brought back.

Between rounds only the root program is alive and it stands at the boundary, so everything else is data: events by handler name, values, flows,
device state. Only classes listed here (and frozen values of airloom and of the method's own module) are written; nothing else is ever imported.
"""

# Trees (states, arguments, results) are of any shape, so what is taken out of them has no static type.
# pyright: strict, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from airloom.clock.media import Airtime, Rerated
from airloom.clock.meter import SiteMeter
from airloom.clock.wires import Lane, Transfer, Wire
from airloom.engines.pending import Call, Delivery, Issue, Later, SimRef, Value
from airloom.engines.price import Price
from airloom.engines.simulated import Simulation
from airloom.engines.sites import Resource, Site
from airloom.errors import RecordError, Unsupported
from airloom.models.module import ModelSpec
from airloom.models.params import Params
from airloom.network.device import Work
from airloom.program.method import function_name

_RECORDS: dict[str, type] = {
    c.__name__: c for c in (Airtime, Call, Delivery, Issue, Lane, Later, Price, Rerated, Resource, SiteMeter, Transfer, Value)
}
_SKIPPED = {"on_device"}  # caches keyed by object identity
_SITE = (
    "calls", "drawn", "epoch", "held_bytes", "is_empty", "is_present", "meter", "radio_lane", "resources", "shadow", "state",
    "stored_bytes", "transfers", "written",
)  # fmt: skip
_WIRES = ("media", "dirty", "version", "copies", "active", "shouts")
_TOTALS = ("bytes_by", "idle_power_w", "idle_present_j", "joules", "joules_server", "since_s")


class _Writer:
    """Turns a graph into nodes (JSON) and tensors; shared objects are written once."""

    def __init__(self, sim: Simulation, method: Any) -> None:
        self.sim = sim
        self.method = method
        self.nodes: list[Any] = []
        self.tensors: dict[str, torch.Tensor] = {}
        self.known: dict[int, int] = {}
        self.kept: list[Any] = []  # so that identities stay what they are while we write

    def write(self, thing: Any) -> Any:
        """JSON for a thing: plain values as they are, everything else as a reference to a node."""
        if thing is None or isinstance(thing, bool | str):
            return thing
        if type(thing) is int:
            return thing
        if type(thing) is float:
            return thing if np.isfinite(thing) else {"f": repr(thing)}
        index = self.known.get(id(thing))
        if index is None:
            index = self.known[id(thing)] = len(self.nodes)
            self.nodes.append(None)
            self.kept.append(thing)
            self.nodes[index] = self._node(thing)
        return {"@": index}

    def many(self, things: Any) -> list[Any]:
        """JSON for each of several things."""
        return [self.write(thing) for thing in things]

    def _tensor(self, tensor: torch.Tensor) -> Any:
        if tensor.is_meta:
            return {"k": "meta", "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        name = f"t{len(self.tensors)}"
        self.tensors[name] = tensor.detach().contiguous()
        return {"k": "tensor", "name": name}

    def _node(self, thing: Any) -> Any:
        sim = self.sim
        kind = type(thing)
        if kind is list or kind is tuple or kind is deque or kind is set:
            return {"k": kind.__name__, "v": self.many(thing)}
        if kind is Work:
            return {"k": "work", "v": self.many(thing)}
        if kind is dict:
            return {"k": "dict", "v": [[self.write(key), self.write(value)] for key, value in thing.items()]}
        if isinstance(thing, torch.Tensor):
            return self._tensor(thing)
        if isinstance(thing, np.ndarray):
            return {"k": "array", "v": self.write(torch.from_numpy(np.ascontiguousarray(thing)))}
        if isinstance(thing, np.generic):
            return {"k": "scalar", "dtype": str(thing.dtype), "v": self.write(thing.item())}
        if isinstance(thing, Params):
            return {"k": "params", "spec": self.write(thing.spec), "flat": self.write(thing.flat)}
        if isinstance(thing, ModelSpec):
            return {"k": "spec", "recipe": thing.recipe()}
        if kind is SimRef:
            return {"k": "ref", "root": self.write(thing.root), "path": self.write(thing.path)}
        if kind is Site:
            return {"k": "site", "name": thing.name}
        if kind is Wire:
            return {"k": "wire", "source": thing.link.source, "target": thing.link.target}
        if kind is Value and thing.job is not None:
            sim.numerics.restore(thing)
        if kind.__name__ in _RECORDS and _RECORDS[kind.__name__] is kind:
            slots = {name: self.write(getattr(thing, name)) for name in _slots(kind) if name not in _SKIPPED}
            return {"k": "record", "class": kind.__name__, "v": slots}
        owner = getattr(thing, "__self__", None)
        if owner is not None:
            for name, known in (("sim", sim), ("wires", sim.wires), ("values", sim.values), ("method", self.method)):
                if owner is known:
                    return {"k": "bound", "owner": name, "name": thing.__name__}
        if callable(thing) and owner is None:
            return {"k": "function", "name": function_name(thing)}
        if is_dataclass(thing) and not isinstance(thing, type):
            module = kind.__module__
            if module.split(".")[0] == "airloom" or module == type(self.method).__module__:
                return {
                    "k": "value",
                    "module": module,
                    "class": kind.__qualname__,
                    "v": {f.name: self.write(getattr(thing, f.name)) for f in fields(thing)},
                }
        raise Unsupported(
            f"checkpoint: got a {module_of(kind)} in the state; allowed are dicts, lists, tuples, Params, tensors, arrays, numbers, strings, "
            f"Refs and frozen dataclasses of the method's module"
        )


def _slots(kind: type) -> list[str]:
    """Names of a record's slots, its base's first."""
    return [name for base in reversed(kind.__mro__[:-1]) for name in base.__dict__["__slots__"]]


def module_of(kind: type) -> str:
    """`module.Class`, for messages."""
    return f"{kind.__module__}.{kind.__qualname__}"


def freeze(sim: Simulation, method: Any, state: Any, extra: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Write a run that stands at a round boundary as (JSON, tensors).

    Raises:
        Unsupported: a child program is alive, or the state holds something that cannot be written.
    """
    alive = [program.name for program in sim.kernel.programs.values() if program is not sim.kernel.running]
    if alive:
        raise Unsupported(f"checkpoint: programs are still running at the round boundary ({', '.join(alive[:3])}); let the round fetch their results")
    waiting = list(sim.numerics.pending)
    while waiting:
        sim.numerics.flush(waiting[:1])
        waiting = [call for call in waiting if not call.has_run]
    out = _Writer(sim, method)
    kernel, wires = sim.kernel, sim.wires
    root = kernel.running
    assert root is not None
    tree = {
        "kernel": {"now": kernel.now, "number": kernel.number, "background": kernel.background, "root": root.number},
        "agenda": out.many([(time_s, number, handler, subject) for time_s, number, handler, subject in kernel.agenda]),
        "state": out.write(state),
        "sites": {name: slots for name, site in sim.sites.items() if (slots := _site(out, site))},
        "wires": [[w.link.source, w.link.target, w.bytes, out.write(w.free_s), out.write(w.lane), out.write(w.sent)] for w in wires.wires.values()],
        "shared": {slot: out.write(getattr(wires, slot)) for slot in _WIRES},
        "totals": {slot: out.write(getattr(sim.totals, slot)) for slot in _TOTALS},
        "asked": out.write(sim.values.asked),
        "running": out.write(sim.running),
        "round": sim.numerics.round,
        "flushes": [sim.numerics.flushes, sim.numerics.flushed_calls],
        "extra": dict(extra),
    }
    return {**tree, "nodes": out.nodes}, out.tensors


def _blank(site: Site) -> Site:
    """A place at which nothing has happened."""
    return Site(site.place, SiteMeter(site.meter.idle_power_w, site.meter.is_server))


def _site(out: _Writer, site: Site) -> dict[str, Any]:
    """What has happened at a place: of a hundred thousand, most have seen little."""
    blank, meter = _blank(site), site.meter
    slots: dict[str, Any] = {}
    for slot in _SITE:
        value = getattr(site, slot)
        if slot == "meter":
            is_same = all([getattr(meter, name) == getattr(blank.meter, name) for name in _slots(SiteMeter)])
        elif slot == "radio_lane":
            is_same = value is None or not (meter.up or meter.down)  # no wire has it yet
        else:
            is_same = value == getattr(blank, slot)
        if not is_same:
            slots[slot] = out.write(value)
    return slots


class _Reader:
    """Brings a frozen graph back onto a new simulation of the same scenario."""

    def __init__(self, sim: Simulation, method: Any, nodes: list[Any], tensors: Mapping[str, torch.Tensor], bases: Mapping[str, ModelSpec]) -> None:
        self.sim = sim
        self.method = method
        self.nodes = nodes
        self.tensors = tensors
        self.bases = bases
        self.made: dict[int, Any] = {}

    def read(self, thing: Any) -> Any:
        """The thing that JSON stands for."""
        if not isinstance(thing, dict):
            return thing
        if "f" in thing:
            return float(thing["f"])
        index = thing["@"]
        if index not in self.made:
            self._thing(index, self.nodes[index])
        return self.made[index]

    def many(self, things: list[Any]) -> list[Any]:
        return [self.read(thing) for thing in things]

    def _thing(self, index: int, node: dict[str, Any]) -> None:
        kind, made, sim = node["k"], self.made, self.sim
        if kind == "list":
            made[index] = whole = []
            whole.extend(self.many(node["v"]))
        elif kind == "dict":
            made[index] = table = {}
            for key, value in node["v"]:
                table[self.read(key)] = self.read(value)
        elif kind == "deque":
            made[index] = line = deque()
            line.extend(self.many(node["v"]))
        elif kind == "record":
            record = _RECORDS[node["class"]]
            made[index] = thing = object.__new__(record)
            for name, value in node["v"].items():
                setattr(thing, name, self.read(value))
            for name in _SKIPPED.intersection(_slots(record)):
                setattr(thing, name, {})
        elif kind == "tuple":
            made[index] = tuple(self.many(node["v"]))
        elif kind == "set":
            made[index] = set(self.many(node["v"]))
        elif kind == "work":
            made[index] = Work(*self.many(node["v"]))
        elif kind == "tensor":
            made[index] = self.tensors[node["name"]]
        elif kind == "meta":
            made[index] = torch.empty(node["shape"], dtype=getattr(torch, node["dtype"]), device="meta")
        elif kind == "array":
            made[index] = self.read(node["v"]).numpy()
        elif kind == "scalar":
            made[index] = np.dtype(node["dtype"]).type(self.read(node["v"]))
        elif kind == "params":
            made[index] = Params(self.read(node["spec"]), self.read(node["flat"]))
        elif kind == "spec":
            made[index] = ModelSpec.from_recipe(node["recipe"], self.bases)
        elif kind == "ref":
            made[index] = SimRef(self.read(node["root"]), self.read(node["path"]))
        elif kind == "site":
            made[index] = sim.sites[node["name"]]
        elif kind == "wire":
            made[index] = sim.wires.wire(sim.network.links[node["source"], node["target"]])
        elif kind == "bound":
            owner = {"sim": sim, "wires": sim.wires, "values": sim.values, "method": self.method}[node["owner"]]
            made[index] = getattr(owner, node["name"])
        elif kind == "function":
            made[index] = self._named(*node["name"].split(":"))
        elif kind == "value":
            cls = self._named(node["module"], node["class"])
            made[index] = cls(**{name: self.read(value) for name, value in node["v"].items()})
        else:
            raise RecordError(f"checkpoint: got a node of kind {kind!r}, which this version does not know; resume with the version that wrote it")

    def _named(self, module: str, qualname: str) -> Any:
        if module.split(".")[0] != "airloom" and module != type(self.method).__module__:
            raise RecordError(f"checkpoint: got the name '{module}:{qualname}'; allowed are names of airloom and of the method's module")
        thing: Any = importlib.import_module(module)
        for name in qualname.split("."):
            thing = getattr(thing, name)
        return thing


def thaw(
    sim: Simulation, method: Any, tree: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], bases: Mapping[str, ModelSpec]
) -> tuple[Any, int]:
    """Put a frozen run onto a new simulation; return the method's state and the number of the root program."""
    reader = _Reader(sim, method, tree["nodes"], tensors, bases)
    kernel, wires = sim.kernel, sim.wires
    for source, target, nbytes, free_s, lane, sent in tree["wires"]:
        wire = wires.wire(sim.network.links[source, target])
        wire.bytes, wire.free_s, wire.lane, wire.sent = nbytes, reader.read(free_s), reader.read(lane), reader.read(sent)
    nothing: dict[str, Any] = {}
    for name, site in sim.sites.items():
        slots, blank = tree["sites"].get(name, nothing), _blank(site)
        for slot in _SITE:
            if slot in slots:
                setattr(site, slot, reader.read(slots[slot]))
            elif slot != "radio_lane":
                setattr(site, slot, getattr(blank, slot))
    for slot, value in tree["shared"].items():
        setattr(wires, slot, reader.read(value))
    for slot, value in tree["totals"].items():
        setattr(sim.totals, slot, reader.read(value))
    sim.values.asked = reader.read(tree["asked"])
    sim.values.holders = {site: None for site in sim.sites.values() if site.held_bytes}
    sim.running = reader.read(tree["running"])
    sim.numerics.round = tree["round"]
    sim.numerics.flushes, sim.numerics.flushed_calls = tree["flushes"]
    kernel.agenda.load([tuple(reader.read(event)) for event in tree["agenda"]])
    kernel.is_unsettled = True
    at = tree["kernel"]
    kernel.now, kernel.number, kernel.background = at["now"], at["number"], at["background"]
    return reader.read(tree["state"]), at["root"]
