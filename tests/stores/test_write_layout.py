"""Pins Feast's names that the writers and the offline store use: a Feast that moves one fails.

`test_read_layout.py` pins the bytes. Here are the names: private functions, hooks that the plug-ins
override, members that they use, and the columns of the tables. Everything of Feast that may have
moved is imported inside a test, so that its absence is a sentence and not an error at collection.
"""

import ast
import importlib
import inspect
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import feast
import psycopg
import pytest
from feast import FeatureStore, Field
from feast.types import Array, Float32

from tests.worlds.online import MEMBER, opened, view
from transformations.config import ROOT

UTILS = "feast.utils"
SQLITE = "feast.infra.online_stores.sqlite"
REDIS = "feast.infra.online_stores.redis"
POSTGRES = "feast.infra.online_stores.postgres_online_store.postgres"
CONNECTIONS = "feast.infra.utils.postgres.connection_utils"
HELPERS = "feast.infra.online_stores.helpers"
STORE = "feast.infra.online_stores.online_store.OnlineStore"
ENGINE = "feast.infra.compute_engines.local.compute.LocalComputeEngine"
DUCKDB = "feast.infra.offline_stores.duckdb"
JOB = "feast.infra.offline_stores.offline_store.RetrievalJob"

# Module, name, the parameters that we pass (any further ones must have defaults), our file.
PRIVATE = [
    (UTILS, "_convert_arrow_to_proto", "table feature_view join_keys", "stores/columnar.py"),
    (
        UTILS,
        "_convert_arrow_to_proto",
        "table feature_view join_keys",
        "serving/stream/online_writer.py",
    ),
    (UTILS, "_get_column_names", "feature_view entities", "stores/columnar.py"),
    (UTILS, "_validate_vector_field_lengths", "table feature_view", "stores/columnar.py"),
    (UTILS, "_get_feature_view_vector_field_metadata", "feature_view", "stores/sqlite.py"),
    (
        UTILS,
        "_get_online_request_context",
        "registry project features full_feature_names",
        "stores/reading/plan.py",
    ),
    (UTILS, "_parse_feature_ref", "ref", "stores/reading/plan.py"),
    (
        "feast.infra.key_encoding_utils",
        "_serialize_val",
        "value_type v entity_key_serialization_version",
        "stores/bytes/encode.py",
    ),
    (
        DUCKDB,
        "_write_data_source",
        "table data_source repo_path mode allow_overwrite",
        "stores/asof/job.py",
    ),
    (
        SQLITE,
        "_alter_table_add_column_if_missing",
        "conn table_name column_name column_type",
        "stores/sqlite.py",
    ),
    (SQLITE, "_initialize_conn", "db_path", "stores/sqlite.py"),
    (SQLITE, "_quote_id", "identifier", "stores/sqlite.py"),
    (SQLITE, "_table_id", "project table enable_versioning", "stores/sqlite.py"),
    (POSTGRES, "_table_id", "project table enable_versioning", "stores/postgres.py"),
    (CONNECTIONS, "_get_conn", "config", "stores/postgres.py"),
    (CONNECTIONS, "_get_conn_async", "config", "stores/postgres.py"),
    (CONNECTIONS, "_get_connection_pool", "config", "stores/postgres.py"),
    (CONNECTIONS, "_get_connection_pool_async", "config", "stores/postgres.py"),
    (CONNECTIONS, "_get_conn_kwargs", "config", "stores/reading/sql.py"),
    (CONNECTIONS, "_get_conninfo", "config", "stores/reading/sql.py"),
    (CONNECTIONS, "_get_conn_kwargs", "config", "serving/stream/states/postgres.py"),
    (CONNECTIONS, "_get_conninfo", "config", "serving/stream/states/postgres.py"),
    (CONNECTIONS, "_get_conn_kwargs", "config", "serving/publish/marks.py"),
    (CONNECTIONS, "_get_conninfo", "config", "serving/publish/marks.py"),
    (HELPERS, "_mmh3", "key", "stores/redis.py"),
    (HELPERS, "_mmh3", "key", "stores/reading/redis.py"),
    (HELPERS, "_redis_key_prefix", "entity_keys", "stores/redis.py"),
    (REDIS, "_versioned_fv_name", "table config", "stores/redis.py"),
    (REDIS, "_versioned_fv_name", "table config", "serving/publish/online_rows.py"),
    (REDIS, "_versioned_fv_name", "table config", "serving/publish/forget.py"),
]

