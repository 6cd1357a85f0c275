"""The bare computations on a skeleton: training steps, a gradient, a forward pass. No prices, no checks; `train` and `price` build on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from airloom.errors import ScenarioError
from airloom.models.batch import Batch, Inputs, map_inputs
from airloom.models.module import ModelSpec, Skeleton
from airloom.models.objective import Objective, total_loss
from airloom.models.params import Params
from airloom.models.submodel import Submodel

Rate: TypeAlias = float | Sequence[float] | Callable[[int], float]


class Optimizer(ABC):
    """How a gradient moves the values. `update` works in place on flat vectors; `step` is the pure form for servers.

    `lr` is the step size of `step`; `train` has its own.
    """

    lr: float

    @abstractmethod
    def update(self, values: Tensor, gradient: Tensor, state: dict[str, Any], lr: float, mask: Tensor | None) -> None:
        """Move `values` [D] in place; may overwrite `gradient` [D]; keeps its vectors in `state`. `mask` [D] is 0 where nothing may move."""

    @abstractmethod
    def state_vectors(self) -> int:
        """How many vectors of the model's size it keeps."""

    @final
    def step(self, x: Params, g: Params, state: dict[str, Any] | None, *, lr: float | None = None) -> tuple[Params, dict[str, Any]]:
        """Return the values after one step along `g`, and the state for the next one.

        Arguments
        ---------
        x, g: values and (pseudo-)gradient of one spec. Running statistics take the plain step `x - g`.
        state: what the step before returned; None at the start.
        lr: step size instead of the field `lr`.
        """
        n = x.spec.trainable_size
        x._same(g, "stepped along")
        values = x.flat.clone()
        held: dict[str, Any] = {k: v.flat[:n].clone() if isinstance(v, Params) else v for k, v in (state or {}).items()}
        self.update(values[:n], g.flat[:n].clone(), held, self.lr if lr is None else lr, None)
        if n < x.spec.size:
            values[n:] -= g.flat[n:]
        rest = x.flat.new_zeros(x.spec.size - n)
        return Params(x.spec, values), {k: Params(x.spec, torch.cat([v, rest])) if isinstance(v, Tensor) else v for k, v in held.items()}


@final
@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent: `d = g + weight_decay x; b = momentum b + d; x -= lr b` (Nesterov: `x -= lr (d + momentum b)`)."""

    lr: float = 1.0
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum < 1.0 or self.weight_decay < 0.0:
            raise ScenarioError(f"{self}: allowed: 0 <= momentum < 1, weight_decay >= 0")
        if self.nesterov and self.momentum == 0.0:
            raise ScenarioError(f"{self}: nesterov needs momentum > 0")

    def update(self, values: Tensor, gradient: Tensor, state: dict[str, Any], lr: float, mask: Tensor | None) -> None:
        if self.weight_decay:
            gradient.add_(values if mask is None else values * mask, alpha=self.weight_decay)
        if self.momentum:
            b = state.get("momentum")
            if b is None:
                b = state["momentum"] = gradient.clone()
            else:
                b.mul_(self.momentum).add_(gradient)
            gradient = gradient.add_(b, alpha=self.momentum) if self.nesterov else b
        values.add_(gradient, alpha=-lr)

    def state_vectors(self) -> int:
        return 1 if self.momentum else 0


@final
@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, 1711.05101, Algorithm 2); defaults as there."""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        if not (0.0 <= self.beta1 < 1.0 and 0.0 <= self.beta2 < 1.0 and self.eps > 0.0 and self.weight_decay >= 0.0):
            raise ScenarioError(f"{self}: allowed: 0 <= beta1, beta2 < 1, eps > 0, weight_decay >= 0")

    def update(self, values: Tensor, gradient: Tensor, state: dict[str, Any], lr: float, mask: Tensor | None) -> None:
        if not state:
            state.update(count=0, first=torch.zeros_like(values), second=torch.zeros_like(values))
        state["count"] += 1
        if self.weight_decay:
            values.mul_(1.0 - lr * self.weight_decay if mask is None else 1.0 - (lr * self.weight_decay) * mask)
        first, second = state["first"], state["second"]
        first.lerp_(gradient, 1.0 - self.beta1)
        second.mul_(self.beta2).addcmul_(gradient, gradient, value=1.0 - self.beta2)
        c1, c2 = 1.0 - self.beta1 ** state["count"], 1.0 - self.beta2 ** state["count"]
        values.addcdiv_(first, (second.sqrt() / c2**0.5).add_(self.eps), value=-lr / c1)

    def state_vectors(self) -> int:
        return 2


