"""HetLoRA: rounds by hand with both weights, the norm without full matrices, equal ranks are FedLoRA."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from airloom.methods.fedlora import FedLoRA
from airloom.methods.hetlora import HetLoRA
from tests.methods.hand import star
from tests.methods.pairs import digits, pair_targets, with_ranks
from tests.methods.quadratic import run

ONE: dict[str, Any] = {"local_steps": 1, "lr": 0.125, "batch_size": 1}
SOME: dict[str, Any] = {"local_steps": 3, "lr": 0.2, "batch_size": 8}
NETWORK = with_ranks(star(dict.fromkeys("ab", 1.0)), {"a": 1, "b": 2})
TASK = pair_targets({"a": (1, 0.0), "b": (1, 0.0)}, 2)


def test_a_round_by_hand_with_equal_weights() -> None:
    # a, k = 1: w = 1, G = 1, the first column moves by -1/8. b, k = 2: w = 2, G = 2, both columns move by -1/4.
    # means over both clients: -3/16 and (0 - 1/4) / 2 = -1/8
    course = run(NETWORK, TASK, HetLoRA(**ONE, weights="equal"), 1, start=[1.0] * 4)
    assert course.x.tolist() == [0.8125, 0.875, 0.8125, 0.875]


def test_a_round_by_hand_weighted_by_norms() -> None:
    # norms after training: |7/8 * 7/8| = 49/64 at a, 2 (3/4)^2 = 72/64 at b: weights 49/121 and 72/121
    course = run(NETWORK, TASK, HetLoRA(**ONE), 1, start=[1.0] * 4)
    first, second = 1 - (49 / 8 + 72 / 4) / 121, 1 - 72 / 4 / 121
    assert course.x.tolist() == pytest.approx([first, second, first, second], rel=1e-12)
    # up: 2 values and a range of a, 4 values (all: no description) of b, and a norm of 8 bytes each
    assert course.spent(0)["bytes_up"] == (16 + 8 + 8) + (32 + 8)


def test_the_norm_is_that_of_the_products() -> None:
    class Meter:
        flops = 0.0

        def cost(self, *, flops: float) -> None:
            self.flops += flops

    spec, here = digits("a").model, Meter()
    y = spec.initial(0) + 0.1
    named = y.named()
    squares = [torch.linalg.matrix_norm(named[b] @ named[a]).item() ** 2 for a, b in map(spec.pair_leaves, spec.pairs)]
    assert float(HetLoRA().norm(here, y)) == pytest.approx(sum(squares) ** 0.5, rel=1e-5)  # type: ignore[arg-type]
    assert here.flops == 2 * 8**2 * (64 + 12) + 2 * 8**2 * (12 + 10)


def test_equal_ranks_and_weights_are_fedlora() -> None:
    task, network = digits("ab"), star(dict.fromkeys("ab", 1e6))
    ours, plain = run(network, task, HetLoRA(**SOME, weights="equal"), 3), run(network, task, FedLoRA(**SOME), 3)
    torch.testing.assert_close(ours.x, plain.x, rtol=0, atol=1e-6)
