"""FedLoRA: a round by hand, the least budget, FedAvg on the same model, ranks that do not exist."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedlora import FedLoRA
from tests.methods.hand import star
from tests.methods.pairs import digits, moved_rows, pair_targets, with_ranks
from tests.methods.quadratic import run

ONE: dict[str, Any] = {"local_steps": 1, "lr": 0.125, "batch_size": 1}
SOME: dict[str, Any] = {"local_steps": 3, "lr": 0.2, "batch_size": 8}


def test_a_round_by_hand() -> None:
    # A = B = (1, 1), k = 1: w = B_0 A_0 = 1 without a factor, G = 1 and 3 at c = 0 and -2, dB_0 = A_0 G; one step of 1/8: 7/8 and 5/8, mean 3/4
    task = pair_targets({"a": (1, 0.0), "b": (1, -2.0)}, 2)
    course = run(star(dict.fromkeys("ab", 1.0)), task, FedLoRA(**ONE, rank=1), 1, start=[1.0] * 4)
    assert course.x.tolist() == [0.75, 1.0, 0.75, 1.0]
    # a slice of two float64 values, described by a range of 8 bytes, to and from each
    assert (course.spent(0)["bytes_down"], course.spent(0)["bytes_up"]) == (2 * 24, 2 * 24)


def test_the_least_budget_is_everybodys_rank() -> None:
    task = digits("ab")
    course = run(with_ranks(star(dict.fromkeys("ab", 1e6)), {"a": 5, "b": 2}), task, FedLoRA(**SOME), 2)
    assert set(map(str, moved_rows(task.model, course.states[0]["x"].flat, course.x).values())) == {"({0, 1}, {0, 1})"}


def test_the_whole_rank_is_fedavg() -> None:
    task, network = digits("ab"), star(dict.fromkeys("ab", 1e6))
    ours, avg = run(network, task, FedLoRA(**SOME), 3), run(network, task, FedAvg(**SOME, weights="equal"), 3)
    torch.testing.assert_close(ours.x, avg.x, rtol=0, atol=1e-6)


def test_a_rank_above_that_of_the_pairs_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"FedLoRA\.rank: got 9; allowed is 0 to 8"):
        run(star({"a": 1.0}), digits("a"), FedLoRA(rank=9), 1)
