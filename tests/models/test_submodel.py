"""Submodels: what each constructor selects, composition, recipes, and extract-then-scatter bit for bit."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from airloom.errors import ScenarioError
from airloom.models import zoo
from airloom.models.batch import Batch, Batches
from airloom.models.lora import lora
from airloom.models.module import ModelSpec, model
from airloom.models.objective import MeanSquaredError
from airloom.models.submodel import Axis, Submodel, components, everything, flat, layers, neurons, ranks, rows, width
from airloom.models.train import forward, train

MLP = zoo.mlp(inputs=3, hidden=(8, 6), classes=4)
CNN = zoo.cnn(size=8, widths=(4, 8), hidden=6, classes=4, groups=2)
LSTM = zoo.lstm(vocabulary=7, embed=4, hidden=(6,))
GPT = zoo.transformer(vocabulary=7, width=8, heads=2, blocks=2, context=5)
LORA = lora(GPT, rank=4, targets=["query", "value"])
SPECS = [MLP, CNN, LSTM, GPT, LORA]


def shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    return {leaf.name: leaf.shape for leaf in spec.leaves}


@st.composite
def submodels(draw: st.DrawFn, spec: ModelSpec) -> Submodel:
    """Any submodel that fits the spec."""
    kind = draw(st.sampled_from(["everything", "components", "layers", "width", "ranks", "neurons", "share", "rows", "flat", "both"]))
    if kind == "components":
        return components(*draw(st.lists(st.sampled_from(sorted(spec.components)), min_size=1, max_size=3)))
    if kind == "layers":
        start = draw(st.integers(0, len(spec.layers) - 1))
        return layers(start, draw(st.integers(start + 1, len(spec.layers))))
    if kind == "width" and spec.width_axes:
        return width(draw(st.floats(0.01, 1.0)), start=draw(st.integers(0, 20)), is_scaled=draw(st.booleans()))
    if kind == "ranks" and spec.pairs:
        return ranks(
            {p: draw(st.sets(st.integers(0, spec.rank - 1), min_size=1)) for p in draw(st.sets(st.sampled_from(spec.pairs), min_size=1))}, 2.0
        )
    if kind in ("neurons", "share") and spec.axes:
        if kind == "share" and spec.width_axes:
            return neurons(share=draw(st.floats(0.01, 1.0)), axes=sorted(draw(st.sets(st.sampled_from(sorted(spec.width_axes))))) or None)
        axis = draw(st.sampled_from(sorted(spec.axes)))
        return neurons({axis: draw(st.sets(st.integers(0, spec.axes[axis] - 1), min_size=1))})
    if kind == "rows":
        leaf = draw(st.sampled_from([leaf for leaf in spec.leaves if leaf.shape]))
        return rows(leaf.name, draw(st.sets(st.integers(0, leaf.shape[0] - 1), min_size=1)))
    if kind == "flat":
        start = draw(st.integers(0, spec.size - 1))
        return flat(start, draw(st.integers(start + 1, spec.size)))
    if kind == "both":
        return draw(submodels(spec)) & draw(submodels(spec))
    return everything


@given(st.data(), st.sampled_from(SPECS))
def test_extract_then_scatter_is_the_identity_bit_for_bit(data: st.DataObject, spec: ModelSpec) -> None:
    x = spec.initial(0)
    part = x[data.draw(submodels(spec))]
    assert (x | part).digest() == x.digest()
    y = x | (part + 1)  # outside the slice every bit stays
    outside = torch.ones(spec.size, dtype=torch.bool)
    outside[part.spec.index] = False
    assert torch.equal(y.flat[outside], x.flat[outside]) and torch.equal(y.flat[part.spec.index], part.flat + 1)


@given(st.data(), st.sampled_from(SPECS))
def test_a_slice_of_a_slice_counts_in_base_coordinates(data: st.DataObject, spec: ModelSpec) -> None:
    x = spec.initial(0)
    outer = x[data.draw(submodels(spec))]
    if outer.spec.size == 0 or not outer.spec.layers:
        return
    try:
        inner = outer[data.draw(submodels(outer.spec))]
    except ScenarioError:  # components of which the first cut left nothing
        return
    assert inner.spec.base is spec and torch.equal(x.flat[inner.spec.index], inner.flat)
    assert (outer | inner).digest() == outer.digest() and (x | inner).digest() == x.digest()


@given(st.data(), st.sampled_from(SPECS))
def test_both_selects_the_common_coordinates(data: st.DataObject, spec: ModelSpec) -> None:
    a, b = data.draw(submodels(spec)), data.draw(submodels(spec))
    common = set(spec.slice(a).index.tolist()) & set(spec.slice(b).index.tolist())
    assert spec.slice(a & b).index.tolist() == sorted(common)


@given(st.data(), st.sampled_from(SPECS))
def test_recipes_and_submodels_survive_json(data: st.DataObject, spec: ModelSpec) -> None:
    sub = data.draw(submodels(spec))
    assert Submodel.from_json(json.loads(json.dumps(sub.json()))) == sub
    part = spec.slice(sub)
    again = ModelSpec.from_recipe(json.loads(json.dumps(part.recipe())), {spec.key: spec})
    assert again == part and again.form == part.form and again.index.tolist() == part.index.tolist() and again.width == part.width


@given(st.floats(0.02, 1.0))
def test_width_takes_the_first_ceil_of_every_axis(p: float) -> None:
    a, b = math.ceil(round(8 * p, 9)), math.ceil(round(6 * p, 9))
    want = {"hidden1.weight": (a, 3), "hidden1.bias": (a,), "hidden2.weight": (b, a), "hidden2.bias": (b,), "out.weight": (4, b), "out.bias": (4,)}
    part = MLP.initial(0)[width(p)]
    assert shapes(part.spec) == want
    whole = MLP.initial(0).named()
    assert torch.equal(part.named()["hidden2.weight"], whole["hidden2.weight"][:b, :a])


def test_narrow_widths_are_nested_in_wide_ones() -> None:
    for spec in (MLP, CNN, LSTM, GPT):
        held = [set(spec.slice(width(p)).index.tolist()) for p in (1 / 8, 1 / 4, 1 / 2, 1)]
        assert held[0] < held[1] < held[2] < held[3] == set(range(spec.size))


def test_a_width_window_starts_anywhere_and_wraps() -> None:
    # 8 entries, half of them from 6 on: 6, 7, 0, 1; 6 entries: (6 mod 6) = 0, 1, 2
    part = MLP.initial(0)[width(0.5, start=6)]
    whole = MLP.initial(0).named()["hidden2.weight"]
    assert torch.equal(part.named()["hidden2.weight"], whole[[0, 1, 2]][:, [0, 1, 6, 7]])
    assert part.spec.width == 0.5
    starts = [set(MLP.slice(width(0.25, start=k)).index.tolist()) for k in range(24)]
    assert set().union(*starts) == set(range(MLP.size))  # rolled once around, every value has been there


def test_scaled_layers_are_louder_while_they_train_only() -> None:
    # by hand: x -> relu(2 (w1 x)) -> w2; half of two hidden units, so the scaler is 2. Loss (out - y)^2, x = 1, y = 0, w1 = 3, w2 = 1/2:
    # out = 2 * 3 / 2 = 3; d out / d w1 = 2 * w2 = 1, d out / d w2 = 6; with lr 0.1: w1 = 3 - 0.1 * 6 * 1 = 2.4, w2 = 0.5 - 0.1 * 6 * 6 = -3.1
    def two() -> nn.Module:
        return nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))

    spec = model(two, axes={"0.weight": ("h", None), "2.weight": (None, "h")}, dtype=torch.float64)
    x = spec.params(torch.tensor([3.0, 0.0, 0.5, 0.0], dtype=torch.float64))[width(0.5, is_scaled=True)]
    batches = Batches(torch.ones(1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, dtype=torch.float64))
    new, log = train(x, batches, lr=0.1, objective=MeanSquaredError())
    assert log.loss == pytest.approx(9.0) and new.flat.tolist() == pytest.approx([2.4, -3.1])
    assert forward(x, torch.ones(1, 1, dtype=torch.float64)).item() == 1.5  # no scaler outside training
    plain, log = train(
        spec.params(torch.tensor([3.0, 0.0, 0.5, 0.0], dtype=torch.float64))[width(0.5)], batches, lr=0.1, objective=MeanSquaredError()
    )
    assert log.loss == pytest.approx(2.25)
    assert plain.spec.form != new.spec.form and plain.spec.index.tolist() == new.spec.index.tolist()
    assert spec.slice(width(1.0, is_scaled=True)) == spec


def test_layers_that_width_cuts_are_scaled_and_no_others() -> None:
    assert MLP.slice(width(0.25, is_scaled=True)).scale == {"hidden1": 4.0, "hidden2": 4.0}
    assert CNN.slice(width(0.5, is_scaled=True)).scale == {"block1.conv": 2.0, "block2.conv": 2.0, "hidden.linear": 2.0}
    assert LORA.slice(ranks(2)).scale == {}
    assert MLP.slice(width(0.5, is_scaled=True)).slice(rows("out", [1])).scale == {"hidden1": 2.0, "hidden2": 2.0}


def test_width_of_convolutions_flattened_channels_gates_and_heads() -> None:
    # 4 -> 2 channels, 8 -> 4 channels of 2 x 2 pixels before the hidden layer of 6 -> 3
    assert shapes(CNN.slice(width(0.5))) == {
        "block1.conv.weight": (2, 1, 3, 3),
        "block1.norm.weight": (2,),
        "block1.norm.bias": (2,),
        "block2.conv.weight": (4, 2, 3, 3),
        "block2.norm.weight": (4,),
        "block2.norm.bias": (4,),
        "hidden.linear.weight": (3, 4 * 4),
        "hidden.linear.bias": (3,),
        "out.weight": (4, 3),
        "out.bias": (4,),
    }
    x = LSTM.initial(0)
    half = x[width(0.5)].named()["lstm1.from_hidden"]  # the first 3 of 6 units in each of the four gates
    at = [6 * gate + unit for gate in range(4) for unit in range(3)]
    assert torch.equal(half, x.named()["lstm1.from_hidden"][at][:, :3])
    y = GPT.initial(0)
    half = y[width(0.5)].named()["block1.attention.query.weight"]  # heads of 4 keep their first 2 rows
    assert torch.equal(half, y.named()["block1.attention.query.weight"][[0, 1, 4, 5]][:, :4])


def test_a_width_slice_computes_what_the_whole_model_does_with_the_rest_at_zero() -> None:
    x = MLP.initial(0)
    small = x[width(0.5)]
    padded = x.zeros() | small
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(forward(small, inputs), forward(padded, inputs))


def test_an_axis_that_was_cut_in_one_leaf_only_is_no_axis_any_more() -> None:
    part = MLP.slice(rows("hidden1.weight", [0, 3]))
    assert part.axes == {"hidden2": 6}
    assert shapes(part.slice(width(0.5)))["hidden2.weight"] == (3, 8)


def test_neurons_take_rows_biases_and_columns() -> None:
    part = MLP.initial(0)[neurons({"hidden1": [5, 2]})]
    whole = MLP.initial(0).named()
    named = part.named()
    assert torch.equal(named["hidden1.weight"], whole["hidden1.weight"][[2, 5]]) and torch.equal(named["hidden1.bias"], whole["hidden1.bias"][[2, 5]])
    assert torch.equal(named["hidden2.weight"], whole["hidden2.weight"][:, [2, 5]]) and torch.equal(named["out.weight"], whole["out.weight"])


def test_disjoint_neurons_cover_the_partitioned_layers_once() -> None:
    parts = [MLP.slice(neurons({"hidden1": ids})) for ids in ([0, 3, 4], [1, 2], [5, 6, 7])]
    counts = torch.zeros(MLP.size)
    for part in parts:
        counts[part.index] += 1
    named = MLP.params(counts).named()
    assert set(named["hidden1.weight"].flatten().tolist()) == {1.0} and set(named["hidden1.bias"].tolist()) == {1.0}
    assert set(named["hidden2.weight"].flatten().tolist()) == {1.0} and set(named["out.weight"].flatten().tolist()) == {3.0}


def test_share_is_for_sizing() -> None:
    assert MLP.slice(neurons(share=0.25, axes=["hidden1"])) == MLP.slice(neurons({"hidden1": [0, 1]}))
    assert MLP.slice(neurons(share=0.5)) == MLP.slice(width(0.5))  # the same coordinates, so the same key


def test_ranks_take_rows_of_a_and_columns_of_b() -> None:
    x = LORA.initial(0) + 1
    first, second, *rest = LORA.pairs
    part = x[ranks({first: [3, 1], second: [0]}, scale=2.0)]
    named, whole = part.named(), x.named()
    assert torch.equal(named[f"{first}.A"], whole[f"{first}.A"][[1, 3]]) and torch.equal(named[f"{first}.B"], whole[f"{first}.B"][:, [1, 3]])
    assert named[f"{second}.A"].shape == (1, 8) and torch.equal(named[f"{rest[0]}.A"], whole[f"{rest[0]}.A"])
    assert part.spec.scale == {first: 2.0, second: 2.0}
    # 8 values per row of A and column of B; indices once per pair: [1, 3] listed, [0] a range of one
    assert part.nbytes == 4 * (2 * 16 + 16 + 2 * 4 * 16) + 2 * 4 + 8
    assert LORA.slice(ranks(2)) == LORA.slice(ranks([1, 0])) and LORA.slice(ranks(2)).rank == 2
    assert LORA.slice(ranks(2, scale=2.0)) != LORA.slice(ranks(2))


def test_rows_restrict_one_component_and_compose_with_others() -> None:
    x = MLP.initial(0)
    own = rows("out", [3, 1])
    assert shapes(x[own].spec)["out.weight"] == (2, 6) and shapes(x[own].spec)["hidden1.weight"] == (8, 3)
    assert torch.equal(x[own & components("out")].flat, torch.cat([x.named()["out.weight"][[1, 3]].flatten(), x.named()["out.bias"][[1, 3]]]))
    assert x[width(0.5)][own].spec == MLP.slice(width(0.5) & own)
    assert MLP.slice(rows("out.bias", [0])).size == MLP.size - 3


def test_layers_are_the_children_with_values_in_order() -> None:
    assert MLP.layers == ("hidden1", "hidden2", "out")
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    x = MLP.initial(0)
    h = inputs
    for k in range(3):
        h = forward(x[layers(k, k + 1)], h)
    assert torch.equal(h, forward(x, inputs)) and MLP.slice(layers(0, 3)) is MLP
    assert torch.equal(forward(x[layers(1, 3)], forward(x[layers(0, 1)], inputs)), forward(x, inputs))
    assert x[layers(1, 3)].spec.layers == ("hidden2", "out") and x[layers(1, 3)][layers(0, 1)].spec == MLP.slice(layers(1, 2))


@pytest.mark.parametrize("spec", [CNN, LSTM, GPT, LORA], ids=lambda s: s.name)
def test_any_cut_of_a_zoo_model_runs_in_two_halves(spec: ModelSpec) -> None:
    generator = torch.Generator().manual_seed(0)
    x = spec.initial(1)
    x = x + 0.01 * spec.params(torch.randn(spec.size, generator=generator))
    inputs = torch.randn(2, 1, 8, 8, generator=generator) if spec is CNN else torch.randint(0, 7, (2, 5), generator=generator)
    whole = forward(x, inputs)
    for cut in range(1, len(spec.layers)):
        halves = forward(x[layers(cut, len(spec.layers))], forward(x[layers(0, cut)], inputs))
        torch.testing.assert_close(halves, whole)


def test_components_of_a_sequential_run_what_is_left() -> None:
    x = MLP.initial(0)
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(forward(x[components("classifier")], forward(x[components("extractor")], inputs)), forward(x, inputs))
    assert "classifier" in x[components("out")].spec and "extractor" not in x[components("out")].spec
    assert MLP.slice(components("classifier")) == MLP.slice(layers(2, 3)) == MLP.slice(components("out"))


class Branches(nn.Module):
    """Takes a dict of parties' inputs; runs the branches that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(4, 3)})
        self.top = nn.Linear(3, 2)

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.top(torch.stack([self.bottom[name](x[name]) for name in x if name in self.bottom]).sum(0))


