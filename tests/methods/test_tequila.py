"""Tequila: phases, baselines, what is sent at the end, and that it is the ternary model that is judged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.tequila import Tequila
from airloom.models import zoo
from airloom.models.params import Params
from airloom.models.quantize import TernaryLinear, merged
from airloom.network.network import Network
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.task import Task
from tests.methods.hand import star
from tests.methods.quadratic import Course, run
from tests.worlds import play

FIELDS: dict[str, Any] = {"pretrain_rounds": 1, "rounds": 2, "local_steps": 3, "lr": 0.01, "batch_size": 8, "group": 32}


def world() -> tuple[Network, Task]:
    model = zoo.mlp(inputs=64, hidden=(32,), classes=10)
    return star({"a": 1e9, "b": 1e9}), make_task(TaskSettings(partition="iid", limit=60), ["a", "b"], seed=0, model=model)


def course(rounds: int = 3, **fields: Any) -> Course:
    network, task = world()
    return run(network, task, Tequila(**{**FIELDS, **fields}), rounds)


def test_without_a_bias_strength_it_is_absmean() -> None:
    assert torch.equal(course(bias_strength=0.0).x, course(rule="absmean").x)
    assert not torch.equal(course(bias_strength=0.1).x, course(rule="absmean").x)


def test_the_first_phase_is_full_precision() -> None:
    ours, full = course(), course(rule="fp")
    assert torch.equal(ours.states[1]["x"].flat, full.states[1]["x"].flat)
    assert not torch.equal(ours.states[2]["x"].flat, full.states[2]["x"].flat)


def test_what_is_judged_is_the_ternary_model() -> None:
    network, task = world()
    method, x = Tequila(**FIELDS, bias_strength=0.1), task.model.initial(0)
    inner = method.ternary(x)
    assert any(isinstance(m, TernaryLinear) for m in inner.spec.module().modules())
    plain, rows = merged(inner, task.model), task.data("a").all()
    want = outputs(inner, rows.x)
    assert float((outputs(plain, rows.x) - want).abs().max()) <= 1e-5 < float((outputs(x, rows.x) - want).abs().max())
    assert len(plain.named()["hidden1.weight"].abs().unique()) <= 1 + 2 * 32  # zero, and a magnitude per group
    reported = play(network, lambda node: method.round(node, method.init(node, x)), task=task)
    assert reported.reports[0]["round"] == 0


def outputs(x: Params, inputs: Any) -> torch.Tensor:
    with x.spec.skeleton("cpu") as skeleton, torch.no_grad():
        skeleton.load(x.flat)
        return skeleton.module(inputs).clone()


def sent_bytes(rule: str) -> float:
    """Bytes that come down to one client at the end."""
    network, task = world()
    method = Tequila(**FIELDS, rule=rule)

    def text(node: Any) -> None:
        x = task.model.initial(0)
        method.finish(node, {"x": x})

    return play(replace(network, framing_bytes=0), text, task=task).sim.stamp()["bytes_down"] / 2


def test_every_client_gets_packed_layers() -> None:
    # hidden1: 32 x (64 / 4 of codes + 2 groups x 4 + 4 of bias) bytes; the head stays whole: 33 x 10 x 4
    assert sent_bytes("tequila") == 32 * (16 + 8 + 4) + 1320
    assert sent_bytes("fp") == (65 * 32 + 330) * 4


def test_schedule() -> None:
    method = Tequila(pretrain_rounds=10, rounds=20, lr=1.0)
    # middle of a round: at = 0.05 is the end of warm-up, 0.65 the beginning of the decay to 0.1
    assert method.rate(0) == pytest.approx(1.0) and method.rate(5) == pytest.approx(1.0)
    assert method.rate(9) == pytest.approx(0.1 + 0.9 * 0.05 / 0.35)
    assert method.rate(10) == pytest.approx(0.5)  # 0.5 / 20 of the second phase, half of its warm-up
    assert method.rate(29) == pytest.approx(0.1 + 0.9 * 0.025 / 0.35)
    assert all(0.1 < method.rate(t) <= 1.0 for t in range(30))


def test_it_ends_after_both_phases() -> None:
    method = Tequila(**FIELDS)
    assert [method.done(None, {"t": t}) for t in (2, 3)] == [False, True]  # type: ignore[arg-type]


def test_bad_input_is_named() -> None:
    with pytest.raises(ScenarioError, match="rule: got 'lsq'; allowed are fp, tequila, absmean, twn"):
        Tequila(rule="lsq")
    with pytest.raises(ScenarioError, match="group"):
        Tequila(group=0)
    assert isinstance(Tequila().ternary(world()[1].model.initial(0)), Params)
