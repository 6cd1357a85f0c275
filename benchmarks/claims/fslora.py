"""Claim of FSLoRA: with unequal ranks, random rank rows end at a higher accuracy than the first rows padded with zeros (HetLoRA), at equal bytes.

    python -m benchmarks.claims.fslora [--data fashion_mnist|fashion_rank|shakespeare]

Digits, an MLP with two hidden layers pretrained on the digits 0 to 4, LoRA pairs of rank 16 in all three layers and nothing else that is trained;
AdamW at the clients; 20 clients, Dirichlet(0.1), six of them in a round, budgets of 2, 4 and 8 rank rows. Also FlexLoRA, whose server decomposes
the products, FLoRA, whose server stacks the pairs, and FedLoRA at the least budget. With Fashion-MNIST a transformer of two blocks on patches,
pretrained on the classes 0 to 4, and also FedLoRA at the whole rank, and a sketch of which a quarter of the values is sent; fashion_rank has four
rank rows at each client, of a global rank that grows. With Shakespeare the small pretrained language model that knows stories, and roles as clients.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from airloom.clock.rng import generator, seed_of
from airloom.methods.fedlora import FedLoRA
from airloom.methods.flexlora import FlexLoRA
from airloom.methods.flora import FLoRA
from airloom.methods.fslora import FSLoRA
from airloom.methods.hetlora import HetLoRA
from airloom.models import zoo
from airloom.models.batch import Batches
from airloom.models.hf import hf_lora, outputs
from airloom.models.lora import lora
from airloom.models.module import ModelSpec
from airloom.models.params import Params
from airloom.models.step import AdamW
from airloom.models.train import train
from airloom.network.device import RadioEnergy
from airloom.network.network import Network
from airloom.network.profiles import CLOUD, phone
from airloom.network.topology import star
from airloom.parts.codec import TopK
from airloom.scenarios.lora_phones import LLAMA_TARGETS
from airloom.scenarios.scenario import Scenario
from airloom.tasks import Dataset, TaskSettings, load, load_text, make_task
from airloom.tasks.embedded import pretrained
from airloom.tasks.tokenizer import beside
from benchmarks.claims.harness import RECORDS, Claim, Outcome, Plan, Side, keep, main, play, table

CASE = "k / r in {1/8, 1/4, 1/2}"
CLIENTS, RANK, BUDGETS, ALPHA, MINIMUM, RANKS = 20, 16, (2, 4, 8), 0.1, 5, (4, 16, 64)
WINDOW, MINIMUM_WINDOWS = 32, 20
FIELDS: dict[str, Any] = {"local_steps": 10, "batch_size": 16, "fraction": 0.3, "optimizer": AdamW(weight_decay=0.0)}
SIDES = (
    Side(label="fedlora, k = 2", method=FedLoRA, fields=FIELDS),
    Side(label="hetlora, equal", method=HetLoRA, fields={**FIELDS, "weights": "equal"}),
    Side(label="hetlora, norm", method=HetLoRA, fields=FIELDS),
    Side(label="flexlora", method=FlexLoRA, fields=FIELDS),
    Side(label="flora", method=FLoRA, fields={**FIELDS, "weights": "equal"}),
    Side(label="fslora", method=FSLoRA, fields=FIELDS),
)
FULL = Plan(cases={CASE: 12}, last=3, target=0.55, lrs=(0.003, 0.01, 0.03), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={CASE: 4}, last=2, target=0.55, lrs=(0.01,), seeds=(0,), tuning_seeds=())
ABOUT = {
    "data": "digits", "model": "mlp 64-64-64-10, pretrained on the digits 0 to 4", "rank": RANK, "scale": 1.0, "budgets": list(BUDGETS),
    "clients": CLIENTS, "alpha": ALPHA, "minimum": MINIMUM, "device": "median phone", "client_bps": 5e6, "client_latency_s": 0.01,
}  # fmt: skip


@lru_cache(maxsize=1)
def model() -> ModelSpec:
    """Pairs in all layers of a pretrained MLP; scale 1 for every rank."""
    values = pretrained(zoo.mlp(inputs=64, hidden=(64, 64), classes=10))
    return lora(values.spec, rank=RANK, values=values)


@lru_cache(maxsize=2)
def network(rank_rows: tuple[int, ...] = BUDGETS) -> Network:
    """Equal phones on equal links; they differ in the rank rows that they declare to have memory for."""
    equal = star([phone(0.5, radio=RadioEnergy.measured("lte"))] * CLIENTS, root=CLOUD, up_bps=5e6, down_bps=5e6, latency_s=0.01)
    clients = equal.clients(equal.root)
    budgets = {name: rank_rows[i % len(rank_rows)] for i, name in enumerate(clients)}
    places = [replace(place, facts={"rank": budgets[name]}) if name in budgets else place for name, place in equal.places.items()]
    return Network.of(places, equal.links.values())


def fashion_values(base: ModelSpec) -> Params:
    """Values of a model that 300 steps have taught the classes 0 to 4 of Fashion-MNIST."""
    data = load("fashion_mnist", limit=4000)
    rows = np.flatnonzero(data.y_train < 5)
    chosen = torch.from_numpy(generator("claim fslora", "batches").choice(rows, (300, 32)))
    batches = Batches.of(torch.from_numpy(data.x_train.copy()), torch.from_numpy(data.y_train.copy()), chosen)
    return train(base.initial(seed_of("claim fslora", "initial")), batches, lr=2e-3, optimizer=AdamW())[0]


@lru_cache(maxsize=4)
def patches(rank: int = RANK) -> ModelSpec:
    """Pairs in a transformer on 16 patches of 7 x 7 pixels; the head is trained too."""
    base = zoo.patch_transformer(size=28, patch=7, width=32, blocks=2, classes=10)
    targets = ("query", "value", "up", "down")
    return lora(base, rank=rank, alpha=4.0 * RANK**0.5, scaling="alpha/sqrt(r)", targets=targets, train=["out"], values=fashion_values(base))


def fashion(case: str, seed: int) -> Scenario:
    """Clothes at the phones of the star; all of them train four rank rows where the case names a global rank."""
    phones, rank = (network(), RANK) if case == CASE else (network((4,)), int(case.rpartition(" ")[2]))
    settings = TaskSettings(dataset="fashion_mnist", limit=1500, alpha=ALPHA, minimum=MINIMUM)
    task = make_task(settings, list(phones.clients(phones.root)), seed, model=patches(rank))
    return Scenario(name="claim fslora", network=phones, task=task, seed=seed)


@lru_cache(maxsize=1)
def stories() -> tuple[Dataset, ModelSpec]:
    """Shakespeare in the tokens of a Llama of 260,000 values that has read short stories; 100 windows for each evaluation."""
    file = Path(os.environ["AIRLOOM_DATA"]) / "lm" / "stories260k" / "stories260K.bin"
    spec = hf_lora(file, rank=RANK, alpha=4.0 * RANK**0.5, scaling="alpha/sqrt(r)", targets=LLAMA_TARGETS)
    data, rng = load_text("shakespeare", beside(str(file)), os.environ["AIRLOOM_DATA"], window=WINDOW), generator("claim fslora", "windows")
    kept: dict[str, Any] = {"classes": outputs(spec)}
    for part in ("validation", "test"):
        x, y, natural = data.part(part)
        rows = rng.choice(len(y), 100, replace=False)
        kept |= {f"x_{part}": x[rows], f"y_{part}": y[rows], f"natural_{part}": None if natural is None else natural[rows]}
    return replace(data, **kept), spec


def shakespeare(case: str, seed: int) -> Scenario:
    """Twenty roles at the phones of the star."""
    data, spec = stories()
    settings = TaskSettings(dataset="shakespeare", partition="natural", minimum=MINIMUM_WINDOWS)
    task = make_task(settings, list(network().clients(network().root)), seed, model=spec, dataset=data)
    return Scenario(name="claim fslora", network=network(), task=task, seed=seed)


def world(case: str, seed: int) -> Scenario:
    """The data of a seed, on the star."""
    names = network().clients(network().root)
    task = make_task(TaskSettings(alpha=ALPHA, minimum=MINIMUM), list(names), seed, model=model())
    return Scenario(name="claim fslora", network=network(), task=task, seed=seed)


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan)
    if folder is not None:
        keep("fslora", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


FASHION = {
    "data": "fashion_mnist, 1,500 rows of each part", "model": "patch_transformer 28 / 7, 32, 2 blocks, pretrained on the classes 0 to 4",
    "alpha": 4.0 * RANK**0.5, "scaling": "alpha/sqrt(r)", "targets": ["query", "value", "up", "down"], "trained": ["out"],
    "clients": CLIENTS, "dirichlet": ALPHA, "minimum": MINIMUM, "device": "median phone", "client_bps": 5e6, "client_latency_s": 0.01,
}  # fmt: skip
REAL = (
    Claim(
        module="fslora", data="fashion_mnist", world=fashion,
        sides=(
            *[replace(side, fields={**side.fields, "local_steps": 5}) for side in SIDES],
            Side(label="fslora, a quarter sent", method=FSLoRA, fields={**FIELDS, "local_steps": 5, "codec": TopK(share=0.25)}),
            Side(label="fedlora, k = 16", method=FedLoRA, fields={**FIELDS, "local_steps": 5, "rank": RANK}),
        ),
        plan=Plan(cases={CASE: 6}, last=2, target=0.5, lrs=(0.003, 0.01), seeds=(0, 1, 2), tuning_seeds=(100,)),
        small=Plan(cases={CASE: 2}, last=1, target=0.5, lrs=(0.003,), seeds=(0,)),
        chance=0.43,  # of the pretrained model
        about={**FASHION, "rank": RANK, "budgets": list(BUDGETS)},
        columns=(
            ("accuracy", "accuracy", ".3f"), ("rounds_to_target", "rounds to 0.5", ".1f"), ("seconds_to_target", "seconds to 0.5", ".2f"),
            ("seconds", "seconds in all", ".3f"), ("server_s", "server ms", ".2f"), ("bytes_up", "bytes up", ".3g"),
            ("bytes_down", "bytes down", ".3g"),
        ),
        more=lambda points: {"server_s": 1e3 * sum(point.get("server_s", 0.0) for point in points)},
    ),
    Claim(
        module="fslora", data="fashion_rank", world=fashion,
        sides=(Side(label="fslora", method=FSLoRA, fields={**FIELDS, "local_steps": 5}),),
        plan=Plan(cases={f"k = 4, r = {r}": 6 for r in RANKS}, last=2, target=0.5, lrs=(0.003, 0.01), seeds=(0, 1, 2), tuning_seeds=(100,)),
        small=Plan(cases={"k = 4, r = 16": 2}, last=1, target=0.5, lrs=(0.003,), seeds=(0,)),
        chance=0.4,
        about={**FASHION, "rank": list(RANKS), "budgets": [4]},
        columns=(("accuracy", "accuracy", ".3f"), ("seconds", "seconds in all", ".3f"), ("bytes_up", "bytes up", ".3g")),
    ),
    Claim(
        module="fslora", data="shakespeare", world=shakespeare, judged="loss",
        sides=tuple(replace(side, fields={**side.fields, "local_steps": 4, "batch_size": 8}) for side in SIDES if side.label != "hetlora, norm"),
        plan=Plan(cases={CASE: 6}, last=1, target=0.3, lrs=(0.003,), seeds=(0, 1, 2)),
        small=Plan(cases={CASE: 1}, last=1, target=0.3, lrs=(0.003,), seeds=(0,)),
        chance=0.1,
        about={
            "data": f"shakespeare, windows of {WINDOW} tokens, 100 for each evaluation", "model": "stories260K, a Llama of 260,032 values, frozen",
            "rank": RANK, "alpha": 4.0 * RANK**0.5, "scaling": "alpha/sqrt(r)", "targets": list(LLAMA_TARGETS), "budgets": list(BUDGETS),
            "clients": CLIENTS, "partition": "natural", "minimum": MINIMUM_WINDOWS, "device": "median phone", "client_bps": 5e6,
            "client_latency_s": 0.01,
        },
        columns=(
            ("loss", "loss per token", ".3f"), ("accuracy", "tokens right", ".3f"), ("seconds", "seconds in all", ".2f"),
            ("bytes_up", "bytes up", ".3g"), ("bytes_down", "bytes down", ".3g"),
        ),
        more=lambda points: {"loss": points[-1]["loss"] if points else None},
    ),
)  # fmt: skip


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [
        ("accuracy", "accuracy", ".3f"), ("rounds_to_target", "rounds to 0.55", ".1f"), ("seconds_to_target", "seconds to 0.55", ".1f"),
        ("seconds", "seconds in all", ".3f"), ("bytes_up", "bytes up", ".3g"), ("bytes_down", "bytes down", ".3g"),
    ]  # fmt: skip
    return table(outcome, columns)


if __name__ == "__main__":
    main(lambda: show(run(folder=RECORDS)), REAL)
