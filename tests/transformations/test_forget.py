"""Tombstones, and members that are taken out of files: killed at any file, it can be run again."""

import os
import signal
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds.events import AS_OF, INTEGERS, STRINGS, Event, configure, write_source
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.forget import Forgotten, forget_files, member_files
from transformations.layout import partition_files
from transformations.seals import damage, sealing
from transformations.sources import stage_activity, stage_members
from transformations.table_files import table_files
from transformations.tombstones import Tombstones

WHEN = AS_OF - timedelta(days=2)


def test_a_member_is_known_again_by_a_keyed_hash_alone(tmp_path: Path) -> None:
    config = configure(tmp_path)
    tombstones = Tombstones(config)
    assert (len(tombstones), tombstones.are([42])) == (0, [False])
    other = Tombstones(config)
    assert tombstones.add([42, "x", 42]) == 2
    assert tombstones.add(["42"]) == 0  # as text it is the same member
    assert tombstones.are([7, 42, "42", "x"]) == [False, True, True, True]
    assert other.are([42]) == [False]
    assert other.refresh()
    assert not other.refresh()
    assert other.are([42]) == [True]
    assert stat.S_IMODE(config.layout.forget_key.stat().st_mode) == 0o600
    assert "42" not in config.layout.tombstones.read_text().split()
    elsewhere = Tombstones(configure(tmp_path / "b"))
    elsewhere.add([42])
    lines = [c.layout.tombstones.read_text() for c in (config, configure(tmp_path / "b"))]
    assert set(lines[0].split()).isdisjoint(lines[1].split())


def test_without_the_key_nothing_is_read(tmp_path: Path) -> None:
    config = configure(tmp_path)
    Tombstones(config).add([42])
    config.layout.forget_key.unlink()
    with pytest.raises(InputError, match="Restore the key from a backup"):
        Tombstones(config)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.sampled_from([*INTEGERS, *STRINGS]), max_size=5),
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), max_size=5
    ),
)
def test_sql_and_python_hash_alike(
    tmp_path_factory: pytest.TempPathFactory, known: list[Any], more: list[str]
) -> None:
    config = configure(tmp_path_factory.mktemp("hash"))
    tombstones = Tombstones(config)
    tombstones.add([*known, *more[::2]])
    ids = [str(member) for member in {*INTEGERS, *STRINGS, *more}]
    with connect(config) as con:
        con.register("ids", pa.table({"member_id": pa.array(ids, pa.string())}))
        tombstones.among(con, "from ids")
        found = {member for (member,) in con.execute("from forgotten").fetchall()}
    assert found == {id_ for id_, gone in zip(ids, tombstones.are(ids), strict=True) if gone}


def staged(config: Config) -> dict[Any, int]:
    """Stage the events; return each member's number of actions in `activity`."""
    with connect(config) as con:
        stage_activity(config, con, AS_OF)
    found: dict[Any, int] = {}
    for file in partition_files(config.layout.activity):
        for member in pq.ParquetFile(file).read()["member_id"].to_pylist():
            found[member] = found.get(member, 0) + 1
    return found


