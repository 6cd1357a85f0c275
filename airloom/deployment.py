"""Deployments on real machines: certificates, keys, and the processes of one machine (`airloom up`, `node`, `admit`, `down`).

A deployment is a folder that only its owner may enter:

    ca.pem, ca.key            its own certificate authority
    superlink.pem, .key       the SuperLink's certificate
    secret                    who has it may be the server of runs
    server.key, server.pub    runs sign what they send to nodes
    nodes/NAME.pub            keys of the nodes that may be used (and NAME.key, of nodes that were made here)
    state.db, logs/, flwr/    the SuperLink's data base, logs, what flwr writes
    states/NAME/              what the clients on a node of this machine keep
    processes.json            what runs here

A node of another machine needs its own key, ca.pem and server.pub; the server of runs needs ca.pem, secret, server.key and nodes/*.pub.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil

from airloom.errors import MissingExtra, RunFailed, ScenarioError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
DAYS = 365  # of certificates
START_S = 180.0  # for a SuperLink and its nodes to come
STOP_S = 10.0  # for a process to end by itself
_FILE = "processes.json"


def default_folder() -> Path:
    """Where the deployment of this user lies: $AIRLOOM_DEPLOYMENT, or the user's data folder."""
    import platformdirs

    named = os.environ.get("AIRLOOM_DEPLOYMENT")
    return Path(named) if named else Path(platformdirs.user_data_path("airloom")) / "deployment"


def need_flower() -> None:
    """Refuse to go on without the extra."""
    if any(importlib.util.find_spec(name) is None for name in ("flwr", "cryptography")):
        raise MissingExtra("flower", "a deployment")


@dataclass(frozen=True)
class Deployment:
    """A folder with what a deployment consists of."""

    folder: Path

    @property
    def ca(self) -> bytes:
        return self._read("ca.pem")

    @property
    def secret(self) -> bytes:
        return self._read("secret")

    @property
    def keys(self) -> dict[str, bytes]:
        """Public keys of the nodes that may be used, by name."""
        return {path.stem: path.read_bytes() for path in sorted((self.folder / "nodes").glob("*.pub"))}

    @property
    def address(self) -> str | None:
        """HOST:PORT of the SuperLink that runs here, if one does."""
        return running(self.folder).get("address")

    def sign(self) -> Callable[[bytes], bytes]:
        """What signs packets as this deployment's server."""
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        key: Any = load_pem_private_key(self._read("server.key"), None)
        return key.sign

    def _read(self, name: str) -> bytes:
        path = self.folder / name
        if not path.is_file():
            raise ScenarioError(
                f"deployment '{self.folder}': it has no {name}; make one with airloom up, or copy that file from the machine where it was made"
            )
        return path.read_bytes()


