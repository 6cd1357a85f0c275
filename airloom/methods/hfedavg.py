"""HFedAvg: averaging on every level of a tree; edge servers average several times before the cloud does.

    group(j, x):   E times:  x <- sum_c w_c x_c / sum_c w_c   over the children c of j,  x_c = H steps of SGD at a client, or group(c, x)
    cloud:         x <- weighted mean over its children, once per round

Paper: Liu, Zhang, Song, Letaief, "Client-Edge-Cloud Hierarchical Federated Learning", ICC 2020, arXiv 1905.06641, Algorithm 1 (two levels; here any
depth).
Symbols: x model, H `local_steps` (kappa_1), E `group_rounds` (kappa_2), eta `lr`, w_c data size at or below c.
Left out: nothing of the algorithm. Ours: any depth, `weights="equal"`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from airloom.models.params import Params
from airloom.program.here import Here
from airloom.program.method import Method, State, ranged
from airloom.program.node import Node
from airloom.program.ref import Ref


@dataclass(frozen=True, kw_only=True)
class HFedAvg(Method):
    """Hierarchical federated averaging.

    Arguments:
        group_rounds: averages at an edge server per average of the server above it.
        local_steps, lr, batch_size: of local SGD.
        weights: "samples" weighs by data size (paper), "equal" does not.
    """

    paper: ClassVar[str] = "Liu et al. 2020, arXiv 1905.06641"
    shape: ClassVar[str] = "tree"

    group_rounds: int = ranged(1, 10_000, default=5, tune=(2, 5, 10))
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    weights: Literal["samples", "equal"] = "samples"

    def init(self, cloud: Node, x: Params) -> State:
        return {"x": x, "t": 0}

    def round(self, cloud: Node, s: State) -> State:
        x = self.average(cloud, s["x"])
        cloud.report(round=s["t"], model=x)
        return {"x": x, "t": s["t"] + 1}

    def group(self, edge: Node, x: Params) -> Params:
        for _ in range(self.group_rounds):
            x = self.average(edge, x)
        return x

    def average(self, node: Node, x: Params) -> Params:
        samples, leaves = node.network.samples, set(node.clients)
        below = [c for c in node.children if samples[c]]  # clients, and servers with a client
        clients = [c for c in below if c in leaves]
        out: dict[str, Ref] = dict(zip(clients, node.map(self.client, clients, x), strict=True))
        out |= {c: node.program(c, self.group, x) for c in below if c not in leaves}
        w = [samples[c] if self.weights == "samples" else 1 for c in below]
        mean = node.reduce([out[c] for c in below], w, like=x)
        return mean if any(r.arrived_s is not None for r in out.values()) else x

    def client(self, here: Here, x: Params) -> Params:
        return here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size)
