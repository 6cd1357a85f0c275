from __future__ import annotations

from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from airloom.errors import ScenarioError
from airloom.models.module import ModelSpec, model
from airloom.models.params import Params
from airloom.parts.optimizer import ServerAdagrad, ServerAdam, ServerOptimizer, ServerSGD, ServerYogi


def spec_of(values: int) -> ModelSpec:
    return model(lambda: nn.Linear(values, 1, bias=False), dtype=torch.float64)


SPEC = spec_of(2)


def params(*values: float) -> Params:
    return Params(SPEC, torch.tensor(values, dtype=torch.float64))


def values(x: Params) -> list[float]:
    return x.flat.tolist()


def test_plain_sgd_is_federated_averaging_bit_for_bit() -> None:
    x, mean = params(0.3, -1.7), params(0.1, 5.0)
    g = x - mean
    y, state = ServerSGD().step(x, g, None)
    assert values(y) == values(x - g)
    assert state is None


def test_sgd_with_momentum_by_hand() -> None:
    # v1 = g1 = (1, -2); x1 = (10, 10) - 0.5 v1 = (9.5, 11); v2 = 0.5 v1 + g2 = (0.5 + 2, -1 + 0); x2 = x1 - 0.5 v2
    optimizer = ServerSGD(lr=0.5, momentum=0.5)
    x, state = optimizer.step(params(10, 10), params(1, -2), None)
    assert values(x) == [9.5, 11.0]
    x, state = optimizer.step(x, params(2, 0), state)
    assert values(x) == [9.5 - 1.25, 11.0 + 0.5]
    assert state is not None
    assert values(state["v"]) == [2.5, -1.0]


def test_adam_by_hand() -> None:
    # tau = 0.5: v0 = 0.25. g = 2: m = 0.2, v = 0.99 * 0.25 + 0.01 * 4 = 0.2875, no correction for the start
    # then g = -1: m = 0.9 * 0.2 - 0.1 = 0.08, v = 0.99 * 0.2875 + 0.01 = 0.294625
    optimizer = ServerAdam(lr=0.1, tau=0.5)
    x, state = optimizer.step(params(1, 1), params(2, 2), None)
    first = 1 - 0.1 * 0.2 / (sqrt(0.2875) + 0.5)
    assert values(x) == pytest.approx([first, first], rel=1e-14)
    x, state = optimizer.step(x, params(-1, -1), state)
    second = first - 0.1 * 0.08 / (sqrt(0.294625) + 0.5)
    assert values(x) == pytest.approx([second, second], rel=1e-14)


def test_yogi_by_hand() -> None:
    # v0 = 0.25. g = (2, 0.1): g^2 = (4, 0.01); sign(v - g^2) = (-1, +1): v = (0.25 + 0.04, 0.25 - 0.0001)
    optimizer = ServerYogi(lr=0.1, tau=0.5)
    x, state = optimizer.step(params(0, 0), params(2, 0.1), None)
    assert state is not None
    assert values(state["v"]) == pytest.approx([0.29, 0.2499], rel=1e-14)
    assert values(x) == pytest.approx([-0.1 * 0.2 / (sqrt(0.29) + 0.5), -0.1 * 0.01 / (sqrt(0.2499) + 0.5)], rel=1e-14)


def test_adagrad_by_hand() -> None:
    # v0 = 0.25. g = 2: v = 4.25; then g = -1: v = 5.25
    optimizer = ServerAdagrad(lr=0.1, tau=0.5)
    x, state = optimizer.step(params(1, 1), params(2, 2), None)
    first = 1 - 0.1 * 2 / (sqrt(4.25) + 0.5)
    assert values(x) == pytest.approx([first, first], rel=1e-14)
    x, state = optimizer.step(x, params(-1, -1), state)
    second = first + 0.1 / (sqrt(5.25) + 0.5)
    assert values(x) == pytest.approx([second, second], rel=1e-14)


@pytest.mark.parametrize("optimizer", [ServerSGD(lr=0.3, momentum=0.5), ServerAdam(lr=0.1), ServerYogi(lr=0.1), ServerAdagrad(lr=0.5)])
def test_minimizes_a_quadratic_without_changing_its_arguments(optimizer: ServerOptimizer) -> None:
    x, goal, state = params(3, -2), params(1, 1), None
    for _ in range(400):
        before = values(x)
        y, state = optimizer.step(x, x - goal, state)
        assert values(x) == before
        x = y
    assert (x - goal).norm() < 0.05


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30))
def test_second_moments_stay_positive(gradients: list[float]) -> None:
    for optimizer in (ServerAdam(lr=0.1), ServerYogi(lr=0.1)):
        x, state = params(0, 0), None
        for g in gradients:
            x, state = optimizer.step(x, params(g, -g), state)
            assert state is not None
            assert (state["v"].flat > 0).all()
            assert torch.isfinite(x.flat).all()


@pytest.mark.parametrize(
    "optimizer", [ServerSGD(lr=0.1), ServerSGD(lr=0.1, momentum=0.9), ServerAdam(lr=0.1), ServerYogi(lr=0.1), ServerAdagrad(lr=0.1)]
)
def test_running_statistics_take_the_mean(optimizer: ServerOptimizer) -> None:
    spec = model(lambda: nn.BatchNorm1d(3))
    assert spec.trainable_size == 6 < spec.size
    x = spec.initial(seed=0)
    mean = x + 1.0
    y, _ = optimizer.step(x, x - mean, None)
    assert torch.equal(y.flat[6:], (x - (x - mean)).flat[6:])
    assert not torch.equal(y.flat[:6], mean.flat[:6])


def test_works_on_shapes_alone() -> None:
    x = params(1, 2).to_meta()
    for optimizer in (ServerSGD(momentum=0.9), ServerAdam(lr=0.1), ServerYogi(lr=0.1), ServerAdagrad(lr=0.1)):
        y, _ = optimizer.step(x, x, None)
        assert y.is_meta


def test_bad_fields_are_named() -> None:
    with pytest.raises(ScenarioError, match=r"ServerAdam.tau: got 0"):
        ServerAdam(lr=0.1, tau=0)
    with pytest.raises(ScenarioError, match=r"ServerSGD.momentum: got 1.5"):
        ServerSGD(momentum=1.5)
