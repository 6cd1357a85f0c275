"""The command line. What it can do is in `airloom.api`; torch and all that needs it are imported by the commands that need it."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from airloom import __version__
from airloom.commands import look
from airloom.commands.data import data
from airloom.commands.options import budgets, pairs, target_of, workers_of
from airloom.commands.plan import plan
from airloom.commands.serve import serve
from airloom.commands.sweep import sweep
from airloom.commands.telling import answer_with_record, field_json, first_line, plain, progress, run_line, say_compared, say_run, show_record
from airloom.commands.terminal import AsJson, Folder
from airloom.commands.terminal import answer as _answer
from airloom.commands.terminal import escape as _escape
from airloom.commands.terminal import out as _out
from airloom.commands.terminal import say as _say
from airloom.commands.terminal import tables as _tables
from airloom.errors import AirloomError, DeviceLost, DoesNotFit, RunFailed

if TYPE_CHECKING:
    pass

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class _Group(TyperGroup):
    """Turns airloom's errors into one line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            folder = stop.args[0] if stop.args else None
            _say(f"[yellow]interrupted[/]{_escape('; go on with: airloom resume ' + str(folder)) if folder else ' before anything was written'}")
            raise typer.Exit(INTERRUPTED) from None
        except AirloomError as error:
            from airloom.resolve import line_of

            message = " ".join(f"{error}{line_of(error) if isinstance(error, RunFailed) else ''}".split())
            _say(f"[red]error:[/] {_escape(message)}")
            if ctx.obj["json"] and not ctx.obj["has_answered"]:
                print(json.dumps({"error": {"type": type(error).__name__, "message": message}}))
            raise typer.Exit(FAILED if isinstance(error, RunFailed | DoesNotFit | DeviceLost) else BAD_INPUT) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    suggest_commands=False,  # click does so itself
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Which method reaches my target first on my fleet, and what does it cost?",
)
app.add_typer(data, name="data")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 the run failed, 2 bad input, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread per process; read when torch is imported
    thresholds = gc.get_threshold()
    gc.set_threshold(100_000, 50, 50)  # imports make half a million objects that stay: looking for cycles among them takes 0.4 s
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_, **__: _say(f"[yellow]note:[/] {_escape(str(message))}")
        try:
            app(arguments, prog_name="airloom", obj={"json": "--json" in arguments, "has_answered": False})
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else DONE if end.code is None else FAILED
        finally:
            gc.set_threshold(*thresholds)
    return DONE


# --- options --------------------------------------------------------------------------------------------------------------------------


def _version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"airloom {__version__}")
        raise typer.Exit


def _complete(room: str) -> Callable[[str], list[str]]:
    """Return what completes a name on the shell."""

    def complete(incomplete: str) -> list[str]:
        from airloom.resolve import names_in  # imports nothing heavy

        return [name for name in names_in(room) if name.startswith(incomplete)]

    return complete


