"""Redis online store that keeps the newest row; the server decides which one is the newest.

Keys, hash fields and bytes are Feast's. A row with a created timestamp gets one more field,
`_ct:<view>`. Feast stores only the event timestamp, and when two are equal, only the created
timestamp tells a correction from a stale copy. No Feast client reads that field.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, Literal

import numpy as np
from feast import FeatureView, RepoConfig
from feast.infra.online_stores.helpers import _mmh3, _redis_key_prefix
from feast.infra.online_stores.redis import (
    RedisOnlineStore,
    RedisOnlineStoreConfig,
    RedisType,
    _versioned_fv_name,
)
from redis.exceptions import NoScriptError, ResponseError

from stores.bytes.encode import EncodedBatch
from stores.bytes.wire import in_turn, timestamp_messages
from stores.reading.expiry import ExpiringReads
from stores.writing.redis_script import upsert
from stores.writing.rows import Row, created_us, entity_key, event_us

# One call carries many keys, which is cheaper for the client; the script still decides and writes
# each key in one step. The server serves no other client during a call, so a call must stay below a
# millisecond.
KEYS_PER_CALL = 128
CALLS_PER_PIPELINE = 64


class ColumnarRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """As Feast's own Redis store. `skip_dedup` has no effect: the check costs no round trip."""

    type: Literal["stores.redis.ColumnarRedisOnlineStore"] = "stores.redis.ColumnarRedisOnlineStore"


class ColumnarRedisOnlineStore(ExpiringReads, RedisOnlineStore):
    """Feast's Redis store with pipelined writes that a Lua script orders key by key."""

    def takes_encoded(self, config: RepoConfig) -> bool:  # noqa: ARG002
        """Return True: `prepare_write` supports every configuration."""
        return True

    def sorts_in(self, config: RepoConfig) -> None:
        """Return None: the order of keys is all one to this store."""

    def prepare_write(
        self, config: RepoConfig, table: FeatureView, batch: EncodedBatch
    ) -> Callable[[], None]:
        """Lay out a batch; return a function that writes it in pipelines, newest rows only.

        The write raises:
            redis.exceptions.RedisError: the server went away or refused; every key has its
                complete old or its complete new row.
        """
        project = config.project.encode()
        created = [b""] * len(batch)
        if batch.created_us is not None and batch.created_known is not None:
            created = timestamp_messages(batch.created_us)
            for row in np.flatnonzero(~batch.created_known).tolist():
                created[row] = b""
        columns = [timestamp_messages(batch.event_us), created]
        columns += [column.values for column in batch.features.values()]
        view, features = _versioned_fv_name(table, config), list(batch.features)
        keys = [key + project for key in batch.keys]
        if config.online_store.redis_type == RedisType.redis_cluster:
            rows = list(zip(*columns, strict=True))
            return partial(self._send, config, _commands(config, view, features, keys, rows))
        script, sha = upsert(len(features))
        head = _head(config, view, features)
        calls = packed_calls(sha, head, keys, columns)
        return partial(self._stream, config, script, calls)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows as Feast does, but let the server order them, corrections included."""
        self._send(config, _row_commands(config, table, data))
        if progress:
            progress(len(data))

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Do the same with the asyncio client."""
        client = await self._get_client_async(config.online_store)
        commands = _row_commands(config, table, data)
        while piece := _take(commands, CALLS_PER_PIPELINE):
            await _ordered_async(client, piece)
        if progress:
            progress(len(data))

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Delete a view's rows, and the field that Feast does not know."""
        super().delete_table(config, table)
        client = self._get_client(config.online_store)
        pattern = b"".join(
            [_redis_key_prefix(table.join_keys), b"*", config.project.encode("utf8")]
        )
        keys = client.scan_iter(pattern)
        while piece := _take(keys, KEYS_PER_CALL * CALLS_PER_PIPELINE):
            with client.pipeline(transaction=False) as pipe:
                for key in piece:
                    pipe.hdel(key, created_field(_versioned_fv_name(table, config)))
                pipe.execute()

    def _stream(self, config: RepoConfig, script: str, calls: Sequence[bytes]) -> None:
        """Send calls of one script over a connection of the client's pool.

        Send all calls before reading the first reply, so that the server never waits for the
        client. The server buffers a reply of six bytes per call.
        """
        client = self._get_client(config.online_store)
        connection = client.connection_pool.get_connection()
        try:
            connection.retry.call_with_retry(
                lambda: _exchange(connection, script, calls),
                lambda _: connection.disconnect(),
            )
        except BaseException:
            # The next user of the connection would read the replies that are still to come.
            connection.disconnect()
            raise
        finally:
            client.connection_pool.release(connection)

    def _send(self, config: RepoConfig, commands: Iterator[tuple[Any, ...]]) -> None:
        client = self._get_client(config.online_store)
        while piece := _take(commands, CALLS_PER_PIPELINE):
            try:
                _pipeline(client, piece)
            except NoScriptError:
                # A fresh or restarted server. Sending rows twice is harmless.
                for script in _scripts(piece):
                    client.script_load(script)
                _pipeline(client, piece)


def created_field(view: str) -> bytes:
    """Return the name of the hash field with a row's created timestamp.

    It differs from Feast's own fields, which are four bytes long or begin with `_ts:`.
    """
    return b"_ct:" + view.encode()


