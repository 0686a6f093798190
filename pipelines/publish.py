"""From snapshots on disk to features online: apply, materialize, read back, note the time."""

import contextlib
import io
import os
import re
import secrets
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import sqlalchemy as sa
import yaml
from feast import FeatureStore, FeatureView, OnDemandFeatureView, Project
from feast.entity import Entity
from feast.errors import FeastError
from feast.feature_service import FeatureService
from feast.feature_view import DUMMY_ENTITY
from feast.repo_config import RepoConfig
from feast.repo_contents import RepoContents
from feast.repo_operations import apply_total_with_repo_instance

from feature_repo.views import SEQUENCE_VIEW, declare, item_view_name
from models.catalog import AGGREGATORS
from models.spec import Aggregator
from pipelines.items_online import ItemsOnline
from transformations.config import ROOT, Config
from transformations.errors import InputError, RunFailedError
from transformations.files import partition, replacing
from transformations.tables import connect, copy

SQL = Path(__file__).parent / "sql"
TOLERANCE = 1e-6


def open_store(config: Config) -> FeatureStore:
    """Open the configured feature store, the same one from any working folder.

    Feast takes an online store's relative path from the repository root, but a SQLite registry's
    from the process's folder; here both are taken from the root.

    Raises:
        InputError: the settings file is missing or wrong, or names a variable that is not set.
    """
    file = config.path(config.feature_store)
    try:
        text = os.path.expandvars(file.read_text())
    except FileNotFoundError:
        raise InputError(f"feature_store: expected Feast's settings at {file}") from None
    settings = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    unset = sorted(set(re.findall(r"\$\{(\w+)\}", settings)))
    if unset:
        raise InputError(f"{file} needs environment variables that are not set: {', '.join(unset)}")
    try:
        raw = yaml.safe_load(text)
        if isinstance(raw["registry"], dict) and raw["registry"].get("registry_type") == "sql":
            raw["registry"]["path"] = _absolute(raw["registry"]["path"])
        feast_config = RepoConfig(**raw)
    except KeyError as error:
        raise InputError(f"{file}: expected the key {error}, which is missing") from None
    except (TypeError, ValueError, yaml.YAMLError, sa.exc.ArgumentError, FeastError) as error:
        raise InputError(f"{file} is not what Feast expects: {error}") from None
    feast_config.repo_path = ROOT
    # The ibis that Feast pins calls what the newest DuckDB deprecates, and Feast shows it.
    warnings.filterwarnings("ignore", r"fetch_arrow_table\(\)", DeprecationWarning)
    return FeatureStore(repo_path=str(ROOT), config=feast_config)


def apply(
    config: Config, store: FeatureStore, aggregators: Sequence[Aggregator] = AGGREGATORS
) -> int:
    """Do what `feast apply` does with the catalogue: register, change, and remove what left it.

    It also mends an online store that was deleted.

    Returns the number of objects declared.
    """
    objects = declare(config, aggregators)
    views = [o for o in objects if isinstance(o, FeatureView)]
    contents = RepoContents(
        projects=[Project(name=store.project, description=store.config.project_description or "")],
        data_sources=[view.batch_source for view in views],
        entities=[*(o for o in objects if isinstance(o, Entity)), DUMMY_ENTITY],
        feature_views=views,
        on_demand_feature_views=[o for o in objects if isinstance(o, OnDemandFeatureView)],
        feature_services=[o for o in objects if isinstance(o, FeatureService)],
        stream_feature_views=[],
        label_views=[],
        permissions=[],
    )
    with _quiet():
        apply_total_with_repo_instance(
            store, store.project, store.registry, contents, skip_source_validation=True
        )
        # Feast believes its registry: a SQLite online store that was deleted it leaves without
        # tables. Where they are there, this does nothing.
        store.provider.update_infra(store.project, [], views, [], contents.entities, partial=True)
    return len(objects)


