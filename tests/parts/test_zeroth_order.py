"""Loss differences along directions: exact on quadratics, the second moment, the laws of directions, the seed as their name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from airloom.errors import ScenarioError
from airloom.models.module import model
from airloom.models.params import Params
from airloom.parts.zeroth_order import Law, LossDifference, moved
from tests.methods.quadratic import linear


def at(*values: float) -> Params:
    return Params(linear(len(values)), torch.tensor(values, dtype=torch.float64))


def dot(g: torch.Tensor) -> Callable[[Params], float]:
    """The linear loss with this gradient."""
    return lambda y: float(g @ y.flat)


def gradient(estimate: LossDifference, loss: Callable[[Params], float], x: Params, seed: int) -> torch.Tensor:
    v = estimate.draw(x, np.array([seed]), 0)
    return estimate.slopes(loss, x, v) @ v


def test_directions_and_their_opposites_give_the_gradient_of_a_quadratic() -> None:
    # F = (x1^2 + 3 x2^2 + x1 x2) / 2 at (1, 2): gradient (x1 + x2 / 2, 3 x2 + x1 / 2) = (2, 6.5). Along +-e_i the terms of second order cancel:
    # (d / q) sum_l c_l v_l with q = 2 d = 4 is (1/2) (2 dF/dx1, 2 dF/dx2), whatever mu is
    def loss(y: Params) -> float:
        a, b = y.flat.tolist()
        return (a * a + 3 * b * b + a * b) / 2

    v = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    g = LossDifference(mu=0.7, directions=4).slopes(loss, at(1.0, 2.0), v) @ v
    assert g.tolist() == pytest.approx([2.0, 6.5])


def test_one_slope_by_hand() -> None:
    # F = x^2 at 3, mu = 0.5, v = -1: c = (2.5^2 - 3^2) / 0.5 = -5.5; d = q = 1, so that g = c v = 5.5 = F'(3) + mu v F''/2
    v = torch.tensor([[-1.0]], dtype=torch.float64)
    assert LossDifference(mu=0.5, directions=1).slopes(lambda y: float(y.flat.square()), at(3.0), v).tolist() == [-5.5]


@pytest.mark.parametrize(("law", "factor"), [("sphere", 1.0), ("gaussian", 1.0), ("authors", 5.0)])
def test_estimates_average_to_the_gradient_and_the_authors_to_d_times_it(law: Law, factor: float) -> None:
    g = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0], dtype=torch.float64)
    estimate = LossDifference(directions=6000, law=law)
    found = gradient(estimate, dot(g), at(0.1, 0.2, 0.3, 0.4, 0.5), seed=1)
    # each coordinate's deviation is at most |g| sqrt((d + 2) / q) for all three laws, times the factor; three of them
    limit = 3 * factor * float(g.norm()) * np.sqrt(7 / 6000)
    assert float((found - factor * g).abs().max()) < limit < factor * 3.0


@pytest.mark.parametrize(("directions", "ratio"), [(1, 10.0), (4, 3.25)])
def test_second_moment_of_a_linear_loss(directions: int, ratio: float) -> None:
    # E|g|^2 = (1 + (d - 1) / q) |grad|^2 with d = 10
    g = torch.ones(10, dtype=torch.float64)
    x, estimate = at(*[0.0] * 10), LossDifference(directions=directions)
    squares = np.array([float(gradient(estimate, dot(g), x, seed).square().sum()) / 10.0 for seed in range(1500)])
    assert abs(squares.mean() - ratio) < 3 * squares.std() / np.sqrt(len(squares))
    assert squares.std() / np.sqrt(len(squares)) < 0.06 * ratio


def test_a_linear_loss_does_not_see_mu() -> None:
    x, g = at(1.0, -1.0, 2.0), torch.tensor([3.0, 1.0, -2.0], dtype=torch.float64)
    small, large = (gradient(LossDifference(mu=mu, directions=1), dot(g), x, seed=5) for mu in (1e-3, 10.0))
    torch.testing.assert_close(small, large, rtol=1e-9, atol=1e-9)


def test_a_seed_names_its_directions() -> None:
    x, estimate = at(1.0, 2.0), LossDifference(directions=3)
    v = estimate.draw(x, np.array([4]), 1)
    assert torch.equal(v, estimate.draw(x, np.array([4]), 1))
    assert not torch.equal(v, estimate.draw(x, np.array([4]), 2))
    assert not torch.equal(v, estimate.draw(x, np.array([5]), 1))
    assert v.norm(dim=1).tolist() == pytest.approx([1.0] * 3)


def test_running_statistics_are_no_directions() -> None:
    spec = model(lambda: nn.BatchNorm1d(2))  # two weights, two biases; mean and variance are not trained
    x = spec.initial(0)
    v = LossDifference(directions=2).draw(x, np.array([0]), 0)
    assert v.shape == (2, 4)
    y = moved(x, v[0])
    assert torch.equal(y.flat[4:], x.flat[4:])
    assert torch.equal(y.flat[:4], x.flat[:4] + v[0])


@pytest.mark.parametrize("field", [{"mu": 0.0}, {"directions": 0}])
def test_fields_are_checked(field: dict[str, float]) -> None:
    with pytest.raises(ScenarioError, match=rf"LossDifference\.{next(iter(field))}: got .* allowed is"):
        LossDifference(**field)  # type: ignore[arg-type]
