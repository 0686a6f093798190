"""A member that is forgotten is nowhere any more, and no source brings it back."""

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from operations.ledger import Ledger
from pipelines.cli import app as cli
from pipelines.forget import forget, members_of
from pipelines.ranking.precomputed import precompute
from serving.recommend.asked import Answer, Recommended
from serving.recommend.impressions import Impressions, Shown, rows_of, schema
from serving.stream.bus.messages import encode
from serving.stream.bus.protocol import Message
from serving.stream.snapshot import prepare
from serving.stream.updater import open_updater
from serving.stream.worker import Worker
from tests.worlds.events import configure
from tests.worlds.workspace import AVERAGE, DECAY, END, Workspace, write
from transformations import archive
from transformations.config import Config
from transformations.errors import InputError
from transformations.seals import damage
from transformations.table_files import table_files
from transformations.tombstones import Tombstones

WHO, OTHER = "member-3-q7x", "member-4-q7x"
CANDIDATES = ("Popular(version=1, days=28, count=5)",)


class MemoryBus:
    """A bus in memory: what is read, what is refused."""

    def __init__(self, *messages: bytes) -> None:
        self.waiting, self.dead = list(messages), []

    def read(self, limit: int, linger: float) -> list[Message]:  # noqa: ARG002
        some, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return [Message(value, 0, index) for index, value in enumerate(some)]

    def refuse(self, messages: Any) -> None:
        self.dead += [message.value for message, _ in messages]

    def done(self, messages: Any) -> None: ...
    def rewind(self, timestamp: datetime) -> None: ...
    def reset(self) -> None: ...
    def close(self) -> None: ...


def acted(member: str, schema: int = 1) -> bytes:
    message = encode(member, "g-1", "play", datetime.now(UTC) - timedelta(minutes=1))
    return message.replace(b'"schema":1', b'"schema":%d' % schema)


def shown(member: str) -> Shown:
    item = Recommended("g-1", "", 1.0, {}, {}, None, 1.0, "score")
    now = datetime.now(UTC)
    return Shown(Answer("r", member, "votes", True, "votes", {}, now, [item]), {"by": "test"}, now)


def show(config: Config, member: str) -> None:
    """Write down an answer, as the service does."""
    impressions = Impressions(config)
    impressions.add(shown(member).answer, {})
    impressions.close()


def shown_by_a_ranker(config: Config) -> Path:
    """Write what a ranker read, with Feast's columns that matter here."""
    file = config.layout.logged_features / "linear_v1" / "logged.parquet"
    file.parent.mkdir(parents=True)
    rows = {"member_id": [WHO, OTHER], "item_id": ["g-1", "g-2"], "__request_id": ["a", "b"]}
    pq.write_table(pa.table(rows), file)
    return file


def worker_of(workspace: Workspace, bus: MemoryBus) -> Worker:
    """A stream worker on a bus in memory, that follows the last snapshot."""
    config, store = workspace.config, workspace.store
    updater = open_updater(config, store, [], "worker")
    worker = Worker(config, bus, updater)  # type: ignore[arg-type]
    prepare(config, store, updater, bus)  # type: ignore[arg-type]
    return worker


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with all tables, streamed rows, impressions and logged features."""
    workspace = Workspace(tmp_path_factory.mktemp("forget"))
    for file in (workspace.root / "source").iterdir():
        file.unlink()
    (workspace.root / "source").rmdir()
    write(workspace.root / "source", "member-{}-q7x", "g-{}", "user_id")
    with (workspace.root / "source" / "events.csv").open("a") as events:
        events.write(f"{WHO},g-1,swim,2026-03-09 01:00:00\n")  # to quarantine
        events.write(f'{WHO},g-1,"play\n')  # no CSV
    names = "\n".join(f"member-{n}-q7x,{'ab'[n % 2]}" for n in range(7))
    (workspace.root / "source" / "members.csv").write_text(f"member_id,country\n{names}\n")
    workspace.setting("item_id_type: string", "id_type: string")
    profiles = "members: {source: source/members.csv, id: member_id, categorical: [country]}\n"
    share = "  max_refused_share: 0.5\n"
    workspace.setting("  columns:", f"{share}  columns:")
    workspace.setting("fit_holdback:", f"{profiles}recommend: {{precompute: 100}}\nfit_holdback:")
    workspace.lines(AVERAGE, DECAY, candidates=CANDIDATES)
    workspace.run(END - timedelta(days=1))
    workspace.run(END)
    workspace.backfill(END - timedelta(days=3))
    workspace.do("recommend", lambda stages: precompute(workspace.config, END, stages))
    config = workspace.config
    for member in (WHO, OTHER):
        show(config, member)
    shown_by_a_ranker(config)
    ledger = Ledger(config)
    run = ledger.start("run", END)
    ledger.finish(run, ValueError(f"member_id='{WHO}', item_id='g-1'"))
    return workspace


def holds(root: Path, member: str) -> dict[str, int]:
    """Return each file below a workspace's data that holds the id: as a value, or as bytes."""
    found: dict[str, int] = {}
    for file in sorted(path for path in (root / "data").rglob("*") if path.is_file()):
        count = file.read_bytes().count(member.encode())
        if file.suffix == ".parquet":
            table = pq.ParquetFile(file).read()
            count += sum(member in str(value) for value in table.to_pylist())
        if count:
            found[str(file.relative_to(root / "data"))] = count
    return found


