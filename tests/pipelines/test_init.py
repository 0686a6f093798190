"""`activity init`: what is guessed of a source, from what, and the folder that it becomes."""

import re
import runpy
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
import typer
import yaml
from feast.repo_operations import is_valid_name
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from pipelines.cli import init as cli
from pipelines.datasets.movietweetings import import_movietweetings
from pipelines.init import command, look, write
from pipelines.init.actions import guess_actions
from pipelines.init.choose import time_unit
from pipelines.init.command import Asked, make_guess, run_init
from pipelines.init.events import guess_events
from pipelines.init.guess import Guess, step, window
from pipelines.init.items import guess_items
from pipelines.init.known import sign_of
from pipelines.init.look import NEEDED, WINDOWS, Column, Reach, Source
from pipelines.init.settings import activity_yaml, scalar
from tests.worlds.real_data import (
    IFDB,
    MOVIETWEETINGS,
    XWINES,
    needs_ifdb,
    needs_movietweetings,
    needs_xwines,
)
from transformations.config import ROOT, Config, Items
from transformations.errors import InputError, RunFailedError

DAY = timedelta(days=1)
START = datetime(2025, 1, 1, tzinfo=UTC)
N = 12


def events_table(**columns) -> pa.Table:
    """Twelve events of three members on four items; a column given replaces one of them."""
    plain = {
        "member_id": [1 + n % 3 for n in range(N)],
        "item_id": [10 + n % 4 for n in range(N)],
        "action": ["APPLY", "SAVE", "DISMISS"] * 4,
        "event_timestamp": [START + n * DAY for n in range(N)],
    }
    return pa.table({**plain, **columns})


def renamed(**names: str) -> pa.Table:
    table = events_table()
    return table.rename_columns([names.get(name, name) for name in table.column_names])


def items_table(**columns) -> pa.Table:
    plain = {
        "item_id": [10, 11, 12, 13],
        "title": ["data engineer", "ward nurse", "truck driver", "head chef"],
    }
    return pa.table({**plain, **columns})


def write_table(table: pa.Table, path: Path) -> str:
    if path.suffix == ".csv":
        table.to_pandas().to_csv(path, index=False)
    else:
        pq.write_table(table, path)
    return str(path)


def quiet() -> Console:
    return Console(file=StringIO(), width=80)


@pytest.fixture
def guessed(tmp_path):
    """Return what is guessed of tables written as files."""

    def guess(events=None, items=None, suffix="parquet", **asked) -> Guess:
        sources = {"events": events, "items": items}
        files = {
            key: write_table(table, tmp_path / f"{key}.{suffix}")
            for key, table in sources.items()
            if table is not None
        }
        return make_guess(quiet(), Asked(**files, **asked))

    return guess


# Columns


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("member_id", "MEMBER_ID"),
        ("member_id", "userId"),
        ("member_id", "Customer"),
        ("member_id", "account_id"),
        ("member_id", "uid"),
        ("item_id", "productID"),
        ("item_id", "Job"),
        ("item_id", "wine_id"),
        ("item_id", "asin"),
        ("action", "Event Type"),
        ("action", "event"),
        ("action", "verb"),
        ("event_timestamp", "TS"),
        ("event_timestamp", "eventTime"),
        ("event_timestamp", "occurred_at"),
        ("event_timestamp", "created_at"),
    ],
)
def test_a_column_is_known_by_its_name_in_any_case(guessed, role, name):
    found = guessed(renamed(**{role: name})).events.columns[role]
    assert (found.value, found.why) == (name, "its name")


def test_the_surest_name_wins(guessed):
    table = events_table(created_at=[START] * N, type=["x", "y"] * 6, user=["a", "b", "c"] * 4)
    assert guessed(table).events.names == {
        role: role for role in ("member_id", "item_id", "action", "event_timestamp")
    }


@pytest.mark.parametrize("role", ["member_id", "item_id", "action", "event_timestamp"])
def test_the_users_word_wins(guessed, role):
    table = events_table()
    table = table.append_column("odd", table[role])
    found = guessed(table, columns={role: "odd"}).events.columns[role]
    assert found.value == "odd"
    assert found.why.endswith("names it")


@pytest.mark.parametrize(
    ("role", "why"),
    [
        ("member_id", "the only column of repeated ids"),
        ("action", "the only column of text with few values"),
        ("event_timestamp", "the only column of times"),
    ],
)
def test_a_column_of_an_odd_name_is_known_by_what_it_holds(guessed, role, why):
    found = guessed(renamed(**{role: "odd"})).events.columns[role]
    assert (found.value, found.why) == ("odd", why)


