"""The rung of a run: chosen before its first call, written down, kept by pool and resume, and the same numbers each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import airloom
from airloom.engines.executors import make_executor
from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.models.fast import Fast
from airloom.program.here import Here
from airloom.records.record import load
from airloom.runner import Options, Runner
from tests.engines.test_freeze import scenario

SMALL = {"scenario.devices": 4, "scenario.base_stations": 1, "local_steps": 3}


def run(fast: str, executor: str = "loop", method: Any = None) -> Any:
    options = Options(budget={"rounds": 2}, executor=executor, workers=2, fast=fast, checkpoint_every_s=None)
    return Runner(scenario(), method or FedAvg(local_steps=3), 1, options, None, {}, None).run()


def test_loop_and_pool_agree_on_every_rung() -> None:
    for fast in ("off", "replay", "kernel"):
        assert run(fast).summary["digest"] == run(fast, "pool").summary["digest"] == run(fast).summary["digest"]


def test_header_names_the_rung_and_resume_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"set": SMALL, "executor": "loop", "target": None, "checkpoint_every_s": 0.0}
    for fast, name in (("auto", Fast("auto").name), ("off", "off")):
        whole = airloom.run("fedavg", budget={"rounds": 4}, fast=fast, out=None, **given)
        out = tmp_path / fast

        def stop(point: Any) -> None:
            if point["round"] == 2:
                raise KeyboardInterrupt

        assert airloom.run("fedavg", budget={"rounds": 4}, fast=fast, out=out, progress=stop, **given).status == "interrupted"
        assert load(out).header["fast"] == name
        rungs: list[str] = []
        monkeypatch.setattr("airloom.runner.Fast", lambda rung, made=Fast, seen=rungs: seen.append(rung) or made(rung))
        assert airloom.resume(out).summary["digest"] == whole.summary["digest"]  # type: ignore[union-attr]
        monkeypatch.undo()
        assert rungs == [name]


def test_resume_keeps_the_executor_that_decides_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"set": SMALL, "target": None, "checkpoint_every_s": 0.0, "budget": {"rounds": 4}, "executor": "stacked"}
    whole = airloom.run("fedavg", out=None, **given)

    def stop(point: Any) -> None:
        if point["round"] == 2:
            raise KeyboardInterrupt

    assert airloom.run("fedavg", out=tmp_path / "run", progress=stop, **given).status == "interrupted"
    assert load(tmp_path / "run").header["executor"] == "stacked" and load(tmp_path / "run").header["device"] == "cpu"
    names: list[tuple[str, str]] = []
    monkeypatch.setattr("airloom.runner.make_executor", lambda *args, made=make_executor: names.append((args[0], args[-1])) or made(*args))
    assert airloom.resume(tmp_path / "run").summary["digest"] == whole.summary["digest"]  # type: ignore[union-attr]
    assert names == [("stacked", "cpu")]


def test_devices_have_no_effect_on_real_machines_and_are_refused() -> None:
    pytest.importorskip("ray")
    with pytest.raises(ScenarioError, match="device='cuda' with engine 'ray': allowed with engine simulated"):
        airloom.run("fedavg", engine="ray", device="cuda", out=None)
    small: dict[str, Any] = {"set": SMALL, "target": None, "budget": {"rounds": 1}, "out": None}
    with pytest.raises(ScenarioError, match=r"device='cuda:77': torch .* sees"):
        airloom.run("fedavg", device="cuda:77", **small)


class Closure(FedAvg):
    """FedAvg with an objective that no script can be made of."""

    def client(self, here: Here, x: Any) -> dict[str, Any]:
        factor = 1.0 + self.lr
        x = here.train(x, steps=self.local_steps, lr=self.lr, batch_size=8, objective=lambda out, batch: factor * out.square().mean())
        return {"x": x, "loss": here.log.loss}


def test_the_record_says_what_fell_back() -> None:
    for executor in ("loop", "pool"):
        (told,) = run("replay", executor, Closure(local_steps=3)).summary["fallbacks"]
        assert "the objective holds a function" in told
    assert run("replay").summary["fallbacks"] == []


def test_an_unknown_rung_is_bad_input() -> None:
    with pytest.raises(ScenarioError, match=r"Options\.fast: got 'warp'; allowed are auto, off, replay, compile, kernel"):
        Options(fast="warp")
