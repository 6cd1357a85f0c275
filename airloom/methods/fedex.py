"""FedEx: a client goes on computing while its update is on the air, up to a ceiling; who takes part is chosen by what overlap has already saved.

    stage 0:  P = the m largest U_n (rounds 0 and 1: all);  each n in P:  x_n = K steps of SGD from x
              x <- sum_n w_n x_n / sum_n w_n;   overlap goes on for good once the mean CKA(x_n, x) >= `cka_min`, after round `first_overlap`
    stage 1:  P, T_r and the budgets S_n' from `airloom.plans.overlap`
              each n in P:  w = x - g_n        g_n: update that n made ahead, none where n missed more than `restart_age` - 1 rounds
                            x_n = K - S_n steps of SGD from w, sent up;   meanwhile S_n' further steps, to z_n;   g_n <- x_n - z_n,  S_n <- S_n'
              x <- as above
    what is evaluated:  x~ = smoothing x + (1 - smoothing) x_before

Paper: Geng, Li, Qin et al., "FedEx: Expediting Federated Learning over Heterogeneous Mobile Devices by Overlapping and Participant Selection", 2024,
arXiv 2407.00943.
Symbols: x global model, x_n client model `y`, g_n `g`, S_n `S`, S_max `ceiling`, K `local_steps`, eta `lr`, w_n data size, m from `fraction`.
Left out: momentum and weight decay (0.9 and 1e-4 in the code). Ours: `probe="clients"`, and the start x - g_n, which equals the paper's
z_n + h_n - h while all take part (h_n: the client's last update, h: their mean); `form="paper"` has that one.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar, Literal

from airloom.models.params import Params
from airloom.parts.similarity import feature_cka
from airloom.plans import overlap
from airloom.program.here import Here
from airloom.program.method import Method, State, ranged
from airloom.program.node import Node
from airloom.program.ref import Ref


@dataclass(frozen=True, kw_only=True)
class FedEx(Method):
    """Overlapped training with staleness ceilings and participant selection.

    Arguments:
        fraction: share of the present clients that take part in a round; at least one does.
        ceiling: most steps that a client does ahead (5, ours), and at most `local_steps`; 0 is selection without overlap.
        cka_min, first_overlap: overlap begins at this mean similarity (0.7), not before this round (10, authors' code).
        probe: where similarity is measured: by the "clients" on their next batch, against the model that came down (ours), or at the server on the
            "public" pool, against x~ (the code takes test rows). probe_rows: of that batch (ours).
        restart_age, forced_age: rounds after which a client starts anew (2) or must be chosen (20, authors' code).
        loss_power, time_power, preferred_s: a, b and T of the utility (1, 1, 30 s, authors' code).
        smoothing: share of the new model in x~ (0.99, authors' code).
        form: start of a client that has worked ahead: "exact", x - g_n; "paper", z_n + h_n - h; "uncorrected", z_n (ablation).
        local_steps, lr, batch_size: of local SGD (10, 0.01, 64 in the code).
    """

    paper: ClassVar[str] = "Geng et al. 2024, arXiv 2407.00943"

    fraction: float = ranged(0, 1, default=1.0, open_low=True, tune=(0.25, 0.5, 1.0))
    ceiling: int = ranged(0, 100_000, default=5, tune=(2, 5, 8))
    cka_min: float = ranged(-1, 1, default=0.7)
    first_overlap: int = ranged(0, 1_000_000, default=10)
    probe: Literal["clients", "public"] = "clients"
    probe_rows: int = ranged(2, 100_000, default=32)
    restart_age: int = ranged(1, 1_000_000, default=2)
    forced_age: int = ranged(1, 1_000_000, default=20)
    loss_power: float = ranged(0, 10, default=1.0)
    time_power: float = ranged(0, 10, default=1.0)
    preferred_s: float = ranged(0, 1e9, default=30.0, open_low=True)
    smoothing: float = ranged(0, 1, default=0.99, open_low=True)
    form: Literal["exact", "paper", "uncorrected"] = "exact"
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "h": None, "loss": {}, "cka": {}, "age": {}, "S": {}, "is_on": False, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, t = s["x"], s["t"]
        is_on = s["is_on"] or (t > self.first_overlap and fmean([*s["cka"].values()] or [-1.0]) >= self.cka_min)
        N = {n: self.known(server, n, s) for n in server.clients}
        P = self.chosen(N, t, is_on)
        plan = overlap.ahead({n: N[n] for n in P}, self.local_steps, min(self.ceiling, self.local_steps) if is_on else 0)
        out = server.map(self.remaining, P, x, s["h"], is_on, each=[(N[n].age > self.restart_age,) for n in P])
        A = [n for n in P if plan.ahead[n]]
        server.map(self.ahead, A, each=[(plan.ahead[n],) for n in A])  # begins at n when the update is made, while it flies
        mean = server.reduce(out, [N[n].samples for n in P], like={"x": x, "loss": 0.0})
        came = [r for r in out if r.arrived_s is not None]
        new = mean["x"] if came else x
        smooth = self.smoothing * new + (1 - self.smoothing) * x
        cka = {} if is_on else self.similarity(server, smooth, came)
        told = {"is_on": int(is_on), "planned_s": plan.finish_s, "ahead": sum(plan.ahead.values()), "cka": fmean([*cka.values()] or [1.0])}
        server.report(round=t, model=smooth, **told)
        loss = dict(zip([r.place for r in came], server.fetch([r["loss"] for r in came]), strict=True))
        age = {n: s["age"].get(n, 1) + 1 for n in s["age"].keys() | N.keys()} | dict.fromkeys(P, 1)
        memory = {"loss": s["loss"] | loss, "cka": s["cka"] | cka, "age": age, "S": s["S"] | plan.ahead}
        return {"x": new, "h": mean.get("h"), "is_on": is_on, "t": t + 1, **memory}

    def remaining(self, here: Here, x: Params, h: Params | None, is_on: bool, is_new: bool) -> dict[str, Any]:
        S, g = (0, None) if is_new else (here.state.get("S", 0), here.state.get("g"))
        w = x if g is None else self.start(x, g, here.state["x"], here.state["h"], h)
        left = self.local_steps - S
        y = here.train(w, steps=left, lr=self.lr, batch_size=self.batch_size)
        loss = here.log.loss if left else here.state["loss"]
        h_n = (w - y if g is None else w - y + g) if self.form == "paper" else None
        here.state.update({"S": 0, "g": None, "x": y, "h": h_n})
        cka = feature_cka(here, y, x, here.peek(self.probe_rows)) if not is_on and self.probe == "clients" else None
        return {"x": y, "loss": loss, "cka": cka, "h": h_n}

    def ahead(self, here: Here, steps: int) -> None:
        y = here.state["x"]
        z = here.train(y, steps=steps, lr=self.lr, batch_size=self.batch_size)
        here.state.update({"S": steps, "g": y - z, "x": None if self.form == "exact" else z, "loss": here.log.loss})

    def compare(self, here: Here, x: Params, ys: list[Params]) -> list[Any]:
        return [feature_cka(here, y, x, here.public.all()) for y in ys]  # at the server

    def start(self, x: Params, g: Params, z: Params, h_n: Params, h: Params | None) -> Params:
        """Where a client that has worked ahead goes on."""
        if self.form == "exact":
            return x - g
        return z if h is None or self.form == "uncorrected" else z + h_n - h

    def known(self, server: Node, n: str, s: State) -> overlap.Candidate:
        """What the planner knows of a client."""
        price, age = server.estimate(self.remaining, n, s["x"], s["h"], True, True), s["age"].get(n, 1)
        return overlap.Candidate(
            samples=server.network.samples[n],
            loss=s["loss"].get(n),
            age=age,
            done=0 if age > self.restart_age else s["S"].get(n, 0),
            step_s=price.seconds / self.local_steps,
            upload_s=8 * price.bytes_up / server.network.up_bps[n],
        )

    def chosen(self, N: dict[str, overlap.Candidate], t: int, is_on: bool) -> list[str]:
        """The m largest utilities, in the order of the clients; rounds 0 and 1 ask everybody."""
        a, b, T = self.loss_power, self.time_power, None if is_on else self.preferred_s
        U = {n: overlap.utility(c, self.local_steps, preferred_s=T, forced_age=self.forced_age, loss_power=a, time_power=b) for n, c in N.items()}
        m = len(N) if t < 2 else max(1, round(self.fraction * len(N)))
        best = set(sorted(U, key=lambda n: -U[n])[:m])
        return [n for n in N if n in best]

    def similarity(self, server: Node, x: Params, came: list[Ref]) -> dict[str, float]:
        """CKA of each client that answered."""
        if self.probe == "clients":
            found = server.fetch([r["cka"] for r in came])
        else:
            found = server.fetch(server.call(self.compare, server.name, x, [r["x"] for r in came])) if came else []
        return {r.place: float(v) for r, v in zip(came, found, strict=True)}
