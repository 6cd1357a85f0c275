"""Records for trackers of experiments: TensorBoard and MLflow. Both are in the extra `track`; nothing is sent unless you name a server yourself."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false, reportPrivateImportUsage=false, reportAttributeAccessIssue=false
from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airloom.errors import MissingExtra, RecordError
from airloom.records.record import Point, Record

_BATCH = 1000  # metrics of a request that MLflow takes at once


def to_tensorboard(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write one TensorBoard run per record; the step is the round and the wall time is the simulated one, so that "Relative" shows simulated time.

    Parameters
    ----------
    records : sequence of Record
    folder : Path
        Made if missing; runs are `method-seed` in it.

    Returns
    -------
    list of Path
        The runs' folders.

    Raises
    ------
    MissingExtra
        Without `tensorboard`.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtra("track", "export --to tensorboard") from error
    made: list[Path] = []
    for record in records:
        out = folder / _name(record)
        with SummaryWriter(str(out)) as writer:
            for point in record.points:
                for name, value in _numbers(point).items():
                    writer.add_scalar(name, value, global_step=point["round"], walltime=point["seconds"])
            text = "\n".join(f"    {name}: {value}" for name, value in _fields(record).items())
            writer.add_text("configuration", text, global_step=0, walltime=0.0)
        made.append(out)
    return made


def to_mlflow(records: Sequence[Record], address: str, experiment: str = "airloom") -> list[str]:
    """Log one MLflow run per record: fields as parameters, costs and metrics with the round as step and simulated milliseconds as time stamp.

    Parameters
    ----------
    records : sequence of Record
    address : str
        MLflow's tracking address: `sqlite:///file.db`, or a server of yours.
    experiment : str
        Made if missing.

    Returns
    -------
    list of str
        The ids of the runs.

    Raises
    ------
    MissingExtra
        Without `mlflow`.
    RecordError
        If MLflow refuses.
    """
    try:
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise MissingExtra("track", "export --to mlflow") from error
    made: list[str] = []
    try:
        client = MlflowClient(tracking_uri=address)
        known = client.get_experiment_by_name(experiment)
        number = known.experiment_id if known is not None else client.create_experiment(experiment)
        for record in records:
            last_ms = int(1000 * record.points[-1]["seconds"]) if record.points else 0
            run = client.create_run(number, start_time=0, run_name=_name(record)).info.run_id
            params = [Param(name, str(value)[:500]) for name, value in _fields(record).items()]
            metrics = [Metric(name, value, int(1000 * p["seconds"]), p["round"]) for p in record.points for name, value in _numbers(p).items()]
            client.log_batch(run, params=params, tags=[RunTag("clock", str(record.header.get("clock"))), RunTag("status", record.status)])
            for start in range(0, len(metrics), _BATCH):
                client.log_batch(run, metrics=metrics[start : start + _BATCH])
            client.set_terminated(run, "FAILED" if record.status == "failed" else "FINISHED", end_time=last_ms)
            made.append(run)
    except MlflowException as error:
        raise RecordError(f"export --to mlflow: '{address}' refused: {str(error).splitlines()[0]}; give a database file or a server") from error
    return made


def _name(record: Record) -> str:
    return f"{record.header.get('label', record.header.get('method'))}-{record.header.get('seed')}".replace("/", "-")


def _numbers(point: Point) -> dict[str, float]:
    """Costs and metrics of a point that are finite numbers."""
    return {
        name: float(value)
        for name, value in point.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and name != "round"
    }


def _fields(record: Record) -> dict[str, Any]:
    """What a tracker lists as parameters: names, seed, and the fields of method and scenario."""
    header = record.header
    scenario: dict[str, Any] = header.get("scenario") or {}
    found: dict[str, Any] = {
        "method": header.get("method"),
        "scenario": scenario.get("name"),
        "seed": header.get("seed"),
        "engine": header.get("engine"),
    }
    found |= header.get("fields") or {}
    found |= {f"scenario.{name}": value for name, value in (scenario.get("fields") or {}).items()}
    return found
