"""A training step recorded once and run again: the same operations in the same order, without autograd and without the module's Python code.

`record` watches one forward and backward pass below autograd. Operations that depend on the batch or on current values stay in the script; views of
parameters and constants are kept as the tensors that the recording made. A script belongs to the skeleton whose tensors it holds.

Shapes: K rows (samples, or samples x positions), O x I of a weight, S steps.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from airloom.models.batch import Batch
from airloom.models.dispatch import Watching
from airloom.models.objective import Objective, total_loss
from airloom.models.skeleton import HELD, Skeleton

_aten = torch.ops.aten
_PLAIN: dict[Any, Callable[..., Any]] = {  # the same operations with less overhead per call
    _aten.mm.default: torch.mm,
    _aten.addmm.default: torch.addmm,
    _aten.relu.default: torch.relu,
    _aten._log_softmax.default: torch._log_softmax,  # type: ignore[attr-defined]
    _aten.t.default: torch.t,
    _aten.view.default: Tensor.view,
    _aten.sum.dim_IntList: torch.sum,
}
_SHAPE_ONLY = (_aten.ones_like.default, _aten.zeros_like.default, _aten.full_like.default)  # results that follow from shapes
BATCH_NORMS = (_aten.native_batch_norm.default, _aten.cudnn_batch_norm.default)  # they write running statistics, and do not say so
_GRAM_PAYS = 15.0  # K^2 (I + O) below this times I O: the norm of a product costs less by its factors (ours, from matrix and memory speed)


class NotRecorded(Exception):
    """A step that cannot be recorded; the text says why."""


@final
class Slot(int):
    """A tensor of the script."""


@final
@dataclass(slots=True)
class Op:
    """One operation: `out = func(*args, **kwargs)`, tensors replaced by slots."""

    func: Any
    args: Any
    kwargs: Any
    out: Any

    def inputs(self) -> Iterator[Slot]:
        """Slots that it reads."""
        return (leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Slot))

    def outputs(self) -> Iterator[Slot]:
        """Slots that it makes, or writes to and returns."""
        return (leaf for leaf in tree_leaves(self.out) if isinstance(leaf, Slot))

    @property
    def is_mutating(self) -> bool:
        """Whether it writes to an argument."""
        return self.func._schema.is_mutable or self.func in BATCH_NORMS

    @property
    def is_view(self) -> bool:
        """Whether its result shares memory with an argument that it leaves alone."""
        return not self.func._schema.is_mutable and any(r.alias_info is not None for r in self.func._schema.returns)

    @property
    def is_random(self) -> bool:
        """Whether it draws from the global stream."""
        return torch.Tag.nondeterministic_seeded in self.func.tags


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@final
class Recorder(Watching):
    """Write down all operations inside `with`; `inputs` change from step to step, every other tensor from outside is a constant."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.tensors: list[Tensor] = []  # by slot; held, so that no identity is used twice
        self.slots: dict[int, Slot] = {}
        self.made = {_memory(t) for t in inputs}  # memory whose contents change from step to step
        self.fresh: set[Slot] = set()  # slots that operations made
        for tensor in inputs:
            self._new(tensor)

    def _new(self, tensor: Tensor) -> Slot:
        slot = self.slots[id(tensor)] = Slot(len(self.tensors))
        self.tensors.append(tensor)
        return slot

    def slot(self, tensor: Tensor) -> Slot:
        """Return the slot of a tensor; a new one for a constant."""
        found = self.slots.get(id(tensor))
        if found is None:
            if tensor.numel() and _memory(tensor) in self.made:
                raise NotRecorded("a tensor of the step came back under another identity")
            found = self._new(tensor)
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _aten._local_scalar_dense.default:
            raise NotRecorded("the step looks at a value (.item(), float(...), or a branch on a tensor)")
        given = tree_map(lambda a: self.slot(a) if isinstance(a, Tensor) else a, (args, kwargs))
        known = {_memory(self.tensors[s]) for s in tree_leaves(given) if isinstance(s, Slot)}
        out = func(*args, **kwargs)
        if func is _aten.detach.default:
            self.slots[id(out)] = self.slots[id(args[0])]
            self.tensors.append(out)  # held in a slot of its own that nothing reads
            return out

        def made(leaf: Any) -> Slot | None:
            if not isinstance(leaf, Tensor):
                return None
            found = self.slots.get(id(leaf))
            if found is None:
                found = self._new(leaf)
                self.fresh.add(found)
                if _memory(leaf) not in known:
                    self.made.add(_memory(leaf))
            return found

        self.ops.append(Op(func, given[0], given[1], tree_map(made, out)))
        return out


