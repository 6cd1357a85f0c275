"""HIST: each round cuts the hidden neurons into disjoint parts, one per cell; a cell trains, sends and stores its part only.

    p = shares of the cells (equal, or with the shortest longest round);  permute the hidden neurons and cut them by p
    each cell j:  x_j = its neurons, with their rows, biases and columns, and all shared layers
                  E times:  x_j <- x_j + sum_i w_i (y_i - x_j) / sum_i w_i,   y_i = H steps of SGD from x_j at client i     (or over the air)
    x <- the parts written back, disjoint;   shared values: sum_j w_j x_j / sum_j w_j

Paper: Fang, Han, Brinton, "Federated Learning over Hierarchical Wireless Networks: Training Latency Minimization via Submodel Partitioning", 2023,
arXiv 2310.17890; the training is that of the authors' code, the choice of p and the sum over the air are reconstructed.
Symbols: x model, x_j submodel of cell j, y_i client model, H `local_steps`, E `group_rounds`, eta `lr`, p_j share, w data size.
Left out: dropout; the output of a thinned layer is not scaled by 1 / p_j. Ours: a hidden bias travels with its neuron (the code draws it anew).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from airloom.models.module import ModelSpec
from airloom.models.params import Params
from airloom.models.submodel import Submodel, everything, neurons
from airloom.parts.over import air_mean, over
from airloom.parts.width import round_seconds
from airloom.plans import partition
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node
from airloom.program.reducer import MEAN, AirSum, Reducer, counted_mean


@dataclass(frozen=True, kw_only=True)
class HIST(Method):
    """Hierarchical independent submodel training. Cells are the servers below this one; clients directly below it take no part.

    Arguments:
        group_rounds: means in a cell per round of the cloud (5, authors' code).
        split: "equal" parts (authors' code), or "latency": the shortest longest round, from prices and rates as last known.
        least: smallest share of a cell under "latency", in units of the equal one (0.5, ours; it stands for the paper's convergence target).
        is_redrawn: cut anew in every round (paper); else the parts stay.
        over: "mean", or air(snr_db=...): each cell's channel adds the updates up, all alike.
        weights: "samples" weighs clients and cells by data size, "equal" does not (authors' code).
        local_steps, lr, batch_size: of local SGD.
    """

    paper: ClassVar[str] = "Fang et al. 2023, arXiv 2310.17890"
    shape: ClassVar[str] = "tree"

    group_rounds: int = ranged(1, 10_000, default=5, tune=(2, 5, 10))
    split: Literal["equal", "latency"] = "equal"
    least: float = ranged(0, 1, default=0.5)
    is_redrawn: bool = True
    over: Reducer = part(over, MEAN)
    weights: Literal["samples", "equal"] = "samples"
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)

    def init(self, cloud: Node, x: Params) -> State:
        return {"x": x, "t": 0}

    def round(self, cloud: Node, s: State) -> State:
        x, samples, leaves = s["x"], cloud.network.samples, set(cloud.clients)
        J = [j for j in cloud.children if samples[j] and j not in leaves]
        plan = self.shares(cloud, x, J)
        subs = self.cut(cloud, x.spec, plan.shares, s["t"])
        cells = [cloud.program(j, self.cell, x[sub]) for j, sub in zip(J, subs, strict=True)]
        x = cloud.reduce(cells, [samples[j] if self.weights == "samples" else 1 for j in J], over=counted_mean(into=x))
        told: dict[str, Any] = {"narrowest": min(plan.shares, default=0.0), "widest": max(plan.shares, default=0.0), "planned_s": plan.finish_s}
        cloud.report(round=s["t"], model=x, **told)
        return {"x": x, "t": s["t"] + 1}

    def cell(self, edge: Node, x: Params) -> Params:
        for _ in range(self.group_rounds):
            x = x + self.mean_update(edge, x)
        return x

    def mean_update(self, edge: Node, x: Params) -> Params:
        C, samples = edge.clients, edge.network.samples
        if isinstance(self.over, AirSum):
            return air_mean(edge, edge.map(self.with_norm, C, x), self.over, x)[0]
        return edge.reduce(edge.map(self.client, C, x), [samples[i] if self.weights == "samples" else 1 for i in C], like=x)

    def client(self, here: Here, x: Params) -> Params:
        return here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size) - x

    def with_norm(self, here: Here, x: Params) -> dict[str, Any]:
        dx = self.client(here, x)
        return {"dx": dx, "norm": dx.norm()}

    def cut(self, cloud: Node, spec: ModelSpec, shares: list[float], t: int) -> list[Submodel]:
        """Disjoint parts of the hidden neurons that add up to all of them, in these shares."""
        picks: list[dict[str, list[int]]] = [{} for _ in shares]
        for axis, n in hidden(spec).items() if shares else ():
            order = cloud.rng("neurons", t if self.is_redrawn else 0, axis).permutation(n).tolist()
            for pick, count in zip(picks, partition.whole(shares, n), strict=True):
                pick[axis], order = order[:count], order[count:]
        return [neurons(pick) if pick else everything for pick in picks]

    def shares(self, cloud: Node, x: Params, J: list[str]) -> partition.SharePlan:
        """p, and the seconds that a round of each cell takes with it: a client's seconds rise in a straight line with its share."""
        if not J or not hidden(x.spec):
            return partition.SharePlan(shares=[1.0] * len(J), cell_s=[], finish_s=0.0)
        equal = [1 / len(J)] * len(J)
        if self.split == "equal":
            return partition.SharePlan(shares=equal, cell_s=[], finish_s=0.0)
        half, seen = x[neurons(share=0.5, axes=list(hidden(x.spec)))], cloud.network
        cells: list[list[tuple[float, float]]] = []
        for j in J:
            ends: list[list[float]] = []  # of each client, with the half and the whole
            for z in (half, x):
                hop_s = [8 * z.nbytes / rate[j] for rate in (seen.up_bps, seen.down_bps)]  # between this server and the cell's
                below = [i for i in cloud.clients if seen.parent[i] == j]
                ends.append([self.group_rounds * round_seconds(cloud, self.client, i, z) + sum(hop_s) for i in below])
            cells.append([(2 * (whole_s - half_s), max(2 * half_s - whole_s, 0.0)) for half_s, whole_s in zip(*ends, strict=True)])
        return partition.shortest(cells, self.least / len(J))


def hidden(spec: ModelSpec) -> dict[str, int]:
    """The layers that are cut, with their neurons: every second fully connected hidden one; convolutions are shared."""
    wide = {leaf_axis.name for leaf in spec.leaves if len(leaf.shape) > 2 for leaf_axis in leaf.axes if leaf_axis is not None}
    return dict([(name, n) for name, n in spec.width_axes.items() if name not in wide][::2])
