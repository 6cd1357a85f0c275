"""Any nn.Module as a model over one flat vector: `ModelSpec`, its slices, and the skeletons that run them.

The flat vector holds the trainable parameters, then the persistent float buffers (running statistics). Parameters that need no gradient are the
frozen base: part of the spec, not of the vector. Integer buffers are left out and start anew in every call.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor, nn

from airloom.errors import ScenarioError
from airloom.models.params import Params
from airloom.models.skeleton import HELD, Skeleton, idle
from airloom.models.source import Source, base_weight, floating_leaves, rank_pairs
from airloom.models.submodel import RANK, Axis, Part, Selection, Submodel, covers, everything, meet

AxisLike: TypeAlias = Axis | str | tuple[str, int, int] | None

_SLICES_KEPT = 4096  # resolved slices per spec; random rank slices would fill memory otherwise
_RUNS_AT_MOST = 32  # above this a slice is gathered by index, below by contiguous runs


@final
@dataclass(frozen=True, slots=True)
class Leaf:
    """One tensor of a model and its place in the flat vector."""

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int
    is_buffer: bool
    axes: tuple[Axis | None, ...]


@final
@dataclass(frozen=True, slots=True)
class Places:
    """Where the coordinates of a slice lie in the vector it was taken from: contiguous runs, or an index."""

    runs: tuple[tuple[int, int], ...] | None
    index: Tensor

    def take(self, vector: Tensor) -> Tensor:
        """Return the values at these places, as a new vector."""
        if self.runs is None:
            return vector.index_select(0, self.index.to(vector.device))
        if len(self.runs) == 1:
            return vector[self.runs[0][0] : self.runs[0][1]].clone()
        return torch.cat([vector[a:b] for a, b in self.runs])

    def put(self, vector: Tensor, values: Tensor) -> None:
        """Write values at these places."""
        if self.runs is None:
            vector.index_copy_(0, self.index.to(vector.device), values)
            return
        at = 0
        for a, b in self.runs:
            vector[a:b] = values[at : at + b - a]
            at += b - a

    def add(self, vector: Tensor, values: Tensor, weight: float) -> None:
        """Add `weight * values` at these places; the vector's dtype decides."""
        if self.runs is None:
            vector.index_add_(0, self.index.to(vector.device), values.to(vector.dtype), alpha=weight)
            return
        at = 0
        for a, b in self.runs:
            vector[a:b].add_(values[at : at + b - a], alpha=weight)
            at += b - a


def _places(index: np.ndarray) -> Places:
    breaks = np.flatnonzero(np.diff(index) != 1) + 1
    runs = None
    if len(breaks) < _RUNS_AT_MOST:
        edges = [0, *breaks.tolist(), len(index)]
        runs = tuple((int(index[a]), int(index[b - 1]) + 1) for a, b in itertools.pairwise(edges)) if len(index) else ((0, 0),)
    return Places(runs, torch.from_numpy(index))


