"""Data from elsewhere, with small stand-ins for the libraries."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from airloom.errors import MissingExtra, ScenarioError
from airloom.tasks.adapters import from_arrays, from_huggingface, from_pairs


class Column(dict[str, Any]):
    """A stand-in for a Hugging Face data set: columns by name."""

    features: dict[str, Any]

    @property
    def column_names(self) -> list[str]:
        return list(self)


class ClassLabel:
    num_classes = 5


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `datasets` that knows these two classes."""
    module = ModuleType("datasets")
    module.Dataset, module.ClassLabel = Column, ClassLabel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_arrays_are_split_the_same_way_every_time() -> None:
    x, y = np.random.default_rng(0).normal(size=(100, 3)), np.arange(100) % 4
    one, two = from_arrays("mine", x, y), from_arrays("mine", x, y)
    assert np.array_equal(one.x_test, two.x_test)
    assert (len(one.x_train), len(one.x_validation), len(one.x_test)) == (70, 10, 20)
    assert np.bincount(one.y_test).tolist() == [5, 5, 5, 5]
    assert one.x_train.dtype == np.float32 and one.y_train.dtype == np.int64
    given = from_arrays("mine", x, y, x_test=x[:7], y_test=y[:7])
    assert (len(given.x_train), len(given.x_test)) == (90, 7)


def test_bytes_are_scaled_and_natural_clients_follow_their_rows() -> None:
    x = np.arange(40, dtype=np.uint8)[:, None]
    data = from_arrays("bytes", x, np.arange(40) % 2, natural=np.arange(40) * 10)
    assert data.natural is not None
    assert np.allclose(data.x_train[:, 0] * 255, data.natural / 10, atol=1e-4)


def test_arrays_that_do_not_go_together() -> None:
    with pytest.raises(ScenarioError, match="10 inputs and 9 labels"):
        from_arrays("mine", np.zeros((10, 2)), np.zeros(9, int))
    with pytest.raises(ScenarioError, match="together, or none"):
        from_arrays("mine", np.zeros((10, 2)), np.zeros(10, int), x_test=np.zeros((2, 2)))
    with pytest.raises(ScenarioError, match="labels must be whole numbers"):
        from_arrays("mine", np.zeros((10, 2)), np.zeros(10))
    with pytest.raises(ScenarioError, match="must be an array of numbers"):
        from_arrays("mine", np.array([["a"]] * 10), np.zeros(10, int))
    with pytest.raises(ScenarioError, match="token ids must be whole numbers"):
        from_arrays("mine", np.zeros((10, 2)), np.zeros((10, 2), int), kind="next_token")
    with pytest.raises(ScenarioError, match="sum below 1"):
        from_arrays("mine", np.zeros((10, 2)), np.zeros(10, int), test_share=0.95)
    with pytest.raises(ScenarioError, match="NaN"):
        from_arrays("mine", np.full((10, 2), np.nan), np.arange(10) % 2)


def test_pairs_as_torchvision_has_them() -> None:
    tensors = [(torch.full((1, 2, 2), float(i)), i % 2) for i in range(20)]
    data = from_pairs("tensors", tensors, tensors[:6])
    assert data.x_train.shape == (18, 1, 2, 2) and len(data.x_test) == 6
    color = [(Image.new("RGB", (4, 3), (255, 0, 51)), i % 2) for i in range(20)]
    data = from_pairs("images", color)
    # Channels first, bytes scaled: red 1, green 0, blue 51/255 = 0.2.
    assert data.x_train.shape == (14, 3, 3, 4)
    assert data.x_train[0, :, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.2])
    grey = from_pairs("grey", [(Image.new("L", (4, 3), 255), i % 2) for i in range(20)])
    assert grey.x_train.shape == (14, 1, 3, 4)
    with pytest.raises(ScenarioError, match="2 different shapes"):
        from_pairs("ragged", [([1.0], 0), ([1.0, 2.0], 1)] * 5)
    with pytest.raises(ScenarioError, match="non-empty sequence"):
        from_pairs("none", [])


@pytest.mark.usefixtures("library")
def test_hugging_face_columns() -> None:
    train = Column(pixels=[[float(i), 1.0] for i in range(30)], label=[i % 3 for i in range(30)], author=[f"w{i % 4}" for i in range(30)])
    train.features = {"label": ClassLabel()}
    data = from_huggingface("hub", train, x="pixels", y="label", natural="author")
    # The label column declares five classes although only three occur.
    assert data.classes == 5
    assert data.natural is not None and set(data.natural) == {"w0", "w1", "w2", "w3"}
    data = from_huggingface("hub", train, train, x="pixels", y="label", classes=3)
    assert (data.classes, len(data.x_test)) == (3, 30)
    with pytest.raises(ScenarioError, match=r"no columns \['image'\]; there are \['pixels', 'label', 'author'\]"):
        from_huggingface("hub", train, x="image", y="label")
    with pytest.raises(ScenarioError, match=r"must be one datasets\.Dataset, got dict; choose a split first"):
        from_huggingface("hub", {"train": train}, x="pixels", y="label")


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"airloom\[data\]"):
        from_huggingface("hub", [], x="x", y="y")
