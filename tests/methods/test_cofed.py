"""CoFED: votes and lists by hand, nested lists, one silo, what travels, models of both families, the same in a pool and after a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from airloom.clock.rng import generator
from airloom.engines.simnode import SimNode
from airloom.errors import ScenarioError
from airloom.methods.cofed import CoFED
from airloom.models import zoo
from airloom.models.estimator import Estimator, Fitted
from airloom.models.params import Params
from airloom.parts.ballot import packed_classes, packed_votes, unpacked_ids
from airloom.parts.silo import balanced
from airloom.records import checkpoint
from airloom.runner import Options, Run, Runner
from airloom.scenarios.scenario import Scenario
from airloom.tasks.datasets import load
from airloom.tasks.task import Task
from tests.methods.hand import star
from tests.methods.quadratic import least_squares, random_rows
from tests.worlds import play

POOL, SILOS = 60, ("tree", "line", "net", "plain")
TREE = Estimator(make="tree.DecisionTreeClassifier", options={"max_depth": 6}, fit_flops_per_row=100.0, predict_flops_per_row=2.0)
LINE = Estimator(make="linear_model.LogisticRegression", options={"max_iter": 50}, fit_flops_per_row=1e4, predict_flops_per_row=640.0)
NET = zoo.mlp(inputs=64, hidden=(8,))
QUICK: dict[str, Any] = {"lr": 0.5, "local_epochs": 10, "retrain_epochs": 3, "delta": 0.1}


@cache
def task(names: tuple[str, ...] = SILOS, own: int = 5) -> Task:
    """Digits: `own` of the classes 0 to 6 each, 12 rows of each, a quarter of them for validation."""
    digits, rng = load("digits"), generator(0, "cofed")
    order = rng.permutation(len(digits.y_train))
    rest, shards = order[POOL:], {}
    for k, name in enumerate(names):
        mine = [rest[digits.y_train[rest] == (k + c) % 7][12 * k : 12 * k + 12] for c in range(own)]
        shards[name] = np.sort(np.concatenate(mine))
    known = {"tree": TREE, "line": LINE, "net": NET.initial(3)}
    residents = {name: known[name] for name in names if name in known}
    return Task(
        name="silos", dataset=digits, model=NET, shards=shards, public_rows=np.sort(order[:POOL]), residents=residents, validation_share=0.25
    )  # fmt: skip


def go(learned: Task, method: CoFED, out: Path | None = None, executor: str = "loop", frozen: Any = None, rounds: int = 1) -> Run:
    network = star(dict.fromkeys(learned.shards, 1e6), rate=1e5)
    options = Options(
        budget={"rounds": rounds}, executor=executor, workers=2, log_payloads=out is not None, checkpoint_every_s=0.0 if out is not None else None
    )
    return Runner(Scenario(name="silos", network=network, task=learned), method, 0, options, out, {}, None).run(frozen)


@cache
def base() -> Run:
    return go(task(), CoFED(**QUICK))


# --- the server's count ------------------------------------------------------------------------------------------------------------------


def counted(method: CoFED, ballots: list[tuple[list[int], list[int]]]) -> dict[int, list[int]]:
    """Lists by class; a ballot is the voter's classes (of 10) and its vote on each row, -1 for none."""
    n = len(ballots[0][1])
    pool = np.zeros((n, *load("digits").x_train.shape[1:]), np.float32)
    here = Task(name="pool", dataset=load("digits"), model=NET, shards=task().shards, public_x=pool)

    def text(node: SimNode) -> Any:
        sent = []
        for own, votes in ballots:
            place = np.array([own.index(c) if c >= 0 else -1 for c in votes])
            sent.append({"Y": packed_classes(np.isin(np.arange(10), own)), "votes": packed_votes(place, len(own))})
        return node.fetch(node.call(method.count, node.name, sent))

    lists, accepted = play(star(dict.fromkeys(SILOS, 1.0)), text, task=here).value
    found = {c: unpacked_ids(ids, n).tolist() for c, ids in lists.items()}
    assert accepted == sum(map(len, found.values()))
    return found


BY_HAND = [([0, 1], [0, 1, -1, 0]), ([0, 1], [0, 0, 1, -1]), ([1, 2], [1, 1, 1, 2])]


@pytest.mark.parametrize(
    ("alpha", "lists"),
    [
        # class 0 has two owners, class 1 three, class 2 one. Row 0: 0 by 2/2, 1 by 1/3. Row 1: 0 by 1/2, 1 by 2/3. Row 2: 1 by 2/3. Row 3: 0 by 1/2,
        # 2 by 1/1. More than alpha, so that a half is not enough for a half
        (0.5, {0: [0], 1: [1, 2], 2: [3]}),
        (0.3, {0: [0, 1, 3], 1: [0, 1, 2], 2: [3]}),
        (0.7, {0: [0], 1: [], 2: [3]}),
        (1.0, {0: [], 1: [], 2: []}),
    ],
)
def test_lists_by_hand(alpha: float, lists: dict[int, list[int]]) -> None:
    assert counted(CoFED(alpha=alpha), BY_HAND) == lists


