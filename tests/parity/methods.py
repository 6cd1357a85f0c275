"""Methods for the tests of engines on real machines: one that speaks every verb, one whose rounds can be held to be disturbed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from airloom.models.params import Params
from airloom.program.here import Here
from airloom.program.method import Method, State
from airloom.program.node import Node
from airloom.program.reducer import SUM


@dataclass(frozen=True, kw_only=True)
class EveryVerb(Method):
    """Each round uses every verb once and reports numbers that are the same on every engine."""

    shape = "tree"

    def init(self, node: Node, x: Params) -> State:
        return {"x": x, "kept": None, "t": 0}

    def round(self, cloud: Node, s: State) -> State:
        names, x = cloud.clients, s["x"]
        one, other = names[:2]
        told = cloud.put({"whole": x, "t": s["t"]})
        made = cloud.map(self.split, names, told["whole"], each=[[float(i)] for i in range(len(names))])
        ups = cloud.fetch([ref["number"] for ref in made])  # one part moves, the other stays
        passed = cloud.call(self.add, other, made[0]["update"], made[1]["update"])  # from client to client
        groups = [cloud.program(edge, self.group, told["whole"]) for edge in cloud.children]
        came, rest, lost = cloud.first(groups, len(groups), timeout_s=120.0)
        summed = cloud.reduce([ref["sum"] for ref in groups], over=SUM)
        late = cloud.call(self.nap, one, 30.0)
        none, flying, _ = cloud.first([late], 1, timeout_s=0.01)
        at_home = cloud.fetch(cloud.call(self.count, cloud.name, {"a": [1, 2.5], "b": (None, True, "text")}))
        side = cloud.fetch(cloud.call(self.state_of, one, on=None, priority=0))
        filler = cloud.fetch(cloud.call(self.state_of, other, priority=-1))
        began_s = cloud.now_s
        cloud.sleep(began_s + 0.02)
        estimate = cloud.estimate(self.split, one, x, 0.0)
        x = x + cloud.fetch(passed) / 100
        cloud.report(
            round=s["t"], model=x, ups=ups, came=len(came), rest=len(rest), lost=len(lost), late=len(none), flying=len(flying), home=at_home,
            summed=summed.norm(), side=side, filler=filler, slept=cloud.now_s - began_s >= 0.02, flops=estimate.flops, bytes_down=estimate.bytes_down,
            up=cloud.network.up_bps[one], samples=cloud.network.samples[one], memory=cloud.network.memory_bytes[one],
            draw=float(cloud.rng("test", s["t"]).random()), neighbors=len(cloud.neighbors),
            stamps=all(ref.made_s is not None and ref.arrived_s is not None and ref.made_s <= ref.arrived_s for ref in groups),
            kept=-1.0 if s["kept"] is None else cloud.fetch(s["kept"]["sum"]).norm(),
        )  # fmt: skip
        return {"x": x, "kept": groups[0], "t": s["t"] + 1}

    def group(self, edge: Node, x: Params) -> dict[str, Any]:
        xs = edge.map(self.trained, edge.children, edge.put(x))
        inner = edge.fetch(edge.program(edge.name, self.inner, 3))
        return {"sum": edge.reduce(xs) * (inner / 3), "inner": inner, "draw": float(edge.rng("edge").random())}

    def inner(self, edge: Node, n: int) -> int:
        return n if n == 0 else edge.fetch(edge.program(edge.name, self.inner, n - 1)) + 1

    def split(self, here: Here, x: Params, i: float) -> dict[str, Any]:
        y = here.train(x, steps=1, lr=0.1, batch_size=4)
        return {"update": y - x, "number": i + float(here.rng("n").random())}

    def trained(self, here: Here, x: Params) -> Params:
        here.state["count"] = here.state.get("count", 0) + 1
        return here.train(x, steps=1, lr=0.1, batch_size=4)

    def add(self, here: Here, a: Params, b: Params) -> Params:
        return a + b

    def nap(self, here: Here, seconds: float) -> None:
        here.cost(seconds=0.2)
        time.sleep(0.2)

    def count(self, here: Here, tree: Any) -> float:
        here.cost(seconds=0.0)
        return tree["a"][0] + tree["a"][1] + len(tree["b"])

    def state_of(self, here: Here) -> int:
        here.cost(seconds=0.0)
        return int(here.state.get("count", 0))


@dataclass(frozen=True, kw_only=True)
class Patient(Method):
    """Averages whoever comes; reports who was sent to, who came and who was lost.

    Arguments:
        work_s: of a client in a round.
        timeout_s: longest wait per round; None waits for everybody.
        gate: folder of a `Gate`, which may hold rounds.
        is_until_back: end two rounds after somebody who was lost has come again.
        begins, works: in a simulation, when each round begins and how long its clients work, as they did in a measured run.
    """

    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray", "flower")

    work_s: float = 0.05
    timeout_s: float | None = None
    gate: str = ""
    is_until_back: bool = False
    begins: tuple[float, ...] = ()
    works: tuple[float, ...] = ()

    def init(self, node: Node, x: Params) -> State:
        return {"x": x, "t": 0, "all": len(node.clients), "has_lost": False, "whole": 0}

    def done(self, node: Node, s: State) -> bool:
        return self.is_until_back and s["whole"] == 2

    def round(self, server: Node, s: State) -> State:
        if self.begins:
            server.sleep(self.begins[s["t"]])
        began_s, sent = server.now_s, server.clients
        refs = server.map(self.client, sent, s["x"], s["t"])
        came, late, lost = server.first(refs, len(refs), self.timeout_s)
        cohort = sorted(ref.place for ref in came)
        x = server.reduce([ref for ref in refs if ref.place in cohort], like=s["x"]) if cohort else s["x"]
        server.report(
            round=s["t"], model=x, began_s=began_s, sent=" ".join(sent), came=" ".join(cohort), lost=" ".join(sorted(ref.place for ref in lost)),
            late=" ".join(sorted(ref.place for ref in late)),
        )  # fmt: skip
        has_lost = s["has_lost"] or bool(lost)
        whole = s["whole"] + 1 if has_lost and len(cohort) == s["all"] else 0
        return {"x": x, "t": s["t"] + 1, "all": s["all"], "has_lost": has_lost, "whole": whole}

    def client(self, here: Here, x: Params, t: int) -> Params:
        here.cost(seconds=self.works[t] if self.works else self.work_s)
        if not self.works:
            time.sleep(self.work_s)
            if self.gate:
                Gate(Path(self.gate)).go_through(here.name, t)
        count = here.state["count"] = here.state.get("count", 0) + 1
        return here.train(x, steps=1, lr=0.1 / count, batch_size=4)


@dataclass(frozen=True)
class Gate:
    """Where clients of a round stop until a test has seen what it waits for: files `t.hold` and, of each client that is there, `t.NAME`."""

    folder: Path

    def hold(self, *rounds: int) -> None:
        self.folder.mkdir(exist_ok=True)
        for t in rounds:
            (self.folder / f"{t}.hold").touch()

    def release(self, *rounds: int) -> None:
        for t in rounds:
            (self.folder / f"{t}.hold").unlink(missing_ok=True)

    def go_through(self, name: str, t: int) -> None:
        ends_s = time.monotonic() + 600.0
        while (self.folder / f"{t}.hold").exists():
            (self.folder / f"{t}.{name}").touch()
            if time.monotonic() > ends_s:
                raise TimeoutError(f"round {t} is held for ever")
            time.sleep(0.02)

    def is_at(self, t: int, *names: str) -> bool:
        """Whether all of these are at work in a round."""
        return all((self.folder / f"{t}.{name}").exists() for name in names)


def until(is_so: Callable[[], bool], what: str, timeout_s: float = 300.0) -> None:
    """Wait until something is seen."""
    ends_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < ends_s, f"{what} did not come within {timeout_s:g} s"
        time.sleep(0.02)


@dataclass(frozen=True, kw_only=True)
class Broken(Method):
    """Its clients fail in the second round."""

    def init(self, node: Node, x: Params) -> State:
        return {"x": x, "t": 0}

    def round(self, server: Node, s: State) -> State:
        x = server.reduce(server.map(self.client, server.clients, s["x"], s["t"]))
        server.report(round=s["t"], model=x)
        return {"x": x, "t": s["t"] + 1}

    def client(self, here: Here, x: Params, t: int) -> Params:
        if t == 1:
            raise ValueError("no way")
        return here.train(x, steps=1, lr=0.1, batch_size=4)


@dataclass(frozen=True, kw_only=True)
class Shares(Method):
    """Cuts a band, which real links do not let anybody do."""

    def init(self, node: Node, x: Params) -> State:
        return {"x": x, "refs": node.map(self.client, node.clients, share_hz=[1.0] * len(node.clients))}

    def round(self, server: Node, s: State) -> State:
        return s

    def client(self, here: Here) -> None:
        here.cost(seconds=0.0)
