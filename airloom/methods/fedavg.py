"""FedAvg: clients train from the global model, the server averages.

    for each round t:
        P = m clients chosen by the server
        each client n in P:  x_n = H steps of SGD from x on its own data
        x = sum_n w_n x_n / sum_n w_n

Paper: McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
arXiv 1602.05629, Algorithm 1.
Symbols: x global model, x_n client model, w_n `w`, P participants, C `fraction`, H `local_steps` (or E `local_epochs`), B `batch_size`, eta `lr`.
Left out: nothing. Ours: steps instead of epochs, equal weights, selection other than uniform; for it each client's mean loss (8 bytes) goes up too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from airloom.models.params import Params
from airloom.parts.protect import Protection, Unprotected, protection
from airloom.parts.select import Selector, Uniform, selector
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class FedAvg(Method):
    """Federated averaging.

    Arguments:
        fraction: share of the present clients that take part in a round; at least one does.
        local_steps: steps of a client in a round.
        local_epochs: passes over its own data instead of `local_steps`, where not 0 (paper).
        lr, batch_size: of local SGD.
        weights: "samples" weighs clients by data size (paper), "equal" does not.
        select: how participants are chosen (paper: uniformly).
        protect: what happens to updates before they leave the clients (none).
    """

    paper: ClassVar[str] = "McMahan et al. 2017, arXiv 1602.05629"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    local_epochs: int = ranged(0, 1_000, default=0)
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    weights: Literal["samples", "equal"] = "samples"
    select: Selector = part(selector, Uniform())
    protect: Protection = part(protection, Unprotected(), is_neutral=True)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "history": self.select.start({}), "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, N, samples, t0 = s["x"], server.clients, server.network.samples, server.now_s
        history = s["history"] | {"samples": samples}  # clients come and go, and so do their data
        P = self.select.choose(N, max(1, round(self.fraction * len(N))), history, server.rng("select", s["t"]))
        w = [samples[n] for n in P] if self.weights == "samples" else None
        x_n = self.protect.given(server, x)
        out = self.protect.seal(server, server.map(self.client, P, x_n), w, about=x_n)
        mean = self.protect.reduce(server, out, w, like={"x": x, "loss": 0.0})
        took_s = {r: r.arrived_s - t0 for r in out if r.arrived_s is not None}  # those that came
        x = mean["x"] if took_s else x
        server.report(round=s["t"], model=x, clients=len(took_s))
        losses = server.fetch([r["loss"] for r in took_s])
        history = self.select.update(
            history,
            losses={r.place: loss for r, loss in zip(took_s, losses, strict=True)},
            durations_s={r.place: seconds for r, seconds in took_s.items()},
        )
        return {"x": x, "history": history | {"samples": {}}, "t": s["t"] + 1}  # they are asked for anew

    def client(self, here: Here, x: Params) -> dict[str, Any]:
        H = self.local_epochs * here.data.batches(self.batch_size) if self.local_epochs else self.local_steps
        x = here.train(x, steps=H, lr=self.lr, batch_size=self.batch_size)
        return {"x": x, "loss": here.log.loss}
