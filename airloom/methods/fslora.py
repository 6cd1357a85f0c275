"""FSLoRA: the server keeps LoRA pairs of a high rank, each client trains a random part of their rank rows that fits its memory.

    P = m clients, drawn uniformly
    for each client n in P and each pair:  I = k_n of r indices, uniform without replacement, one set for both matrices;  S = (r / k_n) diag(1_I)
    each client n in P:  (B_I, A_I) = H steps from (B[:, I], A[I, :]) on  f_n(W0 + s (r / k_n) B_I A_I)
                         sends the differences of B_I, A_I, and of the head
    g = - (1 / |P|) sum_n scatter_I(difference);   (B, A, head) <- server optimizer along g

It minimizes (1 / N) sum_n E_S [f_n(W0 + s B S A)]; with SGD, steps of the small pair are exactly descent on it, with (r / k_n)^2 in their size.

Paper: Fang, Han, Yuan, Hosseinalipour, Brinton, "Federated Sketching LoRA", 2025, arXiv 2501.19389, Algorithm 1; constants from the authors' code.
Symbols: W0 frozen weight, B, A a LoRA pair, r its rank, k_n rank budget, S, I sketch, s scale of the pair (always with r), P participants,
H `local_steps`, difference `d`.
Left out: compression of the upload.
Traps of the authors' code that are not copied: its name test never fires with ordinary adapter names, so that every client trains rank r (that path
is `fedlora:rank=r`); B and A of a pair get sets of their own; full-size matrices under an adaptive optimizer lose the factor r / k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from airloom.models.params import Params
from airloom.models.step import SGD, Optimizer
from airloom.parts.optimizer import ServerOptimizer, ServerSGD, local_optimizer, server_optimizer
from airloom.parts.protect import Protection, Unprotected, protection
from airloom.parts.rank import rank_budgets, sketch
from airloom.parts.select import Uniform
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node
from airloom.program.reducer import counted_mean, scatter_sum


@dataclass(frozen=True, kw_only=True)
class FSLoRA(Method):
    """Federated sketching LoRA.

    Arguments:
        fraction: share of the present clients that take part in a round; at least one does.
        local_steps, lr, batch_size, optimizer: of the local steps, sgd() or adamw() (authors' code of FSLoRA: both).
        server: what the server does with the mean difference: sgd() is plain averaging, adam(lr=...) is nearest to the authors' code (AdamW).
        divide: by the "participants" (paper), or each column by the "counts" of those that touched it, which over-weighs rarely drawn columns.
        protect: what happens to updates before they leave the clients (none).
    """

    paper: ClassVar[str] = "Fang et al. 2025, arXiv 2501.19389"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")
    adapts: ClassVar[bool] = True

    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    protect: Protection = part(protection, Unprotected(), is_neutral=True)
    optimizer: Optimizer = part(local_optimizer, SGD())
    server: ServerOptimizer = part(server_optimizer, ServerSGD())
    divide: Literal["participants", "counts"] = "participants"

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "opt": None, "budgets": {}, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, N = s["x"], server.clients
        P = Uniform().choose(N, max(1, round(self.fraction * len(N))), {"samples": dict.fromkeys(N)}, server.rng("select", s["t"]))
        k = rank_budgets(server, self.client, P, x, s["budgets"])
        S = {n: sketch(x, k[n], server.rng("sketch", s["t"], n)) for n in P}
        fold = counted_mean(into=x.zeros()) if self.divide == "counts" else scatter_sum(into=x.zeros())
        out = self.protect.seal(server, server.map(self.client, P, each=[(x[S[n]],) for n in P]), None, over=fold)
        d = self.protect.reduce(server, out, None, like=x, over=fold)
        if self.divide != "counts":
            d = d / max(1, sum(ref.arrived_s is not None for ref in out))
        x, opt = self.server.step(x, -d, s["opt"])
        server.report(round=s["t"], model=x, rank=sum(k[n] for n in P) / max(1, len(P)))
        return {"x": x, "opt": opt, "budgets": k, "t": s["t"] + 1}

    def client(self, here: Here, x: Params) -> Params:
        return here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, optimizer=self.optimizer) - x
