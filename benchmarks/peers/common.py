"""What all peers share: the work as arrays, the clock of a run, and the line they print. Needs numpy alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

BEGAN = time.perf_counter()
FILE = os.environ["PEER_WORK"]
WORK: dict[str, Any] = {name: value for name, value in np.load(FILE).items()}
X, Y, ROWS = WORK["x"], WORK["y"], WORK["rows"]  # rows: [round, client, step, batch] row ids
START = [WORK[name] for name in ("w0", "b0", "w1", "b1")]  # as torch keeps them: [out, in]
LR = float(WORK["lr"])
ROUNDS, CLIENTS, STEPS, BATCH = ROWS.shape


def final_loss(values: list[Any]) -> float:
    """Mean cross entropy of a model on all rows, in float64."""
    w0, b0, w1, b1 = (np.asarray(v, np.float64) for v in values)
    z = np.maximum(X.astype(np.float64) @ w0.T + b0, 0.0) @ w1.T + b1
    z -= z.max(1, keepdims=True)
    return float((np.log(np.exp(z).sum(1)) - z[np.arange(len(Y)), Y]).mean())


class Report:
    """Stamps the end of each round, and prints the result."""

    def __init__(self) -> None:
        self.wall = [time.perf_counter()]
        self.cpu = [time.process_time()]

    def round(self) -> None:
        """A round has ended."""
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def end(self, values: list[Any], note: str = "") -> None:
        """The run has ended with these weights."""
        with open("/proc/self/status", encoding="ascii") as file:  # getrusage would give the peak of the process that started this one
            peak_kb = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
        line = {
            "first_s": self.wall[1] - BEGAN,
            "wall_s": np.diff(self.wall).tolist(),
            "cpu_s": np.diff(self.cpu).tolist(),
            "peak_mb": peak_kb / 1024,
            "loss": final_loss(values),
            "note": note,
        }
        print("RESULT " + json.dumps(line), flush=True)


def loop(client: Callable[[list[Any], int, int], list[np.ndarray]]) -> None:
    """Rounds of averaging around a function of a client."""
    report, values = Report(), [v.copy() for v in START]
    for r in range(ROUNDS):
        sums = [np.zeros(v.shape, np.float64) for v in values]
        for k in range(CLIENTS):
            for total, new in zip(sums, client(values, r, k), strict=True):
                total += new
        values = [(total / CLIENTS).astype(np.float32) for total in sums]
        report.round()
    report.end(values)
