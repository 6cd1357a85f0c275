"""The pool computes what the loop computes, bit for bit, with any number of workers."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from airloom.engines.pool import Region, Shelf
from airloom.engines.simnode import SimNode
from airloom.errors import RunFailed, ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedbuff import FedBuff
from airloom.methods.local_only import LocalOnly
from airloom.methods.mtgc import MTGC
from airloom.models.params import Params
from airloom.models.submodel import width
from airloom.parts.protect import Gaussian
from airloom.program.here import Here
from airloom.program.method import Method, State
from airloom.runner import Options, Runner
from tests.engines.test_freeze import scenario

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the pool forks processes")


def run(method: Method, executor: str, workers: int | None, **options: Any) -> Any:
    given = Options(budget={"rounds": 3}, executor=executor, workers=workers, checkpoint_every_s=None, **options)
    return Runner(scenario(), method, 1, given, None, {}, None).run()


METHODS = [
    FedAvg(local_steps=3),
    FedAvg(local_steps=3, protect=Gaussian(at="client")),  # a protection's functions cannot travel: sets of them alone run here
    FedBuff(local_steps=3, buffer=2),
    MTGC(local_steps=2, group_rounds=2),
    LocalOnly(local_steps=2),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__ + ("" if m is not METHODS[1] else " protected"))
def test_pool_equals_loop(method: Method) -> None:
    loop = run(method, "loop", None)
    for workers in (1, 2, 3):
        pool = run(method, "pool", workers)
        assert pool.summary["digest"] == loop.summary["digest"]
        assert pool.points == loop.points


def test_arrays_of_one_message_do_not_mix() -> None:
    # each becomes a tensor for a moment: the next one must not be taken for it because it gets the same identity
    memory = mmap.mmap(-1, 1 << 16)
    shelf = Shelf(memory, Region(0, 1 << 16), {}, is_parent=True)
    given = [np.arange(k + 1) for k in range(20)] + [torch.arange(12).reshape(3, 4).T + k for k in range(20)]
    back = shelf.read(shelf.write(given, [], {}, {}, set()))
    assert [b.tolist() for b in back] == [g.tolist() for g in given]


@dataclass(frozen=True, kw_only=True)
class Sorts(Method):
    """Sends every kind of value there and back."""

    def init(self, node: SimNode, x: Params) -> State:  # type: ignore[override]
        return {"x": x, "seen": []}

    def round(self, node: SimNode, s: State) -> State:  # type: ignore[override]
        x = s["x"]
        half = x[width(0.5)]
        tree = {"x": half, "t": torch.arange(6).reshape(2, 3), "n": np.arange(3.0), "s": ("a", None, True, 2, 0.5), "i": np.int64(7)}
        out = node.fetch(node.map(self.back, node.clients, tree))
        node.report(model=x, total=float(sum(o["n"].sum() for o in out)))
        return {"x": x, "seen": out}

    def back(self, here: Here, tree: Any) -> Any:
        here.cost(seconds=1.0)
        here.state["kept"] = tree["t"]
        return {**tree, "again": tree["t"], "more": tree["x"] * 2.0, "name": len(here.state.get("kept", ()))}


def test_every_kind_of_value_survives_the_trip() -> None:
    loop, pool = run(Sorts(), "loop", None), run(Sorts(), "pool", 2)
    assert pool.summary["digest"] == loop.summary["digest"]
    assert pool.points == loop.points


@dataclass(frozen=True, kw_only=True)
class Fails(Method):
    """Fails in a device function."""

    how: str = "value"

    def init(self, node: SimNode, x: Params) -> State:  # type: ignore[override]
        return {"x": x}

    def round(self, node: SimNode, s: State) -> State:  # type: ignore[override]
        node.fetch(node.map(self.fail, node.clients))
        return s

    def fail(self, here: Here) -> float:
        here.cost(seconds=1.0)
        if here.is_dry:
            return 1.0
        if self.how == "die":
            os._exit(3)
        if self.how == "scenario":
            raise ScenarioError("bad input at the device")
        raise ValueError("nobody home")


def test_a_failure_in_a_worker_is_named_as_in_the_loop() -> None:
    with pytest.raises(RunFailed, match=r"fail at device '\w', round 0, issued at test_pool\.py:\d+: ValueError: nobody home"):
        run(Fails(), "pool", 2)
    with pytest.raises(ScenarioError, match="bad input at the device"):
        run(Fails(how="scenario"), "pool", 2)


def test_a_worker_that_dies_is_reported() -> None:
    with pytest.raises(RunFailed, match=r"worker process \d+ ended while it ran"):
        run(Fails(how="die"), "pool", 2)


def test_unknown_executors_are_refused() -> None:
    with pytest.raises(ScenarioError, match="allowed are auto, loop, pool"):
        run(FedAvg(), "fast", None)
    with pytest.raises(ScenarioError, match="workers=0"):
        run(FedAvg(), "pool", 0)
