"""The factory of a module and what is known of the module it makes: structure, frozen base, a key that is the same in every process."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from airloom.errors import ScenarioError


class RankPair(nn.Module):
    """Base of modules that hold a LoRA pair: parameters `A` [r, in] and `B` [out, r]; `rank_scale` multiplies the pair's output."""

    A: nn.Parameter
    B: nn.Parameter
    rank_scale: float


def rank_pairs(module: nn.Module) -> dict[str, tuple[str, str]]:
    """LoRA pairs by the path of their module: names of the leaves A [r, in] and B [out, r]; `RankPair`s and linear layers wrapped by peft."""
    peft = sys.modules.get("peft.tuners.lora")
    found: dict[str, tuple[str, str]] = {}
    for path, child in module.named_modules():
        within = f"{path}." if path else ""
        if isinstance(child, RankPair):
            found[path] = f"{within}A", f"{within}B"
        elif peft is not None and isinstance(child, peft.Linear):
            adapters: Any = child.lora_A
            (adapter,) = adapters  # one: a second one would need a name of its own
            found[path] = f"{within}lora_A.{adapter}.weight", f"{within}lora_B.{adapter}.weight"
    return found


def base_weight(module: nn.Module, pair: str) -> str:
    """Name of the frozen weight under a LoRA pair."""
    within = f"{pair}." if pair else ""
    return f"{within}weight" if isinstance(module.get_submodule(pair), RankPair) else f"{within}base_layer.weight"


def pair_scale(holder: nn.Module) -> float:
    """Factor on the output of a module's LoRA pair."""
    if isinstance(holder, RankPair):
        return holder.rank_scale
    scaling: Any = holder.scaling  # peft: factor by adapter
    (factor,) = scaling.values()
    return float(factor)


def rescale(holder: nn.Module, factor: float) -> None:
    """Multiply the output of a module's LoRA pair."""
    if isinstance(holder, RankPair):
        holder.rank_scale *= factor
    else:
        scaling: Any = holder.scaling  # peft: factor by adapter
        holder.scaling = {adapter: value * factor for adapter, value in scaling.items()}  # type: ignore[assignment]


def floating_leaves(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The leaves that belong into the vector: trainable parameters, then persistent float buffers."""
    for name, p in module.named_parameters():
        if p.requires_grad:
            yield name, p
    persistent = set(module.state_dict(keep_vars=True))
    for name, b in module.named_buffers():
        if name in persistent and b.is_floating_point():
            yield name, b


@final
class Source:
    """A factory with what is known of the module it makes."""

    def __init__(self, factory: Callable[[], nn.Module], dtype: torch.dtype, name: str | None, names: str, channels_last: bool) -> None:
        self.factory, self.dtype, self.channels_last = factory, dtype, channels_last
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
        for name, tensor in floating_leaves(module):
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
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_plain(key)}: {_plain(held)}' for key, held in value.items())}}}"
    return f"{value.__module__}.{value.__qualname__}" if inspect.isfunction(value) else value.__name__ if inspect.isbuiltin(value) else ""


@functools.cache
def _code_text(kind: type) -> str:
    """Source text of a class, or the names its forward uses where there is no source."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return repr(inspect.unwrap(kind.forward).__code__.co_names)  # type: ignore[attr-defined]
