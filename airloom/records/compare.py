"""Several methods on the same worlds: which reaches a target first, in seconds, bytes and joules, over seeds."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from airloom.errors import RecordError
from airloom.records.record import Direction, Point, Record, direction_of, reached
from airloom.records.statistics import SEEDS_WITHOUT_INTERVAL, Interval, Spent, holm, mean_interval, paired_p, paired_ratio, restricted_mean
from airloom.records.table import human, metric_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.table import Table

_ROW_COSTS = ("seconds", "bytes_up", "bytes_down", "joules", "rounds")
_RATIO_COSTS = ("seconds", "bytes", "joules")  # bytes: up and down together
_INCOMPLETE = ("failed", "interrupted", "unfinished")

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs of several methods over seeds, compared; made by `build`.

    Parameters
    ----------
    methods : tuple of str
        In the order of the table; ratios are to the first.
    seeds : tuple of int
        All seeds of any method.
    metric : str
        What is plotted, and what the target is on.
    direction : {"higher", "lower"}
        Which values of the metric are better.
    target : float or None
        Without one, costs are those of the whole runs.
    scenario, clock : str
        As the records' headers say.
    rows : list of dict
        One per method: `method`, `reached` ("k/n" or None), the costs `seconds`, `bytes_up`, `bytes_down`, `joules`, `rounds` (each mean, low,
        high, bound), `metrics` (final values by name), `ratio` (by cost: mean, low, high, bound and Holm-adjusted p) and `first_crossing`.
    notes : tuple of str
        What a reader must know: censored seeds, failed runs, seeds without a partner.
    records : mapping
        The records by method and seed.
    stamps : mapping
        The points at which the target was reached, by method and seed; None where it was not.
    """

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    metric: str
    direction: Direction
    target: float | None
    scenario: str
    clock: str
    rows: list[Row]
    notes: tuple[str, ...]
    records: Mapping[str, Mapping[int, Record]]
    stamps: Mapping[str, Mapping[int, Point | None]]

    @property
    def title(self) -> str:
        """One line that says what was compared."""
        parts = [self.scenario] if self.scenario else []
        if self.target is not None:
            parts.append(
                f"target {self.metric.replace('_', ' ')} {'≥' if self.direction == 'higher' else '≤'} {metric_text(self.metric, self.target)}"
            )
        parts.append(f"{len(self.seeds)} seed{'s' * (len(self.seeds) != 1)}")
        return ", ".join(parts)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per method, flat: `seconds`, `seconds_low`, `seconds_high`, ..., `final_accuracy`, ..., `ratio_seconds`, ..."""
        import pandas as pd

        return pd.DataFrame([_flat(row) for row in self.rows])

    @property
    def curves(self) -> pd.DataFrame:
        """All points of all runs, long: `method`, `seed`, then costs, `round` and metrics."""
        import pandas as pd

        frames = [record.frame.assign(method=method, seed=seed) for method, seeds in self.records.items() for seed, record in seeds.items()]
        whole = pd.concat(frames, ignore_index=True)
        return whole.reindex(columns=["method", "seed", *(name for name in whole.columns if name not in ("method", "seed"))])

    def table(self) -> Table:
        """Return the table for a terminal (`rich.print(comparison.table())`)."""
        from airloom.records.table import rich_table

        return rich_table(self)

    def plot(self, path: Path | str | None = None) -> Figure:
        """Return the figure: the metric against seconds, bytes and joules; also written to `path` (.png, .pdf, .svg) if given."""
        from airloom.records.plot import draw

        return draw(self, None if path is None else Path(path))

    def to_json(self, *, out: Path | str | None = None) -> str:
        """Return `rows`, `target`, `seeds`, `notes` and `out` (the folder of the runs) as one line of strict JSON."""
        target = None if self.target is None else {"metric": self.metric, "value": self.target, "direction": self.direction}
        out_text = None if out is None else str(out)
        return json.dumps({"rows": self.rows, "target": target, "seeds": len(self.seeds), "notes": self.notes, "out": out_text}, allow_nan=False)

    def to_csv(self, path: Path | str) -> None:
        """Write `frame` as CSV."""
        self.frame.to_csv(path, index=False)

    def to_latex(self) -> str:
        """Return the table as a LaTeX tabular (package booktabs)."""
        from airloom.records.table import latex_table

        return latex_table(self)


def build(
    records: Sequence[Record],
    *,
    target: tuple[str, float] | None = None,
    methods: Sequence[str] | None = None,
    metric: str | None = None,
    direction: Direction | None = None,
    smooth: int = 5,
) -> Comparison:
    """Compare runs.

    A method is the header's `label`, else its `method`; runs of one method differ in `seed`. The header's `budget` (by `seconds`, `bytes`,
    `joules` or `rounds`) is what a run counts that ended by itself or failed without reaching the target; its `tuned` is the number of trials
    the method was tuned with.

    Parameters
    ----------
    records : sequence of Record
        One per method and seed.
    target : (str, float) or None
        Metric and value; None compares the costs of whole runs.
    methods : sequence of str or None
        Order of the table, the base of the ratios first; None takes the order of the records.
    metric : str or None
        To plot; default the target's, else `accuracy`, else the first of the records.
    direction : {"higher", "lower"} or None
        None judges by the metric's name (`direction_of`).
    smooth : int
        Number of successive evaluations whose mean must cross the target (default 5, ours).

    Raises
    ------
    RecordError
        If there is nothing to compare, two runs share method and seed, or no run has the metric.

    >>> def run(method, *accuracies):
    ...     points = [{"seconds": float(s), "round": s, "accuracy": accuracy} for s, accuracy in enumerate(accuracies)]
    ...     return Record(folder=Path(method), header={"method": method, "seed": 0}, points=points, summary={"status": "done"})
    >>> slow, fast = run("slow", 0.1, 0.2, 0.6, 0.7, 0.9), run("fast", 0.1, 0.9)
    >>> comparison = build([slow, fast], target=("accuracy", 0.9), smooth=1)
    >>> comparison.rows[1]["reached"], comparison.rows[1]["seconds"]["mean"], round(comparison.rows[1]["ratio"]["seconds"]["mean"], 3)
    ('1/1', 1.0, 0.25)
    """
    if not records:
        raise RecordError("compare: got no records; run at least one method")
    by_method = _by_method(records, methods)
    metric = _metric(records, target[0] if target is not None else metric)
    direction = direction or direction_of(metric)
    stamps: dict[str, dict[int, Point | None]] = {}
    crossings: dict[str, dict[int, Point | None]] = {}
    for method, seeds in by_method.items():
        for chosen, width in ((stamps, smooth), (crossings, 1)):
            chosen[method] = {
                seed: None if target is None else reached(record.points, metric, target[1], direction, smooth=width) for seed, record in seeds.items()
            }
    spent = {method: _spent(seeds, stamps[method], has_target=target is not None) for method, seeds in by_method.items()}
    rows = [_row(method, seeds, spent[method], stamps[method] if target else None, crossings[method]) for method, seeds in by_method.items()]
    _add_ratios(rows, spent)
    return Comparison(
        methods=tuple(by_method),
        seeds=tuple(sorted({seed for seeds in by_method.values() for seed in seeds})),
        metric=metric,
        direction=direction,
        target=None if target is None else target[1],
        scenario=_joined(records, "scenario"),
        clock=_joined(records, "clock"),
        rows=rows,
        notes=tuple(_notes(by_method, spent, has_target=target is not None)),
        records=by_method,
        stamps=stamps,
    )


def cost_of(values: Mapping[str, Any], cost: str) -> float | None:
    """Return a cost of a point or of a run's totals; `bytes` are those up and down, `rounds` those that ended with the point's.

    >>> cost_of({"bytes_up": 1, "bytes_down": 2, "round": 3}, "bytes"), cost_of({"round": 2}, "rounds"), cost_of({}, "joules")
    (3.0, 3.0, None)
    """
    if cost == "bytes":
        up, down = cost_of(values, "bytes_up"), cost_of(values, "bytes_down")
        return None if up is None or down is None else up + down
    value = values["round"] + 1 if cost == "rounds" and "round" in values else values.get(cost)
    return None if value is None else float(value)


def _by_method(records: Sequence[Record], methods: Sequence[str] | None) -> dict[str, dict[int, Record]]:
    """Sort the records by method and seed; measured and simulated runs of one method are two methods."""
    clocks = {record.header.get("clock") for record in records}
    found: dict[str, dict[int, Record]] = {}
    for record in records:
        header = record.header
        if "method" not in header or "seed" not in header:
            raise RecordError(f"compare: the header of '{record.folder}' lacks method or seed; compare needs both")
        label = str(header.get("label") or header["method"])
        if len(clocks) > 1:
            label += f" ({header.get('clock')})"
        seeds = found.setdefault(label, {})
        if header["seed"] in seeds:
            raise RecordError(
                f"compare: '{record.folder}' and '{seeds[header['seed']].folder}' are both {label} with seed {header['seed']}; "
                "give them different labels in their headers, or leave one out"
            )
        seeds[header["seed"]] = record
    order = list(found) if methods is None else list(methods)
    for label in order:
        if label not in found:
            raise RecordError(f"compare: no record of method '{label}'; there are {', '.join(found)}")
    return {label: dict(sorted(found[label].items())) for label in order}


def _metric(records: Sequence[Record], wanted: str | None) -> str:
    """Return the metric to plot; it must exist in some record."""
    names = list(dict.fromkeys(name for record in records for name in record.metrics))
    if wanted is None:
        wanted = "accuracy" if "accuracy" in names or not names else names[0]
    elif names and wanted not in names:
        raise RecordError(f"compare: no record has the metric '{wanted}'; there are {', '.join(names)}")
    return wanted


def _spent(seeds: Mapping[int, Record], stamps: Mapping[int, Point | None], *, has_target: bool) -> dict[str, dict[int, Spent | None]]:
    """Return what each seed spent, per cost; None where the record does not say."""
    spent: dict[str, dict[int, Spent | None]] = {}
    for cost in dict.fromkeys((*_ROW_COSTS, *_RATIO_COSTS)):
        spent[cost] = {}
        for seed, record in seeds.items():
            stamp = stamps[seed]
            value = _end(record, cost, has_target=has_target) if stamp is None else cost_of(stamp, cost)
            is_complete = stamp is not None if has_target else record.status not in _INCOMPLETE
            spent[cost][seed] = None if value is None else Spent(value, is_complete)
    return spent


def _end(record: Record, cost: str, *, has_target: bool) -> float | None:
    """Return what a run had spent at its end; if it missed the target and ended by itself, all of its budget, since it never gets there."""
    summary = record.summary or {}
    last = record.points[-1] if record.points else {}
    end = cost_of(summary.get("totals", summary), cost)
    end = cost_of(last, cost) if end is None else end
    budget = cast(dict[str, float], record.header.get("budget") or {}).get(cost)
    if has_target and budget is not None and record.status in ("done", "failed"):
        return float(budget) if end is None else max(end, float(budget))
    return end


def _row(
    method: str,
    seeds: Mapping[int, Record],
    spent: Mapping[str, Mapping[int, Spent | None]],
    stamps: Mapping[int, Point | None] | None,
    crossings: Mapping[int, Point | None],
) -> Row:
    """Return a method's row without its ratios."""
    row: Row = {"method": method, "reached": None if stamps is None else _count(stamps)}
    for cost in _ROW_COSTS:
        row[cost] = restricted_mean(_known(spent[cost].values())).as_dict()
    names = dict.fromkeys(name for record in seeds.values() for name in record.metrics)
    row["metrics"] = {name: mean_interval([_final(record, name) for record in seeds.values()]).as_dict() for name in names}
    row["ratio"] = {}
    row["first_crossing"] = None
    if stamps is not None:
        first = _spent(seeds, crossings, has_target=True)["seconds"]
        row["first_crossing"] = {"reached": _count(crossings), "seconds": restricted_mean(_known(first.values())).as_dict()}
    return row


