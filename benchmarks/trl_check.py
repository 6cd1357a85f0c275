"""The core of group policy gradients against TRL: advantages, losses and gradients of the same updates of the same tiny model.

    python benchmarks/trl_check.py --env FOLDER [--json FILE]

TRL runs in a virtual environment of its own, built with pip in FOLDER where it is missing (some GB; pins of `constraints.txt`), draws a Llama of two
layers, samples, and makes two updates on the same samples, so that ratios leave 1 and clips bite. `airloom.parts.advantage` gets the rewards, tokens
and weights, nothing else. Needs `airloom[hf]` for the forward pass. Exit status 1 where anything differs by more than rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from math import inf, sqrt
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from airloom.parts.advantage import DR_GRPO, RLOO, Advantage, Surrogate, rollout

ROOT = Path(__file__).resolve().parents[1]
PINS = ["trl==1.16.0", "torch==2.13.0", "transformers==5.23.0"]
TOLERANCE = 1e-4  # relative, float32 on both sides: sums over some hundred terms, each off by 6e-8


def sampled(folder: Path) -> Path:
    """Build the environment if it is missing, and let TRL make its updates."""
    python, file = folder / "bin" / "python", folder / "updates.safetensors"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), *PINS], check=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    env.pop("PYTHONPATH", None)
    subprocess.run([str(python), str(ROOT / "benchmarks/peers/trl_updates.py"), str(file)], check=True, env=env, stdout=subprocess.DEVNULL)
    return file


def gap(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def compared(told: dict[str, Tensor], about: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per kind and update."""
    from transformers import LlamaConfig, LlamaForCausalLM

    G, T = about["group"], about["length"]
    f = sqrt((G - 1) / G)  # TRL divides by the sample's deviation, this package by the population's: s_population = f s_sample
    grpo = Advantage(kappa="one", is_scaled=True, epsilon=1e-4 * f)
    clip = {"eps_low": about["eps_low"], "eps_high": about["eps_high"]}
    kinds: dict[str, tuple[Advantage, float, Surrogate]] = {
        "grpo": (grpo, f, Surrogate(**clip, reduction="mean")),
        "dr_grpo": (DR_GRPO, 1.0, Surrogate(**clip, reduction="constant")),
        "rloo": (RLOO, 1.0, Surrogate(eps_low=inf, eps_high=inf, reduction="sum")),
    }
    rows: list[dict[str, Any]] = []
    for kind, (advantage, scale, surrogate) in kinds.items():
        old: Tensor | None = None
        for step in (0,) if kind == "rloo" else (0, 1):  # TRL's RLOO has one ratio per row: only where it is 1 is it the same estimator
            at = f"{kind}.{step}"
            model = LlamaForCausalLM(LlamaConfig(**about["shape"]))
            model.load_state_dict(
                {name.removeprefix(f"{at}.weight."): v for name, v in told.items() if name.startswith(f"{at}.weight.")}, strict=False
            )
            prompt, completion, mask = (told[f"{at}.{name}"] for name in ("prompt_ids", "completion_ids", "completion_mask"))
            ids, seen = torch.cat([prompt, completion], 1), torch.cat([told[f"{at}.prompt_mask"], mask], 1)
            order = torch.unique(prompt, dim=0, return_inverse=True)[1].argsort(stable=True)  # rows of a prompt together
            A = torch.empty(len(prompt))
            A[order] = torch.from_numpy(advantage(told[f"{at}.rewards"].double()[order].view(-1, G).numpy()) * scale).float().reshape(-1)
            pad = (0, T - completion.shape[1])
            logits = F.pad(model(input_ids=ids, attention_mask=seen).logits[:, prompt.shape[1] - 1 : -1], (0, 0, *pad))
            chosen, own = F.pad(completion, pad), F.pad(mask, pad).float()
            logp = logits.log_softmax(-1).gather(-1, chosen[..., None])[..., 0].detach()
            old = logp if old is None else old
            loss = surrogate(logits, rollout(chosen, chosen, own, A, old))
            loss.backward()
            slopes = [(value.grad, told[name]) for n, value in model.named_parameters() if (name := f"{at}.gradient.{n}") in told]
            flat = [torch.cat([pair[side].flatten() for pair in slopes]) for side in (0, 1)]  # type: ignore[union-attr]
            ratio = ((logp - old) * own).exp()
            outside = ((ratio < 1 - about["eps_low"]) | (ratio > 1 + about["eps_high"])).float()
            rows.append({
                "kind": kind, "update": step + 1, "advantages": gap(A, told[f"{at}.advantages"]), "gradient": gap(*flat),
                "loss": float(loss.detach()) - float(told[f"{at}.loss"]) if kind != "rloo" else None,
                "outside": float((outside * own).sum() / own.sum()),
            })  # fmt: skip
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with safe_open(sampled(given.env), "pt") as file:
        about, told = json.loads(file.metadata()["about"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    rows = compared(told, about)
    print("| kind | update | advantages | gradient | loss, difference | tokens outside the clip |\n|---|---|---|---|---|---|")
    for row in rows:
        loss = "another value" if row["loss"] is None else f"{row['loss']:.1e}"
        print(f"| {row['kind']} | {row['update']} | {row['advantages']:.1e} | {row['gradient']:.1e} | {loss} | {row['outside']:.2f} |")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))
    worst = max(max(row["advantages"], row["gradient"], abs(row["loss"] or 0.0)) for row in rows)
    print(f"{'agree' if worst <= TOLERANCE else 'DIFFER'}: largest difference {worst:.1e}, allowed {TOLERANCE:g}")
    sys.exit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
