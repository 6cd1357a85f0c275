"""Learning from another model's outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch.nn.functional as F
from torch import Tensor

from airloom.errors import ScenarioError
from airloom.models.batch import Batch
from airloom.models.objective import Additive
from airloom.models.params import Params
from airloom.models.train import forward


@final
@dataclass(frozen=True, kw_only=True)
class KLTo(Additive):
    """Mean over samples of `T^2 KL(softmax(teacher / T) || softmax(out / T))`; for a method's text: `CrossEntropy() + 0.5 * KLTo(teacher=x)`.

    Paper: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531, section 2 (the factor T^2 keeps
    gradients of one size).

    Arguments
    ---------
    teacher: values of a model that takes the same inputs; it runs in evaluation mode, and its forward pass is priced.
    temperature: T > 0.
    """

    teacher: Params
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ScenarioError(f"KLTo(temperature={self.temperature}): allowed: > 0")

    def __call__(self, out: Any, batch: Batch) -> Tensor:
        t = self.temperature
        want = F.log_softmax(forward(self.teacher, batch) / t, dim=-1)
        have = F.log_softmax(out / t, dim=-1)
        per_entry = (want.exp() * (want - have)).sum(-1) * t**2
        if batch.weight is None:
            return per_entry.mean()
        return (per_entry.flatten(1).mean(1) if per_entry.dim() > 1 else per_entry).mul(batch.weight).sum() / batch.weight.sum()