def online(root: Path, member: str) -> list[str]:
    """Return the online tables with a row whose key holds the id."""
    with closing(sqlite3.connect(root / "data" / "online.db")) as con:
        names = "select name from sqlite_master where type = 'table' and sql like '%entity_key%'"
        return [
            table
            for (table,) in con.execute(names).fetchall()
            for (key,) in con.execute(f'select distinct entity_key from "{table}"')
            if member.encode() in bytes(key)
        ]


def tables(root: Path, member: str) -> set[str]:
    """Return the first folder of each file that holds the id."""
    return {name.split("/")[0].removesuffix("-wal") for name in holds(root, member)}


def test_it_is_nowhere_and_no_source_brings_it_back(full: Workspace) -> None:
    root, config = full.root, full.config
    bus = MemoryBus(acted(WHO), acted(OTHER), acted(WHO, schema=9), acted(OTHER, schema=9))
    worker = worker_of(full, bus)
    worker.step()
    worker.updater.log.flush()
    worker.close()
    dead = worker_of(full, MemoryBus(acted(WHO), acted(OTHER)))
    dead.step()  # its rows stay in its spool: it dies
    dead.updater.log._lock.close()
    assert tables(root, WHO) == {
        "activity", "quarantine", "members", "member_sequences", "member_stats",
        "member_embeddings", "member_recommendations", "impressions", "logged_features", "state",
        "online.db", "archive",
    }  # fmt: skip
    assert "state/ledger.db" in holds(root, WHO)
    assert len(online(root, WHO)) >= 5
    before = {table: len(online(root, OTHER)) for table in online(root, OTHER)}

    with Ledger(config).lock():
        done = forget(config, [WHO])
    assert holds(root, WHO) == {}
    assert online(root, WHO) == []
    assert {table: len(online(root, OTHER)) for table in online(root, OTHER)} == before
    assert tables(root, OTHER) >= {"activity", "member_embeddings", "archive", "online.db"}
    assert list(damage(file.path for file in table_files(config))) == []
    assert list(archive.damage(config)) == []
    assert done.rows["archive"] == 2
    where = {"activity", "quarantine", "members", "member_sequences", "impressions"}
    assert where | {"states of the stream", "member_recommendations"} <= {*done.rows}
    assert done.rows["quarantine"] == 2
    assert any("stream's bus" in said for said in done.left)

    # The same sources again, from their beginning, and the same messages.
    (config.layout.state / "stg_activity.json").unlink()
    full.run(END)
    full.do("recommend", lambda stages: precompute(config, END, stages))
    for member in (WHO, OTHER):
        show(config, member)
    bus = MemoryBus(acted(WHO), acted(OTHER), acted(WHO, schema=9), acted(OTHER, schema=9))
    again = worker_of(full, bus)
    again.step()
    assert [WHO.encode() in message for message in bus.dead] == [False]
    assert again.metrics.value("events_total", outcome="forgotten") == 2
    again.close()
    assert holds(root, WHO) == {}
    assert online(root, WHO) == []
    assert "impressions" in tables(root, OTHER)

    with Ledger(config).lock():
        assert forget(config, [WHO]).rows == {}  # nothing is left, and it can be run again


