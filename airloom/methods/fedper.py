"""FedPer: the last layers are each client's own; the layers below them are averaged.

    P = m clients, drawn uniformly
    each client n in P:  (b_n, h_n) <- H steps of SGD from (b, h_n)                                 (h_n stays; at first it is the initial model's)
    b <- sum_n w_n b_n / sum_n w_n

Paper: Arivazhagan, Aggarwal, Singh, Choudhary, "Federated Learning with Personalization Layers", 2019, arXiv 1912.00818, Algorithms 1 and 2.
Symbols: b base layers `base`, h_n personalization layers `head`, H `local_steps`, eta `lr`, w_n data size.
Left out: nothing. Ours: steps instead of epochs, a share of the clients per round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from airloom.models.params import Params, join
from airloom.models.submodel import layers
from airloom.parts.protect import Protection, Unprotected, protection
from airloom.parts.select import Uniform
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class FedPer(Method):
    """Personal last layers.

    Arguments:
        own_layers: how many of the last layers a client keeps for itself (1 to 4 in the paper's experiments); a model of no more is all private.
        fraction: share of the present clients that take part in a round; at least one does.
        local_steps, lr, batch_size: of local SGD.
        protect: what happens to updates before they leave the clients (none).
    """

    paper: ClassVar[str] = "Arivazhagan et al. 2019, arXiv 1912.00818"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    own_layers: int = ranged(1, 1_000, default=1)
    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    protect: Protection = part(protection, Unprotected(), is_neutral=True)

    def init(self, server: Node, x: Params) -> State:
        base, head = self.parts(x)
        return {"base": base, "head": server.put(head), "start": x, "own": {}, "t": 0}  # put: each client gets the first head once

    def round(self, server: Node, s: State) -> State:
        base, N, samples = s["base"], server.clients, server.network.samples
        P = Uniform().choose(N, max(1, round(self.fraction * len(N))), {"samples": samples}, server.rng("select", s["t"]))
        w, base_n = [samples[n] for n in P], self.protect.given(server, base)
        out = server.map(self.client, P, base_n, s["head"])
        sent = self.protect.seal(server, [r["sent"] for r in out], w, about=base_n)
        mean = self.protect.reduce(server, sent, w, like={"base": base})
        came = [r for r, y in zip(out, sent, strict=True) if y.arrived_s is not None]
        base = mean["base"] if came else base
        own = s["own"] | {r.place: r["x"] for r in came}  # Refs: evaluated where they are
        start = s["start"] if base is None else s["start"] | base
        server.report(round=s["t"], personal=({n: start for n in N} | own) or None)
        return s | {"base": base, "own": own, "t": s["t"] + 1}

    def client(self, here: Here, base: Params | None, head: Params) -> dict[str, Any]:
        head = here.state.get("head", head)
        x = head if base is None else join(base, head)
        x = here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size)
        base, here.state["head"] = self.parts(x)
        return {"sent": {"base": base}, "x": x}

    def parts(self, x: Params) -> tuple[Params | None, Params]:
        n = len(x.spec.layers)
        if n <= self.own_layers:
            return None, x
        return x[layers(0, n - self.own_layers)], x[layers(n - self.own_layers, n)]
