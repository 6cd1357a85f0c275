"""Data sets as plain arrays: `load(name)`, with digits always at hand and the others read from a folder.

| name | rows train / validation / test | x | natural clients |
|---|---|---|---|
| digits | 1,257 / 180 / 360 | (1, 8, 8), pixels / 16 | none |
| mnist_writers | 54,000 / 6,000 / 10,000 | (1, 28, 28), standardized | 539 writers (test: 297 others) |
| fashion_mnist | 54,000 / 6,000 / 10,000 | (1, 28, 28), standardized | the 50-client assignment of the source |
| cifar10 | 45,000 / 5,000 / 10,000 | (3, 32, 32), standardized | none |
| femnist | 62 classes, by writer, a tenth of the training rows for validation | (1, 28, 28), 0..1, bright ink | 3,400 writers |
| har | about 6,950 / 770 / 2,580 | (6, 128), standardized per channel | 30 subjects |
| shakespeare | windows of 80 characters | (80,) token ids | 141 roles with at least 1,000 characters |
| sst2, mrpc, ag_news, gsm8k, arc_easy, arc_challenge, openbookqa, boolq | see `airloom.tasks.language` | (128,) token ids, bytes + 1 | none |

No file is downloaded and none is unpickled. Splits depend on the data alone, never on the seed of a run.
"""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from airloom.clock.rng import generator
from airloom.errors import MissingExtra, ScenarioError
from airloom.tasks.language import TEXT_FILES, WINDOW, encoded, encoded_windows, read_texts
from airloom.tasks.metrics import IGNORE
from airloom.tasks.published import SOURCES, read_cifar, read_femnist, read_idx
from airloom.tasks.text import Vocabulary, windows
from airloom.tasks.tokenizer import Tokenizer, by_bytes

Kind = Literal["classification", "next_token", "regression"]

# Mean and standard deviation of the training pixels (scaled to 0..1), as commonly published for each set.
MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
FASHION_MEAN, FASHION_STD = 0.2860, 0.3530
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)  # of its training images
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
# Per-channel mean and standard deviation of all training windows of the HAR file, computed once from it: total acceleration x, y, z (g), then
# gyroscope x, y, z (rad/s).
HAR_MEAN, HAR_STD = (0.8053, 0.0252, 0.0852, -0.0038, 0.0001, 0.0009), (0.4145, 0.3997, 0.3449, 0.4040, 0.3716, 0.2540)