# --- keys and certificates ------------------------------------------------------------------------------------------------------------


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, from its first byte on."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def private_folder(path: Path) -> None:
    """Make a folder that only its owner may enter; refuse one that others may."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise ScenarioError(f"folder '{path}': others may enter it (mode {path.stat().st_mode & 0o777:o}); it holds keys: chmod 700 '{path}'")


def make_node_key(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a node's key pair; return the files of the private and the public key."""
    need_flower()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    _check_name(name)
    private_folder(folder)
    key = ec.generate_private_key(ec.SECP384R1())
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    if private.exists():
        raise ScenarioError(f"'{private}': it is there already; a node keeps its key, so choose another name or folder")
    write_private(private, _pem(key))
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def _pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def make_secrets(folder: Path, hosts: Sequence[str]) -> None:
    """Make an authority, the SuperLink's certificate for these hosts, the secret and the server's key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def name(text: str) -> Any:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def certificate(subject: str, key: Any, issuer: Any, issuer_key: Any, is_ca: bool) -> Any:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=DAYS))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        )
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
        )  # fmt: skip
        usage |= {"digital_signature": not is_ca, "key_cert_sign": is_ca, "crl_sign": is_ca}
        builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
        if not is_ca:
            names = [x509.IPAddress(ip_address(host)) if _is_ip(host) else x509.DNSName(host) for host in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        return builder.sign(issuer_key, hashes.SHA256())

    authority, link, server = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()
    root = certificate("airloom deployment authority", authority, name("airloom deployment authority"), authority, True)
    leaf = certificate("airloom superlink", link, root.subject, authority, False)
    (folder / "ca.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    (folder / "superlink.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    public = server.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "server.pub").write_bytes(public)
    for file, content in (
        ("ca.key", _pem(authority)),
        ("superlink.key", _pem(link)),
        ("server.key", _pem(server)),
        ("secret", secrets.token_bytes(32)),
    ):
        write_private(folder / file, content)


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ScenarioError(f"node {name!r}: allowed are up to 64 letters, digits, '_', '-' and '.', beginning with a letter or a digit")


# --- up and down ----------------------------------------------------------------------------------------------------------------------


def up(
    folder: Path, *, nodes: int, host: str = "127.0.0.1", port: int = 0, names: Sequence[str] = (), allow: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> str:  # fmt: skip
    """Bring up a SuperLink and nodes on this machine; return HOST:PORT. What was begun is taken down again where something fails.

    Arguments:
        folder: of the deployment; it is made, with all keys. One that is there, but not up, is used again.
        nodes: how many nodes run on this machine.
        host, port: where the SuperLink listens; port 0 takes a free one.
        names: further names and addresses by which other machines reach this host, for the certificate.
        allow: files with methods or scenarios of the user's own that the nodes may use.
    """
    need_flower()
    if nodes < 0 or not 0 <= port < 65536:
        raise ScenarioError(f"up(nodes={nodes}, port={port}): allowed are nodes >= 0 and ports from 0 to 65535")
    if running(folder):
        raise ScenarioError(f"deployment '{folder}': it is up already ({running(folder).get('address')}); airloom down stops it")
    files = [str(Path(file).resolve()) for file in allow]
    for file in files:
        if not Path(file).is_file():
            raise ScenarioError(f"up(allow='{file}'): there is no such file")
    private_folder(folder)
    for sub in ("nodes", "logs", "flwr", "states"):
        private_folder(folder / sub)
    if not (folder / "ca.pem").exists():
        own = {"localhost", "127.0.0.1", socket.gethostname(), *names, *([host] if host not in ("0.0.0.0", "::") else [])}
        make_secrets(folder, sorted(own))
    here = [f"node{i}" for i in range(1, nodes + 1)]
    for name in here:
        if not (folder / "nodes" / f"{name}.key").exists():
            make_node_key(folder / "nodes", name)
    port = port or _free_port(host)
    address = f"{'127.0.0.1' if host in ('0.0.0.0', '127.0.0.1') else host}:{port}"
    processes: list[dict[str, Any]] = []
    try:
        processes.append(_start(folder, "superlink", _superlink(folder, host, port)))
        _note(folder, address, processes)
        for name in here:
            command = [
                *(sys.executable, "-m", "airloom", "node", name, "--superlink", address),
                *("--ca", str(folder / "ca.pem"), "--server", str(folder / "server.pub")),
                *("--key", str(folder / "nodes" / f"{name}.key"), "--states", str(folder / "states" / name)),
                *(word for file in files for word in ("--allow", file)),
            ]
            processes.append(_start(folder, name, command))
            _note(folder, address, processes)
        _await_up(folder, address, processes, here, say)
    except BaseException:
        stop(processes)
        (folder / _FILE).unlink(missing_ok=True)
        raise
    return address


def _superlink(folder: Path, host: str, port: int) -> list[str]:
    command = Path(sys.executable).with_name("flower-superlink")
    return [
        str(command), "--ssl-ca-certfile", str(folder / "ca.pem"), "--ssl-certfile", str(folder / "superlink.pem"),
        "--ssl-keyfile", str(folder / "superlink.key"), "--enable-supernode-auth", "--isolation", "process",
        "--superexec-auth-secret-file", str(folder / "secret"), "--database", str(folder / "state.db"),
        "--disable-runtime-dependency-installation", "--host", host, "--port", str(port),
    ]  # fmt: skip


def _start(folder: Path, name: str, command: Sequence[str]) -> dict[str, Any]:
    """Start a process that outlives this one, with a log that only its owner may read."""
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": str(folder / "flwr"), "OMP_NUM_THREADS": "1"}
    paths = [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    log = os.open(folder / "logs" / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=folder, umask=0o077,
            env={**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
    finally:
        os.close(log)
    return {"name": name, "pid": process.pid, "began_s": psutil.Process(process.pid).create_time()}


def _await_up(folder: Path, address: str, processes: Sequence[Mapping[str, Any]], here: Sequence[str], say: Callable[[str], None]) -> None:
    """Return when the SuperLink answers, all keys are registered, and all nodes of this machine are online."""
    from airloom.engines import flower

    flwr = flower.find_flower(str(folder / "flwr"))
    deployment = Deployment(folder)
    ends_s = time.monotonic() + START_S
    are_known = False
    while True:
        dead = [entry["name"] for entry in processes if _process(entry) is None]
        if dead:
            raise RunFailed(f"deployment '{folder}': {dead[0]} ended at once: {_last_line(folder, dead[0])}")
        try:
            if not are_known:
                for name, key in deployment.keys.items():
                    flower.register(flwr, address, deployment.ca, name, key)
                are_known = True
            status = flower.online(flwr, address, deployment.ca)
            if all(status.get(name) == "online" for name in here):
                return
        except flwr.httpx.HTTPError:
            pass  # not yet
        if time.monotonic() > ends_s:
            raise RunFailed(f"deployment '{folder}': not all nodes came within {START_S:g} s; their logs are in {folder / 'logs'}")
        time.sleep(0.2)


def admit(folder: Path, name: str, key: Path) -> None:
    """Let a node with this public key take part; where the deployment is up, at once."""
    need_flower()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    _check_name(name)
    if not (folder / "nodes").is_dir():
        raise ScenarioError(f"deployment '{folder}': there is none; make it with airloom up")
    try:
        raw = key.read_bytes()
        public = serialization.load_ssh_public_key(raw) if raw.startswith(b"ecdsa-") else serialization.load_pem_public_key(raw)
    except (OSError, ValueError) as error:
        raise ScenarioError(f"admit({key}): it holds no public key ({type(error).__name__}); make one on the node with airloom key") from error
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise ScenarioError(f"admit({key}): got a {type(public).__name__}; allowed are EC keys (airloom key makes one)")
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    known = folder / "nodes" / f"{name}.pub"
    if known.exists() and known.read_bytes() != pem:
        raise ScenarioError(f"admit({name}): a node of this name has another key; choose another name, or delete {known} first")
    known.write_bytes(pem)
    address = Deployment(folder).address
    if address is not None:
        from airloom.engines import flower

        flower.register(flower.find_flower(str(folder / "flwr")), address, Deployment(folder).ca, name, pem)


def running(folder: Path) -> dict[str, Any]:
    """What of a deployment runs on this machine: address and processes; empty where nothing does."""
    path = folder / _FILE
    if not path.is_file():
        return {}
    noted = json.loads(path.read_text())
    alive = [entry for entry in noted["processes"] if _process(entry) is not None]
    return {"address": noted["address"], "processes": alive} if alive else {}


def down(folder: Path, *, keep: bool = False) -> list[str]:
    """Stop what runs on this machine and, unless `keep`, delete the deployment's folder with its keys; return the names of what was stopped."""
    if not folder.exists():
        raise ScenarioError(f"deployment '{folder}': there is none; nothing to take down")
    if not (folder / _FILE).exists() and not (folder / "ca.pem").exists():
        raise ScenarioError(f"folder '{folder}': it holds no deployment; nothing was touched")
    alive = running(folder).get("processes", [])
    stop(alive)
    if keep:
        (folder / _FILE).unlink(missing_ok=True)
    else:
        shutil.rmtree(folder)
    return [entry["name"] for entry in alive]


