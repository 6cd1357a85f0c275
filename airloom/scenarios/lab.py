"""The lab: twenty measured boards on fixed rates, the population that several published systems were measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airloom.errors import ScenarioError
from airloom.network.load import MarkovLoad
from airloom.network.profiles import CLOUD
from airloom.network.topology import lab as lab_network
from airloom.scenarios.phones import enough
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task

SUITED: Mapping[str, Mapping[str, Any]] = {
    "fedavg": {"local_steps": 20, "lr": 0.3},
    "scaffold": {"local_steps": 20, "lr": 0.1},
    "fedbuff": {"local_steps": 5, "lr": 0.3, "server_lr": 1.0},
    "sequential_fl": {"local_steps": 5, "lr": 0.1},
}


def lab(
    *, seed: int, downlink: str = "unicast", free_s: float | None = None, busy_s: float | None = None, task: TaskSettings = TaskSettings()
) -> Scenario:
    """Five measured boards times four up-link rates (80, 40, 20, 15 Mbit/s).

    Arguments:
        seed: of the world: partition and training.
        downlink: "unicast", or "free" as in the published latency figures.
        free_s, busy_s: mean seconds that a board is free, and busy with something else that slows it down two- to fourfold; None: always free.
        task: data set and partition.
    """
    if (free_s is None) != (busy_s is None):
        raise ScenarioError(f"lab(free_s={free_s}, busy_s={busy_s}): give both or neither")
    network = lab_network(root=CLOUD, downlink=downlink)  # type: ignore[arg-type]
    if free_s is not None and busy_s is not None:
        network = replace(network, load=MarkovLoad(free_s=free_s, busy_s=busy_s))
    names = network.clients(network.root)
    learned = make_task(enough(task, len(names)), list(names), seed=seed)
    return Scenario(
        name="lab", network=network, task=learned, suited=SUITED, target=("accuracy", 0.9), budget={"seconds": 2000.0}, seed=seed,
        fields={"downlink": downlink},
    )  # fmt: skip
