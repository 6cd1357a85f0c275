"""The ladder of `train`: the eager loop, the replayed step, and what falls back to what.

A rung is chosen for a whole run, before its first call: which numbers come out depends on the rung, so never on what was fast a moment ago. On the
rung `replay` each training call runs a recorded script of its step (see `replay`). Plain gradient descent, also with a constant shift, a proximal
term or weight decay, updates the values inside of the script:

    p <- (1 - lr (mu + decay)) p - lr g(p) - lr (shift - mu anchor)

Everything else lets the script leave the gradient, and goes on as the eager loop does: the same numbers, bit for bit. On the rung `compile` the
script leaves the gradient too, compiled by Inductor (see `compiled`); where that fails it is replayed. On the rung `kernel` plain gradient descent on
chains of dense layers runs in compiled code (see `dense`), all else as on `replay`, with compiled products for narrow adapters (see `narrow`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import FunctionType
from typing import Any, final

import torch
from torch import Tensor

from airloom.errors import ScenarioError
from airloom.models import narrow
from airloom.models.batch import Batch, Batches, map_inputs
from airloom.models.compiled import compiled_step
from airloom.models.dense import NoKernel, dense_chain, dense_inputs, kernel, run_dense
from airloom.models.objective import Objective
from airloom.models.params import Params
from airloom.models.price import shapes_of
from airloom.models.replay import UpdateStep, gradient_step, update_step
from airloom.models.script import NotRecorded, batch_tensors, record
from airloom.models.skeleton import Skeleton
from airloom.models.step import SGD, Found, Moving, Options, Raw, finished, moving, run_training, training

RUNGS = ("auto", "off", "replay", "compile", "kernel")
_STEPS_AT_ONCE = 64  # steps whose factors are held before their norms are taken
_SCRIPTS_KEPT = 64  # of one skeleton
_TOLERANCE = 1e-3  # of the largest change of a value in one step; float32 steps differ by some 1e-6 of it


@final
class Fast:
    """A trainer on a rung; calls that cannot run there run as the eager loop does, and `fallbacks` says which and why.

    Arguments
    ---------
    name: of the rung; "auto" is "kernel" where this machine has one, else "replay".

    >>> Fast("replay").name, Fast("auto").name in ("replay", "kernel")
    ('replay', True)
    """

    def __init__(self, name: str) -> None:
        if name not in RUNGS:
            raise ScenarioError(f"fast={name!r}: allowed are {', '.join(RUNGS)}")
        if name in ("auto", "kernel"):
            try:
                kernel()
                narrow.library()
            except NoKernel as reason:
                if name == "kernel":
                    raise ScenarioError(f"fast='kernel': this machine has no kernel: {reason}; use auto, or replay") from reason
                name = "replay"
        self.name = "kernel" if name == "auto" else name
        self.fallbacks: dict[str, None] = {}

    def __call__(self, x: Params, batches: Batches, options: Options) -> Raw:
        with x.spec.skeleton(x.flat.device) as skeleton:
            if self.name == "off":
                return run_training(skeleton, x, batches, options)
            raw = _dense(skeleton, x, batches, options) if self.name == "kernel" else None
            if raw is not None:
                return raw
            for rung in ("compile", "replay") if self.name == "compile" else (self.name,):
                try:
                    return _replayed(skeleton, x, batches, options, rung)
                except NotRecorded as reason:
                    self.fallbacks[f"{x.spec.name}: {reason}"] = None
            return run_training(skeleton, x, batches, options)


OFF = Fast("off")


def _dense(skeleton: Skeleton, x: Params, batches: Batches, options: Options) -> Raw | None:
    """Run a training call in the compiled kernel; None if it does not fit."""
    if options.only is not None or not _updates_in_place(options, None):
        return None
    key = ("dense", options.objective)
    try:
        if key not in skeleton.scripts:
            skeleton.scripts[key] = dense_chain(skeleton, options.objective)
    except TypeError:  # an objective without a hash is none that the kernel knows
        return None
    chain: Any = skeleton.scripts[key]
    if chain is None:
        return None
    data = dense_inputs(batches, chain[0][0])
    if data is None:
        return None
    decay, mu, constant = _pulls(skeleton, options, 0, x.spec.trainable_size)
    rates = [options.rate(k) for k in range(batches.steps)]
    values = x.flat.clone()  # a chain of dense layers lies in the skeleton as in the vector, and draws nothing
    found = run_dense(chain, values, data, [1.0 - lr * (mu + decay) for lr in rates], [-lr for lr in rates], constant)
    return None if found is None else Raw(values, found[0], {}, found[1])


def _pulls(skeleton: Skeleton, options: Options, start: int, stop: int) -> tuple[float, float, Tensor | None]:
    """Return weight decay, mu, and the constant part of the gradient, shift - mu anchor."""
    constant, mu = None, 0.0
    if options.shift is not None:
        constant = skeleton.arranged(options.shift.flat)[start:stop]
    if options.prox is not None:
        mu = options.prox[0]
        pull = skeleton.arranged(options.prox[1].flat)[start:stop] * -mu
        constant = pull if constant is None else pull.add_(constant)
    return options.optimizer.weight_decay if isinstance(options.optimizer, SGD) else 0.0, mu, constant


@final
@dataclass(frozen=True, slots=True)
class _Kept:
    """What a skeleton keeps for one kind of call, or why it keeps nothing.

    `names`: of the losses. `once`: see `Script`. One of `updates`, `gradients` and `compiled` runs a step.
    """

    reason: str = ""
    names: tuple[str, ...] = ()
    once: tuple[tuple[Tensor, int], ...] = ()
    updates: UpdateStep | None = None
    gradients: Callable[..., Any] | None = None
    compiled: Callable[..., Any] | None = None


def _replayed(skeleton: Skeleton, x: Params, batches: Batches, options: Options, rung: str) -> Raw:
    """Run a training call on its script; NotRecorded if it has none."""
    key, lifted = objective_key(options.objective)
    only = None if options.only is None else moving(x.spec, options.only)
    is_update = rung != "compile" and _updates_in_place(options, only)
    first = batches[0]
    whole = (rung, is_update, shapes_of(first), first.ids is None, first.classes, options.only, key)
    kept = skeleton.scripts.get(whole)
    if not isinstance(kept, _Kept):
        if len(skeleton.scripts) >= _SCRIPTS_KEPT:
            skeleton.scripts.clear()
        kept = skeleton.scripts[whole] = _make(skeleton, x, batches, options, only, lifted, rung=rung, is_update=is_update)
    if kept.reason:
        raise NotRecorded(kept.reason)
    return _run(kept, skeleton, x, batches, options, only, lifted)


def _make(
    skeleton: Skeleton,
    x: Params,
    batches: Batches,
    options: Options,
    only: Moving | None,
    lifted: Sequence[Tensor],
    *,
    rung: str,
    is_update: bool,
) -> _Kept:
    """Record a step, and compare it with the loop on another batch."""
    first, other = _own(batches[0]), _own(batches[batches.steps - 1])
    leaves = [name for name in skeleton.parameters if only is None or name in only.leaves]
    want = run_training(skeleton, x, [other], options)  # before the recording, so that what modules set up at first is there
    try:
        with training(skeleton, x, options, only):
            script = record(skeleton, first, lifted, options.objective, leaves)
        names, once = tuple(script.parts), tuple(script.once)
        if is_update:
            kept = _Kept("", names, once, updates=update_step(script, skeleton, is_kernel=rung == "kernel"))
        elif rung == "compile":
            kept = _Kept("", names, once, compiled=compiled_step(script, skeleton, [*batch_tensors(first), *lifted]))
        else:
            kept = _Kept("", names, once, gradients=gradient_step(script, skeleton))
        got = _run(kept, skeleton, x, [other], options, only, lifted)
        change = float((want.values - x.flat).abs().max())
        gap = _gap(want.values, got.values)
        if not gap <= _TOLERANCE * change + torch.finfo(x.flat.dtype).eps * float(x.flat.abs().max()):
            raise NotRecorded(f"the recorded step differs from the loop by {gap:.1e} where values change by {change:.1e}")
    except NotRecorded as reason:
        return _Kept(str(reason))
    except Exception as error:  # whatever a module does in its own way, the loop can do
        return _Kept(f"{type(error).__name__}: {error}")
    return kept


def _gap(want: Tensor, got: Tensor) -> float:
    """Largest difference but for one value in a hundred: a unit whose sign another rounding turns moves some weights of its own."""
    gaps = (want - got).abs()
    return float(gaps.kthvalue(max(1, int(0.99 * gaps.numel()))).values)


def _own(batch: Batch) -> Batch:
    """A copy that shares no memory and has no gaps."""

    def copied(t: Tensor) -> Tensor:
        return t.clone(memory_format=torch.contiguous_format)

    ids, weight = (None if t is None else copied(t) for t in (batch.ids, batch.weight))
    return Batch(map_inputs(copied, batch.x), copied(batch.y), ids, weight, batch.classes)


def _updates_in_place(options: Options, only: Moving | None) -> bool:
    optimizer = options.optimizer
    is_plain = isinstance(optimizer, SGD) and not optimizer.momentum
    return is_plain and options.clip_norm is None and (only is None or only.mask is None)


def _run(
    kept: _Kept, skeleton: Skeleton, x: Params, batches: Iterable[Batch], options: Options, only: Moving | None, lifted: Sequence[Tensor]
) -> Raw:
    for constant, k in kept.once:
        constant.copy_(lifted[k])
    step = kept.gradients or kept.compiled
    if step is not None:

        def gradient(batch: Batch) -> Found:
            with torch.inference_mode(kept.gradients is not None):
                loss, *parts = step(*batch_tensors(batch), *lifted)
            return Found(loss, dict(zip(kept.names, parts, strict=True)))

        return run_training(skeleton, x, batches, options, gradient)
    assert kept.updates is not None
    with training(skeleton, x, options, only), torch.inference_mode():
        losses, parts, squares = _updated(kept.updates, kept.names, skeleton, x, batches, options, only, lifted)
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
    decay, mu, constant = _pulls(skeleton, options, start, stop)
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


def objective_key(objective: Objective) -> tuple[object, list[Tensor]]:
    """Return what a script depends on besides shapes, and the tensors inside of the objective: inputs of the script.

    Raises
    ------
    NotRecorded: the objective holds what cannot be compared, so that a script of it might be stale.
    """
    lifted: list[Tensor] = []
    return _keyed(objective, lifted), lifted


def _keyed(value: Any, lifted: list[Tensor]) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return type(value), value
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
    if isinstance(value, FunctionType) and value.__closure__ is None:  # by its code: a text may make it anew in each call
        return value.__code__, value.__module__, _keyed(value.__defaults__, lifted), _keyed(tuple((value.__kwdefaults__ or {}).items()), lifted)
    raise NotRecorded(
        f"the objective holds a {type(value).__name__}; allowed: frozen dataclasses of numbers, text, tensors and Params, plain functions"
    )
