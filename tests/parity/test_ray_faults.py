"""Real processes die, fall silent, fall behind and come back; the run goes on as the simulator says it must."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from airloom import api
from airloom.network.churn import TraceChurn
from tests.parity.methods import Patient
from tests.tiny_world import tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of Ray
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray"),
    pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX"),
]
acted_s: list[float] = []  # when the last run was disturbed, on its clock
WORLD = "tests.tiny_world:tiny"
UNTIL_BACK = "tests.parity.methods:Patient:is_until_back=true"
ALL = "board0 board1 board2 board3"


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "measured.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def disturbed(
    out: Path, acts: Mapping[int, Callable[[dict[str, int]], None]], rounds: int, method: str = "tests.parity.methods:Patient", period_s: float = 0.0
) -> api.Run:
    """Run with `acts[t]` done in the middle of round t, given the process ids of all places."""
    from airloom.engines import ray

    worlds: list[Any] = []
    acted_s.clear()
    begin = ray.RayWorld.__init__

    def noted(self: Any, *args: Any, **rest: Any) -> None:
        begin(self, *args, **rest)
        worlds.append(self)

    timers: list[threading.Timer] = []

    def progress(point: Mapping[str, Any]) -> None:
        act = acts.get(point["round"] + 1)

        def happen() -> None:
            assert act is not None
            acted_s.append(worlds[-1].clock.now_s())
            act(dict(worlds[-1].pids))

        if act is not None:
            timers.append(threading.Timer(max(0.0, period_s * (point["round"] + 1) - point["seconds"]) + 0.3, happen))
            timers[-1].start()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray.RayWorld, "__init__", noted)
        try:
            return api.run(
                method, scenario=WORLD, engine="ray", budget={"rounds": rounds}, target=None, out=out, checkpoint_every_s=None, progress=progress
            )  # fmt: skip
        finally:
            for timer in timers:
                timer.join()


def kill(*names: str, signal: int = signal.SIGKILL) -> Callable[[dict[str, int]], None]:
    def act(pids: dict[str, int]) -> None:
        for name in names:
            os.kill(pids[name], signal)

    return act


def simulated(out: Path, real: api.Run, killed: list[str], rounds: int, method: Patient) -> api.Run:
    """The simulator in the same world: devices die when they were killed, are found out as late, and come back when they did."""
    assert real.out is not None
    seen = lines(real.out, "presence")
    changes: dict[str, list[tuple[float, bool]]] = {name: [(at_s, False)] for name, at_s in zip(killed, acted_s, strict=True)}
    for line in seen:
        if line["is_there"]:
            changes[line["place"]].append((line["seconds"], True))
    scenario = tiny(seed=0)
    detect_s = max(0.0, seen[0]["seconds"] - acted_s[0])
    scenario = replace(scenario, network=replace(scenario.network, churn=TraceChurn(changes=changes), on_leave="wipe", detect_s=detect_s))
    return api.run(method, scenario=scenario, budget={"rounds": rounds}, target=None, out=out, executor="loop", checkpoint_every_s=None)


def test_a_killed_place_is_lost_and_used_again_when_it_is_back(tmp_path: Path) -> None:
    real = disturbed(tmp_path / "real", {2: kill("board1")}, 200, UNTIL_BACK)
    came = [point["came"] for point in real.points]
    t = next(t for t, point in enumerate(real.points) if point["lost"])
    assert came[:t] == [ALL] * t
    assert came[t] == "board0 board2 board3" and real.points[t]["lost"] == "board1"  # the survivors' mean
    assert real.status == "done" and came[-2:] == [ALL, ALL]  # Ray has started it again
    assert all("board1" not in point["sent"] for point in real.points[t + 1 : -2])
    assert [line["is_there"] for line in lines(tmp_path / "real", "presence")] == [False, True]


def test_half_of_the_places_die_in_one_round(tmp_path: Path) -> None:
    rounds = 5
    real = disturbed(tmp_path / "real", {1: kill("board0", "board3"), 3: kill("board1")}, rounds)
    assert len(real.points) == rounds
    t = next(t for t, point in enumerate(real.points) if point["lost"])
    assert real.points[t]["came"] == "board1 board2" and real.points[t]["lost"] == "board0 board3"
    for point in real.points:  # everybody who was asked came once, was lost once, or not at all
        told = point["came"].split() + point["lost"].split()
        assert sorted(told) == sorted(point["sent"].split()) and len(set(told)) == len(told)
    calls = [(line["round"], line["place"]) for line in lines(tmp_path / "real", "call")]
    assert len(set(calls)) == len(calls)


def test_the_simulator_with_the_same_losses_has_the_same_cohorts(tmp_path: Path) -> None:
    # rounds begin every 5 s and work takes 2 s in both, so that a busy machine's noise does not move a loss into another round
    method, rounds = Patient(work_s=2.0, period_s=5.0), 5
    text = "tests.parity.methods:Patient:work_s=2.0,period_s=5.0"
    real = disturbed(tmp_path / "real", {1: kill("board2"), 3: kill("board0")}, rounds, text, method.period_s)
    again = simulated(tmp_path / "again", real, ["board2", "board0"], rounds, method)
    assert [point["lost"] for point in real.points if point["lost"]] == ["board2", "board0"]
    names = ("sent", "came", "lost", "late")
    assert [[point[name] for name in names] for point in again.points] == [[point[name] for name in names] for point in real.points]


def test_a_slow_place_misses_the_round_and_is_in_the_next(tmp_path: Path) -> None:
    def slow(pids: dict[str, int]) -> None:
        os.kill(pids["board1"], signal.SIGSTOP)
        time.sleep(4.0)  # less than the engine's patience: it is late, not lost
        os.kill(pids["board1"], signal.SIGCONT)

    real = disturbed(tmp_path / "real", {2: slow}, 6, "tests.parity.methods:Patient:work_s=1.5,timeout_s=2.8")
    late = [point for point in real.points if point["late"] == "board1"]
    assert late and all(point["came"] == "board0 board2 board3" for point in late)
    assert not any(point["lost"] for point in real.points) and real.points[-1]["came"] == ALL
    assert not lines(tmp_path / "real", "presence")


def test_a_silent_place_is_given_up_and_taken_back(tmp_path: Path) -> None:
    def silent(pids: dict[str, int]) -> None:
        os.kill(pids["board1"], signal.SIGSTOP)
        threading.Timer(9.0, lambda: os.kill(pids["board1"], signal.SIGCONT)).start()

    real = disturbed(tmp_path / "real", {2: silent}, 200, UNTIL_BACK)
    came = [point["came"] for point in real.points]
    t = next(t for t, point in enumerate(real.points) if point["lost"])
    assert real.points[t]["lost"] == "board1" and came[t] == "board0 board2 board3"
    assert real.status == "done" and "board1" not in real.points[t + 1]["sent"] and came[-1] == ALL
    assert [line["is_there"] for line in lines(tmp_path / "real", "presence")] == [False, True]
    assert len({line["pid"] for line in lines(tmp_path / "real", "process") if line["place"] == "board1"}) == 1


@pytest.mark.parametrize("method", ["mtgc:group_rounds=2,local_steps=2"])
def test_a_killed_driver_goes_on_from_the_last_round(method: str, tmp_path: Path) -> None:
    words = ["run", method, "--scenario", WORLD, "--engine", "ray", "--budget", "rounds=40", "--target", "none", "--checkpoint-every", "0"]
    first = subprocess.Popen([sys.executable, "-m", "airloom", *words, "--out", str(tmp_path / "run")], start_new_session=True)
    record = tmp_path / "run" / "record.jsonl"
    until = time.monotonic() + 300
    while time.monotonic() < until and not (record.is_file() and record.read_bytes().count(b'"kind":"point"') >= 5):
        time.sleep(0.02)
    assert first.poll() is None
    first.kill()
    first.wait()
    pids = {line["pid"] for line in lines(tmp_path / "run", "process")}
    resumed = subprocess.run(
        [sys.executable, "-m", "airloom", "resume", str(tmp_path / "run"), "--json"], capture_output=True, text=True, timeout=300
    )
    assert resumed.returncode == 0, resumed.stderr
    told = json.loads(resumed.stdout)
    assert told["rounds"] == 40 and told["clock"] == "measured"
    points = api.show(tmp_path / "run").points  # type: ignore[union-attr]
    assert [point["round"] for point in points] == list(range(40))
    assert all(a["seconds"] < b["seconds"] and a["bytes_up"] < b["bytes_up"] for a, b in itertools.pairwise(points))
    whole = api.run(method, scenario=WORLD, budget={"rounds": 40}, target=None, out=tmp_path / "whole", executor="loop", checkpoint_every_s=None)
    one, two = load_file(tmp_path / "run" / "model.safetensors"), load_file(whole.out / "model.safetensors")  # type: ignore[operator]
    assert all((one[name] == two[name]).all() for name in two)
    until = time.monotonic() + 30
    while time.monotonic() < until and any(_is_alive(pid) for pid in pids):
        time.sleep(0.2)
    assert not any(_is_alive(pid) for pid in pids)  # a dead driver leaves nothing behind


def _is_alive(pid: int) -> bool:
    try:
        return b"PlaceActor" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
