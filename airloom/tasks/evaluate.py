"""Evaluation, off the clock: a model on a whole part, and each device's model on test rows like its own data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from airloom.clock.rng import generator
from airloom.errors import ScenarioError
from airloom.models.batch import Inputs, first_tensor, map_inputs
from airloom.models.params import Params
from airloom.tasks.metrics import Metric, metric

if TYPE_CHECKING:
    from airloom.tasks.task import Task

Rows = NDArray[np.int64]
Predict = Callable[[Any, Any], Tensor]

# Input bytes per forward pass: one pass for digits; for images so few rows that activations stay in cache, which makes CNNs a fifth faster (ours,
# measured with 28 x 28 images: 0.39 ms per image in chunks of 128, 0.5 ms in chunks of 512).
CHUNK_BYTES = 2**19


def whole(task: Task, model: Any, part: str, predict: Predict | None) -> dict[str, float]:
    """Return each metric of `task` on all rows of a part."""
    x, y = tensors(task, part)
    if len(y) == 0:
        raise ScenarioError(f"evaluate(part={part!r}) of '{task.name}': this part of the data set is empty")
    chosen = [metric(name) for name in task.metrics]
    values = _row_values(chosen, model, x, y, predict)
    return {m.name: m.finish(float(values[m.rows].mean())) for m in chosen}


def personal(task: Task, models: Mapping[str, Any], part: str, predict: Predict | None) -> dict[str, float]:
    """Return `<metric>_mean`, `<metric>_p10` and `<metric>_worst` over the devices in `models`.

    Each device's model is evaluated on `personal_rows_of` it. `p10`: nine devices in ten do at least as well (where less is better this is the 90th
    percentile of the values).
    """
    values = by_device(task, models, part, predict)
    result: dict[str, float] = {}
    for m in [metric(name) for name in task.metrics]:
        series = np.array(list(values[m.name].values()))
        is_up = m.direction == "up"
        result[f"{m.name}_mean"] = float(series.mean())
        result[f"{m.name}_p10"] = float(np.quantile(series, 0.1 if is_up else 0.9))
        result[f"{m.name}_worst"] = float(series.min() if is_up else series.max())
    return result


def by_device(task: Task, models: Mapping[str, Any], part: str, predict: Predict | None) -> dict[str, dict[str, float]]:
    """Return each metric of each device's model on `personal_rows_of` it, by metric and device. A model that several devices share is run once."""
    if not models:
        raise ScenarioError(f"evaluate_personal(models={{}}) of '{task.name}': needs the model of at least one device")
    x, y = tensors(task, part)
    chosen = [metric(name) for name in task.metrics]
    sharing: dict[int, list[str]] = {}
    for device, model in models.items():
        sharing.setdefault(id(model), []).append(device)
    values: dict[str, dict[str, float]] = {m.name: {} for m in chosen}
    for devices in sharing.values():
        rows = [personal_rows_of(task, device, part) for device in devices]
        used, where = np.unique(np.concatenate(rows), return_inverse=True)
        at = torch.from_numpy(used)
        per_row = _row_values(chosen, models[devices[0]], map_inputs(lambda t, at=at: t.index_select(0, at), x), y.index_select(0, at), predict)
        starts = np.cumsum([0, *map(len, rows[:-1])])
        for m in chosen:
            means = np.add.reduceat(per_row[m.rows].numpy()[where], starts) / [len(r) for r in rows]
            values[m.name].update({device: m.finish(float(value)) for device, value in zip(devices, means, strict=True)})
    return values


def personal_rows_of(task: Task, device: str, part: str = "test") -> Rows:
    """Return the rows of a part that stand for a device's own distribution, ascending.

    If the device is a natural client that has rows in that part, these rows (at most `task.personal_rows`, drawn without replacement). Else rows with
    the label mix of its training rows: of each class c round(p_c m) random rows without replacement, m the largest number up to
    `task.personal_rows` for which no class runs out. Devices may share rows. For data without single labels: `task.personal_rows` random rows.
    """
    known = task._cache.get(("personal", device, part))
    if known is not None:
        return known
    _, y, natural = task.dataset.part(part)
    if len(y) == 0:
        raise ScenarioError(f"evaluate_personal(part={part!r}) of '{task.name}': this part of the data set is empty")
    rng = generator(task.seed, "personal", part, device)
    shard = task._shard(device)
    own = np.zeros(0, np.int64)
    if natural is not None and device in task.natural:
        own = np.flatnonzero(natural == task.natural[device])
    if len(own):
        rows = rng.permutation(own)[: task.personal_rows]
    elif task.dataset.kind != "classification" or y.ndim != 1:
        rows = rng.permutation(len(y))[: task.personal_rows]
    else:
        mix = np.bincount(task.dataset.y_train[shard], minlength=task.dataset.classes) / len(shard)
        available = np.bincount(y, minlength=task.dataset.classes)
        mix = np.where(available > 0, mix, 0.0)
        present = mix > 0
        if not present.any():
            raise ScenarioError(f"evaluate_personal(part={part!r}) of '{task.name}': none of the classes of '{device}' occurs in that part")
        total = min(float(task.personal_rows), float(np.min(available[present] / mix[present])))
        # At least one row of its main class: tiny parts may round every class to zero.
        count = np.minimum(np.rint(mix * total).astype(np.int64), available)
        count[mix.argmax()] = max(count[mix.argmax()], 1)
        rows = np.concatenate([rng.permutation(_class_rows(task, part)[c])[: count[c]] for c in np.flatnonzero(count)])
    rows = np.sort(rows).astype(np.int64)
    task._cache["personal", device, part] = rows
    return rows


