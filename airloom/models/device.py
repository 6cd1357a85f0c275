"""Training on another torch device: values and batches go there for a call, and its results come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from airloom.errors import ScenarioError
from airloom.models.batch import Batch, Batches
from airloom.models.fast import Fast
from airloom.models.params import Params
from airloom.models.step import Options, Raw

CPU = torch.device("cpu")


@final
@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of one training call."""

    x: Params
    batches: Batches
    options: Options


def torch_device(name: str) -> torch.device:
    """The torch device of a name: "cpu", "cuda" or "cuda:1".

    Raises
    ------
    ScenarioError: another name, or a device that this machine does not have.

    >>> torch_device("cpu")
    device(type='cpu')
    """
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (":" in name and not (kind == "cuda" and number.isdecimal())):
        raise ScenarioError(f"device={name!r}: allowed are cpu, cuda and cuda:NUMBER")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        seen = torch.cuda.device_count()
        raise ScenarioError(
            f"device={name!r}: torch {torch.__version__} sees {seen} CUDA devices on this machine; use cpu, or a CUDA build of torch where a GPU is"
        )
    return torch.device(name)


@final
class Placed:
    """A trainer whose steps run on a device; a call comes from the CPU and goes back there."""

    def __init__(self, fast: Fast, device: torch.device) -> None:
        self.fast = fast
        self.device = device

    def __call__(self, x: Params, batches: Batches, options: Options) -> Raw:
        return on_device(self.fast, self.device, Request(x, batches, options))


def on_device(fast: Fast, device: torch.device, request: Request) -> Raw:
    """Run one call on a device; its results come back to where the values lie."""
    home = request.x.flat.device
    if home == device:
        return fast(request.x, request.batches, request.options)
    raw = fast(moved(request.x, device), _moved_batches(request.batches, device), moved(request.options, device))
    rows = [torch.stack(list(row)).to(home) for row in (raw.losses, raw.squares, *raw.parts.values())]
    return Raw(raw.values.to(home), rows[0], dict(zip(raw.parts, rows[2:], strict=True)), rows[1])


def moved(value: Any, device: torch.device) -> Any:
    """A value of numbers, tensors, models and frozen dataclasses of them, on a device."""
    if isinstance(value, Params):
        return Params(value.spec, value.flat.to(device))
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(moved(v, device) for v in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: moved(getattr(value, f.name), device) for f in fields(value) if f.init})
    return value


def together(batches: Sequence[Batch], device: torch.device) -> Batch:
    """Batches of one shape as one on a device, with a new first axis."""
    one = batches[0]

    def stack(tensors: Sequence[Any]) -> Any:
        return None if tensors[0] is None else torch.stack(list(tensors)).to(device)

    inputs: list[Any] = [batch.x for batch in batches]
    x = {name: stack([given[name] for given in inputs]) for name in one.x} if isinstance(one.x, dict) else stack(inputs)
    ids, weight = (stack([getattr(batch, name) for batch in batches]) for name in ("ids", "weight"))
    return Batch(x, stack([batch.y for batch in batches]), ids, weight, one.classes)


def _moved_batches(batches: Batches, device: torch.device) -> Batches:
    """Batches on a device, all of them at once."""
    whole = together(list(batches), device)
    return Batches(whole.x, whole.y, whole.ids, weight=whole.weight, classes=whole.classes)
