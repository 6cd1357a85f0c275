"""How alike two models see the same rows: linear CKA between their features.

    CKA(X, Y) = <K, L>_F / (|K|_F |L|_F),   K = X X', L = Y Y', both double-centered                X, Y: [rows, features]

Paper: Kornblith, Norouzi, Lee, Hinton, "Similarity of Neural Network Representations Revisited", ICML 2019, arXiv 1905.00414.
"""

from __future__ import annotations

import torch
from torch import Tensor

from airloom.models.batch import Batch
from airloom.models.params import Params
from airloom.models.submodel import layers
from airloom.program.here import Here


def linear_cka(x_RF: Tensor, y_RF: Tensor) -> Tensor:
    """CKA of two tables of features of the same rows, a number in [0, 1]; 1 where both are constant, 0 where one is.

    >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]])
    >>> round(linear_cka(x, 3 * x.flip(1)).item(), 6)
    1.0
    """
    x, y = ((t.flatten(1).double() - t.flatten(1).double().mean(0)) for t in (x_RF, y_RF))  # centered columns center K on both sides
    K, L = x @ x.T, y @ y.T
    cross, norms = (K * L).sum(), K.norm() * L.norm()
    return torch.where(norms > 0, cross / norms.clamp(min=1e-300), (K.norm() == L.norm()).double())


def feature_cka(here: Here, x: Params, y: Params, batch: Batch) -> Tensor:
    """CKA of what two models give to their last layer (models of one layer: of what they give out), charged to this place."""
    depth = len(x.spec.layers)
    a, b = (here.forward(z[layers(0, depth - 1)] if depth > 1 else z, batch) for z in (x, y))
    here.cost(flops=2.0 * len(batch) ** 2 * (a[0].numel() + b[0].numel() + 1))  # both products, and the inner product
    return linear_cka(a, b)
