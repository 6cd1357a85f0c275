"""FedRolex: as HeteroFL, but the window of channels that a width stands for moves on by one in every round, so that all channels get trained.

    round t:        every layer of K channels: the window of width p is channels t, t+1, ..., t + ceil(p K) - 1 (mod K)
    each client n:  x_n = H steps of SGD on its window, from x there;   logits of labels that n has no rows of are zero; |g| <= clip_norm
    each value k:   x_k <- mean of x_{n,k} over the clients that hold it; else x_k stays

Paper: Alam, Liu, Yan, Zhang, "FedRolex: Model-Heterogeneous Federated Learning with Rolling Sub-Model Extraction", NeurIPS 2022,
arXiv 2212.01548, Algorithm 1.
Symbols: x global model, x_n local model, p_n `p`, H `local_steps`, eta `lr`, t `t`.
Left out: weights by data size, static batch normalization. Ours: who gets which width (the fastest get the widest, in equal groups).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.models.params import Params
from airloom.parts.protect import Protection, Unprotected, protection
from airloom.parts.width import cut, fit_slice, whole_seconds
from airloom.plans.width import by_capacity
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node
from airloom.program.reducer import counted_mean


@dataclass(frozen=True, kw_only=True)
class FedRolex(Method):
    """Rolling width slices.

    Arguments:
        levels: widths 1, 1/2, ..., 1/2^(levels-1) (5, paper).
        is_masked, is_scaled, clip_norm: as in HeteroFL.
        local_steps, lr, batch_size: of local SGD.
        protect: what happens to updates before they leave the clients (none).
    """

    paper: ClassVar[str] = "Alam et al. 2022, arXiv 2212.01548"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

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
        x, N, p = s["x"], server.clients, s["p"]
        if not all(n in p for n in N):
            p = by_capacity(whole_seconds(server, self.client, x), self.levels) | p
        out, fold = server.map(self.client, N, each=[(cut(x, p[n], start=s["t"], is_scaled=self.is_scaled),) for n in N]), counted_mean(into=x)
        x = self.protect.reduce(server, self.protect.seal(server, out, None, over=fold), None, like=x, over=fold)
        server.report(round=s["t"], model=x, rate=sum([p[n] for n in N]) / max(len(N), 1))
        return {"x": x, "p": p, "t": s["t"] + 1}

    def client(self, here: Here, x: Params) -> Params:
        y = fit_slice(here, x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, clip_norm=self.clip_norm, is_masked=self.is_masked)
        return y["x"]
