"""A ranker's inputs for labels of an evaluation: members as served live, items as of their day.

The production side of the same is pipelines/ranking, from Feast's training joins; what a pair's
columns are is said once, in models/rankers.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection
from numpy.typing import NDArray

from models.candidates.build import ids_there, items_there
from models.candidates.clusters import clusters_at
from models.candidates.nearest import Nearest
from models.candidates.popular import lists as popular_lists
from models.candidates.spec import ALL, CandidateSource, NearestToMember, Neighbours, Popular
from models.candidates.votes import together
from models.lines import similarity_of
from models.rankers.history import Categories
from models.rankers.inputs import Columns, Floats, Inputs
from models.rankers.reading import SEQUENCE, Members, Needs, inputs_of, items_of, members_of
from models.spec import Aggregator
from operations.fits import Fits
from pipelines.evaluation.labels import indices_of
from pipelines.evaluation.profiles import Profiles, profiles_at
from pipelines.evaluation.protocol import LIVE
from pipelines.evaluation.variants import Bench
from pipelines.ranking.candidates import positive_fields
from pipelines.ranking.joined import Joined, column_of
from transformations.config import Config
from transformations.duck import connect
from transformations.item_kinds import predicted_kinds
from transformations.names import MEMBER_STATS_VIEW, Space
from transformations.stats.columns import duration, item_stats_columns
from transformations.stats.item_stats import in_columns, item_stats, read_for_stats
from transformations.stats.member_stats import member_stats
from transformations.timestamps import DAY_US, timestamp_of

Indices = NDArray[np.int64]


@dataclass(eq=False)
class LivePairs:
    """What rankers read in one world.

    Attributes:
        lines: Aggregators by what the catalogue calls them.
        sources: Candidate sources.
    """

    bench: Bench
    con: Connection
    lines: Mapping[str, Aggregator]
    sources: Sequence[CandidateSource]
    categories: Categories
    _counting: Connection | None = None
    _clusters: dict[datetime, pa.Table | None] = field(default_factory=dict)
    _stats_of: dict[int, bytes] = field(default_factory=dict)
    _members: dict[tuple[str, str], Members] = field(default_factory=dict)
    _items: dict[tuple[str, int], Columns] = field(default_factory=dict)
    _profiles: dict[str, Profiles] = field(default_factory=dict)
    _popular: dict[tuple[str, int], dict[str, Indices]] = field(default_factory=dict)
    _neighbours: dict[tuple[str, int], tuple[Indices, Floats]] = field(default_factory=dict)
    _nearest: dict[tuple[str, int], Nearest] = field(default_factory=dict)
    _there: dict[tuple[int, tuple[str, ...]], Indices] = field(default_factory=dict)
    _kept: dict[tuple[str, str], dict[str, Floats]] = field(default_factory=dict)
    _brought: dict[tuple[str, str], dict[int, Indices]] = field(default_factory=dict)
    _histories: dict[tuple[str, int], Indices] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        """Of the world."""
        return self.bench.world.config

    @property
    def ids(self) -> NDArray[Any]:
        """The id of each item that may be ranked."""
        ids: NDArray[Any] = self.bench.data.item_ids.to_numpy(zero_copy_only=False)
        return ids

    def members(self, period: str, needs: Needs) -> Members:
        """Return the members of a period's labels as the ranker would see them live."""
        key = (period, repr(needs))
        if key not in self._members:
            rules = self.config.rules
            labels = self.bench.data.periods[period].task.labels
            read = self._read(period, needs)
            frame = self.bench.data.periods[period].frame
            ids = frame["member_id"].tolist()
            self._members[key] = members_of(rules, needs, read, ids, labels.times)
        return self._members[key]

    def _read(self, period: str, needs: Needs) -> Joined:
        """Return what the online store would hold at each label's time, were it up to date."""
        histories = self.bench.histories(period, LIVE)
        rows, as_of = histories.rows, histories.as_of
        rows = _placed(rows, as_of, rows["n_actions"].to_numpy())
        found = {f"{SEQUENCE}__{name}": column_of(rows[name]) for name in rows.schema.names}
        stats = member_stats(self.config.rules, rows, duration(self.config))
        for view, name in needs.of_views:
            of_stats = view == MEMBER_STATS_VIEW
            own = column_of(stats[name]) if of_stats else self.profiles(period)[name]
            found[f"{view}__{name}"] = own
        every = np.ones(len(as_of), bool)
        for one in needs.vectors:
            vectors = self._vectors(period, one.line)
            for kept in one.fields.values():
                found[f"{one.view}__{kept}"] = vectors[kept.removeprefix("stored_")], every
        return Joined({n: v for n, (v, _) in found.items()}, {n: p for n, (_, p) in found.items()})

    def profiles(self, period: str) -> Profiles:
        """Return what the profiles of the labels' members said at their times."""
        if period not in self._profiles:
            own = self.bench.data.periods[period]
            members, times = pa.array(own.frame["member_id"]), own.task.labels.times
            self._profiles[period] = profiles_at(self.config, self.con, members, times)
        return self._profiles[period]

    def _vectors(self, period: str, line: str) -> dict[str, Floats]:
        """Return a line's vectors by field, float32 [labels, dim]."""
        if (period, line) not in self._kept:
            made = self.lines[line]
            own = made.config_of(self.config)
            embedder = self.bench.embedder(own)
            padded = self.bench.histories(period, LIVE).padded(embedder.config, embedder.versions)
            stacked = embedder.vectors(made, padded)
            fields = {name: stacked[:, row] for row, name in enumerate(made.vectors(own))}
            self._kept[period, line] = fields
        return self._kept[period, line]

    def items(self, needs: Needs, day: int) -> Columns:
        """Return every item as of the midnight at the start of a day."""
        key = (repr(needs), day)
        if key not in self._items:
            self._items.clear()  # days ascend
            ids, arrays = self.ids, {}
            present = {}
            for one in needs.vectors:
                space = self.lines[one.line].config_of(self.config).space
                name = f"{one.item_view}__embedding"
                arrays[name] = self.bench.item_vectors(space).at(day)
                present[name] = np.ones(len(ids), bool)
            now = np.full(len(ids), day * DAY_US)
            self._stats(needs, day, arrays, present)
            self._items[key] = items_of(needs, Joined(arrays, present), ids, now, self.categories)
        return self._items[key]

    def _stats(
        self,
        needs: Needs,
        day: int,
        arrays: dict[str, NDArray[Any]],
        present: dict[str, NDArray[np.bool_]],
    ) -> None:
        """Add the item statistics of a day, by the SQL that makes them in a run."""
        if not needs.items:
            return
        values = self._item_stats(day)
        places = {name: place for place, name in enumerate(item_stats_columns(self.config))}
        for view, name, _ in needs.items.values():
            own = values[:, places[name]].astype(np.float64)
            arrays[f"{view}__{name}"] = np.nan_to_num(own)
            present[f"{view}__{name}"] = ~np.isnan(own)

    def _item_stats(self, day: int) -> Floats:
        """Return the statistics of a day, float32 [items, columns]; NaN where missing.

        A day's are mostly zeros: those of a thousand days fit into memory as they are kept.
        """
        shape = len(self.ids), len(item_stats_columns(self.config))
        if day in self._stats_of:
            kept = zlib.decompress(self._stats_of[day])
            return np.frombuffer(kept, np.float32).reshape(shape)
        if self._counting is None:
            self._counting = connect(self.config)
            read_for_stats(self.config, self._counting, self.bench.world.split.until, "table")
        moment = self._moment(day)
        if moment not in self._clusters:
            self._clusters = {moment: clusters_at(self.config, self.con, moment)}
        at, clusters = timestamp_of(day * DAY_US), self._clusters[moment]
        found = item_stats(self.config, self._counting, at, clusters=clusters)
        values = np.full(shape, np.nan, np.float32)
        for batch in found.to_arrow_reader():
            columns = in_columns(self.config, batch)
            rows = indices_of(self.bench.data.item_ids, columns["item_id"])
            there = rows >= 0
            for place, name in enumerate(item_stats_columns(self.config)):
                own = columns[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
                values[rows[there], place] = own[there]
        self._stats_of[day] = zlib.compress(values.tobytes(), level=1)
        return values

    def candidates(self, period: str, rows: Indices, day: int) -> dict[str, list[Indices]]:
        """Return the items that each source brings for labels of one day, as indices.

        What was found for a label is kept: every ranker is asked about the same.
        """
        found: dict[str, list[Indices]] = {}
        for source in self.sources:
            if isinstance(source, NearestToMember) and source.aggregator not in self.lines:
                continue
            kept = self._brought.setdefault((period, source.full_name), {})
            new = np.array([row for row in rows.tolist() if row not in kept], np.int64)
            if len(new):
                kept |= zip(new.tolist(), self._bring(source, period, new, day), strict=True)
            found[source.full_name] = [kept[row] for row in rows.tolist()]
        return found

    def _bring(
        self, source: CandidateSource, period: str, rows: Indices, day: int
    ) -> Sequence[Indices]:
        if isinstance(source, Popular):
            lists = self._popular_at(source, day)
            segments = [ALL] * len(rows)
            if source.profile is not None:
                values, there = self.profiles(period)[source.profile]
                segments = np.where(there, values, ALL)[rows].tolist()
            return [lists.get(one, lists.get(ALL, rows[:0])) for one in segments]
        if isinstance(source, Neighbours):
            return self._neighbours_of(source, period, rows, day)
        assert isinstance(source, NearestToMember)
        return self._nearest_to(source, period, rows, day)

    def there(self, day: int, kinds: Sequence[str] | None = None) -> Indices:
        """Return the items that may be recommended at a midnight; of some kinds, or of all."""
        key = (day, tuple(kinds or ()))
        if key not in self._there:
            self._there = {kept: rows for kept, rows in self._there.items() if kept[0] == day}
            ids = ids_there(self.config, self.con, timestamp_of(day * DAY_US), kinds)
            found = indices_of(self.bench.data.item_ids, ids)
            self._there[key] = found[found >= 0]
        return self._there[key]

    def _popular_at(self, source: Popular, day: int) -> dict[str, Indices]:
        """Return the list of each segment of members."""
        key = (str(source), day)
        if key not in self._popular:
            at = timestamp_of(day * DAY_US)
            items_there(self.config, self.con, at)
            self._popular[key] = {}
            for batch in popular_lists(source, self.config, self.con, at):
                for segment, items in zip(batch["segment"], batch["item_ids"], strict=True):
                    found = indices_of(self.bench.data.item_ids, items.values)
                    self._popular[key][segment.as_py()] = found[found >= 0]
        return self._popular[key]

    def _space(self, source: CandidateSource) -> Space:
        assert source.space is not None
        return Fits(self.config).spaces[source.space]

    def _moment(self, day: int) -> datetime:
        """Return when items were folded in last before the midnight at the start of a day."""
        split = self.bench.world.split
        before = [one for one in split.moments if one <= timestamp_of(day * DAY_US)]
        return max(before, default=split.fit_until)

    def _neighbours_of(
        self, source: Neighbours, period: str, rows: Indices, day: int
    ) -> list[Indices]:
        """Let the last liked items vote; lists are made again whenever items are folded in."""
        since = int(self._moment(day).timestamp()) // 86_400
        key = (str(source), since)
        if key not in self._neighbours:
            vectors = self.bench.item_vectors(self._space(source)).at(day)
            there = self.there(day)
            config = self.config.in_space(self._space(source))
            nearest = Nearest(vectors[there], similarity_of(config))
            places, scores = nearest.of(vectors, source.nearest + 1)
            items = np.where(places >= 0, there[places], -1)
            items[items == np.arange(len(vectors))[:, None]] = -1  # not itself
            self._neighbours[key] = items, scores
        items, scores = self._neighbours[key]
        recent = self._recent(period, 2 * source.last)[rows]
        found = []
        for row in recent:
            liked = list(dict.fromkeys(row[row >= 0][::-1].tolist()))[: source.last]
            votes = source.decay ** np.arange(len(liked))
            lists = [items[item][items[item] >= 0] for item in liked]
            weighed = [
                vote * scores[item][items[item] >= 0]
                for vote, item in zip(votes, liked, strict=True)
            ]
            found.append(together(lists, weighed, source.count)[0])
        return found

    def _recent(self, period: str, length: int) -> Indices:
        if (period, length) not in self._histories:
            self._histories[period, length] = self.bench.recent(period, LIVE, length)
        return self._histories[period, length]

    def _nearest_to(
        self, source: NearestToMember, period: str, rows: Indices, day: int
    ) -> list[Indices]:
        line = self.lines[source.aggregator]
        own = line.config_of(self.config)
        there = self.there(day, predicted_kinds(self.config, line.predicted(self.config)))
        key = (source.aggregator, day)
        if key not in self._nearest:
            self._nearest.clear()
            vectors = self.bench.item_vectors(own.space).at(day)
            self._nearest[key] = Nearest(vectors[there], similarity_of(self.config, line))
        nearest = self._nearest[key]
        every = self._vectors(period, source.aggregator)
        positive = positive_fields(self.config, line)
        each = [nearest.of(every[name][rows], source.count) for name in positive]
        found = []
        for row in range(len(rows)):
            lists = [(there[p[row][p[row] >= 0]], s[row][p[row] >= 0]) for p, s in each]
            best = together([i for i, _ in lists], [s for _, s in lists], source.count, "max")
            found.append(best[0])
        return found

    def inputs(
        self,
        period: str,
        needs: Needs,
        rows: Indices,
        items: Indices,
        day: int,
        ranks: Mapping[str, Floats],
    ) -> Inputs:
        """Return pairs of labels of one day with items, by indices [n] each."""
        return inputs_of(
            needs,
            self.members(period, needs),
            self.items(needs, day),
            self.ids,
            self.categories,
            rows,
            items,
            ranks,
        )


def _placed(rows: pa.RecordBatch, as_of: NDArray[np.int64], lengths: NDArray[Any]) -> Any:
    """Return rows of `sequences_as_of` with their timestamps as they were, not from as_of."""
    table = pa.Table.from_batches([rows])
    lists = table["event_timestamps"].combine_chunks()
    flat = lists.flatten().cast(pa.int64()).to_numpy() + np.repeat(as_of, lengths)
    kind = lists.type.value_type
    moved = pa.ListArray.from_arrays(lists.offsets, pa.array(flat).cast(kind))
    place = table.schema.get_field_index("event_timestamps")
    table = table.set_column(place, "event_timestamps", moved)
    last = table["last_action_at"].combine_chunks()
    moved_last = pa.array(
        last.cast(pa.int64()).fill_null(0).to_numpy() + as_of,
        mask=~np.asarray(last.is_valid()),
    ).cast(last.type)
    place = table.schema.get_field_index("last_action_at")
    return table.set_column(place, "last_action_at", moved_last).combine_chunks().to_batches()[0]