Methods = Annotated[
    list[str],
    typer.Argument(
        metavar="METHOD...",
        help="Name, file.py:Class or module:Class, with fields: fedavg:lr=0.1,select=oort",
        autocompletion=_complete("methods"),
        show_default=False,
    ),
]
OneMethod = Annotated[
    str,
    typer.Argument(
        metavar="METHOD",
        help="Name, file.py:Class or module:Class, with fields: fedavg:lr=0.1,select=oort",
        autocompletion=_complete("methods"),
        show_default=False,
    ),
]
ScenarioText = Annotated[
    str, typer.Option("--scenario", "-s", metavar="NAME|FILE", help="Name, file.py[:function] or file.json", autocompletion=_complete("scenarios"))
]
Engine = Annotated[str, typer.Option("--engine", help="Where it runs: simulated, or on real machines: ray, flower, ring (prima)")]
Address = Annotated[
    str | None, typer.Option("--address", metavar="HOST:PORT", help="Ray cluster to join; one is started here if not given", show_default=False)
]
Superlink = Annotated[
    str | None,
    typer.Option("--superlink", metavar="HOST:PORT", help="For engine flower; that of airloom up if not given", show_default=False),
]
DeploymentFolder = Annotated[
    Path | None,
    typer.Option(
        "--deployment", metavar="DIR", help="Folder with a deployment's keys; $AIRLOOM_DEPLOYMENT or the user's if not given", show_default=False
    ),
]
AllowedFiles = Annotated[
    list[str], typer.Option("--allow", metavar="FILE", help="Your own methods and scenarios that nodes may use", show_default=False)
]
NodeName = Annotated[str, typer.Argument(metavar="NAME", help="Of the node", show_default=False)]
Executor = Annotated[str, typer.Option("--executor", help="What computes the numbers: auto, loop, pool or stacked")]
Device = Annotated[str, typer.Option("--device", help="Where training steps run: cpu, cuda or cuda:NUMBER")]
Rung = Annotated[str, typer.Option("--fast", help="How training steps run: auto, off (the plain loop), replay, compile or kernel")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; one per core if not given", show_default=False)]
Spread = Annotated[
    str | None, typer.Option("--workers", metavar="N|ray", help="Processes, one per core if not given; ray: over a Ray cluster", show_default=False)
]
SetFields = Annotated[
    list[str], typer.Option("--set", metavar="FIELD=VALUE", help="Of the method; or scenario.field=value, task.field=value", show_default=False)
]
TargetText = Annotated[
    str | None,
    typer.Option("--target", metavar="METRIC=VALUE", help="Such as accuracy=0.9, or none; the scenario's if not given", show_default=False),
]
StopAtTarget = Annotated[bool, typer.Option("--stop-at-target", help="End a run when its target is reached")]
Budget = Annotated[
    list[str],
    typer.Option(
        "--budget",
        metavar="COST=AMOUNT",
        help="seconds, bytes, joules or rounds at which a run ends; the scenario's if not given",
        show_default=False,
    ),
]
EvalEvery = Annotated[int, typer.Option("--eval-every", min=1, metavar="N", help="Rounds between evaluations")]
CheckpointEvery = Annotated[float, typer.Option("--checkpoint-every", min=0, metavar="SECONDS", help="Least wall seconds between checkpoints")]
LogPayloads = Annotated[bool, typer.Option("--log-payloads", help="Write a line per message that crossed a link")]
TimelineRounds = Annotated[
    int, typer.Option("--timeline", min=0, metavar="N", help="First rounds whose calls and messages are recorded for trace, explain and report")
]
OutFolder = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Folder of the record; a fresh one below runs/ if not given", show_default=False)
]