def _known(values: Iterable[Spent | None]) -> list[Spent]:
    """Return the values, or none of them where one is missing: the rest would be an average of survivors."""
    known = list(values)
    return [] if None in known else [value for value in known if value is not None]


def _count(stamps: Mapping[int, Point | None]) -> str:
    """Return how many seeds have a stamp, as k/n."""
    return f"{sum(stamp is not None for stamp in stamps.values())}/{len(stamps)}"


def _final(record: Record, name: str) -> float:
    """Return the last value of a metric; NaN where there is none or it is no number."""
    value = next((point[name] for point in reversed(record.points) if point.get(name) is not None), None)
    return float(value) if isinstance(value, (int, float)) else math.nan


def _add_ratios(rows: Sequence[Row], spent: Mapping[str, Mapping[str, Mapping[int, Spent | None]]]) -> None:
    """Add to each row its ratios to the first method, paired by seed, with p-values adjusted over the methods."""
    first = spent[rows[0]["method"]]
    for cost in _RATIO_COSTS:
        p_values: list[float | None] = []
        for row in rows:
            mine = spent[row["method"]][cost]
            shared = [seed for seed in mine if seed in first[cost]]
            pair = _known(mine[seed] for seed in shared), _known(first[cost][seed] for seed in shared)
            is_known = len(pair[0]) == len(pair[1])
            ratio = paired_ratio(*pair) if is_known else Interval(mean=None)
            p_values.append(paired_p(*pair) if is_known and row is not rows[0] else None)
            row["ratio"][cost] = ratio.as_dict()
        for row, p in zip(rows, holm(p_values), strict=True):
            row["ratio"][cost]["p"] = p


