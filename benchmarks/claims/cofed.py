"""Claim of CoFED: silos that share neither model family nor classes gain by voting on unlabeled rows; the more must agree, the surer the labels.

    python -m benchmarks.claims.cofed

Digits, 12 silos with 4 classes each, 6 rows of each class and 2 more for validation; logistic regressions, trees, MLPs, forests; 700 rows without
labels. Every side is judged on each silo's own classes.
"""

from __future__ import annotations

import time
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
from airloom.network.device import RadioEnergy
from airloom.network.network import Network
from airloom.network.profiles import CLOUD, phone
from airloom.network.topology import star
from airloom.runner import Options, Run, Runner
from airloom.scenarios.scenario import Scenario
from airloom.tasks import evaluate
from airloom.tasks.datasets import load
from airloom.tasks.task import Task
from benchmarks.claims.harness import RECORDS, Outcome, Plan, Side, keep, table

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


@lru_cache(maxsize=1)
def network() -> Network:
    """Equal devices on equal links."""
    names = [f"silo{k}" for k in range(SILOS)]
    return star(dict.fromkeys(names, phone(0.5, radio=RadioEnergy.measured("lte"))), root=CLOUD, up_bps=BPS, down_bps=BPS, latency_s=LATENCY_S)


@lru_cache(maxsize=4)
def world(case: str, seed: int) -> Scenario:
    """Classes and rows of each silo; silos may hold the same rows of a class."""
    digits, rng = load("digits"), generator(seed, "claim cofed")
    order = rng.permutation(len(digits.y_train))
    rest = order[POOL:]
    shards: dict[str, np.ndarray] = {}
    for k in range(SILOS):
        own = rng.choice(10, CLASSES, replace=False)
        shards[f"silo{k}"] = np.sort(np.concatenate([rng.permutation(rest[digits.y_train[rest] == c])[: ROWS + HELD] for c in own]))
    residents = {name: FAMILIES[k % 4] or MLP.initial(seed * SILOS + k) for k, name in enumerate(shards)}
    task = Task(
        name="silos", dataset=digits, model=MLP, shards=shards, public_rows=np.sort(order[:POOL]), residents=residents,
        validation_share=HELD / (ROWS + HELD), seed=seed,
    )  # fmt: skip
    return Scenario(name=f"claim cofed, {case}", network=network(), task=task, seed=seed)


@lru_cache(maxsize=16)
def outcome_of(label: str, lr: float, seed: int, rounds: int) -> Run:
    """A run of one side."""
    scenario, side = world("digits", seed), next(side for side in SIDES if side.label == label)
    options = Options(executor="loop", budget={"rounds": rounds}, checkpoint_every_s=None)
    return Runner(scenario, side.with_lr(lr), seed, options, None, {}, None).run()


def by_silo(run: Run, task: Task, part: str) -> dict[str, float]:
    """Accuracy of each silo's model, or of a common one, among the silo's own classes."""
    own = {name: np.flatnonzero(task.data(name).counts) for name in task.shards}
    models = {name: run.model[name] if isinstance(run.model, dict) else {"h": run.model, "Y": Y} for name, Y in own.items()}
    return evaluate.by_device(task, models, part, CoFED().predict)["accuracy"]


def row(label: str, lr: float, seed: int, rounds: int) -> dict[str, Any]:
    """What the record keeps of a run."""
    run, task = outcome_of(label, lr, seed, rounds), world("digits", seed).task
    mine, alone = by_silo(run, task, "test"), by_silo(outcome_of("local only", lr, seed, rounds), task, "test")
    told = [model for model in run.model.values() if "x" in model] if isinstance(run.model, dict) else []
    y = task.dataset.y_train[task.public_rows]
    right = np.concatenate([y[model["x"]] == model["c"] for model in told]) if told else np.zeros(0)
    end = run.points[-1]
    return {
        "accuracy": fmean(mine.values()),
        "worst": min(mine.values()),
        "improved": fmean(mine[name] > alone[name] for name in mine),
        "precision": float(right.mean()) if len(right) else None,
        "labels": len(right) / SILOS,
        "kb_up": end["bytes_up"] / 1e3,
        "kb_down": end["bytes_down"] / 1e3,
        "seconds": end["seconds"],
        "joules": end["joules"],
    }


def run(plan: Plan = FULL, folder: Path | None = None) -> Outcome:
    """Run the claim; with a folder, keep its record there."""
    began_s, outcome = time.process_time(), Outcome()
    for case, rounds in plan.cases.items():
        assert isinstance(rounds, int)
        for side in SIDES:
            scores: dict[float, float] = {}
            for lr in plan.lrs:
                found = [by_silo(outcome_of(side.label, lr, seed, rounds), world(case, seed).task, "validation") for seed in plan.tuning_seeds]
                scores[lr] = fmean(fmean(silos.values()) for silos in found)
                outcome.trials.append({"case": case, "side": side.label, "lr": lr, "validation_accuracy": scores[lr]})
            lr = max(scores, key=lambda tried: scores[tried])
            outcome.rows += [{"case": case, "side": side.label, "lr": lr, "seed": seed, **row(side.label, lr, seed, rounds)} for seed in plan.seeds]
    if folder is not None:
        keep("cofed", SIDES, plan, ABOUT, outcome, began_s, folder)
    return outcome


def show(outcome: Outcome) -> str:
    """The table of the page."""
    columns = [
        ("accuracy", "mean accuracy of silos", ".3f"), ("improved", "silos better than alone", ".2f"), ("precision", "right among labels", ".2f"),
        ("labels", "labels per silo", ".0f"), ("kb_up", "kB up", ".1f"), ("kb_down", "kB down", ".0f"), ("seconds", "seconds", ".3g"),
    ]  # fmt: skip
    return table(outcome, columns).replace("0 of 3 reach it", "–")


if __name__ == "__main__":
    print(show(run(folder=RECORDS)))
