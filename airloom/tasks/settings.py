"""Settings of a task as a scenario writes them down, and the task made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airloom.clock.rng import generator
from airloom.errors import ScenarioError
from airloom.models import zoo
from airloom.models.module import ModelSpec
from airloom.models.objective import Objective
from airloom.tasks import partition as deal
from airloom.tasks.datasets import Dataset, carve, load
from airloom.tasks.stream import Stream
from airloom.tasks.task import Task

PARTITIONS = (
    "iid", "dirichlet", "balanced_dirichlet", "shards", "exdir", "quantity_skew", "natural", "two_level", "resample", "vertical",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSettings:
    """Which data, and how they are dealt to the devices. Fields that a partition does not read are ignored by it.

    Parameters
    ----------
    dataset : a name of `airloom.tasks.datasets.names()`.
    data : folder with the data files; None reads AIRLOOM_DATA (digits needs neither).
    limit : at most so many rows of each part of the data set.
    partition : "iid", "dirichlet", "balanced_dirichlet", "shards", "exdir", "quantity_skew", "natural", "two_level", "resample" or "vertical".
    alpha : Dirichlet concentration of dirichlet, balanced_dirichlet, exdir, resample, and of the clients in two_level; > 0.
    group_alpha : concentration of the groups in two_level, > 0.
    iid_level : two_level: "" (both levels skewed), "groups" or "clients" (that level is iid).
    minimum : rows that every device has at least.
    classes_per_client : shards per device in shards, classes per device in exdir.
    law, spread : quantity_skew: "lognormal" or "zipf", and its spread.
    samples : rows per device in resample.
    public : share of the training rows that becomes the public pool, 0..0.9; taken before the rest is dealt out, stratified by class.
    validation_share : share of each device's rows kept apart as its own validation part, 0..0.5.
    stream : how rows arrive in time, or None.
    personal_rows : most rows of a device's personal test part.

    Examples
    --------
    >>> TaskSettings(dataset="digits", alpha=0.1).partition
    'dirichlet'
    """

    dataset: str = "digits"
    data: str | None = None
    limit: int | None = None
    partition: str = "dirichlet"
    alpha: float = 0.3
    group_alpha: float = 0.3
    iid_level: str = ""
    minimum: int = 8
    classes_per_client: int = 2
    law: str = "lognormal"
    spread: float = 1.0
    samples: int = 32
    public: float = 0.0
    validation_share: float = 0.0
    stream: Stream | None = None
    personal_rows: int = 256

    def __post_init__(self) -> None:
        if self.partition not in PARTITIONS:
            raise ScenarioError(f"TaskSettings(partition={self.partition!r}): allowed are {', '.join(PARTITIONS)}")
        if self.iid_level not in ("", "groups", "clients"):
            raise ScenarioError(f"TaskSettings(iid_level={self.iid_level!r}): allowed are '', 'groups' and 'clients'")
        if not 0 <= self.public <= 0.9:
            raise ScenarioError(f"TaskSettings(public={self.public}): must be a share 0..0.9")


def make_task(
    settings: TaskSettings,
    device_names: Sequence[str],
    seed: int,
    *,
    model: ModelSpec | None = None,
    objective: Objective | None = None,
    groups: Sequence[int] | None = None,
    dataset: Dataset | None = None,
) -> Task:
    """Load the data, deal them to the devices, and return the task.

    Parameters
    ----------
    settings : what and how.
    device_names : devices that hold data, in the order of the partition.
    seed : seed of the world: the partition, streams, personal test parts.
    model : the model to train; None takes `default_model` of the data. With "vertical" it takes a dict from device to columns; the default model,
        which takes whole rows, is then not checked.
    objective : None for the usual one of the kind of data.
    groups : two_level only: clients per group, in the order of the devices.
    dataset : data of your own instead of `settings.dataset`.

    Raises
    ------
    ScenarioError : data that are not there, a partition that cannot exist, a model that does not fit the data.

    Examples
    --------
    >>> task = make_task(TaskSettings(), [f"phone{i}" for i in range(20)], seed=0)
    >>> sum(len(task.data(name)) for name in task.shards)
    1257
    """
    names = list(device_names)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ScenarioError(f"make_task(device_names): '{twice}' occurs twice; names must differ")
    if not names:
        raise ScenarioError("make_task(device_names=[]): at least one device must hold data")
    data = load(settings.dataset, settings.data, limit=settings.limit) if dataset is None else dataset
    rows, public = _public(data, settings.public, seed)
    columns: dict[str, NDArray[np.int64]] = {}
    natural: dict[str, Any] = {}
    if settings.partition == "vertical":
        if isinstance(data.x_train, Mapping):
            raise ScenarioError(f"TaskSettings(partition='vertical'): '{data.name}' has modalities; columns are cut from inputs of one array")
        width = int(np.prod(data.x_train.shape[1:]))
        columns = dict(zip(names, deal.feature_blocks(width, len(names)), strict=True))
        parts = [np.arange(len(rows))] * len(names)
    elif settings.partition == "natural":
        pairs = _natural(data, rows, settings, len(names), seed)
        natural = {name: client for name, (client, _) in zip(names, pairs, strict=True)}
        parts = [part for _, part in pairs]
    else:
        parts = _dealt(data, rows, settings, len(names), groups, seed)
    task = Task(
        name=data.name,
        dataset=data,
        model=default_model(data) if model is None else model,
        objective=objective,  # type: ignore[arg-type]  # None: the usual one
        shards={name: rows[part] for name, part in zip(names, parts, strict=True)},
        public_rows=public,
        columns=columns,
        validation_share=settings.validation_share,
        stream=settings.stream,
        natural=natural,
        personal_rows=settings.personal_rows,
        seed=seed,
        settings={**asdict(settings), "dataset": data.name},
    )
    if settings.partition != "vertical" or model is not None:
        task.check()
    return task


def _public(data: Dataset, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (rows to deal out, rows of the public pool)."""
    n = len(data.y_train)
    if share == 0:
        return np.arange(n), np.zeros(0, np.int64)
    strata = data.y_train if data.kind == "classification" else np.zeros(n, np.int64)
    return carve(strata, max(1, round(share * n)), generator(seed, "public"))


