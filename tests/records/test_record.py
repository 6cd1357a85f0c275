from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airloom.errors import RecordError
from airloom.records.record import FILE, RecordWriter, direction_of, load, load_many, reached
from tests.records.conftest import Factory

HEADER = {"method": "fedavg", "seed": 0}


def at(r: int, **metrics: Any) -> dict[str, Any]:
    return {"seconds": float(r), "round": r, **metrics}


def strict(line: str) -> dict[str, Any]:
    def refuse(literal: str) -> None:
        raise AssertionError(literal)

    return json.loads(line, parse_constant=refuse)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "a" / "b", HEADER) as writer:
        writer.point(at(0, accuracy=0.1))
        writer.point(at(1, accuracy=0.2))
        writer.summary({"status": "done", "seconds": 1.0, "devices": {"phone0": {"joules": 2.0}}, "digest": "ab"})
    record = load(tmp_path / "a" / "b")
    assert record.header == HEADER
    assert record.points == [at(0, accuracy=0.1), at(1, accuracy=0.2)]
    assert record.summary == {"status": "done", "seconds": 1.0, "devices": {"phone0": {"joules": 2.0}}, "digest": "ab"}
    assert (record.status, record.is_truncated, record.metrics) == ("done", False, ["accuracy"])
    assert list(record.frame["accuracy"]) == [0.1, 0.2]
    assert record.frame is record.frame  # made once
    lines = (tmp_path / "a" / "b" / FILE).read_text().splitlines()
    assert [strict(line)["kind"] for line in lines] == ["header", "point", "point", "summary"]
    assert strict(lines[0])["format"] == "airloom-record/1"


def test_numpy_values_and_numbers_unknown_to_json(tmp_path: Path) -> None:
    values = {"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": np.array([1.0, math.nan]), "e": math.inf, "f": np.float64("-inf")}
    with RecordWriter(tmp_path, HEADER) as writer:
        writer.point(at(1, **values))
        writer.summary({"status": "failed", "devices": {"x/y~z": {"joules": math.nan}}, "path": Path("a")})
    lines = (tmp_path / FILE).read_text().splitlines()
    assert strict(lines[1])["nonfinite"] == {"/d/1": "nan", "/e": "inf", "/f": "-inf"}
    assert strict(lines[1])["e"] is None
    record = load(tmp_path)
    point = record.points[0]
    assert (point["a"], point["b"], point["c"], point["d"][0], point["e"], point["f"]) == (0.5, 3, True, 1.0, math.inf, -math.inf)
    assert math.isnan(point["d"][1]) and "nonfinite" not in point
    assert record.summary is not None and math.isnan(record.summary["devices"]["x/y~z"]["joules"]) and record.summary["path"] == "a"


