"""All item vectors in files that processes map into memory, so that they share one copy.

The table of the current item parts lies in `item_tables/encoder=…/version=…/<key>/`. The key
identifies the parts: a new part means a new table, and an existing table never changes.

    ids.arrow         item_id of each item, in order
    first.npy         int64 [items + 2], the row of each item's oldest version; item 0 is PAD
    available_at.npy  int64 [versions + 1], microseconds since 1970; row 0 is PAD
    vectors.npy       float32 [versions + 1, dim]; row 0 holds zeros

It holds every version of an item, so one table answers for any as_of.
"""

import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from models.item_versions import ALWAYS, ItemVersions, first_rows
from transformations.config import Config
from transformations.duck import connect, parquet, sql
from transformations.errors import InputError
from transformations.files import replacing_folder
from transformations.layout import part_files
from transformations.seals import expect_whole, seal
from transformations.table_files import ENCODED_AGAIN

ROWS_AT_ONCE = 50_000


def open_item_table(config: Config) -> ItemVersions:
    """Map the table of the current item parts; write it first if no process has yet.

    Tables of earlier parts are removed; a process that has mapped one keeps it.

    Raises:
        InputError: there is no item vector, or one has another dimension than configured.
    """
    folder = _folder(config)
    with _locked(folder):
        key = table_key(config)
        if not (folder / key).exists():
            with connect(config) as con:
                _build(config, con, folder / key)
        table = _map(folder / key)
        for other in folder.iterdir():
            if other.is_dir() and other.name != key:
                shutil.rmtree(other, ignore_errors=True)
    return table


def table_key(config: Config) -> str:
    """Identify the current item parts: the same key means the same vectors.

    Raises:
        InputError: there are no item parts.
    """
    parts = _parts(config)
    if not parts:
        raise InputError(
            f"expected item vectors of {config.space} in {config.items_dir}, got none; "
            "`activity run` builds them"
        )
    marks = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in parts]
    return hashlib.sha256(repr(marks).encode()).hexdigest()[:16]


def _parts(config: Config) -> list[Path]:
    return part_files(config.items_dir)


def _folder(config: Config) -> Path:
    return config.layout.item_table(config.space)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder against other processes and threads: one writes the table, all map it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(config: Config, con: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Write the table's four files; DuckDB sorts within its memory limit, on disk beyond it."""
    expect_whole(_parts(config), ENCODED_AGAIN)
    con.execute(f"create temp view items as from {parquet(_parts(config))}")
    con.execute(f"create temp view item_versions as {sql('item_versions', __file__)}")
    ((versions, wrong),) = con.execute(
        "select count(*), count(*) filter (where len(embedding) <> $dim) from items",
        {"dim": config.dim},
    ).fetchall()
    if wrong or not versions:
        raise InputError(
            f"expected item vectors, all of dimension {config.dim}, in {config.items_dir}; "
            f"{wrong:,} of {versions:,} are not. Raise the encoder's version with `dim`, so that "
            "vectors of two spaces never mix"
        )
    with replacing_folder(folder) as temporary:
        vectors = np.lib.format.open_memmap(
            temporary / "vectors.npy", "w+", np.float32, (versions + 1, config.dim)
        )
        ids, available_at, row = [], [np.array([ALWAYS])], 1
        for batch in con.sql("from item_versions").to_arrow_reader(ROWS_AT_ONCE):
            flat = batch["embedding"].flatten().to_numpy()
            vectors[row : row + batch.num_rows] = flat.reshape(-1, config.dim)
            ids.append(batch["item_id"])
            available_at.append(batch["available_at"].to_numpy())
            row += batch.num_rows
        vectors.flush()
        items, first = first_rows(pa.chunked_array(ids).combine_chunks())
        np.save(temporary / "first.npy", first)
        np.save(temporary / "available_at.npy", np.concatenate(available_at))
        table = pa.table({"item_id": items})
        with pa.ipc.new_file(temporary / "ids.arrow", table.schema) as writer:
            writer.write_table(table)
        for file in sorted(temporary.iterdir()):
            seal(file, str(config.space), is_locked=True)


def _map(folder: Path) -> ItemVersions:
    with pa.memory_map(str(folder / "ids.arrow")) as file:
        ids = pa.ipc.open_file(file).read_all()["item_id"].combine_chunks()
    first, available_at, vectors = (
        np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))
        for name in ("first", "available_at", "vectors")
    )
    return ItemVersions(folder.name, ids, vectors, first, available_at)
