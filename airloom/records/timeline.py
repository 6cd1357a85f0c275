"""The timeline of a run's first rounds: `timeline.jsonl`, a file of its own beside the record, one span per line.

A header line, then arrays in the order of `Span`'s fields, and objects that mark the end of a round, a resume, or the cut where the file is full.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from airloom.clock.span import Span
from airloom.errors import RecordError

FORMAT = "airloom-timeline/1"
FILE = "timeline.jsonl"
SPANS = 200_000  # most spans of a file, about 30 MB (ours)


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Spans of the first rounds of a run, in the order in which they ended.

    Parameters
    ----------
    root : str
        The place where the method's text runs.
    spans : list of Span
        Calls and hops of messages.
    rounds : dict
        End of each recorded round, in seconds, by number.
    is_cut : bool
        Whether the file was full before the last round that was asked for.
    """

    root: str
    spans: list[Span]
    rounds: dict[int, float]
    is_cut: bool = False

    @property
    def end_s(self) -> float:
        """End of the last whole round; without rounds (a service) of the last span."""
        return max(self.rounds.values()) if self.rounds else max([span.arrival_s for span in self.spans], default=0.0)

    @property
    def start_s(self) -> float:
        """Begin of what was recorded, in seconds."""
        return min([span.start_s for span in self.spans], default=0.0)

    def bounds(self) -> dict[int, tuple[float, float]]:
        """Begin and end of each recorded round, in seconds."""
        found: dict[int, tuple[float, float]] = {}
        begin_s = self.start_s
        for number, end_s in sorted(self.rounds.items()):
            found[number] = (begin_s, end_s)
            begin_s = end_s
        return found

    def clients(self) -> list[str]:
        """Devices below an access link, or, where there is none, all places but the root that computed."""
        ends = [span.place if span.on == "up" else span.other for span in self.spans if span.on in ("up", "down")]
        return list(dict.fromkeys(ends or [span.place for span in self.spans if span.kind == "call" and span.place != self.root]))


class TimelineWriter:
    """Writes spans until `rounds` rounds have ended or the file is full.

    Parameters
    ----------
    folder : Path
        The run's folder; it exists.
    root : str
        The place where the method's text runs.
    rounds : int
        Rounds to record.
    limit : int
        Most spans; the rest of a round that goes beyond is left out, and the file says so.
    """

    def __init__(self, folder: Path, root: str, rounds: int, *, limit: int = SPANS) -> None:
        self.rounds = rounds
        self.limit = limit
        self.count = 0
        self.path = folder / FILE
        self._open("w")
        self._write({"format": FORMAT, "root": root, "fields": Span._fields})

    @classmethod
    def reopen(cls, folder: Path, rounds: int, count: int, *, limit: int = SPANS) -> TimelineWriter:
        """Go on from a checkpoint at which `count` spans were there; those that came after it are void."""
        writer = cls.__new__(cls)
        writer.rounds, writer.limit, writer.count, writer.path = rounds, limit, count, folder / FILE
        try:
            whole = writer.path.read_bytes()
            writer.path.write_bytes(whole[: whole.rfind(b"\n") + 1])  # a killed process may have left half a line
        except OSError as error:
            raise _disk_error(writer.path, error) from error
        writer._open("a")
        writer._write({"resume": count})
        return writer

    def _open(self, mode: str) -> None:
        try:
            self._file = open(self.path, mode, encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise _disk_error(self.path, error) from error

    def _write(self, line: Any) -> None:
        try:
            self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        except OSError as error:
            raise _disk_error(self.path, error) from error

    def span(self, span: Span) -> None:
        """Append what a resource did."""
        if self.count < self.limit:
            self.count += 1
            self._write(span)

    @property
    def is_full(self) -> bool:
        """Whether no more spans are taken."""
        return self.count >= self.limit

    def round(self, number: int, seconds: float) -> bool:
        """Mark the end of a round; return whether to go on."""
        if self.is_full:
            self._write({"cut": number})
            return False
        self._write({"round": number, "seconds": seconds})
        self._file.flush()
        return number + 1 < self.rounds

    def close(self) -> None:
        """Close the file; harmless when repeated."""
        try:
            self._file.close()
        except OSError as error:
            raise _disk_error(self.path, error) from error


def load_timeline(folder: Path | str) -> Timeline:
    """Read the timeline beside a record.

    Raises
    ------
    RecordError
        If there is none, or it is damaged.
    """
    path = Path(folder) / FILE
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise RecordError(f"'{folder}' has no {FILE}; run it again with --timeline 10, which records the first 10 rounds") from None
    except OSError as error:
        raise RecordError(f"'{path}' cannot be read: {error.strerror}; check the disk and its permissions") from error
    lines.pop()  # nothing, or a line that a killed process left half written
    spans: list[Span] = []
    rounds: dict[int, float] = {}
    made: list[tuple[int, int]] = []  # round, spans until then
    is_cut = False
    head: Mapping[str, Any] = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry: Any = json.loads(line)
            if number == 1:
                head = cast(Mapping[str, Any], entry)
                if head["format"] != FORMAT or tuple(head["fields"]) != Span._fields:
                    raise ValueError(head["format"])
            elif isinstance(entry, list):
                spans.append(Span(*cast(list[Any], entry)))
            elif "round" in entry:
                rounds[entry["round"]] = entry["seconds"]
                made.append((entry["round"], len(spans)))
            elif "resume" in entry:
                del spans[entry["resume"] :]
                for late in [late for late, until in made if until > len(spans)]:
                    rounds.pop(late, None)
                is_cut = False
            elif "cut" in entry:
                is_cut = True
            else:
                raise ValueError("neither a span nor a mark")
        except (ValueError, TypeError, KeyError) as error:
            raise RecordError(f"{path}, line {number}: not a line of '{FORMAT}' ({error}); delete this file, or restore it") from None
    if not head:
        raise RecordError(f"{path}: is empty; the run ended before it began")
    return Timeline(root=head["root"], spans=spans, rounds=rounds, is_cut=is_cut)


def _disk_error(path: Path, error: OSError) -> RecordError:
    return RecordError(f"timeline: cannot write '{path}': {error.strerror}; free some space and resume, or run with timeline=0")
