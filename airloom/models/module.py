"""Any nn.Module as a model over one flat vector: `ModelSpec`, its slices, and the skeletons that run them.

The flat vector holds the trainable parameters, then the persistent float buffers (running statistics). Parameters that need no gradient are the
frozen base: part of the spec, not of the vector. Integer buffers are left out and start anew in every call.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import itertools
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor, nn

from airloom.errors import ScenarioError
from airloom.models.params import Params
from airloom.models.submodel import RANK, Axis, Part, Selection, Submodel, covers, everything, meet

AxisLike: TypeAlias = Axis | str | tuple[str, int, int] | None

_SLICES_KEPT = 4096  # resolved slices per spec; random rank slices would fill memory otherwise
_SKELETONS_KEPT = 64  # forms with idle skeletons
_RUNS_AT_MOST = 32  # above this a slice is gathered by index, below by contiguous runs


class RankPair(nn.Module):
    """Base of modules that hold a LoRA pair: parameters `A` [r, in] and `B` [out, r]; `rank_scale` multiplies the pair's output."""

    A: nn.Parameter
    B: nn.Parameter
    rank_scale: float


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
        self, *, source: _Source, leaves: tuple[Leaf, ...], base: ModelSpec | None, selection: Selection, components: Mapping[str, tuple[str, ...]]
    ) -> None:
        self._source = source
        self._base = base
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
        """Describe by JSON values: the key of the base, and for a slice its coordinates."""
        if self._base is None:
            return {"base": self.key}
        leaves = {}
        for name, part in self._selection.parts.items():
            leaves[name] = "all" if part.is_whole else {"flat": _to_json(part.flat)} if part.flat is not None else [_to_json(d) for d in part.dims]
        kept = None if self.kept is None else list(self.kept)
        return {"base": self._base.key, "leaves": leaves, "kept": kept, "scale": dict(self.scale), "width": self.width}

    @staticmethod
    def from_recipe(recipe: Mapping[str, Any], bases: Mapping[str, ModelSpec]) -> ModelSpec:
        """Build from what `recipe` returned; `bases` holds the whole models by key."""
        if recipe["base"] not in bases:
            raise ScenarioError(f"ModelSpec.from_recipe: base {recipe['base']!r} is not at hand; allowed: {sorted(bases)}; build the same task here")
        base = bases[recipe["base"]]
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
        return base._remember(("key", spec.key), spec)

    # ---- running it

    def module(self) -> nn.Module:
        """Return this process's module for the spec: structure only, its values are whatever ran last."""
        with self.skeleton("cpu") as skeleton:
            return skeleton.module

    @contextmanager
    def skeleton(self, device: torch.device | str) -> Iterator[Skeleton]:
        """Lend a runnable copy of the module on a torch device; nested use gets another copy."""
        pool = _idle(self.form, str(device))
        try:
            skeleton = pool.pop()
        except IndexError:
            skeleton = Skeleton(self, torch.device(device))
        try:
            yield skeleton
        finally:
            pool.append(skeleton)


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


# ---- skeletons

_POOLS: OrderedDict[tuple[str, str], list[Skeleton]] = OrderedDict()


def _idle(form: str, device: str) -> list[Skeleton]:
    pool = _POOLS.get((form, device))
    if pool is None:
        pool = _POOLS.setdefault((form, device), [])
        while len(_POOLS) > _SKELETONS_KEPT:
            _POOLS.popitem(last=False)
    else:
        _POOLS.move_to_end((form, device))
    return pool


