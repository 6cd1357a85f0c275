"""Estimators: scikit-learn classifiers as devices' own models, with a declared cost.

A fitted estimator has no form of its own outside of the process that fitted it (scikit-learn's is pickle). So the value is what it was fitted from:
rows, labels, weights and a seed. Whoever needs it in another process, after a checkpoint or in a pool, fits it again and gets the same one.
"""

from __future__ import annotations

import importlib
import inspect
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from airloom.errors import ScenarioError
from airloom.models.batch import Batch


@final
@dataclass(frozen=True, kw_only=True)
class Estimator:
    """What is fitted: a resident model of a task (`Task.residents`).

    Arguments:
        make: class within scikit-learn, `module.Class`.
        options: its arguments; numbers, truth values, strings, None, or lists of them. A `random_state` is set from the fit's seed.
        fit_flops_per_row, predict_flops_per_row: FLOPs per row of a fit and of a prediction, declared, because nothing can count them.

    Raises:
        ScenarioError: no such classifier, one without `predict_proba`, an option that it does not take, or a cost that is not positive.

    >>> tree = Estimator(make="tree.DecisionTreeClassifier", options={"max_depth": 2}, fit_flops_per_row=1e4, predict_flops_per_row=20.0)
    >>> fitted = tree.fit(Batch(torch.tensor([[0.0], [1.0]]), torch.tensor([2, 0]), classes=3), seed=0)
    >>> fitted.probabilities(torch.tensor([[0.9]])).tolist()
    [[1.0, 0.0, 0.0]]
    """

    make: str
    options: Mapping[str, Any] = field(default_factory=dict)
    fit_flops_per_row: float
    predict_flops_per_row: float

    def __post_init__(self) -> None:
        for name in ("fit_flops_per_row", "predict_flops_per_row"):
            if not 0 < getattr(self, name) < np.inf:
                raise ScenarioError(f"Estimator.{name} of '{self.make}': got {getattr(self, name)!r}; allowed are finite numbers > 0")
        try:
            json.dumps(dict(self.options))
            made = self.made(0)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise ScenarioError(
                f"Estimator(make={self.make!r}, options={dict(self.options)}): {error}; allowed are classes of scikit-learn such as "
                f"'ensemble.RandomForestClassifier' with plain options"
            ) from error
        if not callable(getattr(made, "predict_proba", None)):
            raise ScenarioError(f"Estimator(make={self.make!r}): it has no predict_proba; allowed are classifiers that tell probabilities")

    def made(self, seed: int) -> Any:
        """The estimator, not fitted yet."""
        module, _, name = self.make.rpartition(".")
        cls = getattr(importlib.import_module(f"sklearn.{module}"), name)
        if not (isinstance(cls, type) and issubclass(cls, _classifier())):  # a recipe may come from a file: nothing else is called
            raise TypeError(f"sklearn.{self.make} is no classifier")
        seeded = {"random_state": seed} if "random_state" in inspect.signature(cls).parameters else {}
        return cls(**{**seeded, **self.options})

    @property
    def takes_weights(self) -> bool:
        """Whether its fit weighs rows."""
        return "sample_weight" in inspect.signature(self.made(0).fit).parameters

    def fit(self, batch: Batch, *, seed: int) -> Fitted:
        """The estimator fitted to a batch of flat inputs, with its weights if it has some; nothing is charged.

        Raises:
            ScenarioError: inputs of several modalities, or weights that it does not take.
        """
        if not isinstance(batch.x, Tensor):
            raise ScenarioError(f"Estimator '{self.make}': got inputs of several modalities; allowed are inputs of one array")
        if batch.weight is not None and not self.takes_weights:
            raise ScenarioError(f"Estimator '{self.make}': its fit takes no weights; leave class weights out, or choose one that does")
        return Fitted(recipe=self, x=batch.x.flatten(1), y=batch.y, weight=batch.weight, classes=batch.classes, seed=seed)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A fitted estimator: what it was fitted from. It stays at its device; sent anywhere, it would be these rows, and count as them.

    Arguments:
        recipe: what is fitted.
        x, y, weight: rows [N, features], labels [N] and weights [N] or None.
        classes: of the task; columns of the probabilities.
        seed: of whatever the fit draws.
    """

    recipe: Estimator
    x: Tensor = field(repr=False)
    y: Tensor = field(repr=False)
    weight: Tensor | None = field(repr=False)
    classes: int
    seed: int

    @property
    def nbytes(self) -> int:
        """Bytes of what it was fitted from."""
        return sum(t.numel() * t.element_size() for t in (self.x, self.y, self.weight) if t is not None)

    def to_meta(self) -> Fitted:
        """The same without contents."""
        x, y, weight = (None if t is None else t.to("meta") for t in (self.x, self.y, self.weight))
        assert x is not None and y is not None
        return Fitted(recipe=self.recipe, x=x, y=y, weight=weight, classes=self.classes, seed=self.seed)

    def digest(self) -> str:
        """Hash of what it was fitted from."""
        h = sha256(f"{self.recipe!r};{self.classes};{self.seed}".encode())
        for t in (self.x, self.y, self.weight):
            h.update(b"none" if t is None else t.contiguous().numpy().tobytes())
        return h.hexdigest()

    @cached_property
    def _estimator(self) -> Any:
        """The estimator, fitted when it is first asked."""
        if len(self.y) == 0:
            raise ScenarioError(f"Estimator '{self.recipe.make}': got no rows; allowed is at least one")
        made = self.recipe.made(self.seed)
        weights = {} if self.weight is None else {"sample_weight": self.weight.numpy()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=_convergence())  # a fit that stops at its declared number of steps is what was asked for
            try:
                return made.fit(self.x.numpy(), self.y.numpy(), **weights)
            except ValueError as error:
                raise ScenarioError(f"Estimator '{self.recipe.make}': cannot be fitted to {len(self.y)} rows: {error}") from error

    def probabilities(self, x: Tensor) -> Tensor:
        """Probabilities of all classes, [N, classes] in float64; 0 for those that it never saw."""
        made = self._estimator
        out = np.zeros((len(x), self.classes))
        out[:, made.classes_.astype(np.int64)] = made.predict_proba(x.flatten(1).numpy())
        return torch.from_numpy(out)


def _classifier() -> type:
    """Scikit-learn's mark of classifiers."""
    from sklearn.base import ClassifierMixin

    return ClassifierMixin


def _convergence() -> type[Warning]:
    """Scikit-learn's warning that a fit has used up its steps."""
    from sklearn.exceptions import ConvergenceWarning

    return ConvergenceWarning
