"""The Python API: what runs and comparisons leave behind, and that a resume changes no number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import airloom
from airloom import api, jobs
from airloom.errors import RecordError, RunFailed, ScenarioError, Unsupported
from airloom.jobs import Event, Job
from airloom.methods.fedavg import FedAvg
from airloom.records.compare import Comparison
from airloom.records.record import Record, load
from airloom.resolve import find_scenario
from airloom.runner import Run

TINY = Path(__file__).parent / "tiny_world.py"
FAILING = str(Path(__file__).parent / "failing_method.py")
SMALL: dict[str, Any] = {"scenario": str(TINY), "executor": "loop"}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take longer than these runs, and have tests of their own."""
    if "with_figure" not in request.fixturenames:
        monkeypatch.setattr(Comparison, "plot", lambda self, path: None)


@pytest.fixture
def with_figure() -> None:
    """Asks for the figure."""


def interrupt_at(number: int) -> Any:
    """Progress that acts like a Ctrl-C at a point."""
    seen: list[Any] = []

    def progress(point: Any) -> None:
        seen.append(point)
        if len(seen) == number:
            raise KeyboardInterrupt

    return progress


# --- run ------------------------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_record_that_says_how_to_make_it_again() -> None:
    done = airloom.run("fedavg:lr=0.3", set={"batch_size": "4", "scenario.devices": 6, "task.limit": 150}, seed=3, **SMALL)
    assert isinstance(done, Run) and done.status == "budget" and done.out == Path("runs/tiny-fedavg-3")
    assert done.out is not None
    header = load(done.out).header
    assert header["fields"]["lr"] == 0.3 and header["fields"]["batch_size"] == 4 and header["fields"]["local_steps"] == 2  # local_steps: suited
    assert (header["method"], header["seed"], header["engine"], header["clock"]) == ("fedavg", 3, "simulated", "simulated")
    assert header["scenario"]["name"] == "tiny" and header["scenario"]["facts"] == {"devices": 6}
    assert header["budget"] == {"rounds": 6} and header["target"] == ["accuracy", 0.3]
    assert header["network"]["places"] == 9 and header["task"]["devices"] == 6
    assert set(header["versions"]) >= {"airloom", "torch"} and len(header["code"]["files"]) == 1
    again = jobs.execute(Job.of(json.loads(json.dumps(header))), None)
    assert again.summary["digest"] == done.summary["digest"]


def test_the_digest_depends_on_seed_and_fields_alone() -> None:
    digests = [
        airloom.run("fedavg", out=None, **{**SMALL, **more}).summary["digest"]
        for more in ({}, {"stop_at_target": False}, {"seed": 1}, {"set": {"lr": 0.2}}, {"set": {"scenario.up_bps": 1e6}})
    ]
    assert digests[0] == digests[1] and len(set(digests)) == 4


def test_folders_are_fresh_and_never_overwritten(tmp_path: Path) -> None:
    first, second = airloom.run("fedavg", **SMALL), airloom.run("fedavg", **SMALL)
    assert (first.out, second.out) == (Path("runs/tiny-fedavg-0"), Path("runs/tiny-fedavg-0-2"))
    with pytest.raises(RecordError, match="not empty"):
        airloom.run("fedavg", out="runs/tiny-fedavg-0", **SMALL)
    own = tmp_path / "deep" / "own"
    assert airloom.run("fedavg", out=own, **SMALL).out == own
    assert airloom.run("fedavg", out=None, **SMALL).out is None


@pytest.mark.parametrize(
    ("given", "error", "word"),
    [
        ({"method": "fedavgg"}, ScenarioError, "did you mean fedavg"),
        ({"set": {"lrr": 1}}, ScenarioError, "did you mean lr"),
        ({"set": {"lr": "fast"}}, ScenarioError, "a number"),
        ({"set": {"lr": 0}}, ScenarioError, r"\(0, 100\]"),
        ({"set": {"select": "nobody"}}, ScenarioError, "oort"),
        ({"set": {"scenario.speed": 1}}, ScenarioError, "devices, up_bps"),
        ({"scenario": "gone.py"}, ScenarioError, "check the path"),
        ({"target": ("speed", 1.0)}, ScenarioError, "accuracy"),
        ({"budget": {"hours": 1}}, ScenarioError, "seconds"),
        ({"budget": {"seconds": -1}}, ScenarioError, "positive"),
        ({"budget": {}}, ScenarioError, "no end"),
        ({"engine": "cloud"}, ScenarioError, "simulated"),
        ({"executor": "magic"}, ScenarioError, "loop"),
        ({"workers": 0}, ScenarioError, "workers"),
        ({"eval_every": 0}, ScenarioError, "eval_every"),
        ({"method": "mtgc", "scenario": "lab"}, ScenarioError, "edge servers"),
    ],
)
def test_bad_input_is_one_error_and_leaves_nothing(given: dict[str, Any], error: type[Exception], word: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=word) as caught:
        airloom.run(**{"method": "fedavg", **SMALL, **given})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_target_is_the_scenarios_unless_given() -> None:
    assert airloom.run("fedavg", out=None, **SMALL).header["target"] == ("accuracy", 0.3)
    assert airloom.run("fedavg", out=None, target=None, **SMALL).header["target"] is None
    easy = airloom.run("fedavg", out=None, target=("accuracy", 0.0), stop_at_target=True, budget={"rounds": 9}, **SMALL)
    assert easy.status == "target" and len(easy.points) == 5  # a target asks for five evaluations
    assert api.summary_of(easy)["reached"] is True and api.summary_of(easy)["reached_seconds"] == easy.points[0]["seconds"]


