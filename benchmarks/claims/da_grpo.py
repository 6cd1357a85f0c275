"""Claim of DA-GRPO: over a stream of two tasks it keeps its budget on average, and remembers more than the device alone.

    python -m benchmarks.claims.da_grpo

Scenario `assistant`, sums first, then all that multiplies, 300 updates each; shares of asking are means of the last 100 updates of a task. Exams are
held-out questions of the first phone, answered greedily, cloud answers included. All sides have the same entropy term.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import fmean
from typing import Any

from airloom.parts.advantage import GRPO
from airloom.scenarios.assistant import assistant
from airloom.scenarios.scenario import Scenario
from airloom.serving.da_grpo import DAGRPO
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Point, Side, answer, keep, table

CASE, LAST, STEPS, BUDGET = "sums, then products", 100, 300, 0.3
STREAM: dict[str, Any] = {"stream": "+*", "steps": STEPS, "entropy": 0.02}
SIDES = (
    Side(label="da_grpo", method=DAGRPO, fields={**STREAM, "dual_lr": 0.02, "dual_gain": 0.5}, is_tuned=False),
    Side(label="grpo, fixed penalty 0.2", method=DAGRPO, fields={**STREAM, "dual": 0.2, "dual_lr": 0.0, "advantage": GRPO}, is_tuned=False),
    Side(label="edge only", method=DAGRPO, fields={**STREAM, "assisted": 0.0, "dual": 0.0, "dual_lr": 0.0}, is_tuned=False),
)
FULL = Plan(cases={CASE: {}}, seeds=(0, 1, 2))
ABOUT: dict[str, Any] = {"scenario": "assistant", "devices": 2, "base_stations": 1, "requests": 15, "budget": BUDGET, "last": LAST}


def world(case: str, seed: int) -> Scenario:
    """Two phones, so that the one that trains holds half of the questions."""
    return assistant(seed=seed, devices=2, base_stations=1, requests=15)


def columns(scenario: Scenario, points: list[Point]) -> dict[str, Any]:
    """Use of the cloud in both tasks, and the exams: accuracy of a task after each of them."""
    use = [point["ask_rate"] for point in points if "ask_rate" in point]
    exam = {(point["after"], point["exam"]): point for point in points if "exam" in point}
    before, after = (exam[k, "+"]["exam_accuracy"] for k in (0, 1))
    return {
        "use_1": fmean(use[STEPS - LAST : STEPS]), "use_2": fmean(use[-LAST:]), "first_before": before, "first_after": after,
        "second_after": exam[1, "*"]["exam_accuracy"], "own_after": exam[1, "+"]["exam_own"], "forgetting": (before - after) / before,
        "lambda": next(point["lambda"] for point in reversed(points) if "lambda" in point), "service_accuracy": points[-1]["accuracy"],
    }  # fmt: skip


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = answer(world, SIDES, plan, columns)
    if folder is not None:
        keep("da_grpo", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    return table(outcome, [
        ("use_1", "use, task 1", ".3f"), ("use_2", "use, task 2", ".3f"), ("first_before", "task 1 before", ".3f"),
        ("first_after", "task 1 after", ".3f"), ("forgetting", "forgetting", ".3f"), ("second_after", "task 2 after", ".3f"),
    ])  # fmt: skip


if __name__ == "__main__":
    print(show(run(folder=RECORDS)))