WRITE = "self config table data progress"
UPDATE = "self config tables_to_delete tables_to_keep entities_to_delete entities_to_keep partial"
READ = (
    "self config grouped_refs join_key_values entity_name_to_join_key_map online_features_response "
    "full_feature_names include_feature_view_version_metadata"
)
PULL = (
    "config data_source join_key_columns feature_name_columns timestamp_field "
    "created_timestamp_column start_date end_date"
)
JOIN = (
    "config feature_views feature_refs entity_df registry project full_feature_names "
    "filter_by_created_timestamp"
)
TIMED = "self timeout"

# Our class, the class of Feast whose hooks it overrides, and each with its parameters there (None
# for a property). The lists are complete: `test_no_other_hook_is_overridden`.
OVERRIDDEN: list[tuple[str, str, dict[str, str | None]]] = [
    (
        "stores.reading.expiry.ExpiringReads",
        STORE,
        {"_read_features_per_fv": READ, "_read_features_per_fv_async": READ},
    ),
    (
        "stores.sqlite.ColumnarSqliteOnlineStore",
        f"{SQLITE}.SqliteOnlineStore",
        {
            "online_write_batch": WRITE,
            "online_read": "self config table entity_keys requested_features",
            "update": UPDATE,
            "teardown": "self config tables entities",
            "close": "self",
            "_get_conn": "self config",
            "plan": "self config desired_registry_proto",
        },
    ),
    (
        "stores.redis.ColumnarRedisOnlineStore",
        f"{REDIS}.RedisOnlineStore",
        {
            "online_write_batch": WRITE,
            "online_write_batch_async": WRITE,
            "delete_table": "self config table",
        },
    ),
    (
        "stores.postgres.ColumnarPostgreSQLOnlineStore",
        f"{POSTGRES}.PostgreSQLOnlineStore",
        {
            "online_write_batch": WRITE,
            "update": UPDATE,
            "close": "self",
            "_get_conn": "self config autocommit",
            "_get_conn_async": "self config autocommit",
        },
    ),
    (
        "stores.columnar.ColumnarComputeEngine",
        ENGINE,
        {"_materialize_one": "self registry task kwargs"},
    ),
    (
        "stores.duckdb_asof.DuckDBAsofOfflineStore",
        f"{DUCKDB}.DuckDBOfflineStore",
        {
            "get_historical_features": JOIN,
            "pull_latest_from_table_or_query": PULL,
            "pull_all_from_table_or_query": PULL,
            "write_logged_features": "config data source logging_config registry",
        },
    ),
    (
        "stores.asof.job.AsofRetrievalJob",
        JOB,
        {
            "full_feature_names": None,
            "on_demand_feature_views": None,
            "metadata": None,
            "_to_arrow_internal": TIMED,
            "_to_df_internal": TIMED,
            "persist": "self storage allow_overwrite timeout",
            "supports_remote_storage_export": "self",
            "to_remote_storage": "self",
            "to_sql": "self",
        },
    ),
    (
        "stores.asof.on_demand._Batch",
        JOB,
        {
            "full_feature_names": None,
            "on_demand_feature_views": None,
            "metadata": None,
            "_to_arrow_internal": TIMED,
        },
    ),
]

# Members of Feast's classes that we use and do not override; None for what is not called.
USED: list[tuple[str, str, str | None, str]] = [
    (f"{SQLITE}.SqliteOnlineStore", "_conn", None, "stores/sqlite.py"),
    (f"{SQLITE}.SqliteOnlineStore", "_get_db_path", "config", "stores/sqlite.py"),
    (
        f"{SQLITE}.SqliteOnlineStore",
        "_check_table_has_value_num",
        "self conn table_name",
        "stores/sqlite.py",
    ),
    (f"{REDIS}.RedisOnlineStore", "_client_async", None, "stores/reading/redis.py"),
    (f"{REDIS}.RedisOnlineStore", "_get_client", "self online_store_config", "stores/redis.py"),
    (
        f"{REDIS}.RedisOnlineStore",
        "_get_client_async",
        "self online_store_config",
        "stores/redis.py",
    ),
    *(
        (f"{POSTGRES}.PostgreSQLOnlineStore", name, None, "stores/postgres.py")
        for name in ("_conn", "_conn_pool", "_conn_async", "_conn_pool_async")
    ),
    (
        f"{POSTGRES}.PostgreSQLOnlineStore",
        "_check_table_has_value_num",
        "self cur table_name config",
        "stores/postgres.py",
    ),
    ("feast.FeatureStore", "_get_provider", "self", "stores/read.py"),
    *(
        (feasts, name, parameters, f"serving/publish/{file}.py")
        for file in ("marks", "online_rows")
        for feasts, name, parameters in (
            ("feast.FeatureStore", "_get_provider", "self"),
            (f"{SQLITE}.SqliteOnlineStore", "_get_db_path", "config"),
            (f"{SQLITE}.SqliteOnlineStore", "_get_conn", "self config"),
            (f"{REDIS}.RedisOnlineStore", "_get_client", "self online_store_config"),
        )
    ),
]


