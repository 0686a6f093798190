"""Feast's DuckDB offline store with training joins by ASOF.

In feature_store.yaml:

    offline_store:
        type: stores.duckdb_asof.DuckDBAsofOfflineStore
        memory_limit: 2GB

Results have Feast's column names, order and types. Where Feast's result is undefined, ours is
defined: see docs/stores-offline.md.
"""

from __future__ import annotations

import copy
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.errors import RequestDataNotFoundInEntityDfException
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from pydantic import StrictInt, StrictStr

from stores.asof.entity_frame import read_labels
from stores.asof.job import AsofRetrievalJob
from stores.asof.join import Join
from stores.asof.keys import compared
from stores.asof.labels import AsofLabels
from stores.asof.query import AsofView
from stores.asof.session import Limits, session
from stores.asof.views import read_view
from stores.objects import not_read

logger = logging.getLogger(__name__)


class DuckDBAsofOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Settings of the store in feature_store.yaml, besides those of Feast's DuckDB store."""

    type: StrictStr = "stores.duckdb_asof.DuckDBAsofOfflineStore"
    memory_limit: StrictStr = "2GB"
    """For DuckDB; a result held in memory (to_arrow, to_df) is extra."""
    threads: StrictInt | None = None
    """Default: one per core."""
    temp_directory: StrictStr | None = None
    """Where a join spills, relative to the repo. Default: the system's folder for such files."""


class DuckDBAsofOfflineStore(DuckDBOfflineStore):
    """Joins local Parquet files by ASOF; leaves other sources to Feast's DuckDB store."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | os.PathLike[str],
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Plan a point-in-time join of features to the rows of an entity frame.

        Args:
            config: the repository's settings.
            feature_views: the views, with their projections.
            feature_refs: `view:feature` for each feature, on-demand ones included.
            entity_df: a DataFrame; the path of a Parquet file or folder; or SQL text for DuckDB.
            registry: where on-demand views are looked up.
            project: the project they belong to.
            full_feature_names: name features `<view>__<feature>`.
            filter_by_created_timestamp: let a label see only rows created by its time.

        Returns:
            A job that has read schemas only. Its rows are in the order of the entity frame.

        Raises:
            ValueError: a column that is missing or would appear twice, ids of a type that does not
                become the key's (stores/ids.py), or an entity frame that is not a DataFrame where
                Feast's own join is needed.
        """
        return plan(
            _join,
            AsofRetrievalJob,
            read_labels,
            config=config,
            feature_views=feature_views,
            feature_refs=feature_refs,
            entity_df=entity_df,
            registry=registry,
            project=project,
            full_feature_names=full_feature_names,
            filter_by_created_timestamp=filter_by_created_timestamp,
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig, data_source: DataSource, *args: Any, **kwargs: Any
    ) -> RetrievalJob:
        """As Feast, with the source's path relative to the repo, not to the process's folder."""
        return DuckDBOfflineStore.pull_latest_from_table_or_query(
            config, _at_repo(config, data_source), *args, **kwargs
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig, data_source: DataSource, *args: Any, **kwargs: Any
    ) -> RetrievalJob:
        """As Feast, with the source's path relative to the repo, not to the process's folder."""
        return DuckDBOfflineStore.pull_all_from_table_or_query(
            config, _at_repo(config, data_source), *args, **kwargs
        )

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Add a Parquet file to a local destination, whose path is relative to the repo.

        The file appears when it is complete. Feast's method, which serves where a destination is
        elsewhere or has partitions, takes the path from the process's folder.

        Args:
            data: the rows, or a folder of Parquet files with them.
        """
        destination = logging_config.destination
        is_ours = isinstance(destination, FileLoggingDestination) and not destination.partition_by
        if not is_ours or "://" in destination.path:
            DuckDBOfflineStore.write_logged_features(config, data, source, logging_config, registry)
            return
        folder = Path(config.repo_path or ".", destination.path)
        folder.mkdir(parents=True, exist_ok=True)
        rows = ds.dataset(data, format="parquet").to_table() if isinstance(data, Path) else data
        target = folder / f"{uuid4().hex}.parquet"
        unfinished = target.with_name(f"{target.name}.tmp")
        try:
            pq.write_table(rows, unfinished, compression="zstd", write_page_checksum=True)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)


def plan(
    join_of: Callable[[AsofLabels, Sequence[AsofView], bool, Limits], Join],
    job_of: type[AsofRetrievalJob],
    read: Callable[[Any, Path, duckdb.DuckDBPyConnection], AsofLabels],
    *,
    config: RepoConfig,
    feature_views: list[FeatureView],
    feature_refs: list[str],
    entity_df: Any,
    registry: BaseRegistry,
    project: str,
    full_feature_names: bool,
    filter_by_created_timestamp: bool,
) -> RetrievalJob:
    """Check a request and plan its join, for a store whose joins run as `join_of` says.

    Args:
        read: Resolves the entity frame, as `read_labels` does.
    """
    on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
    limits = limits_of(config)
    with session(limits) as con:
        reason = _not_ours(feature_views, on_demand)
        if reason is None:
            labels = read(entity_df, limits.repo_path, con)
            views = [
                read_view(con, view, feature_refs, full_feature_names, limits.repo_path)
                for view in feature_views
            ]
    if reason is not None:
        return _by_feast(
            reason,
            config=config,
            feature_views=feature_views,
            feature_refs=feature_refs,
            entity_df=entity_df,
            registry=registry,
            project=project,
            full_feature_names=full_feature_names,
            filter_by_created_timestamp=filter_by_created_timestamp,
        )
    for on_demand_view in on_demand:
        for name in on_demand_view.get_request_data_schema():
            if name not in labels.columns:
                raise RequestDataNotFoundInEntityDfException(name, on_demand_view.name)
    computed = [
        f"{view.projection.name_to_use()}__{name}" if full_feature_names else name
        for view in on_demand
        for reference, _, name in (ref.partition(":") for ref in feature_refs)
        if reference == view.projection.name_to_use()
    ]
    _check_names(labels, views, computed)
    return job_of(
        join_of(labels, views, filter_by_created_timestamp, limits),
        feature_refs,
        on_demand,
        full_feature_names,
        config.offline_store.staging_location,
        config.offline_store.staging_location_endpoint_override,
    )


def _join(labels: AsofLabels, views: Sequence[AsofView], known_at: bool, limits: Limits) -> Join:
    return Join(*compared(labels, views), known_at, limits)


def limits_of(config: RepoConfig) -> Limits:
    """Return the limits that the settings of the store give a session of DuckDB."""
    settings = config.offline_store
    repo_path = Path(config.repo_path or ".").absolute()
    spill = settings.temp_directory
    return Limits(
        memory_limit=settings.memory_limit,
        threads=settings.threads,
        temp_directory=None if spill is None else repo_path / spill,
        repo_path=repo_path,
    )


def _not_ours(
    feature_views: Sequence[FeatureView], on_demand: Sequence[OnDemandFeatureView]
) -> str | None:
    """Return why the declarations need Feast's own method; None if they do not."""
    for view in feature_views:
        source = view.batch_source
        if not isinstance(source, FileSource):
            return f"{view.name} reads from {type(source).__name__}, not from a FileSource"
        if source.file_format is not None and not isinstance(source.file_format, ParquetFormat):
            return f"{view.name} reads {type(source.file_format).__name__}, not Parquet"
        if (why := not_read(source.path, source.s3_endpoint_override)) is not None:
            return f"{view.name} reads from {source.path}, {why}"
    for view in on_demand:
        if view.mode == "substrait":
            return f"{view.name} is an on-demand view in substrait mode"
    return None


