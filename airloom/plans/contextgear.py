"""Where and when tasks that build on each other are trained, with the seconds and bytes that follow.

    T = end of:  per group, all calls at once:  start_v = max(place free, order here, blocks of Anc(v) here, rows of v here)
                                                end_v = start_v + n_v e_v c_v / f_q,   block v then goes to whoever waits for it, link by link
                 a group begins when the one before it is done and the server knows;  at the end all blocks go to the server

Links are first-in-first-out, a block goes to a place once and stays there, relays keep one copy: what the engine does, so that on links with rates of
their own T is what a run takes. With one group nobody waits but for blocks. Candidates: `by_levels` (topological levels, the longest task first, then
tasks move between groups and places while that helps), `by_critical_path` (no groups), `single` (one place); `gear` takes the best of them.

Paper: reconstructed from the abstract of Cao, Guo, Nan et al., "Advancing Compositional LLM Reasoning with Structured Task Relations in Interactive
Multimodal Communications", 2025, arXiv 2507.21199 (ContextGear); the candidates and the exact search are ours.
Symbols: Anc(v) `needs`, f_q and n_v e_v c_v in `seconds`, bytes of a block `block_bytes`.
Left out: cells whose rate depends on who else sends, memory, places that leave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf

import numpy as np

from airloom.errors import ScenarioError
from airloom.network.link import Hop
from airloom.plans.halda import apportion
from airloom.plans.taskgraph import TaskGraph

Groups = tuple[tuple[tuple[str, str], ...], ...]  # per group, in the order of issue: task and place
MOST_EXACT = 8  # tasks (the search is exponential)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One task.

    Arguments:
        needs: tasks whose blocks it takes; one without a job has its block at the server.
        seconds: of training, by place where it may run.
        order_bytes: what the server sends to the place. block_bytes: of its result. rows_bytes: of its examples, sent where it runs elsewhere than
            `home`. Without framing.
    """

    needs: tuple[str, ...]
    seconds: Mapping[str, float]
    order_bytes: float
    block_bytes: float
    home: str
    rows_bytes: float


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is to be planned: jobs in topological order, bytes of blocks that are at the server, jobs whose blocks it wants, its name, and routes."""

    jobs: Mapping[str, Job]
    kept: Mapping[str, float]
    results: Sequence[str]
    server: str
    hops: Callable[[str, str], tuple[Hop, ...]]

    def __post_init__(self) -> None:
        known: list[str] = list(self.kept)
        for name, job in self.jobs.items():
            known.append(name)
            missing = [u for u in job.needs if u not in known[:-1]]
            if missing:
                raise ScenarioError(f"Setting.jobs[{name!r}].needs: got {missing}; allowed are jobs before it and kept blocks")
            if not job.seconds or not all(0 <= s < inf for s in job.seconds.values()):
                raise ScenarioError(
                    f"Setting.jobs[{name!r}].seconds: got {dict(job.seconds)}; allowed are finite seconds >= 0 for at least one place"
                )

    @property
    def places(self) -> list[str]:
        """Every place where a job may run, in order of name in the jobs."""
        return list(dict.fromkeys(q for job in self.jobs.values() for q in job.seconds))


@dataclass(frozen=True, kw_only=True)
class GearPlan:
    """A plan and its prediction: seconds until all blocks are at the server, bytes over all links, start and end of each task."""

    groups: Groups
    seconds: float
    bytes: float
    spans_s: Mapping[str, tuple[float, float]]
    planner: str


class _Clock:
    """The run of a plan: one heap of events, links and places as they become free."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.number = 0
        self.now = self.bytes = 0.0
        self.wire_free: dict[tuple[str, str], float] = {}
        self.relayed: set[tuple[str, tuple[str, str]]] = set()
        self.here: dict[str, list[str]] = {}  # by value: who has it, or has asked for it
        self.waiting: dict[tuple[str, str], list[str]] = {}  # by value and place: jobs that wait for it
        self.arrived: set[tuple[str, str]] = set()
        self.made: dict[str, str] = {u: setting.server for u in setting.kept}
        self.missing: dict[str, int] = {}
        self.queue: dict[str, list[str]] = {}
        self.busy: set[str] = set()
        self.spans: dict[str, tuple[float, float]] = {}
        self.sizes = {v: job.block_bytes for v, job in setting.jobs.items()} | dict(setting.kept)
        self.sizes |= {f"rows {v}": job.rows_bytes for v, job in setting.jobs.items()}

    def at(self, time_s: float, event: Callable[[], None]) -> None:
        self.number += 1
        heappush(self.heap, (time_s, self.number, event))

    def run(self) -> None:
        while self.heap:
            self.now, _, event = heappop(self.heap)
            event()

    def send(self, value: str, nbytes: float, route: Sequence[Hop], then: Callable[[], None], hop: int = 0) -> None:
        """Put a message on the next link of its route."""
        if hop == len(route):
            then()
            return
        link, now = route[hop], self.now
        wire = (link.source, link.target)

        def onward() -> None:
            self.send(value, nbytes, route, then, hop + 1)

        if link.rate_bps == inf:
            self.at(now, onward)
            return
        relies = hop < len(route) - 1 and (value, wire) in self.relayed
        if hop < len(route) - 1:
            self.relayed.add((value, wire))
        free = max(now, self.wire_free.get(wire, 0.0))
        size = 0.0 if relies else nbytes
        if size:
            size += link.framing_bytes
            free = self.wire_free[wire] = free + 8.0 * size / link.rate_bps
            self.bytes += size
        self.at((free if size or relies else now) + link.latency_s, onward)

    def ask(self, value: str, place: str, late: list[Callable[[], None]]) -> bool:
        """Ask for a value; whether it still has to come."""
        if (value, place) in self.arrived:
            return False
        asked = self.here.setdefault(value, [])
        if place not in asked:
            asked.append(place)
            if value in self.made:
                late.append(lambda: self.carry(value, place))
        return True

    def carry(self, value: str, place: str) -> None:
        """Send a value from where it was made."""
        origin = self.made[value]
        route = () if origin == place else self.setting.hops(origin, place)
        self.send(value, self.sizes[value], route, lambda: self.arrive(value, place))

    def arrive(self, value: str, place: str) -> None:
        self.arrived.add((value, place))
        for v in self.waiting.pop((value, place), []):
            self.have(v, place)

    def make(self, value: str, place: str) -> None:
        self.made[value] = place
        for other in list(self.here.get(value, [])):
            self.carry(value, other)

    def have(self, v: str, place: str) -> None:
        """One argument more is there."""
        self.missing[v] -= 1
        self.start(place)

    def start(self, place: str) -> None:
        """The oldest call of a place starts when all is there."""
        queue = self.queue.get(place, [])
        if place not in self.busy and queue and not self.missing[queue[0]]:
            v = queue.pop(0)
            self.busy.add(place)
            end = self.now + self.setting.jobs[v].seconds[place]
            self.spans[v] = (self.now, end)
            self.at(end, lambda: self.end(v, place))

    def end(self, v: str, place: str) -> None:
        self.busy.discard(place)
        self.start(place)
        self.make(v, place)

    def group(self, calls: Sequence[tuple[str, str]]) -> None:
        """Issue a group and wait until the server knows that it is done."""
        setting, server = self.setting, self.setting.server
        late: list[Callable[[], None]] = []
        for v, place in calls:
            job = setting.jobs[v]
            needs = list(job.needs)
            if place != job.home:
                rows = f"rows {v}"
                needs.append(rows)
                self.send(
                    rows, 0.0, setting.hops(server, job.home), lambda rows=rows, home=job.home: self.at(self.now, lambda: self.make(rows, home))
                )
            self.queue.setdefault(place, []).append(v)
            self.missing[v] = 2  # the order, and the end of this text
            self.send(f"order {v}", job.order_bytes, setting.hops(server, place), lambda v=v, place=place: self.have(v, place))
            for value in needs:
                if self.ask(value, place, late):
                    self.missing[v] += 1
                    self.waiting.setdefault((value, place), []).append(v)
            self.have(v, place)
        for event in late:
            event()
        self.run()
        stuck = [v for v, _ in calls if v not in self.spans]
        if stuck:
            raise ScenarioError(f"plan: {stuck} never start; allowed are groups in which every task comes after those it needs")
        done = [self.spans[v][1] + sum(hop.latency_s for hop in setting.hops(place, server)) for v, place in calls]
        self.now = max(done, default=self.now)

    def gather(self, tasks: Sequence[str]) -> None:
        """Bring blocks to the server."""
        late: list[Callable[[], None]] = []
        for v in tasks:
            self.ask(v, self.setting.server, late)
        for event in late:
            event()
        self.run()


