"""Networks: structure, routes, presence, and one clear error for each mistake."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.network.churn import Markov, TraceChurn
from airloom.network.link import Link
from airloom.network.network import Network, Place
from airloom.network.profiles import PHONE_RADIO, WHALE_FL
from airloom.network.topology import Level, star, tree, with_peers

NANO = WHALE_FL["nano"]


def wire(source: str, target: str, **change: Any) -> Link:
    fields: dict[str, Any] = {"source": source, "target": target, "latency_s": 0.0, "direction": "peer", "rate_bps": 1e6}
    return Link(**(fields | change))


def both(source: str, target: str) -> list[Link]:
    return [wire(source, target), wire(target, source)]


def two_levels() -> Network:
    edge = Level(name="edge", count=2, devices=NANO, up_bps=1e9, down_bps=1e9, latency_s=0.01, wired=True)
    return tree([edge, Level(name="phone", count=3, devices=NANO, up_bps=1e6, down_bps=8e6, latency_s=0.02)], root=NANO)


def hops(net: Network, source: str, target: str) -> list[str]:
    return [link.target for link in net.route(source, target)]


def test_structure_of_a_tree() -> None:
    net = two_levels()
    assert net.root == "cloud"
    assert net.children("cloud") == ("edge0", "edge1")
    assert net.children("phone0") == net.clients("phone0") == ()
    assert net.clients("cloud") == ("phone0", "phone1", "phone2", "phone3", "phone4", "phone5")
    assert net.clients("edge1") == ("phone3", "phone4", "phone5")
    assert net.neighbors("edge0") == ()
    assert hops(net, "cloud", "phone4") == ["edge1", "phone4"]
    assert hops(net, "phone0", "phone1") == ["edge0", "phone1"]
    assert hops(net, "phone0", "phone5") == ["edge0", "cloud", "edge1", "phone5"]
    assert hops(net, "phone0", "cloud") == ["edge0", "cloud"]
    assert net.route("phone0", "phone0") == ()
    assert [link.direction for link in net.route("phone0", "cloud")] == ["up", "backhaul"]
    assert net.route("phone0", "cloud") is net.route("phone0", "cloud")


def test_peers_shorten_routes_and_are_neighbors() -> None:
    net = with_peers(two_levels(), [("edge0", "edge1"), ("phone0", "phone5")], rate_bps=1e7, latency_s=0.0)
    assert net.neighbors("edge0") == ("edge1",)
    assert net.neighbors("phone5") == ("phone0",)
    assert hops(net, "phone0", "phone4") == ["edge0", "edge1", "phone4"]
    assert hops(net, "edge0", "phone3") == ["edge1", "phone3"]
    assert hops(net, "phone1", "phone5") == ["edge0", "phone0", "phone5"]  # the links of phones were added before those of peers
    assert hops(net, "phone3", "cloud") == ["edge1", "cloud"]


@given(st.integers(3, 9), st.data())
def test_routes_have_the_fewest_hops(n: int, data: st.DataObject) -> None:
    names = [f"n{i}" for i in range(n)]
    parents = [None] + [names[data.draw(st.integers(0, i))] for i in range(n - 1)]
    extra = data.draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(names)), max_size=6))
    pairs = {frozenset((a, b)) for a, b in [*zip(names[1:], parents[1:]), *extra] if a != b}
    links = [link for pair in sorted(map(sorted, pairs)) for link in both(*pair)]  # type: ignore[arg-type]
    net = Network.of([Place(name=a, device=NANO, parent=p) for a, p in zip(names, parents)], links)
    graph = nx.Graph([tuple(pair) for pair in pairs])
    for a in names:
        for b in names:
            route = net.route(a, b)
            assert len(route) == nx.shortest_path_length(graph, a, b)
            at = a
            for link in route:
                assert link.source == at
                at = link.target
            assert at == b


def test_presence_asks_the_churn_for_clients_and_named_places_only() -> None:
    net = star([NANO] * 2, root=NANO, up_bps=1e6, down_bps=1e6, latency_s=0.0, churn=Markov(on_s=1.0, off_s=1.0))
    assert all(net.present("cloud", t / 10, 0) for t in range(200))
    assert net.next_change("cloud", 0.0, 0) is None
    assert not all(net.present("client0", t / 10, 0) for t in range(200))
    named = replace(net, churn=TraceChurn(changes={"cloud": [(1.0, False)]}))
    assert not named.present("cloud", 2.0, 0)
    assert named.next_change("cloud", 0.0, 0) == 1.0
    out = replace(net, unreachable=frozenset({"client1"}))
    assert not out.present("client1", 0.0, 0)
    assert out.next_change("client1", 0.0, 0) is None


def test_each_mistake_has_its_error() -> None:
    a, b = Place(name="a", device=NANO), Place(name="b", device=NANO, parent="a")
    links = both("a", "b")
    with pytest.raises(ScenarioError, match="'b' must be there only once"):
        Network.of([a, b, b.__class__(name="b", device=NANO)], links)
    with pytest.raises(ScenarioError, match=r"Link from 'a' to 'b'.*only once"):
        Network.of([a, b], [*links, wire("a", "b")])
    with pytest.raises(ScenarioError, match=r"Place 'b': device=None must be a Device"):
        Network.of([a, Place(name="b", device=None, parent="a")], links)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ScenarioError, match=r"Place 'b': parent='z'"):
        Network.of([a, Place(name="b", device=NANO, parent="z")], links)
    with pytest.raises(ScenarioError, match=r"Place 'b'.*route from the root"):
        Network.of([a, b], [])
    with pytest.raises(ScenarioError, match=r"Place 'b'.*route to the root"):
        Network.of([a, b], [wire("a", "b")])
    with pytest.raises(ScenarioError, match="two of the network's places"):
        Network.of([a, b], [*links, wire("a", "z")])
    with pytest.raises(ScenarioError, match="cycle"):
        Network.of([a, Place(name="b", device=NANO, parent="c"), Place(name="c", device=NANO, parent="b")], [])
    with pytest.raises(ScenarioError, match="at least one without a parent"):
        Network.of([], [])
    with pytest.raises(ScenarioError, match="listed under"):
        Network(places={"x": a}, links={})
    with pytest.raises(ScenarioError, match="framing_bytes"):
        Network.of([a, b], links, framing_bytes=-1)
    with pytest.raises(ScenarioError, match="detect_s"):
        Network.of([a, b], links, detect_s=float("nan"))
    with pytest.raises(ScenarioError, match="downlink"):
        Network.of([a, b], links, downlink="carrier pigeon")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ScenarioError, match="on_leave"):
        Network.of([a, b], links, on_leave="sell")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ScenarioError, match=r"resources='out:a'"):
        Network.of([a, b], [wire("a", "b", resources=("out:a",)), wire("b", "a")])
    with pytest.raises(ScenarioError, match="capacities"):
        Network.of([a, b], links, capacities={"out:a": 0.0})
    net = Network.of([a, b], links)
    with pytest.raises(ScenarioError, match="'z' must be one of the network's"):
        net.route("a", "z")


def test_a_radio_model_that_needs_a_power_is_checked_against_the_links() -> None:
    phone = replace(NANO, radio=PHONE_RADIO)
    with pytest.raises(ScenarioError, match=r"transmit_power_w.*linear_pa"):
        star([phone], root=NANO, up_bps=1e6, down_bps=1e6, latency_s=0.0)
    net = star([phone], root=NANO, up_bps=1e6, down_bps=1e6, latency_s=0.0, transmit_power_w=0.2)
    assert net.route("client0", "cloud")[0].transmit_power_w == 0.2


def test_shared_capacities() -> None:
    links = [wire("a", "b", resources=("out:a", "in:b")), wire("b", "a")]
    net = Network.of([Place(name="a", device=NANO), Place(name="b", device=NANO)], links, capacities={"out:a": 1e6, "in:b": 2e6})
    assert net.links["a", "b"].resources == ("out:a", "in:b")


def test_description_is_compact_and_plain() -> None:
    text = json.dumps(two_levels().describe())
    assert len(text) < 1500
    found = json.loads(text)
    assert found["roles"] == {"cloud": 1, "edge": 2, "client": 6}
    assert found["links"] == {"backhaul": 4, "up": 6, "down": 6}
    assert found["churn"] == "AlwaysOn"
