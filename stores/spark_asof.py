"""Feast's offline store with training joins by ASOF, in the tasks of a Spark cluster.

In feature_store.yaml:

    offline_store:
        type: stores.spark_asof.SparkAsofOfflineStore
        spark_conf: {spark.master: "spark://host:7077"}
        staging_location: /shared/joined

It joins what `stores.duckdb_asof` joins, with the same result: each task runs that store's join on
some of the labels. The feature views' files must lie where driver and executors see them. See
docs/spark.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
from feast.feature_view import FeatureView
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import RepoConfig
from pydantic import StrictInt, StrictStr

from stores.asof.entity_frame import is_path, labels_of, read_labels
from stores.asof.keys import compared
from stores.asof.labels import AsofLabels
from stores.asof.query import AsofView
from stores.asof.session import Limits
from stores.duckdb_asof import (
    DuckDBAsofOfflineStore,
    DuckDBAsofOfflineStoreConfig,
    limits_of,
    plan,
)
from stores.spark.job import SparkAsofRetrievalJob
from stores.spark.join import SparkJoin
from stores.spark.session import session_of


class SparkAsofOfflineStoreConfig(DuckDBAsofOfflineStoreConfig):
    """Settings of the store in feature_store.yaml, besides those of the DuckDB store.

    `memory_limit` and `temp_directory` are those of each task, and of the driver.
    """

    type: StrictStr = "stores.spark_asof.SparkAsofOfflineStore"
    threads: StrictInt | None = 1
    """Of DuckDB in each task: spark.task.cpus."""
    spark_conf: dict[StrictStr, StrictStr] | None = None
    """Of the session that the store starts where none is active."""
    buckets: StrictInt | None = None
    """Into how many `bucket=…` folders the files of members are divided. Default: no such folder
    has a meaning."""
    parts: StrictInt | None = None
    """Into how many parts the labels are divided, or the next multiple of `buckets`. Default: one a
    million labels; of a Spark DataFrame, spark.sql.shuffle.partitions."""


class SparkAsofOfflineStore(DuckDBAsofOfflineStore):
    """Joins Parquet files by ASOF in Spark's tasks; the rest is the DuckDB store's."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Plan a point-in-time join, as the DuckDB store's.

        Args:
            config: the repository's settings.
            feature_views: the views, with their projections.
            feature_refs: `view:feature` for each feature, on-demand ones included.
            entity_df: a pandas DataFrame; the path of a Parquet file or folder, which the driver
                reads; SQL text for Spark; or a Spark DataFrame.
            registry: where on-demand views are looked up.
            project: the project they belong to.
            full_feature_names: name features `<view>__<feature>`.
            filter_by_created_timestamp: let a label see only rows created by its time.

        Returns:
            A job that has read schemas only.

        Raises:
            ImportError, RuntimeError: there is no pyspark, or no Java.
            ValueError: as the DuckDB store.
        """
        settings = config.offline_store
        spark = session_of(settings.spark_conf or {})
        limits = limits_of(config)
        frame = _frame(spark, entity_df, limits.repo_path)

        def read(entity_df: Any, repo_path: Path, con: duckdb.DuckDBPyConnection) -> AsofLabels:
            if frame is None:
                return read_labels(entity_df, repo_path, con)
            from pyspark.sql.pandas.types import to_arrow_schema

            return labels_of(to_arrow_schema(frame.schema, timezone="UTC").empty_table(), con)

        def join_of(
            labels: AsofLabels, views: Sequence[AsofView], known_at: bool, driver: Limits
        ) -> SparkJoin:
            return SparkJoin(
                *compared(labels, views),
                known_at,
                replace(driver, threads=None),
                spark=spark,
                frame=frame,
                uncompared=(labels, views),
                buckets=settings.buckets,
                parts=settings.parts,
                task_limits=limits,
            )

        return plan(
            join_of,
            SparkAsofRetrievalJob,
            read,
            config=config,
            feature_views=feature_views,
            feature_refs=feature_refs,
            entity_df=entity_df,
            registry=registry,
            project=project,
            full_feature_names=full_feature_names,
            filter_by_created_timestamp=filter_by_created_timestamp,
        )


def _frame(spark: Any, entity_df: Any, repo_path: Path) -> Any:
    """Return the labels as a Spark DataFrame; None where the driver has or reads them."""
    if isinstance(entity_df, pd.DataFrame | os.PathLike):
        return None
    if isinstance(entity_df, str):
        return None if is_path(entity_df, repo_path) else spark.sql(entity_df)
    return entity_df
