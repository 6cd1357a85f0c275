"""Planners that deal the layers of a language model to the devices of a ring.

`halda` (as published): guess who is overloaded (sets M1 macOS, M2 Metal, M3 Linux and Android; M4 fits), solve one integer linear program per number
of turns k with these guesses as constraints, and go on with what its answer says until the guesses stand.

    min k (a.w + b.n + e.c)        sum w = L / k,   n <= w,   rows of memory for the set of each device

`halda_exact` (ours): no guesses. What a disk reads is a maximum of affine functions (with one binary `must reload` on Metal), so the whole is one
mixed-integer program per k; binaries x choose the devices.

Paper: Z. Li et al., "Prima.cpp", 2025, arXiv 2504.08791, Definition 1, appendix A and algorithm 1. Symbols and cost: `airloom.plans.placement`.
Left out: the head's priority of 1.01 in the authors' code; several GPUs in one device.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, inf
from typing import Any, Literal

import numpy as np

from airloom.errors import DoesNotFit, ScenarioError
from airloom.plans.integer import Row, least
from airloom.plans.placement import Placement, RingDevice, RingModel, refuse, token_s

_Set = Literal["overloaded", "fits"]
_Removal = Literal["paper", "code", "never"]


def apportion(weights: Sequence[float], total: int, at_least: int = 1) -> list[int]:
    """Whole numbers that sum to `total`, at least `at_least` each, as near to the weights as largest remainders come.

    >>> apportion([3.0, 1.0, 0.0], 8)
    [5, 2, 1]
    """
    if total < at_least * len(weights):
        raise ScenarioError(f"apportion: {total} layers for {len(weights)} devices with at least {at_least} each; leave devices out")
    free, whole = total - at_least * len(weights), sum(weights)
    shares = [free * (w / whole if whole else 1.0 / len(weights)) for w in weights]
    out = [at_least + floor(s) for s in shares]
    for m in sorted(range(len(out)), key=lambda m: (floor(shares[m]) - shares[m], m))[: total - sum(out)]:
        out[m] += 1
    return out


def halda_exact(model: RingModel, ring: Sequence[RingDevice], *, turns: int | None = None, is_all: bool = False) -> Placement:
    """The placement with the least seconds per token.

    Arguments:
        turns: this number of turns; None takes the best (the objective then always prefers 1: choose k with `airloom.plans.pagecache`).
        is_all: every device must hold a layer, as in paper mode without removal.

    Raises:
        DoesNotFit: no placement keeps slow disks within their memory.
    """
    M, L, unit = len(ring), model.layers, model.loaded_bytes
    best: Placement | None = None
    for k in model.turns() if turns is None else [turns]:
        if L % k:
            raise ScenarioError(f"halda_exact(turns={k}): must divide the model's {L} layers; choose one of {model.turns()}")
        W = L // k
        w, n, x, o, y = (range(i * M, (i + 1) * M) for i in range(5))  # o, bytes read per token, in layers
        rows: list[Row] = [(dict.fromkeys(w, 1.0), W, W)]
        cost, low, high = [0.0] * (5 * M), [0.0] * (5 * M), [float(W)] * (2 * M) + [1.0] * M + [inf] * M + [1.0] * M
        for m, d in enumerate(ring):
            gpus, fixed, head = d.gpu_layers(model, m == 0), d.fixed_bytes(model, m == 0) / unit, (m == 0) * model.row_bytes / unit
            cost[w[m]], cost[n[m]] = k * d.cpu_layer_s, k * (d.gpu_layer_s - d.cpu_layer_s) if gpus else 0.0
            cost[x[m]], cost[o[m]] = k * (d.copy_s + (0.0 if d.is_relay else d.hop_s)), unit / d.disk_bytes_per_s
            high[n[m]], low[x[m]] = min(W, gpus // k), float(m == 0 or is_all)
            rows += [({n[m]: 1.0, w[m]: -1.0}, -inf, 0.0), ({x[m]: 1.0, w[m]: -1.0}, -inf, 0.0), ({w[m]: 1.0, x[m]: -float(W)}, -inf, 0.0)]
            rows += [({o[m]: 1.0, x[m]: -head}, 0.0, inf)]
            have = (d.available_bytes + d.swap_bytes) / unit
            if d.system == "metal":
                high[y[m]], fixed = float(not d.is_slow_disk), fixed + d.gpu_buffer_bytes / unit
                A, tables = L + fixed, (m == 0) * (model.row_bytes + model.output_bytes) / unit
                B = L * model.layer_bytes / unit + tables
                rows += [({w[m]: float(k), x[m]: fixed, y[m]: -A}, -inf, have)]
                rows += [({o[m]: 1.0, w[m]: -k * model.layer_bytes / unit, y[m]: -B}, tables - B, inf)]
            else:
                spill = {} if d.is_slow_disk else {o[m]: -1.0}
                rows += [({w[m]: float(k), n[m]: -float(k), x[m]: fixed} | spill, -inf, have)]
        found = least(cost, rows, low, high, [1] * (3 * M) + [0] * M + [1] * M)
        if found is not None:
            windows, gpus = ([round(v) for v in found[part.start : part.stop]] for part in (w, n))
            best = _better(best, _placed(model, ring, windows, gpus, k, "halda_exact"))
        if not is_all or M == 1:  # the head alone pays no hop
            n_head = min(W, ring[0].gpu_layers(model, True) // k) if ring[0].gpu_layer_s < ring[0].cpu_layer_s else 0
            for alone in {0, n_head}:
                best = _better(best, _placed(model, ring, [W] + [0] * (M - 1), [alone] + [0] * (M - 1), k, "halda_exact"))
    if best is None or best.token_s == inf:
        raise refuse(model, ring, "halda_exact")
    return best


def _placed(model: RingModel, ring: Sequence[RingDevice], windows: Sequence[int], gpus: Sequence[int], turns: int, planner: str) -> Placement:
    seconds = token_s(model, ring, windows, gpus, turns)
    return Placement(turns=turns, windows=tuple(windows), gpu_windows=tuple(gpus), token_s=seconds, planner=planner)


def _better(a: Placement | None, b: Placement) -> Placement:
    return b if a is None or b.token_s < a.token_s else a


def halda(model: RingModel, ring: Sequence[RingDevice], *, gpu_start: bool = False, removal: _Removal = "paper") -> Placement:
    """The layer scheduler as published; not an optimum, and on some clusters without an answer.

    Arguments:
        gpu_start: begin with all layers of GPU devices on their GPUs (authors' code), not with none (paper).
        removal: drop devices that received one layer (paper), a window of one (authors' code), or none, and solve again.

    Raises:
        DoesNotFit: no program is feasible in the sets that the search arrives at.
    """
    held = list(range(len(ring)))
    while True:
        part = _fixed_ring(model, [ring[m] for m in held], gpu_start)
        counted = part.turns if removal == "paper" else 1
        gone = [m for m, w in zip(held[1:], part.windows[1:], strict=True) if w * counted == 1 and removal != "never"]
        if not gone:
            break
        held = [m for m in held if m not in gone]
    windows, gpus = [0] * len(ring), [0] * len(ring)
    for m, w, n in zip(held, part.windows, part.gpu_windows, strict=True):
        windows[m], gpus[m] = w, n
    return _placed(model, ring, windows, gpus, part.turns, "halda")


def _fixed_ring(model: RingModel, ring: Sequence[RingDevice], gpu_start: bool) -> Placement:
    """Steps 1 to 5 for devices that all stay."""
    M, L, unit = len(ring), model.layers, model.loaded_bytes
    if M > L:
        raise DoesNotFit(f"halda: {M} devices need a layer each, the model has {L}; give a smaller ring")
    caps = [d.gpu_layers(model, m == 0) for m, d in enumerate(ring)]
    room = [d.room_bytes(model, m == 0) / unit for m, d in enumerate(ring)]
    w = apportion([d.available_bytes for d in ring], L)
    n = [min(a, c) if gpu_start else 0 for a, c in zip(w, caps, strict=True)]
    k, held, seen, best = 1, set[int](), list[list[_Set]](), None
    while True:
        layers = [k * (a - b if d.system in ("linux", "android") else a) for a, b, d in zip(w, n, ring, strict=True)]
        sets: list[_Set] = ["fits" if m in held or ring[m].is_slow_disk or layers[m] <= room[m] else "overloaded" for m in range(M)]
        if sets in seen:
            break
        seen.append(sets)
        solved = [(s, p) for p in model.turns() if L // p >= M and (s := _program(model, ring, sets, caps, room, p)) is not None]
        if not solved:
            break  # authors' code: back to the last answer
        (_, w, n), k = min(solved, key=lambda s: (round(s[0][0], 12), s[1]))
        best = _placed(model, ring, w, n, k, "halda")
        over = [m for m in range(M) if sets[m] == "overloaded"]
        if over and any(k * (b + 1) <= c for b, c in zip(n, caps, strict=True)):  # a GPU has room while another device reads from disk
            held.add(min(over, key=lambda m: ring[m].disk_bytes_per_s))
    if best is None or best.token_s == inf:
        raise refuse(model, ring, "halda")
    return best


def _program(model: RingModel, ring: Sequence[RingDevice], sets: list[_Set], caps: list[int], room: list[float], k: int) -> Any:
    """The integer linear program of one k: (cost, w, n), or None."""
    M, W = len(ring), model.layers // k
    cost, low, high = [0.0] * (2 * M), [1.0] * M + [0.0] * M, [float(W)] * M + [float(min(W, c // k)) for c in caps]
    rows: list[Row] = [({m: 1.0 for m in range(M)}, W, W)]
    for m, d in enumerate(ring):
        read = {"metal": model.layer_bytes}.get(d.system, model.loaded_bytes) / d.disk_bytes_per_s if sets[m] == "overloaded" else 0.0
        cost[m] = k * (d.cpu_layer_s + read)
        cost[M + m] = k * (d.gpu_layer_s - d.cpu_layer_s - (read if d.system in ("linux", "android") else 0.0)) if caps[m] else 0.0
        held = {m: 1.0, M + m: -1.0} if d.system in ("linux", "android") else {m: 1.0}
        fit = floor(max(room[m], -1.0) + 1e-9)  # layers that fit: k held <= fit, or k held >= fit + 1
        rows += [(held, -inf, floor(fit / k)) if sets[m] == "fits" else (held, ceil((fit + 1) / k), inf), ({M + m: 1.0, m: -1.0}, -inf, 0.0)]
    found = least(cost, rows, low, high, [1] * (2 * M))
    if found is None:
        return None
    whole = [round(v) for v in found]
    constant = k * sum(d.copy_s + d.hop_s for d in ring)
    return float(np.dot(cost, whole)) + constant, whole[:M], whole[M:]
