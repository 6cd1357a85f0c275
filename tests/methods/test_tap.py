"""TAP: replacements by hand, whose components travel and change, the second stage, and its equality with FedAvg."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
import torch

from airloom.engines.simnode import SimNode
from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.tap import TAP, held, used
from airloom.models.assembly import TaskLosses, assembly
from airloom.models.params import Params
from airloom.network.network import Network
from airloom.tasks.datasets import Dataset
from airloom.tasks.task import Task
from tests.methods.hand import star, targets
from tests.methods.quadratic import Course, least_squares, random_rows, run
from tests.worlds import play

STEP: dict[str, Any] = {"local_steps": 1, "lr": 0.5, "batch_size": 1, "clip_norm": inf}
TWO = targets({"a": (1, 0.0), "b": (1, 8.0)})
PAIRS = (("image", "digit"), ("image", "rebuild"), ("text", "digit"), ("text", "parity"))
SPEC = assembly(inputs={"image": 6, "text": 5}, outputs={"digit": 3, "rebuild": 6, "parity": 2}, pairs=PAIRS, width=16, dtype=torch.float64)
FACTS: dict[str, dict[str, Any]] = {
    "a": {"modalities": ("image",), "tasks": ("digit",)},
    "b": {"modalities": ("text",), "tasks": ("digit", "parity")},
}
OWN = {"a": (0, 0, 0, 0), "b": (2, 2, 2, 3)}  # pairs of their rows


def personal(course: Course, name: str) -> float:
    return course.state(name, "p").item()


def swaps(method: TAP, rounds: int) -> list[float]:
    """What is reported per round: the mean number of replacements."""

    def text(node: SimNode) -> None:
        s = method.init(node, Params(TWO.model, torch.zeros(1, dtype=torch.float64)))
        for _ in range(rounds):
            s = method.round(node, s)

    return [report["swaps"] for report in play(star({"a": 1.0, "b": 1.0}), text, task=TWO).reports]


@pytest.mark.parametrize(("margin", "b", "replaced"), [(inf, 7.0, 0.0), (-inf, 6.5, 1.0), (-9.0, 7.0, 0.5), (-11.0, 6.5, 1.0)])
def test_replacements_by_hand(margin: float, b: float, replaced: float) -> None:
    # eta = 1/2, x = 0: x_a = 0, x_b = 4, mean 2. First time: p starts as x_i and takes a step: p_a = 0, p_b = 6, with h_a(p) = 0, h_b(p) = 16/2 = 8.
    # Then from x = 2: x_a = 1, x_b = 5 with h_a(x) = 4/2 = 2 and h_b(x) = 36/2 = 18. b replaces if 18 + margin < 8, a if 2 + margin < 0.
    # Replaced p_b = 5 + 3/2, else 6 + 2/2; replaced p_a = 1/2, else 0
    course = run(star({"a": 1.0, "b": 1.0}), TWO, TAP(**STEP, margin=margin), 2, start=[0.0])
    assert (course.states[1]["x"].flat.item(), course.x.item()) == (2.0, 3.0)
    assert personal(course, "b") == b
    assert personal(course, "a") == (0.5 if margin < -2 else 0.0)
    assert swaps(TAP(**STEP, margin=margin), 2)[1] == replaced


def test_small_margins_are_for_the_tasks_named() -> None:
    assert swaps(TAP(**STEP, margin=inf, small_margin=-inf, small_tasks=("all",)), 2) == [1.0, 1.0]


def test_the_server_is_fedavg_where_there_is_one_task() -> None:
    task = least_squares(random_rows(list("ab")))
    fields: dict[str, Any] = {"local_steps": 3, "lr": 0.3, "batch_size": 4}
    mine, other = (run(star({"a": 1.0, "b": 1.0}), task, m, 3, start=[1.0, 2.0, 3.0]) for m in (TAP(**fields, clip_norm=inf), FedAvg(**fields)))
    np.testing.assert_allclose(mine.x.numpy(), other.x.numpy(), rtol=1e-12)  # full batches: up to the order of rows in a sum


# --- components --------------------------------------------------------------------------------------------------------------------------


def world(names: str = "ab") -> tuple[Network, Task]:
    """Client a sees pictures and names digits; b reads texts and tells digits and parities."""
    network = star(dict.fromkeys(names, 1e9))
    network = replace(network, places={n: replace(p, facts=FACTS[n]) if n in FACTS else p for n, p in network.places.items()})
    rng = np.random.default_rng(0)
    pair = np.array([k for n in "ab" for k in OWN[n]])
    x = {"image": rng.normal(size=(8, 6)), "text": rng.normal(size=(8, 5)), "pair": pair}
    y = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    none = {key: value[:0] for key, value in x.items()}
    data = Dataset(
        name="two ways", x_train=x, y_train=y, x_validation=none, y_validation=y[:0], x_test={k: v.copy() for k, v in x.items()}, y_test=y.copy(),
        classes=3, kind="classification", source="made",
    )  # fmt: skip
    shards = {n: np.arange(4) + 4 * "ab".index(n) for n in names}
    return network, Task(name="two ways", dataset=data, model=SPEC, shards=shards, objective=TaskLosses(pairs=PAIRS, rebuilds=(("rebuild", 6),)))


FULL: dict[str, Any] = {"local_steps": 2, "lr": 0.3, "batch_size": 4, "clip_norm": inf}


def parts(x: Params) -> dict[str, torch.Tensor]:
    return {name.rpartition(".")[0].replace("_", "."): value for name, value in x.named().items() if name.endswith("weight")}


def test_components_are_averaged_over_those_that_hold_them_and_nobodys_stay() -> None:
    start = parts(SPEC.initial(0))
    both = parts(run(*world(), TAP(**FULL), 1).states[-1]["x"])
    alone = {n: parts(run(*world(n), TAP(**FULL), 1).states[-1]["x"]) for n in "ab"}
    for name in ("expert.image.rebuild", "head.rebuild"):
        assert torch.equal(both[name], start[name])
    for name, holder in (("encoder.image", "a"), ("expert.image.digit", "a"), ("encoder.text", "b"), ("head.parity", "b")):
        assert torch.equal(both[name], alone[holder][name])
        assert not torch.equal(both[name], start[name])
    for name in ("shared", "head.digit"):  # four rows each
        torch.testing.assert_close(both[name], (alone["a"][name] + alone["b"][name]) / 2)


def test_only_components_of_the_federated_copy_travel() -> None:
    course = run(*world(), TAP(**FULL), 2)
    sizes = {n: SPEC.initial(0)[held(SPEC, FACTS[n])].nbytes for n in "ab"}
    assert sizes["a"] < sizes["b"] < SPEC.nbytes
    assert course.spent(1)["bytes_down"] == sum(sizes.values())
    assert course.spent(1)["bytes_up"] == sum(sizes.values()) + 2 * 8  # and the number of replacements


def test_a_replacement_touches_its_path_alone() -> None:
    whole = SPEC.initial(0)
    p, x = whole[held(SPEC, FACTS["b"])], (whole + 1.0)[held(SPEC, FACTS["b"])]
    new, old, theirs = (parts(v) for v in (p | x[used(x.spec, FACTS["b"], "parity")], p, x))
    for name in old:
        on_path = name in ("encoder.text", "expert.text.parity", "head.parity", "shared")
        assert torch.equal(new[name], (theirs if on_path else old)[name]), name


def test_losses_are_recorded_per_row_of_a_task_or_as_the_authors_do() -> None:
    mean, authors = (run(*world(), TAP(**FULL, loss_record=how), 1).sim.sites["b"].state["h"] for how in ("mean", "authors"))  # type: ignore[arg-type]
    # of b's rows three in four are digits and one is a parity
    assert authors == pytest.approx([0.75 * mean[0], 0.25 * mean[1]])


# --- the second stage --------------------------------------------------------------------------------------------------------------------


def finished(method: TAP) -> tuple[dict[str, torch.Tensor], float]:
    """Personal models after one round and the end, and the bytes that went up in the end."""
    network, task = world()

    def text(node: SimNode) -> Any:
        s = method.round(node, method.init(node, SPEC.initial(0)))
        before = node.sim.stamp()["bytes_up"]
        s = method.finish(node, s)
        return {n: node.sim.numerics.value(ref).flat for n, ref in s["own"].items()}, node.sim.stamp()["bytes_up"] - before

    return play(network, text, task=task).value


def test_without_weight_a_teacher_teaches_nothing() -> None:
    (taught, up), (tuned, _), (other, _) = [
        finished(m)
        for m in (
            TAP(**FULL, teach_steps=3, teach_weight=0.0),
            TAP(**FULL, teach_steps=3, teach="no_distill"),
            TAP(**FULL, teach_steps=3, teach_weight=5.0),
        )
    ]
    for n in "ab":
        torch.testing.assert_close(taught[n], tuned[n])  # full batches: up to the order of rows in a sum
        assert not torch.allclose(taught[n], other[n], atol=1e-4)
    assert up == 0.0


def test_nothing_at_the_end_and_the_teacher_alone() -> None:
    none, _ = finished(TAP(**FULL, teach="none"))
    kept = run(*world(), TAP(**FULL), 1)
    for n in "ab":
        assert torch.equal(none[n], kept.state(n, "p"))
    twice, _ = finished(TAP(**FULL, teach="twice", teach_steps=1, margin=inf))
    assert not torch.allclose(twice["a"], none["a"], atol=1e-6)


@pytest.mark.parametrize("field", [{"fraction": 0.0}, {"local_steps": 0}, {"clip_norm": 0.0}, {"teach_weight": -1.0}, {"teach_steps": 0}])
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"TAP\.{next(iter(field))}: got .* allowed is"):
        TAP(**field)
