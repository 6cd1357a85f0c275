"""Protection of updates: bounded and noisy, or summed without being seen."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from airloom.errors import MissingExtra, RunFailed, ScenarioError
from airloom.methods.ditto import Ditto
from airloom.methods.fedavg import FedAvg
from airloom.methods.feddyn import FedDyn
from airloom.methods.fedopt import FedOpt
from airloom.methods.fedper import FedPer
from airloom.methods.fedprox import FedProx
from airloom.methods.scaffold import Scaffold
from airloom.models import zoo
from airloom.models.params import Params
from airloom.network.churn import TraceChurn
from airloom.parts.protect import Gaussian, Masked, Protection, Unprotected, epsilon, protection
from airloom.program.here import Here
from airloom.program.method import Method, State, part
from airloom.program.node import Node
from tests.methods.quadratic import least_squares
from tests.stars import Local, simulated_run, star_run, star_scenario
from tests.worlds import device, play, world

SPEC = zoo.softmax_regression(inputs=3, classes=1)  # four values
NAMES = ["a", "b", "c"]
SMALL: dict[str, Any] = {"local_steps": 3, "batch_size": 8}
SCENARIO = star_scenario()
needs_keys = pytest.mark.skipif(importlib.util.find_spec("cryptography") is None, reason="needs the extra private (cryptography)")
needs_accountant = pytest.mark.skipif(importlib.util.find_spec("dp_accounting") is None, reason="needs the extra private (dp-accounting)")


def params(*values: float) -> Params:
    return Params(SPEC, torch.tensor(values, dtype=torch.float32))


VALUES = {"a": params(3, 4, 0, 0), "b": params(0.3, 0.4, 0, 0), "c": params(0, 0, 0, -2)}


@dataclass(frozen=True, kw_only=True)
class Gives(Method):
    """Clients whose updates are the one row of data that each has: a row of zeros where nothing is learned."""

    protect: Protection = part(protection, Unprotected())

    def init(self, node: Node, x: Params) -> State:
        return {}

    def round(self, node: Node, s: State) -> State:
        return s

    def update(self, here: Here) -> dict[str, Any]:
        row = here.data.all().x[0].float()
        here.cost(seconds=1.0)
        return {"x": Params(SPEC, row), "loss": row.square().sum()}

    def model(self, here: Here, x: Params) -> dict[str, Any]:
        """The same, about a model."""
        found = self.update(here)
        return found | {"x": x + (found["x"] - x * 0)}


ROWS = least_squares({name: (x.flat.double().numpy()[None], np.zeros(1)) for name, x in VALUES.items()})


def folded(part: Protection, weights: list[float] | None = None, about: Params | None = None, **rest: Any) -> Any:
    network = world(dict.fromkeys([(name, "hub") for name in NAMES], 1e3), devices={"hub": device(1e6)}, latency_s=1.0, **rest)
    gives = Gives(protect=part)

    def text(node: Any) -> Any:
        x = None if about is None else part.given(node, about)
        refs = node.map(gives.update, NAMES) if about is None else node.map(gives.model, NAMES, x)
        return part.reduce(node, part.seal(node, refs, weights, x), weights, like={"x": params(0, 0, 0, 0) if about is None else about, "loss": 0.0})

    return play(network, text, task=ROWS)


def test_nothing_is_the_plain_mean() -> None:
    mean = folded(Unprotected(), [1.0, 1.0, 2.0]).value
    assert float(mean["loss"]) == pytest.approx((25 + 0.25 + 2 * 4) / 4, rel=1e-6)
    np.testing.assert_allclose(mean["x"].flat, [0.825, 1.1, 0.0, -1.0], rtol=1e-6)  # (3 + 0.3) / 4, (4 + 0.4) / 4, -4 / 4


def test_updates_are_clipped_and_numbers_beside_them_do_not_leave() -> None:
    # norms 5, 0.5, 2 -> factors 1/5, 1, 1/2: (0.6, 0.8, 0, 0), (0.3, 0.4, 0, 0), (0, 0, 0, -1)
    mean = folded(Gaussian(clip_norm=1.0, noise=0.0), [1.0, 1.0, 2.0]).value
    np.testing.assert_allclose(mean["x"].flat, [0.9 / 4, 1.2 / 4, 0.0, -2 / 4], rtol=1e-6)
    assert mean["loss"] == 0.0
    mean = folded(Gaussian(clip_norm=1.0, noise=0.0, at="server"), [1.0, 1.0, 2.0]).value  # weights are ignored
    np.testing.assert_allclose(mean["x"].flat, [0.3, 0.4, 0.0, -1 / 3], rtol=1e-6)
    assert mean["loss"] == 0.0


def test_models_are_clipped_about_what_the_clients_started_from() -> None:
    about = params(0.0, 0.0, 0.0, -2.0)
    mean = folded(Gaussian(clip_norm=2.0, noise=0.0), about=about).value
    # updates of norms 5, 0.5 and 2: the first becomes 2/5 of itself; the models are about (0, 0, 0, -2)
    np.testing.assert_allclose(mean["x"].flat, [(3 * 0.4 + 0.3) / 3, (4 * 0.4 + 0.4) / 3, 0.0, -2 + (-2) / 3], rtol=1e-6)


@pytest.mark.parametrize(("at", "deviation"), [("server", 2.0 * 0.5 / 3), ("client", 2.0 * 0.5 / math.sqrt(3))])
def test_noise_has_the_stated_deviation(at: Any, deviation: float) -> None:
    spec = zoo.mlp(inputs=64, hidden=(64,), classes=10)
    zero = spec.zeros()
    part = Gaussian(clip_norm=0.5, noise=2.0, at=at)
    echo = Echoes(protect=part)
    network = world(dict.fromkeys([(name, "hub") for name in NAMES], 1e6), devices={"hub": device(1e9)})

    def text(node: Any) -> Any:
        refs = part.seal(node, node.map(echo.echo, NAMES, zero), None)
        return part.reduce(node, refs, None, zero)

    first, second = play(network, text).value.flat, play(network, text).value.flat
    assert torch.equal(first, second)  # a function of the seed
    n = len(first)
    assert abs(float(first.std()) / deviation - 1) < 4 / math.sqrt(2 * n)
    assert abs(float(first.mean())) < 4 * deviation / math.sqrt(n)


@dataclass(frozen=True, kw_only=True)
class Echoes(Gives):
    """Clients that send what they got."""

    def echo(self, here: Here, x: Params) -> Params:
        here.cost(seconds=0.0)
        return x


def test_protection_costs_time_on_the_clock() -> None:
    plain, private = folded(Unprotected()).sim, folded(Gaussian(clip_norm=1.0, noise=1.0, at="client")).sim
    # per client 4 values: clipping 16 operations, noise 100, at 1 FLOP/s; no message more
    assert private.kernel.now - plain.kernel.now == pytest.approx(4 * 4 + 25 * 4, abs=1e-6)
    assert private.totals.bytes_by == plain.totals.bytes_by


@needs_accountant
def test_the_accountant_agrees_with_known_values() -> None:
    # one Gaussian release: epsilon of Renyi order alpha is alpha / (2 z^2); the bound min over alpha of alpha / 2 + log(1 / delta) / (alpha - 1)
    # is 1/2 + sqrt(2 log(1 / delta)) = 5.3 for z = 1 and delta = 1e-5; the sharper conversion gives a little less, the exact value is 4.38
    assert 4.38 <= epsilon(noise=1.0, rounds=1, fraction=1.0, delta=1e-5) <= 5.3
    # sampling 1 %, z = 1.1, 1000 steps, delta = 1e-5: a few tenths above the exact 2.0
    few = epsilon(noise=1.1, rounds=1000, fraction=0.01, delta=1e-5)
    assert 1.5 < few < 2.6
    assert epsilon(noise=1.1, rounds=2000, fraction=0.01, delta=1e-5) > few
    assert epsilon(noise=2.2, rounds=1000, fraction=0.01, delta=1e-5) < few


def test_bad_input() -> None:
    with pytest.raises(ScenarioError, match="noise > 0"):
        epsilon(noise=0.0, rounds=1, fraction=1.0, delta=1e-5)
    with pytest.raises(ScenarioError, match="clip_norm"):
        protection("gaussian(clip_norm=0)")
    with pytest.raises(ScenarioError, match="allowed: gaussian, masked, none"):
        protection("magic")


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("dp_accounting", "cryptography.hazmat.primitives", "cryptography"):
        monkeypatch.setitem(sys.modules, name, None)
    epsilon.cache_clear()
    with pytest.raises(MissingExtra, match=r"airloom\[private\]"):
        epsilon(noise=1.0, rounds=1, fraction=1.0, delta=1e-5)
    with pytest.raises(MissingExtra, match=r"airloom\[private\]"):
        folded(Masked())


@needs_keys
def test_the_sum_is_right_although_no_part_of_it_is_seen() -> None:
    seen: list[torch.Tensor] = []
    part = Masked()
    network = world(dict.fromkeys([(name, "hub") for name in NAMES], 1e3), devices={"hub": device(1e6)})

    def text(node: Any) -> Any:
        refs = part.seal(node, node.map(Gives(protect=part).update, NAMES), [1.0, 1.0, 2.0])
        seen.extend(node.fetch([ref["masked"] for ref in refs]))
        return part.reduce(node, refs, [1.0, 1.0, 2.0], {"x": params(0, 0, 0, 0), "loss": 0.0})

    mean = play(network, text, task=ROWS).value
    np.testing.assert_allclose(mean["x"].flat, [0.825, 1.1, 0.0, -1.0], atol=2**-26)  # the fixed point has 27 bits behind the point
    assert mean["loss"] == 0.0
    words = torch.cat(seen).double()
    assert len(words) == 12 and float(words.abs().max()) > 2**28  # masks fill the whole range; each code alone is below 2**30 * 5 / 8 / 4


@needs_keys
def test_masked_bytes_are_those_of_the_model_and_keys() -> None:
    plain, masked = folded(Unprotected()).sim.totals.bytes_by, folded(Masked()).sim.totals.bytes_by
    # up, per client: public key 32, four words as long as four values, a truth value 1, its seed 32 and name 1
    assert masked["up"] - plain["up"] == 3 * (32 + 1 + 32 + 1)
    # down, per client: weight 8, three keys 96 (the names of keys are not counted), the word "whole" 5
    assert masked["down"] - plain["down"] == 3 * (8 + 96 + 5)


@needs_keys
@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_the_sum_survives_a_client_that_is_lost_before_its_part_arrives(lost: str) -> None:
    part = Masked()
    names = {(name, "hub"): 1e3 for name in NAMES}
    speeds = {"hub": device(1e9), **{name: device(1e6) for name in NAMES}}
    exercised = []

    def text(node: Any) -> Any:
        plain = node.map(Gives(protect=part).update, NAMES)
        refs = part.seal(node, plain, None)
        mean = part.reduce(node, refs, None, {"x": params(0, 0, 0, 0), "loss": 0.0})
        had_keys = all(sealed is not own for sealed, own in zip(refs, plain, strict=True))
        exercised.append(had_keys and [ref.place for ref in refs if ref.arrived_s is None] == [lost])
        return mean

    whole_s = play(world(names, devices=speeds, latency_s=1.0), text, task=ROWS).sim.kernel.now
    for share in (0.5, 0.55, 0.6, 0.65):
        churn = TraceChurn(changes={lost: [(share * whole_s, False)]})
        found = play(world(names, devices=speeds, latency_s=1.0, churn=churn), text, task=ROWS).value
        rest = [VALUES[name].flat for name in NAMES if name != lost]
        np.testing.assert_allclose(found["x"].flat, (rest[0] + rest[1]) / 2, atol=2**-25)
    assert sum(exercised) >= 2  # the others still had the masks that they share with the lost one


@needs_keys
def test_a_value_out_of_range_fails_by_name() -> None:
    with pytest.raises(RunFailed, match=r"use a larger range"):
        folded(Masked(range=2.0))


@needs_keys
def test_a_second_question_is_refused() -> None:
    part = Masked()
    network = world(dict.fromkeys([(name, "hub") for name in NAMES], 1e3), devices={"hub": device(1e6)})

    def text(node: Any) -> Any:
        refs = part.seal(node, node.map(Gives(protect=part).update, NAMES), None)
        part.reduce(node, refs, None, {"x": params(0, 0, 0, 0), "loss": 0.0})
        return part.reduce(node, refs, None, {"x": params(0, 0, 0, 0), "loss": 0.0})  # a server that wants more than it may have

    with pytest.raises(RunFailed, match="second question"):
        play(network, text, task=ROWS)


STARS: list[Any] = [FedAvg, FedProx, FedOpt, Scaffold, FedDyn, Ditto, FedPer]


@needs_keys
@pytest.mark.parametrize("cls", STARS)
def test_star_methods_learn_the_same_masked(cls: Any) -> None:
    plain, masked = simulated_run(SCENARIO, cls(**SMALL)), simulated_run(SCENARIO, cls(**SMALL, protect=Masked(range=64.0)))
    one, other = (run.model if isinstance(run.model, dict) else {"": run.model} for run in (plain, masked))  # personal models by client
    assert one.keys() == other.keys()
    assert all((x - other[n]).abs_max() < 1e-4 * x.abs_max() + 1e-5 for n, x in one.items())
    assert masked.summary["bytes_up"] > plain.summary["bytes_up"]


@pytest.mark.parametrize("cls", STARS)
def test_star_methods_run_with_noise(cls: Any) -> None:
    runs = [simulated_run(SCENARIO, cls(**SMALL, protect=Gaussian(clip_norm=1.0, noise=0.01, at=at))) for at in ("server", "client")]
    assert all(run.status == "budget" and run.points[-1]["accuracy"] > 0.15 for run in runs)
    again = simulated_run(SCENARIO, cls(**SMALL, protect=Gaussian(clip_norm=1.0, noise=0.01, at="client")))
    assert again.summary["digest"] == runs[1].summary["digest"]


@pytest.mark.parametrize("cls", STARS)
def test_nothing_more_comes_down(cls: Any) -> None:
    plain, noisy = simulated_run(SCENARIO, cls(**SMALL)), simulated_run(SCENARIO, cls(**SMALL, protect=Gaussian(clip_norm=1.0, noise=0.01)))
    assert noisy.summary["bytes_down"] == plain.summary["bytes_down"]


@needs_keys
@pytest.mark.parametrize("part", [Masked(range=64.0), Gaussian(clip_norm=1.0, noise=0.1), Gaussian(clip_norm=1.0, noise=0.1, at="client")], ids=str)
def test_protection_is_the_same_on_machines(part: Protection) -> None:
    method: Method = FedAvg(**SMALL, protect=part)
    real, _ = star_run(SCENARIO, method, transport=Local(SCENARIO, method, 1, ["c0", "c1", "c2", "c3"]))
    assert real.model.digest() == simulated_run(SCENARIO, method).model.digest()


@needs_keys
def test_secrets_stay_at_the_clients() -> None:
    method = FedAvg(**SMALL, protect=Masked(range=64.0))
    local = Local(SCENARIO, method, 1, ["c0", "c1", "c2", "c3"])
    answers: list[Any] = []
    local.on_answer = lambda name, answer: (answers.append(answer), answer)[1]
    run, _ = star_run(SCENARIO, method, transport=local, rounds=1)
    for name, host in local.hosts.items():
        secret = host.clients[name].state["secure"]["secret"].numpy().tobytes()
        assert not any(secret in answer.body for answer in answers)
    assert "secret" not in json.dumps(run.summary)
