"""Star methods on a real Flower deployment on the loopback interface: same numbers, losses, returns, resume, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.parity.methods import Gate, until

pytestmark = pytest.mark.slow
pytest.importorskip("flwr", reason="flwr is not installed (pip install 'airloom[flower]')")

REPOSITORY = Path(__file__).resolve().parents[2]
SCENARIO = f"{REPOSITORY / 'tests' / 'parity' / 'clinics.py'}"
METHODS_FILE = f"{REPOSITORY / 'tests' / 'parity' / 'methods.py'}"
PATIENCE_S = 600.0
SMALL = "local_steps=2,batch_size=8"


class Deployed:
    """A deployment in a folder, driven by the command line as a user would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "deployment"
        self.runs = folder
        self.address = ""

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "airloom", *words]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "AIRLOOM_DEPLOYMENT": str(self.folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}

    def call(self, *words: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=timeout_s, env=self.environment, cwd=self.runs, stdin=subprocess.DEVNULL
        )  # fmt: skip

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, env=self.environment,
            cwd=self.runs,
        )  # fmt: skip

    def up(self, *words: str) -> dict[str, Any]:
        done = self.call("up", "--nodes", "3", "--tls", "--allow", SCENARIO, "--allow", METHODS_FILE, "--json", *words)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        self.address = said["address"]
        return said

    def down(self, *words: str) -> None:
        done = self.call("down", "--json", *words)
        assert done.returncode == 0, done.stderr

    def pids(self) -> dict[str, int]:
        noted = json.loads((self.folder / "processes.json").read_text())
        return {entry["name"]: entry["pid"] for entry in noted["processes"]}

    def words(self, method: str, out: str, rounds: int, *more: str, world: str = SCENARIO) -> list[str]:
        text = method if ":" in method else f"{method}:{SMALL}"
        place = ["--engine", "flower", "--superlink", self.address, "-s", world]
        return ["run", text, *place, "--budget", f"rounds={rounds}", "--out", out, "--json", *more]

    def gate(self, out: str, *rounds: int) -> Gate:
        """A gate that holds rounds of `patient(out)`."""
        gate = Gate(self.runs / f"{out}.gate")
        gate.hold(*rounds)
        return gate

    def patient(self, out: str, fields: str = "") -> str:
        """A method whose rounds a gate may hold."""
        return f"{METHODS_FILE}:Patient:gate={self.runs / f'{out}.gate'}{fields}"

    def kill(self, *names: str, number: int = signal.SIGKILL) -> None:
        for name in names:
            os.kill(self.pids()[name], number)

    def run(self, method: str, rounds: int, engine: str = "flower", **rest: Any) -> Any:
        """A run whose server is this process."""
        import airloom

        plain, _, own = method.partition(":")
        fields = ",".join(filter(None, [own, SMALL if plain != "centralized" else ""]))
        where = {"address": self.address} if engine == "flower" else {"executor": "loop"}
        return airloom.run(
            f"{plain}:{fields}" if fields else plain, scenario=SCENARIO, engine=engine, budget={"rounds": rounds}, out=None, **where, **rest
        )

    def points(self, out: str) -> list[dict[str, Any]]:
        path = self.runs / out / "record.jsonl"
        if not path.is_file():
            return []
        return [line for line in map(json.loads, path.read_text().splitlines()) if "round" in line and "accuracy" in line and "status" not in line]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    one = Deployed(tmp_path_factory.mktemp("flower"))
    one.up()
    pids = one.pids()
    os.environ["AIRLOOM_DEPLOYMENT"] = str(one.folder)
    yield one
    del os.environ["AIRLOOM_DEPLOYMENT"]
    if one.folder.exists():
        one.down()
    assert not one.folder.exists()
    assert not [pid for pid in pids.values() if psutil.pid_exists(pid)]


def at_work(run: subprocess.Popen[str], gate: Gate, t: int, *names: str) -> None:
    """Wait until these clients are at work in a round that is held."""
    until(lambda: gate.is_at(t, *names) or run.poll() is not None, f"round {t} at {' '.join(names)}", PATIENCE_S)
    assert run.poll() is None, run.communicate()[0]


METHODS = [
    "fedavg",
    "fedprox",
    "fedopt",
    "scaffold",
    "local_only",
    "sequential_fl",
    "centralized",
    "fedavg:protect=masked(range=64.0)",
    "ics",
    "heterofl",
    "fedavg:codec=topk(share=0.1)",
]


