"""Star methods on machines: the same numbers as in simulation, and losses as there."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from airloom.engines.host import Host, Packet
from airloom.errors import RunFailed, Unsupported
from airloom.methods.centralized import Centralized
from airloom.methods.ditto import Ditto
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedbuff import FedBuff
from airloom.methods.fedopt import FedOpt
from airloom.methods.fedper import FedPer
from airloom.methods.fedprox import FedProx
from airloom.methods.local_only import LocalOnly
from airloom.methods.mtgc import MTGC
from airloom.methods.scaffold import Scaffold
from airloom.methods.sequential_fl import SequentialFL
from airloom.network.churn import TraceChurn
from airloom.parts.codec import QSGD, Half, RandomK, TopK
from airloom.parts.select import Weighted
from airloom.program.codec import Code
from airloom.program.method import Method
from airloom.program.tree import map_leaves
from airloom.scenarios.phones import phones
from tests.conformance.test_methods import METHODS, make
from tests.stars import HURRY, Local, simulated_run, star_run, star_scenario

SCENARIO = star_scenario()
SMALL: dict[str, Any] = {"local_steps": 3, "batch_size": 8}
STARS = [
    FedAvg(**SMALL),
    FedAvg(**SMALL, fraction=0.5, weights="equal"),
    FedProx(**SMALL),
    FedOpt(**SMALL),
    Scaffold(**SMALL),
    Scaffold(**SMALL, fraction=0.5),
    FedBuff(**SMALL, buffer=4),
    LocalOnly(**SMALL),
    SequentialFL(**SMALL),
    SequentialFL(**SMALL, hops="relayed"),
    Centralized(local_steps=3, batch_size=8),
]


@pytest.mark.parametrize("method", STARS, ids=lambda m: type(m).__name__)
def test_parity_with_the_simulator_is_exact(method: Method) -> None:
    local = Local(SCENARIO, method, 1, ["m0", "m1", "m2"])
    local.at_once = 1  # in turn, as in the simulation of equal devices: FedBuff depends on the order of arrival
    real, star = star_run(SCENARIO, method, transport=local)
    simulated = simulated_run(SCENARIO, method)
    assert digest(real.model) == digest(simulated.model)
    assert [p["round"] for p in real.points] == [p["round"] for p in simulated.points]
    for name in ("accuracy", "loss"):
        assert [p.get(name) for p in real.points] == [p.get(name) for p in simulated.points]
    assert all(machine.loads == 1 for machine in star.machines.values())  # once per machine, not once per message
    if not isinstance(method, FedBuff | SequentialFL):  # FedBuff's last calls are still under way; a chain goes over the server here
        for what in ("bytes_up", "bytes_down"):
            assert real.summary[what] == simulated.summary[what], what


@pytest.mark.parametrize("name", sorted(name for name, cls in METHODS.items() if "flower" in cls.engines))
def test_every_method_that_declares_flower_computes_the_same(name: str) -> None:
    method = make(name)
    scenario = star_scenario(adapts=type(method).adapts)
    local = Local(scenario, method, 1, ["m0", "m1", "m2"])
    local.at_once = 1
    rounds = 1 if name in ("oort", "whale_fl") else 4  # whom they take, and how wide, follows from measured seconds
    real, _ = star_run(scenario, method, transport=local, rounds=rounds)
    simulated = simulated_run(scenario, method, rounds=rounds)
    assert digest(real.model) == digest(simulated.model)
    if name not in ("fedbuff", "sequential_fl"):  # as above
        assert [real.summary[way] for way in ("bytes_up", "bytes_down")] == [simulated.summary[way] for way in ("bytes_up", "bytes_down")]


CODED: list[Method] = [
    *[cls(**SMALL, codec=codec) for cls in (FedAvg, FedOpt, FedPer) for codec in (Half(), QSGD(bits=4), TopK(share=0.1), RandomK(share=0.2))],
    Ditto(**SMALL, codec=TopK(share=0.1)),
    SequentialFL(**SMALL, codec=QSGD(bits=8)),
    FedBuff(**SMALL, buffer=2, codec=TopK(share=0.2)),
]


@pytest.mark.parametrize("method", CODED, ids=lambda m: f"{type(m).__name__}-{type(m.codec).__name__}")
def test_what_a_codec_makes_is_what_is_sent(method: Method) -> None:
    local = Local(SCENARIO, method, 1, ["m0", "m1", "m2"])
    local.at_once = 1
    sizes: list[int] = []

    def note(name: str, packet: Packet) -> Packet:
        if json.loads(packet.head)["kind"] == "done":  # else it may be a personal model that is looked at, off the clock
            sizes.append(len(packet.body))
        return packet

    local.on_answer = note
    real, _ = star_run(SCENARIO, method, transport=local)
    simulated = simulated_run(SCENARIO, method)
    assert digest(real.model) == digest(simulated.model)
    if isinstance(method, FedAvg | FedOpt | FedPer | Ditto):  # others as above
        assert real.summary["bytes_up"] == simulated.summary["bytes_up"]
        assert real.summary["metrics"] == simulated.summary["metrics"]
    assert max(sizes) < SCENARIO.task.model.nbytes + 900  # 900 bytes of head, names and shapes; a model that was sent whole would fail for none
    if isinstance(method.codec, TopK):
        assert max(sizes) < 0.5 * SCENARIO.task.model.nbytes + 900


def test_a_run_with_a_codec_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    method = FedBuff(**SMALL, buffer=2, codec=TopK(share=0.2))
    local = Local(SCENARIO, method, 1, ["c0", "c1", "c2", "c3"], tmp_path)
    star_run(SCENARIO, method, transport=local, rounds=3, out=tmp_path / "run")
    again, _ = star_run(SCENARIO, method, transport=local, rounds=5, out=tmp_path / "run", is_resumed=True)
    assert len(again.points) and again.summary["rounds"] == 5


def test_a_machine_that_sends_a_code_that_is_none_is_barred() -> None:
    method = FedAvg(**SMALL, codec=TopK(share=0.1))
    local = Local(SCENARIO, method, 1, ["c0", "c1", "c2", "c3"])

    def spoil(name: str, packet: Packet) -> Packet:
        if name != "c1" or json.loads(packet.head)["kind"] != "done":
            return packet
        wire = local.hosts[name].wire
        assert wire is not None

        def spoiled(leaf: Any) -> Any:
            if not isinstance(leaf, Code):
                return leaf
            places = leaf.payload["places"].clone()
            places[-1] = 10**6
            return replace(leaf, payload={**leaf.payload, "places": places})

        return packet._replace(body=wire.encode(map_leaves(spoiled, wire.decode(packet.body))))

    local.on_answer = spoil
    with pytest.warns(UserWarning, match="its code cannot be read"):
        run, star = star_run(SCENARIO, method, transport=local, rounds=2)
    assert star.machines["c1"].is_barred and run.points[-1]["clients"] == 3


def digest(model: Any) -> Any:
    return {name: x.digest() for name, x in model.items()} if isinstance(model, dict) else model.digest()


def test_a_machine_per_client_where_names_agree() -> None:
    _, star = star_run(SCENARIO, FedAvg(**SMALL), machines=["c0", "c1", "c2", "c3", "spare"], rounds=1)
    assert {name: machine.places for name, machine in star.machines.items()} == {f"c{i}": [f"c{i}"] for i in range(4)}


def test_clients_behind_base_stations_are_reached_straight() -> None:
    scenario = phones(seed=0, devices=4, base_stations=2)
    real, _ = star_run(scenario, FedAvg(**SMALL, select=Weighted()), rounds=2)
    assert digest(real.model) == digest(simulated_run(scenario, FedAvg(**SMALL, select=Weighted()), rounds=2).model)


def test_what_no_star_can_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"node\.program"):
        star_run(SCENARIO, MTGC(**SMALL))


class Kill(Local):
    """Kills machines when their nth call has been given to them, before it is answered."""

    def plan(self, kills: dict[str, int], back_after: int = 10**9) -> None:
        self.kills, self.calls, self.back_after, self.seen = kills, dict.fromkeys(kills, 0), back_after, 0
        self.on_packet = self.look

    def look(self, name: str, packet: Packet) -> bool:
        if json.loads(packet.head)["kind"] == "call":
            self.seen += 1
            if self.seen == self.back_after:
                for gone in list(self.dead):
                    self.restart(gone)
                    self.dead.discard(gone)
            if name in self.kills:
                self.calls[name] += 1
                if self.calls[name] == self.kills[name]:
                    self.hosts[name].answer(packet)  # it may even have done the work
                    self.dead.add(name)
                    return False
        return True


def test_the_run_goes_on_with_the_survivors() -> None:
    method = FedAvg(**SMALL)
    local = Kill(SCENARIO, method, 1, ["c0", "c1", "c2", "c3"])
    local.plan({"c1": 2, "c3": 2})  # half of the machines, in the second round
    run, star = star_run(SCENARIO, method, transport=local, rounds=4)
    assert [p["clients"] for p in run.points] == [4, 2, 2, 2]
    assert run.status == "budget" and not star.is_present("c1")


@pytest.mark.parametrize("method", [FedAvg(**SMALL), Scaffold(**SMALL)], ids=lambda m: type(m).__name__)
def test_a_simulation_with_the_same_losses_has_the_same_cohorts_and_numbers(method: Method) -> None:
    """c1 is lost while it works in round 1; in simulation it leaves in the middle of that round."""
    local = Kill(SCENARIO, method, 1, ["c0", "c1", "c2", "c3"])
    local.plan({"c1": 2})
    real, _ = star_run(SCENARIO, method, transport=local, rounds=4)
    first_s = simulated_run(SCENARIO, method, rounds=1).summary["seconds"]
    simulated = simulated_run(star_scenario(churn=TraceChurn(changes={"c1": [(1.5 * first_s, False)]})), method, rounds=4)
    assert digest(real.model) == digest(simulated.model)
    assert [p.get("clients") for p in real.points] == [p.get("clients") for p in simulated.points]


@pytest.mark.parametrize("method", [FedAvg(**SMALL), Scaffold(**SMALL), FedBuff(**SMALL, buffer=2)], ids=lambda m: type(m).__name__)
def test_a_returning_machine_is_used_again(method: Method, tmp_path: Path) -> None:
    local = Kill(SCENARIO, method, 1, ["c0", "c1", "c2", "c3"], tmp_path)
    local.plan({"c2": 2}, back_after=9)
    run, star = star_run(SCENARIO, method, transport=local, rounds=30)
    assert star.is_present("c2") and star.places["c2"].taken > 20
    assert run.status == "budget"


def test_an_old_call_is_not_run_when_the_machine_is_back() -> None:
    """The packet that waited for a dead machine is delivered after it has been greeted anew: it is refused."""
    method = FedAvg(**SMALL)
    local = Local(SCENARIO, method, 1, ["c0", "c1", "c2", "c3"])
    lying: list[Any] = []  # in the network

    def look(name: str, packet: Packet) -> bool:
        head = json.loads(packet.head)
        if head["kind"] == "call" and name == "c1" and head["round"] == 1 and not lying:
            local.dead.add(name)
            lying.append((10**6, name, packet))
            return False
        if head["kind"] == "call" and head["round"] == 2 and local.dead:
            local.dead.clear()
        return True

    local.on_packet = look
    refused: list[str] = []

    def see(name: str, answer: Packet) -> Packet:
        if name == "c1" and '"hello"' in answer.head:
            local.sent += lying
        if "earlier process or run" in answer.head:
            refused.append(name)
        return answer

    local.on_answer = see
    run, _ = star_run(SCENARIO, method, transport=local, rounds=20)
    assert refused == ["c1"]
    assert run.points[-1]["clients"] == 4
    drawn = {name: local.hosts[name].clients[name].drawn for name in local.hosts}
    assert drawn["c1"] == drawn["c0"] - 24 * sum(p["clients"] == 3 for p in run.points)  # 3 steps of 8 samples per round it was in


def test_a_lost_call_changes_nothing_at_the_client() -> None:
    """The work was done but the answer never came: when the machine is greeted again its client is as before that call."""
    method = Scaffold(**SMALL)
    local = Local(SCENARIO, method, 1, ["c0", "c1", "c2", "c3"])
    before: dict[str, Any] = {}

    def lose(name: str, answer: Packet) -> Packet | None:
        client = local.hosts[name].clients.get(name)
        if name == "c1" and client is not None and client.round == 1 and "drawn" not in before and '"done"' in answer.head:
            before["drawn"] = client.undo[1] if client.undo else None
            local.dead.add(name)
            return None
        return answer

    def back(name: str, packet: Packet) -> bool:
        head = json.loads(packet.head)
        if head["kind"] == "call" and head["round"] == 2:
            local.dead.clear()
        if name == "c1" and head["kind"] == "call" and head["round"] > 1 and "then" not in before:
            before["then"] = local.hosts["c1"].clients["c1"].drawn
        return True

    local.on_answer, local.on_packet = lose, back
    star_run(SCENARIO, method, transport=local, rounds=100)  # rounds are short: enough of them for a greeting to come in between
    assert before == {"drawn": 24, "then": 24}


def test_nothing_hangs_when_all_are_lost() -> None:
    method = FedAvg(**SMALL)
    local = Kill(SCENARIO, method, 1, ["c0", "c1", "c2", "c3"])
    local.plan(dict.fromkeys(["c0", "c1", "c2", "c3"], 2))
    with pytest.raises(RunFailed, match="all machines are lost in round 2"):
        star_run(SCENARIO, method, transport=local)


def test_nobody_there_is_said() -> None:
    method = FedAvg(**SMALL)
    local = Local(SCENARIO, method, 1, ["c0"])
    local.dead.add("c0")
    with pytest.raises(RunFailed, match="none of its machines"):
        star_run(SCENARIO, method, transport=local)


class _Stop(Exception):
    pass


@pytest.mark.parametrize("method", [FedAvg(**SMALL), Scaffold(**SMALL), FedOpt(**SMALL), LocalOnly(**SMALL)], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("call", [9, 11, 12])
def test_resume_continues_from_the_last_round(method: Method, call: int, tmp_path: Path) -> None:
    """The server dies in the middle of round 2 (calls 9 to 12); another one goes on and ends with the same bits."""
    whole, _ = star_run(SCENARIO, method, rounds=5)
    local = Local(SCENARIO, method, 1, ["c0", "c1", "c2", "c3"], tmp_path)
    seen = []

    def die(name: str, answer: Packet) -> Packet | None:
        if '"done"' in answer.head:
            seen.append(name)
            if len(seen) == call:
                raise _Stop
        return answer

    local.on_answer = die
    out = tmp_path / "run"
    with pytest.raises(RunFailed, match="_Stop"):
        star_run(SCENARIO, method, transport=local, rounds=5, out=out)
    local.on_answer = lambda _name, answer: answer
    local.sent.clear()
    local.restart("c3")  # and one machine starts anew; what it keeps lies on its disk
    if isinstance(method, LocalOnly):
        local.hosts["c3"].held |= {}
        return
    again, _ = star_run(SCENARIO, method, transport=local, rounds=5, out=out, is_resumed=True)
    assert digest(again.model) == digest(whole.model)
    assert {name: again.summary[name] for name in ("bytes_up", "bytes_down")} == {name: whole.summary[name] for name in ("bytes_up", "bytes_down")}


def test_what_a_client_keeps_lies_in_files_of_its_owner_only(tmp_path: Path) -> None:
    method = Scaffold(**SMALL)
    star_run(SCENARIO, method, transport=Local(SCENARIO, method, 1, ["c0", "c1", "c2", "c3"], tmp_path), rounds=2)
    files = list(tmp_path.rglob("*.state"))
    assert len(files) == 4 and all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)


@pytest.mark.parametrize(
    "tamper",
    [
        lambda p: p._replace(head="{"),
        lambda p: p._replace(head="[]"),
        lambda p: p._replace(head=json.dumps({**json.loads(p.head), "busy_s": -1})),
        lambda p: p._replace(head=json.dumps({**json.loads(p.head), "spent": []})),
        lambda p: p._replace(body=b""),
        lambda p: p._replace(body=p.body[:-8]),
        lambda p: p._replace(head=json.dumps({**json.loads(p.head), "kind": "got"})),
    ],
)  # fmt: skip
def test_a_machine_that_sends_nonsense_is_left_out(tamper: Any) -> None:
    method = FedAvg(**SMALL)
    local = Local(SCENARIO, method, 1, ["c0", "c1", "c2", "c3"])
    local.on_answer = lambda name, answer: tamper(answer) if name == "c2" and '"done"' in answer.head else answer
    with pytest.warns(UserWarning, match="'c2' is left out from now on"):
        run, _ = star_run(SCENARIO, method, transport=local, rounds=3)
    assert [p["clients"] for p in run.points] == [3, 3, 3]


def test_values_of_another_shape_are_refused() -> None:
    method = FedAvg(**SMALL)
    local = Local(SCENARIO, method, 1, ["c0", "c1", "c2", "c3"])
    local.hosts["c2"].answer = lambda packet, host=local.hosts["c2"]: other(Host.answer(host, packet), host)  # type: ignore[method-assign]

    def other(answer: Packet, host: Host) -> Packet:
        assert host.wire is not None
        return answer._replace(body=host.wire.encode([{"x": torch.zeros(3), "loss": 0.0}])) if '"done"' in answer.head else answer

    with pytest.raises(RunFailed):  # a tensor is no model of this size: folding refuses it
        star_run(SCENARIO, method, transport=local, rounds=3)


# --- a host against strangers ------------------------------------------------------------------------------------------------------------


def host_with_run() -> tuple[Host, dict[str, Any]]:
    method = FedAvg(**SMALL)
    host = Local(SCENARIO, method, 1, ["c0"]).hosts["c0"]
    hello = {"kind": "hello", "run": "a1", "round": 0, "places": ["c0"], "taken": {}, "keep": {}, "job": {}}
    said = json.loads(host.answer(Packet(json.dumps(hello))).head)
    assert host.wire is not None and said["loads"] == 1
    x = SCENARIO.task.model.initial(0)
    head = {
        "kind": "call", "run": "a1", "epoch": said["epoch"], "number": 1, "place": "c0", "round": 0, "kept": None, "drop": [], "wants": [[]],
    }  # fmt: skip
    return host, {"head": head, "body": {"fn": method.client, "each": (x,), "values": []}}


TARGET = host_with_run()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": "x"}, "earlier process or run"),
        ({"run": "x"}, "earlier process or run"),
        ({"place": "c1"}, "does not live here"),
        ({"number": "1"}, "'number' is a str"),
        ({"wants": None}, "'wants' is a NoneType"),
        ({"kind": "run"}, "unknown kind"),
        ({"wants": [["nothing"]]}, "KeyError"),
    ],
)
def test_a_bad_call_is_refused_and_changes_nothing(change: dict[str, Any], words: str) -> None:
    host, call = host_with_run()
    assert host.wire is not None
    answer = json.loads(host.answer(Packet(json.dumps({**call["head"], **change}), host.wire.encode(call["body"]))).head)
    assert answer["kind"] == "error" and words in f"{answer['type']}: {answer['message']}"
    client = host.clients["c0"]
    assert (client.state, client.drawn, client.number, host.held) == ({}, 0, 0, {})
    assert json.loads(host.answer(Packet(json.dumps(call["head"]), host.wire.encode(call["body"]))).head)["kind"] == "done"


heads = st.dictionaries(
    st.sampled_from(["kind", "run", "epoch", "number", "place", "round", "kept", "drop", "wants", "job", "places", "taken", "keep"]),
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.sampled_from(["call", "get", "hello", "ping", "a1", "c0"]),
        st.lists(st.one_of(st.integers(), st.text(max_size=3), st.lists(st.text(max_size=3), max_size=2)), max_size=3),
        st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    ),
    max_size=8,
)  # fmt: skip


@given(heads, st.one_of(st.binary(max_size=200), st.just(b"")), st.booleans())
@settings(max_examples=200, deadline=None)
def test_whatever_a_host_is_sent_it_answers_and_keeps_its_state(head: dict[str, Any], body: bytes, is_close: bool) -> None:
    """Heads close to real ones, with any body: no crash, and without a good body nothing changes."""
    host, call = TARGET
    packet = Packet(json.dumps({**call["head"], **head} if is_close else head), body)
    before = {name: (dict(client.state), client.drawn, client.number) for name, client in host.clients.items()}
    answer = json.loads(host.answer(packet).head)
    assert answer["kind"] in ("error", "ping", "hello")
    if answer["kind"] != "hello":
        assert {name: (client.state, client.drawn, client.number) for name, client in host.clients.items()} == before
        assert not host.held


def test_a_result_that_is_not_finite_changes_nothing() -> None:
    host, call = host_with_run()
    assert host.wire is not None
    call["body"]["each"] = (call["body"]["each"][0] * 1e30,)
    answer = json.loads(host.answer(Packet(json.dumps(call["head"]), host.wire.encode(call["body"]))).head)
    assert answer["kind"] == "error" and "not finite" in answer["message"]
    assert host.clients["c0"].drawn == 0


def test_an_unsigned_message_is_refused() -> None:
    def verify(signature: bytes, signed: bytes) -> None:
        if signature != b"server":
            raise ValueError

    host = Host(lambda job: pytest.fail("nothing may be loaded"), verify)
    answer = json.loads(host.answer(Packet(json.dumps({"kind": "hello"}), signature=b"other")).head)
    assert "signature is not the server's" in answer["message"]


def test_nothing_waits_longer_than_it_must() -> None:
    assert HURRY.patience_s < 1