@app.callback()
def _all(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end")] = False) -> None:
    pass


# --- commands -------------------------------------------------------------------------------------------------------------------------


@app.command()
def run(
    ctx: typer.Context,
    method: OneMethod,
    scenario: ScenarioText = "phones",
    seed: Annotated[int, typer.Option("--seed", help="Of the world and of the training")] = 0,
    engine: Engine = "simulated",
    address: Address = None,
    executor: Executor = "auto",
    device: Device = "cpu",
    fast: Rung = "auto",
    workers: Workers = None,
    fields: SetFields = [],  # noqa: B006  (typer reads it only)
    target: TargetText = None,
    stop_at_target: StopAtTarget = False,
    budget: Budget = [],  # noqa: B006
    eval_every: EvalEvery = 1,
    checkpoint_every: CheckpointEvery = 30.0,
    log_payloads: LogPayloads = False,
    timeline: TimelineRounds = 10,
    superlink: Superlink = None,
    deployment: DeploymentFolder = None,
    out: OutFolder = None,
    as_json: AsJson = False,
) -> None:
    """Run one method in one world and leave a record."""
    if engine == "ring":
        from airloom.commands.ring import ring

        ring(ctx, method, seed, workers, pairs(fields), out, as_json)
        return
    from airloom import api, jobs
    from airloom.runner import Options

    options = Options(
        executor=executor,
        device=device,
        fast=fast,
        workers=workers,
        stop_at_target=stop_at_target,
        budget=budgets(budget),
        eval_every=eval_every,
        checkpoint_every_s=checkpoint_every,
        log_payloads=log_payloads,
        timeline=timeline,
        address=address or superlink,
    )
    _use_deployment(deployment)
    job, folder = api.prepare(method, scenario, seed, pairs(fields), target_of(target), engine, options, "auto" if out is None else out)
    assert folder is not None
    with progress() as tell:
        try:
            done = jobs.execute(job, folder, progress=lambda point: tell(jobs.Event("point", job, point)))
        except AirloomError:
            answer_with_record(ctx, folder)
            raise
    say_run(ctx, done)


@app.command()
def compare(
    ctx: typer.Context,
    methods: Methods,
    scenario: ScenarioText = "phones",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Worlds, one per seed")] = 3,
    seed: Annotated[int, typer.Option("--seed", help="The first seed")] = 0,
    tune: Annotated[
        int, typer.Option("--tune", min=0, metavar="N", help="Trials per method before the runs, on another world and validation data")
    ] = 0,
    engine: Engine = "simulated",
    address: Address = None,
    executor: Executor = "auto",
    device: Device = "cpu",
    fast: Rung = "auto",
    workers: Spread = None,
    fields: SetFields = [],  # noqa: B006
    target: TargetText = None,
    stop_at_target: StopAtTarget = False,
    budget: Budget = [],  # noqa: B006
    eval_every: EvalEvery = 1,
    checkpoint_every: CheckpointEvery = 30.0,
    log_payloads: LogPayloads = False,
    timeline: TimelineRounds = 10,
    out: OutFolder = None,
    as_json: AsJson = False,
) -> None:
    """Run several methods in the same worlds: which reaches the target first, and at what cost?"""
    from airloom import api
    from airloom.runner import Options

    options = Options(
        executor=executor,
        device=device,
        fast=fast,
        stop_at_target=stop_at_target,
        budget=budgets(budget),
        eval_every=eval_every,
        checkpoint_every_s=checkpoint_every,
        log_payloads=log_payloads,
        timeline=timeline,
        address=address,
    )
    request = api.request_of(methods, scenario, seeds, seed, tune, pairs(fields), target_of(target), engine, options)
    with progress(len(request.seeds)) as tell:
        done = api.start(request, workers=workers_of(workers), out="auto" if out is None else out, progress=tell)
    say_compared(ctx, done)


@app.command()
def resume(ctx: typer.Context, folder: Folder, workers: Spread = None, deployment: DeploymentFolder = None, as_json: AsJson = False) -> None:
    """Go on with a run or a comparison that was interrupted."""
    _use_deployment(deployment)
    from airloom import api
    from airloom.jobs import Event, Job

    is_one = not (folder / api.PLAN).is_file()
    with progress(None if is_one else len(api.plan_of(folder)["seeds"])) as tell:
        try:
            job: list[Job] = []
            done = api.go_on(
                folder,
                workers=workers_of(workers),
                begins=job.append,
                progress=(lambda point: tell(Event("point", job[0], point))) if is_one else tell,
            )
        except AirloomError as error:
            if isinstance(error, RunFailed | DoesNotFit | DeviceLost):
                answer_with_record(ctx, folder)
            raise
    say_compared(ctx, done) if isinstance(done, api.Compared) else say_run(ctx, done)


@app.command()
def show(ctx: typer.Context, folder: Folder, as_json: AsJson = False) -> None:
    """Show what lies in the folder of a run or of a comparison."""
    from airloom import api

    found = api.show(folder)
    if isinstance(found, api.Comparison):
        if as_json:
            _answer(ctx, json.loads(found.to_json(out=folder)))
        else:
            _tables().print(found.table())
    elif as_json:
        _answer(ctx, api.summary_of(found))
    else:
        show_record(found)


@app.command()
def up(
    ctx: typer.Context,
    nodes: Annotated[int, typer.Option("--nodes", min=0, help="Nodes on this machine")] = 3,
    tls: Annotated[bool, typer.Option("--tls", help="Encrypted, with own certificates and node keys; always so")] = True,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for other machines too")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one")] = 0,
    names: Annotated[
        list[str], typer.Option("--name", metavar="HOST", help="By which other machines reach this one, for the certificate", show_default=False)
    ] = [],  # noqa: B006
    allow: AllowedFiles = [],  # noqa: B006
    deployment: DeploymentFolder = None,
    as_json: AsJson = False,
) -> None:
    """Bring up a deployment for engine flower: a SuperLink and nodes, with certificates and keys of their own."""
    from airloom import deployment as here

    folder = (deployment or here.default_folder()).absolute()
    began_s = time.monotonic()
    address = here.up(folder, nodes=nodes, host=host, port=port, names=names, allow=allow)
    took_s = time.monotonic() - began_s
    if as_json:
        _answer(ctx, {"address": address, "deployment": str(folder), "nodes": nodes, "seconds": took_s})
        return
    _out(f"up after {took_s:.1f} s: SuperLink at {address}, {nodes} nodes; keys and logs in {_escape(str(folder))}")
    _out(_escape(f"run:   airloom run fedavg --engine flower --superlink {address}\nstop:  airloom down\n\n{here.how_to(folder, address)}"))


