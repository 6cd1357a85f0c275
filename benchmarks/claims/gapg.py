"""Claim of GAPG: a device model that was taught to ask is above the device alone and above routers at an equal share of cloud answers.

    python -m benchmarks.claims.gapg

Scenario `assistant`, 180 requests per seed, 400 updates; what other rewards and GRPO do to asking, after 40. A router at another share is taken at
GAPG's by the line from the device alone (share 0) to the router: a coin between the two reaches every point of it.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import fmean
from typing import Any

from airloom.parts.advantage import GRPO
from airloom.scenarios.assistant import assistant
from airloom.scenarios.scenario import Scenario
from airloom.serving.cloud_only import CloudOnly
from airloom.serving.device_only import DeviceOnly
from airloom.serving.gapg import GAPG
from airloom.serving.length_router import LengthRouter
from airloom.serving.random_router import RandomRouter
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Point, Side, answer, keep, table

CASE, LAST = "assistant", 100
OURS: dict[str, Any] = {"steps": 400, "assisted": 1.0}  # what the scenario suits GAPG with
SHORT: dict[str, Any] = {**OURS, "steps": 40}
SIDES = (
    Side(label="edge only", method=DeviceOnly, fields={}, is_tuned=False),
    Side(label="random router", method=RandomRouter, fields={"share": 0.4}, is_tuned=False),
    Side(label="length router", method=LengthRouter, fields={}, is_tuned=False),
    Side(label="gapg", method=GAPG, fields=OURS, is_tuned=False),
    Side(label="gapg, 40 updates", method=GAPG, fields=SHORT, is_tuned=False),
    Side(label="the same, divided by the deviation", method=GAPG, fields={**SHORT, "advantage": GRPO}, is_tuned=False),
    Side(label="the same, asking worth 0.8", method=GAPG, fields={**SHORT, "assisted": 1.6}, is_tuned=False),
    Side(label="cloud only", method=CloudOnly, fields={}, is_tuned=False),
)
FULL = Plan(cases={CASE: {}}, seeds=(0, 1, 2))
ABOUT: dict[str, Any] = {"scenario": "assistant", "devices": 6, "requests": 30, "hard": 0.5, "last": LAST}


def world(case: str, seed: int) -> Scenario:
    """The scenario as it is."""
    return assistant(seed=seed)


def columns(scenario: Scenario, points: list[Point]) -> dict[str, Any]:
    """The ledger at the end, and how often questions of three and of two digits were answered elsewhere."""
    question = {asked.number: asked.question for stream in scenario.task.requests.values() for asked in stream}
    elsewhere: dict[bool, list[int]] = {True: [], False: []}
    for point in points:
        if "correct" in point:
            elsewhere[len(question[point["request"]]) > 4].append(point["is_remote"])
    asked = [point["ask_rate"] for point in points if "ask_rate" in point]
    asked = asked[-min(LAST, len(asked) // 2) :] if asked else []
    row = {name: points[-1][name] for name in ("accuracy", "remote_rate", "p95_s", "joules_each", "price_each")}
    return row | {"hard": fmean(elsewhere[True]), "easy": fmean(elsewhere[False])} | ({"trained_use": fmean(asked)} if asked else {})


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = answer(world, SIDES, plan, columns)
    if folder is not None:
        keep("gapg", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def at_equal_share(outcome: Outcome, router: str) -> float:
    """Mean accuracy of a coin between the device alone and a router, with GAPG's share of cloud answers, seed by seed."""

    def each(label: str, name: str) -> list[float]:
        return outcome.each(CASE, label, name)

    columns = (each("edge only", "accuracy"), each(router, "accuracy"), each(router, "remote_rate"), each("gapg", "remote_rate"))
    return fmean(low + (high - low) * share / most for low, high, most, share in zip(*columns, strict=True))


def show(outcome: Outcome) -> str:
    """The table of the page."""
    return table(outcome, [
        ("accuracy", "accuracy", ".3f"), ("remote_rate", "remote", ".2f"), ("hard", "three digits remote", ".2f"),
        ("easy", "two digits remote", ".2f"), ("trained_use", "asking, last updates", ".2f"), ("p95_s", "p95 (s)", ".1f"),
        ("joules_each", "J", ".1f"), ("price_each", "price", ".5f"),
    ])  # fmt: skip


if __name__ == "__main__":
    made = run(folder=RECORDS)
    print(show(made))
    print({router: round(at_equal_share(made, router), 3) for router in ("random router", "length router")})
