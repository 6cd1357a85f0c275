"""Group policy gradient: advantages of sampled responses, their surrogate loss, and dual variables of cost budgets.

For one prompt with G responses, rewards r_i and cost columns c_ki,

    A_i = kappa [ (r_i - mean r) - sum_k lambda_k (c_ki - mean c_k) ],      gradient = (1/G) sum_i A_i grad log pi(y_i | x)

With kappa = G/(G-1) this is the leave-one-out baseline (RLOO), and the gradient is unbiased; kappa = 1 has the same direction and (G-1)/G of the
length; dividing by the group's standard deviation (GRPO) also bends it. A^r - lambda A^c is the centered r - lambda c.

    J = (1/N) sum_i (1/n_i) sum_t m_it min(gamma_it A_it, clip(gamma_it, 1 - eps_low, 1 + eps_high) A_it),   gamma_it = pi(o_it) / pi_old(o_it)

Paper: Z. Shao, P. Wang, Q. Zhu et al., "DeepSeekMath", 2024, arXiv 2402.03300 (GRPO); Z. Liu, C. Chen, W. Li et al., "Understanding R1-Zero-Like
Training", 2025, arXiv 2503.20783 (Dr.GRPO); A. Ahmadian, C. Cremer, M. Gallé et al., "Back to Basics", 2024, arXiv 2402.14740 (RLOO).
Symbols: G responses per prompt, B prompts, K turns, M cost columns, N rows, T tokens, V vocabulary; m mask (1: the policy's own token).
Left out: a KL term; importance ratios of whole sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from airloom.errors import ScenarioError
from airloom.models.batch import Batch
from airloom.parts import named
from airloom.program.method import check_fields, ranged

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, kw_only=True)
class Advantage:
    """Advantages of groups.

    Arguments:
        kappa: "unbiased" is G/(G-1), "one" is 1.
        is_scaled: divide by the group's standard deviation (population) plus `epsilon`.
        has_baseline: False leaves the group's mean in.
        epsilon: of the division (1e-4, unverified).

    >>> RLOO(np.array([[1.0, 0.0]])).tolist(), DR_GRPO(np.array([[1.0, 0.0]])).tolist()
    ([[1.0, -1.0]], [[0.5, -0.5]])
    """

    kappa: Literal["unbiased", "one"] = "unbiased"
    is_scaled: bool = False
    has_baseline: bool = True
    epsilon: float = ranged(0, 1, default=1e-4, open_low=True)

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, rewards: Floats, costs: Floats | None = None, duals: Floats | None = None) -> Floats:
        """Return (B, G) advantages from rewards (B, G), costs (B, G, M) and their dual variables (M,)."""
        r = np.asarray(rewards, np.float64)
        if r.ndim != 2 or (self.has_baseline and r.shape[1] < 2):
            raise ScenarioError(f"Advantage: got rewards of shape {r.shape}; allowed is (prompts, responses) with at least two responses per prompt")
        if costs is not None and duals is not None:
            r = r - np.asarray(costs, np.float64) @ np.asarray(duals, np.float64)
        if not self.has_baseline:
            return r
        A = r - r.mean(1, keepdims=True)
        if self.is_scaled:
            A = A / (r.std(1, keepdims=True) + self.epsilon)
        return A * (r.shape[1] / (r.shape[1] - 1) if self.kappa == "unbiased" else 1.0)


RLOO = Advantage()
DR_GRPO = Advantage(kappa="one")
GRPO = Advantage(kappa="one", is_scaled=True)
REINFORCE = Advantage(has_baseline=False)
ADVANTAGES: Mapping[str, Advantage] = MappingProxyType({"rloo": RLOO, "dr_grpo": DR_GRPO, "grpo": GRPO, "reinforce": REINFORCE})


def advantage(text: str) -> Advantage:
    """Return an advantage by name: `rloo`, `dr_grpo`, `grpo`, `reinforce`, or with fields, `advantage(kappa='one')`.

    >>> advantage("grpo").is_scaled
    True
    """
    return ADVANTAGES[text] if text in ADVANTAGES else named.make("advantage", {"advantage": Advantage}, text)


def turn_advantages(rewards: Floats, reached: NDArray[np.bool_]) -> Floats:
    """Advantages per turn: the return from a turn on, less the mean over the other episodes of the prompt that reached this turn (0 if none did).

    Arguments:
        rewards: (B, G, K) of each turn; those of turns that were not reached do not count.
        reached: (B, G, K), whether an episode got there.

    >>> turn_advantages(np.array([[[1.0, 5.0], [3.0, 0.0]]]), np.array([[[True, True], [True, False]]])).tolist()
    [[[3.0, 5.0], [-3.0, 0.0]]]
    """
    R = np.where(reached, rewards, 0.0)[..., ::-1].cumsum(-1)[..., ::-1] * reached
    others = reached.sum(1, keepdims=True) - reached
    baseline = np.divide(R.sum(1, keepdims=True) - R, others, out=np.zeros_like(R), where=others > 0)
    return np.where(reached, R - baseline, 0.0)


@final
@dataclass(frozen=True, kw_only=True)
class Dual:
    """The multiplier of one budget: it rises while the use is above it, and may answer to the present excess e = use - budget too.

        lambda <- max(0, lambda + lr e);   E <- E + (e - E)/10;   mu = max(0, lambda + gain E) is what the costs are weighed with

    With gain = 0 it is projected ascent: its time average is right, but where the policy follows late it swings. The gain is the proportional term of
    A. Stooke, J. Achiam, P. Abbeel, "Responsive Safety in Reinforcement Learning by PID Lagrangian Methods", 2020, arXiv 2007.03964.

    Arguments:
        first: lambda at the beginning. lr: its step. gain: weight of the recent excess; the mean over ten batches is ours.

    >>> Dual(first=0.5, lr=1.0, gain=2.0).step({}, 0.5), Dual(gain=2.0).mu({"lambda": 1.0, "excess": 0.25})
    ({'lambda': 1.0, 'excess': 0.05}, 1.5)
    """

    first: float = ranged(0, inf, default=0.0)
    lr: float = ranged(0, inf, default=1e-2)
    gain: float = ranged(0, inf, default=0.0)

    def __post_init__(self) -> None:
        check_fields(self)

    def mu(self, kept: Mapping[str, float]) -> float:
        """The weight of costs, from what the last `step` kept."""
        return max(0.0, kept.get("lambda", self.first) + self.gain * kept.get("excess", 0.0))

    def step(self, kept: Mapping[str, float], excess: float) -> dict[str, float]:
        """What to keep after a batch whose mean use over all sampled responses was so far above the budget."""
        recent = kept.get("excess", 0.0)
        return {"lambda": max(0.0, kept.get("lambda", self.first) + self.lr * excess), "excess": recent + 0.1 * (excess - recent)}


@final
@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """The negative of J, as an objective: out (N, T, V) logits, batch.y (N, T, 4) made by `rollout`.

    Arguments:
        eps_low, eps_high: of the clip; inf: none.
        reduction: n_i: "sum" is 1, "mean" the row's own tokens, "constant" is T (Dr.GRPO).
        actions: how many of the first tokens the policy chooses from; None: all.
        entropy: weight of the chances' entropy at own tokens, which keeps a policy from settling before it has seen enough; 0 is the unbiased one.
    """

    eps_low: float = ranged(0, inf, default=inf)
    eps_high: float = ranged(0, inf, default=inf)
    reduction: Literal["sum", "mean", "constant"] = "sum"
    actions: int | None = None
    entropy: float = ranged(0, inf, default=0.0)

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, out: Any, batch: Batch) -> Tensor:
        token, mask, A, old = batch.y.unbind(-1)
        chances = out[..., : self.actions].log_softmax(-1)
        logp = chances.gather(-1, token.long()[..., None])[..., 0]
        gamma = ((logp - old) * mask).exp()
        gain = torch.minimum(gamma * A, gamma.clamp(1.0 - self.eps_low, 1.0 + self.eps_high) * A) * mask
        if self.entropy:
            gain = gain - self.entropy * (chances.exp() * chances).sum(-1) * mask
        n = mask.sum(-1).clamp(min=1.0) if self.reduction == "mean" else float(mask.shape[-1]) if self.reduction == "constant" else 1.0
        return -(gain.sum(-1) / n).mean()


def rollout(x: Tensor, tokens: Tensor, mask: Tensor, advantages: Any, old: Tensor) -> Batch:
    """Pack what was sampled for `Surrogate`: inputs x, the tokens chosen at each place, own tokens, advantages (also (N,)), old log-chances.

    All of shape (N, T); external tokens have mask 0 and no gradient.
    """
    A = torch.as_tensor(np.asarray(advantages, np.float64)).to(old.dtype)
    A = A[:, None].expand_as(old) if A.dim() == 1 else A
    y = torch.stack([tokens.to(old.dtype), mask.to(old.dtype), A, old], -1)
    return Batch(x, y, torch.arange(len(x)), None, 0)


def decisions(x: Tensor, tokens: Tensor, old: Tensor, advantages: Any, taken: Any = None) -> Batch:
    """Pack rows of which only the last token is the policy's: x (N, T); tokens, old, advantages (N,), and whether a row was taken at all (N,)."""
    mask = torch.zeros(x.shape)
    mask[:, -1] = 1.0 if taken is None else torch.as_tensor(taken).float()
    last = torch.zeros(x.shape)
    last[:, -1] = old
    return rollout(x, mask.long() * tokens[:, None], mask, advantages, last)


def draw(logits: Tensor, count: int, uniform: Floats) -> Tensor:
    """Sample `count` tokens per row of logits (B, V) -> (B, count), by the inverse of the distribution function at uniform numbers (B, count)."""
    steps = logits.double().softmax(-1).cumsum(-1)
    return torch.searchsorted(steps, torch.from_numpy(uniform) * steps[:, -1:]).clamp(max=logits.shape[-1] - 1)