def deal_ranks(r: int, weights: Mapping[str, float], fixed: Mapping[str, int]) -> dict[str, list[int]]:
    """Rank rows of each task: the fixed numbers, and what is left by weight, at least one each; no row twice.

    Raises:
        ScenarioError: more rows are asked for than there are.

    >>> deal_ranks(6, {"add": 1.0, "both": 1.0, "max": 1.0}, {"both": 3})
    {'add': [0, 1], 'both': [2, 3, 4], 'max': [5]}
    """
    wrong = {v: k for v, k in fixed.items() if type(k) is not int or k < 1}
    free = [v for v in weights if v not in fixed]
    if wrong or sum(fixed.values()) + len(free) > r:
        told = f"{len(weights)} tasks, of which {dict(fixed)} are fixed" if fixed else f"{len(weights)} tasks"
        raise ScenarioError(f"ranks for {told}: allowed are integers >= 1 that sum to at most {r}, the rank of the adapter; make that larger")
    sizes = {**fixed, **dict(zip(free, apportion([weights[v] for v in free], r - sum(fixed.values())) if free else []))}
    ends = dict(zip(weights, np.cumsum([sizes[v] for v in weights]).tolist()))
    return {v: list(range(ends[v] - sizes[v], ends[v])) for v in weights}


def played(setting: Setting, groups: Groups, planner: str = "given", *, is_gathered: bool = True) -> GearPlan:
    """The prediction of a plan.

    Raises:
        ScenarioError: a task that is missing or twice, a place where it may not run, or a task before one that it needs.
    """
    calls = [call for group in groups for call in group]
    if is_gathered and sorted(v for v, _ in calls) != sorted(setting.jobs):
        raise ScenarioError(f"played(groups): got tasks {sorted(v for v, _ in calls)}; allowed is each of {sorted(setting.jobs)} once")
    for v, place in calls:
        if place not in setting.jobs[v].seconds:
            raise ScenarioError(f"played(groups): '{v}' at '{place}'; allowed are {', '.join(setting.jobs[v].seconds)}")
    clock = _Clock(setting)
    for group in groups:
        clock.group(group)
    if is_gathered:
        clock.gather([v for v, _ in calls if v in setting.results])
    return GearPlan(groups=tuple(map(tuple, groups)), seconds=clock.now, bytes=clock.bytes, spans_s=clock.spans, planner=planner)


