"""Text to token ids: bytes, characters, merges by score (llama2.c), and the tokenizers of `transformers` and `tokenizers`, all from local files.

Id 0 is what sequences are padded with, at the right, in all of them but those of transformers, which say their own.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, final

from airloom.errors import MissingExtra, ScenarioError

_BYTE_IDS = 3  # llama2.c: ids of raw bytes begin behind the three control tokens


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tokenizer:
    """A way from text to ids.

    Parameters
    ----------
    name : for records.
    size : number of ids.
    pad : id that fills a row behind its text.
    begin : id that begins a text, or None.
    encode : text -> ids, without `begin`.
    decode : ids -> text.

    >>> by_bytes().encode("ab"), by_bytes().decode([98, 99]), by_bytes().size
    ([98, 99], 'ab', 257)
    """

    name: str
    size: int
    pad: int
    begin: int | None
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]

    def ids(self, text: str) -> list[int]:
        """Return `begin`, if there is one, and the ids of a text."""
        return ([] if self.begin is None else [self.begin]) + self.encode(text)


def by_bytes() -> Tokenizer:
    """Return the tokenizer that needs no file: byte b of the UTF-8 text has id b + 1."""
    return Tokenizer(
        name="bytes", size=257, pad=0, begin=None, encode=lambda text: [b + 1 for b in text.encode()],
        decode=lambda ids: bytes(i - 1 for i in ids if i).decode(errors="replace"),
    )  # fmt: skip


def by_characters(path: Path | str) -> Tokenizer:
    """Return the tokenizer of a vocabulary file with one "token, tab, score" per line; characters that are not in it get id 0.

    Raises
    ------
    ScenarioError : no such file.
    """
    lines = [line for line in _read(path).decode("utf-8").split("\n") if line]
    index = {line.split("\t")[0]: i for i, line in enumerate(lines)}
    return Tokenizer(
        name=Path(path).stem, size=len(lines), pad=0, begin=index.get("<s>"),
        encode=lambda text: [index.get(character, 0) for character in text.replace(" ", "\u2581")],
        decode=lambda ids: "".join(lines[i].split("\t")[0] for i in ids).replace("\u2581", " "),
    )  # fmt: skip


def by_merges(path: Path | str) -> Tokenizer:
    """Return the tokenizer of a file of llama2.c: characters, of which the pair with the best score is merged again and again.

    A text begins with a blank; characters that are not in the vocabulary become bytes. No token has a blank but at its beginning, so words are
    merged one by one.

    Raises
    ------
    ScenarioError : no such file, or a damaged one.
    """
    raw = _read(path)
    tokens: list[tuple[bytes, float]] = []
    at = 4
    try:
        while at < len(raw):
            score, length = struct.unpack_from("<fi", raw, at)
            tokens.append((raw[at + 8 : at + 8 + length], score))
            at += 8 + length
    except struct.error as error:
        raise ScenarioError(f"by_merges('{path}'): the file is damaged at byte {at} ({error}); give a tokenizer of llama2.c") from error
    if at != len(raw) or len(tokens) < _BYTE_IDS + 256 or any(b" " in token[1:] for token, _ in tokens):
        raise ScenarioError(f"by_merges('{path}'): it is no tokenizer of llama2.c ({len(tokens)} tokens); give one with bytes and words in it")
    index = {token: i for i, (token, _) in enumerate(tokens)}

    @lru_cache(maxsize=65536)
    def word(text: str) -> tuple[int, ...]:
        ids: list[int] = []
        for character in text:
            coded = character.encode()
            ids += [index[coded]] if coded in index else [b + _BYTE_IDS for b in coded]
        while True:
            merged = [(index.get(tokens[a][0] + tokens[b][0]), i) for i, (a, b) in enumerate(pairwise(ids))]
            known = [(tokens[new][1], -i, new) for new, i in merged if new is not None]
            if not known:
                return tuple(ids)
            _, i, new = max(known)
            ids[-i : 2 - i] = [new]

    def encode(text: str) -> list[int]:
        pieces = (" " + text).split(" ")[1:] if text else []
        return [i for piece in pieces for i in word(" " + piece)]

    def decode(ids: Sequence[int]) -> str:
        spelled = [bytes([i - _BYTE_IDS]) if _BYTE_IDS <= i < _BYTE_IDS + 256 else tokens[i][0] for i in ids if i >= _BYTE_IDS]
        return b"".join(spelled).decode(errors="replace").removeprefix(" ")

    return Tokenizer(name=Path(path).stem, size=len(tokens), pad=0, begin=1, encode=encode, decode=decode)


def by_gpt2(folder: Path | str) -> Tokenizer:
    """Return GPT-2's byte-pair tokenizer from `encoder.json` and `vocab.bpe` in a folder; needs the extra `hf`.

    Its ids are moved up by one, so that 0 is free for padding.

    Raises
    ------
    MissingExtra : tokenizers is not installed.
    ScenarioError : a file is not there.
    """
    where = Path(folder)
    vocabulary = json.loads(_read(where / "encoder.json"))
    merges = [tuple(line.split()) for line in _read(where / "vocab.bpe").decode("utf-8").split("\n")[1:] if line]
    library = _library("tokenizers")
    coder: Any = library.Tokenizer(library.models.BPE(vocabulary, merges))
    coder.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    coder.decoder = library.decoders.ByteLevel()
    return Tokenizer(
        name="gpt2", size=len(vocabulary) + 1, pad=0, begin=None, encode=lambda text: [i + 1 for i in coder.encode(text).ids],
        decode=lambda ids: coder.decode([i - 1 for i in ids if i]),
    )  # fmt: skip


def by_folder(folder: Path | str) -> Tokenizer:
    """Return the tokenizer that lies beside a model of transformers; needs the extra `hf`, downloads nothing.

    Raises
    ------
    MissingExtra : transformers is not installed.
    ScenarioError : there is none in the folder.
    """
    where = Path(folder)
    if not where.is_dir():
        raise ScenarioError(f"by_folder('{where}'): there is no such folder; give one with a tokenizer of transformers in it")
    library = _library("transformers")
    try:
        coder: Any = library.AutoTokenizer.from_pretrained(str(where), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ScenarioError(f"by_folder('{where}'): there is no tokenizer of transformers in it ({error}); save it beside the model") from error
    pad = coder.pad_token_id if coder.pad_token_id is not None else coder.eos_token_id or 0
    return Tokenizer(
        name=where.name, size=len(coder), pad=pad, begin=coder.bos_token_id,
        encode=lambda text: coder.encode(text, add_special_tokens=False), decode=lambda ids: coder.decode(list(ids), skip_special_tokens=True),
    )  # fmt: skip


def beside(model: Path | str) -> Tokenizer:
    """Return the tokenizer that belongs to a model: of a folder of transformers its own, of a file of llama2.c the one that lies beside it.

    Raises
    ------
    ScenarioError : there is none, or more than one.
    """
    where = Path(model).expanduser()
    if where.is_dir():
        return by_folder(where)
    found: Iterable[Path] = sorted({*where.parent.glob("tok*.bin"), *where.parent.glob("*.vocab")}) if where.parent.is_dir() else []
    files = [file for file in found if file != where]
    if len(files) != 1:
        raise ScenarioError(
            f"beside('{where}'): found {[file.name for file in files]}; allowed is one tokenizer, tok*.bin or *.vocab, in that folder"
        )
    return by_merges(files[0]) if files[0].suffix == ".bin" else by_characters(files[0])


def _read(path: Path | str) -> bytes:
    """Contents of a file."""
    where = Path(path).expanduser()
    if not where.is_file():
        raise ScenarioError(f"tokenizer '{where}': there is no such file; put the vocabulary there")
    return where.read_bytes()


def _library(name: str) -> Any:
    """Import an optional package that must not reach for the network."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra("hf", "this tokenizer") from error
