"""Where the time and the energy of a run went, in plain words, from the critical path through its timeline."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, NamedTuple, cast

from airloom.clock.span import Span
from airloom.records.record import Record
from airloom.records.table import human, number
from airloom.records.timeline import Timeline

Part = Literal["compute", "up", "down", "backhaul", "peer", "latency", "wait"]
_WORDS = {
    "compute": "computing",
    "up": "up-links",
    "down": "down-links",
    "backhaul": "the backhaul",
    "peer": "links between peers",
    "latency": "latency",
    "wait": "waiting without work under way",
}
_STRAGGLER = 2.0  # a device is a straggler from twice the median on (ours)
_NAMED = 3  # devices that a sentence names


class Piece(NamedTuple):
    """A stretch of the critical path: what everything waited for from `start_s` to `end_s`, and the span that it is part of."""

    part: Part
    start_s: float
    end_s: float
    device: str
    span: Span | None

    @property
    def seconds(self) -> float:
        """Length, in seconds."""
        return self.end_s - self.start_s


class _Ends:
    """What ended when and where."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.there: dict[tuple[str, float], list[tuple[int, Span]]] = {}  # results and messages that came to a place
        self.freed: dict[tuple[str, float], list[tuple[int, Span]]] = {}  # links and resources that a place could use again
        self.any: dict[float, list[tuple[int, Span]]] = {}
        for i, span in enumerate(spans):
            if span.is_lost:
                self.freed.setdefault((span.place, span.end_s), []).append((i, span))
                self.any.setdefault(span.end_s, []).append((i, span))
                continue
            self.there.setdefault((span.place if span.kind == "call" else span.other, span.arrival_s), []).append((i, span))
            self.any.setdefault(span.arrival_s, []).append((i, span))
            if span.kind == "message":
                for place in (span.place, span.other):
                    self.freed.setdefault((place, span.end_s), []).append((i, span))
        self.times = sorted(self.any)

    def before(self, time_s: float) -> float | None:
        """The latest end before a time."""
        at = bisect_left(self.times, time_s)
        return self.times[at - 1] if at else None


def critical_path(timeline: Timeline) -> list[Piece]:
    """Return what the end of the last recorded round waited for, back to the start: pieces without gap or overlap, oldest first.

    Walks back from the end: whatever began at t began because something ended at t: the message that it needed, the call before it on the same
    resource, the message before it on the same link, or what woke the program that issued it. Times on the simulated clock are exact, so that an
    end and the begin that it caused are the same number; where nothing ended (a program slept, a device was awaited), the path waits.
    """
    ends = _Ends(timeline.spans)
    used: set[int] = set()
    path: list[Piece] = []
    now = timeline.end_s
    after: Span | None = None
    while now > timeline.start_s:
        found = _cause(ends, now, after, timeline.root, used)
        if found is None:
            before = ends.before(now)
            start_s = timeline.start_s if before is None else max(before, timeline.start_s)
            path.append(Piece("wait", start_s, now, timeline.root, None))
            now, after = start_s, None
            continue
        i, span = found
        used.add(i)
        if now > span.end_s:
            path.append(Piece("latency", span.end_s, now, _device(span), span))
        if span.end_s > span.start_s:
            path.append(Piece(_part(span), span.start_s, span.end_s, _device(span), span))
        now, after = span.start_s, span
    return path[::-1]


def _cause(ends: _Ends, now: float, after: Span | None, root: str, used: set[int]) -> tuple[int, Span] | None:
    """What ended at `now` and let `after` begin (None: the end of the timeline); the closest relation first."""
    if after is None:
        ranks = [ends.there.get((root, now), [])]
    else:
        first = ends.there.get((after.place, now), [])
        freed = ends.freed.get((after.place, now), []) if after.kind == "message" else []
        same_wire = [pair for pair in freed if pair[1].place == after.place and pair[1].other == after.other]
        issuer = after.other if after.kind == "call" else after.goal  # whoever asked
        ranks = [[pair for pair in first if pair[1].number == after.number], same_wire, first, freed, ends.there.get((issuer, now), [])]
    ranks.append(ends.any.get(now, []))
    for rank in ranks:
        for pair in rank:
            if pair[0] not in used:
                return pair
    return None


def _part(span: Span) -> Part:
    return "compute" if span.kind == "call" else span.on  # type: ignore[return-value]


