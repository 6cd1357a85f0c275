"""Ordered SGD: orders are permutations, a balancing epoch by hand, the bounds on random instances, participation, equalities, what learning costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from airloom.clock.rng import generator
from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.ordered_sgd import OrderedSGD, maybe_orderer
from airloom.models.batch import Batch
from airloom.models.module import ModelSpec, model
from airloom.models.params import Params
from airloom.parts.balance import LEARNING, Balancer, GraB, PairGraB, any_orderer, observe
from airloom.parts.order import FixedOrder, FlipFlop, Orderer, RandomReshuffle, ShuffleOnce, WithReplacement
from airloom.plans import ordering
from airloom.tasks.datasets import Dataset
from airloom.tasks.task import Task
from tests.methods.hand import away, star, targets
from tests.methods.quadratic import Course, gradient, least_squares, linear, random_rows, run
from tests.worlds import task_for

# --- orderers ------------------------------------------------------------------------------------------------------------------------------


def epochs(order: Orderer, vectors: np.ndarray, count: int, seed: int = 0) -> list[list[int]]:
    """Orders of some epochs in which always the same vectors are observed."""
    spec, names, state, found = linear(vectors.shape[1]), [str(i) for i in range(len(vectors))], None, []
    for epoch in range(count):
        visit, state = order.next(names, state, generator(seed, "order", epoch))
        found.append([int(n) for n in visit])
        for n in visit:
            state = observe(order, state, n, Params(spec, torch.from_numpy(vectors[int(n)])))
    return found


@pytest.mark.parametrize("name", sorted(LEARNING))
@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_every_epoch_is_a_permutation_but_for_draws_with_replacement(name: str, n: int) -> None:
    found = epochs(any_orderer(name), np.random.default_rng(0).normal(size=(n, 2)), 6)
    assert all(len(order) == n for order in found)
    if name != "with_replacement":
        assert all(sorted(order) == list(range(n)) for order in found)
    if name in ("fixed", "shuffle_once"):
        assert len({tuple(order) for order in found}) == 1
    if name == "flip_flop":
        assert all(found[2 * k] == found[2 * k + 1][::-1] for k in range(3))


def test_an_epoch_of_each_balancer_by_hand() -> None:
    # GraB with the known mean 0: 2: s 0 -> 2, +; 1: |2 + 1| > |2 - 1|, -: s 1; -3: |1 - 3| < |1 + 3|, +: s -2; 4: +, s 2 -> order 2, -3, 4, then 1
    spec = linear(1)

    def seen(order: Balancer, state: Any, values: list[float]) -> Any:
        for k, v in enumerate(values):
            state = order.observe(state, "abcdefg"[k], Params(spec, torch.tensor([v], dtype=torch.float64)))
        return state

    known = {"mean": spec.zeros(), "s": None, "sum": None, "count": 0, "front": [], "back": []}
    state = seen(GraB(), known, [2.0, 1.0, -3.0, 4.0])
    assert GraB().next(list("abcd"), state, generator(0))[0] == ["a", "c", "d", "b"]
    # and its next mean is that of these four
    assert GraB().next(list("abcd"), state, generator(0))[1]["mean"].flat.item() == 1.0  # type: ignore[index]
    # PairGraB: 2 - 1 = 1, +: a to the front, b to the back; -3 - 4 = -7: |1 - 7| < |1 + 7|, +: c to the front, d to the back; e waits for the middle
    state = seen(PairGraB(), {"s": None, "waits": None, "vector": None, "front": [], "back": []}, [2.0, 1.0, -3.0, 4.0, 9.0])
    assert PairGraB().next(list("abcde"), state, generator(0))[0] == ["a", "c", "e", "d", "b"]
    # who is new comes in between, who has gone is left out
    assert PairGraB().next(list("abdef"), state, generator(0))[0] == ["a", "e", "f", "d", "b"]


VECTORS = st.integers(1, 12).flatmap(
    lambda n: st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(size=(n, 3)) * np.random.default_rng(seed).uniform(0, 3))
)


@given(VECTORS)
@settings(deadline=None)
def test_greedy_signs_keep_the_sum_short(v: np.ndarray) -> None:
    # |s + v|^2 or |s - v|^2, whichever is less, is at most |s|^2 + |v|^2
    signs = ordering.greedy_signs(v)
    sums = np.cumsum(v * signs[:, None], axis=0)
    assert (np.square(sums).sum(1) <= np.cumsum(np.square(v).sum(1)) * (1 + 1e-9)).all()


@given(VECTORS, st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_balanced_orders_keep_their_bounds(v: np.ndarray, off: float) -> None:
    n, spec = len(v), linear(3)
    names = [str(i) for i in range(n)]
    mean = v.mean(0) + off
    grab: Any = {"mean": Params(spec, torch.from_numpy(mean)), "s": None, "sum": None, "count": 0, "front": [], "back": []}
    pair: Any = {"s": None, "waits": None, "vector": None, "front": [], "back": []}
    for i in range(n):
        grab = GraB().observe(grab, names[i], Params(spec, torch.from_numpy(v[i])))
        pair = PairGraB().observe(pair, names[i], Params(spec, torch.from_numpy(v[i])))
    for order, state, bound in ((GraB(), grab, ordering.grab_bound(v, mean)), (PairGraB(), pair, ordering.pair_bound(v))):
        visit = [int(i) for i in order.next(names, state, generator(0))[0]]
        assert ordering.order_error(v, visit) <= bound + 1e-9


def test_balancers_find_orders_that_random_ones_do_not() -> None:
    # 100 vectors whose given order is the worst: sorted signs
    rng = np.random.default_rng(0)
    v = np.concatenate([np.ones(50), -np.ones(50)])[:, None] + 0.1 * rng.normal(size=(100, 1))
    error = {name: ordering.order_error(v, epochs(any_orderer(name), v, 8)[-1]) for name in ("fixed", "random_reshuffle", "grab", "pair_grab")}
    assert error["fixed"] > 40
    assert max(error["grab"], error["pair_grab"]) < 2 < error["random_reshuffle"] < 20


# --- the method --------------------------------------------------------------------------------------------------------------------------------

NAMES = list("abcde")
EIGHT = targets({n: (1, float(i)) for i, n in enumerate(NAMES)})
FIELDS: dict[str, Any] = {"local_steps": 1, "lr": 0.5, "batch_size": 1}


def plain(names: list[str] = NAMES, **changes: Any) -> Any:
    return star(dict.fromkeys(names, 1e6), **changes)


def played(rounds: int, **fields: Any) -> Course:
    return run(plain(), EIGHT, OrderedSGD(**{**FIELDS, **fields}), rounds, start=[0.0])


def test_a_round_by_hand() -> None:
    # fixed order, P = 2 of 5: a, b (targets 0, 1) from 0: d = 0 and 1/2: x = 1/4; c, d (2, 3): d = (1.75 / 2 + 2.75 / 2) / 2 = 1.125: 1.375; e (4)
    # alone: 1.375 + 1.3125 = 2.6875
    course = played(3, order=FixedOrder(), fraction=0.4)
    assert [s["x"].flat.item() for s in course.states] == [0.0, 0.25, 1.375, 2.6875]
    assert [course.spent(t)["bytes_up"] for t in range(3)] == [16, 16, 8]
    # gamma = 1/2 takes half of the epoch's way
    assert played(3, order=FixedOrder(), fraction=0.4, epoch_lr=0.5).x.item() == 2.6875 / 2


def test_everybody_has_a_turn_in_each_epoch() -> None:
    for order in (RandomReshuffle(), FlipFlop(), ShuffleOnce(), GraB(), PairGraB()):
        course = played(9, order=order, fraction=0.4)
        assert {course.sim.sites[n].drawn for n in NAMES} == {3}
        within = played(4, order=order, fraction=0.4)
        counts = [within.sim.sites[n].drawn for n in NAMES]
        assert max(counts) - min(counts) <= 1
    drawn = played(9, order=WithReplacement(), fraction=0.4)
    assert len({drawn.sim.sites[n].drawn for n in NAMES}) > 1


@pytest.mark.parametrize("order", [FixedOrder(), RandomReshuffle(), GraB(), PairGraB()])
def test_all_at_once_are_fedavg_whatever_the_order(order: Orderer) -> None:
    network = plain()
    task = task_for(network)
    fields: dict[str, Any] = {"local_steps": 2, "lr": 0.1, "batch_size": 8}
    mine, other = (run(network, task, m, 3) for m in (OrderedSGD(order=order, fraction=1.0, **fields), FedAvg(**fields)))
    np.testing.assert_allclose(mine.x.numpy(), other.x.numpy(), atol=1e-6)


def test_one_at_a_time_in_fixed_order_are_incremental_gradient() -> None:
    # P = 1 of 5, one full-batch step: w <- w - eta grad F_i(w) for i = 0, 1, ..., 4, epoch after epoch
    rows = random_rows(NAMES)
    course = run(
        plain(), least_squares(rows), OrderedSGD(local_steps=1, lr=0.3, batch_size=4, order=FixedOrder(), fraction=0.2), 10, start=[1.0, -1.0, 2.0]
    )
    w = np.array([1.0, -1.0, 2.0])
    for n in NAMES * 2:
        w = w - 0.3 * gradient(rows[n], w)
    np.testing.assert_allclose(course.x.numpy(), w, rtol=1e-12)


def test_observing_follows_the_order_and_not_the_arrivals() -> None:
    # a is a hundred times slower: the same model and the same next order
    fast = played(12, order=PairGraB(), fraction=0.4)
    slow = run(star(dict.fromkeys(NAMES, 1e6) | {"a": 1e4}, rate=1e6), EIGHT, OrderedSGD(**FIELDS, order=PairGraB(), fraction=0.4), 12, start=[0.0])
    assert [s["left"] for s in slow.states] == [s["left"] for s in fast.states]
    assert torch.equal(slow.x, fast.x)


def test_the_server_pays_for_observing() -> None:
    # 8 FLOPs per value and delta: a value, two deltas; the hub does 1 FLOP/s
    slow, free = (run(plain(), EIGHT, OrderedSGD(**FIELDS, order=order, fraction=0.4), 1, start=[0.0]) for order in (GraB(), RandomReshuffle()))
    assert slow.spent(0)["seconds"] - free.spent(0)["seconds"] == pytest.approx(16.0, rel=1e-6)


def test_who_is_away_misses_its_turn_and_the_epoch_goes_on() -> None:
    course = run(plain(churn=away(c=(0.0,))), EIGHT, OrderedSGD(**FIELDS, order=GraB(), fraction=0.4), 8, start=[0.0])
    assert course.sim.sites["c"].drawn == 0 and {course.sim.sites[n].drawn for n in "abde"} == {4}
    gone = run(plain(churn=away(**dict.fromkeys(NAMES, (0.0,)))), EIGHT, OrderedSGD(**FIELDS), 1, start=[5.0])
    assert gone.x.item() == 5.0


# --- permutation-based SGD on the functions of the paper's simulation -----------------------------------------------------------------------------


class Quadratic(nn.Module):
    """f_n(x) = a_n x^2 + relu(-x)^2 / 2 + b_n x of rows (a_n, b_n)."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.full((1,), 10.0, dtype=torch.float64))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        a, b = rows[:, 0], rows[:, 1]
        return (a * self.x.square() + 0.5 * torch.relu(-self.x).square() + b * self.x)[:, None]


