"""Claim of Prima's planners: `halda_exact` is the optimum, and what the published scheduler and two simple splits lose to it.

    python -m benchmarks.claims.prima

Per seed 50 random clusters of one to three Linux devices with 5 to 12 layers, against brute force over windows, GPU shares and turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from airloom.errors import DoesNotFit
from airloom.plans.halda import halda, halda_exact
from airloom.plans.placement import Placement, RingDevice, RingModel, token_s
from airloom.plans.splits import memsched, perfsched
from airloom.serving.prima import Prima
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Side, keep, table

SYSTEMS = ("linux", "android", "macos", "metal")


def cluster(seed: int, *, systems: tuple[str, ...] = SYSTEMS) -> tuple[RingModel, list[RingDevice]]:
    """One to three devices with too little memory, more or less."""
    rng = np.random.default_rng(seed)  # worlds for planners, outside of any run
    layers, count = int(rng.choice([5, 6, 8, 12])), int(rng.integers(1, 4))
    model = RingModel(layers=layers, layer_bytes=1e8, cache_bytes=5e6, input_bytes=3e7, output_bytes=3e7, row_bytes=1e4, width=512)
    ring = []
    for m in range(count):
        system, cpu_s = systems[rng.integers(len(systems))], 10 ** rng.uniform(-2.5, -1)
        is_gpu = system != "macos" and rng.random() < 0.5
        ring.append(
            RingDevice(
                name=f"d{m}", system=system, available_bytes=rng.uniform(0.1, 0.7) * layers * 1.05e8, cpu_layer_s=cpu_s,  # type: ignore[arg-type]
                vram_bytes=rng.uniform(0.05, 0.4) * layers * 1e8 if is_gpu else 0.0, gpu_layer_s=cpu_s * rng.uniform(0.05, 1.2) if is_gpu else inf,
                cpu_buffer_bytes=rng.uniform(0, 5e7), gpu_buffer_bytes=1e7 if is_gpu else 0.0, copy_s=0.001 * is_gpu,
                swap_bytes=rng.uniform(0, 1e8) if system == "android" else 0.0, disk_bytes_per_s=10 ** rng.uniform(7.8, 9.5),
                hop_s=rng.uniform(0.001, 0.01), output_s=rng.uniform(0.001, 0.02),
            )
        )  # fmt: skip
    return model, ring


def brute_force_s(model: RingModel, ring: list[RingDevice], *, is_all: bool = False) -> float:
    """Least seconds over every window, GPU share and number of turns; the head always holds a layer."""
    best = inf
    for k in model.turns():
        per_turn = model.layers // k
        for others in product(range(per_turn + 1), repeat=len(ring) - 1):
            w = (per_turn - sum(others), *others)
            if w[0] < 1 or (is_all and min(w) < 1):
                continue
            caps = [min(a, d.gpu_layers(model, m == 0) // k) for m, (a, d) in enumerate(zip(w, ring, strict=True))]
            for n in product(*[range(cap + 1) for cap in caps]):
                best = min(best, token_s(model, ring, w, n, k))
    return best


def seconds_of(plan: Callable[..., Placement], model: RingModel, ring: list[RingDevice], **fields: Any) -> float:
    """Seconds per token that a planner comes to; inf if it finds no placement."""
    try:
        return plan(model, ring, **fields).token_s
    except DoesNotFit:
        return inf


PLANNERS: dict[str, Callable[..., Placement]] = {"exact": halda_exact, "halda": halda, "memsched": memsched, "perfsched": perfsched}
CASE, CLUSTERS = "Linux clusters", 50
SIDES = tuple(Side(label=name, method=Prima, fields={"planner": name}, is_tuned=False) for name in PLANNERS)
FULL = Plan(cases={CASE: {}}, seeds=(0, 1, 2))
ABOUT: dict[str, Any] = {"clusters": CLUSTERS, "devices": [1, 3], "layers": [5, 6, 8, 12], "systems": ["linux"]}


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = Outcome()
    for seed in plan.seeds:
        worlds = [cluster(1000 + CLUSTERS * seed + i, systems=("linux",)) for i in range(CLUSTERS)]
        best = [brute_force_s(model, ring) for model, ring in worlds]
        for name, planner in PLANNERS.items():
            found = [seconds_of(planner, model, ring) for model, ring in worlds]
            gaps = np.array([ours / least for ours, least in zip(found, best) if least < inf and ours < inf])
            worse = gaps[gaps > 1 + 1e-9] - 1
            outcome.rows.append({
                "case": CASE, "side": name, "seed": seed, "possible": sum(least < inf for least in best), "answered": len(gaps),
                "optimal": float((gaps <= 1 + 1e-9).mean()), "excess_median": float(np.median(worse)) if len(worse) else 0.0,
                "worst": float(gaps.max()), "least": float(gaps.min()), "claims_possible": sum(a < inf <= b for a, b in zip(found, best)),
            })  # fmt: skip
    outcome.rows.sort(key=lambda row: list(PLANNERS).index(row["side"]))
    if folder is not None:
        keep("prima", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    return table(outcome, [
        ("possible", "clusters with a placement", ".1f"), ("answered", "answered", ".1f"), ("optimal", "optimal", ".2f"),
        ("excess_median", "median excess where not", ".2f"), ("worst", "worst / best", ".2f"),
    ])  # fmt: skip


if __name__ == "__main__":
    print(show(run(folder=RECORDS)))
