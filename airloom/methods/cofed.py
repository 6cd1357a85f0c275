"""CoFED: silos with models of their own vote on a public pool of unlabeled rows, and learn from what enough of them agree on.

    each silo i:   h_i <- its own training on its labeled rows D_i, classes Y_i
                   votes for its top class c on each x of the pool with  p_top1(x) - p_top2(x) > delta
    server:        x is accepted for c  if  (silos that vote c on x) / (silos with c in Y_i) > alpha      (w_i equal)
    each silo i:   gets the lists of its own classes, and drops each x that is on two of them
                   h_i <- its own training, from h_i, on D_i and those x, classes weighted inversely to their frequency, the best by validation

Paper: Cao, Li, Sun et al., "Cross-Silo Heterogeneous Model Federated Multitask Learning", 2022, arXiv 2202.08603, after the authors' code.
Symbols: Y_i `Y`, the pool `here.public`, W_c `W`; decisions travel packed (`airloom.parts.ballot`), models never do.
Left out: a search over optimizers and numbers of epochs at each silo; unequal w_i.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from airloom.models.params import Params
from airloom.parts.ballot import most_probable, once, packed_classes, packed_ids, packed_votes, unpacked_classes, unpacked_ids, unpacked_votes
from airloom.parts.silo import Descent, balanced, joined, learned, logits, own_classes, own_model, probabilities, score
from airloom.program.here import Here
from airloom.program.method import Method, State, ranged
from airloom.program.node import Node
from airloom.program.ref import Ref


@dataclass(frozen=True, kw_only=True)
class CoFED(Method):
    """Co-training of silos; those without a resident model have the task's. The task keeps validation rows at each (`task.validation_share`).

    Arguments:
        alpha: share of a class's owners that must vote for it (0.3 in the authors' CIFAR run, 0.5 is ours).
        delta: margin of a vote (0.3, authors' code); -1 makes every silo vote on every row.
        voters: how many silos must vote for a class, whatever their share (1; 2 keeps one silo from deciding alone, ours).
        exchange: "votes"; "soft" sends all probabilities and learns from their mean over owners (FedMD's way); or "none".
        pool: "sent" to each silo in its first round, or "preloaded".
        rounds: how often (1, the paper).
        lr, local_lrs, local_epochs, batch_size, patience: of torch models' own training; multiples of lr that a silo tries (authors: a grid).
        retrain_lrs, retrain_epochs, retrain_batch_size: 0.1 and 2 times lr, 200 and 1000 (authors' code).
        warm_start: retraining begins with the local weights (our reading), else anew.
        class_weights: see above (authors' code).
        keep_local_if_better: a silo keeps what it has where retraining makes its validation accuracy less (ours).
    """

    paper: ClassVar[str] = "Cao et al. 2022, arXiv 2202.08603"
    engines: ClassVar[tuple[str, ...]] = ("simulated",)
    kinds: ClassVar[tuple[str, ...]] = ("classification",)

    alpha: float = ranged(0, inf, default=0.5, tune=(0.3, 0.5, 0.7))
    delta: float = ranged(-1, 1, default=0.3)
    voters: int = ranged(1, 1_000_000, default=1)
    exchange: Literal["votes", "soft", "none"] = "votes"
    pool: Literal["sent", "preloaded"] = "sent"
    rounds: int = ranged(1, 1_000, default=1)
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    local_lrs: tuple[float, ...] = (1.0,)
    local_epochs: int = ranged(1, 100_000, default=60)
    batch_size: int = ranged(1, 1_000_000, default=50)
    patience: int = ranged(1, 100_000, default=10)
    retrain_lrs: tuple[float, ...] = (0.1, 2.0)
    retrain_epochs: int = ranged(1, 100_000, default=200)
    retrain_batch_size: int = ranged(1, 1_000_000, default=1000)
    warm_start: bool = True
    class_weights: bool = True
    keep_local_if_better: bool = False

    def init(self, server: Node, x: Params) -> State:
        return {"told": [], "own": {}, "t": 0}  # x is not used: silos have models of their own

    def done(self, server: Node, s: State) -> bool:
        return s["t"] >= self.rounds

    def round(self, server: Node, s: State) -> State:
        N, told, accepted = server.clients, set(s["told"]), 0
        is_sent = self.exchange != "none" and self.pool == "sent" and not told.issuperset(N)
        rows = server.call(self.public, server.name) if is_sent else None
        out = came(server, server.map(self.vote, N, each=[(None if i in told else rows,) for i in N]), "ballot")
        if self.exchange != "none" and out:
            ballots = server.fetch([r["ballot"] for r in out])
            lists, accepted = server.fetch(server.call(self.count, server.name, ballots))
            each = [({c: lists[c] for c in unpacked_classes(b["Y"]).tolist()}, s["t"]) for b in ballots]
            out = came(server, server.map(self.retrain, [r.place for r in out], each=each), "kept")
        own = s["own"] | {r.place: r["model"] for r in out}  # Refs: models stay where they are, and are evaluated there
        server.report(round=s["t"], personal=own or None, accepted=accepted)
        return {"told": sorted(told.union(N)), "own": own, "t": s["t"] + 1}

    def public(self, here: Here) -> Any:
        here.cost(seconds=0.0)
        return here.public.all().x

    def vote(self, here: Here, rows: Any) -> dict[str, Any]:  # `rows` have come: they are `here.public`
        Y, h = own_classes(here), here.state.get("h")
        if h is None:
            how = Descent(lr=self.lr, tried=self.local_lrs, epochs=self.local_epochs, batch_size=self.batch_size, patience=self.patience)
            h = here.state["h"] = learned(here, own_model(here), here.data.all(), Y, how, "fit")
        if self.exchange == "none":
            return {"model": {"h": h, "Y": Y}, "ballot": None}
        p = probabilities(here, h, here.public.all().x, Y)
        top = p.topk(2)
        votes = torch.where(top.values[:, 0] - top.values[:, 1] > self.delta, top.indices[:, 0], -1)
        sent = p.float() if self.exchange == "soft" else packed_votes(votes.numpy(), len(Y))
        return {"model": {"h": h, "Y": Y}, "ballot": {"Y": packed_classes(here.data.counts), "votes": sent}}

    def count(self, here: Here, ballots: list[dict[str, Any]]) -> tuple[dict[int, Any], int]:
        n, C = len(here.public), 8 * len(ballots[0]["Y"])
        W, voted = np.zeros(C), np.zeros((n, C))
        for b in ballots:
            Y = unpacked_classes(b["Y"])
            W[Y] += 1
            if self.exchange == "soft":
                voted[:, Y] += b["votes"].numpy()
            else:
                votes = unpacked_votes(b["votes"], n, len(Y))
                x = np.flatnonzero(votes >= 0)
                voted[x, Y[votes[x]]] += 1
        here.cost(flops=float(n * len(ballots)))
        share = {int(c): voted[:, c] / W[c] for c in np.flatnonzero(W)}
        if self.exchange == "soft":
            return {c: torch.from_numpy(p).float() for c, p in share.items()}, n
        found = {c: np.flatnonzero((p > self.alpha) & (voted[:, c] >= self.voters)) for c, p in share.items()}
        return {c: packed_ids(x, n) for c, x in found.items()}, sum(map(len, found.values()))

    def retrain(self, here: Here, lists: dict[int, Any], t: int) -> dict[str, Any]:
        Y, pool, local = own_classes(here), here.public, here.state.get("h")
        x, c = most_probable(lists) if self.exchange == "soft" else once({c: unpacked_ids(ids, len(pool)) for c, ids in lists.items()})
        data = balanced(joined(here.data.all(), pool.rows(pool.ids[x]).x, c), is_on=self.class_weights)
        start = local if self.warm_start and isinstance(local, Params) else own_model(here)
        how = Descent(lr=self.lr, tried=self.retrain_lrs, epochs=self.retrain_epochs, batch_size=self.retrain_batch_size, patience=self.patience)
        h = learned(here, start, data, Y, how, f"refit {t}")
        kept = self.keep_local_if_better and local is not None and score(here, local, Y) > score(here, h, Y)
        here.state["h"] = h = local if kept else h
        return {"model": {"h": h, "Y": Y, "x": x, "c": c}, "kept": kept}

    def predict(self, model: Any, x: Any) -> torch.Tensor:
        return logits(model["h"], x, model["Y"])


def came(server: Node, refs: list[Ref], part: str) -> list[Ref]:
    there = set(server.first([r[part] for r in refs], len(refs))[0])
    return [r for r in refs if r[part] in there]
