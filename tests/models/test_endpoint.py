"""Endpoints: what a call costs, by hand; declared solvers; bad input."""

from __future__ import annotations

from typing import Any

import pytest

from airloom.errors import ScenarioError
from airloom.models.endpoint import Answer, Declared, Endpoint, Solver, persuaded


def declared(skill: float, name: str = "x") -> Declared:
    return Declared(solve=lambda _: "4", skill=lambda _: skill, reply_tokens=10, name=name)


def endpoint(**changes: Any) -> Endpoint:
    given: dict[str, Any] = {"prefill_per_s": 100.0, "decode_per_s": 5.0, "price_in": 2.0, "price_out": 30.0, "joules_per_token": 0.1} | changes
    return Endpoint(solver=given.pop("solver", declared(1.0)), **given)


def test_cost_by_hand() -> None:
    e = endpoint()
    reply = e.reply("2+2=", 198)
    # one token for the question's 4 bytes, 50 for 198 bytes of context
    assert (reply["tokens_in"], reply["tokens_out"]) == (51, 10)
    assert e.seconds(reply) == pytest.approx(0.51 + 2.0)
    assert e.price(reply) == 51 * 2.0 + 10 * 30.0 and e.joules(reply) == pytest.approx(6.1)
    assert reply["tail_s"] == pytest.approx(9 / 5) and len(reply["text"]) + reply["body"].nbytes == 40
    noted = e.reply("2+2=", 198, [reply, reply])  # other replies are read too
    assert noted["tokens_in"] == 51 + 20


def test_a_declared_solver_is_right_as_often_as_it_says_and_always_on_the_same_questions() -> None:
    questions = [f"{i}+{j}=" for i in range(40) for j in range(25)]
    right = [declared(0.7).answer(q, ()).text == "4" for q in questions]
    assert 0.64 < sum(right) / 1000 < 0.76  # four standard deviations
    assert right == [declared(0.7).answer(q, ()).text == "4" for q in questions]
    better = [declared(0.9).answer(q, ()).text == "4" for q in questions]
    assert all(b >= a for a, b in zip(right, better))  # who knows more knows what the other knows, under one name


def test_who_is_unsure_takes_the_most_frequent_note() -> None:
    assert persuaded(Answer("3", 0.4, 1), ("4", "5", "5")).text == "5"
    assert persuaded(Answer("3", 0.4, 1), ("4", "5")).text == "4"
    assert persuaded(Answer("3", 0.5, 1), ("4", "4")).text == persuaded(Answer("3", 0.1, 1), ()).text == "3"


@pytest.mark.parametrize(
    ("field", "value"),
    [("prefill_per_s", 0.0), ("decode_per_s", float("inf")), ("price_in", -1.0), ("price_out", float("nan")), ("joules_per_token", -1.0)],
)
def test_a_bad_number_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ScenarioError, match=rf"Endpoint\.{field}: got {value!r}"):
        endpoint(**{field: value})


class Babbler(Solver):
    """Answers nonsense."""

    def answer(self, question: str, notes: tuple[str, ...]) -> Answer:
        return Answer("?", float("nan"), 0)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"Endpoint\.solver: got Answer"):
        endpoint(solver=Babbler()).reply("2+2=", 0)
