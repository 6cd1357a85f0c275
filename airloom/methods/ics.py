"""ICS: every client decides for itself, with its own probability, whether it joins a round; the probabilities make the time to convergence short.

    before each round:  q = argmin m(q) h(q),   m = sum_n q_n (tau_n + c_n) >= E[T],   h = (1/N) sum_n alpha / (beta - N a_n^2 / q_n)
    S = {n: u_n < q_n},  u_n uniform, independent;   an empty S keeps x
    each n in S:  x_n = H steps of SGD from x
    bandwidth:    all of S in one cell finish together:  T with sum_n c_n / (T - tau_n) = 1,  b_n = B c_n / (T - tau_n)
    x <- x + sum_{n in S} (a_n / q_n) (x_n - x)
    pilots, once: rounds from x with q = q_1 for all, and with q = 1 for all; how many they take to the same losses gives alpha and beta

Paper: Geng, Hou, Tao et al., "Adaptive Federated Learning in Heterogeneous Wireless Networks with Independent Sampling", 2024, arXiv 2402.10097.
Symbols: x global model, x_n client model, a_n share of the data, tau_n seconds of compute, c_n of upload with the whole band B, b_n `share_hz`,
H `local_steps`, q_1 `pilot_q`. Planners: `airloom.plans.sampling`, `airloom.plans.bandwidth`.
Reconstructed: the shares of the band and the pilots (the paper's text was not at hand). Left out: batteries. Ours: the solution of the minimum;
clients' mean losses (8 bytes) go up too; links of their own keep their rates; an empty draw is drawn again after `slot_s`, within the round.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from airloom.models.params import Params
from airloom.parts.protect import Protection, Unprotected, protection
from airloom.plans import sampling
from airloom.plans.bandwidth import common_finish, equal_shares
from airloom.program.here import Here
from airloom.program.method import Method, State, part, ranged
from airloom.program.node import Node
from airloom.program.reducer import SUM


class Known(NamedTuple):
    """What planners know of a client: a_n, tau_n, c_n, and the cell whose band it shares ("" for none)."""

    a: float
    tau: float
    c: float
    cell: str


@dataclass(frozen=True, kw_only=True)
class ICS(Method):
    """Independent client sampling with adaptive bandwidth.

    Arguments:
        scheme: "proposed", the best single probability ("constant"), or the code's "full" (1), "uniform" (1/N), "weight" (a_n), "fix" (`q`).
        q: probability of "fix" (1/5, authors' code). floor: least probability of "proposed"; it bounds the factor a_n / q_n (ours).
        alpha, beta: constants of the bound (CNN, authors' code); alpha moves no probability.
        bandwidth: "common" finish time, "equal" shares (authors' code), or as the "cell" itself shares.
        mode: "exact", or "paper": surrogate objective, clients' lr times a_n / q_n, plain mean (authors' code; not unbiased).
        pilots: how often both pilots run, on the clock; 0 takes alpha and beta as given. pilot_rounds, pilot_q: of each, and q_1 (ours).
        slot_s: seconds that an empty draw takes (0, ours). local_steps, lr, batch_size: of local SGD. protect: of updates (none).
    """

    paper: ClassVar[str] = "Geng et al. 2024, arXiv 2402.10097"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")  # real links that share a band: bandwidth="cell"

    scheme: sampling.Scheme = "proposed"
    q: float = ranged(0, 1, default=0.2, open_low=True)
    floor: float = ranged(0, 1, default=0.0, tune=(0.0, 0.1, 0.3))
    alpha: float = ranged(0, 1e12, default=28.474, open_low=True)
    beta: float = ranged(0, 1e12, default=2.2043, open_low=True)
    bandwidth: Literal["common", "equal", "cell"] = "common"
    mode: sampling.Mode = "exact"
    pilots: int = ranged(0, 100, default=0)
    pilot_rounds: int = ranged(2, 10_000, default=10)
    pilot_q: float = ranged(0, 1, default=0.2, open_low=True)
    slot_s: float = ranged(0, 1e9, default=0.0)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)
    protect: Protection = part(protection, Unprotected(), is_neutral=True)

    def init(self, server: Node, x: Params) -> State:
        t0, known = server.now_s, sampling.Constants(alpha=self.alpha, beta=self.beta, levels=0)
        if self.pilots:
            known = self.pilot(server, x) or known
        return {"x": x, "bound": {**vars(known), "pilot_s": server.now_s - t0}, "t": 0}

    def round(self, server: Node, s: State) -> State:
        N = self.world(server, s["x"])
        q, expected_s = self.probabilities(N, s["bound"]["alpha"], s["bound"]["beta"])
        x, told = self.step(server, s["x"], N, q, "round", s["t"])
        server.report(round=s["t"], model=x, expected_s=expected_s, **told, **s["bound"])
        return {**s, "x": x, "t": s["t"] + 1}

    def step(self, server: Node, x: Params, N: dict[str, Known], q: Mapping[str, float], *labels: object) -> tuple[Params, dict[str, float]]:
        """One round with given probabilities."""
        S = self.draw(server, q, *labels)
        (share_hz, planned_s), w = self.share(server, N, S), [N[n].a / q[n] for n in S]
        w, each = ([1 / len(S)] * len(S), [(f,) for f in w]) if self.mode == "paper" else (w, ())
        out = server.map(self.client, S, server.put(x), each=each, share_hz=share_hz)  # put: x comes down as the cell itself shares
        out = self.protect.seal(server, out, w, over=SUM)
        d = self.protect.reduce(server, out, w, like={"dx": x, "loss": 0.0}, over=SUM)
        came = sum([f for f, r in zip(w, out, strict=True) if r.arrived_s is not None])
        return x + d["dx"], {"clients": len(S), "planned_s": planned_s, **({"loss": d["loss"] / came} if came else {})}

    def client(self, here: Here, x: Params, factor: float = 1.0) -> dict[str, Any]:
        dx = here.train(x, steps=self.local_steps, lr=factor * self.lr, batch_size=self.batch_size) - x
        return {"dx": dx, "loss": here.log.loss}

    def world(self, server: Node, x: Params) -> dict[str, Known]:
        """What the planners know of each client that is there."""
        seen, N = server.network, server.clients
        D = sum([seen.samples[n] for n in N])
        price = {n: server.estimate(self.client, n, x) for n in N}
        return {n: Known(seen.samples[n] / D, price[n].seconds, 8 * price[n].bytes_up / seen.whole_band_bps[n], seen.cell[n]) for n in N}

    def probabilities(self, N: dict[str, Known], alpha: float, beta: float) -> tuple[dict[str, float], float]:
        """q, and the bound m on the seconds of a round."""
        if not N:
            return {}, 0.0
        a, t = [n.a for n in N.values()], [n.tau + n.c for n in N.values()]
        plan = sampling.scheme(self.scheme, a, t, alpha=alpha, beta=beta, q=self.q, floor=self.floor, mode=self.mode)
        return dict(zip(N, plan.probabilities.tolist(), strict=True)), plan.round_s

    def draw(self, server: Node, q: Mapping[str, float], *labels: object) -> list[str]:
        """Who joins; a draw that nobody joins costs the slot, keeps x and is followed by the next."""
        for k in itertools.count() if q else ():
            u = server.rng("join", *labels, k).random(len(q)).tolist()
            if S := [n for n, u_n in zip(q, u, strict=True) if u_n < q[n]]:
                return S
            server.sleep(server.now_s + self.slot_s)
        return []

    def share(self, server: Node, N: dict[str, Known], S: list[str]) -> tuple[list[float] | None, float]:
        """b_n, and the planned end of the round after the model came down; links of their own take no share."""
        plan = equal_shares if self.bandwidth == "equal" else common_finish
        hz, finish_s = dict.fromkeys(S, 0.0), max([N[n].tau + N[n].c for n in S], default=0.0)
        for cell in {N[n].cell for n in S} - {""}:
            C = [n for n in S if N[n].cell == cell]
            planned = plan([N[n].tau for n in C], [N[n].c for n in C], server.network.cell_hz[C[0]])
            hz |= zip(C, planned.share_hz.tolist(), strict=True)
            finish_s = max(finish_s, planned.finish_s)
        return None if self.bandwidth == "cell" or not any(hz.values()) else list(hz.values()), finish_s

    def pilot(self, server: Node, x: Params) -> sampling.Constants | None:
        """alpha and beta from the mean loss curves of pilots at two probabilities."""
        losses = {q: [0.0] * self.pilot_rounds for q in (self.pilot_q, 1.0)}
        for k, (q, curve) in itertools.product(range(self.pilots), losses.items()):
            x_r, told = x, {"loss": 0.0}
            for r in range(self.pilot_rounds):
                N = self.world(server, x)
                x_r, new = self.step(server, x_r, N, dict.fromkeys(N, q), "pilot", q, k, r)
                told |= new  # a round that lost everybody keeps the loss
                curve[r] += told["loss"] / self.pilots
        a = [n.a for n in self.world(server, x).values()]
        return sampling.fit(a, low=self.pilot_q, high=1.0, losses_low=losses[self.pilot_q], losses_high=losses[1.0]) if a else None
