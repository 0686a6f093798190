"""Whether a release ranks the newest days at least as well as the one that serves.

Labels are the newest positive actions of which neither ranker learned more than when to stop. Each
release brings its own candidates and orders them, from what could be read at the label's time; the
differences are paired, over members and over items.

What is shown is liked oftener, so labels favour what served. Where chance filled places of lists
(`recommend.rules.explore`), what was liked at the first of them in an answer is judged beside it by
the self-normalized inverse propensity score of the same figure: Σ w · NDCG / Σ w, with
w = 1 / propensity. It is the mean NDCG over all liked items that the place may have got, as if each
had been shown as often.
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
from pipelines.ranking.shown import drawn_labels
from transformations.config import Config
from transformations.errors import TooFewError

AT = 10
LABELS, FEWEST = 2_000, 50
"""Labels at most, and at least; of weighted ones, at least as many of equal weight."""
AT_ONCE = 200
"""Labels whose candidates are scored at once: some 100,000 pairs."""
LOSS = 1 / 3
"""The share of the serving one's NDCG that refuses a release, however few the labels are."""
RESAMPLES = 1_000
TRY = "let a share of the members decide, activity release promote --share 0.1"


@dataclass(frozen=True)
class Compared:
    """Two releases on the same labels, by NDCG@10; negative where the new one is worse."""

    labels: int
    value: float
    before: float
    members: Interval
    items: Interval

    @property
    def is_worse(self) -> bool:
        """Whether it is worse beyond chance, over members or over items."""
        return self.members.high < 0 or self.items.high < 0

    @property
    def is_better(self) -> bool:
        """Whether it is better beyond chance, over members and over items."""
        return self.members.low > 0 and self.items.low > 0

    def __str__(self) -> str:
        """Return the figures in words."""
        return (
            f"NDCG@{AT} {self.value:.4f}, serving {self.before:.4f}: "
            f"{self.value - self.before:+.4f} "
            f"[{self.members.low:+.4f}, {self.members.high:+.4f}] over members, "
            f"[{self.items.low:+.4f}, {self.items.high:+.4f}] over items, on {self.labels:,} labels"
        )


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
    both = (new, challenger), (old, serving)
    found = compared(config, con, store, kept, *both)
    shown = drawn_labels(config, con, since, until, LABELS)
    if shown is None:
        return said(found)
    equal = equal_weights(shown[1])
    weighted = None if equal < FEWEST else compared(config, con, store, shown[0], *both, shown[1])
    return said(found, weighted, equal)


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
    weights: NDArray[np.float64] | None = None,
) -> Compared:
    """Rank each label's candidates by both, and compare."""
    one, other = (ranks_by(config, con, store, labels, ranker, fits) for ranker, fits in (new, old))
    return paired(labels, one, other, weights)


def paired(
    labels: Labels,
    new: NDArray[np.float64],
    old: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
) -> Compared:
    """Compare the ranks that two releases give the labels' items; each array is [labels]."""
    gains = [ndcg(ranks, AT) for ranks in (new, old)]
    members, items = (pd.factorize(ids)[0] for ids in (labels.members, labels.items))
    resamples = Resamples(int(members.max()) + 1, 1, RESAMPLES, items=int(items.max()) + 1)
    one, other = (resamples.mean(each, members, None, items, weights) for each in gains)
    minus = one - other
    return Compared(
        len(labels), one.value, other.value, minus.interval(), minus.interval_over_items()
    )


def equal_weights(weights: NDArray[np.float64]) -> float:
    """Return how many labels of equal weight say as much: (Σ w)² / Σ w² (Kish, 1965).

    >>> equal_weights(np.array([2.0, 2.0])), equal_weights(np.array([2.0, 1.0, 1.0, 0.0]))
    (2.0, 2.6666666666666665)
    """
    return float(weights.sum() ** 2 / (weights**2).sum())


def said(found: Compared, weighted: Compared | None = None, equal: float = 0.0) -> Verdict:
    """Return the verdict on the labels, and on those at places that chance filled.

    Refused where either is worse beyond chance, or the labels by far. Where one is worse and the
    other better beyond chance, neither decides: labels favour what served, and few places are
    drawn. The release waits, and an experiment, which has no such bias, may decide.

    Args:
        weighted: Of what was liked at those places; None where it is too few to judge.
        equal: `equal_weights` of it; 0 where nothing was.
    """
    far = found.before > 0 and found.value - found.before < -LOSS * found.before
    worse, text = found.is_worse or far, str(found)
    if equal:
        much = f"worth {equal:,.0f} of equal weight"
        text += f"; of what chance let be shown, by 1 / propensity: {weighted or 'labels'}, {much}"
    if weighted is None:
        return Verdict("quality", not worse, text + (f", expected {FEWEST}" if equal else ""))
    if (worse and weighted.is_better) or (found.is_better and weighted.is_worse):
        return Verdict("quality", None, f"{text}. They contradict each other: {TRY}", waits=True)
    return Verdict("quality", not (worse or weighted.is_worse), text)


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
