"""Where every table, artifact and state file lies, and how partitions are named.

Only this module knows paths below the data folder. A table is a folder of partitions
(`period=…` or `as_of=…`), each one Parquet file that is either whole or absent. With more than one
bucket, activity lies in `bucket=…/period=…`, and a snapshot of members in `as_of=…/bucket=…`.
"""

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from transformations import names
from transformations.errors import InputError, RunFailedError
from transformations.files import replacing

PART = "part-0.parquet"
PERIOD_NOTE = "_layout.json"
BUCKET = "bucket="

Period = Literal["day", "week", "month"]
PERIOD_DAYS: dict[Period, int] = {"day": 1, "week": 7, "month": 30}
ROWS_PER_PARTITION = 1_000
"""A file costs some milliseconds whatever it holds, so a period should hold at least that many."""


@dataclass(frozen=True)
class Layout:
    """The paths of one data folder.

    Attributes:
        root: The data folder, absolute.
        buckets: Into how many parts the rows of members are divided.
    """

    root: Path
    buckets: int = 1

    @property
    def all_buckets(self) -> list[int | None]:
        """The buckets that tables of members are built in; [None]: one file, in no bucket."""
        return [*range(self.buckets)] if self.buckets > 1 else [None]

    @property
    def activity(self) -> Path:
        """Folder of `activity/period=…` or `…/bucket=…/period=…`: one row per action."""
        return self.root / "activity"

    @property
    def quarantine(self) -> Path:
        """Folder of `quarantine/period=…`: one row per refused input row."""
        return self.root / "quarantine"

    @property
    def searches(self) -> Path:
        """File of `searches`: the texts that members acted on, as by searching."""
        return self.root / "searches" / PART

    @property
    def staged_items(self) -> Path:
        """File of `stg_items`: what item vectors are made from."""
        return self.root / "stg_items" / PART

    @property
    def members(self) -> Path:
        """File of `members`: the profiles of members."""
        return self.root / "members" / PART

    @property
    def sequences(self) -> Path:
        """Folder of `member_sequences/as_of=…`."""
        return self.root / "member_sequences"

    @property
    def all_embeddings(self) -> Path:
        """Folder of every aggregator's embeddings."""
        return self.root / "member_embeddings"

    def embeddings(self, view: str) -> Path:
        """Folder of `member_embeddings/<view>/as_of=…`."""
        return self.all_embeddings / view

    @property
    def member_stats(self) -> Path:
        """Folder of `member_stats/as_of=…`."""
        return self.root / "member_stats"

    @property
    def item_stats(self) -> Path:
        """Folder of `item_stats/as_of=…`."""
        return self.root / "item_stats"

    @property
    def logged_features(self) -> Path:
        """Folder of `logged_features/<ranker>`: what it read, as services log it."""
        return self.root / "logged_features"

    @property
    def recommendations(self) -> Path:
        """Folder of `member_recommendations/as_of=…`: lists that were made before."""
        return self.root / "member_recommendations"

    @property
    def impressions(self) -> Path:
        """Folder of `impressions/period=…`: one row per item shown, in the parts of services."""
        return self.root / "impressions"

    def table(self, view: str) -> Path:
        """Folder of a member view's snapshots, whichever view it is."""
        folders = {
            names.SEQUENCE_VIEW: self.sequences,
            names.MEMBER_STATS_VIEW: self.member_stats,
        }
        return folders.get(view) or self.embeddings(view)

    @property
    def all_lists(self) -> Path:
        """Folder of every candidate source's lists."""
        return self.root / "candidate_lists"

    def lists(self, view: str) -> Path:
        """Folder of `candidate_lists/<view>/as_of=…`."""
        return self.all_lists / view

    def items(self, space: names.Space) -> Path:
        """Folder of the item vectors of a space."""
        return self.root / "items" / _of_space(space)

    def item_encoder(self, space: names.Space) -> Path:
        """Folder of a fitted item encoder and its manifest."""
        number = names.number(space.version, space.fit)
        return self.root / "item_encoders" / space.encoder / number

    def item_table(self, space: names.Space) -> Path:
        """Folder of the item vectors as one memory-mapped array, for request time."""
        return self.root / "item_tables" / _of_space(space)

    def training_examples(self, name: str) -> Path:
        """File of the examples that one training reads."""
        return self.root / "training_examples" / name / PART

    @property
    def tuning(self) -> Path:
        """Folder of the searches for training settings."""
        return self.root / "tuning"

    @property
    def artifacts(self) -> Path:
        """Folder of `artifacts/<aggregator>/v<version>/`, or `v<version>_f<fit>/`."""
        return self.root / "artifacts"

    def artifact(self, aggregator: str, version: int, fit: int = 1) -> Path:
        """Folder of a packaged aggregator: its SavedModel and manifest."""
        return self.artifacts / aggregator / names.number(version, fit)

    def ranker(self, name: str, version: int, fit: int = 1) -> Path:
        """Folder of a packaged ranker: what was fitted, and its manifest."""
        return self.artifacts / "rankers" / name / names.number(version, fit)

    def registered(self, aggregator: str, version: int) -> Path:
        """Folder of a package that was copied from the model registry."""
        return self.root / "registered" / aggregator / f"v{version}"

    @property
    def mlflow(self) -> Path:
        """Folder of the model registry that is used where no other is named."""
        return self.root / "mlflow"

    @property
    def evaluation(self) -> Path:
        """Folder of the last evaluation: its data, result and report."""
        return self.root / "evaluation"

    @property
    def item_page(self) -> Path:
        """File of the page of item spaces."""
        return self.root / "reports" / "items.html"

    @property
    def archive(self) -> Path:
        """Folder of what tables and buses gave, as it came; its lock is its writers'."""
        return self.root / "archive"

    @property
    def archive_index(self) -> Path:
        """Folder of the archive's index: a file of lines per day (UTC) of reading."""
        return self.archive / "index"

    def archived(self, sha256: str) -> Path:
        """File of what is kept under this SHA-256, which is the file's own."""
        return self.archive / "objects" / sha256[:2] / f"{sha256}.parquet"

    @property
    def simulated(self) -> Path:
        """Folder of the simulated market."""
        return self.root / "simulated"

    @property
    def state(self) -> Path:
        """Folder of marks, locks, spill files and the ledger."""
        return self.root / "state"

    @property
    def item_marks(self) -> Path:
        """Folder of `as_of=…`: a number that stands for each item's content, to see it change."""
        return self.state / "item_marks"

    @property
    def tasks(self) -> Path:
        """Folder of what tasks are writing, until all of it is put in place."""
        return self.state / "tasks"

    @property
    def sources(self) -> Path:
        """What the data were made from: the note of the first run."""
        return self.state / "sources.json"

    @property
    def forget_key(self) -> Path:
        """The secret by which ids of forgotten members are hashed, made once."""
        return self.state / "forget.key"

    @property
    def tombstones(self) -> Path:
        """The keyed hash of each forgotten member's id, one per line."""
        return self.state / "tombstones.txt"

    @property
    def made(self) -> list[Path]:
        """What runs make of the sources, in the order in which a reset removes it."""
        return [
            self.root / name
            for name in (
                "member_recommendations",
                "member_embeddings",
                "member_stats",
                "member_sequences",
                "candidate_lists",
                "item_stats",
                "training_examples",
                "evaluation",
                "reports",
                "tuning",
                "artifacts",
                "registered",
                "item_tables",
                "items",
                "item_encoders",
                "stg_items",
                "members",
                "searches",
                "activity",
                "quarantine",
            )
        ]

    @property
    def ledger(self) -> Path:
        """The ledger: a SQLite file that the first command which writes makes."""
        return self.state / "ledger.db"

    @property
    def workspace(self) -> Path:
        """The id and name of this data folder's workspace, made once."""
        return self.state / "workspace.json"


