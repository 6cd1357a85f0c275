"""Estimators: scikit-learn's own numbers, the same after a way through another process, declared costs, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from airloom.engines.pool import Region, Shelf
from airloom.errors import ScenarioError
from airloom.models.batch import Batch
from airloom.models.estimator import Estimator
from airloom.program.tree import body_bytes, signature, to_meta

FOREST: dict[str, Any] = {
    "make": "ensemble.RandomForestClassifier",
    "options": {"n_estimators": 5},
    "fit_flops_per_row": 1e4,
    "predict_flops_per_row": 50.0,
}
RNG = np.random.default_rng(0)
X, Y = torch.from_numpy(RNG.normal(size=(30, 2, 2))).float(), torch.from_numpy(RNG.integers(0, 2, 30) * 3)
BATCH = Batch(X, Y, classes=5)


def test_probabilities_are_those_of_the_library_over_all_classes() -> None:
    from sklearn.ensemble import RandomForestClassifier

    plain = RandomForestClassifier(n_estimators=5, random_state=7).fit(X.flatten(1).numpy(), Y.numpy())
    p = Estimator(**FOREST).fit(BATCH, seed=7).probabilities(X)
    np.testing.assert_array_equal(p[:, [0, 3]].numpy(), plain.predict_proba(X.flatten(1).numpy()))
    assert p.shape == (30, 5) and not p[:, [1, 2, 4]].any()


def test_weights_count() -> None:
    # one row of each class at the same place: the heavier one wins
    stump = Estimator(make="tree.DecisionTreeClassifier", fit_flops_per_row=1.0, predict_flops_per_row=1.0)
    batch = Batch(torch.zeros(2, 1), torch.tensor([0, 1]), weight=torch.tensor([1.0, 3.0]), classes=2)
    assert stump.fit(batch, seed=0).probabilities(torch.zeros(1, 1)).tolist() == [[0.25, 0.75]]


def test_a_fitted_one_is_the_same_after_a_way_through_shared_memory() -> None:
    import mmap

    memory = mmap.mmap(-1, 1 << 16)
    shelf = Shelf(memory, Region(0, 1 << 16), {}, is_parent=True)
    one = Estimator(**FOREST).fit(BATCH, seed=3)
    other = shelf.read(shelf.write({"h": one}, [], {}, {}, set()))["h"]
    assert other is not one
    assert torch.equal(other.probabilities(X), one.probabilities(X))
    assert other.digest() == one.digest() != Estimator(**FOREST).fit(BATCH, seed=4).digest()


def test_on_a_wire_it_would_be_the_rows_it_was_fitted_to() -> None:
    one = Estimator(**FOREST).fit(BATCH, seed=3)
    assert body_bytes(one) == 30 * 4 * 4 + 30 * 8
    shape = to_meta(one)
    assert shape.x.is_meta and signature(shape) == signature(one) != signature(Estimator(**FOREST).fit(BATCH.rows(torch.arange(3)), seed=3))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fit_flops_per_row": 0.0}, r"fit_flops_per_row .*got 0\.0; allowed are finite numbers > 0"),
        ({"predict_flops_per_row": float("nan")}, "predict_flops_per_row .*got nan"),
        ({"make": "ensemble.NoSuchThing"}, "allowed are classes of scikit-learn"),
        ({"make": "os.path"}, "allowed are classes of scikit-learn"),
        ({"options": {"depth": 3}}, "allowed are classes of scikit-learn"),
        ({"options": {"criterion": print}}, "with plain options"),
        ({"make": "svm.LinearSVC", "options": {}}, "it has no predict_proba"),
        ({"make": "datasets.load_files", "options": {"container_path": "."}}, "is no classifier"),
    ],
)
def test_bad_recipes(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ScenarioError, match=says):
        Estimator(**{**FOREST, **change})


def test_bad_fits() -> None:
    nearest = Estimator(make="neighbors.KNeighborsClassifier", fit_flops_per_row=1.0, predict_flops_per_row=1.0)
    with pytest.raises(ScenarioError, match="its fit takes no weights"):
        nearest.fit(Batch(X, Y, weight=torch.ones(30), classes=5), seed=0)
    with pytest.raises(ScenarioError, match="several modalities"):
        nearest.fit(Batch({"a": X}, Y, classes=5), seed=0)
    with pytest.raises(ScenarioError, match="got no rows"):
        nearest.fit(BATCH.rows(torch.arange(0)), seed=0).probabilities(X)
    logistic = Estimator(make="linear_model.LogisticRegression", fit_flops_per_row=1.0, predict_flops_per_row=1.0)
    with pytest.raises(ScenarioError, match="cannot be fitted to 2 rows"):
        logistic.fit(Batch(X[:2], torch.tensor([1, 1]), classes=5), seed=0).probabilities(X)
