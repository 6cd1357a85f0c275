"""DA-GRPO: advantages and dual variable by hand, its reductions, and a budget that is met on average."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import airloom
from airloom.parts.advantage import GRPO, RLOO
from airloom.parts.asking import Tries
from airloom.serving.da_grpo import DAGRPO

SOLVED = np.array([[True, False, False, False]])
ASKS = np.array([[False, True, False, True]])
FOUND = Tries(SOLVED, ASKS, ~ASKS, np.array([True]))
RNG = np.random.default_rng(0)


def test_by_hand() -> None:
    lesson = DAGRPO(budget=0.3, dual=0.5, dual_lr=0.1).lesson(FOUND, {}, RNG, 0)
    # r = 1, 0.8, 0.1, 0.8; c = 0, 1, 0, 1; r - 0.5 c = 1, 0.3, 0.1, 0.3, mean 0.425; times 4/3
    assert lesson.advantages[0] == pytest.approx(np.array([0.575, -0.125, -0.325, -0.125]) * 4 / 3)
    assert lesson.own["lambda"] == pytest.approx(0.5 + 0.1 * (0.5 - 0.3)) and lesson.keep.all()
    again = DAGRPO(budget=0.3, dual=0.5, dual_lr=0.1).lesson(FOUND, {"lambda": 2.0}, RNG, 1)
    assert again.advantages.sum() == pytest.approx(0.0, abs=1e-12) and again.own["lambda"] == pytest.approx(2.02)


def test_lambda_never_rises_below_the_budget_and_never_falls_below_zero() -> None:
    m = DAGRPO(budget=0.6, dual=0.01, dual_lr=0.5)
    assert m.lesson(FOUND, {}, RNG, 0).own["lambda"] == 0.0


def test_without_a_dual_variable_it_is_rloo_on_the_reward() -> None:
    lesson = DAGRPO(dual=0.0, dual_lr=0.0).lesson(FOUND, {}, RNG, 0)
    assert lesson.advantages == pytest.approx(RLOO(np.array([[1.0, 0.8, 0.1, 0.8]])), abs=1e-12) and lesson.own["lambda"] == 0.0


def test_a_fixed_penalty_under_grpo_is_the_reward_shaped_and_divided() -> None:
    lesson = DAGRPO(advantage=GRPO, dual=0.2, dual_lr=0.0).lesson(FOUND, {}, RNG, 0)
    assert lesson.advantages == pytest.approx(GRPO(np.array([[1.0, 0.6, 0.1, 0.6]])), abs=1e-12)


def share(m: DAGRPO, steps: int, seed: int) -> float:
    """Mean share of asking over the last half, for a routing policy p(ask | d) = sigmoid(a + b d) and a device that is right with chance 1 - d."""
    rng, w, own, uses = np.random.default_rng(seed), np.array([-2.0, 0.0]), {}, []
    for t in range(steps):
        d = rng.random(64)
        p = 1 / (1 + np.exp(-(w[0] + w[1] * d)))
        asks = rng.random((64, 8)) < p[:, None]
        solved = ~asks & (rng.random((64, 8)) < 1 - d[:, None])
        A, _, own = m.lesson(Tries(solved, asks, ~asks, np.ones(64, bool)), own, rng, t)
        score = (asks - p[:, None]) * A / 8
        w = w + 0.5 * np.array([score.sum(1).mean(), (score.sum(1) * d).mean()])
        uses.append(asks.mean())
    return float(np.mean(uses[steps // 2 :]))


@pytest.mark.parametrize("budget", [0.1, 0.3])
def test_the_budget_is_met_on_average_where_difficulty_is_graded(budget: float) -> None:
    assert share(DAGRPO(budget=budget, dual_lr=0.02), 1500, seed=0) == pytest.approx(budget, abs=0.05)


def test_a_budget_that_only_silence_meets_ends_in_silence() -> None:
    assert share(DAGRPO(budget=0.0, dual_lr=0.1), 800, seed=0) < 0.02


def test_the_gain_meets_the_budget_too() -> None:
    assert share(DAGRPO(budget=0.3, dual_lr=0.02, dual_gain=0.5), 1500, seed=0) == pytest.approx(0.3, abs=0.05)


def test_a_fixed_penalty_breaks_the_budget() -> None:
    assert share(DAGRPO(budget=0.3, dual=0.2, dual_lr=0.0, advantage=GRPO), 1500, seed=0) > 0.4


def test_it_trains_and_serves() -> None:
    world: dict[str, Any] = {"scenario.devices": 2, "scenario.base_stations": 1, "scenario.requests": 4}
    run = airloom.run("da_grpo:steps=3,prompts=6,group=4", scenario="assistant", set=world, out=None, executor="loop")
    duals = [point["lambda"] for point in run.points if "lambda" in point]
    assert len(duals) == 3 and all(value > 0 for value in duals) and run.points[-1]["answered"] == 8


def test_a_stream_of_tasks_carries_the_policy_over_and_examines_it_on_all() -> None:
    world: dict[str, Any] = {"scenario.devices": 2, "scenario.base_stations": 1, "scenario.requests": 2}
    run = airloom.run("da_grpo:steps=2,prompts=6,group=4,stream=+*", scenario="assistant", set=world, out=None, executor="loop")
    steps, exams = ([point for point in run.points if name in point] for name in ("step", "exam"))
    assert [point["step"] for point in steps] == [0, 1, 2, 3]
    assert steps[2]["lambda"] == pytest.approx(max(0.0, steps[1]["lambda"] + 0.01 * (steps[2]["ask_rate"] - 0.3)))  # not from 0.5 again
    assert [(point["after"], point["exam"]) for point in exams] == [(0, "+"), (0, "*"), (1, "+"), (1, "*")]
    assert all(point["exam_own"] <= point["exam_accuracy"] + point["exam_asked"] <= 2 for point in exams)
    # the device has practiced sums of two digits most, products less
    assert exams[0]["exam_own"] > exams[1]["exam_own"]
