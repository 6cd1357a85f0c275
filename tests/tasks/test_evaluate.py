"""Evaluation: metrics of whole parts and of devices, against hand numbers and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from airloom.errors import ScenarioError
from airloom.models import zoo
from airloom.models.params import Params
from airloom.tasks import evaluate
from airloom.tasks.adapters import from_arrays
from airloom.tasks.task import Task

# 600 rows: x is the one-hot code of the class, so a model whose logits are x is always right.
CLASS = np.arange(600) % 3
ONE_HOT = np.eye(3, dtype=np.float32)[CLASS]
DATA = from_arrays("onehot", ONE_HOT, CLASS, x_test=ONE_HOT, y_test=CLASS)
MODEL = zoo.softmax_regression(inputs=3, classes=3)


def linear(weight: np.ndarray) -> Params:
    """The model with these 3 x 3 weights and no bias."""
    return MODEL.params(torch.cat([torch.tensor(weight, dtype=torch.float32).reshape(-1), torch.zeros(3)]))


def task(**shards: np.ndarray) -> Task:
    return Task(name="onehot", dataset=DATA, model=MODEL, shards=shards or {"a": np.arange(100)}, personal_rows=30)


def test_whole_part_by_hand() -> None:
    right = linear(2 * np.eye(3))
    # Logits 2 for the class, 0 for the two others: loss log(e^2 + 2) - 2.
    assert task().evaluate(right) == pytest.approx({"accuracy": 1.0, "loss": math.log(math.e**2 + 2) - 2})
    # Always class 0: right for a third; logits (1, 0, 0): loss log(e + 2) - 1/3 on average.
    first = MODEL.params(torch.tensor([0.0] * 9 + [1.0, 0.0, 0.0]))
    assert task().evaluate(first) == pytest.approx({"accuracy": 1 / 3, "loss": math.log(math.e + 2) - 1 / 3})


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    x = MODEL.initial(3)
    whole = task().evaluate(x)
    monkeypatch.setattr(evaluate, "CHUNK_BYTES", 1)  # the least: 32 rows at a time
    assert task().evaluate(x) == pytest.approx(whole, rel=1e-6)


def test_evaluation_leaves_the_model_trainable_and_in_its_mode() -> None:
    x = zoo.mlp(inputs=3, hidden=(4,), classes=3, dropout=0.5).initial(0)
    t = Task(name="drop", dataset=DATA, model=x.spec, shards={"a": np.arange(5)})
    before = x.flat.clone()
    assert t.evaluate(x) == t.evaluate(x)
    assert torch.equal(before, x.flat)
    with x.spec.skeleton("cpu") as skeleton:
        skeleton.load(x.flat)
        skeleton.module(torch.ones(2, 3)).sum().backward()
        assert not skeleton.values.is_inference()


def test_predict_takes_any_model() -> None:
    def predict(model: float, x: torch.Tensor) -> torch.Tensor:
        return model * x

    assert task().evaluate(1.0, predict=predict)["accuracy"] == 1.0
    assert task().evaluate_personal({"a": -1.0}, predict=predict)["accuracy_worst"] == 0.0
    with pytest.raises(ScenarioError, match="without `predict` it must be Params"):
        task().evaluate(1.0)
    with pytest.raises(ScenarioError, match="allowed are 'train'"):
        task().evaluate(MODEL.zeros(), "dev")


def test_personal_rows_have_the_label_mix_of_the_device() -> None:
    labels = DATA.y_train
    of = [np.flatnonzero(labels == c) for c in range(3)]
    # Device one: 20 rows of class 0, 10 of class 1: 2/3 and 1/3 of 30 personal rows.
    t = task(one=np.sort(np.concatenate([of[0][:20], of[1][:10]])), two=of[2][:9])
    rows = evaluate.personal_rows_of(t, "one")
    assert np.bincount(DATA.y_test[rows], minlength=3).tolist() == [20, 10, 0]
    assert (np.diff(rows) > 0).all()
    assert np.bincount(DATA.y_test[evaluate.personal_rows_of(t, "two")], minlength=3).tolist() == [0, 0, 30]
    # The validation part has 20 rows of each class: with 2/3 and 1/3, class 0 allows 20 / (2/3) = 30 rows.
    part = evaluate.personal_rows_of(t, "one", "validation")
    assert np.bincount(DATA.y_validation[part], minlength=3).tolist() == [20, 10, 0]
    assert evaluate.personal_rows_of(t, "one") is rows


def test_personal_rows_shrink_where_a_class_runs_out() -> None:
    few = from_arrays("few", ONE_HOT, CLASS, x_test=np.eye(3)[[0, 0, 0, 1, 2, 2]], y_test=[0, 0, 0, 1, 2, 2])
    labels = few.y_train
    shard = np.sort(np.concatenate([np.flatnonzero(labels == 0)[:5], np.flatnonzero(labels == 1)[:5]]))
    t = Task(name="few", dataset=few, model=MODEL, shards={"a": shard})
    # Half and half, but one test row of class 1: one row of each.
    assert np.bincount(few.y_test[evaluate.personal_rows_of(t, "a")], minlength=3).tolist() == [1, 1, 0]


def test_natural_clients_are_tested_on_their_own_rows() -> None:
    ids = np.array(["ann", "bob", "eve"])[np.arange(600) // 200]
    data = from_arrays("natural", ONE_HOT, CLASS, natural=ids)
    assert data.natural is not None and data.natural_test is not None
    shards = {"phone1": np.flatnonzero(data.natural == "bob"), "phone2": np.flatnonzero(data.natural == "eve")}
    t = Task(name="natural", dataset=data, model=MODEL, shards=shards, natural={"phone1": "bob", "phone2": "zoe"}, personal_rows=20)
    assert set(data.natural_test[evaluate.personal_rows_of(t, "phone1")]) == {"bob"}
    # Nobody called zoe has test rows: the label mix decides.
    assert len(evaluate.personal_rows_of(t, "phone2")) in range(18, 22)


def test_mean_tenth_percentile_and_worst_over_devices() -> None:
    of = [np.flatnonzero(DATA.y_train == c) for c in range(3)]
    t = task(zero=of[0][:9], one=of[1][:9], two=of[2][:9])
    first = MODEL.params(torch.tensor([0.0] * 9 + [1.0, 0.0, 0.0]))
    # One shared model that always says class 0: accuracies 1, 0, 0; 10th percentile of (0, 0, 1) is 0.
    shared = t.evaluate_personal({name: first for name in t.shards})
    assert [shared[f"accuracy_{k}"] for k in ("mean", "p10", "worst")] == pytest.approx([1 / 3, 0, 0])
    # Losses: log(e + 2) - 1 for class 0, log(e + 2) for the others; the 90th percentile and the largest are the latter.
    log = math.log(math.e + 2)
    assert [shared[f"loss_{k}"] for k in ("mean", "p10", "worst")] == pytest.approx([log - 1 / 3, log, log])
    # Each its own model that knows its class: all right. Same numbers when one of them is shared.
    own = {name: MODEL.params(torch.tensor([0.0] * 9 + [5.0 * (c == k) for k in range(3)])) for c, name in enumerate(t.shards)}
    assert t.evaluate_personal(own)["accuracy_worst"] == 1.0
    mixed = own | {"one": own["zero"]}
    assert t.evaluate_personal(mixed)["accuracy_mean"] == pytest.approx(2 / 3)
    with pytest.raises(ScenarioError, match="at least one device"):
        t.evaluate_personal({})


def test_sharing_a_model_gives_the_same_as_copies_of_it() -> None:
    t = task(a=np.arange(50), b=np.arange(50, 120), c=np.arange(120, 400))
    x = MODEL.initial(1)
    copies = {name: MODEL.params(x.flat.clone()) for name in t.shards}
    assert t.evaluate_personal({name: x for name in t.shards}) == pytest.approx(t.evaluate_personal(copies), rel=1e-5)


def test_text_and_values() -> None:
    tokens = np.arange(80).reshape(40, 2) % 4
    text = from_arrays("text", tokens, (tokens + 1) % 4, kind="next_token")
    t = Task(name="text", dataset=text, model=MODEL, shards={"a": np.arange(9)})

    def uniform(_: object, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*x.shape, 4)

    # Uniform over four tokens: loss log 4, perplexity 4; arg-max 0 is right for every fourth token.
    assert t.evaluate(None, predict=uniform) == pytest.approx({"loss": math.log(4), "perplexity": 4.0, "accuracy": 0.25}, abs=0.1)
    assert t.evaluate(None, predict=uniform)["perplexity"] == pytest.approx(4.0)
    assert t.evaluate_personal({"a": None}, predict=uniform)["perplexity_worst"] == pytest.approx(4.0)

    values = from_arrays("values", np.ones((20, 3)), np.full((20, 1), 2.0), kind="regression")
    model = zoo.mlp(inputs=3, hidden=(), classes=1)
    t = Task(name="values", dataset=values, model=model, shards={"a": np.arange(5)})
    # Zero model against 2: squared error 4.
    assert t.evaluate(model.zeros()) == {"mse": 4.0}
    assert t.evaluate_personal({"a": model.zeros()})["mse_worst"] == 4.0


def test_an_empty_part_is_refused() -> None:
    empty = from_arrays("empty", ONE_HOT, CLASS, x_test=np.zeros((0, 3)), y_test=np.zeros(0, int), classes=3)
    t = Task(name="empty", dataset=empty, model=MODEL, shards={"a": np.arange(5)})
    with pytest.raises(ScenarioError, match="this part of the data set is empty"):
        t.evaluate(MODEL.zeros())
    with pytest.raises(ScenarioError, match="this part of the data set is empty"):
        t.evaluate_personal({"a": MODEL.zeros()})
