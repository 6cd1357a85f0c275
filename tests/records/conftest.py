"""Made-up runs: saturating curves with a little noise, as a training run would leave them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from airloom.clock.rng import generator
from airloom.records.record import Record, RecordWriter, load


class Factory:
    """Writes synthetic records below one folder and reads them back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(
        self,
        method: str = "fedavg",
        seed: int = 0,
        *,
        rounds: int = 60,
        round_s: float = 10.0,
        rounds_to_learn: float = 15.0,
        best: float = 0.95,
        round_bytes: float = 2e6,
        round_j: float = 40.0,
        noise: float = 0.01,
        status: str | None = "done",
        header: dict[str, Any] | None = None,
    ) -> Record:
        """Write one run whose accuracy goes from 0.1 to `best` within some multiples of `rounds_to_learn`."""
        rng = generator(seed, "curve", method)
        world = math.exp(0.2 * float(generator(seed, "world").standard_normal()))
        folder = self.folder / f"{method}-{seed}"
        fields = {"scenario": "phones", "method": method, "seed": seed, "clock": "simulated", **(header or {})}
        with RecordWriter(folder, fields) as writer:
            point: dict[str, Any] = {}
            for r in range(rounds + 1):
                accuracy = best - (best - 0.1) * math.exp(-r / (rounds_to_learn * world))
                accuracy = min(1.0, accuracy + noise * float(rng.standard_normal()))
                point = {
                    "seconds": r * round_s * world,
                    "bytes_up": int(0.5 * r * round_bytes),
                    "bytes_down": int(0.5 * r * round_bytes),
                    "bytes_backhaul": 0,
                    "bytes_peer": 0,
                    "joules": r * round_j * world,
                    "joules_idle": 0.0,
                    "joules_server": 0.0,
                    "round": r,
                    "accuracy": accuracy,
                    "loss": -math.log(max(accuracy, 1e-3)),
                }
                writer.point(point)
            if status is not None:
                totals = {name: value for name, value in point.items() if name not in ("accuracy", "loss")}
                writer.summary({"status": status, **totals, "devices": {"phone0": {"joules": 1.0}}, "digest": "00"})
        return load(folder)


@pytest.fixture
def factory(tmp_path: Path) -> Factory:
    return Factory(tmp_path)
