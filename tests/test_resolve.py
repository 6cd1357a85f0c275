"""From text to methods, scenarios and fields: what is understood, and one clear error for what is not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.parts.select import PowerOfChoice, Uniform
from airloom.resolve import (
    NEEDED,
    Field,
    Sets,
    Unpackable,
    convert,
    fields_of,
    find_function,
    find_method,
    find_scenario,
    labels,
    methods_there_are,
    names_in,
    pack,
    pair,
    pairs,
    unpack,
)
from airloom.tasks import Stream, TaskSettings

TINY = Path(__file__).parent / "tiny_world.py"
METHOD = """
from dataclasses import dataclass
from airloom.program.method import Method, ranged

@dataclass(frozen=True, kw_only=True)
class Mine(Method):
    lr: float = ranged(0, 1, default=0.1, tune=(0.1, 0.2))
    steps: int = ranged(1, 10)

    def init(self, server, x):
        return {"x": x}

    def round(self, server, s):
        return s
"""
SCENARIO = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("tiny_world_of_tests", {str(TINY)!r})
world = importlib.util.module_from_spec(spec)
spec.loader.exec_module(world)
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "mine.py") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def refused(call: Any, *words: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert not [word for word in words if word not in message], message


# --- text -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr=0.1", {"lr": "0.1"}),
        ("lr=0.1,select=oort", {"lr": "0.1", "select": "oort"}),
        ("select=power_of_choice(candidates=20),lr=1", {"select": "power_of_choice(candidates=20)", "lr": "1"}),
        ("a=f(b=(1, 2), c=[3, 4]),d=5", {"a": "f(b=(1, 2), c=[3, 4])", "d": "5"}),
        ("a='x,y',b=\"(\"", {"a": "'x,y'", "b": '"("'}),
        (" a = 1 , b = x=y ", {"a": "1", "b": "x=y"}),
    ],
)
def test_fields_are_split_at_outer_commas(text: str, expected: dict[str, str]) -> None:
    assert pairs(text) == expected


@pytest.mark.parametrize("text", ["lr", "=1", "lr=1,,a=2", "a=f(1", "a='x", "1a=2", "lr=1,"])
def test_bad_fields_are_refused(text: str) -> None:
    refused(lambda: pairs(text), "write")


def test_sets_are_sorted_by_prefix() -> None:
    sets = Sets.of({"lr": "0.1", "scenario.devices": 3, "task.alpha": 1})
    assert (sets.method, sets.scenario, sets.task) == ({"lr": "0.1"}, {"devices": 3}, {"alpha": 1})
    refused(lambda: Sets.of({"word.x": 1}), "word", "scenario.field")
    assert pair("task.alpha=0.1") == ("task.alpha", "0.1")


# --- values ---------------------------------------------------------------------------------------------------------------------------

GOOD = [
    (int, "20", 20), (int, "1e3", 1000), (int, 7, 7), (int, 7.0, 7), (int, "12345678901234567890", 12345678901234567890),
    (float, "0.1", 0.1), (float, 1, 1.0), (float, "1_000", 1000.0), (float, "inf", float("inf")),
    (bool, "True", True), (bool, "false", False), (bool, True, True),
    (str, "abc", "abc"), (str, "'a b'", "a b"), (str, "", ""), (str, "5", "5"),
    (int | None, "none", None), (int | None, "5", 5), (float | None, None, None), (str | None, "None", None), (str | None, "x", "x"),
    (Literal["a", "b"], "b", "b"), (Literal[1, 2], "2", 2), (Literal[1, 2], 1, 1),
    (tuple[int, ...], "(1, 2)", (1, 2)), (tuple[int, float], [1, 2], (1, 2.0)), (Sequence[float], "[1, 2]", (1.0, 2.0)), (list[int], "[1]", [1]),
    (Mapping[str, float], "{'a': 1}", {"a": 1}), (Any, "0.5", 0.5), (Any, "word", "word"),
    (Stream | None, "none", None), (Stream | None, "Stream(window_s=5.0, samples=3)", Stream(window_s=5.0, samples=3)),
]  # fmt: skip
BAD = [
    (int, "abc"), (int, "1.5"), (int, 1.5), (int, True), (int, "inf"), (int, None),
    (float, "abc"), (float, "nan"), (float, True), (float, [1]), (float, ""),
    (bool, "yes"), (bool, 1), (str, 5), (Literal["a", "b"], "c"), (int | None, "x"),
    (tuple[int, ...], "1"), (tuple[int, float], "(1,)"), (tuple[int, ...], "('a',)"), (Mapping[str, float], "[1]"), (TaskSettings, 5),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "given", "expected"), GOOD)
def test_values_take_their_fields_type(wanted: Any, given: Any, expected: Any) -> None:
    found = convert("m.f", Field(name="f", type=wanted), given)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(("wanted", "given"), BAD)
def test_values_of_another_type_are_refused(wanted: Any, given: Any) -> None:
    refused(lambda: convert("m.f", Field(name="f", type=wanted), given), "m.f", repr(given), "allowed")


def test_a_part_is_made_from_text() -> None:
    assert find_method("fedavg:select=power_of_choice(candidates=20),lr=0.5").given == {"select": PowerOfChoice(candidates=20), "lr": 0.5}
    refused(lambda: find_method("fedavg:select=nobody"), "nobody", "oort")
    refused(lambda: convert("fedavg.select", fields_of(FedAvg)["select"], 5), "fedavg.select", "Selector")


def test_a_part_of_a_room_below_is_found_by_its_module() -> None:
    from airloom.security.ega import EGA

    assert find_method("fedavg:protect=ega").make({}, {}) == FedAvg(protect=EGA())
    made = find_method("fedavg:lr=0.2,protect=ega(block=4,noise='zero_sum',sigma=0.1)").make({}, {})
    assert made == FedAvg(lr=0.2, protect=EGA(block=4, noise="zero_sum", sigma=0.1))
    with pytest.raises(ScenarioError, match=r"protect='ega\(blocks=4\)': .*fields of ega: codec, block"):
        find_method("fedavg:protect=ega(blocks=4)")
    with pytest.raises(ScenarioError, match=r"EGA\.sigma: got -1"):
        find_method("fedavg:protect=ega(sigma=-1.0)")
    # a module there that holds no protection is none
    with pytest.raises(ScenarioError, match="protect='gradient_inversion': unknown; allowed: gaussian, masked, none"):
        find_method("fedavg:protect=gradient_inversion")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.1,
        "x",
        [1, (2, "a")],
        {"a": (1,), "class": 2},
        PowerOfChoice(candidates=20),
        TaskSettings(stream=Stream(window_s=1.0, samples=2)),
    ],
)
def test_packed_values_come_back(value: Any) -> None:
    back = unpack(json.loads(json.dumps(pack(value))))
    assert back == value and type(back) is type(value)


def test_what_only_this_process_knows_is_not_packed() -> None:
    with pytest.raises(Unpackable):
        pack({"f": lambda: 0})
    refused(lambda: unpack({"class": "subprocess:Popen", "fields": {}}), "subprocess")
    refused(lambda: unpack({"class": "airloom.errors:ScenarioError", "fields": {}}), "ScenarioError")


# --- methods --------------------------------------------------------------------------------------------------------------------------


def test_all_methods_of_the_package_are_found_by_their_module() -> None:
    assert set(methods_there_are()) <= {*names_in("methods"), *names_in("serving")}
    assert {"fedavg", "cascade"} <= set(methods_there_are())
    for name in methods_there_are():
        found = find_method(name)
        room = "serving" if name in names_in("serving") else "methods"
        assert (found.name, found.text, found.cls.__module__) == (name, name, f"airloom.{room}.{name}")


def test_unknown_methods_and_fields_name_the_closest() -> None:
    refused(lambda: find_method("fedavgg"), "fedavgg", "did you mean fedavg", "mtgc", "file.py:Class")
    refused(lambda: find_method("fedavg:learning=1"), "fedavg.learning", "lr", "batch_size")
    refused(lambda: find_method("fedavg:lrr=1"), "did you mean lr")
    refused(lambda: find_method("fedavg:lr"), "name=value")
    refused(lambda: find_method("fedavg:lr=fast"), "fedavg.lr", "'fast'", "a number")
    refused(lambda: find_method(5), "int")  # type: ignore[arg-type]


def test_ranges_are_checked_when_a_method_is_made() -> None:
    refused(lambda: find_method("fedavg:lr=-1").make({}, {}), "lr", "-1", "(0, 100]")
    refused(lambda: find_method("fedavg:weights=all").make({}, {}), "weights", "samples or equal")


def test_a_method_of_a_file(write: Any) -> None:
    place = write(METHOD)
    for text in (place, f"{place}:Mine", f"{place}:steps=3", f"{place}:Mine:steps=3"):
        found = find_method(text)
        assert (found.name, found.cls.__name__, found.text) == ("Mine", "Mine", f"{place}:Mine")
    assert find_method(f"{place}:Mine:steps=3,lr=0.5").given == {"steps": 3, "lr": 0.5}
    refused(lambda: find_method(place).make({}, {}), "Mine", "steps")
    assert find_method(place).cls is find_method(place).cls
    write(METHOD.replace("default=0.1", "default=0.2"))  # the file has changed
    assert find_method(f"{place}:steps=1").make({}, {}).lr == 0.2  # type: ignore[union-attr]


def test_files_that_are_no_method(write: Any, tmp_path: Path) -> None:
    refused(lambda: find_method(str(tmp_path / "gone.py")), "gone.py", "check the path")
    refused(lambda: find_method(write("x = (")), "line 1")
    refused(lambda: find_method(write("import os\n1 / 0")), "ZeroDivisionError", "[mine.py:2]")
    refused(lambda: find_method(write("import sys; sys.exit(3)")), "SystemExit")
    refused(lambda: find_method(write("import nothing_of_this_name")), "nothing_of_this_name")
    refused(lambda: find_method(write("class Mine: pass")), "has no Method", "Method")
    refused(lambda: find_method(write(METHOD + METHOD.replace("Mine", "Other"))), "2 methods", "Mine", "Other")
    refused(lambda: find_method(write(METHOD) + ":Mne"), "did you mean Mine")
    refused(lambda: find_method("nothing_of_this_name:Mine"), "nothing_of_this_name")


def test_a_method_of_a_module() -> None:
    found = find_method("airloom.methods.fedavg:FedAvg:lr=0.5")
    assert (found.cls, found.text, found.given) == (FedAvg, "fedavg", {"lr": 0.5})


def test_a_method_object_keeps_its_fields() -> None:
    found = find_method(FedAvg(lr=0.5))
    assert (found.name, found.text, found.written) == ("fedavg", "fedavg", "fedavg:lr=0.5")
    assert found.make({"fedavg": {"batch_size": 3}}, {"batch_size": 5}) == FedAvg(lr=0.5)
    assert found.fixed({"batch_size": 5}) == {"lr", "batch_size"}


def test_own_fields_win_over_set_and_set_over_what_suits() -> None:
    found = find_method("fedavg:lr=0.5")
    suited = {"fedavg": {"lr": 1.0, "local_steps": 3, "batch_size": 4}}
    assert found.make(suited, {"lr": "2", "local_steps": "7", "momentum": "1"}) == FedAvg(lr=0.5, local_steps=7, batch_size=4)
    assert found.make({"FedAvg": {"batch_size": 4}}, {}) == FedAvg(lr=0.5, batch_size=4)
    refused(lambda: found.make({"fedavg": {"speed": 1}}, {}), "suited['fedavg'].speed")


def test_labels_tell_variants_apart() -> None:
    found = [find_method(text) for text in ("mtgc", "fedavg", "fedavg:lr=0.5")]
    assert labels(found) == ["mtgc", "fedavg", "fedavg:lr=0.5"]
    refused(lambda: labels([found[1], find_method("fedavg")]), "fedavg", "twice")


# --- scenarios ------------------------------------------------------------------------------------------------------------------------


def test_all_scenarios_of_the_package_are_functions_of_their_module() -> None:
    for name in names_in("scenarios"):
        assert find_function(name).__name__ == name
        world = find_scenario(name)
        assert world.text == name and isinstance(world.fields.get("task", TaskSettings()), TaskSettings)


def test_a_scenario_with_fields() -> None:
    world = find_scenario("phones", Sets.of({"scenario.devices": "8", "scenario.fading": "false", "task.alpha": 1, "task.stream": "none"}))
    assert world.fields["devices"] == 8 and world.fields["fading"] is False and world.fields["task"] == TaskSettings(alpha=1.0)
    defaults = find_scenario("writers", Sets.of({"task.limit": 100})).fields["task"]
    assert (defaults.dataset, defaults.limit) == ("mnist_writers", 100)  # the scenario's own settings stay


def test_scenarios_and_fields_that_are_not_there() -> None:
    refused(lambda: find_scenario("phone"), "did you mean phones", "lab", "file.json")
    refused(lambda: find_scenario("phones:tiny"), "phones:tiny")
    refused(lambda: find_scenario("phones:devices=3"), "scenario.field=value")
    refused(lambda: find_scenario("phones", Sets.of({"scenario.device": 3})), "did you mean devices")
    refused(lambda: find_scenario("phones", Sets.of({"scenario.devices": "many"})), "scenario.phones.devices", "an integer")
    refused(lambda: find_scenario("phones", Sets.of({"scenario.seed": 3})), "seed")
    refused(lambda: find_scenario("phones", Sets.of({"task.alfa": 3})), "task.alfa", "did you mean alpha")
    refused(lambda: find_scenario("phones", Sets.of({"task.partition": "fair"})), "fair", "dirichlet")
    refused(lambda: find_scenario(5), "int")  # type: ignore[arg-type]


def test_a_scenario_of_a_file() -> None:
    world = find_scenario(str(TINY), Sets.of({"scenario.devices": 6}))
    assert world.text == f"{TINY}:tiny" and world.name == "tiny"
    built = world.build(3)
    assert (built.seed, len(built.task.shards)) == (3, 6)
    assert world.build(3) is built  # several methods meet the same objects
    assert find_scenario(f"{TINY}:tiny").fields == replace(world, fields={**world.fields, "devices": 4}).fields


def test_scenario_files_that_are_none(write: Any) -> None:
    refused(lambda: find_scenario(write("def f(*, seed): return 3")), "no single function", "Scenario")
    refused(lambda: find_scenario(write("def f(*, seed): return 3") + ":f").build(0), "returned a int")
    refused(lambda: find_scenario(write("def f(*, seed): return 3") + ":g"), "no single function")
    refused(lambda: find_scenario(write(f"{SCENARIO}def f() -> Scenario: ...") + ":f"), "takes no seed")
    refused(lambda: find_scenario(write(f"{SCENARIO}def f(*, seed) -> Scenario: ...\ndef g(*, seed) -> Scenario: ...")), "f, g", ":f")
    refused(lambda: find_scenario(write(f"{SCENARIO}def f(*, seed, n: int) -> Scenario: ...")), "needs n", "scenario.n=")
    refused(lambda: find_scenario(write(f"{SCENARIO}def f(*, seed, task: int = 0) -> Scenario: ...")), "argument task", "an integer")
    refused(lambda: find_scenario(write(f"{SCENARIO}def f(*, seed) -> Scenario: ..."), Sets.of({"task.alpha": 1})), "task.alpha")
    refused(lambda: find_scenario(write(f"{SCENARIO}def f(*, seed) -> Scenario:\n    return 1 / 0")).build(0), "ZeroDivisionError", "[mine.py:")
    named_like_the_file = find_scenario(write(f"{SCENARIO}def mine(*, seed) -> Scenario: ...\ndef g(*, seed) -> Scenario: ..."))
    assert named_like_the_file.name == "mine"


def test_settings_without_default(write: Any) -> None:
    place = write(f"{SCENARIO}def f(*, seed: int, task: TaskSettings) -> Scenario:\n    return world.tiny(seed=seed, task=task)")
    assert find_scenario(place, Sets.of({"task.limit": "150"})).fields["task"] == TaskSettings(limit=150)


def test_a_scenario_of_json(write: Any) -> None:
    (path := Path(write("", "tiny_world.py"))).write_text(TINY.read_text())
    given = {"scenario": "tiny_world.py", "fields": {"devices": 6, "up_bps": 1e6}, "task": {"limit": 150, "alpha": 1}}
    world = find_scenario(write(json.dumps(given), "mine.json"), Sets.of({"scenario.up_bps": "2e6"}))
    assert world.text == f"{path}:tiny"
    assert world.fields == {"devices": 6, "up_bps": 2e6, "detect_s": 60.0, "task": TaskSettings(partition="iid", limit=150, alpha=1.0)}
    assert find_scenario(write('{"scenario": "lab"}', "mine.json")).text == "lab"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "is no JSON"),
        ("[]", "got list"),
        ('{"fields": {}}', "without"),
        ('{"scenario": "lab", "seed": 3}', "'seed'"),
        ('{"scenario": "lab", "fields": 3}', "'fields'"),
        ('{"scenario": "labb"}', "labb"),
        ('{"scenario": "lab", "fields": {"devices": 3}}', "devices"),
    ],
)
def test_bad_json_is_refused(write: Any, text: str, word: str) -> None:
    refused(lambda: find_scenario(write(text, "mine.json")), word)


def test_json_that_is_not_there(tmp_path: Path) -> None:
    refused(lambda: find_scenario(str(tmp_path / "gone.json")), "gone.json", "check the path")


def test_scenario_objects_and_functions() -> None:
    made = find_scenario(str(TINY)).build(0)
    world = find_scenario(made)
    assert world.build(7) is made and world.text is None
    refused(lambda: find_scenario(made, Sets.of({"task.alpha": 1})), "made already")

    def local(*, seed: int, devices: int = 4):
        return find_scenario(str(TINY)).build(seed)

    assert find_scenario(local, Sets.of({"scenario.devices": "2"})).fields == {"devices": 2}
    assert find_scenario(local).text is None  # no other process can find it


def test_fields_say_what_is_needed() -> None:
    known = fields_of(TaskSettings)
    assert known["alpha"].default == 0.3 and known["alpha"].type is float
    assert fields_of(Stream)["window_s"].default is NEEDED
    assert fields_of(FedAvg)["select"].default == Uniform()
