"""Simulated runs that take values in the order in which they arrived in a measured one."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from airloom import runner
from airloom.engines.simnode import SimNode
from airloom.program.ref import Ref


@contextmanager
def replayed(measured: Path) -> Iterator[None]:
    """Let `first` at every place give what it gave in the measured run, whose lines lie in `measured`."""
    orders: dict[str, deque[dict[str, Any]]] = defaultdict(deque)
    for line in map(json.loads, measured.read_text().splitlines()):
        if line["kind"] == "first":
            orders[line["place"]].append(line)

    class Replayed(SimNode):
        def first(self, refs: Sequence[Ref], k: int, timeout_s: float | None = None) -> tuple[list[Ref], list[Ref], list[Ref]]:
            if not orders[self.name]:
                return super().first(refs, k, timeout_s)
            order = orders[self.name].popleft()
            assert order["of"] == len(refs) and not order["lost"]
            chosen = [refs[i] for i in order["arrived"]]
            super().first(chosen, len(chosen))
            return chosen, [ref for i, ref in enumerate(refs) if i not in order["arrived"]], []

    with patch.object(runner, "SimNode", Replayed):
        yield
