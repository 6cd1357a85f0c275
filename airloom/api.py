"""The Python API: `airloom.run`, `compare`, `resume` and `show`, one call each for what the command line does."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

from airloom import jobs, tune
from airloom.errors import RecordError, ScenarioError
from airloom.jobs import Job, Tell
from airloom.program.method import Method, Planned, Service
from airloom.records import calibrate as calibrating
from airloom.records import compare as comparing
from airloom.records.compare import Comparison
from airloom.records.record import FILE, Record, direction_of, load, reached
from airloom.resolve import Candidate, Sets, World, cores, fields_of, find_method, find_scenario, labels, settle
from airloom.runner import SMOOTH, Options, Progress, Run, versions
from airloom.scenarios.scenario import Scenario

Target = tuple[str, float] | Literal["scenario"] | None
Workers = int | Literal["ray"] | None
Out = Path | str | None  # "auto": a fresh folder below runs/

PLAN, TABLE, FIGURE = "plan.json", "compare.json", "compare.png"
RUNS = Path("runs")


def run(
    method: str | Method | Service,
    *,
    scenario: str | Callable[..., Scenario] | Scenario = "phones",
    seed: int = 0,
    set: Mapping[str, Any] | None = None,
    target: Target = "scenario",
    stop_at_target: bool = False,
    budget: Mapping[str, float] | None = None,
    engine: str = "simulated",
    address: str | None = None,
    executor: str = "auto",
    device: str = "cpu",
    fast: str = "auto",
    workers: int | None = None,
    eval_every: int = 1,
    checkpoint_every_s: float | None = 30.0,
    log_payloads: bool = False,
    timeline: int = 10,
    out: Out = "auto",
    progress: Progress | None = None,
) -> Run:
    """Run one method in one world.

    Parameters
    ----------
    method : a name, `file.py:Class` or `module:Class`, with fields behind a colon if wanted (`"fedavg:lr=0.1"`), or a Method.
    scenario : a name, `file.py[:function]`, `file.json`, a function of the seed, or a Scenario.
    seed : of the world and of the training.
    set : fields by name: `"lr"` of the method, `"scenario.devices"`, `"task.alpha"`; values, or their text.
    target : (metric, value); "scenario" takes the scenario's, None none.
    stop_at_target : end when it is reached; otherwise the run goes on until its budget.
    budget : any of seconds, bytes, joules, rounds; None takes the scenario's.
    engine : "simulated", or on real machines "ray" (see docs/ray.md) or "flower" (see docs/deploy_flower.md).
    address : HOST:PORT of the Ray cluster to join, or of the SuperLink; None starts a cluster here, or takes the deployment that is up here.
    executor, device, fast, workers, eval_every, checkpoint_every_s, log_payloads, timeline : see `airloom.runner.Options`.
    out : folder of the record, made here; "auto" takes a fresh one below `runs/`, None keeps no record.
    progress : called with every point of the curve.

    Returns
    -------
    Run : header, points, summary, the last reported model, and the record's folder `out`.

    Raises
    ------
    ScenarioError : bad input, before anything is written.
    RunFailed, DoesNotFit, DeviceLost : the run began and could not go on; its record says so.

    Examples
    --------
    >>> done = run("fedavg:local_steps=2", set={"scenario.devices": 4, "scenario.base_stations": 1}, budget={"rounds": 1}, out=None)
    >>> done.status, len(done.points)
    ('budget', 1)
    """
    options = Options(
        executor=executor,
        device=device,
        fast=fast,
        workers=workers,
        stop_at_target=stop_at_target,
        budget=budget,
        eval_every=eval_every,
        checkpoint_every_s=checkpoint_every_s,
        log_payloads=log_payloads,
        timeline=timeline,
        address=address,
    )
    job, folder = prepare(method, scenario, seed, set, target, engine, options, out)
    return jobs.execute(job, folder, progress=progress)


def prepare(
    method: str | Method | Service,
    scenario: str | Callable[..., Scenario] | Scenario,
    seed: int,
    set: Mapping[str, Any] | None,
    target: Target,
    engine: str,
    options: Options,
    out: Out,
) -> tuple[Job, Path | None]:
    """Resolve and check all that a run is given; return its job and its folder, which is not made yet."""
    sets = Sets.of(set)
    candidate, world = find_method(method), find_scenario(scenario, sets)
    _check_known([candidate], sets)
    built = world.build(seed)
    options = replace(options, target=_target(target, built))
    job = jobs.job_of(candidate, candidate.make(built.suited, sets.method), labels([candidate])[0], world, seed, engine, options)
    jobs.check(job)
    return job, folder_of(out, f"{built.name}-{job.label}-{seed}")


def planned(
    method: str | Method | Service, scenario: str | Callable[..., Scenario] | Scenario = "home", seed: int = 0, set: Mapping[str, Any] | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return what a method that plans ahead decides in a world: a row per place, and numbers of the whole; nothing runs.

    Raises:
        ScenarioError: the method plans nothing, or the scenario declares nothing to plan with.
        DoesNotFit: there is no plan; the message says what would help.
    """
    sets = Sets.of(set)
    candidate, world = find_method(method), find_scenario(scenario, sets)
    _check_known([candidate], sets)
    built = world.build(seed)
    made = candidate.make(built.suited, sets.method)
    if not isinstance(made, Planned):
        raise ScenarioError(f"plan {candidate.name}: it decides nothing before it runs; allowed is a method that is Planned, such as prima")
    return made.planned({name: place.facts for name, place in built.network.places.items()}, built.network.root)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a comparison leaves: itself, its folder, its figure (None where there was nothing to draw), and what tuning chose by method."""

    comparison: Comparison
    out: Path
    figure: Path | None
    tuned: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the object of `airloom compare --json`."""
        return {
            **json.loads(self.comparison.to_json(out=self.out)),
            "figure": None if self.figure is None else str(self.figure),
            "tuned": dict(self.tuned),
        }


