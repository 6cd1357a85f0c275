"""Writers: phones in radio cells, each with the digits that one real person wrote. Needs the data folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airloom.network.access import cells
from airloom.network.profiles import CLOUD, EDGE_BOX
from airloom.network.profiles import phones as draw_phones
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task

# Of the claim `fedgsp --data writers`: the better of two step sizes by validation accuracy on the world of seed 100; the rest is the claim's.
_VISIT = {"local_steps": 4, "batch_size": 8, "fraction": 0.5}
SUITED: Mapping[str, Mapping[str, Any]] = {
    "fedgsp": {**_VISIT, "groups": 4, "rate": 0.3, "lr": 0.1},
    "sequential_fl": {**_VISIT, "lr": 0.03},
}


def writers(
    *,
    seed: int,
    devices: int = 100,
    base_stations: int = 10,
    task: TaskSettings = TaskSettings(dataset="mnist_writers", partition="natural"),
) -> Scenario:
    """Phones with one real writer's digits each.

    Arguments:
        seed: of the world: which writers, fleet, positions, channels.
        devices: phones, at most as many as there are writers.
        base_stations: cells.
        task: data set (one with natural clients) and where it lies.
    """
    network = cells(
        draw_phones(devices, seed=seed), base_stations=base_stations, base_station=EDGE_BOX, root=CLOUD, seed=seed, framing_bytes=64, detect_s=1.0
    )
    learned = make_task(task, list(network.clients(network.root)), seed=seed)
    return Scenario(
        name="writers", network=network, task=learned, suited=SUITED, target=("accuracy", 0.9), budget={"seconds": 3600.0}, seed=seed,
        fields={"devices": devices, "base_stations": base_stations},
    )  # fmt: skip