def _natural(data: Dataset, rows: NDArray[np.int64], settings: TaskSettings, clients: int, seed: int) -> list[tuple[object, NDArray[np.int64]]]:
    """Return as many natural clients as there are devices."""
    if data.natural is None:
        raise ScenarioError(
            f"TaskSettings(partition='natural'): '{data.name}' has no natural clients; use mnist_writers, har or shakespeare, or another partition"
        )
    return deal.natural_named(data.natural[rows], minimum=settings.minimum, clients=clients, seed=seed)


def _dealt(data: Dataset, rows: NDArray[np.int64], s: TaskSettings, clients: int, groups: Sequence[int] | None, seed: int) -> list[NDArray[np.int64]]:
    """Return positions in `rows` for each client."""
    if s.partition == "iid":
        return deal.iid(len(rows), clients, seed=seed)
    if s.partition == "quantity_skew":
        return deal.quantity_skew(len(rows), clients, law=s.law, spread=s.spread, minimum=s.minimum, seed=seed)
    if data.kind != "classification":
        raise ScenarioError(
            f"TaskSettings(partition={s.partition!r}): '{data.name}' is {data.kind}, without one label per row; use iid, natural or quantity_skew"
        )
    y = data.y_train[rows]
    if s.partition == "dirichlet":
        return deal.dirichlet(y, clients, alpha=s.alpha, minimum=s.minimum, seed=seed)
    if s.partition == "balanced_dirichlet":
        return deal.balanced_dirichlet(y, clients, alpha=s.alpha, minimum=s.minimum, seed=seed)
    if s.partition == "shards":
        return deal.shards(y, clients, per_client=s.classes_per_client, seed=seed)
    if s.partition == "exdir":
        return deal.exdir(y, clients, classes=s.classes_per_client, alpha=s.alpha, minimum=s.minimum, seed=seed)
    if s.partition == "resample":
        return deal.resample(y, clients, samples=s.samples, alpha=s.alpha, seed=seed)
    if groups is None or sum(groups) != clients:
        raise ScenarioError(f"TaskSettings(partition='two_level'): groups={groups} must list the clients of each group; their sum must be {clients}")
    return deal.two_level(
        y,
        groups,
        group_alpha=None if s.iid_level == "groups" else s.group_alpha,
        client_alpha=None if s.iid_level == "clients" else s.alpha,
        minimum=s.minimum,
        seed=seed,
    )


def default_model(data: Dataset) -> ModelSpec:
    """Return the model that a data set is trained with unless the scenario names one.

    Small images such as digits, and flat rows: an MLP with two layers of 464 (digits: 250,570 values, 1.0 MB, so that radio time weighs as it does
    for small real models). Square images from 16 pixels on: the zoo's CNN. Text: an LSTM with one layer of 256. Signals: an MLP on the flat window.

    >>> from airloom.tasks.datasets import load
    >>> default_model(load("digits")).size
    250570
    """
    if isinstance(data.x_train, Mapping):
        raise ScenarioError(f"default_model('{data.name}'): there is none for inputs of several modalities; give the model that takes them")
    shape = data.x_train.shape[1:]
    if data.kind == "next_token":
        return zoo.lstm(vocabulary=data.classes, hidden=(256,))
    if data.x_train.dtype.kind == "i":
        vocabulary = 1 + max(int(x.max(initial=0)) for x in (data.x_train, data.x_validation, data.x_test))
        return zoo.text_classifier(vocabulary=vocabulary, context=shape[0], classes=data.classes)
    outputs = data.classes or data.y_train[0].size
    if len(shape) == 3 and shape[1] == shape[2] and shape[1] >= 16:
        return zoo.cnn(channels=shape[0], size=shape[1], classes=outputs)
    return zoo.mlp(inputs=int(np.prod(shape)), hidden=(464, 464), classes=outputs)
