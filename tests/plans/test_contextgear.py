"""ContextGear: hand cases, the flow-shop recursion, brute force, and what every plan must keep."""

from __future__ import annotations

from itertools import pairwise, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.network.link import Hop
from airloom.plans.contextgear import (
    PLANNERS,
    GearPlan,
    Job,
    Setting,
    at_random,
    by_critical_path,
    by_levels,
    deal_ranks,
    exact,
    gear,
    played,
    single,
)
from airloom.plans.pipe import pipe_ends_s
from airloom.plans.taskgraph import TaskGraph, task_graph


def setting_of(
    needs: dict[str, list[str]], work: list[float], speeds: list[float], *, sizes: tuple[float, float, float] = (0, 0, 0), up: float = 1.0,
    down: float = 1.0, latency_s: float = 0.0, framing: int = 0,
) -> tuple[Setting, TaskGraph]:  # fmt: skip
    """Tasks that may run anywhere on a star; `sizes` are the bytes of orders, blocks and examples, rates are in byte/s."""
    graph = task_graph(list(needs), needs)
    jobs = {
        v: Job(
            needs=graph.ancestors[v], seconds={f"d{q}": work[list(needs).index(v)] / f for q, f in enumerate(speeds)}, order_bytes=sizes[0],
            block_bytes=sizes[1], rows_bytes=sizes[2], home=f"d{list(needs).index(v) % len(speeds)}",
        )
        for v in graph.order
    }  # fmt: skip

    def hops(source: str, target: str) -> tuple[Hop, ...]:
        above = () if source == "hub" else (Hop(source, "hub", 8.0 * up, latency_s, framing),)
        below = () if target == "hub" else (Hop("hub", target, 8.0 * down, latency_s, framing),)
        return above + below

    return Setting(jobs=jobs, kept={}, results=graph.order, server="hub", hops=hops), graph


@st.composite
def cases(draw: st.DrawFn, most: int = 5) -> tuple[Setting, TaskGraph, list[float], list[float]]:
    """Random graphs, work, speeds, sizes and links."""
    n = draw(st.integers(1, most))
    needs = {f"t{j}": [f"t{i}" for i in range(j) if draw(st.booleans())] for j in range(n)}
    work = [float(draw(st.integers(1, 9))) for _ in range(n)]
    speeds = [float(draw(st.integers(1, 3))) for _ in range(draw(st.integers(1, 3)))]
    sizes = draw(st.sampled_from([(0.0, 0.0, 0.0), (2.0, 3.0, 9.0), (0.5, 12.0, 1.0)]))
    latency_s = draw(st.sampled_from([0.0, 0.25]))
    setting, graph = setting_of(needs, work, speeds, sizes=sizes, up=draw(st.integers(1, 6)), down=6.0, latency_s=latency_s, framing=1)
    return setting, graph, work, speeds


# --- hand cases ------------------------------------------------------------------------------------------------------------------------------


def test_two_tasks_and_a_block_that_travels_by_hand() -> None:
    setting, _ = setting_of({"a": [], "b": ["a"]}, [4, 6], [2, 3], sizes=(2, 6, 10), up=2, down=4, latency_s=0.5, framing=2)
    # a at d0: order 2 + 2 bytes at 4 byte/s + 0.5 s: starts at 1.5, takes 4 / 2 = 2 s, ends at 3.5.
    # its block: 6 + 2 bytes, up 4 s + 0.5 s, down 2 s + 0.5 s: at d1 at 10.5, where b (order there at 1.5) takes 6 / 3 = 2 s, to 12.5.
    # the server knows 0.5 s later, at 13; then both blocks go up side by side, 4 s + 0.5 s each: 17.5
    plan = played(setting, ((("a", "d0"), ("b", "d1")),))
    assert plan.spans_s == {"a": (1.5, 3.5), "b": (10.5, 12.5)}
    assert plan.seconds == 17.5
    # orders 2 x 4, the block over two links 2 x 8, results 2 x 8
    assert plan.bytes == 8 + 16 + 16


def test_two_tasks_of_one_place_add_up_and_examples_travel_once_by_hand() -> None:
    setting, _ = setting_of({"a": [], "b": []}, [4, 6], [2, 2], sizes=(0, 6, 10), up=2, down=5, latency_s=0.0, framing=0)
    # b's home is d1: its rows take 5 s up and 2 s down; a runs at d0 from 0 to 2 s, b from 7 to 10 s; then two blocks, 3 s each on one up-link
    plan = played(setting, ((("a", "d0"), ("b", "d0")),))
    assert plan.spans_s == {"a": (0.0, 2.0), "b": (7.0, 10.0)}
    assert (plan.seconds, plan.bytes) == (16.0, 20 + 12)


