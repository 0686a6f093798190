"""Stored bytes from Feast's Redis online store: one pipelined round trip for all keys and views.

Feast keeps one hash per entity key (serialized key, then the project's name), with one field per
feature (murmur3 of `view:feature`) and one per view for the event timestamp (`_ts:view`). Views
with the same entity share the hash, so one HMGET per key answers for all of them.

redis-py's own pipeline spends most of its time packing commands that differ only in the key, and
dispatching replies that need no conversion. This module packs all commands at once and sends them
over the same pooled connection, with its retries.
"""

from collections.abc import Sequence
from typing import Any

from feast.infra.online_stores.helpers import _mmh3, compute_versioned_name
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.repo_config import RepoConfig
from redis import RedisCluster
from redis.asyncio import RedisCluster as AsyncRedisCluster

from stores.bytes.decode import MisfitError, timestamps
from stores.reading.plan import Fetched, KeyGroup, Plan, ReadError


class RedisReads:
    """Reads by one plan; threads may share it, and one event loop its asynchronous half."""

    def __init__(self, store: RedisOnlineStore, config: RepoConfig, plan: Plan) -> None:
        versioned = config.registry.enable_online_feature_view_versioning
        self._config = config.online_store
        self._project = config.project.encode()
        # The reader has its own clients, made as the store makes them, so that closing it closes
        # no others.
        self._store = type(store)()
        self._client = self._store._get_client(self._config)
        self._fields = [_fields(group, versioned) for group in plan.groups]
        self._groups = plan.groups

    def fetch(self, keys: Sequence[Sequence[bytes]]) -> list[list[Fetched]]:
        """Return the stored bytes of each group's keys per view."""
        hashes = self._hashes(keys)
        if isinstance(self._client, RedisCluster):
            with self._client.pipeline(transaction=False) as pipe:
                for key, fields in self._each(hashes):
                    pipe.execute_command("HMGET", key, *fields)
                return self._split(hashes, pipe.execute())
        pool = self._client.connection_pool
        connection = pool.get_connection()
        request, replies = self._packed(hashes), sum(map(len, hashes))

        def ask() -> list[Any]:
            connection.send_packed_command([request])
            return [connection.read_response(disable_decoding=True) for _ in range(replies)]

        try:
            rows = connection.retry.call_with_retry(ask, lambda _: connection.disconnect())
        except BaseException:
            connection.disconnect()  # else unread replies would answer the next request
            raise
        finally:
            pool.release(connection)
        return self._split(hashes, rows)

    async def fetch_async(self, keys: Sequence[Sequence[bytes]]) -> list[list[Fetched]]:
        """As `fetch`, without blocking the event loop."""
        hashes = self._hashes(keys)
        client = await self._store._get_client_async(self._config)
        if isinstance(client, AsyncRedisCluster):
            pipe = client.pipeline(transaction=False)
            for key, fields in self._each(hashes):
                pipe.execute_command("HMGET", key, *fields)
            return self._split(hashes, await pipe.execute())
        pool = client.connection_pool
        connection = await pool.get_connection()
        request, replies = self._packed(hashes), sum(map(len, hashes))

        async def ask() -> list[Any]:
            await connection.send_packed_command([request])
            return [await connection.read_response(disable_decoding=True) for _ in range(replies)]

        async def again(_: Exception) -> None:
            await connection.disconnect()

        try:
            rows = await connection.retry.call_with_retry(ask, again)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)
        return self._split(hashes, rows)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    async def aclose(self) -> None:
        """Close the connections of the event loop."""
        if self._store._client_async is not None:
            await self._store._client_async.aclose()

    def _hashes(self, keys: Sequence[Sequence[bytes]]) -> list[list[bytes]]:
        return [[key + self._project for key in group] for group in keys]

    def _each(self, hashes: list[list[bytes]]) -> list[tuple[bytes, list[bytes]]]:
        groups = zip(hashes, self._fields, strict=True)
        return [(key, fields) for group, fields in groups for key in group]

    def _packed(self, hashes: list[list[bytes]]) -> bytes:
        """One HMGET per key in the Redis serialization protocol (https://redis.io/docs/latest/
        develop/reference/protocol-spec/).
        """
        parts = []
        for group, fields in zip(hashes, self._fields, strict=True):
            head = b"*%d\r\n$5\r\nHMGET\r\n" % (len(fields) + 2)
            tail = b"".join(b"\r\n$%d\r\n%b" % (len(field), field) for field in fields) + b"\r\n"
            parts += [b"%b$%d\r\n%b%b" % (head, len(key), key, tail) for key in group]
        return b"".join(parts)

    def _split(self, hashes: list[list[bytes]], rows: list[Any]) -> list[list[Fetched]]:
        out, start = [], 0
        for group, keys, fields in zip(self._groups, hashes, self._fields, strict=True):
            block = rows[start : start + len(keys)]
            start += len(keys)
            columns = list(zip(*block, strict=True)) if block else [()] * len(fields)
            views, at = [], 0
            for view in group.views:
                end = at + len(view.features)
                try:
                    event_timestamps = timestamps(columns[end]) if view.timed else None
                except MisfitError as error:
                    raise ReadError(f"{view.label}: a row of {len(keys)} {error}") from error
                views.append(Fetched(columns[at:end], event_timestamps))
                at = end + view.timed
            out.append(views)
        return out


def _fields(group: KeyGroup, versioned: bool) -> list[bytes]:
    fields = []
    for view in group.views:
        name = compute_versioned_name(view.table, versioned)
        fields += [_mmh3(f"{name}:{feature.name}") for feature in view.features]
        fields += [f"_ts:{name}".encode()] * view.timed
    return fields
