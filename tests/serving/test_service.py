"""The request-time service over real sockets: answers, refusals, overload, renewal, the command."""

import gc
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from prometheus_client.parser import text_string_to_metric_families

from models.spec import GeometricDecay
from serving.request import service
from serving.request.limits import Limits
from serving.request.server import server_of
from serving.request.service import application
from serving.request.vectors import RequestTime
from tests.worlds.applied import utc, vector
from tests.worlds.events import Event
from tests.worlds.live import free_port, server
from tests.worlds.request import DAY, NOW, PLAIN, SNAPSHOT, RequestWorld, package_line
from tests.worlds.servers import running_redis
from tests.worlds.tiny_models import write_items
from transformations.config import ROOT, Config
from transformations.timestamps import microseconds

AVERAGE, DECAY = (line.view for line in PLAIN)
HALF = GeometricDecay(version=2, decay=0.5)
LIMITS = Limits(threads=2, max_in_flight=4, max_body=100_000, body_timeout=0.5, timeout=600.0)


class Client:
    """Asks one server, over a new connection each time."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address

    def ask(
        self, path: str = "/embed", body: Any = None, raw: bytes | None = None, **headers: str
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection(*self.address, timeout=600)
        data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json"} | headers
        connection.request("POST" if data is not None else "GET", path, data, headers)
        reply = connection.getresponse()
        text = reply.read()
        connection.close()
        is_json = reply.headers["Content-Type"] == "application/json"
        return reply.status, json.loads(text) if is_json else text.decode(), reply.headers

    def embed(self, *member_ids: Any, **more: Any) -> Any:
        status, answer, _ = self.ask(body={"member_ids": member_ids, **more})
        assert status == 200, answer
        return answer

    def figures(self) -> dict[str, float]:
        text = self.ask("/metrics")[1]
        return {
            " ".join([sample.name, *sample.labels.values()]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@contextmanager
def serving(
    world: RequestWorld, limits: Limits = LIMITS, refresh: float = 3600.0
) -> Iterator[Client]:
    """Serve a world on a free port of the loopback; end it, what is inside answered."""
    server = server_of(application(world.open(), limits, refresh), limits)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Client(listening.getsockname())
        finally:
            server.should_exit = True
            thread.join()


def test_what_is_loaded_is_out_of_the_collectors_rounds(world: RequestWorld) -> None:
    with serving(world) as client:
        client.embed(7)
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0


def test_what_was_loaded_before_is_not_looked_at_again(
    world: RequestWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full collection takes half a second, in which nothing would be answered."""
    with serving(world) as client:
        client.embed(7)
        looked_at: list[int] = []
        collect = gc.collect

        def counted() -> int:
            looked_at.append(len(gc.get_objects()))
            return collect()

        monkeypatch.setattr(gc, "collect", counted)
        service._settle()
        assert looked_at[0] < 0.5 * gc.get_freeze_count()


def act(member: Any, item: Any = 1, action: str = "APPLY", at: Any = SNAPSHOT - DAY) -> Event:
    return Event(member, item, action, at)


def new(member: int, item: int, at: Any = NOW - timedelta(hours=1), action: str = "APPLY") -> Any:
    return {
        "member_id": member,
        "item_id": item,
        "action": action,
        "event_timestamp": at.isoformat(),
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RequestWorld]:
    with RequestWorld(tmp_path_factory.mktemp("service"), lines=PLAIN) as world:
        world.publish([act(7, 1), act(7, 2, "SAVE"), act(8, 3)])
        yield world


@pytest.fixture(scope="module")
def client(world: RequestWorld) -> Iterator[Client]:
    with serving(world) as client:
        yield client


def test_an_answer(client: Client) -> None:
    answer = client.embed(8, 99, 7, as_of=NOW.isoformat(), events=[new(7, 3), new(7, 4, NOW)])
    assert [row["member_id"] for row in answer["members"]] == [8, 99, 7]
    eight, nobody, seven = answer["members"]
    assert eight["vectors"][AVERAGE]["apply_embedding"] == pytest.approx(vector(3))
    assert nobody["vectors"][DECAY]["save_embedding"] == [0.0] * 4
    mean = [(a + b) / 2 for a, b in zip(vector(1), vector(3), strict=True)]
    assert seven["vectors"][AVERAGE]["apply_embedding"] == pytest.approx(mean, abs=1e-6)
    assert seven["columns"] == {
        "n_actions": 3,
        "n_apply": 2,
        "n_save": 1,
        "n_dismiss": 0,
        "last_action_at": "2026-03-05T08:00:00Z",
    }
    assert (eight["sequence_at"], nobody["sequence_at"]) == ("2026-03-04T00:00:00Z", None)
    assert answer["as_of"] == "2026-03-05T09:00:00Z"
    assert answer["held_back"] == 1
    assert set(answer["model_versions"]) == {AVERAGE, DECAY}


