"""Claim of HFedMS: on streams whose classes come and go, memory of features keeps what FedGSP and FedAvg forget, with fewer bytes than FedGSP.

    python -m benchmarks.claims.hfedms

Digits, MLP 64-64-32, 30 devices on a star; all see the same three classes at a time, one of which is replaced every 20 s; 240 s, so that every class
has come and gone.

    python -m benchmarks.claims.hfedms --data writers

The same with one real person's digits per device, an MLP 784-64-32 and 5 Mbit/s.
"""

from __future__ import annotations

import time
from dataclasses import replace
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
from airloom.tasks import TaskSettings, load, make_task
from airloom.tasks.stream import Stream
from benchmarks.claims.harness import RECORDS, Claim, Outcome, Plan, Side, keep, main, play, table

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


@lru_cache(maxsize=2)
def network(bps: float = 0.5e6) -> Network:
    """Equal devices on equal links."""
    names = [f"client{i}" for i in range(DEVICES)]
    return star(dict.fromkeys(names, phone(0.5, radio=RadioEnergy.measured("lte"))), root=CLOUD, up_bps=bps, down_bps=bps, latency_s=0.05)


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
    columns = [
        ("late_accuracy", "mean accuracy, 160 to 240 s", ".3f"), ("mb_per_100_s", "MB per 100 s", ".1f"), ("rounds", "rounds", ".0f"),
        ("rounds_to_target", "rounds to 0.5", ".0f"), ("seconds_to_target", "seconds to 0.5", ".0f"),
    ]  # fmt: skip
    return table(outcome, columns)


HELD = 2000  # rows to validate and to test with
MNIST_MLP = zoo.mlp(inputs=784, hidden=(64, 32), classes=10)


def writers(case: str, seed: int) -> Scenario:
    """A real writer per device, on the star with faster links for the larger model."""
    settings = TaskSettings(
        dataset="mnist_writers", partition="natural", stream=Stream(window_s=WINDOW_S, samples=50, classes=CLASSES, is_common=True)
    )
    data = load("mnist_writers")
    parts = {f"{kind}_{part}": getattr(data, f"{kind}_{part}")[:HELD] for kind in ("x", "y", "natural") for part in ("validation", "test")}
    task = make_task(settings, network(5e6).clients(network().root), seed, model=MNIST_MLP, dataset=replace(data, **parts))
    return Scenario(name="claim hfedms, writers", network=network(5e6), task=task, seed=seed)


REAL = (
    Claim(
        module="hfedms", data="writers", world=writers, more=more, chance=0.2,
        sides=(*SIDES[:2], *[replace(side, fields={**side.fields, "calibration_lr": 0.03}) for side in SIDES[2:]]),
        plan=Plan(cases={"class window": {"seconds": 240.0}}, last=20, target=0.5, lrs=(0.03, 0.1), seeds=(0, 1, 2), tuning_seeds=(100,)),
        small=Plan(cases={"class window": {"seconds": 30.0}}, last=5, target=0.5, lrs=(0.1,), seeds=(0,), tuning_seeds=()),
        about={
            **ABOUT, "data": "mnist_writers", "partition": "natural", "model": "MLP 784-64-32", "samples": 50, "held_rows": HELD, "bps": 5e6,
        },
        columns=[
            ("late_accuracy", "mean accuracy, 160 to 240 s", ".3f"), ("mb_per_100_s", "MB per 100 s", ".0f"), ("rounds", "rounds", ".0f"),
            ("rounds_to_target", "rounds to 0.5", ".0f"), ("seconds_to_target", "seconds to 0.5", ".0f"),
        ],
    ),
)  # fmt: skip

if __name__ == "__main__":
    main(lambda: show(run(folder=RECORDS)), REAL)
