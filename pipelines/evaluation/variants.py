"""What is compared: the same ranker with different features, and recommenders without vectors."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from duckdb import DuckDBPyConnection as Connection
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack
from threadpoolctl import threadpool_limits

from models.evaluation.bootstrap import Resamples
from models.evaluation.compare import estimates
from models.evaluation.history import events_before
from models.evaluation.item_vectors import ItemVectors
from models.evaluation.matrix_references import MatrixRecommender
from models.evaluation.ranker import RankerFeatures, RankerSettings, fit_ranker
from models.evaluation.ranker_weights import Ranker
from models.evaluation.references import DecayedCooccurrence, Popular, PositiveEvents
from models.evaluation.sasrec import SasRec
from models.evaluation.scoring import LabelScores, measure, measure_ranker
from models.evaluation.task import RankerLabels, which
from models.item_versions import ItemVersions
from models.spec import Aggregator
from pipelines.evaluation.histories import Embedder, Histories, Log
from pipelines.evaluation.labels import EvaluationData, Floats, Period
from pipelines.evaluation.protocol import Freshness, Times
from pipelines.evaluation.world import World
from transformations.config import Config
from transformations.duck import connect
from transformations.names import Space
from transformations.timestamps import DAY_US

CHOSEN_BY = "ndcg10"
"""The metric on the validation that settings are chosen by."""
LAST = 10
"""How many of a member's last positive actions the co-occurrence recommender uses."""


@dataclass(frozen=True, eq=False)
class Variant:
    """A ranker with one kind of features.

    Attributes:
        line: Its line of the catalogue; None for the ranker without activity.
        space: Whose item vectors its ranker multiplies with.
        knn: Whether the ranker also has item-kNN's score of each pair.
    """

    name: str
    line: Aggregator | None
    space: Space
    knn: bool = False

    def with_knn(self) -> "Variant":
        """Return this variant with item-kNN's scores as inputs."""
        return replace(self, name=f"{self.name}_knn", knn=True)


@dataclass(frozen=True)
class KnnSettings:
    """Settings of item-kNN that validation chooses.

    Attributes:
        half_life: In days; None: pairs never fade.
        days: Window of the popularity of items without a pair.
    """

    half_life: float | None = None
    days: float = 7.0


