"""The figure of a comparison: one metric against time, traffic and energy."""

# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false, reportUnknownArgumentType=false
# (matplotlib leaves its keyword arguments untyped)
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from airloom.errors import RecordError
from airloom.records.compare import cost_of
from airloom.records.record import Record
from airloom.records.serving import draw_serving, is_serving
from airloom.records.table import is_rate, metric_text, number, unit_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from airloom.records.compare import Comparison

Array = NDArray[np.float64]

# M. Okabe and K. Ito, Color Universal Design, 2008, without the yellow that vanishes on white; further methods repeat them in other dashes
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.6)), (0, (1.5, 1.2)))
_PANELS = (("seconds", "time"), ("bytes", "traffic, up + down"), ("joules", "energy of the devices"))
_WIDTH_IN, _DPI = 10.0, 150  # 1500 pixels wide
_TOP_IN, _ROW_IN, _PANEL_IN, _BOTTOM_IN = 0.42, 0.23, 2.75, 0.56  # heights of title, a row of the legend, the panels, and what is below them
_LEFT_IN, _RIGHT_IN = 0.66, 0.64  # margins beside the panels
_SPREAD = 30.0  # with more between the first and the last thing to see, the axis is logarithmic
_SAMPLES = 400  # points of a mean curve, and at most twice as many of a seed's curve
INK, GREY, LIGHT = "#222222", "#666666", "#E6E6E6"
_HANDLE_IN, _GAP_IN = 0.26, 0.26  # of the legend: length of a line, distance between entries


class _Curve(NamedTuple):
    """One seed's evaluations in one panel: what had been spent, and the metric."""

    x: Array
    y: Array


def draw(comparison: Comparison, path: Path | None = None) -> Figure:
    """Draw the metric against seconds, bytes and joules: means in bold, seeds thin, a cross where the target is reached.

    The mean at any cost is over all seeds, each with the last value it had by then, so that it never is one of survivors; it stops where one
    of them diverges. A panel in which nothing was ever spent is left out. Services: accuracy against waiting time, energy and price.

    Parameters
    ----------
    comparison : Comparison
        What to draw.
    path : Path or None
        File to write (.png, .pdf, .svg).

    Returns
    -------
    Figure
        1500 pixels wide; independent of pyplot.

    Raises
    ------
    RecordError
        If there is nothing to draw, or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if is_serving(comparison):
        return draw_serving(comparison, path)
    curves = {cost: _curves(comparison, cost) for cost, _ in _PANELS}
    panels = [(cost, title) for cost, title in _PANELS if any((curve.x > 0.0).any() for seeds in curves[cost].values() for curve in seeds)]
    if not panels:
        raise RecordError(f"plot: no record has evaluations of '{comparison.metric}'; choose another metric or run longer")
    figure = Figure(figsize=(_WIDTH_IN, 1.0), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    head_in = _draw_head(figure, comparison)
    height_in = head_in + _PANEL_IN + _BOTTOM_IN
    figure.set_size_inches(_WIDTH_IN, height_in)
    axes = cast("list[Axes]", list(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]))
    edges = {"left": _LEFT_IN / _WIDTH_IN, "right": 1.0 - _RIGHT_IN / _WIDTH_IN, "top": 1.0 - head_in / height_in, "bottom": _BOTTOM_IN / height_in}
    figure.subplots_adjust(**edges, wspace=0.07)
    for axis, (cost, title) in zip(axes, panels, strict=True):
        _draw_panel(axis, comparison, cost, title, curves[cost])
    _draw_metric_axis(axes, comparison, [curve.y for cost, _ in panels for seeds in curves[cost].values() for curve in seeds])
    if path is not None:
        try:
            figure.savefig(path, dpi=_DPI)
        except (OSError, ValueError) as error:
            raise RecordError(f"plot: cannot write '{path}': {error}; give a file such as figure.png, figure.pdf or figure.svg") from error
    return figure


def _curves(comparison: Comparison, cost: str) -> dict[str, list[_Curve]]:
    """Return all seeds' curves by method."""
    return {method: [_curve(record, cost, comparison.metric) for record in seeds.values()] for method, seeds in comparison.records.items()}


