"""Where every table, artifact and state file lies, and how partitions are named.

Only this module knows paths below the data folder. A table is a folder of partitions
(`date=…` or `as_of=…`), each one Parquet file that is either whole or absent.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from transformations import names

PART = "part-0.parquet"


@dataclass(frozen=True)
class Layout:
    """The paths of one data folder.

    Attributes:
        root: The data folder, absolute.
    """

    root: Path

    @property
    def activity(self) -> Path:
        """Folder of `activity/date=…`: one row per action."""
        return self.root / "activity"

    @property
    def quarantine(self) -> Path:
        """Folder of `quarantine/date=…`: one row per refused input row."""
        return self.root / "quarantine"

    @property
    def staged_items(self) -> Path:
        """File of `stg_items`: what item vectors are made from."""
        return self.root / "stg_items" / PART

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

    def table(self, view: str) -> Path:
        """Folder of a member view's snapshots, whichever view it is."""
        return self.sequences if view == names.SEQUENCE_VIEW else self.embeddings(view)

    def items(self, encoder: str, version: int) -> Path:
        """Folder of the item vectors of an encoder's version."""
        return self.root / "items" / f"encoder={encoder}" / f"version={version}"

    def item_encoder(self, encoder: str, version: int) -> Path:
        """Folder of a fitted item encoder and its manifest."""
        return self.root / "item_encoders" / encoder / f"v{version}"

    def item_table(self, encoder: str, version: int) -> Path:
        """Folder of the item vectors as one memory-mapped array, for request time."""
        return self.root / "item_tables" / f"encoder={encoder}" / f"version={version}"

    def training_examples(self, name: str) -> Path:
        """File of the examples that one training reads."""
        return self.root / "training_examples" / name / PART

    @property
    def tuning(self) -> Path:
        """Folder of the searches for training settings."""
        return self.root / "tuning"

    @property
    def artifacts(self) -> Path:
        """Folder of `artifacts/<aggregator>/v<version>/`."""
        return self.root / "artifacts"

    def artifact(self, aggregator: str, version: int) -> Path:
        """Folder of a packaged aggregator: its SavedModel and manifest."""
        return self.artifacts / aggregator / f"v{version}"

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
    def simulated(self) -> Path:
        """Folder of the simulated market."""
        return self.root / "simulated"

    @property
    def state(self) -> Path:
        """Folder of marks, locks, spill files and the ledger."""
        return self.root / "state"

    @property
    def ledger(self) -> Path:
        """The ledger: a SQLite file that the first command which writes makes."""
        return self.state / "ledger.db"


def part_files(folder: Path) -> list[Path]:
    """Return the Parquet files of a folder that is not partitioned, in the order of their names."""
    return sorted(folder.glob("*.parquet"))


def partition_files(folder: Path) -> list[Path]:
    """Return the files of a table's partitions, in the order of their keys."""
    return sorted(folder.glob(f"*=*/{PART}"))


def days(folder: Path) -> list[date]:
    """Return the days for which a table holds a partition, oldest first."""
    return [day_of(file) for file in partition_files(folder)]


def day_file(folder: Path, day: date) -> Path:
    """Return the one Parquet file of a day; the opposite of `day_of`."""
    return folder / f"date={day.isoformat()}" / PART


def day_of(file: Path) -> date:
    """Return the day of a file in a folder `date=2026-01-31`."""
    return date.fromisoformat(file.parent.name.removeprefix("date="))


def files_between(folder: Path, start: datetime, end: datetime) -> list[Path]:
    """Return the day files that may hold a row in [start, end), oldest first."""
    first, last = start.astimezone(UTC).date(), end.astimezone(UTC).date()
    return [file for file in partition_files(folder) if first <= day_of(file) <= last]


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
    """Return the one Parquet file of `folder`'s partition for `as_of`."""
    return folder / f"as_of={as_of_name(as_of)}" / PART


def partitions(folder: Path) -> list[datetime]:
    """Return the timestamps for which `folder` holds a whole partition, oldest first."""
    return sorted(
        parse_as_of_name(file.parent.name.removeprefix("as_of="))
        for file in folder.glob(f"as_of=*/{PART}")
    )