def test_the_events_item_column_is_the_one_whose_values_are_ids_of_the_items(guessed):
    table = renamed(member_id="left", item_id="right").append_column("row", [list(range(N))])
    guess = guessed(table, items_table())
    assert guess.events.names["item_id"] == "right"
    assert guess.events.columns["item_id"].why == "100% of its values are ids in the items"
    assert guess.events.names["member_id"] == "left"


def test_ingested_at_is_known_by_its_name_where_its_unit_is_the_events(guessed):
    late = [START + n * DAY for n in range(N)]
    assert guessed(events_table(received_at=late)).events.names["ingested_at"] == "received_at"
    whole = [1_700_000_000 + n for n in range(N)]
    assert "ingested_at" not in guessed(events_table(received_at=whole)).events.names


@pytest.mark.parametrize(
    ("table", "option", "says"),
    [
        (renamed(member_id="user_id", item_id="client_id"), "--member", "user_id, client_id"),
        (renamed(member_id="left", item_id="right"), "--item", "2 of ids: left, right"),
        (
            events_table(created_at=[START] * N)
            .drop_columns("event_timestamp")
            .append_column("date", [[START] * N]),
            "--timestamp",
            "2 by their names: created_at, date",
        ),
        (events_table().drop_columns("event_timestamp"), "--timestamp", "got none"),
        (events_table().drop_columns("member_id"), "--member", "got none"),
        (
            events_table(a=["x", "y"] * 6, b=["z", "w"] * 6).drop_columns("action"),
            "--action",
            "2 of text with few values: a, b",
        ),
        (events_table().drop_columns("action"), "--action", "all events are one action"),
        (
            events_table(rating=["3.5", "4.0"] * 6).drop_columns("action"),
            "--action",
            "where a number rates the item",
        ),
    ],
)
def test_what_cannot_be_told_lists_the_columns_and_the_option(guessed, table, option, says):
    with pytest.raises(InputError) as error:
        guessed(table)
    message = str(error.value)
    assert message.startswith(f"{option}: expected ")
    assert says in message
    assert f"{option} COLUMN" in message
    assert message.endswith(f"The columns are: {', '.join(table.column_names)}")


def test_an_option_that_names_no_column_lists_them(guessed):
    with pytest.raises(InputError, match=r"--item: .* got 'job'; its columns are: member_id, item"):
        guessed(events_table(), columns={"item_id": "job"})


# Types and times