# Characters per window and the least text of a role: the LEAF benchmark (Caldas et al. 2018, arXiv 1812.01097) reads 80; the bound is ours.
SHAKESPEARE_WINDOW = 80
SHAKESPEARE_MINIMUM = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A data set in memory: read-only arrays, split into train, validation and test.

    Parameters
    ----------
    name : what it is called in records.
    x_train, x_validation, x_test : (n, ...) inputs: float32, or int64 token ids for `next_token`; or a dict of such arrays, one per modality.
    y_train, y_validation, y_test : (n,) int64 labels; (n, T) int64 next tokens, IGNORE (-100) where none counts; (n, k) float32 values for
        `regression`.
    classes : number of classes or tokens; 0 for `regression`.
    kind : "classification", "next_token" or "regression".
    source : one line: where it is from and how it was scaled.
    natural, natural_validation, natural_test : (n,) natural client of each row, or None.
    vocabulary : for text by characters, the characters in order of their id.

    Raises
    ------
    ScenarioError : lengths that differ, values that are not finite, labels outside 0..classes-1.

    Examples
    --------
    >>> data = load("digits")
    >>> data.x_train.shape, data.classes, data.natural is None
    ((1257, 1, 8, 8), 10, True)
    """

    name: str
    x_train: Any
    y_train: NDArray[Any]
    x_validation: Any
    y_validation: NDArray[Any]
    x_test: Any
    y_test: NDArray[Any]
    classes: int
    kind: Kind
    source: str
    natural: NDArray[Any] | None = None
    natural_validation: NDArray[Any] | None = None
    natural_test: NDArray[Any] | None = None
    vocabulary: Vocabulary | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in ("classification", "next_token", "regression"):
            raise ScenarioError(f"Dataset(kind={self.kind!r}) of '{self.name}': allowed are 'classification', 'next_token' and 'regression'")
        if self.kind != "regression" and self.classes < 2:
            raise ScenarioError(f"Dataset(classes={self.classes}) of '{self.name}': must be >= 2 for {self.kind}")
        for part in ("train", "validation", "test"):
            x, y, natural = self.part(part)
            for key, array in {**modalities(x), "natural clients": y if natural is None else natural}.items():
                if len(array) != len(y):
                    raise ScenarioError(
                        f"Dataset '{self.name}', part {part}: {len(array)} {key or 'inputs'}, {len(y)} labels; all must have the same length"
                    )
            for key, array in modalities(x).items():
                _check_values(f"Dataset '{self.name}', x_{part}{f'[{key!r}]' if key else ''}", array)
                array.flags.writeable = False
            _check_values(f"Dataset '{self.name}', y_{part}", y)
            y.flags.writeable = False
            if self.kind != "regression":
                if y.dtype != np.int64:
                    raise ScenarioError(f"Dataset '{self.name}', y_{part}: labels must be int64, got {y.dtype}; use y.astype('int64')")
                counted = y[y != IGNORE] if self.kind == "next_token" else y
                if len(y) and (len(counted) == 0 or counted.min() < 0 or counted.max() >= self.classes):
                    raise ScenarioError(
                        f"Dataset '{self.name}', y_{part}: labels run from {y.min()} to {y.max()}, allowed is 0..{self.classes - 1}"
                        f"{f', and {IGNORE} for what does not count' if self.kind == 'next_token' else ''}; "
                        "renumber them or correct classes"
                    )
            if self.row_shape(part) != self.row_shape("train"):
                raise ScenarioError(
                    f"Dataset '{self.name}': rows of {part} {self.row_shape(part)} and train {self.row_shape('train')} differ in shape"
                )
        if len(self.y_train) == 0:
            raise ScenarioError(f"Dataset '{self.name}': x_train is empty; at least one row is needed")

    def row_shape(self, part: str = "train") -> Any:
        """Return the shape of one row of inputs, a list of numbers; for modalities a dict of such lists."""
        shapes = {key: list(array.shape[1:]) for key, array in modalities(self.part(part)[0]).items()}
        return shapes.get("", shapes)

    def part(self, name: str) -> tuple[Any, NDArray[Any], NDArray[Any] | None]:
        """Return (x, y, natural) of "train", "validation" or "test"."""
        if name == "train":
            return self.x_train, self.y_train, self.natural
        if name == "validation":
            return self.x_validation, self.y_validation, self.natural_validation
        if name == "test":
            return self.x_test, self.y_test, self.natural_test
        raise ScenarioError(f"part={name!r} of '{self.name}': allowed are 'train', 'validation' and 'test'")

    def describe(self) -> dict[str, Any]:
        """Return what a record's header says about the data."""
        return {
            "name": self.name,
            "kind": self.kind,
            "classes": self.classes,
            "rows": {"train": len(self.y_train), "validation": len(self.y_validation), "test": len(self.y_test)},
            "shape": self.row_shape(),
            "source": self.source,
        }


def load(name: str, folder: str | Path | None = None, *, limit: int | None = None, split_seed: int = 0) -> Dataset:
    """Read a data set by name.

    Parameters
    ----------
    name : one of `names()`.
    folder : where the files are, for all sets but digits; None reads the environment variable AIRLOOM_DATA. A file may lie in its subfolder
        (`images/mnist_writers.npz`) or directly in the folder.
    limit : at most so many rows of each part (a random subset that does not depend on the seed of a run; a smaller limit gives a subset of a larger
        one); None for all. CIFAR-10 decodes only these.
    split_seed : seed of the split into parts, apart from the seed of a run so that all runs are tested on the same rows.

    Returns
    -------
    Dataset : shared between calls with the same arguments (the arrays are read-only).

    Raises
    ------
    ScenarioError : an unknown name, or a file that is not there (the message says which file to put where).

    Examples
    --------
    >>> load("digits", limit=100).x_test.shape
    (100, 1, 8, 8)
    """
    if name not in _READERS:
        raise ScenarioError(f"load(name={name!r}): allowed are {', '.join(names())}; for other data build a Dataset or use airloom.tasks.adapters")
    if limit is not None and limit < 1:
        raise ScenarioError(f"load(limit={limit}) of '{name}': must be >= 1 or None")
    return _cached(name, None if name == "digits" else str(_folder(name, folder)), limit, split_seed)