@pytest.mark.parametrize("method", METHODS)
def test_parity_with_the_simulator_is_exact(deployed: Deployed, method: str) -> None:
    real, simulated = deployed.run(method, 2), deployed.run(method, 2, engine="simulated")
    assert real.header["clock"] == "measured"
    assert real.summary["metrics"] == simulated.summary["metrics"]
    assert bits(real.model) == bits(simulated.model)
    if method != "sequential_fl":  # a chain goes over the server here
        assert [real.summary[way] for way in ("bytes_up", "bytes_down")] == [simulated.summary[way] for way in ("bytes_up", "bytes_down")]
    machines = {name: spent["machine"] for name, spent in real.summary["devices"].items() if spent["machine"]}
    assert sorted(machines.values()) == ["node1", "node2", "node3"]


def bits(model: Any) -> Any:
    return {name: x.digest() for name, x in model.items()} if isinstance(model, dict) else model.digest()


def model(folder: Path) -> dict[str, list[Any]]:
    from airloom.records import checkpoint

    return {name: tensor.tolist() for name, tensor in checkpoint.load(folder / "model.safetensors")[1].items()}


def test_a_method_that_depends_on_arrivals_runs(deployed: Deployed) -> None:
    """FedBuff takes what comes first, so its numbers differ from run to run; nothing is lost and nothing counts twice."""
    run = deployed.run("fedbuff:buffer=2", 3)
    assert run.status == "budget" and len(run.points) == 3


def test_model_and_data_are_loaded_once_per_run_and_node(deployed: Deployed) -> None:
    loads = []
    for _ in range(2):
        devices = deployed.run("fedavg", 4).summary["devices"]
        loads.append([spent["loads"] for spent in devices.values() if spent["machine"]])
    assert [b - a for a, b in zip(*loads, strict=True)] == [1, 1, 1]  # twelve calls, one load


