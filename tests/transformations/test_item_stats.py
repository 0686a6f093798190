"""`item_stats`: counts, shares and ranks of items, against tables by hand and plain Python."""

import math
import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds.events import AS_OF, DAY, MICROSECOND, configure
from transformations.config import Config
from transformations.duck import check, connect
from transformations.errors import InputError, RunFailedError
from transformations.layout import partition
from transformations.member_columns import UTC_US
from transformations.stats.columns import duration, item_stats_columns
from transformations.stats.item_stats import build_item_stats

ACTIONS = {"APPLY": "positive", "DISMISS": "negative", "VIEW": "neutral"}


class Act(NamedTuple):
    """One action."""

    member: int
    item: int
    action: str
    at: datetime
    dwell: float | None = None
    ingested_at: datetime | None = None


class Item(NamedTuple):
    """One version of an item."""

    item: int
    since: datetime
    category: str | None = None
    kind: str | None = None


def config_of(folder: Path, **more: Any) -> Config:
    return configure(
        folder,
        **{
            "actions": ACTIONS,
            "events": {"attributes": {"dwell": {"type": "number", "unit": "s"}}},
            "items": {"text": ["title"], "categories": ["field"], "available_at": "posted"},
        }
        | more,
    )


def write(config: Config, acts: Sequence[Act], items: Sequence[Item]) -> None:
    columns = list(zip(*acts, strict=True)) or [[]] * len(Act._fields)
    kinds = [pa.int64(), pa.int64(), pa.string(), UTC_US, pa.float64(), UTC_US]
    names = ["member_id", "item_id", "action", "event_timestamp", "dwell", "ingested_at"]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    file = config.layout.activity / "period=2026-01-01" / "part-0.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays, names), file)
    config.layout.staged_items.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table(
            {
                "item_id": pa.array([one.item for one in items], pa.int64()),
                "available_at": pa.array([one.since for one in items], UTC_US),
                "available_until": pa.array([None for _ in items], UTC_US),
                "kind": pa.array([one.kind for one in items], pa.string()),
                "categories": pa.array(
                    [["other=x", f"field={one.category}"] if one.category else [] for one in items],
                    pa.list_(pa.string()),
                ),
            }
        ),
        config.layout.staged_items,
    )


def built(
    config: Config,
    as_of: datetime = AS_OF,
    clusters: Mapping[int, int] | None = None,
    **more: Any,
) -> dict[int, dict[str, Any]]:
    kinds = pa.schema([("item_id", pa.int64()), ("cluster", pa.int64())])
    pairs = [{"item_id": item, "cluster": cluster} for item, cluster in (clusters or {}).items()]
    given = None if clusters is None else pa.Table.from_pylist(pairs, kinds)
    with connect(config) as con:
        report = build_item_stats(config, con, as_of, as_of, clusters=given, **more)
    file = partition(config.layout.item_stats, as_of)
    rows = pq.read_table(file).to_pylist() if file.exists() else []
    assert report.rows_out == len(rows)
    return {row["item_id"]: row for row in rows}


