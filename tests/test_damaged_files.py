"""One flipped bit in any file of a table: named, taken away, made again as it was."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pipelines.cli.status import files_table
from serving import publish
from serving.request.item_table import open_item_table
from tests.worlds.workspace import AVERAGE, END, Workspace
from transformations.errors import RunFailedError
from transformations.rebuild import rebuild
from transformations.seals import damage
from transformations.table_files import table_files, take_away

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("damaged"))
    workspace.lines(AVERAGE)
    workspace.setting("fit_holdback: 3d", "fit_holdback: 6d")
    workspace.run(END)
    workspace.backfill(END - DAY)
    open_item_table(workspace.config)
    return workspace


def flip(file: Path) -> None:
    """Change a bit of a page, which readers take for other numbers."""
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 4
    file.write_bytes(content)


def rows(config: Any, folder: str) -> list[Any]:
    """What a table holds, without when it was written."""
    files = f"{config.data}/{folder}/**/*.parquet"
    columns = duckdb.sql(
        f"describe from read_parquet('{files}', hive_partitioning = false)"
    ).fetchall()
    kept = ", ".join(name for name, *_ in columns if name != "created_timestamp")
    query = f"select {kept} from read_parquet('{files}', hive_partitioning = false) order by all"
    return duckdb.sql(query).fetchall()


def test_every_file_of_every_table_is_sealed(ran: Workspace) -> None:
    files = [file.path for file in table_files(ran.config)]
    tables = {file.relative_to(ran.config.data).parts[0] for file in files}
    assert tables == {
        "activity",
        "item_stats",
        "item_tables",
        "items",
        "member_embeddings",
        "member_sequences",
        "member_stats",
        "state",
        "stg_items",
    }
    assert list(damage(files)) == []
    for file in files:
        before = file.read_bytes()
        flip(file)
        assert [found.file for found in damage(files)] == [file]
        file.write_bytes(before)


def test_status_names_what_is_damaged(ran: Workspace) -> None:
    file = next((ran.config.data / "items").rglob("*.parquet"))
    table, whole = files_table(ran.config)
    assert whole
    flip(file)
    table, whole = files_table(ran.config)
    flip(file)
    assert not whole
    said = StringIO()
    Console(file=said, width=300).print(table)
    assert "part-2026-03-10.parquet" in said.getvalue()
    assert "another SHA-256" in said.getvalue()
    assert "activity rebuild --damaged, then activity run" in said.getvalue()


def test_two_damaged_files_of_one_item_table_go_together(ran: Workspace) -> None:
    files = [file for file in table_files(ran.config) if "item_tables" in file.path.parts]
    for file in files[:2]:
        flip(file.path)
    assert [taken.path for taken in take_away(ran.config)] == [files[0].path]
    open_item_table(ran.config)
    assert list(damage(file.path for file in table_files(ran.config))) == []


def test_rebuilt_activity_is_sealed_too(ran: Workspace) -> None:
    rebuild(ran.config, "month")
    files = [file.path for file in table_files(ran.config)]
    assert list(damage(files)) == []
    assert all("another SHA-256" not in found.why for found in damage(files))
    activity = [file for file in files if "activity" in file.parts]
    flip(activity[0])
    assert [found.file for found in damage(activity)] == [activity[0]]
    flip(activity[0])


def publish_again(workspace: Workspace) -> None:
    publish.publish(workspace.config, workspace.store, END)


READS: dict[str, Callable[[Workspace], object]] = {
    "activity": lambda workspace: workspace.run(END + DAY),
    "items": lambda workspace: open_item_table(workspace.config),
    "member_sequences": publish_again,
    "member_stats": publish_again,
    "member_embeddings": publish_again,
}


@pytest.mark.parametrize("table", READS)
def test_it_is_refused_and_made_again(ran: Workspace, table: str) -> None:
    config = ran.config
    before = rows(config, table)
    of_table = (config.data / table).rglob("*.parquet")
    file = next(
        file for file in sorted(of_table) if table == "activity" or f"{END:%F}" in str(file)
    )
    flip(file)

    if table == "activity":  # a period is read whole when it gets a row more
        last = END + timedelta(hours=1)
        with (ran.root / "source" / "events.csv").open("a") as source:
            source.write(f"1,g-1,play,{last:%Y-%m-%d %H:%M:%S}\n")
        before.append((1, "g-1", "play", last, None))
    if table == "items":
        shutil.rmtree(config.layout.item_table(config.space))
    with pytest.raises(RunFailedError, match=rf"{file.name} is damaged: .*SHA-256.*activity"):
        READS[table](ran)

    assert [taken.path for taken in take_away(config)] == [file]
    assert (config.layout.state / "damaged" / file.relative_to(config.data)).exists()
    if table in ("activity", "items"):
        ran.run(END + DAY)
    else:
        ran.backfill(END)
    again = rows(config, table)
    if table == "activity":
        assert {row[:3] for row in again} == {row[:3] for row in before}
        assert len(again) == len(before)
    else:
        assert again == before
    assert list(damage(file.path for file in table_files(config))) == []


@pytest.mark.parametrize("table", ["items", "member_embeddings", "member_sequences"])
def test_arrow_finds_a_flipped_bit_by_itself(ran: Workspace, tmp_path: Path, table: str) -> None:
    """Whoever reads a table of ours elsewhere can ask Arrow to check its pages."""
    of_table = (file.path for file in table_files(ran.config) if f"/{table}/" in str(file.path))
    file = tmp_path / "part.parquet"
    shutil.copy(next(of_table), file)
    page_of = pq.ParquetFile(file).metadata.row_group(0).column(0)
    content = bytearray(file.read_bytes())
    # The last bytes of a column are of its last page.
    begins = page_of.dictionary_page_offset or page_of.data_page_offset
    content[begins + page_of.total_compressed_size - 5] ^= 4
    file.write_bytes(content)
    with pytest.raises(OSError, match="checksum"):
        pq.read_table(file, columns=[page_of.path_in_schema], page_checksum_verification=True)
