"""FedZO: steps by hand, no gradients anywhere, seeds instead of values, and updates added up by the channel."""

from __future__ import annotations

import copy
from math import inf
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

from airloom.errors import ScenarioError, Unsupported
from airloom.methods.fedzo import FedZO
from airloom.methods.zo_sgd import ZOSGD
from airloom.models import zoo
from airloom.models.batch import Batch, Batches
from airloom.models.module import model
from airloom.models.train import train
from airloom.network.cell import Cell
from airloom.network.network import Network
from airloom.parts.over import over
from airloom.program.here import Here
from airloom.program.reducer import MEAN, AirSum, air_sum
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.datasets import Dataset, load
from airloom.tasks.task import Task
from tests.methods.hand import away, star, targets
from tests.methods.quadratic import least_squares, random_rows, run
from tests.worlds import play, world

FIELDS: dict[str, Any] = {"local_steps": 3, "lr": 0.1, "batch_size": 4, "directions": 2, "mu": 1e-3}
NAMES = list("abc")
ROWS = least_squares(random_rows(NAMES))
START = [1.0, 2.0, 3.0]


def cells(*names: str) -> Network:
    """Clients in one cell of the hub; 1 Hz, so that a value takes a second over the air."""
    cell = Cell(name="cell", bandwidth_hz=1.0, sharing="tdma")
    return world({(name, "hub"): cell for name in names}, downlink="free")


def test_a_step_by_hand() -> None:
    # F = (w - 4)^2 / 2 at w = 1 with mu = 0.5 and one direction v = +-1 (a sphere in one dimension):
    # v = +1: c = (2.5^2 - 3^2) / 2 / 0.5 = -2.75, g = -2.75;   v = -1: c = (3.5^2 - 3^2) / 2 / 0.5 = 3.25, g = -3.25
    # eta = 0.4: w = 2.1 or 2.3
    fields: dict[str, Any] = {"local_steps": 1, "lr": 0.4, "batch_size": 1, "directions": 1, "mu": 0.5}
    network = star({"a": 1.0}, rate=8.0)
    ends = {seed: run(network, targets({"a": (1, 4.0)}), FedZO(**fields), 1, start=[1.0], seed=seed) for seed in range(6)}
    found = {round(course.x.item(), 9) for course in ends.values()}
    assert found == {2.1, 2.3}
    # the model and a seed down (2 s), two forward passes of 2 FLOPs, the update up (1 s)
    assert ends[0].stamps[-1]["seconds"] == 2.0 + 2 * 2.0 + 1.0
    assert (ends[0].stamps[-1]["bytes_down"], ends[0].stamps[-1]["bytes_up"]) == (16, 8)


def test_nothing_asks_for_a_gradient() -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a gradient was asked for")

    seen: list[bool] = []
    loss = Here.loss

    def watched(self: Here, x: Any, *args: Any, **rest: Any) -> Any:
        seen.append(torch.is_grad_enabled() or x.flat.requires_grad)
        return loss(self, x, *args, **rest)

    with (
        patch("airloom.models.train.run_gradient", refuse),
        patch("airloom.models.train.eager", refuse),
        patch("torch.autograd.grad", refuse),
        patch("torch.Tensor.backward", refuse),
        patch.object(Here, "loss", watched),
    ):
        run(star(dict.fromkeys(NAMES, 1.0)), ROWS, FedZO(**FIELDS), 2, start=START)
    assert len(seen) >= 2 * 3 * 3 * 3
    assert not any(seen)