def _flat(row: Row) -> Row:
    """Return a row with one level."""
    flat: Row = {"method": row["method"], "reached": row["reached"]}
    groups = [(cost, row[cost]) for cost in _ROW_COSTS]
    groups += [(f"final_{name}", interval) for name, interval in row["metrics"].items()]
    groups += [(f"ratio_{cost}", interval) for cost, interval in row["ratio"].items()]
    for name, interval in groups:
        flat |= {name: interval["mean"], **{f"{name}_{key}": value for key, value in interval.items() if key != "mean"}}
    if row["first_crossing"] is not None:
        flat["first_crossing_seconds"] = row["first_crossing"]["seconds"]["mean"]
    return flat


def _joined(records: Sequence[Record], name: str) -> str:
    """Return what the headers say under `name`, all answers joined."""
    answers = [record.header.get(name) for record in records]
    return " and ".join(
        dict.fromkeys(
            str(cast(dict[str, Any], answer).get("name") if isinstance(answer, dict) else answer) for answer in answers if answer is not None
        )
    )


def _notes(
    by_method: Mapping[str, Mapping[int, Record]], spent: Mapping[str, Mapping[str, Mapping[int, Spent | None]]], *, has_target: bool
) -> list[str]:
    """Return what a reader of the table must know."""
    notes: list[str] = []
    base = next(iter(by_method))
    records = [record for seeds in by_method.values() for record in seeds.values()]
    censored = {method for method, costs in spent.items() if any(value is not None and not value.is_reached for value in costs["seconds"].values())}
    if censored:
        what = "did not reach the target" if has_target else "did not complete"
        notes.append(f"≥: some seeds {what}; each counts with all it could spend (restricted mean), so the true mean is higher")
    if base in censored and len(by_method) > 1:
        notes.append(f"≤: the same for {base}, the base of the ratios; no ratio where both sides have such seeds")
    for method, seeds in by_method.items():
        for seed, record in seeds.items():
            if record.status in _INCOMPLETE:
                at = human("seconds", _end(record, "seconds", has_target=False))
                notes.append(f"{method}, seed {seed}: {record.status} at {at}")
        if set(seeds) != set(by_method[base]):
            shared = sorted(set(seeds) & set(by_method[base]))
            notes.append(f"{method} and {base} have different seeds; their ratio is over {', '.join(map(str, shared)) or 'none'}")
    for name in ("scenario", "clock"):
        if " and " in _joined(records, name):
            notes.append(f"the records have more than one {name}: {_joined(records, name)}")
    if any("tuned" in record.header for record in records):
        trials = {method: next(iter(seeds.values())).header.get("tuned") or 0 for method, seeds in by_method.items()}
        notes.append("trials of tuning: " + ", ".join(f"{method} {number}" for method, number in trials.items()))
    if 1 < max(map(len, by_method.values())) <= SEEDS_WITHOUT_INTERVAL:
        notes.append(f"{SEEDS_WITHOUT_INTERVAL} seeds or fewer give no intervals; use 10 for publishing")
    return notes
