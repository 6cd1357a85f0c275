"""Jobs: one method in one world with one seed, run in this process or spread over several.

A job is described by JSON that its record's header also holds; a worker process and a resume rebuild it from there. Numbers do not depend on where a
job runs: each process computes with one thread, and every draw is keyed by the seed.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from airloom.engines.executors import make_executor
from airloom.engines.host import Opened
from airloom.engines.measured import MeasuredWorld
from airloom.errors import AirloomError, DeviceLost, DoesNotFit, MissingExtra, RecordError, RunFailed, ScenarioError
from airloom.models.allocator import keep_freed
from airloom.models.device import torch_device
from airloom.network.network import Network
from airloom.program.method import Method, Service
from airloom.records import checkpoint
from airloom.records.record import FILE, load
from airloom.resolve import Candidate, Unpackable, World, fields_of, find_function, find_method, names_in, pack, unpack
from airloom.runner import Options, Progress, Run, Runner, check_engine, check_shape, describe_method, versions
from airloom.scenarios.scenario import Scenario
from airloom.tasks.task import Task

CHECKPOINT = "checkpoint.safetensors"
RUN_ERRORS = (RunFailed, DoesNotFit, DeviceLost)  # of a run that began; all others are bad input
_EVERY_S = 0.2  # least wall seconds between two points that a worker passes on
_GRACE_S = 60.0  # for workers to close their records after an interrupt


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run to make.

    Arguments:
        world, method, seed: what is run; the seed is the world's and the training's.
        text: how another process finds the method's class, or None.
        name, label: the method's name, and what tells variants of it apart.
        engine, options: how it is run.
        notes: more for the record's header (tuning).
    """

    world: World
    method: Method | Service
    text: str | None
    name: str
    label: str
    seed: int
    engine: str = "simulated"
    options: Options = Options()
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_portable(self) -> bool:
        """Whether another process can run it."""
        return self.world.text is not None and self.describe()["text"] is not None

    def describe(self) -> dict[str, Any]:
        """Return the job as JSON; `Job.of` turns it back unless a text is None."""
        values = {name: getattr(self.method, name) for name in fields_of(type(self.method))}
        text = self.text
        try:
            own = {name: pack(value) for name, value in values.items()}
        except Unpackable:
            own, text = {name: repr(value) for name, value in values.items()}, None
        measured = {} if self.world.measured is None else {"measured": self.world.measured}
        shown = {name: pack(value) for name, value in self.world.fields.items()} if self.world.text is not None else {}
        return {
            "method": self.name,
            "label": self.label,
            "text": text,
            "fields": own,
            "scenario": {"name": self.world.name, "text": self.world.text, "fields": shown, **measured},
            "seed": self.seed,
            "engine": self.engine,
            "options": asdict(self.options),
            **self.notes,
        }

    @classmethod
    def of(cls, described: Mapping[str, Any], *, world: World | None = None, method: Method | Service | None = None) -> Job:
        """Return the job that `describe` wrote down; `described` may be a record's header.

        Arguments:
            described: the JSON.
            world, method: take the place of what is described.

        Raises:
            ScenarioError: it was made from objects that no file holds, or its files are gone.
        """
        for what, text, stand_in in (("method", described["text"], method), ("scenario", described["scenario"]["text"], world)):
            if text is None and stand_in is None:
                raise ScenarioError(
                    f"{what} of this record: it was made from an object that no file holds; give it again: airloom.resume(folder, {what}=...)"
                )
        found = find_method(described["text"] if method is None else method)
        options = dict(described["options"])
        if options["target"] is not None:
            options["target"] = (str(options["target"][0]), float(options["target"][1]))
        return cls(
            world=_world(json.dumps(described["scenario"])) if world is None else world,
            method=found.cls(**{name: unpack(value) for name, value in described["fields"].items()}) if method is None else method,
            text=found.text,
            name=described["method"],
            label=described["label"],
            seed=described["seed"],
            engine=described["engine"],
            options=Options(**options),
            notes={name: described[name] for name in ("tuned", "trial", "trials") if name in described},
        )


