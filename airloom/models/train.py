"""Training and evaluating values: `train`, `grad`, `loss`, `forward`, `vjp`.

Each takes the values first and returns new ones. On meta values (or a meta batch) nothing is computed: results have the right shapes, numbers are
0-dim meta tensors (so that branching on them raises), and the price is the same as in a real run. A `Cost` given as `cost` is charged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from airloom.errors import ScenarioError
from airloom.models.batch import Batch, Batches, Inputs, first_tensor, map_inputs
from airloom.models.objective import CrossEntropy, Objective
from airloom.models.params import Params
from airloom.models.price import Cost, Price, forward_price, gradient_price, is_measuring, kept_price, loss_price, step_price, vjp_price
from airloom.models.step import SGD, AdamW, Optimizer, Options, Rate, Raw, run_forward, run_gradient, run_loss, run_training
from airloom.models.submodel import Submodel
from airloom.models.tape import Tape, run_kept, run_vjp

__all__ = ["SGD", "AdamW", "Optimizer", "Tape", "TrainLog", "Trainer", "forward", "grad", "loss", "train", "vjp"]

Side: TypeAlias = Literal["params", "inputs"]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TrainLog:
    """What training says about itself.

    `loss`: mean over steps (nan for none). `loss_by`: the same per part, where the objective returns a dict. `grad_square`: mean over steps of the
    squared norm of the raw gradient, before clipping and corrections, over the coordinates that move. `steps`, `samples`: counts.
    """

    loss: float
    loss_by: dict[str, float] = field(default_factory=dict)
    grad_square: float
    steps: int
    samples: int


class Trainer(Protocol):
    """The socket for faster ways to run the same training steps; `eager` is the default."""

    def __call__(self, x: Params, batches: Batches, options: Options) -> Raw: ...


def eager(x: Params, batches: Batches, options: Options) -> Raw:
    """Run the steps as a plain loop on the skeleton of the values' spec."""
    with x.spec.skeleton(x.flat.device) as skeleton:
        return run_training(skeleton, x, batches, options)


def train(
    x: Params,
    batches: Batches,
    *,
    lr: Rate,
    optimizer: Optimizer | None = None,
    shift: Params | None = None,
    prox: tuple[float, Params] | None = None,
    clip_norm: float | None = None,
    only: Submodel | None = None,
    objective: Objective | None = None,
    seed: int = 0,
    cost: Cost | None = None,
    trainer: Trainer = eager,
) -> tuple[Params, TrainLog]:
    """Run one optimizer step per batch from `x`: `x <- update(x, clip(g(x)) + shift + mu (x - anchor))`.

    Arguments
    ---------
    lr: step size, or one per step: a sequence, or a function of the step number from 0.
    optimizer: default `SGD()`; its state starts anew.
    shift: constant vector added to each gradient (control variates).
    prox: `(mu, anchor)` adds `mu (x - anchor)` to each gradient.
    clip_norm: the raw gradient is scaled down to at most this norm, before shift and prox.
    only: the coordinates that move; all others are bit for bit those of `x`. No gradient is computed below the lowest of them.
    objective: `objective(out, batch) -> scalar` or dict of scalars, whose sum descends; default `CrossEntropy()`.
    seed: of random layers (dropout).
    cost: a meter to charge.
    trainer: how the steps run.

    Returns
    -------
    New values and the log.

    >>> from airloom.models import zoo
    >>> x = zoo.softmax_regression(inputs=2, classes=2).zeros()
    >>> batches = Batches(torch.ones(1, 4, 2), torch.zeros(1, 4, dtype=torch.long))
    >>> new, log = train(x, batches, lr=1.0)
    >>> new.flat.tolist(), round(log.loss, 4), log.grad_square  # gradient of a row: -+1/2 per weight and bias
    ([0.5, 0.5, -0.5, -0.5, 0.5, -0.5], 0.6931, 1.5)
    """
    optimizer = SGD() if optimizer is None else optimizer
    objective = CrossEntropy() if objective is None else objective
    if shift is not None:
        x._same(shift, "with shift")
    if prox is not None:
        x._same(prox[1], "with prox anchor")
    if clip_norm is not None and not clip_norm > 0:
        raise ScenarioError(f"train(clip_norm={clip_norm}): allowed: > 0, or None")
    steps = batches.steps
    if isinstance(lr, Sequence) and len(lr) < steps:
        raise ScenarioError(f"train(lr): got {len(lr)} step sizes for {steps} steps; allowed: one each")
    options = Options(lr=lr, objective=objective, optimizer=optimizer, shift=shift, prox=prox, clip_norm=clip_norm, only=only, seed=seed)
    samples = steps * batches.batch_size
    is_meta = x.is_meta or batches.is_meta
    price: Price | None = None
    if steps and (is_meta or cost is not None):
        price = step_price(x.spec, batches[0], options, x)
    if cost is not None and price is not None:
        cost.add(price, times=steps, steps=steps, samples=samples, width=x.spec.width)
    if is_meta:
        names = price.parts if price is not None else ()
        log = TrainLog(loss=_unknown(), loss_by={n: _unknown() for n in names}, grad_square=_unknown(), steps=steps, samples=samples)
        return x.to_meta() if x.is_meta else x.spec.meta(), log
    if not steps:
        return x, TrainLog(loss=float("nan"), grad_square=float("nan"), steps=0, samples=0)
    raw = trainer(x, batches, options)
    rows = [raw.losses, raw.squares, *raw.parts.values()]
    means = torch.stack([(row if isinstance(row, Tensor) else torch.stack(row)).double().mean() for row in rows]).tolist()
    log = TrainLog(loss=means[0], loss_by=dict(zip(raw.parts, means[2:], strict=True)), grad_square=means[1], steps=steps, samples=samples)
    return Params(x.spec, raw.values), log


