"""DisentAFL, as the baseline of TAP: components are averaged over who holds them, and local training keeps hidden values of experts orthogonal.

    round:   P = m clients, drawn uniformly; each gets the components of its modalities and tasks as x_i
             client i:  x_i <- H steps on  L(x_i) + lambda O(x_i),   O = mean over pairs of groups of rows of  mean_ij cos(z_i, z_j)^2
             per component:  x <- sum_i d_i x_i / sum_i d_i  over the participants that hold it
    at the end, at every client:  p_i <- S steps on L from its components of x

A group is what an expert (modality, task) makes of its own rows, or the shared layer of all rows.

Paper: Chen, Zhang, "On Disentanglement of Asymmetrical Knowledge Transfer for Modality-Task Agnostic Federated Learning", AAAI 2024, 38(10); in the
form in which it is compared in Lee et al. 2025, arXiv 2509.26524 (authors' code).
Symbols: x server model, x_i `x`, p_i personal model, H `local_steps`, S `post_steps`, lambda `weight`, d_i rows of client i, z hidden values.
Left out: the gates, and the paper's two stages of disentanglement; of it the comparison keeps the orthogonality.
The model must show its hidden values (`airloom.models.assembly.assembly(shows_hidden=True)`); on a model without components O is nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from airloom.methods.tap import held
from airloom.models.assembly import Orthogonal, TaskLosses
from airloom.models.params import Params
from airloom.parts.select import Uniform
from airloom.program.here import Here
from airloom.program.method import Method, State, ranged
from airloom.program.node import Node
from airloom.program.reducer import counted_mean


@dataclass(frozen=True, kw_only=True)
class DisentAFL(Method):
    """Federated components with orthogonal experts.

    Arguments:
        weight: lambda (0.5, authors' code of TAP); 0 is federated averaging of components.
        fraction: share of the present clients in a round; at least one does.
        local_steps, lr, batch_size: of local SGD.
        post_steps: of fine-tuning at the end; 0 leaves each client with what it trained last.
    """

    paper: ClassVar[str] = "Chen and Zhang 2024, doi 10.1609/aaai.v38i10.29010"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    weight: float = ranged(0, 1e6, default=0.5)
    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=20, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=32)
    post_steps: int = ranged(0, 100_000, default=0)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "own": {}, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, N, net = s["x"], server.clients, server.network
        P = Uniform().choose(N, max(1, round(self.fraction * len(N))), {"samples": net.samples}, server.rng("select", s["t"]))
        out = server.map(self.client, P, each=[(x[held(x.spec, net.facts[n])],) for n in P])
        came, _, _ = server.first(out, len(out))
        out = [r for r in out if r in set(came)]
        x = server.reduce(out, [net.samples[r.place] for r in out], over=counted_mean(into=x))
        own = s["own"] | {r.place: r for r in out}  # Refs: personal models are evaluated where they are
        others = {n: x[held(x.spec, net.facts[n])] for n in N if n not in own}
        server.report(round=s["t"], personal=(own | others) or None)
        return {"x": x, "own": own, "t": s["t"] + 1}

    def client(self, here: Here, x: Params) -> Params:
        f = here.objective
        loss = f + self.weight * Orthogonal() if isinstance(f, TaskLosses) and self.weight else None
        return here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, objective=loss)

    def finish(self, server: Node, s: State) -> State:
        x, N, facts = s["x"], server.clients, server.network.facts
        if not self.post_steps or not N:
            return s
        out = server.map(self.tuned, N, each=[(x[held(x.spec, facts[n])],) for n in N])
        came, _, _ = server.first([r["done"] for r in out], len(out))
        own = s["own"] | {r.place: r["p"] for r in out if r["done"] in set(came)}
        server.report(round=s["t"], personal=own or None)
        return s | {"own": own}

    def tuned(self, here: Here, x: Params) -> dict[str, Any]:
        return {"p": here.train(x, steps=self.post_steps, lr=self.lr, batch_size=self.batch_size), "done": None}
