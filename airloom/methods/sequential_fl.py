"""Sequential federated learning: one model visits the clients one after another; nothing is averaged.

    each round:  pi = an order of the clients;  for n in the first S of pi:  x <- H steps of SGD from x at client n

Paper: Li, Lyu, "Convergence Analysis of Sequential Federated Learning on Heterogeneous Data", NeurIPS 2023; the bound calculators are in
`airloom.plans.bounds`. A fixed order is cyclic weight transfer.
Symbols: x model, S `fraction` of the clients M, H `local_steps` (K), eta `lr`, pi from `order`.
Left out: nothing. A new optimizer at each client: no momentum travels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from airloom.models.params import Params
from airloom.parts.order import Orderer, RandomReshuffle, orderer
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class SequentialFL(Method):
    """A chain of local updates.

    Arguments:
        fraction: share of the clients that a round visits; at least one.
        local_steps, lr, batch_size: of local SGD.
        clip_norm: largest norm of a gradient (50 for the chain, authors' code), or None.
        order: "random_reshuffle" (paper), "shuffle_once" or "fixed" (cyclic).
        hops: "direct" hands the model from client to client over the shortest route, and loses the round when one of them leaves; "relayed" brings
            it back to the server after each client, and goes on from there.
    """

    paper: ClassVar[str] = "Li and Lyu 2023, NeurIPS"
    shape: ClassVar[str] = "chain"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=5, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.03, open_low=True, tune=(0.01, 0.03, 0.1))
    batch_size: int = ranged(1, 1_000_000, default=16)
    clip_norm: float | None = None
    order: Orderer = part(orderer, RandomReshuffle())
    hops: Literal["direct", "relayed"] = "direct"

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "order": None, "t": 0}

    def round(self, server: Node, s: State) -> State:
        N, x = server.clients, s["x"]
        pi, order = self.order.next(N, s["order"], server.rng("order", s["t"]))
        P = pi[: max(1, round(self.fraction * len(N)))]
        for chain in [P] if self.hops == "direct" and P else [[n] for n in P]:
            x = self.passed_along(server, chain, x)
        server.report(round=s["t"], model=x)
        return {"x": x, "order": order, "t": s["t"] + 1}

    def passed_along(self, server: Node, chain: list[str], x: Params) -> Params:
        ref = server.call(self.client, chain[0], x)
        for n in chain[1:]:
            ref = server.call(self.client, n, ref)  # a Ref travels from where it was made, not from the server
        came, _, _ = server.first([ref], 1)
        return server.fetch(came[0]) if came else x

    def client(self, here: Here, x: Params) -> Params:
        return here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, clip_norm=self.clip_norm)