def test_objects_instead_of_text() -> None:
    text = airloom.run("fedavg:lr=0.3,local_steps=2", out=None, **SMALL)
    world = find_scenario(str(TINY))
    for scenario in (world.function, world.build(0)):
        done = airloom.run(FedAvg(lr=0.3, local_steps=2), scenario=scenario, executor="loop", out=None)
        assert done.summary["digest"] == text.summary["digest"]


# --- resume ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fedavg", "mtgc", "fedbuff:buffer=2"])
@pytest.mark.parametrize("checkpoint_every_s", [0.0, None])
def test_a_resumed_run_ends_like_an_unbroken_one(method: str, checkpoint_every_s: float | None) -> None:
    whole = airloom.run(method, out=None, **SMALL)
    broken = airloom.run(method, out="broken", checkpoint_every_s=checkpoint_every_s, progress=interrupt_at(4), **SMALL)
    assert broken.status == "interrupted" and load("broken").status == "interrupted"
    assert (Path("broken") / jobs.CHECKPOINT).is_file() == (checkpoint_every_s is not None)
    seen: list[Any] = []
    done = airloom.resume("broken", progress=seen.append)
    assert isinstance(done, Run) and done.summary["digest"] == whole.summary["digest"]
    assert load("broken").points == done.points and [p["round"] for p in done.points] == [p["round"] for p in whole.points]
    assert [p["accuracy"] for p in done.points] == [p["accuracy"] for p in whole.points]
    assert len(seen) == (len(whole.points) - 3 if checkpoint_every_s is not None else len(whole.points))
    with pytest.raises(RecordError, match="has ended"):
        airloom.resume("broken")


@pytest.mark.parametrize("eval_every", [1, 4])
def test_a_run_killed_before_its_summary_goes_on(eval_every: int) -> None:
    whole = airloom.run("fedavg", out="killed", checkpoint_every_s=0.0, eval_every=eval_every, **SMALL)
    model = Path("killed/model.safetensors").read_bytes()
    Path("killed/model.safetensors").unlink()
    record = Path("killed/record.jsonl")
    record.write_bytes(record.read_bytes()[:-20])  # in the middle of the summary, behind the checkpoint of the last round
    assert load("killed").status == "unfinished" and load("killed").is_truncated
    done = airloom.resume("killed")
    assert isinstance(done, Run) and done.summary == whole.summary and done.points == whole.points
    assert Path("killed/model.safetensors").read_bytes() == model


def test_what_cannot_be_resumed() -> None:
    with pytest.raises(RecordError, match=r"no record\.jsonl"):
        airloom.resume("gone")
    Path("damaged").mkdir()
    Path("damaged/record.jsonl").write_text("{}\n")
    with pytest.raises(RecordError, match="no record header"):
        airloom.resume("damaged")
    with pytest.raises(RecordError, match="no such folder"):
        airloom.show("gone")


def test_a_run_of_objects_is_resumed_with_the_objects() -> None:
    def local(*, seed: int):
        return find_scenario(str(TINY)).build(seed)

    whole = airloom.run("fedavg", scenario=local, executor="loop", out=None)
    airloom.run("fedavg", scenario=local, executor="loop", out="broken", checkpoint_every_s=0.0, progress=interrupt_at(3))
    with pytest.raises(ScenarioError, match=r"scenario=\.\.\."):
        airloom.resume("broken")
    done = airloom.resume("broken", scenario=local)
    assert isinstance(done, Run) and done.summary["digest"] == whole.summary["digest"]


