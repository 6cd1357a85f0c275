"""Data sets: fixed splits, stated constants, clear errors; real files where they are at hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.tasks import datasets
from airloom.tasks.datasets import Dataset, at_hand, carve, files, load, names


def small(**changes: object) -> Dataset:
    """A valid data set with some fields changed."""
    fields: dict[str, object] = {
        "name": "small",
        "x_train": np.zeros((4, 2), np.float32),
        "y_train": np.array([0, 1, 0, 1]),
        "x_validation": np.zeros((2, 2), np.float32),
        "y_validation": np.array([0, 1]),
        "x_test": np.zeros((2, 2), np.float32),
        "y_test": np.array([0, 1]),
        "classes": 2,
        "kind": "classification",
        "source": "test",
    }
    return Dataset(**(fields | changes))  # type: ignore[arg-type]


def test_digits_are_split_into_fixed_stratified_parts() -> None:
    data = load("digits")
    assert (len(data.x_train), len(data.x_validation), len(data.x_test)) == (1257, 180, 360)
    assert data.x_train.dtype == np.float32
    assert data.x_train.shape[1:] == (1, 8, 8)
    assert (data.x_train.min(), data.x_train.max()) == (0.0, 1.0)
    # 1,797 images in ten classes of 174 to 183: every class has its share of 360 test images, 34.9 to 36.7.
    assert set(np.bincount(data.y_test)) <= {34, 35, 36, 37}
    whole = np.concatenate([data.x_train, data.x_validation, data.x_test]).reshape(1797, 64)
    assert len(np.unique(whole, axis=0)) == 1797
    assert load("digits") is data


def test_digits_equal_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    table = datasets._digits_table()
    bunch = load_digits()
    assert np.array_equal(table[:, :64], bunch.data)  # type: ignore[attr-defined]
    assert np.array_equal(table[:, 64], bunch.target)  # type: ignore[attr-defined]


def test_limits_are_nested_and_splits_follow_their_own_seed() -> None:
    ten, fifty = load("digits", limit=10), load("digits", limit=50)
    assert len(ten.x_train) == len(ten.x_test) == 10
    rows = {row.tobytes() for row in fifty.x_train}
    assert all(row.tobytes() in rows for row in ten.x_train)
    other = load("digits", split_seed=1)
    assert not np.array_equal(other.x_test, load("digits").x_test)
    with pytest.raises(ScenarioError, match="limit=0"):
        load("digits", limit=0)


def test_arrays_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        load("digits").x_train[0] = 0


def test_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRLOOM_DATA", raising=False)
    with pytest.raises(ScenarioError, match=r"put har/har_subjects\.npz into a folder.*AIRLOOM_DATA"):
        load("har")
    with pytest.raises(ScenarioError, match=r"mnist_writers\.npz is not there"):
        load("mnist_writers", tmp_path)
    monkeypatch.setenv("AIRLOOM_DATA", str(tmp_path))
    with pytest.raises(ScenarioError, match=r"roles\.json\.gz is not there"):
        load("shakespeare")
    with pytest.raises(ScenarioError, match="allowed are digits, mnist_writers"):
        load("imagenet")
    with pytest.raises(ScenarioError, match="allowed are digits"):
        files("imagenet")


def test_a_file_may_lie_directly_in_the_folder_and_must_hold_plain_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {"x_train": rng.integers(0, 256, (40, 28, 28)).astype(np.uint8), "x_test": rng.integers(0, 256, (10, 28, 28)).astype(np.uint8)}
    labels = {"y_train": np.arange(40, dtype=np.uint8) % 10, "y_test": np.arange(10, dtype=np.uint8)}
    ids = {"writer_train": np.arange(40, dtype=np.int16) // 10, "writer_test": np.arange(10, dtype=np.int16) + 100}
    np.savez(tmp_path / "mnist_writers.npz", **images, **labels, **ids)  # type: ignore[arg-type]
    data = load("mnist_writers", tmp_path)
    # One row in ten of every writer is held out: 4 of 40, one per writer.
    assert len(data.x_train) == 36
    assert data.natural_validation is not None and sorted(data.natural_validation) == [0, 1, 2, 3]
    assert data.x_test[3, 0, 5, 5] == pytest.approx((images["x_test"][3, 5, 5] / 255 - 0.1307) / 0.3081, abs=1e-5)

    np.savez(tmp_path / "har_subjects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(ScenarioError, match="lacks the arrays"):
        load("har", tmp_path)
    broken = {key: np.array([{}], dtype=object) for key in ("x", "y", "subject", "is_test")}
    np.savez(tmp_path / "har_subjects.npz", **broken)  # type: ignore[arg-type]
    with pytest.raises(ScenarioError, match=r"cannot be read as an \.npz of plain arrays"):
        load("har", tmp_path)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0, 1), st.integers(0, 99))
def test_carve_takes_exactly_the_count_in_proportion(groups: list[int], share: float, seed: int) -> None:
    array = np.array(groups)
    count = int(share * len(array))
    rest, taken = carve(array, count, np.random.default_rng(seed))
    assert len(taken) == count
    assert np.array_equal(np.sort(np.concatenate([rest, taken])), np.arange(len(array)))
    exact = np.bincount(array) * count / len(array)
    assert (np.abs(np.bincount(array[taken], minlength=len(exact)) - exact) < 1).all()


def test_faults_in_data_are_found_at_once() -> None:
    assert small().describe()["rows"] == {"train": 4, "validation": 2, "test": 2}
    with pytest.raises(ScenarioError, match="1 of 4 rows hold NaN or infinity, the first is row 2"):
        small(x_train=np.array([[0, 0], [0, 0], [0, np.nan], [0, 0]], np.float32))
    with pytest.raises(ScenarioError, match=r"y_test: labels run from 0 to 2, allowed is 0\.\.1"):
        small(y_test=np.array([0, 2]))
    with pytest.raises(ScenarioError, match="part validation: 2 inputs, 3 labels"):
        small(y_validation=np.array([0, 1, 0]))
    with pytest.raises(ScenarioError, match="3 natural clients"):
        small(natural=np.arange(3))
    with pytest.raises(ScenarioError, match="labels must be int64"):
        small(y_train=np.array([0.0, 1.0, 0.0, 1.0]))
    with pytest.raises(ScenarioError, match="must hold numbers"):
        small(x_train=np.array([["a", "b"]] * 4))
    with pytest.raises(ScenarioError, match="differ in shape"):
        small(x_test=np.zeros((2, 3), np.float32))
    with pytest.raises(ScenarioError, match="x_train is empty"):
        small(x_train=np.zeros((0, 2), np.float32), y_train=np.zeros(0, np.int64))
    with pytest.raises(ScenarioError, match="must be >= 2"):
        small(classes=1)
    with pytest.raises(ScenarioError, match="kind='images'"):
        small(kind="images")
    with pytest.raises(ScenarioError, match="allowed are 'train', 'validation' and 'test'"):
        small().part("dev")
    with pytest.raises(dataclasses.FrozenInstanceError):
        small().name = "other"  # type: ignore[misc]


def test_real_images(data_folder: Path) -> None:
    mnist = load("mnist_writers", data_folder, limit=2000)
    assert mnist.x_train.shape == (2000, 1, 28, 28)
    assert abs(mnist.x_train.mean()) < 0.05 and abs(mnist.x_train.std() - 1) < 0.05
    assert mnist.natural is not None and mnist.natural_test is not None
    assert not set(mnist.natural) & set(mnist.natural_test)
    fashion = load("fashion_mnist", data_folder, limit=2000)
    assert abs(fashion.x_train.mean()) < 0.05 and abs(fashion.x_train.std() - 1) < 0.05
    assert fashion.natural is not None and set(fashion.natural) == set(range(50))
    cifar = load("cifar10", data_folder, limit=300)
    assert cifar.x_test.shape == (300, 3, 32, 32)
    assert abs(cifar.x_train.mean()) < 0.1 and abs(cifar.x_train.std() - 1) < 0.1


def test_real_sensors(data_folder: Path) -> None:
    har = load("har", data_folder)
    assert har.x_train.shape[1:] == (6, 128)
    assert len(har.x_train) + len(har.x_validation) + len(har.x_test) == 10_299
    assert har.natural is not None and har.natural_test is not None and har.natural_validation is not None
    assert set(har.natural) == set(har.natural_validation) == set(har.natural_test) == set(range(30))
    # The stated constants are those of the training windows.
    assert np.allclose(har.x_train.mean((0, 2)), 0, atol=0.02) and np.allclose(har.x_train.std((0, 2)), 1, atol=0.02)


def test_real_text(data_folder: Path) -> None:
    data = load("shakespeare", data_folder)
    assert data.kind == "next_token" and data.classes == 65
    assert data.natural is not None and data.natural_test is not None
    assert len(set(data.natural)) == len(set(data.natural_test)) == 141
    assert np.array_equal(data.x_train[:, 1:], data.y_train[:, :-1])
    assert data.vocabulary is not None
    mine = data.x_train[data.natural == "First Citizen"]
    assert data.vocabulary.decode(mine[0]).startswith("Before we proceed any further")


@pytest.mark.slow
def test_reference_points_of_plain_models(data_folder: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    def accuracy(name: str, rows: int) -> float:
        data = load(name, data_folder)
        order = np.random.default_rng(0).permutation(len(data.x_train))[:rows]
        model = LogisticRegression(max_iter=60, tol=1e-2)
        model.fit(data.x_train[order].reshape(rows, -1), data.y_train[order])
        return float(np.mean(model.predict(data.x_test.reshape(len(data.x_test), -1)) == data.y_test))

    # 0.907 and 0.843 with 10,000 rows; half of the rows and a loose fit cost two or three points.
    assert accuracy("mnist_writers", 5000) > 0.86
    assert accuracy("fashion_mnist", 5000) > 0.79


def test_names_have_files() -> None:
    assert all(files(name) for name in names() if name != "digits")


def test_a_model_may_be_named_within_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRLOOM_DATA", raising=False)
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "model.bin").write_bytes(b"")
    whole = tmp_path / "lm" / "model.bin"
    assert at_hand(whole) == at_hand(whole, tmp_path / "other") == at_hand("lm/model.bin", tmp_path) == whole
    assert at_hand("lm/model.bin") == at_hand("lm/model.bin", tmp_path / "lm") == Path("lm/model.bin")  # in neither: as named, for the message
    monkeypatch.setenv("AIRLOOM_DATA", str(tmp_path))
    assert at_hand("lm/model.bin") == whole