def test_two_voters_may_be_asked_for() -> None:
    # class 2 has one owner, and row 0 has one vote for class 1: neither counts any more
    assert counted(CoFED(alpha=0.3, voters=2), BY_HAND) == {0: [0], 1: [1, 2], 2: []}


def drawn(seed: int) -> list[tuple[list[int], list[int]]]:
    rng = np.random.default_rng(seed)
    owners = [sorted(rng.choice(10, 3, replace=False).tolist()) for _ in range(6)]
    return [(own, np.where(rng.random(40) < 0.7, rng.choice(own, 40), -1).tolist()) for own in owners]


@pytest.mark.parametrize("seed", range(3))
def test_lists_are_nested_and_know_no_order_of_silos_or_classes(seed: int) -> None:
    ballots = drawn(seed)
    loose, strict, none = (counted(CoFED(alpha=alpha), ballots) for alpha in (0.3, 0.6, 1.0))
    assert all(set(strict[c]) <= set(loose[c]) for c in loose)
    assert any(strict.values()) and not any(none.values())
    # a larger margin takes votes away, and changes nothing else: the owners are the same
    fewer = [(own, [-1 if i % 3 == 0 else v for i, v in enumerate(votes)]) for own, votes in ballots]
    assert all(set(found) <= set(loose[c]) for c, found in counted(CoFED(alpha=0.3), fewer).items())
    assert counted(CoFED(alpha=0.3), ballots[::-1]) == loose
    other = np.random.default_rng(seed).permutation(10).tolist()
    renamed = [(sorted(other[c] for c in own), [other[v] if v >= 0 else -1 for v in votes]) for own, votes in ballots]
    assert counted(CoFED(alpha=0.3), renamed) == {other[c]: found for c, found in loose.items()}


# --- silos -------------------------------------------------------------------------------------------------------------------------------


def test_models_of_both_families_learn_from_lists_of_their_own_classes() -> None:
    models = base().model
    assert isinstance(models["tree"]["h"], Fitted) and isinstance(models["net"]["h"], Params) and isinstance(models["plain"]["h"], Params)
    for name, model in models.items():
        own = np.flatnonzero(task().data(name).counts)
        assert model["Y"].tolist() == own.tolist()
        assert len(set(model["x"].tolist())) == len(model["x"]) > 0 and set(model["c"].tolist()) <= set(own.tolist())
    # what an estimator was fitted to: its own rows, then the rows that it was told of, by weight of their class
    tree, data = models["tree"], task().data("tree")
    assert torch.equal(tree["h"].x[: len(data)], data.all().x.flatten(1)) and tree["h"].y[len(data) :].tolist() == tree["c"].tolist()  # type: ignore[arg-type]
    counts = np.bincount(tree["h"].y.numpy(), minlength=10)
    np.testing.assert_allclose(tree["h"].weight.numpy(), (counts[counts > 0].min() / counts.clip(min=1))[tree["h"].y.numpy()], rtol=1e-6)


def local_models(learned: Task) -> Mapping[str, Any]:
    found = go(learned, CoFED(**QUICK, exchange="none")).model
    return found


@pytest.mark.parametrize("name", ["tree", "line", "net"])
def test_one_silo_gets_its_own_confident_labels(name: str) -> None:
    alone, method = task((name,)), CoFED(**QUICK)
    before, after = local_models(alone)[name], go(alone, method).model
    p = method.predict(before, alone.public.all().x).exp()[:, before["Y"]]
    top = p.topk(2)
    sure = (top.values[:, 0] - top.values[:, 1] > method.delta).numpy()
    np.testing.assert_array_equal(after[name]["x"], np.flatnonzero(sure))
    np.testing.assert_array_equal(after[name]["c"], before["Y"][top.indices[:, 0].numpy()[sure]])


def test_with_alpha_of_one_silos_retrain_on_their_own_rows() -> None:
    one, two = (go(task(), CoFED(**QUICK, alpha=alpha)) for alpha in (1.0, 2.0))
    assert one.points[-1]["accepted"] == 0 and one.summary["digest"] == two.summary["digest"]
    own = task().data("line").all()
    assert one.model["line"]["h"].digest() == LINE.fit(balanced(own, is_on=True), seed=one.model["line"]["h"].seed).digest()


def test_soft_labels_are_the_largest_mean_over_owners() -> None:
    run, before = go(task(), CoFED(**QUICK, exchange="soft")), local_models(task())
    x, mean, owners = task().public.all().x, torch.zeros(POOL, 10, dtype=torch.float64), torch.zeros(10)
    for model in before.values():
        mean[:, model["Y"]] += CoFED().predict(model, x).exp()[:, model["Y"]]
        owners[model["Y"]] += 1
    for model in run.model.values():
        shares = (mean / owners.clamp(min=1))[:, model["Y"]]
        sure = (shares.topk(2).values.diff(dim=1).abs() > 1e-4)[:, 0]  # else a rounding to float32 may decide
        assert (model["Y"][shares.argmax(1).numpy()] == model["c"])[sure].all() and sure.sum() > POOL // 2


