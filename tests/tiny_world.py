"""A scenario that runs in a fraction of a second, for the tests of everything that takes a scenario file."""

from __future__ import annotations

from airloom.models import zoo
from airloom.network.device import Device
from airloom.network.topology import Level, tree
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task


def tiny(
    *, seed: int, devices: int = 4, up_bps: float = 1e7, detect_s: float = 60.0, task: TaskSettings = TaskSettings(partition="iid", limit=200)
) -> Scenario:
    """Boards on wires behind two edge servers. On real machines a process of a busy machine is not given up soon."""
    board = Device(
        profile="board", speed_flops_per_s=20e9, efficiency=0.3, memory_bytes=4e9, baseline_bytes=1e9, power_w=3.0, idle_power_w=0.5
    )  # fmt: skip
    levels = [
        Level(name="edge", count=2, devices=board, up_bps=1e9, down_bps=1e9, latency_s=0.01, wired=True),
        Level(name="board", count=devices // 2, devices=board, up_bps=up_bps, down_bps=4 * up_bps, latency_s=0.02),
    ]
    network = tree(levels, root=board, detect_s=detect_s)
    learned = make_task(task, list(network.clients(network.root)), seed=seed, model=zoo.mlp(inputs=64, hidden=(8,), classes=10))
    return Scenario(
        name="tiny", network=network, task=learned, suited={"fedavg": {"local_steps": 2}, "mtgc": {"group_rounds": 2, "local_steps": 2}},
        target=("accuracy", 0.3), budget={"rounds": 6}, seed=seed, fields={"devices": devices},
    )  # fmt: skip
