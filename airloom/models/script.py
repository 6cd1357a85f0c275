"""A training step as a list of operations below autograd, recorded from one forward and backward pass.

`record` watches the pass. Operations that depend on the batch or on current values stay in the script; views of parameters and constants are kept as
the tensors that the recording made. A script belongs to the skeleton whose tensors it holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from airloom.models.batch import Batch
from airloom.models.dispatch import Watching
from airloom.models.objective import Objective, total_loss
from airloom.models.skeleton import HELD, Skeleton

_aten = torch.ops.aten
_SHAPE_ONLY = (_aten.ones_like.default, _aten.zeros_like.default, _aten.full_like.default)  # results that follow from shapes
BATCH_NORMS = (_aten.native_batch_norm.default, _aten.cudnn_batch_norm.default)  # they write running statistics, and do not say so


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


def memory(tensor: Tensor) -> int:
    """What tensors that share memory have in common."""
    return tensor.untyped_storage().data_ptr()


@final
class Recorder(Watching):
    """Write down all operations inside `with`; `inputs` change from step to step, every other tensor from outside is a constant."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.tensors: list[Tensor] = []  # by slot; held, so that no identity is used twice
        self.slots: dict[int, Slot] = {}
        self.made = {memory(t) for t in inputs}  # memory whose contents change from step to step
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
            if tensor.numel() and memory(tensor) in self.made:
                raise NotRecorded("a tensor of the step came back under another identity")
            found = self._new(tensor)
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _aten._local_scalar_dense.default:
            raise NotRecorded("the step looks at a value (.item(), float(...), or a branch on a tensor)")
        given = tree_map(lambda a: self.slot(a) if isinstance(a, Tensor) else a, (args, kwargs))
        known = {memory(self.tensors[s]) for s in tree_leaves(given) if isinstance(s, Slot)}
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
                if memory(leaf) not in known:
                    self.made.add(memory(leaf))
            return found

        self.ops.append(Op(func, given[0], given[1], tree_map(made, out)))
        return out


@final
@dataclass(slots=True)
class Script:
    """A recorded step: operations in order, constants, and what comes out.

    `once`: constants that one of the lifted tensors is copied into, once per training call. `inputs`: how many slots are inputs, from 0. `fresh`:
    slots that operations make. `gradients`: slot of each leaf's gradient, by name; None where
    the loss does not depend on it. `moved`: memory that became a part of another one after the recording.
    """

    once: list[tuple[Tensor, int]]
    ops: list[Op]
    tensors: list[Tensor]
    inputs: int
    fresh: set[Slot]
    loss: Slot
    parts: dict[str, Slot]
    gradients: dict[str, Slot | None]
    moved: dict[int, int] = field(default_factory=dict)

    def root(self, s: Slot) -> int:
        """What all slots of one memory share."""
        found = memory(self.tensors[s])
        while found in self.moved:
            found = self.moved[found]
        return found

    def results(self) -> list[Slot]:
        """Slots that outlive the step."""
        return [self.loss, *self.parts.values(), *(s for s in self.gradients.values() if s is not None)]

    def new(self, tensor: Tensor) -> Slot:
        """A slot for what another operation makes, with an example of it."""
        slot = self.constant(tensor)
        self.fresh.add(slot)
        return slot

    def constant(self, tensor: Tensor) -> Slot:
        """A slot for a constant."""
        slot = Slot(len(self.tensors))
        self.tensors.append(tensor)
        return slot

    def swapped(self, now: Callable[[Slot], Slot]) -> Script:
        """Put other slots in the place of those that are read or come out."""
        for op in self.ops:
            op.args, op.kwargs = tree_map(lambda a: now(a) if isinstance(a, Slot) else a, (op.args, op.kwargs))
        self.loss = now(self.loss)
        self.parts = {name: now(s) for name, s in self.parts.items()}
        self.gradients = {name: None if s is None else now(s) for name, s in self.gradients.items()}
        return self


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
    """Return the tensors of a batch in the order of a script's inputs, without gaps in memory, as scripts are recorded."""
    x = list(batch.x.values()) if isinstance(batch.x, dict) else [batch.x]
    return [t.contiguous() for t in (*x, batch.y, batch.ids, batch.weight) if t is not None]


def _reduced(script: Script, first_lifted: int) -> Script:
    """Drop what is constant, doubled or unused; copies of lifted tensors into constants (a teacher's values) leave the step."""
    tensors = script.tensors
    changed = {memory(tensors[s]) for op in script.ops if op.is_mutating for s in op.inputs()}
    writes = Counter(memory(tensors[op.args[0]]) for op in script.ops if op.is_mutating and isinstance(op.args[0], Slot))
    live = set(range(script.inputs)) | script.fresh
    swap: dict[Slot, Slot] = {}
    source: dict[Slot, Op] = {}
    kept: list[Op] = []
    for op in script.ops:
        op.args, op.kwargs = tree_map(lambda a: swap.get(a, a) if isinstance(a, Slot) else a, (op.args, op.kwargs))
        moving = [s for s in op.inputs() if s in live]
        outs = list(op.outputs())
        is_still = not (op.is_mutating or op.is_random) and not any(memory(tensors[s]) in changed for s in outs)
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
        if is_load and writes[memory(tensors[op.args[0]])] == 1:
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