def moved(what: str, where: str) -> str:
    """Word it as test_read_layout.py, which cannot be imported if a private name is gone."""
    return (
        f"Feast {feast.__version__} changed {what}. {where} relies on how it was: adapt it, then "
        "this test, and only then widen the range of Feast in pyproject.toml."
    )


def found(module: str, name: str, where: str) -> Any:
    """Import one name; if it does not exist, fail with the sentence."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        what = f"what {where} imports: there is no {module}.{name} ({error})"
        pytest.fail(moved(what, where))


def class_of(path: str, where: str) -> Any:
    module, _, name = path.rpartition(".")
    return found(module, name, where)


def file_of(path: str) -> str:
    """The file of one of our classes."""
    return path.rpartition(".")[0].replace(".", "/") + ".py"


def assert_takes(function: Any, parameters: str, what: str, where: str) -> None:
    """Check that a function's parameters begin with these, and that the others are optional."""
    wanted = parameters.split()
    there = list(inspect.signature(function).parameters.values())
    names = [parameter.name for parameter in there]
    asked = [parameter.name for parameter in there[len(wanted) :] if is_required(parameter)]
    assert (names[: len(wanted)], asked) == (wanted, []), moved(
        f"the parameters of {what}: expected {wanted}, got {names}", where
    )


def is_required(parameter: inspect.Parameter) -> bool:
    starred = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and parameter.kind not in starred


@pytest.mark.parametrize(
    ("module", "name", "parameters", "where"), PRIVATE, ids=lambda value: str(value).split(".")[-1]
)
def test_a_private_function(module: str, name: str, parameters: str, where: str) -> None:
    assert_takes(found(module, name, where), parameters, f"{module}.{name}", where)


def imported_private() -> Iterator[tuple[str, str, str]]:
    """Every private name that our files take from a module of Feast."""
    for file in sorted([*(ROOT / "stores").rglob("*.py"), *(ROOT / "serving").rglob("*.py")]):
        where = file.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "feast":
                for alias in node.names:
                    if alias.name.startswith("_"):
                        yield str(node.module), alias.name, where
            elif (
                isinstance(node, ast.Attribute)
                and ast.unparse(node.value) == "utils"
                and node.attr.startswith("_")
            ):
                yield UTILS, node.attr, where


def test_no_other_private_name_is_imported() -> None:
    pinned = {(module, name, where) for module, name, _, where in PRIVATE}
    assert set(imported_private()) == pinned, "PRIVATE is not what stores/ and serving/ import"


@pytest.mark.parametrize(
    ("ours", "feasts", "name", "parameters"),
    [
        (ours, feasts, name, parameters)
        for ours, feasts, hooks in OVERRIDDEN
        for name, parameters in hooks.items()
    ],
    ids=lambda value: str(value).split(".")[-1][:40],
)
def test_an_overridden_hook(ours: str, feasts: str, name: str, parameters: str | None) -> None:
    """After a rename, Feast would otherwise silently use its own behaviour."""
    where = file_of(ours)
    base = class_of(feasts, where)
    assert hasattr(base, name), moved(f"{feasts}, which has no {name} to override any more", where)
    if parameters is None:
        assert isinstance(getattr(base, name), property), moved(
            f"{feasts}.{name}, which was a property", where
        )
        return
    there = list(inspect.signature(getattr(base, name)).parameters)
    # All of them: Feast passes them all.
    assert there == parameters.split(), moved(
        f"the parameters of {feasts}.{name}: expected {parameters.split()}, got {there}", where
    )


@pytest.mark.parametrize(("ours", "hooks"), [(ours, hooks) for ours, _, hooks in OVERRIDDEN])
def test_no_other_hook_is_overridden(ours: str, hooks: dict[str, str | None]) -> None:
    """Also if a new Feast uses a name of ours, and would call it."""
    own = class_of(ours, file_of(ours))
    bases = [base for base in own.__mro__[1:] if base.__module__.split(".")[0] == "feast"]
    taken = {
        name
        for name in vars(own)
        if not name.startswith(("__", "_abc_")) and any(name in vars(base) for base in bases)
    }
    assert taken == set(hooks), moved(
        f"the classes under {ours}: names of ours that are theirs too are {sorted(taken)}, pinned "
        f"are {sorted(hooks)}",
        file_of(ours),
    )