@final
@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything of a training call but the values and the batches; see `train`."""

    lr: Rate
    objective: Objective
    optimizer: Optimizer
    shift: Params | None
    prox: tuple[float, Params] | None
    clip_norm: float | None
    only: Submodel | None
    seed: int

    def rate(self, k: int) -> float:
        """Step size of step `k`."""
        return self.lr if isinstance(self.lr, float | int) else self.lr(k) if callable(self.lr) else self.lr[k]


@final
@dataclass(frozen=True, slots=True)
class Moving:
    """What `only` lets move: leaves with a gradient, the range they lie in, and a mask over the whole vector where the range has gaps."""

    leaves: frozenset[str]
    start: int
    stop: int
    mask: Tensor | None
    spec: ModelSpec


def moving(spec: ModelSpec, only: Submodel) -> Moving:
    """Resolve `only` on a spec; cached there."""
    inner = spec.slice(only)
    places = spec.places(inner)
    index = places.index[: inner.trainable_size]
    if not len(index):
        raise ScenarioError(f"train(only={only}) of {spec}: nothing trainable is selected; allowed: a Submodel with trainable values")
    names = frozenset(leaf.name for leaf in inner.leaves)
    hit = [leaf for leaf in spec.leaves if leaf.name in names and not leaf.is_buffer]
    start, stop = hit[0].offset, hit[-1].offset + hit[-1].size
    mask = None
    if stop - start != len(index):
        mask = torch.zeros(spec.size, dtype=spec.dtype)
        mask[index] = 1.0
    return Moving(names, start, stop, mask, inner)


@final
@dataclass(frozen=True, slots=True)
class Raw:
    """What training steps leave behind: new values, and per step the loss, its parts and the squared norm of the raw gradient.

    Each row is a list of 0-dim tensors or one vector.
    """

    values: Tensor
    losses: list[Tensor] | Tensor
    parts: Mapping[str, list[Tensor] | Tensor]
    squares: list[Tensor] | Tensor


@final
@dataclass(frozen=True, slots=True)
class Found:
    """What a step's gradient pass says: the loss and its parts; the gradient itself lies in the skeleton."""

    loss: Tensor
    parts: dict[str, Tensor]


Gradient: TypeAlias = Callable[[Batch], Found]


def eager_gradient(skeleton: Skeleton, objective: Objective) -> Gradient:
    """Return the plain pass: forward, objective, backward."""

    def gradient(batch: Batch) -> Found:
        skeleton.gradient.zero_()
        with torch.enable_grad():
            loss = objective(skeleton.module(batch.x), batch)
            parts = {} if isinstance(loss, Tensor) else {name: part.detach() for name, part in loss.items()}
            loss = total_loss(loss)
            loss.backward()
        return Found(loss.detach(), parts)

    return gradient


@contextmanager
def training(skeleton: Skeleton, x: Params, options: Options, only: Moving | None) -> Iterator[None]:
    """A skeleton with values loaded, in training mode, without gradients for what stays; the global random stream is the call's own."""
    still = [] if only is None else [p for name, p in skeleton.parameters.items() if name not in only.leaves]
    skeleton.load(x.flat)
    set_mode(skeleton.module, True)
    for p in still:
        p.requires_grad_(False)
    device, before = x.flat.device, seeded(options.seed)
    there = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    if there is not None:
        torch.cuda.default_generators[device.index or 0].manual_seed(options.seed % 2**63)
    try:
        yield
    finally:
        torch.set_rng_state(before)
        if there is not None:
            torch.cuda.set_rng_state(there, device)
        for p in still:
            p.requires_grad_(True)


def finished(skeleton: Skeleton, x: Params, only: Moving | None) -> Tensor:
    """Return the values that training leaves: the skeleton's, or those of `x` where nothing may move."""
    new = skeleton.restored()
    if only is not None:
        places = x.spec.places(only.spec)
        moved, new = new, x.flat.clone()
        places.put(new, places.take(moved))
    return new


