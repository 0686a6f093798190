"""What `benchmarks/incremental.py` fits again and again: a space, an aggregator, a ranker."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection as Connection
from numpy.typing import NDArray

from transformations.config import Config
from transformations.timestamps import DAY_US, microseconds, timestamp_of

REFITS = tuple(datetime(2025, month, 1, tzinfo=UTC) for month in (1, 4, 7, 10))
REFITS = (*REFITS, datetime(2026, 1, 1, tzinfo=UTC))
END = datetime(2026, 3, 1, tzinfo=UTC)
EARLIEST = datetime(2022, 1, 1, tzinfo=UTC)
DIM, LENGTH, DRAWN, AT = 64, 32, 16, 10
LABELS = 10_000
"""Of a full fit of the ranker, the newest, as the `labels` of a line bound them."""

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """NDCG@10 of labels, their members' numbers, and whether no fit of the first day knew the item.

    Each [labels].
    """

    ndcg: Floats
    members: Ints
    is_new: NDArray[np.bool_]


@dataclass(frozen=True)
class Subject:
    """What is fitted again and again.

    Attributes:
        fit: Until → a full fit.
        go_on: Parent, since, until → a fit that goes on from it.
        measure: A fit, from, until → what it gives for labels of that time.
        also: The name of another way to go on, "incremental, …", or to fit in full, "full, …" →
            as `go_on`, with the fit before of the same name.
    """

    fit: Callable[[datetime], Any]
    go_on: Callable[[Any, datetime, datetime], Any]
    measure: Callable[[Any, datetime, datetime], Found]
    also: Mapping[str, Callable[[Any, datetime, datetime], Any]] = field(default_factory=dict)


@dataclass
class Data:
    """The set's workspace, staged.

    Attributes:
        config: In the space of the texts, which is fitted until the first refit.
    """

    config: Config
    con: Connection

    @classmethod
    def read(cls, con: Connection, config: Config) -> "Data":
        """Stage the sources, and fit the space of the texts."""
        from models.items.build import build_items
        from transformations.duck import parquet
        from transformations.sources import stage_activity, stage_items

        stage_activity(config, con, END)
        stage_items(config, con, END)
        if not config.layout.item_encoder(config.space).exists():
            build_items(config, con, END, REFITS[0])
        staged = parquet([config.layout.staged_items])
        con.execute(f"create or replace temp view stg_items as from {staged}")
        return cls(config, con)

    def corpus(self, at: datetime, behaviour_at: datetime | None = None) -> Any:
        """Return the items known at a moment, and what was done by then or another one."""
        from models.items.corpus import behaviour_before, corpus_at

        corpus = corpus_at(self.config, self.con, at, behaviour_at is None)
        if behaviour_at is None:
            return corpus
        return replace(corpus, behaviour=behaviour_before(self.config, self.con, behaviour_at))

    @cached_property
    def whole(self) -> Any:
        """All that was done, on rows of the items; and their ids."""
        from models.items.co_actions import behaviour_of
        from models.items.trained import on_rows

        behaviour, ids = behaviour_of(self.corpus(END))
        return on_rows(behaviour, ids), ids

    @cached_property
    def known_since(self) -> Ints:
        """When each item was known: posted, or acted on first."""
        corpus, (behaviour, _) = self.corpus(END), self.whole
        since = corpus.available_at.copy()
        np.minimum.at(since, behaviour.items, behaviour.timestamps)
        return np.asarray(since)

    def labels(self, start: datetime, end: datetime) -> Any:
        """Return positive actions on items new to their member, each with its longest history."""
        from models.items.learning.windows import labels_of

        behaviour, _ = self.whole
        labels = labels_of(behaviour, LENGTH)
        times = behaviour.timestamps[labels.events]
        labels = labels.take(
            np.flatnonzero((times >= microseconds(start)) & (times < microseconds(end)))
        )
        order = np.lexsort((labels.starts, labels.events))
        first = np.diff(labels.events[order], prepend=-1) != 0
        return labels.take(order[first])

    def by_vectors(
        self, embed: Callable[[Any, Floats], Floats], items: Floats, start: datetime, end: datetime
    ) -> Found:
        """Measure vectors of members against those of all items known at a label's time.

        Args:
            embed: Histories and items with a row for PAD → vectors [labels, dim].
        """
        from models.items.learning.windows import histories_of

        behaviour, _ = self.whole
        labels = self.labels(start, end)
        histories = histories_of(behaviour, labels, LENGTH)
        padded = np.concatenate([np.zeros((1, items.shape[1]), np.float32), items])
        scores = embed(histories, padded) @ items.T
        times = behaviour.timestamps[labels.events]
        scores[self.known_since[None, :] > times[:, None]] = -np.inf
        rows, slots = np.nonzero(histories.rows)
        scores[rows, histories.rows[rows, slots] - 1] = -np.inf
        own = behaviour.items[labels.events]
        mine = scores[np.arange(len(own)), own]
        place = (scores > mine[:, None]).sum(axis=1) + ((scores == mine[:, None]).sum(1) - 1) / 2
        return Found(
            _ndcg(place), behaviour.members[labels.events], self.is_new(own.astype(np.int64))
        )

    def is_new(self, items: Ints) -> NDArray[np.bool_]:
        """Whether nobody had acted on items by the first fit."""
        behaviour, ids = self.whole
        before = behaviour.timestamps < microseconds(REFITS[0])
        seen = np.zeros(len(ids), bool)
        seen[behaviour.items[before]] = True
        return ~seen[items]


def space(data: Data) -> Subject:
    """The trained item space, with parts of the items' own, and the layer it is trained through."""
    from models.items import spec, trained
    from models.items.trained import LENGTH as SLOTS
    from models.items.trained import Trained
    from models.lines import encoder_lines

    line = next(one for one in encoder_lines(data.config) if isinstance(one, spec.Trained))

    def measure(fitted: Any, start: datetime, end: datetime) -> Found:
        items = fitted.encode(data.corpus(END, start))
        layer = fitted.built_layer(line)

        def embed(histories: Any, padded: Floats) -> Floats:
            further = {"further": histories.signs} if layer.further else {}
            given = padded[histories.rows[:, -SLOTS:]], histories.actions, histories.ages
            (vectors,) = layer(*given, **further, training=False).values()
            return np.asarray(vectors)

        return data.by_vectors(embed, items, start, end)

    def go_on(parent: Any, since: datetime, until: datetime) -> Any:
        return parent.go_on(line, data.corpus(until), microseconds(since))

    def at_the_full_rate(parent: Any, since: datetime, until: datetime) -> Any:
        with patch.object(trained, "LATER_RATE", 1.0):
            return go_on(parent, since, until)

    return Subject(
        fit=lambda until: Trained.fit(line, data.corpus(until), DIM),
        go_on=go_on,
        measure=measure,
        also={"incremental, full learning rate": at_the_full_rate},
    )


