"""LoRA mixture: gates by hand, no gate steps are separate adapters, bytes, tasks that are away."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.contextlora import ContextLoRA
from airloom.methods.lora_mixture import LoRAMixture, mixed, outputs
from airloom.models.step import SGD
from tests.methods.hand import away, star
from tests.methods.pairs import digits, pair_targets
from tests.methods.quadratic import Course, run

SPEEDS = {"a": 1e6, "b": 2e6}


def played(rounds: int = 1, churn: Any = None, **fields: Any) -> Course:
    return run(star(SPEEDS, churn=churn), digits("ab", 6), LoRAMixture(**{"epochs": 1, "batch_size": 50, **fields}), rounds)


def test_two_gates_by_hand() -> None:
    # each alone, from A = (1, 1), B = (0, 0), eta = 1/2: B = c / 2 = (1/2, 3/2). Task a, c = 1, gate (1, 0): p = 1/2, dp = -1/2,
    # da = dp (B1, B2) = (-1/4, -3/4); with gamma = 0.1: (1.025, 0.075). Then p = 0.625, dp = -0.375, da = (-0.1875, -0.5625): (1.04375, 0.13125).
    # Task b, c = 3, gate (0, 1): p = 3/2, dp = -3/2, da = (-3/4, -9/4): (0.075, 1.225); p = 1.875, dp = -1.125, da = (-0.5625, -1.6875)
    fields: dict[str, Any] = {"epochs": 1, "lr": 0.5, "batch_size": 1, "optimizer": SGD(), "gate_steps": 2, "gate_lr": 0.1}
    course = run(star({"a": 1.0, "b": 1.0}), pair_targets({"a": (1, 1.0), "b": (1, 3.0)}, 2), LoRAMixture(**fields), 1, start=[1.0, 1.0, 0.0, 0.0])
    assert course.x.tolist() == pytest.approx([1.0, 1.0, 0.5, 1.5])
    assert course.states[-1]["gates"]["a"] == pytest.approx({"a": 1.04375, "b": 0.13125})
    assert course.states[-1]["gates"]["b"] == pytest.approx({"a": 0.13125, "b": 1.39375})
    # up from each: a block (two values of 8 bytes, and 8 that say which) to the server and one to the other task, and two gates of 8
    assert course.stamps[-1]["bytes_up"] == 2 * (24 + 24 + 16)


def test_without_gate_steps_it_is_an_adapter_per_task() -> None:
    course = played(gate_steps=0)
    alone = run(star(SPEEDS), digits("ab", 6), ContextLoRA(epochs=1, batch_size=50), 1)
    assert torch.equal(course.x, alone.x)
    assert course.states[-1]["gates"] == {"a": {"a": 1.0, "b": 0.0}, "b": {"a": 0.0, "b": 1.0}}


def test_a_gate_scales_b_alone() -> None:
    x = digits("ab", 6).model.initial(0) + 1.0
    rows = {"a": [0, 1, 2], "b": [3, 4, 5]}
    y = mixed(x, rows, {"a": 0.5, "b": 0.0})
    for v, gate in (("a", 0.5), ("b", 0.0)):
        assert torch.equal(y[outputs(x, rows[v])].flat, gate * x[outputs(x, rows[v])].flat)
    for pair in x.spec.pairs:
        A = x.spec.pair_leaves(pair)[0]
        assert torch.equal(y.named()[A], x.named()[A])


def test_a_task_that_is_away_keeps_its_block_and_its_gate() -> None:
    first_s = played(1).stamps[-1]["seconds"]
    course = played(2, away(b=(first_s + 1e-9,)))
    before, after = course.states[1], course.states[2]
    own = outputs(before["x"], before["rows"]["b"])
    assert torch.equal(before["x"][own].flat, after["x"][own].flat)
    assert after["gates"]["b"] == before["gates"]["b"] and after["gates"]["a"] != before["gates"]["a"]


def test_bad_input() -> None:
    with pytest.raises(ScenarioError, match=r"ranks for 2 tasks: .* sum to at most 1, the rank of the adapter"):
        run(star(SPEEDS), digits("ab", 1), LoRAMixture(), 1)
    with pytest.raises(ScenarioError, match=r"LoRAMixture\.gate_lr"):
        LoRAMixture(gate_lr=0.0)
