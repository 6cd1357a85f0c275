"""What this machine reaches, measured in some seconds: arithmetic, memory, disk, and a hop between two processes.

Medians, as the seconds of a token are: the fastest of some repeats predicts a machine that nobody else uses.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from airloom.engines import ring
from airloom.models.decoder import write_decoder

_DISK_BYTES = 32 * 2**20
_REPEATS = 9  # ours


def machine(folder: Path) -> dict[str, Any]:
    """A computer as the scenario `home` takes it, but for its link and its watts, which no program can know.

    Arguments:
        folder: on the disk that holds the weights.
    """
    side, long = torch.randn(512, 512), torch.randn(4096, 4096)  # the first stays in the cache, the second (64 MiB) does not
    vector = torch.randn(4096)
    return {
        "name": platform.node() or "here",
        "system": "macos" if platform.system() == "Darwin" else "linux",
        "free_bytes": float(psutil.virtual_memory().available),
        "disk_bytes_per_s": disk_bytes_per_s(folder),
        "cpu_flops_per_s": 2 * 512**3 / median_s(lambda: side @ side),
        "cpu_bytes_per_s": 4 * 4096**2 / median_s(lambda: long @ vector),
        "software_s": software_s(),
    }


def software_s() -> float:
    """Seconds of a hop between two processes of this machine: what sockets and waking up take, whatever the link."""
    with ring.scratch() as folder:
        write_decoder(folder / "model", None)
        return ring.profile(folder / "model", 2).hop_s


def median_s(work: Callable[[], object]) -> float:
    """Median seconds of some repeats, after one that warms up."""
    work()
    taken: list[float] = []
    for _ in range(_REPEATS):
        began_s = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began_s)
    return median(taken)


def disk_bytes_per_s(folder: Path) -> float:
    """Rate of reading a file that is not in memory (where the system can be told to forget it; else the rate of its cache)."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(os.urandom(2**20) * (_DISK_BYTES // 2**20))
        file.flush()
        os.fsync(file.fileno())

        def read() -> None:
            if can_forget():
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.pread(file.fileno(), _DISK_BYTES, 0)

        return _DISK_BYTES / median_s(read)


def can_forget() -> bool:
    """Whether this system can forget pages of a file."""
    return "posix_fadvise" in vars(os)
