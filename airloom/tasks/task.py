"""A task: a data set, who holds which rows, a model, an objective and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from airloom.clock.rng import generator
from airloom.errors import ScenarioError
from airloom.models.batch import Batch, Inputs, map_inputs
from airloom.models.module import ModelSpec
from airloom.models.objective import CrossEntropy, MeanSquaredError, NextToken, Objective
from airloom.tasks import evaluate
from airloom.tasks.datasets import Dataset
from airloom.tasks.evaluate import as_tensors, columns_of
from airloom.tasks.metrics import IGNORE, default_metrics, metric
from airloom.tasks.partition import statistics
from airloom.tasks.requests import Request
from airloom.tasks.stream import Stream

Rows = NDArray[np.int64]

# Draws per generator: small shards pay for one generator every so many draws instead of one per pass (ours).
_DRAWS = 128
# Blocks of draws that are kept. Of a crowd's devices few draw twice in a row, and small blocks that live long between the models of a round leave
# gaps that no model fits into: with a block per device, 1,000 clients a round took 0.3 GB more in each (ours).
_BLOCKS = 512

_OBJECTIVES: dict[str, Objective] = {"classification": CrossEntropy(), "next_token": NextToken(), "regression": MeanSquaredError()}


@final
class DeviceData:
    """The rows that one device holds (at one time, for a stream), or the public pool.

    Row ids are those of the task's training part, so a row has the same id at every device. A device cannot read rows that it does not hold.

    Attributes
    ----------
    name : the device.
    ids : (n,) row ids, ascending.
    validation : the rows the device keeps for validation, apart from `ids`; ScenarioError unless the task has a `validation_share`.
    """

    __slots__ = ("_counts", "_validation", "_x", "_y", "classes", "ids", "name")

    def __init__(self, name: str, x: Inputs, y: Tensor, ids: Rows, classes: int, validation: Rows | None = None) -> None:
        self.name = name
        self.ids = ids
        self.classes = classes
        self._x, self._y = x, y
        self._validation = validation
        self._counts: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Sequence[int] | NDArray[Any] | Tensor) -> Batch:
        """Return the batch of these rows, in this order; repeats are allowed.

        Raises
        ------
        ScenarioError : if the device does not hold one of them.
        """
        wanted = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
        wanted = wanted.astype(np.int64, copy=False)
        if len(wanted):
            place = np.searchsorted(self.ids, wanted)
            if place.max() >= len(self.ids) or not np.array_equal(self.ids[place], wanted):
                foreign = np.setdiff1d(wanted, self.ids)[:5].tolist()
                raise ScenarioError(f"data of '{self.name}', rows: it does not hold {foreign}; allowed are its own {len(self)} row ids (`.ids`)")
        at = torch.from_numpy(wanted)
        return Batch(map_inputs(lambda t: t.index_select(0, at), self._x), self._y.index_select(0, at), at, None, self.classes)

    def all(self) -> Batch:
        """Return all rows, in order of id."""
        return self.rows(self.ids)

    def shaped(self, count: int) -> Batch:
        """Return a batch of `count` rows without contents (meta tensors), for dry runs."""
        ids = torch.empty(count, dtype=torch.int64, device="meta")

        def empty(t: Tensor) -> Tensor:
            return torch.empty((count, *t.shape[1:]), dtype=t.dtype, device="meta")

        return Batch(map_inputs(empty, self._x), empty(self._y), ids, None, self.classes)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Label histogram (classes,); for text the histogram of the tokens to predict."""
        if self._counts is None:
            if self.classes == 0:
                raise ScenarioError(f"data of '{self.name}', counts: a regression task has no classes; use len()")
            labels = self._y.numpy()[self.ids].reshape(-1)
            labels = labels[labels != IGNORE]
            counts = np.bincount(labels, minlength=self.classes).astype(np.int64)
            counts.flags.writeable = False
            self._counts = counts
        return self._counts

    def batches(self, size: int) -> int:
        """Return the steps of one pass: ceil(rows / size).

        Raises
        ------
        ScenarioError : if size < 1.
        """
        if size < 1:
            raise ScenarioError(f"data of '{self.name}', batches(size={size}): must be >= 1")
        return -(-len(self) // size)

    @property
    def validation(self) -> DeviceData:
        """The device's own validation rows."""
        if self._validation is None:
            raise ScenarioError(f"data of '{self.name}', validation: the task keeps none apart; set task.validation_share, e.g. to 0.1")
        return DeviceData(self.name, self._x, self._y, self._validation, self.classes)

    def __repr__(self) -> str:
        return f"DeviceData('{self.name}', {len(self)} rows)"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What is learned, from whose data, and how it is measured.

    Everything about data is a function of the fields: nothing that a method does changes what a device holds.

    Parameters
    ----------
    name : name in records.
    dataset : the data.
    model : the model that the scenario starts from.
    shards : training rows of each device; every device holds at least one row.
    objective : objective(out, batch) -> scalar; None for the usual one (cross entropy, next token, mean squared error).
    metrics : names of metrics, the headline first; () for the usual ones.
    public_rows : rows that every device may read (`task.public`); they belong to no device.
    public_x : inputs of another origin that every device may read, instead of `public_rows`; nobody knows their labels.
    columns : for vertical learning, the columns of the flattened input that a device sees; devices without entry see the whole input, and evaluation
        gives models (or `predict`) a dict from these devices to what they see.
    residents : models that stay at devices (`here.model`): per-client architectures, estimators, endpoints.
    validation_share : share of each device's rows kept apart as its `.validation`, 0..0.5.
    stream : how the rows of a device arrive in time; None: all are there from the start.
    requests : what users ask at each place, in order of time.
    natural : natural client (writer, subject, role) of each device, for its personal test rows.
    personal_rows : most rows of a device's personal test part.
    seed : seed of streams, of personal test parts and of validation parts.
    settings : what else the record's header should say (partition, alpha, ...).

    Raises
    ------
    ScenarioError : one clear message per fault; see `check` for those that need the model.

    Examples
    --------
    >>> from airloom.tasks import TaskSettings, make_task
    >>> task = make_task(TaskSettings(partition="iid"), ["phone1", "phone2"], seed=0)
    >>> len(task.data("phone1")), task.data("phone1").batches(100)
    (629, 7)
    """

    name: str
    dataset: Dataset
    model: ModelSpec
    shards: Mapping[str, Rows]
    objective: Objective = None  # type: ignore[assignment]  # replaced by the usual one of the kind
    metrics: tuple[str, ...] = ()
    public_rows: Rows = field(default_factory=lambda: np.zeros(0, np.int64))
    public_x: NDArray[Any] | None = None
    columns: Mapping[str, Rows] = field(default_factory=dict)
    residents: Mapping[str, Any] = field(default_factory=dict)
    validation_share: float = 0.0
    stream: Stream | None = None
    requests: Mapping[str, tuple[Request, ...]] = field(default_factory=dict)
    natural: Mapping[str, Any] = field(default_factory=dict)
    personal_rows: int = 256
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    _cache: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        put: Callable[[str, Any], None] = lambda key, value: object.__setattr__(self, key, value)  # noqa: E731  (frozen)
        put("objective", self.objective if self.objective is not None else _OBJECTIVES[self.dataset.kind])
        put("metrics", tuple(self.metrics) or default_metrics(self.dataset.kind))
        for name in self.metrics:
            metric(name, self.dataset.kind)
        if not 0 <= self.validation_share <= 0.5:
            raise ScenarioError(f"Task(validation_share={self.validation_share}) of '{self.name}': must be 0..0.5")
        if self.personal_rows < 1:
            raise ScenarioError(f"Task(personal_rows={self.personal_rows}) of '{self.name}': must be >= 1")
        put("shards", self._checked_shards())
        put("public_rows", self._checked_rows("public_rows", self.public_rows))
        self._check_public_x()
        for device, columns in self.columns.items():
            if device not in self.shards:
                raise ScenarioError(f"Task(columns) of '{self.name}': '{device}' holds no data; allowed are the devices of `shards`")
            if isinstance(self.dataset.x_train, Mapping):
                raise ScenarioError(f"Task(columns) of '{self.name}': '{self.dataset.name}' has modalities; columns are for inputs of one array")
            width = int(np.prod(self.dataset.x_train.shape[1:]))
            if len(columns) == 0 or np.min(columns) < 0 or np.max(columns) >= width:
                raise ScenarioError(f"Task(columns) of '{self.name}': columns of '{device}' must be a non-empty subset of 0..{width - 1}")

    # --- data -------------------------------------------------------------------------------------------------------------------------

    def data(self, device: str, at_s: float = 0.0) -> DeviceData:
        """Return what a device holds at a simulated time (seconds); cheap, and the same object while it does not change.

        Raises
        ------
        ScenarioError : if the device has no data in this task.
        """
        window = 0 if self.stream is None else self.stream.window(at_s)
        known = self._cache.get(("data", device))
        if known is not None and known[0] == window:
            return known[1]
        x, y = self._tensors(device)
        own, held_out = self._parts(device)
        if self.stream is not None:
            own = self.stream.rows(own, self.dataset.y_train[own], device, at_s, self.seed)
        data = DeviceData(device, x, y, own, self.dataset.classes, held_out)
        self._cache["data", device] = window, data
        return data

    def samples(self, device: str, at_s: float = 0.0) -> int:
        """Return how many rows a device holds at a simulated time, 0 for a place without data; builds nothing."""
        if device not in self.shards:
            return 0
        rows = len(self.shards[device])
        own = rows - self._held_out(rows)
        return own if self.stream is None else self.stream.held(own, device, at_s)

    @property
    def public(self) -> DeviceData:
        """The pool that all devices may read.

        Raises
        ------
        ScenarioError : if the task has none.
        """
        if len(self.public_rows) == 0 and self.public_x is None:
            raise ScenarioError(f"Task '{self.name}', public: it has no public pool; set task.public to a share of the training rows, e.g. 0.1")
        if "public" not in self._cache:
            (x, y), rows = self._tensors(""), self.public_rows
            if self.public_x is not None:
                rows = np.arange(len(self.public_x))
                x, y = as_tensors(self.public_x, self.model.dtype), torch.full((len(rows),), IGNORE)
            self._cache["public"] = DeviceData("public", x, y, rows, self.dataset.classes)
        return self._cache["public"]

    def resident(self, device: str) -> Any:
        """Return the model that stays at a device.

        Raises
        ------
        ScenarioError : if the task gives it none.
        """
        if device not in self.residents:
            raise ScenarioError(f"Task '{self.name}', resident model of '{device}': there is none; give one in `residents`")
        return self.residents[device]

    def sample_ids(self, device: str, offset: int, count: int, seed: int, at_s: float = 0.0) -> Rows:
        """Return the row ids of the draws [offset, offset + count) of a device.

        The rows that the device holds at `at_s` are shuffled without replacement, pass after pass; draws run on over the end of a pass, so every
        batch has exactly its size, and a batch larger than the data repeats rows only after a whole pass. A draw is a function of (seed, device,
        draw number, rows held): named stream (seed, "batches", device, block), one block being max(1, 128 // rows) passes.

        Parameters
        ----------
        device : whose draws.
        offset, count : draws are counted in samples over the device's whole life; both >= 0.
        seed : seed of the run.
        at_s : simulated time, seconds; only streams ask for it.
        """
        if offset < 0 or count < 0:
            raise ScenarioError(f"sample_ids(device='{device}', offset={offset}, count={count}): both must be >= 0")
        data = self.data(device, at_s)
        n = len(data)
        size = max(1, _DRAWS // n) * n
        block, start = divmod(offset, size)
        if start + count <= size:
            return data.ids[self._order(device, n, size, seed, block)[start : start + count]]
        blocks = [self._order(device, n, size, seed, k) for k in range(block, (offset + count - 1) // size + 1)]
        return data.ids[np.concatenate(blocks)[start : start + count]]

    def _order(self, device: str, n: int, size: int, seed: int, block: int) -> Rows:
        """Return positions of one block of passes; the last blocks of the devices that drew last are kept."""
        kept: dict[str, tuple[tuple[int, int, int], Rows]] = self._cache.setdefault("orders", {})
        known = kept.get(device)
        if known is not None and known[0] == (n, seed, block):
            return known[1]
        rng = generator(seed, "batches", device, block)
        passes = np.broadcast_to(np.arange(n, dtype=np.int32), (size // n, n))  # four bytes per draw
        order = rng.permuted(passes, axis=1).reshape(-1)
        kept.pop(device, None)
        kept[device] = (n, seed, block), order
        if len(kept) > _BLOCKS:
            del kept[next(iter(kept))]
        return order

    def _tensors(self, device: str) -> tuple[Inputs, Tensor]:
        """Return the training inputs as the device sees them, and the labels; without copies unless it sees only columns or the model is float64."""
        if "train" not in self._cache:
            dtype = self.model.dtype
            self._cache["train"] = as_tensors(self.dataset.x_train, dtype), as_tensors(self.dataset.y_train, dtype)
        x, y = self._cache["train"]
        columns = self.columns.get(device)
        if columns is None:
            return x, y
        if ("columns", device) not in self._cache:
            self._cache["columns", device] = columns_of(x, columns)
        return self._cache["columns", device], y

    def _shard(self, device: str) -> Rows:
        """Return all rows of a device."""
        if device not in self.shards:
            some = ", ".join([*list(self.shards)[:5], *(["..."] if len(self.shards) > 5 else [])])
            raise ScenarioError(f"Task '{self.name}', data of '{device}': it holds none; devices with data are {some}")
        return self.shards[device]

    def _held_out(self, rows: int) -> int:
        """Return how many of a device's rows are its validation part: the rounded share, at least one, but never the last row."""
        return min(rows - 1, max(1, round(self.validation_share * rows))) if self.validation_share else 0

    def _parts(self, device: str) -> tuple[Rows, Rows | None]:
        """Return the training rows and the validation rows of a device."""
        shard = self._shard(device)
        count = self._held_out(len(shard))
        if not self.validation_share:
            return shard, None
        order = generator(self.seed, "validation", device).permutation(shard)
        return np.sort(order[count:]), np.sort(order[:count])

    # --- evaluation -------------------------------------------------------------------------------------------------------------------

    def evaluate(self, model: Any, part: str = "test", *, predict: evaluate.Predict | None = None) -> dict[str, float]:
        """Return the task's metrics of a model on a whole part ("test", "validation" or "train"); off the clock.

        Parameters
        ----------
        model : Params, or anything that `predict` takes.
        part : "test", "validation" or "train".
        predict : predict(model, x) -> outputs; None runs the Params' own module.
        """
        return evaluate.whole(self, model, part, predict)

    def evaluate_personal(self, models: Mapping[str, Any], part: str = "test", *, predict: evaluate.Predict | None = None) -> dict[str, float]:
        """Return mean, tenth percentile and worst over devices of each metric, every device's model on its own test rows.

        See `airloom.tasks.evaluate.personal` and `personal_rows_of`.
        """
        return evaluate.personal(self, models, part, predict)

    # --- checks and descriptions ------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check that the model accepts the data and gives as many outputs as there are classes; runs it on two rows.

        Raises
        ------
        ScenarioError : naming what the model made of the rows.
        """
        evaluate.check_model(self)

    def describe(self) -> dict[str, Any]:
        """Return what a record's header says about the task (plain JSON values)."""
        numbers = None
        if self.dataset.kind != "regression":
            s = statistics(list(self.shards.values()), self.dataset.y_train)
            numbers = {key: getattr(s, key) for key in s.__slots__}
        stream = None if self.stream is None else {key: getattr(self.stream, key) for key in self.stream.__slots__}
        return {
            "name": self.name,
            "dataset": self.dataset.describe(),
            "model": {"key": self.model.key, "values": self.model.size},
            "objective": str(self.objective),
            "metrics": list(self.metrics),
            "devices": len(self.shards),
            "partition": numbers,
            "public_rows": len(self.public_rows) if self.public_x is None else len(self.public_x),
            "validation_share": self.validation_share,
            "stream": stream,
            "seed": self.seed,
            "settings": dict(self.settings),
        }

    def _checked_rows(self, what: str, rows: Any) -> Rows:
        """Return row ids as ascending int64 without repeats, or raise."""
        array = np.asarray(rows)
        if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
            raise ScenarioError(f"Task '{self.name}', {what}: must be a list of row numbers, got {array.dtype} {array.shape}")
        array = np.unique(array.astype(np.int64))
        if len(array) != len(np.asarray(rows)):
            raise ScenarioError(f"Task '{self.name}', {what}: names some rows twice; each row may be there once")
        n = len(self.dataset.y_train)
        if len(array) and (array[0] < 0 or array[-1] >= n):
            wrong = array[-1] if array[-1] >= n else array[0]
            raise ScenarioError(f"Task '{self.name}', {what}: names row {wrong}; allowed are 0..{n - 1}, the training rows")
        return array

    def _check_public_x(self) -> None:
        """Raise unless a pool of another origin looks like the training rows."""
        pool, own = self.public_x, self.dataset.x_train
        if pool is None:
            return
        if len(self.public_rows):
            raise ScenarioError(f"Task '{self.name}', public_x: got public_rows too; allowed is one of them, there is one pool")
        if isinstance(own, Mapping) or pool.shape[1:] != own.shape[1:] or pool.dtype.kind != own.dtype.kind or not len(pool):
            wanted = "of several modalities" if isinstance(own, Mapping) else f"{own.dtype} {own.shape[1:]}"
            raise ScenarioError(
                f"Task '{self.name}', public_x: got {len(pool)} rows of {pool.dtype} {pool.shape[1:]}; the training rows are {wanted}; bring the "
                f"pool into their shape"
            )

    def _checked_shards(self) -> dict[str, Rows]:
        """Return the shards with ascending rows, after looking at all of them in one go."""
        if not self.shards:
            raise ScenarioError(f"Task(shards={{}}) of '{self.name}': at least one device must hold data")
        empty = [device for device, rows in self.shards.items() if len(rows) == 0]
        if empty:
            raise ScenarioError(f"Task '{self.name}': {len(empty)} devices hold no data, the first is '{empty[0]}'; give each a row or leave it out")
        if self.validation_share:
            single = [device for device, rows in self.shards.items() if len(rows) < 2]
            if single:
                raise ScenarioError(f"Task(validation_share={self.validation_share}) of '{self.name}': '{single[0]}' holds 1 row; it needs 2")
        arrays = list(self.shards.values())
        if all(isinstance(rows, np.ndarray) and rows.dtype == np.int64 and rows.ndim == 1 for rows in arrays):
            joined = np.concatenate(arrays)
            ends = np.cumsum([len(rows) for rows in arrays])
            rises = np.diff(joined) > 0
            rises[ends[:-1] - 1] = True
            if rises.all() and joined.min() >= 0 and joined.max() < len(self.dataset.y_train):
                return dict(self.shards)
        return {device: self._checked_rows(f"shard of '{device}'", rows) for device, rows in self.shards.items()}
