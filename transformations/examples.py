"""Training examples: windows of a member's actions and what followed, with random negatives."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from transformations.attributes import lists_of
from transformations.config import Config
from transformations.duck import check, copy, named_in, parquet, sql
from transformations.example_settings import ExampleSettings
from transformations.item_kinds import other_items
from transformations.layout import expect_buckets, files_between
from transformations.seals import sealing
from transformations.snapshots import attempts
from transformations.sources.spool import spool
from transformations.tables import activity_query
from transformations.tasks import Engine, InTurn
from transformations.timestamps import EPOCH, MICROSECOND, microseconds

RANDOM_NEGATIVE = "RANDOM_NEGATIVE_FOR_"

# In this order, since each reads those before it.
SHARED = ("item_indexes", "action_shares", "day_items")
"""Tables of all members, made of what was counted in buckets."""
STEPS = ("example_actions", "random_negatives", "example_windows")
ORDER = ("shuffle", "member_id", "as_of", "happened_at", "item_index", "action_index", "draw")
KEYS = ("shuffle", "item_index", "action_index", "draw")
"""Of ORDER, what the merged file leaves out."""
ADDED = (
    "examples",
    "positives",
    "negatives",
    "random_negatives",
    "members",
    "members_dropped",
    "windows",
    "windows_empty",
    "random_negatives_acted_on",
)
"""Figures that are sums over members."""


@dataclass(frozen=True)
class ExampleReport:
    """Where the examples are, and their figures.

    Attributes:
        file: One Parquet file, its rows shuffled.
        examples: Rows: positives, true negatives and random negatives.
        members: Members with at least one example.
        members_dropped: Members with fewer than `min_actions` actions.
        windows: Distinct inputs; several labels may share one.
        windows_most: The most windows of one member.
        windows_empty: Windows without an action, left out.
        days: UTC days that random negatives were drawn for.
        random_negatives_acted_on: Random negatives whose item the member acted on at some time.
        lengths: Actions in the input → windows.
    """

    file: Path
    examples: int
    positives: int
    negatives: int
    random_negatives: int
    members: int
    members_dropped: int
    windows: int
    windows_most: int
    windows_empty: int
    days: int
    random_negatives_acted_on: int
    lengths: dict[int, int]

    @property
    def positives_per_negative(self) -> float | None:
        """Positives per true negative; None where there is none."""
        return self.positives / self.negatives if self.negatives else None

    @property
    def positives_per_any_negative(self) -> float | None:
        """Positives per negative, random ones included; None where there is none."""
        negatives = self.negatives + self.random_negatives
        return self.positives / negatives if negatives else None

    @property
    def windows_a_member(self) -> float:
        """Mean over the members that have a window; 0 where none has."""
        return self.windows / self.members if self.members else 0.0

    @property
    def random_negatives_a_day(self) -> float:
        """Mean over the days that have a random negative; 0 where none has."""
        return self.random_negatives / self.days if self.days else 0.0

    @property
    def share_acted_on(self) -> float:
        """Share of the random negatives whose item the member acted on."""
        hits = self.random_negatives_acted_on
        return hits / self.random_negatives if self.random_negatives else 0.0

    def figures(self) -> dict[str, Any]:
        """Return the figures as JSON values, for the manifest."""
        return {
            "examples": self.examples,
            "positives": self.positives,
            "negatives": self.negatives,
            "random_negatives": self.random_negatives,
            "positives_per_negative": self.positives_per_negative,
            "positives_per_any_negative": self.positives_per_any_negative,
            "members": self.members,
            "members_dropped": self.members_dropped,
            "sequence_lengths": {str(length): n for length, n in self.lengths.items()},
            "windows": self.windows,
            "windows_empty": self.windows_empty,
            "windows_a_member": self.windows_a_member,
            "windows_a_member_most": self.windows_most,
            "random_negatives_a_day": self.random_negatives_a_day,
            "random_negatives_acted_on": self.share_acted_on,
        }


def input_actions(config: Config, random_negatives: bool) -> tuple[str, ...]:
    """Name the actions that an input may hold, in the order of their codes, from 1.

    Where random negatives enter inputs, each positive action adds one more, after all others.
    """
    positives = _positives(config) if random_negatives else []
    return (*config.actions, *(RANDOM_NEGATIVE + action for action in positives))


def examples_file(
    config: Config,
    settings: ExampleSettings,
    until: datetime,
    since: datetime | None = None,
    predicts: Sequence[str] = (),
) -> Path:
    """Return the file of these examples; other settings have another file."""
    made_of = {
        "settings": asdict(settings),
        "until": until.astimezone(UTC),
        "since": since and since.astimezone(UTC),
        "window": config.window,
        "length": config.length,
        "actions": {name: given.model_dump() for name, given in config.actions.items()},
        "attributes": {
            name: given.model_dump() for name, given in config.events.attributes.items()
        },
        "publish_delay": config.publish_delay,
        "predicts": list(predicts),
        "weight": config.train.weighing,
    }
    text = json.dumps(made_of, default=str)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    return config.layout.training_examples(name)


@dataclass(frozen=True)
class ExamplesTask:
    """The examples of one bucket's members.

    Attributes:
        bucket: None: of all members.
        made: Folder of the files that tasks write, and of those of all members (SHARED).
    """

    bucket: int | None
    settings: ExampleSettings
    until: datetime
    since: datetime | None
    predicts: tuple[str, ...]
    made: Path

    def named(self, table: str) -> Path:
        """Return the file of a table of this bucket."""
        return self.made / f"{table}-{'all' if self.bucket is None else self.bucket}.parquet"


def build_training_examples(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    settings: ExampleSettings,
    until: datetime,
    since: datetime | None = None,
    predicts: Sequence[str] = (),
    engine: Engine | None = None,
) -> ExampleReport:
    """Write training_examples from `activity`, shuffled; ExampleSettings defines the rows.

    Only actions that happened and were ingested before `until` are read; an input holds only those
    ingested before its as_of. With labels="next" every label has its own window. With "all" a
    window's labels are the actions in the `horizon` from when it was readable: from as_of with
    inputs="before_label", where as_of is an action's timestamp; from as_of + publish_delay with
    "snapshot".

    In two rounds over the buckets: what members did is counted, from which the items of each day
    and the shares of actions are those of all members; then each bucket's examples are built. The
    rows and their order are the same in any number of buckets.

    Args:
        until: Nothing at or after it is read, in inputs or labels.
        since: Labels before it are left out, which changes no other row.
        predicts: The actions that may be positive labels; labels and random negatives are on items
            of their kinds. Default: every positive action, and items of every kind but searches.
        engine: Who builds the buckets; default: this connection, one after the other.

    Raises:
        InputError: the actions lie in another number of buckets than is configured.
        RunFailedError: the result breaks a rule of checks/training_examples.sql.
    """
    expect_buckets(config.layout)
    file = examples_file(config, settings, until, since, predicts)
    buckets = config.layout.all_buckets
    runs = engine if engine is not None and len(buckets) > 1 else InTurn(con)
    with spool(config, "training_examples") as folder, sealing(file, "training_examples") as whole:
        tasks = [
            ExamplesTask(bucket, settings, until, since, tuple(predicts), folder)
            for bucket in buckets
        ]
        _share(config, con, [counts for _, counts in runs.run(config, count_actions, tasks)], tasks)
        built = [done for _, done in runs.run(config, examples_of_bucket, tasks)]
        parts = sorted(part for part, _ in built)
        if len(buckets) == 1:
            parts[0].replace(whole)
        else:
            order, keys = ", ".join(ORDER), ", ".join(KEYS)
            rows = f"from {parquet(parts)} order by {order}"
            copy(con, f"select * exclude ({keys}) from ({rows})", whole)
        figures = _added([of_bucket for _, of_bucket in built])
    return ExampleReport(file=file, **figures)


def count_actions(config: Config, con: duckdb.DuckDBPyConnection, task: ExamplesTask) -> Path:
    """Count the actions of a bucket by item, day and kind; the function of an engine's tasks."""
    with attempts([task.named("example_counts")]) as (file,), _activity(config, con, task):
        query = sql("example_counts")
        copy(con, query, file, named_in(query, _parameters(config, task)), "lz4")
        return file


