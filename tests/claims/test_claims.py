"""The papers' orderings: at full size with `make claims`, which rewrites the records, and small in the slow lane."""

from __future__ import annotations

from statistics import fmean

import pytest

from benchmarks.claims import (
    ada_lora_is,
    fedex,
    fedzo,
    fslora,
    hist,
    ics,
    mtgc,
    ordered_sgd,
    sequential_fl,
    sequential_split,
    splitfrozen,
    tequila,
    whale_fl,
)
from benchmarks.claims.harness import RECORDS, Outcome


def rounds_to_target(outcome: Outcome, case: str, label: str) -> float:
    """Mean over seeds; a run that does not reach the target counts one round more than it has, which is a lower bound."""
    found = outcome.each(case, label, "rounds_to_target")
    rounds = mtgc.FULL.cases[case]
    assert isinstance(rounds, int)
    return fmean(rounds + 1 if value is None else value for value in found)


@pytest.mark.slow
def test_small_mtgc_beats_either_correction_which_beats_none() -> None:
    outcome = mtgc.run(mtgc.SMALL)
    mean = {side.label: outcome.mean("both", side.label, "accuracy") for side in mtgc.SIDES}
    assert mean["mtgc"] > max(mean["z only"], mean["y only"]) + 0.01
    assert max(mean["z only"], mean["y only"]) > mean["hfedavg"] + 0.05
    assert mean["z only"] > mean["hfedavg"]


@pytest.mark.slow
def test_small_chain_beats_the_mean_on_one_class_per_client() -> None:
    outcome = sequential_fl.run(sequential_fl.SMALL)
    assert sequential_fl.gap(outcome, "C = 1") > 0.04
    # the same devices and links: a chain of 10 takes 10 times as long
    assert outcome.mean("C = 1", "sequential_fl", "seconds") == pytest.approx(10 * outcome.mean("C = 1", "fedavg", "seconds"), rel=0.01)


@pytest.mark.slow
def test_small_common_finish_makes_rounds_shorter_than_equal_shares() -> None:
    outcome = ics.run(ics.SMALL)
    assert outcome.mean("digits", "full", "round_s") < 0.8 * outcome.mean("digits", "full, equal shares", "round_s")


@pytest.mark.claims
def test_ics() -> None:
    # the published order of the schemes does not show (see the page); what the common finish time saves does
    outcome = ics.run(folder=RECORDS)
    assert outcome.mean("digits", "full", "round_s") < 0.8 * outcome.mean("digits", "full, equal shares", "round_s")
    assert outcome.mean("digits", "full", "seconds_to_target") < outcome.mean("digits", "full, equal shares", "seconds_to_target")


@pytest.mark.claims
def test_mtgc() -> None:
    outcome = mtgc.run(folder=RECORDS)
    accuracy = {(case, side.label): outcome.mean(case, side.label, "accuracy") for case in mtgc.CASES for side in mtgc.SIDES}
    rounds = {side.label: rounds_to_target(outcome, "both", side.label) for side in mtgc.SIDES}
    assert accuracy["both", "mtgc"] > max(accuracy["both", "z only"], accuracy["both", "y only"]) > accuracy["both", "hfedavg"]
    assert rounds["mtgc"] < rounds["hfedavg"]  # not below either correction alone: the target is reached in two or three rounds (see the page)
    # each correction helps against its own skew, and more than the other one does
    for case, own, other in (("client skew", "z only", "y only"), ("group skew", "y only", "z only")):
        assert accuracy[case, own] > max(accuracy[case, other], accuracy[case, "hfedavg"])


@pytest.mark.claims
def test_sequential_fl() -> None:
    outcome = sequential_fl.run(folder=RECORDS)
    assert sequential_fl.gap(outcome, "C = 1") >= 0.04
    assert sequential_fl.gap(outcome, "C = 1") > sequential_fl.gap(outcome, "C = 10")


@pytest.mark.claims
def test_whale_fl() -> None:
    # the published advantage in time does not show (see the page); that widths start at the smallest and then grow does
    outcome = whale_fl.run(folder=RECORDS)
    assert set(outcome.each("busy", "whale_fl", "rate_first")) == {1 / 16}
    assert outcome.mean("busy", "whale_fl", "rate_most") > 0.5
    assert outcome.mean("busy", "whale_fl", "round_s") < outcome.mean("busy", "full", "round_s")


