"""What every method must keep, whatever it does: it learns, its record is a function of the seed, meters conserve, losses end nothing, data stay
where they are, and what leaves a device is what its page says.

Methods are found by themselves; a new one needs no entry here. Its page names what its devices send in a table under "What leaves a device":

    | function | bytes |
    |---|---|
    | `client` | `model + 8` |

one line per device function whose value leaves a client; `model` are the model's bytes, `rows` those of the client's own data. `<= model` is for
values whose size depends on the client or the round.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import airloom.methods
from airloom import runner
from airloom.engines import executors
from airloom.engines.price import Pricer
from airloom.engines.simulated import Simulation
from airloom.models import zoo
from airloom.models.lora import lora
from airloom.network.cell import Cell
from airloom.network.churn import Churn, TraceChurn
from airloom.network.device import RadioEnergy
from airloom.network.network import Network
from airloom.program.method import Method
from airloom.records import checkpoint
from airloom.runner import Options, Run, Runner
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task
from airloom.tasks.task import Task
from tests.methods.quadratic import least_squares
from tests.worlds import device, world

CLIENTS = ["a", "b", "c", "d"]
ROUNDS = 8
PAGES = Path(__file__).resolve().parents[2] / "docs" / "methods"
# small enough for a test, where a method has such a field; everything else is its default
SMALL: Mapping[str, Any] = MappingProxyType(
    {"local_steps": 4, "group_rounds": 2, "batch_size": 8, "buffer": 2, "lr": 0.2, "floor": 0.8, "delay": 0,
     "groups": 2}
)  # fmt: skip

# flexlora: its pairs have orthonormal rows, so that the same step goes further than from rows as they are drawn; tequila: AdamW's steps are its rate;
# splitfrozen cuts above no layer: two of the models have only one; cofed goes on after its one round, contextlora after its passes
OWN: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "flexlora": {"lr": 0.12}, "splitfrozen": {"cut": 0, "lr": 0.02}, "tequila": {"lr": 0.05, "rounds": 60},
        "cofed": {"rounds": 60, "local_epochs": 5, "retrain_epochs": 1, "retrain_lrs": (0.5,), "retrain_batch_size": 32},
        "contextlora": {"lr": 0.05, "passes": 60},
        "dzopa": {"estimates": 1, "gamma": 0.25, "lr": 0.4}, "zone_s": {"clients": 4, "estimates": 1, "directions": 20, "law": "sphere", "lr": 0.06},
    }
)  # fmt: skip
LONG: Mapping[str, int] = MappingProxyType({"zone_s": 30})  # rounds to learn in, where a round is one noisy step
POOLED = frozenset({"cofed"})  # they learn from a public pool, and look at validation rows of each client


def found() -> dict[str, type[Method]]:
    """Every method of the package, by module."""
    methods = {}
    for info in pkgutil.iter_modules(airloom.methods.__path__):
        module = importlib.import_module(f"airloom.methods.{info.name}")
        for thing in vars(module).values():
            if isinstance(thing, type) and issubclass(thing, Method) and thing.__module__ == module.__name__:
                methods[info.name] = thing
    return methods


METHODS = found()
every_method = pytest.mark.parametrize("name", METHODS)
KINDS = {"quadratic": "regression", "logistic": "classification", "network": "classification"}
every_task_of_it = pytest.mark.parametrize(("name", "task_name"), [(n, t) for n in METHODS for t, kind in KINDS.items() if kind in METHODS[n].kinds])


def make(name: str) -> Method:
    """A method with small fields."""
    cls = METHODS[name]
    return cls(**{**{f.name: SMALL[f.name] for f in fields(cls) if f.name in SMALL}, **OWN.get(name, {})})


# --- worlds ------------------------------------------------------------------------------------------------------------------------------

W = np.array([0.5, -0.4, 0.3])  # what all clients of the quadratic have in common


@cache
def tasks(task_name: str, adapts: bool = False) -> Task:
    """The three tasks; shards differ in size and kind between clients. Methods that train LoRA pairs get them around each task's model."""
    if adapts:
        plain = tasks(task_name)
        head = ["classifier"] if task_name == "network" else []  # trained in full
        alpha = {"quadratic": 4.0, "logistic": 6.0, "network": 12.0}[task_name]
        return replace(plain, model=lora(plain.model, rank=4, alpha=alpha, train=head, values=plain.model.initial(0)))
    if task_name == "quadratic":
        rng = np.random.default_rng(0)
        inputs = {n: rng.normal(size=(16 + 8 * k, 3)) * (0.6 + 0.2 * k) for k, n in enumerate(CLIENTS)}
        return least_squares({n: (A, A @ (W + 0.05 * rng.normal(size=3)) + 0.05 * rng.normal(size=len(A))) for n, A in inputs.items()})
    model = zoo.softmax_regression(inputs=64) if task_name == "logistic" else zoo.mlp(inputs=64, hidden=(12,))
    return make_task(TaskSettings(dataset="digits", limit=600, partition="dirichlet", alpha=1.0), CLIENTS, seed=0, model=model)


