"""Data sets as their publishers give them: where they live, their checksums, how they are fetched, and what their files hold.

Nothing is fetched unless `airloom data get` (or `fetch`) is asked to. No file is unpickled: images come from IDX files and from CIFAR's binary form.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from airloom.errors import MissingExtra, ScenarioError

Images = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]  # x_train, y_train, x_test, y_test; x (n, c, h, w)

_BLOCK = 1 << 20
_TIMEOUT_S = 60.0
_IDX = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


class Source(NamedTuple):
    """A file of a data set: its path below the data folder, its address, and the MD5 or SHA-256 sum that its publisher states."""

    file: str
    url: str
    digest: str


def _idx(folder: str, base: str, *sums: str) -> tuple[Source, ...]:
    return tuple(Source(f"{folder}/{name}", f"{base}/{name}", md5) for name, md5 in zip(_IDX, sums, strict=True))


# sums: the publishers' pages (Y. LeCun; H. Xiao et al., Zalando Research; A. Krizhevsky) and, for FEMNIST, the source of
# tff.simulation.datasets.emnist in TensorFlow Federated, by whose authors this form of it is published
SOURCES: dict[str, tuple[Source, ...]] = {
    "mnist": _idx(
        "mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    "fashion_mnist_official": _idx(
        "fashion_mnist",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
    "cifar10_official": (
        Source("cifar/cifar-10-binary.tar.gz", "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
    ),
    "cifar100": (
        Source("cifar/cifar-100-binary.tar.gz", "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
    ),
    "femnist": (
        Source(
            "femnist/fed_emnist.tar.bz2",
            "https://storage.googleapis.com/tff-datasets-public/fed_emnist.tar.bz2",
            "fe1ed5a502cea3a952eb105920bff8cffb32836b5173cb18a57a32c3606f3ea0",
        ),
    ),
}


def fetch(name: str, folder: Path, tell: Callable[[str], None] | None = None, sources: dict[str, tuple[Source, ...]] | None = None) -> list[Path]:
    """Fetch the files of a data set that are not there yet; an interrupted one goes on where it was.

    A file lies beside its place as `.part` until all of it has come and its sum is right.

    Parameters
    ----------
    name : one of `SOURCES`.
    folder : the data folder (AIRLOOM_DATA); made if missing.
    tell : called with a line per file.
    sources : in place of `SOURCES`.

    Raises
    ------
    ScenarioError : an unknown name, a server that does not answer, or a sum that is wrong (the file is removed then).
    """
    known = SOURCES if sources is None else sources
    if name not in known:
        raise ScenarioError(f"data get '{name}': allowed are {', '.join(known)}; the files of other sets have to be put into the folder by hand")
    done: list[Path] = []
    for source in known[name]:
        path = folder / source.file
        if not path.is_file():
            if tell is not None:
                tell(f"{source.url} -> {path}")
            _fetch(source, path)
        done.append(path)
    return done


def _fetch(source: Source, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = part.stat().st_size if part.is_file() else 0
        request = urllib.request.Request(source.url, headers={"Range": f"bytes={there}-"} if there else {})
        try:
            answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            if error.code != 416:  # 416: there is no more than what is there
                raise
            answer = None
        if answer is not None:
            with answer, part.open("ab" if answer.status == 206 else "wb") as file:
                expected = answer.headers.get("Content-Length")
                come = 0
                while block := answer.read(_BLOCK):
                    come += len(block)
                    file.write(block)
                if expected is not None and come < int(expected):
                    raise OSError(f"the connection ended after {come} of {expected} bytes")
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        raise ScenarioError(f"data get: {source.url} did not come ({error}); try again, what has come is kept") from error
    kind = "SHA-256" if len(source.digest) == 64 else "MD5"
    found = _sum(part, kind)
    if found != source.digest:
        part.unlink()
        raise ScenarioError(f"data get: {source.url} has the {kind} sum {found}, not {source.digest}; it was removed, try again or ask its publisher")
    part.replace(path)


def _sum(path: Path, kind: str) -> str:
    # the sum that publishers state; MD5 guards against damage, not against malice
    digest = hashlib.md5(usedforsecurity=False) if kind == "MD5" else hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_idx(paths: list[Path]) -> Images:
    """Read MNIST's format: images and labels of training, then of test."""
    x_train, y_train, x_test, y_test = [_idx_array(path) for path in paths]
    return x_train[:, None], y_train, x_test[:, None], y_test


