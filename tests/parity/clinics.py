"""Three clinics behind one server, for runs on real machines."""

from __future__ import annotations

from airloom.models import zoo
from airloom.network.device import Device
from airloom.network.topology import Level, tree
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task


def clinics(
    *, seed: int, clients: int = 3, detect_s: float = 60.0, task: TaskSettings = TaskSettings(partition="dirichlet", alpha=1.0, limit=300)
) -> Scenario:
    """Digits at a few clinics with wired lines; a node of a busy machine is not given up soon."""
    box = Device(
        profile="box", speed_flops_per_s=20e9, efficiency=0.3, memory_bytes=4e9, baseline_bytes=1e9, power_w=30.0, idle_power_w=5.0
    )  # fmt: skip
    network = tree([Level(name="clinic", count=clients, devices=box, up_bps=1e8, down_bps=1e8, latency_s=0.01)], root=box, detect_s=detect_s)
    learned = make_task(task, list(network.clients(network.root)), seed=seed, model=zoo.mlp(inputs=64, hidden=(8,), classes=10))
    return Scenario(name="clinics", network=network, task=learned, target=("accuracy", 0.9), budget={"rounds": 3}, seed=seed)


def alert(*, seed: int) -> Scenario:
    """The same where a node that is silent for 16 s is given up."""
    return clinics(seed=seed, detect_s=16.0)
