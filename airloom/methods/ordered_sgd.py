"""Ordered participation: every client once per epoch, P at a time, in an order that may learn from what the clients sent; local steps likewise.

    epoch:  pi = the orderer's next order of all clients
            for the next P of pi:   d_n = y_n - x,  y_n = K local steps from x at client n;   x <- x + sum_n w_n d_n / sum_n w_n
                                    the orderer observes each d_n, in the order of pi
            at its end:  x <- x_0 + gamma (x - x_0),  x_0 the model at its start
    local steps: SGD on the client's draws, or on micro-batches of its rows in the order of an orderer of its own, which observes their gradients

Paper: Li, Lyu, Liu, "A Unified Analysis of Stochastic Gradient Descent with Arbitrary Data Permutations and Beyond", NeurIPS 2025; orderers in
`airloom.parts.order` and `airloom.parts.balance`, bounds in `airloom.plans.ordering`.
Symbols: x model, y_n client model, P from `fraction`, K `local_steps`, eta `lr`, gamma `epoch_lr`, pi from `order`, w_n data size.
Left out: weight decay, momentum. With one client and `examples=` this is permutation-based SGD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from airloom.errors import ScenarioError
from airloom.models.params import Params, mean
from airloom.parts.balance import FLOPS_PER_VALUE, Balancer, any_orderer, observe
from airloom.parts.order import Orderer, OrderState, RandomReshuffle
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node


def maybe_orderer(text: str) -> Orderer | None:
    """An orderer by name, or `none`."""
    return None if text.strip() == "none" else any_orderer(text)


@dataclass(frozen=True, kw_only=True)
class OrderedSGD(Method):
    """SGD and federated averaging in ordered epochs.

    Arguments:
        order: of the clients: random_reshuffle, shuffle_once, fixed (incremental), flip_flop, with_replacement, grab, pair_grab.
        examples: of a client's micro-batches, likewise; None: the usual draws.
        fraction: share P / M of the clients per round (a half, ours); a smaller last round takes what is left of the epoch.
        epoch_lr: gamma; 1 changes nothing.
        local_steps, lr, batch_size: of local SGD; with `examples` a batch is a micro-batch, the unit of the order.
        clip_norm: largest norm of a gradient (10, authors' code), or None; of the usual draws only.
    """

    paper: ClassVar[str] = "Li et al. 2025, NeurIPS"

    order: Orderer = part(any_orderer, RandomReshuffle())
    examples: Orderer | None = part(maybe_orderer, None)
    fraction: float = ranged(0, 1, default=0.5, open_low=True)
    epoch_lr: float = ranged(0, 100, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=5, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.examples is not None and self.clip_norm is not None:
            raise ScenarioError("OrderedSGD(examples=..., clip_norm=...): the order learns from whole gradients; set clip_norm=none")

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "start": x, "left": [], "order": None, "epoch": 0, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, N, samples = s["x"], server.clients, server.network.samples
        left, order, start, epoch = [n for n in s["left"] if n in N], s["order"], s["start"], s["epoch"]  # who is away misses its turn
        if not left:
            left, order = self.order.next(N, order, server.rng("order", epoch))
            start, epoch = x, epoch + 1
        m = max(1, round(self.fraction * len(N)))
        P, left = left[:m], left[m:]
        out = server.map(self.client, P, x)
        late = server.first(out, len(out))[2]
        if came := [r for r in out if r not in late]:  # in the order of pi, not of arrival
            d = server.fetch(came)
            x = x + mean(d, [samples[r.place] for r in came])
            if isinstance(self.order, Balancer):
                order = server.fetch(server.call(self.observed, server.name, order, [r.place for r in came], d))
        if not left and self.epoch_lr != 1.0:
            x = start + self.epoch_lr * (x - start)
        server.report(round=s["t"], model=x, epoch=epoch, clients=len(came))
        return {"x": x, "start": start, "left": left, "order": order, "epoch": epoch, "t": s["t"] + 1}

    def observed(self, here: Here, order: OrderState, names: list[str], d: list[Params]) -> OrderState:
        for n, d_n in zip(names, d, strict=True):
            here.cost(flops=FLOPS_PER_VALUE * len(d_n))
            order = observe(self.order, order, n, d_n)
        return order

    def client(self, here: Here, x: Params) -> Params:
        if self.examples is None:
            return here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, clip_norm=self.clip_norm) - x
        return self.in_order(here, x, self.examples) - x

    def in_order(self, here: Here, x: Params, orderer: Orderer) -> Params:
        """K steps on micro-batches of own rows, going on in the epoch where the last visit ended."""
        own, size = here.data.all(), self.batch_size
        left, order, epoch = here.state.get("left", []), here.state.get("order"), here.state.get("epoch", 0)
        for _ in range(self.local_steps):
            if not left:
                left, order = orderer.next([str(u) for u in range(-(-len(own) // size))], order, here.rng("examples", epoch))
                epoch += 1
            unit, left = left[0], left[1:]
            rows = torch.arange(int(unit) * size, min((int(unit) + 1) * size, len(own)), device=own.y.device)
            g = here.grad(x, own.rows(rows))
            if isinstance(orderer, Balancer):
                here.cost(flops=FLOPS_PER_VALUE * len(g))
                order = observe(orderer, order, unit, g)
            x = x - self.lr * g
        here.state.update({"left": left, "order": order, "epoch": epoch})
        return x
