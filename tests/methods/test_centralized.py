"""Centralized training: data sent once, then gradient descent at the server; clients that come late or get lost while they send."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.centralized import Centralized
from tests.methods.hand import away, star, targets
from tests.methods.quadratic import gradient, least_squares, random_rows, run
from tests.worlds import device, world

FULL: dict[str, Any] = {"local_steps": 1, "lr": 1.0, "batch_size": 4}  # with four rows in the pool x becomes the mean target
ROWS = targets({"a": (1, 3.0), "b": (3, 7.0)})


def test_it_is_gradient_descent_on_the_union() -> None:
    names = list("abc")
    rows = random_rows(names)
    pool = np.concatenate([rows[n][0] for n in names]), np.concatenate([rows[n][1] for n in names])
    w = np.array([1.0, 2.0, 3.0])
    course = run(star(dict.fromkeys(names, 1.0)), least_squares(rows), Centralized(local_steps=4, lr=0.3, batch_size=12), 2, start=w.tolist())
    for _ in range(8):
        w = w - 0.3 * gradient(pool, w)
    np.testing.assert_allclose(course.x.numpy(), w, rtol=1e-12)


def test_seconds_and_bytes() -> None:
    # a row is x and y, 8 bytes each. At 8 byte/s a's row takes 2 s, b's three 6 s; then a step on 4 rows is 16 FLOPs, 8 s at 2 FLOP/s
    network = world({("a", "hub"): 8, ("b", "hub"): 8}, devices={"hub": device(2.0)})
    course = run(network, ROWS, Centralized(**FULL), 2, start=[0.0])
    assert course.x.item() == 6.0
    assert [course.spent(t)["seconds"] for t in range(2)] == [14.0, 8.0]
    assert [(course.spent(t)["bytes_up"], course.spent(t)["bytes_down"]) for t in range(2)] == [(64, 0), (0, 0)]
    assert course.stamps[-1]["joules"] == 0.0  # clients compute nothing
    assert course.stamps[-1]["joules_server"] == 2.0 * 16.0


def test_data_that_were_lost_on_the_way_are_sent_again() -> None:
    # b leaves at 3 s, half of its data sent, and is back at 3.5 s. The first round learns from a's row alone (x = 3; rows repeat in a batch of 4;
    # 16 FLOPs at 1 FLOP/s), the second waits 6 s for b's: x = 6
    course = run(star({"a": 1.0, "b": 1.0}, rate=8.0, churn=away(b=(3.0, 3.5))), ROWS, Centralized(**FULL), 2, start=[0.0])
    assert [s["x"].flat.item() for s in course.states] == [0.0, 3.0, 6.0]
    assert course.stamps[-1]["bytes_up"] == 16 + 24 + 48
    assert [course.spent(t)["seconds"] for t in range(2)] == [3.0 + 16.0, 6.0 + 16.0]


def test_a_client_that_leaves_later_has_been_heard() -> None:
    course = run(star({"a": 1.0, "b": 1.0}, rate=8.0, churn=away(b=(7.0,))), ROWS, Centralized(**FULL), 2, start=[0.0])
    assert [s["x"].flat.item() for s in course.states] == [0.0, 6.0, 6.0]


def test_nobody_there_keeps_the_model() -> None:
    course = run(star({"a": 1.0, "b": 1.0}, churn=away(a=(0.0,), b=(0.0,))), ROWS, Centralized(**FULL), 1, start=[5.0])
    assert (course.x.item(), course.stamps[-1]["seconds"]) == (5.0, 0.0)


def test_modalities_are_joined_one_by_one() -> None:
    parts = [{"x": {"sound": torch.full((n, 2), float(n)), "image": torch.zeros(n, 3)}, "y": torch.full((n,), n)} for n in (1, 2)]
    pool = Centralized().join(None, parts)  # type: ignore[arg-type]
    assert pool["x"]["sound"].tolist() == [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]]
    assert (tuple(pool["x"]["image"].shape), pool["y"].tolist()) == ((3, 3), [1, 2, 2])


@pytest.mark.parametrize("field", [{"local_steps": 0}, {"lr": 0.0}, {"batch_size": 0}])
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"Centralized\.{next(iter(field))}: got .* allowed is"):
        Centralized(**field)
