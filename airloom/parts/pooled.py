"""Training on pooled data: every client sends its rows once, when it is first there; the server trains alone on all that came.

    each client n, when it is first there:  sends its data, and D <- D and these
    each round:                             x <- train(x, D, t), at the server

Left out: rows that arrive at a client later (a stream) are not sent.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch

from airloom.models.params import Params
from airloom.program.here import Here
from airloom.program.method import Method, State
from airloom.program.node import Node

Data = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Pooled(Method):
    """A method whose server holds all data; subclasses say how it trains."""

    @abstractmethod
    def train(self, here: Here, x: Params, pool: Data, t: int) -> Params:
        """Train for round t at the server, on the columns `x` and `y` of the pool."""

    def judged(self, x: Params) -> Params:
        """The model that a point of the curve is about."""
        return x

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "pool": None, "have": {}, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, pool, have, t = s["x"], s["pool"], s["have"], s["t"]
        new = server.map(self.send, [n for n in server.clients if n not in have])
        _, _, lost = server.first(new, len(new))
        new = [r for r in new if r not in set(lost)]
        if new:
            pool = server.call(self.join, server.name, new if pool is None else [pool, *new])
            have = have | {r.place: True for r in new}
        if pool is not None:
            x = server.fetch(server.call(self.train, server.name, x, pool, t))
        server.report(round=t, model=self.judged(x))
        return {"x": x, "pool": pool, "have": have, "t": t + 1}

    def send(self, here: Here) -> Data:
        rows = here.data.all()
        return {"x": rows.x, "y": rows.y}

    def join(self, here: Here, parts: list[Data]) -> Data:
        y = torch.cat([p["y"] for p in parts])
        if isinstance(parts[0]["x"], dict):  # several modalities
            return {"x": {name: torch.cat([p["x"][name] for p in parts]) for name in parts[0]["x"]}, "y": y}
        return {"x": torch.cat([p["x"] for p in parts]), "y": y}
