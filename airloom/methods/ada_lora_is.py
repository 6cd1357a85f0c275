"""AdaLoRA-IS: each client joins a round with its own probability and trains its own number of rank rows; a planner chooses both for short time.

    once, and when clients come or go:  (q, k) = argmin m(q, k) h(q, k),   m = sum_n q_n t_n(k_n),
                                        h = (1/N) sum_n alpha / (beta - N a_n^2 (r / k_n)^nu / q_n),   k_n at most the rank budget of n
    S = {n: u_n < q_n},  u_n uniform, independent
    each n in S and each pair:  I = k_n of r indices, one set for both matrices
    each n in S:  (B_I, A_I) = H steps from (B[:, I], A[I, :]) on  f_n(W0 + s (r / k_n) B_I A_I);  sends the differences
    bandwidth:    all of S in one cell finish together
    (B, A, head) <- + sum_{n in S} (a_n / q_n) scatter_I(difference)

Paper: Hou, Geng, Li et al., "Adaptive Federated LoRA in Heterogeneous Wireless Networks with Independent Sampling", 2025, arXiv 2505.23555.
Symbols: W0 frozen weight, B, A a LoRA pair, r its rank, s its scale, k_n `k`, a_n share of the data, q_n probability, t_n seconds of compute and
upload with the whole band, H `local_steps`. Planners: `airloom.plans.lora_sampling`, `airloom.plans.bandwidth`; sampling is that of `ics`, the sketch
that of `fslora`.
Reconstructed: all but the update rule (the paper's text was not at hand). Left out: pilots for alpha, beta and nu; ratios that change in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Literal

from airloom.methods.ics import ICS, Known
from airloom.models.params import Params
from airloom.models.step import SGD, Optimizer
from airloom.models.submodel import ranks
from airloom.parts.optimizer import local_optimizer
from airloom.parts.protect import Protection, Unprotected, protection
from airloom.parts.rank import rank_budgets, rank_grid, sketch
from airloom.plans import lora_sampling, sampling
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node
from airloom.program.reducer import scatter_sum


@dataclass(frozen=True, kw_only=True)
class AdaLoRAIS(Method):
    """Federated LoRA with independent sampling and chosen ranks.

    Arguments:
        scheme: "proposed" (chosen with the ranks), or as in `ics`: "constant", "full" (1), "uniform" (1/N), "weight" (a_n), "fix" (`q`).
        ratio: "joint" chooses ranks, "budget" takes what the memory allows.
        q: probability of "fix" (1/5, as in ics). floor: least probability of "proposed" (ours).
        alpha, beta: constants of the bound (those of ics). nu: power of r / k in the bound (1, ours).
        bandwidth: as in `ics`.
        local_steps, lr, batch_size, optimizer: of the local steps; sgd() or adamw().
        protect: what happens to updates before they leave the clients (none).
    """

    paper: ClassVar[str] = "Hou et al. 2025, arXiv 2505.23555"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")  # real links that share a band: bandwidth="cell"
    adapts: ClassVar[bool] = True

    scheme: sampling.Scheme = "proposed"
    ratio: Literal["joint", "budget"] = "joint"
    q: float = ranged(0, 1, default=0.2, open_low=True)
    floor: float = ranged(0, 1, default=0.0)
    alpha: float = ranged(0, 1e12, default=28.474, open_low=True)
    beta: float = ranged(0, 1e12, default=2.2043, open_low=True)
    nu: float = ranged(0, 10, default=1.0)
    bandwidth: Literal["common", "equal", "cell"] = "common"
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    protect: Protection = part(protection, Unprotected(), is_neutral=True)
    optimizer: Optimizer = part(local_optimizer, SGD())

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "budgets": {}, "plan": {}, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, ics = s["x"], ICS(bandwidth=self.bandwidth)
        budgets = rank_budgets(server, self.client, server.clients, x, s["budgets"])
        plan = s["plan"] if list(s["plan"]) == server.clients else self.plan(server, x, budgets)
        S = ics.draw(server, {n: p["q"] for n, p in plan.items()}, "round", s["t"])
        share_hz, planned_s = ics.share(server, {n: Known(*p["known"]) for n, p in plan.items()}, S)
        I = {n: sketch(x, plan[n]["k"], server.rng("sketch", s["t"], n)) for n in S}  # noqa: E741 (the paper's name)
        out = server.map(self.client, S, each=[(server.put(x[I[n]]),) for n in S], share_hz=share_hz)
        w, fold = [plan[n]["known"][0] / plan[n]["q"] for n in S], scatter_sum(into=x.zeros())
        x = x + self.protect.reduce(server, self.protect.seal(server, out, w, over=fold), w, like=x, over=fold)
        expected_s = sum([p["q"] * (p["known"][1] + p["known"][2]) for p in plan.values()])
        told = {"planned_s": planned_s, "expected_s": expected_s, "rank": sum([plan[n]["k"] for n in S]) / max(1, len(S))}
        server.report(round=s["t"], model=x, clients=len(S), **told)
        return {"x": x, "budgets": budgets, "plan": plan, "t": s["t"] + 1}

    def client(self, here: Here, x: Params) -> Params:
        return here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, optimizer=self.optimizer) - x

    def plan(self, server: Node, x: Params, budgets: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """q_n, k_n and what is known of each client that is there."""
        seen, N, r = server.network, server.clients, x.spec.rank
        if not N:
            return {}
        grid = sorted({*rank_grid(r), *budgets.values()})
        a = [seen.samples[n] / sum([seen.samples[m] for m in N]) for n in N]
        price = {n: {k: server.estimate(self.client, n, x[ranks(k)]) for k in grid if k <= budgets[n]} for n in N}
        parts = {n: {k: (p.seconds, 8 * p.bytes_up / seen.whole_band_bps[n]) for k, p in price[n].items()} for n in N}
        least = {n: 1 if self.ratio == "joint" else budgets[n] for n in N}
        t = [[sum(parts[n][k]) if k in parts[n] and k >= least[n] else inf for k in grid] for n in N]
        bound = {"alpha": self.alpha, "beta": self.beta}
        q, k_n = None, [budgets[n] for n in N]
        if self.scheme != "proposed":
            share, Z = lora_sampling.scaled(a, k_n, rank=r, nu=self.nu if self.scheme == "constant" else 0.0)
            at_budget = [sum(parts[n][budgets[n]]) for n in N]
            q = sampling.scheme(self.scheme, share, at_budget, alpha=self.alpha / Z**2, beta=self.beta / Z**2, q=self.q).probabilities
        if q is None or self.ratio == "joint":
            chosen = lora_sampling.joint(a, t, grid=grid, rank=r, nu=self.nu, floor=self.floor, probabilities=q, **bound)
            q, k_n = chosen.probabilities, chosen.ranks
        known = [[a_n, *parts[n][k], seen.cell[n]] for n, a_n, k in zip(N, a, k_n, strict=True)]
        return {n: {"q": float(q_n), "k": k, "known": of} for n, q_n, k, of in zip(N, q, k_n, known, strict=True)}