def _share(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    counts: Sequence[Path],
    tasks: Sequence[ExamplesTask],
) -> None:
    """Write what the examples of every bucket read of all members."""
    con.execute(f"create or replace temp view example_counts as from {parquet(sorted(counts))}")
    others = other_items(config, con, tasks[0].predicts)
    con.execute(f"create or replace temp table other_items as {others}")
    for table in SHARED:
        con.execute(f"create or replace temp table {table} as {sql(table)}")
        copy(con, f"from {table}", tasks[0].made / f"{table}.parquet", None, "lz4")
    for table in ("other_items", *SHARED):
        con.execute(f"drop table {table}")
    con.execute("drop view example_counts")


def examples_of_bucket(
    config: Config, con: duckdb.DuckDBPyConnection, task: ExamplesTask
) -> tuple[Path, dict[str, Any]]:
    """Write and check a bucket's examples, in their order; return the file and its figures.

    The function of an engine's tasks. Where there are several buckets, the file has KEYS too.
    """
    parameters = _parameters(config, task)
    with attempts([task.named("examples")]) as (file,), _activity(config, con, task):
        for table in SHARED:
            shared = parquet([task.made / f"{table}.parquet"])
            con.execute(f"create or replace temp table {table} as from {shared}")
        others = other_items(config, con, task.predicts)
        con.execute(f"create or replace temp table other_items as {others}")
        con.execute(config.train.macro)
        for step in STEPS:
            query = sql(step)
            if not config.rules.attributes:  # a third list for each window would take its time
                query = query.replace("list(attributes) over before_as_of", "null::integer[]")
            con.execute(
                f"create or replace temp table {step} as {query}", named_in(query, parameters)
            )
        query = sql("training_examples")
        carried = lists_of(config.rules.attributes, "carried")
        left_out = ("carried", *KEYS) if task.bucket is None else ("carried",)
        columns = f"select * exclude ({', '.join(left_out)}){carried} from ({query})"
        copy(con, columns, file, named_in(query, parameters))
        con.execute(f"create or replace temp view training_examples as from {parquet([file])}")
        check(con, "training_examples", parameters)
        figures = _figures(con, task.settings)
        con.execute("drop view training_examples")
        for table in (*reversed(STEPS), "other_items", *SHARED):
            con.execute(f"drop table {table}")
        return file, figures


