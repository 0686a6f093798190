"""Databases that several connections turn to the write-ahead log at the same time."""

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from stores.writing import write_ahead as module
from stores.writing.write_ahead import write_ahead


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that holds what one needs to turn the database to the write-ahead log."""
    connection = sqlite3.connect(
        tmp_path / "some.db", isolation_level=None, check_same_thread=False
    )
    with closing(connection):
        connection.execute("create table rows (a)")
        connection.execute("begin immediate")
        yield connection


@pytest.mark.usefixtures("writing")
def test_sqlite_itself_does_not_wait_here(tmp_path):
    """The trap that `write_ahead` is for: with it, this would take 600 seconds."""
    with (
        closing(sqlite3.connect(tmp_path / "some.db", timeout=600)) as second,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        second.execute("pragma journal_mode = wal")


def test_who_writes_is_waited_for(tmp_path, writing, monkeypatch):
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            writing.execute("commit")

    monkeypatch.setattr(module.time, "sleep", sleep)
    with closing(sqlite3.connect(tmp_path / "some.db")) as second:
        write_ahead(second, 600)
        assert second.execute("pragma journal_mode").fetchone() == ("wal",)
    assert len(slept) == 3


@pytest.mark.usefixtures("writing")
def test_who_goes_on_is_an_error_after_the_time(tmp_path):
    with (
        closing(sqlite3.connect(tmp_path / "some.db")) as second,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        write_ahead(second, 0.05)


def test_another_error_is_not_waited_for(tmp_path):
    (tmp_path / "some.db").write_bytes(b"no database " * 1000)
    with (
        closing(sqlite3.connect(tmp_path / "some.db")) as connection,
        pytest.raises(sqlite3.DatabaseError, match="not a database"),
    ):
        write_ahead(connection, 600)


def test_eight_at_once_all_have_it(tmp_path):
    at_once = threading.Barrier(8)

    def turn(file: Path) -> tuple[str]:
        with closing(sqlite3.connect(file, timeout=600)) as connection:
            at_once.wait(600)
            write_ahead(connection, 600)
            connection.execute("create table if not exists rows (a)")
            return connection.execute("pragma journal_mode").fetchone()

    with ThreadPoolExecutor(8) as pool:
        for attempt in range(20):
            files = [tmp_path / f"{attempt}.db"] * 8
            assert list(pool.map(turn, files)) == [("wal",)] * 8
