"""Features for rankers: one read of the online store, numpy arrays back.

`FeatureStore.get_online_features` turns each stored number into a protobuf field, then into a
Python object. A `Reader` answers the same question from the same stored bytes and copies whole
columns. It reads Feast's SQLite, Redis and PostgreSQL online stores and their subclasses.

The trip of a read, which this file follows from top to bottom:

    registry ─► plan       once per Reader: views, types, join keys          reading/plan.py
    ids      ─► Keys       each distinct key once, encoded as Feast does     reading/ids.py
    Keys     ─► Fetched    one round trip, bytes per view and feature        reading/{sql,redis}.py
    Fetched  ─► arrays     decoded in columns, then one row per id           bytes/decode.py
    arrays   ─► Features   with the service's on-demand views                reading/on_demand.py
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
from feast import FeatureService, FeatureStore
from numpy.typing import NDArray

from stores.bytes import decode
from stores.kinds import KINDS, kind_of
from stores.protocols import OnlineReads
from stores.reading.ids import Ids, Keys, distinct, gather
from stores.reading.on_demand import as_feast_sees, computed
from stores.reading.plan import Feature, Fetched, KeyGroup, ReadError, View, resolve

__all__ = ["Features", "ReadError", "Reader"]


class Reader:
    """Reads one feature service (or list of features) from one feature store.

    A reader asks the registry once, when it is made: after `feast apply` changed the service, make
    a new one. Threads may share a reader; `read_async` belongs to the event loop that first awaits
    it.

    Args:
        store: a FeatureStore with an SQLite, Redis or PostgreSQL online store.
        features: a feature service, or a list of "view:feature".
        full_feature_names: name results `view__feature`, as in get_online_features.
        on_demand: compute the service's on-demand views, by their own functions. False leaves out
            these views and the features that only they read.
        dims: result name to the dimension of its vectors. Default: the field's `vector_length`, or
            the first vector that this reader meets.
        enforce_ttl: whether a row older than its view's ttl counts as absent. None does as the
            online store's own reads do: the class says so by `enforces_ttl`; Feast's do not.
        event_timestamps: also return the event timestamps of each view's rows.

    Raises:
        ReadError: another kind of online store, or an on-demand view that cannot be computed here.
        feast.errors.FeastObjectNotFoundException: the registry holds no such name.

    Example:
        >>> with Reader(store, store.get_feature_service("ranker")) as reader:  # doctest: +SKIP
        ...     rows = reader.read({"member_id": 7, "item_id": [11, 12, 13]})
        ...     rows["embedding"].shape
        (3, 64)
    """

    def __init__(
        self,
        store: FeatureStore,
        features: FeatureService | Sequence[str],
        *,
        full_feature_names: bool = False,
        on_demand: bool = True,
        dims: Mapping[str, int] | None = None,
        enforce_ttl: bool | None = None,
        event_timestamps: bool = False,
    ) -> None:
        online = store._get_provider().online_store
        kind = kind_of(online)
        if kind is None:
            raise ReadError(
                f"expected an online store that is (a subclass of) one of "
                f"{', '.join(kind.feasts.__name__ for kind in KINDS)}; got "
                f"{type(online).__module__}.{type(online).__name__}: use get_online_features"
            )
        if store.config.entity_key_serialization_version != 3:
            raise ReadError(
                "expected entity_key_serialization_version 3 in feature_store.yaml, got "
                f"{store.config.entity_key_serialization_version}: use get_online_features"
            )
        if enforce_ttl is None:
            enforce_ttl = getattr(online, "enforces_ttl", False)
        self._plan = resolve(
            store, features, full_feature_names, on_demand, dims or {}, enforce_ttl,
            event_timestamps,
        )  # fmt: skip
        self._event_timestamps = event_timestamps
        self._full_feature_names = full_feature_names
        self._backend: OnlineReads = kind.reads(online, store.config, self._plan)
        self._learned_dims: dict[str, int] = {}
        self._learning = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The ids (and request data) that a read needs."""
        return self._plan.columns

    def read(self, ids: Mapping[str, Any]) -> Features:
        """Read the features of n rows in one round trip.

        Args:
            ids: for each of `columns`, n ids (list, array, series), or a single id that stands for
                all rows: `{"member_id": 7, "item_id": array}`. Each distinct key is read once.
                Other entries are ignored.

        Raises:
            ReadError: ids that are missing, null, of another type or of unequal length; a vector
                of another dimension (names its key); a view that was never applied.
        """
        asked = gather(self._plan, ids)
        keys = [distinct(group, asked) for group in self._plan.groups]
        fetched = self._backend.fetch([group.distinct for group in keys])
        return self._decoded(asked, keys, fetched)

    async def read_async(self, ids: Mapping[str, Any]) -> Features:
        """As `read`, without blocking the event loop while the store answers."""
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise ReadError("this reader's connections belong to another event loop: make one each")
        self._loop = loop
        asked = gather(self._plan, ids)
        keys = [distinct(group, asked) for group in self._plan.groups]
        fetched = await self._backend.fetch_async([group.distinct for group in keys])
        return self._decoded(asked, keys, fetched)

    def _decoded(self, ids: Ids, keys: list[Keys], fetched: list[list[Fetched]]) -> Features:
        now = np.datetime64(datetime.now(UTC).replace(tzinfo=None), "us")
        out = Features({}, {})
        inputs: dict[str, list[Any]] = {}  # of the on-demand views
        for group, key, views in zip(self._plan.groups, keys, fetched, strict=True):
            for view, stored in zip(group.views, views, strict=True):
                stored = _unexpired(view, stored, now)
                if self._event_timestamps and stored.event_timestamps is not None:
                    out.event_timestamps[view.label] = _rows(stored.event_timestamps, key)
                for feature, raws in zip(view.features, stored.columns, strict=True):
                    values, present = self._column(ids, group, key, view, feature, raws)
                    nulled = values
                    if feature.missing is not None:
                        nulled = decode.with_nulls(values, feature.missing)
                    out.arrays[feature.result] = _rows(nulled, key)
                    out.present[feature.result] = _rows(present, key)
                    if self._plan.on_demand:  # their functions see what Feast shows them: no null
                        cells = decode.pythonic(values, present)
                        inputs[feature.result] = (
                            cells if key.rows is None else [cells[row] for row in key.rows]
                        )
        if self._plan.on_demand:
            for column in self._plan.columns:
                inputs[column] = ids.full(column)
                if column in self._plan.request_data:
                    inputs[column] = as_feast_sees(inputs[column])
            for transform in self._plan.on_demand:
                for name, values, present in computed(transform, inputs, self._full_feature_names):
                    out.arrays[name], out.present[name] = values, present
        wanted = self._plan.results
        return Features(
            {name: out.arrays[name] for name in wanted},
            {name: out.present[name] for name in wanted},
            out.event_timestamps,
        )

    def _column(
        self,
        ids: Ids,
        group: KeyGroup,
        keys: Keys,
        view: View,
        feature: Feature,
        raws: Sequence[bytes | None],
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Decode one feature of the distinct keys; an error names the ids of the key."""
        vector = decode.is_vector(feature.type)
        dim = feature.dim or self._learned_dims.get(feature.result, 0)
        try:
            if feature.missing is not None:
                return decode.lists(feature.type, raws)
            values, present = decode.column(feature.type, raws, dim)
            if vector and not dim and present.any():
                with self._learning:  # another thread may have met another first vector
                    dim = self._learned_dims.setdefault(feature.result, values.shape[1])
                if dim != values.shape[1]:
                    values, present = decode.column(feature.type, raws, dim)
        except decode.MisfitError as error:
            row = error.row if keys.rows is None else int(np.argmax(keys.rows == error.row))
            source = "" if feature.dim or not vector else " as in the first vector that was read"
            raise ReadError(
                f"{view.label}:{feature.name} of {ids.at(group, row)} {error}{source}"
            ) from error
        return values, present

    def close(self) -> None:
        """Close the reader's connections; after `read_async`, await `aclose` instead."""
        self._backend.close()

    async def aclose(self) -> None:
        """Close the reader's connections, including those of the event loop."""
        await self._backend.aclose()
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _unexpired(view: View, stored: Fetched, now: np.datetime64) -> Fetched:
    """Drop the cells of rows that are older than the view's ttl."""
    if view.max_age is None or stored.event_timestamps is None:
        return stored
    expired = now - stored.event_timestamps > np.timedelta64(view.max_age)
    if not expired.any():
        return stored
    columns = [
        [None if old else raw for old, raw in zip(expired, raws, strict=True)]
        for raws in stored.columns
    ]
    return Fetched(columns, stored.event_timestamps)


def _rows(values: NDArray[Any], keys: Keys) -> NDArray[Any]:
    """Spread the values of the distinct keys over the rows of the request."""
    return values if keys.rows is None else values[keys.rows]


@dataclass(frozen=True)
class Features:
    """What a read returns: row i belongs to the i-th requested id.

    Attributes:
        arrays: contiguous, by feature name: `[n, dim]` for lists of floats, `[n]` for the
            rest (stores.bytes.decode.column gives the types). Zero, NaT or None where not present.
            A field with the tag `missing` is `[n]` lists of any length, with None for its elements
            that are missing.
        present: `[n]` masks, by feature name: False where the key has no row, its value is null, or
            its row is older than the view's ttl.
        event_timestamps: `[n]` datetime64[us] in UTC, by view, NaT where the key has no row; empty
            unless the reader was asked for them.
    """

    arrays: dict[str, NDArray[Any]]
    present: dict[str, NDArray[np.bool_]]
    event_timestamps: dict[str, NDArray[np.datetime64]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def to_dict(self) -> dict[str, list[Any]]:
        """The features as `get_online_features(...).to_dict()` has them, without the ids.

        But for missing elements: None here, what the field's tag `missing` names there.
        """
        return {
            name: decode.pythonic(values, self.present[name])
            for name, values in self.arrays.items()
        }
