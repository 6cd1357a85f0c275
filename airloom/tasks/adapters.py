"""Data of your own as a `Dataset`: from arrays, from sequences of (x, y) as torchvision has them, from Hugging Face `datasets`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airloom.clock.rng import generator
from airloom.errors import MissingExtra, ScenarioError
from airloom.tasks.datasets import Dataset, Kind, carve


class Pairs(Protocol):
    """A data set that is indexed by row number and gives (x, y), such as those of torchvision."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def from_arrays(
    name: str,
    x: ArrayLike,
    y: ArrayLike,
    *,
    x_test: ArrayLike | None = None,
    y_test: ArrayLike | None = None,
    kind: Kind = "classification",
    classes: int | None = None,
    natural: ArrayLike | None = None,
    test_share: float = 0.2,
    validation_share: float = 0.1,
    source: str = "own arrays",
) -> Dataset:
    """Make a `Dataset` of arrays; parts that are not given are carved out of the rows, in proportion to classes, the same for every seed of a run.

    Parameters
    ----------
    name : name in records.
    x : (n, ...) inputs. Bytes (uint8) are scaled to 0..1; whole numbers stay token ids for `next_token`, else all become float32.
    y : (n,) whole-number labels; (n, T) next tokens; (n,) or (n, k) values for `regression`, kept as (n, 1) or (n, k).
    x_test, y_test : the test part; None carves `test_share` of the rows.
    kind : "classification", "next_token" or "regression".
    classes : number of classes; None takes the largest label + 1.
    natural : (n,) natural client of each row, or None.
    test_share, validation_share : shares of the rows, above 0 and together below 1.
    source : one line for records: where the data are from and how they were scaled.

    Raises
    ------
    ScenarioError : shapes that do not go together, NaN, labels out of range.

    Examples
    --------
    >>> data = from_arrays("mine", np.random.default_rng(0).normal(size=(100, 3)), np.arange(100) % 2)
    >>> len(data.x_train), len(data.x_validation), len(data.x_test), data.classes
    (70, 10, 20, 2)
    """
    if (x_test is None) != (y_test is None):
        raise ScenarioError(f"from_arrays('{name}'): give x_test and y_test together, or none of them")
    if not (0 < validation_share < 1 and 0 < test_share < 1 and validation_share + test_share < 1):
        raise ScenarioError(
            f"from_arrays('{name}', test_share={test_share}, validation_share={validation_share}): each must be above 0, and their sum below 1"
        )
    inputs, labels = _inputs(name, x, kind), _targets(name, y, kind)
    ids = None if natural is None else np.asarray(natural)
    if len(inputs) != len(labels) or (ids is not None and len(ids) != len(labels)):
        raise ScenarioError(f"from_arrays('{name}'): {len(inputs)} inputs and {len(labels)} labels; x, y and natural must have the same length")
    strata = labels if kind == "classification" else np.zeros(len(labels), np.int64) if ids is None else ids
    rest = np.arange(len(labels))
    if x_test is None or y_test is None:
        rest, test = carve(strata, max(1, round(test_share * len(labels))), generator(name, "test"))
        part_x, part_y = inputs[test], labels[test]
        natural_test = None if ids is None else ids[test]
    else:
        part_x, part_y, natural_test = _inputs(name, x_test, kind), _targets(name, y_test, kind), None
    kept, held = carve(strata[rest], max(1, round(validation_share * len(labels))), generator(name, "validation"))
    kept, held = rest[kept], rest[held]
    if classes is None:
        classes = 0 if kind == "regression" else int(max(labels.max(), part_y.max())) + 1
    return Dataset(
        name=name,
        x_train=inputs[kept],
        y_train=labels[kept],
        x_validation=inputs[held],
        y_validation=labels[held],
        x_test=part_x,
        y_test=part_y,
        classes=classes,
        kind=kind,
        source=source,
        natural=None if ids is None else ids[kept],
        natural_validation=None if ids is None else ids[held],
        natural_test=natural_test,
    )


def from_pairs(
    name: str,
    train: Pairs,
    test: Pairs | None = None,
    *,
    kind: Kind = "classification",
    classes: int | None = None,
    validation_share: float = 0.1,
) -> Dataset:
    """Make a `Dataset` of a sequence of (x, y), such as a torchvision data set; every row is read once.

    x may be a tensor, an array or a PIL image (its channels go first); all rows must have one shape, so put resizing into the set's own transform.

    Parameters
    ----------
    name, kind, classes, validation_share : as in `from_arrays`.
    train, test : sequences of (x, y); without `test` a fifth of the rows becomes the test part.

    Examples
    --------
    >>> from_pairs("mine", [([i, 1.0], i % 2) for i in range(20)]).x_train.shape
    (14, 2)
    """
    x, y = _columns(name, train)
    x_test, y_test = (None, None) if test is None else _columns(name, test)
    return from_arrays(
        name, x, y, x_test=x_test, y_test=y_test, kind=kind, classes=classes, validation_share=validation_share, source="a sequence of (x, y)"
    )