def aggregator(data: Data) -> Subject:
    """A learned decay in the space of the items' texts."""
    from models.inputs import Inputs
    from models.items.saved import saved
    from models.lines import catalogue_lines
    from models.training.before import Before
    from models.training.train import gather, train_on

    (line,) = catalogue_lines(data.config)
    line = line.of_fit(1, data.config.space)
    encoder = saved(data.config)
    assert encoder is not None
    items = encoder.encode(data.corpus(END))

    def trained(
        until: datetime, since: datetime | None = None, before: Any = None, rate: float = 1.0
    ) -> Any:
        recipe = replace(line.recipe, learning_rate=rate * line.recipe.learning_rate)
        own = replace(line, recipe=recipe)
        gathered = gather(own, data.config, data.con, until, since, before)
        return train_on(own, data.config, gathered, resume=False)

    def go_on(parent: Any, since: datetime, until: datetime, rate: float = 1.0) -> Any:
        weights = [np.asarray(variable) for variable in parent.model.variables]
        return trained(until, since, Before(weights, parent.head, Inputs()), rate)

    def measure(fitted: Any, start: datetime, end: datetime) -> Found:
        def embed(histories: Any, padded: Floats) -> Floats:
            given = {
                "item_embeddings": padded[histories.rows],
                "actions": histories.actions,
                "ages": histories.ages,
            }
            (vectors,) = fitted.model(given, training=False).values()
            return np.asarray(vectors)

        return data.by_vectors(embed, items, start, end)

    slower = {"incremental, slower": partial(go_on, rate=0.1)}
    return Subject(fit=trained, go_on=go_on, measure=measure, also=slower)


