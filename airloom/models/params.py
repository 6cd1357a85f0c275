"""Model values as an immutable algebra over one flat vector."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from airloom.errors import ScenarioError

if TYPE_CHECKING:
    from airloom.models.module import ModelSpec
    from airloom.models.submodel import Submodel

Scalar = int | float | np.number[Any] | Tensor


def _scalar(value: object) -> float | Tensor | None:
    """Return `value` as something a tensor takes as one number, or None."""
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, np.number | np.bool_):
        return value.item()
    if isinstance(value, Tensor) and value.dim() == 0:
        return value
    return None


@final
class Params:
    """The values of a model: a flat vector and the `ModelSpec` that says what is where.

    Immutable: every operation returns new values. Arithmetic is one torch operation on the flat vector; values of different specs do not mix.
    `x[sub]` takes a slice (itself a model where that makes sense), `x | part` writes one back, every other coordinate bit for bit as it was.
    `==` is identity; compare values with `digest()` or on `.flat`.

    Arguments
    ---------
    spec: what the values belong to.
    flat: tensor [spec.size], dtype `spec.dtype`; on the `meta` device in a dry run. Not to be changed in place.

    >>> from airloom.models import zoo
    >>> x = zoo.softmax_regression(inputs=4, classes=2).initial(seed=0)
    >>> (x - x).norm(), (2 * x).dot(x) == 2 * x.square_norm(), x.nbytes
    (0.0, True, 40)
    """

    __slots__ = ("flat", "spec")
    __array_priority__ = 1000.0  # with __array_ufunc__: numpy scalars hand `scalar * params` over to us
    __array_ufunc__ = None

    def __init__(self, spec: ModelSpec, flat: Tensor) -> None:
        self.spec = spec
        self.flat = flat

    @staticmethod
    def checked(spec: ModelSpec, flat: Tensor) -> Params:
        """Wrap a vector that comes from outside, after checking its shape and dtype."""
        if flat.shape != (spec.size,) or flat.dtype != spec.dtype:
            got = f"{flat.dtype} {tuple(flat.shape)}"
            raise ScenarioError(f"Params({spec}).flat: got {got}; allowed: {spec.dtype} ({spec.size},)")
        return Params(spec, flat)

    @staticmethod
    def from_named(spec: ModelSpec, named: Mapping[str, Tensor]) -> Params:
        """Build from one tensor per leaf (the inverse of `named`)."""
        missing = [leaf.name for leaf in spec.leaves if leaf.name not in named]
        if missing or len(named) != len(spec.leaves):
            extra = sorted(set(named) - {leaf.name for leaf in spec.leaves})
            raise ScenarioError(f"Params.from_named({spec}): missing {missing}, unknown {extra}; allowed: exactly the leaves of the spec")
        for leaf in spec.leaves:
            if tuple(named[leaf.name].shape) != leaf.shape:
                raise ScenarioError(f"Params.from_named({spec})[{leaf.name!r}]: got {tuple(named[leaf.name].shape)}; allowed: {leaf.shape}")
        return Params(spec, torch.cat([named[leaf.name].detach().reshape(-1).to(spec.dtype) for leaf in spec.leaves]))

    def named(self) -> dict[str, Tensor]:
        """Return one tensor per leaf, views into the flat vector."""
        return {leaf.name: self.flat[leaf.offset : leaf.offset + leaf.size].view(leaf.shape) for leaf in self.spec.leaves}

    # ---- slices

    def _taken(self, spec: ModelSpec) -> Params:
        """Return the coordinates that `spec`, a slice of the same base, has."""
        return self if spec.key == self.spec.key else Params(spec, self.spec.places(spec).take(self.flat))

    def __getitem__(self, sub: Submodel) -> Params:
        return self._taken(self.spec.slice(sub))

    def __or__(self, part: Params) -> Params:
        """Return these values with those of `part`, a slice of them, written over; all other coordinates bit for bit as they are."""
        if not isinstance(part, Params):
            return NotImplemented
        if part.spec.key == self.spec.key:
            return part
        written = self.flat.clone()
        self.spec.places(part.spec).put(written, part.flat)
        return Params(self.spec, written)

    def scatter_into(self, total: Tensor, counts: Tensor | None = None, weight: float = 1.0) -> None:
        """Add `weight * values` into a vector over the base's coordinates, and `weight` into `counts`: the building block of counted means.

        Arguments
        ---------
        total: tensor [spec.base.size], float64 for exact folding; changed in place.
        counts: tensor [spec.base.size], or None; changed in place.
        """
        places = self.spec.base.places(self.spec)
        places.add(total, self.flat, weight)
        if counts is not None:
            places.add(counts, torch.ones_like(self.flat), weight)

    # ---- algebra

    def _same(self, other: Params, sign: str) -> None:
        if other.spec is not self.spec and other.spec.key != self.spec.key:
            raise ScenarioError(
                f"Params {sign} Params: got {self.spec} and {other.spec}; allowed: equal specs; write a slice back with `x | part`, or take x[sub]"
            )

    def __add__(self, other: Params | Scalar) -> Params:
        if isinstance(other, Params):
            self._same(other, "+")
            return Params(self.spec, self.flat + other.flat)
        value = _scalar(other)
        return NotImplemented if value is None else Params(self.spec, self.flat + value)

    def __sub__(self, other: Params | Scalar) -> Params:
        if isinstance(other, Params):
            self._same(other, "-")
            return Params(self.spec, self.flat - other.flat)
        value = _scalar(other)
        return NotImplemented if value is None else Params(self.spec, self.flat - value)

    def __mul__(self, other: Params | Scalar) -> Params:
        if isinstance(other, Params):
            self._same(other, "*")
            return Params(self.spec, self.flat * other.flat)
        value = _scalar(other)
        return NotImplemented if value is None else Params(self.spec, self.flat * value)

    def __truediv__(self, other: Params | Scalar) -> Params:
        if isinstance(other, Params):
            self._same(other, "/")
            return Params(self.spec, self.flat / other.flat)
        value = _scalar(other)
        return NotImplemented if value is None else Params(self.spec, self.flat / value)

    def __radd__(self, other: Scalar) -> Params:
        return self.__add__(other)

    def __rmul__(self, other: Scalar) -> Params:
        return self.__mul__(other)

    def __rsub__(self, other: Scalar) -> Params:
        value = _scalar(other)
        return NotImplemented if value is None else Params(self.spec, value - self.flat)

    def __rtruediv__(self, other: Scalar) -> Params:
        value = _scalar(other)
        return NotImplemented if value is None else Params(self.spec, value / self.flat)

    def __neg__(self) -> Params:
        return Params(self.spec, -self.flat)

    def __pos__(self) -> Params:
        return self

    # ---- numbers; on meta values these are 0-dim meta tensors, so that branching on them raises

    def _number(self, value: Tensor) -> float:
        return value if value.is_meta else value.item()  # type: ignore[return-value]

    def dot(self, other: Params) -> float:
        """Return the inner product, accumulated in float64."""
        self._same(other, ".dot")
        return self._number(torch.dot(self.flat.double(), other.flat.double()))

    def square_norm(self) -> float:
        """Return the squared Euclidean norm, accumulated in float64."""
        return self.dot(self)

    def norm(self) -> float:
        """Return the Euclidean norm, accumulated in float64."""
        square = self.square_norm()
        return square.sqrt() if isinstance(square, Tensor) else math.sqrt(square)  # type: ignore[return-value]

    def abs_max(self) -> float:
        """Return the largest absolute value; 0 for no values."""
        if self.flat.numel() == 0:
            return 0.0
        return self._number(self.flat.abs().max().double())

    # ---- shapes and bytes

    @property
    def is_meta(self) -> bool:
        """Whether there are shapes only (a dry run)."""
        return self.flat.is_meta

    def to_meta(self) -> Params:
        """Return the same spec without values."""
        return self if self.flat.is_meta else Params(self.spec, torch.empty_like(self.flat, device="meta"))

    def zeros(self) -> Params:
        """Return zeros of the same spec."""
        return Params(self.spec, torch.zeros_like(self.flat))

    @property
    def nbytes(self) -> int:
        """Bytes on the wire: the values, and for a slice the description of its coordinates (`ModelSpec.index_bytes`)."""
        return self.flat.numel() * self.flat.element_size() + self.spec.index_bytes

    def digest(self) -> str:
        """Return the SHA-256 of the values' bytes, as hex text."""
        return hashlib.sha256(self.flat.detach().cpu().contiguous().numpy().tobytes()).hexdigest()

    def __len__(self) -> int:
        return self.spec.size

    def __repr__(self) -> str:
        return f"Params({self.spec}{', meta' if self.is_meta else ''})"