@dataclass(eq=False)
class Bench:
    """A world with its labels: gives every variant's features and measures its rankers.

    Attributes:
        knn: Chosen on validation.
    """

    world: World
    data: EvaluationData
    log: Log
    knn: KnnSettings = field(default_factory=KnnSettings)
    _embedders: dict[Space, Embedder] = field(default_factory=dict)
    _items: dict[Space, ItemVectors] = field(default_factory=dict)
    _histories: dict[tuple[str, str], Histories] = field(default_factory=dict)
    _pairs: dict[tuple[str, str, KnnSettings], csr_array] = field(default_factory=dict)
    _features: dict[str, tuple[tuple[str, str, bool], RankerFeatures]] = field(default_factory=dict)

    @classmethod
    def of(cls, world: World, con: Connection, data: EvaluationData) -> "Bench":
        """Read the actions of the members of the labels."""
        log = Log.read(world.config, con, world.split.until, data.member_codes)
        return cls(world, data, log)

    @property
    def measured(self) -> Period:
        """The period that is measured: of the validation, or of the test."""
        return self.data.periods[self.world.name]

    @cached_property
    def labels(self) -> RankerLabels:
        """The measured labels, their members counted among those that have one, for resampling."""
        labels = self.measured.task.labels
        _, members = np.unique(labels.members, return_inverse=True)
        return replace(labels, members=members.astype(np.int64))

    def resamples(self, seeds: int, resamples: int, items: int = 0) -> Resamples:
        """Return resamples of the members of `labels`, and of that many items."""
        return Resamples(int(self.labels.members.max()) + 1, seeds, resamples, items=items)

    def as_of(self, period: str, freshness: Freshness) -> Times:
        """Return the as_of of the features of each label of a period."""
        times = self.data.periods[period].task.labels.times
        config = self.world.config
        return freshness.as_of(times, self.world.split.fit_until, config.publish_delay)

    def histories(self, period: str, freshness: Freshness) -> Histories:
        """Return what is known of the members of a period's labels."""
        key = (period, freshness.name)
        if key not in self._histories:
            as_of, labels = self.as_of(period, freshness), self.data.periods[period]
            self._histories[key] = Histories.of(self.world.config, self.log, labels, as_of)
        return self._histories[key]

    def embedder(self, config: Config) -> Embedder:
        """Return what embeds the lines of a configuration's item space."""
        if config.space not in self._embedders:
            split = self.world.split
            with connect(config) as con:
                versions = ItemVersions.read_between(config, con, split.fit_until, split.until)
            self._embedders[config.space] = Embedder(config, versions)
        return self._embedders[config.space]

    def item_vectors(self, space: Space) -> ItemVectors:
        """Return the vectors of the items that are ranked, in a space."""
        if space not in self._items:
            versions = self.embedder(self.world.config.in_space(space)).versions
            self._items[space] = ItemVectors.of(versions, self.data.item_ids)
        return self._items[space]

    def features(self, variant: Variant, period: str, freshness: Freshness) -> RankerFeatures:
        """Return a variant's features for the labels of a period; each period's last are kept."""
        key = (str(variant.line), freshness.name, variant.knn)
        if period not in self._features or self._features[period][0] != key:
            self._features[period] = key, self._made(variant, period, freshness)
        return self._features[period][1]

    def _made(self, variant: Variant, period: str, freshness: Freshness) -> RankerFeatures:
        histories = self.histories(period, freshness)
        config = self.world.config
        pairs = self.pairs(period, freshness) if variant.knn else None
        if variant.line is None:
            shape = (len(histories.as_of), len(config.actions), config.dim)
            nothing = np.zeros_like(histories.member_features)
            return RankerFeatures(np.zeros(shape, np.float32), nothing, pairs)
        embedder = self.embedder(variant.line.config_of(config))
        padded = histories.padded(embedder.config, embedder.versions)
        vectors = embedder.vectors(variant.line, padded)
        return RankerFeatures(vectors, histories.member_features, pairs)

    def fit(
        self,
        variant: Variant,
        freshness: Freshness,
        settings: RankerSettings,
        seed: int,
        positive: NDArray[np.bool_] | None = None,
    ) -> Ranker:
        """Fit one ranker on the labels of the train period.

        Args:
            positive: Replaces that of the labels, for a control.
        """
        task = self.data.periods["train"].task
        if positive is not None:
            task = task.with_positive(positive)
        features = self.features(variant, "train", freshness)
        return fit_ranker(task, features, self.item_vectors(variant.space), settings, seed)

    def measure(self, ranker: Ranker, variant: Variant, features: RankerFeatures) -> LabelScores:
        """Measure a ranker with these features on the measured period."""
        return measure_ranker(
            ranker, self.measured.task, features, self.item_vectors(variant.space)
        )

    def scores(
        self, variant: Variant, freshness: Freshness, settings: RankerSettings, seed: int
    ) -> LabelScores:
        """Fit a ranker and measure it.

        By one thread: its products are so small that several wait for each other longer than they
        compute, ten times as long beside other work.
        """
        features = self.features(variant, self.world.name, freshness)
        with threadpool_limits(1):
            ranker = self.fit(variant, freshness, settings, seed)
            return self.measure(ranker, variant, features)

    def chosen_by(self, scores: LabelScores) -> float:
        """Return CHOSEN_BY of scores on the measured period."""
        resamples = self.resamples(seeds=1, resamples=1)
        return estimates([scores], self.labels, resamples, metrics=[CHOSEN_BY])[CHOSEN_BY].value

    def popular(self, days: float) -> LabelScores:
        """Measure the popularity of the last days before each label's midnight."""
        popular = Popular(self.data.events.positives(), len(self.data.item_ids), days)

        def score(rows: NDArray[np.int64], day: int) -> NDArray[np.float32]:
            return np.tile(popular.at(day * DAY_US), (len(rows), 1))

        return measure(score, self.measured.task)

    def neighbours(self, freshness: Freshness, last: int = LAST) -> LabelScores:
        """Measure item-kNN on a member's last positive actions."""
        recommender, histories = self._knn(), self.recent(self.world.name, freshness)[:, -last:]

        def score(rows: NDArray[np.int64], day: int) -> NDArray[np.float32]:
            return recommender.scores(np.full(len(rows), day * DAY_US), histories[rows])

        return measure(score, self.measured.task)

    def earlier(self) -> PositiveEvents:
        """Return the positive actions before the first label of the measured period."""
        events, until = self.data.events.positives(), self.measured.task.labels.times.min()
        before = events.before(int(until))
        return PositiveEvents(events.members[:before], events.items[:before], events.times[:before])

    def matrix(self) -> csr_array:
        """Return which items members acted on earlier, sparse float32 [members, items]."""
        events, shape = self.earlier(), (len(self.data.member_codes), len(self.data.item_ids))
        return which(events.members, events.items, shape).astype(np.float32)

    def whole(self, recommender: MatrixRecommender, freshness: Freshness) -> LabelScores:
        """Measure a recommender of the whole matrix on all positive actions of each member."""
        labels, events = self.measured.task.labels, self.data.events.positives()
        order = np.lexsort((events.times, events.members))
        rows, found = events_before(
            events.members[order],
            events.times[order],
            labels.members,
            self.as_of(self.world.name, freshness),
        )
        shape = (len(labels), len(self.data.item_ids))
        histories = which(rows, events.items[order][found], shape).astype(np.float32)
        return self._above_popularity(
            lambda some: recommender.scores(histories[some]),
            recommender.known,
            np.diff(histories.indptr) > 0,
        )

    def sequential(self, recommender: SasRec, freshness: Freshness) -> LabelScores:
        """Measure SASRec on the last positive actions of each member."""
        length = recommender.settings.length
        histories = self.recent(self.world.name, freshness, length)
        return self._above_popularity(
            lambda some: recommender.scores(histories[some]),
            recommender.known,
            np.asarray((histories >= 0).any(axis=1)),
        )

    def _above_popularity(
        self,
        scores: Callable[[NDArray[np.int64]], Floats],
        known: NDArray[np.bool_],
        has_history: NDArray[np.bool_],
    ) -> LabelScores:
        """Measure scores, below which stand other items by popularity.

        Args:
            scores: Indices of labels → float32 [indices, items].
            known: Which items have a score [items].
            has_history: Which labels' members have one [labels]; the others get popular items.
        """
        popular = Popular(self.data.events.positives(), len(known), self.knn.days)

        def score(rows: NDArray[np.int64], day: int) -> Floats:
            counts = popular.at(day * DAY_US)
            least = counts / (counts.max() + 1) - 1  # below 0, by popularity
            found = scores(rows)
            lowest = found.min(axis=1, keepdims=True)
            found[:, ~known] = (lowest + least[None, :])[:, ~known]
            found[~has_history[rows]] = least
            return found

        return measure(score, self.measured.task)

    def pairs(self, period: str, freshness: Freshness) -> csr_array:
        """Return item-kNN's scores for a period's labels, sparse float32 [labels, items]."""
        key = (period, freshness.name, self.knn)
        if key not in self._pairs:
            recommender, histories = self._knn(), self.recent(period, freshness)
            days = self.data.periods[period].task.labels.days
            order = np.argsort(days, kind="stable")
            ordered = days[order]
            starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
            rows = np.split(order, starts[1:])
            found = [recommender.related(int(days[r[0]]) * DAY_US, histories[r]) for r in rows]
            self._pairs[key] = csr_array(vstack(found, format="csr")[np.argsort(order)])
        return self._pairs[key]

    def recent(self, period: str, freshness: Freshness, length: int = LAST) -> NDArray[np.int64]:
        """Return the items of the last positive actions before each label's as_of.

        Int64 [labels, length], the newest last, padded on the left with -1.
        """
        labels, events = self.data.periods[period].task.labels, self.data.events.positives()
        order = np.lexsort((events.times, events.members))
        rows, found = events_before(
            events.members[order],
            events.times[order],
            labels.members,
            self.as_of(period, freshness),
        )
        # Each pair's column, counted from the right: the newest action of each label is the last.
        column = length + np.arange(len(rows)) - np.searchsorted(rows, rows, side="right")
        recent = column >= 0
        histories = np.full((len(labels), length), -1)
        histories[rows[recent], column[recent]] = events.items[order][found[recent]]
        return histories

    def _knn(self) -> DecayedCooccurrence:
        return DecayedCooccurrence(
            self.data.events.positives(),
            len(self.data.item_ids),
            last=LAST,
            half_life=self.knn.half_life,
            days=self.knn.days,
        )
