"""Real processes die, fall silent, fall behind and come back; the run goes on as the simulator says it must.

Nothing here depends on how fast the machine is: a round is held (`Patient.gate`) until what is to happen in it has been seen.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from airloom import api
from airloom.network.churn import TraceChurn
from tests.parity.methods import Gate, Patient, until
from tests.parity.replay import replayed
from tests.tiny_world import tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of Ray
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray"),
    pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX"),
]
WORLD = "tests.tiny_world:tiny"
ALL = "board0 board1 board2 board3"
COMMAND_S = 600.0


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "measured.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


class Disturbed:
    """A run on Ray in this process, and what can be done to its places while its rounds are held."""

    def __init__(self, folder: Path) -> None:
        self.gate = Gate(folder / "gate")
        self.world: Any = None
        self.acted_s: list[float] = []  # when places were killed, on the run's clock
        self.reported_s = 0.0

    def await_clients(self, t: int, names: str) -> None:
        until(lambda: self.gate.is_at(t, *names.split()), f"round {t} at {names}")

    def signal(self, names: str, number: int) -> None:
        for name in names.split():
            os.kill(self.world.pids[name], number)

    def kill(self, t: int, at_work: str, names: str) -> None:
        """Kill places in the middle of a round, and let it go on when everybody knows."""
        self.await_clients(t, at_work)
        self.acted_s.append(self.world.clock.now_s())
        self.signal(names, signal.SIGKILL)
        self.await_presence(names, False)

    def await_presence(self, names: str, is_there: bool) -> None:
        until(lambda: all((name not in self.world.peer.absent) is is_there for name in names.split()), f"{names} {'back' if is_there else 'gone'}")

    def await_quarter(self) -> None:
        """What happened in this round happened in its first quarter."""
        until(lambda: self.world.clock.now_s() > self.acted_s[-1] + 3 * (self.acted_s[-1] - self.reported_s), "a longer round")

    def run(self, out: Path, acts: Mapping[int, Callable[[], None]], rounds: int, fields: str = "", world: str = WORLD) -> api.Run:
        """Run with `acts[t]` done in the middle of round t, which is held meanwhile."""
        from airloom.engines import ray

        begin = ray.RayWorld.__init__
        failed: list[BaseException] = []
        is_over = threading.Event()
        self.gate.hold(*acts)

        def noted(world: Any, *args: Any, **rest: Any) -> None:
            begin(world, *args, **rest)
            self.world = world

        def progress(point: Mapping[str, Any]) -> None:
            self.reported_s = point["seconds"]

        def disturb() -> None:
            try:
                until(lambda: self.world is not None or is_over.is_set(), "the run", 4 * COMMAND_S)
                for t, act in sorted(acts.items()):
                    until(lambda t=t: any(self.gate.is_at(t, name) for name in ALL.split()), f"round {t}")
                    act()
                    self.gate.release(t)
            except BaseException as error:
                failed.append(error)
            finally:
                self.gate.release(*acts)

        thread = threading.Thread(target=disturb)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ray.RayWorld, "__init__", noted)
            thread.start()
            try:
                method = f"tests.parity.methods:Patient:gate={self.gate.folder}{fields}"
                run = api.run(
                    method, scenario=world, engine="ray", budget={"rounds": rounds}, target=None, out=out, checkpoint_every_s=None, progress=progress
                )  # fmt: skip
            finally:
                is_over.set()
                thread.join()
        assert not failed, failed[0]
        return run


def told_once(real: api.Run) -> None:
    """Everybody who was asked came once or was lost once, and no call of a round has two ends."""
    for point in real.points:
        told = [*point["came"].split(), *point["lost"].split(), *point["late"].split()]
        assert sorted(told) == sorted(point["sent"].split()) and len(set(told)) == len(told)
    assert real.out is not None
    calls = [(line["round"], line["place"]) for line in lines(real.out, "call")]
    assert len(set(calls)) == len(calls)


def test_a_killed_place_is_lost_and_used_again_when_it_is_back(tmp_path: Path) -> None:
    it = Disturbed(tmp_path)
    acts = {2: lambda: it.kill(2, ALL, "board1"), 3: lambda: it.await_presence("board1", True)}
    real = it.run(tmp_path / "real", acts, 6)
    came = [point["came"] for point in real.points]
    assert came[:3] == [ALL, ALL, "board0 board2 board3"] and came[4:] == [ALL, ALL]
    assert [point["lost"] for point in real.points] == ["", "", "board1", "", "", ""]
    assert [(line["place"], line["is_there"]) for line in lines(tmp_path / "real", "presence")] == [("board1", False), ("board1", True)]
    told_once(real)


def test_half_of_the_places_die_in_one_round(tmp_path: Path) -> None:
    it = Disturbed(tmp_path)
    acts = {
        1: lambda: it.kill(1, ALL, "board0 board3"),
        2: lambda: it.await_presence("board0 board3", True),
        3: lambda: it.kill(3, ALL, "board1"),
    }
    real = it.run(tmp_path / "real", acts, 5)
    assert len(real.points) == 5
    assert [(point["came"], point["lost"]) for point in (real.points[1], real.points[3])] == [
        ("board1 board2", "board0 board3"), ("board0 board2 board3", "board1"),
    ]  # fmt: skip
    told_once(real)


def simulated(out: Path, real: api.Run, killed: dict[str, float]) -> api.Run:
    """The simulator in the same world: rounds begin when they did, places die when they were killed, and come back when they did."""
    assert real.out is not None
    seen = lines(real.out, "presence")
    changes: dict[str, list[tuple[float, bool]]] = {name: [(at_s, False)] for name, at_s in killed.items()}
    for line in seen:
        if line["is_there"]:  # noted after the fact: it was there at the latest when a round was sent to it
            sent_s = [point["began_s"] for point in real.points if point["began_s"] > killed[line["place"]] and line["place"] in point["sent"]]
            changes[line["place"]].append((min([line["seconds"], *sent_s]), True))
    detect_s = min(line["seconds"] - killed[line["place"]] for line in seen if not line["is_there"])
    begins = [point["began_s"] for point in real.points]
    works = [0.5 * (ended_s - began_s) for began_s, ended_s in itertools.pairwise([*begins, real.points[-1]["seconds"]])]
    scenario = tiny(seed=0, up_bps=1e9)
    scenario = replace(scenario, network=replace(scenario.network, churn=TraceChurn(changes=changes), on_leave="wipe", detect_s=max(0.0, detect_s)))
    method = Patient(begins=tuple(begins), works=tuple(works))
    return api.run(method, scenario=scenario, budget={"rounds": len(begins)}, target=None, out=out, executor="loop", checkpoint_every_s=None)


def test_the_simulator_with_the_same_losses_has_the_same_cohorts(tmp_path: Path) -> None:
    it = Disturbed(tmp_path)

    def kill(t: int, name: str) -> Callable[[], None]:
        return lambda: (it.kill(t, ALL, name), it.await_quarter())[0]

    acts = {1: kill(1, "board2"), 2: lambda: it.await_presence("board2", True), 3: kill(3, "board0"), 4: lambda: it.await_presence("board0", True)}
    real = it.run(tmp_path / "real", acts, 6, ",work_s=1.0")
    again = simulated(tmp_path / "again", real, dict(zip(("board2", "board0"), it.acted_s, strict=True)))
    assert [point["lost"] for point in real.points if point["lost"]] == ["board2", "board0"]
    names = ("sent", "came", "lost", "late")
    assert [[point[name] for name in names] for point in again.points] == [[point[name] for name in names] for point in real.points]


def test_a_slow_place_misses_the_round_and_is_in_a_later_one(tmp_path: Path) -> None:
    """It is stopped at work, and goes on when the others have been waited for and it has not."""
    it = Disturbed(tmp_path)

    def slow() -> None:
        it.await_clients(1, ALL)
        it.signal("board1", signal.SIGSTOP)
        threading.Thread(target=wake).start()

    def wake() -> None:
        try:
            until(lambda: any(line["kind"] == "first" and len(line["arrived"]) == 3 for line in list(it.world.peer.lines)), "a round without board1")
        finally:
            it.signal("board1", signal.SIGCONT)

    real = it.run(tmp_path / "real", {1: slow}, 6, ",timeout_s=15.0")
    late = [point for point in real.points if point["late"]]
    assert [(point["round"], point["came"], point["late"]) for point in late] == [(1, "board0 board2 board3", "board1")]
    assert not any(point["lost"] for point in real.points) and real.points[-1]["came"] == ALL
    assert not lines(tmp_path / "real", "presence")


def test_a_silent_place_is_given_up_and_taken_back(tmp_path: Path) -> None:
    it = Disturbed(tmp_path)

    def silent() -> None:
        it.await_clients(2, ALL)
        it.signal("board1", signal.SIGSTOP)
        it.await_presence("board1", False)

    def back() -> None:
        it.signal("board1", signal.SIGCONT)
        it.await_presence("board1", True)

    real = it.run(tmp_path / "real", {2: silent, 3: back}, 6, world="tests.parity.test_ray_faults:alert")
    came, survivors = [point["came"] for point in real.points], "board0 board2 board3"
    assert came == [ALL, ALL, survivors, survivors, ALL, ALL]
    assert [point["lost"] for point in real.points] == ["", "", "board1", "", "", ""]
    assert [line["is_there"] for line in lines(tmp_path / "real", "presence")] == [False, True]
    assert len({line["pid"] for line in lines(tmp_path / "real", "process") if line["place"] == "board1"}) == 1


def alert(*, seed: int) -> Any:
    """The tiny world where who is silent for 16 s is given up."""
    return tiny(seed=seed, detect_s=16.0)


DRIVER = """
import os, signal, sys, threading
from airloom import api

