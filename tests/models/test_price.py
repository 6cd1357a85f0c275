"""Prices: FLOPs against formulas, peak bytes against real runs, caching."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airloom.models import price as price_module
from airloom.models import zoo
from airloom.models.batch import Batch, Batches
from airloom.models.distill import KLTo
from airloom.models.lora import lora
from airloom.models.memory import PeakMemory, peak_bytes_of
from airloom.models.module import ModelSpec, model
from airloom.models.objective import CrossEntropy, NextToken
from airloom.models.price import (
    Cost,
    forward_flops,
    forward_price,
    gradient_flops,
    gradient_price,
    kept_price,
    measure,
    peak_bytes,
    step_price,
    train_flops,
)
from airloom.models.step import SGD, AdamW, Options, run_forward, run_gradient, run_training
from airloom.models.submodel import components, layers, ranks, width
from airloom.models.tape import run_kept
from airloom.models.train import forward, grad, loss, train, vjp

B, T, V, D = 3, 5, 7, 8


def images(*shape: int) -> Batch:
    return Batch(torch.zeros(B, *shape), torch.zeros(B, dtype=torch.long))


def tokens() -> Batch:
    return Batch(torch.zeros(B, T, dtype=torch.long), torch.zeros(B, T, dtype=torch.long))


def test_mlp() -> None:
    sizes = [20, 12, 9, 4]
    spec = zoo.mlp(inputs=20, hidden=(12, 9), classes=4)
    per_layer = [2 * B * a * b for a, b in pairwise(sizes)]
    assert forward_flops(spec, images(20).x) == sum(per_layer)
    assert gradient_flops(spec, images(20), CrossEntropy()) == 3 * sum(per_layer) - per_layer[0]  # no gradient with respect to the inputs
    assert train_flops(spec, images(20), CrossEntropy(), steps=7) == 7 * (3 * sum(per_layer) - per_layer[0])


def test_nothing_is_computed_below_what_moves() -> None:
    spec = zoo.mlp(inputs=20, hidden=(12, 9), classes=4)
    one, two, three = 2 * B * 20 * 12, 2 * B * 12 * 9, 2 * B * 9 * 4
    assert gradient_flops(spec, images(20), CrossEntropy(), layers(2, 3)) == one + two + three + three
    assert gradient_flops(spec, images(20), CrossEntropy(), layers(1, 3)) == one + two + three + two + 2 * three
    assert gradient_flops(spec, images(20), CrossEntropy(), layers(0, 1)) == 2 * (one + two + three)  # gradients go through, weights stay


def test_width_slices_cost_what_they_compute() -> None:
    spec = zoo.mlp(inputs=20, hidden=(12, 8), classes=4).slice(width(0.25))
    one, two, three = 2 * B * 20 * 3, 2 * B * 3 * 2, 2 * B * 2 * 4
    assert gradient_flops(spec, images(20), CrossEntropy()) == 2 * one + 3 * (two + three)


def test_convolutions() -> None:
    spec = zoo.cnn(channels=2, size=8, widths=(4, 6), hidden=5, classes=3)
    first, second = 2 * B * 64 * 4 * 2 * 9, 2 * B * 16 * 6 * 4 * 9
    dense = 2 * B * (6 * 4 * 5 + 5 * 3)
    assert forward_flops(spec, images(2, 8, 8).x) == first + second + dense
    assert gradient_flops(spec, images(2, 8, 8), CrossEntropy()) == 2 * first + 3 * (second + dense)


BLOCK = 12 * 2 * B * T * D * D  # four projections and two layers of 4 D
ATTENTION = 2 * 2 * B * T * T * D  # scores, and their product with the values
OUT = 2 * B * T * D * V


def test_attention() -> None:
    spec = zoo.transformer(vocabulary=V, width=D, heads=2, blocks=2, context=T)
    whole = 2 * (BLOCK + ATTENTION) + OUT
    assert forward_flops(spec, tokens().x) == whole
    assert gradient_flops(spec, tokens(), NextToken()) == 3 * whole  # the embedding needs the gradient of the first block's input


def test_real_attention_counts_as_in_the_dry_run() -> None:
    # torch runs a fused kernel on CPUs, of which its own counter knows nothing
    q = torch.randn(B, 2, T, 4, requires_grad=True)
    run = measure(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True).sum().backward())
    assert run.flops == 3 * 2 * 2 * B * 2 * T * T * 4


def test_lora() -> None:
    r = 3
    spec = lora(zoo.transformer(vocabulary=V, width=D, heads=2, blocks=2, context=T), rank=r, targets=["query", "value"])
    one, half = 2 * B * T * D * D, 2 * B * T * D * r  # a D x D layer; one matrix of a pair
    forward = 2 * (BLOCK + ATTENTION + 4 * half) + OUT
    assert forward_flops(spec, tokens().x) == forward
    # Way back, nothing for frozen weights. Block 2: input gradients of all layers, and both matrices of each pair both ways.
    second = 12 * one + 2 * ATTENTION + 2 * 4 * half
    # Block 1: nothing below asks for a gradient, so none for the inputs of query, key, value and of A.
    first = 9 * one + 2 * ATTENTION + 2 * 3 * half
    assert gradient_flops(spec, tokens(), NextToken()) == forward + OUT + second + first
    fewer = spec.slice(ranks(1))
    less = 2 * (4 + 4 + 3) * 2 * B * T * D * (r - 1)  # 8 halves forward, 8 back in block 2, 6 in block 1
    assert gradient_flops(fewer, tokens(), NextToken()) == gradient_flops(spec, tokens(), NextToken()) - less


def test_lstm() -> None:
    spec = zoo.lstm(vocabulary=V, embed=4, hidden=(6,))
    gates, out = 2 * B * T * 4 * 6 * (4 + 6), 2 * B * T * 6 * V
    assert forward_flops(spec, tokens().x) == gates + out
    # the first step's state is a constant zero: its gradient is not asked for
    assert gradient_flops(spec, tokens(), NextToken()) == 3 * (gates + out) - 2 * B * 4 * 6 * 6


def test_a_teacher_inside_the_objective_is_priced() -> None:
    spec, teacher = zoo.mlp(inputs=20, hidden=(12,), classes=4), zoo.mlp(inputs=20, hidden=(30,), classes=4)
    taught = CrossEntropy() + 0.5 * KLTo(teacher=teacher.initial(0))
    extra = 2 * B * (20 * 30 + 30 * 4)
    plain = gradient_flops(spec, images(20), CrossEntropy())
    assert gradient_flops(spec, images(20), taught) == plain + extra
    # the same after the teacher's own price is known, for every call that takes an objective
    forward_price(teacher, images(20).x)
    price_module._prices.clear()
    forward_price(teacher, images(20).to("meta").x)
    assert gradient_flops(spec, images(20), taught) == plain + extra == gradient_price(spec, images(20), taught).flops
    real, dry = Cost(), Cost()
    batches = Batches(torch.zeros(2, B, 20), torch.zeros(2, B, dtype=torch.long))
    train(spec.initial(0), batches, lr=0.1, objective=taught, cost=real)
    train(spec.meta(), batches, lr=0.1, objective=taught, cost=dry)
    assert real == dry and real.flops == 2 * (plain + extra)


CASES: list[tuple[ModelSpec, Batch, Any]] = [
    (zoo.softmax_regression(inputs=20), images(20), CrossEntropy()),
    (zoo.mlp(inputs=20, dropout=0.5), images(20), CrossEntropy()),
    (zoo.cnn(channels=2, size=8, widths=(4, 6)), images(2, 8, 8), CrossEntropy()),
    (zoo.resnet18(width=8), images(3, 8, 8), CrossEntropy(smoothing=0.1)),
    (zoo.lstm(vocabulary=V, hidden=(6,)), tokens(), NextToken()),
    (zoo.transformer(vocabulary=V, width=D, blocks=2, context=T), tokens(), NextToken()),
    (lora(zoo.transformer(vocabulary=V, width=D, blocks=2, context=T), rank=2), tokens(), NextToken()),
]


@pytest.mark.parametrize(("spec", "batch", "objective"), CASES, ids=lambda v: v.name if isinstance(v, ModelSpec) else "")
def test_peak_bytes_of_a_dry_run_are_those_of_a_real_one(spec: ModelSpec, batch: Batch, objective: Any) -> None:
    x = spec.initial(0)
    for optimizer, only in (
        (SGD(), None),
        (SGD(momentum=0.9, weight_decay=0.1), components("classifier") if "classifier" in spec else None),
        (AdamW(), None),
    ):
        options = Options(lr=0.1, objective=objective, optimizer=optimizer, shift=x * 0.1, prox=None, clip_norm=1.0, only=only, seed=0)
        with spec.skeleton("cpu") as skeleton:
            real = measure(lambda: run_training(skeleton, x, [batch, batch], options))  # noqa: B023
        dry = step_price(spec, batch, options)
        assert (dry.peak_bytes, 2 * dry.flops) == (real.peak_bytes, real.flops)
    with spec.skeleton("cpu") as skeleton:
        runs = [
            (gradient_price(spec, batch, objective), measure(lambda: run_gradient(skeleton, x, batch, objective, 0, ("params",)))),
            (forward_price(spec, batch.x), measure(lambda: run_forward(skeleton, x, batch.x, None))),
            (kept_price(spec, batch.x), measure(lambda: run_kept(skeleton, x, batch.x, None, 0, 0))),
        ]
    for dry, real in runs:
        assert (dry.peak_bytes, dry.held_bytes, dry.flops) == (real.peak_bytes, real.held_bytes, real.flops)


def test_peak_bytes_by_hand() -> None:
    a = torch.zeros(100)  # 400 B each

    def run() -> Tensor:
        b = a + 1  # a, b
        c = b * 2  # a, b, c: 1200
        del b
        d = c.view(10, 10)  # a view is free
        return d.sum()  # a, c and 4 B

    assert peak_bytes_of(run) == 1200
    with PeakMemory() as memory:
        out = run()
    assert (memory.live_bytes, memory.argument_bytes) == (404, 400) and out == 200
    assert memory.moved_bytes == 800 + 800 + 404  # in and out of each operation, none for the view


def test_peak_bytes_of_an_mlp_agree_with_the_arithmetic() -> None:
    # Large weights, one sample: what counts are the vectors of P values. In a step: x, the working copy, the gradient, and the new gradient
    # of the first layer before it is added (its share of P); at the end x, working copy, gradient and the result: 4 P.
    spec = zoo.mlp(inputs=500, hidden=(400,), classes=2)
    P = spec.nbytes
    one = Batch(torch.zeros(1, 500), torch.zeros(1, dtype=torch.long))
    small = 0.02 * P
    for optimizer, vectors in ((SGD(), 4), (SGD(momentum=0.9), 5), (AdamW(), 7)):  # Adam's square root beside x, copy, gradient, two moments: 7
        assert vectors * P <= peak_bytes(spec, one, CrossEntropy(), optimizer=optimizer) <= vectors * P + small


def test_prices_are_cached_by_form_and_shape() -> None:
    spec = lora(zoo.mlp(inputs=20, hidden=(12,), classes=4), rank=4)
    a, b = spec.slice(ranks([0, 1])), spec.slice(ranks([2, 3]))
    assert gradient_price(a, images(20), CrossEntropy()) is gradient_price(b, images(20).to("meta"), CrossEntropy())
    assert gradient_price(a, images(20), CrossEntropy()) is not gradient_price(a, images(20), CrossEntropy(smoothing=0.1))


class Curious(nn.Module):
    """Looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * (2 if x.max().item() > 0 else 1)


