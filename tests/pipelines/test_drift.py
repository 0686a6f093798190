"""Drift: the measures on tables by hand, and a run that a fault stops from fitting."""

import json
import re
import sys
import threading
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from models.spec import Average
from operations.drift import Finding, standing
from operations.ledger import Ledger
from pipelines.cli import app as cli
from pipelines.drift import measure
from pipelines.drift.alerts import alert
from pipelines.drift.measure import Series, activity_series, item_measures
from pipelines.drift.vectors import vector_measures
from pipelines.ranking import train
from tests.worlds.events import AS_OF, DAY, Event, configure, write_activity
from tests.worlds.workspace import AVERAGE, END, Workspace
from transformations.config import CONFIG_VARIABLE, Config
from transformations.duck import connect
from transformations.layout import partition

HOUR = timedelta(hours=1)
OLD = datetime(1970, 1, 1, tzinfo=AS_OF.tzinfo)


def items(config: Config, *rows: tuple[int, datetime, str, list[str]]) -> None:
    """Write stg_items: item_id, available_at, text, categories."""
    names = ("item_id", "available_at", "text", "categories")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    table = pa.table(columns)
    place = table.schema.get_field_index("available_at")
    times = table["available_at"].cast(pa.timestamp("us", tz="UTC"))
    config.layout.staged_items.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.set_column(place, "available_at", times), config.layout.staged_items)


def measured(config: Config) -> dict[str, Series]:
    with connect(config) as con:
        series = activity_series(config, con, AS_OF)
    return {f"{one.newest.measure} {one.newest.part}".strip(): one for one in series}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = configure(tmp_path, drift={"days": 14}, items={"text": ["title"], "categories": ["c"]})
    items(config, (1, OLD, "red", ["c=fish"]), (2, AS_OF - HOUR, "blue", ["c=bird"]))
    return config


def test_a_day_by_hand(config: Config) -> None:
    """Yesterday two actions; today member 1 does one thing twice, member 2 another."""
    write_activity(
        config,
        [
            Event(9, 1, "SAVE", AS_OF - 20 * DAY),
            Event(1, 1, "SAVE", AS_OF - DAY - HOUR),
            Event(1, 1, "APPLY", AS_OF - DAY - 2 * HOUR),
            Event(1, 1, "APPLY", AS_OF - HOUR),
            Event(1, 1, "APPLY", AS_OF - 2 * HOUR),
            Event(2, 3, "SAVE", AS_OF - DAY),
            Event(2, 2, "SAVE", AS_OF - 3 * HOUR),
            Event(7, 1, "SAVE", AS_OF),  # tomorrow's
            Event(7, 1, "SAVE", AS_OF - HOUR, AS_OF),  # known tomorrow
        ],
    )
    got = measured(config)
    newest = {name: one.newest.value for name, one in got.items()}
    assert newest["rows"] == 4
    assert newest["members"] == 2
    assert newest["items"] == 3
    assert newest["busiest member"] == 2
    assert newest["repeats"] == 1 / 4
    assert (newest["action APPLY"], newest["action SAVE"]) == (1 / 2, 1 / 2)
    assert newest["action DISMISS"] == 0
    assert newest["new members"] == 1 / 2  # the two by member 2
    assert newest["new items"] == 1 / 2
    assert newest["unknown items"] == 1 / 4  # item 3; item 2 was known before the day was over
    assert got["rows"].before == {1: 2} | dict.fromkeys(range(2, 15), 0)
    assert got["action APPLY"].before == {1: 1 / 2}
    assert got["action APPLY"].usual_rows == 2


def test_a_day_is_as_it_was_known_at_its_end(config: Config) -> None:
    late = Event(1, 1, "SAVE", AS_OF - DAY - HOUR, AS_OF - HOUR)
    in_time = Event(2, 1, "SAVE", AS_OF - DAY - HOUR, AS_OF - DAY - HOUR)
    write_activity(config, [Event(1, 1, "SAVE", AS_OF - 9 * DAY), late, in_time])
    assert measured(config)["rows"].before[1] == 1


