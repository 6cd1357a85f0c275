"""Runnable copies of a model's module, over flat vectors, kept for reuse."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from contextvars import ContextVar
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from airloom.errors import ScenarioError
from airloom.models.source import rescale
from airloom.models.submodel import covers

if TYPE_CHECKING:
    from airloom.models.module import ModelSpec

_SKELETONS_KEPT = 64  # forms with idle skeletons
_POOLS: OrderedDict[tuple[str, str], list[Skeleton]] = OrderedDict()
# inside a recording: the copies that it used, which do not go back to the pool, since the script keeps their tensors
HELD: ContextVar[dict[tuple[str, str], list[Skeleton]] | None] = ContextVar("held", default=None)


def idle(form: str, device: str) -> list[Skeleton]:
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
    """A module whose parameters are views into one flat `values` vector, and whose gradients are views into one flat `gradient` vector.

    Where the spec asks for `channels_last`, convolution weights lie in these vectors as [out, kernel, in] instead of [out, in, kernel]:
    `arranged` and `restored` translate. `scripts` holds what faster ways to train have made for this copy, `straight` copies
    of frozen weights that lie transposed, by where these are.
    """

    __slots__ = ("_conv", "_integers", "gradient", "module", "names", "parameters", "scripts", "straight", "values")

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        source = spec._source
        missing = _not_a_model(spec)
        if missing:
            raise ScenarioError(f"{spec} is not a model: {missing}; run the whole model, or a slice by components, layers, width, ranks or neurons")
        module = copy.deepcopy(source.template(), memo={id(p): q for p, q in source.frozen_on(device)})
        if device.type != "cpu":
            module = module.to(device)
        self.scripts: dict[object, object] = {}
        self.straight: dict[int, Tensor] = {}
        self.values = torch.zeros(spec.size, dtype=spec.dtype, device=device)
        self.gradient = torch.zeros(spec.trainable_size, dtype=spec.dtype, device=device)
        self.parameters: dict[str, nn.Parameter] = {}
        self._conv: list[tuple[int, int, tuple[int, ...]]] = []
        buffers: dict[str, Tensor] = {}
        for leaf in spec.leaves:
            start, stop = leaf.offset, leaf.offset + leaf.size
            is_conv = source.channels_last and not leaf.is_buffer and len(leaf.shape) == 4
            if is_conv:
                self._conv.append((start, stop, leaf.shape))
            value: Tensor = _conv_view(self.values[start:stop], leaf.shape) if is_conv else self.values[start:stop].view(leaf.shape)
            if not leaf.is_buffer:
                value = nn.Parameter(value)
                value.grad = _conv_view(self.gradient[start:stop], leaf.shape) if is_conv else self.gradient[start:stop].view(leaf.shape)
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
            if pair in spec.pairs:
                rescale(holder, factor)
            else:
                holder.register_forward_hook(_Scaler(factor))
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
        for start, stop, shape in self._conv:
            _conv_view(self.values[start:stop], shape).copy_(flat[start:stop].view(shape))
        for buffer, start in self._integers:
            buffer.copy_(start)

    def arranged(self, flat: Tensor) -> Tensor:
        """Return a vector of the spec as it lies in `values`; the same one where nothing moves."""
        if not self._conv:
            return flat
        out = flat.clone()
        for start, stop, shape in self._conv:
            _conv_view(out[start:stop], shape).copy_(flat[start:stop].view(shape))
        return out

    def restored(self) -> Tensor:
        """Return a copy of `values` as a vector of the spec."""
        out = self.values.clone()
        for start, stop, shape in self._conv:
            out[start:stop].view(shape).copy_(_conv_view(self.values[start:stop], shape))
        return out


class _Scaler:
    """Multiplies the output of a module while it trains."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, module: nn.Module, _args: object, out: Tensor) -> Tensor:
        return out * self.factor if module.training else out


def _conv_view(vector: Tensor, shape: tuple[int, ...]) -> Tensor:
    """See a stretch of a vector as [out, in, H, W] with the input channels last in memory."""
    out, channels, height, width = shape
    return vector.view(out, height, width, channels).permute(0, 3, 1, 2)


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
