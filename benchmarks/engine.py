"""What the engine costs beside the numbers it runs, and what the pool gains. Ratios of one run.

    python benchmarks/engine.py [--json] [--only overhead|pool|flush|start]

Goals: at most 5 % over a bare torch loop that does the same updates (100k-parameter MLP, 10 clients x 10 steps); a pool of two at least 1.6 times
the loop; at least 20 calls in a flush of synchronous methods on `phones`; `airloom --help` in 0.5 s; three rounds of `phones` in 5 s.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

import torch
from torch import nn

from airloom.methods.fedavg import FedAvg
from airloom.methods.hfedavg import HFedAvg
from airloom.methods.mtgc import MTGC
from airloom.methods.scaffold import Scaffold
from airloom.models import zoo
from airloom.program.method import Method
from airloom.runner import Options, Run, Runner
from airloom.scenarios.phones import phones
from airloom.scenarios.scenario import Scenario

CLIENTS, STEPS, BATCH, ROUNDS = 10, 10, 32, 8


def wide() -> Scenario:
    """Ten phones with a model of 100,000 parameters (MLP 64-292-272-10)."""
    made = phones(seed=0, devices=CLIENTS, base_stations=1)
    model = zoo.mlp(inputs=64, hidden=(292, 272), classes=10)
    return Scenario(name="wide", network=made.network, task=replace(made.task, model=model), budget={"rounds": ROUNDS})


def run(
    world: Scenario, method: Method, rounds: int, executor: str = "loop", workers: int | None = None, eval_every: int = 1_000_000, fast: str = "auto"
) -> Run:
    """A run without record."""
    options = Options(executor=executor, workers=workers, budget={"rounds": rounds}, eval_every=eval_every, checkpoint_every_s=None, fast=fast)
    return Runner(world, method, 0, options, None, {}, None).run()


def bare(world: Scenario) -> float:
    """Process seconds of a plain torch loop over the same clients, batches and steps, averaging included."""
    task = world.task
    names = list(world.network.clients(world.network.root))
    start = task.model.initial(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 292), nn.ReLU(), nn.Linear(292, 272), nn.ReLU(), nn.Linear(272, 10))
    x = torch.from_numpy(task.dataset.x_train.copy())
    y = torch.from_numpy(task.dataset.y_train.copy()).long()
    loss = nn.CrossEntropyLoss()
    vector = start.flat.clone()
    began = time.process_time()
    for t in range(ROUNDS):
        total = torch.zeros_like(vector, dtype=torch.float64)
        for name in names:
            ids = torch.from_numpy(task.sample_ids(name, t * STEPS * BATCH, STEPS * BATCH, 0))
            nn.utils.vector_to_parameters(vector, module.parameters())
            optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
            xs, ys = x[ids], y[ids]
            for k in range(STEPS):
                rows = slice(k * BATCH, (k + 1) * BATCH)
                optimizer.zero_grad()
                loss(module(xs[rows]), ys[rows]).backward()
                optimizer.step()
            total.add_(nn.utils.parameters_to_vector(module.parameters()).detach(), alpha=1.0 / len(names))
        vector = total.float()
    return time.process_time() - began


def overhead() -> dict[str, float]:
    """Engine over bare loop, process seconds, medians of interleaved repetitions."""
    world = wide()
    method = FedAvg(local_steps=STEPS, batch_size=BATCH, weights="equal")
    ratios: list[float] = []
    for _ in range(9):
        began = time.process_time()
        run(world, method, ROUNDS, fast="off")  # the same steps, so that the difference is the engine
        engine_s = time.process_time() - began
        ratios.append(engine_s / bare(world))
    return {"engine / bare torch loop": statistics.median(ratios[1:]), "its best": min(ratios), "its worst": max(ratios[1:])}


def pool() -> dict[str, float]:
    """Loop over pool of two, wall seconds after start-up, and whether the digests agree; beside it what two loops at once gain."""
    world = phones(seed=0)
    method = FedAvg(**world.suited["fedavg"])  # what `airloom run fedavg --scenario phones` runs
    ratios: list[float] = []
    limits: list[float] = []
    for _ in range(4):
        seconds: dict[str, float] = {}
        digests: list[str] = []
        for name in ("loop", "pool"):
            began = time.perf_counter()
            done = run(world, method, 6, name, 2)
            seconds[name] = time.perf_counter() - began
            digests.append(done.summary["digest"])
        assert digests[0] == digests[1], "the pool must compute what the loop computes"
        ratios.append(seconds["loop"] / seconds["pool"])
        began = time.perf_counter()
        both = [multiprocessing.get_context("fork").Process(target=run, args=(world, method, 6)) for _ in range(2)]
        for process in both:
            process.start()
        for process in both:
            process.join()
        limits.append(2 * seconds["loop"] / (time.perf_counter() - began))
    return {
        "loop / pool of two": statistics.median(ratios),
        "the pool's best": max(ratios),
        "the pool's worst": min(ratios),
        "two loops at once / one after the other": statistics.median(limits),
        "pool / two loops at once": statistics.median(ratios) / statistics.median(limits),
    }


def flush() -> dict[str, float]:
    """Calls per flush on phones."""
    world = phones(seed=0)
    found: dict[str, float] = {}
    for method in (FedAvg(), Scaffold(), HFedAvg(), MTGC()):
        done = run(world, method, 3)
        found[f"calls per flush, {type(method).__name__}"] = done.summary["calls"] / done.summary["flushes"]
    return found


def start() -> dict[str, float]:
    """Whole processes, best of three, wall seconds."""
    found: dict[str, float] = {}
    for name, words in (("airloom --help", ["--help"]), ("airloom run, 3 rounds", ["run", "fedavg", "--scenario", "phones", "--budget", "rounds=3"])):
        best = float("inf")
        for _ in range(3):
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                subprocess.run([sys.executable, "-m", "airloom", *words], cwd=folder, check=True, capture_output=True)
                best = min(best, time.perf_counter() - began)
        found[f"{name} (s)"] = best
    return found


PARTS = {"overhead": overhead, "pool": pool, "flush": flush, "start": start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=sorted(PARTS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    for name, part in PARTS.items():
        if given.only in (None, name):
            found |= part()
    if given.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:40s} {value:8.3f}")


if __name__ == "__main__":
    main()
