"""Redis online store that keeps the newest row, decided inside the server.

Keys, hash fields and bytes are Feast's. One field is added to a row that has a created timestamp,
`_ct:<view>`: Feast stores the event timestamp only, and a correction with an equal one can be told
from a stale copy by nothing else. No Feast client asks for that field.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cache
from hashlib import sha1
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
from redis.exceptions import NoScriptError

from stores.encode import EncodedBatch
from stores.expiry import ExpiringReads
from stores.rows import Row, created_us, entity_key, event_us
from stores.wire import timestamp_messages

# One call carries many keys, for the client's sake; every key is still decided and written in one
# step. The server answers nobody else while a call runs, so a call is kept below a millisecond.
KEYS_A_CALL = 128
CALLS_A_PIPELINE = 64

FIELDS_A_HSET = 50  # Lua passes at most 250 arguments

# ARGV: event field, created field, seconds to live or 0, number of features, their fields, and then
# for every key its event and created Timestamp messages ('' for none) and its values.
_UPSERT = """
local call = redis.call

local function varint(text, at)
    local number, scale, byte = 0, 1
    local first = at
    repeat
        byte = string.byte(text, at)
        number = number + (byte % 128) * scale
        scale = scale * 128
        at = at + 1
    until byte < 128
    if at - first == 10 then
        -- A negative number, in two's complement: a double would lose its low bits.
        number, scale = 0, 1
        for index = first, first + 8 do
            number = number + (127 - string.byte(text, index) % 128) * scale
            scale = scale * 128
        end
        number = -number - 1
    end
    return number, at
end

local function parse(text)
    local seconds, nanos, at = 0, 0, 1
    while at <= #text do
        if string.byte(text, at) == 8 then
            seconds, at = varint(text, at + 1)
        else
            nanos, at = varint(text, at + 1)
        end
    end
    return seconds, nanos
end

local function older(left, right)
    if left == right then return false end
    local left_seconds, left_nanos = parse(left)
    local right_seconds, right_nanos = parse(right)
    if left_seconds ~= right_seconds then return left_seconds < right_seconds end
    return left_nanos < right_nanos
end

local event_field, created_field, live = ARGV[1], ARGV[2], tonumber(ARGV[3])
local at, written = 4 + WIDTH, 0
for index = 1, #KEYS do
    local key, event, created = KEYS[index], ARGV[at + 1], ARGV[at + 2]
    local stored, stored_created, stale = call('HGET', key, event_field), false, false
    if stored then
        stored_created = call('HGET', key, created_field)
        if stored == event then
            stale = stored_created and (created == '' or older(created, stored_created))
        else
            stale = older(event, stored)
        end
    end
    if not stale then
        if created ~= '' then
            call('HSET', key, event_field, event, created_field, created FIRST)
        else
            if stored_created then call('HDEL', key, created_field) end
            call('HSET', key, event_field, event FIRST)
        end
        REST
        if live > 0 then call('EXPIRE', key, live) end
        written = written + 1
    end
    at = at + 2 + WIDTH
end
return written
"""


@cache
def upsert(width: int) -> tuple[str, str]:
    """Return the script for rows of `width` features, and its SHA.

    The features are spelt out, because a list of them made and unpacked for every key takes longer
    than the writing itself.
    """
    pairs = [f", ARGV[{4 + nth}], ARGV[at + {2 + nth}]" for nth in range(1, width + 1)]
    first, rest = pairs[:FIELDS_A_HSET], pairs[FIELDS_A_HSET:]
    calls = [
        f"call('HSET', key{''.join(rest[start : start + FIELDS_A_HSET])})"
        for start in range(0, len(rest), FIELDS_A_HSET)
    ]
    script = _UPSERT.replace("WIDTH", str(width)).replace(" FIRST", "".join(first))
    script = script.replace("REST", "\n        ".join(calls))
    return script, sha1(script.encode(), usedforsecurity=False).hexdigest()


class ColumnarRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """As Feast's own Redis store. `skip_dedup` has no effect: the check costs no round trip."""

    type: Literal["stores.redis.ColumnarRedisOnlineStore"] = "stores.redis.ColumnarRedisOnlineStore"


