"""LoRA: the forward formula, what is frozen, pairs, rank slices."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.models import zoo
from airloom.models.batch import Batches
from airloom.models.lora import adapters, base_weights, fold, lora, thaw
from airloom.models.module import ModelSpec
from airloom.models.params import Params
from airloom.models.submodel import components, ranks, width
from airloom.models.train import forward, train

BASE = zoo.mlp(inputs=4, hidden=(6, 5), classes=3, dtype=torch.float64)
INPUTS = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def stirred(x: Params) -> Params:
    """B away from zero, so that pairs have an effect."""
    return x + x.spec.params(torch.randn(x.spec.size, generator=torch.Generator().manual_seed(1), dtype=x.spec.dtype)) * 0.3


def test_at_the_start_it_is_the_base_model_for_every_choice_of_ranks() -> None:
    values = BASE.initial(5)
    spec = lora(BASE, rank=4, values=values)
    x = spec.initial(0)
    for part in (x, x[ranks([1, 2], scale=2.0)]):
        assert torch.equal(forward(part, INPUTS), forward(values, INPUTS))


def test_the_forward_pass_is_the_formula() -> None:
    values = BASE.initial(5)
    spec = lora(BASE, rank=4, alpha=6.0, targets=["hidden1", "out"], values=values)
    x = stirred(spec.initial(0))
    w, p = values.named(), x.named()
    h = F.relu(INPUTS @ w["hidden1.weight"].T + w["hidden1.bias"] + 1.5 * INPUTS @ p["hidden1.A"].T @ p["hidden1.B"].T)
    h = F.relu(h @ w["hidden2.weight"].T + w["hidden2.bias"])
    want = h @ w["out.weight"].T + w["out.bias"] + 1.5 * h @ p["out.A"].T @ p["out.B"].T
    torch.testing.assert_close(forward(x, INPUTS), want, rtol=1e-12, atol=1e-12)
    stable = lora(BASE, rank=4, alpha=6.0, scaling="alpha/sqrt(r)", targets=["hidden1", "out"], values=values)
    assert stable.module().get_submodule("out").rank_scale == 6.0 / math.sqrt(4)


def test_sizes_and_names() -> None:
    spec = lora(BASE, rank=2)
    assert spec.pairs == ("hidden1", "hidden2", "out") and spec.rank == 2
    assert spec.size == 2 * ((4 + 6) + (6 + 5) + (5 + 3)) and spec.frozen_bytes == BASE.nbytes
    assert {leaf.name for leaf in spec.leaves} == {f"{p}.{m}" for p in spec.pairs for m in "AB"}
    assert "classifier" in spec and spec.layers == BASE.layers and spec.name == "lora of mlp" and lora(BASE, rank=1, name="mine").name == "mine"
    gpt = lora(zoo.transformer(width=8, heads=2, blocks=2), rank=2, targets=["query", "block2.up"])
    assert gpt.pairs == ("block1.attention.query", "block2.attention.query", "block2.up")


def test_a_head_may_stay_trainable() -> None:
    spec = lora(BASE, rank=2, train=["classifier"])
    assert spec.pairs == ("hidden1", "hidden2") and spec.size == 2 * (10 + 11) + 18
    head = "out.weight"
    assert not torch.equal(spec.initial(0).named()[head], spec.initial(1).named()[head])  # drawn anew
    values = BASE.initial(3)
    assert torch.equal(lora(BASE, rank=2, train=["classifier"], values=values).initial(1).named()[head], values.named()[head])


def test_training_moves_the_pairs_alone_and_the_base_stays() -> None:
    values = BASE.initial(5)
    spec = lora(BASE, rank=2, values=values)
    x = stirred(spec.initial(0))
    batches = Batches(INPUTS[None].repeat(5, 1, 1), torch.arange(7).remainder(3)[None].repeat(5, 1))
    new, log = train(x, batches, lr=0.2)
    assert train(new, batches, lr=0.2)[1].loss < log.loss
    assert torch.equal(forward(spec.initial(0), INPUTS), forward(values, INPUTS))


@given(st.sets(st.integers(0, 3), min_size=1), st.integers(1, 3))
def test_training_a_small_pair_is_masked_training_of_the_large_one(chosen: set[int], steps: int) -> None:
    # FSLoRA: the slice with scale r / k is exactly descent with B S A, S = (r / k) diag(chosen)
    spec = lora(BASE, rank=4)
    x = stirred(spec.initial(0))
    sub = ranks(chosen, scale=4 / len(chosen))
    batches = Batches(INPUTS[None].repeat(steps, 1, 1), torch.arange(7).remainder(3)[None].repeat(steps, 1))
    small, _ = train(x[sub], batches, lr=0.1)
    scaled = spec.slice(ranks(range(4), scale=4 / len(chosen)))  # the whole pair under the same scale, all other rows at zero
    zeroed = Params(scaled, (x.zeros() | x[sub]).flat)
    assert scaled.size == spec.size
    large, _ = train(zeroed, batches, lr=0.1, only=ranks(chosen))
    torch.testing.assert_close((x.zeros() | small).flat, large.flat, rtol=1e-11, atol=1e-12)
    untouched = torch.ones(spec.size, dtype=torch.bool)
    untouched[small.spec.index] = False
    assert torch.equal((x | small).flat[untouched], x.flat[untouched])


def test_wire_bytes_are_those_of_the_paper() -> None:
    # 4 k (d + l) per pair, plus k indices of 4 bytes, once for A and B
    spec = lora(zoo.mlp(inputs=40, hidden=(30,), classes=3), rank=8, targets=["hidden1"])
    assert spec.initial(0)[ranks({"hidden1": [0, 3, 5]})].nbytes == 4 * 3 * (40 + 30) + 3 * 4


def test_a_user_module_without_a_spec() -> None:
    spec = lora(lambda: torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1)), rank=1)
    assert spec.pairs == ("0", "2") and [leaf.name for leaf in spec.leaves if leaf.is_buffer] == ["1.running_mean", "1.running_var"]


def test_a_single_linear_layer() -> None:
    spec = lora(lambda: torch.nn.Linear(3, 2), rank=2)
    assert spec.pairs == ("",) and spec.pair_leaves("") == ("A", "B") and spec.initial(0)[ranks(1)].spec.size == 3 + 2
    with pytest.raises(ScenarioError, match="pair_leaves"):
        spec.pair_leaves("out")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"rank": 0}, "at least 1"),
        ({"rank": 1, "targets": ["nothing"]}, "no linear layer"),
        ({"rank": 1, "values": zoo.softmax_regression().zeros()}, "allowed: values of"),
        ({"rank": 1, "train": ["nothing"]}, "component 'nothing'"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, object], what: str) -> None:
    with pytest.raises(ScenarioError, match=what):
        lora(BASE, **options)  # type: ignore[arg-type]


def test_a_thawed_model_is_the_same_model_and_folding_moves_products_into_its_weights() -> None:
    values = BASE.initial(5)
    spec = lora(BASE, rank=4, alpha=6.0, targets=["hidden1", "out"], values=values)
    x = stirred(spec.initial(0))
    w = thaw(x)
    assert torch.equal(forward(w, INPUTS), forward(x, INPUTS))
    assert torch.equal(w[adapters(w.spec)].flat, x.flat)
    assert {leaf.name for leaf in w[base_weights(w.spec)].spec.leaves} == {"hidden1.weight", "out.weight"}
    assert spec.frozen_bytes - w.spec.frozen_bytes == 8 * (4 * 6 + 5 * 3)
    parts = [w[ranks([0])], w[ranks([1, 3])] * 0.5, w]
    folded = fold(w, parts, [0.2, 0.3, 0.5]).named()
    named = [part.named() for part in parts]
    for pair in spec.pairs:
        products = [p * 1.5 * n[f"{pair}.B"] @ n[f"{pair}.A"] for p, n in zip([0.2, 0.3, 0.5], named, strict=True)]
        torch.testing.assert_close(folded[f"{pair}.weight"], w.named()[f"{pair}.weight"] + sum(products), rtol=1e-12, atol=1e-12)
        assert torch.equal(folded[f"{pair}.A"], x.named()[f"{pair}.A"])
    # the product of one client alone is what its pairs do
    alone = fold(w, [w], [1.0])
    zero = alone | (alone[adapters(w.spec)].zeros())
    torch.testing.assert_close(forward(zero, INPUTS), forward(x, INPUTS), rtol=1e-12, atol=1e-12)
    assert torch.equal(forward(x, INPUTS), forward(w, INPUTS))  # the frozen base is as it was


def test_a_thawed_model_is_known_by_its_recipe() -> None:
    spec = lora(BASE, rank=4, values=BASE.initial(5))
    w = thaw(spec.initial(0))
    assert w.spec == lora(BASE, rank=4, values=BASE.initial(5)).thawed != spec and w.spec.cold is spec and spec.cold is spec
    for part in (w, w[ranks(2)], w[base_weights(w.spec)]):
        assert ModelSpec.from_recipe(part.spec.recipe(), {spec.key: spec}) == part.spec and part.spec.cold is spec


@pytest.mark.parametrize("spec", [BASE, lora(BASE, rank=2).slice(ranks(1)), lora(BASE, rank=2).thawed])
def test_what_cannot_be_thawed_is_refused(spec: ModelSpec) -> None:
    with pytest.raises(ScenarioError, match="allowed: a whole model with LoRA pairs over frozen weights"):
        thaw(spec.zeros())


def test_slices_and_adapters_are_no_bases() -> None:
    for base in (BASE.slice(width(0.5)), BASE.slice(components("out")), lora(BASE, rank=1)):
        with pytest.raises(ScenarioError, match="a whole model without pairs"):
            lora(base, rank=1)
