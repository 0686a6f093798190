"""Controls that the features of labels are those that are served: in training joins, and now."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureStore
from numpy.typing import NDArray

from models.evaluation.promises import Control, assert_nothing_from_the_future
from models.manifest import Store
from models.quantization import LARGEST
from models.spec import Aggregator
from pipelines.evaluation.comparison import Comparison
from pipelines.evaluation.histories import Floats, Histories, stacked
from pipelines.evaluation.labels import Period
from pipelines.evaluation.protocol import DAILY
from pipelines.evaluation.variants import Bench
from pipelines.evaluation.world import build_served
from pipelines.progress import Stages
from serving.publish.feast_store import quiet
from serving.publish.snapshots import materialize
from serving.request.sequences import Event
from serving.request.vectors import RequestTime
from transformations.attributes import is_missing
from transformations.config import Config
from transformations.names import SEQUENCE_VIEW
from transformations.timestamps import microseconds, timestamp_of

AGREE = 1e-5
JOINED, ASKED = 500, 50
"""Labels whose training join, and whose request, is compared."""


def served(comparison: Comparison, stages: Stages) -> Iterator[Control]:
    """Compare every line's features of a sample of labels with those of the serving side.

    Raises:
        RunFailedError: a training join gave a feature from its label's future.
    """
    bench, lines = comparison.bench, list(comparison.lines.values())
    sample = _sample(bench.measured, np.ones(len(bench.measured.frame), bool), JOINED)
    build_served(bench.world, stages, lines, readings(bench, sample))
    store = bench.world.store(lines)
    yield from training_joins(bench, store, lines, sample)
    yield from request_time(bench, store, lines)


def readings(bench: Bench, period: Period) -> pa.Table:
    """Return whose row of the daily snapshots each label reads, and of which: member_id, as_of."""
    as_of = pd.to_datetime(_as_of(bench, period), unit="us", utc=True).as_unit("us")
    read = period.frame[["member_id"]].assign(as_of=as_of)
    return pa.Table.from_pandas(read, preserve_index=False)


def training_joins(
    bench: Bench, store: FeatureStore, lines: list[Aggregator], sample: Period
) -> Iterator[Control]:
    """Compare the daily snapshot's vectors with what get_historical_features returns."""
    config = bench.world.config
    histories = Histories.of(config, bench.log, sample, _as_of(bench, sample))
    for line in lines:
        embedder = bench.embedder(line.config_of(config))
        padded = histories.padded(embedder.config, embedder.versions)
        joined, there = join(store, config, line, sample)
        yield _equal(
            f"as in training joins, {line.name}",
            "Vectors of the daily snapshot, against get_historical_features through the line's "
            f"feature service with filter_by_created_timestamp=True, for {int(there.sum()):,} "
            "labels.",
            embedder.vectors(line, padded)[there],
            joined[there],
            line.stored_as(config),
        )


def request_time(bench: Bench, store: FeatureStore, lines: list[Aggregator]) -> Iterator[Control]:
    """Compare live vectors with what the request path returns.

    The last snapshot is published; the request brings what happened since then.
    """
    config, shown = bench.world.config, bench.world.shown.as_of
    period = bench.measured
    since = microseconds(shown)
    sample = _sample(period, period.task.labels.times > since, ASKED)
    if not len(sample.frame):
        return
    materialize(store, SEQUENCE_VIEW, shown, shown)
    service = RequestTime(config, store, lambda: lines)
    histories = Histories.of(config, bench.log, sample, sample.task.labels.times)
    asked: dict[str, list[Floats]] = {line.name: [] for line in lines}
    kept = []
    for row, time in enumerate(sample.task.labels.times):
        events = _since(bench, sample, row, since)
        if any(event.action in config.rules.texts for event in events):
            continue  # a request brings the text, which the log has no more
        member = _plain(sample.frame["member_id"].iloc[row])
        found = service.embed([member], events, timestamp_of(int(time)))
        kept.append(row)
        for line in lines:
            fields = found.vectors[line.view]
            asked[line.name].append(stacked(list(fields.values()), config))
    for line in lines if kept else ():
        embedder = bench.embedder(line.config_of(config))
        padded = histories.padded(embedder.config, embedder.versions)
        yield _equal(
            f"as at request time, {line.name}",
            "Live vectors, against the request path with the last snapshot online and what "
            f"happened since then in the request, for {len(kept)} labels.",
            embedder.vectors(line, padded)[kept],
            np.concatenate(asked[line.name]),
            line.stored_as(config),
        )


