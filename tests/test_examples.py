"""The examples and the tutorial's method do what their pages say: in Python, from the command line, and as files in a folder of a stranger."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

import airloom
from airloom.cli import main
from airloom.resolve import load_module
from airloom.runner import Run

REPOSITORY = Path(__file__).resolve().parent.parent
FLEET = str(REPOSITORY / "examples" / "own_fleet.py")
METHOD = str(REPOSITORY / "examples" / "own_method.py") + ":MyMethod"
PAGE = REPOSITORY / "docs" / "tutorial_new_method.md"
BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)


def tried(method: str, *, rounds: int = 1, latency_s: float = 0.04, executor: str = "loop") -> Run:
    """A short run in the example's fleet, without a record."""
    changes = {"scenario.latency_s": latency_s}
    return airloom.run(method, scenario=FLEET, set=changes, budget={"rounds": rounds}, target=None, executor=executor, workers=2, out=None)


def test_the_fleet_is_what_its_files_say() -> None:
    world = tried("fedavg").header
    assert world["network"]["profiles"] == {"cloud": 1, "meter": 6, "board": 4, "gateway": 2}
    assert world["network"]["rates"] == {"trace": 10, "fixed": 14}
    assert world["task"]["model"]["values"] == 3124


def test_the_seconds_of_a_round_by_hand() -> None:
    run = tried("fedavg:local_steps=10,batch_size=16")
    # The slowest device is a meter (1e8 FLOP/s sustained). A message: 3124 float32 and 64 bytes of framing = 12,560 bytes, the answer 8 more (loss).
    # Down at 2 Mbit/s: 0.05024 s + 0.04 s. Up in the first 4 s of the trace at 600 kbit/s: 12,568 * 8 / 6e5 = 0.1675733 s + 0.04 s.
    # Convolutions, per sample: 28 x 16 x 9 and 10 x 16 x 16 x 9 products, the linear layer 160 x 4: 4,032 + 23,040 + 640. Forward and the gradient
    # of the weights take 2 FLOPs per product each, the gradient of the inputs 2 more in all layers but the first: 2 * (2 * 27,712 + 23,680).
    compute_s = 10 * 16 * 2 * (2 * 27_712 + 23_680) / 1e8
    assert run.summary["seconds"] == pytest.approx(0.05024 + 0.04 + compute_s + 0.16757333 + 0.04, rel=1e-6)
    assert (run.summary["bytes_down"], run.summary["bytes_up"]) == (12 * 12_560, 12 * 12_568)


def test_a_message_in_the_outage_waits_for_its_end() -> None:
    # Clients begin one after another; the trace is silent from 10 s to 12 s of every 20 s.
    run = airloom.run("sequential_fl", scenario=FLEET, budget={"seconds": 13.0}, target=None, out=None, executor="loop")
    assert run.points[-1]["seconds"] > 12.0


def test_own_fields_reach_the_scenario() -> None:
    slow, fast = tried("fedavg", latency_s=1.04), tried("fedavg")
    assert slow.summary["seconds"] - fast.summary["seconds"] == pytest.approx(2.0)


def test_the_own_loop_learns_and_pays_for_it() -> None:
    run = tried(METHOD, rounds=6)
    assert run.summary["metrics"]["loss"] < 1.2 < run.points[0]["loss"]
    board = run.summary["devices"]["board0"]
    rows = 16 * board["flops"] / (6 * 3124 * 16)  # declared: 6 FLOPs per value and sample
    assert rows == pytest.approx(round(rows))
    assert board["busy_s"]["cpu"] == pytest.approx(board["flops"] / 4.8e9)


def test_the_own_loop_is_the_same_in_a_pool() -> None:
    runs = [tried(METHOD, rounds=2, executor=executor) for executor in ("loop", "pool")]
    assert runs[0].summary["digest"] == runs[1].summary["digest"]
    assert runs[0].summary["flushes"] == 2  # priced by a dry run, so that the calls of a round run together


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["run", METHOD, "--scenario", FLEET, "--budget", "rounds=1", "--out", str(tmp_path / "run"), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert (status, answer["method"], answer["scenario"], answer["rounds"]) == (0, "MyMethod", "own_fleet", 1)
    options = ["--scenario", FLEET, "--budget", "rounds=1", "--seeds", "1", "--workers", "1", "--out", str(tmp_path / "both"), "--json"]
    status = main(["compare", "fedavg", METHOD, *options])
    answer = json.loads(capsys.readouterr().out)
    assert (status, [row["method"] for row in answer["rows"]]) == (0, ["fedavg", "MyMethod"])


@pytest.fixture
def nova(tmp_path: Path) -> Path:
    """The method file and the test file of the tutorial, written down as a reader would."""
    found = BLOCK.findall(PAGE.read_text())
    method, first_line = found[0], next(block for block in found if block.startswith("from fednova"))
    test = next(block for block in found if "def test_one_round_by_hand" in block)
    (tmp_path / "fednova.py").write_text(method)
    (tmp_path / "test_fednova.py").write_text(first_line + test)
    return tmp_path


def test_the_method_of_the_tutorial_passes_its_tests(nova: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(nova))
    try:
        tests = [thing for name, thing in vars(load_module(str(nova / "test_fednova.py"))).items() if name.startswith("test_")]
        assert len(tests) == 3
        for test in tests:
            test()
    finally:
        sys.modules.pop("fednova", None)


def test_the_method_of_the_tutorial_from_the_command_line(nova: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(nova)
    small = ["--set", "scenario.devices=4", "--set", "scenario.base_stations=1", "--budget", "rounds=1"]
    assert main(["run", "fednova.py:FedNova", "--scenario", "phones", *small, "--set", "local_epochs=1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["method"] == "FedNova"
    assert main(["run", "fednova.py:FedNova", "--scenario", "phones", *small, "--set", "lr=-1"]) == 2
    assert "FedNova.lr: got -1.0" in capsys.readouterr().err
