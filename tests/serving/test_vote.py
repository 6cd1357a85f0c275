"""Vote: majority, ties, one agent is a single endpoint, identical agents change nothing but the bill."""

from __future__ import annotations

import pytest

from airloom.serving.device_only import DeviceOnly
from airloom.serving.vote import Vote
from tests.serving.worlds import NEVER, asked, column, served, skilled, star, three_tiers

PLACES = ("phone0", "edge", "cloud")


@pytest.mark.parametrize(("skills", "correct"), [((0.0, 1.0, 1.0), 1), ((1.0, 0.0, 0.0), 0), ((1.0, 0.0, 1.0), 1), ((0.0, 0.0, 1.0), 0)])
def test_the_majority_decides(skills: tuple[float, ...], correct: int) -> None:
    network = three_tiers()
    task = asked(network, {place: skilled(skill, place) for place, skill in zip(PLACES, skills)}, 10.0)
    assert column(served(Vote(), network, task)[0], "correct") == [correct]


def test_of_two_that_disagree_the_device_is_right() -> None:
    network = three_tiers()
    task = asked(network, {place: skilled(skill, place) for place, skill in zip(PLACES, (1.0, 0.0, 0.0))}, 10.0)
    assert column(served(Vote(agents=2), network, task)[0], "where") == ["phone0"]


def test_one_agent_is_device_only() -> None:
    network = three_tiers()
    task = asked(network, {place: skilled(0.5, place) for place in PLACES}, 10.0, 12.0)
    assert served(Vote(agents=1), network, task)[0] == served(DeviceOnly(), network, task)[0]


def test_identical_agents_give_the_single_answer_at_n_times_the_price_and_in_the_time_of_the_farthest() -> None:
    network = three_tiers()
    task = asked(network, dict.fromkeys(PLACES, skilled(0.5, price_out=1.0)), 10.0)
    three, played = served(Vote(), network, task)
    one, alone = served(DeviceOnly(), network, task)
    assert column(three, "correct") == column(one, "correct")
    assert played.sim.stamp()["price"] == 3 * alone.sim.stamp()["price"] == 12.0
    assert column(three, "latency_s") == pytest.approx([3.0 + 4 * 0.5])  # calls side by side; the cloud is two hops away, there and back


def test_a_device_that_is_cut_off_votes_alone() -> None:
    network = star("phone0", up=NEVER)
    points, _ = served(Vote(timeout_s=1.0), network, asked(network, {"phone0": skilled(1.0), "cloud": skilled(0.0)}, 10.0))
    assert column(points, "latency_s") == pytest.approx([3.0])  # the time-out is over before its own answer is there
    assert column(points, "correct") == [1] and column(points, "is_fallback") == [1]
