"""Numbers beside the vectors: built and published by a run, read online and in a training join."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.candidates.clusters import clusters_at
from models.items.saved import fitted_until
from operations.fits import Fits
from pipelines.refresh import refresh_items
from serving.stream.offline_log import OfflineLog
from tests.pipelines.test_item_spaces import ITEMS, act, market
from tests.worlds.workspace import AVERAGE, END, Workspace
from transformations.duck import connect
from transformations.layout import partition, partitions
from transformations.names import (
    ITEM_STATS_VIEW,
    MEMBER_STATS_VIEW,
    PROFILE_VIEW,
    SEQUENCE_VIEW,
)
from transformations.stats.columns import item_stats_columns, member_stats_columns, profile_columns

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MEMBERS = (
    "members: {source: source/people.csv, id: user_id, numeric: [age], categorical: [field], "
    "available_at: since}"
)
PEOPLE = f"""user_id,age,field,since
3,30,law,{END - 10 * DAY:%Y-%m-%d}
3,31,,{END - 2 * DAY:%Y-%m-%d}
4,,art,{END - 10 * DAY:%Y-%m-%d}
5,old,art,{END - 10 * DAY:%Y-%m-%d}
6,33,art,{END + DAY:%Y-%m-%d}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = market(tmp_path_factory.mktemp("stats"), AVERAGE, encoders=("TfidfSvd(version=1)",))
    workspace.setting("fit_holdback: 3d", f"fit_holdback: 5d\n{MEMBERS}")
    (workspace.root / "source" / "people.csv").write_text(PEOPLE)
    workspace.run(END - DAY)
    workspace.backfill(END - 3 * DAY, END - 2 * DAY, END - DAY)
    workspace.run(END)
    return workspace


def online(workspace: Workspace, view: str, columns: list[str], **keys: Any) -> dict[str, Any]:
    answer = workspace.store.get_online_features(
        features=[f"{view}:{name}" for name in columns], entity_rows=[keys]
    ).to_dict()
    return {name: answer[name][0] for name in columns}


def row_of(folder: Path, as_of: datetime, key: str, value: object) -> dict[str, Any]:
    rows = pq.read_table(partition(folder, as_of)).to_pylist()
    return next(row for row in rows if row[key] == value)


def joined(workspace: Workspace, view: str, columns: list[str], **keys: list[Any]) -> pd.DataFrame:
    frame = pd.DataFrame(keys)
    frame["number"] = range(len(frame))
    job = workspace.store.get_historical_features(
        entity_df=frame,
        features=[f"{view}:{name}" for name in columns],
        filter_by_created_timestamp=True,
    )
    return job.to_df().sort_values("number").reset_index(drop=True)


