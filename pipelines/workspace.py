"""A workspace from Python: print what lies in it, take its tables as Arrow and its FeatureStore.

>>> from pipelines import workspace
>>> ws = workspace.open("ifdb")  # doctest: +SKIP
>>> print(ws)  # doctest: +SKIP
>>> ws.vectors("decay").to_pandas()  # doctest: +SKIP
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from models.lines import Aggregator
from operations.fits import Fits, current_lines, lines_of
from operations.ledger import Ledger, ledger_exists
from pipelines.progress import number, plain_table
from pipelines.terminal import Terminal, escape
from transformations import names
from transformations.config import Config, load_config
from transformations.duck import connect, count, parquet
from transformations.errors import InputError
from transformations.layout import (
    parse_as_of_name,
    part_files,
    partition_files,
    partition_key,
    partitions,
    snapshot_files,
    span,
)
from transformations.timestamps import as_utc, day, read_timestamp

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from duckdb import DuckDBPyConnection
    from feast import FeatureService, FeatureStore

When = datetime | str | None
WIDTH = 100
FIRST = "first: activity run"
LISTED = 6
"""How many snapshots an error lists one by one."""


def open(path: str | Path | None = None) -> "OpenWorkspace":  # noqa: A001 - workspace.open
    """Open a workspace; nothing is read yet, and reading changes no table.

    Args:
        path: As for `--config`: a bare name in workspaces/, a folder, or a configuration file.
            Default: $ACTIVITY_CONFIG, else the workspace that the process stands in.

    Raises:
        InputError: there is no such workspace, or its configuration is wrong.
    """
    return OpenWorkspace(load_config(path))


@dataclass(frozen=True)
class Held:
    """What lies in one table.

    Attributes:
        name: The table, or the view whose rows it holds.
        parts: How many files.
        rows: In all of them.
        first, last: The oldest and the newest event, or snapshot; None where there is none, and for
            item vectors.
    """

    name: str
    parts: int
    rows: int
    first: datetime | None = None
    last: datetime | None = None


@dataclass(frozen=True)
class OpenWorkspace:
    """What a workspace holds. Printed: its last run, its tables and views, their sizes and spans.

    Attributes:
        config: Its configuration.
    """

    config: Config

    @cached_property
    def store(self) -> "FeatureStore":
        """Feast's store of this workspace, whatever folder the process stands in."""
        from serving.publish import open_store  # Feast: seconds

        return open_store(self.config)

    def service(self, name: str) -> "FeatureService":
        """Return the service that a ranker reads, of an aggregator's newest line.

        Raises:
            InputError: the catalogue has no such name, or it was not published yet.
        """
        line = self._newest_lines().get(name)
        if line is None:
            raise InputError(
                f"expected an aggregator of {self.config.catalogue} "
                f"({', '.join(self._newest_lines())}), got {name!r}"
            )
        from feast.errors import FeatureServiceNotFoundException

        try:
            return self.store.get_feature_service(line.service)
        except FeatureServiceNotFoundException:
            raise InputError(f"{line.service} was not published yet; {FIRST}") from None

    def join(
        self,
        labels: "pd.DataFrame | str | Path",
        service: str,
        say: Callable[[str], object] = print,
    ) -> "pa.Table":
        """Join labels with what could be read of a service's views at their time.

        As `get_historical_features` with filter_by_created_timestamp, and it says what it could not
        give: labels without a row, rows that were old by then, which snapshots are missing and
        what builds them.

        Args:
            labels: member_id, item_id, event_timestamp and any other columns; a DataFrame, or what
                docs/stores-offline.md names.
            service: An aggregator's name, which stands for its newest line.
            say: Is given each sentence; none where every label got a fresh row.

        Returns:
            One row per label, in their order: their columns, and the features.

        Raises:
            InputError: there is no such aggregator, or it was not published yet; or the labels have
                no event_timestamp.
        """
        import pandas as pd

        from pipelines.coverage import sayings
        from serving.publish.feast_store import quiet

        job = self.store.get_historical_features(
            entity_df=labels,
            features=self.service(service),
            filter_by_created_timestamp=True,
        )
        with quiet():  # the store logs the same, without what would mend it
            table = job.to_arrow()
        if "event_timestamp" not in table.column_names:
            raise InputError(
                "expected the labels' time in a column event_timestamp, got "
                f"{', '.join(table.column_names)}"
            )
        times = pd.to_datetime(table["event_timestamp"].to_pandas(), utc=True).dropna()
        found = getattr(job, "coverage", ())  # Feast's own stores count nothing
        for said in sayings(self.config, found, times.dt.as_unit("us").astype("int64").to_numpy()):
            say(said)
        return table

    def activity(self) -> "pa.Table":
        """Return every action: member_id, item_id, action, event_timestamp, ingested_at.

        Raises:
            InputError: none was staged yet.
        """
        files = partition_files(self.config.layout.activity)
        if not files:
            raise InputError(f"no action was staged yet into {self.config.data}; {FIRST}")
        return _read(files)

    def sequences(self, as_of: When = None) -> "pa.Table":
        """Return each member's last actions, as of a snapshot: `rows` of that view."""
        return self.rows(names.SEQUENCE_VIEW, as_of)

    def vectors(self, name: str, as_of: When = None) -> "pa.Table":
        """Return each member's vectors by an aggregator, as of a snapshot: `rows` of its view."""
        return self.rows(name, as_of)

    def items(self, as_of: When = None) -> "pa.Table":
        """Return each item's newest vector by a timestamp: `rows` of the newest item view."""
        return self.rows(next(iter(self._item_views())), as_of)

    def rows(self, name: str, as_of: When = None) -> "pa.Table":
        """Return the rows of one view's snapshot, in the columns of docs/architecture.md.

        Vectors are lists of float32, also those that a line keeps as int8.

        Args:
            name: A view, or an aggregator's name, which stands for its newest line and fit.
            as_of: The snapshot, as a datetime or as "2026-01-31"; without a zone it is UTC.
                Default: the newest. An item view has no snapshots: it takes any timestamp, by
                default that of the newest sequences.

        Raises:
            InputError: there is no such view or snapshot: the message lists those that are there;
                or as_of is neither a date nor a time.
        """
        if isinstance(as_of, str):
            as_of = read_timestamp(as_of)
        wanted = None if as_of is None else as_utc(as_of)
        line = self._newest_lines().get(name)
        view = name if line is None else line.view
        if view not in self.views():
            raise InputError(
                f"expected a view of {self.config.file} ({', '.join(self.views())}) or an "
                f"aggregator's name, got {name!r}"
            )
        of_items = self._item_views().get(view)
        if of_items is not None:
            return _items(of_items, wanted or self._snapshot(names.SEQUENCE_VIEW, None))
        return _floats(
            _read(snapshot_files(self.config.layout.table(view), self._snapshot(view, wanted)))
        )

    def views(self) -> list[str]:
        """Name the views: the sequences, what is served, others that have snapshots, the items."""
        return [*self._member_views(), *self._item_views()]

    def snapshots(self, view: str) -> list[datetime]:
        """Return the as_of of each snapshot of a member view, oldest first."""
        return partitions(self.config.layout.table(view))

    def tables(self) -> list[Held]:
        """Return what lies in each table: the actions, the refused rows, the views."""
        layout = self.config.layout
        folders = {"activity": layout.activity, "quarantine": layout.quarantine}
        folders |= {view: layout.table(view) for view in self._member_views()}
        held = []
        with connect(self.config) as con:
            for name, folder in folders.items():
                files = partition_files(folder)
                ends = span(files) if name == "activity" else _ends(files)
                held.append(Held(name, len(files), _count(con, files), *(ends or ())))
            for view, own in self._item_views().items():
                files = part_files(own.items_dir)
                held.append(Held(view, len(files), _count(con, files)))
        return held

    def __str__(self) -> str:
        text = StringIO()
        console = Terminal(file=text, width=WIDTH, highlight=False)
        console.print(
            escape(f"workspace {self.config.root.name}, {self.config.root}"), soft_wrap=True
        )
        console.print(self._last_run(), soft_wrap=True)
        console.print()
        console.print(table_of(self.tables()))
        return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())

    def _newest_lines(self) -> dict[str, Aggregator]:
        lines = sorted(current_lines(self.config), key=lambda line: line.version)
        return {line.name: line for line in lines}

    def _member_views(self) -> list[str]:
        embeddings = self.config.layout.all_embeddings
        there = sorted(path.name for path in embeddings.glob("*") if partitions(path))
        served = [line.view for line in lines_of(self.config)]
        return list(dict.fromkeys([names.SEQUENCE_VIEW, names.MEMBER_STATS_VIEW, *served, *there]))

    def _item_views(self) -> dict[str, Config]:
        """Return the item views, the newest fit's first, each with its space's configuration."""
        spaces = Fits(self.config).all_spaces(lines_of(self.config))
        return {own.item_view: own for own, _ in spaces}

    def _last_run(self) -> str:
        runs = Ledger(self.config).last_runs(1) if ledger_exists(self.config) else []
        if not runs:
            return f"nothing was run yet; {FIRST}"
        (run,) = runs
        of = f" as of {run['as_of'][:10]}" if run["as_of"] else ""
        online = ", online" if run["published_at"] else ""
        started = run["started_at"][:16].replace("T", " ")
        return f"last run: {run['command']}{of}, {run['status']}{online}; started {started} UTC"

    def _snapshot(self, view: str, as_of: datetime | None) -> datetime:
        there = self.snapshots(view)
        if not there:
            raise InputError(f"{view} has no snapshot yet; {FIRST}")
        if as_of is None:
            return there[-1]
        if as_of not in there:
            asked = day(as_of)
            typed = asked.replace(" ", "T")
            raise InputError(
                f"expected the as_of of a snapshot of {view} ({_listed(there)}), got {asked}; to "
                f"build it: activity backfill --from {typed} --to {typed}"
            )
        return as_of


