"""`airloom sweep`: a crossover map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airloom.commands.terminal import AsJson, answer, escape, out, say


def sweep(
    ctx: typer.Context,
    methods: Annotated[list[str], typer.Argument(metavar="METHOD...", help="Two or more, as in compare", show_default=False)],
    over: Annotated[
        list[str], typer.Option("--over", metavar="FIELD=FROM:TO:STEPS", help="One or two fields: link.rate_bps=1e6:1e8:7, scenario.devices=10,20,40")
    ],
    scenario: Annotated[str, typer.Option("--scenario", "-s", metavar="NAME|FILE", help="As in compare")] = "phones",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Worlds per point")] = 3,
    seed: Annotated[int, typer.Option("--seed", help="The first seed")] = 0,
    fields: Annotated[list[str], typer.Option("--set", metavar="FIELD=VALUE", help="As in compare", show_default=False)] = [],  # noqa: B006
    target: Annotated[str | None, typer.Option("--target", metavar="METRIC=VALUE", help="As in compare", show_default=False)] = None,
    budget: Annotated[list[str], typer.Option("--budget", metavar="COST=AMOUNT", help="As in compare", show_default=False)] = [],  # noqa: B006
    cost: Annotated[str, typer.Option("--cost", help="What the winner needs least of: seconds, bytes_up, bytes_down or joules")] = "seconds",
    stability: Annotated[bool, typer.Option(help="Compare again with 3 dB more and less, and with devices twice as fast")] = True,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; one per core if not given", show_default=False)] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder; a sweep that was interrupted goes on there", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find which method wins where: a map over one or two fields, and how stable the winner is."""
    from airloom.commands.options import budgets, pairs, target_of
    from airloom.sweep import FIGURE, Axis
    from airloom.sweep import sweep as swept

    made = swept(
        methods,
        [Axis.of(text) for text in over],
        scenario=scenario,
        seeds=seeds,
        first_seed=seed,
        set=pairs(fields),
        target=target_of(target),
        budget=budgets(budget),
        cost=cost,
        is_checked=stability,
        workers=workers,
        out="auto" if folder is None else folder,
        tell=lambda line: say(escape(line)),
    )
    if as_json:
        answer(ctx, made.to_json())
        return
    out(f"[bold]{escape(made.title)}[/]")
    for line in made.lines():
        out(escape(line))
    say(escape(f"the map is {FIGURE} in the folder of the sweep, with a comparison per point"))
