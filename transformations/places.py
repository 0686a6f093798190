"""Where a source lies: on this machine's disks, in a database, or in an object store."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from transformations.errors import InputError
from transformations.secrets import redact

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

OBJECT_STORES = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs"}
"""Scheme → the library that speaks to it, through fsspec."""


CATALOGUE = "spark://"
"""The source of a table that Spark knows by its name."""


def is_in_objects(source: str) -> bool:
    """Whether a source names objects: `s3://bucket/events`."""
    return source.partition("://")[0] in OBJECT_STORES and "://" in source


def is_in_database(source: str) -> bool:
    """Whether a source is a SQLAlchemy URL."""
    return "://" in source and not is_in_objects(source)


def misplaced(source: str) -> str:
    """Say that an object store's credentials stand in a source; empty where none do.

    >>> misplaced("s3://KEY:WORD@bucket/events")
    'expected s3://bucket/… with the credentials in the environment, got them before the @'
    """
    scheme, _, rest = source.partition("://")
    # No bucket has a colon, but for the name of an access point; a key of AWS may hold a slash.
    bucket = rest.partition("/")[0]
    if not is_in_objects(source) or ":" not in bucket or "@" not in rest or rest[:4] == "arn:":
        return ""
    where = rest.rpartition("@")[2].partition("/")[0]
    expected = f"expected {scheme}://{where}/… with the credentials in the environment"
    return f"{expected}, got them before the @"


def objects(key: str, source: str) -> Path:
    """Return what `source` names in an object store, to be used as a path is.

    It is a `UPath`, which has the methods of `pathlib.Path` that reading needs, so all that reads
    files reads objects by the same lines. What was listed before is asked for again.

    Raises:
        InputError: the library of the store is not installed, or credentials stand in the source;
            the message names `key`, a key of the configuration.
    """
    if wrong := misplaced(source):
        raise InputError(f"{key}: {wrong}")
    library = OBJECT_STORES[source.partition("://")[0]]
    try:
        from upath import UPath

        place = UPath(source.rstrip("/"))
        place.fs.invalidate_cache()
    except ImportError as error:
        raise InputError(
            f"{key}: {source} needs {library}, which is not installed ({error}); type: "
            f"pip install universal-pathlib {library}"
        ) from error
    return cast(Path, place)


def is_object(path: Path) -> bool:
    """Whether a path is one of `objects`."""
    return not isinstance(path, Path)


def version_of(file: Path) -> list[Any]:
    """Return what differs once a file or an object is written again."""
    found = file.stat()
    if is_object(file):
        return [found.st_size, cast(Any, found).as_info().get("ETag", found.st_mtime)]
    return [found.st_size, found.st_mtime_ns]


def let_read(con: "Connection", file: Path) -> None:
    """Let a DuckDB connection read the object store that a file lies in."""
    if is_object(file):
        store = cast(Any, file).fs
        protocols = [store.protocol] if isinstance(store.protocol, str) else store.protocol
        if not any(con.filesystem_is_registered(each) for each in protocols):
            con.register_filesystem(store)


def cannot_list(key: str, source: Path, error: Exception) -> InputError:
    """Return what to raise where an object store does not answer as expected."""
    return InputError(
        f"{key}: {source} cannot be listed: {redact(f'{type(error).__name__}: {error}')}. "
        "Credentials, region and endpoint come from the environment (docs/own-data.md)"
    )
