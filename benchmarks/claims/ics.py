"""Claim of ICS: its probabilities reach a target sooner than others, and a common finish time makes rounds shorter than equal shares of the band.

    python -m benchmarks.claims.ics [--data fashion_mnist]

Digits, a network of 32 hidden units, 20 clients in one cell with sizes by Zipf's law, computing for 0.5 to 10 s and uploading for 0.1 to 1.1 s
with the whole band. All sides get the same simulated seconds. With Fashion-MNIST 50 clients, a tenth of the rows, and all schemes with equal shares.
"""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from airloom.clock.rng import generator
from airloom.methods.ics import ICS
from airloom.models import zoo
from airloom.models.module import ModelSpec
from airloom.network.cell import Cell
from airloom.network.device import Device
from airloom.network.link import Link
from airloom.network.network import Network, Place
from airloom.network.profiles import CLOUD
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from benchmarks.claims.harness import RECORDS, Claim, Outcome, Plan, Point, Side, keep, main, play, table

CLIENTS, SPREAD = 20, 0.6
FIELDS: dict[str, Any] = {"local_steps": 5, "batch_size": 32}
SIDES = (
    Side(label="proposed", method=ICS, fields=FIELDS),
    Side(label="proposed, pilots", method=ICS, fields={**FIELDS, "pilots": 1, "pilot_rounds": 5}),
    Side(label="proposed, equal shares", method=ICS, fields={**FIELDS, "bandwidth": "equal"}),
    Side(label="as published", method=ICS, fields={**FIELDS, "bandwidth": "equal", "mode": "paper"}),
    *[Side(label=scheme, method=ICS, fields={**FIELDS, "scheme": scheme}) for scheme in ("constant", "weight", "uniform", "full")],
    Side(label="full, equal shares", method=ICS, fields={**FIELDS, "scheme": "full", "bandwidth": "equal"}),
)
FULL = Plan(cases={"digits": {"seconds": 200.0}}, last=3, target=0.85, lrs=(0.3, 1.0), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={"digits": {"seconds": 150.0}}, last=1, target=0.8, lrs=(0.3,), seeds=(0,), tuning_seeds=())
ABOUT = {
    "data": "digits", "model": "mlp 64-32-10", "clients": CLIENTS, "zipf": SPREAD, "band_hz": 200e3, "bps_per_hz": [0.35, 4.0],
    "compute_s": [0.5, 10.0], "downlink": "free",
}  # fmt: skip


@lru_cache(maxsize=2)
def model(inputs: int = 64) -> ModelSpec:
    """A small network for 8 x 8 or more pixels."""
    return zoo.mlp(inputs=inputs, hidden=(32,), classes=10)


def network(seed: int, clients: int, band_hz: float) -> Network:
    """Clients of a seed in one cell."""
    rng = generator(seed, "claim ics")
    names = [f"client{i}" for i in range(clients)]
    seconds = np.exp(rng.uniform(np.log(0.5), np.log(10.0), clients))
    efficiency = np.exp(rng.uniform(np.log(0.35), np.log(4.0), clients))
    samples = FIELDS["local_steps"] * FIELDS["batch_size"]
    up = Cell(name="air", bandwidth_hz=band_hz, sharing="tdma")
    places, links = [Place(name="cloud", device=CLOUD, role="cloud")], []
    for name, tau, r in zip(names, seconds.tolist(), efficiency.tolist(), strict=True):
        device = Device(
            profile="client", speed_flops_per_s=1e9, efficiency=0.5, memory_bytes=2e9, baseline_bytes=1e8, power_w=3.0, idle_power_w=0.5,
            seconds_per_sample={1.0: tau / samples},
        )  # fmt: skip
        places.append(Place(name=name, device=device, parent="cloud"))
        links.append(Link(source=name, target="cloud", latency_s=0.0, direction="up", cell=up, bps_per_hz=r))
        links.append(Link(source="cloud", target=name, latency_s=0.0, direction="down", rate_bps=1e7))
    return Network.of(places, links, downlink="free")


def world(case: str, seed: int) -> Scenario:
    """Digits at the clients of a seed."""
    net = network(seed, CLIENTS, 200e3)
    task = make_task(TaskSettings(partition="quantity_skew", law="zipf", spread=SPREAD), net.clients("cloud"), seed, model=model())
    return Scenario(name="claim ics", network=net, task=task, seed=seed)


def fashion(case: str, seed: int) -> Scenario:
    """Clothes at more clients, with a band in proportion to the larger model."""
    net = network(seed, 50, 2e6)
    settings = TaskSettings(dataset="fashion_mnist", limit=6000, partition="quantity_skew", law="zipf", spread=SPREAD)
    return Scenario(name="claim ics", network=net, task=make_task(settings, net.clients("cloud"), seed, model=model(784)), seed=seed)


def more(points: list[Point]) -> dict[str, Any]:
    """Rounds, their seconds, participants, and seconds of the pilots."""
    if not points:
        return {"rounds": None, "round_s": None, "clients": None, "pilot_s": None}
    pilot_s = points[-1]["pilot_s"]
    rounds = len(points)
    return {
        "rounds": rounds,
        "round_s": (points[-1]["seconds"] - pilot_s) / rounds,
        "clients": float(np.mean([point["clients"] for point in points])),
        "pilot_s": pilot_s,
    }


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan, more)
    if folder is not None:
        keep("ics", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


COLUMNS = (
    ("rounds", "rounds", ".0f"), ("round_s", "s per round", ".2f"), ("clients", "clients", ".1f"), ("pilot_s", "s of pilots", ".0f"),
)  # fmt: skip
SCHEMES = ("proposed", "constant", "weight", "uniform", "fix", "full")
REAL = (
    Claim(
        module="ics", data="fashion_mnist", world=fashion,
        sides=(
            *[Side(label=scheme, method=ICS, fields={**FIELDS, "scheme": scheme}) for scheme in SCHEMES],
            *[Side(label=f"{scheme}, equal shares", method=ICS, fields={**FIELDS, "scheme": scheme, "bandwidth": "equal"}) for scheme in SCHEMES],
            Side(label="proposed, floor 0.1", method=ICS, fields={**FIELDS, "floor": 0.1}),
            Side(label="proposed, pilots", method=ICS, fields={**FIELDS, "pilots": 1, "pilot_rounds": 5}),
            SIDES[3],
        ),
        plan=Plan(cases={"fashion_mnist": {"seconds": 500.0}}, last=3, target=0.78, lrs=(0.03, 0.1), seeds=(0, 1, 2), tuning_seeds=(100,)),
        small=Plan(cases={"fashion_mnist": {"seconds": 60.0}}, last=1, target=0.6, lrs=(0.1,), seeds=(0,)),
        chance=0.2,
        about={
            "data": "fashion_mnist, 6,000 rows of each part", "model": "mlp 784-32-10", "clients": 50, "zipf": SPREAD, "band_hz": 2e6,
            "bps_per_hz": [0.35, 4.0], "compute_s": [0.5, 10.0], "downlink": "free",
        },
        columns=(("seconds_to_target", "seconds to 0.78", ".0f"), ("accuracy", "accuracy after 500 s", ".3f"), *COLUMNS),
        more=more,
    ),
)  # fmt: skip


def show(outcome: Outcome) -> str:
    """The table of the page."""
    return table(outcome, [("seconds_to_target", "seconds to 0.85", ".0f"), ("accuracy", "accuracy after 200 s", ".3f"), *COLUMNS])


if __name__ == "__main__":
    main(lambda: show(run(folder=RECORDS)), REAL)
