"""The gateway: a real client, streams, malformed requests, load, a dead cloud, a cloud that babbles, the boundary, and the record."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

import airloom
from airloom.errors import RunFailed, ScenarioError
from airloom.gateway import Busy, Gateway, Remote, application, cloud_of, policy_of, read
from airloom.models.endpoint import Answer, Endpoint, Solver
from airloom.parts.assistant import Assistant
from airloom.parts.boundary import Registry, Sanitized
from airloom.records.record import load
from airloom.scenarios.assistant import assistant
from airloom.scenarios.helpdesk import helpdesk
from airloom.scenarios.scenario import Scenario
from airloom.serving.cascade import Cascade
from airloom.serving.cloud_only import CloudOnly
from airloom.serving.critique_routing import CritiqueRouting
from airloom.serving.draft_refine import DraftRefine
from airloom.serving.gapg import GAPG
from airloom.serving.paac import PAAC
from airloom.serving.vote import Vote
from airloom.tasks.retail import Planner, done, record

httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")


@dataclass(frozen=True)
class Echo(Solver):
    """Says what it was asked, after a while."""

    said: str = ""
    confidence: float = 1.0
    wait_s: float = 0.0

    def answer(self, question: str, notes: tuple[str, ...]) -> Answer:
        time.sleep(self.wait_s)
        return Answer(self.said or question, self.confidence, 4)


@dataclass(frozen=True, kw_only=True)
class Held(Solver):
    """Answers once the gate is open."""

    gate: threading.Event

    def answer(self, question: str, notes: tuple[str, ...]) -> Answer:
        self.gate.wait(60)
        return Answer("late", 1.0, 4)


def world(device: Solver, cloud: Solver | None = None) -> Scenario:
    """One phone, its station and the cloud, with these solvers."""
    made = assistant(seed=0, devices=1, base_stations=1, requests=1)
    ends: dict[str, Endpoint] = dict(made.task.residents)
    ends["phone0"] = replace(ends["phone0"], solver=device)
    ends["cloud"] = replace(ends["cloud"], solver=cloud or Echo("from the cloud"))
    return replace(made, task=replace(made.task, residents=ends))


@contextmanager
def listening(gateway: Gateway) -> Iterator[str]:
    """The address of a gateway that listens on a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(application(gateway), host="127.0.0.1", port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end_s = time.monotonic() + 60
    while not server.started and thread.is_alive() and time.monotonic() < end_s:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
        gateway.close()


def ask(url: str, **changes: Any) -> Any:
    return httpx.post(f"{url}/v1/chat/completions", json={"messages": [{"role": "user", "content": "hello"}]} | changes, timeout=60)


def test_the_openai_client_gets_answers_streams_and_models(tmp_path: Path) -> None:
    openai = pytest.importorskip("openai")
    gateway = Gateway(world(Echo("two words")), Cascade(), out=tmp_path / "record")
    with listening(gateway) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        told = client.chat.completions.create(model="cascade", messages=[{"role": "user", "content": "hello"}])
        assert told.choices[0].message.content == "two words" and told.choices[0].finish_reason == "stop"
        pieces = client.chat.completions.create(model="cascade", messages=[{"role": "user", "content": "hello"}], stream=True)
        assert [piece.choices[0].delta.content for piece in pieces] == ["two", " words", None]
        assert [model.id for model in client.models.list()] == ["cascade"]
        with pytest.raises(openai.BadRequestError, match="the last one must be the user's"):
            client.chat.completions.create(model="cascade", messages=[{"role": "system", "content": "hello"}])
        assert httpx.get(f"{url}/health").json() == {"status": "ok", "policy": "cascade", "open": 0}
        metrics = httpx.get(f"{url}/metrics").text
        assert "airloom_answered 2\n" in metrics and "airloom_remote_rate 0.0\n" in metrics
    record = load(tmp_path / "record")
    assert record.header["clock"] == "measured" and [point["answered"] for point in record.points] == [1, 2] and record.status == "done"
    assert all(0 <= point["first_s"] <= point["latency_s"] for point in record.points) and "accuracy" not in record.points[-1]


def test_a_doubtful_device_hands_on_and_a_dead_cloud_falls_back() -> None:
    gateway = Gateway(world(Echo("here", confidence=0.1)), Cascade())
    reply = gateway.answer("hello", 0)
    assert (reply.text, reply.where, reply.is_fallback) == ("from the cloud", "cloud", False)
    gateway.close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = Remote(url=f"http://127.0.0.1:{free.getsockname()[1]}/v1", model="x", timeout_s=5.0)
    for service in (Cascade(), Vote(agents=3), CloudOnly()):
        gateway = Gateway(world(Echo("here", confidence=0.1)), service, cloud=dead)
        reply = gateway.answer("hello", 0)
        assert reply.text == "here" and reply.is_fallback
        gateway.close()


def test_a_cloud_that_is_too_slow_falls_back_within_the_time_out() -> None:
    gateway = Gateway(world(Echo("here", confidence=0.1), Echo("late", wait_s=20.0)), Cascade(timeout_s=0.2))
    began_s = time.monotonic()
    assert gateway.answer("hello", 0).text == "here" and time.monotonic() - began_s < 10.0
    gateway.close()


class Talker(BaseHTTPRequestHandler):
    """A server that says given things, one after the other, and then the last one again."""

    bodies: ClassVar[list[bytes]]

    def said(self, question: bytes) -> bytes:
        return self.bodies.pop(0) if len(self.bodies) > 1 else self.bodies[0]

    def do_POST(self) -> None:
        body = self.said(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


@contextmanager
def cloud_at(handler: type[BaseHTTPRequestHandler]) -> Iterator[Remote]:
    """A server of these answers, as the gateway sees it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Remote(url=f"http://127.0.0.1:{server.server_port}/v1", model="x", timeout_s=20.0)
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def saying(*bodies: bytes) -> Iterator[Remote]:
    with cloud_at(type("Handler", (Talker,), {"bodies": list(bodies)})) as cloud:
        yield cloud


def test_a_cloud_that_answers_nonsense_falls_back() -> None:
    with saying(b'{"choices": []}') as cloud:
        gateway = Gateway(world(Echo("here", confidence=0.1)), Cascade(), cloud=cloud)
        assert gateway.answer("hello", 0).is_fallback
        gateway.close()


@pytest.mark.parametrize("body", [b"", b"hello", b"[]", b'{"choices": "none"}', b'{"choices": [{"message": {"content": "4"}}], "usage": [3]}'])
def test_nonsense_is_named_not_raised_raw(body: bytes) -> None:
    with saying(body) as cloud, pytest.raises(RunFailed, match="instead of an answer"):
        cloud.answer("2+2=", ())


def test_a_cloud_that_counts_tokens_otherwise_each_time_is_billed_by_what_it_says() -> None:
    def body(tokens: int) -> bytes:
        return json.dumps({"choices": [{"message": {"content": "4"}}], "usage": {"completion_tokens": tokens}}).encode()

    with saying(body(1), body(100)) as cloud:  # another tokenizer from one answer to the next
        gateway = Gateway(world(Echo("here")), CloudOnly(), cloud=cloud)
        bills = []
        for _ in range(2):
            before = gateway.world.price
            assert gateway.answer("2+2=", 0).text == "4"
            bills.append(gateway.world.price - before)
        gateway.close()
    assert bills[1] - bills[0] == pytest.approx(99 * 10e-6)  # the scenario's price of 99 more tokens


def test_one_gateway_is_the_cloud_of_another_and_the_key_is_not_shown() -> None:
    upper = Gateway(world(Echo("from above")), Cascade())
    with listening(upper) as url:
        cloud = cloud_of({"AIRLOOM_CLOUD_URL": f"{url}/v1/", "AIRLOOM_CLOUD_KEY": "secret"}, 30.0)
        assert cloud is not None and "secret" not in repr(cloud)
        lower = Gateway(world(Echo("here", confidence=0.1)), Cascade(), cloud=cloud)
        assert lower.answer("hello", 0).text == "from above"
        lower.close()


def test_more_than_the_most_are_refused_and_the_others_answered() -> None:
    gate = threading.Event()
    gateway = Gateway(world(Held(gate=gate)), Cascade(), most=2)
    with listening(gateway) as url:
        codes: list[int] = []
        threads = [threading.Thread(target=lambda: codes.append(ask(url).status_code)) for _ in range(8)]
        for thread in threads:
            thread.start()
        waited_s = 0.0
        while len(codes) < 6 and waited_s < 60:  # two are held, whoever comes meanwhile is refused
            time.sleep(0.05)
            waited_s += 0.05
        gate.set()
        for thread in threads:
            thread.join(60)
        assert sorted(codes) == [200] * 2 + [429] * 6 and gateway.refused == 6
        assert ask(url).status_code == 200  # and then it goes on
    gateway.open = 2
    with pytest.raises(Busy, match="at most 2 are taken"):
        gateway.admit()


def test_a_client_is_not_kept_waiting_beyond_the_limit() -> None:
    gateway = Gateway(world(Echo("slow", wait_s=5.0)), Cascade(), timeout_s=0.3)
    with listening(gateway) as url:
        answer = ask(url)
        assert answer.status_code == 504 and answer.json()["error"]["type"] == "timeout"


def test_a_client_that_goes_away_is_noticed() -> None:
    gateway = Gateway(world(Echo("slow", wait_s=3.0)), Cascade())
    with listening(gateway) as url:
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{url}/v1/chat/completions", json={"messages": [{"role": "user", "content": "hello"}]}, timeout=0.3)
        end_s = time.monotonic() + 30
        while not gateway.left and time.monotonic() < end_s:
            time.sleep(0.05)
        assert gateway.left == 1


@contextmanager
def slow_client(url: str) -> Iterator[socket.socket]:
    """A client that has sent the head and a part of the body of a request."""
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=60) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % len(message()) + message()[:10])
        yield client


def test_slow_clients_keep_nobody_waiting_and_are_given_up() -> None:
    gateway = Gateway(world(Echo("here")), Cascade(), most=1, timeout_s=3.0)
    with listening(gateway) as url, slow_client(url) as slow, slow_client(url) as slower:
        assert ask(url).status_code == 200  # although there is room for one request only
        slow.sendall(message()[10:])
        assert slow.recv(4096).startswith(b"HTTP/1.1 200")
        assert slower.recv(4096).startswith(b"HTTP/1.1 408")
        with slow_client(url):
            pass  # breaks off
        end_s = time.monotonic() + 30
        while not gateway.left and time.monotonic() < end_s:
            time.sleep(0.05)
        assert gateway.left == 1 and gateway.open == 0 and ask(url).status_code == 200


def test_the_boundary_keeps_values_here_and_puts_them_back() -> None:
    heard: list[str] = []

    @dataclass(frozen=True)
    class Listener(Solver):
        def answer(self, question: str, notes: tuple[str, ...]) -> Answer:
            heard.append(question)
            return Answer(f"re: {question}", 1.0, 4)

    gateway = Gateway(world(Echo("here"), Listener()), CloudOnly(), level=2)
    question = "order W1234567 and {ORDER_1} to ann@mail.example"
    assert gateway.answer(question, 0).text == f"re: {question}"
    assert heard == ["order {ORDER_1} and {LITERAL_1} to {EMAIL_1}"] or "W1234567" not in heard[0]
    assert "ann@" not in heard[0]
    gateway.close()


def test_a_draft_that_goes_to_the_cloud_as_a_note_passes_the_boundary_too() -> None:
    heard: list[str] = []

    @dataclass(frozen=True)
    class Reader(Solver):
        def answer(self, question: str, notes: tuple[str, ...]) -> Answer:
            heard.extend((question, *notes))
            return Answer(" / ".join(notes), 1.0, 4)

    gateway = Gateway(world(Echo("refund W7654321 to ann@mail.example"), Reader()), DraftRefine(), level=2)
    assert gateway.answer("order W1234567", 0).text == "refund W7654321 to ann@mail.example"
    assert heard == ["order {ORDER_1}", "refund {ORDER_2} to {EMAIL_1}"]
    gateway.close()


class Shop(Talker):
    """An OpenAI-compatible server whose model is the scripted planner, or one that babbles."""

    heard: ClassVar[list[list[dict[str, str]]]] = []
    is_sober = True

    def said(self, question: bytes) -> bytes:
        messages = json.loads(question)["messages"]
        self.heard.append(messages)
        plan = Planner(reply_tokens=4).answer(messages[-1]["content"], ()).text if self.is_sober else '{"actions": "all of them"}'
        return json.dumps({"choices": [{"message": {"role": "assistant", "content": f"Here is my plan:\n{plan}"}}]}).encode()


@contextmanager
def shop(*, is_sober: bool = True) -> Iterator[Remote]:
    handler = type("Handler", (Shop,), {"heard": [], "is_sober": is_sober})
    with cloud_at(handler) as cloud:
        yield cloud
    Shop.heard[:] = handler.heard  # type: ignore[attr-defined]


ORDER = record("W0000017")
WISH = f"Hello, I am {ORDER['name']}. Please refund order W0000017 and write to {ORDER['email']}."


def test_paac_settles_a_real_request_and_the_cloud_sees_placeholders_only(tmp_path: Path) -> None:
    with shop() as cloud:
        gateway = Gateway(helpdesk(seed=0, devices=1), PAAC(level=3), cloud=cloud, out=tmp_path / "record")
        with listening(gateway) as url:
            told = ask(url, messages=[{"role": "user", "content": WISH}])
            assert told.json()["choices"][0]["message"]["content"] == f"{done('refund', ORDER)}; {done('notify', ORDER)}"
            metrics = httpx.get(f"{url}/metrics").text
            assert "airloom_leakage 0.0\n" in metrics and "airloom_withheld_total 0\n" in metrics
    assert len(Shop.heard) == 3 and all(messages[0]["role"] == "system" and "find_order" in messages[0]["content"] for messages in Shop.heard)
    assert not [value for messages in Shop.heard for value in ORDER.values() if value in messages[1]["content"]]
    point = load(tmp_path / "record").points[-1]
    assert (point["private"], point["leaked"], point["turns"], point["is_fallback"]) == (5, 0, 3, 0)


def test_a_planner_that_babbles_or_is_dead_settles_nothing() -> None:
    with shop(is_sober=False) as cloud:
        gateway = Gateway(helpdesk(seed=0, devices=1), PAAC(), cloud=cloud)
        reply = gateway.answer(WISH, 0)
        assert (reply.text, reply.is_fallback) == ("nothing was done", True)
        gateway.close()
    gateway = Gateway(helpdesk(seed=0, devices=1), PAAC(), cloud=cloud)  # it listens no longer
    assert gateway.answer(WISH, 0).is_fallback
    gateway.close()


def test_what_cannot_be_sanitized_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registry, "sanitize", lambda self, text: text if isinstance(text, Sanitized) else Sanitized(text))  # a fault
    with shop() as cloud:
        gateway = Gateway(helpdesk(seed=0, devices=1), PAAC(level=2), cloud=cloud)
        with listening(gateway) as url:
            told = ask(url, messages=[{"role": "user", "content": WISH}])
            assert told.status_code == 403 and told.json()["error"]["type"] == "privacy_boundary" and "W0000017" not in told.text
            assert "airloom_withheld_total 1\n" in httpx.get(f"{url}/metrics").text
        gateway = Gateway(world(Echo("here", confidence=0.1)), Cascade(), cloud=cloud, level=2)
        assert gateway.answer("order W1234567", 0).is_fallback and gateway.withheld == 1
        gateway.close()
    assert Shop.heard == []


def message(**changes: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "x"} | changes]}).encode()


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"hello", "no JSON"),
        (b"[]", "got none"),
        (b"{}", "got none"),
        (b'{"messages": []}', "got none"),
        (b'{"messages": [3]}', "no {role, content}"),
        (message(content=[1]), "no {role, content}"),
        (message(content=""), "not empty"),
        (message(role="assistant"), "the user's"),
        (b'{"n": 2, ' + message()[1:], "allowed is 1"),
        (message(content=[]), "no {role, content}"),
        (message(content=[{"type": "image_url", "image_url": {"url": "x"}}]), "images and tools are left out"),
        (b'{"tools": [{"type": "function"}], ' + message()[1:], "calls no tools"),
    ],
)
def test_malformed_requests_are_refused_in_words(raw: bytes, told: str) -> None:
    with pytest.raises(ScenarioError, match=told):
        read(raw)


def test_texts_in_parts_are_texts() -> None:
    parts = [{"type": "text", "text": "1+"}, {"type": "text", "text": "1="}]
    raw = json.dumps({"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": parts}]}).encode()
    assert read(raw) == ("1+1=", 7, False)


def test_a_wrong_path_is_told_in_the_form_of_the_interface() -> None:
    with listening(Gateway(world(Echo()), Cascade())) as url:
        for got, status in ((httpx.get(f"{url}/v1/embeddings"), 404), (httpx.get(f"{url}/v1/chat/completions"), 405)):
            assert got.status_code == status and "there is POST /v1/chat/completions" in got.json()["error"]["message"]


def test_a_request_that_is_too_long_or_not_understood_is_the_clients_fault() -> None:
    gateway = Gateway(assistant(seed=0, devices=1, base_stations=1, requests=1), Cascade())
    with listening(gateway) as url:
        assert ask(url, messages=[{"role": "user", "content": "x" * (2 << 20)}]).status_code == 413
        assert ask(url, messages=[{"role": "user", "content": "3+4="}]).json()["choices"][0]["message"]["content"] == "7"
        assert ask(url).status_code == 400  # the tiny model reads arithmetic only


@pytest.mark.parametrize(
    ("fields", "message"), [({"most": 0}, "most >= 1"), ({"timeout_s": 0.0}, "seconds > 0"), ({"level": 4}, "level 0 to 3")]
)  # fmt: skip
def test_bad_settings(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        Gateway(world(Echo()), Cascade(), **fields)


@pytest.mark.parametrize(("policy", "service"), [("gapg:steps=2,prompts=4", GAPG()), ("critique_routing:steps=1,prompts=2", CritiqueRouting())])
def test_what_a_run_has_learned_answers_real_requests(policy: str, service: Assistant, tmp_path: Path) -> None:
    small = {"scenario.devices": 1, "scenario.base_stations": 1, "scenario.requests": 1}
    run = airloom.run(policy, scenario="assistant", set=small, out=tmp_path / "run", executor="loop")
    learned = policy_of(tmp_path / "run", service)
    assert learned.digest() == run.model.digest()
    gateway = Gateway(assistant(seed=0, devices=1, base_stations=1, requests=1), service, policy=learned)
    try:
        found, _, _ = gateway.world.run(service.theta, "phone0", ())  # type: ignore[attr-defined]
        assert found.digest() == learned.digest() and gateway.answer("2+3=", 0).text in map(str, range(100))
    finally:
        gateway.close()
    with pytest.raises(ScenarioError, match=r"allowed is a run of airloom\.serving\.cascade"):
        policy_of(tmp_path / "run", Cascade())
    with pytest.raises(ScenarioError, match="cascade learns nothing"):
        Gateway(world(Echo()), Cascade(), policy=learned)


def test_services_that_learn_first_are_refused_and_so_is_a_bad_address() -> None:
    with pytest.raises(ScenarioError, match="gapg trains first"):
        Gateway(world(Echo()), GAPG())
    with pytest.raises(ScenarioError, match="nobody plans at 'cloud'; use --scenario helpdesk"):
        Gateway(world(Echo()), PAAC())
    with pytest.raises(ScenarioError, match="has a boundary of its own"):
        Gateway(helpdesk(seed=0, devices=1), PAAC(), level=2)
    with pytest.raises(ScenarioError, match="AIRLOOM_CLOUD_URL: got 'ftp://x'"):
        cloud_of({"AIRLOOM_CLOUD_URL": "ftp://x"}, 1.0)
    assert cloud_of({}, 1.0) is None