@app.command()
def down(
    ctx: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Keep keys, logs and what clients keep; else all of it is deleted")] = False,
    deployment: DeploymentFolder = None,
    as_json: AsJson = False,
) -> None:
    """Stop the deployment of this machine and delete its folder."""
    from airloom import deployment as here

    folder = (deployment or here.default_folder()).absolute()
    stopped = here.down(folder, keep=keep)
    if as_json:
        _answer(ctx, {"stopped": stopped, "deleted": not keep})
        return
    _out(f"stopped {', '.join(stopped) or 'nothing'}; {'kept' if keep else 'deleted'} {_escape(str(folder))}")


@app.command()
def key(name: NodeName, folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="For NAME.key and NAME.pub")] = Path("node")) -> None:
    """Make the key pair of a node; the private key stays on this machine."""
    from airloom import deployment as here

    private, public = here.make_node_key(folder, name)
    _out(_escape(f"made {private} (keep it here) and {public} (for airloom admit {name} {public.name}, on the server)"))


@app.command()
def admit(
    name: NodeName,
    public_key: Annotated[Path, typer.Argument(metavar="FILE", help="Its public key", show_default=False)],
    deployment: DeploymentFolder = None,
) -> None:
    """Let the node with this public key take part in the deployment of this machine."""
    from airloom import deployment as here

    folder = (deployment or here.default_folder()).absolute()
    here.admit(folder, name, public_key)
    _out(_escape(f"node '{name}' may take part; it needs {folder / 'ca.pem'} and {folder / 'server.pub'}"))


@app.command()
def node(
    name: NodeName,
    superlink: Annotated[str, typer.Option("--superlink", metavar="HOST:PORT", show_default=False)],
    ca: Annotated[Path, typer.Option("--ca", metavar="FILE", help="The deployment's ca.pem")] = Path("ca.pem"),
    server: Annotated[Path, typer.Option("--server", metavar="FILE", help="The deployment's server.pub")] = Path("server.pub"),
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="This node's private key; node/NAME.key if not given")] = None,
    states: Annotated[
        Path | None, typer.Option("--states", metavar="DIR", help="For what clients keep; without one they forget when this process ends")
    ] = None,
    allow: AllowedFiles = [],  # noqa: B006
) -> None:
    """Be a node of a deployment until Ctrl-C: run the clients that live here."""
    from airloom import deployment as here
    from airloom import jobs

    here.serve_node(
        name, superlink=superlink, ca=ca, server=server, key=key or Path("node") / f"{name}.key", states=states,
        open_job=jobs.opener(allow),
        say=lambda line: _say(_escape(f"node '{name}': {line}")),
    )  # fmt: skip


@app.command()
def calibrate(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run on real machines", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.json", help="Scenario file to write")] = Path("fleet.json"),
    as_json: AsJson = False,
) -> None:
    """Turn a measured run into a scenario that the simulator can run."""
    from airloom import api
    from airloom.records.table import human

    found = api.calibrate(folder, out)
    if as_json:
        _answer(ctx, {**found, "out": str(out)})
        return
    for name, device in found["measured"]["devices"].items():
        low, middle, high = (value / 1e9 for value in device["spread_flops_per_s"])
        _out(_escape(f"{name:14} {middle:.3g} GFLOP/s ({low:.3g} to {high:.3g}), {device['calls']} calls"))
    for link in found["measured"]["links"]:
        low, _, high = (value / 1e6 for value in link["spread_bps"])
        what = f"{link['rate_bps'] / 1e6:.3g} Mbit/s ({low:.3g} to {high:.3g}), {human('seconds', link['latency_s'])}"
        _out(_escape(f"{link['source']} -> {link['target']}: {what}, {link['messages'] or 'no'} messages"))
    _say(_escape(f"scenario in {out}; next: airloom predict METHOD --scenario {out}"))


