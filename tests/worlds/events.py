"""Event logs: tiny ones by hand, random ones for Hypothesis, and the expected sequences."""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from transformations.config import Config
from transformations.layout import note_period, partition_files, period_file, period_of

Id = int | str
ACTIONS = ("APPLY", "SAVE", "DISMISS")
AS_OF = datetime(2026, 3, 10, tzinfo=UTC)
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
UTC_US = pa.timestamp("us", tz="UTC")

# Values that a careless type or order would confuse.
INTEGERS: list[Id] = [1, 2, 3, 0, -5, -(2**63), 2**53 + 1, 2**63 - 1]
STRINGS: list[Id] = [
    "a",
    "b",
    "A",
    "é",
    "日本",
    "\N{MATHEMATICAL FRAKTUR CAPITAL U}",
    "1",
    "01",
    "o'c",
    " a",
]


class Event(NamedTuple):
    """One action of a member on an item."""

    member_id: Id
    item_id: Id
    action: str
    event_timestamp: datetime
    ingested_at: datetime | None = None


def at(text: str) -> datetime:
    """Read a UTC timestamp: at("2026-03-01 12:00")."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def configure(folder: Path, **settings: Any) -> Config:
    """Return a configuration whose data lies in `folder`; small limits, one thread."""
    defaults: dict[str, Any] = {
        "data_dir": str(folder / "data"),
        "items": {"text": ["title"]},
        "duckdb": {"memory_limit": "500MB", "threads": 1},
    }
    config = Config.model_validate(defaults | settings)
    if folder.is_absolute():  # a relative one is the name of nothing: no test may write into it
        by_days(config)
    return config


def table(events: Sequence[Event], id_type: str = "int64") -> pa.Table:
    """Return events as Arrow, with the types of `activity`."""
    ids = pa.int64() if id_type == "int64" else pa.string()
    types = [ids, ids, pa.string(), UTC_US, UTC_US]
    columns = list(zip(*events, strict=True)) or [[]] * len(Event._fields)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    return pa.table(arrays, names=list(Event._fields))


def write_source(path: Path, events: Sequence[Event], id_type: str = "int64") -> Path:
    """Write one Parquet file of events, as a source."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(events, id_type), path)
    return path


def write_activity(config: Config, events: Iterable[Event]) -> None:
    """Write `activity` as stage_activity would."""
    ordered = sorted(distinct(events), key=lambda e: (e.event_timestamp.date(), *_order(e)))
    by_days(config)
    for day, rows in groupby(ordered, key=lambda e: e.event_timestamp.date()):
        write_source(period_file(config.layout.activity, day), list(rows), config.member_id_type)


def by_days(config: Config) -> None:
    """Let activity and quarantine lie in days, however few rows there are."""
    for folder in (config.layout.activity, config.layout.quarantine):
        if period_of(folder) is None:
            note_period(folder, "day")


def read_activity(config: Config) -> dict[date, list[Event]]:
    """Read `activity` back, each day in the order of its file."""
    events = {}
    for file in partition_files(config.layout.activity):
        day = date.fromisoformat(file.parent.name.removeprefix("period="))
        rows = pq.ParquetFile(file).read().to_pylist()
        events[day] = [Event(**row) for row in rows]
    return events


def _order(event: Event) -> tuple[Any, ...]:
    return event.member_id, event.event_timestamp, event.item_id, event.action


def distinct(events: Iterable[Event]) -> list[Event]:
    """Count exact duplicates once, with their earliest ingested_at; in file order."""
    ingested: dict[tuple[Any, ...], datetime | None] = {}
    for event in events:
        earlier = ingested.get(event[:4])
        times = [time for time in (earlier, event.ingested_at) if time is not None]
        ingested[event[:4]] = min(times, default=None)
    return sorted((Event(*key, time) for key, time in ingested.items()), key=_order)


def timestamps(as_ofs: Sequence[datetime], window: timedelta) -> st.SearchStrategy[datetime]:
    """Draw timestamps around windows: their edges to the microsecond, and a few shared times."""
    edges = [edge for as_of in as_ofs for edge in (as_of, as_of - window)]
    near = st.builds(
        lambda edge, by: edge + by,
        st.sampled_from(edges),
        st.sampled_from([-1, 0, 1]).map(lambda by: by * MICROSECOND),
    )
    start = min(edges) - DAY
    span = int((max(edges) + DAY - start) / DAY)
    coarse = st.integers(0, span * 4).map(lambda quarter: start + quarter * DAY / 4)
    return near | coarse


def event_logs(
    id_type: str,
    as_ofs: Sequence[datetime],
    window: timedelta,
    max_size: int = 40,
    members: int = 4,
) -> st.SearchStrategy[list[Event]]:
    """Draw logs with ties, duplicates, late events and events on the edges of the windows."""
    ids = INTEGERS if id_type == "int64" else STRINGS
    time = timestamps(as_ofs, window)
    event = st.builds(
        Event,
        member_id=st.sampled_from(ids[-members:]),
        item_id=st.sampled_from(ids),
        action=st.sampled_from(ACTIONS),
        event_timestamp=time,
        ingested_at=st.none() | time,
    )
    return st.lists(event, max_size=max_size)


def expected_sequences(
    events: Iterable[Event],
    as_of: datetime,
    previous_as_of: datetime,
    window: timedelta,
    length: int,
) -> dict[Id, dict[str, Any]]:
    """Apply the rule of `member_sequences` in plain Python, one member after the other."""
    rows: dict[Id, dict[str, Any]] = {}
    unique = distinct(events)
    for member in {event.member_id for event in unique}:
        own = [event for event in unique if event.member_id == member]
        seen = _snapshot(own, as_of, window)
        was_there = bool(_snapshot(own, previous_as_of, window))
        if not seen and not was_there:
            continue
        last = seen[-length:]
        visible = [e.event_timestamp for e in own if _is_visible(e, as_of)]
        rows[member] = {
            "item_ids": [event.item_id for event in last],
            "actions": [event.action for event in last],
            "event_timestamps": [event.event_timestamp for event in last],
            "n_actions": len(last),
            **{f"n_{a.lower()}": sum(e.action == a for e in last) for a in ACTIONS},
            "last_action_at": max(visible),
        }
    return rows


def _is_visible(event: Event, as_of: datetime) -> bool:
    arrived = event.ingested_at is None or event.ingested_at < as_of
    return arrived and event.event_timestamp < as_of


def _snapshot(events: Iterable[Event], as_of: datetime, window: timedelta) -> list[Event]:
    inside = [e for e in events if _is_visible(e, as_of) and as_of - window <= e.event_timestamp]
    return sorted(inside, key=lambda e: (e.event_timestamp, e.item_id, e.action))
