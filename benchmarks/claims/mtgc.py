"""Claim of MTGC: both corrections beat either one, and either one beats HFedAvg; z helps against client skew, y against group skew.

    python -m benchmarks.claims.mtgc

Digits, softmax regression, 5 groups of 5 clients, Dirichlet(0.1) over groups, over clients, or both; E = 5 group rounds of H = 20 steps.
"""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from airloom.methods.hfedavg import HFedAvg
from airloom.methods.mtgc import MTGC
from airloom.models import zoo
from airloom.network.network import Network
from airloom.network.profiles import CLOUD, EDGE_BOX, WHALE_FL
from airloom.network.topology import Level, tree
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Side, keep, play, table

CASES = {"client skew": "groups", "group skew": "clients", "both": ""}  # case -> the level of the tree that is iid
GROUPS, CLIENTS, ALPHA, MINIMUM = 5, 5, 0.1, 5
FIELDS: dict[str, Any] = {"group_rounds": 5, "local_steps": 20, "batch_size": 16}
SIDES = (
    Side(label="hfedavg", method=HFedAvg, fields={**FIELDS, "weights": "equal"}),
    *[
        Side(label=label, method=MTGC, fields={**FIELDS, "correct": correct})
        for label, correct in (("z only", "z"), ("y only", "y"), ("mtgc", "both"))
    ],
)
FULL = Plan(
    cases={"client skew": 5, "group skew": 6, "both": 8}, last=3, target=0.85, lrs=(0.3, 1.0, 3.0, 10.0), seeds=(0, 1, 2), tuning_seeds=(100,)
)
SMALL = Plan(cases={"both": 3}, last=1, target=0.85, lrs=(1.0,), seeds=(0, 1, 2), tuning_seeds=())
ABOUT = {
    "data": "digits", "model": "softmax regression", "groups": GROUPS, "clients_per_group": CLIENTS, "alpha": ALPHA, "minimum": MINIMUM,
    "device": "xavier", "client_bps": 20e6, "client_latency_s": 0.01, "backhaul_bps": 1e9, "backhaul_latency_s": 0.01,
}  # fmt: skip


@lru_cache(maxsize=1)
def network() -> Network:
    """Equal devices on equal links, so that rounds and seconds tell the same."""
    return tree(
        [
            Level(name="edge", count=GROUPS, devices=EDGE_BOX, up_bps=1e9, down_bps=1e9, latency_s=0.01, wired=True),
            Level(name="client", count=CLIENTS, devices=WHALE_FL["xavier"], up_bps=20e6, down_bps=20e6, latency_s=0.01),
        ],
        root=CLOUD,
    )


def world(case: str, seed: int) -> Scenario:
    """The data of a case and a seed, on the tree."""
    names = network().clients("cloud")
    settings = TaskSettings(partition="two_level", alpha=ALPHA, group_alpha=ALPHA, iid_level=CASES[case], minimum=MINIMUM)
    task = make_task(settings, names, seed, model=zoo.softmax_regression(inputs=64, classes=10), groups=[CLIENTS] * GROUPS)
    return Scenario(name="claim mtgc", network=network(), task=task, seed=seed)


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan)
    if folder is not None:
        keep("mtgc", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [("accuracy", "accuracy", ".3f"), ("rounds_to_target", "rounds to 0.85", ".1f"), ("seconds_to_target", "seconds to 0.85", ".0f")]
    return table(outcome, columns)


if __name__ == "__main__":
    print(show(run(folder=RECORDS)))