class ColumnarRedisOnlineStore(ExpiringReads, RedisOnlineStore):
    """Feast's Redis store with writes that a Lua script orders, key by key, in pipelines."""

    def takes_encoded(self, config: RepoConfig) -> bool:  # noqa: ARG002
        """Whether `write_encoded` does all that this configuration asks for: always."""
        return True

    def write_encoded(self, config: RepoConfig, table: FeatureView, batch: EncodedBatch) -> None:
        """Write a batch in pipelines; rows older than what is stored change nothing.

        Raises:
            redis.exceptions.RedisError: the server went away or refused; every key holds its old
                or its new complete row.
        """
        project = config.project.encode()
        created = [b""] * len(batch)
        if batch.created_us is not None and batch.created_known is not None:
            created = timestamp_messages(batch.created_us)
            for row in np.flatnonzero(~batch.created_known).tolist():
                created[row] = b""
        columns = [timestamp_messages(batch.event_us), created]
        columns += [column.values for column in batch.features.values()]
        rows = list(zip(*columns, strict=True))
        self._send(
            config,
            _commands(
                config,
                _versioned_fv_name(table, config),
                list(batch.features),
                [key + project for key in batch.keys],
                rows,
            ),
        )

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows as Feast does, but ordered in the server and with corrections let through."""
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
        """Do the same over the asyncio client."""
        client = await self._get_client_async(config.online_store)
        commands = _row_commands(config, table, data)
        while piece := _take(commands, CALLS_A_PIPELINE):
            await _ordered_async(client, piece)
        if progress:
            progress(len(data))

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Delete a view's rows, with the field that Feast does not know."""
        super().delete_table(config, table)
        client = self._get_client(config.online_store)
        pattern = b"".join(
            [_redis_key_prefix(table.join_keys), b"*", config.project.encode("utf8")]
        )
        keys = client.scan_iter(pattern)
        while piece := _take(keys, KEYS_A_CALL * CALLS_A_PIPELINE):
            with client.pipeline(transaction=False) as pipe:
                for key in piece:
                    pipe.hdel(key, created_field(_versioned_fv_name(table, config)))
                pipe.execute()

    def _send(self, config: RepoConfig, commands: Iterator[tuple[Any, ...]]) -> None:
        client = self._get_client(config.online_store)
        while piece := _take(commands, CALLS_A_PIPELINE):
            try:
                _pipeline(client, piece)
            except NoScriptError:
                # A fresh or restarted server. Sending again what was already taken is harmless.
                for script in _scripts(piece):
                    client.script_load(script)
                _pipeline(client, piece)


def created_field(view: str) -> bytes:
    """Name the hash field that holds a row's created timestamp.

    Feast's own fields are four bytes long or begin with `_ts:`, so that this can be neither.
    """
    return b"_ct:" + view.encode()


def _pipeline(client: Any, commands: Sequence[tuple[Any, ...]]) -> None:
    with client.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(*command)
        pipe.execute()


def _scripts(commands: Sequence[tuple[Any, ...]]) -> set[str]:
    """Return the scripts that some calls need; their number of features follows their keys."""
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
    """Build EVALSHA calls; `rows` are event message, created message and values."""
    options = config.online_store
    # In a cluster all keys of a call would have to lie in one slot.
    step = 1 if options.redis_type == RedisType.redis_cluster else KEYS_A_CALL
    head = (
        f"_ts:{view}".encode(),
        created_field(view),
        options.key_ttl_seconds or 0,
        len(features),
        *(_mmh3(f"{view}:{feature}") for feature in features),
    )
    _, sha = upsert(len(features))
    for first in range(0, len(keys), step):
        some = keys[first : first + step]
        values = chain.from_iterable(rows[first : first + step])
        yield ("EVALSHA", sha, len(some), *some, *head, *values)


def _row_commands(
    config: RepoConfig, table: FeatureView, data: Sequence[Row]
) -> Iterator[tuple[Any, ...]]:
    """Build the calls for Feast's rows, which need not all name the same features."""
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
        created = timestamp_messages(np.array([moment or 0 for moment in known], dtype=np.int64))
        rows = [
            (
                event,
                made if moment is not None else b"",
                *(row[1][name].SerializeToString() for name in features),
            )
            for row, event, made, moment in zip(some, events, created, known, strict=True)
        ]
        keys = [entity_key(config, row) + project for row in some]
        yield from _commands(config, view, features, keys, rows)
        start = end


def _take(items: Iterator[Any], count: int) -> list[Any]:
    return list(islice(items, count))
