"""HeteroFL: FedAvg at full width, a round by hand over the holders of each value, owners of labels, capacity, random and full widths, losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.heterofl import HeteroFL
from airloom.models.batch import Batches
from airloom.models.objective import MaskedCrossEntropy
from airloom.models.submodel import rows, width
from airloom.models.train import train
from tests.methods.hand import away
from tests.methods.quadratic import run
from tests.methods.widths import NAMES, boards, digits

FIELDS: dict[str, Any] = {"local_steps": 3, "lr": 0.5, "batch_size": 8}


def test_full_width_with_all_labels_is_fedavg_with_equal_weights() -> None:
    network, task = boards(), digits("iid")
    mine = run(network, task, HeteroFL(sizes="full", clip_norm=1e9, **FIELDS), 3)
    other = run(network, task, FedAvg(weights="equal", **FIELDS), 3)
    np.testing.assert_allclose(mine.x.numpy(), other.x.numpy(), rtol=1e-6, atol=1e-7)
    assert other.stamps[-1]["bytes_up"] - mine.stamps[-1]["bytes_up"] == 3 * 4 * 8  # FedAvg's loss


def test_one_round_is_the_mean_over_those_that_hold_a_value() -> None:
    # four devices, two levels: the two with the fastest round get 1, the others 1/2; all of it redone here with the library's own training
    network, task = boards(), digits()
    course = run(network, task, HeteroFL(levels=2, **FIELDS), 1)
    x = task.model.initial(0)
    p = dict(zip(NAMES, [1.0, 1.0, 0.5, 0.5], strict=True))
    assert course.states[1]["p"] == p
    sums, counts = torch.zeros(x.spec.size, dtype=torch.float64), torch.zeros(x.spec.size, dtype=torch.float64)
    for n in NAMES:
        own = np.flatnonzero(task.data(n).counts).tolist()
        sub = x[width(p[n], is_scaled=True)]
        batch = task.data(n).rows(task.sample_ids(n, 0, 24, 0, 0.0))  # three batches of 8
        y, _ = train(sub, Batches.stacked(batch, 3, 8), lr=0.5, clip_norm=1.0, objective=MaskedCrossEntropy(labels=tuple(own)), seed=0)
        y[rows("out", own)].scatter_into(sums, counts)
    want = torch.where(counts > 0, sums / counts.clamp(min=1), x.flat.double()).float()
    torch.testing.assert_close(course.x, want, rtol=1e-6, atol=1e-7)
    assert (counts == 0).any() or set(counts.unique().tolist()) > {2.0}  # rows of some labels have few owners
    assert torch.equal(course.x[counts == 0], x.flat[counts == 0])  # bit for bit


def test_values_outside_every_slice_stay_bit_for_bit() -> None:
    # all at 1/4 or less: hidden neurons 4 .. 15 belong to nobody
    network, task = boards(), digits()
    x = task.model.initial(0)
    y = run(network, task, HeteroFL(sizes="random", levels=5, **FIELDS), 1, seed=3).states[1]["x"]
    hidden = x.named()["hidden1.weight"] != y.named()["hidden1.weight"]
    assert hidden.any()
    widest = int(hidden.any(dim=1).nonzero().max()) + 1
    assert torch.equal(y.named()["hidden1.weight"][widest:], x.named()["hidden1.weight"][widest:])
    assert torch.equal(y.named()["out.weight"][:, widest:], x.named()["out.weight"][:, widest:])


def test_capacity_looks_at_links_too_and_stays() -> None:
    # the fastest board behind by far the slowest link gets the narrowest slice
    rates = dict.fromkeys(NAMES, 1e6) | {NAMES[0]: 1e2}
    course = run(boards(rates), digits(), HeteroFL(levels=4, **FIELDS), 2)
    assert course.states[1]["p"] == course.states[2]["p"] == {NAMES[1]: 1.0, NAMES[2]: 0.5, NAMES[3]: 0.25, NAMES[0]: 0.125}


def test_random_widths_change_from_round_to_round() -> None:
    course = run(boards(), digits(), HeteroFL(sizes="random", **FIELDS), 3)
    drawn = [tuple(s["p"].values()) for s in course.states[1:]]
    assert len(set(drawn)) == 3


def test_narrow_slices_are_cheap_in_seconds_and_bytes() -> None:
    # 24 samples at 1/16 of the raspberry_pi; one of 16 neurons: 64 + 1 + 10 + 10 values of 4 bytes, at most 8 bytes of ranges and 4 per label
    course = run(boards(1e9), digits("iid"), HeteroFL(levels=1, **FIELDS), 1)
    narrow = run(boards(1e9), digits("iid"), HeteroFL(sizes="random", levels=5, **FIELDS), 1, seed=0)
    p = narrow.states[1]["p"]
    table = {n: 24 * boards().places[n].device.seconds_per_sample[p[n]] for n in NAMES}  # type: ignore[index]
    assert narrow.spent(0)["seconds"] == pytest.approx(max(table.values()), rel=1e-4)
    assert course.spent(0)["seconds"] == pytest.approx(24 * 0.051820623, rel=1e-3)
    values = sum(64 * k + k + 10 * k + 10 for k in (int(16 * q) for q in p.values()))
    assert narrow.spent(0)["bytes_down"] == 4 * values + 8 * sum(q < 1 for q in p.values())


def test_a_lost_device_is_left_out() -> None:
    network = boards(churn=away(xavier=(0.0,)))
    course = run(network, digits(), HeteroFL(**FIELDS), 2)
    assert "xavier" not in course.states[-1]["p"]
    assert course.states[-1]["t"] == 2


@pytest.mark.parametrize("field", [{"levels": 0}, {"clip_norm": 0.0}, {"local_steps": 0}, {"lr": 0.0}, {"batch_size": 0}])
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"HeteroFL\.{next(iter(field))}: got .* allowed is"):
        HeteroFL(**field)


def test_a_width_outside_the_measured_table_is_an_error() -> None:
    # seven levels reach down to 1/64; the boards were measured to 1/16
    with pytest.raises(ScenarioError, match="within the measured table"):
        run(boards(), digits(), HeteroFL(sizes="random", levels=7, **FIELDS), 8)
