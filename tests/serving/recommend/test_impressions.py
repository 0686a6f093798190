"""What was shown: rows, the spool's bound, parts, the topic, and a process that is killed."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

import serving.recommend.impressions as module
from serving.recommend import spool
from serving.recommend.asked import Answer, Recommended
from serving.recommend.impressions import (
    Impressions,
    Shown,
    message,
    open_impressions,
    rows_of,
    schema,
)
from serving.recommend.metrics import RecommendMetrics
from serving.stream.bus.protocol import BusGoneError
from tests.worlds.recommend import config_of
from transformations.config import ROOT, Config
from transformations.errors import InputError
from transformations.layout import period_of
from transformations.seals import damage
from transformations.tombstones import Tombstones

AT = datetime(2026, 11, 29, 12, tzinfo=UTC)
KILLED = """
import sys
from datetime import UTC, datetime
from serving.recommend.asked import Answer, Recommended
from serving.recommend.impressions import Impressions
from transformations.config import Config
settings = {"impressions": {"spool": int(sys.argv[2]), "every": "1ms"}}
config = {"data_dir": sys.argv[1], "items": {"text": ["title"]}, "recommend": settings}
shown, number, lost = Impressions(Config.model_validate(config)), 0, 0
items = [Recommended(item, "", 0.5, {}, {}, None, 1.0, "score") for item in (7, 5)]
while True:
    answer = Answer(str(number), 42, "votes", True, "votes", {}, datetime.now(UTC), items)
    lost += not shown.add(answer, {})
    number += 1
    print(number, lost, flush=True)