def mean_value(out: torch.Tensor, batch: Batch) -> torch.Tensor:
    return out.mean()


def simulation(n: int, seed: int, clients: int = 1) -> Task:
    """N functions, the first half with b = 1, the others with b = -1: in their order incremental gradient is adversarial; optimum 0."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.normal(0.5, 1.0, n), np.repeat([1.0, -1.0], n // 2)], 1)
    rows[:, 0] += 0.5 - rows[:, 0].mean()
    none = np.zeros((n, 1))
    data = Dataset(
        name="quadratic", x_train=rows, y_train=none, x_validation=rows[:0], y_validation=none[:0], x_test=rows, y_test=none, classes=0,
        kind="regression", source="made",
    )  # fmt: skip
    spec: ModelSpec = model(Quadratic, dtype=torch.float64)
    shards = {f"c{i}": np.arange(n)[i * n // clients : (i + 1) * n // clients] for i in range(clients)}
    return Task(name="quadratic", dataset=data, model=spec, shards=shards, objective=mean_value)


def distance(order: str, *, n: int, epochs: int, lr: float, seeds: range, start: float, last: int | None = None) -> float:
    """Mean |x| at the ends of the last epochs (None: the later half) of one client with all functions, over seeds."""
    found = []
    for seed in seeds:
        method = OrderedSGD(examples=maybe_orderer(order), local_steps=n, lr=lr, batch_size=1)
        states = run(star({"c0": 1e9}), simulation(n, seed), method, epochs, start=[start], seed=seed).states
        found += [abs(s["x"].flat.item()) for s in states[1 + epochs // 2 if last is None else -last :]]
    return float(np.mean(found))


@pytest.mark.slow
def test_the_simulation_of_sgd_by_order() -> None:
    # 60 epochs of 200 steps of 1e-3 on a mean curvature of 1: what is left of the start is 10 exp(-12) = 6e-5, below what any order comes to
    found = {
        name: distance(name, n=200, epochs=60, lr=1e-3, seeds=range(1), start=10.0, last=3) for name in ("random_reshuffle", "grab", "pair_grab")
    }
    assert max(found["grab"], found["pair_grab"]) <= found["random_reshuffle"] / 3


@pytest.mark.slow
def test_ordered_clients_beat_shuffled_ones() -> None:
    n, found = 40, {}
    task, network = simulation(n, 0, clients=n), star({f"c{i}": 1e9 for i in range(n)})
    for name in ("random_reshuffle", "pair_grab"):
        method = OrderedSGD(order=any_orderer(name), fraction=0.05, local_steps=5, lr=5e-3, batch_size=1)
        states = run(network, task, method, 20 * 20, start=[0.0]).states
        found[name] = float(np.mean([abs(s["x"].flat.item()) for s in states[200::20]]))  # at ends of epochs
    assert found["pair_grab"] < found["random_reshuffle"]


def test_a_small_simulation_of_sgd() -> None:
    found = {name: distance(name, n=20, epochs=8, lr=0.02, seeds=range(1), start=0.0) for name in ("fixed", "random_reshuffle", "grab", "pair_grab")}
    assert max(found["grab"], found["pair_grab"]) < found["random_reshuffle"] < found["fixed"] / 3


def test_noise_by_kind_and_bad_input() -> None:
    assert ordering.epoch_noise("grab", 1000, 1.0) < 50 < ordering.epoch_noise("random_reshuffle", 1000, 1.0)
    with pytest.raises(ScenarioError, match="the order learns from whole gradients; set clip_norm=none"):
        OrderedSGD(examples=GraB(), clip_norm=1.0)
    with pytest.raises(ScenarioError, match="order"):
        any_orderer("by_name")
    with pytest.raises(ScenarioError, match=r"OrderedSGD\.epoch_lr"):
        OrderedSGD(epoch_lr=0.0)
    with pytest.raises(ScenarioError, match="must name each of the 2 vectors once"):
        ordering.order_error([[1.0], [2.0]], [0, 0])
    with pytest.raises(ScenarioError, match="must be a table"):
        ordering.order_error([1.0])
    with pytest.raises(ScenarioError, match="must be n >= 1"):
        ordering.epoch_noise("grab", 0, 1.0)
