"""FedAvg: clients train from the global model, the server averages.

    for each round t:
        P = m clients chosen by the server
        each client n in P:  x_n = H steps of SGD from x on its own data
        x = sum_n w_n x_n / sum_n w_n

Paper: McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
arXiv 1602.05629, Algorithm 1.
Symbols: x global model, x_n client model, w_n `w`, P participants, H `local_steps` (or E `local_epochs`), B `batch_size`, eta `lr`, C `fraction`.
Left out: nothing. Ours: `weights="equal"`, steps instead of epochs, selection other than uniform.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from airloom.models.params import Params
from airloom.parts.select import Selector, Uniform, selector
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class FedAvg(Method):
    """Federated averaging.

    Arguments:
        fraction: share of the clients that take part in a round; at least one does.
        local_steps: steps of a client in a round.
        local_epochs: passes over its own data instead of `local_steps`, where not 0.
        lr, batch_size: of local SGD.
        weights: "samples" weighs clients by data size (paper), "equal" does not.
        select: how participants are chosen (paper: uniformly).
    """

    paper: ClassVar[str] = "McMahan et al. 2017, arXiv 1602.05629"

    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(0, 100_000, default=10, tune=(5, 10, 20))
    local_epochs: int = ranged(0, 1_000, default=0)
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    weights: Literal["samples", "equal"] = "samples"
    select: Selector = part(selector, Uniform())

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "history": self.select.start(server.network.samples), "t": 0}

    def round(self, server: Node, s: State) -> State:
        N, samples, t0 = server.clients, server.network.samples, server.now_s
        P = self.select.choose(N, max(1, round(self.fraction * len(N))), s["history"], server.rng("select", s["t"])) if N else []
        out = server.map(self.client, P, s["x"])
        w = [samples[n] if self.weights == "samples" else 1 for n in P]
        new = server.reduce(out, w, like={"x": s["x"], "loss": 0.0})
        there = [r for r in out if r.arrived_s is not None]
        loss = server.fetch([r["loss"] for r in there])
        x = new["x"] if there else s["x"]
        server.report(round=s["t"], model=x, clients=len(there))
        history = self.select.update(
            s["history"],
            losses={r.place: value for r, value in zip(there, loss, strict=True)},
            durations_s={r.place: r.arrived_s - t0 for r in there if r.arrived_s is not None},
        )
        return {"x": x, "history": history, "t": s["t"] + 1}

    def client(self, here: Here, x: Params) -> dict[str, Any]:
        H = self.local_epochs * here.data.batches(self.batch_size) or self.local_steps
        x = here.train(x, steps=H, lr=self.lr, batch_size=self.batch_size)
        return {"x": x, "loss": here.log.loss}