def compare(
    methods: Sequence[str | Method | Service],
    *,
    scenario: str | Callable[..., Scenario] | Scenario = "phones",
    seeds: int = 3,
    first_seed: int = 0,
    tune: int = 0,
    set: Mapping[str, Any] | None = None,
    target: Target = "scenario",
    stop_at_target: bool = False,
    budget: Mapping[str, float] | None = None,
    engine: str = "simulated",
    address: str | None = None,
    executor: str = "auto",
    device: str = "cpu",
    fast: str = "auto",
    workers: Workers = None,
    eval_every: int = 1,
    checkpoint_every_s: float | None = 30.0,
    log_payloads: bool = False,
    timeline: int = 10,
    out: Path | str = "auto",
    progress: Tell | None = None,
) -> Comparison:
    """Run several methods in the same worlds and compare when, and at what cost, they reach a target.

    Parameters
    ----------
    methods : as in `run`; ratios are to the first. Variants of one method are told apart by their fields (`"fedavg"`, `"fedavg:lr=0.5"`).
    seeds, first_seed : worlds, one per seed; all methods meet each of them.
    tune : trials per method on a world of their own and on validation data, before the runs; 0 for none (see `airloom.tune`).
    set : as in `run`; a method's field is set in all methods that have it.
    workers : processes; None takes one per core. With `executor="pool"` runs follow each other and each has so many processes. "ray" spreads
        simulated runs over a Ray cluster.
    address : of the Ray cluster, for `workers="ray"` or `engine="ray"`; None starts one on this machine.
    out : folder of the comparison, made here; "auto" takes a fresh one below `runs/`.
    progress : called with every event of a run, see `airloom.jobs.Event`.
    scenario, target, stop_at_target, budget, engine, executor, device, fast, eval_every, checkpoint_every_s, log_payloads, timeline : as in `run`.

    Returns
    -------
    Comparison : `.frame` and `.curves` (pandas), `.table()`, `.plot()`, `.rows`, `.records`.

    Raises
    ------
    ScenarioError : bad input, before anything is written. A run that fails is a row, no error.
    """
    options = Options(
        executor=executor,
        device=device,
        fast=fast,
        stop_at_target=stop_at_target,
        budget=budget,
        eval_every=eval_every,
        checkpoint_every_s=checkpoint_every_s,
        log_payloads=log_payloads,
        timeline=timeline,
        address=address,
    )
    request = request_of(methods, scenario, seeds, first_seed, tune, set, target, engine, options)
    return start(request, workers=workers, out=out, progress=progress).comparison


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that a comparison is made from; its JSON is the plan that a resume reads."""

    candidates: tuple[Candidate, ...]
    labels: tuple[str, ...]
    world: World
    seeds: tuple[int, ...]
    tune: int
    extra: Mapping[str, Any]
    engine: str
    options: Options

    @property
    def scenario(self) -> Scenario:
        """The first world."""
        return self.world.build(self.seeds[0])

    def jobs(self, methods: Mapping[str, Method | Service], seed: int, options: Options) -> list[Job]:
        """Return one job per method."""
        pairs = zip(self.candidates, self.labels)
        return [jobs.job_of(candidate, methods[label], label, self.world, seed, self.engine, options) for candidate, label in pairs]

    def methods(self) -> dict[str, Method | Service]:
        """Return the methods by label, before tuning."""
        suited = self.scenario.suited
        return {label: candidate.make(suited, self.extra) for candidate, label in zip(self.candidates, self.labels)}

    def plan(self) -> dict[str, Any]:
        """Return the request as JSON; `jobs` is None where only this process can run them."""
        made = self.jobs(self.methods(), self.seeds[0], self.options)
        return {
            "labels": self.labels,
            "target": self.options.target,
            "seeds": self.seeds,
            "tune": self.tune,
            "fixed": [sorted(candidate.fixed(self.extra)) for candidate in self.candidates],
            "jobs": [job.describe() for job in made] if all(job.is_portable for job in made) else None,
        }


def request_of(
    methods: Sequence[str | Method | Service],
    scenario: str | Callable[..., Scenario] | Scenario,
    seeds: int,
    first_seed: int,
    tune_trials: int,
    set: Mapping[str, Any] | None,
    target: Target,
    engine: str,
    options: Options,
) -> Request:
    """Resolve and check all that a comparison is given; writes nothing."""
    if isinstance(methods, str) or not methods:
        raise ScenarioError(f"compare(methods={methods!r}): allowed is a list with at least one method")
    if seeds < 1 or tune_trials < 0:
        raise ScenarioError(f"compare(seeds={seeds}, tune={tune_trials}): allowed are seeds >= 1 and tune >= 0")
    if isinstance(scenario, Scenario) and (seeds > 1 or tune_trials):
        raise ScenarioError(
            f"compare(scenario='{scenario.name}', seeds={seeds}): a Scenario is one world; give its function, or seeds=1 without tuning"
        )
    sets = Sets.of(set)
    candidates = tuple(find_method(method) for method in methods)
    world = find_scenario(scenario, sets)
    _check_known(candidates, sets)
    request = Request(
        candidates=candidates,
        labels=tuple(labels(candidates)),
        world=world,
        seeds=tuple(range(first_seed, first_seed + seeds)),
        tune=tune_trials,
        extra=sets.method,
        engine=engine,
        options=options,
    )
    if options.executor == "auto" and options.device == "cpu" and len(methods) * seeds > 1:  # processes serve better across runs than inside of each
        options = replace(options, executor="loop")
    request = replace(request, options=replace(options, target=_target(target, request.scenario)))
    for job in request.jobs(request.methods(), request.seeds[0], request.options):
        jobs.check(job)
    if tune_trials:
        tune.check_validation(request.scenario)
    return request


def start(request: Request, *, workers: Workers, out: Path | str, progress: Tell | None) -> Compared:
    """Make a comparison's folder, write its plan and run it."""
    if workers is not None and workers != "ray" and workers < 1:
        raise ScenarioError(f"compare(workers={workers}): allowed are integers >= 1 and 'ray'")
    if workers == "ray":
        jobs.check_spread(request.engine, request.plan()["jobs"] is not None)
    folder = folder_of(out, f"compare-{request.scenario.name}")
    assert folder is not None
    plan = request.plan()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PLAN).write_text(json.dumps(plan) + "\n", encoding="utf-8")
    except OSError as error:
        raise RecordError(f"compare: cannot write into '{folder}': {error.strerror}; choose another folder with out") from error
    methods = request.methods()
    return _carry_out(plan, request.jobs(methods, request.seeds[0], request.options), folder, workers, progress, is_resumed=False)