def _curve(record: Record, cost: str, metric: str) -> _Curve:
    """Return the points of a run that have both cost and metric."""
    pairs = [(cost_of(point, cost), point.get(metric)) for point in record.points]
    known = np.array([(x, y) for x, y in pairs if x is not None and y is not None], dtype=np.float64).reshape(-1, 2)
    known = known[np.isfinite(known[:, 0])]
    y = np.where(np.isfinite(known[:, 1]), known[:, 1], np.nan)  # a gap in the line
    return _Curve(known[:, 0], y) if np.isfinite(y).any() else _Curve(np.empty(0), np.empty(0))


def _mean_curve(curves: Sequence[_Curve], *, is_log: bool) -> _Curve:
    """Return the mean over all seeds; one that has ended keeps its last value."""
    first = max(float(curve.x[0]) for curve in curves)
    last = max(float(curve.x[-1]) for curve in curves)
    x = np.geomspace(first, last, _SAMPLES) if is_log and first > 0.0 else np.linspace(first, last, _SAMPLES)
    return _Curve(x, np.mean([np.interp(x, curve.x, curve.y) for curve in curves], axis=0))


def _draw_panel(axis: Axes, comparison: Comparison, cost: str, title: str, curves: Mapping[str, Sequence[_Curve]]) -> None:
    """Draw all methods against one cost."""
    stamps = {method: _stamps(comparison, method, cost) for method in comparison.methods}
    ends = [float(curve.x[-1]) for seeds in curves.values() for curve in seeds if len(curve.x)]
    firsts = [min(values) for values in stamps.values() if values]
    largest = max(ends)
    is_log = 0.0 < _SPREAD * min([*firsts, *ends]) < largest
    smallest = (
        min(float(curve.x[curve.x > 0.0].min()) for seeds in curves.values() for curve in seeds if (curve.x > 0.0).any()) if is_log else largest
    )
    size, unit = unit_of(cost, math.sqrt(smallest * largest))
    faint = 0.08 + 0.7 / max(map(len, curves.values()))  # many seeds blend into a band
    for i, method in enumerate(comparison.methods):
        color, dashes = _style(i)
        drawn = [
            _Curve(curve.x[curve.x > 0.0] / size, curve.y[curve.x > 0.0]) if is_log else _Curve(curve.x / size, curve.y) for curve in curves[method]
        ]
        for curve in drawn if len(drawn) > 1 else []:
            step = max(1, len(curve.x) // _SAMPLES)
            axis.plot(curve.x[::step], curve.y[::step], color=color, linewidth=0.7, alpha=faint, zorder=2)
        if all(len(curve.x) for curve in drawn):
            mean = drawn[0] if len(drawn) == 1 else _mean_curve(drawn, is_log=is_log)
            axis.plot(mean.x, mean.y, color=color, linestyle=dashes, linewidth=2.0, zorder=3, solid_capstyle="round")
        if stamps[method] and comparison.target is not None:
            is_sure = len(stamps[method]) == len(comparison.stamps[method])
            at = np.array([np.mean(stamps[method])] if is_sure else stamps[method]) / size
            mark: dict[str, Any] = {"linestyle": "none", "marker": "x", "markersize": 8.0 if is_sure else 5.0}
            for width, ink in ((4.2, "white"), (2.2, color)):  # a white rim keeps crosses apart from lines
                axis.plot(at, np.full(len(at), comparison.target), markeredgewidth=width if is_sure else 0.6 * width, color=ink, zorder=5, **mark)
    if comparison.target is not None:
        axis.axhline(comparison.target, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    if is_log:
        axis.set_xscale("log")
    else:
        axis.set_xlim(0.0, 1.02 * largest / size)
    clock = f"{comparison.clock} " if cost == "seconds" and comparison.clock else ""
    axis.set_xlabel(f"{clock}{title} ({unit})", fontsize=9.5, color=INK, labelpad=5)
    _tidy(axis, is_log=is_log)


def _stamps(comparison: Comparison, method: str, cost: str) -> list[float]:
    """Return what each seed that reached the target had spent then."""
    costs = [cost_of(stamp, cost) for stamp in comparison.stamps[method].values() if stamp is not None]
    return [value for value in costs if value is not None]


def _draw_metric_axis(axes: Sequence[Axes], comparison: Comparison, values: Sequence[Array]) -> None:
    """Scale and label the shared axis of the metric, and name the target line."""
    from matplotlib.ticker import FuncFormatter

    axis = axes[0]
    known = np.concatenate(values)
    known = known[np.isfinite(known)]
    low, high = float(known.min()), float(known.max())
    if comparison.target is not None:
        low, high = min(low, comparison.target), max(high, comparison.target)
    if not is_rate(comparison.metric) and low > 0.0 and high > _SPREAD * low:
        axis.set_yscale("log")
    else:
        margin = 0.06 * (high - low or 1.0)
        axis.set_ylim(low - margin, high + margin)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: metric_text(comparison.metric, value)))
    axis.set_ylabel(comparison.metric.replace("_", " "), fontsize=9.5, color=INK)
    for other in axes:
        _tidy_metric_axis(other, is_first=other is axis)
    if comparison.target is not None:
        axes[-1].annotate(
            f"target\n{metric_text(comparison.metric, comparison.target)}",
            (1.0, comparison.target),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )


