"""Gradient inversion: it reads an input off a gradient and off a step, not off a batch."""

from __future__ import annotations

import pytest
import torch

from airloom.errors import ScenarioError
from airloom.models import zoo
from airloom.models.batch import Batch
from airloom.models.objective import CrossEntropy
from airloom.models.train import grad
from airloom.security.gradient_inversion import invert, leakage
from airloom.tasks.datasets import load


def test_the_input_of_a_single_sample_is_read_off() -> None:
    data, spec = load("digits"), zoo.mlp(inputs=64, hidden=(16,), classes=10)
    for i in range(5):
        x, y = torch.from_numpy(data.x_train[i : i + 1]).flatten(1), torch.from_numpy(data.y_train[i : i + 1])
        g, _ = grad(spec.initial(i), Batch(x, y), objective=CrossEntropy())
        # float32: products of some 1e-7 relative error, divided by the largest bias gradient
        assert torch.allclose(invert(g, "hidden1"), x[0], atol=1e-4)
        assert leakage(invert(-0.1 * g, "hidden1"), x[0]) > 0.999


def test_a_batch_mixes_its_inputs() -> None:
    data, spec = load("digits"), zoo.softmax_regression(inputs=64)
    x, y = torch.from_numpy(data.x_train[:32]).flatten(1), torch.from_numpy(data.y_train[:32])
    g, _ = grad(spec.initial(0), Batch(x, y), objective=CrossEntropy())
    assert max(leakage(invert(g, "out"), row) for row in x) < 0.95


def test_bad_input() -> None:
    spec = zoo.softmax_regression(inputs=4)
    with pytest.raises(ScenarioError, match=r"invert\(layer='hidden1'\)"):
        invert(spec.zeros(), "hidden1")
    assert leakage(torch.ones(3), torch.tensor([1.0, 2.0, 3.0])) == 0.0
