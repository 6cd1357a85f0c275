"""Checks of this machine: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from airloom.errors import AirloomError
from airloom.resolve import cores

# one module of each extra of the package
EXTRAS = {
    "ray": "ray",
    "flower": "flwr",
    "private": "dp_accounting",
    "hf": "transformers",
    "serve": "fastapi",
    "data": "PIL",
    "track": "tensorboard",
}
LEAST_MEMORY_BYTES = 2e9  # for torch, a data set and some hundred models of the size of the scenarios' (ours)


class Check(NamedTuple):
    """One line: what was looked at, whether it is fine, what was found, what to do if it is not, and whether airloom needs it."""

    name: str
    is_good: bool
    found: str
    advice: str = ""
    is_needed: bool = True


def checks(runs: Path) -> Iterator[Check]:
    """Look at everything; lines come as they are known, the slow ones last.

    Arguments:
        runs: folder in which records will be made.
    """
    version = platform.python_version()
    yield Check("python", sys.version_info >= (3, 11), f"{version} on {platform.system()} {platform.machine()}", "install Python 3.11 or later")
    yield _tried("torch", _torch, "pip install torch")
    yield Check("cores", True, f"{cores()} usable, {os.cpu_count()} in all")
    yield _memory()
    yield _writable(runs)
    yield _data()
    for extra, module in EXTRAS.items():
        is_there = importlib.util.find_spec(module) is not None
        yield Check(f"extra {extra}", is_there, "installed" if is_there else "not installed", f"pip install 'airloom[{extra}]' if you want it", False)
    yield _tried("fork", _fork, "runs use one process each (executor loop); on Windows that is all there is", is_needed=False)
    yield _tried("kernel", _kernel, "a C compiler (cc) makes training of dense layers several times as fast, of adapters a little", is_needed=False)
    yield _tried("tiny run", _tiny_run, "see the error; try `python -m airloom run fedavg` for all of it")


def _tried(name: str, look: Callable[[], str], advice: str, *, is_needed: bool = True) -> Check:
    """Return what was found, or the error as one line."""
    try:
        return Check(name, True, look(), advice, is_needed)
    except (AirloomError, ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        return Check(name, False, f"{type(error).__name__}: {error}".replace("\n", " "), advice, is_needed)


def _torch() -> str:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{torch.__version__} on {device}, {torch.get_num_threads()} threads (runs use one per process)"


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / 1e9:.1f} GB free of {memory.total / 1e9:.1f} GB"
    return Check("memory", memory.available >= LEAST_MEMORY_BYTES, found, "close other programs, or use fewer --workers")


def _writable(runs: Path) -> Check:
    """Look at the folder, or at the nearest one above it that is there."""
    folder = runs.absolute()
    while not folder.exists():
        folder = folder.parent
    return Check("run folder", os.access(folder, os.W_OK), str(runs.absolute()), "go to a folder where you may write, or use --out")


def _data() -> Check:
    from airloom.tasks import datasets

    wanted = [name for name in datasets.names() if datasets.files(name)]
    there = [name for name in wanted if not missing(name)]
    folder = os.environ.get("AIRLOOM_DATA")
    found = f"digits (built in){''.join(', ' + name for name in there)}; AIRLOOM_DATA is {folder or 'not set'}"
    return Check("data", len(there) == len(wanted), found, "set AIRLOOM_DATA to the folder with the files; see airloom data list", False)


def missing(name: str) -> list[str]:
    """Return the files of a data set that are not where it is looked for."""
    return [file for file, path in places(name).items() if path is None]


def places(name: str) -> dict[str, Path | None]:
    """Return where each file of a data set lies: below the folder AIRLOOM_DATA, or directly in it; None where it does not."""
    from airloom.tasks import datasets

    folder = os.environ.get("AIRLOOM_DATA")
    found: dict[str, Path | None] = {}
    for file in datasets.files(name):
        candidates = [] if not folder else [Path(folder).expanduser() / file, Path(folder).expanduser() / Path(file).name]
        found[file] = next((path for path in candidates if path.is_file()), None)
    return found


def _fork() -> str:
    """Fork once, in a process of its own: this one may have threads."""
    text = "import os; pid = os.fork(); os._exit(7) if pid == 0 else print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=30)
    if done.stdout.strip() != "7":
        raise OSError((done.stderr.strip().splitlines() or ["a forked process did not answer"])[-1])
    return "works: the pool executor can be used"


def _kernel() -> str:
    from airloom.models import narrow
    from airloom.models.dense import kernel

    kernel()
    return f"works: training of dense layers{' and narrow adapters' if narrow.library() is not None else ''} runs compiled"


def _tiny_run() -> str:
    from airloom import api

    began_s = time.monotonic()
    small = {"scenario.devices": 4, "scenario.base_stations": 1}
    done = api.run("fedavg:local_steps=2", set=small, budget={"rounds": 2}, executor="loop", out=None)
    return f"{len(done.points)} rounds of fedavg on 4 phones in {time.monotonic() - began_s:.1f} s"
