"""Freed memory, kept by the process for the next step.

By default glibc gives memory of some megabytes back to the system as soon as it is free, and every step of training pays for its pages again: on a
small convolutional network a fifth of the time.
"""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
KEPT_BYTES = 256 << 20  # free memory beyond this goes back to the system (ours)
LARGEST_BYTES = 32 << 20  # larger tensors have a mapping of their own, given back when they are freed (glibc's own upper bound)


def keep_freed() -> bool:
    """Keep up to 256 MB of freed memory in this process and those forked from it; return whether it is so.

    Nothing is changed where the C library is another one, or the environment sets `MALLOC_` variables or `GLIBC_TUNABLES`: then they say how.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(_MMAP_THRESHOLD, LARGEST_BYTES) and library.mallopt(_TRIM_THRESHOLD, KEPT_BYTES))
