"""Local training, a reference: every client trains alone; after the first model nothing is ever sent.

    each round:  every client n:  x_n <- H steps of SGD from x_n on its own data

Symbols: x_n `x` in the client's state, H `local_steps`, eta `lr`.
Left out: any exchange. The curve shows the mean over clients, each on its own test rows; a client that is away counts with its last model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from airloom.models.params import Params
from airloom.program.here import Here
from airloom.program.method import Method, State, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class LocalOnly(Method):
    """No exchange.

    Arguments:
        local_steps: steps between two points of the curve.
        lr, batch_size: of local SGD.
    """

    paper: ClassVar[str] = "reference"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    local_steps: int = ranged(1, 100_000, default=10, tune=(10,))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)

    def init(self, server: Node, x: Params) -> State:
        return {"start": server.put(x), "own": {}, "t": 0}  # put: each client gets the first model once

    def round(self, server: Node, s: State) -> State:
        out = server.map(self.client, server.clients, s["start"])
        done, _, _ = server.first([r["done"] for r in out], len(out))  # None: the barrier
        came = {r.place for r in done}
        own = s["own"] | {r.place: r["x"] for r in out if r.place in came}
        server.report(round=s["t"], personal=own or None)
        return {"start": s["start"], "own": own, "t": s["t"] + 1}

    def client(self, here: Here, start: Params) -> dict[str, Any]:
        x = here.train(here.state.get("x", start), steps=self.local_steps, lr=self.lr, batch_size=self.batch_size)
        here.state["x"] = x
        return {"x": x, "done": None}
