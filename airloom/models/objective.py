"""Objectives: frozen callables `objective(out, batch) -> scalar`.

An objective may also return a dict of scalars: the loss is their sum, and each is logged under its name. Logits: [B, C], for sequences [B, T, C].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeAlias, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor

from airloom.errors import ScenarioError
from airloom.models.batch import Batch
from airloom.models.params import Params

Loss: TypeAlias = Tensor | Mapping[str, Tensor]
Objective: TypeAlias = Callable[[Any, Batch], Loss]


def total_loss(loss: Loss) -> Tensor:
    """Return the scalar to descend: the loss, or the sum of its parts in their order."""
    if isinstance(loss, Tensor):
        return loss
    parts = list(loss.values())
    if not parts:
        raise ScenarioError("objective: got an empty dict of losses; allowed: a scalar, or a dict with at least one scalar")
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def signature(objective: Objective) -> object:
    """Return what the price of an objective depends on: text for a dataclass, else the function itself.

    >>> signature(CrossEntropy(smoothing=0.1))
    'CrossEntropy(labels=None, smoothing=0.1)'
    """
    if is_dataclass(objective) and not isinstance(objective, type):
        return f"{type(objective).__qualname__}({', '.join(f'{f.name}={_field(getattr(objective, f.name))}' for f in fields(objective))})"
    return objective


def _field(value: object) -> object:
    if isinstance(value, Params):
        return f"Params[{value.spec.form}]"
    if isinstance(value, tuple | list):
        return [_field(v) for v in value]
    if is_dataclass(value) or callable(value):
        return signature(cast(Objective, value))
    return repr(value)


def without_values(objective: Objective) -> Objective:
    """Return the objective with its Params replaced by shapes, for a dry run."""
    if is_dataclass(objective) and not isinstance(objective, type):
        return cast(Objective, _meta(objective))
    return objective


def _meta(value: Any) -> Any:
    if isinstance(value, Params):
        return value.to_meta()
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, tuple):
        return tuple(_meta(v) for v in value)
    if is_dataclass(value) and not isinstance(value, type):
        new = {f.name: _meta(getattr(value, f.name)) for f in fields(value) if f.init}
        return replace(value, **new) if any(new[k] is not getattr(value, k) for k in new) else value
    return value


class Additive(ABC):
    """Objectives add up and scale: `CrossEntropy() + 0.1 * other`."""

    @abstractmethod
    def __call__(self, out: Any, batch: Batch) -> Loss: ...

    @property
    def signature(self) -> str:
        """Text that names the objective and its settings: equal text, equal price."""
        return str(signature(self))

    @final
    def __add__(self, other: Objective) -> WeightedSum:
        return WeightedSum(terms=(*_terms(self), *_terms(other)))

    @final
    def __mul__(self, factor: float) -> WeightedSum:
        return WeightedSum(terms=tuple((factor * k, f) for k, f in _terms(self)))

    __rmul__ = __mul__


def _terms(objective: Objective) -> tuple[tuple[float, Objective], ...]:
    return objective.terms if isinstance(objective, WeightedSum) else ((1.0, objective),)


@final
@dataclass(frozen=True, kw_only=True)
class WeightedSum(Additive):
    """The sum of `factor * objective`; made by `+` and `*`."""

    terms: tuple[tuple[float, Objective], ...]

    def __call__(self, out: Any, batch: Batch) -> Tensor:
        total = None
        for k, f in self.terms:
            value = total_loss(f(out, batch))
            value = value if k == 1.0 else k * value
            total = value if total is None else total + value
        return cast(Tensor, total)


def _average(loss: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean over all entries, samples weighted if weights are given."""
    if weight is None:
        return loss.mean()
    per_sample = loss.flatten(1).mean(1) if loss.dim() > 1 else loss
    return (per_sample * weight).sum() / weight.sum()


