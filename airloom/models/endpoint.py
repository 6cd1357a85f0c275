"""Endpoints: language models that answer at a place, with what an answer costs there.

    seconds = n_in / v_pre + n_out / v_dec        joules = (n_in + n_out) e        price = p_in n_in + p_out n_out

n_in counts all text that the model reads: context, question and notes. Messages travel as bytes; tokens are counted by the endpoint's own tokenizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, final

import numpy as np

from airloom.clock.rng import generator
from airloom.errors import ScenarioError

Reply = dict[str, Any]  # text, confidence (0..1), tokens_in, tokens_out, tail_s (from the first token to the last), body (bytes beside the text)


class Answer(NamedTuple):
    """What a solver says: a text, how sure it is (0..1), and how many tokens it wrote for it (reasoning included)."""

    text: str
    confidence: float
    tokens: int


class Solver(ABC):
    """What answers questions: a model, real or declared. The same question and notes get the same answer, unless `is_repeatable` is False."""

    is_repeatable: ClassVar[bool] = True
    brief: str = ""  # what a language model in its place is told of its task; a planner has one, whoever just answers has none

    @abstractmethod
    def answer(self, question: str, notes: tuple[str, ...]) -> Answer:
        """Answer a question, having read the notes of others."""

    def tokens(self, text: str) -> int:
        """Tokens of a text; by default four bytes each, as the usual vocabularies take for English (ours)."""
        return -(-len(text.encode()) // 4)


def persuaded(own: Answer, notes: Sequence[str]) -> Answer:
    """Return an answer after reading notes: who is unsure (below 0.5) takes the most frequent note, the first one of equals (ours)."""
    if not notes or own.confidence >= 0.5:
        return own
    return own._replace(text=Counter(notes).most_common(1)[0][0])


def unlike(_: str) -> str:
    """What a declared solver says where it is wrong, unless told otherwise."""
    return "wrong"


@final
@dataclass(frozen=True, kw_only=True)
class Declared(Solver):
    """A solver of which nothing is known but how often it is right: stands in for a model that is not at hand.

    Arguments:
        solve: question -> right answer.
        skill: question -> chance of being right, 0..1. It is drawn once per question, so asking again does not help; see `mistake`.
        reply_tokens: tokens of every reply.
        name: of the random stream; two endpoints of one name are right on the same questions.
        mistake: question -> what is said instead.

    >>> sure = Declared(solve=lambda q: "4", skill=lambda q: 1.0, reply_tokens=20, name="cloud")
    >>> sure.answer("2+2=", ())
    Answer(text='4', confidence=1.0, tokens=20)
    """

    solve: Callable[[str], str]
    skill: Callable[[str], float]
    reply_tokens: int
    name: str
    mistake: Callable[[str], str] = unlike

    def answer(self, question: str, notes: tuple[str, ...]) -> Answer:
        """Right with the chance that `skill` gives; the confidence is that chance."""
        chance = self.skill(question)
        is_right = generator("declared", self.name, question).random() < chance
        return persuaded(Answer(self.solve(question) if is_right else self.mistake(question), chance, self.reply_tokens), notes)


@final
@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A solver at a place, with its speed, price and energy; it queues at its device's processor.

    Arguments:
        solver: what answers.
        prefill_per_s, decode_per_s: tokens per second read and written.
        price_in, price_out: per token read and written, in one currency for all endpoints.
        joules_per_token: beside the device's power times seconds, so 0 where the device's profile already holds the power of answering.
    """

    solver: Solver
    prefill_per_s: float
    decode_per_s: float
    price_in: float
    price_out: float
    joules_per_token: float
    _known: Callable[[str, tuple[str, ...]], Answer] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("prefill_per_s", "decode_per_s"):
            if not 0 < getattr(self, name) < np.inf:
                raise ScenarioError(f"Endpoint.{name}: got {getattr(self, name)!r}; allowed are finite numbers > 0; an absent endpoint is churn")
        for name in ("price_in", "price_out", "joules_per_token"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ScenarioError(f"Endpoint.{name}: got {getattr(self, name)!r}; allowed are finite numbers >= 0")
        ask = self.solver.answer  # pricing a call and running it ask twice, so what repeats itself is remembered
        object.__setattr__(self, "_known", lru_cache(maxsize=65_536)(ask) if self.solver.is_repeatable else ask)

    def reply(self, question: str, context_bytes: int, notes: Sequence[Mapping[str, Any]] = ()) -> Reply:
        """Return the reply to a question that comes with so many bytes of context and with other replies."""
        answer = self._known(question, tuple(str(note["text"]) for note in notes))
        if not isinstance(answer.text, str) or answer.tokens < 1 or not 0 <= answer.confidence <= 1:
            raise ScenarioError(f"Endpoint.solver: got {answer!r}; allowed are text, a confidence in [0, 1] and at least one token")
        count = self.solver.tokens
        read = count(question) + -(-context_bytes // 4) + sum(int(note["tokens_out"]) for note in notes)
        body = np.zeros(max(0, 4 * answer.tokens - len(answer.text.encode())), np.uint8)
        tail_s = (answer.tokens - 1) / self.decode_per_s
        return {
            "text": answer.text, "confidence": float(answer.confidence), "tokens_in": read, "tokens_out": answer.tokens, "tail_s": tail_s,
            "body": body,
        }  # fmt: skip

    def seconds(self, reply: Reply) -> float:
        """Seconds of reading and writing."""
        return reply["tokens_in"] / self.prefill_per_s + reply["tokens_out"] / self.decode_per_s

    def joules(self, reply: Reply) -> float:
        """Joules beside those of the device's power."""
        return self.joules_per_token * (reply["tokens_in"] + reply["tokens_out"])

    def price(self, reply: Reply) -> float:
        """What the call is billed."""
        return self.price_in * reply["tokens_in"] + self.price_out * reply["tokens_out"]