def test_the_reads_go_through_the_hooks_of_ttl() -> None:
    """Both ways of reading call the hook themselves, and every store inherits them."""
    where = "stores/reading/expiry.py"
    base = class_of(STORE, where)
    for reading, hook in (
        ("get_online_features", "self._read_features_per_fv("),
        ("get_online_features_async", "self._read_features_per_fv_async("),
    ):
        assert hook in inspect.getsource(getattr(base, reading)), moved(
            f"{STORE}.{reading}, which no longer calls {hook})", where
        )
        for store in (
            f"{SQLITE}.SqliteOnlineStore",
            f"{REDIS}.RedisOnlineStore",
            f"{POSTGRES}.PostgreSQLOnlineStore",
        ):
            assert getattr(class_of(store, where), reading) is getattr(base, reading), moved(
                f"{store}.{reading}, which was OnlineStore's", where
            )


@pytest.mark.parametrize(
    ("feasts", "name", "parameters", "where"), USED, ids=lambda value: str(value).split(".")[-1]
)
def test_a_member_that_is_used(feasts: str, name: str, parameters: str | None, where: str) -> None:
    base = class_of(feasts, where)
    assert hasattr(base, name), moved(f"{feasts}, which has no {name} any more", where)
    if parameters is not None:
        assert_takes(getattr(base, name), parameters, f"{feasts}.{name}", where)


VIEW = view("likes", [MEMBER], [Field(name="v", dtype=Array(Float32))])


@pytest.fixture
def applied(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeatureStore]:
    """Plain Feast's own table of a view, empty."""
    kind, options = request.param
    for store in opened(kind, request, tmp_path, **options):
        store.apply([MEMBER, VIEW])
        yield store


NUMBERED = {"enable_openai_compatible_store": True}


@pytest.mark.parametrize("applied", [("sqlite", {}), ("sqlite", NUMBERED)], indirect=True)
def test_the_table_in_sqlite(applied: FeatureStore, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "online.db")) as connection:
        columns = connection.execute("pragma table_info(reads_likes)").fetchall()
        indexes = {row[1] for row in connection.execute("pragma index_list(reads_likes)")}
    numbered = applied.config.online_store.enable_openai_compatible_store
    expected = [
        ("entity_key", "BLOB", 1),
        ("feature_name", "TEXT", 2),
        ("value", "BLOB", 0),
        ("value_text", "TEXT", 0),
        *([("value_num", "REAL", 0)] if numbered else []),
        ("vector_value", "BLOB", 0),
        ("event_ts", "timestamp", 0),
        ("created_ts", "timestamp", 0),
    ]
    there = [(name, kind, key) for _, name, kind, _, _, key in columns]
    assert there == expected, moved(
        f"the columns of its tables in SQLite: {there}", "stores/sqlite.py"
    )
    assert "reads_likes_ek" in indexes, moved(
        "the name of its second index, which is dropped", "stores/sqlite.py"
    )


@pytest.mark.postgres
@pytest.mark.parametrize("applied", [("postgres", {}), ("postgres", NUMBERED)], indirect=True)
def test_the_table_in_postgresql(applied: FeatureStore) -> None:
    options: Any = applied.config.online_store
    with psycopg.connect(
        host=options.host, port=options.port, dbname=options.database, user=options.user,
        password=options.password,
    ) as connection:  # fmt: skip
        columns = connection.execute(
            "select column_name, data_type from information_schema.columns "
            "where table_name = 'reads_likes' order by ordinal_position"
        ).fetchall()
        indexes = connection.execute(
            "select indexdef from pg_indexes where tablename = 'reads_likes'"
        ).fetchall()
    expected = [
        ("entity_key", "bytea"),
        ("feature_name", "text"),
        ("value", "bytea"),
        ("value_text", "text"),
        *([("value_num", "double precision")] if options.enable_openai_compatible_store else []),
        ("vector_value", "bytea"),
        ("event_ts", "timestamp with time zone"),
        ("created_ts", "timestamp with time zone"),
    ]
    assert columns == expected, moved(
        f"the columns of its tables in PostgreSQL: {columns}", "stores/postgres.py"
    )
    definitions = " ".join(definition for (definition,) in indexes)
    assert "(entity_key, feature_name)" in definitions, moved(
        "the primary key of its tables", "stores/postgres.py"
    )
    assert "reads_likes_ek" in definitions, moved(
        "the name of its second index, which is dropped", "stores/postgres.py"
    )
