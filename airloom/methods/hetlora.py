"""HetLoRA: clients of unequal memory train the first rank rows of the LoRA pairs, the server pads with zeros and averages.

    P = m clients, drawn uniformly
    each client n in P:  (B_n, A_n) = H steps from (B[:, :k_n], A[:k_n, :]) on  f_n(W0 + s B_n A_n);  sends the differences and |B_n A_n|_F
    w_n = 1 / |P|, or |B_n A_n|_F / sum over P
    (B, A, head) <- + sum_n w_n pad(difference)

Paper: Cho, Liu, Xu, Fahrezi, Joshi, "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models", EMNLP 2024, arXiv 2401.06432; as
compared in Fang et al. 2025, arXiv 2501.19389. The paper weighs by the norm, the comparison's code takes the plain mean.
Symbols: W0 frozen weight, B, A a LoRA pair, r its rank, s its scale (of r, for all clients), k_n rank budget, P participants, H `local_steps`.
Left out: pruning of a client's own rank. Padded are differences, not pairs: rows that a client does not hold stay, where padded pairs would shrink.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from airloom.models.params import Params
from airloom.models.step import SGD, Optimizer
from airloom.models.submodel import ranks
from airloom.parts.optimizer import local_optimizer
from airloom.parts.rank import rank_budgets
from airloom.parts.select import Uniform
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node
from airloom.program.reducer import scatter_sum


@dataclass(frozen=True, kw_only=True)
class HetLoRA(Method):
    """Zero-padded LoRA pairs of unequal ranks.

    Arguments:
        weights: "norm" weighs clients by the Frobenius norm of all their products B_n A_n (paper), "equal" does not (the comparison's code).
        fraction: share of the present clients that take part in a round; at least one does.
        local_steps, lr, batch_size, optimizer: of the local steps; sgd() or adamw().
    """

    paper: ClassVar[str] = "Cho et al. 2024, arXiv 2401.06432"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")
    adapts: ClassVar[bool] = True

    weights: Literal["norm", "equal"] = "norm"
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
        came = [ref for ref in out if ref in came]  # in the order of issue
        norms = server.fetch([ref["norm"] for ref in came])
        w = norms if self.weights == "norm" and sum(norms) > 0 else [1.0] * len(came)
        x = server.reduce([ref["d"] for ref in came], [w_n / sum(w) for w_n in w], over=scatter_sum(into=x))
        server.report(round=s["t"], model=x, rank=sum(k[n] for n in P) / max(1, len(P)))
        return {"x": x, "budgets": k, "t": s["t"] + 1}

    def client(self, here: Here, x: Params) -> dict[str, Any]:
        y = here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, optimizer=self.optimizer)
        return {"d": y - x, "norm": self.norm(here, y)}

    def norm(self, here: Here, y: Params) -> float:
        """Root of the sum over pairs of |B A|_F^2 = trace((B'B)(AA')), which needs no matrix of full size."""
        named, square, flops = y.named(), y.flat.new_zeros((), dtype=y.spec.dtype), 0
        for pair in y.spec.pairs:
            A, B = (named[leaf] for leaf in y.spec.pair_leaves(pair))
            square = square + ((B.T @ B) * (A @ A.T)).sum()
            flops += 2 * len(A) ** 2 * (A.shape[1] + len(B))
        here.cost(flops=flops)
        return square.clamp(min=0.0).sqrt().double()  # type: ignore[return-value]  # a number of the result
