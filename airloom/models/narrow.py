"""Products of a long matrix and a narrow one in compiled code, for adapters of a low rank: see `narrow.c`.

A library for all matrices takes some 2 to 3 times as long for them. Part of the rung `kernel`, on processors with AVX-512; elsewhere they stay with
torch.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from airloom.models.dense import NoKernel, built

Form: TypeAlias = Literal["rows", "columns"]
_NARROWEST, _WIDEST = 3, 8  # columns of the narrow factor: with more, torch's products are as fast (measured at 4, 8 and 16)
_LANES, _LONGEST, _LEAST = 16, 4096, 3e4  # of narrow.c; multiply-adds below which a call costs more than it saves
_TOLERANCE = 1e-5  # of the self-test: float32 against float64, relative to the largest value


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the library; None on processors without AVX-512. Built when it is first used, and checked against float64 once per process.

    Raises
    ------
    NoKernel: no compiler, or what it made is not right.
    """
    found = built(Path(__file__).with_name("narrow.c"))
    if isinstance(found, str):
        raise NoKernel(found)
    p, n = ctypes.c_void_p, ctypes.c_int64
    for function in (found.airloom_narrow_rows, found.airloom_narrow_columns):
        function.argtypes, function.restype = [p, p, n, p, n, n, n, n, n], None
    found.airloom_narrow_sums.argtypes, found.airloom_narrow_sums.restype = [p, p, n, n, p, n, n, p, ctypes.c_float, n, n, n], None
    if not found.airloom_narrow():
        return None
    g = torch.Generator().manual_seed(0)
    a, b, c, d = (torch.randn(size, generator=g) for size in ((203, 48), (48, 5), (203, 11), (48,)))
    h, A = c[:, :5], b.t()
    for got, want in (
        (_rows(found, a, b), a.double() @ b.double()),
        (_columns(found, a, c), a.double().t() @ c.double()),
        (_sums(found, h, A, d, 0.5), d.double() + 0.5 * h.double() @ A.double()),
    ):
        gap = float((got - want).abs().max() / want.abs().max())
        if not gap <= _TOLERANCE:
            raise NoKernel(f"what the compiler built differs from float64 by {gap:.1e}")
    return found


def form(a: Tensor, b: Tensor) -> Form | None:
    """The form of a product `a b`, with `a` [M, K] as it lies ("rows") or transposed ("columns"); None for a product that stays with torch."""
    if a.dtype != torch.float32 or b.dtype != torch.float32 or a.device.type != "cpu" or a.dim() != 2:
        return None
    (rows, inner), columns = a.shape, b.shape[1]
    if not _NARROWEST <= columns <= _WIDEST or rows * inner * columns < _LEAST:
        return None
    long = inner if a.stride(1) == 1 else rows
    if long % _LANES or long > _LONGEST:
        return None
    return "rows" if a.stride(1) == 1 else "columns" if a.stride(0) == 1 else None


def rows(a: Tensor, b: Tensor) -> Tensor:
    """Return `a b` for a long `a` [M, K], its rows in one piece, and a narrow `b` [K, N]."""
    return _rows(library(), a, b)


def columns(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `a b` for a wide `a` [O, M], its columns in one piece, and a narrow `b` [M, N]; `out` [O, N] takes it."""
    return _columns(library(), a.t(), b, out)


def sums(a: Tensor, b: Tensor, bias: Tensor | None, alpha: float) -> Tensor:
    """Return `bias + alpha a b` for a narrow `a` [M, N] and `b` [N, O], with a bias [O] per column, or none."""
    return _sums(library(), a, b, bias, alpha)


def is_sum(a: Tensor, b: Tensor, bias: Tensor | None) -> bool:
    """Whether `sums` takes it."""
    given = [a, b] if bias is None else [a, b, bias]
    if any(t.dtype != torch.float32 or t.device.type != "cpu" for t in given) or (bias is not None and (bias.dim() != 1 or not bias.is_contiguous())):
        return False
    (rows, inner), columns = a.shape, b.shape[1]
    return inner <= _WIDEST and rows * inner * columns >= _LEAST and columns % _LANES == 0 and columns <= _LONGEST


def _sums(found: ctypes.CDLL | None, a: Tensor, b: Tensor, bias: Tensor | None, alpha: float) -> Tensor:
    assert found is not None
    out = a.new_empty((a.shape[0], b.shape[1]))
    at = None if bias is None else bias.data_ptr()
    found.airloom_narrow_sums(out.data_ptr(), a.data_ptr(), *a.stride(), b.data_ptr(), *b.stride(), at, alpha, *a.shape, b.shape[1])
    return out


def _rows(found: ctypes.CDLL | None, a: Tensor, b: Tensor) -> Tensor:
    assert found is not None
    out = a.new_empty((a.shape[0], b.shape[1]))
    found.airloom_narrow_rows(out.data_ptr(), a.data_ptr(), a.stride(0), b.data_ptr(), *b.stride(), *a.shape, b.shape[1])
    return out


def _columns(found: ctypes.CDLL | None, a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    assert found is not None
    if out is None:
        out = a.new_empty((a.shape[1], b.shape[1]))
    found.airloom_narrow_columns(out.data_ptr(), a.data_ptr(), a.stride(0), b.data_ptr(), *b.stride(), *a.shape, b.shape[1])
    return out
