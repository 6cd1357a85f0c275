"""`airloom serve`: answer real requests by a service's text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airloom.commands.terminal import escape, say


def serve(
    policy: Annotated[str, typer.Option("--policy", metavar="NAME", help="A service, with fields if wanted: cascade:theta=0.7")] = "cascade",
    scenario: Annotated[str, typer.Option("--scenario", "-s", metavar="NAME|FILE", help="Whose first device and endpoints")] = "assistant",
    host: Annotated[str, typer.Option("--host", help="Address to listen on; loopback unless you know better")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8080,
    most: Annotated[int, typer.Option("--most", min=1, help="Requests at once; more are refused (429)")] = 16,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Longest wait of a client in seconds (504 after it)")] = 60.0,
    boundary: Annotated[int, typer.Option("--boundary", min=0, max=3, help="Level of the privacy boundary towards the cloud")] = 0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    fields: Annotated[list[str], typer.Option("--set", metavar="FIELD=VALUE", help="As in compare", show_default=False)] = [],  # noqa: B006
    policy_from: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="Record of a run that trained the policy", show_default=False)
    ] = None,
    folder: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder of the record", show_default=False)] = None,
) -> None:
    """Answer on an OpenAI-compatible address: POST /v1/chat/completions; /health, /metrics, /v1/models."""
    from airloom.commands.options import pairs
    from airloom.gateway import gateway_of, library
    from airloom.gateway import serve as listen
    from airloom.resolve import Sets, find_method, find_scenario

    library("uvicorn")
    sets = Sets.of(pairs(fields))
    world = find_scenario(scenario, sets).build(seed)
    service = find_method(policy).make(world.suited, sets.method)
    gateway = gateway_of(world, service, seed=seed, most=most, timeout_s=timeout_s, level=boundary, out=folder, policy=policy_from)
    say(escape(f"{policy} on http://{host}:{port}/v1 (Ctrl-C ends)"))
    listen(gateway, host=host, port=port)
