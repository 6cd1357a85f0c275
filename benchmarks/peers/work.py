"""The work: 60,000 noisy pictures, 100 clients, ten steps of 32 rows each; made once from airloom's own draws and initial weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from airloom.models import zoo
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.datasets import Dataset
from airloom.tasks.task import Task

STEPS, BATCH, LR, SEED = 10, 32, 0.05, 0


def pictures(clients: int) -> Task:
    """Ten noisy patterns of 784 pixels, dealt by Dirichlet(0.3), for an MLP 784-128-10."""
    rng = np.random.default_rng(SEED)
    y = rng.integers(0, 10, 600 * clients)
    x = (rng.standard_normal((10, 784))[y] + rng.standard_normal((len(y), 784))).astype(np.float32)
    some = slice(0, 100)
    data = Dataset(
        name="pictures", x_train=x, y_train=y, x_validation=x[some], y_validation=y[some], x_test=x[some], y_test=y[some], classes=10,
        kind="classification", source="ten noisy patterns",
    )  # fmt: skip
    names = [f"client{i}" for i in range(clients)]
    settings = TaskSettings(partition="dirichlet", alpha=0.3, minimum=32)
    return make_task(settings, names, SEED, model=zoo.mlp(inputs=784, hidden=(128,), classes=10), dataset=data)


def write(path: Path, clients: int, rounds: int) -> None:
    """Write rows, data and initial weights for the peers."""
    task = pictures(clients)
    per = STEPS * BATCH
    rows = np.array([[task.sample_ids(name, r * per, per, SEED).reshape(STEPS, BATCH) for name in task.shards] for r in range(rounds)])
    w0, b0, w1, b1 = (tensor.numpy() for tensor in task.model.initial(SEED).named().values())
    np.savez(path, x=task.dataset.x_train, y=task.dataset.y_train, rows=rows, w0=w0, b0=b0, w1=w1, b1=b1, lr=LR)
