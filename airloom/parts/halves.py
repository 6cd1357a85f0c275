"""A network cut in two or three: the pieces, the gradient at the output, and what crosses the cut.

bottom, top = pieces(x, cut)                          # layers below the cut, layers above it; None for no layers
a, tape = here.forward(bottom, batch, keep=True)      # at one place
g = output_gradient(here, out, labels)                # dL/d out, at the place that has the labels
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from airloom.errors import ScenarioError
from airloom.models.batch import Batch
from airloom.models.params import Params, join
from airloom.models.submodel import layers
from airloom.program.here import Here
from airloom.tasks.metrics import IGNORE


def pieces(x: Params, *cuts: int) -> list[Params | None]:
    """The runs of layers between the cuts, from below; None where a run is empty.

    >>> from airloom.models import zoo
    >>> x = zoo.mlp(inputs=4, hidden=(3,), classes=2).initial(0)
    >>> [None if piece is None else len(piece) for piece in pieces(x, 0, 1)]
    [None, 15, 8]
    """
    depth = len(x.spec.layers)
    ends = [0, *cuts, depth]
    if sorted(ends) != ends:
        raise ScenarioError(f"cut of {x.spec}: got layers {list(cuts)}; allowed are rising numbers from 0 to {depth}, its layers are {x.spec.layers}")
    if x.spec.trainable_size != x.spec.size:
        raise ScenarioError(f"cut of {x.spec}: it has running statistics, which a cut model would lose; use group or layer normalization")
    return [x[layers(a, b)] if a < b else None for a, b in pairwise(ends)]


def joined(*parts: Params | None) -> Params:
    """The whole model again."""
    return join(*[part for part in parts if part is not None])


def forward_kept(here: Here, part: Params | None, a: Any) -> tuple[Any, Any]:
    """What a piece makes of its input, and the tape of it; an empty piece passes its input on."""
    return (a, None) if part is None else here.forward(part, a, keep=True)


def backward_kept(here: Here, tape: Any, g: Any, *, is_first: bool = False) -> tuple[Params | None, Any]:
    """Gradients of a kept piece: of its values, and of its input (None for the first piece, which needs none)."""
    if tape is None:
        return None, g
    return (here.vjp(tape, g, wrt="params"), None) if is_first else here.vjp(tape, g, wrt=("params", "inputs"))


def square(d: Params | None) -> Any:
    """Squared norm of a gradient, 0 for an empty piece."""
    return 0.0 if d is None else d.square_norm()


def clipped(d: Params, norm: float | None, other: Any = 0.0) -> Params:
    """d, no longer than `norm` together with a gradient of squared norm `other` elsewhere; as training steps do it."""
    if norm is None:
        return d
    whole = torch.as_tensor(d.square_norm() + other, dtype=torch.float64)
    return d * (norm / (whole.sqrt() + 1e-6)).clamp(max=1.0)


def output_gradient(here: Here, out: Tensor, labels: Tensor) -> Tensor:
    """dL/d out of the task's objective; its few operations per output are not charged."""
    if out.is_meta:
        return torch.empty_like(out)
    with torch.enable_grad():
        out = out.detach().requires_grad_()
        value = here.objective(out, Batch(out, unpacked(labels)))
        return torch.autograd.grad(value, out)[0]


def packed(batch: Batch) -> Tensor:
    """Labels as they travel: one byte each where there are at most 256 classes; next tokens, some of which may not count (-100), in one up to 128
    classes and in two up to 32,768."""
    if not batch.classes or batch.y.is_floating_point():
        return batch.y
    if batch.y.dim() == 1:
        return batch.y.to(torch.uint8) if batch.classes <= 256 else batch.y
    return batch.y.to(torch.int8 if batch.classes <= 128 else torch.int16) if batch.classes <= 32_768 else batch.y


def unpacked(labels: Tensor) -> Tensor:
    """Labels as objectives want them."""
    return labels if labels.is_floating_point() else labels.to(torch.int64)


def counted(labels: Tensor) -> Tensor:
    """How many of the labels count, as a number to divide by."""
    return (labels != IGNORE).sum().double().clamp(min=1.0)
