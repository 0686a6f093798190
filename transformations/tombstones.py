"""Members whom the workspace has forgotten: known again by a keyed hash of their ids, and only so.

`activity forget` writes a tombstone first. Whoever reads the sources after that, a run, a stream
worker, a service that writes down what it shows, passes over rows of such a member. The hash is
HMAC-SHA-256 (RFC 2104) of the id's text as UTF-8, so 42 and '42' are one member. Its key lies
beside the tombstones, readable by its owner alone: without it nobody tells from the hash of an id
whether the id is among them.
"""

import hmac
import os
import re
import secrets
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection as Connection

from transformations.config import Config
from transformations.duck import sql
from transformations.errors import InputError
from transformations.files import replacing, sync

Id = int | str
BLOCK = 64
"""Bytes of a block of SHA-256."""
KEY_BYTES = 32
DIGEST = re.compile("[0-9a-f]{64}")


class Tombstones:
    """The tombstones of a workspace, read again when they are others.

    >>> tombstones = Tombstones(config)  # doctest: +SKIP
    >>> tombstones.add([42])  # doctest: +SKIP
    1
    >>> tombstones.are([7, 42])  # doctest: +SKIP
    [False, True]
    """

    def __init__(self, config: Config) -> None:
        """Read them; there may be none."""
        self._file, self._key_file = config.layout.tombstones, config.layout.forget_key
        self._digests: frozenset[str] = frozenset()
        self._key = b""
        self.version = ""
        """Stands for the content of the file; empty where there is none."""
        self.refresh()

    def __len__(self) -> int:
        """How many members were forgotten."""
        return len(self._digests)

    def refresh(self) -> bool:
        """Read the file again if it is another one; return whether it was.

        Raises:
            InputError: they are damaged, or the key that they were made with is not there.
        """
        try:
            found = self._file.stat()
        except FileNotFoundError:
            changed = bool(self.version)
            self.version, self._digests = "", frozenset()
            return changed
        version = f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"
        if version == self.version:
            return False
        digests = frozenset(self._file.read_text().split())
        if not digests or not all(map(DIGEST.fullmatch, digests)):
            raise InputError(
                f"{self._file} is damaged: expected lines of 64 hexadecimal digits, the hashes of "
                "forgotten members. Nothing was read, since the sources would bring those members "
                "back. Restore it from a backup. Without one, remove it, and forget them again"
            )
        self._key = self._read_key()
        self.version, self._digests = version, digests
        return True

    def add(self, members: Iterable[Id]) -> int:
        """Write tombstones for these members; return how many are new. One process at a time."""
        self.refresh()
        if not self._key:
            self._key = self._make_key()
        digests = self._digests | {self._digest(member) for member in members}
        new = len(digests) - len(self._digests)
        if new:
            with replacing(self._file) as temporary:
                temporary.write_text("".join(f"{digest}\n" for digest in sorted(digests)))
            self.refresh()
        return new

    def are(self, members: Iterable[Id]) -> list[bool]:
        """Return which of these members were forgotten, in their order."""
        if not self._digests:
            return [False for _ in members]
        known: dict[Id, bool] = {}
        return [
            known[member]
            if member in known
            else known.setdefault(member, self._digest(member) in self._digests)
            for member in members
        ]

    def kept(self, rows: pa.Table) -> pa.Table:
        """Return the rows of a table with a `member_id` without those of forgotten members."""
        if not self._digests:
            return rows
        ids = pc.unique(rows["member_id"])
        gone = [
            member
            for member, is_gone in zip(ids.to_pylist(), self.are(ids.to_pylist()), strict=True)
            if is_gone
        ]
        if not gone:
            return rows
        return rows.filter(pc.invert(pc.is_in(rows["member_id"], pa.array(gone, ids.type))))

    def among(self, con: Connection, ids: str) -> None:
        """Make the temporary table `forgotten`: those of a query's ids that were forgotten.

        Args:
            ids: A query with one column, `member_id`, of texts.
        """
        con.register("tombstones", pa.table({"digest": pa.array(sorted(self._digests))}))
        con.execute(f"create or replace temp view named as {ids}")
        padded = self._key.ljust(BLOCK, b"\0")
        con.execute(
            f"create or replace temp table forgotten as {sql('forgotten')}",
            {
                "inner_pad": bytes(byte ^ 0x36 for byte in padded),
                "outer_pad": bytes(byte ^ 0x5C for byte in padded),
            },
        )
        con.unregister("tombstones")

    def _digest(self, member: Id) -> str:
        return hmac.digest(self._key, str(member).encode(), "sha256").hex()

    def _there(self) -> bytes | None:
        try:
            key = bytes.fromhex(self._key_file.read_text().strip())
        except (FileNotFoundError, ValueError):
            return None
        return key if len(key) == KEY_BYTES else None

    def _read_key(self) -> bytes:
        key = self._there()
        if key is None:
            raise InputError(
                f"{self._file} names forgotten members by a hash, and its key, 64 hexadecimal "
                f"digits, is not in {self._key_file}. Nothing was read, since the sources would "
                "bring those members back. Restore the key from a backup. Without one, remove "
                f"{self._file.name}, and forget those members again"
            )
        return key

    def _make_key(self) -> bytes:
        """Return the key, or write a new one; there are no tombstones yet."""
        there = self._there()
        if there is not None:
            return there
        self._key_file.parent.mkdir(parents=True, exist_ok=True)
        key = secrets.token_bytes(KEY_BYTES)
        temporary = self._key_file.with_name(f"{self._key_file.name}.{secrets.token_hex(8)}.tmp")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(f"{key.hex()}\n")
        sync(temporary)
        temporary.replace(self._key_file)
        sync(self._key_file.parent)
        return key


def without_forgotten(config: Config, con: Connection, files: str) -> str:
    """Return what `from <files> as judged` is joined with, so that no forgotten member is read.

    In `malformed`, lines with a value that is the id of a forgotten member are removed.

    Args:
        files: A relation with `member_id` and, of refused rows, `raw_member_id`.
    """
    tombstones = Tombstones(config)
    if not len(tombstones):
        return ""
    lines = con.execute("select distinct line from malformed where line is not null").fetchall()
    gone = [(line,) for (line,) in lines if any(tombstones.are(values_of(line)))]
    if gone:
        con.executemany("delete from malformed where line = ?", gone)
    whose = "coalesce(judged.raw_member_id, judged.member_id::varchar)"
    tombstones.among(con, f"select {whose} as member_id from {files} as judged")
    return f" anti join forgotten on {whose} = forgotten.member_id"


def values_of(line: str) -> list[str]:
    """Return what may be values of a line that is no CSV.

    >>> values_of('42,"7;x')
    ['42', '7', 'x']
    """
    return [value.strip(" \"'\r\n") for value in re.split(r"[,;\t|]", line)]