@lru_cache(maxsize=4)
def _world(described: str) -> World:
    """Return the world of a job; the same object for the same text, so that it is built once per seed."""
    scenario = json.loads(described)
    function = find_function(scenario["text"])
    fields = {name: unpack(value) for name, value in scenario["fields"].items()}
    return World(name=scenario["name"], text=scenario["text"], function=function, fields=fields, measured=scenario.get("measured"))


def job_of(candidate: Candidate, method: Method | Service, label: str, world: World, seed: int, engine: str, options: Options) -> Job:
    """Return a candidate's job."""
    return Job(world=world, method=method, text=candidate.text, name=candidate.name, label=label, seed=seed, engine=engine, options=options)


def check(job: Job) -> Scenario:
    """Return the job's scenario if it can run there; otherwise raise what the run would raise, before any file is written."""
    scenario = job.world.build(job.seed)
    check_engine(job.method, job.engine)
    if job.engine != "simulated":
        check_extra(job.engine)
        if job.options.fast != "auto":
            raise ScenarioError(
                f"fast={job.options.fast!r} with engine '{job.engine}': allowed with engine simulated; real machines take their own (auto)"
            )
        if job.options.device != "cpu":
            raise ScenarioError(
                f"device={job.options.device!r} with engine '{job.engine}': allowed with engine simulated; real machines train on their CPUs"
            )
        if not job.is_portable:
            raise ScenarioError(
                f"{job.label} on engine '{job.engine}': its method or scenario is an object that no file holds, so no other machine can build it; "
                f"give both by name or file"
            )
    Runner(scenario, job.method, job.seed, job.options, None, {}, None)
    check_shape(job.method, scenario)
    executor = job.options.executor
    torch_device(job.options.device)
    make_executor("loop" if executor in ("auto", "pool") else executor, job.options.workers, scenario.network, scenario.task, job.seed, job.method)
    return scenario


def check_extra(engine: str) -> None:
    """Refuse an engine whose extra is not installed."""
    module = {"ray": "ray", "flower": "flwr"}.get(engine)
    if module is not None and importlib.util.find_spec(module) is None:
        raise MissingExtra(engine, f"engine {engine}")


def execute(job: Job, out: Path | None, *, progress: Progress | None = None, is_resumed: bool = False) -> Run:
    """Run a job in this process; `is_resumed` goes on from the folder's checkpoint, or from the start where it has none."""
    scenario = job.world.build(job.seed)
    check_engine(job.method, job.engine)
    if is_resumed and job.engine == "simulated" and out is not None and (out / FILE).is_file():  # the numbers depend on how it trained
        known = load(out).header
        how = {"fast": known.get("fast", "off"), "device": known.get("device", "cpu")}
        if known.get("executor") == "stacked" or how["device"] != "cpu":
            how["executor"] = known["executor"]
        job = replace(job, options=replace(job.options, **how))
    runner = Runner(scenario, job.method, job.seed, job.options, out, header(job, scenario), progress)
    frozen = None
    if is_resumed and out is not None and (out / CHECKPOINT).is_file():
        frozen = checkpoint.load(out / CHECKPOINT)
    with _one_thread():
        run = runner.run(frozen, is_resumed) if job.engine == "simulated" else runner.measure(open_world(job, scenario), frozen, is_resumed)
    return replace(run, points=load(out).points) if is_resumed and out is not None else run


def open_world(job: Job, scenario: Scenario) -> MeasuredWorld:
    """Return the job's world on real machines; its places build the same job from its text."""
    if job.engine == "flower":
        return _open_flower(job, scenario)
    from airloom.engines.ray import RayWorld

    described = json.dumps(job.describe())
    network, task = scenario.network, scenario.task
    return RayWorld(network, task, job.method, job.seed, make=f"{__name__}:built", described=described, address=job.options.address)


