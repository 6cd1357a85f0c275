"""Tasks from settings: every partition, defaults, errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from airloom.errors import ScenarioError
from airloom.models import zoo
from airloom.tasks import Stream, TaskSettings, default_model, load, make_task
from airloom.tasks.adapters import from_arrays
from airloom.tasks.settings import PARTITIONS

NAMES = [f"phone{i}" for i in range(12)]


@pytest.mark.parametrize("partition", [p for p in PARTITIONS if p not in ("natural", "vertical", "resample")])
def test_every_partition_deals_all_digits(partition: str) -> None:
    settings = TaskSettings(partition=partition, alpha=1.0)
    task = make_task(settings, NAMES, 0, groups=[4, 8] if partition == "two_level" else None)
    assert list(task.shards) == NAMES
    assert sum(len(task.data(name)) for name in NAMES) == 1257
    assert min(task.samples(name) for name in NAMES) >= 8
    again = make_task(settings, NAMES, 0, groups=[4, 8] if partition == "two_level" else None)
    assert all(np.array_equal(task.shards[name], again.shards[name]) for name in NAMES)
    other = make_task(settings, NAMES, 1, groups=[4, 8] if partition == "two_level" else None)
    assert not all(np.array_equal(task.shards[name], other.shards[name]) for name in NAMES)


def test_crowds_share_rows() -> None:
    task = make_task(TaskSettings(partition="resample", samples=16), [f"phone{i}" for i in range(1000)], 0)
    assert {task.samples(name) for name in task.shards} == {16}


def test_vertical_parties_hold_all_rows_and_some_columns() -> None:
    task = make_task(TaskSettings(partition="vertical"), ["bank", "shop"], 0)
    assert len(task.data("bank")) == len(task.data("shop")) == 1257
    left, right = task.data("bank").rows([5]).x, task.data("shop").rows([5]).x
    whole = np.concatenate([np.asarray(left), np.asarray(right)], axis=1)
    assert np.array_equal(whole, task.dataset.x_train[5].reshape(1, 64))

    def predict(_: object, x: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([x["bank"], x["shop"]], 1)[:, :10]

    # Evaluation shows each party's columns: here the first pixels stand for logits.
    wanted = (task.dataset.x_test.reshape(-1, 64)[:, :10].argmax(1) == task.dataset.y_test).mean()
    assert task.evaluate(None, predict=predict)["accuracy"] == pytest.approx(wanted)
    with pytest.raises(ScenarioError, match="cannot take rows"):
        make_task(TaskSettings(partition="vertical"), ["bank", "shop"], 0, model=zoo.softmax_regression(inputs=64))


def test_public_pool_is_apart_and_stratified() -> None:
    task = make_task(TaskSettings(public=0.2), NAMES, 0)
    # A fifth of 1,257 rows: 251; every class has 24 or 25 or 26 of them.
    assert len(task.public) == 251
    assert task.public.counts.min() >= 24 and task.public.counts.max() <= 26
    held = np.concatenate(list(task.shards.values()))
    assert not set(held) & set(task.public.ids)
    assert len(held) == 1257 - 251


def test_streams_and_validation_reach_the_task() -> None:
    task = make_task(TaskSettings(validation_share=0.1, stream=Stream(window_s=5.0, samples=10)), NAMES, 0)
    assert len(task.data("phone1", 7.0)) == 10
    assert len(task.data("phone1", 7.0).validation) >= 1
    assert task.describe()["settings"]["stream"]["window_s"] == 5.0


def test_the_default_model_fits_each_data_set() -> None:
    assert default_model(load("digits")).size == 250_570
    mine = from_arrays("mine", np.zeros((40, 7)), np.arange(40) % 3)
    task = make_task(TaskSettings(partition="iid"), ["a", "b"], 0, dataset=mine)
    assert task.settings["dataset"] == mine.name  # the header names the data that were used, not the default
    assert task.name == "mine" and task.evaluate(task.model.zeros())["accuracy"] == pytest.approx(1 / 3, abs=0.1)


def test_values_to_predict() -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    task = make_task(TaskSettings(partition="iid"), ["a", "b"], 0, dataset=from_arrays("line", x, x.sum(1), kind="regression"))
    assert task.dataset.y_train.shape == (42, 1)
    assert task.evaluate(task.model.zeros())["mse"] == pytest.approx((task.dataset.y_test**2).mean(), rel=1e-5)


def test_natural_clients_and_text(data_folder: Path) -> None:
    har = make_task(TaskSettings(dataset="har", data=str(data_folder), partition="natural"), NAMES, 0)
    assert len(set(har.natural.values())) == 12
    assert har.dataset.natural is not None
    for name in NAMES:
        assert set(har.dataset.natural[har.data(name).ids]) == {har.natural[name]}
    text = make_task(TaskSettings(dataset="shakespeare", data=str(data_folder), partition="natural", limit=2000), NAMES, 0)
    assert set(text.evaluate(text.model.initial(0), "validation")) == {"loss", "perplexity", "accuracy"}
    with pytest.raises(ScenarioError, match="without one label per row; use iid, natural or quantity_skew"):
        make_task(TaskSettings(dataset="shakespeare", data=str(data_folder)), NAMES, 0)


@pytest.mark.parametrize(
    ("settings", "names", "message"),
    [
        ({"partition": "natural"}, NAMES, "'digits' has no natural clients"),
        ({"partition": "two_level"}, NAMES, "must list the clients of each group; their sum must be 12"),
        ({}, ["a", "b", "a"], "'a' occurs twice"),
        ({}, [], "at least one device"),
        ({}, [f"phone{i}" for i in range(500)], "1257 rows are fewer than clients"),
        ({"dataset": "imagenet"}, NAMES, "allowed are digits"),
    ],
)
def test_faults_are_named(settings: dict[str, str], names: list[str], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        make_task(TaskSettings(**settings), names, 0)  # type: ignore[arg-type]


def test_settings_check_themselves() -> None:
    with pytest.raises(ScenarioError, match="allowed are iid, dirichlet"):
        TaskSettings(partition="random")
    with pytest.raises(ScenarioError, match=r"public=1\.0"):
        TaskSettings(public=1.0)
    with pytest.raises(ScenarioError, match="iid_level='edges'"):
        TaskSettings(iid_level="edges")
    with pytest.raises(ScenarioError, match="cannot take rows"):
        make_task(TaskSettings(), NAMES, 0, model=zoo.softmax_regression(inputs=784))