def _of_space(space: names.Space) -> Path:
    # Two folders beside each other: plain Feast reads a folder with all that lies below it.
    number = names.number(space.version, space.fit).removeprefix("v")
    return Path(f"encoder={space.encoder}") / f"version={number}"


def part_files(folder: Path) -> list[Path]:
    """Return the Parquet files of a folder that is not partitioned, in the order of their names."""
    return sorted(folder.glob("*.parquet"))


def partition_files(folder: Path) -> list[Path]:
    """Return the files of a table's partitions, of all buckets, in the order of their keys."""
    return sorted([*folder.glob(f"*=*/{PART}"), *folder.glob(f"*=*/*=*/{PART}")])


def partition_key(file: Path) -> str:
    """Return what a partition's file is named after: its period or as_of.

    >>> partition_key(Path("member_stats/as_of=2026-03-01/bucket=2/part-0.parquet"))
    '2026-03-01'
    """
    folder = file.parent.parent if file.parent.name.startswith(BUCKET) else file.parent
    return folder.name.partition("=")[2]


def period_of(folder: Path) -> Period | None:
    """Return how the rows of a folder are partitioned; None where nothing was written yet.

    Raises:
        InputError: it was written by a version that knew days only.
    """
    note = _note(folder)
    if note is not None:
        period: Period = note["period"]
        return period
    if any(folder.glob("date=*")):
        raise InputError(
            f"{folder} was written by an older version, in folders date=…; `activity rebuild` "
            "writes it in periods, without reading the source again"
        )
    return None


