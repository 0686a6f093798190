"""A replay of the archive: the tables that the source made, value by value."""

import json
import os
import signal
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from shutil import rmtree
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipelines import archive as replaying
from pipelines.archive import replay
from pipelines.cli import app as cli
from pipelines.cli import archive as archive_cli
from pipelines.cli import reset
from serving.stream import kept
from serving.stream.bus.messages import encode
from serving.stream.bus.protocol import Message
from tests.worlds.archive import Row, Table, stage, tables
from tests.worlds.events import AS_OF, DAY, Event, configure, event_logs, write_source
from transformations import archive
from transformations.config import CONFIG_VARIABLE, Config
from transformations.errors import InputError, RunFailedError
from transformations.read_so_far import ReadSoFar, load
from transformations.tombstones import Tombstones

GOOD = (1, 42, 10, "SAVE", "2026-03-01 10:00:00", "2026-03-01 11:00:00")
OTHER = (6, 7, 20, "APPLY", "2026-03-02 10:00:00", None)
BAD = (3, 42, "x", "SAVE", "2026-03-02", None)
AHEAD = (4, 8, 20, "SAVE", "2026-03-12 00:00:00+00:00", None)  # refused; a later run takes it up


def on_days(config: Config, *days: int) -> None:
    """Let the reads of a workspace be of these days before AS_OF, in the order that they have."""
    found = archive.reads(config)
    rmtree(config.layout.archive_index)
    for read, day in zip(found, days, strict=True):
        archive.note(config, Read(**vars(read) | {"read_at": AS_OF - day * DAY}))


