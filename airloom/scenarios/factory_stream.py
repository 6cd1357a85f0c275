"""Factories whose machines see streams: what a machine holds is the last rows of a few classes, and they change while it works.

With the data folder each machine has the digits of one real person; without it digits, drawn by Dirichlet mixes from shared rows.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from airloom.scenarios.factory import plant
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.stream import Stream

# Of the claim `fedgs --data writers`: the better of two step sizes by validation accuracy on the world of seed 100; the other fields are the claim's.
_LOCAL = {"local_steps": 10, "batch_size": 8, "lr": 0.1}
SUITED: Mapping[str, Mapping[str, Any]] = {
    "fedavg": {**_LOCAL, "fraction": 30 / 350},
    "hfedavg": {**_LOCAL, "group_rounds": 1},
    "fedgs": {"group_rounds": 10, "devices": 6, "batch_size": 8, "lr": 0.2},
}

ROWS = 100  # of a machine where digits stand in for writers, who have 116 in the median
FALLBACK = "digits, resampled (no data folder)"


def factory_stream(
    *,
    seed: int,
    factories: int = 5,
    machines: int = 70,
    window_s: float = 60.0,
    samples: int = 50,
    classes: int | None = 3,
    drift_s: float | None = None,
    machine_bps: float = 100e6,
    backhaul_bps: float = 20e6,
    backhaul_latency_s: float = 0.02,
    task: TaskSettings = TaskSettings(dataset="mnist_writers", partition="natural"),
) -> Scenario:
    """Five factories with seventy machines each, wired, with data that come and go.

    Arguments:
        seed: of the world: which writers, partition, streams.
        factories, machines: edge servers, and machines of each; in turn the five measured boards of `airloom.network.profiles.WHALE_FL`.
        window_s: seconds after which a machine's rows are replaced.
        samples: rows that a machine holds in a window (50, as in the published experiments).
        classes: of its own classes present in a window, moving on by one per window; None: all of them.
        drift_s: instead, seconds in which a machine's class mix moves from one random mix to the next; with classes=None.
        machine_bps: wired link of a machine, both ways (100 Mbit/s Ethernet).
        backhaul_bps, backhaul_latency_s: factory to cloud (20 Mbit/s, 20 ms), five times slower than the links inside.
        task: data set and partition; its own `stream` takes the place of `window_s`, `samples`, `classes` and `drift_s`.
    """
    network = plant(factories, machines, machine_bps, backhaul_bps, backhaul_latency_s)
    stream = task.stream or Stream(window_s=window_s, samples=samples, classes=classes, drift_s=drift_s)
    settings = replace(_at_hand(task), stream=stream)
    learned = make_task(settings, list(network.clients(network.root)), seed=seed, groups=[machines] * factories)
    return Scenario(
        name="factory_stream", network=network, task=learned, suited=SUITED, target=("accuracy", 0.9), budget={"seconds": 1800.0}, seed=seed,
        fields={
            "factories": factories, "machines": machines, "window_s": stream.window_s, "samples": stream.samples, "classes": stream.classes,
            "data": FALLBACK if settings.dataset != task.dataset else settings.dataset, "partition": settings.partition,
        },
    )  # fmt: skip


def _at_hand(task: TaskSettings) -> TaskSettings:
    """The settings, or digits where the writers are asked for and no folder is named."""
    if task.dataset != "mnist_writers" or task.data is not None or os.environ.get("AIRLOOM_DATA"):
        return task
    _say()
    return replace(task, dataset="digits", partition="resample", samples=ROWS)


@lru_cache(maxsize=1)
def _say() -> None:
    """State once which data they are."""
    logging.getLogger("airloom").warning("factory_stream: %s; set AIRLOOM_DATA, or task.data=FOLDER, for real writers", FALLBACK)
