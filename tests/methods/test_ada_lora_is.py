"""AdaLoRA-IS: FedAvg, ICS and FSLoRA as limits, unbiasedness by enumeration, the plan that is followed, bytes, ablations, bad input."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.ada_lora_is import AdaLoRAIS
from airloom.methods.fedavg import FedAvg
from airloom.methods.fslora import FSLoRA
from airloom.methods.ics import ICS
from airloom.models.price import train_flops
from airloom.models.submodel import ranks
from airloom.network.cell import Cell
from airloom.network.network import Network
from airloom.plans.lora_sampling import joint
from tests.methods.pairs import digits, with_ranks
from tests.methods.quadratic import run
from tests.worlds import device, world

SOME: dict[str, Any] = {"local_steps": 3, "lr": 0.2, "batch_size": 8}
NAMES = "abcd"
TASK = digits(NAMES)  # even shares of 75 rows


def network(up_bytes_per_s: float = 1e4, **rest: Any) -> Network:
    """Links of their own; three steps take from 0.1 to 7 seconds."""
    return world({(n, "hub"): up_bytes_per_s for n in NAMES}, devices={n: device(2e4 * 4**i) for i, n in enumerate(NAMES)}, **rest)


def test_everybody_with_all_rows_is_fedavg() -> None:
    ours = run(network(), TASK, AdaLoRAIS(**SOME, scheme="full", ratio="budget"), 3)
    avg = run(network(), TASK, FedAvg(**SOME), 3)
    torch.testing.assert_close(ours.x, avg.x, rtol=0, atol=1e-6)


def test_all_rows_are_independent_sampling_of_the_pairs() -> None:
    ours = run(network(), TASK, AdaLoRAIS(**SOME, scheme="fix", q=0.5, ratio="budget"), 4)
    ics = run(network(), TASK, ICS(**SOME, scheme="fix", q=0.5), 4)
    assert not torch.equal(ours.x, ours.states[0]["x"].flat)
    torch.testing.assert_close(ours.x, ics.x, rtol=0, atol=1e-6)


def test_everybody_with_equal_data_is_sketching() -> None:
    few = with_ranks(network(), {"a": 2, "b": 5, "c": 8, "d": 1})
    ours = run(few, TASK, AdaLoRAIS(**SOME, scheme="full", ratio="budget"), 3)
    sketched = run(few, TASK, FSLoRA(**SOME), 3)
    torch.testing.assert_close(ours.x, sketched.x, rtol=0, atol=1e-6)


def test_the_linear_map_is_unbiased_over_participants_and_rows() -> None:
    # N = 3, r = 4, k = 2: the mean over all sets of participants and all index sets of sum_n a_n (1[n in S] / q_n) B S_n A is B A
    rng = np.random.default_rng(0)
    B, A, q, a = rng.normal(size=(5, 4)), rng.normal(size=(4, 3)), np.array([0.2, 0.5, 0.9]), np.array([0.2, 0.3, 0.5])
    sets = [np.diag(np.isin(np.arange(4), rows)) * 4 / 2 for rows in combinations(range(4), 2)]
    mean_of_sketch = sum(B @ S @ A for S in sets) / len(sets)
    total = np.zeros((5, 3))
    for joined in product([0, 1], repeat=3):
        chance = np.prod([q_n if j else 1 - q_n for j, q_n in zip(joined, q, strict=True)])
        total += chance * sum(a_n * j / q_n * mean_of_sketch for j, a_n, q_n in zip(joined, a, q, strict=True))
    np.testing.assert_allclose(total, B @ A, rtol=1e-10)


def test_it_follows_the_joint_plan_and_predicts_its_times() -> None:
    method = AdaLoRAIS(**SOME, nu=0.5, beta=30.0)
    plan = run(network(1500.0), TASK, method, 1).states[-1]["plan"]
    grid = [1, 2, 4, 8]

    def seconds(speed: float, k: int) -> float:
        """FLOPs of three steps over the speed, and bytes of the slice over 1,500 byte/s."""
        part = TASK.model.slice(ranks(k))
        flops = train_flops(part, TASK.data("a").shaped(8), TASK.objective, steps=3)
        return flops / speed + (4 * part.size + part.index_bytes) / 1500.0

    times = [[seconds(2e4 * 4**i, k) for k in grid] for i in range(4)]
    want = joint([0.25] * 4, times, grid=grid, rank=8, alpha=method.alpha, beta=30.0, nu=0.5)
    assert tuple(plan[n]["k"] for n in NAMES) == want.ranks and len(set(want.ranks)) > 1
    assert [plan[n]["q"] for n in NAMES] == pytest.approx(want.probabilities.tolist(), rel=1e-9)
    assert sum(plan[n]["q"] * sum(plan[n]["known"][1:3]) for n in NAMES) == pytest.approx(want.round_s, rel=1e-9)


@pytest.mark.parametrize("bandwidth", ["common", "equal"])
def test_the_engine_takes_as_long_as_the_plan_says(bandwidth: Any) -> None:
    # one cell, nothing on the way down. Plans count 8 bytes for the rows of a slice. A sketch lists a row of each of two pairs by 16 (of 408, 2 %
    # more than planned), and three of each by up to 24 (of 1,200, 1.4 %); an upload is late by as much
    air = Cell(name="air", bandwidth_hz=8e4, sharing="tdma")
    links, devices = {(n, "hub"): air for n in NAMES}, {n: device(2e4 * 4**i) for i, n in enumerate(NAMES)}
    method = AdaLoRAIS(**SOME, scheme="fix", q=0.6, ratio="budget", bandwidth=bandwidth)
    for budgets, more in ((dict.fromkeys(NAMES, 8), 0), ({"a": 1, "b": 8, "c": 3, "d": 8}, 0.02)):
        reports: list[dict[str, Any]] = []
        course = run(with_ranks(world(links, devices=devices, downlink="free"), budgets), TASK, method, 6, reports=reports)
        late = [course.spent(t)["seconds"] / report["planned_s"] - 1.0 for t, report in enumerate(reports)]
        assert all(-1e-9 <= share <= more + 1e-9 for share in late)
        assert len({report["clients"] for report in reports}) > 1 and min(report["planned_s"] for report in reports) > 0.1


def test_ablations_fix_one_of_both() -> None:
    few = with_ranks(network(300.0), {"a": 2, "b": 5, "c": 8, "d": 8})
    q_only = run(few, TASK, AdaLoRAIS(**SOME, ratio="budget", beta=30.0), 1).states[-1]["plan"]
    assert [q_only[n]["k"] for n in NAMES] == [2, 5, 8, 8] and len({p["q"] for p in q_only.values()}) > 1
    k_only = run(few, TASK, AdaLoRAIS(**SOME, scheme="fix", q=0.7, beta=30.0, nu=0.5), 1).states[-1]["plan"]
    assert {p["q"] for p in k_only.values()} == {0.7} and all(k_only[n]["k"] <= q_only[n]["k"] for n in NAMES)
    assert [k_only[n]["k"] for n in NAMES] != [2, 5, 8, 8]
    for scheme in ("uniform", "weight"):  # no bound is asked for where nothing is planned
        assert run(few, TASK, AdaLoRAIS(**SOME, scheme=scheme, ratio="budget"), 1).states[-1]["plan"]["a"]["q"] == 0.25  # type: ignore[arg-type]


def test_bytes_are_those_of_the_small_pairs() -> None:
    course = run(with_ranks(network(), dict.fromkeys(NAMES, 2)), TASK, AdaLoRAIS(**SOME, scheme="full", ratio="budget"), 1)
    # four clients; 4 k (64 + 12 + 12 + 10) bytes each, and for both pairs two rows listed or one range: 8 bytes
    assert course.spent(0)["bytes_up"] == course.spent(0)["bytes_down"] == 4 * (4 * 2 * 98 + 16)


def test_a_bound_that_cannot_hold_names_the_client() -> None:
    # N a^2 r / k = 4 / 16 * 8 / 1 = 2 for a, above beta = 1.5
    few = with_ranks(network(), {"a": 1})
    with pytest.raises(
        ScenarioError, match=r"client 0 has the share 0\.25 of the data and can train 1 of 8 rank rows.*= 2 must be below beta = 1\.5"
    ):
        run(few, TASK, AdaLoRAIS(**SOME, beta=1.5), 1)