def _items(config: Config, as_of: datetime) -> "pa.Table":
    """Return the newest item vectors of the configuration's space by a timestamp."""
    import pyarrow as pa

    from models.items.build import identity
    from models.sequences import read_items

    with connect(config) as con:
        read_items(config, con, as_of)
        items: pa.Table = con.sql("from newest_items order by item_id").to_arrow_table()
    if not items.num_rows:
        raise InputError(f"no item had a vector by {day(as_of)}; name a later as_of")
    for name, value in identity(config).items():
        items = items.append_column(name, pa.repeat(pa.scalar(value), items.num_rows))
    return items


def _floats(rows: "pa.Table") -> "pa.Table":
    from models.quantization import floats

    for index, name in enumerate(rows.column_names):
        rows = rows.set_column(index, name, floats(rows[name]))
    return rows


def table_of(held: Iterable[Held]) -> Table:
    """Lay out what lies in each table; dates stay whole where a long name has to be folded."""
    table = plain_table("Tables")
    table.add_column("table", overflow="fold")
    for name in ("parts", "rows"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("first", "last"):
        table.add_column(name, no_wrap=True)
    for one in held:
        # Of an event its day is enough, which leaves names their room; a snapshot has a time.
        shown = "{:%Y-%m-%d}".format if one.name == "activity" else day
        ends = ("" if end is None else shown(end) for end in (one.first, one.last))
        table.add_row(one.name, number(one.parts), number(one.rows), *ends)
    return table


def _count(con: "DuckDBPyConnection", files: list[Path]) -> int:
    return count(con, f"select count(*) from {parquet(files)}") if files else 0


def _ends(files: Sequence[Path]) -> tuple[datetime, datetime] | None:
    """Return the first and the last of the periods or snapshots that files are named after."""
    keys = [parse_as_of_name(partition_key(file)) for file in files]
    return (min(keys), max(keys)) if keys else None


def _listed(there: Sequence[datetime]) -> str:
    if len(there) <= LISTED:
        return ", ".join(map(day, there))
    return f"{len(there)} from {day(there[0])} to {day(there[-1])}"


def _read(files: Sequence[Path]) -> "pa.Table":
    import pyarrow.parquet as pq

    # No columns of the folders' names: as_of is a row's event_timestamp.
    return pq.read_table(files, partitioning=None)
