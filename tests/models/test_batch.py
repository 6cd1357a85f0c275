"""Batches: counts, gathering, stacking."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.models import batch as batch_module
from airloom.models.batch import Batch, Batches


def test_counts_are_a_histogram_over_the_classes() -> None:
    b = Batch(torch.zeros(4, 1), torch.tensor([1, 1, 0, 3]), classes=6)
    np.testing.assert_array_equal(b.counts, [1, 2, 0, 1, 0, 0])


def test_a_histogram_is_counts_that_travel_and_has_a_size_before_it_has_contents() -> None:
    b = Batch(torch.zeros(4, 1), torch.tensor([1, 1, 0, 3]), classes=6)
    assert b.histogram.tolist() == b.counts.tolist()
    assert (b.histogram.dtype, b.to("meta").histogram.shape) == (torch.int32, b.histogram.shape)
    tokens = Batch(torch.zeros(2, 3), torch.tensor([[1, -100, 0], [1, 2, -100]]), classes=3)  # labels that do not count
    assert tokens.histogram.tolist() == [1, 2, 1]
    assert Batch(torch.zeros(4, 1), torch.zeros(4, 1)).histogram.tolist() == [4]  # regression


def test_counts_of_targets_that_are_no_classes_are_refused() -> None:
    with pytest.raises(ScenarioError, match="integer labels"):
        _ = Batch(torch.zeros(2, 1), torch.zeros(2)).counts


def test_rows_and_devices_keep_every_field() -> None:
    x = {"image": torch.arange(6.0).reshape(3, 2), "text": torch.arange(3)}
    b = Batch(x, torch.tensor([0, 1, 2]), torch.tensor([10, 11, 12]), torch.tensor([1.0, 2.0, 3.0]), 3)
    r = b.rows(torch.tensor([2, 0]))
    assert isinstance(r.x, dict) and r.x["image"].tolist() == [[4, 5], [0, 1]] and r.x["text"].tolist() == [2, 0]
    assert r.ids is not None and r.ids.tolist() == [12, 10] and r.weight is not None and r.weight.tolist() == [3, 1] and r.classes == 3
    m = b.to("meta")
    assert m.is_meta and len(m) == 3 and not b.is_meta


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 9))
def test_of_gathers_what_the_rows_name(steps: int, size: int, n: int) -> None:
    x, y = torch.arange(n * 2.0).reshape(n, 2), torch.arange(n)
    rows = torch.randint(0, n, (steps, size), generator=torch.Generator().manual_seed(steps * 100 + n))
    batches = Batches.of(x, y, rows, weight=torch.arange(n).float())
    assert len(batches) == batches.steps == steps and batches.batch_size == size
    for k, b in enumerate(batches):
        assert isinstance(b.x, torch.Tensor) and torch.equal(b.x, x[rows[k]]) and torch.equal(b.y, rows[k])
        assert b.ids is not None and torch.equal(b.ids, rows[k]) and b.weight is not None and torch.equal(b.weight, rows[k].float())


def test_large_batches_are_gathered_step_by_step_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, rows = torch.arange(20.0).reshape(10, 2), torch.arange(10), torch.tensor([[1, 9], [4, 4], [0, 7]])
    names = torch.arange(100, 110)
    at_once = Batches.of(x, y, rows, ids=names)
    monkeypatch.setattr(batch_module, "_GATHER_LIMIT_BYTES", 0)
    lazy = Batches.of(x, y, rows, ids=names)
    assert (lazy.steps, lazy.batch_size) == (3, 2)
    for a, b in zip(at_once, lazy, strict=True):
        assert isinstance(a.x, torch.Tensor) and isinstance(b.x, torch.Tensor) and torch.equal(a.x, b.x) and torch.equal(a.y, b.y)
        assert a.ids is not None and b.ids is not None and torch.equal(a.ids, b.ids)


def test_stacked_cuts_one_batch_into_steps() -> None:
    b = Batches.stacked(Batch(torch.arange(12.0).reshape(6, 2), torch.arange(6), torch.arange(6), torch.ones(6), 6), 3, 2)
    assert b[1].y.tolist() == [2, 3] and b[1].classes == 6 and b[2].ids is not None and b[2].ids.tolist() == [4, 5]
    with pytest.raises(ScenarioError, match="5 samples"):
        Batches.stacked(Batch(torch.zeros(5, 1), torch.zeros(5)), 3, 2)


@pytest.mark.parametrize(("x", "y"), [((3, 2), (2, 3)), ((3,), (3,)), ((4, 2, 1), (3, 2))])
def test_shapes_that_do_not_begin_alike_are_refused(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    with pytest.raises(ScenarioError, match="steps, batch"):
        Batches(torch.zeros(x), torch.zeros(y))
