"""Claim of SplitFrozen: where every device has one label, a frozen device side and mixed batches beat averaged adapters, at less work and time.

    python -m benchmarks.claims.splitfrozen

Digits; a network of 64 and 32 hidden units is first trained on mirrored digits, then adapted with LoRA pairs of rank 4 by 20 devices of one class
each, for 20 rounds (SplitFrozen: epochs). A forward pass of a batch takes a device about as long as its activations take on 0.5 Mbit/s.

    python -m benchmarks.claims.splitfrozen --data sst2        # or mrpc

Reviews, or pairs of sentences, for 10 devices of one class each, and a language model of 260 thousand values that has read simple stories (embedding,
5 blocks, norm, head), from the folder AIRLOOM_DATA; without the extra `hf` an untrained transformer of the same depth that reads bytes.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from airloom.methods.fedlora import FedLoRA
from airloom.methods.sequential_split import SequentialSplit
from airloom.methods.splitfrozen import SplitFrozen
from airloom.models import zoo
from airloom.models.batch import Batches
from airloom.models.hf import hf_lora
from airloom.models.lora import lora
from airloom.models.module import ModelSpec
from airloom.models.step import AdamW
from airloom.models.train import train
from airloom.network.device import Device
from airloom.network.network import Network
from airloom.network.profiles import CLOUD
from airloom.network.topology import star
from airloom.scenarios.scenario import Scenario
from airloom.tasks import Dataset, TaskSettings, make_task
from airloom.tasks.datasets import load, load_text
from airloom.tasks.tokenizer import beside, by_bytes
from benchmarks.claims.harness import RECORDS, Claim, Outcome, Plan, Point, Side, keep, main, play, table

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


@dataclass(frozen=True, kw_only=True)
class Text:
    """A set of texts: rows to learn from, rows to validate and to test with, tokens of a row, rounds."""

    name: str
    rows: int
    held: int
    window: int
    rounds: int


DEVICES, TEXT_BPS, TEXT_BATCH = 10, 5e6, 8
TEXT_BOARD = replace(BOARD, speed_flops_per_s=1e9)
STORIES = Path("lm", "stories260k", "stories260K.bin")


@lru_cache(maxsize=2)
def read(text: Text) -> tuple[Dataset, ModelSpec]:
    """Rows, fewer of them, and pairs of rank 4 around a model that reads them."""
    if importlib.util.find_spec("transformers") is None:
        base = zoo.text_classifier(context=text.window, blocks=5)
        spec, tokenizer = lora(base, rank=RANK, alpha=2.0 * RANK, targets=("query", "value"), train=["classifier"]), by_bytes()
    else:
        path = Path(os.environ.get("AIRLOOM_DATA", ".")) / STORIES
        targets = ("q_proj", "v_proj")
        spec, tokenizer = hf_lora(path, rank=RANK, alpha=2.0 * RANK, targets=targets, head="classification", classes=2), beside(path)
    data, n = load_text(text.name, tokenizer, window=text.window, limit=text.rows), text.held
    held = {"x_validation": data.x_validation[:n], "y_validation": data.y_validation[:n], "x_test": data.x_test[:n], "y_test": data.y_test[:n]}
    return replace(data, **held), spec


@lru_cache(maxsize=1)
def boards() -> Network:
    """A star of equal boards that a forward pass of a batch takes about as long as its activations take on the link."""
    return star([TEXT_BOARD] * DEVICES, root=CLOUD, up_bps=TEXT_BPS, down_bps=TEXT_BPS, latency_s=0.01)


def texts(text: Text) -> Claim:
    """The claim on a set of texts."""
    data = {"batch_size": TEXT_BATCH}
    steps = -(-text.rows // DEVICES // TEXT_BATCH)

    def dealt(case: str, seed: int) -> Scenario:
        rows, spec = read(text)
        task = make_task(TaskSettings(partition="shards", classes_per_client=1), boards().clients("cloud"), seed, model=spec, dataset=rows)
        return Scenario(name=f"claim splitfrozen, {text.name}", network=boards(), task=task, seed=seed)

    return Claim(
        module="splitfrozen", data=text.name, world=dealt, more=costs, chance=0.4,
        sides=(
            Side(label="fedlora", method=FedLoRA, fields={**data, "local_steps": steps, "optimizer": ADAM}),
            Side(label="splitlora, cut 4", method=SequentialSplit, fields={**data, "local_steps": steps, "cut": 4}),
            Side(label="splitfrozen, cut 4", method=SplitFrozen, fields={**data, "cut": 4, "optimizer": ADAM}),
            Side(label="splitfrozen, cut 4, no cache", method=SplitFrozen, fields={**data, "cut": 4, "is_cached": False, "optimizer": ADAM}),
        ),
        plan=Plan(cases={text.name: text.rounds}, last=1, target=0.6, lrs=(0.003,), seeds=(0, 1, 2), tuning_seeds=()),
        small=Plan(cases={text.name: 1}, last=1, target=0.6, lrs=(0.003,), seeds=(0,), tuning_seeds=()),
        about={
            "data": text.name, "rows": text.rows, "held_rows": text.held, "window": text.window, "clients": DEVICES, "partition": "shards",
            "model": f"stories260K, rank {RANK} at q_proj and v_proj, a new head", "classes_per_client": 1,
            "speed_flops_per_s": TEXT_BOARD.speed_flops_per_s, "client_bps": TEXT_BPS, "client_latency_s": 0.01,
        },
        columns=[
            ("accuracy", "accuracy", ".3f"), ("seconds", "seconds in all", ".1f"), ("up_kb", "kB up", ".0f"), ("device_j", "J at devices", ".1f"),
        ],
    )  # fmt: skip


REAL = (texts(Text(name="sst2", rows=400, held=300, window=32, rounds=3)), texts(Text(name="mrpc", rows=200, held=150, window=128, rounds=2)))

if __name__ == "__main__":
    main(lambda: show(run(folder=RECORDS)), REAL)
