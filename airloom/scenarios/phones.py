"""Phones in radio cells: a cloud, base stations with one cell each, phones of very different speed that hold different digits.

Speeds and memory follow the deciles of a public phone ranking (see `airloom.network.profiles`), positions are drawn in the cells, labels are dealt
by Dirichlet(0.3) with at least 8 samples per phone. Star methods reach the phones through the base stations, hop by hop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airloom.errors import ScenarioError
from airloom.network.access import CellPlan, cells
from airloom.network.churn import AlwaysOn, Markov
from airloom.network.profiles import CLOUD, EDGE_BOX
from airloom.network.profiles import phones as draw_phones
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.datasets import load

# Found with `airloom compare METHOD... --tune 27 --target accuracy=0.9 --stop-at-target` (whole grids) on the world of seed 1000, by the seconds
# until the validation accuracy reaches 90 %; where a winner lay at the edge of its grid, values beyond it on the worlds 1000 and 1001. Scaffold and
# MTGC also reach it with lr=0.3, but go on to diverge in other worlds: they have the fastest fields that stay finite. See docs/scenarios.md.
SUITED: Mapping[str, Mapping[str, Any]] = {
    "fedavg": {"local_steps": 40, "lr": 0.3},
    "fedprox": {"local_steps": 40, "lr": 0.3},
    "fedopt": {"local_steps": 20, "lr": 0.3},
    "scaffold": {"local_steps": 80, "lr": 0.1},
    "fedbuff": {"local_steps": 20, "lr": 0.3, "server_lr": 1.0},
    "hfedavg": {"local_steps": 20, "lr": 0.3, "group_rounds": 2},
    "mtgc": {"local_steps": 80, "lr": 0.1, "group_rounds": 2},
    "sequential_fl": {"local_steps": 10, "lr": 0.1},
    "oort": {"local_steps": 40, "lr": 0.3, "fraction": 0.5},
    "fedex": {"local_steps": 40, "lr": 0.3, "fraction": 0.5, "ceiling": 5},
    "ics": {"local_steps": 40, "lr": 0.3, "floor": 0.3},
    "whale_fl": {"local_steps": 40, "lr": 0.3},
    "heterofl": {"local_steps": 40, "lr": 0.3},
    "fedrolex": {"local_steps": 40, "lr": 0.3},
}


def phones(
    *,
    seed: int,
    devices: int = 40,
    base_stations: int = 4,
    sharing: str = "tdma",
    downlink: str = "unicast",
    fading: bool = True,
    radius_m: float = 150.0,
    on_s: float | None = None,
    off_s: float | None = None,
    task: TaskSettings = TaskSettings(),
) -> Scenario:
    """Phones in radio cells with unlike data.

    Arguments:
        seed: of the world: partition, fleet, positions, channels.
        devices: phones in all, dealt evenly to the base stations.
        base_stations: cells.
        sharing: "tdma" (fair airtime) or "fdma" (own bands).
        downlink: "unicast", "broadcast" or "free".
        fading: block fading on or off.
        radius_m: of a cell; with 500 m a third of the phones would be in outage.
        on_s, off_s: mean seconds that a phone stays and stays away; None: always there.
        task: data set and partition. Where the data do not suffice for 8 own samples each, phones draw from shared rows ("resample").
    """
    if not 1 <= base_stations <= devices:
        raise ScenarioError(f"phones(devices={devices}, base_stations={base_stations}): allowed: one station or more, a phone for each of them")
    if (on_s is None) != (off_s is None):
        raise ScenarioError(f"phones(on_s={on_s}, off_s={off_s}): give both or neither")
    churn = AlwaysOn() if on_s is None or off_s is None else Markov(on_s=on_s, off_s=off_s)
    network = cells(
        draw_phones(devices, seed=seed),
        base_stations=base_stations,
        base_station=EDGE_BOX,
        root=CLOUD,
        seed=seed,
        plan=CellPlan(sharing=sharing, fading=fading, radius_m=radius_m),  # type: ignore[arg-type]
        churn=churn,
        downlink=downlink,  # type: ignore[arg-type]
        framing_bytes=64,
        detect_s=1.0,
    )
    names = [name for name in network.clients(network.root) if name not in network.unreachable]
    settings = enough(task, len(names))
    learned = make_task(settings, list(network.clients(network.root)), seed=seed)
    return Scenario(
        name="phones", network=network, task=learned, suited=SUITED, target=("accuracy", 0.9), budget={"seconds": 600.0}, seed=seed,
        fields={"devices": devices, "base_stations": base_stations, "partition": settings.partition},
    )  # fmt: skip


def enough(settings: TaskSettings, devices: int) -> TaskSettings:
    """The settings, or "resample" where the rows do not suffice for every device's own minimum."""
    if settings.partition != "dirichlet":
        return settings
    rows = len(load(settings.dataset, settings.data, limit=settings.limit).y_train)
    return settings if rows >= 2 * settings.minimum * devices else replace(settings, partition="resample")