def _open_flower(job: Job, scenario: Scenario) -> MeasuredWorld:
    """Return the job's world on the machines of this user's deployment."""
    from airloom.deployment import Deployment, default_folder  # brings psutil, which a simulated run does without
    from airloom.engines.flower import SuperLink
    from airloom.engines.star import StarWorld

    deployment = Deployment(default_folder())
    address = job.options.address or deployment.address
    if address is None:
        raise ScenarioError(f"engine flower: no deployment is up in '{deployment.folder}', and no SuperLink was named; start one with airloom up")
    sign, keys = deployment.sign(), deployment.keys
    described = {**job.describe(), "options": asdict(Options())}  # how it is run is not the nodes' business
    transport = SuperLink(address, deployment.ca, deployment.secret, keys, str(deployment.folder / "flwr"))
    return StarWorld(
        network=scenario.network, task=scenario.task, method=job.method, seed=job.seed, job=described, transport=transport,
        names=list(keys), sign=sign,
    )  # fmt: skip


# whose classes the fields of a job may be of
_FIELDS = ("airloom.parts.", "airloom.program.protection:", "airloom.security.", "airloom.tasks.", "airloom.network.", "airloom.models.")


def opener(allow: Sequence[str]) -> Callable[[Mapping[str, Any]], Opened]:
    """What turns a job into objects on a node, for methods and scenarios of airloom and of these files only (by name; the node's copies)."""
    files = {Path(file).name: str(Path(file).resolve()) for file in allow}

    def local(text: Any, rooms: Sequence[str]) -> str:
        if isinstance(text, str) and any(text in names_in(room) for room in rooms):
            return text
        place, _, thing = str(text).rpartition(":")
        if thing.isidentifier():
            if place.endswith(".py") and Path(place).name in files:
                return f"{files[Path(place).name]}:{thing}"
            if place.startswith(tuple(f"airloom.{room}." for room in rooms)) and importlib.util.find_spec(place) is not None:
                return f"{place}:{thing}"
        own = ", ".join(["airloom's own", *files])
        raise ScenarioError(f"job: got {str(text)[:200]!r}; this node was started for methods and scenarios of: {own}; start it with --allow FILE")

    def check_values(tree: Any) -> None:
        """Refuse classes other than those of the rooms that fields are made of."""
        if isinstance(tree, dict):
            named = tree.get("class")
            if named is not None and not str(named).startswith(_FIELDS):
                raise ScenarioError(f"job: got a value of class {str(named)[:200]!r}; allowed are airloom's parts, tasks and networks")
            for value in tree.values():
                check_values(value)
        elif isinstance(tree, list):
            for value in tree:
                check_values(value)

    def opened(described: Mapping[str, Any]) -> Opened:
        scenario = described.get("scenario")
        if not isinstance(scenario, Mapping):
            raise ScenarioError("job: got no scenario")
        check_values([described.get("fields"), scenario.get("fields")])
        text = local(described.get("text"), ("methods", "security", "serving"))
        job = Job.of({**described, "text": text, "scenario": {**scenario, "text": local(scenario.get("text"), ("scenarios",))}})
        check_engine(job.method, "flower")
        world = job.world.build(job.seed)
        return Opened(job.method, world.network, world.task, job.seed)

    return opened


def built(described: str) -> tuple[Network, Task, Method | Service, int]:
    """Return what a place needs of a job's text."""
    job = Job.of(json.loads(described))
    scenario = job.world.build(job.seed)
    return scenario.network, scenario.task, job.method, job.seed


