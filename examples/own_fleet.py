"""A scenario of your own: devices and a link trace from CSV files, data from arrays, a model from an nn.Module.

Run it from the repository's root: `airloom compare fedavg fedbuff --scenario examples/own_fleet.py`. docs/tutorial_own_fleet.md goes through it step
by step. Devices, trace and signals are made up; nothing here was measured.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from airloom.models.module import model
from airloom.network.profiles import CLOUD, devices_from_csv
from airloom.network.topology import star
from airloom.network.trace import Trace
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.adapters import from_arrays

FOLDER = Path(__file__).parent


def signals(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Vibration of a motor, 64 points in time: four states with different overtones, in noise. Returns x (rows, 1, 64) and y (rows,)."""
    rng = np.random.default_rng(7)
    y = rng.integers(0, 4, rows)
    t, phase = np.arange(64) / 64, rng.uniform(0, 2 * np.pi, (rows, 1))
    x = np.sin(2 * np.pi * 3 * t + phase) + 0.7 * np.sin(2 * np.pi * (6 + 3 * y[:, None]) * t + 2 * phase)
    return (x + rng.normal(0, 0.5, x.shape))[:, None], y


def network_1d() -> nn.Module:
    """Two convolutions along time and a linear layer; 3,124 values."""
    return nn.Sequential(nn.Conv1d(1, 16, 9, stride=2), nn.ReLU(), nn.Conv1d(16, 16, 9, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(160, 4))


def own_fleet(*, seed: int, latency_s: float = 0.04, task: TaskSettings = TaskSettings(alpha=0.3)) -> Scenario:
    """Meters, boards and gateways behind a cellular up-link that fades every twenty seconds."""
    devices = devices_from_csv(FOLDER / "devices.csv")
    up = Trace.from_csv(FOLDER / "uplink.csv", rate_column="kbps", scale=1e3, period_s=20.0)
    network = star(devices, root=CLOUD, up_bps=[up] * 10 + [20e6] * 2, down_bps=2e6, latency_s=latency_s, framing_bytes=64, detect_s=1.0)
    data = from_arrays("motor", *signals(1500))
    learned = make_task(task, list(devices), seed=seed, model=model(network_1d), dataset=data)
    return Scenario(name="own_fleet", network=network, task=learned, target=("accuracy", 0.9), budget={"seconds": 300.0}, seed=seed)
