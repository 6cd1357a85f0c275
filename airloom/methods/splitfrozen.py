"""SplitFrozen: devices run the frozen lower layers forward and nothing else; adapters are trained at the server, from all devices' activations.

    each round (an epoch), for batch j = 1 .. J of every device i that the server has no activations of:
        h_ij = f_{1:l_i}(rows j of i)                         up go h_ij and labels; nothing comes back, so devices run ahead of the server
    server, batch j = {h_ij, lifted to the cut}, in micro-batches through the stages k = 1 .. K:
        F: y_mk = f_k(y_m,k-1)          then, from above:  B: dL/dy_m,k-1 at once,   W: dL/dw_k when the stage is idle
        w_k <- optimizer step along sum_m W_mk

Paper: reconstructed from the abstract of Ma, Lyu, Jiang, Cui, Yao, Tao, "SplitFrozen: Split Learning with Device-side Model Frozen for Fine-Tuning
LLM on Heterogeneous Resource-Constrained Devices", 2025, arXiv 2503.18986, whose text was not available.
Symbols: l_i device i's layers (its fact "cut", or `cut`), h `h`, w_k the stage's adapters and head `w`, J batches of an epoch, K `stages`.
Left out: sequences without padding, adapters sent to the devices at the end, noise on activations. The model must not draw (dropout).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from airloom.errors import ScenarioError
from airloom.models.params import Params
from airloom.models.step import AdamW, Optimizer
from airloom.models.submodel import layers
from airloom.parts.halves import counted, joined, output_gradient, packed, pieces
from airloom.parts.optimizer import local_optimizer
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node
from airloom.program.ref import Ref


@dataclass(frozen=True, kw_only=True)
class SplitFrozen(Method):
    """Split fine-tuning with a frozen device side.

    Arguments:
        cut: layers that devices run, at most; 0 sends inputs (1, ours). A device with the fact "cut" runs fewer, and the server the rest, frozen.
        stages: server stages, the first at the server, the others at places linked to it that are neither above nor below.
        micro: micro-batches of a batch, which fill the stages one after another.
        is_decomposed: whether B and W are calls of their own, W in idle time; it pays with several stages only.
        is_cached: activations are sent once and kept at the server (ours); else in every round.
        is_half: activations travel with half the bits.
        batch_size: rows of each device in a batch. lr, optimizer: of the server (adamw(weight_decay=0.0)).
    """

    paper: ClassVar[str] = "Ma et al. 2025, arXiv 2503.18986"
    adapts: ClassVar[bool] = True

    cut: int = ranged(0, 10_000, default=1)
    stages: int = ranged(1, 1_000, default=1)
    micro: int = ranged(1, 1_000, default=1)
    is_decomposed: bool = True
    is_cached: bool = True
    is_half: bool = False
    lr: float = ranged(0, 100, default=0.01, open_low=True, tune=(0.001, 0.003, 0.01))
    batch_size: int = ranged(1, 1_000_000, default=16)
    optimizer: Optimizer = part(local_optimizer, AdamW(weight_decay=0.0))

    def init(self, server: Node, x: Params) -> State:
        depth, hosts = len(x.spec.layers), [server.name, *server.neighbors]
        if not self.cut + self.stages <= depth or self.stages > len(hosts):
            wanted = f"a layer per stage above the cut, of {depth}, and a place per stage, of {hosts}"
            raise ScenarioError(f"SplitFrozen(cut={self.cut}, stages={self.stages}) of {x.spec}: allowed is {wanted}")
        ends = [self.cut + (depth - self.cut) * k // self.stages for k in range(1, self.stages)]
        bottom, *tops = pieces(x, self.cut, *ends)
        below = [server.put(x[layers(0, n)] if n else None) for n in range(self.cut + 1)]  # each device gets its own once
        w = [{"w": server.put(top), "state": server.put(None)} for top in tops]
        return {"x": x, "bottom": bottom, "below": below, "w": w, "cache": {}, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, w, cache, D = s["x"], s["w"], s["cache"], server.clients
        hosts, cut = [server.name, *server.neighbors][: self.stages], {i: self.cut_of(server, i) for i in D}
        J = max([-(-server.network.samples[i] // self.batch_size) for i in D], default=0)
        order = [str(j) for j in server.rng("order", s["t"]).permutation(J)]
        known = {j: cache.get(j, {"who": [], "kept": None}) for j in order}
        asked = {j: [i for i in D if i not in known[j]["who"]] for j in order}
        up = {j: server.map(self.forward, asked[j], int(j), each=[(s["below"][cut[i]],) for i in asked[j]]) for j in order}
        for j in order:  # devices are ahead by now: what they send waits here
            late = server.first(up[j], len(up[j]))[2]
            if came := [r for r in up[j] if r not in late]:
                rest = [x[layers(cut[r.place], self.cut)] if cut[r.place] < self.cut else None for r in came]
                kept = server.call(self.mix, server.name, known[j]["kept"], came, rest)
                known[j] = {"who": known[j]["who"] + [r.place for r in came], "kept": kept}
            if known[j]["who"]:
                w = self.step(server, hosts, w, known[j]["kept"])
        x = joined(s["bottom"], *server.fetch([w_k["w"] for w_k in w]))
        server.report(round=s["t"], model=x, asked=sum(map(len, asked.values())))
        return s | {"x": x, "w": w, "cache": cache | known if self.is_cached else {}, "t": s["t"] + 1}

    def step(self, server: Node, hosts: list[str], w: list[dict[str, Ref]], block: Ref) -> list[dict[str, Ref]]:
        """One batch through the stages; nothing is waited for."""
        flows: list[tuple[list[Ref], Ref]] = []
        for m in range(self.micro):
            y = part = server.call(self.chunk, hosts[0], block, m)
            tapes: list[Ref] = []
            for w_k, host in zip(w, hosts, strict=True):
                y = server.call(self.F, host, w_k["w"], y["y"])
                tapes.append(y["tape"])
            flows.append((tapes, server.call(self.loss, hosts[-1], y["y"], part["labels"], part["share"])))
        d: list[list[Ref]] = [[] for _ in hosts]
        for tapes, g in flows:
            for k in reversed(range(self.stages)):
                if not k or self.is_decomposed:  # below the first stage nothing learns
                    W = server.call(self.back, hosts[k], tapes[k], g, "params", priority=-1 if self.is_decomposed else 0)
                    B = server.call(self.back, hosts[k], tapes[k], g, "inputs") if k else g
                else:
                    W, B = (both := server.call(self.back, hosts[k], tapes[k], g, "both"))[0], both[1]
                g = B
                d[k].append(W)
        new = [server.call(self.update, hosts[k], w[k]["w"], w[k]["state"], d[k]) for k in range(self.stages)]
        return [{"w": r["w"], "state": r["state"]} for r in new]

    def forward(self, here: Here, j: int, below: Params | None) -> dict[str, Any]:
        own = here.data.all()
        batch = own.rows((torch.arange(self.batch_size, device=own.y.device) + j * self.batch_size) % len(own))  # the same in every epoch
        h = batch.x if below is None else here.forward(below, batch)
        return {"h": h.half() if self.is_half else h, "labels": packed(batch)}

    def mix(self, here: Here, kept: dict[str, Any] | None, came: list[dict[str, Any]], rest: list[Params | None]) -> dict[str, Any]:
        """All devices' rows as one batch; what a device left out below the cut is done here, with the same frozen values."""
        hs = [a["h"] if w is None else here.forward(w, a["h"].to(w.spec.dtype)) for a, w in zip(came, rest, strict=True)]
        old = [kept] if kept is not None else []
        return {"h": torch.cat([b["h"] for b in old] + hs), "labels": torch.cat([b["labels"] for b in [*old, *came]])}

    def chunk(self, here: Here, block: dict[str, Any], m: int) -> dict[str, Any]:
        h, labels = (block[key].tensor_split(self.micro)[m] for key in ("h", "labels"))
        return {"y": h, "labels": labels, "share": counted(labels) / counted(block["labels"])}

    def F(self, here: Here, w: Params, h: Any) -> dict[str, Any]:
        y, tape = here.forward(w, h.to(w.spec.dtype), keep=True)
        return {"y": y, "tape": tape}

    def loss(self, here: Here, y: Any, labels: Any, share: Any) -> Any:
        return share * output_gradient(here, y, labels)

    def back(self, here: Here, tape: Any, g: Any, wrt: str) -> Any:
        return here.vjp(tape, g, wrt=("params", "inputs") if wrt == "both" else wrt)

    def update(self, here: Here, w: Params, state: Any, d: list[Params]) -> dict[str, Any]:
        w, state = self.optimizer.step(w, sum(d[1:], d[0]), state, lr=self.lr)
        return {"w": w, "state": state}

    def cut_of(self, server: Node, i: str) -> int:
        """l_i: what the scenario declares as the device's fact "cut", or `cut`."""
        found = server.network.facts[i].get("cut", self.cut)
        if not isinstance(found, int) or not 0 <= found <= self.cut:
            raise ScenarioError(f"fact 'cut' of '{i}': got {found!r}; allowed is an integer from 0 to SplitFrozen.cut = {self.cut}")
        return found
