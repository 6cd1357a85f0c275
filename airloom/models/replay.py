"""A recorded step run again, as a Python function of tensor operations: without autograd and without the module's Python code.

Shapes: K rows (samples, or samples x positions), O x I of a weight, S steps.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from airloom.models import narrow
from airloom.models.fuse import in_place, seen_once, summed, without_ones
from airloom.models.route import begun, laid_out, routed
from airloom.models.script import NotRecorded, Op, Script, Slot
from airloom.models.skeleton import Skeleton

_aten = torch.ops.aten
_PLAIN: dict[Any, Callable[..., Any]] = {  # the same operations with less overhead per call
    _aten.mm.default: torch.mm,
    _aten.addmm.default: torch.addmm,
    _aten.relu.default: torch.relu,
    _aten._log_softmax.default: torch._log_softmax,  # type: ignore[attr-defined]
    _aten.t.default: torch.t,
    _aten.view.default: Tensor.view,
    _aten.sum.dim_IntList: torch.sum,
    _aten.relu_.default: torch.relu_,
    _aten.add_.Tensor: Tensor.add_,
    _aten.mul_.Tensor: Tensor.mul_,
    _aten.addmm_.default: Tensor.addmm_,
}
_GRAM_PAYS = 15.0  # K^2 (I + O) below this times I O: the norm of a product costs less by its factors (ours, from matrix and memory speed)


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

    def product(self, op: Op, gradient: Tensor, *, is_kernel: bool = False) -> None:
        """Write a product that goes straight into the flat gradient."""
        a, b = map(self.name, op.args)
        is_narrow = is_kernel and narrow.form(*(self.script.tensors[s] for s in op.args)) == "columns"
        self.lines.append(f"{self.held(narrow.columns if is_narrow else torch.mm)}({a}, {b}, out={self.held(gradient)})")

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
    uses.update(script.results())

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
    script = seen_once(in_place(script))
    writer = _Writer(script)
    found = _products(script)
    targets: dict[int, tuple[str, Tensor]] = {}
    for name in found.weights:
        g = skeleton.parameters[name].grad
        if g is not None and g.is_contiguous():
            targets[found.operations[name][0]] = (name, g)
    for k, op in enumerate(script.ops):
        if k in targets:
            writer.product(op, targets[k][1])
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


def update_step(script: Script, skeleton: Skeleton, *, is_kernel: bool = False) -> UpdateStep:
    """Return the step that updates in place; a leaf that gets no gradient only shrinks. `is_kernel`: narrow products run in compiled code."""
    is_kernel = is_kernel and narrow.library() is not None
    script = without_ones(script)
    paying = {name: pair for name, (_, *pair) in _products(script).weights.items() if _is_gram_cheap(script, *pair)}
    factors = {s for pair in paying.values() for s in pair}
    script = laid_out(seen_once(in_place(summed(script, factors), factors)), skeleton)
    writer = _Writer(script)
    found = _products(script)
    made = {script.root(s): k for k, op in enumerate(script.ops) for s in (*op.outputs(), *(op.inputs() if op.is_mutating else ()))}
    last_read = _last_reads(script, skeleton)
    after: dict[int, list[str]] = {}
    skipped: set[int] = set()
    written: dict[int, Tensor] = {}  # operations that make a gradient, and where it goes
    pairs: dict[Slot, tuple[Slot, Slot]] = {}
    biased: dict[Slot, bool] = {}
    dots: list[str] = []
    for name, s in sorted(script.gradients.items(), key=lambda item: item[0] not in found.weights):  # weights first
        p = skeleton.parameters[name].detach()
        here = writer.held(p)
        when = max(last_read.get(name, -1), -1 if s is None else made.get(script.root(s), -1), 0)
        lines = after.setdefault(when, [])
        if s is None:
            lines.append(f"if keep != 1.0: {here}.mul_(keep)")
            continue
        if name in found.weights and p.is_contiguous():
            turned, dz, h = found.weights[name]
            if dz not in pairs and name in paying:
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
        if name in found.weights and p.is_contiguous():
            written[found.operations[name][0]] = skeleton.gradient[(start := p.storage_offset()) : start + p.numel()].view(p.shape)
            continue
        g, flat = writer.name(s), f"d{len(dots)}"
        dots.append(flat)
        lines.append(f"{flat} = {g}.reshape(-1); {flat} = {writer.held(torch.dot)}({flat}, {flat})")
        lines.append(f"if keep != 1.0: {here}.mul_(keep)")
        lines.append(f"{here}.add_({g}, alpha=rate)")
    instead = begun(script, skeleton) if is_kernel else {}
    for k, op in enumerate(script.ops):
        if k in written:
            writer.product(op, written[k], is_kernel=is_kernel)
        elif k not in skipped:
            for part in instead.get(k, [op]):
                writer.operation(routed(part, script, is_kernel=is_kernel))
        writer.lines.extend(after.get(k, ()))
    for start, stop in _stretches(written.values()):
        g, values, norm = writer.held(skeleton.gradient[start:stop]), writer.held(skeleton.values[start:stop]), f"d{len(dots)}"
        dots.append(norm)
        writer.lines += [f"{norm} = {writer.held(torch.dot)}({g}, {g})", f"if keep != 1.0: {values}.mul_(keep)", f"{values}.add_({g}, alpha=rate)"]
    out = [script.loss, *script.parts.values(), *(s for pair in pairs.values() for s in pair)]
    run = writer.function([*(f"v{k}" for k in range(script.inputs)), "keep", "rate"], [*map(writer.name, out), *dots])
    return UpdateStep(run, tuple(biased.values()))


def _stretches(parts: Iterable[Tensor]) -> list[tuple[int, int]]:
    """Where parts of a vector begin and end, neighbors in one."""
    found: list[tuple[int, int]] = []
    for start, size in sorted((int(part.storage_offset()), part.numel()) for part in parts):
        first = found.pop()[0] if found and found[-1][1] == start else start
        found.append((first, start + size))
    return found


def _is_gram_cheap(script: Script, dz: Slot, h: Slot) -> bool:
    """Whether the norm of the product dz' h costs less by its factors than by itself."""
    (rows, outputs), inputs = script.tensors[dz].shape, script.tensors[h].shape[1]
    return rows**2 * (inputs + outputs) < _GRAM_PAYS * inputs * outputs


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
