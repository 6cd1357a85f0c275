"""Training a part of a model's width: what HeteroFL, FedRolex and WHALE-FL share. Slices go down, the rows of own labels come back.

    sub = cut(x, p, start=0)                      # at the server: ceil(p n) of every layer's n neurons or channels
    answer = fit_slice(here, sub, ...)            # at the device: {"x": what it trained, "F": mean square of the gradient}
    x = server.reduce(answers, over=counted_mean(into=x))

Paper: Diao, Ding, Tarokh, "HeteroFL: Computation and Communication Efficient Federated Learning for Heterogeneous Clients", ICLR 2021,
arXiv 2010.01264: nested slices, scaler, masked cross-entropy.
Left out: static batch normalization (the models that ship have none). Ours: a model without width axes has one size, the whole.
"""

from __future__ import annotations

from typing import Any

from airloom.models.objective import MaskedCrossEntropy
from airloom.models.params import Params
from airloom.models.submodel import rows, width
from airloom.program.here import Here
from airloom.program.node import Node

CLASSIFIER = "classifier"  # the component whose rows are labels


def cut(x: Params, p: float, *, start: int = 0, is_scaled: bool = True) -> Params:
    """The slice of width p of every layer, from neuron or channel `start` on; `is_scaled`: layers of narrow slices are louder while they train."""
    return x[width(p, start=start, is_scaled=is_scaled)] if x.spec.width_axes else x


def own_labels(here: Here, x: Params) -> tuple[int, ...] | None:
    """The labels that a device has rows of; None where the model has no classifier or a sample more than one label."""
    if CLASSIFIER not in x.spec or here.peek(1).y.dim() != 1:
        return None
    return tuple(int(c) for c in here.data.counts.nonzero()[0])


def fit_slice(here: Here, x: Params, *, steps: int, lr: float, batch_size: int, clip_norm: float | None, is_masked: bool) -> dict[str, Any]:
    """Train a slice; return it without the classifier's rows of labels that are not here, and F = mean of g^2 over steps and values / batch size.

    Arguments:
        clip_norm: largest norm of a gradient (1, authors' code of WHALE-FL); F is taken before clipping.
        is_masked: whether the logits of other labels are set to zero, so that their rows do not move.
    """
    own = own_labels(here, x) if is_masked else None
    objective = None if own is None else MaskedCrossEntropy(labels=own)
    y = here.train(x, steps=steps, lr=lr, batch_size=batch_size, clip_norm=clip_norm, objective=objective)
    F = here.log.grad_square / (x.spec.trainable_size * batch_size)
    return {"x": y if own is None else y[rows(CLASSIFIER, own)], "F": F}


def whole_seconds(server: Node, fn: Any, x: Params, *args: Any) -> dict[str, float]:
    """What a round of the whole model costs each client that is there."""
    return {n: round_seconds(server, fn, n, x, *args) for n in server.clients}


def round_seconds(server: Node, fn: Any, n: str, x: Params, *args: Any) -> float:
    """Seconds of download, compute and upload of `fn` with a slice at a client, if all of its cell are served at once; planners see no latency."""
    price, seen = server.estimate(fn, n, x, *args), server.network
    return 8 * price.bytes_down / seen.down_bps[n] + price.seconds + 8 * price.bytes_up / seen.up_bps[n]
