"""A run that is stopped at a round boundary and brought back from its checkpoint ends bit for bit as if it had never stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airloom.errors import Unsupported
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedbuff import FedBuff
from airloom.methods.mtgc import MTGC
from airloom.methods.scaffold import Scaffold
from airloom.methods.sequential_fl import SequentialFL
from airloom.models.params import Params
from airloom.network.cell import Cell
from airloom.network.churn import TraceChurn
from airloom.program.here import Here
from airloom.program.method import Method, State
from airloom.program.node import Node
from airloom.records import checkpoint
from airloom.runner import Options, Runner
from airloom.scenarios.scenario import Scenario
from tests.stars import star_scenario
from tests.worlds import device, task_for, world


@dataclass(frozen=True, kw_only=True)
class Overlapping(Method):
    """Sends, and computes on while it sends: calls are running and values are on the air at every round boundary."""

    def init(self, node: Node, x: Params) -> State:
        return {"x": x, "t": 0, "late": []}

    def round(self, node: Node, s: State) -> State:
        sent = node.map(self.send, node.clients, s["x"])
        late = node.map(self.go_on, node.clients)
        x = node.reduce(sent)
        node.report(round=s["t"], model=x)
        return {"x": x, "t": s["t"] + 1, "late": late}

    def send(self, here: Here, x: Params) -> Params:
        here.state["x"] = here.train(x, steps=2, lr=0.1, batch_size=8)
        return here.state["x"]

    def go_on(self, here: Here) -> None:
        here.state["x"] = here.train(here.state["x"], steps=9, lr=0.1, batch_size=8)


@dataclass(frozen=True, kw_only=True)
class LeavesAProgram(Method):
    """Has a program alive at the boundary, which no checkpoint can hold."""

    def init(self, node: Node, x: Params) -> State:
        return {"t": 0}

    def round(self, node: Node, s: State) -> State:
        node.program(node.children[0], self.sleeper)
        node.sleep(node.now_s + 1.0)
        node.report(round=s["t"])
        return {"t": s["t"] + 1}

    def sleeper(self, node: Node) -> None:
        node.sleep(node.now_s + 100.0)


def scenario(*, is_lossy: bool = False, sharing: str = "tdma") -> Scenario:
    left, right = Cell(name="left", bandwidth_hz=8e6, sharing=sharing), Cell(name="right", bandwidth_hz=4e6, sharing=sharing)  # type: ignore[arg-type]
    pairs: dict[tuple[str, str], Any] = {("e", "hub"): 1e8, ("f", "hub"): 1e8}
    pairs |= {(name, "e"): left for name in "abc"} | {(name, "f"): right for name in "dgh"}
    speeds = {name: device(speed) for name, speed in zip("abcdgh", (1e9, 2e9, 3e9, 1e9, 5e9, 9e9), strict=True)}
    churn = TraceChurn(changes={"b": [(6.0, False), (11.0, True)], "g": [(9.0, False)]}) if is_lossy else None
    network = world(pairs, devices=speeds, churn=churn, latency_s=0.01, detect_s=0.5)
    return Scenario(name="small", network=network, task=task_for(network), budget={"rounds": 6})


METHODS = [
    FedAvg(local_steps=3),
    Scaffold(local_steps=3, fraction=0.5),
    FedBuff(local_steps=3, buffer=2),
    MTGC(local_steps=2, group_rounds=2),
    SequentialFL(local_steps=2, fraction=0.5),
    Overlapping(),
]


def go(world: Scenario, method: Method, rounds: int, folder: Path | None, frozen: Any = None) -> Any:
    options = Options(budget={"rounds": rounds}, executor="loop", checkpoint_every_s=0.0 if folder is not None else None)
    return Runner(world, method, 3, options, folder, {"method": type(method).__name__, "seed": 3, "scenario": world.name}, None).run(frozen)


@pytest.mark.parametrize("is_lossy", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_resume_at_every_round_ends_with_the_same_digest(method: Method, is_lossy: bool, tmp_path: Path) -> None:
    whole = go(scenario(is_lossy=is_lossy), method, 4, None)
    for rounds in range(1, 4):
        folder = tmp_path / str(rounds)
        go(scenario(is_lossy=is_lossy), method, rounds, folder)
        resumed = go(scenario(is_lossy=is_lossy), method, 4, None, checkpoint.load(folder / "checkpoint.safetensors"))
        assert resumed.summary["digest"] == whole.summary["digest"]
        assert resumed.points == whole.points[rounds:]
        assert resumed.summary["devices"] == whole.summary["devices"]


def test_resume_with_bands_of_their_own(tmp_path: Path) -> None:
    method = FedBuff(local_steps=3, buffer=2)
    whole = go(scenario(sharing="fdma"), method, 4, None)
    go(scenario(sharing="fdma"), method, 2, tmp_path / "r")
    resumed = go(scenario(sharing="fdma"), method, 4, None, checkpoint.load(tmp_path / "r" / "checkpoint.safetensors"))
    assert resumed.summary["digest"] == whole.summary["digest"]


def test_a_program_alive_at_the_boundary_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"sleeper at 'e'"):
        go(scenario(), LeavesAProgram(), 2, tmp_path / "r")


@pytest.mark.parametrize(("every_s", "took_s", "saves"), [(2.0, 0.0, 20), (2.0, 1.0, 3), (0.0, 1.0, 40)])
def test_a_checkpoint_that_took_long_is_not_followed_by_another_soon(
    every_s: float, took_s: float, saves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 40 rounds of a second: every second one is due; one that took a second, begun at 2 s, is followed at 22 s and at 42 s (round 40); 0 wants each
    now_s, count = 0.0, 0

    def save(*_: object) -> None:
        nonlocal now_s, count
        now_s, count = now_s + took_s, count + 1

    monkeypatch.setattr("airloom.runner.checkpoint.save", save)
    monkeypatch.setattr("airloom.runner.freeze", lambda *_: ({}, {}))
    monkeypatch.setattr("airloom.runner.time.monotonic", lambda: now_s)
    runner = Runner(star_scenario(), FedAvg(), 0, Options(budget={"rounds": 40}, checkpoint_every_s=every_s), tmp_path, {}, None)
    monkeypatch.setattr(runner, "_extra", dict)
    for _ in range(40):
        now_s += 1.0
        runner._checkpoint(None, {})  # pyright: ignore[reportPrivateUsage, reportArgumentType]
    assert count == saves
