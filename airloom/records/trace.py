"""A timeline in the Chrome trace format, for Perfetto and chrome://tracing: a process per place, a track per resource."""

from __future__ import annotations

from typing import Any

from airloom.clock.span import Span
from airloom.records.timeline import Timeline

_US = 1e6  # the format counts microseconds


def to_chrome(timeline: Timeline) -> dict[str, Any]:
    """Return the trace: complete events ("X") on one track per resource, and the rounds on the root's first track.

    A resource with several slots gets a track per slot in use. Messages are on the track of their link: `up` and `down` at the device, `to X` at the
    sender for all others.

    Returns
    -------
    dict
        JSON-able; times in microseconds of the simulated clock.
    """
    places = list(dict.fromkeys([timeline.root, *(_home(span)[0] for span in timeline.spans)]))
    pids = {place: i + 1 for i, place in enumerate(places)}
    tracks: dict[tuple[str, str], list[tuple[int, float]]] = {}  # (place, resource) -> its tracks, each with the time at which it is free
    tids: dict[str, int] = dict.fromkeys(places, 0)
    events: list[dict[str, Any]] = []
    for place, pid in pids.items():
        events.append({"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": place}})
        events.append({"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}})
    pid = pids[timeline.root]
    tids[timeline.root] = 1
    events.append({"ph": "M", "name": "thread_name", "pid": pid, "tid": 1, "args": {"name": "rounds"}})
    for number, (begin_s, end_s) in timeline.bounds().items():
        events.append(
            {"ph": "X", "name": f"round {number}", "cat": "round", "pid": pid, "tid": 1, "ts": begin_s * _US, "dur": (end_s - begin_s) * _US}
        )
    for span in sorted(timeline.spans, key=lambda span: span.start_s):
        place, resource = _home(span)
        own = tracks.setdefault((place, resource), [])
        free = next((i for i, (_, until_s) in enumerate(own) if until_s <= span.start_s), None)
        if free is None:
            tids[place] += 1
            free = len(own)
            own.append((tids[place], 0.0))
            name = resource if not free else f"{resource} ({free + 1})"
            events.append({"ph": "M", "name": "thread_name", "pid": pids[place], "tid": tids[place], "args": {"name": name}})
        tid = own[free][0]
        own[free] = (tid, span.end_s)
        args: dict[str, Any] = {"round": span.round, "joules": span.joules}
        if span.kind == "message":
            args |= {"bytes": span.bytes, "from": span.place, "to": span.other, "for": span.goal, "latency_s": span.latency_s}
        if span.is_lost:
            args["lost"] = True
        category = "compute" if span.kind == "call" else "message"
        timing = {"ts": span.start_s * _US, "dur": (span.end_s - span.start_s) * _US}
        events.append({"ph": "X", "name": span.label, "cat": category, "pid": pids[place], "tid": tid, **timing, "args": args})
    return {"displayTimeUnit": "ms", "otherData": {"clock": "simulated", "root": timeline.root}, "traceEvents": events}


def _home(span: Span) -> tuple[str, str]:
    """Place and resource of a span's track."""
    if span.kind == "call":
        return span.place, span.on
    if span.on == "up":
        return span.place, "up"
    return (span.other, "down") if span.on == "down" else (span.place, f"to {span.other}")
