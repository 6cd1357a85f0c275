"""WHALE-FL: in each round every device trains as much of the width as its utility says, which follows its data, its gradients and its last round.

    W_n = |D_n| sqrt(Fbar_n) (T_set / T_n)^beta_T;   Fbar_n: mean of F_n over a window of past rounds;  1e-5 for sqrt(Fbar_n) before there is one
    u_n = W_n / linear_arg;   u_n >= 0.8: p_n = 1,  >= 0.6: 1/2,  >= 0.4: 1/4,  >= 0.2: 1/8,  else 1/16
    each device n:  x_n = K steps of SGD on x[:p_n] from there, |g| <= clip_norm;  logits of labels that n has no rows of are zero
                    F_n = mean of g^2 over the steps and the values of the slice / batch size, before clipping
    each value k:   x_k <- mean of x_{n,k} over the devices that hold it; classifier rows: over the owners of the label; else x_k stays
    T_n <- seconds of device n's round

Paper: Su, Geng, Li et al., "WHALE-FL: Wireless and Heterogeneity Aware Latency Efficient Federated Learning over Mobile Devices via Adaptive
Subnetwork Scheduling", AAAI 2025, arXiv 2405.00885 (the form with the gradient's square, version 3).
Symbols: x global model, x[:p] its nested slice of width p, p_n `p`, K `local_steps`, F `F`, Fbar `Fbar`, T_n `T`, W `W`.
Left out: Adam, static batch normalization. Ours: F is a mean where the code takes the greatest layer and step; `linear_arg=0`; devices that come
and go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from airloom.errors import ScenarioError
from airloom.models.params import Params
from airloom.parts.width import cut, fit_slice, round_seconds
from airloom.plans.width import Mode, rate, utility, window
from airloom.program.here import Here
from airloom.program.method import Method, State, ranged
from airloom.program.node import Node
from airloom.program.reducer import counted_mean
from airloom.program.ref import Ref


@dataclass(frozen=True, kw_only=True)
class WhaleFL(Method):
    """Adaptive width scheduling.

    Arguments:
        linear_arg: utility of the whole model (50, authors' code, fits 3,000 rows each); 0 takes `calibration` times the largest W of the first
            complete window (ours).
        T_set, beta_T: time scale in seconds (20) and exponent (1) of the last round (authors' code).
        delay, onepoint: lag and half-width of the window, in rounds (5-10 and 0-5, authors' code).
        levels: widths 1, 1/2, ..., 1/2^(levels-1) (5, authors' code).
        mode: "exact", or "paper": the code's window (only the latest F counts, divided inside the loop), and T_n with the whole model's upload.
        is_masked, is_scaled: masked cross-entropy and scaler of HeteroFL.
        clip_norm: largest norm of a gradient (1, authors' code).
        local_steps, lr, batch_size: of local SGD (10 steps, authors' code).
    """

    paper: ClassVar[str] = "Su et al. 2025, arXiv 2405.00885"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    linear_arg: float = ranged(0, 1e12, default=0.0)
    calibration: float = ranged(0, 1e6, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    T_set: float = ranged(0, 1e9, default=20.0, open_low=True)
    beta_T: float = ranged(0, 10, default=1.0, tune=(0.0, 0.5, 1.0))
    delay: int = ranged(0, 1_000, default=5, tune=(0, 2, 5))
    onepoint: int = ranged(0, 1_000, default=0)
    levels: int = ranged(1, 10, default=5)
    mode: Mode = "exact"
    is_masked: bool = True
    is_scaled: bool = True
    clip_norm: float = ranged(0, 1e9, default=1.0, open_low=True)
    local_steps: int = ranged(1, 100_000, default=10, tune=(5, 20, 80))
    lr: float = ranged(0, 100, default=0.1, open_low=True, tune=(0.03, 0.1, 0.3))
    batch_size: int = ranged(1, 1_000_000, default=16)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.onepoint > self.delay + 1:
            raise ScenarioError(
                f"WhaleFL(delay={self.delay}, onepoint={self.onepoint}): allowed is onepoint <= delay + 1; the window would reach past the last round"
            )

    def init(self, server: Node, x: Params) -> State:
        return {"x": x, "F": [], "T": {}, "linear_arg": self.linear_arg, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x, N, samples, t0 = s["x"], server.clients, server.network.samples, server.now_s
        Fbar = window(s["F"], delay=self.delay, onepoint=self.onepoint, mode=self.mode)
        W = {n: utility(samples[n], Fbar.get(n), s["T"].get(n, self.T_set), scale_s=self.T_set, power=self.beta_T) for n in N}
        top = s["linear_arg"] or self.calibration * max([W[n] for n in N if n in Fbar], default=0.0)
        p = {n: rate(W[n] / top if top else 0.0, self.levels) for n in N}
        sub = {n: cut(x, p[n], is_scaled=self.is_scaled) for n in N}
        planned_s = max([round_seconds(server, self.client, n, sub[n]) for n in N], default=0.0)
        out = server.map(self.client, N, each=[(sub[n],) for n in N])
        server.first(out, len(out))  # all that come, with F in the same message
        came = [r for r in out if r.arrived_s is not None]
        x = server.reduce([r["x"] for r in came], over=counted_mean(into=x))
        F = dict(zip([r.place for r in came], server.fetch([r["F"] for r in came]), strict=True))
        took = {r.place: spans(r, t0) for r in came}
        T = {n: self.seconds(*took[n], part=sub[n].nbytes / x.nbytes) for n in took}
        server.report(round=s["t"], model=x, planned_s=planned_s, **self.told(list(p.values()), list(Fbar.values()), list(took.values())))
        keep = self.delay + self.onepoint + 2
        history = [*s["F"], (s["F"][-1] if s["F"] else {}) | F][-keep:]  # of devices that did not answer: the last that is known
        return {"x": x, "F": history, "T": s["T"] | T, "linear_arg": top, "t": s["t"] + 1}

    def client(self, here: Here, x: Params) -> dict[str, Any]:
        return fit_slice(here, x, steps=self.local_steps, lr=self.lr, batch_size=self.batch_size, clip_norm=self.clip_norm, is_masked=self.is_masked)

    def seconds(self, down_s: float, compute_s: float, up_s: float, part: float) -> float:
        """T_n: what the round took; in the code, compute and the upload that the whole model would have had."""
        return compute_s + up_s / part if self.mode == "paper" else down_s + compute_s + up_s

    def told(self, p: list[float], Fbar: list[float], took: list[tuple[float, float, float]]) -> dict[str, Any]:
        """Spread of widths and of Fbar, and where the seconds of the last answer went."""
        _, compute_s, up_s = max(took, key=sum, default=(0.0, 0.0, 0.0))
        widths = {"rate": sum(p) / max(len(p), 1), "narrowest": min(p, default=0.0), "widest": max(p, default=0.0)}
        return {**widths, "F_low": min(Fbar, default=0.0), "F_high": max(Fbar, default=0.0), "compute_s": compute_s, "upload_s": up_s}


def spans(r: Ref, t0: float) -> tuple[float, float, float]:
    """Seconds of the download (with waiting), of computing and of the upload of an answer that came."""
    started, made, arrived = (t0 if t is None else t for t in (r.started_s, r.made_s, r.arrived_s))
    return started - t0, made - started, arrived - made
