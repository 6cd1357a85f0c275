"""Claim of HFedMS: on streams whose classes come and go, memory of features keeps what FedGSP and FedAvg forget, with fewer bytes than FedGSP.

    python -m benchmarks.claims.hfedms

Digits, MLP 64-64-32, 30 devices on a star; all see the same three classes at a time, one of which is replaced every 20 s; 240 s, so that every class
has come and gone.
"""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from airloom.methods.fedavg import FedAvg
from airloom.methods.fedgsp import FedGSP
from airloom.methods.hfedms import HFedMS
from airloom.models import zoo
from airloom.network.device import RadioEnergy
from airloom.network.network import Network
from airloom.network.profiles import CLOUD, phone
from airloom.network.topology import star
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.stream import Stream
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Side, keep, play, table

DEVICES, GROUPS, FRACTION, WINDOW_S, SAMPLES, CLASSES = 30, 6, 0.34, 20.0, 20, 3
LOCAL: dict[str, Any] = {"local_steps": 5, "batch_size": 8, "fraction": FRACTION}
CHAINS: dict[str, Any] = {**LOCAL, "groups": GROUPS, "growth": "none"}
MEMORY: dict[str, Any] = {**CHAINS, "calibration_lr": 0.1}
SIDES = (
    Side(label="fedavg", method=FedAvg, fields=LOCAL),
    Side(label="fedgsp", method=FedGSP, fields=CHAINS),
    Side(label="hfedms, no memory", method=HFedMS, fields={**MEMORY, "memory": 0}),
    Side(label="hfedms", method=HFedMS, fields=MEMORY),
)
FULL = Plan(cases={"class window": {"seconds": 240.0}}, last=20, target=0.5, lrs=(0.03, 0.1), seeds=(0, 1, 2), tuning_seeds=(100,))
ABOUT = {
    "data": "digits", "model": "MLP 64-64-32", "devices": DEVICES, "window_s": WINDOW_S, "samples": SAMPLES, "classes": CLASSES, "is_common": True,
    "device": "median phone", "bps": 0.5e6, "latency_s": 0.05,
}  # fmt: skip


@lru_cache(maxsize=1)
def network() -> Network:
    """Equal devices on equal links."""
    names = [f"client{i}" for i in range(DEVICES)]
    return star(dict.fromkeys(names, phone(0.5, radio=RadioEnergy.measured("lte"))), root=CLOUD, up_bps=0.5e6, down_bps=0.5e6, latency_s=0.05)


def world(case: str, seed: int) -> Scenario:
    """The data of a seed, on the star."""
    stream = Stream(window_s=WINDOW_S, samples=SAMPLES, classes=CLASSES, is_common=True)
    task = make_task(TaskSettings(partition="iid", stream=stream), network().clients(network().root), seed,
                     model=zoo.mlp(inputs=64, hidden=(64, 32), classes=10))  # fmt: skip
    return Scenario(name="claim hfedms", network=network(), task=task, seed=seed)


def more(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean accuracy of the last 80 s (four windows), and megabytes over the radio per 100 s."""
    late = [p["accuracy"] for p in points if p["seconds"] > 160.0]
    end = points[-1] if points else None
    return {
        "late_accuracy": sum(late) / len(late) if late else 0.0,
        "mb_per_100_s": None if end is None else (end["bytes_up"] + end["bytes_down"]) / 1e6 / end["seconds"] * 100,
        "rounds": len(points),
    }


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan, more)
    if folder is not None:
        keep("hfedms", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [("late_accuracy", "mean accuracy, 160 to 240 s", ".3f"), ("mb_per_100_s", "MB per 100 s", ".1f"), ("rounds", "rounds", ".0f")]
    return table(outcome, columns)


if __name__ == "__main__":
    print(show(run(folder=RECORDS)))
