"""Claim of CoFED: silos that share neither model family nor classes gain by voting on unlabeled rows; the more must agree, the surer the labels.

    python -m benchmarks.claims.cofed

Digits, 12 silos with 4 classes each, 6 rows of each class and 2 more for validation; logistic regressions, trees, MLPs, forests; 700 rows without
labels. Every side is judged on each silo's own classes.

    python -m benchmarks.claims.cofed --data fashion_mnist

Fashion-MNIST, 20 silos with 3 to 5 classes each, 50 rows of each class and 10 more for validation; convolutional networks of widths drawn at random
beside trees and forests; 600 rows without labels.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from airloom.clock.rng import generator
from airloom.methods.centralized import Centralized
from airloom.methods.cofed import CoFED
from airloom.methods.fedavg import FedAvg
from airloom.models import zoo
from airloom.models.estimator import Estimator
from airloom.models.module import ModelSpec
from airloom.network.device import RadioEnergy
from airloom.network.network import Network
from airloom.network.profiles import CLOUD, phone
from airloom.network.topology import star
from airloom.runner import Options, Run, Runner
from airloom.scenarios.scenario import Scenario
from airloom.tasks import evaluate
from airloom.tasks.datasets import load
from airloom.tasks.task import Task
from benchmarks.claims.harness import RECORDS, Claim, Outcome, Plan, Side, keep, main, table

SILOS, CLASSES, ROWS, HELD, POOL, BPS, LATENCY_S = 12, 4, 6, 2, 700, 20e6, 0.01
MLP = zoo.mlp(inputs=64, hidden=(32,))
FAMILIES = (
    # costs, ours: 100 passes over 64 weights of 4 classes forth and back; 64 features sorted at 5 depths; the same with 8 features in 20 trees
    Estimator(make="linear_model.LogisticRegression", options={"max_iter": 200}, fit_flops_per_row=1e5, predict_flops_per_row=512.0),
    Estimator(make="tree.DecisionTreeClassifier", fit_flops_per_row=3.2e3, predict_flops_per_row=10.0),
    None,  # an MLP, whose FLOPs are counted
    Estimator(make="ensemble.RandomForestClassifier", options={"n_estimators": 20}, fit_flops_per_row=8e3, predict_flops_per_row=200.0),
)
QUICK: dict[str, Any] = {"local_epochs": 30, "retrain_epochs": 30}
AVERAGED: dict[str, Any] = {"local_steps": 10, "batch_size": 8}
SIDES = (
    Side(label="local only", method=CoFED, fields={**QUICK, "exchange": "none"}),
    *[Side(label=f"cofed, alpha {alpha:g}", method=CoFED, fields={**QUICK, "alpha": alpha}) for alpha in (0.1, 0.3, 0.5, 0.7)],
    Side(label="cofed, keeping better local ones", method=CoFED, fields={**QUICK, "keep_local_if_better": True}),
    Side(label="no margin", method=CoFED, fields={**QUICK, "delta": -1.0}),
    Side(label="no class weights", method=CoFED, fields={**QUICK, "class_weights": False}),
    Side(label="accept everything", method=CoFED, fields={**QUICK, "alpha": 0.0, "delta": -1.0}),
    Side(label="soft labels", method=CoFED, fields={**QUICK, "exchange": "soft"}),
    Side(label="fedavg, one MLP", method=FedAvg, fields=AVERAGED),
    Side(label="centralized, one MLP", method=Centralized, fields=AVERAGED),
)
FULL = Plan(cases={"digits": 30}, last=1, target=0.9, lrs=(0.1, 0.5), seeds=(0, 1, 2), tuning_seeds=(100,))
ABOUT = {
    "data": "digits", "silos": SILOS, "classes": CLASSES, "rows_per_class": ROWS, "validation_per_class": HELD, "pool": POOL,
    "families": [str(family or MLP.key) for family in FAMILIES], "device": "median phone", "bps": BPS, "latency_s": LATENCY_S,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Silos:
    """Who they are: classes of each (drawn from this range), rows of a class, more of them for validation, rows of the pool, models in turn."""

    data: str
    limit: int | None = None
    silos: int
    classes: tuple[int, int]
    rows: int
    held: int
    pool: int
    families: Sequence[Estimator | ModelSpec]


DIGITS = Silos(data="digits", silos=SILOS, classes=(CLASSES, CLASSES), rows=ROWS, held=HELD, pool=POOL, families=[f or MLP for f in FAMILIES])


@lru_cache(maxsize=2)
def network(silos: int = SILOS) -> Network:
    """Equal devices on equal links."""
    names = [f"silo{k}" for k in range(silos)]
    return star(dict.fromkeys(names, phone(0.5, radio=RadioEnergy.measured("lte"))), root=CLOUD, up_bps=BPS, down_bps=BPS, latency_s=LATENCY_S)


def dealt(what: Silos, seed: int) -> Scenario:
    """Classes and rows of each silo; silos may hold the same rows of a class."""
    data, rng = load(what.data, limit=what.limit), generator(seed, "claim cofed")
    order = rng.permutation(len(data.y_train))
    rest, (low, high) = order[what.pool :], what.classes
    shards: dict[str, np.ndarray] = {}
    for k in range(what.silos):
        own = rng.choice(10, low if low == high else int(rng.integers(low, high + 1)), replace=False)
        shards[f"silo{k}"] = np.sort(np.concatenate([rng.permutation(rest[data.y_train[rest] == c])[: what.rows + what.held] for c in own]))
    models = [what.families[k % len(what.families)] for k in range(what.silos)]
    residents = {
        name: m if isinstance(m, Estimator) else m.initial(seed * what.silos + k) for k, (name, m) in enumerate(zip(shards, models, strict=True))
    }
    task = Task(
        name="silos", dataset=data, model=next(m for m in what.families if isinstance(m, ModelSpec)), shards=shards,
        public_rows=np.sort(order[: what.pool]), residents=residents, validation_share=what.held / (what.rows + what.held), seed=seed,
    )  # fmt: skip
    return Scenario(name=f"claim cofed, {what.data}", network=network(what.silos), task=task, seed=seed)


def by_silo(run: Run, task: Task, part: str) -> dict[str, float]:
    """Accuracy of each silo's model, or of a common one, among the silo's own classes."""
    own = {name: np.flatnonzero(task.data(name).counts) for name in task.shards}
    models = {name: run.model[name] if isinstance(run.model, dict) else {"h": run.model, "Y": Y} for name, Y in own.items()}
    return evaluate.by_device(task, models, part, CoFED().predict)["accuracy"]


@lru_cache(maxsize=4)
def world(case: str, seed: int) -> Scenario:
    """The silos of a case."""
    return dealt(DIGITS if case == "digits" else CLOTHES, seed)


@dataclass
class Played:
    """Runs of the sides in a case; those of local training alone are kept, since each run is compared with one."""

    case: str
    sides: Sequence[Side]
    alone: dict[tuple[float, int], dict[str, float]] = field(default_factory=dict)

    def run(self, side: Side, lr: float, seed: int, rounds: int) -> tuple[Run, Task]:
        """A run of one side, and its task."""
        scenario = world(self.case, seed)
        options = Options(executor="loop", budget={"rounds": rounds}, checkpoint_every_s=None)
        return Runner(scenario, side.with_lr(lr), seed, options, None, {}, None).run(), scenario.task

    def row(self, side: Side, lr: float, seed: int, rounds: int) -> dict[str, Any]:
        """What the record keeps of a run."""
        run, task = self.run(side, lr, seed, rounds)
        mine = by_silo(run, task, "test")
        if (lr, seed) not in self.alone:
            self.alone[lr, seed] = mine if side.label == self.sides[0].label else by_silo(self.run(self.sides[0], lr, seed, rounds)[0], task, "test")
        told = [model for model in run.model.values() if "x" in model] if isinstance(run.model, dict) else []
        y = task.dataset.y_train[task.public_rows]
        right = np.concatenate([y[model["x"]] == model["c"] for model in told]) if told else None
        end = run.points[-1]
        return {
            "accuracy": fmean(mine.values()),
            "worst": min(mine.values()),
            "improved": fmean(mine[name] > self.alone[lr, seed][name] for name in mine),
            **({} if right is None else {"precision": float(right.mean())}),
            "labels": 0.0 if right is None else len(right) / len(mine),
            "kb_up": end["bytes_up"] / 1e3,
            "kb_down": end["bytes_down"] / 1e3,
            "seconds": end["seconds"],
            "joules": end["joules"],
        }

    def play(self, plan: Plan, parts: Path | None = None) -> Outcome:
        """Tune every side that has something to tune, then run it on the seeds of the plan; finished sides are read from the folder `parts`."""
        outcome = Outcome()
        for case, rounds in plan.cases.items():
            assert isinstance(rounds, int)
            for j, side in enumerate(self.sides):
                kept, began_s = None if parts is None else parts / f"{case}-{j}.json", time.process_time()
                if kept is not None and kept.is_file():
                    part = Outcome(**json.loads(kept.read_text(encoding="utf-8")))
                else:
                    part = self.side(case, rounds, side, plan)
                    part.cpu_s = time.process_time() - began_s
                    if kept is not None:
                        kept.parent.mkdir(parents=True, exist_ok=True)
                        kept.write_text(json.dumps(vars(part)), encoding="utf-8")
                outcome.trials += part.trials
                outcome.rows += part.rows
                outcome.cpu_s += part.cpu_s
        return outcome

    def side(self, case: str, rounds: int, side: Side, plan: Plan) -> Outcome:
        """Trials and runs of one side."""
        part, scores = Outcome(), dict[float, float]()
        for lr in plan.lrs if len(plan.lrs) > 1 else ():
            found = [by_silo(*self.run(side, lr, seed, rounds), "validation") for seed in plan.tuning_seeds]
            scores[lr] = fmean(fmean(silos.values()) for silos in found)
            part.trials.append({"case": case, "side": side.label, "lr": lr, "validation_accuracy": scores[lr]})
        lr = max(scores, key=lambda tried: scores[tried]) if scores else plan.lrs[0]
        part.rows += [{"case": case, "side": side.label, "lr": lr, "seed": seed, **self.row(side, lr, seed, rounds)} for seed in plan.seeds]
        return part


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s, outcome = time.process_time(), Played("digits", SIDES).play(plan)
    if folder is not None:
        keep("cofed", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


COLUMNS = (
    ("accuracy", "mean accuracy of silos", ".3f"), ("improved", "silos better than alone", ".2f"), ("precision", "right among labels", ".2f"),
    ("labels", "labels per silo", ".0f"), ("kb_up", "kB up", ".1f"), ("kb_down", "kB down", ".0f"), ("seconds", "seconds", ".3g"),
)  # fmt: skip


def show(outcome: Outcome) -> str:
    """The table of the page."""
    return table(outcome, COLUMNS).replace("0 of 3 reach it", "–")


WIDTHS = (4, 6, 8, 12)
CNNS = [zoo.cnn(widths=sorted(generator(k, "claim cofed").choice(WIDTHS, 2).tolist()), hidden=16) for k in range(5)]
# costs, ours: 784 features sorted at 8 depths; the same with 28 features in 20 trees
TREE = Estimator(make="tree.DecisionTreeClassifier", options={"max_features": 98}, fit_flops_per_row=6.3e4, predict_flops_per_row=10.0)
FOREST = Estimator(make="ensemble.RandomForestClassifier", options={"n_estimators": 20}, fit_flops_per_row=4.5e4, predict_flops_per_row=200.0)
CLOTHES = Silos(
    data="fashion_mnist", limit=3000, silos=20, classes=(3, 5), rows=50, held=10, pool=600,
    families=[model for cnn, other in zip(CNNS, (TREE, FOREST, TREE, FOREST, TREE), strict=True) for model in (cnn, other)],
)  # fmt: skip
SHORT: dict[str, Any] = {"local_epochs": 20, "retrain_epochs": 8, "retrain_batch_size": 250}
WORN = (
    Side(label="local only", method=CoFED, fields={**SHORT, "exchange": "none"}),
    *[Side(label=f"cofed, alpha {alpha:g}", method=CoFED, fields={**SHORT, "alpha": alpha}) for alpha in (0.3, 0.5)],
)
REAL = (
    Claim(
        module="cofed", data="fashion_mnist", world=world, sides=WORN, chance=0.3,
        player=Played("fashion_mnist", WORN).play,
        plan=Plan(cases={"fashion_mnist": 1}, last=1, lrs=(0.1,), seeds=(0, 1, 2)),
        small=Plan(cases={"fashion_mnist": 1}, last=1, lrs=(0.1,), seeds=(0,)),
        about={
            **ABOUT, "data": "fashion_mnist, 3,000 rows of each part", "silos": 20, "classes": "3 to 5", "rows_per_class": 50,
            "validation_per_class": 10,
            "pool": 600, "families": [str(m if isinstance(m, Estimator) else m.key) for m in CLOTHES.families],
        },
        columns=COLUMNS,
    ),
)  # fmt: skip

if __name__ == "__main__":
    main(lambda: show(run(folder=RECORDS)), REAL)
