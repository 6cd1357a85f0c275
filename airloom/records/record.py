"""The append-only file that a run leaves: one JSON object per line, readable after any kind of end."""

# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from airloom.errors import RecordError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FORMAT = "airloom-record/1"
FILE = "record.jsonl"
COSTS = ("seconds", "bytes_up", "bytes_down", "bytes_backhaul", "bytes_peer", "joules", "joules_idle", "joules_server")

Direction = Literal["higher", "lower"]
Point = dict[str, Any]

_RESERVED = ("kind", "nonfinite")
_LOWER_IS_BETTER = ("loss", "error", "perplexity", "mse", "mae", "rmse", "nll", "regret", "distance", "latency")


def direction_of(metric: str) -> Direction:
    """Return whether a higher or a lower value of `metric` is better, judged by its name.

    >>> direction_of("accuracy"), direction_of("validation_loss")
    ('higher', 'lower')
    """
    return "lower" if any(word in _LOWER_IS_BETTER for word in metric.lower().split("_")) else "higher"


def reached(points: Sequence[Mapping[str, Any]], metric: str, target: float, direction: Direction, *, smooth: int = 5) -> Point | None:
    """Return the point at which a target was reached, or None.

    The target is reached when the mean of `smooth` successive evaluations crosses it; the first of these is the stamp. `smooth=1` is the
    first crossing. Points without the metric are not evaluations; an evaluation that is not finite crosses nothing. To ask during a run,
    pass the last `smooth` evaluations only.

    Parameters
    ----------
    points : sequence of mappings
        In the order of the run, as in `Record.points`.
    metric : str
        Name of a metric of the points.
    target : float
        In the unit of the metric; a mean equal to it counts.
    direction : {"higher", "lower"}
        Which side of the target is better.
    smooth : int
        Number of evaluations in the mean (default 5, ours).

    >>> curve = [{"seconds": float(s), "accuracy": a} for s, a in enumerate([0.1, 0.9, 0.2, 0.9, 0.9])]
    >>> reached(curve, "accuracy", 0.9, "higher", smooth=2)["seconds"], reached(curve, "accuracy", 0.9, "higher", smooth=1)["seconds"]
    (3.0, 1.0)
    """
    if smooth < 1:
        raise RecordError(f"reached(smooth={smooth}): must be >= 1; 1 asks for the first crossing")
    evaluations = [point for point in points if point.get(metric) is not None]
    sign = 1.0 if direction == "higher" else -1.0
    values = [sign * float(point[metric]) for point in evaluations]
    # the sign of fsum is exact, so that five times 0.11 has a mean of 0.11; infinities of both signs would raise, hence the first test
    for i in range(len(values) - smooth + 1):
        window = values[i : i + smooth]
        if all(map(math.isfinite, window)) and math.fsum((*window, *[-sign * target] * smooth)) >= 0.0:
            return dict(evaluations[i])
    return None


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run as read back from its folder.

    Parameters
    ----------
    folder : Path
        Where the record lies.
    header : dict
        Scenario, method, fields, versions, seed, engine, clock and so on, as the runner wrote them.
    points : list of dict
        The curve: costs (seconds, bytes, joules), `round` and metrics. Points that a resume replaced are gone.
    summary : dict or None
        Status, totals, per-device totals and digest; None where the run has not ended or was killed.
    is_truncated : bool
        Whether the last line was cut in half (a killed process, a full disk); that line is left out.
    """

    folder: Path
    header: dict[str, Any]
    points: list[Point]
    summary: dict[str, Any] | None
    is_truncated: bool = False

    @property
    def status(self) -> str:
        """The summary's status, or `"unfinished"` without a summary."""
        return "unfinished" if self.summary is None else str(self.summary["status"])

    @property
    def metrics(self) -> list[str]:
        """Names of what the points hold beside costs and `round`, in order of appearance."""
        names = dict.fromkeys(key for point in self.points for key in point)
        return [name for name in names if name not in COSTS and name != "round"]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The points as a pandas DataFrame, one row per point."""
        import pandas as pd

        return pd.DataFrame(self.points)

    def plot(self, path: Path | str | None = None, *, metric: str | None = None) -> Figure:
        """Return the figure of this run: a metric (default `accuracy`, or the target's) against seconds, bytes and joules; also written to `path`."""
        from airloom.records.compare import build

        goal = cast("list[Any] | None", self.header.get("target"))
        target = (str(goal[0]), float(goal[1])) if goal and metric in (None, goal[0]) else None
        return build([self], target=target, metric=metric).plot(path)


class RecordWriter:
    """Writes `record.jsonl` into a new or empty folder; every line reaches the operating system at once.

    Numbers that JSON does not know (NaN, infinities) are written as null and named, with their JSON pointer, under `"nonfinite"` of the line.

    Parameters
    ----------
    folder : Path
        The run's folder; made if missing.
    header : mapping
        What the run is: scenario, method and fields, versions, seed, engine, clock.

    Raises
    ------
    RecordError
        If the folder already holds a record, a value cannot be written, or the disk is full.

    >>> from tempfile import mkdtemp
    >>> with RecordWriter(Path(mkdtemp()), {"method": "fedavg", "seed": 0}) as writer:
    ...     writer.point({"seconds": 1.5, "round": 1, "accuracy": np.float32(0.5)})
    ...     writer.summary({"status": "done"})
    >>> load(writer.folder).points
    [{'seconds': 1.5, 'round': 1, 'accuracy': 0.5}]
    """

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        line = _line("header", {"format": FORMAT, **header})
        path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "xb", buffering=0)  # noqa: SIM115
        except FileExistsError:
            raise RecordError(
                f"RecordWriter: '{folder}' already holds a record; choose another folder, go on with `airloom resume {folder}`, or delete it"
            ) from None
        except OSError as error:
            raise _disk_error(folder, error) from error
        self.folder = folder
        self._size = 0
        try:
            self._append(line)
        except RecordError:
            self._file.close()
            path.unlink()
            raise

    @classmethod
    def reopen(cls, folder: Path) -> RecordWriter:
        """Open an existing record to append to it; a last line that was cut in half is removed. Call `resume` next."""
        load(folder)
        writer = cls.__new__(cls)
        writer.folder = folder
        try:
            writer._file = open(folder / FILE, "r+b", buffering=0)  # noqa: SIM115
            writer._size = writer._file.read().rfind(b"\n") + 1
            writer._file.truncate(writer._size)
            writer._file.seek(writer._size)
        except OSError as error:
            raise _disk_error(folder, error) from error
        return writer

    def point(self, values: Mapping[str, Any]) -> None:
        """Append a point of the curve; it needs `seconds` (s) and `round`."""
        for name in ("seconds", "round"):
            if values.get(name) is None:
                raise RecordError(
                    f"point of '{self.folder}': has no '{name}', only {', '.join(values) or 'nothing'}; every point needs seconds and round"
                )
        self._append(_line("point", values))

    def resume(self, *, round: int, seconds: float) -> None:
        """Append the marker that the run goes on from a checkpoint: points so far with this `round` or a later one are void."""
        self._append(_line("resume", {"round": round, "seconds": seconds}))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Append the end of the run, with its `status`, and bring everything to the disk."""
        if not isinstance(values.get("status"), str):
            raise RecordError(
                f"summary of '{self.folder}': status is {values.get('status')!r}; must be a text such as done, failed, interrupted or budget"
            )
        self._append(_line("summary", values))
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _disk_error(self.folder, error) from error

    def close(self) -> None:
        """Close the file; harmless when repeated."""
        self._file.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _append(self, line: bytes) -> None:
        """Write one whole line or, on a full disk, none of it: half a line would spoil whatever follows."""
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
        except OSError as error:
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise _disk_error(self.folder, error) from error
        self._size += len(line)


def load(folder: Path | str) -> Record:
    """Read the record of one run.

    Parameters
    ----------
    folder : Path or str
        A run's folder.

    Returns
    -------
    Record
        With the points that are valid after all resumes.

    Raises
    ------
    RecordError
        If there is no record, or it is damaged or of another format; the message names the line.
    """
    folder = Path(folder)
    path = folder / FILE
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise RecordError(f"load('{folder}'): found no {FILE}; give the folder of a run, or use load_many for a folder of runs") from None
    except OSError as error:
        raise RecordError(f"load('{folder}'): {path} cannot be read: {error}; check the disk and its permissions") from error
    lines = content.split(b"\n")
    is_truncated = lines.pop() != b""
    if not lines:
        raise RecordError(f"{path}, line 1: no header; this is not an airloom record, or the run ended before it began")
    header, *entries = _parse(path, lines)
    if header.get("kind") != "header" or header.get("format") != FORMAT:
        found = f"format {header['format']!r}" if "format" in header else "no record header"
        raise RecordError(f"{path}, line 1: {found}; must be '{FORMAT}'; another program, or another version of airloom, wrote it")
    points: list[Point] = []
    summary: dict[str, Any] | None = None
    for number, entry in enumerate(entries, start=2):
        kind = entry.get("kind")
        if kind == "point":
            points.append(entry)
        elif kind == "summary" and "status" in entry:
            summary = entry
        elif kind == "resume" and "round" in entry:
            points = [point for point in points if point["round"] < entry["round"]]
            summary = None
        else:
            raise RecordError(f"{path}, line {number}: kind {kind!r} is not a point, resume or summary of '{FORMAT}'; the record is damaged")
        del entry["kind"]
    return Record(
        folder=folder,
        header={name: value for name, value in header.items() if name not in ("kind", "format")},
        points=points,
        summary=summary,
        is_truncated=is_truncated,
    )


def load_many(folder: Path | str) -> list[Record]:
    """Read all records in and below `folder`, in the order of their paths.

    Raises
    ------
    RecordError
        If there is none, or one cannot be read.
    """
    paths = sorted(Path(folder).rglob(FILE))
    if not paths:
        raise RecordError(f"load_many('{folder}'): found no {FILE} in or below it; give a folder that holds runs")
    return [load(path.parent) for path in paths]


def _parse(path: Path, lines: list[bytes]) -> list[dict[str, Any]]:
    """Parse all lines in one call (names are then shared, three times as fast), or one by one to name a damaged line."""
    try:
        entries = cast(list[Any], json.loads(b"[" + b",".join(lines) + b"]", parse_constant=_refuse))
        is_whole = len(entries) == len(lines)
    except ValueError:
        entries, is_whole = [], False
    if not is_whole:
        for number, line in enumerate(lines, start=1):
            try:
                entries.append(json.loads(line, parse_constant=_refuse))
            except ValueError:
                raise RecordError(
                    f"{path}, line {number}: not a JSON object ({line[:40]!r}); the record is damaged, restore it or delete this run"
                ) from None
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise RecordError(
                f"{path}, line {number}: not a JSON object ({lines[number - 1][:40]!r}); the record is damaged, or not an airloom record"
            )
        if "nonfinite" in entry:
            _restore(cast(dict[str, Any], entry))
    return entries


def _refuse(literal: str) -> None:
    """Reject NaN and Infinity, which are not JSON."""
    raise ValueError(literal)


def _restore(entry: dict[str, Any]) -> None:
    """Put the numbers that JSON does not know back where their pointers say."""
    for pointer, text in cast(dict[str, str], entry.pop("nonfinite")).items():
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
        place: Any = entry
        for part in [*way, last][:-1]:
            place = place[int(part) if isinstance(place, list) else part]
        place[int(last) if isinstance(place, list) else last] = float(text)


def _line(kind: str, values: Mapping[str, Any]) -> bytes:
    """Return one line of the file; strict JSON, so every program can read it."""
    for name in _RESERVED:
        if name in values:
            raise RecordError(f"{kind} of a record: the name '{name}' is taken by the format; rename this field or metric")
    nonfinite: dict[str, str] = {}
    entry = {"kind": kind, **cast(dict[str, Any], _plain(values, "", nonfinite))}
    if nonfinite:
        entry["nonfinite"] = nonfinite
    return json.dumps(entry, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _plain(value: Any, pointer: str, nonfinite: dict[str, str]) -> Any:
    """Return `value` in JSON's own types; numbers that JSON does not know become null and are noted by pointer."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = cast(Any, value).tolist()  # Python's own numbers
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        nonfinite[pointer] = str(float(value))
        return None
    if isinstance(value, Mapping):
        items = cast(Mapping[Any, Any], value).items()
        return {str(key): _plain(item, f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}", nonfinite) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{pointer}/{i}", nonfinite) for i, item in enumerate(cast(Sequence[Any], value))]
    if isinstance(value, Path):
        return str(value)
    raise RecordError(
        f"record, field '{pointer}': got a {type(value).__name__}; allowed are numbers, texts, None, lists and mappings of them; convert it first"
    )


def _disk_error(folder: Path, error: OSError) -> RecordError:
    """Word an error of the disk, with the folder and the way out."""
    return RecordError(f"record in '{folder}': cannot write ({error.strerror or error}); free space or choose another folder, then resume the run")
