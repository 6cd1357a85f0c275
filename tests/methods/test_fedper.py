"""FedPer: whose layers travel and which are averaged, a model that is all private, and clients that leave."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedper import FedPer
from airloom.methods.local_only import LocalOnly
from airloom.models.params import Params
from airloom.models.submodel import layers
from tests.methods.hand import away, star, targets
from tests.methods.quadratic import Course, run
from tests.worlds import task_for, world

NETWORK = world({("a", "hub"): 1e9, ("b", "hub"): 1e9})
TASK = task_for(NETWORK)  # an MLP of two layers
FIELDS: dict[str, Any] = {"local_steps": 2, "batch_size": 8}


def own(course: Course, name: str) -> Params:
    """A personal model that nobody has asked for yet."""
    return course.sim.numerics.value(course.states[-1]["own"][name])


def test_the_base_travels_and_the_first_head_goes_down_once() -> None:
    x = TASK.model.initial(0)
    base, head = x[layers(0, 1)], x[layers(1, 2)]
    assert len(base) + len(head) == len(x)
    course = run(NETWORK, TASK, FedPer(**FIELDS), 2)
    assert [course.spent(t)["bytes_down"] for t in range(2)] == [2 * (base.nbytes + head.nbytes), 2 * base.nbytes]
    assert [course.spent(t)["bytes_up"] for t in range(2)] == [2 * base.nbytes] * 2


def test_a_round_is_fedavg_on_the_base_and_local_on_the_head() -> None:
    mine, avg = (run(NETWORK, TASK, m, 1) for m in (FedPer(**FIELDS), FedAvg(**FIELDS)))
    torch.testing.assert_close(mine.states[-1]["base"].flat, avg.states[-1]["x"][layers(0, 1)].flat)
    heads = {n: mine.state(n, "head") for n in "ab"}
    local = {n: run(world({(n, "hub"): 1e9}), TASK, LocalOnly(**FIELDS), 1) for n in "ab"}
    for n in "ab":
        whole = own(local[n], n)
        assert torch.equal(heads[n], whole[layers(1, 2)].flat)
    assert not torch.equal(heads["a"], heads["b"])


def test_the_next_round_begins_with_the_own_head() -> None:
    course = run(NETWORK, TASK, FedPer(**FIELDS), 1)
    one = course.state("a", "head").clone()
    still = run(NETWORK, TASK, FedPer(local_steps=2, batch_size=8, lr=1e-30), 2)
    assert torch.equal(still.state("a", "head"), TASK.model.initial(0)[layers(1, 2)].flat)
    two = run(NETWORK, TASK, FedPer(**FIELDS), 2).state("a", "head")
    assert not torch.equal(one, two)
    assert (two - one).norm() < (two - TASK.model.initial(0)[layers(1, 2)].flat).norm()


def test_a_model_of_one_layer_is_all_private() -> None:
    two = targets({"a": (1, 0.0), "b": (1, 8.0)})
    step: dict[str, Any] = {"local_steps": 1, "lr": 0.5, "batch_size": 1}
    course, local = (run(star({"a": 1.0, "b": 1.0}), two, m, 3, start=[4.0]) for m in (FedPer(**step), LocalOnly(**step)))
    for n in "ab":
        assert course.state(n, "head").item() == own(local, n).flat.item()
    assert course.stamps[-1]["bytes_up"] == 0


def test_nobody_keeps_the_base() -> None:
    network = world({("a", "hub"): 1e9, ("b", "hub"): 1e9}, churn=away(a=(1.0,), b=(1.0,)))  # at 1 FLOP/s nobody is done by then
    course = run(network, TASK, FedPer(**FIELDS), 1)
    assert torch.equal(course.states[-1]["base"].flat, course.states[0]["base"].flat)
    assert course.states[-1]["own"] == {}


@pytest.mark.parametrize("field", [{"own_layers": 0}, {"lr": 0.0}, {"fraction": 0.0}])
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"FedPer\.{next(iter(field))}: got .* allowed is"):
        FedPer(**field)
