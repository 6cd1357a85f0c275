"""The architecture as a test: each room imports only from the rooms above it, engines never name a method, planners stay free of torch."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "airloom"
ROOMS = (
    "network",
    "clock",
    "models",
    "tasks",
    "program",
    "parts",
    "plans",
    "methods",
    "serving",
    "security",
    "engines",
    "scenarios",
    "records",
    "runner",
    "resolve",
    "deployment",
    "jobs",
    "tune",
    "gateway",
    "api",
    "sweep",
    "doctor",
    "commands",
    "cli",
)
FREE = ("airloom.errors", "airloom.clock.rng")  # all rooms may import these
TOP = ("__init__", "__main__")  # modules of the package itself that join the rooms
ROOT = ("runner", "cli")  # these may ask the package itself, for its version
FORBIDDEN = {  # beyond the order
    "plans": ("airloom.models", "airloom.tasks", "airloom.program", "airloom.parts", "torch"),
    "engines": ("airloom.methods", "airloom.serving", "airloom.security"),
}


def modules() -> dict[str, Path]:
    """Dotted name of every module of the package, with its file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source: str, name: str, is_package: bool, known: dict[str, Path]) -> set[str]:
    """Dotted names that a module's text imports, at any depth of its functions; relative ones resolved."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = name.split(".") if is_package else name.split(".")[:-1]
                base = ".".join(here[: len(here) - node.level + 1] + ([node.module] if node.module else []))
            # `from airloom.plans import star` imports the module airloom.plans.star, not a name in airloom.plans
            found.update(f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names)
    return found


def is_under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


def violations(name: str, imported: set[str]) -> list[str]:
    """What a module imports although its room may not."""
    room = room_of(name)
    found = []
    for other in sorted(imported):
        if any(is_under(other, prefix) for prefix in FORBIDDEN.get(room, ())):
            found.append(f"{name} imports {other}, which {room} never may")
        elif is_under(other, "airloom") and other not in FREE and room not in TOP and not (other == "airloom" and room in ROOT):
            below = room_of(other)
            if room not in ROOMS or below not in ROOMS or ROOMS.index(below) > ROOMS.index(room):
                found.append(f"{name} imports {other}; a room imports only from those above it: {', '.join(ROOMS)}")
    return found


KNOWN = modules()
GRAPH = {name: imports(path.read_text(), name, path.name == "__init__.py", KNOWN) for name, path in KNOWN.items()}


def test_every_module_has_a_room() -> None:
    assert {room_of(name) for name in KNOWN} <= {*ROOMS, *TOP, "errors"}


def test_each_room_imports_only_from_those_above_it() -> None:
    found = [line for name, imported in GRAPH.items() for line in violations(name, imported)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("room", ["network", "plans"])
def test_network_and_plans_reach_no_torch_through_what_they_import(room: str) -> None:
    seen: set[str] = set()
    ahead = [name for name in KNOWN if room_of(name) == room]
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead += [other for other in GRAPH.get(name, ()) if other != "airloom"]
    assert not [name for name in seen if is_under(name, "torch")]


@pytest.mark.parametrize(
    ("name", "source", "is_allowed"),
    [
        ("airloom.plans.star", "from airloom.network.link import Link", True),
        ("airloom.plans.star", "import torch.nn", False),
        ("airloom.network.link", "from airloom import errors", True),
        ("airloom.network.link", "from ..clock import rng", True),
        ("airloom.network.link", "from ..clock import kernel", False),
        ("airloom.methods.fedavg", "def f():\n    from airloom.engines import simulated", False),
        ("airloom.engines.simulated", "from airloom.methods import fedavg", False),
        ("airloom.engines.simulated", "from . import executors", True),
        ("airloom.scenarios.phones", "import airloom.methods.fedavg", True),
        ("airloom.errors", "import airloom.network", False),
        ("airloom.runner", "from airloom import __version__", True),
        ("airloom.records.record", "from airloom.runner import run", False),
        ("airloom.__main__", "from airloom.cli import main", True),
        ("airloom.models.params", "import airloom", False),
    ],
)
def test_the_rule_itself(name: str, source: str, is_allowed: bool) -> None:
    known = dict.fromkeys(
        ["airloom.errors", "airloom.clock.rng", "airloom.clock.kernel", "airloom.methods.fedavg", "airloom.engines.simulated"], PACKAGE
    )
    assert (not violations(name, imports(source, name, False, known))) == is_allowed
