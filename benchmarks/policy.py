"""One update of a group policy gradient: the package's parts, and the whole of `gapg` on the clock, against a bare torch loop that does the same.

    python benchmarks/policy.py [--updates 60]

32 prompts, 8 responses each, the tiny transformer of `assistant`, RLOO, Adam; sampling, rewards, gradient and step count. The first two sides take
turns, so that a change of the machine's speed meets both; the third is one run, less one of no updates. Processor time, one thread, medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

import airloom
from airloom.models.train import forward, grad
from airloom.parts.advantage import RLOO, Surrogate, decisions, draw
from airloom.parts.optimizer import ServerAdam
from airloom.tasks.arithmetic import encode, mixed, pretrained, tiny

PROMPTS, GROUP = 32, 8


def prompts(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Questions and right answers."""
    pairs = [mixed(rng, hard=0.5) for _ in range(PROMPTS)]
    return encode([question for question, _ in pairs]), torch.tensor([int(answer) for _, answer in pairs])


def bare() -> Callable[[torch.Tensor, torch.Tensor], None]:
    """An update as one would write it in torch."""
    model = tiny().fresh()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def update(x: torch.Tensor, y: torch.Tensor) -> None:
        with torch.no_grad():
            tokens = torch.multinomial(model(x)[:, -1].softmax(-1), GROUP, replacement=True)
        r = (tokens == y[:, None]).double()
        A = (r - r.mean(1, keepdim=True)) * GROUP / (GROUP - 1)
        logp = model(x.repeat_interleave(GROUP, 0))[:, -1].log_softmax(-1).gather(1, tokens.reshape(-1, 1))[:, 0]
        optimizer.zero_grad()
        loss = -((logp - logp.detach()).exp() * A.reshape(-1).float()).mean()
        loss.backward()
        optimizer.step()

    return update


def parts() -> Callable[[torch.Tensor, torch.Tensor], None]:
    """The same with the package's parts."""
    state: dict[str, Any] = {"theta": pretrained(), "optimizer": None, "rng": np.random.default_rng(0)}
    optimizer = ServerAdam(lr=1e-3)

    def update(x: torch.Tensor, y: torch.Tensor) -> None:
        theta = state["theta"]
        logits = forward(theta, x)[:, -1]
        tokens = draw(logits, GROUP, state["rng"].random((PROMPTS, GROUP)))
        A = RLOO((tokens == y[:, None]).numpy().astype(np.float64))
        old = logits.log_softmax(-1).gather(1, tokens)
        g, _ = grad(theta, decisions(x.repeat_interleave(GROUP, 0), tokens.reshape(-1), old.reshape(-1), A.reshape(-1)), objective=Surrogate())
        state["theta"], state["optimizer"] = optimizer.step(theta, g, state["optimizer"])

    return update


def whole(updates: int) -> float:
    """Seconds per update of `gapg` on the clock, cloud answers and network included."""

    def seconds(steps: int) -> float:
        small = {"scenario.devices": 2, "scenario.base_stations": 1, "scenario.requests": 1}
        began_s = time.process_time()
        airloom.run(f"gapg:steps={steps}", scenario="assistant", set=small, out=None, executor="loop")
        return time.process_time() - began_s

    seconds(1)
    return (seconds(updates) - seconds(0)) / updates


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=60)
    given = parser.parse_args()
    torch.set_num_threads(1)
    sides, rng = {"bare torch": bare(), "parts": parts()}, np.random.default_rng(1)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(given.updates):
        x, y = prompts(rng)
        for name, update in sides.items():
            began_s = time.thread_time()
            update(x, y)
            taken[name].append(time.thread_time() - began_s)
    found = {name: median(seconds) for name, seconds in taken.items()} | {"gapg on the clock": whole(given.updates)}
    print("| side | ms per update | against bare torch |\n|---|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {1e3 * seconds:.2f} | {seconds / found['bare torch']:.2f} |")


if __name__ == "__main__":
    main()
