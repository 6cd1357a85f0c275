"""SCAFFOLD: control variates take the clients' drift out of the local steps.

    P = m clients, drawn uniformly
    each client n in P:  y = H steps of  y <- y - eta (g_n(y) - c_n + c),  from y = x
                         c_n+ = c_n - c + (x - y) / (H eta)                             (option II)
                         sends  dx = y - x,  dc = c_n+ - c_n;  c_n <- c_n+
    x <- x + eta_g mean(dx),   c <- c + (|P| / |N|) mean(dc)

Paper: Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020,
arXiv 1910.06378, Algorithm 1.
Symbols: x global model, c and c_n control variates, H `local_steps` (K), eta `lr` (eta_l), eta_g `server_lr`, P participants (S), N all clients.
Left out: option I (a gradient pass at x). A client's variate stays at the client; c travels down with x, dc up with dx: twice FedAvg's bytes.
Ours, for clients that come and go: c is kept as |N| c = sum_n c_n over all clients ever seen; and a client moves c_n on only once it knows that the
server got dc, from one alternating bit (`bit`) that comes down with x. Else a lost dc leaves c != mean(c_n), and a bias, for good.
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
class Scaffold(Method):
    """Stochastic controlled averaging.

    Arguments:
        server_lr: step of the server along the mean update (1, paper's experiments).
        fraction: share of the present clients that take part in a round; at least one does.
        local_steps, lr, batch_size: of local SGD.
        protect: what happens to updates before they leave the clients (none).
    """

    paper: ClassVar[str] = "Karimireddy et al. 2020, arXiv 1910.06378"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    server_lr: float = ranged(0, 100, default=1.0, open_low=True)
    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    protect: Protection = part(protection, Unprotected(), is_neutral=True)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "sum": zeros_like(x), "bit": {}, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, present = s["x"], server.clients
        bit = s["bit"] | {n: False for n in present if n not in s["bit"]}  # of all clients ever seen: N
        c = s["sum"] / max(len(bit), 1)
        P = Uniform().choose(present, max(1, round(self.fraction * len(present))), {"samples": bit}, server.rng("select", s["t"]))
        out = self.protect.seal(server, server.map(self.client, P, x, c, each=[(bit[n],) for n in P]), None)
        d = self.protect.reduce(server, out, None, like={"dx": x, "dc": c})
        came = [r.place for r in out if r.arrived_s is not None]
        x = x + self.server_lr * d["dx"]
        server.report(round=s["t"], model=x)
        return {"x": x, "sum": s["sum"] + len(came) * d["dc"], "bit": bit | {n: not bit[n] for n in came}, "t": s["t"] + 1}

    def client(self, here: Here, x: Params, c: Params, bit: bool) -> dict[str, Params]:
        is_known = here.state.get("bit") == bit  # the server has the last dc
        c_n = here.state.get("c+" if is_known else "c", zeros_like(x))
        y = here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, shift=c - c_n)
        c_new = c_n - c + (x - y) / (self.local_steps * self.lr)
        here.state.update({"c": c_n, "c+": c_new, "bit": not bit})
        return {"dx": y - x, "dc": c_new - c_n}
