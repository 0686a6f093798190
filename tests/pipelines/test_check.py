"""`activity check`: what a run would take and refuse, what mends it, what will be poor."""

import os
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from pipelines.check.figures import Activity, Figures, Training, Usable, usable_members
from pipelines.check.find import Found, find
from pipelines.check.mend import ATTRIBUTE_MENDS, MENDS
from pipelines.check.say import say
from pipelines.check.sentences import warnings_of
from pipelines.cli import check as cli
from pipelines.coverage import Gap
from pipelines.init.look import NEEDED
from tests.worlds.events import (
    ACTIONS,
    AS_OF,
    Event,
    event_logs,
    expected_sequences,
    write_activity,
)
from tests.worlds.events import configure as by_hand
from tests.worlds.lines import write_catalogue
from transformations.config import ROOT, Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.layout import partition_files
from transformations.sources import stage_activity
from transformations.tables import activity_query

DAY = timedelta(days=1)
NOW = datetime(2026, 3, 10, 9, 30, tzinfo=UTC)
NOON = datetime(2026, 3, 9, 12, tzinfo=UTC)
ROWS = [
    # member, item, action, timestamp: five days of member 1, one old action of member 2
    *((1, 10 + day % 2, "APPLY", NOON - day * DAY) for day in range(5)),
    (1, 10, "DISMISS", NOON),
    (2, 12, "SAVE", NOON - 100 * DAY),
]
ITEMS = {"item_id": [10, 11, 13], "title": ["data engineer", " ", "ward nurse"]}
COLUMNS = ("member_id", "item_id", "action", "event_timestamp")


def write(rows: list[tuple], path: Path) -> str:
    """Write events as the ending says: Parquet, CSV, or a table `events` of a SQLite file."""
    return write_table(pa.table(dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))), path)


def write_table(table: pa.Table, path: Path) -> str:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".csv":
        table.to_pandas().to_csv(path, index=False)
    else:
        engine = sa.create_engine(f"sqlite:///{path}")
        table.to_pandas().astype(str).to_sql(path.stem, engine, index=False)
        engine.dispose()
        return f"sqlite:///{path}"
    return str(path)


def configure(folder: Path, rows=ROWS, items=ITEMS, suffix="parquet", **settings) -> Config:
    """Write both sources; return the configuration that reads them."""
    tables = {key: key if suffix == "db" else None for key in ("events", "items")}
    sources = {
        "events": write(rows, folder / f"events.{suffix}"),
        "items": write_table(pa.table(items), folder / f"items.{suffix}"),
    }
    both = {key: {"source": sources[key], "table": tables[key]} for key in tables}
    both["items"]["text"] = ["title"]
    for key in both:
        both[key] |= settings.pop(key, {})
    return Config.model_validate({"data_dir": str(folder / "data"), **both, **settings})


def printed(found: Found, now: datetime = NOW, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width)
    say(console, found, now)
    return console.file.getvalue()


def mend_of(found: Found, reason: str) -> tuple[int, tuple[str, ...], tuple[str, ...], str]:
    (refusal,) = [one for one in found.refusals if one.reason == reason]
    return refusal.rows, refusal.samples, refusal.mend.lines, refusal.mend.words


@pytest.mark.parametrize("suffix", ["parquet", "csv", "db"])
def test_the_figures_of_a_tiny_source(tmp_path, suffix):
    config = configure(tmp_path, [*ROWS, ROWS[0]], suffix=suffix)
    found = find(config, NOW)
    assert (found.event_rows, found.item_rows, found.duplicates) == (8, 3, 1)
    assert found.refusals == ()
    assert found.activity.figures == Figures(
        n_actions=7,
        first_at=NOON - 100 * DAY,
        last_at=NOON,
        gap_from=NOON - 100 * DAY,
        gap_to=NOON - 4 * DAY,
        n_members=2,
        p50=1,
        p90=6,
        most=6,
        n_shared=2,
        n_midnight=0,
        n_old=0,
        crowd_at=NOON,
        n_crowd=2,
    )
    assert found.activity.actions == {"APPLY": 5, "SAVE": 1, "DISMISS": 1}
    assert found.activity.last_as_of == datetime(2026, 3, 10, tzinfo=UTC)
    assert found.activity.usable == (
        Usable(28 * DAY, 1, 1),
        Usable(90 * DAY, 1, 1),
        Usable(365 * DAY, 2, 1),
        Usable(730 * DAY, 2, 1),
    )
    assert found.activity.active_now == 1
    activity = found.activity
    assert (activity.items, activity.items_acted_on, activity.without_row) == (3, 3, 1)
    assert (found.activity.actions_without_row, found.activity.blank_items) == (1, 1)


