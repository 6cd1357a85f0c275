"""Centralized training, a reference: every client sends its data once, the server trains alone.

    each client n, when it is first there:  sends its data, and D <- D and these
    each round:                             x <- H steps of SGD from x on D, at the server

Symbols: x model, D `pool`, H `local_steps`, eta `lr`.
Left out: privacy; this is what federated methods avoid. Data that arrive at a client later (a stream) are not sent.
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

Data = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Centralized(Method):
    """All data at the server.

    Arguments:
        local_steps: steps between two points of the curve.
        lr, batch_size: of SGD.
    """

    paper: ClassVar[str] = "reference"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    local_steps: int = ranged(1, 100_000, default=50, tune=(50,))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=32)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "pool": None, "have": {}, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, pool, have = s["x"], s["pool"], s["have"]
        new = server.map(self.send, [n for n in server.clients if n not in have])
        _, _, lost = server.first(new, len(new))
        new = [r for r in new if r not in set(lost)]
        if new:
            pool = server.call(self.join, server.name, new if pool is None else [pool, *new])
            have = have | {r.place: True for r in new}
        if pool is not None:
            x = server.fetch(server.call(self.train, server.name, x, pool))
        server.report(round=s["t"], model=x)
        return {"x": x, "pool": pool, "have": have, "t": s["t"] + 1}

    def send(self, here: Here) -> Data:
        rows = here.data.all()
        return {"x": rows.x, "y": rows.y}

    def join(self, here: Here, parts: list[Data]) -> Data:
        y = torch.cat([p["y"] for p in parts])
        if isinstance(parts[0]["x"], dict):  # several modalities
            return {"x": {name: torch.cat([p["x"][name] for p in parts]) for name in parts[0]["x"]}, "y": y}
        return {"x": torch.cat([p["x"] for p in parts]), "y": y}

    def train(self, here: Here, x: Params, pool: Data) -> Params:
        return here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, data=Batch(pool["x"], pool["y"]))
