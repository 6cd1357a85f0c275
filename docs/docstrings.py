"""Lets examples at the end of a docstring, which stand without a heading, appear as code in the reference."""

from __future__ import annotations

from typing import Any

import griffe


def fenced(text: str) -> str:
    """Return a docstring with its bare examples between code fences; those under a heading are found without.

    >>> fenced("One.\\n\\n>>> 1 + 1\\n2").splitlines()[2]
    '```pycon'
    """
    if "\nExamples\n" in text:
        return text
    lines: list[str] = []
    is_inside = False
    for line in text.splitlines():
        if line.startswith(">>>") and not is_inside:
            lines.append("```pycon")
            is_inside = True
        elif is_inside and not line.strip():
            lines.append("```")
            is_inside = False
        lines.append(line)
    return "\n".join([*lines, "```"] if is_inside else lines)


class Examples(griffe.Extension):
    """Applies `fenced` to every docstring."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