@final
class ModelSpec:
    """What a flat vector of values means: leaves, names, axes, and the module that runs it.

    Made by `model(factory)`, or by slicing (`spec.slice(sub)`, `x[sub].spec`). Specs with the same `key` are equal, in every process; specs with
    the same `form` run the same computation (slices of equal shapes) and cost the same.

    >>> spec = model(lambda: nn.Linear(3, 2))
    >>> spec.size, [leaf.name for leaf in spec.leaves], spec.initial(seed=0).flat.shape
    (8, ['weight', 'bias'], torch.Size([8]))
    """

    key: str
    form: str
    leaves: tuple[Leaf, ...]
    size: int
    trainable_size: int
    dtype: torch.dtype
    components: Mapping[str, tuple[str, ...]]
    layers: tuple[str, ...]
    pairs: tuple[str, ...]
    axes: Mapping[str, int]
    scale: Mapping[str, float]
    width: float
    kept: tuple[str, ...] | None
    name: str

    def __init__(
        self, *, source: Source, leaves: tuple[Leaf, ...], base: ModelSpec | None, selection: Selection, components: Mapping[str, tuple[str, ...]]
    ) -> None:
        self._source = source
        self._base = base
        self._cold: ModelSpec | None = None  # of `thawed`: the spec it was made from
        self._selection = selection
        self._slices: OrderedDict[object, ModelSpec] = OrderedDict()
        self._where: OrderedDict[str, Places] = OrderedDict()
        self.leaves = leaves
        self.size = sum(leaf.size for leaf in leaves)
        self.trainable_size = sum(leaf.size for leaf in leaves if not leaf.is_buffer)
        self.dtype = source.dtype
        self.scale, self.width, self.kept = selection.scale, selection.width, selection.kept
        self.components = components
        self.layers = tuple(n for n in source.layers if self.kept is None or any(covers(p, n) or covers(n, p) for p in self.kept))
        self.axes = {}
        for leaf in leaves:
            for n, axis in zip(leaf.shape, leaf.axes, strict=True):
                if axis is not None:
                    self.axes[axis.name] = n // (axis.outer * axis.inner)
        self.pairs = tuple(n.removeprefix(RANK) for n in self.axes if n.startswith(RANK))
        shapes = [[leaf.name, list(leaf.shape)] for leaf in leaves]
        text = json.dumps([source.key, shapes, self.kept, sorted(self.scale.items())])
        self.form = hashlib.sha256(text.encode()).hexdigest()[:32]
        if base is None:
            self.key = source.key
        else:
            digest = hashlib.sha256(text.encode())
            for name, part in selection.parts.items():
                digest.update(name.encode())
                for d in part.dims if part.flat is None else (part.flat,):
                    digest.update(b"-" if d is None else d.tobytes() + b"|")
            self.key = digest.hexdigest()[:32]
        self.name = source.name if base is None else f"slice of {source.name}"

    def __repr__(self) -> str:
        return f"{self.name}[{self.size}]#{self.key[:6]}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelSpec) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __contains__(self, component: str) -> bool:
        return component in self.components

    # ---- what it is

    @property
    def base(self) -> ModelSpec:
        """The whole model that this spec is a slice of; itself for a whole model."""
        return self if self._base is None else self._base

    @property
    def is_slice(self) -> bool:
        """Whether this is a part of `base`."""
        return self._base is not None

    @property
    def width_axes(self) -> dict[str, int]:
        """Named axes that `width` cuts, with their lengths."""
        return {name: n for name, n in self.axes.items() if not name.startswith(RANK)}

    @property
    def rank(self) -> int:
        """Rank of the LoRA pairs, if all have the same."""
        found = {self.axes[RANK + pair] for pair in self.pairs}
        if len(found) != 1:
            raise ScenarioError(f"ModelSpec.rank of {self}: got ranks {sorted(found)}; allowed: a model whose LoRA pairs have one rank")
        return found.pop()

    def pair_leaves(self, pair: str) -> tuple[str, str]:
        """Return the names of the leaves A [r, in] and B [out, r] of a LoRA pair.

        >>> from airloom.models import zoo
        >>> from airloom.models.lora import lora
        >>> lora(zoo.mlp(inputs=4, hidden=(6,), classes=3), rank=2).pair_leaves("out")
        ('out.A', 'out.B')
        """
        names = {leaf.axes.index(axis): leaf.name for leaf in self.leaves for axis in leaf.axes if axis is not None and axis.name == RANK + pair}
        if len(names) != 2:
            raise ScenarioError(f"ModelSpec.pair_leaves({pair!r}) of {self}: allowed: {self.pairs}")
        return names[0], names[1]

    @property
    def cold(self) -> ModelSpec:
        """The whole model that all places know: `base`, or what that was thawed from."""
        return self.base if self.base._cold is None else self.base._cold

    @functools.cached_property
    def thawed(self) -> ModelSpec:
        """The same whole model with the frozen weights under its LoRA pairs in the vector too; see `airloom.models.lora.thaw`.

        >>> from airloom.models import zoo
        >>> from airloom.models.lora import lora
        >>> spec = lora(zoo.mlp(inputs=4, hidden=(6,), classes=3), rank=2, targets=["out"])
        >>> [leaf.name for leaf in spec.leaves], [leaf.name for leaf in spec.thawed.leaves]
        (['out.A', 'out.B'], ['out.weight', 'out.A', 'out.B'])
        """
        source = self._source
        if self.is_slice or self._cold is not None or not self.pairs:
            raise ScenarioError(f"ModelSpec.thawed of {self}: allowed: a whole model with LoRA pairs over frozen weights")

        def build() -> nn.Module:
            module = source.make()
            for pair in self.pairs:
                owner, _, attribute = base_weight(module, pair).rpartition(".")
                holder = module.get_submodule(owner)
                setattr(holder, attribute, nn.Parameter(getattr(holder, attribute).detach().clone()))  # others may share the frozen one
            return module

        axes = {leaf.name: [None if a is not None and a.name.startswith(RANK) else a for a in leaf.axes] for leaf in self.leaves}
        declared = {n: paths for n, paths in self.components.items() if paths != (n,)}
        spec = model(build, components=declared, axes=axes, dtype=self.dtype, channels_last=self.channels_last, name=f"thawed {self.name}")
        spec._cold = self
        return spec

    @property
    def channels_last(self) -> bool:
        """Whether convolution weights are laid out channels last while they run."""
        return self._source.channels_last

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.size * self.dtype.itemsize

    @property
    def frozen_bytes(self) -> int:
        """Bytes of the frozen base, which is at the device already or is charged once, as the scenario says."""
        return sum(t.numel() * t.element_size() for t in self._source.frozen().values())

    @functools.cached_property
    def index_bytes(self) -> int:
        """Bytes that describe the coordinates of a slice: 4 per listed index and 8 per contiguous range, each distinct list or range once.

        Whole leaves and components cost nothing (their names are known on both sides). A dimension with a named axis is described by the axis:
        a LoRA pair by its k rows, once for A and B.
        """
        if self._base is None:
            return 0
        seen = set()
        total = 0
        for leaf in self._base.leaves:
            part = self._selection.parts.get(leaf.name)
            if part is None or part.is_whole:
                continue
            listed = [(part.flat, None, leaf.size)] if part.flat is not None else list(zip(part.dims, leaf.axes, leaf.shape, strict=True))
            for d, axis, n in listed:
                if d is None:
                    continue
                short = axis.reduce(d, n) if axis is not None else None
                ids = d if short is None else short
                key = ids.tobytes()
                if key not in seen:
                    seen.add(key)
                    total += 8 if ids[-1] - ids[0] + 1 == len(ids) else 4 * len(ids)
        return total

    def component_paths(self, name: str) -> tuple[str, ...]:
        """Return the module paths of a component: a declared one, a module path, or a leaf."""
        if name in self.components:
            return self.components[name]
        if any(covers(name, leaf.name) for leaf in self.leaves) or (self.kept is None and name in self._source.paths):
            return (name,)
        raise ScenarioError(f"component {name!r} of {self}: allowed: {tuple(self.components)}, or the dotted path of a module or leaf")

    # ---- values

    def initial(self, seed: int) -> Params:
        """Return freshly initialized values; the same in every process. The global random state is left alone."""
        if self._base is not None:
            return self._base.initial(seed)._taken(self)
        module = self._source.build(seed)
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        return Params(self, torch.cat([torch.zeros(0, dtype=self.dtype), *(tensors[leaf.name].detach().reshape(-1) for leaf in self.leaves)]))

    def fresh(self) -> nn.Module:
        """Return a new module from the factory of the whole model, initialized from the present random state (for wrapping it)."""
        return self._source.make()

    def zeros(self) -> Params:
        """Return zeros."""
        return Params(self, torch.zeros(self.size, dtype=self.dtype))

    def params(self, flat: Tensor) -> Params:
        """Wrap a vector from outside, after checking shape and dtype."""
        return Params.checked(self, flat)

    def meta(self) -> Params:
        """Return values without content, for dry runs."""
        return Params(self, torch.empty(self.size, dtype=self.dtype, device="meta"))

    # ---- slices

    def slice(self, sub: Submodel) -> ModelSpec:
        """Return the spec of the slice that `sub` takes from this spec."""
        if sub == everything:
            return self
        found = self._slices.get(sub)
        if found is None:
            found = self._remember(sub, self._sliced(sub))
        return found

    def _remember(self, key: object, spec: ModelSpec) -> ModelSpec:
        spec = self._slices.setdefault(key, spec)
        while len(self._slices) > _SLICES_KEPT:
            self._slices.popitem(last=False)
        return spec

    def _sliced(self, sub: Submodel) -> ModelSpec:
        local = sub.select(self)
        parts = {}
        for leaf in self.base.leaves:
            if leaf.name in local.parts:
                mine = self._selection.parts[leaf.name] if self._base is not None else Part((None,) * len(leaf.shape))
                parts[leaf.name] = local.parts[leaf.name].within(mine, leaf.shape)
        scale = dict(self.scale)
        for pair, factor in local.scale.items():
            scale[pair] = scale.get(pair, 1.0) * factor
        return self.base._part(Selection(parts, meet(self.kept, local.kept), {p: f for p, f in scale.items() if f != 1.0}, self.width * local.width))

    def _part(self, selection: Selection) -> ModelSpec:
        """Return the spec with these base coordinates; the base itself if they are all."""
        kept = selection.kept
        if kept is not None and all(any(covers(p, path) for p in kept) for path in self._source.stateful):
            kept = None
        whole = len(selection.parts) == len(self.leaves) and all(part.is_whole for part in selection.parts.values())
        if whole and kept is None and not selection.scale:
            return self
        leaves, offset = [], 0
        for leaf in self.leaves:
            part = selection.parts.get(leaf.name)
            if part is None:
                continue
            shape = part.shape(leaf.shape)
            axes: tuple[Axis | None, ...] = (None,)
            if part.flat is None:
                axes = tuple(
                    axis if axis is None or d is None or axis.reduce(d, n) is not None else None
                    for axis, d, n in zip(leaf.axes, part.dims, leaf.shape, strict=True)
                )
            size = math.prod(shape)
            leaves.append(Leaf(leaf.name, shape, offset, size, leaf.is_buffer, axes))
            offset += size
        leaves = _agreeing(leaves)
        components = self.components
        if kept is not None:
            components = {n: meet(kept, paths) or () for n, paths in self.components.items()}
            components = {n: paths for n, paths in components.items() if paths}
        return ModelSpec(
            source=self._source,
            leaves=tuple(leaves),
            base=self,
            selection=Selection(selection.parts, kept, selection.scale, selection.width),
            components=components,
        )

    @functools.cached_property
    def _index(self) -> np.ndarray:
        """Positions of this slice's coordinates in the base vector, ascending."""
        base = self.base
        if base is self:
            return np.arange(self.size)
        parts = self._selection.parts
        pieces = [leaf.offset + parts[leaf.name].positions(leaf.shape) for leaf in base.leaves if leaf.name in parts]
        return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)

    @property
    def index(self) -> Tensor:
        """Positions of this spec's values in the vector of `base`, int64, ascending."""
        return torch.from_numpy(self._index)

    def places(self, inner: ModelSpec) -> Places:
        """Return where the coordinates of `inner`, another slice of the same base, lie in vectors of this spec."""
        found = self._where.get(inner.key)
        if found is None:
            if inner.base.key != self.base.key:
                raise ScenarioError(f"{inner} in {self}: the slice comes from {inner.base}; allowed: slices of {self.base}")
            index = inner._index
            if self.is_slice:
                index = np.searchsorted(self._index, inner._index)
                if len(index) and (index[-1] >= self.size or not np.array_equal(self._index[index], inner._index)):
                    raise ScenarioError(
                        f"{inner} in {self}: it holds coordinates that are not there; allowed: a part of the slice; join(...) unites slices"
                    )
            found = self._where[inner.key] = _places(index)
            while len(self._where) > _SLICES_KEPT:
                self._where.popitem(last=False)
        return found

    def joined(self, others: Sequence[ModelSpec]) -> ModelSpec:
        """Return the spec of all coordinates that this or any of the others has."""
        base = self.base
        key = ("join", self.key, *(o.key for o in others))
        if key in base._slices:
            return base._slices[key]
        parts = dict(self._parts())
        kept = self.kept
        for other in others:
            if other.base.key != base.key:
                raise ScenarioError(f"join({self}, {other}): they come from {base} and {other.base}; allowed: slices of one model")
            if dict(other.scale) != dict(self.scale):
                raise ScenarioError(f"join({self}, {other}): got pair scales {dict(self.scale)} and {dict(other.scale)}; allowed: equal scales")
            for leaf in base.leaves:
                part = other._parts().get(leaf.name)
                if part is not None:
                    parts[leaf.name] = parts[leaf.name].either(part, leaf.shape) if leaf.name in parts else part
            kept = None if kept is None or other.kept is None else tuple(sorted({*kept, *other.kept}))
        ordered = {leaf.name: parts[leaf.name] for leaf in base.leaves if leaf.name in parts}
        width = max([self.width, *(o.width for o in others)])
        return base._remember(key, base._part(Selection(ordered, kept, self.scale, width)))

    def _parts(self) -> Mapping[str, Part]:
        return self._selection.parts

    # ---- recipes

    def recipe(self) -> dict[str, Any]:
        """Describe by JSON values: the key of the base, whether it is thawed, and for a slice its coordinates."""
        of: dict[str, Any] = {"base": self.cold.key} | ({} if self.cold is self.base else {"is_thawed": True})
        if self._base is None:
            return of
        leaves = {}
        for name, part in self._selection.parts.items():
            leaves[name] = "all" if part.is_whole else {"flat": _to_json(part.flat)} if part.flat is not None else [_to_json(d) for d in part.dims]
        kept = None if self.kept is None else list(self.kept)
        return {**of, "leaves": leaves, "kept": kept, "scale": dict(self.scale), "width": self.width}

    @staticmethod
    def base_of(recipe: Mapping[str, Any], bases: Mapping[str, ModelSpec]) -> ModelSpec:
        """Return the whole model that a recipe speaks of."""
        base = bases[recipe["base"]]
        return base.thawed if recipe.get("is_thawed") else base

    @staticmethod
    def from_recipe(recipe: Mapping[str, Any], bases: Mapping[str, ModelSpec]) -> ModelSpec:
        """Build from what `recipe` returned; `bases` holds the whole models by key."""
        if recipe["base"] not in bases:
            raise ScenarioError(f"ModelSpec.from_recipe: base {recipe['base']!r} is not at hand; allowed: {sorted(bases)}; build the same task here")
        base = ModelSpec.base_of(recipe, bases)
        if "leaves" not in recipe:
            return base
        parts = {}
        for leaf in base.leaves:
            text = recipe["leaves"].get(leaf.name)
            if text == "all":
                parts[leaf.name] = Part((None,) * len(leaf.shape))
            elif isinstance(text, Mapping):
                parts[leaf.name] = Part((), _from_json(text["flat"]))
            elif text is not None:
                parts[leaf.name] = Part(tuple(_from_json(d) for d in text))
        kept = None if recipe["kept"] is None else tuple(recipe["kept"])
        spec = base._part(Selection(parts, kept, dict(recipe["scale"]), float(recipe["width"])))
        return base._remember(("key", spec.key, spec.width), spec)

    # ---- running it

    def module(self) -> nn.Module:
        """Return this process's module for the spec: structure only, its values are whatever ran last."""
        with self.skeleton("cpu") as skeleton:
            return skeleton.module

    @contextmanager
    def skeleton(self, device: torch.device | str) -> Iterator[Skeleton]:
        """Lend a runnable copy of the module on a torch device; nested use gets another copy."""
        pool, held = idle(self.form, str(device)), HELD.get()
        own = pool if held is None else held.setdefault((self.form, str(device)), [])
        try:
            skeleton = own.pop() if own else pool.pop()
        except IndexError:
            skeleton = Skeleton(self, torch.device(device))
        try:
            yield skeleton
        finally:
            own.append(skeleton)


