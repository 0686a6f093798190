"""The measures of drift on tables by hand."""

import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from models.rankers.lines import BoostedTrees, Linear
from models.spec import Average
from pipelines.drift import measure, rankers
from pipelines.drift.measure import Series, activity_series, item_measures
from pipelines.drift.vectors import kept_neighbours, told_apart, vector_measures
from serving.recommend.impressions import schema
from tests.worlds.events import AS_OF, DAY, Event, configure, write_activity
from transformations.config import Config
from transformations.duck import connect
from transformations.layout import partition

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
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
    # Member 1 acts twice in two hours, member 2 at midnight and 21 hours later.
    assert newest["session actions"] == 1
    assert "session minutes" not in newest  # none has a length
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


def test_sessions_by_hand(config: Config) -> None:
    """Three actions within 40 minutes, no two 30 apart, and two that are."""
    minutes = [1, 21, 41, 71]
    days = [Event(1, 1, "SAVE", AS_OF - back * DAY) for back in range(2, 17)]
    today = [Event(1, n, "SAVE", AS_OF - timedelta(minutes=m)) for n, m in enumerate(minutes)]
    write_activity(config, [*days, *today, Event(2, 1, "SAVE", AS_OF - HOUR)])
    got = measured(config)
    assert got["session actions"].newest.value == pytest.approx(5 / 3)
    assert got["session actions"].newest.n_rows == 3
    assert got["session actions"].newest.error == pytest.approx(
        np.std([3, 1, 1], ddof=1) / 5 * 3**0.5
    )
    assert got["session minutes"].newest.value == pytest.approx(40 / 3)


