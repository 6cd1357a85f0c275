"""FlexLoRA: a round by hand, the products' mean is kept, its leading directions are handed out, the decomposition takes server time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from airloom.errors import RunFailed
from airloom.methods.flexlora import FlexLoRA
from airloom.models import zoo
from airloom.models.lora import lora
from airloom.models.submodel import ranks
from tests.methods.hand import NOTHING_S, star
from tests.methods.pairs import digits, pair_targets, with_ranks
from tests.methods.quadratic import Course, run
from tests.worlds import device, world

ONE: dict[str, Any] = {"local_steps": 1, "lr": 0.125, "batch_size": 1}


class Meter:
    """Stands for `here` where only the cost is told."""

    flops = 0.0

    def cost(self, *, flops: float) -> None:
        self.flops += flops


def test_a_round_by_hand_and_its_server_seconds() -> None:
    # a, k = 1: w = 1, G = 1, 1 -> 7/8, product 49/64. b, k = 2: w = 2, G = 2, 1 -> 3/4, product 72/64. Mean 121/128, which is 1 x 1:
    # one singular value, so B = (+-121/128, 0), A = (+-1, 0)
    task = pair_targets({"a": (1, 0.0), "b": (1, 0.0)}, 2)

    def played(server_speed: float) -> Course:
        rate = 8 / NOTHING_S
        devices = {"a": device(1.0), "b": device(1.0), "hub": device(server_speed)}
        network = with_ranks(world({("a", "hub"): rate, ("b", "hub"): rate}, devices=devices), {"a": 1, "b": 2})
        return run(network, task, FlexLoRA(**ONE), 1, start=[1.0] * 4)

    course = played(1.0)
    A, B = course.x[:2], course.x[2:]
    assert (A * B).tolist() == pytest.approx([121 / 128, 0.0], abs=1e-12)
    assert A.abs().tolist() == pytest.approx([1.0, 0.0], abs=1e-12)
    # products 2 d l k: 2 and 4; decomposition 6 + 20 for a matrix of 1 x 1: 32 FLOPs, half of it saved by a server twice as fast
    assert course.spent(0)["seconds"] - played(2.0).spent(0)["seconds"] == pytest.approx(16.0, abs=1e-6)


def test_the_merged_pairs_are_the_best_approximation_of_the_mean_product() -> None:
    base = zoo.mlp(inputs=6, hidden=(5,), classes=3)
    spec = lora(base, rank=4, values=base.initial(0), train=["classifier"])
    models = [(spec.initial(seed) + 0.1 * (seed + 1))[ranks(k)] for seed, k in ((0, 1), (1, 4), (2, 2))]
    merged = FlexLoRA().merge(Meter(), spec.initial(0), models)  # type: ignore[arg-type]
    a, b = spec.pair_leaves("hidden1")
    new, named = merged.named(), [y.named() for y in models]
    W = sum(y[b] @ y[a] for y in named) / 3
    U, sigma, Vt = torch.linalg.svd(W)
    for k in (1, 2, 4):  # Eckart and Young: the first k directions are the best matrix of rank k
        cut = merged[ranks(k)].named()
        torch.testing.assert_close(cut[b] @ cut[a], U[:, :k] * sigma[:k] @ Vt[:k], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(new["out.bias"], sum(y["out.bias"] for y in named) / 3)  # the head is averaged whole


def test_equal_clients_keep_their_product() -> None:
    task = digits("a")
    course = run(star({"a": 1e6}), task, FlexLoRA(local_steps=3, lr=0.05, batch_size=8), 2)
    x = task.model.params(course.x)
    merged = FlexLoRA().merge(Meter(), x, [x, x]).named()  # type: ignore[arg-type]
    for a, b in map(task.model.pair_leaves, task.model.pairs):
        torch.testing.assert_close(merged[b] @ merged[a], x.named()[b] @ x.named()[a], rtol=1e-4, atol=1e-6)


def test_a_product_that_is_not_finite_says_so() -> None:
    x = digits("a").model.initial(0)
    with pytest.raises(RunFailed, match=r"training diverged: the mean product of 'hidden1' is not finite"):
        FlexLoRA().merge(Meter(), x, [x * float("inf")])  # type: ignore[arg-type]
