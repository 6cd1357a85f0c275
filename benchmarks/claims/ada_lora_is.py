"""Claim of AdaLoRA-IS: choosing sampling probabilities and ranks together takes less time to a target than choosing either, or neither.

    python -m benchmarks.claims.ada_lora_is [--data fashion_mnist]

Twenty phones with budgets of 4, 8 and 16 rank rows in one cell; digits by Dirichlet(0.3), the pretrained MLP and the pairs of rank 16 of the claim of
FSLoRA; unequal sizes, speeds and rates. With Fashion-MNIST an MLP pretrained on its classes 0 to 4, and more baselines.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from airloom.methods.ada_lora_is import AdaLoRAIS
from airloom.methods.flexlora import FlexLoRA
from airloom.methods.fslora import FSLoRA
from airloom.methods.hetlora import HetLoRA
from airloom.models import zoo
from airloom.models.lora import lora
from airloom.models.module import ModelSpec
from airloom.models.step import AdamW
from airloom.network.access import cells
from airloom.network.network import Network
from airloom.network.profiles import CLOUD, EDGE_BOX, phones
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from benchmarks.claims.fslora import RANK, fashion_values, model
from benchmarks.claims.harness import RECORDS, Claim, Outcome, Plan, Side, keep, main, play, table

CASE = "20 phones, one cell"
DEVICES, BUDGETS = 20, (4, 8, 16)
STEPS: dict[str, Any] = {"local_steps": 10, "batch_size": 16, "optimizer": AdamW(weight_decay=0.0)}
PLANNED: dict[str, Any] = {**STEPS, "nu": 0.9, "beta": 8.0, "floor": 0.2}
SIDES = (
    Side(label="uniform", method=AdaLoRAIS, fields={**STEPS, "scheme": "fix", "q": 0.3, "ratio": "budget"}),
    Side(label="q only", method=AdaLoRAIS, fields={**PLANNED, "ratio": "budget"}),
    Side(label="k only", method=AdaLoRAIS, fields={**PLANNED, "scheme": "fix", "q": 0.3}),
    Side(label="ada_lora_is", method=AdaLoRAIS, fields=PLANNED),
    Side(label="fslora", method=FSLoRA, fields={**STEPS, "fraction": 0.3}),
)
FULL = Plan(cases={CASE: 12}, last=3, target=0.6, lrs=(0.003, 0.01, 0.03), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={CASE: 4}, last=2, target=0.6, lrs=(0.01,), seeds=(0,), tuning_seeds=())
ABOUT = {
    "data": "digits", "model": "mlp 64-64-64-10, pretrained on the digits 0 to 4", "rank": RANK, "scale": 1.0, "budgets": list(BUDGETS),
    "devices": DEVICES, "alpha": 0.3, "cell": "20 MHz, 150 m, tdma",
}  # fmt: skip


def network(seed: int) -> Network:
    """Phones of a seed in their cell; they differ in the rank rows that they declare to have memory for."""
    radio = cells(phones(DEVICES, seed=seed), base_stations=1, base_station=EDGE_BOX, root=CLOUD, seed=seed, framing_bytes=64, detect_s=1.0)
    names = radio.clients(radio.root)
    budgets = {name: BUDGETS[i % len(BUDGETS)] for i, name in enumerate(names)}
    places = [replace(place, facts={"rank": budgets[name]}) if name in budgets else place for name, place in radio.places.items()]
    return Network.of(places, radio.links.values(), churn=radio.churn, framing_bytes=64, detect_s=1.0, unreachable=radio.unreachable)


def world(case: str, seed: int) -> Scenario:
    """Digits at the phones of a seed."""
    net = network(seed)
    task = make_task(TaskSettings(alpha=0.3), list(net.clients(net.root)), seed, model=model())
    return Scenario(name="claim ada_lora_is", network=net, task=task, seed=seed)


@lru_cache(maxsize=1)
def fashion_model() -> ModelSpec:
    """Pairs in all layers of an MLP that knows half of the classes."""
    return lora(zoo.mlp(inputs=784, hidden=(64, 64)), rank=RANK, values=fashion_values(zoo.mlp(inputs=784, hidden=(64, 64))))


def fashion(case: str, seed: int) -> Scenario:
    """Clothes at the phones of a seed."""
    net = network(seed)
    task = make_task(TaskSettings(dataset="fashion_mnist", limit=2000, alpha=0.3), list(net.clients(net.root)), seed, model=fashion_model())
    return Scenario(name="claim ada_lora_is", network=net, task=task, seed=seed)


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan)
    if folder is not None:
        keep("ada_lora_is", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def fixed(scheme: str, **more: Any) -> dict[str, Any]:
    """Fields of a scheme of sampling with the ranks that the memory allows."""
    return {**STEPS, "scheme": scheme, "ratio": "budget", **more}


REAL = (
    Claim(
        module="ada_lora_is", data="fashion_mnist", world=fashion,
        sides=(
            *[Side(label=f"{scheme}, fixed ranks", method=AdaLoRAIS, fields=fixed(scheme)) for scheme in ("uniform", "weight", "full")],
            Side(label="q = 0.3, fixed ranks", method=AdaLoRAIS, fields=fixed("fix", q=0.3)),
            *SIDES[1:4],
            Side(label="ada_lora_is, equal shares", method=AdaLoRAIS, fields={**PLANNED, "bandwidth": "equal"}),
            *[Side(label=m.__name__.lower(), method=m, fields={**STEPS, "fraction": 0.3}) for m in (FSLoRA, HetLoRA, FlexLoRA)],
        ),
        plan=Plan(cases={CASE: {"seconds": 8.0}}, last=3, target=0.6, lrs=(0.003, 0.01), seeds=(0, 1, 2), tuning_seeds=(100,)),
        small=Plan(cases={CASE: 3}, last=1, target=0.5, lrs=(0.003,), seeds=(0,)),
        chance=0.445,  # just above the pretrained model
        about={
            "data": "fashion_mnist, 2,000 rows of each part", "model": "mlp 784-64-64-10, pretrained on the classes 0 to 4", "rank": RANK,
            "scale": 1.0, "budgets": list(BUDGETS), "devices": DEVICES, "alpha": 0.3, "cell": "20 MHz, 150 m, tdma",
        },
        columns=(
            ("accuracy", "accuracy after 8 s", ".3f"), ("seconds_to_target", "seconds to 0.6", ".1f"), ("rounds", "rounds", ".0f"),
            ("rank", "mean rank", ".1f"), ("bytes_up", "bytes up", ".3g"), ("joules", "joules", ".3g"),
        ),
        more=lambda points: {
            "rounds": len(points) or None, "rank": sum(point["rank"] for point in points) / len(points) if points else None,
        },
    ),
)  # fmt: skip


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [
        ("accuracy", "accuracy", ".3f"), ("rounds_to_target", "rounds to 0.6", ".1f"), ("seconds_to_target", "seconds to 0.6", ".1f"),
        ("seconds", "seconds in all", ".1f"), ("bytes_up", "bytes up", ".3g"), ("joules", "joules", ".3g"),
    ]  # fmt: skip
    return table(outcome, columns)


if __name__ == "__main__":
    main(lambda: show(run(folder=RECORDS)), REAL)
