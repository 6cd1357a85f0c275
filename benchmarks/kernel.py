"""Cost of the clock: microseconds per device and synchronous round, numerics removed, and how many yardsticks that is.

    python benchmarks/kernel.py [--quick] [--json]

The yardstick is the least that a cell of 10,000 flows can cost in Python: a push and a pop of a heap and three sums per flow. It is taken before
and after each measurement. The goals (25 us on a star of 10,000 devices, 45 behind base stations) were set where it takes 0.9 us: 28 and 50
yardsticks on any machine. Further: 100,000 devices run; a scenario of 10,000 devices is ready in 1 s and 600 MB.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import resource
import time
from collections.abc import Sequence
from typing import Any

import torch

from airloom.engines.executors import Executor, Job, Result, Spent
from airloom.engines.simnode import SimNode
from airloom.engines.simulated import Simulation
from airloom.network.cell import Cell
from airloom.network.device import Device, Work
from airloom.network.link import Link
from airloom.network.network import Network, Place
from airloom.network.topology import Level, star, tree
from airloom.program.here import Here
from airloom.scenarios.phones import phones
from airloom.tasks import TaskSettings, make_task

DEVICE = Device(profile="unit", speed_flops_per_s=1e9, efficiency=1.0, memory_bytes=1e9, baseline_bytes=0.0, power_w=2.0, idle_power_w=0.5)
VALUE = torch.zeros(1000)


class Nothing(Executor):
    """Runs no numerics: every call makes the same value."""

    name = "nothing"

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        return [Result(VALUE, {}, Spent(Work(), 1.0, 0.0, 0)) for _ in jobs]


def client(here: Here, x: torch.Tensor) -> torch.Tensor:
    """A client's round: one second, one value of 4 kB."""
    here.cost(seconds=1.0)
    return x * 1.0


def group(node: SimNode, x: torch.Tensor) -> Any:
    """A round of an edge server."""
    return node.fetch(node.map(client, node.children, x))[0]


def measure(network: Network, rounds: int, is_tree: bool = False) -> float:
    """Best microseconds per device and round."""
    names = network.clients(network.root)
    task = make_task(TaskSettings(partition="resample", samples=4), list(names), seed=0)
    sim = Simulation(network, task, 0, Nothing(), lambda *_: None)
    best: list[float] = []

    def text() -> None:
        for _ in range(rounds):
            began = time.process_time()
            if is_tree:
                node.fetch([node.program(edge, group, VALUE) for edge in node.children])
            else:
                node.fetch(node.map(client, names, VALUE))
            sim.end_round()
            best.append(time.process_time() - began)
            gc.collect(0)

    over: list[Any] = []
    program = sim.kernel.spawn("root", network.root, None, text, lambda _p, _v, error: over.append(error))
    node = SimNode(sim, sim.sites[network.root], program)
    gc.collect()
    gc.freeze()
    gc.disable()
    sim.kernel.run(lambda: bool(over))
    gc.enable()
    gc.unfreeze()
    if over[0] is not None:
        raise over[0]
    return min(best) / len(names) * 1e6


def yardstick(n: int = 10_000) -> float:
    """Microseconds per flow of a shared cell whose flows all begin at once, by a heap and nothing else; best of five."""
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        heap: list[tuple[float, int]] = []
        for i in range(n):
            heapq.heappush(heap, (1.0 + (i * 7919) % 10_007, i))
        now_s = last = 0.0
        while heap:
            bits, _ = heapq.heappop(heap)
            now_s += (bits - last) * (len(heap) + 1)
            last = bits
        best = min(best, time.process_time() - began)
    return best / n * 1e6


def one_cell(n: int) -> Network:
    """A star whose devices share one cell."""
    up, down = Cell(name="up", bandwidth_hz=20e6, sharing="tdma"), Cell(name="down", bandwidth_hz=20e6, sharing="tdma")
    places = [Place(name="hub", device=DEVICE, role="cloud"), *[Place(name=f"c{i}", device=DEVICE, parent="hub") for i in range(n)]]
    links = [Link(source=f"c{i}", target="hub", latency_s=0.01, direction="up", cell=up, bps_per_hz=1.0 + i % 7) for i in range(n)]
    links += [Link(source="hub", target=f"c{i}", latency_s=0.01, direction="down", cell=down, bps_per_hz=1.0 + i % 7) for i in range(n)]
    return Network.of(places, links)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 devices only")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rates = [1e6 * (1 + i % 13) for i in range(10_000)]
    found: dict[str, float] = {}

    def cost(name: str, network: Network, is_tree: bool = False) -> None:
        """Measure a network, and the yardstick around it."""
        before = yardstick()
        us = measure(network, 4, is_tree)
        found[f"{name} (us)"] = us
        found[f"{name} (yardsticks)"] = us / ((before + yardstick()) / 2)

    cost("star of 10,000, own links", star([DEVICE] * 10_000, root=DEVICE, up_bps=rates, down_bps=rates, latency_s=0.01))
    cost("star of 10,000, one cell", one_cell(10_000))
    levels = [
        Level(name="edge", count=100, devices=DEVICE, up_bps=1e9, down_bps=1e9, latency_s=0.01, wired=True),
        Level(name="phone", count=100, devices=DEVICE, up_bps=1e7, down_bps=1e7, latency_s=0.01),
    ]
    network = tree(levels, root=DEVICE)
    cost("10,000 behind 100 base stations, star method", network)
    cost("10,000 behind 100 base stations, tree method", network, is_tree=True)
    found["yardstick (us)"] = yardstick()
    began = time.process_time()
    phones(seed=1, devices=10_000, base_stations=100)
    found["scenario of 10,000 phones (s)"] = time.process_time() - began
    if not given.quick:
        found["star of 100,000, own links (us)"] = measure(star([DEVICE] * 100_000, root=DEVICE, up_bps=rates, down_bps=rates, latency_s=0.01), 2)
    found["peak memory (MB)"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if given.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:60s} {value:8.2f}")


if __name__ == "__main__":
    main()
