"""MTGC: hierarchical training whose drift is corrected on two time scales, inside groups (z) and between them (y).

    cloud, each round:  every group j starts from x;  x <- mean_j x_j;   y_j <- y_j + (x_j - x) / (H E eta)
    group j, E times:   x_j <- mean over its clients i of x_i
    client i:           z_i <- z_i + (x_i - x_j) / (H eta)        (its last model against the group model made of it)
                        x_i = H steps of  x_i <- x_i - eta (g_i(x_i) + z_i + y_j),  from x_j

Paper: Fang, Han, Chen et al., "Hierarchical Federated Learning with Multi-Timescale Gradient Correction", NeurIPS 2024, arXiv 2409.18448.
Symbols: x global, x_j group (`x` in `group`), x_i client model, z_i, y_j corrections, g_i gradient, H `local_steps`, E `group_rounds`, eta `lr`.
`bar` is the group model that a client's last model went into: in the first group round of a round it is not the global x that comes down.
Left out: weight decay, clipping and momentum (they break exactness), partial participation. Means are unweighted throughout. Ours: where the clients
of a group are not those of its last mean (one was lost, one is new), their z_i start from 0 again, because they must sum to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from airloom.errors import DeviceLost
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
            z_i = mean over the group of g_i(x) - g_i(x), at one more exchange.
        correct: "both", "z" or "y" alone, or "none" (HFedAvg with equal weights).
    """

    paper: ClassVar[str] = "Fang et al. 2024, arXiv 2409.18448"
    shape: ClassVar[str] = "tree"

    group_rounds: int = ranged(1, 10_000, default=5, tune=(2, 5, 10))
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    z_init: Literal["carry", "zero", "grad"] = "carry"
    correct: Literal["both", "z", "y", "none"] = "both"

    def init(self, cloud: Node, x: Params) -> State:
        return {"x": x, "y": {}, "last": {}, "t": 0}

    def round(self, cloud: Node, s: State) -> State:
        x, samples = s["x"], cloud.network.samples
        J = [j for j in cloud.children if samples[j]]  # edge servers with a client
        y = {j: s["y"].get(j, zeros_like(x)) for j in J} if self.correct in ("both", "y") else {}
        out = {j: cloud.program(j, self.group, x, y.get(j), s["last"].get(j)) for j in J}
        mean = cloud.reduce([r["x"] for r in out.values()], like=x)
        out = {j: r for j, r in out.items() if r["x"].arrived_s is not None}  # groups that are lost keep their y_j and have no part in x
        x = mean if out else x
        xs = dict(zip(out, cloud.fetch([r["x"] for r in out.values()]), strict=True))
        y = {j: y_j + (xs[j] - x) / (self.local_steps * self.group_rounds * self.lr) if j in xs else y_j for j, y_j in y.items()}
        cloud.report(round=s["t"], model=x, y_norm=max((y_j.norm() for y_j in y.values()), default=0.0))
        last = out if self.has_z and self.z_init == "carry" else {}  # Refs: each group model stays at its edge server
        return {"x": x, "y": s["y"] | y, "last": last, "t": s["t"] + 1}

    def group(self, edge: Node, x: Params, y: Params | None, last: dict[str, Any] | None) -> dict[str, Any]:
        bar, members = (edge.put(last["x"]), last["members"]) if last else (None, [])
        x_at, y_at, g_at = edge.put(x), None if y is None else edge.put(y), None  # put: each client gets it once, however often it is used
        if self.has_z and self.z_init == "grad":
            g, members = self.mean(edge, edge.map(self.gradient, edge.clients, x_at))
            g_at = edge.put(g)
        for _ in range(self.group_rounds):
            C = edge.clients
            means = (bar, g_at) if members == C else (None, None)  # else z starts from 0 at all of them: it must sum to 0
            x, members = self.mean(edge, edge.map(self.client, C, x_at, y_at, *means))
            bar = x_at = edge.put(x)
            g_at = None
        return {"x": x, "members": members}

    def mean(self, edge: Node, refs: Sequence[Ref]) -> tuple[Params, list[str]]:
        """The mean of what arrives, and the clients if all of them are in it; a group that hears from nobody is lost for the round."""
        if not refs:
            raise DeviceLost(edge.name)
        x = edge.reduce(refs)
        return x, [r.place for r in refs] if all(r.arrived_s is not None for r in refs) else []

    def gradient(self, here: Here, x: Params) -> Params:
        here.state["g"] = here.grad(x)
        return here.state["g"]

    def client(self, here: Here, x: Params, y: Params | None, bar: Params | None, g: Params | None) -> Params:
        shift = y
        if self.has_z:
            z = zeros_like(x)
            if g is not None and "g" in here.state:
                z = g - here.state["g"]
            elif bar is not None and "x" in here.state:
                z = here.state["z"] + (here.state["x"] - bar) / (self.local_steps * self.lr)
            here.state["z"] = z
            shift = z if y is None else z + y
        x = here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, shift=shift)
        if self.has_z:
            here.state["x"] = x
        return x

    @property
    def has_z(self) -> bool:
        """Whether clients correct their gradients."""
        return self.correct in ("both", "z")