class TestItems:
    def test_a_run_publishes_a_row_of_every_item(self, served: Workspace) -> None:
        config = served.config
        table = pq.read_table(partition(config.layout.item_stats, END))
        assert len(table) == ITEMS
        events = pd.read_csv(served.root / "source" / "events.csv", parse_dates=["ts"])
        since = (END - 7 * DAY).replace(tzinfo=None)
        own = events[(events["product"] == "g-4") & (events.ts >= since)]
        row = online(served, ITEM_STATS_VIEW, [*item_stats_columns(config)], item_id="g-4")
        assert row["n_play_7d"] == (own.event_type == "play").sum()
        assert row["age_days"] is None
        stored = row_of(config.layout.item_stats, END, "item_id", "g-4")
        assert row == pytest.approx({name: stored[name] for name in row})

    def test_an_item_has_a_rank_in_its_content_cluster(self, served: Workspace) -> None:
        """Those that a run finds; none before the time that the space was fitted on."""
        config = served.config
        config = config.in_space(Fits(config).space)
        with connect(config) as con:
            clusters = clusters_at(config, con, END)
        assert clusters is not None
        cluster_of = dict(zip(*clusters.to_pydict().values(), strict=True))
        assert set(cluster_of) == {f"g-{item}" for item in range(ITEMS)}
        table = pq.read_table(partition(config.layout.item_stats, END)).to_pylist()
        rank = {row["item_id"]: row["popularity_rank"] for row in table}
        for row in table:
            own = cluster_of[row["item_id"]]
            better = [i for i in rank if cluster_of[i] == own and rank[i] < rank[row["item_id"]]]
            assert row["cluster_rank"] == 1 + len(better)
        assert {row["cluster_rank"] for row in table} > {1}
        fitted = fitted_until(config)
        assert fitted is not None
        for as_of in (END - 3 * DAY, END - 2 * DAY, END - DAY):
            row = row_of(config.layout.item_stats, as_of, "item_id", "g-4")
            assert (row["cluster_rank"] is None) == (as_of < fitted), as_of

    def test_a_label_sees_what_could_be_read_at_its_time(self, served: Workspace) -> None:
        config, columns = served.config, ["n_play_1d", "positive_share"]
        delay = config.publish_delay
        edge = END - 2 * DAY + delay
        times = [END - 4 * DAY, edge - timedelta(microseconds=1), edge]
        rows = joined(served, ITEM_STATS_VIEW, columns, item_id=["g-4"] * 3, event_timestamp=times)
        assert rows.loc[0, columns].isna().all()
        for number, as_of in ((1, END - 3 * DAY), (2, END - 2 * DAY)):
            stored = row_of(config.layout.item_stats, as_of, "item_id", "g-4")
            assert dict(rows.loc[number, columns]) == {name: stored[name] for name in columns}

    def test_a_published_row_is_readable_since_it_was_published(self, served: Workspace) -> None:
        folder = served.config.layout.item_stats
        kept, live = (
            pq.read_table(partition(folder, as_of))["created_timestamp"][0].as_py()
            for as_of in (END - 2 * DAY, END - DAY)
        )
        assert kept == END - 2 * DAY + served.config.publish_delay
        assert live > END + DAY  # when the test runs


class TestMembers:
    def test_a_run_publishes_a_row_of_every_member(self, served: Workspace) -> None:
        config = served.config
        events = pd.read_csv(served.root / "source" / "events.csv", parse_dates=["ts"])
        since = (END - config.window).replace(tzinfo=None)
        own = events[(events.user_id == 3) & (events.ts >= since)].drop_duplicates()
        row = online(served, MEMBER_STATS_VIEW, [*member_stats_columns(config)], member_id=3)
        assert row["distinct_items"] == own["product"].nunique()
        assert row["share_play"] == pytest.approx((own.event_type == "play").mean())
        assert row["last_acted_at"] == own.ts.max().tz_localize("UTC").to_pydatetime()
        stored = row_of(config.layout.member_stats, END, "member_id", 3)
        assert row == {name: stored[name] for name in row}

    def test_a_label_sees_what_could_be_read_at_its_time(self, served: Workspace) -> None:
        config, columns = served.config, ["n_sessions", "share_play", "last_session_at"]
        edge = END - 2 * DAY + config.publish_delay
        times = [END - 4 * DAY, edge - timedelta(microseconds=1), edge]
        rows = joined(served, MEMBER_STATS_VIEW, columns, member_id=[3] * 3, event_timestamp=times)
        assert rows.loc[0, columns].isna().all()
        for number, as_of in ((1, END - 3 * DAY), (2, END - 2 * DAY)):
            stored = row_of(config.layout.member_stats, as_of, "member_id", 3)
            assert dict(rows.loc[number, columns]) == {name: stored[name] for name in columns}

    def test_a_snapshot_of_before_statistics_gets_them(self, served: Workspace) -> None:
        config = served.config
        file = partition(config.layout.member_stats, END - DAY)
        wanted = pq.read_table(file).to_pylist()
        file.unlink()
        served.backfill(END - DAY)
        assert pq.read_table(file).to_pylist() == wanted


