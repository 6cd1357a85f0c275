"""HFedMS: FedGSP on streams; the extractor is trained and sent once per period, and clients remember what they saw as features.

    period B (f rounds):  groups by ICG on what clients hold now; they stay for the period
    full round:           chains on the whole model h = (theta_f, theta_c), loss  CE(h) + lambda KL(softmax(h_start) || softmax(h))
    f - 1 others:         chains on the classifier theta_c alone, on features of the stream and of the memory
    a client, in its first classifier round of B, with the extractor W_B of the full round, and W_p that of its last period:
        memory <- the `memory` features nearest to their class's mean, of its memory and of what it gathered in p
        z_i <- z_i + Delta_{y_i},  Delta_c = mean of class c's features of the present stream under W_B - the same under W_p
        gathers the present stream's features under W_B

Paper: Zeng, Li, Yu et al., "HFedMS: Heterogeneous Federated Learning with Memorable Data Semantics in Industrial Metaverse", 2022, arXiv 2211.03300;
schedule and groups from the authors' code, the memory after the abstract's intention (see the page).
Symbols: f `period`, lambda `kl`, theta_f and theta_c the layers but the last one and the last, z `mem`, W `W`; groups as in `airloom.methods.fedgsp`.
Left out: augmentation. A model of one layer has no extractor: all its rounds send the whole, and nothing is remembered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from airloom.methods.fedgsp import Grouped
from airloom.models.batch import Batch
from airloom.models.distill import KLTo
from airloom.models.params import Params
from airloom.models.submodel import layers
from airloom.parts.memory import Absent, drift, nearest_to_means
from airloom.program.here import Here
from airloom.program.method import State, ranged
from airloom.program.node import Node
from airloom.program.ref import Ref


@dataclass(frozen=True, kw_only=True)
class HFedMS(Grouped):
    """Grouped training with memorable data semantics; fields of groups and of local SGD as in FedGSP.

    Arguments:
        period: f, rounds from one full round to the next (3, authors' code); 1 sends the whole model in every round.
        memory: features that a client keeps (200, authors' code); 0 for none.
        per_class: the memory keeps the nearest of each class in turn (ours), else whoever is nearest (intended by the authors' code).
        absent: drift of classes that the present stream lacks: "zero" (ours), or the "mean" of the others.
        extractor: in classifier rounds clients use the "aggregated" one, sent to them once per period, or their own ("local").
        kl: lambda, weight of the term that holds clients near the model of the round's start (0.1, authors' code; there averaged over classes).
        calibration_epochs, calibration_lr: of classifier rounds (3 and 0.01, authors' code).
    """

    paper: ClassVar[str] = "Zeng et al. 2022, arXiv 2211.03300"

    period: int = ranged(1, 1_000, default=3, tune=(2, 3, 5))
    memory: int = ranged(0, 1_000_000, default=200)
    per_class: bool = True
    absent: Absent = "zero"
    extractor: Literal["aggregated", "local"] = "aggregated"
    kl: float = ranged(0, 1_000, default=0.1)
    calibration_epochs: int = ranged(1, 1_000, default=3)
    calibration_lr: float = ranged(0, 100, default=0.01, open_low=True)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "counts": {}, "groups": [], "told": [], "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, t, groups, told, counts, samples = s["x"], s["t"], s["groups"], s["told"], s["counts"], server.network.samples
        B, i = divmod(t, self.period)
        n = len(x.spec.layers)
        head, rest = x[layers(n - 1, n)], x[layers(0, n - 1)] if n > 1 else None
        if i == 0:
            counts = self.published(server, counts)
            groups, told = self.drawn(server, self.formed(server, counts, B), B), []
        here = set(server.clients)
        visits = self.visits(server, [g for g in ([c for c in g if c in here] for g in groups) if g], t)
        start = server.put(x if i == 0 else head)
        W = server.put(rest) if i and rest is not None and self.extractor == "aggregated" else None
        ends: list[Ref] = []
        for g in visits:
            ref = start
            for c in g:
                if i == 0:
                    ref = server.call(self.full, c, ref, start if self.kl else None)
                else:
                    ref = server.call(self.calibrate, c, ref, None if c in told else W, B, rest is not None)
            ends.append(ref)
        mean = server.reduce(ends, [sum(samples[c] for c in g) for g in visits], like=x if i == 0 else head)
        came = [g for g, ref in zip(visits, ends, strict=True) if ref.arrived_s is not None]
        x = x | mean if came else x
        server.report(round=t, model=x, groups=len(visits), heard=len(came))
        told = told + [c for g in came for c in g] if i else []  # who has this period's extractor
        return {"x": x, "counts": counts, "groups": groups, "told": told, "t": t + 1}

    def full(self, here: Here, h: Params, start: Params | None) -> Params:
        objective = None if start is None else here.objective + self.kl * KLTo(teacher=start)
        h = here.train(h, steps=self.steps(here), lr=self.lr, batch_size=self.batch_size, objective=objective)
        if self.extractor == "local" and len(h.spec.layers) > 1:
            here.state["own"] = h[layers(0, len(h.spec.layers) - 1)]
        return h

    def calibrate(self, here: Here, head: Params, W: Params | None, B: int, has_extractor: bool) -> Params:
        now, mem = here.data.all(), None
        z: Any = now.x
        if has_extractor:
            W = here.state.get("own") if self.extractor == "local" else W
            if here.state.get("period") != B:
                if W is None:  # it came after this period's first classifier round, or forgot
                    return head
                self.remember(here, W, now)
                here.state["period"] = B
            z, mem = here.forward(here.state["W"], now), here.state.get("mem")
        y = now.y
        if mem is not None:
            z, y = torch.cat([z, mem["z"]]), torch.cat([y, mem["y"]])
        H = self.calibration_epochs * -(-len(y) // self.batch_size)
        return here.train(head, steps=H, lr=self.calibration_lr, batch_size=self.batch_size, data=Batch(z, y, classes=now.classes))

    def remember(self, here: Here, W: Params, now: Batch) -> None:
        """Compress, compensate, gather."""
        z, last, mem = here.forward(W, now), here.state.get("new"), here.state.get("mem")
        C = max(1, now.classes)
        if self.memory and last is not None:
            pool = last if mem is None else {k: torch.cat([last[k], mem[k]]) for k in ("z", "y")}
            kept = nearest_to_means(pool["z"], classes_of(pool["y"]), C, self.memory, per_class=self.per_class)
            moved = drift(here.forward(here.state["W"], now), z, classes_of(now.y), C, absent=self.absent)
            y = pool["y"][kept]
            here.state["mem"] = {"z": pool["z"][kept] + moved[classes_of(y)], "y": y}
        if self.memory:
            here.state["new"] = {"z": z, "y": now.y}
        here.state["W"] = W


def classes_of(y: Tensor) -> Tensor:
    """The class of each sample; one for all where labels are no classes."""
    return y if y.dim() == 1 and not y.is_floating_point() else torch.zeros_like(y.flatten(1)[:, 0], dtype=torch.int64)
