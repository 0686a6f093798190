"""A search typed a second ago moves a member's vector: in the stream and in requests."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.embed import embed_snapshot
from models.items.build import build_items
from models.items.saved import folder_of
from models.packaging import package
from serving import publish
from serving.request.sequences import Event
from serving.request.vectors import RequestTime
from serving.stream.bus.messages import MessageError, decode, encode
from serving.stream.offline_log import parts
from serving.stream.updater import utc_now
from serving.stream.worker import Worker
from tests.serving.test_service import Client, serving
from tests.worlds.live import AGGREGATORS, DAY, Live, drain, midnight, redis_online
from tests.worlds.servers import emptied
from transformations.config import Config
from transformations.duck import connect
from transformations.errors import InputError
from transformations.layout import partition
from transformations.searches import read
from transformations.sources import stage_activity, stage_items
from transformations.tables import build_sequences
from transformations.timestamps import microseconds

AVERAGE = AGGREGATORS[0].view
TITLES = ["night nurse", "day nurse", "night cook", "day cook", "head cook", "head nurse"]
# member, item, action, timestamp, text
Row = tuple[int, int | None, str, datetime, str | None]


class SearchLive(Live):
    """A market whose items are titles and whose members search, built from its two sources."""

    @property
    def config(self) -> Config:
        settings = super().config.model_dump(exclude={"actions", "events", "items"})
        return Config.model_validate(
            settings
            | {
                "events": {"source": str(self.folder / "events.parquet")},
                "items": {"source": str(self.folder / "items.parquet"), "text": ["title"]},
                "actions": {"APPLY": "positive", "SEARCH": {"text": "query"}},
                "dim": 3,
                "publish_delay": timedelta(0),
            }
        )

    def run(self, rows: Sequence[Row], as_of: datetime) -> None:
        """Stage the sources and build the snapshot of a timestamp, as a daily run does."""
        config = self.config
        names = ("member_id", "item_id", "action", "event_timestamp", "query")
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
        pq.write_table(pa.table(columns), config.events.source)
        items = {"item_id": range(1, 1 + len(TITLES)), "title": TITLES}
        pq.write_table(pa.table({key: [*some] for key, some in items.items()}), config.items.source)
        with connect(config) as con:
            stage_activity(config, con, as_of)
            stage_items(config, con, as_of)
            build_items(config, con, as_of, midnight())
            for line in self.aggregators:
                package(line, config)
            build_sequences(config, con, as_of, as_of - DAY, as_of)
            embed_snapshot(config, con, as_of, as_of, self.aggregators)

    def serve(self, as_of: datetime) -> None:
        """Register the views and publish a snapshot."""
        store = self.store()
        publish.apply(self.config, store, self.aggregators)
        publish.publish(self.config, store, as_of, self.aggregators)

    def open(self) -> RequestTime:
        """Open what answers requests."""
        return RequestTime(self.config, self.store(), lambda: self.aggregators)

    def vectors(self, as_of: datetime, member: int) -> dict[str, Any]:
        """Return the average line's row of a member in the snapshot of a timestamp."""
        file = partition(self.config.layout.embeddings(AVERAGE), as_of)
        rows = {row["member_id"]: row for row in pq.ParquetFile(file).read().to_pylist()}
        return rows[member]

    def row(self, member: int) -> dict[str, Any]:
        """Return the average line's row of a member, as a ranker reads it."""
        return self.online_rows(AVERAGE, [member])[member]


BEFORE: list[Row] = [
    (member, member, "APPLY", midnight() - timedelta(hours=member), None) for member in (1, 2, 3)
] + [(3, None, "SEARCH", midnight() - timedelta(hours=5), "head  COOK")]


@pytest.fixture(scope="module")
def built(tmp_path_factory, _redis_process):
    live = SearchLive(tmp_path_factory.mktemp("live"), redis_online(emptied(_redis_process)))
    live.write_settings()
    live.run(BEFORE, midnight())
    live.serve(midnight())
    return live


@pytest.fixture
def live(built, redis_server):
    """The same with an empty Redis, into which the snapshot is published again."""
    for view in built.view_names():
        for part in parts(built.config.layout.table(view)):
            part.unlink()
    built.serve(midnight())
    yield built
    built.close()


