"""Hand cases of the simulated engine. Every expected number is derived in the comment above it; byte counts are part of each case."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from airloom.engines.simnode import SimNode
from airloom.errors import DeviceLost, DoesNotFit, RunFailed, ScenarioError
from airloom.network.cell import Cell
from airloom.network.churn import TraceChurn
from airloom.program.here import Here
from airloom.program.reducer import SUM
from tests.worlds import body, device, echo, play, start, work, world


def pull(node: SimNode, name: str) -> float:
    node.fetch(node.call(work, name, 0.0, 1_000_000))
    return node.now_s


def ask(node: SimNode, wait_s: float) -> float:
    node.sleep(wait_s)
    node.fetch(node.call(work, "hub", 2.0))
    return node.now_s


def writer(node: SimNode) -> None:
    node.sleep(10.0)
    node.fetch(node.call(write_at, "hub", 1.0))


def reader(node: SimNode) -> float:
    node.sleep(1.0)
    return node.fetch(node.call(read_it, "hub"))


def group(node: SimNode) -> float:
    node.fetch(node.map(work, node.children, 10.0))
    return node.now_s


STAR = world({("a", "hub"): 1e6, ("b", "hub"): 1e6})


def test_one_call_pays_down_compute_and_up() -> None:
    # 1 MB down at 1 MB/s, 2 s of compute, 0.5 MB up: 1 + 2 + 0.5
    def text(node: SimNode) -> Any:
        ref = node.call(work, "a", 2.0, 500_000, body(1_000_000))
        node.fetch(ref)
        return node.now_s, ref.started_s, ref.made_s, ref.arrived_s

    played = play(STAR, text)
    assert played.value == pytest.approx((3.5, 1.000016, 3.000016, 3.500016), abs=2e-5)
    stamp = played.sim.stamp()
    # two numbers ride with the message: 16 bytes
    assert (stamp["bytes_down"], stamp["bytes_up"]) == (1_000_016, 500_000)
    # 2 W for 2 s; idle 0.5 W: two devices for the whole time
    assert stamp["joules"] == pytest.approx(4.0)
    assert stamp["joules_idle"] == pytest.approx(0.5 * 2 * played.sim.kernel.now)


def test_latency_counts_after_the_last_bit_and_is_paid_by_every_remote_call() -> None:
    network = world({("a", "hub"): 1e6}, latency_s=0.25)

    # nothing to carry but None: latency down, latency up
    def text(node: SimNode) -> float:
        node.fetch(node.call(echo, "a", None))
        return node.now_s

    assert play(network, text).value == pytest.approx(0.5)

    # 1 MB each way: 1 + 0.25 + 1 + 0.25
    def heavy(node: SimNode) -> float:
        node.fetch(node.call(echo, "a", body(1_000_000)))
        return node.now_s

    assert play(network, heavy).value == pytest.approx(2.5)


def cell_world() -> Any:
    cell = Cell(name="cell", bandwidth_hz=8e6, sharing="tdma")
    return world({("a", "hub"): cell, ("b", "hub"): cell, ("c", "hub"): cell})


def test_a_cell_is_shared_exactly() -> None:
    # 8 Mbit/s. A 1 MB at 0, B 1 MB and C 0.25 MB at 0.5. At 0.5 A has 0.5 MB left; three share: C's 0.25 MB take 0.75 s: C at 1.25.
    # Then A has 0.25, B 0.75 MB left, two share: A after 0.5 s at 1.75; B then alone with 0.5 MB: 2.25.
    def text(node: SimNode) -> list[float]:
        refs = [node.call(work, "a", 0.0, 1_000_000), node.call(work, "b", 0.5, 1_000_000), node.call(work, "c", 0.5, 250_000)]
        node.fetch(refs)
        return [ref.arrived_s for ref in refs]  # type: ignore[misc]

    # no down-link cost for the two numbers: measured from arrival, so make it free
    network = cell_world()
    free = type(network)(places=network.places, links=network.links, downlink="free")
    played = play(free, text)
    assert played.value == pytest.approx([1.75, 2.25, 1.25], abs=1e-12)
    assert played.sim.stamp()["bytes_up"] == 2_250_000
    assert played.sim.stamp()["bytes_down"] == 0


def test_two_programs_that_share_a_cell_wait_for_each_other() -> None:
    # the case in which a clock per program goes wrong: two edge programs, each pulls 1 MB over one 8 Mbit/s cell: 2 s each, not 1
    cell = Cell(name="cell", bandwidth_hz=8e6, sharing="tdma")
    network = world({("e", "hub"): 1e12, ("a", "e"): cell, ("b", "e"): cell}, downlink="free")

    def text(node: SimNode) -> list[float]:
        return node.fetch([node.program("e", pull, "a"), node.program("e", pull, "b")])

    assert play(network, text).value == pytest.approx([2.0, 2.0], abs=1e-6)


def test_a_busy_server_serves_in_order_of_arrival_not_of_issue() -> None:
    # 2 s of service; a's request arrives at 5, b's at 1; a is issued first: a ends at 7, b at 3

    def text(node: SimNode) -> list[float]:
        return node.fetch([node.program("hub", ask, 5.0), node.program("hub", ask, 1.0)])

    assert play(STAR, text).value == pytest.approx([7.0, 3.0])


def write_at(here: Here, value: float) -> None:
    here.cost(seconds=0.0)
    here.state["v"] = value


def read_it(here: Here) -> float:
    here.cost(seconds=0.0)
    return here.state.get("v", 0.0)


def test_a_program_never_reads_state_from_the_future() -> None:
    # one writes the hub's state at t=10, the other reads it at t=1 and is issued later

    def text(node: SimNode) -> Any:
        return node.fetch([node.program("hub", writer), node.program("hub", reader)])

    assert play(STAR, text).value == [None, 0.0]


def test_first_leaves_the_others_flying_and_charged() -> None:
    # four uploads of 1 MB in one 8 Mbit/s cell; the first to arrive stops the wait, but all four were on the air: at 4 s all arrive together
    cell = Cell(name="cell", bandwidth_hz=8e6, sharing="tdma")
    network = world({(name, "hub"): cell for name in "abcd"}, downlink="free")

    def text(node: SimNode) -> Any:
        refs = node.map(work, list("abcd"), 0.0, 1_000_000)
        arrived, rest, lost = node.first(refs, 1)
        return node.now_s, len(arrived), len(rest), len(lost)

    played = play(network, text)
    assert played.value == (pytest.approx(4.0), 1, 3, 0)
    assert played.sim.stamp()["bytes_up"] == pytest.approx(4_000_000)


def test_asking_twice_for_a_flying_value_is_charged_once() -> None:
    def text(node: SimNode) -> float:
        refs = node.map(work, ["a", "b"], 0.0, each=[(1_000_000,), (2_000_000,)])
        _, rest, _ = node.first(refs, 1)
        node.first(rest, 1, timeout_s=0.25)  # gives up, asks again below
        node.fetch(rest)
        node.fetch(refs)
        return node.now_s

    played = play(STAR, text)
    assert played.value == pytest.approx(2.0, abs=1e-4)
    assert played.sim.stamp()["bytes_up"] == 3_000_000


def split_front(here: Here, batch: int) -> torch.Tensor:
    here.cost(seconds=1.0)
    here.state["order"] = here.state.get("order", "") + f"f{batch} "
    return body(1_000_000)


def split_mid(here: Here, h: torch.Tensor) -> torch.Tensor:
    here.cost(seconds=0.5)
    return body(1_000_000)


def split_back(here: Here, g: torch.Tensor, batch: int) -> str:
    here.cost(seconds=1.0)
    here.state["order"] = here.state["order"] + f"b{batch} "
    return here.state["order"]


def test_calls_of_one_program_at_one_device_run_in_issue_order() -> None:
    # split learning: front 1 s, up 1 s, server 0.5 s, down 1 s, back 1 s = 4.5 s a batch; three batches issued at once: 13.5 s.
    # In order of arrival the forward of batch 1 would overtake the backward of batch 0: another algorithm.
    def text(node: SimNode) -> Any:
        for b in range(3):
            h = node.call(split_front, "a", b)
            g = node.call(split_mid, "hub", h)
            last = node.call(split_back, "a", g, b)
        return node.fetch(last), node.now_s

    order, now = play(STAR, text).value
    assert order == "f0 b0 f1 b1 f2 b2 "
    assert now == pytest.approx(13.5, abs=1e-3)


def test_a_pipeline_equals_the_flow_shop() -> None:
    # two jobs over device (2 s), up-link (1 s), server (3 s): C = 2,3,6 then 4,5,9
    def text(node: SimNode) -> float:
        node.fetch([node.call(work, "hub", 3.0, 0, node.call(work, "a", 2.0, 1_000_000)) for _ in range(2)])
        return node.now_s

    assert play(STAR, text).value == pytest.approx(9.0, abs=1e-4)


def test_compute_and_radio_overlap() -> None:
    # 2 s of work, 1 MB (1 s) up while 2 s of more work run: the second value is there at 2 + 2 = 4 s (its None needs no time), not 5
    def text(node: SimNode) -> float:
        sent = node.call(work, "a", 2.0, 1_000_000)
        more = node.call(work, "a", 2.0)
        node.fetch([sent, more])
        return node.now_s

    assert play(STAR, text).value == pytest.approx(4.0, abs=1e-4)


def test_resources_of_a_device_run_side_by_side_and_fillers_take_idle_slots() -> None:
    def text(node: SimNode) -> Any:
        cpu = node.call(work, "hub", 3.0)
        disk = node.call(work, "hub", 2.0, on="disk")
        filler = node.call(work, "hub", 1.0, priority=-1)
        urgent = node.call(work, "hub", 1.0)
        node.fetch([cpu, disk, filler, urgent])
        return [ref.made_s for ref in (cpu, disk, filler, urgent)]

    # disk beside cpu; urgent (issued later) goes before the filler
    assert play(STAR, text).value == [3.0, 2.0, 5.0, 4.0]


def test_a_handler_needs_no_resource() -> None:
    def text(node: SimNode) -> Any:
        busy = node.call(work, "a", 10.0)
        answer = node.call(start, "a", on=None)
        return node.fetch(answer), node.now_s < 1.0, node.fetch(busy)

    assert play(STAR, text).value[1:] == (True, None)


def test_put_is_sent_to_each_place_once() -> None:
    def text(node: SimNode) -> None:
        y = node.put(body(1_000_000))
        for _ in range(3):
            node.fetch(node.map(work, ["a", "b"], 0.0, 0, y))

    played = play(STAR, text)
    assert played.sim.stamp()["bytes_down"] == 2_000_000  # scalars beside a Ref send no message of their own


def make_parts(here: Here) -> dict[str, Any]:
    here.cost(seconds=0.0)
    return {"x": body(1_000), "y": [body(200), body(30)], "n": 3.0, "done": None}


def test_parts_of_a_value_move_alone_and_never_twice() -> None:
    def text(node: SimNode) -> Any:
        ref = node.call(make_parts, "a")
        seen = [node.sim.stamp()["bytes_up"]]
        node.fetch(ref["done"])
        seen.append(node.sim.stamp()["bytes_up"])
        node.fetch(ref["y"][1])
        seen.append(node.sim.stamp()["bytes_up"])
        node.fetch([ref["y"], ref["x"]])
        seen.append(node.sim.stamp()["bytes_up"])
        node.fetch(ref)
        seen.append(node.sim.stamp()["bytes_up"])
        node.fetch(ref["n"])
        return [*seen, node.sim.stamp()["bytes_up"]]

    # None; 30; the other 200 and 1000 in one message; the number (8) beside; then nothing more
    assert play(STAR, text).value == [0, 0, 30, 1230, 1238, 1238]


def test_parts_asked_for_together_are_one_message() -> None:
    network = world({("a", "hub"): 1e6}, framing_bytes=100)

    def text(node: SimNode) -> float:
        ref = node.call(make_parts, "a")
        node.fetch([ref["x"], ref["y"], ref["n"]])
        return node.sim.stamp()["bytes_up"]

    assert play(network, text).value == 1_000 + 230 + 8 + 100


def test_a_part_that_is_not_there_is_named() -> None:
    def text(node: SimNode) -> None:
        node.fetch(node.call(make_parts, "a")["z"])

    with pytest.raises(ScenarioError, match=r"\['z'\]"):
        play(STAR, text)


TREE = {("e", "hub"): 1e6, ("a", "e"): 1e6, ("b", "e"): 1e6}


def test_relays_keep_one_copy_per_round_and_store_and_forward() -> None:
    # 1 MB to a and b behind e: once over the backhaul (1 s), then to each over its own link (1 s): 2 s. Back up: 1 s each to e (parallel), then
    # both over the backhaul, first in first out: 2 s. In all 2 + 1 + 2 = 5 s.
    network = world(TREE)

    def text(node: SimNode) -> float:
        x = body(1_000_000)
        node.fetch(node.map(echo, ["a", "b"], x))
        return node.now_s

    played = play(network, text)
    assert played.value == pytest.approx(5.0)
    stamp = played.sim.stamp()
    assert (stamp["bytes_down"], stamp["bytes_up"], stamp["bytes_backhaul"]) == (2_000_000, 2_000_000, 3_000_000)


def test_a_chain_of_refs_takes_the_short_route() -> None:
    # a -> e -> b without the hub
    network = world(TREE)

    def text(node: SimNode) -> float:
        first = node.call(work, "a", 0.0, 1_000_000)
        node.fetch(node.call(work, "b", 0.0, 0, first))
        return node.sim.stamp()["bytes_backhaul"]

    assert play(network, text).value == pytest.approx(16, abs=40)  # only the numbers of the call to a


def test_broadcast_is_one_transmission_at_the_worst_rate() -> None:
    cell = Cell(name="cell", bandwidth_hz=8e6, sharing="tdma")
    network = world({("a", "hub"): cell, ("b", "hub"): cell}, downlink="broadcast")

    def text(node: SimNode) -> float:
        node.fetch(node.map(work, ["a", "b"], 0.0, 0, body(1_000_000)))
        return node.now_s

    played = play(network, text)
    assert played.value == pytest.approx(1.0, abs=1e-4)
    assert played.sim.stamp()["bytes_down"] == 1_000_016


def test_half_duplex_sends_and_receives_in_turn() -> None:
    # a sends 1 MB while 1 MB comes down: 2 s with one radio; 1 s with two
    def text(node: SimNode) -> float:
        node.fetch([node.call(work, "a", 0.0, 1_000_000), node.call(work, "a", 0.0, 0, body(1_000_000))])
        return node.now_s

    assert play(world({("a", "hub"): 1e6}), text).value == pytest.approx(1.0, abs=1e-3)
    assert play(world({("a", "hub"): 1e6}, devices={"a": device(duplex="half")}), text).value == pytest.approx(2.0, abs=1e-3)


def test_max_min_shares_several_capacities() -> None:
    from airloom.network.link import Link
    from airloom.network.network import Network

    base = world({("a", "hub"): 1e6, ("b", "hub"): 1e6})
    links = [
        Link(
            source=link.source,
            target=link.target,
            latency_s=0.0,
            direction=link.direction,
            rate_bps=link.rate_bps,
            resources=("in:hub",) if link.direction == "up" else (),
        )
        for link in base.links.values()
    ]
    network = Network.of(base.places.values(), links, capacities={"in:hub": 8e6}, downlink="free")

    # two links of 8 Mbit/s into one port of 8 Mbit/s: 2 s for 1 MB each
    def text(node: SimNode) -> float:
        node.fetch(node.map(work, ["a", "b"], 0.0, 1_000_000))
        return node.now_s

    assert play(network, text).value == pytest.approx(2.0)


# --- loss --------------------------------------------------------------------------------------------------------------------------------


def leaving(name: str, at_s: float, back_s: float | None = None) -> TraceChurn:
    changes = [(at_s, False)] + ([(back_s, True)] if back_s is not None else [])
    return TraceChurn(changes={name: changes})


def test_a_lost_device_frees_its_share_of_the_cell() -> None:
    # a and b send 1 MB in one 8 Mbit/s cell; b leaves at 1 s: a has 0.5 MB left and the cell to itself: 1.5 s; b's part sent is charged
    cell = Cell(name="cell", bandwidth_hz=8e6, sharing="tdma")
    network = world({("a", "hub"): cell, ("b", "hub"): cell}, churn=leaving("b", 1.0), downlink="free", detect_s=0.2)

    def text(node: SimNode) -> Any:
        refs = node.map(work, ["a", "b"], 0.0, 1_000_000)
        arrived, rest, lost = node.first(refs, 2)
        return [r.place for r in arrived], rest, [r.place for r in lost], node.now_s

    played = play(network, text)
    assert played.value == (["a"], [], ["b"], pytest.approx(1.5))
    assert played.sim.stamp()["bytes_up"] == pytest.approx(1_500_000)


def test_a_loss_is_told_once_after_detection_and_names_the_device() -> None:
    network = world({("a", "hub"): 1e6, ("b", "hub"): 1e6}, churn=leaving("a", 1.0), detect_s=0.5)

    def text(node: SimNode) -> Any:
        ref = node.call(work, "a", 10.0)
        chained = node.call(work, "b", 1.0, 0, ref)  # depends on a
        with pytest.raises(DeviceLost) as caught:
            node.fetch(chained)
        return node.now_s, caught.value.device, node.children

    assert play(network, text).value == (pytest.approx(1.5), "a", ["b"])


def test_a_value_elsewhere_survives_its_device() -> None:
    network = world({("a", "hub"): 1e6}, churn=leaving("a", 5.0))

    def text(node: SimNode) -> Any:
        ref = node.call(work, "a", 1.0, 1_000)
        early = node.fetch(ref)
        node.sleep(6.0)
        again = node.fetch(ref)
        late = node.call(work, "a", 1.0)
        _, _, lost = node.first([late], 1)
        return early is again, len(lost)

    assert play(network, text).value == (True, 1)


def test_a_value_that_stayed_goes_with_its_device() -> None:
    network = world({("a", "hub"): 1e6}, churn=leaving("a", 5.0, 7.0))

    def text(node: SimNode) -> None:
        ref = node.call(work, "a", 1.0, 1_000)
        node.sleep(8.0)
        node.fetch(ref)

    with pytest.raises(DeviceLost, match="a"):
        play(network, text)


def count_draws(here: Here) -> list[int]:
    here.cost(seconds=2.0)
    return here.batch(4).ids.tolist()  # type: ignore[union-attr]


def test_lost_calls_change_no_state_and_consume_no_draws() -> None:
    steady = world({("a", "hub"): 1e9})
    network = world({("a", "hub"): 1e9}, churn=leaving("a", 1.0, 1.5))

    def text(node: SimNode) -> Any:
        node.first([node.call(count_draws, "a")], 1)
        if not node.clients:
            node.sleep(1.6)
        return node.fetch(node.call(count_draws, "a"))

    def once(node: SimNode) -> Any:
        return node.fetch(node.call(count_draws, "a"))

    assert play(network, text).value == play(steady, once).value


def test_reduce_goes_on_without_the_lost_ones_or_says_so() -> None:
    network = world({("a", "hub"): 1e6, ("b", "hub"): 1e6}, churn=leaving("b", 0.5))

    def text(node: SimNode) -> Any:
        refs = [node.call(give, "a", 2.0), node.call(give, "b", 4.0)]
        mean = node.reduce(refs, [1.0, 3.0])
        total = node.reduce(refs, [1.0, 3.0], over=SUM, on_loss="drop")
        none = node.reduce(refs[1:], like=torch.ones(2))
        with pytest.raises(DeviceLost):
            node.reduce(refs, on_loss="raise")
        return mean, total, none.tolist(), node.reduce([], like=torch.ones(2)).tolist()

    # renormalized over a alone: 2; the sum drops b: 1 * 2
    assert play(network, text).value == (2.0, 2.0, [0.0, 0.0], [0.0, 0.0])


def give(here: Here, value: float) -> float:
    here.cost(seconds=1.0)
    return value


def test_an_edge_that_leaves_takes_its_program_along() -> None:
    network = world(TREE, churn=leaving("e", 1.0), detect_s=0.25)

    def text(node: SimNode) -> Any:
        ref = node.program("e", group)
        _, _, lost = node.first([ref], 1)
        return len(lost), node.now_s

    assert play(network, text).value == (1, pytest.approx(1.25))


def test_a_battery_that_runs_out_is_a_device_that_leaves() -> None:
    # 2 W active + idle 0.5 W while idle: a 5 J battery is empty after the second 2 s call
    network = world({("a", "hub"): 1e9}, devices={"a": device(battery_j=5.0)})

    def text(node: SimNode) -> Any:
        done = 0
        for _ in range(4):
            arrived, _, _ = node.first([node.call(work, "a", 2.0)], 1)
            done += len(arrived)
        return done, node.clients

    done, clients = play(network, text).value
    assert done < 4
    assert clients == []


# --- refusals ----------------------------------------------------------------------------------------------------------------------------


def test_waiting_for_nothing_is_a_deadlock_by_name() -> None:
    from airloom.engines.pending import Issue, SimRef, Value

    def text(node: SimNode) -> None:
        node.fetch(SimRef(Value(0, "a", Issue(None, "none", "hub", 0))))

    with pytest.raises(AssertionError, match="fetch of 1 values"):
        play(STAR, text)


def test_an_argument_changed_after_issue_is_refused() -> None:
    def text(node: SimNode) -> None:
        x = torch.zeros(3)
        ref = node.call(echo, "a", x)
        x += 1
        node.fetch(ref)

    with pytest.raises(RunFailed, match="changed in place"):
        play(STAR, text)


def hungry(here: Here) -> None:
    here.cost(seconds=0.0)
    here.grad(here._task.model.zeros())


def test_a_call_that_does_not_fit_says_what_it_needs() -> None:
    network = world({("a", "hub"): 1e9}, devices={"a": device(memory_bytes=1e3)})

    def text(node: SimNode) -> None:
        node.fetch(node.call(hungry, "a"))

    with pytest.raises(DoesNotFit, match=r"hungry at 'a' needs .* MB .* has 0\.0 MB available"):
        play(network, text)


def overlap(here: Here, seconds: float) -> None:
    here.cost(seconds=seconds)
    here.state["k"] = seconds


def test_two_overlapping_writers_of_one_key_are_refused() -> None:
    def text(node: SimNode) -> None:
        node.fetch([node.call(overlap, "a", 2.0), node.call(overlap, "a", 1.0, on="disk")])

    with pytest.raises(RunFailed, match=r"state\['k'\]: two overlapping calls"):
        play(STAR, text)


def broken(here: Here) -> None:
    here.cost(seconds=0.0)
    raise ValueError("nobody home")


def test_a_failing_device_function_is_named_with_place_and_line() -> None:
    def text(node: SimNode) -> None:
        node.fetch(node.call(broken, "a"))

    with pytest.raises(RunFailed, match=r"broken at device 'a', round 0, issued at test_simulated\.py:\d+: ValueError: nobody home"):
        play(STAR, text)


def by_contents(here: Here, x: torch.Tensor) -> float:
    here.cost(seconds=float(x.sum()))
    return 1.0


def test_work_that_depends_on_contents_runs_at_its_start_with_the_right_clock() -> None:
    def text(node: SimNode) -> Any:
        ref = node.call(by_contents, "hub", torch.tensor([1.0, 2.5]))
        again = node.call(by_contents, "hub", torch.tensor([0.5, 0.0]))
        node.fetch([ref, again])
        return ref.made_s, again.made_s

    assert play(STAR, text).value == (3.5, 4.0)


def test_unknown_places_resources_and_lambdas_are_refused() -> None:
    with pytest.raises(ScenarioError, match="got place 'nowhere'"):
        play(STAR, lambda node: node.call(work, "nowhere", 1.0))
    with pytest.raises(ScenarioError, match="on='npu'"):
        play(STAR, lambda node: node.call(work, "a", 1.0, on="npu"))
    with pytest.raises(ScenarioError, match="lambda"):
        play(STAR, lambda node: node.call(lambda here: None, "a"))
    with pytest.raises(ScenarioError, match="2 weights for 1 values"):
        play(STAR, lambda node: node.reduce([node.call(give, "a", 1.0)], [1.0, 2.0]))
