"""`airloom plan`: what a method decides before it runs, and why."""

from __future__ import annotations

from typing import Annotated

import typer

from airloom.commands.options import pairs
from airloom.commands.terminal import AsJson, answer, escape, out, tables


def plan(
    ctx: typer.Context,
    method: Annotated[str, typer.Argument(metavar="METHOD", help="A method that plans ahead: prima, prima:planner=halda", show_default=False)],
    scenario: Annotated[str, typer.Option("--scenario", "-s", metavar="NAME|FILE", help="As in run")] = "home",
    seed: Annotated[int, typer.Option("--seed", help="Of the world")] = 0,
    fields: Annotated[list[str], typer.Option("--set", metavar="FIELD=VALUE", help="As in run", show_default=False)] = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Show who does what, the predicted seconds, and why; nothing runs."""
    from airloom.api import planned

    rows, whole = planned(method, scenario, seed, pairs(fields))
    if as_json:
        answer(ctx, {"rows": rows, **whole})
        return
    from rich.table import Table

    table = Table(*rows[0])
    for row in rows:
        table.add_row(*[escape(str(value)) for value in row.values()])
    tables().print(table)
    out(escape(", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in whole.items())))
