"""The lab: twenty measured boards on fixed rates, the population that several published systems were measured on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airloom.network.profiles import CLOUD
from airloom.network.topology import lab as lab_network
from airloom.scenarios.phones import enough
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task

SUITED: Mapping[str, Mapping[str, Any]] = {}


def lab(*, seed: int, downlink: str = "unicast", task: TaskSettings = TaskSettings()) -> Scenario:
    """Five measured boards times four up-link rates (80, 40, 20, 15 Mbit/s).

    Arguments:
        seed: of the world: partition and training.
        downlink: "unicast", or "free" as in the published latency figures.
        task: data set and partition.
    """
    network = lab_network(root=CLOUD, downlink=downlink)  # type: ignore[arg-type]
    names = network.clients(network.root)
    learned = make_task(enough(task, len(names)), list(names), seed=seed)
    return Scenario(
        name="lab", network=network, task=learned, suited=SUITED, target=("accuracy", 0.9), budget={"seconds": 2000.0}, seed=seed,
        fields={"downlink": downlink},
    )  # fmt: skip
