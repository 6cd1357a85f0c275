"""GAPG: rewards, filter and estimator by hand; one cloud call per prompt; training that teaches to ask; a cut link."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import airloom
from airloom.errors import ScenarioError
from airloom.models.train import forward, grad
from airloom.parts.advantage import RLOO, Surrogate, decisions, draw
from airloom.parts.asking import Tries
from airloom.serving.gapg import GAPG
from airloom.tasks.arithmetic import ASK, IDS, encode, mixed, pretrained
from airloom.tasks.arithmetic import draw as question
from tests.serving.worlds import asked, served, skilled, star

WORLD = {"scenario.devices": 2, "scenario.base_stations": 1, "scenario.requests": 4}
SHORT = "gapg:steps=3,prompts=6,group=4"


def tries(solved: list[list[int]], asks: list[list[int]], cloud: list[int]) -> Tries:
    flags = [np.array(table, bool) for table in (solved, asks, cloud)]
    return Tries(flags[0], flags[1], ~flags[1], flags[2])


def test_rewards_by_hand() -> None:
    r = GAPG().rewards(tries([[1, 0, 0], [0, 0, 0]], [[0, 0, 1], [0, 1, 0]], [1, 0]))
    assert r.tolist() == [[2.2, 0.2, 0.5], [0.2, 0.0, 0.2]]  # nothing for asking a cloud that is wrong, and no format reward for asking


def test_the_filter_keeps_what_is_solved_here_and_few_of_what_only_the_cloud_solves() -> None:
    m, rng = GAPG(ratio=0.5), np.random.default_rng(0)
    found = tries([[1, 0]] * 4 + [[0, 0]] * 6, [[0, 0]] * 10, [1] * 4 + [1] * 5 + [0])
    keep = m.filter(found, rng)
    assert keep[:4].all() and keep[4:9].sum() == 2 and not keep[9]  # |D2| <= 0.5 * 4; the cloud fails on the last one
    assert not m.filter(tries([[0, 0]], [[0, 0]], [1]), rng).any()  # no D1, no update
    assert replace(m, is_filtered=False).lesson(found, {}, rng, 0).keep.all()
    assert GAPG(ratio=0.3).share == pytest.approx(3 / 13)


def test_a_group_that_asks_in_one_voice_teaches_nothing() -> None:
    A = GAPG().lesson(tries([[0, 0]], [[1, 1]], [1]), {}, np.random.default_rng(0), 0).advantages
    assert not A.any()


def test_without_asking_and_filter_it_is_rloo_on_the_task() -> None:
    found = tries([[1, 0, 0, 1]], [[0, 0, 0, 0]], [0])
    lesson = GAPG(is_filtered=False, formatted=0.0, solved=1.0).lesson(found, {}, np.random.default_rng(0), 0)
    assert lesson.advantages == pytest.approx(RLOO(found.solved.astype(float)), abs=1e-12)


def test_training_calls_the_cloud_once_per_prompt_at_most_and_hands_the_policy_to_all() -> None:
    run = airloom.run(SHORT, scenario="assistant", set=WORLD, out=None, executor="loop")
    steps = [point for point in run.points if "train_accuracy" in point]
    assert [point["step"] for point in steps] == [0, 1, 2]
    opened = next(point for point in run.points if point.get("answered") == 0)
    most = 2.5e-6 * 2 + 10e-6 * 160  # a question of two tokens and a reply of 160 in the cloud
    assert 0 < opened["price"] <= 3 * 6 * most
    assert pretrained().nbytes < opened["bytes_down"] < 2 * pretrained().nbytes  # the policy to the other phone; where it was trained it is


def test_a_training_without_a_link_goes_on_alone() -> None:
    cut = {**WORLD, "scenario.outage": 0.9, "scenario.outage_s": 1e5}
    run = airloom.run(f"{SHORT},timeout_s=1.0", scenario="assistant", set=cut, out=None, executor="loop")
    assert run.points[-1]["answered"] == 8


def test_a_device_model_that_cannot_be_trained_is_refused() -> None:
    network = star("phone0")
    with pytest.raises(ScenarioError, match="its model is a Declared; allowed is a TinySolver"):
        served(GAPG(steps=1), network, asked(network, {"phone0": skilled(1.0), "cloud": skilled(1.0)}, 1.0))


def learned(m: GAPG, steps: int, *, hard: float = 0.5, seed: int = 0) -> dict[str, float]:
    """Chance of asking after some updates without a network, on easy (sums of two digits) and hard questions."""
    rng, theta, state = np.random.default_rng(seed), pretrained(), None
    for t in range(steps):
        pairs = [mixed(rng, hard=hard) for _ in range(32)]
        x, y = encode([q for q, _ in pairs]), torch.tensor([int(a) for _, a in pairs])
        logits = forward(theta, x)[:, -1]
        tokens = draw(logits, 8, rng.random((32, 8)))
        found = Tries((tokens == y[:, None]).numpy(), (tokens == IDS[ASK]).numpy(), (tokens < 100).numpy(), np.ones(32, bool))
        A, keep, _ = m.lesson(found, {}, rng, t)
        kept = torch.from_numpy(np.flatnonzero(keep))
        rows, old = kept.repeat_interleave(8), logits.log_softmax(-1).gather(1, tokens)[kept].reshape(-1)
        g, _ = grad(theta, decisions(x[rows], tokens[kept].reshape(-1), old, A[keep].reshape(-1)), objective=Surrogate())
        theta, state = m.optimizer.step(theta, g, state)
    test = np.random.default_rng(99)
    chances = {
        "easy": [question(test, digits=2, signs="+") for _ in range(100)],
        "hard": [question(test, digits=3) for _ in range(100)],
    }
    return {name: float(forward(theta, encode(asked_))[:, -1].softmax(-1)[:, IDS[ASK]].mean()) for name, asked_ in chances.items()}


def test_it_learns_to_ask_for_hard_questions_and_not_for_easy_ones() -> None:
    before, after = learned(GAPG(assisted=1.0), 0), learned(GAPG(assisted=1.0), 60)
    assert after["hard"] > before["hard"] + 0.3 and after["hard"] > 0.6 and after["easy"] < 0.15
