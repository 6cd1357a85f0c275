"""DA-GRPO: the device model learns to solve and to ask under a budget of cloud use, which enters the advantage with an adaptive multiplier.

    sample G responses per prompt; one cloud answer per prompt where one asks or all fail
    A^r_i = r_i - mean r;   A^c_i = c_i - mean c, c_i = 1[asks];   A_i = G/(G-1) (A^r_i - mu A^c_i), mu = lambda (in the paper)
    gradient = mean over prompts of (1/G) sum_i A_i grad log pi(y_i | x)
    lambda <- max(0, lambda + eta (J_c - tau)), J_c = mean of c over all responses of the batch
    tasks come one after another (`stream`): theta and lambda are carried over

Paper: E. Chen, W. Fang, S. Wang et al., "Joint Continual Learning of Local Language Models and Cloud Offloading Decisions with Budget Constraints",
2026, arXiv 2602.00166; read through a third-party summary of version 2, not in the original.
Symbols: G `group`, tau `budget`, lambda `lambda` (starts at `dual`), eta `dual_lr`, mu see `airloom.parts.advantage.Dual` with `dual_gain`, J_c the
`ask_rate` of a point.
Left out: answers of several tokens; a budget of its own for each task.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import numpy as np

from airloom.parts.advantage import RLOO, Advantage, Dual, advantage
from airloom.parts.asking import Asker, Lesson, Tries
from airloom.program.method import part, ranged


@dataclass(frozen=True, kw_only=True)
class DAGRPO(Asker):
    """Dual-advantage GRPO.

    Arguments:
        solved, assisted, formatted: rewards (1.0, 0.8, 0.1, summary of the paper, uncertain).
        budget: tau, share of responses that may ask (0.3, the same, mathematics).
        dual, dual_lr: first lambda and its step (0.5 and 1e-2, the same); `dual_lr=0` is a fixed penalty.
        dual_gain: weight of the recent excess in mu (0, the paper's: mu = lambda; 0.5 damps the swing, ours).
        advantage: `rloo` (the paper's); `grpo` divides by the deviation, with a fixed penalty the baseline that breaks the budget.
    """

    paper: ClassVar[str] = "Chen et al. 2026, arXiv 2602.00166"

    solved: float = ranged(0, 100, default=1.0)
    assisted: float = ranged(0, 100, default=0.8)
    formatted: float = ranged(0, 100, default=0.1)
    budget: float = ranged(0, 1, default=0.3)
    dual: float = ranged(0, inf, default=0.5)
    dual_lr: float = ranged(0, inf, default=1e-2)
    dual_gain: float = ranged(0, inf, default=0.0, is_neutral=True)
    advantage: Advantage = part(advantage, RLOO)

    def lesson(self, tries: Tries, own: dict[str, Any], rng: np.random.Generator, t: int) -> Lesson:
        dual = Dual(first=self.dual, lr=self.dual_lr, gain=self.dual_gain)
        r = np.where(tries.solved, self.solved, np.where(tries.is_number, self.formatted, 0.0))
        r = np.where(tries.asks, np.where(tries.cloud[:, None], self.assisted, 0.0), r)
        c = tries.asks.astype(np.float64)
        A = self.advantage(r, c[..., None], np.array([dual.mu(own)]))  # of before this batch, so that the estimate is unbiased
        return Lesson(A, np.ones(len(r), bool), dual.step(own, float(c.mean()) - self.budget))