"""


def settings(folder: Path, **given: Any) -> Config:
    return config_of(folder, {"impressions": given})


def answer_of(request: str, items: Sequence[int] = (7, 5)) -> Answer:
    listed = [
        Recommended(item, f"title of {item}", 0.5 - place, {}, {"near": place}, None, 0.9, "score")
        for place, item in enumerate(items)
    ]
    fits = {"ranker": "deep_v1_f2"}
    arm = "release_4:treatment"
    return Answer(request, 42, "ranked", True, "deep_v1_f2", fits, AT, listed, 4, arm, 0.02)


def rows_on_disk(config: Config) -> list[dict[str, Any]]:
    files = sorted(config.layout.impressions.glob("*/*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def count(metrics: RecommendMetrics, outcome: str) -> float:
    name = "activity_recommend_impressions_total"
    return metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0.0


def test_an_answer_becomes_a_row_per_item(tmp_path: Path) -> None:
    columns = schema(settings(tmp_path))
    context = {"surface": "home", "shift": 2.5, "device": None}
    table = rows_of([Shown(answer_of("a"), context, AT)], columns)
    assert table.to_pylist() == [
        {
            "request_id": "a",
            "member_id": 42,
            "item_id": item,
            "position": place,
            "score": score,
            "propensity": 0.9,
            "path": "ranked",
            "ranker": "deep_v1_f2",
            "versions": [("ranker", "deep_v1_f2")],
            "release": "4",
            "arm": "release_4:treatment",
            "context": [("surface", "home"), ("shift", "2.5")],
            "surface": "home",
            "seconds": 0.02,
            "shown_at": AT,
        }
        for item, place, score in ((7, 0, 0.5), (5, 1, -0.5))
    ]
    (empty,) = rows_of([Shown(answer_of("a", ()), context, AT)], columns).to_pylist()
    without = {"item_id", "position", "score", "propensity"}
    assert {name for name, value in empty.items() if value is None} == without


@given(st.lists(st.lists(st.integers(0, 9), unique=True, max_size=4), max_size=4))
def test_every_item_has_its_request_and_position(lists: list[list[int]]) -> None:
    columns = schema(config_of(Path("nowhere")))
    some = [Shown(answer_of(str(n), items), {}, AT) for n, items in enumerate(lists)]
    table = rows_of(some, columns)
    assert table.schema == columns
    got = table.select(["request_id", "item_id", "position"]).to_pylist()
    assert [tuple(row.values()) for row in got] == [
        (str(n), item, place)
        for n, items in enumerate(lists)
        for place, item in (enumerate(items) if items else ((None, None),))
    ]


def test_ids_may_be_texts(tmp_path: Path) -> None:
    config = Config.model_validate({"id_type": "string", "items": {"text": ["title"]}})
    assert {schema(config).field(name).type for name in ("member_id", "item_id")} == {pa.string()}


def test_close_writes_what_waits(tmp_path: Path) -> None:
    config, metrics = settings(tmp_path, every="1d"), RecommendMetrics()
    shown = Impressions(config, metrics)
    before = datetime.now(UTC)
    assert shown.add(answer_of("a"), {})
    assert shown.add(answer_of("empty", ()), {})
    shown.close()
    shown.close()  # once more does nothing
    rows = rows_on_disk(config)
    assert [row["request_id"] for row in rows] == ["a", "a", "empty"]
    assert all(before <= row["shown_at"] <= datetime.now(UTC) for row in rows)
    assert (count(metrics, "written"), count(metrics, "lost")) == (2, 0)
    assert period_of(config.layout.impressions) == "day"
    (part,) = config.layout.impressions.glob("*/*.parquet")
    assert part.parent.name == f"period={rows[0]['shown_at']:%Y-%m-%d}"
    assert not [*damage([part])]
    assert not shown.add(answer_of("b"), {})  # it is closed: counted
    assert count(metrics, "lost") == 2


def test_a_full_spool_counts_and_a_disk_that_comes_back_gets_all_that_waits(
    tmp_path: Path,
) -> None:
    config, metrics = settings(tmp_path, every="1d", spool=3), RecommendMetrics()
    config.layout.root.mkdir(parents=True)
    config.layout.impressions.write_text("no folder can be made here")
    shown = Impressions(config, metrics)
    assert [shown.add(answer_of(name), {}) for name in "abcd"] == [True] * 3 + [False]
    assert count(metrics, "lost") == 2  # items
    waits = metrics.registry.get_sample_value("activity_recommend_unwritten_answers")
    assert waits == 3
    config.layout.impressions.unlink()
    shown.close()
    assert [row["request_id"] for row in rows_on_disk(config)] == list("aabbcc")
    assert count(metrics, "written") == 6


def test_what_can_never_be_written_is_counted_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, metrics = settings(tmp_path, every="1d"), RecommendMetrics()
    config.layout.root.mkdir(parents=True)
    config.layout.impressions.write_text("no folder can be made here")
    shown = Impressions(config, metrics)
    shown.add(answer_of("a"), {})
    shown.close()
    assert count(metrics, "lost") == 2
    assert "1 answers that were shown could not be written" in caplog.text


class Clock:
    """Tells the times of a list, one after another."""

    def __init__(self, *times: datetime) -> None:
        self._times = iter(times)

    def now(self) -> datetime:
        return next(self._times)


def test_a_part_holds_one_day_and_grows_to_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    midnight = AT.replace(hour=0) + timedelta(days=1)
    times = [midnight - timedelta(seconds=2), midnight - timedelta(microseconds=1), midnight]
    monkeypatch.setattr(module, "clock", Clock(*times, *times[2:], *times[2:], *times[2:]))
    config = settings(tmp_path, every="1d", spool=100)
    shown = Impressions(config)
    for name in "abcdef":
        shown.add(answer_of(name), {})
    shown.close()
    by_day: dict[str, list[str]] = {}
    for file in config.layout.impressions.glob("*/*.parquet"):
        ids = pq.read_table(file, partitioning=None)["request_id"].to_pylist()
        by_day.setdefault(file.parent.name, []).extend(ids)
    assert by_day == {
        "period=2026-11-29": list("aabb"),
        "period=2026-11-30": list("ccddeeff"),
    }


def test_a_part_is_rewritten_until_it_is_full(tmp_path: Path) -> None:
    parts, sizes = spool.Parts(tmp_path, Tombstones(config_of(tmp_path)), 4), []
    tables = [pa.table({"row": [name, name]}) for name in "abc"]
    for table in [*tables, pa.table({"other": [1]})]:
        parts.append(AT.date(), table)
        files = tmp_path.glob("*/*.parquet")
        sizes.append(sorted(pq.read_metadata(file).num_rows for file in files))
    assert sizes == [[2], [4], [2, 4], [1, 2, 4]]  # other columns, another part


def test_what_no_try_can_write_holds_up_nothing(caplog: pytest.LogCaptureFixture) -> None:
    written: list[int] = []
    lost: list[int] = []

    def write(items: Sequence[int]) -> int:
        if items[0] < 0:
            raise ValueError("no such row")
        written.append(items[0])
        return 1

    own = spool.Spool("numbers", 10, 1e-3, write, lost.extend)
    for number in (1, -2, 3, 4):
        assert own.add(number)
        while len(own):
            with own._changed:
                pass
    own.close()
    assert (written, lost) == ([1, 3, 4], [-2])
    assert "1 numbers cannot be written" in caplog.text


def test_the_topic_gets_what_was_written(tmp_path: Path, redis_server: str) -> None:
    config = settings(tmp_path, topic=f"redis://{redis_server}/0?stream=shown", every="1d")
    metrics = RecommendMetrics()
    shown = open_impressions(config, metrics)
    assert shown is not None
    shown.add(answer_of("a"), {"surface": "home"})
    shown.close()
    with redis.Redis.from_url(f"redis://{redis_server}/0") as client:
        entries: Any = client.xrange("shown")
    (told,) = [json.loads(fields[b"event"]) for _, fields in entries]
    assert datetime.fromisoformat(told.pop("shown_at")) == rows_on_disk(config)[0]["shown_at"]
    assert told == {
        "schema": 1,
        "request_id": "a",
        "member_id": 42,
        "path": "ranked",
        "ranker": "deep_v1_f2",
        "versions": {"ranker": "deep_v1_f2"},
        "release": "4",
        "arm": "release_4:treatment",
        "seconds": 0.02,
        "context": {"surface": "home"},
        "items": [
            {"item_id": 7, "position": 0, "score": 0.5, "propensity": 0.9},
            {"item_id": 5, "position": 1, "score": -0.5, "propensity": 0.9},
        ],
    }
    assert count(metrics, "unsent") == 0


class GoneBus:
    """A bus that does not answer."""

    def __init__(self) -> None:
        self.asked, self.was_asked = 0, threading.Event()

    def send(self, messages: Any) -> None:  # noqa: ARG002
        self.asked += 1
        self.was_asked.set()
        raise BusGoneError("no answer")

    def close(self) -> None:
        pass


def test_a_topic_that_is_away_takes_no_file_along(tmp_path: Path) -> None:
    config, metrics, bus = settings(tmp_path, every="1ms"), RecommendMetrics(), GoneBus()
    shown: Any = Impressions(config, metrics, bus)  # type: ignore[arg-type]
    shown.add(answer_of("a"), {})
    assert bus.was_asked.wait(600)
    shown.add(answer_of("b"), {})
    shown.close()
    assert [row["request_id"] for row in rows_on_disk(config)] == list("aabb")
    assert (count(metrics, "written"), count(metrics, "unsent")) == (4, 4)
    assert bus.asked == 1  # it rests, since it would hold up the files


def test_settings(tmp_path: Path) -> None:
    assert open_impressions(settings(tmp_path, keep=False), RecommendMetrics()) is None
    with pytest.raises(InputError, match="expected a bus such as"):
        open_impressions(settings(tmp_path, topic="nowhere"), RecommendMetrics())
    numbers = json.loads(message(Shown(answer_of("a"), {"shift": 2.5}, AT)))["context"]
    assert numbers == {"shift": 2.5}


def test_a_topic_that_does_not_answer_is_said_at_the_start(tmp_path: Path, caplog: Any) -> None:
    config = settings(tmp_path, topic="redis://:a-word@127.0.0.1:1")
    shown = open_impressions(config, RecommendMetrics())
    assert shown is not None
    shown.close()
    assert "recommend.impressions.topic: Redis: expected an answer" in caplog.text
    assert "Look at host and port" in caplog.text
    assert "a-word" not in caplog.text


def test_a_killed_process_loses_at_most_its_spool(tmp_path: Path) -> None:
    config, most, lines = settings(tmp_path), 40, []
    parts = config.layout.impressions
    command = [sys.executable, "-c", KILLED, str(config.data), str(most)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line)
            if len(lines) >= 500 and any(parts.glob("*/*.parquet")):
                break
        child.send_signal(signal.SIGKILL)
        lines += [line for line in child.stdout if line.endswith("\n")]
    answered, lost = map(int, lines[-1].split())
    written = rows_on_disk(config)  # every file is whole
    assert [row["position"] for row in written] == [0, 1] * (len(written) // 2)
    on_disk = {row["request_id"] for row in written}
    assert len(written) == 2 * len(on_disk) > 0
    assert answered <= len(on_disk) + lost + most
