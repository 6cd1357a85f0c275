"""FedZO: local steps without gradients; only losses are evaluated. Its updates may be added up by the radio channel.

    P = m clients, drawn uniformly
    each client n in P:  H times, from x_n = x:   xi ~ B own samples,   v_1 .. v_q random directions
                             g_n = (d / (mu q)) sum_l (F_n(x_n + mu v_l; xi) - F_n(x_n; xi)) v_l,   x_n <- x_n - eta g_n
                         sends Delta_n = x_n - x                                   (or the H q scalars of which Delta_n is made)
    x <- x + mean(Delta_n)                                    over the air: + N(0, s^2), the mean over those with |h_n| >= threshold

Paper: Fang, Yu, Jiang et al., "Communication-Efficient Stochastic Zeroth-Order Optimization for Federated Learning", IEEE TSP 2022,
arXiv 2201.09531.
Symbols: x model, x_n client model `y`, Delta_n `dx`, H `local_steps`, eta `lr`, B `batch_size`; mu, q, v_l as in `airloom.parts.zeroth_order`.
Left out: the time to draw directions. Ours: seeds instead of values (`send`); over the air clients learn of their channel when they send, not before
they compute; several cells are added up one by one, and their means by message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from airloom.errors import ScenarioError
from airloom.models.params import Params
from airloom.parts.over import air_mean, over
from airloom.parts.protect import Protection, Unprotected, protection
from airloom.parts.select import Uniform
from airloom.parts.zeroth_order import Law, LossDifference, moved
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node
from airloom.program.reducer import MEAN, SUM, AirSum, Reducer


@dataclass(frozen=True, kw_only=True)
class FedZO(Method):
    """Federated zeroth-order optimization.

    Arguments:
        fraction: share of the present clients that take part in a round; at least one does.
        local_steps, lr, batch_size: of local descent (authors' scripts: 5 to 50 steps, 1e-3, 25).
        mu, directions, law: of the estimate; the law "authors" is the authors' code, d times too long.
        over: "mean", or air(snr_db=...): the channel adds the updates up (threshold 0.8, authors' code).
        send: "values" (paper), "seeds" (H q scalars; the server draws the same directions and takes the same steps), or "auto", the shorter one.
        protect: what happens to updates before they leave the clients (none).
    """

    paper: ClassVar[str] = "Fang et al. 2022, arXiv 2201.09531"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    fraction: float = ranged(0, 1, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.01, open_low=True, tune=(0.003, 0.01, 0.03))
    batch_size: int = ranged(1, 1_000_000, default=25)
    mu: float = ranged(0, 1e3, default=1e-3, open_low=True)
    directions: int = ranged(1, 100_000, default=20)
    law: Law = "sphere"
    over: Reducer = part(over, MEAN)
    send: Literal["values", "seeds", "auto"] = "values"
    protect: Protection = part(protection, Unprotected(), is_neutral=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.send == "seeds" and isinstance(self.over, AirSum):
            raise ScenarioError("FedZO(send='seeds', over=air(...)): the channel adds values up; use send=values, or over=mean")
        if not self.protect.is_local and (self.send == "seeds" or isinstance(self.over, AirSum)):
            raise ScenarioError(f"FedZO(protect={self.protect}): it sums models at the server; use send=values and over=mean")

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, N = s["x"], server.clients
        P = Uniform().choose(N, max(1, round(self.fraction * len(N))), {"samples": server.network.samples}, server.rng("select", s["t"]))
        draws = server.rng("directions", s["t"]).integers(2**62, size=(len(P), 1))
        seeds = dict(zip(P, draws, strict=True))  # of each participant's directions
        if isinstance(self.over, AirSum):  # a cell's updates meet at its base station, which may be this server
            cells = [j for j in server.children if j not in N] or [server.name]
            sums = server.reduce([server.program(j, self.cell, x, seeds) for j in cells], over=SUM, like={"dx": x, "clients": 0.0})
            x = x + sums["dx"] / max(sums["clients"], 1.0)
        else:
            out = server.map(self.client, P, x, each=[(seeds[n],) for n in P])
            if self.sends_seeds(x):
                out = [server.call(self.replayed, server.name, x, seeds[r.place], r) for r in out]
            x = x + self.protect.reduce(server, self.protect.seal(server, out, None), None, like=x)
        server.report(round=s["t"], model=x)
        return {"x": x, "t": s["t"] + 1}

    def cell(self, station: Node, x: Params, seeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        P = [n for n in station.clients if n in seeds]
        out = station.map(self.with_norm, P, x, each=[(seeds[n],) for n in P])
        dx, heard = air_mean(station, out, self.over, x)
        return {"dx": heard * dx, "clients": float(heard)}

    def client(self, here: Here, x: Params, seed: np.ndarray) -> Any:
        estimate, y, slopes = self.estimate, x, []
        for h in range(self.local_steps):
            xi = here.batch(self.batch_size)
            v = estimate.draw(x, seed, h)
            c = estimate.slopes(lambda z, xi=xi: here.loss(z, xi), y, v)
            y = moved(y, -self.lr * (c @ v))
            slopes.append(c)
        return torch.stack(slopes) if self.sends_seeds(x) else y - x

    def with_norm(self, here: Here, x: Params, seed: np.ndarray) -> dict[str, Any]:
        dx = self.client(here, x, seed)
        return {"dx": dx, "norm": dx.norm()}

    def replayed(self, here: Here, x: Params, seed: np.ndarray, slopes: torch.Tensor) -> Params:
        y = x
        for h, c in enumerate(slopes):  # the client's own steps, bit for bit
            v = self.estimate.draw(x, seed, h)
            here.cost(flops=2.0 * v.numel())
            y = moved(y, -self.lr * (c @ v))
        return y - x

    @property
    def estimate(self) -> LossDifference:
        return LossDifference(mu=self.mu, directions=self.directions, law=self.law)

    def sends_seeds(self, x: Params) -> bool:
        is_shorter = self.local_steps * self.directions < x.spec.trainable_size and not isinstance(self.over, AirSum) and self.protect.is_local
        return self.send == "seeds" or (self.send == "auto" and is_shorter)
