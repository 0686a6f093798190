"""A secret is planted in every place of the settings; whatever is written is searched for it."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from operations.ledger import Ledger
from operations.sources import note_sources
from pipelines.cli.app import main
from serving import publish
from serving.stream.bus.open import open_bus
from tests.worlds.events import AS_OF
from transformations import secrets
from transformations.config import Config, load_config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.sources import stage_activity

PLANTED = "Pl4nted@S3cret/%41"
QUOTED = "Pl4nted%40S3cret%2F%2541"
PARTS = ("Pl4nted", "S3cret")


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PLANTED", PLANTED)
    monkeypatch.setattr(secrets, "_known", set())
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


def workspace(folder: Path, **events: Any) -> Path:
    """An activity.yaml in a folder, as a person writes it."""
    settings = {
        "data_dir": str(folder / "data"),
        "feature_store": str(folder / "feature_store.yaml"),
        "events": {"table": "events"} | events,
        "items": {"source": str(folder / "items.parquet"), "text": ["title"]},
        "dim": 4,
    }
    file = folder / "activity.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["activity", *arguments])
    with pytest.raises(SystemExit):
        main()


def assert_nowhere(text: str, folder: Path) -> None:
    """Nothing that was said or written below a folder holds a part of the secret."""
    files = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix != ".yaml"
    }
    said = {"what was said": text.encode()} | files
    assert len(said) > 1
    found = {name for name, data in said.items() for part in PARTS if part.encode() in data}
    assert found == set()


STORE = {
    "project": "planted",
    "provider": "local",
    "registry": "data/registry.db",
    "online_store": {"type": "sqlite", "path": "data/online.db"},
    "entity_key_serialization_version": 3,
}
SOURCES = [
    "postgresql+psycopg://svc:${PLANTED}@127.0.0.1:1/db",
    f"postgresql+psycopg://svc:{QUOTED}@127.0.0.1:1/db",
    "postgresql+psycopg://127.0.0.1:1/db?user=u&password=${PLANTED}",
    f"postgresql+psycopg://127.0.0.1:1/db?user=u&password={QUOTED}",
    f"postgresql+psycopg://svc:{PLANTED}@127.0.0.1:1/db",
    f"nosuch+driver://svc:{QUOTED}@127.0.0.1:1/db",
    f"postgresql+psycopg://svc:{QUOTED}@127.0.0.1:port/db",
]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_a_run_that_fails_says_and_keeps_no_secret(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
    caplog: Any,
    source: str,
    debug: tuple[str, ...],
) -> None:
    file = workspace(tmp_path, source=source)
    (tmp_path / "feature_store.yaml").write_text(yaml.safe_dump(STORE))
    command(monkeypatch, "run", "--config", str(file), "--as-of", "2026-03-10", *debug)
    command(monkeypatch, "status", "--config", str(file))
    said = capfd.readouterr()
    assert "source" in said.err or "reading events" in said.err
    assert_nowhere(said.out + said.err + caplog.text, tmp_path)
    assert "failed" in Ledger(load_config(file)).last_runs(1)[0]["status"]


@pytest.mark.postgres
def test_a_run_that_reads_keeps_no_secret(tmp_path: Path, postgres_url: str) -> None:
    """PostgreSQL takes a password that it does not ask for."""
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "create table events (member_id bigint, item_id bigint, action text, "
            "event_timestamp timestamptz)"
        )
        connection.exec_driver_sql("insert into events values (1, 2, 'SAVE', '2026-03-01')")
    engine.dispose()
    sep = "&" if "?" in postgres_url else "?"
    for number, password in enumerate((QUOTED, "${PLANTED}")):
        folder = tmp_path / str(number)
        folder.mkdir()
        config = load_config(workspace(folder, source=f"{postgres_url}{sep}password={password}"))
        note_sources(config)
        with connect(config) as con:
            assert stage_activity(config, con, AS_OF).rows_out == 1
        note_sources(config)
        assert_nowhere("", folder)


def test_no_registry_entry_holds_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Online store and registry with passwords: the objects are registered, the settings not."""
    file = workspace(tmp_path, source=SOURCES[0])
    settings = {
        "project": "planted",
        "provider": "local",
        "registry": {"registry_type": "sql", "path": f"sqlite:///{tmp_path}/registry.db"},
        "online_store": {
            "type": "stores.redis.ColumnarRedisOnlineStore",
            "connection_string": "127.0.0.1:1,password=${PLANTED}",
        },
        "offline_store": {"type": "stores.duckdb_asof.DuckDBAsofOfflineStore"},
        "entity_key_serialization_version": 3,
    }
    (tmp_path / "feature_store.yaml").write_text(yaml.safe_dump(settings))
    config: Config = load_config(file)
    store = publish.open_store(config)
    assert store.config.online_store.connection_string.endswith(PLANTED)
    monkeypatch.setattr("serving.publish.feast_store.claim", lambda *_: None)
    publish.apply(config, store, ())
    assert_nowhere("", tmp_path)

    monkeypatch.setenv("PLANTED", "Pl4nted,S3cret")
    with pytest.raises(InputError, match="a password without a comma") as caught:
        publish.open_store(config)
    assert_nowhere(str(caught.value), tmp_path)

    monkeypatch.setenv("PLANTED", PLANTED)
    settings["online_store"] |= {"wrong": 1}  # type: ignore[operator]
    settings["registry"] |= {"path": f"nosuch://svc:{QUOTED}@h:x/db"}  # type: ignore[operator]
    (tmp_path / "feature_store.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(InputError) as caught:
        publish.open_store(config)
    assert_nowhere(str(caught.value), tmp_path)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (f"amqp://svc:{QUOTED}@h/q", "expected a bus such as"),
        (f"redis://svc:{QUOTED}@h:abc", "expected a bus such as"),
        (f"redis://svc:{PLANTED}@h:abc/0", "expected a bus such as"),
        (f"redis://svc:{QUOTED}@h:99999", "expected a bus such as"),
        (f"redis://svc:{QUOTED}@[h", "expected a bus such as"),
        (f"redis://svc:{QUOTED}@", "expected a bus such as"),
        (f"redis://h?password={QUOTED}", "expected the keys stream and group"),
        (f"redis://h?stream&password={QUOTED}", "expected a bus such as"),
        (f"kafka://svc:{QUOTED}@h:9092/t", "sasl.username"),
        (f"svc:{QUOTED}@h", "expected a bus such as"),
    ],
)
def test_a_bus_that_is_no_bus_is_refused_without_its_password(url: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        open_bus(url, "consumer")
    assert not any(part in str(caught.value) for part in PARTS)
