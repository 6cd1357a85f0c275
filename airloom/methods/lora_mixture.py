"""Mixture of LoRAs: one adapter per task, trained alone, and for every task a gate that says how much of each adapter it takes.

    S_1 .. S_n: a partition of the ranks {1..r}
    every task v alone:  (A[S_v, :], B[:, S_v]) <- e epochs on D_v
    all blocks come to v:   a_v from e_v (its own block alone);  K times, on the next batch of D_v:  a_v <- a_v - gamma dL_v/da_v,
                            y = W0 x + s sum_t a_vt B[:, S_t] A[S_t, :] x,        dL/da_t = <dL/d(a_t B[:, S_t]), B[:, S_t]>

A baseline of `contextlora`: what a task takes from others is learned from its data instead of declared, and only after they are trained.

Paper: gates over adapters as in Huang, Liu, Lin et al., "LoraHub: Efficient Cross-Task Generalization via Dynamic LoRA Composition", 2023,
arXiv 2307.13269, with gradients in place of its gradient-free search.
Symbols: S_v `rows[v]`, a_v `a`, K `gate_steps`, gamma `gate_lr`, e `epochs`.
Left out: gates per layer or per token. A task is a client; what is trainable beside pairs stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from airloom.models.params import Params, join
from airloom.models.step import AdamW, Optimizer
from airloom.models.submodel import Submodel, components, ranks
from airloom.parts.optimizer import local_optimizer
from airloom.plans.contextgear import deal_ranks
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node

Rows = dict[str, list[int]]


@dataclass(frozen=True, kw_only=True)
class LoRAMixture(Method):
    """One adapter per task and a gate over all of them.

    Arguments:
        epochs, lr, batch_size, optimizer: of a task's own adapter, in each round (ours, as in contextlora).
        gate_steps, gate_lr: of the gates, from the task's own adapter alone in each round (ours).
    """

    paper: ClassVar[str] = "Huang et al. 2023, arXiv 2307.13269"
    adapts: ClassVar[bool] = True

    epochs: int = ranged(1, 1_000, default=3, tune=(1, 3))
    lr: float = ranged(0, 100, default=0.01, open_low=True, tune=(0.003, 0.01, 0.03))
    batch_size: int = ranged(1, 1_000_000, default=16)
    optimizer: Optimizer = part(local_optimizer, AdamW(weight_decay=0.0))
    gate_steps: int = ranged(0, 100_000, default=10)
    gate_lr: float = ranged(0, 100, default=0.01, open_low=True)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "rows": {}, "gates": {}, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, N = s["x"], server.clients
        rows = s["rows"] or (deal_ranks(x.spec.rank, dict.fromkeys(N, 1.0), {}) if N else {})
        P = [v for v in N if v in rows]
        b = server.map(self.train, P, each=[(x[ranks(rows[v])], self.steps(server, v)) for v in P])
        came, _, _ = server.first([r["done"] for r in b], len(b))
        b = [r for r in b if r.place in {c.place for c in came}]
        old = [server.put(x[pairs(x, rows[v])]) for v in rows if v not in {r.place for r in b}]  # of tasks that are away
        a = server.map(self.gate, P, [*[r["b"] for r in b], *old], rows, each=[(x[ranks(rows[v])],) for v in P])
        known, _, _ = server.first([*[r["b"] for r in b], *a], len(b) + len(a))
        for new in server.fetch([r["b"] for r in b if r["b"] in known]):
            x = x | new
        gates = s["gates"] | {r.place: g for r, g in zip([r for r in a if r in known], server.fetch([r for r in a if r in known]))}
        own = {v: mixed(x, rows, gates.get(v, {v: 1.0})) for v in rows}
        server.report(round=s["t"], personal=own or None)
        return {"x": x, "rows": rows, "gates": gates, "t": s["t"] + 1}

    def steps(self, server: Node, v: str) -> int:
        return self.epochs * -(-server.network.samples[v] // self.batch_size)

    def train(self, here: Here, x: Params, steps: int) -> dict[str, Any]:
        own = pairs(x, range(x.spec.rank))
        x = here.train(x, steps=steps, lr=self.lr, batch_size=self.batch_size, optimizer=self.optimizer, only=own)
        return {"b": x[own], "done": None}

    def gate(self, here: Here, blocks: list[Params], rows: Rows, x: Params) -> dict[str, float]:
        x, a = join(x, *blocks), {v: float(v == here.name) for v in rows}
        for _ in range(self.gate_steps):
            g = here.grad(mixed(x, rows, a), here.batch(self.batch_size))
            here.cost(flops=2 * x.spec.size)
            a = {v: a[v] - self.gate_lr * g[outputs(x, rows[v])].dot(x[outputs(x, rows[v])]) for v in rows}
        return a


def mixed(x: Params, rows: Rows, a: dict[str, float]) -> Params:
    """Each block's B times its gate; a task without a gate has none of it."""
    for v, at in rows.items():
        x = x | a.get(v, 0.0) * x[outputs(x, at)]
    return x


def pairs(x: Params, at: Any) -> Submodel:
    """Rank rows of all pairs, and nothing else."""
    return ranks(list(at)) & components(*(leaf for pair in x.spec.pairs for leaf in x.spec.pair_leaves(pair)))


def outputs(x: Params, at: list[int]) -> Submodel:
    """Columns of B of some rank rows."""
    return ranks(at) & components(*(x.spec.pair_leaves(pair)[1] for pair in x.spec.pairs))
