"""Claim of FedZO: more local steps and more participants take fewer rounds; over the air, noise of 0 dB does little harm and -10 dB more.

    python -m benchmarks.claims.fedzo [--data fashion_mnist]

Digits, softmax regression (650 values), 50 clients of one radio cell, Dirichlet(0.5), 5 directions per estimate. With it, a black-box attack: one
perturbation of 64 values for all images of a class, learned by the clients from losses of a trained classifier alone. With
Fashion-MNIST the same for 7,850 values and 10 directions, and the baselines DZOPA and ZONE-S.
"""

from __future__ import annotations

import time
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any

from airloom.methods.dzopa import DZOPA
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedzo import FedZO
from airloom.methods.zo_sgd import ZOSGD
from airloom.methods.zone_s import ZoneS
from airloom.models import zoo
from airloom.network.cell import Cell
from airloom.network.link import Link
from airloom.network.network import Network, Place
from airloom.network.profiles import EDGE_BOX, WHALE_FL
from airloom.program.reducer import air_sum
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from benchmarks.claims.harness import RECORDS, Claim, Outcome, Plan, Side, keep, main, play, table

CLIENTS, ALPHA, MINIMUM, HERTZ, BPS_PER_HZ, LATENCY_S = 50, 0.5, 5, 1e6, 2.0, 0.01
ZO: dict[str, Any] = {"batch_size": 10, "directions": 5}
SIDES = (
    Side(label="fedavg, H = 5", method=FedAvg, fields={"local_steps": 5, "batch_size": 10, "fraction": 0.2, "weights": "equal"}),
    Side(label="zo_sgd", method=ZOSGD, fields=ZO),
    *[Side(label=f"H = {h}", method=FedZO, fields={**ZO, "local_steps": h, "fraction": 0.2}) for h in (1, 5, 20)],
    *[Side(label=f"H = 5, share {share}", method=FedZO, fields={**ZO, "local_steps": 5, "fraction": share}) for share in (0.1, 0.4)],
    *[
        Side(label=f"H = 5, share 0.4, air {db:g} dB", method=FedZO, fields={**ZO, "local_steps": 5, "fraction": 0.4, "over": air_sum(db)})
        for db in (inf, 0.0, -10.0)
    ],
)
FULL = Plan(cases={"digits": 20}, last=3, target=0.7, lrs=(0.1, 0.3), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={"digits": 6}, last=1, target=0.5, lrs=(0.1,), seeds=(0,), tuning_seeds=())
ABOUT = {
    "data": "digits", "model": "softmax regression", "clients": CLIENTS, "alpha": ALPHA, "minimum": MINIMUM, "device": "xavier", "cell_hz": HERTZ,
    "bps_per_hz": BPS_PER_HZ, "latency_s": LATENCY_S,
}  # fmt: skip


@lru_cache(maxsize=2)
def network(clients: int = CLIENTS) -> Network:
    """Equal devices in one cell; its base station is the server."""
    names = [f"client{k}" for k in range(clients)]
    up, down = (Cell(name=name, bandwidth_hz=HERTZ, sharing="tdma") for name in ("up", "down"))
    radio: dict[str, Any] = {"latency_s": LATENCY_S, "bps_per_hz": BPS_PER_HZ}
    places = [Place(name="station", device=EDGE_BOX, role="edge"), *(Place(name=n, device=WHALE_FL["xavier"], parent="station") for n in names)]
    links = [Link(source=n, target="station", direction="up", cell=up, **radio) for n in names]
    return Network.of(places, links + [Link(source="station", target=n, direction="down", cell=down, **radio) for n in names])


def world(case: str, seed: int) -> Scenario:
    """The data of a seed, in the cell."""
    settings = TaskSettings(partition="dirichlet", alpha=ALPHA, minimum=MINIMUM)
    task = make_task(settings, network().clients("station"), seed, model=zoo.softmax_regression(inputs=64, classes=10))
    return Scenario(name=f"claim fedzo, {case}", network=network(), task=task, seed=seed)


def fashion(case: str, seed: int) -> Scenario:
    """Clothes at 20 clients of the cell."""
    settings = TaskSettings(dataset="fashion_mnist", limit=2000, partition="dirichlet", alpha=ALPHA, minimum=MINIMUM)
    task = make_task(settings, network(20).clients("station"), seed, model=zoo.softmax_regression())
    return Scenario(name=f"claim fedzo, {case}", network=network(20), task=task, seed=seed)


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan)
    if folder is not None:
        keep("fedzo", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


WIDE: dict[str, Any] = {"batch_size": 25, "directions": 10}
REAL = (
    Claim(
        module="fedzo", data="fashion_mnist", world=fashion,
        sides=(
            Side(label="fedavg, H = 5", method=FedAvg, fields={"local_steps": 5, "batch_size": 25, "fraction": 0.25, "weights": "equal"}),
            Side(label="zo_sgd", method=ZOSGD, fields=WIDE),
            Side(label="dzopa", method=DZOPA, fields={**WIDE, "estimates": 1, "gamma": 0.025}),
            Side(label="zone_s", method=ZoneS, fields={"batch_size": 25}),
            *[Side(label=f"H = {h}", method=FedZO, fields={**WIDE, "local_steps": h, "fraction": 0.25}) for h in (1, 5, 20)],
            *[Side(label=f"H = 5, share {share}", method=FedZO, fields={**WIDE, "local_steps": 5, "fraction": share}) for share in (0.5, 1.0)],
            *[
                Side(label=f"H = 5, share 0.5, air {db:g} dB", method=FedZO, fields={**WIDE, "local_steps": 5, "fraction": 0.5, "over": air_sum(db)})
                for db in (inf, 0.0, -10.0)
            ],
        ),
        plan=Plan(cases={"fashion_mnist": 6}, last=3, target=0.55, lrs=(0.003, 0.01), seeds=(0, 1, 2), tuning_seeds=(100,)),
        small=Plan(cases={"fashion_mnist": 2}, last=1, target=0.5, lrs=(0.01,), seeds=(0,)),
        chance=0.2,
        about={
            "data": "fashion_mnist, 2,000 rows of each part", "model": "softmax regression, 7,850 values", "clients": 20, "alpha": ALPHA,
            "minimum": MINIMUM, "device": "xavier", "cell_hz": HERTZ, "bps_per_hz": BPS_PER_HZ, "latency_s": LATENCY_S,
        },
        columns=(
            ("accuracy", "accuracy", ".3f"), ("rounds_to_target", "rounds to 0.55", ".1f"), ("seconds_to_target", "seconds to 0.55", ".0f"),
            ("bytes_up", "bytes up", ".3g"),
        ),
    ),
)  # fmt: skip


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [
        ("accuracy", "accuracy", ".3f"), ("rounds_to_target", "rounds to 0.7", ".1f"), ("seconds_to_target", "seconds to 0.7", ".0f"),
        ("bytes_up", "bytes up", ".3g"),
    ]  # fmt: skip
    return table(outcome, columns)


if __name__ == "__main__":
    main(lambda: show(run(folder=RECORDS)), REAL)
