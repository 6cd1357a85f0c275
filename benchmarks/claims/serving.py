"""Claim of the services: what each pattern costs and how often it is right, with good links, with broken ones, and on recorded 5G.

    AIRLOOM_DATA=... python -m benchmarks.claims.serving

Scenario `assistant`, 180 requests per seed. In `outages` each phone is without a link for 30 % of the time, a minute at once on average. In `5G walk`
all phones have the rates of one recorded walk (another one per seed), some 500 Mbit/s on average with gaps of up to 40 s.
"""

from __future__ import annotations

import csv
import gzip
import os
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

from airloom.scenarios.assistant import assistant
from airloom.scenarios.scenario import Scenario
from airloom.serving.cascade import Cascade
from airloom.serving.cloud_only import CloudOnly
from airloom.serving.committee import Committee
from airloom.serving.debate import Debate
from airloom.serving.device_only import DeviceOnly
from airloom.serving.draft_refine import DraftRefine
from airloom.serving.length_router import LengthRouter
from airloom.serving.oracle import Oracle
from airloom.serving.random_router import RandomRouter
from airloom.serving.roles import Roles
from airloom.serving.vote import Vote
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Point, Side, answer, keep

OUTAGE, WALKS = 0.3, ("5g_trace_26_walking", "5g_trace_92_walking", "5g_trace_91_walking")  # the walks with the longest outages
SIDES = tuple(
    Side(label=service.__module__.rsplit(".", 1)[1], method=service, fields=fields, is_tuned=False)
    for service, fields in (
        (DeviceOnly, {}), (CloudOnly, {}), (RandomRouter, {"share": 0.4}), (LengthRouter, {}), (Oracle, {}), (Cascade, {}),
        (DraftRefine, {}), (Vote, {}), (Debate, {}), (Roles, {}), (Committee, {}),
    )
)  # fmt: skip
FULL = Plan(cases={"steady": {}, "outages": {}, "5G walk": {}}, seeds=(0, 1, 2))
ABOUT: dict[str, Any] = {"scenario": "assistant", "devices": 6, "requests": 30, "outage": OUTAGE, "walks": list(WALKS), "data": "lumos5g"}
KEPT = ("accuracy", "p50_s", "p95_s", "first_p50_s", "bytes_up_each", "bytes_down_each", "joules_each", "price_each", "remote_rate", "fallback_rate")


@lru_cache(maxsize=3)
def walk(seed: int) -> list[tuple[float, float]]:
    """Seconds and bit/s of a recorded walk, one value per second."""
    with gzip.open(Path(os.environ["AIRLOOM_DATA"]) / "network" / "lumos5g" / "throughput_traces.csv.gz", "rt") as file:
        rates = [1e6 * float(row["mbps"]) for row in csv.DictReader(file) if row["trace"] == WALKS[seed % len(WALKS)]]
    return [(float(second), rate) for second, rate in enumerate(rates)]


def world(case: str, seed: int) -> Scenario:
    """The scenario with the links of a case."""
    if case == "5G walk":
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "walk.csv"
            file.write_text("t_s,rate_bps\n" + "".join(f"{at_s},{rate}\n" for at_s, rate in walk(seed)))
            return assistant(seed=seed, trace=str(file))
    return assistant(seed=seed, outage=OUTAGE if case == "outages" else 0.0)


def columns(_: Scenario, points: list[Point]) -> dict[str, Any]:
    """The ledger at the end."""
    return {name: float(f"{points[-1][name]:.6g}") for name in KEPT} | {"answered": points[-1]["answered"]}


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = answer(world, SIDES, plan, columns)
    if folder is not None:
        keep("serving", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The two tables of the page: means over seeds, everything with steady links, and what the links of the other cases change."""
    shown = {"accuracy": ("accuracy", 100, ".1f"), "p50_s": ("p50 (s)", 1, ".2f"), "p95_s": ("p95 (s)", 1, ".1f"),
             "first_p50_s": ("first token p50 (s)", 1, ".2f"), "bytes_up_each": ("up (B)", 1, ".0f"), "bytes_down_each": ("down (B)", 1, ".0f"),
             "joules_each": ("energy (J)", 1, ".1f"), "price_each": ("price / 1000", 1000, ".2f"), "remote_rate": ("remote", 100, ".0f"),
             "fallback_rate": ("fall-backs", 100, ".1f")}  # fmt: skip

    def line(label: str, cases: list[tuple[str, tuple[str, ...]]]) -> str:
        cells = []
        for case, names in cases:
            for name in names:
                _, factor, form = shown[name]
                cells.append(format(factor * fmean(outcome.each(case, label, name)), form) + " %" * (factor == 100))
        return f"| `{label}` | {' | '.join(cells)} |"

    def block(cases: list[tuple[str, tuple[str, ...]]], is_named: bool) -> list[str]:
        heads = [f"{case}: {shown[name][0]}" if is_named else shown[name][0] for case, names in cases for name in names]
        return [f"| service | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|", *[line(side.label, cases) for side in SIDES]]

    changed: tuple[str, ...] = ("accuracy", "p95_s", "fallback_rate")
    others: list[tuple[str, tuple[str, ...]]] = [(case, changed) for case in FULL.cases if case != "steady"]
    return "\n".join([*block([("steady", KEPT)], False), "", *block(others, True)])


if __name__ == "__main__":
    print(show(run(folder=RECORDS)))
