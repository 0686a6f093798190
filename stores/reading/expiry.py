"""ttl on online reads, which Feast's stores do not enforce."""

import time
from collections.abc import Sequence
from typing import Any

from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.Value_pb2 import Value


class ExpiringReads(OnlineStore):
    """Mix-in for Feast's online stores: rows older than their view's ttl read as null.

    The status is OUTSIDE_MAX_AGE, or NOT_FOUND where there is no row. Feast computes on-demand
    views afterwards, so they see the nulls. Rows of a view without a ttl, or with ttl 0, never
    expire.
    """

    enforces_ttl = True

    def _read_features_per_fv(
        self,
        config: Any,
        grouped_refs: Sequence[tuple[Any, list[str]]],
        join_key_values: Any,
        entity_name_to_join_key_map: Any,
        online_features_response: Any,
        *rest: Any,
    ) -> None:
        start = len(online_features_response.results)
        super()._read_features_per_fv(
            config,
            grouped_refs,
            join_key_values,
            entity_name_to_join_key_map,
            online_features_response,
            *rest,
        )
        _expire(grouped_refs, online_features_response.results[start:])

    async def _read_features_per_fv_async(
        self,
        config: Any,
        grouped_refs: Sequence[tuple[Any, list[str]]],
        join_key_values: Any,
        entity_name_to_join_key_map: Any,
        online_features_response: Any,
        *rest: Any,
    ) -> None:
        start = len(online_features_response.results)
        await super()._read_features_per_fv_async(
            config,
            grouped_refs,
            join_key_values,
            entity_name_to_join_key_map,
            online_features_response,
            *rest,
        )
        _expire(grouped_refs, online_features_response.results[start:])


def _expire(grouped_refs: Sequence[tuple[Any, list[str]]], results: Sequence[Any]) -> None:
    """Set expired values to null. `results` holds a vector per feature, view after view."""
    now = time.time()
    vectors = iter(results)
    for view, features in grouped_refs:
        of_view = [next(vectors) for _ in features]
        ttl = getattr(view, "ttl", None)  # an on-demand view that is written has none
        if not ttl or not of_view:
            continue
        oldest = now - ttl.total_seconds()
        for row, timestamp in enumerate(of_view[0].event_timestamps):
            if timestamp.seconds + timestamp.nanos / 1e9 >= oldest:
                continue
            # For an absent key, Feast's Redis store returns a row of nulls from 1970.
            absent = timestamp.seconds == 0 and timestamp.nanos == 0
            status = FieldStatus.NOT_FOUND if absent else FieldStatus.OUTSIDE_MAX_AGE
            for vector in of_view:
                vector.values[row].CopyFrom(Value())
                vector.statuses[row] = status