def wrong(out: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Share of wrong answers: no gradient, and flat almost everywhere."""
    return (out.argmax(1) != batch.y).to(torch.float32).mean()


def test_a_loss_without_derivatives_goes_down() -> None:
    task = make_task(TaskSettings(partition="iid", limit=300), ["a"], seed=0, model=zoo.softmax_regression(inputs=64))
    blind = type(task)(name="blind", dataset=task.dataset, model=task.model, shards=task.shards, objective=wrong)
    fields: dict[str, Any] = {"local_steps": 20, "lr": 0.02, "batch_size": 64, "directions": 10, "mu": 0.5}
    course = run(star({"a": 1e9}), blind, FedZO(**fields), 4)
    first, last = (blind.evaluate(course.states[k]["x"])["accuracy"] for k in (0, -1))
    assert last > first + 0.2


def test_one_step_of_everybody_is_zo_sgd() -> None:
    fields = {name: FIELDS[name] for name in ("lr", "batch_size", "directions", "mu")}
    mine, other = (run(star(dict.fromkeys(NAMES, 1.0)), ROWS, m, 4, start=START) for m in (FedZO(**{**FIELDS, "local_steps": 1}), ZOSGD(**fields)))
    np.testing.assert_allclose(mine.x.numpy(), other.x.numpy(), rtol=1e-12)


def test_seeds_are_as_good_as_values_bit_for_bit() -> None:
    values, seeds = (run(star(dict.fromkeys(NAMES, 1.0)), ROWS, FedZO(**FIELDS, send=send), 3, start=START) for send in ("values", "seeds"))
    assert torch.equal(values.x, seeds.x)
    # H q = 6 scalars of 8 bytes against three values; and the server has work to do
    assert (values.spent(0)["bytes_up"], seeds.spent(0)["bytes_up"]) == (3 * 24, 3 * 48)
    assert values.stamps[-1]["joules_server"] == 0.0 < seeds.stamps[-1]["joules_server"]


def test_auto_sends_what_is_shorter() -> None:
    spec = zoo.softmax_regression(inputs=64)  # 650 values
    for directions, is_seeds in ((64, True), (65, False)):  # with ten steps 640 and 650 scalars
        assert FedZO(local_steps=10, directions=directions, send="auto").sends_seeds(spec.zeros()) == is_seeds
    assert not FedZO(local_steps=1, send="auto", over=air_sum(0.0)).sends_seeds(spec.zeros())


def test_without_noise_the_air_is_the_mean() -> None:
    plain = run(cells(*NAMES), ROWS, FedZO(**FIELDS), 3, start=START)
    air = run(cells(*NAMES), ROWS, FedZO(**FIELDS, over=air_sum(inf, threshold=0.0)), 3, start=START)
    np.testing.assert_allclose(air.x.numpy(), plain.x.numpy(), rtol=1e-12)
    # a round over the air sends the norms alone as messages: 8 bytes of each client
    assert (plain.spent(0)["bytes_up"], air.spent(0)["bytes_up"]) == (3 * 24, 3 * 8)


def test_cells_are_added_up_at_their_base_stations() -> None:
    pairs: dict[tuple[str, str], float | Cell] = {("e", "hub"): 1e9, ("f", "hub"): 1e9}
    for station, names in (("e", "ab"), ("f", "c")):
        cell = Cell(name=f"cell {station}", bandwidth_hz=1.0, sharing="tdma")
        pairs |= {(name, station): cell for name in names}
    plain, air = (run(world(pairs), ROWS, FedZO(**FIELDS, over=how), 2, start=START) for how in (MEAN, air_sum(inf, threshold=0.0)))
    np.testing.assert_allclose(air.x.numpy(), plain.x.numpy(), rtol=1e-12)
    # 24 bytes are a model, 8 a seed. By message: a model to each station, three seeds, three models back. Over the air: to each station a model and
    # the seeds of all three, from it one sum and one number
    assert plain.spent(1)["bytes_backhaul"] == 2 * 24 + 3 * 8 + 3 * 24
    assert air.spent(1)["bytes_backhaul"] == 2 * (24 + 3 * 8) + 2 * (24 + 8)


def test_a_use_of_the_channel_takes_as_long_for_one_as_for_many() -> None:
    fields = {**FIELDS, "over": air_sum(inf, threshold=0.0)}

    def air_s(names: list[str]) -> float:
        task = least_squares(random_rows(names))
        stamps = [run(cells(*names), task, FedZO(**f), 1, start=START).stamps[-1]["seconds"] for f in (fields, {**fields, "local_steps": 6})]
        # rounds differ in compute alone: 3 steps of 3 evaluations of 4 rows at 6 FLOPs each (a.w: 2 d)
        assert stamps[1] - stamps[0] == pytest.approx(3 * 3 * 4 * 6)
        return stamps[0] - 3 * 3 * 4 * 6

    # d = 3 values take 3 s over the air; the norms, 8 bytes each, share the cell before
    assert [air_s(names) for names in (["a"], ["a", "b", "c"])] == pytest.approx([3.0 + 64.0, 3.0 + 3 * 64.0])


def test_who_sends_has_a_good_channel() -> None:
    # P(|h| >= 0.8) = exp(-0.64 / 0.5) = 0.278; drawn again where nobody has one: 0.278 / (1 - 0.722^8) = 0.300
    names = list("abcdefgh")
    task = least_squares(random_rows(names, d=8))
    spec = task.model

    def text(node: Any) -> list[int]:
        sent = []
        for _ in range(80):
            refs = [node.call(unit, name, spec.zeros(), k) for k, name in enumerate(names)]
            mean = node.reduce(refs, over=air_sum(inf))
            sent.append(int((mean.flat > 0).sum()))
        return sent

    counts = play(cells(*names), text, task=task).value
    p = 0.278 / (1 - (1 - 0.278) ** 8)
    assert abs(np.mean(counts) / 8 - p) < 3 * np.sqrt(p * (1 - p) / (80 * 8))
    assert min(counts) >= 1


def unit(here: Here, x: Any, k: int) -> Any:
    """The k-th unit vector."""
    here.cost(seconds=1.0)
    return x + 1.0 if x.is_meta else type(x)(x.spec, torch.eye(len(x), dtype=x.flat.dtype)[k])


def test_noise_comes_with_the_channel_and_is_the_worse_the_more_there_is() -> None:
    clean = run(cells(*NAMES), ROWS, FedZO(**FIELDS, over=air_sum(inf, threshold=0.0)), 1, start=START).x
    off = [
        np.mean(
            [
                float((run(cells(*NAMES), ROWS, FedZO(**FIELDS, over=air_sum(db, threshold=0.0)), 1, start=START, seed=k).x - clean).norm())
                for k in range(4)
            ]
        )
        for db in (40.0, 0.0)
    ]
    assert 0 < off[0] < off[1]


def test_a_client_that_leaves_before_the_air_is_left_out_and_nobody_keeps_the_model() -> None:
    churn = away(b=(30.0,))
    network = world({(name, "hub"): Cell(name="cell", bandwidth_hz=8.0, sharing="tdma") for name in NAMES}, churn=churn)
    course = run(network, ROWS, FedZO(**FIELDS, over=air_sum(inf, threshold=0.0)), 2, start=START)
    assert not torch.equal(course.states[1]["x"].flat, course.states[0]["x"].flat)
    gone = world({("a", "hub"): Cell(name="cell", bandwidth_hz=8.0, sharing="tdma")}, churn=away(a=(30.0,)))
    course = run(gone, least_squares(random_rows(["a"])), FedZO(**FIELDS, over=air_sum(inf, threshold=0.0)), 1, start=START)
    assert course.x.tolist() == START


class AttackLoss(nn.Module):
    """What an attacker sees of a classifier: per image max(score of the source class - best other score, 0) + squared distortion."""

    def __init__(self, classifier: nn.Module, source: int) -> None:
        super().__init__()
        self.delta = nn.Parameter(torch.zeros(64))
        self.classifier = classifier.requires_grad_(False)
        self.source = source

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        """Images in [-0.5, 0.5] with the one perturbation of all of them."""
        return 0.5 * torch.tanh(torch.atanh(2 * x.clamp(-0.499999, 0.499999)) + self.delta)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.changed(x)
        scores = self.classifier(z)
        other = torch.cat([scores[:, : self.source], scores[:, self.source + 1 :]], 1).max(1).values
        return ((scores[:, self.source] - other).clamp(min=0) + (z - x).square().mean(1))[:, None]


def mean_output(out: torch.Tensor, batch: Batch) -> torch.Tensor:
    return out.mean()


def test_a_black_box_attack_on_a_classifier_of_digits_succeeds() -> None:
    digits = load("digits")
    x, y = torch.from_numpy(digits.x_train).flatten(1) - 0.5, torch.from_numpy(digits.y_train)
    x_test, y_test = torch.from_numpy(digits.x_test).flatten(1) - 0.5, torch.from_numpy(digits.y_test)
    rows = torch.from_numpy(np.random.default_rng(0).integers(len(y), size=(300, 32)))
    start = zoo.mlp(inputs=64, hidden=(32,)).initial(0)
    victim, _ = train(start, Batches.of(x, y, rows), lr=0.2)
    classifier = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    classifier.load_state_dict(dict(zip(classifier.state_dict(), victim.named().values(), strict=True)))
    with torch.no_grad():
        assert (classifier(x_test).argmax(1) == y_test).float().mean() > 0.9
        is_hit = [(part == 4) & (classifier(images).argmax(1) == part) for images, part in ((x, y), (x_test, y_test))]
    own, held_out = x[is_hit[0]].numpy(), x_test[is_hit[1]]
    zeros = np.zeros((len(own), 1), np.float32)
    data = Dataset(
        name="fours", x_train=own, y_train=zeros, x_validation=own[:0], y_validation=zeros[:0], x_test=own, y_test=zeros, classes=0,
        kind="regression", source="made",
    )  # fmt: skip
    shards = {name: np.arange(len(own))[k::3] for k, name in enumerate(NAMES)}
    spec = model(lambda: AttackLoss(copy.deepcopy(classifier), 4))
    task = Task(name="attack", dataset=data, model=spec, shards=shards, objective=mean_output)
    assert spec.size == 64  # the classifier is no part of what is learned
    fields: dict[str, Any] = {"local_steps": 5, "lr": 0.5, "batch_size": 25, "directions": 20}
    course = run(star(dict.fromkeys(NAMES, 1e9)), task, FedZO(**fields), 8)
    attack = AttackLoss(classifier, 4)
    attack.delta.data.copy_(course.x)
    with torch.no_grad():
        fooled = (classifier(attack.changed(held_out)).argmax(1) != 4).float().mean()
    assert fooled > 0.8


def test_bad_input() -> None:
    with pytest.raises(ScenarioError, match="the channel adds values up; use send=values"):
        FedZO(send="seeds", over=air_sum(0.0))
    for field in ({"lr": 0.0}, {"mu": 0.0}, {"directions": 0}, {"fraction": 0.0}):
        with pytest.raises(ScenarioError, match=rf"FedZO\.{next(iter(field))}: got .* allowed is"):
            FedZO(**field)  # type: ignore[arg-type]
    for bad in ({"snr_db": float("nan")}, {"snr_db": 0.0, "threshold": -1.0}, {"snr_db": 0.0, "values_per_symbol": 3}):
        with pytest.raises(ScenarioError, match=r"AirSum\(.*allowed are"):
            AirSum(**bad)  # type: ignore[arg-type]
    with pytest.raises(ScenarioError, match="snr_db"):
        over("air")
    with pytest.raises(Unsupported, match="on a wire"):
        run(star({"a": 1.0}), targets({"a": (1, 1.0)}), FedZO(over=air_sum(0.0)), 1, start=[0.0])
