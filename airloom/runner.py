"""A run: scenario + method + engine + seed, executed, and the record it leaves."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from airloom.clock.span import Span
from airloom.engines.executors import make_executor
from airloom.engines.freeze import freeze, thaw
from airloom.engines.measured import MeasuredWorld
from airloom.engines.simnode import SimNode
from airloom.engines.simulated import Simulation
from airloom.errors import AirloomError, RecordError, RunFailed, ScenarioError, Unsupported
from airloom.models.estimator import Fitted
from airloom.models.fast import RUNGS, Fast
from airloom.models.params import Params
from airloom.models.products import routed
from airloom.program.method import Method, Service
from airloom.program.node import Node
from airloom.program.protection import Unprotected, has_releases
from airloom.program.tree import leaves, map_leaves
from airloom.records import checkpoint
from airloom.records.ledger import Ledger
from airloom.records.record import RecordWriter, direction_of, reached
from airloom.records.timeline import FILE as TIMELINE
from airloom.records.timeline import TimelineWriter
from airloom.records.world import describe_world, save_world
from airloom.scenarios.scenario import BUDGETS, Scenario
from airloom.tasks import evaluate

Progress = Callable[[Mapping[str, Any]], None]
CLIENTS = 2_000  # most clients whose own metrics a summary lists
Frozen = tuple[Mapping[str, Any], Mapping[str, torch.Tensor]]  # a checkpoint: JSON and tensors
SMOOTH = 5  # evaluations in the mean that a target asks for (design 4.13)
ENGINES = ("simulated", "ray", "flower")
MEASURED = "measured.jsonl"  # what a run on real machines saw, line by line
STILL_ROUNDS = 10_000  # rounds at one instant, while work is under way, after which a method is said to stand still
CHECKPOINT_PAUSE = 20.0  # times what the last one took before the next one is written (ours: at most a twentieth of the time)
FULL_COLLECTION = 8  # rounds between full collections: what a state keeps for some rounds outlives the young generation


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run is executed; nothing here changes what is computed, except where it ends and how often it is evaluated.

    Arguments:
        executor: "auto", "loop", "pool" or "stacked" (training calls of many devices as one, for GPUs).
        device: torch device of training steps: "cpu", "cuda" or "cuda:1". All else, evaluation too, stays on the CPU.
        fast: rung of training steps: "auto", "off" (the eager loop), "replay", "compile" or "kernel"; see `airloom.models.fast`.
        workers: processes of the pool; None: one per core.
        target: (metric, value), or None.
        stop_at_target: end the run when the target is reached.
        budget: any of seconds, bytes, joules, rounds; the run ends at the round boundary after the first one is spent.
        eval_every: rounds between evaluations.
        checkpoint_every_s: least wall seconds between checkpoints; 0 writes one at every round, None none.
        log_payloads: write a line per message that crossed a link; on real machines that is always in `measured.jsonl`.
        timeline: first rounds whose calls and messages are written to `timeline.jsonl`; 0 for none.
        address: HOST:PORT of the cluster that a run on real machines joins; None starts one here.
    """

    executor: str = "auto"
    fast: str = "auto"
    device: str = "cpu"
    workers: int | None = None
    target: tuple[str, float] | None = None
    stop_at_target: bool = False
    budget: Mapping[str, float] | None = None
    eval_every: int = 1
    checkpoint_every_s: float | None = 30.0
    log_payloads: bool = False
    timeline: int = 10
    address: str | None = None

    def __post_init__(self) -> None:
        if self.timeline < 0:
            raise ScenarioError(f"Options.timeline: got {self.timeline}; allowed are integers >= 0, the number of rounds to record")
        if self.eval_every < 1:
            raise ScenarioError(f"Options.eval_every: got {self.eval_every}; allowed are integers >= 1")
        if self.fast not in RUNGS:
            raise ScenarioError(f"Options.fast: got {self.fast!r}; allowed are {', '.join(RUNGS)}")
        for name, amount in (self.budget or {}).items():
            if name not in BUDGETS or not amount > 0:
                raise ScenarioError(f"Options.budget[{name!r}]: got {amount!r}; allowed are positive amounts of {', '.join(BUDGETS)}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run leaves: its record's folder (if any), its points, its summary and the last reported model."""

    out: Path | None
    header: Mapping[str, Any]
    points: list[dict[str, Any]]
    summary: Mapping[str, Any]
    model: Any

    @property
    def status(self) -> str:
        """How it ended: done, target, budget, failed or interrupted."""
        return str(self.summary["status"])


class Runner:
    """Drives one run, simulated (`run`) or on real machines (`measure`): rounds, evaluation, budgets, targets, record and checkpoints."""

    def __init__(
        self,
        scenario: Scenario,
        method: Method | Service,
        seed: int,
        options: Options,
        out: Path | None,
        header: Mapping[str, Any],
        progress: Progress | None,
    ) -> None:
        self.scenario = scenario
        self.method = method
        self.seed = seed
        self.options = options
        self.out = out
        self.header = header
        self.progress = progress
        self.budget = dict(options.budget if options.budget is not None else scenario.budget)
        if options.target is not None and options.target[0].removeprefix("validation_") not in scenario.task.metrics:
            allowed = ", ".join(scenario.task.metrics)
            raise ScenarioError(f"target '{options.target[0]}': not a metric of task '{scenario.task.name}'; allowed are {allowed}")
        has_end = isinstance(method, Service) or self.budget or options.stop_at_target or type(method).done is not Method.done
        if not has_end:
            raise ScenarioError(f"run of {type(method).__name__}: got no end; give a budget (such as rounds=100), or a target and stop_at_target")
        self.points: list[dict[str, Any]] = []
        self.window: list[dict[str, Any]] = []
        self.reports = 0
        self.ledger = Ledger()
        self.model: Any = None
        self.personal: dict[str, Any] = {}  # the models that devices reported last, if each has its own
        self.last: dict[str, Any] = {}  # the last point that was evaluated
        self.is_reached = False
        self.writer: RecordWriter | None = None
        self.wall_s = time.monotonic()
        self.wait_s = 0.0  # before the next checkpoint
        self.state: Any = None
        self.reason = ""
        self.payloads: Any = None
        self.timeline: TimelineWriter | None = None
        self.world: Simulation | MeasuredWorld | None = None

    # --- the run ----------------------------------------------------------------------------------------------------------------------

    def run(self, frozen: Frozen | None = None, is_resumed: bool = False) -> Run:
        """Run to an end; a failure is recorded before it is raised."""
        scenario, options = self.scenario, self.options
        check_shape(self.method, scenario)
        fast = Fast(options.fast)
        executor = make_executor(options.executor, options.workers, scenario.network, scenario.task, self.seed, self.method, fast, options.device)
        log = self._log_payload if options.log_payloads and self.out is not None else None
        span = self._span if options.timeline and self.out is not None else None
        sim = self.world = Simulation(scenario.network, scenario.task, self.seed, executor, self._report, log, span)
        sim.values.is_counted = has_releases(self.method)
        self._open_record(
            {**self.header, "executor": executor.name, "fast": fast.name, "device": options.device, "onednn": sorted(routed())}, is_resumed
        )
        if self.out is not None:
            self.timeline = self._open_timeline(None if frozen is None else frozen[0]["extra"])
        if self.timeline is None:
            sim.stop_watching()
        state, number = None, None
        if frozen is not None:
            tree, tensors = frozen
            kept, number = thaw(sim, self.method, tree, tensors, {scenario.task.model.key: scenario.task.model})
            state = self._take_up(kept, tree["extra"])
        if self.writer is not None and is_resumed:
            self.writer.resume(round=sim.round, seconds=sim.kernel.now)
        root = scenario.network.root
        over: list[BaseException | None] = []
        text = self._text(sim, state)
        program = sim.kernel.spawn(
            f"{type(self.method).__name__} at '{root}'", root, None, lambda: text(node), lambda _p, _v, error: over.append(error), number
        )
        node = SimNode(sim, sim.sites[root], program)
        status, error = "failed", None
        was_enabled = gc.isenabled()
        gc.freeze()
        gc.disable()  # the clock makes millions of short-lived records; cycles are collected between rounds
        try:
            sim.kernel.run(lambda: bool(over))
            if not over:
                raise RunFailed(f"deadlock at {sim.kernel.now:.6g} s: nothing is left to happen, but {_waiting(sim)}")
            if over[0] is not None:
                raise over[0]
            status = self.reason
        except KeyboardInterrupt as caught:
            status, error = "interrupted", caught
        except RecordError:
            raise
        except AirloomError as caught:
            error = caught
        except BaseException as caught:
            error = RunFailed(
                f"{type(self.method).__name__} in round {sim.numerics.round} at {sim.kernel.now:.6g} s: {type(caught).__name__}: {caught}"
            )
            error.__cause__ = caught
        finally:
            gc.unfreeze()
            if was_enabled:
                gc.enable()
            executor.close()
            if self.payloads is not None:
                self.payloads.close()
            if self.timeline is not None:
                self.timeline.close()
        more = {
            "flushes": sim.numerics.flushes,
            "calls": sim.numerics.flushed_calls,
            "fallbacks": sorted(executor.fast.fallbacks),
            **self._devices(sim.device_totals()),
        }
        return self._end(self._summary(sim.stamp(), sim.round, status, error) | more, status, error)

    def measure(
        self, world: MeasuredWorld, frozen: tuple[Mapping[str, Any], Mapping[str, torch.Tensor]] | None = None, is_resumed: bool = False
    ) -> Run:
        """Run on real machines to an end; a failure is recorded before it is raised. Closes the world."""
        self.world = world
        world.on_report = self._report
        status, error, stamp, devices = "failed", None, None, {}
        try:
            self._open_record({**self.header, "fast": "auto"}, is_resumed)
            state = None
            if frozen is not None:
                tree, tensors = frozen
                kept = world.thaw({name: bytes(tensor.numpy()) for name, tensor in tensors.items()})
                world.round = tree["round"]
                state = self._take_up(kept, tree["extra"])
            if self.writer is not None and is_resumed:
                self.writer.resume(round=world.round, seconds=world.clock.now_s())
            self._measured_text(world, state)
            status, stamp, devices = self.reason, world.stamp(), world.device_totals()
            self._log_measured(world)
        except KeyboardInterrupt as caught:
            status, error = "interrupted", caught
        except RecordError:
            raise
        except AirloomError as caught:
            error = caught
        except BaseException as caught:
            error = RunFailed(f"{type(self.method).__name__} in round {world.round}: {type(caught).__name__}: {caught}")
            error.__cause__ = caught
        finally:
            world.error = error
            world.close()
        return self._end(self._summary(stamp or world.last_stamp, world.round, status, error) | self._devices(devices), status, error)

    def _measured_text(self, world: MeasuredWorld, s: Any) -> None:
        """The root program on real machines: init, rounds until an end, finish."""
        method, node = self.method, world.root
        if isinstance(method, Service):
            method.run(node)
            self.reason = "done"
            return
        if s is None:
            s = method.init(node, self.scenario.task.model.initial(self.seed))
        while not self._is_over(world, node, s):
            s = method.round(node, s)
            world.round += 1
            world.end_round(s)
            self._log_measured(world)
            self._checkpoint_measured(world, s)
        method.finish(node, s)

    def _open_record(self, header: Mapping[str, Any], is_resumed: bool) -> None:
        if self.out is None:
            return
        self.writer = RecordWriter.reopen(self.out) if is_resumed else RecordWriter(self.out, header)
        if not is_resumed:
            save_world(self.out, describe_world(self.scenario.network, self.scenario.task, self.seed))

    def _take_up(self, kept: Mapping[str, Any], extra: Mapping[str, Any]) -> Any:
        """Go on with the curve that a checkpoint left; return the method's state."""
        self.model, self.last = kept["model"], extra["last"]
        self.reports, self.window, self.is_reached = extra["reports"], extra["window"], extra["is_reached"]
        return kept["state"]

    def _end(self, summary: dict[str, Any], status: str, error: BaseException | None) -> Run:
        """Write the end of the run; raise what ended it early."""
        if self.writer is not None:
            try:
                if status != "failed":
                    self._save_model()
                self.writer.summary(summary)
            finally:
                self.writer.close()
        if error is not None and status != "interrupted":
            raise error
        return Run(out=self.out, header=self.header, points=self.points, summary=summary, model=self.model)

    def _text(self, sim: Simulation, state: Any) -> Callable[[SimNode], None]:
        """The root program: init, rounds until an end, finish."""
        method = self.method

        def text(node: SimNode) -> None:
            if isinstance(method, Service):
                method.run(node)
                self.reason = "done"
                return
            s = state
            if s is None:
                s = method.init(node, self.scenario.task.model.initial(self.seed))
            still = 0
            while not self._is_over(sim, node, s):
                began_s = sim.kernel.now
                s = method.round(node, s)
                sim.end_round()
                self._mark_round(sim)
                still = still + 1 if sim.kernel.now == began_s else 0
                is_idle = len(sim.kernel.agenda) <= sim.kernel.background  # nothing is under way
                if still and (is_idle or still > STILL_ROUNDS):
                    self._await_change(sim, node)
                gc.collect(0 if sim.numerics.round % FULL_COLLECTION else 2)
                self._checkpoint(sim, s)
            method.finish(node, s)

        return text

    def _open_timeline(self, extra: Mapping[str, Any] | None) -> TimelineWriter | None:
        """What takes the spans, if any are wanted; `extra` is of the checkpoint to go on from."""
        rounds = self.options.timeline
        assert self.out is not None
        if extra is None:
            return TimelineWriter(self.out, self.scenario.network.root, rounds) if rounds else None
        spans = extra.get("spans")
        return TimelineWriter.reopen(self.out, rounds, spans) if rounds and spans is not None and (self.out / TIMELINE).is_file() else None

    def _span(self, span: Span) -> None:
        if self.timeline is not None:
            self.timeline.span(span)

    def _mark_round(self, sim: Simulation) -> None:
        """A round has ended; after the last one that is wanted nobody watches."""
        if self.timeline is not None and not self.timeline.round(sim.numerics.round - 1, sim.kernel.now):
            sim.stop_watching()
            self.timeline.close()
            self.timeline = None

    def _await_change(self, sim: Simulation, node: SimNode) -> None:
        """A round that took no time waits for the network to change."""
        if not sim.kernel.background:
            raise RunFailed(
                f"{type(self.method).__name__} at '{node.name}': round {sim.numerics.round - 1} took no simulated time at {sim.kernel.now:.6g} s "
                f"and no change of the network is to come; give its work a cost (here.train, here.cost) or its links a rate"
            )
        sim.change_waiters.append(node.running)
        sim.kernel.is_awaiting_change = True
        sim.park("a change of the network")

    def _is_over(self, world: Simulation | MeasuredWorld, node: Node, s: Any) -> bool:
        """Whether the run ends at this round boundary, and why."""
        assert isinstance(self.method, Method)
        if self.method.done(node, s):
            self.reason = "done"
        elif self.options.stop_at_target and self.is_reached:
            self.reason = "target"
        else:
            stamp = world.stamp()
            nbytes = stamp["bytes_up"] + stamp["bytes_down"]
            spent = {"seconds": stamp["seconds"], "bytes": nbytes, "joules": stamp["joules"], "rounds": world.round}
            self.reason = "budget" if any(spent[name] >= amount for name, amount in self.budget.items()) else ""
        return bool(self.reason)

    # --- the curve --------------------------------------------------------------------------------------------------------------------

    def _report(self, node: Node, model: Any, personal: Any, metrics: dict[str, Any]) -> None:
        """A point of the curve: stamped, evaluated off the clock, written."""
        world, task = self.world, self.scenario.task
        assert world is not None
        for name, value in metrics.items():
            if not isinstance(value, int | float | str | bool | None):
                metrics[name] = float(value) if getattr(value, "ndim", 1) == 0 else list(value)
        point: dict[str, Any] = {**world.stamp(), "round": world.round, **metrics}
        if isinstance(self.method, Service):  # a model that a service has learned is its result; answers are what it is judged by
            self.model = self.model if model is None else map_leaves(world.value_of, model)
            point |= self.ledger.add(point)
            self.last = point
        elif (model is not None or personal is not None) and self.reports % self.options.eval_every == 0:
            predict = self.method.predict if isinstance(self.method, Method) and type(self.method).predict is not Method.predict else None
            if model is not None:
                self.model = map_leaves(world.value_of, model)
                point |= task.evaluate(self.model, "test", predict=predict)
                if len(task.dataset.y_validation):
                    point |= {f"validation_{key}": value for key, value in task.evaluate(self.model, "validation", predict=predict).items()}
            if personal is not None:
                models = self.personal = map_leaves(world.value_of, dict(personal))
                point |= task.evaluate_personal(models, "test", predict=predict)
                if model is None:
                    self.model = models
                    point |= {name: point[f"{name}_mean"] for name in task.metrics if f"{name}_mean" in point and name not in point}
                    if len(task.dataset.y_validation):
                        own = task.evaluate_personal(models, "validation", predict=predict)
                        point |= {f"validation_{name}": own[f"{name}_mean"] for name in task.metrics if f"{name}_mean" in own}
            self._check_finite(point, world.round)
            self._watch_target(point)
            self.last = point
        self.reports += 1
        self.points.append(point)
        if self.writer is not None:
            self.writer.point(point)
        if self.progress is not None:
            self.progress(point)

    def _check_finite(self, point: Mapping[str, Any], round: int) -> None:
        bad = [name for name, value in point.items() if isinstance(value, float) and not math.isfinite(value)]
        if bad:
            raise RunFailed(
                f"{type(self.method).__name__}: training diverged in round {round} at {point['seconds']:.6g} s ({', '.join(bad)} "
                f"not finite); use a smaller lr or clip_norm"
            )

    def _watch_target(self, point: dict[str, Any]) -> None:
        if self.options.target is None:
            return
        metric, value = self.options.target
        if metric in point:
            self.window = [*self.window[-(SMOOTH - 1) :], {metric: point[metric], "seconds": point["seconds"]}]
            self.is_reached = self.is_reached or reached(self.window, metric, value, direction_of(metric), smooth=SMOOTH) is not None

    # --- what is left behind ----------------------------------------------------------------------------------------------------------

    def _checkpoint(self, sim: Simulation, s: Any) -> None:
        if self.out is not None and self._is_time():
            tree, tensors = freeze(sim, self.method, self._kept(s), self._extra())
            checkpoint.save(self.out / "checkpoint.safetensors", tree, tensors)
            self._wait_in_proportion()

    def _checkpoint_measured(self, world: MeasuredWorld, s: Any) -> None:
        if self.out is not None and self._is_time():
            world.clock.stop()
            parts = {name: torch.frombuffer(bytearray(raw), dtype=torch.uint8) for name, raw in world.freeze(self._kept(s)).items()}
            checkpoint.save(self.out / "checkpoint.safetensors", {"round": world.round, "extra": self._extra()}, parts)
            world.clock.go_on()
            self._wait_in_proportion()

    def _is_time(self) -> bool:
        """Whether a checkpoint is due now."""
        every_s = self.options.checkpoint_every_s
        if every_s is None or time.monotonic() - self.wall_s < max(every_s, self.wait_s):
            return False
        self.wall_s = time.monotonic()
        return True

    def _wait_in_proportion(self) -> None:
        """A checkpoint that took long is not followed by another one soon, unless every round is wanted."""
        self.wait_s = CHECKPOINT_PAUSE * (time.monotonic() - self.wall_s) if self.options.checkpoint_every_s else 0.0

    def _kept(self, s: Any) -> dict[str, Any]:
        # the last model is the run's result, also if no round after a resume reports one
        return {"state": s, "model": map_leaves(lambda leaf: leaf if isinstance(leaf, Params | Fitted) else None, self.model)}

    def _extra(self) -> dict[str, Any]:
        spans = None if self.timeline is None else self.timeline.count
        return {"reports": self.reports, "window": self.window, "is_reached": self.is_reached, "last": self.last, "spans": spans}

    def _summary(self, stamp: Mapping[str, float], rounds: int, status: str, error: BaseException | None) -> dict[str, Any]:
        last = self.last
        return {
            "status": status,
            **stamp,
            "rounds": rounds,
            "metrics": {name: last[name] for name in last if name.split("_")[0] in self.scenario.task.metrics or name.startswith("validation_")},
            "digest": digest(self.model, stamp),
            **({"clients": self._clients()} if self._is_judged(status) else {}),
            **({"error": f"{type(error).__name__}: {error}"} if error is not None else {}),
        }

    def _devices(self, totals: dict[str, Any]) -> dict[str, Any]:
        """What each place has spent; under a protection also of its privacy, and the most that a client has."""
        protect = self.method.protect if isinstance(self.method, Method) else Unprotected()
        spent = {name: told for name, own in totals.items() if (told := protect.spent(own.get("releases", 0)))}
        most = {"privacy": max(spent.values(), key=lambda told: told["releases"])} if spent else {}
        return {**most, "devices": {name: {**own, **spent.get(name, {})} for name, own in totals.items()}}

    def _is_judged(self, status: str) -> bool:
        """Whether the record holds every client's metrics of the last model."""
        return self.writer is not None and self.model is not None and status != "failed" and isinstance(self.method, Method)

    def _clients(self) -> dict[str, Any]:
        """Each client's metrics on its own test rows at the end, with its own model if it has one; `error` where its data allow none."""
        task, method = self.scenario.task, self.method
        predict = method.predict if isinstance(method, Method) and type(method).predict is not Method.predict else None
        models = self.personal or dict.fromkeys(list(task.shards)[:CLIENTS], self.model)
        try:
            return evaluate.by_device(task, models, "test", predict)
        except ScenarioError as error:
            return {"error": str(error)}

    def _save_model(self) -> None:
        assert self.out is not None
        tensors: dict[str, torch.Tensor] = {}
        for path, leaf in leaves(self.model):
            prefix = ".".join(map(str, path))
            if isinstance(leaf, Params):
                tensors |= {f"{prefix}.{name}".lstrip("."): tensor for name, tensor in leaf.named().items()}
        if tensors:
            checkpoint.save(self.out / "model.safetensors", {name: self.header.get(name) for name in ("method", "module")}, tensors)

    def _log_measured(self, world: MeasuredWorld) -> None:
        lines = world.take_lines()
        if self.out is not None:
            with (self.out / MEASURED).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"round": world.round, **line}) + "\n" for line in lines)

    def _log_payload(self, time_s: float, source: str, target: str, label: str, kind: str, nbytes: float) -> None:
        if self.payloads is None:
            assert self.out is not None
            self.payloads = (self.out / "payloads.jsonl").open("a", encoding="utf-8")
        line = {"seconds": time_s, "from": source, "to": target, "function": label.split(":")[-1], "kind": kind, "bytes": nbytes}
        self.payloads.write(json.dumps(line) + "\n")


