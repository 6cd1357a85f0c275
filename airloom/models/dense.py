"""The compiled kernel for chains of dense layers: a whole training call of plain gradient descent in one call of C.

`dense.c` is part of the package and is built with the machine's C compiler when it is first used, once per processor and version, into the user's
cache. Without a compiler there is no kernel, and nothing needs one.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import final

import platformdirs
import torch
from torch import Tensor, nn

from airloom.models.batch import Batches
from airloom.models.objective import CrossEntropy, Objective
from airloom.models.skeleton import Skeleton

_SOURCE = Path(__file__).with_name("dense.c")
_FLAGS = (("-O3", "-march=native"), ("-O3", "-mcpu=native"), ("-O3",))  # the first set that the compiler takes
_LANES = 16  # of dense.c
_PATIENCE_S = 600  # with the compiler; generous, since giving up changes the rung
_TOLERANCE = 1e-5  # of the self-test: float32 against float64, relative to the largest change


@final
class NoKernel(RuntimeError):
    """There is no kernel on this machine; the text says why."""


def kernel() -> ctypes.CDLL:
    """Return the library; builds it where the cache has none. The first use in a process checks it against float64.

    Raises
    ------
    NoKernel: no compiler, or what it made is not right.
    """
    found = _found()
    if isinstance(found, str):
        raise NoKernel(found)
    return found


@functools.cache
def _found() -> ctypes.CDLL | str:
    """The library, or why there is none; looked for once per process."""
    library = built(_SOURCE)
    if isinstance(library, str):
        return library
    p, n = ctypes.c_void_p, ctypes.c_int64
    library.airloom_dense.argtypes = [p, p, n, p, p, n, n, p, p, p, p, p, p]
    library.airloom_dense.restype = ctypes.c_int
    gap = _gap(library)
    return library if gap <= _TOLERANCE else f"what the compiler built differs from float64 by {gap:.1e} of a step"


def built(source: Path) -> ctypes.CDLL | str:
    """A C file of the package as a library, built where the user's cache has none; or why there is none."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return "there is no C compiler (cc)"
    folder = Path(platformdirs.user_cache_dir("airloom"))
    try:
        path = folder / f"{source.stem}-{_name(source, compiler)}.so"
        if not path.is_file():
            _build(source, compiler, folder, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        return f"it could not be built: {error}"


def _name(source: Path, compiler: str) -> str:
    """Digest of all that the machine code depends on."""
    told = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=_PATIENCE_S, check=False).stdout
    return digest(source.read_text(), compiler, told, repr(_FLAGS), processor())


def processor() -> str:
    """What machine code made here depends on: system, processor and the instructions it has."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    return "\n".join([platform.platform(), platform.processor(), *[x for x in lines if x.startswith(("flags", "Features", "model name"))][:2]])


def digest(*texts: str) -> str:
    """Short name for machine code that was made from these texts."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:20]