def single(setting: Setting) -> GearPlan:
    """All tasks one after another at the one place that is done first.

    Raises:
        ScenarioError: no place may run them all.
    """
    able = [q for q in setting.places if all(q in job.seconds for job in setting.jobs.values())]
    if not able:
        raise ScenarioError("single: no place may run all tasks; let examples travel, or choose another planner")
    return min((played(setting, (tuple((v, q) for v in setting.jobs),), "single") for q in able), key=lambda plan: plan.seconds)


def at_home(setting: Setting) -> GearPlan:
    """Every task where its examples are, all at once."""
    return played(setting, (tuple((v, job.home) for v, job in setting.jobs.items()),), "home")


def at_random(setting: Setting, rng: np.random.Generator) -> GearPlan:
    """Places drawn uniformly, all at once."""
    picked = tuple((v, list(job.seconds)[int(rng.integers(len(job.seconds)))]) for v, job in setting.jobs.items())
    return played(setting, (picked,), "random")


def by_critical_path(setting: Setting) -> GearPlan:
    """No groups: tasks with the longest way to go first, each where it ends first; then single tasks move, as in `by_levels`."""
    tails = _tails(setting)
    order = sorted(setting.jobs, key=lambda v: -tails[v])  # stable: what is needed comes first where tails tie
    calls: list[tuple[str, str]] = []
    for v in order:
        calls.append((v, _earliest(setting, [calls], v)))
    return _improved(setting, played(setting, (tuple(calls),), "critical_path"))