def note_period(folder: Path, period: Period, buckets: int = 1) -> None:
    """Record how the rows of a folder are partitioned; before the first of them is written."""
    note = {"period": period} | ({"buckets": buckets} if buckets > 1 else {})
    with replacing(folder / PERIOD_NOTE) as file:
        file.write_text(json.dumps(note) + "\n")


def expect_buckets(layout: Layout) -> None:
    """Raise where the activity lies in another number of buckets than is configured.

    Raises:
        InputError: says both numbers.
    """
    note = _note(layout.activity)
    if note is not None and (got := note.get("buckets", 1)) != layout.buckets:
        raise InputError(
            f"expected activity in {layout.buckets} buckets (layout.buckets), got {got} in "
            f"{layout.activity}; `activity rebuild --buckets {layout.buckets}` divides it again, "
            "without reading the source"
        )


def _note(folder: Path) -> dict[str, Any] | None:
    file = folder / PERIOD_NOTE
    if not file.exists():
        return None
    try:
        note = dict(json.loads(file.read_text()))
        return note | {"period": note["period"]}
    except (ValueError, TypeError, KeyError):
        raise RunFailedError(
            f"{file} is damaged: expected how the rows are partitioned. `activity status --files` "
            "says what mends it"
        ) from None


def best_period(rows: int, days: int) -> Period:
    """Return the shortest period in which `rows` spread over `days` fill a partition.

    >>> best_period(7_000, days=7), best_period(118_000, days=6_600)
    ('day', 'month')
    """
    for period, length in PERIOD_DAYS.items():
        if rows * length >= ROWS_PER_PARTITION * max(days, 1):
            return period
    return "month"


def period_start(day: date, period: Period) -> date:
    """Return the first day of the period that a day lies in; weeks begin on Monday.

    >>> [period_start(date(2026, 3, 4), period).isoformat() for period in PERIOD_DAYS]
    ['2026-03-04', '2026-03-02', '2026-03-01']
    """
    if period == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if period == "month" else day


def period_file(folder: Path, start: date, bucket: int | None = None) -> Path:
    """Return the one Parquet file of the period that begins on a day, or of a bucket's rows in it.

    Args:
        bucket: None where rows lie in no buckets.
    """
    return bucket_folder(folder, bucket) / f"period={start.isoformat()}" / PART


def bucket_folder(folder: Path, bucket: int | None) -> Path:
    """Return the folder of a bucket inside another; that itself for None."""
    return folder if bucket is None else folder / f"{BUCKET}{bucket}"


def span(files: Sequence[Path]) -> tuple[datetime, datetime] | None:
    """Return the oldest and the newest event_timestamp in Parquet files, from their footers."""
    ends = [ends for file in files for ends in _ends(file)]
    return (min(first for first, _ in ends), max(last for _, last in ends)) if ends else None


def files_between(
    folder: Path, start: datetime, end: datetime, bucket: int | None = None
) -> list[Path]:
    """Return the files of a folder's periods that may hold a row in [start, end), in order.

    The footers decide, not the names of the folders.

    Args:
        bucket: Only those of this one.
    """
    period_of(folder)
    return [
        file
        for file in partition_files(bucket_folder(folder, bucket))
        if any(first < end and last >= start for first, last in _ends(file))
    ]