def ranker(data: Data) -> Subject:
    """`WideAndDeep` over the ids, and what members and items did before."""
    from models.rankers.deep import network
    from models.rankers.lines import WideAndDeep

    line = WideAndDeep(version=1, reads=("ids", "member_stats", "item_stats"), epochs=8)
    heads = {"LIKE": 1.0}

    def pairs(start: datetime, end: datetime, most: int = LABELS) -> tuple[Any, Any]:
        both = _pairs(data, start, end, most)
        border = int(len(np.unique(both.groups)) * 0.85)
        train = both.groups < border
        return both.take(np.flatnonzero(train)), both.take(np.flatnonzero(~train))

    def measure(fitted: Any, start: datetime, end: datetime) -> Found:
        both = _pairs(data, start, end)
        scores = fitted.scores(both.inputs).reshape(-1, 1 + DRAWN)
        mine = scores[:, :1]
        place = (scores > mine).sum(axis=1) + ((scores == mine).sum(axis=1) - 1) / 2
        own = np.arange(0, len(both), 1 + DRAWN)
        ids = both.inputs.items.categories["item.id"][both.inputs.item_rows[own]]
        known = pc.index_in(pa.array(ids.tolist()), data.whole[1]).to_numpy(zero_copy_only=False)
        return Found(
            _ndcg(place),
            both.inputs.members.categories["member.id"][own].astype(np.int64),
            data.is_new(known.astype(np.int64)),
        )

    def fit(until: datetime, start: datetime = EARLIEST, most: int = LABELS) -> Any:
        return line.fitted_class().fit(line, heads, *pairs(start, until, most), 0)

    def go_on(parent: Any, since: datetime, until: datetime) -> Any:
        return parent.go_on(*pairs(since, until), 0)

    def with_ids_drawn(parent: Any, since: datetime, until: datetime) -> Any:
        drawn = partial(network.Beginning, as_unknown=False)
        with patch.object(network, "Beginning", drawn):
            return go_on(parent, since, until)

    events = data.labels(EARLIEST, REFITS[0]).events
    (oldest,) = np.sort(data.whole[0].timestamps[events])[-LABELS:][:1].tolist()

    def of_the_same_labels(_: Any, __: datetime, until: datetime) -> Any:
        return fit(until, timestamp_of(oldest), len(data.whole[0].timestamps))

    return Subject(
        fit=fit,
        go_on=go_on,
        measure=measure,
        also={
            "incremental, new ids drawn": with_ids_drawn,
            "full, the same labels": of_the_same_labels,
        },
    )


def _pairs(data: Data, start: datetime, end: datetime, most: int = LABELS) -> Any:
    """Return the newest labels with 16 drawn items each as a ranker's inputs, oldest first."""
    from models.rankers.inputs import Columns, Inputs, Labelled

    behaviour, ids = data.whole
    labels = data.labels(start, end).events
    labels = labels[np.argsort(behaviour.timestamps[labels], kind="stable")][-most:]
    times = behaviour.timestamps[labels]
    positive = np.flatnonzero(behaviour.signs > 0)
    positive = positive[np.argsort(behaviour.timestamps[positive], kind="stable")]
    done, liked = behaviour.timestamps[positive], behaviour.items[positive].astype(np.int64)
    rng = np.random.default_rng(microseconds(end) // DAY_US)
    items = np.empty((len(labels), 1 + DRAWN), np.int64)
    items[:, 0] = behaviour.items[labels]
    order = np.argsort(data.known_since, kind="stable")
    known = np.searchsorted(data.known_since[order], times, "right")
    before = np.maximum(np.searchsorted(done, times), 1)
    half = DRAWN // 2
    items[:, 1 : 1 + half] = liked[(rng.random((len(labels), half)) * before[:, None]).astype(int)]
    drawn = rng.random((len(labels), DRAWN - half))
    items[:, 1 + half :] = order[(drawn * known[:, None]).astype(int)]
    # How often an item was liked before, ever and in 90 days: places in its own list of times.
    by_item = np.lexsort((done, liked))
    keys = liked[by_item] * (1 << 51) + done[by_item]

    def count(moments: Ints) -> Ints:
        wanted = items * (1 << 51) + moments[:, None]
        return np.searchsorted(keys, wanted) - np.searchsorted(keys, items * (1 << 51))

    ever = count(times)
    lately = ever - count(times - 90 * DAY_US)
    flat = items.ravel()
    n = np.searchsorted(behaviour.members, behaviour.members[labels], "left")
    of_items = Columns(
        {
            "item.n_likes": ever.ravel().astype(np.float32),
            "item.n_likes_90d": lately.ravel().astype(np.float32),
            "item.age_days": np.float32(
                (np.repeat(times, 1 + DRAWN) - data.known_since[flat]) / DAY_US
            ),
        },
        {"item.id": np.asarray(ids.to_pylist(), dtype=object)[flat]},
    )
    members = Columns(
        {"member.n_actions": (labels - n).astype(np.float32).repeat(1 + DRAWN)},
        {"member.id": behaviour.members[labels].astype(str).astype(object).repeat(1 + DRAWN)},
    )
    rows = np.arange(len(flat))
    targets = np.zeros((len(flat), 1), np.float32)
    targets[:: 1 + DRAWN] = 1.0
    return Labelled(
        Inputs(members, of_items, Columns(), rows, rows, {}),
        targets,
        np.ones(len(flat), np.float32),
        rows // (1 + DRAWN),
        np.full(len(flat), -1, np.int64),
    )


def _ndcg(place: Floats) -> Floats:
    return np.where(place < AT, 1 / np.log2(place + 2), 0.0)


SUBJECTS: Mapping[str, Callable[[Data], Subject]] = {
    "space": space,
    "aggregator": aggregator,
    "ranker": ranker,
}
