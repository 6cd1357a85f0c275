"""Every rung of the ladder against the eager loop and against float64; what cannot climb says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from airloom.errors import ScenarioError
from airloom.models import dense, zoo
from airloom.models.batch import Batch, Batches, first_tensor
from airloom.models.dense import dense_chain
from airloom.models.distill import KLTo
from airloom.models.fast import Fast
from airloom.models.lora import lora
from airloom.models.module import ModelSpec, model
from airloom.models.objective import CrossEntropy, NextToken
from airloom.models.params import Params
from airloom.models.submodel import layers, neurons, rows, width
from airloom.models.train import SGD, AdamW, train

S, B = 5, 8
needs_kernel = pytest.mark.skipif(Fast("auto").name != "kernel", reason="this machine has no C compiler")
RUNGS = ["replay", pytest.param("kernel", marks=needs_kernel), pytest.param("compile", marks=pytest.mark.slow)]  # each compilation takes seconds
LOOP: dict[str, Any] = {}


def on(rung: str) -> dict[str, Any]:
    """The argument of `train` for a rung."""
    return {"trainer": Fast(rung)}


def data(features: tuple[int, ...], classes: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0, **more: Any) -> Batches:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(S, B, *features, generator=g, dtype=torch.float64).to(dtype)
    return Batches(x, torch.randint(0, classes, (S, B), generator=g), classes=classes, **more)


def mlp(dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> ModelSpec:
    return zoo.mlp(inputs=20, hidden=(24, 16), classes=3, dropout=dropout, dtype=dtype)


def normed(dtype: torch.dtype) -> ModelSpec:
    """A network with running statistics and dropout."""

    def build() -> nn.Module:
        # no bias ahead of the normalization: its gradient is zero but for rounding, which AdamW would blow up to full steps
        return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(4 * 16, 3))

    return model(build, dtype=dtype, channels_last=True)


def both(
    spec: Callable[[torch.dtype], ModelSpec], batches: Callable[[torch.dtype], Batches], rung: str, tolerance: float = 2e-6, **options: Any
) -> None:
    """Train on the rung in float32 and float64 and compare with the loop: within `tolerance` of the change, and some roundings of the weights."""
    for dtype in (torch.float64, torch.float32):
        x = spec(dtype).initial(0)
        given: dict[str, Any] = {k: f(x) if callable(f) and k in ("shift", "prox", "objective") else f for k, f in options.items()}
        fast = Fast(rung)
        got, log = train(x, batches(dtype), lr=0.1, seed=3, trainer=fast, **given)
        want, said = train(x, batches(dtype), lr=0.1, seed=3, **given)
        assert not fast.fallbacks
        scale = float((want.flat - x.flat).abs().max())
        assert scale > 0
        gap = float((got.flat - want.flat).abs().max())
        # a vector unit may sum in another order: each of the S steps rounds sums and weights anew
        roundings = 2 * S * torch.finfo(dtype).eps * float(want.flat.abs().max())
        assert gap <= scale * (1e-12 if dtype == torch.float64 else tolerance) + roundings, (dtype, gap, scale)
        assert log.loss == pytest.approx(said.loss, rel=1e-6) and log.grad_square == pytest.approx(said.grad_square, rel=1e-5)
        assert log.loss_by == pytest.approx(said.loss_by, rel=1e-6)
        assert (log.steps, log.samples) == (said.steps, said.samples)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight decay": {"optimizer": SGD(weight_decay=0.1)},
    "momentum": {"optimizer": SGD(momentum=0.9, weight_decay=0.01)},
    "nesterov": {"optimizer": SGD(momentum=0.9, nesterov=True)},
    "adamw": {"optimizer": AdamW()},
    "shift": {"shift": lambda x: x * 0.3},
    "prox": {"prox": lambda x: (0.5, x * 0.2)},
    "shift, prox and decay": {"shift": lambda x: x * 0.3, "prox": lambda x: (0.5, x * 0.2), "optimizer": SGD(weight_decay=0.1)},
    "clip": {"clip_norm": 0.05},
    "clip, shift and momentum": {"clip_norm": 0.05, "shift": lambda x: x * 0.3, "optimizer": SGD(momentum=0.5)},
    "last layers": {"only": layers(1, 2)},
    "last layers, shift and decay": {"only": layers(1, 2), "shift": lambda x: x * 0.3, "optimizer": SGD(weight_decay=0.1)},
    "some rows": {"only": rows("hidden2", [1, 5, 6]), "prox": lambda x: (0.5, x * 0.2), "optimizer": SGD(weight_decay=0.1)},
    "labels": {"objective": lambda x: CrossEntropy(smoothing=0.1)},
    "distillation": {"objective": lambda x: CrossEntropy() + 0.5 * KLTo(teacher=x * 0.9, temperature=2.0)},
}


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_agrees_with_the_loop(name: str, rung: str) -> None:
    both(mlp, lambda dtype: data((20,), dtype=dtype), rung, **OPTIONS[name])


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("name", ["plain", "momentum", "adamw", "clip"])
def test_networks_with_running_statistics_and_dropout(name: str, rung: str) -> None:
    both(normed, lambda dtype: data((1, 6, 6), dtype=dtype), rung, **OPTIONS[name])
    both(lambda dtype: mlp(dtype, dropout=0.4), lambda dtype: data((20,), dtype=dtype), rung, **OPTIONS[name])


@pytest.mark.parametrize("rung", RUNGS)
def test_convolutions_and_sequences(rung: str) -> None:
    both(lambda dtype: zoo.cnn(channels=2, size=8, widths=(4, 6), hidden=5, classes=3, dtype=dtype), lambda dtype: data((2, 8, 8), dtype=dtype), rung)
    g = torch.Generator().manual_seed(1)
    text = Batches(torch.randint(0, 11, (S, 3, 6), generator=g), torch.randint(0, 11, (S, 3, 6), generator=g))
    small = {"vocabulary": 11, "width": 8, "heads": 2, "blocks": 1, "context": 6}
    both(lambda dtype: zoo.transformer(**small, dropout=0.2, dtype=dtype), lambda _: text, rung, objective=lambda x: NextToken())
    both(lambda dtype: zoo.lstm(vocabulary=11, embed=4, hidden=(6,), dtype=dtype), lambda _: text, rung, objective=lambda x: NextToken())
    adapted = lambda dtype: lora(zoo.transformer(**small, dtype=dtype), rank=2, targets=("query", "up"))  # noqa: E731
    both(adapted, lambda _: text, rung, objective=lambda x: NextToken(), tolerance=2e-5)


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("part", [width(0.5), neurons({"hidden1": [0, 3, 4]}), layers(1, 2)], ids=["width", "neurons", "layers"])
def test_submodels(part: Any, rung: str) -> None:
    inputs = 24 if part == layers(1, 2) else 20
    both(lambda dtype: mlp(dtype).slice(part), lambda dtype: data((inputs,), dtype=dtype), rung)


@pytest.mark.parametrize("rung", RUNGS)
def test_a_script_serves_later_calls_with_other_values(rung: str) -> None:
    fast = Fast(rung)
    for seed in range(4):  # values, batches, step size, shift and teacher all change; the script is that of the first call
        x = mlp(torch.float64).initial(seed)
        options: dict[str, Any] = {"lr": 0.1 + 0.1 * seed, "shift": x * 0.1 * seed, "objective": CrossEntropy() + KLTo(teacher=x * (1.0 + seed))}
        batches = data((20,), dtype=torch.float64, seed=seed)
        got, want = train(x, batches, trainer=fast, **options)[0], train(x, batches, **options)[0]
        torch.testing.assert_close(got.flat, want.flat, rtol=1e-12, atol=1e-12)
    assert not fast.fallbacks


def test_teachers_of_one_form_are_told_apart() -> None:
    x = mlp(torch.float64).initial(0)
    for factor in (0.5, 1.5):
        objective = CrossEntropy() + KLTo(teacher=x * factor) + 0.5 * KLTo(teacher=x * -factor, temperature=2.0)
        got, want = (train(x, data((20,), dtype=torch.float64), lr=0.1, objective=objective, **more)[0] for more in (on("replay"), LOOP))
        torch.testing.assert_close(got.flat, want.flat, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rung", RUNGS)
def test_step_sizes_may_follow_a_schedule(rung: str) -> None:
    rates: list[Any] = [[0.5, 0.4, 0.3, 0.2, 0.1], lambda k: 0.5 / (k + 1)]
    for lr in rates:
        x = mlp(torch.float64).initial(0)
        got, want = (train(x, data((20,), dtype=torch.float64), lr=lr, **more)[0] for more in (on(rung), LOOP))
        torch.testing.assert_close(got.flat, want.flat, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["momentum", "adamw", "clip", "some rows"])
def test_a_replayed_gradient_is_that_of_the_loop_bit_for_bit(name: str) -> None:
    x = mlp(dropout=0.4).initial(0)
    given = {k: f(x) if callable(f) and k == "prox" else f for k, f in OPTIONS[name].items()}
    got, want = (train(x, data((20,)), lr=0.1, seed=5, **given, **more) for more in (on("replay"), LOOP))
    assert torch.equal(got[0].flat, want[0].flat) and got[1] == want[1]


def test_a_replay_is_the_same_in_a_run_of_its_own() -> None:
    x = mlp().initial(0)
    first = train(x, data((20,)), lr=0.1, trainer=Fast("replay"))[0]
    train(mlp().initial(1), data((20,), seed=1), lr=0.3, trainer=Fast("replay"))
    assert torch.equal(first.flat, train(x, data((20,)), lr=0.1, trainer=Fast("replay"))[0].flat)


def looks(out: torch.Tensor, batch: Batch) -> torch.Tensor:
    """An objective that branches on a value."""
    loss = nn.functional.cross_entropy(out, batch.y)
    return loss * 2 if float(loss.detach()) > 1.0 else loss


@pytest.mark.parametrize("rung", RUNGS)
def test_what_cannot_be_recorded_runs_as_the_loop_and_says_why(rung: str) -> None:
    x, factor = mlp().initial(0), torch.tensor(2.0)
    closure = lambda out, batch: factor * nn.functional.cross_entropy(out, batch.y)  # noqa: E731
    for objective, reason in ((looks, "looks at a value"), (closure, "the objective holds a function")):
        fast = Fast(rung)
        got, _ = train(x, data((20,)), lr=0.1, objective=objective, trainer=fast)
        want, _ = train(x, data((20,)), lr=0.1, objective=objective)
        assert torch.equal(got.flat, want.flat)
        assert len(fast.fallbacks) == 1 and reason in next(iter(fast.fallbacks))


@pytest.mark.parametrize("is_turned", [False, True])
def test_rows_may_lie_anyhow_in_memory(is_turned: bool) -> None:
    whole, x, fast = data((20,)), zoo.mlp(inputs=20, hidden=(24,), classes=3).initial(0), Fast("replay")
    rows = first_tensor(whole.x)
    rows = rows.transpose(0, 2).contiguous().transpose(0, 2) if is_turned else rows.repeat_interleave(2, -1)[..., ::2]
    assert not rows.is_contiguous()
    found = [train(x, batches, lr=0.1, trainer=fast)[0].flat for batches in (Batches(rows, whole.y, classes=3), whole)]
    assert torch.equal(*found)
    assert not fast.fallbacks


def test_an_unknown_rung_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"fast='warp': allowed are auto, off, replay, compile, kernel"):
        Fast("warp")


@needs_kernel
@pytest.mark.parametrize("batch", [1, 7, 16, 40])
def test_the_kernel_agrees_with_float64(batch: int) -> None:
    """Odd widths, batches below, at and above the lanes; every option that it takes."""
    g = torch.Generator().manual_seed(batch)
    x_SBI, y_SB = torch.randn(4, batch, 45, generator=g), torch.randint(0, 7, (4, batch), generator=g)
    for hidden in ((), (35,), (70, 19)):
        small, large = (zoo.mlp(inputs=45, hidden=hidden, classes=7, dtype=dtype) for dtype in (torch.float32, torch.float64))
        x = small.initial(0)
        exact = Params(large, x.flat.double())
        options: dict[str, Any] = {"lr": [0.4, 0.3, 0.2, 0.1], "optimizer": SGD(weight_decay=0.1)}
        got, log = train(x, Batches(x_SBI, y_SB), shift=x * 0.1, prox=(0.3, x * 0.5), **options, **on("kernel"))
        want, said = train(exact, Batches(x_SBI.double(), y_SB), shift=exact * 0.1, prox=(0.3, exact * 0.5), **options)
        assert float((got.flat - want.flat).abs().max()) < 1e-6 * float((want.flat - exact.flat).abs().max()) + 1e-7
        assert log.loss == pytest.approx(said.loss, rel=1e-6) and log.grad_square == pytest.approx(said.grad_square, rel=1e-5)


@needs_kernel
def test_the_kernel_takes_chains_and_leaves_all_else() -> None:
    def taken(spec: ModelSpec, objective: Any = CrossEntropy()) -> bool:
        with spec.skeleton("cpu") as skeleton:
            return dense_chain(skeleton, objective) is not None

    assert taken(mlp()) and taken(zoo.softmax_regression(inputs=4, classes=2)) and taken(mlp().slice(width(0.5)))
    assert not taken(mlp(), CrossEntropy(smoothing=0.1)) and not taken(mlp(torch.float64)) and not taken(mlp(dropout=0.5))
    other = [lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))]
    other += [lambda: nn.Sequential(nn.Linear(4, 2, bias=False)), lambda: nn.Sequential(nn.Linear(4, 2), nn.ReLU()), lambda: nn.Linear(4, 2)]
    assert not any(taken(model(build)) for build in other)


@needs_kernel
def test_a_label_that_is_no_class_is_the_error_of_the_loop() -> None:
    batches = data((20,), classes=3)
    batches.y[2, 4] = 3
    with pytest.raises(IndexError, match="out of bounds"):
        train(mlp().initial(0), batches, lr=0.1, **on("kernel"))


@pytest.mark.parametrize(("compiler", "reason"), [("no-such-compiler", "there is no C compiler"), ("false", "it could not be built")])
def test_without_a_compiler_auto_replays_and_the_kernel_is_refused(compiler: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", compiler)
    dense._found.cache_clear()
    try:
        assert Fast("auto").name == "replay"
        with pytest.raises(ScenarioError, match=f"this machine has no kernel: {reason}"):
            Fast("kernel")
    finally:
        dense._found.cache_clear()
