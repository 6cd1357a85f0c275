"""A gateway: an OpenAI-compatible HTTP server on this machine that answers each request as a service's text says, and keeps the same ledger.

The device's model answers here; the cloud's is the scenario's, or any OpenAI-compatible server named by the environment: `AIRLOOM_CLOUD_URL` (with
`/v1`), `AIRLOOM_CLOUD_MODEL`, `AIRLOOM_CLOUD_KEY`; the key is neither stored nor logged. Left out: several choices, tools, images, log probabilities,
users and keys of its own (it listens on loopback), streaming token by token (a stream carries the finished answer in pieces).
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from airloom.engines.threads import ThreadNode, ThreadWorld
from airloom.errors import DeviceLost, MissingExtra, RunFailed, ScenarioError
from airloom.models.endpoint import Answer, Endpoint, Solver
from airloom.models.params import Params
from airloom.parts.assistant import Assistant, Reply
from airloom.parts.boundary import Leak, Registry
from airloom.program.here import Here
from airloom.program.ref import Ref
from airloom.program.tree import map_leaves
from airloom.records import checkpoint
from airloom.records.ledger import Ledger
from airloom.records.record import RecordWriter
from airloom.runner import describe_method, versions
from airloom.scenarios.scenario import Scenario
from airloom.tasks.requests import Request
from airloom.tasks.retail import LEVELS, PATTERNS

MOST_BYTES = 1 << 20  # of a request's body (ours)


def library(name: str) -> Any:
    """Import an optional package of the extra `serve`."""
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra("serve", "airloom serve") from error


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Remote(Solver):
    """An OpenAI-compatible server as a solver.

    Arguments:
        url: base address with /v1. model: its name there. timeout_s: longest wait.
        key: for the header, from the environment; not shown.
        brief: said before each question, as the system's message; that of the solver in whose place it answers.
    """

    is_repeatable: ClassVar[bool] = False

    url: str
    model: str
    timeout_s: float
    key: str = ""
    brief: str = ""

    def __repr__(self) -> str:
        return f"Remote(url={self.url!r}, model={self.model!r})"

    def answer(self, question: str, notes: tuple[str, ...]) -> Answer:
        """Ask once; an address that does not answer, or answers nonsense, raises RunFailed."""
        httpx = library("httpx")
        said = [("system", self.brief)] if self.brief else []
        messages = [{"role": role, "content": text} for role, text in (*said, ("user", "\n".join((*notes, question))))]
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            got = httpx.post(
                f"{self.url}/chat/completions", json={"model": self.model, "messages": messages}, headers=headers, timeout=self.timeout_s
            )
            got.raise_for_status()
            told = got.json()
            text, used = told["choices"][0]["message"]["content"], (told.get("usage") or {}).get("completion_tokens") or 1
            return Answer(str(text), 1.0, max(1, int(used)))
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise RunFailed(f"cloud '{self.url}': {type(error).__name__} instead of an answer") from error


class GuardedNode(ThreadNode):
    """A request's device behind the privacy boundary: text that goes elsewhere is sanitized, also that of replies, and what comes back is reversed.

    A message that holds a known value all the same is not sent: that call is lost, and `withheld` is counted.
    """

    def __init__(self, world: ThreadWorld, name: str, level: int) -> None:
        super().__init__(world, name)
        self.box = Registry()
        self.kinds = LEVELS[level]
        self.lock = threading.Lock()  # calls of one request run side by side
        self.withheld = 0

    def call(self, fn: Any, where: str, *args: Any, on: str | None = "cpu", priority: int = 0) -> Ref:
        fn = fn if where == self.name else partial(self.guarded, fn)
        return super().call(fn, where, *args, on=on, priority=priority)

    def guarded(self, fn: Any, here: Here, *args: Any) -> Any:
        """Run a device function of another place with sanitized arguments, those that other calls made included."""
        with self.lock:
            sent = map_leaves(self.sanitized, args)
        said = fn(here, *sent)
        return {**said, "text": self.box.reverse(said["text"])} if isinstance(said, dict) and "text" in said else said

    def sanitized(self, leaf: Any) -> Any:
        """What may leave of a leaf: text without the values that the rules find in it."""
        if not isinstance(leaf, str):
            return leaf
        for kind in self.kinds:
            for value in PATTERNS[kind].findall(leaf) if kind in PATTERNS else []:
                self.box.add(kind, value)
        try:
            return self.box.scan(self.box.sanitize(leaf)).text
        except Leak:
            self.withheld += 1
            raise


class Busy(RunFailed):
    """More requests at once than the gateway takes."""


class Gateway:
    """Answers single requests by a service's text on measured time, and keeps the ledger.

    Arguments:
        scenario: its first device, the places above it, and their endpoints.
        service: an assistant; one that trains first needs `policy`.
        seed: of random streams.
        most: requests at once; more are refused.
        timeout_s: longest wait of a client.
        level: of the privacy boundary (see `paac`), 0 for none.
        out: folder of the record, or None.
        cloud: what answers in the cloud's place, or None for the scenario's endpoint.
        policy: what the service has learned in an earlier run (see `policy_of`), or None.
    """

    def __init__(
        self, scenario: Scenario, service: Any, *, seed: int = 0, most: int = 16, timeout_s: float = 60.0, level: int = 0, out: Path | None = None,
        cloud: Solver | None = None, policy: Params | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(service, Assistant):
            raise ScenarioError(f"gateway: got {type(service).__name__}; allowed is an assistant, such as cascade")
        name = type(service).__name__.lower()
        if name == "paac" and level:
            raise ScenarioError(f"gateway: got level={level} for paac, which has a boundary of its own; leave --boundary out, use --set level=...")
        if service.learns is not None and policy is None:
            raise ScenarioError(f"gateway: {name} trains first, got no policy; run it with --out DIR, then serve it with --from DIR")
        if service.learns is None and policy is not None:
            raise ScenarioError(f"gateway: got a policy, but {name} learns nothing; leave --from out")
        if most < 1 or not timeout_s > 0 or not 0 <= level < len(LEVELS):
            raise ScenarioError(f"gateway(most={most}, timeout_s={timeout_s}, level={level}): allowed are most >= 1, seconds > 0, level 0 to 3")
        network, task = scenario.network, scenario.task
        self.device = network.clients(network.root)[0]
        self.above: list[str] = []
        place = network.places[self.device].parent
        while place is not None:
            self.above.append(place)
            place = network.places[place].parent
        missing = [name for name in (self.device, *self.above) if not isinstance(task.residents.get(name), Endpoint)]
        if missing:
            raise ScenarioError(f"gateway on scenario '{scenario.name}': {missing[0]} has no endpoint; use a scenario such as assistant")
        brief = task.residents[network.root].solver.brief
        if name == "paac" and not brief:
            raise ScenarioError(f"gateway: paac on scenario '{scenario.name}': nobody plans at '{network.root}'; use --scenario helpdesk")
        if cloud is not None:
            ends = dict(task.residents)
            ends[network.root] = replace(ends[network.root], solver=replace(cloud, brief=brief) if isinstance(cloud, Remote) else cloud)
            task = replace(task, residents=ends)
        self.service, self.most, self.timeout_s, self.level = service, most, timeout_s, level
        self.world = ThreadWorld(network, task, seed, workers=4 * most, state=None if policy is None else {self.device: {"theta": policy}})
        self.ledger = Ledger()
        self.told: dict[str, Any] = {}
        self.threads = ThreadPoolExecutor(most, thread_name_prefix="airloom-request")
        self.open = self.refused = self.failed = self.left = self.withheld = self.number = 0
        self.lock = threading.Lock()
        header = {**describe_method(service), "scenario": {"name": scenario.name}, "engine": "gateway", "clock": "measured", "seed": seed}
        self.writer = None if out is None else RecordWriter(out, {**header, "versions": versions(), "level": level})
        self.ledger.add({"answered": 0, "price": 0.0, "joules": 0.0})

    def admit(self) -> int:
        """Let a request in and return its number; while `most` are open it is refused with Busy."""
        with self.lock:
            if self.open >= self.most:
                self.refused += 1
                raise Busy(f"gateway: {self.open} requests are open, at most {self.most} are taken; try again later")
            self.open += 1
            self.number += 1
            return self.number

    def answer(self, question: str, context_bytes: int, number: int | None = None) -> Reply:
        """Answer one request (let in before, or now)."""
        number = self.admit() if number is None else number
        world = self.world
        asked_s = world.now_s
        node = GuardedNode(world, self.device, self.level) if self.level else ThreadNode(world, self.device)
        try:
            reply = self.service.serve(node, self.above, Request(number, asked_s, question, "", np.zeros(context_bytes, np.uint8)))
        except BaseException as error:
            with self.lock:
                self.failed += 1
                self.withheld += isinstance(error, Leak)
            raise
        finally:
            with self.lock:
                self.open -= 1
                self.withheld += node.withheld if isinstance(node, GuardedNode) else 0
        now_s = world.now_s
        point = {
            "seconds": now_s, "round": 0, "joules": world.joules, "price": world.price, "request": number, "latency_s": now_s - asked_s,
            "first_s": now_s - asked_s, "where": reply.where, "is_remote": int(reply.where != self.device),
            "is_fallback": int(reply.is_fallback), **reply.more,
        }  # fmt: skip
        with self.lock:
            self.told = self.ledger.add(point)
            if self.writer is not None:
                self.writer.point({**point, **self.told})
        return reply

    def metrics(self) -> str:
        """The ledger in the text format of Prometheus."""
        with self.lock:
            values = {
                "open": self.open,
                "refused_total": self.refused,
                "failed_total": self.failed,
                "left_total": self.left,
                "withheld_total": self.withheld,
            }
        return "".join(f"airloom_{name} {value}\n" for name, value in {**values, **self.told}.items())

    def close(self) -> None:
        """End the record."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.world.close()
        if self.writer is not None:
            with self.lock:
                self.writer.summary({"status": "done", "seconds": self.world.now_s, "price": self.world.price, "rounds": 0, "metrics": self.told})
                self.writer.close()
                self.writer = None


