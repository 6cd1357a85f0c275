"""FedJAX: its `for_each_client` (the jit backend) with the same batches; names that newer JAX removed are put back for it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

for name in ("tree_map", "tree_leaves", "tree_flatten", "tree_unflatten", "tree_structure"):
    if name not in vars(jax):
        setattr(jax, name, getattr(jax.tree_util, name))
if "tree_multimap" not in vars(jax):
    jax.tree_multimap = jax.tree_util.tree_map

import fedjax  # noqa: E402
from common import CLIENTS, LR, ROUNDS, ROWS, START, STEPS, Report, X, Y  # noqa: E402


def loss(p, batch):
    """Cross entropy of the two-layer network."""
    z = jax.nn.relu(batch["x"] @ p[0].T + p[1]) @ p[2].T + p[3]
    return -jnp.take_along_axis(jax.nn.log_softmax(z), batch["y"][:, None], axis=1).mean()


def step(p, batch):
    """One step of local SGD."""
    return [a - LR * b for a, b in zip(p, jax.grad(loss)(p, batch), strict=True)]


def main() -> None:
    """Run the rounds."""
    each = fedjax.for_each_client(client_init=lambda shared, own: shared, client_step=step, client_final=lambda shared, p: p)
    report, values = Report(), START
    for r in range(ROUNDS):
        clients = []
        for k in range(CLIENTS):
            rows = ROWS[r, k]
            clients.append((str(k).encode(), [{"x": X[rows[s]], "y": Y[rows[s]]} for s in range(STEPS)], None))
        sums = [np.zeros(v.shape, np.float64) for v in values]
        for _, new in each(values, clients):
            for total, v in zip(sums, new, strict=True):
                total += np.asarray(v)
        values = [(total / CLIENTS).astype(np.float32) for total in sums]
        report.round()
    report.end(values, "with names restored that JAX removed")


if __name__ == "__main__":
    main()
