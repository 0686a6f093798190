"""Training examples: windows of a member's actions and what followed, with random negatives."""

import hashlib
import json
from collections.abc import Sequence
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
from transformations.layout import files_between
from transformations.seals import sealing
from transformations.tables import activity_query
from transformations.timestamps import EPOCH, MICROSECOND, microseconds

RANDOM_NEGATIVE = "RANDOM_NEGATIVE_FOR_"

# In this order, since each reads those before it.
STEPS = ("example_actions", "day_items", "random_negatives", "example_windows")


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


def build_training_examples(
    config: Config,
    con: duckdb.DuckDBPyConnection,
    settings: ExampleSettings,
    until: datetime,
    since: datetime | None = None,
    predicts: Sequence[str] = (),
) -> ExampleReport:
    """Write training_examples from `activity`, shuffled; ExampleSettings defines the rows.

    Only actions that happened and were ingested before `until` are read; an input holds only those
    ingested before its as_of. With labels="next" every label has its own window. With "all" a
    window's labels are the actions in the `horizon` from when it was readable: from as_of with
    inputs="before_label", where as_of is an action's timestamp; from as_of + publish_delay with
    "snapshot".

    Args:
        until: Nothing at or after it is read, in inputs or labels.
        since: Labels before it are left out, which changes no other row.
        predicts: The actions that may be positive labels; labels and random negatives are on items
            of their kinds. Default: every positive action, and items of every kind but searches.

    Raises:
        RunFailedError: the result breaks a rule of checks/training_examples.sql.
    """
    file = examples_file(config, settings, until, since, predicts)
    names = [*input_actions(config, random_negatives=True)]
    parameters: dict[str, object] = {
        "until": until,
        "since": since or EPOCH,
        "window_length": config.window,
        "publish_delay": config.publish_delay,
        "since_us": microseconds(since or EPOCH),
        "window_us": config.window // MICROSECOND,
        "publish_delay_us": config.publish_delay // MICROSECOND,
        "horizon_us": settings.horizon // MICROSECOND,
        "session_gap_us": settings.session_gap // MICROSECOND,
        "shift_us": settings.random_negative_shift // MICROSECOND,
        "length": config.length,
        "actions": list(config.actions),
        "predicted": list(predicts or config.actions),
        "positives": _positives(config),
        "names": names,
        "input_names": [*input_actions(config, settings.random_negatives_in_inputs)],
        **asdict(settings),
    }
    activity = activity_query(config, con, files_between(config.layout.activity, EPOCH, until))
    con.execute(f"create or replace temp view activity as {activity}")
    con.execute(
        f"create or replace temp table item_indexes as {sql('item_indexes')}",
        {"as_of": until, "window_length": until - EPOCH},
    )
    con.execute(f"create or replace temp table other_items as {other_items(config, con, predicts)}")
    con.execute(config.train.macro)
    for step in STEPS:
        query = sql(step)
        if not config.rules.attributes:  # a third list for each window would take its time
            query = query.replace("list(attributes) over before_as_of", "null::integer[]")
        con.execute(f"create or replace temp table {step} as {query}", named_in(query, parameters))
    with sealing(file, "training_examples") as temporary:
        query = sql("training_examples")
        carried = lists_of(config.rules.attributes, "carried")
        columns = f"select * exclude (carried){carried} from ({query})"
        copy(con, columns, temporary, named_in(query, parameters))
        con.execute(f"create or replace temp view training_examples as from {parquet([temporary])}")
        check(con, "training_examples", parameters)
        figures = _figures(con, settings)
    con.execute("drop view training_examples")
    for step in (*reversed(STEPS), "other_items", "item_indexes"):
        con.execute(f"drop table {step}")
    con.execute("drop view activity")
    return ExampleReport(file=file, **figures)


def _positives(config: Config) -> list[str]:
    return [name for name, action in config.rules.actions.items() if action.can_be_positive]


def _figures(con: duckdb.DuckDBPyConnection, settings: ExampleSettings) -> dict[str, Any]:
    """Return the row of sql/example_figures.sql as a dict."""
    result = con.execute(sql("example_figures"), {"min_actions": settings.min_actions})
    names = [column[0] for column in result.description]
    row = result.fetchone() or ()
    return dict(zip(names, row, strict=True))
