"""FedBuff: asynchronous training with a buffer; the server moves after every K arrivals and waits for nobody else.

    M clients train at any time, each from the x that was current when it began
    when K updates have arrived:   x <- x + eta_g (1/K) sum_k s(tau_k) Delta_k,   s(tau) = (1 + tau)^-a
    tau_k: server steps between the start of update k and its use; freed places go to idle clients, drawn uniformly

Paper: Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba, "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022,
arXiv 2106.06639, Algorithm 1; s with a = 1/2 from its experiments.
Symbols: x global model, Delta_k update, K `buffer`, M `concurrency`, eta_g `server_lr`, a `staleness_power`, H `local_steps` (Q), eta_l `lr`.
Left out: secure aggregation and differential privacy of the buffer. A "round" is one server step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.models.params import Params
from airloom.program.here import Here
from airloom.program.method import Method, State, ranged
from airloom.program.node import Node
from airloom.program.reducer import SUM


@dataclass(frozen=True, kw_only=True)
class FedBuff(Method):
    """Buffered asynchronous aggregation.

    Arguments:
        buffer: arrivals per server step.
        concurrency: share of the clients that train at any time; at least `buffer` clients.
        server_lr: step of the server along the mean update.
        staleness_power: 0 does not discount old updates.
        local_steps, lr, batch_size: of local SGD.
    """

    paper: ClassVar[str] = "Nguyen et al. 2022, arXiv 2106.06639"

    buffer: int = ranged(1, 1_000_000, default=10)
    concurrency: float = ranged(0, 1, default=1.0, open_low=True)
    server_lr: float = ranged(0, 100, default=1.0, open_low=True, tune=(0.5, 1.0))
    staleness_power: float = ranged(0, 10, default=0.5)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 10, 20))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "flying": [], "born": [], "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, t = s["x"], s["t"]
        flying, born = self.refill(server, x, s["flying"], s["born"], t)
        K = min(self.buffer, len(flying))
        arrived, rest, _ = server.first(flying, K)
        tau = [t - born[flying.index(r)] for r in arrived]
        w = [(1 + age) ** -self.staleness_power / max(len(arrived), 1) for age in tau]
        x = x + self.server_lr * server.reduce(arrived, w, over=SUM, like=x)
        server.report(round=t, model=x, staleness=sum(tau) / max(len(tau), 1))
        return {"x": x, "flying": rest, "born": [born[flying.index(r)] for r in rest], "t": t + 1}

    def refill(self, server: Node, x: Params, flying: list, born: list, t: int) -> tuple[list, list]:
        N, busy = server.clients, {r.place for r in flying}
        idle = [n for n in N if n not in busy]
        M = max(min(self.buffer, len(N)), round(self.concurrency * len(N)))
        free = min(max(M - len(flying), 0), len(idle))
        P = [idle[i] for i in sorted(server.rng("refill", t).permutation(len(idle))[:free])]
        return flying + server.map(self.client, P, x), born + [t] * len(P)

    def client(self, here: Here, x: Params) -> Params:
        return here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size) - x
