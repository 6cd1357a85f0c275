"""Dry runs do without torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest

from airloom.models.dispatch import spare_compiler

DRY_RUN = """
import sys, torch
from airloom.models.price import measure
layer = torch.nn.Linear(5, 3, device="meta")
def step():
    x, y = torch.empty(4, 5, device="meta"), torch.zeros(4, dtype=torch.long, device="meta")
    torch.nn.functional.cross_entropy(layer(x).relu(), y).backward()
print(measure(step).flops, "torch._dynamo" in sys.modules)
"""


def test_the_pinned_torch_has_functions_to_mark() -> None:
    assert spare_compiler() > 0


@pytest.mark.slow
def test_a_dry_run_does_not_import_the_compiler() -> None:
    # forward and the weights' gradient: 2 x 2 x 4 x 5 x 3 FLOPs; the data need none
    done = subprocess.run([sys.executable, "-c", DRY_RUN], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["240.0", "False"]
