"""`airloom sweep`: which method wins where, over one or two fields, and how stable that is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airloom import api
from airloom.errors import RecordError, ScenarioError
from airloom.jobs import Tell
from airloom.network.scale import FIELDS
from airloom.records.compare import Comparison
from airloom.records.crossover import Crossover, Spot

FILE, FIGURE = "sweep.json", "sweep.png"
COSTS = ("seconds", "bytes_up", "bytes_down", "joules")
# other physics that a winner should survive: the usual uncertainty of a path loss, and a device generation
VARIANTS: Mapping[str, Mapping[str, float]] = {
    "+3 dB": {"link.gain_db": 3.0},
    "-3 dB": {"link.gain_db": -3.0},
    "2x compute": {"device.speed_factor": 2.0},
}


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A field and the values that it takes.

    >>> Axis.of("link.rate_bps=1e6:1e8:3")
    Axis(field='link.rate_bps', values=(1000000.0, 10000000.0, 100000000.0))
    >>> Axis.of("scenario.devices=10:30:3:linear").values, Axis.of("lr=0.1,0.3").values
    ((10, 20, 30), (0.1, 0.3))
    """

    field: str
    values: tuple[float | int, ...]

    @staticmethod
    def of(text: str) -> Axis:
        """Read `field=from:to:steps` (steps by equal factors; `:linear` by equal distances) or `field=value,value,...`."""
        field, equals, given = text.partition("=")
        wrong = ScenarioError(f"--over {text!r}: allowed is field=from:to:steps, field=from:to:steps:linear or field=value,value")
        if not equals or not field:
            raise wrong
        try:
            if ":" not in given:
                values = [float(value) for value in given.split(",")]
            else:
                low, high, steps, *kind = given.split(":")
                first, last, n = float(low), float(high), int(steps)
                if kind not in ([], ["linear"]) or n < 2:
                    raise wrong
                if kind:
                    values = [first + (last - first) * i / (n - 1) for i in range(n)]
                elif first > 0 and last > 0:
                    values = [first * (last / first) ** (i / (n - 1)) for i in range(n)]
                else:
                    raise ScenarioError(f"--over {text!r}: equal factors need values > 0; write :linear behind it")
        except ValueError:
            raise wrong from None
        if not all(map(math.isfinite, values)):
            raise wrong
        values = [float(f"{value:.12g}") for value in values]
        is_whole = all(value == int(value) for value in values) and field not in FIELDS
        return Axis(field=field, values=tuple(int(value) if is_whole else value for value in values))


