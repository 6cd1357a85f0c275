"""TAP: each client keeps a personal model, takes parts of the federated one where that helps its task, and is taught by the final one at the end.

    round:   P = m clients, drawn uniformly; each gets the components of its modalities and tasks as x_i
             client i:  x_i <- H steps from x_i;  h_o(x) = mean training loss of task o                       (personal model p_i, h_o(p) at i)
                        for each task o:  if h_o(x) + margin_o < h_o(p):  p_i takes the components on path(o) from x_i
                        p_i <- H steps from p_i;  h_o(p)                                           (both h begin at infinity; p_i never leaves i)
             per component:  x <- sum_i d_i x_i / sum_i d_i  over the participants that hold it
    at the end, at every client:  teacher <- S steps from its components of x
             p_i <- S steps from p_i on task loss + lambda KL(teacher || p_i)

Paper: Lee, Fang, Han et al., "TAP: Two-Stage Adaptive Personalization of Multi-Task and Multi-Modal Foundation Models in Federated Learning", 2025,
arXiv 2509.26524.
Symbols: x server model, x_i `x`, p_i `p`, h_o `h`, path(o) `path`, H `local_steps`, S `teach_steps`, lambda `teach_weight`, d_i rows of client i.
Left out: warm-up of the step size, gradient accumulation (a batch of 128 is four of 32), a weight of its own for text.
A client's modalities and tasks are facts of its place (`modalities`, `tasks`); without them it has one task that uses every component.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Literal

from airloom.models.assembly import TaskLosses, path
from airloom.models.distill import KLTo
from airloom.models.module import ModelSpec
from airloom.models.objective import WeightedSum
from airloom.models.params import Params
from airloom.models.submodel import Submodel, components, everything
from airloom.models.train import SGD, AdamW
from airloom.parts.select import Uniform
from airloom.program.here import Here
from airloom.program.method import Method, State, ranged
from airloom.program.node import Node
from airloom.program.reducer import counted_mean


@dataclass(frozen=True, kw_only=True)
class TAP(Method):
    """Two-stage adaptive personalization.

    Arguments:
        fraction: share of the present clients in a round; at least one (2 of 30, authors' script).
        local_steps, lr, batch_size: of each of the two trainings (20 steps of 128, authors' script).
        optimizer: "sgd", or "adamw" with weight decay 0.01 (authors' code).
        clip_norm: of gradients (1, authors' code).
        margin, small_margin, small_tasks: replacement margins, the second one for the tasks named (0.01 and 0.005, authors' script).
        loss_record: "mean" over a task's rows, or "authors": that times the task's share of the batch, as in their code.
        teach: "distill", "no_distill" (fine-tuning alone), "twice" (the teacher, fine-tuned twice as long, is the personal model), or "none".
        teach_steps, teach_weight: of the second stage (50 batches, 2e-3, authors' script).
    """

    paper: ClassVar[str] = "Lee et al. 2025, arXiv 2509.26524"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=20, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=32)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    clip_norm: float = ranged(0, inf, default=1.0, open_low=True)
    margin: float = ranged(-inf, inf, default=0.01)
    small_margin: float = ranged(-inf, inf, default=0.005)
    small_tasks: tuple[str, ...] = ()
    loss_record: Literal["mean", "authors"] = "mean"
    teach: Literal["distill", "no_distill", "twice", "none"] = "distill"
    teach_steps: int = ranged(1, 100_000, default=50)
    teach_weight: float = ranged(0, 1e6, default=2e-3)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "own": {}, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, N, net = s["x"], server.clients, server.network
        P = Uniform().choose(N, max(1, round(self.fraction * len(N))), {"samples": net.samples}, server.rng("select", s["t"]))
        out = server.map(self.client, P, each=[(x[held(x.spec, net.facts[n])],) for n in P])
        came, _, _ = server.first([ref for r in out for ref in (r["x"], r["swaps"])], 2 * len(out))  # one message of each
        out = [r for r in out if r["x"] in set(came)]
        x = server.reduce([r["x"] for r in out], [net.samples[r.place] for r in out], over=counted_mean(into=x))
        own = s["own"] | {r.place: r["p"] for r in out}  # Refs: personal models stay where they are, and are evaluated there
        others = {n: x[held(x.spec, net.facts[n])] for n in N if n not in own}
        swaps = sum(server.fetch([r["swaps"] for r in out]))
        server.report(round=s["t"], personal=(own | others) or None, swaps=swaps / max(len(out), 1))
        return {"x": x, "own": own, "t": s["t"] + 1}

    def client(self, here: Here, x: Params) -> dict[str, Any]:
        tasks = tasks_of(here.facts)
        x, h = self.fit(here, x)
        p, h_p = here.state.get("p", x), dict(zip(tasks, here.state.get("h", [inf] * len(tasks)), strict=True))
        swapped = [o for o in tasks if h[o] + (self.small_margin if o in self.small_tasks else self.margin) < h_p[o]]
        for o in swapped:
            p = p | x[used(x.spec, here.facts, o)]
        p, h_p = self.fit(here, p)
        here.state.update({"p": p, "h": [h_p[o] for o in tasks]})
        return {"x": x, "p": p, "swaps": float(len(swapped))}

    def fit(self, here: Here, x: Params) -> tuple[Params, dict[str, float]]:
        x = self.train(here, x, self.local_steps)
        tasks, share, f = tasks_of(here.facts), {}, here.objective
        if not isinstance(f, TaskLosses):
            return x, dict.fromkeys(tasks, float(here.log.loss))
        if self.loss_record == "mean":
            share = f.shares(here.data.all())
        return x, {o: float(here.log.loss_by[o]) / share.get(o, 1.0) for o in tasks}

    def train(self, here: Here, x: Params, steps: int, objective: Any = None) -> Params:
        optimizer = AdamW(weight_decay=0.01) if self.optimizer == "adamw" else SGD()
        rest: dict[str, Any] = {"clip_norm": self.clip_norm, "objective": objective}
        return here.train(x, steps=steps, lr=self.lr, batch_size=self.batch_size, optimizer=optimizer, **rest)

    def finish(self, server: Node, s: State) -> State:
        x, N, facts = s["x"], server.clients, server.network.facts
        if self.teach == "none" or not N:
            return s
        out = server.map(self.taught, N, each=[(x[held(x.spec, facts[n])],) for n in N])
        came, _, _ = server.first([r["done"] for r in out], len(out))
        own = s["own"] | {r.place: r["p"] for r in out if r["done"] in set(came)}
        server.report(round=s["t"], personal=own or None, swaps=0.0)
        return s | {"own": own}

    def taught(self, here: Here, x: Params) -> dict[str, Any]:
        p, f, S = here.state.get("p", x), here.objective, self.teach_steps
        if self.teach == "twice":
            p = self.train(here, x, 2 * S)
        elif self.teach == "no_distill":
            p = self.train(here, p, S)
        else:
            teacher = self.train(here, x, S)
            towards = f.towards(teacher) if isinstance(f, TaskLosses) else KLTo(teacher=teacher)
            p = self.train(here, p, S, WeightedSum(terms=((1.0, f), (self.teach_weight, towards))))
        here.state["p"] = p
        return {"p": p, "done": None}


def tasks_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(facts.get("tasks", ("all",)))


def used(spec: ModelSpec, facts: Mapping[str, Any], task: str) -> Submodel:
    return components(*path(spec, facts["modalities"], task)) if "tasks" in facts else everything


def held(spec: ModelSpec, facts: Mapping[str, Any]) -> Submodel:
    return components(*[name for o in facts["tasks"] for name in path(spec, facts["modalities"], o)]) if "tasks" in facts else everything