def _device(span: Span) -> str:
    """The device that a span belongs to: the receiver of what comes down, else the place itself."""
    return span.other if span.kind == "message" and span.on == "down" else span.place


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Numbers and sentences about a run's recorded rounds.

    Parameters
    ----------
    rounds, seconds : how many rounds, and how long they took together.
    shares : part of the critical path's seconds by kind; they sum to 1.
    waited_for : rounds in which a device was the last, by device.
    median_s, last_s : mean over rounds of when the median device and the last one were done, in seconds from the round's begin; None without rounds.
    upload_to_compute : of the devices waited for, seconds of uploads over seconds of computing; None where they did not compute.
    joules : of the whole run: compute, radio, idle (of devices) and server.
    bound_by : the largest kind, "straggler" where one device is waited for in most rounds and takes twice the median.
    sentences : the same in words.
    """

    rounds: int
    seconds: float
    shares: Mapping[str, float]
    waited_for: Mapping[str, int]
    median_s: float | None
    last_s: float | None
    upload_to_compute: float | None
    joules: Mapping[str, float]
    bound_by: str
    sentences: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON-able values."""
        return {name: dict(cast(Mapping[str, Any], value)) if isinstance(value, Mapping) else value for name, value in vars(self).items()}


def explain(record: Record, timeline: Timeline) -> Explanation:
    """Say where the time and energy of a run went.

    Parameters
    ----------
    record : Record
        For names and for the energy of the whole run.
    timeline : Timeline
        Of its first rounds.
    """
    path = critical_path(timeline)
    seconds = timeline.end_s - timeline.start_s
    spent: dict[str, float] = {}
    for piece in path:
        spent[piece.part] = spent.get(piece.part, 0.0) + piece.seconds
    shares = {part: spent[part] / seconds for part in sorted(spent, key=lambda part: -spent[part])} if seconds else {}
    clients = set(timeline.clients())
    waited_for = _waited_for(timeline, path, clients)
    done = _done(timeline, clients)
    median_s = _mean([median(times) for times in done])
    last_s = _mean([max(times) for times in done])
    own: dict[str, float] = {"up": 0.0, "compute": 0.0}
    for span in timeline.spans:
        if _device(span) in waited_for and _part(span) in own:
            own[_part(span)] += span.end_s - span.start_s
    ratio = own["up"] / own["compute"] if own["compute"] and own["up"] else None
    bound_by = next(iter(shares), "nothing")
    is_slow = median_s is not None and last_s is not None and last_s >= _STRAGGLER * median_s and len(clients) > 2
    if is_slow and waited_for and 2 * max(waited_for.values()) > len(timeline.rounds):
        bound_by = "straggler"
    joules = _joules(record)
    sentences = [
        _about(record, timeline, seconds),
        "Along the critical path: " + _listed([f"{_percent(share)} {_WORDS[part]}" for part, share in shares.items() if share >= 0.005]) + ".",
        *_about_devices(timeline, waited_for, clients, ratio, median_s, last_s),
        *_about_energy(record, joules),
        _verdict(bound_by, shares, waited_for),
    ]
    return Explanation(
        rounds=len(timeline.rounds),
        seconds=seconds,
        shares=shares,
        waited_for=waited_for,
        median_s=median_s,
        last_s=last_s,
        upload_to_compute=ratio,
        joules=joules,
        bound_by=bound_by,
        sentences=tuple(sentences),
    )


def _waited_for(timeline: Timeline, path: Sequence[Piece], clients: set[str]) -> dict[str, int]:
    """In how many rounds each device was the last on the critical path; most often first."""
    found: Counter[str] = Counter()
    for begin_s, end_s in timeline.bounds().values():
        devices = [piece.device for piece in path if piece.device in clients and piece.start_s < end_s and piece.end_s > begin_s]
        if devices:
            found[devices[-1]] += 1
    return dict(found.most_common())


def _done(timeline: Timeline, clients: set[str]) -> list[list[float]]:
    """Per round, when each device that took part was done (its last call or upload), in seconds from the round's begin."""
    bounds = timeline.bounds()
    last: dict[int, dict[str, float]] = {number: {} for number in bounds}
    for span in timeline.spans:
        if span.place in clients and (span.kind == "call" or span.on != "down") and span.round in bounds and not span.is_lost:
            begin_s = bounds[span.round][0]
            times = last[span.round]
            times[span.place] = max(times.get(span.place, 0.0), span.end_s - begin_s)
    return [list(times.values()) for times in last.values() if times]


