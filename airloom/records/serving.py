"""A comparison of services: the table of their ledgers, and accuracy against waiting time, energy and price."""

# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false, reportUnknownArgumentType=false
# (matplotlib leaves its keyword arguments untyped)
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from airloom.errors import RecordError
from airloom.records.table import Cell, human, metric_text, number, unit_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from airloom.records.compare import Comparison

# metric, title, cost whose units it has (None: a rate in percent, "": a plain number), and whether less is better (None: neither)
_COLUMNS: tuple[tuple[str, str, str | None, bool | None], ...] = (
    ("accuracy", "accuracy", None, False),
    ("p50_s", "p50", "seconds", True),
    ("p95_s", "p95", "seconds", True),
    ("first_p50_s", "first token\np50", "seconds", True),
    ("bytes_up_each", "up /\nanswer", "bytes", True),
    ("bytes_down_each", "down /\nanswer", "bytes", True),
    ("joules_each", "energy /\nanswer", "joules", True),
    ("price_each", "price /\n1000", "", True),
    ("remote_rate", "remote", None, None),
    ("fallback_rate", "fall-backs", None, None),
)
_PANELS = (
    ("p95_s", "wait of 95 % of the users", "seconds"),
    ("joules_each", "energy of the devices per answer", "joules"),
    ("price_each", "price of 1000 answers", ""),
)
_THOUSAND = 1000.0  # prices of single answers are small


def is_serving(comparison: Comparison) -> bool:
    """Return whether all that is compared are services."""
    return all("p95_s" in row["metrics"] for row in comparison.rows)


def serving_cells(comparison: Comparison) -> tuple[list[str], list[list[Cell]]]:
    """Return the column titles and one list of cells per service."""
    titles, columns = ["service"], [[Cell(row["method"]) for row in comparison.rows]]
    for metric, title, cost, is_less in _COLUMNS:
        means = [row["metrics"].get(metric, {"mean": None})["mean"] for row in comparison.rows]
        known = [mean for mean in means if mean is not None]
        if not known:
            continue
        size, unit = (0.01, "%") if cost is None else (1.0 / _THOUSAND, "") if cost == "" else unit_of(cost, sorted(known)[len(known) // 2])
        best = None if is_less is None or len(set(known)) < 2 else (min if is_less else max)(known)
        titles.append(f"{title}\n({unit})" if unit else title)
        columns.append(
            [
                Cell("-") if mean is None else Cell(number(mean / size), _spread(row, metric, size), mean == best)
                for row, mean in zip(comparison.rows, means)
            ]
        )
    return titles, [list(row) for row in zip(*columns, strict=True)]


def _spread(row: dict[str, Any], metric: str, size: float) -> tuple[str, ...]:
    """Half the width of the interval, where there is one."""
    found = row["metrics"][metric]
    return () if found["low"] is None else (f"±{number((found['high'] - found['low']) / 2 / size, digits=2)}",)


def draw_serving(comparison: Comparison, path: Path | None) -> Figure:
    """Draw accuracy against the wait of 95 % of the users, energy and price: large points are means, small ones single seeds.

    Raises
    ------
    RecordError
        If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    from airloom.records.plot import COLORS, GREY, INK, LIGHT

    figure = Figure(figsize=(10.0, 3.9), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    panels = [panel for panel in _PANELS if any(row["metrics"].get(panel[0], {"mean": None})["mean"] is not None for row in comparison.rows)]
    axes = cast("list[Axes]", list(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]))
    for axis, (metric, title, cost) in zip(axes, panels, strict=True):
        for i, (method, row) in enumerate(zip(comparison.methods, comparison.rows, strict=True)):
            look: dict[str, Any] = {"color": COLORS[i % len(COLORS)], "marker": "osD^vP*X"[i // len(COLORS) % 8], "linestyle": "none"}
            ends = [record.points[-1] for record in comparison.records[method].values() if record.points]
            scale = _THOUSAND if cost == "" else 1.0
            for end in ends if len(ends) > 1 else []:
                if metric in end and "accuracy" in end:
                    axis.plot([end[metric] * scale], [end["accuracy"]], markersize=3.5, alpha=0.5, **look)
            mean = row["metrics"].get(metric, {"mean": None})["mean"]
            if mean is not None:
                axis.plot([mean * scale], [row["metrics"]["accuracy"]["mean"]], markersize=9, label=method, **look)
        low, high = axis.get_xlim()
        axis.set_xlim(min(0.0, low), high)
        clock = f" ({comparison.clock})" if cost == "seconds" and comparison.clock else ""
        axis.set_xlabel(title + clock, fontsize=9.5, color=INK)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _, cost=cost: human(cost, value) if cost else number(value)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: metric_text("accuracy", value)))
        axis.grid(color=LIGHT, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=9, colors=GREY, length=0)
        for side in ("top", "right", "left", "bottom"):
            axis.spines[side].set_color(LIGHT)
    axes[0].set_ylabel("accuracy", fontsize=9.5, color=INK)
    figure.suptitle(comparison.title, x=0.07, y=0.985, ha="left", fontsize=12, fontweight="bold", color=INK)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper left", bbox_to_anchor=(0.06, 0.93), ncols=6, frameon=False, fontsize=9)
    figure.subplots_adjust(left=0.07, right=0.98, top=0.80 - 0.055 * ((len(names) - 1) // 6), bottom=0.15, wspace=0.08)
    if path is not None:
        try:
            figure.savefig(path, dpi=150)
        except (OSError, ValueError) as error:
            raise RecordError(f"plot: cannot write '{path}': {error}; give a file such as figure.png, figure.pdf or figure.svg") from error
    return figure
