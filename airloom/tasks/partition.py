"""Who holds which rows: partitions of a data set over clients, in pure numpy.

Every partitioner returns one array of row ids per client, in the order of the clients; ids are ascending within a client. Unless its text says
otherwise a partition is *disjoint and complete*: each row has exactly one owner. Randomness comes from the named stream `(seed, "partition", name)`,
so a partition is a function of its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airloom.clock.rng import generator
from airloom.errors import ScenarioError

Rows = NDArray[np.int64]

# Redraws before a partitioner gives up (ours: the sheets ask for a guard, not for a number above 100).
TRIES = 100


def iid(rows: int | ArrayLike, clients: int, *, seed: int = 0) -> list[Rows]:
    """Split rows at random into equal parts (sizes differ by at most one).

    Parameters
    ----------
    rows : number of rows, or the labels (only their number counts).
    clients : number of clients, >= 1.
    seed : seed of the partition.

    Examples
    --------
    >>> [len(part) for part in iid(10, 3)]
    [4, 3, 3]
    """
    n = rows if isinstance(rows, int) else len(np.asarray(rows))
    _enough("iid", n, clients, 1)
    order = generator(seed, "partition", "iid").permutation(n)
    return [np.sort(part) for part in np.array_split(order, clients)]


def dirichlet(y: ArrayLike, clients: int, *, alpha: float, minimum: int = 1, seed: int = 0) -> list[Rows]:
    """Label skew: each class is dealt to the clients in proportions drawn from Dirichlet(alpha), then sizes are repaired.

    For each class c: p_c ~ Dirichlet(alpha 1), client i gets the share p_c[i] of the rows of c (cumulative rounding). Clients left with fewer than
    `minimum` rows are then filled up with random rows of the largest clients, one row at a time from whoever is largest, so every client has at least
    `minimum` rows and no redraw is needed.

    Paper: Hsu, Qi, Brown 2019, arXiv 1909.06335, in the per-class form of Yurochkin et al. 2019; the repair is ours.

    Parameters
    ----------
    y : (n,) labels 0..classes-1.
    clients : number of clients, >= 1.
    alpha : concentration, > 0; 0.1 is strong skew, 100 nearly iid.
    minimum : rows that every client has at least, >= 1.
    seed : seed of the partition.

    Raises
    ------
    ScenarioError : if there are fewer than `clients * minimum` rows.

    Examples
    --------
    >>> y = np.repeat(np.arange(4), 25)
    >>> parts = dirichlet(y, 5, alpha=0.3, minimum=8)
    >>> sum(map(len, parts)), min(map(len, parts)) >= 8
    (100, True)
    """
    labels = _labels("dirichlet", y)
    _positive("dirichlet", "alpha", alpha)
    _enough("dirichlet", len(labels), clients, minimum)
    rng = generator(seed, "partition", "dirichlet")
    owner = np.empty(len(labels), np.int64)
    for rows in _by_class(labels):
        owner[rng.permutation(rows)] = _deal(_proportions(rng, alpha, clients), len(rows))
    return _grouped(_repaired(owner, clients, minimum, rng), clients)


def balanced_dirichlet(y: ArrayLike, clients: int, *, alpha: float, minimum: int = 10, seed: int = 0) -> list[Rows]:
    """Label skew with sizes kept near the mean: a client that already holds `n / clients` rows gets nothing of the next class.

    Redrawn until every client has `minimum` rows, at most 100 times.

    Paper: the balancing rule of Lin et al. 2020, arXiv 2006.07242; minimum 10 as in the authors' code of sequential federated learning.

    Parameters
    ----------
    y, clients, alpha, seed : as in `dirichlet`.
    minimum : rows that every client has at least.

    Raises
    ------
    ScenarioError : if there are too few rows, or no draw in 100 gives every client `minimum` rows.

    Examples
    --------
    >>> parts = balanced_dirichlet(np.repeat(np.arange(10), 30), 5, alpha=0.5)
    >>> min(map(len, parts)) >= 10
    True
    """
    labels = _labels("balanced_dirichlet", y)
    _positive("balanced_dirichlet", "alpha", alpha)
    _enough("balanced_dirichlet", len(labels), clients, minimum)
    rng = generator(seed, "partition", "balanced_dirichlet")
    everyone = np.arange(clients)
    for _ in range(TRIES):
        owner = np.empty(len(labels), np.int64)
        sizes = np.zeros(clients, np.int64)
        for rows in _by_class(labels):
            given = _balanced(rng, alpha, everyone, sizes, len(rows), len(labels) / clients)
            owner[rng.permutation(rows)] = given
            sizes += np.bincount(given, minlength=clients)
        if sizes.min() >= minimum:
            return _grouped(owner, clients)
    raise ScenarioError(
        f"balanced_dirichlet(clients={clients}, alpha={alpha}, minimum={minimum}): no draw in {TRIES} gave every client {minimum} rows; "
        "raise alpha, lower minimum, or use dirichlet, which repairs sizes"
    )


def shards(y: ArrayLike, clients: int, *, per_client: int = 2, seed: int = 0) -> list[Rows]:
    """Sort rows by label, cut them into `clients * per_client` equal shards and deal `per_client` of them to each client at random.

    Paper: McMahan et al. 2017, arXiv 1602.05629 (two shards of 300 for 100 clients). A shard may straddle two classes.

    Parameters
    ----------
    y, clients, seed : as in `dirichlet`.
    per_client : shards per client, >= 1.

    Examples
    --------
    >>> parts = shards(np.repeat(np.arange(4), 10), 4, per_client=1)
    >>> [len(part) for part in parts]
    [10, 10, 10, 10]
    """
    labels = _labels("shards", y)
    if per_client < 1:
        raise ScenarioError(f"shards(per_client={per_client}): must be >= 1")
    _enough("shards", len(labels), clients, per_client)
    rng = generator(seed, "partition", "shards")
    shuffled = rng.permutation(len(labels))
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    pieces = np.array_split(ordered, clients * per_client)
    deal = rng.permutation(len(pieces)).reshape(clients, per_client)
    return [np.sort(np.concatenate([pieces[i] for i in mine])) for mine in deal]


def exdir(y: ArrayLike, clients: int, *, classes: int, alpha: float, minimum: int = 10, seed: int = 0) -> list[Rows]:
    """Extended Dirichlet: every client owns `classes` classes; each class is split over its owners by a balanced Dirichlet(alpha).

    1. Each client draws `classes` different classes; the whole assignment is redrawn until each class has at least
       max(classes * clients // K // 5, 1) owners, K the number of classes.
    2. Each class is split over its owners by Dirichlet(alpha); owners that already hold n / clients rows get nothing, what is left over goes to
       the last owner. The split (not the assignment) is redrawn until every client has `minimum` rows.

    Paper: Li, Lyu 2023, arXiv 2311.03154 (sequential federated learning), authors' code. `classes=1` with a large alpha is "one class per client".

    Parameters
    ----------
    y, clients, alpha, seed : as in `dirichlet`.
    classes : classes per client, 1..K.
    minimum : rows that every client has at least.

    Raises
    ------
    ScenarioError : if 100 redraws of either step do not succeed.

    Examples
    --------
    >>> y = np.repeat(np.arange(5), 40)
    >>> parts = exdir(y, 10, classes=2, alpha=10.0, minimum=5)
    >>> max(len(np.unique(y[part])) for part in parts)
    2
    """
    labels = _labels("exdir", y)
    _positive("exdir", "alpha", alpha)
    _enough("exdir", len(labels), clients, minimum)
    by_class = _by_class(labels)
    total = len(by_class)
    if not 1 <= classes <= total:
        raise ScenarioError(f"exdir(classes={classes}): must be 1..{total}, the classes of these labels")
    if classes * clients < total:
        raise ScenarioError(
            f"exdir(clients={clients}, classes={classes}): {classes * clients} places cannot hold all {total} classes; use more clients or classes"
        )
    rng = generator(seed, "partition", "exdir")
    held = _assign_classes(rng, clients, classes, total)
    for _ in range(TRIES):
        owner = np.empty(len(labels), np.int64)
        sizes = np.zeros(clients, np.int64)
        for c, rows in enumerate(by_class):
            given = _balanced(rng, alpha, np.flatnonzero(held[:, c]), sizes, len(rows), len(labels) / clients)
            owner[rng.permutation(rows)] = given
            sizes += np.bincount(given, minlength=clients)
        if sizes.min() >= minimum:
            return _grouped(owner, clients)
    raise ScenarioError(
        f"exdir(clients={clients}, classes={classes}, alpha={alpha}, minimum={minimum}): no split in {TRIES} gave every client {minimum} rows; "
        "raise alpha or classes, or lower minimum"
    )


def quantity_skew(rows: int | ArrayLike, clients: int, *, law: str = "lognormal", spread: float = 1.0, minimum: int = 1, seed: int = 0) -> list[Rows]:
    """Unequal sizes, equal label mix: sizes follow a log-normal or a Zipf law; each client's rows are a random sample.

    `lognormal`: size of client i proportional to exp(spread * z_i), z_i standard normal. `zipf`: proportional to rank^-spread, ranks dealt at random.
    Sizes below `minimum` are filled up from the largest clients.

    Parameters
    ----------
    rows : number of rows, or the labels (only their number counts).
    clients, minimum, seed : as in `dirichlet`.
    law : "lognormal" or "zipf".
    spread : standard deviation of the log size, or the Zipf exponent; >= 0 (0: equal sizes).

    Examples
    --------
    >>> sorted(len(part) for part in quantity_skew(110, 3, law="zipf"))
    [20, 30, 60]
    """
    n = rows if isinstance(rows, int) else len(np.asarray(rows))
    _enough("quantity_skew", n, clients, minimum)
    if spread < 0:
        raise ScenarioError(f"quantity_skew(spread={spread}): must be >= 0")
    rng = generator(seed, "partition", "quantity_skew")
    if law == "lognormal":
        weight = np.exp(spread * rng.standard_normal(clients))
    elif law == "zipf":
        weight = (1.0 + rng.permutation(clients)) ** -spread
    else:
        raise ScenarioError(f"quantity_skew(law={law!r}): allowed are 'lognormal' and 'zipf'")
    owner = np.empty(n, np.int64)
    owner[rng.permutation(n)] = _deal(weight / weight.sum(), n)
    return _grouped(_repaired(owner, clients, minimum, rng), clients)


def natural(ids: ArrayLike, *, minimum: int = 1, clients: int | None = None, seed: int = 0) -> list[Rows]:
    """One client per natural id (writer, subject, role), in order of id; clients with fewer than `minimum` rows are left out.

    Disjoint, not complete: rows of clients that are left out belong to nobody.

    Parameters
    ----------
    ids : (n,) the natural id of each row.
    minimum : rows a client must have to take part.
    clients : how many of the remaining clients to keep (drawn without replacement); None keeps all.
    seed : seed of that draw.

    Raises
    ------
    ScenarioError : if fewer than `clients` ids have `minimum` rows.

    Examples
    --------
    >>> [part.tolist() for part in natural([7, 5, 7, 7, 5, 9], minimum=2)]
    [[1, 4], [0, 2, 3]]
    """
    return [rows for _, rows in natural_named(ids, minimum=minimum, clients=clients, seed=seed)]


def natural_named(ids: ArrayLike, *, minimum: int = 1, clients: int | None = None, seed: int = 0) -> list[tuple[object, Rows]]:
    """Return the (id, rows) pairs of `natural`."""
    array = np.asarray(ids)
    names, first, sizes = np.unique(array[np.argsort(array, kind="stable")], return_index=True, return_counts=True)
    order = np.argsort(array, kind="stable")
    kept = np.flatnonzero(sizes >= max(minimum, 1))
    wanted = len(kept) if clients is None else clients
    if wanted < 1 or wanted > len(kept):
        raise ScenarioError(f"natural(clients={clients}, minimum={minimum}): must be 1..{len(kept)}, the ids with at least {minimum} rows")
    if wanted < len(kept):
        kept = np.sort(generator(seed, "partition", "natural").choice(kept, wanted, replace=False))
    return [(names[i].item(), np.sort(order[first[i] : first[i] + sizes[i]]).astype(np.int64)) for i in kept]


def two_level(
    y: ArrayLike, groups: Sequence[int], *, group_alpha: float | None, client_alpha: float | None, minimum: int = 1, seed: int = 0
) -> list[Rows]:
    """Label skew on two levels of a tree: first over groups, then over the clients of each group.

    An alpha of None means iid on that level. The three regimes of multi-timescale gradient correction: client skew only (None, 0.1), both (0.1, 0.1),
    group skew only (0.1, None).

    Paper: Fang et al. 2024, arXiv 2409.18448, authors' code (partitions `Dirichlet`, `noniid`, `mix2`).

    Parameters
    ----------
    y, minimum, seed : as in `dirichlet`; `minimum` holds for every client.
    groups : clients in each group, e.g. `[10] * 10`; clients are numbered group by group.
    group_alpha, client_alpha : Dirichlet concentrations, > 0, or None for iid.

    Examples
    --------
    >>> parts = two_level(np.repeat(np.arange(5), 40), [2, 3], group_alpha=0.1, client_alpha=None, minimum=4)
    >>> len(parts), sum(map(len, parts))
    (5, 200)
    """
    labels = _labels("two_level", y)
    if len(groups) == 0 or min(groups) < 1:
        raise ScenarioError(f"two_level(groups={list(groups)}): must be a list of client counts >= 1")
    for name, alpha in (("group_alpha", group_alpha), ("client_alpha", client_alpha)):
        if alpha is not None:
            _positive("two_level", name, alpha)
    _enough("two_level", len(labels), sum(groups), minimum)
    rng = generator(seed, "partition", "two_level")
    size = np.asarray(groups, np.int64)
    share = size / size.sum()
    group_owner = np.empty(len(labels), np.int64)
    for rows in _by_class(labels):
        p = share if group_alpha is None else _proportions(rng, group_alpha, len(size))
        group_owner[rng.permutation(rows)] = _deal(p, len(rows))
    group_owner = _repaired(group_owner, len(size), minimum * size, rng)
    parts: list[Rows] = []
    for g, inside in enumerate(_grouped(group_owner, len(size))):
        owner = np.empty(len(inside), np.int64)
        if client_alpha is None:
            owner[rng.permutation(len(inside))] = _deal(np.full(groups[g], 1 / groups[g]), len(inside))
        else:
            for rows in _by_class(labels[inside]):
                owner[rng.permutation(rows)] = _deal(_proportions(rng, client_alpha, groups[g]), len(rows))
        owner = _repaired(owner, groups[g], minimum, rng)
        parts.extend(inside[rows] for rows in _grouped(owner, groups[g]))
    return parts


def resample(y: ArrayLike, clients: int, *, samples: int, alpha: float | None = None, seed: int = 0) -> list[Rows]:
    """Crowds: every client draws `samples` rows by a label mix of its own; **rows may be shared between clients**, never within one.

    Client i: q_i ~ Dirichlet(alpha 1) over classes (or the global mix if alpha is None), class counts ~ Multinomial(samples, q_i), then a run of that
    many rows from a random place of a random cyclic order of the class. For fleets with more clients than data: 100,000 clients take about a second.

    Parameters
    ----------
    y, clients, seed : as in `dirichlet`.
    samples : rows per client, 1..rows of the rarest class.
    alpha : concentration of the label mixes, > 0; None for the global mix.

    Examples
    --------
    >>> parts = resample(np.repeat(np.arange(4), 20), 1000, samples=8, alpha=0.5)
    >>> len(parts), {len(np.unique(part)) for part in parts}
    (1000, {8})
    """
    labels = _labels("resample", y)
    by_class = _by_class(labels)
    rarest = min(map(len, by_class))
    if not 1 <= samples <= rarest:
        raise ScenarioError(f"resample(samples={samples}): must be 1..{rarest}, the rows of the rarest class, so that no client holds a row twice")
    if clients < 1:
        raise ScenarioError(f"resample(clients={clients}): must be >= 1")
    rng = generator(seed, "partition", "resample")
    if alpha is None:
        mix = np.tile(np.array([len(rows) for rows in by_class]) / len(labels), (clients, 1))
    else:
        _positive("resample", "alpha", alpha)
        mix = _mixes(rng, alpha, clients, len(by_class))
    counts = rng.multinomial(samples, mix)
    drawn = np.empty((clients, samples), np.int64)
    column = np.cumsum(counts, axis=1) - counts
    for c, rows in enumerate(by_class):
        ring, k = rng.permutation(rows), counts[:, c]
        start = rng.integers(len(rows), size=clients)
        who = np.repeat(np.arange(clients), k)
        step = np.arange(len(who)) - np.repeat(np.cumsum(k) - k, k)
        drawn[who, column[who, c] + step] = ring[(start[who] + step) % len(rows)]
    drawn.sort(axis=1)
    return list(drawn)


def feature_blocks(features: int, parties: int, *, shuffle: bool = False, seed: int = 0) -> list[Rows]:
    """Columns for vertical learning: `features` columns in `parties` blocks, neighbors together (strips of an image) or shuffled.

    Parameters
    ----------
    features : number of columns of the flattened input.
    parties : number of parties, 1..features.
    shuffle : deal columns at random instead of in blocks.
    seed : seed of that deal.

    Examples
    --------
    >>> [block.tolist() for block in feature_blocks(5, 2)]
    [[0, 1, 2], [3, 4]]
    """
    _enough("feature_blocks", features, parties, 1)
    order = generator(seed, "partition", "feature_blocks").permutation(features) if shuffle else np.arange(features)
    return [np.sort(block).astype(np.int64) for block in np.array_split(order, parties)]


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionStatistics:
    """How uneven a partition is.

    `total_variation` is the mean over clients of 1/2 sum_c |p_i(c) - p(c)|, p the label mix of all rows given: 0 for equal mixes, 1 - 1/K for one
    class per client out of K equal ones.
    """

    clients: int
    rows: int
    size_min: int
    size_median: float
    size_max: int
    classes_mean: float
    total_variation: float


def label_table(parts: Sequence[Rows], y: ArrayLike, *, classes: int | None = None) -> NDArray[np.int64]:
    """Return the (clients, classes) table of label counts; labels of more than one dimension (text) count every position that has one.

    >>> label_table([np.array([0, 1]), np.array([2])], [0, 0, 1]).tolist()
    [[2, 0], [0, 1]]
    """
    labels = np.asarray(y)
    total = int(labels.max()) + 1 if classes is None else classes
    lengths = np.array([len(part) for part in parts], np.int64)
    taken = labels[np.concatenate(parts)] if len(parts) else labels[:0]
    width = taken[0].size if len(taken) else 1
    who = np.repeat(np.arange(len(parts)), lengths * width)
    flat = taken.reshape(-1)
    counts = flat >= 0  # padding, and what need not be predicted, has a negative label
    return np.bincount((who * total + flat)[counts], minlength=len(parts) * total).reshape(len(parts), total).astype(np.int64)


def statistics(parts: Sequence[Rows], y: ArrayLike) -> PartitionStatistics:
    """Measure a partition: sizes, classes per client, and mean total-variation distance from the label mix of all its rows.

    >>> y = [0, 0, 1, 1]
    >>> statistics([np.array([0, 1]), np.array([2, 3])], y).total_variation
    0.5
    """
    if len(parts) == 0:
        raise ScenarioError("statistics(parts=[]): must hold at least one client")
    table = label_table(parts, y)
    sizes = np.array([len(part) for part in parts])
    whole = table.sum(0) / max(table.sum(), 1)
    mix = table / np.maximum(table.sum(1, keepdims=True), 1)
    return PartitionStatistics(
        clients=len(parts),
        rows=int(sizes.sum()),
        size_min=int(sizes.min()),
        size_median=float(np.median(sizes)),
        size_max=int(sizes.max()),
        classes_mean=float((table > 0).sum(1).mean()),
        total_variation=float(np.abs(mix - whole).sum(1).mean() / 2),
    )


def plot_partition(parts: Sequence[Rows], y: ArrayLike, path: str | Path, *, style: str = "bars", clients: int = 50) -> Path:
    """Draw a partition into a PNG file: stacked label bars, or dots whose area is the number of rows.

    Parameters
    ----------
    parts, y : the partition and the labels.
    path : file to write.
    style : "bars" or "dots".
    clients : draw the first so many clients.

    Returns
    -------
    Path : the file written.
    """
    if style not in ("bars", "dots"):
        raise ScenarioError(f"plot_partition(style={style!r}): allowed are 'bars' and 'dots'")
    # Imported here: drawing is rare and matplotlib takes half a second to import.
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    table = label_table(parts[:clients], y)
    shown, total = table.shape
    numbers = statistics(parts, y)
    figure = Figure(figsize=(min(4 + 0.16 * shown, 14), 4.2), layout="constrained")
    axes = figure.subplots()
    colors = colormaps["tab10" if total <= 10 else "tab20"](np.linspace(0, 1, 10 if total <= 10 else total))
    where = np.arange(shown)
    if style == "bars":
        base = np.zeros(shown)
        for c in range(total):
            axes.bar(where, table[:, c], bottom=base, width=0.85, color=colors[c], label=str(c) if total <= 20 else None)
            base += table[:, c]
        axes.set_ylabel("rows")
        if total <= 20:
            axes.legend(title="class", loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")
    else:
        x, c = np.nonzero(table)
        axes.scatter(x, c, s=200 * table[x, c] / table.max(), color=colors[c], linewidths=0)
        axes.set_ylabel("class")
    axes.set_xlabel("client" if shown == len(parts) else f"client (first {shown} of {len(parts)})")
    axes.set_title(
        f"{numbers.clients} clients, {numbers.size_min} to {numbers.size_max} rows, {numbers.classes_mean:.1f} classes per client, "
        f"distance {numbers.total_variation:.2f}",
        fontsize="medium",
    )
    axes.spines[["top", "right"]].set_visible(False)
    target = Path(path)
    figure.savefig(target, dpi=130, format="png")
    return target


def _labels(name: str, y: ArrayLike) -> NDArray[np.int64]:
    """Check labels: one dimension, whole numbers >= 0, not empty."""
    labels = np.asarray(y)
    if labels.ndim != 1 or len(labels) == 0 or labels.dtype.kind not in "iub":
        raise ScenarioError(
            f"{name}(y): must be a one-dimensional, non-empty array of whole-number labels, got {labels.dtype} {labels.shape}; "
            "use iid, natural or quantity_skew for other data"
        )
    labels = labels.astype(np.int64)
    if labels.min() < 0:
        raise ScenarioError(f"{name}(y): labels must be >= 0, got {labels.min()}")
    return labels


def _positive(name: str, field: str, value: float) -> None:
    """Refuse a concentration that is not a positive number."""
    if not value > 0 or not np.isfinite(value):
        raise ScenarioError(f"{name}({field}={value}): must be a finite number > 0")


def _enough(name: str, rows: int, clients: int, minimum: int) -> None:
    """Refuse a partition that cannot exist."""
    if clients < 1:
        raise ScenarioError(f"{name}(clients={clients}): must be >= 1")
    if minimum < 0:
        raise ScenarioError(f"{name}(minimum={minimum}): must be >= 0")
    if rows < clients * max(minimum, 1):
        raise ScenarioError(
            f"{name}(clients={clients}, minimum={minimum}): {rows} rows are fewer than clients * minimum = {clients * max(minimum, 1)}; "
            "use fewer clients, a smaller minimum, a larger data set, or resample, where clients may share rows"
        )


def _by_class(labels: NDArray[np.int64]) -> list[Rows]:
    """Return the rows of each class that occurs, in order of class."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _mixes(rng: np.random.Generator, alpha: float, count: int, parts: int) -> NDArray[np.float64]:
    """Draw `count` Dirichlet(alpha) vectors through log gammas, which neither underflow nor slow down for small alpha."""
    log = np.log(rng.standard_gamma(alpha + 1, (count, parts))) + np.log1p(-rng.random((count, parts))) / alpha
    mix = np.exp(log - log.max(1, keepdims=True))
    return mix / mix.sum(1, keepdims=True)


def _proportions(rng: np.random.Generator, alpha: float, parts: int) -> NDArray[np.float64]:
    """Draw one Dirichlet(alpha) vector."""
    return _mixes(rng, alpha, 1, parts)[0]


def _deal(p: NDArray[np.float64], rows: int) -> Rows:
    """Return the owner of each of `rows` rows when owner i gets the share p[i], by cumulative rounding."""
    ends = np.rint(np.cumsum(p) * rows).astype(np.int64)
    ends[-1] = rows
    return np.repeat(np.arange(len(p)), np.diff(ends, prepend=0))


def _balanced(rng: np.random.Generator, alpha: float, owners: Rows, sizes: Rows, rows: int, full: float) -> Rows:
    """Deal `rows` rows to `owners` by Dirichlet(alpha), skipping owners that are full; if all are, none is skipped."""
    p = _proportions(rng, alpha, len(owners))
    open_ = p * (sizes[owners] < full)
    p = open_ / open_.sum() if open_.sum() > 0 else p
    ends = np.minimum(np.floor(np.cumsum(p) * rows), rows).astype(np.int64)
    ends[-1] = rows
    return np.repeat(owners, np.diff(ends, prepend=0))


def _assign_classes(rng: np.random.Generator, clients: int, classes: int, total: int) -> NDArray[np.bool_]:
    """Give each client `classes` classes until each class has its least number of owners."""
    least = max(classes * clients // total // 5, 1)
    for _ in range(TRIES):
        held = np.zeros((clients, total), bool)
        chosen = np.argsort(rng.random((clients, total)), axis=1)[:, :classes]
        held[np.arange(clients)[:, None], chosen] = True
        if held.sum(0).min() >= least:
            return held
    raise ScenarioError(
        f"exdir(clients={clients}, classes={classes}): no assignment in {TRIES} gave each of {total} classes {least} owners; "
        "use more clients or more classes per client"
    )


def _repaired(owner: Rows, clients: int, minimum: int | Rows, rng: np.random.Generator) -> Rows:
    """Move random rows from the largest owners to those below their minimum; same result as moving one row at a time."""
    sizes = np.bincount(owner, minlength=clients)
    floor = np.broadcast_to(np.asarray(minimum, np.int64), sizes.shape)
    need = np.maximum(floor - sizes, 0)
    missing = int(need.sum())
    if missing == 0:
        return owner
    excess = np.maximum(sizes - floor, 0)
    # The level above its floor down to which every donor gives: the highest one that yields enough, found by bisection.
    low, high = 0, int(excess.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.maximum(excess - middle, 0).sum() >= missing else (low, middle - 1)
    give = np.maximum(excess - low, 0)
    donors = np.flatnonzero(give)
    surplus = int(give.sum()) - missing
    give[donors[len(donors) - surplus :]] -= 1
    shuffled = rng.permutation(len(owner))
    ordered = shuffled[np.argsort(owner[shuffled], kind="stable")]
    position = np.arange(len(ordered)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    moved = ordered[position < np.repeat(give, sizes)]
    result = owner.copy()
    result[moved] = np.repeat(np.arange(clients), need)
    return result


def _grouped(owner: Rows, clients: int) -> list[Rows]:
    """Turn owners of rows into rows of owners, ascending."""
    order = np.argsort(owner, kind="stable").astype(np.int64)
    return np.split(order, np.cumsum(np.bincount(owner, minlength=clients))[:-1])
