"""What a client update costs among 100,000 devices and among 100, and what memory the crowd takes. Ratios of one run.

    python benchmarks/crowd.py [--json] [--devices 100000] [--turns 5]

Two processes take turns, a round of the crowd (1,000 clients) and as many rounds of the small world (all of its clients that are there) as make 1,000
updates, so that both meet the same minutes of a shared machine. CPU seconds between reports: choosing, clock, numbers, averaging; evaluation is
left out. First turns (building, compiling, first draws) are shown by themselves. Goals: ratio within 1.1, memory under 2 GB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

UPDATES = 1_000  # of a turn


def play(devices: int, turns: int, conn: Connection) -> None:
    """Run FedAvg on a crowd, a turn at a time: wait for leave, do at least `UPDATES` updates, tell CPU seconds per update."""
    import torch

    from airloom.methods.fedavg import FedAvg
    from airloom.runner import Options, Runner
    from airloom.scenarios.crowd import crowd

    torch.set_num_threads(1)
    began = time.process_time()
    world = crowd(seed=0, devices=devices)
    method = FedAvg(**world.suited["fedavg"])
    done, left = 0, turns

    def progress(point: Any) -> None:
        nonlocal began, done, left
        done += point["clients"]
        if done < 0.95 * UPDATES or not left:
            return
        conn.send((time.process_time() - began, done, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
        done, left = 0, left - 1
        conn.recv()
        began = time.process_time()

    conn.recv()
    rounds = turns if devices > UPDATES else turns * (UPDATES // 20)
    options = Options(executor="loop", budget={"rounds": rounds}, eval_every=1_000_000, checkpoint_every_s=None, stop_at_target=False)
    Runner(world, method, 0, options, None, {}, progress).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    players: dict[str, tuple[Any, Connection]] = {}
    for name, devices in (("small", 100), ("crowd", given.devices)):
        ours, theirs = spawn.Pipe()
        players[name] = spawn.Process(target=play, args=(devices, given.turns, theirs), daemon=True), ours
        players[name][0].start()
    cost: dict[str, list[float]] = {name: [] for name in players}
    first: dict[str, float] = {}
    memory: dict[str, float] = {}
    for turn in range(given.turns):
        for name, (_, conn) in players.items():
            conn.send("go")
            seconds, done, memory[name] = conn.recv()
            if turn:
                cost[name].append(seconds / done)
            else:
                first[name] = seconds
    for process, _ in players.values():
        process.terminate()
        process.join()
    ratios = [one / other for one, other in zip(cost["crowd"], cost["small"], strict=True)]
    found = {
        "devices": given.devices,
        "us per client update, crowd (median)": 1e6 * statistics.median(cost["crowd"]),
        "us per client update, 100 devices (median)": 1e6 * statistics.median(cost["small"]),
        "ratio, median of turns": statistics.median(ratios),
        "ratio, best": min(ratios),
        "ratio, worst": max(ratios),
        "first turn with building, crowd (CPU s)": first["crowd"],
        "peak memory, crowd (GB)": memory["crowd"] / 1e9,
        "peak memory, 100 devices (GB)": memory["small"] / 1e9,
    }
    if given.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:45s} {value:12.3f}")


if __name__ == "__main__":
    main()