def test_a_sequence_holds_only_its_last_actions(tmp_path):
    found = find(configure(tmp_path, length=3, window="10d"), NOW)
    assert found.activity.usable[0] == Usable(10 * DAY, 1, 0)


@settings(max_examples=60, deadline=None)
@given(events=event_logs("int64", [AS_OF], 3 * DAY), length=st.sampled_from([4, 5, 32]))
def test_usable_equals_brute_force(events: list[Event], length: int):
    windows = {DAY, 3 * DAY, 5 * DAY}
    with TemporaryDirectory() as folder:
        config = by_hand(Path(folder), length=length)
        write_activity(config, events)
        files = partition_files(config.layout.activity)
        with connect(config) as con:
            con.execute(f"create temp view activity as {activity_query(config, con, files)}")
            got = usable_members(config, con, AS_OF, windows)
    for one in got:
        rows = expected_sequences(events, AS_OF, AS_OF, one.window, length).values()
        usable = [row for row in rows if row["n_apply"] + row["n_save"] >= NEEDED]
        assert (one.active, one.usable) == (len(rows), len(usable))
    assert [one.window for one in got] == sorted(windows)


def test_an_action_that_arrived_later_is_not_seen(tmp_path):
    rows = [(*row, NOW + DAY) for row in ROWS]
    names = (*COLUMNS, "came")
    table = pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))
    config = configure(tmp_path)
    write_table(table, tmp_path / "events.parquet")
    events = {"source": config.events.source, "columns": {"ingested_at": "came"}}
    config = Config.model_validate(config.model_dump() | {"events": events})
    assert find(config, NOW).activity.usable[0] == Usable(28 * DAY, 0, 0)