def _carry_out(plan: Mapping[str, Any], first: Sequence[Job], out: Path, workers: Workers, progress: Tell | None, *, is_resumed: bool) -> Compared:
    """Tune, run and compare; `first` holds each method's job for the first seed. A Ctrl-C says in which folder to go on."""
    tell = progress or (lambda event: None)
    processes = workers or cores()
    if first[0].options.device != "cpu" and workers != "ray":
        if (workers or 1) > 1:
            raise ScenarioError(f"workers={workers} with device={first[0].options.device!r}: forked processes cannot use a GPU; leave workers out")
        processes = 1
    if first[0].options.executor == "pool" and workers != "ray":
        first, processes = [replace(job, options=replace(job.options, workers=workers)) for job in first], 1
    tuned: dict[str, Any] = {}
    try:
        if plan["tune"]:
            first, tuned = _tuned(plan, first, out, processes, tell, is_resumed=is_resumed)
        work = [(replace(job, seed=seed), out / safe(f"{job.label}-{seed}")) for seed in plan["seeds"] for job in first]
        jobs.spread(work, processes, tell, is_resumed=is_resumed)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(str(out)) from None
    comparison = comparing.build([load(folder) for _, folder in work], target=first[0].options.target, methods=plan["labels"])
    figure: Path | None = out / FIGURE
    try:
        comparison.plot(figure)
    except RecordError as error:
        figure = None
        warnings.warn(str(error), stacklevel=2)
    done = Compared(comparison=comparison, out=out, figure=figure, tuned=tuned)
    (out / TABLE).write_text(json.dumps(done.to_json()) + "\n", encoding="utf-8")
    return done


