"""What a computation costs, found by one dry run on meta tensors (small dense chains: on zeros) and cached: FLOPs, bytes moved and peak bytes.

A multiply-add is 2 FLOPs; matrix products, convolutions and attention count, element-wise work does not. A dry run is never batched with `vmap`
(convolution backward would count twice). The key is the spec's form, the shapes and types of the batch, and what else changes the computation.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry, shape_wrapper

from airloom.errors import AirloomError
from airloom.models.batch import Batch, Inputs, map_inputs
from airloom.models.dense import dense_chain
from airloom.models.dispatch import Watching, spare_compiler
from airloom.models.memory import PeakMemory
from airloom.models.module import ModelSpec
from airloom.models.objective import Objective, signature, without_values
from airloom.models.params import Params
from airloom.models.step import SGD, Optimizer, Options, run_forward, run_gradient, run_loss, run_training
from airloom.models.submodel import Submodel
from airloom.models.tape import Tape, run_kept, run_vjp

_PRICES_KEPT = 4096
_QUICK_VALUES = 4_000_000  # of a model, and of a batch: up to here two steps take milliseconds
_prices: OrderedDict[object, Price] = OrderedDict()


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What one unit of work costs: a training step, a gradient, a forward pass.

    `held_bytes`: what its result keeps alive (the activations of a Tape). `out`: its result on meta tensors. `parts`: names of the losses.
    """

    flops: float
    moved_bytes: int
    peak_bytes: int
    held_bytes: int
    parts: tuple[str, ...]
    out: Any


@final
@dataclass(kw_only=True)
class Cost:
    """A meter: library calls that are given one add their price to it, the same number in a dry run and in a real one.

    `flops`, `moved_bytes`: sums. `peak_bytes`: the largest. `steps`: optimizer steps and gradients. `samples`: training samples, or their
    equivalent (a forward pass counts a third, a backward pass two thirds), and `width`: the widest model that ran (0 before any), for device
    profiles measured in seconds per sample by width.
    """

    flops: float = 0.0
    steps: int = 0
    samples: float = 0.0
    moved_bytes: int = 0
    peak_bytes: int = 0
    width: float = 0.0

    def add(self, price: Price, *, times: int = 1, steps: int = 0, samples: float = 0.0, width: float = 1.0) -> None:
        """Add `times` units of work on a model of this width."""
        if times:
            self.flops += price.flops * times
            self.moved_bytes += price.moved_bytes * times
            self.peak_bytes = max(self.peak_bytes, price.peak_bytes)
            self.width = max(self.width, width)
        self.steps += steps
        self.samples += samples


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **_named: Any) -> int:
    """Scores and their product with the values, in full also where a causal mask hides half of them, as in the plain formulation."""
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])


def _attention_backward_flops(_g: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **_named: Any) -> int:
    """Twice the forward pass; that the kernel computes the scores again is not counted."""
    return 2 * _attention_flops(query, key, value)


_aten = torch.ops.aten
_FORMULAS: dict[Any, Any] = {  # torch's own, and two that it has for CUDA only
    **flop_registry,
    _aten._scaled_dot_product_flash_attention_for_cpu: shape_wrapper(_attention_flops),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: shape_wrapper(_attention_backward_flops),
}


