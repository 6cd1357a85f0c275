"""Long runs: whether the last thousand of 10,000 rounds cost what the first cost, what memory grows by, and how fast a long record loads.

    python benchmarks/soak.py [--json] [--rounds 10000]

FedAvg with selection, a record and checkpoints, on 20 phones of one cell that come and go (softmax regression on digits), so that everything that
keeps something per round takes part. CPU seconds. Goals: ratio within 1.1, memory flat but for the points of the curve (about 1 kB each), a record
of 100,000 points loaded in under a second.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from airloom.methods.fedavg import FedAvg
from airloom.models import zoo
from airloom.records.record import RecordWriter, load
from airloom.runner import Options, Runner
from airloom.scenarios.crowd import crowd
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task

POINTS = 100_000


def resident_mb() -> float:
    """Memory of this process now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


def rounds(total: int, folder: Path) -> dict[str, float]:
    """CPU milliseconds per round and memory over a run."""
    made = crowd(seed=0, devices=20, per_cell=20)
    names = list(made.network.clients(made.network.root))
    task = make_task(TaskSettings(partition="resample"), names, seed=0, model=zoo.softmax_regression(inputs=64, classes=10))
    world = Scenario(name="soak", network=made.network, task=task, budget={"rounds": total})
    marks: list[tuple[float, float]] = []
    part = total // 10

    def progress(point: Any) -> None:
        if point["round"] % part == 0:
            marks.append((time.process_time(), resident_mb()))

    options = Options(executor="loop", eval_every=part, checkpoint_every_s=5.0)
    Runner(world, FedAvg(fraction=0.3, local_steps=2), 0, options, folder, {"method": "FedAvg", "seed": 0}, progress).run()
    marks.append((time.process_time(), resident_mb()))
    spent = [(later[0] - sooner[0]) / part for sooner, later in pairwise(marks)]
    return {
        "ms per round, first tenth": 1e3 * spent[0],
        "ms per round, last tenth": 1e3 * spent[-1],
        "last / first tenth": spent[-1] / spent[0],
        "last / median of the others": spent[-1] / sorted(spent[:-1])[len(spent) // 2],
        "memory after a tenth (MB)": marks[1][1],
        "memory at the end (MB)": marks[-1][1],
        "growth per 1,000 rounds (MB)": (marks[-1][1] - marks[1][1]) / (total - part) * 1e3,
    }


def long_record(folder: Path) -> dict[str, float]:
    """CPU seconds to load a record of 100,000 points with twelve numbers each, best of three."""
    names = ("bytes_up", "bytes_down", "bytes_backhaul", "bytes_peer", "joules", "joules_idle", "joules_server", "clients", "accuracy", "loss")
    with RecordWriter(folder, {"method": "fedavg", "seed": 0}) as writer:
        for i in range(POINTS):
            writer.point({"seconds": 1.2345678 * i, "round": i, **{name: 1.2345678 * (i + k) for k, name in enumerate(names)}})
        writer.summary({"status": "done"})
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        assert len(load(folder).points) == POINTS
        best = min(best, time.process_time() - began)
    return {"load 100,000 points (s)": best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=10_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = rounds(given.rounds, Path(folder) / "run") | long_record(Path(folder) / "record")
    if given.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:32s} {value:10.3f}")


if __name__ == "__main__":
    main()
