"""Claim of FedGSP: with skewed labels, chains in a growing number of groups learn in fewer rounds than averaging; and what that takes in seconds.

    python -m benchmarks.claims.fedgsp

Digits, MLP 64-64, 60 clients on a star, Dirichlet(0.1); half of the clients train in a round, 4 steps each; 4 groups at first, 32 after 25 rounds.
Once with equal rounds, once with equal seconds.

    python -m benchmarks.claims.fedgsp --data writers

The phones and cells of `writers` with an MLP: once the digits of one real person each, once the same images dealt by Dirichlet(0.1), 15 rounds.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from airloom.methods.fedavg import FedAvg
from airloom.methods.fedgsp import FedGSP
from airloom.methods.sequential_fl import SequentialFL
from airloom.models import zoo
from airloom.network.network import Network
from airloom.network.profiles import CLOUD, WHALE_FL
from airloom.network.topology import star
from airloom.scenarios.scenario import Scenario
from airloom.scenarios.writers import writers
from airloom.tasks import TaskSettings, make_task
from benchmarks.claims.harness import RECORDS, Claim, Outcome, Plan, Side, keep, main, play, table

CLIENTS, ALPHA, MINIMUM = 60, 0.1, 4
LOCAL: dict[str, Any] = {"local_steps": 4, "batch_size": 8, "fraction": 0.5}
GROUPS: dict[str, Any] = {**LOCAL, "groups": 4, "rate": 0.3}
SIDES = (
    Side(label="fedavg", method=FedAvg, fields=LOCAL),
    Side(label="fedgsp, random groups", method=FedGSP, fields={**GROUPS, "grouping": "random"}),
    Side(label="fedgsp", method=FedGSP, fields=GROUPS),
    Side(label="sequential_fl", method=SequentialFL, fields=LOCAL),
)
FULL = Plan(cases={"25 rounds": 25, "100 s": {"seconds": 100.0}}, last=5, target=0.8, lrs=(0.03, 0.1, 0.3), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={"15 rounds": 15}, last=3, target=0.8, lrs=(0.1,), seeds=(0, 1), tuning_seeds=())
ABOUT = {
    "data": "digits", "model": "MLP 64-64", "clients": CLIENTS, "alpha": ALPHA, "minimum": MINIMUM, "device": "xavier", "bps": 20e6,
    "latency_s": 0.01,
}  # fmt: skip


@lru_cache(maxsize=1)
def network() -> Network:
    """Equal devices on equal links, so that a chain of k takes k times as long as one visit."""
    names = [f"client{i}" for i in range(CLIENTS)]
    return star(dict.fromkeys(names, WHALE_FL["xavier"]), root=CLOUD, up_bps=20e6, down_bps=20e6, latency_s=0.01)


def world(case: str, seed: int) -> Scenario:
    """The data of a seed, on the star."""
    task = make_task(TaskSettings(partition="dirichlet", alpha=ALPHA, minimum=MINIMUM), network().clients(network().root), seed,
                     model=zoo.mlp(inputs=64, hidden=(64, 64), classes=10))  # fmt: skip
    return Scenario(name="claim fedgsp", network=network(), task=task, seed=seed)


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan)
    if folder is not None:
        keep("fedgsp", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [
        ("accuracy", "accuracy, last 5 rounds", ".3f"),
        ("rounds_to_target", "rounds to 0.8", ".1f"), ("seconds_to_target", "seconds to 0.8", ".1f"), ("seconds", "seconds in all", ".0f"),
    ]  # fmt: skip
    return table(outcome, columns)


MNIST_MLP = zoo.mlp(inputs=784, hidden=(64,), classes=10)
DEALT = {
    "a writer each": TaskSettings(dataset="mnist_writers", partition="natural"),
    "Dirichlet(0.1)": TaskSettings(dataset="mnist_writers", partition="dirichlet", alpha=0.1),
}


def phones(case: str, seed: int) -> Scenario:
    """Real digits on `writers`, with a small model."""
    scenario = writers(seed=seed, task=DEALT[case])
    return replace(scenario, task=replace(scenario.task, model=MNIST_MLP))


REAL = (
    Claim(
        module="fedgsp", data="writers", world=phones, sides=SIDES, chance=0.2,
        plan=Plan(cases=dict.fromkeys(DEALT, 15), last=5, target=0.85, lrs=(0.03, 0.1), seeds=(0, 1, 2), tuning_seeds=(100,)),
        small=Plan(cases={"Dirichlet(0.1)": 6}, last=2, target=0.85, lrs=(0.1,), seeds=(0,), tuning_seeds=()),
        about={"scenario": "writers", "data": "mnist_writers", "cases": list(DEALT), "model": "MLP 784-64"},
        columns=[
            ("accuracy", "accuracy, last 5 rounds", ".3f"), ("rounds_to_target", "rounds to 0.85", ".1f"),
            ("seconds_to_target", "seconds to 0.85", ".0f"), ("seconds", "seconds in all", ".0f"), ("bytes_up", "bytes up", ".3g"),
        ],
    ),
)  # fmt: skip

if __name__ == "__main__":
    main(lambda: show(run(folder=RECORDS)), REAL)
