"""FedProx: FedAvg whose clients are held near the global model by a proximal term, and may do less work if they are slow.

    P = m clients, drawn uniformly
    each client n in P:  x_n = H_n steps of SGD on F_n(y) + (mu / 2) ||y - x||^2, from y = x
    x = sum_n w_n x_n / sum_n w_n                  (w_n: data size)

Paper: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", MLSys 2020, arXiv 1812.06127, Algorithm 2.
Symbols: x global model, x_n client model, mu `mu`, H_n at most `local_steps`, eta `lr`, K `fraction`.
Left out: the adaptive mu of the paper's appendix. The inexactness gamma_n follows from H_n. Algorithm 2 draws clients in proportion to data and
averages plainly; here, as in the authors' code, the draw is uniform and the average weighted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.models.params import Params
from airloom.parts.protect import Protection, Unprotected, protection
from airloom.parts.select import Uniform
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class FedProx(Method):
    """Federated averaging with a proximal term.

    Arguments:
        mu: weight of the proximal term; 0 is FedAvg. Stable for mu lr < 2.
        fraction: share of the present clients that take part in a round; at least one does.
        local_steps, lr, batch_size: of local SGD.
        compute_s: seconds that a client may compute in a round; a slower one does fewer steps, at least one (paper: partial work). 0: no limit.
        protect: what happens to updates before they leave the clients (none).
    """

    paper: ClassVar[str] = "Li et al. 2020, arXiv 1812.06127"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    mu: float = ranged(0, 1_000, default=0.01, tune=(0.001, 0.01, 0.1))
    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    compute_s: float = ranged(0, 1_000_000, default=0.0)
    protect: Protection = part(protection, Unprotected(), is_neutral=True)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, N, samples = s["x"], server.clients, server.network.samples
        P = Uniform().choose(N, max(1, round(self.fraction * len(N))), {"samples": samples}, server.rng("select", s["t"]))
        w = [samples[n] for n in P]
        x_n = self.protect.given(server, x)
        out = self.protect.seal(server, server.map(self.client, P, x_n), w, about=x_n)
        mean = self.protect.reduce(server, out, w, like=x)
        x = mean if any(r.arrived_s is not None for r in out) else x
        server.report(round=s["t"], model=x)
        return {"x": x, "t": s["t"] + 1}

    def client(self, here: Here, x: Params) -> Params:
        H = self.local_steps
        if self.compute_s:
            H = min(H, max(1, here.steps_within(self.compute_s, self.batch_size)))
        return here.train(x, steps=H, lr=self.lr, batch_size=self.batch_size, prox=(self.mu, x))
