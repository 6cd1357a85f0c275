"""Metrics: values per row, so that a whole part and the test rows of each device come from one forward pass.

A metric maps outputs and labels to one number per row; its value over rows is `finish(mean of the numbers)`. Shapes: N rows, K classes, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from airloom.errors import ScenarioError


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A measure of a model on rows.

    Parameters
    ----------
    name : key in records.
    direction : "up" if larger is better, else "down".
    rows : (outputs, y) -> (N,) float tensor, one number per row.
    finish : turns the mean of these numbers into the metric.
    kinds : kinds of data set it applies to.

    Examples
    --------
    >>> METRICS["accuracy"].is_better(0.9, 0.8), METRICS["loss"].is_better(0.9, 0.8)
    (True, False)
    """

    name: str
    direction: Literal["up", "down"]
    rows: Callable[[Tensor, Tensor], Tensor]
    kinds: tuple[str, ...]
    finish: Callable[[float], float] = float

    def is_better(self, a: float, b: float) -> bool:
        """Return whether value `a` is better than value `b`."""
        return a > b if self.direction == "up" else a < b


IGNORE = -100  # a label that does not count: padding, and what need not be predicted (as in torch's cross entropy)


def _accuracy(out: Tensor, y: Tensor) -> Tensor:
    """Share of right arg-max decisions of a row: out (N, K) or (N, T, K)."""
    return _mean_of_counted((out.argmax(-1) == y).to(torch.float32), y)


def _cross_entropy(out: Tensor, y: Tensor) -> Tensor:
    """Mean cross entropy of a row, nats: out (N, K) or (N, T, K)."""
    loss = functional.cross_entropy(out.reshape(-1, out.shape[-1]), y.reshape(-1), reduction="none", ignore_index=IGNORE)
    return _mean_of_counted(loss, y)


def _mean_of_counted(values: Tensor, y: Tensor) -> Tensor:
    """Mean of a row over the labels that count; every row has one."""
    per_row, counts = values.reshape(len(y), -1), (y != IGNORE).reshape(len(y), -1)
    if counts.all():
        return per_row.mean(1)
    return (per_row * counts).sum(1) / counts.sum(1)


def _squared_error(out: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of a row; out and y have the same number of values per row."""
    return (out.reshape(len(y), -1) - y.reshape(len(y), -1)).square().mean(1)


def _exp(value: float) -> float:
    """Return e^value, infinity instead of an overflow."""
    return math.exp(value) if value < 700 else math.inf


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "accuracy": Metric(name="accuracy", direction="up", rows=_accuracy, kinds=("classification", "next_token")),
        "loss": Metric(name="loss", direction="down", rows=_cross_entropy, kinds=("classification", "next_token")),
        "perplexity": Metric(name="perplexity", direction="down", rows=_cross_entropy, kinds=("next_token",), finish=_exp),
        "mse": Metric(name="mse", direction="down", rows=_squared_error, kinds=("regression",)),
    }
)


def metric(name: str, kind: str | None = None) -> Metric:
    """Return a metric by name, and check that it applies to a kind of data.

    Raises
    ------
    ScenarioError : an unknown name, or one that does not apply; lists what is allowed.

    Examples
    --------
    >>> metric("mse").direction
    'down'
    """
    allowed = [key for key, value in METRICS.items() if kind is None or kind in value.kinds]
    if name not in allowed:
        raise ScenarioError(f"metric {name!r}{f' of a {kind} task' if kind else ''}: allowed are {', '.join(allowed)}")
    return METRICS[name]


def default_metrics(kind: str) -> tuple[str, ...]:
    """Return the metrics that a kind of data is evaluated with, the headline first.

    >>> default_metrics("classification")
    ('accuracy', 'loss')
    """
    return {"classification": ("accuracy", "loss"), "next_token": ("loss", "perplexity", "accuracy"), "regression": ("mse",)}[kind]
