"""ZONE-S: one client at a time evaluates losses, and what the others last found stands for them; a baseline of FedZO.

    S = one client, or a few, drawn uniformly
    i in S:    G = mean over J mini-batches xi_j of  (1 / (mu q)) sum_l (F_i(x + mu v_l; xi_j) - F_i(x; xi_j)) v_l
               z_i = x - (N / rho) (lambda_i + G),   lambda_i <- lambda_i + (rho / N) (z_i - x) = -G
    all others: z_n = x
    x <- mean(z_n) + mean(lambda_n before) / rho     =  x - eta (sum over S (G - y_i) + mean(y_n)),   then  y_i <- G;    eta = 1 / rho, y = -lambda

Paper: Hajinezhad, Hong, Garcia, "ZONE: Zeroth Order Nonconvex Multi-Agent Optimization over Networks", IEEE TAC 2019, arXiv 1710.09997; on a star,
as compared in Fang et al. 2022, arXiv 2201.09531.
Symbols: x model, lambda_n dual variable, y_n `y`, rho penalty, eta `lr`, J `estimates`; mu, q, v_l as in `airloom.parts.zeroth_order`.
Left out: draws in proportion to the clients' smoothness; the time to draw directions. Ours: the server keeps the y_n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from airloom.models.params import Params
from airloom.parts.select import Uniform
from airloom.parts.zeroth_order import Law, LossDifference, mean_estimate
from airloom.program.here import Here
from airloom.program.method import Method, State, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class ZoneS(Method):
    """Zeroth-order primal-dual steps of one client at a time, on a star.

    Arguments:
        clients: in a round (1, paper; the code of FedZO's authors adds the steps of several up).
        estimates: J, mini-batches per round, each with directions of its own (100, script of FedZO's authors).
        lr: eta = 1 / rho (2e-6, their script, with a loss summed over the image). batch_size: 25 (theirs).
        mu, directions, law: of an estimate (one Gaussian direction each, theirs).
    """

    paper: ClassVar[str] = "Hajinezhad et al. 2019, arXiv 1710.09997"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    clients: int = ranged(1, 1_000_000, default=1)
    estimates: int = ranged(1, 100_000, default=100)
    lr: float = ranged(0, 100, default=1e-2, open_low=True, tune=(0.003, 0.01, 0.03))
    batch_size: int = ranged(1, 1_000_000, default=25)
    mu: float = ranged(0, 1e3, default=1e-3, open_low=True)
    directions: int = ranged(1, 100_000, default=1)
    law: Law = "gaussian"

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "y": {}, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, y, N = s["x"], s["y"], server.clients
        S = Uniform().choose(N, max(1, min(self.clients, len(N))), {"samples": server.network.samples}, server.rng("select", s["t"]))
        seeds = server.rng("directions", s["t"]).integers(2**62, size=(len(S), 1))
        out = server.map(self.client, S, x, each=[(seed,) for seed in seeds])
        came, _, _ = server.first(out, len(out))
        came = [r for r in out if r in set(came)]  # in the order of issue
        G = dict(zip([r.place for r in came], server.fetch(came), strict=True))
        d = [G[i] - y[i] if i in y else G[i] for i in G]
        if G:
            x = x - self.lr * sum(d, start=x.zeros()) - (self.lr / len(N)) * sum([y[n] for n in sorted(y)], start=x.zeros())  # new ones have y = 0
        server.report(round=s["t"], model=x)
        return {"x": x, "y": y | G, "t": s["t"] + 1}

    def client(self, here: Here, x: Params, seed: np.ndarray) -> Params:
        return mean_estimate(here, LossDifference(mu=self.mu, directions=self.directions, law=self.law), x, seed, self.estimates, self.batch_size)
