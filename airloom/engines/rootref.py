"""Names of values that an engine keeps in a record of its own: the record and a path into the value."""

from __future__ import annotations

from typing import Any, Generic, Protocol, Self, TypeVar

from airloom.program.ref import Ref
from airloom.program.tree import Path


class Root(Protocol):
    """What a name needs to know of its value."""

    number: Any
    place: str
    started_s: float | None
    made_s: float | None


R = TypeVar("R", bound=Root)


class RootRef(Ref, Generic[R]):
    """Names a part of a value; equal names have the same record and path."""

    __slots__ = ("path", "root")

    def __init__(self, root: R, path: Path = ()) -> None:
        self.root = root
        self.path = path

    def __getitem__(self, key: Any) -> Self:
        return type(self)(self.root, (*self.path, key))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.root is self.root and other.path == self.path

    def __hash__(self) -> int:
        return hash((id(self.root), self.path))

    def __repr__(self) -> str:
        return f"Ref({self.root.number} at '{self.root.place}'{''.join(f'[{key!r}]' for key in self.path)})"

    @property
    def place(self) -> str:
        return self.root.place

    @property
    def started_s(self) -> float | None:
        return self.root.started_s

    @property
    def made_s(self) -> float | None:
        return self.root.made_s
