"""Published data sets: fetched from a server on this machine, whole, interrupted, damaged; and read from files of their formats."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from airloom.cli import main
from airloom.errors import ScenarioError
from airloom.tasks import datasets, published
from airloom.tasks.published import SOURCES, Source, fetch

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, np.uint8).tobytes()


class _Server(HTTPServer):
    """Serves CONTENT; breaks off after `cut` bytes of an answer, and knows ranges unless told otherwise."""

    cut: int | None = None
    has_ranges = True
    content = CONTENT

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str | None] = []


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        found = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        start = int(found[1]) if found and server.has_ranges else 0
        if start and start >= len(server.content):
            self.send_response(416)
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        self.wfile.write(server.content[start : None if server.cut is None else start + server.cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def source(server: _Server, content: bytes = CONTENT) -> dict[str, tuple[Source, ...]]:
    url = f"http://127.0.0.1:{server.server_address[1]}/set.bin"
    return {"set": (Source("sub/set.bin", url, hashlib.md5(content).hexdigest()),)}


# --- fetching -------------------------------------------------------------------------------------------------------------------------


def test_a_file_is_fetched_once(server: _Server, tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        (path,) = fetch("set", tmp_path, said.append, source(server))
    assert path == tmp_path / "sub" / "set.bin" and path.read_bytes() == CONTENT
    assert server.asked == [None] and len(said) == 1
    assert [p.name for p in path.parent.iterdir()] == ["set.bin"]


def test_an_interrupted_fetch_goes_on_where_it_was(server: _Server, tmp_path: Path) -> None:
    server.cut = 1_200_000
    for _ in range(2):
        with pytest.raises(ScenarioError, match="what has come is kept"):
            fetch("set", tmp_path, None, source(server))
    (path,) = fetch("set", tmp_path, None, source(server))
    assert path.read_bytes() == CONTENT
    # 1.2 MB, 1.2 MB, and the remaining 0.6 MB
    assert server.asked == [None, "bytes=1200000-", "bytes=2400000-"]


def test_a_server_without_ranges_sends_all_of_it_again(server: _Server, tmp_path: Path) -> None:
    server.cut, server.has_ranges = 1_200_000, False
    with pytest.raises(ScenarioError):
        fetch("set", tmp_path, None, source(server))
    server.cut = None
    assert fetch("set", tmp_path, None, source(server))[0].read_bytes() == CONTENT


def test_what_had_come_whole_before_a_kill_is_taken(server: _Server, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "set.bin.part").write_bytes(CONTENT)
    assert fetch("set", tmp_path, None, source(server))[0].read_bytes() == CONTENT


def test_a_wrong_sum_leaves_nothing_behind(server: _Server, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="MD5 sum"):
        fetch("set", tmp_path, None, source(server, b"another content"))
    assert not list((tmp_path / "sub").iterdir())


def test_nobody_answers_and_unknown_names(tmp_path: Path) -> None:
    nowhere = {"set": (Source("set.bin", "http://127.0.0.1:1/set.bin", ""),)}
    with pytest.raises(ScenarioError, match="did not come"):
        fetch("set", tmp_path, None, nowhere)
    with pytest.raises(ScenarioError, match="allowed are mnist"):
        fetch("imagenet", tmp_path)


def test_the_command(server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(published, "SOURCES", source(server))
    monkeypatch.delenv("AIRLOOM_DATA", raising=False)
    assert main(["data", "get", "set"]) == 2
    assert "AIRLOOM_DATA" in capsys.readouterr().err
    assert main(["data", "get", "set", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "sub" / "set.bin")


def test_every_source_has_a_sum_and_a_reader() -> None:
    for name, sources in SOURCES.items():
        assert name in datasets.names() and datasets.files(name) == tuple(s.file for s in sources)
        assert all(re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{64}", s.digest) and s.url.startswith("http") for s in sources)


# --- reading --------------------------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return gzip.compress(b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes())


def test_idx_files_are_read_with_their_official_parts(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 256, (200, 28, 28), np.uint8), np.arange(200, dtype=np.uint8) % 10
    (tmp_path / "mnist").mkdir()
    for file, array in zip(datasets.files("mnist"), (x, y, x[:50], y[:50]), strict=True):
        (tmp_path / file).write_bytes(idx(array))
    found = datasets.load("mnist", tmp_path)
    # one row in ten, stratified, is validation; the test part is the publisher's
    assert (len(found.y_train), len(found.y_validation), len(found.y_test)) == (180, 20, 50)
    assert np.array_equal(found.y_test, y[:50]) and found.x_test.shape == (50, 1, 28, 28)
    # (pixel / 255 - 0.1307) / 0.3081
    assert np.asarray(found.x_test)[0, 0, 0, 0] == pytest.approx((x[0, 0, 0] / 255 - 0.1307) / 0.3081, abs=1e-5)


@pytest.mark.parametrize(("name", "label_bytes", "classes"), [("cifar10_official", 1, 10), ("cifar100", 2, 100)])
def test_cifar_archives_are_read(tmp_path: Path, name: str, label_bytes: int, classes: int) -> None:
    rng = np.random.default_rng(2)
    rows = rng.integers(0, 256, (300, label_bytes + 3072), np.uint8)
    rows[:, label_bytes - 1] = np.arange(300) % classes  # of CIFAR-100's two labels the second, the fine one, counts
    path = tmp_path / datasets.files(name)[0]
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for member, part in (("x/data_batch_1.bin", rows[:100]), ("x/data_batch_2.bin", rows[100:200]), ("x/test_batch.bin", rows[200:])):
            info = tarfile.TarInfo(member)
            info.size = part.size
            archive.addfile(info, io.BytesIO(part.tobytes()))
    found = datasets.load(name, tmp_path)
    assert found.classes == classes and len(found.y_train) + len(found.y_validation) == 200
    assert np.array_equal(found.y_test, np.arange(200, 300) % classes)
    mean, std = (datasets.CIFAR_MEAN, datasets.CIFAR_STD) if classes == 10 else (datasets.CIFAR100_MEAN, datasets.CIFAR100_STD)
    # channel 2 (blue), row 0, column 1 is byte 2 * 1024 + 1 of the image
    assert np.asarray(found.x_test)[0, 2, 0, 1] == pytest.approx((rows[200, label_bytes + 2049] / 255 - mean[2]) / std[2], abs=1e-5)


def femnist(path: Path) -> dict[str, np.ndarray]:
    """An archive of three writers with 20, 10 and 10 training rows and two test rows each; returns images by part and writer."""
    h5py = pytest.importorskip("h5py")
    rng, images = np.random.default_rng(3), {}
    path.parent.mkdir()
    with tarfile.open(path, "w:bz2") as archive:
        for part in ("train", "test"):
            place = path.with_name(f"fed_emnist_{part}.h5")
            with h5py.File(place, "w") as file:
                for i, name in enumerate(("f0002_01", "f0000_14", "f0001_41")):  # in no order
                    count = 2 if part == "test" else (10, 20, 10)[i]
                    images[f"{part}/{name}"] = rng.random((count, 28, 28), np.float32)
                    file[f"examples/{name}/pixels"] = images[f"{part}/{name}"]
                    file[f"examples/{name}/label"] = np.arange(count, dtype=np.int32) + 42
            archive.add(place, place.name)
            place.unlink()
    return images


def test_femnist_is_read_by_writer_and_kept_as_arrays(tmp_path: Path) -> None:
    images = femnist(tmp_path / "femnist" / "fed_emnist.tar.bz2")
    found = datasets.load("femnist", tmp_path)
    # a tenth of each writer's training rows is validation: 2, 1 and 1 of 20, 10 and 10; writers are numbered by name
    assert found.classes == 62 and found.natural is not None and found.natural_validation is not None and found.natural_test is not None
    assert np.bincount(found.natural).tolist() == [18, 9, 9] and np.bincount(found.natural_validation).tolist() == [2, 1, 1]
    assert found.natural_test.tolist() == [0, 0, 1, 1, 2, 2] and found.y_test.tolist() == [42, 43] * 3
    # bright ink: 1 - pixel, to the nearest of 255 steps
    assert np.abs(np.asarray(found.x_test)[0, 0] - (1.0 - images["test/f0000_14"][0])).max() <= 0.5 / 255 + 1e-6
    assert sorted(p.name for p in (tmp_path / "femnist").iterdir()) == ["fed_emnist.tar.bz2", "femnist.npz"]
    datasets._cached.cache_clear()
    (tmp_path / "femnist" / "fed_emnist.tar.bz2").write_bytes(b"")  # not looked at again
    assert np.array_equal(np.asarray(datasets.load("femnist", tmp_path).x_train), np.asarray(found.x_train))


def test_a_damaged_femnist_archive_is_named(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    (tmp_path / "femnist").mkdir()
    (tmp_path / "femnist" / "fed_emnist.tar.bz2").write_bytes(b"nonsense")
    with pytest.raises(ScenarioError, match="airloom data get again"):
        datasets.load("femnist", tmp_path)


def test_a_sum_of_64_digits_is_sha256(server: _Server, tmp_path: Path) -> None:
    (known,) = source(server)["set"]
    right = {"set": (known._replace(digest=hashlib.sha256(CONTENT).hexdigest()),)}
    assert fetch("set", tmp_path / "a", None, right)[0].read_bytes() == CONTENT
    wrong = {"set": (known._replace(digest="0" * 64),)}
    with pytest.raises(ScenarioError, match="SHA-256 sum"):
        fetch("set", tmp_path / "b", None, wrong)


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="airloom data get mnist"):
        datasets.load("mnist", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "cifar100"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    for file in datasets.files(name):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(gzip.compress(b"nonsense"))
    with pytest.raises(ScenarioError, match="airloom data get again"):
        datasets.load(name, tmp_path)
