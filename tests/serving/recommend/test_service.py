"""Recommendations over HTTP: answers, refusals, the token, metrics, overload, the page."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from serving.recommend.impressions import open_impressions
from serving.recommend.recommend import Recommender
from serving.recommend.service import RecommendService
from serving.request.limits import Limits
from serving.request.server import server_of
from serving.request.service import application
from tests.serving.recommend.test_recommend import Blocked
from tests.worlds.browser import PATIENCE, running_browser
from tests.worlds.recommend import (
    NOW,
    StandInScorer,
    StandInSources,
    config_of,
    member_of,
    parts_of,
    write_catalogue,
)
from tests.worlds.request import PLAIN, RequestWorld

LIMITS = Limits(threads=2, max_in_flight=4, timeout=600.0)
SETTINGS = {"n": 3, "context": {"surface": "category", "shift": "number"}, "keep": "0s"}


@dataclass
class Client:
    address: tuple[str, int]
    token: str = ""

    def ask(
        self, path: str, body: Any = None, raw: bytes | None = None
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection(*self.address, timeout=600)
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = self.token
        connection.request("GET" if data is None else "POST", path, data, headers)
        response = connection.getresponse()
        read = response.read().decode()
        connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(read) if is_json else read, response.headers

    def figures(self) -> dict[str, float]:
        text = self.ask("/metrics")[1]
        return {
            " ".join((sample.name, *map(str, sample.labels.values()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RequestWorld]:
    with RequestWorld(tmp_path_factory.mktemp("embed"), lines=PLAIN[:1]) as world:
        yield world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recommend")
    write_catalogue(config_of(folder))
    return folder


@contextmanager
def serving(
    world: RequestWorld,
    folder: Path,
    scorer: Any = None,
    settings: Any = None,
    sources: StandInSources | None = None,
    **more: Any,
) -> Iterator[Client]:
    config = config_of(folder, SETTINGS | (settings or {}))
    member = member_of((5, "SAVE", 20), (4, "DISMISS", 3), (1, "APPLY", 2))
    sources = sources or StandInSources({42: member})
    recommender = Recommender(config, parts_of(config, sources, scorer=scorer))
    service = RecommendService(recommender, open_impressions(config, recommender.metrics))
    app = application(world.open(), LIMITS, beside=[service], **more)
    with served(app) as client:
        yield client


@contextmanager
def served(app: FastAPI) -> Iterator[Client]:
    server = server_of(app, LIMITS)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield Client(listening.getsockname())
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def client(world: RequestWorld, folder: Path) -> Iterator[Client]:
    with serving(world, folder, StandInScorer()) as client:
        yield client


def event(item: int, action: str = "APPLY") -> Any:
    at = int(NOW.timestamp() * 1e6) - 60_000_000
    return {"member_id": 42, "item_id": item, "action": action, "event_timestamp": at}


def test_an_answer_says_what_was_chosen_and_why(client: Client) -> None:
    status, answer, _ = client.ask("/recommend", {"member_id": 42})
    assert status == 200
    items = answer.pop("items")
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.pop("request_id"))
    assert answer.pop("made_at") > NOW.isoformat()[:10]
    assert answer.pop("seconds") > 0
    assert answer == {
        "arm": None,
        "member_id": 42,
        "path": "ranked",
        "member_known": True,
        "ranker": "stand_in_v1_f2",
        "fits": {
            "near_v1": "item_neighbours_near_v1",
            "ranker": "stand_in_v1_f2",
            "reasons": "tfidf_svd_v1",
        },
        "release": None,
    }
    assert [item["item_id"] for item in items] == [7, 5, 4]
    assert items[2] == {
        "item_id": 4,
        "title": "title of 4",
        "score": pytest.approx(0.4),
        "probabilities": {"APPLY": pytest.approx(0.4)},
        "sources": {"popular_v1": 1},
        "reason": {
            "item_id": 5,
            "title": "title of 5",
            "action": "SAVE",
            "similarity": pytest.approx(0.995, abs=1e-3),
        },
        "propensity": 1.0,
        "by": "score",
    }


def test_by_its_address_and_with_all_that_a_request_may_say(client: Client) -> None:
    status, answer, _ = client.ask("/recommend/42?n=2")
    assert (status, [item["item_id"] for item in answer["items"]]) == (200, [7, 5])
    assert client.ask("/recommend/42?by=votes")[1]["path"] == "votes"
    assert not client.ask("/recommend/99")[1]["member_known"]
    whole = {
        "member_id": "42",
        "n": 5,
        "context": {"surface": "home", "shift": 3},
        "events": [event(2)],
        "leave_out": [7],
        "candidates": [3, "6", 7],
        "by": "ranker",
    }
    answer = client.ask("/recommend", whole)[1]
    assert [item["item_id"] for item in answer["items"]] == [6, 3]
    assert [item["reason"]["item_id"] for item in answer["items"]] == [5, 2]


@pytest.mark.parametrize(
    ("body", "where", "message"),
    [
        ({}, "body.member_id", "Field required"),
        ({"member_id": True}, "body.member_id", "valid integer"),
        ({"member_id": 1, "n": 0}, "body.n", "greater than or equal to 1"),
        ({"member_id": 1, "n": 1001}, "body.n", "less than or equal to 1000"),
        ({"member_id": 1, "n": "5"}, "body.n", "valid integer"),
        ({"member_id": 1, "item": 2}, "body.item", "Extra inputs"),
        ({"member_id": 1, "by": "chance"}, "body.by", "'ranker', 'votes' or 'popular'"),
        ({"member_id": 1, "candidates": []}, "body.candidates", "at least 1 item"),
        ({"member_id": 1, "candidates": [1] * 10_001}, "body.candidates", "at most 10000"),
        ({"member_id": 1, "leave_out": [1] * 10_001}, "body.leave_out", "at most 10000"),
        ({"member_id": 1, "events": [event(1)] * 513}, "body.events", "at most 512"),
        ({"member_id": "x" * 257}, "body.member_id", "at most 256"),
        ({"member_id": ""}, "body.member_id", "at least 1"),
        ({"member_id": 1, "context": {"surface": "x" * 201}}, None, "text of at most 200"),
        ({"member_id": 1, "context": {"shift": float("nan")}}, None, "expected a finite number"),
        ({"member_id": 1, "candidates": [3, 77]}, None, "items of the catalogue, got 77"),
        ({"member_id": 1, "leave_out": ["x"]}, None, "item_id: expected int64 ids, got 'x'"),
        ({"member_id": "x"}, None, "member_id: expected int64 ids, got 'x'"),
        ({"member_id": 1, "context": {"page": "a"}}, None, "keys among surface, shift"),
        ({"member_id": 1, "context": {"shift": "3"}}, None, "context.shift: expected a finite"),
        ({"member_id": 1, "context": {"shift": True}}, "body.context.shift", "valid number"),
        ({"member_id": 1, "context": {"surface": [1]}}, "body.context.surface", "valid string"),
        ({"member_id": 1, "events": [event(1)]}, None, "events of the member 1, got one of 42"),
        ({"member_id": 42, "events": [event(1, "LIKE")]}, None, "got 'LIKE'"),
    ],
)
def test_a_wrong_request_says_where_and_what(
    client: Client, body: Any, where: str | None, message: str
) -> None:
    status, answer, _ = client.ask("/recommend", body)
    error = answer["error"]
    assert (status, error["code"]) == (422, "invalid")
    if where is None:
        assert message in error["message"]
    else:
        assert "the form that POST /recommend takes" in error["message"]
        assert any(
            where in detail["where"] and message in detail["message"] for detail in error["details"]
        ), error


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/recommend/x", 422),
        ("/recommend/42%2F1", 422),
        ("/recommend/" + "4" * 257, 422),
        ("/recommend/42?n=0", 422),
        ("/recommend/42?n=1001", 422),
        ("/members/x", 422),
        ("/neighbours/x", 422),
        ("/neighbours/77", 404),
        ("/neighbours/1?n=0", 422),
    ],
)
def test_a_wrong_address_is_told_in_the_same_form(client: Client, path: str, status: int) -> None:
    got, answer, _ = client.ask(path)
    assert got == status
    assert set(answer["error"]) == {"code", "message", "details"}


def test_a_body_beyond_the_bound_is_not_read(client: Client) -> None:
    body = {"member_id": 1, "leave_out": [10**18] * (LIMITS.max_body // 18)}
    status, answer, _ = client.ask("/recommend", body)
    assert (status, answer["error"]["code"]) == (413, "http")


def test_what_the_page_asks_for(client: Client) -> None:
    actions = client.ask("/members/42")[1]["actions"]
    assert [(row["item_id"], row["action"], row["title"]) for row in actions] == [
        (1, "APPLY", "title of 1"),
        (4, "DISMISS", "title of 4"),
        (5, "SAVE", "title of 5"),
    ]
    near = client.ask("/neighbours/1?n=2")[1]["neighbours"]
    assert [row["item_id"] for row in near] == [2, 3]


def test_the_page_loads_nothing_from_elsewhere(client: Client) -> None:
    status, page, headers = client.ask("/")
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert '["APPLY","SAVE","DISMISS"]' in page
    assert not re.search(r"\bsrc=|https?://|url\(|@import|innerHTML", page)
    assert re.findall(r'href="([^"]*)"', page) == ["data:,"]


def test_ready_once_it_is_warm(world: RequestWorld, folder: Path) -> None:
    scorer = Blocked()
    with serving(world, folder, scorer) as client:
        status, answer, headers = client.ask("/ready")
        assert (status, answer["error"]["code"]) == (503, "unavailable")
        assert headers["Retry-After"] == "1"
        assert client.ask("/health")[0] == 200
        scorer.go.set()
        while client.ask("/ready")[0] != 200:
            pass
    assert len(scorer.calls) == 3


def test_a_token_is_asked_of_all_but_the_page_and_the_load_balancer(
    world: RequestWorld, folder: Path
) -> None:
    with serving(world, folder, token="a token") as client:
        for token in ("", "Bearer another", "Bearer a token ", "a token"):
            client.token = token
            for path in ("/recommend/42", "/members/42", "/metrics", "/docs", "/nowhere"):
                if token == "Bearer a token ":  # the client's library takes the space away
                    continue
                status, answer, headers = client.ask(path)
                assert (status, answer["error"]["code"]) == (401, "token")
                assert headers["WWW-Authenticate"] == "Bearer"
                assert "a token" not in answer["error"]["message"]
            assert client.ask("/embed", {"member_ids": [1]})[0] == (
                200 if token == "Bearer a token " else 401
            )
            assert [client.ask(path)[0] for path in ("/", "/health")] == [200, 200]
        client.token = "Bearer a token"
        assert client.ask("/recommend/42")[0] == 200


def test_metrics_tell_stages_paths_and_sources(world: RequestWorld, folder: Path) -> None:
    class Failing(StandInScorer):
        def of(self, member: Any, *given: Any, **more: Any) -> Any:
            if member == 43:
                raise RuntimeError("no")
            return super().of(member, *given, **more)

    with serving(world, folder, Failing()) as client:
        while client.ask("/ready")[0] != 200:
            pass
        before = client.figures()
        client.ask("/recommend/42")
        client.ask("/recommend/43")
        client.ask("/recommend/44?by=popular")
        client.ask("/recommend", {"member_id": 42, "leave_out": [1, 2, 3, 4, 5, 7]})
        client.ask("/recommend/42?n=0")
        after = client.figures()
    grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
    assert grown["activity_recommend_requests_total 200"] == 4
    assert grown["activity_recommend_requests_total 422"] == 1
    assert grown["activity_recommend_answers_total ranked"] == 2
    assert grown["activity_recommend_answers_total votes"] == 1
    assert grown["activity_recommend_answers_total popular"] == 1
    assert grown["activity_recommend_failures_total ranker"] == 1
    assert grown["activity_recommend_candidates_total near_v1"] == 4
    assert grown["activity_recommend_candidates_total popular_v1"] == 24
    assert grown["activity_recommend_empty_total"] == 1
    for stage in ("candidates", "rules", "answer"):
        assert grown[f"activity_recommend_seconds_count {stage}"] == 4
    assert grown["activity_recommend_seconds_count features"] == 2
    assert after["activity_recommend_inside"] == 0
    assert "activity_embed_items" in after


def test_overload_is_refused(world: RequestWorld, folder: Path) -> None:
    scorer = Blocked()
    with (
        serving(world, folder, scorer, {"deadline": "600s"}) as client,
        ThreadPoolExecutor(LIMITS.max_in_flight) as pool,
    ):
        try:
            asked = [
                pool.submit(client.ask, f"/recommend/{member}")
                for member in range(LIMITS.max_in_flight)
            ]
            while client.figures()["activity_recommend_inside"] < LIMITS.max_in_flight:
                pass
            status, answer, headers = client.ask("/recommend/42")
            assert client.ask("/embed", {"member_ids": [1]})[0] == 200
        finally:
            scorer.go.set()
        assert (status, answer["error"]["code"]) == (429, "overloaded")
        assert headers["Retry-After"] == "1"
        assert [one.result()[0] for one in asked] == [200] * LIMITS.max_in_flight


def test_requests_are_answered_in_time_while_the_ranker_stands_still(
    world: RequestWorld, folder: Path
) -> None:
    scorer = Blocked()
    with serving(world, folder, scorer, {"deadline": "2500ms"}) as client:
        try:
            with ThreadPoolExecutor(LIMITS.max_in_flight) as pool:
                answers = [*pool.map(lambda n: client.ask(f"/recommend/{n}"), range(20))]
            figures = client.figures()
        finally:
            scorer.go.set()
    assert {(status, answer["path"]) for status, answer, _ in answers} == {(200, "popular")}
    assert figures["activity_recommend_seconds_bucket 2.5 answer"] == 20


def test_a_service_beside_is_refreshed_and_closed(world: RequestWorld) -> None:
    refreshed, closed = threading.Event(), threading.Event()

    class Beside:
        registry = CollectorRegistry()

        def mount(self, app: FastAPI, limits: Limits) -> None:
            pass

        def warm_up(self) -> None:
            pass

        def refresh(self) -> bool:
            refreshed.set()
            return False

        def follow(self) -> bool:
            return is_due.is_set()

        def close(self) -> None:
            closed.set()

    is_due = threading.Event()
    with served(application(world.open(), LIMITS, refresh_every=0.01, beside=[Beside()])):
        assert refreshed.wait(600)
    assert closed.is_set()
    # What a moved pointer asks for comes at once.
    is_due.set()
    refreshed.clear()
    with served(application(world.open(), LIMITS, refresh_every=3_600, beside=[Beside()])):
        assert refreshed.wait(600)


def test_the_page_in_a_browser(world: RequestWorld, folder: Path, tmp_path: Path) -> None:
    with running_browser(tmp_path) as browser, serving(world, folder, StandInScorer()) as client:
        page = browser.page()
        host, port = client.address
        page.visit(f"http://{host}:{port}/", 1100)

        def wait_for(condition: str) -> None:
            until = time.monotonic() + PATIENCE
            while not page.evaluate(condition):
                assert time.monotonic() < until, (
                    condition,
                    page.evaluate("document.body.innerText"),
                )

        page.evaluate("ask.member.value = '42'; ask.requestSubmit()")
        wait_for("document.querySelectorAll('.list li').length >= 6")
        assert page.evaluate("document.querySelectorAll('#actions li').length") == 3
        shown = "[...document.querySelectorAll('.list ol')].map(one => one.firstChild.innerText)"
        first, second = page.evaluate(shown)
        assert first.startswith("1. title of 7")
        assert second.startswith("1. title of 2")

        page.evaluate("document.querySelector('.list li button').click()")
        wait_for("document.querySelector('dialog').open")
        assert "title of 7" in page.evaluate("document.querySelector('dialog h2').innerText")
        page.evaluate("document.querySelector('dialog').close()")

        page.evaluate("act.item.value = '6'; act.requestSubmit()")
        wait_for("document.querySelectorAll('#actions li').length === 4")
        assert "added here" in page.evaluate("document.querySelector('#actions li').innerText")

        page.evaluate("ask.member.value = 'x'; ask.requestSubmit()")
        wait_for("document.querySelector('#said.wrong') !== null")
        assert "expected int64 ids" in page.evaluate("said.innerText")
        # The refusals of the last question are no fault of the page.
        assert [one for one in page.complaints if "422" not in one] == []
        assert {address.split("/")[2] for address in page.requests if "://" in address} == {
            f"{host}:{port}"
        }


def test_what_is_shown_is_written_and_what_is_only_looked_at_is_not(
    world: RequestWorld, tmp_path: Path
) -> None:
    write_catalogue(config_of(tmp_path))
    with serving(world, tmp_path) as client:
        asked = {"member_id": 42, "n": 2, "context": {"surface": "home", "shift": 2}}
        answers = [client.ask("/recommend", asked)[1], client.ask("/recommend/7?n=1")[1]]
        client.ask("/recommend", asked | {"shown": False})
        client.ask("/recommend/7?shown=false")
        assert client.ask("/recommend", asked | {"shown": "no"})[0] == 422
    folder = config_of(tmp_path).layout.impressions
    rows = [row for file in folder.glob("*/*.parquet") for row in pq.read_table(file).to_pylist()]
    told = [(row["request_id"], row["member_id"], row["item_id"], row["position"]) for row in rows]
    assert told == [
        (answer["request_id"], answer["member_id"], item["item_id"], place)
        for answer in answers
        for place, item in enumerate(answer["items"])
    ]
    assert len(rows) == 3
    assert dict(rows[0]["context"]) == {"surface": "home", "shift": "2.0"}
    assert [row["surface"] for row in rows] == ["home", "home", None]
