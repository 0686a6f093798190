"""What each candidate source would have brought at each label's time, from what was readable."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from duckdb import DuckDBPyConnection as Connection
from feast import FeatureStore
from numpy.typing import NDArray

from models.candidates.build import ids_there
from models.candidates.nearest import Nearest
from models.candidates.spec import ALL, CandidateSource, NearestToMember, Neighbours, Popular
from models.candidates.votes import together
from models.item_versions import ItemVersions
from models.lines import similarity_of
from models.rankers.history import Actions
from models.rankers.inputs import Floats
from models.spec import Aggregator
from operations.fits import Fits, listing_sources
from pipelines.ranking.joined import join
from pipelines.ranking.labels import Labels
from transformations import names
from transformations.config import Config
from transformations.item_kinds import predicted_kinds
from transformations.layout import partitions
from transformations.timestamps import DAY_US, timestamp_of

Lists = list[NDArray[Any]]
"""Items of each label, the best first."""


def candidates_at(
    config: Config,
    con: Connection,
    store: FeatureStore,
    sources: Sequence[CandidateSource],
    labels: Labels,
    actions: Actions,
    vectors: Mapping[str, Sequence[Floats]],
    lines: Mapping[str, Aggregator],
    fits: Fits | None = None,
) -> dict[str, Lists]:
    """Return each source's items of each label, by `full_name`.

    Args:
        actions: The last actions of each label's member, as it could be read then.
        vectors: Aggregator, as a source names it → the vectors of its positive fields.
        lines: The same → the fit.
        fits: What the sources read. Default: the newest.
    """
    listed = {str(source): own for source, own in listing_sources(config, fits)}
    found: dict[str, Lists] = {}
    for source in sources:
        if isinstance(source, NearestToMember):
            if source.aggregator in vectors:
                line = lines[source.aggregator]
                own = vectors[source.aggregator]
                found[source.full_name] = _nearest(config, con, source, line, labels, own)
        elif str(source) in listed:
            view = source.view(listed[str(source)].space)
            lists: Lists = [labels.items[:0]] * len(labels)
            if partitions(config.layout.lists(view)):  # else it never had an item to list
                lists = KINDS[type(source)](store, source, view, labels, actions)
            found[source.full_name] = lists
    return found


def _popular(store: FeatureStore, source: Popular, view: str, labels: Labels, _: Actions) -> Lists:
    everybody = np.full(len(labels), ALL, object)
    segments = everybody if source.profile is None else _segments(store, source.profile, labels)
    found = _listed(store, source, view, segments, labels.times)
    lacking = [row for row, items in enumerate(found) if not len(items) and segments[row] != ALL]
    if lacking:  # a value that no list was made for yet
        times = labels.times[lacking]
        instead = _listed(store, source, view, everybody[lacking], times)
        for row, items in zip(lacking, instead, strict=True):
            found[row] = items
    return found


def _segments(store: FeatureStore, column: str, labels: Labels) -> NDArray[Any]:
    """Return the value of each label's member in its profile of then; ALL where it is missing."""
    feature = f"{names.PROFILE_VIEW}:{column}"
    read = join(store, [feature], {"member_id": labels.members}, labels.timestamps, {})
    values = read.arrays[feature.replace(":", "__")]
    return np.array([ALL if value is None else value for value in values], object)


def _listed(
    store: FeatureStore,
    source: Popular,
    view: str,
    segments: NDArray[Any],
    times: NDArray[np.int64],
) -> Lists:
    """Return the list of each segment as of a time, empty where it has none."""
    # Many labels share a moment and a segment.
    asked = pd.DataFrame({"at": times, "segment": segments})
    which = asked.groupby(["at", "segment"], sort=False).ngroup()
    distinct = asked.drop_duplicates()
    read = join(
        store,
        [f"{view}:item_ids"],
        {source.key: distinct["segment"].to_numpy(object)},
        pd.to_datetime(distinct["at"].to_numpy(), unit="us", utc=True).as_unit("us"),
        {},
    )
    rows = read.arrays[f"{view}__item_ids"]
    return [rows[row][: source.count] for row in which]


def _neighbours(
    store: FeatureStore, source: Neighbours, view: str, labels: Labels, actions: Actions
) -> Lists:
    liked = [actions.liked(row, source.last) for row in range(len(labels))]
    counts = np.array([len(items) for items in liked])
    owners = np.repeat(np.arange(len(labels)), counts)
    none = labels.items[:0]
    if not len(owners):
        return [none] * len(labels)
    asked = np.array([item for items in liked for item in items], labels.items.dtype)
    read = join(
        store,
        [f"{view}:item_ids", f"{view}:scores"],
        {source.key: asked},
        labels.timestamps[owners],
        {},
    )
    lists, scores = (read.arrays[f"{view}__{name}"] for name in ("item_ids", "scores"))
    ends = np.concatenate([[0], np.cumsum(counts)])
    votes = source.decay ** np.arange(source.last)
    found = []
    for start, end in itertools.pairwise(ends):
        weighed = [
            np.asarray(score, np.float32) * vote
            for score, vote in zip(scores[start:end], votes, strict=False)
        ]
        items, _ = together([*lists[start:end]], weighed, source.count)
        found.append(items if len(items) else none)
    return found


KINDS: Mapping[type[CandidateSource], Callable[..., Lists]] = {
    Popular: _popular,
    Neighbours: _neighbours,
}


def _nearest(
    config: Config,
    con: Connection,
    source: NearestToMember,
    line: Aggregator,
    labels: Labels,
    vectors: Sequence[Floats],
) -> Lists:
    """Search each day's items, as of the midnight before: an item's vector changes with a run."""
    own = line.config_of(config)
    days = labels.times // DAY_US
    first, last = (timestamp_of(int(day) * DAY_US) for day in (days.min(), days.max()))
    versions = ItemVersions.read_between(own, con, first, last)
    similarity = similarity_of(config, line)
    kinds = predicted_kinds(config, line.predicted(config))
    none = labels.items[:0]
    found: Lists = [none] * len(labels)
    for day in np.unique(days):
        midnight: datetime = timestamp_of(int(day) * DAY_US)
        ids = ids_there(config, con, midnight, kinds)
        if not len(ids):
            continue
        table = versions.at(midnight)
        nearest = Nearest(table.vectors[table.rows(ids)], similarity)
        plain, rows = ids.to_numpy(zero_copy_only=False), np.flatnonzero(days == day)
        each = [nearest.of(field[rows], source.count) for field in vectors]
        for position, row in enumerate(rows):
            lists = [(places[position], scores[position]) for places, scores in each]
            kept = [(plain[p[p >= 0]], s[p >= 0]) for p, s in lists]
            found[row] = together([i for i, _ in kept], [s for _, s in kept], source.count, "max")[
                0
            ]
    con.execute("drop table if exists items_there")
    return found


def positive_fields(config: Config, line: Aggregator) -> list[str]:
    """Return the vector fields of a line that say what a member likes."""
    positive = {names.vector_field(n) for n, a in config.rules.actions.items() if a.can_be_positive}
    fields = line.vectors(line.config_of(config))
    return [field for field in fields if field == names.SINGLE_VECTOR or field in positive]