def _unknown() -> Any:
    """A number that is not known in a dry run: float() of it, or branching on it, raises."""
    return torch.empty((), dtype=torch.float64, device="meta")


def _sides(wrt: Side | tuple[Side, ...]) -> tuple[Side, ...]:
    sides = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    if not sides or len(set(sides)) != len(sides) or any(s not in ("params", "inputs") for s in sides):
        raise ScenarioError(f"wrt={wrt!r}: allowed: 'params', 'inputs', or a tuple of both")
    return sides


def grad(
    x: Params,
    batch: Batch,
    *,
    objective: Objective | None = None,
    wrt: Side | tuple[Side, ...] = "params",
    seed: int = 0,
    cost: Cost | None = None,
) -> tuple[Any, TrainLog]:
    """Return the gradient of the objective at `x` in training mode, and a log of one step.

    Arguments
    ---------
    wrt: `"params"` gives Params, `"inputs"` a tensor (or dict) like `batch.x`, a tuple gives a tuple in its order. Running statistics get zeros.
    """
    objective = CrossEntropy() if objective is None else objective
    sides = _sides(wrt)
    ordered = tuple(s for s in ("params", "inputs") if s in sides)
    is_meta = x.is_meta or batch.is_meta
    if cost is not None:
        cost.add(gradient_price(x.spec, batch, objective, ordered, x), steps=1, samples=len(batch), width=x.spec.width)
    found: dict[str, Any] = {}
    if is_meta:
        found = {"params": x.spec.meta(), "inputs": map_inputs(lambda t: t.to("meta"), batch.x)}
        log = TrainLog(loss=_unknown(), grad_square=_unknown(), steps=1, samples=len(batch))
    else:
        with x.spec.skeleton(x.flat.device) as skeleton:
            value, out = run_gradient(skeleton, x, batch, objective, seed, ordered)
        square = torch.zeros((), dtype=torch.float64)
        if "params" in sides:
            found["params"] = Params(x.spec, out[0])
            square = torch.dot(out[0], out[0]).double()
        if "inputs" in sides:
            back = out[len(out) - (len(batch.x) if isinstance(batch.x, dict) else 1) :]
            found["inputs"] = dict(zip(batch.x, back, strict=True)) if isinstance(batch.x, dict) else back[0]
        numbers = torch.stack([value.double(), square.to(value.device)]).tolist()
        log = TrainLog(loss=numbers[0], grad_square=numbers[1], steps=1, samples=len(batch))
    return (found[sides[0]] if isinstance(wrt, str) else tuple(found[s] for s in sides)), log


