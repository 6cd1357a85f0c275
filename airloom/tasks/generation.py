"""Local language models as solvers: greedy decoding, token by token, with the keys and values of what was read kept."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any, final

import torch

from airloom.errors import ScenarioError
from airloom.models.endpoint import Answer, Solver
from airloom.models.hf import causal
from airloom.tasks.tokenizer import Tokenizer, beside


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class HfSolver(Solver):
    """A causal model of `transformers` (extra `hf`); `local` reads one from a folder. Confidence: the geometric mean of the chosen tokens' chances.

    Arguments:
        model, tokenizer: that belong together.
        most_tokens: longest reply.
    """

    model: Any
    tokenizer: Tokenizer
    most_tokens: int

    def __post_init__(self) -> None:
        size = int(self.model.config.vocab_size)
        if self.most_tokens < 1:
            raise ScenarioError(f"HfSolver(most_tokens={self.most_tokens}): must be at least 1")
        if size < self.tokenizer.size:
            raise ScenarioError(
                f"HfSolver: its tokenizer '{self.tokenizer.name}' has {self.tokenizer.size} ids, its model only {size}; give two that belong together"
            )

    def answer(self, question: str, notes: tuple[str, ...]) -> Answer:
        """Go on with the question, after the notes, until the end-of-text token or `most_tokens`."""
        prompt = "\n".join((*notes, question))
        ids, chances = decode(self.model, self.tokenizer.ids(prompt), self.most_tokens)
        surely = exp(sum(log(max(chance, 1e-30)) for chance in chances) / max(1, len(chances)))
        return Answer(self.tokenizer.decode(ids), surely, max(1, len(ids)))

    def tokens(self, text: str) -> int:
        """Tokens of a text, by the model's own tokenizer."""
        return len(self.tokenizer.encode(text))


def local(path: Path | str, *, most_tokens: int = 64) -> HfSolver:
    """Return the model in a folder of transformers, or in a file of llama2.c with its tokenizer beside it; nothing is downloaded."""
    return HfSolver(model=causal(path), tokenizer=beside(path), most_tokens=most_tokens)


@torch.no_grad()
def decode(model: Any, ids: list[int], most: int) -> tuple[list[int], list[float]]:
    """Return the greedy continuation of ids, without the token that ends it, and each token's chance."""
    limit = int(getattr(model.config, "max_position_embeddings", 0) or len(ids) + most)
    if not ids or len(ids) >= limit:
        raise ScenarioError(f"decode: got {len(ids)} tokens to read; allowed are 1 to {limit - 1}: shorten the prompt")
    ends = model.config.eos_token_id
    stops = set(ends) if isinstance(ends, list | tuple) else {ends}
    told: list[int] = []
    chances: list[float] = []
    kept, given = None, torch.tensor([ids])
    for _ in range(min(most, limit - len(ids))):
        out = model(input_ids=given, past_key_values=kept, use_cache=True)
        kept = out.past_key_values
        spread = out.logits[0, -1].softmax(-1)
        token = int(spread.argmax())
        if token in stops:
            break
        told.append(token)
        chances.append(float(spread[token]))
        given = torch.tensor([[token]])
    return told, chances
