"""Candidates in the order of a ranker, with features from the online store as they are now."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureStore
from feast.errors import FeastObjectNotFoundException
from numpy.typing import NDArray

from models.lines import ranker_lines
from models.rankers.inputs import Floats, Inputs, Rows
from models.rankers.item_categories import items_known, read_categories
from models.rankers.package import Loaded, is_packaged, load
from models.rankers.reading import SEQUENCE, Members, Needs, inputs_of, items_of, members_of
from operations.composition import served_fits
from operations.fits import Fits
from operations.rankers import newest
from serving.recommend.kept_items import KeptItems
from serving.recommend.scored import Lists, Scored, Served, as_ids, merged
from serving.request.sequences import Event, LatestSequences
from serving.request.vectors import RequestTime
from stores.read import Features, Reader
from transformations import clock, names
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.stats.columns import duration
from transformations.stats.member_stats import member_stats
from transformations.timestamps import microseconds


class Scoring:
    """What a packaged ranker says of members and items; threads may share it.

    Args:
        store: A feature store that `stores.read.Reader` reads.
        request_time: Makes a member's vectors with actions that no store has seen; None: its stored
            vectors serve, and only its sequence, counts and statistics have the new ones.
    """

    def __init__(
        self,
        config: Config,
        store: FeatureStore,
        ranker: Loaded,
        request_time: RequestTime | None = None,
    ) -> None:
        self.config, self.ranker, self._request_time = config, ranker, request_time
        self.needs = Needs.read(ranker.manifest["needs"])
        with connect(config) as con:
            items_known(config, con)
            self._categories = read_categories(con)
        try:
            wanted, of_items = self.needs.of_members(config.rules), self.needs.of_items()
            named: Any = {"full_feature_names": True, "event_timestamps": True}
            self._members = Reader(store, wanted, **named)
            self._latest = LatestSequences(config, store)
            self._items = KeptItems(Reader(store, of_items, **named)) if of_items else None
        except FeastObjectNotFoundException as error:
            raise InputError(
                f"{ranker.line} reads what is not registered any more ({error}); train it again: "
                f"activity train ranker {ranker.line.name}"
            ) from None
        self._fits = {"ranker": ranker.model_version}
        for one in self.needs.vectors:
            self._fits |= {one.line: one.view, f"items of {one.line}": one.space}

    def of(
        self,
        member: Any,
        found: Sequence[Lists],
        extra: Sequence[Any] = (),
        context: Mapping[str, Any] | None = None,
        now: datetime | None = None,
        events: Sequence[Event] = (),
    ) -> Scored:
        """Return the scores of what the sources found and of further items (`Scorer.of`)."""
        sources = merged(found, extra)
        items = as_ids(list(sources))
        started = time.perf_counter()
        now = now or clock.now()
        inputs, served = self.inputs(member, found, items, context or {}, now, events)
        seconds = {"features": time.perf_counter() - started}
        scores, likely = self.ranker.fitted.judged(inputs)
        return Scored(
            items,
            scores,
            list(sources.values()),
            dict(zip(self.ranker.heads, likely.T, strict=True)),
            str(self.ranker.line),
            self._fits,
            seconds=seconds,
            served=served,
        )

    def of_many(
        self, members: Sequence[Any], found: Sequence[Sequence[Lists]], now: datetime
    ) -> list[Scored]:
        """As `of`, for several members that are read together; without probabilities.

        Args:
            found: What the sources found for each.
        """
        sources = [merged(each) for each in found]
        row = {item: n for n, item in enumerate(dict.fromkeys(i for each in sources for i in each))}
        if not row:
            return [Scored(as_ids([]), np.zeros(0, np.float32), []) for _ in members]
        items, sizes = as_ids(list(row)), [len(each) for each in sources]
        at = np.full(len(members), microseconds(now), np.int64)
        read = self._members.read({"member_id": list(members)})
        known = members_of(self.config.rules, self.needs, read, list(members), at, {})
        ranks = [ranks_in(lists, list(own)) for lists, own in zip(found, sources, strict=True)]
        inputs = self._pairs(
            known,
            items,
            self._read_items(items),
            np.repeat(np.arange(len(members)), sizes),
            np.array([row[item] for each in sources for item in each], np.int64),
            {name: np.concatenate([own[name] for own in ranks]) for name in ranks[0]},
        )
        scores = np.split(self.ranker.fitted.scores(inputs), np.cumsum(sizes)[:-1])
        return [
            Scored(
                as_ids(list(own)),
                scored,
                list(own.values()),
                ranker=str(self.ranker.line),
                fits=self._fits,
            )
            for own, scored in zip(sources, scores, strict=True)
        ]

    def inputs(
        self,
        member: Any,
        found: Sequence[Lists],
        items: NDArray[Any],
        context: Mapping[str, Any],
        now: datetime,
        events: Sequence[Event] = (),
    ) -> tuple[Inputs, Served]:
        """Return what the ranker reads of a member and items, a pair for each."""
        served = Served(self._members.read({"member_id": [member]}), self._read_items(items))
        inputs = self._pairs(
            self.member(member, served.member, context, now, events),
            items,
            served.items,
            np.zeros(len(items), np.int64),
            np.arange(len(items)),
            ranks_in(found, items.tolist()),
        )
        return inputs, served

    def _read_items(self, items: NDArray[Any]) -> Features:
        if self._items is None or not len(items):
            return Features({}, {})
        return self._items.read(items.tolist())

    def _pairs(
        self,
        known: Members,
        items: NDArray[Any],
        read: Features,
        member_rows: Rows,
        item_rows: Rows,
        ranks: Mapping[str, Floats],
    ) -> Inputs:
        """Return pairs of members and items that were read."""
        at = np.repeat(known.now[:1], len(items))
        return inputs_of(
            self.needs,
            known,
            items_of(self.needs, read, items, at, self._categories),
            items,
            self._categories,
            member_rows,
            item_rows,
            ranks,
        )

    def member(
        self,
        member: Any,
        read: Features,
        context: Mapping[str, Any],
        now: datetime,
        events: Sequence[Event],
    ) -> Members:
        """Return a member that was read as the ranker sees it; an unknown one has done nothing."""
        at = np.array([microseconds(now)], np.int64)
        given = {key: [value] for key, value in context.items()}
        if events:
            read = self._with_events(member, read, now, events)
        return members_of(self.config.rules, self.needs, read, [member], at, given)

    def _with_events(
        self, member: Any, read: Features, now: datetime, events: Sequence[Event]
    ) -> Features:
        """Return what the store would hold of a member if the stream had had these events."""
        vectors: Mapping[str, Mapping[str, Floats]] = {}
        if self._request_time is None:
            rows = self._latest.of([member], events, now).rows
        else:
            made = self._request_time.embed([member], events, now)
            rows, vectors = made.sequences, made.vectors
        arrays, present = dict(read.arrays), dict(read.present)
        stats = member_stats(self.config.rules, rows, duration(self.config))
        for view, columns in ((SEQUENCE, rows), (names.MEMBER_STATS_VIEW, stats)):
            for name in columns.schema.names:
                if (result := f"{view}__{name}") in arrays:
                    arrays[result], present[result] = _cell(columns[name])
        for one in self.needs.vectors:
            for kept in one.fields.values() if one.view in vectors else ():
                result = f"{one.view}__{kept}"
                arrays[result] = vectors[one.view][kept.removeprefix("stored_")]
                present[result] = np.ones(1, bool)
        return Features(arrays, present)

    def warm_up(self, items: Sequence[Any]) -> None:
        """Read items before a request asks for them."""
        if self._items is not None and items:
            self._items.read(items)

    def renew(self) -> None:
        """Read items that were read some time ago again."""
        if self._items is not None:
            self._items.renew()

    def close(self) -> None:
        """Close the connections."""
        self._members.close()
        self._latest.close()
        if self._items is not None:
            self._items.reader.close()


def _cell(column: pa.Array) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the one value of a column and whether it is there, as a reader has them."""
    if pa.types.is_list(column.type):
        values = np.empty(1, object)
        values[0] = column[0].as_py()
    elif pa.types.is_timestamp(column.type):
        values = column.to_numpy(zero_copy_only=False)
    else:
        values = column.fill_null(0).to_numpy(zero_copy_only=False)
    return values, np.asarray(column.is_valid())


