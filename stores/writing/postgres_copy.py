"""Rows of the PostgreSQL online store in the binary COPY format.

A row is the number of its columns, then the size and the bytes of each:
https://www.postgresql.org/docs/current/sql-copy.html.
"""

import struct
from collections.abc import Iterable, Sequence

from psycopg import Cursor, sql

from stores.bytes.encode import EncodedBatch
from stores.bytes.wire import in_turn

# Binary COPY counts microseconds from 2000-01-01, as PostgreSQL does.
POSTGRES_EPOCH_US = 946_684_800_000_000

KEYS_PER_WRITE = 1000

COLUMNS = (
    *("entity_key", "feature_name", "value", "value_text", "value_num"),
    *("vector_value", "event_ts", "created_ts"),
)

# The columns of `encoded_rows`; any other column becomes null.
ENCODED_COLUMNS = tuple(name for name in COLUMNS if name != "value_num")

NULL = struct.pack(">i", -1)


def encoded_rows(batch: EncodedBatch) -> list[bytes]:
    """Return a batch's rows with ENCODED_COLUMNS, in the order of their keys, for `copy_rows`."""
    in_order = sorted(range(len(batch)), key=batch.keys.__getitem__)
    event = (batch.event_us - POSTGRES_EPOCH_US).tolist()
    created: Iterable[int | None] = [None] * len(batch)
    if batch.created_us is not None and batch.created_known is not None:
        known = batch.created_known.tolist()
        times = (batch.created_us - POSTGRES_EPOCH_US).tolist()
        created = [made if ok else None for made, ok in zip(times, known, strict=True)]
    # vector_value is null; the timestamps follow it.
    ends = [
        NULL + timestamp_field(when) + timestamp_field(made)
        for when, made in zip(event, created, strict=True)
    ]
    count = struct.pack(">h", len(ENCODED_COLUMNS))
    keys = [count + field(key) for key in batch.keys]
    columns: list[list[bytes]] = []
    for name, column in sorted(batch.features.items()):
        sizes = list(map(len, column.values))
        named = {size: field(name.encode()) + struct.pack(">i", size) for size in set(sizes)}
        texts = [NULL] * len(batch)
        if column.texts is not None:
            texts = [NULL if text is None else field(text.encode()) for text in column.texts]
        columns += [keys, [named[size] for size in sizes], column.values, texts, ends]
    parts = in_turn([[column[nth] for nth in in_order] for column in columns])
    step = KEYS_PER_WRITE * len(columns)
    return [b"".join(parts[first : first + step]) for first in range(0, len(parts), step)]


def copy_rows(cursor: Cursor, into: str, columns: Sequence[str], rows: Sequence[bytes]) -> None:
    """Copy rows of the binary format with these columns into a table.

    Each element of `rows` is one send, so it should hold many rows.
    """
    query = sql.SQL("copy {} ({}) from stdin (format binary)").format(
        sql.Identifier(into), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with cursor.copy(query) as copy:
        copy.write(b"PGCOPY\n\xff\r\n\x00" + bytes(8))
        for some in rows:
            copy.write(some)
        copy.write(b"\xff\xff")


def field(value: bytes) -> bytes:
    """Return a value, preceded by its size."""
    return len(value).to_bytes(4, "big") + value


def timestamp_field(microseconds: int | None) -> bytes:
    """Return microseconds since PostgreSQL's epoch as a field."""
    return NULL if microseconds is None else struct.pack(">iq", 8, microseconds)
