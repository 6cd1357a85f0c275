"""Training calls of many devices as one: the numbers of the loop to rounding, and what cannot be stacked runs alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from airloom.engines.stacked import Stacked, chosen
from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedprox import FedProx
from airloom.methods.fedrolex import FedRolex
from airloom.methods.scaffold import Scaffold
from airloom.models import zoo
from airloom.models.batch import Batches
from airloom.models.device import CPU, Request, on_device, torch_device
from airloom.models.fast import Fast
from airloom.models.lora import lora
from airloom.models.module import ModelSpec
from airloom.models.objective import CrossEntropy
from airloom.models.params import Params
from airloom.models.stacked import NotStacked, key, train_together
from airloom.models.step import SGD, AdamW, Options
from airloom.models.train import train
from airloom.program.method import Method
from airloom.runner import Options as RunOptions
from airloom.runner import Runner
from tests.tiny_world import tiny


def request(spec: ModelSpec, seed: int, **more: Any) -> Request:
    g = torch.Generator().manual_seed(seed)
    x = spec.initial(0) + Params(spec, torch.randn(spec.size, generator=g, dtype=torch.float64).to(spec.dtype) * 0.01)
    batches = Batches(torch.randn(4, 6, 8, generator=g, dtype=torch.float64).to(spec.dtype), torch.randint(0, 3, (4, 6), generator=g), classes=3)
    given: dict[str, Any] = {"optimizer": SGD(), "shift": None, "prox": None, "clip_norm": None, "only": None, "objective": CrossEntropy()} | {
        name: value(x) if callable(value) else value for name, value in more.items()
    }
    return Request(x, batches, Options(lr=0.1, seed=0, **given))


def alone(r: Request) -> Params:
    o = r.options
    return train(r.x, r.batches, lr=0.1, optimizer=o.optimizer, shift=o.shift, prox=o.prox, clip_norm=o.clip_norm, objective=o.objective)[0]


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum and decay": {"optimizer": SGD(momentum=0.9, weight_decay=0.1, nesterov=True)},
    "adamw": {"optimizer": AdamW()},
    "shift": {"shift": lambda x: x * 0.3},
    "prox": {"prox": lambda x: (0.5, x * 0.2)},
    "clip": {"clip_norm": 0.05},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_agrees_with_calls_alone(name: str) -> None:
    spec = zoo.mlp(inputs=8, hidden=(7,), classes=3, dtype=torch.float64)
    requests = [request(spec, seed, **OPTIONS[name]) for seed in range(3)]
    assert len({key(r) for r in requests}) == 1
    for r, raw in zip(requests, train_together(requests, CPU), strict=True):
        want = alone(r)
        assert float((want.flat - r.x.flat).abs().max()) > 1e-4
        torch.testing.assert_close(raw.values, want.flat, rtol=1e-12, atol=1e-13)


def test_adapters_share_their_frozen_base() -> None:
    spec = lora(zoo.mlp(inputs=8, hidden=(7,), classes=3, dtype=torch.float64), rank=2)
    requests = [request(spec, seed) for seed in range(3)]
    for r, raw in zip(requests, train_together(requests, CPU), strict=True):
        torch.testing.assert_close(raw.values, alone(r).flat, rtol=1e-12, atol=1e-13)


def test_losses_and_norms_belong_to_their_calls() -> None:
    spec = zoo.softmax_regression(inputs=8, classes=3, dtype=torch.float64)
    requests = [request(spec, seed) for seed in range(2)]
    for r, raw in zip(requests, train_together(requests, CPU), strict=True):
        said = Fast("off")(r.x, r.batches, r.options)
        torch.testing.assert_close(raw.losses, torch.stack(list(said.losses)), rtol=1e-12, atol=0)
        torch.testing.assert_close(raw.squares, torch.stack(list(said.squares)), rtol=1e-12, atol=0)


def test_calls_of_other_kinds_have_other_keys() -> None:
    small, large = (zoo.mlp(inputs=8, hidden=(n,), classes=3) for n in (5, 6))
    assert len({key(r) for r in (request(small, 0), request(large, 0), request(small, 0, clip_norm=1.0))}) == 3
    with pytest.raises(NotStacked, match="random layers"):
        key(request(zoo.mlp(inputs=8, hidden=(5,), classes=3, dropout=0.5), 0))


def run(method: Method, executor: str) -> Any:
    options = RunOptions(executor=executor, fast="off", budget={"rounds": 2}, checkpoint_every_s=None)
    return Runner(tiny(seed=0), method, 0, options, None, {}, None).run()


@pytest.mark.parametrize("method", [FedAvg(lr=0.3), FedProx(lr=0.3, mu=0.1), Scaffold(lr=0.1), FedRolex(lr=0.1)], ids=lambda m: type(m).__name__)
def test_a_run_is_that_of_the_loop(method: Method) -> None:
    stacked, loop = (run(method, executor) for executor in ("stacked", "loop"))
    assert stacked.summary["fallbacks"] == []
    torch.testing.assert_close(stacked.model.flat, loop.model.flat, rtol=1e-4, atol=1e-6)  # float32, sums in another order
    assert [p["seconds"] for p in stacked.points] == [p["seconds"] for p in loop.points]  # the clock does not know the executor


def test_what_a_call_raises_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = request(zoo.softmax_regression(inputs=8, classes=3), 0), request(zoo.softmax_regression(inputs=8, classes=2), 0)  # three labels
    fast = Fast("off")
    found = Stacked(None, None, 0, fast, CPU).trained([good, bad, good])  # type: ignore[arg-type]
    assert isinstance(found[1], Exception)
    wrong = replace(good, batches=Batches(good.batches.x, torch.full_like(good.batches.y, 7), classes=3))  # of the same kind, with labels of no class
    assert key(wrong) == key(good)
    both = Stacked(None, None, 0, fast, CPU).trained([good, wrong])  # type: ignore[arg-type]
    assert isinstance(both[1], Exception) and torch.equal(both[0].values, Fast("off")(good.x, good.batches, good.options).values)  # type: ignore[union-attr]
    assert not isinstance(found[0], BaseException) and torch.equal(found[0].values, found[2].values)  # type: ignore[union-attr]


@pytest.mark.parametrize(("loop_s", "stacked_s", "name"), [(2.0, 1.0, "stacked"), (1.0, 2.0, "loop")])
def test_the_faster_executor_is_chosen_before_the_run(loop_s: float, stacked_s: float, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = tiny(seed=0)
    # begin and end of each way; the end of the first try is not looked at
    readings = iter([0.0, 0.0, *[t for _ in range(2) for t in (0.0, loop_s, 0.0, stacked_s)]])
    monkeypatch.setattr("airloom.engines.stacked.time", SimpleNamespace(perf_counter=lambda: next(readings)))
    assert chosen(world.network, world.task, 0, Fast("off"), CPU).name == name


def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(ScenarioError, match=r"device='tpu': allowed are cpu, cuda and cuda:NUMBER"):
        torch_device("tpu")
    with pytest.raises(ScenarioError, match=r"device='cuda:99': torch .* sees \d+ CUDA devices"):
        torch_device("cuda:99")
    with pytest.raises(ScenarioError, match="executor 'tower': allowed are auto, loop, pool, stacked"):
        run(FedAvg(), "tower")


class Border(TorchDispatchMode):
    """Refuses operations on tensors of two devices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kinds = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.dim()}
        if len(kinds) > 1:
            raise AssertionError(f"{func} across {sorted(kinds)}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", OPTIONS)
