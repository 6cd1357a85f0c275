"""Claim of sequential federated learning: on extremely heterogeneous data a chain beats the mean, and by more the fewer classes a client has.

    python -m benchmarks.claims.sequential_fl

Digits, MLP 64-64, 100 clients of which 10 take part in a round, K = 5 steps, ExDir(C, 10) with C = 1, 2, 10 classes per client, 150 rounds.
"""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from airloom.methods.fedavg import FedAvg
from airloom.methods.sequential_fl import SequentialFL
from airloom.models import zoo
from airloom.network.network import Network
from airloom.network.profiles import CLOUD, WHALE_FL
from airloom.network.topology import star
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Side, keep, play, table

CASES = {"C = 1": 1, "C = 2": 2, "C = 10": 10}  # classes per client
CLIENTS, ALPHA, MINIMUM = 100, 10.0, 5
FIELDS: dict[str, Any] = {"fraction": 0.1, "local_steps": 5, "batch_size": 10}
SIDES = (Side(label="fedavg", method=FedAvg, fields=FIELDS), Side(label="sequential_fl", method=SequentialFL, fields=FIELDS))
FULL = Plan(cases=dict.fromkeys(CASES, 150), last=20, target=0.8, lrs=(0.03, 0.1, 0.3, 1.0), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={"C = 1": 60}, last=10, target=0.8, lrs=(0.1,), seeds=(0, 1, 2), tuning_seeds=())
ABOUT = {
    "data": "digits", "model": "mlp 64-64", "clients": CLIENTS, "partition": "exdir", "alpha": ALPHA, "minimum": MINIMUM,
    "device": "xavier", "client_bps": 20e6, "client_latency_s": 0.01,
}  # fmt: skip


@lru_cache(maxsize=1)
def network() -> Network:
    """A star of equal devices: every hop of a chain goes over the server."""
    return star([WHALE_FL["xavier"]] * CLIENTS, root=CLOUD, up_bps=20e6, down_bps=20e6, latency_s=0.01)


def world(case: str, seed: int) -> Scenario:
    """The data of a case and a seed, on the star."""
    settings = TaskSettings(partition="exdir", alpha=ALPHA, classes_per_client=CASES[case], minimum=MINIMUM)
    task = make_task(settings, network().clients("cloud"), seed, model=zoo.mlp(inputs=64, hidden=(64, 64), classes=10))
    return Scenario(name="claim sequential_fl", network=network(), task=task, seed=seed)


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan)
    if folder is not None:
        keep("sequential_fl", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def gap(outcome: Outcome, case: str) -> float:
    """By how much the chain is more accurate."""
    return outcome.mean(case, "sequential_fl", "accuracy") - outcome.mean(case, "fedavg", "accuracy")


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [("accuracy", "accuracy", ".3f"), ("rounds_to_target", "rounds to 0.8", ".1f"), ("seconds_to_target", "seconds to 0.8", ".0f")]
    return table(outcome, columns)


if __name__ == "__main__":
    print(show(run(folder=RECORDS)))
