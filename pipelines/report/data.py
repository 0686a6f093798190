"""What the report shows of one snapshot: distributions, a map of members, a few members.

Everything is read from tables of a run: `member_sequences`, `member_embeddings`, `items` and
`stg_items`. The same tables and seed give the same result.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.decomposition import PCA

from models.quantization import LISTS, floats
from models.spec import Aggregator
from pipelines.nearest import DescribedItems
from pipelines.report.plots import OTHER
from pipelines.report.result import (
    Action,
    Distributions,
    Histogram,
    MemberMap,
    MemberRow,
    Nearest,
    NearItem,
)
from transformations.config import Config
from transformations.duck import parquet, sql
from transformations.errors import InputError
from transformations.layout import partition, snapshot_files
from transformations.names import Space
from transformations.quoting import identifier

CATEGORIES = 9  # the number of colours on the map; rarer categories are `other`
BINS = 64
LONGEST = 80


def distributions(config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime) -> Distributions:
    """Count the lengths of the sequences of a snapshot and the actions in them.

    Raises:
        InputError: there is no snapshot of `as_of`.
    """
    _read_sequences(config, con, as_of)
    lengths = con.execute(_sql("sequence_lengths")).fetchall()
    actions = con.execute(_sql("sequence_actions")).fetchall()
    width = -(-config.length // BINS)
    edges = np.arange(0.5, config.length + width + 0.5, width)
    counts, _ = np.histogram(
        [length for length, _ in lengths], edges, weights=[members for _, members in lengths]
    )
    return Distributions(
        as_of=as_of,
        sequence_length=Histogram(edges=edges.tolist(), counts=counts.astype(int).tolist()),
        actions=dict.fromkeys(config.actions, 0) | dict(actions),
    )


def member_map(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    as_of: datetime,
    aggregator: Aggregator,
    size: int = 2_000,
    seed: int = 0,
) -> MemberMap | None:
    """Lay out a sample of members by the first vector of `aggregator`, on two axes (PCA).

    A member's category is the commonest one of the items it acted on, by the first column of
    items.categories; its commonest action where items have no categories.

    Returns:
        None if fewer than three members have a non-zero vector, or all vectors are equal.

    Raises:
        InputError: there is no snapshot of `as_of`, or the aggregator did not embed it.
    """
    _read_sequences(config, con, as_of)
    read_texts(config, con, as_of)
    vector = next(iter(aggregator.vectors(config)))
    _read_vectors(config, con, as_of, aggregator, vector)
    categories = config.items.categories
    rows = con.execute(
        _sql("member_map"),
        {"seed": seed, "size": size, "category": next(iter(categories), None)},
    ).fetchall()
    vectors = np.array([embedding for _, embedding, _ in rows], np.float64)
    if len(rows) < 3 or not np.ptp(vectors, axis=0).any():
        return None
    axes = PCA(n_components=2, svd_solver="full")
    points = axes.fit_transform(vectors)
    labels = [label or OTHER for _, _, label in rows]
    kept = [label for label, _ in Counter(labels).most_common() if label != OTHER][:CATEGORIES]
    return MemberMap(
        variant=aggregator.name,
        vector=vector,
        method="PCA",
        explained=float(axes.explained_variance_ratio_.sum()),
        coloured_by=(
            f"commonest {categories[0]} of the items they acted on"
            if categories
            else "commonest action"
        ),
        x=points[:, 0].round(4).tolist(),
        y=points[:, 1].round(4).tolist(),
        category=[label if label in kept else OTHER for label in labels],
    )


def shown_members(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    as_of: datetime,
    aggregators: Sequence[Aggregator],
    count: int = 5,
    actions: int = 8,
    nearest: int = 6,
) -> list[MemberRow]:
    """Return members with their last actions and the items nearest to each of their vectors.

    A vector of another dimension than the items' is left out: it has no nearest items. How near
    is said by the similarity of the line's space.

    Raises:
        InputError: there is no snapshot of `as_of`, or an aggregator did not embed it.
    """
    _read_sequences(config, con, as_of)
    read_texts(config, con, as_of)
    con.execute(
        f"create or replace temp table shown_members as {_sql('shown_members')}", {"count": count}
    )
    acted: dict[int | str, list[Action]] = {}
    for member, when, action, item, text in con.execute(
        _sql("shown_actions"), {"count": actions}
    ).fetchall():
        acted.setdefault(member, []).append(Action(when=when, action=action, item=item, text=text))
    near: dict[int | str, list[Nearest]] = {member: [] for member in acted}
    of_space: dict[Space, DescribedItems] = {}
    for aggregator in aggregators:
        own = aggregator.config_of(config)
        if own.space not in of_space:
            of_space[own.space] = DescribedItems(own, con, as_of)
        items = of_space[own.space]
        for vector, dim in aggregator.vectors(config).items():
            if dim != config.dim:
                continue
            _read_vectors(config, con, as_of, aggregator, vector)
            found = {
                member: items.nearest(np.array(embedding, np.float32), nearest)
                for member, embedding in con.execute(
                    "select member_id, embedding from vectors semi join shown_members "
                    "using (member_id)"
                ).fetchall()
            }
            told = [each.item for one in found.values() for each in one]
            texts = item_texts(config, con, as_of, told)
            for member in acted:
                near[member].append(
                    Nearest(
                        variant=aggregator.name,
                        vector=vector,
                        by=items.similarity,
                        items=[
                            NearItem(
                                item=each.item,
                                text=texts.get(each.item),
                                similarity=each.similarity,
                            )
                            for each in found.get(member, [])
                        ],
                    )
                )
    return [
        MemberRow(member_id=member, actions=acted[member], nearest=near[member]) for member in acted
    ]


def item_texts(
    config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime, items: Sequence[int | str]
) -> dict[int | str, str]:
    """Return the newest text of each of these items that has one, cut to LONGEST characters."""
    read_texts(config, con, as_of)
    rows = con.execute(
        "select item_id, left(text, $longest) from item_texts "
        "where text is not null and list_contains($items, item_id)",
        {"items": list(items), "longest": LONGEST},
    ).fetchall()
    return dict(rows)


def _sql(name: str) -> str:
    return sql(name, __file__)


def _read_sequences(config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime) -> None:
    """Make the view `sequences`: the snapshot's rows of member_sequences."""
    folder = config.layout.sequences
    files = snapshot_files(folder, as_of)
    if not files:
        raise InputError(
            f"expected the sequences of {as_of} in {partition(folder, as_of)}, found none; "
            "`activity run` or `activity backfill` builds them"
        )
    con.execute(f"create or replace temp view sequences as from {parquet(files)}")


