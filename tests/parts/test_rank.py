"""Rank budgets: by memory, declared, refused; sketches: unbiased, one set per pair."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from airloom.engines.simnode import SimNode
from airloom.errors import DoesNotFit, ScenarioError
from airloom.methods.fslora import FSLoRA
from airloom.models.submodel import ranks
from airloom.parts.rank import rank_budgets, rank_grid, sketch
from tests.methods.hand import star
from tests.methods.pairs import digits, with_ranks
from tests.methods.quadratic import run
from tests.worlds import device, play, world

METHOD = FSLoRA(batch_size=8)
TASK = digits("ab")


def budgets(memory: dict[str, float], facts: dict[str, object] | None = None) -> dict[str, int]:
    network = world({(n, "hub"): 1e6 for n in "ab"}, devices={n: device(1e6, memory_bytes=m) for n, m in memory.items()})
    x = TASK.model.initial(0)
    return play(with_ranks(network, facts or {}), lambda node: rank_budgets(node, METHOD.client, node.clients, x, {}), task=TASK).value


def need(k: int) -> float:
    def text(node: SimNode) -> float:
        price = node.estimate(METHOD.client, "a", TASK.model.initial(0)[ranks(k)])
        return price.memory_bytes + price.bytes_down + 4 * k * 2  # two pairs

    return play(star({"a": 1.0, "b": 1.0}), text, task=TASK).value


def test_a_budget_is_the_largest_rank_that_fits() -> None:
    needs = [need(k) for k in rank_grid(8)]
    assert needs == sorted(needs) and len(set(needs)) == 4
    assert budgets({"a": need(4), "b": need(4) - 1}) == {"a": 4, "b": 2}
    assert budgets({"a": 1e12, "b": need(1)}) == {"a": 8, "b": 1}


def test_what_the_budget_allows_the_engine_allows() -> None:
    # the engine counts the slice that has arrived and the peak of the call
    network = world({(n, "hub"): 1e6 for n in "ab"}, devices={n: device(1e6, memory_bytes=need(4) + 1) for n in "ab"})
    course = run(network, TASK, FSLoRA(batch_size=8, local_steps=2), 2)
    assert course.states[-1]["budgets"] == {"a": 4, "b": 4}


def test_nothing_fits() -> None:
    with pytest.raises(DoesNotFit, match=r"'b' has .* MB available, and rank 1 of .* needs"):
        budgets({"a": 1e12, "b": need(1) - 1})


def test_declared_ranks_win_and_are_checked() -> None:
    assert budgets({"a": need(1), "b": 1e12}, {"a": 3, "b": 5}) == {"a": 3, "b": 5}
    for wrong in (0, 9, 2.0, "4"):
        with pytest.raises(ScenarioError, match=r"fact 'rank' of 'b'.*allowed is an integer in 1 to 8"):
            budgets({"a": 1e12, "b": 1e12}, {"b": wrong})


def test_sketches_are_unbiased() -> None:
    # over all index sets of k = 2 of r = 4: the mean of S is 1, that of S^2 is (r / k) 1
    sets = [np.isin(np.arange(4), chosen) for chosen in combinations(range(4), 2)]
    assert np.mean([4 / 2 * s for s in sets], axis=0).tolist() == [1.0] * 4
    assert np.mean([(4 / 2 * s) ** 2 for s in sets], axis=0).tolist() == [2.0] * 4
    # and the draw is uniform: 4,000 draws of 3 of 8, each row 1,500 times, standard deviation 31
    x = TASK.model.initial(0)
    rng = np.random.default_rng(0)
    counts = np.zeros((2, 8))
    for _ in range(4000):
        for pair, (_, rows) in enumerate(sketch(x, 3, rng).rows):  # type: ignore[attr-defined]
            assert len(rows) == 3
            counts[pair, list(rows)] += 1
    assert np.abs(counts - 1500).max() < 125
    assert sketch(x, 8, rng) == ranks({"hidden1": range(8), "out": range(8)})
