"""A device: what computing costs in seconds, bytes of memory and joules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import exp, log
from typing import Literal, NamedTuple

from airloom.network.check import need_non_negative, need_positive, need_share, refuse

MeasuredRadio = Literal["lte", "5g_low", "5g_mmwave"]

# Power of a phone against its rate: least-squares lines through the controlled transfers (1 to 2,480 Mbit/s, base power of the phone
# included) published with Narayanan et al., SIGCOMM 2021, https://github.com/SIGCOMM21-5G/artifact: (base W, J/bit) up, then down.
_MEASURED: Mapping[str, tuple[float, float, float, float]] = {
    "lte": (2.926, 76.7e-9, 2.839, 11.54e-9),
    "5g_low": (3.199, 32.2e-9, 3.059, 11.54e-9),
    "5g_mmwave": (5.664, 8.9e-9, 5.237, 1.726e-9),
}
_CPU: Mapping[str, int] = {"cpu": 1}
_NO_FORMATS: Mapping[str, float] = {}


class Work(NamedTuple):
    """What one call computes; the sizes that a price or a table may ask for.

    Arguments: flops (multiply-add = 2), steps (optimizer steps or other launches), samples (of the call), width (fraction of the model's
    width in (0, 1]), bytes_moved (to and from memory), format (number format).
    """

    flops: float = 0.0
    steps: int = 0
    samples: int = 0
    width: float = 1.0
    bytes_moved: float = 0.0
    format: str = "float32"


@dataclass(frozen=True, kw_only=True, slots=True)
class RadioEnergy:
    """What a device's radio draws while it sends or receives, linear along one flow.

    joules = w_per_w * P_tx * air_s + air_w * air_s + elapsed_w * elapsed_s + j_per_bit * bits

    Build one with `RadioEnergy.linear_pa` or `RadioEnergy.measured`; the two differ tenfold, so records carry `name`.

    >>> pa = RadioEnergy.linear_pa(pa_efficiency=0.4, circuit_w=0.1, receive_w=0.3)
    >>> round(pa.transmit_j(transmit_power_w=0.2, air_s=2.0, elapsed_s=8.0, bits=1e6), 9)      # (0.2/0.4 + 0.1) * 2
    1.2
    >>> lte = RadioEnergy.measured("lte")
    >>> round(lte.transmit_j(transmit_power_w=0.2, air_s=2.0, elapsed_s=8.0, bits=1e6), 9)     # 2.926 * 8 + 0.0767
    23.4847
    """

    name: str
    transmit_w_per_w: float
    transmit_air_w: float
    transmit_elapsed_w: float
    transmit_j_per_bit: float
    receive_air_w: float
    receive_elapsed_w: float
    receive_j_per_bit: float

    def __post_init__(self) -> None:
        for name, value in (
            ("transmit_w_per_w", self.transmit_w_per_w),
            ("transmit_air_w", self.transmit_air_w),
            ("transmit_elapsed_w", self.transmit_elapsed_w),
            ("transmit_j_per_bit", self.transmit_j_per_bit),
            ("receive_air_w", self.receive_air_w),
            ("receive_elapsed_w", self.receive_elapsed_w),
            ("receive_j_per_bit", self.receive_j_per_bit),
        ):
            need_non_negative(f"RadioEnergy('{self.name}')", name, value, "give watts, or joules per bit")

    @staticmethod
    def linear_pa(*, pa_efficiency: float, circuit_w: float, receive_w: float) -> RadioEnergy:
        """Return the model `P_tx / pa_efficiency + circuit_w` while on air, and `receive_w` while receiving."""
        need_share("RadioEnergy.linear_pa", "pa_efficiency", pa_efficiency, "a power amplifier gives 0.1 to 0.5 of what it draws")
        return RadioEnergy(
            name="linear_pa",
            transmit_w_per_w=1.0 / pa_efficiency,
            transmit_air_w=circuit_w,
            transmit_elapsed_w=0.0,
            transmit_j_per_bit=0.0,
            receive_air_w=receive_w,
            receive_elapsed_w=0.0,
            receive_j_per_bit=0.0,
        )

    @staticmethod
    def measured(kind: MeasuredRadio) -> RadioEnergy:
        """Return a phone's measured line, `base + slope * rate` over the elapsed time, for "lte", "5g_low" or "5g_mmwave"."""
        if kind not in _MEASURED:
            refuse("RadioEnergy.measured", "kind", kind, "one of " + ", ".join(_MEASURED), "or build a RadioEnergy from your own slopes")
        up_w, up_j, down_w, down_j = _MEASURED[kind]
        return RadioEnergy(
            name=f"measured_{kind}",
            transmit_w_per_w=0.0,
            transmit_air_w=0.0,
            transmit_elapsed_w=up_w,
            transmit_j_per_bit=up_j,
            receive_air_w=0.0,
            receive_elapsed_w=down_w,
            receive_j_per_bit=down_j,
        )

    def transmit_j(self, *, transmit_power_w: float | None, air_s: float, elapsed_s: float, bits: float) -> float:
        """Return the joules of sending: air_s on the air within elapsed_s; measured models do not look at `transmit_power_w`."""
        on_air_w = self.transmit_air_w
        if self.transmit_w_per_w:
            if transmit_power_w is None:
                refuse(f"RadioEnergy('{self.name}')", "transmit_power_w", None, "given", "give the link the sender's power in watts")
            on_air_w += self.transmit_w_per_w * transmit_power_w
        return on_air_w * air_s + self.transmit_elapsed_w * elapsed_s + self.transmit_j_per_bit * bits

    def receive_j(self, *, air_s: float, elapsed_s: float, bits: float) -> float:
        """Return the joules of receiving: air_s on the air within elapsed_s."""
        return self.receive_air_w * air_s + self.receive_elapsed_w * elapsed_s + self.receive_j_per_bit * bits


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacitance:
    """Dynamic energy of a processor, `kappa * cycles * clock_hz^2`.

    cycles = flops * cycles_per_flop, and clock_hz * seconds for work that is known by its time alone.

    Arguments: kappa [J s^2 per cycle] effective capacitance; clock_hz; cycles_per_flop.

    >>> round(Capacitance(kappa=1e-28, clock_hz=2e9, cycles_per_flop=0.5).joules(0.0, 1e10), 9)      # 1e-28 * 5e9 * 4e18
    2.0
    """

    kappa: float
    clock_hz: float
    cycles_per_flop: float

    def __post_init__(self) -> None:
        for name, value in (("kappa", self.kappa), ("clock_hz", self.clock_hz), ("cycles_per_flop", self.cycles_per_flop)):
            need_positive("Capacitance", name, value, "give what the processor has, or use power_w instead")

    def joules(self, seconds: float, flops: float) -> float:
        """Return the joules of `flops`, or of `seconds` at full clock where no FLOPs are known."""
        cycles = flops * self.cycles_per_flop if flops else self.clock_hz * seconds
        return self.kappa * cycles * self.clock_hz**2


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A compute profile.

    seconds = max(flops / (efficiency * peak), bytes_moved / memory_bytes_per_s) + step_overhead_s * steps, or
    seconds = samples * seconds_per_sample(width) + step_overhead_s * steps         when there is a measured table

    Arguments
    ---------
    profile : name of the profile, for records.
    speed_flops_per_s : peak in float32, FLOP/s; `formats` names the peak of other number formats.
    efficiency : share of the peak that training reaches, (0, 1].
    memory_bytes : memory that an application can get (not what is installed); `baseline_bytes` of it go to the runtime.
    power_w, capacitance : exactly one: watts while computing (on top of idle), or `Capacitance`.
    idle_power_w : watts drawn whenever the device is on.
    memory_bytes_per_s : None leaves the memory side of the roofline out.
    step_overhead_s : seconds per step that are no arithmetic (launch, framework).
    seconds_per_sample : measured table by width fraction; straight lines in log-log between its entries, an error outside.
    battery_j : None means mains power.
    disk_bytes_per_s : None means no disk calls.
    slots : calls that run at once per resource. duplex : whether the radio sends and receives at the same time. radio : its energy model.

    >>> phone = Device(profile="phone", speed_flops_per_s=1e10, efficiency=0.5, memory_bytes=2e9, baseline_bytes=5e8, power_w=3.0, idle_power_w=0.5)
    >>> phone.seconds(Work(flops=1e10)), phone.joules(2.0, Work(flops=1e10)), phone.available_bytes
    (2.0, 6.0, 1500000000.0)
    """

    profile: str
    speed_flops_per_s: float
    efficiency: float
    memory_bytes: float
    baseline_bytes: float
    idle_power_w: float
    power_w: float | None = None
    capacitance: Capacitance | None = None
    formats: Mapping[str, float] = field(default_factory=lambda: _NO_FORMATS)
    memory_bytes_per_s: float | None = None
    step_overhead_s: float = 0.0
    seconds_per_sample: Mapping[float, float] | None = None
    battery_j: float | None = None
    disk_bytes_per_s: float | None = None
    slots: Mapping[str, int] = field(default_factory=lambda: _CPU)
    duplex: Literal["full", "half"] = "full"
    radio: RadioEnergy | None = None

    def __post_init__(self) -> None:
        owner = f"Device('{self.profile}')"
        need_positive(owner, "speed_flops_per_s", self.speed_flops_per_s, "give the peak in float32")
        need_share(owner, "efficiency", self.efficiency, "state the share of the peak that training reaches")
        need_positive(owner, "memory_bytes", self.memory_bytes, "give the memory that an application can get")
        need_non_negative(owner, "baseline_bytes", self.baseline_bytes, "give what the runtime takes, or 0")
        if self.baseline_bytes >= self.memory_bytes:
            refuse(owner, "baseline_bytes", self.baseline_bytes, f"below memory_bytes={self.memory_bytes!r}", "the runtime alone does not fit")
        need_non_negative(owner, "idle_power_w", self.idle_power_w, "give watts, or 0 to leave idle energy out")
        if (self.power_w is None) == (self.capacitance is None):
            refuse(owner, "power_w, capacitance", (self.power_w, self.capacitance), "exactly one", "choose one model of compute energy")
        if self.power_w is not None:
            need_non_negative(owner, "power_w", self.power_w, "give the watts that computing adds to idle")
        for name, value in (
            ("memory_bytes_per_s", self.memory_bytes_per_s),
            ("battery_j", self.battery_j),
            ("disk_bytes_per_s", self.disk_bytes_per_s),
        ):
            if value is not None:
                need_positive(owner, name, value, "or None where it is not modeled")
        need_non_negative(owner, "step_overhead_s", self.step_overhead_s, "give seconds per step, or 0")
        for name, speed in self.formats.items():
            need_positive(owner, f"formats['{name}']", speed, "give the peak of that format in FLOP/s")
        if self.slots is not _CPU:
            for name, count in self.slots.items():
                if count < 1:
                    refuse(owner, f"slots['{name}']", count, "an integer >= 1", "leave out a resource that the device does not have")
        if self.duplex not in ("full", "half"):
            refuse(owner, "duplex", self.duplex, "'full' or 'half'", "choose one")
        if self.seconds_per_sample is not None:
            if not self.seconds_per_sample:
                refuse(owner, "seconds_per_sample", {}, "a table with at least one width", "or None to use speed_flops_per_s")
            for width, value in self.seconds_per_sample.items():
                need_share(owner, "seconds_per_sample width", width, "widths are fractions of the full model")
                need_positive(owner, f"seconds_per_sample[{width}]", value, "give measured seconds")

    @property
    def available_bytes(self) -> float:
        """Memory for models and data: `memory_bytes - baseline_bytes`."""
        return self.memory_bytes - self.baseline_bytes

    def peak_flops_per_s(self, number_format: str) -> float:
        """Return the peak in a number format; a format without a figure is an error, never a guess."""
        if number_format == "float32":
            return self.formats.get("float32", self.speed_flops_per_s)
        if number_format not in self.formats:
            refuse(f"Device('{self.profile}')", "formats", sorted(self.formats), f"a table with '{number_format}'", "give its peak speed in FLOP/s")
        return self.formats[number_format]

    def seconds(self, work: Work) -> float:
        """Return the seconds of `work` on this device."""
        overhead_s = self.step_overhead_s * work.steps
        if self.seconds_per_sample is not None and work.samples:
            return work.samples * self._table_s(self.seconds_per_sample, work.width) + overhead_s
        if not work.flops >= 0.0 or not work.bytes_moved >= 0.0:
            refuse("Work", "flops, bytes_moved", (work.flops, work.bytes_moved), "numbers >= 0", "price the call before asking for its time")
        busy_s = work.flops / (self.efficiency * self.peak_flops_per_s(work.format))
        if self.memory_bytes_per_s is not None:
            busy_s = max(busy_s, work.bytes_moved / self.memory_bytes_per_s)
        return busy_s + overhead_s

    def joules(self, seconds: float, work: Work) -> float:
        """Return the joules that computing `work` for `seconds` adds to idle."""
        if self.power_w is not None:
            return self.power_w * seconds
        return 0.0 if self.capacitance is None else self.capacitance.joules(seconds, work.flops)

    def _table_s(self, table: Mapping[float, float], width: float) -> float:
        """Seconds per sample at `width`: an entry, or the straight line in log-log between its two neighbors."""
        exact = table.get(width)
        if exact is not None:
            return exact
        widths = sorted(table)
        for low, high in pairwise(widths):
            if low < width < high:
                share = log(width / low) / log(high / low)
                return exp(log(table[low]) + share * log(table[high] / table[low]))
        refuse(
            f"Device('{self.profile}')",
            "width",
            width,
            f"within the measured table, {widths[0]} to {widths[-1]}",
            "use a width inside, or a device without a table",
        )
