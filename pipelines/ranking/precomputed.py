"""`member_recommendations`: a list for each active member, made and published by a run."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection as Connection
from feast import FeatureStore

from operations.composition import fits_of, served_fits
from operations.fits import Fits
from pipelines.progress import Stage, Stages
from pipelines.terminal import escape
from serving import publish
from serving.recommend.candidates import Candidates
from serving.recommend.items import ItemFacts
from serving.recommend.precomputed import made_before
from serving.recommend.scored import VOTES, Scored
from serving.recommend.scoring import Scoring, open_scoring
from transformations import clock
from transformations.config import Config
from transformations.duck import check, connect, parquet, sql
from transformations.errors import InputError
from transformations.layout import partition, snapshot_files
from transformations.member_columns import UTC_US
from transformations.names import RECOMMENDATIONS_VIEW
from transformations.quoting import one_file
from transformations.seals import sealing

AT_ONCE = 100
"""Members that are read and scored together."""
Made = tuple[Sequence[Any], Sequence[Scored]]


def precompute(config: Config, as_of: datetime, stages: Stages, release: int | None = None) -> int:
    """Make the lists of `recommend.precompute` members, publish them and read them back.

    They are those that acted last, by the snapshot of `as_of`. Without a ranker, or with a damaged
    one, the sources' votes order. Where the configuration makes no lists, nothing happens. A member
    that is not among them any more keeps its last list online.

    Args:
        release: Makes them by its fits. Default: the one that the pointer of the lists names.

    Returns the number of lists.

    Raises:
        InputError: no run has published what the lists are made from.
        RunFailedError: a list breaks a rule, or is not online as it was published.
    """
    tables = [one for one in publish.tables_beside(config) if one.view == RECOMMENDATIONS_VIEW]
    if not tables:
        return 0
    store, now = publish.open_store(config), clock.now()
    served = served_fits(config, "batch") if release is None else fits_of(config, release)
    with connect(config) as con:
        members = active_members(config, con, as_of)
        with stages.stage("recommendations", len(members), "members") as stage:
            scoring, sources = (
                _scoring(config, store, served, stages),
                Candidates(config, store, served),
            )
            items = ItemFacts(config, now, served)

            def made() -> Iterator[Made]:
                for first in range(0, len(members), AT_ONCE):
                    some = members[first : first + AT_ONCE]
                    yield some, made_before(config, sources, items, scoring, some, now)
                    stage.advance(len(some))

            try:
                rows = write_lists(
                    config, con, as_of, now + config.publish_delay, made(), served.release
                )
            finally:
                sources.close()
                if scoring is not None:
                    scoring.close()
            stage.rows_in, stage.rows_out = len(members), rows
            stage.note = _pace(stage, VOTES if scoring is None else str(scoring.ranker.line))
    if not rows:
        return 0
    with stages.stage("publish") as stage:
        stage.rows_out = publish.publish_tables(store, as_of, tables)
        published_at = clock.now()
    with stages.stage("read back") as stage:
        stage.rows_out = publish.read_back_tables(config, store, as_of, tables)
    publish.restamp_tables(config, as_of, published_at, tables)
    return rows


def _scoring(config: Config, store: FeatureStore, served: Fits, stages: Stages) -> Scoring | None:
    """Return what scores; None where there is no ranker or it is damaged, as in the service."""
    try:
        return open_scoring(config, store, served=served)
    except InputError as error:
        said = f"[yellow]•[/] no ranker, the sources' votes order: {escape(str(error))}"
        stages.console.print(said, highlight=False, soft_wrap=True)
        return None


def active_members(config: Config, con: Connection, as_of: datetime) -> list[Any]:
    """Return the members that get a list, in order: those that acted last."""
    files = [one_file(file) for file in snapshot_files(config.layout.sequences, as_of)]
    parameters = {"file": files, "most": config.recommend.precompute}
    found = con.execute(sql("active_members", __file__), parameters).fetchall()
    return [member for (member,) in found]


def write_lists(
    config: Config,
    con: Connection,
    as_of: datetime,
    created_timestamp: datetime,
    made: Iterable[Made],
    release: int | None = None,
) -> int:
    """Write the partition of a timestamp, and check it before it is in place; return its rows.

    One without a row is not written.

    Args:
        made: Members with the list of each; an empty one is left out.
        release: Whose lists they are.

    Raises:
        RunFailedError: a row breaks a rule of checks/candidate_lists.sql.
    """
    rows, file, schema = 0, partition(config.layout.recommendations, as_of), _schema(config)
    batches = (
        table
        for some in made
        if (table := _table(schema, as_of, created_timestamp, release, *some))
    )
    first = next(batches, None)
    if first is None:
        file.unlink(missing_ok=True)  # what a run before wrote
        return 0
    with sealing(file, RECOMMENDATIONS_VIEW) as temporary:
        with pq.ParquetWriter(
            temporary, schema, compression="zstd", write_page_checksum=True
        ) as writer:
            for table in (first, *batches):
                writer.write_table(table)
                rows += len(table)
        con.execute(
            "create or replace temp view candidate_lists as select *, member_id as list_of, "
            f"false as of_items from {parquet([temporary])}"
        )
        check(con, "candidate_lists", {"as_of": as_of})
        con.execute("drop view candidate_lists")
    return rows


def _table(
    schema: pa.Schema,
    as_of: datetime,
    created_timestamp: datetime,
    release: int | None,
    members: Sequence[Any],
    lists: Sequence[Scored],
) -> pa.Table | None:
    some = [(who, own) for who, own in zip(members, lists, strict=True) if len(own.items)]
    if not some:
        return None
    columns = {
        "member_id": [member for member, _ in some],
        "item_ids": [own.items.tolist() for _, own in some],
        "scores": [own.scores.tolist() for _, own in some],
        "ranker": [own.ranker for _, own in some],
        "release": [None if release is None else str(release)] * len(some),
        "event_timestamp": [as_of] * len(some),
        "created_timestamp": [created_timestamp] * len(some),
    }
    return pa.table(columns, schema)


def _schema(config: Config) -> pa.Schema:
    ids = {"int64": pa.int64(), "string": pa.string()}
    return pa.schema(
        [
            pa.field("member_id", ids[config.member_id_type]),
            pa.field("item_ids", pa.list_(ids[config.item_id_type])),
            pa.field("scores", pa.list_(pa.float32())),
            pa.field("ranker", pa.string()),
            pa.field("release", pa.string()),
            pa.field("event_timestamp", UTC_US),
            pa.field("created_timestamp", UTC_US),
        ]
    )


def _pace(stage: Stage, ranker: str) -> str:
    """Say how fast lists were made.

    >>> now = iter([0.0, 4.0]).__next__
    >>> _pace(Stage("recommendations", done=1_000, clock=now), "linear_v1")
    '250 members per second, by linear_v1'
    """
    return f"{stage.done / max(stage.seconds, 1e-9):,.0f} members per second, by {ranker}"