def test_an_integer_is_microseconds_as_in_the_stream(client: Client) -> None:
    at = microseconds(NOW)
    as_text = client.embed(7, as_of=NOW.isoformat(), events=[new(7, 3)])
    event = {**new(7, 3), "event_timestamp": microseconds(NOW - timedelta(hours=1))}
    assert client.embed(7, as_of=at, events=[event]) == as_text


def test_ids_as_text_are_the_same_members_and_items(client: Client) -> None:
    def vectors(member: Any, item: Any) -> Any:
        events = [{**new(7, 3), "member_id": member, "item_id": item}]
        answer = client.embed(member, 7, as_of=NOW.isoformat(), events=events)
        assert [row["member_id"] for row in answer["members"]] == [member, 7]  # as they were asked
        return [row["vectors"] for row in answer["members"]]

    (asked, same), plain = vectors("7", "3"), vectors(7, 3)
    assert asked == same == plain[0]


def test_only_the_views_asked_for_and_now_by_default(client: Client) -> None:
    answer = client.embed(7, views=[DECAY])
    assert list(answer["members"][0]["vectors"]) == list(answer["model_versions"]) == [DECAY]
    assert answer["members"][0]["columns"]["n_actions"] == 0  # March 2026 is long ago


@pytest.mark.parametrize(
    ("body", "where", "message"),
    [
        ({}, "body.member_ids", "Field required"),
        ({"member_ids": []}, "body.member_ids", "at least 1 item"),
        ({"member_ids": list(range(65))}, "body.member_ids", "at most 64 items"),
        ({"member_ids": [2**63]}, "body.member_ids.0", "less than 9223372036854775808"),
        ({"member_ids": [True]}, "body.member_ids.0", "valid integer"),
        ({"member_ids": [7], "as_off": 1}, "body.as_off", "Extra inputs"),
        ({"member_ids": [7], "as_of": "2026-03-05T09:00:00"}, "body.as_of", "timezone"),
        ({"member_ids": [7], "as_of": "2026-13-05T09:00:00Z"}, "body.as_of", "ISO 8601"),
        ({"member_ids": [7], "as_of": 1772323200.5}, "body.as_of", "integer of microseconds"),
        ({"member_ids": [7], "as_of": "1772323200"}, "body.as_of", "integer of microseconds"),
        ({"member_ids": [7], "as_of": True}, "body.as_of", "integer of microseconds"),
        ({"member_ids": [7], "as_of": 10**18}, "body.as_of", "outside the calendar"),
        ({"member_ids": [7], "as_of": "9999-12-31T23:59:59-12:00"}, "body.as_of", "calendar"),
        ({"member_ids": [7], "as_of": "0001-01-01T00:00:00+12:00"}, "body.as_of", "calendar"),
        ({"member_ids": [7], "as_of": 1772323200}, None, "integers are microseconds"),
        ({"member_ids": [7], "as_of": 1772323200000}, None, "integers are microseconds"),
        ({"member_ids": [7], "as_of": 1772323200 * 10**7}, None, "is after events.latest"),
        (
            {"member_ids": [7], "events": [{**new(7, 1), "event_timestamp": 1772323200}]},
            None,
            "event_timestamp 1970-01-01T00:29:32.323200+00:00 is before events.earliest",
        ),
        ({"member_ids": [7], "views": ["\ud800"]}, "body.views.0", "valid string"),
        ({"member_ids": [7], "events": [{**new(7, 1), "item_id": 1.5}]}, "item_id", "integer"),
        ({"member_ids": [7], "events": [new(7, 1)] * 513}, "body.events", "at most 512"),
        ({"member_ids": ["07"]}, None, "member_id: expected int64 ids, got '07'"),
        ({"member_ids": [7], "events": [new(8, 1)]}, None, "of the requested members"),
        ({"member_ids": [7], "events": [new(7, 1, action="LIKE")]}, None, "got 'LIKE'"),
        ({"member_ids": [7], "views": ["decay"]}, None, f"views among {AVERAGE}, {DECAY}"),
        ({"member_ids": [7], "as_of": utc(1).isoformat()}, None, "or later, the timestamp of"),
    ],
)
def test_a_wrong_request_says_where_and_what(
    client: Client, body: Any, where: str | None, message: str
) -> None:
    status, answer, _ = client.ask(body=body)
    error = answer["error"]
    assert (status, error["code"]) == (422, "invalid")
    if where is None:
        assert message in error["message"]
    else:
        assert any(
            where in detail["where"] and message in detail["message"] for detail in error["details"]
        ), error


