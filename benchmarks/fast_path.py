"""Whole rounds of local training on every rung against the plain eager torch loop of the same run: one thread, same rows, same start.

    python benchmarks/fast_path.py [--quick] [--json] [--only w1 w2 w3 phones] [--rungs replay kernel]

W1: MLP 784-128-10, batch 32. W2: CNN of 220,000 values, batch 32. W3: LoRA of rank 8 on a transformer of 0.8 million values, batches of 8 x 64
tokens. phones: the MLP of the scenario (250,570 values), batch 16, 20 local steps. A round is: gather each client's rows, train from the common
start, average in float64. The plain loop runs in a process of its own, as a user's script does; airloom's process keeps freed memory, as its runs do.
Ratios are of medians of interleaved rounds, in seconds that the thread was running. Goals: W1 1.9, W2 1.5, W3 1.5.
`gap`: largest difference between a rung's average and the loop's, relative to the largest change of a value in the round.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from airloom.models import zoo
from airloom.models.allocator import keep_freed
from airloom.models.batch import Batches
from airloom.models.dense import NoKernel, kernel
from airloom.models.fast import Fast
from airloom.models.lora import lora
from airloom.models.module import ModelSpec
from airloom.models.objective import CrossEntropy, NextToken, Objective
from airloom.models.train import train

LR = 0.05


@dataclass(frozen=True)
class Work:
    """A model, its data, and who trains how much in a round."""

    spec: ModelSpec
    x: Tensor
    y: Tensor
    objective: Objective
    clients: int
    steps: int
    batch: int

    def rows(self, client: int) -> Tensor:
        """Rows of a client's steps [S, B], the same in every round."""
        g = torch.Generator().manual_seed(client)
        return torch.randint(0, len(self.y), (self.steps, self.batch), generator=g)


def pictures(n: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Ten noisy patterns: learnable, so that activations look as in training."""
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 10, (n,), generator=g)
    return torch.randn(10, *shape, generator=g)[y] + torch.randn(n, *shape, generator=g), y


def works(quick: bool) -> dict[str, Callable[[], Work]]:
    """Makers of the workloads by name."""
    text = torch.randint(0, 80, (256, 65), generator=torch.Generator().manual_seed(0))
    base: dict[str, Any] = {"vocabulary": 80, "width": 128, "heads": 4, "blocks": 4, "context": 64}
    more = 1 if quick else 3
    return {
        "phones": lambda: Work(zoo.mlp(inputs=64, hidden=(464, 464)), *pictures(2000, (64,)), CrossEntropy(), 5 * more, 20, 16),
        "w1": lambda: Work(zoo.mlp(), *pictures(2000, (784,)), CrossEntropy(), 10 * more, 15, 32),
        "w2": lambda: Work(zoo.cnn(widths=(32, 64), hidden=64), *pictures(500, (1, 28, 28)), CrossEntropy(), 2 * more, 6, 32),
        "w3": lambda: Work(lora(zoo.transformer(**base), rank=8), text[:, :-1], text[:, 1:], NextToken(), more, 5, 8),
    }


def plain(work: Work) -> Callable[[], Tensor]:
    """A round as one writes it with torch alone."""
    module: Any = work.spec.fresh()
    start = {name: p.clone() for name, p in work.spec.initial(0).named().items()}
    moving = [p for p in module.parameters() if p.requires_grad]
    loss = nn.CrossEntropyLoss()

    def run() -> Tensor:
        total = torch.zeros(sum(p.numel() for p in moving), dtype=torch.float64)
        for client in range(work.clients):
            rows = work.rows(client)
            module.load_state_dict(start, strict=False)
            optimizer = torch.optim.SGD(moving, lr=LR)
            for k in range(work.steps):
                x, y = work.x[rows[k]], work.y[rows[k]]
                optimizer.zero_grad()
                loss(module(x).flatten(0, -2), y.flatten()).backward()
                optimizer.step()
            total.add_(torch.cat([p.detach().reshape(-1) for p in moving]), alpha=1.0 / work.clients)
        return total

    return run


def on_rung(work: Work, fast: Fast) -> Callable[[], Tensor]:
    """A round on a rung."""
    start = work.spec.initial(0)

    def run() -> Tensor:
        total = torch.zeros(start.spec.size, dtype=torch.float64)
        with torch.no_grad():
            for client in range(work.clients):
                batches = Batches.of(work.x, work.y, work.rows(client))
                new, _ = train(start, batches, lr=LR, objective=work.objective, trainer=fast)
                total.add_(new.flat, alpha=1.0 / work.clients)
        return total

    return run


def timed(make: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds that this thread ran for a round, and its average."""
    began = time.thread_time()
    result = make()
    return time.thread_time() - began, result


def serve(pipe: Any, name: str, quick: bool) -> None:
    """The plain loop's process: a round for each message."""
    torch.set_num_threads(1)
    run = plain(works(quick)[name]())
    while pipe.recv():
        seconds, result = timed(run)
        pipe.send((seconds, result.tolist()))


def measure(name: str, quick: bool, rungs: list[str], rounds: int) -> dict[str, Any]:
    """Ratios to the plain loop, interleaved; the first round of each is left out."""
    pipe, other = multiprocessing.get_context("spawn").Pipe()
    multiprocessing.get_context("spawn").Process(target=serve, args=(other, name, quick), daemon=True).start()

    def asked() -> tuple[float, Tensor]:
        pipe.send(True)
        seconds, values = pipe.recv()
        return seconds, torch.tensor(values, dtype=torch.float64)

    work = works(quick)[name]()
    fasts = {rung: Fast(rung) for rung in rungs}
    makers: dict[str, Callable[[], tuple[float, Tensor]]] = {"plain": asked}
    makers |= {rung: lambda run=on_rung(work, fast): timed(run) for rung, fast in fasts.items()}
    took: dict[str, list[float]] = {name: [] for name in makers}
    results: dict[str, Tensor] = {}
    for k in range(rounds + 1):
        for rung, make in makers.items():
            seconds, results[rung] = make()
            if k:
                took[rung].append(seconds)
    pipe.send(False)
    middle = {name: statistics.median(seconds) for name, seconds in took.items()}
    change = float((results["plain"] - work.spec.initial(0).flat).abs().max())
    found: dict[str, Any] = {"plain_us_per_step": round(middle["plain"] / work.clients / work.steps * 1e6, 1)}
    for name, fast in fasts.items():
        gap = float((results[name] - results["plain"]).abs().max()) / change
        found[name] = {"ratio": round(middle["plain"] / middle[name], 2), "gap": float(f"{gap:.1e}"), "fallbacks": list(fast.fallbacks)}
    found["best"] = max(found[name]["ratio"] for name in rungs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="+", choices=("phones", "w1", "w2", "w3"))
    parser.add_argument("--rungs", nargs="+")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed()
    rungs = given.rungs or (["replay", "kernel"] if given.quick else ["off", "replay", "kernel"])
    try:
        kernel()
    except NoKernel:
        rungs = [name for name in rungs if name != "kernel"]
    found: dict[str, Any] = {}
    for name in works(given.quick):
        if given.only is None or name in given.only:
            here = [rung for rung in rungs if rung != "kernel" or name != "w2"]
            row = found[name] = measure(name, given.quick, here, 5 if given.quick else 15)
            told = ", ".join(f"{rung} {row[rung]['ratio']:.2f}x (gap {row[rung]['gap']:.0e})" for rung in here)
            if not given.json:
                print(f"{name:7s} plain {row['plain_us_per_step']:9.1f} us per step; {told}", flush=True)
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
