"""Task graphs: orders, ancestors, levels, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.plans.taskgraph import task_graph


@st.composite
def needs(draw: st.DrawFn, most: int = 6) -> dict[str, list[str]]:
    """Tasks t0, t1, ... in which each may need earlier ones."""
    n = draw(st.integers(1, most))
    return {f"t{j}": [f"t{i}" for i in range(j) if draw(st.booleans())] for j in range(n)}


@given(needs(), st.randoms())
def test_every_task_comes_after_all_that_it_needs(wanted: dict[str, list[str]], random: object) -> None:
    names = list(wanted)[::-1]
    graph = task_graph(names, wanted)
    assert sorted(graph.order) == sorted(names)
    for v in graph.order:
        assert set(graph.parents[v]) == set(wanted[v])
        # all ancestors: the parents and theirs
        assert set(graph.ancestors[v]) == {u for p in wanted[v] for u in (p, *graph.ancestors[p])}
        assert all(graph.order.index(u) < graph.order.index(v) for u in graph.ancestors[v])
        assert graph.levels[v] == max((graph.levels[u] + 1 for u in wanted[v]), default=0)
        assert all(v in graph.parents[w] for w in graph.children(v))


def test_bad_graphs_are_refused_by_name() -> None:
    with pytest.raises(ScenarioError, match=r"a -> c -> b -> a is a cycle|c -> b -> a -> c is a cycle|b -> a -> c -> b is a cycle"):
        task_graph(["a", "b", "c"], {"a": ["b"], "b": ["c"], "c": ["a"]})
    with pytest.raises(ScenarioError, match=r"a -> a is a cycle"):
        task_graph(["a"], {"a": ["a"]})
    with pytest.raises(ScenarioError, match=r"\['x'\] are no tasks; allowed are a, b"):
        task_graph(["a", "b"], {"a": ["x"]})
    with pytest.raises(ScenarioError, match="a task twice"):
        task_graph(["a", "a"], {})