def test_components_of_another_container() -> None:
    spec = model(Branches)
    x = spec.initial(0)
    inputs = {"a": torch.ones(1, 2), "b": torch.ones(1, 4)}
    alone = forward(x[components("bottom.a")], inputs["a"])  # one component runs alone
    assert alone.shape == (1, 3)
    pruned = x[components("bottom.a", "top")]  # several run in the container, the rest is taken out
    torch.testing.assert_close(forward(pruned, inputs), forward(x[components("top")], alone))
    assert torch.equal(forward(x, Batch(inputs, torch.zeros(1))), forward(x, inputs))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: width(0.0), "fraction"),
        (lambda: width(1.5), "fraction"),
        (lambda: width(0.5, start=-1), "start"),
        (lambda: components(), "no names"),
        (lambda: ranks({}), "no pairs"),
        (lambda: ranks([1, 1]), "none twice"),
        (lambda: neurons(), "exactly one"),
        (lambda: neurons({"hidden1": [0]}, share=0.5), "exactly one"),
        (lambda: neurons({"hidden1": []}), "at least one"),
        (lambda: neurons(share=2.0), "share"),
        (lambda: rows("out", [-1]), ">= 0"),
        (lambda: MLP.slice(width(0.5) & flat(0, 99_999)), "stop <="),
        (lambda: MLP.slice(layers(2, 2)), "start < stop"),
        (lambda: MLP.slice(layers(0, 4)), "layers"),
        (lambda: MLP.slice(components("nothing")), "component 'nothing'"),
        (lambda: MLP.slice(neurons({"hidden9": [0]})), "hidden9"),
        (lambda: MLP.slice(neurons({"hidden1": [8]})), "0 to 7"),
        (lambda: MLP.slice(neurons(share=0.5, axes=["x"])), "axes"),
        (lambda: MLP.slice(rows("out", [4])), "0 to 3"),
        (lambda: MLP.slice(ranks(1)), "no LoRA pairs"),
        (lambda: LORA.slice(ranks({"x": [0]})), "block1.attention.query"),
        (lambda: LORA.slice(ranks(5)), "0 to 3"),
        (lambda: zoo.softmax_regression().slice(width(0.5)), "no width axes"),
        (lambda: Submodel.from_json({"kind": "x"}), "kind 'x'"),
        (lambda: ModelSpec.from_recipe({"base": "x"}, {}), "not at hand"),
    ],
)
def test_bad_selections_are_refused(make: object, what: str) -> None:
    with pytest.raises(ScenarioError, match=what):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(("sub", "what"), [(flat(0, 5), "positions"), (flat(24, 86), "lacks the leaf")])
def test_slices_that_are_no_models_say_so_when_run(sub: Submodel, what: str) -> None:
    with pytest.raises(ScenarioError, match=f"is not a model.*{what}"):
        MLP.slice(sub).module()


def test_a_component_that_is_a_leaf_is_no_model() -> None:
    part = MLP.slice(components("out.bias"))
    assert part.size == 4
    with pytest.raises(ScenarioError, match="a leaf, not a module"):
        part.module()


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.data())
def test_axes_expand_and_reduce(outer: int, size: int, inner: int, data: st.DataObject) -> None:
    picked = torch.tensor(sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1)))).numpy()
    axis, dim = Axis("a", outer, inner), outer * size * inner
    entries = axis.expand(picked, dim)
    want = [(o * size + p) * inner + i for o in range(outer) for p in picked for i in range(inner)]
    reduced = axis.reduce(entries, dim)
    assert entries.tolist() == want and reduced is not None and reduced.tolist() == picked.tolist()