def test_nothing_of_a_call_stays_behind_on_another_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU; where there is none on the device "meta", which computes nothing, with a look at every operation."""
    requests = [request(zoo.mlp(inputs=8, hidden=(7,), classes=3), seed, **OPTIONS[name]) for seed in range(2)]
    if torch.cuda.is_available():
        device = torch.device("cuda")
        for r, raw in zip(requests, train_together(requests, device), strict=True):
            torch.testing.assert_close(raw.values, alone(r).flat, rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(on_device(Fast("replay"), device, r).values, alone(r).flat, rtol=1e-3, atol=1e-5)
        return
    device, to = torch.device("meta"), torch.Tensor.to
    with pytest.raises(AssertionError, match=r"across \['cpu', 'meta'\]"), Border():
        torch.mm(torch.zeros(2, 2, device=device), torch.zeros(2, 2))  # what this test relies on

    def back(self: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
        return torch.zeros(self.shape, dtype=self.dtype) if self.is_meta and args[0] == CPU else to(self, *args, **more)

    monkeypatch.setattr(torch.Tensor, "to", back)
    with Border():
        assert all([raw.values.device == CPU for raw in train_together(requests, device)])
        raw = on_device(Fast("off"), device, requests[0])
    assert all([t.device == CPU for t in (raw.values, *raw.losses, *raw.squares)])