def test_a_file_that_changed_is_told(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    shutil.copy(TINY, own)
    airloom.run("fedavg", scenario=str(own), executor="loop", out="broken", progress=interrupt_at(2))
    own.write_text(own.read_text() + "\n# changed\n")
    with pytest.warns(UserWarning, match=r"own\.py.*may differ"):
        airloom.resume("broken")


def test_a_failed_run_is_recorded_and_raised() -> None:
    with pytest.raises(RunFailed, match="no way"):
        airloom.run(FAILING, out="failed", **SMALL)
    assert load("failed").status == "failed" and "no way" in api.summary_of(load("failed"))["error"]
    with pytest.raises(RunFailed, match="no way"):  # the file may have been corrected
        airloom.resume("failed")


# --- compare --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("with_figure")
def test_a_comparison_has_a_row_per_method_and_a_record_per_run() -> None:
    events: list[Event] = []
    found = airloom.compare(["fedavg", "fedavg:lr=0.3", "mtgc"], seeds=2, workers=1, progress=events.append, **SMALL)
    assert isinstance(found, Comparison) and found.methods == ("fedavg", "fedavg:lr=0.3", "mtgc") and found.seeds == (0, 1)
    assert [row["reached"] for row in found.rows] and len(found.frame) == 3
    assert set(found.curves["seed"]) == {0, 1}
    folder = Path("runs/compare-tiny")
    made = {path.name for path in folder.iterdir()}
    assert made == {f"{m}-{s}" for m in ("fedavg", "fedavg-lr=0.3", "mtgc") for s in (0, 1)} | {"plan.json", "compare.json", "compare.png"}
    written = json.loads((folder / "compare.json").read_text())
    assert written["seeds"] == 2 and written["out"] == str(folder) and [row["method"] for row in written["rows"]] == list(found.methods)
    kinds = [event.kind for event in events]
    assert kinds.count("start") == kinds.count("end") == 6 and {event.values["status"] for event in events if event.kind == "end"} == {"budget"}
    shown = airloom.show(folder)
    assert isinstance(shown, Comparison) and shown.rows == found.rows
    single = airloom.run("mtgc", seed=1, out=None, **SMALL)
    assert single.summary["digest"] == (load(folder / "mtgc-1").summary or {})["digest"]
    tasks = [load(folder / name).header["task"] for name in ("fedavg-1", "mtgc-1")]
    assert tasks[0] == tasks[1]  # the same world


def test_a_run_that_fails_is_a_row() -> None:
    events: list[Event] = []
    found = airloom.compare(["fedavg:local_steps=20", FAILING], seeds=1, workers=1, out="mixed", progress=events.append, **SMALL)
    assert [(row["method"], row["reached"]) for row in found.rows] == [("fedavg", "1/1"), ("Failing", "0/1")]
    assert any("Failing, seed 0: failed" in note for note in found.notes)
    ends = [event for event in events if event.kind == "end"]
    assert [event.values["status"] for event in ends] == ["budget", "failed"] and "no way" in ends[1].values["error"]
    assert Path("mixed/compare.json").is_file()


def test_set_reaches_the_methods_that_have_the_field() -> None:
    with pytest.warns(UserWarning, match="set local_epochs: mtgc"):
        found = airloom.compare(["fedavg", "mtgc"], seeds=1, workers=1, set={"local_epochs": 1}, **SMALL)
    assert found.records["fedavg"][0].header["fields"]["local_epochs"] == 1
    with pytest.raises(ScenarioError, match=r"methods\.lrr.*did you mean lr"):
        airloom.compare(["fedavg", "mtgc"], seeds=1, set={"lrr": 1}, **SMALL)


@pytest.mark.parametrize(
    ("methods", "given", "word"),
    [
        ([], {}, "at least one"),
        ("fedavg", {}, "a list"),
        (["fedavg", "fedavg"], {}, "twice"),
        (["fedavg", "nobody"], {}, "nobody"),
        (["fedavg", "mtgc"], {"scenario": "lab"}, "edge servers"),
        (["fedavg"], {"seeds": 0}, "seeds=0"),
        (["fedavg"], {"tune": -1}, "tune=-1"),
        (["fedavg"], {"workers": 0}, "workers=0"),
        (["fedavg"], {"target": ("speed", 1.0)}, "speed"),
        (["fedavg"], {"engine": "cloud"}, "cloud"),
    ],
)
def test_bad_comparisons_leave_nothing(methods: Any, given: dict[str, Any], word: str, tmp_path: Path) -> None:
    with pytest.raises((ScenarioError, Unsupported), match=word):
        airloom.compare(methods, **{**SMALL, **given})
    assert not list(tmp_path.iterdir())


def test_one_scenario_object_is_one_world() -> None:
    made = find_scenario(str(TINY)).build(0)
    with pytest.raises(ScenarioError, match="one world"):
        airloom.compare(["fedavg"], scenario=made, seeds=2)
    found = airloom.compare(["fedavg"], scenario=made, seeds=1, executor="loop", out="one")
    assert found.rows[0]["method"] == "fedavg"
    with pytest.raises(RecordError, match="Python objects"):
        airloom.resume("one")


def test_tuning_uses_another_world_and_says_what_it_chose() -> None:
    request = api.request_of(["fedavg", "mtgc:lr=0.3"], str(TINY), 2, 0, 2, None, "scenario", "simulated", api.Options(executor="loop"))
    events: list[Event] = []
    done = api.start(request, workers=1, out="tuned", progress=events.append)
    trials = [event for event in events if "trial" in event.job.notes and event.kind == "end"]
    assert len(trials) == 4 and {event.job.seed for event in trials} == {1000}
    assert {path.name for path in Path("tuned/tune").iterdir()} == {"fedavg-0", "fedavg-1", "mtgc-0", "mtgc-1"}
    trial = load("tuned/tune/fedavg-0")
    assert trial.header["target"] == ["validation_accuracy", 0.3] and trial.header["trial"] == 0
    chosen = done.to_json()["tuned"]
    assert chosen["fedavg"]["trials"] == 2 and set(chosen["fedavg"]["chosen"]) == {"local_steps", "lr"}
    assert set(chosen["mtgc"]["chosen"]) == {"group_rounds", "local_steps"}  # lr was given
    final = load("tuned/fedavg-0").header
    assert {name: final["fields"][name] for name in ("local_steps", "lr")} == chosen["fedavg"]["chosen"] and final["tuned"] == 2
    assert load("tuned/mtgc-1").header["fields"]["lr"] == 0.3
    assert any("trials of tuning: fedavg 2, mtgc 2" in note for note in done.comparison.notes)


def test_personal_models_are_tuned_on_their_own_validation_rows() -> None:
    found = airloom.compare(["local_only:local_steps=2"], seeds=1, tune=3, workers=1, out="own", **SMALL)
    told = json.loads(Path("own/compare.json").read_text())["tuned"]["local_only"]
    assert told["trials"] == 3 and told["value"] is not None and found.records["local_only"][0].header["tuned"] == 3


def test_an_interrupted_comparison_goes_on_where_it_was() -> None:
    given: dict[str, Any] = {"seeds": 1, "tune": 2, "workers": 1, "budget": {"rounds": 3}, "checkpoint_every_s": 0.0, **SMALL}
    whole = airloom.compare(["fedavg", "mtgc"], out="whole", **given)
    points = 0

    def tell(event: Event) -> None:
        nonlocal points
        points += event.kind == "point"
        if points == 4 * 3 + 3 + 2:  # in the second run, after four trials of three rounds
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="broken"):
        airloom.compare(["fedavg", "mtgc"], out="broken", progress=tell, **given)
    assert not Path("broken/compare.json").exists() and isinstance(airloom.show("broken"), Comparison)
    events: list[Event] = []
    done = airloom.resume("broken", workers=1, progress=events.append)
    assert isinstance(done, Comparison) and done.rows == whole.rows
    assert len([event for event in events if event.kind == "point"]) == 2  # rounds 1 and 2 of that run
    with pytest.raises(RecordError, match="has ended"):
        airloom.resume("broken")


