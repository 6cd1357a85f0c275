"""GAPG: the device model is trained to solve, and to ask the cloud at the end of an attempt that it does not trust.

    sample G responses per prompt; one cloud answer per prompt where one asks or all fail
    r = a_a + a_f solved here | a_c asked and the cloud is right | a_f a wrong number | 0
    D1 = prompts with a response solved here;  D2 = prompts where none is and the cloud is right, cut at random to |D2| <= rho |D1|
    gradient = mean over D1 u D2 of (1/(G-1)) sum_i (r_i - mean r) grad log pi(y_i | x)

Paper: W. Fang, D.-J. Han, L. Yuan et al., "Collaborative Device-Cloud LLM Inference through Reinforcement Learning", 2025, arXiv 2509.24050,
Proposition 3.1; read through third-party notes, not in the original.
Symbols: G `group`, a_a `solved`, a_c `assisted`, a_f `formatted`, rho `ratio` (cloud : local; a share of rho/(1 + rho)), pi_theta the device model.
Left out: answers of several tokens; the external router and the other tuned baselines (DeBERTa).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from airloom.parts.advantage import RLOO, Advantage, advantage
from airloom.parts.asking import Asker, Flags, Lesson, Tries
from airloom.program.method import part, ranged


@dataclass(frozen=True, kw_only=True)
class GAPG(Asker):
    """Group-adaptive policy gradient.

    Arguments:
        solved, assisted, formatted: rewards (2.0, 0.5, 0.2, notes about the paper's Countdown runs).
        ratio: rho, most prompts of D2 per prompt of D1 (0.3, the same notes); no budget, see the page.
        is_filtered: False keeps every prompt: collaboration-aware tuning without the filter.
        advantage: `rloo` (the paper's), `dr_grpo`, `grpo`, `reinforce`.
    """

    paper: ClassVar[str] = "Fang et al. 2025, arXiv 2509.24050"

    solved: float = ranged(0, 100, default=2.0)
    assisted: float = ranged(0, 100, default=0.5)
    formatted: float = ranged(0, 100, default=0.2)
    ratio: float = ranged(0, 100, default=0.3)
    is_filtered: bool = True
    advantage: Advantage = part(advantage, RLOO)

    def lesson(self, tries: Tries, own: dict[str, Any], rng: np.random.Generator, t: int) -> Lesson:
        keep = self.filter(tries, rng) if self.is_filtered else np.ones(len(tries.cloud), bool)
        return Lesson(self.advantage(self.rewards(tries)), keep, own)

    def rewards(self, tries: Tries) -> NDArray[np.float64]:
        r = np.where(tries.solved, self.solved, 0.0) + np.where(tries.is_number, self.formatted, 0.0)
        return np.where(tries.asks, np.where(tries.cloud[:, None], self.assisted, 0.0), r)  # nothing for the format of asking

    def filter(self, tries: Tries, rng: np.random.Generator) -> Flags:
        keep: Flags = np.array(tries.solved.any(1))  # D1
        D2 = np.flatnonzero(~keep & tries.cloud)
        keep[rng.permutation(D2)[: int(self.ratio * keep.sum())]] = True
        return keep

    @property
    def share(self) -> float:
        """The share of cloud answers that `ratio` stands for."""
        return self.ratio / (1.0 + self.ratio)
