"""DisentAFL: without the penalty it is FedAvg, with it experts part, whose components travel, and fine-tuning at the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.disentafl import DisentAFL
from airloom.methods.fedavg import FedAvg
from airloom.methods.tap import held
from airloom.models.assembly import Orthogonal, assembly
from airloom.models.train import forward
from airloom.runner import Options, Runner
from airloom.scenarios.scenario import Scenario
from airloom.tasks.task import Task
from tests.methods.hand import star
from tests.methods.quadratic import least_squares, random_rows, run
from tests.methods.test_tap import FACTS, PAIRS, SPEC, world

FIELDS: dict[str, Any] = {"local_steps": 6, "lr": 0.3, "batch_size": 4}
SHOWN = assembly(inputs={"image": 6, "text": 5}, outputs={"digit": 3, "rebuild": 6, "parity": 2}, pairs=PAIRS, width=16, dtype=torch.float64, shows_hidden=True)  # fmt: skip  # noqa: E501


def shown() -> tuple[Any, Task]:
    network, task = world()
    return network, replace(task, model=SHOWN)


def test_on_a_model_without_components_it_is_fedavg() -> None:
    task = least_squares(random_rows(list("ab")))
    fields: dict[str, Any] = {"local_steps": 3, "lr": 0.3, "batch_size": 4}
    mine, other = (run(star({"a": 1.0, "b": 1.0}), task, m, 3, start=[1.0, 2.0, 3.0]) for m in (DisentAFL(**fields), FedAvg(**fields)))
    np.testing.assert_allclose(mine.x.numpy(), other.x.numpy(), rtol=1e-12)


def test_the_penalty_parts_experts_and_shared_layer() -> None:
    # b reads texts: an expert for digits, one for parities, and the shared layer; a has one expert and the shared layer
    network, task = shown()
    plain, ours = (run(network, task, DisentAFL(**FIELDS, weight=weight), 3) for weight in (0.0, 5.0))
    for n in "ab":
        rows = task.data(n).all()
        outs = [forward(c.sim.value_of(c.states[-1]["own"][n]), rows, keep=True)[0] for c in (plain, ours)]
        left = [float(Orthogonal()(out, rows)) for out in outs]
        assert left[1] < 0.7 * left[0]
    start, names = SHOWN.initial(0).named(), ("expert.image_rebuild.weight", "head.rebuild.weight")
    assert all(torch.equal(ours.states[-1]["x"].named()[name], start[name]) for name in names)  # nobody's


def test_only_components_that_a_client_uses_travel() -> None:
    course = run(*shown(), DisentAFL(**FIELDS), 2)
    size = sum(SHOWN.initial(0)[held(SHOWN, FACTS[n])].nbytes for n in "ab")
    assert (course.spent(1)["bytes_down"], course.spent(1)["bytes_up"]) == (size, size)


def test_fine_tuning_at_the_end_begins_from_the_servers_components_and_sends_nothing_up() -> None:
    network, task = shown()
    ends = {}
    for steps in (0, 3):
        method, options = DisentAFL(**FIELDS, post_steps=steps), Options(budget={"rounds": 2}, executor="loop", checkpoint_every_s=None)
        ends[steps] = Runner(Scenario(name="two ways", network=network, task=task), method, 0, options, None, {}, None).run()
    assert len(ends[3].points) == len(ends[0].points) + 1
    assert ends[3].summary["bytes_up"] == ends[0].summary["bytes_up"] and ends[3].summary["bytes_down"] > ends[0].summary["bytes_down"]
    assert ends[3].points[-1]["loss"] != ends[0].points[-1]["loss"]


def test_a_model_that_shows_nothing_is_refused() -> None:
    network, task = world()
    assert task.model == SPEC
    with pytest.raises(ScenarioError, match=r"make it with assembly\(\.\.\., shows_hidden=True\)"):
        run(network, task, DisentAFL(**FIELDS), 1)


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_weights_out_of_range_are_refused(weight: float) -> None:
    with pytest.raises(ScenarioError, match=r"DisentAFL.*weight"):
        DisentAFL(weight=weight)
