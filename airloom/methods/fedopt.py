"""FedOpt: the server treats the mean update as a gradient and takes a step of its own (FedAvgM, FedAdam, FedYogi, FedAdagrad).

    P = m clients, drawn uniformly
    each client n in P:  Delta_n = (H steps of SGD from x) - x
    Delta = sum_n w_n Delta_n / sum_n w_n
    x <- ServerOpt(x, -Delta, eta)

Paper: Reddi, Charles, Zaheer et al., "Adaptive Federated Optimization", ICLR 2021, arXiv 2003.00295, Algorithms 1 and 2; FedAvgM: Hsu, Qi, Brown
2019, arXiv 1909.06335.
Symbols: x global model, Delta mean update, eta, beta1, beta2, tau fields of `server`, H `local_steps` (K), eta_l `lr`.
Left out: decay of the client step size. The boxes average plainly (`weights="equal"`); by default clients weigh as in FedAvg.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from airloom.models.params import Params
from airloom.parts.optimizer import ServerAdam, ServerOptimizer, server_optimizer
from airloom.parts.protect import Protection, Unprotected, protection
from airloom.parts.select import Uniform
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class FedOpt(Method):
    """Adaptive federated optimization.

    Arguments:
        server: the server's optimizer (`sgd(momentum=0.9)` is FedAvgM, `adam(lr=0.01)`, `yogi(lr=0.01)`, `adagrad(lr=0.1)`). Its default
            step, 0.01, is ours.
        fraction: share of the present clients that take part in a round; at least one does.
        local_steps, lr, batch_size: of local SGD.
        weights: "samples" weighs clients by data size, "equal" does not (paper's boxes).
        protect: what happens to updates before they leave the clients (none).
    """

    paper: ClassVar[str] = "Reddi et al. 2021, arXiv 2003.00295"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    server: ServerOptimizer = part(server_optimizer, ServerAdam(lr=0.01))
    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    weights: Literal["samples", "equal"] = "samples"
    protect: Protection = part(protection, Unprotected(), is_neutral=True)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "opt": None, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, opt, N, samples = s["x"], s["opt"], server.clients, server.network.samples
        P = Uniform().choose(N, max(1, round(self.fraction * len(N))), {"samples": samples}, server.rng("select", s["t"]))
        w = [samples[n] for n in P] if self.weights == "samples" else None
        out = self.protect.seal(server, server.map(self.client, P, x), w)
        delta = self.protect.reduce(server, out, w, like=x)
        if any(r.arrived_s is not None for r in out):
            x, opt = self.server.step(x, -delta, opt)
        server.report(round=s["t"], model=x)
        return {"x": x, "opt": opt, "t": s["t"] + 1}

    def client(self, here: Here, x: Params) -> Params:
        return here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size) - x
