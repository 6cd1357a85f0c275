"""Tequila: ternary weights whose dead ones are reused as a bias; the server trains on pooled data, then every client gets two bits per weight.

    pretrain:  w <- w - eta dL/dw                                     (full precision, `pretrain_rounds` rounds)
    train:     y = x A^T + C,  A = alpha T(w),  C_j = lambda sum of w_ji where T_ji = 0;   w <- w - eta (dL/dA + lambda dL/dC where dead)
    finish:    T as 2-bit codes, alpha per group, bias + C:  exact, and a ternary product plus a bias from then on

Paper: H. Huang, D. Wu, R. Cen et al., "Tequila: Trapping-free Ternary Quantization for Large Language Models", 2025, OpenReview 9CZzD5LWdy.
Symbols: lambda `bias_strength`, G `group`, eta `lr`, D `pool`; the layers are in `airloom.models.quantize`, the pool in `airloom.parts.pooled`.
Left out: learnable lambda; the packed formats below two bits; quantized activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch

from airloom.errors import ScenarioError
from airloom.models.batch import Batch
from airloom.models.params import Params
from airloom.models.quantize import RULES, download, merged, quantized
from airloom.models.train import AdamW
from airloom.parts.pooled import Data, Pooled
from airloom.program.here import Here
from airloom.program.method import State, ranged
from airloom.program.node import Node


@dataclass(frozen=True, kw_only=True)
class Tequila(Pooled):
    """Ternary training.

    Arguments:
        rule: "tequila"; "absmean" (the same without the bias), "twn" (other threshold and scale), or "fp" (full precision).
        bias_strength: lambda, 1e-3 (authors' code). group: G, 128 (authors' code); layers that it does not divide take a power of two.
        pretrain_rounds: full precision, before quantization begins. rounds: of quantized training. Both phases have 5 % warm-up, 60 % at `lr` and
            35 % linear decay to 0.1 lr (ours, for small runs).
        local_steps: steps per round. lr: of AdamW. batch_size: samples per step.
    """

    paper: ClassVar[str] = "Huang et al. 2025, OpenReview 9CZzD5LWdy"

    rule: str = "tequila"
    bias_strength: float = ranged(0, inf, default=1e-3)
    group: int = ranged(1, inf, default=128)
    pretrain_rounds: int = ranged(0, inf, default=4)
    rounds: int = ranged(1, inf, default=8)
    local_steps: int = ranged(1, inf, default=50)
    lr: float = ranged(0, 100, default=1e-3, open_low=True, tune=(3e-4, 1e-3, 3e-3))
    batch_size: int = ranged(1, inf, default=32)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule not in ("fp", *RULES):
            raise ScenarioError(f"Tequila.rule: got {self.rule!r}; allowed are fp, {', '.join(RULES)}")

    def judged(self, x: Params) -> Params:
        return x if self.rule == "fp" else merged(self.ternary(x), x.spec)

    def done(self, server: Node, s: State) -> bool:
        return s["t"] >= self.pretrain_rounds + self.rounds

    def finish(self, server: Node, s: State) -> State:
        packed = server.call(self.pack, server.name, s["x"])
        got = server.map(self.keep, server.clients, packed)
        server.first(got, len(got))
        return s

    def train(self, here: Here, x: Params, pool: Data, t: int) -> Params:
        w = x if t < self.pretrain_rounds else self.ternary(x)
        how = {"steps": self.local_steps, "lr": self.rate(t), "batch_size": self.batch_size, "optimizer": AdamW(weight_decay=0.0)}
        return Params(x.spec, here.train(w, data=Batch(pool["x"], pool["y"]), **how).flat)

    def pack(self, here: Here, x: Params) -> dict[str, torch.Tensor]:
        here.cost(flops=3.0 * len(x))  # one pass for the scales, one for the codes, one for the bias
        return x.named() if self.rule == "fp" else download(self.ternary(x))

    def keep(self, here: Here, packed: dict[str, torch.Tensor]) -> None:
        here.state["packed"] = packed

    def ternary(self, x: Params) -> Params:
        """The same values as a model that computes with their ternary rounding."""
        if self.rule == "fp":
            return x
        spec = quantized(x.spec, group=self.group, rule=self.rule, bias_strength=self.bias_strength)  # type: ignore[arg-type]
        return Params(spec, x.flat)

    def rate(self, t: int) -> float:
        """Warm up, stay, decay, in each of the two phases."""
        first, length = (0, self.pretrain_rounds) if t < self.pretrain_rounds else (self.pretrain_rounds, self.rounds)
        at = min(1.0, (t - first + 0.5) / length)
        return self.lr * min(1.0, at / 0.05, 0.1 + 0.9 * (1.0 - at) / 0.35)