@pytest.fixture
def start(live, redis_server) -> Iterator[Any]:
    """Start workers that are closed when the test ends."""
    started: list[Worker] = []

    def worker(name: str = "worker") -> Worker:
        started.append(live.worker(f"redis://{redis_server}", name))
        return started[-1]

    yield worker
    for one in started:
        one.close()


def send(worker: Worker, *rows: Row) -> None:
    worker.bus.send(
        [
            (str(row[0]), encode(*row[:4], texts=None if row[4] is None else {"query": row[4]}))
            for row in rows
        ]
    )


def encoded(live: SearchLive, text: str) -> list[float]:
    """Return the vector that the daily run gives a title of these words."""
    with connect(live.config) as con:
        file = next(iter(sorted(live.config.items_dir.glob("*.parquet"))))
        row = con.execute(
            f"select embedding from '{file}' where item_id = $item",
            {"item": TITLES.index(text) + 1},
        ).fetchone()
    assert row is not None
    return list(row[0])


pytestmark = pytest.mark.redis


def test_a_daily_run_gives_a_search_the_vector_of_its_words(live):
    row = live.vectors(midnight(), 3)
    np.testing.assert_allclose(row["search_embedding"], encoded(live, "head cook"), atol=1e-6)
    assert (row["n_search"], row["n_apply"]) == (1, 1)
    # The encoder is fitted on items only, though the search was known by then.
    manifest = json.loads((folder_of(live.config) / "manifest.json").read_text())
    assert manifest["items"] == len(TITLES)
    np.testing.assert_allclose(live.row(3)["search_embedding"], row["search_embedding"])


def test_a_search_of_a_second_ago_is_in_the_stream_what_the_daily_run_makes_of_it(
    tmp_path, redis_server
):
    live = SearchLive(tmp_path, redis_online(redis_server))
    live.write_settings()
    live.run(BEFORE, midnight())
    live.serve(midnight())
    worker = live.worker(f"redis://{redis_server}")
    before = live.row(1)
    assert before["search_embedding"] == [0.0] * 3
    typed = utc_now() - timedelta(seconds=1)
    rows: list[Row] = [
        (1, None, "SEARCH", typed, "NIGHT  cook"),
        (1, 5, "SEARCH", typed, "day nurse"),  # its item_id is ignored
        (2, None, "SEARCH", typed, "zebra"),  # no known word: an action without a vector
    ]
    send(worker, *rows)
    assert drain(worker) == 3
    streamed, without = live.row(1), live.row(2)
    middle = np.mean([encoded(live, "night cook"), encoded(live, "day nurse")], axis=0)
    np.testing.assert_allclose(streamed["search_embedding"], middle, atol=1e-6)
    assert streamed["stored_n_search"] == 2
    assert (without["search_embedding"], without["stored_n_search"]) == ([0.0] * 3, 1)

    offline = live.offline_rows(AVERAGE, worker)
    as_of = max(row["event_timestamp"] for row in offline)
    live.run([*BEFORE, *rows], as_of)
    for member, online in ((1, streamed), (2, without)):
        row = live.vectors(as_of, member)
        np.testing.assert_allclose(online["search_embedding"], row["search_embedding"], atol=1e-6)
        np.testing.assert_allclose(online["apply_embedding"], row["apply_embedding"], atol=1e-6)
        assert online["stored_n_search"] == row["n_search"]
    # What the daily run publishes is what is online: its read-back says so.
    live.serve(as_of)
    assert publish.read_back(live.config, live.store(), as_of, live.aggregators) > 0
    worker.close()
    live.close()


def test_a_search_keeps_its_vector_for_the_next_fold_and_for_another_worker(live, start):
    """The next action does not say the text, and the worker that read it may be gone."""
    first = start("first")
    send(first, (1, None, "SEARCH", utc_now(), "head nurse"))
    drain(first)
    second = start("second")
    send(second, (1, 4, "APPLY", utc_now(), None))
    assert drain(second) + drain(first) == 1
    np.testing.assert_allclose(
        live.row(1)["search_embedding"], encoded(live, "head nurse"), atol=1e-6
    )
    assert live.row(1)["stored_n_apply"] == 2


