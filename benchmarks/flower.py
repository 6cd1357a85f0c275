"""What an exchange with a Flower node costs: a call, its arguments down and its result up, without the work itself.

    python benchmarks/flower.py

Brings up a deployment on the loopback interface (TLS, node keys), runs FedAvg with models of several sizes, and reads the times off the run's own
`measured.jsonl`. Needs the extra flower; says so and ends without it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from airloom.models import zoo
from airloom.network.device import Device
from airloom.network.topology import Level, tree
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task

SIZES = (8, 400, 14_000)  # hidden units: models of about 2.4 kB, 0.12 MB and 4.2 MB
ROUNDS = 5


def boxes(*, seed: int, hidden: int = 8) -> Scenario:
    """Digits at three boxes."""
    box = Device(profile="box", speed_flops_per_s=20e9, efficiency=0.3, memory_bytes=4e9, baseline_bytes=1e9, power_w=30.0, idle_power_w=5.0)
    network = tree([Level(name="box", count=3, devices=box, up_bps=1e8, down_bps=1e8, latency_s=0.01)], root=box)
    task = TaskSettings(partition="iid", limit=300)
    learned = make_task(task, list(network.clients(network.root)), seed=seed, model=zoo.mlp(inputs=64, hidden=(hidden,), classes=10))
    return Scenario(name="boxes", network=network, task=learned, seed=seed)


def main() -> None:
    """Measure and print a table."""
    if importlib.util.find_spec("flwr") is None:
        print("flwr is not installed: nothing was measured (pip install 'airloom[flower]')")
        return
    import airloom
    from airloom import deployment

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "deployment"
        os.environ["AIRLOOM_DEPLOYMENT"] = str(home)
        began_s = time.monotonic()
        address = deployment.up(home, nodes=3, allow=[__file__])
        up_s = time.monotonic() - began_s
        try:
            print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; up after {up_s:.1f} s")
            for hidden in SIZES:
                out = Path(folder) / f"run-{hidden}"
                started_s = time.monotonic()
                firsts: list[float] = []
                airloom.run(
                    "fedavg:local_steps=1,batch_size=8", scenario=f"{__file__}:boxes", set={"scenario.hidden": hidden}, engine="flower",
                    address=address,
                    budget={"rounds": ROUNDS}, out=out, target=None, progress=lambda _, firsts=firsts: firsts.append(time.monotonic()),
                )  # fmt: skip
                if hidden == SIZES[0]:
                    print(f"first round {firsts[0] - started_s:.1f} s after airloom run began, {up_s + firsts[0] - started_s:.1f} s after airloom up")
                    print(f"{'model':>10} {'on the wire':>12} {'exchange':>10} {'90 %':>8} {'round of 3':>11}")
                lines = [json.loads(line) for line in (out / "measured.jsonl").read_text().splitlines()]
                calls = sorted([line["exchange_s"] - line["seconds"] for line in lines if line["kind"] == "call" and line["round"] > 1])
                sent = [line["wire_bytes"] for line in lines if line["kind"] == "message" and line["what"] == "call"]
                size = (64 + 1) * hidden * 4 + (hidden + 1) * 40
                rounds = [line["seconds"] for line in map(json.loads, (out / "record.jsonl").read_text().splitlines()) if "accuracy" in line]
                gaps = [b - a for a, b in pairwise(rounds)]
                print(
                    f"{size / 1e6:>8.3f}MB {max(sent) / 1e6:>10.3f}MB {statistics.median(calls):>9.2f}s {calls[int(0.9 * len(calls))]:>7.2f}s "
                    f"{statistics.median(gaps):>10.2f}s"
                )
        finally:
            deployment.down(home)


if __name__ == "__main__":
    sys.exit(main())
