"""Tasks: what devices hold and draw, and one clear error per fault."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from airloom.errors import ScenarioError
from airloom.models import zoo
from airloom.models.module import model
from airloom.models.objective import CrossEntropy, MeanSquaredError
from airloom.tasks.adapters import from_arrays
from airloom.tasks.datasets import Dataset
from airloom.tasks.stream import Stream
from airloom.tasks.task import Task

ROWS = 140
DATA = from_arrays("toy", np.arange(200.0)[:, None] * [1.0, 2.0], np.arange(200) % 4, classes=4)


def toy(**changes: object) -> Task:
    """Two devices over the 140 training rows of a toy set with two inputs and four classes."""
    fields: dict[str, object] = {
        "name": "toy",
        "dataset": DATA,
        "model": zoo.softmax_regression(inputs=2, classes=4),
        "shards": {"a": np.arange(0, 10), "b": np.arange(10, ROWS)},
    }
    return Task(**(fields | changes))  # type: ignore[arg-type]


def test_a_device_holds_its_rows_and_no_others() -> None:
    data = toy().data("a")
    assert len(data) == 10
    batch = data.rows([3, 0, 3])
    assert batch.ids is not None and batch.ids.tolist() == [3, 0, 3]
    assert isinstance(batch.x, torch.Tensor)
    assert batch.x.tolist() == DATA.x_train[[3, 0, 3]].tolist()
    assert batch.y.tolist() == DATA.y_train[[3, 0, 3]].tolist()
    assert data.all().ids is not None and len(data.all()) == 10
    assert data.rows(torch.tensor([9])).y.tolist() == [DATA.y_train[9]]
    assert len(data.rows([])) == 0
    for foreign in ([10], [0, 139], [-1], [500]):
        with pytest.raises(ScenarioError, match="data of 'a', rows: it does not hold"):
            data.rows(foreign)
    everything = toy(shards={"a": np.arange(ROWS)}).data("a")
    assert everything.rows(np.array([ROWS - 1], np.int32)).y.tolist() == [DATA.y_train[-1]]
    for foreign in ([ROWS], [-1]):
        with pytest.raises(ScenarioError, match="it does not hold"):
            everything.rows(foreign)
    with pytest.raises(ScenarioError, match="'c': it holds none; devices with data are a, b"):
        toy().data("c")


def test_counts_batches_and_shapes() -> None:
    task = toy()
    data = task.data("a")
    assert data.counts.tolist() == np.bincount(DATA.y_train[:10], minlength=4).tolist() == data.all().counts.tolist()
    # ceil(10 / 4) = 3 steps of one pass.
    assert [data.batches(size) for size in (1, 4, 10, 64)] == [10, 3, 1, 1]
    with pytest.raises(ScenarioError, match="size=0"):
        data.batches(0)
    shape = data.shaped(7)
    assert shape.is_meta and len(shape) == 7
    assert isinstance(shape.x, torch.Tensor) and shape.x.shape == (7, 2)
    assert task.data("a") is data
    assert (task.samples("a"), task.samples("b"), task.samples("server")) == (10, 130, 0)


def test_draws_are_passes_without_replacement_and_wrap_exactly() -> None:
    task = toy()
    drawn = task.sample_ids("a", 0, 35, seed=3)
    assert len(drawn) == 35
    for k in range(3):
        assert sorted(drawn[10 * k : 10 * k + 10]) == list(range(10))
    assert not np.array_equal(drawn[:10], drawn[10:20])
    assert not np.array_equal(drawn, task.sample_ids("a", 0, 35, seed=4))
    assert len(task.sample_ids("a", 5, 0, seed=3)) == 0
    with pytest.raises(ScenarioError, match="both must be >= 0"):
        task.sample_ids("a", -1, 3, seed=0)


@given(st.integers(0, 2000), st.integers(0, 1500), st.sampled_from(["a", "b"]))
def test_draws_do_not_depend_on_how_they_are_asked_for(offset: int, count: int, device: str) -> None:
    fresh = toy().sample_ids(device, offset, count, seed=1)
    task = toy()
    one_by_one = [task.sample_ids(device, offset + i, 1, seed=1) for i in range(0, count, 97)]
    assert fresh[::97].tolist() == [int(ids[0]) for ids in one_by_one]
    whole = toy().sample_ids(device, 0, offset + count, seed=1)
    assert np.array_equal(whole[offset:], fresh)


def test_validation_rows_stand_apart() -> None:
    with pytest.raises(ScenarioError, match=r"set task\.validation_share"):
        _ = toy().data("a").validation
    task = toy(validation_share=0.25, seed=5)
    data = task.data("a")
    # A quarter of 10 rows: round(2.5) = 2.
    assert (len(data), len(data.validation)) == (8, 2)
    assert task.samples("a") == 8
    assert sorted([*data.ids, *data.validation.ids]) == list(range(10))
    assert set(task.sample_ids("a", 0, 50, seed=0)) == set(data.ids)
    with pytest.raises(ScenarioError, match="'one' holds 1 row; it needs 2"):
        toy(shards={"one": np.array([1])}, validation_share=0.1)


def test_streams_change_what_a_device_holds() -> None:
    task = toy(stream=Stream(window_s=10.0, samples=20))
    early, late = task.data("b", 3.0), task.data("b", 12.0)
    assert len(early) == len(late) == task.samples("b", 3.0) == 20
    assert not np.array_equal(early.ids, late.ids)
    assert np.array_equal(task.data("b", 9.9).ids, early.ids)
    assert set(task.sample_ids("b", 7, 60, seed=0, at_s=12.0)) == set(late.ids)
    assert early.counts.sum() == 20


def test_public_pool_and_residents() -> None:
    task = toy(shards={"a": np.arange(10)}, public_rows=np.arange(100, 120), residents={"a": "own model"})
    assert len(task.public) == 20 and task.public.rows([100, 119]).y.tolist() == DATA.y_train[[100, 119]].tolist()
    assert task.resident("a") == "own model"
    with pytest.raises(ScenarioError, match=r"set task\.public"):
        _ = toy().public
    with pytest.raises(ScenarioError, match="resident model of 'b'"):
        task.resident("b")


def test_a_pool_of_another_origin_has_no_labels_and_the_shape_of_the_rows() -> None:
    pool = np.ones((7, *DATA.x_train.shape[1:]), DATA.x_train.dtype)
    task = toy(public_x=pool)
    assert len(task.public) == 7 and task.public.rows([3]).x.tolist() == pool[3:4].tolist()  # type: ignore[union-attr]
    assert task.public.counts.sum() == 0 and (task.public.all().y < 0).all()
    with pytest.raises(ScenarioError, match=r"public_x: got 7 rows of float\d\d \(3,\); the training rows are .* \(2,\)"):
        toy(public_x=np.ones((7, 3), DATA.x_train.dtype))
    with pytest.raises(ScenarioError, match="got 0 rows"):
        toy(public_x=pool[:0])
    with pytest.raises(ScenarioError, match="got public_rows too"):
        toy(public_x=pool, public_rows=np.arange(3))


def test_columns_are_all_that_a_party_sees() -> None:
    task = toy(shards={"left": np.arange(ROWS), "right": np.arange(ROWS)}, columns={"right": np.array([1])})
    x = task.data("right").rows([7]).x
    assert isinstance(x, torch.Tensor) and x.tolist() == [[DATA.x_train[7, 1]]]
    assert task.data("right").shaped(3).x.shape == (3, 1)  # type: ignore[union-attr]
    assert task.data("left").rows([7]).x.shape == (1, 2)  # type: ignore[union-attr]
    with pytest.raises(ScenarioError, match=r"subset of 0\.\.1"):
        toy(columns={"a": np.array([2])})
    with pytest.raises(ScenarioError, match="'c' holds no data"):
        toy(columns={"c": np.array([0])})


def test_inputs_have_the_number_type_of_the_model() -> None:
    task = toy(model=zoo.softmax_regression(inputs=2, classes=4, dtype=torch.float64))
    assert task.data("a").all().x.dtype == torch.float64  # type: ignore[union-attr]
    assert task.evaluate(task.model.zeros())["loss"] == pytest.approx(np.log(4), abs=1e-12)


def test_shards_may_come_in_any_order_and_type() -> None:
    task = toy(shards={"a": [5, 1, 3]})
    assert task.shards["a"].tolist() == [1, 3, 5]
    given_array = np.array([7, 2])
    toy(shards={"a": given_array})
    assert given_array.tolist() == [7, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": {}}, "at least one device must hold data"),
        ({"shards": {"a": np.arange(3), "b": np.arange(0)}}, "1 devices hold no data, the first is 'b'"),
        ({"shards": {"a": np.array([0, ROWS])}}, r"shard of 'a': names row 140; allowed are 0\.\.139"),
        ({"shards": {"a": np.array([-1, 2])}}, "names row -1"),
        ({"shards": {"a": np.array([2, 2])}}, "names some rows twice"),
        ({"shards": {"a": np.array([0.5])}}, "must be a list of row numbers"),
        ({"public_rows": np.array([ROWS])}, "public_rows: names row 140"),
        ({"validation_share": 0.9}, r"must be 0\.\.0\.5"),
        ({"personal_rows": 0}, "must be >= 1"),
        ({"metrics": ("perplexity",)}, "of a classification task: allowed are accuracy, loss"),
    ],
)
def test_faults_are_found_when_a_task_is_made(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        toy(**changes)


def test_check_compares_the_model_with_the_data() -> None:
    toy().check()
    with pytest.raises(ScenarioError, match=r"output per row has shape \(3,\), the data ask for \(4,\)"):
        toy(model=zoo.softmax_regression(inputs=2, classes=3)).check()
    with pytest.raises(ScenarioError, match=r"cannot take rows of shape \[2\]"):
        toy(model=zoo.softmax_regression(inputs=5, classes=4)).check()


def test_defaults_follow_the_kind_of_data() -> None:
    assert (toy().objective, toy().metrics) == (CrossEntropy(), ("accuracy", "loss"))
    values = from_arrays("values", np.zeros((30, 2)), np.zeros((30, 1)), kind="regression")
    task = Task(name="values", dataset=values, model=zoo.mlp(inputs=2, hidden=(), classes=1), shards={"a": np.arange(5)})
    assert (task.objective, task.metrics) == (MeanSquaredError(), ("mse",))
    task.check()
    with pytest.raises(ScenarioError, match="has no classes"):
        _ = task.data("a").counts


def test_describe_is_plain_json() -> None:
    task = toy(stream=Stream(window_s=1.0, samples=3), settings={"partition": "by hand"})
    text = json.loads(json.dumps(task.describe()))
    assert text["partition"]["clients"] == text["devices"] == 2
    assert (text["stream"]["samples"], text["settings"]["partition"]) == (3, "by hand")
    assert text["dataset"]["rows"] == {"train": 140, "validation": 20, "test": 40}


def test_a_task_is_frozen_and_replaceable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        toy().name = "other"  # type: ignore[misc]
    task = dataclasses.replace(toy(), validation_share=0.2)
    assert len(task.data("a").validation) == 2


def test_a_crowd_is_ready_at_once() -> None:
    rows = np.sort(np.random.default_rng(0).integers(0, 15, (100_000, 8)).cumsum(1), axis=1) + np.arange(8)
    start = time.perf_counter()
    task = toy(shards={f"phone{i}": row for i, row in enumerate(rows)})
    drawn = [task.sample_ids(f"phone{i}", 0, 16, 0) for i in range(2000)]
    # About half a second on a free core.
    assert time.perf_counter() - start < 8
    assert len(drawn) == 2000


class Senses(nn.Module):
    """A model of two modalities."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.listen = nn.Linear(2, 2), nn.Linear(3, 2)

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.look(x["image"]) + self.listen(x["sound"])