@contextmanager
def _activity(config: Config, con: duckdb.DuckDBPyConnection, task: ExamplesTask) -> Iterator[None]:
    """Make the view `activity` of a bucket's actions before `until`."""
    files = files_between(config.layout.activity, EPOCH, task.until, task.bucket)
    con.execute(f"create or replace temp view activity as {activity_query(config, con, files)}")
    yield
    con.execute("drop view activity")


def _parameters(config: Config, task: ExamplesTask) -> dict[str, object]:
    """Return what the queries may name."""
    settings, since = task.settings, task.since or EPOCH
    return {
        "until": task.until,
        "since": since,
        "window_length": config.window,
        "publish_delay": config.publish_delay,
        "since_us": microseconds(since),
        "window_us": config.window // MICROSECOND,
        "publish_delay_us": config.publish_delay // MICROSECOND,
        "horizon_us": settings.horizon // MICROSECOND,
        "session_gap_us": settings.session_gap // MICROSECOND,
        "shift_us": settings.random_negative_shift // MICROSECOND,
        "length": config.length,
        "actions": list(config.actions),
        "predicted": list(task.predicts or config.actions),
        "positives": _positives(config),
        "names": [*input_actions(config, random_negatives=True)],
        "input_names": [*input_actions(config, settings.random_negatives_in_inputs)],
        **asdict(settings),
    }


def _positives(config: Config) -> list[str]:
    return [name for name, action in config.rules.actions.items() if action.can_be_positive]


def _figures(con: duckdb.DuckDBPyConnection, settings: ExampleSettings) -> dict[str, Any]:
    """Return the row of sql/example_figures.sql as a dict; `days` are a list."""
    result = con.execute(sql("example_figures"), {"min_actions": settings.min_actions})
    names = [column[0] for column in result.description]
    row = result.fetchone() or ()
    return dict(zip(names, row, strict=True))


def _added(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of all members from those of each bucket's."""
    whole = {name: sum(one[name] for one in found) for name in ADDED}
    lengths: Counter[int] = Counter()
    for one in found:
        lengths.update(one["lengths"])
    return whole | {
        "windows_most": max(one["windows_most"] for one in found),
        "days": len(set[int]().union(*(one["days"] for one in found))),
        "lengths": dict(sorted(lengths.items())),
    }
