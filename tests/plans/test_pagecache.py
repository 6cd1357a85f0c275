"""The page-cache timeline: the figures of the paper, closed forms, and the choice of turns."""

from __future__ import annotations

import pytest

from airloom.errors import DoesNotFit
from airloom.plans.pagecache import Timeline, best_turns, timeline
from airloom.plans.placement import Placement, RingDevice, RingModel, spans

GB = 1e9


def sized(layers: int) -> RingModel:
    return RingModel(layers=layers, layer_bytes=GB, cache_bytes=0.0, input_bytes=0.0, output_bytes=0.0, row_bytes=0.0, width=1)


def played(k: int, read_s: float, *, devices: int = 2, layers: int = 6, kept: int = 3, hop_s: float = 0.0, is_prefetched: bool = True) -> Timeline:
    """Equal devices with `layers` layers each, of which memory keeps `kept`; a layer takes 1 s to compute."""
    ring = [
        RingDevice(name=f"d{m}", available_bytes=kept * GB, disk_bytes_per_s=GB / read_s, cpu_layer_s=1.0, hop_s=hop_s, output_s=0.0)
        for m in range(devices)
    ]
    made = Placement(turns=k, windows=(layers // k,) * devices, gpu_windows=(0,) * devices, token_s=0.0, planner="even")
    return timeline(sized(devices * layers), ring, made, is_prefetched=is_prefetched)


@pytest.mark.parametrize(
    ("k", "read_s", "is_prefetched", "loads", "faults"),
    [
        (1, 0.01, True, 12, 6),  # figure 3: what is read ahead pushes out what comes first, so that all is read twice
        (1, 0.01, False, 6, 6),
        (3, 0.01, True, 6, 0),  # figure 4: windows of two, read while the other device computes
        (3, 2.0, True, 6, 3),  # figure 5: in the 2 s of the other's window one layer of two comes
    ],
)
def test_loads_and_faults_of_the_figures(k: int, read_s: float, is_prefetched: bool, loads: int, faults: int) -> None:
    found = played(k, read_s, is_prefetched=is_prefetched)
    assert (found.loads[0], found.faults[0]) == (loads, faults)


@pytest.mark.parametrize("read_s", [0.5, 0.75, 1.0, 3.0])
def test_closed_forms_of_equal_devices(read_s: float) -> None:
    # four devices, eight layers each, four kept. One turn waits for every layer: M l (tc + td) + M t_hop, with or without reading ahead
    hop_s = 0.1
    for is_prefetched in (True, False):
        assert played(1, read_s, devices=4, layers=8, kept=4, hop_s=hop_s, is_prefetched=is_prefetched).token_s == pytest.approx(
            32 * (1.0 + read_s) + 4 * hop_s
        )
    # two turns of four layers: hidden if 4 td <= 3 x 4 tc + 4 t_hop, then M l tc + k M t_hop
    found = played(2, read_s, devices=4, layers=8, kept=4, hop_s=hop_s)
    assert found.token_s == pytest.approx(32 + 8 * hop_s)
    assert found.waited_s == pytest.approx(0.0)


def test_gain_of_two_turns_in_a_model_of_twice_the_memory() -> None:
    for read_s in (0.75, 1.0, 2.0, 3.0):
        one, two = (played(k, read_s, devices=4, layers=8, kept=4).token_s for k in (1, 2))
        assert two <= 0.6 * one
    one, two = (played(k, 0.5, devices=4, layers=8, kept=4).token_s for k in (1, 2))
    assert 0.6 * one < two < 0.7 * one  # a cheap disk leaves less to gain


def test_what_fits_is_never_read_again() -> None:
    for k in (1, 2, 3):
        found = played(k, 1.0, kept=6, hop_s=0.5)
        assert (found.loads, found.faults) == ((0, 0), (0, 0))
        assert found.token_s == pytest.approx(12 + k * 2 * 0.5)  # k turns of two hops


def test_cyclic_use_reads_all_layers_as_soon_as_one_is_too_many() -> None:
    assert played(1, 0.01, layers=6, kept=5, is_prefetched=False).loads == (6, 6)  # the objective would charge one


def test_nothing_kept_and_one_device() -> None:
    assert played(2, 0.5, kept=0).loads[0] == 12  # each layer is asked for ahead, dropped, and read again
    alone = played(1, 0.5, devices=1, layers=4, kept=4, hop_s=7.0)
    assert alone.token_s == pytest.approx(4.0)  # a ring of one has no hop


def test_turns_are_chosen_by_the_timeline() -> None:
    ring = [RingDevice(name=f"d{m}", available_bytes=4 * GB, disk_bytes_per_s=GB, cpu_layer_s=1.0, hop_s=0.01, output_s=0.0) for m in range(4)]
    made, seconds = best_turns(sized(32), ring)
    assert made.turns == min(seconds, key=lambda k: (seconds[k], k))
    assert made.turns > 1
    assert seconds[made.turns] <= 0.6 * seconds[1]
    roomy, _ = best_turns(sized(12), ring)  # fits: every further turn only adds hops
    assert roomy.turns == 1


def test_a_model_that_fits_nowhere_is_refused() -> None:
    slow = [RingDevice(name="d", available_bytes=4 * GB, disk_bytes_per_s=5e7, cpu_layer_s=1.0, hop_s=0.0, output_s=0.0)]
    with pytest.raises(DoesNotFit, match=r"8 layers need 8\.00 GB.*add 4\.00 GB of memory, or give d a disk of at least 0\.1 GB/s"):
        best_turns(sized(8), slow)
    assert best_turns(sized(4), slow)[0].windows == (4,)


def test_layers_go_round_from_the_second_device_to_the_head() -> None:
    made = Placement(turns=2, windows=(1, 2), gpu_windows=(0, 0), token_s=0.0, planner="")
    assert made.owners() == [1, 1, 0, 1, 1, 0]
    assert spans([2, 5]) == "2, 5"