def zeros_like(x: Params) -> Params:
    """Return zeros of the spec of `x`."""
    return x.zeros()


def join(*parts: Params) -> Params:
    """Put slices of one model together: all coordinates that any of them has; where several have one, the last wins.

    >>> from airloom.models import zoo, submodel
    >>> x = zoo.mlp(inputs=4, hidden=(6,), classes=3).initial(seed=0)
    >>> join(x[submodel.layers(0, 1)], x[submodel.layers(1, 2)]).digest() == x.digest()
    True
    """
    if not parts:
        raise ScenarioError("join(): got nothing; allowed: at least one Params")
    first = parts[0]
    spec = first.spec.joined([p.spec for p in parts[1:]])
    flat = torch.empty(spec.size, dtype=first.flat.dtype, device=first.flat.device)
    for part in parts:
        spec.places(part.spec).put(flat, part.flat)
    return Params(spec, flat)


def mean(xs: Sequence[Params], weights: Sequence[float] | None = None) -> Params:
    """Return `sum(w_i x_i) / sum(w_i)`, folded in float64 in the given order and cast back.

    Arguments
    ---------
    xs: values of one spec, at least one.
    weights: one number per value, with a sum that is not 0; None for equal weights.

    >>> from airloom.models import zoo
    >>> x = zoo.softmax_regression(inputs=4, classes=2).initial(seed=0)
    >>> (mean([x, 3 * x], [3, 1]) - 1.5 * x).norm() < 1e-7
    True
    """
    if not xs:
        raise ScenarioError("mean(xs): got an empty list; allowed: at least one Params; reduce with `like=` where nothing may arrive")
    w = [1.0] * len(xs) if weights is None else [float(v) for v in weights]
    if len(w) != len(xs):
        raise ScenarioError(f"mean(weights): got {len(w)} weights for {len(xs)} values; allowed: one each")
    total = math.fsum(w)
    if total == 0.0:
        raise ScenarioError(f"mean(weights): got {w}, which sum to 0; allowed: a sum that is not 0")
    folded = torch.zeros(xs[0].flat.shape, dtype=torch.float64, device=xs[0].flat.device)
    for x, w_i in zip(xs, w, strict=True):
        xs[0]._same(x, "in mean with")
        folded.add_(x.flat, alpha=w_i)
    return Params(xs[0].spec, folded.div_(total).to(xs[0].flat.dtype))
