"""What runs the matrix products of a recorded step: torch, oneDNN (see `products`), or compiled code for narrow ones (see `narrow`)."""

from __future__ import annotations

import torch

from airloom.models import narrow, products
from airloom.models.script import Op, Script, Slot, memory
from airloom.models.skeleton import Skeleton

_aten = torch.ops.aten
_COPIED_VALUES = 16_000_000  # of frozen weights, for all scripts of a skeleton: 64 MB beside weights of at least as much


def laid_out(script: Script, skeleton: Skeleton) -> Script:
    """Let products with a transposed frozen weight read a copy that lies as they go through it: a tenth to a fifth of their time by themselves.

    The scripts of a skeleton share the copies: there is a script for each size of a batch.
    """
    moving = {id(p) for p in skeleton.parameters.values()}
    frozen = {p.data_ptr(): p for p in skeleton.module.parameters() if p.dim() == 2 and p.is_contiguous() and id(p) not in moving}
    slots: dict[int, Slot] = {}
    for op in script.ops:
        if op.func not in (_aten.mm.default, _aten.addmm.default, _aten.addmm_.default) or op.args[-1] in script.fresh:
            continue
        tensor = script.tensors[op.args[-1]]
        at = tensor.data_ptr()
        weight = frozen.get(at)
        if weight is None or tensor.shape != weight.shape[::-1] or tensor.stride() != weight.stride()[::-1]:
            continue
        if at not in skeleton.straight:
            if tensor.numel() + sum(copy.numel() for copy in skeleton.straight.values()) > _COPIED_VALUES:
                continue
            skeleton.straight[at] = tensor.contiguous()
        if at not in slots:
            slots[at] = script.constant(skeleton.straight[at])
        op.args = [*op.args[:-1], slots[at]]
    return script


def begun(script: Script, skeleton: Skeleton) -> dict[int, list[Op]]:
    """Let sums `bias + x W + s h B` with a narrow `h` begin with `bias + s h B`, in one pass over the result; by position, what runs instead."""
    moving = memory(skeleton.values)  # a weight may change before the sum is finished
    instead: dict[int, list[Op]] = {}
    begins: dict[int, int] = {}  # by memory of the result: position of `bias + x W`
    for k, op in enumerate(script.ops):
        if op.func is _aten.addmm.default and not op.kwargs and moving not in (memory(script.tensors[s]) for s in op.args):
            begins[script.root(op.out)] = k
        first = begins.pop(script.root(op.args[0]), None) if op.func is _aten.addmm_.default else None
        if first is None:
            continue
        (bias, x, weight), (_, h, b), out = script.ops[first].args, op.args, script.ops[first].out
        between = range(first + 1, k)
        if any(_is_in_the_way(script, script.ops[i], script.ops[first]) for i in between):
            continue
        if narrow.is_sum(*(script.tensors[s] for s in (h, b, bias))):
            views = [i for i in between if script.ops[i].is_view and script.root(script.ops[i].args[0]) == script.root(out)]
            start = Op(narrow.sums, [h, b, bias, op.kwargs.get("alpha", 1.0)], {}, out)
            rest = Op(_aten.addmm_.default, [out, x, weight], {}, None)
            instead |= {i: [] for i in (first, *views)} | {k: [start, rest, *(script.ops[i] for i in views)]}
    return instead


def _is_in_the_way(script: Script, op: Op, first: Op) -> bool:
    """Whether an operation keeps another one from running after it: it uses the result, but for views, or writes over what goes into it."""
    touched = {script.root(s) for s in op.inputs()}
    if op.is_mutating and not touched.isdisjoint(script.root(s) for s in first.inputs()):
        return True
    return not op.is_view and script.root(first.out) in touched


def routed(op: Op, script: Script, *, is_kernel: bool) -> Op:
    """The operation, in compiled code where `is_kernel` and it is a narrow product, or by oneDNN where that is faster on this processor."""
    is_affine = op.func is _aten.addmm.default
    if (op.func is not _aten.mm.default and not is_affine) or op.kwargs or (is_affine and script.tensors[op.args[0]].dim() != 1):
        return op
    factors = [script.tensors[s] for s in op.args[-2:]]
    form = narrow.form(*factors) if is_kernel and not is_affine else None
    if form is not None:
        return Op(narrow.rows if form == "rows" else narrow.columns, op.args, {}, op.out)
    if products.layout(*factors) not in products.routed():
        return op
    return Op(products.affine if is_affine else products.product, op.args, {}, op.out)