def test_a_search_that_the_store_did_not_take_is_written_with_the_next_try(live, start):
    worker = start()
    written = worker.updater.online.write
    worker.updater.online.write = lambda *_: (_ for _ in ()).throw(ConnectionError)
    send(worker, (1, None, "SEARCH", utc_now(), "day cook"))
    with pytest.raises(ConnectionError):
        worker.step()
    worker.updater.online.write = written
    worker.step()
    item = read("int64", "SEARCH", "day cook").item_id
    answer = live.store().get_online_features(
        features=[f"{live.config.item_view}:embedding"], entity_rows=[{"item_id": item}]
    )
    np.testing.assert_allclose(
        answer.to_dict()["embedding"][0], encoded(live, "day cook"), atol=1e-6
    )


def test_without_an_encoder_a_search_is_an_action_without_a_vector(live, start):
    folder = folder_of(live.config)
    away = folder.rename(folder.with_name("away"))
    try:
        worker = start()
        send(worker, (1, None, "SEARCH", utc_now(), "night cook"))
        drain(worker)
    finally:
        away.rename(folder)
    row = live.row(1)
    assert (row["search_embedding"], row["stored_n_search"]) == ([0.0] * 3, 1)


def test_a_search_of_a_second_ago_is_in_the_answer_to_a_request(live, start):
    typed = utc_now() - timedelta(seconds=1)
    search = {"member_id": 1, "action": "SEARCH", "event_timestamp": typed.isoformat()}

    def ask(client: Client, *events: Any) -> Any:
        return client.embed(1, events=events)["members"][0]

    with serving(live) as client:
        assert ask(client)["vectors"][AVERAGE]["search_embedding"] == [0.0] * 3
        got = ask(client, search | {"text": "Night Cook"})
        expected = encoded(live, "night cook")
        np.testing.assert_allclose(got["vectors"][AVERAGE]["search_embedding"], expected, atol=1e-6)
        assert got["columns"]["n_search"] == 1
        blank = {"member_ids": [1], "events": [search | {"text": " "}]}
        status, refused, _ = client.ask(body=blank)
        assert status == 422
        assert "the text of SEARCH is missing" in refused["error"]["message"]

        # What only the stream saw: the sequence has its id, the items' online view its vector.
        worker = start()
        send(worker, (1, None, "SEARCH", typed, "day nurse"))
        drain(worker)
        got = ask(client)["vectors"][AVERAGE]["search_embedding"]
        np.testing.assert_allclose(got, encoded(live, "day nurse"), atol=1e-6)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event(1, 7, "SEARCH", midnight()), "the text of SEARCH is missing: got None"),
        (Event(1, None, "SEARCH", midnight(), {}, "x" * 201), "the text of SEARCH is too long"),
        (Event(1, None, "APPLY", midnight()), "expected an item_id of each APPLY, got none"),
        (Event(1, -7, "APPLY", midnight()), "item_id is reserved for texts: got -7 of a APPLY"),
    ],
)
def test_an_event_that_a_request_refuses(live, event, message):
    with live.open() as requests, pytest.raises(InputError, match=message):
        requests.embed([1], [event])


@pytest.mark.parametrize(
    ("item", "action", "texts", "expected"),
    [
        (None, "SEARCH", {"query": "Night  NURSE"}, "night nurse"),
        (7, "SEARCH", {"query": "night nurse"}, "night nurse"),
        (7, "APPLY", {"query": "night nurse"}, 7),
        (None, "SEARCH", {}, "the text of SEARCH is missing"),
        (7, "SEARCH", {"query": " "}, "the text of SEARCH is missing"),
        (None, "SEARCH", {"query": "x" * 201}, "the text of SEARCH is too long"),
        (None, "SEARCH", {"query": 5}, "the text of SEARCH is not a text"),
        (None, "APPLY", {"query": "night nurse"}, "item_id is null"),
        (-7, "APPLY", {}, "item_id is reserved for texts"),
    ],
)
def test_a_message_with_a_text(tmp_path: Path, item, action, texts, expected):
    rules = SearchLive(tmp_path, "").config.rules
    message = encode(1, item, action, midnight(), texts=texts)
    if isinstance(expected, str) and "night" not in expected:
        with pytest.raises(MessageError, match=f"^{expected}$"):
            decode(rules, message, utc_now())
        return
    event = decode(rules, message, utc_now())
    assert event.timestamp == microseconds(midnight())
    if isinstance(expected, int):
        assert (event.item_id, event.text) == (expected, None)
    else:
        assert (event.item_id, event.text) == read("int64", "SEARCH", expected)[:2]
