"""Four hosts of our own: network namespaces with shaped links and CPU quotas. Calibrate on one method, predict the others, compare.

Needs root, `ip` and `tc`, cgroups with CPU quotas, and the extra ray; elsewhere it says what is missing and ends. `--run` runs it, `--record` also
writes `docs/records/hosts/`; without either nothing is touched. Links have rates, no added delay: `netem` is not part of every kernel.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from airloom.models import zoo
from airloom.network.device import Device
from airloom.network.link import Link
from airloom.network.network import Network, Place
from airloom.scenarios.scenario import Scenario
from airloom.tasks import TaskSettings, make_task

HOSTS = {"n0": (16e6, 24e6, 0.6), "n1": (6e6, 12e6, 0.4), "n2": (10e6, 10e6, 0.5), "n3": (4e6, 8e6, 0.3)}  # up, down in bit/s, CPU share
NET, PORT = "10.77.0", 6399
ROUNDS = {"fedavg": 8, "hfedavg": 5, "sequential_fl": 5}
FIELDS = {"local_steps": 400, "batch_size": 16, "lr": 0.1}  # computing weighs about as much as sending
RECORDS = Path(__file__).resolve().parent.parent / "docs" / "records" / "hosts"
TARGET = 0.8


def world(*, seed: int, hidden: int = 1024) -> Scenario:
    """A cloud and two edge servers on one machine, a client on each of four others; everybody has a link to everybody.

    Arguments:
        seed: of the world.
        hidden: width of the model; 1024 makes it 0.3 MB.
    """
    machine = Device(profile="host", speed_flops_per_s=10e9, efficiency=0.5, memory_bytes=4e9, baseline_bytes=1e9, power_w=10.0, idle_power_w=2.0)
    places = [Place(name="cloud", device=machine, role="cloud")]
    places += [Place(name=f"e{i}", device=machine, parent="cloud", role="edge", facts={"machine": "hub"}) for i in range(2)]
    places += [Place(name=f"c{i}", device=machine, parent=f"e{i // 2}", facts={"machine": name}) for i, name in enumerate(HOSTS)]
    links: list[Link] = []
    for source in places:
        for target in places:
            if source is not target:
                kinds = source.role == "client", target.role == "client"
                direction: Any = {(True, True): "peer", (True, False): "up", (False, True): "down", (False, False): "backhaul"}[kinds]
                links.append(Link(source=source.name, target=target.name, latency_s=0.001, direction=direction, rate_bps=100e6))
    network = Network.of(places, links, framing_bytes=64)
    model = zoo.mlp(inputs=64, hidden=(hidden,), classes=10)
    task = make_task(TaskSettings(partition="iid"), list(network.clients("cloud")), seed=seed, model=model)
    return Scenario(name="hosts", network=network, task=task, target=("accuracy", TARGET), budget={"rounds": 5}, seed=seed)


def missing() -> str | None:
    """What this machine lacks, or None."""
    if os.name != "posix" or os.geteuid() != 0:
        return "needs root, for network namespaces"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"needs the command {tool} (iproute2)"
    if importlib.util.find_spec("ray") is None:
        return "needs the extra ray"
    if not _cgroup("").is_dir():
        return "needs cgroups with CPU quotas"
    try:
        sh("ip netns add airloom-probe && ip netns del airloom-probe")
        shape = "tc qdisc add dev al-probe root tbf rate 1mbit burst 16kb latency 100ms"
        sh(f"ip link add al-probe type veth peer name al-probe2 && {shape}; r=$?; ip link del al-probe; exit $r")
    except subprocess.CalledProcessError as error:
        return f"cannot make namespaces or shape links: {error.stderr.strip()}"
    return None


def sh(command: str) -> str:
    """Run a shell command."""
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


def _cgroup(name: str) -> Path:
    old = Path("/sys/fs/cgroup/cpu")
    return (old if old.is_dir() else Path("/sys/fs/cgroup")) / name


def _quota(name: str, share: float | None) -> None:
    """Give a group of processes at most this share of a core."""
    group = _cgroup(name)
    microseconds = -1 if share is None else round(100_000 * share)
    if (group / "cpu.cfs_quota_us").exists():
        (group / "cpu.cfs_quota_us").write_text(str(microseconds))
    else:
        (group / "cpu.max").write_text(f"{'max' if share is None else microseconds} 100000")


@contextmanager
def hosts() -> Iterator[str]:
    """Bring up the hosts with a Ray cluster over them; yield its address. Leaves nothing behind."""
    ray = Path(sys.executable).parent / "ray"
    session = tempfile.mkdtemp(prefix="alhosts")
    # this cluster's own token: all of its processes, and no other, have it in their environment
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    env = dict(os.environ)
    before = set(_raylets())
    try:
        sh(f"ip link add al-br type bridge && ip addr add {NET}.1/24 dev al-br && ip link set al-br up")
        for i, (name, (up_bps, down_bps, _)) in enumerate(HOSTS.items()):
            sh(f"ip netns add al-{name} && ip link add al{i} type veth peer name al{i}n && ip link set al{i} master al-br up")
            inside = f"ip netns exec al-{name}"
            sh(f"ip link set al{i}n netns al-{name} && {inside} ip link set lo up && {inside} ip addr add {NET}.{10 + i}/24 dev al{i}n")
            sh(f"{inside} ip link set al{i}n up")
            sh(f"{inside} tc qdisc add dev al{i}n root tbf rate {up_bps:.0f}bit burst 32kb latency 400ms")
            sh(f"tc qdisc add dev al{i} root tbf rate {down_bps:.0f}bit burst 32kb latency 400ms")
            _cgroup(f"al-{name}").mkdir(exist_ok=True)
            _quota(f"al-{name}", None)
        common = ["--disable-usage-stats", f"--temp-dir={session}"]
        head = [str(ray), "start", "--head", f"--node-ip-address={NET}.1", f"--port={PORT}", "--include-dashboard=false", "--labels=machine=hub"]
        subprocess.run([*head, "--num-cpus=2", "--object-store-memory=200000000", *common], check=True, capture_output=True, env=env)
        for i, name in enumerate(HOSTS):
            words = f"echo $$ > {_cgroup(f'al-{name}')}/cgroup.procs; exec ip netns exec al-{name} {ray} start --address={NET}.1:{PORT}"
            words += f" --node-ip-address={NET}.{10 + i} --labels=machine={name} --num-cpus=1 --object-store-memory=100000000 --disable-usage-stats"
            subprocess.run(["sh", "-c", words], check=True, capture_output=True, env=env)
        for name, (_, _, share) in HOSTS.items():
            _quota(f"al-{name}", share)
        yield f"{NET}.1:{PORT}"
    finally:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            os.environ.pop(name, None)
        for name in HOSTS:
            if _cgroup(f"al-{name}").is_dir():
                _quota(f"al-{name}", None)
        _end(set(_raylets()) - before)
        for i, name in enumerate(HOSTS):
            subprocess.run(f"ip netns del al-{name}; ip link del al{i}", shell=True, capture_output=True)
            if _cgroup(f"al-{name}").is_dir():
                for _ in range(50):
                    try:
                        _cgroup(f"al-{name}").rmdir()
                        break
                    except OSError:
                        time.sleep(0.1)
        subprocess.run("ip link del al-br", shell=True, capture_output=True)
        shutil.rmtree(session, ignore_errors=True)


def _raylets() -> list[int]:
    """Processes of Ray that serve this cluster."""
    import psutil

    found: list[int] = []
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        if f"{NET}.1:{PORT}" in words or f"--node-ip-address={NET}." in words or f"--node-ip-address={NET}.1 " in words:
            found.append(process.pid)
    return found


def _end(pids: set[int]) -> None:
    """End these processes and their children."""
    import psutil

    known: list[psutil.Process] = []
    for pid in pids - {os.getpid()}:
        if psutil.pid_exists(pid):
            process = psutil.Process(pid)
            known += [process, *process.children(recursive=True)]
    for process in known:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    for process in psutil.wait_procs(known, timeout=5)[1]:
        process.kill()


@dataclass
class Method:
    """What was measured of a method and what was predicted for it."""

    name: str
    measured_s: list[float]
    predicted_s: list[float]
    bytes: tuple[float, float]
    reached_s: tuple[float | None, float | None]

    def errors(self) -> list[float]:
        """Relative error of the predicted seconds, by round."""
        return [abs(p - m) / m for m, p in zip(self.measured_s, self.predicted_s)]


def by_round(points: Sequence[dict[str, Any]]) -> list[float]:
    """Seconds of each round."""
    return [after - before for before, after in pairwise([0.0, *[point["seconds"] for point in points]])]


def first_at(points: Sequence[dict[str, Any]]) -> float | None:
    """Seconds to the target's first crossing."""
    return next((point["seconds"] for point in points if point["accuracy"] >= TARGET), None)