@final
@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Additive):
    """Mean cross-entropy of logits [B, C] against classes [B].

    Arguments
    ---------
    labels: the classes to choose among (those a client owns); the other logits are left out of the softmax, their rows get no gradient. None for all.
        A sample of another class is an error.
    smoothing: mass spread evenly over the classes, in [0, 1).
    """

    labels: tuple[int, ...] | None = None
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.smoothing < 1.0:
            raise ScenarioError(f"CrossEntropy.smoothing: got {self.smoothing}; allowed: [0, 1)")
        if self.labels is not None:
            labels = tuple(sorted({int(c) for c in self.labels}))
            if not labels or labels[0] < 0:
                raise ScenarioError(f"CrossEntropy.labels: got {self.labels}; allowed: at least one class number >= 0, or None")
            object.__setattr__(self, "labels", labels)

    def __call__(self, out: Tensor, batch: Batch) -> Tensor:
        y = batch.y
        if self.labels is not None:
            own = torch.tensor(self.labels, device="cpu" if out.is_meta else out.device)
            place = torch.full((out.shape[1],), out.shape[1], device=own.device).index_put((own,), torch.arange(len(self.labels), device=own.device))
            out, y = out.index_select(1, own.to(out.device)), place.to(out.device)[y]
        if batch.weight is None:
            return F.cross_entropy(out, y, label_smoothing=self.smoothing)
        return _average(F.cross_entropy(out, y, label_smoothing=self.smoothing, reduction="none"), batch.weight)


@final
@dataclass(frozen=True, kw_only=True)
class MaskedCrossEntropy(Additive):
    """Mean cross-entropy of logits [B, C] in which those of labels that a client does not own are set to zero: their rows get no gradient.

    Unlike `CrossEntropy(labels=...)`, own logits still compete with zeros, so that those of different clients stay comparable.

    Paper: Diao, Ding, Tarokh, "HeteroFL", ICLR 2021, arXiv 2010.01264, section 3 (masked cross-entropy).

    >>> round(MaskedCrossEntropy(labels=(0,))(torch.tensor([[0.0, 9.0]]), Batch(torch.zeros(1, 1), torch.tensor([0]))).item(), 4)     # log 2
    0.6931
    """

    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", CrossEntropy(labels=self.labels).labels)

    def __call__(self, out: Tensor, batch: Batch) -> Tensor:
        own = torch.zeros(out.shape[1], dtype=torch.bool)
        own[list(self.labels)] = True
        masked = out.masked_fill(~own.to(out.device), 0.0)
        if batch.weight is None:
            return F.cross_entropy(masked, batch.y)
        return _average(F.cross_entropy(masked, batch.y, reduction="none"), batch.weight)


@final
@dataclass(frozen=True, kw_only=True)
class NextToken(Additive):
    """Mean cross-entropy of logits [B, T, C] against the next tokens [B, T]; targets equal to `ignore` do not count."""

    ignore: int = -100

    def __call__(self, out: Tensor, batch: Batch) -> Tensor:
        if batch.weight is None:
            return F.cross_entropy(out.flatten(0, 1), batch.y.flatten(), ignore_index=self.ignore)
        return _average(F.cross_entropy(out.transpose(1, 2), batch.y, ignore_index=self.ignore, reduction="none"), batch.weight)


@final
@dataclass(frozen=True, kw_only=True)
class MeanSquaredError(Additive):
    """Mean of `(out - y)^2` over all entries; `scale=0.5` gives half of it."""

    scale: float = 1.0

    def __call__(self, out: Tensor, batch: Batch) -> Tensor:
        y = batch.y.to(out.dtype)
        if out.shape != y.shape:
            raise ScenarioError(f"MeanSquaredError: got output {tuple(out.shape)} and target {tuple(y.shape)}; allowed: equal shapes")
        loss = _average((out - y).square(), batch.weight)
        return loss if self.scale == 1.0 else self.scale * loss
