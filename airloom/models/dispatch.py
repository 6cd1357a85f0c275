"""Dry runs without torch's compiler: all that keeps torch from importing it is here.

Torch guards many of its Python functions against its compiler, and to do so imports the whole compiler when such a function is first called: a
second or two, in every process. Dry runs on meta tensors call many of them and compile nothing. The private names of torch that this touches may go;
then the compiler is imported as before.
"""

from __future__ import annotations

from functools import cache
from inspect import getclosurevars
from types import FunctionType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Watching(TorchDispatchMode):
    """A mode that looks at torch's operations; nothing is ever compiled inside it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


@cache
def spare_compiler() -> int:
    """Mark the functions that give operations their shapes as guarded already; return how many there are (0: torch has changed)."""
    guard = getattr(torch, "_disable_dynamo", None)
    tables = getattr(getattr(torch, "_decomp", None), "global_decomposition_table", {})
    if not isinstance(guard, FunctionType):
        return 0
    seen: dict[int, None] = {}
    marked = 0
    stack: list[Any] = [function for table in tables.values() for function in table.values()]
    while stack:
        function = stack.pop()
        if not isinstance(function, FunctionType) or id(function) in seen:
            continue
        seen[id(function)] = None
        below = list(getclosurevars(function).nonlocals.values())
        stack += below
        if function.__code__.co_filename == guard.__code__.co_filename:
            for inner in below:
                if isinstance(inner, FunctionType):
                    inner.__dict__.setdefault("__dynamo_disable", inner)
                    marked += 1
    return marked