def task_of(name: str, task_name: str) -> Task:
    """The task that a method is run on."""
    task = tasks(task_name, METHODS[name].adapts)
    return replace(task, public_x=task.dataset.x_validation, validation_share=0.2) if name in POOLED else task


def smallest(name: str) -> str:
    """The smallest task that a method can learn."""
    return next(task_name for task_name, kind in KINDS.items() if kind in METHODS[name].kinds)


@cache
def best(task_name: str) -> float:
    """The least test loss that any model of the quadratic reaches (its test rows are its training rows)."""
    data = tasks(task_name).dataset
    optimum = np.linalg.lstsq(data.x_test, data.y_test, rcond=None)[0]
    return float(np.mean((data.x_test @ optimum - data.y_test) ** 2))


def network(task: Task, churn: Churn | None = None, on_leave: Any = "keep") -> Network:
    """Cloud, two base stations, four clients: a and b share a cell, c and d have links. A round takes some seconds, radio as much as compute."""
    size = task.model.nbytes
    radio = RadioEnergy.measured("lte")
    fast = device(4e6, radio=radio) if task.model.size > 3 else device(500.0, radio=radio)
    slow = device(1e6, radio=radio) if task.model.size > 3 else device(125.0, radio=radio)
    cell = Cell(name="cell", bandwidth_hz=8.0 * size, sharing="tdma")
    return world(
        {("e", "hub"): 4.0 * size, ("f", "hub"): 8.0 * size, ("a", "e"): cell, ("b", "e"): cell, ("c", "f"): 2.0 * size, ("d", "f"): 0.5 * size},
        devices={"a": fast, "b": slow, "c": slow, "d": fast, "hub": device(1e12), "e": device(1e10), "f": device(1e10)},
        latency_s=0.01,
        churn=churn,
        detect_s=0.05,
        on_leave=on_leave,
        framing_bytes=20,
    )


@dataclass
class Done:
    """A finished run and the simulation that it ran on."""

    run: Run
    sim: Simulation


def go(
    name: str, task_name: str, *, seed: int = 0, rounds: int = ROUNDS, churn: Churn | None = None, on_leave: Any = "keep", out: Path | None = None,
    frozen: Any = None,
) -> Done:  # fmt: skip
    """Run a method through the runner."""
    task = task_of(name, task_name)
    scenario = Scenario(name="two levels", network=network(task, churn, on_leave), task=task, seed=seed)
    sims: list[Simulation] = []

    def simulation(*args: Any, **rest: Any) -> Simulation:
        sims.append(Simulation(*args, **rest))
        return sims[-1]

    options = Options(budget={"rounds": rounds}, executor="loop", log_payloads=out is not None, checkpoint_every_s=0.0 if out is not None else None)
    # without the collections at a run's start and between rounds, which take most of the time of runs as short as these
    with patch.object(runner, "Simulation", simulation), patch("gc.collect", lambda *_: 0):
        run = Runner(scenario, make(name), seed, options, out, {"method": name, "seed": seed, "scenario": scenario.name}, None).run(frozen)
    return Done(run, sims[0])


@cache
def base(name: str, task_name: str) -> Done:
    """The run that several tests look at."""
    return go(name, task_name)


@cache
def three_rounds_s(name: str) -> float:
    """Seconds of three rounds on the smallest task when nobody leaves."""
    return go(name, smallest(name), rounds=3).run.summary["seconds"]


# --- it learns ---------------------------------------------------------------------------------------------------------------------------


@every_task_of_it
def test_it_improves_the_metric(name: str, task_name: str) -> None:
    done, task = go(name, task_name, rounds=LONG[name]) if name in LONG else base(name, task_name), task_of(name, task_name)
    assert done.run.status == "budget"
    first, last = task.evaluate(task.model.initial(0)), done.run.points[-1]
    if task_name == "quadratic":
        assert last["mse"] - best(task_name) < 0.7 * (first["mse"] - best(task_name))
    else:
        assert last["accuracy"] > first["accuracy"] + 0.1
        assert last["loss"] < first["loss"]


# --- its record is a function of the seed ------------------------------------------------------------------------------------------------


@every_task_of_it
def test_the_same_seed_gives_the_same_record_and_another_one_another(name: str, task_name: str) -> None:
    done, again, other = base(name, task_name), go(name, task_name), go(name, task_name, seed=1, rounds=3)
    assert again.run.points == done.run.points
    assert again.run.summary == done.run.summary
    assert other.run.points != done.run.points[:3]