class TestProfiles:
    def test_a_run_publishes_the_newest_and_null_stays_null(self, served: Workspace) -> None:
        columns = [*profile_columns(served.config)]
        assert columns == ["age", "field"]
        expected = {3: (31.0, None), 4: (None, "art"), 5: (None, None), 6: (None, None)}
        for member, values in expected.items():
            row = online(served, PROFILE_VIEW, columns, member_id=member)
            assert tuple(row.values()) == values, member

    def test_a_label_sees_the_row_of_its_time(self, served: Workspace) -> None:
        since = END - 2 * DAY
        times = [END - 11 * DAY, since - timedelta(microseconds=1), since]
        frame = joined(
            served, PROFILE_VIEW, ["age", "field"], member_id=[3] * 3, event_timestamp=times
        )
        rows = frame[["age", "field"]].astype(object).where(frame[["age", "field"]].notna(), None)
        assert rows.to_numpy().tolist() == [[None, None], [30.0, "law"], [31.0, None]]

    def test_what_changes_under_the_same_time_is_published(self, served: Workspace) -> None:
        people = PEOPLE.replace("3,31,", "3,32,")
        (served.root / "source" / "people.csv").write_text(people)
        served.run(END)
        row = online(served, PROFILE_VIEW, ["age"], member_id=3)
        assert row == {"age": 32.0}


def test_between_two_runs_items_are_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    clock = iter(now + hours * HOUR for hours in range(9))

    monkeypatch.setattr("pipelines.refresh.clock", SimpleNamespace(now=lambda: next(clock)))
    workspace = market(tmp_path, AVERAGE, encoders=("TfidfSvd(version=1)",))
    workspace.run(END)
    folder = workspace.config.layout.item_stats

    def refreshed() -> tuple[int, set[str]]:
        workspace.do("items refresh", lambda stages: refresh_items(workspace.config, stages))
        built = partitions(folder)
        table = pq.read_table(partition(folder, built[-1]))
        return len(built), set(table["item_id"].to_pylist())

    assert refreshed() == (2, {f"g-{item}" for item in range(ITEMS)})  # the run was of long ago
    assert refreshed()[0] == 2  # nothing happened
    act(workspace, f"3,g-7,play,{now + HOUR * 1.5:%Y-%m-%d %H:%M:%S}")
    assert refreshed() == (3, {"g-7"})
    row = online(workspace, ITEM_STATS_VIEW, ["n_play_1d", "popularity_rank"], item_id="g-7")
    assert row == {"n_play_1d": 1, "popularity_rank": 1}
    # What the stream has read counts, from a part or a spool, until a run stages it.
    log = OfflineLog(workspace.config, "worker")
    log.append(SEQUENCE_VIEW, streamed(workspace, "g-8", now + HOUR * 2.5))
    log.flush()
    log.append(SEQUENCE_VIEW, streamed(workspace, "g-9", now + HOUR * 2.5))
    assert refreshed() == (4, {"g-8", "g-9"})
    log.close()
    assert refreshed()[0] == 4
    act(workspace, f"3,g-9,play,{now + HOUR * 2.5:%Y-%m-%d %H:%M:%S.%f}")
    act(workspace, f"4,g-9,play,{now + HOUR * 4.5:%Y-%m-%d %H:%M:%S}")
    assert refreshed() == (5, {"g-9"})
    for item, count in (("g-8", 1), ("g-9", 2)):
        assert online(workspace, ITEM_STATS_VIEW, ["n_play_1d"], item_id=item) == {
            "n_play_1d": count
        }


def streamed(workspace: Workspace, item: str, at: datetime) -> pa.RecordBatch:
    """A row that the stream writes: member 3 has played an item."""
    with pq.ParquetFile(partition(workspace.config.layout.sequences, END)) as file:
        (row,), schema = file.read().slice(0, 1).to_pylist(), file.schema_arrow
    row |= {"member_id": 3, "event_timestamp": at, "created_timestamp": at + timedelta(seconds=1)}
    row |= {"item_ids": [item], "actions": ["play"], "event_timestamps": [at]}
    return pa.RecordBatch.from_pylist([row], schema)
