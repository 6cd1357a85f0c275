"""Claim of FedEx: overlap and selection together reach a target sooner than selection alone, and selection sooner than none.

    python -m benchmarks.claims.fedex

Digits, MLP 64-32, 20 boards of five kinds on links of 0.1, 0.05, 0.03 and 0.02 Mbit/s, so that an upload takes as long as some steps to some rounds
of them; Dirichlet(0.3), 10 clients per round, K = 10 steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from airloom.methods.fedavg import FedAvg
from airloom.methods.fedex import FedEx
from airloom.methods.oort import Oort
from airloom.models import zoo
from airloom.network.network import Network
from airloom.network.profiles import CLOUD, WHALE_FL
from airloom.network.topology import star
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Point, Side, keep, play, table

RATES_BPS = (0.1e6, 0.05e6, 0.03e6, 0.02e6)
HALF: dict[str, Any] = {"fraction": 0.5, "local_steps": 10, "batch_size": 16}
EARLY: dict[str, Any] = {"first_overlap": 0, "cka_min": -1.0}  # from the second round on, whatever the similarity
SIDES = (
    Side(label="fedavg", method=FedAvg, fields=HALF),
    Side(label="oort", method=Oort, fields=HALF),
    Side(label="fedex, S_max = 0", method=FedEx, fields={**HALF, "ceiling": 0}),
    Side(label="fedex, S_max = 2", method=FedEx, fields={**HALF, "ceiling": 2}),
    Side(label="fedex, S_max = 8", method=FedEx, fields={**HALF, "ceiling": 8}),
    Side(label="fedex, S_max = 8, at once", method=FedEx, fields={**HALF, "ceiling": 8, **EARLY}),
    Side(label="uncorrected, at once", method=FedEx, fields={**HALF, "ceiling": 8, "form": "uncorrected", **EARLY}),
    Side(label="all clients, S_max = K, at once", method=FedEx, fields={**HALF, "fraction": 1.0, "ceiling": 10, **EARLY}),
)
FULL = Plan(cases={"digits": {"seconds": 600}}, last=5, target=0.94, lrs=(0.03, 0.1, 0.3), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={"digits": {"seconds": 60}}, last=5, target=0.94, lrs=(0.1,), seeds=(0,), tuning_seeds=())
ABOUT = {
    "data": "digits", "model": "mlp 64-32", "clients": 20, "partition": "dirichlet", "alpha": 0.3, "devices": list(WHALE_FL),
    "client_bps": list(RATES_BPS), "client_latency_s": 0.01,
}  # fmt: skip


@lru_cache(maxsize=1)
def network() -> Network:
    """Each kind of board at each rate."""
    boards = [device for device in list(WHALE_FL.values())[:5] for _ in RATES_BPS]
    rates = [rate for _ in range(5) for rate in RATES_BPS]
    return star(boards, root=CLOUD, up_bps=rates, down_bps=[10 * rate for rate in rates], latency_s=0.01)


def world(case: str, seed: int) -> Scenario:
    """The data of a seed, on the star."""
    settings = TaskSettings(partition="dirichlet", alpha=0.3)
    task = make_task(settings, network().clients("cloud"), seed, model=zoo.mlp(inputs=64, hidden=(32,), classes=10))
    return Scenario(name="claim fedex", network=network(), task=task, seed=seed)


def rounds_of(points: Sequence[Point]) -> Mapping[str, float | None]:
    """How many rounds there were, how long they are, and how much was done ahead in each."""
    n = len(points)
    return {
        "rounds": n,
        "round_s": points[-1]["seconds"] / n if n else None,
        "ahead": sum([point.get("ahead", 0) for point in points]) / n if n else None,
    }


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan, rounds_of)
    if folder is not None:
        keep("fedex", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [
        ("seconds_to_target", "seconds to 0.94", ".0f"), ("rounds_to_target", "rounds to 0.94", ".1f"), ("accuracy", "accuracy at the end", ".3f"),
        ("round_s", "s per round", ".2f"), ("ahead", "steps ahead per round", ".1f"),
    ]  # fmt: skip
    return table(outcome, columns)


if __name__ == "__main__":
    print(show(run(folder=RECORDS)))
