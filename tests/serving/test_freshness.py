"""How old rows are, and when an action could first be read: by snapshots and the stream alike."""

from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipelines.cli import app as cli
from serving import publish
from serving.freshness import Freshness, freshness, write_metrics
from tests.worlds.applied import World, utc
from tests.worlds.events import Event, write_activity
from tests.worlds.lines import AGGREGATORS
from transformations.config import CONFIG_VARIABLE
from transformations.errors import InputError
from transformations.names import SEQUENCE_VIEW
from transformations.stream import UTC_US

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
NOON = utc(4, 12)
VIEW = AGGREGATORS[0].view


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two snapshots, readable at 06:00; the second one online."""
    world = World(tmp_path_factory.mktemp("freshness"))
    first = [(1, "APPLY", utc(2, 23))]
    world.snapshot(utc(3), {10: first, 11: [(2, "SAVE", utc(2, 12))]}, created=utc(3, 6))
    world.snapshot(utc(4), {10: [*first, (2, "APPLY", utc(3, 12))]}, created=utc(4, 6))
    world.items("part-0", {1: utc(1), 2: utc(1)})
    write_activity(
        world.config,
        [
            Event(10, 1, "APPLY", utc(2, 23)),  # visible 7 hours later
            Event(11, 2, "SAVE", utc(2, 12)),  # 18 hours
            Event(10, 2, "APPLY", utc(3, 12)),  # 18 hours
            Event(10, 3, "VIEWED", utc(3, 13)),  # no action of the configuration
            Event(12, 3, "SAVE", utc(4, 1)),  # in no snapshot yet
        ],
    )
    store = publish.open_store(world.config)
    publish.apply(world.config, store)
    publish.publish(world.config, store, utc(4))
    return world


def figures(
    world: World,
    view: str = VIEW,
    at: datetime = NOON,
    bound: timedelta = 36 * HOUR,
    days: int = 3,
) -> Freshness:
    store = publish.open_store(world.config)
    found = freshness(world.config, store, AGGREGATORS, at, bound, at - days * DAY)
    assert [row.view for row in found] == [SEQUENCE_VIEW, *(a.view for a in AGGREGATORS)]
    return next(row for row in found if row.view == view)


def test_by_hand(world: World) -> None:
    for view in (SEQUENCE_VIEW, VIEW):
        row = figures(world, view)
        assert (row.members, row.age_p50, row.older) == (1, 12 * 3_600, 0.0)
        assert (row.actions, row.visible) == (4, 3)
        assert row.age_p99 == 12 * 3_600
        assert row.delay_p50 == 18 * 3_600
        assert row.delay_p99 == 18 * 3_600


def test_what_is_older_than_the_bound_or_not_there(world: World) -> None:
    assert figures(world, bound=11 * HOUR).older == 1.0
    # The newest snapshot at that time has two members, of which only one is online.
    row = figures(world, at=utc(3, 23))
    assert (row.members, row.older) == (2, 0.5)


def test_a_snapshot_counts_from_when_it_could_be_read(world: World) -> None:
    row = figures(world, at=utc(4, 5))
    assert (row.actions, row.visible, row.delay_p50) == (4, 2, 12.5 * 3_600)
    assert figures(world, days=1).actions == 2


def test_a_streamed_row_comes_before_the_snapshot(world: World) -> None:
    """Member 12's action was readable two seconds after it; that of member 10 after one hour."""
    folder = world.config.layout.embeddings(VIEW)
    rows = {
        "member_id": pa.array([12, 10]),
        "last_action_at": pa.array([utc(4, 1), utc(3, 12)], UTC_US),
        "created_timestamp": pa.array([utc(4, 1) + timedelta(seconds=2), utc(3, 13)], UTC_US),
    }
    file = folder / "as_of=stream-2026-03-04" / "0.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.table(rows), file)
    row, sequences = figures(world), figures(world, SEQUENCE_VIEW)
    file.unlink()  # the other tests know nothing of it
    assert (row.actions, row.visible) == (4, 4)
    assert row.delay_p50 == pytest.approx((1 + 7) / 2 * 3_600)
    assert sequences.visible == 3


def test_without_a_snapshot_there_is_nothing_to_tell(world: World) -> None:
    with pytest.raises(InputError, match="no snapshot was built yet"):
        figures(world, at=utc(2))


def test_the_command(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = world.folder / "activity.yaml"
    settings.write_text(
        f"data_dir: {world.config.data}\nfeature_store: {world.folder}/feature_store.yaml\n"
        f"items: {{text: [title]}}\ndim: {world.config.dim}\nlength: {world.config.length}\n"
    )
    monkeypatch.setenv(CONFIG_VARIABLE, str(settings))
    result = CliRunner().invoke(
        cli.app,
        ["freshness", "--at", "2026-03-04T12:00", "--prometheus", str(world.folder / "out.prom")],
        env={"COLUMNS": "120"},
    )
    assert result.exit_code == 0, result.output
    assert "12.0 h" in result.output
    assert "18.0 h" in result.output
    assert "older than 36 h" in result.output
    assert f'{VIEW}"}} 43200.0' in (world.folder / "out.prom").read_text()


def test_what_prometheus_reads(tmp_path: Path) -> None:
    row = Freshness(VIEW, 10, 60.0, 90.0, 0.25, 7, 5, 1.5, None)
    file = tmp_path / "node" / "activity.prom"
    write_metrics([row], timedelta(hours=36), file)
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    assert lines == [
        f'activity_freshness_older_ratio{{older_than="129600",view="{VIEW}"}} 0.25',
        f'activity_freshness_row_age_seconds{{quantile="0.5",view="{VIEW}"}} 60.0',
        f'activity_freshness_row_age_seconds{{quantile="0.99",view="{VIEW}"}} 90.0',
        f'activity_freshness_event_to_visible_seconds{{quantile="0.5",view="{VIEW}"}} 1.5',
    ]
