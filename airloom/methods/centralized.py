"""Centralized training, a reference: all clients send their data once, the server trains alone.

    D = union of the clients' data, sent up once and paid for
    each round:  x <- H steps of SGD from x on D, at the server

Symbols: x model, D `pool`, H `local_steps`, eta `lr`.
Left out: privacy; this is what federated methods avoid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from airloom.models.batch import Batch
from airloom.models.params import Params
from airloom.program.here import Here
from airloom.program.method import Method, State, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class Centralized(Method):
    """All data at the server.

    Arguments:
        local_steps: steps between two points of the curve.
        lr, batch_size: of SGD.
    """

    paper: ClassVar[str] = "reference"

    local_steps: int = ranged(1, 100_000, default=50, tune=(50,))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=32)

    def init(self, server: Node, x: Params) -> State:
        parts = server.map(self.send, server.clients)
        _, _, lost = server.first(parts, len(parts))
        pool = server.call(self.join, server.name, [r for r in parts if r not in lost])
        return {"x": x, "pool": pool, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x = server.fetch(server.call(self.train, server.name, s["x"], s["pool"]))
        server.report(round=s["t"], model=x)
        return {"x": x, "pool": s["pool"], "t": s["t"] + 1}

    def send(self, here: Here) -> dict[str, Any]:
        rows = here.data.all()
        return {"x": rows.x, "y": rows.y}

    def join(self, here: Here, parts: list[dict[str, Any]]) -> dict[str, Any]:
        return {"x": torch.cat([p["x"] for p in parts]), "y": torch.cat([p["y"] for p in parts])}

    def train(self, here: Here, x: Params, pool: dict[str, Any]) -> Params:
        return here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, data=Batch(pool["x"], pool["y"]))
