"""FedAvg with Oort's selection: the same text as `fedavg:select=oort`, and whom it asks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import airloom
from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.oort import Oort
from airloom.parts import select
from tests.methods.hand import star, targets
from tests.methods.quadratic import run
from tests.worlds import task_for


def test_it_is_fedavg_with_the_selector_bit_for_bit() -> None:
    network = star(dict.fromkeys("abcdefgh", 1e9))
    fields: dict[str, Any] = {"fraction": 0.5, "local_steps": 2, "batch_size": 8}
    mine, other = (run(network, task_for(network), m, 4) for m in (Oort(**fields), FedAvg(**fields, select=select.Oort())))
    assert torch.equal(mine.x, other.x)
    assert mine.stamps == other.stamps


def test_slow_clients_of_little_use_are_asked_less() -> None:
    # eight clients with the same loss curve; h takes a hundred times as long. Its utility is multiplied by (T / t)^2 < 1e-3, so that after the
    # first rounds, which look for newcomers, it comes only by exploration
    names = "abcdefgh"
    speeds = dict.fromkeys(names, 100.0) | {"h": 1.0}
    task = targets({n: (4, 1.0 + i) for i, n in enumerate(names)})
    course = run(star(speeds), task, Oort(fraction=0.25, local_steps=1, lr=1e-3, batch_size=4), 40, start=[0.0])
    asked = {n: course.sim.sites[n].drawn // 4 for n in names}
    assert sum(asked.values()) == 40 * 2
    assert asked["h"] <= 2 < asked["g"]  # h and g have nearly the same loss


def test_the_command_line_knows_it() -> None:
    small = {"scenario.devices": 4, "scenario.base_stations": 1, "local_steps": 1}
    made = airloom.run("oort:select=oort(alpha=1.0)", scenario="phones", set=small, budget={"rounds": 1}, target=None, out=None)
    assert made.points[0]["clients"] == 2  # half of four


def test_bad_input() -> None:
    with pytest.raises(ScenarioError, match=r"Oort\.fraction: got 0\.0; allowed is"):
        Oort(fraction=0.0)
    with pytest.raises(ScenarioError, match="alpha"):
        Oort(select=select.selector("oort(alpha=-1.0)"))
