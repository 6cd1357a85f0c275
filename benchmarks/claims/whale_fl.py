"""Claim of WHALE-FL: adaptive widths reach a target sooner than fixed ones and than the whole model; widths grow from the smallest and then vary.

    python -m benchmarks.claims.whale_fl [--data fashion_mnist]

Digits, a network of 64 hidden units, the 20 boards of `lab` (five speeds times four rates), two shards of labels each. In the case "busy" every
board is slowed down two- to fourfold for a third of the time. All sides get the same simulated seconds. With Fashion-MNIST a small convolutional
network, three shards of labels each.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from airloom.methods.fedrolex import FedRolex
from airloom.methods.heterofl import HeteroFL
from airloom.methods.whale_fl import WhaleFL
from airloom.models import zoo
from airloom.models.module import ModelSpec
from airloom.network.load import MarkovLoad
from airloom.network.profiles import CLOUD
from airloom.network.topology import lab
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from benchmarks.claims.harness import RECORDS, Claim, Outcome, Plan, Point, Side, keep, main, play, table

LABELS = 2  # shards per device
FIELDS: dict[str, Any] = {"local_steps": 5, "batch_size": 32}
SIDES = (
    Side(label="whale_fl", method=WhaleFL, fields={**FIELDS, "delay": 2}),
    Side(label="heterofl", method=HeteroFL, fields=FIELDS),
    Side(label="random", method=HeteroFL, fields={**FIELDS, "sizes": "random"}),
    Side(label="fedrolex", method=FedRolex, fields=FIELDS),
    Side(label="full", method=HeteroFL, fields={**FIELDS, "sizes": "full"}),
)
FULL = Plan(cases={"busy": {"seconds": 150.0}}, last=1, target=0.75, lrs=(0.3, 1.0), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={"busy": {"seconds": 40.0}}, last=1, target=0.6, lrs=(0.3,), seeds=(0,), tuning_seeds=())
ABOUT = {"data": "digits", "model": "mlp 64-64-10", "network": "lab", "shards_per_device": LABELS, "busy": {"free_s": 40.0, "busy_s": 20.0}}


@lru_cache(maxsize=1)
def model() -> ModelSpec:
    """A small network for 8 x 8 pixels."""
    return zoo.mlp(inputs=64, hidden=(64,), classes=10)


def world(case: str, seed: int) -> Scenario:
    """The boards, free or at times busy, with the data of a seed."""
    network = lab(root=CLOUD)
    if case == "busy":
        network = replace(network, load=MarkovLoad(**ABOUT["busy"]))  # type: ignore[arg-type]
    names = list(network.clients(network.root))
    task = make_task(TaskSettings(partition="shards", classes_per_client=LABELS), names, seed, model=model())
    return Scenario(name="claim whale_fl", network=network, task=task, seed=seed)


@lru_cache(maxsize=1)
def convolutions() -> ModelSpec:
    """A small convolutional network for 28 x 28 pixels."""
    return zoo.cnn(widths=(8, 16), hidden=64)


def fashion(case: str, seed: int) -> Scenario:
    """Clothes at the boards, at times busy."""
    network = replace(lab(root=CLOUD), load=MarkovLoad(**ABOUT["busy"]))  # type: ignore[arg-type]
    settings = TaskSettings(dataset="fashion_mnist", limit=2000, partition="shards", classes_per_client=3)
    task = make_task(settings, list(network.clients(network.root)), seed, model=convolutions())
    return Scenario(name="claim whale_fl", network=network, task=task, seed=seed)


def more(points: list[Point]) -> dict[str, Any]:
    """Rounds, their seconds, and the widths at the start, on average and at most."""
    if not points:
        return {"rounds": None, "round_s": None, "rate_first": None, "rate": None, "rate_most": None}
    rates = [point["rate"] for point in points]
    return {
        "rounds": len(points),
        "round_s": points[-1]["seconds"] / len(points),
        "rate_first": rates[0],
        "rate": float(np.mean(rates)),
        "rate_most": max(rates),
    }


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan, more)
    if folder is not None:
        keep("whale_fl", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


COLUMNS = (
    ("rounds", "rounds", ".0f"), ("round_s", "s per round", ".2f"), ("rate_first", "first mean width", ".3f"), ("rate", "mean width", ".3f"),
    ("rate_most", "largest mean width", ".3f"),
)  # fmt: skip
REAL = (
    Claim(
        module="whale_fl", data="fashion_mnist", world=fashion, more=more,
        sides=(*SIDES, Side(label="whale_fl, as published", method=WhaleFL, fields={**FIELDS, "delay": 2, "mode": "paper"})),
        plan=Plan(cases={"fashion_mnist": {"seconds": 250.0}}, last=1, target=0.5, lrs=(0.1, 0.3), seeds=(0, 1, 2), tuning_seeds=(100,)),
        small=Plan(cases={"fashion_mnist": {"seconds": 60.0}}, last=1, target=0.5, lrs=(0.3,), seeds=(0,)),
        chance=0.2,
        about={
            "data": "fashion_mnist, 2,000 rows of each part", "model": "cnn 8-16-64-10", "network": "lab", "shards_per_device": 3,
            "busy": ABOUT["busy"],
        },
        columns=(("seconds_to_target", "seconds to 0.5", ".0f"), ("accuracy", "accuracy after 250 s", ".3f"), *COLUMNS),
    ),
)  # fmt: skip


def show(outcome: Outcome) -> str:
    """The table of the page."""
    return table(outcome, [("seconds_to_target", "seconds to 0.75", ".0f"), ("accuracy", "accuracy after 150 s", ".3f"), *COLUMNS])


if __name__ == "__main__":
    main(lambda: show(run(folder=RECORDS)), REAL)
