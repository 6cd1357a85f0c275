"""DZOPA: every client keeps a model of its own, steps along losses alone, and is drawn toward its neighbors; a baseline of FedZO.

    each client n:  g_n = mean over H mini-batches xi_h of  (d / (mu q)) sum_l (F_n(x_n + mu v_l; xi_h) - F_n(x_n; xi_h)) v_l
                    x_n <- x_n - gamma sum_m L_nm x_m - eta g_n                  complete graph: sum_m L_nm x_m = N (x_n - mean(x_m))
    x = mean(x_n)

Paper: Yi, Zhang, Yang, Johansson, Chai, "Zeroth-order algorithms for stochastic distributed nonconvex optimization", Automatica 2022,
arXiv 2106.02958; its second algorithm, on the complete graph, as compared in Fang et al. 2022, arXiv 2201.09531.
Symbols: x_n client model `y`, L Laplacian of the graph, gamma `gamma`, H `estimates`, eta `lr`, B `batch_size`; mu, q, v_l as in
`airloom.parts.zeroth_order`.
Left out: other graphs; the time to draw directions. Ours: the mean goes by the server, one message up and one down instead of N - 1 of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from airloom.errors import ScenarioError
from airloom.models.params import Params
from airloom.parts.zeroth_order import Law, LossDifference, mean_estimate
from airloom.program.here import Here
from airloom.program.method import Method, State, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class DZOPA(Method):
    """Distributed zeroth-order primal algorithm on the complete graph.

    Arguments:
        gamma: pull toward each neighbor (0.01, code of FedZO's authors); gamma N must stay below 2.
        estimates: H, mini-batches per round, each with directions of its own (5, their script).
        lr, batch_size: of the step (5e-3 and 25, their script).
        mu, directions, law: of an estimate.
    """

    paper: ClassVar[str] = "Yi et al. 2022, arXiv 2106.02958"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    gamma: float = ranged(0, 2, default=0.01, open_low=True)
    estimates: int = ranged(1, 100_000, default=5)
    lr: float = ranged(0, 100, default=0.005, open_low=True, tune=(0.003, 0.01, 0.03))
    batch_size: int = ranged(1, 1_000_000, default=25)
    mu: float = ranged(0, 1e3, default=1e-3, open_low=True)
    directions: int = ranged(1, 100_000, default=20)
    law: Law = "sphere"

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, N = s["x"], server.clients
        if self.gamma * len(N) >= 2:
            raise ScenarioError(
                f"DZOPA.gamma: got {self.gamma} with {len(N)} clients; allowed is less than 2 / N = {2 / len(N):.3g}, else models part"
            )
        seeds = server.rng("directions", s["t"]).integers(2**62, size=(len(N), 1))
        out = server.map(self.client, N, x, each=[(seed, self.gamma * len(N)) for seed in seeds])
        x = x + server.reduce(out, like=x)
        server.report(round=s["t"], model=x)
        return {"x": x, "t": s["t"] + 1}

    def client(self, here: Here, x: Params, seed: np.ndarray, pull: float) -> Params:
        y = here.state.get("y", x)  # a client that comes new begins at the mean
        g = mean_estimate(here, self.estimate, y, seed, self.estimates, self.batch_size)
        y = y - pull * (y - x) - self.lr * g
        here.state["y"] = y
        return y - x

    @property
    def estimate(self) -> LossDifference:
        return LossDifference(mu=self.mu, directions=self.directions, law=self.law)