def test_files_have_safe_modes_and_secrets_stay_where_they_are(deployed: Deployed) -> None:
    for path in [deployed.folder, *deployed.folder.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700, path
        elif path.suffix in (".key", ".db", ".log", ".state") or path.name == "secret":
            assert mode == 0o600, path
        else:
            assert not mode & 0o022, path
    hidden = [(deployed.folder / "secret").read_bytes(), *[path.read_bytes().splitlines()[1] for path in deployed.folder.rglob("*.key")]]
    assert deployed.call(*deployed.words("fedavg", "secrets", 1)).returncode == 0
    for path in [*(deployed.runs / "secrets").rglob("*"), *(deployed.folder / "logs").iterdir()]:
        content = path.read_bytes()
        assert not [word for word in hidden if word in content or word.hex().encode() in content], path


def test_a_node_without_a_registered_key_gets_no_work(deployed: Deployed, tmp_path: Path) -> None:
    assert deployed.call("key", "stranger", "--out", str(tmp_path / "own")).returncode == 0
    log = tmp_path / "log"
    with log.open("w") as file:
        words = deployed.command(*node_words(deployed, "stranger", tmp_path / "own" / "stranger.key"))
        node = subprocess.Popen(words, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=deployed.environment)
    try:
        until(lambda: "waiting for the SuperLink" in log.read_text(), "the stranger")
        devices = deployed.run("fedavg", 2).summary["devices"]
        assert {spent["machine"] for spent in devices.values()} == {None, "node1", "node2", "node3"}
    finally:
        node.send_signal(signal.SIGTERM)
        node.wait(timeout=PATIENCE_S)
    assert "connected" not in log.read_text()


def node_words(deployed: Deployed, name: str, key: Path, ca: Path | None = None, server: Path | None = None) -> list[str]:
    folder = deployed.folder
    return [
        "node", name, "--superlink", deployed.address, "--ca", str(ca or folder / "ca.pem"), "--server", str(server or folder / "server.pub"),
        "--key", str(key), "--allow", SCENARIO,
    ]  # fmt: skip


def test_a_node_that_only_the_superlink_knows_gets_no_work(deployed: Deployed, tmp_path: Path) -> None:
    """Whoever reaches the SuperLink may register a key there; this server uses only those in its own folder."""
    from airloom.engines import flower

    assert deployed.call("key", "intruder", "--out", str(tmp_path / "own")).returncode == 0
    flwr = flower.find_flower(str(tmp_path / "flwr"))
    public = (tmp_path / "own" / "intruder.pub").read_bytes()
    flower.register(flwr, deployed.address, (deployed.folder / "ca.pem").read_bytes(), "intruder", public)
    node = deployed.start(*node_words(deployed, "intruder", tmp_path / "own" / "intruder.key"))
    try:
        until(lambda: flower.online(flwr, deployed.address, (deployed.folder / "ca.pem").read_bytes()).get("intruder") == "online", "the intruder")
        devices = deployed.run("fedavg", 2).summary["devices"]
        assert {spent["machine"] for spent in devices.values()} == {None, "node1", "node2", "node3"}
    finally:
        node.send_signal(signal.SIGTERM)
        node.communicate(timeout=PATIENCE_S)


def test_wrong_certificates_are_refused(deployed: Deployed, tmp_path: Path) -> None:
    from airloom import deployment

    tmp_path.chmod(0o700)
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    deployment.make_secrets(other, ["localhost", "127.0.0.1"])
    key = deployed.folder / "nodes" / "node1.key"
    node = deployed.call(*node_words(deployed, "node1", key, ca=other / "ca.pem"))
    assert node.returncode == 1 and "is not signed by this deployment's authority" in node.stderr
    for name in ("server.key", "server.pub", "superlink.key"):
        (other / name).unlink()
    for name in ("server.key", "server.pub"):
        (other / name).write_bytes((deployed.folder / name).read_bytes())
    (other / "nodes").mkdir()
    (other / "nodes" / "node1.pub").write_bytes((deployed.folder / "nodes" / "node1.pub").read_bytes())
    run = deployed.call(*deployed.words("fedavg", "wrong", 1, "--deployment", str(other)))
    assert run.returncode == 1 and "ertificate" in run.stderr and not (deployed.runs / "wrong" / "model.safetensors").exists()


def test_a_server_without_the_nodes_trust_is_refused(deployed: Deployed, tmp_path: Path) -> None:
    """It knows the certificate, and even the secret, but signs with another key."""
    import shutil

    from airloom import deployment

    folder = tmp_path / "copy"
    shutil.copytree(deployed.folder, folder, ignore=shutil.ignore_patterns("state.db*", "logs", "states", "flwr", "processes.json"))
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    deployment.make_secrets(other, ["localhost"])
    shutil.copy(other / "server.key", folder / "server.key")
    done = deployed.call(*deployed.words("fedavg", "unsigned", 1, "--deployment", str(folder)))
    assert done.returncode == 1 and "signature is not the server's" in done.stderr


def test_what_is_no_star_is_refused_before_anything_starts(deployed: Deployed) -> None:
    done = deployed.call("run", "mtgc", "--engine", "flower", "--superlink", deployed.address, "--out", "mtgc")
    assert done.returncode == 2 and "it declares" in done.stderr
    assert not (deployed.runs / "mtgc").exists()


def test_a_method_that_the_nodes_were_not_started_with_is_refused(deployed: Deployed, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("from airloom.methods.fedavg import FedAvg\n\n\nclass Own(FedAvg):\n    pass\n")
    done = deployed.call("run", f"{own}:Own", "--engine", "flower", "-s", SCENARIO, "--budget", "rounds=1", "--out", "own")
    assert done.returncode == 1 and "start it with --allow FILE" in done.stderr


ALL = "clinic0 clinic1 clinic2"
ALERT = f"{SCENARIO}:alert"


def test_kill_a_node_in_the_middle_and_start_it_again(deployed: Deployed) -> None:
    """The run goes on with the survivors; the node that comes back is used again."""
    gate = deployed.gate("killed", 1, 2)
    run = deployed.start(*deployed.words(deployed.patient("killed", ",is_until_back=true"), "killed", 100_000, world=ALERT))
    at_work(run, gate, 1, *ALL.split())
    command = psutil.Process(deployed.pids()["node2"]).cmdline()
    deployed.kill("node2")
    gate.release(1)
    at_work(run, gate, 2, "clinic0", "clinic2")
    again = subprocess.Popen(command, env=deployed.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        gate.release(2)
        said, _ = run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 0, said
        points = deployed.points("killed")
        assert [(point["came"], point["lost"]) for point in points[:2]] == [(ALL, ""), ("clinic0 clinic2", "clinic1")]
        assert "clinic1" not in points[2]["sent"] and [point["came"] for point in points[-2:]] == [ALL, ALL]
        lines = [json.loads(line) for line in (deployed.runs / "killed" / "measured.jsonl").read_text().splitlines()]
        presence = [line["is_there"] for line in lines if line["kind"] == "presence" and line["place"] == "clinic1"]
        assert presence == [True, False, True]
    finally:
        gate.release(1, 2)
        again.terminate()
        again.wait(PATIENCE_S)
        deployed.down("--keep")  # node2 was started by hand: bring all of it up anew
        deployed.up()


def test_a_node_that_hangs_is_left_out_and_taken_back(deployed: Deployed) -> None:
    """A stopped process is what a cut network looks like: no answer for longer than the server's patience, and then there again."""
    gate = deployed.gate("hung", 1, 2)
    run = deployed.start(*deployed.words(deployed.patient("hung", ",is_until_back=true"), "hung", 100_000, world=ALERT))
    try:
        at_work(run, gate, 1, *ALL.split())
        deployed.kill("node3", number=signal.SIGSTOP)
        gate.release(1)
        at_work(run, gate, 2, "clinic0", "clinic1")
    finally:
        deployed.kill("node3", number=signal.SIGCONT)
        gate.release(1, 2)
    said, _ = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, said
    points = deployed.points("hung")
    assert [(point["came"], point["lost"]) for point in points[:2]] == [(ALL, ""), ("clinic0 clinic1", "clinic2")]
    assert "clinic2" not in points[2]["sent"] and [point["came"] for point in points[-2:]] == [ALL, ALL]


def test_kill_half_of_the_nodes_and_nothing_hangs(deployed: Deployed) -> None:
    gate = deployed.gate("half", 1)
    run = deployed.start(*deployed.words(deployed.patient("half"), "half", 6, world=ALERT))
    try:
        at_work(run, gate, 1, *ALL.split())
        deployed.kill("node1", "node3")
        gate.release(1)
        said, _ = run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 0, said
        points = deployed.points("half")
        assert [point["came"] for point in points] == [ALL, *["clinic1"] * 5]
        assert [point["lost"] for point in points] == ["", "clinic0 clinic2", "", "", "", ""]
    finally:
        gate.release(1)
        deployed.down("--keep")
        deployed.up()


def test_kill_the_server_and_resume(deployed: Deployed) -> None:
    """The server of the run dies in a round; resumed, the run ends with the same bits as one that was left alone, also in what clients keep."""
    assert deployed.call(*deployed.words(deployed.patient("whole"), "whole", 6)).returncode == 0
    gate = deployed.gate("cut", 3)
    run = deployed.start(*deployed.words(deployed.patient("cut"), "cut", 6, "--checkpoint-every", "0"))
    at_work(run, gate, 3, *ALL.split())
    run.kill()
    run.communicate(timeout=PATIENCE_S)
    gate.release(3)  # what they do in it now must not count
    assert len(deployed.points("cut")) == 3
    done = deployed.call("resume", "cut", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rounds"] == 6
    assert [point["came"] for point in deployed.points("cut")] == [ALL] * 6
    assert model(deployed.runs / "cut") == model(deployed.runs / "whole")


def test_the_superlink_dies_and_comes_back(deployed: Deployed) -> None:
    gate = deployed.gate("link", 2)
    run = deployed.start(*deployed.words(deployed.patient("link"), "link", 4, "--checkpoint-every", "0"))
    at_work(run, gate, 2, *ALL.split())
    deployed.kill("superlink")
    gate.release(2)
    said, _ = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 1 and "airloom resume" in said, said
    deployed.down("--keep")
    port = deployed.address.rpartition(":")[2]
    deployed.up("--port", port)
    done = deployed.call("resume", "link", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rounds"] == 4


def test_a_first_round_comes_soon_after_up(tmp_path: Path) -> None:
    """How soon is measured by `benchmarks/flower.py`; here, that nothing else is needed, and that nothing is left."""
    one = Deployed(tmp_path)
    one.up()
    pids = one.pids()
    try:
        done = one.call(*one.words("fedavg", "quick", 1))
        assert done.returncode == 0, done.stderr
        assert len(one.points("quick")) == 1
    finally:
        one.down()
    assert not one.folder.exists() and not [pid for pid in pids.values() if psutil.pid_exists(pid)]
