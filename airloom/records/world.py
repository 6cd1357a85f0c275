"""The world of a run, for pictures: `world.json` beside the record holds places, links and who has which data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from airloom.errors import RecordError
from airloom.network.link import Link
from airloom.network.network import Network
from airloom.tasks.task import Task

FORMAT = "airloom-world/1"
FILE = "world.json"
PLACES = 2_000  # most places of a file; servers first (ours)
_CLASSES = 100  # most classes that are counted per device
_LONG_BITS = 1e12  # a transfer so long that it sees the mean rate over fading


def describe_world(network: Network, task: Task, seed: int) -> dict[str, Any]:
    """Return what a picture of the world needs (plain JSON values).

    Rates are those of a link alone in its cell, at time 0, mean over fading, in bit/s.
    """
    servers = [name for name, place in network.places.items() if place.role != "client"]
    clients = [name for name, place in network.places.items() if place.role == "client"]
    chosen = [*servers, *clients][:PLACES]
    is_counted = 0 < task.dataset.classes <= _CLASSES
    places: list[dict[str, Any]] = []
    for name in chosen:
        place = network.places[name]
        entry: dict[str, Any] = {"name": name, "role": place.role, "parent": place.parent, "profile": place.device.profile}
        entry["speed_flops_per_s"] = place.device.speed_flops_per_s * place.device.efficiency
        if place.position_m is not None:
            entry["position_m"] = list(place.position_m)
        samples = task.samples(name)
        if samples:
            entry["samples"] = samples
            if is_counted:
                entry["counts"] = task.data(name).counts.tolist()
        places.append(entry)
    shown = set(chosen)
    links = [_link(link, seed) for link in network.links.values() if link.source in shown and link.target in shown]
    return {"format": FORMAT, "root": network.root, "classes": task.dataset.classes, "of": len(network.places), "places": places, "links": links}


def _link(link: Link, seed: int) -> dict[str, Any]:
    cell = link.cell
    if link.rate_bps is not None:
        rate = link.rate_bps
    elif link.trace is not None:
        rate = link.trace.rate_bps(0.0)
    else:
        assert cell is not None
        rate = cell.rate_bps(link, cell.bandwidth_hz, at_s=0.0, bits=_LONG_BITS, seed=seed)
    return {"from": link.source, "to": link.target, "direction": link.direction, "rate_bps": rate, "cell": None if cell is None else cell.name}


def save_world(folder: Path, world: dict[str, Any]) -> None:
    """Write `world.json`."""
    try:
        (folder / FILE).write_text(json.dumps(world, separators=(",", ":")) + "\n", encoding="utf-8")
    except OSError as error:
        raise RecordError(f"'{folder / FILE}' cannot be written: {error.strerror}; free some space, or choose another folder") from error


def load_world(folder: Path) -> dict[str, Any] | None:
    """Read `world.json`, or return None where a record has none.

    Raises
    ------
    RecordError
        If it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found = cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
        if found["format"] != FORMAT:
            raise ValueError(found["format"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"'{path}' cannot be read ({error}); restore it, or delete it to do without the picture of the network") from error
    return found
