"""The command line: what it prints where, its exit status, one line per error, and nothing half-written."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from airloom import __version__
from airloom.cli import main
from airloom.records.compare import Comparison
from airloom.records.record import load
from airloom.tasks import datasets

TESTS = Path(__file__).parent
TINY, FAILING = str(TESTS / "tiny_world.py"), str(TESTS / "failing_method.py")
SMALL = ["--scenario", TINY, "--executor", "loop"]
CONTRACT = {
    "method",
    "scenario",
    "engine",
    "clock",
    "seed",
    "seconds",
    "bytes_up",
    "bytes_down",
    "joules",
    "rounds",
    "metrics",
    "reached",
    "digest",
    "out",
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Comparison, "plot", lambda self, path: Path(path).touch())  # figures have tests of their own
    monkeypatch.setenv("COLUMNS", "200")


class Said:
    """What a command said."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def answer(self) -> dict[str, Any]:
        """The one object on standard output."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


@pytest.fixture
def airloom(capsys: pytest.CaptureFixture[str]):
    def call(*arguments: str) -> Said:
        status = main(list(arguments))
        said = capsys.readouterr()
        return Said(status, said.out, said.err)

    return call


# --- the shell ------------------------------------------------------------------------------------------------------------------------


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'pandas', 'scipy', 'sklearn', 'matplotlib', 'networkx'} & set(sys.modules)"
    text = f"import sys; from airloom.cli import main; status = main(['--help']); print({heavy}, file=sys.stderr); sys.exit(status)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(TESTS.parent)})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and done.stderr.strip() == "set()"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5  # seconds of one core; a loaded machine has no say
    commands = set(re.findall(r"^│ (\w+)  ", done.stdout, flags=re.MULTILINE))
    assert commands == {
        *("run", "compare", "resume", "show", "methods", "scenarios", "data", "doctor"),
        *("report", "watch", "trace", "explain", "export", "sweep", "plan", "serve"),
        *("calibrate", "predict"),
        *("up", "down", "key", "admit", "node"),
    }


def test_version_and_unknown_commands(airloom: Any) -> None:
    assert airloom("--version").out == f"airloom {__version__}\n"
    said = airloom("comparee", "fedavg")
    assert said.status == 2 and "compare" in said.err and not said.out
    assert airloom("run").status == 2  # METHOD is missing
    assert airloom("run", "fedavg", "--seed", "one").status == 2


def test_names_are_completed(airloom: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, expected in ((("airloom run fedp"), "fedprox"), (("airloom compare mtgc --scenario pho"), "phones")):
        monkeypatch.setenv("_AIRLOOM_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        assert expected in airloom().out.split()


# --- run ------------------------------------------------------------------------------------------------------------------------------


def test_a_run_as_json(airloom: Any) -> None:
    said = airloom(
        "run", "fedavg:lr=0.3", *SMALL, "--set", "batch_size=4", "--set", "scenario.devices=6", "--seed", "2", "--budget", "rounds=5", "--json"
    )
    answer = said.answer
    assert said.status == 0 and set(answer) >= CONTRACT
    assert (answer["method"], answer["scenario"], answer["seed"], answer["rounds"], answer["status"]) == ("fedavg", "tiny", 2, 5, "budget")
    assert answer["out"] == "runs/tiny-fedavg-2" and isinstance(answer["reached"], bool) and 0 < answer["metrics"]["accuracy"] <= 1
    header = load(answer["out"]).header
    assert (header["fields"]["lr"], header["fields"]["batch_size"], header["task"]["devices"]) == (0.3, 4, 6)


def test_a_run_for_people(airloom: Any) -> None:
    said = airloom("run", "fedavg", *SMALL, "--target", "accuracy=0.0", "--stop-at-target", "--out", "mine")
    assert said.status == 0 and "accuracy 0 % reached" in said.out and said.out.count("\n") == 1
    assert "airloom show mine" in said.err
    shown = airloom("show", "mine")
    assert shown.status == 0 and "fedavg" in shown.out and "target" in shown.out and not shown.err
    assert airloom("show", "mine", "--json").answer["status"] == "target"
    assert airloom("run", "fedavg", *SMALL, "--target", "none", "--json").answer["reached"] is None


BAD = [
    (["run", "fedavgg"], "did you mean fedavg"),
    (["run", "fedavg:lrr=1"], "did you mean lr"),
    (["run", "fedavg:lr=[x"], "open"),
    (["run", "fedavg", "--set", "lr=fast"], "a number"),
    (["run", "fedavg", "--set", "local_steps=1.5"], "an integer"),
    (["run", "fedavg", "--set", "lr"], "name=value"),
    (["run", "fedavg", "--set", "lr=1e9"], "(0, 100]"),
    (["run", "fedavg", "--set", "select=[red]nobody[/red]"], "[red]nobody[/red]"),
    (["run", "fedavg", "--set", "scenario.speed=1"], "devices, up_bps"),
    (["run", "fedavg", "--set", "task.partition=fair"], "dirichlet"),
    (["run", "fedavg", "--target", "accuracy"], "accuracy=0.9"),
    (["run", "fedavg", "--target", "accuracy=high"], "accuracy=0.9"),
    (["run", "fedavg", "--target", "speed=1"], "allowed are accuracy, loss"),
    (["run", "fedavg", "--budget", "hours=1"], "seconds"),
    (["run", "fedavg", "--budget", "seconds=0"], "positive"),
    (["run", "fedavg", "--engine", "cloud"], "simulated, ray"),
    (["compare", "fedavg", "--workers", "many"], "integers >= 1 and ray"),
    (["predict", "fedavg", "--scenario", "gone.json"], "check the path"),
    (["run", "fedavg", "--executor", "magic"], "loop"),
    (["run", "fedavg", "--scenario", "phone"], "did you mean phones"),
    (["run", "fedavg", "--scenario", "gone.py"], "check the path"),
    (["run", "fedavg", "--scenario", "gone.json"], "check the path"),
    (["run", "gone.py"], "check the path"),
    (["run", "mtgc", "--scenario", "lab"], "edge servers"),
    (["compare", "fedavg", "fedavg"], "twice"),
    (["compare", "fedavg", "nobody"], "nobody"),
    (["resume", "gone"], "no record.jsonl"),
    (["show", "gone"], "no such folder"),
    (["data", "where", "gone"], "digits"),
]


@pytest.mark.parametrize(("arguments", "word"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_bad_input_is_one_line_and_leaves_nothing(airloom: Any, tmp_path: Path, arguments: list[str], word: str) -> None:
    given = arguments if arguments[0] not in ("run", "compare") or "--scenario" in arguments else [*arguments, "--scenario", TINY]
    said = airloom(*given)
    assert said.status == 2 and not said.out
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and word in said.err
    assert airloom(*given, "--json").answer["error"]["message"] == said.err.removeprefix("error: ").strip()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["def (", "1 / 0", "x = 1", "import nothing_of_this_name"])
def test_files_that_are_no_method_or_scenario(airloom: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "own.py").write_text(text)
    for arguments in (["run", "own.py", *SMALL], ["run", "fedavg", "--scenario", "own.py"]):
        said = airloom(*arguments)
        assert said.status == 2 and "own.py" in said.err and said.err.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_a_failing_run_ends_with_1_and_names_the_line(airloom: Any) -> None:
    said = airloom("run", FAILING, *SMALL, "--json")
    assert said.status == 1 and said.answer["status"] == "failed" and "no way" in said.answer["error"]
    assert "ValueError: no way" in said.err and re.search(r"\[failing_method\.py:\d+\]", said.err) and "Traceback" not in said.err
    assert len(load("runs/tiny-Failing-0").points) == 2


def test_nothing_is_overwritten(airloom: Any) -> None:
    assert airloom("run", "fedavg", *SMALL, "--out", "mine").status == 0
    before = Path("mine/record.jsonl").read_bytes()
    said = airloom("run", "fedavg", *SMALL, "--out", "mine")
    assert said.status == 2 and "airloom resume mine" in said.err and Path("mine/record.jsonl").read_bytes() == before


def test_interrupt_and_resume(airloom: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = airloom("run", "mtgc", *SMALL, "--json").answer
    from airloom.records.record import RecordWriter

    point = RecordWriter.point

    def interrupted(self: Any, values: Any) -> None:
        point(self, values)
        if values["round"] == 3:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "point", interrupted)
        said = airloom("run", "mtgc", *SMALL, "--out", "mine", "--checkpoint-every", "0")
    signal.signal(signal.SIGINT, before)
    assert said.status == 130 and "airloom resume mine" in said.err and "Traceback" not in said.err
    assert load("mine").status == "interrupted" and len(load("mine").points) == 4
    resumed = airloom("resume", "mine", "--json")
    assert resumed.status == 0 and resumed.answer["digest"] == whole["digest"] and resumed.answer["metrics"] == whole["metrics"]
    again = airloom("resume", "mine")
    assert again.status == 2 and "has ended (budget)" in again.err


# --- compare --------------------------------------------------------------------------------------------------------------------------


def test_a_comparison_as_json_and_for_people(airloom: Any) -> None:
    arguments = ["compare", "fedavg", "fedavg:lr=0.3", *SMALL, "--seeds", "2", "--workers", "1", "--out"]
    said = airloom(*arguments, "a", "--json")
    answer = said.answer
    assert said.status == 0 and set(answer) >= {"rows", "target", "seeds", "out"} and answer["out"] == "a" and answer["seeds"] == 2
    assert [row["method"] for row in answer["rows"]] == ["fedavg", "fedavg:lr=0.3"]
    for row in answer["rows"]:
        assert set(row) >= {"method", "reached", "seconds", "bytes_up", "bytes_down", "joules", "rounds", "metrics", "ratio"}
        assert re.fullmatch(r"[0-2]/2", row["reached"]) and set(row["seconds"]) >= {"mean", "low", "high"}
    assert json.loads(Path("a/compare.json").read_text()) == answer
    assert "fedavg:lr=0.3, seed 1: budget" in said.err
    shown = airloom(*arguments, "b")
    assert shown.status == 0 and "fedavg:lr=0.3" in shown.out and "results in b" in shown.err.splitlines()[-1] and "--tune" in shown.err
    assert airloom("show", "b").out.strip() in shown.out
    assert airloom("show", "b", "--json").answer["rows"] == answer["rows"]


def test_tuning_is_told(airloom: Any) -> None:
    said = airloom("compare", "fedavg:lr=0.3", *SMALL, "--seeds", "1", "--tune", "2", "--budget", "rounds=5", "--workers", "1")
    assert said.status == 0 and re.search(r"tuned fedavg \(2 trials, seed 1000\): local_steps=\d+; by ", said.out)
    assert "seed 1000, trial 1" in said.err and "--seeds 10" in said.err


def test_a_comparison_in_which_all_runs_fail_ends_with_1(airloom: Any) -> None:
    said = airloom("compare", FAILING, *SMALL, "--seeds", "1", "--workers", "1", "--json")
    assert said.status == 1 and said.answer["rows"][0]["reached"] == "0/1" and "every run failed" in said.err


@pytest.mark.slow
def test_an_interrupted_comparison_with_processes_goes_on(airloom: Any, tmp_path: Path) -> None:
    arguments = [
        "compare",
        "fedavg",
        "mtgc",
        "--scenario",
        TINY,
        "--seeds",
        "2",
        "--workers",
        "2",
        "--budget",
        "rounds=240",  # long enough to be interrupted on any machine
        "--checkpoint-every",
        "0",
    ]
    whole = airloom(*arguments, "--out", "whole", "--json").answer
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    with subprocess.Popen([sys.executable, "-m", "airloom", *arguments, "--out", "broken"], stderr=subprocess.PIPE, text=True, env=env) as process:
        ends_s = time.monotonic() + 120
        while time.monotonic() < ends_s and not any(path.read_bytes().count(b"\n") > 5 for path in tmp_path.glob("broken/*/record.jsonl")):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "airloom resume broken" in said and "Traceback" not in said
    states = {load(path.parent).status for path in tmp_path.glob("broken/*/record.jsonl")}
    assert "interrupted" in states and states <= {"interrupted", "budget"}
    resumed = airloom("resume", "broken", "--workers", "2", "--json")
    assert resumed.status == 0 and resumed.answer["rows"] == whole["rows"]


# --- what there is --------------------------------------------------------------------------------------------------------------------


def test_methods_are_listed_with_their_fields(airloom: Any) -> None:
    rows = {row["name"]: row for row in airloom("methods", "--json").answer["methods"]}
    assert rows["mtgc"]["shape"] == "tree" and "2409.18448" in rows["mtgc"]["paper"] and "flower" not in rows["mtgc"]["engines"]
    fields = {field["name"]: field for field in rows["fedavg"]["fields"]}
    assert fields["lr"] == {"name": "lr", "type": "a number", "default": 0.1, "needed": False, "range": "(0, 100]", "tune": [0.03, 0.1, 0.3]}
    assert fields["weights"]["type"] == "samples or equal" and fields["select"]["default"] == "Uniform()"
    assert rows["fedavg"]["engines"] == ["simulated", "ray", "flower"]
    text = airloom("methods").out
    assert "fedavg" in text and "lr = 0.1  a number in (0, 100], tuned over 0.03, 0.1, 0.3" in text


def test_scenarios_are_listed_with_their_fields(airloom: Any) -> None:
    rows = {row["name"]: row for row in airloom("scenarios", "--json").answer["scenarios"]}
    assert {"phones", "lab", "factory"} <= set(rows) and "scenario" not in rows
    assert next(field for field in rows["phones"]["fields"] if field["name"] == "devices")["default"] == 40
    assert next(field for field in rows["writers"]["task"] if field["name"] == "dataset")["default"] == "mnist_writers"
    assert "devices=40" in airloom("scenarios").out


def test_data_sets_are_listed_and_found(airloom: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRLOOM_DATA", raising=False)
    rows = {row["name"]: row for row in airloom("data", "list", "--json").answer["data"]}
    assert set(rows) == set(datasets.names()) and rows["digits"]["found"] and not rows["har"]["found"]
    assert "AIRLOOM_DATA is not set" in airloom("data", "list").out and airloom("data", "where", "digits").out == "digits is built in\n"
    missing = airloom("data", "where", "har")
    assert missing.status == 2 and "har/har_subjects.npz" in missing.err and "AIRLOOM_DATA" in missing.err
    (tmp_path / "har_subjects.npz").touch()
    monkeypatch.setenv("AIRLOOM_DATA", str(tmp_path))
    assert airloom("data", "where", "har").out == f"{tmp_path / 'har_subjects.npz'}\n"
    assert airloom("data", "where", "har", "--json").answer["files"] == {"har/har_subjects.npz": str(tmp_path / "har_subjects.npz")}


def test_doctor(airloom: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from airloom import doctor

    monkeypatch.setattr(doctor, "LEAST_MEMORY_BYTES", 1e18)  # more than there is
    said = airloom("doctor", "--json")
    rows = {row["name"]: row for row in said.answer["checks"]}
    assert said.status == 1 and not rows["memory"]["ok"] and "workers" in rows["memory"]["advice"]
    assert rows["python"]["ok"] and rows["torch"]["ok"] and rows["run folder"]["ok"] and rows["tiny run"]["ok"], rows
    assert not rows["extra ray"]["needed"] and not (tmp_path / "runs").exists()
    monkeypatch.setattr(doctor, "LEAST_MEMORY_BYTES", 1.0)
    monkeypatch.setattr(doctor, "_tiny_run", lambda: "3 rounds")
    text = airloom("doctor")
    assert text.status == 0 and "ok      python" in text.out