@pytest.mark.slow
def test_small_fedzo_gains_by_local_steps_and_participants_and_loses_by_noise() -> None:
    outcome = fedzo.run(fedzo.SMALL)
    accuracy = {side.label: outcome.mean("digits", side.label, "accuracy") for side in fedzo.SIDES}
    assert accuracy["H = 20"] > accuracy["H = 5"] + 0.1 > accuracy["H = 1"] + 0.1
    assert accuracy["H = 5, share 0.4"] > accuracy["H = 5, share 0.1"]
    assert accuracy["H = 5, share 0.4, air inf dB"] > accuracy["H = 5, share 0.4, air -10 dB"]


@pytest.mark.claims
def test_fedzo() -> None:
    outcome = fedzo.run(folder=RECORDS)
    accuracy = {side.label: outcome.mean("digits", side.label, "accuracy") for side in fedzo.SIDES}
    cases = fedzo.FULL.cases["digits"]
    assert isinstance(cases, int)
    most = cases + 1  # a run that does not reach the target counts one round more than it has, which is a lower bound
    rounds = {h: fmean(most if r is None else r for r in outcome.each("digits", f"H = {h}", "rounds_to_target")) for h in (1, 20)}
    assert rounds[1] >= 3 * rounds[20]
    assert accuracy["H = 5, share 0.4"] > accuracy["H = 5"] > accuracy["H = 5, share 0.1"]
    noise = [accuracy[f"H = 5, share 0.4, air {db} dB"] for db in ("inf", "0", "-10")]
    assert noise == sorted(noise, reverse=True)


@pytest.mark.claims
def test_fslora() -> None:
    outcome = fslora.run(folder=RECORDS)
    mean = {side.label: outcome.mean(fslora.CASE, side.label, "accuracy") for side in fslora.SIDES}
    sent = {side.label: outcome.mean(fslora.CASE, side.label, "bytes_up") for side in fslora.SIDES}
    assert mean["fslora"] > max(mean["hetlora, equal"], mean["hetlora, norm"])
    assert sent["fslora"] == pytest.approx(sent["hetlora, equal"], rel=0.02)


@pytest.mark.claims
def test_ada_lora_is() -> None:
    outcome = ada_lora_is.run(folder=RECORDS)
    seconds = {side.label: outcome.mean(ada_lora_is.CASE, side.label, "seconds") for side in ada_lora_is.SIDES}
    accuracy = {side.label: outcome.mean(ada_lora_is.CASE, side.label, "accuracy") for side in ada_lora_is.SIDES}
    # the same number of rounds: choosing both has the shortest ones, choosing probabilities shorter ones than choosing nothing
    assert seconds["ada_lora_is"] < seconds["q only"] < seconds["uniform"]
    assert accuracy["ada_lora_is"] > max(accuracy["k only"], accuracy["uniform"])


@pytest.mark.slow
def test_small_overlap_makes_rounds_shorter() -> None:
    outcome = fedex.run(fedex.SMALL)
    round_s = {side.label: outcome.mean("digits", side.label, "round_s") for side in fedex.SIDES}
    assert round_s["fedex, S_max = 8, at once"] < 0.9 * round_s["fedavg"]


@pytest.mark.claims
def test_fedex() -> None:
    # that it beats Oort's selection shows only when overlap begins at once (see the page)
    outcome = fedex.run(folder=RECORDS)
    seconds = {side.label: outcome.mean("digits", side.label, "seconds_to_target") for side in fedex.SIDES}
    round_s = {side.label: outcome.mean("digits", side.label, "round_s") for side in fedex.SIDES}
    assert seconds["fedex, S_max = 8, at once"] < seconds["oort"] < seconds["fedavg"]
    assert seconds["fedex, S_max = 8"] < seconds["fedavg"]
    assert round_s["fedex, S_max = 8"] < round_s["fedex, S_max = 2"] < round_s["fedex, S_max = 0"]
    accuracy = {side.label: outcome.mean("digits", side.label, "accuracy") for side in fedex.SIDES}
    assert accuracy["uncorrected, at once"] < accuracy["fedex, S_max = 8, at once"] - 0.05


@pytest.mark.slow
def test_small_parts_cost_a_quarter_and_planned_ones_less() -> None:
    outcome = hist.run(hist.SMALL)
    sent = {side.label: outcome.mean("digits", side.label, "up_kb") for side in hist.SIDES}
    round_s = {side.label: outcome.mean("digits", side.label, "round_s") for side in hist.SIDES}
    assert sent["hist, equal"] < 0.27 * sent["hfedavg"]
    assert round_s["hist, latency"] < 0.85 * round_s["hist, equal"] < 0.3 * round_s["hfedavg"]