def quarantined(config: Config) -> list[tuple[Any, Any]]:
    files = partition_files(config.layout.quarantine)
    rows = [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
    return sorted(((row["member_id"], row["line"]) for row in rows), key=repr)


@pytest.mark.parametrize("id_type", ["int64", "string"])
def test_what_a_source_still_holds_is_passed_over(tmp_path: Path, id_type: str) -> None:
    source = tmp_path / "events.csv"
    lines = ["member_id,item_id,action,event_timestamp"]
    for member in ("42", "7"):
        lines += [
            f"{member},1,APPLY,{WHEN}",
            f"{member},1,SWIM,{WHEN}",
            f"{member},1",  # no CSV
        ]
    source.write_text("\n".join(lines) + "\n")
    config = configure(
        tmp_path, events={"source": str(source), "max_refused_share": 1.0}, id_type=id_type
    )
    kind = int if id_type == "int64" else str
    assert staged(config) == {kind(42): 1, kind(7): 1}
    before = quarantined(config)
    assert {member for member, _ in before} == {None, "42", "7"}
    Tombstones(config).add([kind(42)])
    done = Forgotten()
    forget_files(config, [kind(42)], done)
    left = quarantined(config)
    assert done.rows == {"activity": 1, "quarantine": len(before) - len(left)}
    for path in (config.layout.state / "stg_activity.json", config.layout.activity):
        path.unlink() if path.is_file() else None
    assert staged(config) == {kind(7): 1}
    assert quarantined(config) == left
    assert not any("42" in (line or member) for member, line in left)
    assert list(damage(file.path for file in table_files(config))) == []


def test_the_members_source_does_not_bring_it_back(tmp_path: Path) -> None:
    source = tmp_path / "members.csv"
    source.write_text("who,city\n42,Bonn\n7,Rome\n,Oslo\n")
    config = configure(
        tmp_path, members={"source": str(source), "id": "who", "categorical": ["city"]}
    )

    def profiles() -> list[int]:
        with connect(config) as con:
            stage_members(config, con, AS_OF)
        return pq.ParquetFile(config.layout.members).read()["member_id"].to_pylist()

    assert profiles() == [7, 42]
    Tombstones(config).add([42])
    assert profiles() == [7]


def write_tables(config: Config, count: int = 6) -> dict[Path, pa.Table]:
    """Files as DuckDB and as Arrow write them; return what should stay of each."""
    rest = {}
    for number in range(count):
        members = [number % 3, 42, 5, 42]
        vectors = pa.array([[1.0, number]] * 4, pa.list_(pa.float32()))
        table = pa.table({"member_id": members, "vector": vectors})
        file = config.layout.embeddings("view") / f"as_of=2026-03-0{number + 1}" / "part-0.parquet"
        with sealing(file, "average") as temporary:
            if number % 2:
                with connect(config) as con:
                    con.register("rows", table)
                    con.execute(f"copy rows to '{temporary}' (format parquet)")
            else:
                pq.write_table(table, temporary, compression="lz4")
        rest[file] = table.take([0, 2])
    return rest


def test_a_file_keeps_its_order_its_types_and_its_time(tmp_path: Path) -> None:
    config = configure(tmp_path)
    rest = write_tables(config)
    times = {file: file.stat().st_mtime_ns for file in rest}
    schemas = {file: pq.read_schema(file) for file in rest}
    done = Forgotten()
    forget_files(config, [42], done)
    assert done.rows == {"member_embeddings/view": 12}
    for file, table in rest.items():
        found = pq.ParquetFile(file)
        assert found.schema_arrow.types == schemas[file].types
        assert found.read().to_pylist() == table.to_pylist()
        assert file.stat().st_mtime_ns == times[file]
    assert [*damage(rest)] == []
    again = Forgotten()
    forget_files(config, [42], again)
    assert again.rows == {}


@pytest.mark.parametrize("after", [1, 3])
def test_killed_after_any_file_it_can_be_run_again(tmp_path: Path, after: int) -> None:
    config = configure(tmp_path)
    rest = write_tables(config)
    child = os.fork()
    if not child:
        left = after

        def advance(_: int) -> None:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

        forget_files(config, [42], Forgotten(), advance=advance)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    done = Forgotten()
    forget_files(config, [42], done)
    assert done.rows == {"member_embeddings/view": 2 * (len(rest) - after)}
    assert all(
        pq.ParquetFile(file).read().to_pylist() == rows.to_pylist() for file, rows in rest.items()
    )
    assert [*damage(rest)] == []


def test_sources_stay_and_damaged_files_go(tmp_path: Path) -> None:
    config = configure(tmp_path, events={"source": str(tmp_path / "data" / "own")})
    own = write_source(tmp_path / "data" / "own" / "e.parquet", [Event(42, 1, "APPLY", WHEN)])
    taken = config.layout.state / "damaged" / "activity" / "part-0.parquet"
    broken = config.layout.activity / "period=2026-03-01" / "part-0.parquet"
    for file in (taken, broken):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"no Parquet")
    before = own.read_bytes()
    assert own not in member_files(config)
    done = Forgotten()
    forget_files(config, [42], done)
    assert own.read_bytes() == before
    assert not taken.exists()
    (said,) = done.left
    assert f"{broken} cannot be read" in said
    assert "activity rebuild --damaged" in said
