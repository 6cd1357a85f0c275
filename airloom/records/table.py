"""Numbers for people: units, intervals and the table of a comparison on a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table

    from airloom.records.compare import Comparison

_SECONDS = ((1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "d"))
_BYTES = ((1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"))
_JOULES = ((1e-3, "mJ"), (1.0, "J"), (1e3, "kJ"), (1e6, "MJ"), (1e9, "GJ"))
_SCALES = {"seconds": _SECONDS, "bytes": _BYTES, "bytes_up": _BYTES, "bytes_down": _BYTES, "joules": _JOULES}
_STAYS = 2.0  # a minute unit from 120 s, an hour from 120 min: 90 s reads better than 1.5 min

_COLUMNS = (("seconds", "time"), ("bytes_up", "up"), ("bytes_down", "down"), ("joules", "energy"), ("rounds", "rounds"))
_NOTHING = "-"
_TO = "\u2013"  # between the ends of an interval
_TEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"≥": r"$\ge$", "≤": r"$\le$", "±": r"$\pm$", "<": "$<$", ">": "$>$", _TO: "--"},
}
_SIGNS = {"exact": "", "at least": "≥ ", "at most": "≤ "}


def unit_of(cost: str, value: float) -> tuple[float, str]:
    """Return the size and name of the unit in which `value` of a cost reads best.

    Parameters
    ----------
    cost : str
        `seconds`, `bytes`, `bytes_up`, `bytes_down` or `joules`; anything else has no unit.
    value : float
        In the base unit: s, bytes, J.

    >>> unit_of("seconds", 600.0), unit_of("bytes_up", 2.5e6), unit_of("rounds", 12.0)
    ((60.0, 'min'), (1000000.0, 'MB'), (1.0, ''))
    """
    scales = _SCALES.get(cost)
    if scales is None:
        return 1.0, ""
    if value == 0.0:
        return next(scale for scale in scales if scale[0] == 1.0)
    chosen = scales[0]
    for size, name in scales:
        # 999.7 kB would print as 1000 kB, so the printed value decides
        if _rounded(abs(value)) >= (_STAYS if scales is _SECONDS and size > 1.0 else 1.0) * size:
            chosen = (size, name)
    return chosen


def number(value: float, *, digits: int = 3) -> str:
    """Return a number with so many significant digits and no exponent.

    >>> number(1234.5), number(12.345), number(0.5), number(3.0), number(0.742, digits=2)
    ('1230', '12.3', '0.5', '3', '0.74')
    """
    if not math.isfinite(value):
        return str(value)
    value = _rounded(value, digits)
    decimals = 0 if value == 0.0 else max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def human(cost: str, value: float | None) -> str:
    """Return a cost in a unit for people; a dash for None.

    >>> human("seconds", 5400.0), human("bytes_up", 999_700.0), human("joules", 0.25), human("rounds", 40.0), human("joules", None)
    ('90 min', '1 MB', '250 mJ', '40', '-')
    """
    if value is None:
        return _NOTHING
    size, name = unit_of(cost, value)
    return f"{number(value / size)} {name}".rstrip()


def metric_text(metric: str, value: float | None) -> str:
    """Return a metric for people: accuracies and other rates between 0 and 1 in percent.

    >>> metric_text("accuracy", 0.9), metric_text("loss", 0.9)
    ('90 %', '0.9')
    """
    if value is None:
        return _NOTHING
    return f"{number(100.0 * value)} %" if is_rate(metric) else number(value)


def is_rate(metric: str) -> bool:
    """Return whether a metric lies between 0 and 1 and is read in percent, judged by its name."""
    return any(word in ("accuracy", "precision", "recall", "f1", "auc", "rate") for word in metric.lower().split("_"))


class Cell(NamedTuple):
    """One cell of the table: its text, what stands below it in small print, and whether it is the best of its column."""

    text: str
    below: tuple[str, ...] = ()
    is_best: bool = False


def cells(comparison: Comparison) -> tuple[list[str], list[list[Cell]]]:
    """Return the column titles (several lines each) and one list of cells per method; a cost has one unit per column."""
    from airloom.records.serving import is_serving, serving_cells

    if is_serving(comparison):
        return serving_cells(comparison)
    rows, metric = comparison.rows, comparison.metric
    titles, columns = ["method", "reached"], [[Cell(row["method"]) for row in rows], [Cell(row["reached"] or _NOTHING) for row in rows]]
    for cost, title in _COLUMNS:
        means = [row[cost]["mean"] for row in rows if row[cost]["mean"] is not None]
        size, unit = unit_of(cost, sorted(means)[len(means) // 2]) if means else (1.0, "")
        best = _best(rows, cost)
        titles.append(f"{title}\n({unit})" if unit else title)
        columns.append([_mean_cell(row[cost], size, is_best=row is best) for row in rows])
    scale, unit = (0.01, "\n(%)") if is_rate(metric) else (1.0, "")
    titles += [f"final\n{metric.replace('_', ' ')}{unit}", f"time /\n{comparison.methods[0]}"]
    columns.append([_mean_cell(row["metrics"].get(metric, {"mean": None}), scale) for row in rows])
    columns.append([Cell("1"), *(_ratio_cell(row["ratio"]["seconds"]) for row in rows[1:])])
    return titles, [list(row) for row in zip(*columns, strict=True)]


def rich_table(comparison: Comparison) -> Table:
    """Return the comparison as a table for `rich`: one line per method, intervals below the means."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    titles, rows = cells(comparison)
    table = Table(
        title=escape(comparison.title),
        title_justify="left",
        title_style="bold",
        caption="\n".join(map(escape, comparison.notes)) or None,
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for title in titles:
        table.add_column(escape(title), justify="left" if title == "method" else "right", overflow="fold", vertical="top")
    for row in rows:
        table.add_row(*("\n".join([_markup(escape(cell.text), cell.is_best), *(f"[dim]{line}[/]" for line in cell.below)]) for cell in row))
    return table


def latex_table(comparison: Comparison) -> str:
    """Return the comparison as a LaTeX tabular (package booktabs), the best of each column in bold."""
    titles, rows = cells(comparison)
    head = " & ".join(_tex(title.replace("\n", " ")) for title in titles)
    lines = [f"\\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}", "\\toprule", head + r" \\", "\\midrule"]
    for row in rows:
        lines.append(" & ".join(f"\\textbf{{{_tex(cell.text)}}}" if cell.is_best else _tex(cell.text) for cell in row) + r" \\")
        for i in range(max(len(cell.below) for cell in row)):
            lines.append(" & ".join(f"{{\\scriptsize {_tex(cell.below[i])}}}" if i < len(cell.below) else "" for cell in row) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _markup(text: str, is_best: bool) -> str:
    """Return the text as rich shows it."""
    return f"[bold green]{text}[/]" if is_best else text


def _best(rows: Sequence[Mapping[str, Any]], cost: str) -> Mapping[str, Any] | None:
    """Return the row with the smallest mean among those without censored seeds, where there is something to win."""
    exact = [row for row in rows if row[cost]["mean"] is not None and row[cost]["bound"] == "exact"]
    best = min(exact, key=lambda row: row[cost]["mean"], default=None)
    return best if best is not None and any(row[cost]["mean"] != best[cost]["mean"] for row in rows) else None


def _mean_cell(interval: Mapping[str, Any], size: float, *, is_best: bool = False) -> Cell:
    """Return a mean in units of `size`, with half the width of its interval below."""
    mean = interval["mean"]
    if mean is None:
        return Cell(_NOTHING)
    low, high = interval["low"], interval["high"]
    below = () if low is None else (f"±{number((high - low) / 2 / size, digits=2)}",)
    return Cell(_SIGNS[interval["bound"]] + number(mean / size), below, is_best)


def _ratio_cell(ratio: Mapping[str, Any]) -> Cell:
    """Return a ratio with its interval and adjusted p-value below."""
    if ratio["mean"] is None:
        return Cell(_NOTHING)
    below: list[str] = []
    if ratio["low"] is not None:
        below.append(f"{number(ratio['low'])}{_TO}{number(ratio['high'])}")
    if ratio["p"] is not None:
        below.append("p < 0.001" if ratio["p"] < 1e-3 else f"p = {number(ratio['p'], digits=2)}")
    return Cell(_SIGNS[ratio["bound"]] + number(ratio["mean"]), tuple(below))


def _tex(text: str) -> str:
    """Escape what LaTeX would take for commands."""
    return "".join(_TEX.get(character, character) for character in text)


def _rounded(value: float, digits: int = 3) -> float:
    """Return the value with so many significant digits."""
    return float(f"{value:.{digits}g}")
