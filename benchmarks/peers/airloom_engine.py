"""airloom as a user runs it: FedAvg on a star, clock, bytes and joules included; the rung is the argument."""

from __future__ import annotations

import sys
from typing import Any

import torch
from common import BATCH, CLIENTS, LR, ROUNDS, STEPS, Report
from work import SEED, pictures

from airloom.methods.fedavg import FedAvg
from airloom.network.profiles import CLOUD, WHALE_FL
from airloom.network.topology import star
from airloom.runner import Options, Runner
from airloom.scenarios.scenario import Scenario


def main(rung: str, executor: str) -> None:
    """Run the rounds."""
    torch.set_num_threads(1)
    network = star([WHALE_FL["nano"]] * CLIENTS, root=CLOUD, up_bps=8e6, down_bps=8e6, latency_s=0.01)
    report = Report()

    def stamp(point: Any) -> None:
        report.round()

    world = Scenario(name="peers", network=network, task=pictures(CLIENTS), budget={"rounds": ROUNDS})
    method = FedAvg(local_steps=STEPS, batch_size=BATCH, lr=LR, weights="equal")
    options = Options(executor=executor, workers=2, fast=rung, eval_every=ROUNDS - 1, checkpoint_every_s=None)
    done = Runner(world, method, SEED, options, None, {}, stamp).run()
    report.end([tensor.numpy() for tensor in done.model.named().values()])


if __name__ == "__main__":
    main(*sys.argv[1:])