def from_huggingface(
    name: str,
    train: Any,
    test: Any | None = None,
    *,
    x: str,
    y: str,
    natural: str | None = None,
    kind: Kind = "classification",
    classes: int | None = None,
    validation_share: float = 0.1,
) -> Dataset:
    """Make a `Dataset` of Hugging Face `datasets.Dataset`s; needs the extra `data`.

    Parameters
    ----------
    name, kind, validation_share : as in `from_arrays`.
    train, test : one split each (`load_dataset(...)["train"]`); without `test` a fifth of the rows becomes the test part.
    x, y : names of the input and the label column: numbers, images, or lists of one length (tokenize text before, with `map`).
    natural : name of the column with the natural client, or None.
    classes : number of classes; None takes that of a ClassLabel column, else the largest label + 1.

    Raises
    ------
    MissingExtra : `datasets` is not installed.
    ScenarioError : not such a data set, or a column that is not there.
    """
    try:
        datasets: Any = import_module("datasets")
    except ImportError as error:
        raise MissingExtra("data", "from_huggingface") from error
    splits: dict[str, Any] = {"train": train} if test is None else {"train": train, "test": test}
    for what, split in splits.items():
        if not isinstance(split, datasets.Dataset):
            raise ScenarioError(f"from_huggingface('{name}', {what}): must be one datasets.Dataset, got {type(split).__name__}; choose a split first")
        columns: list[str] = split.column_names
        missing = [column for column in (x, y, natural) if column is not None and column not in columns]
        if missing:
            raise ScenarioError(f"from_huggingface('{name}', {what}): no columns {missing}; there are {columns}")
    label = train.features[y]
    if classes is None and isinstance(label, datasets.ClassLabel):
        classes = label.num_classes
    return from_arrays(
        name,
        _stacked(name, list(train[x])),
        np.asarray(list(train[y])),
        x_test=None if test is None else _stacked(name, list(test[x])),
        y_test=None if test is None else np.asarray(list(test[y])),
        kind=kind,
        classes=classes,
        natural=None if natural is None else np.asarray(list(train[natural])),
        validation_share=validation_share,
        source=f"Hugging Face data set, columns {x} and {y}",
    )


def _columns(name: str, pairs: Pairs) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read all rows of a sequence of pairs."""
    rows = [pairs[i] for i in range(len(pairs))]
    if not rows or any(not isinstance(row, Sequence) or len(row) != 2 for row in rows):
        raise ScenarioError(f"from_pairs('{name}'): must be a non-empty sequence of (x, y)")
    return _stacked(name, [row[0] for row in rows]), np.asarray([np.asarray(row[1]) for row in rows])


def _stacked(name: str, values: list[Any]) -> NDArray[Any]:
    """Stack rows of one shape; what numpy reads as height, width, 3 or 4 bytes is an image, whose channels go first."""
    arrays = [np.asarray(value) for value in values]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) != 1:
        raise ScenarioError(f"data set '{name}': rows have {len(shapes)} different shapes, such as {shapes[:2]}; resize or pad them to one")
    stacked = np.stack(arrays)
    if stacked.dtype == np.uint8 and stacked.ndim == 4 and stacked.shape[-1] in (3, 4):
        return stacked.transpose(0, 3, 1, 2)
    return stacked[:, None] if stacked.dtype == np.uint8 and stacked.ndim == 3 else stacked


def _inputs(name: str, x: ArrayLike, kind: Kind) -> NDArray[Any]:
    """Return inputs as float32, bytes scaled to 0..1; token ids as int64."""
    array = np.asarray(x)
    if array.dtype.kind not in "iubf" or array.ndim == 0:
        raise ScenarioError(
            f"data set '{name}', x: must be an array of numbers with one row per sample, got {array.dtype} {array.shape}; encode it before"
        )
    if kind == "next_token":
        if array.dtype.kind not in "iu":
            raise ScenarioError(f"data set '{name}', x: token ids must be whole numbers, got {array.dtype}")
        return array.astype(np.int64)
    return array.astype(np.float32) / np.float32(255) if array.dtype == np.uint8 else array.astype(np.float32)


def _targets(name: str, y: ArrayLike, kind: Kind) -> NDArray[Any]:
    """Return labels as int64, values as float32."""
    array = np.asarray(y)
    if kind == "regression":
        return array.astype(np.float32).reshape(len(array), -1) if array.ndim == 1 else array.astype(np.float32)
    if array.dtype.kind not in "iub" or array.ndim == 0:
        raise ScenarioError(f"data set '{name}', y: labels must be whole numbers, got {array.dtype}; number the classes 0, 1, ... before")
    return array.astype(np.int64)