def _tuned(
    plan: Mapping[str, Any], first: Sequence[Job], out: Path, processes: int | Literal["ray"], tell: Tell, *, is_resumed: bool
) -> tuple[list[Job], dict[str, Any]]:
    """Run all trials; return the jobs with the chosen fields, and what was chosen by label."""
    seed = plan["seeds"][0] + tune.SEEDS_BEYOND
    target = first[0].options.target
    metric = target[0] if target is not None else first[0].world.build(plan["seeds"][0]).task.metrics[0]
    goal = None if target is None else (tune.PREFIX + metric, target[1])
    changes = [tune.trials(job.method, {*fixed}, plan["tune"], job.label) for job, fixed in zip(first, plan["fixed"])]
    work: list[tuple[Job, Path]] = []
    for job, own in zip(first, changes):
        options = replace(job.options, target=goal, stop_at_target=goal is not None, log_payloads=False, timeline=0)
        for i, change in enumerate(own):
            trial = replace(job, method=replace(job.method, **change), seed=seed, options=options, notes={"trial": i, "trials": len(own)})
            work.append((trial, out / "tune" / safe(f"{job.label}-{i}")))
    jobs.spread(work, processes, tell, is_resumed=is_resumed)
    made: list[Job] = []
    told: dict[str, Any] = {}
    for job, own in zip(first, changes):
        records = [load(out / "tune" / safe(f"{job.label}-{i}")) for i in range(len(own))]
        choice = tune.choose(records, metric, None if target is None else target[1])
        chosen = replace(job.method, **own[choice.index])
        made.append(replace(job, method=chosen, notes={"tuned": len(own)}))
        tunable = sorted({name for change in own for name in change})
        told[job.label] = {
            "trials": len(own),
            "seed": seed,
            "chosen": {n: getattr(chosen, n) for n in tunable},
            "by": choice.by,
            "value": choice.value,
        }
    return made, told


def resume(
    folder: Path | str,
    *,
    scenario: Callable[..., Scenario] | Scenario | None = None,
    method: Method | Service | None = None,
    workers: Workers = None,
    progress: Progress | Tell | None = None,
) -> Run | Comparison:
    """Go on with a run, or with a comparison, that was interrupted or killed; nothing that was computed up to a checkpoint is lost or changed.

    Parameters
    ----------
    folder : of the run or of the comparison.
    scenario, method : only for a run that was made from Python objects: give them again.
    workers : for a comparison, as in `compare`.
    progress : as in `run` or `compare`.

    Raises
    ------
    RecordError : nothing to resume there, or the run has ended.
    """
    done = go_on(Path(folder), scenario=scenario, method=method, workers=workers, progress=progress)
    return done.comparison if isinstance(done, Compared) else done


