"""Factories: a cloud, edge servers on site, machines on wired links that hold different digits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airloom.network.network import Network
from airloom.network.profiles import CLOUD, EDGE_BOX, WHALE_FL
from airloom.network.topology import Level, tree
from airloom.scenarios.phones import enough
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task

SUITED: Mapping[str, Mapping[str, Any]] = {
    "fedavg": {"local_steps": 5, "lr": 0.3},
    "scaffold": {"local_steps": 20, "lr": 0.1},
    "fedbuff": {"local_steps": 5, "lr": 0.3, "server_lr": 1.0},
    "hfedavg": {"local_steps": 20, "lr": 0.3, "group_rounds": 2},
    "mtgc": {"local_steps": 10, "lr": 0.1, "group_rounds": 5},
    "sequential_fl": {"local_steps": 5, "lr": 0.1},
}


def factory(
    *,
    seed: int,
    factories: int = 5,
    machines: int = 20,
    machine_bps: float = 100e6,
    backhaul_bps: float = 1e9,
    backhaul_latency_s: float = 0.01,
    task: TaskSettings = TaskSettings(),
) -> Scenario:
    """Machines behind wired edge servers.

    Arguments:
        seed: of the world: partition and training.
        factories: edge servers.
        machines: per factory; in turn the five measured boards of `airloom.network.profiles.WHALE_FL`.
        machine_bps: wired link of a machine, both ways (100 Mbit/s Ethernet).
        backhaul_bps, backhaul_latency_s: factory to cloud.
        task: data set and partition.
    """
    network = plant(factories, machines, machine_bps, backhaul_bps, backhaul_latency_s)
    names = network.clients(network.root)
    learned = make_task(enough(task, len(names)), list(names), seed=seed, groups=[machines] * factories)
    return Scenario(
        name="factory", network=network, task=learned, suited=SUITED, target=("accuracy", 0.9), budget={"seconds": 600.0}, seed=seed,
        fields={"factories": factories, "machines": machines},
    )  # fmt: skip


def plant(factories: int, machines: int, machine_bps: float, backhaul_bps: float, backhaul_latency_s: float) -> Network:
    """Return the network: the five measured boards in turn, on wires to the edge server of their factory, and wires from there to the cloud."""
    return tree(
        [
            Level(
                name="edge", count=factories, devices=EDGE_BOX, up_bps=backhaul_bps, down_bps=backhaul_bps, latency_s=backhaul_latency_s, wired=True
            ),
            Level(name="machine", count=machines, devices=list(WHALE_FL.values()), up_bps=machine_bps, down_bps=machine_bps, latency_s=0.001),
        ],
        root=CLOUD,
        framing_bytes=64,
        detect_s=1.0,
    )
