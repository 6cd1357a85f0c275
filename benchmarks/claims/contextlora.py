"""Claim of ContextLoRA: tasks learn faster on top of the frozen rank rows of those that they build on, nothing is forgotten, and planning saves time.

    python -m benchmarks.claims.contextlora

The scenario `applications`: reverse, add, compare, add-then-compare ("both") and the larger of two sums ("max") on strings of four digits; a
transformer of width 64 with two blocks, adapters of rank 10, five boards of unequal speed on 1 Mbit/s. Every side sees each example three times: in
one pass, and the last two in three rounds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from airloom.methods.contextlora import ContextLoRA
from airloom.methods.fedlora import FedLoRA
from airloom.methods.lora_mixture import LoRAMixture
from airloom.models.step import AdamW
from airloom.scenarios.applications import applications
from airloom.scenarios.scenario import Scenario
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Point, Side, keep, play, table

CASE, ROWS = "96 rows", 96
PARENTS, CHILDREN = ("add", "compare"), ("both", "max")
ADAM = AdamW(weight_decay=0.0)


def side(label: str, **fields: Any) -> Side:
    return Side(label=label, method=ContextLoRA, fields={"epochs": 3, "batch_size": 16, **fields})


SIDES = (
    side("gear, examples move", moves=True),
    side("one place", moves=True, planner="single"),
    side("random places", moves=True, planner="random"),
    side("gear, examples stay"),
    side("one adapter per task", relations="none"),
    side("no mask, no freeze", relations="sequence"),
    Side(label="gated adapters", method=LoRAMixture, fields={"epochs": 1, "batch_size": 16, "gate_steps": 4}),
    Side(label="fedlora", method=FedLoRA, fields={"local_steps": 6, "batch_size": 16, "optimizer": ADAM}),
)
FULL = Plan(cases={CASE: 3}, last=1, target=0.8, lrs=(0.005, 0.015), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={CASE: 3}, last=1, target=0.8, lrs=(0.01,), seeds=(0,), tuning_seeds=())
ABOUT = {"scenario": "applications", "rows_per_task": ROWS, "rank": 10, "tasks": ["reverse", "add", "compare", "both", "max"], "epochs": 3}


def world(case: str, seed: int) -> Scenario:
    """The scenario with so many questions per task."""
    return applications(seed=seed, rows=ROWS)


def more(points: Sequence[Point]) -> Mapping[str, Any]:
    """Accuracy of parents and of children, and what the plan said."""
    end = points[-1] if points else {}
    each = end.get("by_device", {}).get("accuracy", {})
    found = {name: fmean(each[v] for v in tasks) if each else None for name, tasks in (("parents", PARENTS), ("children", CHILDREN))}
    sent = (end["bytes_up"] + end["bytes_down"]) / 1e3 if end else None
    return {**found, "kb": sent, "planned_s": end.get("planned_s")}


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan, more, is_by_device=True)
    if folder is not None:
        keep("contextlora", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [
        ("accuracy", "accuracy", ".3f"), ("parents", "add, compare", ".3f"), ("children", "both, max", ".3f"), ("seconds", "seconds", ".1f"),
        ("kb", "kB sent", ".0f"), ("joules", "J", ".0f"),
    ]  # fmt: skip
    return table(outcome, columns)


if __name__ == "__main__":
    print(show(run(folder=RECORDS)))