def main(base: str = "fedavg") -> dict[str, Any]:
    """Run, calibrate on `base`, predict, compare."""
    from airloom import api
    from airloom.engines import ray

    folder = Path(tempfile.mkdtemp(prefix="alruns"))
    text = f"{Path(__file__).resolve()}:world"
    fields = {name: ",".join(f"{f}={v}" for f, v in {**FIELDS, **({"group_rounds": 2} if name == "hfedavg" else {})}.items()) for name in ROUNDS}
    with hosts() as address:
        runs = {}
        for name, rounds in ROUNDS.items():
            runs[name] = api.run(
                f"{name}:{fields[name]}", scenario=text, engine="ray", address=address, budget={"rounds": rounds}, target=None, out=folder / name,
                checkpoint_every_s=None,
            )  # fmt: skip
            print(name, [round(s, 2) for s in by_round(runs[name].points)], flush=True)
        ray.release()
        ray.disconnect()
    fleet = folder / "fleet.json"
    measured = api.calibrate(folder / base, fleet)["measured"]
    found: list[Method] = []
    for name, rounds in ROUNDS.items():
        again = api.run(f"{name}:{fields[name]}", scenario=str(fleet), budget={"rounds": rounds}, target=None, out=None, executor="loop")
        costs = tuple(sum(run.summary[f"bytes_{way}"] for way in ("up", "down", "peer", "backhaul")) for run in (runs[name], again))
        reached = (first_at(runs[name].points), first_at(again.points))
        found.append(Method(name, by_round(runs[name].points), by_round(again.points), costs, reached))  # type: ignore[arg-type]
    others = [error for method in found if method.name != base for error in method.errors()]
    load = os.getloadavg()[0]
    return {
        "calibrated_on": base,
        "hosts": {name: {"up_bps": up, "down_bps": down, "cpu": cpu} for name, (up, down, cpu) in HOSTS.items()},
        "load_average": load,
        "cores": os.cpu_count(),
        "methods": [
            {
                "method": m.name, "measured_s": m.measured_s, "predicted_s": m.predicted_s, "median_error": median(m.errors()),
                "bytes_measured": m.bytes[0], "bytes_predicted": m.bytes[1], "reached_s": m.reached_s,
            }
            for m in found
        ],
        "fastest": {"measured": fastest(found, 0), "predicted": fastest(found, 1)},
        "median_error": median(others),
        "p90_error": float(np.percentile(others, 90)),
        "measured": measured,
    }  # fmt: skip


