"""The map of a sweep: which method wins at each point, by how much, and whether it still does in other physics."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
# (matplotlib leaves its keyword arguments untyped)
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airloom.errors import RecordError
from airloom.records.table import human, metric_text, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# as in the figures of comparisons
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_HATCHES = ("", "///", "...", "\\\\\\", "xxx", "ooo", "+++")  # a second sign beside the color
_NOBODY = "#E6E6E6"
_DPI = 150


@dataclass(frozen=True, kw_only=True)
class Spot:
    """One point of the map.

    Parameters
    ----------
    at : values by field.
    winner : the method with the least cost among those whose seeds all reached the target; None where there is none.
    ratio : cost of the second over that of the winner; None where there is no second.
    means : mean, interval and bound of the cost by method.
    variants : the winner in other physics, by what was changed.
    """

    at: Mapping[str, float]
    winner: str | None
    ratio: float | None
    means: Mapping[str, Mapping[str, Any]]
    variants: Mapping[str, str | None]

    @property
    def kept(self) -> int:
        """In how many variants the winner stays the same."""
        return sum(winner == self.winner for winner in self.variants.values())

    @property
    def text(self) -> str:
        """The point in words."""
        if self.winner is None:
            return "no method reached the target with all seeds"
        ahead = "" if self.ratio is None else f", the second needs {number(self.ratio)}x"
        others = [f"{variant}: {winner or 'nobody'}" for variant, winner in self.variants.items() if winner != self.winner]
        stable = f"; wins in {self.kept} of {len(self.variants)} variants" + (f" ({', '.join(others)})" if others else "") if self.variants else ""
        return f"{self.winner} wins{ahead}{stable}"


@dataclass(frozen=True, kw_only=True)
class Crossover:
    """The map; made by `airloom.sweep.sweep`."""

    methods: tuple[str, ...]
    axes: tuple[tuple[str, tuple[float, ...]], ...]
    cost: str
    scenario: str
    target: tuple[str, float] | None
    seeds: int
    spots: tuple[Spot, ...]

    @property
    def title(self) -> str:
        """One line that says what was compared."""
        goal = "" if self.target is None else f" to {self.target[0].replace('_', ' ')} {metric_text(self.target[0], self.target[1])}"
        return f"{self.scenario}: least {self.cost.replace('_', ' ')}{goal}, {self.seeds} seed{'s' * (self.seeds != 1)}"

    def to_json(self) -> dict[str, Any]:
        """Return the map as JSON-able values."""
        points = [{"at": dict(s.at), "winner": s.winner, "ratio": s.ratio, "means": s.means, "variants": dict(s.variants)} for s in self.spots]
        axes = [{"field": field, "values": list(values)} for field, values in self.axes]
        target = None if self.target is None else {"metric": self.target[0], "value": self.target[1]}
        return {
            "methods": list(self.methods),
            "over": axes,
            "cost": self.cost,
            "scenario": self.scenario,
            "target": target,
            "seeds": self.seeds,
            "points": points,
        }

    def plot(self, path: Path | str | None = None) -> Figure:
        """Return the figure; also written to `path` (.png, .pdf, .svg) if given.

        Over one field: cost of every method, winners below. Over two: a cell per point with the winner's color and sign, its ratio, and how many
        variants it survives.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.0, 5.0), dpi=_DPI, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axis = figure.add_subplot()
        if len(self.axes) == 1:
            self._draw_lines(axis)
        else:
            self._draw_cells(axis)
        axis.set_title(self.title, fontsize=11, loc="left")
        if path is not None:
            try:
                figure.savefig(path, dpi=_DPI)
            except (OSError, ValueError) as error:
                raise RecordError(f"plot: cannot write '{path}': {error}; give a file such as sweep.png, sweep.pdf or sweep.svg") from error
        return figure

    def _draw_lines(self, axis: Axes) -> None:
        field, values = self.axes[0]
        for i, method in enumerate(self.methods):
            means = [spot.means[method]["mean"] for spot in self.spots]
            known = [(value, mean) for value, mean in zip(values, means, strict=True) if mean is not None]
            sure = [spot.means[method]["bound"] == "exact" for spot in self.spots if spot.means[method]["mean"] is not None]
            color = _COLORS[i % len(_COLORS)]
            axis.plot([value for value, _ in known], [mean for _, mean in known], color=color, linewidth=2, label=method)
            for (value, mean), is_sure in zip(known, sure, strict=True):  # hollow: at least this much
                axis.plot([value], [mean], marker="o", color=color, markerfacecolor=color if is_sure else "white", markersize=6)
        _scale(axis, "x", values)
        axis.set_yscale("log")
        axis.set_xlabel(field)
        axis.set_ylabel(f"{self.cost.replace('_', ' ')} (hollow: at least)")
        low = axis.get_ylim()[0]
        for value, spot in zip(values, self.spots, strict=True):
            if spot.winner is not None:
                color = _COLORS[self.methods.index(spot.winner) % len(_COLORS)]
                is_stable = spot.kept == len(spot.variants)
                axis.plot(
                    [value], [low * 0.8], marker="s", markersize=11, color=color, markerfacecolor=color if is_stable else "white", clip_on=False
                )
        axis.set_ylim(bottom=low * 0.65)
        axis.legend(title="squares: the winner (hollow: not in all variants)" if any(s.variants for s in self.spots) else "squares: the winner")

    def _draw_cells(self, axis: Axes) -> None:
        from matplotlib.patches import Patch, Rectangle

        (x_field, x_values), (y_field, y_values) = self.axes
        for spot in self.spots:
            x, y = x_values.index(spot.at[x_field]), y_values.index(spot.at[y_field])
            i = None if spot.winner is None else self.methods.index(spot.winner)
            color, hatch = (_NOBODY, "") if i is None else (_COLORS[i % len(_COLORS)], _HATCHES[i % len(_HATCHES)])
            axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=color, alpha=0.55, edgecolor="white", hatch=hatch))
            lines = ["nobody" if spot.winner is None else "" if spot.ratio is None else f"{number(spot.ratio)}x"]
            lines += [f"{spot.kept}/{len(spot.variants)}"] if spot.variants else []
            axis.text(x, y, "\n".join(lines), ha="center", va="center", fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})
        axis.set_xlim(-0.5, len(x_values) - 0.5)
        axis.set_ylim(-0.5, len(y_values) - 0.5)
        axis.set_xticks(range(len(x_values)), [f"{value:.3g}" for value in x_values])
        axis.set_yticks(range(len(y_values)), [f"{value:.3g}" for value in y_values])
        axis.set_xlabel(x_field)
        axis.set_ylabel(y_field)
        there = [method for method in self.methods if any(spot.winner == method for spot in self.spots)]
        signs = [(self.methods.index(method), method) for method in there]
        handles = [Patch(facecolor=_COLORS[i % len(_COLORS)], alpha=0.55, hatch=_HATCHES[i % len(_HATCHES)], label=method) for i, method in signs]
        axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), title="winner")

    def lines(self) -> list[str]:
        """Return a line of text per point."""
        shown = [", ".join(f"{field}={value:g}" for field, value in spot.at.items()) for spot in self.spots]
        costs = [" ".join(f"{method} {_mean(self.cost, spot.means[method])}" for method in self.methods) for spot in self.spots]
        return [f"{at}: {spot.text}  [{cost}]" for at, spot, cost in zip(shown, self.spots, costs, strict=True)]


def _mean(cost: str, entry: Mapping[str, Any]) -> str:
    return ("≥ " if entry["bound"] == "at least" else "") + human(cost, entry["mean"])


def _scale(axis: Axes, which: str, values: tuple[float, ...]) -> None:
    """A logarithmic axis where the values spread by equal factors."""
    if len(values) > 2 and min(values) > 0 and abs(values[1] ** 2 - values[0] * values[2]) < 1e-6 * values[1] ** 2:
        axis.set_xscale("log")
