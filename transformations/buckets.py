"""The bucket of a member: which of `layout.buckets` parts of each table its rows lie in.

It is the SHA-256 of the id's text: its last 15 hexadecimal digits as a number, modulo the number of
buckets (of a power of two, that is the whole digest's remainder). Anything can compute it, and it
spreads ids evenly, whatever they look like. DuckDB's is the macro `bucket_of` of sql/macros.sql;
Spark's is `spark_sql`. tests/transformations/test_buckets.py holds all three equal.
"""

from hashlib import sha256

DIGITS = 15
"""Hexadecimal digits that a signed 64-bit number holds."""


def bucket_of(member: int | str, buckets: int) -> int:
    """Return the bucket of a member's id, from 0 to `buckets` - 1.

    >>> [bucket_of(member, 16) for member in (42, "42", -1, "日本")]
    [9, 9, 4, 2]
    """
    return int(sha256(str(member).encode()).hexdigest()[-DIGITS:], 16) % buckets


def spark_sql(column: str, buckets: int) -> str:
    """Return the bucket of a column of ids as an expression of Spark SQL.

    >>> spark_sql("member_id", 4)
    'cast(conv(right(sha2(cast(member_id as string), 256), 15), 16, 10) as bigint) % 4'
    """
    text = f"sha2(cast({column} as string), 256)"
    return f"cast(conv(right({text}, {DIGITS}), 16, 10) as bigint) % {buckets}"