def join(
    store: FeatureStore, config: Config, line: Aggregator, period: Period
) -> tuple[Floats, NDArray[np.bool_]]:
    """Fetch a line's vectors for each label through its feature service.

    Returns:
        float32 [labels, actions, dim], zeros for a member without a row; which have one.

    Raises:
        RunFailedError: a feature is from after its label.
    """
    entities = period.frame[["label", "member_id", "item_id", "event_timestamp"]]
    job: Any = store.get_historical_features(
        entity_df=entities,
        features=store.get_feature_service(line.service),
        filter_by_created_timestamp=True,
    )
    coverage = logging.getLogger("stores.asof.coverage")
    level = coverage.level
    coverage.setLevel(logging.ERROR)  # members who had not acted have no row: that is no news
    try:
        with quiet():
            joined = job.to_arrow().sort_by("label")
    finally:
        coverage.setLevel(level)
    frame = joined.select(["event_timestamp", "last_action_at"]).to_pandas()
    assert_nothing_from_the_future(frame, ["last_action_at"])
    columns = [joined[name].combine_chunks() for name in line.vectors(config)]
    there = np.asarray(columns[0].is_valid())
    vectors = np.zeros((len(frame), len(columns), config.dim), np.float32)
    for index, column in enumerate(columns if there.any() else ()):
        values = column.flatten().to_numpy().astype(np.float32)
        vectors[there, index] = values.reshape(-1, config.dim)
    return stacked(list(vectors.swapaxes(0, 1)), config), there


def _as_of(bench: Bench, period: Period) -> NDArray[np.int64]:
    """Return the as_of of the newest daily snapshot that each label could read."""
    times, world = period.task.labels.times, bench.world
    return DAILY.as_of(times, world.split.fit_until, world.config.publish_delay)


def _since(bench: Bench, period: Period, row: int, since: int) -> list[Event]:
    """Return what a label's member did that a snapshot did not hold and the label may know."""
    labels, log = period.task.labels, bench.log
    _, found = log.before(labels.members[row : row + 1], labels.times[row : row + 1])
    actions, ingested = log.actions.take(found), log.ingested[found]
    new = (actions.timestamp >= since) | (ingested >= since)
    names = ["", *bench.world.config.actions]
    member = period.frame["member_id"].iloc[row]
    return [
        Event(
            _plain(member),
            _plain(actions.item[index]),
            names[int(actions.code[index])],
            timestamp_of(int(actions.timestamp[index])),
            {
                name: _plain(values[index])
                for name, values in actions.attributes.items()
                if not is_missing(values[index : index + 1])[0]
            },
        )
        for index in np.flatnonzero(new)
    ]


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as Python's."""
    return value.item() if hasattr(value, "item") else value


def _sample(period: Period, wanted: NDArray[np.bool_], most: int) -> Period:
    """Return a sample of a period's labels, in their order."""
    rows = np.flatnonzero(wanted)
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    frame = period.frame.iloc[rows].reset_index(drop=True)
    return Period(period.name, frame, period.task.take(rows), period.first_seen.iloc[rows])


def _equal(name: str, sentence: str, got: Floats, expected: Floats, store: Store) -> Control:
    apart = np.abs(got - expected)
    aim, allowed = f"equal to {AGREE:g}", np.full(apart.shape[:-1], AGREE)
    if store == "int8":
        # Numbers that agree to AGREE may lie on two sides of where int8 rounds up.
        aim += ", or to one step of int8"
        allowed += np.abs(expected).max(axis=-1, initial=0.0) / LARGEST
    agree = bool((apart.max(axis=-1, initial=0.0) <= allowed).all())
    return Control(name, sentence, aim, f"at most {apart.max(initial=0.0):.1e} apart", agree)