def test_a_silo_may_keep_what_is_better() -> None:
    # networks that begin anew and take one tiny step are worse than before
    spoiled: dict[str, Any] = {**QUICK, "warm_start": False, "retrain_epochs": 1, "retrain_lrs": (1e-6,)}
    before, after, kept = local_models(task()), *(go(task(), CoFED(**spoiled, keep_local_if_better=is_on)).model for is_on in (False, True))

    def worth(model: Any, name: str) -> tuple[float, float]:
        held = task().data(name).validation.all()
        log_p = CoFED().predict(model, held.x)
        return (log_p.argmax(1) == held.y).double().mean().item(), log_p.gather(1, held.y[:, None]).mean().item()

    for name in SILOS:
        is_worse = worth(before[name], name) > worth(after[name], name)
        assert kept[name]["h"].digest() == (before if is_worse else after)[name]["h"].digest()
        assert is_worse or name not in ("net", "plain")


# --- what travels, and what it costs -----------------------------------------------------------------------------------------------------


def test_only_decisions_and_lists_travel(tmp_path: Path) -> None:
    run = go(task(), CoFED(**QUICK, pool="preloaded"), out=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "payloads.jsonl").read_text().splitlines()]
    assert {line["function"] for line in lines if line["from"] in SILOS} == {"CoFED.vote", "CoFED.retrain"}
    # 5 classes: 3 bits for each of 60 rows are 23 bytes at most, 2 bytes tell the classes; then one truth value. A model has 2,440 bytes
    sizes = {name: sorted(line["bytes"] for line in lines if line["from"] == name) for name in SILOS}
    assert all(found[0] == 1 and 2 <= found[1] <= 25 for found in sizes.values())
    assert max(line["bytes"] for line in lines) < 300 < NET.nbytes
    # down go lists of 6 bits per row and class, each padded to bytes, and one number: of the round
    assert run.summary["bytes_down"] == sum(line["bytes"] for line in lines if line["to"] in SILOS)


def test_the_pool_is_sent_once_unless_it_is_there() -> None:
    sent, there = base(), go(task(), CoFED(**QUICK, pool="preloaded"))
    assert sent.summary["bytes_down"] - there.summary["bytes_down"] == len(SILOS) * POOL * 64 * 4
    assert sent.summary["bytes_up"] == there.summary["bytes_up"]
    assert sent.points[-1]["accuracy"] == there.points[-1]["accuracy"]
    again = go(task(), CoFED(**{**QUICK, "rounds": 2}), rounds=2).points
    assert again[1]["bytes_down"] - again[0]["bytes_down"] < 1000


def test_labels_of_the_pool_are_not_read() -> None:
    digits = task().dataset
    y = digits.y_train.copy()
    y[task().public_rows] = (y[task().public_rows] + 1) % 10
    assert go(replace(task(), dataset=replace(digits, y_train=y)), CoFED(**QUICK)).summary["digest"] == base().summary["digest"]


def test_estimators_cost_what_they_declare() -> None:
    # 45 rows for the fit and 60 for the prediction; the same 45 for the second fit, since alpha = 1 accepts nothing; at 1e6 FLOP/s
    run = go(task(("line",)), CoFED(**QUICK, alpha=1.0, pool="preloaded"))
    busy_s = (45 * 1e4 + 60 * 640.0 + 45 * 1e4) / 1e6
    assert run.summary["joules"] == pytest.approx(2.0 * busy_s)  # 2 W


def test_pool_and_resume_give_the_same_run(tmp_path: Path) -> None:
    method = CoFED(**{**QUICK, "rounds": 2})
    whole = go(task(), method, rounds=2)
    assert go(task(), method, executor="pool", rounds=2).summary["digest"] == whole.summary["digest"]
    go(task(), method, out=tmp_path / "half", rounds=1)
    rest = go(task(), method, frozen=checkpoint.load(tmp_path / "half" / "checkpoint.safetensors"), rounds=2)
    assert rest.points == whole.points[1:] and rest.summary["digest"] == whole.summary["digest"]


# --- bad input ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"public_rows": np.zeros(0, np.int64)}, r"it has no public pool; set task\.public"),
        ({"validation_share": 0.0}, r"set task\.validation_share"),
        ({"residents": {"tree": "oak"}}, "resident model of 'tree': got a str; allowed are Params and Estimator"),
    ],
)
def test_bad_tasks(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ScenarioError, match=says):
        go(replace(task(), **change), CoFED(**QUICK))


def test_silos_need_two_classes_and_tasks_classes() -> None:
    with pytest.raises(ScenarioError, match="data of 'tree': rows of 1 class; a classifier needs at least 2"):
        go(task(("tree",), 1), CoFED(**QUICK))
    with pytest.raises(ScenarioError, match="its data 'least squares' are regression; allowed are classification"):
        go(least_squares(random_rows(["a"])), CoFED(**QUICK))


@pytest.mark.parametrize("field", [{"alpha": -0.1}, {"delta": 2.0}, {"voters": 0}, {"rounds": 0}, {"lr": 0.0}, {"patience": 0}])
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"CoFED\.{next(iter(field))}: got .* allowed is"):
        CoFED(**field)
