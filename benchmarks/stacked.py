"""Clients trained one after the other against clients trained as one, on a device: client updates per second.

    python benchmarks/stacked.py [--device cuda] [--clients 32]

phones: MLP 64-464-464-10, 20 steps of 16 rows. w1: MLP 784-128-10, 15 steps of 32 rows. w3: LoRA of rank 8 on a transformer, 5 steps of 8 x 64
tokens. Values go to the device and come back in every call, as in a run. Medians of interleaved rounds, wall seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from airloom.models.batch import Batches
from airloom.models.device import Request, on_device, torch_device
from airloom.models.fast import Fast
from airloom.models.stacked import train_together
from airloom.models.step import SGD, Options
from benchmarks.fast_path import LR, Work, works

ROUNDS = 5


def measure(work: Work, count: int, device: torch.device) -> dict[str, float]:
    """Client updates per second, by way."""
    options = Options(lr=LR, objective=work.objective, optimizer=SGD(), shift=None, prox=None, clip_norm=None, only=None, seed=0)
    x = work.spec.initial(0)
    requests = [Request(x, Batches.of(work.x, work.y, work.rows(client)), options) for client in range(count)]

    def alone(fast: Fast) -> Callable[[], object]:
        return lambda: [on_device(fast, device, request) for request in requests]

    ways: dict[str, Callable[[], object]] = {f"alone, {rung}": alone(Fast(rung)) for rung in ("off", "auto")}
    ways["stacked"] = lambda: train_together(requests, device)
    took: dict[str, list[float]] = {way: [] for way in ways}
    with torch.no_grad():
        for k in range(ROUNDS + 1):
            for way, run in ways.items():
                began_s = time.perf_counter()
                run()
                if k:
                    took[way].append(time.perf_counter() - began_s)
    return {way: count / statistics.median(seconds) for way, seconds in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clients", type=int, default=32)
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = torch_device(given.device)
    for name, make in works(True).items():
        if name != "w2":  # convolutions with weights of each client's own have no fast form
            found = measure(make(), given.clients, device)
            print(f"{name:7s} {given.clients} clients on {device}: {', '.join(f'{way} {rate:.0f}/s' for way, rate in found.items())}", flush=True)


if __name__ == "__main__":
    main()