def fastest(found: Sequence[Method], which: int) -> str | None:
    """The method that reaches the target first, as measured (0) or as predicted (1)."""
    times = {m.name: s for m in found if (s := m.reached_s[which]) is not None}
    return min(times, key=lambda name: times[name]) if times else None


def table(result: dict[str, Any]) -> str:
    """The record's table."""
    columns = [
        "method",
        "s per round, measured",
        "predicted",
        "error (median)",
        "bytes measured",
        "predicted",
        f"s to {TARGET}, measured",
        "predicted",
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for m in result["methods"]:
        name = m["method"] + (" (calibrated on)" if m["method"] == result["calibrated_on"] else "")
        lines.append(
            f"| {name} | {median(m['measured_s']):.2f} | {median(m['predicted_s']):.2f} | {100 * m['median_error']:.0f} % "
            f"| {m['bytes_measured']:.0f} | {m['bytes_predicted']:.0f} | {' | '.join('-' if s is None else f'{s:.2f}' for s in m['reached_s'])} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    lacks = missing() if {"--run", "--record"} & set(sys.argv) else "it makes network namespaces; say --run, or --record to keep the result"
    if lacks is not None:
        print(f"skipped: {lacks}")
        raise SystemExit(0)
    result = main()
    print(table(result))
    print(f"fastest: measured {result['fastest']['measured']}, predicted {result['fastest']['predicted']}")
    print(f"the two others: median error {100 * result['median_error']:.0f} %, 90th percentile {100 * result['p90_error']:.0f} %")
    if "--record" in sys.argv:
        RECORDS.mkdir(parents=True, exist_ok=True)
        (RECORDS / "result.json").write_text(json.dumps(result, indent=1) + "\n")
