"""Tuning: the same number of trials for everybody, on validation data, and the choice that the rule names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.local_only import LocalOnly
from airloom.program.method import Method, ranged
from airloom.records.record import Record
from airloom.resolve import find_scenario
from airloom.tune import check_validation, choose, trials

TINY = Path(__file__).parent / "tiny_world.py"


@dataclass(frozen=True, kw_only=True)
class Picky(Method):
    """Refuses a part of its own grid."""

    lr: float = ranged(0, 1, default=0.1, tune=(0.1, 0.2, 0.3))
    steps: int = ranged(1, 10, default=1, tune=(1, 2))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr * self.steps > 0.5:
            raise ScenarioError("Picky: too fast")

    def init(self, node: Any, x: Any) -> dict[str, Any]:
        return {}

    def round(self, node: Any, s: dict[str, Any]) -> dict[str, Any]:
        return s


def test_the_first_trial_changes_nothing_and_no_other_repeats_it() -> None:
    found = trials(FedAvg(lr=0.3, local_steps=20), set(), 20, "fedavg")
    made = [replace(FedAvg(lr=0.3, local_steps=20), **change) for change in found]
    assert found[0] == {} and len(made) == 9  # 3 x 3 values, the first among them
    assert len({(method.lr, method.local_steps) for method in made}) == 9
    off_the_grid = trials(FedAvg(lr=0.07), set(), 20, "fedavg")
    assert len(off_the_grid) == 1 + 9


def test_everybody_gets_the_same_number_unless_the_grid_is_smaller() -> None:
    assert len(trials(FedAvg(), set(), 4, "fedavg")) == len(trials(Picky(), set(), 4, "picky")) == 4
    assert len(trials(LocalOnly(), set(), 4, "local_only")) == 3


def test_fields_that_the_user_set_stay() -> None:
    found = trials(FedAvg(lr=0.5), {"lr"}, 20, "fedavg")
    assert len(found) == 4 and all("lr" not in change for change in found)
    assert trials(FedAvg(), {"lr", "local_steps"}, 20, "fedavg") == [{}]


def test_the_order_is_a_function_of_the_name() -> None:
    assert trials(FedAvg(), set(), 5, "a") == trials(FedAvg(), set(), 5, "a")
    assert trials(FedAvg(), set(), 9, "a") != trials(FedAvg(), set(), 9, "b")


def test_combinations_that_a_method_refuses_are_left_out() -> None:
    made = [replace(Picky(), **change) for change in trials(Picky(), set(), 20, "picky")]
    assert {(method.lr, method.steps) for method in made} == {(0.1, 1), (0.2, 1), (0.3, 1), (0.1, 2), (0.2, 2)}  # 0.3 x 2 > 0.5


def test_at_least_one_trial() -> None:
    with pytest.raises(ScenarioError, match="tune=0"):
        trials(FedAvg(), set(), 0, "fedavg")


def test_no_tuning_without_validation_rows() -> None:
    scenario = find_scenario(str(TINY)).build(0)
    check_validation(scenario)
    empty = SimpleNamespace(name="bare", task=SimpleNamespace(dataset=SimpleNamespace(y_validation=[])))
    with pytest.raises(ScenarioError, match=r"bare.*no validation rows"):
        check_validation(empty)  # type: ignore[arg-type]


def record(*validation: float, every_s: float = 1.0, status: str = "budget", test: float = 0.0, name: str = "accuracy") -> Record:
    points = [{"seconds": i * every_s, "round": i, name: test, f"validation_{name}": value} for i, value in enumerate(validation)]
    return Record(folder=Path("x"), header={}, points=points, summary={"status": status})


def test_the_first_to_reach_the_target_is_chosen_by_its_seconds() -> None:
    slow = record(0.1, *[0.9] * 6, every_s=10.0)
    fast = record(0.1, 0.1, 0.1, *[0.8] * 6, every_s=1.0)
    never = record(*[0.7] * 9, test=1.0)  # the test metric decides nothing
    # means of five successive values: slow has (0.1 + 4 x 0.9)/5 = 0.74 at 0 s and 0.9 at 10 s; fast 0.1, 0.24, 0.38, 0.52, ... and 0.8 at 3 s
    assert choose([slow, never, fast], "accuracy", 0.75) == (2, "seconds to the target", 3.0)


def test_without_anybody_at_the_target_the_best_end_is_chosen() -> None:
    low, high = record(*[0.5] * 6), record(0.1, 0.2, 0.6, 0.6, 0.6, 0.6)
    # last five: 0.5 and (0.2 + 4 x 0.6)/5 = 0.52
    choice = choose([low, high], "accuracy", 0.9)
    assert choice.index == 1 and choice.by == "final validation_accuracy" and choice.value == pytest.approx(0.52)
    assert choose([low, high], "accuracy", None).index == 1
    losses = [record(0.5, name="loss"), record(0.2, name="loss"), record(0.3, name="loss")]
    assert choose(losses, "loss", None).index == 1
    assert choose(losses, "loss", 0.1).index == 1


def test_a_run_that_failed_is_chosen_only_if_nothing_else_is_there() -> None:
    failed, bad = record(0.9, status="failed"), record(0.1)
    assert choose([failed, bad], "accuracy", None).index == 1
    assert choose([record(status="failed"), failed], "accuracy", None) == (0, "nothing: no trial reported validation_accuracy", None)