Read = archive.Read


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Three reads, each from the last value of the one before on; some rows are refused."""
    table = Table(tmp_path)
    table.insert(GOOD, BAD, AHEAD)
    stage(table.config, AS_OF)
    table.insert(OTHER, (5, 42, 10, "SAVE", "2026-03-01 10:00:00", "2026-03-01 10:30:00"))
    stage(table.config, AS_OF + DAY)
    stage(table.config, AS_OF + 2 * DAY)
    return table


def test_it_makes_the_same_tables_in_an_empty_folder(table: Table) -> None:
    other = table.elsewhere("other")
    table.file.unlink()  # the source is not asked
    done = replay(other)
    assert tables(other) == tables(table.config)
    assert [row["item_id"] for row in rows_of(other)] == [10, 20, 20]
    assert (done.reads, done.gained) == (3, 3)
    assert done.refused == {
        "item_id is not of the id type": 1,
        "event_timestamp is in the future": 1,
    }
    again = replay(other)
    assert (again.gained, again.periods) == (0, set())
    assert tables(other) == tables(table.config)


def test_the_periods_are_those_of_the_first_read(tmp_path: Path) -> None:
    table = Table(tmp_path)
    rmtree(table.config.layout.activity)
    rmtree(table.config.layout.quarantine)
    table.insert(GOOD, OTHER, BAD)
    stage(table.config, AS_OF)
    other = table.elsewhere("other")
    rmtree(other.layout.activity)
    rmtree(other.layout.quarantine)
    replay(other)
    assert tables(other) == tables(table.config)
    assert tables(other)["activity/_layout.json"] == {"period": "month"}


ODD = [42.0, 1e15, 2**62, b"42", b"\xff", "a\0b", "\x1b[31m", "x" * 300, float("inf"), ""]
ROWS = st.lists(
    st.tuples(
        st.sampled_from([1, 42, "42", " 42", "x", None, 42.5, *ODD]),
        st.sampled_from([1, "2", "y", None]),
        st.sampled_from(["SAVE", "APPLY", "SWIM", None]),
        st.sampled_from(["2026-03-01", "2026-03-09 23:59:59.999999", "soon", None])
        | st.integers(-3, 4).map(lambda days: str(AS_OF + days * DAY)),
        st.sampled_from(["2026-03-01", None]),
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=10)
@given(st.lists(ROWS, min_size=1, max_size=4), st.sampled_from(["int64", "string"]))
def test_any_log_in_any_reads_is_staged_as_the_source_was(
    tmp_path_factory: pytest.TempPathFactory, runs: list[list[Row]], id_type: str
) -> None:
    table = Table(tmp_path_factory.mktemp("replay"), id_type=id_type)
    seq = 0
    for day, rows in enumerate(runs):
        table.insert(*((seq := seq + 1, *row) for row in rows))
        stage(table.config, AS_OF + day * DAY)
    other = table.elsewhere("other")
    replay(other)
    assert tables(other) == tables(table.config)


def test_days_are_those_of_reading(table: Table) -> None:
    on_days(table.config, 3, 2, 1)
    other = table.elsewhere("other")
    first, second, last = (date(2026, 3, 10) - timedelta(days=days) for days in (3, 2, 1))
    assert replay(other, second, second).reads == 1
    assert sorted(tables(other)) == [
        "activity/_layout.json",
        "activity/period=2026-03-01/part-0.parquet",  # an action of before, read that day
        "activity/period=2026-03-02/part-0.parquet",
        "activity/period=2026-03-12/part-0.parquet",  # AHEAD, from the mark on
        "quarantine/_layout.json",
    ]
    assert replay(other, end=first).reads == 1
    assert replay(other, last).reads == 1
    assert replay(other, first).reads == 3
    with pytest.raises(InputError, match=r"from 2026-03-10 to its end .* reads of: nothing"):
        replay(other, last + timedelta(days=1))


def test_what_was_refused_as_a_whole_is_so_again(tmp_path: Path) -> None:
    table = Table(tmp_path)
    strict = configure(
        tmp_path / "strict",
        **table.settings | {"events": table.settings["events"] | {"max_refused_share": 0.2}},
    )
    table.insert(GOOD, BAD)
    with pytest.raises(RunFailedError, match="max_refused_share"):
        stage(strict, AS_OF)
    table.execute("delete from events where seq = 3")
    table.insert(OTHER)
    stage(strict, AS_OF + DAY)
    before = tables(strict)
    for folder in (strict.layout.activity, strict.layout.quarantine):
        for file in folder.rglob("*.parquet"):
            file.unlink()
    done = replay(strict)
    assert tables(strict) == before
    (said,) = done.not_staged
    assert "1 of the 2 rows read are refused" in said


@pytest.mark.parametrize("after", [1, 2])
def test_killed_between_any_two_renames_it_can_be_run_again(table: Table, after: int) -> None:
    other = table.elsewhere("other")
    child = os.fork()
    if not child:
        left, replace = after, Path.replace

        def then_dies(self: Path, target: Any) -> Path:
            nonlocal left
            done = replace(self, target)
            left -= self.name.startswith("part-0.parquet.")
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        Path.replace = then_dies  # type: ignore[method-assign,assignment]
        replay(other)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert tables(other) != tables(table.config)
    replay(other)
    assert tables(other) == tables(table.config)


def flip(config: Config, read: int) -> Path:
    """Flip a bit in the object of a read."""
    file = config.layout.archived(archive.reads(config)[read].sha256 or "")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file


def test_a_damaged_object_is_named_with_its_days_before_anything_is_staged(table: Table) -> None:
    on_days(table.config, 3, 2, 1)
    other = table.elsewhere("other")
    second = flip(other, 1)
    with pytest.raises(RunFailedError, match=f"{second} is damaged.*read on 2026-03-08. Nothing"):
        replay(other)
    assert not list(other.layout.activity.rglob("*.parquet"))
    assert replay(other, end=date(2026, 3, 7)).reads == 1


def test_forgotten_members_do_not_come_back(table: Table) -> None:
    """Not even from an archive that knows nothing of it, as one that was copied before."""
    other = table.elsewhere("other")
    Tombstones(other).add([42])
    replay(other)
    assert "42" not in str(tables(other))
    assert {row["member_id"] for row in rows_of(other)} == {7, 8}
    archive.forget(other, Tombstones(other))
    for file in other.layout.activity.rglob("*.parquet"):
        file.unlink()
    replay(other)
    assert {row["member_id"] for row in rows_of(other)} == {7, 8}


def rows_of(config: Config) -> list[dict[str, Any]]:
    files = sorted(config.layout.activity.rglob("*.parquet"))
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def test_another_configuration_reads_the_same_rows_otherwise(table: Table) -> None:
    """An action that was unknown is there after a replay; an attribute of later is missing."""
    table.insert((9, 9, 9, "SWIM", "2026-03-03", None))
    stage(table.config, AS_OF + 2 * DAY)
    table.settings |= {"actions": {"SAVE": "positive", "APPLY": "positive", "SWIM": "neutral"}}
    table.settings["events"] |= {"attributes": {"dwell": {"type": "number"}}}
    other = table.elsewhere("other")
    replay(other)
    assert ("SWIM", None) in {(row["action"], row["dwell"]) for row in rows_of(other)}
    table.settings["events"] |= {"columns": {"member_id": "user"}}
    with pytest.raises(InputError, match=r"member_id: expected a column 'user'.*: who, job"):
        replay(table.elsewhere("another"))


def test_what_counts_as_read_outlives_no_lost_period(table: Table) -> None:
    on_days(table.config, 3, 2, 1)
    mark = load(table.config)
    replay(table.config)
    assert load(table.config) == mark != ReadSoFar()
    lost = table.config.layout.activity / "period=2026-03-01" / "part-0.parquet"
    lost.unlink()
    replay(table.config, date(2026, 3, 8), date(2026, 3, 8))  # brings it back, but not all of it
    assert lost.exists()
    assert load(table.config) == ReadSoFar()
    stage(table.config, AS_OF + 2 * DAY)
    assert {row["item_id"] for row in rows_of(table.config)} == {10, 20}


def messages_of(events: list[Event]) -> list[Message]:
    return [
        Message(encode(*event[:4]), int(AS_OF.timestamp() * 1e6), (0, at))
        for at, event in enumerate(events)
    ]


def keep(config: Config, messages: list[Message], folder: Path) -> None:
    """Keep messages as a worker does when its spool is full."""
    rows = kept.rows_of(messages, dict.fromkeys(range(len(messages))))
    with archive.writer(folder / "spool.part", kept.SCHEMA) as writer:
        writer.write_batch(rows)
    archive.keep(config, kept.read_now(), folder / "spool.part")


@settings(deadline=None, max_examples=10)
@given(event_logs("string", [AS_OF], 28 * DAY), st.integers(0, 40))
def test_messages_are_staged_as_a_source_of_the_same_events(
    tmp_path_factory: pytest.TempPathFactory, events: list[Event], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("bus")
    source = write_source(folder / "events.parquet", [Event(*e[:4]) for e in events], "string")
    direct = configure(folder / "direct", events={"source": str(source)}, id_type="string")
    stage(direct, AS_OF)
    bus = configure(folder / "bus", id_type="string")
    messages = messages_of(events)
    for some in (messages[:cut], messages[max(cut - 3, 0) :]):  # three are delivered twice
        keep(bus, some, folder)
    if events:
        done = replay(bus, source="bus")
        assert done.refused == {}
    assert tables(bus) == tables(direct)


def test_what_a_message_carries_and_what_is_none(tmp_path: Path) -> None:
    config = configure(
        tmp_path,
        events={
            "attributes": {"dwell": {"type": "number", "column": "seconds"}},
            "columns": {"member_id": "who", "ingested_at": "loaded_at"},
            "time_unit": "ms",
        },
        actions={"SAVE": "positive", "SEARCH": {"text": "query"}},
        items={"text": ["title"]},
    )
    when = AS_OF - DAY
    given = [
        encode(42, 10, "SAVE", when, {"dwell": 3}),
        encode(42, None, "SEARCH", when, texts={"query": " Night  Nurse"}),
        encode(42, 10, "SWIM", when),
        b"no JSON",
    ]
    sent = int(when.timestamp() * 1e6) + 5
    keep(config, [Message(value, sent, b"1-0") for value in given], tmp_path)
    done = replay(config, source="bus")
    assert done.refused == {"action is unknown": 1, "not JSON": 1}
    assert (done.rows, done.gained) == (4, 2)
    save, search = sorted(rows_of(config), key=lambda row: row["action"])
    assert (save["item_id"], save["dwell"]) == (10, 3.0)
    assert save["ingested_at"] == when + timedelta(microseconds=5)
    (text,) = tables(config)["searches/part-0.parquet"]
    assert (text["item_id"], text["text"]) == (search["item_id"], "night nurse")
    (file,) = (config.layout.archive / "objects").rglob("*.parquet")
    rows = pq.ParquetFile(file).read().to_pylist()
    assert [row["value"] for row in rows] == given
    assert {row["position"] for row in rows} == {"1-0"}


@pytest.fixture
def call(table: Table, monkeypatch: pytest.MonkeyPatch) -> Any:
    file = table.file.parent / "activity.yaml"
    given = table.settings | {"data_dir": str(table.config.data), "items": {"text": ["title"]}}
    file.write_text(json.dumps(given))
    monkeypatch.setenv(CONFIG_VARIABLE, str(file))
    for console in (
        cli.console,
        archive_cli.console,
        reset.console,
    ):  # made when first imported, at any width
        monkeypatch.setattr(console, "_width", 300)
        monkeypatch.setattr(console, "_height", 25)

    def run(*arguments: str) -> tuple[int, str]:
        ended = CliRunner().invoke(cli.app, arguments)
        return ended.exit_code, " ".join((ended.output + str(ended.exception or "")).split())

    return run


def test_the_commands_say_what_is_there_and_what_they_did(table: Table, call: Any) -> None:
    code, said = call("archive", "list")
    assert (code, f"{table.file} events 3 7" in said) == (0, True)
    before = tables(table.config)
    for file in table.config.layout.activity.rglob("*.parquet"):
        file.unlink()
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    code, said = call("archive", "replay", "--from", today, "--to", today)
    assert code == 0
    assert "1 refused: item_id is not of the id type" in said
    assert "staged 7 rows of 3 reads" in said
    assert "3 actions are new, 3 periods were written" in said
    assert tables(table.config) == before
    assert "expected reads of bus" in call("archive", "replay", "--source", "bus")[1]


def test_status_recomputes_the_sums_and_a_rebuild_gives_up_what_is_damaged(
    table: Table, call: Any
) -> None:
    code, said = call("status", "--files")
    assert (code, "3 objects of the archive" in said) == (0, True)
    file = flip(table.config, 0)
    code, said = call("status", "--files")
    assert (code, f"archive/objects/{file.parent.name}/" in said) == (1, True)
    assert "another SHA-256 than its name says" in said
    assert f"{file.name}: a replay lacks what it held" in call("rebuild", "--damaged")[1]
    assert call("status", "--files")[0] == 0


def test_what_is_shown_is_what_the_replay_takes(table: Table) -> None:
    name, reads = replaying.chosen(table.config, None, None, None)
    assert (name, len(reads)) == (f"sqlite:///{table.file} events", 3)
    with pytest.raises(InputError, match=r"expected reads of elsewhere .* sqlite:///"):
        replaying.chosen(table.config, None, None, "elsewhere")
