"""FlexLoRA: the server averages the products of the LoRA pairs and hands out the leading singular directions, as many as each client can train.

    P = m clients, drawn uniformly
    each client n in P:  (B_n, A_n) = H steps from (B[:, :k_n], A[:k_n, :]) on  f_n(W0 + s B_n A_n);  sends B_n, A_n, and the head
    server:  W = mean over P of B_n A_n;   U, Sigma, V = svd(W);   B = U Sigma,  A = V^T, the first r directions;   head = mean

Paper: Bai, Chen, Qian, Yao, Li, "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client Resources", NeurIPS 2024,
arXiv 2402.11505; as compared in Fang et al. 2025, arXiv 2501.19389.
Symbols: W0 frozen weight, B, A a LoRA pair (d x r and r x l), s its scale (of r, for all clients), k_n rank budget, P participants, H `local_steps`.
Left out: weights by data size. Products and the decomposition of each pair are work of the server, on its clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from airloom.errors import RunFailed
from airloom.models.params import Params
from airloom.models.step import SGD, Optimizer
from airloom.models.submodel import ranks
from airloom.parts.optimizer import local_optimizer
from airloom.parts.rank import rank_budgets
from airloom.parts.select import Uniform
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class FlexLoRA(Method):
    """Averaged products of LoRA pairs, decomposed again in each round.

    Arguments:
        fraction: share of the present clients that take part in a round; at least one does.
        local_steps, lr, batch_size, optimizer: of the local steps; sgd() or adamw().
    """

    paper: ClassVar[str] = "Bai et al. 2024, arXiv 2402.11505"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")
    adapts: ClassVar[bool] = True

    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    optimizer: Optimizer = part(local_optimizer, SGD())

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "budgets": {}, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, N = s["x"], server.clients
        P = Uniform().choose(N, max(1, round(self.fraction * len(N))), {"samples": dict.fromkeys(N)}, server.rng("select", s["t"]))
        k = rank_budgets(server, self.client, P, x, s["budgets"])
        out = server.map(self.client, P, each=[(x[ranks(k[n])],) for n in P])
        came, _, _ = server.first(out, len(out))
        server_s = 0.0
        if came:
            merged = server.call(self.merge, server.name, x, [ref for ref in out if ref in came])
            x = server.fetch(merged)
            server_s = (merged.made_s or 0.0) - (merged.started_s or 0.0)
        server.report(round=s["t"], model=x, rank=sum(k[n] for n in P) / max(1, len(P)), server_s=server_s)
        return {"x": x, "budgets": k, "t": s["t"] + 1}

    def client(self, here: Here, x: Params) -> Params:
        return here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, optimizer=self.optimizer)

    def merge(self, here: Here, x: Params, models: list[Params]) -> Params:
        """Runs at the server: the mean of the products, cut to its first r singular directions."""
        named, new, flops = [y.named() for y in models], {}, 0
        for pair in x.spec.pairs:
            a, b = x.spec.pair_leaves(pair)
            W = torch.stack([y[b].double() @ y[a].double() for y in named]).mean(0)
            try:
                U, Sigma, Vt = torch.linalg.svd(W, full_matrices=False)
            except RuntimeError as error:  # torch's LinAlgError
                raise RunFailed(f"training diverged: the mean product of '{pair}' is not finite; use a smaller lr") from error
            r, m, n = min(x.spec.rank, len(Sigma)), max(W.shape), min(W.shape)  # where n < r the last rows stay at zero
            new[b] = torch.nn.functional.pad(U[:, :r] * Sigma[:r], (0, x.spec.rank - r))
            new[a] = torch.nn.functional.pad(Vt[:r], (0, 0, 0, x.spec.rank - r))
            # products; and U1, Sigma, V by R-SVD: Golub and Van Loan, Matrix Computations, 4th edition, figure 8.6.1
            flops += sum(2 * m * n * len(y[a]) for y in named) + 6 * m * n**2 + 20 * n**3
        for leaf in x.spec.leaves:
            if leaf.name not in new:
                new[leaf.name] = sum(y[leaf.name].double() for y in named) / len(named)
        here.cost(flops=flops)
        return Params.from_named(x.spec, new)
