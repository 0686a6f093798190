"""Buckets: one hash everywhere, the same actions in other folders, snapshots that swap whole."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds.events import AS_OF, DAY, STRINGS, Event, configure, write_source
from transformations import files as files_module
from transformations.buckets import bucket_of
from transformations.config import Config
from transformations.duck import connect, parquet, sql
from transformations.errors import InputError, RunFailedError
from transformations.layout import partition, partition_files, partitions, snapshot_files
from transformations.rebuild import rebuild
from transformations.snapshots import attempts, finished, replacing_snapshot
from transformations.sources import stage_activity
from transformations.tables import build_sequences

EVENTS = [Event(n % 7, n, "APPLY", AS_OF - n * DAY / 2) for n in range(1, 40)]
BUCKETS = 4


def of_duckdb(ids: list, kind: pa.DataType, buckets: int) -> list[int]:
    with duckdb.connect() as con:
        con.execute(sql("macros"))
        con.register("ids", pa.table({"id": pa.array(ids, kind)}))
        rows = con.execute("select bucket_of(id, $buckets) from ids", {"buckets": buckets})
        return [bucket for (bucket,) in rows.fetchall()]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.integers(1, 65_536))
def test_duckdb_and_python_agree_of_numbers(ids: list[int], buckets: int) -> None:
    assert of_duckdb(ids, pa.int64(), buckets) == [bucket_of(id_, buckets) for id_ in ids]


TEXTS = st.sampled_from(STRINGS) | st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@settings(max_examples=20, deadline=None)
@given(st.lists(TEXTS.map(str)), st.integers(1, 65_536))
def test_duckdb_and_python_agree_of_texts(ids: list[str], buckets: int) -> None:
    assert of_duckdb(ids, pa.string(), buckets) == [bucket_of(id_, buckets) for id_ in ids]


def configured(folder: Path, buckets: int, events: list[Event] = EVENTS) -> Config:
    write_source(folder / "events.parquet", events)
    source = {"source": str(folder / "events.parquet")}
    config = configure(folder / str(buckets), events=source, layout={"buckets": buckets})
    for table in (config.layout.activity, config.layout.quarantine):  # the first run divides them
        (table / "_layout.json").unlink(missing_ok=True)
    return config


def stage(config: Config) -> int:
    with connect(config) as con:
        return stage_activity(config, con, AS_OF).rows_out


def rows(files: list[Path]) -> list[tuple]:
    return duckdb.sql(f"select * from {parquet(files)} order by all").fetchall()


def test_each_action_lies_in_its_members_bucket(tmp_path: Path) -> None:
    one, four = configured(tmp_path, 1), configured(tmp_path, BUCKETS)
    assert stage(one) == stage(four) == len(EVENTS)
    files = partition_files(four.layout.activity)
    assert rows(files) == rows(partition_files(one.layout.activity))
    for file in files:
        members = pq.read_table(file, partitioning=None)["member_id"].to_pylist()
        assert {f"bucket={bucket_of(member, BUCKETS)}" for member in members} == {
            file.parent.parent.name
        }
    assert stage(four) == 0, "nothing is read twice"


def test_later_rows_join_those_of_their_bucket(tmp_path: Path) -> None:
    config = configured(tmp_path, BUCKETS)
    stage(config)
    more = [*EVENTS, *(Event(n, 99, "SAVE", AS_OF - DAY) for n in range(7, 12))]
    write_source(tmp_path / "events.parquet", more)
    assert stage(config) == 5
    every = configured(tmp_path / "at once", 1, more)
    stage(every)
    assert rows(partition_files(config.layout.activity)) == rows(
        partition_files(every.layout.activity)
    )


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (4, 3)])
def test_rebuilding_divides_them_again(tmp_path: Path, before: int, after: int) -> None:
    config = configured(tmp_path, before)
    stage(config)
    then = rows(partition_files(config.layout.activity))
    rebuild(config, buckets=after)
    assert rows(partition_files(config.layout.activity)) == then
    with pytest.raises(InputError, match=f"activity rebuild --buckets {before}"):
        stage(config)
    other = configured(tmp_path, after).model_copy(update={"data_dir": config.data_dir})
    rebuild(other)  # as configured
    assert stage(other) == 0


def test_a_bucket_of_another_member_is_refused(tmp_path: Path) -> None:
    """A file that was put into the wrong bucket is noticed by the next merge into it."""
    config = configured(tmp_path, BUCKETS)
    stage(config)
    files = {file.parent.parent.name: file for file in partition_files(config.layout.activity)}
    (one, other), *_ = [(a, b) for a in files.values() for b in files.values() if a != b]
    (one.parent / "_manifest.json").unlink()
    other.replace(one)
    member = int(one.parent.parent.name.removeprefix("bucket="))
    theirs = next(n for n in range(100, 999) if bucket_of(n, BUCKETS) == member)
    write_source(tmp_path / "events.parquet", [Event(theirs, 5, "SAVE", AS_OF - DAY / 2)])
    with pytest.raises(RunFailedError, match="member_id lies in the bucket"):
        stage(config)


def sequences(config: Config) -> list[Path]:
    with connect(config) as con:
        build_sequences(config, con, AS_OF, AS_OF - DAY, AS_OF)
    return snapshot_files(config.layout.sequences, AS_OF)


def test_a_snapshot_is_the_same_rows_in_one_file_per_bucket(tmp_path: Path) -> None:
    one, four = configured(tmp_path, 1), configured(tmp_path, BUCKETS)
    stage(one), stage(four)
    whole, parts = sequences(one), sequences(four)
    assert [len(whole), len(parts)] == [1, BUCKETS]
    assert rows(parts) == rows(whole)
    assert partitions(four.layout.sequences) == [AS_OF]
    rebuild(four, buckets=1)
    back = four.model_copy(update={"layout_settings": one.layout_settings})
    assert sequences(back) == [partition(four.layout.sequences, AS_OF)], "no bucket is left"
    assert rows(sequences(back)) == rows(whole)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_snapshot_is_replaced_whole_or_stays(
    tmp_path: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr(files_module, "_exchange", lambda *_: False)
    config = configured(tmp_path, BUCKETS)
    layout, folder = config.layout, config.layout.sequences

    def write(number: int, some: range) -> None:
        with replacing_snapshot(layout, folder, AS_OF, "a test", range(BUCKETS)) as snapshot:
            for index in some:
                with attempts([snapshot.files[index]]) as (name,):
                    pq.write_table(pa.table({"n": [number]}), name)
                snapshot.take(index, finished(name))

    write(1, range(BUCKETS))
    with pytest.raises(RunFailedError, match=r"expected 4 files .* got none of 3"):
        write(2, range(BUCKETS - 1))
    assert rows(snapshot_files(folder, AS_OF)) == [(1,)] * BUCKETS
    write(3, range(BUCKETS))
    assert rows(snapshot_files(folder, AS_OF)) == [(3,)] * BUCKETS
    assert not list(config.data.rglob("*.tmp"))