def _by_feast(reason: str, entity_df: Any, config: RepoConfig, **arguments: Any) -> RetrievalJob:
    if not isinstance(entity_df, pd.DataFrame):
        raise ValueError(
            f"expected an entity frame that is a DataFrame, got {type(entity_df).__name__}: "
            f"{reason}, so that Feast's own join is needed, which takes nothing else"
        )
    _log_once(f"Feast's own join is used where {reason}")
    arguments["feature_views"] = [_view_at_repo(config, v) for v in arguments["feature_views"]]
    # A copy, because Feast's method converts times in the frame that it is given.
    return DuckDBOfflineStore.get_historical_features(
        config=config, entity_df=entity_df.copy(deep=False), **arguments
    )


@cache
def _log_once(message: str) -> None:
    logger.warning(message)


def _view_at_repo(config: RepoConfig, view: FeatureView) -> FeatureView:
    moved = copy.copy(view)
    moved.batch_source = _at_repo(config, view.batch_source)
    return moved


def _at_repo(config: RepoConfig, source: DataSource) -> DataSource:
    if not isinstance(source, FileSource):
        return source
    moved = copy.deepcopy(source)
    moved.file_options.uri = FileSource.get_uri_for_file_path(config.repo_path, source.path)
    return moved


def _check_names(labels: AsofLabels, views: Sequence[AsofView], computed: Sequence[str]) -> None:
    names = Counter(
        [*labels.columns, *(name for view in views for name in view.features), *computed]
    )
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ValueError(
            f"expected columns of different names in the result; {', '.join(twice)} would appear "
            "twice. Rename the entity frame's column, or ask for full_feature_names"
        )