@every_method
def test_it_goes_on_from_a_checkpoint(name: str, tmp_path: Path) -> None:
    go(name, "logistic", rounds=3, out=tmp_path / "half")
    rest = go(name, "logistic", frozen=checkpoint.load(tmp_path / "half" / "checkpoint.safetensors"))
    whole = base(name, "logistic")
    assert rest.run.points == whole.run.points[3:]
    assert rest.run.summary["digest"] == whole.run.summary["digest"]


# --- meters conserve ---------------------------------------------------------------------------------------------------------------------


def check_meters(done: Done) -> None:
    """Sums over links and devices are the totals; nothing runs backward; nobody works more than there is time and room."""
    sim, points, summary = done.sim, done.run.points, done.run.summary
    by_link: dict[str, float] = defaultdict(float)
    for wire in sim.wires.wires.values():
        by_link[wire.link.direction] += wire.bytes
    meters = {name: site.meter for name, site in sim.sites.items()}
    flying, radio_j = sim.wires.under_way()
    for direction, total in sim.totals.bytes_by.items():
        assert by_link[direction] == pytest.approx(total, rel=1e-9)
        assert summary[f"bytes_{direction}"] == pytest.approx(total + flying.get(direction, 0.0), rel=1e-9)
    assert sum(m.bytes_up for m in meters.values()) == pytest.approx(sim.totals.bytes_by["up"], rel=1e-9)
    assert sum(m.bytes_down for m in meters.values()) == pytest.approx(sim.totals.bytes_by["down"], rel=1e-9)
    joules = {is_server: sum(m.compute_j + m.radio_j for m in meters.values() if m.is_server == is_server) for is_server in (False, True)}
    assert joules[False] == pytest.approx(sim.totals.joules, rel=1e-9)
    assert joules[True] == pytest.approx(sim.totals.joules_server, rel=1e-9)
    assert summary["joules"] >= joules[False] + radio_j - 1e-9
    for name, site in sim.sites.items():
        running = sum(sim.kernel.now - (call.started_s or 0.0) for call in sim.running if call.site is site)
        for resource, busy_s in site.meter.busy_s.items():
            assert busy_s + running <= sim.kernel.now * site.device.slots[resource] * (1 + 1e-9), name
        compute_j = (site.device.power_w or 0.0) * sum(site.meter.busy_s.values())
        # busy seconds are differences of two readings of the clock, each rounded to its last place; no run here has 10,000 calls at a place
        rounding_j = 1e4 * np.spacing(sim.kernel.now) * (site.device.power_w or 0.0)
        assert site.meter.compute_j == pytest.approx(compute_j, rel=1e-9, abs=rounding_j)
    for key in ("seconds", "bytes_up", "bytes_down", "bytes_backhaul", "bytes_peer", "joules", "joules_idle", "joules_server"):
        series = np.array([p[key] for p in [*points, summary]])
        assert (np.diff(series) >= -1e-9 * np.abs(series[1:])).all(), key


@every_task_of_it
def test_meters_conserve(name: str, task_name: str) -> None:
    check_meters(base(name, task_name))


# --- losses end nothing ------------------------------------------------------------------------------------------------------------------


def away(**times: tuple[float, ...]) -> TraceChurn:
    """Places that leave at their first time, return at the second, and so on."""
    return TraceChurn(changes={place: [(time_s, k % 2 == 1) for k, time_s in enumerate(row)] for place, row in times.items()})


@every_method
def test_it_survives_lost_devices(name: str) -> None:
    # a leaves for good in the middle, b is away for a while, d comes late; then edge server f too is away for a while
    whole_s = base(name, "logistic").run.summary["seconds"]
    churn = away(a=(0.4 * whole_s,), b=(0.2 * whole_s, 0.5 * whole_s), d=(0.0, 0.3 * whole_s), f=(0.6 * whole_s, 0.7 * whole_s))
    done, again = (go(name, "logistic", churn=churn, rounds=3 * ROUNDS) for _ in range(2))
    assert done.run.status == "budget"
    check_meters(done)
    assert done.run.points == again.run.points
    task = task_of(name, "logistic")
    assert done.run.points[-1]["accuracy"] > task.evaluate(task.model.initial(0))["accuracy"] + 0.1


@pytest.mark.parametrize("place", ["b", "c", "e"])
@every_method
def test_it_survives_a_loss_at_any_time(name: str, place: str) -> None:
    """A client, or an edge server, leaves at each of several times of a short run, and comes back or not, its state kept or wiped."""
    whole_s = three_rounds_s(name)
    for k, part in enumerate((0.0, 0.07, 0.21, 0.36, 0.5, 0.64, 0.79, 0.93)):
        times = (part * whole_s,) if k % 2 else (part * whole_s, (part + 0.15) * whole_s)
        done = go(name, smallest(name), rounds=4, churn=away(**{place: times}), on_leave="wipe" if k % 4 == 2 else "keep")
        check_meters(done)
        assert np.isfinite([value for p in done.run.points for value in p.values() if isinstance(value, float)]).all()