def test_days_before_the_first_action_are_no_history(config: Config) -> None:
    write_activity(config, [Event(1, 1, "SAVE", AS_OF - 4 * DAY + HOUR)])
    got = measured(config)["rows"]
    assert (got.newest.value, got.before) == (0, {1: 0, 2: 0})
    with connect(config) as con:
        assert activity_series(configure(config.data / "other"), con, AS_OF) == []


def test_time_of_day(config: Config) -> None:
    """All days at 12:00, the newest at 13:00; then a day around midnight."""
    days = [Event(1, 1, "SAVE", AS_OF - back * DAY + 12 * HOUR) for back in range(2, 15)]
    write_activity(config, [*days, Event(1, 1, "SAVE", AS_OF - DAY + 13 * HOUR)])
    clock = measured(config)["clock"]
    assert clock.newest.value == pytest.approx(1)
    assert list(clock.before.values()) == pytest.approx([0] * 12)


def attributed(tmp_path: Path, before: list[Any], newest: list[Any]) -> dict[str, Series]:
    """Measure an attribute whose values lie on each of 14 days, and on the newest."""
    kind = "category" if isinstance(before[0], str) else "number"
    config = configure(
        tmp_path, events={"attributes": {"page": {"type": kind}}}, drift={"days": 14}
    )
    items(config, (1, OLD, "red", []))
    for back in range(1, 17):
        values = newest if back == 1 else before
        day = AS_OF - back * DAY
        file = partition(config.layout.activity, day)
        file = file.parent.with_name(f"period={day:%Y-%m-%d}") / file.name
        file.parent.mkdir(parents=True)
        n = len(values)
        times = pa.array([day + HOUR + number * timedelta(seconds=1) for number in range(n)])
        table = {
            "member_id": range(n),
            "item_id": [1] * n,
            "action": ["SAVE"] * n,
            "event_timestamp": times.cast(pa.timestamp("us", tz="UTC")),
            "ingested_at": pa.nulls(n, pa.timestamp("us", tz="UTC")),
            "page": pa.array(values, pa.string() if kind == "category" else pa.float64()),
        }
        pq.write_table(pa.table({name: pa.array(column) for name, column in table.items()}), file)
    return measured(config)


def test_words_of_an_attribute(tmp_path: Path) -> None:
    got = attributed(tmp_path, ["mail", "feed"] * 5, ["mail", "new", "mail", None])
    assert got["value page=mail"].newest.value == 2 / 3
    assert got["value page=feed"].newest.value == 0
    assert got["value page=feed"].before[3] == 1 / 2
    assert got["unseen values page"].newest.value == 1 / 3
    assert set(got["unseen values page"].before.values()) == {0}
    assert got["missing page"].newest.value == 1 / 4


def test_columns_of_many_actions_are_read_from_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "SAMPLE", 20)
    got = attributed(tmp_path, ["mail", None] * 50, ["mail", None] * 50)
    assert got["rows"].newest.value == 100
    assert 5 < got["missing page"].newest.n_rows < 40
    assert 0.2 < got["missing page"].newest.value < 0.8


def index_by_hand(own: list[float], other: list[float]) -> float:
    """The population stability index of counts, half a row added to each."""
    shares = []
    for counts in (own, other):
        total = sum(counts) + len(counts) / 2
        shares.append([(count + 0.5) / total for count in counts])
    return sum((p - q) * float(np.log(p / q)) for p, q in zip(*shares, strict=True))


def test_the_stability_index_by_hand(tmp_path: Path) -> None:
    """Of words, each is a bin; of two numbers, there is a bin for each."""
    words = attributed(tmp_path / "words", ["a"] * 8 + ["b"] * 2, ["a"] * 5 + ["c"] * 5)
    got = words["stability page"]
    assert got.newest.value == pytest.approx(index_by_hand([5, 0, 5], [112, 28, 0]))
    assert got.before[4] == pytest.approx(index_by_hand([8, 2, 0], [104, 26, 0]))
    numbers = attributed(tmp_path / "numbers", [1.0] * 8 + [5.0] * 2, [1.0] * 2 + [5.0] * 8)
    assert numbers["stability page"].newest.value == pytest.approx(index_by_hand([2, 8], [112, 28]))


