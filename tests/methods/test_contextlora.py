"""ContextLoRA: blocks by hand, what a task may move and see, reductions, and the planned clock against the engine's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from airloom.errors import ScenarioError
from airloom.methods.contextlora import ContextLoRA, active, block
from airloom.methods.fedlora import FedLoRA
from airloom.models.batch import Batch, first_tensor
from airloom.models.params import Params
from airloom.models.step import SGD
from airloom.models.submodel import ranks
from airloom.models.train import forward, grad
from airloom.network.network import Network
from airloom.tasks.task import Task
from tests.methods.hand import away, star, with_facts
from tests.methods.pairs import digits, moved_rows, pair_targets
from tests.methods.quadratic import Course, run
from tests.worlds import device, play, world

SPEEDS = {"a": 1e6, "b": 2e6, "c": 1e6, "d": 3e6, "e": 5e5}
NEEDS = {"c": ["a", "b"], "d": ["c"], "e": ["a"]}
ANCESTORS = {"a": "", "b": "", "c": "ab", "d": "abc", "e": "a"}
STEP: dict[str, Any] = {"epochs": 1, "lr": 0.5, "batch_size": 1, "optimizer": SGD()}


def wired(
    needs: dict[str, list[str]] | None = None, speeds: dict[str, float] = SPEEDS, facts: dict[str, dict[str, Any]] | None = None, **changes: Any
) -> Network:
    """A star whose server knows what needs what."""
    return with_facts(
        star(speeds, **{"rate": 2e3, "latency_s": 0.25, "framing_bytes": 7, **changes}), {"hub": {"needs": needs or {}}, **(facts or {})}
    )


def played(task: Task, network: Network, rounds: int = 1, start: list[float] | None = None, **fields: Any) -> Course:
    return run(network, task, ContextLoRA(**{"planner": "home", "batch_size": 30, **fields}), rounds, start=start)


def answer(task: Task, x: Params, rows: list[int]) -> torch.Tensor:
    """Outputs for some rows of the data, with these rank rows there."""
    batch = task.data("a").all()
    return forward(x[ranks(rows)], Batch(batch.x, batch.y))


# --- blocks ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("relations", "expected"),
    [
        # w = B1 A1 + B2 A2, gradient p - c in w. A = (1, 1), B = (0, 0), eta = 1/2. a: p = 0, c = 1: dB1 = -1, B1 = 1/2, A1 stays since B1 was 0
        # b, on top of a: p = 1/2, c = 3: dB2 = -5/2, B2 = 5/4
        ("graph", [1.0, 1.0, 0.5, 1.25]),
        # b alone: p = 0: dB2 = -3, B2 = 3/2
        ("none", [1.0, 1.0, 0.5, 1.5]),
        # a moves both rows: B = (1/2, 1/2), p = 1; b: dp = -2, so dB = (-2, -2), dA = (-1, -1): B = (3/2, 3/2), A = (3/2, 3/2)
        ("sequence", [1.5, 1.5, 1.5, 1.5]),
    ],
)
def test_two_tasks_by_hand(relations: str, expected: list[float]) -> None:
    course = played(pair_targets({"a": (1, 1.0), "b": (1, 3.0)}, 2), wired({"b": ["a"]}, {"a": 1.0, "b": 1.0}), start=[1.0, 1.0, 0.0, 0.0],
                    relations=relations, **STEP)  # fmt: skip
    assert course.x.tolist() == pytest.approx(expected)


def test_blocks_are_a_partition_and_their_sum_is_the_whole() -> None:
    task = digits("abcde", 10)
    course = played(task, wired(NEEDS))
    rows, x = course.states[-1]["rows"], course.states[-1]["x"]
    assert sorted(i for own in rows.values() for i in own) == list(range(10))
    named = x.named()
    for pair in task.model.pairs:
        A, B = (named[leaf] for leaf in task.model.pair_leaves(pair))
        torch.testing.assert_close(sum(B[:, own] @ A[own] for own in rows.values()), B @ A, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("v", "ac")
def test_a_task_moves_its_own_rows_and_no_other_bit(v: str) -> None:
    # everybody else is away from the second pass on: it is the only one that trains
    task = digits("abcde", 10)
    course = played(task, wired(NEEDS, churn=away(**{u: (40.0,) for u in "abcde" if u != v})), rounds=1)
    first_s = course.stamps[-1]["seconds"]
    course = played(task, wired(NEEDS, churn=away(**{u: (first_s + 1e-6,) for u in "abcde" if u != v})), rounds=3)
    own = set(course.states[-1]["rows"][v])
    for a_rows, b_rows in moved_rows(task.model, course.states[-2]["x"].flat, course.x).values():
        assert a_rows == b_rows == own


def test_answers_do_not_depend_on_masked_blocks_and_parents_forget_nothing() -> None:
    task = digits("abcde", 10)
    course = played(task, wired(NEEDS))
    rows, x = course.states[-1]["rows"], course.states[-1]["x"]
    needs = {v: list(ANCESTORS[v]) for v in rows}
    for v in rows:
        others = [i for u in rows if u != v and u not in needs[v] for i in rows[u]]
        if others:
            part = x[block(x, sorted(others))]
            assert torch.equal(answer(task, x, active(rows, needs, v)), answer(task, x | (part + 5.0), active(rows, needs, v)))
    # a and b after all training answer as they do in a world where nothing was trained after them
    alone = run(
        with_facts(wired({}, {u: SPEEDS[u] for u in "ab"}), {"a": {"rank": 2}, "b": {"rank": 2}}), task, ContextLoRA(batch_size=30), 1
    ).states[-1]["x"]
    for v in "ab":
        assert torch.equal(answer(task, x, rows[v]), answer(task, alone, rows[v]))


def test_a_frozen_block_lets_the_gradient_through_to_the_layers_below() -> None:
    # with B of the lower pair not zero, the lower layer's own rows get a gradient through the upper layer's frozen block as well
    task = digits("ab", 4)
    x = task.model.initial(0)
    x = task.model.params(torch.where(x.flat == 0, 0.1, x.flat))
    network = wired({"b": ["a"]}, {"a": 1e6, "b": 1e6})
    course = run(network, task, ContextLoRA(epochs=1, batch_size=150, lr=1.0, optimizer=SGD()), 1, start=x.flat.tolist())
    there = x[ranks([0, 1, 2, 3])] | course.states[-1]["x"][block(x, [0, 1])]
    batch = task.data("b").rows(task.sample_ids("b", 0, 150, 0))
    g, _ = grad(there, batch, objective=task.objective)
    own = block(x, [2, 3])
    torch.testing.assert_close(course.states[-1]["x"][own].flat, (x[own] - g[own]).flat, rtol=1e-4, atol=1e-5)


# --- reductions ------------------------------------------------------------------------------------------------------------------------------


def test_one_task_is_plain_lora() -> None:
    task = digits("a", 4)
    network = wired({}, {"a": 1e6})
    own = played(task, network, epochs=2, lr=0.1, batch_size=50, optimizer=SGD())
    lora = run(network, task, FedLoRA(local_steps=2 * -(-len(task.data("a")) // 50), lr=0.1, batch_size=50), 1)
    torch.testing.assert_close(own.x, lora.x, rtol=0, atol=1e-6)  # fedlora adds a difference


def test_without_edges_every_task_trains_an_adapter_of_its_own() -> None:
    task = digits("ab", 6)
    both = played(task, wired({}, {"a": 1e6, "b": 2e6}))
    alone = run(with_facts(wired({}, {"a": 1e6}), {"a": {"rank": 3}}), task, ContextLoRA(batch_size=30), 1)
    x, y = both.states[-1]["x"], alone.states[-1]["x"]
    assert torch.equal(x[block(x, [0, 1, 2])].flat, y[block(y, [0, 1, 2])].flat)
    named = played(task, wired({"b": ["a"]}, {"a": 1e6, "b": 2e6}), relations="none")
    assert torch.equal(named.x, both.x)


# --- the clock -------------------------------------------------------------------------------------------------------------------------------


def tree() -> Network:
    """Two edge servers with a cloud above, so that blocks go over up to four links and relays keep copies."""
    pairs: dict[tuple[str, str], Any] = {
        ("f", "hub"): 3e3,
        ("g", "hub"): 5e3,
        ("a", "f"): 2e3,
        ("b", "f"): 1e3,
        ("c", "g"): 2e3,
        ("d", "g"): 900.0,
        ("e", "g"): 2e3,
    }
    return with_facts(world(pairs, devices={n: device(s) for n, s in SPEEDS.items()}, latency_s=0.125, framing_bytes=11), {"hub": {"needs": NEEDS}})


def free_down() -> Network:
    return wired(NEEDS, downlink="free")


def half_away() -> Network:
    """c is never there: d uses the block of c that the server has."""
    return wired(NEEDS, churn=away(c=(0.0,)))


PLANS: list[dict[str, Any]] = [{}, {"planner": "levels"}, {"moves": True}, {"moves": True, "planner": "single"}, {"relations": "sequence"}]
DRAWN: dict[str, Any] = {"moves": True, "planner": "random"}


@pytest.mark.parametrize(
    ("fields", "make"), [*((fields, lambda: wired(NEEDS)) for fields in PLANS), (DRAWN, tree), ({}, tree), (DRAWN, free_down), (DRAWN, half_away)]
)
def test_planned_seconds_and_bytes_are_those_of_the_engine(fields: dict[str, Any], make: Any) -> None:
    task, network = digits("abcde", 10), make()
    method = ContextLoRA(epochs=1, batch_size=60, **fields)
    reports: list[dict[str, Any]] = []
    course = run(network, task, method, 2, reports=reports)
    for t, report in enumerate(reports):
        spent = course.spent(t)
        assert spent["seconds"] == pytest.approx(report["planned_s"], rel=1e-12)
        assert sum(spent[f"bytes_{way}"] for way in ("up", "down", "backhaul", "peer")) == pytest.approx(report["planned_bytes"], rel=1e-12)


def test_where_a_task_runs_changes_the_clock_and_the_bytes_and_not_what_it_may_move() -> None:
    task, network = digits("abcde", 10), wired(NEEDS)
    stays, goes = (played(task, network, epochs=1, moves=True, planner=p) for p in ("home", "single"))
    home, moved = (c.spent(0)["bytes_up"] for c in (stays, goes))
    block_bytes = stays.states[-1]["x"][block(task.model.initial(0), [0, 1])].nbytes + 7
    # all at one place: the other four tasks' rows go up, five blocks do; at home a goes up once for the others, b, c and five results
    examples = sum(first_tensor(D.x).nbytes + D.y.nbytes + 7 for D in (task.data(v).all() for v in "abce"))
    assert home == 3 * block_bytes + 5 * block_bytes
    assert moved == examples + 5 * block_bytes
    assert goes.states[-1]["rows"] == stays.states[-1]["rows"]


def test_masked_blocks_cost_nothing_and_frozen_ones_as_much_as_own_ones() -> None:
    # b's work where a's four rows are masked is that of four rows alone; where they are frozen, that of eight: see the page for what could be saved
    task = digits("ab", 8)
    flops = {}
    for relations in ("none", "graph"):
        course = played(task, wired({"b": ["a"]}, {"a": 1e6, "b": 1e6}), relations=relations, epochs=1, batch_size=50)
        flops[relations] = course.sim.sites["b"].meter.flops
    alone = {k: played(task, wired({}, {"b": 1e6}, {"b": {"rank": k}}), epochs=1, batch_size=50).sim.sites["b"].meter.flops for k in (4, 8)}
    assert (flops["none"], flops["graph"]) == (alone[4], alone[8])


# --- ranks, bad input ------------------------------------------------------------------------------------------------------------------------


def test_ranks_by_rule_and_as_declared() -> None:
    def sizes(network: Network, **fields: Any) -> list[int]:
        rows = play(network, lambda node: ContextLoRA(**fields).dealt(node, 12), task=digits("abcde", 12)).value
        return [len(rows[v]) for v in "abcde"]

    assert sizes(wired(NEEDS)) == [3, 3, 2, 2, 2]
    # a has two children, b and c one each: 12 - 5 = 7 ranks are left, shares 3.5, 1.75, 1.75, 0, 0; the two left over go to b and c
    assert sizes(wired(NEEDS), deal="children") == [4, 3, 3, 1, 1]
    assert sizes(wired(NEEDS, facts={"d": {"rank": 8}})) == [1, 1, 1, 8, 1]
    assert sizes(wired(NEEDS), relations="sequence") == [12] * 5


def test_bad_input() -> None:
    task = digits("abcde", 10)
    with pytest.raises(ScenarioError, match=r"is a cycle; allowed is a graph without one"):
        played(task, wired({"a": ["b"], "b": ["a"]}))
    with pytest.raises(ScenarioError, match=r"fact 'needs' of 'hub': \['moon'\] hold no data; allowed are clients"):
        played(task, wired({"a": ["moon"]}))
    with pytest.raises(ScenarioError, match=r"ranks for 5 tasks: allowed are integers >= 1 that sum to at most 4, the rank of the adapter"):
        played(digits("abcde", 4), wired(NEEDS))
    with pytest.raises(ScenarioError, match=r"single: no place may run all tasks; let examples travel"):
        played(task, wired(NEEDS), planner="single")
    with pytest.raises(ScenarioError, match=r"ContextLoRA\.epochs"):
        ContextLoRA(epochs=0)


def test_it_ends_after_its_passes() -> None:
    assert [ContextLoRA(passes=2).done(None, {"t": t}) for t in range(3)] == [False, False, True]  # type: ignore[arg-type]
