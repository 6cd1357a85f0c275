"""Settings that all tests share: one thread per process, reproducible examples, and the folder with real data."""

# ruff: noqa: E402 (the variables must be set before torch is imported)
from __future__ import annotations

import os
from pathlib import Path

# Two OpenMP teams on a few cores slow each other down, and one thread makes sums reproducible.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("airloom", deadline=None, derandomize=True)
settings.load_profile("airloom")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder with the real data sets; the test is skipped where there is none."""
    named = os.environ.get("AIRLOOM_DATA")
    places = [Path(named)] if named else [REPOSITORY.parent / "shared" / "data", REPOSITORY / "shared" / "data"]
    for folder in places:
        if folder.is_dir():
            return folder
    pytest.skip(f"no real data: none of {[str(p) for p in places]} is a folder; set AIRLOOM_DATA to the folder with the data sets")