def ranks_in(found: Sequence[Lists], items: Sequence[Any]) -> dict[str, Floats]:
    """Return each item's rank in each source, from 0; NaN where it is not in it."""
    ranks = {}
    for each in found:
        places = {item: rank for rank, item in enumerate(each.items.tolist())}
        row = [places.get(item, np.nan) for item in items]
        ranks[each.source.full_name] = np.array(row, np.float32)
    return ranks


def open_scoring(
    config: Config,
    store: FeatureStore,
    request_time: RequestTime | None = None,
    served: Fits | None = None,
) -> Scoring | None:
    """Return what scores by the newest fit of the first line of RANKERS that is made; or None.

    Args:
        served: The fits that answer. Default: those of the release that serves.

    Raises:
        InputError: it is damaged, reads what is gone, or what its release does not name.
    """
    served = served_fits(config) if served is None else served
    rankers = newest(config, ranker_lines(config), served)
    made = [line for line in rankers if is_packaged(line, config)]
    if not made:
        return None
    ranker = load(config, made[0])
    _refuse_other_fits(ranker, served)
    return Scoring(config, store, ranker, request_time)


def _refuse_other_fits(ranker: Loaded, served: Fits) -> None:
    """Raise InputError where a ranker reads vectors of a fit that its release does not name."""
    named = {line.view for line in served.other_fits(()) if served.is_made(line)}
    others = [one.view for one in Needs.read(ranker.manifest["needs"]).vectors]
    others = [view for view in others if view not in named]
    if others and served.release is not None:
        raise InputError(
            f"{ranker.line} was trained on {', '.join(others)}, which release {served.release} "
            f"does not name ({', '.join(sorted(named)) or 'it names no vectors'}); train it again: "
            f"activity train ranker {ranker.line.name}"
        )
