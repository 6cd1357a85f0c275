"""Named selections of a model's parameters: what is where.

A `Submodel` says which coordinates, on any spec: `components, layers, width, ranks, neurons, rows, flat`, joined by `&` (both) and `everything`.
Resolved on a spec it becomes one `Part` per leaf: indices per dimension, or positions in the flattened leaf.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, final

import numpy as np

from airloom.errors import ScenarioError

if TYPE_CHECKING:
    from airloom.models.module import Leaf, ModelSpec

Indices: TypeAlias = np.ndarray  # int64, ascending, without repetition


@final
@dataclass(frozen=True, slots=True)
class Axis:
    """A named axis behind one dimension of a leaf: the dimension has `outer x size x inner` entries.

    `outer > 1` for stacked blocks (the four gates of an LSTM, the heads of q, k and v); `inner > 1` where each entry stands for several
    (channels flattened with their pixels). A selection takes the same entries of every block.
    """

    name: str
    outer: int = 1
    inner: int = 1

    def expand(self, picked: Indices, dim: int) -> Indices:
        """Return the entries of a dimension of length `dim` that belong to `picked` entries of the axis."""
        if self.outer == 1 and self.inner == 1:
            return picked
        size = dim // (self.outer * self.inner)
        blocks = np.arange(self.outer)[:, None, None] * size
        return ((blocks + picked[None, :, None]) * self.inner + np.arange(self.inner)[None, None, :]).reshape(-1)

    def reduce(self, entries: Indices, dim: int) -> Indices | None:
        """Return the entries of the axis that expand to `entries`, or None if there are none."""
        if self.outer == 1 and self.inner == 1:
            return entries
        blocks = self.outer * self.inner
        if len(entries) % blocks:
            return None
        picked = entries[: len(entries) // self.outer : self.inner] // self.inner
        return picked if np.array_equal(self.expand(picked, dim), entries) else None


@final
@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some coordinates of one leaf: `dims[d]` picks along dimension d (None: all), or `flat` holds positions in the flattened leaf."""

    dims: tuple[Indices | None, ...]
    flat: Indices | None = None

    @property
    def is_whole(self) -> bool:
        """Whether every coordinate of the leaf is taken."""
        return self.flat is None and all(d is None for d in self.dims)

    def shape(self, of: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of what is taken from a leaf of shape `of`."""
        if self.flat is not None:
            return (len(self.flat),)
        return tuple(n if d is None else len(d) for n, d in zip(of, self.dims, strict=True))

    def positions(self, of: tuple[int, ...]) -> Indices:
        """Return the taken positions in the flattened leaf, ascending."""
        if self.flat is not None:
            return self.flat
        at = np.zeros((), dtype=np.int64)
        for n, d in zip(of, self.dims, strict=True):
            at = at[..., None] * n + (np.arange(n) if d is None else d)
        return at.reshape(-1)

    def within(self, outer: Part, of: tuple[int, ...]) -> Part:
        """Return these coordinates, which count inside `outer`, as coordinates of the leaf of shape `of`."""
        if outer.is_whole:
            return self
        if self.flat is None and outer.flat is None:
            return Part(tuple(o if d is None else d if o is None else o[d] for o, d in zip(outer.dims, self.dims, strict=True)))
        return Part((), outer.positions(of)[self.positions(outer.shape(of))])

    def both(self, other: Part, of: tuple[int, ...]) -> Part | None:
        """Return the coordinates in both, or None if there are none."""
        if self.flat is None and other.flat is None:
            dims = tuple(
                b if a is None else a if b is None else np.intersect1d(a, b, assume_unique=True) for a, b in zip(self.dims, other.dims, strict=True)
            )
            return None if any(d is not None and not len(d) for d in dims) else Part(dims)
        common = np.intersect1d(self.positions(of), other.positions(of), assume_unique=True)
        return Part((), common) if len(common) else None

    def either(self, other: Part, of: tuple[int, ...]) -> Part:
        """Return the coordinates in one or the other; by dimension where that is exact."""
        if self.flat is None and other.flat is None:
            differ = [i for i, (a, b) in enumerate(zip(self.dims, other.dims, strict=True)) if not _equal(a, b)]
            if not differ:
                return self
            if len(differ) == 1:
                i = differ[0]
                return Part(tuple(_union(a, b, of[i]) if j == i else a for j, (a, b) in enumerate(zip(self.dims, other.dims, strict=True))))
            for big, small in ((self, other), (other, self)):
                if all(b is None or (s is not None and np.isin(s, b).all()) for b, s in zip(big.dims, small.dims, strict=True)):
                    return big
        together = np.union1d(self.positions(of), other.positions(of))
        return Part((None,) * len(of)) if len(together) == math.prod(of) else Part((), together)


def _equal(a: Indices | None, b: Indices | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def _union(a: Indices | None, b: Indices | None, n: int) -> Indices | None:
    if a is None or b is None:
        return None
    both = np.union1d(a, b)
    return None if len(both) == n else both


@final
@dataclass(frozen=True, slots=True)
class Selection:
    """A Submodel resolved on a spec.

    `parts`: leaf name to Part, in the order of the leaves, in the coordinates of that spec. `kept`: module paths that stay (None: all of them).
    `scale`: factor on the output of LoRA pairs, and while training of other modules. `width`: fraction of the named width axes.
    """

    parts: dict[str, Part]
    kept: tuple[str, ...] | None = None
    scale: Mapping[str, float] = field(default_factory=dict)
    width: float = 1.0


def covers(path: str, name: str) -> bool:
    """Whether a module path is, or contains, the module or leaf `name`."""
    return name == path or name.startswith(path + ".")


def meet(a: tuple[str, ...] | None, b: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the module paths that both keep."""
    if a is None or b is None:
        return b if a is None else a
    return tuple(sorted({p for p in b if any(covers(q, p) for q in a)} | {q for q in a if any(covers(p, q) for p in b)}))


class Submodel(ABC):
    """A named selection of coordinates; hashable, describable in JSON, the same on every spec it fits."""

    @abstractmethod
    def select(self, spec: ModelSpec) -> Selection:
        """Resolve on a spec."""

    @abstractmethod
    def json(self) -> dict[str, Any]:
        """Describe by JSON values; `Submodel.from_json` is the inverse."""

    @final
    def __and__(self, other: Submodel) -> Submodel:
        return Both(left=self, right=other)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Submodel:
        """Build from what `json` returned.

        >>> sub = width(0.5) & components("out")
        >>> Submodel.from_json(sub.json()) == sub
        True
        """
        kind = data["kind"]
        if kind == "everything":
            return everything
        if kind == "components":
            return components(*data["names"])
        if kind == "layers":
            return layers(data["start"], data["stop"])
        if kind == "width":
            return width(data["fraction"], start=data["start"], is_scaled=data["is_scaled"])
        if kind == "ranks":
            return Ranks(rows=tuple((pair, tuple(ids)) for pair, ids in data["rows"]), scale=data["scale"])
        if kind == "neurons":
            return Neurons(picks=tuple((name, tuple(ids)) for name, ids in data["picks"]))
        if kind == "share":
            return NeuronShare(share=data["share"], axes=None if data["axes"] is None else tuple(data["axes"]))
        if kind == "rows":
            return rows(data["name"], data["ids"])
        if kind == "flat":
            return flat(data["start"], data["stop"])
        if kind == "both":
            return Submodel.from_json(data["left"]) & Submodel.from_json(data["right"])
        raise ScenarioError(f"Submodel.from_json: got kind {kind!r}; allowed: the kinds that Submodel.json writes")


def _whole(leaves: Iterable[Leaf]) -> dict[str, Part]:
    return {leaf.name: Part((None,) * len(leaf.shape)) for leaf in leaves}


def _by_axes(spec: ModelSpec, picks: Mapping[str, Indices]) -> dict[str, Part]:
    """Take the picked entries of named axes, in every leaf that has them."""
    parts = {}
    for leaf in spec.leaves:
        dims: list[Indices | None] = []
        for n, axis in zip(leaf.shape, leaf.axes, strict=True):
            picked = picks.get(axis.name) if axis is not None else None
            entries = None if axis is None or picked is None else axis.expand(picked, n)
            dims.append(None if entries is None or len(entries) == n else entries)
        parts[leaf.name] = Part(tuple(dims))
    return parts


def _ids(values: Iterable[int], what: str) -> tuple[int, ...]:
    ids = tuple(sorted(int(v) for v in values))
    if not ids or ids[0] < 0 or any(a == b for a, b in itertools.pairwise(ids)):
        raise ScenarioError(f"{what}: got {ids}; allowed: at least one index >= 0, none twice")
    return ids


def _within(ids: tuple[int, ...], size: int, what: str) -> Indices:
    if ids[-1] >= size:
        raise ScenarioError(f"{what}: got index {ids[-1]}; allowed: 0 to {size - 1}")
    return np.asarray(ids, dtype=np.int64)


@final
@dataclass(frozen=True, kw_only=True)
class Everything(Submodel):
    """All coordinates; see `everything`."""

    def select(self, spec: ModelSpec) -> Selection:
        return Selection(_whole(spec.leaves))

    def json(self) -> dict[str, Any]:
        return {"kind": "everything"}


everything: Submodel = Everything()


@final
@dataclass(frozen=True, kw_only=True)
class Both(Submodel):
    """What two selections have in common; made by `&`."""

    left: Submodel
    right: Submodel

    def select(self, spec: ModelSpec) -> Selection:
        a, b = self.left.select(spec), self.right.select(spec)
        parts = {}
        for leaf in spec.leaves:
            if leaf.name in a.parts and leaf.name in b.parts:
                part = a.parts[leaf.name].both(b.parts[leaf.name], leaf.shape)
                if part is not None:
                    parts[leaf.name] = part
        scale = {p: a.scale.get(p, 1.0) * b.scale.get(p, 1.0) for p in {**a.scale, **b.scale}}
        return Selection(parts, meet(a.kept, b.kept), scale, a.width * b.width)

    def json(self) -> dict[str, Any]:
        return {"kind": "both", "left": self.left.json(), "right": self.right.json()}


@final
@dataclass(frozen=True, kw_only=True)
class Components(Submodel):
    """Named components; see `components`."""

    names: tuple[str, ...]

    def select(self, spec: ModelSpec) -> Selection:
        paths: list[str] = []
        for name in self.names:
            paths += spec.component_paths(name)
        kept = tuple(sorted(set(paths)))
        return Selection(_whole(leaf for leaf in spec.leaves if any(covers(p, leaf.name) for p in kept)), kept)

    def json(self) -> dict[str, Any]:
        return {"kind": "components", "names": list(self.names)}


def components(*names: str) -> Submodel:
    """Select named components: names given to `model(components=)`, top-level children, or dotted module paths.

    A slice of components is itself a model: a Sequential runs what is left of it; one component of another container runs alone; several
    run in the container with the other modules taken out (its forward must then ask for what is there).
    """
    if not names:
        raise ScenarioError("components(): got no names; allowed: at least one; use `everything` for all")
    return Components(names=tuple(sorted(set(names))))


@final
@dataclass(frozen=True, kw_only=True)
class Layers(Submodel):
    """A range of layers; see `layers`."""

    start: int
    stop: int

    def select(self, spec: ModelSpec) -> Selection:
        if not 0 <= self.start < self.stop <= len(spec.layers):
            raise ScenarioError(
                f"layers({self.start}, {self.stop}) of {spec}: allowed: 0 <= start < stop <= {len(spec.layers)}, layers {spec.layers}"
            )
        kept = spec.layers[self.start : self.stop]
        if len(kept) == len(spec.layers):
            return Selection(_whole(spec.leaves))
        return Selection(_whole(leaf for leaf in spec.leaves if any(covers(p, leaf.name) for p in kept)), tuple(sorted(kept)))

    def json(self) -> dict[str, Any]:
        return {"kind": "layers", "start": self.start, "stop": self.stop}


def layers(start: int, stop: int) -> Submodel:
    """Select layers `start .. stop - 1`: the top-level children that hold values, in order; a child without values belongs to the one before it."""
    return Layers(start=int(start), stop=int(stop))


@final
@dataclass(frozen=True, kw_only=True)
class Width(Submodel):
    """A part of every width axis; see `width`."""

    fraction: float
    start: int = 0
    is_scaled: bool = False

    def select(self, spec: ModelSpec) -> Selection:
        axes = spec.width_axes
        if not axes and self.fraction < 1.0:
            raise ScenarioError(f"width({self.fraction}) of {spec}: the model names no width axes; give model(axes=...)")
        picks = {name: np.sort((self.start + np.arange(math.ceil(round(self.fraction * n, 9)))) % n) for name, n in axes.items()}
        scale: dict[str, float] = {}
        if self.is_scaled and self.fraction < 1.0:
            for leaf in spec.leaves:
                if len(leaf.shape) > 1 and leaf.axes[0] is not None and leaf.axes[0].name in axes:
                    scale[leaf.name.rpartition(".")[0]] = 1.0 / self.fraction
        return Selection(_by_axes(spec, picks), scale=scale, width=self.fraction)

    def json(self) -> dict[str, Any]:
        return {"kind": "width", "fraction": self.fraction, "start": self.start, "is_scaled": self.is_scaled}


def width(fraction: float, *, start: int = 0, is_scaled: bool = False) -> Submodel:
    """Select `ceil(fraction * n)` entries of every named width axis (inputs and outputs of the model stay whole).

    Arguments
    ---------
    start: the first entry taken; the window goes on at entry 0 where it passes the end. With 0, narrow slices lie in wide ones.
    is_scaled: while it trains, the output of every layer that was cut is divided by `fraction` (HeteroFL's scaler), so that the next layer sees
        sums of the size that the whole model gives it.

    >>> from airloom.models import zoo
    >>> spec = zoo.mlp(inputs=3, hidden=(8,), classes=2)
    >>> [leaf.shape for leaf in spec.slice(width(0.3)).leaves]
    [(3, 3), (3,), (2, 3), (2,)]
    """
    if not 0.0 < fraction <= 1.0:
        raise ScenarioError(f"width({fraction}): allowed: 0 < fraction <= 1")
    if start < 0:
        raise ScenarioError(f"width(start={start}): allowed: integers >= 0")
    return Width(fraction=float(fraction), start=int(start), is_scaled=bool(is_scaled))


@final
@dataclass(frozen=True, kw_only=True)
class Ranks(Submodel):
    """Rows of LoRA pairs; see `ranks`."""

    rows: tuple[tuple[str | None, tuple[int, ...]], ...]
    scale: float = 1.0

    def select(self, spec: ModelSpec) -> Selection:
        if not spec.pairs:
            raise ScenarioError(f"ranks(...) of {spec}: the model has no LoRA pairs; make one with lora(...)")
        picks = {}
        for name, ids in self.rows:
            for pair in spec.pairs if name is None else (name,):
                if pair not in spec.pairs:
                    raise ScenarioError(f"ranks({pair!r}) of {spec}: allowed: {spec.pairs}")
                picks[RANK + pair] = _within(ids, spec.axes[RANK + pair], f"ranks({pair!r}) of {spec}")
        scale = {} if self.scale == 1.0 else {name.removeprefix(RANK): self.scale for name in picks}
        return Selection(_by_axes(spec, picks), scale=scale)

    def json(self) -> dict[str, Any]:
        return {"kind": "ranks", "rows": [[pair, list(ids)] for pair, ids in self.rows], "scale": self.scale}


RANK = "rank:"  # axes of LoRA pairs are named rank:<pair>; all others are width axes


def ranks(rows: Mapping[str, Iterable[int]] | Iterable[int] | int, scale: float = 1.0) -> Submodel:
    """Select rank rows of LoRA pairs; everything that is not a pair stays whole.

    Arguments
    ---------
    rows: per pair the rows of A (and columns of B) to take; or one list for all pairs; or a number k for the first k. Pairs not named stay whole.
    scale: extra factor on the output of the chosen pairs (FSLoRA: r / k).

    >>> from airloom.models import zoo
    >>> from airloom.models.lora import lora
    >>> spec = lora(zoo.mlp(inputs=5, hidden=(4,), classes=3), rank=8, targets=["out"])
    >>> [leaf.shape for leaf in spec.slice(ranks({"out": [6, 1]}, scale=8 / 2)).leaves]
    [(2, 4), (3, 2)]
    """
    if isinstance(rows, Mapping):
        chosen = tuple((str(pair), _ids(ids, f"ranks({pair!r})")) for pair, ids in sorted(rows.items()))
        if not chosen:
            raise ScenarioError("ranks({}): got no pairs; allowed: at least one; use `everything` for all")
        return Ranks(rows=chosen, scale=float(scale))
    return Ranks(rows=((None, _ids(range(rows) if isinstance(rows, int) else rows, "ranks")),), scale=float(scale))


@final
@dataclass(frozen=True, kw_only=True)
class Neurons(Submodel):
    """Chosen entries of named axes; see `neurons`."""

    picks: tuple[tuple[str, tuple[int, ...]], ...]

    def select(self, spec: ModelSpec) -> Selection:
        picks = {}
        for name, ids in self.picks:
            if name not in spec.axes:
                raise ScenarioError(f"neurons({name!r}) of {spec}: allowed: {tuple(spec.axes)}")
            picks[name] = _within(ids, spec.axes[name], f"neurons({name!r}) of {spec}")
        return Selection(_by_axes(spec, picks))

    def json(self) -> dict[str, Any]:
        return {"kind": "neurons", "picks": [[name, list(ids)] for name, ids in self.picks]}


@final
@dataclass(frozen=True, kw_only=True)
class NeuronShare(Submodel):
    """The first share of chosen axes; see `neurons`."""

    share: float
    axes: tuple[str, ...] | None

    def select(self, spec: ModelSpec) -> Selection:
        axes = spec.width_axes
        unknown = [name for name in self.axes or () if name not in axes]
        if unknown:
            raise ScenarioError(f"neurons(axes={unknown}) of {spec}: allowed: {tuple(axes)}")
        picks = {name: np.arange(max(1, round(self.share * axes[name]))) for name in (axes if self.axes is None else self.axes)}
        return Selection(_by_axes(spec, picks))

    def json(self) -> dict[str, Any]:
        return {"kind": "share", "share": self.share, "axes": None if self.axes is None else list(self.axes)}


def neurons(picks: Mapping[str, Iterable[int]] | None = None, *, share: float | None = None, axes: Sequence[str] | None = None) -> Submodel:
    """Select neurons of hidden layers with all that hangs on them: rows and biases of the layer before, columns of the layer after.

    Arguments
    ---------
    picks: per named axis the neurons to take; axes not named stay whole.
    share: instead, the first `max(1, round(share * n))` neurons of the axes in `axes` (default: every width axis), for sizing.

    >>> from airloom.models import zoo
    >>> spec = zoo.mlp(inputs=3, hidden=(8,), classes=2)
    >>> spec.slice(neurons({"hidden1": [0, 7]})).size, spec.slice(neurons(share=0.25)).size
    (14, 14)
    """
    if (picks is None) == (share is None):
        raise ScenarioError(f"neurons(picks={picks}, share={share}): allowed: exactly one of the two")
    if picks is not None:
        if axes is not None or not picks:
            raise ScenarioError(f"neurons(picks={dict(picks)}, axes={axes}): allowed: at least one axis in picks, and axes only beside share")
        return Neurons(picks=tuple((name, _ids(picks[name], f"neurons({name!r})")) for name in sorted(picks)))
    if share is None or not 0.0 < share <= 1.0:
        raise ScenarioError(f"neurons(share={share}): allowed: 0 < share <= 1")
    return NeuronShare(share=float(share), axes=None if axes is None else tuple(axes))


@final
@dataclass(frozen=True, kw_only=True)
class Rows(Submodel):
    """Rows of the leaves of a component; see `rows`."""

    name: str
    ids: tuple[int, ...]

    def select(self, spec: ModelSpec) -> Selection:
        paths = spec.component_paths(self.name)
        parts = _whole(spec.leaves)
        hit = [leaf for leaf in spec.leaves if any(covers(p, leaf.name) for p in paths) and leaf.shape]
        if not hit:
            raise ScenarioError(f"rows({self.name!r}) of {spec}: no leaves of that name; allowed: {tuple(spec.components)} or a leaf")
        for leaf in hit:
            ids = _within(self.ids, leaf.shape[0], f"rows({self.name!r}) of {spec}, leaf {leaf.name!r}")
            parts[leaf.name] = Part((None if len(ids) == leaf.shape[0] else ids, *parts[leaf.name].dims[1:]))
        return Selection(parts)

    def json(self) -> dict[str, Any]:
        return {"kind": "rows", "name": self.name, "ids": list(self.ids)}


def rows(name: str, ids: Iterable[int]) -> Submodel:
    """Restrict one component (or leaf) to some rows, in ascending order, its biases with them; all other leaves stay whole.

    With the output layer and the labels a client owns: the model without the rows of the other labels. `rows("out", own) & components("out")`
    is the rows alone.
    """
    return Rows(name=name, ids=_ids(ids, f"rows({name!r})"))


@final
@dataclass(frozen=True, kw_only=True)
class Flat(Submodel):
    """A range of the flat vector; see `flat`."""

    start: int
    stop: int

    def select(self, spec: ModelSpec) -> Selection:
        if not 0 <= self.start < self.stop <= spec.size:
            raise ScenarioError(f"flat({self.start}, {self.stop}) of {spec}: allowed: 0 <= start < stop <= {spec.size}")
        parts = {}
        for leaf in spec.leaves:
            a, b = max(self.start - leaf.offset, 0), min(self.stop - leaf.offset, leaf.size)
            if a < b:
                parts[leaf.name] = Part((None,) * len(leaf.shape)) if b - a == leaf.size else Part((), np.arange(a, b))
        return Selection(parts)

    def json(self) -> dict[str, Any]:
        return {"kind": "flat", "start": self.start, "stop": self.stop}


def flat(start: int, stop: int) -> Submodel:
    """Select positions `start .. stop - 1` of the flat vector (shards); such a slice is values only, not a model."""
    return Flat(start=int(start), stop=int(stop))
