"""Matrix products by oneDNN where it is faster than torch's own on this processor: the one file that calls torch's private form of it.

Which layouts gain is measured once per processor and kept in the user's cache, so that runs on one machine agree; the header of a record says which.
On AMD processors torch's library runs below what they can do, and most layouts gain; on Intel's none does.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias

import platformdirs
import torch
from torch import Tensor

from airloom.models.dense import digest, processor

Layout: TypeAlias = Literal["nt", "nn", "tn"]  # which factor lies transposed: a forward pass, the gradient by its input, that by its weights
LEAST = 2e5  # multiply-adds below which a call of oneDNN costs more than it saves (ours, from its cost of some 10 us)
_GAIN = 1.15  # times as fast, at least: less is not told from noise
_SIZES = ((32, 784, 128), (256, 256, 256))  # rows, inputs, outputs


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return `a b` by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


def affine(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return `a b + bias` by oneDNN, with a bias per column."""
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")


def layout(a: Tensor, b: Tensor) -> Layout | None:
    """How the factors of a product lie; None for products that stay with torch: small, strided, of other types or elsewhere than on the CPU."""
    if a.dtype != torch.float32 or a.is_cuda or b.is_cuda or a.shape[0] * a.shape[1] * b.shape[1] < LEAST:
        return None
    if a.is_contiguous():
        return "nn" if b.is_contiguous() else "nt" if b.t().is_contiguous() else None
    return "tn" if a.t().is_contiguous() and b.is_contiguous() else None


@functools.cache
def routed() -> frozenset[Layout]:
    """The layouts that go to oneDNN on this processor: read from the user's cache, or measured (some 50 ms) and kept there."""
    path = Path(platformdirs.user_cache_dir("airloom")) / f"products-{digest(processor(), torch.__version__)}.json"
    with suppress(OSError, ValueError):
        return frozenset(json.loads(path.read_text(encoding="utf-8")))
    found = measured()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():  # nobody could read it
            path.unlink()
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".json", encoding="utf-8") as file:
            json.dump(sorted(found), file)
            file.flush()
            os.link(file.name, path)  # whole, and only if no other process was first
    except FileExistsError:
        return frozenset(json.loads(path.read_text(encoding="utf-8")))
    except OSError:
        pass  # without a cache each process measures for itself
    return found


def measured() -> frozenset[Layout]:
    """Measure which layouts gain; none where torch has no oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return frozenset()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return frozenset([name for name in ("nt", "nn", "tn") if all([_gain(name, *size) > _GAIN for size in _SIZES])])
    except (RuntimeError, AttributeError):  # a torch whose private form is another one
        return frozenset()
    finally:
        torch.set_num_threads(threads)


def _gain(name: str, rows: int, inputs: int, outputs: int) -> float:
    """How many times as fast oneDNN is, in medians of turns."""
    a = torch.ones(inputs, rows).t() if name == "tn" else torch.ones(rows, inputs)
    b = torch.ones(outputs, inputs).t() if name == "nt" else torch.ones(inputs, outputs)
    ways: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (torch.mm, product)
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(12):
        for way, seconds in zip(ways, took, strict=True):
            began_s = time.perf_counter()
            way(a, b)
            seconds.append(time.perf_counter() - began_s)
    own, onednn = (statistics.median(seconds[2:]) for seconds in took)
    return own / onednn