def _build(source: Path, compiler: str, folder: Path, path: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / "made.so"
        for flags in _FLAGS:
            done = subprocess.run(
                [compiler, *flags, "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC", str(source), "-o", str(made), "-lm"],
                capture_output=True, text=True, timeout=_PATIENCE_S, check=False,
            )  # fmt: skip
            if done.returncode == 0:
                os.replace(made, path)  # whole or not at all, whoever else builds it now
                return
    raise OSError(done.stderr.strip()[-300:])


def _gap(library: ctypes.CDLL) -> float:
    """Largest difference to float64 after two steps on odd sizes, relative to the largest change."""
    g = torch.Generator().manual_seed(0)
    sizes = [(37, 33), (33, 17), (17, 5)]
    layers = [nn.Linear(i, o, dtype=torch.float64) for i, o in sizes]
    chain, offset = [], 0
    for layer, (i, o) in zip(layers, sizes, strict=True):
        chain += [(i, o, offset, offset + i * o)]
        offset += i * o + o
        for p in layer.parameters():
            p.data = torch.randn(p.shape, generator=g, dtype=torch.float64).float().double() / i**0.5
    start = torch.cat([p.detach().flatten() for layer in layers for p in layer.parameters()])
    x, y = torch.randn(2, 21, 37, generator=g), torch.randint(0, 5, (2, 21), generator=g)
    with torch.enable_grad():
        for k in range(2):
            h = x[k].double()
            for layer in layers:
                h = layer(h if layer is layers[0] else h.relu())
            parameters = [p for layer in layers for p in layer.parameters()]
            for p, d in zip(parameters, torch.autograd.grad(nn.functional.cross_entropy(h, y[k]), parameters), strict=True):
                p.data = 0.9 * p.data - 0.5 * (d + 0.01)
    want = torch.cat([p.detach().flatten() for p in parameters])
    values = start.float().contiguous()
    _call(library, values, chain, x, y, [0.9] * 2, [-0.5] * 2, torch.full_like(values, 0.01))
    return float((values - want).abs().max() / (want - start).abs().max())


def _call(
    library: ctypes.CDLL,
    values: Tensor,
    chain: list[tuple[int, int, int, int]],
    x: Tensor,
    y: Tensor,
    keep: list[float],
    rate: list[float],
    constant: Tensor | None,
) -> tuple[Tensor, Tensor] | None:
    steps, batch = y.shape
    lanes = -(-batch // _LANES) * _LANES
    layers = torch.tensor(chain)
    work = torch.empty(sum(i * (lanes + batch) + o * lanes for i, o, _, _ in chain))
    losses, squares = torch.empty(steps), torch.empty(steps)
    keeps, rates = torch.tensor(keep, dtype=torch.float32), torch.tensor(rate, dtype=torch.float32)
    given = [values, layers, len(chain), x, y, steps, batch, keeps, rates, constant, work, losses, squares]
    failed = library.airloom_dense(*(t.data_ptr() if isinstance(t, Tensor) else t for t in given))
    return None if failed else (losses, squares)


def dense_chain(skeleton: Skeleton, objective: Objective) -> list[tuple[int, int, int, int]] | None:
    """Return (inputs, outputs, offset of weight, offset of bias) of each layer, or None where the model or the objective is another one.

    >>> from airloom.models import zoo
    >>> with zoo.mlp(inputs=4, hidden=(3,), classes=2).skeleton("cpu") as skeleton:
    ...     dense_chain(skeleton, CrossEntropy())
    [(4, 3, 0, 12), (3, 2, 15, 21)]
    """
    module = skeleton.module
    if not isinstance(module, nn.Sequential) or objective != CrossEntropy() or skeleton.values.dtype != torch.float32 or skeleton.values.is_cuda:
        return None
    if type(module) is not nn.Sequential or any(m._forward_hooks or m._forward_pre_hooks for m in module.modules()):
        return None
    children = [m for m in module if not isinstance(m, nn.Flatten | nn.Identity)]
    if not children or any(type(m) is not (nn.ReLU if k % 2 else nn.Linear) for k, m in enumerate(children)) or not len(children) % 2:
        return None
    flatten = [m for m in module if isinstance(m, nn.Flatten)]
    if any(m is not module[0] or (m.start_dim, m.end_dim) != (1, -1) for m in flatten):
        return None
    base, width = skeleton.values.data_ptr(), skeleton.values.element_size()
    chain = []
    for layer in children[::2]:
        if not isinstance(layer, nn.Linear) or layer.bias is None:
            return None
        at = [(p.data_ptr() - base) // width for p in (layer.weight, layer.bias)]
        chain.append((layer.weight.shape[1], layer.weight.shape[0], *at))
    covered = sum((i + 1) * o for i, o, _, _ in chain)
    return chain if covered == skeleton.values.numel() else None


def dense_inputs(batches: Batches, inputs: int) -> tuple[Tensor, Tensor] | None:
    """Return inputs [S, B, I] and labels [S, B] as the kernel reads them, or None where the batches are of another kind."""
    x, y = batches.x, batches.y
    if isinstance(x, dict) or batches.weight is not None or batches._lazy is not None or x.dtype != torch.float32 or y.dtype != torch.int64:
        return None
    if y.dim() != 2 or x.shape[2:].numel() != inputs or x.is_cuda:
        return None
    return x.reshape(*y.shape, inputs).contiguous(), y.contiguous()


def run_dense(
    chain: list[tuple[int, int, int, int]],
    values: Tensor,
    data: tuple[Tensor, Tensor],
    keep: list[float],
    rate: list[float],
    constant: Tensor | None,
) -> tuple[Tensor, Tensor] | None:
    """Train values in place: `p <- keep p + rate (g + constant)` per step. Returns losses [S] and squared gradient norms [S].

    None where a label is no class: the loop knows what to say, or do.
    """
    return _call(kernel(), values, chain, *data, keep, rate, constant)