def _idx_array(path: Path) -> NDArray[np.uint8]:
    """One IDX file of bytes: two zeros, type 8, rank, sizes as big-endian 32-bit numbers, then the values."""
    try:
        with gzip.open(path, "rb") as file:
            data = file.read()
        if data[:3] != b"\0\0\x08":
            raise ValueError("no IDX file of bytes")
        rank = data[3]
        sizes = np.frombuffer(data, ">u4", rank, 4).astype(int)
        return np.frombuffer(data, np.uint8, int(np.prod(sizes)), 4 + 4 * rank).reshape(sizes)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise ScenarioError(f"{path}: cannot be read as an IDX file ({error}); delete it and run airloom data get again") from error


def read_cifar(path: Path, label_bytes: int) -> Images:
    """Read CIFAR's binary archive: rows of labels (the last one counts) and 3 x 32 x 32 bytes; files with `test` in their name are the test part."""
    parts: dict[bool, list[NDArray[Any]]] = {True: [], False: []}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in sorted((m for m in archive.getmembers() if m.isfile() and m.name.endswith(".bin")), key=lambda m: m.name):
                file = archive.extractfile(member)
                assert file is not None
                rows = np.frombuffer(file.read(), np.uint8).reshape(-1, label_bytes + 3072)
                parts["test" in Path(member.name).name].append(rows)
        train, test = np.concatenate(parts[False]), np.concatenate(parts[True])
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        raise ScenarioError(f"{path}: cannot be read as CIFAR's binary archive ({error}); delete it and run airloom data get again") from error
    images = [rows[:, label_bytes:].reshape(-1, 3, 32, 32) for rows in (train, test)]
    return images[0], train[:, label_bytes - 1], images[1], test[:, label_bytes - 1]


def read_femnist(path: Path) -> dict[str, NDArray[Any]]:
    """Read Federated EMNIST: `x_`, `y_` and `writer_` of `train` and `test`; images (n, 28, 28) of bytes with bright ink, 62 classes.

    The archive holds HDF5 files in which each writer has float images on white ground. They are turned into arrays once, which takes minutes, and
    kept beside the archive as `femnist.npz`. Writers are numbered in the order of their names; each has rows in both parts.
    """
    kept = path.with_name("femnist.npz")
    if not kept.is_file():
        _convert_femnist(path, kept)
    with np.load(kept) as found:
        return dict(found)


def _convert_femnist(path: Path, kept: Path) -> None:
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtra("data", "the femnist data set (HDF5 files)") from error
    arrays: dict[str, NDArray[Any]] = {}
    numbers: dict[str, int] = {}
    try:
        for part in ("train", "test"):
            with tarfile.open(path, "r:bz2") as archive, tempfile.TemporaryFile(dir=path.parent) as file:
                member = next(m for m in archive.getmembers() if Path(m.name).name == f"fed_emnist_{part}.h5")
                source = archive.extractfile(member)
                assert source is not None
                shutil.copyfileobj(source, file, _BLOCK)
                with h5py.File(file, "r") as content:
                    examples: Any = content["examples"]
                    numbers = numbers or {name: i for i, name in enumerate(sorted(examples))}
                    writers = sorted(examples)
                    images = [np.rint((1.0 - examples[name]["pixels"][()]) * 255).astype(np.uint8) for name in writers]
                    labels = [np.asarray(examples[name]["label"][()]).reshape(-1).astype(np.int64) for name in writers]
                    owner = [np.full(len(y), numbers[name], np.int64) for name, y in zip(writers, labels)]
            arrays |= {f"x_{part}": np.concatenate(images), f"y_{part}": np.concatenate(labels), f"writer_{part}": np.concatenate(owner)}
    except (OSError, EOFError, ValueError, KeyError, StopIteration, tarfile.TarError) as error:
        raise ScenarioError(f"{path}: cannot be read as Federated EMNIST ({error!r}); delete it and run airloom data get again") from error
    partial = kept.with_name("femnist.partial.npz")
    np.savez(partial, **arrays)  # pyright: ignore[reportArgumentType]
    partial.replace(kept)