def sweep(
    methods: Sequence[Any],
    over: Sequence[Axis],
    *,
    scenario: Any = "phones",
    seeds: int = 3,
    first_seed: int = 0,
    set: Mapping[str, Any] | None = None,
    target: api.Target = "scenario",
    budget: Mapping[str, float] | None = None,
    cost: str = "seconds",
    is_checked: bool = True,
    workers: int | None = None,
    out: Path | str = "auto",
    progress: Tell | None = None,
    tell: Callable[[str], None] | None = None,
) -> Crossover:
    """Compare methods at every point of one or two axes; each point is a comparison in a folder of its own.

    Parameters
    ----------
    methods, scenario, seeds, first_seed, set, target, budget, workers, progress : as in `airloom.compare`; the first is no base here.
    over : one or two axes.
    cost : what the winner has least of when it reaches the target (without a target, at its end): seconds, bytes_up, bytes_down or joules.
    is_checked : also compare under 3 dB more and less, and with devices twice as fast; three more comparisons per point.
    out : folder; a sweep that was interrupted goes on there, points that are done are kept.
    tell : called with a line per point.

    Returns
    -------
    Crossover : the map; `.plot()`, `.to_json()`.

    Raises
    ------
    ScenarioError : bad input.
    """
    if not 1 <= len(over) <= 2 or len({axis.field for axis in over}) < len(over):
        raise ScenarioError(f"sweep(over={[axis.field for axis in over]}): allowed are one or two different fields")
    if len(methods) < 2:
        raise ScenarioError(f"sweep(methods={list(methods)!r}): allowed are two methods or more; one alone always wins")
    if cost not in COSTS:
        raise ScenarioError(f"sweep(cost={cost!r}): allowed are {', '.join(COSTS)}")
    folder = Path(out) if out != "auto" else _fresh(api.RUNS / "sweep")
    spots: list[Spot] = []
    last: Comparison | None = None
    pairs: list[dict[str, float | int]] = [{}]
    for axis in over:
        pairs = [{**at, axis.field: value} for at in pairs for value in axis.values]

    def compared(fields: Mapping[str, Any], name: str) -> Comparison:
        place = folder / name
        if (place / api.TABLE).is_file():
            found = api.show(place)
        elif (place / api.PLAN).is_file():
            found = api.resume(place, workers=workers, progress=progress)
        else:
            found = api.compare(
                methods, scenario=scenario, seeds=seeds, first_seed=first_seed, set={**(set or {}), **fields}, target=target, budget=budget,
                stop_at_target=True, workers=workers, out=place, timeline=0, progress=progress,
            )  # fmt: skip
        assert isinstance(found, Comparison)
        return found

    for at in pairs:
        name = ",".join(f"{field}={value:g}" for field, value in at.items())
        last = compared(at, name)
        means = {row["method"]: row[cost] for row in last.rows}
        winner, ratio = best(means, {row["method"]: row["reached"] for row in last.rows})
        variants: dict[str, str | None] = {}
        if is_checked and winner is not None:
            for variant, changes in VARIANTS.items():
                rows = compared(_both(set or {}, at, changes), f"{name},{variant.replace(' ', '_')}").rows
                variants[variant] = best({row["method"]: row[cost] for row in rows}, {row["method"]: row["reached"] for row in rows})[0]
        spots.append(Spot(at=at, winner=winner, ratio=ratio, means=means, variants=variants))
        if tell is not None:
            tell(f"{name}: {spots[-1].text}")
    assert last is not None
    goal = None if last.target is None else (last.metric, last.target)
    made = Crossover(
        methods=last.methods, axes=tuple((axis.field, axis.values) for axis in over), cost=cost, scenario=last.scenario, target=goal,
        seeds=len(last.seeds), spots=tuple(spots),
    )  # fmt: skip
    try:
        (folder / FILE).write_text(json.dumps({**made.to_json(), "out": str(folder)}) + "\n", encoding="utf-8")
    except OSError as error:
        raise RecordError(f"sweep: cannot write into '{folder}': {error.strerror}; choose another folder with out") from error
    made.plot(folder / FIGURE)
    return made


def best(means: Mapping[str, Mapping[str, Any]], reached: Mapping[str, str | None]) -> tuple[str | None, float | None]:
    """Return the method with the least cost and by how much the second needs more; a method wins only if all its seeds reached the target.

    >>> best({"a": {"mean": 2.0}, "b": {"mean": 3.0}, "c": {"mean": 1.0}}, {"a": "3/3", "b": "2/3", "c": "1/3"})
    ('a', 1.5)
    """

    def is_whole(method: str) -> bool:
        text = reached[method]
        return means[method]["mean"] is not None and (text is None or text.split("/")[0] == text.split("/")[1])

    able = sorted((method for method in means if is_whole(method)), key=lambda method: means[method]["mean"])
    if not able:
        return None, None
    winner = able[0]
    # a method that missed the target has spent at least its mean; below the winner's it says nothing about the ratio
    others = [entry["mean"] for method, entry in means.items() if method != winner and entry["mean"] is not None]
    rest = [mean for mean in others if mean >= means[winner]["mean"]]
    return winner, min(rest) / means[winner]["mean"] if rest and means[winner]["mean"] > 0 else None


def _both(first: Mapping[str, Any], at: Mapping[str, Any], changes: Mapping[str, float]) -> dict[str, Any]:
    """Fields of a point with a variant on top: decibels add to those that are set already, factors multiply."""
    found = {**first, **at}
    for name, value in changes.items():
        if name in found:
            value = float(found[name]) + value if name.endswith("_db") else float(found[name]) * value
        found[name] = value
    return found


def _fresh(folder: Path) -> Path:
    number = 1
    while (found := folder if number == 1 else folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return found