def stop(processes: Sequence[Mapping[str, Any]]) -> None:
    """End processes: politely, then at once."""
    found = [process for process in map(_process, processes) if process is not None]
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stubborn = psutil.wait_procs(found, timeout=STOP_S)
    for process in stubborn:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn, timeout=STOP_S)


def _process(entry: Mapping[str, Any]) -> psutil.Process | None:
    """The process that was noted, if it is still that one."""
    try:
        process = psutil.Process(entry["pid"])
        is_same = abs(process.create_time() - entry["began_s"]) < 0.01 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if is_same else None


def _note(folder: Path, address: str, processes: Sequence[Mapping[str, Any]]) -> None:
    partial = folder / f"{_FILE}.partial"
    partial.write_text(json.dumps({"address": address, "processes": list(processes)}))
    os.replace(partial, folder / _FILE)


def _free_port(host: str) -> int:
    """A port that nobody listens on, below those that systems give to connections: it must be free still when the SuperLink comes to listen."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise ScenarioError(f"up(host={host!r}): nothing can listen there ({error}); give an address of this machine") from error
        return port


def _last_line(folder: Path, name: str) -> str:
    lines = (folder / "logs" / f"{name}.log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


# --- a node ---------------------------------------------------------------------------------------------------------------------------


def serve_node(
    name: str,
    *,
    superlink: str,
    ca: Path,
    server: Path,
    key: Path,
    states: Path | None,
    open_job: Callable[[Mapping[str, Any]], Any],
    say: Callable[[str], None],
) -> None:
    """Be a node until this process is told to end.

    Arguments:
        name: for messages.
        superlink: HOST:PORT.
        ca, server, key: files of the authority's certificate, the server's public key, and this node's private key.
        states: folder for what clients must keep; None: they forget it when this process ends.
        open_job: turns what a run says of itself into objects, or refuses it.

    Raises:
        RunFailed: the SuperLink does not let this node in.
    """
    need_flower()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    from airloom.engines.flower import Fleet, Refused
    from airloom.engines.host import Host

    if os.name == "posix" and key.is_file() and key.stat().st_mode & 0o077:
        raise ScenarioError(f"key '{key}': others may read it (mode {key.stat().st_mode & 0o777:o}); chmod 600 '{key}'")
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), None)
        public = serialization.load_pem_public_key(server.read_bytes())
        authority = ca.read_bytes()
    except (OSError, ValueError) as error:
        raise ScenarioError(
            f"node '{name}': cannot read its keys ({type(error).__name__}); it needs --key, --server and --ca, see airloom key"
        ) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(public, ed25519.Ed25519PublicKey):
        raise ScenarioError(f"node '{name}': --key must be the EC key of airloom key, --server the server.pub of the deployment")
    if states is not None:
        private_folder(states)
    home = states.parent.parent / "flwr" if states is not None else Path(os.environ.get("FLWR_HOME", key.parent / "flwr"))
    host = Host(open_job, public.verify, states)
    fleet = Fleet(host, superlink, authority, private, str(home), say)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: fleet.is_over.set())
    try:
        fleet.serve(START_S)
    except Refused as error:
        raise RunFailed(f"node '{name}': {error}") from error


def how_to(folder: Path, address: str) -> str:
    """How to do on real hosts what `up` did here."""
    port = address.rpartition(":")[2]
    return f"""On real hosts, the same is:
  server:     airloom up --nodes 0 --host 0.0.0.0 --port {port} --name SERVER
  each host:  airloom key NAME                                   makes NAME.key (stays there) and NAME.pub
  server:     airloom admit NAME NAME.pub                        and give {folder}/ca.pem and server.pub to the host
  each host:  airloom node NAME --superlink SERVER:{port} --ca ca.pem --server server.pub --key NAME.key --states states
  server:     airloom run fedavg --engine flower --superlink SERVER:{port}"""