def earliest(files: Sequence[Path], column: str) -> datetime | None:
    """Return the oldest value of a timestamp in Parquet files, from their footers."""
    return min((first for file in files for first, _ in _ends(file, column)), default=None)


def parts_between(folder: Path, column: str, start: datetime, end: datetime) -> list[Path]:
    """Return the files of a folder of parts that may hold a row whose time is in [start, end)."""
    return [
        file
        for file in sorted(folder.glob("*=*/*.parquet"))
        if any(first < end and last >= start for first, last in _ends(file, column))
    ]


def _ends(file: Path, name: str = "event_timestamp") -> tuple[tuple[datetime, datetime], ...]:
    """Return the oldest and newest value of a column in each row group."""
    found = file.stat()
    # Files are replaced, never written to: a footer is read again where it is another file.
    return _ends_of(file, name, found.st_ino, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=65_536)
def _ends_of(file: Path, name: str, *_: int) -> tuple[tuple[datetime, datetime], ...]:
    return tuple(_read_ends(file, name))


def _read_ends(file: Path, name: str) -> Iterator[tuple[datetime, datetime]]:
    import pyarrow.parquet as pq  # a tenth of a second, and every command imports this module

    metadata = pq.read_metadata(file)
    column = metadata.schema.names.index(name)
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(column).statistics
        if statistics is None or not statistics.has_min_max:
            yield datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
        elif metadata.row_group(group).num_rows:
            yield statistics.min, statistics.max


def as_of_name(as_of: datetime) -> str:
    """Name a timestamp's partition: `2026-01-31`, or `2026-01-31T06-30-00` when not midnight.

    >>> as_of_name(datetime(2026, 1, 31, tzinfo=UTC))
    '2026-01-31'
    """
    utc = as_of.astimezone(UTC)
    if (utc.hour, utc.minute, utc.second, utc.microsecond) == (0, 0, 0, 0):
        return utc.strftime("%Y-%m-%d")
    if utc.microsecond:
        return utc.strftime("%Y-%m-%dT%H-%M-%S.%f")
    return utc.strftime("%Y-%m-%dT%H-%M-%S")


def parse_as_of_name(name: str) -> datetime:
    """Read back what `as_of_name` wrote. Raises ValueError for any other text."""
    for form in ("%Y-%m-%d", "%Y-%m-%dT%H-%M-%S", "%Y-%m-%dT%H-%M-%S.%f"):
        try:
            return datetime.strptime(name, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    raise ValueError(f"expected a partition name like 2026-01-31, got {name!r}")


def partition(folder: Path, as_of: datetime) -> Path:
    """Return the one Parquet file of `folder`'s partition for `as_of`, in no bucket."""
    return folder / f"as_of={as_of_name(as_of)}" / PART


def snapshot_files(folder: Path, as_of: datetime) -> list[Path]:
    """Return the files of a member table's snapshot, one per bucket; none where there is none."""
    file = partition(folder, as_of)
    return [file] if file.exists() else sorted(file.parent.glob(f"{BUCKET}*/{PART}"))


def bucket_in(file: Path) -> int | None:
    """Return the bucket that a file of `snapshot_files` lies in; None where in none."""
    name = file.parent.name
    return int(name.removeprefix(BUCKET)) if name.startswith(BUCKET) else None


def rows_of(files: Iterable[Path]) -> int:
    """Return how many rows Parquet files hold, by their footers."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(file).num_rows for file in files)


def rows_read(folder: Path) -> Path:
    """Return the file of single rows of a member view: those that somebody's labels read.

    It lies beside the partitions, so that a training join reads it; it is none of them.
    """
    return folder / "as_of=read" / "rows.parquet"


def partitions(folder: Path) -> list[datetime]:
    """Return the timestamps for which `folder` holds a whole partition, oldest first."""
    files = [*folder.glob(f"as_of=*/{PART}"), *folder.glob(f"as_of=*/{BUCKET}*/{PART}")]
    return sorted({parse_as_of_name(partition_key(file)) for file in files})