@final
class Skeleton:
    """A module whose parameters are views into one flat `values` vector, and whose gradients are views into one flat `gradient` vector."""

    __slots__ = ("_integers", "gradient", "module", "names", "parameters", "values")

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        source = spec._source
        missing = _not_a_model(spec)
        if missing:
            raise ScenarioError(f"{spec} is not a model: {missing}; run the whole model, or a slice by components, layers, width, ranks or neurons")
        module = copy.deepcopy(source.template(), memo={id(p): q for p, q in source.frozen_on(device)})
        if device.type != "cpu":
            module = module.to(device)
        self.values = torch.zeros(spec.size, dtype=spec.dtype, device=device)
        self.gradient = torch.zeros(spec.trainable_size, dtype=spec.dtype, device=device)
        self.parameters: dict[str, nn.Parameter] = {}
        buffers: dict[str, Tensor] = {}
        for leaf in spec.leaves:
            value: Tensor = self.values[leaf.offset : leaf.offset + leaf.size].view(leaf.shape)
            if not leaf.is_buffer:
                value = nn.Parameter(value)
                value.grad = self.gradient[leaf.offset : leaf.offset + leaf.size].view(leaf.shape)
                self.parameters[leaf.name] = value
            else:
                buffers[leaf.name] = value
            for owner, attribute in source.aliases[leaf.name]:
                setattr(module.get_submodule(owner), attribute, value)
        if any(not part.is_whole for part in spec._parts().values()):
            for child in module.modules():
                _refit(child)
        for pair, factor in spec.scale.items():
            holder = module.get_submodule(pair)
            if isinstance(holder, RankPair):
                holder.rank_scale *= factor
        if spec.kept is not None:
            module = _pruned(module, spec.kept, source.stateful)
        self.module = module
        bound = {id(t): n for n, t in (*module.named_parameters(), *module.named_buffers())}
        own = dict(self.parameters) | {leaf.name: buffers[leaf.name] for leaf in spec.leaves if leaf.is_buffer}
        self.names = {name: bound[id(t)] for name, t in own.items() if id(t) in bound}  # a slice that runs one submodule has shorter names there
        self._integers = [(b, b.clone()) for b in module.buffers() if not b.is_floating_point() and not b.is_meta]

    def load(self, flat: Tensor) -> None:
        """Copy values in, and start integer buffers anew."""
        self.values.copy_(flat)
        for buffer, start in self._integers:
            buffer.copy_(start)


def _not_a_model(spec: ModelSpec) -> str:
    """Say why a slice cannot run; empty if it can."""
    held = spec._parts()
    for leaf in spec.base.leaves:
        part = held.get(leaf.name)
        if part is not None and part.flat is not None:
            return f"of leaf {leaf.name!r} it holds positions, not rows"
        if part is None and (spec.kept is None or any(covers(p, leaf.name) for p in spec.kept)):
            return f"it lacks the leaf {leaf.name!r}"
    for path in spec.kept or ():
        if path not in spec._source.paths:
            return f"{path!r} is a leaf, not a module"
    return ""