def go_on(
    folder: Path,
    *,
    scenario: Callable[..., Scenario] | Scenario | None = None,
    method: Method | Service | None = None,
    workers: Workers = None,
    begins: Callable[[Job], None] | None = None,
    progress: Any = None,
) -> Run | Compared:
    """Resume what lies in a folder, with all that a comparison leaves; `begins` is told a run's job before it goes on."""
    if (folder / PLAN).is_file():
        plan = plan_of(folder)
        if plan["jobs"] is None:
            raise RecordError(f"resume('{folder}'): its methods or scenario were Python objects that no file holds; compare them again")
        if (folder / TABLE).is_file():
            raise RecordError(f"resume('{folder}'): this comparison has ended; look at it with airloom show {folder}")
        return _carry_out(plan, [Job.of(described) for described in plan["jobs"]], folder, workers, progress, is_resumed=True)
    record = load(folder)
    if record.status in ("done", "target", "budget"):
        raise RecordError(f"resume('{folder}'): this run has ended ({record.status}), nothing is left to do; look at it with airloom show {folder}")
    header = record.header
    if "text" not in header:
        raise RecordError(f"resume('{folder}'): its header does not say how it was made; only runs of airloom run and airloom.run can be resumed")
    job = Job.of(header, world=None if scenario is None else find_scenario(scenario), method=method)
    _warn_of_changes(folder, header, job)
    if begins is not None:
        begins(job)
    return jobs.execute(job, folder, progress=progress, is_resumed=True)


def _warn_of_changes(folder: Path, header: Mapping[str, Any], job: Job) -> None:
    """Say so if a run goes on with other code than it began with."""
    old = {**header["versions"], **header["code"]["files"], "revision": header["code"]["revision"]}
    now = jobs.code(job)
    new = {**versions(), **now["files"], "revision": now["revision"]}
    changed = [name for name, value in old.items() if new.get(name) != value]
    if changed:
        warnings.warn(
            f"resume('{folder}'): changed since the run began: {', '.join(changed)}; numbers may differ from those of an unbroken run", stacklevel=4
        )


