"""Training a part of the width: what goes down, what moves, what comes back, and how long it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from airloom.engines.simnode import SimNode
from airloom.errors import ScenarioError
from airloom.models import zoo
from airloom.models.batch import Batch
from airloom.models.objective import CrossEntropy, MaskedCrossEntropy
from airloom.models.params import Params
from airloom.parts.width import cut, fit_slice, own_labels, round_seconds, whole_seconds
from airloom.program.here import Here
from airloom.tasks import TaskSettings, make_task
from tests.worlds import device, play, world

NET = world({("a", "hub"): 1e6, ("b", "hub"): 5e5}, devices={"a": device(1e6), "b": device(4e6)}, framing_bytes=16)
TASK = make_task(TaskSettings(partition="shards", limit=200, minimum=1), ["a", "b"], 0, model=zoo.mlp(inputs=64, hidden=(8,), classes=10))
FIELDS: dict[str, Any] = {"steps": 3, "lr": 0.5, "batch_size": 8, "clip_norm": 1.0}


def answer(here: Here, x: Params, is_masked: bool) -> dict[str, Any]:
    return fit_slice(here, x, is_masked=is_masked, **FIELDS)


def labels(here: Here, x: Params) -> Any:
    here.cost(seconds=1.0)
    return own_labels(here, x)


def owned(name: str) -> list[int]:
    return np.flatnonzero(TASK.data(name).counts).tolist()


@pytest.mark.parametrize("is_masked", [True, False])
def test_rows_of_other_labels_do_not_move_and_do_not_come_back(is_masked: bool) -> None:
    x = cut(TASK.model.initial(0), 0.5)
    got = play(NET, lambda node: node.fetch(node.call(answer, "a", x, is_masked)), task=TASK).value
    own = owned("a")
    assert 0 < len(own) < 10
    named = got["x"].named()
    assert named["out.weight"].shape == ((len(own) if is_masked else 10), 4)
    assert named["hidden1.weight"].shape == (4, 64)
    assert got["F"] > 0
    if is_masked:
        assert not torch.equal(named["out.weight"], x.named()["out.weight"][own])


def test_masked_logits_are_zeros_that_own_ones_compete_with() -> None:
    # logits (2, 5, -1), owner of 0 and 2, label 0: -log(e^2 / (e^2 + 1 + e^-1)); left out altogether: -log(e^2 / (e^2 + e^-1))
    out, batch = torch.tensor([[2.0, 5.0, -1.0]], requires_grad=True), Batch(torch.zeros(1, 1), torch.tensor([0]))
    loss = MaskedCrossEntropy(labels=(2, 0))(out, batch)
    assert loss.item() == pytest.approx(-2 + np.log(np.e**2 + 1 + np.e**-1))
    assert CrossEntropy(labels=(2, 0))(out, batch).item() == pytest.approx(-2 + np.log(np.e**2 + np.e**-1))
    loss.backward()
    assert out.grad is not None and out.grad[0, 1] == 0 and out.grad[0, 0] < 0
    weighted = Batch(torch.zeros(2, 1), torch.tensor([0, 2]), None, torch.tensor([1.0, 0.0]))
    assert MaskedCrossEntropy(labels=(0, 2))(out.detach().repeat(2, 1), weighted).item() == pytest.approx(loss.item())
    with pytest.raises(ScenarioError, match="labels"):
        MaskedCrossEntropy(labels=())


def test_labels_are_known_where_there_is_a_classifier() -> None:
    spec = zoo.mlp(inputs=64, hidden=(8,), classes=10)

    def text(node: SimNode) -> Any:
        return [node.fetch(node.call(labels, n, spec.initial(0))) for n in ("a", "b")]

    assert play(NET, text, task=TASK).value == [tuple(owned("a")), tuple(owned("b"))]


def test_a_model_without_width_axes_has_one_size() -> None:
    x = zoo.softmax_regression(inputs=4, classes=2).initial(0)
    assert cut(x, 1 / 16) is x


@pytest.mark.parametrize("p", [1.0, 0.5, 0.25])
def test_the_round_takes_as_long_as_foreseen(p: float) -> None:
    # both at once on links of their own, without latency
    x = TASK.model.initial(0)
    sub = cut(x, p)

    def text(node: SimNode) -> Any:
        foreseen = {n: round_seconds(node, answer, n, sub, True) for n in ("a", "b")}
        refs = node.map(answer, ["a", "b"], sub, True)
        node.first(refs, 2)
        return foreseen, {r.place: r.arrived_s for r in refs}

    foreseen, took = play(NET, text, task=TASK).value
    assert took == pytest.approx(foreseen, rel=1e-9)
    assert play(NET, lambda node: whole_seconds(node, answer, x, True), task=TASK).value.keys() == {"a", "b"}


def test_half_of_the_width_is_a_quarter_of_the_hidden_weights() -> None:
    # 64-8-8-10 hidden to hidden: ceil(p C_out) ceil(p C_in); first and last layers shrink with p alone
    spec = zoo.mlp(inputs=64, hidden=(8, 8), classes=10)
    x = spec.initial(0)
    for p in (1.0, 0.5, 0.25, 0.125):
        named = cut(x, p).named()
        assert named["hidden2.weight"].numel() == p * p * 64
        assert named["hidden1.weight"].numel() == p * 512 and named["out.weight"].numel() == p * 80
    cnn = zoo.cnn(size=8, widths=(4, 8), hidden=6, classes=4, groups=2)
    assert cut(cnn.initial(0), 0.3).named()["block2.conv.weight"].shape == (3, 2, 3, 3)  # ceil(0.3 * 8), ceil(0.3 * 4), 3 x 3
