"""The retrieval job of a join in Spark: the DuckDB store's, and into Spark and many files."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pyarrow as pa

from stores.asof.job import AsofRetrievalJob
from stores.asof.on_demand import OnDemand
from stores.spark.join import SparkJoin
from stores.spark.tasks import ANSWERS_SCHEMA, as_rows, into_files, raise_told

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

# Spark has no such types → those with room for their values.
WIDER = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
}


class SparkAsofRetrievalJob(AsofRetrievalJob):
    """A checked training join in Spark; every read runs it again.

    `to_arrow`, `to_df`, `to_arrow_batches` and `to_parquet` bring the rows to the driver, in the
    labels' order. `to_spark_df` and `to_remote_storage` leave them where they are.
    """

    _join: SparkJoin

    def to_spark_df(self) -> DataFrame:
        """Return the joined rows as a Spark DataFrame, in no order; it joins when it is read.

        On-demand features are computed in the tasks, some rows at a time, of the declared types.

        Raises:
            ValueError: a column of a type that Spark does not have.
        """
        with self._join.planned(whole=True, keep=True) as planned:
            schema = planned.schema
            on_demand = self._in_tasks()
            if on_demand is not None:
                schema = on_demand.added_to(schema.empty_table()).schema
            arrow, kinds = spark_schema(schema)
            task = partial(as_rows, work=planned.work, on_demand=on_demand, schema=arrow)
            # Spark's names are equal in any letter case; ours by position never meet.
            return planned.given.mapInArrow(task, kinds).toDF(*schema.names)

    def supports_remote_storage_export(self) -> bool:
        """Whether `staging_location` is set."""
        return self._staging_location is not None

    def to_remote_storage(self) -> list[str]:
        """Write the joined rows into Parquet files in a new folder of `staging_location`.

        Tasks write one file a part, each in the labels' order; they appear when all are complete.

        Returns:
            The files' paths, in the order of the parts.

        Raises:
            ValueError: no `staging_location`, or one that is no folder of a file system.
        """
        root = self._staging_folder()
        folder, unfinished = root / uuid4().hex, root / f"_{uuid4().hex}"
        unfinished.mkdir(parents=True)
        try:
            with self._join.planned(whole=True) as planned:
                task = partial(
                    into_files,
                    work=planned.work,
                    on_demand=self._in_tasks(),
                    folder=str(unfinished),
                )
                written = planned.given.mapInArrow(task, ANSWERS_SCHEMA).collect()
            for _, kind, answer in written:
                raise_told(kind, answer)
            # What a task has written that was lost, or ran twice, is not named.
            kept = {name: f"part-{part:05d}.parquet" for part, name, _ in sorted(written)}
            for file in unfinished.iterdir():
                if file.name in kept:
                    file.rename(unfinished / kept[file.name])
                else:
                    file.unlink()
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return [str(folder / name) for name in kept.values()]

    def _in_tasks(self) -> OnDemand | None:
        return self._on_demand() if self._on_demand_feature_views else None

    def _staging_folder(self) -> Path:
        said = self._staging_location
        if said is None or "://" in said.removeprefix("file://"):
            raise ValueError(
                "expected offline_store's `staging_location` to be a folder that driver and "
                f"executors see, got {said}. For an object store: to_spark_df().write.parquet(...)"
            )
        return self._join.limits.repo_path / said.removeprefix("file://")


def spark_schema(schema: pa.Schema) -> tuple[pa.Schema, StructType]:
    """Return the columns as Arrow types that Spark has, named by position, and as Spark's."""
    from pyspark.errors import PySparkTypeError
    from pyspark.sql.pandas.types import from_arrow_type
    from pyspark.sql.types import StructField
    from pyspark.sql.types import StructType as Columns

    arrow, fields = [], []
    for number, field in enumerate(schema):
        kind = field.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        kind = WIDER.get(kind, kind)
        try:
            fields.append(StructField(f"column_{number}", from_arrow_type(kind)))
        except PySparkTypeError as error:
            raise ValueError(
                f"{field.name}: expected a type that Spark has, got {kind}. Leave the column out, "
                "or convert it"
            ) from error
        arrow.append(pa.field(f"column_{number}", kind))
    return pa.schema(arrow), Columns(fields)
