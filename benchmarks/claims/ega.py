"""Claim of EGA: averaging codes keeps what training learns, and a single code shows far less of an input than its gradient does.

    python -m benchmarks.claims.ega

Digits, MLP 64-32, 20 clients with Dirichlet(0.5), 8 of them per round, 25 rounds. What a client's message shows is measured on single samples of a
linear model, by inversion of its gradient: the raw one, its code, or the code as whoever holds D decodes it.

    python -m benchmarks.claims.ega --data fashion_mnist

Fashion-MNIST, a convolutional network, 50 clients with Dirichlet(0.5), 10 of them per round, 15 rounds: what the code costs.
"""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from airloom.clock.rng import generator
from airloom.methods.fedavg import FedAvg
from airloom.models import zoo
from airloom.models.batch import Batch
from airloom.models.objective import CrossEntropy
from airloom.models.params import Params
from airloom.models.train import grad
from airloom.network.device import RadioEnergy
from airloom.network.network import Network
from airloom.network.profiles import CLOUD, phone
from airloom.network.topology import star
from airloom.parts.blockcode import coded, orthogonal, rounded, trained
from airloom.parts.protect import Unprotected
from airloom.scenarios.scenario import Scenario
from airloom.security.ega import EGA
from airloom.security.gradient_inversion import invert, leakage
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.datasets import load
from benchmarks.claims.harness import RECORDS, Claim, Outcome, Plan, Side, keep, main, play, table

CLIENTS, ALPHA, PROBES, BPS, LATENCY_S = 20, 0.5, 20, 5e6, 0.03
LOCAL: dict[str, Any] = {"local_steps": 5, "batch_size": 16, "fraction": 0.4}
TRAINED: dict[str, Any] = {"codec": "trained", "levels": 8}
SECRET = 7  # the clients'; the server does not have it
PROTECTIONS: dict[str, Any] = {
    "fedavg": Unprotected(),
    "rounding alone": EGA(block=1, secret=SECRET),  # blocks of one value: a code that changes signs at most
    "rotation": EGA(secret=SECRET),
    "rotation, noise 0.1": EGA(secret=SECRET, sigma=0.1),
    "rotation, noise 0.1 in pairs": EGA(secret=SECRET, sigma=0.1, noise="zero_sum"),
    "rotation, the server decodes": EGA(secret=SECRET, decoder="server"),
    "trained codec": EGA(secret=SECRET, **TRAINED),
}
SIDES = tuple(Side(label=label, method=FedAvg, fields={**LOCAL, "protect": protect}) for label, protect in PROTECTIONS.items())
FULL = Plan(cases={"digits": 25}, last=5, target=0.85, lrs=(0.1, 0.3), seeds=(0, 1, 2), tuning_seeds=(100,))
ABOUT = {
    "data": "digits", "model": "MLP 64-32", "clients": CLIENTS, "alpha": ALPHA, "probes": PROBES, "device": "median phone", "bps": BPS,
    "latency_s": LATENCY_S,
}  # fmt: skip


@lru_cache(maxsize=2)
def network(clients: int = CLIENTS) -> Network:
    """Equal devices on equal links."""
    names = [f"client{i}" for i in range(clients)]
    return star(dict.fromkeys(names, phone(0.5, radio=RadioEnergy.measured("lte"))), root=CLOUD, up_bps=BPS, down_bps=BPS, latency_s=LATENCY_S)


@lru_cache(maxsize=8)
def world(case: str, seed: int) -> Scenario:
    """The data of a seed, on the star."""
    task = make_task(
        TaskSettings(partition="dirichlet", alpha=ALPHA), network().clients(network().root), seed, model=zoo.mlp(inputs=64, hidden=(32,))
    )
    return Scenario(name=f"claim ega, {case}", network=network(), task=task, seed=seed)