@final
@dataclass(slots=True)
class Script:
    """A recorded step: operations in order, constants, and what comes out.

    `once`: constants that one of the lifted tensors is copied into, once per training call. `inputs`: how many slots are inputs, from 0. `fresh`:
    slots that operations make. `gradients`: slot of each leaf's gradient, by name; None where
    the loss does not depend on it.
    """

    once: list[tuple[Tensor, int]]
    ops: list[Op]
    tensors: list[Tensor]
    inputs: int
    fresh: set[Slot]
    loss: Slot
    parts: dict[str, Slot]
    gradients: dict[str, Slot | None]


def record(skeleton: Skeleton, batch: Batch, lifted: Sequence[Tensor], objective: Objective, leaves: Sequence[str]) -> Script:
    """Record one step of `objective` on a loaded skeleton in training mode.

    Arguments
    ---------
    batch: tensors that share no memory with anything else. Its tensors, then `lifted`, are the script's inputs.
    lifted: tensors inside of the objective that may be others in the next call.
    leaves: whose gradients are wanted.

    Raises
    ------
    NotRecorded: the step depends on values in a way that a list of operations cannot say.
    """
    inputs = [*batch_tensors(batch), *lifted]
    wanted = [skeleton.parameters[name] for name in leaves]
    held = HELD.set({})
    try:
        with torch.enable_grad(), Recorder(inputs) as recorder:
            found = objective(skeleton.module(batch.x), batch)
            loss = total_loss(found)
            gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
            parts = {} if isinstance(found, Tensor) else {name: recorder.slot(part) for name, part in found.items()}
            made = {name: None if g is None else recorder.slot(g) for name, g in zip(leaves, gradients, strict=True)}
            total = recorder.slot(loss)
    finally:
        HELD.reset(held)
    tensors = [t.detach() for t in recorder.tensors]
    return _reduced(Script([], recorder.ops, tensors, len(inputs), recorder.fresh, total, parts, made), len(inputs) - len(lifted))


def batch_tensors(batch: Batch) -> list[Tensor]:
    """Return the tensors of a batch in the order of a script's inputs."""
    x = list(batch.x.values()) if isinstance(batch.x, dict) else [batch.x]
    return [*x, batch.y, *(t for t in (batch.ids, batch.weight) if t is not None)]


def _reduced(script: Script, first_lifted: int) -> Script:
    """Drop what is constant, doubled or unused; copies of lifted tensors into constants (a teacher's values) leave the step."""
    tensors = script.tensors
    changed = {_memory(tensors[s]) for op in script.ops if op.is_mutating for s in op.inputs()}
    writes = Counter(_memory(tensors[op.args[0]]) for op in script.ops if op.is_mutating and isinstance(op.args[0], Slot))
    live = set(range(script.inputs)) | script.fresh
    swap: dict[Slot, Slot] = {}
    source: dict[Slot, Op] = {}
    kept: list[Op] = []
    for op in script.ops:
        op.args, op.kwargs = tree_map(lambda a: swap.get(a, a) if isinstance(a, Slot) else a, (op.args, op.kwargs))
        moving = [s for s in op.inputs() if s in live]
        outs = list(op.outputs())
        is_still = not (op.is_mutating or op.is_random) and not any(_memory(tensors[s]) in changed for s in outs)
        if (op.is_view and not moving) or (is_still and (op.func in _SHAPE_ONLY or not list(op.inputs())) and "empty" not in op.func._schema.name):
            live.difference_update(outs)
            script.fresh.difference_update(outs)  # its result, as it was recorded, is a constant
            continue
        if op.func is _aten.t.default:
            before = source.get(op.args[0])
            if before is not None and before.func is _aten.t.default:
                swap[op.out] = before.args[0]
                continue
        is_load = op.func is _aten.copy_.default and op.args[0] not in live and first_lifted <= op.args[1] < script.inputs
        if is_load and writes[_memory(tensors[op.args[0]])] == 1:
            script.once.append((tensors[op.args[0]], op.args[1] - first_lifted))
            continue
        source |= dict.fromkeys(outs, op)
        kept.append(op)
    gradients = {name: None if s is None else swap.get(s, s) for name, s in script.gradients.items()}
    needed = {script.loss, *script.parts.values(), *(s for s in gradients.values() if s is not None)}
    ops: list[Op] = []
    for op in reversed(kept):
        if op.is_mutating or op.is_random or needed.intersection(op.outputs()):
            needed.update(op.inputs())
            ops.append(op)
    return Script(script.once, ops[::-1], tensors, script.inputs, script.fresh, script.loss, script.parts, gradients)


