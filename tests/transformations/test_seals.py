"""A flipped bit in a file is found and named; a killed writer leaves nothing that looks damaged."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformations.errors import RunFailedError
from transformations.seals import MANIFEST, damage, expect_whole, seal, sealing


def write(file: Path, *numbers: int) -> None:
    with sealing(file, "a test") as path:
        pq.write_table(pa.table({"number": numbers}), path)


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    file.write_bytes(content)


def test_the_manifest_says_what_each_file_holds(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 1, 2, 3)
    write(tmp_path / "b.parquet", 4)
    files = json.loads((tmp_path / MANIFEST).read_text())["files"]
    assert {name: (one["rows"], one["made_by"]) for name, (one,) in files.items()} == {
        "a.parquet": (3, "a test"),
        "b.parquet": (1, "a test"),
    }
    assert files["a.parquet"][0]["bytes"] == (tmp_path / "a.parquet").stat().st_size
    assert list(damage(tmp_path.glob("*.parquet"))) == []


@settings(max_examples=60, deadline=None)
@given(bit=st.integers(0, 10_000_000))
def test_any_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, bit: int) -> None:
    file = tmp_path_factory.mktemp("flip") / "part-0.parquet"
    write(file, *range(200))
    expect_whole([file], "make it again")
    flip(file, bit)
    (found,) = damage([file])
    assert found.file == file
    assert "another SHA-256" in found.why
    with pytest.raises(RunFailedError, match=r"part-0\.parquet is damaged: .*\. make it again"):
        expect_whole([file], "make it again")


@pytest.mark.parametrize("kept", [0, 10])
def test_a_file_that_was_cut_is_found(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "part-0.parquet"
    write(file, 1, 2, 3)
    file.write_bytes(file.read_bytes()[:kept])
    assert [found.file for found in damage([file])] == [file]


def test_a_writer_killed_before_the_file_is_in_place_leaves_the_old_one(tmp_path: Path) -> None:
    file, content = tmp_path / "part-0.parquet", tmp_path / "new.tmp"
    write(file, 1)
    for number in (2, 3):  # killed twice
        pq.write_table(pa.table({"number": [number]}), content)
        seal(file, "a test", content)
        assert list(damage([file])) == []
    content.rename(file)
    assert list(damage([file])) == []


def test_a_writer_that_fails_seals_nothing(tmp_path: Path) -> None:
    file = tmp_path / "part-0.parquet"
    write(file, 1)
    before = (tmp_path / MANIFEST).read_text()
    with pytest.raises(OverflowError):
        write(file, 2**70)
    assert (tmp_path / MANIFEST).read_text() == before
    assert list(damage([file])) == []


def test_many_may_write_into_one_folder(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.parquet" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, files, range(40)))
    assert len(json.loads((tmp_path / MANIFEST).read_text())["files"]) == 40
    assert list(damage(files)) == []


def test_a_file_of_before_there_were_manifests_is_read_instead(tmp_path: Path) -> None:
    file = tmp_path / "part-0.parquet"
    pq.write_table(pa.table({"number": range(1000)}), file)
    assert list(damage([file])) == []
    file.write_bytes(file.read_bytes()[:-20])
    (found,) = damage([file])
    assert "cannot be read" in found.why


def test_without_a_manifest_the_checksums_of_pages_find_another_number(tmp_path: Path) -> None:
    """As of what Feast's feature logging writes."""
    file = tmp_path / "part-0.parquet"
    table = pa.table({"number": pa.array(range(1000), pa.int64())})
    pq.write_table(table, file, write_page_checksum=True, use_dictionary=False, compression="none")
    assert list(damage([file])) == []
    flip(file, 8 * (file.stat().st_size // 2))
    assert pq.ParquetFile(file).read() != table
    (found,) = damage([file])
    assert "cannot be read" in found.why


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 1}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "part-0.parquet"
    write(file, 1)
    (tmp_path / MANIFEST).write_text(text)
    (found,) = damage([file])
    assert MANIFEST in found.why
