"""FedGS: equality with one step of SGD and with HFedAvg, sets by hand, the batch that was published, bytes of LAN and WAN, loss."""

from __future__ import annotations

from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np
import pytest

from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedgs import FedGS
from airloom.methods.hfedavg import HFedAvg
from airloom.models import zoo
from airloom.network.churn import TraceChurn
from airloom.network.network import Network
from airloom.program.here import Here
from airloom.tasks.datasets import Dataset
from airloom.tasks.stream import Stream
from airloom.tasks.task import Task
from tests.methods.hand import NOTHING_S
from tests.methods.quadratic import gradient, least_squares, random_rows, run
from tests.worlds import device, world

GROUPS = {"e0": ["a", "b", "c"], "e1": ["d", "e", "f"]}
NAMES = [c for clients in GROUPS.values() for c in clients]


def tree(groups: dict[str, list[str]] = GROUPS, *, rate: float = 8 / NOTHING_S, **rest: Any) -> Network:
    pairs = {(edge, "cloud"): 8 / NOTHING_S for edge in groups} | {(c, edge): rate for edge, clients in groups.items() for c in clients}
    return world(pairs, **rest)


def labelled(labels: dict[str, list[int]], classes: int = 2) -> Task:
    """Clients whose rows have these labels, in softmax regression on one-hot inputs."""
    y = np.array([label for row in labels.values() for label in row])
    x = np.eye(classes, dtype=np.float32)[y]
    ends = np.cumsum([len(row) for row in labels.values()])
    shards = {name: np.arange(end - len(row), end) for (name, row), end in zip(labels.items(), ends, strict=True)}
    data = Dataset(
        name="labels", x_train=x, y_train=y, x_validation=x, y_validation=y, x_test=x, y_test=y, classes=classes, kind="classification", source="made"
    )
    return Task(name="labels", dataset=data, model=zoo.softmax_regression(inputs=classes, classes=classes), shards=shards)


def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[float]]]:
    """(device, inputs' sum per feature) of each batch that is trained on; on one-hot inputs these are its label counts."""
    seen: list[tuple[str, list[float]]] = []
    grad = Here.grad

    def noted(self: Here, x: Any, batch: Any = None, **rest: Any) -> Any:
        if not self.is_dry:
            seen.append((self._name, batch.x.sum(0).tolist()))
        return grad(self, x, batch, **rest)

    monkeypatch.setattr(Here, "grad", noted)
    return seen


# --- equalities --------------------------------------------------------------------------------------------------------------------------