def test_nothing_is_written_into_the_workspace(tmp_path):
    config = configure(tmp_path)
    (config.data / "activity").mkdir(parents=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    find(config, NOW)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_was_read_by_a_run_is_judged_again(tmp_path):
    """It looks at all rows, not at those that a run has not read yet."""
    config = configure(tmp_path)
    before = find(config, NOW)
    with connect(config) as con:
        assert stage_activity(config, con, NOW).rows_out == 7
    listing = sorted(config.data.rglob("*"))
    assert find(config, NOW) == before
    assert sorted(config.data.rglob("*")) == listing


def test_ids_that_are_words_need_the_string_type(tmp_path):
    rows = [(f"m{row[0]}", f"x{row[1]}", *row[2:]) for row in ROWS]
    items = ITEMS | {"item_id": ["x10", "x11", "x13"]}
    found = find(configure(tmp_path, rows, items), NOW)
    rows_refused, samples, lines, _ = mend_of(found, "member_id is not of the id type")
    assert (rows_refused, samples) == (7, ("m1", "m2"))
    assert lines == ("member_id_type: string",)
    (refusal,) = [one for one in found.refusals if one.source == "items"]
    assert (refusal.rows, refusal.samples) == (3, ("x10", "x11", "x13"))
    assert refusal.mend.lines == ("item_id_type: string",)
    assert found.activity.figures.last_at is None
    assert [warning.split(";")[0] for warning in warnings_of(found, NOW)][:2] == [
        "none of the 7 events can be used",
        "none of the 3 items can be used",
    ]
    shown = printed(found)
    assert "such as 'm1', 'm2'" in shown
    assert "member_id_type: string" in shown

    mended = configure(tmp_path, rows, items, member_id_type="string", item_id_type="string")
    assert find(mended, NOW).refusals == ()


@pytest.mark.parametrize("suffix", ["parquet", "csv", "db"])
def test_item_ids_of_type_string(tmp_path, suffix):
    rows = [(row[0], f"x{row[1]}", *row[2:]) for row in ROWS]
    items = ITEMS | {"item_id": ["x10", "x11", "x13"]}
    found = find(configure(tmp_path, rows, items, suffix, item_id_type="string"), NOW)
    activity = found.activity
    assert (found.refusals, activity.figures.n_actions, activity.without_row) == ((), 7, 1)


def test_unknown_actions_are_named_and_the_lines_to_add(tmp_path):
    names = ["LIKE", "LIKE", "Skipped", "zorp", "apply", "to cart"]
    rows = [*ROWS, *((3, 10, name, NOON - n * DAY) for n, name in enumerate(names))]
    found = find(configure(tmp_path, rows), NOW)
    n_rows, samples, lines, words = mend_of(found, "action is unknown")
    assert (n_rows, samples[0], set(samples)) == (6, "LIKE", {*names})
    assert set(lines) == {
        "actions:",
        "  LIKE: positive",
        "  Skipped: negative",
        "  zorp: positive  # or negative",
    }
    assert "'apply' is APPLY in another case" in words
    assert "'to cart' cannot be an action's name" in words


@pytest.mark.parametrize(
    ("configured", "written", "reason", "lines"),
    [
        ("timestamp", "s", "event_timestamp cannot be read", ("events:", "  time_unit: s")),
        ("s", "ms", "event_timestamp is after events.latest", ("events:", "  time_unit: ms")),
        ("s", "timestamp", "event_timestamp cannot be read", ("events:", "  time_unit: timestamp")),
    ],
)
def test_a_wrong_time_unit(tmp_path, configured, written, reason, lines):
    def time(timestamp):
        seconds = int(timestamp.timestamp())
        return {"s": seconds, "ms": seconds * 1000, "timestamp": timestamp}[written]

    rows = [(*row[:3], time(row[3])) for row in ROWS]
    config = configure(tmp_path, rows, suffix="csv", events={"time_unit": configured})
    n_rows, samples, found_lines, _ = mend_of(find(config, NOW), reason)
    assert (n_rows, found_lines) == (7, lines)
    assert samples


def test_times_that_no_line_mends(tmp_path):
    times = ["31/12/2025", "1969-12-31 00:00:00+00", "2027-01-01 00:00:00+00"]
    rows = [(*row[:3], row[3].isoformat()) for row in ROWS]
    rows += [(3, 10, "SAVE", time) for time in times]
    found = find(configure(tmp_path, rows), NOW)
    reasons = [
        "event_timestamp cannot be read",
        "event_timestamp is before events.earliest",
        "event_timestamp is in the future",
    ]
    got = [mend_of(found, reason)[:3] for reason in reasons]
    assert got == [(1, (time,), ()) for time in times]


def test_missing_values_and_lines_that_do_not_split(tmp_path):
    config = configure(tmp_path, suffix="csv")
    with (tmp_path / "events.csv").open("a") as file:
        file.write(f",10,SAVE,{NOON}\n1,,SAVE,{NOON}\n1,10,SAVE\n1,10,,{NOON}\n")
    found = find(config, NOW)
    assert {one.reason: one.samples for one in found.refusals} == {
        "member_id is null": (),
        "item_id is null": (),
        "line is malformed": ("1,10,SAVE",),
        "action is unknown": (),
    }
    assert all(not one.mend.lines for one in found.refusals)
    assert "correct the source" in printed(found)


def test_attributes_that_do_not_fit(tmp_path):
    carried = [("-1", "feed"), ("long", ""), ("", "a" * 11), ("5", "a\x1ab"), ("", "")]
    rows = [(*row[:3], row[3].isoformat()) for row in ROWS]
    attributes = {
        "dwell": {"type": "number", "column": "seconds", "min": 0},
        "seen_on": {"type": "category", "max_length": 10},
    }
    config = configure(tmp_path, rows, suffix="csv", events={"attributes": attributes})
    lines = [",".join(map(str, (*row, *more))) for row, more in zip(rows, carried, strict=False)]
    header = ",".join((*COLUMNS, "seconds", "seen_on"))
    (tmp_path / "events.csv").write_text("\n".join([header, *lines]) + "\n")
    found = find(config, NOW)
    assert {one.reason: (one.rows, one.samples) for one in found.refusals} == {
        "attribute dwell is out of range": (1, ("-1",)),
        "attribute dwell is not a number": (1, ("long",)),
        "attribute seen_on is too long": (1, ("a" * 11,)),
        "attribute seen_on holds U+001A": (1, ("a\x1ab",)),
    }
    assert "min and max of events.attributes.dwell" in " ".join(printed(found).split())


def test_items_are_refused_with_their_values(tmp_path):
    items = {"item_id": ["10", "eleven", "12"], "title": ["a", "b", "c"]}
    items["since"] = ["2025-01-01", "2025-01-01", "some day"]
    config = configure(tmp_path, items=items)
    since = config.items.model_copy(update={"available_at": "since"})
    found = find(config.model_copy(update={"items": since}), NOW)
    assert {one.reason: (one.source, one.rows, one.samples) for one in found.refusals} == {
        "item_id is not of the id type": ("items", 1, ("eleven",)),
        "available_at is null or cannot be read": ("items", 1, ("some day",)),
    }


@pytest.mark.parametrize("suffix", ["parquet", "csv", "db"])
def test_vectors_of_another_length(tmp_path, suffix):
    vectors = [[0.5, 1.0, 2.0]] * 3
    values = vectors if suffix == "parquet" else [str(vector) for vector in vectors]
    config = configure(tmp_path, items={"item_id": [10, 11, 13], "v": values}, suffix=suffix)
    items = config.items.model_dump() | {"text": [], "embedding": "v"}
    config = Config.model_validate(config.model_dump() | {"items": items})
    write_catalogue(tmp_path)
    config._root = tmp_path
    found = find(config, NOW)
    n_rows, samples, lines, _ = mend_of(found, "embedding is no list of dim finite numbers")
    assert (n_rows, samples, lines) == (3, ("[0.5, 1.0, 2.0]",), ("dim: 3",))
    activity = found.activity
    assert (activity.items, activity.blank_items, activity.without_row) == (0, None, 3)
    mended = find(config.model_copy(update={"dim": 3}), NOW)
    assert (mended.refusals, mended.activity.items) == ((), 3)


def test_every_reason_has_its_mend():
    written = set()
    for name in ("stg_activity", "judged_items", "refused"):
        text = (ROOT / "transformations" / "sql" / f"{name}.sql").read_text()
        written |= set(re.findall(r"then '([^']+)'|'([^']+)' as reason", text))
    assert {first or second for first, second in written} == set(MENDS)
    text = (ROOT / "transformations" / "attributes.py").read_text()
    problems = set(re.findall(r"quoted\(f'attribute \{name\} ([^']+)'\)", text))
    assert problems == set(ATTRIBUTE_MENDS)


def good() -> Found:
    """Data that nothing is wrong with, as of NOW."""
    figures = Figures(
        n_actions=10_000,
        first_at=NOW - 400 * DAY,
        last_at=NOW - DAY / 4,
        gap_from=NOW - 30 * DAY,
        gap_to=NOW - 29 * DAY,
        n_members=3_700,
        p50=3,
        p90=20,
        most=400,
        n_shared=10,
        n_midnight=1,
        n_old=0,
        crowd_at=NOW - DAY,
        n_crowd=3,
    )
    activity = Activity(
        as_of=datetime(2026, 3, 10, tzinfo=UTC),
        window=365 * DAY,
        min_positives=1_000,
        figures=figures,
        actions=dict.fromkeys(ACTIONS, 100),
        positive=("APPLY", "SAVE"),
        last_as_of=datetime(2026, 3, 10, tzinfo=UTC),
        usable=(Usable(28 * DAY, 500, 300), Usable(365 * DAY, 2_000, 1_500)),
        active_now=2_000,
        trainings=(Training("learned_decay_v1", 1_000, NOW - 42 * DAY, 4),),
        items=500,
        items_acted_on=400,
        without_row=0,
        actions_without_row=0,
        blank_items=0,
    )
    return Found(
        max_refused_share=0.05,
        event_rows=10_000,
        item_rows=500,
        refusals=(),
        duplicates=0,
        activity=activity,
    )


def but(found: Found, **changed: Any) -> Found:
    """The same with other values, of the sources or of the activity."""
    own = {name: value for name, value in changed.items() if hasattr(found, name)}
    rest = {name: value for name, value in changed.items() if name not in own}
    return replace(found, **own, activity=replace(found.activity, **rest))


def test_good_data_raise_no_warning():
    assert warnings_of(good(), NOW) == []
    assert "Nothing here would make the result poor." in printed(good())


def test_data_that_ended_long_ago():
    now = datetime(2026, 11, 28, 12, tzinfo=UTC)
    figures = replace(good().activity.figures, last_at=now - 180 * DAY)
    last = datetime(2026, 6, 2, tzinfo=UTC)
    at = {"as_of": now, "last_as_of": last}
    found = but(good(), figures=figures, active_now=315, **at)
    assert warnings_of(found, now) == [
        (
            "the newest event is 180 days old: as of 2026-11-28 only 315 of 3,700 members have "
            "actions; --as-of last uses 2026-06-02, where 2,000 have"
        )
    ]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"event_rows": 0}, "the events source has no rows"),
        ({"duplicates": 2_000}, "20% of the events are exact duplicates and count once"),
        ({"without_row": 100, "actions_without_row": 7}, "25% of the events' items have no row"),
        ({"without_row": 400}, "names the same ids"),
        ({"blank_items": 250}, "50% of the items have no text"),
        ({"actions": {"APPLY": 1, "SAVE": 0}}, "the action SAVE never occurs"),
        ({"actions": {"APPLY": 0, "SAVE": 0, "DISMISS": 9}}, "no positive action occurs"),
        ({"window": 28 * DAY, "usable": (Usable(28 * DAY, 90, 2), Usable(90 * DAY, 200, 80))},
         "only 2 of the 90 members with actions in 28d have 4 positive ones; with window: 90d"),
        ({"usable": (Usable(365 * DAY, 0, 0),)}, "no member has an action in the window"),
        ({"trainings": (Training("cnn_v1", 999, NOW, 4),)}, "cnn_v1 could learn from at most 999"),
        ({"gaps": (Gap(NOW - 9 * DAY, NOW - 3 * DAY, 7, NOW - 10 * DAY),)}, "(7 snapshots)"),
    ],
)  # fmt: skip
def test_a_sentence_for_what_is_poor(changed, sentence):
    assert any(sentence in warning for warning in warnings_of(but(good(), **changed), NOW))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"gap_from": NOW - 900 * DAY, "gap_to": NOW - 400 * DAY}, "no event for 500 days"),
        ({"n_old": 12}, "12 actions lie before 1990"),
        ({"n_midnight": 10_000}, "100% of the actions lie at midnight"),
        ({"n_shared": 5_000}, "50% of the actions share member and timestamp"),
        ({"n_crowd": 4_000}, "40% of the actions lie at 2026-03-09 09:30"),
    ],
)
def test_a_sentence_for_suspicious_times(changed, sentence):
    found = but(good(), figures=replace(good().activity.figures, **changed))
    (warning,) = warnings_of(found, NOW)
    assert sentence in warning