def _exchange(connection: Any, script: str, calls: Sequence[bytes]) -> None:
    """Send packed calls and read their replies; load the script if the server lacks it."""
    try:
        _sent(connection, calls)
    except NoScriptError:
        # A fresh or restarted server. Sending rows twice is harmless.
        connection.send_command("SCRIPT", "LOAD", script)
        connection.read_response()
        _sent(connection, calls)


def _sent(connection: Any, calls: Sequence[bytes]) -> None:
    """Send packed calls, read every reply, and raise the first error."""
    # Joined for few system calls; in pieces because the socket's timeout applies to each.
    for first in range(0, len(calls), CALLS_PER_PIPELINE):
        connection.send_packed_command([b"".join(calls[first : first + CALLS_PER_PIPELINE])])
    errors = []
    for _ in calls:
        try:
            connection.read_response()
        except ResponseError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def packed_calls(
    sha: str, head: Sequence[Any], keys: Sequence[bytes], columns: Sequence[Sequence[bytes]]
) -> list[bytes]:
    """Return the EVALSHA calls for rows given in columns, one `bytes` per call.

    A command is `*<parts>` and then, for each part, `$<size>` and its bytes, each followed by a
    line end: https://redis.io/docs/latest/develop/reference/protocol-spec. The line end of one part
    is written with the size of the next.
    """
    fixed = _with_sizes([part if isinstance(part, bytes) else str(part).encode() for part in head])
    start = _with_sizes([b"EVALSHA", sha.encode()])
    of_keys = in_turn([_sizes(keys), keys])
    of_rows = in_turn([part for column in columns for part in (_sizes(column), column)])
    width = 2 * len(columns)
    calls = []
    for first in range(0, len(keys), KEYS_PER_CALL):
        end = min(first + KEYS_PER_CALL, len(keys))
        parts = 3 + len(head) + (end - first) * (1 + len(columns))
        opening = [b"*%d" % parts, *start, *_with_sizes([b"%d" % (end - first)])]
        some, rows = of_keys[2 * first : 2 * end], of_rows[width * first : width * end]
        calls.append(b"".join([*opening, *some, *fixed, *rows, b"\r\n"]))
    return calls


def _sizes(column: Sequence[bytes]) -> list[bytes]:
    """Return the head of each part: the line end of the part before, its size, a line end."""
    sizes = list(map(len, column))
    lines = {size: b"\r\n$%d\r\n" % size for size in set(sizes)}
    if len(lines) == 1:
        return list(lines.values()) * len(sizes)
    return [lines[size] for size in sizes]


def _with_sizes(parts: Sequence[bytes]) -> list[bytes]:
    return in_turn([_sizes(parts), parts])


def _pipeline(client: Any, commands: Sequence[tuple[Any, ...]]) -> None:
    with client.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(*command)
        pipe.execute()


def _scripts(commands: Sequence[tuple[Any, ...]]) -> set[str]:
    """Return the scripts of some calls; in a call, the number of features follows the keys."""
    return {upsert(command[6 + command[2]])[0] for command in commands}


async def _ordered_async(client: Any, commands: Sequence[tuple[Any, ...]]) -> None:
    async def send() -> None:
        async with client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            await pipe.execute()

    try:
        await send()
    except NoScriptError:
        for script in _scripts(commands):
            loaded: Awaitable[str] = client.script_load(script)
            await loaded
        await send()


def _commands(
    config: RepoConfig,
    view: str,
    features: Sequence[str],
    keys: Sequence[bytes],
    rows: Sequence[Sequence[bytes]],
) -> Iterator[tuple[Any, ...]]:
    """Yield EVALSHA calls; a row is event message, created message and values."""
    options = config.online_store
    # In a cluster, all keys of a call would have to be in one slot.
    step = 1 if options.redis_type == RedisType.redis_cluster else KEYS_PER_CALL
    head = _head(config, view, features)
    _, sha = upsert(len(features))
    for first in range(0, len(keys), step):
        some = keys[first : first + step]
        values = chain.from_iterable(rows[first : first + step])
        yield ("EVALSHA", sha, len(some), *some, *head, *values)


def _head(config: RepoConfig, view: str, features: Sequence[str]) -> tuple[Any, ...]:
    """Return the arguments of the script that precede those of the rows."""
    return (
        f"_ts:{view}".encode(),
        created_field(view),
        config.online_store.key_ttl_seconds or 0,
        len(features),
        *(_mmh3(f"{view}:{feature}") for feature in features),
    )


def _row_commands(
    config: RepoConfig, table: FeatureView, data: Sequence[Row]
) -> Iterator[tuple[Any, ...]]:
    """Yield the calls for Feast's rows, which may differ in their features."""
    project = config.project.encode()
    view = _versioned_fv_name(table, config)
    start = 0
    while start < len(data):
        features = list(data[start][1])
        end = start + 1
        while end < len(data) and list(data[end][1]) == features:
            end += 1
        some = data[start:end]
        events = timestamp_messages(np.array([event_us(row) for row in some], dtype=np.int64))
        known = [created_us(row) for row in some]
        created = timestamp_messages(np.array([us or 0 for us in known], dtype=np.int64))
        rows = [
            (
                event,
                made if us is not None else b"",
                *(row[1][name].SerializeToString() for name in features),
            )
            for row, event, made, us in zip(some, events, created, known, strict=True)
        ]
        keys = [entity_key(config, row) + project for row in some]
        yield from _commands(config, view, features, keys, rows)
        start = end


def _take(items: Iterator[Any], count: int) -> list[Any]:
    return list(islice(items, count))
