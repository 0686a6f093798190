"""`activity evaluate recommender`: both stages end to end, as they would have served live.

For each label of the measured period: what the candidate sources bring, in the order of a ranker
that was fitted on the period before. The same ranker over the full catalogue says what the
candidates cost; leaving out an input, what that is worth.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from duckdb import DuckDBPyConnection as Connection
from numpy.typing import NDArray

from models.evaluation.scoring import LabelScores, measure
from models.lines import candidate_lines
from models.rankers.columns import ranker_columns
from models.rankers.inputs import Floats, Labelled
from models.rankers.item_categories import items_known, read_categories
from models.rankers.protocol import FittedRanker
from models.rankers.reading import Needs
from models.rankers.spec import Ranker
from models.spec import Aggregator
from pipelines.evaluation.live_pairs import Indices, LivePairs
from pipelines.evaluation.variants import Bench
from pipelines.ranking.examples import Pairs, draw, ranks_of, targets_of
from pipelines.ranking.labels import Labels, label_weights
from transformations.config import Config
from transformations.errors import TooFewError
from transformations.timestamps import DAY_US, microseconds

VALIDATION = 0.15
"""The newest share of the ranker's labels, for early stopping."""
PAIRS_AT_ONCE = 400_000
RECALL_AT = (10, 100, 500)
WITHOUT: Mapping[str, Callable[[Ranker], Ranker]] = {
    "vectors": lambda line: replace(line, aggregators=()),
    "member_stats": lambda line: _without(line, "member_stats"),
    "item_stats": lambda line: _without(line, "item_stats"),
    "history": lambda line: _without(line, "history"),
    "sources": lambda line: _without(line, "sources"),
}
"""What an ablation is called → the line without it."""


def _without(line: Ranker, group: str) -> Ranker:
    return replace(line, reads=tuple(one for one in line.reads if one != group))


@dataclass(frozen=True, eq=False)
class Served:
    """A fitted ranker on the measured period.

    Attributes:
        scores: Of the labels, for the metrics.
        lists: The first ten items of each positive label, indices [labels, 10]; -1 where none.
        recall: k → the share of positive labels whose item is among the first k candidates, by
            the ranker.
        likely: Probability of each head for the labels' own items, float32 [labels, heads].
    """

    scores: LabelScores
    lists: Indices
    recall: dict[int, float]
    likely: Floats


