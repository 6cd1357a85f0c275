"""A method whose clients fail in the third round, for the tests of what a failure leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airloom.models.params import Params
from airloom.program.here import Here
from airloom.program.method import Method, State
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class Failing(Method):
    """One step of training per round, as long as it lasts."""

    def init(self, server: Node, x: Any) -> State:
        return {"x": x, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x = server.reduce(server.map(self.client, server.clients, s["x"], s["t"]))
        server.report(round=s["t"], model=x)
        return {"x": x, "t": s["t"] + 1}

    def client(self, here: Here, x: Params, t: int) -> Params:
        if t == 2:
            raise ValueError("no way")
        return here.train(x, steps=1, lr=0.1, batch_size=4)
