"""What every assistant keeps, whatever it does: same seed same record, loop = pool, ledgers that add up, no hang and nothing below device only."""

from __future__ import annotations

import pytest

import airloom
from airloom.parts.assistant import Assistant
from airloom.resolve import find_method, names_in
from airloom.runner import Run

SMALL = {"scenario.devices": 2, "scenario.base_stations": 1, "scenario.requests": 6, "scenario.per_minute": 6.0}
ASSISTANTS = [name for name in names_in("serving") if issubclass(find_method(name).cls, Assistant)]
# services that train first, and fields that make it short
LEARNS = dict.fromkeys(("gapg", "da_grpo", "critique_routing"), "steps=2,prompts=4,group=2")

WORLDS = {"paac": "helpdesk"}  # services for other requests than arithmetic


def ran(name: str, executor: str = "loop", **changes: float) -> Run:
    own = {f"scenario.{key}": value for key, value in changes.items()}
    method, world = f"{name}:{LEARNS[name]}" if name in LEARNS else name, WORLDS.get(name, "assistant")
    return airloom.run(method, scenario=world, set=SMALL | own, executor=executor, workers=2, out=None)


@pytest.mark.parametrize("name", ASSISTANTS)
def test_every_request_is_answered_and_the_ledger_adds_up(name: str) -> None:
    run = ran(name)
    answers = [point for point in run.points if "correct" in point]
    assert sorted(point["request"] for point in answers) == list(range(12)) and run.points[-1]["answered"] == 12
    assert run.points[-1]["accuracy"] == pytest.approx(sum(point["correct"] for point in answers) / 12)
    assert all(0 <= point["first_s"] <= point["latency_s"] for point in answers)
    devices = run.summary["devices"].values()
    assert sum(place.get("price", 0.0) for place in devices) == pytest.approx(run.summary["price"])
    assert sum(place["bytes_up"] for name, place in run.summary["devices"].items() if "phone" in name) == pytest.approx(run.summary["bytes_up"])
    assert ran(name).summary["digest"] == run.summary["digest"]


@pytest.mark.parametrize("name", ["cascade", "debate", "gapg"])
def test_the_pool_gives_the_same_record(name: str) -> None:
    assert ran(name, "pool").points == ran(name).points


@pytest.mark.parametrize("name", sorted(set(ASSISTANTS) - {"device_only"}))
def test_without_a_link_it_never_hangs(name: str) -> None:
    cut = ran(name, outage=0.9, outage_s=1000.0)
    alone = 0.0 if name in WORLDS else ran("device_only").points[-1]["accuracy"]
    assert cut.points[-1]["answered"] == 12 and cut.points[-1]["accuracy"] >= alone
