"""A plain eager torch loop."""

from __future__ import annotations

import numpy as np
import torch
from common import BATCH, LR, ROWS, STEPS, X, Y, loop
from torch import nn

torch.set_num_threads(1)
x, y = torch.from_numpy(X), torch.from_numpy(Y)
module = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
criterion = nn.CrossEntropyLoss()


def client(values: list[np.ndarray], r: int, k: int) -> list[np.ndarray]:
    """Local SGD of one client."""
    with torch.no_grad():
        for p, v in zip(module.parameters(), values, strict=True):
            p.copy_(torch.from_numpy(v))
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    rows = torch.from_numpy(ROWS[r, k].reshape(-1))
    xs, ys = x[rows].view(STEPS, BATCH, -1), y[rows].view(STEPS, BATCH)
    for s in range(STEPS):
        optimizer.zero_grad()
        criterion(module(xs[s]), ys[s]).backward()
        optimizer.step()
    return [p.detach().numpy() for p in module.parameters()]


if __name__ == "__main__":
    loop(client)