def run_training(skeleton: Skeleton, x: Params, batches: Iterable[Batch], options: Options, gradient: Gradient | None = None) -> Raw:
    """Run one optimizer step per batch, from `x`, on a skeleton; `gradient` takes the place of the plain pass."""
    spec, device = x.spec, x.flat.device
    only = None if options.only is None else moving(spec, options.only)
    start, stop = (0, spec.trainable_size) if only is None else (only.start, only.stop)
    mask = None if only is None or only.mask is None else skeleton.arranged(only.mask.to(device))[start:stop]
    optimizer, clip_norm = options.optimizer, options.clip_norm
    g, values = skeleton.gradient[start:stop], skeleton.values[start:stop]
    shift = None if options.shift is None else skeleton.arranged(options.shift.flat)[start:stop]
    mu, anchor = (0.0, None) if options.prox is None else (options.prox[0], skeleton.arranged(options.prox[1].flat)[start:stop])
    gradient = eager_gradient(skeleton, options.objective) if gradient is None else gradient
    state: dict[str, Any] = {}
    losses: list[Tensor] = []
    squares: list[Tensor] = []
    parts: dict[str, list[Tensor]] = {}
    with training(skeleton, x, options, only):
        for k, batch in enumerate(batches):
            found = gradient(batch)
            losses.append(found.loss)
            for name, part in found.parts.items():
                parts.setdefault(name, []).append(part)
            del found
            if mask is not None:
                g.mul_(mask)
            square = torch.dot(g, g)
            squares.append(square)
            if clip_norm is not None:
                g.mul_((clip_norm / (square.sqrt() + 1e-6)).clamp_(max=1.0))
            if shift is not None:
                g.add_(shift)
            if anchor is not None:
                g.add_(values, alpha=mu).sub_(anchor, alpha=mu)
            if mask is not None and (shift is not None or anchor is not None):
                g.mul_(mask)
            optimizer.update(values, g, state, options.rate(k), mask)
    return Raw(finished(skeleton, x, only), losses, parts, squares)


def seeded(seed: int) -> Tensor:
    """Seed the global stream for random layers and return its state, to be put back."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed % 2**63)
    return before


def set_mode(module: nn.Module, training: bool) -> None:
    """Switch between training and evaluation mode, if it is not in it."""
    if module.training is not training:
        module.train(training)


def run_gradient(skeleton: Skeleton, x: Params, batch: Batch, objective: Objective, seed: int, wrt: tuple[str, ...]) -> tuple[Tensor, list[Tensor]]:
    """Return the loss and the gradients with respect to `params` and/or `inputs`; those of inputs in the order of a dict."""
    skeleton.load(x.flat)
    set_mode(skeleton.module, True)
    before = seeded(seed)
    try:
        with torch.enable_grad():
            inputs: Inputs = batch.x
            watched: list[Tensor] = []
            if "inputs" in wrt:
                inputs = map_inputs(lambda t: t.detach().requires_grad_(), batch.x)
                watched = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
            loss = total_loss(objective(skeleton.module(inputs), batch))
            parameters = list(skeleton.parameters.values()) if "params" in wrt else []
            found = torch.autograd.grad(loss, [*parameters, *watched], allow_unused=True)
    finally:
        torch.set_rng_state(before)
    out: list[Tensor] = []
    if "params" in wrt:
        pieces = [torch.zeros_like(p) if d is None else d for p, d in zip(parameters, found, strict=False)]
        rest = x.flat.new_zeros(x.spec.size - x.spec.trainable_size)
        out.append(torch.cat([*(d.reshape(-1) for d in pieces), rest]))
    for t, d in zip(watched, found[len(parameters) :], strict=True):
        out.append(torch.zeros_like(t) if d is None else d)
    return loss.detach(), out


class _Reached(Exception):
    """Carries the output of the module that `until` names out of the forward pass."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def run_module(module: nn.Module, inputs: Inputs, until: str | None, call: Callable[[nn.Module, Inputs], Any]) -> Any:
    """Return the module's output, or that of its submodule `until`, going no further."""
    if until is None:
        return call(module, inputs)
    paths = dict(module.named_modules())
    if until not in paths:
        raise ScenarioError(f"forward(until={until!r}): allowed: a module path such as {[n for n in paths if n][:12]}")

    def stop(_module: nn.Module, _args: Any, out: Any) -> None:
        raise _Reached(out)

    handle = paths[until].register_forward_hook(stop)
    try:
        call(module, inputs)
    except _Reached as reached:
        return reached.value
    finally:
        handle.remove()
    raise ScenarioError(f"forward(until={until!r}): the forward pass did not go through that module")


def run_forward(skeleton: Skeleton, x: Params, inputs: Inputs, until: str | None) -> Any:
    """Return the output in evaluation mode, without gradients."""
    skeleton.load(x.flat)
    set_mode(skeleton.module, False)
    with torch.no_grad():
        return run_module(skeleton.module, inputs, until, lambda module, given: module(given))


def run_loss(skeleton: Skeleton, x: Params, batch: Batch, objective: Objective) -> Tensor:
    """Return the loss in evaluation mode, without gradients."""
    out = run_forward(skeleton, x, batch.x, None)
    with torch.no_grad():
        return total_loss(objective(out, batch))
