"""Recorded steps with fewer passes over memory.

`in_place` writes results where something lies that is needed no more, and `seen_once` leaves out views; they change no number. `summed` lets matrix
products add themselves to what they are added to, which rounds differently:

    y + s (P Q)        ->  y.addmm_(P, Q, alpha=s) where y is needed no more, else addmm(y, P, Q, alpha=s)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from airloom.models.script import Op, Script, Slot

_aten = torch.ops.aten
_INTO: dict[Any, tuple[Any, tuple[int, ...], str]] = {  # operation: the one that writes, arguments that it may write over, the keyword that names it
    _aten.relu.default: (_aten.relu_.default, (0,), ""),
    _aten.clamp_min.default: (_aten.clamp_min_.default, (0,), ""),
    _aten.add.Tensor: (_aten.add_.Tensor, (0, 1), ""),
    _aten.sub.Tensor: (_aten.sub_.Tensor, (0,), ""),
    _aten.mul.Tensor: (_aten.mul_.Tensor, (0, 1), ""),
    _aten.div.Tensor: (_aten.div_.Tensor, (0,), ""),
    _aten.threshold_backward.default: (_aten.threshold_backward.grad_input, (0,), "grad_input"),
    _aten.gelu_backward.default: (_aten.gelu_backward.grad_input, (0,), "grad_input"),
}
_VIEWS = (_aten.view.default, _aten._unsafe_view.default)


class _Uses:
    """Which memory is used where in a list of operations: slots of one memory share a root."""

    def __init__(self, script: Script, held: Iterable[Slot]) -> None:
        self.script = script
        self.last: dict[int, float] = {}  # by root: the last operation that reads or makes it
        self.written: dict[int, int] = {}  # by root: the last operation that writes over it
        self.count: Counter[Slot] = Counter()
        for k, op in enumerate(script.ops):
            self.count.update(op.inputs())
            for s in (*op.inputs(), *op.outputs()):
                self.last[self.script.root(s)] = k
            if op.is_mutating:
                self.written |= {self.script.root(s): k for s in op.inputs()}
        for s in (*script.results(), *held):
            self.count[s] += 1
            self.last[self.script.root(s)] = math.inf
        for s in {s for op in script.ops for s in op.inputs()} - script.fresh:  # inputs and constants outlive the step
            self.last[self.script.root(s)] = math.inf
        for s in range(script.inputs):
            self.last[self.script.root(Slot(s))] = math.inf

    def is_free(self, s: Slot, k: int) -> bool:
        """Whether operation k may write over a slot's memory."""
        return self.last[self.script.root(s)] <= k

    def write(self, s: Slot, out: Slot, k: int) -> None:
        """Operation k writes `out` over the memory of `s`."""
        kept, moved = self.script.root(s), self.script.root(out)
        self.written[kept] = k
        if moved != kept:
            self.last[kept] = max(self.last[kept], self.last[moved])
            self.script.moved[moved] = kept


def in_place(script: Script, held: Iterable[Slot] = ()) -> Script:
    """Write results over what is needed no more: the same numbers. `held` is kept as it is."""
    uses = _Uses(script, held)
    for k, op in enumerate(script.ops):
        if op.func not in _INTO or op.kwargs.get("alpha", 1) != 1:
            continue
        func, places, keyword = _INTO[op.func]
        for place in places:
            s, others = op.args[place], [a for i, a in enumerate(op.args) if i != place and isinstance(a, Slot)]
            if not isinstance(s, Slot) or not _is_like(script.tensors[s], script.tensors[op.out]) or not uses.is_free(s, k):
                continue
            if any(script.root(a) == script.root(s) and a != s for a in others):
                continue
            op.func = func
            if keyword:
                op.kwargs = {**op.kwargs, keyword: s}
            else:
                op.args = [s, *[a for i, a in enumerate(op.args) if i != place]]
            uses.write(s, op.out, k)
            break
    return script