# ---- scripts as functions


@final
class _Writer:
    """Writes a Python function line by line; what has no literal goes into its globals."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.lines: list[str] = []
        self.globals: dict[str, Any] = {}
        self.locals = set(range(script.inputs)) | script.fresh

    def name(self, value: Any) -> str:
        """Text of an argument."""
        if isinstance(value, Slot):
            return f"v{int(value)}" if value in self.locals else self.held(self.script.tensors[value], f"c{int(value)}")
        if isinstance(value, tuple | list):
            return f"[{', '.join(map(self.name, value))}]"
        if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
            return repr(value)
        return self.held(value)

    def held(self, value: Any, name: str = "") -> str:
        """Put a value into the globals; return its name there."""
        name = name or f"k{len(self.globals)}"
        self.globals[name] = value
        return name

    def operation(self, op: Op) -> None:
        """Write an operation."""
        out = tree_map(lambda s: s if s in self.script.fresh else None, op.out)
        if isinstance(out, tuple | list):
            if any(isinstance(o, tuple | list) for o in out):
                raise NotRecorded(f"{op.func} returns lists inside of a tuple")
            target = "".join("_, " if o is None else f"v{int(o)}, " for o in out)
        else:
            target = "_" if out is None else f"v{int(out)}"
        named = [f"{k}={self.name(v)}" for k, v in op.kwargs.items()]
        func = self.held(_PLAIN.get(op.func, op.func), "f_" + re.sub(r"\W", "_", str(op.func)))
        self.lines.append(f"{target} = {func}({', '.join([*map(self.name, op.args), *named])})")

    def function(self, head: Sequence[str], result: Sequence[str]) -> Callable[..., Any]:
        """Compile what was written; values are let go of after their last use."""
        last: dict[str, int] = {}
        for k, line in enumerate(self.lines):
            last |= dict.fromkeys(re.findall(r"\bv\d+\b", line), k)
        for name, k in last.items():
            if name not in result and name not in head:
                self.lines[k] += f"; del {name}"
        text = f"def step({', '.join(head)}):\n    " + "\n    ".join([*self.lines, f"return ({', '.join(result)},)"])
        exec(compile(text, "<recorded step>", "exec"), self.globals)
        return self.globals["step"]


@final
@dataclass(frozen=True, slots=True)
class _Products:
    """Gradients that are made of one factor dz [K, O]: `weights` of a product dz' h (slots dz', dz, h), `biases` of its sum over K."""

    weights: dict[str, tuple[Slot, Slot, Slot]]
    biases: dict[str, Slot]
    operations: dict[str, tuple[int, ...]]  # that make it and nothing else


def _products(script: Script) -> _Products:
    """Find them."""
    source = {s: k for k, op in enumerate(script.ops) for s in op.outputs()}
    uses = Counter(s for op in script.ops for s in op.inputs())
    uses.update([script.loss, *script.parts.values(), *(s for s in script.gradients.values() if s is not None)])

    def made_by(s: Slot, func: Any) -> Op | None:
        """The operation that makes a slot, if it is this one and nothing else uses the slot."""
        op = None if s not in source else script.ops[source[s]]
        return op if op is not None and op.func is func and uses[s] == 1 else None

    weights, biases, operations = {}, {}, {}
    for name, s in script.gradients.items():
        if s is None:
            continue
        product, viewed = made_by(s, _aten.mm.default), made_by(s, _aten.view.default)
        if product is not None:
            flipped, h = product.args
            turn = script.ops[source[flipped]] if flipped in source else None
            if turn is not None and turn.func is _aten.t.default:
                weights[name], operations[name] = (flipped, turn.args[0], h), (source[s],)
        elif viewed is not None:
            total = made_by(viewed.args[0], _aten.sum.dim_IntList)
            if total is not None and total.args[1:] == ([0], True) and script.tensors[total.args[0]].dim() == 2:
                biases[name], operations[name] = total.args[0], (source[viewed.args[0]], source[s])
    return _Products(weights, biases, operations)


def gradient_step(script: Script, skeleton: Skeleton) -> Callable[..., Any]:
    """Return `step(*inputs) -> (loss, *parts)`, which leaves the gradient in the skeleton: the numbers of the eager pass, bit for bit."""
    writer = _Writer(script)
    found = _products(script)
    targets: dict[int, tuple[str, Tensor]] = {}
    for name in found.weights:
        g = skeleton.parameters[name].grad
        if g is not None and g.is_contiguous():
            targets[found.operations[name][0]] = (name, g)
    for k, op in enumerate(script.ops):
        if k in targets:  # straight into the flat gradient
            a, b = map(writer.name, op.args)
            writer.lines.append(f"{writer.held(torch.mm)}({a}, {b}, out={writer.held(targets[k][1])})")
        else:
            writer.operation(op)
    written = {name for name, _ in targets.values()}
    for name, p in skeleton.parameters.items():
        s = script.gradients.get(name)
        if name not in written:
            writer.lines.append(f"{writer.held(p.grad)}.{'zero_()' if s is None else f'copy_({writer.name(s)})'}")
    return writer.function([f"v{k}" for k in range(script.inputs)], list(map(writer.name, [script.loss, *script.parts.values()])))


@final
@dataclass(frozen=True, slots=True)
class UpdateStep:
    """One step of plain gradient descent, `p <- keep p + rate g`, with products added straight into the values: no gradient is kept.

    `run(*inputs, keep, rate)` returns loss and parts, then for each entry of `biased` a pair (dz [K, O], h [K, I]) whose product dz' h is the
    gradient of a weight (True: and the sum of dz over K that of its bias), then the squared norms of all other gradients.
    """

    run: Callable[..., Any]
    biased: tuple[bool, ...]


def update_step(script: Script, skeleton: Skeleton) -> UpdateStep:
    """Return the step that updates in place; a leaf that gets no gradient only shrinks."""
    writer = _Writer(script)
    found = _products(script)
    source = {s: k for k, op in enumerate(script.ops) for s in op.outputs()}
    last_read = _last_reads(script, skeleton)
    after: dict[int, list[str]] = {}
    skipped: set[int] = set()
    pairs: dict[Slot, tuple[Slot, Slot]] = {}
    biased: dict[Slot, bool] = {}
    dots: list[str] = []
    for name, s in sorted(script.gradients.items(), key=lambda item: item[0] not in found.weights):  # weights first
        p = skeleton.parameters[name].detach()
        here = writer.held(p)
        when = max(last_read.get(name, -1), -1 if s is None else source.get(s, -1), 0)
        lines = after.setdefault(when, [])
        if s is None:
            lines.append(f"if keep != 1.0: {here}.mul_(keep)")
            continue
        if name in found.weights and p.is_contiguous():
            turned, dz, h = found.weights[name]
            (rows, outputs), inputs = script.tensors[dz].shape, script.tensors[h].shape[1]
            if rows**2 * (inputs + outputs) < _GRAM_PAYS * inputs * outputs and dz not in pairs:
                lines.append(f"{here}.addmm_({writer.name(turned)}, {writer.name(h)}, beta=keep, alpha=rate)")
                pairs[dz], biased[dz] = (dz, h), False
                skipped.update(found.operations[name])
                continue
        if name in found.biases and biased.get(found.biases[name]) is False:
            dz = found.biases[name]
            ones = writer.held(torch.ones(script.tensors[dz].shape[0], dtype=p.dtype, device=p.device))
            lines.append(f"{here}.addmv_({writer.name(dz)}.t(), {ones}, beta=keep, alpha=rate)")
            biased[dz] = True
            skipped.update(found.operations[name])
            continue
        g, flat = writer.name(s), f"d{len(dots)}"
        dots.append(flat)
        lines.append(f"{flat} = {g}.reshape(-1); {flat} = {writer.held(torch.dot)}({flat}, {flat})")
        lines.append(f"if keep != 1.0: {here}.mul_(keep)")
        lines.append(f"{here}.add_({g}, alpha=rate)")
    for k, op in enumerate(script.ops):
        if k not in skipped:
            writer.operation(op)
        writer.lines.extend(after.get(k, ()))
    factors = [writer.name(s) for pair in pairs.values() for s in pair]
    head = [*(f"v{k}" for k in range(script.inputs)), "keep", "rate"]
    run = writer.function(head, [*map(writer.name, [script.loss, *script.parts.values()]), *factors, *dots])
    return UpdateStep(run, tuple(biased.values()))


def _last_reads(script: Script, skeleton: Skeleton) -> dict[str, int]:
    """The last operation that reads a leaf's memory, by leaf."""
    width, base = skeleton.values.element_size(), skeleton.values.data_ptr()
    ranges = {n: (base + p.storage_offset() * width, base + (p.storage_offset() + p.numel()) * width) for n, p in skeleton.parameters.items()}
    found: dict[str, int] = {}
    for k, op in enumerate(script.ops):
        for s in op.inputs():
            at = script.tensors[s].data_ptr()
            found |= {name: k for name, (low, high) in ranges.items() if low <= at < high}
    return found
