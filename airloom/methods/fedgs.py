"""FedGS: at every step a factory trains on the devices whose next batches together look like the whole.

    every factory, T times:   draw L_rnd devices at random;  choose L - L_rnd of the others by GBP-CS (`airloom.plans.grouping`), so that
                                  sum of a_c over both  is near  n L P
                              each chosen device c:  w_c = w - eta g_c(w)  on its prepared batch;  prepares the next one and publishes its a_c
                              w <- mean of w_c
    cloud:                    w <- mean over factories, each weighing as many devices as it chooses at a step

Paper: Li, He, Yu et al., "Data Heterogeneity-Robust Federated Learning via Group Client Selection in Industrial IoT", 2022, IEEE Internet of Things
Journal 9(18), doi 10.1109/JIOT.2022.3161943; details from the authors' code.
Symbols: w `x`, T `group_rounds`, L `devices`, L_rnd `random`, n `batch_size`, eta `lr`, a_c `counts` (label counts of c's prepared batch), P `mix`.
Left out: searches by Bayesian optimization and by a genetic algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from airloom.errors import DeviceLost, ScenarioError
from airloom.models.batch import Batch
from airloom.models.params import Params
from airloom.plans.grouping import best_of, brute_force, gbp_cs
from airloom.program.here import Here
from airloom.program.method import Method, State, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class FedGS(Method):
    """Group client selection with compound-step synchronization.

    Arguments:
        group_rounds: steps of a factory per average at the cloud (50, authors' code).
        devices: that a factory chooses at a step; all where fewer are there (10, authors' code).
        random: how many of them are drawn, whatever their labels (2, authors' code).
        select: how the others are chosen: "gbp-cs" (paper), "random", "best-of" (100 random sets) or "brute" (all sets).
        exact_swap: GBP-CS tries all swaps, not the one that the gradient names.
        lr, batch_size: of SGD (0.01 and 32, authors' code).
    """

    paper: ClassVar[str] = "Li et al. 2022, doi 10.1109/JIOT.2022.3161943"
    shape: ClassVar[str] = "tree"

    group_rounds: int = ranged(1, 10_000, default=50, tune=(10, 25, 50))
    devices: int = ranged(1, 1_000_000, default=10)
    random: int = ranged(0, 1_000_000, default=2)
    select: Literal["gbp-cs", "random", "best-of", "brute"] = "gbp-cs"
    exact_swap: bool = False
    lr: float = ranged(0, 100, default=0.01, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=32)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.random > self.devices:
            raise ScenarioError(f"FedGS(random={self.random}, devices={self.devices}): allowed is random <= devices; those drawn are part of them")

    def init(self, cloud: Node, x: Params) -> State:
        last = {j: cloud.program(j, self.survey) for j in cloud.children if cloud.network.samples[j]}
        came, _, _ = cloud.first([r["mix"] for r in last.values()], len(last))
        mix = sum(cloud.fetch(came)) if came else None  # of everybody's first batch; the tables stay at the factories
        return {"x": x, "mix": mix, "last": {r.place: last[r.place] for r in came}, "t": 0}

    def round(self, cloud: Node, s: State) -> State:
        x = s["x"]
        out = {j: cloud.program(j, self.factory, x, s["mix"], s["last"].get(j)) for j in cloud.children if cloud.network.samples[j]}
        arrived, _, _ = cloud.first([r["sent"] for r in out.values()], len(out))
        out = {j: r for j, r in out.items() if r["sent"] in arrived}
        if out:
            x = cloud.reduce([r["sent"]["x"] for r in out.values()], cloud.fetch([r["sent"]["L"] for r in out.values()]))
        cloud.report(round=s["t"], model=x, factories=len(out))
        return {"x": x, "mix": s["mix"], "last": out, "t": s["t"] + 1}

    def survey(self, edge: Node) -> dict[str, Any]:
        table = self.published(edge, {})
        return {"mix": sum(table.values()), "table": table, "steps": 0}

    def factory(self, edge: Node, x: Params, mix: Tensor | None, last: dict[str, Any] | None) -> dict[str, Any]:
        table, steps = (last["table"], last["steps"]) if last else ({}, 0)
        chosen: list[str] = []
        for i in range(steps, steps + self.group_rounds):
            table = self.published(edge, table)
            chosen = edge.fetch(edge.call(self.choose, edge.name, table, sum(table.values()) if mix is None else mix, i))
            out = edge.map(self.step, chosen, x)
            came, _, _ = edge.first(out, len(out))
            if came:
                x = edge.reduce([r["x"] for r in out if r in came])
            new = dict(zip([r.place for r in came], edge.fetch([r["counts"] for r in came]), strict=True))
            table = {c: counts for c, counts in table.items() if c not in chosen} | new
        return {"sent": {"x": x, "L": len(chosen)}, "table": table, "steps": steps + self.group_rounds}

    def published(self, edge: Node, table: dict[str, Tensor]) -> dict[str, Tensor]:
        """The label counts of the devices that are here, after asking those that have published none; a factory without devices is lost."""
        asked = edge.map(self.publish, [c for c in edge.clients if c not in table])
        came, _, _ = edge.first(asked, len(asked))
        table = table | dict(zip([r.place for r in came], edge.fetch(came), strict=True))
        here = [c for c in edge.clients if c in table]
        if not here:
            raise DeviceLost(edge.name)
        return {c: table[c] for c in here}

    def choose(self, here: Here, table: dict[str, Tensor], mix: Tensor, step: int) -> list[str]:
        """Runs at the factory's server: devices drawn at random, and the search for those that complete them."""
        C, A, P = list(table), np.stack([counts.numpy() for counts in table.values()]), mix.numpy() / mix.sum().item()
        L = min(self.devices, len(C))
        rng = here.rng("choose", step)
        order = rng.permutation(len(C))
        drawn, rest = order[: min(self.random, L)], np.sort(order[min(self.random, L) :])
        y, size = A[0].sum() * L * P - A[drawn].sum(0), L - len(drawn)
        if self.select == "gbp-cs":
            pick = gbp_cs(A[rest], y, size, exact_swap=self.exact_swap)
        elif self.select == "brute":
            pick = brute_force(A[rest], y, size)
        else:
            pick = best_of(A[rest], y, size, rng, draws=100 if self.select == "best-of" else 1)
        here.cost(flops=pick.flops)
        return [C[k] for k in sorted([*drawn, *rest[pick.chosen]])]

    def publish(self, here: Here) -> Tensor:
        return self.prepared(here)["counts"]

    def step(self, here: Here, x: Params) -> dict[str, Any]:
        now = self.prepared(here)
        x = x - self.lr * here.grad(x, Batch(now["x"], now["y"]))
        here.state["batch"] = self.next_batch(here)
        return {"x": x, "counts": here.state["batch"]["counts"]}

    def prepared(self, here: Here) -> dict[str, Any]:
        """The batch whose counts were published, whatever a stream has brought meanwhile."""
        if "batch" not in here.state:
            here.state["batch"] = self.next_batch(here)
        return here.state["batch"]

    def next_batch(self, here: Here) -> dict[str, Any]:
        batch = here.batch(self.batch_size)
        return {"x": batch.x, "y": batch.y, "counts": batch.histogram}