@pytest.mark.parametrize(
    ("ids", "id_type"),
    [
        ([1, 2, 3], "int64"),
        (["1", "2", "-3"], "int64"),
        ([1.0, 2.0, None], "int64"),
        ([str(2**63 - 1), "0", "1"], "int64"),
        ([str(2**63), "0", "1"], "string"),
        (["007", "8", "9"], "string"),
        (["+7", "8", "9"], "string"),
        (["a1", "2", "3"], "string"),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_ids_are_int64_if_all_are_whole_numbers(guessed, ids, id_type, suffix):
    guess = guessed(events_table(member_id=ids * 4), suffix=suffix)
    assert (guess.member_id_type.value, guess.item_id_type.value) == (id_type, "int64")


def test_item_ids_are_int64_only_if_they_are_in_both_sources(guessed):
    events = events_table(item_id=[str(10 + n % 4) for n in range(N)])
    guess = guessed(events, items_table(item_id=["10", "11", "12", "x13"]))
    assert guess.item_id_type.value == "string"
    assert guess.member_id_type.value == "int64"


@pytest.mark.parametrize(
    ("times", "unit", "why"),
    [
        ([START], "timestamp", "timestamps, with a time zone"),
        ([START.replace(tzinfo=None)], "timestamp", "no time zone: taken as UTC"),
        (["2025-01-01T06:00:00Z"], "timestamp", "with a time zone"),
        (["2025-01-01 06:00:00.5+02:00"], "timestamp", "with a time zone"),
        (["2025-01-01 06:00:00"], "timestamp", "no time zone: taken as UTC"),
        (["2025-01-31"], "timestamp", "no time zone: taken as UTC"),
        ([1_735_689_600], "s", "in the middle 2025-01-01; UTC"),
        (["1735689600"], "s", "in the middle 2025-01-01; UTC"),
        ([1_735_689_600_000], "ms", "in the middle 2025-01-01; UTC"),
        ([1_735_689_600_000_000], "us", "in the middle 2025-01-01; UTC"),
        ([1_735_689_600_000_000_000], "ns", "in the middle 2025-01-01; UTC"),
    ],
)
def test_the_unit_of_times(guessed, times, unit, why):
    found = guessed(events_table(event_timestamp=times * N)).events.time_unit
    assert found.value == unit
    assert why in found.why


@pytest.mark.parametrize("times", [["31/12/2025"], [20_250_131], [0.5], ["soon"]])
def test_times_that_no_run_could_read_are_shown(guessed, times):
    table = events_table(event_timestamp=times * N)
    with pytest.raises(InputError, match=rf"--timestamp: expected timestamps.*{times[0]}"):
        guessed(table, columns={"event_timestamp": "event_timestamp"})


def test_a_year_after_next_is_no_time():
    def column(year):
        return Column("t", "BIGINT", 1, 1, 1, int(datetime(year, 6, 1, tzinfo=UTC).timestamp()))

    now = datetime(2026, 5, 1, tzinfo=UTC)
    assert time_unit(column(2027), now).value == "s"
    assert time_unit(column(2028), now) is None
    assert time_unit(column(1989), now) is None


# Actions


POSITIVE = (
    "APPLY SAVE like Loved buy PURCHASED order enrolled play clicks page_view rate watched "
    "wishlist follow addToCart job-application thumbs_up bought"
)
NEGATIVE = (
    "DISMISS skipped dislike HIDE reported unsave removeFromCart rejected thumbs_down "
    "thumbsDown bad not_interested NotInterested unfollow unwatch"
)
NEITHER = "impression shown email_sent session_end hover x"


@pytest.mark.parametrize(
    ("names", "sign"), [(POSITIVE, "positive"), (NEGATIVE, "negative"), (NEITHER, None)]
)
def test_well_known_actions(names, sign):
    assert {name: sign_of(name) for name in names.split()} == dict.fromkeys(names.split(), sign)


def test_positive_actions_come_first_each_the_most_frequent_first():
    guess = guess_actions({"SKIP": 9, "VIEW": 7, "HIDE": 5, "APPLY": 3}, {})
    assert list(guess.signs) == ["VIEW", "APPLY", "SKIP", "HIDE"]
    assert (guess.left_out, guess.max_refused_share) == ({}, None)


def test_an_unknown_action_is_left_out_and_its_rows_are_allowed_for():
    guess = guess_actions({"impression": 60, "view": 40}, {})
    assert list(guess.signs) == ["view"]
    assert "add it to `actions`" in guess.left_out["impression"]
    assert guess.max_refused_share.value == pytest.approx(0.65)
    few = guess_actions({"view": 96, "impression": 4}, {})
    assert few.max_refused_share is None


def test_an_unknown_action_is_asked_for():
    asked = []

    def ask(name, rows):
        asked.append((name, rows))
        return {"up": "positive", "down": "negative"}.get(name)

    guess = guess_actions({"up": 5, "down": 4, "view": 3, "odd": 1}, {}, ask)
    assert asked == [("up", 5), ("down", 4), ("odd", 1)]
    assert {name: choice.value for name, choice in guess.signs.items()} == {
        "up": "positive",
        "view": "positive",
        "down": "negative",
    }
    assert list(guess.left_out) == ["odd"]


def test_in_a_terminal_the_user_is_asked_until_the_answer_is_one(tmp_path, monkeypatch):
    table = events_table(action=["up", "view", "odd"] * 4)
    file = write_table(table, tmp_path / "events.parquet")
    answers = iter(["what?", "-", "P"])  # of odd, then of up: as frequent, by name
    monkeypatch.setattr(command.typer, "prompt", lambda *_, **__: next(answers))
    monkeypatch.setattr(command.sys.stdin, "isatty", lambda: True, raising=False)
    terminal = Console(file=StringIO(), width=80, force_terminal=True)
    made = make_guess(terminal, Asked(file))
    assert made.actions.of("positive") == ["up", "view"]
    assert list(made.actions.left_out) == ["odd"]


def test_the_users_sign_wins():
    guess = guess_actions(
        {"view": 5, "impression": 4}, {"view": "negative", "impression": "positive"}
    )
    assert guess.of("positive") == ["impression"]
    assert guess.of("negative") == ["view"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("add-to-cart", "letters, digits and _ only"),
        ("2nd_click", "letters, digits and _ only"),
        ("click_y", "may not end in _y"),
        ("actions", "nor be `actions`"),
        ("Apply", "differs from APPLY only in case"),
        ("", "have no action"),
    ],
)
def test_a_name_that_cannot_be_an_action_says_what_to_do(name, says):
    guess = guess_actions({"APPLY": 9, name: 1}, {})
    assert list(guess.signs) == ["APPLY"]
    assert says in guess.left_out[name]
    assert guess.max_refused_share.value == 0.15


def test_without_a_positive_action_it_says_how_to_name_one():
    with pytest.raises(InputError, match=r"--positive ACTION.*The events hold: up, down"):
        guess_actions({"up": 2, "down": 1}, {})
    with pytest.raises(InputError, match=r"--negative: .* got 'nothing'; they hold: view"):
        guess_actions({"view": 1}, {"nothing": "negative"})


# Window and step


ACTIONS = st.lists(
    st.tuples(
        st.integers(1, 2),
        st.integers(1, 3),
        st.sampled_from(["APPLY", "SAVE", "DISMISS", "other"]),
        st.sampled_from([0, 1, 27, 28, 29, 89, 90, 91, 364, 365, 366, 729, 730, 731, 800]),
        st.sampled_from([0, 1]),
    ),
    max_size=24,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_the_reach_of_the_windows_is_a_brute_force_count(drawn):
    log = [
        (member, item, action, START + days * DAY + us * timedelta(microseconds=1))
        for member, item, action, days, us in drawn
    ]
    now = START + 1000 * DAY
    with duckdb.connect() as con:
        con.execute("set TimeZone = 'UTC'")
        con.execute(
            "create table actions (member_id bigint, item_id bigint, action varchar, "
            "event_timestamp timestamptz)"
        )
        if log:
            con.executemany("insert into actions values (?, ?, ?, ?)", log)
        found = look.count_reach(con, ["APPLY", "SAVE"], ["DISMISS"], now)

    known = {row for row in log if row[2] != "other"}
    positive = [row for row in known if row[2] != "DISMISS"]

    def has_enough(row, length):
        earlier = [
            other for other in known if other[0] == row[0] and row[3] - length <= other[3] < row[3]
        ]
        return len(earlier) >= NEEDED

    within = tuple(sum(has_enough(row, length) for row in positive) for length in WINDOWS)
    times = [row[3] for row in known]
    assert found == Reach(
        len(known), min(times, default=None), max(times, default=None), len(positive), within
    )


def reach(within, days=3000, actions=1000) -> Reach:
    return Reach(actions, START, START + days * DAY, 100, within)


@pytest.mark.parametrize(
    ("within", "days", "expected"),
    [
        ((75, 80, 90, 95), 3000, 28),
        ((74, 75, 90, 95), 3000, 90),
        ((0, 0, 75, 95), 3000, 365),
        ((0, 0, 74, 75), 3000, 730),
        ((0, 0, 0, 0), 3000, 730),
        ((40, 60, 64, 64), 250, 365),  # a longer one adds nothing
        ((40, 60, 64, 64), 20, 28),
        ((40, 60, 64, 70), 365, 730),
    ],
)
def test_the_window(within, days, expected):
    assert window(reach(within, days)).value == timedelta(days=expected)


@pytest.mark.parametrize(("actions", "days"), [(4999, 7), (5000, 1)])
def test_the_step_is_a_week_under_fifty_actions_per_day(actions, days):
    assert step(reach((0,) * 4, days=100, actions=actions)).value == timedelta(days=days)


def test_without_an_action_that_can_be_read_there_is_a_window_and_a_step():
    nothing = Reach(0, None, None, 0, (0, 0, 0, 0))
    assert (window(nothing).value, step(nothing).value) == (28 * DAY, DAY)


# Items


def test_text_categories_and_times_of_items(guessed):
    rows = 60
    table = pa.table(
        {
            "id": list(range(10, 10 + rows)),
            "title": [f"title {n}" for n in range(rows)],
            "notes": [f"a few words {n}" for n in range(rows)],
            "city": ["Oslo", "Rome"] * (rows // 2),
            "tags": ["red|blue", "red"] * (rows // 2),
            "genres": [["a", "b"], ["c"]] * (rows // 2),
            "url": [f"https://example.org/{n}" for n in range(rows)],
            "year": [2000 + n for n in range(rows)],
            "posted_at": [START] * rows,
            "created_at": [START] * rows,
            "closed_at": [START] * rows,
            "empty": pa.nulls(rows, pa.string()),
        }
    )
    items = guessed(items=table).items
    assert items.item_id.value == "id"
    assert items.text.value == ["title", "notes"]
    assert items.categories.value == ["city", "tags", "genres"]
    assert (items.available_at.value, items.available_until.value) == ("posted_at", "closed_at")
    assert items.unread == ("url", "year", "created_at", "empty")
    assert items.embedding is None


@pytest.mark.parametrize(
    "vectors",
    [
        pa.array([[0.5, 1.0, 0.0]] * 4, pa.list_(pa.float32())),
        pa.array([[0.5, 1.0, 0.0]] * 4, pa.list_(pa.float32(), 3)),
        pa.array(["[0.5, 1.0, 0]"] * 4),
    ],
)
def test_vectors_of_items(guessed, vectors):
    items = guessed(items=items_table(v=vectors)).items
    assert (items.embedding.value, items.dim.value, items.encoder.value) == ("v", 3, "items")
    assert (items.text.value, items.categories.value) == ([], [])
    assert guessed(items=items_table(v=vectors), encoder="e5").items.encoder.value == "e5"
    for wrong in ("E5", "tfidf_svd"):
        with pytest.raises(InputError, match=r"--encoder: expected lower-case"):
            guessed(items=items_table(v=vectors), encoder=wrong)


def test_lists_of_unequal_length_are_no_vectors(guessed):
    assert guessed(items=items_table(v=[[0.5], [1.0, 2.0], [0.0], [1.0]])).items.embedding is None


def test_the_items_id_is_the_column_that_holds_the_events_items(guessed):
    table = items_table(key=[10, 11, 12, 13], item_id=[1, 2, 3, 10])
    items = guessed(events_table(), table).items
    assert (items.item_id.value, items.item_id.why) == ("key", "it holds 100% of the events' items")


def test_items_of_other_events_are_refused(guessed):
    with pytest.raises(InputError, match=r"--items-id: .*'item_id', got none that shares a value"):
        guessed(events_table(), items_table(item_id=[90, 91, 92, 93]))
    other = items_table(item_id=[90, 91, 92, 93])
    assert guessed(events_table(), other, items_id="item_id").items.item_id.value == "item_id"


def test_items_without_words_or_vectors_are_refused(guessed):
    with pytest.raises(InputError, match=r"--items: expected a column of text.*item_id, price"):
        guessed(items=pa.table({"item_id": [1, 2], "price": [1.5, 2.5]}))


def test_pure_guesses_need_no_file():
    """The guesses are functions of what was seen."""
    columns = (
        Column("user", "BIGINT", 9, 3, 9, 2),
        Column("job", "BIGINT", 9, 4, 9, 2),
        Column("what", "VARCHAR", 9, 2, 0, words=1.0),
        Column("t", "TIMESTAMP", 9, 9, times=9),
    )
    source = Source("/data/e.parquet", "e.parquet", None, "events_source", 9, 9, columns)
    assert guess_events(source, {}).names == {
        "member_id": "user",
        "item_id": "job",
        "action": "what",
        "event_timestamp": "t",
    }
    items = Source("/data/i.csv", "i.csv", None, "items_source", 9, 9, (
        columns[1], Column("name", "VARCHAR", 9, 9, characters=9.0, words=1.0),
    ))  # fmt: skip
    assert guess_items(items).text.value == ["name"]


# The folder


def accepted(folder: Path) -> Config:
    """Return the configuration of the keys that it has by now."""
    raw = yaml.safe_load((folder / "activity.yaml").read_text())
    raw["items"] = {key: raw["items"][key] for key in raw["items"] if key in Items.model_fields}
    return Config.model_validate({key: raw[key] for key in raw if key in Config.model_fields})


def test_the_folder_holds_a_workspace(tmp_path):
    events = write_table(events_table(), tmp_path / "events.parquet")
    items = write_table(items_table(), tmp_path / "items.csv")
    out = Console(file=StringIO(), width=80)
    folder = run_init(out, str(tmp_path / "My Työ"), Asked(events, items))
    assert sorted(path.name for path in folder.iterdir()) == [
        ".feastignore",
        ".gitignore",
        "activity.yaml",
        "catalog.py",
        "definitions.py",
        "feature_store.yaml",
    ]
    assert (folder / "definitions.py").read_text() == (
        '"""What `feast apply` registers for this workspace."""\n\n'
        "from feature_repo.workspace import declared\n\n"
        "globals().update(declared(__file__))\n"
    )
    assert (folder / ".feastignore").read_text() == "catalog.py\ndata\n"
    assert (folder / ".gitignore").read_text() == "data/\n"
    assert (folder / "catalog.py").read_text() == (ROOT / "models" / "catalog.py").read_text()
    assert runpy.run_path(str(folder / "catalog.py"))["AGGREGATORS"]

    store = yaml.safe_load((folder / "feature_store.yaml").read_text())
    shipped = yaml.safe_load((ROOT / "feature_store.yaml").read_text())
    assert re.fullmatch(r"my_tyo_[0-9a-f]{6}", store.pop("project"))
    assert store == {key: value for key, value in shipped.items() if key != "project"}

    assert yaml.safe_load((folder / "activity.yaml").read_text()) == {
        "events": {
            "source": events,
            "columns": {name: name for name in events_table().column_names},
            "time_unit": "timestamp",
        },
        "member_id_type": "int64",
        "item_id_type": "int64",
        "actions": {"APPLY": "positive", "SAVE": "positive", "DISMISS": "negative"},
        "window": "28d",
        "rhythm": {"snapshot": "7d"},
        "items": {"source": items, "item_id": "item_id", "text": ["title"], "categories": []},
    }
    accepted(folder)
    said = out.file.getvalue()
    assert max(map(len, said.splitlines()[3:-3])) <= 80
    command, last = said.rstrip().splitlines()[-2:]
    assert command.startswith("  activity check --config ")
    assert last.startswith("  activity run --config ")


def test_the_file_says_what_is_left_out_and_what_vectors_need(tmp_path):
    events = events_table(action=["view", "impression", "add-to-cart"] * 4)
    items = items_table(v=pa.array([[0.5, 1.0]] * 4))
    guess = make_guess(
        quiet(),
        Asked(
            write_table(events, tmp_path / "events.parquet"),
            write_table(items, tmp_path / "items.parquet"),
        ),
    )
    text = activity_yaml(guess)
    raw = yaml.safe_load(text)
    assert raw["events"]["max_refused_share"] == 0.72
    assert raw["actions"] == {"view": "positive"}
    assert (raw["items"]["embedding"], raw["dim"]) == ("v", 2)
    assert "encoder" not in raw["items"]
    assert "text" not in raw["items"]
    flat = " ".join(text.replace("\n  #", "").split())
    assert "impression: left out, 4 rows, refused as unknown by a run: its name says" in flat
    assert "rename it in the source" in flat
    assert max(map(len, text.splitlines()[5:])) <= 100


def test_without_sources_the_file_is_a_template(tmp_path):
    out = Console(file=StringIO(), width=80)
    folder = run_init(out, str(tmp_path / "empty"), Asked())
    raw = yaml.safe_load((folder / "activity.yaml").read_text())
    assert raw["events"]["source"] == "source/events.parquet"
    assert raw["items"]["source"] == "source/items.parquet"
    assert set(raw) == {
        "events", "items", "member_id_type", "item_id_type", "actions", "window", "rhythm"
    }  # fmt: skip
    accepted(folder)
    assert "fill in events.source and items.source" in " ".join(out.file.getvalue().split())


@pytest.mark.parametrize("key", ["events", "items"])
def test_of_one_source_the_other_half_is_a_template(tmp_path, key):
    table = {"events": events_table, "items": items_table}[key]()
    file = write_table(table, tmp_path / f"{key}.parquet")
    folder = run_init(quiet(), str(tmp_path / "half"), Asked(**{key: file}))
    raw = yaml.safe_load((folder / "activity.yaml").read_text())
    assert raw[key]["source"] == file
    other = {"events": "items", "items": "events"}[key]
    assert raw[other]["source"] == f"source/{other}.parquet"


def test_a_value_of_the_data_stays_one_value_of_the_file(tmp_path):
    """Whatever an action or a column is called: YAML reads back what was written."""
    names = ["no", "yes", "null", "a: b", "# c", "1", "line\nbreak", "'", "é"]
    for name in names:
        assert yaml.safe_load(f"{scalar(name)}: {scalar([name])}") == {name: [name]}
    table = events_table(action=["view", "a\nactions: {x: positive}", "null"] * 4)
    file = write_table(table, tmp_path / "events.parquet")
    raw = yaml.safe_load(activity_yaml(make_guess(quiet(), Asked(file))))
    assert raw["actions"] == {"view": "positive"}


def test_each_workspace_has_a_project_of_its_own_that_feast_takes():
    names = ["ifdb", "2024 wines", "_x", "日本", "A" * 90, "é.è"]
    projects = [write.project(Path("/somewhere") / name) for name in names for _ in range(2)]
    assert len(set(projects)) == len(projects)
    for project in projects:
        assert is_valid_name(project)
        assert re.fullmatch(r"[a-z][a-z0-9_]*_[0-9a-f]{6}", project)
        assert len(project) < 60


def test_a_bare_name_lies_in_the_clones_workspaces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert write.place("ifdb") == ROOT / "workspaces" / "ifdb"
    assert write.place("./ifdb") == tmp_path / "ifdb"
    assert write.place("deep/ifdb") == tmp_path / "deep" / "ifdb"
    assert write.place(".") == tmp_path


def make_workspace(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for mark in write.MARKS:
        (folder / mark).touch()
    return folder


def test_where_no_workspace_may_be_made(tmp_path, monkeypatch):
    clone = make_workspace(tmp_path / "clone")
    other = make_workspace(clone / "workspaces" / "other")
    inside = r"expected a folder outside any workspace, got .* inside the workspace"
    for folder in (clone / "new", clone / "data" / "new", other / "new", other / "a" / "b"):
        with pytest.raises(InputError, match=inside):
            write.refuse(folder, clone)
    write.refuse(clone / "workspaces" / "new", clone)
    write.refuse(tmp_path / "beside", clone)
    (tmp_path / "empty").mkdir()
    write.refuse(tmp_path / "empty", clone)

    with pytest.raises(InputError, match="which holds files; choose another"):
        write.refuse(other, clone)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="which is a file; choose another"):
        write.refuse(tmp_path / "file", clone)
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InputError, match="the one you stand in"):
        write.refuse(tmp_path / "empty", clone)


def test_what_fails_leaves_no_folder(tmp_path):
    file = write_table(events_table().drop_columns("action"), tmp_path / "events.parquet")
    with pytest.raises(InputError):
        run_init(quiet(), str(tmp_path / "new"), Asked(file))
    with pytest.raises(TypeError):
        write.write(tmp_path / "new", {"a": "b", "c": None})
    assert [path.name for path in tmp_path.iterdir()] == ["events.parquet"]


# Sources


def test_a_folder_of_files_is_one_source(tmp_path):
    folder = tmp_path / "events"
    folder.mkdir()
    write_table(events_table(), folder / "one.parquet")
    write_table(events_table(), folder / "two.csv")
    guess = make_guess(quiet(), Asked(str(folder)))
    assert guess.events.source.rows == 2 * N
    assert guess.actions.rows["APPLY"] == 8
    assert guess.events.source.written == str(folder)


def test_a_csv_with_a_broken_line_can_be_looked_at(tmp_path):
    file = tmp_path / "events.csv"
    lines = "".join(f"u{n % 3};j{n % 2};click;2025-01-{n + 1:02}\n" for n in range(9))
    file.write_text(f"user;product;event;ts\n{lines}u1;j1;click;2025-01-01;too;many\n")
    guess = make_guess(quiet(), Asked(str(file)))
    assert guess.events.names == {
        "member_id": "user",
        "item_id": "product",
        "action": "event",
        "event_timestamp": "ts",
    }
    assert (guess.member_id_type.value, guess.events.source.rows) == ("string", 9)


def test_a_source_without_rows_is_refused(tmp_path):
    (tmp_path / "events.csv").write_text("user,product,event,ts\n")
    with pytest.raises(InputError, match=r"--events: expected rows to look at"):
        make_guess(quiet(), Asked(str(tmp_path / "events.csv")))
    with pytest.raises(InputError, match=r"--items: expected a file or a folder, found nothing"):
        make_guess(quiet(), Asked(items=str(tmp_path / "nothing.csv")))


@pytest.fixture
def database(tmp_path, monkeypatch):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    with engine.begin() as connection:
        events_table().to_pandas().to_sql("clicks", connection, index=False)
        items_table().to_pandas().to_sql("jobs", connection, index=False)
    engine.dispose()
    monkeypatch.chdir(tmp_path)
    return "sqlite:///shop.db"


def test_tables_of_a_database(database, tmp_path):
    asked = Asked(database, database, "clicks", "jobs")
    folder = run_init(quiet(), str(tmp_path / "new"), asked)
    raw = yaml.safe_load((folder / "activity.yaml").read_text())
    url = f"sqlite:///{tmp_path}/shop.db"
    assert (raw["events"]["source"], raw["events"]["table"]) == (url, "clicks")
    assert (raw["items"]["source"], raw["items"]["table"]) == (url, "jobs")
    assert raw["items"]["text"] == ["title"]
    assert raw["actions"] == {"APPLY": "positive", "SAVE": "positive", "DISMISS": "negative"}
    assert (raw["member_id_type"], raw["events"]["time_unit"]) == ("int64", "timestamp")


def test_of_a_large_table_the_first_rows_are_looked_at(database, monkeypatch):
    monkeypatch.setattr(command.database, "ROWS_LOOKED_AT", 6)
    out = quiet()
    guess = make_guess(out, Asked(database, events_table="clicks"))
    assert (guess.events.source.rows, guess.events.source.rows_there) == (6, N)
    command._say_source(out, guess.events.source)
    assert "looked at the first 6 of 12 rows of the table clicks" in out.file.getvalue()


@pytest.mark.parametrize(
    ("url", "table", "says"),
    [
        ("sqlite:///shop.db", None, "a database needs --events-table.*are: clicks, jobs"),
        ("sqlite:///shop.db", "cliks", "got 'cliks'; the tables there are: clicks, jobs"),
        ("sqlite:///nothing.db", "clicks", "expected a SQLite file, found none"),
        ("nosql://host/db", "clicks", "expected a SQLAlchemy URL.*begins with 'nosql'"),
        ("postgresql+psycopg://me:secret@host/db", "clicks", r"as \$\{NAME\}"),
        ("postgresql+psycopg://me:${NOT_SET}@host/db", "clicks", "variable NOT_SET, it is not set"),
    ],
)
def test_a_database_that_cannot_be_looked_at(database, url, table, says):
    with pytest.raises(InputError, match=says) as error:
        make_guess(quiet(), Asked(url, events_table=table))
    assert "secret" not in str(error.value)


def test_a_database_that_is_away_hides_the_password(monkeypatch):
    monkeypatch.setenv("SHOP_PASSWORD", "hush")
    url = "postgresql+psycopg://me:${SHOP_PASSWORD}@127.0.0.1:1/db"
    with pytest.raises(RunFailedError, match="reading clicks in postgresql") as error:
        make_guess(quiet(), Asked(url, events_table="clicks"))
    assert "hush" not in str(error.value)


def test_a_table_of_a_path_and_options_of_no_source_are_refused(tmp_path):
    file = write_table(events_table(), tmp_path / "events.parquet")
    with pytest.raises(InputError, match="--events-table belongs to a database"):
        run_init(quiet(), str(tmp_path / "new"), Asked(file, events_table="clicks"))
    with pytest.raises(InputError, match="expected --items SOURCE"):
        run_init(quiet(), str(tmp_path / "new"), Asked(file, encoder="e5"))
    with pytest.raises(InputError, match="expected --events SOURCE"):
        run_init(quiet(), str(tmp_path / "new"), Asked(columns={"member_id": "user"}))


def test_the_command_hands_its_options_over(tmp_path, monkeypatch):
    handed = []
    monkeypatch.setattr(command, "run_init", lambda _, *given: handed.append(given))
    arguments = (
        "new --events e.csv --items i.csv --member u --timestamp t "
        "--positive up --positive on --negative down"
    )
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    assert handed == [
        (
            "new",
            Asked(
                events="e.csv",
                items="i.csv",
                columns={"member_id": "u", "event_timestamp": "t"},
                signs={"up": "positive", "on": "positive", "down": "negative"},
            ),
        )
    ]


def test_the_command_has_help_and_an_example():
    found = typer.main.get_command(cli.app)
    assert (found.epilog or "").startswith("Example: activity init ")
    assert all(getattr(option, "help", None) for option in found.params if option.name != "help")


# Real data


@pytest.mark.parametrize(
    ("folder", "window", "step", "item_id_type"),
    [
        pytest.param(IFDB, "28d", "7d", "string", marks=needs_ifdb),
        pytest.param(XWINES, "730d", "7d", "int64", marks=needs_xwines),
        pytest.param(MOVIETWEETINGS, "365d", "1d", "int64", marks=needs_movietweetings),
    ],
    ids=["ifdb", "xwines", "movietweetings"],
)
def test_what_is_guessed_of_real_data(tmp_path, folder, window, step, item_id_type):
    if folder == MOVIETWEETINGS:
        import_movietweetings(folder, tmp_path / "read")
        folder = tmp_path / "read"
    asked = Asked(str(folder / "events.parquet"), str(folder / "items.parquet"))
    made = run_init(quiet(), str(tmp_path / "made"), asked)
    raw = yaml.safe_load((made / "activity.yaml").read_text())
    assert (raw["window"], raw["rhythm"]) == (window, {"snapshot": step})
    assert (raw["member_id_type"], raw["item_id_type"]) == ("int64", item_id_type)
    assert raw["actions"] == {"APPLY": "positive", "SAVE": "positive", "DISMISS": "negative"}
    assert raw["items"]["text"][0] == "title"
    assert raw["items"]["available_at"] == "available_at"
    accepted(made)