def test_every_error_has_one_form(client: Client) -> None:
    for path, raw, status in (
        ("/nowhere", None, 404),
        ("/embed", None, 405),
        ("/embed", b"{", 422),
        ("/embed", b"\xff", 400),
        ("/embed", b"[" * 50_000, 400),
        ("/embed", b" " * 100_001, 413),
    ):
        got, answer, _ = client.ask(path, raw=raw)
        assert got == status, (path, raw, answer)
        assert set(answer) == {"error"}
        assert set(answer["error"]) == {"code", "message", "details"}
    assert "at most 100,000 bytes" in answer["error"]["message"]


def test_what_nobody_foresaw_is_told_and_counted(world: RequestWorld, monkeypatch: Any) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a fault of the code")

    with serving(world) as client:
        monkeypatch.setattr(RequestTime, "embed", broken)
        status, answer, _ = client.ask(body={"member_ids": [7]})
        assert (status, answer["error"]["code"]) == (500, "internal")
        assert "fault" not in answer["error"]["message"]
        figures = client.figures()
    assert figures["activity_embed_requests_total 500"] == 1
    assert figures["activity_embed_inside"] == 0


def test_a_body_without_a_length_is_bounded_too(client: Client) -> None:
    connection = http.client.HTTPConnection(*client.address, timeout=600)
    chunks = (b" " * 50_000 for _ in range(3))
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/embed", chunks, headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_a_client_that_keeps_its_body_back_is_sent_away(client: Client) -> None:
    with socket.create_connection(client.address, timeout=600) as connection:
        head = "POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
    assert client.figures()["activity_embed_inside"] == 0


def test_the_page_of_the_schema_loads_nothing(client: Client) -> None:
    status, page, headers = client.ask("/docs")
    assert status == 200
    assert headers["Content-Security-Policy"] == "default-src 'none'"
    assert "NewEvent" in page
    assert not re.search(r"<script|<link|src=|href=|url\(|@import", page)
    assert [client.ask(path)[0] for path in ("/redoc", "/docs/oauth2-redirect")] == [404, 404]


def test_health_and_metrics(world: RequestWorld) -> None:
    with serving(world) as client:
        status, health, _ = client.ask("/health")
        assert status == 200
        assert (health["status"], health["items"]) == ("ok", 5)
        assert set(health["models"]) == {AVERAGE, DECAY}
        client.embed(7, 8, 99, as_of=(SNAPSHOT + timedelta(minutes=5)).isoformat())
        client.ask(body={})
        figures = client.figures()
    assert figures["activity_embed_requests_total 200"] == 1
    assert figures["activity_embed_requests_total 422"] == 1
    assert figures["activity_embed_members_total stored"] == 2
    assert figures["activity_embed_members_total unknown"] == 1
    assert figures["activity_embed_seconds_count"] == 1
    # Two rows, five minutes old.
    assert figures["activity_embed_row_age_seconds_bucket 60.0"] == 0
    assert figures["activity_embed_row_age_seconds_bucket 600.0"] == 2
    assert figures["activity_embed_items"] == 5
    assert figures[f"activity_embed_model {health['models'][DECAY]} {DECAY}"] == 1


