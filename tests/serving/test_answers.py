"""Stores and buses are asked once, before anything is changed; the answer says what is wrong."""

import errno
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from pipelines.daily import run_daily
from serving import publish
from serving.answers import setting_of
from serving.publish.ask import POSTGRES, REDIS
from serving.stream.bus.open import open_bus
from serving.stream.bus.redis import SETTINGS
from tests.worlds.live import Live, free_port, kafka, midnight, redis_client, redis_online
from tests.worlds.servers import redis_of
from transformations.errors import InputError, NoSpaceError, RunFailedError
from transformations.files import replacing, replacing_folder

__all__ = ["kafka"]


@contextmanager
def closing() -> Iterator[int]:
    """A server that resets every connection, as one that waits for TLS does."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01" + b"\0" * 7)
                    connection.recv(1)
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def refused(live: Live) -> str:
    """What a daily run says; it has changed nothing."""

    class Stages:
        class ledger:  # noqa: N801
            @staticmethod
            def newest_published() -> None:
                return None

    live.write_settings()
    before = sorted(live.folder.rglob("*"))
    with pytest.raises(InputError) as caught:
        run_daily(live.config, midnight(), Stages)  # type: ignore[arg-type]
    assert sorted(live.folder.rglob("*")) == before
    return str(caught.value)


@pytest.mark.redis
def test_a_missing_or_wrong_password(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "redis").mkdir()
    with redis_of(tmp_path / "redis", "--port", str(port), "--requirepass", "s3cret-word"):
        for online in (f"127.0.0.1:{port}", f"127.0.0.1:{port},password=other-word"):
            said = refused(Live(tmp_path, redis_online(online)))
            assert "online_store: expected an answer" in said
            assert "Nothing was changed. Look at the password" in said
            assert "other-word" not in said
        for url in (f"redis://127.0.0.1:{port}", f"redis://:other-word@127.0.0.1:{port}"):
            bus = open_bus(url, "consumer")
            with pytest.raises(InputError, match="Look at the password before the host") as caught:
                bus.ask()
            assert "other-word" not in str(caught.value)
            bus.close()
        live = Live(tmp_path, redis_online(f"127.0.0.1:{port},password=s3cret-word"))
        live.write_settings()
        publish.ask(live.config, live.store())
        open_bus(f"redis://:s3cret-word@127.0.0.1:{port}", "consumer").ask()


def as_cluster(address: str) -> str:
    return json.dumps(json.loads(redis_online(address)) | {"redis_type": "redis_cluster"})


@pytest.mark.redis
def test_a_cluster_is_asked_at_the_first_node_that_is_there(tmp_path: Path) -> None:
    port, nobody = free_port(), free_port()
    (tmp_path / "redis").mkdir()
    of_cluster = ("--cluster-enabled", "yes", "--requirepass", "s3cret-word")
    with redis_of(tmp_path / "redis", "--port", str(port), *of_cluster):
        nodes = f"127.0.0.1:{nobody},127.0.0.1:{port}"
        said = refused(Live(tmp_path, as_cluster(f"{nodes},password=other-word")))
        assert "Nothing was changed. Look at the password" in said
        assert "other-word" not in said
        live = Live(tmp_path, as_cluster(f"{nodes},password=s3cret-word"))
        live.write_settings()
        publish.ask(live.config, live.store())
    assert "Look at host and port" in refused(Live(tmp_path, as_cluster(nodes)))


@pytest.mark.redis
def test_a_server_alone_is_not_a_cluster(tmp_path: Path, redis_server: str) -> None:
    said = refused(Live(tmp_path, as_cluster(redis_server)))
    assert "cluster support disabled" in said


@pytest.mark.redis
def test_sentinels_that_are_not_there(tmp_path: Path) -> None:
    options = {"redis_type": "redis_sentinel", "sentinel_master": "mymaster"}
    online = json.loads(redis_online(f"127.0.0.1:{free_port()}")) | options
    assert "Look at host and port" in refused(Live(tmp_path, json.dumps(online)))


@pytest.mark.redis
def test_sentinels_tell_the_server_that_is_asked(tmp_path: Path) -> None:
    port, watching = free_port(), free_port()
    (tmp_path / "redis").mkdir()
    conf = tmp_path / "redis" / "sentinel.conf"
    conf.write_text(
        f"port {watching}\nsentinel monitor mymaster 127.0.0.1 {port} 1\n"
        "sentinel auth-pass mymaster s3cret-word\n"
    )

    def online(password: str, master: str = "mymaster") -> str:
        given = json.loads(redis_online(f"127.0.0.1:{watching},password={password}"))
        return json.dumps(given | {"redis_type": "redis_sentinel", "sentinel_master": master})

    protected = ("--port", str(port), "--requirepass", "s3cret-word")
    sentinel = redis_of(tmp_path / "redis", conf=conf, says="+monitor master")
    with redis_of(tmp_path / "redis", *protected), sentinel:
        live = Live(tmp_path, online("s3cret-word"))
        live.write_settings()
        publish.ask(live.config, live.store())
        said = refused(Live(tmp_path, online("other-word")))
        assert "Nothing was changed. Look at the password" in said
        assert "other-word" not in said
        assert "Look at sentinel_master" in refused(Live(tmp_path, online("s3cret-word", "other")))


def test_a_server_that_waits_for_tls(tmp_path: Path) -> None:
    with closing() as port:
        said = refused(Live(tmp_path, redis_online(f"127.0.0.1:{port}")))
        assert "Look at TLS: `ssl=true`" in said
        with pytest.raises(InputError, match="Look at TLS: rediss://"):
            open_bus(f"redis://127.0.0.1:{port}", "consumer").ask()


def test_nobody_is_there(tmp_path: Path) -> None:
    port = free_port()
    assert "Look at host and port" in refused(Live(tmp_path, redis_online(f"127.0.0.1:{port}")))
    postgres = {"host": "127.0.0.1", "port": port, "database": "d", "user": "u", "password": "pw"}
    plugin = {"type": "stores.postgres.ColumnarPostgreSQLOnlineStore"}
    assert "Look at host and port" in refused(Live(tmp_path, json.dumps(plugin | postgres)))
    with pytest.raises(InputError, match="Look at host and port"):
        open_bus(f"redis://127.0.0.1:{port}", "consumer").ask()


@pytest.mark.redis
def test_a_key_that_is_no_stream(redis_server: str) -> None:
    with redis_client(redis_server) as client:
        client.set("taken", "x")
    with pytest.raises(InputError, match="'taken' to be a Redis stream, got a string"):
        open_bus(f"redis://{redis_server}/0?stream=taken", "consumer").ask()


def test_a_kafka_that_answers(kafka: str) -> None:
    open_bus(f"kafka://{kafka}/asked", "consumer").ask()


def test_a_setting_that_kafka_does_not_know() -> None:
    with pytest.raises(InputError, match=r"Kafka: .*no.such.*Look at the settings after \?"):
        open_bus("kafka://127.0.0.1:1/t?no.such=1", "consumer").ask()


ANSWERS = [
    (redis.AuthenticationError("Authentication required."), REDIS, "password"),
    (redis.AuthenticationError("WRONGPASS invalid username-password pair"), REDIS, "password"),
    (redis.ResponseError("NOAUTH HELLO must be called with ..."), SETTINGS, "password"),
    (redis.ConnectionError("Connection closed by server."), REDIS, "tls"),
    (ConnectionResetError(104, "Connection reset by peer"), REDIS, "tls"),
    (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), REDIS, "tls"),
    (ssl.SSLError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), REDIS, "certificate"),
    (redis.ResponseError("NOPERM this user has no permissions to run 'get'"), REDIS, "rights"),
    (redis.ResponseError("DB index is out of range"), REDIS, "database"),
    (redis.ConnectionError("Error 111 connecting to h:1. Connection refused."), REDIS, "address"),
    (OSError("fe_sendauth: no password supplied"), POSTGRES, "password"),
    (OSError('FATAL:  password authentication failed for user "u"'), POSTGRES, "password"),
    (OSError('FATAL:  database "d" does not exist'), POSTGRES, "database"),
    (OSError("server does not support SSL, but SSL was required"), POSTGRES, "tls"),
    (OSError("permission denied for schema s"), POSTGRES, "rights"),
]


@pytest.mark.parametrize(("error", "settings", "kind"), ANSWERS)
def test_an_answer_names_the_setting(error: Exception, settings: Any, kind: str) -> None:
    assert setting_of(error, settings) == settings[kind]


def write_too_much() -> None:
    with Path("/dev/full").open("w") as file:
        file.write("x" * 100_000)


def test_no_space_left_names_the_path_and_what_was_kept(tmp_path: Path) -> None:
    file = tmp_path / "table" / "part-0.parquet"
    with (
        pytest.raises(NoSpaceError, match=r"part-0.parquet .*Nothing was written"),
        replacing(file),
    ):
        write_too_much()
    file.write_text("good")
    with pytest.raises(NoSpaceError, match="It is as it was before") as caught, replacing(file):
        write_too_much()
    assert file.read_text() == "good"
    assert isinstance(caught.value, OSError)  # a stream worker waits for space, as for a store
    with (
        pytest.raises(NoSpaceError, match=r"folder .*Nothing was written"),
        replacing_folder(tmp_path / "folder"),
    ):
        write_too_much()
    assert [one.name for one in tmp_path.iterdir()] == ["table"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError('IO Error: Could not write file "x": No space left on device'),
        RuntimeError("(sqlite3.OperationalError) database or disk is full"),
    ],
)
def test_no_space_in_any_librarys_words(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(NoSpaceError), replacing(tmp_path / "file"):
        raise error


def test_another_error_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match="a check"), replacing(tmp_path / "file"):
        raise RunFailedError("a check failed")