def attributed(tmp_path: Path, before: list[Any], newest: list[Any]) -> dict[str, Series]:
    """Measure an attribute whose values lie on each of 14 days, and on the newest."""
    kind, unit = ("category", "") if isinstance(before[0], str) else ("number", "s")
    config = configure(
        tmp_path, events={"attributes": {"page": {"type": kind, "unit": unit}}}, drift={"days": 14}
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
    expected = np.array([112.5, 28.5, 0.5]) / 141.5
    shares = np.array([5.5, 0.5, 5.5]) / 11.5
    effect = np.sqrt(np.sum((shares - expected) ** 2 / expected))
    assert words["chi-square page"].newest.value == pytest.approx(effect)
    assert "ks distance page" not in words
    numbers = attributed(tmp_path / "numbers", [1.0] * 8 + [5.0] * 2, [1.0] * 2 + [5.0] * 8)
    assert numbers["ks distance page"].newest.value == pytest.approx(0.6)
    assert numbers["ks distance page"].before[3] == pytest.approx(0)
    assert numbers["mean page"].newest.value == pytest.approx(5**0.8)
    assert "chi-square page" not in numbers
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
        ids = {"member_id": range(len(acts)), "n_actions": acts}
        pq.write_table(pa.table(columns | {k: pa.array(v) for k, v in ids.items()}), file)
    with duckdb.connect() as con:
        got = vector_measures(config, con, AS_OF, [line])
    part = "member_activity_average_v1.apply_embedding"
    values = {one.measure: one.value for one in got if one.part == part}
    assert values == pytest.approx(
        {"empty": 1 / 3, "norm": 2, "centroid shift": np.hypot(1.5, 0.5) / 2}
    )


def test_neighbours_that_stay_by_hand() -> None:
    """40 members on a line; then one of the nearest ten of each lies elsewhere."""
    angles = np.linspace(0, 1, 40)
    before = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert kept_neighbours(before, before) == (1, 400)
    assert kept_neighbours(before, 3 * before[:, ::-1]) == (1, 400)  # turned, and longer
    alike = np.ones((40, 2), np.float32)
    assert kept_neighbours(alike, alike) == (1, 400)
    shuffled = before[np.random.default_rng(0).permutation(40)]
    assert kept_neighbours(before, shuffled)[0] < 0.5
    moved = before.copy()
    moved[-1] *= -1  # five had it among their ten, and it has other ten
    assert kept_neighbours(before, moved)[0] == pytest.approx(1 - (5 + 10) / 400)


@pytest.mark.parametrize(
    ("shift", "scale", "least", "most"), [(0, 1, 0.4, 0.6), (1, 1, 0.7, 1), (0, 3, 0.7, 1)]
)
def test_weeks_that_a_classifier_tells_apart(
    shift: float, scale: float, least: float, most: float
) -> None:
    """By another mean, or by another width."""
    random = np.random.default_rng(1)
    before = random.normal(size=(500, 4)).astype(np.float32)
    after = (scale * random.normal(size=(400, 4)) + shift).astype(np.float32)
    assert least < told_apart(before, after) < most


def snapshots(config: Config, line: Average, made: Mapping[int, NDArray[np.float64]]) -> None:
    """Write vectors of the members 0, 1, … by how many days before."""
    for back, vectors in made.items():
        file = partition(config.layout.embeddings(line.view), AS_OF - back * DAY)
        file.parent.mkdir(parents=True)
        lists = pa.array(list(vectors), pa.list_(pa.float32()))
        columns = dict.fromkeys(line.vectors(config), lists)
        ids = {"member_id": np.arange(len(vectors)), "n_actions": np.ones(len(vectors), int)}
        pq.write_table(pa.table(columns | {k: pa.array(v) for k, v in ids.items()}), file)


def test_weights_that_change_under_one_name_and_a_new_fit(config: Config) -> None:
    """The same members beside those of yesterday and of a week ago; another fit has no past."""
    random, line = np.random.default_rng(2), Average(version=1)
    usual = random.normal(size=(600, 8))
    other = np.tanh(usual @ random.normal(size=(8, 8)) + 1)
    part = f"{line.view}.apply_embedding"

    def values(of: Average) -> dict[str, float]:
        with duckdb.connect() as con:
            got = vector_measures(config, con, AS_OF, [of])
        return {one.measure: one.value for one in got if one.part.endswith("apply_embedding")}

    snapshots(config, line, {8: usual, 7: usual[::-1], 1: usual, 0: usual})
    got = values(line)
    assert got["kept neighbours"] == 1
    assert 0.4 < got["told apart"] < 0.6
    shutil.rmtree(partition(config.layout.embeddings(line.view), AS_OF).parent)
    snapshots(config, line, {0: other})
    got = values(line)
    assert got["kept neighbours"] < 0.9
    assert got["told apart"] > 0.7
    again = line.of_fit(2, line.config_of(config).space)
    assert part not in again.view
    snapshots(config, again, {0: other})
    assert set(values(again)) == {"empty", "norm"}


def show(config: Config, rows: Sequence[tuple[int, datetime, str, float | None]]) -> None:
    """Write impressions: item, when, the ranker, the score; of member 1."""
    columns = schema(config)
    told = [
        {"request_id": f"r{n}", "member_id": 1, "item_id": item, "position": 0}
        | {"shown_at": at, "ranker": ranker, "score": score, "path": "ranked"}
        for n, (item, at, ranker, score) in enumerate(rows)
    ]
    arrays = [pa.array([row.get(field.name) for row in told], field.type) for field in columns]
    file = config.layout.impressions / "period=2026-03-01" / "part.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.table(arrays, schema=columns), file)


def test_what_rankers_scored_by_hand(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Yesterday's scores beside those before; of the day before yesterday, what came of it."""
    lines = [Linear(version=1, weights=(("APPLY", 1.0),)), BoostedTrees(version=1)]
    monkeypatch.setattr(rankers, "made", lambda *_: lines)
    monkeypatch.setattr(rankers, "ranker_lines", lambda _: lines)
    assert ranker_scores(config) == {}
    scores = {1: [0.9] * 8 + [0.1] * 2, 2: [0.1, 0.1, 0.7, 0.7]}
    scores |= {back: [0.9] * 2 + [0.1] * 8 for back in range(3, 6)}
    show(
        config,
        [
            (item, AS_OF - back * DAY + HOUR + place * MINUTE, ranker, score)
            for back, scored in scores.items()
            for item, score in enumerate(scored)
            # What came of an item belongs to who showed it last.
            for place, ranker in enumerate(("boosted_trees_v1", "linear_v1"))
        ]
        + [(1, AS_OF - HOUR, "linear_v1_f2", 0.4), (1, AS_OF - HOUR, "votes", None)],
    )
    write_activity(
        config,
        [
            Event(1, 2, "APPLY", AS_OF - 2 * DAY + 2 * HOUR),
            Event(1, 3, "SAVE", AS_OF - 2 * DAY + 2 * HOUR),
            Event(1, 0, "APPLY", AS_OF - HOUR),  # another day's
        ],
    )
    got = ranker_scores(config)
    at_most = 3 * 8 + 4  # of 34 before, up to 0.7
    for ranker in ("linear_v1", "boosted_trees_v1"):
        wanted = at_most / 34 - 2 / 10
        assert got[f"ks distance {ranker}"].newest.value == pytest.approx(wanted)
        assert got[f"stability {ranker}"].newest.value > 0.5
        assert set(got[f"stability {ranker}"].before) == {2 - 1, 3 - 1, 4 - 1, 5 - 1}
    assert got["ks distance linear_v1"].newest.about == "rankers"
    assert "ks distance linear_v1_f2" not in got  # a new fit has no past
    assert "calibration boosted_trees_v1" not in got  # its scores are no probabilities
    calibration = got["calibration linear_v1"].newest
    outcomes = np.array([0, 0, 1, 0])
    scale = np.sqrt(outcomes.var() + 0.5 / 4)
    assert calibration.value == pytest.approx((0.4 - 0.25) / scale)
    assert calibration.error == pytest.approx(np.std(scores[2] - outcomes) / 2 / scale)
    assert calibration.n_rows == 4


def ranker_scores(config: Config) -> dict[str, Series]:
    with connect(config) as con:
        series = rankers.ranker_series(config, con, AS_OF)
    return {f"{one.newest.measure} {one.newest.part}": one for one in series}