def _waiting(sim: Simulation) -> str:
    names = [f"{program.name} waits for {program.waits_for}" for program in sim.kernel.programs.values()]
    return "; ".join(names[:5]) or "no program is left"


def digest(model: Any, stamp: Mapping[str, float]) -> str:
    """SHA-256 over the last model and the clock's totals: equal digests mean equal runs."""
    h = hashlib.sha256()
    for _, leaf in leaves(model):
        if isinstance(leaf, Params | Fitted):
            h.update(leaf.digest().encode())
    for name, value in stamp.items():
        h.update(f"{name}={value!r};".encode())
    return h.hexdigest()


def check_shape(method: Method | Service, scenario: Scenario) -> None:
    """Refuse a method on a network that lacks what its text talks to."""
    network = scenario.network
    root = network.root
    if type(method).shape == "tree" and not any(network.children(child) for child in network.children(root)):
        raise ScenarioError(
            f"{type(method).__name__} on scenario '{scenario.name}': it needs edge servers between the root and the clients, and '{root}' has only "
            f"clients below; use a scenario with edges (phones, factory), or a star method"
        )
    if isinstance(method, Method) and method.adapts and not scenario.task.model.pairs:
        raise ScenarioError(
            f"{type(method).__name__} on scenario '{scenario.name}': it trains LoRA pairs, and the model '{scenario.task.model.name}' has none; "
            f"use the scenario lora_phones, or wrap the model with airloom.models.lora.lora"
        )
    data = scenario.task.dataset
    if isinstance(method, Method) and data.kind not in method.kinds:
        raise ScenarioError(
            f"{type(method).__name__} on scenario '{scenario.name}': its data '{data.name}' are {data.kind}; allowed are {', '.join(method.kinds)}; "
            f"choose other data"
        )


def describe_method(method: Method | Service) -> dict[str, Any]:
    """Name and all fields of a method, for records."""
    return {
        "method": type(method).__name__,
        "module": type(method).__module__,
        "fields": {f.name: _plain(value) for f in fields(method) if (value := getattr(method, f.name)) != f.default or "socket" not in f.metadata},
    }


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        inner = ", ".join(f"{f.name}={getattr(value, f.name)!r}" for f in fields(value))
        return f"{type(value).__name__}({inner})"
    return value if isinstance(value, int | float | str | bool | None) else repr(value)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import numpy as np

    from airloom import __version__

    return {
        "airloom": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
    }


def check_engine(method: Method | Service, engine: str) -> None:
    """Refuse an engine that is unknown or that the method does not declare."""
    if engine not in ENGINES:
        raise ScenarioError(f"engine {engine!r}: allowed are {', '.join(ENGINES)}")
    if engine not in type(method).engines:
        raise Unsupported(f"{type(method).__name__} on engine '{engine}': it declares {', '.join(type(method).engines)}")