def test_overload_is_refused_and_what_is_inside_is_answered(tmp_path: Path) -> None:
    """A Redis that stands still keeps four requests inside; the fifth gets 429; then all go on."""
    with (
        running_redis() as address,
        RequestWorld(tmp_path, redis=address, lines=PLAIN[:1]) as world,
    ):
        world.publish([act(7, 1)])
        host, port = address.split(":")
        with redis.Redis(host=host, port=int(port)) as connection:
            process = connection.info()["process_id"]
        with serving(world) as client, ThreadPoolExecutor(LIMITS.max_in_flight) as pool:
            client.embed(7)
            os.kill(process, signal.SIGSTOP)
            try:
                body = {"member_ids": [7], "as_of": NOW.isoformat()}
                asked = [pool.submit(client.ask, body=body) for _ in range(LIMITS.max_in_flight)]
                while client.figures()["activity_embed_inside"] < LIMITS.max_in_flight:
                    pass
                status, answer, headers = client.ask(body=body)
            finally:
                os.kill(process, signal.SIGCONT)
            assert (status, answer["error"]["code"]) == (429, "overloaded")
            assert headers["Retry-After"] == "1"
            for waited in asked:
                status, answer, _ = waited.result()
                assert status == 200
                assert answer["members"][0]["columns"]["n_apply"] == 1
            assert client.figures()["activity_embed_inside"] == 0

            os.kill(process, signal.SIGKILL)
            gone = [pool.submit(client.ask, body=body), pool.submit(client.ask, "/health")]
            for waited in gone:
                status, answer, headers = waited.result()
                assert (status, answer["error"]["code"]) == (503, "unavailable")
                assert headers["Retry-After"] == "1"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_store_that_is_away_is_told_within_a_second(tmp_path: Path, how: int) -> None:
    """Killed, or standing still, with more requests than threads: 503 in time; then all again."""
    port, limits = free_port(), replace(LIMITS, timeout=1.0)
    with ExitStack() as stack:
        process = stack.enter_context(server(tmp_path, port))
        world = stack.enter_context(
            RequestWorld(tmp_path, redis=f"127.0.0.1:{port}", lines=PLAIN[:1])
        )
        world.publish([act(7, 1)])
        client = stack.enter_context(serving(world, limits))
        pool = stack.enter_context(ThreadPoolExecutor(limits.max_in_flight))
        # Before the client waits for its end, in whatever way this ends.
        stack.callback(process.send_signal, signal.SIGCONT)
        body = {"member_ids": [7], "as_of": NOW.isoformat()}
        began = time.monotonic()
        while client.ask(body=body)[0] == 503:  # on a busy machine the first takes its time
            assert time.monotonic() - began < 600.0
        process.send_signal(how)
        began = time.monotonic()
        asked = [pool.submit(client.ask, body=body) for _ in range(limits.max_in_flight - 1)]
        asked.append(pool.submit(client.ask, "/health"))
        for waited in asked:
            status, answer, headers = waited.result()
            assert (status, answer["error"]["code"]) == (503, "unavailable")
            assert set(answer["error"]) == {"code", "message", "details"}
            assert headers["Retry-After"] == "1"
        # One second, and what a busy machine takes; the store's client alone would take longer.
        assert time.monotonic() - began < 15.0
        if how == signal.SIGKILL:
            process.wait()
            stack.enter_context(server(tmp_path, port))
        else:
            process.send_signal(signal.SIGCONT)
        while client.ask(body=body)[0] == 503:
            assert time.monotonic() - began < 600.0
        assert client.embed(7, as_of=NOW.isoformat())["members"][0]["columns"]["n_apply"] == 1


def write_whole(config: Config, rows: Any) -> None:
    """Write a part of items as a run does: it appears when it is whole."""
    elsewhere = config.model_copy(update={"data_dir": f"{config.data_dir}-elsewhere"})
    write_items(elsewhere, rows, "part-b")
    (elsewhere.items_dir / "part-b.parquet").rename(config.items_dir / "part-b.parquet")


def test_new_models_and_items_come_without_a_request_dropped(tmp_path: Path) -> None:
    with RequestWorld(tmp_path, lines=PLAIN[:1]) as world:
        world.publish([act(7, 1)])
        with serving(world, refresh=0.05) as client, ThreadPoolExecutor(2) as pool:
            done = threading.Event()

            def ask() -> list[int]:
                statuses = []
                while not done.is_set():
                    statuses.append(client.ask(body={"member_ids": [7]})[0])
                return statuses

            asking = [pool.submit(ask) for _ in range(2)]
            try:
                world.lines = (*PLAIN[:1], HALF)
                package_line(world.world, HALF)
                write_whole(world.config, [(1, vector("newer"), utc(5))])
                got: Any = {}
                while len(got.get("model_versions", ())) < 2:
                    assert client.ask("/health")[1]["refresh_error"] is None
                    got = client.embed(7, as_of=NOW.isoformat())
            finally:
                done.set()
            assert {status for statuses in asking for status in statuses.result()} == {200}
            vectors = got["members"][0]["vectors"][HALF.view]
            assert vectors["apply_embedding"] == pytest.approx(vector("newer"))

            # What cannot be loaded is told, and the old serves on.
            (HALF.artifact(world.config) / "manifest.json").write_text("{")
            health: Any = {}
            while not health.get("refresh_error"):
                health = client.ask("/health")[1]
            assert "manifest.json is not valid JSON" in health["refresh_error"]
            assert HALF.view in client.embed(7)["model_versions"]
            assert client.figures()["activity_embed_refreshes_total failed"] >= 1


def test_the_command_serves_until_it_is_told_to_stop(world: RequestWorld) -> None:
    settings = world.world.folder / "activity.yaml"
    settings.write_text(yaml.safe_dump(world.config.model_dump(mode="json", exclude_defaults=True)))
    command = [sys.executable, "-m", "pipelines.cli", "serve", "--config", str(settings)]
    with subprocess.Popen(
        [*command, "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        found = re.search(r"on http://([\d.]+):(\d+)/embed", process.stdout.readline())
        assert found is not None, process.communicate()
        client = Client((found[1], int(found[2])))
        assert client.embed(7, as_of=NOW.isoformat())["members"][0]["columns"]["n_save"] == 1
        taken = subprocess.run(
            [*command, "--port", found[2]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert taken.returncode == 2
        assert "expected a free address" in " ".join(taken.stderr.split())
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
