"""airloom: which method reaches my target first on my fleet, and what does it cost?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airloom.api import compare, resume, run, show

__version__ = "0.1.0"
__all__ = ["__version__", "compare", "resume", "run", "show"]


def __getattr__(name: str) -> Any:
    """Import the Python API when it is first asked for: it brings torch with it, which `airloom --help` can do without."""
    if name in ("compare", "resume", "run", "show"):
        from airloom import api

        return getattr(api, name)
    raise AttributeError(f"module 'airloom' has no attribute {name!r}")
