"""The measures of a snapshot's vectors: their lengths, how far they moved, who stayed near whom.

Each is of one view, whose name says the fit: a new fit has no snapshot before, so it is compared
with nothing until it has.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection
from numpy.typing import NDArray

from models.quantization import from_int8
from models.spec import Aggregator
from operations.drift_rule import Measured
from transformations.config import Config
from transformations.duck import parquet
from transformations.layout import partitions, rows_of, snapshot_files
from transformations.quoting import identifier

SAMPLE = 20_000
"""Members, the same in each snapshot: by the hash of their ids."""
PANEL, NEAREST = 500, 10
"""Members of the sample whose nearest are compared, and how many of each."""
TOLD, FEWEST_TOLD = 2_000, 100
"""Vectors of each week that a classifier is to tell apart, at most and at least."""
FOLDS = 5
WEEK = timedelta(days=7)
EMPTY = 1e-6
"""A shorter vector is empty, as that of a member without an action."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sampled:
    """Members of a snapshot.

    Attributes:
        keys: Hash of each member, uint64 ascending.
        vectors: Float32 [members, dim].
        full: Whether a member acts and its vector has a length, bool [members].
    """

    keys: NDArray[np.uint64]
    vectors: Floats
    full: NDArray[np.bool_]


def vector_measures(
    config: Config, con: Connection, as_of: datetime, lines: Sequence[Aggregator]
) -> list[Measured]:
    """Measure each vector field of these lines: the part is `<view>.<field>`.

    `empty` is the share of members whose window has no action or whose vector has no length; `norm`
    the mean length of the others; `centroid shift` how far their mean moved since the snapshot
    before, in mean lengths; `kept neighbours` the share of a panel's nearest members that are those
    of the snapshot before; `told apart` how well a classifier tells them from those of a week ago.
    """
    measured: list[Measured] = []
    for line in lines:
        folder = config.layout.embeddings(line.view)
        before = [at for at in partitions(folder) if at < as_of]
        # The newest of a week ago or more, but not of two.
        week_ago = [at for at in before if as_of - 2 * WEEK < at <= as_of - WEEK]
        every = max(rows_of(snapshot_files(folder, as_of)) // SAMPLE, 1)
        for field in line.vectors(config):
            part = f"{line.view}.{field}"
            now, *then = (
                _read(con, snapshot_files(folder, at), field, every)
                for at in (as_of, *before[-1:], *week_ago[-1:])
            )
            measured += _of_one(part, now)
            if before:
                measured += _beside(part, now, then[0])
            if week_ago:
                measured += _told_apart(part, now, then[1])
    return measured


def _of_one(part: str, now: Sampled) -> Iterator[Measured]:
    members, n_full = len(now.keys), int(now.full.sum())
    yield Measured("vectors", "empty", part, "share", 1 - n_full / max(members, 1), members)
    if n_full:
        norm = float(np.linalg.norm(now.vectors[now.full], axis=1).mean())
        yield Measured("vectors", "norm", part, "size", norm, members)


def _beside(part: str, now: Sampled, then: Sampled) -> Iterator[Measured]:
    """Compare with the snapshot before: where the mean lies, and who is near whom."""
    own, old = now.vectors[now.full], then.vectors[then.full]
    if not len(own) or not len(old):
        return
    norm = float(np.linalg.norm(own, axis=1).mean())
    moved = float(np.linalg.norm(own.mean(axis=0) - old.mean(axis=0))) / norm
    yield Measured("vectors", "centroid shift", part, "distance", moved, len(now.keys))
    _, here, there = np.intersect1d(now.keys[now.full], then.keys[then.full], return_indices=True)
    if len(here) > 2 * NEAREST:
        kept, n_kept = kept_neighbours(old[there], own[here])
        yield Measured("vectors", "kept neighbours", part, "share", kept, n_kept)


def kept_neighbours(before: Floats, after: Floats) -> tuple[float, int]:
    """Return the share of nearest vectors that are so still, and out of how many.

    Of the first PANEL vectors, the NEAREST to each by the cosine, among all. One that is as near as
    the last of them counts as kept, so that equal vectors are no change.

    Args:
        before, after: The same members' vectors, none of length 0, float32 [members, dim].
    """
    near = []
    for vectors in (before, after):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        scores = unit[:PANEL] @ unit.T
        scores[np.arange(len(scores)), np.arange(len(scores))] = -np.inf
        near.append(scores)
    nearest = np.argpartition(-near[0], NEAREST - 1, axis=1)[:, :NEAREST]
    least = -np.partition(-near[1], NEAREST - 1, axis=1)[:, NEAREST - 1 : NEAREST]
    kept = np.take_along_axis(near[1], nearest, axis=1) >= least - EMPTY
    return float(kept.mean()), kept.size


def _told_apart(part: str, now: Sampled, then: Sampled) -> Iterator[Measured]:
    """Compare with a week ago, by other members: one who did nothing would be told by the other."""
    halves = [
        some.vectors[some.full & (some.keys >> np.uint64(32) & np.uint64(1) == half)][:TOLD]
        for half, some in enumerate((then, now))
    ]
    n_then, n_now = map(len, halves)
    if min(n_then, n_now) < FEWEST_TOLD:
        return
    # That of the rank-sum statistic; times 2, the slope of a share's score at a half.
    error = 2 * float(np.sqrt((1 / n_then + 1 / n_now) / 12))
    area = told_apart(*halves)
    yield Measured("vectors", "told apart", part, "share", area, n_then + n_now, error)


def told_apart(before: Floats, after: Floats) -> float:
    """Return how well a classifier tells which of two sets a vector is of: 0.5 by chance, 1 always.

    The area under the ROC curve of a logistic regression on the coordinates and their squares, by
    cross-validation (classifier two-sample test: Lopez-Paz & Oquab, 2017).

    Args:
        before, after: Vectors, at least FOLDS each, float32 [n, dim].
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from threadpoolctl import threadpool_limits

    both = np.concatenate([before, after]).astype(np.float64)
    of_after = np.repeat([0, 1], [len(before), len(after)])
    columns = np.concatenate([both, both**2], axis=1)
    columns -= columns.mean(axis=0)
    columns /= np.maximum(columns.std(axis=0), 1e-9)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    classifier = LogisticRegression(C=0.1, max_iter=1_000)
    with threadpool_limits(1):  # several wait for each other where a processor is shared
        scores = cross_val_predict(
            classifier, columns, of_after, cv=folds, method="decision_function"
        )
    return float(roc_auc_score(of_after, scores))


def _read(con: Connection, files: list[Path], field: str, every: int) -> Sampled:
    """Read the members of a snapshot whose hash `every` divides."""
    table: pa.Table = con.sql(
        f"select hash(member_id) as key, {identifier(field)} as vector, n_actions > 0 as acts "
        f"from {parquet(files)} where hash(member_id) % {every} = 0 order by key"
    ).to_arrow_table()
    column = table["vector"].combine_chunks()
    if pa.types.is_binary(column.type):
        kept = np.frombuffer(b"".join(column.to_pylist()), np.uint8)
        vectors = from_int8(kept.reshape(len(table), -1)) if len(table) else kept.reshape(0, 0)
    else:
        vectors = column.flatten().to_numpy().reshape(len(table), -1)
    vectors = vectors.astype(np.float32, copy=False)
    full = table["acts"].to_numpy() & (np.linalg.norm(vectors, axis=1) > EMPTY)
    return Sampled(table["key"].to_numpy(), vectors, full)
