"""Ditto: a federated model as usual, and beside it at each client a personal one that is drawn to it.

    P = m clients, drawn uniformly
    each client n in P:  x_n = H steps of SGD from x                                                            (sent)
                         v_n <- H steps of  v_n <- v_n - eta (g_n(v_n) + lambda (v_n - x)),  from v_n           (stays; at first v_n = x)
    x <- sum_n w_n x_n / sum_n w_n

Paper: Li, Hu, Beirami, Smith, "Ditto: Fair and Robust Federated Learning Through Personalization", ICML 2021, arXiv 2012.04221, Algorithm 1.
Symbols: x global model, v_n personal model `v`, lambda `pull`, H `local_steps`, eta `lr`, w_n data size.
Left out: a step size or number of steps of its own for v_n; a lambda of its own for each client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from airloom.models.params import Params
from airloom.parts.protect import Protection, Unprotected, protection
from airloom.parts.select import Uniform
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class Ditto(Method):
    """A personal model beside FedAvg's.

    Arguments:
        pull: lambda, how strongly v_n is drawn to x (0.1 to 2 in the paper's experiments); 0 is local training.
        fraction: share of the present clients that take part in a round; at least one does.
        local_steps, lr, batch_size: of both trainings.
        protect: what happens to updates before they leave the clients (none).
    """

    paper: ClassVar[str] = "Li et al. 2021, arXiv 2012.04221"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    pull: float = ranged(0, 1e6, default=0.1, tune=(0.1, 0.5, 2.0))
    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    protect: Protection = part(protection, Unprotected(), is_neutral=True)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "own": {}, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, N, samples = s["x"], server.clients, server.network.samples
        P = Uniform().choose(N, max(1, round(self.fraction * len(N))), {"samples": samples}, server.rng("select", s["t"]))
        w, x_n = [samples[n] for n in P], self.protect.given(server, x)
        out = server.map(self.client, P, x_n)
        sent = self.protect.seal(server, [r["x"] for r in out], w, about=x_n)
        mean = self.protect.reduce(server, sent, w, like=x)
        came = [r for r, y in zip(out, sent, strict=True) if y.arrived_s is not None]
        x = mean if came else x
        own = s["own"] | {r.place: r["v"] for r in came}  # Refs: evaluated where they are
        server.report(round=s["t"], personal=({n: x for n in N} | own) or None)
        return {"x": x, "own": own, "t": s["t"] + 1}

    def client(self, here: Here, x: Params) -> dict[str, Any]:
        fields: dict[str, Any] = {"steps": self.local_steps, "lr": self.lr, "batch_size": self.batch_size}
        x_n = here.train(x, **fields)
        here.state["v"] = here.train(here.state.get("v", x), prox=(self.pull, x), **fields)
        return {"x": x_n, "v": here.state["v"]}
