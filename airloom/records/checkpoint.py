"""One file that holds a run at a round boundary: a JSON tree and tensors, atomic and checked to the last byte.

The file is an ordinary safetensors file, so other tools can open its tensors. Its metadata hold the tree and a digest of the whole file,
taken with the digest's own 64 characters as zeros. The tensors are streamed: saving needs no second copy of them in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from airloom.errors import RecordError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "airloom-checkpoint/1"

_ZEROS = b"0" * 64
_START = b'{"__metadata__":{"checksum":"'  # the digest comes first, hence at a fixed place behind the eight bytes of the header's length
_PLACE = 8 + len(_START)
_LARGEST_HEADER = 100_000_000  # bytes; readers of safetensors refuse more
_CHUNK = 1 << 22  # bytes read at a time
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}  # torch to safetensors


def save(path: Path, tree_json: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint atomically: whenever the machine stops, `path` holds the old file or the new one.

    Parameters
    ----------
    path : Path
        The file; its folder must exist.
    tree_json : dict
        JSON values only (a tuple or a whole number as a key would come back as something else, so they are refused). NaN is allowed.
    tensors : mapping of str to Tensor
        Any strides, devices and shared storage; each is stored on its own.

    Raises
    ------
    RecordError
        If a value cannot be stored or the disk is full; the old file is then intact.

    >>> import tempfile, torch
    >>> path = Path(tempfile.mkdtemp()) / "checkpoint.safetensors"
    >>> save(path, {"round": 3}, {"x": torch.arange(2)})
    >>> load(path)
    ({'round': 3}, {'x': tensor([0, 1])})
    """
    _check(tree_json, "tree_json")
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # wide types first keeps every tensor aligned
    header = _header(tree_json, ordered)
    partial = path.with_name(f"{path.name}.partial")
    digest = blake2b(header, digest_size=32)
    try:
        try:
            with open(partial, "wb") as file:
                file.write(header)
                for _, tensor in ordered:
                    content = _content(tensor)
                    digest.update(content)
                    file.write(content)
                file.seek(_PLACE)
                file.write(digest.hexdigest().encode())
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise RecordError(
            f"checkpoint '{path}': cannot write ({error.strerror or error}); free space or choose another folder; the previous checkpoint is intact"
        ) from error


def load(path: Path | str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint back.

    Returns
    -------
    (dict, dict of str to Tensor)
        The tree and the tensors (on the CPU) as they were saved.

    Raises
    ------
    RecordError
        If the file is missing, not a checkpoint of this format, or differs in any byte from what was written.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(_PLACE + len(_ZEROS))
            if start[8:_PLACE] != _START:
                raise RecordError(f"checkpoint '{path}': not a checkpoint of format '{FORMAT}', or damaged at its start; use an earlier one")
            digest = blake2b(start[:_PLACE] + _ZEROS, digest_size=32)
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        if start[_PLACE:] != digest.hexdigest().encode():
            raise RecordError(f"checkpoint '{path}': its checksum does not match, so it is damaged or cut short; use an earlier one")
        with safe_open(path, framework="pt", device="cpu") as opened:  # pyright: ignore[reportUnknownVariableType]
            reader = cast(Any, opened)
            metadata = cast(dict[str, str], reader.metadata())
            if metadata.get("format") != FORMAT:
                raise RecordError(f"checkpoint '{path}': format {metadata.get('format')!r}; must be '{FORMAT}'; another version of airloom wrote it")
            tensors = {name: cast("Tensor", reader.get_tensor(name)) for name in cast(list[str], reader.keys())}
    except OSError as error:
        raise RecordError(f"checkpoint '{path}': cannot be read ({error.strerror or error}); check the path") from error
    except SafetensorError as error:
        raise RecordError(f"checkpoint '{path}': not a safetensors file ({error}); use an earlier one") from error
    return json.loads(metadata["tree"]), tensors


def _header(tree_json: dict[str, Any], ordered: list[tuple[str, Tensor]]) -> bytes:
    """Return length and header as safetensors wants them, with zeros for the checksum."""
    entries: dict[str, Any] = {"__metadata__": {"checksum": _ZEROS.decode(), "format": FORMAT, "tree": json.dumps(tree_json, separators=(",", ":"))}}
    offset = 0
    for name, tensor in ordered:
        dtype = _DTYPES.get(str(tensor.dtype).removeprefix("torch."))
        if dtype is None or tensor.is_meta or name == "__metadata__":
            raise RecordError(
                f"checkpoint, tensor '{name}': {tensor.dtype} on {tensor.device} cannot be stored; allowed are real tensors of {', '.join(_DTYPES)} "
                "under any other name than __metadata__"
            )
        entries[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the first tensor starts at a multiple of eight bytes
    if len(text) > _LARGEST_HEADER:
        raise RecordError(f"checkpoint, tree_json: {len(text)} bytes with the tensors' names; at most {_LARGEST_HEADER}; move arrays into tensors")
    return len(text).to_bytes(8, "little") + text


def _content(tensor: Tensor) -> memoryview:
    """Return the values' bytes in row order, without a copy where the tensor already lies so."""
    import torch

    if tensor.numel() == 0:
        return memoryview(b"")  # an empty tensor has no stride to view as bytes
    return memoryview(cast(Any, tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))


def _check(value: Any, where: str) -> None:
    """Refuse what JSON would silently turn into something else."""
    if isinstance(value, dict):
        for key, item in cast(dict[Any, Any], value).items():
            if not isinstance(key, str):
                raise RecordError(f"checkpoint, {where}: key {key!r} is a {type(key).__name__}; must be a text, or it would come back as one")
            _check(item, f"{where}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(cast(list[Any], value)):
            _check(item, f"{where}[{i}]")
    elif value is not None and not isinstance(value, (bool, int, float, str)):
        raise RecordError(f"checkpoint, {where}: got a {type(value).__name__}; allowed are JSON values (dict, list, text, number, None)")


def _sync_folder(folder: Path) -> None:
    """Bring the folder's entry to the disk, so that the new name survives a power cut (not possible, and not needed, on Windows)."""
    if os.name == "nt":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
