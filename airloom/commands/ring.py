"""`airloom run prima --engine ring`: the ring on processes of this machine, with a record of measured seconds; `airloom doctor --profile`."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from math import ceil
from pathlib import Path
from statistics import median

import typer

from airloom.commands.terminal import answer, escape, out, say
from airloom.errors import ScenarioError

_FIELDS: Mapping[str, type] = {"model": str, "prompt": str, "layers": int, "keep_layers": int, "hop_delay_s": float, "layer_delay_s": float}
_NEVER = 1e3  # byte/s, too slow for any layer: what a process may keep is the plan's limit here, and the system does not enforce it


def ring(ctx: typer.Context, method: str, seed: int, workers: int | None, fields: Mapping[str, str], folder: Path | None, as_json: bool) -> None:
    """Plan with what this machine measures, decode in a ring of processes, and compare measured with predicted seconds.

    `ring.model` (a file of llama2.c; else weights are drawn), `ring.prompt` (token ids), `ring.layers` (padded with layers that add nothing),
    `ring.keep_layers` (layers that each process may keep in memory; an even share if not given), `ring.hop_delay_s` and `ring.layer_delay_s` (a list,
    one per process) are given with --set like fields of the method.
    """
    from airloom.api import folder_of
    from airloom.engines import ring as engine
    from airloom.models.decoder import Decoder, write_decoder
    from airloom.plans.pagecache import timeline
    from airloom.plans.placement import Placement, RingDevice, RingModel
    from airloom.records.record import RecordWriter
    from airloom.resolve import find_method
    from airloom.runner import describe_method, versions
    from airloom.serving.prima import Prima

    count = 3 if workers is None else workers
    own = {name.removeprefix("ring."): value for name, value in fields.items() if name.startswith("ring.")}
    if unknown := sorted(set(own) - set(_FIELDS)):
        raise ScenarioError(f"--set ring.{unknown[0]}: allowed are {', '.join('ring.' + name for name in _FIELDS)}")
    made = find_method(method).make({}, {name: value for name, value in fields.items() if not name.startswith("ring.")})
    if not isinstance(made, Prima):
        raise ScenarioError(f"--engine ring: got {method}; allowed is prima, whose layers go round a ring")
    prompt = [int(token) for token in own.get("prompt", "1").split()]
    delays = [float(seconds) for seconds in own.get("layer_delay_s", "0").split(",")]
    delays = delays * count if len(delays) == 1 else delays
    if len(delays) != count:
        raise ScenarioError(f"--set ring.layer_delay_s: got {len(delays)} numbers; allowed are one, or {count} with commas between them")
    hop_delay_s = float(own.get("hop_delay_s", "0"))
    with _ended_in_order(), engine.scratch() as scratch:
        path = scratch / "model.safetensors"
        layers = int(own["layers"]) if "layers" in own else None
        write_decoder(path, Path(own["model"]) if "model" in own else None, layers=layers, seed=seed)
        decoder = Decoder(path)
        shape = decoder.shape
        if not all(0 <= token < shape.vocabulary for token in prompt) or len(prompt) + made.tokens > shape.length:
            raise ScenarioError(f"--set ring.prompt: allowed are ids below {shape.vocabulary}, and with tokens={made.tokens} at most {shape.length}")
        tables = 4.0 * shape.vocabulary * shape.width
        model = RingModel(
            layers=shape.layers, layer_bytes=decoder.layer_bytes(), width=shape.width, row_bytes=4.0 * shape.width,
            cache_bytes=8.0 * shape.width // shape.heads * shape.kv_heads * shape.length, input_bytes=tables, output_bytes=tables,
        )  # fmt: skip
        names, keep = [f"worker{i}" for i in range(count)], int(own.get("keep_layers", 0))
        here = engine.profile(path, count, position=max(1, len(prompt) - 1 + made.tokens // 2))

        def devices(left: list[str]) -> list[RingDevice]:
            kept = max(keep, ceil(shape.layers / len(left))) * model.loaded_bytes  # whoever is left can hold all of the model
            return [
                RingDevice(
                    name=name, available_bytes=kept + (i == 0) * (model.output_bytes + model.row_bytes), disk_bytes_per_s=_NEVER,
                    hop_s=here.hop_s + hop_delay_s, cpu_layer_s=here.layer_s + delays[names.index(name)], output_s=here.head_s,
                )
                for i, name in enumerate(left)
            ]  # fmt: skip

        def planned(left: list[str]) -> Placement:
            return made.plan(model, devices(left))

        header = {
            **describe_method(made), "label": "prima", "scenario": {"name": "ring", "facts": dict(own)}, "engine": "ring", "clock": "measured",
            "seed": seed, "versions": versions(), "target": None, "budget": {}, "workers": count,
        }  # fmt: skip
        where = folder_of("auto" if folder is None else folder, f"ring-prima-{seed}")
        assert where is not None
        with RecordWriter(where, header) as writer:
            ahead = bool(made.prefetch)
            done = engine.decode(path, names, planned, prompt, made.tokens, hop_delay_s=hop_delay_s, layer_delay_s=delays, is_prefetched=ahead)
            at_s, first = 0.0, done.placements[0]
            for i, (token, seconds) in enumerate(zip(done.tokens, done.seconds, strict=True)):
                at_s += seconds
                writer.point({"seconds": at_s, "round": i, "token": token, "token_s": seconds})
            predicted = timeline(model, devices(names), first, is_prefetched=ahead).token_s
            found = {
                "tokens": done.tokens, "token_s": median(done.seconds), "predicted_s": predicted, "profile": asdict(here), "turns": first.turns,
                "windows": list(first.windows), "died": [{"worker": name, "after_tokens": after} for name, after in done.died],
            }  # fmt: skip
            writer.summary({"status": "done", "seconds": at_s, "rounds": len(done.tokens), "metrics": {}, **found})
    if as_json:
        answer(ctx, {"method": "prima", "engine": "ring", "clock": "measured", "seed": seed, **found, "out": str(where)})
        return
    for name, layers_of in zip(names, first.windows, strict=True):
        out(f"{name}: {first.turns * layers_of} of {shape.layers} layers, {first.turns} turn(s)")
    for name, after in done.died:
        say(f"[yellow]{name} died after {after} tokens; its layers were dealt out again[/]")
    out(f"{len(done.tokens)} tokens, median {median(done.seconds):.4g} s per token, predicted {predicted:.4g} s: {done.tokens}")
    say(f"record in {escape(str(where))}")


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Take SIGTERM as the end of this program, so that workers and files go with it."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def write_profile(file: Path, link: str, watts: float | None) -> None:
    """Measure this machine and write it for the scenario `home`.

    Arguments: link, "bits per second:seconds of latency" of its network; watts while computing. No program can know either.
    """
    from airloom.engines.profile import machine

    if watts is None:
        raise ScenarioError("--watts: got none; give what this machine draws while it computes, in watts (a meter at the plug shows it), such as 45")
    rate, colon, latency = link.partition(":")
    try:
        own = {"wifi_bps": float(rate), "latency_s": float(latency), "power_w": watts}
    except ValueError:
        raise ScenarioError(f"--link {link!r}: allowed is RATE:LATENCY in bit/s and seconds, for example 300e6:0.005") from None
    if not colon or not own["wifi_bps"] > 0 or own["latency_s"] < 0 or watts < 0:
        raise ScenarioError(f"--link {link!r}, --watts {watts}: allowed are a rate > 0, a latency >= 0 and watts >= 0")
    file.write_text(json.dumps(machine(file.absolute().parent) | own, indent=1))
    say(escape(f"wrote {file}; use it with: airloom plan prima --scenario home --set scenario.profile={file}"))
