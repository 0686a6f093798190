"""What ran, on what data, and how it ended: a small SQLite database beside the data."""

import fcntl
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from transformations import clock
from transformations.config import Config
from transformations.errors import InputError, RunFailedError
from transformations.secrets import redact
from transformations.visible import visible

METADATA = sa.MetaData()
ERROR_LENGTH = 2_000
"""Characters of an error that a run keeps: some libraries repeat all of a damaged file."""

RUNS = sa.Table(
    "run",
    METADATA,
    sa.Column("run_id", sa.Integer, primary_key=True),
    sa.Column("command", sa.String, nullable=False),
    sa.Column("as_of", sa.String),
    sa.Column("started_at", sa.String, nullable=False),
    sa.Column("finished_at", sa.String),
    sa.Column("published_at", sa.String),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("error", sa.String),
)

STAGES = sa.Table(
    "stage",
    METADATA,
    sa.Column("run_id", sa.Integer, sa.ForeignKey("run.run_id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("stage", sa.String, nullable=False),
    sa.Column("rows_in", sa.Integer),
    sa.Column("rows_out", sa.Integer),
    sa.Column("refused", sa.JSON, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)


class Ledger:
    """Appends runs and their stages; one writer at a time, any number of readers.

    Times are stored as UTC ISO text, which sorts as it reads.
    """

    def __init__(self, config: Config) -> None:
        """Open the ledger of `config`'s data folder; create it when it is missing."""
        self.folder = config.layout.state
        self.folder.mkdir(parents=True, exist_ok=True)
        self.engine = sa.create_engine(f"sqlite:///{config.layout.ledger}")
        METADATA.create_all(self.engine)

    def start(self, command: str, as_of: datetime | None) -> int:
        """Note the start of a run, whose as_of may not be known yet; return the run's id."""
        with self.engine.begin() as connection:
            # The holder of the lock is the only run: another one marked as running was killed.
            connection.execute(
                sa.update(RUNS).where(RUNS.c.status == "running").values(status="killed")
            )
            row = connection.execute(
                sa.insert(RUNS)
                .values(
                    command=command,
                    as_of=None if as_of is None else _text(as_of),
                    started_at=now_text(),
                    status="running",
                )
                .returning(RUNS.c.run_id)
            )
            return int(row.scalar_one())

    def stage(
        self,
        run_id: int,
        stage: str,
        rows_in: int | None,
        rows_out: int | None,
        refused: Mapping[str, int],
        seconds: float,
    ) -> None:
        """Note one finished stage of a run."""
        position = sa.select(sa.func.count()).where(STAGES.c.run_id == run_id)
        with self.engine.begin() as connection:
            connection.execute(
                sa.insert(STAGES).values(
                    run_id=run_id,
                    position=position.scalar_subquery(),
                    stage=stage,
                    rows_in=rows_in,
                    rows_out=rows_out,
                    refused=dict(refused),
                    seconds=seconds,
                )
            )

    def resolve(self, run_id: int, as_of: datetime) -> None:
        """Note the as_of of a run that started without one."""
        self._update(run_id, as_of=_text(as_of))

    def published(self, run_id: int, timestamp: datetime) -> None:
        """Note since when a run's snapshot can be read online."""
        self._update(run_id, published_at=_text(timestamp))

    def finish(self, run_id: int, error: BaseException | None = None) -> None:
        """Note how a run ended; an error by its beginning, without secrets and escape sequences."""
        status = "done" if error is None else "failed"
        said = "" if error is None else visible(redact(f"{type(error).__name__}: {error}"))
        message = said[:ERROR_LENGTH] + "…" * (len(said) > ERROR_LENGTH)
        self._update(run_id, status=status, error=message or None, finished_at=now_text())

    def replace_in_errors(self, values: Collection[object], by: str) -> int:
        """Replace values, ids of members, in the messages of failed runs; return in how many.

        A value counts where no letter or digit touches it.
        """
        texts, changed = [re.escape(str(value)) for value in values], 0
        with self.engine.begin() as connection:
            query = sa.select(RUNS.c.run_id, RUNS.c.error).where(RUNS.c.error.is_not(None))
            for run_id, error in connection.execute(query).all():
                found = [text for text in texts if re.search(rf"(?<!\w){text}(?!\w)", error)]
                if found:
                    without = re.sub(rf"(?<!\w)({'|'.join(found)})(?!\w)", by, error)
                    update = sa.update(RUNS).where(RUNS.c.run_id == run_id)
                    connection.execute(update.values(error=without))
                    changed += 1
        if changed:
            with self.engine.connect() as connection:  # SQLite keeps what was replaced
                connection.execution_options(isolation_level="AUTOCOMMIT").execute(
                    sa.text("vacuum")
                )
        return changed

    def newest_published(self, before: datetime | None = None) -> datetime | None:
        """Return the newest as_of that is online, or the newest one before a timestamp."""
        query = sa.select(sa.func.max(RUNS.c.as_of)).where(RUNS.c.published_at.is_not(None))
        return self._timestamp(
            query if before is None else query.where(RUNS.c.as_of < _text(before))
        )

    def newest_as_of(self) -> datetime | None:
        """Return the newest as_of of all runs, however they ended."""
        return self._timestamp(sa.select(sa.func.max(RUNS.c.as_of)))

    def first_published(self) -> dict[datetime, datetime]:
        """Return every as_of that a live run published → since when it could be read."""
        published = sa.func.min(RUNS.c.published_at)
        query = sa.select(RUNS.c.as_of, published).where(RUNS.c.published_at.is_not(None))
        with self.engine.connect() as connection:
            rows = connection.execute(query.group_by(RUNS.c.as_of)).all()
        return {datetime.fromisoformat(of): datetime.fromisoformat(at) for of, at in rows}

    def published_as_ofs(self) -> set[datetime]:
        """Return every as_of that a live run published."""
        return set(self.first_published())

    def last_runs(self, count: int = 10) -> list[dict[str, Any]]:
        """Return the newest runs, newest first, each with its stages under `stages`."""
        with self.engine.connect() as connection:
            query = sa.select(RUNS).order_by(RUNS.c.run_id.desc()).limit(count)
            runs = [dict(row) for row in connection.execute(query).mappings()]
            for run in runs:
                stages = sa.select(STAGES).where(STAGES.c.run_id == run["run_id"])
                ordered = connection.execute(stages.order_by(STAGES.c.position)).mappings()
                run["stages"] = [dict(stage) for stage in ordered]
        return runs

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the data folder for one writer; the lock ends with the process.

        Raises:
            InputError: another process holds it.
        """
        with locked_state(self.folder):
            yield

    def is_running(self) -> bool:
        """Whether the newest run is under way: its process lives. A killed one's does not."""
        runs = self.last_runs(1)
        if not runs or runs[0]["status"] != "running":
            return False
        try:
            os.kill(int((self.folder / "lock").read_text()), 0)
        except PermissionError:
            return True  # somebody else's process
        except (OSError, ValueError):
            return False
        return True

    @contextmanager
    def run(self, command: str, as_of: datetime | None) -> Iterator[int]:
        """Note a run's start and end around the block; yield its id."""
        run_id = self.start(command, as_of)
        try:
            yield run_id
        except BaseException as error:
            self.finish(run_id, error)
            raise
        self.finish(run_id)

    def _update(self, run_id: int, **values: Any) -> None:
        with self.engine.begin() as connection:
            changed = connection.execute(
                sa.update(RUNS).where(RUNS.c.run_id == run_id).values(**values)
            )
        if changed.rowcount != 1:
            raise RunFailedError(f"the ledger in {self.folder} has no run {run_id}")

    def _timestamp(self, query: sa.Select[Any]) -> datetime | None:
        with self.engine.connect() as connection:
            text = connection.execute(query).scalar()
        return None if text is None else datetime.fromisoformat(text)


@contextmanager
def locked_state(folder: Path) -> Iterator[None]:
    """Lock a data folder for one writer, also before it has a ledger.

    Args:
        folder: Of its state; it is made.

    Raises:
        InputError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"another run (process {file.read().strip() or 'unknown'}) is writing to "
                f"{folder.parent}; wait for it to end, then run this again"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def ledger_exists(config: Config) -> bool:
    """Whether anything ever ran on `config`'s data folder."""
    return config.layout.ledger.exists()


def _text(timestamp: datetime) -> str:
    return timestamp.astimezone(UTC).isoformat(timespec="microseconds")


def now_text() -> str:
    """Return the present time as the ledger writes it."""
    return _text(clock.now())
