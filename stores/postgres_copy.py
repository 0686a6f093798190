"""Rows in PostgreSQL's binary COPY format, as its online store holds them.

A row is the number of its columns and then, for each, its size and its bytes:
https://www.postgresql.org/docs/current/sql-copy.html.
"""

import struct
from collections.abc import Iterable, Sequence
from itertools import repeat

from psycopg import Cursor, sql

from stores.encode import EncodedBatch

# Binary COPY counts microseconds from 2000-01-01, as PostgreSQL does.
POSTGRES_EPOCH_US = 946_684_800_000_000

ROWS_A_WRITE = 1000

COLUMNS = (
    *("entity_key", "feature_name", "value", "value_text", "value_num"),
    *("vector_value", "event_ts", "created_ts"),
)

# What `encoded_rows` fills; a column that is not named becomes null.
ENCODED_COLUMNS = tuple(name for name in COLUMNS if name != "value_num")

NULL = struct.pack(">i", -1)


def encoded_rows(batch: EncodedBatch) -> list[bytes]:
    """Return a batch's rows with ENCODED_COLUMNS, in the order of their keys: one `bytes` a key."""
    event = (batch.event_us - POSTGRES_EPOCH_US).tolist()
    created: Iterable[int | None] = [None] * len(batch)
    if batch.created_us is not None and batch.created_known is not None:
        known = batch.created_known.tolist()
        moments = (batch.created_us - POSTGRES_EPOCH_US).tolist()
        created = [made if ok else None for made, ok in zip(moments, known, strict=True)]
    # vector_value is null, and the times follow it.
    ends = [NULL + moment(when) + moment(made) for when, made in zip(event, created, strict=True)]
    count = struct.pack(">h", len(ENCODED_COLUMNS))
    keys = [count + field(key) for key in batch.keys]
    by_feature = []
    for name, column in sorted(batch.features.items()):
        named = field(name.encode())
        texts = (
            repeat(NULL)
            if column.texts is None
            else [NULL if text is None else field(text.encode()) for text in column.texts]
        )
        by_feature.append(
            [
                key + named + field(value) + text + end
                for key, value, text, end in zip(keys, column.values, texts, ends, strict=False)
            ]
        )
    rows = list(map(b"".join, zip(*by_feature, strict=True)))
    in_order = sorted(range(len(rows)), key=batch.keys.__getitem__)
    return [rows[nth] for nth in in_order]


def copy_rows(cursor: Cursor, into: str, columns: Sequence[str], rows: Sequence[bytes]) -> None:
    """Copy rows of the binary format, which have these columns, into a table."""
    query = sql.SQL("copy {} ({}) from stdin (format binary)").format(
        sql.Identifier(into), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with cursor.copy(query) as copy:
        copy.write(b"PGCOPY\n\xff\r\n\x00" + bytes(8))
        for first in range(0, len(rows), ROWS_A_WRITE):
            copy.write(b"".join(rows[first : first + ROWS_A_WRITE]))
        copy.write(b"\xff\xff")


def field(value: bytes) -> bytes:
    """Return a value with its size before it."""
    return len(value).to_bytes(4, "big") + value


def moment(microseconds: int | None) -> bytes:
    """Return microseconds since PostgreSQL's epoch as a column."""
    return NULL if microseconds is None else struct.pack(">iq", 8, microseconds)