def by_levels(setting: Setting, graph: TaskGraph) -> GearPlan:
    """Topological levels as groups, the longest task first where it ends first; then single tasks move to another group (or one of their own) and
    place while the predicted seconds fall, which merges and splits groups."""
    groups: list[list[tuple[str, str]]] = []
    for level in sorted({graph.levels[v] for v in setting.jobs}):
        groups.append([])
        for v in sorted((v for v in setting.jobs if graph.levels[v] == level), key=lambda v: -min(setting.jobs[v].seconds.values())):
            groups[-1].append((v, _earliest(setting, groups, v)))
    return _improved(setting, played(setting, tuple(map(tuple, groups)), "levels"))


def gear(setting: Setting, graph: TaskGraph) -> GearPlan:
    """The cheapest of the candidates; never more than the best single place."""
    able = any(all(q in job.seconds for job in setting.jobs.values()) for q in setting.places)
    candidates = [by_critical_path(setting), by_levels(setting, graph), *([single(setting)] if able else [])]
    return min(candidates, key=lambda plan: plan.seconds)


def exact(setting: Setting, graph: TaskGraph) -> GearPlan:
    """The least seconds over all places and orders without groups (and `gear`'s plan, if that has less), by branch and bound.

    Orders of calls at different places are taken as one where no task of them needs another: exact where routes to the places share no link.

    Raises:
        ScenarioError: more than `MOST_EXACT` tasks.
    """
    if len(setting.jobs) > MOST_EXACT:
        raise ScenarioError(f"exact: got {len(setting.jobs)} tasks; allowed are {MOST_EXACT}, the search is exponential; use gear")
    best, tails, index = gear(setting, graph), _tails(setting), {v: i for i, v in enumerate(setting.jobs)}
    release = {(v, q): _release_s(setting, v, q) for v, job in setting.jobs.items() for q in job.seconds}
    moved = {(u, p, q): _alone_s(setting, p, q, setting.jobs[u].block_bytes) for u in setting.jobs for p in setting.places for q in setting.places}
    last_s = min(sum(h.latency_s for h in setting.hops(q, setting.server)) + _alone_s(setting, q, setting.server, job.block_bytes)
                 for v in setting.results for job in [setting.jobs[v]] for q in job.seconds)  # fmt: skip

    def search(calls: list[tuple[str, str]], ends: dict[str, float], free: dict[str, float]) -> None:
        """Go on from calls whose ends are known without queues on links, which are lower bounds."""
        nonlocal best
        rest = [v for v in setting.jobs if v not in ends]
        if not rest:
            plan = played(setting, (tuple(calls),), "exact")
            best = plan if plan.seconds < best.seconds else best
            return
        work = sum(min(setting.jobs[v].seconds.values()) for v in rest)
        ways = [max([0.0, *(ends[u] for u in setting.jobs[v].needs if u in ends)]) + tails[v] for v in rest]
        if max((sum(free.values()) + work) / len(free), *ways, *free.values()) + last_s >= best.seconds:
            return
        where = dict(calls)
        for v in rest:
            needs = [u for u in setting.jobs[v].needs if u in setting.jobs]
            if any(u not in ends for u in needs):
                continue
            for q, seconds in setting.jobs[v].seconds.items():
                if calls and calls[-1][1] != q and calls[-1][0] not in needs and index[v] < index[calls[-1][0]]:
                    continue  # the same two calls the other way round are searched too
                end = max([free[q], release[v, q], *(ends[u] + moved[u, where[u], q] for u in needs)]) + seconds
                search([*calls, (v, q)], {**ends, v: end}, {**free, q: end})

    search([], {}, dict.fromkeys(setting.places, 0.0))
    return best


