"""FLoRA: the server stacks the clients' LoRA pairs, everybody folds the product into the frozen weights, and each round begins with new pairs.

    P = m clients, drawn uniformly
    each client n in P:  gets the stacks of the rounds that it missed, and the head;  W <- W + s B A  for each stack
                         A_n drawn anew, B_n = 0:  (B_n, A_n) = H steps on  f_n(W + s B_n A_n),  with k_n rank rows;  sends B_n, A_n, and the head
    server:  the stack  B = [p_1 B_1, p_2 B_2, ...],  A = [A_1; A_2; ...],  of rank sum_n k_n;   W <- W + s B A;   head = sum_n p_n head_n

B A is the weighted mean of the products, exactly, whatever the ranks.

Paper: Wang, Shen, He, Sun, Wang, Lyu, Li, "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank Adaptations", NeurIPS 2024,
arXiv 2409.05976; as compared in Fang et al. 2025, arXiv 2501.19389.
Symbols: W weight (frozen while a client trains), B, A a LoRA pair, s its scale (of r, for all clients), k_n rank budget, p_n share of the rows, P
participants, H `local_steps`.
Left out: stacks for clients that are not drawn; when they are, they get what they missed, or W itself where that is shorter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from airloom.models.lora import adapters, base_weights, fold, thaw
from airloom.models.params import Params, mean
from airloom.models.step import SGD, Optimizer
from airloom.models.submodel import components, ranks
from airloom.parts.optimizer import local_optimizer
from airloom.parts.rank import rank_budgets
from airloom.parts.select import Uniform
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node

Stack = tuple[list[float], list[Params]]  # p_n and the pairs of a round's participants


@dataclass(frozen=True, kw_only=True)
class FLoRA(Method):
    """Stacked LoRA pairs, folded into the weights in each round.

    Arguments:
        weights: p_n by "samples" (paper), or "equal".
        fraction: share of the present clients that take part in a round; at least one does.
        local_steps, lr, batch_size, optimizer: of the local steps; sgd() or adamw().
    """

    paper: ClassVar[str] = "Wang et al. 2024, arXiv 2409.05976"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")
    adapts: ClassVar[bool] = True

    weights: Literal["samples", "equal"] = "samples"
    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    optimizer: Optimizer = part(local_optimizer, SGD())

    def init(self, server: Node, x: Params) -> State:
        first = ([1.0], [pairs(thaw(x))])  # a start with products of its own: all clients missed them
        is_new = not any(x.named()[x.spec.pair_leaves(pair)[1]].any() for pair in x.spec.pairs)
        w = thaw(x) if is_new else fold(thaw(x), first[1], first[0])
        return {
            "x": x,
            "w": w | pairs(w).zeros(),
            "stacks": [] if is_new else [first],
            "made": 0 if is_new else 1,
            "bases": {},
            "budgets": {},
            "t": 0,
        }

    def round(self, server: Node, s: State) -> State:
        w, stacks, bases, N = s["w"], s["stacks"], dict(s["bases"]), server.clients
        P = Uniform().choose(N, max(1, round(self.fraction * len(N))), {"samples": dict.fromkeys(N)}, server.rng("select", s["t"]))
        k = rank_budgets(server, self.first_call, P, s["x"], s["budgets"])
        out = server.map(self.client, P, s["t"], head(w), each=[(k[n], *missed(s, n)) for n in P])
        came, _, _ = server.first([r["x"] for r in out], len(out))
        out = [r for r in out if r["x"] in set(came)]  # in the order of issue
        bases = {n: base for n, base in bases.items() if n not in P} | {r.place: [r["w"], s["made"]] for r in out}
        server_s = 0.0
        if out:
            rows = [server.network.samples[r.place] if self.weights == "samples" else 1.0 for r in out]
            p, xs = [rows_n / sum(rows) for rows_n in rows], server.fetch([r["x"] for r in out])
            stacks = [*stacks, (p, [pairs(x_n) for x_n in xs])]
            folded = server.call(self.fold, server.name, w, stacks[-1:])
            w = server.fetch(folded)
            server_s = (folded.made_s or 0.0) - (folded.started_s or 0.0)
            heads = [x_n for x_n in map(head, xs) if x_n is not None]
            w = w | mean(heads, p) if heads else w
        while stacks and size(stacks) > w[base_weights(w.spec)].nbytes:
            stacks = stacks[1:]
        server.report(round=s["t"], model=w, rank=sum(k[n] for n in P) / max(1, len(P)), server_s=server_s)
        return s | {"w": w, "stacks": stacks, "made": s["made"] + bool(out), "bases": bases, "budgets": k, "t": s["t"] + 1}

    def client(self, here: Here, t: int, top: Params | None, k: int, base: Params | None, stacks: list[Stack]) -> dict[str, Any]:
        w = thaw(here.initial("pairs", t))
        w = self.fold(here, w if base is None else w | base, stacks)
        x = (w if top is None else w | top)[ranks(k)]
        moving = adapters(x.spec)
        y = here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, optimizer=self.optimizer, only=moving)
        return {"x": y[moving], "w": w[base_weights(w.spec)]}

    def first_call(self, here: Here, x: Params) -> dict[str, Any]:
        return self.client(here, 0, None, x.spec.rank, None, [])

    def fold(self, here: Here, w: Params, stacks: list[Stack]) -> Params:
        """Runs at the server and at the clients: the products of the stacks, added to the weights."""
        for p, xs in stacks:
            w = fold(w, xs, p)
            here.cost(flops=2.0 * sum(x.spec.rank for x in xs) * w.spec.slice(base_weights(w.spec)).size)
        return w


def missed(s: State, n: str) -> tuple[Any, list[Stack]]:
    """What client n begins from, and the stacks made since; W where they would be longer. A base stays at its client."""
    base, made = s["bases"].get(n, [None, 0])
    late = s["made"] - made
    return (base, s["stacks"][len(s["stacks"]) - late :]) if late <= len(s["stacks"]) else (s["w"][base_weights(s["w"].spec)], [])


def size(stacks: list[Stack]) -> int:
    return sum(x.nbytes for _, xs in stacks for x in xs)


def pairs(x: Params) -> Params:
    return x[components(*[leaf for pair in x.spec.pairs for leaf in x.spec.pair_leaves(pair)])]


def head(x: Params) -> Params | None:
    """What is trained beside the pairs."""
    of_pairs = {leaf for pair in x.spec.pairs for leaf in x.spec.pair_leaves(pair)}
    names = [leaf.name for leaf in x.spec.cold.leaves if leaf.name not in of_pairs]
    return x[components(*names)] if names else None