TEXT = st.text(alphabet='ab/~"\\\n\u00e9\u2028\U0001f4f1\ud800')


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        TEXT,
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
            max_leaves=10,
        ),
        max_size=5,
    )
)
def test_any_header_comes_back(header: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        RecordWriter(folder, header).close()
        strict((folder / FILE).read_text())
        got = load(folder).header
    assert repr(got) == repr(header)  # repr, because NaN is not equal to itself


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"round": 1}, "has no 'seconds'"),
        ({"seconds": 1.0}, "has no 'round'"),
        (at(1, kind=3), "'kind' is taken"),
        (at(1, model=object()), "'/model': got a object"),
    ],
)
def test_points_that_cannot_be_written(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    with RecordWriter(tmp_path, HEADER) as writer, pytest.raises(RecordError, match=words):
        writer.point(values)
    assert load(tmp_path).points == []


def test_a_summary_needs_its_status(tmp_path: Path) -> None:
    with RecordWriter(tmp_path, HEADER) as writer, pytest.raises(RecordError, match="status is None"):
        writer.summary({"digest": "ab"})


def test_a_record_is_never_overwritten(tmp_path: Path) -> None:
    RecordWriter(tmp_path, HEADER).close()
    with pytest.raises(RecordError, match="already holds a record; choose another folder, go on with `airloom resume"):
        RecordWriter(tmp_path, HEADER)
    assert load(tmp_path).header == HEADER


def test_readers_take_the_later_points_after_a_resume(tmp_path: Path) -> None:
    with RecordWriter(tmp_path, HEADER) as writer:
        for r in range(4):
            writer.point(at(r, try_=1))
        writer.summary({"status": "interrupted"})
    with RecordWriter.reopen(tmp_path) as writer:
        writer.resume(round=2, seconds=1.5)
        writer.point(at(2, try_=2))
    assert load(tmp_path).status == "unfinished"
    with RecordWriter.reopen(tmp_path) as writer:
        writer.resume(round=1, seconds=0.5)
        writer.point(at(1, try_=3))
        writer.point(at(2, try_=3))
        writer.summary({"status": "done"})
    record = load(tmp_path)
    assert [(point["round"], point["try_"]) for point in record.points] == [(0, 1), (1, 3), (2, 3)]
    assert record.status == "done"


def test_a_killed_process_leaves_all_points(tmp_path: Path) -> None:
    text = f"""
import os, signal
from pathlib import Path
from airloom.records.record import RecordWriter
writer = RecordWriter(Path({str(tmp_path)!r}), {{"method": "fedavg"}})
for r in range(3):
    writer.point({{"seconds": 1.0, "round": r}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", text], check=False)
    record = load(tmp_path)
    assert [point["round"] for point in record.points] == [0, 1, 2]
    assert record.status == "unfinished"


def test_half_a_last_line_is_left_out_and_cut_off_by_a_resume(tmp_path: Path) -> None:
    with RecordWriter(tmp_path, HEADER) as writer:
        writer.point(at(0))
        writer.point(at(1))
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-7])
    record = load(tmp_path)
    assert record.is_truncated and record.points == [at(0)]
    with RecordWriter.reopen(tmp_path) as writer:
        writer.resume(round=1, seconds=0.0)
        writer.point(at(1))
    record = load(tmp_path)
    assert not record.is_truncated and record.points == [at(0), at(1)]


@pytest.mark.parametrize(
    "garbage", [b"\x00\x00\xff", b'{"kind":"point","seconds":NaN,"round":1}', b"[1]", b"1},{2", b'{"kind":"dot"}', b'{"kind":"header"}', b""]
)
def test_damage_is_named_by_its_line(tmp_path: Path, garbage: bytes) -> None:
    with RecordWriter(tmp_path, HEADER) as writer:
        for r in range(5):
            writer.point(at(r))
    path = tmp_path / FILE
    lines = path.read_bytes().split(b"\n")
    lines[3] = garbage
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(RecordError, match="line 4"):
        load(tmp_path)


def test_lines_that_are_only_whole_together_are_damage(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"kind":"header","format":"airloom-record/1"}\n{"kind":"point","a":[1\n2]}\n')
    with pytest.raises(RecordError, match="line 2"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "line 1: no header"),
        ('{"kind":"hea', "line 1: no header"),
        ('{"a":1}\n', "line 1: no record header"),
        ('{"kind":"header","format":"airloom-record/2"}\n', "line 1: format 'airloom-record/2'; must be 'airloom-record/1'"),
        ("a,b\n1,2\n", "line 1: not a JSON object"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(RecordError, match=words):
        load(tmp_path)


def test_a_folder_without_a_record(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=f"found no {FILE}"):
        load(tmp_path)
    with pytest.raises(RecordError, match=f"found no {FILE}"):
        load_many(tmp_path)
    with pytest.raises(RecordError, match="found no"):
        RecordWriter.reopen(tmp_path)


def test_all_runs_below_a_folder(factory: Factory) -> None:
    for method, seed in (("mtgc", 1), ("fedavg", 1), ("mtgc", 0)):
        factory.run(method, seed, rounds=1)
    assert [(record.header["method"], record.header["seed"]) for record in load_many(factory.folder)] == [("fedavg", 1), ("mtgc", 0), ("mtgc", 1)]


def test_a_full_disk_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def half_then_full(number: int, data: Any) -> int:
        if len(data) > 20:
            return write(number, data[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with RecordWriter(tmp_path, HEADER) as writer:
        writer.point(at(0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half_then_full)
            with pytest.raises(RecordError, match=f"'{tmp_path}': cannot write .No space left"):
                writer.point(at(1, accuracy=0.123456789))
        assert load(tmp_path).points == [at(0)]
        writer.point(at(2))  # space was freed
    assert load(tmp_path).points == [at(0), at(2)]


def test_a_disk_that_is_full_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(RecordError, match="No space left"):
        RecordWriter(tmp_path, HEADER)
    monkeypatch.undo()
    RecordWriter(tmp_path, HEADER).close()  # nothing was left in the way


def test_a_hundred_thousand_points_load_fast(tmp_path: Path) -> None:
    with RecordWriter(tmp_path, HEADER) as writer:
        writer.point(at(0))
    path = tmp_path / FILE
    costs = '"bytes_up":123456789,"bytes_down":987654321,"bytes_backhaul":0,"bytes_peer":0,"joules":1234.5,"joules_idle":1.25,"joules_server":9.5'
    with open(path, "a") as file:
        for r in range(1, 100_000):
            file.write(f'{{"kind":"point","seconds":{1.5 * r},"round":{r},{costs},"accuracy":{0.5 + 1e-6 * r},"loss":{1.0 / r}}}\n')
    started = time.process_time()
    record = load(tmp_path)
    assert len(record.points) == 100_000
    assert time.process_time() - started < 2.0  # 0.5 s on an idle core


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("accuracy", "higher"),
        ("accuracy_worst", "higher"),
        ("loss", "lower"),
        ("validation_loss", "lower"),
        ("perplexity", "lower"),
        ("glossary", "higher"),
    ],
)
def test_direction_by_name(metric: str, direction: str) -> None:
    assert direction_of(metric) == direction


def test_reached_takes_the_mean_of_five_and_stamps_the_first() -> None:
    # means of five from point 0: 0.72, 0.80, 0.88, 0.90 (0.9 0.9 0.9 0.8 1.0): the fourth window, so point 3
    values = [0.1, 0.5, 0.9, 0.9, 0.9, 0.9, 0.8, 1.0]
    points = [
        {"seconds": 10.0 * r, "bytes_up": r, "bytes_down": 2 * r, "joules": 5.0 * r, "round": r, "accuracy": value} for r, value in enumerate(values)
    ]
    stamp = reached(points, "accuracy", 0.9, "higher")
    assert stamp is not None and (stamp["seconds"], stamp["bytes_up"], stamp["bytes_down"], stamp["joules"], stamp["round"]) == (30.0, 3, 6, 15.0, 3)
    first = reached(points, "accuracy", 0.9, "higher", smooth=1)
    assert first is not None and first["round"] == 2
    assert reached(points, "accuracy", 0.91, "higher") is None


def test_reached_counts_evaluations_not_points() -> None:
    points = [at(r, **({"loss": 0.1} if r % 10 == 0 else {})) for r in range(41)]
    stamp = reached(points, "loss", 0.1, "lower")
    assert stamp is not None and stamp["round"] == 0
    assert reached(points[:40], "loss", 0.1, "lower") is None  # four evaluations only
    assert reached([], "loss", 0.1, "lower") is None


def test_an_evaluation_that_is_not_finite_crosses_nothing() -> None:
    points = [at(r, accuracy=value) for r, value in enumerate([math.inf, 0.9, math.nan, 0.9, 0.9])]
    stamp = reached(points, "accuracy", 0.9, "higher", smooth=2)
    assert stamp is not None and stamp["round"] == 3
    with pytest.raises(RecordError, match="smooth=0"):
        reached(points, "accuracy", 0.9, "higher", smooth=0)


def test_a_mean_equal_to_the_target_counts() -> None:
    for target in np.round(np.arange(0.01, 1.0, 0.01), 2):
        points = [at(r, accuracy=float(target)) for r in range(5)]
        assert reached(points, "accuracy", float(target), "higher") is not None
        assert reached(points, "accuracy", float(target), "lower") is not None


def test_a_record_draws_itself(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "run", {"method": "m", "seed": 0, "target": ["accuracy", 0.9]}) as writer:
        for i in range(3):
            spent = {"seconds": i + 1.0, "round": i, "bytes_up": 1.0, "bytes_down": 1.0, "joules": i + 1.0}
            writer.point({**spent, "accuracy": 0.5 + i / 10, "loss": 1.0 / (i + 1)})
    record = load(tmp_path / "run")
    assert record.plot().axes[0].get_ylabel() == "accuracy"
    assert record.plot(tmp_path / "loss.pdf", metric="loss").axes[0].get_ylabel() == "loss"
    assert (tmp_path / "loss.pdf").read_bytes().startswith(b"%PDF")