def _alone_s(setting: Setting, source: str, target: str, nbytes: float) -> float:
    """Seconds of a message that nobody else delays."""
    if source == target:
        return 0.0
    return sum(hop.latency_s + 8.0 * (nbytes + hop.framing_bytes) / hop.rate_bps for hop in setting.hops(source, target) if nbytes)


def _release_s(setting: Setting, v: str, q: str) -> float:
    """When the order and the examples of a task can be at a place at the earliest."""
    job = setting.jobs[v]
    order_s = _alone_s(setting, setting.server, q, job.order_bytes)
    told_s = sum(hop.latency_s for hop in setting.hops(setting.server, job.home))
    return order_s if q == job.home else max(order_s, told_s + _alone_s(setting, job.home, q, job.rows_bytes))


def _tails(setting: Setting) -> dict[str, float]:
    """Seconds from a task's start to the end of all that need it, every task at its fastest place."""
    tails: dict[str, float] = {}
    for v in reversed(list(setting.jobs)):
        after = [tails[w] for w in tails if v in setting.jobs[w].needs]
        tails[v] = min(setting.jobs[v].seconds.values()) + max(after, default=0.0)
    return tails


def _earliest(setting: Setting, groups: Sequence[Sequence[tuple[str, str]]], v: str) -> str:
    """Where a task that is added to the last group ends first."""
    head, last = [tuple(group) for group in groups[:-1]], tuple(groups[-1])

    def end_s(q: str) -> float:
        return played(setting, (*head, (*last, (v, q))), is_gathered=False).spans_s[v][1]

    return min(setting.jobs[v].seconds, key=end_s)


def _improved(setting: Setting, best: GearPlan) -> GearPlan:
    """Move one task at a time while the predicted seconds fall."""
    while True:
        moved = min((played(setting, g, best.planner) for g in _moves(setting, best.groups)), key=lambda plan: plan.seconds, default=best)
        if not moved.seconds < best.seconds:
            return best
        best = moved


def _moves(setting: Setting, groups: Groups) -> list[Groups]:
    """All plans that differ in one task's place, order or group and keep every task behind those that it needs."""
    found: list[Groups] = []
    for v in (v for group in groups for v, _ in group):
        rest = [tuple(call for call in group if call[0] != v) for group in groups]
        for q in setting.jobs[v].seconds:
            slots = [(k, i) for k, group in enumerate(rest) for i in range(len(group) + 1)]
            plans = [(*rest[:k], (*rest[k][:i], (v, q), *rest[k][i:]), *rest[k + 1 :]) for k, i in slots]
            plans += [(*rest[:k], ((v, q),), *rest[k:]) for k in range(len(rest) + 1)]  # a group of its own
            found += [tuple(group for group in plan if group) for plan in plans]
    return [plan for plan in dict.fromkeys(found) if plan != groups and _is_ordered(setting, plan)]


def _is_ordered(setting: Setting, groups: Groups) -> bool:
    at = {v: (k, i) for k, group in enumerate(groups) for i, (v, _) in enumerate(group)}
    return all(at[u] < at[v] for v in at for u in setting.jobs[v].needs if u in at)


PLANNERS: Mapping[str, Callable[[Setting, TaskGraph], GearPlan]] = {
    "gear": gear, "levels": by_levels, "critical_path": lambda setting, graph: by_critical_path(setting),
    "single": lambda setting, graph: single(setting), "home": lambda setting, graph: at_home(setting), "exact": exact,
}  # fmt: skip
