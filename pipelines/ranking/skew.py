"""What a ranker was served with, beside what a training join gives for the same moments.

logged_features ──► member, item, read_at ──► the training join as of read_at
    └── columns that the ranker read ──► compared ◄── the same columns, as training has them
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection as Connection
from feast import FeatureStore
from numpy.typing import NDArray

from models.lines import ranker_lines
from models.rankers.inputs import Inputs
from models.rankers.item_categories import items_known, read_categories
from models.rankers.package import read_manifest
from models.rankers.reading import Needs
from operations.rankers import made_fits
from pipelines.ranking.dataset import Known
from pipelines.ranking.examples import Pairs
from pipelines.ranking.labels import Labels
from transformations.config import Config
from transformations.layout import parts_between

NOT_COMPARED = ("pair.rank_", "member.context_")
"""Columns that no feature view holds: ranks in the sources, and what the request said."""
FLOOR = 1e-3
"""Numbers that are both smaller differ in proportion to this."""


@dataclass(frozen=True)
class Skew:
    """How far a column of a ranker is off.

    Attributes:
        pairs: That were compared.
        mean, worst: Of the pairs' differences, from 0 to 1 (of a vector to 2).
    """

    ranker: str
    column: str
    pairs: int
    mean: float
    worst: float


def skews(
    config: Config, store: FeatureStore, con: Connection, since: datetime, until: datetime
) -> list[Skew]:
    """Compare what was logged in [since, until), the largest mean first.

    Rankers that are retired or left the catalogue are left out: nobody is served by them.

    Raises:
        InputError: no item is staged.
    """
    files = parts_between(config.layout.logged_features, "read_at", since, until)
    by_ranker: dict[str, list[pa.Table]] = {}
    for file in files:
        table = pq.ParquetFile(file).read()  # a part is of one ranker
        at = table["read_at"].to_pandas()
        table = table.filter(pa.array((at >= since) & (at < until)))
        if table.num_rows:
            by_ranker.setdefault(table["ranker"][0].as_py(), []).append(table)
    lines = {
        str(line.of_fit(fit)): line.of_fit(fit)
        for line in ranker_lines(config)
        for fit in made_fits(config, line)
    }
    items_known(config, con)
    categories, found = read_categories(con), []
    for ranker, tables in by_ranker.items():
        if ranker in lines:
            needs = Needs.read(read_manifest(config, lines[ranker])["needs"])
            known = Known.of(config, store, needs, categories)
            found += _of_ranker(known, ranker, pa.concat_tables(tables, promote_options="default"))
    return sorted(found, key=lambda skew: -skew.mean)


def _of_ranker(known: Known, ranker: str, logged: pa.Table) -> list[Skew]:
    joined, order = _joined(known, logged)
    logged = logged.take(pa.array(order))
    found = []
    for kind, read in (
        ("numbers", Inputs.number),
        ("categories", Inputs.category),
        ("vectors", Inputs.vector),
    ):
        for name in joined.names(kind):
            if name.startswith(NOT_COMPARED) or name not in logged.column_names:
                continue
            column = logged[name].combine_chunks()
            expected = read(joined, name)
            if kind == "vectors":
                served = column.flatten().to_numpy(zero_copy_only=False)
                off = vectors_off(served.reshape(len(expected), -1), expected)
            elif kind == "numbers":
                off = numbers_off(column.to_numpy(zero_copy_only=False), expected)
            else:
                off = (np.array(column.to_pylist(), object) != expected).astype(np.float64)
            found.append(Skew(ranker, name, len(off), float(off.mean()), float(off.max())))
    return found


def _joined(known: Known, logged: pa.Table) -> tuple[Inputs, NDArray[np.int64]]:
    """Return the columns as training has them, and the row of `logged` of each pair."""
    members = logged["member_id"].to_numpy()
    times = logged["read_at"].cast("int64").to_numpy()
    _, codes = np.unique(members, return_inverse=True)  # texts have no lexsort
    order = np.lexsort((codes, times)).astype(np.int64)
    members, times, items = members[order], times[order], logged["item_id"].to_numpy()[order]
    new = np.ones(len(order), bool)
    new[1:] = (members[1:] != members[:-1]) | (times[1:] != times[:-1])
    firsts = np.flatnonzero(new)
    # Nothing is known to have come of them: the columns alone are wanted.
    labels = Labels(
        members[firsts],
        items[firsts],
        np.full(len(firsts), "", object),
        np.zeros(len(firsts), np.int32),
        times[firsts],
    )
    pairs = Pairs(np.cumsum(new) - 1, items, new)
    read = known.read(labels)
    labelled = known.labelled(labels, known.members(labels, read), pairs, {}, {"": 1.0})
    return labelled.inputs, order


def numbers_off(served: NDArray[Any], joined: NDArray[Any]) -> NDArray[np.float64]:
    """Return the relative difference of numbers; 0 where both, 1 where one of them is missing.

    >>> served, joined = np.array([2.0, 0.0, np.nan, np.nan]), np.array([1.0, 0.0, np.nan, 1.0])
    >>> numbers_off(served, joined).tolist()
    [0.5, 0.0, 0.0, 1.0]
    """
    served, joined = served.astype(np.float64), joined.astype(np.float64)
    missing = np.isnan(served) | np.isnan(joined)
    larger = np.maximum(np.maximum(np.abs(served), np.abs(joined)), FLOOR)
    off = np.minimum(np.abs(served - joined) / larger, 1.0)
    off[missing] = np.isnan(served[missing]) != np.isnan(joined[missing])
    return off


def vectors_off(served: NDArray[Any], joined: NDArray[Any]) -> NDArray[np.float64]:
    """Return 1 - cosine of vectors; 0 where both, 1 where one of them is all zeros.

    >>> served, joined = np.array([[2.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> vectors_off(served, joined).tolist()
    [0.0, 1.0]
    """
    served, joined = served.astype(np.float64), joined.astype(np.float64)
    lengths = np.linalg.norm(served, axis=1), np.linalg.norm(joined, axis=1)
    product = lengths[0] * lengths[1]
    cosine = np.einsum("nd,nd->n", served, joined) / np.where(product > 0, product, 1.0)
    neither = (lengths[0] == 0) & (lengths[1] == 0)
    return np.where(neither, 0.0, np.maximum(1.0 - cosine, 0.0))


def above(found: Sequence[Skew], bound: float) -> list[Skew]:
    """Return the columns whose mean difference is above a bound."""
    return [skew for skew in found if skew.mean > bound]
