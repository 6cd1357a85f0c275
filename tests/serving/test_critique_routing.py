"""Critique and route: rewards and shares by hand, what agents are asked, a controller that learns, a cut link."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import airloom
from airloom.parts.advantage import turn_advantages
from airloom.program.here import Here
from airloom.serving.critique_routing import AGENTS, CONTROLLER, CritiqueRouting
from tests.serving.worlds import NEVER, asked, column, served, skilled, star, three_tiers

SHORT = "critique_routing:steps=2,prompts=3,group=2"
WORLD: dict[str, Any] = {"scenario.devices": 2, "scenario.base_stations": 1, "scenario.requests": 4}


def test_rewards_by_hand() -> None:
    m = CritiqueRouting(verdict=0.5, route=0.25, final=1.0, turn_cost=0.0)
    actions = np.array([[[1, 3, 0], [0, 0, 0], [2, 2, 2]]])
    reached = np.array([[[True, True, True], [True, False, False], [True, True, True]]])
    z = np.array([[[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]]], bool)
    # first: going on while wrong +0.5; again +0.5 and the agent solves it +0.25; stopping when right +0.5, the end is right +1
    # second: stopping with nothing -0.5, the end is wrong.  third: +0.5 + 0.25; going on although right -0.5; +0.5 + 0.25 + 1
    assert m.rewards(actions, z, reached)[0].tolist() == [[0.5, 0.75, 1.5], [-0.5, 0.0, 0.0], [0.75, -0.5, 1.75]]


def test_without_a_cost_of_turns_it_pays_to_be_wrong_first() -> None:
    # wrong, wrong, then right: 0.5 + 0.5 + (0.5 + 0.5 + 1) = 3; right, then stop: (0.5 + 0.5) + (0.5 + 1) = 2.5. Calls cost 3 c against c
    actions, reached = np.array([[[1, 1, 3], [3, 0, 0]]]), np.array([[[True] * 3, [True, True, False]]])
    z = np.array([[[0, 0, 0, 1], [0, 1, 1, 1]]], bool)
    for cost, wanted in ((0.0, [3.0, 2.5]), (0.6, [1.2, 1.9])):
        assert CritiqueRouting(turn_cost=cost).rewards(actions, z, reached).sum(-1)[0] == pytest.approx(wanted)


def test_without_its_other_rewards_it_is_reinforce_on_the_last_draft_with_the_others_as_baseline() -> None:
    m, rng = CritiqueRouting(verdict=0.0, route=0.0, turn_cost=0.0, final=1.0), np.random.default_rng(0)
    actions = rng.integers(0, 4, (1, 5, 3))
    reached = np.stack([np.ones((1, 5), bool), actions[..., 0] > 0, (actions[..., :2] > 0).all(-1)], -1)
    actions = np.where(reached, actions, 0)
    z = np.concatenate([np.zeros((1, 5, 1), bool), rng.random((1, 5, 3)) < 0.5], -1)
    for k in range(3):  # a stop leaves the draft as it is
        z[..., k + 1] = np.where(actions[..., k] > 0, z[..., k + 1], z[..., k])
    A = turn_advantages(m.rewards(actions, z, reached), reached)
    for i in range(5):
        for k in range(3):
            others = [float(z[0, j, -1]) for j in range(5) if j != i and reached[0, j, k]]
            wanted = float(z[0, i, -1]) - (np.mean(others) if others else 0.0) if reached[0, i, k] else 0.0
            assert A[0, i, k] == pytest.approx(wanted)


def test_costs_of_all_agents_sum_to_zero_where_their_shares_sum_to_one() -> None:
    shares, actions = np.array([0.5, 0.25, 0.25]), np.array([0, 1, 2, 3])
    costs = [np.where(actions > 0, (actions == m + 1) - shares[m], 0.0) for m in range(AGENTS)]
    assert np.sum(costs, 0).tolist() == [0.0] * 4


def test_one_turn_is_a_router_and_the_episode_ends_after_k_calls() -> None:
    network = three_tiers()
    task = asked(network, {place: skilled(1.0, place, price_out=1.0) for place in ("phone0", "edge", "cloud")}, 10.0)
    for turns in (1, 3):
        points, played = served(CritiqueRouting(steps=0, turns=turns), network, task)
        assert column(points, "correct") == [1] and 1 <= points[0]["calls"] <= turns and points[0]["strongest_calls"] <= points[0]["calls"]
        assert 4.0 <= played.sim.stamp()["price"] <= 4.0 * turns  # a call is billed 4
    assert served(CritiqueRouting(steps=0), network, task)[0] == served(CritiqueRouting(steps=0), network, task)[0]


def test_the_state_holds_question_draft_and_its_author() -> None:
    m = CritiqueRouting()
    assert m.state("3+4=", "", 0).shape == (1, 8) and m.state("3+4=", "7", 2)[0, -2:].tolist() == [7, 2]
    assert m.state("3+4=", "wrong", 1)[0, -2] != m.state("3+4=", "", 0)[0, -2] and CONTROLLER.size > 0


def test_it_trains_on_the_clock_and_the_multiplier_follows_the_use() -> None:
    run = airloom.run(f"{SHORT},dual_lr=1.0", scenario="assistant", set=WORLD, out=None, executor="loop")
    steps = [point for point in run.points if "train_accuracy" in point]
    assert [point["step"] for point in steps] == [0, 1] and steps[0]["lambda"] == 0.0
    first = steps[0]
    assert steps[1]["lambda"] == pytest.approx(max(0.0, first["calls"] * (first["strongest_rate"] - 0.25)))
    assert 0 <= first["calls"] <= 3 and run.points[-1]["answered"] == 8


def test_it_learns_to_go_on_while_the_draft_is_wrong() -> None:
    run = airloom.run("critique_routing:steps=12,prompts=8,dual_lr=0.0,share=1.0", scenario="assistant", set=WORLD, out=None, executor="loop")
    steps = [point for point in run.points if "train_accuracy" in point]
    assert np.mean([point["train_accuracy"] for point in steps[-4:]]) > steps[0]["train_accuracy"] + 0.1


def test_the_controller_that_serves_is_the_mean_over_updates() -> None:
    last, mean = (
        airloom.run(f"critique_routing:steps=1,prompts=3,group=2,averaging={w}", scenario="assistant", set=WORLD, out=None, executor="loop").model
        for w in (1.0, 0.25)
    )
    assert not np.allclose(last.flat, CONTROLLER.initial(0).flat)
    assert np.allclose(mean.flat, 0.75 * CONTROLLER.initial(0).flat + 0.25 * last.flat, atol=1e-6)  # float32


def test_its_own_model_travels_between_processes() -> None:
    loop, pool = (airloom.run(SHORT, scenario="assistant", set=WORLD, out=None, executor=executor, workers=2) for executor in ("loop", "pool"))
    assert loop.model.digest() == pool.model.digest() and loop.points == pool.points


def test_sampled_decisions_vary_and_repeat_with_the_seed() -> None:
    def calls() -> list[int]:
        world = WORLD | {"scenario.requests": 12}
        run = airloom.run("critique_routing:steps=0,is_greedy=false", scenario="assistant", set=world, out=None, executor="loop")
        return [point["calls"] for point in run.points if "correct" in point]

    once = calls()
    assert len(set(once)) > 1 and once == calls()  # an untrained controller takes all four actions about as often


@pytest.mark.parametrize(("lr", "most"), [(0.0, 40), (0.5, 12)])
def test_in_service_the_share_holds_whatever_the_controller_learned(lr: float, most: int) -> None:
    # This controller prefers the strongest agent by a logit of 1 to the device's. Greedy, without a price: always. With one, of share 0.25 and step
    # 0.5 each such call adds 0.375 to lambda and each other one takes 0.125 off, so that lambda stays within 0.875 and 1.375 once it got there, and
    # 40 calls have 10 + lambda / 0.5 to the strongest: 12, with lambda = 1.
    leaning = torch.tensor([[[-9.0, 0.0, -9.0, 1.0]]])
    m, here = CritiqueRouting(service_lr=lr, share=0.25), Mock(spec=Here, state={}, model=skilled(1.0))
    here.forward = lambda *_: leaning.clone()
    used = [m.decide(here, "1+2=", "", 0) == AGENTS for _ in range(40)]
    assert sum(used) == most


def test_stopping_is_no_call_and_changes_no_price() -> None:
    m, here = CritiqueRouting(), Mock(spec=Here, state={"served": {"lambda": 0.7, "excess": 0.1}}, model=skilled(1.0))
    here.forward = lambda *_: torch.tensor([[[9.0, 0.0, 0.0, 0.0]]])
    assert m.decide(here, "1+2=", "3", 1) == 0 and here.state["served"]["lambda"] == 0.7


def test_without_a_link_the_device_answers() -> None:
    network = star("phone0", up=NEVER)
    m = CritiqueRouting(steps=0, timeout_s=5.0)
    points, _ = served(m, network, asked(network, {"phone0": skilled(1.0), "cloud": skilled(1.0)}, 10.0))
    assert column(points, "correct") == [1]
