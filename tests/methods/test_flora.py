"""FLoRA: rounds by hand, one client is FedLoRA, products add up exactly, bases agree bit for bit, bytes of stacks, who missed rounds, losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from airloom.clock.rng import seed_of
from airloom.errors import ScenarioError
from airloom.methods.fedlora import FedLoRA
from airloom.methods.flora import FLoRA, missed
from airloom.models import zoo
from airloom.models.lora import adapters, base_weights, lora, thaw
from airloom.models.params import Params
from airloom.runner import check_shape
from airloom.scenarios.scenario import Scenario
from tests.methods.hand import away, star, targets
from tests.methods.pairs import digits, pair_targets, with_ranks
from tests.methods.quadratic import Course, run

ONE: dict[str, Any] = {"local_steps": 1, "lr": 0.125, "batch_size": 1}
SOME: dict[str, Any] = {"local_steps": 3, "lr": 0.2, "batch_size": 8}
THREE = dict.fromkeys("abc", 1e6)


def drawn(task: Any, client: str, t: int) -> Params:
    """The pairs that a client begins a round with."""
    return task.model.initial(seed_of(0, "device", client, "pairs", t))


def weights(w: Params) -> torch.Tensor:
    return w[base_weights(w.spec)].flat


def bases(course: Course, t: int) -> dict[str, torch.Tensor]:
    """What the clients have folded after round t."""
    return {n: course.sim.value_of(base).flat for n, (base, _) in course.states[t + 1]["bases"].items()}


def test_rounds_by_hand() -> None:
    # f = (w - c)^2 / 2 with w = W + sum_i B_i A_i, W = 0, B = 0: one step moves B_i by eta (c - W) A_i and leaves A, so W <- W + eta (c - W) |A|^2
    task = pair_targets({"a": (1, 3.0), "b": (3, -1.0)}, 2)
    course = run(star(dict.fromkeys("ab", 1e6)), task, FLoRA(**ONE), 2)
    W = 0.0
    for t in range(2):
        square = {n: drawn(task, n, t).flat[:2].square().sum().item() for n in "ab"}  # the vector is A, then B
        W += 1 / 4 * 0.125 * (3.0 - W) * square["a"] + 3 / 4 * 0.125 * (-1.0 - W) * square["b"]  # a has one row of four
        assert weights(course.states[t + 1]["w"]).tolist() == pytest.approx([W], abs=1e-12)
    equal = run(star(dict.fromkeys("ab", 1e6)), task, FLoRA(**ONE, weights="equal"), 1)
    square = {n: drawn(task, n, 0).flat[:2].square().sum().item() for n in "ab"}
    assert weights(equal.states[1]["w"]).tolist() == pytest.approx([0.0625 * (3 * square["a"] - square["b"])], abs=1e-12)


def test_a_client_alone_for_a_round_is_fedlora_on_the_pairs_that_it_drew() -> None:
    task = digits("a")
    ours = run(star({"a": 1e6}), task, FLoRA(**SOME), 1).states[1]["w"]
    plain = run(star({"a": 1e6}), task, FedLoRA(**SOME), 1, start=drawn(task, "a", 0).flat.tolist())
    y, W = task.model.params(plain.x).named(), thaw(task.model.initial(0)).named()
    for a, b in map(task.model.pair_leaves, task.model.pairs):
        leaf = a.replace(".A", ".weight")
        torch.testing.assert_close(ours.named()[leaf], W[leaf] + 2.0 * y[b] @ y[a], rtol=1e-5, atol=1e-6)  # the scale is 2
        assert not ours.named()[b].any()


def test_the_stack_is_the_weighted_sum_of_the_products_and_a_head_is_averaged() -> None:
    base = zoo.mlp(inputs=6, hidden=(5,), classes=3, dtype=torch.float64)
    spec = lora(base, rank=4, values=base.initial(0), train=["classifier"])
    task = replace(digits("abc"), model=lora(zoo.mlp(inputs=64, hidden=(12,), classes=10), rank=4, train=["classifier"]))
    course = run(with_ranks(star(THREE), {"a": 1, "b": 4, "c": 2}), task, FLoRA(**SOME), 1)
    w0, w1, (p, xs) = course.states[0]["w"].named(), course.states[1]["w"].named(), course.states[1]["stacks"][0]
    assert [x.spec.rank for x in xs] == [1, 4, 2] and sum(p) == pytest.approx(1.0, abs=1e-12)
    products = [p_n * x.named()["hidden1.B"] @ x.named()["hidden1.A"] for p_n, x in zip(p, xs, strict=True)]
    torch.testing.assert_close(w1["hidden1.weight"], w0["hidden1.weight"] + sum(products), rtol=1e-6, atol=1e-7)
    assert torch.equal(w1["hidden1.A"], w0["hidden1.A"]) and not w1["hidden1.B"].any()
    assert not torch.equal(w1["out.weight"], w0["out.weight"])
    assert set(spec.thawed.width_axes) == set(spec.width_axes)


def test_who_missed_rounds_gets_their_stacks_and_all_bases_agree_bit_for_bit() -> None:
    # 64 x 12 + 12 x 10 weights are 3,552 bytes; a stack of rank 1 has 4 (64 + 12 + 12 + 10) = 392 in it, 8 for the range of its row and 8 for its
    # weight; beside stacks go the numbers of the round and of the rank rows
    task = digits("abc")
    course = run(with_ranks(star(THREE), dict.fromkeys("abc", 1)), task, FLoRA(**SOME, fraction=0.3), 6)
    made = dict.fromkeys("abc", 0)
    for t in range(6):
        held, before = bases(course, t), bases(course, t - 1) if t else {}
        (n,) = [n for n in held if n not in before or course.states[t + 1]["bases"][n] != course.states[t]["bases"][n]]
        assert torch.equal(held[n], weights(course.states[t]["w"]))
        assert course.spent(t)["bytes_down"] == 16 + (t - made[n]) * (392 + 8 + 8)
        assert course.spent(t)["bytes_up"] == 392 + 8
        made[n] = t
    assert len({*made.values()}) > 1


def test_long_stacks_are_replaced_by_the_weights() -> None:
    # two clients of rank 8 stack 2 x 8 x 392 bytes, more than the weights' 3,552: everybody gets these (from the second round), nothing is kept
    course = run(star(dict.fromkeys("ab", 1e6)), digits("ab"), FLoRA(**SOME), 3)
    assert [course.spent(t)["bytes_down"] for t in range(3)] == [2 * 16, 2 * (16 + 3552), 2 * (16 + 3552)]
    assert course.states[-1]["stacks"] == []
    assert all(torch.equal(base, weights(course.states[2]["w"])) for base in bases(course, 2).values())


def test_a_start_with_products_of_its_own_reaches_all() -> None:
    # A = B = (1, 1): W = 2 before the first round, which every client gets as a stack
    task = pair_targets({"a": (1, 2.0)}, 2)
    course = run(star({"a": 1e6}), task, FLoRA(**ONE), 1, start=[1.0] * 4)
    assert weights(course.states[0]["w"]).tolist() == [2.0]
    assert weights(course.states[1]["w"]).tolist() == [2.0]  # the target: no step moves it
    assert bases(course, 0)["a"].tolist() == [2.0]


def test_a_client_that_was_lost_begins_anew() -> None:
    # a leaves in the first round, after it was called, and its base with it; from its return it gets all that was made, or W
    network = star({"a": 100.0, "b": 1e9}, churn=away(a=(1.0, 1e5)), on_leave="wipe", detect_s=0.5)
    course = run(network, digits("ab"), FLoRA(**SOME), 3)
    assert list(course.states[1]["bases"]) == ["b"]
    w = {"bases": {"b": [None, 1]}, "stacks": ["second"], "made": 2, "w": course.states[0]["w"]}
    assert missed(w, "b") == (None, ["second"])
    assert missed(w, "a")[0].flat.equal(weights(w["w"])) and missed(w, "a")[1] == []


def test_what_is_frozen_while_a_client_trains() -> None:
    task = digits("ab")
    course = run(star(dict.fromkeys("ab", 1e6)), task, FLoRA(**SOME), 1)
    w = course.states[0]["w"]
    assert len(w[adapters(w.spec)]) == task.model.size and len(weights(w)) == 64 * 12 + 12 * 10
    assert all(torch.equal(base, weights(w)) for base in bases(course, 0).values())  # nothing was made before the first round


@pytest.mark.parametrize("rank", [0, 9, 2.0])
def test_ranks_that_the_pairs_do_not_have_are_refused(rank: object) -> None:
    with pytest.raises(ScenarioError, match=r"fact 'rank' of 'a': got .*; allowed is an integer in 1 to 8"):
        run(with_ranks(star({"a": 1e6}), {"a": rank}), digits("a"), FLoRA(**SOME), 1)


def test_models_without_pairs_are_refused() -> None:
    scenario = Scenario(name="plain", network=star({"a": 1.0}), task=targets({"a": (1, 0.0)}))
    with pytest.raises(ScenarioError, match=r"FLoRA on scenario 'plain'.*has none; use the scenario lora_phones"):
        check_shape(FLoRA(), scenario)