@final
class Flops(Watching):
    """Count the FLOPs of the operations inside `with`, by torch's formulas.

    Torch's own counter also hooks into modules, which a gradient with respect to the inputs does not allow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = _FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=out)
        return out


@final
class _FusedAttention(TorchFunctionMode):
    """In a dry run, take the kernel that a CPU takes for attention: on meta tensors torch would hold the whole score matrix."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or not args or not args[0].is_meta:
            return func(*args, **kwargs)
        query, key, value = args[:3] if len(args) >= 3 else (args[0], kwargs["key"], kwargs["value"])
        names = ("attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
        given = dict(zip(names, args[3:], strict=False)) | {k: v for k, v in kwargs.items() if k in names}
        if given.get("attn_mask") is not None or given.get("dropout_p") or given.get("enable_gqa") or query.dim() != 4:
            return func(*args, **kwargs)
        fused = _aten._scaled_dot_product_flash_attention_for_cpu
        return fused(query, key, value, 0.0, bool(given.get("is_causal", False)), scale=given.get("scale"))[0]


_measuring: ContextVar[bool] = ContextVar("measuring", default=False)


def is_measuring() -> bool:
    """Whether a dry run is under way, so that a model inside an objective has to go through its operations too."""
    return _measuring.get()


def measure(run: Callable[[], Any]) -> Price:
    """Run something once and return its price; on meta tensors nothing is computed.

    >>> a = torch.zeros(2, 3, device="meta")
    >>> measure(lambda: a @ a.T).flops
    24.0
    """
    spare_compiler()
    token = _measuring.set(True)
    try:
        with _FusedAttention(), PeakMemory() as memory, Flops() as counter:
            out = run()
    finally:
        _measuring.reset(token)
    held = memory.live_bytes - memory.argument_bytes
    return Price(
        flops=float(counter.total),
        moved_bytes=memory.moved_bytes,
        peak_bytes=memory.peak_bytes,
        held_bytes=max(held, 0),
        parts=(),
        out=out,
    )


def shapes_of(batch: Batch) -> object:
    """Return the part of a cache key that a batch makes up."""
    x = tuple((k, tuple(t.shape), t.dtype) for k, t in batch.x.items()) if isinstance(batch.x, dict) else (tuple(batch.x.shape), batch.x.dtype)
    return x, tuple(batch.y.shape), batch.y.dtype, batch.weight is not None


def _cached(key: object, dry: Callable[[], Price], real: Callable[[], Price] | None) -> Price:
    """Return the price under a key, from a dry run; where that needs contents, from a real run, which is not kept."""
    found = _prices.get(key)
    if found is None:
        try:
            found = dry()
        except AirloomError:
            raise
        except Exception:  # the objective or the module looks at values
            if real is None:
                raise
            return real()
        _prices[key] = found
        while len(_prices) > _PRICES_KEPT:
            _prices.popitem(last=False)
    return found


def step_price(spec: ModelSpec, batch: Batch, options: Options, x: Params | None = None) -> Price:
    """Return the price of one step of `train` with these options (the mean of two steps, so that optimizer state is there).

    `x`, here and below: real values, to fall back on where a dry run needs contents.
    """
    extras = (options.shift is not None, options.prox is not None, options.clip_norm is not None)
    key = ("step", spec.form, shapes_of(batch), signature(options.objective), options.optimizer, extras, options.only)

    def run(start: Params, b: Batch, given: Options) -> Price:
        two = [Batch(b.x, b.y, b.ids, b.weight, b.classes)] * 2
        with spec.skeleton(start.flat.device) as skeleton:
            price = measure(lambda: run_training(skeleton, start, two, given))
        halves = {"flops": price.flops / 2, "moved_bytes": price.moved_bytes // 2}
        return replace(price, **halves, parts=tuple(price.out.parts), out=None)

    def dry() -> Price:
        is_quick = _is_quick(spec, batch, options.objective)
        blank = spec.zeros if is_quick else spec.meta
        shapes = replace(
            options,
            lr=0.0,
            objective=without_values(options.objective),
            shift=blank() if extras[0] else None,
            prox=(1.0, blank()) if extras[1] else None,
        )
        return run(blank(), (_zeros if is_quick else _meta)(batch), shapes)

    return _cached(key, dry, None if x is None or x.is_meta else lambda: run(x, batch, replace(options, lr=0.0)))


def gradient_price(spec: ModelSpec, batch: Batch, objective: Objective, wrt: tuple[str, ...] = ("params",), x: Params | None = None) -> Price:
    """Return the price of one gradient."""

    def run(start: Params, b: Batch, f: Objective) -> Price:
        with spec.skeleton(start.flat.device) as skeleton:
            return replace(measure(lambda: run_gradient(skeleton, start, b, f, 0, wrt)), out=None)

    key = ("gradient", spec.form, shapes_of(batch), signature(objective), wrt)
    dry = partial(_dry, lambda b: run(spec.meta(), b, without_values(objective)), batch)
    return _cached(key, dry, None if x is None or x.is_meta else lambda: run(x, batch, objective))


def loss_price(spec: ModelSpec, batch: Batch, objective: Objective, x: Params | None = None) -> Price:
    """Return the price of one evaluation of the loss."""

    def run(start: Params, b: Batch, f: Objective) -> Price:
        with spec.skeleton(start.flat.device) as skeleton:
            return replace(measure(lambda: run_loss(skeleton, start, b, f)), out=None)

    key = ("loss", spec.form, shapes_of(batch), signature(objective))
    dry = partial(_dry, lambda b: run(spec.meta(), b, without_values(objective)), batch)
    return _cached(key, dry, None if x is None or x.is_meta else lambda: run(x, batch, objective))


def _dry(run: Callable[[Batch], Price], batch: Batch) -> Price:
    return run(_meta(batch))


def _meta(batch: Batch) -> Batch:
    """The batch's shapes in memory of their own: as a view it would count all that it is a part of, and the kept price would depend on who asked."""
    ids, weight = (None if t is None else _shape(t) for t in (batch.ids, batch.weight))
    return Batch(_meta_inputs(batch.x), _shape(batch.y), ids, weight, batch.classes)


def _is_quick(spec: ModelSpec, batch: Batch, objective: Objective) -> bool:
    """Whether two steps on zeros tell the same as on meta tensors, and sooner: a small chain of dense layers, which looks at no values.

    Meta tensors cost an import of sympy, 0.4 s in each process.
    """
    if spec.size > _QUICK_VALUES or isinstance(batch.x, dict) or batch.x.numel() > _QUICK_VALUES:
        return False
    with spec.skeleton("cpu") as skeleton:
        return dense_chain(skeleton, objective) is not None


def _zeros(batch: Batch) -> Batch:
    """The batch's shapes with zeros in them."""

    def zeros(t: Tensor) -> Tensor:
        return torch.zeros(t.shape, dtype=t.dtype)

    ids, weight = (None if t is None else zeros(t) for t in (batch.ids, batch.weight))
    return Batch(map_inputs(zeros, batch.x), zeros(batch.y), ids, weight, batch.classes)


def _meta_inputs(inputs: Inputs) -> Inputs:
    return map_inputs(_shape, inputs)


def _shape(t: Tensor) -> Tensor:
    return torch.empty_like(t, device="meta")


def _inputs_key(inputs: Inputs) -> object:
    return shapes_of(Batch(inputs, torch.empty(0, device="meta")))


def forward_price(spec: ModelSpec, inputs: Inputs, until: str | None = None, x: Params | None = None) -> Price:
    """Return the price of one forward pass without gradients; `out` is its result on meta tensors."""

    def run(start: Params, given: Inputs) -> Price:
        with spec.skeleton(start.flat.device) as skeleton:
            return measure(lambda: run_forward(skeleton, start, given, until))

    key = ("forward", spec.form, _inputs_key(inputs), until)
    return _cached(key, lambda: run(spec.meta(), _meta_inputs(inputs)), None if x is None or x.is_meta else lambda: run(x, inputs))


def kept_price(spec: ModelSpec, inputs: Inputs, until: str | None = None, x: Params | None = None) -> Price:
    """Return the price of one forward pass that is kept; `out` is its result on meta tensors, `held_bytes` what the Tape keeps alive."""

    def run(start: Params, given: Inputs) -> Price:
        with spec.skeleton(start.flat.device) as skeleton:
            price = measure(lambda: run_kept(skeleton, start, given, until, 0, 0))
        return replace(price, out=price.out[0])

    key = ("kept", spec.form, _inputs_key(inputs), until)
    return _cached(key, lambda: run(spec.meta(), _meta_inputs(inputs)), None if x is None or x.is_meta else lambda: run(x, inputs))


def vjp_price(tape: Tape, wrt: tuple[str, ...]) -> Price:
    """Return the price of one backward pass through a Tape."""
    spec, inputs = tape.spec, tape.inputs

    def dry() -> Price:
        with spec.skeleton("meta") as skeleton:
            out, again = run_kept(skeleton, spec.meta(), _meta_inputs(inputs), tape.until, 0, 0)
        return replace(measure(lambda: run_vjp(again, out, wrt)), out=None)

    def real() -> Price:
        ones = tree_map(lambda t: torch.ones_like(t) if isinstance(t, Tensor) else t, tape.outputs)
        return replace(measure(lambda: run_vjp(tape, ones, wrt)), out=None)

    return _cached(("vjp", spec.form, _inputs_key(inputs), tape.until, wrt), dry, None if tape.is_meta else real)


def gradient_flops(spec: ModelSpec, batch: Batch, objective: Objective, only: Submodel | None = None) -> float:
    """Return the FLOPs of one training step: forward and backward, without gradients below the lowest leaf that `only` lets move.

    Arguments
    ---------
    batch: real or on meta; only shapes and types count.
    """
    return step_price(spec, batch, _options(objective, SGD(), only)).flops


def forward_flops(spec: ModelSpec, inputs: Inputs, until: str | None = None) -> float:
    """Return the FLOPs of one forward pass, up to the module `until`."""
    return forward_price(spec, inputs, until).flops


def train_flops(spec: ModelSpec, batch: Batch, objective: Objective, *, steps: int, only: Submodel | None = None) -> float:
    """Return the FLOPs of `steps` training steps."""
    return steps * gradient_flops(spec, batch, objective, only)


def peak_bytes(spec: ModelSpec, batch: Batch, objective: Objective, *, optimizer: Optimizer | None = None, only: Submodel | None = None) -> int:
    """Return the peak of live bytes in training: arguments, working copy, gradient, optimizer state, batch and activations."""
    return step_price(spec, batch, _options(objective, SGD() if optimizer is None else optimizer, only)).peak_bytes


def _options(objective: Objective, optimizer: Optimizer, only: Submodel | None) -> Options:
    return Options(lr=0.0, objective=objective, optimizer=optimizer, shift=None, prox=None, clip_norm=None, only=only, seed=0)
