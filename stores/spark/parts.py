"""Which part of a join a label lies in, and which files of a view that part can need.

The labels are divided by a key of theirs: by the SHA-256 of its text, the last 15 hexadecimal
digits as a number, modulo the number of parts. Files may lie in folders that divide members in the
same way, `bucket=0/` to `bucket=7/` anywhere below their source. Where there are that many parts,
or a multiple, part 11 needs of such files those of bucket 3 alone: nothing is moved to divide them.

Any division gives the same result, because each part is joined by itself with all files that hold
rows of its keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from stores.asof.query import AsofView
from stores.parquet import folder_keys

BUCKET = "bucket"
DIGITS = 15
# Rows of a file; of files in half or twice as many buckets each one tells with one half.
CHECKED = 50


def bucket_sql(value: str, buckets: int) -> str:
    """Return SQL for the bucket of an id; null for null.

    >>> import duckdb
    >>> duckdb.sql(f"select {bucket_sql('42', 16)}, {bucket_sql('-1', 16)}").fetchall()
    [(9, 4)]
    """
    return f"('0x' || right(sha256(cast({value} as varchar)), {DIGITS}))::bigint % {buckets}"


@dataclass(frozen=True)
class Parts:
    """How labels are divided.

    Attributes:
        count: Into how many parts.
        by: The column of the relation `labels` that divides them; None: any rows make a part.
        buckets: Into how many the files are divided; None where they are not.
        bucketed: The numbers of the views that `by` is the key of, and whose files are divided.
    """

    count: int
    by: str | None
    buckets: int | None
    bucketed: tuple[int, ...]

    def sql(self, row: str) -> str:
        """Return SQL for the part of a row of `labels`, whose number is the column `row`."""
        if self.by is None:
            return f"{row} % {self.count}"
        return f"coalesce({bucket_sql(self.by, self.count)}, 0)"

    def files(self, number: int, part: int, view: AsofView, files: Mapping[str, int]) -> list[str]:
        """Return the files of view `number` that part `part` needs; at least one, for its columns.

        Files in no bucket's folder are needed by every part.
        """
        if self.buckets is None or number not in self.bucketed:
            return list(files)
        wanted = {None, part % self.buckets}
        needed = [file for file in files if bucket_of_file(view, file) in wanted]
        return needed or list(files)[:1]


def divided(
    views: Sequence[AsofView],
    files: Sequence[Mapping[str, int]],
    buckets: int | None,
    least: int,
) -> Parts:
    """Choose the parts: by the key of the view with the most rows, those in buckets first.

    Args:
        buckets: What is said of the files.
        least: The number of parts, or the next multiple of the buckets.

    Raises:
        ValueError: a folder of a bucket that there is none of.
    """
    rows: dict[tuple[bool, str], int] = {}
    bucketed: dict[str, list[int]] = {}
    for number, (view, some) in enumerate(zip(views, files, strict=True)):
        lies_in = {bucket_of_file(view, file) for file in some} - {None}
        _check(view, lies_in, buckets)
        for key in view.keys.values():
            in_buckets = buckets is not None and bool(lies_in) and len(view.keys) == 1
            rows[in_buckets, key] = rows.get((in_buckets, key), 0) + sum(some.values())
            if in_buckets:
                bucketed.setdefault(key, []).append(number)
    by = max(rows, key=lambda one: (one[0], rows[one]))[1] if rows else None
    numbers = tuple(bucketed.get(by or "", ()))
    step = (buckets or 1) if numbers else 1
    count = step * max(1, -(-least // step))
    return Parts(count, by, buckets if numbers else None, numbers)


def check_buckets(
    con: duckdb.DuckDBPyConnection, view: AsofView, files: Sequence[str], buckets: int
) -> None:
    """Raise if one of the first rows of a bucket's file lies in another bucket.

    Raises:
        ValueError: the files were divided into another number of buckets, or by another key.
    """
    [key] = view.keys
    value = view.scan.value(key)
    for file in files:
        bucket = bucket_of_file(view, file)
        if bucket is None:
            continue
        found = con.execute(
            f"select id, {bucket_sql('id', buckets)} as bucket from "
            f"(select {value} as id from {view.scan.sql([file])} as read limit {CHECKED}) "
            f"where bucket <> {bucket} limit 1"
        ).fetchone()
        if found is not None:
            raise ValueError(
                f"expected members of bucket {bucket} of {buckets} in {file}, got {found[0]!r} of "
                f"bucket {found[1]}. Set offline_store's `buckets` to how many the files were "
                "divided into; leave it out where some were divided otherwise than others"
            )


def bucket_of_file(view: AsofView, file: str) -> int | None:
    """Return the bucket whose folder a file lies in; None for one in no such folder."""
    if f"{BUCKET}=" not in file:
        return None
    said = folder_keys(Path(view.scan.root), file).get(BUCKET)
    return int(said) if said is not None and said.isdecimal() else None


def _check(view: AsofView, lies_in: set[int | None], buckets: int | None) -> None:
    most = max((bucket for bucket in lies_in if bucket is not None), default=0)
    if buckets is not None and most >= buckets:
        raise ValueError(
            f"expected folders of {buckets} buckets, bucket=0 to bucket={buckets - 1}, in "
            f"{view.path}, got bucket={most}. Set offline_store's `buckets` to how many there are"
        )
