"""Params: the algebra, numbers, slices and wire sizes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from airloom.errors import ScenarioError
from airloom.models import zoo
from airloom.models.module import model
from airloom.models.params import Params, join, mean, zeros_like
from airloom.models.submodel import components, flat, layers, neurons, rows, width

SPEC = zoo.mlp(inputs=3, hidden=(4,), classes=2)  # 3 * 4 + 4 + 4 * 2 + 2 = 26 values


def values(*numbers: float) -> Params:
    return Params(SPEC, torch.tensor(numbers, dtype=torch.float32).repeat(26)[:26])


def test_algebra_is_that_of_the_flat_vector() -> None:
    a, b = values(1, 2), values(3, 5)
    for got, want in [(a + b, [4, 7]), (b - a, [2, 3]), (a * b, [3, 10]), (b / a, [3, 2.5]), (-a, [-1, -2]), (a + 1, [2, 3]), (1 - a, [0, -1])]:
        assert got.flat[:2].tolist() == want and got.spec is SPEC
    assert (2 * a - 1 * b * 0.5).flat[:2].tolist() == [0.5, 1.5] and (6 / a).flat[:2].tolist() == [6, 3] and (+a) is a
    assert a.flat[:2].tolist() == [1, 2]


@pytest.mark.parametrize("two", [2, 2.0, np.float64(2), np.float32(2), np.int64(2), torch.tensor(2.0), True + 1])
def test_scalars_of_any_kind_from_either_side(two: float) -> None:
    x = values(1.5)
    for got in (x * two, two * x, two + x - 0.5, x / (1 / two)):
        assert isinstance(got, Params) and got.flat.dtype == torch.float32 and torch.equal(got.flat, torch.full((26,), 3.0))


def test_equality_is_identity() -> None:
    a = values(1)
    assert a == a and a != values(1) and len({a, values(1)}) == 2


def test_different_specs_do_not_mix_and_the_error_names_both() -> None:
    other = zoo.mlp(inputs=3, hidden=(5,), classes=2).initial(0)
    for f in (lambda: values(1) + other, lambda: values(1) * other, lambda: values(1).dot(other), lambda: mean([values(1), other])):
        with pytest.raises(ScenarioError, match=r"mlp\[26\].*mlp\[32\]"):
            f()
    with pytest.raises(TypeError):
        _ = values(1) + "x"  # type: ignore[operator]


def test_equal_specs_made_twice_do_mix() -> None:
    again = zoo.mlp(inputs=3, hidden=(4,), classes=2)
    assert again is not SPEC and again == SPEC and hash(again) == hash(SPEC)
    assert (values(1) + Params(again, values(2).flat)).flat[0] == 3


def test_numbers() -> None:
    x = values(3, -4)  # 13 pairs
    assert x.square_norm() == 13 * 25 and x.norm() == pytest.approx((13 * 25) ** 0.5) and x.abs_max() == 4 and x.dot(values(1)) == -13
    assert isinstance(x.norm(), float) and len(x) == 26


def test_numbers_accumulate_in_float64() -> None:
    spec = zoo.softmax_regression(inputs=99_999, classes=1)
    x = Params(spec, torch.full((100_000,), 0.1))
    tenth = float(torch.tensor(0.1))
    assert x.square_norm() == pytest.approx(100_000 * tenth**2, rel=1e-12)


def test_mean_folds_in_float64_in_order() -> None:
    # in float32, 1 + 2^-24 + 2^-24 stays 1; folded in float64 the sum is 1 + 2^-23, which float32 can hold
    parts = [values(1.0), values(2.0**-24), values(2.0**-24)]
    assert (mean(parts) * 3).flat[0] == torch.tensor((1 + 2.0**-23) / 3, dtype=torch.float64).float() * 3
    assert mean(parts, [1, 1, 1]).digest() == mean(parts).digest()
    assert mean([values(1), values(5)], [3, 1]).flat[0] == 2 and mean([values(1)]).flat.dtype == torch.float32


@pytest.mark.parametrize(("n", "weights", "what"), [(0, None, "empty"), (2, [1.0], "1 weights for 2"), (2, [1.0, -1.0], "sum to 0")])
def test_mean_refuses(n: int, weights: list[float] | None, what: str) -> None:
    with pytest.raises(ScenarioError, match=what):
        mean([values(1)] * n, weights)


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=6))
def test_mean_of_equal_values_is_that_value(weights: list[float]) -> None:
    x = SPEC.initial(3)
    torch.testing.assert_close(mean([x] * len(weights), weights).flat, x.flat, rtol=1e-7, atol=0)


def test_digest_is_the_sha256_of_the_bytes() -> None:
    x = SPEC.initial(0)
    assert x.digest() == hashlib.sha256(x.flat.numpy().tobytes()).hexdigest()
    assert x.digest() != (x * 2).digest()


def test_named_and_back() -> None:
    x = SPEC.initial(0)
    named = x.named()
    assert {n: tuple(t.shape) for n, t in named.items()} == {"hidden1.weight": (4, 3), "hidden1.bias": (4,), "out.weight": (2, 4), "out.bias": (2,)}
    assert Params.from_named(SPEC, named).digest() == x.digest()
    with pytest.raises(ScenarioError, match="missing"):
        Params.from_named(SPEC, {"hidden1.weight": named["hidden1.weight"]})
    with pytest.raises(ScenarioError, match=r"hidden1\.bias"):
        Params.from_named(SPEC, named | {"hidden1.bias": torch.zeros(5)})


def test_vectors_from_outside_are_checked() -> None:
    assert SPEC.params(torch.zeros(26)).norm() == 0
    for bad in (torch.zeros(25), torch.zeros(26, dtype=torch.float64)):
        with pytest.raises(ScenarioError, match="flat"):
            SPEC.params(bad)


def test_meta_values_have_shapes_and_numbers_that_cannot_be_branched_on() -> None:
    x = SPEC.initial(0).to_meta()
    y = x[width(0.5)] * 2 + 1
    assert x.is_meta and y.is_meta and (x | y).is_meta and mean([x, x]).is_meta and zeros_like(x).is_meta
    assert join(x[layers(0, 1)], x[layers(1, 2)]).spec == SPEC and y.flat.shape == (SPEC.slice(width(0.5)).size,)
    for number in (x.norm(), x.abs_max(), x.dot(x)):
        with pytest.raises(RuntimeError):
            float(number)
        with pytest.raises(RuntimeError):
            bool(number > 1)


def test_float64_values_stay_float64() -> None:
    spec = zoo.mlp(inputs=3, hidden=(4,), classes=2, dtype=torch.float64)
    x = spec.initial(0)
    assert x.flat.dtype == torch.float64 and (x * 0.5 + x).flat.dtype == torch.float64 and mean([x, x]).flat.dtype == torch.float64
    assert spec.key != SPEC.key and x.nbytes == 26 * 8


def test_write_back_changes_only_its_coordinates() -> None:
    x = SPEC.initial(0)
    part = x[neurons({"hidden1": [1, 3]})]
    y = x | (part + 1)
    hidden, out = x.named()["hidden1.weight"], x.named()["out.weight"]
    assert torch.equal(y.named()["hidden1.weight"][[1, 3]], hidden[[1, 3]] + 1) and torch.equal(y.named()["hidden1.weight"][[0, 2]], hidden[[0, 2]])
    assert torch.equal(y.named()["out.weight"][:, [1, 3]], out[:, [1, 3]] + 1) and torch.equal(y.named()["out.weight"][:, [0, 2]], out[:, [0, 2]])
    assert torch.equal(y.named()["out.bias"], x.named()["out.bias"] + 1)  # whole leaves belong to the slice


def test_write_back_into_a_slice_needs_the_coordinates_to_be_there() -> None:
    x = SPEC.initial(0)
    half, tail = x[width(0.5)], x[width(0.5)][components("out")]
    assert (half | tail * 0).named()["out.weight"].abs().max() == 0 and torch.equal(
        (half | tail * 0).named()["hidden1.weight"], half.named()["hidden1.weight"]
    )
    with pytest.raises(ScenarioError, match="not there"):
        _ = half | x[components("out")]
    with pytest.raises(ScenarioError, match="slices of"):
        _ = x | zoo.mlp(inputs=3, hidden=(5,), classes=2).initial(0)[width(0.5)]


def test_write_back_of_a_whole_model_is_that_model() -> None:
    x, y = SPEC.initial(0), SPEC.initial(1)
    assert (x | y) is y


def test_join_of_disjoint_parts_is_the_model() -> None:
    x = SPEC.initial(0)
    whole = join(x[flat(0, 7)], x[flat(7, 20)], x[flat(20, 26)])
    assert whole.spec is SPEC and whole.digest() == x.digest()
    assert join(x).digest() == x.digest()


def test_join_takes_the_last_where_several_have_a_coordinate() -> None:
    x = SPEC.initial(0)
    both = join(x[neurons({"hidden1": [0, 1]})] * 0, x[neurons({"hidden1": [1, 2]})])
    assert both.spec == SPEC.slice(neurons({"hidden1": [0, 1, 2]}))
    assert torch.equal(both.named()["hidden1.weight"][1:], x.named()["hidden1.weight"][[1, 2]]) and both.named()["hidden1.weight"][0].abs().max() == 0


def test_join_of_width_slices_is_the_widest() -> None:
    x = SPEC.initial(0)
    assert join(x[width(0.25)], x[width(0.5)]).spec == SPEC.slice(width(0.5)) and join(x[width(0.5)], x[width(0.25)]).spec.width == 0.5


def test_join_of_pieces_that_are_no_box_keeps_every_coordinate() -> None:
    x = SPEC.initial(0)
    piece = join(x[neurons({"hidden1": [0]}) & rows("out", [0])], x[neurons({"hidden1": [2]}) & rows("out", [1])])
    held = torch.zeros(2, 4, dtype=torch.bool)
    held[0, 0] = held[1, 2] = True
    assert torch.equal(piece.named()["out.weight"], x.named()["out.weight"][held])
    assert (x | piece).digest() == x.digest()


def test_join_refuses_nothing_and_other_models() -> None:
    with pytest.raises(ScenarioError, match="at least one"):
        join()
    with pytest.raises(ScenarioError, match="slices of one model"):
        join(SPEC.initial(0), zoo.softmax_regression(inputs=2).initial(0))


def test_scatter_into_sums_and_counts() -> None:
    x = SPEC.initial(0)
    total, counts = torch.zeros(26, dtype=torch.float64), torch.zeros(26, dtype=torch.float64)
    x.scatter_into(total, counts)
    x[width(0.5)].scatter_into(total, counts, 2.0)
    held = torch.zeros(26)
    held[SPEC.slice(width(0.5)).index] = 1
    assert torch.equal(counts, 1.0 + 2.0 * held.double())
    torch.testing.assert_close((total / counts).float(), x.flat, rtol=1e-7, atol=0)


def test_wire_size_is_values_plus_the_description_of_the_slice() -> None:
    x = SPEC.initial(0)
    assert x.nbytes == 26 * 4 and x[components("out")].nbytes == 10 * 4  # a named component needs no description
    # two of four neurons: rows and bias of the layer before, columns of the layer after, its bias: 6 + 2 + 4 + 2 = 14 values
    assert x[neurons({"hidden1": [0, 2]})].nbytes == 14 * 4 + 2 * 4  # one list of two indices, used three times
    assert x[neurons({"hidden1": [0, 1]})].nbytes == 14 * 4 + 8  # one range
    assert x[width(0.5)].nbytes == 14 * 4 + 8 and x[flat(0, 5)].nbytes == 5 * 4 + 8


def test_spec_without_values() -> None:
    spec = model(lambda: nn.Sequential(nn.Flatten()))
    assert spec.initial(0).nbytes == 0 and spec.initial(0).abs_max() == 0
