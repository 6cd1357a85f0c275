"""Claim of critique and route: nearly as right as the strongest agent with under a quarter of the calls to it, and it stops.

    python -m benchmarks.claims.critique_routing

Scenario `assistant`, 180 requests per seed; agents are the phone, its station and the cloud. Shares of calls are means of the last 100 of 300
updates, and those of the service, whose controller is the mean of the last updates and samples.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import fmean
from typing import Any

from airloom.scenarios.assistant import assistant
from airloom.scenarios.scenario import Scenario
from airloom.serving.cloud_only import CloudOnly
from airloom.serving.critique_routing import CritiqueRouting
from airloom.serving.device_only import DeviceOnly
from airloom.serving.length_router import LengthRouter
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Point, Side, answer, keep, table

CASE, LAST = "assistant", 100
OURS: dict[str, Any] = {"steps": 300, "share": 0.22, "dual_lr": 0.05, "dual_gain": 1.0, "averaging": 0.02, "is_greedy": False}
SIDES = (
    Side(label="critique and route", method=CritiqueRouting, fields=OURS, is_tuned=False),
    Side(label="its multiplier in service", method=CritiqueRouting, fields={**OURS, "service_lr": 2.0}, is_tuned=False),
    Side(label="one shot", method=CritiqueRouting, fields={**OURS, "turns": 1}, is_tuned=False),
    Side(label="length router", method=LengthRouter, fields={}, is_tuned=False),
    Side(label="strongest", method=CloudOnly, fields={}, is_tuned=False),
    Side(label="weakest", method=DeviceOnly, fields={}, is_tuned=False),
)
FULL = Plan(cases={CASE: {}}, seeds=(0, 1, 2))
ABOUT: dict[str, Any] = {"scenario": "assistant", "devices": 6, "requests": 30, "hard": 0.5, "last": LAST}


def world(case: str, seed: int) -> Scenario:
    """The scenario as it is."""
    return assistant(seed=seed)


def columns(scenario: Scenario, points: list[Point]) -> dict[str, Any]:
    """Shares of the last updates and of the service, and how often a draft was right when it stopped by choice."""
    late = [point for point in points if "calls" in point and "lambda" in point][-LAST:]
    asked = [point for point in points if "correct" in point]
    stops = [point["correct"] for point in asked if 0 < point.get("calls", 0) < 3]
    row = {name: points[-1][name] for name in ("accuracy", "p50_s", "p95_s", "joules_each", "price_each")}
    if late:
        calls = sum(point["calls"] for point in late)
        row |= {"trained_share": sum(point["calls"] * point["strongest_rate"] for point in late) / calls, "trained_calls": calls / len(late)}
        row |= {"share": sum(point["strongest_calls"] for point in asked) / max(1, sum(point["calls"] for point in asked))}
    return row | ({"stop_precision": fmean(stops)} if stops else {})


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = answer(world, SIDES, plan, columns)
    if folder is not None:
        keep("critique_routing", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    return table(outcome, [
        ("accuracy", "accuracy", ".3f"), ("trained_share", "strongest, trained", ".2f"), ("share", "strongest, service", ".2f"),
        ("trained_calls", "calls", ".2f"), ("stop_precision", "right when stopped", ".2f"), ("p95_s", "p95 (s)", ".1f"),
        ("joules_each", "J", ".1f"), ("price_each", "price", ".5f"),
    ])  # fmt: skip


if __name__ == "__main__":
    print(show(run(folder=RECORDS)))