@app.command()
def predict(
    ctx: typer.Context,
    method: OneMethod,
    scenario: ScenarioText = "phones",
    seed: Annotated[int, typer.Option("--seed", help="Of the world and of the training")] = 0,
    fields: SetFields = [],  # noqa: B006
    target: Annotated[str | None, typer.Option("--target", metavar="METRIC=VALUE", help="Look as far as this", show_default=False)] = None,
    budget: Budget = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Say what a run would take: seconds, bytes and joules, before anything is run."""
    from airloom import api
    from airloom.records.table import human

    goal = None if target is None else target_of(target)
    told = api.predict(method, scenario=scenario, seed=seed, set=pairs(fields), target=goal, budget=budgets(budget))
    if as_json:
        _answer(ctx, told)
        return
    _out(run_line(told))
    if told["seconds_per_round"] is not None:
        _out(_escape(f"per round: {human('seconds', told['seconds_per_round'])} (median of {len(told['seconds_by_round'])})"))


@app.command()
def methods(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the methods and their fields."""
    from airloom.resolve import fields_of, find_method, methods_there_are

    found = [find_method(name) for name in methods_there_are()]
    if as_json:
        rows = [
            {
                "name": c.name,
                "about": first_line(c.cls),
                "paper": c.cls.paper,
                "shape": c.cls.shape,
                "engines": c.cls.engines,
                "fields": list(map(field_json, fields_of(c.cls).values())),
            }
            for c in found
        ]
        _answer(ctx, {"methods": rows})
        return
    for c in found:
        _out(f"[bold]{c.name}[/]  {_escape(first_line(c.cls))}  [dim]{_escape(c.cls.paper)}; {c.cls.shape}; {', '.join(c.cls.engines)}[/]")
        for field in map(field_json, fields_of(c.cls).values()):
            allowed = f" in {field['range']}" if field["range"] else ""
            tuned = f", tuned over {', '.join(f'{v:g}' for v in field['tune'])}" if field["tune"] else ""
            _out(f"    {field['name']} = {_escape(str(field['default']))}  [dim]{_escape(field['type'] + allowed + tuned)}[/]")


@app.command()
def scenarios(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the scenarios and their fields."""
    from dataclasses import is_dataclass

    from airloom.resolve import fields_of, find_function, names_in

    rows: list[dict[str, Any]] = []
    for name in names_in("scenarios"):
        function = find_function(name)
        known = fields_of(function)
        settings = known["task"].default if "task" in known and is_dataclass(known["task"].default) else None
        task = (
            [] if settings is None else [{**field_json(f), "default": plain(getattr(settings, f.name))} for f in fields_of(type(settings)).values()]
        )
        own = [field_json(f) for f in known.values() if f.name not in ("seed", "task")]
        rows.append({"name": name, "about": first_line(function), "fields": own, "task": task})
    if as_json:
        _answer(ctx, {"scenarios": rows})
        return
    for row in rows:
        _out(f"[bold]{row['name']}[/]  {_escape(row['about'])}")
        for prefix, fields in (("scenario", row["fields"]), ("task", row["task"])):
            shown = ", ".join(f"{field['name']}={field['default']}" for field in fields)
            _out(f"    [dim]{prefix}.[/] {_escape(shown) or 'no fields'}")


@app.command()
def doctor(
    ctx: typer.Context,
    profile: Annotated[
        Path | None, typer.Option("--profile", metavar="FILE", help="Measure this machine instead, for the scenario home", show_default=False)
    ] = None,
    link: Annotated[str, typer.Option("--link", metavar="RATE:LATENCY", help="Of its network, bit/s and seconds", show_default=False)] = "",
    watts: Annotated[float | None, typer.Option("--watts", min=0, help="What it draws while it computes", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine: what is there, what is missing, and what to do about it."""
    if profile is not None:
        from airloom.commands.ring import write_profile

        write_profile(profile, link, watts)
        return
    from airloom.doctor import checks

    found = []
    for check in checks(Path("runs")):
        found.append(check)
        if not as_json:
            state = "[green]ok     [/]" if check.is_good else "[red]missing[/]" if check.is_needed else "[yellow]missing[/]"
            _out(f"{state} {check.name:13} {_escape(check.found)}{'' if check.is_good else _escape('  -> ' + check.advice)}")
    if as_json:
        rows = [{"name": c.name, "ok": c.is_good, "found": c.found, "advice": c.advice * (not c.is_good), "needed": c.is_needed} for c in found]
        _answer(ctx, {"checks": rows})
    if not all(check.is_good or not check.is_needed for check in found):
        raise typer.Exit(FAILED)


for command in (*look.COMMANDS, sweep, plan, serve):
    app.command()(command)


def _use_deployment(folder: Path | None) -> None:
    """Let engine flower find its keys."""
    if folder is not None:
        os.environ["AIRLOOM_DEPLOYMENT"] = str(folder.absolute())
