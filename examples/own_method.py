"""A training loop of your own: any PyTorch code is a device function once it declares what it costs.

Run it from the repository's root: `airloom run examples/own_method.py:MyMethod --scenario phones --budget rounds=5`. The method is plain averaging;
what differs from fedavg is that the clients run a loop that the library cannot see into.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from airloom.models.batch import Batch
from airloom.models.params import Params
from airloom.program.here import Here
from airloom.program.method import Method, State, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class MyMethod(Method):
    """Averaging around a PyTorch loop with Adam and label smoothing.

    Arguments:
        epochs: passes of a client over its own data in a round.
        lr, batch_size: of Adam.
    """

    epochs: int = ranged(1, 100, default=2, tune=(1, 2, 4))
    lr: float = ranged(0, 1, default=0.003, open_low=True, tune=(0.001, 0.003, 0.01))
    batch_size: int = ranged(1, 10_000, default=16)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "t": 0}

    def round(self, server: Node, s: State) -> State:
        clients = server.clients
        models = server.map(self.client, clients, s["x"])
        x = server.reduce(models, [server.network.samples[c] for c in clients], like=s["x"])
        x = x if any(m.arrived_s is not None for m in models) else s["x"]  # with churn, a round may hear from nobody
        server.report(round=s["t"], model=x)
        return {"x": x, "t": s["t"] + 1}

    def client(self, here: Here, x: Params) -> Params:
        steps = self.epochs * here.data.batches(self.batch_size)
        # per sample and value: 2 FLOPs forward and 4 backward, right for linear layers; convolutions use each value many times
        here.cost(flops=6.0 * len(x) * steps * self.batch_size)
        batches = [here.batch(self.batch_size) for _ in range(steps)]
        if x.is_meta:  # the dry run that prices this call: shapes without values; the loop would give the same shape
            return x
        return train(x, batches, self.lr)


def train(x: Params, batches: list[Batch], lr: float) -> Params:
    """A loop as you may have it already: a module, an optimizer, backward."""
    module = deepcopy(x.spec.module()).train()
    module.load_state_dict(x.named(), strict=False)  # integer buffers are not part of x
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    with torch.enable_grad():  # device functions run without gradients
        for batch in batches:
            optimizer.zero_grad()
            cross_entropy(module(batch.x), batch.y, label_smoothing=0.1).backward()
            optimizer.step()
    return Params.from_named(x.spec, {name: tensor for name, tensor in module.state_dict().items() if name in x.named()})
