"""The SQL of training_examples against a brute-force oracle, on random event logs."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.worlds.events import (
    ACTIONS,
    AS_OF,
    DAY,
    MICROSECOND,
    Event,
    configure,
    distinct,
    event_logs,
    write_activity,
)
from transformations.config import Config
from transformations.duck import connect
from transformations.example_settings import ExampleSettings
from transformations.examples import RANDOM_NEGATIVE, build_training_examples
from transformations.rebuild import rebuild

WINDOW = timedelta(days=3)
LENGTH = 4
DELAY = timedelta(hours=6)
HOUR = timedelta(hours=1)

Row = dict[str, Any]


def examples(config: Config, chosen: ExampleSettings, since: datetime | None = None) -> list[Row]:
    """Build the examples before AS_OF and read them back, in the order of the file."""
    with connect(config) as con:
        report = build_training_examples(config, con, chosen, AS_OF, since)
    rows = pq.ParquetFile(report.file).read().to_pylist()
    assert report.examples == len(rows)
    assert report.windows == len({(row["member_id"], row["as_of"]) for row in rows})
    return rows


class Oracle:
    """The rule, one member and one action after the other."""

    def __init__(self, events: Sequence[Event], chosen: ExampleSettings) -> None:
        self.chosen = chosen
        seen = [e for e in distinct(events) if self.is_visible(e, AS_OF)]
        self.items_of_day = defaultdict(set)
        own = defaultdict(list)
        for event in seen:
            self.items_of_day[event.event_timestamp.date()].add(event.item_id)
            own[event.member_id].append(event)
        self.members = {m: e for m, e in own.items() if len(e) >= chosen.min_actions}

    @staticmethod
    def is_visible(event: Event, timestamp: datetime) -> bool:
        arrived = event.ingested_at is None or event.ingested_at < timestamp
        return arrived and event.event_timestamp < timestamp

    def window(self, member: Any, as_of: datetime) -> list[Event]:
        return [
            e
            for e in self.members[member]
            if self.is_visible(e, as_of) and e.event_timestamp >= as_of - WINDOW
        ]

    def sessions(self, member: Any) -> list[int]:
        numbers: list[int] = []
        before = None
        for event in self.members[member]:
            new = (
                before is not None
                and event.event_timestamp - before.event_timestamp >= self.chosen.session_gap
            )
            numbers.append((numbers[-1] + new) if numbers else 0)
            before = event
        return numbers

    def as_of(self, event: Event) -> tuple[datetime, datetime]:
        """When the window of a label ends, and when it can be read."""
        if self.chosen.inputs == "before_label":
            return event.event_timestamp, event.event_timestamp
        earliest = event.event_timestamp - DELAY
        midnight = earliest.replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight, midnight + DELAY

    def labels(self) -> Iterator[tuple[Any, datetime, Event]]:
        """Yield member, as_of and label, whatever is in the window."""
        for member, own in self.members.items():
            picked = own[::-1][:: self.chosen.stride]
            if self.chosen.labels == "next":
                yield from ((member, self.as_of(label)[0], label) for label in picked)
                continue
            for as_of, readable in {self.as_of(event) for event in picked}:
                yield from (
                    (member, as_of, label)
                    for label in own
                    if readable <= label.event_timestamp < readable + self.chosen.horizon
                )

    def rows(self, since: datetime | None) -> Counter[tuple[Any, ...]]:
        counts: Counter[tuple[Any, ...]] = Counter()
        for member, as_of, label in self.labels():
            inputs = self.window(member, as_of)[-LENGTH:]
            if not inputs or (since is not None and label.event_timestamp < since):
                continue
            own, numbers = self.members[member], self.sessions(member)
            session = dict(zip(own, numbers, strict=True))
            if self.chosen.skip_own_session and session[inputs[-1]] == session[label]:
                continue
            counts[key(member, as_of, inputs, label)] += 1
        return counts


def key(member: Any, as_of: datetime, inputs: Sequence[Event], label: Event) -> tuple[Any, ...]:
    window = tuple((e.event_timestamp, e.item_id, e.action) for e in inputs)
    return member, as_of, window, label.item_id, label.action, label.event_timestamp


def window_of(row: Row) -> tuple[Any, ...]:
    return tuple(zip(row["event_timestamps"], row["item_ids"], row["actions"], strict=True))


def chosen_settings(**fixed: Any) -> st.SearchStrategy[ExampleSettings]:
    varied: dict[str, st.SearchStrategy[Any]] = {
        "labels": st.sampled_from(["next", "all"]),
        "horizon": st.sampled_from([3 * HOUR, 2 * DAY]),
        "inputs": st.sampled_from(["before_label", "snapshot"]),
        "min_actions": st.integers(1, 4),
        "stride": st.integers(1, 3),
        "random_negatives": st.integers(0, 2),
        "random_negative_shift": st.sampled_from([timedelta(0), 7 * HOUR]),
        "session_gap": st.sampled_from([6 * HOUR + MICROSECOND, DAY]),
        "skip_own_session": st.booleans(),
        "seed": st.integers(0, 3),
    }
    return st.builds(
        ExampleSettings, **(varied | {name: st.just(value) for name, value in fixed.items()})
    )


def logs(id_type: str) -> st.SearchStrategy[list[Event]]:
    # Few and long ones: what takes the time is DuckDB's planning, not the rows.
    return event_logs(id_type, [AS_OF, AS_OF - 2 * DAY], WINDOW, max_size=80, members=3)


@pytest.mark.parametrize("id_type", ["int64", "string"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_sql_equals_brute_force(id_type: str, data: st.DataObject) -> None:
    log = data.draw(logs(id_type), label="events")
    chosen = data.draw(chosen_settings(), label="settings")
    since = data.draw(st.none() | st.just(AS_OF - 2 * DAY), label="since")
    with TemporaryDirectory() as folder:
        config = configure(Path(folder), id_type=id_type, window=WINDOW, length=LENGTH)
        write_activity(config, log)
        rows = examples(config, chosen, since)

    oracle = Oracle(log, chosen)
    own = [row for row in rows if not row["is_random"]]
    got = Counter(
        (
            row["member_id"],
            row["as_of"],
            window_of(row),
            row["label_item_id"],
            row["label_action"],
            row["label_timestamp"],
        )
        for row in own
    )
    assert got == oracle.rows(since)
    assert all(row["is_positive"] == (row["label_action"] != "DISMISS") for row in own)
    assert all(row["happened_at"] == row["label_timestamp"] for row in own)

    drawn = [row for row in rows if row["is_random"]]
    for row in drawn:
        assert row["label_item_id"] in oracle.items_of_day[row["happened_at"].date()]
        moved = abs(row["label_timestamp"] - row["happened_at"])
        assert moved <= chosen.random_negative_shift
        assert not row["is_positive"]
    # As many for each positive, on its member's same input.
    per_positive = Counter({of(row): chosen.random_negatives for row in own if row["is_positive"]})
    positives = Counter(of(row) for row in own if row["is_positive"])
    assert Counter(
        (*of(row)[:-1], row["label_action"].removeprefix(RANDOM_NEGATIVE)) for row in drawn
    ) == Counter({k: n * positives[k] for k, n in per_positive.items() if n})


def of(row: Row) -> tuple[Any, ...]:
    return row["member_id"], row["as_of"], window_of(row), row["happened_at"], row["label_action"]


@settings(max_examples=10, deadline=None)
@given(log=logs("int64"), chosen=chosen_settings(random_negatives_in_inputs=True))
def test_random_negatives_in_inputs_tell_of_the_past_alone(
    log: list[Event], chosen: ExampleSettings
) -> None:
    with TemporaryDirectory() as folder:
        config = configure(Path(folder), window=WINDOW, length=LENGTH)
        write_activity(config, log)
        rows = examples(config, chosen)

    oracle = Oracle(log, chosen)
    for row in rows:
        window = oracle.window(row["member_id"], row["as_of"])
        inputs = window_of(row)
        own = [action for action in inputs if action[2] in ACTIONS]
        whole = [(e.event_timestamp, e.item_id, e.action) for e in window]
        assert own == whole[len(whole) - len(own) :]
        assert len(inputs) == LENGTH or own == whole
        for timestamp, item, action in set(inputs) - set(own):
            assert row["as_of"] - WINDOW <= timestamp < row["as_of"]
            assert any(
                e.action == action.removeprefix(RANDOM_NEGATIVE)
                and abs(e.event_timestamp - timestamp) <= chosen.random_negative_shift
                and item in oracle.items_of_day[e.event_timestamp.date()]
                and oracle.is_visible(e, row["as_of"])
                for e in oracle.members[row["member_id"]]
            )


@settings(max_examples=4, deadline=None)
@given(log=logs("int64"), chosen=chosen_settings(random_negatives=2), order=st.randoms())
def test_neither_threads_nor_the_order_of_rows_nor_buckets_change_anything(
    log: list[Event], chosen: ExampleSettings, order: Any
) -> None:
    assume(log)
    got = []
    shuffled = sorted(log, key=lambda _: order.random())
    for threads, events, buckets in ((1, log, 1), (2, shuffled, 1), (1, shuffled, 3)):
        with TemporaryDirectory() as folder:
            bounds = {
                "window": WINDOW,
                "length": LENGTH,
                "duckdb": {"memory_limit": "500MB", "threads": threads},
            }
            config = configure(Path(folder), **bounds)
            write_activity(config, events)
            if buckets > 1:
                rebuild(config, "day", buckets)
                config = configure(Path(folder), layout={"buckets": buckets}, **bounds)
            with connect(config) as con:
                report = build_training_examples(config, con, chosen, AS_OF)
            rows = pq.ParquetFile(report.file).read().to_pylist()
            got.append((rows, report.figures()))
    assert got[0] == got[1]
    assert got[0] == got[2]
