"""The ring of processes: measured against predicted seconds per token, for several splits, numbers of turns and slowed links and layers.

    python benchmarks/ring.py [--tokens 24] [--repeats 3]

9.5 million drawn weights, 12 layers, one thread per process. Each run measures its profile right before it decodes, and gives the ratio of its
median token to its own prediction; cases take turns, so that a change of the machine's speed meets all. Medians over repeats, and the range of the
ratios. On a machine that does other work the processes wait for a core, which no prediction knows: run it on a quiet one (the load at the beginning
is printed). The goal is 0.8 to 1.2.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any

from airloom.cli import main as airloom

CASES: dict[str, dict[str, str]] = {
    "one process": {"workers": "1"},
    "three, one turn": {"workers": "3", "turns": "1"},
    "three, two turns": {"workers": "3", "turns": "2"},
    "three, four turns": {"workers": "3", "turns": "4"},
    "two turns, 30 ms per hop": {"workers": "3", "turns": "2", "ring.hop_delay_s": "0.03"},
    "two turns, 10 ms per hop and layer": {"workers": "3", "turns": "2", "ring.hop_delay_s": "0.01", "ring.layer_delay_s": "0.01"},
    "memsched, worker1 at 80 ms per layer": {"workers": "3", "planner": "memsched", "ring.layer_delay_s": "0.01,0.08,0.01"},
    "exact, the same, room for 8 each": {"workers": "3", "ring.layer_delay_s": "0.01,0.08,0.01", "ring.keep_layers": "8"},
}


def once(fields: dict[str, str], tokens: int) -> dict[str, Any]:
    """What `airloom run prima --engine ring --json` says."""
    settings = [word for name, value in fields.items() if name != "workers" for word in ("--set", f"{name}={value}")]
    with tempfile.TemporaryDirectory() as folder:
        command = ["run", "prima", "--engine", "ring", "--workers", fields["workers"], *settings, "--set", f"tokens={tokens}", "--json"]
        said = io.StringIO()
        with redirect_stdout(said):
            status = airloom([*command, "--out", str(Path(folder) / "run")])
        if status:
            sys.exit(f"airloom {' '.join(command)} failed")
        return json.loads(said.getvalue())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.2f} on {os.cpu_count()} processors\n")
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in CASES}
    for _ in range(given.repeats):
        for name, fields in CASES.items():
            told[name].append(once(fields, given.tokens))
    print("| case | turns x layers | layer, head, hop (ms) | measured (s) | predicted (s) | measured / predicted |\n|---|---|---|---|---|---|")
    for name, runs in told.items():
        ratios = sorted(run["token_s"] / run["predicted_s"] for run in runs)
        measured, predicted = (median(run[column] for run in runs) for column in ("token_s", "predicted_s"))
        profile = ", ".join(f"{1e3 * median(run['profile'][part] for run in runs):.2f}" for part in ("layer_s", "head_s", "hop_s"))
        split = f"{runs[0]['turns']} x ({', '.join(map(str, runs[0]['windows']))})"
        print(f"| {name} | {split} | {profile} | {measured:.4f} | {predicted:.4f} | {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |")


if __name__ == "__main__":
    main()