def _draw_head(figure: Figure, comparison: Comparison) -> float:
    """Write title, reading aid and legend; return the height they take in inches."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Affine2DBase, ScaledTranslation

    below_top = figure.dpi_scale_trans + ScaledTranslation(
        0.0, 1.0, cast(Affine2DBase, figure.transFigure)
    )  # inches from the upper left corner, which may still move
    right = _WIDTH_IN - _RIGHT_IN
    figure.text(_LEFT_IN, -0.14, comparison.title, fontsize=12, fontweight="bold", color=INK, va="top", transform=below_top)
    figure.text(right, -0.17, _reading_aid(comparison), fontsize=8.5, color=GREY, va="top", ha="right", transform=below_top)
    x, y = _LEFT_IN, -_TOP_IN - _ROW_IN / 2
    for i, method in enumerate(comparison.methods):
        text = figure.text(0.0, 0.0, _label(comparison, method), fontsize=9.5, color=INK, va="center_baseline", transform=below_top)
        width = _HANDLE_IN + 0.08 + text.get_window_extent().width / _DPI
        if x > _LEFT_IN and x + width > right:
            x, y = _LEFT_IN, y - _ROW_IN
        text.set_position((x + _HANDLE_IN + 0.08, y))
        color, dashes = _style(i)
        figure.add_artist(Line2D([x, x + _HANDLE_IN], [y, y], color=color, linestyle=dashes, linewidth=2.6, transform=below_top))
        x += width + _GAP_IN
    return _ROW_IN / 2 + 0.16 - y


def _reading_aid(comparison: Comparison) -> str:
    """Return what bold, thin and crossed mean in this figure."""
    parts: list[str] = []
    if len(comparison.seeds) > 1:
        parts.append("bold: mean, thin: single seeds")
    stamps = [[stamp is not None for stamp in seeds.values()] for seeds in comparison.stamps.values()]
    if any(map(any, stamps)):
        parts.append("\u00d7 target reached" + (" (mean)" if len(comparison.seeds) > 1 else ""))
    if any(any(seeds) and not all(seeds) for seeds in stamps):
        parts[-1] = "\u00d7 target reached (mean; small: single seeds)"
    return "    ".join(parts)


def _label(comparison: Comparison, method: str) -> str:
    """Return the method with how many seeds reached the target, where not all did."""
    stamps = comparison.stamps[method]
    count = sum(stamp is not None for stamp in stamps.values())
    if comparison.target is None or count == len(stamps):
        return method
    return f"{method} ({count} of {len(stamps)} reached)"


def _style(index: int) -> tuple[str, Any]:
    """Return color and dashes of the method at a place of the table."""
    return COLORS[index % len(COLORS)], _DASHES[index // len(COLORS) % len(_DASHES)]


def _tidy(axis: Axes, *, is_log: bool) -> None:
    """Take away what carries nothing, and write plain numbers below the axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(GREY)
    axis.set_axisbelow(True)
    axis.grid(axis="y", color=LIGHT, linewidth=0.8)
    axis.tick_params(axis="x", labelsize=9, colors=GREY, length=3)
    if is_log:
        low, high = axis.get_xlim()
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100.0 * low else (1.0,)))
        axis.xaxis.set_minor_locator(NullLocator())
    else:
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _tidy_metric_axis(axis: Axes, *, is_first: bool) -> None:
    """Show the shared numbers once."""
    axis.tick_params(axis="y", which="both", length=0, labelsize=9, colors=GREY, labelleft=is_first)
