"""HeteroFL: each client trains the first channels of every layer, as many as it can afford; a value's mean goes over those that hold it.

    each client n:  p_n in {1, 1/2, 1/4, ...},  fixed by its capacity (or drawn anew)
                    x_n = H steps of SGD on x[:p_n], from x[:p_n];   logits of labels that n has no rows of are zero; |g| <= clip_norm
    each value k:   x_k <- mean of x_{n,k} over the clients that hold it; classifier rows: over the owners of the label; else x_k stays

Paper: Diao, Ding, Tarokh, "HeteroFL: Computation and Communication Efficient Federated Learning for Heterogeneous Clients", ICLR 2021,
arXiv 2010.01264, Algorithm 1.
Symbols: x global model, x[:p] its nested slice of width p, x_n local model, p_n `p`, H `local_steps`, eta `lr`.
Left out: static batch normalization. Ours: who gets which width (the paper deals widths out in equal parts; here the fastest get the widest).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from airloom.models.params import Params
from airloom.parts.protect import Protection, Unprotected, protection
from airloom.parts.width import cut, fit_slice, whole_seconds
from airloom.plans.width import at_random, by_capacity
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node
from airloom.program.reducer import counted_mean


@dataclass(frozen=True, kw_only=True)
class HeteroFL(Method):
    """Nested width slices.

    Arguments:
        sizes: "capacity" (fixed), "random" (the paper's dynamic mode: drawn anew in each round), or "full" (FedAvg with equal weights).
        levels: widths 1, 1/2, ..., 1/2^(levels-1) (5, paper).
        is_masked: whether logits of labels without rows are zero in training (paper).
        is_scaled: whether narrow layers are scaled up in training (paper).
        clip_norm: largest norm of a gradient (1, authors' code).
        local_steps, lr, batch_size: of local SGD.
        protect: what happens to updates before they leave the clients (none).
    """

    paper: ClassVar[str] = "Diao et al. 2021, arXiv 2010.01264"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    sizes: Literal["capacity", "random", "full"] = "capacity"
    levels: int = ranged(1, 10, default=5)
    is_masked: bool = True
    is_scaled: bool = True
    clip_norm: float = ranged(0, 1e9, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    protect: Protection = part(protection, Unprotected(), is_neutral=True)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "p": {}, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, N = s["x"], server.clients
        p = self.widths(server, x, s)
        out, fold = server.map(self.client, N, each=[(cut(x, p[n], is_scaled=self.is_scaled),) for n in N]), counted_mean(into=x)
        x = self.protect.reduce(server, self.protect.seal(server, out, None, over=fold), None, like=x, over=fold)
        server.report(round=s["t"], model=x, rate=sum([p[n] for n in N]) / max(len(N), 1))
        return {"x": x, "p": p, "t": s["t"] + 1}

    def client(self, here: Here, x: Params) -> Params:
        y = fit_slice(here, x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, clip_norm=self.clip_norm, is_masked=self.is_masked)
        return y["x"]

    def widths(self, server: Node, x: Params, s: State) -> dict[str, Any]:
        """p by client: drawn, or kept once a client has been seen."""
        if self.sizes == "random":
            return at_random(server.clients, self.levels, server.rng("width", s["t"]))
        if self.sizes == "full":
            return dict.fromkeys(server.clients, 1.0)
        if all(n in s["p"] for n in server.clients):
            return s["p"]
        return by_capacity(whole_seconds(server, self.client, x), self.levels) | s["p"]
