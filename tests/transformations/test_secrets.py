"""Passwords are put in after parsing, and are nowhere in what is said."""

import logging
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
import yaml
from hypothesis import given
from hypothesis import strategies as st

from transformations import secrets
from transformations.errors import InputError, RunFailedError
from transformations.secrets import expanded, redact, unset
from transformations.sources.sql_source import open_engine, read_url, shown_url

SOURCE = "postgresql+psycopg://svc:${DB_PASSWORD}@db.example/name"
# What a password may hold that means something in a URL, in YAML, or in a pattern.
ODD = ["a@b", "%41", "a:b/c", "p#q?r=s&t", "${X}", "$HOME", "a'b\"c", "ü ñ", "\\1", "x" * 80]


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", set())


@pytest.mark.parametrize("password", ODD)
@pytest.mark.parametrize(
    "source",
    [
        SOURCE,
        "postgresql+psycopg://db.example/name?user=svc&password=${DB_PASSWORD}",
        "postgresql+psycopg://db.example:5432/name?sslpassword=${DB_PASSWORD}&user=svc",
    ],
)
def test_a_variable_is_put_in_after_parsing(
    monkeypatch: pytest.MonkeyPatch, password: str, source: str
) -> None:
    monkeypatch.setenv("DB_PASSWORD", password)
    url = read_url("events.source", source)
    found = url.password or url.query.get("password") or url.query.get("sslpassword")
    assert (found, url.host, url.database) == (password, "db.example", "name")
    for said in (password, quote(password, ""), str(url), url.render_as_string(False)):
        assert redact(f"connection to {said} failed").count(password) == 0
    engine = open_engine("events", source, lambda _: None)  # type: ignore[arg-type, return-value]
    assert password not in shown_url(engine)
    assert engine.url == url


@given(password=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=4))
def test_any_password_arrives_and_leaves_no_trace(password: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DB_PASSWORD", password)
        url = read_url("events.source", SOURCE)
        assert url.password == password
        rendered = url.render_as_string(hide_password=False)
        assert sa.make_url(rendered).password == password
        shown = redact(f"could not reach {rendered}")
        assert shown == "could not reach postgresql+psycopg://svc:***@db.example/name"


@pytest.mark.parametrize(
    ("variables", "source", "expected"),
    [
        ({"H": "db", "P": "5433", "N": "a b"}, "postgresql://u@${H}:${P}/${N}", ("db", 5433)),
        ({"P": "5433"}, "postgresql://u@db:${P}", ("db", 5433)),
        ({"U": "a@b"}, "postgresql://${U}:x@db:1/n", ("db", 1)),
    ],
)
def test_every_part_may_be_a_variable(
    monkeypatch: pytest.MonkeyPatch, variables: Any, source: str, expected: Any
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    url = read_url("events.source", source)
    assert (url.host, url.port) == expected
    assert url.database == ({"N": "a b"} | variables).get("N") or "N" not in variables


def test_an_at_sign_that_is_not_quoted_is_refused_without_being_shown() -> None:
    with pytest.raises(InputError, match=r"expected one @ before the host.*\$\{NAME\}") as caught:
        open_engine("events", "postgresql://u:first@second@host/db", lambda _: None)  # type: ignore[arg-type, return-value]
    assert "second" not in str(caught.value)
    assert "second" not in redact('could not translate host name "second@host"')


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:S3CRET@h:6379/0", "redis://:***@h:6379/0"),
        ("rediss://u:S3@CRET@h:abc", "rediss://u:***@h:abc"),
        ("amqp://u:S3CRET@h", "amqp://u:***@h"),
        ("x://h/db?user=u&password=S3CRET&a=b", "x://h/db?user=u&password=***&a=b"),
        ("x://h/db?PassWord=S3CRET", "x://h/db?PassWord=***"),
        ("h:6379,db=0,password=S3CRET,ssl=true", "h:6379,db=0,password=***,ssl=true"),
        ("{'password': 'S3 CRET', 'a': 1}", "{'password': '***', 'a': 1}"),
        ('{"sasl.password": "S3CRET"}', '{"sasl.password": "***"}'),
        ("aws_secret_access_key=S3CRET", "aws_secret_access_key=***"),
        ("api_key: S3CRET", "api_key: ***"),
        (
            "expected the password as ${NAME}, the name",
            "expected the password as ${NAME}, the name",
        ),
        (SOURCE, SOURCE),
        ("?password=${PW}", "?password=${PW}"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("see https://docs.feast.dev/a:b", "see https://docs.feast.dev/a:b"),
        ("at 12:30 of a@b", "at 12:30 of a@b"),
    ],
)
def test_what_looks_like_a_password_is_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(redact(text)) == shown
    assert str(InputError(text)) == str(RunFailedError(text)) == shown


def test_environment_variables_that_are_secrets_by_name_are_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGPASSWORD", "postgres")
    monkeypatch.setenv("SOME_TOKEN", "abcdefghijkl")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "/begins/with/a/slash")
    assert redact("s3fs: key /begins/with/a/slash.") == "s3fs: key ***."
    assert (
        redact("postgresql: postgres abcdefghijklm /tmp/agent") == "postgresql: *** ***m /tmp/agent"
    )


@pytest.mark.parametrize("password", ODD)
def test_settings_of_yaml_are_filled_in_after_parsing(
    monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("PW", password)
    text = "online_store: {password: $PW, connection_string: 'h:1,password=${PW}', port: 5432}"
    found = expanded(yaml.safe_load(text))["online_store"]
    assert found["password"] == password
    assert found["connection_string"] == f"h:1,password={password}"
    assert found["port"] == 5432
    assert password not in redact(f"Feast got {found!r} and {password}")
    assert list(unset(yaml.safe_load("a: ['${PW}', {b: '${GONE}'}] # ${COMMENT}"))) == ["GONE"]


def test_logs_hold_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    factory = logging.getLogRecordFactory()
    try:
        secrets.redact_logs()
        secrets.remember("planted-secret")
        try:
            raise ValueError("planted-secret")
        except ValueError:
            logging.getLogger("x").exception("at %s: %s", "redis://:other@h", "planted-secret")
        logging.getLogger("x").warning("no such %d")
        logging.getLogger("x").warning("%d of %s", 1, "two\x1b[31m")
    finally:
        logging.setLogRecordFactory(factory)
    assert "planted" not in caplog.text
    assert "redis://:***@h" in caplog.text
    assert "1 of two␛[31m" in caplog.text