def test_items_that_change(config: Config) -> None:
    def values(as_of: datetime) -> dict[str, float]:
        with connect(config) as con:
            return {one.measure: one.value for one in item_measures(config, con, as_of)}

    later = AS_OF + DAY
    assert values(AS_OF) == {"known items": 2, "empty texts": 0}
    assert values(AS_OF) == {"known items": 2, "empty texts": 0}  # again: not beside itself
    items(
        config,
        *((1, OLD, "red", ["c=fish"]), (2, OLD, "other", ["c=bird"])),
        *((3, OLD, " ", []), (4, later, "not known yet", [])),
    )
    assert values(later) == {"known items": 3, "empty texts": 1 / 3, "changed items": 1 / 2}
    items(config, (1, OLD, "red", ["c=mammal"]))
    assert values(later + DAY) == {"known items": 1, "empty texts": 0, "changed items": 1}
    assert len(list(config.layout.item_marks.iterdir())) == 2


def test_vectors_by_hand(config: Config) -> None:
    """Two of three members have a vector, of lengths 3 and 1; the day before all lay elsewhere."""
    line, rows = Average(version=1), {"a": [[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]}
    rows["b"] = [[0.0, 1.0]] * 3
    for as_of, vectors, acts in (
        (AS_OF - DAY, rows["b"], [1, 1, 0]),
        (AS_OF, rows["a"], [1, 1, 1]),
    ):
        file = partition(config.layout.embeddings(line.view), as_of)
        file.parent.mkdir(parents=True)
        columns = dict.fromkeys(line.vectors(config), pa.array(vectors, pa.list_(pa.float32())))
        pq.write_table(pa.table(columns | {"n_actions": acts}), file)
    with duckdb.connect() as con:
        got = vector_measures(config, con, AS_OF, [line])
    part = "member_activity_average_v1.apply_embedding"
    values = {one.measure: one.value for one in got if one.part == part}
    assert values == pytest.approx(
        {"empty": 1 / 3, "norm": 2, "centroid shift": np.hypot(1.5, 0.5) / 2}
    )


# A run


def write_days(workspace: Workspace, first: int, last: int, per_day: int = 150) -> None:
    """Append what happens from one day after END to before another, both counted in days."""
    kinds = ("play", "play", "dismiss")
    rows = [
        f"{n % 40},g-{(n * 7 + day) % 6},{kinds[n % 3]},"
        f"{END + day * DAY + n * DAY / per_day:%Y-%m-%d %H:%M:%S}"
        for day in range(first, last)
        for n in range(per_day)
    ]
    with (workspace.root / "source" / "events.csv").open("a") as file:
        file.write("\n".join(rows) + "\n")


DECAY_THERE = 'GeometricDecay(version=1, decay=0.5, items="co_actions_v1")'
ENCODERS = ("TfidfSvd(version=1)", "CoActions(version=1)")
TELLS = "import sys; print(sys.stdin.read(), file=open('told.json', 'a'))"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A good snapshot, then a day with thrice the actions, and new lines to be fitted."""
    workspace = Workspace(tmp_path_factory.mktemp("drift"))
    events = workspace.root / "source" / "events.csv"
    events.write_text("user_id,product,event_type,ts\n")
    write_days(workspace, -20, 0)
    command = json.dumps([sys.executable, "-c", TELLS])
    workspace.setting("dim: 2", f"dim: 2\nalerts: {{command: {command}}}")
    workspace.run(END)
    write_days(workspace, 0, 1, per_day=450)
    workspace.lines(AVERAGE, DECAY_THERE, "LearnedDecay(version=1)", encoders=ENCODERS)
    workspace.run(END + DAY)
    return workspace


def told(workspace: Workspace) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workspace.root / "told.json").read_text().splitlines()]


def call(monkeypatch: pytest.MonkeyPatch, workspace: Workspace, *arguments: str) -> tuple[int, str]:
    monkeypatch.setenv(CONFIG_VARIABLE, str(workspace.root))
    ended = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["drift", *arguments])
    return ended.exit_code, re.sub(r"\s+", " ", ended.output)


def test_a_stop_pauses_fitting_and_nothing_else(
    stopped: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(stopped.config)
    assert "rows" in {str(one) for one in standing(ledger)}
    assert "drift, stop: rows is 450, expected 150" in stopped.said
    for waiting in ("co_actions_v1", "learned_decay_v1"):
        assert f"fitting is paused: {waiting} waits" in stopped.said
    assert stopped.services() == ["ranker_average_v1"]
    assert ledger.newest_published() == END + DAY  # the snapshot itself is online
    assert stopped.online("ranker_average_v1")["n_actions"] == 32
    code, said = call(monkeypatch, stopped)
    assert code == 1
    assert "Fitting is paused" in said
    assert "members" not in said
    assert "members" in call(monkeypatch, stopped, "--all")[1]
    (alerted,) = told(stopped)
    assert alerted["as_of"] == (END + DAY).isoformat()
    assert ("rows", 450.0) in [(stop["measure"], stop["value"]) for stop in alerted["stops"]]


def test_a_stop_pauses_rankers(stopped: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this one could be read: it fails as soon as somebody tries to fit it."""
    monkeypatch.setattr(train, "untrained", lambda _: ["linear_v1"])
    stopped.do("recommend", lambda stages: train.train_rankers(stopped.config, END + DAY, stages))
    assert "fitting is paused: linear_v1 waits" in stopped.said


def test_it_goes_on_when_it_is_accepted(
    stopped: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped.lines(AVERAGE, DECAY_THERE, encoders=ENCODERS)
    stopped.run(END + DAY)  # again, and it still waits
    assert stopped.services() == ["ranker_average_v1"]
    assert len(told(stopped)) == 1
    assert call(monkeypatch, stopped, "accept", "--why", " ")[0] != 0
    code, said = call(monkeypatch, stopped, "accept", "--why", "a film came out")
    assert (code, "accepted: rows is 450" in said) == (0, True)
    assert call(monkeypatch, stopped)[0] == 0
    stopped.run(END + DAY)
    assert stopped.services() == ["ranker_average_v1", "ranker_decay_v1"]


def test_it_goes_on_when_a_day_is_normal_again(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "normal")
    (workspace.root / "source" / "events.csv").write_text("user_id,product,event_type,ts\n")
    write_days(workspace, -20, 0)
    workspace.run(END)
    workspace.lines(AVERAGE, encoders=ENCODERS)
    encoders = workspace.config.layout.root / "item_encoders" / "co_actions"
    workspace.run(END + DAY)  # the source lost a day
    assert not encoders.exists()
    assert "rows is 0, expected 150" in workspace.said
    write_days(workspace, 1, 2)
    workspace.run(END + 2 * DAY)
    assert encoders.exists()
    assert standing(Ledger(workspace.config)) == []


def test_a_first_run_fits_whatever_the_day_is_like(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "first")
    (workspace.root / "source" / "events.csv").write_text("user_id,product,event_type,ts\n")
    write_days(workspace, -20, -1)
    workspace.run(END)
    assert standing(Ledger(workspace.config))
    assert workspace.services() == ["ranker_average_v1"]


def a_stop() -> Finding:
    return Finding("activity", "rows", "", "count", 0.0, 0, baseline=500.0, verdict="stop")


def test_an_alert_that_fails_is_said_and_tried_again(tmp_path: Path) -> None:
    config = configure(tmp_path, alerts={"command": "false", "webhook": "http://127.0.0.1:9/"})
    failures = alert(config, AS_OF, [a_stop()])
    assert failures[0] == "alerts.command: false ended with 1: "
    assert failures[1].startswith("alerts.webhook: ")
    missing = configure(tmp_path, alerts={"command": ["no-such-command"]})
    assert "no-such-command" in alert(missing, AS_OF, [a_stop()])[0]


def test_a_webhook_gets_json(tmp_path: Path) -> None:
    got: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        config = configure(tmp_path, alerts={"webhook": f"http://127.0.0.1:{server.server_port}/x"})
        assert alert(config, AS_OF, [a_stop()]) == []
        thread.join()
    (told,) = got
    wanted = {"measure": "rows", "part": "", "value": 0.0, "baseline": 500.0, "lowest": None}
    assert wanted.items() <= told["stops"][0].items()
    assert told["text"].startswith("Fitting is paused. rows is 0, expected 500")