@dataclass(eq=False)
class RecommenderBench:
    """Fits rankers on a world's train period, and serves its measured one."""

    bench: Bench
    pairs: LivePairs
    lines: Mapping[str, Aggregator]
    _fits: dict[tuple[str, int, bool], tuple[FittedRanker, Needs]] = field(default_factory=dict)

    @classmethod
    def of(cls, bench: Bench, con: Connection, lines: Sequence[Aggregator]) -> "RecommenderBench":
        """Return it for a world whose aggregators are packaged.

        Args:
            lines: The fits in the world.
        """
        config = bench.world.config
        by_name = {f"{line.name}_v{line.version}": line for line in lines}
        items_known(config, con)
        categories = read_categories(con)
        sources = [
            source
            for source in candidate_lines(config)
            if getattr(source, "aggregator", None) in (None, *by_name)
        ]
        return cls(bench, LivePairs(bench, con, by_name, sources, categories), by_name)

    @property
    def config(self) -> Config:
        """Of the world."""
        return self.bench.world.config

    def needs(self, line: Ranker) -> Needs:
        """Return what a line reads here."""
        aggregators = [self.lines[name] for name in line.aggregators]
        sources = [source.full_name for source in self.pairs.sources]
        return Needs.of(self.config, line, aggregators, sources, ranker_columns(self.config), {})

    def fit(self, line: Ranker, seed: int, goes_on: bool = False) -> tuple[FittedRanker, Needs]:
        """Fit a line on the labels of the train period, and negatives of its time; once.

        Args:
            goes_on: Fit it to the labels before the newest `train.buffer` of that period, and let
                another fit go on from it, on those inside.
        """
        key = (json.dumps([line.kind, line.parameters()]), seed, goes_on)
        if key not in self._fits:
            self._fits[key] = self._fit(line, seed, goes_on)
        return self._fits[key]

    def _fit(self, line: Ranker, seed: int, goes_on: bool) -> tuple[FittedRanker, Needs]:
        needs, heads = self.needs(line), line.heads(self.config.rules)
        labels, seen = self._labels("train")
        candidates = self._candidates("train", np.arange(len(labels)))
        of_days = self._of_days(labels)
        pairs = draw(line, labels, seen, candidates, of_days, seed)
        every = self._labelled("train", needs, labels, pairs, candidates, heads)
        until = self.bench.world.split.train_until
        factors = label_weights(self.config, self.pairs.con, labels, until)
        every = replace(every, weights=factors[pairs.labels])
        times = labels.times[pairs.labels]
        code: type[FittedRanker] = line.fitted_class()
        if not goes_on:
            return code.fit(line, heads, *_split(every, times), seed), needs
        inside = times >= microseconds(until - self.config.train.buffer)
        old, new = (
            _split(every.take(rows), times[rows]) for rows in map(np.flatnonzero, (~inside, inside))
        )
        parent: Any = code.fit(line, heads, *old, seed)
        return parent.go_on(*new, seed), needs

    def serve(
        self,
        line: Ranker,
        seed: int,
        without: str = "",
        everything: bool = False,
        only: NDArray[np.bool_] | None = None,
        goes_on: bool = False,
    ) -> Served:
        """Fit a line, and measure it on the measured period.

        Args:
            without: A candidate source that brings nothing, by `full_name`.
            everything: Score every item, not only the candidates.
            only: Labels to measure; None for all.
            goes_on: As `fit` has it.
        """
        fitted, needs = self.fit(line, seed, goes_on)
        period = self.bench.world.name
        task, n_items = self.bench.measured.task, len(self.pairs.ids)
        labels = task.labels
        lists = np.full((len(labels), 10), -1, np.int64)
        place = np.full(len(labels), np.inf)

        def score(rows: NDArray[np.int64], day: int) -> Floats:
            candidates = self.pairs.candidates(period, rows, day)
            candidates.pop(without, None)
            found = np.full((len(rows), n_items), -np.inf, np.float32)
            for start in range(0, len(rows), step):
                some = np.arange(start, min(start + step, len(rows)))
                own = {name: [each[row] for row in some] for name, each in candidates.items()}
                if everything:
                    where = np.repeat(np.arange(len(some)), n_items)
                    items = np.tile(np.arange(n_items), len(some))
                else:
                    where, items = _union(own, len(some), n_items)
                ranks = ranks_of(own, where, items)
                inputs = self.pairs.inputs(period, needs, rows[some][where], items, day, ranks)
                found[some[where], items] = fitted.scores(inputs)
            self._note(found, rows, day, lists, place)
            # What no source brings stands below, all alike; ties would count as half.
            lowest = np.where(np.isfinite(found), found, np.inf).min(axis=1, keepdims=True)
            below = np.where(np.isfinite(lowest), lowest - 1, 0.0).astype(np.float32)
            return np.where(np.isfinite(found), found, below).astype(np.float32)

        step = max(PAIRS_AT_ONCE // (n_items if everything else 800), 1)
        scores = measure(score, task, only=only)
        likely = self._likely(fitted, needs)
        heads = np.array([*line.heads(self.config.rules).values()], np.float32)
        positive = np.flatnonzero(np.isfinite(scores.rank))
        recall = {k: float((place[positive] < k).mean()) for k in RECALL_AT}
        return Served(replace(scores, judged=likely @ heads), lists, recall, likely)

    def brought(self) -> dict[str, tuple[float, float]]:
        """Return per source its recall alone, and what it adds to the others."""
        period = self.bench.world.name
        labels = self.bench.measured.task.labels
        rows = np.flatnonzero(labels.positive)
        candidates = self._candidates(period, rows)
        hit = {
            name: np.array(
                [labels.items[row] in each for row, each in zip(rows, lists, strict=True)]
            )
            for name, lists in candidates.items()
        }
        figures = {}
        for name, own in hit.items():
            others = np.zeros(len(rows), bool)
            for other, found in hit.items():
                others |= found & (other != name)
            figures[name] = float(own.mean()), float((own & ~others).mean())
        return figures

    def _note(
        self, found: Floats, rows: Indices, day: int, lists: Indices, place: NDArray[np.float64]
    ) -> None:
        """Note the first ten of each label, and the rank of its own item among the candidates."""
        task = self.bench.measured.task
        scores = found.copy()
        scores[:, ~task.item_days.known(day)] = -np.inf
        scores[task.seen[rows].nonzero()] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        there = np.isfinite(np.take_along_axis(scores, best, 1))
        lists[rows] = np.where(there, best, -1)
        own = scores[np.arange(len(rows)), task.labels.items[rows]]
        ties = (scores == own[:, None]).sum(axis=1) - 1
        ranks = (scores > own[:, None]).sum(axis=1) + ties / 2
        place[rows] = np.where(np.isfinite(own), ranks, np.inf)

    def _likely(self, fitted: FittedRanker, needs: Needs) -> Floats:
        """Return the probability of each head for each label's own item."""
        period = self.bench.world.name
        labels = self.bench.measured.task.labels
        heads: Floats | None = None
        for day in np.unique(labels.days):
            rows = np.flatnonzero(labels.days == day)
            candidates = self.pairs.candidates(period, rows, int(day))
            items = labels.items[rows]
            ranks = ranks_of(candidates, np.arange(len(rows)), items)
            inputs = self.pairs.inputs(period, needs, rows, items, int(day), ranks)
            found = fitted.probabilities(inputs)
            if heads is None:
                heads = np.zeros((len(labels), found.shape[1]), np.float32)
            heads[rows] = found
        assert heads is not None
        return heads

    def _labels(self, period: str) -> tuple[Labels, list[Indices]]:
        """Return a period's labels with indices as items, and what each member had acted on."""
        own = self.bench.data.periods[period]
        labels = own.task.labels
        signs = np.where(labels.positive, 1, -1).astype(np.int32)
        actions = own.frame["action"].to_numpy()
        seen = own.task.seen
        return (
            Labels(own.frame["member_id"].to_numpy(), labels.items, actions, signs, labels.times),
            [seen.indices[seen.indptr[row] : seen.indptr[row + 1]] for row in range(len(labels))],
        )

    def _candidates(self, period: str, rows: Indices) -> dict[str, list[Indices]]:
        """Return what the sources bring for labels, in the order of `rows`."""
        days = self.bench.data.periods[period].task.labels.days
        found: dict[str, list[Any]] = {}
        for day in np.unique(days[rows]):
            places = np.flatnonzero(days[rows] == day)
            brought = self.pairs.candidates(period, rows[places], int(day))
            for name, lists in brought.items():
                every = found.setdefault(name, [None] * len(rows))
                for place, one in zip(places, lists, strict=True):
                    every[place] = one
        return found

    def _of_days(self, labels: Labels) -> list[Indices]:
        """Return the items that were acted on, on each label's day, and known by then."""
        events = self.bench.data.events
        days, each = labels.times // DAY_US, {}
        event_days = events.times // DAY_US
        for day in np.unique(days):
            low, high = np.searchsorted(event_days, [day, day + 1])
            acted = np.unique(events.items[low:high])
            each[int(day)] = acted[self.bench.measured.task.item_days.known(int(day))[acted]]
        return [each[int(day)] for day in days]

    def _labelled(
        self,
        period: str,
        needs: Needs,
        labels: Labels,
        pairs: Pairs,
        candidates: Mapping[str, list[Indices]],
        heads: Mapping[str, float],
    ) -> Labelled:
        """Return pairs as inputs and targets; the items of a day are held once."""
        days = (labels.times // DAY_US)[pairs.labels]
        ranks = ranks_of(candidates, pairs.labels, pairs.items)
        parts, rows = [], []
        for day in np.unique(days):
            own = np.flatnonzero(days == day)
            rows.append(own)
            inputs = self.pairs.inputs(
                period,
                needs,
                pairs.labels[own],
                pairs.items[own],
                int(day),
                {name: each[own] for name, each in ranks.items()},
            )
            parts.append(inputs.compact())
        order = np.argsort(np.concatenate(rows), kind="stable")
        inputs = type(parts[0]).concatenated(parts).take(order)
        n = len(pairs.items)
        return Labelled(
            inputs,
            targets_of(heads, labels, pairs),
            np.ones(n, np.float32),
            pairs.labels,
            np.full(n, -1, np.int64),
        )


def _split(every: Labelled, times: NDArray[np.int64]) -> tuple[Labelled, Labelled]:
    """Return pairs in two: the newest VALIDATION of their labels, by time, are the second.

    Raises:
        TooFewError: there is none.
    """
    each = np.sort(times[np.diff(every.groups, prepend=-1) != 0])
    if not len(each):
        raise TooFewError("expected labels in the buffer and before it, got none in one of them")
    early = times < each[int(len(each) * (1 - VALIDATION))]
    return every.take(np.flatnonzero(early)), every.take(np.flatnonzero(~early))


def _union(
    candidates: Mapping[str, Sequence[Indices]], count: int, n_items: int
) -> tuple[Indices, Indices]:
    """Return the pairs of a label's row and each item that some source brings, each once."""
    keys = [
        row * n_items + np.asarray(lists[row], np.int64)
        for lists in candidates.values()
        for row in range(count)
    ]
    distinct = np.unique(np.concatenate([*keys, np.zeros(0, np.int64)]))
    return distinct // n_items, distinct % n_items