def test_refusing_more_than_allowed_is_told(tmp_path):
    rows = [*ROWS, (3, 10, "LIKE", NOON)]
    found = find(configure(tmp_path, rows), NOW)
    assert warnings_of(found, NOW)[0] == (
        "12% of the events are refused, more than the 5.0% that events.max_refused_share allows; "
        "a run fails"
    )


def test_a_source_that_is_missing_is_a_wrong_input(tmp_path):
    config = configure(tmp_path)
    (tmp_path / "events.parquet").unlink()
    with pytest.raises(InputError, match=r"events\.source: expected a file or a folder"):
        find(config, NOW)


def test_the_tables_fit_80_columns(tmp_path):
    rows = [*ROWS, (3, 10, "N" * 200, NOON), ("x" * 200, 10, "SAVE", NOON)]
    rows = [(str(row[0]), *row[1:]) for row in rows]
    found = find(configure(tmp_path, rows), NOW)
    shown = printed(found)
    assert max(map(len, shown.splitlines())) <= 80
    for title in ("Rows that a first run would take", "Activity", "28d  (configured)"):
        assert title in shown


def test_the_command_reads_a_configuration(tmp_path):
    config = configure(tmp_path)
    file = tmp_path / "activity.yaml"
    file.write_text(
        f"data_dir: {tmp_path}/data\nevents: {{source: {config.events.source}}}\n"
        f"items: {{source: {config.items.source}, text: [title]}}\n"
    )
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner(env={**os.environ, "ACTIVITY_CONFIG": ""}).invoke(
        cli.app, ["--config", str(file)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert "Rows that a first run would take" in done.output
    assert sorted(tmp_path.rglob("*")) == before


def test_searches_are_counted_apart_from_the_items(tmp_path):
    """They have no row in the items source, and need none; an empty one is refused."""
    rows = [(1, 10, "APPLY", NOON, None)]
    rows += [(1, None, "SEARCH", NOON, text) for text in ("Cook", "cook ", "nurse", "", "x" * 300)]
    config = configure(tmp_path, actions={"APPLY": "positive", "SEARCH": {"text": "query"}})
    names = (*COLUMNS, "query")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    write_table(pa.table(columns), tmp_path / "events.parquet")
    found = find(config, NOW)
    activity = found.activity
    # Two of the searches are one action: the same text at the same time.
    assert (activity.searches, activity.actions) == (2, {"APPLY": 1, "SEARCH": 2})
    assert (activity.items, activity.items_acted_on, activity.without_row) == (3, 1, 0)
    assert activity.blank_items == 1
    assert {(one.reason, one.rows, one.samples) for one in found.refusals} == {
        ("the text of SEARCH is missing", 1, ()),
        ("the text of SEARCH is too long", 1, ("x" * 300,)),
    }
    text = printed(found)
    assert re.search(r"distinct texts +2 that members acted on", text)
    assert "events: the text of SEARCH is missing: 1 rows" in text