@pytest.mark.slow
def test_processes_give_the_same_numbers_as_one() -> None:
    methods = ["fedavg", "mtgc", FAILING]
    one = airloom.compare(methods, seeds=2, workers=1, out="one", **SMALL)
    two = airloom.compare(methods, seeds=2, workers=2, out="two", **SMALL)
    assert one.rows == two.rows
    for path in Path("one").glob("*/record.jsonl"):
        mine, other = load(path.parent), load(Path("two") / path.parent.name)
        assert mine.points == other.points and mine.header == other.header and mine.status == other.status


@pytest.mark.slow
def test_a_user_file_that_prints_or_dies_does_not_confuse_the_workers(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(TINY.read_text().replace("    board = ", "    print('hello')\n    board = "))
    assert airloom.compare(["fedavg", "mtgc"], scenario=str(own), seeds=1, workers=2, executor="loop").rows
    own.write_text(TINY.read_text().replace("    board = ", "    import os\n    if seed == 1:\n        os._exit(3)\n    board = "))
    with pytest.raises(RunFailed, match=r"worker process died \(exit status 3"):
        airloom.compare(["fedavg"], scenario=str(own), seeds=2, workers=2, executor="loop")


def test_records_are_shown() -> None:
    airloom.run("fedavg", out="done", **SMALL)
    shown = airloom.show("done")
    assert isinstance(shown, Record) and shown.status == "budget" and len(shown.frame) == 6
