"""Claim of HIST: cells that train disjoint parts are as accurate as cells that train all of it, at a fraction of the bytes and seconds.

    python -m benchmarks.claims.hist

Digits, MLP 64-96, 16 clients in 4 cells of boards of one kind each, so that cells differ by a factor of about 3 in speed; Dirichlet(1), E = 5 group
rounds of 5 steps, 20 rounds. Over the air, each cell's channel adds the updates up.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from airloom.methods.hfedavg import HFedAvg
from airloom.methods.hist import HIST
from airloom.models import zoo
from airloom.network.cell import Cell
from airloom.network.device import Device
from airloom.network.link import Link
from airloom.network.network import Network, Place
from airloom.network.profiles import CLOUD, EDGE_BOX
from airloom.program.reducer import air_sum
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Point, Side, keep, play, table

CELLS, MEMBERS = 4, 4
SPEEDS = (3e6, 2e6, 1.5e6, 1e6)  # FLOP/s that training reaches, by cell: a step takes as long as sending some tenth of the model
STEPS: dict[str, Any] = {"group_rounds": 5, "local_steps": 5, "batch_size": 16}
SIDES = (
    Side(label="hfedavg", method=HFedAvg, fields=STEPS),
    Side(label="hist, equal", method=HIST, fields=STEPS),
    Side(label="hist, latency", method=HIST, fields={**STEPS, "split": "latency"}),
    Side(label="hist, fixed parts", method=HIST, fields={**STEPS, "is_redrawn": False}),
    Side(label="hist, air 20 dB", method=HIST, fields={**STEPS, "over": air_sum(20.0)}),
)
FULL = Plan(cases={"digits": 20}, last=5, target=0.94, lrs=(0.1, 0.3), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={"digits": 6}, last=3, target=0.9, lrs=(0.3,), seeds=(0,), tuning_seeds=())
ABOUT = {
    "data": "digits", "model": "mlp 64-96", "clients": CELLS * MEMBERS, "cells": CELLS, "partition": "dirichlet", "alpha": 1.0,
    "speed_flops_per_s": list(SPEEDS), "cell_hz": 1e6, "bps_per_hz": 1.0, "backhaul_bps": 1e7,
}  # fmt: skip


@lru_cache(maxsize=1)
def network() -> Network:
    """A cloud, four base stations with a cell each, four boards in every cell."""
    places, links = [Place(name="cloud", device=CLOUD)], []
    for j in range(CELLS):
        station = f"station{j + 1}"
        places.append(Place(name=station, device=EDGE_BOX, parent="cloud", role="edge"))
        links += [Link(source=a, target=b, rate_bps=1e7, latency_s=0.005, direction="backhaul") for a, b in ((station, "cloud"), ("cloud", station))]
        board = Device(
            profile=f"board{j + 1}", speed_flops_per_s=SPEEDS[j], efficiency=1.0, memory_bytes=4e9, baseline_bytes=1e9, power_w=5.0, idle_power_w=1.0
        )
        up, down = (Cell(name=f"{station}/{way}", bandwidth_hz=1e6, sharing="tdma") for way in ("up", "down"))
        for i in range(MEMBERS):
            name = f"client{j * MEMBERS + i + 1}"
            places.append(Place(name=name, device=board, parent=station, role="client"))
            links.append(Link(source=name, target=station, cell=up, bps_per_hz=1.0, latency_s=0.005, direction="up"))
            links.append(Link(source=station, target=name, cell=down, bps_per_hz=1.0, latency_s=0.005, direction="down"))
    return Network.of(places, links)


def world(case: str, seed: int) -> Scenario:
    """The data of a seed, in the cells."""
    settings = TaskSettings(partition="dirichlet", alpha=1.0)
    task = make_task(settings, network().clients("cloud"), seed, model=zoo.mlp(inputs=64, hidden=(96,), classes=10))
    return Scenario(name="claim hist", network=network(), task=task, seed=seed)


def rounds_of(points: Sequence[Point]) -> Mapping[str, float | None]:
    """What a round costs, in seconds and in bytes that clients send."""
    n = len(points)
    return {"round_s": points[-1]["seconds"] / n if n else None, "up_kb": points[-1]["bytes_up"] / n / 1e3 if n else None}


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan, rounds_of)
    if folder is not None:
        keep("hist", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [
        ("accuracy", "accuracy", ".3f"), ("rounds_to_target", "rounds to 0.94", ".1f"), ("seconds_to_target", "seconds to 0.94", ".0f"),
        ("round_s", "s per round", ".2f"), ("up_kb", "kB up per round", ".0f"),
    ]  # fmt: skip
    return table(outcome, columns)


if __name__ == "__main__":
    print(show(run(folder=RECORDS)))