@pytest.mark.claims
def test_hist() -> None:
    outcome = hist.run(folder=RECORDS)
    accuracy = {side.label: outcome.mean("digits", side.label, "accuracy") for side in hist.SIDES}
    seconds = {side.label: outcome.mean("digits", side.label, "seconds_to_target") for side in hist.SIDES}
    assert accuracy["hist, equal"] > accuracy["hfedavg"] - 0.03
    assert seconds["hist, latency"] < seconds["hist, equal"] < seconds["hfedavg"]


@pytest.mark.slow
def test_small_split_learning_is_the_chain() -> None:
    outcome = sequential_split.run(sequential_split.SMALL)
    accuracy = {side.label: outcome.mean("20 Mbit/s", side.label, "accuracy") for side in sequential_split.SIDES}
    assert accuracy["split, cut 1"] == pytest.approx(accuracy["sequential_fl"], abs=0.03)
    assert accuracy["split, cut 1"] > accuracy["fedavg"] + 0.04


@pytest.mark.claims
def test_sequential_split() -> None:
    outcome = sequential_split.run(folder=RECORDS)
    accuracy = {side.label: outcome.mean("20 Mbit/s", side.label, "accuracy") for side in sequential_split.SIDES}
    joules = {side.label: outcome.mean("20 Mbit/s", side.label, "round_j") for side in sequential_split.SIDES}
    for cut in (1, 2):
        assert accuracy[f"split, cut {cut}"] > accuracy["fedavg"] + 0.04
        assert accuracy[f"split, cut {cut}"] == pytest.approx(accuracy["sequential_fl"], abs=0.02)
    assert joules["split, cut 1"] < joules["split, cut 2"] < joules["sequential_fl"]


@pytest.mark.slow
def test_small_frozen_side_beats_averaged_adapters_under_skew() -> None:
    outcome = splitfrozen.run(splitfrozen.SMALL)
    accuracy = {side.label: outcome.mean("0.5 Mbit/s", side.label, "accuracy") for side in splitfrozen.SIDES}
    joules = {side.label: outcome.mean("0.5 Mbit/s", side.label, "device_j") for side in splitfrozen.SIDES}
    assert accuracy["splitfrozen, cut 1"] > accuracy["fedlora"] + 0.15
    assert joules["splitfrozen, cut 1"] < 0.2 * joules["fedlora"]


@pytest.mark.claims
def test_splitfrozen() -> None:
    outcome = splitfrozen.run(folder=RECORDS)
    for case in splitfrozen.CASES:
        accuracy = {side.label: outcome.mean(case, side.label, "accuracy") for side in splitfrozen.SIDES}
        seconds = {side.label: outcome.mean(case, side.label, "seconds") for side in splitfrozen.SIDES}
        joules = {side.label: outcome.mean(case, side.label, "device_j") for side in splitfrozen.SIDES}
        assert accuracy["splitfrozen, cut 1"] >= accuracy["fedlora"] + 0.15
        assert accuracy["splitfrozen, cut 1"] == accuracy["splitfrozen, cut 1, no cache"]
        assert joules["splitfrozen, cut 1"] < 0.132 * joules["fedlora"]  # the published saving of device work is 86.8 %
        assert seconds["splitfrozen, cut 1, no cache"] < 0.498 * seconds["splitlora"]  # and that of time 50.2 %


@pytest.mark.slow
def test_small_orders_that_learn_beat_drawing_anew() -> None:
    outcome = ordered_sgd.run(ordered_sgd.SMALL)
    accuracy = {side.label: outcome.mean(ordered_sgd.CASE, side.label, "accuracy") for side in ordered_sgd.SIDES}
    assert min(accuracy["grab"], accuracy["pair_grab"]) > accuracy["fedavg"] + 0.03


@pytest.mark.claims
def test_ordered_sgd() -> None:
    outcome = ordered_sgd.run(folder=RECORDS)
    accuracy = {side.label: outcome.mean(ordered_sgd.CASE, side.label, "accuracy") for side in ordered_sgd.SIDES}
    assert min(accuracy["grab"], accuracy["pair_grab"]) > accuracy["random_reshuffle"] + 0.01
    assert accuracy["random_reshuffle"] > accuracy["fedavg"]


@pytest.mark.claims
def test_tequila() -> None:
    # whether small models gain is not known: the gate is that the bias does no harm
    assert tequila.is_not_inferior(tequila.run(folder=RECORDS))
