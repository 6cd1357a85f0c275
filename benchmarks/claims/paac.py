"""Claim of PAAC: with a perfect proposer nothing leaks and every action is what it is without a boundary; else leakage is the proposer's miss rate.

    python -m benchmarks.claims.paac

Scenario `helpdesk`, four phones with 60 requests each per seed, so 1,200 private values at level 3; a miss is drawn once per value and task.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from airloom.scenarios.helpdesk import helpdesk
from airloom.scenarios.scenario import Scenario
from airloom.serving.paac import PAAC
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Point, Side, answer, keep, table

CASE, MISSES = "helpdesk", (0.1, 0.3, 0.5)
SIDES = (
    *[Side(label=f"level {level}", method=PAAC, fields={"level": level}, is_tuned=False) for level in range(4)],
    *[Side(label=f"level 3, miss {miss}", method=PAAC, fields={"level": 3, "miss": miss}, is_tuned=False) for miss in MISSES],
    Side(label="rewrite, no registry", method=PAAC, fields={"level": 3, "boundary": "rewrite"}, is_tuned=False),
)
FULL = Plan(cases={CASE: {}}, seeds=(0, 1, 2))
ABOUT: dict[str, Any] = {"scenario": "helpdesk", "devices": 4, "requests": 60}


def world(case: str, seed: int) -> Scenario:
    """The help desk."""
    return helpdesk(seed=seed, requests=ABOUT["requests"])


def columns(scenario: Scenario, points: list[Point]) -> dict[str, Any]:
    """Success, values that came up and that left, and what it cost."""
    asked = [point for point in points if "correct" in point]
    private, out = sum(point["private"] for point in asked), sum(point["leaked"] for point in asked)
    row = {name: points[-1][name] for name in ("accuracy", "p50_s", "p95_s", "bytes_up_each", "joules_each", "price_each")}
    return row | {"private": private, "leaked": out} | ({"leakage": out / private} if private else {})


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = answer(world, SIDES, plan, columns)
    if folder is not None:
        keep("paac", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    return table(outcome, [
        ("accuracy", "accuracy", ".3f"), ("private", "private values", ".0f"), ("leakage", "leaked", ".3f"), ("p50_s", "p50 (s)", ".2f"),
        ("bytes_up_each", "up (B)", ".0f"), ("joules_each", "J", ".2f"), ("price_each", "price", ".5f"),
    ])  # fmt: skip


if __name__ == "__main__":
    print(show(run(folder=RECORDS)))