@every_method
def test_it_waits_when_everybody_is_gone(name: str) -> None:
    # away from 0.4 to 2 of the seconds of three rounds: clients spend nothing meanwhile; eight rounds end later, unless the server needs no clients
    gone_s, back_s = 0.4 * three_rounds_s(name), 2.0 * three_rounds_s(name)
    done = go(name, smallest(name), rounds=8, churn=away(**dict.fromkeys(CLIENTS, (gone_s, back_s))))
    check_meters(done)
    assert (done.run.status, done.run.summary["rounds"]) == ("budget", 8)
    meanwhile = {(p["bytes_up"], p["bytes_down"], p["joules"]) for p in done.run.points if gone_s < p["seconds"] < back_s}
    assert len(meanwhile) <= 1
    assert done.run.summary["seconds"] > back_s or len(meanwhile) == 1


# --- data stay where they are ------------------------------------------------------------------------------------------------------------


@every_method
def test_no_device_sees_anothers_data(name: str) -> None:
    """Whatever a call asks the task for is data of the place where it runs."""
    running: list[str] = []
    asked: list[tuple[str, str]] = []
    run_job, dry_run, data, sample_ids = executors.run_job, Pricer._dry_run, Task.data, Task.sample_ids

    @contextmanager
    def at(place: str) -> Iterator[None]:
        running.append(place)
        yield
        running.pop()

    def watched_job(job: Any, *rest: Any) -> Any:
        with at(job.place):
            return run_job(job, *rest)

    def watched_dry_run(self: Pricer, fn: Any, args: Any, site: Any, *rest: Any) -> Any:
        with at(site.name):
            return dry_run(self, fn, args, site, *rest)

    def watched_data(self: Task, device: str, *rest: Any) -> Any:
        asked.extend((place, device) for place in running[-1:])
        return data(self, device, *rest)

    def watched_ids(self: Task, device: str, *rest: Any) -> Any:
        asked.extend((place, device) for place in running[-1:])
        return sample_ids(self, device, *rest)

    with (
        patch.object(executors, "run_job", watched_job),
        patch.object(Pricer, "_dry_run", watched_dry_run),
        patch.object(Task, "data", watched_data),
        patch.object(Task, "sample_ids", watched_ids),
    ):
        go(name, "logistic", rounds=3)
    assert {place for place, _ in asked} == set(CLIENTS)
    assert all(place == device for place, device in asked)


@every_method
def test_what_leaves_a_device_is_what_its_page_says(name: str, tmp_path: Path) -> None:
    done = go(name, "logistic", rounds=3, out=tmp_path / "run")
    task = task_of(name, "logistic")
    says = leaves_a_device((PAGES / f"{name}.md").read_text())
    seen: dict[str, set[str]] = defaultdict(set)
    by_direction: dict[str, float] = defaultdict(float)
    for line in map(json.loads, (tmp_path / "run" / "payloads.jsonl").read_text().splitlines()):
        by_direction[done.sim.network.links[line["from"], line["to"]].direction] += line["bytes"]
        if line["from"] in CLIENTS:
            assert line["kind"] == "value", line  # a client gives no orders
            function = line["function"].split(".")[-1]
            assert function in says, f"{line}: the page says that only {sorted(says)} leave a device"
            size, most = line["bytes"] - 20, size_of(says[function].removeprefix("<="), task, line["from"])  # 20 bytes of framing
            assert size == most or (says[function].startswith("<=") and size < most), line
            seen[function].add(line["from"])
    assert seen.keys() == says.keys()
    # the log leaves nothing out: it holds every byte of the messages that are through
    for direction, total in done.sim.totals.bytes_by.items():
        assert by_direction[direction] == pytest.approx(total, rel=1e-9)


def leaves_a_device(page: str) -> dict[str, str]:
    """The page's table of what leaves a device: bytes by function."""
    section = re.search(r"^## What leaves a device$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert section is not None, 'the page has no section "What leaves a device"'
    return dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", section[1], re.MULTILINE))


def size_of(text: str, task: Task, client: str) -> int:
    """Bytes of a sum of products such as `2 * model + 8`."""
    rows = task.data(client).all()
    known = {"model": task.model.nbytes, "rows": rows.x.nbytes + rows.y.nbytes}  # type: ignore[union-attr]
    total = 0
    for term in text.split("+"):
        product = 1
        for factor in term.split("*"):
            product *= known[factor.strip()] if factor.strip() in known else int(factor)
        total += product
    return total