def test_one_row_of_each_item_by_hand(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    ago = [AS_OF - timedelta(days=days) for days in range(40)]
    write(
        config,
        [
            Act(1, 1, "APPLY", AS_OF - MICROSECOND, 10.0),
            Act(1, 1, "APPLY", ago[1], 30.0),  # the day begins with its first moment
            Act(2, 1, "DISMISS", ago[1] - MICROSECOND, 20.0),
            Act(3, 1, "APPLY", ago[7] - MICROSECOND),
            Act(4, 1, "VIEW", ago[28] - MICROSECOND, 900.0),  # too long ago for all but the share
            Act(4, 1, "APPLY", ago[30]),
            Act(5, 1, "APPLY", AS_OF),  # not yet
            Act(6, 1, "APPLY", ago[2], None, AS_OF),  # not known yet
            Act(1, 9, "DISMISS", ago[3]),  # an item that is not staged
        ],
        [
            Item(1, ago[10], "law"),
            Item(1, ago[20], "art"),
            Item(2, ago[5], "law"),
            Item(3, AS_OF + MICROSECOND, "law"),
            Item(4, ago[5], None, "search"),
        ],
    )
    rows = built(config, clusters={1: 7, 9: 7, 3: 7})
    assert set(rows) == {1, 2, 9}
    one = rows[1]
    assert list(one)[3:] == list(item_stats_columns(config))
    assert [one[f"n_apply_{days}d"] for days in (1, 7, 28)] == [2, 2, 3]
    assert [one[f"n_dismiss_{days}d"] for days in (1, 7, 28)] == [0, 1, 1]
    assert one["n_view_28d"] == 0
    assert one["positive_share"] == pytest.approx((4 + 1.6) / (5 + 2))
    assert one["trend"] == pytest.approx(math.log((2 + 1) / (1 / 3 + 1)))
    assert one["distinct_members_28d"] == 3
    assert one["age_days"] == 20
    assert one["dwell"] == 20.0
    assert (one["popularity_rank"], one["category_rank"], one["cluster_rank"]) == (1, 1, 1)
    assert one["event_timestamp"] == one["created_timestamp"] == AS_OF
    quiet = rows[2]
    assert quiet["positive_share"] == 0.8  # the prior
    assert (quiet["n_apply_28d"], quiet["trend"], quiet["dwell"]) == (0, 0, None)
    assert (quiet["popularity_rank"], quiet["category_rank"]) == (2, 2)
    assert quiet["cluster_rank"] is None  # it is in none
    unknown = rows[9]
    assert (unknown["age_days"], unknown["category_rank"]) == (None, None)
    assert unknown["cluster_rank"] == 2
    assert unknown["positive_share"] == pytest.approx(1.6 / 3)
    assert {row["cluster_rank"] for row in built(config).values()} == {None}


def test_what_the_configuration_lacks_has_no_column_and_no_age(tmp_path: Path) -> None:
    config = config_of(tmp_path, events={}, items={"text": ["title"]})
    assert not {"dwell", "category_rank"} & set(item_stats_columns(config))
    write(config, [], [Item(1, datetime(1970, 1, 1, tzinfo=AS_OF.tzinfo))])
    assert built(config)[1]["age_days"] is None


def test_a_text_is_no_item(tmp_path: Path) -> None:
    config = config_of(tmp_path, actions={"APPLY": "positive", "SEARCH": {"text": "query"}})
    assert not any("search" in name for name in item_stats_columns(config))
    write(config, [Act(1, -5, "SEARCH", AS_OF - DAY)], [Item(-5, AS_OF - DAY, None, "search")])
    assert built(config) == {}
    assert not partition(config.layout.item_stats, AS_OF).exists()


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"dwell": {"type": "number", "unit": "Seconds"}}, "dwell"),
        ({"price": {"type": "number"}, "read": {"type": "number", "unit": "s"}}, "read"),
        ({"dwell": {"type": "number", "unit": "min"}}, None),
        ({"dwell": {"type": "category", "unit": "s"}}, None),
    ],
)
def test_a_duration_is_a_number_in_seconds(
    tmp_path: Path, attributes: dict[str, Any], expected: str | None
) -> None:
    config = config_of(tmp_path, events={"attributes": attributes})
    assert duration(config) == expected
    assert ("dwell" in item_stats_columns(config)) == (expected is not None)


def test_between_two_runs_only_what_something_happened_to(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    later = AS_OF + DAY / 4
    items = [Item(item, AS_OF - 9 * DAY) for item in (1, 2, 3)]
    acts = [Act(1, item, "APPLY", AS_OF - DAY) for item in (1, 2)]
    write(config, acts, items)
    assert set(built(config)) == {1, 2, 3}
    assert built(config, later, only_new=True) == {}
    acts += [
        Act(2, 2, "APPLY", AS_OF + DAY / 8),
        Act(3, 3, "APPLY", AS_OF - DAY, None, AS_OF + DAY / 8),  # it arrived late
    ]
    write(config, acts, [*items, Item(4, AS_OF + DAY / 8)])
    rows = built(config, later, only_new=True)
    assert set(rows) == {2, 3, 4}
    assert rows[2]["distinct_members_28d"] == 2
    assert [rows[item]["popularity_rank"] for item in (2, 3, 4)] == [1, 2, 4]
    assert set(built(config, later)) == {1, 2, 3, 4}


def test_no_staged_item_is_said(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    with connect(config) as con, pytest.raises(InputError, match="first: activity run"):
        build_item_stats(config, con, AS_OF, AS_OF)


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        ("null as item_id", "item_id is not null"),
        ("timestamptz '2026-03-01' as event_timestamp", "event_timestamp is as_of"),
        ("timestamptz '2026-03-01' as created_timestamp", "not before as_of"),
        ("9.0 as n_apply_1d", "more of them lie in more days"),
        ("9.0 as distinct_members_28d", "at most as many as actions"),
        ("1.5 as positive_share", "between 0 and 1"),
        ("'nan'::double as trend", "trend is finite"),
        ("-1.0 as age_days", "not negative"),
        ("null as popularity_rank", "begins with 1"),
    ],
)
def test_the_check_finds_a_broken_row(tmp_path: Path, broken: str, rule: str) -> None:
    config = config_of(tmp_path)
    write(config, [Act(1, 1, "APPLY", AS_OF - DAY)], [Item(1, AS_OF - DAY)])
    built(config)
    file = partition(config.layout.item_stats, AS_OF)
    counts = {f"counts_{days}d": [f"n_apply_{days}d"] for days in (1, 7, 28)}
    with connect(config) as con:
        con.execute(f"create view item_stats as select * replace ({broken}) from '{file}'")
        with pytest.raises(RunFailedError, match=rule):
            check(con, "item_stats", {"as_of": AS_OF, **counts})
        con.execute(f"create or replace view item_stats as from '{file}' union all from '{file}'")
        with pytest.raises(RunFailedError, match="one row of each item"):
            check(con, "item_stats", {"as_of": AS_OF, **counts})


