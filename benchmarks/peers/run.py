"""Identical work on airloom and on its peers, each in a virtual environment of its own; one table.

    python benchmarks/peers/run.py --envs FOLDER [--clients 100] [--rounds 6] [--passes 2] [--only NAME ...] [--json FILE]

MLP 784-128-10, 100 clients a round, ten steps of 32 rows, the same rows, initial weights and averaging everywhere (`work.py`); `loss` over all rows
after the last round shows that it was the same work. Environments are built with pip in FOLDER where they are missing (some GB); one that cannot be
built, or does not run, is reported as such. Passes go through the engines in turn; the first round of each run is given by itself, and `updates/s`
is the median over all other rounds, in wall seconds. Limit: GFLOP/s of a large oneDNN product on one core, times cores used, over the work's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ENVS = {
    "jax": ["jax==0.10.2"],
    "fedjax": ["fedjax==0.0.17", "jax==0.10.2"],
    "pfl": ["pfl[pytorch]==0.6.0", "torch==2.13.0"],
    "flower": ["flwr[simulation]==1.41.0", "torch==2.13.0"],
}  # the plain loop runs with airloom's own torch
ENGINES: dict[str, tuple[str, list[str]]] = {
    "plain torch loop": ("", ["torch_loop.py"]),
    "airloom, eager": ("", ["airloom_engine.py", "off", "loop"]),
    "airloom, replay": ("", ["airloom_engine.py", "replay", "loop"]),
    "airloom, auto": ("", ["airloom_engine.py", "auto", "loop"]),
    "airloom, auto, pool of two": ("", ["airloom_engine.py", "auto", "pool"]),
    "JAX scan": ("jax", ["jax_scan.py"]),
    "FedJAX": ("fedjax", ["fedjax_engine.py"]),
    "pfl-research": ("pfl", ["pfl_engine.py"]),
    "Flower simulation, 2 workers": ("flower", ["flower_engine.py"]),
}
FLOPS = 6 * (784 * 128 + 128 * 10) - 2 * 784 * 128  # per row: forward, and both gradients but that of the input


def build(folder: Path, name: str) -> str:
    """Build an environment if it is missing; return why it cannot be, or nothing."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
        done = subprocess.run([str(python), "-m", "pip", "install", "-q", *ENVS[name]], capture_output=True, text=True, check=False)
        if done.returncode:
            return f"does not install: {(done.stderr.strip().splitlines() or ['no message'])[-1][:120]}"
    return ""


def run(python: str, words: list[str], work: Path, limit_s: float) -> dict[str, Any]:
    """Run one engine; its result, or why there is none."""
    env = {
        **os.environ, "PEER_WORK": str(work), "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3",
    }  # fmt: skip
    if not Path(python).samefile(sys.executable):
        env.pop("PYTHONPATH", None)
    try:
        done = subprocess.run([python, *words], cwd=HERE, env=env, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"no end after {limit_s:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return json.loads(lines[-1][7:]) if lines else {"failed": f"does not run: {(done.stderr.strip().splitlines() or ['no message'])[-1][:120]}"}


def gflops() -> float:
    """GFLOP/s of a large oneDNN product on one core, best of five."""
    import torch

    torch.set_num_threads(1)
    a, w = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        torch.ops.mkldnn._linear_pointwise(a, w, None, "none", [], "")
        best = max(best, 2 * 1024**3 / (time.perf_counter() - began) / 1e9)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--limit-s", type=float, default=300.0)
    parser.add_argument("--only", nargs="+", choices=sorted(ENGINES))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sys.path.insert(0, str(HERE))
    from work import write

    names = given.only or list(ENGINES)
    reasons = {env: build(given.envs, env) for env in ENVS if any(ENGINES[name][0] == env for name in names)}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    limits = [gflops()]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work.npz"
        write(work, given.clients, given.rounds)
        for _ in range(given.passes):
            for name in names:
                env, words = ENGINES[name]
                python = str(given.envs / env / "bin" / "python") if env else sys.executable
                result = {"failed": reasons[env]} if reasons.get(env) else run(python, words, work, given.limit_s)
                found[name].append(result)
                print(name, result.get("failed") or f"{given.clients / statistics.median(result['wall_s'][1:]):.0f} updates/s", file=sys.stderr)
        limits.append(gflops())
    limit = max(limits) * 1e9 / (FLOPS * 10 * 32)
    print("| engine | updates/s | CPU ms per update | first round (s) | peak (MB) | loss |\n|---|---|---|---|---|---|")
    for name, results in found.items():
        good = [r for r in results if "failed" not in r]
        if not good:
            print(f"| {name} | {results[0]['failed']} | | | | |")
            continue
        rate = given.clients / statistics.median([s for r in good for s in r["wall_s"][1:]])
        cpu = 1e3 * statistics.median([s for r in good for s in r["cpu_s"][1:]]) / given.clients
        first, peak = min(r["first_s"] for r in good), max(r["peak_mb"] for r in good)
        print(f"| {name} | {rate:.0f} | {cpu:.2f} | {first:.1f} | {peak:.0f} | {good[-1]['loss']:.6f} |")
    print(f"\nLimit of one core: {max(limits):.0f} GFLOP/s of a large oneDNN product, {limit:.0f} updates/s.")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
