"""What the claims share: sides with equal numbers of trials, runs on a simulated clock, and the record that is kept.

A claim compares *sides* in *cases*. In each case every side gets the same learning rates to try, on worlds of their own seeds, and is judged there by
validation accuracy; then it runs with the best one on other seeds and is judged by test accuracy. Services have nothing to tune and are judged by the
columns of their claim. The record keeps one line per run, not the curves.

Claims that need no files are functions of their module. A claim on real data is a `Claim` in the module's `REAL`: `python -m benchmarks.claims.NAME
--data DATA` runs it with the data of the folder AIRLOOM_DATA and keeps it as the record NAME_DATA.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from airloom.errors import RunFailed
from airloom.program.method import Method, Service
from airloom.records.record import reached
from airloom.runner import Options, Runner, describe_method, versions
from airloom.scenarios.scenario import Scenario
from airloom.tasks.evaluate import by_device

RECORDS = Path(__file__).resolve().parents[2] / "docs" / "records"
Point = dict[str, Any]
World = Callable[[str, int], Scenario]  # of a case and a seed


@dataclass(frozen=True, kw_only=True)
class Side:
    """A method and the fields that the claim gives it; the learning rate is tuned, unless it has none."""

    label: str
    method: Callable[..., Method | Service]
    fields: Mapping[str, Any]
    is_tuned: bool = True

    def with_lr(self, lr: float) -> Method | Service:
        """The method with a learning rate; as it is, where none is tuned."""
        return self.method(**self.fields, lr=lr) if self.is_tuned else self.method(**self.fields)

    def describe(self) -> dict[str, Any]:
        """Name, fields that the claim gives, and all fields."""
        given = {name: value if isinstance(value, int | float | str | bool | None) else repr(value) for name, value in self.fields.items()}
        return {"label": self.label, "given": given, **describe_method(self.with_lr(0.1))}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is run.

    Arguments:
        cases: names of the worlds, each with the rounds of its runs, or with another budget such as {"seconds": 600}.
        last: evaluations in the mean that a run is judged by.
        target: test accuracy to reach, for rounds and seconds; the mean of five successive evaluations counts.
        lrs: learning rates that every side tries, or one that is taken untried; none for services.
        seeds, tuning_seeds: of the final runs and of the trials.
    """

    cases: Mapping[str, int | Mapping[str, float]]
    last: int = 1
    target: float = 0.0
    lrs: Sequence[float] = ()
    seeds: Sequence[int]
    tuning_seeds: Sequence[int] = ()


@dataclass
class Outcome:
    """Trials and final runs, one mapping per run."""

    trials: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    cpu_s: float = 0.0

    def mean(self, case: str, label: str, column: str) -> float:
        """Mean over seeds of a column of the final runs; nan where a seed has no value."""
        values = [row[column] for row in self.rows if row["case"] == case and row["side"] == label]
        return fmean(values) if all(value is not None for value in values) else float("nan")

    def each(self, case: str, label: str, column: str) -> list[Any]:
        """A column of the final runs, by seed."""
        return [row[column] for row in self.rows if row["case"] == case and row["side"] == label]


def curve(scenario: Scenario, method: Method | Service, budget: int | Mapping[str, float], is_by_device: bool = False) -> list[Point]:
    """Points of a run of so many rounds (or another budget); none where training diverged; the last one may have `by_device`."""
    options = Options(executor="loop", budget={"rounds": budget} if isinstance(budget, int) else budget, checkpoint_every_s=None)
    runner = Runner(scenario, method, scenario.seed, options, None, {}, None)
    try:
        points = runner.run().points
        if is_by_device:
            models = runner.personal or dict.fromkeys(scenario.task.shards, runner.model)
            points[-1]["by_device"] = by_device(scenario.task, models, "test", None)
        return points
    except RunFailed as failure:
        if "diverged" not in str(failure):
            raise
        return []


def level(points: Sequence[Point], metric: str, last: int) -> float:
    """Mean of the last evaluations; for a run that diverged 0, and without bound where it is a loss."""
    return fmean(point[metric] for point in points[-last:]) if points else float("inf") if metric.endswith("loss") else 0.0