def shown(protect: Any, seed: int) -> float:
    """Mean share of an input that the server can read off a client's message, over single samples of a linear model."""
    data, spec, rng = load("digits"), zoo.softmax_regression(inputs=64), generator(seed, "claim ega")
    found = []
    for i in rng.choice(len(data.y_train), PROBES, replace=False):
        x, y = torch.from_numpy(data.x_train[i : i + 1]).flatten(1), torch.from_numpy(data.y_train[i : i + 1])
        g, _ = grad(spec.initial(seed), Batch(x, y), objective=CrossEntropy())
        found.append(leakage(invert(Params(spec, seen(protect, g.flat, rng)), "out"), x[0]))
    return fmean(found)


def seen(protect: Any, flat: torch.Tensor, rng: Any) -> torch.Tensor:
    """What the server sees of an update, as long as the update; noise in pairs is noise to whoever sees one message."""
    if not isinstance(protect, EGA):
        return flat
    B, s, scale = protect.block, protect.levels, float(flat.abs().max())
    rows = -(-len(flat) // B)
    q = rounded(torch.nn.functional.pad(flat, (0, rows * B - len(flat))).view(rows, B) * (s / scale), rng) / s
    codec = orthogonal(B, SECRET)
    if protect.codec == "trained":
        codec = trained(B, protect.hidden, protect.groups, protect.steps, s, protect.sigma, SECRET)
    z = coded(codec, "E", q)
    z = z + protect.sigma * torch.from_numpy(rng.normal(size=tuple(z.shape))).to(z.dtype)
    return (coded(codec, "D", z) if protect.decoder == "server" else z).reshape(-1)[: len(flat)]


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan)
    for row in outcome.rows:
        row["shown"] = shown(PROTECTIONS[row["side"]], row["seed"])
    if folder is not None:
        keep("ega", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [
        ("accuracy", "accuracy", ".3f"), ("shown", "input shown", ".3f"), ("seconds", "seconds", ".3g"), ("joules", "joules", ".3g"),
        ("bytes_up", "bytes up", ".3g"), ("rounds_to_target", "rounds to 0.85", ".0f"), ("seconds_to_target", "seconds to 0.85", ".2f"),
    ]  # fmt: skip
    return table(outcome, columns)


WEARERS, FASHION_ROWS = 50, 2000
CNN = zoo.cnn(widths=(4, 8), hidden=16)


@lru_cache(maxsize=2)
def fashion(case: str, seed: int) -> Scenario:
    """Clothes of unlike mixes, on a larger star."""
    settings = TaskSettings(dataset="fashion_mnist", limit=FASHION_ROWS, partition="dirichlet", alpha=ALPHA)
    task = make_task(settings, network(WEARERS).clients("cloud"), seed, model=CNN)
    return Scenario(name="claim ega, fashion_mnist", network=network(WEARERS), task=task, seed=seed)


WORN: dict[str, Any] = {"local_steps": 10, "batch_size": 8, "fraction": 0.2}
REAL = (
    Claim(
        module="ega", data="fashion_mnist", world=fashion, chance=0.2,
        sides=tuple(
            Side(label=label, method=FedAvg, fields={**WORN, "protect": PROTECTIONS[label]})
            for label in ("fedavg", "rotation", "trained codec")
        ),
        plan=Plan(cases={"fashion_mnist": 15}, last=3, target=0.65, lrs=(0.1,), seeds=(0, 1, 2)),
        small=Plan(cases={"fashion_mnist": 3}, last=1, target=0.65, lrs=(0.1,), seeds=(0,)),
        about={
            **ABOUT, "data": f"fashion_mnist, {FASHION_ROWS:,} rows of each part", "model": "cnn 4-8-16, 6,806 values", "clients": WEARERS,
            "probes": None,
        },
        columns=[
            ("accuracy", "accuracy", ".3f"), ("seconds", "seconds", ".3g"), ("joules", "joules", ".3g"), ("bytes_up", "bytes up", ".3g"),
            ("rounds_to_target", "rounds to 0.65", ".0f"), ("seconds_to_target", "seconds to 0.65", ".3g"),
        ],
    ),
)  # fmt: skip

if __name__ == "__main__":
    main(lambda: show(run(folder=RECORDS)), REAL)
