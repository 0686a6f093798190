"""The files that runs keep beside the tables: whether each is whole, and what mends it if not.

A command that ends in an error nobody foresaw looks here first: most such errors are a file that a
crash, a disk or an editor left damaged.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from transformations.config import Config
from transformations.layout import PERIOD_NOTE
from transformations.seals import digest
from transformations.secrets import expanded
from transformations.tombstones import DIGEST

SQLITE = b"SQLite format 3\0"
RUN = "activity run"
REBUILD = "activity stream --rebuild"
FORGET = "activity forget --file IDS.csv"
TIMES = frozenset(
    f"{what}_at"
    for what in ("started", "finished", "published", "made", "used", "retired", "pinned", "said")
) | {"as_of", "at", "since", "fitted_until", "ended_at", "alerted_at"}
"""The ledger's columns of ISO texts."""


@dataclass(frozen=True)
class StateFile:
    """One file, and what depends on it.

    Attributes:
        name: What it is, in a few words.
        check: Raises if the file is not what was written.
        lost: What is lost with it.
        mend: The command that makes it again once it is out of the way.
        aside: What to move out of the way, if more than the file.
    """

    name: str
    file: Path
    check: Callable[[Path], None]
    lost: str
    mend: str
    aside: Path | None = None

    @property
    def problem(self) -> str | None:
        """What is wrong with it; None where it is whole, or not there."""
        if not self.file.exists():
            return None
        try:
            self.check(self.file)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    @property
    def command(self) -> str:
        """The command line that mends it."""
        moved = quote(str(self.aside or self.file))
        return f"mv {moved} {moved}.damaged && {self.mend}"

    def __str__(self) -> str:
        return (
            f"{self.file} ({self.name}) is damaged: {self.problem}. Lost is {self.lost}. Restore "
            f"it from a copy, or: {self.command}"
        )


def damaged(config: Config) -> list[StateFile]:
    """Return the files that are not whole."""
    return [one for one in state_files(config) if one.problem is not None]


def state_files(config: Config) -> list[StateFile]:
    """Return every state file of a workspace, those that are not there included."""
    state = config.layout.state
    files = [
        StateFile(
            "ledger",
            config.layout.ledger,
            _ledger,
            "what ran, which fits, releases and experiments there are, and since when snapshots "
            "are online; their rows are kept",
            RUN,
        ),
        StateFile(
            "staging mark",
            state / "stg_activity.json",
            _json("settings", "read"),
            "what was read of the events source; the next run reads it whole",
            RUN,
        ),
        StateFile(
            "sources",
            config.layout.sources,
            _json(),
            "what the data were made from; the next run notes what the configuration says",
            RUN,
        ),
        StateFile(
            "workspace",
            config.layout.workspace,
            _json("id", "name"),
            "the id by which stores know their owner; a new id is refused by a shared store",
            RUN,
        ),
        StateFile(
            "states of the stream",
            state / "stream.db",
            _sqlite(),
            "the streamed sequences; they are made again of snapshot, streamed rows and bus",
            REBUILD,
        ),
        StateFile(
            "tombstones",
            config.layout.tombstones,
            _digests,
            "which members were forgotten; the sources bring them back",
            FORGET,
        ),
        StateFile(
            "key of the tombstones",
            config.layout.forget_key,
            _digests,
            "by what forgotten members are known again; the tombstones are of no use without it",
            FORGET,
            config.layout.tombstones,
        ),
        StateFile(
            "model registry",
            config.layout.mlflow / "mlflow.db",
            _sqlite(),
            "which packages were registered; the packages are kept",
            "activity train NAME",
        ),
    ]
    return [*files, *_notes(config), *_of_feast(config)]


def _notes(config: Config) -> Iterator[StateFile]:
    """Yield the notes that lie in folders of their own names, as far as they are there."""
    layout = config.layout
    for note in sorted(layout.state.glob("items_online/*.json")):
        lost = "which items are online; the next run publishes all of them"
        yield StateFile("items mark", note, _json("target", "as_of", "files"), lost, RUN)
    for folder in (layout.activity, layout.quarantine):
        lost = "how its rows are divided into periods; the source is read again"
        yield StateFile("periods", folder / PERIOD_NOTE, _json("period"), lost, RUN, folder)
    lost = "nothing; a service writes it again with the next answers that it shows"
    note = layout.impressions / PERIOD_NOTE
    yield StateFile("periods", note, _json("period"), lost, "activity serve")
    for note in sorted((layout.root / "item_encoders").glob("*/*/manifest.json")):
        lost = "how the item encoder was fitted"
        yield StateFile("item encoder", note, _encoder, lost, "activity fit", note.parent)
    for root in (layout.artifacts, layout.root / "registered"):
        for note in sorted(root.glob("*/*/manifest.json")):
            lost = "the package; it is made again, a learned one trained again"
            yield StateFile("package", note, _package, lost, RUN, note.parent)
    for note in sorted((layout.artifacts / "rankers").glob("*/*/manifest.json")):
        again = f"activity train ranker {note.parent.parent.name}"
        yield StateFile("ranker", note, _package, "the fitted ranker", again, note.parent)