def best_lr(trials: Sequence[Mapping[str, Any]], judged: str) -> float:
    """The learning rate of the best trial: of the most accuracy, or of the least loss."""
    sign = -1.0 if judged == "loss" else 1.0
    return max(trials, key=lambda trial: sign * trial[f"validation_{judged}"])["lr"]


def play(
    world: World, sides: Sequence[Side], plan: Plan, more: Callable[[list[Point]], Mapping[str, Any]] = lambda points: {}, is_by_device: bool = False,
    parts: Path | None = None, judged: str = "accuracy",
) -> Outcome:  # fmt: skip
    """Tune every side in every case, then run it on the seeds of the plan; `more` adds columns of its own to the rows (see `curve`).

    `judged`: what trials are compared by, "accuracy" or "loss".
    With the folder `parts`, what is there already is not run again: a long claim continues where it was stopped.
    """
    outcome = Outcome()
    for i, (case, budget) in enumerate(plan.cases.items()):
        for j, side in enumerate(sides):
            part = _play_side(world, case, budget, side, plan, more, is_by_device, None if parts is None else parts / f"{i}-{j}.json", judged)
            outcome.trials += part.trials
            outcome.rows += part.rows
            outcome.cpu_s += part.cpu_s
    return outcome


def _play_side(
    world: World, case: str, budget: int | Mapping[str, float], side: Side, plan: Plan, more: Callable[[list[Point]], Mapping[str, Any]],
    is_by_device: bool, kept: Path | None, judged: str,
) -> Outcome:  # fmt: skip
    """Trials and runs of one side in one case; each is written to the file `kept` when it is done."""
    part = Outcome(**json.loads(kept.read_text(encoding="utf-8"))) if kept is not None and kept.is_file() else Outcome()
    before_s, began_s = part.cpu_s, time.process_time()

    def done(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
        rows.append(row)
        part.cpu_s = before_s + time.process_time() - began_s
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(vars(part)), encoding="utf-8")

    for tried in plan.lrs[len(part.trials) :] if len(plan.lrs) > 1 else ():
        found = [level(curve(world(case, seed), side.with_lr(tried), budget), f"validation_{judged}", plan.last) for seed in plan.tuning_seeds]
        done(part.trials, {"case": case, "side": side.label, "lr": tried, f"validation_{judged}": fmean(found)})
    lr = best_lr(part.trials, judged) if part.trials else plan.lrs[0]
    for seed in plan.seeds[len(part.rows) :]:
        points = curve(world(case, seed), side.with_lr(lr), budget, is_by_device)
        done(part.rows, {"case": case, "side": side.label, "lr": lr, "seed": seed, **summary(points, plan), **more(points)})
    return part


def answer(world: World, sides: Sequence[Side], plan: Plan, columns: Callable[[Scenario, list[Point]], Mapping[str, Any]]) -> Outcome:
    """Run services to their end in every case, with the seeds of the plan; `columns` makes a row of the points."""
    outcome = Outcome()
    for case, budget in plan.cases.items():
        for side in sides:
            for seed in plan.seeds:
                scenario = world(case, seed)
                points = curve(scenario, side.with_lr(0.0), budget)
                outcome.rows.append({"case": case, "side": side.label, "seed": seed, **columns(scenario, points)})
    return outcome


def summary(points: Sequence[Point], plan: Plan) -> dict[str, Any]:
    """What the record keeps of a run."""
    hit = reached(points, "accuracy", plan.target, "higher")
    end = points[-1] if points else {}
    return {
        "accuracy": level(points, "accuracy", plan.last),
        "rounds_to_target": None if hit is None else hit["round"] + 1,
        "seconds_to_target": None if hit is None else hit["seconds"],
        **{name: end.get(name) for name in ("seconds", "bytes_up", "bytes_down", "bytes_backhaul", "joules")},
    }


