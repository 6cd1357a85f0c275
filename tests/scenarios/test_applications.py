"""The scenario `applications`: who holds what, what needs what, and a method on it."""

from __future__ import annotations

import pytest

import airloom
from airloom.errors import ScenarioError
from airloom.scenarios.applications import SPEEDS, applications
from airloom.tasks.strings import NEEDS, TASKS


def test_five_boards_hold_a_task_each() -> None:
    made = applications(seed=0, rows=20)
    network, task = made.network, made.task
    assert network.clients(network.root) == TASKS == tuple(SPEEDS)
    assert all(task.samples(name) == 20 for name in TASKS)
    assert network.places[network.root].facts["needs"] == {v: list(u) for v, u in NEEDS.items()}
    assert task.model.rank == 10
    task.check()
    with pytest.raises(ScenarioError, match=r"applications\(rows=3\): allowed: at least 10"):
        applications(seed=0, rows=3)


def test_contextlora_runs_there_and_takes_as_long_as_it_says() -> None:
    same = {"scenario": "applications", "target": None, "out": None}
    small = {"scenario.rows": 20, "epochs": 1, "batch_size": 20}
    run = airloom.run("contextlora", set=small, **same)  # type: ignore[arg-type]
    assert run.status == "done" and len(run.points) == 1
    assert run.points[0]["seconds"] == pytest.approx(run.points[0]["planned_s"], rel=1e-12)
    assert set(run.model) == set(TASKS)