edges = [AS_OF - timedelta(days=days) for days in (0, 1, 7, 28, 60)]
moments = st.builds(
    lambda edge, by: edge + by * MICROSECOND, st.sampled_from(edges), st.sampled_from([-1, 0, 1])
)
acts = st.builds(
    Act,
    member=st.integers(1, 3),
    item=st.integers(1, 4),
    action=st.sampled_from([*ACTIONS]),
    at=moments,
    dwell=st.none() | st.integers(0, 9).map(float),
    ingested_at=st.none() | moments,
)
versions = st.builds(Item, st.integers(1, 5), moments, st.sampled_from([None, "law", "art"]))


@settings(max_examples=60, deadline=None)
@given(
    done=st.lists(acts, max_size=25),
    items=st.lists(versions, max_size=6, unique_by=lambda one: (one.item, one.since)),
    clusters=st.dictionaries(st.integers(1, 6), st.integers(0, 2)),
)
def test_the_query_is_the_rule(
    done: list[Act], items: list[Item], clusters: dict[int, int]
) -> None:
    with TemporaryDirectory() as folder:
        config = config_of(Path(folder))
        write(config, done, items)
        rows = built(config, clusters=clusters)
    wanted = expected(done, items, clusters)
    assert set(rows) == set(wanted)
    for item, row in wanted.items():
        for name, value in row.items():
            got = rows[item][name]
            assert got == (None if value is None else pytest.approx(value)), (item, name)


def expected(
    done: list[Act], items: list[Item], clusters: dict[int, int]
) -> dict[int, dict[str, float | None]]:
    """The rule in plain Python, one item after the other."""
    seen = [
        one for one in done
        if one.at < AS_OF and (one.ingested_at is None or one.ingested_at < AS_OF)
    ]  # fmt: skip
    known = sorted((one for one in items if one.since <= AS_OF), key=lambda one: one.since)
    category = {one.item: one.category for one in known}
    ids = {one.item for one in seen} | set(category)

    def within(item: int, days: int) -> list[Act]:
        return [x for x in seen if x.item == item and x.at >= AS_OF - timedelta(days=days)]

    liked = {i: len({x.member for x in within(i, 28) if x.action == "APPLY"}) for i in ids}
    rows: dict[int, dict[str, float | None]] = {}
    for item in ids:
        own, month = within(item, 10_000), within(item, 28)
        row: dict[str, float | None] = {
            f"n_{action.lower()}_{days}d": sum(x.action == action for x in within(item, days))
            for action in ACTIONS
            for days in (1, 7, 28)
        }
        applied = sum(x.action == "APPLY" for x in own)
        judged = applied + sum(x.action == "DISMISS" for x in own)
        row["positive_share"] = (applied + 1.6) / (judged + 2)
        week, four = row["n_apply_7d"] or 0, row["n_apply_28d"] or 0
        row["trend"] = math.log((week + 1) / ((four - week) / 3 + 1))
        row["distinct_members_28d"] = len({x.member for x in month})
        since = [one.since for one in known if one.item == item]
        row["age_days"] = (AS_OF - min(since)) / DAY if since else None
        times = [x.dwell for x in month if x.dwell is not None]
        row["dwell"] = statistics.median(times) if times else None
        row["popularity_rank"] = 1 + sum(liked[i] > liked[item] for i in ids)
        same = [i for i in ids if category.get(i) == category.get(item)]
        of_category = 1 + sum(liked[i] > liked[item] for i in same)
        row["category_rank"] = of_category if category.get(item) else None
        near = [i for i in ids if i in clusters and clusters[i] == clusters.get(item)]
        of_cluster = 1 + sum(liked[i] > liked[item] for i in near)
        row["cluster_rank"] = of_cluster if item in clusters else None
        rows[item] = row
    return rows
