"""Files of Parquet in an object store: those that a table's commits name, else those below it.

A folder may hold manifests of commits, `_commit-00000007.json`, each of which names the files that
it added (`added`, a list of mappings with `file`, relative to the folder) and the manifests that no
longer count since then (`replaced`). The table is the union of what the others added. So a reader
sees the whole of each commit or nothing, though nothing can be renamed there. A folder without
manifests is read as one on a disk is.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

MANIFEST = re.compile(r"_commit-[0-9]+[.]json")
ATTEMPTS = 5


def is_url(path: str) -> bool:
    """Whether a path is one of an object store: `s3://bucket/folder`."""
    return "://" in path and not path.startswith("file://")


def not_read(path: str, endpoint: str | None) -> str | None:
    """Return why a source is left to Feast; None where it is read here, by fsspec.

    Args:
        endpoint: What the source names as that of its object store. Here the environment does.
    """
    if not is_url(path):
        return None
    if endpoint:
        return f"at the endpoint {endpoint}"
    try:
        file_system(path)
    except (ImportError, ValueError) as error:
        return f"which fsspec cannot ({error})"
    return None


def files_in_force(manifests: Mapping[str, str | bytes]) -> list[str]:
    """Return the files that a table is made of, in the order of their names.

    Args:
        manifests: Their names and contents.

    >>> files_in_force({
    ...     "_commit-1.json": '{"added": [{"file": "a"}, {"file": "b"}], "replaced": []}',
    ...     "_commit-2.json": '{"added": [{"file": "a"}], "replaced": ["_commit-1.json"]}',
    ... })
    ['a']
    """
    said = {name: json.loads(text) for name, text in manifests.items()}
    gone = {name for one in said.values() for name in one["replaced"]}
    return sorted(
        added["file"] for name, one in said.items() if name not in gone for added in one["added"]
    )


def find_objects(url: str) -> list[str]:
    """Return the Parquet files of a folder, or the one file, as URLs in the order of their names.

    Raises:
        FileNotFoundError: there are none.
    """
    store, scheme = file_system(url), url.partition("://")[0]
    if url.lower().endswith(".parquet"):
        return [url]
    for left in reversed(range(ATTEMPTS)):
        try:
            names = [_last(name) for name in _listed(store, url)]
            manifests = [f"{url}/{name}" for name in names if MANIFEST.fullmatch(name)]
            if manifests:
                nothing = [None] * len(manifests)
                texts = store.cat_ranges(manifests, nothing, nothing, on_error="raise")
                named = files_in_force(dict(zip(map(_last, manifests), texts, strict=True)))
                found = [f"{url}/{name}" for name in named]
            else:
                below = {name: f"{scheme}://{name.lstrip('/')}" for name in store.find(url)}
                found = [each for each in below.values() if _is_data(each, url)]
            break
        except FileNotFoundError:  # what nobody needs any more went between the two steps
            if not left:
                raise
    files = sorted(file for file in found if file.lower().endswith(".parquet"))
    if not files:
        raise FileNotFoundError(f"expected files that end in .parquet at {url}, got none")
    return files


def version_of(url: str) -> tuple[int, int, int]:
    """Return numbers that differ once an object is written again.

    Raises:
        FileNotFoundError: it is gone.
    """
    found = file_system(url).info(url)
    tag = found.get("ETag") or found.get("etag") or found.get("mtime") or found.get("created")
    return 0, found["size"], zlib.crc32(str(tag).encode())


def let_read(con: Any, *paths: str) -> None:
    """Let a DuckDB connection read the object stores of those paths that are URLs."""
    for store in map(file_system, filter(is_url, paths)):
        protocols = [store.protocol] if isinstance(store.protocol, str) else store.protocol
        if not any(con.filesystem_is_registered(each) for each in protocols):
            con.register_filesystem(store)


def file_system(url: str) -> Any:
    """Return fsspec's file system of a URL, which asks the store again each time."""
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {"use_listings_cache": False}
    if url.startswith("s3://"):
        # DuckDB asks for the columns that it needs; to read 50 MB ahead would be for nothing.
        options["default_cache_type"] = "none"
    return url_to_fs(url, **options)[0]


def _listed(store: Any, url: str) -> list[str]:
    try:
        return list(store.ls(url, detail=False))
    except FileNotFoundError:
        return []


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _is_data(file: str, folder: str) -> bool:
    return not any(part.startswith(("_", ".")) for part in file.removeprefix(folder).split("/"))