def _agreeing(leaves: list[Leaf]) -> list[Leaf]:
    """Drop the names of axes that were cut in some leaves only: they no longer name the same entries."""
    lengths: dict[str, set[int]] = {}
    for leaf in leaves:
        for n, axis in zip(leaf.shape, leaf.axes, strict=False):
            if axis is not None:
                lengths.setdefault(axis.name, set()).add(n // (axis.outer * axis.inner))
    odd = {name for name, found in lengths.items() if len(found) > 1}
    if not odd:
        return leaves
    return [replace(leaf, axes=tuple(None if axis is not None and axis.name in odd else axis for axis in leaf.axes)) for leaf in leaves]


def _to_json(ids: np.ndarray | None) -> list[int] | dict[str, int] | None:
    if ids is None:
        return None
    if len(ids) and ids[-1] - ids[0] + 1 == len(ids):
        return {"from": int(ids[0]), "to": int(ids[-1]) + 1}
    return [int(i) for i in ids]


def _from_json(text: Any) -> Any:
    if text is None:
        return None
    return np.arange(text["from"], text["to"]) if isinstance(text, Mapping) else np.asarray(text, dtype=np.int64)


def _axis(given: AxisLike) -> Axis | None:
    if given is None or isinstance(given, Axis):
        return given
    return Axis(given) if isinstance(given, str) else Axis(*given)


def model(
    factory: Callable[[], nn.Module],
    *,
    components: Mapping[str, Sequence[str]] | None = None,
    axes: Mapping[str, Sequence[AxisLike]] | None = None,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    name: str | None = None,
) -> ModelSpec:
    """Make a `ModelSpec` of any nn.Module.

    Arguments
    ---------
    factory: makes the module anew in each call; its random draws come from a seed that `initial` sets. Parameters with `requires_grad=False` are
        the frozen base and come from seed 0.
    components: names for groups of modules (dotted paths); each top-level child is a component of its own name anyway.
    axes: per leaf one entry per dimension: the name of a width axis, `(name, outer, inner)` for repeated blocks (see `Axis`), or None.
        Dimensions that carry one name are cut together by `width` and `neurons`.
    dtype: of the values: float32, or float64 for exact comparisons.
    channels_last: lay convolution weights out channels last while they run, which is faster on CPUs; the forward must then not use `view` across
        channels (use `flatten` or `reshape`).
    name: for messages; default the class name.

    Raises
    ------
    ScenarioError: unknown leaf or component, an axis whose lengths disagree, or a factory that does not make a module.

    >>> spec = model(lambda: nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)),
    ...     axes={"0.weight": ("hidden", None), "0.bias": ("hidden",), "2.weight": (None, "hidden")})
    >>> spec.size, spec.width_axes
    (50, {'hidden': 8})
    """
    source = Source(factory, dtype, name, f"{sorted((axes or {}).items())!r}{sorted((components or {}).items())!r}{channels_last}", channels_last)
    module = source.template()
    given = dict(axes or {})
    for path, (a, b) in rank_pairs(module).items():
        given[a], given[b] = (RANK + path, None), (None, RANK + path)
    leaves, offset = [], 0
    floating = list(floating_leaves(module))
    buffers = {n for n, _ in module.named_buffers()}
    for leaf_name, tensor in floating:
        shape = tuple(tensor.shape)
        named = tuple(_axis(a) for a in given.pop(leaf_name, (None,) * len(shape)))
        if len(named) != len(shape):
            raise ScenarioError(f"model(axes[{leaf_name!r}]): got {len(named)} entries; allowed: one per dimension of {shape}")
        leaves.append(Leaf(leaf_name, shape, offset, tensor.numel(), leaf_name in buffers, named))
        offset += tensor.numel()
    if given:
        raise ScenarioError(f"model(axes): unknown leaves {sorted(given)}; allowed: {[n for n, _ in floating]}")
    lengths: dict[str, int] = {}
    for leaf in leaves:
        for n, axis in zip(leaf.shape, leaf.axes, strict=True):
            if axis is not None:
                blocks = axis.outer * axis.inner
                if n % blocks or lengths.setdefault(axis.name, n // blocks) != n // blocks:
                    raise ScenarioError(
                        f"model(axes[{leaf.name!r}]): axis {axis.name!r} has {n} / {blocks} entries here, {lengths.get(axis.name)} elsewhere; "
                        "allowed: one length per name"
                    )
    named_parts: dict[str, tuple[str, ...]] = {
        child: (child,) for child, _ in module.named_children() if any(covers(child, s) for s in source.stateful)
    }
    for component, paths in (components or {}).items():
        unknown = [p for p in paths if p not in source.paths and not any(covers(p, n) for n, _ in floating)]
        if unknown or not paths:
            raise ScenarioError(f"model(components[{component!r}]): got {list(paths)}; allowed: module paths such as {sorted(source.paths)[:8]}")
        named_parts[component] = tuple(paths)
    parts = {leaf.name: Part((None,) * len(leaf.shape)) for leaf in leaves}
    return ModelSpec(source=source, leaves=tuple(leaves), base=None, selection=Selection(parts), components=named_parts)
