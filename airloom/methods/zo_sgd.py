"""ZO-SGD: stochastic descent without gradients, one exchange per step; the baseline of FedZO.

    each client n:  xi ~ B own samples,  v_1 .. v_q random directions
                    g_n = (d / (mu q)) sum_l (F_n(x + mu v_l; xi) - F_n(x; xi)) v_l                    from losses alone
    x <- x - eta mean(g_n)

Paper: Ghadimi, Lan, "Stochastic First- and Zeroth-Order Methods for Nonconvex Stochastic Programming", SIAM J. Optim. 2013, arXiv 1309.5549, with
several directions per estimate; spread over clients by data.
Symbols: x model, g_n `g`, eta `lr`, B `batch_size`; mu, q, v_l as in `airloom.parts.zeroth_order`.
Left out: the random choice among all iterates at the end, which the proof wants; the time to draw directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from airloom.models.params import Params, zeros_like
from airloom.parts.protect import Protection, Unprotected, protection
from airloom.parts.zeroth_order import Law, LossDifference, moved
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class ZOSGD(Method):
    """Zeroth-order SGD.

    Arguments:
        lr, batch_size: of a step; the batch is each client's.
        mu, directions, law: of the estimate.
        protect: what happens to updates before they leave the clients (none).
    """

    paper: ClassVar[str] = "Ghadimi and Lan 2013, arXiv 1309.5549"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=25)
    mu: float = ranged(0, 1e3, default=1e-3, open_low=True)
    directions: int = ranged(1, 100_000, default=20)
    law: Law = "sphere"
    protect: Protection = part(protection, Unprotected(), is_neutral=True)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, N = s["x"], server.clients
        seeds = server.rng("directions", s["t"]).integers(2**62, size=(len(N), 1))
        out = self.protect.seal(server, server.map(self.estimate, N, x, each=[(seed,) for seed in seeds]), None)
        g = self.protect.reduce(server, out, None, like=x)
        x = x - self.lr * g
        server.report(round=s["t"], model=x)
        return {"x": x, "t": s["t"] + 1}

    def estimate(self, here: Here, x: Params, seed: np.ndarray) -> Params:
        estimate, xi = LossDifference(mu=self.mu, directions=self.directions, law=self.law), here.batch(self.batch_size)
        v = estimate.draw(x, seed, 0)
        return moved(zeros_like(x), estimate.slopes(lambda z: here.loss(z, xi), x, v) @ v)
