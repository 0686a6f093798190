"""Whether a release ranks the newest days at least as well as the one that serves.

Labels are the newest positive actions of which neither ranker learned more than when to stop. Each
release brings its own candidates and orders them, from what could be read at the label's time; the
differences are paired, over members and over items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
from duckdb import DuckDBPyConnection as Connection
from feast import FeatureStore
from numpy.typing import NDArray

from models.evaluation.bootstrap import Interval, Resamples
from models.evaluation.metrics import ndcg
from models.lines import ranker_lines
from models.rankers.item_categories import items_known, read_categories
from models.rankers.package import Loaded, is_packaged, load
from models.rankers.reading import Needs
from operations.fits import Fits
from operations.rankers import newest
from pipelines.gates.verdict import Verdict
from pipelines.ranking.dataset import Known
from pipelines.ranking.examples import Pairs
from pipelines.ranking.labels import Labels, read_labels
from transformations.config import Config
from transformations.errors import TooFewError

AT = 10
LABELS, FEWEST = 2_000, 50
AT_ONCE = 200
"""Labels whose candidates are scored at once: some 100,000 pairs."""
LOSS = 1 / 3
"""The share of the serving one's NDCG that refuses a release, however few the labels are."""
RESAMPLES = 1_000


@dataclass(frozen=True)
class Compared:
    """Two releases on the same labels, by NDCG@10; negative where the new one is worse."""

    labels: int
    value: float
    before: float
    members: Interval
    items: Interval


def ranker_of(config: Config, fits: Fits) -> Loaded | None:
    """Return the ranker that answers for a release; None where its sources' votes order."""
    lines = newest(config, ranker_lines(config), fits)
    made = [line for line in lines if is_packaged(line, config)]
    return load(config, made[0]) if made else None


def judged(
    config: Config,
    con: Connection,
    store: FeatureStore,
    challenger: Fits,
    serving: Fits | None,
    until: datetime,
) -> Verdict:
    """Judge a release by its ranking of the newest labels beside the one that serves."""
    new = ranker_of(config, challenger)
    old = None if serving is None else ranker_of(config, serving)
    if new is None or old is None or serving is None:
        what = "it has no ranker" if new is None else "no ranker serves to compare it with"
        return Verdict("quality", None, what)
    since = max(seen_before(new), seen_before(old))
    try:
        labels = read_labels(config, con, since, until, LABELS)
    except TooFewError:
        labels = None
    kept = None if labels is None else labels.take(np.flatnonzero(labels.signs > 0))
    if kept is None or len(kept) < FEWEST:
        there = 0 if kept is None else len(kept)
        return Verdict(
            "quality",
            None,
            f"{there} positive labels since {since:%Y-%m-%d %H:%M} that neither ranker learned "
            f"from, expected {FEWEST}; the next days bring them",
            waits=True,
        )
    return said(compared(config, con, store, kept, (new, challenger), (old, serving)))


def seen_before(ranker: Loaded) -> datetime:
    """Return when the labels end that a ranker learned from; later ones only said when to stop."""
    manifest = ranker.manifest
    return datetime.fromisoformat(manifest.get("validated_since", manifest["trained_until"]))


def compared(
    config: Config,
    con: Connection,
    store: FeatureStore,
    labels: Labels,
    new: tuple[Loaded, Fits],
    old: tuple[Loaded, Fits],
) -> Compared:
    """Rank each label's candidates by both, and compare."""
    one, other = (ranks_by(config, con, store, labels, ranker, fits) for ranker, fits in (new, old))
    return paired(labels, one, other)


def paired(labels: Labels, new: NDArray[np.float64], old: NDArray[np.float64]) -> Compared:
    """Compare the ranks [labels] that two releases give the labels' items."""
    gains = [ndcg(ranks, AT) for ranks in (new, old)]
    members, items = (pd.factorize(ids)[0] for ids in (labels.members, labels.items))
    resamples = Resamples(int(members.max()) + 1, 1, RESAMPLES, items=int(items.max()) + 1)
    one, other = (resamples.mean(each, members, items=items) for each in gains)
    minus = one - other
    return Compared(
        len(labels), one.value, other.value, minus.interval(), minus.interval_over_items()
    )


def said(found: Compared) -> Verdict:
    """Return the verdict on a comparison: refused where it is worse beyond chance, or by far."""
    change = found.value - found.before
    worse = found.members.high < 0 or found.items.high < 0
    far = found.before > 0 and change < -LOSS * found.before
    text = (
        f"NDCG@{AT} {found.value:.4f}, serving {found.before:.4f}: {change:+.4f} "
        f"[{found.members.low:+.4f}, {found.members.high:+.4f}] over members, "
        f"[{found.items.low:+.4f}, {found.items.high:+.4f}] over items, on {found.labels:,} labels"
    )
    return Verdict("quality", not (worse or far), text)


def ranks_by(
    config: Config,
    con: Connection,
    store: FeatureStore,
    labels: Labels,
    ranker: Loaded,
    fits: Fits,
) -> NDArray[np.float64]:
    """Return the rank of each label's item among its candidates, from 1; float64 [labels].

    Infinite where no source brings it. What the member had acted on is left out, as a service
    leaves it out by default.
    """
    own = config.in_space(fits.space)
    items_known(own, con)
    needs = Needs.read(ranker.manifest["needs"])
    return _ranks(Known.of(own, store, needs, read_categories(con), fits), con, labels, ranker)


def _ranks(known: Known, con: Connection, labels: Labels, ranker: Loaded) -> NDArray[np.float64]:
    # Each join has a price of its own, whatever its rows are; only the pairs are too many for one.
    read = known.read(labels)
    members = known.members(labels, read)
    candidates = known.candidates(con, labels, read, members)
    acted = members.actions
    brought: list[Sequence[object]] = []
    for row in range(len(labels)):
        seen = {*acted.items[row][acted.there[row]].tolist()} - {labels.items[row]}
        lists = (lists[row].tolist() for lists in candidates.values())
        brought.append([x for x in dict.fromkeys(x for one in lists for x in one) if x not in seen])
    counts = [len(each) for each in brought]
    rows = np.repeat(np.arange(len(labels)), counts)
    items = np.array([item for each in brought for item in each], labels.items.dtype)
    scores = np.empty(len(rows))
    for start in range(0, len(labels), AT_ONCE):
        begin, end = np.searchsorted(rows, [start, start + AT_ONCE])
        if begin == end:
            continue
        some, their = rows[begin:end], items[begin:end]
        pairs = Pairs(some, their, their == labels.items[some])
        their_lists = {
            source: [labels.items[:0]] * start + each[start : start + AT_ONCE]
            for source, each in candidates.items()
        }
        inputs = known.labelled(labels, members, pairs, their_lists, ranker.heads).inputs
        scores[begin:end] = ranker.fitted.scores(inputs)
    is_own = items == labels.items[rows]
    mine = np.full(len(labels), np.nan)
    mine[rows[is_own]] = scores[is_own]
    there = ~np.isnan(mine)
    above = np.bincount(rows, scores > mine[rows], len(labels))
    level = np.bincount(rows, (scores == mine[rows]) & ~is_own, len(labels))
    ranks = np.full(len(labels), np.inf)
    ranks[there] = (1 + above + level / 2)[there]
    return ranks
