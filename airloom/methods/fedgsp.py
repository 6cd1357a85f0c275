"""FedGSP: chains in few groups at first, many short ones in the end; the groups are averaged.

    round t:    G(t) groups of k = floor(K / G) clients with similar class mixes (ICG);  m = max(1, floor(kappa G)) of them take part
    each of these groups, in parallel:    x_g = x;   for c in the group, in random order:  x_g <- local SGD from x_g at client c
    x <- sum_g w_g x_g / sum_g w_g,   w_g = samples of the group's clients

G = 1 is sequential federated learning, G = K is FedAvg.

Paper: Zeng, Li, Yu et al., "Heterogeneous Federated Learning via Grouped Sequential-to-Parallel Training", 2022, arXiv 2201.12976; details from the
authors' later repository (HFedMS), in which it is a mode.
Symbols: K clients, beta `groups`, a `rate` of the growth of G (`airloom.plans.grouping`), kappa `fraction`, E `local_epochs`, eta `lr`.
Left out: the distillation term of that repository, which belongs to HFedMS (`airloom.methods.hfedms`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from airloom.models.params import Params
from airloom.parts.order import Orderer, RandomReshuffle, orderer
from airloom.plans.grouping import Growth, group_count, icg, icg_flops, random_groups
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node
from airloom.program.ref import Ref


@dataclass(frozen=True, kw_only=True)
class Grouped(Method):
    """What methods with a growing number of groups share: how groups are made, and who takes part.

    Arguments:
        groups: in the first round (10, authors' code).
        growth, rate: how their number grows: "linear" (0.072, authors' code), "log", "exp", "power" or "none".
        grouping: "icg" (paper) or "random".
        normalize: ICG clusters class mixes instead of counts (ours), so that clients with many samples do not stand apart.
        fraction: share of the groups that take part in a round; at least one (0.3, authors' code).
        local_steps: steps of a client's visit.
        local_epochs: passes over its own data instead of `local_steps`, where not 0 (1, authors' code).
        lr, batch_size: of local SGD (0.01 and 5, authors' code).
        order: of the clients of a group: "random_reshuffle" (paper) or "fixed".
    """

    shape: ClassVar[str] = "chain"

    groups: int = ranged(1, 1_000_000, default=10)
    growth: Growth = "linear"
    rate: float = ranged(0, 1_000, default=0.072)
    grouping: Literal["icg", "random"] = "icg"
    normalize: bool = False
    fraction: float = ranged(0, 1, default=0.3, open_low=True)
    local_steps: int = ranged(1, 100_000, default=5, tune=(5, 20, 80))
    local_epochs: int = ranged(0, 1_000, default=0)
    lr: float = ranged(0, 100, default=0.03, open_low=True, tune=(0.01, 0.03, 0.1))
    batch_size: int = ranged(1, 1_000_000, default=16)
    order: Orderer = part(orderer, RandomReshuffle())

    def __post_init__(self) -> None:
        super().__post_init__()
        self.number(0, 1)  # growth and rate go together

    def number(self, t: int, clients: int) -> int:
        """G of a round."""
        return group_count(t, clients, start=self.groups, growth=self.growth, rate=self.rate)

    def published(self, server: Node, known: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
        """Label counts of those who are here; only counts that are new travel."""
        N = server.clients
        if self.grouping == "random":
            return dict.fromkeys(N)
        out = server.map(self.publish, N, each=[(n in known,) for n in N])
        came, _, _ = server.first(out, len(out))
        new = dict(zip([r.place for r in came], server.fetch(came), strict=True))
        return {n: known[n] if new[n] is None else new[n] for n in N if n in new}

    def formed(self, server: Node, counts: dict[str, Tensor | None], t: int) -> list[list[str]]:
        """Groups of round t; making them is the server's work."""
        return server.fetch(server.call(self.form, server.name, counts, t)) if counts else []

    def drawn(self, server: Node, groups: list[list[str]], t: int) -> list[list[str]]:
        """The groups that take part."""
        return [groups[g] for g in sorted(server.rng("select", t).permutation(len(groups))[: max(1, floor(self.fraction * len(groups)))])]

    def visits(self, server: Node, groups: list[list[str]], t: int) -> list[list[str]]:
        """The clients of each group in the order of their visits."""
        return [self.order.next(g, None, server.rng("order", t, i))[0] for i, g in enumerate(groups)]

    def form(self, here: Here, counts: dict[str, Tensor | None], t: int) -> list[list[str]]:
        """Runs at the server; members in the order of the clients."""
        N, G, rng = list(counts), self.number(t, len(counts)), here.rng("groups", t)
        if self.grouping == "random":
            return [[N[i] for i in g] for g in random_groups(len(N), G, rng)]
        A = np.stack([np.asarray(a) for a in counts.values()])
        here.cost(flops=icg_flops(len(N), G, A.shape[1]))
        return [[N[i] for i in g] for g in icg(A, G, rng, normalize=self.normalize)]

    def publish(self, here: Here, is_known: bool) -> Tensor | None:
        counts, told = here.data.all().histogram, here.state.get("counts")
        if is_known and told is not None and torch.equal(told, counts):
            return None
        here.state["counts"] = counts
        return counts

    def steps(self, here: Here) -> int:
        """Steps of a visit."""
        return self.local_epochs * here.data.batches(self.batch_size) if self.local_epochs else self.local_steps


@dataclass(frozen=True, kw_only=True)
class FedGSP(Grouped):
    """Grouped sequential-to-parallel training; fields as in `Grouped`.

    Arguments:
        regroup: new groups in every round (paper), or only when their number changes or a member left (False; authors' ablation).
    """

    paper: ClassVar[str] = "Zeng et al. 2022, arXiv 2201.12976"

    regroup: bool = True

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "counts": {}, "groups": [], "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, t, groups, samples = s["x"], s["t"], s["groups"], server.network.samples
        counts = self.published(server, s["counts"])
        if self.regroup or len(groups) != self.number(t, len(counts)) or not {n for g in groups for n in g} <= counts.keys():
            groups = self.formed(server, counts, t)
        chains = self.visits(server, self.drawn(server, groups, t), t)
        ends: list[Ref] = []
        for clients in chains:
            ref = server.call(self.client, clients[0], x)
            for c in clients[1:]:
                ref = server.call(self.client, c, ref)  # from client to client
            ends.append(ref)
        mean = server.reduce(ends, [sum(samples[c] for c in clients) for clients in chains], like=x)
        came = [ref for ref in ends if ref.arrived_s is not None]  # a group that loses a client is lost for the round
        x = mean if came else x
        server.report(round=t, model=x, groups=len(groups), chain=len(chains[0]) if chains else 0, heard=len(came))
        return {"x": x, "counts": counts, "groups": groups, "t": t + 1}

    def client(self, here: Here, x: Params) -> Params:
        return here.train(x, steps=self.steps(here), lr=self.lr, batch_size=self.batch_size)