def read_texts(config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime) -> None:
    """Make the table `item_texts` of the view `described_items`.

    Text is null if the source has vectors only.
    """
    staged = parquet([config.layout.staged_items])
    columns = "null::varchar as text, null::varchar[] as categories"
    if config.items.has_text:
        columns = "text, categories"
    con.execute(
        "create or replace temp view described_items as "
        f"select item_id, available_at, {columns} from {staged}"
    )
    con.execute(
        f"create or replace temp table item_texts as {_sql('item_texts')}", {"as_of": as_of}
    )


def _read_vectors(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    as_of: datetime,
    aggregator: Aggregator,
    vector: str,
) -> None:
    """Make the view `vectors`: one vector field of a view's partition, as `embedding`."""
    folder = config.layout.embeddings(aggregator.view)
    files = snapshot_files(folder, as_of)
    if not files:
        raise InputError(
            f"expected the vectors of {aggregator} at {as_of} in {partition(folder, as_of)}, "
            "found none; `activity run` or `activity backfill` makes them"
        )
    source = f"select member_id, {identifier(vector)} as embedding from {parquet(files)}"
    if aggregator.stored_as(config) == "int8":
        source = _decoded(con, files, vector)
    con.execute(f"create or replace temp view vectors as {source}")


def _decoded(con: duckdb.DuckDBPyConnection, files: Sequence[Path], vector: str) -> str:
    """Decode a vector that is kept as int8 into a table; return the table's query."""
    ids = pq.read_schema(files[0]).field("member_id")
    schema = pa.schema([ids, pa.field("embedding", LISTS)])
    batches = (
        pa.record_batch([batch["member_id"], floats(batch[vector])], schema=schema)
        for file in files
        for batch in pq.ParquetFile(file).iter_batches(columns=["member_id", vector])
    )
    con.register("decoding", pa.RecordBatchReader.from_batches(schema, batches))
    con.execute("create or replace temp table decoded_vectors as from decoding")
    con.unregister("decoding")
    return "from decoded_vectors"
