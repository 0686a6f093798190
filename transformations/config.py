"""`activity.yaml`: the user's data, and the few choices that only the user can make."""

import os
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from transformations import names, places
from transformations.archive_settings import ArchiveSettings
from transformations.drift_settings import Alerts, Drift
from transformations.durations import Delay, Duration, said
from transformations.engine_settings import EngineSettings, LayoutSettings
from transformations.errors import InputError
from transformations.expressions import Expression, Kind, parse
from transformations.layout import Layout
from transformations.recommend_settings import Recommend
from transformations.release_settings import ReleaseSettings
from transformations.rhythm_settings import Retention, Rhythm
from transformations.rules import EARLIEST, LATEST, SEARCH, Action, Attribute, IdType, Rules, Sign
from transformations.timestamps import EPOCH, as_utc
from transformations.train_settings import TrainSettings

ROOT = Path(__file__).resolve().parent.parent
CONFIG_VARIABLE = "ACTIVITY_CONFIG"
CONFIG = "activity.yaml"
FEATURE_STORE = "feature_store.yaml"
WORKSPACES = ROOT / "workspaces"
"""Where workspaces lie that are named without a path."""


def _day(value: Any) -> Any:
    """Return a date, which YAML reads as such, as its midnight in UTC."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime.combine(value, time(), UTC)
    return as_utc(value) if isinstance(value, datetime) else value


def _action(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ValueError(
            f"expected an action name of letters, digits and _, got {name!r}; it becomes part of "
            "column names such as n_apply"
        )
    if name.lower().endswith("_y"):
        raise ValueError(
            f"the action {name!r} would make the column n_{name.lower()}, and Feast's DuckDB store "
            "drops columns that end in _y; choose another name"
        )
    return name


def _attribute(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(
            f"expected an attribute's name of lower-case letters, digits and _, got {name!r}; it "
            "becomes the name of a column"
        )
    if name in TAKEN or name.startswith(TAKEN_STARTS) or name.endswith(TAKEN_ENDS):
        raise ValueError(
            f"the attribute {name!r} would be a column of that name, which is taken; choose "
            "another name, and put the source's own into `column`"
        )
    return name


TAKEN = {
    *("member_id", "item_id", "item_ids", "action", "actions", "event_timestamp"),
    *(
        "event_timestamps",
        "created_timestamp",
        "ingested_at",
        "last_action_at",
        "known_at",
        "as_of",
    ),
    *("attributes", "day", "reason", "line", "source", "model_version", "action_place", "period"),
    *("bucket", "copies", "wrong_column", "of_member"),
    *("item_embeddings", "ages", "signs", "missing"),
    *("happened_at", "is_positive", "is_random", "weight"),
}
TAKEN_STARTS = ("n_", "stored_", "raw_", "label_")
TAKEN_ENDS = ("_embedding", "_is_blank", "_y")

Earliest = Annotated[datetime, BeforeValidator(_day), Field(ge=EPOCH)]
Latest = Annotated[Duration, Field(le=timedelta(days=36_525))]
ActionName = Annotated[str, AfterValidator(_action)]
AttributeName = Annotated[str, AfterValidator(_attribute)]


class _Strict(BaseModel):
    # A setting is written as activity.yaml has it, so that what is written can be read.
    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)


def _expect_table(source: str, is_sql: bool, table: str | None, what: str) -> None:
    if source.startswith(places.CATALOGUE):
        if what != "events":
            raise ValueError(
                f"expected files or the URL of a database, got {source!r}: of Spark's catalogue "
                "only a table of events is read"
            )
        if source != places.CATALOGUE:
            raise ValueError(
                f"expected `source: {places.CATALOGUE}` with the name in `table` "
                f"(catalog.database.table), got {source!r}; Spark's address is `engine.master`"
            )
    if is_sql and table is None:
        raise ValueError(f"a database source needs `table`: the table that holds the {what}")
    if not is_sql and table:
        raise ValueError(f"`table` belongs to a database source; {source!r} is a path")
    if wrong := places.misplaced(source):
        raise ValueError(wrong)


class EventColumns(_Strict):
    """The source's names for the five columns of an event."""

    member_id: str = "member_id"
    item_id: str = "item_id"
    action: str = "action"
    event_timestamp: str = "event_timestamp"
    ingested_at: str | None = None
    """When the event reached the source; without it a backfill cannot recognize late events."""