def summed(script: Script, held: Iterable[Slot] = ()) -> Script:
    """Let products add themselves to what they are added to. `held` is kept as it is."""
    held = set(held)
    uses = _Uses(script, held)
    source = {s: k for k, op in enumerate(script.ops) for s in op.outputs()}
    swap: dict[Slot, Slot] = {}
    instead: dict[int, list[Op]] = {}

    def now(s: Slot) -> Slot:
        while s in swap:
            s = swap[s]
        return s

    def product(s: Slot) -> tuple[list[int], float] | None:
        """The operations from a product to a slot that nothing else uses, last first, and the factor on the way."""
        path, scale = [], 1.0
        while s in source and uses.count[s] == 1 and s not in swap:
            path.append(source[s])
            op = script.ops[source[s]]
            if op.func is _aten.mm.default:
                return path, scale
            if op.func is _aten.mul.Tensor and isinstance(op.args[1], int | float):
                scale *= op.args[1]
            elif op.func not in _VIEWS:
                return None
            s = op.args[0]
        return None

    for k, op in enumerate(script.ops):
        if op.func is not _aten.add.Tensor or op.kwargs or not all(isinstance(a, Slot) for a in op.args):
            continue
        for into, other in (op.args, op.args[::-1]):
            into, found = now(into), product(other)
            tensor, out = script.tensors[into], script.tensors[op.out]
            if found is None or not (_is_like(tensor, out) and _is_like(script.tensors[other], out) and out.is_contiguous()):
                continue
            path, scale = found
            a, b = (now(s) for s in script.ops[path[-1]].args)
            if any(uses.written.get(script.root(s), -1) > path[-1] for s in (a, b)) or script.root(into) in (script.root(a), script.root(b)):
                continue
            shape = script.tensors[script.ops[path[-1]].out].shape
            flat, new = into, []
            if tensor.shape != shape:
                flat = script.new(tensor.view(shape))
                new.append(Op(_aten.view.default, [into, list(shape)], {}, flat))
            named = {} if scale == 1.0 else {"alpha": scale}
            if uses.is_free(into, k):
                new.append(Op(_aten.addmm_.default, [flat, a, b], named, None))
                uses.write(into, op.out, k)
                swap[op.out] = into
            else:
                total = op.out if flat == into else script.new(out.view(shape))
                new.append(Op(_aten.addmm.default, [flat, a, b], named, total))
                if total != op.out:
                    new.append(Op(_aten.view.default, [total, list(out.shape)], {}, op.out))
            instead |= {done: [] for done in path} | {k: new}
            for s in (a, b):
                uses.last[script.root(s)] = max(uses.last[script.root(s)], k)
            break
    script.ops = [made for k, op in enumerate(script.ops) for made in instead.get(k, [op])]
    return script.swapped(now)


def seen_once(script: Script) -> Script:
    """Look at each tensor once per shape: views of views, views back and views made before are left out."""
    swap: dict[Slot, Slot] = {}
    base: dict[Slot, Slot] = {}  # of a view, what it is a view of
    made: dict[tuple[Slot, Any, Any], Slot] = {}
    ops: list[Op] = []
    for op in script.ops:
        op.args, op.kwargs = tree_map(lambda a: swap.get(a, a) if isinstance(a, Slot) else a, (op.args, op.kwargs))
        if op.func in _VIEWS and op.out in script.fresh:
            given: Slot = op.args[0]
            source, out = base.get(given, given), script.tensors[op.out]
            whole, shape = script.tensors[source], list(out.shape)
            if not _is_view(whole, out):
                source, whole = given, script.tensors[given]
            found = source if _is_same(whole, out) else made.get((source, tuple(shape), out.stride()))
            if found is not None:
                swap[op.out] = found
                continue
            op.func, op.args = _aten.view.default, [source, shape]
            made[source, tuple(shape), out.stride()] = op.out
            base[op.out] = source
        elif op.func is _aten.t.default:
            found = made.get((op.args[0], "t", None))
            if found is not None:
                swap[op.out] = found
                continue
            made[op.args[0], "t", None] = op.out
        ops.append(op)
    script.ops = ops
    read = {s for op in ops for s in op.inputs()} | set(script.swapped(lambda s: swap.get(s, s)).results())
    script.ops = [op for op in ops if not op.is_view or not read.isdisjoint(op.outputs())]
    return script


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Whether two views of one tensor are the same."""
    return a.shape == b.shape and a.stride() == b.stride()


def _is_view(whole: Tensor, out: Tensor) -> bool:
    """Whether `out` is what `whole.view` of its shape gives."""
    try:
        return whole.numel() == out.numel() and _is_same(whole.view(out.shape), out)
    except RuntimeError:  # its strides do not allow it
        return False


def without_ones(script: Script) -> Script:
    """Leave out multiplications by one."""
    swap: dict[Slot, Slot] = {}
    ops = []
    for op in script.ops:
        if op.func is _aten.mul.Tensor and isinstance(op.args[1], int | float) and op.args[1] == 1:
            first = op.args[0]
            if isinstance(first, Slot) and script.tensors[first].dtype == script.tensors[op.out].dtype:
                swap[op.out] = swap.get(first, first)
                script.moved[script.root(op.out)] = script.root(first)
                continue
        ops.append(op)
    script.ops = ops
    return script.swapped(lambda s: swap.get(s, s))


def _is_like(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors lie alike in memory, each value in a place of its own."""
    dense = a.is_contiguous() or a.is_contiguous(memory_format=torch.channels_last) if a.dim() == 4 else a.is_contiguous()
    return dense and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype
