"""Metrics by hand."""

from __future__ import annotations

import math

import pytest
import torch

from airloom.errors import ScenarioError
from airloom.tasks.metrics import METRICS, default_metrics, metric


def test_accuracy_and_loss_per_row() -> None:
    out = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    y = torch.tensor([0, 1])
    # Row one: right, loss log(1 + e^-2). Row two: a tie, arg-max takes class 0, loss log 2.
    assert METRICS["accuracy"].rows(out, y).tolist() == [1.0, 0.0]
    assert METRICS["loss"].rows(out, y).tolist() == pytest.approx([math.log1p(math.exp(-2)), math.log(2)])


def test_text_rows_are_means_over_tokens() -> None:
    out = torch.zeros(1, 2, 4)
    out[0, 0, 3] = 50.0
    y = torch.tensor([[3, 1]])
    # Token one: certain and right, loss 0. Token two: uniform over 4, loss log 4, arg-max 0 is wrong.
    assert METRICS["accuracy"].rows(out, y).tolist() == [0.5]
    assert METRICS["loss"].rows(out, y).tolist() == pytest.approx([math.log(4) / 2])
    assert METRICS["perplexity"].finish(math.log(4) / 2) == pytest.approx(2.0)
    assert METRICS["perplexity"].finish(1e4) == math.inf


def test_squared_error_takes_vectors_and_single_values() -> None:
    assert METRICS["mse"].rows(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 0.0])).tolist() == [1.0, 9.0]
    assert METRICS["mse"].rows(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])).tolist() == [2.5]


def test_directions_and_errors() -> None:
    assert metric("accuracy").is_better(0.9, 0.8) and not metric("accuracy").is_better(0.8, 0.8)
    assert metric("loss").is_better(0.1, 0.2)
    assert default_metrics("next_token") == ("loss", "perplexity", "accuracy")
    with pytest.raises(ScenarioError, match="metric 'acc': allowed are accuracy, loss, perplexity, mse"):
        metric("acc")
    with pytest.raises(ScenarioError, match="of a regression task: allowed are mse"):
        metric("accuracy", "regression")
