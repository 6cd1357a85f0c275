"""The ladder of `train`: the eager loop, the replayed step, and what falls back to what.

A rung is chosen for a whole run, before its first call: which numbers come out depends on the rung, so never on what was fast a moment ago. On the
rung `replay` each training call runs a recorded script of its step (see `replay`). Plain gradient descent, also with a constant shift, a proximal
term or weight decay, updates the values inside of the script:

    p <- (1 - lr (mu + decay)) p - lr g(p) - lr (shift - mu anchor)

Everything else lets the script leave the gradient, and goes on as the eager loop does: the same numbers, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import FunctionType
from typing import Any, final

import torch
from torch import Tensor

from airloom.errors import ScenarioError
from airloom.models.batch import Batch, Batches, map_inputs
from airloom.models.objective import Objective
from airloom.models.params import Params
from airloom.models.price import shapes_of
from airloom.models.replay import NotRecorded, Script, UpdateStep, batch_tensors, gradient_step, record, update_step
from airloom.models.skeleton import Skeleton
from airloom.models.step import SGD, Found, Moving, Options, Raw, finished, moving, run_training, training

RUNGS = ("auto", "off", "replay")
_STEPS_AT_ONCE = 64  # steps whose factors are held before their norms are taken
_TOLERANCE = 1e-3  # of the largest change of a value in one step; float32 steps differ by some 1e-6 of it


@final
class Fast:
    """A trainer on a rung; calls that cannot run there run as the eager loop does, and `fallbacks` says which and why.

    >>> Fast("auto").name
    'replay'
    """

    def __init__(self, name: str) -> None:
        if name not in RUNGS:
            raise ScenarioError(f"fast={name!r}: allowed are {', '.join(RUNGS)}")
        self.name = "replay" if name == "auto" else name
        self.fallbacks: dict[str, None] = {}

    def __call__(self, x: Params, batches: Batches, options: Options) -> Raw:
        with x.spec.skeleton(x.flat.device) as skeleton:
            if self.name != "off":
                try:
                    return _replayed(skeleton, x, batches, options)
                except NotRecorded as reason:
                    self.fallbacks[f"{x.spec.name}: {reason}"] = None
            return run_training(skeleton, x, batches, options)


OFF = Fast("off")


@final
@dataclass(slots=True)
class _Kept:
    """What a skeleton keeps for one kind of call: its script and the functions made of it, or why there is none."""

    script: Script | None
    reason: str
    updates: UpdateStep | None = None
    gradients: Any = None


def _replayed(skeleton: Skeleton, x: Params, batches: Batches, options: Options) -> Raw:
    """Run a training call on its script; NotRecorded if it has none."""
    key, lifted = _objective_key(options.objective)
    only = None if options.only is None else moving(x.spec, options.only)
    is_update = _updates_in_place(options, only)
    first = batches[0]
    whole = (is_update, shapes_of(first), first.ids is None, first.classes, options.only, key)
    kept = skeleton.scripts.get(whole)
    if not isinstance(kept, _Kept):
        kept = skeleton.scripts[whole] = _make(skeleton, x, batches, options, only, lifted, is_update)
    if kept.script is None:
        raise NotRecorded(kept.reason)
    return _run(kept, skeleton, x, batches, options, only, lifted)


def _make(skeleton: Skeleton, x: Params, batches: Batches, options: Options, only: Moving | None, lifted: Sequence[Tensor], is_update: bool) -> _Kept:
    """Record a step, and compare it with the loop on another batch."""
    first, other = _own(batches[0]), _own(batches[batches.steps - 1])
    leaves = [name for name in skeleton.parameters if only is None or name in only.leaves]
    want = run_training(skeleton, x, [other], options)  # before the recording, so that what modules set up at first is there
    try:
        with training(skeleton, x, options, only):
            script = record(skeleton, first, lifted, options.objective, leaves)
        kept = _Kept(script, "")
        if is_update:
            kept.updates = update_step(script, skeleton)
        else:
            kept.gradients = gradient_step(script, skeleton)
        got = _run(kept, skeleton, x, [other], options, only, lifted)
        change = float((want.values - x.flat).abs().max())
        gap = float((want.values - got.values).abs().max())
        if not gap <= _TOLERANCE * change + torch.finfo(x.flat.dtype).eps * float(x.flat.abs().max()):
            raise NotRecorded(f"the recorded step differs from the loop by {gap:.1e} where values change by {change:.1e}")
    except NotRecorded as reason:
        return _Kept(None, str(reason))
    except Exception as error:  # whatever a module does in its own way, the loop can do
        return _Kept(None, f"{type(error).__name__}: {error}")
    return kept


def _own(batch: Batch) -> Batch:
    """A copy that shares no memory."""
    ids, weight = (None if t is None else t.clone() for t in (batch.ids, batch.weight))
    return Batch(map_inputs(lambda t: t.clone(), batch.x), batch.y.clone(), ids, weight, batch.classes)


def _updates_in_place(options: Options, only: Moving | None) -> bool:
    optimizer = options.optimizer
    is_plain = isinstance(optimizer, SGD) and not optimizer.momentum
    return is_plain and options.clip_norm is None and (only is None or only.mask is None)


def _run(
    kept: _Kept, skeleton: Skeleton, x: Params, batches: Iterable[Batch], options: Options, only: Moving | None, lifted: Sequence[Tensor]
) -> Raw:
    assert kept.script is not None
    names = list(kept.script.parts)
    if kept.updates is None:
        step = kept.gradients

        def gradient(batch: Batch) -> Found:
            with torch.inference_mode():
                loss, *parts = step(*batch_tensors(batch), *lifted)
            return Found(loss, dict(zip(names, parts, strict=True)))

        return run_training(skeleton, x, batches, options, gradient)
    with training(skeleton, x, options, only), torch.inference_mode():
        losses, parts, squares = _updated(kept.updates, names, skeleton, x, batches, options, only, lifted)
    return Raw(finished(skeleton, x, only), losses, parts, squares)


def _updated(
    step: UpdateStep,
    names: Sequence[str],
    skeleton: Skeleton,
    x: Params,
    batches: Iterable[Batch],
    options: Options,
    only: Moving | None,
    lifted: Sequence[Tensor],
) -> tuple[list[Tensor], dict[str, list[Tensor]], list[Tensor]]:
    """Run the steps that update in place."""
    start, stop = (0, x.spec.trainable_size) if only is None else (only.start, only.stop)
    values = skeleton.values[start:stop]
    decay = options.optimizer.weight_decay if isinstance(options.optimizer, SGD) else 0.0
    constant, mu = None, 0.0
    if options.shift is not None:
        constant = skeleton.arranged(options.shift.flat)[start:stop]
    if options.prox is not None:
        mu = options.prox[0]
        pull = skeleton.arranged(options.prox[1].flat)[start:stop] * -mu
        constant = pull if constant is None else pull.add_(constant)
    losses: list[Tensor] = []
    squares: list[Tensor] = []
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    rows: list[tuple[Tensor, ...]] = []
    run, heads = step.run, 1 + len(names)
    for k, batch in enumerate(batches):
        lr = options.rate(k)
        out = run(*batch_tensors(batch), *lifted, 1.0 - lr * (mu + decay), -lr)
        if constant is not None:
            values.add_(constant, alpha=-lr)
        losses.append(out[0])
        for name, part in zip(names, out[1:], strict=False):
            parts[name].append(part)
        rows.append(out[heads:])
        if len(rows) == _STEPS_AT_ONCE:
            squares += _squares(rows, step.biased)
            rows.clear()
    return losses, parts, squares + (_squares(rows, step.biased) if rows else [])


def _squares(rows: Sequence[tuple[Tensor, ...]], biased: Sequence[bool]) -> list[Tensor]:
    """Squared norms of the gradients of some steps: |dz' h|^2 = sum of (dz dz') (h h'), and with the bias (dz dz') (h h' + 1)."""
    columns = list(zip(*rows, strict=True))
    total: Tensor | None = None
    for i, has_bias in enumerate(biased):
        dz_SKO, h_SKI = torch.stack(columns[2 * i]), torch.stack(columns[2 * i + 1])
        gram_SKK = torch.bmm(h_SKI, h_SKI.mT)
        if has_bias:
            gram_SKK += 1.0
        square_S = gram_SKK.mul_(torch.bmm(dz_SKO, dz_SKO.mT)).sum((1, 2))
        total = square_S if total is None else total.add_(square_S)
    for column in columns[2 * len(biased) :]:
        total = torch.stack(column) if total is None else total.add_(torch.stack(column))
    return list(columns[0][0].new_zeros(len(rows)) if total is None else total) if columns else [torch.zeros(())] * len(rows)


# ---- what a script depends on


def _objective_key(objective: Objective) -> tuple[object, list[Tensor]]:
    """Return what a script depends on besides shapes, and the tensors inside of the objective: inputs of the script.

    Raises
    ------
    NotRecorded: the objective holds what cannot be compared, so that a script of it might be stale.
    """
    lifted: list[Tensor] = []
    return _keyed(objective, lifted), lifted


def _keyed(value: Any, lifted: list[Tensor]) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Params | Tensor):
        tensor, form = (value.flat, value.spec.form) if isinstance(value, Params) else (value, "")
        known = next((i for i, t in enumerate(lifted) if t is tensor), len(lifted))
        if known == len(lifted):
            lifted.append(tensor)
        return "tensor", known, form, tuple(tensor.shape), tensor.dtype
    if isinstance(value, tuple):
        return tuple(_keyed(v, lifted) for v in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value), tuple(_keyed(getattr(value, f.name), lifted) for f in fields(value))
    if isinstance(value, FunctionType) and value.__closure__ is None:
        return value
    raise NotRecorded(
        f"the objective holds a {type(value).__name__}; allowed: frozen dataclasses of numbers, text, tensors and Params, plain functions"
    )