def test_a_block_goes_to_a_place_once_and_over_a_relayed_link_once() -> None:
    setting, _ = setting_of({"a": [], "b": ["a"], "c": ["a"], "e": ["a"]}, [1, 1, 1, 1], [1, 1, 1], sizes=(0, 8, 0), up=1, down=1)
    # b and c both at d1, e at d2: up from d0 once (8), down to d1 and d2 once each (16); at the end four results
    assert played(setting, ((("a", "d0"), ("b", "d1"), ("c", "d1"), ("e", "d2")),)).bytes == 8 + 16 + 4 * 8


def test_groups_wait_for_each_other() -> None:
    setting, _ = setting_of({"a": [], "b": [], "c": ["a"]}, [2, 5, 1], [1, 1])
    together = played(setting, ((("a", "d0"), ("b", "d1"), ("c", "d0")),))
    apart = played(setting, ((("a", "d0"), ("b", "d1")), (("c", "d0"),)))
    assert (together.spans_s["c"], apart.spans_s["c"]) == ((2.0, 3.0), (5.0, 6.0))


@pytest.mark.parametrize("seed", range(3))
def test_chains_over_one_place_per_stage_are_the_flow_shop_recursion(seed: int) -> None:
    p = np.random.default_rng(seed).integers(1, 9, size=(4, 3)).astype(float)
    needs = {f"j{j}s{k}": [f"j{j}s{k - 1}"] if k else [] for j in range(4) for k in range(3)}
    graph = task_graph(list(needs), needs)
    jobs = {
        v: Job(needs=graph.ancestors[v], seconds={f"d{v[3]}": p[int(v[1]), int(v[3])]}, order_bytes=0, block_bytes=0, home=f"d{v[3]}", rows_bytes=0)
        for v in graph.order
    }
    setting = Setting(jobs=jobs, kept={}, results=graph.order, server="hub", hops=lambda source, target: ())
    plan = played(setting, (tuple((f"j{j}s{k}", f"d{k}") for j in range(4) for k in range(3)),))
    ends = [[plan.spans_s[f"j{j}s{k}"][1] for k in range(3)] for j in range(4)]
    np.testing.assert_allclose(ends, pipe_ends_s(p), rtol=1e-12)


# --- what every plan keeps -------------------------------------------------------------------------------------------------------------------


def check(setting: Setting, plan: GearPlan) -> None:
    """Every task once, after those that it needs, one at a time per place; the prediction belongs to the plan."""
    calls = [call for group in plan.groups for call in group]
    assert sorted(v for v, _ in calls) == sorted(setting.jobs)
    where = dict(calls)
    for v, (start, end) in plan.spans_s.items():
        assert end - start == pytest.approx(setting.jobs[v].seconds[where[v]], abs=1e-9)
        assert all(plan.spans_s[u][1] <= start + 1e-9 for u in setting.jobs[v].needs)
    for place in set(where.values()):
        spans = sorted(plan.spans_s[v] for v in where if where[v] == place)
        assert all(a[1] <= b[0] + 1e-9 for a, b in pairwise(spans))
    assert plan.seconds >= max(end for _, end in plan.spans_s.values())


@settings(max_examples=25, deadline=None)
@given(cases())
def test_plans_respect_the_graph_and_no_bound_is_beaten(case: tuple[Setting, TaskGraph, list[float], list[float]]) -> None:
    setting, graph, work, speeds = case
    best = gear(setting, graph)
    for plan in (best, by_levels(setting, graph), by_critical_path(setting), single(setting), at_random(setting, np.random.default_rng(0))):
        check(setting, plan)
        assert best.seconds <= plan.seconds or plan.planner == "random"
        at = {v: work[int(v[1:])] for v in graph.order}
        longest: dict[str, float] = {}
        for v in graph.order:
            longest[v] = at[v] / max(speeds) + max((longest[u] for u in graph.parents[v]), default=0.0)
        assert plan.seconds >= max(*longest.values(), sum(work) / sum(speeds)) * (1 - 1e-12)


