"""One self-contained page about runs: curves, table, network, devices, timeline, partition, clients, configuration.

The page is `page/report.html` with its style, its script and the data as JSON put in; it asks the network for nothing.
"""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from airloom.clock.span import Span
from airloom.errors import RecordError
from airloom.records.compare import Comparison, build, cost_of
from airloom.records.explain import critical_path, explain
from airloom.records.record import FILE, Record, load
from airloom.records.table import cells, is_rate
from airloom.records.timeline import FILE as TIMELINE
from airloom.records.timeline import Timeline, load_timeline
from airloom.records.world import load_world

PLAN = "plan.json"  # of a comparison
COSTS = ("seconds", "bytes", "joules", "rounds")
POINTS = 500  # most points of a curve on the page (ours)
SPANS = 20_000  # most spans of all timelines together (ours); about 1.5 MB
DEVICES = 60  # most devices of a timeline's round: those that are done last


def gather(folders: Sequence[Path]) -> list[Record]:
    """Return the records in and below folders, without those of tuning.

    Raises
    ------
    RecordError
        If a folder holds none.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        paths = [path for path in sorted(folder.rglob(FILE)) if "tune" not in path.relative_to(folder).parts]
        if not paths:
            raise RecordError(f"'{folder}': found no {FILE} in or below it; give the folder of a run or of a comparison")
        found |= {path.parent.resolve(): None for path in paths}
    return [load(folder) for folder in found]


def compared(folders: Sequence[Path]) -> Comparison:
    """Return all runs in and below folders as one comparison; the target is that of the first record that has one.

    Methods stand in the order in which they were compared, else in that of their folders.
    """
    records = gather(folders)
    goals = [record.header["target"] for record in records if record.header.get("target")]
    planned = [
        label for folder in folders if (folder / PLAN).is_file() for label in json.loads((folder / PLAN).read_text(encoding="utf-8"))["labels"]
    ]
    there = [str(record.header.get("label") or record.header.get("method")) for record in records]
    order = list(dict.fromkeys([*(label for label in planned if label in there), *there]))
    is_one_clock = len({record.header.get("clock") for record in records}) == 1  # else labels say which
    return build(records, target=(str(goals[0][0]), float(goals[0][1])) if goals else None, methods=order if is_one_clock else None)


def report(comparison: Comparison) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    comparison : Comparison
        Of one run or of several.
    """
    text = json.dumps(_finite(page_data(comparison)), separators=(",", ":"), allow_nan=False)
    here = files("airloom.records") / "page"
    page = (here / "report.html").read_text(encoding="utf-8")
    parts = {
        "/*STYLE*/": (here / "report.css").read_text(encoding="utf-8"),
        "/*SCRIPT*/": (here / "report.js").read_text(encoding="utf-8"),
        "/*DATA*/": text.replace("<", "\\u003c"),  # so that no text of the user's can end the script
    }
    for mark, part in parts.items():
        page = page.replace(mark, part, 1)
    return page


