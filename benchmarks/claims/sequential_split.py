"""Claim of sequential split learning: on extremely heterogeneous data it beats FedAvg as sequential FL does; and what the cut costs.

    python -m benchmarks.claims.sequential_split

Digits, MLP 64-64-32, 100 clients of one class each (ExDir(1, 10)) of which 10 take part in a round, K = 5 steps of 10 rows, 40 rounds. The cuts run
on the same star of equal boards, at 20 Mbit/s and, for the costs, some rounds at 0.2 Mbit/s.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from airloom.methods.fedavg import FedAvg
from airloom.methods.sequential_fl import SequentialFL
from airloom.methods.sequential_split import SequentialSplit
from airloom.models import zoo
from airloom.network.device import Device
from airloom.network.network import Network
from airloom.network.profiles import CLOUD
from airloom.network.topology import star
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Point, Side, keep, play, table

CLIENTS, ALPHA, MINIMUM = 100, 10.0, 5
CASES = {"20 Mbit/s": 20e6, "0.2 Mbit/s": 0.2e6}
FIELDS: dict[str, Any] = {"fraction": 0.1, "local_steps": 5, "batch_size": 10}
SIDES = (
    Side(label="fedavg", method=FedAvg, fields=FIELDS),
    Side(label="sequential_fl", method=SequentialFL, fields=FIELDS),
    Side(label="split, cut 1", method=SequentialSplit, fields={**FIELDS, "cut": 1}),
    Side(label="split, cut 2", method=SequentialSplit, fields={**FIELDS, "cut": 2}),
    Side(label="split, cut 2, clipped halves", method=SequentialSplit, fields={**FIELDS, "cut": 2, "clip_norm": 1.0}),
)
FULL = Plan(cases={"20 Mbit/s": 40, "0.2 Mbit/s": 5}, last=10, target=0.8, lrs=(0.1, 0.3), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={"20 Mbit/s": 40}, last=10, target=0.8, lrs=(0.1,), seeds=(0,), tuning_seeds=())
BOARD = Device(profile="small board", speed_flops_per_s=50e6, efficiency=1.0, memory_bytes=2e9, baseline_bytes=0.5e9, power_w=3.0, idle_power_w=0.5)
ABOUT = {
    "data": "digits", "model": "mlp 64-64-32", "clients": CLIENTS, "partition": "exdir", "classes_per_client": 1, "alpha": ALPHA, "minimum": MINIMUM,
    "speed_flops_per_s": BOARD.speed_flops_per_s, "client_bps": CASES, "client_latency_s": 0.01,
}  # fmt: skip


@lru_cache(maxsize=2)
def network(case: str) -> Network:
    """A star of equal boards."""
    return star([BOARD] * CLIENTS, root=CLOUD, up_bps=CASES[case], down_bps=CASES[case], latency_s=0.01)


def world(case: str, seed: int) -> Scenario:
    """The data of a seed, on the star."""
    settings = TaskSettings(partition="exdir", alpha=ALPHA, classes_per_client=1, minimum=MINIMUM)
    task = make_task(settings, network(case).clients("cloud"), seed, model=zoo.mlp(inputs=64, hidden=(64, 32), classes=10))
    return Scenario(name="claim sequential_split", network=network(case), task=task, seed=seed)


def rounds_of(points: Sequence[Point]) -> Mapping[str, float | None]:
    """What a round costs: seconds, bytes on the clients' links, joules of the clients."""
    n, end = len(points), points[-1] if points else {}
    if not n:
        return {"round_s": None, "round_kb": None, "round_j": None}
    return {"round_s": end["seconds"] / n, "round_kb": (end["bytes_up"] + end["bytes_down"]) / n / 1e3, "round_j": end["joules"] / n}


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan, rounds_of)
    if folder is not None:
        keep("sequential_split", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [
        ("accuracy", "accuracy", ".3f"), ("rounds_to_target", "rounds to 0.8", ".0f"), ("seconds_to_target", "seconds to 0.8", ".0f"),
        ("round_s", "s per round", ".2f"), ("round_kb", "kB per round", ".0f"), ("round_j", "J per round", ".3f"),
    ]  # fmt: skip
    return table(outcome, columns)


if __name__ == "__main__":
    print(show(run(folder=RECORDS)))
