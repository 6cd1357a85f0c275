"""A silo's classifier, of whatever family: a torch model that learns by descent, or a scikit-learn estimator that is fitted anew.

Both choose among a silo's own classes only. What a torch model's training costs is counted, an estimator's is declared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from airloom.errors import ScenarioError
from airloom.models import train
from airloom.models.batch import Batch
from airloom.models.estimator import Estimator, Fitted
from airloom.models.objective import CrossEntropy
from airloom.models.params import Params
from airloom.program.here import Here

LEAST = 1e-6  # of a probability, so that its logarithm is finite (ours)
NONE = (-1.0, 0.0)  # below every score


def own_model(here: Here) -> Params | Estimator:
    """The device's resident model, with its first values; without one the task's, with values of the device's own.

    Raises:
        ScenarioError: a resident that is neither `Params` nor an `Estimator`.
    """
    if not here.holds_model:
        return here.spec.initial(int(here.rng("own model").integers(2**31)))
    model = here.model
    if not isinstance(model, Params | Estimator):
        raise ScenarioError(f"resident model of '{here.name}': got a {type(model).__name__}; allowed are Params and Estimator")
    return model


def own_classes(here: Here) -> np.ndarray:
    """Classes of which the device has rows.

    Raises:
        ScenarioError: fewer than two.
    """
    labels = np.flatnonzero(here.data.counts)
    if len(labels) < 2:
        raise ScenarioError(f"data of '{here.name}': rows of {len(labels)} class; a classifier needs at least 2; deal the rows out otherwise")
    return labels


def probabilities(here: Here, h: Params | Fitted, x: Any, labels: np.ndarray) -> Tensor:
    """What a model says of rows, [N, own classes] in float64; charged."""
    if isinstance(h, Fitted):
        here.cost(flops=h.recipe.predict_flops_per_row * len(x))
        return _among(h.probabilities(x), labels)
    return torch.softmax(here.forward(h, x)[:, labels].double(), 1)


def logits(h: Params | Fitted, x: Any, labels: np.ndarray) -> Tensor:
    """Logarithms of probabilities over all classes, as the evaluation wants them; not charged."""
    with torch.inference_mode(False), torch.no_grad():  # a model that is first made in inference mode could never be trained
        if isinstance(h, Fitted):
            p, classes = _among(h.probabilities(x), labels), h.classes
        else:
            out = train.forward(h, x)
            p, classes = torch.softmax(out[:, labels].double(), 1), out.shape[1]
        all_classes = torch.full((len(p), classes), LEAST, dtype=torch.float64)
        all_classes[:, labels] = p.clamp(min=LEAST)
    return all_classes.log()


def _among(p: Tensor, labels: np.ndarray) -> Tensor:
    """Probabilities of some classes, of sum 1; equal where the model excludes all of them."""
    own = p[:, labels] + 1e-300
    return own / own.sum(1, keepdim=True)


def score(here: Here, h: Params | Fitted, labels: np.ndarray) -> tuple[float, float]:
    """Accuracy and minus the loss on the device's validation rows; charged."""
    held = here.data.validation.all()
    p = probabilities(here, h, held.x, labels)
    place = torch.from_numpy(np.searchsorted(labels, held.y.numpy()).clip(max=len(labels) - 1))
    is_own = torch.from_numpy(labels)[place] == held.y
    right = torch.where(is_own, p.gather(1, place[:, None])[:, 0], 0.0)
    return float(((p.argmax(1) == place) & is_own).double().mean()), float(right.clamp(min=LEAST).log().mean())


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How a torch model learns at a silo.

    Arguments:
        lr: step size; it falls by 1 % per epoch (authors' code of CoFED).
        tried: multiples of lr; each begins anew.
        epochs, batch_size: of each.
        patience: it stops after so many epochs without a better score.
    """

    lr: float
    tried: tuple[float, ...]
    epochs: int
    batch_size: int
    patience: int


def learned(here: Here, h: Params | Estimator, data: Batch, labels: np.ndarray, how: Descent, name: str) -> Params | Fitted:
    """The model after learning from a batch: an estimator fitted once, or the best that descent from h meets, by validation rows.

    `name`: of the random stream that an estimator draws from.
    """
    if isinstance(h, Estimator):
        here.cost(flops=h.fit_flops_per_row * len(data))
        return h.fit(data, seed=int(here.rng(name).integers(2**31)))
    size, best, best_score = min(how.batch_size, len(data)), h, NONE
    for factor in how.tried:
        x, top, since = h, NONE, 0
        for epoch in range(how.epochs):
            lr, own = how.lr * factor * 0.99**epoch, CrossEntropy(labels=tuple(labels.tolist()))
            x = here.train(x, data=data, steps=-(-len(data) // size), lr=lr, batch_size=size, objective=own)
            now, since = score(here, x, labels), since + 1
            if now > top:
                top, since = now, 0
            if now > best_score:
                best, best_score = x, now
            if since >= how.patience:
                break
    return best


def joined(a: Batch, x: Tensor, y: np.ndarray) -> Batch:
    """A batch and further rows with their labels, without ids.

    Raises:
        ScenarioError: inputs of several modalities.
    """
    if isinstance(a.x, dict):
        raise ScenarioError("a silo's rows: got inputs of several modalities; allowed are inputs of one array")
    return Batch(torch.cat([a.x, x]), torch.cat([a.y, torch.from_numpy(y)]), classes=a.classes)


def balanced(data: Batch, *, is_on: bool) -> Batch:
    """The batch with weights inverse to the frequency of each row's class, the largest 1; or as it is."""
    if not is_on:
        return data
    counts = data.counts
    weight = counts[counts > 0].min() / np.maximum(counts, 1)
    return Batch(data.x, data.y, data.ids, torch.from_numpy(weight)[data.y].to(torch.float32), data.classes)
