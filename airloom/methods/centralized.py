"""Centralized training, a reference: every client sends its data once, the server trains alone.

    each client n, when it is first there:  sends its data, and D <- D and these        (`airloom.parts.pooled`)
    each round:                             x <- H steps of SGD from x on D, at the server

Symbols: x model, D `pool`, H `local_steps`, eta `lr`.
Left out: privacy; this is what federated methods avoid. Data that arrive at a client later (a stream) are not sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.models.batch import Batch
from airloom.models.params import Params
from airloom.parts.pooled import Data, Pooled
from airloom.program.here import Here
from airloom.program.method import ranged


@dataclass(frozen=True, kw_only=True)
class Centralized(Pooled):
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

    def train(self, here: Here, x: Params, pool: Data, t: int) -> Params:
        return here.train(x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, data=Batch(pool["x"], pool["y"]))
