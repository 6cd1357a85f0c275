"""PAAC: what crosses the boundary, the same success at every level, leakage equal to the misses, the rewriting baseline, unknown placeholders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import pytest

import airloom
from airloom.errors import ScenarioError
from airloom.models.endpoint import Answer, Solver
from airloom.parts.boundary import Registry, Sanitized
from airloom.runner import Run
from airloom.scenarios.helpdesk import helpdesk
from airloom.serving.paac import PAAC
from airloom.tasks.retail import LEVELS, record, use

SMALL = {"scenario.devices": 2, "scenario.requests": 4}


def ran(fields: str = "", **changes: Any) -> Run:
    return airloom.run(f"paac:{fields}" if fields else "paac", scenario="helpdesk", set=SMALL | changes, out=None, executor="loop")


def answers(run: Run) -> list[dict[str, Any]]:
    return [point for point in run.points if "correct" in point]


@contextmanager
def overheard() -> Iterator[list[str]]:
    """All texts that the cloud was asked to plan from."""
    texts: list[str] = []
    send = PAAC.send

    def listen(self: PAAC, box: Registry, sent: list[str], message: Sanitized) -> Sanitized:
        passed = send(self, box, sent, message)
        texts.append(passed.text)
        return passed

    with patch.object(PAAC, "send", listen):
        yield texts


def test_level_0_sends_the_request_as_it_is() -> None:
    with overheard() as texts:
        run = ran("level=0")
    questions = {asked.question for stream in helpdesk(seed=0, devices=2, requests=4).task.requests.values() for asked in stream}
    assert {text.split("\n")[0] for text in texts} == questions and run.points[-1]["accuracy"] == 1.0


@pytest.mark.parametrize("level", [1, 2, 3])
def test_every_level_settles_all_requests_and_leaks_nothing(level: int) -> None:
    with overheard() as texts:
        run = ran(f"level={level}")
    assert run.points[-1]["accuracy"] == 1.0  # the arguments of all tools are those of a run without privacy, byte for byte
    assert sum(point["leaked"] for point in answers(run)) == 0 < sum(point["private"] for point in answers(run))
    keys = {"CARD": "card", "AMOUNT": "amount", "ORDER": "order", "EMAIL": "email", "NAME": "name"}
    for stream in helpdesk(seed=0, devices=2, requests=4).task.requests.values():
        for asked in stream:
            known = record(asked.truth.split()[1])
            assert not [text for text in texts for kind in LEVELS[level] if known[keys[kind]] in text]


def test_leakage_is_the_rate_of_misses() -> None:
    run = ran("level=3,miss=0.3", **{"scenario.requests": 30})
    private, out = (sum(point[name] for point in answers(run)) for name in ("private", "leaked"))
    assert private >= 250 and abs(out / private - 0.3) < 4 * (0.3 * 0.7 / private) ** 0.5
    assert run.points[-1]["accuracy"] == 1.0  # a miss leaks a value and alters none


def test_blanking_out_without_a_way_back_settles_nothing() -> None:
    assert ran("level=3,boundary=rewrite").points[-1]["accuracy"] == 0.0


def test_nothing_but_sanitized_text_passes() -> None:
    box = Registry()
    with pytest.raises(Exception, match="allowed is Sanitized"):
        box.scan("raw")  # type: ignore[arg-type]
    sent: list[str] = []
    box.add("NAME", "Ann")  # found after the text was written
    assert PAAC().send(box, sent, Sanitized("to Ann")).text == "to {NAME_1}" and sent == ["to {NAME_1}"]


@dataclass(frozen=True)
class Confused(Solver):
    """A planner that makes up a placeholder, then gives up."""

    brief: str = "plan"

    def answer(self, question: str, notes: tuple[str, ...]) -> Answer:
        actions = [] if "unknown placeholder" in question else [["refund", {"order": "{ORDER_9}"}], ["find_order", {"order": "W0000001"}]]
        return Answer(json.dumps({"actions": actions, "final": not actions}), 1.0, 4)


def test_an_action_with_an_unknown_placeholder_is_rejected_and_the_others_run() -> None:
    world = helpdesk(seed=0, devices=1, requests=1)
    ends = dict(world.task.residents)
    ends["cloud"] = replace(ends["cloud"], solver=Confused())
    used: list[str] = []

    def count(tool: str, arguments: dict[str, str]) -> tuple[dict[str, str], str]:
        used.append(tool)
        return use(tool, arguments)

    with patch("airloom.serving.paac.use", count):
        run = airloom.run(PAAC(level=2), scenario=replace(world, task=replace(world.task, residents=ends)), out=None, executor="loop")
    assert set(used) == {"find_order"} and answers(run)[0]["turns"] == 2 and answers(run)[0]["correct"] == 0


def test_a_planner_that_never_ends_is_stopped() -> None:
    assert all(point["turns"] == 2 for point in answers(ran("most_turns=2")))


def test_without_a_link_no_tool_runs() -> None:
    run = ran("timeout_s=2.0", **{"scenario.outage": 0.95, "scenario.outage_s": 1e5})
    cut = [point for point in answers(run) if point["is_fallback"]]
    assert cut and all(point["correct"] == 0 and point["turns"] == 1 for point in cut)


@dataclass(frozen=True)
class Babbler(Solver):
    """Says something else than a plan."""

    said: str
    brief: str = "plan"

    def answer(self, question: str, notes: tuple[str, ...]) -> Answer:
        return Answer(self.said, 1.0, 4)


@pytest.mark.parametrize(
    "said", ["14", "", "{", '{"actions": []}', '{"actions": [["refund"]], "final": false}', '{"actions": [["refund", {"order": 1}]], "final": false}']
)
def test_what_is_no_plan_settles_nothing(said: str) -> None:
    world = helpdesk(seed=0, devices=1, requests=1)
    ends = dict(world.task.residents)
    ends["cloud"] = replace(ends["cloud"], solver=Babbler(said))
    run = airloom.run(PAAC(level=2), scenario=replace(world, task=replace(world.task, residents=ends)), out=None, executor="loop")
    assert answers(run)[0]["is_fallback"] == 1 and answers(run)[0]["turns"] == 1 and run.points[-1]["accuracy"] == 0.0


def test_a_cloud_that_only_answers_is_refused() -> None:
    with pytest.raises(ScenarioError, match="the model at 'cloud' plans nothing; allowed is an endpoint with a planner"):
        airloom.run("paac", scenario="assistant", set={"scenario.devices": 1, "scenario.base_stations": 1, "scenario.requests": 1}, out=None)
