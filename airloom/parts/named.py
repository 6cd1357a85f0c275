"""Parts by name, as on the command line: `select=oort`, `select=power_of_choice(candidates=20)`."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from airloom.errors import ScenarioError

Part = TypeVar("Part")


def make(socket: str, parts: Mapping[str, type[Part]], text: str) -> Part:
    """Make the part that `text` describes: a name, with fields in parentheses if wanted.

    Arguments:
        socket: what the part is for; opens the error message.
        parts: dataclasses by name.
        text: `name` or `name(field=value, ...)`; values are Python literals.

    Raises:
        ScenarioError: an unknown name or field, a missing field, or a value that is no literal.

    >>> from airloom.parts.select import SELECTORS
    >>> make("select", SELECTORS, "power_of_choice(candidates=20)")
    PowerOfChoice(candidates=20)
    """
    name = text.partition("(")[0].strip()
    if name not in parts:
        raise ScenarioError(f"{socket}={text!r}: unknown; allowed: {', '.join(sorted(parts))}, each with fields in parentheses if wanted")
    allowed = ", ".join(f.name for f in fields(parts[name])) or "no fields"  # type: ignore[arg-type]
    try:
        parsed = ast.parse(text.strip(), mode="eval").body
        if isinstance(parsed, ast.Call) and parsed.args:
            raise ValueError("fields need their names")
        keywords = parsed.keywords if isinstance(parsed, ast.Call) else []
        return parts[name](**{str(keyword.arg): _value(keyword.value) for keyword in keywords})
    except (SyntaxError, ValueError, TypeError) as wrong:
        raise ScenarioError(f"{socket}={text!r}: {wrong}; fields of {name}: {allowed}; write {name}(field=value, ...)") from wrong


def _value(written: ast.expr) -> Any:
    """The value of a field as it is written."""
    try:
        return ast.literal_eval(written)
    except ValueError as wrong:
        raise ValueError(f"{ast.unparse(written)} is no value; allowed are numbers, True, False, None and text in quotes") from wrong
