"""Claim of FedGS: averaging at every step over chosen sets reaches a target in fewer rounds than FedAvg, and than over random sets.

    python -m benchmarks.claims.fedgs

Digits, MLP 64-64, 5 factories of 16 devices, Dirichlet(0.1); 6 devices per factory and step, 10 steps per round, batches of 8.

    python -m benchmarks.claims.fedgs --data writers

The scenario `factory_stream` with an MLP: 5 factories of 70 machines, each with one real person's digits, three classes of them at a time.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from airloom.methods.fedavg import FedAvg
from airloom.methods.fedgs import FedGS
from airloom.methods.hfedavg import HFedAvg
from airloom.models import zoo
from airloom.network.network import Network
from airloom.network.profiles import CLOUD, EDGE_BOX, WHALE_FL
from airloom.network.topology import Level, tree
from airloom.scenarios.factory_stream import factory_stream
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from benchmarks.claims.harness import RECORDS, Claim, Outcome, Plan, Side, keep, main, play, table

FACTORIES, DEVICES, ALPHA, MINIMUM, CHOSEN, STEPS, BATCH = 5, 16, 0.1, 4, 6, 10, 8
LOCAL: dict[str, Any] = {"local_steps": STEPS, "batch_size": BATCH}
STEPWISE: dict[str, Any] = {"group_rounds": STEPS, "devices": CHOSEN, "batch_size": BATCH}
SIDES = (
    Side(label="fedavg", method=FedAvg, fields={**LOCAL, "fraction": CHOSEN / DEVICES, "weights": "equal"}),
    Side(label="hfedavg", method=HFedAvg, fields={**LOCAL, "group_rounds": 1, "weights": "equal"}),
    Side(label="fedgs, random sets", method=FedGS, fields={**STEPWISE, "select": "random"}),
    Side(label="fedgs", method=FedGS, fields=STEPWISE),
    Side(label="fedgs, exact swaps", method=FedGS, fields={**STEPWISE, "exact_swap": True}),
)
FULL = Plan(cases={"alpha = 0.1": 12}, last=3, target=0.8, lrs=(0.1, 0.2, 0.4), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={"alpha = 0.1": 5}, last=2, target=0.8, lrs=(0.4,), seeds=(0,), tuning_seeds=())
ABOUT = {
    "data": "digits", "model": "MLP 64-64", "factories": FACTORIES, "devices_per_factory": DEVICES, "alpha": ALPHA, "minimum": MINIMUM,
    "device": "xavier", "lan_bps": 100e6, "lan_latency_s": 0.001, "wan_bps": 20e6, "wan_latency_s": 0.02,
}  # fmt: skip


@lru_cache(maxsize=1)
def network() -> Network:
    """Equal devices on fast links inside a factory, and a slower one to the cloud."""
    return tree(
        [
            Level(name="edge", count=FACTORIES, devices=EDGE_BOX, up_bps=20e6, down_bps=20e6, latency_s=0.02, wired=True),
            Level(name="machine", count=DEVICES, devices=WHALE_FL["xavier"], up_bps=100e6, down_bps=100e6, latency_s=0.001),
        ],
        root=CLOUD,
    )


def world(case: str, seed: int) -> Scenario:
    """The data of a seed, on the tree."""
    task = make_task(TaskSettings(partition="dirichlet", alpha=ALPHA, minimum=MINIMUM), network().clients("cloud"), seed,
                     model=zoo.mlp(inputs=64, hidden=(64, 64), classes=10))  # fmt: skip
    return Scenario(name="claim fedgs", network=network(), task=task, seed=seed)


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan)
    if folder is not None:
        keep("fedgs", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [
        ("accuracy", "accuracy, rounds 10 to 12", ".3f"),
        ("rounds_to_target", "rounds to 0.8", ".1f"), ("seconds_to_target", "seconds to 0.8", ".1f"),
    ]  # fmt: skip
    return table(outcome, columns)


MNIST_MLP = zoo.mlp(inputs=784, hidden=(64,), classes=10)


def streams(case: str, seed: int) -> Scenario:
    """Real writers on `factory_stream`, with a small model."""
    scenario = factory_stream(seed=seed)
    return replace(scenario, task=replace(scenario.task, model=MNIST_MLP))


WHOLE = {**LOCAL, "fraction": CHOSEN / 70, "weights": "equal"}
REAL = (
    Claim(
        module="fedgs", data="writers", world=streams, chance=0.2,
        sides=(
            Side(label="fedavg", method=FedAvg, fields=WHOLE),
            Side(label="hfedavg, all machines", method=HFedAvg, fields={**LOCAL, "group_rounds": 1, "weights": "equal"}),
            *SIDES[2:4],
        ),
        plan=Plan(cases={"3 classes at a time": 12}, last=3, target=0.85, lrs=(0.1, 0.2), seeds=(0, 1, 2), tuning_seeds=(100,)),
        small=Plan(cases={"3 classes at a time": 3}, last=1, target=0.85, lrs=(0.2,), seeds=(0,), tuning_seeds=()),
        about={"scenario": "factory_stream", "data": "mnist_writers", "partition": "natural", "model": "MLP 784-64", "factories": 5, "machines": 70},
        columns=[
            ("accuracy", "accuracy, rounds 10 to 12", ".3f"), ("rounds_to_target", "rounds to 0.85", ".1f"),
            ("seconds_to_target", "seconds to 0.85", ".1f"), ("seconds", "seconds in all", ".1f"), ("joules", "J", ".0f"),
        ],
    ),
)  # fmt: skip

if __name__ == "__main__":
    main(lambda: show(run(folder=RECORDS)), REAL)
