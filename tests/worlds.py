"""Small worlds whose times and bytes can be worked out by hand, and a way to play a text on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from airloom.engines.executors import Executor, Loop
from airloom.engines.simnode import SimNode
from airloom.engines.simulated import Simulation
from airloom.models import zoo
from airloom.network.cell import Cell
from airloom.network.churn import Churn
from airloom.network.device import Device
from airloom.network.link import Link
from airloom.network.network import Network, Place
from airloom.program.here import Here
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.task import Task

UNIT = Device(
    profile="unit", speed_flops_per_s=1.0, efficiency=1.0, memory_bytes=1e12, baseline_bytes=0.0, power_w=2.0, idle_power_w=0.5,
    slots={"cpu": 1, "gpu": 1, "disk": 1},
)  # fmt: skip


def device(speed_flops_per_s: float = 1.0, **changes: Any) -> Device:
    """A device that does `speed_flops_per_s` FLOPs in a second, with nothing else to pay."""
    fields = {name: getattr(UNIT, name) for name in Device.__dataclass_fields__ if Device.__dataclass_fields__[name].init}
    return Device(**{**fields, "speed_flops_per_s": speed_flops_per_s, **changes})


def world(
    pairs: Mapping[tuple[str, str], float | Cell],
    *,
    devices: Mapping[str, Device] | None = None,
    parents: Mapping[str, str] | None = None,
    latency_s: float = 0.0,
    churn: Churn | None = None,
    **rest: Any,
) -> Network:
    """A network from pairs (child, parent) -> rate in byte/s, or a cell; the first parent named is the root."""
    names: dict[str, None] = {}
    for child, parent in pairs:
        names[parent] = None
        names[child] = None
    above = dict(parents or {child: parent for child, parent in pairs})
    leaves = set(names) - set(above.values())
    places = [
        Place(name=name, device=(devices or {}).get(name, UNIT), parent=above.get(name), role="client" if name in leaves else "edge")
        for name in names
    ]
    links: list[Link] = []
    for (child, parent), speed in pairs.items():
        kind: dict[str, Any] = {"cell": speed, "bps_per_hz": 1.0} if isinstance(speed, Cell) else {"rate_bps": 8.0 * speed}
        is_access = child in leaves
        links.append(Link(source=child, target=parent, latency_s=latency_s, direction="up" if is_access else "backhaul", **kind))
        back = kind
        if isinstance(speed, Cell):
            back = {"cell": Cell(name=f"{speed.name}/down", bandwidth_hz=speed.bandwidth_hz, sharing=speed.sharing), "bps_per_hz": 1.0}
        links.append(Link(source=parent, target=child, latency_s=latency_s, direction="down" if is_access else "backhaul", **back))
    return Network.of(places, links, churn=churn, **rest)


_TASKS: dict[tuple[str, ...], Task] = {}


def task_for(network: Network) -> Task:
    """Digits, split evenly, for a small model."""
    names = tuple(network.clients(network.root))
    if names not in _TASKS:
        _TASKS[names] = make_task(TaskSettings(partition="iid"), list(names), seed=0, model=zoo.mlp(inputs=64, hidden=(16,), classes=10))
    return _TASKS[names]


@dataclass
class Played:
    """What a text left."""

    sim: Simulation
    value: Any
    reports: list[dict[str, Any]]


def play(
    network: Network, text: Callable[[SimNode], Any], *, seed: int = 0, task: Task | None = None, executor: Executor | None = None,
    log: Callable[..., None] | None = None, span: Callable[..., None] | None = None,
) -> Played:  # fmt: skip
    """Run `text(node)` as the root program and return what it returns; what it raises is raised."""
    task = task or task_for(network)
    reports: list[dict[str, Any]] = []

    def report(node: SimNode, model: Any, personal: Any, metrics: dict[str, Any]) -> None:
        reports.append({**node.sim.stamp(), **metrics})

    sim = Simulation(network, task, seed, executor or Loop(network, task, seed), report, log, span)
    over: list[tuple[Any, BaseException | None]] = []
    root = network.root
    program = sim.kernel.spawn("text", root, None, lambda: text(node), lambda _p, value, error: over.append((value, error)))
    node = SimNode(sim, sim.sites[root], program)
    sim.kernel.run(lambda: bool(over))
    assert over, f"deadlock: {[(p.name, p.waits_for) for p in sim.kernel.programs.values()]}"
    value, error = over[0]
    if error is not None:
        raise error
    return Played(sim, value, reports)


def body(nbytes: int) -> torch.Tensor:
    """A value of `nbytes` bytes."""
    return torch.zeros(nbytes, dtype=torch.uint8)


# --- device functions, with names that other processes can find --------------------------------------------------------------------------


def work(here: Here, seconds: float, nbytes: int = 0, *_: Any) -> torch.Tensor | None:
    """Compute for a while and make some bytes."""
    here.cost(seconds=seconds)
    return body(nbytes) if nbytes else None


def echo(here: Here, value: Any) -> Any:
    """Give back what came, at no cost."""
    here.cost(seconds=0.0)
    return value


def start(here: Here, *_: Any) -> float:
    """When the call began."""
    here.cost(seconds=0.0)
    return here.start_s
