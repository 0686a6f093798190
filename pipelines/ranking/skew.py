"""What a ranker was served with, beside what a training join gives for the same moments.

logged_features ──► member, item, time ──► the training join of the ranker's service as of then
    └── features as the store gave them ──► compared ◄── the same features
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection
from feast import FeatureService, FeatureStore
from feast.errors import FeastObjectNotFoundException
from feast.feature_logging import LOG_TIMESTAMP_FIELD
from numpy.typing import NDArray

from models.lines import ranker_lines
from models.quantization import from_int8
from operations.rankers import made
from pipelines.ranking.joined import column_of, join
from transformations.config import Config
from transformations.duck import parquet
from transformations.names import MEMBER_STATS_VIEW, SEQUENCE_VIEW, ranker_service
from transformations.stats.columns import MEMBER_COUNTS

MOST = 50_000
"""Pairs of a ranker that are compared; of more, a sample."""
FLOOR = 1e-3
"""Numbers that are both smaller differ in proportion to this."""


@dataclass(frozen=True)
class Skew:
    """How far a feature that a ranker read is off.

    Attributes:
        column: As `view__feature`.
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
    """
    found: list[Skew] = []
    for line in made(config, ranker_lines(config)):
        try:
            service = store.get_feature_service(ranker_service(str(line)))
        except FeastObjectNotFoundException:
            continue
        if files := sorted((config.layout.logged_features / str(line)).glob("*.parquet")):
            logged = con.sql(
                f"select * from (select * from {parquet(files, 'union_by_name = true')} "
                f"where {LOG_TIMESTAMP_FIELD} >= $since and {LOG_TIMESTAMP_FIELD} < $until) "
                f"using sample reservoir({MOST} rows)",
                params={"since": since, "until": until},
            ).to_arrow_table()
            found += _of_ranker(store, str(line), service, logged) if len(logged) else []
    return sorted(found, key=lambda skew: -skew.mean)


def _of_ranker(
    store: FeatureStore, ranker: str, service: FeatureService, logged: pa.Table
) -> list[Skew]:
    fields = {
        f"{projection.name_to_use()}:{field.name}": field
        for projection in service.feature_view_projections
        for field in projection.features
    }
    dims = {
        feature.replace(":", "__", 1): field.vector_length
        for feature, field in fields.items()
        if field.vector_length
    }
    at = logged[LOG_TIMESTAMP_FIELD].cast(pa.timestamp("us", "UTC"))
    keys = {name: logged[name].to_numpy() for name in ("member_id", "item_id")}
    joined = join(store, list(fields), keys, pd.DatetimeIndex(at.to_pandas()), dims)
    found = []
    for name, values in joined.arrays.items():
        served, there = column_of(logged[name], dims.get(name))
        off = differences(served, values, at.to_numpy())
        if not _missing_is_nothing(name, logged[name].type):
            both = there & joined.present[name]
            off = np.where(both, off, there != joined.present[name])
        found.append(Skew(ranker, name, len(off), float(off.mean()), float(off.max())))
    return found


def _missing_is_nothing(name: str, kind: pa.DataType) -> bool:
    """Whether a ranker takes a missing value for zeros: in vectors, counts and the last actions."""
    view, _, feature = name.partition("__")
    if view == MEMBER_STATS_VIEW:
        return feature in MEMBER_COUNTS
    return view == SEQUENCE_VIEW or pa.types.is_list(kind) or pa.types.is_binary(kind)


def differences(
    served: NDArray[Any], joined: NDArray[Any], at: NDArray[np.datetime64]
) -> NDArray[np.float64]:
    """Return how far values are off; a missing one is zeros, or nothing in a list.

    Numbers are compared by `numbers_off`, vectors by `vectors_off`, also those that are kept as
    int8, times by their ages at `at`; all else is equal (0) or not (1). The online store cuts times
    to whole seconds.
    """
    if served.ndim == 2:
        return vectors_off(served, joined)
    if served.dtype.kind == "M":
        seconds = [(at - _cut(times)) / np.timedelta64(1, "s") for times in (served, joined)]
        return numbers_off(*seconds)
    if served.dtype != object:
        return numbers_off(served, joined)
    return np.array([_off(one, other) for one, other in zip(served, joined, strict=True)])


def _off(served: Any, joined: Any) -> float:
    """Return the difference of two lists, texts, or vectors that are kept as int8."""
    kept = [one for one in (served, joined) if isinstance(one, bytes)]
    if kept:
        nothing = bytes(len(kept[0]))
        both = [np.frombuffer(one or nothing, np.uint8)[None] for one in (served, joined)]
        return float(vectors_off(*map(from_int8, both))[0])
    lists = [_cut(one).tolist() for one in (served, joined) if isinstance(one, np.ndarray)]
    if lists:
        return float(lists[0] != lists[1] if len(lists) > 1 else lists[0] != [])
    return float(served != joined)


def _cut(values: NDArray[Any]) -> NDArray[Any]:
    """Return times in whole seconds; NaN, which equals nothing, as a text."""
    if values.dtype.kind == "M":
        return values.astype("M8[s]")
    return values.astype(str) if values.dtype.kind == "f" else values


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