def page_data(comparison: Comparison) -> dict[str, Any]:
    """Return everything that the page shows."""
    titles, rows = cells(comparison)
    names = list(dict.fromkeys(name for seeds in comparison.records.values() for record in seeds.values() for name in _numeric(record)))
    runs = [(label, seed, record) for label, seeds in comparison.records.items() for seed, record in seeds.items()]
    return {
        "title": comparison.title,
        "clock": comparison.clock,
        "metric": comparison.metric,
        "metrics": [{"name": name, "is_rate": is_rate(name)} for name in sorted(names, key=lambda name: name != comparison.metric)],
        "target": None if comparison.target is None else {"metric": comparison.metric, "value": comparison.target, "direction": comparison.direction},
        "methods": list(comparison.methods),
        "table": {"titles": titles, "rows": [[cell._asdict() for cell in row] for row in rows]},
        "notes": list(comparison.notes),
        "runs": [_run(label, seed, record, names, SPANS // len(runs)) for label, seed, record in runs],
    }


def _numeric(record: Record) -> list[str]:
    """Names of metrics that are numbers."""
    last = {name: value for point in record.points for name, value in point.items()}
    return [name for name in record.metrics if isinstance(last.get(name), int | float) and not isinstance(last.get(name), bool)]


def _run(label: str, seed: int, record: Record, names: Sequence[str], spans: int) -> dict[str, Any]:
    summary = record.summary or {}
    timeline = load_timeline(record.folder) if (record.folder / TIMELINE).is_file() else None
    return {
        "label": label,
        "seed": seed,
        "status": record.status,
        "error": summary.get("error"),
        "points": _points(record, names),
        "devices": summary.get("devices", {}),
        "clients": summary.get("clients", {}),
        "world": load_world(record.folder),
        "timeline": None if timeline is None else _timeline(timeline, spans),
        "explanation": list(explain(record, timeline).sentences) if timeline is not None and timeline.spans else [],
        "header": record.header,
        "digest": summary.get("digest"),
    }


def _points(record: Record, names: Sequence[str]) -> dict[str, list[float | None]]:
    """Costs and metrics as columns; of a long curve every n-th point, the last one always."""
    step = math.ceil(len(record.points) / POINTS) or 1
    kept = [point for i, point in enumerate(record.points) if (len(record.points) - 1 - i) % step == 0]
    columns: dict[str, list[float | None]] = {cost: [cost_of(point, cost) for point in kept] for cost in COSTS}
    for name in names:
        columns[name] = [value if isinstance(value := point.get(name), int | float) else None for point in kept]
    return columns


def _timeline(timeline: Timeline, most: int) -> dict[str, Any]:
    """Whole rounds until there are enough spans; of a round with many devices those that are done last, and all that is not a client."""
    clients = set(timeline.clients())
    path = {(piece.span, piece.part) for piece in critical_path(timeline) if piece.span is not None}
    critical = {id(span) for span, _ in path}
    rounds: list[dict[str, Any]] = []
    left = most
    for number, (begin_s, end_s) in timeline.bounds().items():
        inside = [span for span in timeline.spans if span.start_s < end_s and span.end_s > begin_s]
        last: dict[str, float] = {}
        for span in inside:
            device = _client(span, clients)
            if device is not None and span.on != "down":
                last[device] = max(last.get(device, begin_s), min(span.end_s, end_s))
        slow = sorted(last, key=lambda name: -last[name])[:DEVICES]
        kept = [span for span in inside if _client(span, clients) in (None, *slow)]
        if len(kept) > left and rounds:
            break
        left -= len(kept)
        rows = [_row(span, _client(span, clients), id(span) in critical) for span in kept]
        rounds.append({"round": number, "begin_s": begin_s, "end_s": end_s, "devices": slow, "of": len(last), "spans": rows})
    return {"root": timeline.root, "clients": sorted(clients), "rounds": rounds, "seconds": _seconds(timeline, clients)}


def _client(span: Span, clients: set[str]) -> str | None:
    """The client whose track a span is on."""
    device = span.other if span.kind == "message" and span.on == "down" else span.place
    return device if device in clients else None


def _row(span: Span, client: str | None, is_critical: bool) -> list[Any]:
    track = client or (span.place if span.kind == "call" else f"{span.place} to {span.other}")
    part = "compute" if span.kind == "call" else span.on
    return [track, part, span.start_s, span.end_s, span.label, span.bytes, span.joules, int(is_critical), int(span.is_lost)]


def _seconds(timeline: Timeline, clients: Iterable[str]) -> dict[str, list[float]]:
    """Seconds that each client computed, was on the radio, and did neither, over all recorded rounds."""
    own: dict[str, dict[str, list[tuple[float, float]]]] = {client: {"compute": [], "radio": []} for client in clients}
    end_s = timeline.end_s
    for span in timeline.spans:
        client = _client(span, set(own))
        if client is not None and span.start_s < end_s:
            own[client]["compute" if span.kind == "call" else "radio"].append((span.start_s, min(span.end_s, end_s)))
    whole_s = end_s - timeline.start_s
    found: dict[str, list[float]] = {}
    for client, parts in own.items():
        busy_s = _union(parts["compute"] + parts["radio"])
        found[client] = [_union(parts["compute"]), _union(parts["radio"]), whole_s - busy_s]
    return found


def _union(stretches: list[tuple[float, float]]) -> float:
    """Length of a union of intervals."""
    total, until = 0.0, -math.inf
    for start_s, end_s in sorted(stretches):
        total += max(0.0, end_s - max(start_s, until))
        until = max(until, end_s)
    return total


def _finite(value: Any) -> Any:
    """Return the value without the numbers that JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in cast(Mapping[str, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in cast(list[Any], value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value