class AttributeSettings(_Strict):
    """What each action carries beside member, item, name and time."""

    type: Literal["number", "category", "text"]
    column: str | None = None
    """The source's name for it. Default: its own."""
    unit: str = ""
    """Of a number, for people: s, EUR, stars."""
    min: float | None = None
    max: float | None = None
    max_length: int = Field(default=200, ge=1, le=10_000)
    """Of a category or a text, in characters."""

    @model_validator(mode="after")
    def _bounds_of_numbers(self) -> Self:
        if self.type != "number" and (self.min is not None or self.max is not None):
            raise ValueError(f"`min` and `max` belong to a number; this one is a {self.type}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"expected min at most max, got {self.min} and {self.max}")
        return self


class Events(_Strict):
    """Where the events are and how to read them."""

    source: str = "data/simulated/events"
    """A Parquet or CSV file, a folder of either, `s3://…` of either, or a SQLAlchemy URL; or
    `spark://`, for a table that Spark knows by its name."""
    table: str | None = None
    """The table (or schema.table) to read, for a SQLAlchemy URL or `spark://`."""
    incremental_column: str | None = None
    """A column of the table that only grows; a later run starts at the last value read."""
    columns: EventColumns = EventColumns()
    attributes: dict[AttributeName, AttributeSettings] = {}
    """What each action carries: how long a page was read, the rating, where it was seen."""
    time_unit: Literal["timestamp", "s", "ms", "us", "ns"] = "timestamp"
    """`timestamp` for timestamps and ISO text, else the unit of integers since 1970."""
    earliest: Earliest = EARLIEST
    """A row with an earlier time is refused: its unit is another than `time_unit`."""
    latest: Latest = LATEST
    """So is one whose time lies further ahead."""
    max_refused_share: float = Field(default=0.05, ge=0, le=1)
    """A run that refuses a larger share of the rows it reads fails before it publishes."""

    @property
    def is_sql(self) -> bool:
        """Whether `source` is a SQLAlchemy URL, or `spark://`, rather than files."""
        return places.is_in_database(self.source)

    @property
    def is_in_catalogue(self) -> bool:
        """Whether Spark reads the table by its name."""
        return self.source == places.CATALOGUE

    @model_validator(mode="after")
    def _table_for_sql(self) -> Self:
        _expect_table(self.source, self.is_sql, self.table, "events")
        if not self.is_sql and self.incremental_column:
            raise ValueError(
                f"`incremental_column` belongs to a database source; {self.source!r} is files"
            )
        return self


class Items(_Strict):
    """Where the items are, and what the encoders of the catalogue read of them."""

    source: str = "data/simulated/items.parquet"
    """A Parquet or CSV file, a folder of either, `s3://…` of either, or a SQLAlchemy URL."""
    table: str | None = None
    """For a SQLAlchemy URL, the table (or schema.table) to read."""
    item_id: str = "item_id"
    embedding: list[str] = []
    """Columns that hold vectors made elsewhere (lists of `dim` numbers); one name, or several."""
    text: list[str] = []
    categories: list[str] = []
    """Category columns: one value, a list, or values separated by |."""
    available_at: str | None = None
    """When the item became known. Without it, every item counts as known since 1970."""
    refresh: Duration | None = None
    """Time between two refreshes of `activity items refresh --keep-on`; default: 5 minutes."""
    kind: str | None = None
    """The column with the kind of an item (job, course). Without it, all are of one kind."""
    available_until: str | None = None
    """When the item ended (a closed job). Without it, none does."""

    @field_validator("embedding", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given or []

    @property
    def has_text(self) -> bool:
        """Whether there is text or categories to make vectors from."""
        return bool(self.text or self.categories)

    @property
    def is_sql(self) -> bool:
        """Whether `source` is a SQLAlchemy URL rather than files."""
        return places.is_in_database(self.source)

    @model_validator(mode="after")
    def _table_for_sql(self) -> Self:
        _expect_table(self.source, self.is_sql, self.table, "items")
        return self

    @model_validator(mode="before")
    @classmethod
    def _encoders_are_lines(cls, raw: Any) -> Any:
        """Say where the key `encoder` of before has gone."""
        if isinstance(raw, dict) and "encoder" in raw:
            line = "TfidfSvd(version=1)"
            if raw.get("embedding"):
                line = f'Given(name="…", version=1, column="{raw["embedding"]}")'
            raise ValueError(
                "`encoder` is now a line of the catalogue: leave out the key, and write "
                f"ITEM_ENCODERS = ({line},) into catalog.py, with the name and version that the "
                "key has"
            )
        return raw

    @model_validator(mode="after")
    def _vectors_or_text(self) -> Self:
        if not (self.embedding or self.has_text):
            raise ValueError(
                "expected `embedding`, or at least one column in `text` or `categories`"
            )
        if len(set(self.embedding)) < len(self.embedding):
            raise ValueError(f"embedding: expected each column once, got {self.embedding}")
        return self


class Members(_Strict):
    """Where there is more to know of the members than what they did: a profile, as one row each."""

    source: str = ""
    """As that of events; nothing: no profile."""
    table: str | None = None
    """For a SQLAlchemy URL, the table (or schema.table) to read."""
    id: str = "member_id"
    numeric: list[str] = []
    """Columns of numbers: age, salary, years of experience."""
    categorical: list[str] = []
    """Columns of one text each: country, field of work."""
    time_zone: str | None = None
    """The one among `categorical` that holds an IANA time zone, as Europe/Berlin: a ranker reads
    the time of day and the weekday by the member's clock. Default: all live in UTC."""
    available_at: str | None = None
    """When the row became known. Without it, every row counts as known since 1970."""

    @property
    def is_sql(self) -> bool:
        """Whether `source` is a SQLAlchemy URL rather than files."""
        return places.is_in_database(self.source)

    @property
    def columns(self) -> dict[str, str]:
        """The name of each feature → its column in the source."""
        return {names.plain(column): column for column in (*self.numeric, *self.categorical)}

    @model_validator(mode="after")
    def _features_of_a_source(self) -> Self:
        given = [*self.numeric, *self.categorical]
        if not self.source:
            if given or self.table or self.time_zone:
                raise ValueError("expected `source`, the file or table with these columns")
            return self
        _expect_table(self.source, self.is_sql, self.table, "members")
        if not given:
            raise ValueError("expected at least one column in `numeric` or `categorical`")
        if len(self.columns) < len(given):
            raise ValueError(
                f"expected columns whose names differ in more than letter case and signs, each "
                f"once, got {', '.join(given)}"
            )
        if self.time_zone is not None and self.time_zone not in self.categorical:
            raise ValueError(
                f"time_zone: expected a column of `categorical` "
                f"({', '.join(self.categorical) or 'none'}), got {self.time_zone!r}"
            )
        for name, column in self.columns.items():
            if not name or name in TAKEN or name.startswith("raw_") or name.endswith("_y"):
                raise ValueError(
                    f"the column {column!r} would be a feature called {name!r}, which is taken, or "
                    "which Feast's stores drop; give it another name in the source"
                )
        return self


class ActionSettings(_Strict):
    """What one kind of action says; a sign alone stands for `{sign: …}`."""

    sign: Sign = "neutral"
    """Whether the member likes the item, where neither condition below holds. A neutral action is
    an input, never a label."""
    positive_if: str | None = None
    """A condition on the attributes, such as `dwell >= 30`; it goes before `negative_if`."""
    negative_if: str | None = None
    text: str | None = None
    """The source's column with a text that stands in place of an item, as of a search; also the
    key that holds it in a message of the stream."""
    item_kind: str | None = None
    """The kind of its items (`items.kind`). Default: any."""

    @model_validator(mode="before")
    @classmethod
    def _sign_alone(cls, raw: Any) -> Any:
        return {"sign": raw} if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _a_search_has_its_kind(self) -> Self:
        if self.text is not None and self.item_kind is not None:
            raise ValueError(
                f"an action with `text` is on items of the kind {SEARCH!r}; leave out `item_kind`"
            )
        return self


class DuckDB(_Strict):
    """Resource limits of the queries."""

    memory_limit: str = Field(default="2GB", pattern=r"^\d+(\.\d+)?\s*(MB|GB|MiB|GiB)$")
    threads: int | None = Field(default=None, ge=1)
    """Default: all cores."""


class Config(_Strict):
    """A validated `activity.yaml`. Relative paths start at its workspace."""

    data_dir: str = "data"
    """Where every table, artifact and state file is written."""
    feature_store: str = "feature_store.yaml"
    events: Events = Events()
    member_id_type: IdType = "int64"
    item_id_type: IdType = "int64"
    actions: dict[ActionName, ActionSettings] = {
        "APPLY": ActionSettings(sign="positive"),
        "SAVE": ActionSettings(sign="positive"),
        "DISMISS": ActionSettings(sign="negative"),
    }
    window: Duration = timedelta(days=28)
    length: int = Field(default=32, ge=1, le=1024)
    items: Items
    members: Members = Members()
    dim: int = Field(default=64, ge=2, le=4096)
    publish_delay: Delay = timedelta(hours=6)
    fit_holdback: Duration | None = None
    """What a run fits (item encoder, weights) sees nothing of this time before its as_of, so that
    training joins have days of their own. Default: 28 days, or a tenth of the data's span where
    that is shorter."""
    min_positives: int = Field(default=1_000, ge=1)
    """Nothing is trained or evaluated on fewer positive labels."""
    train: TrainSettings = TrainSettings()
    recommend: Recommend = Recommend()
    drift: Drift = Drift()
    alerts: Alerts = Alerts()
    release: ReleaseSettings = ReleaseSettings()
    rhythm: Rhythm = Rhythm()
    archive: ArchiveSettings = ArchiveSettings()
    retention: Retention = Retention()
    duckdb: DuckDB = DuckDB()
    layout_settings: LayoutSettings = Field(default=LayoutSettings(), alias="layout")
    engine: EngineSettings = EngineSettings()

    _root: Path = PrivateAttr(default=ROOT)
    _file: Path = PrivateAttr(default=ROOT / "activity.yaml")
    _space: names.Space | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _both_id_types(cls, raw: Any) -> Any:
        """Let `id_type` stand for both of them."""
        if isinstance(raw, dict) and "id_type" in raw:
            both = dict.fromkeys(("member_id_type", "item_id_type"), raw["id_type"])
            return both | {key: value for key, value in raw.items() if key != "id_type"}
        return raw

    @model_validator(mode="before")
    @classmethod
    def _step_is_a_rhythm(cls, raw: Any) -> Any:
        """Say where the key `step` of before has gone."""
        if isinstance(raw, dict) and "step" in raw:
            raise ValueError(
                "`step` is now `rhythm.snapshot`: leave out the key, and write "
                f"`rhythm: {{snapshot: {raw['step']}}}`"
            )
        return raw

    @field_validator("data_dir")
    @classmethod
    def _lies_on_a_disk(cls, folder: str) -> str:
        if "://" in folder:
            raise ValueError(
                f"expected a folder on a disk, got {folder}; sources may lie in an object store, "
                "tables may not yet"
            )
        return folder

    @model_validator(mode="after")
    def _what_is_needed_is_kept(self) -> Self:
        """Refuse a retention that would take what a snapshot or a fit reads."""
        held_back = timedelta(days=28) if self.fit_holdback is None else self.fit_holdback
        reads = "a snapshot reads the window, and a fit the window before its fit_holdback"
        labels = "rankers learn from labels inside fit_holdback, and from the snapshots before them"
        shown = "rankers learn from what was shown inside fit_holdback, and what came of it"
        for key, least, why in (
            ("activity", self.window + held_back, reads),
            ("snapshots", self.window + held_back, labels),
            ("impressions", held_back + self.recommend.attribution, shown),
        ):
            kept = getattr(self.retention, key)
            if kept is not None and kept < least:
                raise ValueError(
                    f"retention.{key}: {why}; expected at least {said(least)}, got {said(kept)}"
                )
        return self

    @model_validator(mode="after")
    def _spark_has_buckets(self) -> Self:
        if self.engine.kind == "spark" and self.layout_settings.buckets == 1:
            raise ValueError(
                "engine: Spark builds the tables bucket by bucket; expected layout.buckets of 2 or "
                "more (some for each core of the cluster), got 1"
            )
        return self

    @model_validator(mode="after")
    def _distinct_actions(self) -> Self:
        lowered = [name.lower() for name in self.actions]
        if not lowered:
            raise ValueError("expected at least one action, got none")
        if len(set(lowered)) < len(lowered):
            raise ValueError(f"two actions differ only in case: {sorted(self.actions)}")
        if "actions" in lowered:
            raise ValueError("the action 'actions' would make the column n_actions, already taken")
        return self

    @model_validator(mode="after")
    def _conditions_hold_attributes(self) -> Self:
        for name in self.actions:
            self._action(name)
        return self

    @model_validator(mode="after")
    def _texts_have_an_encoder(self) -> Self:
        for name, action in self.actions.items():
            if action.text is not None and not self.items.has_text:
                raise ValueError(
                    f"actions.{name}.text: the encoder of the items makes a text's vector, so "
                    "expected items with `text` or `categories`, got only `embedding`"
                )
        return self

    @model_validator(mode="after")
    def _rules_hold_what_there_is(self) -> Self:
        rules, key = self.recommend.rules, "recommend.rules"
        columns = {*self.items.categories, *(["kind"] if self.items.kind else [])}
        unknown = sorted(rules.columns - columns)
        if unknown:
            raise ValueError(
                f"{key}: expected columns of items.categories"
                f"{', or kind' if self.items.kind else ''} ({', '.join(sorted(columns)) or 'none'})"
                f", got {', '.join(unknown)}"
            )
        expected = int if self.item_id_type == "int64" else str
        wrong = [pin.item for pin in rules.pinned if not isinstance(pin.item, expected)]
        if wrong:
            raise ValueError(
                f"{key}.pinned: expected items of the type {self.item_id_type} (item_id_type), got "
                f"{wrong[0]!r}{'' if expected is int else '; quote it'}"
            )
        others = sorted({*rules.leave_out_actions} - {*self.actions})
        if others:
            raise ValueError(
                f"{key}.leave_out_actions: expected actions among {', '.join(self.actions)}, got "
                f"{', '.join(others)}"
            )
        if rules.leave_out_acted is not None and rules.leave_out_acted > self.window:
            raise ValueError(
                f"{key}.leave_out_acted: a sequence knows the actions of the window, so expected "
                f"at most {self.window}, got {rules.leave_out_acted}"
            )
        return self

    def _action(self, name: str) -> Action:
        given, kinds = self.actions[name], self._attribute_kinds()

        def condition(key: str, text: str | None) -> Expression | None:
            try:
                return None if text is None else parse(text, kinds, "truth")
            except ValueError as error:
                raise ValueError(f"actions.{name}.{key}: {error}") from None

        return Action(
            given.sign,
            condition("positive_if", given.positive_if),
            condition("negative_if", given.negative_if),
            text=given.text,
            item_kind=SEARCH if given.text is not None else given.item_kind,
        )

    def _attribute_kinds(self) -> dict[str, Kind]:
        """Return each attribute's kind in an expression."""
        return {
            name: "number" if given.type == "number" else "text"
            for name, given in self.events.attributes.items()
        }

    @property
    def root(self) -> Path:
        """The workspace: where relative paths start. By default the repository."""
        return self._root

    @property
    def file(self) -> Path:
        """The file that this was read from."""
        return self._file

    @property
    def catalogue(self) -> Path:
        """The file with the lines of this workspace."""
        return catalogue_of(self._root)

    def path(self, relative: str) -> Path:
        """Return a path of the configuration as an absolute one."""
        return (self._root / Path(relative).expanduser()).resolve()

    def source(self, key: str, source: str) -> Path:
        """Return where a source's files lie, on a disk or in an object store (`places.objects`).

        Raises:
            InputError: the library of the object store is not installed.
        """
        if places.is_in_objects(source):
            return places.objects(key, source)
        return self.path(source)

    @property
    def data(self) -> Path:
        """The data folder, absolute."""
        return self.path(self.data_dir)

    @property
    def rules(self) -> Rules:
        """What decides how events become sequences and vectors."""
        return Rules(
            self.member_id_type,
            self.item_id_type,
            {name: self._action(name) for name in self.actions},
            self.window,
            self.length,
            self.dim,
            {
                name: Attribute(given.type, given.min, given.max, given.max_length)
                for name, given in self.events.attributes.items()
            },
            self.events.earliest,
            self.events.latest,
        )

    @property
    def layout(self) -> Layout:
        """Where every table and file of the data folder lies."""
        return Layout(self.data, self.layout_settings.buckets)

    @property
    def space(self) -> names.Space:
        """The item space to work in: that of `in_space`, else of a catalogue without encoders."""
        if self._space is not None:
            return self._space
        if self.items.has_text:
            return names.Space(names.TEXT_ENCODER, 1)
        return names.Space(names.given_encoder(self.items.embedding[0]), 1)

    def in_space(self, space: names.Space) -> Self:
        """Return this configuration with another item space to work in."""
        own = self.model_copy()
        own._space = space
        return own

    @property
    def knows_kinds(self) -> bool:
        """Whether items have kinds, which then stand beside their vectors."""
        of_actions = (action.item_kind for action in self.rules.actions.values())
        return self.items.kind is not None or any(of_actions)

    @property
    def item_view(self) -> str:
        """Name of the view of the space's item vectors."""
        return self.space.view

    @property
    def items_dir(self) -> Path:
        """Folder of the space's item vectors."""
        return self.layout.items(self.space)


def load_config(path: str | Path | None = None) -> Config:
    """Read and validate a configuration.

    Args:
        path: A file, or the folder of a workspace. Default: $ACTIVITY_CONFIG, else the workspace
            that the process stands in, else the repository.

    Raises:
        InputError: the file is missing, is not a YAML mapping, or does not validate; the message
            names each wrong key's path and what was expected.
    """
    chosen = path or os.environ.get(CONFIG_VARIABLE) or workspace_of(Path.cwd()) or ROOT
    file = Path(chosen).expanduser()
    if not file.is_absolute() and not file.exists():
        file = next((f for f in (ROOT / file, WORKSPACES / file) if f.exists()), ROOT / file)
    if file.is_dir():
        file /= CONFIG
    file = file.resolve()
    try:
        raw = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise InputError(
            f"no configuration at {chosen}; expected a file like activity.yaml"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{chosen} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{chosen}: expected keys and values, got {type(raw).__name__}")
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise InputError(f"{chosen} has {len(lines)} problem(s):\n" + "\n".join(lines)) from None
    config._root = file.parent if is_workspace(file.parent) else ROOT
    config._file = file
    return config


def is_workspace(folder: Path) -> bool:
    """Whether a folder is a workspace: configuration, Feast's settings, and a catalogue."""
    return all((folder / name).is_file() for name in (CONFIG, FEATURE_STORE)) and (
        catalogue_of(folder).is_file()
    )


def workspace_of(folder: Path) -> Path | None:
    """Return the workspace that a folder is, or lies in; None where there is none."""
    return next((place for place in (folder, *folder.parents) if is_workspace(place)), None)


def catalogue_of(root: Path) -> Path:
    """Return the catalogue of a workspace; the repository's own lies in models/."""
    return ROOT / "models" / "catalog.py" if root == ROOT else root / "catalog.py"


def _explain(problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"] if part != "[key]") or "(top level)"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = f"unknown key; expected one of: {', '.join(_siblings(problem['loc']))}"
    elif problem["type"] == "missing":
        message = "missing; this key has no default"
    elif (
        problem["type"] == "value_error"
        and not problem["loc"]
        and message.startswith(("actions.", "recommend.", "retention.", "engine:", "`step`"))
    ):
        return f"  {message}"  # it names its key
    elif problem["type"] != "value_error":
        message = f"{message}, got {problem['input']!r}"
    if isinstance(problem["input"], bool) and problem["type"] != "extra_forbidden":
        words = "NO, OFF and FALSE" if problem["input"] is False else "YES, ON and TRUE"
        message += f"; if a name was meant, quote it: YAML reads {words} without quotes as a truth"
    elif problem["type"] == "string_type":
        message += "; if a name or text was meant, quote it"
    return f"  {path}: {message}"


def _siblings(location: tuple[str | int, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for part in location[:-1]:
        # Else it is a name that the user chose, or a place in a list, of the model before it.
        if (field := model.model_fields.get(str(part))) is not None:
            model = next(_models_in(field.annotation), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a field's type names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