def _joules(record: Record) -> dict[str, float]:
    """Joules of the whole run by what they were spent on; empty where it has not ended."""
    summary = record.summary or {}
    devices: Iterable[Mapping[str, Any]] = summary.get("devices", {}).values()
    if not devices or "joules" not in summary:
        return {}
    servers = summary.get("joules_server", 0.0)
    radio = sum(device["joules_radio"] for device in devices)
    return {
        "compute": max(summary["joules"] - radio, 0.0),
        "radio": min(radio, summary["joules"]),
        "idle": summary.get("joules_idle", 0.0),
        "server": servers,
    }


def _about(record: Record, timeline: Timeline, seconds: float) -> str:
    header = record.header
    scenario = cast(dict[str, Any], header.get("scenario") or {}).get("name")
    name = f"{header.get('label', header.get('method'))} in {scenario}, seed {header.get('seed')}"
    rounds = len(timeline.rounds)
    if not rounds:
        return f"{name}: the first {human('seconds', seconds)}."
    total = (record.summary or {}).get("rounds") or (record.points[-1]["round"] + 1 if record.points else rounds)
    if rounds == 1:
        return f"{name}: {'its only round' if total <= 1 else f'the first of {total} rounds'} took {human('seconds', seconds)}."
    which = f"all {rounds} rounds" if rounds >= total else f"the first {rounds} of {total} rounds"
    return f"{name}: {which} took {human('seconds', seconds)}, {human('seconds', seconds / rounds)} each."


def _about_devices(
    timeline: Timeline, waited_for: Mapping[str, int], clients: set[str], ratio: float | None, median_s: float | None, last_s: float | None
) -> list[str]:
    sentences: list[str] = []
    if waited_for:
        names = [f"{device} (in {count} of {len(timeline.rounds)})" for device, count in list(waited_for.items())[:_NAMED]]
        more = f" and {len(waited_for) - _NAMED} more" if len(waited_for) > _NAMED else ""
        took = "" if ratio is None else f"; their uploads take {number(ratio, digits=2)}x their compute"
        sentences.append(f"The rounds wait for {len(waited_for)} of {len(clients)} devices: {', '.join(names)}{more}{took}.")
    if median_s is not None and last_s is not None and len(clients) > 1:
        rest = f": {_percent(1 - median_s / last_s)} of that time most devices have nothing left to do" if last_s > median_s else ""
        sentences.append(f"The median device is done {human('seconds', median_s)} into a round, the last one after {human('seconds', last_s)}{rest}.")
    return sentences


def _about_energy(record: Record, joules: Mapping[str, float]) -> list[str]:
    active = joules.get("compute", 0.0) + joules.get("radio", 0.0)
    if not active:
        return []
    text = (
        f"Energy of the whole run: the devices spent {human('joules', active)}, {_percent(joules['compute'] / active)} on computing and "
        f"{_percent(joules['radio'] / active)} on the radio"
    )
    text += f"; idling took {human('joules', joules['idle'])} more" if joules["idle"] else ""
    text += f", servers {human('joules', joules['server'])}" if joules["server"] else ""
    own = {name: device["joules"] for name, device in (record.summary or {})["devices"].items() if device["bytes_up"] or device["bytes_down"]}
    if len(own) < 3:
        return [text + "."]
    most = max(own, key=own.__getitem__)
    middle = median(own.values())
    times = f", {number(own[most] / middle, digits=2)}x the median" if middle else ""
    return [f"{text}. {most} spent the most, {human('joules', own[most])}{times}."]


def _verdict(bound_by: str, shares: Mapping[str, float], waited_for: Mapping[str, int]) -> str:
    if bound_by == "straggler":
        slow = next(iter(waited_for))
        return f"One straggler decides: without {slow}, or with a method that does not wait for everybody, rounds end earlier."
    if bound_by == "nothing":
        return "Nothing took any time."
    many = bound_by in ("up", "down", "peer")  # links
    return (
        f"{_WORDS[bound_by].capitalize()} decide{'' if many else 's'}: at no cost there, these rounds would end at most "
        f"{_percent(shares[bound_by])} earlier."
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts) or "nothing"
