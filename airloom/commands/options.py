"""Reading what is given on the command line: `name=number`, `field=value`, targets and budgets."""

from __future__ import annotations

import math
from typing import Any

from airloom.errors import ScenarioError


def numbered(option: str, text: str, example: str) -> tuple[str, float]:
    """Split `name=number`."""
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not equals or not name or not math.isfinite(number):
        raise ScenarioError(f"{option} {text!r}: got no name=number; write for example {option} {example}")
    return name.strip(), number


def pairs(texts: list[str]) -> dict[str, str]:
    """Split `field=value`."""
    from airloom.resolve import pair

    return dict(map(pair, texts))


def target_of(text: str | None) -> Any:
    """Read a target; None for none, "scenario" where it was not given."""
    if text is None or text == "none":
        return "scenario" if text is None else None
    return numbered("--target", text, "accuracy=0.9")


def budgets(texts: list[str]) -> dict[str, float] | None:
    """Read budgets; None where none was given."""
    return dict(numbered("--budget", text, "seconds=600") for text in texts) or None


def workers_of(text: str | None) -> Any:
    """Read a number of processes; "ray" and None as they are."""
    if text is None or text == "ray":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise ScenarioError(f"--workers {text!r}: allowed are integers >= 1 and ray")
    return int(text)
