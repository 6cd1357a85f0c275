"""MTGC: hierarchical training whose drift is corrected on two time scales, inside groups (z) and between them (y).

    cloud, round t:   every group j starts from x;  x <- mean_j x_j;   y_j <- y_j + (x_j - x) / (H E eta)
    group j, E times: x_j <- mean over its clients i of x_i
    client i:         z_i <- z_i + (x_i - x_j) / (H eta)        (its last model against the group model made of it)
                      x_i = H steps of  x_i <- x_i - eta (g_i(x_i) + z_i + y_j),  from x_j

Paper: Fang, Han, Chen et al., "Hierarchical Federated Learning with Multi-Timescale Gradient Correction", NeurIPS 2024, arXiv 2409.18448.
Symbols: x global, x_j `x` in group, x_i client model, z_i, y_j corrections, H `local_steps`, E `group_rounds`, eta `lr`.
`bar` is a group's last model of the round before: with z carried over rounds, step z_i needs it, not the global x that the client receives next.
Left out: weight decay, clipping and momentum (they break exactness); partial participation. Means are unweighted throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from airloom.models.params import Params, zeros_like
from airloom.program.here import Here
from airloom.program.method import Method, State, ranged
from airloom.program.node import Node
from airloom.program.ref import Ref


@dataclass(frozen=True, kw_only=True)
class MTGC(Method):
    """Multi-timescale gradient correction.

    Arguments:
        group_rounds: averages at an edge server per round (10-30, authors' code).
        local_steps, lr, batch_size: of local SGD.
        z_init: what z_i starts a round with: "carry" keeps it (ours), "zero" forgets it (authors' code; leaves a bias), "grad" takes
            z_i = -g_i(x) + mean over the group of g_i(x), at one more exchange.
        correct: "both", "z" or "y" alone, or "none" (HFedAvg with equal weights).
    """

    paper: ClassVar[str] = "Fang et al. 2024, arXiv 2409.18448"
    shape: ClassVar[str] = "tree"

    group_rounds: int = ranged(1, 10_000, default=5, tune=(2, 5, 10))
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 10, 20))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    z_init: Literal["carry", "zero", "grad"] = "carry"
    correct: Literal["both", "z", "y", "none"] = "both"

    def init(self, cloud: Node, x: Params) -> State:
        return {"x": x, "y": {}, "bar": {}, "t": 0}

    def round(self, cloud: Node, s: State) -> State:
        x0, J, bar = s["x"], cloud.children, s["bar"]
        y = {j: s["y"].get(j, zeros_like(x0)) for j in J} if self.correct in ("both", "y") else {}
        groups = {j: cloud.program(j, self.group, x0, y.get(j), bar.get(j)) for j in J}
        _, _, lost = cloud.first(list(groups.values()), len(groups))
        groups = {j: r for j, r in groups.items() if r not in lost}
        xs = dict(zip(groups, cloud.fetch(list(groups.values())), strict=True))
        x = cloud.reduce(list(groups.values()), like=x0) if groups else x0
        y = {j: y_j + (xs[j] - x) / (self.local_steps * self.group_rounds * self.lr) if j in xs else y_j for j, y_j in y.items()}
        cloud.report(round=s["t"], model=x)
        carried: dict[str, Ref] = groups if self.correct in ("both", "z") and self.z_init == "carry" else {}
        return {"x": x, "y": y, "bar": bar | carried if carried else {}, "t": s["t"] + 1}

    def group(self, edge: Node, x: Params, y: Params | None, bar: Params | None) -> Params:
        y = edge.put(y) if y is not None else None  # the clients get y once, x in every group round
        start: bool | Params = True
        if self.z_init == "grad" and self.correct in ("both", "z"):
            start = edge.put(edge.reduce(edge.map(self.gradient, edge.children, x), like=x))
        for _ in range(self.group_rounds):
            out = edge.map(self.client, edge.children, x, y, bar, start)
            new = edge.reduce(out, like=x)
            x = new if any(r.arrived_s is not None for r in out) else x
            bar, start = None, False  # from now on x itself is the group model
        return x

    def gradient(self, here: Here, x: Params) -> Params:
        here.state["g"] = here.grad(x)
        return here.state["g"]

    def client(self, here: Here, x: Params, y: Params | None, bar: Params | None, start: bool | Params) -> Params:
        z = None
        if self.correct in ("both", "z"):
            z = here.state.get("z", zeros_like(x))
            if start is not False and self.z_init != "carry":
                z = zeros_like(x) if self.z_init == "zero" else start - here.state["g"]
            elif "x" in here.state and here.state["x"] is not None:
                z = z + (here.state["x"] - (x if bar is None else bar)) / (self.local_steps * self.lr)
            here.state["z"] = z
        shift = z if y is None else y if z is None else z + y
        x = here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, shift=shift)
        if z is not None:
            here.state["x"] = x
        return x
