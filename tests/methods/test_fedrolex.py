"""FedRolex: HeteroFL in its first round, windows that roll and wrap, and every value trained where nested slices leave some alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.fedrolex import FedRolex
from airloom.methods.heterofl import HeteroFL
from tests.methods.quadratic import Course, run
from tests.methods.widths import boards, digits

FIELDS: dict[str, Any] = {"local_steps": 2, "lr": 0.5, "batch_size": 8}


def test_the_first_round_is_heterofl() -> None:
    mine, other = (run(boards(), digits(), method, 1) for method in (FedRolex(**FIELDS), HeteroFL(**FIELDS)))
    assert torch.equal(mine.x, other.x)
    assert mine.spent(0) == other.spent(0)


def course(module: str, method: Any, p: float, rounds: int, hidden: int, seed: int = 0) -> Course:
    """A run in which every device has width p."""
    with patch(f"airloom.methods.{module}.by_capacity", lambda whole_s, levels: dict.fromkeys(whole_s, p)):
        return run(boards(), digits("iid", hidden), method, rounds, seed=seed)


def test_windows_roll_by_one_and_wrap() -> None:
    # half of 4 neurons from t on, modulo 4
    states = course("fedrolex", FedRolex(local_steps=2, lr=0.02, batch_size=8), 0.5, 5, 4, seed=1).states  # a seed at which none is dead
    moved = []
    for before, after in pairwise(s["x"].named()["hidden1.weight"] for s in states):
        moved.append((before != after).any(dim=1).nonzero().flatten().tolist())
    assert moved == [[0, 1], [1, 2], [2, 3], [0, 3], [0, 1]]


def test_all_neurons_are_trained_where_nested_slices_train_the_first_only() -> None:
    x = digits("iid").model.initial(0).named()["hidden1.bias"]
    nested, rolled = (
        course(module, method, 0.125, 16, 16).states[-1]["x"].named()["hidden1.bias"] != x
        for module, method in (("heterofl", HeteroFL(**FIELDS)), ("fedrolex", FedRolex(**FIELDS)))
    )
    assert nested.nonzero().flatten().tolist() == [0, 1]
    assert rolled.sum() >= 14  # one may be dead


@pytest.mark.parametrize("field", [{"levels": 0}, {"clip_norm": 0.0}, {"lr": 0.0}])
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"FedRolex\.{next(iter(field))}: got .* allowed is"):
        FedRolex(**field)