def as_tensors(x: Any, dtype: torch.dtype) -> Any:
    """Return inputs in the number type of the model (token ids stay what they are), without a copy if they have it."""
    if isinstance(x, Mapping):
        return {key: as_tensors(array, dtype) for key, array in x.items()}
    with warnings.catch_warnings():
        # Arrays of a data set are read-only, and nothing in airloom writes into data.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(x)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def tensors(task: Task, part: str) -> tuple[Inputs, Tensor]:
    """Return the inputs of a part, for vertical learning as a dict of what each party sees, and the labels."""
    known = task._cache.get(("part", part))
    if known is None:
        x, y, _ = task.dataset.part(part)
        x = as_tensors(x, task.model.dtype)
        if task.columns:
            x = {device: columns_of(x, columns) for device, columns in task.columns.items()}
        known = task._cache["part", part] = x, as_tensors(y, task.model.dtype)
    return known


def columns_of(x: Inputs, columns: Rows) -> Tensor:
    """Return some columns of flattened inputs."""
    whole = cast(Tensor, x)
    return whole.reshape(len(whole), -1)[:, torch.from_numpy(np.asarray(columns, np.int64))].contiguous()


def check_model(task: Task) -> None:
    """Run the task's initial model on two rows and compare what comes out with what the data asks for."""
    x, y = tensors(task, "train")
    try:
        with runner(task.model.initial(0), None) as run:
            out = run(map_inputs(lambda t: t[:2], x))
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ScenarioError(
            f"Task '{task.name}': the model cannot take rows of shape {task.dataset.row_shape()} and type {first_tensor(x).dtype} of "
            f"'{task.dataset.name}' ({error}); choose a model for this data"
        ) from error
    wanted = tuple(y.shape[1:]) if task.dataset.kind == "regression" else (*y.shape[1:], task.dataset.classes)
    if tuple(out.shape[1:]) != wanted:
        raise ScenarioError(
            f"Task '{task.name}': the model's output per row has shape {tuple(out.shape[1:])}, the data ask for {wanted}; choose a model for it"
        )


@contextmanager
def runner(model: Any, predict: Predict | None) -> Iterator[Callable[[Any], Tensor]]:
    """Lend a function from inputs to outputs of a model, in evaluation mode and without gradients."""
    if predict is not None:
        with torch.inference_mode():
            yield lambda x: torch.as_tensor(predict(model, x))
        return
    if not isinstance(model, Params):
        raise ScenarioError(f"evaluate(model={type(model).__name__}): without `predict` it must be Params; give Method.predict for other models")
    # The skeleton is made and loaded outside inference mode: tensors born inside it could never be trained again.
    with model.spec.skeleton(model.flat.device) as skeleton, torch.no_grad():
        skeleton.load(model.flat)
        with torch.inference_mode():
            module = skeleton.module.eval()
            yield lambda x: module(map_inputs(lambda t: fitted(t, model.flat), x))


def fitted(x: Tensor, flat: Tensor) -> Tensor:
    """Return inputs on the torch device of the values, and in their number type unless they are token ids."""
    return x.to(flat.device, flat.dtype) if x.is_floating_point() else x.to(flat.device)


def _row_values(chosen: list[Metric], model: Any, x: Inputs, y: Tensor, predict: Predict | None) -> dict[Callable[..., Tensor], Tensor]:
    """Return float64 values per row, one vector for each different row function of the metrics."""
    functions = list(dict.fromkeys(m.rows for m in chosen))
    pieces: dict[Callable[..., Tensor], list[Tensor]] = {f: [] for f in functions}
    size = sum(t.numel() * t.element_size() for t in (x.values() if isinstance(x, dict) else [x]))
    chunk = max(32, CHUNK_BYTES * len(y) // max(size, 1))
    with runner(model, predict) as run:
        for start in range(0, len(y), chunk):
            out = run(map_inputs(lambda t, start=start: t[start : start + chunk], x))
            target = y[start : start + chunk].to(out.device)
            for f in functions:
                pieces[f].append(f(out, target).cpu())
    return {f: torch.cat(values).double() for f, values in pieces.items()}


def _class_rows(task: Task, part: str) -> list[Rows]:
    """Return the rows of each class of a part."""
    known = task._cache.get(("classes", part))
    if known is None:
        y = task.dataset.part(part)[1]
        order = np.argsort(y, kind="stable")
        known = np.split(order, np.cumsum(np.bincount(y, minlength=task.dataset.classes))[:-1])
        task._cache["classes", part] = known
    return known
