"""Arguments of a call, looked through once for all calls of a map."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from airloom.engines.pending import SimRef
from airloom.errors import ScenarioError
from airloom.program.ref import Ref
from airloom.program.tree import body_bytes, control_bytes, key_of, leaves, signature, version_of


class Arguments:
    """Arguments looked through once: their Refs, bodies, control bytes and versions."""

    __slots__ = ("_signature", "args", "body", "control", "parts", "refs", "versions")

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.args = args
        self.refs: list[SimRef] = []
        self.parts: list[tuple[int, Any, int]] = []
        self.versions: list[tuple[Any, int]] = []
        self.body = 0
        self.control = 0
        self._signature: Any = None
        for _, leaf in leaves(args):
            if isinstance(leaf, SimRef):
                self.refs.append(leaf)
                continue
            nbytes = body_bytes(leaf)
            if nbytes >= 0:
                self.parts.append((key_of(leaf), leaf, nbytes))
                self.body += nbytes
                self.versions.append((leaf, version_of(leaf)))
            elif isinstance(leaf, Ref):
                raise ScenarioError(f"argument {leaf!r}: got a Ref of another engine; allowed are Refs of this run")
            else:
                self.control += control_bytes(leaf)

    def signature(self) -> Any:
        """What a price may depend on."""
        if self._signature is None:
            self._signature = signature(self.args)
        return self._signature


def identity(fn: Callable[..., Any]) -> Any:
    """The bound object of a method, so that two methods with other fields have other prices."""
    return id(getattr(fn, "__self__", None))


def caller() -> str:
    """file:line of the method's text that called a verb."""
    frame = sys._getframe(3)  # pyright: ignore[reportPrivateUsage]  (inspect would read the source file)
    return f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}"
