"""A Ref: the name of a value that stays where it was made until somebody asks for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Ref(ABC):
    """A value that stays at `place`; `ref[i]` and `ref["k"]` name (and move) only that part of it.

    Two Refs are equal when they name the same part of the same value. Stamps are in seconds of the run's clock; they are None until known:
    `started_s` (its call began), `made_s` (its call ended), `arrived_s` (it reached the place that asked first).
    """

    __slots__ = ()

    @property
    @abstractmethod
    def place(self) -> str:
        """Name of the place where the value was made."""

    @property
    @abstractmethod
    def started_s(self) -> float | None:
        """When the call that makes the value began."""

    @property
    @abstractmethod
    def made_s(self) -> float | None:
        """When the value was made."""

    @property
    @abstractmethod
    def arrived_s(self) -> float | None:
        """When the value first arrived at a place that asked for it."""

    @abstractmethod
    def __getitem__(self, key: Any) -> Ref:
        """Name a part of the value."""