def calibrate(folder: Path | str, out: Path | str) -> dict[str, Any]:
    """Turn a measured run into a scenario file with its devices' speeds and its links' rates and latencies; return what was written.

    Parameters
    ----------
    folder : of a run on real machines.
    out : the file, for `scenario=` and `--scenario`.

    Raises
    ------
    RecordError : the run is not a measured one, or the file cannot be written.
    """
    found = calibrating.calibrate(Path(folder), lambda header: Job.of(header).world.build(header["seed"]).network)
    try:
        Path(out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise RecordError(f"calibrate: cannot write '{out}': {error.strerror}; choose another file with out") from error
    return found


def predict(
    method: str | Method | Service,
    *,
    scenario: str | Callable[..., Scenario] | Scenario,
    seed: int = 0,
    set: Mapping[str, Any] | None = None,
    target: Target = None,
    budget: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return what a run would take before it is run: seconds, bytes and joules in all and per round, from a simulation that leaves no record.

    Parameters
    ----------
    method, scenario, seed, set, target, budget : as in `run`; without a budget and a target three rounds are looked at.

    Examples
    --------
    >>> told = predict("fedavg", scenario="phones", set={"scenario.devices": 4, "scenario.base_stations": 1}, budget={"rounds": 2})
    >>> told["rounds"], told["clock"], len(told["seconds_by_round"])
    (2, 'simulated', 2)
    """
    if budget is None and target is None:
        budget = {"rounds": 3}
    done = run(method, scenario=scenario, seed=seed, set=set, target=target, stop_at_target=target is not None, budget=budget, out=None)
    stamps = [0.0, *(float(point["seconds"]) for point in done.points)]
    by_round = [after - before for before, after in pairwise(stamps)]
    return {**summary_of(done), "seconds_per_round": median(by_round) if by_round else None, "seconds_by_round": by_round}


def show(folder: Path | str) -> Record | Comparison:
    """Return what lies in a folder: the record of a run, or a comparison (of the runs that there are so far).

    Raises
    ------
    RecordError : neither is there.
    """
    folder = Path(folder)
    if (folder / PLAN).is_file():
        plan = plan_of(folder)
        records = [load(path.parent) for path in sorted(folder.glob(f"*/{FILE}"))]
        there = [record.header.get("label") for record in records]
        target = plan["target"] and (plan["target"][0], plan["target"][1])
        return comparing.build(records, target=target, methods=[str(label) for label in plan["labels"] if label in there])
    if not folder.is_dir():
        raise RecordError(f"show('{folder}'): there is no such folder; give the folder of a run or of a comparison")
    return load(folder)


def plan_of(folder: Path) -> dict[str, Any]:
    """Return the plan of a comparison."""
    try:
        return json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"'{folder / PLAN}' cannot be read ({error}); restore it, or compare again") from error


def summary_of(run: Run | Record) -> dict[str, Any]:
    """Return the object of `airloom run --json`; `reached` is None without a target."""
    header, summary = run.header, run.summary or {}
    target = header.get("target")
    stamp = None if target is None else reached(run.points, target[0], target[1], direction_of(target[0]), smooth=SMOOTH)
    last = run.points[-1] if run.points else {}
    folder = run.folder if isinstance(run, Record) else run.out
    costs = ("seconds", "bytes_up", "bytes_down", "joules")
    return {
        "method": header["method"],
        "label": header.get("label", header["method"]),
        "scenario": header["scenario"]["name"],
        "engine": header["engine"],
        "clock": header["clock"],
        "seed": header["seed"],
        **{cost: summary.get(cost, last.get(cost)) for cost in costs},
        "rounds": summary.get("rounds", last.get("round")),
        "metrics": summary.get("metrics", {}),
        "target": None if target is None else {"metric": target[0], "value": target[1]},
        "reached": None if target is None else stamp is not None,
        "reached_seconds": None if stamp is None else stamp["seconds"],
        "status": run.status,
        "error": summary.get("error"),
        "digest": summary.get("digest"),
        **({"privacy": summary["privacy"]} if "privacy" in summary else {}),
        "out": None if folder is None else str(folder),
    }


def _check_known(candidates: Sequence[Candidate], sets: Sets) -> None:
    """Refuse a field that no method has, and say which methods do not have one."""
    known = {name: field for candidate in candidates for name, field in fields_of(candidate.cls).items()}
    owner = candidates[0].name if len(candidates) == 1 else "methods"
    settle(owner, known, {name: value for name, value in sets.method.items() if name not in known})
    for name in sets.method:
        without = [candidate.name for candidate in candidates if name not in fields_of(candidate.cls)]
        if without:
            warnings.warn(f"set {name}: {', '.join(dict.fromkeys(without))} has no such field and goes without", stacklevel=3)


def _target(target: Target, scenario: Scenario) -> tuple[str, float] | None:
    """Return the target; the scenario's own, if its task has that metric."""
    if target != "scenario":
        return target  # type: ignore[return-value]
    return scenario.target if scenario.target is not None and scenario.target[0] in scenario.task.metrics else None


def folder_of(out: Out, name: str) -> Path | None:
    """Return a folder that is new or empty; makes nothing."""
    if out is None:
        return None
    if out != "auto":
        folder = Path(out)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RecordError(f"out='{folder}': is there and not empty; choose another folder, or go on with airloom resume {folder}")
        return folder
    folder, number = RUNS / safe(name), 1
    while folder.exists():
        number += 1
        folder = RUNS / safe(f"{name}-{number}")
    return folder


def safe(name: str) -> str:
    """Return a name that every file system takes.

    >>> safe("fedavg:select=power_of_choice(candidates=20)-0")
    'fedavg-select=power_of_choice-candidates=20-0'
    """
    return re.sub(r"-{2,}", "-", re.sub(r"[^\w.=+-]", "-", name)).strip("-.")
