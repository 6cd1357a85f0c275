"""Claim of SplitFrozen: where every device has one label, a frozen device side and mixed batches beat averaged adapters, at less work and time.

    python -m benchmarks.claims.splitfrozen

Digits; a network of 64 and 32 hidden units is first trained on mirrored digits, then adapted with LoRA pairs of rank 4 by 20 devices of one class
each, for 20 rounds (SplitFrozen: epochs). A forward pass of a batch takes a device about as long as its activations take on 0.5 Mbit/s.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from airloom.methods.fedlora import FedLoRA
from airloom.methods.sequential_split import SequentialSplit
from airloom.methods.splitfrozen import SplitFrozen
from airloom.models import zoo
from airloom.models.batch import Batches
from airloom.models.lora import lora
from airloom.models.module import ModelSpec
from airloom.models.step import AdamW
from airloom.models.train import train
from airloom.network.device import Device
from airloom.network.network import Network
from airloom.network.profiles import CLOUD
from airloom.network.topology import star
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.datasets import load
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Point, Side, keep, play, table

CLIENTS, RANK = 20, 4
CASES = {"0.5 Mbit/s": 0.5e6, "5 Mbit/s": 5e6}
ADAM = AdamW(weight_decay=0.0)
SIDES = (
    Side(label="fedlora", method=FedLoRA, fields={"local_steps": 8, "batch_size": 8, "optimizer": ADAM}),
    Side(label="splitlora", method=SequentialSplit, fields={"local_steps": 8, "batch_size": 8, "cut": 1}),
    Side(label="splitfrozen, cut 1", method=SplitFrozen, fields={"cut": 1, "batch_size": 8, "optimizer": ADAM}),
    Side(label="splitfrozen, cut 2", method=SplitFrozen, fields={"cut": 2, "batch_size": 8, "optimizer": ADAM}),
    Side(label="splitfrozen, cut 1, no cache", method=SplitFrozen, fields={"cut": 1, "batch_size": 8, "is_cached": False, "optimizer": ADAM}),
)
FULL = Plan(cases=dict.fromkeys(CASES, 20), last=3, target=0.7, lrs=(0.003, 0.01, 0.03), seeds=(0, 1, 2), tuning_seeds=(100,))
SMALL = Plan(cases={"0.5 Mbit/s": 5}, last=2, target=0.7, lrs=(0.01,), seeds=(0,), tuning_seeds=())
BOARD = Device(profile="small board", speed_flops_per_s=5e6, efficiency=1.0, memory_bytes=2e9, baseline_bytes=0.5e9, power_w=3.0, idle_power_w=0.5)
ABOUT = {
    "data": "digits", "model": f"mlp 64-64-32, pretrained on mirrored digits, rank {RANK}", "clients": CLIENTS, "partition": "shards",
    "classes_per_client": 1, "speed_flops_per_s": BOARD.speed_flops_per_s, "client_bps": CASES, "client_latency_s": 0.01,
}  # fmt: skip


@lru_cache(maxsize=1)
def adapted() -> ModelSpec:
    """Pairs around a network that knows mirrored digits."""
    data, base = load("digits"), zoo.mlp(inputs=64, hidden=(64, 32), classes=10)
    x = torch.from_numpy(np.ascontiguousarray(data.x_train[..., ::-1])).flatten(1)
    rows = torch.from_numpy(np.random.default_rng(0).integers(len(x), size=(800, 32)))
    values, _ = train(base.initial(0), Batches.of(x, torch.from_numpy(data.y_train), rows), lr=0.2)
    return lora(base, rank=RANK, alpha=2.0 * RANK, values=values)


@lru_cache(maxsize=2)
def network(case: str) -> Network:
    """A star of equal boards."""
    return star([BOARD] * CLIENTS, root=CLOUD, up_bps=CASES[case], down_bps=CASES[case], latency_s=0.01)


def world(case: str, seed: int) -> Scenario:
    """The data of a seed, one class per device."""
    settings = TaskSettings(partition="shards", classes_per_client=1)
    task = make_task(settings, network(case).clients("cloud"), seed, model=zoo.mlp(inputs=64, hidden=(64, 32), classes=10))
    return Scenario(name="claim splitfrozen", network=network(case), task=replace(task, model=adapted()), seed=seed)


def costs(points: Sequence[Point]) -> Mapping[str, float | None]:
    """What a run costs: seconds, bytes up, joules of the devices."""
    end = points[-1] if points else {}
    return {"up_kb": end["bytes_up"] / 1e3 if end else None, "device_j": end.get("joules")}


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s = time.process_time()
    outcome = play(world, SIDES, plan, costs)
    if folder is not None:
        keep("splitfrozen", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [
        ("accuracy", "accuracy", ".3f"), ("seconds_to_target", "seconds to 0.7", ".2f"), ("seconds", "seconds in all", ".1f"),
        ("up_kb", "kB up", ".0f"), ("device_j", "J at devices", ".2f"),
    ]  # fmt: skip
    return table(outcome, columns)


if __name__ == "__main__":
    print(show(run(folder=RECORDS)))
