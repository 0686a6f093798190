"""Actions that the stream has read before a run staged them, by hand and against staged ones."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transformations.test_item_stats import Act, Item, config_of, write
from tests.worlds.events import AS_OF, DAY, MICROSECOND
from transformations.config import Config
from transformations.duck import connect
from transformations.layout import partition
from transformations.member_columns import UTC_US
from transformations.rules import MISSING
from transformations.stats.item_stats import build_item_stats
from transformations.stats.streamed import LATE, streamed_actions

HOUR = timedelta(hours=1)


class Row(NamedTuple):
    """A row of member_sequences that the stream wrote."""

    member: int
    readable: datetime
    acts: Sequence[tuple[int, str, datetime, float]]


def rows_of(rows: Iterable[Row], dwell: bool = True, **more: list[list[Any]]) -> pa.Table:
    rows = list(rows)
    columns: dict[str, pa.Array] = {
        "member_id": pa.array([row.member for row in rows], pa.int64()),
        "created_timestamp": pa.array([row.readable for row in rows], UTC_US),
        "event_timestamp": pa.array([row.readable for row in rows], UTC_US),
    }
    kinds = {"item_ids": pa.int64(), "actions": pa.string(), "event_timestamps": UTC_US}
    kinds |= {"dwell": pa.float64()} if dwell else {}
    for place, (name, kind) in enumerate(kinds.items()):
        lists = [[act[place] for act in row.acts] for row in rows]
        columns[name] = pa.array(lists, pa.list_(kind))
    return pa.table({**columns, **{name: pa.array(lists) for name, lists in more.items()}})


def told(config: Config, rows: pa.Table, as_of: datetime = AS_OF) -> list[dict[str, Any]]:
    with connect(config) as con:
        con.register("rows", rows)
        query = streamed_actions(config, con, "from rows", as_of)
        found: list[dict[str, Any]] = con.sql(query).to_arrow_table().to_pylist()
    return found


def test_each_action_once_since_when_it_was_known(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    ago = [AS_OF - hours * HOUR for hours in range(60)]
    nan = float("nan")
    first, second = (1, "APPLY", ago[9], 30.0), (2, "DISMISS", ago[5], nan)
    old, edge = (3, "APPLY", ago[48] - MICROSECOND, nan), (4, "APPLY", ago[48], nan)
    late = (5, "APPLY", ago[3], nan)
    staged = (6, "VIEW", ago[4], 7.0)
    write(config, [Act(1, 6, "VIEW", ago[4], 7.0), Act(2, 1, "APPLY", ago[9])], [])
    rows = [
        Row(1, ago[8], [old, edge, first]),
        Row(1, ago[2], [old, edge, first, staged, second]),
        Row(1, AS_OF, [old, edge, first, staged, second, late]),  # could not be read yet
    ]
    assert sorted(told(config, rows_of(rows)), key=lambda one: one["item_id"]) == [
        {
            "member_id": 1,
            "item_id": item,
            "action": action,
            "event_timestamp": at,
            "ingested_at": known,
            "attributes": {"dwell": None if dwell != dwell else dwell},
            "sign": {"APPLY": 1, "DISMISS": -1}[action],
        }
        for (item, action, at, dwell), known in (
            (first, ago[8]),
            (second, ago[2]),
            (edge, ago[8]),
        )
    ]


def test_what_a_row_carries(tmp_path: Path) -> None:
    """A text that is missing is null, and a sign may hang on it; older rows have no list of it."""
    look = {"sign": "neutral", "positive_if": 'place == "home"', "negative_if": "place is missing"}
    attributes = {"place": {"type": "category"}, "dwell": {"type": "number"}}
    config = config_of(tmp_path, actions={"LOOK": look}, events={"attributes": attributes})
    acts = [(item, "LOOK", AS_OF - HOUR) for item in (1, 2, 3)]
    rows = rows_of([Row(1, AS_OF - HOUR, acts)], dwell=False, place=[["home", "mail", MISSING]])
    write(config, [], [])

    def found(table: pa.Table) -> dict[int, Any]:
        return {one["item_id"]: (one["attributes"], one["sign"]) for one in told(config, table)}

    assert found(rows) == {
        1: ({"place": "home", "dwell": None}, 1),
        2: ({"place": "mail", "dwell": None}, 0),
        3: ({"place": None, "dwell": None}, -1),
    }
    before = rows_of([Row(2, AS_OF - HOUR, [(4, "LOOK", AS_OF - HOUR)])], dwell=False)
    both = pa.concat_tables([rows, before], promote_options="default")
    assert found(both)[4] == ({"place": None, "dwell": None}, -1)


def test_an_action_that_was_staged_too_late_counts_since_the_stream_knew_it(tmp_path: Path) -> None:
    config, at = config_of(tmp_path), AS_OF - 3 * HOUR
    write(config, [Act(1, 1, "APPLY", at, None, AS_OF)], [])
    rows = rows_of([Row(1, at, [(1, "APPLY", at, 1.0)])])
    assert [one["ingested_at"] for one in told(config, rows)] == [at]
    assert told(config, rows, AS_OF + HOUR) == []


def stats(config: Config, rows: pa.Table | None, **more: Any) -> list[dict[str, Any]]:
    with connect(config) as con:
        if rows is not None:
            con.register("rows", rows)
        streamed = None if rows is None else "from rows"
        build_item_stats(config, con, AS_OF, AS_OF, streamed=streamed, **more)
    file = partition(config.layout.item_stats, AS_OF)
    found: list[dict[str, Any]] = pq.read_table(file).to_pylist() if file.exists() else []
    return found


MOMENTS = st.integers(0, 47).map(lambda hours: AS_OF - hours * HOUR - HOUR)
ACTS = st.builds(
    Act,
    st.integers(1, 2),
    st.integers(1, 3),
    st.sampled_from(["APPLY", "DISMISS", "VIEW"]),
    MOMENTS,
    st.none() | st.integers(0, 9).map(float),
    st.none(),
)
WHO = st.sampled_from(["staged", "streamed", "both"])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(ACTS, WHO), max_size=10, unique_by=lambda one: one[0][:4]),
    st.integers(1, 4),
)
def test_who_told_of_an_action_makes_no_difference(acts: list[tuple[Act, str]], size: int) -> None:
    """Rows hold the last `size` actions, whoever told of them."""
    ordered = sorted((act for act, _ in acts), key=lambda act: (act.at, act.item, act.action))
    of_stream = {act for act, where in acts if where != "staged"}
    rows = []
    for member in (1, 2):
        own = [act for act in ordered if act.member == member]
        for place, act in enumerate(own, start=1):
            if act in of_stream:
                last = own[max(place - size, 0) : place]
                told_of = [
                    (*one[1:4], float("nan") if one.dwell is None else one.dwell) for one in last
                ]
                rows.append(Row(member, act.at, told_of))
    items = [Item(item, AS_OF - 9 * DAY) for item in (1, 2, 3)]
    with TemporaryDirectory() as folder:
        config = config_of(Path(folder))
        write(config, ordered, items)
        expected = stats(config, None)
        write(config, [act for act, where in acts if where != "streamed"], items)
        assert stats(config, rows_of(rows)) == expected


def test_an_item_that_only_the_stream_knows_of_is_counted_again(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    write(config, [], [Item(item, AS_OF - 9 * DAY) for item in (1, 2)])
    before = AS_OF - 2 * HOUR
    with connect(config) as con:
        build_item_stats(config, con, before, before)
    rows = rows_of([Row(1, AS_OF - HOUR, [(2, "APPLY", AS_OF - 3 * HOUR, 5.0)])])
    (row,) = stats(config, rows, only_new=True)
    assert (row["item_id"], row["n_apply_1d"], row["dwell"]) == (2, 1, 5.0)


@pytest.mark.parametrize("kind", ["int64", "string"])
def test_nothing_was_streamed_lately(tmp_path: Path, kind: str) -> None:
    config = config_of(tmp_path, id_type=kind)
    long_ago = AS_OF - LATE - HOUR
    rows = rows_of([Row(1, long_ago, [(1, "APPLY", long_ago, 1.0)])])
    if kind == "string":
        for name in ("member_id", "item_ids"):
            to = pa.string() if name == "member_id" else pa.list_(pa.string())
            rows = rows.set_column(
                rows.column_names.index(name), name, rows[name].combine_chunks().cast(to)
            )
    assert told(config, rows) == []
