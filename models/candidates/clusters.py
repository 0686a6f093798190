"""Content clusters of items, and what is popular in each of them in turn."""

import warnings
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.candidates.build import items_there
from models.candidates.spec import CLUSTERS, Popular
from models.items.saved import fitted_until
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

    Items without a vector are one cluster more. The cluster with the most likes goes first.

    Args:
        config: In the item space whose vectors are read.
        popular: item_id, score: every item that members acted on, the best first.

    Returns:
        `line.count` items at most; the score falls from 1 at the first by equal steps.
    """
    ids = popular["item_id"].combine_chunks()
    clusters = np.full(len(ids), -1, np.int64)
    made = clusters_of(config, con, as_of, line.clusters)
    if made is not None:
        places = pc.index_in(ids, value_set=made["item_id"])
        clusters = made["cluster"].take(places).fill_null(-1).to_numpy()
    order = turns(clusters, popular["score"].to_numpy())[: line.count]
    scores = 1 - np.arange(len(order), dtype=np.float32) / max(len(order), 1)
    return pa.table({"item_id": ids.take(pa.array(order)), "score": pa.array(scores)})


def clusters_at(config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime) -> pa.Table | None:
    """Return the content clusters that items are ranked in, as `clusters_of`.

    There are none before the moment that the fit of the space saw last.

    Args:
        config: In the first item space.

    Raises:
        InputError: no item is staged.
    """
    until = fitted_until(config)
    if until is not None and as_of < until:
        return None
    items_there(config, con, as_of)
    found = clusters_of(config, con, as_of, CLUSTERS)
    con.execute("drop table items_there")
    return found


def clusters_of(
    config: Config, con: duckdb.DuckDBPyConnection, as_of: datetime, count: int
) -> pa.Table | None:
    """Return item_id, cluster (int64) of every item with a vector; reads `items_there`.

    They are found by k-means over the vectors of all items that may be recommended, as of as_of.
    The same vectors give the same clusters. None where none of those items has a vector.

    Args:
        config: In the item space whose vectors are read.
    """
    if not part_files(config.items_dir):
        return None
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    table = ItemTable.read(config, con, as_of)
    vectors = comparable(table.vectors, similarity_of(config))
    there = con.sql("select item_id from items_there order by item_id").to_arrow_table()
    rows = table.rows(there["item_id"].combine_chunks())
    rows = rows[vectors[rows].any(axis=1)]
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(SEED).choice(rows, SAMPLE, replace=False))
    if not len(rows):
        return None
    known = np.flatnonzero(vectors[1:].any(axis=1))
    # Several threads add up in another order each time.
    with threadpool_limits(1), warnings.catch_warnings():
        # Of fewer vectors that differ there are fewer clusters.
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = KMeans(min(count, len(rows)), n_init=1, random_state=SEED).fit(vectors[rows])
        clusters = means.predict(vectors[1:][known]).astype(np.int64)
    return pa.table({"item_id": table.ids.take(pa.array(known)), "cluster": clusters})


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