@settings(max_examples=15, deadline=None)
@given(cases(most=4))
def test_exact_is_the_least_of_all_places_and_orders(case: tuple[Setting, TaskGraph, list[float], list[float]]) -> None:
    setting, graph, _, speeds = case
    tasks, least = list(setting.jobs), float("inf")
    for order in permutations(tasks):
        if all(order.index(u) < order.index(v) for v in tasks for u in setting.jobs[v].needs):
            for places in product([f"d{q}" for q in range(len(speeds))], repeat=len(tasks)):
                least = min(least, played(setting, (tuple(zip(order, places, strict=True)),)).seconds)
    found = exact(setting, graph)
    check(setting, found)
    assert found.seconds == pytest.approx(min(least, gear(setting, graph).seconds), rel=1e-12)


def test_more_than_one_place_beats_one_and_one_beats_more_where_links_are_slow() -> None:
    needs = {"a": [], "b": [], "c": ["a", "b"]}
    fast, graph = setting_of(needs, [4, 4, 4], [1, 1])
    assert (gear(fast, graph).seconds, single(fast).seconds) == (8.0, 12.0)
    slow, graph = setting_of(needs, [4, 4, 4], [1, 1], sizes=(0, 90, 0), up=1, down=1)
    # a block takes 90 s a link: all three at one place compute 12 s and send 270; two places save 4 s, wait 180 for a block, and send 180
    assert gear(slow, graph).seconds == single(slow).seconds == 282.0


def test_a_place_that_may_not_run_a_task_never_does() -> None:
    setting, graph = setting_of({"a": [], "b": ["a"]}, [1, 1], [1, 9])
    jobs = {
        v: Job(needs=j.needs, seconds={j.home: j.seconds[j.home]}, order_bytes=0, block_bytes=0, home=j.home, rows_bytes=0)
        for v, j in setting.jobs.items()
    }
    only = Setting(jobs=jobs, kept={}, results=["b"], server="hub", hops=setting.hops)
    for name in ("gear", "levels", "critical_path", "home", "exact"):
        assert dict(call for group in PLANNERS[name](only, graph).groups for call in group) == {"a": "d0", "b": "d1"}
    with pytest.raises(ScenarioError, match="single: no place may run all tasks"):
        single(only)


# --- ranks, bad input ------------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 10), min_size=1, max_size=6), st.integers(0, 20))
def test_ranks_are_dealt_whole_and_once(weights: list[float], more: int) -> None:
    tasks = {f"t{i}": w for i, w in enumerate(weights)}
    found = deal_ranks(len(tasks) + more, tasks, {})
    assert sorted(i for rows in found.values() for i in rows) == list(range(len(tasks) + more))
    assert all(found.values())


def test_bad_input() -> None:
    with pytest.raises(ScenarioError, match=r"ranks for 3 tasks: allowed are integers >= 1 that sum to at most 2, the rank of the adapter"):
        deal_ranks(2, {"a": 1.0, "b": 1.0, "c": 1.0}, {})
    with pytest.raises(ScenarioError, match=r"ranks for 2 tasks, of which \{'a': 9\} are fixed"):
        deal_ranks(8, {"a": 1.0, "b": 1.0}, {"a": 9})
    with pytest.raises(ScenarioError, match="integers >= 1"):
        deal_ranks(8, {"a": 1.0}, {"a": 0})
    setting, _ = setting_of({"a": [], "b": ["a"]}, [1, 1], [1])
    with pytest.raises(ScenarioError, match=r"\['b'\] never start; allowed are groups in which every task comes after"):
        played(setting, ((("b", "d0"),), (("a", "d0"),)))
    with pytest.raises(ScenarioError, match=r"got tasks \['a'\]; allowed is each of \['a', 'b'\] once"):
        played(setting, ((("a", "d0"),),))
    with pytest.raises(ScenarioError, match="'a' at 'moon'; allowed are d0"):
        played(setting, ((("a", "moon"), ("b", "d0")),))
    with pytest.raises(ScenarioError, match=r"Setting.jobs\['b'\].needs: got \['a'\]"):
        Setting(jobs={v: setting.jobs[v] for v in "ba"}, kept={}, results=[], server="hub", hops=setting.hops)
    with pytest.raises(ScenarioError, match="exact: got 9 tasks; allowed are 8"):
        exact(*setting_of({f"t{i}": [] for i in range(9)}, [1] * 9, [1]))
