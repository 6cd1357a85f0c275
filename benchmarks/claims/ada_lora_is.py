"""Claim of AdaLoRA-IS: choosing sampling probabilities and ranks together takes less time to a target than choosing either, or neither.

    python -m benchmarks.claims.ada_lora_is

Twenty phones of three memory classes in one cell (`lora_phones`): the embedded transformer, LoRA pairs of rank 16, digits by Dirichlet(0.3), unequal
sizes, speeds and rates.
"""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from airloom.methods.ada_lora_is import AdaLoRAIS
from airloom.methods.fslora import FSLoRA
from airloom.methods.hetlora import HetLoRA
from airloom.scenarios.lora_phones import lora_phones
from airloom.scenarios.scenario import Scenario
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Side, keep, play, table

CASE = "20 phones, one cell"
DEVICES, RANK = 20, 16
STEPS: dict[str, Any] = {"local_steps": 5, "batch_size": 16}
PLANNED: dict[str, Any] = {**STEPS, "nu": 0.5, "beta": 8.0, "floor": 0.2}
SIDES = (
    Side(label="uniform", method=AdaLoRAIS, fields={**STEPS, "scheme": "fix", "q": 0.4, "ratio": "budget"}),
    Side(label="q only", method=AdaLoRAIS, fields={**PLANNED, "ratio": "budget"}),
    Side(label="k only", method=AdaLoRAIS, fields={**PLANNED, "scheme": "fix", "q": 0.4}),
    Side(label="ada_lora_is", method=AdaLoRAIS, fields=PLANNED),
    Side(label="fslora", method=FSLoRA, fields={**STEPS, "fraction": 0.4}),
    Side(label="hetlora", method=HetLoRA, fields={**STEPS, "fraction": 0.4, "weights": "equal"}),
)
FULL = Plan(cases={CASE: 24}, last=5, target=0.5, lrs=(0.01, 0.03, 0.1, 0.3), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={CASE: 4}, last=2, target=0.5, lrs=(0.03,), seeds=(0,), tuning_seeds=())
ABOUT = {"scenario": "lora_phones", "devices": DEVICES, "rank": RANK, "data": "digits", "model": "embedded", "alpha": 0.3}


@lru_cache(maxsize=2)
def made(seed: int) -> Scenario:
    """The scenario of a seed."""
    return lora_phones(seed=seed, devices=DEVICES, rank=RANK)


def world(case: str, seed: int) -> Scenario:
    """The same for all sides."""
    return made(seed)


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan)
    if folder is not None:
        keep("ada_lora_is", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [
        ("accuracy", "accuracy", ".3f"), ("rounds_to_target", "rounds to 0.5", ".1f"), ("seconds_to_target", "seconds to 0.5", ".1f"),
        ("seconds", "seconds in all", ".1f"), ("bytes_up", "bytes up", ".3g"), ("joules", "joules", ".3g"),
    ]  # fmt: skip
    return table(outcome, columns)


if __name__ == "__main__":
    print(show(run(folder=RECORDS)))