def names() -> tuple[str, ...]:
    """Return the names that `load` knows.

    >>> names()[0]
    'digits'
    """
    return tuple(_READERS)


def files(name: str) -> tuple[str, ...]:
    """Return the files a data set needs, relative to its folder.

    >>> files("har")
    ('har/har_subjects.npz',)
    """
    if name not in _FILES:
        raise ScenarioError(f"files(name={name!r}): allowed are {', '.join(names())}")
    return _FILES[name]


def modalities(x: Any) -> dict[str, NDArray[Any]]:
    """Return inputs by modality; a single array has the name ''.

    >>> list(modalities({"image": np.zeros(1), "sound": np.zeros(1)})), list(modalities(np.zeros(1)))
    (['image', 'sound'], [''])
    """
    return dict(x) if isinstance(x, Mapping) else {"": x}


def carve(groups: NDArray[Any], count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split rows into (rest, taken) with exactly `count` taken, in proportion to each group (largest remainder); both ascending.

    >>> rest, taken = carve(np.array([0] * 8 + [1] * 4), 3, np.random.default_rng(0))
    >>> len(rest), int((taken < 8).sum())
    (9, 2)
    """
    if not 0 <= count <= len(groups):
        raise ScenarioError(f"carve(count={count}): must be 0..{len(groups)}")
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    exact = sizes * (count / max(len(groups), 1))
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: count - int(quota.sum())]] += 1
    shuffled = rng.permutation(len(groups))
    ordered = shuffled[np.argsort(inverse[shuffled], kind="stable")]
    position = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = position < np.repeat(quota, sizes)
    return np.sort(ordered[~chosen]), np.sort(ordered[chosen])


@lru_cache(maxsize=4)
def _cached(name: str, folder: str | None, limit: int | None, split_seed: int) -> Dataset:
    """Read and keep the last few sets: a comparison loads the same one for every method and seed."""
    return _READERS[name](Path(folder or "."), limit, split_seed)


def _folder(name: str, folder: str | Path | None) -> Path:
    """Find the data folder, from the argument or the environment."""
    chosen = folder if folder is not None else os.environ.get("AIRLOOM_DATA")
    if not chosen:
        raise ScenarioError(
            f"load(name={name!r}): needs a folder and got none; put {' and '.join(_FILES[name])} into a folder and give it as `folder` "
            "(task.data), or set the environment variable AIRLOOM_DATA to it"
        )
    return Path(chosen).expanduser()


def at_hand(path: str | Path, folder: str | Path | None = None) -> Path:
    """A file or folder, such as a pretrained model: as it is named, else within the data folder (None: AIRLOOM_DATA) if it is there."""
    named, data = Path(path).expanduser(), folder if folder is not None else os.environ.get("AIRLOOM_DATA")
    inside = named if named.exists() or not data else Path(data).expanduser() / named
    return inside if inside.exists() else named


def _file(folder: Path, name: str, relative: str) -> Path:
    """Find one file of a data set."""
    for path in (folder / relative, folder / Path(relative).name):
        if path.is_file():
            return path
    how = f"fetch it with `airloom data get {name}`" if name in SOURCES else "put the file there"
    raise ScenarioError(f"load(name={name!r}): {folder / relative} is not there; {how}, or give another folder")


def _archive(folder: Path, name: str, keys: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Read named arrays of an .npz file, refusing pickled ones."""
    path = _file(folder, name, _FILES[name][0])
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in keys if key not in archive.files]
            if missing:
                raise ScenarioError(f"load(name={name!r}): {path} lacks the arrays {missing}; it holds {archive.files}")
            return {key: archive[key] for key in keys}
    except (ValueError, OSError, EOFError) as error:
        raise ScenarioError(f"load(name={name!r}): {path} cannot be read as an .npz of plain arrays ({error})") from error


