"""Feature views, their projections and their files as the plain `AsofView` of the join."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import duckdb
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.offline_stores.file_source import FileSource

from stores.asof.coverage import MAX_AGE_TAG
from stores.asof.query import AsofView
from stores.declared import declared_types
from stores.parquet import find_files, scan


def read_view(
    con: duckdb.DuckDBPyConnection,
    view: FeatureView,
    feature_refs: list[str],
    full_feature_names: bool,
    repo_path: Path,
) -> AsofView:
    """Resolve a feature view against the columns of its files.

    Raises:
        ValueError: a key or time that the files do not have, a feature that none of them has, or
            a tag max_age_seconds that is not a number.
        FileNotFoundError: no file at the path.
        duckdb.Error: a file that is not Parquet.
    """
    source = view.batch_source
    path = FileSource.get_uri_for_file_path(repo_path, source.path.removeprefix("file://"))
    projection = view.projection
    prefix = f"{projection.name_to_use()}:"
    wanted = [ref.removeprefix(prefix) for ref in feature_refs if ref.startswith(prefix)]
    renamed = {new: old for old, new in source.field_mapping.items()}
    declared = declared_types(view)
    times = [source.timestamp_field, source.created_timestamp_column]
    asked = dict.fromkeys([*declared, *wanted, *filter(None, times)])
    both = {
        known: declared.get(name)
        for name in asked
        for known in filter(None, (renamed.get(name), name))
    }
    read, columns = scan(con, path, find_files(path), both)

    def find(name: str, role: str) -> str:
        found = renamed.get(name, name)
        if found not in read.columns:
            found = name
        if found not in read.columns:
            raise ValueError(
                f"expected {role} {name!r} of feature view {view.name} in {path}; it has "
                f"{', '.join(columns)}"
            )
        return found

    base_name = projection.name_alias or view.name
    aliases: Mapping[str, str] = projection.join_key_map
    return AsofView(
        name=projection.name_to_use(),
        path=path,
        scan=read,
        keys={
            find(key.name, "the key"): aliases.get(key.name, key.name)
            for key in view.entity_columns
            if key.name != DUMMY_ENTITY_ID
        },
        event_time=find(source.timestamp_field, "the time"),
        created_time=(
            find(source.created_timestamp_column, "the created time")
            if source.created_timestamp_column
            else None
        ),
        ttl=view.ttl,
        features={
            f"{base_name}__{name}" if full_feature_names else name: find(name, "the feature")
            for name in wanted
        },
        max_age=_max_age(view),
    )


def _max_age(view: FeatureView) -> timedelta | None:
    text = (view.tags or {}).get(MAX_AGE_TAG)
    if text is None:
        return None
    try:
        return timedelta(seconds=float(text))
    except ValueError:
        raise ValueError(
            f"expected the tag {MAX_AGE_TAG} of feature view {view.name} to be a number of "
            f"seconds, such as 108000; got {text!r}"
        ) from None
