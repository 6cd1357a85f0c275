"""What the commands print with: one object on standard output, everything else on standard error."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 120  # of tables that go into a file

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run or of a comparison", show_default=False)]


def console(*, is_error: bool = True) -> Console:
    from rich.console import Console

    return Console(stderr=is_error, highlight=False, soft_wrap=True)


def tables() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(highlight=False, width=_WIDTH)


def say(markup: str) -> None:
    """One line on standard error."""
    console().print(markup)


def out(markup: str) -> None:
    """One line on standard output."""
    console(is_error=False).print(markup)


def escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def answer(ctx: typer.Context, answer: Mapping[str, Any]) -> None:
    """The one object on standard output."""
    ctx.obj["has_answered"] = True
    print(json.dumps(_finite(answer), allow_nan=False))


def _finite(value: Any) -> Any:
    """Return the value without the numbers that JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
