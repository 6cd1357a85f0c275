"""Claim of Tequila: dead weights that act as a bias do no harm to ternary training, and folding them in costs nothing.

    AIRLOOM_DATA=... python -m benchmarks.claims.tequila

Tiny Shakespeare by characters, a transformer of 0.1 million weights, 100 steps in full precision and 200 with ternary weights; the gate is that the
mean test loss of Tequila is at most 1.005 times that of the same rounding without the bias (`absmean`).
"""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from airloom.methods.tequila import Tequila
from airloom.models import zoo
from airloom.network.profiles import CLOUD, WHALE_FL
from airloom.network.topology import star
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Point, Side, answer, keep, table

FIELDS: dict[str, Any] = {"group": 64, "pretrain_rounds": 2, "rounds": 4, "local_steps": 50, "batch_size": 16, "lr": 4e-3}
SIDES = tuple(Side(label=rule, method=Tequila, fields={"rule": rule, **FIELDS}, is_tuned=False) for rule in ("tequila", "absmean"))
FULL = Plan(cases={"shakespeare": 6}, seeds=(0, 1, 2))
ABOUT: dict[str, Any] = {
    "data": "shakespeare", "limit": 500, "model": "transformer, width 64, 2 blocks, context 80", "clients": 1, "device": "xavier",
    "client_bps": 20e6,
}  # fmt: skip


@lru_cache(maxsize=8)
def world(case: str, seed: int) -> Scenario:
    """One client with the text, on a wire."""
    network = star([WHALE_FL["xavier"]], root=CLOUD, up_bps=20e6, down_bps=20e6, latency_s=0.01)
    settings = TaskSettings(dataset="shakespeare", partition="iid", limit=500)
    model = zoo.transformer(vocabulary=65, width=64, heads=4, blocks=2, context=80)
    return Scenario(name="claim tequila", network=network, task=make_task(settings, network.clients("cloud"), seed, model=model), seed=seed)


def columns(scenario: Scenario, points: list[Point]) -> dict[str, Any]:
    """Test loss and accuracy at the end."""
    return {name: points[-1][name] for name in ("loss", "accuracy")}


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = answer(world, SIDES, plan, columns)
    if folder is not None:
        keep("tequila", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def is_not_inferior(outcome: Outcome) -> bool:
    """The gate."""
    return outcome.mean("shakespeare", "tequila", "loss") <= 1.005 * outcome.mean("shakespeare", "absmean", "loss")


def wins(outcome: Outcome) -> int:
    """Seeds in which the loss of Tequila is below that of `absmean`."""
    ours, plain = (outcome.each("shakespeare", label, "loss") for label in ("tequila", "absmean"))
    return sum(a < b for a, b in zip(ours, plain, strict=True))


def show(outcome: Outcome) -> str:
    """The table of the page."""
    return table(outcome, [("loss", "test loss", ".4f"), ("accuracy", "accuracy", ".4f")])


if __name__ == "__main__":
    made = run(folder=RECORDS)
    print(show(made))
    print("not inferior:", is_not_inferior(made), "lower in", wins(made), "seeds of", len(FULL.seeds))
