"""Sources in an object store: read as the same files on a disk are."""

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.init import look
from tests.transformations.test_source_files import EVENTS, HEADER, ROWS, of_bytes, write_parquet
from tests.transformations.test_sources import quarantined, stage, staged
from tests.worlds.events import AS_OF, configure
from tests.worlds.objects import BUCKET, ObjectStore, object_store
from transformations.config import Config, load_config
from transformations.duck import connect
from transformations.errors import InputError, RunFailedError
from transformations.places import misplaced, objects
from transformations.sources import stage_items, stage_members
from transformations.sources.files import find, say_passed_over


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@pytest.fixture(autouse=True)
def well(store: ObjectStore) -> Iterator[None]:
    yield
    store.fault, store.delay = None, 0.0


def on_disk(folder: Path) -> Config:
    """Files of every kind, and some that are passed over."""
    source = folder / "source"
    write_parquet(source / "day=1" / "a [v2].parquet", EVENTS[:3])
    write_parquet(source / "day=1" / "b.parquet", EVENTS[2:5], extra=["x", "y", "z"])
    (source / "day=2").mkdir()
    (source / "day=2" / "c.csv").write_bytes(f"{HEADER}\r\n{ROWS[5]}\n{ROWS[6]}\r\n".encode())
    (source / "d.CSV.gz").write_bytes(gzip.compress(f"{HEADER}\n{ROWS[7]}\nbad\n".encode()))
    zst = pa.compress(f"{HEADER}\n{ROWS[8]}\nx,1,APPLY,2026-03-01\n".encode(), "zstd")
    (source / "e.csv.zst").write_bytes(zst.to_pybytes())
    (source / "empty.csv").touch()
    (source / "readme.txt").write_text("no events")
    (source / "_temporary").mkdir()
    (source / "_temporary" / "f.csv").write_text("half")
    return of_bytes(folder, f"{HEADER}\n".encode(), "g.csv")


def in_store(store: ObjectStore, disk: Config, folder: Path, prefix: str) -> Config:
    """The same, in the object store."""
    source = store.put_folder(Path(disk.events.source), prefix)
    settings = disk.events.model_dump() | {"source": source}
    return configure(folder, events=settings)


def test_objects_are_read_as_files_are(store: ObjectStore, tmp_path: Path) -> None:
    disk = on_disk(tmp_path / "disk")
    cloud = in_store(store, disk, tmp_path / "cloud", "all/events")
    reports = [stage(config) for config in (disk, cloud)]
    assert reports[0] == reports[1]
    assert reports[0].rows_out == len(EVENTS)
    assert staged(disk) == staged(cloud)
    refused = [
        [{**row, "run_id": None, "ingested_at": None} for row in quarantined(config)]
        for config in (disk, cloud)
    ]
    assert refused[0] == refused[1]
    assert {row["source"] for row in refused[1]} == {"d.CSV.gz", "e.csv.zst"}
    said = [say_passed_over(config, ["events"]) for config in (disk, cloud)]
    assert [sentence.replace("_temporary", "_temporary/f.csv") for sentence in said[0]] == said[1]


def test_only_new_and_changed_objects_are_read(store: ObjectStore, tmp_path: Path) -> None:
    disk = of_bytes(tmp_path / "disk", f"{HEADER}\n{ROWS[0]}\n".encode())
    cloud = in_store(store, disk, tmp_path / "cloud", "new")
    assert stage(cloud).rows_in == 1
    assert stage(cloud).rows_in == 0
    store.put("new/b.csv", f"{HEADER}\n{ROWS[1]}\n".encode())
    assert stage(cloud).rows_in == 1
    # Of the same length, within the same second: its ETag tells.
    store.put("new/b.csv", f"{HEADER}\n{ROWS[2]}\n".encode())
    assert (stage(cloud).rows_in, staged(cloud)) == (1, [*EVENTS[:3]])


def test_items_members_and_a_look(store: ObjectStore, tmp_path: Path) -> None:
    store.put("one/items.csv", b"item_id,title\n1,Cook\n2,Baker\n")
    store.put("one/members.csv", b"member_id,age\n7,31\n")
    items, members = f"s3://{BUCKET}/one/items.csv", f"s3://{BUCKET}/one/members.csv"
    config = configure(
        tmp_path,
        items={"source": items, "text": ["title"]},
        members={"source": members, "numeric": ["age"]},
    )
    with connect(config) as con:
        assert stage_items(config, con, AS_OF).rows_out == 2
        assert stage_members(config, con, AS_OF).rows_out == 1
    with look.looking() as con:
        relation = look.open_files(con, "items", objects("--items", items))
        assert con.execute(f"from {relation} order by item_id").fetchall() == [
            ("1", "Cook"),
            ("2", "Baker"),
        ]


def test_a_store_that_is_busy_and_slow(store: ObjectStore, tmp_path: Path) -> None:
    disk = of_bytes(tmp_path / "disk", "\n".join([HEADER, *ROWS, ""]).encode())
    cloud = in_store(store, disk, tmp_path / "cloud", "busy")
    answers = iter([503, None, 500, None, None, 503])
    store.fault, store.delay = lambda _: next(answers, None), 0.02
    assert stage(cloud).rows_out == len(ROWS)
    assert next(answers, "all given") == "all given"


def test_a_store_that_fails_leaves_what_was_there(store: ObjectStore, tmp_path: Path) -> None:
    disk = of_bytes(tmp_path / "disk", "\n".join([HEADER, *ROWS[:4], ""]).encode())
    cloud = in_store(store, disk, tmp_path / "cloud", "failing")
    stage(cloud)
    store.put("failing/b.csv", "\n".join([HEADER, *ROWS[4:], ""]).encode())

    def denied(request: dict[str, Any]) -> int | None:
        is_read = request["REQUEST_METHOD"] == "GET" and "b.csv" in request["PATH_INFO"]
        return 403 if is_read else None

    store.fault = denied
    with pytest.raises((InputError, RunFailedError), match=r"failing/b\.csv"):
        stage(cloud)
    assert staged(cloud) == EVENTS[:4]
    store.fault = None
    stage(cloud)
    assert staged(cloud) == EVENTS


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (f"s3://{BUCKET}/nothing", "found nothing at"),
        ("s3://no-bucket/events", "s3://no-bucket/events"),
    ],
)
def test_what_is_not_there(store: ObjectStore, source: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        find("events.source", objects("events.source", source))


def test_no_secret_is_said(store: ObjectStore) -> None:
    store.fault = lambda _: 403
    with pytest.raises(InputError, match="come from the environment") as raised:
        find("events.source", objects("events.source", f"s3://{BUCKET}/secret"))
    assert "secret-of-tests" not in str(raised.value)


def test_credentials_in_a_source_are_refused(tmp_path: Path) -> None:
    source = "s3://AKIAPLANTED:pl4nted/word@bucket/events"
    expected = r"expected s3://bucket/… with the credentials in the environment"
    file = tmp_path / "activity.yaml"
    for key in ("events", "items", "members"):
        settings = {"items": {"text": ["title"]}, key: {"source": source}}
        file.write_text(json.dumps(settings))
        with pytest.raises(InputError, match=expected) as raised:
            load_config(file)
        assert "pl4nted" not in str(raised.value)
    with pytest.raises(InputError, match=f"--events: {expected}"):
        objects("--events", source)
    for fine in ("s3://b/a:b@c", "s3://arn:aws:s3:x:1:accesspoint/p/a@b", "abfs://box@account/a:b"):
        assert misplaced(fine) == ""


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(InputError, match="pip install universal-pathlib s3fs"):
        objects("events.source", "s3://bucket/events")
