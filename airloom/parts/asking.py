"""How a device model learns when to ask the cloud: groups of sampled responses, one cloud answer per prompt, one policy-gradient step.

    sample G responses y_i ~ pi(. | x) for each of B prompts, at the device
    one cloud answer for each prompt where some y_i = ask, or where all y_i fail;  it replaces the asking ones and carries no gradient
    rewards r_i, costs c_i = 1[y_i = ask]  ->  A  ->  theta <- optimizer(theta, gradient of the surrogate)

Systems differ in rewards, filter and dual variable: `lesson`. Tasks may come one after another: theta, the optimizer and what `lesson` keeps are
carried over, and after each task the policy is examined on all of them. Serving: the device model answers or asks, after its own attempt.

Paper: the common core of arXiv 2509.24050 (GAPG) and arXiv 2602.00166 (DA-GRPO).
Symbols: x prompt, B `prompts`, G `group`, theta the policy's values.
Left out: responses of several tokens (here an answer is one token), batching of the responses of a group on the device.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from airloom.errors import ScenarioError
from airloom.models.module import ModelSpec
from airloom.parts.advantage import Surrogate, decisions, draw
from airloom.parts.assistant import Assistant, Reply
from airloom.parts.optimizer import ServerAdam
from airloom.program.here import Here
from airloom.program.method import ranged
from airloom.program.node import Node
from airloom.program.ref import Ref
from airloom.tasks.arithmetic import ASK, IDS, WORDS, TinySolver, belongs, texts, tiny
from airloom.tasks.requests import Request

Flags = NDArray[np.bool_]
HELD = 5  # of a stream's rows every fifth is for exams (ours)


class Tries(NamedTuple):
    """What a batch of groups came to: solved (B, G), asks (B, G), is_number (B, G), and whether the cloud was right (B,)."""

    solved: Flags
    asks: Flags
    is_number: Flags
    cloud: Flags


class Lesson(NamedTuple):
    """What is learned from it: advantages (B, G), the prompts that are kept (B,), and what the policy keeps of its own beside theta."""

    advantages: NDArray[np.float64]
    keep: Flags
    own: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Asker(Assistant):
    """An assistant whose device model is trained, when the service starts, to answer or to ask.

    Arguments:
        steps: updates, per task.
        stream: tasks in the order in which they come: "+*" is sums only, then all that multiplies; "" is one task with all questions.
        prompts, group: B and G.
        optimizer: of theta (Adam, ours).
        entropy: of the surrogate (0, unbiased): more keeps a policy trying what it has stopped to do (ours).
    """

    learns: ClassVar[ModelSpec | None] = tiny()

    steps: int = ranged(0, 1_000_000, default=300)
    stream: Literal["", "+*", "*+"] = ""
    prompts: int = ranged(1, 100_000, default=32)
    group: int = ranged(2, 10_000, default=8)
    optimizer: ServerAdam = field(default=ServerAdam(lr=1e-3))
    entropy: float = ranged(0, 100, default=0.0, is_neutral=True)

    @abstractmethod
    def lesson(self, tries: Tries, own: dict[str, Any], rng: np.random.Generator, t: int) -> Lesson:
        """Turn tries into advantages; `own` is what the last lesson kept."""

    # --- training -------------------------------------------------------------------------------------------------------------------------

    def prepare(self, node: Node) -> None:
        """Train at the first device, then hand the policy to all."""
        theta = node.program(node.clients[0], self.train, node.name)
        node.fetch(node.map(self.install, node.clients, theta))
        node.report(model=theta)

    def train(self, device: Node, cloud: str) -> Any:
        for k, task in enumerate(self.stream or [""]):
            for t in range(k * self.steps, (k + 1) * self.steps):
                tried = device.call(self.sample, device.name, t, task)
                device.report(**device.fetch(device.call(self.learn, device.name, tried, self.told(device, cloud, tried), t)))
            for other in self.stream:
                sat = device.call(self.examine, device.name, other)
                device.report(after=k, exam=other, **device.fetch(device.call(self.grade, device.name, sat, self.told(device, cloud, sat))))
        return device.fetch(device.call(self.policy, device.name))

    def told(self, device: Node, cloud: str, tried: Any) -> Ref | list[Any]:
        """One cloud answer per question, all in one message: nobody waits for a lesson. What the cloud does not answer in time it has not solved."""
        asked = device.fetch(tried["questions"])
        if not asked:
            return []
        arrived, _, _ = device.first([device.call(self.tell, cloud, asked)], 1, self.timeout_s * len(asked))
        return arrived[0] if arrived else []

    def sample(self, here: Here, t: int, task: str) -> dict[str, Any]:
        batch = here.batch(self.prompts)
        if task:
            practice, _ = self.divide(here, task)
            batch = here.data.all().rows(torch.from_numpy(here.rng("rows", t).choice(practice, self.prompts)))
        x: Any = batch.x
        logits = here.forward(self.theta(here), x)[:, -1]
        tokens = draw(logits, self.group, here.rng("sample", t).random((len(batch), self.group)))
        seconds = x.shape[1] / here.model.prefill_per_s + here.model.solver.reply_tokens / here.model.decode_per_s
        here.cost(seconds=self.prompts * self.group * seconds)
        solved, asks = tokens == batch.y[:, -1:], tokens == IDS[ASK]
        prompts = texts(x)
        needed = (asks.any(1) | ~solved.any(1)).tolist()
        questions = sorted({prompt for prompt, needs in zip(prompts, needed) if needs})
        return {"x": x, "y": batch.y, "logits": logits, "tokens": tokens, "prompts": prompts, "questions": questions}

    def examine(self, here: Here, task: str) -> dict[str, Any]:
        """Held-out questions of a task, and what the policy, greedy as in service, does with them."""
        batch: Any = here.data.all()
        _, held = self.divide(here, task)
        x, y = batch.x[held], batch.y[held, -1]
        logits = here.forward(self.theta(here), x)[:, -1]
        best = logits[:, :100].argmax(-1)
        asks, prompts = logits[:, IDS[ASK]] > logits[:, :100].amax(-1), texts(x)
        seconds = x.shape[1] / here.model.prefill_per_s + here.model.solver.reply_tokens / here.model.decode_per_s
        here.cost(seconds=len(held) * seconds)
        questions = sorted({prompt for prompt, does in zip(prompts, asks.tolist()) if does})
        return {"y": y, "best": best, "asks": asks, "prompts": prompts, "questions": questions}

    def divide(self, here: Here, task: str) -> tuple[list[int], list[int]]:
        """Positions of the device's rows of a task: those to learn from, and those for exams."""
        x: Any = here.data.all().x
        mine = [i for i, question in enumerate(texts(x)) if belongs(question, task)]
        return [i for k, i in enumerate(mine) if k % HELD], mine[::HELD]

    def grade(self, here: Here, sat: dict[str, Any], told: list[list[str]]) -> dict[str, float]:
        answers, asks = dict(told), sat["asks"]
        cloud = torch.tensor([answers.get(question) == WORDS[int(y)] for question, y in zip(sat["prompts"], sat["y"])])
        own = sat["best"] == sat["y"]
        return {
            "exam_accuracy": float(torch.where(asks, cloud, own).float().mean()), "exam_own": float(own.float().mean()),
            "exam_asked": float(asks.float().mean()),
        }  # fmt: skip

    def tell(self, here: Here, questions: list[str]) -> list[list[str]]:
        return [[question, here.answer(question)["text"]] for question in questions]

    def learn(self, here: Here, tried: dict[str, Any], told: list[list[str]], t: int) -> dict[str, float]:
        x, tokens, truth = tried["x"], tried["tokens"], tried["y"][:, -1]
        answers = dict(told)
        cloud = np.array([answers.get(question) == WORDS[int(y)] for question, y in zip(tried["prompts"], truth)])
        tries = Tries((tokens == truth[:, None]).numpy(), (tokens == IDS[ASK]).numpy(), (tokens < 100).numpy(), cloud)
        A, keep, here.state["own"] = self.lesson(tries, here.state.get("own", {}), here.rng("lesson", t), t)
        if keep.any():
            theta, kept = self.theta(here), torch.from_numpy(np.flatnonzero(keep))
            rows = kept.repeat_interleave(self.group)
            old = tried["logits"].log_softmax(-1).gather(1, tokens)
            batch = decisions(x[rows], tokens[kept].reshape(-1), old[kept].reshape(-1), A[keep].reshape(-1))
            g = here.grad(theta, batch, objective=Surrogate(entropy=self.entropy))
            here.state["theta"], here.state["optimizer"] = self.optimizer.step(theta, g, here.state.get("optimizer"))
        right = tries.solved | (tries.asks & cloud[:, None])
        duals = {name: float(value) for name, value in here.state["own"].items()}
        return {"step": t, "train_accuracy": float(right.mean()), "ask_rate": float(tries.asks.mean()), "keep_rate": float(keep.mean()), **duals}

    def theta(self, here: Here) -> Any:
        """The policy's values: what was learned, else what the device came with."""
        solver = here.model.solver
        if not isinstance(solver, TinySolver):
            raise ScenarioError(
                f"{type(self).__name__} at '{here.name}': its model is a {type(solver).__name__}; allowed is a TinySolver, to be trained"
            )
        return here.state.get("theta", solver.values)

    def policy(self, here: Here) -> Any:
        return self.theta(here)

    def install(self, here: Here, theta: Any) -> None:
        here.state["theta"] = theta

    # --- serving --------------------------------------------------------------------------------------------------------------------------

    def serve(self, device: Node, above: list[str], asked: Request) -> Reply:
        tried = device.call(self.attempt, device.name, asked.question, asked.context)
        own = self.local_of(device, tried)
        if not device.fetch(tried["asks"]):
            return own
        return self.remote(device, above[-1], asked, otherwise=own)

    def attempt(self, here: Here, question: str, context: Any) -> dict[str, Any]:
        """Answer, and say whether somebody else should; the attempt is paid in full either way."""
        solver = replace(here.model.solver, values=self.theta(here))
        endpoint = replace(here.model, solver=solver)
        reply = endpoint.reply(question, len(context))
        here.cost(seconds=endpoint.seconds(reply), joules=endpoint.joules(reply), price=endpoint.price(reply))
        return {**reply, "asks": solver.asks(question)}
