"""HFedMS: equality with FedGSP, bytes of a period, what stays constant, what is remembered and how it is carried over, loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.fedgsp import FedGSP
from airloom.methods.hfedms import HFedMS, classes_of
from airloom.models import zoo
from airloom.models.submodel import layers
from airloom.network.churn import TraceChurn
from airloom.network.network import Network
from airloom.network.topology import with_peers
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.stream import Stream
from airloom.tasks.task import Task
from tests.methods.hand import NOTHING_S
from tests.methods.quadratic import Course, run
from tests.worlds import world

NAMES = list("abcdef")
FIELDS: dict[str, Any] = {
    "groups": 2, "growth": "none", "grouping": "random", "fraction": 1.0, "local_steps": 2, "lr": 0.1, "batch_size": 8, "calibration_lr": 0.1,
}  # fmt: skip


def star(names: list[str] = NAMES, *, rate: float = 8 / NOTHING_S, **rest: Any) -> Network:
    return world({(name, "hub"): rate for name in names}, **rest)


def digits(names: list[str] = NAMES, stream: Stream | None = None) -> Task:
    """A small network in float64; extractor 64-12, classifier 12-10."""
    settings = TaskSettings(dataset="digits", limit=240, partition="iid", stream=stream)
    return make_task(settings, names, seed=0, model=zoo.mlp(inputs=64, hidden=(12,), classes=10, dtype=torch.float64))


def state(course: Course, name: str) -> dict[str, Any]:
    return course.sim.sites[name].state


# --- equalities --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grouping", ["icg", "random"])
def test_with_full_rounds_only_it_is_fedgsp_bit_for_bit(grouping: str) -> None:
    fields: dict[str, Any] = {"groups": 2, "grouping": grouping, "fraction": 0.5, "local_steps": 3, "lr": 0.1, "batch_size": 8}
    mine, other = (run(star(), digits(), method, 3) for method in (HFedMS(period=1, kl=0.0, **fields), FedGSP(**fields)))
    assert all(torch.equal(a["x"].flat, b["x"].flat) for a, b in zip(mine.states, other.states, strict=True))
    assert mine.stamps == other.stamps
    assert "W" not in state(mine, "a")


def test_the_teacher_pulls_only_from_the_second_step_on() -> None:
    # KL(h_start || h) has its minimum at h = h_start: no gradient in the first step of a group's first client
    fields = {**FIELDS, "period": 1, "groups": 6}
    one = [run(star(), digits(), HFedMS(**{**fields, "local_steps": 1, "kl": kl}), 2).x for kl in (0.0, 5.0)]
    assert (one[0] - one[1]).abs().max() < 1e-12
    two = [run(star(), digits(), HFedMS(**{**fields, "local_steps": 2, "kl": kl}), 1) for kl in (0.0, 5.0)]
    assert (two[0].x - two[1].x).abs().max() > 1e-4
    far = [(c.x - c.states[0]["x"].flat).norm() for c in two]
    assert far[1] < far[0]


# --- what is constant --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extractor", ["aggregated", "local"])
def test_classifier_rounds_leave_the_extractor_as_it_is(extractor: Any) -> None:
    course = run(star(), digits(), HFedMS(**FIELDS, extractor=extractor), 6)
    x = [s["x"] for s in course.states]
    for t in range(6):
        same = torch.equal(x[t][layers(0, 1)].flat, x[t + 1][layers(0, 1)].flat)
        assert same == (t % 3 != 0)
        assert not torch.equal(x[t][layers(1, 2)].flat, x[t + 1][layers(1, 2)].flat)
    groups = [s["groups"] for s in course.states[1:]]
    assert groups[0] == groups[1] == groups[2] != groups[3] == groups[4]
    for name in NAMES:
        # W_B: what all got after the last full round; or each its own
        is_global = torch.equal(state(course, name)["W"].flat, x[-1][layers(0, 1)].flat)
        assert is_global == (extractor == "aggregated")


# --- bytes -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kl", [0.0, 0.1])
@pytest.mark.parametrize("extractor", ["aggregated", "local"])
def test_bytes_of_a_period(extractor: Any, kl: float) -> None:
    # m = 2 groups of k = 3, float64: extractor 64 x 12 + 12 = 780 values, classifier 12 x 10 + 10 = 130; links between all clients
    m, k, f = 2, 3, 3
    w, head, rest = 910 * 8, 130 * 8, 780 * 8
    peers = with_peers(star(), [(a, b) for i, a in enumerate(NAMES) for b in NAMES[i + 1 :]], rate_bps=8e9, latency_s=0.0)
    control = 17  # a period's number and a truth value beside what the server sends; and 8 and 1 between clients
    for network, hops in ((peers, k + 1), (star(), 2 * k)):
        course = run(network, digits(), HFedMS(**FIELDS, period=f, extractor=extractor, kl=kl), 2 * f)
        for t in range(2 * f):
            spent = course.spent(t)
            total = sum(spent[key] for key in ("bytes_down", "bytes_up", "bytes_peer"))
            if t % f == 0:
                expected = m * (hops * w + ((k - 1) * w if kl else 0))  # the first client's teacher is the model that it trains
            else:
                expected = m * hops * head + (m * k * rest if t % f == 1 and extractor == "aggregated" else 0)
            assert expected <= total <= expected + m * k * control


def test_a_model_of_one_layer_has_nothing_to_remember() -> None:
    task = make_task(TaskSettings(dataset="digits", limit=240, partition="iid"), NAMES, seed=0, model=zoo.softmax_regression(inputs=64))
    course = run(star(), task, HFedMS(**FIELDS), 3)
    assert not set(state(course, "a")) & {"W", "mem", "new", "own"}
    assert not torch.equal(course.states[1]["x"].flat, course.states[3]["x"].flat)


# --- memory ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_class", [True, False])
def test_memory_holds_few_features_and_no_rows(per_class: bool) -> None:
    stream = Stream(window_s=1e-3, samples=20, classes=3)
    course = run(star(rate=1e6), digits(stream=stream), HFedMS(**FIELDS, memory=15, per_class=per_class), 9)
    for name in NAMES:
        kept = state(course, name)
        assert kept["mem"]["z"].shape == (15, 12)
        assert kept["new"]["z"].shape[1:] == (12,)
        assert all(64 not in v.shape for part in ("mem", "new") for v in kept[part].values())
        assert set(kept) <= {"counts", "W", "period", "mem", "new"}
    # classes that left the stream are still there
    assert any(set(state(course, n)["mem"]["y"].tolist()) - set(state(course, n)["new"]["y"].tolist()) for n in NAMES)
    assert "mem" not in state(run(star(), digits(), HFedMS(**FIELDS, memory=0), 9), "a")


def test_features_are_not_moved_while_the_extractor_stands_still() -> None:
    # a learning rate that moves nothing: all extractors are the first one, so that what is remembered are its features, whatever the stream does
    stream = Stream(window_s=1e-3, samples=10, classes=2)
    task = digits(stream=stream)
    course = run(star(rate=1e6), task, HFedMS(**{**FIELDS, "lr": 1e-300}, memory=30, kl=0.0), 9)
    W = course.states[0]["x"][layers(0, 1)]
    for name in NAMES:
        rows = task.shards[name]
        x, y = torch.from_numpy(task.dataset.x_train[rows]), torch.from_numpy(task.dataset.y_train[rows])
        z = torch.relu(x.double().flatten(1) @ W.named()["hidden1.weight"].T + W.named()["hidden1.bias"])
        mem = state(course, name)["mem"]
        nearest = (mem["z"][:, None] - z[None]).abs().amax(2).min(1)
        assert nearest.values.max() < 1e-9
        assert torch.equal(y[nearest.indices], mem["y"])


def test_labels_that_are_no_classes_are_one() -> None:
    assert classes_of(torch.tensor([2, 0])).tolist() == [2, 0]
    assert classes_of(torch.zeros(3, 1)).tolist() == [0, 0, 0]


# --- loss --------------------------------------------------------------------------------------------------------------------------------


def test_who_lacks_the_extractor_gets_it_or_passes_the_classifier_on() -> None:
    network = star(list("ab"), rate=1e4)
    fields = {**FIELDS, "groups": 1, "kl": 0.0}
    length_s = run(network, digits(list("ab")), HFedMS(**fields), 3).stamps
    first, second = length_s[1]["seconds"], length_s[2]["seconds"]
    # b leaves in the first classifier round, forgets, and is back in the next one: the chain was lost, so that all are told again
    churn = TraceChurn(changes={"b": [((first + second) / 2, False), ((first + second) / 2 + 2e-3, True)]})
    lossy = star(list("ab"), rate=1e4, churn=churn, detect_s=0.01, on_leave="wipe")
    course = run(lossy, digits(list("ab")), HFedMS(**fields), 3)
    assert course.states[2]["told"] == []
    assert sorted(course.states[3]["told"]) == ["a", "b"]
    assert torch.equal(state(course, "b")["W"].flat, course.states[1]["x"][layers(0, 1)].flat)
    # it leaves and forgets between two classifier rounds: it passes on what it gets
    churn = TraceChurn(changes={"b": [(second - 1e-3, False), (second - 5e-4, True)]})
    lossy = star(list("ab"), rate=1e4, churn=churn, detect_s=1e-4, on_leave="wipe")
    course = run(lossy, digits(list("ab")), HFedMS(**fields), 3)
    assert torch.isfinite(course.x).all()


def test_nobody_there_keeps_the_model() -> None:
    churn = TraceChurn(changes={n: [(0.0, False)] for n in "ab"})
    course = run(star(list("ab"), churn=churn), digits(list("ab")), HFedMS(**FIELDS), 3)
    assert torch.equal(course.x, course.states[0]["x"].flat)


def test_fields_are_checked() -> None:
    with pytest.raises(ScenarioError, match=r"HFedMS\.period"):
        HFedMS(period=0)
