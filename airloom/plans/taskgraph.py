"""Tasks that build on each other: a directed acyclic graph, edge u -> v where v needs u."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

from airloom.errors import ScenarioError


@dataclass(frozen=True, kw_only=True)
class TaskGraph:
    """A graph of tasks; make it with `task_graph`.

    Fields: `order`, the tasks so that each comes after those it needs (earlier ones first, as they were given); `parents`, `ancestors` (both in that
    order) and `levels` (longest path from a task without needs) by task.
    """

    order: tuple[str, ...]
    parents: Mapping[str, tuple[str, ...]]
    ancestors: Mapping[str, tuple[str, ...]]
    levels: Mapping[str, int]

    def children(self, task: str) -> tuple[str, ...]:
        """Tasks that need this one directly."""
        return tuple(v for v in self.order if task in self.parents[v])


def task_graph(tasks: Sequence[str], needs: Mapping[str, Sequence[str]]) -> TaskGraph:
    """Check a graph and put its tasks in order.

    Arguments:
        tasks: names.
        needs: per task those that it needs directly; a task that is not named needs none.

    Raises:
        ScenarioError: a task twice, a need that is no task, or a cycle, which is named.

    >>> graph = task_graph(["max", "add", "both"], {"both": ["add"], "max": ["both"]})
    >>> graph.order, graph.ancestors["max"], graph.levels["max"]
    (('add', 'both', 'max'), ('add', 'both'), 2)
    """
    if len(set(tasks)) < len(tasks):
        raise ScenarioError(f"task_graph(tasks={list(tasks)}): got a task twice; allowed is each once")
    graph = nx.DiGraph()
    graph.add_nodes_from(tasks)
    for task, parents in needs.items():
        unknown = [name for name in (task, *parents) if name not in graph]
        if unknown:
            raise ScenarioError(f"task_graph(needs[{task!r}]={list(parents)}): {unknown} are no tasks; allowed are {', '.join(tasks)}")
        graph.add_edges_from((parent, task) for parent in parents)
    if not nx.is_directed_acyclic_graph(graph):
        cycle = [u for u, _ in nx.find_cycle(graph)]
        raise ScenarioError(f"task_graph(needs): {' -> '.join([*cycle, cycle[0]])} is a cycle; allowed is a graph without one: take an edge out")
    given = {task: i for i, task in enumerate(tasks)}
    order = tuple(nx.lexicographical_topological_sort(graph, key=given.__getitem__))
    at = {task: i for i, task in enumerate(order)}
    levels = {task: level for level, layer in enumerate(nx.topological_generations(graph)) for task in layer}
    return TaskGraph(
        order=order,
        parents={v: tuple(sorted(graph.predecessors(v), key=at.__getitem__)) for v in order},
        ancestors={v: tuple(sorted(nx.ancestors(graph, v), key=at.__getitem__)) for v in order},
        levels=levels,
    )
