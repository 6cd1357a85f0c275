"""Fewer passes over memory: what may be written over, and sums into products, on scripts by hand and on networks drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from airloom.models import allocator
from airloom.models.batch import Batches
from airloom.models.fast import Fast
from airloom.models.fuse import in_place, seen_once, summed
from airloom.models.module import model
from airloom.models.script import Op, Recorder, Script, Slot
from airloom.models.train import train


def script_of(step: Callable[..., Tensor], *inputs: Tensor) -> tuple[Script, list[str]]:
    """The operations of a function of tensors, whose result is the loss."""
    with torch.no_grad(), Recorder(inputs) as recorder:
        out = recorder.slot(step(*inputs))
    script = Script([], recorder.ops, recorder.tensors, len(inputs), recorder.fresh, out, {}, {})
    return script, names(script.ops)


def names(ops: Iterable[Op]) -> list[str]:
    return [op.func._schema.name.removeprefix("aten::") for op in ops]


def result(script: Script, *inputs: Tensor) -> Tensor:
    """Run the operations of a script one by one."""
    held: dict[int, Tensor] = dict(enumerate(script.tensors)) | dict(enumerate(inputs))

    def now(value: Any) -> Any:
        return [now(v) for v in value] if isinstance(value, list | tuple) else held[value] if isinstance(value, Slot) else value

    for op in script.ops:
        made = op.func(*now(op.args), **{k: now(v) for k, v in op.kwargs.items()})
        if isinstance(op.out, Slot):
            held[op.out] = made
    return held[script.loss]


def matrices(*shapes: tuple[int, ...]) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]


def test_a_product_adds_itself_to_what_is_needed_no_more() -> None:
    x, w, a, b = matrices((4, 3), (3, 5), (3, 2), (2, 5))

    def step(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.mm(x, w).view(2, 2, 5) + torch.mm(torch.mm(x, a), b).view(2, 2, 5) * 0.5

    script, before = script_of(step, x, w, a, b)
    assert before == ["mm", "view", "mm", "mm", "view", "mul", "add"]
    fused = summed(script)
    assert names(fused.ops) == ["mm", "view", "mm", "view", "addmm_"]
    torch.testing.assert_close(result(fused, x, w, a, b), step(x, w, a, b), rtol=1e-14, atol=1e-14)


def test_what_is_read_later_is_not_written_over() -> None:
    x, w = matrices((4, 4), (4, 4))

    def step(x: Tensor, w: Tensor) -> Tensor:
        y = torch.mm(x, w)
        return torch.sin(y + torch.mm(y, w)) * y  # y is a factor of the product, and read again

    fused = in_place(summed(script_of(step, x, w)[0]))
    assert names(fused.ops) == ["mm", "mm", "add_", "sin", "mul_"]  # y + product goes into the product, the last into the sine
    torch.testing.assert_close(result(fused, x, w), step(x, w), rtol=1e-14, atol=1e-14)


def test_a_kept_sum_gets_a_product_of_its_own_memory() -> None:
    x, w, y = matrices((4, 4), (4, 4), (4, 4))

    def step(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return y + torch.mm(x, w) * 2.0  # y is an input

    fused = summed(script_of(step, x, w, y)[0])
    assert names(fused.ops) == ["addmm"]
    torch.testing.assert_close(result(fused, x, w, y), step(x, w, y), rtol=1e-14, atol=1e-14)


def test_a_product_does_not_move_behind_a_write_to_its_factor() -> None:
    x, w = matrices((4, 4), (4, 4))

    def step(x: Tensor, w: Tensor) -> Tensor:
        y = torch.mm(x, w)
        product = torch.mm(y, x)  # reads y, before y is written over by the next sum
        z = y + torch.mm(x, x)
        return torch.sin(z) + product

    fused = summed(script_of(step, x, w)[0])
    torch.testing.assert_close(result(fused, x, w), step(x, w), rtol=1e-13, atol=1e-13)
    assert names(fused.ops).count("addmm_") == 1  # the other product stays where it is


def test_views_of_one_memory_are_one() -> None:
    (x,) = matrices((4, 4))

    def step(x: Tensor) -> Tensor:
        y = torch.sin(x)
        top = y[:2]
        return torch.relu(y) + torch.cat([top, top])  # the ReLU may not write over y while `top` is to be read

    fused = in_place(script_of(step, x)[0])
    assert "relu_" not in names(fused.ops)
    assert torch.equal(result(fused, x), step(x))


def test_what_is_held_stays() -> None:
    x, w = matrices((4, 4), (4, 4))
    script, _ = script_of(lambda x, w: torch.relu(torch.mm(x, w)).sum(), x, w)
    held = next(op.out for op in script.ops if op.func is torch.ops.aten.mm.default)
    assert names(in_place(script, [held]).ops) == ["mm", "relu", "sum"]


def test_each_shape_of_a_tensor_is_looked_at_once() -> None:
    x, w = matrices((2, 3, 4), (4, 4))

    def step(x: Tensor, w: Tensor) -> Tensor:
        y = torch.mm(x.view(6, 4), w).view(2, 3, 4)
        z = torch.sin(y.view(6, 4)) + torch.mm(y.view(6, 4), w.t()) + torch.mm(y.view(6, 4), w.t())  # back, and twice the same
        turned = z.t().reshape(24)  # a copy: no view of z
        return turned.view(4, 6) + z.view(24).view(4, 6)

    script, before = script_of(step, x, w)
    assert (before.count("view"), before.count("t")) == (8, 3)
    seen = seen_once(script)
    after = names(seen.ops)
    assert (after.count("view"), after.count("t")) == (2, 2)  # x, and z as 4 x 6 (the copy has that shape); w and z
    assert torch.equal(result(seen, x, w), step(x, w))


class Drawn(nn.Module):
    """Products, sums, scales, views, normalizations and nonlinearities in an order that is drawn; each input is any earlier value."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.layers = nn.ModuleList([nn.Linear(8, 8, bias=bool(k % 2)) for k in range(4)])
        self.norm = nn.LayerNorm(8)
        self.plan = [(int(rng.integers(7)), float(rng.random()), float(rng.random()), int(rng.integers(4))) for _ in range(12)]

    def forward(self, x: Tensor) -> Tensor:
        values = [self.layers[0](x)]
        for kind, first, second, layer in self.plan:
            a, b = values[int(first * len(values))], values[int(second * len(values))]
            values.append(
                [
                    lambda a, b, layer: self.layers[layer](a),
                    lambda a, b, layer: a + b,
                    lambda a, b, layer: a + 0.5 * self.layers[layer](b),
                    lambda a, b, layer: torch.relu(a),
                    lambda a, b, layer: nn.functional.gelu(a) * 1.0,
                    lambda a, b, layer: self.norm(a + self.layers[layer](a)),
                    lambda a, b, layer: (a.view(-1, 2, 4) + b.view(-1, 2, 4)).reshape(a.shape) - b / 3.0,
                ][kind](a, b, layer)
            )
        return torch.stack(values[-3:]).sum(0)


@pytest.mark.parametrize("seed", range(16))
def test_networks_drawn_at_random_train_as_in_the_loop(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    batches = Batches(torch.randn(3, 5, 8, generator=g, dtype=torch.float64), torch.randint(0, 8, (3, 5), generator=g), classes=8)
    x = model(lambda: Drawn(seed), dtype=torch.float64, name=f"drawn{seed}").initial(0)
    fast = Fast("replay")
    got, want = train(x, batches, lr=0.05, trainer=fast)[0], train(x, batches, lr=0.05)[0]
    assert not fast.fallbacks
    torch.testing.assert_close(got.flat, want.flat, rtol=1e-10, atol=1e-12)
    got, want = train(x, batches, lr=0.05, clip_norm=1.0, trainer=fast)[0], train(x, batches, lr=0.05, clip_norm=1.0)[0]
    assert torch.equal(got.flat, want.flat)  # a step that leaves the gradient is the loop's, bit for bit


def test_the_environment_has_the_last_word_on_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not allocator.keep_freed()
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_")
    monkeypatch.setattr("platform.libc_ver", lambda: ("musl", "1.2"))
    assert not allocator.keep_freed()
