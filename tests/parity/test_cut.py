"""A real network, cut and mended: nodes of a Flower deployment in network namespaces of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.parity.methods import Gate
from tests.parity.test_flower import ALERT, METHODS_FILE, PATIENCE_S, SCENARIO, Deployed, at_work

pytestmark = pytest.mark.slow


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True)


@contextmanager
def network(names: list[str]) -> Iterator[tuple[str, dict[str, str], dict[str, str]]]:
    """Namespaces at one bridge, without a way out: yields the bridge's address, and each name's namespace and link."""
    own = os.getpid()
    bridge, subnet = f"alb{own}", f"10.78.{own % 250}"
    spaces = {name: f"al{own}-{name}" for name in names}
    links = {name: f"al{own}{chr(97 + i)}" for i, name in enumerate(names)}
    try:
        ip(f"link add {bridge} type bridge")
        ip(f"addr add {subnet}.1/24 dev {bridge}")
        ip(f"link set {bridge} up")
        for i, name in enumerate(names):
            ip(f"netns add {spaces[name]}")
            ip(f"link add {links[name]} type veth peer name {links[name]}i netns {spaces[name]}")
            ip(f"link set {links[name]} master {bridge} up")
            ip(f"-n {spaces[name]} link set lo up")
            ip(f"-n {spaces[name]} addr add {subnet}.{10 + i}/24 dev {links[name]}i")
            ip(f"-n {spaces[name]} link set {links[name]}i up")
        yield f"{subnet}.1", spaces, links
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", spaces[name]], capture_output=True)
            subprocess.run(["ip", "link", "del", links[name]], capture_output=True)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True)


def need_namespaces() -> None:
    """Skip where networks cannot be made."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("needs root, for network namespaces")
    if shutil.which("ip") is None:
        pytest.skip("needs the command ip (iproute2)")
    try:
        with network(["probe"]):
            pass
    except subprocess.CalledProcessError as error:
        pytest.skip(f"cannot make network namespaces: {error.stderr.strip()}")


def test_a_node_whose_network_is_cut_is_lost_and_used_again_when_it_is_mended(tmp_path: Path) -> None:
    """Its process lives on, and what it was doing when it was cut off counts for nothing."""
    need_namespaces()
    one = Deployed(tmp_path)
    with network(["north", "south"]) as (address, spaces, links):
        up = one.call("up", "--nodes", "0", "--host", address, "--tls", "--json")
        assert up.returncode == 0, up.stderr
        one.address = json.loads(up.stdout)["address"]
        nodes: list[subprocess.Popen[bytes]] = []
        gate: Gate = one.gate("cut", 1, 2)
        try:
            for name in ("north", "south"):  # they are dealt clinic0 and clinic2, and clinic1
                assert one.call("key", name, "--out", str(tmp_path / "keys")).returncode == 0
                assert one.call("admit", name, str(tmp_path / "keys" / f"{name}.pub")).returncode == 0
                words = one.command(
                    "node", name, "--superlink", one.address, "--ca", str(one.folder / "ca.pem"), "--server", str(one.folder / "server.pub"),
                    "--key", str(tmp_path / "keys" / f"{name}.key"), "--allow", SCENARIO, "--allow", METHODS_FILE,
                )  # fmt: skip
                words = ["ip", "netns", "exec", spaces[name], *words]
                nodes.append(subprocess.Popen(words, env=one.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
            run = one.start(*one.words(one.patient("cut", ",is_until_back=true"), "cut", 100_000, world=ALERT))
            at_work(run, gate, 1, "clinic0", "clinic1")  # clinic2 waits for its node, which does one thing at a time
            ip(f"link set {links['south']} down")
            gate.release(1)
            at_work(run, gate, 2, "clinic0")
            ip(f"link set {links['south']} up")
            gate.release(2)
            said, _ = run.communicate(timeout=PATIENCE_S)
            assert run.returncode == 0, said
        finally:
            gate.release(1, 2)
            for node in nodes:
                node.send_signal(signal.SIGTERM)
            for node in nodes:
                node.wait(PATIENCE_S)
            one.down()
    points = one.points("cut")
    everybody = "clinic0 clinic1 clinic2"
    assert [(point["came"], point["lost"]) for point in points[:2]] == [(everybody, ""), ("clinic0 clinic2", "clinic1")]
    assert "clinic1" not in points[2]["sent"] and [point["came"] for point in points[-2:]] == [everybody, everybody]
