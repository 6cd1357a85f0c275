"""A forward pass that is kept, and its backward pass later: split learning without paying the forward pass twice."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from airloom.errors import ScenarioError
from airloom.models.batch import Inputs, map_inputs
from airloom.models.module import ModelSpec, Skeleton
from airloom.models.params import Params
from airloom.models.step import run_module, seeded, set_mode


@final
class Tape:
    """What a kept forward pass needs for its backward passes; made by `forward(keep=True)`, used by `vjp`, as often as wanted.

    It stays at its place (a Ref to it can be passed on only there) and counts as memory: `nbytes`.
    """

    __slots__ = ("_parameters", "_watched", "inputs", "nbytes", "outputs", "spec", "until")

    def __init__(
        self, spec: ModelSpec, inputs: Inputs, outputs: Any, until: str | None, parameters: dict[str, Tensor], watched: Inputs, nbytes: int
    ) -> None:
        self.spec, self.inputs, self.outputs, self.until, self.nbytes = spec, inputs, outputs, until, nbytes
        self._parameters, self._watched = parameters, watched

    @property
    def is_meta(self) -> bool:
        """Whether there are shapes only."""
        return any(t.is_meta for t in tree_leaves(self.outputs) if isinstance(t, Tensor))


def run_kept(skeleton: Skeleton, x: Params, inputs: Inputs, until: str | None, seed: int, nbytes: int) -> tuple[Any, Tape]:
    """Run forward in training mode on values of its own, and keep the graph."""
    spec = x.spec
    leaves: dict[str, Tensor] = {}
    named: dict[str, Tensor] = {}
    for leaf in spec.leaves:
        value = x.flat.detach()[leaf.offset : leaf.offset + leaf.size].view(leaf.shape)
        if leaf.is_buffer:
            value = value.clone()  # running statistics are written in place
        else:
            value = leaves[leaf.name] = value.detach().requires_grad_()
        if leaf.name in skeleton.names:
            named[skeleton.names[leaf.name]] = value
    skeleton.load(x.flat)
    set_mode(skeleton.module, True)
    given = map_inputs(lambda t: t.detach().requires_grad_() if t.is_floating_point() else t, inputs)
    before = seeded(seed)
    try:
        with torch.enable_grad():
            out = run_module(skeleton.module, given, until, lambda m, i: torch.func.functional_call(m, named, (i,)))
    finally:
        torch.set_rng_state(before)
    tape = Tape(spec, inputs, out, until, leaves, given, nbytes)
    return tree_map(lambda t: t.detach() if isinstance(t, Tensor) else t, out), tape


def run_vjp(tape: Tape, g: Any, wrt: tuple[str, ...]) -> list[Any]:
    """Return vector-Jacobian products with respect to `params` (flat) and `inputs`."""
    outputs = [t for t in tree_leaves(tape.outputs) if isinstance(t, Tensor) and t.requires_grad]
    cotangents = [t for t in tree_leaves(g) if isinstance(t, Tensor)]
    if len(cotangents) != len(outputs) or any(a.shape != b.shape for a, b in zip(outputs, cotangents, strict=True)):
        got = [tuple(t.shape) for t in cotangents]
        raise ScenarioError(f"vjp(g): got shapes {got}; allowed: one tensor per output, {[tuple(t.shape) for t in outputs]}")
    parameters = list(tape._parameters.values()) if "params" in wrt else []
    given = [t for t in tree_leaves(tape._watched)] if "inputs" in wrt else []
    watched = [t for t in given if t.requires_grad]
    found = torch.autograd.grad(outputs, [*parameters, *watched], cotangents, retain_graph=True, allow_unused=True)
    out: list[Any] = []
    if "params" in wrt:
        spec = tape.spec
        pieces = [(torch.zeros_like(p) if d is None else d).reshape(-1) for p, d in zip(parameters, found, strict=False)]
        out.append(torch.cat([*pieces, outputs[0].new_zeros(spec.size - spec.trainable_size, dtype=spec.dtype)]))
    if "inputs" in wrt:
        ds = iter(found[len(parameters) :])
        back = [d if t.requires_grad and (d := next(ds)) is not None else torch.zeros_like(t) for t in given]
        out.append(dict(zip(tape._watched, back, strict=True)) if isinstance(tape._watched, dict) else back[0])
    return out
