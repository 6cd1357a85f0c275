"""Training against plain torch loops and torch.optim; logs, meta values, costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from airloom.errors import ScenarioError
from airloom.models import zoo
from airloom.models.batch import Batch, Batches
from airloom.models.module import ModelSpec, model
from airloom.models.objective import CrossEntropy, MeanSquaredError, NextToken
from airloom.models.params import Params
from airloom.models.price import Cost
from airloom.models.submodel import Submodel, components, everything, layers, neurons, rows, width
from airloom.models.train import SGD, AdamW, Optimizer, forward, grad, loss, train, vjp

S, B = 6, 5


def task(spec: ModelSpec, features: tuple[int, ...] = (4,), classes: int = 3, seed: int = 0) -> tuple[Params, Batches]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(S, B, *features, generator=g, dtype=spec.dtype)
    return spec.initial(seed), Batches(x, torch.randint(0, classes, (S, B), generator=g), classes=classes)


def mlp(dtype: torch.dtype = torch.float64) -> ModelSpec:
    return zoo.mlp(inputs=4, hidden=(6, 5), classes=3, dtype=dtype)


def plain_loop(
    x: Params,
    batches: Batches,
    make: Callable[[Any], torch.optim.Optimizer],
    *,
    change: Callable[[list[nn.Parameter], list[nn.Parameter]], None] = lambda ps, before: None,
) -> Tensor:
    """The usual training loop, on a fresh module; `change` edits the gradients before each step."""
    module = x.spec.base.fresh()
    module.load_state_dict({n: t.clone() for n, t in x.named().items()}, strict=True)
    start = [nn.Parameter(p.detach().clone()) for p in module.parameters()]
    optimizer = make(module.parameters())
    for b in batches:
        optimizer.zero_grad()
        F.cross_entropy(module(b.x), b.y).backward()
        change(list(module.parameters()), start)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(), {"momentum": 0.0}),
        (SGD(momentum=0.9), {"momentum": 0.9}),
        (SGD(momentum=0.9, nesterov=True), {"momentum": 0.9, "nesterov": True}),
        (SGD(weight_decay=0.1), {"weight_decay": 0.1}),
        (SGD(momentum=0.5, nesterov=True, weight_decay=0.1), {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1}),
    ],
)
def test_sgd_is_that_of_torch(ours: SGD, theirs: dict[str, Any]) -> None:
    x, batches = task(mlp())
    got, _ = train(x, batches, lr=0.3, optimizer=ours)
    torch.testing.assert_close(got.flat, plain_loop(x, batches, lambda ps: torch.optim.SGD(ps, lr=0.3, **theirs)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_is_that_of_torch(weight_decay: float) -> None:
    x, batches = task(mlp())
    got, _ = train(x, batches, lr=0.05, optimizer=AdamW(beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=weight_decay))
    want = plain_loop(x, batches, lambda ps: torch.optim.AdamW(ps, lr=0.05, betas=(0.8, 0.9), eps=1e-6, weight_decay=weight_decay))
    torch.testing.assert_close(got.flat, want, rtol=1e-12, atol=1e-12)


def test_float32_training_is_the_plain_loop_bit_for_bit() -> None:
    x, batches = task(mlp(torch.float32))
    got, _ = train(x, batches, lr=0.3)
    assert torch.equal(got.flat, plain_loop(x, batches, lambda ps: torch.optim.SGD(ps, lr=0.3)))


def test_convolutions_channels_last_train_as_the_plain_loop() -> None:
    spec = zoo.cnn(channels=2, size=8, widths=(4, 6), hidden=5, classes=3, dtype=torch.float64)
    x, batches = task(spec, (2, 8, 8))
    for only in (None, layers(0, 1), rows("block2.conv", [0, 4])):
        got, _ = train(x, batches, lr=0.1, optimizer=SGD(momentum=0.9, weight_decay=0.01), shift=x * 0.1, prox=(0.2, x * 0.5), only=only)
        plain, _ = train(Params(twin(spec), x.flat), batches, lr=0.1, optimizer=SGD(momentum=0.9, weight_decay=0.01), **moved(spec, x), only=only)
        torch.testing.assert_close(got.flat, plain.flat, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(
        train(x, batches, lr=0.1)[0].flat, plain_loop(x, batches, lambda ps: torch.optim.SGD(ps, lr=0.1)), rtol=1e-11, atol=1e-12
    )


def twin(spec: ModelSpec) -> ModelSpec:
    """The same network with convolutions as torch lays them out."""
    return model(spec.fresh, dtype=spec.dtype, components=spec.components)


def moved(spec: ModelSpec, x: Params) -> dict[str, Any]:
    other = twin(spec)
    return {"shift": Params(other, x.flat * 0.1), "prox": (0.2, Params(other, x.flat * 0.5))}


def test_shift_prox_and_clip_against_edited_gradients() -> None:
    x, batches = task(mlp())
    shift, anchor = mlp().initial(3), mlp().initial(4)
    shifts, anchors = list(shift.named().values()), list(anchor.named().values())

    def change(ps: list[nn.Parameter], _start: list[nn.Parameter]) -> None:
        torch.nn.utils.clip_grad_norm_(ps, 0.5)
        for p, c, a in zip(ps, shifts, anchors, strict=True):
            assert p.grad is not None
            p.grad += c + 0.7 * (p.detach() - a)

    got, log = train(x, batches, lr=0.1, optimizer=SGD(momentum=0.5), shift=shift, prox=(0.7, anchor), clip_norm=0.5)
    want = plain_loop(x, batches, lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.5), change=change)
    torch.testing.assert_close(got.flat, want, rtol=1e-12, atol=1e-12)
    assert log.grad_square > 0


def test_one_step_by_hand() -> None:
    # softmax regression from zero: p = (1/2, 1/2), so each row's gradient is -+1/2 times the mean input; norm^2 = 2 (1/4) (1 + 4 + 1) = 3
    x = zoo.softmax_regression(inputs=2, classes=2, dtype=torch.float64).zeros()
    batches = Batches(torch.tensor([[[1.0, 2.0]]], dtype=torch.float64), torch.zeros(1, 1, dtype=torch.long))
    g = torch.tensor([-0.5, -1.0, 0.5, 1.0, -0.5, 0.5], dtype=torch.float64)
    new, log = train(x, batches, lr=0.1)
    torch.testing.assert_close(new.flat, -0.1 * g)
    assert (log.loss, log.grad_square) == pytest.approx((math.log(2), 3.0)) and (log.steps, log.samples, log.loss_by) == (1, 1, {})
    clipped, log = train(x, batches, lr=1.0, clip_norm=1.0, shift=x + 1, prox=(2.0, x + 3))
    torch.testing.assert_close(clipped.flat, -(g / math.sqrt(3) + 1 + 2 * (0 - 3)), rtol=1e-6, atol=1e-6)
    assert log.grad_square == pytest.approx(3.0)  # of the raw gradient


@pytest.mark.parametrize("lr", [[0.5, 0.0, 0.1, 0.0, 0.0, 0.2], lambda k: [0.5, 0.0, 0.1, 0.0, 0.0, 0.2][k]])
def test_step_sizes_by_step(lr: Any) -> None:
    x, batches = task(mlp())
    want = x
    for k, rate in enumerate([0.5, 0.0, 0.1, 0.0, 0.0, 0.2]):
        want = want - rate * grad(want, batches[k])[0]
    torch.testing.assert_close(train(x, batches, lr=lr)[0].flat, want.flat, rtol=1e-12, atol=1e-12)


ONLY = [
    layers(2, 3),
    layers(0, 1),
    components("classifier"),
    width(0.5),
    neurons({"hidden1": [0, 2], "hidden2": [1]}),
    rows("out", [1]) & components("out"),
    everything,
]


@pytest.mark.parametrize("only", ONLY, ids=str)
@pytest.mark.parametrize("optimizer", [SGD(momentum=0.9, weight_decay=0.1), AdamW(weight_decay=0.1)], ids=["sgd", "adamw"])
def test_only_what_is_selected_moves_and_as_masked_training_would(only: Submodel, optimizer: Optimizer) -> None:
    x, batches = task(mlp())
    shift, anchor = mlp().initial(3) * 0.1, mlp().initial(4)
    mask = torch.zeros(x.spec.size, dtype=torch.bool)
    mask[x.spec.slice(only).index] = True
    new, log = train(x, batches, lr=0.1, optimizer=optimizer, shift=shift, prox=(0.3, anchor), clip_norm=0.4, only=only)
    assert torch.equal(new.flat[~mask], x.flat[~mask]) and (new.flat[mask] != x.flat[mask]).all()
    want, squares, state = x.flat.clone(), [], {}
    for b in batches:
        g = torch.where(mask, grad(Params(x.spec, want), b)[0].flat, 0)
        squares.append(g.square().sum().item())
        g = g * min(1.0, 0.4 / (squares[-1] ** 0.5 + 1e-6)) + shift.flat + 0.3 * (want - anchor.flat)
        before = want.clone()
        moved_to, state = optimizer.step(Params(x.spec, want), Params(x.spec, torch.where(mask, g, 0)), state, lr=0.1)
        want = torch.where(mask, moved_to.flat, before)
    torch.testing.assert_close(new.flat, want, rtol=1e-11, atol=1e-12)
    assert log.grad_square == pytest.approx(sum(squares) / len(squares))


def test_after_training_a_part_the_whole_trains_again() -> None:
    x, batches = task(mlp())
    before, _ = train(x, batches, lr=0.1)
    train(x, batches, lr=0.1, only=layers(2, 3))
    assert train(x, batches, lr=0.1)[0].digest() == before.digest()


def test_only_without_values_to_move_is_refused() -> None:
    spec = model(lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    x = spec.initial(0)
    only = components("1.running_mean")
    with pytest.raises(ScenarioError, match="nothing trainable"):
        train(x, Batches(torch.zeros(1, 2, 2), torch.zeros(1, 2, dtype=torch.long)), lr=0.1, only=only)


def test_running_statistics_outside_only_keep_their_bits() -> None:
    spec = model(lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)))
    x, batches = task(spec)
    new, _ = train(x, batches, lr=0.1, only=components("2"))
    assert torch.equal(new.named()["1.running_mean"], x.named()["1.running_mean"]) and not torch.equal(new.flat, x.flat)
    new, _ = train(x, batches, lr=0.1, only=components("1"))
    assert not torch.equal(new.named()["1.running_mean"], x.named()["1.running_mean"]) and torch.equal(new.named()["0.weight"], x.named()["0.weight"])


def test_no_steps_return_the_values() -> None:
    x, batches = task(mlp())
    none = Batches.of(batches.x[0], batches.y[0], torch.zeros(0, 5, dtype=torch.long))  # type: ignore[index]
    new, log = train(x, none, lr=0.1)
    assert new is x and (log.steps, log.samples) == (0, 0) and math.isnan(log.loss) and math.isnan(log.grad_square)
    cost = Cost()
    assert train(x.to_meta(), none, lr=0.1, cost=cost)[0].is_meta and cost == Cost()


def test_values_are_never_changed_in_place_and_results_share_nothing() -> None:
    x, batches = task(mlp(torch.float32))
    before, version = x.digest(), x.flat._version
    a, _ = train(x, batches, lr=0.1)
    kept = a.digest()
    train(a, batches, lr=0.1)
    grad(x, batches[0])
    loss(x, batches[0])
    forward(x, batches[0])
    assert (x.digest(), x.flat._version, a.digest()) == (before, version, kept)


def test_random_layers_depend_on_the_seed_alone() -> None:
    spec = zoo.mlp(inputs=4, hidden=(16,), classes=3, dropout=0.5)
    x, batches = task(spec)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a, b, c = (train(x, batches, lr=0.1, seed=s)[0].digest() for s in (1, 2**64 - 1, 1))
    assert a == c != b and torch.equal(before, torch.get_rng_state())
    assert grad(x, batches[0], seed=1)[0].digest() != grad(x, batches[0], seed=2)[0].digest()
    assert torch.equal(forward(x, batches[0]), forward(x, batches[0]))  # evaluation mode


def test_objectives_in_parts_are_logged_by_name() -> None:
    x, batches = task(mlp())

    def parts(out: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"fit": F.cross_entropy(out, batch.y), "size": 0.1 * out.square().mean()}

    new, log = train(x, batches, lr=0.1, objective=parts)
    want, _ = train(x, batches, lr=0.1, objective=lambda out, batch: sum(parts(out, batch).values()))  # type: ignore[arg-type, return-value]
    assert new.digest() == want.digest() and set(log.loss_by) == {"fit", "size"} and log.loss == pytest.approx(sum(log.loss_by.values()))
    _, meta = train(x.to_meta(), batches, lr=0.1, objective=parts)
    assert list(meta.loss_by) == list(log.loss_by)


def test_an_objective_may_run_another_model_of_the_same_shape() -> None:
    x, batches = task(mlp())
    teacher = mlp().initial(9)

    def match(out: Tensor, batch: Batch) -> Tensor:
        return (out - forward(teacher, batch)).square().mean()

    new, log = train(x, batches, lr=0.2, objective=match)
    _, after = train(new, batches, lr=0.2, objective=match)
    assert after.loss < log.loss


@given(st.integers(1, 4), st.integers(1, 4), st.floats(0.0, 0.5))
def test_training_twice_is_training_once_without_state(first: int, second: int, lr: float) -> None:
    x, batches = task(zoo.softmax_regression(inputs=4, classes=3, dtype=torch.float64))
    rows_of = torch.arange(first + second) % S

    def some(part: Tensor) -> Batches:
        return Batches(batches.x[part], batches.y[part])  # type: ignore[index]

    half, _ = train(x, some(rows_of[:first]), lr=lr)
    twice, _ = train(half, some(rows_of[first:]), lr=lr)
    assert twice.digest() == train(x, some(rows_of), lr=lr)[0].digest()


def test_grad_of_parameters_and_inputs() -> None:
    x, batches = task(mlp())
    b = batches[0]
    module = mlp().fresh()
    module.load_state_dict(x.named())
    inputs = torch.as_tensor(b.x).clone().requires_grad_()
    value = F.cross_entropy(module(inputs), b.y)
    want = torch.autograd.grad(value, [*module.parameters(), inputs])
    g_inputs, g = grad(x, b, wrt=("inputs", "params"))[0]
    torch.testing.assert_close(g.flat, torch.cat([t.flatten() for t in want[:-1]]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(g_inputs, want[-1], rtol=1e-12, atol=1e-12)
    alone, log = grad(x, b)
    assert alone.digest() == g.digest() and log.loss == pytest.approx(value.item()) and log.grad_square == pytest.approx(g.square_norm())
    assert torch.equal(grad(x, b, wrt="inputs")[0], g_inputs)
    with pytest.raises(ScenarioError, match="wrt"):
        grad(x, b, wrt="weights")  # type: ignore[arg-type]


def test_loss_and_forward_run_in_evaluation_mode() -> None:
    x, batches = task(zoo.mlp(inputs=4, hidden=(8,), classes=3, dropout=0.9))
    out = forward(x, batches[0])
    assert not out.requires_grad and loss(x, batches[0]) == pytest.approx(F.cross_entropy(out, batches[0].y).item())


def test_until_stops_at_a_module() -> None:
    x, batches = task(mlp())
    h = forward(x, batches[0], until="hidden1")
    named = x.named()
    torch.testing.assert_close(h, F.linear(torch.as_tensor(batches[0].x), named["hidden1.weight"], named["hidden1.bias"]))
    full, part = Cost(), Cost()
    forward(x, batches[0], cost=full)
    forward(x, batches[0], until="hidden1", cost=part)
    assert (part.flops, full.flops) == (2 * B * 4 * 6, 2 * B * (4 * 6 + 6 * 5 + 5 * 3))
    with pytest.raises(ScenarioError, match="module path"):
        forward(x, batches[0], until="nothing")


def test_an_optimizer_step_at_the_server() -> None:
    x, batches = task(mlp())
    g, _ = grad(x, batches[0])
    assert (SGD().step(x, g, None)[0] - (x - g)).norm() == 0  # plain averaging of pseudo-gradients
    one, state = AdamW(lr=0.1).step(x, g, None)
    two, state = AdamW(lr=0.1).step(one, g, state)
    p = nn.Parameter(x.flat.clone())
    theirs = torch.optim.AdamW([p], lr=0.1)
    for _ in range(2):
        p.grad = g.flat.clone()
        theirs.step()
    torch.testing.assert_close(two.flat, p.detach(), rtol=1e-12, atol=1e-12)
    assert state["count"] == 2 and isinstance(state["first"], Params) and state["first"].spec == x.spec
    meta, meta_state = AdamW(lr=0.1).step(x.to_meta(), g.to_meta(), None)
    assert meta.is_meta and meta_state["second"].is_meta


def test_running_statistics_take_the_plain_step_at_the_server() -> None:
    spec = model(lambda: nn.BatchNorm1d(2))
    x = spec.params(torch.tensor([1.0, 1, 0, 0, 5, 6, 7, 8]))
    new, _ = AdamW(lr=0.1).step(x, x * 0 + 1, None)
    assert new.flat[4:].tolist() == [4, 5, 6, 7] and new.flat[0] != 0


def data_for(spec: ModelSpec) -> tuple[Batches, Any]:
    if spec.name in ("lstm", "transformer"):
        ids = torch.randint(0, 7, (2, 3, 5), generator=torch.Generator().manual_seed(0))
        return Batches(ids, ids), NextToken()
    shape = {"cnn": (1, 8, 8), "resnet18": (3, 8, 8)}.get(spec.name, (4,))
    return Batches(torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 3, dtype=torch.long)), CrossEntropy()


ZOO = [
    zoo.softmax_regression(inputs=4),
    zoo.mlp(inputs=4),
    zoo.cnn(size=8),
    zoo.resnet18(width=8),
    zoo.lstm(vocabulary=7, hidden=(6,)),
    zoo.transformer(vocabulary=7, width=8, blocks=1, context=5),
]


def results(x: Params, batches: Batches, objective: Any) -> tuple[list[Params | Tensor], list[float], Cost]:
    """Values, numbers and cost of one call of each kind."""
    b, cost = batches[0], Cost()
    new, log = train(x, batches, lr=0.1, objective=objective, cost=cost)
    g, _ = grad(x, b, objective=objective, cost=cost)
    value = loss(x, b, objective=objective, cost=cost)
    out, tape = forward(x, b, keep=True, cost=cost)
    values: list[Params | Tensor] = [new, g, forward(x, b, cost=cost), out, vjp(tape, out, wrt="params", cost=cost)]
    if isinstance(b.x, Tensor) and b.x.is_floating_point():
        values += [grad(x, b, objective=objective, wrt="inputs", cost=cost)[0], vjp(tape, out, wrt="inputs", cost=cost)]
    return values, [log.loss, log.grad_square, value], cost


@pytest.mark.parametrize("spec", ZOO, ids=lambda s: s.name)
def test_a_dry_run_has_the_shapes_and_the_cost_of_a_real_one(spec: ModelSpec) -> None:
    batches, objective = data_for(spec)
    for x in [spec.initial(0), *([spec.initial(0)[width(0.5)]] if spec.width_axes else [])]:
        values, numbers, cost = results(x, batches, objective)
        dry_values, dry_numbers, dry_cost = results(x.to_meta(), batches, objective)
        for a, b in zip(values, dry_values, strict=True):
            assert b.is_meta and not a.is_meta
            if isinstance(a, Params) and isinstance(b, Params):
                assert a.spec == b.spec and a.flat.shape == b.flat.shape and a.flat.dtype == b.flat.dtype
            else:
                assert isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and a.dtype == b.dtype
        assert all(isinstance(n, float) for n in numbers) and cost == dry_cost and cost.flops > 0
        for unknown in dry_numbers:
            with pytest.raises(RuntimeError):
                float(unknown)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"lr": [0.1]}, "1 step sizes for 6"),
        ({"shift": zoo.softmax_regression().zeros()}, "with shift"),
        ({"prox": (0.1, zoo.softmax_regression().zeros())}, "with prox"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], what: str) -> None:
    x, batches = task(mlp())
    with pytest.raises(ScenarioError, match=what):
        train(x, batches, **{"lr": 0.1, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [lambda: SGD(momentum=1.0), lambda: SGD(nesterov=True), lambda: SGD(weight_decay=-1.0), lambda: AdamW(eps=0.0)])
def test_bad_optimizers_are_refused(make: Callable[[], Optimizer]) -> None:
    with pytest.raises(ScenarioError, match=r"allowed|needs"):
        make()


def test_regression_descends() -> None:
    spec = model(lambda: nn.Linear(2, 1))
    g = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 8, 2, generator=g)
    batches = Batches(inputs, (inputs @ torch.tensor([1.0, -2.0]))[..., None])
    new, _ = train(spec.initial(0), batches, lr=0.2, objective=MeanSquaredError())
    torch.testing.assert_close(new.flat, torch.tensor([1.0, -2.0, 0.0]), atol=1e-2, rtol=0)
