"""Commands that look at what runs left: report, trace, explain, export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from airloom.commands.terminal import AsJson, Folder, answer, escape, out, say
from airloom.commands.watch import watch
from airloom.errors import RecordError, ScenarioError

OutFile = Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write")]


_FILES = "table.csv, table.tex, figure.pdf (.png, .svg); with --to a folder (tensorboard), a database file or a server of yours (mlflow)"
ExportFile = Annotated[Path, typer.Option("--out", metavar="FILE", help=_FILES, show_default=False)]
Folders = Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of runs or of comparisons", show_default=False)]


def report(ctx: typer.Context, folders: Folders, file: OutFile = Path("report.html"), as_json: AsJson = False) -> None:
    """Write one page about runs: curves, table, network, devices, timeline, data, configuration. It needs no network."""
    from airloom.records import report as page

    comparison = page.compared(folders)
    write(file, page.report(comparison))
    runs = sum(map(len, comparison.records.values()))
    if as_json:
        answer(ctx, {"out": str(file), "methods": list(comparison.methods), "runs": runs})
        return
    say(escape(f"{runs} run{'s' * (runs > 1)} in {file}; open it in a browser"))


def trace(ctx: typer.Context, folder: Folder, file: OutFile = Path("trace.json"), as_json: AsJson = False) -> None:
    """Write a run's timeline for Perfetto or chrome://tracing: one track per resource."""
    from airloom.records.timeline import load_timeline
    from airloom.records.trace import to_chrome

    timeline = load_timeline(folder)
    write(file, json.dumps(to_chrome(timeline), separators=(",", ":")))
    if as_json:
        answer(ctx, {"out": str(file), "rounds": len(timeline.rounds), "spans": len(timeline.spans), "is_cut": timeline.is_cut})
        return
    say(escape(f"{len(timeline.spans)} spans of {len(timeline.rounds)} rounds in {file}; open it at ui.perfetto.dev or in chrome://tracing"))


def explain(ctx: typer.Context, folder: Folder, as_json: AsJson = False) -> None:
    """Say where a run's time and energy went, in plain words."""
    from airloom.records.explain import explain as explained
    from airloom.records.record import load
    from airloom.records.timeline import load_timeline

    found = explained(load(folder), load_timeline(folder))
    if as_json:
        answer(ctx, found.as_dict())
        return
    for sentence in found.sentences:
        out(escape(sentence))


def export(
    ctx: typer.Context,
    folders: Folders,
    file: ExportFile,
    curves: Annotated[bool, typer.Option("--curves", help="CSV of all points instead of the table")] = False,
    to: Annotated[str, typer.Option("--to", metavar="TRACKER", help="tensorboard or mlflow")] = "",
    as_json: AsJson = False,
) -> None:
    """Write runs as CSV, LaTeX table or figure, or hand them to TensorBoard or MLflow."""
    from airloom.records import report as page
    from airloom.records import track

    suffix = file.suffix.lower()
    if to not in ("", "tensorboard", "mlflow"):
        raise ScenarioError(f"export --to {to!r}: allowed are tensorboard and mlflow")
    if not to and suffix not in (".csv", ".tex", ".pdf", ".png", ".svg"):
        raise ScenarioError(f"export --out '{file}': allowed are .csv, .tex, .pdf, .png and .svg, or --to tensorboard|mlflow")
    if to:
        records = page.gather(folders)
        made = track.to_tensorboard(records, file) if to == "tensorboard" else track.to_mlflow(records, _address(file))
        what = f"{len(made)} runs for {to} in {file}"
    else:
        comparison = page.compared(folders)
        if suffix == ".csv":
            write(file, (comparison.curves if curves else comparison.frame).to_csv(index=False))
        elif suffix == ".tex":
            write(file, comparison.to_latex())
        else:
            comparison.plot(file)
        what = f"written: {file}"
    if as_json:
        answer(ctx, {"out": str(file), "to": to or suffix[1:]})
        return
    say(escape(what))


def _address(file: Path) -> str:
    """MLflow's address: a server's, which the path type has folded, or a database file."""
    scheme, colon, rest = str(file).partition(":/")
    return f"{scheme}://{rest.lstrip('/')}" if colon and scheme in ("http", "https") else f"sqlite:///{file}"


def write(file: Path, text: str) -> None:
    """Write a file, in a folder that exists."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecordError(f"--out '{file}': cannot be written: {error.strerror}; give a file in a folder that exists") from error


COMMANDS: tuple[Callable[..., Any], ...] = (report, watch, explain, trace, export)
