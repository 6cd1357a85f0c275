"""`airloom data`: which data sets there are, where they lie, and how they get there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from airloom.commands.terminal import AsJson, answer, escape, out, say
from airloom.errors import ScenarioError

data = typer.Typer(no_args_is_help=True, help="Data sets: which there are, where they lie, and how they get there.")


@data.command("list")
def list_data(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the data sets, whether they are there, and where they are looked for."""
    from airloom.doctor import missing
    from airloom.tasks import datasets

    folder = os.environ.get("AIRLOOM_DATA")
    rows = [{"name": name, "found": not missing(name), "files": list(datasets.files(name))} for name in datasets.names()]
    if as_json:
        answer(ctx, {"data": rows, "folder": folder})
        return
    for row in rows:
        state = "[green]there[/]" if row["found"] else "[yellow]missing[/]"
        out(f"{row['name']:16} {state}  [dim]{escape(', '.join(row['files']) or 'built in')}[/]")
    out(escape(f"looked in {folder}" if folder else "AIRLOOM_DATA is not set: put the files into a folder and set AIRLOOM_DATA to it"))


@data.command("where")
def where_data(ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)], as_json: AsJson = False) -> None:
    """Print where the files of a data set lie."""
    from airloom.doctor import missing, places

    found = places(name)
    if missing(name):
        folder = os.environ.get("AIRLOOM_DATA")
        where = f"not in {folder} (AIRLOOM_DATA)" if folder else "AIRLOOM_DATA is not set"
        raise ScenarioError(f"data '{name}': {', '.join(missing(name))} is not there; {where}; put it into a folder and set AIRLOOM_DATA to that")
    if as_json:
        answer(ctx, {"name": name, "files": {file: str(path) for file, path in found.items()}})
    else:
        print("\n".join(str(path) for path in found.values()) or f"{name} is built in")


@data.command("get")
def get_data(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    folder: Annotated[Path | None, typer.Option("--folder", metavar="DIR", help="Data folder; AIRLOOM_DATA if not given", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a data set from its publisher, check its sums, and go on where an interrupted fetch stopped."""
    from airloom.tasks.published import fetch

    chosen = folder or (Path(os.environ["AIRLOOM_DATA"]) if os.environ.get("AIRLOOM_DATA") else None)
    if chosen is None:
        raise ScenarioError(f"data get '{name}': AIRLOOM_DATA is not set; set it to the folder for data, or give --folder")
    done = fetch(name, chosen.expanduser(), lambda line: say(escape(line)))
    if as_json:
        answer(ctx, {"name": name, "files": [str(path) for path in done]})
    else:
        print("\n".join(map(str, done)))
