"""Claim of ordered participation: an order of the clients that balances their updates beats shuffling them, which beats drawing them anew.

    python -m benchmarks.claims.ordered_sgd

Digits, softmax regression, 60 clients of one class each of which 3 take part in a round, K = 5 steps of 8 rows, 200 rounds (ten epochs).

    python -m benchmarks.claims.ordered_sgd --data mnist

MNIST, MLP 784-64, 200 clients of one class each of which 10 take part in a round, 160 rounds (eight epochs).
"""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from airloom.methods.fedavg import FedAvg
from airloom.methods.ordered_sgd import OrderedSGD
from airloom.models import zoo
from airloom.network.network import Network
from airloom.network.profiles import CLOUD, WHALE_FL
from airloom.network.topology import star
from airloom.parts.balance import any_orderer
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from benchmarks.claims.harness import RECORDS, Claim, Outcome, Plan, Side, keep, main, play, table

CASE, CLIENTS, MINIMUM = "C = 1", 60, 5
FIELDS: dict[str, Any] = {"fraction": 0.05, "local_steps": 5, "batch_size": 8}
ORDERS = ("fixed", "shuffle_once", "random_reshuffle", "flip_flop", "grab", "pair_grab")
SIDES = (
    Side(label="fedavg", method=FedAvg, fields=FIELDS),
    *[Side(label=name, method=OrderedSGD, fields={**FIELDS, "order": any_orderer(name)}) for name in ORDERS],
)
FULL = Plan(cases={CASE: 200}, last=40, target=0.85, lrs=(0.03, 0.1, 0.3), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={CASE: 60}, last=20, target=0.85, lrs=(0.1,), seeds=(0,), tuning_seeds=())
ABOUT = {
    "data": "digits", "model": "softmax regression", "clients": CLIENTS, "partition": "exdir", "classes_per_client": 1, "alpha": 10.0,
    "minimum": MINIMUM, "device": "xavier", "client_bps": 20e6, "client_latency_s": 0.01,
}  # fmt: skip


@lru_cache(maxsize=2)
def network(clients: int = CLIENTS) -> Network:
    """A star of equal devices."""
    return star([WHALE_FL["xavier"]] * clients, root=CLOUD, up_bps=20e6, down_bps=20e6, latency_s=0.01)


def world(case: str, seed: int) -> Scenario:
    """The data of a seed, on the star."""
    settings = TaskSettings(partition="exdir", alpha=10.0, classes_per_client=1, minimum=MINIMUM)
    task = make_task(settings, network().clients("cloud"), seed, model=zoo.softmax_regression(inputs=64))
    return Scenario(name="claim ordered_sgd", network=network(), task=task, seed=seed)


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan)
    if folder is not None:
        keep("ordered_sgd", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [("accuracy", "accuracy", ".3f"), ("rounds_to_target", "rounds to 0.85", ".0f"), ("seconds_to_target", "seconds to 0.85", ".0f")]
    return table(outcome, columns)


MNIST_MLP = zoo.mlp(inputs=784, hidden=(64,), classes=10)


def shards(case: str, seed: int) -> Scenario:
    """MNIST in shards of one class, on a larger star."""
    settings = TaskSettings(dataset="mnist_writers", partition="shards", classes_per_client=1)
    task = make_task(settings, network(200).clients("cloud"), seed, model=MNIST_MLP)
    return Scenario(name="claim ordered_sgd, mnist", network=network(200), task=task, seed=seed)


REAL = (
    Claim(
        module="ordered_sgd", data="mnist", world=shards, chance=0.2,
        sides=tuple(side for side in SIDES if side.label in ("fedavg", "random_reshuffle", "grab", "pair_grab")),
        plan=Plan(cases={CASE: 160}, last=40, target=0.85, lrs=(0.1, 0.3), seeds=(0, 1, 2), tuning_seeds=(100,)),
        small=Plan(cases={CASE: 20}, last=5, target=0.85, lrs=(0.1,), seeds=(0,), tuning_seeds=()),
        about={**ABOUT, "data": "mnist_writers", "model": "MLP 784-64", "clients": 200, "partition": "shards", "alpha": None, "minimum": None},
        columns=[("accuracy", "accuracy", ".3f"), ("rounds_to_target", "rounds to 0.85", ".0f"), ("seconds_to_target", "seconds to 0.85", ".0f")],
    ),
)  # fmt: skip

if __name__ == "__main__":
    main(lambda: show(run(folder=RECORDS)), REAL)
