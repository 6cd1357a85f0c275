"""Training calls of many devices as one: the same steps on stacked values [K, D], one tensor operation for all K.

    v_k <- update(v_k, clip(g_k(v_k)) + shift_k + mu (v_k - anchor_k))     for all k at once

Pays where an operation on one small model leaves the hardware idle: on a GPU. Sums may run in another order than alone, so results agree to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap  # pyright: ignore[reportPrivateImportUsage]

from airloom.models.batch import Batch
from airloom.models.device import Request, together
from airloom.models.fast import objective_key
from airloom.models.objective import total_loss
from airloom.models.price import shapes_of
from airloom.models.script import NotRecorded
from airloom.models.skeleton import Skeleton
from airloom.models.step import Raw, set_mode


@final
class NotStacked(Exception):
    """Calls that cannot run as one; the text says why."""


def key(request: Request) -> object:
    """What two calls must share to run as one.

    Raises
    ------
    NotStacked: the call is of a kind that runs alone.
    """
    spec, batches, o = request.x.spec, request.batches, request.options
    if o.only is not None:
        raise NotStacked("only a part of the values moves")
    if spec.size != spec.trainable_size or _draws(spec._source.template()):
        raise NotStacked("it has running statistics or random layers")
    try:
        objective, lifted = objective_key(o.objective)
    except NotRecorded as reason:
        raise NotStacked(str(reason)) from reason
    if lifted:
        raise NotStacked("the objective holds tensors")
    batch, rates = batches[0], tuple(o.rate(k) for k in range(batches.steps))
    shapes = (shapes_of(batch), batch.ids is None, batch.weight is None, batch.classes)
    return spec.form, shapes, objective, o.optimizer, rates, o.clip_norm, o.shift is None, None if o.prox is None else o.prox[0]


def _draws(module: nn.Module) -> bool:
    """Whether a module has layers that draw."""
    return any(isinstance(m, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d | nn.AlphaDropout) and m.p > 0 for m in module.modules())


def train_together(requests: Sequence[Request], device: torch.device) -> list[Raw]:
    """Run calls of one key as one on a device; results lie where the values came from.

    Raises
    ------
    NotStacked: an operation has no stacked form.
    """
    spec, first = requests[0].x.spec, requests[0].options
    steps, home = requests[0].batches.steps, requests[0].x.flat.device
    with spec.skeleton(device) as skeleton:
        set_mode(skeleton.module, True)
        gradient = _gradient(skeleton, requests[0])
        values = _stack([r.x for r in requests], device)
        shift = None if first.shift is None else _stack([r.options.shift for r in requests], device)
        mu, anchor = (0.0, None) if first.prox is None else (first.prox[0], _stack([r.options.prox and r.options.prox[1] for r in requests], device))
        state: dict[str, Any] = {}
        losses: list[Tensor] = []
        squares: list[Tensor] = []
        parts: dict[str, list[Tensor]] = {}
        for k in range(steps):
            batch = together([r.batches[k] for r in requests], device)
            try:
                g, (loss, found) = gradient(values, batch.x, batch.y, batch.ids, batch.weight)
            except Exception as error:  # of one call, or of all: each runs alone then, and fails by itself if it must
                raise NotStacked(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
            losses.append(loss)
            for name, part in found.items():
                parts.setdefault(name, []).append(part)
            square = g.square().sum(1)
            squares.append(square)
            if first.clip_norm is not None:
                g = g * (first.clip_norm / (square.sqrt() + 1e-6)).clamp(max=1.0)[:, None]
            if shift is not None:
                g = g + shift
            if anchor is not None:
                g = g + mu * (values - anchor)
            first.optimizer.update(values, g, state, first.rate(k), None)
    values, rows = values.to(home), [torch.stack(row).to(home) for row in (losses, squares, *parts.values())]
    return [
        Raw(values[i].clone(), rows[0][:, i], {name: row[:, i] for name, row in zip(parts, rows[2:], strict=True)}, rows[1][:, i])
        for i in range(len(requests))
    ]


def _gradient(skeleton: Skeleton, request: Request) -> Any:
    """The gradients [K, D] and losses [K] of stacked values and batches."""
    spec, objective, classes = request.x.spec, request.options.objective, request.batches.classes
    batch = request.batches[0]

    def loss(flat: Tensor, x: Any, y: Tensor, ids: Tensor | None, weight: Tensor | None) -> tuple[Tensor, tuple[Tensor, dict[str, Tensor]]]:
        named = {skeleton.names[leaf.name]: flat[leaf.offset : leaf.offset + leaf.size].view(leaf.shape) for leaf in spec.leaves}
        found = objective(functional_call(skeleton.module, named, (x,)), Batch(x, y, ids, weight, classes))
        total = total_loss(found)
        return total, (total, {} if isinstance(found, Tensor) else dict(found))

    single = grad_and_value(loss, has_aux=True)

    def step(*args: Any) -> tuple[Tensor, tuple[Tensor, dict[str, Tensor]]]:
        g, (_, found) = single(*args)
        return g, found

    return vmap(step, in_dims=(0, 0, 0, None if batch.ids is None else 0, None if batch.weight is None else 0), randomness="error")


def _stack(models: Sequence[Any], device: torch.device) -> Tensor:
    return torch.stack([model.flat for model in models]).to(device)
