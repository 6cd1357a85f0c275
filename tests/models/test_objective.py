"""Objectives: values against formulas, label restriction, weights, sums, signatures."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from airloom.errors import ScenarioError
from airloom.models import zoo
from airloom.models.batch import Batch, Batches
from airloom.models.distill import KLTo
from airloom.models.objective import CrossEntropy, MeanSquaredError, NextToken, signature, total_loss, without_values
from airloom.models.train import grad, train

OUT = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 3.0]])
BATCH = Batch(torch.zeros(2, 4), torch.tensor([1, 2]))


def test_cross_entropy_by_hand() -> None:
    rows = [math.log(math.e + math.e**2 + 1) - 2, math.log(1 + math.exp(-1) + math.exp(3)) - 3]
    assert CrossEntropy()(OUT, BATCH).item() == pytest.approx(sum(rows) / 2)
    weighted = Batch(BATCH.x, BATCH.y, weight=torch.tensor([3.0, 1.0]))
    assert CrossEntropy()(OUT, weighted).item() == pytest.approx((3 * rows[0] + rows[1]) / 4)
    assert CrossEntropy(smoothing=0.3)(OUT, BATCH).item() == pytest.approx(F.cross_entropy(OUT, BATCH.y, label_smoothing=0.3).item())


def test_labels_restrict_the_softmax_and_leave_other_rows_without_gradient() -> None:
    out = OUT.clone().requires_grad_()
    value = CrossEntropy(labels=(2, 1))(out, BATCH)
    rows = [math.log(math.e**2 + 1) - 2, math.log(math.exp(-1) + math.exp(3)) - 3]
    assert value.item() == pytest.approx(sum(rows) / 2)
    value.backward()
    assert out.grad is not None and out.grad[:, 0].abs().max() == 0 and out.grad[:, 1].abs().min() > 0
    spec = zoo.mlp(inputs=4, hidden=(5,), classes=3)
    g, _ = grad(spec.initial(0), Batch(torch.ones(2, 4), BATCH.y), objective=CrossEntropy(labels=(1, 2)))
    assert g.named()["out.weight"][0].abs().max() == 0
    assert grad(spec.meta(), BATCH, objective=CrossEntropy(labels=(1, 2)))[0].is_meta


def test_a_label_that_is_not_owned_is_an_error() -> None:
    with pytest.raises(IndexError):
        CrossEntropy(labels=(0, 1))(OUT, BATCH)


def test_next_token_is_the_mean_over_positions() -> None:
    out = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([[1, 2, 3], [4, 0, -100]])
    rows = [-F.log_softmax(out[b, t], 0)[y[b, t]].item() for b in range(2) for t in range(3) if y[b, t] >= 0]
    assert NextToken()(out, Batch(y, y)).item() == pytest.approx(sum(rows) / 5)
    y = y.clamp(min=0)
    per_sample = F.cross_entropy(out.transpose(1, 2), y, reduction="none").mean(1)
    weighted = NextToken()(out, Batch(y, y, weight=torch.tensor([1.0, 3.0])))
    assert weighted.item() == pytest.approx(((per_sample[0] + 3 * per_sample[1]) / 4).item())


def test_mean_squared_error() -> None:
    y = torch.tensor([[1.0], [3.0]])
    b = Batch(torch.zeros(2, 1), y)
    assert MeanSquaredError()(torch.zeros(2, 1), b).item() == 5 and MeanSquaredError(scale=0.5)(torch.zeros(2, 1), b).item() == 2.5
    assert MeanSquaredError()(torch.zeros(2, 1), Batch(b.x, y, weight=torch.tensor([1.0, 3.0]))).item() == 7
    with pytest.raises(ScenarioError, match="equal shapes"):
        MeanSquaredError()(torch.zeros(2), b)


def test_objectives_add_up_and_scale() -> None:
    a, b = CrossEntropy(), CrossEntropy(smoothing=0.5)
    want = a(OUT, BATCH) + 0.25 * b(OUT, BATCH)
    assert (a + 0.25 * b)(OUT, BATCH) == want and (a + b * 0.25)(OUT, BATCH) == want
    assert (a + a + 2 * (a + b)).terms == ((1.0, a), (1.0, a), (2.0, a), (2.0, b))
    assert a + b == CrossEntropy() + CrossEntropy(smoothing=0.5) and hash(a + b) == hash(a + b)


def test_the_loss_of_parts_is_their_sum() -> None:
    one = torch.tensor(1.0)
    assert total_loss({"a": one, "b": 2 * one}) == 3 and total_loss(one) is one
    with pytest.raises(ScenarioError, match="at least one"):
        total_loss({})


def test_distillation_pulls_towards_the_teacher() -> None:
    spec = zoo.mlp(inputs=4, hidden=(6,), classes=3)
    x, teacher = spec.initial(0), spec.initial(1)
    inputs = torch.randn(20, 8, 4, generator=torch.Generator().manual_seed(0))
    batches = Batches(inputs, torch.zeros(20, 8, dtype=torch.long))
    pull = KLTo(teacher=teacher, temperature=2.0)
    want = 4 * F.kl_div(F.log_softmax(OUT / 2, 1), F.softmax(torch.zeros(2, 3), 1), reduction="batchmean")
    flat = Batch(torch.zeros(2, 4), BATCH.y)
    assert KLTo(teacher=teacher.zeros(), temperature=2.0)(OUT, flat).item() == pytest.approx(want.item())
    weighted = Batch(flat.x, flat.y, weight=torch.tensor([0.0, 2.0]))
    assert KLTo(teacher=teacher.zeros())(OUT, weighted).item() == pytest.approx(
        KLTo(teacher=teacher.zeros())(OUT[1:], flat.rows(torch.tensor([1]))).item()
    )
    new, log = train(x, batches, lr=0.5, objective=pull)
    _, later = train(new, batches, lr=0.5, objective=pull)
    assert later.loss < 0.5 * log.loss
    assert train(teacher, batches, lr=0.5, objective=pull)[1].loss == pytest.approx(0, abs=1e-6)
    with pytest.raises(ScenarioError, match="temperature"):
        KLTo(teacher=teacher, temperature=0.0)


def test_signatures_name_settings_and_forget_values() -> None:
    spec = zoo.mlp(inputs=4, hidden=(6,), classes=3)
    a, b = KLTo(teacher=spec.initial(0)), KLTo(teacher=spec.initial(1))
    assert signature(a) == signature(b) != signature(KLTo(teacher=zoo.softmax_regression().zeros()))
    assert CrossEntropy().signature != CrossEntropy(labels=(1,)).signature != CrossEntropy(labels=(2,)).signature
    assert (CrossEntropy() + a).signature == (CrossEntropy() + b).signature != (CrossEntropy() + 2 * b).signature

    def own(out: Tensor, batch: Batch) -> Tensor:
        return out.sum()

    assert signature(own) is own
    dry = without_values(CrossEntropy() + 0.5 * a)
    assert dry.terms[1][1].teacher.is_meta and without_values(CrossEntropy()) == CrossEntropy() and without_values(own) is own  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", [lambda: CrossEntropy(smoothing=1.0), lambda: CrossEntropy(labels=()), lambda: CrossEntropy(labels=(-1,))])
def test_bad_settings_are_refused(make: Callable[[], CrossEntropy]) -> None:
    with pytest.raises(ScenarioError, match="allowed"):
        make()
