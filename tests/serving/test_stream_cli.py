"""`activity stream` as a user starts it: rows and figures, its end, an emptied store, a rebuild."""

import http.client
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
import yaml

from serving.stream.bus.open import open_bus
from serving.stream.offline_log import parts
from serving.stream.updater import utc_now
from tests.worlds.events import Event
from tests.worlds.lines import AGGREGATORS, write_catalogue
from tests.worlds.live import (
    Live,
    assert_same_row,
    free_port,
    midnight,
    past_events,
    redis_client,
    redis_online,
    send,
)
from tests.worlds.servers import emptied
from transformations.config import ROOT
from transformations.names import SEQUENCE_VIEW

pytestmark = pytest.mark.redis

STREAMED = [SEQUENCE_VIEW, *(line.view for line in AGGREGATORS if line.stream)]
LEFT_ALONE = [line.view for line in AGGREGATORS if not line.stream]
MEMBERS = [1, 2, 3]  # the third is in no snapshot

Rows = dict[str, dict[Any, dict[str, Any]]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, _redis_process: str) -> Live:
    """The catalogue's own lines and a snapshot, with the settings that a command reads."""
    live = Live(
        tmp_path_factory.mktemp("command"), redis_online(emptied(_redis_process)), AGGREGATORS
    )
    live.build(past_events(np.random.default_rng(7), 40, 2), midnight())
    settings = live.config.model_dump(mode="json", exclude_defaults=True)
    (live.folder / "activity.yaml").write_text(yaml.safe_dump(settings))
    write_catalogue(live.folder)
    return live


@pytest.fixture
def live(built: Live, redis_server: str) -> Live:
    """The same with an empty Redis and nothing streamed: the command publishes the snapshot."""
    for view in built.view_names():
        for part in parts(built.config.layout.table(view)):
            part.unlink()
    return built


@pytest.fixture
def url(redis_server: str) -> str:
    return f"redis://{redis_server}"


class Command:
    """A running `activity stream`, once it reads events."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self._port = process, port

    def figures(self) -> str:
        """What its Prometheus port answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return text

    def wait_for(self, outcome: str, count: int) -> None:
        """Ask for the figures until at least `count` events had this outcome."""
        began = time.monotonic()
        while True:
            text = self.figures()
            # The line appears with the first such event.
            found = re.search(rf'\nactivity_stream_events_total{{outcome="{outcome}"}} (.*)', text)
            if found is not None and float(found[1]) >= count:
                return
            assert time.monotonic() - began < 600, text
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)

    def ends(self, code: int) -> str:
        """Wait for its end; return what it complained of."""
        _, errors = self.process.communicate(timeout=600)
        assert self.process.returncode == code, errors
        assert "Traceback" not in errors
        return " ".join(errors.split())

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        said = self.ends(0)
        assert "rror" not in said, said


@pytest.fixture
def stream(live: Live, url: str) -> Iterator[Callable[..., Any]]:
    @contextmanager
    def start(*options: str) -> Iterator[Command]:
        port = free_port()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pipelines.cli", "stream", "--bus", url),
                *("--config", str(live.folder / "activity.yaml")),
                *("--metrics-port", str(port), *options),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            if not any("reads events from" in line for line in process.stdout):
                raise AssertionError(process.communicate())
            yield Command(process, port)
        finally:
            process.kill()
            process.communicate()

    return start


def online(live: Live, views: Sequence[str]) -> Rows:
    """View → member → row, under the names of the tables."""
    return {
        view: {
            member: {name.removeprefix("stored_"): value for name, value in row.items()}
            for member, row in live.online_rows(view, MEMBERS).items()
        }
        for view in views
    }


def five_events() -> list[Event]:
    return [Event(1 if item < 4 else 3, item, "APPLY", utc_now()) for item in range(1, 6)]


def put(url: str, events: Sequence[Event]) -> None:
    bus = open_bus(url, "producer")
    send(bus, events)
    bus.close()


def test_it_keeps_the_streamed_lines_fresh_until_it_is_told_to_stop(live, url, stream):
    assert len(STREAMED) > 1
    assert len(LEFT_ALONE) > 0
    with stream() as command:
        # On the loopback, and not on every interface, of which 127.0.0.2 is one.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", command._port))
        before = online(live, STREAMED)
        left_alone = online(live, LEFT_ALONE)
        put(url, five_events())
        command.wait_for("applied", 5)
        after = online(live, STREAMED)
        for view in STREAMED:
            for member, sent in ((1, 3), (3, 2)):
                earlier, later = before[view][member], after[view][member]
                assert later["n_apply"] == (earlier["n_apply"] or 0) + sent
                assert later["event_timestamp"] > earlier["event_timestamp"]
                vectors = [name for name in later if name.endswith("_embedding")]
                assert (view == SEQUENCE_VIEW) == (vectors == [])
                assert view == SEQUENCE_VIEW or any(later[n] != earlier[n] for n in vectors)
            assert after[view][2] == before[view][2]
        assert after[SEQUENCE_VIEW][1]["item_ids"][-3:] == [1, 2, 3]
        assert online(live, LEFT_ALONE) == left_alone
        command.stop()
    for view in STREAMED:
        assert sorted({row["member_id"] for row in live.offline_rows(view)}) == [1, 3]
    assert [live.offline_rows(view) for view in LEFT_ALONE] == [[]] * len(LEFT_ALONE)


def test_an_emptied_store_ends_it_and_a_rebuild_brings_the_rows_back(
    live, url, stream, redis_server
):
    """The bus was in the same Redis; one of the events is sent again and changes nothing."""
    events = five_events()
    with stream() as command:
        put(url, events)
        command.wait_for("applied", 5)
        before, left_alone = online(live, STREAMED), online(live, LEFT_ALONE)
        with redis_client(redis_server) as client:
            client.flushall()
        put(url, events[:1])
        assert "activity stream --rebuild" in command.ends(1)
    with stream("--rebuild") as command:
        command.wait_for("duplicate", 1)
        for view, rows in online(live, STREAMED).items():
            for member, row in rows.items():
                assert_same_row(before[view][member], row)
        assert online(live, LEFT_ALONE) == left_alone
        command.stop()
