"""Claim of FSLoRA: with unequal ranks, random rank rows end at a higher accuracy than the first rows padded with zeros (HetLoRA), at equal bytes.

    python -m benchmarks.claims.fslora

Digits in 16 patches, a two-layer transformer pretrained on the digits 0 to 4, LoRA pairs of rank 16 in query, value and feed-forward layers, head
trained in full; 20 clients, Dirichlet(0.1), eight of them in a round, budgets of 2, 4 and 8 rank rows. Also FlexLoRA, whose server decomposes the
products, and FedLoRA at the least budget.
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
from airloom.models.lora import lora
from airloom.models.module import ModelSpec
from airloom.network.device import RadioEnergy
from airloom.network.network import Network
from airloom.network.profiles import CLOUD, phone
from airloom.network.topology import star
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.embedded import embedded
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Side, keep, play, table

CASE = "k / r in {1/8, 1/4, 1/2}"
CLIENTS, RANK, BUDGETS, ALPHA, MINIMUM = 20, 16, (2, 4, 8), 0.1, 5
FIELDS: dict[str, Any] = {"local_steps": 5, "batch_size": 16, "fraction": 0.4}
SIDES = (
    Side(label="fedlora, k = 2", method=FedLoRA, fields=FIELDS),
    Side(label="hetlora, equal", method=HetLoRA, fields={**FIELDS, "weights": "equal"}),
    Side(label="hetlora, norm", method=HetLoRA, fields=FIELDS),
    Side(label="flexlora", method=FlexLoRA, fields=FIELDS),
    Side(label="fslora", method=FSLoRA, fields=FIELDS),
)
FULL = Plan(cases={CASE: 18}, last=5, target=0.5, lrs=(0.01, 0.03, 0.1, 0.3), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={CASE: 4}, last=2, target=0.5, lrs=(0.03,), seeds=(0,), tuning_seeds=())
ABOUT = {
    "data": "digits", "model": "patch transformer, pretrained on the digits 0 to 4", "rank": RANK, "scale": 4.0, "budgets": list(BUDGETS),
    "clients": CLIENTS, "alpha": ALPHA, "minimum": MINIMUM, "device": "median phone", "client_bps": 5e6, "client_latency_s": 0.01,
}  # fmt: skip


@lru_cache(maxsize=1)
def model() -> ModelSpec:
    """Pairs around the embedded transformer; scale 4 for every rank."""
    values = embedded()
    return lora(values.spec, rank=RANK, alpha=4.0 * RANK, targets=["query", "value", "up", "down"], train=["classifier"], values=values)


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
        ("accuracy", "accuracy", ".3f"), ("rounds_to_target", "rounds to 0.5", ".1f"), ("seconds_to_target", "seconds to 0.5", ".1f"),
        ("seconds", "seconds in all", ".3f"), ("bytes_up", "bytes up", ".3g"),
    ]  # fmt: skip
    return table(outcome, columns)


if __name__ == "__main__":
    print(show(run(folder=RECORDS)))