def _of_feast(config: Config) -> Iterator[StateFile]:
    """Yield the files that feature_store.yaml names, where they are files."""
    try:
        settings = expanded(yaml.safe_load(config.path(config.feature_store).read_text()))
        registry, online = settings["registry"], settings.get("online_store") or {}
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        return
    path = registry.get("path") if isinstance(registry, dict) else registry
    if isinstance(path, str) and (path.startswith("sqlite") or "://" not in path):
        is_sql = path.startswith("sqlite")
        yield StateFile(
            "Feast's registry",
            config.path(path.partition(":///")[2] if is_sql else path),
            _sqlite() if is_sql else _not_empty,
            "the registered views and services; they are declared again",
            RUN,
        )
    if isinstance(online, dict) and isinstance(online.get("path"), str):
        yield StateFile(
            "online store",
            config.path(online["path"]),
            _sqlite(),
            "the online rows; the last snapshot is published again, and what was streamed since "
            f"with {REBUILD}",
            RUN,
        )


def _json(*keys: str) -> Callable[[Path], None]:
    def check(file: Path) -> None:
        found: Any = json.loads(file.read_text())
        if not isinstance(found, dict):
            raise ValueError(f"expected keys and values, got {type(found).__name__}")
        missing = [key for key in keys if key not in found]
        if missing:
            raise ValueError(f"expected the keys {', '.join(keys)}, missing: {', '.join(missing)}")

    return check


def _package(note: Path) -> None:
    """Check the manifest of a package, and the files that it names."""
    _json("weights_sha256")(note)
    for name, expected in json.loads(note.read_text()).get("files", {}).items():
        _expect_sum(note.parent / name, expected)


def _encoder(note: Path) -> None:
    """Check the manifest of an item encoder, and what was fitted."""
    _json("sha256")(note)
    from models.items.saved import ARCHIVE

    _expect_sum(note.parent / ARCHIVE, json.loads(note.read_text())["sha256"])


def _expect_sum(file: Path, expected: str) -> None:
    got = digest(file)
    if got != expected:
        raise ValueError(f"{file.name}: expected the SHA-256 {expected}, got {got}")


def _ledger(file: Path) -> None:
    """Check the ledger, and the times and JSON of its rows: SQLite has no checksums."""
    import sqlalchemy as sa

    from operations import alert_failures, drift, incremental, releases, rhythm, trials  # noqa: F401
    from operations.ledger import METADATA

    _sqlite("run", "stage")(file)
    uri = f"{file.resolve().as_uri()}?mode=ro"
    engine = sa.create_engine("sqlite://", creator=lambda: sqlite3.connect(uri, uri=True))
    with closing(engine.connect()) as connection:
        here = sa.inspect(connection)
        names = [name for name in here.get_table_names() if name in METADATA.tables]
        for table in map(METADATA.tables.__getitem__, names):
            there = {column["name"] for column in here.get_columns(table.name)}
            columns = [column for column in table.columns if column.name in there]
            for row in connection.execute(sa.select(*columns)).mappings():
                for name in TIMES & row.keys():
                    if row[name] is not None:
                        datetime.fromisoformat(row[name])


def _sqlite(*tables: str) -> Callable[[Path], None]:
    def check(file: Path) -> None:
        with file.open("rb") as opened:
            head = opened.read(len(SQLITE))
        if head and head != SQLITE:
            raise ValueError("expected a SQLite database, got other bytes")
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as con:
            (said,) = con.execute("pragma quick_check(1)").fetchone()
            if said != "ok":
                raise ValueError(said)
            there = {name for (name,) in con.execute("select name from sqlite_master")}
        if not head or not {*tables} <= there:
            raise ValueError(f"expected the tables {', '.join(tables) or 'that were in it'}")

    return check


def _digests(file: Path) -> None:
    lines = file.read_text().split()
    if not lines or not all(map(DIGEST.fullmatch, lines)):
        raise ValueError("expected lines of 64 hexadecimal digits")


def _not_empty(file: Path) -> None:
    if not file.stat().st_size:
        raise ValueError("it is empty")
