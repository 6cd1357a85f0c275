"""Claim of FSLoRA: with unequal ranks, random rank rows end at a higher accuracy than the first rows padded with zeros (HetLoRA), at equal bytes.

    python -m benchmarks.claims.fslora

Digits, an MLP with two hidden layers pretrained on the digits 0 to 4, LoRA pairs of rank 16 in all three layers and nothing else that is trained;
AdamW at the clients; 20 clients, Dirichlet(0.1), six of them in a round, budgets of 2, 4 and 8 rank rows. Also FlexLoRA, whose server decomposes
the products, and FedLoRA at the least budget.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from airloom.methods.fedlora import FedLoRA
from airloom.methods.flexlora import FlexLoRA
from airloom.methods.fslora import FSLoRA
from airloom.methods.hetlora import HetLoRA
from airloom.models import zoo
from airloom.models.lora import lora
from airloom.models.module import ModelSpec
from airloom.models.step import AdamW
from airloom.network.device import RadioEnergy
from airloom.network.network import Network
from airloom.network.profiles import CLOUD, phone
from airloom.network.topology import star
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.embedded import pretrained
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Side, keep, play, table

CASE = "k / r in {1/8, 1/4, 1/2}"
CLIENTS, RANK, BUDGETS, ALPHA, MINIMUM = 20, 16, (2, 4, 8), 0.1, 5
FIELDS: dict[str, Any] = {"local_steps": 10, "batch_size": 16, "fraction": 0.3, "optimizer": AdamW(weight_decay=0.0)}
SIDES = (
    Side(label="fedlora, k = 2", method=FedLoRA, fields=FIELDS),
    Side(label="hetlora, equal", method=HetLoRA, fields={**FIELDS, "weights": "equal"}),
    Side(label="hetlora, norm", method=HetLoRA, fields=FIELDS),
    Side(label="flexlora", method=FlexLoRA, fields=FIELDS),
    Side(label="fslora", method=FSLoRA, fields=FIELDS),
)
FULL = Plan(cases={CASE: 12}, last=3, target=0.55, lrs=(0.003, 0.01, 0.03), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={CASE: 4}, last=2, target=0.55, lrs=(0.01,), seeds=(0,), tuning_seeds=())
ABOUT = {
    "data": "digits", "model": "mlp 64-64-64-10, pretrained on the digits 0 to 4", "rank": RANK, "scale": 1.0, "budgets": list(BUDGETS),
    "clients": CLIENTS, "alpha": ALPHA, "minimum": MINIMUM, "device": "median phone", "client_bps": 5e6, "client_latency_s": 0.01,
}  # fmt: skip


@lru_cache(maxsize=1)
def model() -> ModelSpec:
    """Pairs in all layers of a pretrained MLP; scale 1 for every rank."""
    values = pretrained(zoo.mlp(inputs=64, hidden=(64, 64), classes=10))
    return lora(values.spec, rank=RANK, values=values)


@lru_cache(maxsize=1)
def network() -> Network:
    """Equal phones on equal links; they differ in the rank rows that they declare to have memory for."""
    equal = star([phone(0.5, radio=RadioEnergy.measured("lte"))] * CLIENTS, root=CLOUD, up_bps=5e6, down_bps=5e6, latency_s=0.01)
    clients = equal.clients(equal.root)
    budgets = {name: BUDGETS[i % len(BUDGETS)] for i, name in enumerate(clients)}
    places = [replace(place, facts={"rank": budgets[name]}) if name in budgets else place for name, place in equal.places.items()]
    return Network.of(places, equal.links.values())


def world(case: str, seed: int) -> Scenario:
    """The data of a seed, on the star."""
    names = network().clients(network().root)
    task = make_task(TaskSettings(alpha=ALPHA, minimum=MINIMUM), list(names), seed, model=model())
    return Scenario(name="claim fslora", network=network(), task=task, seed=seed)


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan)
    if folder is not None:
        keep("fslora", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [
        ("accuracy", "accuracy", ".3f"), ("rounds_to_target", "rounds to 0.55", ".1f"), ("seconds_to_target", "seconds to 0.55", ".1f"),
        ("seconds", "seconds in all", ".3f"), ("bytes_up", "bytes up", ".3g"),
    ]  # fmt: skip
    return table(outcome, columns)


if __name__ == "__main__":
    print(show(run(folder=RECORDS)))