def _some(rows: NDArray[np.int64], limit: int | None, *labels: object) -> NDArray[np.int64]:
    """Keep at most `limit` rows, nested in the limit, ascending."""
    if limit is None or limit >= len(rows):
        return rows
    return np.sort(generator(*labels, "limit").permutation(rows)[:limit])


def _standardized(x: NDArray[Any], mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """Return (x - mean) / std per channel as float32; x is (n, channels, ...)."""
    shape = (len(mean),) + (1,) * (x.ndim - 2)
    scale = 1 / np.array(std, np.float32).reshape(shape)
    result = x.astype(np.float32)
    result -= np.array(mean, np.float32).reshape(shape)
    result *= scale
    return result


def _check_values(what: str, array: NDArray[Any]) -> None:
    """Refuse arrays that are not numbers or hold NaN or infinity."""
    if array.dtype.kind == "f":
        bad = ~np.isfinite(array.reshape(len(array), -1)).all(1) if array.size else np.zeros(0, bool)
        if bad.any():
            raise ScenarioError(
                f"{what}: {int(bad.sum())} of {len(array)} rows hold NaN or infinity, the first is row {int(bad.argmax())}; clean or drop them before"
            )
    elif array.dtype.kind not in "iub":
        raise ScenarioError(f"{what}: must hold numbers, got {array.dtype}; encode text and categories as numbers before")


def _digits(folder: Path, limit: int | None, split_seed: int) -> Dataset:
    """Read the 1,797 handwritten digits that come with scikit-learn."""
    table = _digits_table()
    x = (table[:, :64].reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    y = table[:, 64].astype(np.int64)
    rest, test = carve(y, 360, generator("digits", "test", split_seed))
    kept, held = carve(y[rest], 180, generator("digits", "validation", split_seed))
    parts = [_some(rows, limit, "digits", i) for i, rows in enumerate((rest[kept], rest[held], test))]
    return Dataset(
        name="digits",
        x_train=x[parts[0]],
        y_train=y[parts[0]],
        x_validation=x[parts[1]],
        y_validation=y[parts[1]],
        x_test=x[parts[2]],
        y_test=y[parts[2]],
        classes=10,
        kind="classification",
        source="scikit-learn load_digits (UCI optical digits, test part), pixels / 16, stratified split",
    )


def _digits_table() -> NDArray[np.float64]:
    """Return the (1797, 65) table of pixels and label; read from scikit-learn's own file, because importing scikit-learn takes two seconds."""
    spec = find_spec("sklearn")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            with gzip.open(path, "rt") as file:
                return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return np.column_stack([bunch.data, bunch.target])


def _grey(name: str, folder: Path, limit: int | None, split_seed: int, ids: tuple[str, str], mean: float, std: float, source: str) -> Dataset:
    """Read 60,000 + 10,000 grey images with natural clients; validation is one row in ten of every client."""
    z = _archive(folder, name, ("x_train", "y_train", "x_test", "y_test", *ids))
    natural, natural_test = z[ids[0]].astype(np.int64), z[ids[1]].astype(np.int64)
    kept, held = carve(natural, len(natural) // 10, generator(name, "validation", split_seed))
    kept, held = _some(kept, limit, name, 0), _some(held, limit, name, 1)
    test = _some(np.arange(len(natural_test)), limit, name, 2)
    y_train, y_test = z["y_train"].astype(np.int64), z["y_test"].astype(np.int64)

    def scaled(images: NDArray[Any]) -> NDArray[np.float32]:
        return _standardized(images[:, None], (255 * mean,), (255 * std,))

    return Dataset(
        name=name,
        x_train=scaled(z["x_train"][kept]),
        y_train=y_train[kept],
        x_validation=scaled(z["x_train"][held]),
        y_validation=y_train[held],
        x_test=scaled(z["x_test"][test]),
        y_test=y_test[test],
        classes=10,
        kind="classification",
        natural=natural[kept],
        natural_validation=natural[held],
        natural_test=natural_test[test],
        source=f"{source}, (pixel / 255 - {mean}) / {std}",
    )


def _mnist_writers(folder: Path, limit: int | None, split_seed: int) -> Dataset:
    """Read MNIST with the writer of each image."""
    ids = ("writer_train", "writer_test")
    return _grey("mnist_writers", folder, limit, split_seed, ids, MNIST_MEAN, MNIST_STD, "MNIST with QMNIST writers")


def _fashion_mnist(folder: Path, limit: int | None, split_seed: int) -> Dataset:
    """Read Fashion-MNIST; its natural clients are the 50-client Dirichlet assignment that comes with the file."""
    ids = ("client50_train", "client50_test")
    return _grey("fashion_mnist", folder, limit, split_seed, ids, FASHION_MEAN, FASHION_STD, "Fashion-MNIST (own test part, not the official one)")


def _cifar10(folder: Path, limit: int | None, split_seed: int) -> Dataset:
    """Read CIFAR-10 from JPEG bytes, decoding only the rows that are kept."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("data", "the cifar10 data set (JPEG images)") from error
    z = _archive(folder, "cifar10", ("jpeg_train", "offset_train", "y_train", "jpeg_test", "offset_test", "y_test"))

    def decoded(part: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        data, at = z[f"jpeg_{part}"], z[f"offset_{part}"]
        images = np.empty((len(rows), 32, 32, 3), np.uint8)
        for i, row in enumerate(rows):
            images[i] = np.asarray(Image.open(io.BytesIO(data[at[row] : at[row + 1]].tobytes())))
        return _standardized(images.transpose(0, 3, 1, 2), tuple(255 * m for m in CIFAR_MEAN), tuple(255 * s for s in CIFAR_STD))

    y_train, y_test = z["y_train"].astype(np.int64), z["y_test"].astype(np.int64)
    kept, held = carve(y_train, len(y_train) // 10, generator("cifar10", "validation", split_seed))
    kept, held = _some(kept, limit, "cifar10", 0), _some(held, limit, "cifar10", 1)
    test = _some(np.arange(len(y_test)), limit, "cifar10", 2)
    return Dataset(
        name="cifar10",
        x_train=decoded("train", kept),
        y_train=y_train[kept],
        x_validation=decoded("train", held),
        y_validation=y_train[held],
        x_test=decoded("test", test),
        y_test=y_test[test],
        classes=10,
        kind="classification",
        source=f"CIFAR-10 as JPEG, (pixel / 255 - {CIFAR_MEAN}) / {CIFAR_STD}",
    )


def _har(folder: Path, limit: int | None, split_seed: int) -> Dataset:
    """Read the smartphone activity windows; the test part is the source's quarter of every person."""
    z = _archive(folder, "har", ("x", "y", "subject", "is_test"))
    y, subject = z["y"].astype(np.int64), z["subject"].astype(np.int64)
    rest, test = np.flatnonzero(~z["is_test"]), np.flatnonzero(z["is_test"])
    kept, held = carve(subject[rest], len(rest) // 10, generator("har", "validation", split_seed))
    parts = [_some(rows, limit, "har", i) for i, rows in enumerate((rest[kept], rest[held], test))]
    x = [_standardized(z["x"][rows], HAR_MEAN, HAR_STD) for rows in parts]
    return Dataset(
        name="har",
        x_train=x[0],
        y_train=y[parts[0]],
        x_validation=x[1],
        y_validation=y[parts[1]],
        x_test=x[2],
        y_test=y[parts[2]],
        classes=6,
        kind="classification",
        natural=subject[parts[0]],
        natural_validation=subject[parts[1]],
        natural_test=subject[parts[2]],
        source="UCI HAR by subject, standardized per channel; neighboring windows overlap by half, so test rows are close to training rows",
    )


def _roles(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Read the text of each role, and which roles have enough of it."""
    path = _file(folder, "shakespeare", _FILES["shakespeare"][0])
    with gzip.open(path, "rt", encoding="utf-8") as file:
        roles = json.load(file)
    # The bound counts spoken characters, without the joining line breaks, as the data note does.
    kept = [role for role, speeches in roles.items() if sum(map(len, speeches)) >= SHAKESPEARE_MINIMUM]
    return {role: "\n".join(speeches) for role, speeches in roles.items()}, kept


def _cuts(length: int) -> list[tuple[int, int]]:
    """Train, validation and test of a role's text: the first 80 %, the next 10 %, the last 10 %."""
    ends = [0, length * 8 // 10, length * 9 // 10, length]
    return list(pairwise(ends))


def _shakespeare(folder: Path, limit: int | None, split_seed: int) -> Dataset:
    """Read the roles with enough text; of each role the first 80 % is train, the next 10 % validation, the last 10 % test."""
    texts, kept = _roles(folder)
    vocabulary = Vocabulary.of(texts.values())
    pieces: list[list[tuple[NDArray[np.int64], NDArray[np.int64], str]]] = [[], [], []]
    for role in kept:
        tokens = vocabulary.encode(texts[role])
        for piece, (start, end) in zip(pieces, _cuts(len(tokens)), strict=True):
            x, y = windows(tokens[start:end], SHAKESPEARE_WINDOW)
            piece.append((x, y, role))
    parts: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
    for i, piece in enumerate(pieces):
        x, y = np.concatenate([p[0] for p in piece]), np.concatenate([p[1] for p in piece])
        ids = np.repeat(np.array([p[2] for p in piece]), [len(p[0]) for p in piece])
        rows = _some(np.arange(len(x)), limit, "shakespeare", i)
        parts.append((x[rows], y[rows], ids[rows]))
    return Dataset(
        name="shakespeare",
        x_train=parts[0][0],
        y_train=parts[0][1],
        x_validation=parts[1][0],
        y_validation=parts[1][1],
        x_test=parts[2][0],
        y_test=parts[2][1],
        classes=len(vocabulary),
        kind="next_token",
        natural=parts[0][2],
        natural_validation=parts[1][2],
        natural_test=parts[2][2],
        vocabulary=vocabulary,
        source=f"tiny Shakespeare by role (at least {SHAKESPEARE_MINIMUM} characters), windows of {SHAKESPEARE_WINDOW} characters",
    )


def load_text(name: str, tokenizer: Tokenizer, folder: str | Path | None = None, *, window: int = WINDOW, limit: int | None = None) -> Dataset:
    """Read a set of texts with a tokenizer of one's own, such as the one that a pretrained model was made with.

    Parameters
    ----------
    name : "shakespeare", or a set of `airloom.tasks.language`.
    tokenizer : see `airloom.tasks.tokenizer`.
    folder, limit : as in `load`.
    window : tokens per row; longer texts are cut (classes: at the end, answers: at the beginning of the question, Shakespeare: into windows).

    Raises
    ------
    ScenarioError : another name, or a file that is not there.
    """
    if name != "shakespeare" and name not in TEXT_FILES:
        raise ScenarioError(f"load_text(name={name!r}): allowed are shakespeare, {', '.join(TEXT_FILES)}; for images use load")
    where = _folder(name, folder)
    natural: list[NDArray[Any] | None] = [None, None, None]
    if name == "shakespeare":
        texts, kept = _roles(where)
        parts = encoded_windows([[(role, texts[role][slice(*_cuts(len(texts[role]))[i])]) for role in kept] for i in range(3)], tokenizer, window)
        kind, classes = "next_token", tokenizer.size
        xy = [(x, y) for x, y, _ in parts]
        natural = [clients for *_, clients in parts]
    else:
        found = read_texts(name, lambda file: _file(where, name, file))
        kind = found.kind
        xy, classes = encoded(found, tokenizer, window)
    rows = [_some(np.arange(len(y)), limit, name, i) for i, (_, y) in enumerate(xy)]
    x, y = [x[r] for (x, _), r in zip(xy, rows, strict=True)], [y[r] for (_, y), r in zip(xy, rows, strict=True)]
    clients = [None if ids is None else ids[r] for ids, r in zip(natural, rows, strict=True)]
    return Dataset(
        name=name, x_train=x[0], y_train=y[0], x_validation=x[1], y_validation=y[1], x_test=x[2], y_test=y[2], classes=classes, kind=kind,
        natural=clients[0], natural_validation=clients[1], natural_test=clients[2],
        source=f"{name}, tokens of '{tokenizer.name}', {window} per row",
    )  # fmt: skip


def _text(name: str) -> Callable[[Path, int | None, int], Dataset]:
    """A reader of texts by bytes."""
    return lambda folder, limit, split_seed: load_text(name, by_bytes(), folder, limit=limit)


def _published(name: str, classes: int, mean: tuple[float, ...], std: tuple[float, ...], label_bytes: int = 0) -> Callable[..., Dataset]:
    """Return the reader of a data set in its publisher's form: IDX files, or CIFAR's binary archive with that many bytes of labels per row."""

    def read(folder: Path, limit: int | None, split_seed: int) -> Dataset:
        paths = [_file(folder, name, file) for file in _FILES[name]]
        x, y, x_test, y_test = read_cifar(paths[0], label_bytes) if label_bytes else read_idx(paths)
        kept, held = carve(y, len(y) // 10, generator(name, "validation", split_seed))
        kept, held = _some(kept, limit, name, 0), _some(held, limit, name, 1)
        test = _some(np.arange(len(y_test)), limit, name, 2)

        def scaled(images: NDArray[Any]) -> NDArray[np.float32]:
            return _standardized(images, tuple(255 * m for m in mean), tuple(255 * s for s in std))

        return Dataset(
            name=name,
            x_train=scaled(x[kept]),
            y_train=y[kept].astype(np.int64),
            x_validation=scaled(x[held]),
            y_validation=y[held].astype(np.int64),
            x_test=scaled(x_test[test]),
            y_test=y_test[test].astype(np.int64),
            classes=classes,
            kind="classification",
            source=f"{SOURCES[name][0].url.rpartition('/')[0]}, official parts, (pixel / 255 - {mean}) / {std}",
        )

    return read


def _femnist(folder: Path, limit: int | None, split_seed: int) -> Dataset:
    """Read Federated EMNIST with the writer of each image; the test part holds other rows of the same writers."""
    z = read_femnist(_file(folder, "femnist", _FILES["femnist"][0]))
    writer = z["writer_train"]
    kept, held = carve(writer, len(writer) // 10, generator("femnist", "validation", split_seed))
    parts = {"train": _some(kept, limit, "femnist", 0), "validation": _some(held, limit, "femnist", 1)}
    parts["test"] = _some(np.arange(len(z["y_test"])), limit, "femnist", 2)
    columns: dict[str, Any] = {}
    for part, rows in parts.items():
        of = "test" if part == "test" else "train"
        columns[f"x_{part}"] = z[f"x_{of}"][rows][:, None].astype(np.float32) / np.float32(255)
        columns[f"y_{part}"] = z[f"y_{of}"][rows]
        columns["natural" if part == "train" else f"natural_{part}"] = z[f"writer_{of}"][rows]
    return Dataset(name="femnist", classes=62, kind="classification", source="Federated EMNIST (TensorFlow Federated), 1 - pixel", **columns)


_READERS: dict[str, Callable[[Path, int | None, int], Dataset]] = {
    "digits": _digits,
    "mnist_writers": _mnist_writers,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "har": _har,
    "shakespeare": _shakespeare,
    **{name: _text(name) for name in TEXT_FILES},
    "mnist": _published("mnist", 10, (MNIST_MEAN,), (MNIST_STD,)),
    "fashion_mnist_official": _published("fashion_mnist_official", 10, (FASHION_MEAN,), (FASHION_STD,)),
    "cifar10_official": _published("cifar10_official", 10, CIFAR_MEAN, CIFAR_STD, label_bytes=1),
    "cifar100": _published("cifar100", 100, CIFAR100_MEAN, CIFAR100_STD, label_bytes=2),
    "femnist": _femnist,
}
_FILES: dict[str, tuple[str, ...]] = {
    "digits": (),
    "mnist_writers": ("images/mnist_writers.npz",),
    "fashion_mnist": ("images/fashion_mnist.npz",),
    "cifar10": ("images/cifar10_jpeg.npz",),
    "har": ("har/har_subjects.npz",),
    "shakespeare": ("text/shakespeare/roles.json.gz",),
    **TEXT_FILES,
    **{name: tuple([source.file for source in sources]) for name, sources in SOURCES.items()},
}