def loss(x: Params, batch: Batch, *, objective: Objective | None = None, cost: Cost | None = None) -> float:
    """Return the objective at `x` in evaluation mode, without a gradient."""
    objective = CrossEntropy() if objective is None else objective
    if cost is not None:
        cost.add(loss_price(x.spec, batch, objective, x), samples=len(batch) / 3, width=x.spec.width)
    if (x.is_meta or batch.is_meta) and not is_measuring():
        return _unknown()
    with x.spec.skeleton(x.flat.device) as skeleton:
        value = run_loss(skeleton, x, batch, objective)
        return _unknown() if value.is_meta else value.item()


def forward(x: Params, batch: Batch | Inputs, *, keep: bool = False, until: str | None = None, seed: int = 0, cost: Cost | None = None) -> Any:
    """Run the model on a batch (or bare inputs).

    Arguments
    ---------
    keep: False: evaluation mode, no gradient, the value alone. True: training mode, `(value, Tape)`; `vjp` goes back through the Tape.
    until: stop at this module (a dotted path) and return its output; what comes after is neither computed nor charged.
    """
    inputs = batch.x if isinstance(batch, Batch) else batch
    n = first_tensor(inputs).shape[0]
    is_meta = (x.is_meta or first_tensor(inputs).is_meta) and not is_measuring()
    price: Price | None = None
    if is_meta or keep or cost is not None:
        price = kept_price(x.spec, inputs, until, x) if keep else forward_price(x.spec, inputs, until, x)
    if cost is not None and price is not None:
        cost.add(price, samples=n / 3, width=x.spec.width)
    if is_meta and price is not None:
        out = tree_map(lambda t: torch.empty_like(t) if isinstance(t, Tensor) else t, price.out)
        if not keep:
            return out
        return out, Tape(x.spec, map_inputs(lambda t: t.to("meta"), inputs), out, until, {}, inputs, price.held_bytes)
    with x.spec.skeleton(x.flat.device) as skeleton:
        if keep and price is not None:
            return run_kept(skeleton, x, inputs, until, seed, price.held_bytes)
        return run_forward(skeleton, x, inputs, until)


def vjp(tape: Tape, g: Any, *, wrt: Side | tuple[Side, ...], cost: Cost | None = None) -> Any:
    """Return the vector-Jacobian product of a kept forward pass.

    Arguments
    ---------
    g: gradient with respect to the pass's value, of its shape.
    wrt: `"params"` gives Params, `"inputs"` a tensor (or dict) like the inputs, a tuple gives a tuple in its order.

    >>> from airloom.models import zoo
    >>> x = zoo.softmax_regression(inputs=2, classes=2).zeros() + 1
    >>> out, tape = forward(x, torch.ones(1, 2), keep=True)
    >>> vjp(tape, torch.ones_like(out), wrt="inputs").tolist()
    [[2.0, 2.0]]
    """
    sides = _sides(wrt)
    ordered = tuple(s for s in ("params", "inputs") if s in sides)
    if cost is not None:
        cost.add(vjp_price(tape, ordered), samples=first_tensor(tape.inputs).shape[0] * 2 / 3, width=tape.spec.width)
    if tape.is_meta or any(t.is_meta for t in tree_leaves(g)):
        found = {"params": tape.spec.meta(), "inputs": map_inputs(lambda t: t.to("meta"), tape.inputs)}
    else:
        out = run_vjp(tape, g, ordered)
        found = dict(zip(ordered, out, strict=True))
        if "params" in found:
            found["params"] = Params(tape.spec, found["params"])
    return found[sides[0]] if isinstance(wrt, str) else tuple(found[s] for s in sides)
