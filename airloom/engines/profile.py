"""What this machine reaches, measured in about two seconds: arithmetic, memory, disk, and a hop over a socket."""

from __future__ import annotations

import os
import platform
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from airloom.models.decoder import Decoder

_DISK_BYTES = 32 * 2**20
_LAYERS = 8  # of them are timed: a model may be larger than the memory (ours)
_REPEATS = 5  # the best of so many: other programs only ever slow a machine down


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
        "cpu_flops_per_s": 2 * 512**3 / best_s(lambda: side @ side),
        "cpu_bytes_per_s": 4 * 4096**2 / best_s(lambda: long @ vector),
    }


def best_s(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some repeats, after one that warms up."""
    work()
    taken: list[float] = []
    for _ in range(_REPEATS):
        began_s = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began_s)
    return min(taken)


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

        return _DISK_BYTES / best_s(read)


def can_forget() -> bool:
    """Whether this system can forget pages of a file."""
    return "posix_fadvise" in vars(os)


def hop_s(size_bytes: int) -> float:
    """Seconds that so many bytes take between two threads of this machine over a socket, one way."""
    near, far = socket.socketpair()

    def echo() -> None:
        while data := far.recv(size_bytes, socket.MSG_WAITALL):
            far.sendall(data)

    threading.Thread(target=echo, daemon=True).start()
    payload = bytes(size_bytes)

    def there_and_back() -> None:
        near.sendall(payload)
        near.recv(size_bytes, socket.MSG_WAITALL)

    seconds = best_s(there_and_back) / 2
    near.close()
    return seconds


def layer_s(decoder: Decoder) -> tuple[float, float]:
    """Seconds of one layer and of the output layer of a decoder, for one token.

    Layers take turns, as in decoding, so that each comes from memory and not from the processor's cache.
    """
    turns = min(decoder.shape.layers, _LAYERS)
    with torch.inference_mode():
        h = decoder.embed(0)

        def some() -> None:
            for number in range(turns):
                decoder.layer(number, h, 0)

        return best_s(some) / turns, best_s(lambda: decoder.output(h))
