"""The compiled rung: a recorded step as one graph, compiled by Inductor. All private calls of torch are in this file; it may fail, and then there is
the replayed script.

The graph is a function: gradients, and what the step would have written into constants (running statistics, counters), come out as values and are
copied back. Random layers draw from torch's own stream, so that they draw as the loop does. Machine code is kept in the user's cache.
"""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from airloom.models.dense import digest, processor
from airloom.models.script import BATCH_NORMS, NotRecorded, Op, Script, Slot
from airloom.models.skeleton import Skeleton

_aten = torch.ops.aten
_PURE = {_aten.add_.Tensor: _aten.add.Tensor}  # what modules do to their own counters
_SETTINGS = {"fallback_random": True, "compile_threads": 1}


def compiled_step(script: Script, skeleton: Skeleton, examples: list[Tensor]) -> Callable[..., Any]:
    """Return `step(*inputs) -> (loss, *parts)`, which leaves the gradient in the skeleton, like `gradient_step`.

    Raises
    ------
    NotRecorded: the compiler does not take the graph, or there is none.
    """
    graph, constants, written = _graph(script)
    targets = [(name, s) for name, s in script.gradients.items() if s is not None]
    still = [p.grad for name, p in skeleton.parameters.items() if script.gradients.get(name) is None and p.grad is not None]
    grads = [skeleton.parameters[name].grad for name, _ in targets]
    heads = 1 + len(script.parts)
    run = _compile(graph, [*examples, *constants])

    def step(*inputs: Tensor) -> Any:
        with torch.no_grad():
            out = run(*inputs, *constants)
            for g, made in zip(grads, out[heads:], strict=False):
                g.copy_(made)  # type: ignore[union-attr]
            for g in still:
                g.zero_()
            for target, made in zip(written, out[heads + len(grads) :], strict=True):
                target.copy_(made)
        return out[:heads]

    return step


def _compile(graph: fx.Graph, examples: list[Tensor]) -> Callable[..., Any]:
    try:
        with _cache(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Inductor's own imports use what torch deprecates
            from torch._inductor import config, standalone_compile

            module = fx.GraphModule(torch.nn.Module(), graph)
            with torch.no_grad(), config.patch(_SETTINGS):
                inputs: list[Any] = list(examples)
                return standalone_compile(module, inputs, dynamic_shapes="from_example_inputs", options={"config_patches": _SETTINGS})
    except Exception as error:  # private interface: whatever it raises, the script still runs
        raise NotRecorded(f"not compiled: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}") from error


@contextmanager
def _cache() -> Generator[None, None, None]:
    """A cache of this processor's own: Inductor's keys leave out which vector instructions it may use, and homes are shared between machines."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    os.environ[name] = str(
        Path(platformdirs.user_cache_dir("airloom")) / f"inductor-{digest(processor(), os.environ.get('ATEN_CPU_CAPABILITY', ''))}"
    )
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


def _graph(script: Script) -> tuple[fx.Graph, list[Tensor], list[Tensor]]:
    """Return the script as a graph of pure operations, the constants that follow its inputs, and the constants that its last results belong to."""
    graph = fx.Graph()
    nodes: dict[int, fx.Node] = {s: graph.placeholder(f"in{s}") for s in range(script.inputs)}
    constants: dict[Slot, Tensor] = {}
    for op in script.ops:
        for s in op.inputs():
            if s not in nodes and s not in script.fresh and s not in constants:
                constants[s] = script.tensors[s]
    for s in constants:
        nodes[s] = graph.placeholder(f"constant{int(s)}")
    changed: dict[Slot, fx.Node] = {}

    def value(argument: Any) -> Any:
        return map_aggregate(argument, lambda a: nodes[a] if isinstance(a, Slot) else a)

    for op in script.ops:
        func, args = op.func, value(tuple(op.args))
        if func in BATCH_NORMS[:1] and op.args[3] is not None:
            made = graph.call_function(_aten._native_batch_norm_legit_functional.default, args, value(op.kwargs))
            for k, s in enumerate(op.args[3:5]):
                changed[s] = nodes[s] = graph.call_function(operator.getitem, (made, 3 + k))
        elif op.is_mutating and any(s in constants for s in _written(op)):
            if func not in _PURE:
                raise NotRecorded(f"not compiled: {func} writes to a constant")
            made = graph.call_function(_PURE[func], args, value(op.kwargs))
            changed[op.args[0]] = nodes[op.args[0]] = made
            continue
        else:
            made = graph.call_function(func, args, value(op.kwargs))
        if isinstance(op.out, Slot):
            nodes[op.out] = made
        elif isinstance(op.out, tuple | list):
            for k, s in enumerate(op.out):
                if isinstance(s, Slot):
                    nodes[s] = graph.call_function(operator.getitem, (made, k))
    out = [script.loss, *script.parts.values(), *(s for s in script.gradients.values() if s is not None)]
    graph.output(tuple([*(nodes[s] for s in out), *changed.values()]))
    return graph, list(constants.values()), [constants[s] for s in changed]


def _written(op: Op) -> list[Slot]:
    """Slots that an operation with a mutable schema writes to."""
    arguments = zip(op.func._schema.arguments, op.args, strict=False)
    return [a for declared, a in arguments if isinstance(a, Slot) and declared.alias_info is not None and declared.alias_info.is_write]
