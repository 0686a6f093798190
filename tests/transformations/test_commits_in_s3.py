"""Commits in S3 itself (moto's server): its conditional writes, faults, and writers killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests.transformations.test_commits import fill, seen, write
from tests.worlds.objects import BUCKET, ObjectStore, object_store
from transformations.errors import RunFailedError
from transformations.objects.commits import manifest
from transformations.objects.path import ObjectPath, file_system, read
from transformations.objects.writing import TwoWritersError, committing, tidy

BEFORE = {"a": "1", "as_of=1/part-0": "1"}
AFTER = {"a": "2", "as_of=1/part-0": "1", "as_of=2/part-0": "2"}
WRITER = """
import sys
from pathlib import Path
from tests.transformations.test_commits import write
from transformations.objects.path import ObjectPath
write(ObjectPath(sys.argv[1], Path(sys.argv[2])), {"a": "2", "as_of=2/part-0": "2"})
"""


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@pytest.fixture
def table(store: ObjectStore, tmp_path: Path) -> Iterator[ObjectPath]:
    made = ObjectPath(f"s3://{BUCKET}/{tmp_path.name}/table", tmp_path / "spool")
    write(made, BEFORE)
    yield made
    store.fault, store.delay = None, 0.0


def objects(table: ObjectPath) -> set[str]:
    names = file_system(table.url).find(table.url)
    inside = f"{table.url.removeprefix('s3://')}/"
    return {name.removeprefix(inside) for name in names}


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_writer_killed_at_any_write_leaves_a_whole_table(
    store: ObjectStore, table: ObjectPath, at: int, is_done: bool
) -> None:
    """Two files and the manifest: killed before or after the store has done each of them."""
    writes, running = [], []

    def kill(request: dict[str, Any]) -> int | None:
        if request["REQUEST_METHOD"] != "PUT":
            return None
        writes.append(request["PATH_INFO"])
        if len(writes) == at:
            if is_done:  # all of it has come, before nobody is there to send it
                length = request.get("CONTENT_LENGTH")
                body = request["wsgi.input"].read(*([int(length)] if length else []))
                request["wsgi.input"] = BytesIO(body)
            os.kill(running[0].pid, signal.SIGKILL)
            return None if is_done else 500
        return None

    store.fault = kill
    arguments = [sys.executable, "-c", WRITER, table.url, str(table.spool)]
    running.append(subprocess.Popen(arguments))
    assert running[0].wait(timeout=300) == -signal.SIGKILL
    store.fault = None
    assert len(writes) == at
    assert (manifest(2) in writes[-1]) == (at == 3)
    done = at == 3 and is_done
    assert seen(table) == (AFTER if done else BEFORE)
    assert tidy(table.spool) == 1
    assert objects(table) - {manifest(1), manifest(2)} == read(table).named
    if not done:
        write(table, {"a": "2", "as_of=2/part-0": "2"})
    assert seen(table) == AFTER


def test_the_second_of_two_writers_of_a_file_stops(table: ObjectPath) -> None:
    late = committing(table)
    fill(late.__enter__(), "a", "late")
    write(table, {"a": "2"})
    with pytest.raises(TwoWritersError):
        late.__exit__(None, None, None)
    assert seen(table) == BEFORE | {"a": "2"}


def test_a_number_that_is_taken_meanwhile_is_not_written_over(
    store: ObjectStore, table: ObjectPath
) -> None:
    """The other writer comes after this one has looked, just before its manifest."""
    came = []

    def other_first(request: dict[str, Any]) -> int | None:
        is_manifest = request["REQUEST_METHOD"] == "PUT" and manifest(2) in request["PATH_INFO"]
        if is_manifest and not came:
            came.append(request["HTTP_IF_NONE_MATCH"])
            write(table, {"as_of=3/part-0": "other"})
        return None

    store.fault = other_first
    write(table, {"a": "2"})
    assert came == ["*"]
    assert seen(table) == BEFORE | {"a": "2", "as_of=3/part-0": "other"}
    assert {manifest(1), manifest(2), manifest(3)} <= objects(table)


def test_a_store_that_is_busy_and_slow_is_waited_for(store: ObjectStore, table: ObjectPath) -> None:
    busy = []

    def sometimes(request: dict[str, Any]) -> int | None:
        busy.append(request["PATH_INFO"])
        return 503 if len(busy) % 3 == 0 else None

    store.fault, store.delay = sometimes, 0.02
    write(table, {"a": "2", "as_of=2/part-0": "2"})
    assert seen(table) == AFTER
    assert len(busy) > 9


def test_a_store_that_goes_away_leaves_the_table_as_it_was(
    store: ObjectStore, table: ObjectPath
) -> None:
    """Of the manifest: whether it is there is asked, and that is not answered either."""
    store.fault = lambda request: 400 if manifest(2) in request["PATH_INFO"] else None
    with pytest.raises(RunFailedError, match=r"/table cannot be reached: .*Credentials, region"):
        write(table, {"a": "2", "as_of=2/part-0": "2"})
    store.fault = None
    assert seen(table) == BEFORE
    assert tidy(table.spool) == 1
    assert objects(table) == read(table).named | {manifest(1)}