def _floating(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The leaves that belong into the vector: trainable parameters, then persistent float buffers."""
    for name, p in module.named_parameters():
        if p.requires_grad:
            yield name, p
    persistent = set(module.state_dict(keep_vars=True))
    for name, b in module.named_buffers():
        if name in persistent and b.is_floating_point():
            yield name, b


def _pruned(module: nn.Module, kept: tuple[str, ...], stateful: frozenset[str]) -> nn.Module:
    """Take out the modules that a slice does not keep."""
    if len(kept) == 1 and not isinstance(module, nn.Sequential):
        return module.get_submodule(kept[0])

    def prune(owner: nn.Module, prefix: str) -> None:
        children = list(owner.named_children())
        first = next((prefix + n for n, _ in children if any(covers(prefix + n, s) for s in stateful)), "")
        last_kept = any(covers(p, first) or covers(first, p) for p in kept)  # what stands before the first layer belongs to it
        for name, child in children:
            path = prefix + name
            has_state = any(covers(path, s) for s in stateful)
            if any(covers(p, path) for p in kept):
                last_kept = True
            elif any(covers(path, p) for p in kept):
                last_kept = True
                prune(child, path + ".")
            elif has_state or (isinstance(owner, nn.Sequential) and not last_kept):
                last_kept = False
                del owner._modules[name]

    prune(module, "")
    return module


def _refit(module: nn.Module) -> None:
    """Make a module's size attributes say what its (sliced) parameters are."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        if module.groups > 1 and module.groups == module.in_channels:
            module.groups = module.weight.shape[0]
        module.out_channels, module.in_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        module.num_channels = module.weight.shape[0]
        module.num_groups = math.gcd(module.num_groups, module.num_channels)
    elif isinstance(module, nn.LayerNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and module.weight is not None:
        module.num_features = module.weight.shape[0]
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.RNNBase):
        parameters = dict(module.named_parameters())
        module.hidden_size, module.input_size = parameters["weight_hh_l0"].shape[1], parameters["weight_ih_l0"].shape[1]


# ---- sources: the factory and what it makes


@final
class _Source:
    """A factory with what is known of the module it makes."""

    def __init__(self, factory: Callable[[], nn.Module], dtype: torch.dtype, name: str | None, names: str) -> None:
        self.factory, self.dtype = factory, dtype
        self._moved: dict[str, dict[str, nn.Parameter]] = {}
        module = self.build(0)
        self._template = module
        self.name = type(module).__name__ if name is None else name
        self.aliases: dict[str, list[tuple[str, str]]] = {}
        first: dict[int, str] = {}
        for path, tensor in (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)):
            known = first.setdefault(id(tensor), path)
            owner, _, attribute = path.rpartition(".")
            self.aliases.setdefault(known, []).append((owner, attribute))
        self.paths = frozenset(n for n, _ in module.named_modules() if n)
        owners = [p.rpartition(".")[0] or p for p, _ in (*module.named_parameters(), *module.named_buffers())]
        self.stateful = frozenset(owners)
        self.layers = tuple(dict.fromkeys(s.partition(".")[0] for s in owners))
        order = [n for n, _ in module.named_children()]
        self.layers = tuple(sorted(self.layers, key=lambda n: order.index(n) if n in order else -1))
        self.key = self._digest(module, names)

    def build(self, seed: int) -> nn.Module:
        """Run the factory under its own random state."""
        state = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(seed % 2**63)
            return self.make()
        finally:
            torch.set_rng_state(state)

    def make(self) -> nn.Module:
        """Run the factory."""
        module = self.factory()
        if not isinstance(module, nn.Module):
            raise ScenarioError(f"model(factory): it returned {type(module).__name__}; allowed: an nn.Module, made anew in each call")
        return module.to(self.dtype)

    def template(self) -> nn.Module:
        return self._template

    def frozen(self) -> dict[str, Tensor]:
        """Parameters that need no gradient."""
        return {n: p for n, p in self._template.named_parameters() if not p.requires_grad}

    def frozen_on(self, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """The frozen base and its copy on a torch device, shared by all skeletons there."""
        frozen = self.frozen()
        if device.type == "cpu":
            return [(p, p) for p in frozen.values()]
        there = self._moved.get(str(device))
        if there is None:
            there = self._moved[str(device)] = {n: nn.Parameter(p.detach().to(device), requires_grad=False) for n, p in frozen.items()}
        return [(p, there[n]) for n, p in frozen.items()]

    def _digest(self, module: nn.Module, names: str) -> str:
        """Text digest of structure, settings, forward code and frozen values; without anything that differs between processes."""
        digest = hashlib.sha256(names.encode())
        for path, child in module.named_modules():
            kind = type(child)
            settings = sorted((k, _plain(v)) for k, v in vars(child).items() if not k.startswith("_") and k != "training")
            digest.update(f"{path}:{kind.__qualname__}:{settings!r};".encode())
            if not kind.__module__.startswith("torch."):
                digest.update(_code_text(kind).encode())
        for name, tensor in _floating(module):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype};".encode())
        for name, tensor in self.frozen().items():
            digest.update(f"{name}{tuple(tensor.shape)};".encode() + tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:32]


def _plain(value: object) -> str:
    """Text of a module's setting that is the same in every process; empty for what has none."""
    if value is None or isinstance(value, int | float | str):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_plain, value))})"
    return f"{value.__module__}.{value.__qualname__}" if inspect.isfunction(value) else value.__name__ if inspect.isbuiltin(value) else ""


@functools.cache
def _code_text(kind: type) -> str:
    """Source text of a class, or the names its forward uses where there is no source."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return repr(inspect.unwrap(kind.forward).__code__.co_names)  # type: ignore[attr-defined]


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
    name: for messages; default the class name.

    Raises
    ------
    ScenarioError: unknown leaf or component, an axis whose lengths disagree, or a factory that does not make a module.

    >>> spec = model(lambda: nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)),
    ...     axes={"0.weight": ("hidden", None), "0.bias": ("hidden",), "2.weight": (None, "hidden")})
    >>> spec.size, spec.width_axes
    (50, {'hidden': 8})
    """
    source = _Source(factory, dtype, name, f"{sorted((axes or {}).items())!r}{sorted((components or {}).items())!r}")
    module = source.template()
    given = dict(axes or {})
    for path, child in module.named_modules():
        if isinstance(child, RankPair):
            given[f"{path}.A"] = (RANK + path, None)
            given[f"{path}.B"] = (None, RANK + path)
    leaves, offset = [], 0
    floating = list(_floating(module))
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
