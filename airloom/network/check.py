"""The one form in which this room refuses a value: object and field, what it got, what is allowed, what to do."""

from __future__ import annotations

from math import inf
from typing import NoReturn

from airloom.errors import ScenarioError


def refuse(owner: str, field: str, got: object, allowed: str, todo: str) -> NoReturn:
    """Raise the `ScenarioError` of a field that got a value it cannot use."""
    raise ScenarioError(f"{owner}: {field}={got!r} must be {allowed}; {todo}.")


def need_positive(owner: str, field: str, value: float, todo: str) -> None:
    """Require a finite number above zero; NaN fails too."""
    if not 0.0 < value < inf:
        refuse(owner, field, value, "a finite number > 0", todo)


def need_non_negative(owner: str, field: str, value: float, todo: str) -> None:
    """Require a finite number of at least zero; NaN fails too."""
    if not 0.0 <= value < inf:
        refuse(owner, field, value, "a finite number >= 0", todo)


def need_share(owner: str, field: str, value: float, todo: str) -> None:
    """Require a share in (0, 1]; NaN fails too."""
    if not 0.0 < value <= 1.0:
        refuse(owner, field, value, "in (0, 1]", todo)
