"""Records in TensorBoard and MLflow, read back with their own readers (slow lane; skipped where the extra `track` is not installed)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from airloom.errors import MissingExtra
from airloom.records import track
from airloom.records.record import Record, RecordWriter, load


@pytest.fixture
def record(tmp_path: Path) -> Record:
    header = {"method": "fedavg", "seed": 3, "clock": "simulated", "engine": "simulated", "fields": {"lr": 0.1}, "scenario": {"name": "tiny"}}
    with RecordWriter(tmp_path / "run", header) as writer:
        for i in range(3):
            writer.point({"seconds": 1.5 * (i + 1), "round": i, "joules": 2.0, "accuracy": float("nan") if i == 1 else 0.5 + 0.1 * i, "who": "x"})
        writer.summary({"status": "done"})
    return load(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # tensorboard's own
def test_tensorboard_has_every_number_with_round_and_simulated_time(record: Record, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = track.to_tensorboard([record], tmp_path / "board")
    assert folder.name == "fedavg-3"
    events = EventAccumulator(str(folder))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"seconds", "joules", "accuracy"}
    # the second accuracy is not a number, so it is no event
    found = [(event.step, event.wall_time, round(event.value, 6)) for event in events.Scalars("accuracy")]
    assert found == [(0, 1.5, 0.5), (2, 4.5, 0.7)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # mlflow's own
def test_mlflow_has_every_number_and_all_fields(record: Record, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow.tracking import MlflowClient

    address = f"sqlite:///{tmp_path / 'runs.db'}"
    (number,) = track.to_mlflow([record], address)
    client = MlflowClient(tracking_uri=address)
    run = client.get_run(number)
    assert run.info.run_name == "fedavg-3" and run.info.status == "FINISHED"
    assert run.data.params == {"method": "fedavg", "scenario": "tiny", "seed": "3", "engine": "simulated", "lr": "0.1"}
    history = [(metric.step, metric.timestamp, metric.value) for metric in client.get_metric_history(number, "accuracy")]
    assert history == [(0, 1500, 0.5), (2, 4500, 0.7)]


@pytest.mark.parametrize(("module", "call"), [("torch.utils.tensorboard", "to_tensorboard"), ("mlflow.entities", "to_mlflow")])
def test_without_the_extra_it_says_what_to_install(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, call: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"airloom\[track\]"):
        getattr(track, call)([record], tmp_path / "out")
