"""Content clusters of items, and what is popular in each of them in turn."""

from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.candidates.spec import Popular
from models.items.similarity import comparable
from models.lines import similarity_of
from models.sequences import ItemTable
from transformations.config import Config
from transformations.layout import part_files

SAMPLE = 50_000
"""Items that the centres are found among: of more, this many are drawn."""
SEED = 0


def in_turn(
    line: Popular,
    config: Config,
    con: duckdb.DuckDBPyConnection,
    as_of: datetime,
    popular: pa.Table,
) -> pa.Table:
    """Return item_id and score of the most popular items of the clusters in turn.

    Clusters are found by k-means over the vectors of all items that may be recommended, as of
    as_of; items without a vector are one more. The cluster with the most likes goes first.

    Args:
        config: In the item space whose vectors are read.
        popular: item_id, score: every item that members acted on, the best first.

    Returns:
        `line.count` items at most; the score falls from 1 at the first by equal steps.
    """
    ids = popular["item_id"].combine_chunks()
    clusters = clusters_of(config, con, as_of, ids, line.clusters)
    order = turns(clusters, popular["score"].to_numpy())[: line.count]
    scores = 1 - np.arange(len(order), dtype=np.float32) / max(len(order), 1)
    return pa.table({"item_id": ids.take(pa.array(order)), "score": pa.array(scores)})


def clusters_of(
    config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime, ids: pa.Array, count: int
) -> NDArray[np.int64]:
    """Return the cluster of each item, -1 for one without a vector; int64 [ids].

    The same vectors give the same clusters.
    """
    clusters = np.full(len(ids), -1, np.int64)
    if not len(ids) or not part_files(config.items_dir):
        return clusters
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    table = ItemTable.read(config, con, as_of)
    vectors = comparable(table.vectors, similarity_of(config))
    there = con.sql("select item_id from items_there order by item_id").to_arrow_table()
    rows = table.rows(there["item_id"].combine_chunks())
    rows = rows[vectors[rows].any(axis=1)]
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(SEED).choice(rows, SAMPLE, replace=False))
    if not len(rows):
        return clusters
    # More centres than vectors that differ are a warning.
    count = min(count, len(np.unique(vectors[rows], axis=0)))
    asked = vectors[table.rows(ids)]
    known = asked.any(axis=1)
    with threadpool_limits(1):  # several add up in another order each time
        means = KMeans(count, n_init=1, random_state=SEED).fit(vectors[rows])
        if known.any():
            clusters[known] = means.predict(asked[known])
    return clusters


def turns(clusters: NDArray[np.int64], scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the order in which clusters take turns, each with its next item; int64 [items].

    >>> turns(np.array([7, 7, 7, 2, 2]), np.array([9.0, 5, 4, 3, 1])).tolist()
    [0, 3, 1, 4, 2]

    Args:
        clusters: Of each item, the best item first.
        scores: Of each; of two clusters the one with the larger sum goes first, of equal ones the
            one with the better item.
    """
    _, first, which = np.unique(clusters, return_index=True, return_inverse=True)
    likes = np.bincount(which, scores, len(first))
    place = np.empty(len(first), np.int64)
    place[np.lexsort((first, -likes))] = np.arange(len(first))
    grouped = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[grouped], np.arange(len(first)))
    rounds = np.empty(len(which), np.int64)
    rounds[grouped] = np.arange(len(which)) - starts[which[grouped]]
    return np.lexsort((place[which], rounds))
