"""What commands say: the end of a run or a comparison, a record, and progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from airloom.commands.terminal import answer, console, escape, out, say, tables
from airloom.errors import RunFailed

if TYPE_CHECKING:
    from rich.console import Console

    from airloom.api import Compared
    from airloom.jobs import Event
    from airloom.records.record import Record
    from airloom.runner import Run

_LINE_S = 10.0  # seconds between two lines about a run's progress, where there is no terminal


# --- what is said ---------------------------------------------------------------------------------------------------------------------


def answer_with_record(ctx: typer.Context, folder: Path) -> None:
    """Answer for a run that failed, if it left a record."""
    from airloom import api
    from airloom.records.record import FILE, load

    if ctx.obj["json"] and (folder / FILE).is_file():
        answer(ctx, api.summary_of(load(folder)))


def say_run(ctx: typer.Context, done: Run) -> None:
    """The end of a run."""
    from airloom import api

    summary = api.summary_of(done)
    if ctx.obj["json"]:
        answer(ctx, summary)
    else:
        out(run_line(summary))
    if done.status == "interrupted":
        raise KeyboardInterrupt(str(done.out))
    say(escape(f"record in {done.out}; next: airloom show {done.out}, or airloom compare with other methods"))


def run_line(summary: Mapping[str, Any]) -> str:
    from airloom.records.table import human, metric_text

    metrics = [f"{name} {metric_text(name, value)}" for name, value in summary["metrics"].items() if isinstance(value, int | float)]
    costs = [human("seconds", summary["seconds"])]
    costs += [f"up {human('bytes', summary['bytes_up'])}", f"down {human('bytes', summary['bytes_down'])}", human("joules", summary["joules"])]
    where = f"{summary['label']} in {summary['scenario']}, seed {summary['seed']}"
    line = f"{where}: {', '.join(metrics) or 'not evaluated'}; {', '.join(costs)}, {summary['rounds']} rounds ({summary['status']})"
    if "privacy" in summary:
        told = summary["privacy"]
        spent = f"epsilon {told['epsilon']:.3g} at delta {told['delta']:g}" if "epsilon" in told else "no epsilon is known"
        line += f"; privacy of a client after {told['releases']} releases: {spent}"
    target = summary["target"]
    if target is None:
        return escape(line)
    goal = f"{target['metric']} {metric_text(target['metric'], target['value'])}"
    end = f"[green]reached at {human('seconds', summary['reached_seconds'])}[/]" if summary["reached"] else "[yellow]not reached[/]"
    return f"{escape(f'{line}; {goal}')} {end}"


def say_compared(ctx: typer.Context, done: Compared) -> None:
    """The end of a comparison."""
    comparison = done.comparison
    if ctx.obj["json"]:
        answer(ctx, done.to_json())
    else:
        tables().print(comparison.table())
        for label, tuned in done.tuned.items():
            chosen = ", ".join(f"{name}={value}" for name, value in tuned["chosen"].items())
            how = f"{chosen}; by {tuned['by']}" if chosen else "nothing to tune"
            out(escape(f"tuned {label} ({tuned['trials']} trials, seed {tuned['seed']}): {how}"))
    if not done.tuned:
        hint = "--tune 8 to give every method its best fields"
    elif len(comparison.seeds) < 10:
        hint = "--seeds 10 for intervals"
    else:
        hint = f"airloom show {done.out}"
    say(escape(f"results in {done.out}: the figure is {done.figure.name if done.figure else 'missing'}, one record per run inside; next: {hint}"))
    if all(record.status == "failed" for seeds in comparison.records.values() for record in seeds.values()):
        raise RunFailed("compare: every run failed; see the notes below the table")


def show_record(record: Record) -> None:
    from rich.table import Table

    from airloom.api import summary_of
    from airloom.records.table import human

    header, summary = record.header, record.summary or {}
    code = header.get("code") or {}
    out = tables()
    if "options" in header:
        out.print(run_line(summary_of(record)))
    table = Table(show_header=False, box=None, pad_edge=False)
    rows: dict[str, Any] = {
        "folder": record.folder,
        "status": record.status + (" (its last line is cut)" if record.is_truncated else ""),
        "error": summary.get("error"),
        "method": header.get("label", header.get("method")),
        "fields": _listed(header.get("fields", {})),
        "scenario": (header.get("scenario") or {}).get("name"),
        "scenario fields": _listed((header.get("scenario") or {}).get("fields", {})),
        "budget": _listed(header.get("budget") or {}),
        "points": f"{len(record.points)}, with {', '.join(record.metrics)}",
        "backhaul, peer": " and ".join(human("bytes", summary.get(cost)) for cost in ("bytes_backhaul", "bytes_peer")),
        "idle, servers": " and ".join(human("joules", summary.get(cost)) for cost in ("joules_idle", "joules_server")),
        "executor": f"{header.get('engine')}, {header.get('executor')}, steps {header.get('fast')}, clock {header.get('clock')}",
        "versions": _listed(header.get("versions", {})),
        "code": f"{code['revision'][:12]}{' with changes' if code['dirty'] else ''}" if code.get("revision") else None,
        "digest": summary.get("digest"),
    }
    for name, value in rows.items():
        if value:
            table.add_row(f"[dim]{name}[/]", escape(str(value)))
    out.print(table)


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={plain(value)}" for name, value in values.items())


def plain(value: Any) -> Any:
    """Return a value as JSON for people: parts as `Name(field=value)`."""
    if isinstance(value, dict) and "class" in value:
        inner = ", ".join(f"{name}={plain(item)}" for name, item in value["fields"].items())
        return f"{value['class'].rpartition(':')[2]}({inner})"
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def field_json(field: Any) -> dict[str, Any]:
    """Return a field as JSON."""
    from airloom.resolve import NEEDED, type_text

    allowed = field.range
    is_needed = field.default is NEEDED
    return {
        "name": field.name,
        "type": type_text(field.type),
        "default": None if is_needed else plain(field.default),
        "needed": is_needed,
        "range": None if allowed is None else str(allowed),
        "tune": None if allowed is None or allowed.tune is None else list(allowed.tune),
    }


def first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


# --- progress -------------------------------------------------------------------------------------------------------------------------


@contextmanager
def progress(seeds: int | None = None) -> Iterator[Callable[[Event], None]]:
    """Lend what shows events: bars on a terminal (one per method), else a line now and then. `seeds` is None for a single run."""
    shown = console()
    if not shown.is_terminal:
        yield _lines(shown, seeds is not None)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[at]}"),
    )
    with Progress(*columns, console=shown, transient=True) as bars:
        yield _bars(bars, seeds or 1)


def _bars(bars: Any, seeds: int) -> Callable[[Event], None]:
    ids: dict[str, Any] = {}
    done: dict[str, dict[Any, float]] = {}
    budget: dict[str, float] = {}

    def tell(event: Event) -> None:
        job = event.job
        if not budget:
            budget.update(job.options.budget or job.world.build(job.seed).budget or {"none": math.inf})
        trial = job.notes.get("trial")
        name = job.label if trial is None else f"tuning {job.label}"
        if name not in ids:
            ids[name] = bars.add_task(escape(name), total=job.notes.get("trials", seeds), at="")
            done[name] = {}
        key = job.seed if trial is None else trial
        at = f"seed {job.seed}, {_at(event)}" if event.kind == "point" else ""
        done[name][key] = 1.0 if event.kind == "end" else max(done[name].get(key, 0.0), _share(event.values, budget))
        bars.update(ids[name], completed=sum(done[name].values()), **({"at": escape(at)} if at else {}))
        if event.kind == "end" and event.values.get("error"):
            bars.console.print(f"[red]{escape(name)}, seed {job.seed} {event.values['status']}:[/] {escape(event.values['error'])}")

    return tell


def _lines(console: Console, is_several: bool) -> Callable[[Event], None]:
    last_s = time.monotonic()

    def tell(event: Event) -> None:
        nonlocal last_s
        job = event.job
        what = f"{job.label}, seed {job.seed}" + (f", trial {job.notes['trial']}" if "trial" in job.notes else "")
        if event.kind == "end":
            error = event.values.get("error")
            console.print(escape(f"{what}: {event.values['status']}{': ' + error if error else ''}"))
        elif event.kind == "point" and not is_several and time.monotonic() - last_s > _LINE_S:
            last_s = time.monotonic()
            console.print(escape(f"{what}: {_at(event)}"))

    return tell


def _at(event: Event) -> str:
    """Return where a run stands."""
    from airloom.records.table import human, metric_text

    job, point = event.job, event.values
    metric = job.options.target[0] if job.options.target else next((name for name in ("accuracy", "loss") if name in point), None)
    shown = f", {metric} {metric_text(metric, point[metric])}" if metric is not None and metric in point else ""
    return f"round {point['round']}, {human('seconds', point['seconds'])}{shown}"


def _share(point: Mapping[str, Any], budget: Mapping[str, float]) -> float:
    """Return how much of a run's budget a point has spent."""
    if "seconds" not in point:
        return 0.0
    spent = {**point, "bytes": point["bytes_up"] + point["bytes_down"], "rounds": point["round"] + 1, "none": 0.0}
    return min(1.0, max(spent[name] / amount for name, amount in budget.items()))
