"""MTGC: what its corrections must satisfy, on least squares with a known optimum (float64, full gradients), and what it must send."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.hfedavg import HFedAvg
from airloom.methods.mtgc import MTGC
from airloom.network.churn import Churn, TraceChurn
from airloom.network.network import Network
from tests.methods.quadratic import Course, gradient, least_squares, optimum, random_rows, run
from tests.worlds import task_for, world

GROUPS = {"e0": ["a", "b", "c"], "e1": ["d", "e"]}
NAMES = [name for clients in GROUPS.values() for name in clients]
ROWS = random_rows(NAMES, seed=1)
FIELDS: dict[str, Any] = {"group_rounds": 3, "local_steps": 2, "lr": 0.5, "batch_size": 4}


def tree(groups: dict[str, list[str]] = GROUPS, churn: Churn | None = None, **rest: Any) -> Network:
    pairs = {(edge, "hub"): 1e6 for edge in groups} | {(c, edge): 1e6 for edge, clients in groups.items() for c in clients}
    return world(pairs, churn=churn, **rest)


def best(groups: dict[str, list[str]] = GROUPS) -> np.ndarray:
    """Optimum of the mean over groups of the mean over clients: a client of a group of n weighs 1/n."""
    return optimum([(A / np.sqrt(len(clients)), b / np.sqrt(len(clients))) for clients in groups.values() for A, b in (ROWS[c] for c in clients)])


def far(course: Course, w: np.ndarray) -> float:
    return float(np.abs(course.x.numpy() - w).max())


# --- the corrections ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z_init", ["carry", "zero", "grad"])
def test_corrections_sum_to_zero(z_init: Any) -> None:
    course = run(tree(), least_squares(ROWS), MTGC(z_init=z_init, **FIELDS), 4)
    for clients in GROUPS.values():
        z = [course.state(c, "z") for c in clients]
        assert max(v.abs().max() for v in z) > 0.01
        assert torch.stack(z).sum(0).abs().max() < 1e-10
    for s in course.states[1:]:
        assert torch.stack([y.flat for y in s["y"].values()]).sum(0).abs().max() < 1e-10
        assert max(y.abs_max() for y in s["y"].values()) > 0.01


def test_one_group_needs_no_y() -> None:
    # x = x_j, bit for bit: (x_j - x) = 0
    course = run(tree({"e0": NAMES}), least_squares(ROWS), MTGC(**FIELDS), 3)
    assert course.states[-1]["y"]["e0"].abs_max() == 0.0
    assert course.state("a", "z").abs().max() > 0.01


def test_groups_of_one_need_no_z() -> None:
    # x_j = x_i, bit for bit
    course = run(tree({"e0": ["a"], "e1": ["b"]}), least_squares(ROWS), MTGC(**FIELDS), 3)
    assert course.state("a", "z").abs().max() == 0.0
    assert course.states[-1]["y"]["e0"].abs_max() > 0.01


@pytest.mark.parametrize("batch_size", [4, 2])
def test_one_step_and_one_group_round_are_gradient_descent(batch_size: int) -> None:
    # H = E = 1: x - eta (mean g + mean z + mean y) = x - eta mean g; groups of two, so that the mean over groups is the mean over clients
    groups = {"e0": ["a", "b"], "e1": ["c", "d"]}
    task = least_squares({name: ROWS[name] for name in "abcd"})
    course = run(tree(groups), task, MTGC(group_rounds=1, local_steps=1, lr=0.3, batch_size=batch_size), 5, start=[1.0, -2.0, 0.5])
    w = np.array([1.0, -2.0, 0.5])
    data = task.dataset
    for t in range(5):
        drawn = [task.sample_ids(name, t * batch_size, batch_size, seed=0) for name in "abcd"]
        w = w - 0.3 * np.mean([gradient((data.x_train[ids], data.y_train[ids, 0]), w) for ids in drawn], axis=0)
        np.testing.assert_allclose(course.states[t + 1]["x"].flat.numpy(), w, atol=1e-13)


def test_only_both_corrections_reach_the_optimum() -> None:
    # a fixed point has x_i = x_j = x, so that g_i + z_i + y_j is the same everywhere; z and y sum to zero: it is the mean gradient, and it is 0.
    # Without one of them the models of clients (or of groups) stay apart, and their mean is not the optimum.
    task = least_squares(ROWS)
    assert far(run(tree(), task, MTGC(**FIELDS), 40), best()) < 1e-12
    assert far(run(tree(), task, MTGC(z_init="grad", **FIELDS), 40), best()) < 1e-12
    stalled: list[Any] = [
        HFedAvg(weights="equal", **FIELDS),
        *[MTGC(**{**FIELDS, **fields}) for fields in ({"correct": "z"}, {"correct": "y"}, {"z_init": "zero"})],
    ]
    for method in stalled:
        course = run(tree(), task, method, 20)
        assert far(course, best()) > 1e-3
        assert (course.states[-1]["x"] - course.states[-2]["x"]).abs_max() < 1e-6  # it moves no more


def test_equal_data_need_no_correction() -> None:
    # every client has the same rows and takes all of them in each step: equal up to the order in which a batch is summed
    task = least_squares(dict.fromkeys(NAMES, ROWS["a"]))
    course = run(tree(), task, MTGC(**FIELDS), 4)
    plain = run(tree(), task, HFedAvg(weights="equal", **FIELDS), 4)
    for mine, other in zip(course.states, plain.states):
        assert (mine["x"] - other["x"]).abs_max() < 1e-13
    assert max(course.state(c, "z").abs().max() for c in NAMES) < 1e-13
    assert max(y.abs_max() for y in course.states[-1]["y"].values()) < 1e-13


def test_without_corrections_it_is_hfedavg_bit_for_bit() -> None:
    network = tree()
    fields: dict[str, Any] = {"group_rounds": 2, "local_steps": 2, "lr": 0.1, "batch_size": 8}
    mine = run(network, task_for(network), MTGC(correct="none", **fields), 2)
    other = run(network, task_for(network), HFedAvg(weights="equal", **fields), 2)
    assert torch.equal(mine.x, other.x)
    assert mine.stamps == other.stamps  # seconds, bytes and joules too
    assert not mine.sim.sites["a"].state


# --- one hand case -----------------------------------------------------------------------------------------------------------------------


def test_two_clients_by_hand() -> None:
    # F_a = (w - 1)^2 / 2, F_b = (w + 1)^2 / 2, one group, H = 1, E = 2, eta = 1/2, start 0. Gradients w - 1 and w + 1, z = 0.
    # group round 1: x_a = 1/2, x_b = -1/2, mean 0;  z_a = 0 + (1/2 - 0) / (1/2) = 1, z_b = -1
    # group round 2: g_a + z_a = -1 + 1 = 0: both stay at 0. Next round, carry: z_a = 1 + (0 - 0) = 1, and it is at the optimum for good.
    one = np.array([[1.0]])
    task = least_squares({"a": (one, np.array([1.0])), "b": (one, np.array([-1.0]))})
    fields: dict[str, Any] = {"group_rounds": 2, "local_steps": 1, "lr": 0.5, "batch_size": 1}
    course = run(tree({"e0": ["a", "b"]}), task, MTGC(**fields), 2, start=[0.0])
    assert [course.state(c, key).item() for c in "ab" for key in ("z", "x")] == [1.0, 0.0, -1.0, 0.0]
    # zero: the last state of a round is the same, the next one starts from z = 0 again, so that x_a = 1/2 in its first group round
    course = run(tree({"e0": ["a", "b"]}), task, MTGC(z_init="zero", **{**fields, "group_rounds": 1}), 2, start=[0.0])
    assert [course.state(c, key).item() for c in "ab" for key in ("z", "x")] == [0.0, 0.5, 0.0, -0.5]
    # grad: z_a = mean g - g_a = 0 + 1 from the start
    course = run(tree({"e0": ["a", "b"]}), task, MTGC(z_init="grad", **{**fields, "group_rounds": 1}), 1, start=[0.0])
    assert [course.state(c, key).item() for c in "ab" for key in ("z", "x")] == [1.0, 0.0, -1.0, 0.0]


def test_carry_compares_with_the_group_model_and_not_with_the_global_one() -> None:
    # groups {a, b} and {c}: F_a = (w - 1)^2/2, F_b = (w + 1)^2/2, F_c = (w - 6)^2/2, H = E = 1, eta = 1/2, start 0.
    # round 1: x_a = 1/2, x_b = -1/2, xbar_0 = 0; x_c = 3 = xbar_1; x = 3/2. y_0 = (0 - 3/2) / (1/2) = -3, y_1 = 3.
    # round 2: z_a = (1/2 - 0) / (1/2) = 1 against xbar_0; against x = 3/2 it would be -2.
    one = np.array([[1.0]])
    task = least_squares({"a": (one, np.array([1.0])), "b": (one, np.array([-1.0])), "c": (one, np.array([6.0]))})
    course = run(tree({"e0": ["a", "b"], "e1": ["c"]}), task, MTGC(group_rounds=1, local_steps=1, lr=0.5, batch_size=1), 2, start=[0.0])
    assert [course.state(c, "z").item() for c in "abc"] == [1.0, -1.0, 0.0]
    assert [course.states[1]["y"][j].flat.item() for j in ("e0", "e1")] == [-3.0, 3.0]
    # x_a = 3/2 - (1/2 + 1 - 3)/2 = 9/4, x_b = 3/2 - (5/2 - 1 - 3)/2 = 9/4; x_c = 3/2 - (-9/2 + 3)/2 = 9/4
    assert course.x.item() == 2.25


# --- bytes and seconds -------------------------------------------------------------------------------------------------------------------


def test_bytes_are_those_of_hfedavg_and_the_declared_downloads() -> None:
    # 3 parameters of 8 bytes: w = 24. 5 clients, 2 edge servers, E = 3. HFedAvg: E w down and up per client; 2 w per edge on the backhaul.
    w, n, edges, E = 24, 5, 2, 3
    task = least_squares(ROWS)

    def spent(method: Any) -> list[tuple[float, float, float]]:
        course = run(tree(), task, method, 3)
        return [tuple(course.spent(t)[name] for name in ("bytes_down", "bytes_up", "bytes_backhaul")) for t in range(3)]  # type: ignore[misc]

    plain = (n * E * w, n * E * w, edges * 2 * w)
    assert spent(HFedAvg(weights="equal", **FIELDS)) == [plain] * 3
    down, up, backhaul = plain
    y = n * w  # once per client and round, and once per edge server
    # z alone: the last group model once per client and round, from the second round on
    assert spent(MTGC(correct="z", **FIELDS)) == [plain, *[(down + n * w, up, backhaul)] * 2]
    assert spent(MTGC(correct="y", **FIELDS)) == [(down + y, up, backhaul + edges * w)] * 3
    assert spent(MTGC(**FIELDS)) == [(down + y, up, backhaul + edges * w), *[(down + y + n * w, up, backhaul + edges * w)] * 2]
    assert spent(MTGC(z_init="zero", **FIELDS)) == [(down + y, up, backhaul + edges * w)] * 3
    # grad: a gradient up and their mean down, once per client and round; x comes down only once for both calls
    assert spent(MTGC(z_init="grad", **FIELDS)) == [(down + y + n * w, up + n * w, backhaul + edges * w)] * 3


# --- loss --------------------------------------------------------------------------------------------------------------------------------


def seconds_of_a_round() -> float:
    return run(tree(), least_squares(ROWS), MTGC(**FIELDS), 1).stamps[1]["seconds"]


@pytest.mark.parametrize("z_init", ["carry", "zero", "grad"])
@pytest.mark.parametrize(("on_leave", "back"), [("keep", 1.8), ("wipe", 1.8), ("keep", 1.5)])
def test_a_lost_client_leaves_no_bias_behind(z_init: Any, on_leave: Any, back: float) -> None:
    # c is away for a while in the second round, until the next group round or only within one. Corrections that no longer sum to zero would shift
    # the fixed point for ever: with carry the group restarts them from zero whenever its clients change. Without "zero", which has a bias of its
    # own, the optimum is reached all the same.
    length_s = seconds_of_a_round()
    churn = TraceChurn(changes={"c": [(1.4 * length_s, False), (back * length_s, True)]})
    course = run(tree(churn=churn, detect_s=1.0, on_leave=on_leave), least_squares(ROWS), MTGC(z_init=z_init, **FIELDS), 25)
    for clients in GROUPS.values():
        assert torch.stack([course.state(c, "z") for c in clients]).sum(0).abs().max() < 1e-10
    assert far(course, best()) < (1e-6 if z_init != "zero" else 0.1)


@pytest.mark.parametrize("z_init", ["carry", "grad"])
def test_a_lost_edge_server_leaves_no_bias_behind(z_init: Any) -> None:
    length_s = seconds_of_a_round()
    churn = TraceChurn(changes={"e1": [(1.5 * length_s, False), (2.2 * length_s, True)]})
    course = run(tree(churn=churn, detect_s=1.0), least_squares(ROWS), MTGC(z_init=z_init, **FIELDS), 25)
    assert torch.stack([y.flat for y in course.states[-1]["y"].values()]).sum(0).abs().max() < 1e-10
    assert far(course, best()) < 1e-6


def test_a_group_without_clients_is_left_out() -> None:
    # d and e leave for good: what remains is the group of a, b, c; y_e1 stays what it was
    length_s = seconds_of_a_round()
    churn = TraceChurn(changes={name: [(1.5 * length_s, False)] for name in "de"})
    course = run(tree(churn=churn, detect_s=1.0), least_squares(ROWS), MTGC(**FIELDS), 5)
    assert torch.equal(course.states[2]["y"]["e1"].flat, course.states[5]["y"]["e1"].flat)
    assert list(course.states[5]["last"]) == ["e0"]
    assert torch.isfinite(course.x).all()


def test_all_groups_lost_keep_the_model() -> None:
    churn = TraceChurn(changes={name: [(1.0, False)] for name in NAMES})
    course = run(tree(churn=churn, detect_s=1.0), least_squares(ROWS), MTGC(**FIELDS), 1)
    assert torch.equal(course.x, course.states[0]["x"].flat)


def test_fields_are_checked() -> None:
    with pytest.raises(ScenarioError, match=r"MTGC\.group_rounds"):
        MTGC(group_rounds=0)