def test_inputs_may_have_several_modalities() -> None:
    x = {"image": np.ones((9, 2), np.float32), "sound": np.arange(27, dtype=np.float32).reshape(9, 3)}
    y = np.arange(9) % 2
    fields: dict[str, Any] = {"y_train": y, "x_validation": x, "y_validation": y, "x_test": x, "y_test": y}
    both = Dataset(name="both", x_train=x, classes=2, kind="classification", source="test", **fields)
    assert both.describe()["shape"] == {"image": [2], "sound": [3]}
    task = Task(name="both", dataset=both, model=model(Senses), shards={"a": np.arange(4)})
    task.check()
    batch = task.data("a").rows([2])
    assert isinstance(batch.x, dict) and batch.x["sound"].tolist() == [[6.0, 7.0, 8.0]]
    assert {key: t.shape for key, t in task.data("a").shaped(5).x.items()} == {"image": (5, 2), "sound": (5, 3)}  # type: ignore[union-attr]
    start = task.model.zeros()
    assert task.evaluate(start)["loss"] == pytest.approx(np.log(2))
    assert task.evaluate_personal({"a": start})["loss_worst"] == pytest.approx(np.log(2))
    with pytest.raises(ScenarioError, match="part train: 8 sound, 9 labels"):
        Dataset(name="both", x_train={**x, "sound": x["sound"][:8]}, classes=2, kind="classification", source="test", **fields)
    with pytest.raises(ScenarioError, match="differ in shape"):
        Dataset(name="both", x_train={"image": x["image"]}, classes=2, kind="classification", source="test", **fields)


def test_text_counts_tokens() -> None:
    x = np.arange(60).reshape(20, 3) % 5
    text = from_arrays("text", x, (x + 1) % 5, kind="next_token")
    assert isinstance(text, Dataset) and text.x_train.dtype == np.int64
    task = Task(name="text", dataset=text, model=zoo.softmax_regression(inputs=3, classes=5), shards={"a": np.arange(14)})
    assert task.data("a").counts.sum() == 14 * 3
