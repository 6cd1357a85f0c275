"""Partitions: disjoint, complete, with their minimum; hand numbers where the law is simple."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.tasks import partition as deal

LABELS = np.repeat(np.arange(10), 100)


def is_split(parts: list[np.ndarray], rows: int) -> bool:
    """Whether each of `rows` rows has exactly one owner and ids ascend within each."""
    joined = np.sort(np.concatenate(parts))
    return np.array_equal(joined, np.arange(rows)) and all((np.diff(part) > 0).all() for part in parts)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.ndarray, int, int, float, int]:
    """(labels, clients, minimum, alpha, seed) for which a partition exists."""
    classes = draw(st.integers(1, 6))
    clients = draw(st.integers(1, 12))
    minimum = draw(st.integers(0, 5))
    rows = draw(st.integers(clients * max(minimum, 1), clients * max(minimum, 1) + 120))
    seed = draw(st.integers(0, 2**32))
    labels = np.random.default_rng(seed).integers(0, classes, rows)
    return labels, clients, minimum, draw(st.sampled_from([0.01, 0.1, 1.0, 100.0])), seed


@settings(max_examples=80, deadline=None)
@given(worlds())
def test_repaired_partitions_are_disjoint_complete_and_keep_the_minimum(world: tuple[np.ndarray, int, int, float, int]) -> None:
    y, clients, minimum, alpha, seed = world
    cut = clients // 2
    for parts in (
        deal.dirichlet(y, clients, alpha=alpha, minimum=minimum, seed=seed),
        deal.quantity_skew(y, clients, spread=2.0, minimum=minimum, seed=seed),
        deal.quantity_skew(len(y), clients, law="zipf", minimum=minimum, seed=seed),
        deal.two_level(y, [cut, clients - cut] if cut else [clients], group_alpha=alpha, client_alpha=alpha, minimum=minimum, seed=seed),
    ):
        assert len(parts) == clients
        assert is_split(parts, len(y))
        assert min(map(len, parts)) >= minimum


@settings(max_examples=40, deadline=None)
@given(worlds())
def test_equal_splits_differ_by_at_most_one(world: tuple[np.ndarray, int, int, float, int]) -> None:
    y, clients, _, _, seed = world
    sizes = [len(part) for part in deal.iid(y, clients, seed=seed)]
    assert max(sizes) - min(sizes) <= 1
    assert is_split(deal.iid(y, clients, seed=seed), len(y))
    assert is_split(deal.shards(y, clients, per_client=1, seed=seed), len(y))


def test_repair_equals_moving_one_row_at_a_time_from_the_largest() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        clients, minimum = 6, 4
        owner = rng.choice(clients, 40, p=rng.dirichlet(np.full(clients, 0.3)))
        sizes = np.bincount(owner, minlength=clients)
        wanted = sizes.copy()
        while wanted.min() < minimum:
            wanted[wanted.argmax()] -= 1
            wanted[wanted.argmin()] += 1
        repaired = deal._repaired(owner, clients, minimum, rng)
        # Which of several equally large donors gives first does not matter: the sizes agree as a multiset, and the poor ones get exactly the minimum.
        got = np.bincount(repaired, minlength=clients)
        assert sorted(got) == sorted(wanted)
        assert (got[sizes < minimum] == minimum).all()
        assert (repaired != owner).sum() == np.maximum(minimum - sizes, 0).sum()


def test_seed_decides_and_only_the_seed() -> None:
    a, b, c = (deal.dirichlet(LABELS, 7, alpha=0.3, seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))
    assert not all(np.array_equal(p, q) for p, q in zip(a, c, strict=True))


def test_alpha_orders_the_skew() -> None:
    distance = [deal.statistics(deal.dirichlet(LABELS, 10, alpha=alpha), LABELS).total_variation for alpha in (0.05, 0.5, 50.0)]
    assert distance[0] > distance[1] > distance[2]


def test_dirichlet_shares_follow_the_beta_law() -> None:
    # A share of Dirichlet(a, ..., a) over n parts has mean 1/n and variance (1/n)(1 - 1/n)/(n a + 1); here n = 5, a = 0.5: 0.2 and 0.16/3.5.
    y = np.zeros(1000, int)
    shares = np.array([[len(part) for part in deal.dirichlet(y, 5, alpha=0.5, minimum=0, seed=seed)] for seed in range(400)]) / 1000
    assert shares.mean() == pytest.approx(0.2)
    assert shares.var() == pytest.approx(0.16 / 3.5, rel=0.1)


def test_small_alpha_neither_underflows_nor_loses_rows() -> None:
    assert is_split(deal.dirichlet(LABELS, 50, alpha=1e-3, minimum=3), len(LABELS))


def test_balanced_dirichlet_keeps_sizes_near_the_mean() -> None:
    parts = deal.balanced_dirichlet(LABELS, 10, alpha=0.1, minimum=10)
    assert is_split(parts, 1000)
    assert min(map(len, parts)) >= 10
    plain = deal.dirichlet(LABELS, 10, alpha=0.1, minimum=10)
    assert np.std([len(p) for p in parts]) < np.std([len(p) for p in plain])
    with pytest.raises(ScenarioError, match="no draw in 100"):
        deal.balanced_dirichlet(np.zeros(100, int), 10, alpha=0.01, minimum=10)


def test_balancing_skips_full_clients_and_gives_up_skipping_when_all_are_full() -> None:
    rng = np.random.default_rng(0)
    given_rows = deal._balanced(rng, 1.0, np.array([4, 7]), np.array([0, 0, 0, 0, 9, 0, 0, 0]), 6, full=5.0)
    assert set(given_rows) == {7}
    given_rows = deal._balanced(rng, 100.0, np.array([0, 1]), np.array([9, 9]), 600, full=5.0)
    assert set(given_rows) == {0, 1}


def test_shards_give_each_client_its_number_of_label_runs() -> None:
    parts = deal.shards(LABELS, 50, per_client=2)
    assert is_split(parts, 1000)
    assert {len(p) for p in parts} == {20}
    # 100 shards of 10 rows: none straddles two classes of 100.
    assert max(len(np.unique(LABELS[p])) for p in parts) <= 2


def test_exdir_gives_every_client_its_classes_only() -> None:
    parts = deal.exdir(LABELS, 20, classes=2, alpha=5.0, minimum=10)
    assert is_split(parts, 1000)
    assert max(len(np.unique(LABELS[p])) for p in parts) <= 2
    assert min(map(len, parts)) >= 10
    one = deal.exdir(LABELS, 20, classes=1, alpha=100.0, minimum=5)
    assert {len(np.unique(LABELS[p])) for p in one} == {1}


def test_exdir_assignment_has_enough_owners_per_class() -> None:
    held = deal._assign_classes(np.random.default_rng(1), 100, 2, 10)
    # 2 * 100 // 10 // 5 = 4 owners at least.
    assert (held.sum(1) == 2).all()
    assert held.sum(0).min() >= 4


def test_exdir_refuses_what_cannot_be() -> None:
    with pytest.raises(ScenarioError, match="cannot hold all 10 classes"):
        deal.exdir(LABELS, 4, classes=2, alpha=1.0)
    with pytest.raises(ScenarioError, match=r"must be 1\.\.10"):
        deal.exdir(LABELS, 4, classes=11, alpha=1.0)
    with pytest.raises(ScenarioError, match="no split in 100"):
        deal.exdir(LABELS, 40, classes=1, alpha=0.01, minimum=20)
    with pytest.raises(ScenarioError, match="no assignment in 100"):
        deal.exdir(LABELS, 10, classes=1, alpha=1.0, minimum=1)


def test_zipf_sizes_by_hand() -> None:
    # Weights 1, 1/2, 1/3 of 110 rows: 60, 30, 20.
    assert sorted(len(p) for p in deal.quantity_skew(110, 3, law="zipf")) == [20, 30, 60]
    assert {len(p) for p in deal.quantity_skew(100, 4, spread=0.0)} == {25}
    with pytest.raises(ScenarioError, match="'lognormal' and 'zipf'"):
        deal.quantity_skew(100, 4, law="pareto")


def test_natural_keeps_large_clients_in_order_of_id() -> None:
    ids = np.array(["b", "a", "b", "c", "a", "b"])
    pairs = deal.natural_named(ids, minimum=2)
    assert [(name, rows.tolist()) for name, rows in pairs] == [("a", [1, 4]), ("b", [0, 2, 5])]
    chosen = deal.natural(np.repeat(np.arange(30), 5), clients=7, seed=1)
    assert len(chosen) == 7
    assert [p[0] for p in chosen] == sorted(p[0] for p in chosen)
    with pytest.raises(ScenarioError, match=r"must be 1\.\.2"):
        deal.natural(ids, minimum=2, clients=3)


@pytest.mark.parametrize(
    ("group_alpha", "client_alpha", "is_group_skewed", "is_client_skewed"),
    [(None, 0.1, False, True), (0.1, None, True, False), (0.1, 0.1, True, True), (None, None, False, False)],
)
def test_two_levels_skew_what_they_should(
    group_alpha: float | None, client_alpha: float | None, is_group_skewed: bool, is_client_skewed: bool
) -> None:
    groups = [5] * 4
    parts = deal.two_level(LABELS, groups, group_alpha=group_alpha, client_alpha=client_alpha, minimum=5, seed=2)
    assert is_split(parts, 1000)
    whole = [np.concatenate(parts[5 * g : 5 * g + 5]) for g in range(4)]
    between = deal.statistics(whole, LABELS).total_variation
    inside = np.mean([deal.statistics(parts[5 * g : 5 * g + 5], LABELS).total_variation for g in range(4)])
    assert (between > 0.4) == is_group_skewed
    # 50 rows in ten classes drawn at random are about 0.15 away from their mix.
    assert (inside > 0.4) == is_client_skewed


def test_resample_shares_rows_between_clients_never_within_one() -> None:
    parts = deal.resample(LABELS, 500, samples=32, alpha=0.2)
    assert len(parts) == 500
    assert {len(np.unique(p)) for p in parts} == {32}
    assert deal.statistics(parts, LABELS).total_variation > 0.5
    plain = deal.resample(LABELS, 500, samples=32)
    assert deal.statistics(plain, LABELS).total_variation < 0.3
    with pytest.raises(ScenarioError, match="rarest class"):
        deal.resample(LABELS, 10, samples=101)


def test_a_crowd_of_100000_takes_seconds() -> None:
    start = time.perf_counter()
    parts = deal.resample(np.repeat(np.arange(10), 500), 100_000, samples=16, alpha=0.3)
    crowd = deal.dirichlet(np.tile(np.arange(10), 50_000), 100_000, alpha=0.3, minimum=4)
    # About 1 s on a free core; the bound leaves room for busy neighbors.
    assert time.perf_counter() - start < 15
    assert len(parts) == len(crowd) == 100_000
    assert min(map(len, crowd)) >= 4


def test_too_few_rows_are_refused_with_the_way_out() -> None:
    with pytest.raises(ScenarioError, match=r"1000 rows are fewer than clients \* minimum = 2000.*resample"):
        deal.dirichlet(LABELS, 200, alpha=0.3, minimum=10)
    with pytest.raises(ScenarioError, match="clients=0"):
        deal.iid(10, 0)
    with pytest.raises(ScenarioError, match="alpha=0"):
        deal.dirichlet(LABELS, 10, alpha=0)
    with pytest.raises(ScenarioError, match="one-dimensional"):
        deal.dirichlet(np.zeros((4, 2), int), 2, alpha=1.0)
    with pytest.raises(ScenarioError, match="one-dimensional"):
        deal.shards(np.zeros(4), 2)


def test_feature_blocks_cover_the_columns() -> None:
    assert [b.tolist() for b in deal.feature_blocks(7, 3)] == [[0, 1, 2], [3, 4], [5, 6]]
    shuffled = deal.feature_blocks(64, 4, shuffle=True)
    assert is_split(shuffled, 64)
    assert shuffled[0].tolist() != list(range(16))


def test_statistics_by_hand() -> None:
    y = np.array([0, 0, 0, 1, 1, 2])
    parts = [np.array([0, 1, 2]), np.array([3, 4, 5])]
    s = deal.statistics(parts, y)
    # Global mix (1/2, 1/3, 1/6). Client one (1, 0, 0): (1/2 + 1/3 + 1/6)/2 = 1/2; client two (0, 2/3, 1/3): (1/2 + 1/3 + 1/6)/2 = 1/2.
    assert s.total_variation == pytest.approx(0.5)
    assert (s.clients, s.rows, s.size_min, s.size_median, s.size_max, s.classes_mean) == (2, 6, 3, 3.0, 3, 1.5)
    assert deal.label_table(parts, y).tolist() == [[3, 0, 0], [0, 2, 1]]


def test_label_table_counts_every_token_of_text() -> None:
    y = np.array([[0, 1], [1, 1], [2, 0]])
    assert deal.label_table([np.array([0, 1]), np.array([2])], y).tolist() == [[1, 3, 0], [1, 0, 1]]


@pytest.mark.parametrize("style", ["bars", "dots"])
def test_plot_writes_a_png(tmp_path: Path, style: str) -> None:
    path = deal.plot_partition(deal.dirichlet(LABELS, 60, alpha=0.3), LABELS, tmp_path / "parts.png", style=style)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ScenarioError, match="'bars' and 'dots'"):
        deal.plot_partition([np.arange(3)], LABELS, path, style="pie")


def test_labels_that_do_not_count_are_in_no_class() -> None:
    assert deal.label_table([np.array([0]), np.array([1])], [[-100, 1], [0, 1]]).tolist() == [[0, 1], [1, 1]]