def progress(point):
    if point["round"] == 4:
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGKILL)).start()

method, scenario, out = sys.argv[1:]
api.run(method, scenario=scenario, engine="ray", budget={"rounds": 40}, target=None, out=out, checkpoint_every_s=0.0, progress=progress)
"""


def cut(method: str, tmp_path: Path) -> list[dict[str, Any]]:
    """A run whose driver dies in a round and which is resumed by the command line; its points."""
    out = tmp_path / "run"
    first = subprocess.run([sys.executable, "-c", DRIVER, method, WORLD, str(out)], start_new_session=True, timeout=COMMAND_S)
    assert first.returncode == -signal.SIGKILL
    pids = {line["pid"] for line in lines(out, "process")}
    command = [sys.executable, "-m", "airloom", "resume", str(out), "--json"]
    resumed = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S)
    assert resumed.returncode == 0, resumed.stderr
    told = json.loads(resumed.stdout)
    assert told["rounds"] == 40 and told["clock"] == "measured"
    points = api.show(out).points  # type: ignore[union-attr]
    assert [point["round"] for point in points] == list(range(40))
    assert all(a["seconds"] < b["seconds"] and a["bytes_up"] <= b["bytes_up"] for a, b in itertools.pairwise(points))
    until(lambda: not any(_is_alive(pid) for pid in pids), "the end of the places of a dead driver")  # it leaves nothing behind
    return points


@pytest.mark.parametrize("method", ["mtgc:group_rounds=2,local_steps=2", "fedbuff:buffer=4,refill=step,local_steps=2"])
def test_a_killed_driver_goes_on_from_the_last_round(method: str, tmp_path: Path) -> None:
    cut(method, tmp_path)
    arrivals = {line["round"]: line for line in lines(tmp_path / "run", "first")}  # what the dead driver took in its last round is not what counts
    (tmp_path / "arrivals").write_text("".join(json.dumps(line) + "\n" for line in arrivals.values()))
    with replayed(tmp_path / "arrivals"):
        whole = api.run(method, scenario=WORLD, budget={"rounds": 40}, target=None, out=tmp_path / "whole", executor="loop", checkpoint_every_s=None)
    one, two = load_file(tmp_path / "run" / "model.safetensors"), load_file(whole.out / "model.safetensors")  # type: ignore[operator]
    assert all((one[name] == two[name]).all() for name in two)


def test_a_killed_driver_goes_on_with_calls_under_way(tmp_path: Path) -> None:
    """At every round boundary two clients are still at work: they begin again, and no update counts twice or is lost."""
    cut("fedbuff:buffer=2,refill=step,local_steps=2", tmp_path)
    taken = {line["round"]: line for line in lines(tmp_path / "run", "first")}
    assert sorted(taken) == list(range(40)) or sorted(taken) == list(range(1, 41))
    assert all(len(line["arrived"]) == 2 and not line["lost"] for line in taken.values())


def _is_alive(pid: int) -> bool:
    try:
        return b"PlaceActor" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
