"""Tokenizers: by hand, against each other's rules, real vocabularies, missing files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from airloom.errors import ScenarioError
from airloom.tasks.tokenizer import beside, by_bytes, by_characters, by_folder, by_gpt2, by_merges


def merges(path: Path, words: list[tuple[str, float]]) -> Path:
    """A tokenizer file: three control tokens, 256 bytes, then words with scores."""
    control = [(token, 0.0) for token in ("<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)))]
    tokens = [(text.encode(), score) for text, score in [*control, *words]]
    path.write_bytes(struct.pack("<i", 8) + b"".join(struct.pack("<fi", score, len(text)) + text for text, score in tokens))
    return path


def test_bytes() -> None:
    assert by_bytes().ids("aé") == [98, 0xC3 + 1, 0xA9 + 1]


def test_merges_take_the_best_score_first(tmp_path: Path) -> None:
    words = [(" ", -9.0), ("a", -9.0), ("b", -9.0), ("c", -9.0), ("bc", -1.0), ("ab", -2.0), (" a", -3.0), (" abc", -4.0), (" ab", -5.0)]
    coder = by_merges(merges(tmp_path / "tok.bin", words))
    index = {text: 259 + i for i, (text, _) in enumerate(words)}
    # " abc": bc (-1) before ab (-2); then " a" (-3); then " a" + "bc" = " abc" (-4)
    assert coder.encode("abc") == [index[" abc"]]
    # " ab": ab (-2), then " " + "ab" (-5)
    assert coder.encode("ab") == [index[" ab"]] and coder.ids("ab") == [1, index[" ab"]]
    # what is not there becomes bytes, 3 behind
    assert coder.encode("aé") == [index[" a"], 0xC3 + 3, 0xA9 + 3]
    assert coder.encode("c  a") == [index[" "], index["c"], index[" "], index[" a"]] and coder.encode("") == []


def test_characters(tmp_path: Path) -> None:
    (tmp_path / "v.vocab").write_text("<unk>\t0\n<s>\t0\n\u2581\t-1\na\t-2\n", encoding="utf-8")
    assert by_characters(tmp_path / "v.vocab").ids("a a?") == [1, 3, 2, 3, 0]


def test_the_one_beside_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(ScenarioError, match=r"found \[\]; allowed is one tokenizer"):
        beside(tmp_path / "model.bin")
    merges(tmp_path / "tok9.bin", [])
    assert beside(tmp_path / "model.bin").name == "tok9"
    (tmp_path / "x.vocab").write_text("a\t0\n")
    with pytest.raises(ScenarioError, match=r"found \['tok9\.bin', 'x\.vocab'\]"):
        beside(tmp_path / "model.bin")


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    for read in (by_merges, by_characters, by_gpt2, by_folder):
        with pytest.raises(ScenarioError, match="there is no such f"):
            read(tmp_path / "none")
    (tmp_path / "bad.bin").write_bytes(b"0123456789")
    with pytest.raises(ScenarioError, match="damaged at byte 4"):
        by_merges(tmp_path / "bad.bin")
    merges(tmp_path / "odd.bin", [("a b", 0.0)])
    with pytest.raises(ScenarioError, match="it is no tokenizer of llama2"):
        by_merges(tmp_path / "odd.bin")


def test_gpt2(tmp_path: Path, data_folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    coder = by_gpt2(data_folder / "lm" / "gpt2_bpe")
    assert coder.encode("Hello world") == [15496 + 1, 995 + 1] and coder.size == 50258  # GPT-2's own ids, and one for padding
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    (tmp_path / "tokenizer.json").write_text(plain.to_str())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[UNK]"}))
    pytest.importorskip("transformers")
    coder = by_folder(tmp_path)
    assert coder.pad == 1 and coder.encode("a") == [0]


def test_real_vocabularies(data_folder: Path) -> None:
    stories = beside(data_folder / "lm" / "stories260k" / "stories260K.bin")
    baby = beside(data_folder / "lm" / "babyllama105" / "model5000.bin")
    assert (stories.size, baby.size) == (512, 105)
    assert stories.ids("Once upon a time") == [1, 403, 407, 261, 378]  # " Once", " upon", " a", " time"
    assert baby.ids("a time")[:2] == [1, 5]
