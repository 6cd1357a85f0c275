"""`airloom watch`: runs that are going on, on a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airloom.commands.terminal import Folder, escape, tables
from airloom.errors import RecordError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from airloom.records.record import Record

_BARS = "▁▂▃▄▅▆▇█"
_WIDE = 24  # characters of a curve
_SLOW = 3  # devices that are named


def watch(
    folder: Folder,
    every: Annotated[float, typer.Option("--every", min=0.1, metavar="SECONDS", help="Seconds between two looks")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end")] = False,
) -> None:
    """Show runs while they go on: progress, curve, slowest devices. Ends when they have ended, or with Ctrl-C; the runs go on."""
    from rich.live import Live

    console = tables()
    view = _View(folder)
    if once or not console.is_terminal:
        console.print(view.look())
        return
    try:
        with Live(view.look(), console=console, auto_refresh=False) as live:
            while not view.is_over:
                time.sleep(every)
                live.update(view.look(), refresh=True)
    except KeyboardInterrupt:
        return


class _View:
    """What there is to see; files are read again only when they have grown."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[Path, tuple[int, Record]] = {}
        self.slow: dict[Path, tuple[int, str]] = {}

    @property
    def is_over(self) -> bool:
        """Whether all runs have ended, and no others are to come."""
        from airloom.api import PLAN, TABLE

        is_whole = not (self.folder / PLAN).is_file() or (self.folder / TABLE).is_file()
        return is_whole and all(record.status != "unfinished" for _, record in self.known.values())

    def look(self) -> RenderableType:
        """Return a table of the runs as they are now."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        from airloom.records.record import FILE
        from airloom.records.table import human, metric_text

        for path in sorted(self.folder.rglob(FILE)):
            self._read(path)
        if not self.known:
            raise RecordError(f"'{self.folder}': found no {FILE} in or below it; give the folder of a run or of a comparison")
        table = Table(title=escape(str(self.folder)), title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for title in ("run", "", "round", "time", "energy", "metric", "curve", "waits for"):
            table.add_column(title, overflow="fold")
        for path, (_, record) in self.known.items():
            header, last = record.header, record.points[-1] if record.points else {}
            metric = header["target"][0] if header.get("target") else next(iter(record.metrics), "")
            values = [point[metric] for point in record.points if isinstance(point.get(metric), int | float)]
            share = _share(last, header.get("budget") or {})
            state = f"{100 * share:.0f} %" if record.status == "unfinished" and share is not None else record.status
            color = {"failed": "red", "unfinished": "cyan", "interrupted": "yellow"}.get(record.status, "green")
            table.add_row(
                escape(f"{header.get('label', header.get('method'))}, seed {header.get('seed')}"),
                f"[{color}]{escape(state)}[/]",
                str(last.get("round", "-")),
                human("seconds", last.get("seconds")),
                human("joules", last.get("joules")),
                escape(f"{metric} {metric_text(metric, values[-1])}") if values else "-",
                sparkline(values),
                escape(self._slowest(path)),
            )
        return table

    def _read(self, path: Path) -> None:
        from airloom.records.record import load

        size = path.stat().st_size
        if size and self.known.get(path, (0,))[0] != size:
            self.known[path] = (size, load(path.parent))

    def _slowest(self, path: Path) -> str:
        """The devices that the recorded rounds waited for."""
        from airloom.records.explain import explain
        from airloom.records.timeline import FILE, load_timeline

        file = path.parent / FILE
        size = file.stat().st_size if file.is_file() else 0
        if size and self.slow.get(path, (0,))[0] != size:
            timeline = load_timeline(path.parent)
            found = explain(self.known[path][1], timeline).waited_for if timeline.rounds else {}
            self.slow[path] = (size, ", ".join(f"{device} ({rounds}x)" for device, rounds in list(found.items())[:_SLOW]))
        return self.slow.get(path, (0, ""))[1]


def sparkline(values: Sequence[float], wide: int = _WIDE) -> str:
    """Return a curve in one line of text; of many values the last one of each stretch.

    >>> sparkline([0.0, 0.5, 1.0])
    '▁▅█'
    """
    if not values:
        return ""
    ends = [values[(i + 1) * len(values) // wide - 1] for i in range(wide)] if len(values) > wide else list(values)
    low, high = min(ends), max(ends)
    return "".join(_BARS[round((value - low) / (high - low) * (len(_BARS) - 1)) if high > low else 0] for value in ends)


def _share(point: Mapping[str, Any], budget: Mapping[str, float]) -> float | None:
    """How much of a run's budget is spent; None without a budget or a point."""
    if not budget or "seconds" not in point:
        return None
    spent = {**point, "bytes": point.get("bytes_up", 0.0) + point.get("bytes_down", 0.0), "rounds": point["round"] + 1}
    return min(1.0, max(spent[name] / amount for name, amount in budget.items()))
