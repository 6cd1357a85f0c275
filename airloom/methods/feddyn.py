"""FedDyn: each client's loss is bent so that its own minimum is a minimum of the mean.

    P = m clients, drawn uniformly
    each client n in P:  x_n = H steps of  x_n <- x_n - eta (g_n(x_n) - h_n + alpha (x_n - x)),  from x
                         h_n <- h_n - alpha (x_n - x)
                         sends x_n - x
    h <- h - alpha (1 / |N|) sum_n (x_n - x),   x <- mean(x_n) - h / alpha

Paper: Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama, "Federated Learning Based on Dynamic Regularization", ICLR 2021,
arXiv 2111.04263, Algorithm 1.
Symbols: x server model, x_n client model, h_n `h` the client's dual (minus its linear term), h server state, alpha `alpha`, N all clients, H
`local_steps`, eta `lr`.
Left out: the exact minimum of the bent loss; H steps go towards it. Ours, for clients that come and go: a client moves h_n on only once it knows
that the server got x_n - x, from one alternating bit (`bit`) that comes down with x; N are all clients ever seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.models.params import Params, zeros_like
from airloom.parts.protect import Protection, Unprotected, protection
from airloom.parts.select import Uniform
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class FedDyn(Method):
    """Dynamic regularization.

    Arguments:
        alpha: strength of the pull to x (0.1 to 0.001 in the paper's experiments).
        fraction: share of the present clients that take part in a round; at least one does.
        local_steps, lr, batch_size: of local SGD.
        protect: what happens to updates before they leave the clients (none).
    """

    paper: ClassVar[str] = "Acar et al. 2021, arXiv 2111.04263"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    alpha: float = ranged(0, 1e3, default=0.1, open_low=True, tune=(0.01, 0.1, 1.0))
    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    protect: Protection = part(protection, Unprotected(), is_neutral=True)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "sum": zeros_like(x), "bit": {}, "t": 0}  # sum: of all updates that ever came, - |N| h / alpha

    def round(self, server: Node, s: State) -> State:
        x, N = s["x"], server.clients
        bit = s["bit"] | {n: False for n in N if n not in s["bit"]}  # of all clients ever seen
        P = Uniform().choose(N, max(1, round(self.fraction * len(N))), {"samples": bit}, server.rng("select", s["t"]))
        out = self.protect.seal(server, server.map(self.client, P, x, each=[(bit[n],) for n in P]), None)
        dx = self.protect.reduce(server, out, None, like=x)
        came = [r.place for r in out if r.arrived_s is not None]
        total = s["sum"] + len(came) * dx
        if came:
            x = x + dx + total / len(bit)  # mean(x_n) - h / alpha
        server.report(round=s["t"], model=x)
        return {"x": x, "sum": total, "bit": bit | {n: not bit[n] for n in came}, "t": s["t"] + 1}

    def client(self, here: Here, x: Params, bit: bool) -> Params:
        is_known = here.state.get("bit") == bit  # the server has the last update
        h = here.state.get("h+" if is_known else "h", zeros_like(x))
        x_n = here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, shift=-h, prox=(self.alpha, x))
        here.state.update({"h": h, "h+": h - self.alpha * (x_n - x), "bit": not bit})
        return x_n - x
