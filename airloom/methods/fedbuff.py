"""FedBuff: asynchronous training with a buffer; the server moves after every K arrivals and waits for nobody else.

    at any time M clients train, each from the x that was current when it began; a freed place goes to an idle client, drawn uniformly
    Delta_k arrives:        tau_k = server steps since client k began;  keep s(tau_k) Delta_k,   s(tau) = (1 + tau)^-a
    K of them are there:    x <- x + eta_g (1/K) sum_k s(tau_k) Delta_k;  empty the buffer

Paper: Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba, "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022,
arXiv 2106.06639, Algorithm 1; s with a = 1/2 from its experiments.
Symbols: x global model, Delta_k update, K `buffer`, M `concurrency`, eta_g `server_lr`, a `staleness_power`, H `local_steps` (Q), eta_l `lr`.
Left out: secure aggregation (who is in the buffer is known too late for masks), noise of the buffer as a whole. A "round" is one server step.
Ours: `refill="step"`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from airloom.models.params import Params
from airloom.program.here import Here
from airloom.program.method import Method, State, ranged
from airloom.program.node import Node
from airloom.program.reducer import SUM
from airloom.program.ref import Ref


@dataclass(frozen=True, kw_only=True)
class FedBuff(Method):
    """Buffered asynchronous aggregation.

    Arguments:
        buffer: updates per server step (10, paper).
        concurrency: share of the present clients that train at any time; at least one does.
        refill: "arrival" gives a freed place away at once (paper), "step" after the server has moved: nobody trains twice from one model, and with
            a buffer of all clients this is FedAvg.
        server_lr: step of the server along the mean update.
        staleness_power: 0 does not discount old updates.
        local_steps, lr, batch_size: of local SGD.
    """

    paper: ClassVar[str] = "Nguyen et al. 2022, arXiv 2106.06639"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    buffer: int = ranged(1, 1_000_000, default=10)
    concurrency: float = ranged(0, 1, default=1.0, open_low=True)
    refill: Literal["arrival", "step"] = "arrival"
    server_lr: float = ranged(0, 100, default=1.0, open_low=True, tune=(0.5, 1.0))
    staleness_power: float = ranged(0, 10, default=0.5)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "flying": [], "born": {}, "buffer": [], "tau": [], "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, flying, born, buffer, tau, t = (s[key] for key in ("x", "flying", "born", "buffer", "tau", "t"))
        while len(buffer) < self.buffer:
            idle = self.idle(server, flying, t, len(buffer))
            flying, born = flying + server.map(self.client, idle, x), born | dict.fromkeys(idle, t)
            arrived, flying, _ = server.first(flying, 1 if self.refill == "arrival" else self.buffer - len(buffer))
            if not arrived:  # nobody is left; the next round asks again
                server.report(round=t, model=x)
                return {"x": x, "flying": flying, "born": born, "buffer": buffer, "tau": tau, "t": t}
            buffer, tau = buffer + arrived, tau + [t - born[r.place] for r in arrived]
        w = [(1 + age) ** -self.staleness_power / self.buffer for age in tau]
        x = x + self.server_lr * server.reduce(buffer, w, over=SUM, like=x)
        server.report(round=t, model=x, staleness=sum(tau) / len(tau))
        return {"x": x, "flying": flying, "born": born, "buffer": [], "tau": [], "t": t + 1}

    def idle(self, server: Node, flying: list[Ref], *labels: int) -> list[str]:
        N, busy = server.clients, {r.place for r in flying}
        idle = [n for n in N if n not in busy]
        free = max(1, round(self.concurrency * len(N))) - len(busy)
        return [idle[i] for i in sorted(server.rng("refill", *labels).permutation(len(idle))[: max(free, 0)])]

    def client(self, here: Here, x: Params) -> Params:
        return here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size) - x
