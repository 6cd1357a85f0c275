"""FedGSP: chains in few groups at first, many short ones in the end; the groups are averaged.

    round t:    G(t) groups of k = floor(K / G) clients with similar class mixes (ICG);  m = max(1, floor(kappa G)) of them take part
    each of these groups, in parallel:    x_g = x;   for c in the group, in random order:  x_g <- local SGD from x_g at client c
    x <- sum_g w_g x_g / sum_g w_g,   w_g = samples of the group's clients

G = 1 is sequential federated learning, G = K is FedAvg.

Paper: Zeng, Li, Yu et al., "Heterogeneous Federated Learning via Grouped Sequential-to-Parallel Training", 2022, arXiv 2201.12976; details from the
authors' later repository (HFedMS), in which it is a mode.
Symbols: K clients, G, beta and a `group` (see `airloom.parts.group`), kappa `fraction`, E `local_epochs`, eta `lr`.
Left out: the distillation term of that repository, which belongs to HFedMS (`airloom.methods.hfedms`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor
from typing import ClassVar

import torch
from torch import Tensor

from airloom.models.params import Params
from airloom.parts.group import ICG, Grouper, grouper
from airloom.parts.order import Orderer, RandomReshuffle, orderer
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node
from airloom.program.ref import Ref


@dataclass(frozen=True, kw_only=True)
class FedGSP(Method):
    """Grouped sequential-to-parallel training.

    Arguments:
        group: how groups are made and how their number grows: "icg" (paper) or "random", e.g. `icg(start=4, growth=log, rate=2.0)`.
        regroup: new groups in every round (paper), or only when their number changes or a member left (False; authors' ablation).
        fraction: share of the groups that take part in a round; at least one (0.3, authors' code).
        local_steps: steps of a client's visit.
        local_epochs: passes over its own data instead of `local_steps`, where not 0 (1, authors' code).
        lr, batch_size: of local SGD (0.01 and 5, authors' code).
        order: of the clients of a group: "random_reshuffle" (paper) or "fixed".
    """

    paper: ClassVar[str] = "Zeng et al. 2022, arXiv 2201.12976"
    shape: ClassVar[str] = "chain"

    group: Grouper = part(grouper, ICG())
    regroup: bool = True
    fraction: float = ranged(0, 1, default=0.3, open_low=True)
    local_steps: int = ranged(1, 100_000, default=5, tune=(5, 10, 20))
    local_epochs: int = ranged(0, 1_000, default=0)
    lr: float = ranged(0, 100, default=0.03, open_low=True, tune=(0.01, 0.03, 0.1))
    batch_size: int = ranged(1, 1_000_000, default=16)
    order: Orderer = part(orderer, RandomReshuffle())

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "counts": {}, "groups": [], "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, t, samples = s["x"], s["t"], server.network.samples
        counts = self.published(server, s["counts"])
        groups = self.groups(server, counts, s["groups"], t)
        m = max(1, floor(self.fraction * len(groups)))
        drawn = [groups[g] for g in sorted(server.rng("select", t).permutation(len(groups))[:m])]
        ends = [self.chain(server, self.order.next(clients, None, server.rng("order", t, g))[0], x) for g, clients in enumerate(drawn)]
        mean = server.reduce(ends, [sum(samples[c] for c in clients) for clients in drawn], like=x)
        came = [ref for ref in ends if ref.arrived_s is not None]  # a group that loses a client is lost for the round
        x = mean if came else x
        server.report(round=t, model=x, groups=len(groups), chain=len(drawn[0]) if drawn else 0, heard=len(came))
        return {"x": x, "counts": counts, "groups": groups, "t": t + 1}

    def published(self, server: Node, known: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
        """Label counts of those who are here; only counts that are new travel."""
        N = server.clients
        if not self.group.needs_counts:
            return dict.fromkeys(N)
        out = server.map(self.publish, N, each=[(n in known,) for n in N])
        came, _, _ = server.first(out, len(out))
        new = dict(zip([r.place for r in came], server.fetch(came), strict=True))
        return {n: known[n] if new[n] is None else new[n] for n in N if n in new}

    def groups(self, server: Node, counts: dict[str, Tensor | None], last: list[list[str]], t: int) -> list[list[str]]:
        """The groups of this round; the last ones where they may stay."""
        is_same = len(last) == self.group.groups(t, len(counts)) and {n for g in last for n in g} <= counts.keys()
        if not counts or (is_same and not self.regroup):
            return last if counts else []
        return server.fetch(server.call(self.form, server.name, counts, t))

    def chain(self, server: Node, clients: list[str], x: Params) -> Ref:
        """One group: the model goes from client to client; the last one's is the group's."""
        ref = server.call(self.client, clients[0], x)
        for c in clients[1:]:
            ref = server.call(self.client, c, ref)
        return ref

    def form(self, here: Here, counts: dict[str, Tensor | None], t: int) -> list[list[str]]:
        """Runs at the server."""
        G, classes = self.group.groups(t, len(counts)), max([0 if a is None else len(a) for a in counts.values()])
        here.cost(flops=self.group.flops(len(counts), G, classes))
        return self.group.form(list(counts), counts, t, here.rng("groups", t))

    def publish(self, here: Here, is_known: bool) -> Tensor | None:
        counts, told = here.data.all().histogram, here.state.get("counts")
        if is_known and told is not None and torch.equal(told, counts):
            return None
        here.state["counts"] = counts
        return counts

    def client(self, here: Here, x: Params) -> Params:
        H = self.local_epochs * here.data.batches(self.batch_size) if self.local_epochs else self.local_steps
        return here.train(x, steps=H, lr=self.lr, batch_size=self.batch_size)
