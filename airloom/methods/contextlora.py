"""ContextLoRA: the rank rows of one adapter are dealt to tasks; each task trains its own on top of those of the tasks that it builds on.

    S_1 .. S_n: a partition of the ranks {1..r};   Anc(v): all tasks that v needs, directly or not
    for every task v, where and in the order that the plan says:
        y = W0 x + s (sum over t in {v} u Anc(v) of B[:, S_t] A[S_t, :]) x            Anc(v) frozen; all other blocks masked: not even there
        (A[S_v, :], B[:, S_v]) <- e epochs on D_v;   the block goes on to the tasks that wait for it, from device to device
    task v is answered with the blocks of {v} u Anc(v) alone

A task is a client, D_v its data. ContextGear (`airloom.plans.contextgear`) says which device trains which task, and after what.

Paper: reconstructed from the abstract of Cao, Guo, Nan et al., "Advancing Compositional LLM Reasoning with Structured Task Relations in Interactive
Multimodal Communications", 2025, arXiv 2507.21199, whose text was not available.
Symbols: W0 frozen weight, B, A a LoRA pair, s its scale (always that of rank r), S_v `rows[v]`, Anc(v) `needs[v]`, e `epochs`, D_v `data`.
Left out: training on composed samples (a task's output in the prompt of the next). What is trainable beside pairs (a head) stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar, Literal

from airloom.errors import ScenarioError
from airloom.models.batch import Batch
from airloom.models.params import Params, join
from airloom.models.step import AdamW, Optimizer
from airloom.models.submodel import Submodel, components, ranks
from airloom.parts.optimizer import local_optimizer
from airloom.plans.contextgear import PLANNERS, GearPlan, Job, Setting, at_random, deal_ranks
from airloom.plans.taskgraph import TaskGraph, task_graph
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node
from airloom.program.ref import Ref

Rows = dict[str, list[int]]


@dataclass(frozen=True, kw_only=True)
class ContextLoRA(Method):
    """One adapter for tasks that build on each other: the server's fact "needs" says which ({"both": ["add", "compare"]}; without it, none does).

    Arguments:
        relations: "graph"; "none": n independent adapters; "sequence": all ranks in every task, one after another, without freeze and mask.
        deal: ranks "equal" (ours), or by a task's "samples" or "children", at least one each; a client's fact "rank" counts before that.
        planner: "gear" (best of the next three), "levels", "critical_path", "single" device, "home" (where the data are), "random", "exact".
        moves: whether examples may travel, so that a task can be trained elsewhere.
        passes: over all tasks, then the run ends (1, ours).
        epochs, lr, batch_size, optimizer: of a task's training (ours); the optimizer's state is new in each.
    """

    paper: ClassVar[str] = "Cao et al. 2025, arXiv 2507.21199"
    adapts: ClassVar[bool] = True

    relations: Literal["graph", "none", "sequence"] = "graph"
    deal: Literal["equal", "samples", "children"] = "equal"
    planner: Literal["gear", "levels", "critical_path", "single", "home", "random", "exact"] = "gear"
    moves: bool = False
    passes: int = ranged(1, 1_000_000, default=1)
    epochs: int = ranged(1, 1_000, default=3, tune=(1, 3))
    lr: float = ranged(0, 100, default=0.01, open_low=True, tune=(0.003, 0.01, 0.03))
    batch_size: int = ranged(1, 1_000_000, default=16)
    optimizer: Optimizer = part(local_optimizer, AdamW(weight_decay=0.0))

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "rows": {}, "t": 0}

    def done(self, server: Node, s: State) -> bool:
        return s["t"] == self.passes

    def round(self, server: Node, s: State) -> State:
        x, rows = s["x"], s["rows"] or self.dealt(server, s["x"].spec.rank)
        graph = self.graph(server, list(rows))
        needs, present = self.needs(graph), [v for v in graph.order if v in server.clients]
        plan = self.plan(server, x, rows, graph, present, s["t"])
        b: dict[str, Ref] = {}
        kept = {v: server.put(x[block(x, rows[v])]) for v in rows if v not in present}
        for group in plan.groups:
            for v, q in group:
                D = None if q == v else server.call(self.data, v, on=None)
                frozen = [b[u]["b"] if u in b else kept[u] for u in needs[v]]
                b[v] = server.call(self.train, q, *self.order(server, x, rows, needs, v), frozen, D)
            server.first([b[v]["done"] for v, _ in group], len(group))
        sent = [b[v]["b"] for v, _ in sum(plan.groups, ()) if v in self.results(present)]
        for new in server.fetch(server.first(sent, len(sent))[0]):
            x = x | new
        own = {v: x[ranks(active(rows, needs, v))] for v in rows}
        server.report(round=s["t"], personal=own or None, planned_s=plan.seconds, planned_bytes=plan.bytes, groups=len(plan.groups))
        return {"x": x, "rows": rows, "t": s["t"] + 1}

    def train(self, here: Here, x: Params, at: list[int], steps: int, frozen: list[Params], D: dict[str, Any] | None) -> dict[str, Any]:
        x, data = join(x, *frozen), None if D is None else Batch(D["x"], D["y"])
        own = block(x, at)  # rows of A and columns of B; the gradient still goes through all others to the layers below
        x = here.train(x, steps=steps, lr=self.lr, batch_size=self.batch_size, data=data, optimizer=self.optimizer, only=own)
        return {"b": x[own], "done": None}

    def data(self, here: Here) -> dict[str, Any]:
        return {"x": (D := here.data.all()).x, "y": D.y}

    def order(self, server: Node, x: Params, rows: Rows, needs: dict[str, list[str]], v: str) -> tuple[Params, list[int], int]:
        """What the server sends with a call: the task's rows (and the head), which of the rows there are its own, and how many steps."""
        there = active(rows, needs, v)
        return x[ranks(rows[v])], [there.index(i) for i in rows[v]], self.epochs * -(-server.network.samples[v] // self.batch_size)

    def plan(self, server: Node, x: Params, rows: Rows, graph: TaskGraph, present: list[str], t: int) -> GearPlan:
        net, needs, jobs, size = server.network, self.needs(graph), dict[str, Job](), {v: x[block(x, rows[v])] for v in rows}
        for v in present:
            order, framing = self.order(server, x, rows, needs, v), net.hops(v, server.name)[0].framing_bytes
            frozen = [size[u] for u in needs[v]]
            price = {q: server.estimate(self.train, q, *order, frozen, None) for q in (server.clients if self.moves else [v])}
            seconds = {q: p.seconds for q, p in price.items() if q == v or p.memory_bytes <= net.memory_bytes[q]}
            told = price[v].bytes_down - framing - sum(f.nbytes for f in frozen)
            given = server.estimate(self.data, v).bytes_up - framing if self.moves else 0.0
            jobs[v] = Job(needs=tuple(needs[v]), seconds=seconds, order_bytes=told, block_bytes=size[v].nbytes, home=v, rows_bytes=given)
        kept = {v: b.nbytes for v, b in size.items() if v not in present}
        setting = Setting(jobs=jobs, kept=kept, results=self.results(present), server=server.name, hops=cache(net.hops))
        return at_random(setting, server.rng("plan", t)) if self.planner == "random" else PLANNERS[self.planner if jobs else "home"](setting, graph)

    def graph(self, server: Node, tasks: list[str]) -> TaskGraph:
        graph = task_graph(tasks, server.network.facts[server.name].get("needs", {}) if self.relations != "none" else {})
        chain = [v for v in graph.order if v in server.clients]
        return graph if self.relations != "sequence" else task_graph(chain, {v: [u] for u, v in pairwise(chain)})

    def needs(self, graph: TaskGraph) -> dict[str, list[str]]:
        return {v: list(graph.parents[v] if self.relations == "sequence" else graph.ancestors[v]) for v in graph.order}

    def results(self, present: list[str]) -> list[str]:
        return present[-1:] if self.relations == "sequence" else present

    def dealt(self, server: Node, r: int) -> Rows:
        net, named = server.network, server.network.facts[server.name].get("needs", {})
        tasks = list(dict.fromkeys([*server.clients, *(v for u, us in named.items() for v in (u, *us))]))
        if idle := [v for v in tasks if not net.samples[v]]:
            raise ScenarioError(f"fact 'needs' of '{server.name}': {idle} hold no data; allowed are clients, each of which is a task")
        if self.relations == "sequence":
            return {v: list(range(r)) for v in tasks}
        graph = self.graph(server, tasks)
        weights = {v: {"equal": 1.0, "samples": float(net.samples[v]), "children": float(len(graph.children(v)))}[self.deal] for v in graph.order}
        return deal_ranks(r, weights, {v: net.facts[v]["rank"] for v in tasks if "rank" in net.facts[v]})


def active(rows: Rows, needs: dict[str, list[str]], v: str) -> list[int]:
    """Rows that answer a task: its own and those that it needs."""
    return sorted({i for u in (v, *needs.get(v, [])) for i in rows[u]})


def block(x: Params, at: list[int]) -> Submodel:
    """Rank rows of all pairs, and nothing else."""
    return ranks(at) & components(*(leaf for pair in x.spec.pairs for leaf in x.spec.pair_leaves(pair)))
