"""From a measured run to a fleet that can be simulated: speeds of devices, rates and latencies of links, with their spread."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from airloom.errors import RecordError
from airloom.network.network import Network
from airloom.records.record import load

FILE = "measured.jsonl"
_LEAST_S = 1e-6  # of a message: clocks of two machines, set by pings, can show less than nothing
_LEAST_SHARE = 0.2  # of a message's time that is left for its bits, however long the pings were (ours)
_PEERS = 64  # clients of which all pairs get a link; of more, only pairs that have talked

Line = dict[str, Any]


def read_lines(folder: Path) -> list[Line]:
    """Return what a run on real machines has measured, line by line."""
    try:
        with open(folder / FILE, encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except OSError as error:
        raise RecordError(f"'{folder}': found no {FILE}; only runs on real machines (--engine ray) can be calibrated") from error
    except ValueError as error:
        raise RecordError(f"'{folder / FILE}': a line is no JSON ({error}); the file is damaged") from error


def calibrate(folder: Path, network_of: Callable[[Mapping[str, Any]], Network]) -> dict[str, Any]:
    """Return a scenario file's content: the run's scenario and what was measured in it.

    device:  seconds_per_sample(w) = median over its calls at width w;  without samples, speed = median FLOPs / seconds
    link:    latency = half of the ends' pings;  rate = 8 (bytes + framing) / (median seconds - latency)
    a link that nothing went over: the smaller of its source's rate to the root and the root's to its target
    places that talk straight to each other on Ray though the scenario has no link between them get one

    A message to the root takes until its program has it, not until the root's process has.

    Arguments:
        folder: of the run.
        network_of: builds the network of a record's header.

    Raises:
        RecordError: the record is not measured, or too short.
    """
    header, lines = load(folder).header, read_lines(folder)
    if header.get("clock") != "measured":
        raise RecordError(f"calibrate('{folder}'): its clock is {header.get('clock')}; only a measured run can be calibrated")
    network = network_of(header)
    pings = _by(lines, "ping", lambda line: line["to"])
    calls = _by(lines, "call", lambda line: line["place"])
    handed = {_pair(line) for line in lines if line["kind"] == "handed"}
    kinds = ("arguments", "value", "handed", "probe")
    sent = [line for line in lines if line["kind"] in kinds and line["bytes"] and not (line["kind"] == "value" and _pair(line) in handed)]
    messages = _by(sent, None, _pair)
    if not calls or not messages or network.root not in pings:
        raise RecordError(f"calibrate('{folder}'): it holds no calls or no messages; run at least one round")
    half_s = {name: min(line["seconds"] for line in own) / 2 for name, own in pings.items()}
    found = {pair: _link(own, half_s[pair[0]] + half_s[pair[1]], network.framing_bytes) for pair, own in messages.items() if pair[0] != pair[1]}
    links: list[dict[str, Any]] = []
    for source, target in network.links:
        link = found.get((source, target)) or _joined(found, source, target, network.root, half_s)
        if link is not None:
            links.append({"source": source, "target": target, **link})
    known = {(link["source"], link["target"]) for link in links}
    for (source, target), direction in _straight(network, set(found)).items() if header["engine"] == "ray" else ():
        link = found.get((source, target)) or _joined(found, source, target, network.root, half_s)
        if link is not None:
            links.append({"source": source, "target": target, "direction": direction, **link})
    real = [line for line in lines if line["kind"] in ("arguments", "value") and line["bytes"]]
    return {
        "scenario": header["scenario"]["text"],
        "packed": header["scenario"]["fields"],
        "measured": {
            "devices": {name: _device(own) for name, own in calls.items() if any(line["flops"] for line in own)},
            "links": links,
            "declared": [f"{source} -> {target}" for source, target in network.links if (source, target) not in known],
            "wire_overhead_bytes": int(median(line["wire_bytes"] - line["bytes"] for line in real)) if real else None,
            "engine": header["engine"],
            "method": header["label"],
            "rounds": 1 + max(line["round"] for line in lines),
        },
    }


def _straight(network: Network, met: set[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Pairs of clients, and of clients and the root, that have no link, with the direction that one would have."""
    clients = list(network.clients(network.root))
    pairs = {(name, network.root): "up" for name in clients} | {(network.root, name): "down" for name in clients}
    if len(clients) <= _PEERS:
        pairs |= {(a, b): "peer" for a in clients for b in clients if a != b}
    else:
        pairs |= {(a, b): "peer" for a, b in met if a in clients and b in clients}
    return {pair: direction for pair, direction in pairs.items() if pair not in network.links}


def _by(lines: Sequence[Line], kind: str | None, key: Callable[[Line], Any]) -> dict[Any, list[Line]]:
    found: dict[Any, list[Line]] = defaultdict(list)
    for line in lines:
        if kind is None or line["kind"] == kind:
            found[key(line)].append(line)
    return dict(found)


def _pair(line: Line) -> tuple[str, str]:
    return line["from"], line["to"]


def _spread(values: Sequence[float]) -> list[float]:
    """10th, 50th and 90th percentile."""
    return [float(v) for v in np.percentile(values, [10, 50, 90])]


def _device(calls: Sequence[Line]) -> dict[str, Any]:
    """Speed of a device from its calls."""
    trained = [line for line in calls if line["samples"]]
    rates = [line["flops"] / line["seconds"] for line in calls if line["flops"]]
    device: dict[str, Any] = {"speed_flops_per_s": float(median(rates)), "spread_flops_per_s": _spread(rates), "calls": len(calls)}
    if trained:
        widths = _by(trained, None, lambda line: line["width"])
        device["seconds_per_sample"] = {
            str(width): float(median(line["seconds"] / line["samples"] for line in own)) for width, own in sorted(widths.items())
        }
        device["spread_seconds_per_sample"] = _spread([line["seconds"] / line["samples"] for line in trained])
    return device


def _link(messages: Sequence[Line], latency_s: float, framing_bytes: int) -> dict[str, Any]:
    """Rate and latency of a link from its messages; those of the run itself count, probes only where there are no others."""
    own = [line for line in messages if line["kind"] != "probe"] or list(messages)
    nbytes = float(median(line["bytes"] for line in own)) + framing_bytes
    seconds = [max(line["seconds"], _LEAST_S) * nbytes / (line["bytes"] + framing_bytes) for line in own]
    whole_s = float(median(seconds))
    latency_s = min(latency_s, (1.0 - _LEAST_SHARE) * whole_s)
    rates = [8.0 * nbytes / max(s - latency_s, _LEAST_S) for s in seconds]
    return {"rate_bps": 8.0 * nbytes / (whole_s - latency_s), "latency_s": latency_s, "spread_bps": _spread(rates), "messages": len(own)}


def _joined(
    found: Mapping[tuple[str, str], dict[str, Any]], source: str, target: str, root: str, half_s: Mapping[str, float]
) -> dict[str, Any] | None:
    """A link that nothing went over, from what its ends exchanged with the root; None where that is not known either."""
    ends = [found[pair] for pair in ((source, root), (root, target)) if pair in found]
    if len(ends) < 2 - (source == root) - (target == root) or not ends:
        return None
    slow = min(ends, key=lambda link: link["rate_bps"])
    latency_s = half_s.get(source, 0.0) + half_s.get(target, 0.0)
    return {"rate_bps": slow["rate_bps"], "latency_s": latency_s, "spread_bps": slow["spread_bps"], "messages": 0}