def cloud_of(environment: Mapping[str, str], timeout_s: float) -> Remote | None:
    """Return the server that the environment names, or None."""
    url = environment.get("AIRLOOM_CLOUD_URL", "").rstrip("/")
    if not url:
        return None
    if not url.startswith(("http://", "https://")):
        raise ScenarioError(f"AIRLOOM_CLOUD_URL: got {url!r}; allowed is an address such as http://127.0.0.1:8000/v1")
    return Remote(url=url, model=environment.get("AIRLOOM_CLOUD_MODEL", "default"), timeout_s=timeout_s, key=environment.get("AIRLOOM_CLOUD_KEY", ""))


def policy_of(folder: Path, service: Assistant) -> Params:
    """Return what a service of this kind has learned in an earlier run, from the folder of its record."""
    tree, tensors = checkpoint.load(folder / "model.safetensors")
    wanted = type(service).__module__
    if service.learns is None or tree.get("module") != wanted:
        raise ScenarioError(f"--from '{folder}': holds what {tree.get('module')} has learned; allowed is a run of {wanted}, if that learns")
    return Params.from_named(service.learns, tensors)


def application(gateway: Gateway) -> Any:
    """Return the FastAPI application of a gateway."""
    fastapi, responses, requests = library("fastapi"), library("fastapi.responses"), library("starlette.requests")
    name = type(gateway.service).__name__.lower()

    def refuse(status: int, message: str, kind: str) -> Any:
        headers = {"Retry-After": "1"} if status == 429 else {}
        return responses.JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": None}}, status, headers)

    async def completions(request: Any) -> Any:
        raw = b""
        try:
            async with asyncio.timeout(gateway.timeout_s):
                async for piece in request.stream():
                    raw += piece
                    if len(raw) > MOST_BYTES:
                        return refuse(413, f"the request is longer than {MOST_BYTES} bytes", "invalid_request_error")
        except TimeoutError:
            return refuse(408, f"the request did not come within {gateway.timeout_s:g} s", "timeout")
        except requests.ClientDisconnect:
            gateway.left += 1
            return refuse(408, "the request was broken off", "timeout")  # nobody reads it
        try:
            question, context_bytes, is_stream = read(raw)
        except ScenarioError as error:
            return refuse(400, str(error), "invalid_request_error")
        try:
            number = gateway.admit()
        except Busy as error:
            return refuse(429, str(error), "rate_limit_error")
        work = asyncio.get_running_loop().run_in_executor(gateway.threads, gateway.answer, question, context_bytes, number)
        deadline_s = time.monotonic() + gateway.timeout_s
        while not work.done():  # whoever goes away is not waited for; what was begun ends by itself
            await asyncio.wait({work}, timeout=0.05)
            is_late = time.monotonic() > deadline_s
            if not work.done() and (is_late or await request.is_disconnected()):
                gateway.left += 1
                return refuse(504, f"no answer within {gateway.timeout_s:g} s", "timeout")
        try:
            reply = work.result()
        except Exception as error:
            fault = error.__cause__ if isinstance(error, DeviceLost) else error
            if isinstance(fault, Leak):
                return refuse(403, str(fault), "privacy_boundary")
            if isinstance(fault, ScenarioError):  # the device's model does not take such a question
                return refuse(400, str(fault), "invalid_request_error")
            return refuse(502, f"{type(error).__name__}: the answer failed", "server_error")
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
        about = {"where": reply.where, "confidence": reply.confidence, "is_fallback": reply.is_fallback}
        if is_stream:
            return responses.StreamingResponse(_events(head, reply.text, about), media_type="text/event-stream")
        choice = {"index": 0, "message": {"role": "assistant", "content": reply.text}, "finish_reason": "stop"}
        prompt, told = -(-(len(question.encode()) + context_bytes) // 4), -(-len(reply.text.encode()) // 4)
        usage = {"prompt_tokens": prompt, "completion_tokens": told, "total_tokens": prompt + told}
        return responses.JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage, "airloom": about})

    async def health(_: Any) -> Any:
        return responses.JSONResponse({"status": "ok", "policy": name, "open": gateway.open})

    async def metrics(_: Any) -> Any:
        return responses.PlainTextResponse(gateway.metrics())

    async def models(_: Any) -> Any:
        return responses.JSONResponse({"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "airloom"}]})

    async def unknown(request: Any, error: Any) -> Any:
        kind = "invalid_request_error"
        return refuse(
            error.status_code, f"{request.method} {request.url.path}: there is POST /v1/chat/completions, GET /v1/models, /health, /metrics", kind
        )

    app = fastapi.FastAPI(title="airloom", docs_url=None, redoc_url=None, openapi_url=None, exception_handlers={404: unknown, 405: unknown})
    for path, method, endpoint in (("/v1/chat/completions", "POST", completions), ("/health", "GET", health), ("/metrics", "GET", metrics),
                                   ("/v1/models", "GET", models)):  # fmt: skip
        app.add_route(path, endpoint, methods=[method])
    return app


def read(raw: bytes) -> tuple[str, int, bool]:
    """Return the question (the last user's message), the bytes of what comes before it, and whether a stream is wanted.

    >>> read(b'{"messages": [{"role": "user", "content": "1+1="}]}')
    ('1+1=', 0, False)
    """
    try:
        body = json.loads(raw)
    except ValueError:
        raise ScenarioError("request: the body is no JSON; send an object with messages") from None
    messages = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(messages, list) or not messages:
        raise ScenarioError("request, messages: got none; send a list with at least one {role, content}")
    texts = [_text(message.get("content")) if isinstance(message, dict) and isinstance(message.get("role"), str) else None for message in messages]
    if None in texts:
        raise ScenarioError("request, messages: an entry is no {role, content} of texts; images and tools are left out")
    if messages[-1]["role"] != "user" or not texts[-1]:
        raise ScenarioError("request, messages: the last one must be the user's, and not empty")
    if body.get("n", 1) != 1:
        raise ScenarioError(f"request, n: got {body['n']!r}; allowed is 1")
    if body.get("tools") or body.get("functions"):
        raise ScenarioError("request, tools: allowed are none; leave them out, this server calls no tools for its clients")
    return texts[-1], sum(len((text or "").encode()) for text in texts[:-1]), bool(body.get("stream", False))


def _text(content: Any) -> str | None:
    """What a message says: its text, or the texts of its parts; None where there is something else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    parts = [part["text"] for part in content if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)]
    return "".join(parts) if len(parts) == len(content) else None


async def _events(head: dict[str, Any], text: str, about: dict[str, Any]) -> AsyncIterator[str]:
    """The answer as server-sent events, word by word."""
    words = text.split(" ")
    for i, word in enumerate(words):
        delta = {"role": "assistant", "content": word if i == 0 else " " + word}
        yield _event({**head, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        await asyncio.sleep(0)
    yield _event({**head, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "airloom": about})
    yield "data: [DONE]\n\n"


def _event(told: dict[str, Any]) -> str:
    return f"data: {json.dumps(told)}\n\n"


def serve(gateway: Gateway, *, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Listen until interrupted, then end the record."""
    uvicorn = library("uvicorn")
    try:
        uvicorn.run(application(gateway), host=host, port=port, log_level="warning", timeout_keep_alive=5, ws="none")
    finally:
        gateway.close()


def gateway_of(
    scenario: Scenario, service: Any, *, seed: int, most: int, timeout_s: float, level: int, out: Path | None, policy: Path | None = None
) -> Gateway:
    """Return a gateway with the cloud that the environment names, and with the policy of an earlier run."""
    learned = None if policy is None else policy_of(policy, service)
    cloud = cloud_of(os.environ, timeout_s)
    return Gateway(scenario, service, seed=seed, most=most, timeout_s=timeout_s, level=level, out=out, cloud=cloud, policy=learned)
