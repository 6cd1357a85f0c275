"""Kept forward passes and their backward passes: split training equals training in one place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airloom.errors import ScenarioError
from airloom.models import zoo
from airloom.models.batch import Batch
from airloom.models.module import model
from airloom.models.params import join
from airloom.models.price import Cost
from airloom.models.submodel import layers
from airloom.models.train import forward, grad, vjp

SPEC = zoo.mlp(inputs=4, hidden=(6, 5), classes=3, dtype=torch.float64)
INPUTS = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(7) % 3


def test_split_gradients_are_those_of_the_whole_model() -> None:
    x = SPEC.initial(0)
    bottom, top = x[layers(0, 1)], x[layers(1, 3)]
    h, tape = forward(bottom, INPUTS, keep=True)
    (g_top, g_h), _ = grad(top, Batch(h, Y), wrt=("params", "inputs"))
    g_bottom, g_inputs = vjp(tape, g_h, wrt=("params", "inputs"))
    want, want_inputs = grad(x, Batch(INPUTS, Y), wrt=("params", "inputs"))[0]
    torch.testing.assert_close(join(g_bottom, g_top).flat, want.flat, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(g_inputs, want_inputs, rtol=1e-12, atol=1e-14)


def test_a_tape_can_be_used_again_and_in_parts_while_the_model_runs_elsewhere() -> None:
    x, y = SPEC.initial(0), SPEC.initial(1)
    out, tape = forward(x, INPUTS, keep=True)
    forward(y, INPUTS)  # the skeleton now holds other values
    grad(y, Batch(INPUTS, Y))
    both = vjp(tape, out, wrt=("inputs", "params"))
    assert torch.equal(both[0], vjp(tape, out, wrt="inputs")) and torch.equal(both[1].flat, vjp(tape, out, wrt="params").flat)
    assert torch.equal(out, forward(x, INPUTS)) and not out.requires_grad


def test_a_tape_holds_activations_but_no_copy_of_the_values() -> None:
    _, tape = forward(SPEC.initial(0), INPUTS, keep=True)
    # kept for the way back: both hidden layers after ReLU (the inputs and weights are there anyway), and the output: 7 (6 + 5 + 3) float64
    assert tape.nbytes == 7 * (6 + 5 + 3) * 8
    meta, dry = forward(SPEC.meta(), INPUTS, keep=True)
    assert meta.is_meta and dry.is_meta and dry.nbytes == tape.nbytes and not tape.is_meta


def test_cost_of_the_way_back() -> None:
    x = SPEC.initial(0)
    costs = {}
    for wrt in ("params", "inputs", ("params", "inputs")):
        out, tape = forward(x, INPUTS, keep=True)
        costs[wrt] = Cost()
        vjp(tape, out, wrt=wrt, cost=costs[wrt])  # type: ignore[arg-type]
    one, two, three = (2 * 7 * a * b for a, b in ((4, 6), (6, 5), (5, 3)))
    assert costs["params"].flops == one + 2 * two + 2 * three  # weights of all layers, inputs of all but the first
    assert costs["inputs"].flops == one + two + three
    assert costs[("params", "inputs")].flops == 2 * (one + two + three) and costs["params"].samples == pytest.approx(7 * 2 / 3)


def test_until_and_keep_together() -> None:
    x = SPEC.initial(0)
    h, tape = forward(x, INPUTS, keep=True, until="hidden1")
    g = vjp(tape, torch.ones_like(h), wrt="params").named()
    torch.testing.assert_close(g["hidden1.weight"], INPUTS.sum(0).expand(6, 4))
    assert g["out.weight"].abs().max() == 0


class Pair(nn.Module):
    """Two inputs by name, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Linear(4, 3)

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sum": self.a(x["a"]) + self.b(x["b"]), "a": self.a(x["a"])}


def test_dicts_of_inputs_and_outputs() -> None:
    x = model(Pair).initial(0)
    inputs = {"a": torch.ones(2, 2), "b": torch.ones(2, 4)}
    out, tape = forward(x, inputs, keep=True)
    back = vjp(tape, {"sum": torch.ones(2, 3), "a": torch.zeros(2, 3)}, wrt="inputs")
    assert torch.allclose(back["b"], x.named()["b.weight"].sum(0).expand(2, 4)) and set(out) == {"sum", "a"}
    meta, dry = forward(x.to_meta(), inputs, keep=True)
    assert meta["sum"].is_meta and {k: t.shape for k, t in vjp(dry, meta, wrt="inputs").items()} == {"a": (2, 2), "b": (2, 4)}
    (g, gx), _ = grad(x, Batch(inputs, torch.zeros(2)), objective=lambda o, _: o["sum"].sum(), wrt=("params", "inputs"))
    assert torch.allclose(gx["a"], x.named()["a.weight"].sum(0).expand(2, 2)) and g.named()["a.bias"].tolist() == [2, 2, 2]


def test_running_statistics_of_the_values_stay() -> None:
    x = model(lambda: nn.BatchNorm1d(4)).initial(0)
    before = x.digest()
    out, tape = forward(x, INPUTS.float() + 3, keep=True)  # training mode: normalized by the batch
    assert x.digest() == before and out.mean().abs() < 1e-6
    assert vjp(tape, torch.ones_like(out), wrt="params").flat[8:].abs().max() == 0


def test_tokens_get_no_gradient() -> None:
    x = zoo.transformer(vocabulary=7, width=8, blocks=1, context=5).initial(0)
    ids = torch.tensor([[1, 2, 3]])
    out, tape = forward(x, ids, keep=True)
    g, g_ids = vjp(tape, torch.ones_like(out), wrt=("params", "inputs"))
    assert g.norm() > 0 and g_ids.abs().max() == 0


def test_wrong_shapes_are_refused() -> None:
    _, tape = forward(SPEC.initial(0), INPUTS, keep=True)
    with pytest.raises(ScenarioError, match="one tensor per output"):
        vjp(tape, torch.zeros(7, 2, dtype=torch.float64), wrt="params")


def test_dropout_of_a_kept_pass_depends_on_the_seed() -> None:
    x = zoo.mlp(inputs=4, hidden=(20,), classes=3, dropout=0.5).initial(0)
    a, b, c = (forward(x, INPUTS.float(), keep=True, seed=s)[0] for s in (1, 2, 1))
    assert torch.equal(a, c) and not torch.equal(a, b)
    loss = F.cross_entropy(a, Y)
    assert loss.isfinite()