def publish(
    config: Config,
    store: FeatureStore,
    as_of: datetime,
    aggregators: Sequence[Aggregator] = AGGREGATORS,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Write the snapshot of `as_of`, and the item vectors known by then, to the online store.

    The snapshot's rows and no others are written: all of them carry event_timestamp = as_of.

    Args:
        progress: Called with a number of rows as they have been written.

    Returns the number of rows written.

    Raises:
        RunFailedError: a partition of this snapshot is missing.
    """
    files = {view: partition(folder, as_of) for view, folder in _folders(config, aggregators)}
    for view, file in files.items():
        if not file.exists():
            raise RunFailedError(
                f"{view} has no snapshot of {as_of:%Y-%m-%d %H:%M}: expected {file}; build it "
                "first (activity run does)"
            )
    written = 0
    for view, file in files.items():
        _materialize(store, view, as_of, as_of)
        rows = pq.read_metadata(file).num_rows
        written += rows
        if progress is not None:
            progress(rows)
    items = ItemsOnline(config, store)
    first, rows = items.missing(as_of)
    if first is not None:
        _materialize(store, item_view_name(config), first, as_of)
        written += rows
        if progress is not None:
            progress(rows)
    items.published(as_of)
    return written


def read_back(
    config: Config,
    store: FeatureStore,
    as_of: datetime,
    aggregators: Sequence[Aggregator] = AGGREGATORS,
    members: int = 200,
    seed: int | None = None,
) -> int:
    """Compare what the online store returns with the tables, for members drawn at random.

    Every feature of every view is compared, and as many item vectors: numbers to 1e-6, moments in
    whole seconds (Feast keeps no more online), everything else exactly.

    Args:
        seed: None draws others each time.

    Returns the number of rows compared.

    Raises:
        RunFailedError: a value differs; names the key, the view, the feature and both values.
    """
    drawn = {"count": members, "seed": secrets.randbits(32) if seed is None else seed}
    compared = 0
    with connect(config) as con:
        query = (SQL / "read_back_members.sql").read_text()
        for view, folder in _folders(config, aggregators):
            cursor = con.execute(query, drawn | {"file": str(partition(folder, as_of))})
            compared += _compare(store, view, cursor, as_of)
        files = [str(file) for file in config.items_dir.glob("*.parquet")]
        if files:
            query = (SQL / "read_back_items.sql").read_text()
            cursor = con.execute(query, drawn | {"files": files, "as_of": as_of})
            compared += _compare(store, item_view_name(config), cursor)
    return compared


def restamp(
    config: Config,
    as_of: datetime,
    created_timestamp: datetime,
    aggregators: Sequence[Aggregator] = AGGREGATORS,
) -> int:
    """Set the created_timestamp of a snapshot's rows: the moment since when they can be read.

    Each partition is replaced whole. Returns the number of rows.
    """
    rows = 0
    with connect(config) as con:
        for _, folder in _folders(config, aggregators):
            file = partition(folder, as_of)
            with replacing(file) as temporary:
                copy(
                    con,
                    "select * replace ($created::timestamptz as created_timestamp) from "
                    "read_parquet($file, hive_partitioning = false)",
                    temporary,
                    {"created": created_timestamp, "file": str(file)},
                )
            rows += pq.read_metadata(file).num_rows
    return rows


def _compare(
    store: FeatureStore,
    name: str,
    cursor: duckdb.DuckDBPyConnection,
    as_of: datetime | None = None,
) -> int:
    """Raise RunFailedError unless the online store holds these rows of a view's table.

    Args:
        as_of: The event_timestamp of the rows. A row online that is newer came from the stream,
            which the snapshot does not undo; it is not compared, nor counted.
    """
    columns = [column[0] for column in cursor.description or []]
    rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    if not rows:
        return 0
    view = store.get_feature_view(name)
    (key,) = view.join_keys
    stored = {new: old for old, new in view.batch_source.field_mapping.items()}
    answer = store.get_online_features(
        features=[f"{name}:{field.name}" for field in view.features],
        entity_rows=[{key: row[key]} for row in rows],
    )
    moments = answer.proto.results[-1].event_timestamps
    newer = [as_of is not None and moment.ToDatetime(UTC) > as_of for moment in moments]
    values = answer.to_dict()
    for field in view.features:
        for row, online, is_newer in zip(rows, values[field.name], newer, strict=True):
            if is_newer:
                continue
            expected = row[stored.get(field.name, field.name)]
            if not _same(expected, online):
                raise RunFailedError(
                    f"read back of {view.name}: for {key} {row[key]} the online store returns "
                    f"{field.name} = {online!r}, the table holds {expected!r}; another process may "
                    "have written to this store: find out which, then run this again"
                )
    return newer.count(False)


def _same(expected: Any, online: Any) -> bool:
    if isinstance(expected, list):
        # Feast returns null for a list without elements, which is what a lapsed member has.
        online = [] if online is None else online
        return len(expected) == len(online) and all(map(_same, expected, online))
    if isinstance(expected, datetime):
        return online is not None and expected.timestamp() // 1 == online.timestamp()
    if isinstance(expected, float):
        return online is not None and abs(expected - online) <= TOLERANCE
    return bool(expected == online)


def _folders(config: Config, aggregators: Sequence[Aggregator]) -> Iterator[tuple[str, Path]]:
    """Name every view that has a snapshot a day, with its folder."""
    yield SEQUENCE_VIEW, config.sequences_dir
    for aggregator in aggregators:
        yield aggregator.view, config.embeddings_dir(aggregator.view)


def _materialize(store: FeatureStore, view: str, first: datetime, last: datetime) -> None:
    with _quiet():
        store.materialize(start_date=first, end_date=last, feature_views=[view])


def _absolute(url: str) -> str:
    """Return a URL whose SQLite file, if it is one, is absolute and in a folder that exists."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        return url
    file = ROOT / parsed.database
    file.parent.mkdir(parents=True, exist_ok=True)
    return parsed.set(database=str(file)).render_as_string(hide_password=False)


class _Aside(io.StringIO):
    """Takes what is printed. rich looks for this attribute, so its bars still reach the screen."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self.rich_proxied_file = getattr(stream, "rich_proxied_file", stream)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Feast's printing, bars and warnings off the terminal; show them with an error."""
    out, err = _Aside(sys.stdout), _Aside(sys.stderr)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield
    except Exception as error:
        said = (out.getvalue() + err.getvalue()).strip()
        if said:
            error.add_note(f"Feast said:\n{said[-2000:]}")
        raise
