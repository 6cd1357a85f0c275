"""Debate: zero rounds are a vote, messages are counted, and who is unsure is persuaded."""

from __future__ import annotations

from typing import Literal

import pytest

from airloom.serving.debate import Debate
from airloom.serving.vote import Vote
from tests.serving.worlds import NEVER, asked, column, served, skilled, star, three_tiers

PLACES = ("phone0", "edge", "cloud")


def test_no_rounds_are_a_vote() -> None:
    network = three_tiers()
    task = asked(network, {place: skilled(0.6, place) for place in PLACES}, 10.0, 30.0)
    assert served(Debate(rounds=0), network, task)[0] == served(Vote(), network, task)[0]


def test_two_unsure_agents_are_persuaded_by_a_sure_one_over_a_star_but_outvote_it_without_rounds() -> None:
    network = three_tiers()
    task = asked(network, {"phone0": skilled(1.0), "edge": skilled(0.0, "b"), "cloud": skilled(0.0, "c")}, 10.0)
    assert column(served(Debate(rounds=0), network, task)[0], "correct") == [0]
    assert column(served(Debate(rounds=1, graph="star"), network, task)[0], "correct") == [1]


@pytest.mark.parametrize(("graph", "messages"), [("mesh", 6), ("ring", 3), ("star", 4)])
def test_messages_between_agents_per_round(graph: Literal["mesh", "ring", "star"], messages: int) -> None:
    debate = Debate(graph=graph)
    assert sum(len(debate.heard(i, 3)) for i in range(3)) == messages
    assert not debate.heard(0, 1)


def test_a_round_costs_another_answer_of_everybody_who_reads_what_the_others_said() -> None:
    network = three_tiers()
    task = asked(network, {place: skilled(1.0, place, price_in=1.0) for place in PLACES}, 10.0)
    prices = [served(Debate(rounds=r), network, task)[1].sim.stamp()["price"] for r in (0, 1, 2)]
    assert prices == [33.0, 33.0 + 3 * (11 + 8), 33.0 + 6 * (11 + 8)]  # 11 tokens of the question, 4 of each of two others


def test_without_a_link_the_first_own_answer_stands() -> None:
    network = star("phone0", up=NEVER)
    points, _ = served(Debate(timeout_s=5.0), network, asked(network, {"phone0": skilled(1.0), "cloud": skilled(0.0)}, 10.0))
    assert column(points, "latency_s") == pytest.approx([5.0]) and column(points, "correct") == [1] and column(points, "is_fallback") == [1]
