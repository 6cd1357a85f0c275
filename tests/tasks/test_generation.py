"""Greedy decoding is that of transformers; the tokenizer belongs to the model; the two real small models answer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from airloom.errors import ScenarioError
from airloom.models.endpoint import Endpoint
from airloom.tasks.generation import HfSolver, decode, local
from airloom.tasks.tokenizer import by_bytes

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=257, hidden_size=16, num_key_value_heads=1,
        max_position_embeddings=24, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def test_decoding_equals_that_of_transformers(llama: Any) -> None:
    ids = by_bytes().encode("hello")
    told, chances = decode(llama, ids, 8)
    with torch.no_grad():
        theirs = llama.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False, pad_token_id=0)[0, len(ids) :].tolist()
    assert told == theirs[: len(told)] and all(0 < chance < 1 for chance in chances)


def test_a_reply_counts_its_own_tokens_and_stops_at_the_length_of_the_model(llama: Any) -> None:
    solver = HfSolver(model=llama, tokenizer=by_bytes(), most_tokens=99)
    answer = solver.answer("hello", ())
    assert answer.tokens <= 24 - 5 and 0 < answer.confidence < 1
    endpoint = Endpoint(solver=solver, prefill_per_s=1.0, decode_per_s=1.0, price_in=0.0, price_out=0.0, joules_per_token=0.0)
    assert endpoint.reply("hello", 0)["tokens_in"] == 5  # bytes, as the model's tokenizer has it
    with pytest.raises(ScenarioError, match="got 24 tokens to read; allowed are 1 to 23"):
        solver.answer("h" * 24, ())


def test_another_tokenizer_is_refused(llama: Any) -> None:
    small = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**llama.config.to_dict(), "vocab_size": 100, "torch_dtype": None}))
    with pytest.raises(ScenarioError, match="has 257 ids, its model only 100"):
        HfSolver(model=small, tokenizer=by_bytes(), most_tokens=4)


LM = Path(os.environ.get("AIRLOOM_DATA", "")) / "lm"


@pytest.mark.parametrize("file", ["stories260k/stories260K.bin", "babyllama105/model5000.bin"])
def test_the_small_real_models_tell_stories(file: str) -> None:
    if not (LM / file).is_file():
        pytest.skip("the language models are not at hand (AIRLOOM_DATA)")
    answer = local(LM / file, most_tokens=12).answer("Once upon a time", ())
    assert answer.text.startswith(", there was a ") or answer.text.startswith(", there was")
    assert answer.tokens == 12
