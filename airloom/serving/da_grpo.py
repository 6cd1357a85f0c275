"""DA-GRPO: the device model learns to solve and to ask under a budget of cloud use, which enters the advantage with an adaptive multiplier.

    sample G responses per prompt; one cloud answer per prompt where one asks or all fail
    mu = max(0, lambda + kappa (J - tau));   A^r_i = r_i - mean r;   A^c_i = c_i - mean c, c_i = 1[asks];   A_i = G/(G-1) (A^r_i - mu A^c_i)
    gradient = mean over prompts of (1/G) sum_i A_i grad log pi(y_i | x)
    lambda <- max(0, lambda + eta (J_c - tau)), J_c = mean of c over all responses of the batch;   J <- J + beta (J_c - J)
    tasks come one after another (`stream`): theta and lambda are carried over

Paper: E. Chen, W. Fang, S. Wang et al., "Joint Continual Learning of Local Language Models and Cloud Offloading Decisions with Budget Constraints",
2026, arXiv 2602.00166; read through a third-party summary of version 2, not in the original.
The term kappa (0 in the paper) answers to the use itself, as in A. Stooke, J. Achiam, P. Abbeel, "Responsive Safety in Reinforcement Learning by PID
Lagrangian Methods", 2020, arXiv 2007.03964: lambda alone swings, because the policy follows it late.
Symbols: G `group`, tau `budget`, lambda `lambda` (starts at `dual`), eta `dual_lr`, kappa `dual_gain`, J `use`, beta `recent`, J_c the `ask_rate` of a
point.
Left out: answers of several tokens; a budget of its own for each task.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import numpy as np

from airloom.parts.advantage import RLOO, Advantage, advantage, dual_step
from airloom.parts.asking import Asker, Lesson, Tries
from airloom.program.method import part, ranged


@dataclass(frozen=True, kw_only=True)
class DAGRPO(Asker):
    """Dual-advantage GRPO.

    Arguments:
        solved, assisted, formatted: rewards (1.0, 0.8, 0.1, summary of the paper, uncertain).
        budget: tau, share of responses that may ask (0.3, the same, mathematics).
        dual, dual_lr: first lambda and its step (0.5 and 1e-2, the same); `dual_lr=0` is a fixed penalty.
        dual_gain, recent: kappa (0, the paper's; 0.5 damps the swing) and the weight of a batch in the recent use (0.1); both ours.
        advantage: `rloo` (the paper's); `grpo` divides by the deviation, with a fixed penalty the baseline that breaks the budget.
    """

    paper: ClassVar[str] = "Chen et al. 2026, arXiv 2602.00166"

    solved: float = ranged(0, 100, default=1.0)
    assisted: float = ranged(0, 100, default=0.8)
    formatted: float = ranged(0, 100, default=0.1)
    budget: float = ranged(0, 1, default=0.3)
    dual: float = ranged(0, inf, default=0.5)
    dual_lr: float = ranged(0, inf, default=1e-2)
    dual_gain: float = ranged(0, inf, default=0.0)
    recent: float = ranged(0, 1, default=0.1, open_low=True)
    advantage: Advantage = part(advantage, RLOO)

    def lesson(self, tries: Tries, own: dict[str, Any], rng: np.random.Generator, t: int) -> Lesson:
        lam, use = own.get("lambda", self.dual), own.get("use", self.budget)
        r = np.where(tries.solved, self.solved, np.where(tries.is_number, self.formatted, 0.0))
        r = np.where(tries.asks, np.where(tries.cloud[:, None], self.assisted, 0.0), r)
        c = tries.asks.astype(np.float64)
        mu = max(0.0, lam + self.dual_gain * (use - self.budget))
        A = self.advantage(r, c[..., None], np.array([mu]))  # both of before this batch, so that the estimate is unbiased
        lam = float(dual_step(np.array([lam]), np.array([c.mean()]), np.array([self.budget]), self.dual_lr)[0])
        return Lesson(A, np.ones(len(r), bool), {"lambda": lam, "use": use + self.recent * (float(c.mean()) - use)})
