"""Gradient inversion of a linear layer: the input of a single sample can be read off its gradient.

    z = W x + b:   dL/dW = (dL/dz) x',   dL/db = dL/dz,   so that   x = dL/dW[c] / dL/db[c]   for every output c with dL/db[c] != 0

Paper: Phong, Aono, Hayashi, Wang, Moriai, "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption", IEEE TIFS 2018, section III.
Left out: batches of several samples (their inputs mix), deeper layers, matching by optimization (Zhu, Liu, Han 2019).
"""

from __future__ import annotations

from torch import Tensor

from airloom.errors import ScenarioError
from airloom.models.params import Params


def invert(g: Params, layer: str) -> Tensor:
    """What the attacker takes for the input of `layer`, [inputs]: from the output whose bias moved most.

    Arguments:
        g: a gradient, or an update of one step, of a batch of one; any factor drops out.
        layer: a linear layer with bias, such as "out".

    Raises:
        ScenarioError: the model has no such layer with weight and bias.

    >>> from torch import tensor
    >>> from airloom.models import zoo
    >>> spec = zoo.softmax_regression(inputs=2, classes=2)
    >>> g = Params.from_named(spec, {"out.weight": tensor([[0.5, 1.0], [-1.0, -2.0]]), "out.bias": tensor([0.5, -1.0])})
    >>> invert(g, "out").tolist()
    [1.0, 2.0]
    """
    named = g.named()
    if f"{layer}.weight" not in named or f"{layer}.bias" not in named:
        raise ScenarioError(f"invert(layer={layer!r}) of {g.spec}: allowed are linear layers with bias, of {sorted(named)}")
    W, b = named[f"{layer}.weight"], named[f"{layer}.bias"]
    c = int(b.abs().argmax())
    return W[c] / b[c]


def leakage(guess: Tensor, x: Tensor) -> float:
    """How much of an input a guess shows: squared correlation with it, 1 for a copy up to brightness and contrast, about 0 for noise.

    >>> from torch import tensor
    >>> round(leakage(tensor([1.0, 3.0, 2.0]), tensor([2.0, 6.0, 4.0])), 9)
    1.0
    """
    a, b = (t.flatten().double() - t.double().mean() for t in (guess, x))
    norms = float(a.norm() * b.norm())
    return (float(a @ b) / norms) ** 2 if norms > 0 else 0.0