def keep(
    name: str, sides: Sequence[Side], plan: Plan, about: Mapping[str, Any], outcome: Outcome, began_s: float, folder: Path = RECORDS,
    command: str = "",
) -> Path:  # fmt: skip
    """Write the record of a claim: `header.json`, `trials.jsonl` and `rows.jsonl`. `began_s` is a reading of `time.process_time`."""
    into = folder / name
    into.mkdir(parents=True, exist_ok=True)
    header = {
        "claim": name,
        "command": command or f"python -m benchmarks.claims.{name}",
        "versions": versions(),
        "cpu_seconds": round(time.process_time() - began_s),
        "plan": vars(plan),
        "world": dict(about),
        "sides": [side.describe() for side in sides],
    }
    (into / "header.json").write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
    for file, rows in (("trials.jsonl", outcome.trials), ("rows.jsonl", outcome.rows)):
        (into / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return into


def load(name: str, folder: Path = RECORDS) -> tuple[dict[str, Any], Outcome]:
    """Header and runs of a kept record."""
    into = folder / name

    def lines(file: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (into / file).read_text(encoding="utf-8").splitlines()]

    header = json.loads((into / "header.json").read_text(encoding="utf-8"))
    return header, Outcome(trials=lines("trials.jsonl"), rows=lines("rows.jsonl"))


def table(outcome: Outcome, columns: Sequence[tuple[str, str, str]]) -> str:
    """A markdown table with a line per case and side; columns are (name of the row's entry, title, format)."""
    is_tuned = any("lr" in row for row in outcome.rows)
    heads = ["case", "side", *["lr"] * is_tuned, *[title for _, title, _ in columns]]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in outcome.rows:
        case, side = row["case"], row["side"]
        if row["seed"] == outcome.each(case, side, "seed")[0]:
            cells = [_cell(outcome.each(case, side, name), form) if name in row else "–" for name, _, form in columns]
            lr = [f"{row['lr']:g}"] if is_tuned else []
            lines.append(f"| {' | '.join([case, side, *lr, *cells])} |")
    return "\n".join(lines)


def _cell(values: Sequence[Any], form: str) -> str:
    """Mean and range over seeds; how many have no value."""
    have = [value for value in values if value is not None]
    if len(have) < len(values):
        return f"{len(have)} of {len(values)} reach it"
    return f"{format(fmean(have), form)} ({format(min(have), form)}–{format(max(have), form)})"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim on real data.

    Arguments:
        module: the claim's name in `benchmarks.claims`, and that of its page.
        data: name of the data, behind that of the module in the record.
        world, sides, plan, more, is_by_device: see `play`.
        small: the plan of the slow lane.
        chance: accuracy of guessing, which the best side of the small plan must beat.
        about: the world in words and numbers, for the record.
        columns: of the page's table (see `table`).
        player: makes the runs of a plan, with the folder `parts`, where `play` does not.
        judged: what trials are compared by: "accuracy", or "loss" for models of text, whose accuracy moves late.
    """

    module: str
    data: str
    world: World
    sides: Sequence[Side]
    plan: Plan
    small: Plan
    chance: float
    about: Mapping[str, Any]
    columns: Sequence[tuple[str, str, str]]
    more: Callable[[list[Point]], Mapping[str, Any]] = lambda points: {}
    is_by_device: bool = False
    player: Callable[[Plan, Path | None], Outcome] | None = None
    judged: str = "accuracy"

    @property
    def name(self) -> str:
        """Of the record."""
        return f"{self.module}_{self.data}"

    def run(self, plan: Plan | None = None, folder: Path | None = None, parts: Path | None = None) -> Outcome:
        """Run the claim; with a folder, keep its record there."""
        used = plan or self.plan
        player = self.player or (lambda plan, parts: play(self.world, self.sides, plan, self.more, self.is_by_device, parts, self.judged))
        outcome = player(used, parts)
        if folder is not None:
            began_s = time.process_time() - outcome.cpu_s
            keep(self.name, self.sides, used, self.about, outcome, began_s, folder, f"python -m benchmarks.claims.{self.module} --data {self.data}")
        return outcome

    def show(self, outcome: Outcome) -> str:
        """The table of the page."""
        return table(outcome, self.columns)


def main(own: Callable[[], str], claims: Sequence[Claim]) -> None:
    """The command line of a claim: `own` without data of a folder, or one of the claims with `--data`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", choices=[claim.data for claim in claims], help="real data, from the folder AIRLOOM_DATA")
    parser.add_argument("--parts", type=Path, help="folder for finished runs, to continue there")
    given = parser.parse_args()
    chosen = [claim for claim in claims if claim.data == given.data]
    print(chosen[0].show(chosen[0].run(folder=RECORDS, parts=given.parts)) if chosen else own())