def header(job: Job, scenario: Scenario) -> dict[str, Any]:
    """Return the record's header: the job, what it was made of, and all versions."""
    described, made = describe_method(job.method), job.describe()
    return {
        **made,
        "scenario": {**made["scenario"], "name": scenario.name, "facts": dict(scenario.fields)},
        "class": described["method"],
        "module": described["module"],
        "clock": "simulated" if job.engine == "simulated" else "measured",
        "target": job.options.target,
        "budget": dict(job.options.budget if job.options.budget is not None else scenario.budget),
        "network": scenario.network.describe(),
        "task": scenario.task.describe(),
        "versions": versions(),
        "code": code(job),
    }


def code(job: Job) -> dict[str, Any]:
    """Return the revision of a checkout of the package (None for an installed one), and digests of the user's own files."""
    texts = [text for text in (job.text, job.world.text) if text is not None]
    files = dict.fromkeys(text.rpartition(":")[0] for text in texts if ".py:" in text)
    own = {file: sha256(Path(file).read_bytes()).hexdigest()[:16] for file in files if Path(file).is_file()}
    revision, is_dirty = _revision()
    return {"revision": revision, "dirty": is_dirty, "files": own}


@lru_cache(maxsize=1)
def _revision() -> tuple[str | None, bool | None]:
    package = Path(__file__).parent
    if not (package.parent / ".git").exists():
        return None, None
    ask = ["git", "-C", str(package)]
    try:
        revision = subprocess.run([*ask, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        changed = subprocess.run([*ask, "status", "--porcelain", "--", "."], capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None, None
    return revision, bool(changed.strip())


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread, so that sums have one order wherever a job runs; freed memory stays for the next step."""
    keep_freed()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- several jobs ---------------------------------------------------------------------------------------------------------------------


class Event(NamedTuple):
    """What happens to a job: it starts, has a point of its curve, or ends (`values` then holds `status`)."""

    kind: Literal["start", "point", "end"]
    job: Job
    values: Mapping[str, Any]


Tell = Callable[[Event], None]


def check_spread(engine: str, is_portable: bool) -> None:
    """Refuse to spread over a Ray cluster what cannot run there."""
    check_extra("ray")
    if engine != "simulated":
        raise ScenarioError(f"workers 'ray' with engine '{engine}': allowed with engine simulated; the runs of engine '{engine}' follow each other")
    if not is_portable:
        raise ScenarioError("workers 'ray': a method or the scenario is an object that no file holds; give them by name or file")


def spread(work: Sequence[tuple[Job, Path]], workers: int | Literal["ray"], tell: Tell, *, is_resumed: bool = False) -> None:
    """Run all jobs into their folders; a run that fails leaves its record and does not stop the others.

    Arguments:
        work: jobs and folders.
        workers: processes; with one, or where a job is of this process only, they run here one after another. "ray" spreads over a cluster.
        tell: called with every event, one at a time.
        is_resumed: folders may hold records: finished ones are left alone, others go on.

    Raises:
        AirloomError: a job could not begin, or a record could not be written.
        KeyboardInterrupt: after all records were closed.
    """
    work = sorted(work, key=lambda pair: pair[0].seed)  # the same world is built once
    if workers == "ray":
        _over_ray(work, tell, is_resumed=is_resumed)
        return
    is_here = any(job.engine != "simulated" for job, _ in work)  # real machines are one world; runs there follow each other
    if min(workers, len(work)) > 1 and not is_here and all(job.is_portable for job, _ in work):
        _Spread(work, min(workers, len(work)), tell, is_resumed).run()
        return
    for job, out in work:
        state = _state(out) if is_resumed else "new"
        tell(Event("start", job, {}))
        end = {"status": state}
        if state in ("new", "unfinished"):
            try:
                run = execute(job, out, progress=lambda point, job=job: tell(Event("point", job, point)), is_resumed=state != "new")
                end = {"status": run.status}
            except AirloomError as error:
                end = _failed(error, out)
        tell(Event("end", job, end))
        if end["status"] == "interrupted":
            raise KeyboardInterrupt


def _over_ray(work: Sequence[tuple[Job, Path]], tell: Tell, *, is_resumed: bool) -> None:
    """Run all jobs on a Ray cluster; the files that a run leaves come back as bytes, so that no disk need be shared."""
    from airloom.engines.ray import run_all

    begun: list[tuple[Job, Path]] = []
    for job, out in work:
        state = _state(out) if is_resumed else "new"
        tell(Event("start", job, {}))
        if state not in ("new", "unfinished"):
            tell(Event("end", job, {"status": state}))
            continue
        begun.append((job, out))
    texts = [json.dumps({"job": job.describe(), "files": _files(out)}) for job, out in begun]
    address = begun[0][0].options.address if begun else None
    for i, answer in run_all(f"{__name__}:run_apart", texts, address):
        job, out = begun[i]
        told = json.loads(answer)
        out.mkdir(parents=True, exist_ok=True)
        for name, content in told["files"].items():
            (out / name).write_bytes(base64.b64decode(content))
        end = {"status": told["status"]}
        if "error" in told:
            kind = {"RecordError": RecordError} | {error.__name__: RunFailed for error in RUN_ERRORS}
            end = _failed(kind.get(told["error"], ScenarioError)(told["message"]), out)
        tell(Event("end", job, end))


def _files(folder: Path) -> dict[str, str]:
    """Return the files of a folder as text."""
    return {path.name: base64.b64encode(path.read_bytes()).decode() for path in folder.iterdir()} if folder.is_dir() else {}


def run_apart(text: str) -> str:
    """Run a job that came as text on another machine; return its end and the files that it left."""
    asked = json.loads(text)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        if asked["files"]:
            out.mkdir()
            for name, content in asked["files"].items():
                (out / name).write_bytes(base64.b64decode(content))
        told = _answer({"job": asked["job"], "out": str(out), "is_resumed": bool(asked["files"])}, lambda _: None)
        return json.dumps({"status": "failed", **told, "files": _files(out)})


def _state(out: Path) -> str:
    """Return "new", "unfinished" or how the run in a folder ended."""
    if not (out / FILE).is_file():
        return "new"
    status = load(out).status
    return "unfinished" if status == "interrupted" else status


def _failed(error: AirloomError, out: Path) -> dict[str, Any]:
    """Return the end of a run that has left a record of its failure; else raise."""
    if isinstance(error, RecordError) or not (out / FILE).is_file():
        raise error
    return {"status": load(out).status, "error": str(error)}


class _Spread:
    """Worker processes, each with a thread here that hands it jobs and listens to it."""

    def __init__(self, work: Sequence[tuple[Job, Path]], workers: int, tell: Tell, is_resumed: bool) -> None:
        self.work: queue.SimpleQueue[tuple[Job, Path]] = queue.SimpleQueue()
        for pair in work:
            self.work.put(pair)
        self.tell = tell
        self.is_resumed = is_resumed
        self.lock = threading.Lock()
        self.children: list[_Child] = []
        self.errors: list[BaseException] = []
        self.is_over = False
        self.threads = [threading.Thread(target=self._attend, daemon=True) for _ in range(workers)]

    def run(self) -> None:
        """Return when all jobs have ended."""
        for thread in self.threads:
            thread.start()
        try:
            for thread in self.threads:
                while thread.is_alive() and not self.errors:
                    thread.join(0.2)  # short, so that a Ctrl-C is heard
        except KeyboardInterrupt:
            self._stop()
            raise
        if self.errors:
            self._stop()
            raise self.errors[0]

    def _stop(self) -> None:
        """Interrupt the workers, which then close their records, and wait for them."""
        self.is_over = True
        for child in self.children:
            child.interrupt()
        ends_s = time.monotonic() + _GRACE_S
        for thread in self.threads:
            thread.join(max(0.0, ends_s - time.monotonic()))
        for child in self.children:
            child.kill()

    def _attend(self) -> None:
        child: _Child | None = None
        try:
            while not self.is_over:
                try:
                    job, out = self.work.get_nowait()
                except queue.Empty:
                    break
                state = _state(out) if self.is_resumed else "new"
                self._tell(Event("start", job, {}))
                end = {"status": state}
                if state in ("new", "unfinished"):
                    if child is not None and not child.is_alive:
                        child.close()
                        child = None
                    if child is None:
                        child = _Child()
                        self.children.append(child)
                    end = self._run(child, job, out, is_resumed=state != "new")
                self._tell(Event("end", job, end))
        except BaseException as error:  # told to the thread that waits
            self.is_over = True
            self.errors.append(error)
        if child is not None:
            child.close()

    def _run(self, child: _Child, job: Job, out: Path, *, is_resumed: bool) -> dict[str, Any]:
        """Have a worker run a job; return its end."""
        for answer in child.ask({"job": job.describe(), "out": str(out), "is_resumed": is_resumed}):
            if "point" in answer:
                self._tell(Event("point", job, answer["point"]))
            elif "status" in answer:
                return answer
            else:
                kind = {"RecordError": RecordError} | {error.__name__: RunFailed for error in RUN_ERRORS}
                return _failed(kind.get(answer["error"], ScenarioError)(answer["message"]), out)
        if self.is_over:
            return {"status": "interrupted"}
        how = child.last_words()
        return _failed(RunFailed(f"{job.label}, seed {job.seed}: its worker process died ({how}); if memory ran out, use fewer --workers"), out)

    def _tell(self, event: Event) -> None:
        with self.lock:
            self.tell(event)


class _Child:
    """A worker process: jobs as JSON lines in, events as JSON lines out."""

    def __init__(self) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        paths = [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.words = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "airloom.jobs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.words,
            text=True,
            encoding="utf-8",
            env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # a Ctrl-C on the terminal reaches the parent alone, which passes it on once
        )

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield what the worker says about a job, its last word last; ends early if the worker dies."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError:
            return
        for line in self.process.stdout:
            answer = json.loads(line)
            yield answer
            if "point" not in answer:
                return

    def last_words(self) -> str:
        """Return how the process ended and the last line it wrote."""
        status = self.process.wait()
        self.words.seek(0)
        lines = self.words.read().decode(errors="replace").strip().splitlines()
        return f"exit status {status}" + (f": {lines[-1]}" if lines else "")

    def interrupt(self) -> None:
        """Ask it to close its record."""
        if self.is_alive:
            self.process.send_signal(signal.SIGINT) if os.name == "posix" else self.process.terminate()

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if self.is_alive:
            self.process.kill()

    def close(self) -> None:
        """Let it end by itself."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.close()
        except OSError:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.words.close()


def serve() -> None:
    """Answer for a worker process: one JSON line per job on standard input, JSON lines on standard output until it has ended."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a user's text prints must not end up between the answers

    def say(answer: Mapping[str, Any]) -> None:
        try:
            channel.write(json.dumps(answer) + "\n")
            channel.flush()
        except OSError:  # whoever asked was killed: the run is interrupted, and can be resumed
            raise KeyboardInterrupt from None

    try:
        for line in iter(sys.stdin.readline, ""):
            say(_answer(json.loads(line), say))
    except KeyboardInterrupt:
        pass
    with suppress(OSError):
        channel.close()


def _answer(request: Mapping[str, Any], say: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    last_s = 0.0

    def progress(point: Mapping[str, Any]) -> None:
        nonlocal last_s
        if time.monotonic() - last_s > _EVERY_S:
            last_s = time.monotonic()
            say({"point": {name: value for name, value in point.items() if isinstance(value, int | float)}})

    try:
        run = execute(Job.of(request["job"]), Path(request["out"]), progress=progress, is_resumed=request["is_resumed"])
    except AirloomError as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"status": run.status}


if __name__ == "__main__":
    serve()