def test_of_many_by_a_file_and_of_nobody_a_tombstone_stays(full: Workspace) -> None:
    file = full.root / "ids.csv"
    file.write_text("name,member_id\nA,nobody-1\nB,nobody-2\nB,nobody-2\n")
    place = ("--config", str(full.root))
    done = CliRunner().invoke(cli.app, ["forget", "nobody-3", "--file", str(file), *place])
    said = " ".join(done.output.split())
    assert done.exit_code == 0, done.output
    assert "nothing of 3 members was found" in said
    assert "forgot 3 members" in said
    assert Tombstones(full.config).are(["nobody-1", "nobody-2", "nobody-3", OTHER]) == [
        *[True] * 3,
        False,
    ]


@pytest.mark.parametrize(
    ("given", "text", "message"),
    [
        ([], None, "expected a member's id, or a file of them"),
        (["4.5"], None, "member_id: expected int64 ids, got '4.5'"),
        ([], "a,b\n1,2\n", "expected a column member_id, or one column, in"),
    ],
)
def test_what_is_no_id_is_refused(
    given: list[str], text: str | None, message: str, tmp_path: Path
) -> None:
    file = None
    if text is not None:
        file = tmp_path / "ids.csv"
        file.write_text(text)
    with pytest.raises(InputError, match=message):
        members_of(configure(tmp_path), given, file)


def test_a_living_worker_takes_the_tombstones_over_before_states_go(full: Workspace) -> None:
    """What it writes after its note lacks the member; what it spooled before went then."""
    who = "member-5-q7x"
    bus = MemoryBus(acted(who), acted(OTHER))
    worker = worker_of(full, bus)
    worker.step()
    assert any(name.endswith(".arrows") for name in holds(full.root, who))
    with Ledger(full.config).lock(), ThreadPoolExecutor(1) as pool:
        done = pool.submit(forget, full.config, [who])
        while not done.done():
            bus.waiting = [acted(who), acted(OTHER)]
            worker.step()
    assert done.result().rows["states of the stream"] == 1
    bus.waiting = [acted(who)]
    worker.step()
    worker.close()
    assert holds(full.root, who) == {}
    assert online(full.root, who) == []
    assert not any("stream workers" in said for said in done.result().left)


def test_a_worker_that_does_not_answer_is_named(full: Workspace) -> None:
    worker = worker_of(full, MemoryBus())
    with Ledger(full.config).lock():
        done = forget(full.config, ["nobody-4"], patience=0.1)
    (said,) = [said for said in done.left if "stream workers" in said]
    assert "worker-" in said
    assert "restart them, then forget again" in said
    worker.close()


def test_the_report_shows_it_no_more(tmp_path: Path) -> None:
    config = configure(tmp_path)
    file = config.layout.evaluation / "result.json"
    file.parent.mkdir(parents=True)
    rows = [{"member_id": member, "actions": [], "nearest": []} for member in (3, 4)]
    file.write_text(json.dumps({"title": "t", "members": rows}))
    with Ledger(config).lock():
        done = forget(config, [3], has_run=False)
    assert done.rows == {"members shown in the report": 1}
    assert [row["member_id"] for row in json.loads(file.read_text())["members"]] == [4]


def test_a_service_keeps_nothing_of_it_from_then_on(tmp_path: Path) -> None:
    """Its part grows in memory: rows of before the tombstone are not written again."""
    config = configure(tmp_path, id_type="string")
    impressions = Impressions(config)
    parts = impressions._parts
    for member in (WHO, OTHER):
        parts.append(datetime.now(UTC).date(), rows_of([shown(member)], schema(config)))
    with Ledger(config).lock():
        assert forget(config, [WHO], has_run=False).rows == {"impressions": 1}
    for member in (WHO, OTHER):
        parts.append(datetime.now(UTC).date(), rows_of([shown(member)], schema(config)))
    impressions.close()
    (file,) = config.layout.impressions.rglob("*.parquet")
    assert pq.read_table(file, partitioning=None)["member_id"].to_pylist() == [OTHER, OTHER]
