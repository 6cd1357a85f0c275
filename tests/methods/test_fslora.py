"""FSLoRA: a round by hand, full ranks are FedLoRA and FedAvg, untouched columns, one index set per pair, bytes, division by participants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedlora import FedLoRA
from airloom.methods.fslora import FSLoRA
from airloom.parts.optimizer import ServerSGD
from airloom.runner import check_shape
from airloom.scenarios.scenario import Scenario
from tests.methods.hand import star, targets
from tests.methods.pairs import digits, moved_rows, pair_targets, with_ranks
from tests.methods.quadratic import Course, run

ONE: dict[str, Any] = {"local_steps": 1, "lr": 0.125, "batch_size": 1}
SOME: dict[str, Any] = {"local_steps": 3, "lr": 0.2, "batch_size": 8}
SPEEDS = dict.fromkeys("ab", 1e6)


def columns(course: Course) -> list[float]:
    """Values of the scalar pair of rank 2 by column, sorted; A and B have moved alike."""
    A, B = course.x[:2], course.x[2:]
    assert torch.equal(A, B)
    return sorted(A.tolist())


def test_a_round_by_hand() -> None:
    # A = B = (1, 1), k = 1 of r = 2, s = 1, c = 0: w = (r / k) B_I A_I = 2, G = w - c = 2, dB_I = (r / k) A_I G = 4 = dA_I
    # one step of 1/8 moves the drawn column from 1 to 1/2; the other one stays
    network = with_ranks(star({"a": 1.0}), {"a": 1})
    course = run(network, pair_targets({"a": (1, 0.0)}, 2), FSLoRA(**ONE), 1, start=[1.0] * 4)
    assert columns(course) == [0.5, 1.0]
    # the server takes half of the step: 1 - 1/4
    half = run(network, pair_targets({"a": (1, 0.0)}, 2), FSLoRA(**ONE, server=ServerSGD(lr=0.5)), 1, start=[1.0] * 4)
    assert columns(half) == [0.75, 1.0]


def test_differences_are_divided_by_participants_not_by_counts() -> None:
    # two clients, each moves its column by -1/2. One column for both: -1/2 either way. A column each: -1/4 per participant, -1/2 per count.
    network = with_ranks(star(SPEEDS), {"a": 1, "b": 1})
    task = pair_targets({"a": (1, 0.0), "b": (1, 0.0)}, 2)
    ends: dict[str, set[tuple[float, ...]]] = {}
    for divide in ("participants", "counts"):
        method = FSLoRA(**ONE, divide=divide)  # type: ignore[arg-type]
        ends[divide] = {tuple(columns(run(network, task, method, 1, start=[1.0] * 4, seed=seed))) for seed in range(6)}
    assert ends == {"participants": {(0.5, 1.0), (0.75, 0.75)}, "counts": {(0.5, 1.0), (0.5, 0.5)}}


def test_full_ranks_are_fedlora_bit_for_bit_and_fedavg() -> None:
    task, network = digits("ab"), star(SPEEDS)
    ours, plain, avg = (run(network, task, method, 3) for method in (FSLoRA(**SOME), FedLoRA(**SOME), FedAvg(**SOME, weights="equal")))
    assert torch.equal(ours.x, plain.x)
    torch.testing.assert_close(ours.x, avg.x, rtol=0, atol=1e-6)
    assert [ours.spent(t)["bytes_up"] for t in range(3)] == [plain.spent(t)["bytes_up"] for t in range(3)]


def test_columns_outside_the_sketches_stay_and_both_matrices_share_one_set() -> None:
    task = digits("ab")
    alone = run(with_ranks(star({"a": 1e6}), {"a": 3}), digits("a"), FSLoRA(**SOME), 1)
    both = run(with_ranks(star(SPEEDS), {"a": 3, "b": 2}), task, FSLoRA(**SOME), 1)
    one, two = (moved_rows(task.model, c.states[0]["x"].flat, c.x) for c in (alone, both))
    for pair in task.model.pairs:
        assert one[pair][0] == one[pair][1] and len(one[pair][0]) == 3
        assert two[pair][0] == two[pair][1] and len(two[pair][0]) <= 5
        assert one[pair][0] <= two[pair][0]  # who else takes part changes no client's sketch


def test_bytes_are_those_of_the_small_pairs() -> None:
    # 4 k (d + l) per pair: hidden1 joins 64 and 12, out joins 12 and 10; and per pair 3 indices of 4 bytes, or 8 for a range
    course = run(with_ranks(star({"a": 1e6}), {"a": 3}), digits("a"), FSLoRA(**SOME), 1)
    values = 4 * 3 * (64 + 12) + 4 * 3 * (12 + 10)
    for way in ("bytes_up", "bytes_down"):
        assert course.spent(0)[way] - values in {16, 20, 24}


def test_same_seed_same_sketches_another_seed_others() -> None:
    network, task = with_ranks(star(SPEEDS), {"a": 2, "b": 1}), digits("ab")
    one, again, other = (run(network, task, FSLoRA(**SOME), 2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.x, again.x)
    rows = [moved_rows(task.model, c.states[0]["x"].flat, c.x) for c in (one, other)]
    assert rows[0] != rows[1]


def test_models_without_pairs_are_refused() -> None:
    network = star({"a": 1.0})
    scenario = Scenario(name="plain", network=network, task=targets({"a": (1, 0.0)}))
    with pytest.raises(ScenarioError, match=r"FSLoRA on scenario 'plain'.*has none; use the scenario lora_phones"):
        check_shape(FSLoRA(), scenario)
    check_shape(FSLoRA(), replace(scenario, task=pair_targets({"a": (1, 0.0)}, 2)))
