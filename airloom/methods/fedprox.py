"""FedProx: FedAvg whose clients are held near the global model by a proximal term.

    each client n:  x_n = H steps of SGD on F_n(y) + (mu / 2) ||y - x||^2, from y = x
    x = sum_n w_n x_n / sum_n w_n

Paper: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", MLSys 2020, arXiv 1812.06127, Algorithm 2.
Symbols: x global model, x_n client model, mu `mu`, H `local_steps`, eta `lr`, K `fraction`.
Left out: the adaptive mu of the paper's appendix; gamma-inexactness is fixed by the number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.models.params import Params
from airloom.program.here import Here
from airloom.program.method import Method, State, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class FedProx(Method):
    """Federated averaging with a proximal term.

    Arguments:
        mu: weight of the proximal term; 0 is FedAvg.
        fraction: share of the clients that take part in a round, drawn uniformly; at least one does.
        local_steps, lr, batch_size: of local SGD.
    """

    paper: ClassVar[str] = "Li et al. 2020, arXiv 1812.06127"

    mu: float = ranged(0, 1_000, default=0.01, tune=(0.001, 0.01, 0.1))
    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 10, 20))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "t": 0}

    def round(self, server: Node, s: State) -> State:
        N = server.clients
        m = max(1, round(self.fraction * len(N)))
        P = [N[i] for i in sorted(server.rng("select", s["t"]).permutation(len(N))[:m])]
        out = server.map(self.client, P, s["x"])
        x = server.reduce(out, [server.network.samples[n] for n in P], like=s["x"])
        x = x if any(r.arrived_s is not None for r in out) else s["x"]
        server.report(round=s["t"], model=x)
        return {"x": x, "t": s["t"] + 1}

    def client(self, here: Here, x: Params) -> Params:
        return here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, prox=(self.mu, x))