def test_one_step_of_one_factory_is_sgd_on_the_joined_batch() -> None:
    # T = 1, one factory, all devices, equal batches: w - eta mean_c g_c = w - eta g(all batches)
    names = ["a", "b", "c"]
    task = least_squares(random_rows(names, n=6))
    course = run(tree({"e0": names}), task, FedGS(group_rounds=1, devices=3, batch_size=4, lr=0.3), 4, start=[1.0, -2.0, 0.5])
    w, data = np.array([1.0, -2.0, 0.5]), task.dataset
    for t in range(4):
        drawn = np.concatenate([task.sample_ids(name, 4 * t, 4, seed=0) for name in names])
        w = w - 0.3 * gradient((data.x_train[drawn], data.y_train[drawn, 0]), w)
        np.testing.assert_allclose(course.states[t + 1]["x"].flat.numpy(), w, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("select", ["gbp-cs", "random", "best-of", "brute"])
def test_with_all_devices_it_is_hfedavg_with_one_local_step(select: Any) -> None:
    task = least_squares(random_rows(NAMES, n=6))
    mine = run(tree(), task, FedGS(group_rounds=3, devices=9, batch_size=4, lr=0.2, select=select), 3, start=[1.0, 0.0, 2.0])
    other = run(tree(), task, HFedAvg(group_rounds=3, local_steps=1, batch_size=4, lr=0.2, weights="equal"), 3, start=[1.0, 0.0, 2.0])
    for a, b in zip(mine.states, other.states, strict=True):
        np.testing.assert_allclose(a["x"].flat.numpy(), b["x"].flat.numpy(), rtol=1e-12, atol=1e-13)


def test_factories_weigh_as_many_devices_as_they_choose() -> None:
    # F = (w - c)^2 / 2, eta = 1: each device returns its c. e0 has two devices (c = 0), e1 one (c = 3): (2 * 0 + 1 * 3) / 3 = 1
    rows = {name: (np.ones((1, 1)), np.array([c])) for name, c in (("a", 0.0), ("b", 0.0), ("c", 3.0))}
    course = run(tree({"e0": ["a", "b"], "e1": ["c"]}), least_squares(rows), FedGS(group_rounds=1, batch_size=1, lr=1.0), 1, start=[7.0])
    assert course.x.item() == pytest.approx(1.0, abs=1e-12)


# --- who is chosen -----------------------------------------------------------------------------------------------------------------------


def test_devices_complete_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    # one device, P = (1/2, 1/2), y = (1, 1): c, with a label of each class, is perfect. All pinv scores are equal and the swap that the gradient
    # names (a for d) gains nothing, so the published rule stays where it starts; the exact one finds c.
    seen = watched(monkeypatch)
    task = labelled({"a": [0, 0], "b": [0, 0], "c": [0, 1], "d": [1, 1], "e": [1, 1]})
    run(tree({"e0": list("abcde")}), task, FedGS(group_rounds=4, devices=1, random=0, exact_swap=True, batch_size=2), 1)
    assert seen == [("c", [1.0, 1.0])] * 4
    seen.clear()
    # two devices: y = (2, 2): one of {a, b} with one of {d, e}; never two of a kind
    task = labelled({"a": [0, 0], "b": [0, 0], "d": [1, 1], "e": [1, 1]})
    run(tree({"e0": list("abde")}), task, FedGS(group_rounds=4, devices=2, random=1, batch_size=2), 2)
    pairs = [{seen[i][0], seen[i + 1][0]} for i in range(0, len(seen), 2)]
    assert all(len(pair & set("ab")) == 1 for pair in pairs)
    assert len({frozenset(pair) for pair in pairs}) > 1  # the random one is drawn anew in each step


def test_random_devices_differ_between_factories_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watched(monkeypatch)
    groups = {"e0": list("abcdefgh"), "e1": list("ijklmnop")}
    task = labelled({name: [0, 1] for clients in groups.values() for name in clients})
    run(tree(groups), task, FedGS(group_rounds=12, devices=2, select="random", batch_size=2), 1)
    places = [[clients.index(name) for name, _ in seen if name in clients] for clients in groups.values()]
    assert [len(p) for p in places] == [24, 24]
    assert places[0] != places[1]
    assert all(len(set(p)) > 4 for p in places)


def test_the_published_batch_is_the_one_that_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # each device holds one class at a time, another one every 5 s, and a step takes some 3 s: batches are trained on in later windows than they were
    # drawn in. What is trained on in step i is what was published after step i - 1.
    seen = watched(monkeypatch)
    told: list[tuple[str, list[float]]] = []
    choose = FedGS.choose

    @wraps(choose)
    def noted(self: FedGS, here: Here, table: Any, *rest: Any) -> Any:
        chosen = choose(self, here, table, *rest)
        told.extend((c, [float(v) for v in table[c].tolist()]) for c in chosen)
        return chosen

    monkeypatch.setattr(FedGS, "choose", noted)
    task = replace(labelled({c: [0, 1, 2] * 4 for c in "abc"}, classes=3), stream=Stream(window_s=5.0, samples=4, classes=1))
    course = run(tree({"e0": list("abc")}, rate=40.0), task, FedGS(group_rounds=6, devices=2, random=1, batch_size=4, lr=0.1), 1)
    assert course.stamps[-1]["seconds"] > 15.0
    assert sorted(seen) == sorted(told)
    assert len({tuple(counts) for _, counts in told}) == 3  # all classes came by
    # a stale one: some batch was trained on when its class had left
    assert all(sum(counts) == 4 and max(counts) == 4 for _, counts in seen)


# --- bytes and seconds -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 4])
def test_bytes_are_the_formula(T: int) -> None:
    # softmax regression on 2 inputs and 2 classes: 6 float32 values, |w| = 24; F = 2 counts of 4 bytes; M = 2 factories, L = 2 of K = 3
    w, F, M, L, K = 24, 2, 2, 2, 3
    course = run(tree(), labelled({c: [0, 1] for c in NAMES}), FedGS(group_rounds=T, devices=L, random=1, batch_size=2), 3)
    first = course.stamps[0]
    assert (first["bytes_up"], first["bytes_down"]) == (M * K * F * 4, 0)  # everybody publishes once
    for t in range(3):
        spent = course.spent(t)
        assert spent["bytes_down"] == M * L * T * w
        assert spent["bytes_up"] == M * L * T * (w + F * 4)
        # the model both ways, the class mix down, and the number of devices up, whatever T
        assert spent["bytes_backhaul"] == M * (2 * w + F * 4 + 8)


@pytest.mark.parametrize("r", [0.4, 1.0])
def test_where_it_communicates_for_less_than_fedavg(r: float) -> None:
    # all L = 3 devices of M = 2 factories, T = 4 steps. FedAvg sends 2 M L models inside and, since a factory's server keeps the copy that came down,
    # M (1 + L) outside; FedGS 2 M L T inside and 2 M outside, r times as often. Equal where a byte outside costs rho times as much as one inside:
    #     r (2 L T + 2 rho) = 2 L + rho (L + 1)
    M, L, T, w = 2, 3, 4, 24
    task = labelled({c: [0, 1] for c in NAMES})
    mine = run(tree(), task, FedGS(group_rounds=T, devices=L, random=1, batch_size=2), 2).spent(1)
    other = run(tree(), task, FedAvg(local_steps=T, batch_size=2, lr=0.1), 2).spent(1)
    inside, outside = ([spent["bytes_up"] + spent["bytes_down"] for spent in (mine, other)], [spent["bytes_backhaul"] for spent in (mine, other)])
    small = [M * L * T * 2 * 4, M * (2 * 4 + 8)]  # counts of labels and devices
    rho = (r * (inside[0] - small[0]) - 2 * M * L * w) / (M * (L + 1) * w - r * (outside[0] - small[1]))
    assert rho == pytest.approx(2 * L * (r * T - 1) / (L + 1 - 2 * r), rel=1e-12)
    assert 2 * M * L * w <= inside[1] < 2 * M * L * (w + 20) and M * (L + 1) * w <= outside[1] < M * (L + 1) * (w + 20)  # and FedAvg's losses


def test_seconds_by_hand() -> None:
    # one parameter of 8 bytes on links of 8 B/s: 1 s each way; a step of a batch of 1 costs 4 FLOPs at 2 FLOP/s: 2 s. One count of 4 bytes is
    # published: half a second. A step: 1 + 2 + (8 + 4) / 8 = 4.5 s; with T = 2: 9 s. The search among one candidate is 1 FLOP.
    rows = {"a": (np.ones((1, 1)), np.array([3.0]))}
    network = tree({"e0": ["a"]}, rate=8.0, devices={"a": device(2.0), "e0": device(1e12)})
    course = run(network, least_squares(rows), FedGS(group_rounds=2, devices=1, random=0, batch_size=1, lr=0.5), 2, start=[0.0])
    assert course.stamps[0]["seconds"] == pytest.approx(0.5, abs=1e-6)
    assert [course.spent(t)["seconds"] for t in range(2)] == pytest.approx([9.0, 9.0], abs=1e-6)
    # 0 -> 3/2 -> 9/4 -> 21/8 -> 45/16
    assert course.x.item() == pytest.approx(45 / 16, abs=1e-12)


def test_the_search_takes_the_servers_time() -> None:
    # pinv of 1 x 3 counts: F K^2 = 9 FLOPs; then 2 F K = 6 for the swap that is tried; at 1 FLOP/s 15 s per step, everything else next to nothing
    rows = {name: (np.ones((1, 1)), np.array([3.0])) for name in "abc"}
    network = tree({"e0": list("abc")}, devices={c: device(1e12) for c in "abc"})
    course = run(network, least_squares(rows), FedGS(group_rounds=2, devices=1, random=0, batch_size=1), 1)
    assert course.spent(0)["seconds"] == pytest.approx(2 * 15.0, abs=1e-3)
    course = run(network, least_squares(rows), FedGS(group_rounds=2, devices=1, random=0, select="random", batch_size=1), 1)
    assert course.spent(0)["seconds"] == pytest.approx(0.0, abs=1e-3)


# --- loss --------------------------------------------------------------------------------------------------------------------------------


def slow(**rest: Any) -> Network:
    """A step of a batch of 1 takes 4 s at a device."""
    return tree(detect_s=1.0, devices={"e0": device(1e12), "e1": device(1e12)}, **rest)


def bowls(**centers: float) -> Task:
    return least_squares({name: (np.ones((1, 1)), np.array([c])) for name, c in centers.items()})


def test_a_lost_device_is_left_out_and_publishes_again_when_it_returns() -> None:
    # eta = 1, all devices: a step gives the mean of the centers of those that answer. b (center 6) leaves in the first step and is back in the third.
    churn = TraceChurn(changes={"b": [(1.0, False), (6.0, True)]})
    task = bowls(a=0.0, b=6.0)
    course = run(slow(groups={"e0": ["a", "b"]}, churn=churn), task, FedGS(group_rounds=1, batch_size=1, lr=1.0), 4, start=[9.0])
    # its old batch is still prepared there: b publishes the same counts; 0 in the first two steps, then the mean 3
    assert [round(s["x"].flat.item(), 9) for s in course.states[1:]] == [0.0, 0.0, 3.0, 3.0]


def test_a_factory_without_devices_has_no_part() -> None:
    churn = TraceChurn(changes={"c": [(1.0, False)]})
    course = run(
        slow(groups={"e0": ["a", "b"], "e1": ["c"]}, churn=churn), bowls(a=1.0, b=1.0, c=9.0), FedGS(group_rounds=2, batch_size=1, lr=1.0), 3
    )
    assert list(course.states[-1]["last"]) == ["e0"]
    assert course.x.item() == pytest.approx(1.0)


def test_nobody_there_keeps_the_model() -> None:
    churn = TraceChurn(changes={name: [(0.0, False)] for name in "ab"})
    course = run(slow(groups={"e0": ["a", "b"]}, churn=churn), bowls(a=1.0, b=2.0), FedGS(batch_size=1), 1, start=[5.0])
    assert course.x.item() == 5.0
    assert course.states[-1]["mix"] is None


def test_who_comes_late_is_asked_then() -> None:
    # b alone gives 2; a arrives in the first round, which takes 4 s: then the mean of 1 and 2
    churn = TraceChurn(changes={"a": [(0.0, False), (2.0, True)]})
    course = run(slow(groups={"e0": ["a", "b"]}, churn=churn), bowls(a=1.0, b=2.0), FedGS(group_rounds=1, batch_size=1, lr=1.0), 2, start=[5.0])
    assert [s["x"].flat.item() for s in course.states] == pytest.approx([5.0, 2.0, 1.5])


def test_fields_are_checked() -> None:
    with pytest.raises(ScenarioError, match=r"FedGS\(random=3, devices=2\)"):
        FedGS(random=3, devices=2)
    with pytest.raises(ScenarioError, match=r"FedGS\.group_rounds"):
        FedGS(group_rounds=0)