def test_what_looks_at_values_cannot_be_priced_ahead_but_costs_the_same_when_it_runs() -> None:
    def curious(out: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(out, batch.y) * (2 if out.max().item() > 0 else 1)

    spec, batch, cost, same = zoo.softmax_regression(inputs=20, classes=4), images(20), Cost(), Cost()
    with pytest.raises(RuntimeError):
        gradient_flops(spec, batch, curious)
    other = model(Curious)
    for x, f, meter in ((spec.initial(0), curious, cost), (other.initial(0), CrossEntropy(), same)):
        train(x, Batches.stacked(batch, 1, B), lr=0.1, objective=f, cost=meter)
        grad(x, batch, objective=f, cost=meter)
        loss(x, batch, objective=f, cost=meter)
        forward(x, batch, cost=meter)
        vjp(*forward(x, batch, keep=True, cost=meter)[::-1], wrt="params", cost=meter)
    one = 2 * B * 20 * 4
    assert cost.flops == same.flops == (2 + 2 + 1 + 1 + 1 + 1) * one
    for call in (forward, loss, grad):
        with pytest.raises(RuntimeError):
            call(other.meta(), batch, cost=Cost())


def test_costs_add_up() -> None:
    cost = Cost()
    price = gradient_price(zoo.mlp(inputs=20), images(20), CrossEntropy())
    cost.add(price, times=3, steps=3, samples=9)
    cost.add(price, samples=0.5, width=0.25)
    assert (cost.flops, cost.steps, cost.samples, cost.peak_bytes) == (4 * price.flops, 3, 9.5, price.peak_bytes) and cost.width == 1
    small = Cost()
    train(zoo.mlp(inputs=20).slice(width(0.25)).meta(), Batches.stacked(images(20), 1, B), lr=0.1, cost=small)
    assert small.width == 0.25


def test_a_batch_that_is_part_of_a_larger_one_costs_what_it_costs_alone() -> None:
    # one of 50 steps is a view of all their rows; whoever asks first, the kept price is that of one step
    spec, stacked = zoo.mlp(inputs=20, hidden=(7,), classes=3), Batches.stacked(images(20).rows(torch.zeros(50 * B, dtype=torch.long)), 50, B)
    cost = Cost()
    train(spec.meta(), Batches(stacked.x.to("meta"), stacked.y.to("meta")), lr=0.1, cost=cost)  # type: ignore[union-attr]
    x_bytes = 4 * B * 20
    assert cost.peak_bytes == peak_bytes(spec, images(20), CrossEntropy()) < 50 * x_bytes


@pytest.mark.parametrize("optimizer", [SGD(), SGD(momentum=0.9), AdamW()], ids=str)
@pytest.mark.parametrize(("has_shift", "has_prox", "clip_norm"), [(False, False, None), (True, False, None), (False, True, 1.0)])
def test_a_dense_chain_costs_on_zeros_what_it_costs_on_meta_tensors(
    optimizer: Any, has_shift: bool, has_prox: bool, clip_norm: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = zoo.mlp(inputs=20, hidden=(16, 12), classes=10)
    batch = Batch(torch.zeros(5, 20), torch.zeros(5, dtype=torch.long))
    x = spec.zeros()
    options = Options(
        lr=0.1, objective=CrossEntropy(), optimizer=optimizer, shift=x if has_shift else None, prox=(0.5, x) if has_prox else None,
        clip_norm=clip_norm, only=None, seed=0,
    )  # fmt: skip
    found = []
    for is_quick in (True, False):
        monkeypatch.setattr(price_module, "_prices", OrderedDict())
        monkeypatch.setattr(price_module, "_is_quick", lambda *_, answer=is_quick: answer)
        found.append(step_price(spec, batch, options))
    assert found[0] == found[1]
