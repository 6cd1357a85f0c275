"""FedLoRA: federated averaging of LoRA pairs, all of one rank.

    P = m clients, drawn uniformly;  k = rank, or the least rank budget of all clients
    each client n in P:  (B_n, A_n) = H steps from (B[:, :k], A[:k, :]) on  f_n(W0 + s B_n A_n)
                         sends the differences of B_n, A_n, and of the head
    B[:, :k], A[:k, :], head <- + mean over P of the differences

Paper: Zhang, Vahidian, Kuo et al., "Towards Building the Federated GPT: Federated Instruction Tuning" (FedIT), ICASSP 2024, arXiv 2305.05644; the
homogeneous baseline of Fang et al. 2025, arXiv 2501.19389.
Symbols: W0 frozen weight, B, A a LoRA pair, r its rank, s its scale, k `rank`, P participants, H `local_steps`.
Left out: weights by data size (`fedavg` on the same model has them). With k < r the scale stays that of rank r, as in the other LoRA methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.errors import ScenarioError
from airloom.models.params import Params
from airloom.models.step import SGD, Optimizer
from airloom.models.submodel import ranks
from airloom.parts.optimizer import local_optimizer
from airloom.parts.protect import Protection, Unprotected, protection
from airloom.parts.rank import rank_budgets
from airloom.parts.select import Uniform
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node
from airloom.program.reducer import scatter_sum


@dataclass(frozen=True, kw_only=True)
class FedLoRA(Method):
    """Federated averaging of LoRA pairs of one rank.

    Arguments:
        rank: rank rows that every client trains, the first ones; 0: as many as the client with the least memory can.
        fraction: share of the present clients that take part in a round; at least one does.
        local_steps, lr, batch_size, optimizer: of the local steps; sgd() or adamw().
        protect: what happens to updates before they leave the clients (none).
    """

    paper: ClassVar[str] = "Zhang et al. 2024, arXiv 2305.05644"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")
    adapts: ClassVar[bool] = True

    rank: int = ranged(0, 1_000_000, default=0)
    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    protect: Protection = part(protection, Unprotected(), is_neutral=True)
    optimizer: Optimizer = part(local_optimizer, SGD())

    def init(self, server: Node, x: Params) -> State:
        if self.rank > x.spec.rank:
            raise ScenarioError(f"FedLoRA.rank: got {self.rank}; allowed is 0 to {x.spec.rank}, the rank of the model's pairs")
        return {"x": x, "budgets": {}, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, N = s["x"], server.clients
        budgets = s["budgets"] if self.rank else rank_budgets(server, self.client, N, x, s["budgets"])
        k = self.rank or min(budgets.values(), default=x.spec.rank)
        P = Uniform().choose(N, max(1, round(self.fraction * len(N))), {"samples": dict.fromkeys(N)}, server.rng("select", s["t"]))
        fold = scatter_sum(into=x.zeros())
        out = self.protect.seal(server, server.map(self.client, P, x[ranks(k)]), None, over=fold)
        d = self.protect.reduce(server, out, None, like=x, over=fold)
        x = x + d / max(1, sum(ref.arrived_s is not None for ref in out))
        server.report(round=s["t"], model=x, rank=k)
        return {"x": x, "budgets": budgets, "t": s["t"] + 1}

    def client(self, here: Here, x: Params) -> Params:
        return here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, optimizer=self.optimizer) - x
